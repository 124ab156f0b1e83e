//! The lease on a history while a Redis is restored from it under its own id. [`crate::archive::takeover`] says what it
//! is for, and why it cannot do harm.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::error::RestoreError;
use crate::archive::takeover::{ClaimDoc, Claimant, Claimed, SuccessionError, SuccessorDoc};
use crate::archive::{Archive, ArchiveError, HistoryDoc, Parent, ServerInfo};
use crate::link::replication_info::Facts;
use crate::runtime::{self, backoff::Backoff};
use crate::wire::position::{Boundary, ReplId};

/// The first claim is renewed after this time, each further one after twice the time, up to the longest. So a short
/// restore whose process died is taken over soon, and a restore of an hour leaves few objects.
const RENEW_FIRST: Duration = Duration::from_secs(2);
const RENEW_MAX: Duration = Duration::from_secs(16);
/// A claim is valid for this many times its renewal: the store may be slow, or fail once.
const STANDS: u32 = 3;
/// Pause between two looks at the claim of another process.
const LOOK: Duration = Duration::from_secs(1);

/// The right to restore a Redis from a history.
#[derive(Debug)]
pub struct Lease {
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    archive: Archive,
    history: ReplId,
    claimant: Claimant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Our last claim.
    number: u64,
    renew_after: Duration,
    /// How long the next claims are valid.
    growing: Backoff,
    /// Who has it in our place.
    lost: Option<ClaimDoc>,
}

impl Lease {
    /// Takes the lease. Waits as long as another process holds it and shows that it is alive. Calls `tell` with its
    /// name.
    ///
    /// # Errors
    /// [`RestoreError::GoesOn`] when another history continues this one.
    pub async fn take(
        archive: &Archive,
        history: ReplId,
        claimant: Claimant,
        mut tell: impl FnMut(&ClaimDoc),
    ) -> Result<Self, RestoreError> {
        // The claim of another one, and since when it has been the last.
        let mut others: Option<(ClaimDoc, Instant)> = None;
        loop {
            if let Some(successor) = archive.successor(history).await? {
                return Err(goes_on(archive, history, successor).await);
            }
            let last = archive.last_claim(history).await?;
            let number = last
                .as_ref()
                .map_or(1, |last| last.number.saturating_add(1));
            if let Some(last) = last.filter(|last| !last.is_of(&claimant)) {
                let since = match &others {
                    Some((seen, since)) if seen.number == last.number => *since,
                    _ => Instant::now(),
                };
                let still = since.elapsed() < last.stands();
                if others.is_none() {
                    tell(&last);
                }
                others = Some((last, since));
                if still {
                    sleep(LOOK).await;
                    continue;
                }
                tracing::warn!(%history, "the process that restored a Redis from it stopped: continuing in its place");
            }
            let stands = RENEW_FIRST.saturating_mul(STANDS);
            let claimed = archive.claim(history, number, &claimant, stands).await?;
            if matches!(claimed, Claimed::Now(_)) {
                return Ok(Self::keep(archive, history, claimant, number));
            }
        }
    }

    fn keep(archive: &Archive, history: ReplId, claimant: Claimant, number: u64) -> Self {
        let mut growing = Backoff::exact(RENEW_FIRST, RENEW_MAX);
        let renew_after = growing.pause();
        let shared = Arc::new(Shared {
            archive: archive.clone(),
            history,
            claimant,
            state: Mutex::new(State {
                number,
                renew_after,
                growing,
                lost: None,
            }),
        });
        let keeper = runtime::spawn(keep(Arc::clone(&shared)));
        Self { shared, keeper }
    }

    /// The look right before a Redis is promoted: is the lease still ours, and for long enough?
    ///
    /// # Errors
    /// [`RestoreError::LeaseLost`], [`RestoreError::GoesOn`]: it must not be promoted.
    pub async fn confirm(&self) -> Result<(), RestoreError> {
        self.shared.renew().await?;
        match self.shared.archive.successor(self.shared.history).await? {
            Some(successor) => {
                let Shared {
                    archive, history, ..
                } = &*self.shared;
                Err(goes_on(archive, *history, successor).await)
            }
            None => Ok(()),
        }
    }
}

impl Lease {
    /// Records that the history continues in a server that was completely restored from it, and promoted. If that
    /// server has an id under which it was not restored, its own first snapshot records it.
    ///
    /// # Errors
    /// [`RestoreError::GoesOn`]: another server continues it.
    pub(crate) async fn record(
        &self,
        facts: &Facts,
        (history, end): (ReplId, Boundary),
        of: HistoryDoc,
    ) -> Result<(), RestoreError> {
        let came_from = facts.replid2.map(|(id, _)| id) == Some(history);
        let Some(id) = facts.replid.filter(|_| came_from) else {
            return Ok(());
        };
        let doc = HistoryDoc {
            id,
            replid: None,
            parent: Some(Parent {
                history,
                offset: end.offset,
                db: end.db,
            }),
            previous: None,
            also_previous: Vec::new(),
            server: ServerInfo {
                flavour: facts.flavour.clone(),
                version: facts.version.clone(),
            },
            created_unix_ms: self.shared.claimant.now_unix_ms,
            ..of
        };
        let Shared {
            archive, claimant, ..
        } = &*self.shared;
        let begun = archive.begin_history(&doc, None, &claimant.writer).await;
        begun.map_err(|error| match error {
            SuccessionError::GoesOn(other) => RestoreError::GoesOn {
                history,
                child: other.child.id,
            },
            SuccessionError::Beside(child) => RestoreError::GoesOn { history, child },
            SuccessionError::Archive(error) => error.into(),
        })
    }
}

#[cfg(test)]
impl Lease {
    /// Its process sleeps, or hangs.
    pub(crate) fn stop_renewing(&self) {
        self.keeper.abort();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Shared {
    async fn renew(&self) -> Result<(), RestoreError> {
        let mut state = self.state.lock().await;
        while state.lost.is_none() {
            let number = state.number.saturating_add(1);
            let mut growing = state.growing.clone();
            let renew_after = growing.pause();
            let stands = renew_after.saturating_mul(STANDS);
            let claimed = self
                .archive
                .claim(self.history, number, &self.claimant, stands)
                .await?;
            match claimed {
                Claimed::Now(_) => {
                    state.number = number;
                    (state.renew_after, state.growing) = (renew_after, growing);
                    return Ok(());
                }
                // An earlier try came to this number. Only the next one tells whether somebody came after that.
                Claimed::Before(ours) if ours.writer == self.claimant.writer => {
                    state.number = number;
                }
                Claimed::Before(other) => state.lost = Some(other),
            }
        }
        let by = state.lost.as_ref().map(|claim| claim.writer.clone());
        Err(RestoreError::LeaseLost {
            history: self.history,
            writer: by.unwrap_or_default(),
        })
    }
}

/// Renews it until it is lost.
async fn keep(shared: Arc<Shared>) {
    loop {
        let pause = shared.state.lock().await.renew_after;
        sleep(pause).await;
        match shared.renew().await {
            Err(RestoreError::LeaseLost { .. }) => return,
            Err(error) => {
                tracing::debug!(%error, "a lease could not be renewed; retrying")
            }
            Ok(()) => {}
        }
    }
}

async fn goes_on(archive: &Archive, history: ReplId, successor: SuccessorDoc) -> RestoreError {
    let completed: Result<(), ArchiveError> = archive.complete(&successor).await;
    match completed {
        Ok(()) => RestoreError::GoesOn {
            history,
            child: successor.child.id,
        },
        Err(error) => error.into(),
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
