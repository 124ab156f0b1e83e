//! Reading no more of an archive than is needed: the documents of all histories, and of one lineage the newest base and the log
//! after it. What that costs does not grow with the age of the archive, but for one small document a history.
//!
//! How much of a history is listed stands in its [`Extent`]. What is decided against something because it is *not* there is decided
//! by all that there is: whoever finds too little lists the rest ([`Archive::whole_line`], and [`super::chain`] by itself).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::listing::{Listed, PARALLEL_READS, data_problem, missing_parent};
use super::log_objects::to_read;

use super::names;
use super::usage::Kinds;
use super::{
    Amount, Archive, ArchiveError, BaseManifest, Catalog, Floors, History, HistoryDoc, LogObject,
    Problem,
};
use crate::store::Listing;
use crate::wire::position::{Offset, Position, ReplId};

/// Objects of the log before the one that is looked for, which are read with it ([`super::chain`]).
const BEFORE: usize = super::chain::LOOK_BACK;

/// So many bytes of log before a base are listed with what comes after it. A base may stand within a segment, or behind the end of
/// the log: then it is more, until there are names enough. After the last, all are listed.
const STEPS: [u64; 3] = [32 << 10, 4 << 20, 256 << 20];

/// How much of a history is listed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extent {
    /// The names of its bases are.
    pub(super) bases: bool,
    /// Bases whose manifests were not read: where they stand, and the stored size of the data, if that is there.
    pub(super) unread: BTreeMap<Offset, Option<u64>>,
    /// Its log is, from the object with this first byte on.
    pub(super) log_from: Option<u64>,
    /// Its floors are.
    pub(super) floors: bool,
}

impl Extent {
    /// All of it.
    #[must_use]
    pub fn whole() -> Self {
        Self {
            bases: true,
            unread: BTreeMap::new(),
            log_from: Some(0),
            floors: true,
        }
    }

    /// Bases and log.
    pub(super) fn is_whole(&self) -> bool {
        self.bases && self.unread.is_empty() && self.log_from == Some(0)
    }
}

impl History {
    /// Nothing but its document is known.
    pub(super) fn of_document(doc: HistoryDoc) -> Self {
        Self {
            doc,
            bases: Vec::new(),
            verified: BTreeSet::new(),
            drilled: BTreeMap::new(),
            log: Vec::new(),
            problems: Vec::new(),
            extent: Extent::default(),
            floors: Floors::default(),
            stored_log: Amount::default(),
        }
    }

    /// Does what is listed of its log begin where the log does, or with the first byte after a base?
    pub(super) fn begins_safely(&self) -> bool {
        self.extent.is_whole() || self.begins_at_base()
    }

    /// The second of these.
    pub(super) fn begins_at_base(&self) -> bool {
        let from = self.extent.log_from.filter(|from| *from > 0);
        let mut bases = self.bases.iter().map(|base| base.offset.next_byte());
        from.is_some()
            && self.log.first().map(|object| object.first()) == from
            && bases.any(|first| Some(first) == from)
    }
}

impl Catalog {
    /// Is there more of its lineage than is listed here?
    #[must_use]
    pub fn is_partial(&self, id: ReplId) -> bool {
        let lineage = self.lineage(id).unwrap_or_default();
        let mut line = lineage
            .iter()
            .filter_map(|at| self.histories.get(&at.history));
        line.any(|history| !history.extent.is_whole() || !history.extent.floors)
    }

    /// The newest base of a lineage that is listed here, and how many objects of the log stand behind it.
    #[must_use]
    pub fn newest_base(&self, id: ReplId) -> Option<(&BaseManifest, usize)> {
        let mut segments: usize = 0;
        for span in self.lineage(id).ok()? {
            let history = self.histories.get(&span.history)?;
            let mut bases = history.bases.iter().rev();
            let base = bases.find(|base| base.offset <= span.offset);
            let from = base.map_or(0, |base| base.offset.next_byte());
            let log = history.log.iter();
            let behind =
                log.filter(|object| object.first() >= from && object.first() <= span.offset.0);
            segments = segments.saturating_add(behind.count());
            if let Some(base) = base {
                return Some((base, segments));
            }
        }
        None
    }

    /// Where the log of a lineage stands after its first `count` objects behind the newest base, if there are more.
    #[must_use]
    pub fn log_after(&self, id: ReplId, count: usize) -> Option<Offset> {
        let (base, behind) = self.newest_base(id)?;
        let mut left = count;
        for span in self.lineage(id).ok()?.into_iter().rev() {
            let history = self.histories.get(&span.history)?;
            let from = base.offset.next_byte();
            let log = history.log.iter().filter(|_| behind > count);
            let log = log.map(|object| object.first());
            let mut log = log.filter(|first| *first >= from && *first <= span.offset.0);
            let passed = log.by_ref().take(left).count();
            left = left.saturating_sub(passed);
            if let Some(first) = log.next() {
                return Some(Offset::before_byte(first));
            }
        }
        None
    }

    /// Histories that could go on, as far as is known, and of which no base has been looked for yet.
    fn undecided(&self, tried: &BTreeSet<ReplId>) -> Vec<ReplId> {
        let superseded = self.superseded();
        let open = self.histories.values().map(|history| &history.doc);
        // One with a key of its own is looked for by the id that its server says.
        let open = open.filter(|doc| !superseded.contains(&doc.id) || doc.replid.is_some());
        let open: Vec<&HistoryDoc> = open.filter(|doc| !tried.contains(&doc.id)).collect();
        let followed: BTreeSet<ReplId> = open
            .iter()
            .flat_map(|doc| doc.before().filter(|id| *id != doc.id))
            .collect();
        let all = open.iter().map(|doc| doc.id);
        let last: Vec<ReplId> = all.clone().filter(|id| !followed.contains(id)).collect();
        if last.is_empty() { all.collect() } else { last }
    }
}

impl Archive {
    /// The documents of all histories; and the newest base of each that could be the [latest](Catalog::latest). No log.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn outline(&self) -> Result<Catalog, ArchiveError> {
        let mut catalog = Catalog::default();
        let ids = self.list_ids().await?;
        self.add_documents(&mut catalog, ids).await?;
        let mut looked_up = BTreeSet::new();
        while let Some(parent) = missing_parent(&catalog, &looked_up) {
            looked_up.insert(parent);
            self.add_documents(&mut catalog, vec![parent]).await?;
        }
        let mut tried = BTreeSet::new();
        loop {
            let open = catalog.undecided(&tried);
            if open.is_empty() {
                return Ok(catalog);
            }
            let listed: Vec<_> = stream::iter(open.iter().copied())
                .map(
                    |id| async move { Ok::<_, ArchiveError>((id, self.names_of_bases(id).await?)) },
                )
                .buffered(PARALLEL_READS)
                .try_collect()
                .await?;
            for (id, listed) in listed {
                catalog.add_bases(id, listed);
            }
            for id in open {
                self.load_base(&mut catalog, id, Offset(u64::MAX)).await?;
                tried.insert(id);
            }
        }
    }

    /// Lists what a restore of `id` up to `upto` needs: the newest base of its lineage at or before that, and the log after it.
    ///
    /// # Errors
    /// [`ArchiveError::UnknownHistory`], [`ArchiveError::Cycle`], and those of the store.
    pub async fn load(
        &self,
        catalog: &mut Catalog,
        id: ReplId,
        upto: Offset,
    ) -> Result<(), ArchiveError> {
        let base = self.load_base(catalog, id, upto).await?;
        for span in catalog.lineage(id)? {
            let here = base.filter(|base| base.history == span.history);
            self.list_log(catalog, span.history, here.map(|base| base.offset))
                .await?;
            if here.is_some() || base.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Lists what tells whether `id` [can be restored](Catalog::is_restorable). An [outline](Self::outline) does not say that of
    /// a history that another one goes on from.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn list_restorable(
        &self,
        catalog: &mut Catalog,
        id: ReplId,
    ) -> Result<(), ArchiveError> {
        self.load_base(catalog, id, Offset(u64::MAX)).await?;
        Ok(())
    }

    /// `catalog` with everything that there is of the lineage of `id`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn whole_line(&self, catalog: &Catalog, id: ReplId) -> Result<Catalog, ArchiveError> {
        let mut whole = catalog.clone();
        for span in catalog.lineage(id)? {
            self.list_whole(&mut whole, span.history).await?;
        }
        Ok(whole)
    }

    /// Lists everything that there is of one history.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn list_whole(&self, catalog: &mut Catalog, id: ReplId) -> Result<(), ArchiveError> {
        let history = catalog.histories.get(&id);
        let is_whole = |history: &History| history.extent.is_whole() && history.extent.floors;
        if history.is_none_or(is_whole) {
            return Ok(());
        }
        let listed = self.names_below(&names::prefix(id)).await?;
        self.add_histories(catalog, listed).await
    }

    /// The documents of one lineage.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn add_line(&self, catalog: &mut Catalog, id: ReplId) -> Result<(), ArchiveError> {
        let mut looked_up = BTreeSet::new();
        let mut next = Some(id);
        while let Some(id) = next {
            looked_up.insert(id);
            self.add_documents(catalog, vec![id]).await?;
            next = missing_parent(catalog, &looked_up);
        }
        Ok(())
    }

    /// One history alone, without those that it descends from.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn only(&self, id: ReplId) -> Result<Catalog, ArchiveError> {
        let mut catalog = Catalog::default();
        self.add_documents(&mut catalog, vec![id]).await?;
        if catalog.histories.contains_key(&id) {
            self.load(&mut catalog, id, Offset(u64::MAX)).await?;
        }
        Ok(catalog)
    }

    /// Lists what was added to the log of `id` since it was listed. (A base that was added is found by who needs it.)
    ///
    /// # Errors
    /// As [`Self::load`].
    pub async fn refresh(&self, catalog: &mut Catalog, id: ReplId) -> Result<(), ArchiveError> {
        let known = catalog.histories.get(&id);
        let known = known.ok_or(ArchiveError::UnknownHistory { id })?;
        let Some(from) = known.extent.log_from else {
            return self.load(catalog, id, Offset(u64::MAX)).await;
        };
        // Behind the last object, or behind the last byte of a span.
        let last = known.log.last();
        let last = last.map(|object| object.last().unwrap_or(object.first()));
        let listed = self.log_names(id, last.unwrap_or(from), None).await?;
        if let Some(history) = catalog.histories.get_mut(&id) {
            let is_new = |first: &u64| last.is_none_or(|last| *first > last);
            let new = listed.into_iter().filter(is_new);
            history.log.extend(new.map(LogObject::segment));
        }
        Ok(())
    }

    /// A history with its newest base and its log, listed from that base on if it is not listed in `catalog`.
    pub(super) async fn listed_history<'c>(
        &self,
        catalog: &'c Catalog,
        id: ReplId,
    ) -> Result<Cow<'c, History>, ArchiveError> {
        let found = catalog.histories.get(&id);
        let found = found.ok_or(ArchiveError::UnknownHistory { id })?;
        // The log may go on behind a base that stands behind its end.
        let newest = found.bases.last().map(|base| base.offset);
        let last = found.extent.unread.keys().next_back();
        let has_newest = last.is_none_or(|last| Some(*last) < newest);
        if found.extent.log_from.is_some() && has_newest {
            return Ok(Cow::Borrowed(found));
        }
        let mut alone = Catalog::default();
        alone.histories.insert(id, found.clone());
        self.load(&mut alone, id, Offset(u64::MAX)).await?;
        let loaded = alone.histories.remove(&id);
        Ok(loaded.map_or(Cow::Borrowed(found), Cow::Owned))
    }

    /// All of a history.
    pub(super) async fn whole_history(&self, doc: &HistoryDoc) -> Result<History, ArchiveError> {
        let mut alone = Catalog::default();
        let listed = self.names_below(&names::prefix(doc.id)).await?;
        self.add_histories(&mut alone, listed).await?;
        Ok(alone.histories.remove(&doc.id).unwrap_or_else(|| History {
            extent: Extent::whole(),
            ..History::of_document(doc.clone())
        }))
    }

    /// The last `count` objects of a log, ascending.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn last_of_log(
        &self,
        catalog: &Catalog,
        id: ReplId,
        count: usize,
    ) -> Result<Vec<LogObject>, ArchiveError> {
        let history = self.listed_history(catalog, id).await?;
        let mut log = history.log.clone();
        let mut from = history.extent.log_from.unwrap_or(0);
        let mut steps = STEPS.into_iter();
        while log.len() < count && from > 0 {
            let next = steps.next().map_or(0, |step| from.saturating_sub(step));
            let spans = self.span_names(id, next, Some(from)).await?;
            let before = self.objects_beside(id, (next, Some(from)), spans).await?;
            log = joined(before, log);
            from = next;
        }
        let skip = log.len().saturating_sub(count);
        Ok(log.split_off(skip))
    }

    pub(super) async fn list_ids(&self) -> Result<Vec<ReplId>, ArchiveError> {
        let mut ids = Vec::new();
        let wanted = Listing::of(names::HISTORIES).folders();
        let mut found = self.store.list_with(wanted).await;
        while let Some(found) = found.try_next().await? {
            ids.extend(names::history_of(&found.name));
        }
        Ok(ids)
    }

    async fn add_documents(
        &self,
        catalog: &mut Catalog,
        ids: Vec<ReplId>,
    ) -> Result<(), ArchiveError> {
        let documents: Vec<_> = stream::iter(ids)
            .map(|id| async move { Ok::<_, ArchiveError>((id, self.history_doc(id).await?)) })
            .buffered(PARALLEL_READS)
            .try_collect()
            .await?;
        for (id, doc) in documents {
            match doc {
                Ok(doc) => {
                    catalog.histories.insert(id, History::of_document(doc));
                }
                // What else there is of it says what that means.
                Err(ArchiveError::Missing { .. }) => {
                    let listed = self.names_below(&names::prefix(id)).await?;
                    self.add_histories(catalog, listed).await?;
                }
                Err(error) => {
                    catalog.unreadable.insert(id, error.to_string());
                }
            }
        }
        Ok(())
    }

    async fn names_of_bases(&self, id: ReplId) -> Result<Listed, ArchiveError> {
        let mut listed = self.names_below(&names::bases(id)).await?;
        Ok(listed.remove(&id).unwrap_or_default())
    }

    async fn names_below(&self, prefix: &str) -> Result<BTreeMap<ReplId, Listed>, ArchiveError> {
        // What is not ours is reported by those that list everything.
        self.list_names(prefix, &mut Vec::new(), &mut Kinds::default())
            .await
    }

    /// Reads the manifest of the newest base of the lineage of `id` at or before `upto`.
    async fn load_base(
        &self,
        catalog: &mut Catalog,
        id: ReplId,
        upto: Offset,
    ) -> Result<Option<Position>, ArchiveError> {
        for span in catalog.lineage(id).unwrap_or_default() {
            let is_listed = |history: &History| history.extent.bases;
            if !catalog.histories.get(&span.history).is_some_and(is_listed) {
                let listed = self.names_of_bases(span.history).await?;
                catalog.add_bases(span.history, listed);
            }
            let shared = span.offset.min(upto);
            let newest = self.newest_of(catalog, span.history, shared).await?;
            if newest.is_some() {
                return Ok(newest);
            }
        }
        Ok(None)
    }

    /// Of one history. One whose manifest cannot be read is passed over.
    async fn newest_of(
        &self,
        catalog: &mut Catalog,
        id: ReplId,
        upto: Offset,
    ) -> Result<Option<Position>, ArchiveError> {
        loop {
            let Some(history) = catalog.histories.get_mut(&id) else {
                return Ok(None);
            };
            let read = history.bases.iter().map(|base| base.offset);
            let read = read.filter(|offset| *offset <= upto).max();
            let unread = history.extent.unread.range(..=upto).next_back();
            let Some((offset, stored)) = unread
                .map(|(offset, stored)| (*offset, *stored))
                .filter(|(offset, _)| read.is_none_or(|read| *offset > read))
            else {
                return Ok(read.map(|offset| Position {
                    history: id,
                    offset,
                }));
            };
            let at = Position {
                history: id,
                offset,
            };
            history.extent.unread.remove(&offset);
            match self.manifest(at).await? {
                Ok(manifest) => {
                    if stored.is_some() || !self.has_data(&manifest).await? {
                        history.problems.extend(data_problem(&manifest, stored));
                    }
                    history.bases.push(manifest);
                    history.bases.sort_by_key(|base| base.offset);
                }
                Err(error) => {
                    let is_last = history.bases.is_empty() && history.extent.unread.is_empty();
                    if is_last {
                        catalog.unreadable.insert(id, error.to_string());
                    }
                    history.problems.push(Problem::Manifest { base: at, error });
                }
            }
        }
    }

    /// Lists a log from the base at `after` on, or all of it. Spans come first: what they cover need not be listed.
    async fn list_log(
        &self,
        catalog: &mut Catalog,
        id: ReplId,
        after: Option<Offset>,
    ) -> Result<(), ArchiveError> {
        let wanted = after.map_or(0, Offset::next_byte);
        let Some(history) = catalog.histories.get_mut(&id) else {
            return Ok(());
        };
        if history.extent.log_from.is_some_and(|from| from <= wanted) {
            return Ok(());
        }
        let mut steps = STEPS.into_iter();
        let first_step = steps.next().unwrap_or_default();
        let mut from = wanted.saturating_sub(first_step);
        let mut spans = self.span_names(id, from, None).await?;
        let holding = spans.iter().filter(|span| span.covers(wanted));
        let mut begin = from;
        if let Some(span) = holding.max_by_key(|span| span.last()) {
            // Nothing before it is needed.
            (from, begin) = (span.first(), span.first());
            spans.retain(|span| span.first() >= begin);
        } else if wanted == 0
            && let Some(parent) = history.doc.parent
        {
            begin = parent.offset.next_byte();
        }
        let mut log = self.objects_beside(id, (begin, None), spans).await?;
        if !is_joined(&log, wanted.max(begin)) {
            // What was not listed may have been merged and deleted between the two lists: deletion begins with the oldest.
            let spans = self.span_names(id, begin, None).await?;
            log = joined(spans, log);
        }
        loop {
            let before = log.partition_point(|object| object.first() < wanted);
            if from == 0 || before >= BEFORE {
                break;
            }
            if log.get(before).is_some_and(|it| it.first() == wanted) {
                // Long segments, or a span: the log goes on behind the base.
                log.drain(..before);
                from = wanted;
                break;
            }
            if log.iter().any(|object| object.covers(wanted)) {
                break;
            }
            let next = steps.next().map_or(0, |step| wanted.saturating_sub(step));
            let spans = self.span_names(id, next, Some(from)).await?;
            let earlier = self.objects_beside(id, (next, Some(from)), spans).await?;
            log = joined(earlier, log);
            from = next;
        }
        history.log = log;
        history.extent.log_from = Some(from);
        Ok(())
    }
}

/// Is there an object that may hold this byte, and does what follows the spans join them?
fn is_joined(log: &[LogObject], wanted: u64) -> bool {
    let begins = log.first().is_none_or(|object| object.first() <= wanted);
    let mut pairs = log.iter().zip(log.iter().skip(1));
    begins
        && pairs.all(|(object, next)| {
            object
                .last()
                .is_none_or(|last| next.first() <= last.saturating_add(1))
        })
}

/// What is listed of a log before and after a byte. A span before it may reach beyond.
fn joined(before: Vec<LogObject>, after: Vec<LogObject>) -> Vec<LogObject> {
    let all = before.into_iter().chain(after);
    let (spans, log): (Vec<_>, Vec<_>) = all.partition(|object| object.last().is_some());
    to_read(spans, log.into_iter().map(LogObject::first).collect())
}

impl Catalog {
    /// The names of a history's bases were listed.
    fn add_bases(&mut self, id: ReplId, listed: Listed) {
        let Some(history) = self.histories.get_mut(&id) else {
            return;
        };
        if history.extent.bases {
            return;
        }
        let manifests = listed.manifests.iter();
        let unread = manifests.map(|offset| (Offset(*offset), listed.data.get(offset).copied()));
        history.extent.unread = unread.collect();
        history.extent.bases = true;
        history.verified = listed.verdicts.iter().copied().map(Offset).collect();
        history.drilled = listed.drills;
    }
}

#[cfg(test)]
#[path = "outline_tests.rs"]
mod tests;
