//! A Redis that came up with less than the store has. The smaller state must not become the latest by itself.

use std::collections::BTreeSet;

use super::decision::{self, Claim, Held, Master};
use super::{Sidecar, SidecarError, Tip};
use crate::archive::{BaseManifest, Catalog};
use crate::capture::{Amount, EmptyStart, SessionEnd, Shutdown, TINY};
use crate::config::WhenBehind;
use crate::consolidate::{self, Worth};
use crate::link::replication_info::Facts;
use crate::monitoring::status::Phase;
use crate::recovery::RecoveryTarget;
use crate::service::pause_or_stop;
use crate::wire::position::{Position, ReplId};

/// What is known about the Redis beside us.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Histories that lack what the store has, and those that continue them.
    poorer: BTreeSet<ReplId>,
    /// A history that has as much as it should.
    sound: Option<ReplId>,
    /// What is wrong, as text.
    why: String,
    /// The latest history in the store when this process first found less in Redis.
    against: Option<ReplId>,
    /// Histories that this process has captured, in that order.
    own: Vec<ReplId>,
}

impl Judged {
    /// To keep what Redis has is a decision about the stored state of that time. It does not hold for what another
    /// backfeed has made of that state since: its Redis lives, and what it has confirmed is in no Redis but that one.
    fn decision(&mut self, set: WhenBehind, latest: ReplId) -> WhenBehind {
        if set != WhenBehind::Capture || self.own.contains(&latest) {
            return set;
        }
        let against = self.seen(latest);
        if against == latest {
            return set;
        }
        self.why = format!(
            "Another backfeed has restored history {against} since `when_behind` was set to capture, and goes on in \
             history {latest}. Redis has less than that, or something else"
        );
        WhenBehind::Wait
    }

    /// The latest history in the store when this process first looked: now, unless it has captured one before.
    fn seen(&mut self, latest: ReplId) -> ReplId {
        let first = self.own.first().copied().unwrap_or(latest);
        *self.against.get_or_insert(first)
    }

    fn captures(&mut self, history: Option<ReplId>) {
        let new = history.filter(|history| !self.own.contains(history));
        self.own.extend(new);
    }

    /// Is its history, or the one that it continues, one of those?
    fn is_poorer(&mut self, facts: &Facts) -> bool {
        let known = |id: Option<ReplId>| id.is_some_and(|id| self.poorer.contains(&id));
        let poorer = known(facts.replid) || known(facts.replid2.map(|(id, _)| id));
        if poorer {
            self.poorer.extend(facts.replid);
        }
        poorer
    }
}

impl Sidecar {
    /// What to do with a Redis that is a master, and which decision counts if it has less than is stored. This
    /// also tells the guard of the capture whether it may be captured as it is.
    pub(super) async fn judge(
        &mut self,
        facts: &Facts,
        shutdown: &mut Shutdown,
    ) -> Result<(Master, WhenBehind), SidecarError> {
        self.judged.captures(self.capture.follows());
        let keys = facts.total_keys();
        let now = self.capture.named(facts).replid;
        let tip = if now.is_some() && self.capture.follows() == now && keys > 0 {
            // A link was lost, no more.
            None
        } else {
            self.tip_for_master(facts, shutdown).await?
        };
        let facts = &match &tip {
            Some((catalog, _)) => {
                let aliases = catalog.aliases();
                facts.named(|id| aliases.key(id))
            }
            None => self.capture.named(facts),
        };
        let is_stored = |id: ReplId| match &tip {
            Some((catalog, _)) => catalog.is_restorable(id),
            None => false,
        };
        let emptied = tip.as_ref().is_some_and(|(_, tip)| {
            decision::was_emptied(facts.replid, facts.replid2, tip, is_stored)
        }) || facts.replid2.is_some_and(|(id, _)| Some(id) == self.forked);
        let held = Held {
            keys,
            of_known_history: facts.replid.is_some_and(is_stored),
            left: facts.replid2,
            offset: facts.offset,
        };
        let tip = tip.as_ref().map(|(_, tip)| tip);
        if let Some(tip) = tip {
            self.judged.seen(tip.end.history);
        }
        let mut master = decision::master(held, emptied, tip);
        if let Some(lacks) = tip
            .and_then(|tip| tip.lacks(held.left))
            .filter(|_| keys > 0)
        {
            let has = match tip.is_some_and(|tip| tip.is_beyond(held.left)) {
                true => "has something else that is not stored",
                false => "has taken writes since",
            };
            self.judged.why = format!(
                "Redis came up from an older snapshot. It lacks the last {lacks} bytes of what is stored (WAIT may have \
                 confirmed them), and it {has}"
            );
        }
        if master == Master::Restore {
            // It may be written to before it is our replica. Then it is promoted as it is, and says no more where it came from.
            self.judged.poorer.extend(facts.replid);
            if keys == 0 {
                "Redis came up without what is stored, and took writes before it could be restored"
                    .clone_into(&mut self.judged.why);
            }
        } else if master == Master::Capture && keys > 0 && self.judged.is_poorer(facts) {
            master = Master::Behind(0);
        }
        let mut decided = self.config.when_behind;
        if let (Master::Behind(_), Some(tip)) = (master, tip) {
            decided = self.judged.decision(decided, tip.end.history);
        }
        let takes_it = match master {
            Master::Behind(_) => decided == WhenBehind::Capture,
            Master::Capture => {
                emptied || (self.judged.sound.is_some() && self.judged.sound == facts.replid)
            }
            Master::Restore => false,
        };
        self.capture.accept(facts.replid.filter(|_| takes_it));
        Ok((master, decided))
    }

    /// The latest state in the store, including what the earlier Redis had sent. An error in it is no reason to leave a
    /// Redis with data without a backup.
    async fn tip_for_master(
        &mut self,
        facts: &Facts,
        shutdown: &mut Shutdown,
    ) -> Result<Option<(Catalog, Tip)>, SidecarError> {
        if facts.total_keys() == 0 {
            return self.tip_beside(facts).await;
        }
        tokio::select! {
            biased;
            drained = self.capture.drain() => drained?,
            () = crate::capture::stopped(shutdown) => return Err(SessionEnd::Stopped.into()),
        }
        match self.tip_beside(facts).await {
            Ok(tip) => Ok(tip),
            Err(SidecarError::Session(SessionEnd::Archive(error))) if error.is_transient() => {
                Err(SessionEnd::Archive(error).into())
            }
            Err(error) => {
                let text =
                    format!("what is the latest of the stored state is not certain: {error}");
                if self.judged.poorer.is_empty() {
                    tracing::warn!("{text}. What Redis has is compared with the newest bases");
                } else {
                    // It waits for a decision, and is looked at again and again.
                    tracing::debug!("{text}");
                }
                Ok(None)
            }
        }
    }

    /// The latest state, and whether the histories of this Redis can be restored. Another history may go on from them.
    async fn tip_beside(&self, facts: &Facts) -> Result<Option<(Catalog, Tip)>, SidecarError> {
        let Some((mut catalog, tip)) = self.tip().await? else {
            return Ok(None);
        };
        let aliases = catalog.aliases();
        let own = facts.named(|id| aliases.key(id));
        let left = own.replid2.map(|(id, _)| id);
        for id in own.replid.into_iter().chain(left) {
            let archive = self.capture.archive();
            archive.list_restorable(&mut catalog, id).await?;
        }
        Ok(Some((catalog, tip)))
    }

    /// Must the data of our replica be replaced, because of `--when-behind restore`?
    pub(super) fn is_given_up(
        &mut self,
        facts: &Facts,
        claim: Option<Claim>,
        tip: Option<&Tip>,
    ) -> bool {
        let left = claim.is_some_and(|claim| Some(claim.id) == facts.replid)
            && tip.is_some_and(|tip| tip.lacks(facts.replid2).is_some());
        self.config.when_behind == WhenBehind::Restore && (left || self.judged.is_poorer(facts))
    }

    /// Nothing of this Redis is captured until an operator has decided. It is checked again after a while.
    pub(super) async fn wait_for_decision(
        &mut self,
        facts: &Facts,
        shutdown: &mut Shutdown,
    ) -> Result<(), SidecarError> {
        self.judged.poorer.extend(facts.replid);
        self.status.promoted(false);
        let redis = &self.config.redis;
        let text = format!(
            "{}. backfeed does not capture it, WAIT does not count backfeed, and the stored state stays the latest. To \
             make what Redis has the latest state: set `when_behind` to capture, and start backfeed again. To give Redis \
             the stored state and lose what it has taken since: `redis-cli -h {} -p {} FLUSHALL`",
            self.judged.why, redis.host, redis.port
        );
        if self.status.view().last_error.as_ref() != Some(&text) {
            tracing::error!("{text}");
        }
        self.status.error(text.clone(), (self.clock)());
        self.status.phase(Phase::WaitingForRedis, text);
        Ok(pause_or_stop(super::REPLICA_PAUSE, shutdown).await?)
    }

    /// When the last of what is stored had been received.
    async fn stored_unix_ms(
        &self,
        catalog: &Catalog,
        tip: &Tip,
    ) -> Result<Option<i64>, SidecarError> {
        let archive = self.capture.archive();
        let by_log = match archive.log_end(catalog, tip.end.history).await {
            Ok(end) => end.last_mark.map(|mark| mark.unix_ms),
            Err(error) if error.is_transient() => {
                return Err(SessionEnd::StartOver(error.to_string()).into());
            }
            Err(_) => None,
        };
        let bases = tip
            .line()
            .filter_map(|line| catalog.histories.get(&line.history));
        let bases = bases.flat_map(|history| &history.bases);
        Ok(bases.map(BaseManifest::as_of_unix_ms).chain(by_log).max())
    }

    /// Is this start of the server another one than that whose data is stored? Then it has nothing of that. The history says
    /// whose it is. If it does not (an older backfeed wrote it, or `INFO` did not tell), what was stored after the start may be
    /// of the same. In doubt, within a second of the start, a decision is awaited, which loses nothing. How long each of both is
    /// there is asked too: another clock than ours may have told the times of the log.
    async fn is_another_start(
        &self,
        catalog: &Catalog,
        tip: &Tip,
        start: &EmptyStart,
    ) -> Result<bool, SidecarError> {
        let Some(history) = catalog.histories.get(&tip.end.history) else {
            return Ok(false);
        };
        if let Some((stored, now)) = history.doc.run_id.as_ref().zip(start.run_id.as_ref()) {
            return Ok(stored != now);
        }
        let stored_unix_ms = self.stored_unix_ms(catalog, tip).await?;
        if stored_unix_ms.is_none_or(|at| at < start.unix_ms) {
            return Ok(true);
        }
        let archive = self.capture.archive();
        let Some(created) = archive.age_of_log_end(history).await? else {
            return Ok(false);
        };
        let Some(now) = archive.store_now().await? else {
            return Ok(false);
        };
        let stored_for = now.saturating_sub(created);
        let runs_for = (self.clock)().saturating_sub(start.unix_ms);
        Ok(runs_for < stored_for)
    }

    /// It has little, and comes from nothing that is stored: how much is stored is counted, by a base at the end of the
    /// log.
    pub(super) async fn weigh(
        &mut self,
        at: Position,
        found: Amount,
        started_empty: Option<EmptyStart>,
    ) -> Result<(), SidecarError> {
        let (catalog, tip) = match self.tip().await {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) if error.is_of_store() => return Err(error),
            Err(error) => {
                // There are several that may be the latest, or it is damaged.
                self.judged.why = format!(
                    "Redis has {found} in a history that the store does not know, and what is the latest of the stored \
                     state is not certain: {error}"
                );
                self.judged.poorer.insert(at.history);
                return Ok(());
            }
        };
        let came_up_empty = match started_empty {
            None => false,
            Some(start) => self.is_another_start(&catalog, &tip, &start).await?,
        };
        self.judged.seen(tip.end.history);
        let request = consolidate::Request {
            history: Some(tip.end.history),
            service: None,
            recovery_target: RecoveryTarget::Latest,
            memory_limit: self.config.consolidate.memory_limit,
            worth: Worth::AnyLog,
            time_limit: Some(super::relative_expiries::BASE_LIMIT),
            now_unix_ms: (self.clock)(),
        };
        let archive = self.capture.archive();
        let stored = match consolidate::consolidate(archive, &request, &()).await {
            Ok(report) if report.stopped.is_none() => Some(Amount {
                keys: Some(report.keys),
                bytes: report.raw_bytes,
            }),
            Ok(_) => None,
            Err(error) if error.is_transient() => {
                return Err(SessionEnd::StartOver(error.to_string()).into());
            }
            Err(error) => {
                tracing::warn!(%error, "what is stored cannot be counted: it is taken to be more than Redis has");
                None
            }
        };
        if let Some(stored) = stored.filter(|stored| !found.is_loss(stored, came_up_empty)) {
            tracing::info!(
                %found, %stored, came_up_empty,
                "Redis has lost nothing of what is stored, as far as the amounts tell: it is captured"
            );
            self.judged.sound = Some(at.history);
            return Ok(());
        }
        let has = found;
        let keys = match stored {
            Some(stored) => stored.to_string(),
            None => "far more".to_owned(),
        };
        self.judged.why = match came_up_empty {
            true => format!(
                "Redis came up empty, so it has nothing of what is stored. It has {has} now, and the store has {keys}"
            ),
            false => format!(
                "Redis came up with {has}, in a history that the store does not know, and the store has {keys} (less \
                 than one in {TINY} of the keys and bytes counts as a loss)"
            ),
        };
        self.judged.poorer.insert(at.history);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_counts_for_the_state_that_it_was_taken_about() {
        let [first, child, own] = [1, 2, 3].map(|id| ReplId::from_random([id; 20]));
        let mut judged = Judged::default();
        let capture = WhenBehind::Capture;
        assert_eq!(judged.decision(capture, first), capture);
        assert_eq!(judged.decision(capture, first), capture);
        // What this process captures itself is nobody else's.
        judged.captures(Some(own));
        assert_eq!(judged.decision(capture, own), capture);
        assert_eq!(judged.decision(capture, child), WhenBehind::Wait);
        assert!(judged.why.contains(child.as_str()), "{}", judged.why);
        for other in [WhenBehind::Wait, WhenBehind::Restore] {
            assert_eq!(judged.decision(other, child), other);
        }
        // It captured for long before it found less, and another one goes on meanwhile.
        let mut late = Judged::default();
        late.captures(Some(own));
        late.captures(Some(first));
        // As `judge` does when it first meets a state of the store.
        assert_eq!(late.seen(child), own);
        assert_eq!(late.decision(capture, child), WhenBehind::Wait);
    }
}
