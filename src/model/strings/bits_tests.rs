#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::model::testing::{REDIS_13, empty};

use crate::model::ApplyError;

fn bytes(space: &mut Keyspace, key: &str) -> Option<Vec<u8>> {
    let args = Args::new(&[]);
    let text = space.value::<Text>(&args, key.as_bytes()).unwrap();
    text.map(|text| text.0.clone())
}

fn after(commands: &[&str]) -> Vec<u8> {
    let mut space = empty(REDIS_13);
    for command in commands {
        space.run(command).unwrap();
    }
    bytes(&mut space, "k").unwrap()
}

#[test]
fn bits_are_counted_from_the_most_significant_one() {
    assert_eq!(after(&["SETBIT k 7 1"]), [1]);
    assert_eq!(
        after(&["SETBIT k 7 1", "SETBIT k 16 1", "SETBIT k 7 0"]),
        [0, 0, 0x80]
    );
    assert_eq!(after(&["SETBIT k 17 0"]), [0, 0, 0]);
    let mut space = empty(REDIS_13);
    for command in ["SETBIT k -1 1", "SETBIT k 1 2", "SETBIT k x 1"] {
        let result = space.run(command);
        assert!(
            matches!(result, Err(ApplyError::Diverged { .. })),
            "{command}"
        );
    }
}

#[test]
fn fields_of_any_width_stand_anywhere() {
    assert_eq!(
        after(&["BITFIELD k SET u8 0 255 SET i5 9 -3"]),
        [0xFF, 0b0111_0100]
    );
    assert_eq!(after(&["bitfield k set u8 0 1"]), [1]);
    assert_eq!(after(&["BITFIELD k SET u4 #1 10"]), [0x0A]);
    assert_eq!(
        after(&["BITFIELD k SET i64 4 -2"]),
        [0x0F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xE0]
    );
    assert_eq!(after(&["BITFIELD k SET u8 0 7 INCRBY u63 8 0"]).len(), 9);
    assert_eq!(
        after(&["SET k ab", "BITFIELD k GET u8 100 INCRBY u8 #1 1"]),
        *b"ac"
    );
    let mut space = empty(REDIS_13);
    space.run("BITFIELD k GET u8 0 OVERFLOW SAT").unwrap();
    assert_eq!(bytes(&mut space, "k"), None);
    for wrong in [
        "SET u64 0 1",
        "SET i65 0 1",
        "SET u0 0 1",
        "SET I8 0 1",
        "SET u8 -1 1",
        "SET u8 #-1 1",
        "SET i8 #9223372036854775807 1",
        "SET u8 0",
        "OVERFLOW NONE",
        "MUL u8 0 1",
    ] {
        let result = space.run(&format!("BITFIELD k {wrong}"));
        assert!(
            matches!(result, Err(ApplyError::Diverged { .. })),
            "{wrong}"
        );
    }
}

#[test]
fn what_does_not_fit_wraps_or_stops_at_the_limit_or_is_left() {
    for (steps, left) in [
        ("SET u8 0 250 INCRBY u8 0 10", 4),
        ("SET u8 0 250 OVERFLOW SAT INCRBY u8 0 10", 255),
        ("SET u8 0 250 OVERFLOW FAIL INCRBY u8 0 10", 250),
        ("SET u8 0 3 OVERFLOW SAT INCRBY u8 0 -10", 0),
        ("SET u8 0 3 INCRBY u8 0 -10", 249),
        ("SET i8 0 120 INCRBY i8 0 10", 0x82),
        ("SET i8 0 120 OVERFLOW SAT INCRBY i8 0 10", 127),
        ("OVERFLOW SAT SET i8 0 -1000", 0x80),
        ("OVERFLOW SAT SET u8 0 -1", 255),
        ("OVERFLOW FAIL SET u8 0 256 OVERFLOW WRAP SET u8 0 257", 1),
        ("SET i8 0 -128 INCRBY i8 0 -1", 127),
    ] {
        assert_eq!(after(&[&format!("BITFIELD k {steps}")]), [left], "{steps}");
    }
    let most = i64::MAX.to_be_bytes();
    let all = format!("BITFIELD k SET i64 0 {} OVERFLOW", i64::MAX);
    assert_eq!(after(&[&format!("{all} SAT INCRBY i64 0 1")]), most);
    assert_eq!(after(&[&format!("{all} FAIL INCRBY i64 0 1")]), most);
    assert_eq!(
        after(&[&format!("{all} WRAP INCRBY i64 0 1")]),
        i64::MIN.to_be_bytes()
    );
}

#[test]
fn operations_take_shorter_strings_as_followed_by_zeros() {
    let mut space = empty(REDIS_13);
    for (key, value) in [
        ("a", &b"\xF0\xFF"[..]),
        ("b", b"\xCC"),
        ("c", b"\xAA\x0F\x01"),
    ] {
        space
            .apply(&[b"SET", key.as_bytes(), value, b"PXAT", b"5"])
            .unwrap();
    }
    for (command, result) in [
        ("BITOP AND k a b c", &[0x80, 0, 0][..]),
        ("BITOP OR k a b c", &[0xFE, 0xFF, 1]),
        ("BITOP xor k a b c", &[0x96, 0xF0, 1]),
        ("BITOP NOT k a", &[0x0F, 0]),
        ("BITOP DIFF k a b c", &[0x10, 0xF0, 0]),
        ("BITOP DIFF1 k a b c", &[0x0E, 0, 1]),
        ("BITOP ANDOR k a b c", &[0xE0, 0x0F, 0]),
        ("BITOP ONE k a b c", &[0x16, 0xF0, 1]),
        ("BITOP ONE k a b c a", &[0x06, 0, 1]),
        ("BITOP OR k nokey a", &[0xF0, 0xFF]),
        ("BITOP AND k a nokey", &[0, 0]),
        ("BITOP DIFF k nokey a", &[0, 0]),
        ("BITOP ONE k nokey a", &[0xF0, 0xFF]),
        ("BITOP NOT a a", &[0x0F, 0]),
    ] {
        space.run(command).unwrap();
        let key = if command.contains(" k ") { "k" } else { "a" };
        assert_eq!(bytes(&mut space, key).unwrap(), result, "{command}");
    }
    assert_eq!(
        space.entry(b"a").unwrap().unwrap().expiry,
        None,
        "a new key"
    );
    space.run("BITOP OR k nokey nokey").unwrap();
    assert_eq!(bytes(&mut space, "k"), None);
    assert!(space.run("BITOP NAND k a").unwrap_err().is_unmodelled());
    assert!(!space.run("BITOP NOT k a b").unwrap_err().is_unmodelled());
}

/// What Redis 6.0 to 8.6 and Valkey 8.1 and 9.1 all make of it: numbers so low that their distance from the greatest
/// one overflows become that one.
#[test]
fn saturation_is_that_of_the_servers() {
    for (kind, number, wanted) in [
        ("i8", "-9223372036854775808", [0x7F, 0]),
        ("i8", "-9223372036854775700", [0x7F, 0]),
        ("i8", "-9223372036854775680", [0x80, 0]),
        ("i7", "-9223372036854775700", [0x80, 0]),
        ("i8", "9223372036854775807", [0x7F, 0]),
        ("i16", "-40000", [0x80, 0]),
        ("i1", "-9223372036854775808", [0, 0]),
        ("i1", "-9223372036854775807", [0x80, 0]),
        ("u8", "-9223372036854775808", [0xFF, 0]),
        ("u8", "-1", [0xFF, 0]),
    ] {
        let command = format!("BITFIELD k SET u8 8 0 OVERFLOW SAT SET {kind} 0 {number}");
        assert_eq!(after(&[&command]), wanted, "{command}");
    }
    let command = "BITFIELD k SET i8 0 -100 OVERFLOW SAT INCRBY i8 0 -9223372036854775808";
    assert_eq!(after(&[command]), [0x80]);
}
