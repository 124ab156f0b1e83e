#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::super::testing::{REDIS_13, empty, is_diverged};
use super::*;

fn text(space: &mut Keyspace, key: &str) -> Option<String> {
    let dialect = space.dialect();
    let entry = space.entry(key.as_bytes()).unwrap()?;
    let decoded;
    let value = match &entry.value {
        Value::Raw(raw) => {
            decoded = raw.decode(dialect).unwrap();
            &decoded
        }
        value => value,
    };
    match value {
        Value::Text(text) => Some(text.0.escape_ascii().to_string()),
        _ => None,
    }
}

fn expiry(space: &mut Keyspace, key: &str) -> Option<i64> {
    space.entry(key.as_bytes()).unwrap().unwrap().expiry
}

#[test]
fn set_replaces_whatever_is_there_and_its_options_say_what_becomes_of_the_expiry() {
    let mut space = empty(REDIS_13);
    for (command, time) in [
        ("set k v", None),
        ("SET k v PXAT 1700000000123", Some(1_700_000_000_123)),
        ("SET k w xx KeepTTL", Some(1_700_000_000_123)),
        ("SET k w IFEQ w KEEPTTL", Some(1_700_000_000_123)),
        ("SET k x IFDNE 0123456789abcdef", None),
        ("SET k x NX EXAT 1700000000", Some(1_700_000_000_000)),
        ("SET k y IFNE KEEPTTL", None),
        ("SET k y PXAT 5 GET", Some(5)),
        ("SETNX l 1", Some(5)),
        ("GETSET k z", None),
        ("SET k y PXAT 5", Some(5)),
        ("MSET k a l b", None),
    ] {
        space.run(command).unwrap();
        assert_eq!(expiry(&mut space, "k"), time, "{command}");
    }
    assert_eq!(text(&mut space, "k").unwrap(), "a");
    for command in [
        "SET k v EX 10",
        "SET k v GET px 10",
        "SETEX k 1 v",
        "PSETEX k 1 v",
    ] {
        assert!(space.run(command).unwrap_err().is_unmodelled(), "{command}");
    }
    assert!(space.run("SET k v NEWOPTION").unwrap_err().is_unmodelled());
    for command in [
        "SET k v PXAT 0",
        "SET k v EXAT 9223372036854775807",
        "SET k v PXAT",
    ] {
        assert!(is_diverged(space.run(command)), "{command}");
    }
}

#[test]
fn relative_expiries_are_found_before_anything_is_applied() {
    for command in [
        "SET k v EX 10",
        "GETEX k PX 10",
        "MSETEX 1 k v EX 10",
        "RESTORE k 5 x",
    ] {
        let argv: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let noted = crate::model::Footprint::new(0).note(&argv);
        assert!(noted.unwrap_err().is_unmodelled(), "{command}");
    }
}

#[test]
fn getex_getdel_and_conditional_deletes() {
    let mut space = empty(REDIS_13);
    space.run("SET k v").unwrap();
    space.run("GETEX k PXAT 77").unwrap();
    space.run("GETEX k").unwrap();
    assert_eq!(expiry(&mut space, "k"), Some(77));
    space.run("GETEX k PERSIST").unwrap();
    space.run("GETEX nokey PXAT 77").unwrap();
    assert_eq!(expiry(&mut space, "k"), None);
    for command in ["GETDEL k", "DELIFEQ k v", "DELEX k", "DELEX k IFNE v"] {
        space.run("SET k v").unwrap();
        space.run(command).unwrap();
        assert_eq!(text(&mut space, "k"), None, "{command}");
        space.run(command).unwrap();
    }
}

#[test]
fn msetnx_and_msetex() {
    let mut space = empty(REDIS_13);
    space.run("MSETNX a 1 b 2 a 3").unwrap();
    assert_eq!(text(&mut space, "a").unwrap(), "3");
    assert!(is_diverged(space.run("MSETNX c 1 b 2")));
    space.run("MSETEX 2 a 1 c 2 XX PXAT 99").unwrap();
    space.run("MSETEX 2 a 4 d 5 KEEPTTL").unwrap();
    assert_eq!(["a", "c"].map(|key| expiry(&mut space, key)), [Some(99); 2]);
    assert_eq!(["b", "d"].map(|key| expiry(&mut space, key)), [None; 2]);
    assert_eq!(text(&mut space, "a").unwrap(), "4");
    assert!(is_diverged(space.run("MSETEX 3 a 4 d 5")));
    assert!(is_diverged(space.run("MSET a 4 d")));
}

#[test]
fn parts_are_changed_in_place_and_the_expiry_stays() {
    let mut space = empty(REDIS_13);
    space.run("SET k 10 PXAT 5").unwrap();
    space.run("APPEND k abc").unwrap();
    space.run("SETRANGE k 1 XY").unwrap();
    space.rewrite("k");
    space.run("SETRANGE k 7 !").unwrap();
    assert_eq!(text(&mut space, "k").unwrap(), "1XYbc\\x00\\x00!");
    assert_eq!(expiry(&mut space, "k"), Some(5));
    space.run("SETRANGE new 2 a").unwrap();
    assert_eq!(text(&mut space, "new").unwrap(), "\\x00\\x00a");
    space.run("SETRANGE nothing 2 ").unwrap();
    assert_eq!(text(&mut space, "nothing"), None);
    space.run("APPEND empty ").unwrap();
    assert_eq!(space.dump("empty").unwrap(), (0, vec![0]));
    assert!(is_diverged(space.run("SETRANGE k -1 a")));
}

#[test]
fn padding_is_limited_and_accounted_for() {
    let mut space = empty(REDIS_13);
    assert!(
        space
            .run("SETRANGE k 536870912 x")
            .unwrap_err()
            .is_unmodelled()
    );
    assert!(
        space
            .run("SETBIT k 4294967296 1")
            .unwrap_err()
            .is_unmodelled()
    );
    let before = space.weight();
    space.run("SETRANGE k 1000000 x").unwrap();
    assert!(space.weight() - before > 1_000_000);
}

#[test]
fn numbers_are_counted_as_servers_count() {
    let mut space = empty(REDIS_13);
    for (command, sum) in [
        ("INCR n", "1"),
        ("DECRBY n 11", "-10"),
        ("INCRBY n -9223372036854775798", "-9223372036854775808"),
        ("INCRBY n 9223372036854775807", "-1"),
        ("DECR n", "-2"),
        ("DECRBY n -9223372036854775807", "9223372036854775805"),
    ] {
        space.run(command).unwrap();
        space.rewrite("n");
        assert_eq!(text(&mut space, "n").unwrap(), sum, "{command}");
    }
    for command in ["INCRBY n 3", "INCRBY n 1.5", "INCRBY n +1"] {
        assert!(is_diverged(space.run(command)), "{command}");
    }
    for no_number in ["", "007", "-0", " 1", "1 ", "9223372036854775808"] {
        let argv = [&b"SET"[..], b"x", no_number.as_bytes()];
        space.apply(&argv).unwrap();
        assert!(is_diverged(space.run("INCR x")), "{no_number:?}");
    }
    assert!(space.run("INCRBYFLOAT n 1").unwrap_err().is_unmodelled());
}

#[test]
fn golden_strings_of_servers_are_read_and_written() {
    for (payload, string) in [
        (&b"\x05hello"[..], "hello"),
        (b"\xc1\x2e\xfb", "-1234"),
        (b"\xc3\x09\x40\x40\x01aa\xe0\x33\x00\x01aa", &"a".repeat(64)),
    ] {
        let raw = Raw {
            kind: value_type::STRING,
            payload: payload.into(),
        };
        let decoded = Text::decode(&raw, REDIS_13).unwrap().unwrap();
        assert_eq!(decoded.0, string.as_bytes());
        let mut out = Vec::new();
        assert_eq!(decoded.encode(REDIS_13, &mut out), value_type::STRING);
        if string.len() < 20 {
            assert_eq!(out, payload); // we do not compress
        }
    }
    let long = Raw {
        kind: value_type::STRING,
        payload: Box::from(&b"\x05hello!"[..]),
    };
    assert!(Text::decode(&long, REDIS_13).unwrap().is_err());
}
