//! What a server sends again is held against what is stored, before it is dropped or acknowledged: a server that was set back to
//! an earlier state (a snapshot of its memory) goes on under the same id, from an older offset, with other bytes.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};

use super::log_buffer::LogBuffer;
use super::log_writer::Shared;
use crate::archive::{Archive, ArchiveError, Catalog, LogEnd};
use crate::capture::spool;
use crate::link::replication_info::Facts;
use crate::log::segment::{Entry, SegmentHeader};
use crate::runtime;
use crate::wire::crc64::Crc64;
use crate::wire::position::{Boundary, Offset, Position, ReplId};
use crate::wire::resp::FeedScanner;

/// How much of the end of a log is sent once more, at most.
pub(super) const SAMPLE_MOST: u64 = 64 << 10;
/// What is received in pieces makes one alone, if it has so much.
pub(super) const SAMPLE_LEAST: u64 = 4 << 10;
/// And how many writes, if there are so many.
const SAMPLE_WRITES: u64 = 8;
/// In so many segments. Those of an idle server are short.
const SAMPLE_SEGMENTS: usize = 16;

/// A stretch of a stored log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// Where it begins.
    pub boundary: Boundary,
    /// What it consists of.
    pub bytes: Bytes,
}

impl Sample {
    /// Its last byte.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.boundary.offset.plus(self.bytes.len() as u64)
    }

    /// Is what is received after `at` something else, as far as the two overlap?
    #[must_use]
    pub fn differs(&self, at: Offset, received: &[u8]) -> bool {
        let from = at.max(self.boundary.offset);
        let skip = |bytes| usize::try_from(bytes).unwrap_or(usize::MAX);
        let stored = self.bytes.get(skip(from.since(self.boundary.offset))..);
        let received = received.get(skip(from.since(at))..);
        let mut pairs = stored
            .unwrap_or_default()
            .iter()
            .zip(received.unwrap_or_default());
        pairs.any(|(stored, received)| stored != received)
    }

    /// Would the server send it again, before it goes on at `boundary`? What a promoted one did not have is not asked for. One that was
    /// set back may have come as far again since it was asked.
    #[must_use]
    pub fn can_be_asked_for(&self, history: ReplId, boundary: Boundary, facts: &Facts) -> bool {
        let from = Position {
            history,
            offset: self.boundary.offset,
        };
        let whole = boundary.offset >= self.boundary.offset
            && facts
                .branched_off()
                .is_none_or(|(old, shared)| old != history || shared >= self.end());
        let end = Position {
            history,
            offset: boundary.offset,
        };
        whole && facts.later(end).would_continue_for_long(from)
    }

    /// What was stored last: this, then `chunks`, which begin after `at` (a boundary, if that is known).
    #[must_use]
    pub fn and_then(
        before: Option<Self>,
        at: Offset,
        boundary: Option<Boundary>,
        chunks: &[Bytes],
    ) -> Option<Self> {
        let length = |bytes: &[Bytes]| bytes.iter().map(|bytes| bytes.len() as u64).sum::<u64>();
        let more = length(chunks);
        let before = before.filter(|before| {
            before.end() == at && (before.bytes.len() as u64).saturating_add(more) <= SAMPLE_MOST
        });
        let (boundary, first) = match (before, boundary) {
            (Some(before), _) => (before.boundary, before.bytes),
            (None, Some(boundary)) if more <= SAMPLE_MOST => (boundary, Bytes::new()),
            _ => return None,
        };
        let mut bytes = BytesMut::from(&first[..]);
        chunks
            .iter()
            .for_each(|chunk| bytes.extend_from_slice(chunk));
        Some(Self {
            boundary,
            bytes: bytes.freeze(),
        })
    }

    /// The end of `chunks`, which begin after `start`, from a boundary on.
    #[must_use]
    pub fn end_of(start: Offset, chunks: &[Bytes], boundary: Boundary) -> Option<Self> {
        let mut skip = usize::try_from(boundary.offset.since(start)).ok()?;
        let mut bytes = BytesMut::new();
        for chunk in chunks {
            bytes.extend_from_slice(chunk.get(skip..).unwrap_or_default());
            skip = skip.saturating_sub(chunk.len());
        }
        Some(Self {
            boundary,
            bytes: bytes.freeze(),
        })
    }

    /// The end of a log in the store. None: it is not long enough, or cannot be read.
    ///
    /// # Errors
    /// [`ArchiveError::Store`].
    pub async fn of_store(
        archive: &Archive,
        catalog: &Catalog,
        history: ReplId,
        end: &LogEnd,
    ) -> Result<Option<Self>, ArchiveError> {
        match read(archive, catalog, history, end.end).await {
            Err(error @ ArchiveError::Store(_)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the end of the log cannot be compared");
                Ok(None)
            }
            Ok(sample) => Ok(sample),
        }
    }
}

async fn read(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    end: Offset,
) -> Result<Option<Sample>, ArchiveError> {
    let log = catalog.histories.get(&history).map(|found| &found.log);
    let mut found = None;
    let mut bytes = Bytes::new();
    let mut begins = end;
    let before_end = |first: &&u64| **first > end.0;
    let log = log.into_iter().flatten().rev().skip_while(before_end);
    for first in log.take(SAMPLE_SEGMENTS) {
        let header = match archive.entry(history, *first).await? {
            Some(Entry::Segment(header)) if header.meta.end == begins && !header.is_gap() => header,
            _ => break,
        };
        begins = header.meta.start;
        if end.since(begins) > SAMPLE_MOST {
            let last = found.is_none() && bytes.is_empty();
            return if last {
                end_of(archive, &header).await
            } else {
                Ok(found)
            };
        }
        bytes = [payload(archive, &header).await?, bytes].concat().into();
        if !header.meta.starts_at_boundary {
            continue;
        }
        let boundary = Boundary {
            offset: begins,
            db: header.meta.db_at_start,
        };
        let mut writes: u64 = 0;
        let mut scanner = FeedScanner::new(boundary);
        let scanned = scanner.scan(&bytes, |command| {
            writes = writes.saturating_add(u64::from(!command.is_idle()));
        });
        if scanned.is_err() {
            break;
        }
        let bytes = bytes.clone();
        found = Some(Sample { boundary, bytes });
        if writes >= SAMPLE_WRITES {
            break;
        }
    }
    Ok(found)
}

/// The end of a long segment.
async fn end_of(archive: &Archive, header: &SegmentHeader) -> Result<Option<Sample>, ArchiveError> {
    let mut boundary = Boundary {
        offset: header.meta.start,
        db: header.meta.db_at_start,
    };
    if !header.meta.starts_at_boundary {
        return Ok(None);
    }
    let end = header.meta.end;
    let mut scanner = FeedScanner::new(boundary);
    let mut bytes = BytesMut::new();
    let mut pieces = archive.read_segment(header).await?;
    while let Some(piece) = pieces.next().await.transpose()? {
        bytes.extend_from_slice(&piece);
        if scanner.scan(&piece, |_| {}).is_err() {
            return Ok(None);
        }
        let later = scanner.boundary();
        if end.since(later.offset) >= SAMPLE_MOST / 2 {
            let drop = later.offset.since(boundary.offset);
            let drop = usize::try_from(drop).unwrap_or(usize::MAX).min(bytes.len());
            let _ = bytes.split_to(drop);
            boundary = later;
        }
    }
    let bytes = bytes.freeze();
    let sample = Sample { boundary, bytes };
    // One long command would be sent once more in full.
    Ok(Some(sample).filter(|sample| (sample.bytes.len() as u64) <= SAMPLE_MOST))
}

/// Compares a segment of another writer with what `shared` holds of the same bytes. They are the same: `note` is told, before more
/// is received, with what of it is still to come. `false`: it is something else; the other feed is not ours.
///
/// # Errors
/// [`ArchiveError::Store`]; the same call may succeed later.
pub(super) async fn compare(
    archive: &Archive,
    shared: &Shared,
    theirs: &SegmentHeader,
    note: impl Fn(&mut LogBuffer, Option<Sample>),
) -> Result<bool, ArchiveError> {
    let (start, end) = (theirs.meta.start, theirs.meta.end);
    let mut stored: Option<Bytes> = None;
    loop {
        let (received, held) = {
            let buffer = &shared.state().buffer;
            (buffer.received().offset, buffer.held(start, end))
        };
        let ours = match runtime::spawn_blocking(move || spool::load(&held)).await {
            Ok(Ok(ours)) => ours,
            // What was lost will be received again.
            Ok(Err(_)) | Err(_) => return Ok(true),
        };
        if received < end && stored.is_none() {
            match payload(archive, theirs).await {
                Ok(bytes) => stored = Some(bytes),
                Err(error @ ArchiveError::Store(_)) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "what another writer has stored cannot be compared with what is received");
                    return Ok(true);
                }
            }
        }
        let same = match &stored {
            None => {
                let mut crc = Crc64::new();
                ours.iter().for_each(|bytes| crc.update(bytes));
                crc.value() == theirs.payload_crc64
            }
            Some(stored) => {
                let ours: Vec<u8> = ours.concat();
                let both = ours.len().min(stored.len());
                ours.get(..both) == stored.get(..both)
            }
        };
        if !same {
            return Ok(false);
        }
        let mut state = shared.state();
        if state.buffer.received().offset != received {
            continue;
        }
        let all = stored.clone().map_or(ours, |stored| vec![stored]);
        state.buffer.note_recent(&theirs.meta, &all, None);
        let rest = stored.filter(|_| received < end).map(|bytes| Sample {
            // Of what was received already the same was found.
            boundary: Boundary {
                offset: start,
                db: theirs.meta.db_at_start,
            },
            bytes,
        });
        note(&mut state.buffer, rest);
        return Ok(true);
    }
}

async fn payload(archive: &Archive, header: &SegmentHeader) -> Result<Bytes, ArchiveError> {
    let pieces: Vec<Bytes> = archive.read_segment(header).await?.try_collect().await?;
    Ok(pieces.concat().into())
}
