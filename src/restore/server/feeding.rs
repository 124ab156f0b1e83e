//! Feeds a target that is to connect to us (`REPLICAOF`).

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::config::Source;
use crate::link::Stream;
use crate::link::control::{Control, ControlError};
use crate::link::replication_info::Facts;
use crate::recovery::expected_keys::Count;
use crate::recovery::plan::Plan;
use crate::recovery::progress::Progress;
use crate::restore::master::error::ServeError;
use crate::restore::master::listener::Listener;
use crate::restore::master::{CaughtUp, Identity};
use crate::restore::proof::{Before, Differs};
use crate::restore::serving::{Serving, Way};

/// A target tries to connect each second. One that has not come by then cannot reach us.
const COME: Duration = Duration::from_secs(60);
/// Between two looks at a target that has not come yet.
const LOOK: Duration = Duration::from_secs(1);
/// Looks that may fail one after another: a server answers nothing while it drops or loads much data.
const LOOKS_FAILED: usize = 20;
/// Syncs that may fail before the restore is given up. A target whose disk is full fails every time.
const ATTEMPTS: usize = 3;

/// Waits for the target and feeds it, and starts again if the link breaks.
pub(crate) struct Feed<'a> {
    /// Open: the target may have come already.
    pub(crate) listener: Listener,
    pub(crate) announced: String,
    pub(crate) plan: &'a Plan,
    pub(crate) serving: Serving,
    pub(crate) identity: Identity,
    pub(crate) progress: &'a dyn Progress,
}

/// Asks a target what it is while it stays away. A client may have restarted or promoted it, or given it another
/// master.
pub(crate) struct Watch<'a> {
    pub(crate) source: &'a Source,
    pub(crate) before: &'a Before,
    /// The port by which it should know us as its master.
    pub(crate) port: u16,
}

impl Watch<'_> {
    /// Ends when it will not come any more, with the reason.
    async fn changed(&self) -> Differs {
        let mut failed = 0usize;
        loop {
            match self.facts().await {
                Ok(facts) => {
                    failed = 0;
                    if let Err(differs) = self.before.is_same(&facts, self.port) {
                        return differs;
                    }
                }
                Err(error) => {
                    failed = failed.saturating_add(1);
                    if failed >= LOOKS_FAILED {
                        return Differs::gone(&error);
                    }
                }
            }
            sleep(LOOK).await;
        }
    }

    async fn facts(&self) -> Result<Facts, ControlError> {
        Control::connect(self.source).await?.facts().await
    }
}

impl Feed<'_> {
    /// Gives also the way that the log took. `count`: what the target must hold.
    pub(crate) async fn run(
        mut self,
        watch: &Watch<'_>,
        count: &mut Count,
    ) -> Result<(CaughtUp<Stream>, Option<Way>), ServeError> {
        let mut broken = 0usize;
        let mut last = None;
        let mut deadline = come_by();
        loop {
            let waiting = tokio::select! {
                biased;
                waiting = timeout_at(deadline, self.listener.waiting()) => waiting,
                changed = watch.changed() => return Err(ServeError::Changed(changed)),
            };
            let Ok(waiting) = waiting else {
                return Err(last.unwrap_or_else(|| self.did_not_come()));
            };
            self.listener
                .close("the target is being restored on another connection");
            let takes_marks = waiting.takes_marks();
            let prepare = self
                .serving
                .offer(self.plan, self.identity, takes_marks, count);
            match waiting.serve(prepare, self.progress).await {
                Ok(caught_up) => return Ok((caught_up, self.serving.way().cloned())),
                Err(error) => {
                    // A log with relative expiries cannot be replayed under its own offsets.
                    let is_needed = self.plan.relative_ttls
                        && matches!(self.identity, Identity::Continue { .. });
                    // This happens once at most: then nothing is rebuilt any more.
                    if is_needed || !self.serving.falls_back(self.plan, &error) {
                        broken = broken.saturating_add(1);
                        if broken >= ATTEMPTS || !error.is_transient() {
                            if is_needed {
                                tracing::error!(
                                    "the history is sealed now, and not restored. Run the same restore again, with more \
                                     memory if it was too little, or restore a fork"
                                );
                            }
                            return Err(error);
                        }
                        tracing::warn!(%error, "feeding the target stopped. It connects again");
                    }
                    self.listener.open();
                    deadline = come_by();
                    last = Some(error);
                }
            }
        }
    }

    fn did_not_come(&self) -> ServeError {
        let seconds = COME.as_secs();
        match self.listener.problem() {
            Some(reason) => ServeError::TurnedAway { reason, seconds },
            None => ServeError::NeverCame {
                listen: self.announced.clone(),
                seconds,
            },
        }
    }
}

fn come_by() -> Instant {
    let now = Instant::now();
    now.checked_add(COME).unwrap_or(now)
}
