//! Feeding a target that was told to come.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::door::Door;
use super::plan::Plan;
use super::progress::Progress;
use super::serve::{CaughtUp, Identity, offer};
use super::serve_error::ServeError;
use crate::archive::Archive;
use crate::link::Stream;

/// A target that was told to come tries each second; one that has not come by then cannot reach us.
const COME: Duration = Duration::from_secs(60);
/// Syncs that may break off before the restore is given up: a target whose disk is full breaks off every time.
const ATTEMPTS: usize = 3;

/// Waits for the target and feeds it, anew if the link breaks.
pub(super) struct Feed<'a> {
    /// Open: the target may have come already.
    pub(super) door: Door,
    pub(super) announced: String,
    pub(super) archive: &'a Archive,
    pub(super) plan: &'a Plan,
    pub(super) identity: Identity,
    pub(super) progress: &'a dyn Progress,
}

impl Feed<'_> {
    pub(super) async fn run(mut self) -> Result<CaughtUp<Stream>, ServeError> {
        let mut broken = 0usize;
        let mut last = None;
        let mut deadline = come_by();
        loop {
            let Ok(guest) = timeout_at(deadline, self.door.guest()).await else {
                return Err(last.unwrap_or_else(|| self.did_not_come()));
            };
            self.door
                .close("the target is being restored on another connection");
            let prepare = offer(self.archive, self.plan, self.identity);
            match guest.serve(prepare, self.progress).await {
                Ok(caught_up) => return Ok(caught_up),
                Err(error) => {
                    broken = broken.saturating_add(1);
                    if broken >= ATTEMPTS || !error.is_transient() {
                        return Err(error);
                    }
                    tracing::warn!(%error, "feeding the target broke off; it comes again");
                    self.door.open();
                    deadline = come_by();
                    last = Some(error);
                }
            }
        }
    }

    fn did_not_come(&self) -> ServeError {
        let seconds = COME.as_secs();
        match self.door.problem() {
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
