//! Chosen keys of a point: into a server that continues to serve clients, an RDB file, or a file of `RESTORE` commands.
//!
//! ```text
//! snapshot + log ──▶ rebuild, only the chosen keys ──▶ RDB ──▶ FILE.rdb
//!                                                       └─▶ key by key: RESTORE key ttl payload ABSTTL ──▶ server, resp:FILE
//! ```
//!
//! The server does not become a replica: its other keys stay. It is checked before anything is written to it.

pub(crate) mod server;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::path::Path;

use futures::{StreamExt, TryStreamExt};
use serde::Serialize;
use tokio::fs::File;
use tokio::io::{AsyncWriteExt, BufWriter};
use tokio::sync::oneshot;

use super::error::RestoreError;
use super::files::{self, FileBytes, file_error};
use super::keys::server::Target;
use super::report::time_of_end;
use crate::archive::Archive;
use crate::config::{KeysDest, Size};
use crate::display::Shown;
use crate::rebuild::{self, BaseStop, Counts, Limits, RebuildError, Selection};
use crate::recovery::content::source;
use crate::recovery::progress::{Progress, Stage};
use crate::recovery::target::RecoveryTarget;
use crate::recovery::{BadBases, Plan, look, plan, sound};
use crate::wire::crc64::Crc64;
use crate::wire::position::ReplId;
use crate::wire::rdb::numbers::opcode;
use crate::wire::rdb::reader::{self, Fate, Item, ReadError, Reader, Sink};
use crate::wire::rdb::{DUMP_FOOTER_LEN, magic};
use crate::wire::resp::encode_command;

/// Bytes gathered before a write to a file.
const BUFFER: usize = 1 << 20;

/// Which keys to restore, and where to.
#[derive(Debug, Clone)]
pub struct KeysRequest {
    /// Where to.
    pub target: KeysDest,
    /// Which keys.
    pub selection: Selection,
    /// At which point.
    pub recovery_target: RecoveryTarget,
    /// Of which history. None: the latest one.
    pub history: Option<ReplId>,
    /// Write over keys that the server has.
    pub replace: bool,
    /// Write over a file.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Bytes of memory for the keys that the log touches, at most. No value may be longer.
    pub memory_limit: usize,
}

/// What was done. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Clone, Serialize)]
pub struct KeysReport {
    /// Nothing was done.
    pub dry_run: bool,
    /// The store.
    pub archive: String,
    /// Where to.
    pub target: String,
    /// What was asked for.
    pub goal: String,
    /// The history that the end belongs to.
    pub end_history: ReplId,
    /// The last byte.
    pub end_offset: u64,
    /// When it had been received, Unix milliseconds.
    pub end_unix_ms: Option<i64>,
    /// Which keys.
    pub pattern: Shown,
    /// How many, by database. In a server: those that were there when they were read back.
    pub keys: BTreeMap<u32, u64>,
    /// How many more had expired when they were read back.
    pub expired: u64,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// Restores the chosen keys.
///
/// # Errors
/// [`RestoreError`]; unless it is [`RestoreError::KeysLeft`], nothing was changed.
pub async fn restore_keys(
    archive: &Archive,
    request: &KeysRequest,
    progress: &dyn Progress,
) -> Result<KeysReport, RestoreError> {
    let archive = &archive.keeping();
    let (catalog, history) = look(archive, request.history, None, request.recovery_target).await?;
    let plan = plan(
        archive,
        &catalog,
        history,
        request.recovery_target,
        &BadBases::new(),
    )
    .await?;
    let mut target = match &request.target {
        KeysDest::Server(source) => Some(Target::connect(source, &plan).await?),
        KeysDest::RdbFile(path) | KeysDest::Resp(path) => {
            super::files::rdb::preflight(path, request.force).await?;
            None
        }
    };
    let (plan, _) = sound(archive, plan, progress).await?;
    let chosen = Chosen::new(archive, &plan, request);
    let mut keys = BTreeMap::new();
    let mut expired = 0;
    if let Some(target) = &mut target {
        progress.stage(Stage::Preparing, None);
        target.check_room(&chosen).await?;
    }
    let mut notes = plan.notes.clone();
    match (&request.target, &mut target) {
        _ if request.dry_run => {
            keys = chosen.count().await?;
        }
        (KeysDest::Server(_), Some(target)) => {
            progress.stage(Stage::Snapshot, None);
            target.write(&chosen, progress).await?;
            progress.stage(Stage::Applying, None);
            let there = target.read_back(&chosen).await?;
            keys = there.keys;
            expired = there.expired;
            notes.extend(there.notes);
        }
        (KeysDest::Server(_), None) => {}
        (KeysDest::RdbFile(path), _) => {
            progress.stage(Stage::Snapshot, None);
            let bytes;
            (bytes, keys) = chosen.to_rdb(path, progress).await?;
            notes.push(format!("wrote {} ({})", path.display(), Size(bytes)));
        }
        (KeysDest::Resp(path), _) => {
            progress.stage(Stage::Snapshot, None);
            keys = chosen.to_resp(path, progress).await?;
            notes.push(format!(
                "wrote {}. To load it: redis-cli --pipe < {}",
                path.display(),
                path.display()
            ));
        }
    }
    if keys.is_empty() && expired == 0 {
        return Err(chosen.none());
    }
    Ok(KeysReport {
        dry_run: request.dry_run,
        archive: archive.store().url(),
        target: request.target.to_string(),
        goal: request.recovery_target.to_string(),
        end_history: plan.end_position.history,
        end_offset: plan.end.offset.0,
        end_unix_ms: plan.end_unix_ms,
        pattern: Shown::new(&request.selection.pattern),
        keys,
        expired,
        notes,
    })
}

/// The chosen keys of a plan.
pub(super) struct Chosen<'a> {
    archive: &'a Archive,
    plan: &'a Plan,
    pub(super) request: &'a KeysRequest,
}

impl<'a> Chosen<'a> {
    pub(super) fn new(archive: &'a Archive, plan: &'a Plan, request: &'a KeysRequest) -> Self {
        Self {
            archive,
            plan,
            request,
        }
    }

    /// There are none.
    fn none(&self) -> RestoreError {
        RestoreError::NoKeys {
            pattern: Shown::new(&self.request.selection.pattern).to_string(),
            goal: self.plan.recovery_target.to_string(),
        }
    }

    /// The keys as an RDB, and what it holds. This is known when all of it has come.
    async fn rdb(&self) -> Result<(FileBytes, oneshot::Receiver<Counts>), RestoreError> {
        let limits = Limits {
            memory: self.request.memory_limit,
            log: u64::MAX,
        };
        let source = source(self.archive, self.plan);
        let survey = rebuild::survey_all(&source, limits).await?;
        if let Some(why) = survey.stop {
            return Err(RestoreError::NotASnapshot {
                goal: self.plan.recovery_target.to_string(),
                end: self.plan.end.offset,
                reachable: survey.end.offset,
                why: Box::new(why),
            });
        }
        let selection = self.request.selection.clone();
        let (bytes, counts) = rebuild::write_selected(source, survey, selection, limits);
        Ok((bytes.map_err(RestoreError::from).boxed(), counts))
    }

    /// Key by key.
    pub(super) async fn each(&self) -> Result<Keys, RestoreError> {
        Ok(Keys {
            rdb: self.rdb().await?.0,
            reader: Some(Reader::new(self.request.memory_limit)),
            batch: Batch::default(),
        })
    }

    pub(super) async fn count(&self) -> Result<BTreeMap<u32, u64>, RestoreError> {
        let mut keys = BTreeMap::new();
        let mut chosen = self.each().await?;
        while let Some(batch) = chosen.next().await? {
            for key in &batch.keys {
                count(&mut keys, key.db);
            }
        }
        Ok(keys)
    }

    async fn to_rdb(
        &self,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<(u64, BTreeMap<u32, u64>), RestoreError> {
        let written = self.to_rdb_unless_empty(path, progress).await?;
        let (bytes, counts) = written.ok_or_else(|| self.none())?;
        Ok((bytes, counts.keys))
    }

    /// None: there are no such keys and no functions, so nothing was written.
    pub(super) async fn to_rdb_unless_empty(
        &self,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<Option<(u64, Counts)>, RestoreError> {
        let (content, counts) = self.rdb().await?;
        let unfinished = files::temporary(path);
        files::remove_leftover(&unfinished).await?;
        let bytes = files::write(&unfinished, [content], progress).await?;
        let counts = counts.await.unwrap_or_default();
        if counts.keys.is_empty() && counts.libraries == 0 {
            files::remove_leftover(&unfinished).await?;
            return Ok(None);
        }
        files::rename(&unfinished, path).await?;
        Ok(Some((bytes, counts)))
    }

    async fn to_resp(
        &self,
        path: &Path,
        progress: &dyn Progress,
    ) -> Result<BTreeMap<u32, u64>, RestoreError> {
        let mut chosen = self.each().await?;
        let unfinished = files::temporary(path);
        files::remove_leftover(&unfinished).await?;
        let fail = |source| file_error(&unfinished, source);
        let file = File::create(&unfinished).await.map_err(fail)?;
        let mut file = BufWriter::with_capacity(BUFFER, file);
        let mut keys = BTreeMap::new();
        let mut selected = None;
        let mut out = Vec::new();
        while let Some(batch) = chosen.next().await? {
            for key in &batch.keys {
                out.clear();
                if selected.replace(key.db) != Some(key.db) {
                    encode_command(&[b"SELECT", key.db.to_string().as_bytes()], &mut out);
                }
                let payload = key.dump(batch.version);
                let ttl = key.ttl();
                let mut command: Vec<&[u8]> =
                    vec![b"RESTORE", &key.name, &ttl, &payload, b"ABSTTL"];
                if self.request.replace {
                    command.push(b"REPLACE");
                }
                encode_command(&command, &mut out);
                file.write_all(&out).await.map_err(fail)?;
                progress.advance(out.len() as u64);
                count(&mut keys, key.db);
            }
        }
        file.flush().await.map_err(fail)?;
        file.into_inner().sync_all().await.map_err(fail)?;
        if keys.is_empty() {
            files::remove_leftover(&unfinished).await?;
            return Err(self.none());
        }
        files::rename(&unfinished, path).await?;
        Ok(keys)
    }
}

pub(super) fn count(keys: &mut BTreeMap<u32, u64>, db: u32) {
    let count = keys.entry(db).or_default();
    *count = count.saturating_add(1);
}

/// A key with its value.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) db: u32,
    pub(super) name: Vec<u8>,
    pub(super) expiry: Option<i64>,
    kind: u8,
    value: Vec<u8>,
}

impl Key {
    /// What `RESTORE` takes: type, value, RDB version, CRC-64 of all that (PROTOCOL.md D.8).
    pub(super) fn dump(&self, version: u16) -> Vec<u8> {
        let length = self.value.len().saturating_add(DUMP_FOOTER_LEN);
        let mut out = Vec::with_capacity(length.saturating_add(1));
        out.push(self.kind);
        out.extend_from_slice(&self.value);
        with_footer(out, version)
    }

    /// The least that it takes in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.name.len().saturating_add(self.value.len()) as u64
    }

    /// Unix milliseconds, for `ABSTTL`; 0 means none.
    pub(super) fn ttl(&self) -> Vec<u8> {
        let ttl = self.expiry.map_or(0, |at| at.max(1));
        ttl.to_string().into_bytes()
    }
}

/// The keys that a piece of RDB completes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The version of the RDB.
    pub(super) version: u16,
    pub(super) keys: Vec<Key>,
    /// The records of all function libraries so far. They come before the keys.
    functions: Vec<u8>,
}

impl Batch {
    /// What `FUNCTION RESTORE` takes. None: there are no functions.
    pub(super) fn function_dump(&self) -> Option<Vec<u8>> {
        (!self.functions.is_empty()).then(|| with_footer(self.functions.clone(), self.version))
    }
}

/// RDB version, CRC-64 of all that (PROTOCOL.md D.8).
fn with_footer(mut out: Vec<u8>, version: u16) -> Vec<u8> {
    out.extend_from_slice(&version.to_le_bytes());
    let crc = Crc64::of(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// Reads keys from an RDB.
pub(super) struct Keys {
    rdb: FileBytes,
    /// None at the end.
    reader: Option<Reader>,
    batch: Batch,
}

impl Keys {
    pub(super) async fn next(&mut self) -> Result<Option<&Batch>, RestoreError> {
        self.batch.keys.clear();
        while self.batch.keys.is_empty()
            && let Some(reader) = &mut self.reader
        {
            match self.rdb.next().await {
                Some(chunk) => reader.push(&chunk?, &mut self.batch).map_err(unread)?,
                None => {
                    reader.finish().map_err(unread)?;
                    self.reader = None;
                }
            }
        }
        Ok((!self.batch.keys.is_empty()).then_some(&self.batch))
    }

    /// What `FUNCTION RESTORE` takes, when all keys have come. None: there are no functions.
    pub(super) fn function_dump(&self) -> Option<Vec<u8>> {
        self.batch.function_dump()
    }
}

/// An error in what was written by ourselves: a limit, or a bug.
fn unread(error: ReadError<Infallible>) -> RestoreError {
    let source = match error {
        ReadError::Walk(error) => ReadError::Walk(error),
        ReadError::Unknown { from, reason } => ReadError::Unknown { from, reason },
        ReadError::TooLong { at, limit } => ReadError::TooLong { at, limit },
        ReadError::LongName { at, limit } => ReadError::LongName { at, limit },
        ReadError::Key { at, source } => ReadError::Key { at, source },
        ReadError::Trailing { at } => ReadError::Trailing { at },
        ReadError::Sink(never) => match never {},
    };
    RestoreError::Rebuild(RebuildError::Base {
        base: crate::wire::position::Offset(0),
        source: Box::new(source as ReadError<BaseStop>),
    })
}

impl Sink for Batch {
    type Error = Infallible;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), Infallible> {
        if opcode == reader::HEADER {
            let version = magic(raw).map(|(_, version)| version);
            self.version = version.and_then(|it| u16::try_from(it).ok()).unwrap_or(0);
        }
        if opcode == opcode::FUNCTION2 {
            self.functions.extend_from_slice(raw);
        }
        Ok(())
    }

    fn fate(&mut self, _: u32, _: &[u8], _: u8, _: bool) -> Fate {
        Fate::Take
    }

    fn pass(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), Infallible> {
        self.keys.push(Key {
            db: item.db,
            name: item.key.to_vec(),
            expiry: item.expiry,
            kind: item.kind,
            value: item.payload.to_vec(),
        });
        Ok(())
    }
}

impl fmt::Display for KeysReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run {
            "would restore"
        } else {
            "restored"
        };
        writeln!(
            f,
            "{verb} keys `{}` of {} to {}",
            self.pattern, self.archive, self.target
        )?;
        let time = time_of_end(self.end_unix_ms);
        writeln!(
            f,
            "  as of     offset {} of history {}, {time}",
            self.end_offset, self.end_history
        )?;
        let keys = self.keys.iter().map(|(db, keys)| format!("db{db} {keys}"));
        let keys: Vec<String> = keys.collect();
        let keys = if keys.is_empty() {
            "none".to_owned()
        } else {
            keys.join(", ")
        };
        writeln!(f, "  keys      {keys}")?;
        if self.expired > 0 {
            writeln!(f, "  expired   {} more", self.expired)?;
        }
        for note in &self.notes {
            writeln!(f, "  note      {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_is_what_servers_dump() {
        let key = Key {
            db: 0,
            name: b"s".to_vec(),
            expiry: None,
            kind: 0,
            value: b"\x05hello".to_vec(),
        };
        let wanted = b"\x00\x05hello\x0d\x00\xc1\xdb\x56\xc5\x62\x81\x57\xca";
        assert_eq!(key.dump(13), wanted);
        assert_eq!(key.ttl(), b"0");
    }
}
