//! RDBs made by hand, for tests.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use super::primitives::module_number;
use super::{DbCounts, Summary, WalkError, Walker};
use crate::wire::crc64::Crc64;

/// `body` between the magic and the end, with the right checksum.
pub(crate) fn rdb(magic: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = [magic.as_bytes(), body, &[0xFF]].concat();
    bytes.extend(Crc64::of(&bytes).to_le_bytes());
    bytes
}

pub(crate) fn string(text: &[u8]) -> Vec<u8> {
    assert!(text.len() < 64);
    [&[text.len() as u8], text].concat()
}

pub(crate) fn aux(key: &str, value: &str) -> Vec<u8> {
    [
        &[0xFA],
        &string(key.as_bytes())[..],
        &string(value.as_bytes()),
    ]
    .concat()
}

pub(crate) fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// A key of the type and value of a `DUMP` reply, which has 10 bytes of version and checksum at its end.
pub(crate) fn dumped(key: &str, dump: &str) -> Vec<u8> {
    let dump = hex(dump);
    let (value, _) = dump.split_at(dump.len() - 10);
    [&value[..1], &string(key.as_bytes()), &value[1..]].concat()
}

pub(crate) fn module_id(name: &[u8; 9], version: u64) -> Vec<u8> {
    let id = module_number(*name) << 10 | version;
    [&[0x81], &id.to_be_bytes()[..]].concat()
}

// DUMP replies of real servers (PROTOCOL.md D.8), with the type they hold.
pub(crate) const REDIS_DUMPS: [(&str, &str); 19] = [
    ("string", "000568656c6c6f0d00c1db56c5628157ca"),
    ("string", "00c12efb0d003f02ac43f0e69e76"),
    ("string", "00c3094040016161e033000161610d0061cc1fa1c9a9b3ac"),
    (
        "list",
        "1201020f0f00000003008161020701c12c02ff0d00f329c991dc0f3f5f",
    ),
    (
        "set",
        "0b0e02000000030000000100020003000d0007abd5516adb3adb",
    ),
    ("set", "140d0d0000000200816102816202ff0d00c19a3e74b389481d"),
    (
        "zset",
        "111414000000040081610283312e35048162020201ff0d0058ab3d96a8adf0a3",
    ),
    (
        "hash",
        "1012120000000400816602817602816e020101ff0d005e4d81427e9797d6",
    ),
    (
        "hash",
        "1900409452a30300001f1f0000000600816602817602f400409452a3030000098167028177020001ff0d00fbd257fd596aa9eb",
    ),
    ("hash", "0401016601760d000f5bcae5b633793c"),
    (
        "hash",
        "1800409452a303000002060167017701016601760d00fd307e3278c0294f",
    ),
    ("zset", "05010161000000000000f83f0d00e70a213c435c2e1a"),
    (
        "stream",
        "1a01100000000000000001000000000000000126260000000f00020100010101816102000102010001000101010401020100010101020\
         10401ff0201020101000002010167000081ffffffffffffffff0000406440640000000d00ddb0568500c5b7a4",
    ),
    (
        "hash",
        "1800409452a303000002010166017606016701770c00ba772559075319e4",
    ),
    (
        "stream",
        "1501100000000000000001000000000000000126260000000f00020100010101816102000102010001000101010401020100010101020\
         10401ff0201020101000002010167000081ffffffffffffffff00000c00181f83b0796b096b",
    ),
    (
        "list",
        "0e0114140000000f000000030000016103f802c02c01ff0900a5123fd108c81df5",
    ),
    (
        "zset",
        "0c18180000001500000004000001610303312e3505016203f3ff0900fe4e6c2927858ec3",
    ),
    ("set", "02020161016209002e9670e9bf855ebc"),
    (
        "stream",
        "0f01100000000000000001000000000000000126260000000f00020100010101816102000102010001000101010401020100010101020\
         10401ff020102010167000000000900e79335a9d9885b4a",
    ),
];
pub(crate) const VALKEY_HASH: &str =
    "16020166017600409452a303000001670177ffffffffffffffff50006e9deb180d34c944";

/// A small RDB with something of everything, in databases 0 and 7.
pub(crate) fn rich() -> Vec<u8> {
    let module = b"vectorset";
    let body = [
        aux("redis-ver", "8.6.3"),
        [&[0xFA], &string(b"redis-bits")[..], &[0xC0, 64]].concat(),
        [
            &[0xFA],
            &string(b"ctime")[..],
            &[0xC2, 0x10, 0x32, 0x54, 0x66],
        ]
        .concat(),
        // An LZF value is passed over.
        [
            &[0xFA],
            &string(b"packed")[..],
            &hex("c3094040016161e03300016161"),
        ]
        .concat(),
        // MODULE_AUX with one value of each kind of module data.
        [&[0xF7], &module_id(b"test_mod1", 3)[..], &[2, 1]].concat(),
        [
            &[1, 5, 2, 0x45, 0, 3][..],
            &[0; 4],
            &[4],
            &[0; 8],
            &[5, 3],
            b"abc",
            &[0],
        ]
        .concat(),
        [&[0xF5], &string(b"#!lua name=one\n")[..]].concat(),
        vec![0xFE, 0, 0xFB, 2, 1],
        vec![0xF4, 0x40, 0xFF, 9, 1],
        [
            &[0xFC],
            &1_700_000_000_000_i64.to_le_bytes()[..],
            &[0xF9, 5],
        ]
        .concat(),
        // KEY_META: one class.
        [&[0xF3, 1][..], &[1, 2, 3, 4], &[1, 9, 0]].concat(),
        dumped("expiring", REDIS_DUMPS[0].1),
        dumped("stream", REDIS_DUMPS[12].1),
        vec![0xFE, 7],
        [
            &[0xFD],
            &1_700_000_000_i32.to_le_bytes()[..],
            &[0xF8, 0x45, 0x00],
        ]
        .concat(),
        aux("mvcc-tstamp", "1"),
        dumped("old expiry", REDIS_DUMPS[5].1),
        [
            &[7],
            &string(b"vectors")[..],
            &module_id(module, 1),
            &[2, 3, 0],
        ]
        .concat(),
        [
            &[7],
            &string(b"other")[..],
            &module_id(b"ReJSON-RL", 3),
            &[5, 2],
            b"{}",
            &[0],
        ]
        .concat(),
    ];
    rdb("REDIS0013", &body.concat())
}

pub(crate) fn walk(bytes: &[u8]) -> Summary {
    let mut walker = Walker::new();
    assert_eq!(walker.push(bytes).unwrap(), bytes.len());
    walker.finish_opaque().unwrap();
    assert!(walker.is_complete());
    walker.summary().clone()
}

/// The result for a payload whose framing says where it ends.
pub(crate) fn outcome(bytes: &[u8]) -> Result<Summary, WalkError> {
    let mut walker = Walker::new();
    let used = walker.push(bytes)?;
    walker.finish_opaque()?;
    let left = bytes.len() - used;
    if left == 0 {
        Ok(walker.summary().clone())
    } else {
        panic!("{left} bytes too many")
    }
}

pub(crate) fn counts(keys: u64, expires: u64) -> DbCounts {
    DbCounts { keys, expires }
}
