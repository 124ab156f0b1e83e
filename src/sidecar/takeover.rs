//! Takes over: restores the Redis beside us from the latest history, under the id of that history, and continues it.
//! [`crate::archive::takeover`] says who may do so when several sidecars try.

use super::opening::Opening;
use super::relative_expiries::without_log;
use super::{Found, Sidecar, SidecarError};
use crate::archive::takeover::{ClaimDoc, Claimant};
use crate::archive::{Archive, Catalog, LogEnd};
use crate::capture::Promoted;
use crate::config::ServeLog;
use crate::link::Stream;
use crate::link::control::Control;
use crate::log::segment::SealHeader;
use crate::monitoring::status::{Phase, Status};
#[cfg(test)]
use crate::recovery::RecoveryTarget;
use crate::recovery::{Count, Plan, sound};
use crate::restore::{
    Before, CaughtUp, Failed, Identity, Lease, Offer, RestoreError, ServeError, Server, Serving,
    WaitingReplica, WayForm, seal, writers,
};
use crate::runtime;
use crate::wire::position::ReplId;

/// What a Redis will be given, and the right to give it.
pub(crate) struct Takeover {
    pub(crate) lease: Lease,
    pub(crate) plan: Plan,
    pub(crate) identity: Identity,
    pub(crate) serving: Serving,
    /// What the store was known to hold when it was sealed.
    catalog: Catalog,
    /// Where it was sealed.
    end: LogEnd,
}

/// In which form a Redis is to get the log.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) form: ServeLog,
    /// Bytes of memory for the keys that the log touches, at most. A base that is in the making takes as much.
    pub(crate) memory_limit: usize,
    /// What that Redis is, as far as it is known.
    pub(crate) target: Option<Server>,
    /// What came of giving it one RDB the last time.
    pub(crate) failed: Option<Failed>,
}

impl Takeover {
    /// What to give a Redis, and the counting of what it must hold.
    pub(crate) async fn offer(
        &mut self,
        takes_marks: bool,
    ) -> Result<(Offer, Count), RestoreError> {
        let mut count = self.serving.count(&self.plan);
        let offer = self
            .serving
            .offer(&self.plan, self.identity, takes_marks, &mut count);
        Ok((offer.await?, count))
    }
}

impl Sidecar {
    /// Serves the latest state, and promotes. `before`: what Redis was before it is given that.
    pub(super) async fn restore(
        &mut self,
        control: &mut Control,
        before: &Before,
        waiting: WaitingReplica<Stream>,
        found: Found,
    ) -> Result<(), SidecarError> {
        let Found {
            archive,
            catalog,
            tip,
        } = found;
        let history = tip.end.history;
        if let Some(of) = self.yielded.filter(|of| *of != history) {
            return Err(self.lost(of, Some(history)));
        }
        let takes_marks = waiting.takes_marks();
        let wanted = Wanted {
            form: match takes_marks {
                true => self.config.serve_log,
                false => ServeLog::Replay,
            },
            memory_limit: self.config.consolidate.memory_limit,
            target: before.server(),
            failed: self.not_rebuilt.clone(),
        };
        let claimant = Claimant {
            writer: self.capture.writer().to_owned(),
            redis: before.run_id(),
            now_unix_ms: (self.clock)(),
        };
        let status = self.status.clone();
        status.phase(Phase::Serving, format!("restoring history {history}"));
        // Now, as nothing is to be asked of the store between the promotion and the capture.
        self.capture.look_before(&archive, &catalog).await?;
        let (mut takeover, mut count, mut yielded) = (None, None, self.yielded);
        let prepare = async {
            let wait = |claim: &ClaimDoc| {
                yielded = Some(history);
                let what = format!(
                    "waiting: {} is restoring another Redis from history {history}. backfeed takes its place if it \
                     stops",
                    claim.writer
                );
                tracing::warn!("{what}");
                status.phase(Phase::Serving, what);
            };
            let ready = prepare_of(&archive, catalog, history, claimant, wanted, &status, wait);
            let ready = takeover.insert(ready.await?);
            status.store_works();
            let (offered, counting) = ready.offer(takes_marks).await?;
            count = Some(counting);
            status.phase(Phase::Serving, what_is_restored(ready));
            Ok(offered)
        };
        let work = self.status.work("restore");
        self.capture.is_given_everything();
        let served = waiting.serve(prepare, &work).await;
        drop(work);
        self.forked = takeover.as_ref().and_then(|it| match it.identity {
            Identity::Fork { id } => Some(id),
            Identity::Continue { .. } | Identity::Follow { .. } => None,
        });
        self.yielded = yielded.filter(|_| takeover.is_none());
        if let (Err(error), Some(takeover)) = (&served, &mut takeover) {
            takeover.serving.falls_back(&takeover.plan, error);
            self.not_rebuilt = takeover.serving.failed();
        }
        let mut caught_up = served.map_err(|error| self.is_lost(error))?;
        let (Some(takeover), Some(count)) = (takeover, count) else {
            return Ok(());
        };
        tracing::info!(at = %caught_up.end(), "Redis has everything that is stored");
        let opening = self
            .prove_restored(control, before, &mut caught_up, count)
            .await?;
        self.open_taken_over(control, history, takeover, caught_up, &opening)
            .await
    }

    /// Promotes it, if it is still ours to promote.
    async fn open_taken_over(
        &mut self,
        control: &mut Control,
        history: ReplId,
        takeover: Takeover,
        caught_up: CaughtUp<Stream>,
        opening: &Opening,
    ) -> Result<(), SidecarError> {
        if let Err(error) = takeover.lease.confirm().await {
            // The one that has it now is alive, and ours came second.
            self.yielded = Some(history);
            return Err(self.is_lost(Box::new(error).into()));
        }
        let Takeover {
            lease,
            plan,
            identity,
            catalog,
            end,
            serving: _,
        } = takeover;
        self.open_restored(control, caught_up, opening).await?;
        match identity {
            // The capture asks Redis to go on at this point, and records then that the history does.
            Identity::Continue { .. } | Identity::Follow { .. } => {
                self.capture.promoted(Promoted {
                    history,
                    end: LogEnd {
                        boundary: plan.end,
                        ..end
                    },
                    catalog,
                    held: Box::new(lease),
                })
            }
            // Its first snapshot records that.
            Identity::Fork { .. } => self.lease = Some(lease),
        }
        Ok(())
    }

    /// Another sidecar has restored its Redis, and ours cannot be restored.
    fn lost(&mut self, history: ReplId, child: Option<ReplId>) -> SidecarError {
        self.superseded = true;
        let child = child.map_or(String::new(), |child| {
            format!(", which continues as {child}")
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
/// that cannot be replayed byte for byte (relative expiries of an old server) is rebuilt. Where that is not possible, not even by a
/// base at its end, it is served as a fork. `wait` gets the claim of another process that is at it.
#[cfg(test)]
pub(crate) async fn prepare(
    archive: &Archive,
    history: ReplId,
    claimant: Claimant,
    wanted: Wanted,
    status: &Status,
    wait: impl FnMut(&ClaimDoc),
) -> Result<Takeover, RestoreError> {
    let archive = &archive.keeping();
    let (known, _) =
        crate::recovery::look(archive, Some(history), None, RecoveryTarget::Latest).await?;
    prepare_of(archive, known, history, claimant, wanted, status, wait).await
}

/// The same, of what is known of the store already: what came since is asked for, and nothing else.
async fn prepare_of(
    archive: &Archive,
    mut catalog: Catalog,
    history: ReplId,
    claimant: Claimant,
    wanted: Wanted,
    status: &Status,
    wait: impl FnMut(&ClaimDoc),
) -> Result<Takeover, RestoreError> {
    let (writer, now_unix_ms) = (claimant.writer.clone(), claimant.now_unix_ms);
    let lease = Lease::take(archive, history, claimant, wait).await?;
    let reason = "it is served to a fresh Redis, and goes on under the id of that";
    let plan = seal(archive, &mut catalog, history, reason, &writer, now_unix_ms).await?;
    // By what was read for the plan: from the promotion on, nothing can be asked of the store.
    let mut end = archive.log_end(&catalog, history).await?;
    end.sealed.get_or_insert_with(|| SealHeader {
        history,
        start: end.end,
        reason: reason.to_owned(),
        writer: writer.clone(),
        sealed_unix_ms: now_unix_ms,
    });
    let (mut plan, _) = sound(archive, plan, &()).await?;
    let memory = wanted.memory_limit;
    // Half, as a base may be in the making still.
    let mut serving = Serving::new(archive, wanted.form, memory / 2)
        .to(wanted.target, &writers(&catalog, &plan))
        .after(wanted.failed);
    let mut is_replayable = !plan.relative_ttls;
    if !is_replayable && serving.decide(&plan, true).await?.is_rebuilt() {
        is_replayable = true;
    } else if !is_replayable
        && let Some(based) = without_log(archive, history, now_unix_ms, memory, status).await
    {
        plan = based;
        is_replayable = true;
    }
    let identity = if !is_replayable {
        tracing::info!(
            "the log of this old server holds relative expiries and cannot be rebuilt: the restored Redis gets an id \
             of its own, and needs one new full sync"
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
        serving,
        catalog,
        end,
    })
}

fn what_is_restored(takeover: &Takeover) -> String {
    let keys = total_keys(&takeover.plan);
    let to = takeover.plan.end_position;
    let Some(way) = takeover.serving.way() else {
        return format!("restoring {to} ({keys} keys in its base)");
    };
    let form = match way.form {
        WayForm::Replayed => "base, then log",
        WayForm::Rebuilt => "base and log as one RDB",
    };
    tracing::info!(%to, why = way.why, "Redis is given {form}");
    format!(
        "restoring {to} ({keys} keys in its base): {form} ({})",
        way.why
    )
}

fn total_keys(plan: &Plan) -> u64 {
    plan.base
        .databases
        .values()
        .fold(0, |sum, db| sum.saturating_add(db.keys))
}
