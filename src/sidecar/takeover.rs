//! Taking over: the Redis beside us is restored from the latest history under the id of that, and goes on from it. Who may,
//! when several would, stands in [`crate::archive::takeover`].

use tokio::time::timeout;

use super::decide::Tip;
use super::{Sidecar, SidecarError};
use crate::archive::takeover::{ClaimDoc, Claimant, SuccessionError};
use crate::archive::{Archive, Parent};
use crate::capture::{server_info, succeeded};
use crate::consolidate::{self, Worth};
use crate::link::Stream;
use crate::link::control::Control;
use crate::position::{Position, ReplId};
use crate::restore::{
    BadBases, CaughtUp, Guest, Identity, Lease, Plan, RestoreError, ServeError, When, offer, plan,
    seal, sound,
};
use crate::status::Phase;

/// How long a Redis of an old version waits for a base at the end of its log. After that it is served the log, as a fork.
const BASE_LIMIT: std::time::Duration = std::time::Duration::from_secs(300);

/// What a Redis is to be given, and the right to give it.
pub(crate) struct Takeover {
    pub(crate) lease: Lease,
    pub(crate) plan: Plan,
    pub(crate) identity: Identity,
}

impl Sidecar {
    /// Serves the latest state, and promotes. `redis`: its run id.
    pub(super) async fn restore(
        &mut self,
        control: &mut Control,
        guest: Guest<Stream>,
        tip: &Tip,
        redis: Option<String>,
    ) -> Result<(), SidecarError> {
        let history = tip.end.history;
        if let Some(of) = self.yielded.filter(|of| *of != history) {
            return Err(self.lost(of, Some(history)));
        }
        let archive = self.capture.archive().clone();
        let memory = self.config.consolidate.memory_limit;
        let claimant = Claimant {
            writer: self.capture.writer().to_owned(),
            redis,
            now_unix_ms: (self.clock)(),
        };
        let status = self.status.clone();
        status.phase(Phase::Serving, format!("restoring history {history}"));
        let (mut takeover, mut yielded) = (None, self.yielded);
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
            let ready = prepare(&archive, history, claimant, memory, wait).await?;
            status.store_works();
            let what = format!(
                "restoring {} ({} keys)",
                ready.plan.end_position,
                total_keys(&ready.plan)
            );
            status.phase(Phase::Serving, what);
            let offered = offer(&archive, &ready.plan, ready.identity).await;
            takeover = Some(ready);
            offered
        };
        let served = guest.serve(prepare, &()).await;
        self.forked = takeover.as_ref().and_then(|it| match it.identity {
            Identity::Fork { id } => Some(id),
            Identity::Continue { .. } => None,
        });
        self.yielded = yielded.filter(|_| takeover.is_none());
        let caught_up = served.map_err(|error| self.is_lost(error))?;
        let Some(takeover) = takeover else {
            return Ok(());
        };
        tracing::info!(at = %caught_up.end(), "Redis has everything that is stored");
        if let Err(error) = takeover.lease.confirm().await {
            // Whoever has it now is alive, and ours came second.
            self.yielded = Some(history);
            return Err(self.is_lost(Box::new(error).into()));
        }
        self.promote_caught_up(control, caught_up).await?;
        self.go_on(control, takeover).await
    }

    async fn promote_caught_up(
        &mut self,
        control: &mut Control,
        mut guest: CaughtUp<Stream>,
    ) -> Result<(), SidecarError> {
        tokio::select! {
            promoted = self.promote(control) => promoted,
            // Redis closes the link when it is promoted: that is no error, and the promotion goes on above.
            Err(error) = guest.hold() => Err(error.into()),
        }
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
    wait: impl FnMut(&ClaimDoc),
) -> Result<Takeover, RestoreError> {
    let (writer, now_unix_ms) = (claimant.writer.clone(), claimant.now_unix_ms);
    let lease = Lease::take(archive, history, claimant, wait).await?;
    let reason = "it is served to a fresh Redis, and goes on under the id of that";
    let plan = seal(archive, history, reason, &writer, now_unix_ms).await?;
    let (mut plan, _) = sound(archive, plan, &()).await?;
    if plan.relative_ttls
        && let Some(based) = without_log(archive, history, now_unix_ms, memory_limit).await
    {
        plan = based;
    }
    let identity = if plan.relative_ttls {
        tracing::info!(
            "the log of this old server holds relative expiries, which are made absolute, and cannot be consolidated: the \
             restored Redis gets an id of its own, and one new full sync"
        );
        Identity::Fork {
            id: ReplId::from_random(rand::random()),
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

/// The log of an old server cannot be replayed under its own offsets, as its relative expiries would count from now. A base
/// at its end can.
async fn without_log(
    archive: &Archive,
    history: ReplId,
    now_unix_ms: i64,
    memory_limit: usize,
) -> Option<Plan> {
    let request = consolidate::Request {
        history: Some(history),
        service: None,
        when: When::Latest,
        memory_limit,
        worth: Worth::AnyLog,
        now_unix_ms,
    };
    match timeout(BASE_LIMIT, consolidate::consolidate(archive, &request, &())).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => {
            tracing::warn!("the log cannot be consolidated: {error}");
            return None;
        }
        Err(_) => {
            tracing::warn!("consolidating the log takes too long for a Redis that waits");
            return None;
        }
    }
    let catalog = archive.catalog().await.ok()?;
    let none_bad = BadBases::new();
    let based = plan(archive, &catalog, history, When::Latest, &none_bad).await;
    let (plan, _) = sound(archive, based.ok()?, &()).await.ok()?;
    (!plan.relative_ttls).then_some(plan)
}

fn total_keys(plan: &Plan) -> u64 {
    plan.base
        .databases
        .values()
        .fold(0, |sum, db| sum.saturating_add(db.keys))
}
