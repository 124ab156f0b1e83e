//! The JSON documents of the archive: `archive.json`, `history.json` and the manifest of a base.
//!
//! They are pretty-printed, because operators read them. Unknown fields are ignored, so an older build can read what a
//! newer one of the same format wrote. A higher `format` is an error, because to ignore it could lose data.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{ArchiveError, Name, StoredBase};
use crate::archive::digest::{self, Digest};
use crate::wire::position::{Offset, Position, ReplId};
use crate::wire::rdb::{self, Checksum, Summary};

/// The format of every document that this build writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// The longest document that is read, in bytes. A manifest with counts for 100 000 databases fits. A longer one is not
/// ours, and is not worth the memory.
pub const DOCUMENT_LIMIT: usize = 8 << 20;

/// What `kind` says in `archive.json`.
pub const ARCHIVE_KIND: &str = "backfeed archive";

/// `archive.json`: says that this is an archive, and of which format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveDoc {
    /// [`FORMAT`].
    pub format: u32,
    /// [`ARCHIVE_KIND`].
    pub kind: String,
    /// Unix milliseconds.
    pub created_unix_ms: i64,
}

/// `history.json`: what a history is and where it comes from. Written before anything else of it, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryDoc {
    /// [`FORMAT`].
    pub format: u32,
    /// The history.
    pub id: ReplId,
    /// What the server calls it, if that is not `id`: the store holds another history of that id, which the server does
    /// not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replid: Option<ReplId>,
    /// Where it left the history that it continues. None: it begins with a base of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// What this service wrote before, when the data does not descend from it: the server is new (perhaps empty), or a
    /// branch was left. The old history is sealed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Position>,
    /// Others of the same kind: branches that were left before what came last was recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also_previous: Vec<Position>,
    /// Who: the source's `host:port`, or `sidecar`.
    pub service: String,
    /// What the source is.
    pub server: ServerInfo,
    /// The `run_id` of the server when the history began, if it said it: which start of the server this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Unix milliseconds.
    pub created_unix_ms: i64,
}

impl HistoryDoc {
    /// The histories that this one comes after.
    pub fn before(&self) -> impl Iterator<Item = ReplId> + '_ {
        let parent = self.parent.iter().map(|parent| parent.history);
        parent.chain(self.replaced().map(|previous| previous.history))
    }

    /// Those whose place it has taken, and where they ended when it began.
    pub fn replaced(&self) -> impl Iterator<Item = Position> + '_ {
        self.previous.iter().chain(&self.also_previous).copied()
    }

    /// It comes after this one too.
    pub fn comes_after(&mut self, previous: Position) {
        match self.previous {
            None => self.previous = Some(previous),
            Some(_) => self.also_previous.push(previous),
        }
    }
}

/// Where a history left another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The history that it left.
    pub history: ReplId,
    /// The last byte that they share.
    pub offset: Offset,
    /// The database selected there.
    pub db: u32,
}

/// What a server says that it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServerInfo {
    /// `redis`, `valkey`, `keydb` or `unknown`.
    pub flavour: String,
    /// `7.0.15`; may be empty.
    pub version: String,
}

impl ServerInfo {
    /// Does it put relative TTLs into the feed, so that replaying them later would lengthen lives? Redis and `KeyDB`
    /// before 7 do (PROTOCOL.md, "Expiry in the feed"). An unknown version does not count as old.
    #[must_use]
    pub fn relative_ttls(&self) -> bool {
        let old = self
            .version
            .split('.')
            .next()
            .and_then(|major| major.parse::<u32>().ok())
            .is_some_and(|major| major < 7);
        old && matches!(self.flavour.as_str(), "redis" | "keydb")
    }
}

/// The manifest of a base. It is written last: without it there is no base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseManifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The history.
    pub history: ReplId,
    /// The data set is that after this byte.
    pub offset: Offset,
    /// The database selected there.
    pub db: u32,
    /// How it came about.
    pub kind: BaseKind,
    /// Bytes of the RDB.
    pub raw_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// CRC-64/REDIS over all bytes of the RDB, 16 hexadecimal digits. An RDB ends with its own CRC-64, so this is 0 for
    /// every complete RDB with a checksum, and does not tell two of them apart. Earlier versions had nothing else, and
    /// need it.
    pub crc64: String,
    /// What identifies the bytes. None: an earlier version wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<BaseDigest>,
    /// `REDIS0011`.
    pub rdb_magic: String,
    /// Is the RDB's own checksum there, and right? False: the server wrote none (`rdbchecksum no`).
    pub rdb_checksum: bool,
    /// What wrote the RDB.
    pub server: ServerInfo,
    /// Unix milliseconds.
    pub created_unix_ms: i64,
    /// When the last byte of the feed before the base was received, Unix milliseconds, if that was not right before the
    /// base was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub received_unix_ms: Option<i64>,
    /// Keys in each database.
    #[serde(default)]
    pub databases: BTreeMap<u32, DbCounts>,
    /// Keys of each type.
    #[serde(default)]
    pub types: BTreeMap<String, u64>,
    /// Function libraries.
    #[serde(default)]
    pub functions: u64,
    /// Modules whose data it holds.
    #[serde(default)]
    pub modules: Vec<String>,
    /// Byte of the RDB from which on it could not be walked (counts end there). None: walked to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwalked_from: Option<u64>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unwalked_reason: Option<String>,
}

impl BaseManifest {
    /// The manifest of a base that is stored, and was walked.
    #[must_use]
    pub fn new(
        stored: &StoredBase,
        summary: &Summary,
        kind: BaseKind,
        server: ServerInfo,
        now_unix_ms: i64,
    ) -> Self {
        let counts = |counts: &rdb::DbCounts| DbCounts {
            keys: counts.keys,
            expires: counts.expires,
        };
        let databases = summary.databases.iter();
        let types = summary.types.iter();
        let unwalked = summary.unwalked.as_ref();
        Self {
            format: FORMAT,
            history: stored.at.history,
            offset: stored.at.offset,
            db: Self::selected_db(summary),
            kind,
            raw_bytes: stored.raw_bytes,
            stored_bytes: stored.stored_bytes,
            crc64: Self::crc64_text(stored.crc64),
            digest: Some(stored.digest.clone()),
            rdb_magic: summary.magic.clone(),
            rdb_checksum: summary.checksum == Checksum::Verified,
            server,
            created_unix_ms: now_unix_ms,
            received_unix_ms: None,
            databases: databases.map(|(db, of)| (*db, counts(of))).collect(),
            types: types
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
            functions: summary.functions,
            modules: summary.modules.iter().cloned().collect(),
            unwalked_from: unwalked.map(|unwalked| unwalked.from),
            unwalked_reason: unwalked.map(|unwalked| unwalked.reason.clone()),
        }
    }

    /// The database selected in the feed at the snapshot. A master says 0, because it selects one before its next
    /// write. A replica says what its master had selected (PROTOCOL.md C.2).
    #[must_use]
    pub fn selected_db(summary: &Summary) -> u32 {
        let says = summary.aux.get("repl-stream-db");
        says.and_then(|db| db.parse().ok()).unwrap_or(0)
    }

    /// The position of the base.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            history: self.history,
            offset: self.offset,
        }
    }

    /// The time whose data it holds, Unix milliseconds.
    #[must_use]
    pub fn as_of_unix_ms(&self) -> i64 {
        self.received_unix_ms.unwrap_or(self.created_unix_ms)
    }

    /// How a checksum is written into [`Self::crc64`].
    #[must_use]
    pub fn crc64_text(value: u64) -> String {
        format!("{value:016x}")
    }
}

/// What identifies the bytes of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseDigest {
    /// [`crate::archive::digest::ALGORITHM`]. Another one cannot be checked by this build.
    pub algorithm: String,
    /// The digest of the RDB.
    pub raw: String,
    /// The digest of the object as it is stored.
    pub stored: String,
}

impl BaseDigest {
    /// The digests of bytes that have all passed.
    #[must_use]
    pub fn new(raw: &Digest, stored: &Digest) -> Self {
        Self {
            algorithm: digest::ALGORITHM.to_owned(),
            raw: raw.text(),
            stored: stored.text(),
        }
    }

    /// Can this build compare it?
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.algorithm == digest::ALGORITHM
    }
}

/// `base/<offset>.verified.json`: a base was read from its first to its last byte, and nothing was found wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictDoc {
    /// [`FORMAT`].
    pub format: u32,
    /// The history of the base.
    pub history: ReplId,
    /// The offset of the base.
    pub offset: Offset,
    /// Bytes of RDB that were read.
    pub raw_bytes: u64,
    /// Their CRC-64, as in the manifest.
    pub crc64: String,
    /// The digest that identifies them, as in the manifest. None there: they were not compared with what was once
    /// stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<BaseDigest>,
    /// Who read it.
    pub readings: Vec<Reading>,
    /// Unix milliseconds.
    pub verified_unix_ms: i64,
}

/// `base/<offset>.<unix ms>.drilled.json`: a restore that began with this base was tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillDoc {
    /// [`FORMAT`].
    pub format: u32,
    /// The history of the base.
    pub history: ReplId,
    /// The offset of the base.
    pub offset: Offset,
    /// The point that was restored.
    pub point: Position,
    /// The time whose data it holds, Unix milliseconds, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_of_unix_ms: Option<i64>,
    /// Nothing was found wrong.
    pub passed: bool,
    /// How far values were compared: `all`, `nothing`, `read`.
    pub compared: String,
    /// Why not further.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared_why: Option<String>,
    /// The server that it was restored to. None: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Keys in all databases.
    pub keys: u64,
    /// Keys that differ between the two ways.
    pub different_keys: u64,
    /// How long the restore took, in milliseconds.
    pub restore_ms: u64,
    /// Who tried it: program and version.
    pub writer: String,
    /// When it ended, Unix milliseconds, by the clock of that machine.
    pub drilled_unix_ms: i64,
}

impl DrillDoc {
    /// The object that holds it.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::Drill {
            base: Position {
                history: self.history,
                offset: self.offset,
            },
            unix_ms: u64::try_from(self.drilled_unix_ms).unwrap_or_default(),
        }
    }
}

/// What one reader says of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Program and version.
    pub reader: String,
    /// What it looked at.
    pub checks: Vec<String>,
    /// Keys that it counted, by database. None: it gave no opinion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<BTreeMap<u32, u64>>,
    /// Why it gave none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_opinion: Option<String>,
}

impl VerdictDoc {
    /// The base.
    #[must_use]
    pub fn position(&self) -> Position {
        Position {
            history: self.history,
            offset: self.offset,
        }
    }
}

/// How a base came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// A full sync from the server.
    Sync,
    /// Made from an earlier base and the log after it.
    Consolidated {
        /// The offset of that base.
        from: Offset,
    },
}

/// Keys of one database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DbCounts {
    /// All keys.
    pub keys: u64,
    /// Keys with an expiry time.
    pub expires: u64,
}

/// The bytes of a document.
pub(super) fn to_bytes<D: Serialize>(object: &str, document: &D) -> Result<Bytes, ArchiveError> {
    let mut text = serde_json::to_vec_pretty(document)
        .map_err(|error| ArchiveError::damaged(object, format!("it cannot be written: {error}")))?;
    text.push(b'\n');
    Ok(text.into())
}

/// Reads a document: [`ArchiveError::NewerFormat`] or [`ArchiveError::Damaged`] when it cannot be.
pub(super) fn from_bytes<D: DeserializeOwned>(
    object: &str,
    bytes: &[u8],
) -> Result<D, ArchiveError> {
    #[derive(Deserialize)]
    struct Probe {
        format: u32,
    }
    let not_json = |error: serde_json::Error| {
        ArchiveError::damaged(object, format!("not the document it should be: {error}"))
    };
    let Probe { format } = serde_json::from_slice(bytes).map_err(not_json)?;
    if format > FORMAT {
        return Err(ArchiveError::NewerFormat {
            object: object.to_owned(),
            version: format,
            supported: FORMAT,
        });
    }
    serde_json::from_slice(bytes).map_err(not_json)
}
