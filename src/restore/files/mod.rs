//! Writes files so that nobody ever finds half of one: under another name, then synced, then renamed.

pub(crate) mod aof;
pub(crate) mod rdb;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use tokio::fs::{self, File};
use tokio::io::{AsyncWriteExt, BufWriter};

use super::error::RestoreError;
use crate::recovery::content::Content;
use crate::recovery::progress::Progress;

/// Bytes gathered before a write: chunks of a log may be small.
const BUFFER: usize = 1 << 20;

/// What a file is made of.
pub(super) type FileBytes = BoxStream<'static, Result<Bytes, RestoreError>>;

/// A snapshot or a log of the archive, unchanged.
pub(super) fn stored(content: Content) -> FileBytes {
    content.map_err(RestoreError::from).boxed()
}

/// Writes `parts` one after the other into a new file at `path` and syncs it. Gives the number of bytes.
pub(super) async fn write(
    path: &Path,
    parts: impl IntoIterator<Item = FileBytes>,
    progress: &dyn Progress,
) -> Result<u64, RestoreError> {
    let fail = |source| file_error(path, source);
    let mut file = BufWriter::with_capacity(BUFFER, File::create(path).await.map_err(fail)?);
    let mut bytes = 0u64;
    for mut part in parts {
        while let Some(chunk) = part.next().await {
            let chunk = chunk?;
            file.write_all(&chunk).await.map_err(fail)?;
            bytes = bytes.saturating_add(chunk.len() as u64);
            progress.advance(chunk.len() as u64);
        }
    }
    file.flush().await.map_err(fail)?;
    file.into_inner().sync_all().await.map_err(fail)?;
    Ok(bytes)
}

/// Renames and makes the rename durable.
pub(super) async fn rename(from: &Path, to: &Path) -> Result<(), RestoreError> {
    fs::rename(from, to)
        .await
        .map_err(|source| file_error(to, source))?;
    sync_directory(parent(to)).await
}

/// Makes what a directory lists durable.
pub(super) async fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    let fail = |source| file_error(path, source);
    File::open(path)
        .await
        .map_err(fail)?
        .sync_all()
        .await
        .map_err(fail)
}

/// Removes what an earlier, interrupted run left under our own temporary name.
pub(super) async fn remove_leftover(path: &Path) -> Result<(), RestoreError> {
    let removed = match fs::symlink_metadata(path).await {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).await,
        Ok(_) => fs::remove_file(path).await,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|source| file_error(path, source))
}

/// The temporary name beside `path`.
pub(super) fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.backfeed-unfinished"))
}

/// The directory that a path is in.
pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Is anything there?
pub(super) async fn exists(path: &Path) -> Result<bool, RestoreError> {
    fs::try_exists(path)
        .await
        .map_err(|source| file_error(path, source))
}

pub(super) fn file_error(path: &Path, source: std::io::Error) -> RestoreError {
    RestoreError::File {
        path: path.to_owned(),
        source,
    }
}
