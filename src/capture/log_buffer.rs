//! The end of the log: bytes that were received and are not stored yet. They are in memory or in the spool.
//!
//! This module is pure. It is told what arrives, when it arrives, and what was stored. It says what the next segment
//! is, what may be acknowledged, and which bytes may go to the spool. Other modules read and write. The invariant, for
//! one history:
//!
//! ```text
//!   stored boundary ≤ stored      bytes held: (stored, received]
//!   received boundary ≤ received  (stored may be ahead of received, when another writer was faster)
//! ```

mod resent;
mod spooling;

use bytes::Bytes;
use std::collections::VecDeque;
use tokio::time::Instant;

pub use self::resent::Again;
pub use self::spooling::Batch;
use super::overlap::Sample;
use crate::capture::spool::Held;
use crate::log::segment::{ClockBack, SegmentMeta};
use crate::wire::position::{Boundary, Offset, Position, ReplId, TimeMark};
use crate::wire::resp::{FeedError, FeedScanner};

/// A stretch of this length has one time mark, at its end.
const MARK_INTERVAL_MS: i64 = 100;
/// Time marks of one segment, about: its header holds tens of thousands ([`crate::log::segment::HEADER_LIMIT`]).
const MARKS_LIMIT: i64 = 8192;
/// What a chunk costs beside its bytes. Tiny chunks must not evade the memory limit.
const CHUNK_OVERHEAD: usize = 128;
/// What a chunk costs when its bytes are in the spool, including its share of record and file.
const SPOOLED_COST: usize = 256;

/// Received bytes are kept in pieces of this size. Boundaries are known to this grain, and a segment is at least some
/// pieces long ([`crate::config::SEGMENT_SIZE_MIN`]).
const PIECE: usize = 16 * 1024;

/// A clock that is behind the last mark by less than this is being corrected. Marks need not be more exact.
const CLOCK_TOLERANCE_MS: i64 = 1000;

/// The clocks of two listeners may differ by so much: marks are held then, and no time is refused.
const OTHERS_TOLERANCE_MS: i64 = 20_000;

/// Bytes that were received at once, or, for bytes in the spool, within 100 ms.
#[derive(Debug, Clone)]
struct Chunk {
    /// Offset before the first byte.
    start: Offset,
    held: Held,
    /// The last boundary in (start, end].
    boundary: Option<Boundary>,
    received: Moment,
    /// The end of its last command other than `PING` and `GETACK`.
    data_to: Option<Offset>,
    /// The last boundary in it before the first such command.
    idle_to: Option<Offset>,
}

impl Chunk {
    fn end(&self) -> Offset {
        self.start.plus(self.held.len() as u64)
    }

    /// Drops the bytes up to `offset`.
    fn advance_to(&mut self, offset: Offset) {
        let drop = usize::try_from(offset.since(self.start))
            .unwrap_or(usize::MAX)
            .min(self.held.len());
        self.held.advance(drop);
        self.start = self.start.plus(drop as u64);
        self.boundary = self
            .boundary
            .filter(|boundary| boundary.offset > self.start);
        self.idle_to = self.idle_to.filter(|end| *end > self.start);
        if self.data_to.is_some_and(|end| end <= self.start) {
            self.data_to = None;
            self.idle_to = self.boundary.map(|boundary| boundary.offset);
        }
    }
}

/// A point in time, on both clocks: the wall clock goes into time marks and may jump, the other one measures ages.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Unix milliseconds.
    pub unix_ms: i64,
    /// Never goes back.
    pub instant: Instant,
}

/// How a piece of the feed asks for attention.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// A `REPLCONF GETACK` was among it: what is stored is wanted at once.
    pub getack: bool,
    /// Something else than `GETACK` was among it.
    pub other: bool,
}

/// A segment to be: its description and its raw bytes.
#[derive(Debug, Clone)]
pub struct Pending {
    /// What its header will say.
    pub meta: SegmentMeta,
    /// Its raw bytes.
    pub chunks: Vec<Held>,
}

/// What is received of one history and not yet stored.
#[derive(Debug)]
pub struct LogBuffer {
    history: ReplId,
    writer: String,
    scanner: FeedScanner,
    chunks: VecDeque<Chunk>,
    memory: usize,
    stored: Offset,
    stored_boundary: Boundary,
    last_mark_ms: i64,
    /// The last mark of another writer that was ahead of ours.
    others_mark_ms: i64,
    /// What the clock said last.
    said_ms: i64,
    clock_back: Option<ClockBack>,
    /// The same for a clock that has come to the last mark again, with the last byte received before: not all of that is stored.
    was_back: Option<(ClockBack, Offset)>,
    getack: bool,
    data_chunks: usize,
    /// Counts how often bytes were forgotten that may come again.
    epoch: u64,
    /// Stored, or held, and to be received still: it is compared with what comes.
    overlaps: Vec<Sample>,
    /// This is sent once more, to prove that the server has it; nothing is acknowledged before. It is no part of what is received.
    proving: Option<Sample>,
    /// The end of what is stored.
    recent: Option<Sample>,
}

/// What cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// It is no command feed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// After this offset, something else is stored.
    #[error("the bytes received after offset {0} differ from those that are stored there")]
    Differs(Offset),
}

impl LogBuffer {
    /// Begins after `boundary`, the last safe point of what is stored up to `stored`.
    #[must_use]
    pub fn new(
        history: ReplId,
        boundary: Boundary,
        stored: Offset,
        last_mark_ms: i64,
        writer: String,
    ) -> Self {
        Self {
            history,
            writer,
            scanner: FeedScanner::new(boundary),
            chunks: VecDeque::new(),
            memory: 0,
            stored: stored.max(boundary.offset),
            stored_boundary: boundary,
            last_mark_ms,
            others_mark_ms: i64::MIN,
            said_ms: last_mark_ms,
            clock_back: None,
            was_back: None,
            getack: false,
            data_chunks: 0,
            epoch: 0,
            overlaps: Vec::new(),
            proving: None,
            recent: None,
        }
    }

    /// The history.
    #[must_use]
    pub fn history(&self) -> ReplId {
        self.history
    }

    /// The last byte received.
    #[must_use]
    pub fn received(&self) -> Position {
        Position {
            history: self.history,
            offset: self.scanner.offset(),
        }
    }

    /// The last boundary received: where a new link continues.
    #[must_use]
    pub fn boundary(&self) -> Boundary {
        self.scanner.boundary()
    }

    /// The last byte stored.
    #[must_use]
    pub fn stored(&self) -> Position {
        Position {
            history: self.history,
            offset: self.stored,
        }
    }

    /// The last boundary stored.
    #[must_use]
    pub fn stored_boundary(&self) -> Boundary {
        self.stored_boundary
    }

    /// The wall clock of the last time mark, Unix milliseconds.
    #[must_use]
    pub fn last_mark_ms(&self) -> i64 {
        self.last_mark_ms
    }

    /// What the clock said last, Unix milliseconds.
    #[must_use]
    pub fn said_ms(&self) -> i64 {
        self.said_ms
    }

    /// Tells the time of the clock. Returns true when this is news: the clock has gone back before the last mark, and
    /// this was not reported yet.
    pub fn clock_says(&mut self, now_unix_ms: i64) -> bool {
        self.said_ms = now_unix_ms;
        let tolerance = match self.last_mark_ms == self.others_mark_ms {
            true => OTHERS_TOLERANCE_MS,
            false => CLOCK_TOLERANCE_MS,
        };
        let behind = self.last_mark_ms.saturating_sub(now_unix_ms);
        if behind <= 0
            && let Some(back) = self.clock_back.take()
        {
            self.was_back = Some((back, self.scanner.offset()));
        }
        if behind < tolerance && self.clock_back.is_none() {
            return false;
        }
        let to_unix_ms = match self.clock_back {
            Some(before) => before.to_unix_ms.min(now_unix_ms),
            None => now_unix_ms,
        };
        let before = self.clock_back.replace(ClockBack {
            to_unix_ms,
            now_unix_ms,
        });
        before.is_none()
    }

    /// Another writer has stored what comes before, with this last mark. Its clock may be ahead of ours: no later mark goes back
    /// behind it. Returns true when it is news that our clock is behind.
    pub fn continues_after_mark(&mut self, others_mark_ms: i64) -> bool {
        if others_mark_ms <= self.last_mark_ms {
            return false;
        }
        self.last_mark_ms = others_mark_ms;
        self.others_mark_ms = others_mark_ms;
        let said = self.said_ms;
        let oldest = self.chunks.front().map(|chunk| chunk.received.unix_ms);
        for chunk in &mut self.chunks {
            chunk.received.unix_ms = others_mark_ms;
        }
        let oldest = oldest.filter(|oldest| *oldest < said);
        let is_news = oldest.is_some_and(|oldest| self.clock_says(oldest));
        self.clock_says(said) || (is_news && self.clock_back.is_some())
    }

    /// Bytes of memory in use.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// When the oldest bytes with data in them were received.
    #[must_use]
    pub fn oldest_data(&self) -> Option<Instant> {
        self.chunks
            .iter()
            .find(|chunk| chunk.data_to.is_some())
            .map(|chunk| chunk.received.instant)
    }

    /// When the oldest bytes were received, idle traffic included.
    #[must_use]
    pub fn oldest(&self) -> Option<Instant> {
        self.chunks.front().map(|chunk| chunk.received.instant)
    }

    /// Is there anything but idle traffic that is not stored?
    #[must_use]
    pub fn has_data(&self) -> bool {
        self.data_chunks > 0
    }

    /// Is there a whole unit, idle traffic included, that is not stored?
    #[must_use]
    pub fn has_whole_unit(&self) -> bool {
        self.chunks.iter().any(|chunk| chunk.boundary.is_some())
    }

    /// Up to here, everything that is not stored is idle traffic. That is no lag.
    #[must_use]
    pub fn idle_up_to(&self) -> Offset {
        if self.has_data() {
            self.stored
        } else {
            self.scanner.offset()
        }
    }

    /// Does the master wait for an acknowledgement (since the last [`Self::answered`])?
    #[must_use]
    pub fn getack_pending(&self) -> bool {
        self.getack
    }

    /// The acknowledgement that a `GETACK` asked for was sent.
    pub fn answered(&mut self) {
        self.getack = false;
    }

    /// Takes bytes that were received `now` (a wall clock that went back is held).
    ///
    /// # Errors
    /// [`PushError`]: the bytes are no command feed, or not what is stored; nothing of them after the last boundary
    /// counts.
    pub fn push(&mut self, mut bytes: Bytes, now: Moment) -> Result<Arrival, PushError> {
        let mut arrival = Arrival::default();
        self.prove(&mut bytes)?;
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(PIECE));
            let more = self.push_piece(piece, now)?;
            arrival.getack |= more.getack;
            arrival.other |= more.other;
        }
        Ok(arrival)
    }

    fn push_piece(&mut self, mut bytes: Bytes, now: Moment) -> Result<Arrival, PushError> {
        let at = self.scanner.offset();
        if self.overlaps.iter().any(|known| known.differs(at, &bytes)) {
            return Err(PushError::Differs(at));
        }
        self.said_ms = now.unix_ms;
        self.last_mark_ms = self.last_mark_ms.max(now.unix_ms);
        let received = Moment {
            unix_ms: self.last_mark_ms,
            ..now
        };
        let start = self.scanner.offset();
        let mut arrival = Arrival::default();
        let (mut data_to, mut idle_to) = (None, None);
        let scanned = self.scanner.scan(&bytes, |command| {
            if !command.is_idle() {
                data_to = Some(command.end);
            } else if data_to.is_none() && command.at_boundary {
                idle_to = Some(command.end);
            }
            let getack = command.is_getack();
            arrival.getack |= getack;
            arrival.other |= !getack;
        });
        self.getack |= arrival.getack;
        let boundary = Some(self.scanner.boundary()).filter(|boundary| boundary.offset > start);
        if scanned.is_err() {
            // The complete commands before the noise count: a new link continues after them.
            let keep = boundary.map_or(0, |boundary| boundary.offset.since(start));
            bytes.truncate(usize::try_from(keep).unwrap_or(usize::MAX));
        }
        let mut chunk = Chunk {
            start,
            held: Held::Memory(bytes),
            boundary,
            received,
            data_to,
            idle_to,
        };
        let held = self.chunks.back().map_or(self.stored, Chunk::end);
        if chunk.start < held {
            chunk.advance_to(held);
        }
        if !chunk.held.is_empty() {
            self.put_back(chunk);
        }
        self.note_stored_boundary();
        let done = self.scanner.boundary().offset;
        self.overlaps.retain(|known| known.end() > done);
        Ok(scanned.map(|()| arrival)?)
    }

    /// The link has ended: forgets what was received after the last boundary. A new link starts there.
    pub fn truncate_to_boundary(&mut self) {
        self.go_back(self.scanner.boundary());
    }

    /// The spool has lost what is at `offset`: forgets it and everything after it. The server is asked for it again.
    pub fn lose_from(&mut self, offset: Offset) {
        let kept = self.chunks.partition_point(|chunk| chunk.end() <= offset);
        let last = self.chunks.iter().take(kept).rev();
        let boundary = last.filter_map(|chunk| chunk.boundary).next();
        self.go_back(boundary.unwrap_or(self.stored_boundary));
    }

    fn go_back(&mut self, boundary: Boundary) {
        self.epoch = self.epoch.wrapping_add(1);
        while let Some(mut chunk) = self.chunks.pop_back() {
            self.forget(&chunk);
            if chunk.start >= boundary.offset {
                continue;
            }
            let keep = usize::try_from(boundary.offset.since(chunk.start)).unwrap_or(usize::MAX);
            chunk.held.truncate(keep);
            chunk.idle_to = chunk.idle_to.map(|end| end.min(boundary.offset));
            chunk.data_to = chunk.data_to.map(|end| end.min(boundary.offset));
            self.put_back(chunk);
            break;
        }
        self.scanner = FeedScanner::new(boundary);
        self.proving = None;
        self.getack = false;
    }

    /// The next segment: up to `size` bytes that end at a boundary. Where a single unit is longer than that, it is cut
    /// at `size`, so that memory stays bounded. None when there is no whole unit yet.
    #[must_use]
    pub fn next_segment(&self, size: usize) -> Option<Pending> {
        let cut = self.cut(size)?;
        let mut chunks = Vec::new();
        let mut marks: Vec<TimeMark> = Vec::new();
        let mut boundary = None;
        // After each stretch of this many milliseconds there is a mark with the time of its last byte: what came before
        // a pause must not seem to have come after it.
        let mut last: Option<TimeMark> = None;
        let mut stretch_began = None;
        let stretch = self.mark_interval(cut);
        for chunk in self.chunks.iter().take_while(|chunk| chunk.start < cut) {
            let take = usize::try_from(cut.since(chunk.start))
                .unwrap_or(usize::MAX)
                .min(chunk.held.len());
            let mut held = chunk.held.clone();
            held.truncate(take);
            chunks.push(held);
            boundary = chunk
                .boundary
                .filter(|boundary| boundary.offset <= cut)
                .or(boundary);
            let mark = TimeMark {
                unix_ms: chunk.received.unix_ms,
                offset: chunk.end().min(cut),
            };
            let began = *stretch_began.get_or_insert(mark.unix_ms);
            if mark.unix_ms.saturating_sub(began) >= stretch {
                marks.extend(last);
                stretch_began = Some(mark.unix_ms);
            }
            last = Some(mark);
        }
        marks.extend(last);
        let was_back = self.was_back.filter(|(_, end)| self.stored < *end);
        let was_back = was_back.map(|(back, _)| back);
        let meta = SegmentMeta {
            history: self.history,
            start: self.stored,
            end: cut,
            db_at_start: self.stored_boundary.db,
            starts_at_boundary: self.stored_boundary.offset == self.stored,
            boundary,
            marks,
            clock_back: self.clock_back.or(was_back),
            writer: self.writer.clone(),
        };
        Some(Pending { meta, chunks })
    }

    /// No segment has marks that are closer together than this. What was received up to `cut` over hours (while the
    /// store was away) must still fit into one header.
    fn mark_interval(&self, cut: Offset) -> i64 {
        let mut waiting = self.chunks.iter().take_while(|chunk| chunk.start < cut);
        let first = waiting.next().map_or(0, |chunk| chunk.received.unix_ms);
        let last = waiting.last().map_or(first, |chunk| chunk.received.unix_ms);
        (last.saturating_sub(first) / MARKS_LIMIT).max(MARK_INTERVAL_MS)
    }

    /// Where to cut a segment of about `size` bytes.
    fn cut(&self, size: usize) -> Option<Offset> {
        let soft = self.stored.plus(size as u64);
        // A unit somewhat longer than `size` is better whole than cut. Memory holds twice `size`, so this stays below.
        let hard = soft.plus((size / 2) as u64);
        let mut best = None;
        for boundary in self.chunks.iter().filter_map(|chunk| chunk.boundary) {
            if boundary.offset <= soft || (best.is_none() && boundary.offset <= hard) {
                best = Some(boundary.offset);
            } else {
                break;
            }
        }
        let received = self.chunks.back().map_or(self.stored, Chunk::end);
        let must = received >= hard || self.is_full(size);
        best.or_else(|| must.then_some(soft.min(received)))
    }

    /// Is memory in use for two segments of `size`? Then nothing more may be read, so one must be stored, even if it is
    /// short: pieces that came in one by one cost more than their bytes.
    #[must_use]
    pub fn is_full(&self, size: usize) -> bool {
        self.memory >= size.saturating_mul(2)
    }

    /// Everything up to `end` is stored, by us or by another writer of the same feed. `boundary` is its last safe
    /// point.
    pub fn mark_stored(&mut self, end: Offset, boundary: Option<Boundary>) {
        if end <= self.stored {
            return;
        }
        self.stored = end;
        if let Some(boundary) =
            boundary.filter(|b| b.offset > self.stored_boundary.offset && b.offset <= end)
        {
            self.stored_boundary = boundary;
        }
        while let Some(mut front) = self.chunks.pop_front_if(|front| front.start < end) {
            self.forget(&front);
            if front.end() > end {
                front.advance_to(end);
                self.memory = self.memory.saturating_add(cost(&front));
                self.data_chunks = self
                    .data_chunks
                    .saturating_add(usize::from(front.data_to.is_some()));
                self.chunks.push_front(front);
                break;
            }
        }
        self.note_stored_boundary();
    }

    fn put_back(&mut self, chunk: Chunk) {
        self.memory = self.memory.saturating_add(cost(&chunk));
        self.data_chunks = self
            .data_chunks
            .saturating_add(usize::from(chunk.data_to.is_some()));
        self.chunks.push_back(chunk);
    }

    fn forget(&mut self, chunk: &Chunk) {
        self.memory = self.memory.saturating_sub(cost(chunk));
        self.data_chunks = self
            .data_chunks
            .saturating_sub(usize::from(chunk.data_to.is_some()));
    }

    /// What was just received may have been stored before, by a faster writer.
    fn note_stored_boundary(&mut self) {
        let received = self.scanner.boundary();
        if received.offset <= self.stored && received.offset > self.stored_boundary.offset {
            self.stored_boundary = received;
        }
    }

    /// The last boundary up to which the store lacks nothing but idle traffic: with that no data is lost.
    fn lacks_no_data_to(&self) -> Offset {
        let mut end = self.stored_boundary.offset;
        for chunk in &self.chunks {
            end = end.max(chunk.idle_to.unwrap_or(end));
            if chunk.data_to.is_some() {
                break;
            }
        }
        end
    }

    /// What may be acknowledged: what is stored (or received, when `received` says so), and the idle traffic right
    /// after it, which servers up to 7.0 need for `WAIT`. It is at a boundary, and one byte short of the end of the
    /// stream, because `FAILOVER` takes any replica that has all of it. With `exact` (the master is shutting down) the
    /// very end is acknowledged, too, but only what is stored: the master comes back from there, and has nothing before
    /// it in its backlog.
    #[must_use]
    pub fn acknowledge(&self, received: bool, exact: bool) -> Offset {
        if self.proving.is_some() {
            return Offset(0);
        }
        let mine = self.scanner.boundary().offset;
        let short = self.scanner.offset().minus(1);
        let safe = match (received, exact) {
            (true, true) => return mine,
            (true, false) => return mine.min(short),
            (false, true) => mine.min(self.stored_boundary.offset),
            (false, false) => mine.min(self.lacks_no_data_to()).min(short),
        };
        debug_assert!(
            self.holds_no_data_before(safe),
            "acknowledged: what is stored, or idle"
        );
        safe
    }

    /// Is everything that waits and begins before `end` idle traffic? (Of a chunk with data this is known up to its
    /// first data.)
    fn holds_no_data_before(&self, end: Offset) -> bool {
        let mut before = self.chunks.iter().take_while(|chunk| chunk.start < end);
        before.all(|chunk| chunk.data_to.is_none() || chunk.idle_to.is_some_and(|idle| end <= idle))
    }
}

fn cost(chunk: &Chunk) -> usize {
    match &chunk.held {
        Held::Memory(bytes) => bytes.len().saturating_add(CHUNK_OVERHEAD),
        Held::Spooled { .. } => SPOOLED_COST,
    }
}

#[cfg(test)]
#[path = "log_buffer_tests.rs"]
mod tests;
