//! Writes the new snapshot.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Given, RebuildError, Selection};
use crate::archive::BASE_FRAME_RAW;
use crate::model::{Dialect, Entry, Keyspace, Value};
use crate::runtime::buffers::Buffers;
use crate::runtime::pipe::{Interrupted, Sender};
use crate::wire::crc64::Crc64;
use crate::wire::rdb::cursor::{put_number, put_string};
use crate::wire::rdb::numbers::opcode;

/// Bytes that are gathered before they go out: what a base has in a frame, so that it need not gather them again.
const CHUNK: usize = BASE_FRAME_RAW;
/// What they mostly exceed it by.
const SLACK: usize = 128 << 10;

/// A server that loads it waits for a byte no longer than its `repl-timeout`, 60 s by default.
const QUIET: Duration = Duration::from_secs(5);

type Piece = Result<Bytes, RebuildError>;

/// What a new snapshot holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys by database. A database without keys does not appear.
    pub keys: BTreeMap<u32, u64>,
    /// Function libraries.
    pub libraries: u64,
    /// Bytes of the RDB, but for its checksum.
    pub bytes: u64,
}

impl Counts {
    /// One more key.
    pub(super) fn key(&mut self, db: u32) {
        let keys = self.keys.entry(db).or_default();
        *keys = keys.saturating_add(1);
    }

    /// One more function library.
    pub(super) fn library(&mut self) {
        self.libraries = self.libraries.saturating_add(1);
    }
}

/// Where the new snapshot goes.
pub(super) struct Out {
    pub(super) bytes: Vec<u8>,
    /// Only these keys.
    pub(super) selection: Option<Selection>,
    pub(super) counts: Counts,
    /// Values of keys that the log does not have.
    pub(super) given: Vec<Given>,
    /// The database that is selected in what was written.
    selected: Option<u32>,
    crc: Crc64,
    /// When bytes last went out. None: nobody minds how long that takes, and the same RDB always has the same bytes.
    last_sent: Option<Instant>,
    buffers: Buffers,
    /// None: it is only counted.
    to: Option<Sender<Piece>>,
}

impl Out {
    /// Sends the RDB to `to`. Without it, the RDB is only counted.
    pub(super) fn new(to: Option<Sender<Piece>>, selection: Option<Selection>) -> Self {
        Self {
            bytes: Vec::new(),
            selection,
            counts: Counts::default(),
            given: Vec::new(),
            selected: None,
            crc: Crc64::new(),
            last_sent: None,
            buffers: Buffers::default(),
            to,
        }
    }

    /// Bytes go out every few seconds, for a server that loads the RDB while it is made.
    pub(super) fn never_quiet(mut self) -> Self {
        self.last_sent = Some(Instant::now());
        self
    }

    /// Selects the database of the key that comes next.
    pub(super) fn select(&mut self, db: u32) {
        if self.selected != Some(db) {
            self.bytes.push(opcode::SELECTDB);
            put_number(&mut self.bytes, db.into());
            self.selected = Some(db);
        }
    }

    /// A key, unless it is not wanted.
    pub(super) fn entry(&mut self, dialect: Dialect, db: u32, key: &[u8], entry: &Entry) {
        let (begin, selected) = (self.bytes.len(), self.selected);
        self.select(db);
        if let Some(expiry) = entry.expiry {
            self.bytes.push(opcode::EXPIRETIME_MS);
            self.bytes.extend_from_slice(&expiry.to_le_bytes());
        }
        self.bytes.extend_from_slice(entry.prefix());
        let kind_at = self.bytes.len();
        self.bytes.push(0);
        put_string(&mut self.bytes, key);
        let kind = entry.value.encode(dialect, &mut self.bytes);
        if let Some(byte) = self.bytes.get_mut(kind_at) {
            *byte = kind;
        }
        let wanted = self.selection.as_ref();
        if wanted.is_some_and(|wanted| !wanted.wants(db, key, dialect.family, kind)) {
            self.bytes.truncate(begin);
            self.selected = selected;
            return;
        }
        self.counts.key(db);
    }

    /// Need the value of this key not be known from the log?
    pub(super) fn can_miss(&self, db: u32, key: &[u8]) -> bool {
        let selection = self.selection.as_ref();
        selection.is_some_and(|selection| !selection.may_want(db, key))
            || self
                .given
                .iter()
                .any(|given| given.db == db && given.key == key)
    }

    /// Writes the given values of keys that the log does not have.
    pub(super) async fn given(&mut self, space: &Keyspace) -> Result<(), RebuildError> {
        for given in std::mem::take(&mut self.given) {
            if space.unknown(given.db, &given.key).is_some() {
                let entry = Entry {
                    expiry: given.expiry,
                    ..Entry::new(Value::Raw(given.raw))
                };
                self.entry(space.dialect(), given.db, &given.key, &entry);
                self.flush_full().await?;
            }
        }
        Ok(())
    }

    /// All keys that are there.
    pub(super) async fn entries(&mut self, space: &Keyspace) -> Result<(), RebuildError> {
        for (db, entries) in space.entries() {
            for (key, entry) in entries {
                self.entry(space.dialect(), db, key, entry);
                self.flush_full().await?;
            }
        }
        Ok(())
    }

    /// Sends what fills whole chunks.
    pub(super) async fn flush_full(&mut self) -> Result<(), RebuildError> {
        let Some(to) = &self.to else {
            self.count_bytes(self.bytes.len());
            self.bytes.clear();
            return Ok(());
        };
        // Nobody waits for it any more, though there may be nothing to send for long.
        if to.is_closed() {
            return Err(Interrupted.into());
        }
        while let Some(rest) = self.bytes.get(CHUNK..) {
            let mut next = self
                .buffers
                .take(rest.len().max(CHUNK.saturating_add(SLACK)));
            next.extend_from_slice(rest);
            self.bytes.truncate(CHUNK);
            let full = mem::replace(&mut self.bytes, next);
            self.send(full).await?;
        }
        Ok(())
    }

    /// Called often while nothing may be ready for long. If nothing went out for a while, what is there goes out. If there
    /// is nothing, and no record is open (`is_between`), a `SELECTDB` goes out that selects what is selected. An RDB may
    /// have it anywhere between its records, and it changes nothing.
    pub(super) async fn keep_alive(&mut self, is_between: bool) -> Result<(), RebuildError> {
        if self.last_sent.is_none_or(|last| last.elapsed() < QUIET) {
            return Ok(());
        }
        if self.bytes.is_empty() {
            if !is_between {
                return Ok(());
            }
            let db = self.selected.take().unwrap_or(0);
            self.select(db);
        }
        let ready = mem::take(&mut self.bytes);
        self.send(ready).await
    }

    fn count_bytes(&mut self, bytes: usize) {
        self.counts.bytes = self.counts.bytes.saturating_add(bytes as u64);
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), RebuildError> {
        let Some(to) = &self.to else {
            return Ok(());
        };
        self.crc.update(&bytes);
        if bytes.is_empty() {
            return Ok(());
        }
        let sent = to.send(Ok(self.buffers.lend(bytes))).await;
        sent.map_err(|_| Interrupted)?;
        if self.last_sent.is_some() {
            self.last_sent = Some(Instant::now());
        }
        Ok(())
    }

    /// The rest, and the checksum.
    pub(super) async fn finish(mut self) -> Result<Counts, RebuildError> {
        self.flush_full().await?;
        let rest = mem::take(&mut self.bytes);
        self.send(rest).await?;
        let checksum = self.crc.value().to_le_bytes();
        self.send(checksum.to_vec()).await?;
        Ok(self.counts)
    }
}
