//! The feed of one link: puts it into the log buffer, and acknowledges what is stored.

use std::convert::Infallible;
use std::time::Duration;

use tokio::task::JoinError;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::commit::{Committed, Committing, Joined};
use super::feed_link::FeedLink;
use super::feed_memory::FeedShare;
use super::full_sync::FullSyncError;
use super::log_buffer::{LogBuffer, PushError};
use super::log_writer::LogWriter;
use super::master_watch::MasterWatch;
use super::session::{out_of_place, superseded};
use super::shutdown_probe::ShutdownProbe;
use super::{Capture, SessionEnd, Shutdown, stopped};
use crate::archive::BaseManifest;
use crate::config::{AckPolicy, Source};
use crate::monitoring::status::{FullSyncTally, Phase};
use crate::wire::position::{Offset, Position};
use crate::wire::psync::replica::Event;

/// Replicas acknowledge once a second.
const ACK_INTERVAL: Duration = Duration::from_secs(1);
/// While memory is full, the output buffer of the master has to hold the feed. When nothing more was stored for this
/// long, we disconnect instead. A store that is only slower than a burst is no reason: we then read at its pace. The
/// master has its own limit (`client-output-buffer-limit`), and a disconnect could cost a full sync.
const STALL_LIMIT: Duration = Duration::from_secs(5);
/// The feed of one link.
pub(super) struct Follow<'a> {
    capture: &'a Capture,
    feed: FeedLink,
    log: &'a LogWriter,
    /// Is there a restore point that the feed belongs to? Nothing is acknowledged before.
    committed: bool,
    committing: Option<Committing>,
    /// The counter for the full sync of that snapshot.
    tally: Option<FullSyncTally>,
    probe: ShutdownProbe,
    source: &'a Source,
    watch: &'a mut MasterWatch,
    /// The master is shutting down and waits for its very last byte.
    exact: bool,
    stopping: bool,
    /// The highest offset that was acknowledged on this link.
    acknowledged: Offset,
    /// Since when memory has been full with no more stored than this.
    full_since: Option<(Instant, Offset)>,
    once: bool,
}

impl<'a> Follow<'a> {
    /// Follows `feed` into `log`. `committing` is the snapshot that it begins with, if there is one.
    pub(super) fn new(
        capture: &'a Capture,
        feed: FeedLink,
        log: &'a LogWriter,
        committing: Option<(Committing, FullSyncTally)>,
        source: &'a Source,
        watch: &'a mut MasterWatch,
        once: bool,
    ) -> Self {
        let (committing, tally) = committing.unzip();
        Self {
            capture,
            feed,
            log,
            committed: committing.is_none(),
            committing,
            tally,
            probe: ShutdownProbe::new(source.clone()),
            source,
            watch,
            exact: false,
            stopping: false,
            acknowledged: Offset(0),
            full_since: None,
            once,
        }
    }

    /// Follows until the link ends, or the server, or we: then it returns why. It returns nothing else.
    pub(super) async fn run(&mut self, shutdown: &mut Shutdown) -> Result<Infallible, SessionEnd> {
        let mut tick = interval(ACK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.announce();
        loop {
            let full = self.is_full();
            let reading = !full && !self.stopping;
            // What was stored is acknowledged before more is read: only reading could keep the others from their turn.
            tokio::select! {
                biased;
                () = self.log.progress() => {
                    self.full_since = None;
                    self.check_superseded()?;
                    self.check_strange()?;
                    self.check_passed()?;
                    self.check_lost()?;
                    self.ack().await?;
                }
                _ = tick.tick() => {
                    if full {
                        // Others may have taken the memory, and nothing was pushed since.
                        self.log.nudge();
                    }
                    self.check_stall(full)?;
                    self.ack().await?;
                }
                done = join(&mut self.committing) => self.commit(done)?,
                dying = self.probe.wait() => if dying { self.master_dies().await? },
                to = self.watch.moved(self.source), if self.committed && !self.stopping => {
                    let (from, to) = (self.source.addr(), to.addr());
                    return Err(SessionEnd::Moved { from, to });
                }
                _ = stopped(shutdown), if !self.stopping => self.stop(),
                event = self.feed.next(), if reading => match event? {
                    Some(event) => self.event(event).await?,
                    None => self.announce(),
                },
            }
            if self.once && self.committed {
                let at = self.log.buffer(|buffer| buffer.stored());
                return Err(SessionEnd::Once(at));
            }
            if self.stopping && self.committed && self.log.is_flushed() {
                self.ack().await?;
                return Err(SessionEnd::Stopped);
            }
        }
    }

    /// Is memory full of what waits for the store?
    fn is_full(&self) -> bool {
        let memory = self.log.buffer(|buffer| buffer.memory());
        let share = self.capture.share.as_ref();
        memory >= self.capture.config.memory_limit || share.is_some_and(FeedShare::is_full)
    }

    async fn event(&mut self, event: Event) -> Result<(), SessionEnd> {
        let Event::Feed(bytes) = event else {
            return Err(out_of_place(&event));
        };
        let now = self.capture.now();
        if self.log.buffer(|buffer| buffer.clock_says(now.unix_ms)) {
            self.capture.clock_went_back(self.log, now.unix_ms);
        }
        self.capture
            .status
            .metrics()
            .bytes_received
            .inc_by(bytes.len() as u64);
        let arrival = self.log.push(bytes, now).map_err(|error| match error {
            PushError::Feed(error) => SessionEnd::Feed(error.to_string()),
            PushError::Differs(offset) => self.foreign(offset),
        })?;
        let (received, idle) = self
            .log
            .buffer(|buffer| (buffer.received(), buffer.idle_up_to()));
        let own_clock = (self.capture.clock)();
        self.capture.status.received(received, own_clock);
        self.capture.status.idle(idle);
        if arrival.other {
            self.probe.other();
            self.exact = false;
        }
        if arrival.getack {
            self.probe.getack();
            // What is stored, and the idle traffic after it. The rest is being stored, and is acknowledged after that.
            let received = self.capture.config.ack == AckPolicy::Received;
            let (more, data) = self.log.buffer(|buffer| {
                let offset = buffer.acknowledge(received, self.exact);
                (offset > self.acknowledged, buffer.has_data())
            });
            if received || more || !data {
                self.ack().await?;
            }
        }
        Ok(())
    }

    /// Acknowledges what is stored. Before the snapshot counts, that is nothing. But the first `ACK` makes a diskless
    /// master start its feed, so it must be sent, and repeated (PROTOCOL.md A.6).
    async fn ack(&mut self) -> Result<(), SessionEnd> {
        let received = self.capture.config.ack == AckPolicy::Received;
        let offset = if self.committed {
            let (offset, answers) = self
                .log
                .buffer(|buffer| (buffer.acknowledge(received, self.exact), !buffer.has_data()));
            if answers {
                self.log.buffer(LogBuffer::answered);
            }
            offset
        } else {
            Offset(0)
        };
        self.feed.ack(offset).await?;
        self.acknowledged = self.acknowledged.max(offset);
        Ok(())
    }

    fn commit(&mut self, done: Result<Committed, JoinError>) -> Result<(), SessionEnd> {
        self.committing = None;
        let done = done.map_err(|error| SessionEnd::StartOver(error.to_string()))?;
        let (manifest, joined) = done.map_err(|error| match error {
            FullSyncError::Sealed(seal) => superseded(seal.history, &seal),
            error => error.into(),
        })?;
        self.goes_on(&manifest, joined);
        let keys: u64 = manifest
            .databases
            .values()
            .fold(0, |sum, db| sum.saturating_add(db.keys));
        tracing::info!(at = %manifest.position(), keys, raw_bytes = manifest.raw_bytes, stored_bytes = manifest.stored_bytes,
            "the snapshot is stored");
        self.announce();
        Ok(())
    }

    /// The snapshot counts, and the log continues.
    fn goes_on(&mut self, base: &BaseManifest, joined: Joined) {
        self.committed = true;
        if let Some(tally) = self.tally.take() {
            tally.stored(base.position(), base.as_of_unix_ms());
        }
        let (is_news, said) = self.log.buffer(|buffer| {
            buffer.mark_stored(joined.stored, None);
            let last = joined.last_mark_ms;
            let is_news = last.is_some_and(|last| buffer.continues_after_mark(last));
            (is_news, buffer.said_ms())
        });
        if is_news {
            self.capture.clock_went_back(self.log, said);
        }
        self.log.release();
        self.feed.want();
    }

    fn announce(&self) {
        if self.committed && self.feed.is_here() {
            let history = self.log.buffer(|buffer| buffer.history());
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
            Some(seal) => Err(superseded(
                self.log.buffer(|buffer| buffer.history()),
                &seal,
            )),
            None => Ok(()),
        }
    }

    fn foreign(&self, offset: Offset) -> SessionEnd {
        let history = self.log.buffer(|buffer| buffer.history());
        SessionEnd::ForeignFeed {
            at: Position { history, offset },
        }
    }

    fn check_strange(&self) -> Result<(), SessionEnd> {
        self.log
            .foreign()
            .map_or(Ok(()), |at| Err(self.foreign(at)))
    }

    fn check_passed(&self) -> Result<(), SessionEnd> {
        let Some(next) = self.log.passed() else {
            return Ok(());
        };
        let history = self.log.buffer(|buffer| buffer.history());
        Err(SessionEnd::StartOver(format!(
            "this process slept, or its store was away, for so long that others have stored history {history} beyond \
             byte {next}, and have deleted what was here. Nothing of this is acknowledged before the store is looked at"
        )))
    }

    fn check_lost(&self) -> Result<(), SessionEnd> {
        match self.log.lost() {
            Some(error) => Err(SessionEnd::SpoolLost(error)),
            None => Ok(()),
        }
    }

    fn check_stall(&mut self, full: bool) -> Result<(), SessionEnd> {
        if !full {
            self.full_since = None;
            return Ok(());
        }
        let stored = self.log.buffer(|buffer| buffer.stored().offset);
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
        let pending = self
            .log
            .buffer(|buffer| buffer.received().offset.beyond(buffer.stored().offset));
        let limit = match self.capture.spool {
            Some(_) => "all of memory and spool",
            None if self.capture.share.is_some() => "its part of the memory for feed",
            None => "the memory limit",
        };
        Err(SessionEnd::StoreStalled {
            pending,
            limit,
            cause: self.log.failing(),
        })
    }

    /// The link has ended. Does what was received belong to a restore point? A store that is away does not delay the
    /// end of the process: what is not stored by then does not count.
    pub(super) async fn settle(&mut self, shutdown: &mut Shutdown) -> bool {
        if let Some(committing) = self.committing.take()
            && !self.stopping
        {
            let committed = tokio::select! {
                biased;
                committed = committing => committed,
                () = stopped(shutdown) => return self.committed,
            };
            match committed {
                Ok(Ok((manifest, joined))) => self.goes_on(&manifest, joined),
                Ok(Err(error)) => tracing::warn!(%error, "the snapshot was not stored"),
                Err(error) => tracing::warn!(%error, "the snapshot was not stored"),
            }
        }
        self.committed
    }
}

/// Waits for the commit, or for ever when there is none.
async fn join(committing: &mut Option<Committing>) -> Result<Committed, JoinError> {
    match committing {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}
