#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use super::super::testing::{REDIS_13, empty};
use super::super::{Footprint, Keyspace, Raw, Value};
use crate::wire::position::Offset;

/// A vector set, and other keys.
fn space() -> Keyspace {
    let mut space = empty(REDIS_13);
    for line in ["SET v x", "SADD a 1", "SADD b 2", "SET s 1"] {
        space.run(line).unwrap();
    }
    let payload = [7].into();
    space.entry(b"v").unwrap().unwrap().value = Value::Raw(Raw { kind: 7, payload });
    space
}

/// The keys that are not known after these commands, which stand at offsets 10, 20, …
fn unknown_after(lines: &[&str]) -> (Keyspace, Vec<String>) {
    let mut space = space();
    for (at, line) in (1..).zip(lines) {
        space.stands_at(Offset(at * 10));
        let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        space.apply(&argv).unwrap();
    }
    let unknown = space.unknowns();
    let mut names: Vec<String> = unknown
        .map(|(db, key, of)| format!("{db}:{} {}", key.escape_ascii(), of.since))
        .collect();
    names.sort();
    assert_eq!(space.is_known(), names.is_empty());
    (space, names)
}

#[test]
fn what_cannot_be_applied_costs_the_keys_that_it_writes() {
    for (lines, unknown) in [
        (&["VADD v VALUES 1 1 e"][..], &["0:v 10"][..]),
        // The first reason stays.
        (&["VADD v VALUES 1 1 e", "VREM v e"], &["0:v 10"]),
        // Whatever overwrites it heals it.
        (&["VADD v VALUES 1 1 e", "SET v 1"], &[]),
        (&["VADD v VALUES 1 1 e", "DEL v"], &[]),
        (&["VADD v VALUES 1 1 e", "FLUSHDB"], &[]),
        (&["VADD v VALUES 1 1 e", "FLUSHALL"], &[]),
        (&["VADD v VALUES 1 1 e", "SUNIONSTORE v a b"], &[]),
        // It goes on where it goes, and what is read beside it stays as it is.
        (&["VADD v VALUES 1 1 e", "SWAPDB 0 3"], &["3:v 10"]),
        (&["VADD v VALUES 1 1 e", "RENAME v w"], &["0:w 10"]),
        (&["VADD v VALUES 1 1 e", "RENAME v v"], &["0:v 10"]),
        (&["VADD v VALUES 1 1 e", "RENAME a v"], &[]),
        (&["VADD v VALUES 1 1 e", "MOVE v 3"], &["3:v 10"]),
        (&["VADD v VALUES 1 1 e", "COPY v w"], &["0:v 10", "0:w 10"]),
        (
            &["VADD v VALUES 1 1 e", "SUNIONSTORE d a v b"],
            &["0:d 10", "0:v 10"],
        ),
        (
            &["VADD v VALUES 1 1 e", "SUNIONSTORE d a b"],
            &["0:v 10"][..],
        ),
        // A value that no command can look into.
        (&["SADD a 3", "SADD v 1", "EXPIREAT v 99"], &["0:v 20"]),
        (&["MSET s 1 t 2", "SPOP a"], &["0:a 20"]),
        // It cannot have succeeded: who looks at keys goes on.
        (&["SADD s 1"], &["0:s 10"]),
    ] {
        let (space, found) = unknown_after(lines);
        assert_eq!(found, unknown, "{lines:?}");
        let known = |key: &[u8]| space.unknown(0, key).is_none();
        assert!(known(b"b") && (known(b"v") || space.get(0, b"v").is_none()));
    }
}

#[test]
fn what_touches_unknown_keys_is_an_error() {
    let mut space = space();
    let argv: [&[u8]; 2] = [b"MODULE.COMMAND", b"a"];
    assert!(space.apply(&argv).is_err());
    assert!(space.run("FCALL f 1 a").is_err());
}

/// The first pass says the same of commands that can never be applied.
#[test]
fn the_first_pass_sees_what_the_commands_tell() {
    for (lines, lost) in [
        (&["VADD v VALUES 1 1 e"][..], true),
        (&["VADD v VALUES 1 1 e", "DEL v"], false),
        (&["VADD v VALUES 1 1 e", "RENAME v w", "DEL v"], true),
        (&["VADD v VALUES 1 1 e", "RENAME v w", "DEL w"], false),
        (
            &["VADD v VALUES 1 1 e", "MOVE v 1", "SELECT 1", "DEL v"],
            false,
        ),
        (&["VADD v VALUES 1 1 e", "SWAPDB 0 3", "DEL v"], true),
        (
            &["VADD v VALUES 1 1 e", "SWAPDB 0 3", "SELECT 3", "DEL v"],
            false,
        ),
        (&["VADD v VALUES 1 1 e", "SELECT 1", "FLUSHDB"], true),
        (&["VADD v VALUES 1 1 e", "FLUSHDB"], false),
        (&["VADD v VALUES 1 1 e", "SELECT 1", "FLUSHALL"], false),
        (&["SADD v 1"], false),
    ] {
        let mut footprint = Footprint::new(0);
        for line in lines {
            let argv: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            footprint.note(&argv).unwrap();
        }
        assert_eq!(footprint.has_lost(), lost, "{lines:?}");
    }
    assert!(Footprint::new(0).note(&[b"MODULE.COMMAND", b"a"]).is_err());
}
