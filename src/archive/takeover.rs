//! Who may continue a history when several could. Two sidecars may restore their Redis from one history at the same
//! time, for example when a node comes back while the new pod boots.
//!
//! ```text
//! histories/<id>/takeover/<number:020>.json      a claim: who is restoring a Redis from this history; the highest counts
//! histories/<id>/successor.json                  which history continues this one, created once
//! first.json                                     the same for a store without any history
//! ```
//!
//! # The protocol
//! 1. **Claim**, before anything is sealed or served: create `takeover/<last + 1>`. Whoever finds the claim of another
//!    one waits. The holder creates further claims while it serves. A claim is *overridden* when no other claim follows
//!    it for the time that it names: then the one who waits creates the next number. The one who waits measures that
//!    time with its own monotonic clock. No two clocks are ever compared. A claim for the same run of the same Redis,
//!    or of the same process, counts as one's own: nobody else can serve that Redis.
//! 2. **Seal** the log, and serve everything up to the seal.
//! 3. **Look again**, right before `REPLICAOF NO ONE`: create the next claim, and then read `successor.json`. If there
//!    is a claim of another one, or a successor, the claim was lost, and Redis is not promoted.
//! 4. **Succeed**: the promoted Redis has an id of its own, a child of the history. Create `successor.json` with the
//!    child's `history.json` in it (after a full sync, also its first manifest). If another child is there, this one is
//!    *superseded*.
//! 5. Only then create `history.json` of the child and its log, and send the first acknowledgement
//!    ([`Archive::begin_history`]).
//!
//! # Why at most one side's `WAIT` can say 1
//! A process acknowledges bytes after the seal only as bytes of a child, and only after step 5. Step 5 needs that
//! `successor.json` names the child. That object has one name and is created once, so it names one child for ever. Two
//! Redis servers that were restored from one history have two ids. So they are two children, and at most one of them is
//! named. None of this depends on the claims, on their order, on time, or on who is alive. A holder that was overridden
//! while it slept finds the name of the other child when it wakes. Claims have only one use: they keep two Redis
//! servers from being promoted, and clients from writing to the one that loses.
//!
//! The seal keeps the earlier writer of the history from acknowledging more of it. It does not say who may continue. A
//! seal that is already there is as good as one's own.
//!
//! # When the winner dies
//! | it dies after | what the next one finds | and does |
//! |---|---|---|
//! | 1, 2, 3 | its claim, and no successor | waits until the claim was not renewed for its time, and overrides it |
//! | `REPLICAOF NO ONE` | the same; the promoted Redis has taken no write that was confirmed | the same; if the sidecar of that Redis comes back first, that one succeeds |
//! | 4 | a successor without `history.json` | creates what `successor.json` holds ([`Archive::complete`]), and continues from the child |
//! | 5 | the child, as the latest | takes over the child, like any history |
//!
//! A store without any history is taken over in the same way, in one step. If two sidecars find it empty and promote
//! their Redis, `first.json` names one of them, with its first snapshot, before anything of it is acknowledged.
//!
//! A history under a derived key (`archive::aliases`) replaces the one that the store has under its server's id. It is
//! recorded and begun *before* the old one is sealed. The reason: whoever finds the seal must also find the new
//! history, and no server says its key. Nothing of it is acknowledged before the seal.
//!
//! Archives of older builds have neither object. Without a claim there is no holder. A history that another one already
//! continues is not the latest.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use super::names::{self, Name};
use super::{Archive, ArchiveError, BaseManifest, FORMAT, HistoryDoc, begins_at, documents};
use crate::store::StoreError;
use crate::wire::position::{Offset, ReplId};

/// Who restores a Redis from a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimant {
    /// Which process.
    pub writer: String,
    /// The `run_id` of the Redis that it restores, if that says it.
    pub redis: Option<String>,
    /// Unix milliseconds, for those who read it.
    pub now_unix_ms: i64,
}

/// `takeover/<number>.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimDoc {
    /// [`FORMAT`].
    pub format: u32,
    /// The history that is taken over.
    pub history: ReplId,
    /// Which claim on it.
    pub number: u64,
    /// Which process restores its Redis.
    pub writer: String,
    /// The `run_id` of that Redis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redis: Option<String>,
    /// If no claim follows for this long, its holder counts as dead.
    pub stands_ms: u64,
    /// Unix milliseconds.
    pub created_unix_ms: i64,
}

impl ClaimDoc {
    /// Is it a claim of this one?
    #[must_use]
    pub fn is_of(&self, claimant: &Claimant) -> bool {
        self.writer == claimant.writer || (self.redis.is_some() && self.redis == claimant.redis)
    }

    /// How long it must go without a renewal to be overridden.
    #[must_use]
    pub fn stands(&self) -> Duration {
        Duration::from_millis(self.stands_ms)
    }
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It was created: at this moment no further claim was there.
    Now(ClaimDoc),
    /// There is one with this number. If it is one's own, from an earlier try whose answer was lost, others may have claimed
    /// since.
    Before(ClaimDoc),
}

/// `successor.json`, and `first.json`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SuccessorDoc {
    /// [`FORMAT`].
    pub format: u32,
    /// The history that was taken over. None: the store was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<ReplId>,
    /// The `history.json` of the one that continues it.
    pub child: HistoryDoc,
    /// Its first snapshot, when it does not continue from the log. None in an empty store: an empty one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseManifest>,
    /// Which process has recorded it.
    pub writer: String,
}

impl SuccessorDoc {
    /// The history and its writer, for messages.
    #[must_use]
    pub fn says(&self) -> String {
        let (child, writer) = (self.child.id, &self.writer);
        match self.history {
            Some(history) => {
                format!("{writer} has recorded that {child} continues history {history}")
            }
            None => {
                format!("{writer} has begun history {child} in the store, which was empty")
            }
        }
    }
}

/// What is known of a server that continues a history by itself: after a failover, or from an older RDB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Branch<'a> {
    /// Its `run_id`. If no sidecar has restored that run of it, it may be a second branch.
    pub run: Option<&'a str>,
    /// The histories that the store had when it was decided that this server is to be captured. None: nothing was decided.
    pub seen: Option<&'a BTreeSet<ReplId>>,
}

impl Branch<'_> {
    /// Did it begin after that?
    fn is_unseen(&self, history: ReplId) -> bool {
        self.seen.is_some_and(|seen| !seen.contains(&history))
    }
}

/// Why a history does not begin.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// Another history already continues its parent.
    #[error("{}", .0.says())]
    GoesOn(Box<SuccessorDoc>),
    /// Another history continues its parent, and what was decided did not consider that: it has begun, or has grown, since the
    /// store was looked at.
    #[error("history {0} continues it too, and is being written: looking at the store again")]
    Beside(ReplId),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl Archive {
    /// The last claim on a history. A claim that is made meanwhile may be missed: whoever creates the next number finds
    /// out.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn last_claim(&self, history: ReplId) -> Result<Option<ClaimDoc>, ArchiveError> {
        let mut last = 1;
        let mut objects = self.store.list(&names::claims(history), None).await;
        while let Some(object) = objects.try_next().await? {
            if let Some(Name::Claim { number, .. }) = Name::parse(&object.name) {
                last = last.max(number);
            }
        }
        let mut found = None;
        while let Some(claim) = self.claim_at(history, last).await? {
            found = Some(claim);
            last = last.saturating_add(1);
        }
        Ok(found)
    }

    async fn claim_at(
        &self,
        history: ReplId,
        number: u64,
    ) -> Result<Option<ClaimDoc>, ArchiveError> {
        let object = Name::Claim { history, number }.to_string();
        let Some(bytes) = self.read_document(&object).await? else {
            return Ok(None);
        };
        let doc: ClaimDoc = documents::from_bytes(&object, &bytes)?;
        if (doc.history, doc.number) != (history, number) {
            let says = Name::Claim {
                history: doc.history,
                number: doc.number,
            };
            return Err(ArchiveError::Renamed {
                object,
                says: says.to_string(),
            });
        }
        Ok(Some(doc))
    }

    /// Creates claim `number`, unless there is one: that of another process, or that of an earlier try.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn claim(
        &self,
        history: ReplId,
        number: u64,
        claimant: &Claimant,
        stands: Duration,
    ) -> Result<Claimed, ArchiveError> {
        let doc = ClaimDoc {
            format: FORMAT,
            history,
            number,
            writer: claimant.writer.clone(),
            redis: claimant.redis.clone(),
            stands_ms: u64::try_from(stands.as_millis()).unwrap_or(u64::MAX),
            created_unix_ms: claimant.now_unix_ms,
        };
        let object = Name::Claim { history, number }.to_string();
        let body = documents::to_bytes(&object, &doc)?;
        match self.store.create(&object, body).await {
            Ok(_) => Ok(Claimed::Now(doc)),
            Err(StoreError::AlreadyExists { .. }) => {
                let there = self.claim_at(history, number).await?;
                there
                    .map(Claimed::Before)
                    .ok_or(ArchiveError::Missing { object })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Which history continues this one.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn successor(&self, history: ReplId) -> Result<Option<SuccessorDoc>, ArchiveError> {
        self.recorded(Some(history)).await
    }

    async fn recorded(
        &self,
        history: Option<ReplId>,
    ) -> Result<Option<SuccessorDoc>, ArchiveError> {
        let object = name(history).to_string();
        let Some(bytes) = self.read_document(&object).await? else {
            return Ok(None);
        };
        let doc: SuccessorDoc = documents::from_bytes(&object, &bytes)?;
        if doc.history != history {
            let says = name(doc.history).to_string();
            return Err(ArchiveError::Renamed { object, says });
        }
        Ok(Some(doc))
    }

    /// Completes what the process that recorded a successor may have left undone, because it died.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn complete(&self, successor: &SuccessorDoc) -> Result<(), ArchiveError> {
        self.create_history(&successor.child).await?;
        match &successor.base {
            Some(base) if self.may_be_completed(base).await? => self.commit_base(base).await,
            Some(_) => Ok(()),
            None if successor.history.is_none() => {
                let at = begins_at(&successor.child);
                if self.floors(at.history).await?.is_below(at.offset) {
                    return Ok(());
                }
                self.store_empty_base(&successor.child).await
            }
            None => Ok(()),
        }
    }

    /// Is the data of a base there, and was it not given up? What somebody has recorded may be read long after: the base may
    /// have expired since, or its data may have been without a manifest for so long that it was deleted.
    async fn may_be_completed(&self, base: &BaseManifest) -> Result<bool, ArchiveError> {
        if self.floors(base.history).await?.is_below(base.offset) {
            return Ok(false);
        }
        match self
            .size_of(&Name::BaseData(base.position()).to_string())
            .await
        {
            Ok(_) => Ok(true),
            Err(ArchiveError::Missing { object }) => {
                tracing::warn!(
                    object,
                    "the snapshot of a history was never completed, and is not there any more"
                );
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes `history.json`, as the history that continues what it names as `previous` or `parent`. That one must be
    /// sealed. (If this one has a derived key, the other one must be sealed before anything is acknowledged.) If there
    /// is a `history.json` already, it stays, and this is no error. `base`: its first snapshot, of which everything but
    /// the manifest is stored.
    ///
    /// This is the only way to the first acknowledgement of a history.
    ///
    /// # Errors
    /// [`SuccessionError::GoesOn`] when another one was recorded first, and this one may not be a second branch.
    pub async fn begin_history(
        &self,
        doc: &HistoryDoc,
        base: Option<&BaseManifest>,
        writer: &str,
    ) -> Result<(), SuccessionError> {
        self.begin_branch(doc, base, writer, Branch::default())
            .await
    }

    /// The same with what is known of the server: then it may be a second branch.
    ///
    /// # Errors
    /// As [`Self::begin_history`], and [`SuccessionError::Beside`].
    pub async fn begin_branch(
        &self,
        doc: &HistoryDoc,
        base: Option<&BaseManifest>,
        writer: &str,
        branch: Branch<'_>,
    ) -> Result<(), SuccessionError> {
        let previous = doc.previous.iter().chain(&doc.also_previous);
        for previous in previous {
            // What takes the place of another is no branch.
            let history = Some(previous.history);
            let recorded = self.succeed(history, doc, base, writer).await?;
            if recorded.child.id != doc.id {
                self.complete(&recorded).await?;
                return Err(SuccessionError::GoesOn(Box::new(recorded)));
            }
        }
        if let Some(from) = doc.parent {
            let history = Some(from.history);
            let recorded = self.succeed(history, doc, base, writer).await?;
            if recorded.child.id != doc.id {
                // The other one must not wait for its writer, who may be dead.
                self.complete(&recorded).await?;
                let served = self.served_to_another(from.history, from.offset, doc.id, branch.run);
                if let Some(other) = served.await? {
                    return Err(SuccessionError::GoesOn(Box::new(other)));
                }
                if branch.is_unseen(recorded.child.id) {
                    return Err(SuccessionError::Beside(recorded.child.id));
                }
            }
        }
        Ok(self.create_history(doc).await?)
    }

    /// The same for a sidecar that has found no history at all. If two promote an empty Redis, one of them is the
    /// first. Without a `base` it begins with an empty one, which is then stored.
    ///
    /// # Errors
    /// [`SuccessionError::GoesOn`] when another one was first.
    pub async fn begin_first(
        &self,
        doc: &HistoryDoc,
        base: Option<&BaseManifest>,
        writer: &str,
    ) -> Result<(), SuccessionError> {
        let recorded = self.succeed(None, doc, base, writer).await?;
        self.complete(&recorded).await?;
        if recorded.child.id == doc.id {
            return Ok(());
        }
        Err(SuccessionError::GoesOn(Box::new(recorded)))
    }

    /// Which other history continues from exactly the point of a history where server `id` does, when a sidecar has
    /// restored both from it. Otherwise the server is a branch that has continued by itself: after a failover, or from
    /// an older RDB.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn served_to_another(
        &self,
        history: ReplId,
        offset: Offset,
        id: ReplId,
        run: Option<&str>,
    ) -> Result<Option<SuccessorDoc>, ArchiveError> {
        let Some(recorded) = self.successor(history).await? else {
            return Ok(None);
        };
        // Its server continues the log (a parent), or had to send a snapshot (previous).
        let child = &recorded.child;
        let parent = child.parent.iter().map(|it| (it.history, it.offset));
        let previous = child.replaced().map(|it| (it.history, it.offset));
        let same = parent.chain(previous).any(|it| it == (history, offset));
        if recorded.child.id == id || !same || !self.may_have_served(history, run).await? {
            return Ok(None);
        }
        Ok(Some(recorded))
    }

    /// Is there a claim on a history for this run of a Redis, or may there be one?
    async fn may_have_served(
        &self,
        history: ReplId,
        run: Option<&str>,
    ) -> Result<bool, ArchiveError> {
        let Some(last) = self.last_claim(history).await? else {
            return Ok(false);
        };
        let is_of = |claim: &ClaimDoc| match (&claim.redis, run) {
            (Some(claimed), Some(run)) => claimed == run,
            _ => true,
        };
        if is_of(&last) {
            return Ok(true);
        }
        for number in (1..last.number).rev() {
            if self
                .claim_at(history, number)
                .await?
                .as_ref()
                .is_none_or(is_of)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Records `child`, unless one is recorded: gives what is.
    async fn succeed(
        &self,
        history: Option<ReplId>,
        child: &HistoryDoc,
        base: Option<&BaseManifest>,
        writer: &str,
    ) -> Result<SuccessorDoc, ArchiveError> {
        let doc = SuccessorDoc {
            format: FORMAT,
            history,
            child: child.clone(),
            base: base.cloned(),
            writer: writer.to_owned(),
        };
        let object = name(history).to_string();
        let body = documents::to_bytes(&object, &doc)?;
        match self.store.create(&object, body).await {
            Ok(_) => Ok(doc),
            Err(StoreError::AlreadyExists { .. }) => {
                let there = self.recorded(history).await?;
                there.ok_or(ArchiveError::Missing { object })
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn name(history: Option<ReplId>) -> Name {
    history.map_or(Name::First, Name::Successor)
}

#[cfg(test)]
#[path = "takeover_tests.rs"]
mod tests;
