//! What the archive holds: histories, their bases and logs, and how they descend from one another.

use std::collections::BTreeMap;

use super::{ArchiveError, BaseManifest, HistoryDoc};
use crate::position::{Position, ReplId};

/// What the archive holds, at the moment of listing.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// The histories whose `history.json` could be read.
    pub histories: BTreeMap<ReplId, History>,
    /// Histories whose `history.json` is there but could not be read, and why. While there are any, [`Catalog::latest`] does
    /// not choose: the newest may be among them.
    pub unreadable: BTreeMap<ReplId, String>,
    /// What else was found and cannot be used, for operators: foreign objects, histories without `history.json`.
    pub problems: Vec<String>,
}

/// A history.
#[derive(Debug, Clone)]
pub struct History {
    /// Its `history.json`.
    pub doc: HistoryDoc,
    /// Its bases, by offset.
    pub bases: Vec<BaseManifest>,
    /// The first bytes of its segments, ascending (a seal counts as one). Not all of them need be part of the log.
    pub log: Vec<u64>,
    /// Objects of it that cannot be used, for operators.
    pub problems: Vec<String>,
}

/// Several histories could be meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("several histories could be meant, name one of them: {}", join(.0))]
pub struct Ambiguous(pub Vec<ReplId>);

fn join(ids: &[ReplId]) -> String {
    let ids: Vec<&str> = ids.iter().map(ReplId::as_str).collect();
    ids.join(", ")
}

impl Catalog {
    /// From `id` (offset `u64::MAX`) up to the root: each ancestor with the last offset that `id` shares with it. It stops
    /// before an ancestor that is not in the catalog.
    pub fn lineage(&self, id: ReplId) -> Result<Vec<Position>, ArchiveError> {
        let _ = id;
        todo!()
    }

    /// Has it, or an ancestor at or below the offset where `id` left it, a base?
    #[must_use]
    pub fn is_restorable(&self, id: ReplId) -> bool {
        let _ = id;
        todo!()
    }

    /// The history that goes on: of the restorable ones that no other restorable one names as `parent` or `previous`, the only
    /// one that `service` wrote, or else the only one. None: there is nothing to restore.
    pub fn latest(&self, service: Option<&str>) -> Result<Option<ReplId>, Ambiguous> {
        let _ = service;
        todo!()
    }
}
