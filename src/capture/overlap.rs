//! What a server sends again is compared with what is stored, before it is dropped or acknowledged. A server that was
//! set back to an earlier state (a snapshot of its memory) continues under the same id, from an older offset, with
//! other bytes.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt};

use super::log_buffer::LogBuffer;
use super::log_writer::Shared;
use crate::archive::{Archive, ArchiveError, Catalog, LogEnd, LogObject};
use crate::capture::spool;
use crate::link::replication_info::Facts;
use crate::log::segment::{Entry, SegmentHeader};
use crate::runtime;
use crate::wire::crc64::Crc64;
use crate::wire::position::{Boundary, Offset, Position, ReplId};
use crate::wire::resp::FeedScanner;

/// How much of the end of a log is sent again, at most.
pub(super) const SAMPLE_MOST: u64 = 64 << 10;
/// So much of it is asked for even where the backlog may lose that soon: it would lose what comes after it as soon.
const SAMPLE_LEAST: u64 = 256;
/// So many writes are enough.
const SAMPLE_WRITES: u64 = 8;
/// The most segments that a sample comes from. Those of an idle server are short.
const SAMPLE_SEGMENTS: usize = 16;

/// A stretch of a stored log. It may begin and end anywhere: it is compared, not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// It begins after this offset.
    pub start: Offset,
    /// What it consists of.
    pub bytes: Bytes,
}

impl Sample {
    /// Its last byte.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.start.plus(self.bytes.len() as u64)
    }

    /// Does what is received after `at` differ, as far as the two overlap?
    #[must_use]
    pub fn differs(&self, at: Offset, received: &[u8]) -> bool {
        let from = at.max(self.start);
        let stored = self.bytes.get(length(from.since(self.start))..);
        let received = received.get(length(from.since(at))..);
        let mut pairs = stored
            .unwrap_or_default()
            .iter()
            .zip(received.unwrap_or_default());
        pairs.any(|(stored, received)| stored != received)
    }

    /// Would the server send it again, before it continues at `boundary`? We do not ask a promoted server for what it
    /// did not have. A server that was set back may have come as far again since it was asked.
    #[must_use]
    pub fn after(&self, from: Offset) -> Option<Self> {
        let skip = length(from.beyond(self.start));
        let rest = Self {
            start: self.start.max(from),
            bytes: self.bytes.slice(skip.min(self.bytes.len())..),
        };
        (!rest.bytes.is_empty()).then_some(rest)
    }

    /// What of it comes before `end`, and reaches that. None: nothing.
    #[must_use]
    pub fn up_to(&self, end: Offset) -> Option<Self> {
        let mut part = self.clone();
        part.bytes.truncate(length(end.beyond(self.start)));
        (part.end() == end && !part.bytes.is_empty()).then_some(part)
    }

    /// What was stored last: this sample, then `chunks`, which begin after `at` (a boundary, if that is known).
    #[must_use]
    pub fn to_be_sent_again(&self, history: ReplId, upto: Offset, facts: &Facts) -> Option<Self> {
        let facts = facts.later(Position {
            history,
            offset: upto,
        });
        let (first, lasting) = facts.backlog_begins()?;
        let start = first.max(lasting.min(upto.minus(SAMPLE_LEAST)));
        let shared = facts.branched_off().filter(|(old, _)| *old == history);
        let end = shared.map_or(self.end(), |(_, shared)| shared.min(self.end()));
        let part = self.up_to(end)?.after(start)?;
        let known = |offset| facts.would_continue(Position { history, offset });
        let goes_on = part.start < upto && upto <= end && known(part.start) && known(upto);
        goes_on.then_some(part)
    }

    /// The end of this, and of `chunks`, which begin after `at`.
    #[must_use]
    pub fn and_then(before: Option<Self>, at: Offset, chunks: &[Bytes]) -> Option<Self> {
        let before = before.filter(|before| before.end() == at);
        let start = before.as_ref().map_or(at, |before| before.start);
        let before = before.map(|before| before.bytes);
        let all = || before.iter().chain(chunks);
        let total = all().fold(0_u64, |sum, bytes| sum.saturating_add(bytes.len() as u64));
        let start = start.plus(total.saturating_sub(SAMPLE_MOST));
        let mut skip = length(total.saturating_sub(SAMPLE_MOST));
        let mut end = BytesMut::new();
        for bytes in all() {
            end.extend_from_slice(bytes.get(skip..).unwrap_or_default());
            skip = skip.saturating_sub(bytes.len());
        }
        let bytes = end.freeze();
        (!bytes.is_empty()).then_some(Self { start, bytes })
    }

    /// The end of a log in the store: what comes before its last boundary, and after that, up to as much of each. None: there is
    /// none, or it cannot be read.
    ///
    /// # Errors
    /// [`ArchiveError::Store`].
    pub async fn of_store(
        archive: &Archive,
        catalog: &Catalog,
        history: ReplId,
        end: &LogEnd,
    ) -> Result<Option<Self>, ArchiveError> {
        match read(archive, catalog, history, end).await {
            Err(error @ ArchiveError::Store(_)) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "the end of the log cannot be compared");
                Ok(None)
            }
            Ok(sample) => Ok(sample),
        }
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

async fn read(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    end: &LogEnd,
) -> Result<Option<Sample>, ArchiveError> {
    let upto = end.boundary.offset;
    let mut log = archive
        .last_of_log(catalog, history, SAMPLE_SEGMENTS)
        .await?;
    if log.first().is_some_and(|object| object.first() > upto.0) {
        // The point was left long ago.
        log = archive.last_of_log(catalog, history, usize::MAX).await?;
    }
    let mut after = Bytes::new();
    if upto < end.end {
        // A unit that is cut: it may be sent again in full, and is longer than what is compared of it.
        let mut following = log.iter().filter(|object| object.first() > upto.0);
        if let Some(Entry::Segment(header)) = match following.next() {
            Some(object) => archive.entry_of(history, *object).await?,
            None => None,
        } && header.meta.start == upto
            && !header.is_gap()
        {
            after = begin_of(archive, &header).await?;
        }
    }
    let mut bytes = Bytes::new();
    let mut begins = upto;
    let before_end = |object: &&LogObject| object.first() > upto.0;
    let above = |of: u64| {
        let mut firsts = log.iter().map(|object| object.first());
        firsts.find(|first| *first > of)
    };
    for object in log
        .iter()
        .rev()
        .skip_while(before_end)
        .take(SAMPLE_SEGMENTS)
    {
        let header = match archive.entry_of(history, *object).await? {
            Some(Entry::Segment(header))
                if header.meta.end >= begins
                    && !header.is_gap()
                    // Else it is stale.
                    && (header.is_span()
                        || above(object.first()).is_none_or(|above| header.meta.end.0 < above)) =>
            {
                header
            }
            _ => break,
        };
        let of_segment = end_of(archive, &header, begins).await?;
        let is_whole = of_segment.len() as u64 == begins.since(header.meta.start);
        begins = header.meta.start;
        bytes = [of_segment, bytes].concat().into();
        if !is_whole || bytes.len() as u64 >= SAMPLE_MOST || is_enough(&header, &bytes) {
            break;
        }
    }
    let begin = upto.minus(bytes.len() as u64);
    let Some(before) = Sample::and_then(None, begin, &[bytes]) else {
        return Ok(None);
    };
    let bytes = [before.bytes, after].concat().into();
    Ok(Some(Sample { bytes, ..before }))
}

/// Has a log, from the beginning of this segment on, writes enough?
fn is_enough(header: &SegmentHeader, bytes: &[u8]) -> bool {
    if !header.meta.starts_at_boundary {
        return false;
    }
    let mut writes: u64 = 0;
    let mut scanner = FeedScanner::new(Boundary {
        offset: header.meta.start,
        db: header.meta.db_at_start,
    });
    let scanned = scanner.scan(bytes, |command| {
        writes = writes.saturating_add(u64::from(!command.is_idle()));
    });
    scanned.is_err() || writes >= SAMPLE_WRITES
}

/// What a segment has before `upto`: all of it, if it is not long.
async fn end_of(
    archive: &Archive,
    header: &SegmentHeader,
    upto: Offset,
) -> Result<Bytes, ArchiveError> {
    // Of a span, only the frames with these bytes are read.
    let begin = header.meta.start.max(upto.minus(SAMPLE_MOST));
    let pieces = archive.read_part(header, begin, upto).await?;
    let pieces: Vec<Bytes> = pieces.try_collect().await?;
    Ok(pieces.concat().into())
}

/// The first bytes of a segment.
async fn begin_of(archive: &Archive, header: &SegmentHeader) -> Result<Bytes, ArchiveError> {
    let mut bytes = BytesMut::new();
    let mut pieces = archive.read_segment(header).await?;
    while let Some(piece) = pieces.next().await.transpose()? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 >= SAMPLE_MOST {
            bytes.truncate(length(SAMPLE_MOST));
            break;
        }
    }
    Ok(bytes.freeze())
}

/// Compares a segment of another writer with the same bytes in `shared`. If they are the same, calls `note` with the
/// part that is still to come, before more is received. `false`: they differ, so the other feed is not ours.
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
        state.buffer.note_recent(start, &all);
        let rest = stored.filter(|_| received < end).map(|bytes| Sample {
            // Of what was received already the same was found.
            start,
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
