//! What makes a received snapshot a restore point.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::full_sync::{FullSyncError, Received};
use super::log_writer::{self, LogWriter};
use crate::archive::{Archive, BaseManifest, Catalog, HistoryDoc};
use crate::position::Position;

/// How long the rest of an older history may take to be stored before it is sealed as it is.
const OLD_LOG_LIMIT: Duration = Duration::from_secs(30);

pub(super) type Committing = JoinHandle<Result<BaseManifest, FullSyncError>>;

/// What makes a received snapshot count.
pub(super) struct Commit {
    pub(super) archive: Archive,
    pub(super) writer: String,
    pub(super) now_unix_ms: i64,
    pub(super) received: Received,
    /// The log of what was captured before.
    pub(super) old: Option<LogWriter>,
    pub(super) catalog: Catalog,
    pub(super) doc: HistoryDoc,
}

impl Commit {
    /// History, seal of the one before, and the manifest last.
    pub(super) async fn run(self) -> Result<BaseManifest, FullSyncError> {
        let Self {
            archive,
            writer,
            now_unix_ms,
            received,
            old,
            catalog,
            mut doc,
        } = self;
        let manifest = received
            .finish(&archive, doc.server.clone(), now_unix_ms)
            .await?;
        let mut to_seal = None;
        if let Some(old) = old {
            // Of what does not come to be stored in time nothing was acknowledged.
            let _ = tokio::time::timeout(OLD_LOG_LIMIT, old.drain()).await;
            let (stored, boundary) = old.tail(|tail| (tail.stored(), tail.stored_boundary()));
            if stored.history != doc.id {
                doc.previous = Some(Position {
                    history: stored.history,
                    offset: boundary.offset,
                });
                to_seal = Some(stored);
            }
        } else if let Some(previous) = doc.previous {
            let end = archive.log_end(&catalog, previous.history).await?;
            to_seal = Some(Position {
                history: previous.history,
                offset: end.end,
            });
        }
        if let Some(end) = to_seal {
            let reason = format!("the server has another history now: {}", doc.id);
            log_writer::seal(
                &archive,
                end.history,
                end.offset,
                &reason,
                &writer,
                now_unix_ms,
            )
            .await?;
        }
        archive.create_history(&doc).await?;
        archive.commit_base(&manifest).await?;
        Ok(manifest)
    }
}
