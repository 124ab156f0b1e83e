//! What this service wrote before, when it now captures something that does not descend from it. The old history is
//! sealed, and the new history says that it comes after the old one. So what the service wrote last is the latest,
//! without a clock.

use std::time::Duration;

use tokio::time::sleep;

use super::resume::end_of;
use crate::archive::{Archive, ArchiveError, Catalog, HistoryDoc};
use crate::wire::position::{Offset, Position, ReplId};

/// A log that has grown at each of so many looks, with such a pause before each, is being written by another server.
const LOOKS: u32 = 3;
const LOOK_PAUSE: Duration = Duration::from_secs(1);

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

/// The histories that a branch of `parent` replaces: what this service wrote, and, if the `store` belongs to one Redis
/// (a sidecar's store), what others wrote of the same data before.
pub(super) fn of_branch(before: &[Previous], parent: ReplId, store_is_ours: bool) -> Vec<Previous> {
    let before = before.iter().filter(|previous| {
        let of_the_same = store_is_ours && previous.lineage.contains(&parent);
        previous.at.history != parent && (previous.own || of_the_same)
    });
    before.cloned().collect()
}

/// Notes in `doc` that it comes after each of these, except those that are being written now. Returns where they end,
/// to be [sealed](seal).
pub(super) async fn name(
    archive: &Archive,
    before: &[Previous],
    doc: &mut HistoryDoc,
) -> Result<Vec<Position>, ArchiveError> {
    let mut ends = Vec::new();
    for mut previous in before.iter().cloned() {
        let id = previous.at.history;
        if id == doc.id || doc.before().any(|known| known == id) {
            continue;
        }
        if is_written(archive, &mut previous).await? {
            warn_of_twin(id, doc);
            continue;
        }
        doc.comes_after(previous.at);
        ends.push(Position {
            offset: previous.end,
            ..previous.at
        });
    }
    Ok(ends)
}

/// Seals what `doc` comes after.
pub(super) async fn seal(
    archive: &Archive,
    ends: &[Position],
    doc: &HistoryDoc,
    writer: &str,
    now_unix_ms: i64,
) -> Result<(), ArchiveError> {
    let reason = format!("the server has another history now: {}", doc.id);
    for end in ends {
        archive.seal_end(*end, &reason, writer, now_unix_ms).await?;
    }
    Ok(())
}

/// Has its log grown since it was looked at?
pub(super) async fn has_grown(
    archive: &Archive,
    before: &mut Previous,
) -> Result<bool, ArchiveError> {
    let catalog = archive.only(before.at.history).await?;
    match archive.log_end(&catalog, before.at.history).await {
        Ok(end) if end.end > before.end => {
            before.end = end.end;
            before.at.offset = end.boundary.offset;
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error @ ArchiveError::Store(_)) => Err(error),
        Err(_) => Ok(false),
    }
}

/// Does its log grow at look after look? Then its writer is alive, and so is its server. (Another listener of our
/// server may be storing the rest of what that server had sent.)
async fn is_written(archive: &Archive, before: &mut Previous) -> Result<bool, ArchiveError> {
    for look in 0..LOOKS {
        if look > 0 {
            sleep(LOOK_PAUSE).await;
        }
        if !has_grown(archive, before).await? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn warn_of_twin(history: ReplId, doc: &HistoryDoc) {
    tracing::warn!(
        %history, service = doc.service,
        "another backfeed is writing a history of the same name, so this is another server. Both are kept apart. Give \
         each server a store or prefix of its own; then the latest history need not be named"
    );
}
