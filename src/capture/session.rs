//! One link to a server, from the handshake to its end.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::commit::{Commit, Committing};
use super::full_sync::{self, FullSyncError};
use super::log_writer::{self, LogWriter};
use super::resume::{self, Known};
use super::server::{explain_full_sync, look, server_info, wants_version, warn_of_strangers};
use super::shutdown_probe::ShutdownProbe;
use super::tail::Tail;
use super::{Capture, SessionEnd, Shutdown, stopped, unless_stopped};
use crate::archive::{ArchiveError, BaseManifest, FORMAT, HistoryDoc, LogEnd, Parent, ServerInfo};
use crate::config::{AckPolicy, Source};
use crate::link::Link;
use crate::link::facts::Facts;
use crate::position::{Boundary, Offset, Position, ReplId};
use crate::proto::replica::Event;
use crate::rdb::Summary;
use crate::segment::SealHeader;
use crate::status::Phase;

/// Replicas acknowledge once a second.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// With full memory the master's output buffer has to hold the feed. When nothing more was stored for so long, we hang up
/// instead. A store that is merely slower than a burst is read for at its own pace: the master has its own limit
/// (`client-output-buffer-limit`), and to hang up could cost a full sync.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// What Valkey 9 and later must be told, to send field TTLs (fact sheet A.4).
const REPLICA_VERSION: &str = "9.0.0";

/// Where a session goes on.
struct Origin {
    history: ReplId,
    boundary: Boundary,
    stored: Offset,
    last_mark_ms: i64,
    sealed: Option<SealHeader>,
}

impl Origin {
    fn position(&self) -> Position {
        Position {
            history: self.history,
            offset: self.boundary.offset,
        }
    }

    fn of_store((history, end): (ReplId, LogEnd)) -> Self {
        Self {
            history,
            boundary: end.boundary,
            stored: end.end,
            last_mark_ms: end.last_mark.map_or(0, |mark| mark.unix_ms),
            sealed: end.sealed,
        }
    }
}

impl Capture {
    /// Follows `source` until the link ends, or the server, or we. With `once`, until one full sync is stored.
    pub async fn session(
        &mut self,
        source: &Source,
        once: bool,
        shutdown: &mut Shutdown,
    ) -> SessionEnd {
        match self.run(source, once, shutdown).await {
            Ok(end) | Err(end) => end,
        }
    }

    async fn run(
        &mut self,
        source: &Source,
        once: bool,
        shutdown: &mut Shutdown,
    ) -> Result<SessionEnd, SessionEnd> {
        let facts = unless_stopped(shutdown, look(source)).await??;
        let known = match &self.log {
            Some(log) if log.superseded().is_none() && !once => None,
            _ => {
                self.log = None;
                let find = resume::find(&self.archive, &self.service, facts.as_ref());
                Some(unless_stopped(shutdown, find).await??)
            }
        };
        let from = if once {
            None
        } else {
            self.from(known.as_ref())
        };
        if let Some(from) = &from {
            check_seal(from, facts.as_ref())?;
        }
        let version = wants_version(facts.as_ref()).then_some(REPLICA_VERSION);
        self.status.phase(Phase::Connecting, source.to_string());
        let link = Link::connect(source, version, from.as_ref().map(Origin::position));
        let mut link = unless_stopped(shutdown, link).await??;
        let server = server_info(facts.as_ref());
        let mut committing = None;
        match (unless_stopped(shutdown, link.next()).await??, from) {
            (Event::Continue(id), Some(from)) => {
                unless_stopped(shutdown, self.continued(from, id, server)).await??;
            }
            (Event::FullResync(at), from) => {
                explain_full_sync(from.as_ref().map(Origin::position), at, facts.as_ref());
                let known = match known {
                    Some(known) => known,
                    None => {
                        let find = resume::find(&self.archive, &self.service, facts.as_ref());
                        unless_stopped(shutdown, find).await??
                    }
                };
                let sync = self.full_sync(&mut link, at, known, server);
                committing = Some(unless_stopped(shutdown, sync).await??);
            }
            (event, _) => return Err(out_of_place(&event)),
        }
        let Some(log) = self.log.take() else {
            return Err(SessionEnd::StartOver("no log".to_owned()));
        };
        let mut follow = Follow {
            capture: self,
            link: &mut link,
            log: &log,
            committed: committing.is_none(),
            committing,
            probe: ShutdownProbe::new(source.clone()),
            exact: false,
            stopping: false,
            full_since: None,
            once,
        };
        let end = follow.run(shutdown).await;
        // What was received of a base that never came to be is worth nothing.
        let keep = follow.settle().await;
        if keep && once {
            // What was asked for is stored, however the link ended.
            return Ok(SessionEnd::Once(log.tail(|tail| tail.stored())));
        }
        if keep {
            log.tail(Tail::truncate_to_boundary);
            self.log = Some(log);
        }
        end
    }

    /// The point to go on from: of the log in memory, or of the store.
    fn from(&self, known: Option<&Known>) -> Option<Origin> {
        if let Some(log) = &self.log {
            return Some(log.tail(|tail| Origin {
                history: tail.history(),
                boundary: tail.boundary(),
                stored: tail.stored().offset,
                last_mark_ms: tail.last_mark_ms(),
                sealed: None,
            }));
        }
        known?.resume.clone().map(Origin::of_store)
    }

    /// `+CONTINUE`: the same feed goes on, maybe under a new id.
    async fn continued(
        &mut self,
        from: Origin,
        id: Option<ReplId>,
        server: ServerInfo,
    ) -> Result<(), SessionEnd> {
        self.status.metrics().partial_syncs.inc();
        let id = id.unwrap_or(from.history);
        if id == from.history {
            if let Some(seal) = &from.sealed {
                return Err(superseded(from.history, seal));
            }
            tracing::info!(at = %from.position(), "the server continues the feed");
            if self.log.is_none() {
                self.start_log(id, from.boundary, from.stored, from.last_mark_ms);
            }
            return Ok(());
        }
        self.move_to(from, id, server).await
    }

    /// A failover or a restore: the history goes on as `id`, which has the old one as its parent.
    async fn move_to(
        &mut self,
        from: Origin,
        id: ReplId,
        server: ServerInfo,
    ) -> Result<(), SessionEnd> {
        let mut stored = from.stored;
        if let Some(log) = self.log.take() {
            log.drain().await;
            stored = log.tail(|tail| tail.stored().offset);
            // Somebody sealed the old log before it held all that we have. The new history must not begin beyond that seal.
            if stored < from.boundary.offset {
                return Err(SessionEnd::StartOver(format!(
                    "history {} was sealed at offset {stored} by a writer that moved on to {id}",
                    from.history
                )));
            }
        }
        let reason = format!("goes on as {id} from offset {}", from.boundary.offset);
        let (id_before, now) = (from.history, (self.clock)());
        log_writer::seal(&self.archive, id_before, stored, &reason, &self.writer, now).await?;
        let parent = Parent {
            history: from.history,
            offset: from.boundary.offset,
            db: from.boundary.db,
        };
        self.archive
            .create_history(&self.history_doc(id, Some(parent), None, server))
            .await?;
        // Another listener of the same feed may have been here before us, at another offset.
        let catalog = self.archive.catalog().await?;
        let end = self.archive.log_end(&catalog, id).await?;
        if end.sealed.is_some() || end.boundary.offset < from.boundary.offset {
            return Err(SessionEnd::StartOver(format!(
                "history {id} is in the store already, up to offset {}",
                end.boundary.offset
            )));
        }
        tracing::info!(from = %from.position(), to = %id, "the server continues the feed under a new id");
        self.start_log(id, from.boundary, end.end, from.last_mark_ms);
        Ok(())
    }

    /// `+FULLRESYNC`: receives the RDB; committing it goes on beside the feed.
    async fn full_sync(
        &mut self,
        link: &mut Link,
        at: Position,
        known: Known,
        server: ServerInfo,
    ) -> Result<Committing, SessionEnd> {
        self.check_unsealed(&known, at.history).await?;
        warn_of_strangers(&known, at.history);
        let received = full_sync::receive(link, &self.archive, at, &self.status).await?;
        self.check_emptiness(&known, at, received.summary())?;
        let boundary = Boundary {
            offset: at.offset,
            db: received.selected_db(),
        };
        let old = self.log.take();
        let previous = known
            .previous
            .filter(|previous| previous.history != at.history);
        let doc = self.history_doc(at.history, None, previous, server);
        let commit = Commit {
            archive: self.archive.clone(),
            writer: self.writer.clone(),
            now_unix_ms: (self.clock)(),
            received,
            old,
            previous_end: known.previous_end,
            doc,
        };
        self.start_log(at.history, boundary, at.offset, 0);
        if let Some(log) = &self.log {
            log.hold();
        }
        Ok(tokio::spawn(commit.run()))
    }

    /// There is no use in receiving a snapshot of a history that was sealed.
    async fn check_unsealed(&self, known: &Known, id: ReplId) -> Result<(), SessionEnd> {
        if !known.catalog.is_restorable(id) {
            return Ok(());
        }
        match self.archive.log_end(&known.catalog, id).await {
            Ok(LogEnd {
                sealed: Some(seal), ..
            }) => Err(superseded(id, &seal)),
            Err(error @ ArchiveError::Store(_)) => Err(error.into()),
            // What is damaged before the snapshot is told when the log is joined to it.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// A sidecar looked at its Redis before it connected. One that has come up empty since is to be restored, and its
    /// emptiness must not become the latest backup.
    fn check_emptiness(
        &self,
        known: &Known,
        at: Position,
        found: &Summary,
    ) -> Result<(), SessionEnd> {
        let empty = found.keys() == 0 && found.functions == 0 && found.unwalked.is_none();
        let unknown = !known.catalog.histories.contains_key(&at.history);
        let mut others = known.catalog.histories.keys();
        if self.guards_emptiness
            && empty
            && unknown
            && others.any(|id| known.catalog.is_restorable(*id))
        {
            return Err(SessionEnd::StartOver(
                "Redis came up empty although the store has data: it is to be restored".to_owned(),
            ));
        }
        Ok(())
    }

    fn start_log(
        &mut self,
        history: ReplId,
        boundary: Boundary,
        stored: Offset,
        last_mark_ms: i64,
    ) {
        let tail = Tail::new(history, boundary, stored, last_mark_ms, self.writer.clone());
        let (archive, config) = (self.archive.clone(), self.config.clone());
        self.log = Some(LogWriter::start(
            tail,
            archive,
            config,
            self.status.clone(),
            self.clock.clone(),
        ));
    }

    fn history_doc(
        &self,
        id: ReplId,
        parent: Option<Parent>,
        previous: Option<Position>,
        server: ServerInfo,
    ) -> HistoryDoc {
        let created_unix_ms = (self.clock)();
        HistoryDoc {
            format: FORMAT,
            id,
            parent,
            previous,
            service: self.service.clone(),
            server,
            created_unix_ms,
        }
    }
}

/// The feed of one link.
struct Follow<'a> {
    capture: &'a Capture,
    link: &'a mut Link,
    log: &'a LogWriter,
    /// Is there a restore point that the feed belongs to? Nothing is acknowledged before.
    committed: bool,
    committing: Option<Committing>,
    probe: ShutdownProbe,
    /// The master is shutting down and waits for its very last byte.
    exact: bool,
    stopping: bool,
    /// Since when memory has been full with no more stored than this.
    full_since: Option<(Instant, Offset)>,
    once: bool,
}

impl Follow<'_> {
    async fn run(&mut self, shutdown: &mut Shutdown) -> Result<SessionEnd, SessionEnd> {
        let mut tick = interval(ACK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.announce();
        loop {
            let full = self.log.tail(|tail| tail.memory()) >= self.capture.config.memory_limit;
            let reading = !full && !self.stopping;
            tokio::select! {
                event = self.link.next(), if reading => self.event(event?).await?,
                () = self.log.progress() => {
                    self.full_since = None;
                    self.check_superseded()?;
                    self.ack().await?;
                }
                _ = tick.tick() => {
                    self.check_stall(full)?;
                    self.ack().await?;
                }
                done = join(&mut self.committing) => self.commit(done)?,
                dying = self.probe.wait() => if dying { self.master_dies().await? },
                _ = stopped(shutdown), if !self.stopping => self.stop(),
            }
            if self.once && self.committed {
                let at = self.log.tail(|tail| tail.stored());
                return Ok(SessionEnd::Once(at));
            }
            if self.stopping && self.committed && self.log.is_flushed() {
                self.ack().await?;
                return Ok(SessionEnd::Stopped);
            }
        }
    }

    async fn event(&mut self, event: Event) -> Result<(), SessionEnd> {
        let Event::Feed(bytes) = event else {
            return Err(out_of_place(&event));
        };
        let now = self.capture.now();
        self.capture
            .status
            .metrics()
            .bytes_received
            .inc_by(bytes.len() as u64);
        let arrival = self
            .log
            .push(bytes, now)
            .map_err(|error| SessionEnd::Feed(error.to_string()))?;
        let (received, idle) = self.log.tail(|tail| (tail.received(), tail.idle_up_to()));
        self.capture.status.received(received, now.unix_ms);
        self.capture.status.idle(idle);
        if arrival.other {
            self.probe.other();
            self.exact = false;
        }
        if arrival.getack {
            self.probe.getack();
            let answerable = self.capture.config.ack == AckPolicy::Received
                || !self.log.tail(|tail| tail.has_data());
            if answerable {
                self.ack().await?;
            }
        }
        Ok(())
    }

    /// Says how far the store has come. Before the snapshot counts that is nowhere, though the first `ACK` makes a
    /// diskless master start its feed, so it must be sent, and repeated (fact sheet A.6).
    async fn ack(&mut self) -> Result<(), SessionEnd> {
        let received = self.capture.config.ack == AckPolicy::Received;
        let offset = if self.committed {
            let (offset, answers) = self
                .log
                .tail(|tail| (tail.acknowledge(received, self.exact), !tail.has_data()));
            if answers {
                self.log.tail(Tail::answered);
            }
            offset
        } else {
            Offset(0)
        };
        self.link.ack(offset).await?;
        Ok(())
    }

    fn commit(
        &mut self,
        done: Result<Result<(BaseManifest, Offset), FullSyncError>, tokio::task::JoinError>,
    ) -> Result<(), SessionEnd> {
        self.committing = None;
        let done = done.map_err(|error| SessionEnd::StartOver(error.to_string()))?;
        let (manifest, goes_on) = done.map_err(|error| match error {
            FullSyncError::Sealed(seal) => superseded(seal.history, &seal),
            error => error.into(),
        })?;
        self.goes_on(goes_on);
        self.capture.status.metrics().full_syncs.inc();
        let keys: u64 = manifest
            .databases
            .values()
            .fold(0, |sum, db| sum.saturating_add(db.keys));
        tracing::info!(at = %manifest.position(), keys, raw_bytes = manifest.raw_bytes, stored_bytes = manifest.stored_bytes,
            "the snapshot is stored");
        self.announce();
        Ok(())
    }

    /// The snapshot counts, and the log after it begins at `offset`.
    fn goes_on(&mut self, offset: Offset) {
        self.committed = true;
        self.log.tail(|tail| tail.mark_stored(offset, None));
        self.log.release();
    }

    fn announce(&self) {
        if self.committed {
            let history = self.log.tail(|tail| tail.history());
            self.capture
                .status
                .phase(Phase::Following, format!("following history {history}"));
        }
    }

    /// The master waits for its very last byte, `GETACK`s included: store them too.
    async fn master_dies(&mut self) -> Result<(), SessionEnd> {
        if !self.exact {
            tracing::info!("the server is shutting down: storing and acknowledging the very end");
        }
        self.exact = true;
        self.log.flush();
        self.ack().await
    }

    fn stop(&mut self) {
        self.stopping = true;
        self.capture
            .status
            .phase(Phase::Draining, "storing what was received");
        self.log.flush();
    }

    fn check_superseded(&self) -> Result<(), SessionEnd> {
        match self.log.superseded() {
            Some(seal) => Err(superseded(self.log.tail(|tail| tail.history()), &seal)),
            None => Ok(()),
        }
    }

    fn check_stall(&mut self, full: bool) -> Result<(), SessionEnd> {
        if !full {
            self.full_since = None;
            return Ok(());
        }
        let stored = self.log.tail(|tail| tail.stored().offset);
        let since = match self.full_since {
            Some((since, before)) if before == stored => since,
            _ => {
                self.full_since = Some((Instant::now(), stored));
                return Ok(());
            }
        };
        if since.elapsed() < STALL_LIMIT {
            return Ok(());
        }
        let pending = self.log.tail(|tail| tail.memory());
        Err(SessionEnd::StoreStalled {
            pending,
            cause: self.log.failing(),
        })
    }

    /// The link is over. Does what was received belong to a restore point?
    async fn settle(&mut self) -> bool {
        if let Some(committing) = self.committing.take()
            && !self.stopping
        {
            match committing.await {
                Ok(Ok((_, goes_on))) => {
                    self.goes_on(goes_on);
                    self.capture.status.metrics().full_syncs.inc();
                }
                Ok(Err(error)) => tracing::warn!(%error, "the snapshot was not stored"),
                Err(error) => tracing::warn!(%error, "the snapshot was not stored"),
            }
        }
        self.committed
    }
}

/// Waits for the commit; for ever when there is none.
async fn join(
    committing: &mut Option<Committing>,
) -> Result<Result<(BaseManifest, Offset), FullSyncError>, tokio::task::JoinError> {
    match committing {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

/// A sealed history is gone on with under a new id only.
fn check_seal(from: &Origin, facts: Option<&Facts>) -> Result<(), SessionEnd> {
    match (&from.sealed, facts.and_then(|facts| facts.replid)) {
        (Some(seal), Some(id)) if id == from.history => Err(superseded(from.history, seal)),
        _ => Ok(()),
    }
}

fn superseded(history: ReplId, seal: &SealHeader) -> SessionEnd {
    SessionEnd::Superseded {
        at: Position {
            history,
            offset: seal.start,
        },
        reason: format!("by {}: {}", seal.writer, seal.reason),
    }
}

fn out_of_place(event: &Event) -> SessionEnd {
    let what = match event {
        Event::FullResync(_) => "a full resync",
        Event::Continue(_) => "a +CONTINUE that was not asked for",
        Event::Payload(_) | Event::PayloadEnd => "RDB bytes",
        Event::Feed(_) => "feed bytes",
    };
    SessionEnd::Feed(format!("the server sent {what} out of place"))
}
