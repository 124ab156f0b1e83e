//! Segments that follow one another and are one span, and whether the span holds what they hold.

use futures::TryStreamExt;

use super::{Archive, ArchiveError, LogObject};
use crate::log::segment::{Entry, SegmentHeader, SegmentMeta};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Offset, ReplId, TimeMark};

/// Segments that are one span, or are to be one.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Their headers. The marks are in `marks`.
    pub(super) segments: Vec<SegmentHeader>,
    pub(super) marks: Vec<TimeMark>,
}

/// Why a span was not made, or does not count.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MergeError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// What was read back is not what it was made of.
    #[error("{object} does not hold what the segments hold that it was made of: {reason}")]
    Differs {
        /// The span.
        object: String,
        /// What differs.
        reason: String,
    },
}

impl MergeError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Archive(error) if error.is_transient())
    }

    /// Is it about the objects of one log, and no other?
    #[must_use]
    pub fn is_of_one_log(&self) -> bool {
        !matches!(
            self,
            Self::Archive(ArchiveError::Store(_) | ArchiveError::Timeless { .. })
        )
    }
}

impl Run {
    /// These segments, which follow one another. Some between them may be gone.
    pub(super) fn of(segments: Vec<SegmentHeader>) -> Self {
        Self {
            segments,
            marks: Vec::new(),
        }
    }

    pub(super) fn last(&self) -> Option<&SegmentHeader> {
        self.segments.last()
    }

    pub(super) fn start(&self) -> Offset {
        self.segments.first().map_or(Offset(0), |it| it.meta.start)
    }

    pub(super) fn end(&self) -> Offset {
        self.last().map_or(Offset(0), |it| it.meta.end)
    }

    /// Its segments.
    pub(crate) fn len(&self) -> usize {
        self.segments.len()
    }

    /// Its segments, without their marks.
    pub(super) fn into_segments(self) -> Vec<SegmentHeader> {
        self.segments
    }

    /// Bytes that its segments take in the store, without their headers.
    pub(super) fn stored(&self) -> u64 {
        let stored = self.segments.iter().map(|segment| segment.payload_stored);
        stored.fold(0, u64::saturating_add)
    }

    pub(super) fn push(&mut self, mut header: SegmentHeader) {
        self.marks.append(&mut header.meta.marks);
        self.segments.push(header);
    }

    pub(super) fn meta(&self, writer: &str) -> Option<SegmentMeta> {
        let first = &self.segments.first()?.meta;
        let mut backwards = self.segments.iter().rev();
        Some(SegmentMeta {
            history: first.history,
            start: self.start(),
            end: self.end(),
            db_at_start: first.db_at_start,
            starts_at_boundary: first.starts_at_boundary,
            boundary: backwards.find_map(|segment| segment.meta.boundary),
            marks: self.marks.clone(),
            clock_back: first.clock_back,
            writer: writer.to_owned(),
        })
    }
}

impl Archive {
    /// Reads a span to its end. Has each segment of the run the checksum of the same bytes of the span?
    pub(crate) async fn compare_span(
        &self,
        history: ReplId,
        run: &Run,
        span: LogObject,
    ) -> Result<(), MergeError> {
        let object = span.name(history).to_string();
        let differs = |reason: &str| MergeError::Differs {
            object: object.clone(),
            reason: reason.to_owned(),
        };
        let header = match self.stored_entry(history, span).await? {
            Some(Entry::Segment(header)) => header,
            _ => return Err(ArchiveError::Missing { object }.into()),
        };
        if run.len() > 0 && (run.start() < header.meta.start || header.meta.end < run.end()) {
            return Err(differs("it has not all of their bytes"));
        }
        let mut raw = self.strictly().read_segment(&header).await?;
        let mut segments = run.segments.iter();
        let mut segment = segments.next();
        let (mut at, mut crc) = (header.meta.start, Crc64::new());
        while let Some(mut chunk) = raw.try_next().await? {
            while let Some(expected) = segment
                && !chunk.is_empty()
            {
                let before = expected.meta.start.beyond(at);
                let before = usize::try_from(before).unwrap_or(usize::MAX);
                let skipped = chunk.split_to(before.min(chunk.len()));
                at = at.plus(skipped.len() as u64);
                if chunk.is_empty() {
                    break;
                }
                let left = usize::try_from(expected.meta.end.since(at)).unwrap_or(usize::MAX);
                let part = chunk.split_to(left.min(chunk.len()));
                crc.update(&part);
                at = at.plus(part.len() as u64);
                if at == expected.meta.end {
                    if crc.value() != expected.payload_crc64 {
                        return Err(differs(&format!(
                            "the bytes from {} to {at} have another checksum",
                            expected.meta.start.next_byte()
                        )));
                    }
                    crc = Crc64::new();
                    segment = segments.next();
                }
            }
        }
        match segment {
            None => Ok(()),
            Some(_) => Err(differs("it ends early")),
        }
    }
}
