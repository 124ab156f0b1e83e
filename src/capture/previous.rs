//! What this service wrote before, when what it captures now does not descend from it. It is sealed, and the new history says
//! that it comes after it: what the service wrote last is the latest, without a clock.

use super::log_writer;
use super::resume::end_of;
use crate::archive::{Archive, ArchiveError, Catalog, HistoryDoc};
use crate::position::{Offset, Position, ReplId};

/// A history that nothing comes after, and its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Previous {
    /// The last point of it that can be restored.
    pub at: Position,
    /// Where its log ends.
    pub end: Offset,
    /// The service that wrote it is this one.
    pub own: bool,
    /// It, its parent, and so on.
    pub lineage: Vec<ReplId>,
}

/// All of them, those of this service first.
pub(super) async fn find(
    archive: &Archive,
    catalog: &Catalog,
    service: &str,
) -> Result<Vec<Previous>, ArchiveError> {
    let mut found = Vec::new();
    for doc in catalog.tips() {
        let lineage = catalog.lineage(doc.id).unwrap_or_default();
        if let Some(end) = end_of(archive, catalog, doc.id).await? {
            found.push(Previous {
                at: Position {
                    history: doc.id,
                    offset: end.boundary.offset,
                },
                end: end.end,
                own: doc.service == service,
                lineage: lineage.iter().map(|line| line.history).collect(),
            });
        }
    }
    found.sort_by_key(|previous| !previous.own);
    Ok(found)
}

/// Those that a branch of `parent` replaces: what this service wrote; and, if the `store` is one Redis' alone (a sidecar's), what
/// others wrote of the same data before.
pub(super) fn of_branch(before: &[Previous], parent: ReplId, store_is_ours: bool) -> Vec<Previous> {
    let before = before.iter().filter(|previous| {
        let of_the_same = store_is_ours && previous.lineage.contains(&parent);
        previous.at.history != parent && (previous.own || of_the_same)
    });
    before.cloned().collect()
}

/// Seals each, unless it is written just now, and notes in `doc` that it comes after it.
pub(super) async fn replace(
    archive: &Archive,
    before: &[Previous],
    doc: &mut HistoryDoc,
    writer: &str,
    now_unix_ms: i64,
) -> Result<(), ArchiveError> {
    for previous in before {
        let id = previous.at.history;
        if id == doc.id || doc.before().any(|known| known == id) {
            continue;
        }
        if is_written(archive, previous).await? {
            warn_of_twin(id, doc);
            continue;
        }
        let reason = format!("the server has another history now: {}", doc.id);
        log_writer::seal(archive, id, previous.end, &reason, writer, now_unix_ms).await?;
        doc.comes_after(previous.at);
    }
    Ok(())
}

/// Has its log grown since it was looked at? Then its writer, and so its server, is alive.
pub(super) async fn is_written(archive: &Archive, before: &Previous) -> Result<bool, ArchiveError> {
    let catalog = archive.catalog().await?;
    match archive.log_end(&catalog, before.at.history).await {
        Ok(end) => Ok(end.end > before.end),
        Err(error @ ArchiveError::Store(_)) => Err(error),
        Err(_) => Ok(false),
    }
}

fn warn_of_twin(history: ReplId, doc: &HistoryDoc) {
    tracing::warn!(
        %history, service = doc.service,
        "the store holds a history of the same name that another backfeed writes just now: another server. They are kept \
         apart. Give each server a store (or prefix) of its own, and `latest` needs no --history"
    );
}
