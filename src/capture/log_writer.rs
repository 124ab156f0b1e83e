//! Stores the feed: takes segments off the [`Tail`] when it is time, creates them in the archive, in order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Clock;
use super::tail::{Arrival, Moment, Pending, Tail};
use crate::archive::{AppendError, Archive, ArchiveError};
use crate::config::CaptureConfig;
use crate::position::{Boundary, Offset, Position, ReplId};
use crate::resp::FeedError;
use crate::segment::{self, Entry, SealHeader, SegmentError};
use crate::status::Status;

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
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something arrived, or a flush is wanted.
    wake: Notify,
    /// Something was stored, or the writer ended.
    progress: Notify,
}

#[derive(Debug)]
struct State {
    tail: Tail,
    /// Store everything that can be, idle traffic too.
    flush: bool,
    /// The snapshot that the log belongs to does not count yet.
    held: bool,
    superseded: Option<SealHeader>,
    failing: Option<String>,
}

impl LogWriter {
    /// Starts to store what will be pushed.
    #[must_use]
    pub fn start(
        tail: Tail,
        archive: Archive,
        config: CaptureConfig,
        status: Status,
        clock: Clock,
    ) -> Self {
        status.stored(tail.stored(), clock());
        status.received(tail.received(), clock());
        let state = State {
            tail,
            flush: false,
            held: false,
            superseded: None,
            failing: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: Notify::new(),
            progress: Notify::new(),
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            archive,
            config,
            status,
            clock,
        };
        Self {
            shared,
            task: tokio::spawn(worker.run()),
        }
    }

    /// Takes bytes of the feed.
    ///
    /// # Errors
    /// [`FeedError`]: they are no command feed.
    pub fn push(&self, bytes: Bytes, now: Moment) -> Result<Arrival, FeedError> {
        let arrival = self.shared.state().tail.push(bytes, now);
        self.shared.wake.notify_one();
        arrival
    }

    /// Looks at the tail, or changes it.
    pub fn tail<R>(&self, look: impl FnOnce(&mut Tail) -> R) -> R {
        look(&mut self.shared.state().tail)
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
        !self.shared.state().tail.has_whole_unit()
    }

    /// Waits until every whole unit is stored; false if it was superseded before.
    pub async fn drain(&self) -> bool {
        loop {
            // The wish is renewed, as it ends with every flush.
            self.flush();
            let progress = self.shared.progress.notified();
            if self.superseded().is_some() {
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

    /// Why the store does not take segments at the moment.
    #[must_use]
    pub fn failing(&self) -> Option<String> {
        self.shared.state().failing.clone()
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Next {
    Store(Pending),
    Wait(Option<Duration>),
}

enum Stored {
    /// Up to here; by us, or by another writer of the same feed.
    UpTo(Offset, Option<Boundary>),
    Sealed(SealHeader),
}

struct Worker {
    shared: Arc<Shared>,
    archive: Archive,
    config: CaptureConfig,
    status: Status,
    clock: Clock,
}

impl Worker {
    async fn run(self) {
        loop {
            let woken = self.shared.wake.notified();
            match self.next() {
                Next::Store(pending) => match self.store(pending).await {
                    Stored::UpTo(end, boundary) => self.stored(end, boundary),
                    Stored::Sealed(seal) => {
                        self.shared.state().superseded = Some(seal);
                        self.shared.progress.notify_one();
                        return;
                    }
                },
                Next::Wait(None) => woken.await,
                Next::Wait(Some(time)) => {
                    tokio::select! { () = woken => {} () = sleep(time) => {} }
                }
            }
        }
    }

    fn next(&self) -> Next {
        let mut state = self.shared.state();
        let size = self.config.segment_size;
        let tail = &state.tail;
        let unstored = tail.received().offset.since(tail.stored().offset);
        let data_due = tail
            .oldest_data()
            .map(|since| left(since, self.config.flush_interval));
        let idle_due = tail
            .oldest()
            .map(|since| left(since, self.config.idle_interval));
        let due = data_due.into_iter().chain(idle_due).min();
        let now = state.flush
            || unstored >= size as u64
            || tail.is_full(size)
            || (tail.getack_pending() && tail.has_data())
            || due.is_some_and(|due| due.is_zero());
        if state.held {
            return Next::Wait(None);
        }
        if !now {
            return Next::Wait(due);
        }
        match state.tail.next_segment(size) {
            Some(pending) => Next::Store(pending),
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
        state.tail.mark_stored(end, boundary);
        state.failing = None;
        let (stored, idle) = (state.tail.stored(), state.tail.idle_up_to());
        drop(state);
        self.status.stored(stored, (self.clock)());
        self.status.idle(idle);
        self.shared.progress.notify_one();
    }

    /// Creates one segment, however long the store is away: there is no other way to keep what was received.
    async fn store(&self, pending: Pending) -> Stored {
        let (end, boundary) = (pending.meta.end, pending.meta.boundary);
        let (header, body) = match encode(pending).await {
            Ok(encoded) => encoded,
            Err(error) => return self.refuse_to_lose(&error).await,
        };
        let mut pause = RETRY_FIRST;
        loop {
            match self.archive.append(&header, body.clone()).await {
                Ok(()) => {
                    self.status.metrics().segments_stored.inc();
                    self.status.metrics().bytes_stored.inc_by(body.len() as u64);
                    return Stored::UpTo(end, boundary);
                }
                Err(AppendError::Taken(entry)) => match *entry {
                    Entry::Segment(theirs) => {
                        tracing::debug!(from = %theirs.meta.start, to = %theirs.meta.end, by = theirs.meta.writer,
                            "another writer of the same feed was first");
                        return Stored::UpTo(theirs.meta.end, theirs.meta.boundary);
                    }
                    Entry::Seal(seal) => return Stored::Sealed(seal),
                },
                Err(AppendError::Archive(error)) => self.failed(&error),
            }
            sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(RETRY_MAX);
        }
    }

    fn failed(&self, error: &ArchiveError) {
        self.status.metrics().store_errors.inc();
        let text = error.to_string();
        let mut state = self.shared.state();
        if state.failing.as_ref() != Some(&text) {
            tracing::warn!(%error, "cannot store the log; what was received is kept and tried again");
        }
        state.failing = Some(text.clone());
        drop(state);
        self.status.error(text, (self.clock)());
    }

    /// A segment that cannot be encoded (out of memory in zstd): nothing is acknowledged, and the next try is as good.
    async fn refuse_to_lose(&self, error: &SegmentError) -> Stored {
        tracing::error!(%error, "cannot make a log segment; nothing more is acknowledged until it works");
        sleep(RETRY_MAX).await;
        let stored = self.shared.state().tail.stored().offset;
        Stored::UpTo(stored, None)
    }
}

async fn encode(pending: Pending) -> Result<(segment::SegmentHeader, Bytes), SegmentError> {
    let Pending { meta, chunks } = pending;
    if meta.end.since(meta.start) < INLINE_BYTES {
        return segment::encode(meta, &chunks, LEVEL);
    }
    let (copy, parts) = (meta.clone(), chunks.clone());
    match tokio::task::spawn_blocking(move || segment::encode(copy, &parts, LEVEL)).await {
        Ok(encoded) => encoded,
        // The runtime is ending, or zstd panicked: here it is done again, or fails with its own words.
        Err(_) => segment::encode(meta, &chunks, LEVEL),
    }
}

fn left(since: Instant, interval: Duration) -> Duration {
    interval.saturating_sub(since.elapsed())
}

/// Up to a quarter less, so that many writers do not try in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - rand::random::<f64>() / 4.0)
}

/// Seals a log after what is stored of it, taking in what another writer stores meanwhile. The end that was sealed.
///
/// # Errors
/// [`ArchiveError`], of the store.
pub async fn seal(
    archive: &Archive,
    history: ReplId,
    mut end: Offset,
    reason: &str,
    writer: &str,
    unix_ms: i64,
) -> Result<Position, ArchiveError> {
    loop {
        match archive.seal(history, end, reason, writer, unix_ms).await {
            Ok(()) => {
                return Ok(Position {
                    history,
                    offset: end,
                });
            }
            Err(AppendError::Taken(entry)) => match *entry {
                Entry::Segment(theirs) => end = theirs.meta.end.max(end.plus(1)),
                Entry::Seal(_) => {
                    return Ok(Position {
                        history,
                        offset: end,
                    });
                }
            },
            Err(AppendError::Archive(error)) => return Err(error),
        }
    }
}
