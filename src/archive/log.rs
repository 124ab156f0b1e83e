//! The objects of a log: creates, seals and reads them one by one. ([`super::chain`] follows them.)

use std::future::ready;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::kept::AT_ONCE;
use super::names::Name;
use super::object_reads::{Decode, decode_here, decode_stream};
use super::other_copy::{OtherCopy, or_other_copy};
use super::{Archive, ArchiveError, Fence, LogObject, RawStream};
use crate::log::segment::{
    self, Entry, FORMAT_VERSION, HEADER_LIMIT, PayloadReader, SealHeader, SegmentError,
    SegmentHeader,
};
use crate::log::span::PartReader;
use crate::store::{Created, StoreError};
use crate::wire::position::{Offset, ReplId};

/// Bytes of an object that are fetched to read its header: few have longer ones.
const HEADER_READ: usize = 8 << 10;

/// A payload up to so many bytes, stored and raw, is decompressed at once: threads and queues would cost more.
const SHORT: u64 = 64 << 10;

/// Why a segment or a seal was not created, or does not count.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Another writer's segment, or a seal, is there.
    #[error("another writer was first")]
    Taken(Box<Entry>),
    /// The log went on without this writer ([`super::Fence`]). What it created is no part of the log.
    #[error("the log went on beyond this writer: it has an object that begins with byte {next}")]
    Passed {
        /// The first byte of an object beyond.
        next: u64,
    },
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl AppendError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Archive(error) if error.is_transient())
    }
}

/// What stands under a name after a create.
enum Put {
    /// What was to be created, by this call or an earlier one.
    Ours(Created),
    /// Something else.
    Theirs(Box<Entry>, Created),
    /// Something else stood there, and was deleted before it was read.
    Freed,
}

impl Archive {
    /// Creates a segment from what [`segment::encode`] gave, as the next link of the writer that `fence` is of. If the
    /// very same bytes are there already (an earlier try whose answer was lost), that is success. Transient errors are
    /// the caller's to retry.
    ///
    /// If the segment is created, or [`AppendError::Taken`], what is there is part of the log.
    pub async fn append(
        &self,
        fence: &mut Fence,
        header: &SegmentHeader,
        body: Bytes,
    ) -> Result<(), AppendError> {
        let (history, start) = (header.meta.history, header.meta.start);
        let put = self.put_segment(header, body).await?;
        let created = match &put {
            Put::Ours(created) | Put::Theirs(_, created) => *created,
            Put::Freed => None,
        };
        if fence.is_in_doubt(created) {
            self.look_beyond(history, start).await?;
            self.look_for_successor(history, start).await?;
        }
        fence.passed(created);
        match put {
            Put::Ours(_) => Ok(()),
            Put::Theirs(entry, _) => Err(AppendError::Taken(entry)),
            Put::Freed => {
                let object = log_name(history, start.next_byte());
                Err(ArchiveError::Missing { object }.into())
            }
        }
    }

    /// Creates a segment, and does not ask whether it is part of the log.
    async fn put_segment(&self, header: &SegmentHeader, body: Bytes) -> Result<Put, ArchiveError> {
        let (history, first_byte) = (header.meta.history, header.meta.start.next_byte());
        let object = log_name(history, first_byte);
        let created = match self.store.create(&object, body.clone()).await {
            Ok(created) => return Ok(Put::Ours(created)),
            Err(StoreError::AlreadyExists { created, .. }) => created,
            Err(error) => return Err(error.into()),
        };
        let Some(entry) = self.entry(history, first_byte).await? else {
            return Ok(Put::Freed);
        };
        let is_same = matches!(&entry, Entry::Segment(theirs) if theirs == header);
        match is_same && self.holds(&object, &body).await? {
            true => Ok(Put::Ours(created)),
            false => Ok(Put::Theirs(Box::new(entry), created)),
        }
    }

    /// [`Self::append`] by a writer that knows what it does.
    #[cfg(test)]
    pub(crate) async fn put(&self, header: &SegmentHeader, body: Bytes) -> Result<(), AppendError> {
        match self.put_segment(header, body).await? {
            Put::Theirs(entry, _) => Err(AppendError::Taken(entry)),
            _ => Ok(()),
        }
    }

    /// Seals a log after its last byte. If a seal is already there, this succeeds, because a seal does not say who
    /// continues ([`super::takeover`]). If a segment is there, it is [`AppendError::Taken`].
    ///
    /// Success means that the log ends there: nothing stands beyond the seal. A seal that is [`AppendError::Taken`]
    /// stands beyond.
    pub async fn seal(
        &self,
        history: ReplId,
        after: Offset,
        reason: &str,
        writer: &str,
        unix_ms: i64,
    ) -> Result<(), AppendError> {
        let object = log_name(history, after.next_byte());
        let seal = SealHeader {
            history,
            start: after,
            reason: reason.to_owned(),
            writer: writer.to_owned(),
            sealed_unix_ms: unix_ms,
        };
        let body = segment::encode_seal(&seal).map_err(|error| archive_error(&object, &error))?;
        let put = match self.store.create(&object, body).await {
            Ok(created) => Put::Ours(created),
            Err(StoreError::AlreadyExists { created, .. }) => {
                match self.entry(history, after.next_byte()).await? {
                    Some(Entry::Seal(_)) => Put::Ours(created),
                    Some(segment) => Put::Theirs(Box::new(segment), created),
                    None => Put::Freed,
                }
            }
            Err(error) => return Err(ArchiveError::from(error).into()),
        };
        // Even a segment that is there may have been created under a deleted name.
        self.look_beyond(history, after).await?;
        match put {
            Put::Ours(_) => Ok(()),
            Put::Theirs(segment, _) => Err(AppendError::Taken(segment)),
            Put::Freed => Err(ArchiveError::Missing { object }.into()),
        }
    }

    /// The header of the segment or seal in `log/` whose first byte is number `first_byte`, read without its payload; or, for a
    /// restore, with as much of it as comes with the same request. Whoever follows a log asks [`Self::entry_of`].
    pub async fn entry(
        &self,
        history: ReplId,
        first_byte: u64,
    ) -> Result<Option<Entry>, ArchiveError> {
        self.stored_entry(history, LogObject::segment(first_byte))
            .await
    }

    /// The same of any object of a log.
    pub(super) async fn stored_entry(
        &self,
        history: ReplId,
        name: LogObject,
    ) -> Result<Option<Entry>, ArchiveError> {
        let object = name.name(history).to_string();
        let kept = self.kept.as_ref();
        if let Some(bytes) = kept.and_then(|kept| kept.short(history, name)) {
            let decoded =
                segment::decode_entry(&bytes).map_err(|error| archive_error(&object, &error))?;
            let Some((entry, _)) = decoded else {
                return Err(header_cut_off(&object));
            };
            return check_name(&object, entry).map(Some);
        }
        let mut wanted = kept.map_or(HEADER_READ, |_| AT_ONCE);
        loop {
            let Some(bytes) = self.read_range(&object, wanted as u64).await? else {
                return Ok(None);
            };
            if let Some(kept) = kept.filter(|_| bytes.len() < wanted) {
                kept.put(history, name, &bytes);
            }
            let decoded =
                segment::decode_entry(&bytes).map_err(|error| archive_error(&object, &error))?;
            if let Some((entry, _)) = decoded {
                return check_name(&object, entry).map(Some);
            }
            if bytes.len() < wanted || wanted >= HEADER_LIMIT {
                return Err(header_cut_off(&object));
            }
            wanted = wanted.saturating_mul(8).min(HEADER_LIMIT);
        }
    }

    /// The raw bytes of a segment or a span, verified against its header. Only an end of the stream without an error means that
    /// all was right. Until then, each piece has passed the checksum of its zstd frame.
    ///
    /// A segment may be deleted meanwhile, because a span covers it. Then the rest comes from that span. If a span cannot be
    /// read, the rest comes from its segments, if they still stand.
    pub async fn read_segment(&self, header: &SegmentHeader) -> Result<RawStream, ArchiveError> {
        let opened = self.open_segment(header).await;
        if header.is_span() {
            let whole = (header.meta.start, header.meta.end);
            return self.or_aside(header, whole, opened);
        }
        let start = header.meta.start;
        let span = CoveringSpan {
            archive: self.clone(),
            header: header.clone(),
        };
        match opened {
            Ok(stream) => Ok(or_other_copy(stream, start, span)),
            Err(error @ ArchiveError::Missing { .. }) => {
                span.rest(start, &error).await?.ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The bytes of the segment with this header after `at`, out of a span.
    async fn rest_in_span(
        &self,
        header: &SegmentHeader,
        at: Offset,
    ) -> Result<Option<RawStream>, ArchiveError> {
        let history = header.meta.history;
        let Some(span) = self.covering(history, at.next_byte()).await? else {
            return Ok(None);
        };
        match self.stored_entry(history, span).await? {
            Some(Entry::Segment(span)) if span.meta.end >= header.meta.end => {
                self.frames_of(&span, at, header.meta.end).await
            }
            _ => Ok(None),
        }
    }

    /// The raw bytes of a segment or a span after `after` up to `upto`. If only some frames of a span hold them, no other is read.
    pub async fn read_part(
        &self,
        header: &SegmentHeader,
        after: Offset,
        upto: Offset,
    ) -> Result<RawStream, ArchiveError> {
        let (start, end) = (header.meta.start, header.meta.end);
        let is_whole = after <= start && upto >= end;
        if !is_whole && header.is_span() {
            let part = match self.frames_of(header, after, upto).await {
                Ok(part) => Ok(part.unwrap_or_else(|| stream::empty().boxed())),
                Err(error) => Err(error),
            };
            return self.or_aside(header, (after, upto), part);
        }
        Ok(cut(self.read_segment(header).await?, start, after, upto))
    }

    /// The same, from the frames that hold them. None: it is no span, or has none of them.
    async fn frames_of(
        &self,
        header: &SegmentHeader,
        after: Offset,
        upto: Offset,
    ) -> Result<Option<RawStream>, ArchiveError> {
        let object = LogObject::of_header(header)
            .name(header.meta.history)
            .to_string();
        let made = PartReader::new(header, (after, upto), self.buffers.clone());
        let Some((reader, range)) = made.map_err(|error| archive_error(&object, &error))? else {
            return Ok(None);
        };
        if range.is_empty() {
            return Err(ArchiveError::damaged(&object, "it has no frames"));
        }
        let source = match self.store.read(&object, Some(range)).await {
            Err(StoreError::NotFound { name }) => {
                return Err(ArchiveError::Missing { object: name });
            }
            other => other?,
        };
        Ok(Some(decode_stream(source, PartDecoder { object, reader })))
    }

    pub(super) async fn open_segment(
        &self,
        header: &SegmentHeader,
    ) -> Result<RawStream, ArchiveError> {
        let history = header.meta.history;
        let name = LogObject::of_header(header);
        let object = name.name(history).to_string();
        let source = match &self.kept {
            None => self.read_existing(&object).await?,
            Some(kept) => match kept.stream(history, name) {
                Some(source) => source,
                None => {
                    let source = self.read_existing(&object).await?;
                    kept.keeping(history, name, header.payload_stored, source)
                }
            },
        };
        let decoder = SegmentDecoder {
            payload: PayloadReader::new(header, self.buffers.clone())
                .map_err(|error| archive_error(&object, &error))?,
            object,
            expected: Entry::Segment(header.clone()),
            head: Some(Vec::new()),
        };
        let raw = header.meta.end.since(header.meta.start);
        let is_short = raw <= SHORT && header.payload_stored <= SHORT;
        Ok(match &self.kept {
            Some(_) if is_short => decode_here(source, decoder),
            _ => decode_stream(source, decoder),
        })
    }

    /// Does `object` consist of exactly these bytes?
    async fn holds(&self, object: &str, body: &[u8]) -> Result<bool, ArchiveError> {
        let mut source = self.read_existing(object).await?;
        let mut rest = body;
        while let Some(piece) = source.try_next().await? {
            match rest.strip_prefix(&piece[..]) {
                Some(after) => rest = after,
                None => return Ok(false),
            }
        }
        Ok(rest.is_empty())
    }
}

/// The name of the object of a log.
pub(super) fn log_name(history: ReplId, first_byte: u64) -> String {
    let name = Name::Log {
        history,
        first_byte,
    };
    name.to_string()
}

fn check_name(object: &str, entry: Entry) -> Result<Entry, ArchiveError> {
    let says = LogObject::of(&entry).name(entry.history()).to_string();
    if says == object {
        return Ok(entry);
    }
    Err(ArchiveError::Renamed {
        object: object.to_owned(),
        says,
    })
}

/// Of the raw bytes after `start`, those after `after` up to `upto`. They are read to their end, so that their checksum is
/// verified.
pub(super) fn cut(raw: RawStream, start: Offset, after: Offset, upto: Offset) -> RawStream {
    let mut skip = after.beyond(start);
    let mut take = upto.beyond(after.max(start));
    let cut = raw.try_filter_map(move |mut chunk| {
        let skipped = usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len());
        let _skipped = chunk.split_to(skipped);
        skip = skip.saturating_sub(skipped as u64);
        chunk.truncate(usize::try_from(take).unwrap_or(usize::MAX));
        take = take.saturating_sub(chunk.len() as u64);
        ready(Ok((!chunk.is_empty()).then_some(chunk)))
    });
    cut.boxed()
}

fn header_cut_off(object: &str) -> ArchiveError {
    ArchiveError::Truncated {
        object: object.to_owned(),
        reason: "its header does not end".to_owned(),
    }
}

pub(super) fn archive_error(object: &str, error: &SegmentError) -> ArchiveError {
    let object = object.to_owned();
    match error {
        SegmentError::NewerFormat { version } => ArchiveError::NewerFormat {
            object,
            version: u32::from(*version),
            supported: u32::from(FORMAT_VERSION),
        },
        SegmentError::Truncated { expected, found } => ArchiveError::Truncated {
            object,
            reason: format!("{found} of {expected} payload bytes are there"),
        },
        other => ArchiveError::Damaged {
            object,
            reason: other.to_string(),
        },
    }
}

/// The span that covers a segment, which may vanish while it is read.
struct CoveringSpan {
    archive: Archive,
    header: SegmentHeader,
}

impl OtherCopy for CoveringSpan {
    fn pass(&mut self, _: &[u8]) {}

    fn may_have(&self, error: &ArchiveError, at: Offset) -> bool {
        let has_vanished = matches!(
            error,
            ArchiveError::Missing { .. } | ArchiveError::Store(StoreError::NotFound { .. })
        );
        has_vanished && at < self.header.meta.end
    }

    async fn rest(&self, at: Offset, _: &ArchiveError) -> Result<Option<RawStream>, ArchiveError> {
        self.archive.rest_in_span(&self.header, at).await
    }
}

/// A part of a span.
struct PartDecoder {
    object: String,
    reader: PartReader,
}

impl Decode for PartDecoder {
    fn push(&mut self, bytes: &[u8], mut out: &mut dyn FnMut(Bytes)) -> Result<(), ArchiveError> {
        let pushed = self.reader.push(bytes, &mut out);
        pushed.map_err(|error| archive_error(&self.object, &error))
    }

    fn finish(self) -> Result<(), ArchiveError> {
        let finished = self.reader.finish();
        finished.map_err(|error| archive_error(&self.object, &error))
    }
}

/// Header frame, then payload.
struct SegmentDecoder {
    object: String,
    expected: Entry,
    /// The received part of the header frame, until it is complete.
    head: Option<Vec<u8>>,
    payload: PayloadReader,
}

impl SegmentDecoder {
    fn error(&self, error: &SegmentError) -> ArchiveError {
        archive_error(&self.object, error)
    }
}

impl Decode for SegmentDecoder {
    fn push(&mut self, bytes: &[u8], mut out: &mut dyn FnMut(Bytes)) -> Result<(), ArchiveError> {
        let Some(mut head) = self.head.take() else {
            let pushed = self.payload.push(bytes, &mut out);
            return pushed.map_err(|error| self.error(&error));
        };
        head.extend_from_slice(bytes);
        let decoded = segment::decode_entry(&head).map_err(|error| self.error(&error))?;
        let Some((entry, length)) = decoded else {
            self.head = Some(head);
            return Ok(());
        };
        if !entry.is_same(&self.expected) {
            return Err(ArchiveError::damaged(
                &self.object,
                "its header changed since it was first read; objects must not be changed",
            ));
        }
        let pushed = self
            .payload
            .push(head.get(length..).unwrap_or_default(), &mut out);
        pushed.map_err(|error| self.error(&error))
    }

    fn finish(self) -> Result<(), ArchiveError> {
        if self.head.is_some() {
            return Err(header_cut_off(&self.object));
        }
        let finished = self.payload.finish();
        finished.map_err(|error| archive_error(&self.object, &error))
    }
}
