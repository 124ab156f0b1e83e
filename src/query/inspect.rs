//! What is in an RDB: keys by database, type and encoding, expiries, the biggest keys, bytes by prefix.
//!
//! The RDB is read as a stream. No value is held, and the tables are bounded, so memory does not depend on the RDB. If
//! values are to be checked, one is held at a time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::convert::Infallible;

use serde::Serialize;

use crate::display::Shown;
use crate::model::{Dialect, Raw};
use crate::wire::rdb::cursor::BadValue;
use crate::wire::rdb::elements::{names, parts};
use crate::wire::rdb::reader::{self, Fate, Item, ReadError, Reader, Sink};
use crate::wire::rdb::{DbCounts, Family, Summary};

/// How many prefixes are counted separately. Keys of further ones are added up.
const PREFIXES: usize = 10_000;
/// The longest prefix that is counted by itself.
const PREFIX_BYTES: usize = 128;
/// How much of a key's name is kept for the biggest keys.
const NAME_BYTES: usize = 512;
/// How much memory names (and values, if they are checked) may take: twice what servers allow by default.
const HELD_BYTES: usize = 1 << 30;
/// The most of the biggest keys, and of the prefixes, that are shown.
pub const TOP_LIMIT: usize = 10_000;

/// What was found. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// `REDIS0011`.
    pub rdb_magic: String,
    /// What it says of itself (AUX fields).
    pub aux: BTreeMap<String, String>,
    /// Bytes of the RDB.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
    /// Keys by database.
    pub databases: BTreeMap<u32, DbCounts>,
    /// Keys by type.
    pub types: BTreeMap<String, u64>,
    /// Keys and bytes by encoding.
    pub encodings: Vec<Encoding>,
    /// Keys that expire.
    pub expiries: Expiries,
    /// The keys that take most bytes, the biggest first.
    pub biggest: Vec<Big>,
    /// The prefixes (up to the first `:`) whose keys take most bytes, the biggest first.
    pub prefixes: Vec<Prefix>,
    /// Keys of other prefixes, and how much they take.
    pub other_prefixes: Tally,
    /// Function libraries.
    pub functions: u64,
    /// Modules that wrote something of it.
    pub modules: BTreeSet<String>,
    /// Is its RDB version one that is known here? What a newer one has may be missing from the counts.
    pub version_known: bool,
    /// The result of the check of the values, if they were checked.
    pub values: Option<Values>,
    /// From this byte on it could not be read: it holds something that is not known here, or has bytes after its end.
    /// The counts end there.
    pub unread_from: Option<u64>,
    /// Why not.
    pub unread_reason: Option<String>,
}

/// The result of the check of values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Values {
    /// Keys whose value was read from its first to its last byte.
    pub read: u64,
    /// Keys whose value only a module can read.
    pub unread: u64,
    /// Keys whose value is not as its type says.
    pub bad: u64,
    /// The first of those.
    pub problems: Vec<BadKey>,
}

/// A key whose value is not as its type says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BadKey {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: Shown,
    /// The name is longer than is shown.
    pub key_cut: bool,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// What is wrong.
    pub why: &'static str,
}

/// Keys, and the bytes that they take in the RDB, uncompressed by zstd.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Tally {
    /// Bytes: name, value, expiry.
    pub bytes: u64,
    /// Keys.
    pub keys: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        self.keys = self.keys.saturating_add(1);
    }

    fn join(&mut self, other: Self) {
        self.bytes = self.bytes.saturating_add(other.bytes);
        self.keys = self.keys.saturating_add(other.keys);
    }
}

/// One encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Encoding {
    /// The type that `TYPE` names, or `module` for all types of modules.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// How the value is written.
    pub encoding: &'static str,
    /// The RDB's type byte.
    pub rdb_type: u8,
    /// How many, how big.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Keys that expire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Expiries {
    /// How many.
    pub keys: u64,
    /// The first of them, Unix milliseconds.
    pub nearest_unix_ms: Option<i64>,
    /// The last.
    pub farthest_unix_ms: Option<i64>,
}

/// A big key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Big {
    /// What it takes in the RDB.
    pub bytes: u64,
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: Shown,
    /// The name is longer than is shown.
    pub key_cut: bool,
    /// Its type.
    #[serde(rename = "type")]
    pub type_name: &'static str,
    /// How it is written.
    pub encoding: &'static str,
    /// When it expires, Unix milliseconds.
    pub expiry_unix_ms: Option<i64>,
}

/// The keys of a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prefix {
    /// With its `:`. None: keys without one.
    pub prefix: Option<Shown>,
    /// How many, how big.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Reads an RDB.
#[derive(Debug)]
pub struct Inspector {
    reader: Reader,
    tables: Tables,
    unread: Option<(u64, String)>,
}

impl Inspector {
    /// An inspector that reports the `top` biggest keys and prefixes.
    #[must_use]
    pub fn new(top: usize) -> Self {
        Self {
            // It takes no values.
            reader: Reader::new(0).for_names(HELD_BYTES),
            tables: Tables {
                top: top.min(TOP_LIMIT),
                ..Tables::default()
            },
            unread: None,
        }
    }

    /// The same, and each value is checked.
    #[must_use]
    pub fn of_values(top: usize) -> Self {
        let mut inspector = Self::new(top);
        inspector.reader = Reader::new(HELD_BYTES);
        inspector.tables.values = Some(Values::default());
        inspector
    }

    /// Takes in the next bytes.
    ///
    /// # Errors
    /// When it is no sound RDB.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), ReadError<Infallible>> {
        if self.unread.is_some() {
            return Ok(());
        }
        match self.reader.push(chunk, &mut self.tables) {
            Err(ReadError::Unknown { from, reason }) => {
                self.unread = Some((from, reason));
                Ok(())
            }
            other => other,
        }
    }

    /// That was all.
    ///
    /// # Errors
    /// When the RDB is not at its end.
    pub fn finish(mut self) -> Result<Inspection, ReadError<Infallible>> {
        let summary = if self.unread.is_some() {
            self.reader.summary()
        } else {
            let after = self.reader.trailing();
            match self.reader.finish() {
                Err(ReadError::Trailing { at }) => self.unread = Some((at, what_follows(after))),
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            self.reader.summary()
        };
        Ok(self.tables.into_inspection(summary, self.unread))
    }
}

/// What follows the end of an RDB, by its first byte.
fn what_follows(first: Option<u8>) -> String {
    let follows = match first {
        // A command, or a time that servers note between commands.
        Some(b'*' | b'#') => {
            "what follows looks like commands, as in an append-only file that begins with an RDB. They are not counted"
        }
        _ => "what follows does not belong to it",
    };
    format!("the RDB ends there; {follows}")
}

/// What is counted.
#[derive(Debug, Default)]
struct Tables {
    top: usize,
    family: Family,
    /// The present key: database, type, name as far as it may be shown, prefix.
    key: (u32, u8, Vec<u8>, Option<Box<[u8]>>),
    encodings: BTreeMap<u8, Tally>,
    expiries: Expiries,
    /// The least of the biggest is on top.
    biggest: BinaryHeap<Reverse<Big>>,
    prefixes: HashMap<Option<Box<[u8]>>, Tally>,
    other: Tally,
    version: u32,
    values: Option<Values>,
}

impl Sink for Tables {
    type Error = Infallible;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), Infallible> {
        if opcode == reader::HEADER {
            (self.family, self.version) = crate::wire::rdb::magic(raw).unwrap_or_default();
        }
        Ok(())
    }

    fn fate(&mut self, db: u32, key: &[u8], kind: u8, _: bool) -> Fate {
        let colon = key.iter().take(PREFIX_BYTES).position(|byte| *byte == b':');
        let prefix = colon.and_then(|at| key.get(..=at)).map(Box::from);
        let (_, _, name, _) = &mut self.key;
        let mut name = std::mem::take(name);
        name.clear();
        // One byte more than is shown, to show that there is more.
        let kept = key.get(..NAME_BYTES.saturating_add(1)).unwrap_or(key);
        name.extend_from_slice(kept);
        self.key = (db, kind, name, prefix);
        if self.values.is_some() {
            Fate::Take
        } else {
            Fate::Drop
        }
    }

    fn pass(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), Infallible> {
        let (family, version) = (self.family, self.version);
        let Some(values) = &mut self.values else {
            return Ok(());
        };
        let told = parts(family, item.kind, item.payload, &mut |_| true);
        let told = match told {
            Ok(true) => {
                let (kind, payload) = (item.kind, item.payload.into());
                let decoded = Raw { kind, payload }.decode(Dialect { family, version });
                decoded.map(|_| true)
            }
            other => other,
        };
        match told {
            Ok(true) => values.read = values.read.saturating_add(1),
            Ok(false) => values.unread = values.unread.saturating_add(1),
            Err(BadValue(why)) => {
                values.bad = values.bad.saturating_add(1);
                if values.problems.len() < self.top {
                    values.problems.push(BadKey {
                        db: item.db,
                        key: Shown::cut(item.key, NAME_BYTES),
                        key_cut: item.key.len() > NAME_BYTES,
                        type_name: names(family, item.kind).0,
                        why,
                    });
                }
            }
        }
        Ok(())
    }

    fn over(&mut self, expiry: Option<i64>, bytes: u64) {
        let (db, kind, name, prefix) = &mut self.key;
        self.encodings.entry(*kind).or_default().add(bytes);
        if let Some(at) = expiry {
            let expiries = &mut self.expiries;
            expiries.keys = expiries.keys.saturating_add(1);
            let nearest = expiries.nearest_unix_ms.unwrap_or(at);
            expiries.nearest_unix_ms = Some(nearest.min(at));
            expiries.farthest_unix_ms = expiries.farthest_unix_ms.max(Some(at));
        }
        let prefix = prefix.take();
        if self.prefixes.len() < PREFIXES || self.prefixes.contains_key(&prefix) {
            self.prefixes.entry(prefix).or_default().add(bytes);
        } else {
            self.other.add(bytes);
        }
        let least = self.biggest.peek().map_or(0, |least| least.0.bytes);
        if self.biggest.len() >= self.top && bytes <= least {
            return;
        }
        let (type_name, encoding) = names(self.family, *kind);
        self.biggest.push(Reverse(Big {
            bytes,
            db: *db,
            key: Shown::cut(name, NAME_BYTES),
            key_cut: name.len() > NAME_BYTES,
            type_name,
            encoding,
            expiry_unix_ms: expiry,
        }));
        if self.biggest.len() > self.top {
            self.biggest.pop();
        }
    }
}

impl Tables {
    fn into_inspection(self, summary: &Summary, unread: Option<(u64, String)>) -> Inspection {
        let mut prefixes: Vec<Prefix> = self
            .prefixes
            .into_iter()
            .map(|(prefix, tally)| Prefix {
                prefix: prefix.map(|bytes| Shown(bytes.into_vec())),
                tally,
            })
            .collect();
        prefixes.sort_by(|a, b| (b.tally, &a.prefix).cmp(&(a.tally, &b.prefix)));
        let mut other_prefixes = self.other;
        for dropped in prefixes.iter().skip(self.top) {
            other_prefixes.join(dropped.tally);
        }
        prefixes.truncate(self.top);
        let encodings = self.encodings.into_iter().map(|(kind, tally)| {
            let (type_name, encoding) = names(self.family, kind);
            Encoding {
                type_name,
                encoding,
                rdb_type: kind,
                tally,
            }
        });
        let biggest = self.biggest.into_sorted_vec();
        let (unread_from, unread_reason) = unread.unzip();
        Inspection {
            rdb_magic: summary.magic.clone(),
            aux: summary.aux.clone(),
            bytes: summary.bytes,
            keys: summary.keys(),
            databases: summary.databases.clone(),
            types: summary
                .types
                .iter()
                .map(|(name, keys)| ((*name).to_owned(), *keys))
                .collect(),
            encodings: encodings.collect(),
            expiries: self.expiries,
            biggest: biggest.into_iter().map(|big| big.0).collect(),
            prefixes,
            other_prefixes,
            functions: summary.functions,
            modules: summary.modules.clone(),
            version_known: summary.is_version_known(),
            values: self.values,
            unread_from,
            unread_reason,
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::*;
    use crate::wire::rdb::samples::{rdb, rich, string};

    fn inspect(bytes: &[u8], chunk: usize, top: usize) -> Inspection {
        let mut inspector = Inspector::new(top);
        for chunk in bytes.chunks(chunk) {
            inspector.push(chunk).unwrap();
        }
        inspector.finish().unwrap()
    }

    #[test]
    fn what_is_found_does_not_depend_on_how_the_bytes_come() {
        let bytes = rich();
        let whole = inspect(&bytes, bytes.len(), 3);
        assert_eq!(whole.biggest.len(), 3);
        let sum = whole.encodings.iter().map(|encoding| encoding.tally.keys);
        assert_eq!(sum.sum::<u64>(), whole.keys);
        let expires: u64 = whole.databases.values().map(|db| db.expires).sum();
        // One of them is before an AUX field that only KeyDB writes there.
        assert_eq!(whole.expiries.keys, expires - 1);
        for chunk in [1, 2, 7, 100] {
            let cut = inspect(&bytes, chunk, 3);
            let json = |inspection| serde_json::to_string(inspection).unwrap();
            assert_eq!(json(&cut), json(&whole));
        }
    }

    #[test]
    fn keys_are_measured_and_the_biggest_stay() {
        let mut body = vec![0xFE, 0];
        for n in 0..50u8 {
            body.push(0);
            body.extend(string(format!("p{}:{n}", n % 2).as_bytes()));
            body.extend(string(&vec![b'x'; usize::from(n)]));
        }
        body.extend([0, 1, b'k', 0]);
        let found = inspect(&rdb("REDIS0011", &body), 9, 2);
        let biggest: Vec<_> = found
            .biggest
            .iter()
            .map(|big| (big.key.to_string(), big.bytes))
            .collect();
        let sized = |name: &str, n: u64| (name.to_owned(), 1 + 1 + name.len() as u64 + 1 + n);
        assert_eq!(biggest, [sized("p1:49", 49), sized("p0:48", 48)]);
        let prefixes: Vec<_> = found
            .prefixes
            .iter()
            .map(|of| (of.prefix.clone(), of.tally.keys))
            .collect();
        assert_eq!(
            prefixes,
            [
                (Some(Shown::new(b"p1:")), 25),
                (Some(Shown::new(b"p0:")), 25)
            ]
        );
        assert_eq!(found.other_prefixes, Tally { bytes: 4, keys: 1 });
    }

    #[test]
    fn what_is_no_rdb_is_refused() {
        assert!(
            Inspector::new(1)
                .push(b"hello, world, this is not it")
                .is_err()
        );
        let mut cut = Inspector::new(1);
        cut.push(b"REDIS0011\xfe").unwrap();
        assert!(cut.finish().is_err());
    }
}
