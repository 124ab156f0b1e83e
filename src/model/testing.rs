//! For the tests of the key space: commands in, values out, without a snapshot behind it.

#![allow(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::wire::rdb::Family;

/// As Redis 8.6 writes.
pub(crate) const REDIS_13: Dialect = redis(13);
/// As Redis 6.2 writes.
pub(crate) const REDIS_9: Dialect = redis(9);

/// As Redis writes this version of the RDB.
pub(crate) const fn redis(version: u32) -> Dialect {
    Dialect {
        family: Family::Redis,
        version,
    }
}

/// An empty key space, in which every key is known not to be there.
pub(crate) fn empty(dialect: Dialect) -> Keyspace {
    let mut space = Keyspace::new(&mut Footprint::new(0), dialect, 0);
    for db in (0..16).rev() {
        space.follow(DatabaseCommand::Select(db));
        space.follow(DatabaseCommand::Flush);
    }
    space
}

impl Keyspace {
    /// Applies a command given as text, split at spaces, and notes it, as the first pass would. A command that cannot
    /// be applied is an error.
    pub(crate) fn run(&mut self, command: &str) -> Result<(), ApplyError> {
        let argv: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        Footprint::new(0).note(&argv)?;
        self.try_apply(&argv)
    }

    /// Applies a command. What cannot be applied is an error, and not keys that are lost.
    pub(crate) fn try_apply(&mut self, argv: &[&[u8]]) -> Result<(), ApplyError> {
        let args = Args::new(argv);
        self.try_spec(Self::spec(&args)?, &args)
    }

    /// The RDB type and payload of a key of the selected database, as they would be written.
    pub(crate) fn dump(&mut self, key: &str) -> Option<(u8, Vec<u8>)> {
        let dialect = self.dialect();
        let entry = self.entry(key.as_bytes()).unwrap()?;
        let mut out = Vec::new();
        let kind = entry.value.encode(dialect, &mut out);
        Some((kind, out))
    }

    /// Writes a key, and reads it again from what was written: the way into the next snapshot.
    pub(crate) fn rewrite(&mut self, key: &str) {
        let (kind, payload) = self.dump(key).unwrap();
        let raw = Raw {
            kind,
            payload: payload.into(),
        };
        self.entry(key.as_bytes()).unwrap().unwrap().value = Value::Raw(raw);
    }
}

/// All keys, in order, each with its database before it.
pub(crate) fn keys(space: &Keyspace) -> Vec<String> {
    let mut keys: Vec<String> = space
        .entries()
        .flat_map(|(db, keys)| keys.map(move |(key, _)| format!("{db}:{}", key.escape_ascii())))
        .collect();
    keys.sort();
    keys
}

/// Elements with a bar between.
pub(crate) fn barred<'a>(elements: impl Iterator<Item = &'a Blob>) -> String {
    let shown = elements.map(|element| String::from_utf8_lossy(element).into_owned());
    shown.collect::<Vec<_>>().join("|")
}

/// The elements of a list, with a bar between; none if there is no such key.
pub(crate) fn list(space: &mut Keyspace, key: &str) -> Option<String> {
    let list = space.value::<List>(&Args::new(&[]), key.as_bytes());
    Some(barred(list.unwrap()?.iter()))
}

/// Can no master have done this?
pub(crate) fn is_diverged(result: Result<(), ApplyError>) -> bool {
    matches!(result, Err(ApplyError::Diverged { .. }))
}

/// After these commands, no master can have done any of those.
pub(crate) fn all_diverge(fills: &[&str], commands: &[&str]) {
    for command in commands {
        let mut space = empty(REDIS_13);
        for fill in fills {
            space.run(fill).unwrap();
        }
        let result = space.run(command);
        assert!(is_diverged(result.clone()), "{command}: {result:?}");
    }
}

#[test]
fn a_string_goes_through() {
    let mut space = empty(REDIS_13);
    space.run("MSET a 1 b xyz").unwrap();
    space.run("APPEND a 2").unwrap();
    space.rewrite("a");
    space.run("append a 3").unwrap();
    assert_eq!(space.dump("a").unwrap(), (0, vec![0xC0, 123]));
    assert!(matches!(
        space.run("SETNX a 1"),
        Err(ApplyError::Diverged { .. })
    ));
    assert!(space.run("NOSUCH a").unwrap_err().is_unmodelled());
}

#[test]
fn a_value_that_is_decoded_is_accounted_for() {
    let mut space = empty(REDIS_13);
    // 64 KiB of zeros, compressed.
    let mut payload = vec![0xC3, 0x42, 0xEC, 0x80, 0, 1, 0, 0, 0, 0];
    payload.extend([0xE0, 0xFF, 0].repeat(248));
    payload.extend([0, 0].repeat(65_535 - 248 * 264));
    let stored = (payload.len() - 8) as u16 | 0x4000;
    payload[1..3].copy_from_slice(&stored.to_be_bytes());
    let raw = Raw {
        kind: 0,
        payload: payload.into(),
    };
    space.load(0, b"k", Entry::new(Value::Raw(raw)));
    let before = space.weight();
    space.run("SETBIT k 7 1").unwrap();
    assert!(space.weight() > before + 60_000, "{}", space.weight());
}
