//! Supervision: sessions one after another, with pauses between them.

#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod readyz;

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::archive::{Archive, ArchiveError};
use crate::capture::{
    Achieved, Capture, Clock, MasterWatch, Session, SessionEnd, Shared, Shutdown, stopped,
};
use crate::config::{BackupConfig, Shard, Source, StoreConfig, Upstream};
use crate::link::sentinel::{Finder, SentinelError};
use crate::monitoring::status::{Phase, Status};
use crate::runtime::backoff::{Backoff, jittered};
use crate::store::{self, StoreError};

/// First and longest pause between two sessions. ([`crate::capture`] says how often a full sync may be requested.)
const PAUSE_FIRST: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Longest pause between two questions to the Sentinels. They answer from memory, and a failover should be noticed
/// soon. The questions do not reach a master that is away.
const FIND_PAUSE_MAX: Duration = Duration::from_secs(3);
/// A session that followed the feed and lasted this long was good: the next pause is short again.
const GOOD_SESSION: Duration = Duration::from_secs(60);
/// The longest pause between two looks at a store that cannot be used: a Redis may be waiting for its data.
const STORE_PAUSE_MAX: Duration = Duration::from_secs(4);

/// The pauses between sessions.
#[derive(Debug)]
pub struct SessionPauses(Backoff);

impl Default for SessionPauses {
    fn default() -> Self {
        Self(Backoff::with_jitter(PAUSE_FIRST, PAUSE_MAX))
    }
}

impl SessionPauses {
    /// The pause after a session that lasted `lasted` and achieved something, or not.
    pub fn after(&mut self, lasted: Duration, achieved: bool) -> Duration {
        if achieved && lasted >= GOOD_SESSION {
            self.0.reset();
        }
        self.0.pause()
    }

    /// The last session went well: the next pause is short.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// Who opens an archive, and so what is worth waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// `--once`: for nothing.
    None,
    /// `backup`: for a store that is away, not for one that refuses.
    Away,
    /// `sidecar`: waits whatever the error of the store, because Redis waits for us. `serve` too, because there are other
    /// sources. Does not wait if the store is no archive.
    Whatever,
}

/// Opens the archive, or makes one. Waits as long as `patience` allows.
///
/// # Errors
/// [`SessionEnd::Archive`] when waiting makes no sense; [`SessionEnd::Stopped`].
pub async fn open_archive(
    store: &StoreConfig,
    patience: Patience,
    status: &Status,
    clock: &Clock,
    shutdown: &mut Shutdown,
) -> Result<Archive, SessionEnd> {
    let mut backoff = Backoff::with_jitter(PAUSE_FIRST, STORE_PAUSE_MAX);
    loop {
        let error = match open_once(store, status, clock).await {
            Ok(archive) => {
                status.store_works();
                return Ok(archive);
            }
            Err(error) => error,
        };
        let worth_waiting = match patience {
            Patience::None => false,
            Patience::Away => error.is_transient(),
            Patience::Whatever => matches!(error, ArchiveError::Store(_)),
        };
        if !worth_waiting {
            return Err(error.into());
        }
        store_is_away(status, clock, &error);
        pause_or_stop(backoff.pause(), shutdown).await?;
    }
}

async fn open_once(
    store: &StoreConfig,
    status: &Status,
    clock: &Clock,
) -> Result<Archive, ArchiveError> {
    let store = store::open_with(store).await?;
    Archive::open_to_write(store::counted(store, status), clock()).await
}

/// Says in every place that the store cannot be reached.
pub fn store_is_away(status: &Status, clock: &Clock, error: &ArchiveError) {
    let text = format!("the store cannot be used: {error}");
    if status.store_failed(text.clone(), !error.is_transient(), clock()) {
        tracing::warn!("{text}");
    }
    status.phase(Phase::WaitingForStore, text);
}

/// Waits, unless we are asked to stop.
///
/// # Errors
/// [`SessionEnd::Stopped`].
pub async fn pause_or_stop(pause: Duration, shutdown: &mut Shutdown) -> Result<(), SessionEnd> {
    tokio::select! {
        biased;
        () = sleep(pause) => Ok(()),
        () = stopped(shutdown) => Err(SessionEnd::Stopped),
    }
}

/// `backfeed backup`: follows one server for as long as the process lives.
///
/// # Errors
/// The [`SessionEnd`] that no further try can repair: superseded, or refused at the very first try.
pub async fn run_backup(
    config: BackupConfig,
    store: &StoreConfig,
    status: Status,
    clock: Clock,
    shutdown: Shutdown,
) -> Result<(), SessionEnd> {
    run(config, store, status, clock, shutdown, None).await
}

/// One source of `backfeed serve`: the same among others, with which it shares what a process has. An error of the server or of
/// the store is tried again, however it looks, because the others go on.
///
/// # Errors
/// The [`SessionEnd`] that no further try of this kind can repair: superseded, or a store that is no archive.
pub async fn run_among(
    config: BackupConfig,
    store: &StoreConfig,
    status: Status,
    clock: Clock,
    shutdown: Shutdown,
    shared: &Shared,
) -> Result<(), SessionEnd> {
    run(config, store, status, clock, shutdown, Some(shared)).await
}

async fn run(
    config: BackupConfig,
    store: &StoreConfig,
    status: Status,
    clock: Clock,
    mut shutdown: Shutdown,
    shared: Option<&Shared>,
) -> Result<(), SessionEnd> {
    let patience = match (config.once, shared) {
        (true, _) => Patience::None,
        (false, None) => Patience::Away,
        (false, Some(_)) => Patience::Whatever,
    };
    let archive = match open_archive(store, patience, &status, &clock, &mut shutdown).await {
        Ok(archive) => archive,
        Err(SessionEnd::Stopped) => return Ok(()),
        Err(error) => return Err(error),
    };
    let service = config.redis.service();
    let mut upstream = Located::new(config.redis);
    let mut capture = Capture::new(
        archive,
        config.capture,
        service,
        status.clone(),
        clock.clone(),
    );
    if let Some(shared) = shared {
        capture = capture.among(shared);
    }
    let gives_up = shared.is_none();
    let mut pauses = SessionPauses::default();
    let mut connected = false;
    let mut superseded = false;
    loop {
        let begun = Instant::now();
        let session = upstream.session(&mut capture, config.once, &status, &mut shutdown);
        let Session { end, achieved } = session.await;
        let achieved = achieved.anything();
        connected |= achieved;
        let search = match &end {
            SessionEnd::Sentinel(error) => Some(upstream.pause(error)),
            _ => None,
        };
        match end {
            SessionEnd::Stopped => {
                return capture.drain().await;
            }
            SessionEnd::Once(at) => {
                tracing::info!(%at, "one full sync is stored");
                return Ok(());
            }
            SessionEnd::Superseded { .. } if superseded => return Err(give_up(&status, end)),
            // The seal was found while writing. The server itself may have moved on since, as another listener has
            // seen: the next session asks it.
            SessionEnd::Superseded { .. } => {
                doubt(&status, &clock, &end);
                superseded = true;
            }
            end if config.once || (end.is_permanent() && !connected && gives_up) => {
                return Err(end);
            }
            SessionEnd::StoreStalled { .. } => {
                report(&status, &clock, &end);
                wait_for_room(&capture, &mut shutdown).await;
                superseded = false;
            }
            end => {
                report(&status, &clock, &end);
                superseded = false;
            }
        }
        status.metrics().reconnects.inc();
        let pause = search.unwrap_or_else(|| pauses.after(begun.elapsed(), achieved));
        let paused = tokio::select! {
            biased;
            () = upstream.pause_at(pause) => Ok(()),
            () = stopped(&mut shutdown) => Err(SessionEnd::Stopped),
        };
        if paused.is_err() {
            // Between two links: what was received may still wait for the store.
            status.phase(Phase::Draining, "storing what was received");
            return capture.drain().await;
        }
    }
}

/// Where the server is. This is asked each time.
enum Located {
    Server(Source),
    BySentinels { finder: Finder, backoff: Backoff },
    OfCluster(Shard),
}

impl Located {
    fn new(upstream: Upstream) -> Self {
        match upstream {
            Upstream::Server(source) => Self::Server(source),
            Upstream::Sentinels(sentinels) => Self::BySentinels {
                finder: Finder::new(sentinels),
                backoff: Backoff::with_jitter(PAUSE_FIRST, FIND_PAUSE_MAX),
            },
            Upstream::Shard(shard) => Self::OfCluster(shard),
        }
    }

    /// Waits, unless another server is to be captured by now.
    async fn pause_at(&mut self, pause: Duration) {
        match self {
            Self::OfCluster(shard) => {
                let moved = async {
                    // Nobody looks at the cluster any more: then nothing will be told.
                    if shard.server.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    () = sleep(pause) => {}
                    () = moved => {}
                }
            }
            Self::Server(_) | Self::BySentinels { .. } => sleep(pause).await,
        }
    }

    /// A session with the server that is there now.
    async fn session(
        &mut self,
        capture: &mut Capture,
        once: bool,
        status: &Status,
        shutdown: &mut Shutdown,
    ) -> Session {
        match self.locate(status, shutdown).await {
            Ok((source, watch)) => capture.session(&source, watch, once, shutdown).await,
            Err(end) => Session {
                end,
                achieved: Achieved::default(),
            },
        }
    }

    async fn locate(
        &mut self,
        status: &Status,
        shutdown: &mut Shutdown,
    ) -> Result<(Source, MasterWatch), SessionEnd> {
        match self {
            Self::Server(source) => Ok((source.clone(), MasterWatch::none())),
            Self::BySentinels { finder, backoff } => {
                status.phase(Phase::Connecting, "asking the Sentinels for the master");
                let master = tokio::select! {
                    biased;
                    master = finder.master() => master?,
                    () = stopped(shutdown) => return Err(SessionEnd::Stopped),
                };
                backoff.reset();
                Ok((master, MasterWatch::new(finder.clone())))
            }
            Self::OfCluster(shard) => {
                status.phase(Phase::Connecting, "waiting for a node of this shard");
                let server = tokio::select! {
                    biased;
                    server = shard.server.wait_for(Option::is_some) => match server {
                        Ok(server) => server.clone(),
                        Err(_) => None,
                    },
                    () = stopped(shutdown) => return Err(SessionEnd::Stopped),
                };
                let gone = || SessionEnd::StartOver("nobody looks at the cluster".to_owned());
                Ok((
                    server.ok_or_else(gone)?,
                    MasterWatch::told(shard.server.clone()),
                ))
            }
        }
    }

    /// How long to wait after a search that has failed. A wrong name needs no hurry; other errors do.
    fn pause(&mut self, error: &SentinelError) -> Duration {
        match self {
            Self::BySentinels { backoff, .. } if !error.is_unknown_name() => backoff.pause(),
            _ => jittered(PAUSE_MAX),
        }
    }
}

/// Memory is full of what waits for the store: no new link before there is room. But not much later either, because the
/// master's backlog moves on.
async fn wait_for_room(capture: &Capture, shutdown: &mut Shutdown) {
    while !capture.has_room() {
        if pause_or_stop(PAUSE_FIRST, shutdown).await.is_err() {
            return;
        }
    }
}

/// A seal was found: either another writer has taken over, or the server has moved on, which it is asked next.
pub fn doubt(status: &Status, clock: &Clock, end: &SessionEnd) {
    let text = format!("{end}; asking the server whether it has changed its history");
    tracing::warn!("{text}");
    status.error(text.clone(), clock());
    status.sealed(text);
}

/// Another writer has taken over for good.
pub fn give_up(status: &Status, end: SessionEnd) -> SessionEnd {
    status.superseded(end.to_string());
    end
}

/// A session ended in a way that the next one may repair.
pub fn report(status: &Status, clock: &Clock, end: &SessionEnd) {
    let text = end.to_string();
    tracing::warn!("{text}");
    status.error(text.clone(), clock());
    let phase = match end {
        SessionEnd::Archive(_) | SessionEnd::StoreStalled { .. } => Phase::WaitingForStore,
        _ => Phase::WaitingForRedis,
    };
    status.phase(phase, text);
}

impl From<StoreError> for SessionEnd {
    fn from(error: StoreError) -> Self {
        Self::Archive(ArchiveError::Store(error))
    }
}
