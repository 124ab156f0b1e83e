//! One link to a server, from the handshake to its end.

use std::mem::take;

use tokio::time::Instant;

use super::commit::{Commit, Committing};
use super::feed_link::{self, FeedLink};
use super::follow::Follow;
use super::full_sync;
use super::log_writer::{self, LogWriter};
use super::master_watch::MasterWatch;
use super::previous;
use super::resume::{self, Known};
use super::server::{
    ahead_ms, explain_full_sync, look, server_info, wants_version, warn_of_clock, warn_of_strangers,
};
use super::tail::Tail;
use super::{Achieved, Capture, Session, SessionEnd, Shutdown, unless_stopped};
use crate::archive::takeover::{SuccessionError, SuccessorDoc};
use crate::archive::{
    AppendError, ArchiveError, Catalog, FORMAT, Gap, HistoryDoc, LogEnd, Parent, ServerInfo,
};
use crate::config::Source;
use crate::link::Link;
use crate::link::facts::Facts;
use crate::position::{Boundary, Offset, Position, ReplId};
use crate::proto::replica::Event;
use crate::segment::SealHeader;
use crate::status::Phase;
use crate::world;

/// What Valkey 9 and later must be told, to send field TTLs (PROTOCOL.md A.4).
pub(crate) const REPLICA_VERSION: &str = "9.0.0";

/// Where a session goes on.
struct Origin {
    history: ReplId,
    boundary: Boundary,
    stored: Offset,
    last_mark_ms: i64,
    sealed: Option<SealHeader>,
    /// Before it, in the store.
    unbridged: Option<Gap>,
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
            unbridged: end.unbridged,
        }
    }
}

impl Capture {
    /// Follows `source` until the link ends, or the server, or we, or `watch` sees another master. With `once`, until one full
    /// sync is stored.
    pub async fn session(
        &mut self,
        source: &Source,
        watch: MasterWatch,
        once: bool,
        shutdown: &mut Shutdown,
    ) -> Session {
        let mut achieved = Achieved::default();
        let run = self.run(source, watch, once, shutdown, &mut achieved);
        let end = match run.await {
            Ok(end) | Err(end) => end,
        };
        self.one_link |= matches!(end, SessionEnd::BacklogOverrun { .. });
        if achieved.full_sync_stored {
            self.full_syncs.stored();
        } else if achieved.full_sync_begun {
            self.full_syncs.in_vain(Instant::now());
        }
        Session { end, achieved }
    }

    async fn run(
        &mut self,
        source: &Source,
        mut watch: MasterWatch,
        once: bool,
        shutdown: &mut Shutdown,
        achieved: &mut Achieved,
    ) -> Result<SessionEnd, SessionEnd> {
        let asked = (self.clock)();
        let facts = unless_stopped(shutdown, look(source)).await??;
        self.compare_clocks(facts.as_ref(), asked);
        if let Some(at) = facts.as_ref().and_then(Facts::position) {
            self.status.master(at);
        }
        if let Some(log) = &self.log {
            log.new_link();
        }
        if self.is_ahead_of(facts.as_ref()) || self.is_left_behind(facts.as_ref()) {
            // The store is to say where to go on, so it has to have everything.
            unless_stopped(shutdown, self.drain()).await??;
        }
        let known = match &self.log {
            Some(log) if log.superseded().is_none() && !once => None,
            _ => {
                self.log = None;
                let find = resume::find(&self.archive, &self.service, facts.as_ref());
                Some(unless_stopped(shutdown, find).await??)
            }
        };
        if let Some(known) = &known {
            self.before = known.before.clone();
            let server = facts.as_ref().and_then(|facts| facts.replid);
            self.check_left_behind(known, server)?;
            let check = self.check_twin(facts.as_ref());
            unless_stopped(shutdown, check).await??;
        }
        let from = if once {
            None
        } else {
            self.from(known.as_ref())
        };
        if let Some(from) = &from {
            check_seal(from, facts.as_ref())?;
            let catalog = known.as_ref().map(|known| &known.catalog);
            if let Some(base) = catalog.and_then(|catalog| newest_base(catalog, from.position())) {
                self.status.base_is(base);
            }
        }
        self.check_full_sync_limit(from.as_ref(), facts.as_ref())?;
        let version = wants_version(facts.as_ref()).then_some(REPLICA_VERSION);
        self.status.phase(Phase::Connecting, source.to_string());
        let continues = from
            .as_ref()
            .zip(facts.as_ref())
            .is_some_and(|(from, facts)| facts.may_continue(from.position()));
        let two = !continues && feed_link::takes_two(facts.as_ref()) && !take(&mut self.one_link);
        let mut link = if two {
            let link = Link::connect_for_snapshot(source, version);
            unless_stopped(shutdown, link).await??
        } else {
            let link = Link::connect(source, version, from.as_ref().map(Origin::position));
            unless_stopped(shutdown, link).await??
        };
        let server = server_info(facts.as_ref());
        let (committing, feed) = match (unless_stopped(shutdown, link.next()).await??, from) {
            (Event::Continue(id), Some(from)) => {
                achieved.continued = true;
                unless_stopped(shutdown, self.continued(from, id, server)).await??;
                (None, FeedLink::here(link))
            }
            (Event::FullResync(at), from) => {
                achieved.full_sync_begun = true;
                let tally = self.status.full_sync_begun();
                let wait = self.full_syncs.wait(Instant::now());
                self.full_syncs.begun(Instant::now());
                let had = known.as_ref().and_then(Known::last_written);
                let had = from.as_ref().map(Origin::position).or(had);
                explain_full_sync(had, at, facts.as_ref(), once);
                if let Some(wait) = wait {
                    return Err(SessionEnd::FullSyncLimit { wait });
                }
                let known = match known {
                    Some(known) => known,
                    None => {
                        let find = resume::find(&self.archive, &self.service, facts.as_ref());
                        unless_stopped(shutdown, find).await??
                    }
                };
                let feed = two.then(|| match once {
                    true => FeedLink::never(),
                    false => FeedLink::coming(source.clone(), version, at),
                });
                let sync = self.full_sync(link, feed, at, known, server);
                let (committing, feed) = unless_stopped(shutdown, sync).await??;
                (Some((committing, tally)), feed)
            }
            (event, _) => return Err(out_of_place(&event)),
        };
        let Some(log) = self.log.take() else {
            return Err(SessionEnd::StartOver("no log".to_owned()));
        };
        let synced = committing.is_some();
        let mut follow = Follow::new(self, feed, &log, committing, source, &mut watch, once);
        let end = follow.run(shutdown).await;
        // What was received of a base that never came to be is worth nothing.
        let keep = follow.settle(shutdown).await;
        achieved.full_sync_stored = synced && keep;
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

    /// A server that was restored from a history that goes on in another one belongs to no backup of it, full sync or not.
    async fn check_twin(&self, facts: Option<&Facts>) -> Result<(), SessionEnd> {
        let Some(facts) = facts else {
            return Ok(());
        };
        let (Some(id), Some((old, shared))) = (facts.replid, facts.branched_off()) else {
            return Ok(());
        };
        let other = self.archive.served_to_another(old, shared, id).await?;
        let at = Position {
            history: old,
            offset: shared,
        };
        other.map_or(Ok(()), |other| Err(succeeded(at, &other)))
    }

    /// Old servers' expiries count from when the server sent them, by its own clock.
    fn compare_clocks(&mut self, facts: Option<&Facts>, asked_unix_ms: i64) {
        let server = facts.and_then(|facts| facts.time_unix_ms);
        let ahead = server.map_or(0, |server| ahead_ms(server, asked_unix_ms, (self.clock)()));
        let relative_ttls = server_info(facts).relative_ttls();
        warn_of_clock(ahead, relative_ttls);
        self.ahead_ms = if relative_ttls { ahead } else { 0 };
    }

    /// When there were full syncs enough, the server is asked for nothing but what it can continue.
    fn check_full_sync_limit(
        &self,
        from: Option<&Origin>,
        facts: Option<&Facts>,
    ) -> Result<(), SessionEnd> {
        let Some(wait) = self.full_syncs.wait(Instant::now()) else {
            return Ok(());
        };
        let would_continue = from
            .zip(facts)
            .is_some_and(|(from, facts)| facts.would_continue(from.position()));
        if would_continue && self.full_syncs.believes() {
            return Ok(());
        }
        Err(SessionEnd::FullSyncLimit { wait })
    }

    /// Was more received of the old master than the new one, a replica then, had when it was promoted?
    fn is_ahead_of(&self, facts: Option<&Facts>) -> bool {
        let branched = facts.and_then(Facts::branched_off);
        let log = self.log.as_ref().zip(branched);
        log.is_some_and(|(log, (old, shared))| {
            log.tail(|tail| tail.history() == old && tail.boundary().offset > shared)
        })
    }

    /// Would the server not continue what we have in memory, as its backlog has gone on? Another writer of the same feed may
    /// have brought the store further.
    fn is_left_behind(&self, facts: Option<&Facts>) -> bool {
        let log = self.log.as_ref().zip(facts);
        log.is_some_and(|(log, facts)| {
            let at = log.tail(|tail| Position {
                history: tail.history(),
                offset: tail.boundary().offset,
            });
            !facts.would_continue(at)
        })
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
                unbridged: None,
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
        self.full_syncs.continued();
        let id = id.unwrap_or(from.history);
        if id == from.history {
            if let Some(seal) = &from.sealed {
                return Err(superseded(from.history, seal));
            }
            tracing::info!(at = %from.position(), "the server continues the feed");
            if self.log.is_none() {
                self.bridge(&from).await?;
                self.start_log(id, from.boundary, from.stored, from.last_mark_ms);
            }
            return Ok(());
        }
        self.move_to(from, id, server).await
    }

    /// Whoever made the base that we go on from may have died before the log was joined to it; others may still write before it.
    async fn bridge(&self, from: &Origin) -> Result<(), SessionEnd> {
        let Some(gap) = &from.unbridged else {
            return Ok(());
        };
        let bridged = self.archive.bridge(from.history, gap, &self.writer).await;
        bridged.map_err(|error| match error {
            AppendError::Taken(_) => SessionEnd::StartOver(format!(
                "another writer of history {} stores what is before the base at {}",
                from.history, gap.to.offset
            )),
            AppendError::Archive(error) => error.into(),
        })
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
        let sealed =
            log_writer::seal(&self.archive, id_before, stored, &reason, &self.writer, now).await?;
        let parent = Parent {
            history: from.history,
            offset: from.boundary.offset,
            db: from.boundary.db,
        };
        self.begin_child(id, parent, server)
            .await
            .map_err(|error| match error {
                SuccessionError::GoesOn(other) => succeeded(sealed, &other),
                SuccessionError::Archive(error) => error.into(),
            })?;
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

    /// Looks what a history that begins now comes after.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn look_before(&mut self) -> Result<(), ArchiveError> {
        let catalog = self.archive.catalog().await?;
        self.before = previous::find(&self.archive, &catalog, &self.service).await?;
        Ok(())
    }

    /// Records that a history goes on as `id`, which its server says it is now. The history must be sealed.
    ///
    /// # Errors
    /// [`SuccessionError::GoesOn`]: it goes on in another server.
    pub async fn begin_child(
        &self,
        id: ReplId,
        parent: Parent,
        server: ServerInfo,
    ) -> Result<(), SuccessionError> {
        let mut doc = self.history_doc(id, Some(parent), server);
        let before = previous::of_branch(&self.before, parent.history, self.guards);
        let now = (self.clock)();
        previous::replace(&self.archive, &before, &mut doc, &self.writer, now).await?;
        self.archive.begin_history(&doc, None, &self.writer).await
    }

    /// `+FULLRESYNC`: receives the RDB; committing it goes on beside the feed, which comes by `feed` or, without, by the same link.
    async fn full_sync(
        &mut self,
        mut link: Link,
        feed: Option<FeedLink>,
        at: Position,
        known: Known,
        server: ServerInfo,
    ) -> Result<(Committing, FeedLink), SessionEnd> {
        self.check_unsealed(&known, at.history).await?;
        warn_of_strangers(&known, at.history);
        let receive = full_sync::receive(&mut link, &self.archive, at, &self.status);
        let (received, feed) = match feed {
            Some(mut feed) => {
                let received = tokio::select! {
                    biased;
                    received = receive => received?,
                    end = feed.wait_unread() => return Err(end),
                };
                // At once: a server that does not know `rdb-only` would count it as soon as its child has ended.
                drop(link);
                (received, feed)
            }
            None => (receive.await?, FeedLink::here(link)),
        };
        self.check_amount(&known, at, received.summary())?;
        let boundary = Boundary {
            offset: at.offset,
            db: received.selected_db(),
        };
        let old = self.log.take();
        let is_known = known.catalog.histories.contains_key(&at.history);
        let is_first = known.is_empty();
        let own = known.before.into_iter().filter(|previous| previous.own);
        let before = own.filter(|_| !is_known).collect();
        let doc = self.history_doc(at.history, None, server);
        let commit = Commit {
            archive: self.archive.clone(),
            writer: self.writer.clone(),
            now_unix_ms: self.now().unix_ms,
            received,
            old,
            before,
            doc,
            is_sole: self.guards,
            is_first,
        };
        self.start_log(at.history, boundary, at.offset, 0);
        if let Some(log) = &self.log {
            log.hold();
        }
        Ok((Box::pin(world::spawn(commit.run())), feed))
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

    fn start_log(
        &mut self,
        history: ReplId,
        boundary: Boundary,
        stored: Offset,
        last_mark_ms: i64,
    ) {
        let mut tail = Tail::new(history, boundary, stored, last_mark_ms, self.writer.clone());
        let now_unix_ms = self.now().unix_ms;
        let is_news = tail.clock_says(now_unix_ms);
        let (archive, config) = (self.archive.clone(), self.config.clone());
        self.log = Some(LogWriter::start(
            tail,
            archive,
            config,
            self.spool.clone(),
            self.status.clone(),
            self.clock.clone(),
        ));
        if let Some(log) = self.log.as_ref().filter(|_| is_news) {
            self.clock_went_back(log, now_unix_ms);
        }
    }

    fn history_doc(&self, id: ReplId, parent: Option<Parent>, server: ServerInfo) -> HistoryDoc {
        let created_unix_ms = self.now().unix_ms;
        HistoryDoc {
            format: FORMAT,
            id,
            parent,
            previous: None,
            also_previous: Vec::new(),
            service: self.service.clone(),
            server,
            created_unix_ms,
        }
    }
}

/// The newest base that leads to `at`.
fn newest_base(catalog: &Catalog, at: Position) -> Option<Position> {
    let lineage = catalog.lineage(at.history).ok()?;
    let newest = |span: &Position| {
        let history = catalog.histories.get(&span.history)?;
        let upto = span.offset.min(at.offset);
        let bases = history.bases.iter().rev();
        let mut bases = bases.filter(|base| base.offset <= upto);
        bases.next().map(|base| base.position())
    };
    lineage.iter().find_map(newest)
}

/// A sealed history is gone on with under a new id only.
fn check_seal(from: &Origin, facts: Option<&Facts>) -> Result<(), SessionEnd> {
    match (&from.sealed, facts.and_then(|facts| facts.replid)) {
        (Some(seal), Some(id)) if id == from.history => Err(superseded(from.history, seal)),
        _ => Ok(()),
    }
}

pub(super) fn superseded(history: ReplId, seal: &SealHeader) -> SessionEnd {
    SessionEnd::Superseded {
        at: Position {
            history,
            offset: seal.start,
        },
        reason: format!("by {}: {}", seal.writer, seal.reason),
    }
}

/// Another server goes on from where this one does: a sidecar has restored it from the same history.
pub(crate) fn succeeded(sealed: Position, other: &SuccessorDoc) -> SessionEnd {
    SessionEnd::Superseded {
        at: sealed,
        reason: format!(
            "by {}: it goes on as {} there",
            other.writer, other.child.id
        ),
    }
}

pub(super) fn out_of_place(event: &Event) -> SessionEnd {
    let what = match event {
        Event::FullResync(_) => "a full resync",
        Event::Continue(_) => "a +CONTINUE that was not asked for",
        Event::Payload(_) | Event::PayloadEnd => "RDB bytes",
        Event::Feed(_) => "feed bytes",
    };
    SessionEnd::Feed(format!("the server sent {what} out of place"))
}
