//! Where a capture continues: compares what the store holds with what the server says about itself.

use super::overlap::Sample;
use super::predecessor::{self, Previous};
use crate::archive::{Aliases, Archive, ArchiveError, Catalog, LogEnd, Tip};
use crate::link::replication_info::Facts;
use crate::wire::position::{Offset, Position, ReplId};

/// What the store knows of a server's history.
#[derive(Debug)]
pub(super) struct Known {
    /// What the store holds of it, and the documents of all histories.
    pub catalog: Catalog,
    /// What servers call the histories that have a key of their own.
    pub aliases: Aliases,
    /// The history to continue, and its end.
    pub resume: Option<(ReplId, LogEnd)>,
    /// The end of its log, to be compared with what the server sends again.
    pub sample: Option<Sample>,
    /// The latest of this service.
    pub latest: Option<Tip>,
    /// How many bytes of it the server lacks: it has come up from an older snapshot, or was promoted while it was
    /// behind.
    pub lacks: Option<u64>,
    /// What a new history may come after, if the server turns out to have another history.
    pub before: Vec<Previous>,
    /// Histories of other services. They do not matter here, but they are logged.
    pub strangers: Vec<ReplId>,
}

impl Known {
    /// What this service wrote last.
    pub(super) fn last_written(&self) -> Option<Position> {
        let own = self.before.iter().find(|previous| previous.own);
        own.map(|previous| previous.at)
    }

    /// Is there nothing that anyone could restore?
    pub(super) fn is_empty(&self) -> bool {
        let mut ids = self.catalog.histories.keys();
        self.catalog.unreadable.is_empty() && !ids.any(|id| self.catalog.is_restorable(*id))
    }
}

/// Finds the point to continue from. If a server says its ids, they are used: first the history of its own id, then
/// that of its id before the promotion. If it does not (`INFO` not permitted), it is asked to continue the latest of
/// this service.
///
/// # Errors
/// [`ArchiveError`], of the store.
pub(super) async fn find(
    archive: &Archive,
    service: &str,
    said: Option<&Facts>,
) -> Result<Known, ArchiveError> {
    let mut catalog = archive.outline().await?;
    let aliases = catalog.aliases();
    let facts = said.map(|facts| facts.named(|id| aliases.key(id)));
    let facts = facts.as_ref();
    let latest = catalog.latest(Some(service)).unwrap_or_default();
    if let Some(facts) = facts {
        let ids = [facts.replid, facts.replid2.map(|(id, _)| id)];
        for id in ids.into_iter().flatten() {
            if catalog.histories.contains_key(&id) {
                load(archive, &mut catalog, id).await?;
            }
        }
    }
    let own = |id: &ReplId| {
        catalog
            .histories
            .get(id)
            .is_some_and(|history| history.doc.service == service)
    };
    let candidate = match facts {
        Some(facts) => [facts.replid, facts.replid2.map(|(id, _)| id)]
            .into_iter()
            .flatten()
            .find(|id| catalog.is_restorable(*id)),
        None => latest,
    };
    let resume = match candidate {
        Some(id) => end_of(archive, &catalog, id).await?.map(|end| (id, end)),
        None => None,
    };
    let resume = match resume {
        Some((id, end)) => {
            let end = with_last_mark(archive, &catalog, id, end).await?;
            let end = branch(archive, &catalog, id, end, facts).await?;
            Some((id, end))
        }
        None => None,
    };
    let sample = match &resume {
        Some((id, end)) if end.unbridged.is_none() => {
            Sample::of_store(archive, &catalog, *id, end).await?
        }
        _ => None,
    };
    let before = predecessor::find(archive, &catalog, service).await?;
    let end = before.iter().find(|tip| Some(tip.at.history) == latest);
    let latest = end.map(|tip| Tip::new(&catalog, tip.at));
    let is_new = |facts: &&Facts| facts.replid.is_some_and(|id| !catalog.is_restorable(id));
    let left = facts.filter(is_new).and_then(Facts::branched_off);
    let lacks = latest.as_ref().and_then(|tip| tip.lacks(left));
    let strangers = catalog
        .histories
        .keys()
        .copied()
        .filter(|id| !own(id) && catalog.is_restorable(*id) && Some(*id) != candidate)
        .collect();
    Ok(Known {
        catalog,
        aliases,
        resume,
        sample,
        latest,
        lacks,
        before,
        strangers,
    })
}

/// A log that has no time mark yet goes on after the last one of its parent: a clock that was ahead then has gone back since.
pub(super) async fn with_last_mark(
    archive: &Archive,
    catalog: &Catalog,
    id: ReplId,
    mut end: LogEnd,
) -> Result<LogEnd, ArchiveError> {
    let lineage = catalog.lineage(id).unwrap_or_default();
    for before in lineage.iter().skip(1) {
        if end.last_mark.is_some() {
            break;
        }
        let of_parent = end_of(archive, catalog, before.history).await?;
        end.last_mark = of_parent.and_then(|of_parent| of_parent.last_mark);
    }
    Ok(end)
}

/// Lists the newest base of a lineage, and the log after it, as far as there is one.
async fn load(archive: &Archive, catalog: &mut Catalog, id: ReplId) -> Result<(), ArchiveError> {
    match archive.load(catalog, id, Offset(u64::MAX)).await {
        Err(ArchiveError::Cycle { .. } | ArchiveError::UnknownHistory { .. }) => Ok(()),
        loaded => loaded,
    }
}

/// A server that was promoted, and had not received all that is stored of its old history, goes on from the point that it has.
/// (That is so for a replica that was behind, for a master that took writes while another was promoted, and for a server that
/// has restarted from an older RDB.) The log is left there; what lies beyond stays in the store, and in no restore point
/// of the new history.
async fn branch(
    archive: &Archive,
    catalog: &Catalog,
    id: ReplId,
    end: LogEnd,
    facts: Option<&Facts>,
) -> Result<LogEnd, ArchiveError> {
    let shared = match facts.and_then(Facts::branched_off) {
        Some((old, shared)) if old == id && shared < end.boundary.offset => shared,
        _ => return Ok(end),
    };
    match archive.boundary_at(catalog, id, shared).await {
        Ok(Some(boundary)) => {
            tracing::warn!(
                history = %id, stored = %end.end, shared = %shared,
                "when it was promoted, the server lacked the last {} bytes of its old history. The new history \
                 continues without them. They stay in the store: a restore that names history {id} restores them",
                end.end.since(shared)
            );
            Ok(LogEnd { boundary, ..end })
        }
        Ok(None) => Ok(end),
        Err(error @ ArchiveError::Store(_)) => Err(error),
        Err(error) => {
            tracing::warn!(history = %id, %error, "this log cannot be left at offset {shared}, where the server left it");
            Ok(end)
        }
    }
}

/// The end of a log. If it is damaged, a live server must still have a backup: then a new snapshot is taken.
pub(super) async fn end_of(
    archive: &Archive,
    catalog: &Catalog,
    id: ReplId,
) -> Result<Option<LogEnd>, ArchiveError> {
    match archive.log_end(catalog, id).await {
        Ok(end) => Ok(Some(end)),
        Err(error @ ArchiveError::Store(_)) => Err(error),
        Err(error) => {
            tracing::warn!(
                history = %id, %error,
                "the end of this log cannot be determined, so it cannot be continued"
            );
            Ok(None)
        }
    }
}
