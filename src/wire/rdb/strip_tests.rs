#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use super::*;
use crate::wire::rdb::Checksum;
use crate::wire::rdb::samples::{rdb, walk};

fn string(text: &[u8]) -> Vec<u8> {
    [&[0x80], &(text.len() as u32).to_be_bytes()[..], text].concat()
}

fn aux(key: &str, value: &[u8]) -> Vec<u8> {
    [&[0xFA], &string(key.as_bytes())[..], value].concat()
}

fn version() -> Vec<u8> {
    aux("redis-ver", &string(b"7.0.15"))
}

/// The three replication fields: as text, as an integer, and in LZF, as a server packs an id that repeats itself.
fn position() -> [Vec<u8>; 3] {
    [
        aux("repl-stream-db", &[0xC0, 0]),
        aux(
            "repl-id",
            &[
                0xC3, 9, 0x40, 0x40, 1, b'a', b'a', 0xE0, 0x33, 0, 1, b'a', b'a',
            ],
        ),
        aux("repl-offset", &string(b"1234567890123")),
    ]
}

fn key() -> Vec<u8> {
    [&[0xFE, 0, 0], &string(b"key")[..], &string(b"value")].concat()
}

/// What comes out, pushed in chunks of `size`; checks that its length is told before its first byte comes.
fn strip(bytes: &[u8], size: usize) -> Result<Vec<u8>, StripError> {
    let mut stripper = Stripper::new(bytes.len() as u64);
    let mut out = Vec::new();
    for chunk in bytes.chunks(size) {
        let passed = stripper.push(Bytes::copy_from_slice(chunk))?;
        assert!(passed.is_empty() || stripper.output_len().is_some());
        out.extend_from_slice(&passed);
    }
    out.extend_from_slice(&stripper.finish()?);
    assert_eq!(stripper.output_len(), Some(out.len() as u64));
    Ok(out)
}

#[test]
fn the_position_is_taken_out_and_the_checksum_made_anew() {
    let [db, id, offset] = position();
    let ctime = || aux("ctime", &[0xC2, 1, 2, 3, 4]);
    let orders = [
        vec![
            version(),
            ctime(),
            db.clone(),
            id.clone(),
            offset.clone(),
            key(),
        ],
        vec![
            db.clone(),
            version(),
            id.clone(),
            ctime(),
            offset.clone(),
            key(),
        ],
        vec![offset, id, version(), ctime(), db, key()],
    ];
    let expected = rdb("REDIS0011", &[version(), ctime(), key()].concat());
    assert_eq!(walk(&expected).checksum, Checksum::Verified);
    for parts in orders {
        let bytes = rdb("REDIS0011", &parts.concat());
        for size in 1..=bytes.len() {
            assert_eq!(strip(&bytes, size).unwrap(), expected, "chunks of {size}");
        }
    }
}

#[test]
fn a_snapshot_without_a_position_comes_out_as_it_is() {
    for parts in [vec![version(), key()], vec![key()], vec![version()], vec![]] {
        let bytes = rdb("REDIS0011", &parts.concat());
        for size in [1, 10, bytes.len()] {
            assert_eq!(strip(&bytes, size).unwrap(), bytes);
        }
    }
}

#[test]
fn no_checksum_stays_none() {
    let [db, id, offset] = position();
    let mut bytes = rdb("REDIS0011", &[db, id.clone(), offset, key()].concat());
    let end = bytes.len() - 8;
    bytes[end..].fill(0);
    let mut expected = rdb("REDIS0011", &[key()].concat());
    let end = expected.len() - 8;
    expected[end..].fill(0);
    assert_eq!(strip(&bytes, 3).unwrap(), expected);

    let old = [b"REDIS0004", &id[..], &key(), &[0xFF]].concat();
    assert_eq!(
        strip(&old, 3).unwrap(),
        [b"REDIS0004", &key()[..], &[0xFF]].concat()
    );
}

#[test]
fn a_wrong_checksum_does_not_become_a_right_one() {
    let [db, id, offset] = position();
    let mut bytes = rdb("REDIS0011", &[db, id, offset, key()].concat());
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    let error = strip(&bytes, 7).unwrap_err();
    assert!(
        matches!(error, StripError::Walk(WalkError::Checksum { .. })),
        "{error}"
    );
}

#[test]
fn what_cannot_be_walked_is_passed_through() {
    let [db, id, offset] = position();
    let unknown = vec![0xF0, 1, 2, 3, 0xFA];
    let bytes = rdb(
        "REDIS0011",
        &[version(), db, id, offset, unknown.clone(), key()].concat(),
    );
    let expected = rdb("REDIS0011", &[version(), unknown, key()].concat());
    for size in [1, 16, bytes.len()] {
        assert_eq!(strip(&bytes, size).unwrap(), expected);
    }
}

/// A large field before the end of the front: it is not held whole, and fields before it are still cut out.
#[test]
fn a_large_field_is_passed_on_in_pieces() {
    let [db, id, offset] = position();
    let script = aux("lua", &string(&vec![b'x'; FRONT_LIMIT * 2]));
    let bytes = rdb(
        "REDIS0009",
        &[version(), db, id.clone(), offset, script.clone(), key()].concat(),
    );
    let expected = rdb("REDIS0009", &[version(), script.clone(), key()].concat());
    assert_eq!(strip(&bytes, 65_536).unwrap(), expected);

    let mut stripper = Stripper::new(bytes.len() as u64);
    for chunk in bytes[..FRONT_LIMIT + 70_000].chunks(65_536) {
        stripper.push(Bytes::copy_from_slice(chunk)).unwrap();
    }
    assert!(stripper.held.is_none());

    let late = rdb("REDIS0009", &[script.clone(), id].concat());
    let offset = 9 + script.len() as u64;
    assert_eq!(
        strip(&late, 65_536).unwrap_err(),
        StripError::TooLate { offset }
    );
    assert_eq!(
        strip(&late, 4096).unwrap_err(),
        StripError::TooLate { offset }
    );
}

#[test]
fn cut_off_or_too_long_it_is_refused() {
    let [db, id, offset] = position();
    let bytes = rdb("REDIS0011", &[version(), db, id, offset, key()].concat());
    for end in 0..bytes.len() {
        // Announced whole, but bytes are missing; and announced as short as it is.
        let mut stripper = Stripper::new(bytes.len() as u64);
        stripper
            .push(Bytes::copy_from_slice(&bytes[..end]))
            .unwrap();
        assert!(
            matches!(stripper.finish(), Err(StripError::Length { .. })),
            "{end}"
        );
        assert!(strip(&bytes[..end], 5).is_err(), "{end}");
    }
    let mut stripper = Stripper::new(bytes.len() as u64 - 1);
    assert!(matches!(
        stripper.push(bytes.into()),
        Err(StripError::Length { .. })
    ));
    assert!(matches!(
        strip(b"-ERR no such thing", 99),
        Err(StripError::Walk(WalkError::Magic { .. }))
    ));
}
