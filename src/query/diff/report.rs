//! The result of a comparison.

use std::collections::BTreeMap;

use serde::Serialize;

use super::NAME_BYTES;
use crate::display::Shown;
use crate::model::Unknown;
use crate::wire::position::{Offset, Position};

/// What was found. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Clone, Serialize)]
pub struct Diff {
    /// The earlier point.
    pub from: Position,
    /// When its last byte had been received, Unix milliseconds.
    pub from_unix_ms: Option<i64>,
    /// The later point.
    pub to: Position,
    /// The same of that.
    pub to_unix_ms: Option<i64>,
    /// Databases that `SWAPDB` gave other numbers. Their keys are compared under the later number.
    pub swapped: Vec<Moved>,
    /// Keys that are new.
    pub added: Count,
    /// Keys whose value, type or expiry is another.
    pub changed: Count,
    /// Keys that were removed.
    pub removed: Count,
    /// How many of the removed keys a flush removed that the log had not touched before. They are not listed.
    pub removed_unlisted: u64,
    /// Keys that the log touches between the points, and whose value at one of them is not known, by database and name,
    /// as many as were asked for. They are not among the others.
    pub unknown: Vec<UnknownKey>,
    /// How many more of those there are.
    pub unknown_more: u64,
    /// By prefix (up to the first `:`).
    pub prefixes: Vec<OfPrefix>,
    /// Each, by database and name, as many as were asked for.
    pub keys: Vec<KeyChange>,
    /// How many more there are.
    pub more: u64,
}

/// A key whose value is not known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UnknownKey {
    /// Its database, by its number at the later point.
    pub db: u32,
    /// Its name.
    pub key: Shown,
    /// The name is longer than is shown.
    pub key_cut: bool,
    /// The offset before the command that cannot be applied.
    pub since: Offset,
    /// Why it cannot.
    pub why: String,
}

/// A database that has another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Moved {
    /// At the earlier point.
    pub before: u32,
    /// At the later point.
    pub after: u32,
}

/// How many, by type (of the later point; for removed keys, of the earlier one).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Of all types.
    pub keys: u64,
    /// By type.
    pub types: BTreeMap<&'static str, u64>,
}

impl Count {
    pub(super) fn add(&mut self, type_name: &'static str, keys: u64) {
        self.keys = self.keys.saturating_add(keys);
        let count = self.types.entry(type_name).or_default();
        *count = count.saturating_add(keys);
    }
}

/// Changes of the keys of a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OfPrefix {
    /// With its `:`. None: keys without one, and those of prefixes that were too many.
    pub prefix: Option<Shown>,
    /// Keys that are new.
    pub added: u64,
    /// Keys that are others.
    pub changed: u64,
    /// Keys that were removed.
    pub removed: u64,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// It is new.
    Added,
    /// Its value, type or expiry is another.
    Changed,
    /// It was removed.
    Removed,
}

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeyChange {
    /// Its database, by its number at the later point.
    pub db: u32,
    /// Its name.
    pub key: Shown,
    /// The name is longer than is shown.
    pub key_cut: bool,
    /// What happened to it.
    pub what: What,
    /// Its type before.
    pub type_before: Option<&'static str>,
    /// Its type now.
    pub type_after: Option<&'static str>,
    /// When it was to expire, Unix milliseconds.
    pub expiry_before_unix_ms: Option<i64>,
    /// When it expires now.
    pub expiry_after_unix_ms: Option<i64>,
    /// Its value is another.
    pub value_changed: bool,
}

impl Diff {
    pub(super) fn add_unknown(&mut self, db: u32, key: &[u8], of: &Unknown, limit: usize) {
        if self.unknown.len() >= limit {
            self.unknown_more = self.unknown_more.saturating_add(1);
            return;
        }
        self.unknown.push(UnknownKey {
            db,
            key: Shown::cut(key, NAME_BYTES),
            key_cut: key.len() > NAME_BYTES,
            since: of.since,
            why: of.why.to_string(),
        });
    }
}
