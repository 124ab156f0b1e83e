//! A snapshot and the log after it as append-only files. A server loads them when it starts, without replication
//! (PROTOCOL.md E.6).

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::fs;

use crate::archive::Archive;
use crate::recovery::content::{LogForm, log, snapshot};
use crate::recovery::plan::Plan;
use crate::recovery::progress::{Progress, Stage};
use crate::restore::error::RestoreError;
use crate::restore::files;
use crate::restore::server::compatibility::Server;

/// The default names of servers (`appenddirname`, `appendfilename`).
const DIRECTORY: &str = "appendonlydir";
const FILE: &str = "appendonly.aof";
const BASE: &str = "appendonly.aof.1.base.rdb";
const INCREMENT: &str = "appendonly.aof.1.incr.aof";
const MANIFEST: &str = "appendonly.aof.manifest";
const MANIFEST_TEXT: &str = "file appendonly.aof.1.base.rdb seq 1 type b\n\
                             file appendonly.aof.1.incr.aof seq 1 type i\n";

/// How the append-only file is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AofLayout {
    /// The layout of the server that was backed up.
    #[default]
    Auto,
    /// `appendonlydir/`: Redis 7.0 and later, Valkey.
    Directory,
    /// One file `appendonly.aof`: Redis up to 6.2, KeyDB.
    Single,
}

impl AofLayout {
    /// Decides `Auto`. A server of unknown version counts as a current one.
    #[must_use]
    pub fn for_plan(self, plan: &Plan) -> Self {
        let server = &plan.base.server;
        match (self, Server::named(&server.flavour, &server.version)) {
            (Self::Auto, Some(server)) if !server.has_aof_directory() => Self::Single,
            (Self::Auto, _) => Self::Directory,
            (chosen, _) => chosen,
        }
    }
}

/// Refuses a directory that has an append-only file, and what is no directory.
pub(crate) async fn preflight(directory: &Path, force: bool) -> Result<(), RestoreError> {
    if fs::metadata(directory).await.is_ok_and(|it| !it.is_dir()) {
        return Err(RestoreError::File {
            path: directory.to_owned(),
            source: std::io::ErrorKind::NotADirectory.into(),
        });
    }
    if force {
        return Ok(());
    }
    for (name, reason) in [
        (DIRECTORY, "holds append-only files"),
        (FILE, "is an append-only file"),
    ] {
        let path = directory.join(name);
        if files::exists(&path).await? && !is_empty_directory(&path).await {
            return Err(RestoreError::InTheWay { path, reason });
        }
    }
    Ok(())
}

async fn is_empty_directory(path: &Path) -> bool {
    match fs::read_dir(path).await {
        Ok(mut entries) => matches!(entries.next_entry().await, Ok(None)),
        Err(_) => false,
    }
}

/// Writes the append-only files below `directory`, which will be the server's `dir`. Returns what was made.
pub(crate) async fn write(
    archive: &Archive,
    plan: &Plan,
    directory: &Path,
    layout: AofLayout,
    progress: &dyn Progress,
) -> Result<PathBuf, RestoreError> {
    fs::create_dir_all(directory)
        .await
        .map_err(|source| files::file_error(directory, source))?;
    if layout.for_plan(plan) == AofLayout::Single {
        write_single(archive, plan, &directory.join(FILE), progress).await
    } else {
        write_directory(archive, plan, &directory.join(DIRECTORY), progress).await
    }
}

/// RDB and log in one file.
async fn write_single(
    archive: &Archive,
    plan: &Plan,
    path: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, RestoreError> {
    let unfinished = files::temporary(path);
    files::remove_leftover(&unfinished).await?;
    let (length, base) = snapshot(archive, &plan.base, true).await?;
    progress.stage(
        Stage::Snapshot,
        Some(length.saturating_add(plan.bytes_log())),
    );
    let log = log(archive, plan, LogForm::Replay);
    files::write(
        &unfinished,
        [files::stored(base), files::stored(log)],
        progress,
    )
    .await?;
    files::rename(&unfinished, path).await?;
    Ok(path.to_owned())
}

/// The whole directory is made under another name. It counts when it is renamed.
async fn write_directory(
    archive: &Archive,
    plan: &Plan,
    path: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, RestoreError> {
    let unfinished = files::temporary(path);
    files::remove_leftover(&unfinished).await?;
    let fail = |source| files::file_error(&unfinished, source);
    fs::create_dir(&unfinished).await.map_err(fail)?;
    let (length, base) = snapshot(archive, &plan.base, true).await?;
    progress.stage(Stage::Snapshot, Some(length));
    files::write(&unfinished.join(BASE), [files::stored(base)], progress).await?;
    progress.stage(Stage::Log, Some(plan.bytes_log()));
    let log = log(archive, plan, LogForm::Replay);
    files::write(&unfinished.join(INCREMENT), [files::stored(log)], progress).await?;
    let manifest = stream::iter([Ok(Bytes::from_static(MANIFEST_TEXT.as_bytes()))]).boxed();
    files::write(&unfinished.join(MANIFEST), [manifest], &()).await?;
    files::sync_directory(&unfinished).await?;
    replace_directory(&unfinished, path).await?;
    Ok(path.to_owned())
}

/// Puts `new` in the place of `path`. The old one is removed when the new one is in place (`--force` allowed it).
async fn replace_directory(new: &Path, path: &Path) -> Result<(), RestoreError> {
    let replaced = path.with_file_name(format!(".{DIRECTORY}.backfeed-replaced"));
    files::remove_leftover(&replaced).await?;
    if files::exists(path).await? {
        files::rename(path, &replaced).await?;
    }
    files::rename(new, path).await?;
    files::remove_leftover(&replaced).await
}
