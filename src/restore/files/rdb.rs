//! Any point as an ordinary RDB file: the snapshot, with the log applied to it.

use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use tokio::sync::oneshot;

use crate::archive::Archive;
use crate::rebuild::{self, Counts, Limits, RebuildError, Stand};
use crate::recovery::content::{snapshot, source};
use crate::recovery::expected_keys::{self, Expected};
use crate::recovery::plan::Plan;
use crate::recovery::progress::{Progress, Stage};
use crate::restore::error::RestoreError;
use crate::restore::files::{self, FileBytes};

/// Refuses what cannot be written, before anything is read.
///
/// # Errors
/// [`RestoreError::InTheWay`], [`RestoreError::File`].
pub(crate) async fn preflight(path: &Path, force: bool) -> Result<(), RestoreError> {
    if tokio::fs::metadata(path).await.is_ok_and(|it| it.is_dir()) {
        return Err(RestoreError::File {
            path: path.to_owned(),
            source: std::io::ErrorKind::IsADirectory.into(),
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

/// Writes the data set at the plan's end to `path`, without a replication position, because it is a fork. Returns its
/// length, and what it holds.
///
/// # Errors
/// [`RestoreError::NotASnapshot`] when a command of the log cannot be applied.
pub(crate) async fn write(
    archive: &Archive,
    plan: &Plan,
    path: &Path,
    memory_limit: usize,
    progress: &dyn Progress,
) -> Result<(u64, Expected), RestoreError> {
    let (content, counts) = if plan.bytes_log() == 0 {
        let (length, content) = snapshot(archive, &plan.base, true).await?;
        progress.stage(Stage::Snapshot, Some(length));
        (files::stored(content), None)
    } else {
        progress.stage(Stage::Log, Some(plan.bytes_log()));
        let (content, counts) = applied(archive, plan, memory_limit).await?;
        progress.stage(Stage::Snapshot, Some(plan.bytes_base()));
        (content, Some(counts))
    };
    let unfinished = files::temporary(path);
    files::remove_leftover(&unfinished).await?;
    let bytes = files::write(&unfinished, [content], progress).await?;
    files::rename(&unfinished, path).await?;
    let held = match counts {
        None => expected_keys::of_base(&plan.base),
        Some(counts) => counts.await.map_or_else(
            |_| Expected::Unknown("they were not counted".to_owned()),
            Expected::Known,
        ),
    };
    Ok((bytes, held))
}

async fn applied(
    archive: &Archive,
    plan: &Plan,
    memory_limit: usize,
) -> Result<(FileBytes, oneshot::Receiver<Counts>), RestoreError> {
    let limits = Limits {
        memory: memory_limit,
        log: u64::MAX,
    };
    let source = source(archive, plan);
    let survey = rebuild::survey(&source, limits).await?;
    if let Some(why) = survey.stop {
        return Err(RestoreError::NotASnapshot {
            goal: plan.recovery_target.to_string(),
            end: plan.end.offset,
            reachable: survey.end.offset,
            why: Box::new(why),
        });
    }
    if survey.end.offset != plan.end.offset {
        return Err(RebuildError::Incomplete(survey.end.offset).into());
    }
    let (bytes, counts) = rebuild::write_counted(source, survey, Stand::Nowhere, limits);
    Ok((bytes.map_err(RestoreError::from).boxed(), counts))
}
