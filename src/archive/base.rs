//! Bases: RDB bytes in, zstd frames with a seek table out, and back.
//!
//! The object of a base is a run of independent zstd frames. Each holds 1 MiB of RDB (the reader accepts up to 4 MiB).
//! The seek table of the zstd seekable format follows (`contrib/seekable_format/zstd_seekable_compression_format.md` in
//! zstd's repository). It is a skippable frame.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::{BufMut, Bytes, BytesMut};
use futures::TryStreamExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::names::Name;
use super::object_reads::{Decode, decode_stream};
use super::{
    Archive, ArchiveError, BaseDigest, BaseManifest, DrillDoc, RawStream, VerdictDoc, documents,
};
use crate::archive::digest::{self, Digest};
use crate::log::frames::{FrameDecoder, FrameEncoder, FrameError};
use crate::runtime::buffers::Buffers;
use crate::runtime::{self, spawn_blocking};
use crate::store::{StoreError, Upload};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Offset, Position, ReplId};
use crate::wire::rdb::{Summary, WalkError, Walker};

/// Bytes of RDB in one zstd frame. It is twice the window of `LEVEL`, so larger frames would hardly save space. Two
/// frames are compressed or wait while one is uploaded and one is filled, each with its result: at most 6 MiB together.
pub const BASE_FRAME_RAW: usize = 1 << 20;

/// Frames of one base that are being compressed or wait: one that the uploader waits for, one in its queue, one that
/// waits for room there. Each one uses a thread of the blocking pool for a moment.
pub const FRAMES_AT_ONCE: usize = FRAMES_QUEUED + 2;
const FRAMES_QUEUED: usize = 1;

/// The largest frame that is read: what earlier versions wrote.
const FRAME_LIMIT: usize = 4 << 20;

/// zstd's level for bases: the first full sync should not wait for compression, and RDB has its own.
const LEVEL: i32 = 1;

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Number of frames, descriptor, magic.
const SEEK_FOOTER: usize = 9;

/// A base in the making. Dropping it abandons it: nothing of it is visible.
pub struct BaseWriter {
    at: Position,
    object: String,
    filling: BytesMut,
    raw_bytes: u64,
    crc: Crc64,
    digest: Digest,
    encoders: Arc<Encoders>,
    /// Frames on their way to the uploader. None after an error, or once the last one is sent.
    frames: Option<mpsc::Sender<JoinHandle<io::Result<Frame>>>>,
    uploader: JoinHandle<Result<Uploaded, ArchiveError>>,
}

/// A base whose data is stored. Its manifest is still to be written ([`Archive::commit_base`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBase {
    /// The position of the base.
    pub at: Position,
    /// Bytes of the RDB.
    pub raw_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// CRC-64/REDIS of all bytes of the RDB ([`BaseManifest::crc64`]).
    pub crc64: u64,
    /// What identifies the bytes.
    pub digest: BaseDigest,
}

/// Encoders that have nothing to do, and their buffers.
#[derive(Default)]
struct Encoders(Mutex<Vec<FrameEncoder>>, Buffers);

impl Encoders {
    fn frame(&self, raw: &[u8]) -> io::Result<Bytes> {
        let spare = self.lock().pop();
        let mut encoder = match spare {
            Some(encoder) => encoder,
            None => FrameEncoder::new(LEVEL)?,
        };
        let frame = encoder.frame_of_any(raw, &self.1);
        self.lock().push(encoder);
        frame
    }

    fn lock(&self) -> MutexGuard<'_, Vec<FrameEncoder>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Frame {
    raw_bytes: usize,
    stored: Bytes,
}

/// All frames are written, and the object awaits its commit.
struct Uploaded {
    upload: Box<dyn Upload>,
    stored_bytes: u64,
    digest: Digest,
}

impl BaseWriter {
    fn new(at: Position, upload: Box<dyn Upload>) -> Self {
        let object = Name::BaseData(at).to_string();
        let (frames, incoming) = mpsc::channel(FRAMES_QUEUED);
        Self {
            at,
            filling: BytesMut::new(),
            raw_bytes: 0,
            crc: Crc64::new(),
            digest: Digest::new(),
            encoders: Arc::default(),
            frames: Some(frames),
            uploader: runtime::spawn(upload_frames(object.clone(), upload, incoming)),
            object,
        }
    }

    /// Appends bytes of the RDB. Compression and upload run at the same time; this call waits when they are behind.
    /// After an error the writer is of no more use.
    pub async fn write(&mut self, raw: Bytes) -> Result<(), ArchiveError> {
        self.crc.update(&raw);
        self.digest.update(&raw);
        self.raw_bytes = self.raw_bytes.saturating_add(raw.len() as u64);
        let mut rest = raw;
        while !rest.is_empty() {
            if self.filling.is_empty() && rest.len() >= BASE_FRAME_RAW {
                let whole = rest.split_to(BASE_FRAME_RAW);
                self.send_frame(whole).await?;
                continue;
            }
            if self.filling.is_empty() {
                self.filling.reserve(BASE_FRAME_RAW);
            }
            let room = BASE_FRAME_RAW.saturating_sub(self.filling.len());
            let head = rest.split_to(room.min(rest.len()));
            self.filling.extend_from_slice(&head);
            if self.filling.len() >= BASE_FRAME_RAW {
                self.send_filled().await?;
            }
        }
        Ok(())
    }

    /// Stores the object. [`ArchiveError::BaseExists`] when its data is already there (after a crash before the
    /// manifest was written). The caller then reads it with [`Archive::walk_stray_base`], and adopts it.
    pub async fn finish(mut self) -> Result<StoredBase, ArchiveError> {
        if !self.filling.is_empty() {
            self.send_filled().await?;
        }
        if self.frames.take().is_none() {
            return Err(self.uploader_error().await);
        }
        let Uploaded {
            upload,
            stored_bytes,
            digest,
        } = joined(&self.object, (&mut self.uploader).await)??;
        match upload.commit().await {
            Ok(()) => Ok(StoredBase {
                at: self.at,
                raw_bytes: self.raw_bytes,
                stored_bytes,
                crc64: self.crc.value(),
                digest: BaseDigest::new(&self.digest, &digest),
            }),
            Err(StoreError::AlreadyExists { name, .. }) => {
                Err(ArchiveError::BaseExists { object: name })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn send_filled(&mut self) -> Result<(), ArchiveError> {
        let raw = std::mem::take(&mut self.filling).freeze();
        self.send_frame(raw).await
    }

    async fn send_frame(&mut self, raw: Bytes) -> Result<(), ArchiveError> {
        let encoders = Arc::clone(&self.encoders);
        let frame = spawn_blocking(move || {
            Ok(Frame {
                raw_bytes: raw.len(),
                stored: encoders.frame(&raw)?,
            })
        });
        if let Some(frames) = &self.frames
            && frames.send(frame).await.is_ok()
        {
            return Ok(());
        }
        Err(self.uploader_error().await)
    }

    /// Why the uploader has ended early.
    async fn uploader_error(&mut self) -> ArchiveError {
        let over = ArchiveError::damaged(&self.object, "its upload has failed before");
        if self.frames.take().is_none() {
            return over;
        }
        match joined(&self.object, (&mut self.uploader).await) {
            Ok(Err(error)) | Err(error) => error,
            Ok(Ok(_)) => over,
        }
    }
}

impl Drop for BaseWriter {
    fn drop(&mut self) {
        self.uploader.abort();
    }
}

/// Writes the frames in their order, then the seek table. It ends when the sender is dropped. The writer commits.
async fn upload_frames(
    object: String,
    mut upload: Box<dyn Upload>,
    mut incoming: mpsc::Receiver<JoinHandle<io::Result<Frame>>>,
) -> Result<Uploaded, ArchiveError> {
    let mut stored_bytes = 0_u64;
    let mut digest = Digest::new();
    let mut table = BytesMut::new();
    let mut count = 0_u32;
    while let Some(frame) = incoming.recv().await {
        let frame = joined(&object, frame.await)?.map_err(|error| {
            ArchiveError::damaged(&object, format!("it cannot be compressed: {error}"))
        })?;
        stored_bytes = stored_bytes.saturating_add(frame.stored.len() as u64);
        table.put_u32_le(u32_of(&object, frame.stored.len())?);
        table.put_u32_le(u32_of(&object, frame.raw_bytes)?);
        count = count.saturating_add(1);
        digest.update(&frame.stored);
        upload.write(frame.stored).await?;
    }
    let table = seek_table(&table, count, u32_of(&object, table.len())?);
    stored_bytes = stored_bytes.saturating_add(table.len() as u64);
    digest.update(&table);
    upload.write(table).await?;
    Ok(Uploaded {
        upload,
        stored_bytes,
        digest,
    })
}

fn seek_table(entries: &[u8], count: u32, entries_bytes: u32) -> Bytes {
    let mut table = BytesMut::new();
    table.put_u32_le(SKIPPABLE_MAGIC);
    table.put_u32_le(entries_bytes.saturating_add(SEEK_FOOTER as u32));
    table.put_slice(entries);
    table.put_u32_le(count);
    table.put_u8(0); // descriptor: no checksums in the table, as each frame has its own
    table.put_u32_le(SEEKABLE_MAGIC);
    table.freeze()
}

fn u32_of(object: &str, number: usize) -> Result<u32, ArchiveError> {
    u32::try_from(number)
        .map_err(|_| ArchiveError::damaged(object, "it is too long for a seek table"))
}

fn joined<T>(object: &str, result: Result<T, tokio::task::JoinError>) -> Result<T, ArchiveError> {
    result.map_err(|error| StoreError::interrupted(format!("cannot write {object}"), &error).into())
}

impl Archive {
    /// Begins the data of a base.
    pub async fn begin_base(&self, at: Position) -> Result<BaseWriter, ArchiveError> {
        let upload = self.store.upload(&Name::BaseData(at).to_string()).await?;
        Ok(BaseWriter::new(at, upload))
    }

    /// Writes the manifest, after which the base counts. One that exists already stays, and is no error.
    ///
    /// Whoever slept may find that its data is not there any more ([`ArchiveError::Swept`]). It is asked before, so that no
    /// manifest stands without data, and after, as one may sleep between the two.
    pub async fn commit_base(&self, manifest: &BaseManifest) -> Result<(), ArchiveError> {
        let object = Name::BaseManifest(manifest.position()).to_string();
        let body = documents::to_bytes(&object, manifest)?;
        self.expect_data(manifest).await?;
        self.create_unless_there(&object, body).await?;
        self.expect_data(manifest).await
    }

    async fn expect_data(&self, manifest: &BaseManifest) -> Result<(), ArchiveError> {
        if self.has_data(manifest).await? {
            return Ok(());
        }
        let object = Name::BaseData(manifest.position()).to_string();
        Err(ArchiveError::Swept { object })
    }

    /// Records beside a base that it was read and found sound. An earlier record stays, and is no error.
    pub async fn commit_verdict(&self, verdict: &VerdictDoc) -> Result<(), ArchiveError> {
        let object = Name::BaseVerdict(verdict.position()).to_string();
        let body = documents::to_bytes(&object, verdict)?;
        self.create_unless_there(&object, body).await
    }

    /// Records beside a base what came of a restore from it.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn commit_drill(&self, drill: &DrillDoc) -> Result<(), ArchiveError> {
        let object = drill.name().to_string();
        let body = documents::to_bytes(&object, drill)?;
        self.create_unless_there(&object, body).await
    }

    /// What came of the last restore that was tried from each of these bases: when, as [`super::History::drilled`] says. What
    /// cannot be read is left out.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn drills(
        &self,
        history: ReplId,
        drilled: &BTreeMap<Offset, u64>,
    ) -> Result<BTreeMap<Offset, DrillDoc>, ArchiveError> {
        let mut drills = BTreeMap::new();
        for (offset, unix_ms) in drilled {
            let base = Position {
                history,
                offset: *offset,
            };
            let object = Name::Drill {
                base,
                unix_ms: *unix_ms,
            }
            .to_string();
            let read = match self.read_document(&object).await {
                Err(error @ ArchiveError::Store(_)) => return Err(error),
                read => read.ok().flatten(),
            };
            let doc =
                read.and_then(|bytes| documents::from_bytes::<DrillDoc>(&object, &bytes).ok());
            drills.extend(doc.map(|doc| (*offset, doc)));
        }
        Ok(drills)
    }

    /// The RDB of a base, verified: stored size, raw size, digest. Only an end of the stream without an error means
    /// that all was right. Until then, each piece has passed the checksum of its zstd frame.
    pub async fn read_base(&self, manifest: &BaseManifest) -> Result<RawStream, ArchiveError> {
        self.read_compared(manifest, Compared::Data).await
    }

    /// The same, with the expected digest.
    pub async fn read_compared(
        &self,
        manifest: &BaseManifest,
        compared: Compared,
    ) -> Result<RawStream, ArchiveError> {
        let object = Name::BaseData(manifest.position()).to_string();
        let source = self.read_existing(&object).await?;
        let goal = Goal::Compare(Box::new(manifest.clone()), compared);
        let decoder = BaseDecoder::new(object, goal, self.buffers.clone())?;
        Ok(decode_stream(source, decoder))
    }

    /// Reads the data of a base without a manifest to its end: is it a sound RDB, and what is in it? The checksum of
    /// each zstd frame is verified.
    pub async fn walk_stray_base(
        &self,
        at: Position,
    ) -> Result<(StoredBase, Summary), ArchiveError> {
        let object = Name::BaseData(at).to_string();
        let stored_bytes = self.size_of(&object).await?;
        let source = self.read_existing(&object).await?;
        let sums = Arc::new(OnceLock::new());
        let goal = Goal::Tell(at, Arc::clone(&sums));
        let decoder = BaseDecoder::new(object.clone(), goal, self.buffers.clone())?;
        let mut raw = decode_stream(source, decoder);
        let damaged = |error: WalkError| ArchiveError::damaged(&object, error.to_string());
        let mut walker = Walker::new();
        while let Some(bytes) = raw.try_next().await? {
            if walker.push(&bytes).map_err(damaged)? < bytes.len() {
                return Err(ArchiveError::damaged(
                    &object,
                    "bytes follow the end of the RDB",
                ));
            }
        }
        walker.finish_opaque().map_err(damaged)?;
        match sums.get() {
            Some(stored) if stored.stored_bytes == stored_bytes => {
                Ok((stored.clone(), walker.summary().clone()))
            }
            _ => Err(ArchiveError::damaged(
                &object,
                format!("it was listed with {stored_bytes} bytes, and has others"),
            )),
        }
    }
}

/// What a reader of a base compares with the manifest when it has come to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The RDB. That is what a restore needs: a seek table that is wrong is no reason to refuse it.
    Data,
    /// The object as well, to the last bit.
    Object,
}

/// What to do with the values that the decoder computed.
enum Goal {
    /// It must be what the manifest says.
    Compare(Box<BaseManifest>, Compared),
    /// There is no manifest: reports what was found.
    Tell(Position, Arc<OnceLock<StoredBase>>),
}

impl Goal {
    fn manifest(&self) -> Option<&BaseManifest> {
        match self {
            Self::Compare(manifest, _) => Some(manifest),
            Self::Tell(..) => None,
        }
    }
}

struct BaseDecoder {
    object: String,
    goal: Goal,
    frames: FrameDecoder,
    stored: u64,
    raw: u64,
    crc: Crc64,
    digest: Digest,
    /// None: it is not wanted.
    stored_digest: Option<Digest>,
}

impl BaseDecoder {
    fn new(object: String, goal: Goal, buffers: Buffers) -> Result<Self, ArchiveError> {
        let frames = FrameDecoder::with(FRAME_LIMIT, buffers)
            .map_err(|error| ArchiveError::damaged(&object, error.to_string()))?;
        let data_alone = matches!(goal, Goal::Compare(_, Compared::Data));
        Ok(Self {
            object,
            goal,
            frames,
            stored: 0,
            raw: 0,
            crc: Crc64::new(),
            digest: Digest::new(),
            stored_digest: (!data_alone).then(Digest::new),
        })
    }

    fn damaged(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::damaged(&self.object, reason)
    }

    fn truncated(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Truncated {
            object: self.object.clone(),
            reason: reason.into(),
        }
    }

    fn compare(&self, manifest: &BaseManifest) -> Result<(), ArchiveError> {
        if self.raw != manifest.raw_bytes {
            return Err(self.damaged(format!(
                "it holds {} bytes of RDB, and its manifest says {}",
                self.raw, manifest.raw_bytes
            )));
        }
        let crc64 = BaseManifest::crc64_text(self.crc.value());
        if crc64 != manifest.crc64.to_ascii_lowercase() {
            return Err(self.damaged(format!(
                "its CRC-64 is {crc64}, and its manifest says {}",
                manifest.crc64
            )));
        }
        let Some(wanted) = manifest.digest.as_ref().filter(|wanted| wanted.is_known()) else {
            return Ok(());
        };
        let differs = |what: &str, found: String, wanted: &str| {
            Err(self.damaged(format!(
                "{what}: their {} digest is {found}, and the manifest says {wanted}",
                digest::ALGORITHM
            )))
        };
        let raw = self.digest.text();
        if raw != wanted.raw {
            let what =
                "it holds other bytes of RDB than were stored (those of another base, perhaps)";
            return differs(what, raw, &wanted.raw);
        }
        match &self.stored_digest {
            Some(stored) if stored.text() != wanted.stored => {
                let what = "the RDB in it is right, but its own bytes are not those that were stored (zstd frame headers, or the seek table)";
                differs(what, stored.text(), &wanted.stored)
            }
            _ => Ok(()),
        }
    }
}

impl Decode for BaseDecoder {
    fn push(&mut self, bytes: &[u8], out: &mut dyn FnMut(Bytes)) -> Result<(), ArchiveError> {
        self.stored = self.stored.saturating_add(bytes.len() as u64);
        if let Some(manifest) = self.goal.manifest()
            && self.stored > manifest.stored_bytes
        {
            return Err(self.damaged("there are bytes after its end"));
        }
        if let Some(stored) = &mut self.stored_digest {
            stored.update(bytes);
        }
        let (raw, crc, digest) = (&mut self.raw, &mut self.crc, &mut self.digest);
        let pushed = self.frames.push(bytes, &mut |frame| {
            *raw = raw.saturating_add(frame.len() as u64);
            crc.update(&frame);
            digest.update(&frame);
            out(frame);
        });
        pushed.map_err(|error: FrameError| self.damaged(error.to_string()))
    }

    fn finish(self) -> Result<(), ArchiveError> {
        if let Some(manifest) = self.goal.manifest()
            && self.stored < manifest.stored_bytes
        {
            return Err(self.truncated(format!(
                "{} of {} bytes are there",
                self.stored, manifest.stored_bytes
            )));
        }
        if self.frames.within_frame() {
            return Err(self.truncated("its last zstd frame does not end"));
        }
        match &self.goal {
            Goal::Compare(manifest, _) => self.compare(manifest),
            Goal::Tell(at, sums) => {
                let stored = self.stored_digest.clone().unwrap_or_default();
                let _ = sums.set(StoredBase {
                    at: *at,
                    raw_bytes: self.raw,
                    stored_bytes: self.stored,
                    crc64: self.crc.value(),
                    digest: BaseDigest::new(&self.digest, &stored),
                });
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[path = "base_tests.rs"]
mod tests;
