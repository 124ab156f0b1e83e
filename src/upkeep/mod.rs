//! New bases and merged log in the background while a capture runs. The scheduler has a thread of its own, which yields to everything
//! else, and a store connection of its own.

mod ask_server;
mod retention;

use std::fmt::Display;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};

use crate::archive::{
    Archive, ArchiveError, BaseManifest, Catalog, FRAMES_AT_ONCE, MergeError, SPAN_SEGMENTS,
};
use crate::capture::{Clock, SessionEnd, refetch};
use crate::config::{ConsolidateConfig, RetentionConfig, Source, StoreConfig, Upstream};
use crate::consolidate::merging::{MergeRequest, merge};
use crate::consolidate::{
    ConsolidateError, Report, Request, Worth, consolidate, consolidate_given, lost_keys,
    newest_base,
};
use crate::link::sentinel::Finder;
use crate::monitoring::status::{Phase, Status};
use crate::recovery::{BLOCKING_READERS, When};
use crate::runtime::{self, backoff::Backoff};
use crate::store;
use crate::wire::position::{Offset, Position, ReplId};

/// Between two looks at how much log there is, which costs nothing.
const LOOK: Duration = Duration::from_secs(5);
/// The first pause after a look at the store that failed. Each further failure doubles it, up to the interval between
/// bases.
const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// A log below this is not worth a base before its time, however small the base is.
const LOG_MIN: u64 = 64 << 20;
/// A base is also made when so many segments stand behind the last one, however short they are: a boot asks for each of them.
const SEGMENTS_MAX: u64 = 10_000;
/// By time alone, a base is made when the log has at least a hundredth of its size: a base of 10 GB is not written again
/// for one write an hour.
const BY_TIME: Worth = Worth::Writes {
    base_bytes_for_each: 100,
};
/// How long we wait after the last base when the log has outgrown it, so that we do not disturb a burst of writes.
const GROWN_PAUSE: Duration = Duration::from_secs(60);
/// We also wait for this many times the duration of the last consolidation. So a log that grows fast takes a tenth of a
/// core, not all of it.
const GROWN_PAUSE_FACTOR: u32 = 9;
/// A full sync for a log that cannot be consolidated makes the master fork: no more often than this.
pub const REFETCH_EVERY: Duration = Duration::from_secs(6 * 3600);
/// The same where one has failed: the link may have been lost. Each further failure doubles it.
const REFETCH_AGAIN: Duration = Duration::from_secs(600);
/// How long a consolidation or a full sync may take. After that, a full sync may come instead.
const TIME_LIMIT: Duration = REFETCH_EVERY;
/// How long we wait until the server's answer is stored. This takes one flush interval, unless the store is away.
const ASK_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks meanwhile.
const ASK_LOOK: Duration = Duration::from_millis(200);
/// A stream that is decompressed holds a thread to its end. The frames of the new base are compressed at the same time.
const BLOCKING_THREADS: usize = 128;
const _: () = assert!(BLOCKING_THREADS > BLOCKING_READERS + FRAMES_AT_ONCE);
/// Between two looks for what can be merged, unless there are enough segments for a span before. Each look fetches what is not
/// merged yet.
const MERGE_EVERY: Duration = Duration::from_secs(5 * 60);
/// One more than a span takes.
const MERGE_SEGMENTS: u64 = SPAN_SEGMENTS as u64 + 1;
/// The longest pause after merges that failed.
const MERGE_FAILED_PAUSE: Duration = Duration::from_secs(3600);
/// Spans that are made before other work has its turn.
const MERGED_AT_ONCE: u64 = 32;
/// How much the thread yields to others: the most there is.
const NICENESS: i32 = 19;

/// The archive and the server that the scheduler works for.
pub struct Upkeep {
    /// When, and how.
    pub config: ConsolidateConfig,
    /// What is deleted.
    pub retention: RetentionConfig,
    /// The archive's store.
    pub store: StoreConfig,
    /// Whose histories.
    pub service: String,
    /// Where a new base comes from when the log cannot be consolidated.
    pub redis: Upstream,
    /// What is known of the capture.
    pub status: Status,
    /// The time.
    pub clock: Clock,
}

/// Ends the upkeep when it is dropped, without waiting for it: a base in the making is lost by that, nothing else.
pub struct Running {
    _alive: oneshot::Sender<()>,
}

impl Upkeep {
    /// Starts it. `None`: it is not wanted.
    #[must_use]
    pub fn start(self) -> Option<Running> {
        let every = self.config.every;
        if every.is_none() && !self.config.merge && !self.retention.deletes() {
            return None;
        }
        let (alive, gone) = oneshot::channel();
        let spawned = thread::Builder::new()
            .name("upkeep".to_owned())
            .stack_size(runtime::STACK)
            .spawn(move || self.run(every, gone));
        match spawned {
            Ok(_) => Some(Running { _alive: alive }),
            Err(error) => {
                tracing::warn!("bases are not made in the background: {error}");
                None
            }
        }
    }

    fn run(self, every: Option<Duration>, gone: oneshot::Receiver<()>) {
        yield_to_others();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(BLOCKING_THREADS)
            .on_thread_start(yield_to_others)
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::warn!("bases are not made in the background: {error}");
                return;
            }
        };
        let work = async {
            tokio::select! {
                () = self.work(every) => {}
                // It may take long, and nothing waits for it.
                () = self.delete_what_is_old() => {}
                _ = gone => {}
            }
        };
        runtime.block_on(work);
        runtime.shutdown_background();
    }

    async fn work(&self, every: Option<Duration>) {
        let mut merges = Merges::new();
        let Some(every) = every else {
            loop {
                sleep(LOOK).await;
                self.merge_log(&mut merges).await;
            }
        };
        let mut pace = Pace::new(every, Instant::now());
        let mut base: Option<Known> = None;
        let mut refetches = Refetches::default();
        // What failed costs a listing and a read of the log each time: it is tried ever more seldom.
        let mut backoff = Backoff::exact(FAILED_PAUSE, every.max(LOOK));
        let mut not_before = Instant::now();
        loop {
            sleep(LOOK).await;
            self.merge_log(&mut merges).await;
            let Some(stored) = self.status.stored_position() else {
                continue;
            };
            let is_of = |base: &Known| base.of == stored.history;
            if !base.as_ref().is_some_and(is_of) {
                // It was for another one.
                refetches.owed = None;
            }
            let now = Instant::now();
            if refetches.is_due(now) && self.status.view().phase == Phase::Following {
                base = self.refetch(&mut refetches).await.or(base);
                continue;
            }
            if now < not_before {
                continue;
            }
            if !base.as_ref().is_some_and(is_of) {
                base = self.newest_base(stored).await;
                if base.is_none() {
                    not_before = later(backoff.pause());
                    continue;
                }
            }
            let grown = base
                .as_ref()
                .is_some_and(|base| base.is_outgrown(stored, self.config.share, self.segments()));
            let begun = Instant::now();
            let Some(worth) = pace.due(begun, grown) else {
                continue;
            };
            if worth == BY_TIME && base.as_ref().is_some_and(|base| !base.is_worth(stored)) {
                // Two offsets tell that: nothing is asked of the store.
                pace.made(begun, begun);
                continue;
            }
            let segments = self.segments();
            let made = self.consolidate(stored, worth).await;
            pace.made(begun, Instant::now());
            match made {
                Ok(report) => {
                    backoff.reset();
                    refetches.owed.clone_from(&report.stopped);
                    base = Some(Known {
                        of: stored.history,
                        at: report.to,
                        raw_bytes: report.raw_bytes,
                        segments,
                    });
                    self.made(&report);
                    if let Some(stopped) = &report.stopped {
                        self.failed(stopped);
                        base = self.ask_server(stored, &mut refetches).await.or(base);
                    }
                }
                Err(error) => {
                    not_before = later(backoff.pause());
                    self.failed(&error);
                    if error.asks_for_a_full_sync() {
                        refetches.owed = Some(error.to_string());
                        base = self.ask_server(stored, &mut refetches).await.or(base);
                    }
                }
            }
        }
    }

    /// Merges what was stored, a few spans at once: what else there is to do does not wait for a long log.
    async fn merge_log(&self, merges: &mut Merges) {
        let now = Instant::now();
        let Some(stored) = self.status.stored_position() else {
            return;
        };
        let segments = self.segments();
        if !self.config.merge || !merges.is_due(now, segments) {
            return;
        }
        let pending = segments.wrapping_sub(merges.segments);
        merges.segments = segments;
        match timeout(TIME_LIMIT, self.merge_some(stored.history, merges, pending)).await {
            Ok(Ok(has_more)) => {
                merges.backoff.reset();
                merges.has_failed = false;
                merges.not_before = if has_more { now } else { later(MERGE_EVERY) };
            }
            Ok(Err(error)) => {
                merges.has_failed = true;
                merges.not_before = later(merges.backoff.pause());
                if self.status.merge_failed(error.to_string()) {
                    tracing::warn!("the log cannot be merged: {error}. Nothing is lost by that");
                }
            }
            Err(_) => {
                merges.has_failed = true;
                merges.not_before = later(merges.backoff.pause());
                self.status.merge_failed("it took too long");
            }
        }
    }

    /// Is there more to merge? `pending`: segments that were stored since the last look.
    async fn merge_some(
        &self,
        stored: ReplId,
        merges: &mut Merges,
        pending: u64,
    ) -> Result<bool, MergeError> {
        let archive = self.archive().await?;
        if merges.of != Some(stored) {
            // What others have not merged of the logs before it is merged as well, when this one is.
            let mut outline = Catalog::default();
            archive.add_line(&mut outline, stored).await?;
            let before = outline.lineage(stored)?.into_iter().skip(1);
            merges.begin(stored, before.map(|at| at.history).collect());
        }
        let history = merges.turn(stored);
        let request = MergeRequest {
            history: Some(history),
            merged_to: merges.merged_to.filter(|_| history == stored),
            limit: MERGED_AT_ONCE,
            dry_run: false,
            // The identity of a service need not be able to delete.
            delete: false,
            writer: self.service.clone(),
        };
        let work = self.status.work("merging");
        let report = merge(&archive, &request, &work).await?;
        let metrics = self.status.metrics();
        metrics.spans_stored.inc_by(report.spans);
        let merged = report.histories.into_iter().next();
        let has_more = merged.as_ref().is_some_and(|merged| merged.has_more);
        if history == stored {
            let to = merged.as_ref().and_then(|merged| merged.merged_to);
            merges.merged_to = to.or(merges.merged_to);
            merges.merged(pending, merged.as_ref().map_or(0, |merged| merged.segments));
            self.status
                .merged(to.map(|offset| Position { history, offset }));
        }
        merges.looked(has_more, merged.as_ref().map_or(0, |merged| merged.spans));
        if let Some(why) = merged.and_then(|merged| merged.stopped) {
            tracing::debug!(%history, "a part of the log cannot be merged: {why}");
        }
        match report.failure {
            Some(error) => Err(error),
            None => Ok(has_more || merges.is_before),
        }
    }

    /// The base from which the capture continued.
    async fn newest_base(&self, stored: Position) -> Option<Known> {
        let archive = self.archive().await.ok()?;
        let now = self.segments();
        let (base, behind) = newest_base(&archive, &self.request(stored, BY_TIME))
            .await
            .ok()?;
        Some(Known {
            of: stored.history,
            segments: now.wrapping_sub(behind as u64),
            ..Known::of(&base, now)
        })
    }

    /// Segments that were stored by this process.
    fn segments(&self) -> u64 {
        self.status.metrics().segments_stored.get()
    }

    async fn archive(&self) -> Result<Archive, ArchiveError> {
        let store = store::open_with(&self.store).await?;
        Archive::open(store::counted(store, &self.status)).await
    }

    fn request(&self, stored: Position, worth: Worth) -> Request {
        Request {
            // The one that is captured, whatever else the store holds.
            history: Some(stored.history),
            service: Some(self.service.clone()),
            when: When::Latest,
            memory_limit: self.config.memory_limit,
            worth,
            time_limit: Some(TIME_LIMIT),
            now_unix_ms: (self.clock)(),
        }
    }

    async fn consolidate(
        &self,
        stored: Position,
        worth: Worth,
    ) -> Result<Report, ConsolidateError> {
        let archive = self.archive().await?;
        let work = self.status.work("new base");
        consolidate(&archive, &self.request(stored, worth), &work).await
    }

    fn made(&self, report: &Report) {
        self.status.based(report.to);
        if report.bases == 0 {
            return;
        }
        self.status.metrics().consolidations.inc_by(report.bases);
        tracing::info!(
            base = %report.to, from = %report.from.offset, commands = report.commands, keys = report.keys,
            "made a new base from the last one and the log"
        );
    }

    fn failed(&self, why: &dyn Display) {
        let why = why.to_string();
        if self.status.consolidate_failed(why.clone()) {
            tracing::warn!("no base can be made of all of the log: {why}. The log is kept");
        }
    }

    /// Makes a base although the log does not have all values: asks the server for the values of those keys, or takes a
    /// full sync.
    async fn ask_server(&self, stored: Position, refetches: &mut Refetches) -> Option<Known> {
        match timeout(TIME_LIMIT, self.asked(stored)).await {
            Ok(Ok(Some(base))) => {
                refetches.owed = None;
                return Some(base);
            }
            Ok(Ok(None)) => {}
            Err(_) => tracing::debug!("asked the server for values, but a base takes too long"),
            Ok(Err(why)) => {
                tracing::debug!("asking the server for values did not lead to a base: {why}")
            }
        }
        self.refetch(refetches).await
    }

    /// A base at an offset at which the server gave the values that the log does not have.
    async fn asked(&self, stored: Position) -> Result<Option<Known>, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let archive = self.archive().await.map_err(|error| told(&error))?;
        let mut request = self.request(stored, Worth::AnyLog);
        let keys = lost_keys(&archive, &request, ask_server::MOST_KEYS).await;
        let keys = keys.map_err(|error| told(&error))?;
        if keys.is_empty() || keys.len() > ask_server::MOST_KEYS {
            return Ok(None);
        }
        let source = self.source().await.map_err(|error| told(&error))?;
        let values = ask_server::values(&source, &keys).await;
        let Some((at, given)) = values.map_err(|error| told(&error))? else {
            return Ok(None);
        };
        let asked = Instant::now();
        loop {
            let Some(stored) = self.status.stored_position() else {
                return Ok(None);
            };
            if stored.history != at.history || asked.elapsed() > ASK_PATIENCE {
                return Ok(None);
            }
            if stored.offset >= at.offset {
                break;
            }
            sleep(ASK_LOOK).await;
        }
        request.when = When::Offset(at.offset.0);
        let made = consolidate_given(&archive, &request, given).await;
        let report = made.map_err(|error| told(&error))?;
        tracing::info!(
            keys = keys.len(),
            "asked the server for the values of keys that the log does not have"
        );
        self.made(&report);
        Ok(Some(Known {
            of: stored.history,
            at: report.to,
            raw_bytes: report.raw_bytes,
            segments: self.segments(),
        }))
    }

    /// The server that is captured.
    async fn source(&self) -> Result<Source, SessionEnd> {
        Ok(match &self.redis {
            Upstream::Server(source) => source.clone(),
            Upstream::Sentinels(sentinels) => Finder::new(sentinels.clone()).master().await?,
        })
    }

    /// A full sync beside the capture, at long intervals.
    async fn refetch(&self, refetches: &mut Refetches) -> Option<Known> {
        let why = refetches.owed.clone()?;
        let now = Instant::now();
        if let Some(left) = refetches.left(now) {
            let minutes = left.as_secs().div_ceil(60);
            let what = format!("The next full sync for a new base is in {minutes} min");
            self.status.consolidate_failed_and(&why, &what);
            return None;
        }
        if self.status.view().phase != Phase::Following {
            let what = "A full sync for a new base waits until backfeed follows Redis";
            self.status.consolidate_failed_and(&why, what);
            return None;
        }
        let what = "A full sync for a new base is running";
        self.status.consolidate_failed_and(&why, what);
        tracing::info!("taking a full sync for a new base, because the log cannot be consolidated");
        let made = timeout(TIME_LIMIT, self.new_base()).await;
        let made = match made {
            Ok(Ok(base)) => Ok(base),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it took more than {} s", TIME_LIMIT.as_secs())),
        };
        refetches.ended(now, made.is_ok());
        match made {
            Ok(base) => {
                tracing::info!(base = %base.position(), "received a new base");
                self.status.based(base.position());
                Some(Known::of(&base, self.segments()))
            }
            Err(error) => {
                tracing::warn!("could not receive a new base: {error}");
                self.failed(&why);
                let what = format!("The full sync for a new base failed: {error}");
                self.status.consolidate_failed_and(&why, &what);
                None
            }
        }
    }

    async fn new_base(&self) -> Result<BaseManifest, SessionEnd> {
        let archive = self.archive().await?;
        let source = self.source().await?;
        refetch::new_base(&source, &archive, &self.status, &self.clock).await
    }
}

/// What is known of the merged log.
struct Merges {
    /// The history that is captured.
    of: Option<ReplId>,
    /// Those before it, whose logs were not looked at yet. The newest one is the last.
    left: Vec<ReplId>,
    /// All of its log is merged that can be. Now they have their turn.
    is_before: bool,
    /// Up to here, its log is merged.
    merged_to: Option<Offset>,
    not_before: Instant,
    has_failed: bool,
    /// How many segments this process had stored at the last look.
    segments: u64,
    backoff: Backoff,
}

impl Merges {
    fn new() -> Self {
        Self {
            of: None,
            left: Vec::new(),
            is_before: false,
            merged_to: None,
            not_before: Instant::now(),
            has_failed: false,
            segments: 0,
            backoff: Backoff::exact(FAILED_PAUSE, MERGE_FAILED_PAUSE),
        }
    }

    /// `before`: the histories that it comes from, the newest one first.
    fn begin(&mut self, stored: ReplId, mut before: Vec<ReplId>) {
        before.reverse();
        (self.of, self.merged_to) = (Some(stored), None);
        (self.left, self.is_before) = (before, false);
    }

    /// Whose log has its turn.
    fn turn(&self, stored: ReplId) -> ReplId {
        let before = self.left.last().filter(|_| self.is_before);
        before.copied().unwrap_or(stored)
    }

    /// That log was merged, as far as it could be, unless it has more.
    fn looked(&mut self, has_more: bool, spans: u64) {
        if has_more {
            return;
        }
        if self.is_before {
            self.left.pop();
            if spans == 0 {
                // Whoever merged it has looked at those before it.
                self.left.clear();
            }
        }
        self.is_before = !self.left.is_empty();
    }

    /// Of `pending` segments so many were merged. The others are not new at the next look. (If none was, they may be such as
    /// cannot be.)
    fn merged(&mut self, pending: u64, merged: u64) {
        if merged > 0 {
            let left = pending.saturating_sub(merged);
            self.segments = self.segments.wrapping_sub(left);
        }
    }

    /// `segments`: how many have been stored by now.
    fn is_due(&self, now: Instant, segments: u64) -> bool {
        let stored = segments.wrapping_sub(self.segments);
        now >= self.not_before || (!self.has_failed && stored >= MERGE_SEGMENTS)
    }
}

/// When something is tried again.
fn later(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).unwrap_or(now)
}

/// How often full syncs are taken for a new base.
struct Refetches {
    /// Why one is needed.
    owed: Option<String>,
    /// The earliest time for the next one.
    next: Option<Instant>,
    /// The pauses after those that failed.
    backoff: Backoff,
}

impl Default for Refetches {
    fn default() -> Self {
        Self {
            owed: None,
            next: None,
            backoff: Backoff::exact(REFETCH_AGAIN, REFETCH_EVERY),
        }
    }
}

impl Refetches {
    /// How long it is until the next one.
    fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.next?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Is one to be taken that could not be before?
    fn is_due(&self, now: Instant) -> bool {
        self.owed.is_some() && self.left(now).is_none()
    }

    fn ended(&mut self, begun: Instant, received: bool) {
        let pause = if received {
            self.owed = None;
            self.backoff.reset();
            REFETCH_EVERY
        } else {
            self.backoff.pause()
        };
        self.next = begun.checked_add(pause);
    }
}

/// How often bases are made.
struct Pace {
    every: Duration,
    begun: Instant,
    ended: Instant,
}

impl Pace {
    fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            begun: now,
            ended: now,
        }
    }

    /// `grown`: the log has outgrown its base. `None`: not yet.
    fn due(&self, now: Instant, grown: bool) -> Option<Worth> {
        let took = self.ended.duration_since(self.begun);
        let pause = GROWN_PAUSE.max(took.saturating_mul(GROWN_PAUSE_FACTOR));
        if grown && now.duration_since(self.ended) >= pause {
            return Some(Worth::AnyLog);
        }
        (now.duration_since(self.begun) >= self.every).then_some(BY_TIME)
    }

    fn made(&mut self, begun: Instant, ended: Instant) {
        (self.begun, self.ended) = (begun, ended);
    }
}

/// The newest base, as far as is known here.
struct Known {
    /// The history that it is the base of. It may stand in an earlier one of its lineage.
    of: ReplId,
    at: Position,
    raw_bytes: u64,
    /// How many segments had been stored when it had none behind it. (Less than none, if those of another process stand there:
    /// `u64` wraps around for them as well.)
    segments: u64,
}

impl Known {
    fn of(base: &BaseManifest, segments: u64) -> Self {
        Self {
            of: base.history,
            at: base.position(),
            raw_bytes: base.raw_bytes,
            segments,
        }
    }

    /// Bytes of log behind it.
    fn log(&self, stored: Position) -> u64 {
        match stored.history == self.of && stored.offset >= self.at.offset {
            true => stored.offset.since(self.at.offset),
            false => 0,
        }
    }

    /// `segments`: how many have been stored by now.
    fn is_outgrown(&self, stored: Position, share: u32, segments: u64) -> bool {
        let allowed = (self.raw_bytes / 100).saturating_mul(share.into());
        let log = self.log(stored);
        log >= allowed.max(LOG_MIN)
            || (log > 0 && segments.wrapping_sub(self.segments) >= SEGMENTS_MAX)
    }

    /// Is a base worth its bytes by time alone ([`BY_TIME`])?
    fn is_worth(&self, stored: Position) -> bool {
        let Worth::Writes {
            base_bytes_for_each,
        } = BY_TIME
        else {
            return true;
        };
        self.log(stored).saturating_mul(base_bytes_for_each) >= self.raw_bytes
    }
}

/// If this is not possible, bases are made with the same priority as everything else.
fn yield_to_others() {
    let _ = rustix::process::nice(NICENESS);
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_log_that_grows_fast_gets_a_tenth_of_the_time_and_none_of_a_short_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(3600 * SECOND, start);
        assert_eq!(pace.due(start + 59 * SECOND, true), None);
        assert_eq!(pace.due(start + 60 * SECOND, true), Some(Worth::AnyLog));
        assert_eq!(pace.due(start + 60 * SECOND, false), None);

        let ended = start + 100 * SECOND;
        pace.made(start + 60 * SECOND, ended);
        assert_eq!(pace.due(ended + 359 * SECOND, true), None);
        assert_eq!(pace.due(ended + 360 * SECOND, true), Some(Worth::AnyLog));
    }

    #[test]
    fn a_full_sync_is_taken_seldom_and_a_failed_one_is_taken_again_ever_more_seldom() {
        let start = Instant::now();
        let mut refetches = Refetches::default();
        assert_eq!(refetches.left(start), None);
        let mut now = start;
        for minutes in [10, 20, 40, 80, 160, 320, 360, 360] {
            refetches.ended(now, false);
            assert_eq!(refetches.left(now), Some(minutes * 60 * SECOND));
            now += minutes * 60 * SECOND;
            assert_eq!(refetches.left(now), None);
        }
        assert!(!refetches.is_due(now), "none is owed");
        refetches.owed = Some("VADD".to_owned());
        assert!(refetches.is_due(now));
        refetches.ended(now, true);
        assert_eq!(refetches.left(now), Some(REFETCH_EVERY));
        assert!(!refetches.is_due(now + REFETCH_EVERY), "it was taken");
        refetches.owed = Some("VADD".to_owned());
        assert!(!refetches.is_due(now + REFETCH_EVERY - SECOND));
        assert!(refetches.is_due(now + REFETCH_EVERY), "it is not forgotten");
        refetches.ended(now, false);
        assert_eq!(refetches.left(now), Some(REFETCH_AGAIN));
        assert!(refetches.is_due(now + REFETCH_AGAIN));
    }

    #[test]
    fn what_is_captured_is_merged_first_and_then_what_it_comes_from() {
        let ids: Vec<ReplId> = (0..6).map(|n| ReplId::from_random([n; 20])).collect();
        let mut merges = Merges::new();
        merges.begin(ids[0], ids[1..].to_vec());
        let mut turns = Vec::new();
        for (has_more, spans) in [
            (true, 32),
            (false, 0),
            (true, 32),
            (false, 1),
            (false, 3),
            (false, 0),
            (false, 1),
        ] {
            turns.push(merges.turn(ids[0]));
            merges.looked(has_more, spans);
        }
        let order = [0, 0, 1, 1, 2, 3, 0];
        assert_eq!(turns, order.map(|n: usize| ids[n]), "4 and 5 were merged");
        assert_eq!(merges.turn(ids[0]), ids[0]);
    }

    #[test]
    fn the_log_is_looked_at_again_when_something_can_be_merged() {
        let start = Instant::now();
        let mut merges = Merges::new();
        (merges.not_before, merges.segments) = (start + MERGE_EVERY, u64::MAX);
        let least = MERGE_SEGMENTS - 1;
        assert!(!merges.is_due(start, least - 1));
        assert!(merges.is_due(start, least), "a span is full");
        assert!(merges.is_due(start + MERGE_EVERY, 0));
        // All but two of 500 were merged: these count.
        merges.segments = 500;
        merges.merged(500, 498);
        assert!(!merges.is_due(start, 500 + MERGE_SEGMENTS - 3));
        assert!(merges.is_due(start, 500 + MERGE_SEGMENTS - 2));
        // None of them can be merged.
        merges.segments = 500;
        merges.merged(500, 0);
        assert!(!merges.is_due(start, 500 + MERGE_SEGMENTS - 1));
        merges.segments = u64::MAX;
        merges.has_failed = true;
        assert!(!merges.is_due(start, least));
        assert!(merges.is_due(start + MERGE_EVERY, least));
    }

    #[test]
    fn two_offsets_and_a_count_tell_whether_a_base_is_worth_it() {
        let (of, other) = (ReplId::from_random([1; 20]), ReplId::from_random([2; 20]));
        let at = |history, offset| Position {
            history,
            offset: Offset(offset),
        };
        // It stands in the history before, and 40 segments of that, and of this one before this process, behind it.
        let base = Known {
            of,
            at: at(other, 1000),
            raw_bytes: 50_000,
            segments: 0_u64.wrapping_sub(40),
        };
        for (stored, worth) in [(1499, false), (1500, true), (1000, false), (900, false)] {
            assert_eq!(base.is_worth(at(of, stored)), worth, "{stored}");
        }
        let grown = |stored, segments| base.is_outgrown(at(of, stored), 50, segments);
        assert!(!grown(2000, SEGMENTS_MAX - 41));
        assert!(grown(2000, SEGMENTS_MAX - 40));
        assert!(grown(1000 + LOG_MIN, 1));
        assert!(
            !base.is_outgrown(at(other, 2000), 50, SEGMENTS_MAX),
            "of another"
        );
    }

    #[test]
    fn by_time_a_base_is_due_however_long_the_last_one_took() {
        let start = Instant::now();
        let mut pace = Pace::new(3600 * SECOND, start);
        assert_eq!(pace.due(start + 3599 * SECOND, false), None);
        assert_eq!(pace.due(start + 3600 * SECOND, false), Some(BY_TIME));
        assert_eq!(pace.due(start + 3600 * SECOND, true), Some(Worth::AnyLog));
        pace.made(start, start + 7200 * SECOND);
        assert_eq!(pace.due(start + 7201 * SECOND, true), Some(BY_TIME));
    }
}
