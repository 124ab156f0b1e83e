//! What the archive holds: histories, their bases and logs, and which history descends from which.

use std::collections::{BTreeMap, BTreeSet};

use super::usage::Kinds;
use super::{Amount, ArchiveError, BaseManifest, Extent, Floors, HistoryDoc, LogObject, Problem};
use crate::wire::position::{Offset, Position, ReplId};

/// What the archive holds, at the moment of listing.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The histories whose `history.json` could be read.
    pub histories: BTreeMap<ReplId, History>,
    /// Histories of which too little could be read, and why: `history.json`, or the manifest of the only base. While
    /// there are any, [`Catalog::latest`] does not choose, because the right one may be among them.
    pub unreadable: BTreeMap<ReplId, String>,
    /// What else was found and cannot be used: foreign objects, histories without `history.json`.
    pub problems: Vec<Problem>,
    /// All objects of the store. (They are counted where all of it is listed.)
    pub stored: Kinds,
}

/// A history.
#[derive(Debug, Clone)]
pub struct History {
    /// Its `history.json`.
    pub doc: HistoryDoc,
    /// Its bases, by offset.
    pub bases: Vec<BaseManifest>,
    /// Offsets of bases that were read from end to end and found sound since ([`super::VerdictDoc`]).
    pub verified: BTreeSet<Offset>,
    /// Bases from which a restore was tried, and when that was last, Unix milliseconds ([`super::DrillDoc`]).
    pub drilled: BTreeMap<Offset, u64>,
    /// The objects that its log is read from, ascending: spans, and the segments that none of them covers (a seal counts as
    /// one). Not all of them need be part of the log.
    pub log: Vec<LogObject>,
    /// Objects of it that cannot be used.
    pub problems: Vec<Problem>,
    /// How much of it is listed here.
    pub extent: Extent,
    /// From where on it is promised. (They are known where all of it is listed.)
    pub floors: Floors,
    /// All objects of its log: spans, the segments that they cover too, and its seal. (They are counted where all of it is listed.)
    pub stored_log: Amount,
}

/// Several histories could be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("several histories could be meant. Name one of them: {}", join(.0))]
pub struct Ambiguous(pub Vec<ReplId>);

fn join(ids: &[ReplId]) -> String {
    let ids: Vec<&str> = ids.iter().map(ReplId::as_str).collect();
    ids.join(", ")
}

impl Catalog {
    /// From `id` (offset `u64::MAX`) up to the root: each ancestor with the last offset that `id` shares with it. It
    /// stops before an ancestor that is not in the catalog. Errors: [`ArchiveError::UnknownHistory`],
    /// [`ArchiveError::Cycle`].
    pub fn lineage(&self, id: ReplId) -> Result<Vec<Position>, ArchiveError> {
        let mut history = self
            .histories
            .get(&id)
            .ok_or(ArchiveError::UnknownHistory { id })?;
        let mut shared = Offset(u64::MAX);
        let mut lineage = vec![Position {
            history: id,
            offset: shared,
        }];
        while let Some(parent) = history.doc.parent {
            let Some(found) = self.histories.get(&parent.history) else {
                break;
            };
            if lineage.iter().any(|at| at.history == parent.history) {
                return Err(ArchiveError::Cycle { id });
            }
            // Offsets continue to count from parent to child, so less is shared if an ancestor was left earlier.
            shared = shared.min(parent.offset);
            lineage.push(Position {
                history: parent.history,
                offset: shared,
            });
            history = found;
        }
        Ok(lineage)
    }

    /// Has it, or an ancestor at or below the offset where `id` left it, a base? (Of one whose bases are not listed here: none.)
    #[must_use]
    pub fn is_restorable(&self, id: ReplId) -> bool {
        self.is_restorable_at(id, Offset(u64::MAX))
    }

    /// The same for the part of `id` after `offset`: has it a base at or below that?
    #[must_use]
    pub fn is_restorable_at(&self, id: ReplId, offset: Offset) -> bool {
        let has_base = |at: &Position| {
            let history = self.histories.get(&at.history);
            let shared = at.offset.min(offset);
            history.is_some_and(|found| {
                let mut unread = found.extent.unread.keys();
                found.bases.iter().any(|base| base.offset <= shared)
                    || unread.any(|offset| *offset <= shared)
            })
        };
        self.lineage(id)
            .is_ok_and(|lineage| lineage.iter().any(has_base))
    }

    /// The ends of all lines: the restorable histories that no other restorable one comes after
    /// ([`HistoryDoc::before`]).
    #[must_use]
    pub fn tips(&self) -> Vec<&HistoryDoc> {
        let superseded = self.superseded();
        let tips = self.restorable();
        tips.filter(|doc| !superseded.contains(&doc.id)).collect()
    }

    fn restorable(&self) -> impl Iterator<Item = &HistoryDoc> {
        let all = self.histories.values().map(|history| &history.doc);
        all.filter(|doc| self.is_restorable(doc.id))
    }

    /// Those that a restorable one comes after.
    pub(super) fn superseded(&self) -> BTreeSet<ReplId> {
        let mut superseded = BTreeSet::new();
        let mut later: Vec<&HistoryDoc> = self.restorable().collect();
        while let Some(doc) = later.pop() {
            for id in doc.before().filter(|id| *id != doc.id) {
                if superseded.insert(id) {
                    later.extend(self.histories.get(&id).map(|history| &history.doc));
                }
            }
        }
        superseded
    }

    /// The latest history: among the [`Self::tips`], the only one that `service` wrote, or else the only one. None:
    /// there is nothing to restore. [`Ambiguous`] when there are several, or some that cannot be read.
    pub fn latest(&self, service: Option<&str>) -> Result<Option<ReplId>, Ambiguous> {
        let tips = self.tips();
        if !self.unreadable.is_empty() {
            let known = tips.iter().map(|doc| doc.id);
            let all: BTreeSet<ReplId> = known.chain(self.unreadable.keys().copied()).collect();
            return Err(Ambiguous(all.into_iter().collect()));
        }
        let own: Vec<ReplId> = tips
            .iter()
            .filter(|doc| service == Some(doc.service.as_str()))
            .map(|doc| doc.id)
            .collect();
        match (own.as_slice(), tips.as_slice()) {
            ([own], _) => Ok(Some(*own)),
            (_, [only]) => Ok(Some(only.id)),
            (_, []) => {
                // None, or they name each other.
                let all = self.histories.keys().copied();
                let restorable: Vec<ReplId> = all.filter(|id| self.is_restorable(*id)).collect();
                match restorable.is_empty() {
                    true => Ok(None),
                    false => Err(Ambiguous(restorable)),
                }
            }
            _ => Err(Ambiguous(tips.iter().map(|doc| doc.id).collect())),
        }
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
