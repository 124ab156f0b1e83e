//! Promotes a Redis: with a proof that it holds what it was given, or as it is for a reason that is logged.

use std::time::Duration;

use tokio::time::Instant;

use super::{LOOK_PAUSE, PROMOTION_LIMIT, Sidecar, SidecarError};
use crate::link::Stream;
use crate::link::control::Control;
use crate::link::health::Memory;
use crate::link::replication_info::{Facts, Role};
use crate::monitoring::status;
use crate::recovery::Count;
use crate::restore::{Before, CaughtUp, Differs, Phase, Proof, ServeError, Slack, Unproved, prove};

/// If a Redis did not hold what it was given, and has not changed, it is given it again after this time. Each time it
/// loads everything.
const GIVE_AGAIN: Duration = Duration::from_secs(300);

/// Why a Redis may be opened.
pub(super) enum Opening {
    /// It holds what it was given.
    Proved(Proof),
    /// Nothing was to be given to it.
    AsItIs(&'static str),
    /// `--promote-incomplete`.
    Incomplete(Differs),
}

/// A Redis that did not hold what it was given.
pub(super) struct Unopened {
    differs: Differs,
    at: Instant,
    run_id: Option<String>,
    memory: Memory,
}

impl Unopened {
    /// Is there no use yet in giving it everything again?
    fn still_holds(&self, facts: &Facts) -> bool {
        let (memory, before) = (&facts.health.memory, &self.memory);
        facts.health.run_id == self.run_id
            && (memory.limit, &memory.policy) == (before.limit, &before.policy)
            && self.at.elapsed() < GIVE_AGAIN
    }
}

impl Sidecar {
    /// Waits with a Redis that could not hold what it was given, until something about it changes.
    pub(super) fn may_be_served(&self, facts: &Facts) -> Result<(), SidecarError> {
        match &self.unopened {
            Some(unopened) if unopened.still_holds(facts) => {
                Err(SidecarError::Unproved(unopened.differs.clone()))
            }
            _ => Ok(()),
        }
    }

    /// May a Redis be opened that was given everything? It must hold it.
    pub(super) async fn prove_restored(
        &mut self,
        control: &mut Control,
        before: &Before,
        waiting: &mut CaughtUp<Stream>,
        mut count: Count,
    ) -> Result<Opening, SidecarError> {
        self.status
            .phase(status::Phase::Promoting, "comparing what Redis holds");
        let port = self.listener.addr().port();
        let proved = prove(control, before, waiting, &mut count, port, Slack::Cache);
        let opening = match proved.await {
            Ok(proof) => Opening::Proved(proof),
            Err(Unproved::Control(error)) => return Err(error.into()),
            Err(Unproved::Serve(error)) => return Err(error.into()),
            Err(Unproved::Differs(differs)) if differs.is_another() => {
                tracing::warn!("Redis received everything, but {differs}");
                return Err(ServeError::Closed(Phase::CaughtUp).into());
            }
            Err(Unproved::Differs(differs)) if self.config.promote_incomplete => {
                Opening::Incomplete(differs)
            }
            Err(Unproved::Differs(differs)) => {
                let health = control.facts().await?.health;
                self.unopened = Some(Unopened {
                    differs: differs.clone(),
                    at: Instant::now(),
                    run_id: health.run_id,
                    memory: health.memory,
                });
                return Err(SidecarError::Unproved(differs));
            }
        };
        self.unopened = None;
        Ok(opening)
    }

    /// Opens it, while the link to it is held.
    pub(super) async fn open_restored(
        &self,
        control: &mut Control,
        mut waiting: CaughtUp<Stream>,
        opening: &Opening,
    ) -> Result<(), SidecarError> {
        tokio::select! {
            biased;
            promoted = self.promote(control, opening) => promoted,
            // Redis closes the link when it is promoted. That is not an error: the promotion continues above.
            Err(error) = waiting.hold() => Err(error.into()),
        }
    }

    pub(super) async fn promote(
        &self,
        control: &mut Control,
        opening: &Opening,
    ) -> Result<(), SidecarError> {
        match opening {
            Opening::Proved(proof) => {
                for note in proof.notes() {
                    tracing::warn!("{note}");
                }
            }
            Opening::AsItIs(reason) => tracing::info!("{reason}"),
            Opening::Incomplete(differs) => {
                tracing::warn!(
                    "Redis does not hold what is stored: {differs}. It is promoted all the same (`promote_incomplete`)"
                );
            }
        }
        self.status
            .phase(status::Phase::Promoting, "REPLICAOF NO ONE");
        control.call(&["REPLICAOF", "NO", "ONE"]).await?;
        let since = Instant::now();
        while control.facts().await?.role != Role::Master {
            if since.elapsed() > PROMOTION_LIMIT {
                return Err(SidecarError::NotPromoted);
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        self.status.promoted(true);
        tracing::info!("Redis is a master and takes writes");
        Ok(())
    }
}
