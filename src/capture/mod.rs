//! Capture: follows one server, and stores its snapshot and feed in the archive.
//!
//! [`Capture`] outlives links. What was received and is not stored yet stays in its [`log_buffer::LogBuffer`]. Its
//! [`log_writer::LogWriter`] continues to store while there is no link. A [`Capture::session`] is one link, from the
//! handshake to its end:
//!
//! ```text
//!  resume ──PSYNC──▶ +CONTINUE ───────────────────────────────▶ follow: feed ──▶ log buffer ──▶ log_writer ──▶ archive
//!                └─▶ +FULLRESYNC ─▶ full_sync: RDB ─▶ archive ─▶ feed_link: +CONTINUE ─▶ follow
//! ```

pub mod spool;

mod captured_server;
mod commit;
mod data_loss_guard;
mod feed_link;
mod feed_memory;
mod foreign_feed;
pub mod full_sync;
mod full_sync_limit;
mod full_sync_turns;
pub mod log_buffer;
pub mod log_writer;
mod master_watch;
mod overlap;
mod predecessor;
mod promoted;
pub mod refetch;
mod resume;
mod session;
mod shutdown_probe;
mod streaming;
mod succession;

#[cfg(feature = "cli")]
pub(crate) use self::captured_server::wants_version;
#[cfg(feature = "cli")]
pub(crate) use self::session::REPLICA_VERSION;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::archive::{Aliases, Archive, ArchiveError, new_writer};
use crate::capture::foreign_feed::ForeignFeed;
use crate::capture::full_sync::FullSyncError;
use crate::capture::full_sync_limit::FullSyncLimit;
use crate::capture::log_buffer::Moment;
use crate::capture::log_writer::LogWriter;
use crate::capture::predecessor::Previous;
use crate::capture::spool::Spool;
use crate::config::{CaptureConfig, Size};
use crate::display;
use crate::link::LinkError;
use crate::link::control::ControlError;
use crate::link::sentinel::SentinelError;
use crate::monitoring::status::Status;
use crate::wire::position::{Position, ReplId};

pub use self::data_loss_guard::{Amount, EmptyStart, TINY};
pub use self::feed_memory::{FeedMemory, FeedShare};
pub use self::full_sync_limit::{
    FULL_SYNC_PAUSE_FIRST, FULL_SYNC_PAUSE_MAX, FULL_SYNC_WINDOW, FULL_SYNCS_MAX,
};
pub use self::full_sync_turns::FullSyncTurns;
pub use self::master_watch::MasterWatch;
pub use self::promoted::Promoted;

/// The wall clock: Unix milliseconds. It is a parameter, because it may jump.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Becomes true when the process is to end.
pub type Shutdown = watch::Receiver<bool>;

/// What the captures of one process share. Clones share the same.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Memory for feed that waits for the store.
    pub memory: FeedMemory,
    /// Turns for full syncs.
    pub full_syncs: FullSyncTurns,
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The link: never there, refused, or lost.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The ordinary connection that we look at the server with.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The Sentinels did not lead to a master.
    #[error(transparent)]
    Sentinel(#[from] SentinelError),
    /// Another server is the master, as the Sentinels or the cluster say.
    #[error("{to} has taken the place of {from}: following it")]
    Moved {
        /// host:port of the old one.
        from: String,
        /// host:port of the new one.
        to: String,
    },
    /// There were full syncs enough for now.
    #[error(
        "a full sync is needed, and the next one is allowed in {} s. Each makes the server fork and send all of its \
         data, so there are at most {FULL_SYNCS_MAX} in {} s, and fewer when they fail. The log above says why they \
         were needed", .wait.as_secs().saturating_add(1), FULL_SYNC_WINDOW.as_secs()
    )]
    FullSyncLimit {
        /// How long to wait.
        wait: Duration,
    },
    /// More was written during a full sync than the server's backlog holds.
    #[error(
        "before the snapshot at {at} was stored, the server wrote more than its backlog holds, so the feed after the \
         snapshot is gone. The next full sync uses one connection for both, and needs the server's output buffer. A \
         larger repl-backlog-size avoids this"
    )]
    BacklogOverrun {
        /// The position of the snapshot.
        at: Position,
    },
    /// The full sync did not come to its end.
    #[error(transparent)]
    FullSync(#[from] FullSyncError),
    /// The store.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The server sent something that is no feed.
    #[error("{0}; the link counts as broken")]
    Feed(String),
    /// What the server sends is not what is stored of its history.
    #[error(
        "after {at} the server sends other bytes than are stored, under the same replication id. Its machine was set \
         back to a snapshot, or it is a copy of another server. Nothing of it is acknowledged. A full sync begins a \
         history of its own"
    )]
    ForeignFeed {
        /// Where the two were compared.
        at: Position,
    },
    /// The store is too slow, or away, and the memory for the feed is full.
    #[error(
        "{pending} bytes of feed wait for the store, and the limit is {limit}: disconnecting, so that the memory of \
         the master does not fill. backfeed resumes from the last stored offset if the master's backlog still holds it \
         (repl-backlog-size){}", .cause.as_ref().map(|cause| format!("; the store says: {cause}")).unwrap_or_default()
    )]
    StoreStalled {
        /// Bytes received and not stored.
        pending: u64,
        /// What they have reached.
        limit: &'static str,
        /// What the store last failed with.
        cause: Option<String>,
    },
    /// The spool has lost what waited for the store.
    #[error(
        "{0}. What it held was not acknowledged as stored. The next connection asks the server for it again"
    )]
    SpoolLost(String),
    /// Another writer has sealed the history: whatever this server does now belongs to no backup of that history.
    #[error(
        "superseded: another backfeed has taken over: history {} was sealed at offset {} ({reason}). Nothing more of \
         this server is acknowledged or stored. If this is another server, give each a store or prefix of its own", .at.history, .at.offset
    )]
    Superseded {
        /// Where it was sealed.
        at: Position,
        /// Who sealed it, and why.
        reason: String,
    },
    /// A sidecar: the server has less than the store, and comes from nothing that is stored.
    #[error(
        "the server has {} keys and {} at {at}, of a history that the store does not know, and the store has more: \
         nothing of it is captured before that is looked at", .found.keys.unwrap_or(0), Size(.found.bytes)
    )]
    Less {
        /// Where.
        at: Position,
        /// What it has.
        found: Amount,
        /// It loaded nothing when it started.
        started_empty: Option<EmptyStart>,
    },
    /// Something changed during the session. A new session will see it.
    #[error("starting over: {0}")]
    StartOver(String),
    /// It was asked to stop. Everything received is stored and acknowledged.
    #[error("stopped")]
    Stopped,
    /// `--once`: the snapshot is stored.
    #[error("one full sync was stored at {0}")]
    Once(Position),
}

impl SessionEnd {
    /// Is there no use in trying again without a change?
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Link(error) | Self::FullSync(FullSyncError::Link(error)) => error.is_permanent(),
            Self::Control(error) => error.is_permanent(),
            Self::Sentinel(error) => error.is_permanent(),
            Self::FullSync(FullSyncError::Archive(ArchiveError::Swept { .. })) => false,
            Self::Archive(error) | Self::FullSync(FullSyncError::Archive(error)) => {
                !error.is_transient()
            }
            Self::FullSync(_)
            | Self::Feed(_)
            | Self::Moved { .. }
            | Self::FullSyncLimit { .. }
            | Self::StoreStalled { .. }
            | Self::BacklogOverrun { .. }
            | Self::SpoolLost(_)
            | Self::Less { .. }
            | Self::ForeignFeed { .. }
            | Self::StartOver(_) => false,
            Self::Superseded { .. } | Self::Stopped | Self::Once(_) => true,
        }
    }
}

/// What a session achieved, however it ended. It decides what comes next. The metrics only report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Achieved {
    /// The server has continued the feed.
    pub continued: bool,
    /// The server has begun a full sync.
    pub full_sync_begun: bool,
    /// The snapshot of that is stored, and counts.
    pub full_sync_stored: bool,
}

impl Achieved {
    /// Was the link of any use?
    #[must_use]
    pub fn anything(self) -> bool {
        self.continued || self.full_sync_stored
    }
}

/// A session that has ended.
#[derive(Debug)]
pub struct Session {
    /// How it ended.
    pub end: SessionEnd,
    /// What it achieved before.
    pub achieved: Achieved,
}

/// The capture of one server.
pub struct Capture {
    archive: Archive,
    config: CaptureConfig,
    spool: Option<Spool>,
    /// Who we are, in `history.json`: the source's host:port, or `sidecar`.
    service: String,
    /// Which process we are, in segment headers.
    writer: String,
    status: Status,
    clock: Clock,
    log: Option<LogWriter>,
    /// What a new history comes after, according to the last look at the store.
    before: Vec<Previous>,
    /// The histories that there were at that look.
    seen: Option<BTreeSet<ReplId>>,
    /// Histories that have another key in the store than the id that the server has.
    aliases: Aliases,
    /// What showed that the server's feed is not that of the history of its id.
    foreign: ForeignFeed,
    guards: bool,
    accepted: Option<ReplId>,
    full_syncs: FullSyncLimit,
    /// Other captures take full syncs too.
    turns: Option<FullSyncTurns>,
    /// The memory for feed, if other captures share it.
    share: Option<FeedShare>,
    /// The backlog did not last for two links: the next full sync takes one.
    one_link: bool,
    /// What the clock of the server said, and when, where that matters. From there on time is measured: our clock may jump.
    server_clock: Option<(i64, Instant)>,
    /// The server loaded nothing when it started.
    started_empty: Option<EmptyStart>,
    /// The server was promoted by us, and is to be followed from there.
    promoted: Option<Promoted>,
    /// Another one goes on from where it was.
    refused: bool,
}

impl Capture {
    /// Nothing happens before the first session.
    #[must_use]
    pub fn new(
        archive: Archive,
        config: CaptureConfig,
        service: String,
        status: Status,
        clock: Clock,
    ) -> Self {
        let writer = new_writer(&service);
        let spool = config
            .spool
            .as_ref()
            .map(|spool| Spool::new(spool, &status));
        Self {
            archive,
            config,
            spool,
            service,
            writer,
            status,
            clock,
            log: None,
            before: Vec::new(),
            seen: None,
            aliases: Aliases::default(),
            foreign: ForeignFeed::default(),
            guards: false,
            accepted: None,
            full_syncs: FullSyncLimit::default(),
            turns: None,
            share: None,
            one_link: false,
            server_clock: None,
            started_empty: None,
            promoted: None,
            refused: false,
        }
    }

    /// The same, as one of several captures in a process.
    #[must_use]
    pub fn among(mut self, shared: &Shared) -> Self {
        self.turns = Some(shared.full_syncs.clone());
        self.share = Some(shared.memory.join());
        self
    }

    /// The archive.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Who we are.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Which process we are.
    #[must_use]
    pub fn writer(&self) -> &str {
        &self.writer
    }

    /// Is everything that was received stored, or of no use?
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        let settled = |log: &LogWriter| log.is_flushed() || !log.is_of_use();
        self.log.as_ref().is_none_or(settled)
    }

    /// Is there room again for a good part of a feed?
    #[must_use]
    pub fn has_room(&self) -> bool {
        let memory = self
            .log
            .as_ref()
            .map_or(0, |log| log.buffer(|buffer| buffer.memory()));
        let has_room = memory < spool::spooler::threshold(&self.config)
            && self.spool.as_ref().is_none_or(Spool::has_room)
            && !self.share.as_ref().is_some_and(FeedShare::is_crowded);
        if let Some(log) = self.log.as_ref().filter(|_| !has_room) {
            log.nudge();
        }
        has_room
    }

    /// Stores what was received, up to the last boundary, and forgets the state of the link: the next session relies
    /// only on the store. Waits as long as the store is away.
    ///
    /// # Errors
    /// [`SessionEnd::SpoolLost`]: the spool has lost a part of it, and the server has not sent it again.
    pub async fn drain(&mut self) -> Result<(), SessionEnd> {
        let mut missing = None;
        // The log stays while we wait, because a caller that stops waiting may come back for it.
        if let Some(log) = &self.log {
            log.buffer(log_buffer::LogBuffer::truncate_to_boundary);
            let complete = log.drain().await;
            missing = log.missing().filter(|_| complete);
        }
        self.log = None;
        missing.map_or(Ok(()), |error| Err(SessionEnd::SpoolLost(error)))
    }

    fn now(&self) -> Moment {
        let instant = Instant::now();
        let of_server = self.server_clock.map(|(said, at)| {
            let since = instant.saturating_duration_since(at).as_millis();
            said.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
        });
        Moment {
            unix_ms: of_server.unwrap_or_else(|| (self.clock)()),
            instant,
        }
    }

    /// The last bytes of a log were received later than it is now. Said once for each time that this happens.
    fn clock_went_back(&self, log: &LogWriter, now_unix_ms: i64) {
        let last = display::time(log.buffer(|buffer| buffer.last_mark_ms()));
        let now = display::time(now_unix_ms);
        let text = format!(
            "the clock went back, or was ahead before: the last stored bytes were received at {last}, and it is {now} \
             now. Nothing is lost. Until {last}, the times of the log stand still, and a restore of a time in between \
             is refused (the latest point and offsets can be restored). Set the clock of this machine with NTP"
        );
        tracing::warn!("{text}");
        self.status.error(text, (self.clock)());
    }
}

/// Waits until we are asked to stop.
pub(crate) async fn stopped(shutdown: &mut Shutdown) {
    let alone = shutdown.wait_for(|stop| *stop).await.is_err();
    if alone {
        // Nobody is left to ask us to stop.
        std::future::pending::<()>().await;
    }
}

/// Runs a step that can be given up at any time.
async fn unless_stopped<T>(
    shutdown: &mut Shutdown,
    step: impl Future<Output = T>,
) -> Result<T, SessionEnd> {
    tokio::select! {
        biased;
        done = step => Ok(done),
        () = stopped(shutdown) => Err(SessionEnd::Stopped),
    }
}
