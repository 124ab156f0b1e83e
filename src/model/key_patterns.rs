//! Patterns of keys: those that begin and end in a certain way (`SORT … BY weight_*`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::Blob;

/// Patterns, by database of the snapshot.
///
/// A log can hold very many of them (`SORT … BY user:4711:*`), and each key of the snapshot is looked up here. So they
/// are found by the first bytes of the key. There are few different lengths of these.
#[derive(Clone, Debug, Default)]
pub(super) struct Patterns {
    dbs: BTreeMap<u32, OfDb>,
}

#[derive(Clone, Debug, Default)]
struct OfDb {
    suffixes: HashMap<Blob, HashSet<Blob>>,
    /// The lengths of the prefixes.
    lengths: BTreeSet<usize>,
}

impl Patterns {
    /// Adds one. Was it new?
    pub(super) fn add(&mut self, db: u32, prefix: Blob, suffix: Blob) -> bool {
        let db = self.dbs.entry(db).or_default();
        db.lengths.insert(prefix.len());
        db.suffixes.entry(prefix).or_default().insert(suffix)
    }

    /// Are there none?
    pub(super) fn is_empty(&self) -> bool {
        self.dbs.is_empty()
    }

    /// Does one of them match the key?
    pub(super) fn has(&self, db: u32, key: &[u8]) -> bool {
        let Some(db) = self.dbs.get(&db) else {
            return false;
        };
        db.lengths.range(..=key.len()).any(|length| {
            let Some((prefix, rest)) = key.split_at_checked(*length) else {
                return false;
            };
            let suffixes = db.suffixes.get(prefix);
            suffixes.is_some_and(|all| all.iter().any(|suffix| rest.ends_with(suffix)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_how_a_key_begins_and_ends() {
        let mut patterns = Patterns::default();
        let mut add =
            |db, prefix: &[u8], suffix: &[u8]| patterns.add(db, prefix.into(), suffix.into());
        assert!(add(0, b"w_", b""));
        assert!(!add(0, b"w_", b""));
        assert!(add(0, b"user:", b":x"));
        assert!(add(3, b"", b"end"));
        for (db, key, matches) in [
            (0, &b"w_1"[..], true),
            (0, b"w_", true),
            (0, b"w", false),
            (1, b"w_1", false),
            (0, b"user:7:x", true),
            (0, b"user:x", false), // The colon cannot be both.
            (0, b"user:7:y", false),
            (3, b"end", true),
            (3, b"the end", true),
            (3, b"en", false),
        ] {
            assert_eq!(
                patterns.has(db, key),
                matches,
                "{db} {}",
                key.escape_ascii()
            );
        }
    }
}
