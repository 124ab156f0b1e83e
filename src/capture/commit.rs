//! What makes a received snapshot a restore point.

use std::pin::Pin;
use std::time::Duration;

use tokio::task::JoinError;

use super::full_sync::{FullSyncError, Received};
use super::log_writer::LogWriter;
use super::predecessor::{self, Previous};
use super::resume;
use crate::archive::{AppendError, Archive, ArchiveError, BaseManifest, Gap, HistoryDoc};
use crate::wire::position::{Boundary, Offset, Position};

/// How long the rest of an older history may take to be stored before it is sealed as it is.
const OLD_LOG_LIMIT: Duration = Duration::from_secs(30);

/// The snapshot, and where the log continues.
pub(super) type Committed = Result<(BaseManifest, Joined), FullSyncError>;
pub(super) type Committing = Pin<Box<dyn Future<Output = Result<Committed, JoinError>> + Send>>;

/// Where the log continues after a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Joined {
    /// After this offset.
    pub(super) stored: Offset,
    /// The last time mark before: the marks of one log do not go back.
    pub(super) last_mark_ms: Option<i64>,
}

/// What makes a received snapshot count.
pub(super) struct Commit {
    pub(super) archive: Archive,
    pub(super) writer: String,
    pub(super) now_unix_ms: i64,
    pub(super) received: Received,
    /// The log of what was captured before.
    pub(super) old: Option<LogWriter>,
    /// The histories that `doc` comes after, as they were before the transfer.
    pub(super) before: Vec<Previous>,
    pub(super) doc: HistoryDoc,
    /// We are the sidecar of one Redis, whose history the latest one is.
    pub(super) is_sole: bool,
    /// Nothing is stored that this history could continue.
    pub(super) is_first: bool,
}

impl Commit {
    /// Writes the history, the seal of the one before, and the manifest last. Returns the manifest with the offset
    /// after which the log continues: that of the snapshot, or the end of what another writer of this history has
    /// stored.
    pub(super) async fn run(mut self) -> Committed {
        // What the earlier server had sent comes first: it was received, whatever happens to the snapshot.
        let old_end = self.drain_old().await;
        let Self {
            archive,
            writer,
            now_unix_ms,
            received,
            mut before,
            mut doc,
            is_sole,
            is_first,
            ..
        } = self;
        let manifest = received
            .finish(&archive, doc.server.clone(), now_unix_ms)
            .await?;
        // What we have stored of it ourselves shows no other writer.
        for previous in &mut before {
            let ours = old_end.map(|(stored, _)| stored);
            if let Some(ours) = ours.filter(|ours| ours.history == previous.at.history) {
                previous.end = previous.end.max(ours.offset);
            }
        }
        for previous in before.iter_mut().filter(|previous| is_sole && previous.own) {
            if predecessor::has_grown(&archive, previous).await? {
                return Err(FullSyncError::Twin(previous.at.history));
            }
        }
        let mut ends = Vec::new();
        if let Some((stored, boundary)) = old_end.filter(|(old, _)| old.history != doc.id) {
            ends.push(stored);
            doc.comes_after(boundary);
        }
        ends.extend(predecessor::name(&archive, &before, &mut doc).await?);
        // The line of a sidecar's store is one: what does not come after all of it must not begin beside it.
        let is_left_out = |previous: &&Previous| {
            let id = previous.at.history;
            is_sole && previous.own && id != doc.id && doc.before().all(|named| named != id)
        };
        if let Some(left_out) = before.iter().find(is_left_out) {
            return Err(FullSyncError::Twin(left_out.at.history));
        }
        // Another listener that finds the seal asks its server which history it has now. Only the store knows a derived
        // key.
        let is_own_key = doc.replid.is_some();
        if !is_own_key {
            predecessor::seal(&archive, &ends, &doc, &writer, now_unix_ms).await?;
        }
        if is_sole && is_first && doc.previous.is_none() {
            archive.begin_first(&doc, Some(&manifest), &writer).await?;
        } else {
            let begun = archive.begin_history(&doc, Some(&manifest), &writer);
            begun.await?;
        }
        archive.commit_base(&manifest).await?;
        if is_own_key {
            // Of two that begin it, the first says what it comes after.
            let catalog = archive.only(doc.id).await?;
            let stored = catalog.histories.get(&doc.id);
            ends.extend(stored.iter().flat_map(|stored| stored.doc.replaced()));
            predecessor::seal(&archive, &ends, &doc, &writer, now_unix_ms).await?;
        }
        let goes_on = join_log(&archive, &manifest, &writer).await?;
        Ok((manifest, goes_on))
    }

    /// Stores the rest of an older log, as far as that works in time. What is not stored was never acknowledged.
    /// Returns what is stored of it, and its last boundary.
    async fn drain_old(&mut self) -> Option<(Position, Position)> {
        let old = self.old.take()?;
        let _ = tokio::time::timeout(OLD_LOG_LIMIT, old.drain()).await;
        Some(old.buffer(|buffer| {
            let boundary = Position {
                history: buffer.history(),
                offset: buffer.stored_boundary().offset,
            };
            (buffer.stored(), boundary)
        }))
    }
}

/// Other writers may have stored a part of this history before the snapshot. The log stays one chain: ours continues
/// where theirs ends, or a bridge covers the gap up to the snapshot. Any other writer will meet the bridge, as it would
/// meet a seal.
async fn join_log(
    archive: &Archive,
    base: &BaseManifest,
    writer: &str,
) -> Result<Joined, FullSyncError> {
    let mut joined = Joined {
        stored: base.offset,
        last_mark_ms: None,
    };
    loop {
        let mut catalog = archive.outline().await?;
        archive.list_whole(&mut catalog, base.history).await?;
        if let Some(history) = catalog.histories.get_mut(&base.history) {
            // Before another one's, ours counts: whoever goes on behind that one bridges what is between, as the other does.
            if history
                .bases
                .iter()
                .all(|other| other.offset <= base.offset)
            {
                history.bases.retain(|other| other.offset != base.offset);
            }
            if history.bases.is_empty() && history.log.is_empty() && history.doc.parent.is_none() {
                return Ok(joined);
            }
        }
        let end = match archive.log_end(&catalog, base.history).await {
            Ok(end) => end,
            Err(error @ ArchiveError::Store(_)) => return Err(error.into()),
            Err(error) => {
                if let Some(seal) = archive.last_seal(&catalog, base.history).await? {
                    return Err(FullSyncError::Sealed(Box::new(seal)));
                }
                if matches!(error, ArchiveError::NothingStored { .. }) {
                    return Ok(joined);
                }
                tracing::warn!(%error, "the log before this snapshot is damaged; it continues after the snapshot");
                return Ok(joined);
            }
        };
        let end = resume::with_last_mark(archive, &catalog, base.history, end).await?;
        joined.last_mark_ms = end.last_mark.map(|mark| mark.unix_ms);
        if let Some(seal) = end.sealed {
            return Err(FullSyncError::Sealed(Box::new(seal)));
        }
        // A process has died between a snapshot and its bridge.
        let gap = match end.unbridged {
            Some(gap) => gap,
            None if end.end >= base.offset => {
                joined.stored = end.end;
                return Ok(joined);
            }
            None => Gap {
                from: end.end,
                db: end.boundary.db,
                at_boundary: end.boundary.offset == end.end,
                to: Boundary {
                    offset: base.offset,
                    db: base.db,
                },
            },
        };
        match archive.bridge(base.history, &gap, writer).await {
            Ok(()) if gap.to.offset == base.offset => return Ok(joined),
            Ok(()) => {}
            Err(AppendError::Taken(entry)) => {
                tracing::debug!(at = %entry.start(), "another writer of this history stored it first");
            }
            Err(AppendError::Passed { next }) => {
                tracing::debug!(next, "another writer of this history has stored more");
            }
            Err(AppendError::Archive(error)) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[path = "commit_tests.rs"]
mod tests;
