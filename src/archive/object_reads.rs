//! Reads objects: small ones at once, large ones as a stream. The stream is decompressed while the reader works.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};

use super::{Archive, ArchiveError, DOCUMENT_LIMIT, RawStream};
use crate::runtime;
use crate::runtime::pipe::{Receiver, Sender, pipe};
use crate::store::{ByteStream, Listing, ObjectMeta, StoreError};

/// Pieces that are fetched before the decoder asks for them (half a MiB each from our stores).
const FETCH_AHEAD: usize = 2;

/// Decompressed pieces (at most a zstd frame each) that wait for the consumer.
const DECODE_AHEAD: usize = 1;

/// Compressed bytes that are pushed at once: several of zstd's blocks, because it copies blocks that are cut. Between
/// two pushes the decoder notices that nobody listens any more.
const PUSH_BYTES: usize = 512 << 10;

/// Turns an object's bytes into raw ones.
pub(super) trait Decode: Send + 'static {
    /// Takes in bytes; `out` gets raw ones.
    fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(Bytes)) -> Result<(), ArchiveError>;
    /// The object has ended: was all right?
    fn finish(self) -> Result<(), ArchiveError>;
}

/// Fetches, decodes (on the blocking pool) and hands out at the same time. Each step is ahead of the next by a bounded
/// amount. Dropping the stream ends all of them.
pub(super) fn decode_stream(mut source: ByteStream, decoder: impl Decode) -> RawStream {
    #[cfg(test)]
    if runtime::simulated::is_on() {
        return decode_here(source, decoder);
    }
    let (fetched, to_decode) = pipe(FETCH_AHEAD);
    runtime::spawn(async move {
        while let Some(piece) = source.next().await {
            if fetched.send(piece).await.is_err() {
                return;
            }
        }
        fetched.end().await;
    });
    let (decoded, ready) = pipe(DECODE_AHEAD);
    tokio::task::spawn_blocking(move || match decode(to_decode, decoder, &decoded) {
        Ok(()) => decoded.blocking_end(),
        Err(error) => send(&decoded, Err(error)),
    });
    ready.into_stream()
}

/// Decodes all pieces, or stops when nobody listens any more.
fn decode(
    mut pieces: Receiver<Result<Bytes, StoreError>>,
    mut decoder: impl Decode,
    decoded: &Sender<Piece>,
) -> Result<(), ArchiveError> {
    while let Some(piece) = pieces.blocking_next()? {
        for part in piece?.chunks(PUSH_BYTES) {
            decoder.push(part, &mut |raw| send(decoded, Ok(raw)))?;
            if decoded.is_closed() {
                return Ok(());
            }
        }
    }
    decoder.finish()
}

/// The same without threads, for what is short, and for the simulation.
pub(super) fn decode_here(source: ByteStream, decoder: impl Decode) -> RawStream {
    let pieces = stream::unfold(Some((source, decoder)), |state| async move {
        let (mut source, mut decoder) = state?;
        let mut pieces: Vec<Piece> = Vec::new();
        let pushed = match source.next().await {
            None => {
                pieces.extend(decoder.finish().err().map(Err));
                return Some((pieces, None));
            }
            Some(Ok(bytes)) => decoder.push(&bytes, &mut |raw| pieces.push(Ok(raw))),
            Some(Err(error)) => Err(error.into()),
        };
        let failed = pushed.is_err();
        pieces.extend(pushed.err().map(Err));
        Some((pieces, (!failed).then_some((source, decoder))))
    });
    pieces.flat_map(stream::iter).fuse().boxed()
}

type Piece = Result<Bytes, ArchiveError>;

/// Sends to a listener that may have ended.
fn send(to: &Sender<Piece>, piece: Piece) {
    let _ = to.blocking_send(piece);
}

impl Archive {
    /// A whole object, unless it is longer than a document may be. None: it is not there.
    pub(super) async fn read_document(&self, object: &str) -> Result<Option<Bytes>, ArchiveError> {
        let limit = DOCUMENT_LIMIT as u64;
        let found = self.read_range(object, limit.saturating_add(1)).await?;
        match found {
            Some(bytes) if bytes.len() > DOCUMENT_LIMIT => Err(ArchiveError::damaged(
                object,
                format!("it is longer than a document can be ({limit} bytes)"),
            )),
            other => Ok(other),
        }
    }

    /// The first `length` bytes of an object, or as many as it has. None: it is not there.
    pub(super) async fn read_range(
        &self,
        object: &str,
        length: u64,
    ) -> Result<Option<Bytes>, ArchiveError> {
        let mut source = match self.store.read(object, Some(0..length)).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        let mut first = source.try_next().await?.unwrap_or_default();
        let mut all = BytesMut::new();
        while let Some(next) = source.try_next().await? {
            if !first.is_empty() {
                all.extend_from_slice(&std::mem::take(&mut first));
            }
            all.extend_from_slice(&next);
        }
        Ok(Some(if all.is_empty() { first } else { all.freeze() }))
    }

    /// The bytes of an object that should be there.
    pub(super) async fn read_existing(&self, object: &str) -> Result<ByteStream, ArchiveError> {
        match self.store.read(object, None).await {
            Err(StoreError::NotFound { name }) => Err(ArchiveError::Missing { object: name }),
            other => Ok(other?),
        }
    }

    /// The stored size of an object that should be there.
    pub(super) async fn size_of(&self, object: &str) -> Result<u64, ArchiveError> {
        let one = Listing::of(object).pages_of(1);
        let found: Option<ObjectMeta> = self.store.list_with(one).await.try_next().await?;
        match found {
            Some(found) if found.name == object => Ok(found.size),
            _ => Err(ArchiveError::Missing {
                object: object.to_owned(),
            }),
        }
    }

    /// Creates an object of which it does not matter who was first.
    pub(super) async fn create_unless_there(
        &self,
        object: &str,
        body: Bytes,
    ) -> Result<(), ArchiveError> {
        match self.store.create(object, body).await {
            Ok(_) | Err(StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
