//! A snapshot as an ordinary RDB file.

use std::path::Path;

use super::error::RestoreError;
use super::files;
use super::plan::Plan;
use super::progress::{Progress, Stage};
use super::stream::snapshot;
use crate::archive::Archive;

/// Refuses what cannot be written, before anything is read.
///
/// # Errors
/// [`RestoreError::NotASnapshot`] when there is a log after the snapshot, [`RestoreError::InTheWay`].
pub(super) async fn preflight(plan: &Plan, path: &Path, force: bool) -> Result<(), RestoreError> {
    if plan.end.offset != plan.base.offset {
        return Err(RestoreError::NotASnapshot {
            base: plan.base.offset,
            end: plan.end.offset,
            bytes: plan.bytes_log(),
            goal: plan.when.to_string(),
        });
    }
    if !force && files::exists(path).await? {
        return Err(RestoreError::InTheWay {
            path: path.to_owned(),
            reason: "exists already",
        });
    }
    Ok(())
}

/// Writes the snapshot to `path`, without its replication position: it is a fork. Gives its length.
pub(super) async fn write(
    archive: &Archive,
    plan: &Plan,
    path: &Path,
    progress: &dyn Progress,
) -> Result<u64, RestoreError> {
    let (length, content) = snapshot(archive, &plan.base, true).await?;
    progress.stage(Stage::Snapshot, Some(length));
    let unfinished = files::temporary(path);
    files::remove_leftover(&unfinished).await?;
    let bytes = files::write(&unfinished, [content], progress).await?;
    files::rename(&unfinished, path).await?;
    Ok(bytes)
}
