//! One source: it runs as long as it is wanted, whatever becomes of it, and stores the rest when it is not.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument, Span};

use super::claims::{Claim, Claims};
use crate::capture::{Clock, SessionEnd, Shared, Shutdown, stopped};
use crate::config::{BackupConfig, Shares, Size, SourceConfig};
use crate::monitoring::sources::Sources;
use crate::monitoring::status::{Phase, Status};
use crate::runtime::backoff::Backoff;
use crate::service;
use crate::store;
use crate::upkeep::{Turns, Upkeep, UpkeepThread};

/// After an end that nothing but a change repairs, such as a store that is no archive: the pauses before it is tried again.
const AGAIN_FIRST: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// A run of this length was good: the next pause is short again.
const GOOD_RUN: Duration = Duration::from_secs(300);

/// What all slots of a process have.
#[derive(Clone)]
pub(super) struct Process {
    pub(super) shared: Shared,
    pub(super) shares: Shares,
    pub(super) upkeep: Option<Arc<UpkeepThread>>,
    pub(super) sources: Sources,
    pub(super) clock: Clock,
    pub(super) grace: Duration,
    pub(super) claims: Arc<Claims>,
    pub(super) shutdown: Shutdown,
}

/// The place of one name.
pub(super) struct Slot {
    wanted: watch::Sender<Option<SourceConfig>>,
    task: JoinHandle<Result<(), SessionEnd>>,
}

type Wanted = watch::Receiver<Option<SourceConfig>>;

impl Slot {
    /// Runs `source` until it is not wanted.
    pub(super) fn start(process: &Process, source: SourceConfig) -> Self {
        let name = source.name.clone();
        let span = tracing::error_span!("source", source = %name);
        let (wanted, seen) = watch::channel(Some(source));
        let task = run(process.clone(), name, seen).instrument(span);
        Self {
            wanted,
            task: tokio::spawn(task),
        }
    }

    /// Wants another source in this place, or none. False: it is the same as before.
    pub(super) fn want(&self, source: Option<SourceConfig>) -> bool {
        self.wanted.send_if_modified(|wanted| {
            let is_other = *wanted != source;
            *wanted = source;
            is_other
        })
    }

    /// Is there one?
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.borrow().is_some()
    }

    /// Waits for its end, after all are asked to stop.
    pub(super) async fn ended(self) -> Result<(), SessionEnd> {
        ended(self.task.await)
    }
}

fn ended(task: Result<Result<(), SessionEnd>, JoinError>) -> Result<(), SessionEnd> {
    task.unwrap_or_else(|error| Err(SessionEnd::StartOver(error.to_string())))
}

/// Runs whatever is wanted under this name, one source after the other.
async fn run(process: Process, name: String, mut wanted: Wanted) -> Result<(), SessionEnd> {
    let mut shutdown = process.shutdown.clone();
    loop {
        let source = wanted.borrow_and_update().clone();
        let Some(source) = source else {
            tokio::select! {
                changed = wanted.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return Ok(()),
                },
                () = stopped(&mut shutdown) => return Ok(()),
            }
        };
        let status = Status::new();
        let store = store::name_of(&source.store.url).unwrap_or_else(|_| source.store.url.clone());
        process.sources.add(&name, &store, &status);
        let ended = run_wanted(&process, source, &store, &status, &mut wanted).await;
        if *shutdown.borrow() {
            match &ended {
                Ok(()) => status.phase(Phase::Stopped, ""),
                // At once: the others may take all of the time that is left.
                Err(end) => tracing::error!("the rest was not stored: {end}"),
            }
            return ended;
        }
        process.sources.remove(&name);
    }
}

/// Runs `source` until another one is wanted, or the process is to end.
async fn run_wanted(
    process: &Process,
    source: SourceConfig,
    store: &str,
    status: &Status,
    wanted: &mut Wanted,
) -> Result<(), SessionEnd> {
    let mut shutdown = process.shutdown.clone();
    let claim = tokio::select! {
        biased;
        _ = wanted.changed() => return Ok(()),
        () = stopped(&mut shutdown) => return Ok(()),
        claim = process.claims.take(store) => claim,
    };
    let (stop, asked) = watch::channel(false);
    let run = run_source(process.clone(), source, claim, status.clone(), asked);
    // A panic in it is the end of this source alone.
    let mut running = tokio::spawn(run.in_current_span());
    let error = tokio::select! {
        biased;
        () = stopped(&mut shutdown) => {
            stop.send_replace(true);
            // Whoever runs the process limits the time of all.
            return ended(running.await);
        }
        _ = wanted.changed() => {
            tracing::info!("it has changed, or is not wanted any more: storing the rest");
            stop.send_replace(true);
            match timeout(process.grace, &mut running).await {
                Ok(done) => {
                    if let Err(end) = ended(done) {
                        tracing::error!("the rest was not stored: {end}");
                    }
                }
                Err(_) => {
                    running.abort();
                    // When it has ended, it has left the store.
                    let _ = running.await;
                    warn_of_rest(process.grace, status);
                }
            }
            return Ok(());
        }
        ended = &mut running => match ended {
            Ok(_) => return Ok(()),
            Err(error) => error,
        }
    };
    let text = format!("a fault in backfeed ended this source: {error}. It begins again soon");
    tracing::error!("{text}");
    status.error(text.clone(), (process.clock)());
    status.phase(Phase::WaitingForRedis, text);
    tokio::select! {
        () = sleep(AGAIN_MAX) => {}
        _ = wanted.changed() => {}
        () = stopped(&mut shutdown) => {}
    }
    Ok(())
}

/// Runs one source until it is asked to stop.
async fn run_source(
    process: Process,
    source: SourceConfig,
    _claim: Claim,
    status: Status,
    mut asked: Shutdown,
) -> Result<(), SessionEnd> {
    let source = source.within(&process.shares);
    let clock = &process.clock;
    let thread = process.upkeep.as_ref();
    let upkeep = upkeep_of(&process, &source, &status);
    let upkeep = thread.and_then(|thread| thread.add(upkeep, Span::current()));
    let mut backoff = Backoff::with_jitter(AGAIN_FIRST, AGAIN_MAX);
    loop {
        let config = BackupConfig {
            redis: source.redis.clone(),
            once: false,
            capture: source.capture.clone(),
            consolidate: source.consolidate.clone(),
            grace: process.grace,
        };
        let begun = Instant::now();
        let run = service::run_among(
            config,
            &source.store,
            status.clone(),
            clock.clone(),
            asked.clone(),
            &process.shared,
        );
        let end = match run.await {
            Ok(()) => return Ok(()),
            Err(end) if *asked.borrow() => return Err(end),
            Err(end) => end,
        };
        if matches!(end, SessionEnd::Superseded { .. }) {
            // Another writer goes on. A change of this source, or a restart, is a new beginning.
            tracing::error!("{end}");
            drop(upkeep);
            stopped(&mut asked).await;
            return Ok(());
        }
        service::report(&status, clock, &end);
        if begun.elapsed() >= GOOD_RUN {
            backoff.reset();
        }
        let pause = backoff.pause();
        if service::pause_or_stop(pause, &mut asked).await.is_err() {
            return Ok(());
        }
    }
}

fn upkeep_of(process: &Process, source: &SourceConfig, status: &Status) -> Upkeep {
    let thread = process.upkeep.as_ref();
    Upkeep {
        config: source.consolidate.clone(),
        retention: source.retention,
        drill: source.drill.clone(),
        store: source.store.clone(),
        service: source.redis.service(),
        redis: source.redis.clone(),
        status: status.clone(),
        clock: process.clock.clone(),
        turns: thread.map_or_else(Turns::default, |thread| thread.turns()),
    }
}

/// Its time is over: what it has received and not stored, the master sends again to whoever comes next.
fn warn_of_rest(grace: Duration, status: &Status) {
    let rest = match status.view().lag_bytes {
        Some(bytes) => format!("{} received were not stored", Size(bytes)),
        None => "nothing was stored yet".to_owned(),
    };
    tracing::warn!(
        "the rest was not stored within {grace:?}: {rest}. The server sends it again to whoever continues the archive"
    );
}
