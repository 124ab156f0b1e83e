//! Objects as files below a directory (`file:///path`).
//!
//! An object is written to a temporary file. The file is fsynced, and then hard-linked to its name. A link is either
//! made, or finds that the name is taken. So the create is atomic, happens once, and survives a crash at any moment. A
//! filesystem without hard links (exFAT, many FUSE mounts) cannot hold a store.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::task::JoinHandle;

use super::file_walk::Walk;
use super::{
    ByteStream, Created, Listing, ObjectMeta, Store, StoreError, Upload, byte_range, check_name,
};
use crate::runtime::buffers::Buffers;

/// Where temporary files are, in the store's directory: the same filesystem, and never listed.
pub(super) const TEMPORARY: &str = ".tmp";

/// The filesystem's own directory at its root. Often only root may read it. A store in a fresh volume is empty in spite
/// of it.
pub(super) const LOST_AND_FOUND: &str = "lost+found";

/// Bytes of one piece of a read. It is so large that the switch to the blocking pool costs almost nothing in
/// comparison.
const READ_PIECE: u64 = 512 << 10;

/// Names that the directory walk returns at once. It waits when nobody takes them.
const LIST_PAGE: usize = 500;

/// Temporary files that nobody has written to for this long belong to a process that died: no upload pauses for a day.
const STALE_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// An upload flushes to the disk each time it has written this much, while the next bytes are written. So the last
/// fsync has little left to do, and the page cache does not fill up.
const FLUSH_EVERY: u64 = 16 << 20;

/// A directory as a store.
#[derive(Debug, Clone)]
pub struct FileStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// Which directory that is: device and inode. None: it was not there yet.
    identity: Mutex<Option<(u64, u64)>>,
    /// Directories whose own entries are known to be on the disk.
    durable: Mutex<HashSet<PathBuf>>,
    counter: AtomicU64,
    swept: AtomicBool,
    /// Buffers for pieces that are read.
    buffers: Buffers,
}

impl FileStore {
    /// The store in `root`, an absolute path. It is made when the first object is.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = root.into();
        let what = || format!("cannot open the store {}", root.display());
        match fs::metadata(&root) {
            Ok(found) if !found.is_dir() => Err(StoreError::Permanent {
                what: what(),
                cause: "it is not a directory; name one".to_owned(),
            }),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(explain(what(), &error)),
            found => Ok(Self(Arc::new(Shared {
                root,
                identity: Mutex::new(found.ok().as_ref().map(identity)),
                durable: Mutex::default(),
                counter: AtomicU64::new(0),
                swept: AtomicBool::new(false),
                buffers: Buffers::default(),
            }))),
        }
    }
}

#[async_trait]
impl Store for FileStore {
    fn url(&self) -> String {
        format!("file://{}", self.0.root.display())
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        check_file_name(name)?;
        let (shared, name) = (Arc::clone(&self.0), name.to_owned());
        blocking(move || {
            let mut temporary = shared.temporary(&name)?;
            let written = temporary.file.write_all(&body);
            written.map_err(|error| cannot("write", &name, &error))?;
            shared.publish(temporary, &name)
        })
        .await
    }

    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        check_file_name(name)?;
        let (shared, name) = (Arc::clone(&self.0), name.to_owned());
        blocking(move || {
            let temporary = shared.temporary(&name)?;
            Ok(Box::new(FileUpload {
                shared,
                name,
                temporary: Some(temporary),
                unflushed: 0,
                flush: None,
            }) as Box<dyn Upload>)
        })
        .await
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        check_file_name(name)?;
        let (path, name) = (self.0.root.join(name), name.to_owned());
        let buffers = self.0.buffers.clone();
        let reader = blocking(move || Reader::open(&path, name, range, buffers)).await?;
        let pieces = stream::unfold(Some(reader), |reader| async move {
            let mut reader = reader?;
            if let Some(first) = reader.first.take() {
                return Some((Ok(first), Some(reader)));
            }
            if reader.left == 0 {
                return None;
            }
            let next = blocking(move || {
                let piece = reader.piece()?;
                Ok((piece, reader))
            });
            match next.await {
                Ok((piece, reader)) => Some((Ok(piece), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(pieces.fuse().boxed())
    }

    async fn list_with(
        &self,
        wanted: Listing<'_>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let walk = Walk::new(&self.0.root, wanted);
        let length = wanted.page.clamp(1, LIST_PAGE);
        // No thread is held between two pages: a reader that waits for something else cannot take the last one.
        let pages = stream::unfold(Some(walk), move |walk| async move {
            let walk = walk?;
            Some(match blocking(move || Ok(next_page(walk, length))).await {
                Ok((page, rest)) => (stream::iter(page), rest),
                Err(error) => (stream::iter(vec![Err(error)]), None),
            })
        });
        pages.flatten().fuse().boxed()
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_file_name(name)?;
        let (path, name) = (self.0.root.join(name), name.to_owned());
        blocking(move || match fs::remove_file(&path) {
            Err(error) if !is_absence(&error) => Err(cannot("delete", &name, &error)),
            _ => Ok(()),
        })
        .await
    }
}

impl Shared {
    /// A new temporary file, for the object `name`.
    fn temporary(&self, name: &str) -> Result<Temporary, StoreError> {
        let failed = |error: io::Error| cannot("create", name, &error);
        self.check_root().map_err(failed)?;
        let directory = self.root.join(TEMPORARY);
        let temporary = match self.temporary_in(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // What was known of it is so no longer.
                self.forget_durable();
                self.make_durable(&directory).map_err(failed)?;
                self.temporary_in(&directory).map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        if !self.swept.swap(true, Ordering::Relaxed) {
            // The filesystem's own idea of the time: a file server's clock may differ from ours.
            if let Ok(now) = temporary.file.metadata().and_then(|found| found.modified()) {
                sweep(&directory, now);
            }
        }
        Ok(temporary)
    }

    fn temporary_in(&self, directory: &Path) -> io::Result<Temporary> {
        loop {
            // Containers that share the directory may have the same process id: then the create decides.
            let count = self.counter.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!("{}-{count}", std::process::id()));
            match File::create_new(&path) {
                Ok(file) => {
                    return Ok(Temporary { file, path });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives the temporary file its name, durably.
    fn publish(&self, temporary: Temporary, name: &str) -> Result<Created, StoreError> {
        let failed = |error: io::Error| cannot("create", name, &error);
        let path = self.root.join(name);
        let directory = path.parent().unwrap_or(&self.root).to_owned();
        temporary.file.sync_all().map_err(failed)?;
        self.check_root().map_err(failed)?;
        self.make_durable(&directory).map_err(failed)?;
        let mut made = link(&temporary, &path);
        if made
            .as_ref()
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            // Another process has removed the directory since.
            self.forget_durable();
            self.make_durable(&directory).map_err(failed)?;
            made = link(&temporary, &path);
        }
        match made {
            Ok(()) => {
                fsync_directory(&directory).map_err(failed)?;
                Ok(temporary.file.metadata().ok().as_ref().and_then(created))
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // A caller that hears that it exists may rely on it, although its creator may have died before this.
                fsync_directory(&directory).map_err(failed)?;
                Err(StoreError::AlreadyExists {
                    name: name.to_owned(),
                    created: fs::metadata(&path).ok().as_ref().and_then(created),
                })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Is it the directory that it was? One that was moved or unmounted must not be made anew, nor another one be written to: an
    /// archive would lie in two places, and neither be whole.
    fn check_root(&self) -> io::Result<()> {
        let mut known = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
        let found = match fs::metadata(&self.root) {
            Ok(found) => Some(identity(&found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        match (*known, found) {
            (None, found) => *known = found,
            (Some(known), Some(found)) if known == found => {}
            // Some filesystems number anew when they are mounted again. It has what was made in it.
            (Some(_), Some(found)) if self.root.join(TEMPORARY).is_dir() => *known = Some(found),
            (Some(_), found) => {
                let what = if found.is_some() {
                    "is another one than before"
                } else {
                    "is gone"
                };
                return Err(io::Error::other(format!(
                    "the directory {} {what}: it was moved, unmounted, or something was mounted over it. Bring it back. If \
                     it is to be another one, start backfeed again",
                    self.root.display()
                )));
            }
        }
        Ok(())
    }

    fn forget_durable(&self) {
        let durable = self.durable.lock();
        durable.unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Makes `directory` if need be, and sees to it that a crash cannot take it away with what is in it.
    fn make_durable(&self, directory: &Path) -> io::Result<()> {
        let known = |path: &Path| {
            let durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            durable.contains(path)
        };
        if known(directory) {
            return Ok(());
        }
        let mut path = PathBuf::new();
        for part in directory.components() {
            let parent = path.clone();
            path.push(part);
            if parent.as_os_str().is_empty() || known(&path) {
                continue;
            }
            let made = match fs::create_dir(&path) {
                Ok(()) => true,
                Err(_) if path.is_dir() => false,
                Err(error) => return Err(error),
            };
            // Directories above the store may have been made by a process that died before this. Those that were there
            // ever since are not ours to worry about, nor always to read.
            let ours = made || (path.starts_with(&self.root) && path != self.root);
            match fsync_directory(&parent) {
                Err(error) if ours => return Err(error),
                _ => {}
            }
            let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
            durable.insert(path.clone());
        }
        Ok(())
    }
}

fn identity(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// When a file got its name: the filesystem notes the time of each new link. (The time of the last write may be long
/// before that.)
pub(super) fn created(found: &fs::Metadata) -> Created {
    let ms = found.ctime().checked_mul(1000)?;
    ms.checked_add(found.ctime_nsec() / 1_000_000)
}

/// Gives a file its name, unless that is taken: then `AlreadyExists`.
fn link(temporary: &Temporary, path: &Path) -> io::Result<()> {
    fs::hard_link(&temporary.path, path).map_err(link_error)
}

/// How a filesystem says that it has no hard links: `EPERM` (which std does not tell from `EACCES`), `EOPNOTSUPP` or
/// `ENOSYS`. Nothing else makes a create atomic there: a rename overwrites, and a lock may hold only on this host.
fn link_error(error: io::Error) -> io::Error {
    const EPERM: i32 = 1;
    if error.raw_os_error() != Some(EPERM) && error.kind() != io::ErrorKind::Unsupported {
        return error;
    }
    io::Error::new(
        io::ErrorKind::Unsupported,
        format!(
            "a store needs hard links, and this filesystem has none (exFAT and many FUSE mounts have none; ext4, XFS, \
             Btrfs, ZFS and NFS have them): {error}"
        ),
    )
}

/// A file that goes away unless it has got a name by then.
#[derive(Debug)]
struct Temporary {
    file: File,
    path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A leftover is swept another day.
        let _ = fs::remove_file(&self.path);
    }
}

struct FileUpload {
    shared: Arc<Shared>,
    name: String,
    /// None after an error: what has been written is then unknown.
    temporary: Option<Temporary>,
    /// Bytes that were written since the last flush began.
    unflushed: u64,
    /// The flush that is under way.
    flush: Option<JoinHandle<io::Result<()>>>,
}

impl FileUpload {
    /// Waits for the running flush. Each error of a disk is reported once.
    async fn flushed(&mut self) -> Result<(), StoreError> {
        let Some(flush) = self.flush.take() else {
            return Ok(());
        };
        let flushed = flush
            .await
            .map_err(|error| StoreError::interrupted(USING, &error))?;
        flushed.map_err(|error| cannot("write", &self.name, &error))
    }

    /// Begins the next flush when the one before has ended.
    async fn begin_flush(&mut self, temporary: &Temporary) -> Result<(), StoreError> {
        self.flushed().await?;
        let file = temporary.file.try_clone();
        let file = file.map_err(|error| cannot("write", &self.name, &error))?;
        self.flush = Some(tokio::task::spawn_blocking(move || file.sync_data()));
        self.unflushed = 0;
        Ok(())
    }

    fn broken(&self) -> StoreError {
        StoreError::Permanent {
            what: format!("cannot write {}", self.name),
            cause: "an earlier write of this upload failed; begin it again".to_owned(),
        }
    }
}

#[async_trait]
impl Upload for FileUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        let mut temporary = self.temporary.take().ok_or_else(|| self.broken())?;
        let name = self.name.clone();
        self.unflushed = self.unflushed.saturating_add(chunk.len() as u64);
        let written = blocking(move || {
            let written = temporary.file.write_all(&chunk);
            written.map_err(|error| cannot("write", &name, &error))?;
            Ok(temporary)
        });
        let temporary = written.await?;
        if self.unflushed >= FLUSH_EVERY {
            self.begin_flush(&temporary).await?;
        }
        self.temporary = Some(temporary);
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        let temporary = self.temporary.take().ok_or_else(|| self.broken())?;
        self.flushed().await?;
        blocking(move || self.shared.publish(temporary, &self.name).map(|_| ())).await
    }
}

/// An object that is being read.
struct Reader {
    file: File,
    name: String,
    left: u64,
    /// The first piece, read when the object was opened.
    first: Option<Bytes>,
    buffers: Buffers,
}

impl Reader {
    fn open(
        path: &Path,
        name: String,
        range: Option<Range<u64>>,
        buffers: Buffers,
    ) -> Result<Self, StoreError> {
        // A pipe without a writer would block whoever opens it for ever.
        let opened = File::options()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path);
        let opened = opened.and_then(|file| {
            let found = file.metadata()?;
            Ok((file, found))
        });
        let (mut file, found) = match opened {
            Ok((_, found)) if found.is_dir() => return Err(StoreError::NotFound { name }),
            Ok((_, found)) if !found.is_file() => return Err(not_a_file(&name)),
            Err(error) if is_absence(&error) => return Err(StoreError::NotFound { name }),
            // A socket, or a device without a driver.
            Err(error) if is_no_file(path, &error) => return Err(not_a_file(&name)),
            other => other.map_err(|error| cannot("read", &name, &error))?,
        };
        let (start, end) = byte_range(range, found.len());
        if start > 0 {
            file.seek(SeekFrom::Start(start))
                .map_err(|error| cannot("read", &name, &error))?;
        }
        let mut reader = Self {
            file,
            name,
            left: end.saturating_sub(start),
            first: None,
            buffers,
        };
        if reader.left > 0 {
            reader.first = Some(reader.piece()?);
        }
        Ok(reader)
    }

    fn piece(&mut self) -> Result<Bytes, StoreError> {
        let wanted = self.left.min(READ_PIECE);
        let mut piece = self.buffers.take(usize::try_from(wanted).unwrap_or(0));
        let read = (&mut self.file).take(wanted).read_to_end(&mut piece);
        read.map_err(|error| cannot("read", &self.name, &error))?;
        if (piece.len() as u64) < wanted {
            return Err(StoreError::Permanent {
                what: format!("cannot read {}", self.name),
                cause: "it became shorter while it was read; objects must not be changed"
                    .to_owned(),
            });
        }
        self.left = self.left.saturating_sub(wanted);
        Ok(self.buffers.lend(piece))
    }
}

fn is_no_file(path: &Path, error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::NXIO.raw_os_error())
        && fs::metadata(path).is_ok_and(|found| !found.is_file())
}

fn not_a_file(name: &str) -> StoreError {
    StoreError::Permanent {
        what: format!("cannot read {name}"),
        cause:
            "it is a pipe, a socket or a device. Move it away: backfeed makes only regular files"
                .to_owned(),
    }
}

/// A page of a listing, and the walk if it is not at its end.
fn next_page(mut walk: Walk, length: usize) -> (Vec<Result<ObjectMeta, StoreError>>, Option<Walk>) {
    let found = walk.by_ref().take(length).map(|found| {
        found.map_err(|(path, error)| explain(format!("cannot list {}", path.display()), &error))
    });
    let page: Vec<_> = found.collect();
    let goes_on = page.len() >= length;
    (page, goes_on.then_some(walk))
}

/// Removes what processes that died have left. Nothing depends on it, so errors do not matter.
fn sweep(directory: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let age = entry
            .metadata()
            .and_then(|found| found.modified())
            .ok()
            .and_then(|modified| now.duration_since(modified).ok());
        if age.is_some_and(|age| age > STALE_AFTER) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn fsync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// What the threads of this store do.
const USING: &str = "cannot use the disk";

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::interrupted(USING, &error)),
    }
}

/// Names that files cannot have, beyond those that no object can have.
fn check_file_name(name: &str) -> Result<(), StoreError> {
    check_name(name)?;
    let bad = |cause: &str| {
        Err(StoreError::Permanent {
            what: format!("cannot use the name {name:?}"),
            cause: cause.to_owned(),
        })
    };
    if name.split('/').any(|part| part.len() > 255) {
        return bad("a part of it is longer than 255 bytes, which files cannot be");
    }
    match name.split('/').next() {
        Some(TEMPORARY) => bad("the store keeps its temporary files there"),
        Some(LOST_AND_FOUND) => bad("the filesystem keeps what it repairs there"),
        _ => Ok(()),
    }
}

/// No such file, or a file where the path wants a directory.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory
    )
}

fn cannot(verb: &str, name: &str, error: &io::Error) -> StoreError {
    explain(format!("cannot {verb} {name}"), error)
}

/// What an operator can do about it, and whether it is worth another try.
fn explain(what: String, error: &io::Error) -> StoreError {
    use io::ErrorKind as Kind;
    let (transient, advice) = match error.kind() {
        Kind::StorageFull => (true, "the disk is full: make room"),
        Kind::QuotaExceeded => (true, "the disk quota is used up: raise it or make room"),
        Kind::PermissionDenied => (false, "let this user write to the directory and read it"),
        Kind::ReadOnlyFilesystem => (false, "the filesystem is read-only: mount it writable"),
        Kind::NotADirectory | Kind::AlreadyExists => (
            false,
            "there is a file where a directory should be: move it away",
        ),
        Kind::InvalidFilename => (false, "the filesystem does not take such names"),
        Kind::Unsupported => (false, "the filesystem cannot do that: use another one"),
        _ => (true, "check the disk and its mount"),
    };
    let cause = format!("{advice} ({error})");
    if transient {
        StoreError::Transient { what, cause }
    } else {
        StoreError::Permanent { what, cause }
    }
}

#[cfg(test)]
#[path = "file_tests.rs"]
mod tests;
