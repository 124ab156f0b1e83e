//! The spool: feed that waits for the store and has no room in memory. It is kept in files without a name.
//!
//! A file is unlinked as soon as it is made. So a crash leaves nothing behind, and nobody can mistake its content for a
//! backup. The file and its space are freed with the last [`Record`] in it. What is in the spool was received but not
//! stored, so it was not acknowledged as stored. If the spool loses it, we ask the master for it again.

pub(crate) mod spooler;

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::config::SpoolConfig;
use crate::monitoring::status::{Status, unix_ms_now};
use crate::runtime;
use crate::wire::crc64::Crc64;

/// About how many files a full spool has. Each one is an open file, and its space is freed when its last byte was
/// stored.
const FILES: u64 = 64;
/// No file is shorter than this, unless the whole spool is.
const FILE_MIN: u64 = 1 << 20;
/// How long the spool rests after an error: a disk that is full or gone should not be asked for each record.
const REST: Duration = Duration::from_secs(10);

/// What went wrong with the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The system says so.
    #[error("cannot {verb} the spool in {dir}: {cause}")]
    Io {
        /// `write to`, `read from`.
        verb: &'static str,
        /// The directory in `--spool-dir`.
        dir: String,
        /// What the system said.
        cause: io::Error,
    },
    /// What comes back is not what was written.
    #[error("the spool in {dir} gave back other bytes than were written to it")]
    Damaged {
        /// The directory in `--spool-dir`.
        dir: String,
    },
}

/// A bounded place on a disk. Clones share it.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    limit: u64,
    used: Arc<Used>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where the next record goes. Only records keep a file: one whose bytes were all stored goes, full or not.
    file: Weak<SpoolFile>,
    /// After an error, until then.
    resting: Option<Instant>,
    failing: Option<String>,
}

/// Bytes in all files, shown as they change.
struct Used {
    bytes: AtomicU64,
    status: Status,
}

impl Used {
    fn add(&self, bytes: u64) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.status.spool_bytes(before.saturating_add(bytes));
    }

    fn sub(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.status.spool_bytes(before.saturating_sub(bytes));
    }
}

struct SpoolFile {
    file: File,
    dir: String,
    written: AtomicU64,
    used: Arc<Used>,
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        self.used.sub(self.written.load(Ordering::Relaxed));
    }
}

/// Bytes in the spool. Dropping the last record of a file gives its space back.
#[derive(Clone)]
pub struct Record {
    file: Arc<SpoolFile>,
    at: u64,
    len: usize,
    crc: u64,
}

impl Spool {
    /// If the directory cannot be used, this is logged at once. It is opened again when the spool is needed.
    #[must_use]
    pub fn new(config: &SpoolConfig, status: &Status) -> Self {
        let spool = Self(Arc::new(Shared {
            dir: config.dir.clone(),
            limit: config.limit,
            used: Arc::new(Used {
                bytes: AtomicU64::new(0),
                status: status.clone(),
            }),
            state: Mutex::default(),
        }));
        if let Err(error) = spool.0.create() {
            let error = spool.0.error("write to", error);
            spool.failed(&mut spool.0.state(), &error);
        }
        spool
    }

    /// Keeps bytes; blocks as long as the disk takes. None: there is no room for them, or the spool does not work (this
    /// is logged). They then stay where they are.
    #[must_use]
    pub fn put(&self, parts: &[Bytes]) -> Option<Record> {
        let mut state = self.0.state();
        let length = parts
            .iter()
            .fold(0_usize, |sum, part| sum.saturating_add(part.len()));
        if self.used().saturating_add(length as u64) > self.0.limit
            || state.resting.is_some_and(|until| Instant::now() < until)
        {
            return None;
        }
        state.resting = None;
        match self.0.append(&mut state, parts, length) {
            Ok(record) => {
                if state.failing.take().is_some() {
                    tracing::info!("the spool works again");
                    self.0.used.status.spool_error(None);
                }
                Some(record)
            }
            Err(error) => {
                let error = self.0.error("write to", error);
                self.failed(&mut state, &error);
                None
            }
        }
    }

    /// A record could not be read back: logs this, and puts no more into that file.
    pub fn lost(&self, error: &SpoolError) {
        self.failed(&mut self.0.state(), error);
    }

    /// Is there room for a good part of what it may hold?
    #[must_use]
    pub fn has_room(&self) -> bool {
        let quarter = self.0.limit / 4;
        self.used() <= self.0.limit.saturating_sub(quarter)
    }

    /// Bytes on the disk.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.used.bytes.load(Ordering::Relaxed)
    }

    fn failed(&self, state: &mut State, error: &SpoolError) {
        state.file = Weak::new();
        state.resting = Instant::now().checked_add(REST);
        let status = &self.0.used.status;
        status.metrics().spool_errors.inc();
        let text = error.to_string();
        if state.failing.as_ref() != Some(&text) {
            tracing::warn!(
                "{text}. The feed waits only in memory until the spool works again. Check that `spool_dir` has room, \
                 and that backfeed may write there"
            );
        }
        status.spool_error(Some(text.clone()));
        status.error(text.clone(), unix_ms_now());
        state.failing = Some(text);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, verb: &'static str, cause: io::Error) -> SpoolError {
        SpoolError::Io {
            verb,
            dir: self.dir.display().to_string(),
            cause,
        }
    }

    fn create(&self) -> io::Result<File> {
        let name = format!(".backfeed-spool-{:016x}", runtime::random());
        let path = self.dir.join(name);
        // A user that may not read Redis may not read this either.
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        std::fs::remove_file(&path)?;
        Ok(file)
    }

    fn append(&self, state: &mut State, parts: &[Bytes], length: usize) -> io::Result<Record> {
        let file_size = (self.limit / FILES).max(FILE_MIN);
        let room = |file: &Arc<SpoolFile>| file.written.load(Ordering::Relaxed) < file_size;
        let file = match state.file.upgrade().filter(room) {
            Some(file) => file,
            None => {
                let file = Arc::new(SpoolFile {
                    file: self.create()?,
                    dir: self.dir.display().to_string(),
                    written: AtomicU64::new(0),
                    used: Arc::clone(&self.used),
                });
                state.file = Arc::downgrade(&file);
                file
            }
        };
        let mut bytes = BytesMut::with_capacity(length);
        for part in parts {
            bytes.extend_from_slice(part);
        }
        let at = file.written.load(Ordering::Relaxed);
        if let Err(error) = file.file.write_all_at(&bytes, at) {
            // Half a record on a full disk is in everybody's way.
            let _ = file.file.set_len(at);
            return Err(error);
        }
        file.written.fetch_add(length as u64, Ordering::Relaxed);
        self.used.add(length as u64);
        Ok(Record {
            file,
            at,
            len: length,
            crc: Crc64::of(&bytes),
        })
    }
}

impl Record {
    /// The bytes, checked. Blocks as long as the disk takes.
    ///
    /// # Errors
    /// [`SpoolError`]: they are lost.
    pub fn read(&self) -> Result<Bytes, SpoolError> {
        let mut bytes = vec![0; self.len];
        let read = self.file.file.read_exact_at(&mut bytes, self.at);
        read.map_err(|cause| SpoolError::Io {
            verb: "read from",
            dir: self.file.dir.clone(),
            cause,
        })?;
        if Crc64::of(&bytes) != self.crc {
            let dir = self.file.dir.clone();
            return Err(SpoolError::Damaged { dir });
        }
        Ok(bytes.into())
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.file, &other.file) && self.at == other.at
    }
}

/// Bytes, wherever they are.
#[derive(Debug, Clone)]
pub enum Held {
    /// In memory.
    Memory(Bytes),
    /// In the spool.
    Spooled {
        /// Among these.
        record: Record,
        /// First byte of it.
        from: usize,
        /// How many.
        len: usize,
    },
}

impl Held {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Spooled { len, .. } => *len,
        }
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets the first `count`.
    pub fn advance(&mut self, count: usize) {
        let count = count.min(self.len());
        match self {
            Self::Memory(bytes) => *bytes = bytes.slice(count..),
            Self::Spooled { from, len, .. } => {
                *from = from.saturating_add(count);
                *len = len.saturating_sub(count);
            }
        }
    }

    /// Keeps the first `count`.
    pub fn truncate(&mut self, count: usize) {
        match self {
            Self::Memory(bytes) => bytes.truncate(count),
            Self::Spooled { len, .. } => *len = count.min(*len),
        }
    }
}

/// Loads what is in the spool, each record once. Blocks as long as the disk takes.
///
/// # Errors
/// What is lost, with the number of bytes before it.
pub fn load(pieces: &[Held]) -> Result<Vec<Bytes>, (u64, SpoolError)> {
    let mut loaded = Vec::with_capacity(pieces.len());
    let mut before: u64 = 0;
    let mut last: Option<(Record, Bytes)> = None;
    for piece in pieces {
        let bytes = match piece {
            Held::Memory(bytes) => bytes.clone(),
            Held::Spooled { record, from, len } => {
                let whole = match &last {
                    Some((same, bytes)) if same.is(record) => bytes.clone(),
                    _ => record.read().map_err(|error| (before, error))?,
                };
                last = Some((record.clone(), whole.clone()));
                let end = from.saturating_add(*len).min(whole.len());
                whole.slice((*from).min(end)..end)
            }
        };
        before = before.saturating_add(bytes.len() as u64);
        loaded.push(bytes);
    }
    Ok(loaded)
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = self.used.bytes.load(Ordering::Relaxed);
        write!(f, "{}: {used} of {} bytes", self.dir.display(), self.limit)
    }
}

impl std::fmt::Debug for Record {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes at {}", self.len, self.at)
    }
}

#[cfg(test)]
#[path = "spool_tests.rs"]
mod tests;
