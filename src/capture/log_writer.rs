//! Stores the feed: takes segments from the [`LogBuffer`] when they are due, and creates them in the archive, in order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::feed_memory::{Account, FeedShare};
use super::log_buffer::{Arrival, LogBuffer, Moment, Pending, PushError};
use super::spool::spooler::Spooler;
use super::{Clock, overlap};
use crate::archive::{AppendError, Archive, ArchiveError, Fence};
use crate::capture::spool::{self, Held, Spool, SpoolError};
use crate::config::{CaptureConfig, SEGMENT_SIZE_MIN};
use crate::display;
use crate::log::segment::{self, Entry, SealHeader, SegmentError, SegmentHeader, SegmentMeta};
use crate::monitoring::status::Status;
use crate::runtime::{self, backoff::Backoff};
use crate::wire::position::{Boundary, Offset};

/// zstd level of log segments: 1 costs the least time, and a log is soon consolidated away.
const LEVEL: i32 = 1;
/// Below this, compressing takes less time than handing it to another thread.
const INLINE_BYTES: u64 = 64 * 1024;
/// First and longest pause before another try at a store that failed.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The writer of one history's log, and the end of it that is in memory.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    spooler: Option<JoinHandle<()>>,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something arrived, or a flush is wanted.
    wake: Notify,
    /// Something was stored, or went to the spool, or was lost by it, or the writer ended.
    pub(super) progress: Notify,
    /// Memory may hold more than it should.
    pub(super) crowded: Notify,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) buffer: LogBuffer,
    /// What is being stored ends here.
    pub(super) in_flight: Offset,
    /// Bytes of it, which are in memory once more while they are compressed and stored.
    copied: usize,
    /// The memory of all that, where several captures share it.
    account: Account,
    /// What the spool has lost since the link began: what the link brings has no place any more.
    lost: Option<String>,
    /// The last boundary received when the spool lost something, and what it lost. That is not stored until the server
    /// has sent it again.
    missing: Option<(Offset, String)>,
    /// Store everything that can be, idle traffic too.
    flush: bool,
    /// The snapshot that the log belongs to does not count yet.
    held: bool,
    superseded: Option<SealHeader>,
    /// After this offset another writer has stored something else than what was received.
    foreign: Option<Offset>,
    /// The log went on without this writer: it has an object that begins with this byte.
    passed: Option<u64>,
    failing: Option<String>,
}

impl LogWriter {
    /// Starts to store what will be pushed. `share`: the memory of it, if other captures share it.
    #[must_use]
    pub fn start(
        buffer: LogBuffer,
        archive: Archive,
        config: CaptureConfig,
        (spool, share): (Option<Spool>, Option<&FeedShare>),
        status: Status,
        clock: Clock,
    ) -> Self {
        status.stored(buffer.stored(), clock());
        status.received(buffer.received(), clock());
        let state = State {
            in_flight: buffer.stored().offset,
            copied: 0,
            account: share.map_or_else(Account::default, FeedShare::account),
            buffer,
            lost: None,
            missing: None,
            flush: false,
            held: false,
            superseded: None,
            foreign: None,
            passed: None,
            failing: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            progress: Notify::new(),
            crowded: Notify::new(),
        });
        let spooler = spool.clone().map(|spool| {
            let spooler = Spooler {
                shared: Arc::clone(&shared),
                spool,
                config: config.clone(),
            };
            runtime::spawn(spooler.run())
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            archive,
            config,
            spool,
            status,
            clock,
        };
        Self {
            shared,
            spooler,
            task: runtime::spawn(worker.run()),
        }
    }

    /// Takes bytes of the feed. Takes none after a loss ([`Self::lost`]), because they follow what was lost.
    ///
    /// # Errors
    /// [`PushError`]: they are no command feed, or other bytes are stored in their place.
    pub fn push(&self, bytes: Bytes, now: Moment) -> Result<Arrival, PushError> {
        let mut state = self.shared.state();
        if state.lost.is_some() {
            return Ok(Arrival::default());
        }
        let arrival = state.buffer.push(bytes, now);
        state.settle_account();
        drop(state);
        self.shared.wake.notify_one();
        self.shared.crowded.notify_one();
        arrival
    }

    /// Looks again at what is to be stored or spooled, though nothing was pushed.
    pub(super) fn nudge(&self) {
        self.shared.wake.notify_one();
        self.shared.crowded.notify_one();
    }

    /// What the spool has lost. The link is then of no use, and a new one asks for it again.
    #[must_use]
    pub fn lost(&self) -> Option<String> {
        self.shared.state().lost.clone()
    }

    /// What the spool has lost and no writer has stored since.
    #[must_use]
    pub fn missing(&self) -> Option<String> {
        let state = self.shared.state();
        let stored = state.buffer.stored().offset;
        let missing = state.missing.as_ref().filter(|(end, _)| *end > stored);
        missing.map(|(_, error)| error.clone())
    }

    /// A new link continues where the log buffer now ends.
    pub fn new_link(&self) {
        self.shared.state().lost = None;
    }

    /// Looks at the log buffer, or changes it.
    pub fn buffer<R>(&self, look: impl FnOnce(&mut LogBuffer) -> R) -> R {
        let mut state = self.shared.state();
        let seen = look(&mut state.buffer);
        state.settle_account();
        seen
    }

    /// Waits until something was stored (or the writer was superseded) since the last call.
    pub async fn progress(&self) {
        self.shared.progress.notified().await;
    }

    /// Asks for everything to be stored at once.
    pub fn flush(&self) {
        self.shared.state().flush = true;
        self.shared.wake.notify_one();
    }

    /// Stores nothing until [`Self::release`]: in the store, a log that begins nowhere would look like one with a hole.
    pub fn hold(&self) {
        self.shared.state().held = true;
    }

    /// The snapshot counts: what waits may be stored.
    pub fn release(&self) {
        self.shared.state().held = false;
        self.shared.wake.notify_one();
    }

    /// Is every whole unit stored?
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        !self.shared.state().buffer.has_whole_unit()
    }

    /// Waits until every whole unit is stored. False if it was superseded before.
    pub async fn drain(&self) -> bool {
        loop {
            // The wish is renewed, as it ends with every flush.
            self.flush();
            let progress = self.shared.progress.notified();
            if !self.is_of_use() {
                return false;
            }
            if self.is_flushed() {
                return true;
            }
            progress.await;
        }
    }

    /// The seal that another writer has put after our last segment.
    #[must_use]
    pub fn superseded(&self) -> Option<SealHeader> {
        self.shared.state().superseded.clone()
    }

    /// Does it still store?
    #[must_use]
    pub fn is_of_use(&self) -> bool {
        self.superseded().is_none() && self.foreign().is_none() && self.passed().is_none()
    }

    /// The log went on without this writer, which slept for long, up to this byte at least. The store says where it
    /// goes on.
    #[must_use]
    pub fn passed(&self) -> Option<u64> {
        self.shared.state().passed
    }

    /// After this offset the store has something else than was received: the feed is not that of the history.
    #[must_use]
    pub fn foreign(&self) -> Option<Offset> {
        self.shared.state().foreign
    }

    /// Why the store does not take segments at the moment.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        self.shared.state().failing.clone()
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.task.abort();
        if let Some(spooler) = &self.spooler {
            spooler.abort();
        }
    }
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The log may hold more memory now, or less.
    pub(super) fn settle_account(&mut self) {
        let bytes = self.buffer.memory().saturating_add(self.copied);
        self.account.set(bytes);
    }

    /// Has the capture taken a good part of the memory that it may have?
    pub(super) fn is_crowded(&self) -> bool {
        self.account.is_crowded()
    }
}

enum Next {
    Store(Pending),
    Wait(Option<Duration>),
}

enum Stored {
    /// Stored up to here, by us or by another writer of the same feed.
    UpTo(Offset, Option<Boundary>),
    Sealed(SealHeader),
    /// It has something else after this offset.
    ForeignFeed(Offset),
    /// Others have gone on, and what they stored here was deleted since.
    Passed(u64),
}

struct Worker {
    shared: Arc<Shared>,
    archive: Archive,
    config: CaptureConfig,
    spool: Option<Spool>,
    status: Status,
    clock: Clock,
}

impl Worker {
    async fn run(self) {
        let mut fence = Fence::default();
        loop {
            let woken = self.shared.wake.notified();
            match self.next() {
                Next::Store(pending) => match self.store(&mut fence, pending).await {
                    Stored::UpTo(end, boundary) => self.stored(end, boundary),
                    Stored::Sealed(seal) => {
                        self.shared.state().superseded = Some(seal);
                        self.shared.progress.notify_one();
                        return;
                    }
                    Stored::ForeignFeed(at) => {
                        self.shared.state().foreign = Some(at);
                        self.shared.progress.notify_one();
                        return;
                    }
                    Stored::Passed(next) => {
                        self.shared.state().passed = Some(next);
                        self.shared.progress.notify_one();
                        return;
                    }
                },
                Next::Wait(None) => woken.await,
                Next::Wait(Some(time)) => {
                    tokio::select! { biased; () = woken => {} () = sleep(time) => {} }
                }
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = self.shared.state();
        let buffer = &state.buffer;
        // No more may be read before something is stored, however short the segment is.
        let is_full = state.account.is_full();
        let size = match is_full {
            true => (buffer.memory() / 2).clamp(SEGMENT_SIZE_MIN, self.config.segment_size),
            false => self.config.segment_size,
        };
        // A link continues at a boundary, which may lie before the end of what is stored.
        let unstored = buffer.received().offset.beyond(buffer.stored().offset);
        let data_due = buffer
            .oldest_data()
            .map(|since| left(since, self.config.flush_interval));
        let idle_due = buffer
            .oldest()
            .map(|since| left(since, self.config.idle_interval));
        let due = data_due.into_iter().chain(idle_due).min();
        let now = state.flush
            || unstored >= size as u64
            || buffer.is_full(size)
            || is_full
            || (buffer.getack_pending() && buffer.has_data())
            || due.is_some_and(|due| due.is_zero());
        if state.held {
            return Next::Wait(None);
        }
        if !now {
            return Next::Wait(due);
        }
        match state.buffer.next_segment(size) {
            Some(pending) => {
                state.in_flight = pending.meta.end;
                let bytes = pending.meta.end.since(pending.meta.start);
                state.copied = usize::try_from(bytes).unwrap_or(usize::MAX);
                state.settle_account();
                Next::Store(pending)
            }
            // A command or a transaction that has not ended: more will come, or the link will.
            None => {
                if std::mem::take(&mut state.flush) {
                    self.shared.progress.notify_one();
                }
                Next::Wait(None)
            }
        }
    }

    fn stored(&self, end: Offset, boundary: Option<Boundary>) {
        let mut state = self.shared.state();
        state.buffer.mark_stored(end, boundary);
        state.copied = 0;
        state.settle_account();
        state.failing = None;
        let (stored, idle) = (state.buffer.stored(), state.buffer.idle_up_to());
        drop(state);
        self.status.stored(stored, (self.clock)());
        self.status.idle(idle);
        self.shared.progress.notify_one();
    }

    /// Creates one segment, however long the store is away: there is no other way to keep what was received.
    async fn store(&self, fence: &mut Fence, pending: Pending) -> Stored {
        let (end, boundary) = (pending.meta.end, pending.meta.boundary);
        let (meta, chunks) = match load(pending).await {
            Ok(loaded) => loaded,
            Err((from, error)) => return self.lost(from, &error),
        };
        let recent = (meta.start, chunks.clone());
        let (header, body) = match encode(meta, chunks).await {
            Ok(encoded) => encoded,
            Err(error) => return self.refuse_to_lose(&error).await,
        };
        let mut backoff = Backoff::with_jitter(RETRY_FIRST, RETRY_MAX);
        loop {
            let appended = self.archive.append(fence, &header, body.clone()).await;
            if !matches!(appended, Err(AppendError::Archive(_))) {
                self.status.store_works();
            }
            match appended {
                Ok(()) => {
                    self.status.metrics().segments_stored.inc();
                    let (start, chunks) = recent;
                    self.shared.state().buffer.note_recent(start, &chunks);
                    return Stored::UpTo(end, boundary);
                }
                Err(AppendError::Taken(entry)) => match *entry {
                    Entry::Segment(theirs) => match self.take_over(&theirs).await {
                        Ok(stored) => return stored,
                        Err(error) => self.failed(&error),
                    },
                    Entry::Seal(seal) => return Stored::Sealed(seal),
                },
                Err(AppendError::Passed { next }) => return Stored::Passed(next),
                Err(AppendError::Archive(error)) => self.failed(&error),
            }
            sleep(backoff.pause()).await;
        }
    }

    /// What another writer of the same feed has stored need not be stored again, if the bytes are the same.
    async fn take_over(&self, theirs: &SegmentHeader) -> Result<Stored, ArchiveError> {
        let (start, end) = (theirs.meta.start, theirs.meta.end);
        tracing::debug!(
            from = %start, to = %end, by = theirs.meta.writer,
            "another writer of the same feed stored this segment first"
        );
        // A bridge has nothing to compare.
        let is_same = theirs.is_gap()
            || overlap::compare(&self.archive, &self.shared, theirs, |buffer, rest| {
                buffer.mark_stored(end, theirs.meta.boundary);
                buffer.expect(rest);
            })
            .await?;
        if let Some(last) = theirs.meta.marks.last() {
            self.continues_after_mark(last.unix_ms);
        }
        Ok(match is_same {
            true => Stored::UpTo(end, theirs.meta.boundary),
            false => Stored::ForeignFeed(start),
        })
    }

    fn continues_after_mark(&self, others_mark_ms: i64) {
        let mut state = self.shared.state();
        if state.buffer.continues_after_mark(others_mark_ms) {
            let last = display::time(others_mark_ms);
            tracing::warn!(
                "the clock of another backfeed that stores the same log is ahead of the clock of this machine: it says {last}. \
                 Nothing is lost. Until {last}, the times of the log stand still, and a restore of a time in between is refused. \
                 Set both clocks with NTP"
            );
        }
    }

    /// What the spool has lost was not stored, and so not acknowledged as stored. The master is asked for it again.
    fn lost(&self, from: Offset, error: &SpoolError) -> Stored {
        if let Some(spool) = &self.spool {
            spool.lost(error);
        }
        let mut state = self.shared.state();
        // If there are two losses, the first may reach further, when the server has not sent all of it again.
        let before = state.missing.take().map_or(Offset(0), |(end, _)| end);
        let end = state.buffer.boundary().offset.max(before);
        state.missing = Some((end, error.to_string()));
        state.buffer.lose_from(from);
        state.lost = Some(error.to_string());
        let (received, stored) = (state.buffer.received(), state.buffer.stored());
        drop(state);
        self.status.received(received, (self.clock)());
        self.shared.progress.notify_one();
        Stored::UpTo(stored.offset, None)
    }

    fn failed(&self, error: &ArchiveError) {
        let text = error.to_string();
        let news = self
            .status
            .store_failed(text.clone(), !error.is_transient(), (self.clock)());
        if news {
            tracing::warn!(%error, "cannot store the log. What was received is kept, and storing it is retried");
        }
        self.shared.state().failing = Some(text);
    }

    /// A segment that cannot be encoded (out of memory in zstd): nothing is acknowledged, and the next try is as good.
    async fn refuse_to_lose(&self, error: &SegmentError) -> Stored {
        tracing::error!(%error, "cannot make a log segment. Nothing more is acknowledged until this works");
        sleep(RETRY_MAX).await;
        let stored = self.shared.state().buffer.stored().offset;
        Stored::UpTo(stored, None)
    }
}

/// Joins what is in memory and in the spool. If a part is lost: returns where the loss begins.
async fn load(pending: Pending) -> Result<(SegmentMeta, Vec<Bytes>), (Offset, SpoolError)> {
    let Pending { meta, chunks, .. } = pending;
    let in_memory = |held: &Held| matches!(held, Held::Memory(_));
    let pieces = chunks.clone();
    let loaded = if chunks.iter().all(in_memory) {
        spool::load(&pieces)
    } else {
        match runtime::spawn_blocking(move || spool::load(&pieces)).await {
            Ok(loaded) => loaded,
            // The runtime is ending.
            Err(_) => spool::load(&chunks),
        }
    };
    match loaded {
        Ok(loaded) => Ok((meta, loaded)),
        Err((before, error)) => Err((meta.start.plus(before), error)),
    }
}

async fn encode(
    meta: SegmentMeta,
    chunks: Vec<Bytes>,
) -> Result<(SegmentHeader, Bytes), SegmentError> {
    if meta.end.since(meta.start) < INLINE_BYTES {
        return segment::encode(meta, &chunks, LEVEL);
    }
    let (copy, parts) = (meta.clone(), chunks.clone());
    match runtime::spawn_blocking(move || segment::encode(copy, &parts, LEVEL)).await {
        Ok(encoded) => encoded,
        // The runtime is ending, or zstd panicked: here it is done again, or fails with its own words.
        Err(_) => segment::encode(meta, &chunks, LEVEL),
    }
}

fn left(since: Instant, interval: Duration) -> Duration {
    interval.saturating_sub(since.elapsed())
}

#[cfg(test)]
#[path = "log_writer_tests.rs"]
mod tests;
