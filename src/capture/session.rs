//! One link to a server, from the handshake to its end.

use tokio::time::Instant;

use super::commit::{Commit, Committing};
use super::follow::Follow;
use super::full_sync;
use super::log_writer::{self, LogWriter};
use super::master_watch::MasterWatch;
use super::overlap::Sample;
use super::previous;
use super::resume::{self, Known};
use super::server::{explain_full_sync, look, server_info, wants_version, warn_of_strangers};
use super::strange::Had;
use super::tail::Tail;
use super::{Capture, SessionEnd, Shutdown, unless_stopped};
use crate::archive::{
    AppendError, ArchiveError, FORMAT, Gap, HistoryDoc, LogEnd, Parent, ServerInfo,
};
use crate::config::Source;
use crate::link::Link;
use crate::link::facts::Facts;
use crate::position::{Boundary, Offset, Position, ReplId};
use crate::proto::replica::Event;
use crate::segment::SealHeader;
use crate::status::Phase;
use crate::world;

/// What Valkey 9 and later must be told, to send field TTLs (fact sheet A.4).
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
    /// The last of it that is stored, to be sent once more, and compared.
    sample: Option<Sample>,
}

impl Origin {
    fn position(&self) -> Position {
        Position {
            history: self.history,
            offset: self.boundary.offset,
        }
    }

    /// What the server is asked to go on after.
    fn asked(&self) -> Position {
        let sample = self.sample.as_ref();
        Position {
            offset: sample.map_or(self.boundary.offset, |sample| sample.boundary.offset),
            ..self.position()
        }
    }

    fn of_store((history, end): (ReplId, LogEnd), sample: Option<Sample>) -> Self {
        Self {
            history,
            boundary: end.boundary,
            stored: end.end,
            last_mark_ms: end.last_mark.map_or(0, |mark| mark.unix_ms),
            sealed: end.sealed,
            unbridged: end.unbridged,
            sample,
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
    ) -> SessionEnd {
        let stored = self.status.metrics().full_syncs.get();
        let mut syncing = false;
        let end = match self.run(source, watch, once, shutdown, &mut syncing).await {
            Ok(end) | Err(end) => end,
        };
        self.note_strange(&end);
        if self.status.metrics().full_syncs.get() > stored {
            self.full_syncs.stored();
            self.is_no_stranger();
        } else if syncing {
            self.full_syncs.in_vain(Instant::now());
        }
        end
    }

    async fn run(
        &mut self,
        source: &Source,
        mut watch: MasterWatch,
        once: bool,
        shutdown: &mut Shutdown,
        syncing: &mut bool,
    ) -> Result<SessionEnd, SessionEnd> {
        let said = unless_stopped(shutdown, look(source)).await??;
        let mut facts = said.as_ref().map(|facts| self.named(facts));
        if let Some(log) = &self.log {
            log.new_link();
        }
        let strange = self
            .follows()
            .is_some_and(|id| self.strange.is_other_than(id));
        if strange || self.is_ahead_of(facts.as_ref()) || self.is_left_behind(facts.as_ref()) {
            // The store is to say where to go on, so it has to have everything.
            unless_stopped(shutdown, self.drain()).await??;
        }
        let known = match &self.log {
            Some(log) if log.is_of_use() && !once => None,
            _ => {
                self.log = None;
                let find = resume::find(&self.archive, &self.service, said.as_ref());
                Some(unless_stopped(shutdown, find).await??)
            }
        };
        if let Some(known) = &known {
            self.before = known.before.clone();
            self.aliases = known.aliases.clone();
            facts = said.as_ref().map(|facts| self.named(facts));
            let server = facts.as_ref().and_then(|facts| facts.replid);
            self.check_left_behind(known, server)?;
        }
        let from = self.from(known.as_ref(), facts.as_ref());
        let had = from
            .as_ref()
            .map(|from| (from.history, from.stored.max(from.boundary.offset)));
        let from = from.filter(|from| !once && !self.strange.is_other_than(from.history));
        if let Some(from) = &from {
            check_seal(from, facts.as_ref())?;
        }
        self.check_full_sync_limit(from.as_ref(), facts.as_ref())?;
        let version = wants_version(facts.as_ref()).then_some(REPLICA_VERSION);
        self.status.phase(Phase::Connecting, source.to_string());
        let asked = from.as_ref().map(|from| Position {
            history: self.said(from.history, said.as_ref()),
            ..from.asked()
        });
        let link = Link::connect(source, version, asked);
        let mut link = unless_stopped(shutdown, link).await??;
        let server = server_info(facts.as_ref());
        let mut committing = None;
        match (unless_stopped(shutdown, link.next()).await??, from) {
            (Event::Continue(id), Some(from)) => {
                let id = id.map(|id| self.aliases.key(id));
                unless_stopped(shutdown, self.continued(from, id, server)).await??;
            }
            (Event::FullResync(at), from) => {
                *syncing = true;
                let wait = self.full_syncs.wait(Instant::now());
                self.full_syncs.begun(Instant::now());
                let last = known.as_ref().and_then(Known::last_written);
                let last = from.as_ref().map(Origin::position).or(last);
                explain_full_sync(last, at, said.as_ref(), once);
                if let Some(wait) = wait {
                    return Err(SessionEnd::FullSyncLimit { wait });
                }
                let known = match known {
                    Some(known) => known,
                    None => {
                        let find = resume::find(&self.archive, &self.service, said.as_ref());
                        unless_stopped(shutdown, find).await??
                    }
                };
                let sync = self.full_sync(&mut link, at, had, known, facts.as_ref());
                committing = Some(unless_stopped(shutdown, sync).await??);
            }
            (event, _) => return Err(out_of_place(&event)),
        }
        let Some(log) = self.log.take() else {
            return Err(SessionEnd::StartOver("no log".to_owned()));
        };
        let mut follow = Follow::new(self, &mut link, &log, committing, source, &mut watch, once);
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
            .is_some_and(|(from, facts)| facts.would_continue(from.asked()));
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
    fn from(&self, known: Option<&Known>, facts: Option<&Facts>) -> Option<Origin> {
        if let Some(log) = &self.log {
            let again = |tail: &Tail| {
                let can = |sample: &Sample| {
                    facts.is_some_and(|facts| {
                        sample.can_be_asked_for(tail.history(), tail.boundary(), facts)
                    })
                };
                tail.again().filter(can)
            };
            return Some(log.tail(|tail| Origin {
                sample: again(tail),
                history: tail.history(),
                boundary: tail.boundary(),
                stored: tail.stored().offset,
                last_mark_ms: tail.last_mark_ms(),
                sealed: None,
                unbridged: None,
            }));
        }
        let known = known?;
        let resume = known.resume.clone();
        resume.map(|end| Origin::of_store(end, known.sample.clone()))
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
            self.compare_again(from.sample, from.boundary);
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
        log_writer::seal(&self.archive, id_before, stored, &reason, &self.writer, now).await?;
        let parent = Parent {
            history: from.history,
            offset: from.boundary.offset,
            db: from.boundary.db,
        };
        let mut doc = self.history_doc(id, Some(parent), server);
        let before = previous::of_branch(&self.before, parent.history, self.guards);
        let ends = previous::name(&self.archive, &before, &mut doc).await?;
        previous::seal(&self.archive, &ends, &doc, &self.writer, now).await?;
        self.archive.create_history(&doc).await?;
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
        self.compare_again(from.sample, from.boundary);
        Ok(())
    }

    /// The server sends this once more.
    fn compare_again(&self, sample: Option<Sample>, upto: Boundary) {
        if let Some((log, sample)) = self.log.as_ref().zip(sample) {
            log.tail(|tail| tail.begin_again(sample, upto));
        }
    }

    /// `+FULLRESYNC`: receives the RDB; committing it goes on beside the feed.
    async fn full_sync(
        &mut self,
        link: &mut Link,
        at: Position,
        had: Had,
        known: Known,
        facts: Option<&Facts>,
    ) -> Result<Committing, SessionEnd> {
        let said = at.history;
        let instead_of = self.aliases.key(said);
        let history = self.key_of_full_sync(at, had, facts);
        let at = Position { history, ..at };
        self.check_unsealed(&known, at.history).await?;
        warn_of_strangers(&known, at.history);
        let received = full_sync::receive(link, &self.archive, at, &self.status).await?;
        self.check_amount(&known, at, received.summary())?;
        let boundary = Boundary {
            offset: at.offset,
            db: received.selected_db(),
        };
        let old = self.log.take();
        let is_known = known.catalog.histories.contains_key(&at.history);
        let before = known.before.into_iter().filter(|previous| {
            let id = previous.at.history;
            !is_known && !self.strange.is_twin_of(id) && (previous.own || id == instead_of)
        });
        let before = before.collect();
        let mut doc = self.history_doc(at.history, None, server_info(facts));
        doc.replid = Some(said).filter(|said| *said != at.history);
        let commit = Commit {
            archive: self.archive.clone(),
            writer: self.writer.clone(),
            now_unix_ms: (self.clock)(),
            received,
            old,
            before,
            doc,
        };
        self.start_log(at.history, boundary, at.offset, 0);
        if let Some(log) = &self.log {
            log.hold();
        }
        Ok(world::spawn(commit.run()))
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
        let tail = Tail::new(history, boundary, stored, last_mark_ms, self.writer.clone());
        let (archive, config) = (self.archive.clone(), self.config.clone());
        self.log = Some(LogWriter::start(
            tail,
            archive,
            config,
            self.spool.clone(),
            self.status.clone(),
            self.clock.clone(),
        ));
    }

    fn history_doc(&self, id: ReplId, parent: Option<Parent>, server: ServerInfo) -> HistoryDoc {
        let created_unix_ms = (self.clock)();
        HistoryDoc {
            format: FORMAT,
            id,
            replid: None,
            parent,
            previous: None,
            also_previous: Vec::new(),
            service: self.service.clone(),
            server,
            created_unix_ms,
        }
    }
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

pub(super) fn out_of_place(event: &Event) -> SessionEnd {
    let what = match event {
        Event::FullResync(_) => "a full resync",
        Event::Continue(_) => "a +CONTINUE that was not asked for",
        Event::Payload(_) | Event::PayloadEnd => "RDB bytes",
        Event::Feed(_) => "feed bytes",
    };
    SessionEnd::Feed(format!("the server sent {what} out of place"))
}
