//! One link to a server, from the handshake to its end.

use std::convert::Infallible;
use std::mem::take;

use tokio::time::Instant;

use super::captured_server::{
    ahead_ms, explain_full_sync, look, server_info, wants_version, warn_of_clock, warn_of_strangers,
};
use super::commit::{Commit, Committing};
use super::feed_link::{self, FeedLink};
use super::foreign_feed::Had;
use super::full_sync_turns::{self, Turn};
use super::log_buffer::LogBuffer;
use super::log_writer::LogWriter;
use super::master_watch::MasterWatch;
use super::overlap::Sample;
use super::resume::{self, Known};
use super::streaming::Follow;
use super::{Achieved, Capture, Session, SessionEnd, Shutdown, full_sync, unless_stopped};
use crate::archive::{AppendError, ArchiveError, BaseKind, BaseManifest, Catalog, Gap, LogEnd};
use crate::config::Source;
use crate::link::Link;
use crate::link::replication_info::Facts;
use crate::log::segment::SealHeader;
use crate::monitoring::status::Phase;
use crate::runtime;
use crate::wire::position::{Boundary, Offset, Position, ReplId};
use crate::wire::psync::replica::Event;

/// The version to name to Valkey 9 and later, so that they send field TTLs (PROTOCOL.md A.4).
pub(crate) const REPLICA_VERSION: &str = "9.0.0";

/// Where a session continues.
pub(super) struct Origin {
    pub(super) history: ReplId,
    pub(super) boundary: Boundary,
    pub(super) stored: Offset,
    pub(super) last_mark_ms: i64,
    pub(super) sealed: Option<SealHeader>,
    /// Before it, in the store.
    unbridged: Option<Gap>,
    /// It is a snapshot, and nothing before it is stored that could be compared.
    is_snapshot_alone: bool,
    /// The stored end of it, which is sent again and compared.
    pub(super) sample: Option<Sample>,
    /// The end of what is stored, for the next link.
    pub(super) recent: Option<Sample>,
}

impl Origin {
    pub(super) fn position(&self) -> Position {
        Position {
            history: self.history,
            offset: self.boundary.offset,
        }
    }

    /// The position after which the server is asked to continue.
    fn asked(&self) -> Position {
        let sample = self.sample.as_ref();
        Position {
            offset: sample.map_or(self.boundary.offset, |sample| sample.start),
            ..self.position()
        }
    }

    /// Would the server go on here without having shown that what it had before is what is stored, though that could be compared?
    /// One that was promoted, or has restarted from its own RDB, has an id of its own, and may have nothing else in its backlog.
    fn is_unproved(&self, facts: Option<&Facts>) -> bool {
        let same = facts.is_some_and(|facts| {
            // One that says nothing of a backlog may have it all.
            let goes_on = self.recent.is_some()
                || (self.is_snapshot_alone && facts.offset != Some(self.boundary.offset));
            facts.replid == Some(self.history) && facts.backlog_first.is_some() && goes_on
        });
        same && self.sample.is_none()
    }

    /// Did the server that answers as `id` have all up to our point before it got that id? It was asked for what comes after a point
    /// before ours, so that its answer alone does not say so. It may be another one than the server that was looked at, or may have been
    /// promoted since.
    fn is_shared_with(&self, id: ReplId, facts: Option<&Facts>) -> bool {
        let asked_before = self.asked().offset < self.boundary.offset;
        let said = facts.filter(|facts| facts.replid == Some(id));
        let shared = said.and_then(Facts::branched_off);
        !asked_before
            || shared
                .is_some_and(|(old, shared)| old == self.history && shared >= self.boundary.offset)
    }

    /// May the server be asked to go on here? If not, the log says why.
    fn may_begin_with(&self, facts: Option<&Facts>) -> bool {
        if !self.is_unproved(facts) {
            return true;
        }
        tracing::warn!(
            at = %self.position(),
            "the server's backlog holds nothing before the end of what is stored, so it cannot be seen whether the server still \
             has what is stored: a full sync. A larger repl-backlog-size avoids it"
        );
        false
    }

    fn of_store(
        (history, end): (ReplId, LogEnd),
        recent: Option<Sample>,
        newest: Option<&BaseManifest>,
        facts: Option<&Facts>,
    ) -> Self {
        let is_snapshot = newest.is_some_and(|base| {
            let position = Position {
                history,
                offset: end.boundary.offset,
            };
            // Before its first byte, a history has nothing to which a server could be set back.
            base.position() == position && base.kind == BaseKind::Sync && base.offset > Offset(0)
        });
        let upto = end.boundary.offset;
        let again = |recent: &Sample| recent.to_be_sent_again(history, upto, facts?);
        Self {
            history,
            boundary: end.boundary,
            stored: end.end,
            last_mark_ms: end.last_mark.map_or(0, |mark| mark.unix_ms),
            sealed: end.sealed,
            unbridged: end.unbridged,
            is_snapshot_alone: is_snapshot && recent.is_none(),
            sample: recent.as_ref().and_then(again),
            recent,
        }
    }
}

/// What is known before the server is asked for its feed.
struct Start {
    /// What the server says.
    said: Option<Facts>,
    /// The same, with our keys in place of the server's ids.
    facts: Option<Facts>,
    /// What the store has. None: the log in memory is enough.
    known: Option<Known>,
    /// We promoted the server ourselves, and `known` is from before that.
    is_promoted: bool,
    /// Where to continue. None: by a full sync.
    from: Option<Origin>,
    /// What was stored or received of a history, even if it is not to be continued.
    had: Had,
}

impl Start {
    /// Will the server continue the feed, as far as it says? One that says nothing (`INFO` is not permitted) may.
    fn would_continue(&self) -> bool {
        self.from.as_ref().is_some_and(|from| {
            let facts = self.facts.as_ref();
            facts.is_none_or(|facts| facts.would_continue(from.asked()))
        })
    }
}

impl Capture {
    /// Follows `source` until the link, the server or this process ends, or `watch` sees another master. With `once`,
    /// until one full sync is stored.
    pub async fn session(
        &mut self,
        source: &Source,
        watch: MasterWatch,
        once: bool,
        shutdown: &mut Shutdown,
    ) -> Session {
        let mut achieved = Achieved::default();
        let run = self.run(source, watch, once, shutdown, &mut achieved);
        let Err(end) = run.await;
        if achieved.full_sync_stored {
            self.is_no_stranger();
        }
        self.note_strange(&end);
        self.one_link |= matches!(end, SessionEnd::BacklogOverrun { .. });
        if achieved.full_sync_stored {
            self.full_syncs.stored();
        } else if achieved.full_sync_begun {
            self.full_syncs.in_vain(Instant::now());
        }
        Session { end, achieved }
    }

    /// The steps of a session. It ends when one of them says how.
    async fn run(
        &mut self,
        source: &Source,
        mut watch: MasterWatch,
        once: bool,
        shutdown: &mut Shutdown,
        achieved: &mut Achieved,
    ) -> Result<Infallible, SessionEnd> {
        let (mut start, turn) = self.begin(source, once, shutdown).await?;
        let version = wants_version(start.facts.as_ref()).then_some(REPLICA_VERSION);
        self.status.phase(Phase::Connecting, source.to_string());
        let (mut link, two) = self.connect(source, version, &start, shutdown).await?;
        let (committing, feed) = match (
            unless_stopped(shutdown, link.next()).await??,
            start.from.take(),
        ) {
            (Event::Continue(id), Some(from)) => {
                achieved.continued = true;
                drop(turn);
                self.take_continue(from, id, &start, shutdown).await?;
                (None, FeedLink::here(link))
            }
            (Event::FullResync(at), from) => {
                self.check_is_asked(at.history, start.said.as_ref())?;
                self.promoted = None;
                achieved.full_sync_begun = true;
                let tally = self.status.full_sync_begun();
                let from = from.as_ref().map(Origin::position);
                self.account_full_sync(from, at, &start, once)?;
                // The server knows nothing of our keys.
                let feed = two.then(|| match once {
                    true => FeedLink::never(),
                    false => FeedLink::coming(source.clone(), version, at),
                });
                let sync = self.take_full_sync((link, turn), feed, at, start);
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
        let Err(end) = follow.run(shutdown).await;
        // What was received of a base that never came to be is worth nothing.
        let keep = follow.settle(shutdown).await;
        achieved.full_sync_stored = synced && keep;
        if keep && once {
            // The requested full sync is stored, however the link ended.
            return Err(SessionEnd::Once(log.buffer(|buffer| buffer.stored())));
        }
        if keep {
            log.buffer(LogBuffer::truncate_to_boundary);
            self.log = Some(log);
        }
        Err(end)
    }

    /// Asks the server and the store where to go on. Where that is likely to take a full sync, waits for its turn.
    async fn begin(
        &mut self,
        source: &Source,
        once: bool,
        shutdown: &mut Shutdown,
    ) -> Result<(Start, Option<Turn>), SessionEnd> {
        let mut turn = None;
        loop {
            let said = self.ask_server(source, shutdown).await?;
            let start = self.find_start(said, once, shutdown).await?;
            self.check_full_sync_limit(start.from.as_ref(), start.facts.as_ref())?;
            let (Some(turns), None) = (&self.turns, &turn) else {
                return Ok((start, turn));
            };
            if start.would_continue() {
                return Ok((start, None));
            }
            turn = turns.now();
            if turn.is_some() {
                return Ok((start, turn));
            }
            let (what, at_once) = (
                "waiting for the full syncs of other sources",
                turns.at_once(),
            );
            let detail = format!("{what} ({at_once} at a time)");
            self.status.phase(Phase::Connecting, detail);
            turn = Some(unless_stopped(shutdown, turns.next()).await?);
            // That may have been long ago.
        }
    }

    /// What the server says of itself. None: it says nothing.
    async fn ask_server(
        &mut self,
        source: &Source,
        shutdown: &mut Shutdown,
    ) -> Result<Option<Facts>, SessionEnd> {
        let asked = ((self.clock)(), Instant::now());
        let said = unless_stopped(shutdown, look(source)).await??;
        self.compare_clocks(said.as_ref(), asked);
        self.note_start(said.as_ref());
        let named = said.as_ref().map(|facts| self.named(facts));
        if let Some(at) = named.as_ref().and_then(Facts::position) {
            self.status.master(at);
        }
        if let Some(log) = &self.log {
            log.new_link();
        }
        Ok(said)
    }

    /// Decides where the feed is to continue: by the log in memory, or by what the store has.
    async fn find_start(
        &mut self,
        said: Option<Facts>,
        once: bool,
        shutdown: &mut Shutdown,
    ) -> Result<Start, SessionEnd> {
        let mut facts = said.as_ref().map(|facts| self.named(facts));
        let again = self.again(facts.as_ref()).await;
        if self.goes_by_store(again.as_ref(), facts.as_ref()) {
            // The store is to say where to go on, so it has to have everything.
            unless_stopped(shutdown, self.drain()).await??;
        }
        let promoted = self.known_of_promoted(facts.as_ref());
        let is_promoted = promoted.is_some();
        let known = match (promoted, &self.log) {
            (Some(promoted), _) => {
                self.log = None;
                Some(promoted)
            }
            (None, Some(log)) if log.is_of_use() && !once => None,
            (None, _) => {
                self.log = None;
                let known = self.ask_store(said.as_ref(), shutdown).await?;
                // The store says which histories have a key of their own.
                facts = said.as_ref().map(|facts| self.named(facts));
                Some(known)
            }
        };
        let from = self.from(known.as_ref(), again, facts.as_ref());
        let had = from
            .as_ref()
            .map(|from| (from.history, from.stored.max(from.boundary.offset)));
        // Before it is asked what the server still has of it: that does not make it another history.
        if let Some(from) = &from {
            check_seal(from, facts.as_ref())?;
        }
        let from = from
            .filter(|from| !once && !self.foreign.is_other_than(from.history))
            .filter(|from| from.may_begin_with(facts.as_ref()));
        if let Some(from) = &from {
            if known.is_some() && !is_promoted {
                let check = self.check_succeeded(from, facts.as_ref());
                unless_stopped(shutdown, check).await??;
            }
            let catalog = known.as_ref().map(|known| &known.catalog);
            if let Some(base) = catalog.and_then(|catalog| newest_base(catalog, from.position())) {
                self.status.base_is(base.position(), base.as_of_unix_ms());
            }
        }
        Ok(Start {
            said,
            facts,
            known,
            is_promoted,
            from,
            had,
        })
    }

    /// Does the log in memory not say where to go on?
    fn goes_by_store(&self, again: Option<&Sample>, facts: Option<&Facts>) -> bool {
        let follows = self.follows();
        follows.is_some_and(|id| self.foreign.is_other_than(id))
            || self.is_ahead_of(facts)
            || self.is_left_behind(facts)
            || self.is_unproved(again, facts)
    }

    /// What the store has of this server's histories. It ends the session if the server must not be captured.
    async fn ask_store(
        &mut self,
        said: Option<&Facts>,
        shutdown: &mut Shutdown,
    ) -> Result<Known, SessionEnd> {
        let find = resume::find(&self.archive, &self.service, said);
        let known = unless_stopped(shutdown, find).await??;
        self.before = known.before.clone();
        self.seen = Some(known.catalog.histories.keys().copied().collect());
        self.aliases = known.aliases.clone();
        let server = said.and_then(|facts| self.named(facts).replid);
        self.check_left_behind(&known, server)?;
        let check = self.check_twin(said);
        unless_stopped(shutdown, check).await??;
        let seal = self.seal_before(&known.catalog, server);
        unless_stopped(shutdown, seal).await??;
        Ok(known)
    }

    /// Connects, and asks for the feed. True: the snapshot comes by this link, and the feed by a second one.
    async fn connect(
        &mut self,
        source: &Source,
        version: Option<&'static str>,
        start: &Start,
        shutdown: &mut Shutdown,
    ) -> Result<(Link, bool), SessionEnd> {
        let asked = start.from.as_ref().map(Origin::asked);
        let continues = asked
            .zip(start.facts.as_ref())
            .is_some_and(|(asked, facts)| facts.may_continue(asked));
        let said = start.said.as_ref();
        let two = !continues && feed_link::takes_two(said) && !take(&mut self.one_link);
        let link = if two {
            let link = Link::connect_for_snapshot(source, version);
            unless_stopped(shutdown, link).await??
        } else {
            let asked = asked.map(|asked| Position {
                history: self.said(asked.history, said),
                ..asked
            });
            let link = Link::connect(source, version, asked);
            unless_stopped(shutdown, link).await??
        };
        Ok((link, two))
    }

    /// `+CONTINUE`.
    async fn take_continue(
        &mut self,
        from: Origin,
        id: Option<ReplId>,
        start: &Start,
        shutdown: &mut Shutdown,
    ) -> Result<(), SessionEnd> {
        let id = id.map(|id| self.aliases.key(id));
        let continued = self.continued(from, id, start.facts.as_ref());
        let continued = unless_stopped(shutdown, continued).await?;
        let is_refused = matches!(continued, Err(SessionEnd::Superseded { .. }));
        self.refused = start.is_promoted && is_refused;
        continued?;
        self.promoted = None;
        Ok(())
    }

    /// `+FULLRESYNC`: counts it, and logs why it is needed. Too many of them end the session.
    fn account_full_sync(
        &mut self,
        from: Option<Position>,
        at: Position,
        start: &Start,
        once: bool,
    ) -> Result<(), SessionEnd> {
        let now = Instant::now();
        let wait = self.full_syncs.wait(now);
        self.full_syncs.begun(now);
        let last = from.or(start.known.as_ref().and_then(Known::last_written));
        explain_full_sync(last, at, start.said.as_ref(), once);
        match wait {
            Some(wait) => Err(SessionEnd::FullSyncLimit { wait }),
            None => Ok(()),
        }
    }

    /// The same: receives the snapshot. What the store has decides what its history comes after.
    async fn take_full_sync(
        &mut self,
        link: (Link, Option<Turn>),
        feed: Option<FeedLink>,
        at: Position,
        start: Start,
    ) -> Result<(Committing, FeedLink), SessionEnd> {
        let known = match start.known {
            Some(known) => known,
            None => resume::find(&self.archive, &self.service, start.said.as_ref()).await?,
        };
        let facts = start.facts.as_ref();
        self.full_sync(link, feed, at, start.had, known, facts)
            .await
    }

    /// Old servers' expiries count from when the server sent them, by its own clock. `asked`: our clock before, and when that was.
    fn compare_clocks(&mut self, facts: Option<&Facts>, asked: (i64, Instant)) {
        let (asked_unix_ms, asked) = asked;
        let server = facts.and_then(|facts| facts.time_unix_ms);
        // Our clock may jump meanwhile.
        let took = asked.elapsed();
        let took_ms = i64::try_from(took.as_millis()).unwrap_or(i64::MAX);
        let answered_unix_ms = asked_unix_ms.saturating_add(took_ms);
        let ahead = server.map_or(0, |server| {
            ahead_ms(server, asked_unix_ms, answered_unix_ms)
        });
        let relative_ttls = server_info(facts).relative_ttls();
        warn_of_clock(ahead, relative_ttls);
        let said = server.map(|server| match ahead {
            0 => (asked_unix_ms, asked),
            _ => (
                server,
                asked
                    .checked_add(took.checked_div(2).unwrap_or_default())
                    .unwrap_or(asked),
            ),
        });
        self.server_clock = said.filter(|_| relative_ttls);
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
            log.buffer(|buffer| buffer.history() == old && buffer.boundary().offset > shared)
        })
    }

    /// Is the server unable to continue what we have in memory, because its backlog no longer holds the next bytes?
    /// Another writer of the same feed may have stored more.
    fn is_left_behind(&self, facts: Option<&Facts>) -> bool {
        let log = self.log.as_ref().zip(facts);
        log.is_some_and(|(log, facts)| {
            let at = log.buffer(|buffer| Position {
                history: buffer.history(),
                offset: buffer.boundary().offset,
            });
            !facts.would_continue(at)
        })
    }

    /// What of the log in memory the server is to send again.
    async fn again(&self, facts: Option<&Facts>) -> Option<Sample> {
        let log = self.log.as_ref()?;
        let facts = facts?;
        let again = log.buffer(|buffer| buffer.again()).load().await?;
        let (history, upto) = log.buffer(|buffer| (buffer.history(), buffer.boundary().offset));
        again.to_be_sent_again(history, upto, facts)
    }

    /// As [`Origin::is_unproved`], of the log in memory. If that has nothing to compare, the store may have.
    fn is_unproved(&self, again: Option<&Sample>, facts: Option<&Facts>) -> bool {
        self.log.as_ref().zip(facts).is_some_and(|(log, facts)| {
            let could_be = |buffer: &mut LogBuffer| {
                facts.replid == Some(buffer.history()) && facts.backlog_first.is_some()
            };
            again.is_none() && log.buffer(could_be)
        })
    }

    /// The point to go on from: of the log in memory, with what is to be sent `again`, or of the store.
    fn from(
        &self,
        known: Option<&Known>,
        again: Option<Sample>,
        facts: Option<&Facts>,
    ) -> Option<Origin> {
        if let Some(log) = &self.log {
            return Some(log.buffer(|buffer| Origin {
                sample: again,
                recent: None,
                history: buffer.history(),
                boundary: buffer.boundary(),
                stored: buffer.stored().offset,
                last_mark_ms: buffer.last_mark_ms(),
                sealed: None,
                unbridged: None,
                is_snapshot_alone: false,
            }));
        }
        let known = known?;
        let resume = known.resume.clone();
        resume.map(|(id, end)| {
            let at = Position {
                history: id,
                offset: end.boundary.offset,
            };
            let newest = newest_base(&known.catalog, at);
            Origin::of_store((id, end), known.sample.clone(), newest, facts)
        })
    }

    /// `+CONTINUE`: the same feed continues, maybe under a new id.
    async fn continued(
        &mut self,
        from: Origin,
        id: Option<ReplId>,
        facts: Option<&Facts>,
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
                self.remember(from.recent);
            }
            self.compare_again(from.sample, from.boundary);
            return Ok(());
        }
        if !from.is_shared_with(id, facts) {
            return Err(SessionEnd::StartOver(format!(
                "the server has become {id} since it was asked: asking it again what it shares with history {}",
                from.history
            )));
        }
        self.move_to(from, id, facts).await
    }

    /// The process that made the base from which we continue may have died before the log was joined to it. Others may
    /// still write before it.
    async fn bridge(&self, from: &Origin) -> Result<(), SessionEnd> {
        let Some(gap) = &from.unbridged else {
            return Ok(());
        };
        let bridged = self.archive.bridge(from.history, gap, &self.writer).await;
        bridged.map_err(|error| match error {
            AppendError::Taken(_) | AppendError::Passed { .. } => SessionEnd::StartOver(format!(
                "another writer of history {} stores the log before the base at {}",
                from.history, gap.to.offset
            )),
            AppendError::Archive(error) => error.into(),
        })
    }

    /// What is stored ends with this.
    pub(super) fn remember(&self, recent: Option<Sample>) {
        if let Some(log) = &self.log {
            log.buffer(|buffer| buffer.remember(recent));
        }
    }

    /// The server sends this once more.
    pub(super) fn compare_again(&self, sample: Option<Sample>, upto: Boundary) {
        if let Some((log, sample)) = self.log.as_ref().zip(sample) {
            log.buffer(|buffer| buffer.begin_again(sample, upto));
        }
    }

    /// `+FULLRESYNC`: receives the RDB. Committing it runs while the feed is received, which comes by `feed`, or else
    /// by the same link.
    async fn full_sync(
        &mut self,
        (mut link, turn): (Link, Option<Turn>),
        feed: Option<FeedLink>,
        at: Position,
        had: Had,
        known: Known,
        facts: Option<&Facts>,
    ) -> Result<(Committing, FeedLink), SessionEnd> {
        let said = at.history;
        let instead_of = self.aliases.key(said);
        let history = self.key_of_full_sync(at, had, facts);
        let at = Position { history, ..at };
        self.check_unsealed(&known, instead_of).await?;
        if history != instead_of {
            self.check_unsealed(&known, history).await?;
        }
        warn_of_strangers(&known, at.history);
        let receive = full_sync::receive(&mut link, &self.archive, at, &self.status);
        // The child of the server has ended with it.
        let receive = full_sync_turns::during(turn, &self.status, receive);
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
        let before = known.before.into_iter().filter(|previous| {
            let id = previous.at.history;
            // Of a sidecar's there is one: whether another is alive is looked at when the snapshot is stored.
            let is_twin = !self.guards && self.foreign.is_twin_of(id);
            !is_known && !is_twin && (previous.own || id == instead_of)
        });
        let before = before.collect();
        let mut doc = self.history_doc(at.history, None, server_info(facts));
        doc.run_id = facts.and_then(|facts| facts.health.run_id.clone());
        doc.replid = Some(said).filter(|said| *said != at.history);
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
        Ok((Box::pin(runtime::spawn(commit.run())), feed))
    }

    /// There is no use in receiving a snapshot of a history that was sealed. This holds also if the server was set back, and what
    /// it does now would have a key of its own: its history goes on in another server, and must not take the place of that.
    async fn check_unsealed(&self, known: &Known, id: ReplId) -> Result<(), SessionEnd> {
        if !known.catalog.histories.contains_key(&id) {
            return Ok(());
        }
        match self.archive.log_end(&known.catalog, id).await {
            Ok(LogEnd {
                sealed: Some(seal), ..
            }) => Err(superseded(id, &seal)),
            Err(error @ ArchiveError::Store(_)) => Err(error.into()),
            Ok(_) => Ok(()),
            // Damage before the snapshot is reported when the log is joined to it.
            Err(_) => match self.archive.last_seal(&known.catalog, id).await? {
                Some(seal) => Err(superseded(id, &seal)),
                None => Ok(()),
            },
        }
    }

    /// Does another history continue this one, although no seal shows it?
    async fn check_succeeded(
        &self,
        from: &Origin,
        facts: Option<&Facts>,
    ) -> Result<(), SessionEnd> {
        let is_same = facts.is_some_and(|facts| facts.replid == Some(from.history));
        if from.sealed.is_some() || !is_same {
            return Ok(());
        }
        let sealed = self.archive.sealed_by_successor(from.history, from.stored);
        match sealed.await? {
            Some(seal) => Err(superseded(from.history, &seal)),
            None => Ok(()),
        }
    }

    pub(super) fn start_log(
        &mut self,
        history: ReplId,
        boundary: Boundary,
        stored: Offset,
        last_mark_ms: i64,
    ) {
        let mut buffer =
            LogBuffer::new(history, boundary, stored, last_mark_ms, self.writer.clone());
        let now_unix_ms = self.now().unix_ms;
        let is_news = buffer.clock_says(now_unix_ms);
        let (archive, config) = (self.archive.clone(), self.config.clone());
        self.log = Some(LogWriter::start(
            buffer,
            archive,
            config,
            (self.spool.clone(), self.share.as_ref()),
            self.status.clone(),
            self.clock.clone(),
        ));
        if let Some(log) = self.log.as_ref().filter(|_| is_news) {
            self.clock_went_back(log, now_unix_ms);
        }
    }
}

/// The newest base that leads to `at`.
fn newest_base(catalog: &Catalog, at: Position) -> Option<&BaseManifest> {
    let lineage = catalog.lineage(at.history).ok()?;
    let newest = |span: &Position| {
        let history = catalog.histories.get(&span.history)?;
        let upto = span.offset.min(at.offset);
        let bases = history.bases.iter().rev();
        let mut bases = bases.filter(|base| base.offset <= upto);
        bases.next()
    };
    lineage.iter().find_map(newest)
}

/// A sealed history is continued only under a new id.
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
        Event::Continue(_) => "the server sent +CONTINUE, but backfeed had not asked for it",
        Event::Payload(_) | Event::PayloadEnd => "RDB bytes",
        Event::Feed(_) => "feed bytes",
    };
    SessionEnd::Feed(format!("the server sent {what} at the wrong time"))
}
