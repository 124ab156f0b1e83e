//! `backfeed sidecar`: restores the Redis beside it when that starts, promotes it, and captures it.
//!
//! ```text
//!        ┌───────────────────────────── the link is gone ───────────────────────────┐
//!        ▼                                                                          │
//!      look ──▶ our replica ──▶ listener: PSYNC ──▶ decide ──▶ [seal, serve] ─▶ promote ─▶ capture
//!        │ └──▶ master ───────▶ decide ──▶ [make it our replica] ─▶ look            ▲
//!        │                        └─────────────────────────────────────────────────┤
//!        └────▶ a replica of another server ────────────────────────────────────────┘
//! ```

mod behind;
pub mod decision;
mod empty_start;
mod opening;
mod relative_expiries;
pub(crate) mod takeover;

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::archive::{Ambiguous, Archive, ArchiveError, Catalog};
use crate::capture::{
    Achieved, Capture, Clock, MasterWatch, Session, SessionEnd, Shutdown, stopped,
};
use crate::config::{SidecarConfig, Source, StoreConfig, WhenBehind};
use crate::link::Stream;
use crate::link::control::{Control, ControlError};
use crate::link::replication_info::{Facts, Role};
use crate::monitoring::status::{Phase, Status};
use crate::recovery::RecoveryError;
use crate::restore::master::listener::Listener;
use crate::restore::{Before, Differs, Failed, Lease, RestoreError, ServeError, WaitingReplica};
use crate::service::{
    Patience, SessionPauses, doubt, give_up, open_archive, pause_or_stop, report, store_is_away,
};
use crate::wire::position::{Offset, Position, ReplId};

use self::behind::Judged;
use self::decision::{Claim, Tip};
use self::opening::{Opening, Unopened};

/// Between two looks at a Redis that is not up yet.
const LOOK_PAUSE: Duration = Duration::from_millis(250);
/// Between two tries to read whose the store is.
const STORE_PAUSE: Duration = Duration::from_secs(2);
/// Redis tries its master every second. If it has not connected for this long, it is checked again.
const REPLICA_PAUSE: Duration = Duration::from_secs(5);
/// How long a promoted Redis may take to say that it is a master.
const PROMOTION_LIMIT: Duration = Duration::from_secs(10);

/// Why the sidecar ends, or a round of it.
#[derive(Debug, thiserror::Error)]
pub enum SidecarError {
    /// The capture.
    #[error(transparent)]
    Session(#[from] SessionEnd),
    /// Redis does not answer, or its answer is wrong.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The stored state cannot be served.
    #[error("Redis cannot be restored: {0}")]
    Restore(#[from] RestoreError),
    /// Serving failed. Redis connects again.
    #[error("restoring Redis failed: {0}")]
    Serve(#[from] ServeError),
    /// The listener.
    #[error("cannot listen on {addr} for Redis: {cause}. Choose another address to listen on")]
    Listen {
        /// Where.
        addr: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It was given everything, and does not hold it.
    #[error(
        "Redis is not promoted, because it does not hold what is stored: {0}. It takes no writes. It is restored again \
         when its maxmemory is changed, when it restarts, and every 5 minutes. To promote it as it is, \
         set `promote_incomplete`"
    )]
    Unproved(Differs),
    /// The archive belongs to another server's sidecar.
    #[error(
        "{url} belongs to the sidecar `{recorded}` (sidecar.json), and this sidecar is `{name}`. Two servers must not \
         share a store: each would get the data of the other. For another server, use a path of its own, such as \
         {url}/{name}. For the same server under another name, use the recorded name"
    )]
    Name {
        /// The store.
        url: String,
        /// Whose it is.
        recorded: String,
        /// Who we are.
        name: String,
    },
    /// Another sidecar has restored its Redis from the store, and this one waited for it.
    #[error(
        "superseded: another backfeed has restored its Redis from history {history}{child}, and this one has not. If \
         that is another server, give each a store or prefix of its own. To restore this Redis from what the other one \
         stored, and shut the other one out, start this backfeed again"
    )]
    TakenOver {
        /// The history that both wanted.
        history: ReplId,
        /// The history that continues it.
        child: String,
    },
    /// Redis should have become a master and did not.
    #[error("Redis received REPLICAOF NO ONE, but says that it is not a master")]
    NotPromoted,
    /// It follows a master in a way of its own: it would never be restored.
    #[error(
        "the server is a KeyDB. A sidecar cannot restore it, because KeyDB asks its master for more than backfeed \
         serves. Use `backfeed backup`"
    )]
    KeyDb,
}

impl From<ArchiveError> for SidecarError {
    fn from(error: ArchiveError) -> Self {
        Self::Session(error.into())
    }
}

/// Runs until it is asked to stop, or superseded.
///
/// # Errors
/// What no further try can mend: superseded, no listener, a store that is no archive.
pub async fn run(
    config: SidecarConfig,
    store: &StoreConfig,
    status: Status,
    clock: Clock,
    mut shutdown: Shutdown,
) -> Result<(), SidecarError> {
    let listen = |cause| SidecarError::Listen {
        addr: config.listen.addr.to_string(),
        cause,
    };
    let listener = Listener::bind(&config.listen, "it is starting")
        .await
        .map_err(listen)?;
    tracing::info!(addr = %listener.addr(), "listening for Redis (start it with --replicaof to this address)");
    let opened = open(&config, store, &status, &clock, &mut shutdown).await;
    let archive = match opened {
        Ok(archive) => archive,
        Err(SidecarError::Session(SessionEnd::Stopped)) => return Ok(()),
        Err(error) => return Err(error),
    };
    let capture = Capture::new(
        archive,
        config.capture.clone(),
        "sidecar".to_owned(),
        status.clone(),
        clock.clone(),
    )
    .guarding_the_store();
    let mut sidecar = Sidecar {
        forked: None,
        unopened: None,
        judged: Judged::default(),
        config,
        listener,
        capture,
        status,
        clock,
        not_rebuilt: None,
        yielded: None,
        lease: None,
        superseded: false,
        achieved: Achieved::default(),
    };
    match sidecar.run(&mut shutdown).await {
        Err(SidecarError::Session(SessionEnd::Stopped)) => Ok(sidecar.capture.drain().await?),
        Err(SidecarError::Session(end @ SessionEnd::Superseded { .. })) => {
            Err(give_up(&sidecar.status, end).into())
        }
        Err(error @ SidecarError::TakenOver { .. }) => {
            sidecar.status.superseded(error.to_string());
            Err(error)
        }
        Err(error) => Err(error),
        Ok(()) => Ok(()),
    }
}

/// Opens the archive, however long it takes. Meanwhile `--open-after` promotes Redis.
async fn open(
    config: &SidecarConfig,
    store: &StoreConfig,
    status: &Status,
    clock: &Clock,
    shutdown: &mut Shutdown,
) -> Result<Archive, SidecarError> {
    let opening = open_own(config, store, status, clock, shutdown);
    let mut opening = std::pin::pin!(opening);
    let Some(open_after) = config.open_after else {
        return opening.await;
    };
    if let Ok(opened) = timeout(open_after, &mut opening).await {
        return opened;
    }
    tracing::warn!(
        "the store has been away for {open_after:?} (`open_after`): opening Redis as it is, without the stored data"
    );
    tokio::select! {
        biased;
        opened = &mut opening => opened,
        () = keep_open(config, status) => Err(SidecarError::NotPromoted),
    }
}

/// Opens it if it is ours.
async fn open_own(
    config: &SidecarConfig,
    store: &StoreConfig,
    status: &Status,
    clock: &Clock,
    shutdown: &mut Shutdown,
) -> Result<Archive, SidecarError> {
    loop {
        let archive = open_archive(store, Patience::Whatever, status, clock, shutdown).await?;
        match archive.belongs_to(&config.name, clock()).await {
            Ok(recorded) if recorded == config.name => return Ok(archive),
            Ok(recorded) => {
                return Err(SidecarError::Name {
                    url: archive.store().url(),
                    recorded,
                    name: config.name.clone(),
                });
            }
            Err(error @ ArchiveError::Store(_)) => store_is_away(status, clock, &error),
            Err(error) => return Err(error.into()),
        }
        pause_or_stop(STORE_PAUSE, shutdown).await?;
    }
}

/// Promotes Redis whenever it waits for us, without an end: it may come up late, or again.
async fn keep_open(config: &SidecarConfig, status: &Status) {
    let mut said = None;
    loop {
        let opened = promote_if_replica(config).await;
        status.promoted(matches!(opened, Ok(true)));
        let problem = opened.err().map(|error| error.to_string());
        if let Some(problem) = problem.as_ref().filter(|now| said.as_ref() != Some(*now)) {
            tracing::warn!("cannot open Redis yet: {problem}");
        }
        said = problem;
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// Is it a master now?
async fn promote_if_replica(config: &SidecarConfig) -> Result<bool, ControlError> {
    let mut control = Control::connect(&config.redis).await?;
    match control.facts().await?.role {
        Role::Master => Ok(true),
        Role::Replica { port, .. } if port == config.listen.addr.port() => {
            control.call(&["REPLICAOF", "NO", "ONE"]).await?;
            tracing::info!("Redis is a master and takes writes, without the stored data");
            Ok(true)
        }
        Role::Replica { .. } | Role::Unknown => Ok(false),
    }
}

/// What the store can give a Redis.
struct Found {
    /// With what was read of it.
    archive: Archive,
    catalog: Catalog,
    tip: Tip,
}

struct Sidecar {
    /// The fresh id under which Redis was served last: what it has is ours, though the store does not know the id.
    forked: Option<ReplId>,
    /// The last Redis that received everything and was not promoted, and why.
    unopened: Option<Unopened>,
    judged: Judged,
    config: SidecarConfig,
    listener: Listener,
    capture: Capture,
    status: Status,
    clock: Clock,
    /// What came of giving Redis base and log as one RDB.
    not_rebuilt: Option<Failed>,
    /// The history that another sidecar restores its Redis from while ours waits.
    yielded: Option<ReplId>,
    /// Held from before a Redis is served under an id of its own until what it is then is stored.
    lease: Option<Lease>,
    /// A seal was found by the session before: its history must have moved on, or we are superseded.
    superseded: bool,
    /// Achieved by the session of this round.
    achieved: Achieved,
}

impl SidecarError {
    /// The store did not answer, or refused. Nothing is known of what it holds.
    fn is_of_store(&self) -> bool {
        let (Self::Session(SessionEnd::Archive(error))
        | Self::Restore(RestoreError::Recovery(RecoveryError::Archive(error)))) = self
        else {
            return false;
        };
        matches!(error, ArchiveError::Store(_))
    }
}

impl Sidecar {
    async fn run(&mut self, shutdown: &mut Shutdown) -> Result<(), SidecarError> {
        let mut pauses = SessionPauses::default();
        loop {
            let begun = Instant::now();
            self.achieved = Achieved::default();
            match self.round(shutdown).await {
                Ok(()) => {
                    pauses.reset();
                    continue;
                }
                Err(SidecarError::Session(SessionEnd::Stopped)) => {
                    return Err(SessionEnd::Stopped.into());
                }
                Err(SidecarError::Session(end @ SessionEnd::Superseded { .. })) => {
                    if std::mem::replace(&mut self.superseded, true) {
                        return Err(end.into());
                    }
                    doubt(&self.status, &self.clock, &end);
                }
                Err(error @ (SidecarError::KeyDb | SidecarError::TakenOver { .. })) => {
                    return Err(error);
                }
                Err(SidecarError::Session(end)) => report(&self.status, &self.clock, &end),
                Err(error) => self.round_failed(&error).await,
            }
            self.listener.close("backfeed tries again soon");
            let pause = pauses.after(begun.elapsed(), self.achieved.anything());
            pause_or_stop(pause, shutdown).await?;
        }
    }

    /// One round: a look at Redis, and everything that follows from it.
    async fn round(&mut self, shutdown: &mut Shutdown) -> Result<(), SidecarError> {
        let (mut control, facts) = self.look(shutdown).await?;
        self.capture.note_start(Some(&facts));
        match &facts.role {
            Role::Replica { host, port, .. } if self.is_us(&control, host, *port).await => {
                tokio::select! {
                    biased;
                    done = self.our_replica(&mut control, &facts) => done?,
                    () = stopped(shutdown) => return Err(SessionEnd::Stopped.into()),
                }
                return Ok(());
            }
            Role::Replica { host, port, .. } => {
                self.status.promoted(false);
                tracing::warn!(
                    "Redis is a replica of {host}:{port}, not of backfeed: it is captured as it is"
                );
                self.capture.accept(facts.replid);
            }
            Role::Master | Role::Unknown if self.capture.has_promoted(&facts) => {
                // It has just been given everything.
                self.capture.accept(None);
                self.status.promoted(true);
            }
            Role::Master | Role::Unknown => {
                match self.judge(&facts, shutdown).await? {
                    (decision::Master::Restore, _)
                    | (decision::Master::Behind(_), WhenBehind::Restore) => {
                        return self.make_our_replica(&mut control, &facts).await;
                    }
                    (decision::Master::Behind(_), WhenBehind::Wait) => {
                        return self.wait_for_decision(&facts, shutdown).await;
                    }
                    (decision::Master::Capture, _)
                    | (decision::Master::Behind(_), WhenBehind::Capture) => {}
                }
                self.status.promoted(true);
            }
        }
        drop(control);
        self.listener.close("Redis is captured, not restored");
        let session = self
            .capture
            .session(&self.config.redis, MasterWatch::none(), false, shutdown)
            .await;
        self.lease = None;
        let Session {
            end: ended,
            achieved,
        } = session;
        self.achieved = achieved;
        // Only a second seal in a row says that the server itself still is in the sealed history.
        if !matches!(ended, SessionEnd::Superseded { .. }) {
            self.superseded = false;
        } else if self.capture.is_refused() {
            self.superseded = true;
        }
        self.status.promoted(false);
        if let SessionEnd::Less {
            at,
            found,
            ref started_empty,
        } = ended
        {
            self.weigh(at, found, started_empty.clone()).await?;
        }
        Err(ended.into())
    }

    /// Waits for a Redis that answers and has loaded what it has.
    async fn look(&mut self, shutdown: &mut Shutdown) -> Result<(Control, Facts), SidecarError> {
        loop {
            let seen = tokio::select! {
                biased;
                seen = facts_of(&self.config.redis) => seen,
                () = stopped(shutdown) => return Err(SessionEnd::Stopped.into()),
            };
            match seen {
                Ok((_, facts)) if facts.is_keydb() => return Err(SidecarError::KeyDb),
                Ok((control, facts)) if !facts.loading => return Ok((control, facts)),
                Ok(_) => self
                    .status
                    .phase(Phase::WaitingForRedis, "Redis is loading its data set"),
                Err(error) if error.is_permanent() => return Err(error.into()),
                Err(error) => self.status.phase(Phase::WaitingForRedis, error.to_string()),
            }
            pause_or_stop(LOOK_PAUSE, shutdown).await?;
        }
    }

    /// Redis booted as our replica, or was made it: decide, serve, promote.
    async fn our_replica(
        &mut self,
        control: &mut Control,
        facts: &Facts,
    ) -> Result<(), SidecarError> {
        self.status.promoted(false);
        self.may_be_served(facts)?;
        self.store_rest_of_last().await;
        // What is read now is what the restore reads, and what the capture goes on from.
        let archive = self.capture.archive().keeping();
        let found = self.tip_in(&archive).await?;
        let aliases = found.as_ref().map(|(catalog, _)| catalog.aliases());
        let aliases = aliases.unwrap_or_default();
        let Some(waiting) = self.replica_that_asks().await else {
            return Ok(());
        };
        let key = |id| aliases.key(id);
        let tip = found.as_ref().map(|(_, tip)| tip);
        // The id of a server that was set back stands for two histories. What is stored of either is no data of its own.
        let claim = |(id, offset)| {
            let is_stored = tip
                .and_then(|tip| tip.knows(id))
                .is_some_and(|end| offset <= end);
            let id = if is_stored { id } else { key(id) };
            Claim { id, offset }
        };
        // It was asked before it connected; between the two it may have been given data.
        let now = control.facts().await?;
        self.capture.note_start(Some(&now));
        let keys = now.total_keys();
        let said = waiting.claim().map(claim);
        let held = now.replid.zip(now.offset).map(claim);
        let claim = Claim::or_held(said, keys, held);
        let now = now.named(key);
        tracing::debug!(
            keys,
            ?said,
            version = now.version,
            "Redis asks for its data"
        );
        // Under that id it was never opened, so that it has nothing of its own.
        let is_ours = claim.is_some_and(|claim| Some(claim.id) == self.forked);
        let keys = if is_ours { 0 } else { keys };
        let before = Before::of(&now);
        let given_up = self.is_given_up(&now, claim, tip);
        let replica = decision::replica(keys, claim, now.replid2, given_up, tip);
        let with = |(catalog, tip)| Found {
            archive: archive.clone(),
            catalog,
            tip,
        };
        match (replica, found) {
            (decision::Replica::Serve, Some(found)) => {
                self.restore(control, &before, waiting, with(found)).await
            }
            (decision::Replica::Promote(_), None) if empty_start::is_blank(&now) => {
                match self.begin(&now).await? {
                    Some(tip) => {
                        let catalog = archive.only(tip.end.history).await?;
                        self.restore(control, &before, waiting, with((catalog, tip)))
                            .await
                    }
                    // Redis comes again, and is given what that one has stored.
                    None => Ok(()),
                }
            }
            (decision::Replica::Promote(reason), _) => {
                self.promote(control, &Opening::AsItIs(reason)).await
            }
            (decision::Replica::Serve, None) => {
                let reason = "there is nothing to restore";
                self.promote(control, &Opening::AsItIs(reason)).await
            }
        }
    }

    /// What the last Redis had told us goes into the store before it is given to the next one.
    async fn store_rest_of_last(&mut self) {
        if !self.capture.is_flushed() {
            self.status.phase(
                Phase::WaitingForStore,
                "storing what the last Redis had sent, before restoring",
            );
        }
        if self.capture.drain().await.is_err() {
            tracing::warn!(
                "a part of what the last Redis had sent was in the spool and is lost, and that Redis is gone. It was \
                 not acknowledged as stored"
            );
        }
    }

    /// Waits until our replica asks for its data. None: it has not asked for a while.
    async fn replica_that_asks(&mut self) -> Option<WaitingReplica<Stream>> {
        self.status.phase(
            Phase::WaitingForRedis,
            "Redis is a replica of backfeed: waiting until it asks for its data",
        );
        self.listener.open();
        let waiting = timeout(REPLICA_PAUSE, self.listener.waiting()).await;
        self.listener
            .close("Redis is being restored on another connection");
        if waiting.is_err()
            && let Some(problem) = self.listener.problem()
        {
            // It was logged when it happened.
            self.status.error(problem, (self.clock)());
        }
        waiting.ok()
    }

    /// Redis came up as a master with less than the store has: it was not started as our replica.
    async fn make_our_replica(
        &mut self,
        control: &mut Control,
        facts: &Facts,
    ) -> Result<(), SidecarError> {
        let what = match facts.total_keys() {
            0 => "an empty master, but the store has data",
            _ => "a master with less than the store has",
        };
        tracing::warn!(
            "Redis is {what}: restoring it. Start it with --replicaof {}: then it takes no writes before it is \
             restored",
            self.listener.addr()
        );
        let ip = match self.listener.addr().ip() {
            ip if ip.is_unspecified() => control.local_ip().unwrap_or(ip),
            ip => ip,
        };
        control
            .call(&[
                "REPLICAOF",
                &ip.to_string(),
                &self.listener.addr().port().to_string(),
            ])
            .await?;
        Ok(())
    }

    /// The latest that the store can give, and everything in it.
    async fn tip(&self) -> Result<Option<(Catalog, Tip)>, SidecarError> {
        self.tip_in(self.capture.archive()).await
    }

    async fn tip_in(&self, archive: &Archive) -> Result<Option<(Catalog, Tip)>, SidecarError> {
        let mut catalog = archive.outline().await?;
        let latest = match (
            catalog.latest(Some(self.capture.service())),
            self.config.history,
        ) {
            (Ok(latest), _) => latest,
            (Err(several), Some(wanted)) => Some(choose(&catalog, several, wanted)?),
            (Err(several), None) => {
                return Err(RestoreError::from(RecoveryError::from(several)).into());
            }
        };
        let Some(history) = latest else {
            return Ok(None);
        };
        archive
            .load(&mut catalog, history, Offset(u64::MAX))
            .await?;
        let end = archive.log_end(&catalog, history).await?;
        let end = Position {
            history,
            offset: end.boundary.offset,
        };
        let tip = Tip::new(&catalog, end);
        Ok(Some((catalog, tip)))
    }

    async fn is_us(&self, control: &Control, host: &str, port: u16) -> bool {
        if port != self.listener.addr().port() {
            return false;
        }
        let ours = |ip: IpAddr| {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip == self.listener.addr().ip() || Some(ip) == control.local_ip()
        };
        match tokio::net::lookup_host((host, port)).await {
            Ok(mut addrs) => addrs.any(|addr| ours(addr.ip())),
            Err(_) => false,
        }
    }

    /// A round failed in a way that the next one may repair.
    async fn round_failed(&mut self, error: &SidecarError) {
        let text = error.to_string();
        if self.status.view().last_error.as_ref() != Some(&text) {
            tracing::warn!("{text}");
        }
        match error {
            SidecarError::Restore(RestoreError::Recovery(RecoveryError::Archive(cause)))
                if cause.is_transient() =>
            {
                store_is_away(&self.status, &self.clock, cause);
            }
            _ => {
                self.status.error(text.clone(), (self.clock)());
                self.status.phase(Phase::WaitingForRedis, text);
            }
        }
    }
}

/// `--history` decides which of several branches is meant: the one that descends from it. When that branch has children
/// of its own, the flag may still be set, and must not lead back.
fn choose(catalog: &Catalog, several: Ambiguous, wanted: ReplId) -> Result<ReplId, RestoreError> {
    let comes_from = |id: &ReplId| {
        let line = catalog.lineage(*id).unwrap_or_default();
        line.iter().any(|position| position.history == wanted)
    };
    let mut of_it = several.0.iter().copied().filter(comes_from);
    match (of_it.next(), of_it.next()) {
        (Some(id), None) => Ok(id),
        _ => Err(RecoveryError::from(several).into()),
    }
}

async fn facts_of(redis: &Source) -> Result<(Control, Facts), ControlError> {
    let mut control = Control::connect(redis).await?;
    let facts = control.facts().await?;
    Ok((control, facts))
}
