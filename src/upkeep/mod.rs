//! What is done for an archive while a capture runs, in the background: new bases, merged log, and the deletion of what is old.
//! It has a thread of its own, which yields to everything else, and a store connection of its own.

mod among;
mod ask_server;
mod drills;
mod full_syncs;
mod merges;
mod pace;
mod retention;

use std::fmt::Display;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

pub use self::among::{Turns, UpkeepThread};
use self::full_syncs::{REFETCH_EVERY, Refetches};
use self::merges::Merges;
use self::pace::{BY_TIME, Known, Pace};
use crate::archive::{Archive, ArchiveError, FRAMES_AT_ONCE};
use crate::capture::{Clock, SessionEnd};
use crate::config::{
    ConsolidateConfig, DrillConfig, RetentionConfig, Source, StoreConfig, Upstream,
};
use crate::consolidate::{ConsolidateError, Report, Request, Worth, consolidate, newest_base};
use crate::link::sentinel::Finder;
use crate::monitoring::status::{Phase, Status};
use crate::recovery::{BLOCKING_READERS, RecoveryTarget};
use crate::runtime::{self, backoff::Backoff};
use crate::store;
use crate::wire::position::Position;

/// Between two looks at how much log there is, which costs nothing.
const LOOK: Duration = Duration::from_secs(5);
/// The first pause after a look at the store that failed. Each further failure doubles it, up to the interval between
/// bases.
const FAILED_PAUSE: Duration = Duration::from_secs(10);
/// How long a consolidation or a full sync may take. After that, a full sync may come instead.
const TIME_LIMIT: Duration = REFETCH_EVERY;
/// A stream that is decompressed holds a thread to its end. The frames of the new base are compressed at the same time.
const BLOCKING_THREADS: usize = 128;
const _: () = assert!(BLOCKING_THREADS > BLOCKING_READERS + FRAMES_AT_ONCE);
/// How much the thread yields to others: the most there is.
const NICENESS: i32 = 19;
/// What an operator must know when the thread cannot begin.
const NOT_DONE: &str =
    "nothing is done in the background: no new bases, no merged log, no deletion";

/// The archive and the server that the work in the background is for.
pub struct Upkeep {
    /// When, and how.
    pub config: ConsolidateConfig,
    /// What is deleted.
    pub retention: RetentionConfig,
    /// How often a restore is tried, and how.
    pub drill: DrillConfig,
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
    /// What it shares with the upkeep of other captures.
    pub turns: Turns,
}

/// So long a process that ends waits until the servers of a drill are stopped.
const END_OF_DRILL: Duration = Duration::from_secs(2);

/// Ends the upkeep when it is dropped, without waiting for it: a base in the making is lost by that, nothing else. Only the servers and
/// the directory of a drill are waited for.
pub struct Running {
    alive: Option<oneshot::Sender<()>>,
    /// It ends when the upkeep has.
    ended: Option<Receiver<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.alive = None;
        if let Some(ended) = &self.ended {
            let _ = ended.recv_timeout(END_OF_DRILL);
        }
    }
}

impl Upkeep {
    /// Starts it. `None`: nothing is to be done in the background.
    #[must_use]
    pub fn start(self) -> Option<Running> {
        if !self.is_wanted() {
            return None;
        }
        let (alive, gone) = oneshot::channel();
        let drills = self.drill.every.is_some();
        let (ends, ended) = channel();
        let spawned = thread::Builder::new()
            .name("upkeep".to_owned())
            .stack_size(runtime::STACK)
            .spawn(move || {
                self.run(gone);
                let _ = ends.send(());
            });
        match spawned {
            Ok(_) => Some(Running {
                alive: Some(alive),
                ended: drills.then_some(ended),
            }),
            Err(error) => {
                tracing::warn!("{NOT_DONE}: {error}");
                None
            }
        }
    }

    fn is_wanted(&self) -> bool {
        let drills = self.drill.every.is_some();
        self.config.every.is_some() || self.config.merge || self.retention.deletes() || drills
    }

    fn run(self, gone: oneshot::Receiver<()>) {
        if let Some(runtime) = runtime_of_thread() {
            runtime.block_on(self.until(gone));
            runtime.shutdown_background();
        }
    }

    /// Works until `gone`.
    async fn until(self, gone: oneshot::Receiver<()>) {
        tokio::select! {
            () = self.work() => {}
            // It may take long, and nothing waits for it.
            () = self.delete_what_is_old() => {}
            () = self.try_restores() => {}
            _ = gone => {}
        }
    }

    async fn work(&self) {
        let mut merges = Merges::new();
        let Some(every) = self.config.every else {
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
            recovery_target: RecoveryTarget::Latest,
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
        let _turn = self.turns.work().await;
        let archive = self.archive().await?;
        let work = self.status.work("new base");
        consolidate(&archive, &self.request(stored, worth), &work).await
    }

    fn made(&self, report: &Report) {
        self.status.based(report.to, report.as_of_unix_ms);
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

    /// The server that is captured.
    async fn source(&self) -> Result<Source, SessionEnd> {
        Ok(match &self.redis {
            Upstream::Server(source) => source.clone(),
            Upstream::Sentinels(sentinels) => Finder::new(sentinels.clone()).master().await?,
            Upstream::Shard(shard) => {
                let server = shard.server.borrow().clone();
                let unknown = || SessionEnd::StartOver("no node of this shard is known".to_owned());
                server.ok_or_else(unknown)?
            }
        })
    }
}

/// The runtime of this thread, which yields to all others. None: there can be none, which is logged.
fn runtime_of_thread() -> Option<tokio::runtime::Runtime> {
    yield_to_others();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .on_thread_start(yield_to_others)
        .enable_all()
        .build();
    runtime
        .map_err(|error| tracing::warn!("{NOT_DONE}: {error}"))
        .ok()
}

/// When something is tried again.
fn later(pause: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(pause).unwrap_or(now)
}

/// If this is not possible, bases are made with the same priority as everything else.
fn yield_to_others() {
    let _ = rustix::process::nice(NICENESS);
}
