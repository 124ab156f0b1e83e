//! Capture: follows one server, and keeps what it says in the archive.
//!
//! [`Capture`] outlives links: what was received and not yet stored stays in its [`log_buffer::LogBuffer`], and its
//! [`log_writer::LogWriter`] goes on storing while there is no link. A [`Capture::session`] is one link, from the
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
mod foreign_feed;
pub mod full_sync;
mod full_sync_limit;
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

pub(crate) use self::captured_server::wants_version;
pub(crate) use self::session::REPLICA_VERSION;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::archive::{Aliases, Archive, ArchiveError};
use crate::capture::foreign_feed::ForeignFeed;
use crate::capture::full_sync::FullSyncError;
use crate::capture::full_sync_limit::FullSyncLimit;
use crate::capture::log_buffer::Moment;
use crate::capture::log_writer::LogWriter;
use crate::capture::predecessor::Previous;
use crate::capture::spool::Spool;
use crate::config::{CaptureConfig, Size};
use crate::link::LinkError;
use crate::link::control::ControlError;
use crate::link::sentinel::SentinelError;
use crate::monitoring::status::Status;
use crate::wire::position::{Position, ReplId};
use crate::{display, runtime};

pub use self::data_loss_guard::{Amount, TINY};
pub use self::full_sync_limit::{
    FULL_SYNC_PAUSE_FIRST, FULL_SYNC_PAUSE_MAX, FULL_SYNC_WINDOW, FULL_SYNCS_MAX,
};
pub use self::master_watch::MasterWatch;
pub use self::promoted::Promoted;

/// The wall clock: Unix milliseconds. Handed in, as it may jump.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// Becomes true when the process is to end.
pub type Shutdown = watch::Receiver<bool>;

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
    /// The Sentinels have made another server the master.
    #[error("the Sentinels have made {to} the master, in place of {from}: following it there")]
    Moved {
        /// host:port of the old one.
        from: String,
        /// host:port of the new one.
        to: String,
    },
    /// There were full syncs enough for now.
    #[error(
        "a full sync is needed, and the server is not asked for one before {} s have passed: each makes it fork and send \
         all of its data, so there are no more than {FULL_SYNCS_MAX} in {} s, and fewer when they come to nothing. See \
         above in the log why they were needed", .wait.as_secs().saturating_add(1), FULL_SYNC_WINDOW.as_secs()
    )]
    FullSyncLimit {
        /// For so long.
        wait: Duration,
    },
    /// More was written during a full sync than the server's backlog holds.
    #[error(
        "more was written than the server's backlog holds before the snapshot at {at} was stored, so the feed after it is gone. The          next full sync takes snapshot and feed by one link, which costs the server's output buffer (a larger repl-backlog-size          avoids it)"
    )]
    BacklogOverrun {
        /// Where the snapshot stands.
        at: Position,
    },
    /// The full sync did not come to its end.
    #[error(transparent)]
    FullSync(#[from] FullSyncError),
    /// The store.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The server sent something that is no feed.
    #[error("{0}; taking the link for broken")]
    Feed(String),
    /// What the server sends is not what is stored of its history.
    #[error(
        "after {at} the server sends something else than what is stored there, under the same replication id: it was set back \
         to an earlier state (a snapshot of its machine), or is a copy of another server. Nothing of it is acknowledged; a \
         full sync begins a history of its own"
    )]
    ForeignFeed {
        /// Where the two were compared.
        at: Position,
    },
    /// The store is too slow, or away, and the memory for the feed is full.
    #[error(
        "{pending} bytes of feed wait for the store, which is {limit}: hanging up, so that the master's memory \
         does not fill in our place. Later it goes on from the last stored offset, if the master's backlog holds it \
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
    /// What waited for the store is gone.
    #[error(
        "{0}; what it held was not acknowledged as stored, and the server is asked for it again by the next link"
    )]
    SpoolLost(String),
    /// Another writer has sealed the history: whatever this server does now belongs to no backup of that history.
    #[error(
        "superseded: history {} was sealed at offset {} ({reason}). Another backfeed has taken over; nothing more of this \
         server is acknowledged or stored. (If that is another server, give each a --store, or a prefix, of its own)", .at.history, .at.offset
    )]
    Superseded {
        /// Where it was sealed.
        at: Position,
        /// By whom and why.
        reason: String,
    },
    /// A sidecar: the server has far less than the store, and comes from nothing that is stored.
    #[error(
        "the server came up with {} keys and {} at {at}, of a history that the store does not know, and the store has \
         far more: nothing of it is captured before that is looked at", .found.keys.unwrap_or(0), Size(.found.bytes)
    )]
    Tiny {
        /// Where.
        at: Position,
        /// What it has.
        found: Amount,
    },
    /// The world changed under the session in a way that a new one will see.
    #[error("starting over: {0}")]
    StartOver(String),
    /// Asked to stop; everything received is stored and acknowledged.
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
            | Self::Tiny { .. }
            | Self::ForeignFeed { .. }
            | Self::StartOver(_) => false,
            Self::Superseded { .. } | Self::Stopped | Self::Once(_) => true,
        }
    }
}

/// What a session achieved, however it ended. It steers what comes next; the metrics only report.
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

/// A session that is over.
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
    /// What a new history comes after, as the store was when it was last looked at.
    before: Vec<Previous>,
    /// Histories that have another key in the store than the id that the server has.
    aliases: Aliases,
    /// What showed that the server's feed is not that of the history of its id.
    foreign: ForeignFeed,
    guards: bool,
    accepted: Option<ReplId>,
    full_syncs: FullSyncLimit,
    /// The backlog did not last for two links: the next full sync takes one.
    one_link: bool,
    /// What the clock of the server said, and when, where that matters. From there on time is measured: our clock may jump.
    server_clock: Option<(i64, Instant)>,
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
        let writer = format!("{service}/{:016x}", runtime::random());
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
            aliases: Aliases::default(),
            foreign: ForeignFeed::default(),
            guards: false,
            accepted: None,
            full_syncs: FullSyncLimit::default(),
            one_link: false,
            server_clock: None,
            promoted: None,
            refused: false,
        }
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

    /// Is everything received stored, or in vain?
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        let settled = |log: &LogWriter| {
            log.is_flushed() || log.superseded().is_some() || log.foreign().is_some()
        };
        self.log.as_ref().is_none_or(settled)
    }

    /// Is there room again for a good part of a feed?
    #[must_use]
    pub fn has_room(&self) -> bool {
        let memory = self
            .log
            .as_ref()
            .map_or(0, |log| log.buffer(|buffer| buffer.memory()));
        memory < spool::spooler::threshold(&self.config)
            && self.spool.as_ref().is_none_or(Spool::has_room)
    }

    /// Stores what was received, up to the last boundary, and forgets the link's state: the next session goes by the
    /// store alone. Waits as long as the store is away.
    ///
    /// # Errors
    /// [`SessionEnd::SpoolLost`]: the spool has lost some of it, and the server has not sent it again.
    pub async fn drain(&mut self) -> Result<(), SessionEnd> {
        let mut missing = None;
        // The log stays while we wait: whoever stops waiting may come back for it.
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
            "the clock went back, or was ahead before: the last bytes stored were received at {last}, and it is {now} now. Nothing is \
             lost, but until it is {last} again, the log's times stand still: a restore of a time between is refused (`--at \
             latest` and `--at offset:N` are not). Have the clock of this machine set by NTP"
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
