#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use proptest::prelude::*;

use super::*;
use crate::wire::crc64::Crc64;
use crate::wire::rdb::samples::{
    REDIS_DUMPS, aux, counts, dumped, module_id, outcome, rdb, rich, string, walk,
};

// --- Damage
// -----------------------------------------------------------------------------------------------------------

#[test]
fn cut_off_anywhere_it_is_not_complete() {
    let bytes = rich();
    for end in 0..bytes.len() {
        let mut walker = Walker::new();
        assert_eq!(walker.push(&bytes[..end]).unwrap(), end);
        assert!(!walker.is_complete(), "cut at {end}");
        let error = walker.finish_opaque().unwrap_err();
        assert!(matches!(error, WalkError::CutOff { bytes, .. } if bytes == end as u64));
        assert_eq!(
            walker.finish_opaque().unwrap_err(),
            error,
            "it stays refused"
        );
    }
}

#[test]
fn one_changed_byte_is_never_taken_for_a_sound_rdb() {
    let bytes = rich();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x04, 0x10, 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            let mut walker = Walker::new();
            let sound = match walker.push(&changed) {
                Ok(used) => walker.finish_opaque().is_ok() && used == changed.len(),
                Err(error) => {
                    assert_eq!(walker.push(b"more").unwrap_err(), error);
                    false
                }
            };
            assert!(!sound, "byte {at} ^ {flip:#x}");
        }
    }
}

#[test]
fn a_wrong_checksum_is_an_error_and_none_is_fine() {
    let mut bytes = rich();
    let end = bytes.len() - 8;
    let found = Crc64::of(&bytes[..end]);
    bytes[end..].copy_from_slice(&1_u64.to_le_bytes());
    assert_eq!(
        outcome(&bytes).unwrap_err(),
        WalkError::Checksum { expected: 1, found }
    );
    bytes[end..].fill(0);
    assert_eq!(outcome(&bytes).unwrap().checksum, Checksum::Absent);
}

#[test]
fn old_versions_have_no_checksum() {
    let bytes = [b"REDIS0004", &dumped("key", REDIS_DUMPS[0].1)[..], &[0xFF]].concat();
    let summary = walk(&bytes);
    assert_eq!((summary.checksum, summary.version), (Checksum::Absent, 4));
    assert!(outcome(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn messages_say_where_and_what() {
    let message = |bytes: &[u8]| outcome(bytes).unwrap_err().to_string();
    let magic = rdb("REDIS0011", &[]);
    let mut messages = vec![
        message(b"-ERR unknown command"),
        message(b"REDIS00x1"),
        message(&magic[..8]),
    ];
    let bad_length = [&dumped("a", REDIS_DUMPS[0].1)[..], &[0, 0xB0, 1, 2]].concat();
    messages.push(message(&rdb("REDIS0011", &bad_length)));
    messages.push(message(&rdb("REDIS0011", &[2, 1, b'k', 0xC3])));
    messages.push(message(&rdb("REDIS0011", &[0, 0xC9])));
    messages.push(message(&rdb(
        "REDIS0011",
        &[&[0x00, 0x81][..], &[0xFF; 8]].concat(),
    )));
    messages.push(message(&rdb(
        "REDIS0011",
        &[&[2, 1, b'k', 0x81][..], &[0xFF; 8]].concat(),
    )));
    messages.push(message(&rdb(
        "REDIS0011",
        &[&[0xFE, 0x81][..], &[0x7F; 8]].concat(),
    )));
    messages.push(message(&rdb("REDIS0011", &[0, 50, b'k'])));
    insta::assert_snapshot!(messages.join("\n"), @r"
    this is not an RDB: it begins with `-ERR unkn`, not with `REDIS` or `VALKEY` and a version
    this is not an RDB: it begins with `REDIS00x1`, not with `REDIS` or `VALKEY` and a version
    the RDB was cut off: it stops after 8 bytes, within its first 9 bytes
    the RDB is damaged: at byte 19 there should be a length, but there is 0xB0 (in a key of type 0 (string), which begins at byte 18)
    the RDB is damaged: at byte 12 there should be a length, but there is a string encoding (3) (in a key of type 2 (set), which begins at byte 9)
    the RDB is damaged: at byte 10 there should be a string, but there is the unknown string encoding 9 (in a key of type 0 (string), which begins at byte 9)
    the RDB is damaged: at byte 10 there should be the length of a string, but there is 18446744073709551615, more than any server allows (in a key of type 0 (string), which begins at byte 9)
    the RDB is damaged: at byte 12 there should be a count of elements, but there is 18446744073709551615 (in a key of type 2 (set), which begins at byte 9)
    the RDB is damaged: at byte 10 there should be the number of a database, but there is 9187201950435737471 (in SELECTDB, which begins at byte 9)
    the RDB was cut off: it stops after 21 bytes, within a key of type 0 (string), which begins at byte 9
    ");
}

#[test]
fn endless_databases_are_refused() {
    let mut body = Vec::new();
    for db in 0..=DATABASES_LIMIT as u32 {
        body.extend([&[0xFE, 0x80][..], &db.to_be_bytes(), &[0, 1, b'k', 1, b'v']].concat());
    }
    let error = outcome(&rdb("REDIS0011", &body)).unwrap_err();
    assert!(
        matches!(
            error,
            WalkError::Limit {
                what: "databases",
                ..
            }
        ),
        "{error}"
    );
}

// --- Unknown things
// ---------------------------------------------------------------------------------------------------

#[test]
fn an_unknown_type_or_opcode_stops_the_walk_but_not_the_checksum() {
    let known = [aux("redis-ver", "9.0"), dumped("a", REDIS_DUMPS[0].1)].concat();
    let module = [
        &[7],
        &string(b"m")[..],
        &module_id(b"test_mod1", 1),
        &[9, 0],
    ]
    .concat();
    for unknown in [
        vec![28, 1, b'k', 0xBF, 3],
        vec![0xF2, 1],
        vec![0xF6, 1],
        vec![121],
        module,
    ] {
        let mut bytes = rdb("REDIS0011", &[&known[..], &unknown].concat());
        let summary = outcome(&bytes).unwrap();
        let unwalked = summary.unwalked.clone().unwrap();
        assert_eq!(unwalked.from, 9 + known.len() as u64);
        assert!(unwalked.reason.contains("unknown"), "{}", unwalked.reason);
        assert_eq!(
            summary.databases[&0],
            counts(1, 0),
            "what stands before it is counted"
        );
        assert_eq!(summary.checksum, Checksum::Verified);
        assert_eq!(summary.bytes, bytes.len() as u64);

        let end = bytes.len() - 8;
        bytes[end - 2] ^= 1;
        assert!(matches!(outcome(&bytes), Err(WalkError::Checksum { .. })));
        bytes[end..].fill(0);
        assert_eq!(outcome(&bytes).unwrap().checksum, Checksum::Absent);
        bytes[end - 1] = 0xFE;
        assert!(matches!(outcome(&bytes), Err(WalkError::Malformed { .. })));
        bytes.truncate(9 + known.len() + 5);
        assert!(matches!(outcome(&bytes), Err(WalkError::CutOff { .. })));
    }
}

#[test]
fn a_newer_version_is_walked_as_far_as_it_can_be() {
    let summary = outcome(&rdb("REDIS0016", &dumped("a", REDIS_DUMPS[0].1))).unwrap();
    assert_eq!((summary.keys(), summary.unwalked), (1, None));

    // What would be damage in a version that we know may be a change of the format in one that we do not.
    let strange: [&[u8]; 3] = [
        &[0, 0xB0, 1, 2, 3],
        &[0xFF, 1, 2, 3, 4, 5, 6, 7, 8, 9],
        &[0xFE, 1, 28],
    ];
    for strange in strange {
        let bytes = rdb(
            "REDIS0017",
            &[&dumped("a", REDIS_DUMPS[0].1)[..], strange].concat(),
        );
        for size in [1, 5, bytes.len()] {
            let mut walker = Walker::new();
            for chunk in bytes.chunks(size) {
                assert_eq!(walker.push(chunk).unwrap(), chunk.len());
            }
            walker.finish_opaque().unwrap();
            let summary = walker.summary();
            assert!(
                summary
                    .unwalked
                    .as_ref()
                    .unwrap()
                    .reason
                    .contains("REDIS0017 is newer")
            );
            assert_eq!(summary.checksum, Checksum::Verified);
            assert_eq!(summary.keys(), 1);
        }
        let mut damaged = bytes;
        damaged[12] ^= 1;
        assert!(outcome(&damaged).is_err());
    }
}

// --- Anything at all
// --------------------------------------------------------------------------------------------------

fn walk_anything(bytes: &[u8], size: usize) -> (Result<(), WalkError>, Summary) {
    let mut walker = Walker::new();
    let mut result = Ok(());
    for chunk in bytes.chunks(size) {
        match walker.push(chunk) {
            Ok(_) if walker.is_complete() => break,
            Ok(used) => assert_eq!(used, chunk.len()),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    if result.is_ok() {
        result = walker.finish_opaque();
    }
    (result, walker.summary().clone())
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_chunks_do_not_matter(
        body in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..30, 0xF0u8..], 0..400),
        magic in prop_oneof![Just("REDIS0011"), Just("REDIS0013"), Just("VALKEY080"), Just("REDIS0099"), Just("REDIS0003")],
        size in 1usize..50,
    ) {
        for bytes in [rdb(magic, &body), body] {
            let (whole, summary) = walk_anything(&bytes, usize::MAX);
            let (pieces, summary_of_pieces) = walk_anything(&bytes, size);
            prop_assert_eq!(&whole, &pieces);
            if whole.is_ok() {
                prop_assert_eq!(summary, summary_of_pieces);
            }
        }
    }

    #[test]
    fn damage_in_the_middle_never_panics(at in 0usize..400, bytes in prop::collection::vec(any::<u8>(), 1..12)) {
        let mut damaged = rich();
        let at = at % damaged.len();
        for (to, from) in damaged[at..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        let (result, summary) = walk_anything(&damaged, usize::MAX);
        if damaged != rich() && summary.bytes == damaged.len() as u64 && summary.checksum == Checksum::Verified {
            prop_assert!(result.is_err());
        }
    }
}
