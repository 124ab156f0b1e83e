//! What the process is doing: for `/readyz`, `/metrics` and the log. It is handed around; there are no globals.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::config::Size;
use crate::monitoring::counters::Counters;
#[cfg(feature = "http")]
use crate::monitoring::metrics;
use crate::wire::position::{Offset, Position, ReplId, TimeMark};

/// Time marks of bytes that are not stored yet, at most. One stands for 100 ms or more, so they reach back over a
/// minute of a store that is away. Beyond that, the oldest one stays, which is the one that counts.
const PENDING_MARKS: usize = 1024;
/// Bytes received within this time share a mark.
const MARK_MS: i64 = 100;

/// What the process is doing.
///
/// ```text
/// backup:   Starting ─▶ WaitingForRedis ─▶ Connecting ─▶ [FullSync] ─▶ Following ─▶ Draining ─▶ Stopped
///                            ▲  └ also WaitingForStore        │             │
///                            └────────────────────────────────┴─────────────┘ (the link broke)
/// sidecar:  Starting ─▶ WaitingForStore ─▶ WaitingForRedis ─▶ Serving ─▶ Promoting ─▶ Connecting ─▶ …
/// either:   any ─▶ Superseded (another writer has taken over; the end)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Nothing yet.
    Starting,
    /// The store does not answer.
    WaitingForStore,
    /// Redis does not answer, or has not come to us yet.
    WaitingForRedis,
    /// Shaking hands with the master.
    Connecting,
    /// Receiving the RDB.
    FullSync,
    /// Receiving and storing the feed.
    Following,
    /// Being the master of a Redis that is restored.
    Serving,
    /// Turning the restored Redis into a master.
    Promoting,
    /// Storing the rest after SIGTERM.
    Draining,
    /// Another writer has taken over.
    Superseded,
    /// The end.
    Stopped,
}

impl Phase {
    /// Every phase, in the order of their declaration.
    pub const ALL: [Self; 11] = [
        Self::Starting,
        Self::WaitingForStore,
        Self::WaitingForRedis,
        Self::Connecting,
        Self::FullSync,
        Self::Following,
        Self::Serving,
        Self::Promoting,
        Self::Draining,
        Self::Superseded,
        Self::Stopped,
    ];

    /// The name in `/readyz`, in the label of `backfeed_phase` and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::WaitingForStore => "waiting_for_store",
            Self::WaitingForRedis => "waiting_for_redis",
            Self::Connecting => "connecting",
            Self::FullSync => "full_sync",
            Self::Following => "following",
            Self::Serving => "serving",
            Self::Promoting => "promoting",
            Self::Draining => "draining",
            Self::Superseded => "superseded",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `/readyz` shows. The names are part of the interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StatusView {
    /// The version of these names, as of all JSON: fields are added, never renamed or removed while it stays.
    pub format: u32,
    /// The version of this program.
    pub backfeed_version: &'static str,
    /// Following the feed into a store that does not refuse it, or (sidecar) the Redis beside us is open; and neither superseded
    /// nor stopping.
    pub ready: bool,
    /// What it is doing.
    pub phase: Phase,
    /// The details, for people.
    pub detail: String,
    /// Work that takes long, how far it is: a full sync, a restore, a new base.
    pub work: Vec<WorkView>,
    /// Sidecar: its Redis accepts writes.
    pub promoted: bool,
    /// The history being received.
    pub history: Option<ReplId>,
    /// The last byte received.
    pub received_offset: Option<u64>,
    /// The last byte stored.
    pub stored_offset: Option<u64>,
    /// When something was last stored, Unix milliseconds.
    pub stored_unix_ms: Option<i64>,
    /// The last byte of the master's stream, as the master said last, or as we have received since.
    pub master_offset: Option<u64>,
    /// Bytes received, not stored, and to be stored soon (`PING`s of an idle server may wait). None: nothing stored
    /// yet.
    pub lag_bytes: Option<u64>,
    /// Age of the oldest of them, in seconds. While the server is not followed: the time since it was last heard (or
    /// since the start), if that is longer, because nobody knows what it has written since.
    pub lag_seconds: f64,
    /// Why the store takes nothing at the moment, and what to do.
    pub store_error: Option<String>,
    /// Bytes of the spool's disk in use.
    pub spool_bytes: u64,
    /// Why the spool does not work at the moment.
    pub spool_error: Option<String>,
    /// The offset of the newest base.
    pub base_offset: Option<u64>,
    /// The time whose data that is, Unix milliseconds.
    pub base_unix_ms: Option<i64>,
    /// Why no base could be made of the log at the last try.
    pub consolidate_error: Option<String>,
    /// The last byte of the log that is merged into a span, as far as this process has merged.
    pub merged_offset: Option<u64>,
    /// Why the log was not merged at the last try.
    pub merge_error: Option<String>,
    /// What is deleted. None: the service deletes nothing.
    pub expiry: Option<ExpiryView>,
    /// The last restore that the service has tried. None: none yet.
    pub drill: Option<DrillView>,
    /// The last error, which may be repaired by now.
    pub last_error: Option<String>,
    /// When that was, Unix milliseconds.
    pub last_error_unix_ms: Option<i64>,
    /// Who has taken over, if another backfeed has (or seems to have: a seal was found, and the server is asked whether
    /// it has changed its history).
    pub superseded: Option<String>,
}

/// What a service has deleted by itself. Shown in `/readyz`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ExpiryView {
    /// What is kept. None: everything. Only segments that a span has are deleted.
    pub keeps: Option<String>,
    /// When a run last came to its end, Unix milliseconds.
    pub run_unix_ms: Option<i64>,
    /// The time of the oldest point that is kept, Unix milliseconds. None: no base is as old as what is to be kept.
    pub oldest_unix_ms: Option<i64>,
    /// Objects that this process has deleted.
    pub deleted_objects: u64,
    /// Their stored bytes.
    pub deleted_bytes: u64,
    /// Objects that the store did not delete in the last run.
    pub denied_objects: u64,
    /// What the store said about the first of them.
    pub denied_reason: Option<String>,
    /// What an operator should know of the last run.
    pub notes: Vec<String>,
    /// Why the last run failed.
    pub error: Option<String>,
}

/// A restore that a service has tried. Shown in `/readyz`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct DrillView {
    /// When it ended, Unix milliseconds.
    pub run_unix_ms: i64,
    /// Nothing was found wrong.
    pub passed: bool,
    /// How far values were compared: `all`, `nothing`, `read`. None: it did not come to that.
    pub compared: Option<String>,
    /// Why not further.
    pub compared_why: Option<String>,
    /// The point that was restored.
    pub offset: Option<u64>,
    /// Keys at that point.
    pub keys: u64,
    /// Keys that differ.
    pub different_keys: u64,
    /// How long it took until the data was restored.
    pub restore_ms: Option<u64>,
    /// How long all of it took.
    pub duration_ms: u64,
    /// Why it has not passed.
    pub error: Option<String>,
}

/// Work that takes long: how far it is. Shown in `/readyz`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkView {
    /// What is done: `full sync`, `restore: snapshot`.
    pub what: String,
    /// Bytes that are done.
    pub done_bytes: u64,
    /// Bytes of all of it. None: nobody knows.
    pub total_bytes: Option<u64>,
    /// The share that is done, in percent, with one decimal.
    pub percent: Option<f64>,
    /// When this began, Unix milliseconds.
    pub since_unix_ms: i64,
}

impl fmt::Display for WorkView {
    /// `full sync: 35.1 % (70.3 MiB of 200.1 MiB)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.what)?;
        match (self.percent, self.total_bytes) {
            (Some(percent), Some(total)) => {
                write!(
                    f,
                    "{percent:.1} % ({} of {})",
                    Size(self.done_bytes),
                    Size(total)
                )
            }
            _ if self.done_bytes > 0 => Size(self.done_bytes).fmt(f),
            _ => f.write_str("at work"),
        }
    }
}

/// Work in hand. It is over when this is dropped.
#[derive(Debug)]
pub struct Work {
    status: Status,
    number: u64,
}

impl Work {
    /// It comes to its next stage, of so many bytes if that is known.
    pub fn stage(&self, stage: &str, total_bytes: Option<u64>) {
        self.with(|work| {
            work.what = format!("{}: {stage}", work.name);
            work.done = 0;
            work.total = total_bytes;
            work.since_unix_ms = unix_ms_now();
        });
    }

    /// So many bytes are all of it.
    pub fn total(&self, bytes: u64) {
        self.with(|work| work.total = Some(bytes));
    }

    /// So many more bytes are done.
    pub fn advance(&self, bytes: u64) {
        self.with(|work| work.done = work.done.saturating_add(bytes));
    }

    fn with(&self, change: impl FnOnce(&mut WorkState)) {
        let mut state = self.status.state();
        if let Some(work) = state.works.get_mut(&self.number) {
            change(work);
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.status.state().works.remove(&self.number);
    }
}

struct WorkState {
    name: &'static str,
    what: String,
    done: u64,
    total: Option<u64>,
    since_unix_ms: i64,
}

impl WorkState {
    fn view(&self) -> WorkView {
        // A total of nothing is done.
        let share = |total: u64| {
            let thousandths = u128::from(self.done.min(total)).saturating_mul(1000);
            let thousandths = thousandths.checked_div(u128::from(total)).unwrap_or(1000);
            u32::try_from(thousandths).map_or(100.0, |share| f64::from(share) / 10.0)
        };
        WorkView {
            what: self.what.clone(),
            done_bytes: self.done,
            total_bytes: self.total,
            percent: self.total.map(share),
            since_unix_ms: self.since_unix_ms,
        }
    }
}

/// The store takes nothing.
struct StoreFailure {
    text: String,
    /// It will not by itself: a permission, a bucket that is not there.
    permanent: bool,
}

/// A handle on the state of the process. Clones share it.
#[derive(Clone)]
pub struct Status(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    counters: Counters,
}

struct State {
    phase: Phase,
    detail: String,
    promoted: bool,
    /// stored ≤ received wherever both are of one history.
    received: Option<Position>,
    stored: Option<Position>,
    stored_unix_ms: Option<i64>,
    master: Option<Position>,
    /// When something was last received from the server. Before that, when we started.
    heard_unix_ms: i64,
    /// Nothing up to here is worth storing now.
    idle: Offset,
    /// When bytes beyond what is stored were received, oldest first.
    pending: VecDeque<TimeMark>,
    store_error: Option<StoreFailure>,
    spool_bytes: u64,
    spool_error: Option<String>,
    last_error: Option<(String, i64)>,
    superseded: Option<String>,
    base: Option<(Position, i64)>,
    consolidate_error: Option<String>,
    merged: Option<Position>,
    merge_error: Option<String>,
    expiry: Option<ExpiryView>,
    drill: Option<DrillView>,
    /// By the order in which it began.
    works: BTreeMap<u64, WorkState>,
    works_begun: u64,
}

impl Status {
    /// [`Phase::Starting`], all counters at zero.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            phase: Phase::Starting,
            detail: String::new(),
            promoted: false,
            received: None,
            stored: None,
            stored_unix_ms: None,
            master: None,
            heard_unix_ms: unix_ms_now(),
            idle: Offset(0),
            pending: VecDeque::new(),
            store_error: None,
            spool_bytes: 0,
            spool_error: None,
            last_error: None,
            superseded: None,
            base: None,
            consolidate_error: None,
            merged: None,
            merge_error: None,
            expiry: None,
            drill: None,
            works: BTreeMap::new(),
            works_begun: 0,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            counters: Counters::default(),
        }))
    }

    /// Enters a phase. `detail` gives the details, for people. A change is logged, and only here. After
    /// [`Phase::Superseded`] only [`Phase::Stopped`] may follow.
    pub fn phase(&self, phase: Phase, detail: impl Into<String>) {
        let detail = detail.into();
        let mut state = self.state();
        if state.phase == Phase::Superseded && phase != Phase::Stopped {
            return;
        }
        if state.phase != phase || state.detail != detail {
            let message = if detail.is_empty() {
                phase.as_str()
            } else {
                &detail
            };
            // The code that handled the error has logged it. Being superseded is the error that the process ends with.
            if phase == Phase::Superseded
                || matches!(&state.last_error, Some((error, _)) if *error == detail)
            {
                tracing::debug!(%phase, "{message}");
            } else {
                tracing::info!(%phase, "{message}");
            }
        }
        if phase == Phase::Following {
            state.superseded = None;
        }
        state.phase = phase;
        state.detail = detail;
    }

    /// Bytes up to `position` were received at `unix_ms`.
    pub fn received(&self, position: Position, unix_ms: i64) {
        let mut state = self.state();
        let state = &mut *state;
        if state
            .received
            .is_some_and(|before| position.offset < before.offset)
        {
            // Another feed, or the link was resumed from what is stored: what was pending comes again or never.
            state.pending.clear();
            state.idle = Offset(0);
        }
        state.received = Some(position);
        state.heard_unix_ms = unix_ms;
        // It may have taken another id since it was asked, as a fresh server does for its first replica.
        state.master = state
            .master
            .filter(|said| said.history == position.history && said.offset > position.offset)
            .or(Some(position));
        match state.pending.back_mut() {
            Some(last) if unix_ms.saturating_sub(last.unix_ms) < MARK_MS => {
                last.offset = last.offset.max(position.offset);
            }
            _ => state.pending.push_back(TimeMark {
                unix_ms,
                offset: position.offset,
            }),
        }
        if state.pending.len() > PENDING_MARKS {
            state.pending.pop_back();
            if let Some(last) = state.pending.back_mut() {
                last.offset = position.offset;
            }
        }
        state.settle();
    }

    /// Bytes up to `position` are in the store, since `unix_ms` (now, not when they were received).
    pub fn stored(&self, position: Position, unix_ms: i64) {
        let mut state = self.state();
        state.stored = Some(position);
        state.stored_unix_ms = Some(unix_ms);
        state.settle();
    }

    /// The last byte that is in the store.
    #[must_use]
    pub fn stored_position(&self) -> Option<Position> {
        self.state().stored
    }

    /// The server says that its stream has come to here.
    pub fn master(&self, position: Position) {
        self.state().master = Some(position);
    }

    /// The server has begun a full sync for us.
    #[must_use]
    pub fn full_sync_begun(&self) -> FullSyncTally {
        self.metrics().full_syncs_begun.inc();
        FullSyncTally {
            status: self.clone(),
            is_settled: false,
        }
    }

    /// Work that takes long begins: its name for people.
    #[must_use]
    pub fn work(&self, name: &'static str) -> Work {
        let mut state = self.state();
        let number = state.works_begun;
        state.works_begun = number.saturating_add(1);
        let work = WorkState {
            name,
            what: name.to_owned(),
            done: 0,
            total: None,
            since_unix_ms: unix_ms_now(),
        };
        state.works.insert(number, work);
        drop(state);
        Work {
            status: self.clone(),
            number,
        }
    }

    /// The newest base in the store stands here, with the data of this time.
    pub fn base_is(&self, base: Position, as_of_unix_ms: i64) {
        self.state().base = Some((base, as_of_unix_ms));
    }

    /// The position of the newest base, and the time whose data it is. Consolidation works.
    pub fn based(&self, base: Position, as_of_unix_ms: i64) {
        let mut state = self.state();
        state.base = Some((base, as_of_unix_ms));
        state.consolidate_error = None;
    }

    /// Why nothing was consolidated. True when that is news, to be logged.
    pub fn consolidate_failed(&self, error: impl Into<String>) -> bool {
        self.metrics().consolidation_errors.inc();
        let text = error.into();
        let before = self.state().consolidate_error.replace(text.clone());
        !before.is_some_and(|before| before.starts_with(&text))
    }

    /// The log is merged up to here. None: nothing was merged, and nothing failed.
    pub fn merged(&self, merged: Option<Position>) {
        let mut state = self.state();
        state.merged = merged.or(state.merged);
        state.merge_error = None;
    }

    /// Why nothing was merged. True when that is news, to be logged.
    pub fn merge_failed(&self, error: impl Into<String>) -> bool {
        self.metrics().merge_errors.inc();
        let text = error.into();
        let before = self.state().merge_error.replace(text.clone());
        before.is_none_or(|before| before != text)
    }

    /// Changes what is said of the deletion of what is old.
    pub fn expiry(&self, change: impl FnOnce(&mut ExpiryView)) {
        change(self.state().expiry.get_or_insert_default());
    }

    /// A restore was tried.
    pub fn drilled(&self, view: DrillView) {
        self.state().drill = Some(view);
    }

    /// Adds to that failure what happens next.
    pub fn consolidate_failed_and(&self, error: &str, what: &str) {
        self.state().consolidate_error = Some(format!("{error}. {what}"));
    }

    /// What was received up to `offset` and is not stored is only `PING`s. That is no lag.
    pub fn idle(&self, offset: Offset) {
        let mut state = self.state();
        state.idle = offset;
        state.settle();
    }

    /// Sidecar: whether the Redis beside us accepts writes (it is a master).
    pub fn promoted(&self, promoted: bool) {
        self.state().promoted = promoted;
    }

    /// The store refused a write, which is retried. `permanent`: it will refuse everything until something is
    /// changed. Returns true when this is new, and so has to be logged: it is logged once, not with every try.
    pub fn store_failed(&self, error: impl Into<String>, permanent: bool, unix_ms: i64) -> bool {
        self.metrics().store_errors.inc();
        let text = error.into();
        let mut state = self.state();
        state.last_error = Some((text.clone(), unix_ms));
        let before = state.store_error.replace(StoreFailure {
            text: text.clone(),
            permanent,
        });
        before.is_none_or(|before| before.text != text)
    }

    /// The store has taken something, or was opened.
    pub fn store_works(&self) {
        self.state().store_error = None;
    }

    /// This much of the spool's disk is in use.
    pub fn spool_bytes(&self, bytes: u64) {
        self.state().spool_bytes = bytes;
    }

    /// Why the spool does not work, or that it does. Shown, not logged, as [`Self::error`].
    pub fn spool_error(&self, error: Option<String>) {
        self.state().spool_error = error;
    }

    /// An error that is retried. It is shown, not logged: the code that handles it logs it.
    pub fn error(&self, error: impl Into<String>, unix_ms: i64) {
        self.state().last_error = Some((error.into(), unix_ms));
    }

    /// The log was found to be sealed. The server is still to be asked whether it has changed its history. Not ready
    /// until it follows again.
    pub fn sealed(&self, detail: impl Into<String>) {
        let detail = detail.into();
        self.phase(Phase::Connecting, detail.clone());
        self.state().superseded = Some(detail);
    }

    /// Another writer has taken over. `detail` says which, as far as it is known. This is final.
    pub fn superseded(&self, detail: impl Into<String>) {
        let detail = detail.into();
        self.phase(Phase::Superseded, detail.clone());
        self.state().superseded = Some(detail);
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Counters {
        &self.0.counters
    }

    /// What is known now.
    #[must_use]
    pub fn view(&self) -> StatusView {
        self.view_at(unix_ms_now())
    }

    /// The present state, with the lag at `now_unix_ms`.
    #[must_use]
    pub fn view_at(&self, now_unix_ms: i64) -> StatusView {
        let state = self.state();
        let ending = matches!(
            state.phase,
            Phase::Superseded | Phase::Draining | Phase::Stopped
        );
        let (last_error, last_error_unix_ms) = state.last_error.clone().unzip();
        let refused = matches!(&state.store_error, Some(failure) if failure.permanent);
        StatusView {
            format: 1,
            backfeed_version: env!("CARGO_PKG_VERSION"),
            ready: !ending
                && state.superseded.is_none()
                && (state.promoted || (state.phase == Phase::Following && !refused)),
            phase: state.phase,
            detail: state.detail.clone(),
            work: state.works.values().map(WorkState::view).collect(),
            promoted: state.promoted,
            history: state
                .received
                .or(state.stored)
                .map(|position| position.history),
            received_offset: state.received.map(|position| position.offset.0),
            stored_offset: state.stored.map(|position| position.offset.0),
            stored_unix_ms: state.stored_unix_ms,
            master_offset: state.master.map(|position| position.offset.0),
            lag_bytes: state.lag_bytes(),
            lag_seconds: state.lag_seconds(now_unix_ms),
            store_error: state
                .store_error
                .as_ref()
                .map(|failure| failure.text.clone()),
            spool_bytes: state.spool_bytes,
            spool_error: state.spool_error.clone(),
            base_offset: state.base.map(|(base, _)| base.offset.0),
            base_unix_ms: state.base.map(|(_, as_of)| as_of),
            consolidate_error: state.consolidate_error.clone(),
            merged_offset: state.merged.map(|merged| merged.offset.0),
            merge_error: state.merge_error.clone(),
            expiry: state.expiry.clone(),
            drill: state.drill.clone(),
            last_error,
            last_error_unix_ms,
            superseded: state.superseded.clone(),
        }
    }

    /// The metrics in Prometheus' text format.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn prometheus(&self) -> String {
        self.prometheus_of(&self.view())
    }

    #[cfg(feature = "http")]
    fn prometheus_of(&self, view: &StatusView) -> String {
        metrics::page(&self.0.counters, view)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A full sync that the server has begun for us. It counts as failed when it is dropped before it was [`Self::stored`].
/// So no exit can forget to count it.
#[derive(Debug)]
pub struct FullSyncTally {
    status: Status,
    is_settled: bool,
}

impl FullSyncTally {
    /// Its snapshot counts. It is at `base`, and holds the data of that time.
    pub fn stored(mut self, base: Position, as_of_unix_ms: i64) {
        self.is_settled = true;
        self.status.metrics().full_syncs.inc();
        self.status.based(base, as_of_unix_ms);
    }
}

impl Drop for FullSyncTally {
    fn drop(&mut self) {
        if !self.is_settled {
            self.status.metrics().full_syncs_failed.inc();
        }
    }
}

impl Default for Status {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

impl State {
    /// Forgets the marks of what is no longer pending.
    fn settle(&mut self) {
        let done = match self.stored {
            Some(stored) => stored.offset.max(self.idle),
            None => self.idle,
        };
        while self.pending.front().is_some_and(|mark| mark.offset <= done) {
            self.pending.pop_front();
        }
    }

    fn lag_bytes(&self) -> Option<u64> {
        let stored = self.stored?;
        let received = self.received.unwrap_or(stored);
        (received.history == stored.history)
            .then(|| received.offset.beyond(stored.offset.max(self.idle)))
    }

    fn lag_seconds(&self, now_unix_ms: i64) -> f64 {
        let unheard = (self.phase != Phase::Following)
            .then(|| now_unix_ms.saturating_sub(self.heard_unix_ms));
        let oldest = self.pending.front();
        let oldest = oldest.map(|mark| now_unix_ms.saturating_sub(mark.unix_ms));
        // Clocks jump; an age is never negative.
        let age_ms = unheard.max(oldest).unwrap_or(0);
        u32::try_from(age_ms.max(0)).map_or(f64::from(u32::MAX), f64::from) / 1000.0
    }
}

/// Unix milliseconds of the system's clock.
#[must_use]
pub fn unix_ms_now() -> i64 {
    #[expect(clippy::disallowed_methods)] // the one place
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
