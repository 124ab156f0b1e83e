//! Reading on from another copy of the bytes of a log, where an object cannot be read to its end.
//!
//! A byte of a log may be in several objects ([`super::log_objects`]): in a segment, and in a span that was made of it.

use std::future::Future;

use bytes::Bytes;
use futures::{StreamExt, stream};

use super::{ArchiveError, RawStream};
use crate::wire::position::Offset;

/// Other objects that have the bytes of one object as well.
pub(super) trait OtherCopy: Send + Sync + 'static {
    /// The next bytes of the object, which are handed out.
    fn pass(&mut self, chunk: &[u8]);

    /// May the other objects have what this error says of the object? `at`: up to here its bytes were handed out.
    fn may_have(&self, error: &ArchiveError, at: Offset) -> bool;

    /// The bytes after `at`, where the object could not be read because of `error`. None: they are nowhere else.
    fn rest(
        &self,
        at: Offset,
        error: &ArchiveError,
    ) -> impl Future<Output = Result<Option<RawStream>, ArchiveError>> + Send;
}

/// The bytes of an object, which begin after `start`. What cannot be read comes from the other copy. It ends after an error.
pub(super) fn or_other_copy(stream: RawStream, start: Offset, copy: impl OtherCopy) -> RawStream {
    let reader = Reader {
        stream,
        at: start,
        copy,
        is_other: false,
    };
    let pieces = stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let piece = reader.next().await?;
        let goes_on = piece.is_ok();
        Some((piece, goes_on.then_some(reader)))
    });
    pieces.fuse().boxed()
}

struct Reader<C> {
    stream: RawStream,
    /// Up to here the bytes were handed out.
    at: Offset,
    copy: C,
    /// `stream` is the other copy. There is no third one.
    is_other: bool,
}

impl<C: OtherCopy> Reader<C> {
    async fn next(&mut self) -> Option<Result<Bytes, ArchiveError>> {
        loop {
            let error = match self.stream.next().await? {
                Ok(chunk) => {
                    self.at = self.at.plus(chunk.len() as u64);
                    self.copy.pass(&chunk);
                    return Some(Ok(chunk));
                }
                Err(error) => error,
            };
            if self.is_other || !self.copy.may_have(&error, self.at) {
                return Some(Err(error));
            }
            self.is_other = true;
            match self.copy.rest(self.at, &error).await {
                Ok(Some(stream)) => self.stream = stream,
                Ok(None) => return Some(Err(error)),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
