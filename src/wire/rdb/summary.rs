//! The result of a walk over an RDB.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Whose RDB it is. The magic says it, and some opcodes and types mean different things (PROTOCOL.md D.4, D.5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Family {
    /// `REDIS` magic: Redis, KeyDB, and Valkey up to RDB 11.
    #[default]
    Redis,
    /// `VALKEY` magic: Valkey 9 and later.
    Valkey,
}

/// The keys of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DbCounts {
    /// Keys, expiring ones included.
    pub keys: u64,
    /// Keys that have an expiry.
    pub expires: u64,
}

/// The result for the checksum at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// The end has not come yet.
    #[default]
    Pending,
    /// It is there and right.
    Verified,
    /// The server wrote none: it is 0 (`rdbchecksum no`), or the RDB version is below 5.
    Absent,
}

/// The part of an RDB that was not walked but only checked as bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwalked {
    /// The first byte (counted from 0) of the record that could not be walked.
    pub from: u64,
    /// Why, for an operator.
    pub reason: String,
}

/// The result of the walk. It counts what has been walked so far, up to [`Unwalked::from`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The first 9 bytes, such as `REDIS0011` or `VALKEY080`. Empty until they have come.
    pub magic: String,
    /// The family that the magic names.
    pub family: Family,
    /// The RDB version, from the magic.
    pub version: u32,
    /// AUX fields with a short printable value (the first of each name): `redis-ver`, `valkey-ver`, `repl-id`,
    /// `repl-offset`, `repl-stream-db`, `ctime` and others.
    pub aux: BTreeMap<String, String>,
    /// Keys by database. A database without keys does not appear.
    pub databases: BTreeMap<u32, DbCounts>,
    /// Keys by type, as the `TYPE` command names them (`string`, `list`, `set`, `zset`, `hash`, `stream`, `vectorset`);
    /// `module` for the values of other modules, `cron` for KeyDB's jobs.
    pub types: BTreeMap<&'static str, u64>,
    /// Function libraries.
    pub functions: u64,
    /// The names of the modules that wrote values or auxiliary data.
    pub modules: BTreeSet<String>,
    /// Bytes taken in so far. When complete: the length of the RDB.
    pub bytes: u64,
    /// Whether the trailing checksum is there and right.
    pub checksum: Checksum,
    /// Set when this version does not know something. From there on the bytes were only checked as a whole.
    pub unwalked: Option<Unwalked>,
}

impl Summary {
    /// Does this program know its version? A newer one may hold things that this program does not know.
    #[must_use]
    pub fn is_version_known(&self) -> bool {
        !super::layouts::is_newer_than_tested(self.family, self.version)
    }

    /// Keys in all databases.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.databases
            .values()
            .fold(0, |sum, db| sum.saturating_add(db.keys))
    }
}
