//! Deletes objects of an archive. Nothing else does.
//!
//! The rules hold by construction, whatever a caller asks for. `docs/dev/LIFECYCLE.md` says why they are needed.
//!
//! - **Of a log, what it begins with goes, and never its last object.** [`Deleter::log_upto`] looks at pairs of
//!   neighbours. Of each pair, only the first one can go.
//! - **In ascending order.** What is deleted at the same time is a batch of [`BATCH`]. The next batch waits for it.
//! - **The answer to a delete is not believed.** What was deleted is listed again after each batch. If something of the
//!   batch is still there, the rest stays.
//! - **Segments that a span has** ([`Deleter::merged`]) go when the span is as old as that too, and was read again and
//!   compared with them. A span that is wrong goes as long as it is young, and its bytes are elsewhere
//!   (`Archive::withdraw`, which finds out that itself). All else goes
//! - **below a floor that is old enough, and nowhere else** ([`Deleter::below`]). First go the manifests, because
//!   without one there is no restore point. What a manifest that stays needs of the log stays with it, whatever the
//!   reason for which it stays.
//! - **An object goes only when it is as old as [`GRACE_MS`]**, by the clock of the store. "Now" is the time at which
//!   the store has just created an object ([`Archive::store_now`]). A store that says no times keeps everything.
//! - **A refusal is no error.** A retention policy, a hold or an object lock may refuse a delete. It is counted, and
//!   logged once. A later run tries again.

mod merged;
#[cfg(feature = "cli")]
mod withdraw;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::names::{self, Name};
use super::{Archive, ArchiveError, FLOOR_GRACE_MS, Floor, GRACE_MS, HoldName};
use crate::runtime;
use crate::store::{Created, Listing, ObjectMeta, StoreError};
use crate::wire::position::{Offset, Position, ReplId};

/// Objects that are deleted at the same time. A process that dies within a batch leaves holes in it, and nowhere else.
/// (Few in tests, so that they see several.)
const BATCH: usize = if cfg!(test) { 4 } else { 32 };

/// The data of a base that has no manifest after this time never gets one. An upload takes hours at most.
const UNFINISHED_MS: u64 = 7 * 24 * 3_600_000;

/// What was deleted, and what was not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Deleted {
    /// Objects that are gone.
    pub objects: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Objects that the store did not delete.
    pub denied: u64,
    /// What it said about the first of them.
    pub denied_reason: Option<String>,
    /// Objects that are too young to be deleted. A later run may do it.
    pub young: u64,
}

/// What stays below a floor.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stay {
    /// Bases that something needs, with all of the log after each.
    pub bases: BTreeSet<Offset>,
    /// The log after this offset is needed, though no base before it is.
    pub log_after: Option<Offset>,
}

/// Deletes objects of one archive. It lives for one run: it takes the time of its beginning for now.
#[derive(Debug)]
pub struct Deleter {
    archive: Archive,
    /// By the clock of the store, Unix milliseconds.
    now_ms: i64,
    deleted: Deleted,
}

impl Archive {
    /// What the clock of the store says: the creation time of an object that is created for this, and deleted at once.
    /// None: the store says no times.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn store_now(&self) -> Result<Created, ArchiveError> {
        let (created, deleted) = self.try_deleting().await?;
        // If it stays, a later run deletes it.
        if let Err(error) = deleted {
            tracing::debug!(%error, "the object that told the time stays for now");
        }
        Ok(created)
    }

    /// Creates an object and deletes it again. Returns when the store says that it was created, and what came of the
    /// deletion.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store, if it cannot be created.
    pub async fn try_deleting(&self) -> Result<(Created, Result<(), StoreError>), ArchiveError> {
        let probe = Name::Clock(ReplId::from_random(runtime::random_bytes())).to_string();
        let created = self.store.create(&probe, Bytes::new()).await?;
        Ok((created, self.store.delete(&probe).await))
    }

    /// Deletes a hold, however young it is: an operator wants that. No time is asked for, so a store that says none does it
    /// too. Returns what came of it.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn remove_hold(&self, name: HoldName) -> Result<Deleted, ArchiveError> {
        let object = Name::Hold(name).to_string();
        let one = Listing::of(&object).pages_of(1);
        let found = self.store.list_with(one).await.try_next().await?;
        let found: Vec<ObjectMeta> = found.into_iter().filter(|it| it.name == object).collect();
        let mut deleter = Deleter {
            archive: self.clone(),
            now_ms: i64::MIN,
            deleted: Deleted::default(),
        };
        deleter.delete_all(&object, &found).await?;
        Ok(deleter.deleted)
    }

    /// Begins a run that deletes.
    ///
    /// # Errors
    /// [`ArchiveError::Timeless`], and those of the store.
    pub async fn deleter(&self) -> Result<Deleter, ArchiveError> {
        let now = self.store_now().await?;
        let now_ms = now.ok_or_else(|| ArchiveError::Timeless {
            url: self.store.url(),
        })?;
        Ok(Deleter {
            archive: self.clone(),
            now_ms,
            deleted: Deleted::default(),
        })
    }
}

impl Deleter {
    /// When the run began, by the clock of the store, Unix milliseconds.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.now_ms
    }

    /// What has come of it so far.
    #[must_use]
    pub fn deleted(&self) -> &Deleted {
        &self.deleted
    }

    /// Is an object at least so old?
    #[must_use]
    pub fn is_aged(&self, created: Created, ms: u64) -> bool {
        created.is_some_and(|created| created <= self.now_ms && self.now_ms.abs_diff(created) >= ms)
    }

    /// Deletes what a log begins with: the objects that end at or before `upto`. It stops before the first one that is
    /// too young, or that the store does not delete. The last object of the log stays.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn log_upto(&mut self, history: ReplId, upto: Offset) -> Result<(), ArchiveError> {
        loop {
            let log = self.first_of_log(history).await?;
            let batch = self.expendable(&log, upto);
            if batch.is_empty() || !self.delete_all(&names::log(history), &batch).await? {
                return Ok(());
            }
        }
    }

    /// Deletes what is below a floor of a history, except for what is to stay. A floor that is younger than
    /// [`FLOOR_GRACE_MS`] does nothing, and so does one that cannot be read.
    ///
    /// The order makes every step safe to be the last one:
    /// 1. manifests, because there is no restore point without one; then verdicts;
    /// 2. spans, then the log, up to the floor, or up to what a base that is still there needs;
    /// 3. the data of bases that have no manifest any more, and lower floors.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn below(
        &mut self,
        history: ReplId,
        floor: &Floor,
        stay: &Stay,
    ) -> Result<(), ArchiveError> {
        if !self.is_aged(floor.created, FLOOR_GRACE_MS) || floor.doc.is_none() {
            return Ok(());
        }
        let is_below = |at: Position| at.offset < floor.offset;
        let goes = |at: Position| {
            let stays = floor.leaves_alone(at.offset) || stay.bases.contains(&at.offset);
            is_below(at) && !stays
        };
        let bases = names::bases(history);
        let manifest = |name: &Name| matches!(name, Name::BaseManifest(at) if goes(*at));
        self.sweep(&bases, GRACE_MS, manifest).await?;
        let left = self.manifests(history).await?;
        let verdict = |name: &Name| {
            matches!(name, Name::BaseVerdict(at) | Name::Drill { base: at, .. }
                if is_below(*at) && !left.contains(&at.offset))
        };
        self.sweep(&bases, GRACE_MS, verdict).await?;
        let needed = left.iter().copied().filter(|base| {
            let is_alone = floor.leaves_alone(*base) && !stay.bases.contains(base);
            *base < floor.offset && !is_alone
        });
        let needed = needed.chain(stay.log_after).min();
        let upto = needed.map_or(floor.offset, |needed| needed.min(floor.offset));
        let span =
            |name: &Name| matches!(name, Name::Span { last_byte, .. } if *last_byte <= upto.0);
        self.sweep(&names::spans(history), GRACE_MS, span).await?;
        self.log_upto(history, upto).await?;
        let data = |name: &Name| matches!(name, Name::BaseData(at) if is_below(*at) && !left.contains(&at.offset));
        self.sweep(&bases, FLOOR_GRACE_MS, data).await?;
        // A base may stay for another reason than a floor. Then what says that its log is gone stays with it.
        let floors = self.archive.floors(history).await?;
        let told = floors.iter().filter(|it| it.tells_more_than(floor, &left));
        let told: BTreeSet<Offset> = told.map(|it| it.offset).collect();
        let lower = |name: &Name| matches!(name, Name::Floor(at) if is_below(*at) && !told.contains(&at.offset));
        self.sweep(&names::floors(history), FLOOR_GRACE_MS, lower)
            .await
    }

    /// Deletes the data of bases that never got a manifest, because their writer died.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn sweep_unfinished(&mut self, history: ReplId) -> Result<(), ArchiveError> {
        let manifests = self.manifests(history).await?;
        let unfinished =
            |name: &Name| matches!(name, Name::BaseData(at) if !manifests.contains(&at.offset));
        self.sweep(&names::bases(history), UNFINISHED_MS, unfinished)
            .await
    }

    /// The offsets of the bases of a history that have a manifest.
    async fn manifests(&self, history: ReplId) -> Result<BTreeSet<Offset>, ArchiveError> {
        let mut found = BTreeSet::new();
        let prefix = names::bases(history);
        let mut listed = self.archive.store.list(&prefix, None).await;
        while let Some(object) = listed.try_next().await? {
            if let Some(Name::BaseManifest(at)) = Name::parse(&object.name) {
                found.insert(at.offset);
            }
        }
        Ok(found)
    }

    /// Deletes what was created to learn the time, and was left behind.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn sweep_clock(&mut self) -> Result<(), ArchiveError> {
        let probe = |name: &Name| matches!(name, Name::Clock(_));
        self.sweep(names::CLOCK, GRACE_MS, probe).await
    }

    /// Deletes the objects below `prefix` that `goes` names, and that are at least so old. They depend on nothing, and
    /// nothing on their order. The log is not for this ([`Self::log_upto`]).
    async fn sweep(
        &mut self,
        prefix: &str,
        age_ms: u64,
        goes: impl Fn(&Name) -> bool,
    ) -> Result<(), ArchiveError> {
        let listed = self.archive.store.list(prefix, None).await;
        let mut listed = listed.try_chunks(BATCH);
        while let Some(found) = listed.next().await {
            let found = found.map_err(|error| ArchiveError::from(error.1))?;
            let mut batch = Vec::new();
            for object in found {
                let name = Name::parse(&object.name);
                let goes =
                    name.is_some_and(|name| !matches!(name, Name::Log { .. }) && goes(&name));
                if goes && self.is_aged(object.created, age_ms) {
                    batch.push(object);
                } else if goes {
                    self.deleted.young = self.deleted.young.saturating_add(1);
                }
            }
            self.delete_all(prefix, &batch).await?;
        }
        Ok(())
    }

    /// The first objects of a log, with the first byte of each: one more than a batch.
    async fn first_of_log(&self, history: ReplId) -> Result<Vec<(u64, ObjectMeta)>, ArchiveError> {
        let prefix = names::log(history);
        let wanted = Listing::of(&prefix).pages_of(BATCH.saturating_add(1));
        let mut listed = self.archive.store.list_with(wanted).await;
        let mut log = Vec::new();
        while log.len() <= BATCH
            && let Some(object) = listed.try_next().await?
        {
            if let Some(Name::Log { first_byte, .. }) = Name::parse(&object.name) {
                log.push((first_byte, object));
            }
        }
        Ok(log)
    }

    /// Those that may go, ascending. One that goes ends before the next one begins, or it is no part of the log.
    fn expendable(&mut self, log: &[(u64, ObjectMeta)], upto: Offset) -> Vec<ObjectMeta> {
        let mut expendable = Vec::new();
        for (object, next) in log.iter().zip(log.iter().skip(1)) {
            if next.0 > upto.next_byte() {
                break;
            }
            if !self.is_aged(object.1.created, GRACE_MS) {
                // It is met once more after the batch before it.
                let met = u64::from(expendable.is_empty());
                self.deleted.young = self.deleted.young.saturating_add(met);
                break;
            }
            expendable.push(object.1.clone());
        }
        expendable
    }

    /// Deletes a batch, all at the same time: objects in ascending order, whose names begin with `prefix`. False: one of
    /// them is still there.
    async fn delete_all(
        &mut self,
        prefix: &str,
        batch: &[ObjectMeta],
    ) -> Result<bool, ArchiveError> {
        let store = self.archive.store.clone();
        let names: Vec<String> = batch.iter().map(|object| object.name.clone()).collect();
        let deletes: Vec<_> = stream::iter(names)
            .map(|name| {
                let store = store.clone();
                async move { store.delete(&name).await }
            })
            .buffered(BATCH)
            .collect()
            .await;
        let mut refusals = BTreeMap::new();
        for (object, deleted) in batch.iter().zip(deletes) {
            match deleted {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error @ (StoreError::Permanent { .. } | StoreError::AlreadyExists { .. })) => {
                    refusals.insert(object.name.as_str(), error.to_string());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let left = self.still_there(prefix, batch).await?;
        for object in batch {
            if left.contains(&object.name) {
                let reason = refusals.get(object.name.as_str()).map(String::as_str);
                self.denied(
                    &object.name,
                    reason.unwrap_or("it is still there after it was deleted"),
                );
            } else {
                self.deleted.objects = self.deleted.objects.saturating_add(1);
                self.deleted.bytes = self.deleted.bytes.saturating_add(object.size);
            }
        }
        Ok(left.is_empty())
    }

    /// Which of these the store still lists. (What was created anew under such a name is another object.)
    async fn still_there(
        &self,
        prefix: &str,
        batch: &[ObjectMeta],
    ) -> Result<BTreeSet<String>, ArchiveError> {
        let (Some(first), Some(last)) = (batch.first(), batch.last()) else {
            return Ok(BTreeSet::new());
        };
        let page = batch.len().saturating_add(1);
        let wanted = Listing::of(prefix).from(&first.name).pages_of(page);
        let mut listed = self.archive.store.list_with(wanted).await;
        let mut left = BTreeSet::new();
        while let Some(object) = listed.try_next().await?
            && object.name <= last.name
        {
            let is_same = |it: &ObjectMeta| it.name == object.name && it.created == object.created;
            if batch.iter().any(is_same) {
                left.insert(object.name);
            }
        }
        Ok(left)
    }

    fn denied(&mut self, object: &str, reason: &str) {
        if self.deleted.denied == 0 {
            tracing::warn!(
                object,
                reason,
                "the store does not delete an object. It stays, and so does what comes after it. A later run tries again"
            );
            self.deleted.denied_reason = Some(format!("{object}: {reason}"));
        }
        self.deleted.denied = self.deleted.denied.saturating_add(1);
    }
}

#[cfg(test)]
#[path = "delete_tests.rs"]
mod tests;
