//! Taking over: the Redis beside us is restored from the latest history under the id of that, and goes on from it. Who may,
//! when several would, stands in [`crate::archive::takeover`].

use super::decision::Tip;
use super::relative_expiries::without_log;
use super::{Sidecar, SidecarError};
use crate::archive::takeover::{ClaimDoc, Claimant, SuccessionError};
use crate::archive::{Archive, Parent};
use crate::capture::{server_info, succeeded};
use crate::link::Stream;
use crate::link::control::Control;
use crate::monitoring::status::{Phase, Status};
use crate::recovery::{Count, Plan, sound};
use crate::restore::{
    Before, Identity, Lease, RestoreError, ServeError, WaitingReplica, offer, seal,
};
use crate::runtime;
use crate::wire::position::{Position, ReplId};

/// What a Redis is to be given, and the right to give it.
pub(crate) struct Takeover {
    pub(crate) lease: Lease,
    pub(crate) plan: Plan,
    pub(crate) identity: Identity,
}

impl Sidecar {
    /// Serves the latest state, and promotes. `before`: what Redis was before it is given that.
    pub(super) async fn restore(
        &mut self,
        control: &mut Control,
        before: &Before,
        waiting: WaitingReplica<Stream>,
        tip: &Tip,
    ) -> Result<(), SidecarError> {
        let history = tip.end.history;
        if let Some(of) = self.yielded.filter(|of| *of != history) {
            return Err(self.lost(of, Some(history)));
        }
        let archive = self.capture.archive().clone();
        let memory = self.config.consolidate.memory_limit;
        let claimant = Claimant {
            writer: self.capture.writer().to_owned(),
            redis: before.run_id(),
            now_unix_ms: (self.clock)(),
        };
        let status = self.status.clone();
        status.phase(Phase::Serving, format!("restoring history {history}"));
        // Now, as nothing is to be asked of the store between the promotion and the capture that could be asked before.
        self.capture.look_before().await?;
        let (mut takeover, mut count, mut yielded) = (None, None, self.yielded);
        let prepare = async {
            let wait = |claim: &ClaimDoc| {
                yielded = Some(history);
                let what = format!(
                    "waiting: {} restores another Redis from history {history} just now. Its place is taken if it \
                     does not go on",
                    claim.writer
                );
                tracing::warn!("{what}");
                status.phase(Phase::Serving, what);
            };
            let ready = prepare(&archive, history, claimant, memory, &status, wait).await?;
            status.store_works();
            let what = format!(
                "restoring {} ({} keys)",
                ready.plan.end_position,
                total_keys(&ready.plan)
            );
            status.phase(Phase::Serving, what);
            // Half, as a base may be in the making still.
            count = Some(Count::start(&archive, &ready.plan, memory / 2));
            let offered = offer(&archive, &ready.plan, ready.identity).await;
            takeover = Some(ready);
            offered
        };
        let work = self.status.work("restore");
        let served = waiting.serve(prepare, &work).await;
        drop(work);
        self.forked = takeover.as_ref().and_then(|it| match it.identity {
            Identity::Fork { id } => Some(id),
            Identity::Continue { .. } => None,
        });
        self.yielded = yielded.filter(|_| takeover.is_none());
        let mut caught_up = served.map_err(|error| self.is_lost(error))?;
        let (Some(takeover), Some(count)) = (takeover, count) else {
            return Ok(());
        };
        tracing::info!(at = %caught_up.end(), "Redis has everything that is stored");
        let opening = self
            .prove_restored(control, before, &mut caught_up, count)
            .await?;
        if let Err(error) = takeover.lease.confirm().await {
            // Whoever has it now is alive, and ours came second.
            self.yielded = Some(history);
            return Err(self.is_lost(Box::new(error).into()));
        }
        self.open_restored(control, caught_up, &opening).await?;
        self.go_on(control, takeover).await
    }

    /// Records at once that the history goes on in this Redis. For one with a history of its own, its first snapshot does that.
    async fn go_on(
        &mut self,
        control: &mut Control,
        takeover: Takeover,
    ) -> Result<(), SidecarError> {
        let Takeover { lease, plan, .. } = takeover;
        let facts = control.facts().await?;
        let came_from = facts.replid2.map(|(id, _)| id) == Some(plan.history);
        let Some(id) = facts.replid.filter(|_| came_from) else {
            self.lease = Some(lease);
            return Ok(());
        };
        let parent = Parent {
            history: plan.history,
            offset: plan.end.offset,
            db: plan.end.db,
        };
        let begun = self
            .capture
            .begin_child(id, parent, server_info(Some(&facts)));
        match begun.await {
            Ok(()) => Ok(()),
            Err(SuccessionError::Archive(error)) => {
                // The capture tries again, for as long as it takes.
                tracing::debug!(%error, "it could not be recorded yet that the history goes on");
                self.lease = Some(lease);
                Ok(())
            }
            Err(SuccessionError::GoesOn(other)) => {
                self.superseded = true;
                let at = Position {
                    history: plan.history,
                    offset: plan.stored_end.unwrap_or(plan.end.offset),
                };
                Err(succeeded(at, &other).into())
            }
        }
    }

    /// Another sidecar has restored its Redis, and ours waits in vain.
    fn lost(&mut self, history: ReplId, child: Option<ReplId>) -> SidecarError {
        self.superseded = true;
        let child = child.map_or(String::new(), |child| {
            format!(", and it goes on as {child}")
        });
        SidecarError::TakenOver { history, child }
    }

    fn is_lost(&mut self, error: ServeError) -> SidecarError {
        match &error {
            ServeError::Content(cause) => match **cause {
                RestoreError::GoesOn { history, child } if self.yielded == Some(history) => {
                    self.lost(history, Some(child))
                }
                _ => error.into(),
            },
            _ => error.into(),
        }
    }
}

/// Takes the lease on the history, seals it, so that no other writer can add to it, and plans its restore to the very end. A log
/// that cannot be replayed byte for byte (relative expiries of an old server) is served as a fork. `wait` is told who else is
/// at it.
pub(crate) async fn prepare(
    archive: &Archive,
    history: ReplId,
    claimant: Claimant,
    memory_limit: usize,
    status: &Status,
    wait: impl FnMut(&ClaimDoc),
) -> Result<Takeover, RestoreError> {
    let (writer, now_unix_ms) = (claimant.writer.clone(), claimant.now_unix_ms);
    let lease = Lease::take(archive, history, claimant, wait).await?;
    let reason = "it is served to a fresh Redis, and goes on under the id of that";
    let plan = seal(archive, history, reason, &writer, now_unix_ms).await?;
    let (mut plan, _) = sound(archive, plan, &()).await?;
    if plan.relative_ttls
        && let Some(based) = without_log(archive, history, now_unix_ms, memory_limit, status).await
    {
        plan = based;
    }
    let identity = if plan.relative_ttls {
        tracing::info!(
            "the log of this old server holds relative expiries, which are made absolute, and cannot be consolidated: the \
             restored Redis gets an id of its own, and one new full sync"
        );
        Identity::Fork {
            id: ReplId::from_random(runtime::random_bytes()),
        }
    } else {
        Identity::Continue { id: history }
    };
    Ok(Takeover {
        lease,
        plan,
        identity,
    })
}

fn total_keys(plan: &Plan) -> u64 {
    plan.base
        .databases
        .values()
        .fold(0, |sum, db| sum.saturating_add(db.keys))
}
