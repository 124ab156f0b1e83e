#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use super::*;
use crate::wire::rdb::primitives::{VECTOR_SET_NAME, module_name};
use crate::wire::rdb::samples::{
    REDIS_DUMPS, VALKEY_HASH, aux, counts, dumped, outcome, rdb, rich, string, walk,
};
use crate::wire::rdb::summary::Family;

// --- Walking
// ----------------------------------------------------------------------------------------------------------

#[test]
fn everything_in_a_rich_rdb_is_counted() {
    let bytes = rich();
    let summary = walk(&bytes);
    assert_eq!((summary.magic.as_str(), summary.version), ("REDIS0013", 13));
    assert_eq!(summary.family, Family::Redis);
    assert_eq!(summary.aux["redis-ver"], "8.6.3");
    assert_eq!(summary.aux["redis-bits"], "64");
    assert_eq!(summary.aux["ctime"], 0x6654_3210.to_string());
    assert!(!summary.aux.contains_key("packed"));
    assert_eq!(
        summary.databases,
        [(0, counts(2, 1)), (7, counts(3, 1))].into()
    );
    let types = ["string", "stream", "set", "vectorset", "module"].map(|name| (name, 1));
    assert_eq!(summary.types, types.into());
    assert_eq!(summary.functions, 1);
    let modules = ["test_mod1", "vectorset", "ReJSON-RL"].map(str::to_owned);
    assert_eq!(summary.modules, modules.into());
    assert_eq!(summary.bytes, bytes.len() as u64);
    assert_eq!(summary.checksum, Checksum::Verified);
    assert_eq!(summary.unwalked, None);
    assert_eq!(summary.keys(), 5);
}

#[test]
fn what_real_servers_dump_is_walked() {
    for (kind, dump) in REDIS_DUMPS {
        let dump: String = dump.split_whitespace().collect();
        let bytes = rdb("REDIS0013", &dumped("key", &dump));
        let summary = walk(&bytes);
        assert_eq!(summary.unwalked, None, "{dump}");
        assert_eq!(summary.types, [(kind, 1)].into(), "{dump}");
    }
    let summary = walk(&rdb("VALKEY080", &dumped("key", VALKEY_HASH)));
    assert_eq!(summary.family, Family::Valkey);
    assert_eq!(summary.types, [("hash", 1)].into());
    assert_eq!(summary.unwalked, None);
}

/// Types that no server of today writes, and parts that the dumps above do not have.
#[test]
fn layouts_without_a_dump_are_walked() {
    // An empty stream, up to its last id; what version 2 adds; a group with one pending entry and one consumer.
    let (empty, added) = (vec![0, 5, 1, 1], vec![1; 5]);
    let pending = [
        &[1][..],
        &[0; 24],
        &[1],
        &[1],
        &string(b"consumer"),
        &[0; 8],
    ]
    .concat();
    let group = |entries_read: &[u8], active: &[u8]| {
        let start = [&[1][..], &string(b"group"), &[1, 1], entries_read].concat();
        [
            start,
            pending.clone(),
            active.to_vec(),
            vec![1],
            vec![0; 16],
        ]
        .concat()
    };
    let stream_1 = [empty.clone(), group(&[], &[])].concat();
    let stream_2 = [empty.clone(), added.clone(), group(&[1], &[])].concat();
    let stream_3 = [empty.clone(), added, group(&[1], &[0; 8])].concat();
    let no_group = [empty, vec![0]].concat();
    let producers = [
        &[0x40, 100, 0x40, 100, 1][..],
        &string(b"producer"),
        &[1],
        &string(b"iid"),
        &[5, 0, 3, 4],
    ];
    let stream_4 = [&stream_3[..], &producers.concat()].concat();
    let double = [&[2][..], b"\x01a\x033.5", b"\x01b\xFE"].concat();
    let cron = [
        &string(b"return 1")[..],
        &[0; 16],
        &[1],
        &string(b"k"),
        &[1],
        &string(b"a"),
    ]
    .concat();
    let cases: Vec<(&str, u8, &str, Vec<u8>)> = vec![
        ("REDIS0006", 1, "list", vec![2, 1, b'a', 1, b'b']),
        ("REDIS0006", 3, "zset", double),
        ("REDIS0006", 9, "hash", string(b"zipmap")),
        ("REDIS0006", 10, "list", string(b"ziplist")),
        ("REDIS0006", 13, "hash", string(b"ziplist")),
        ("REDIS0009", 15, "stream", stream_1),
        ("REDIS0009", 15, "stream", no_group),
        ("REDIS0010", 19, "stream", stream_2),
        ("REDIS0011", 21, "stream", stream_3),
        ("REDIS0013", 26, "stream", stream_4),
        ("REDIS0012", 22, "hash", vec![1, 0, 1, b'f', 1, b'v']),
        ("REDIS0012", 23, "hash", string(b"listpack")),
        ("REDIS0009", 64, "cron", cron),
    ];
    for (magic, code, kind, value) in cases {
        let key = [&[code], &string(b"key")[..], &value].concat();
        let bytes = rdb(magic, &[key, dumped("after", REDIS_DUMPS[0].1)].concat());
        let summary = walk(&bytes);
        assert_eq!(summary.unwalked, None, "type {code}");
        assert_eq!(
            (summary.types[kind], summary.types["string"]),
            (1, 1),
            "type {code}"
        );
        assert_eq!(summary.databases[&0], counts(2, 0), "type {code}");
    }
}

/// 0xF3 and type 22 mean different things under the two magics.
#[test]
fn the_family_decides_what_a_number_means() {
    let slot_import = [&[0xF3], &string(b"job")[..], &[1, 0, 0x41, 0x00]].concat();
    let key = dumped("key", REDIS_DUMPS[0].1);
    let summary = walk(&rdb("VALKEY080", &[&slot_import[..], &key].concat()));
    assert_eq!((summary.unwalked, summary.databases[&0].keys), (None, 1));

    let pre_ga = [&[22], &string(b"key")[..], &[1, 0, 1, b'f', 1, b'v']].concat();
    assert_eq!(walk(&rdb("REDIS0012", &pre_ga)).types["hash"], 1);
    assert!(outcome(&rdb("VALKEY080", &pre_ga)).is_err());
}

#[test]
fn every_length_encoding_is_understood() {
    for size in [0usize, 63, 64, 16_383, 16_384, 70_000, 200_000] {
        let lengths = [
            [&[0x80], &(size as u32).to_be_bytes()[..]].concat(),
            [&[0x81], &(size as u64).to_be_bytes()[..]].concat(),
        ];
        for length in lengths {
            let value = vec![b'x'; size];
            let body = [&[0], &string(b"key")[..], &length, &value].concat();
            assert_eq!(walk(&rdb("REDIS0011", &body)).types["string"], 1);
        }
    }
    let body = [&[0], &string(b"key")[..], &[0x41, 0x02], &[b'x'; 258]].concat();
    assert_eq!(walk(&rdb("REDIS0011", &body)).types["string"], 1);
}

#[test]
fn bytes_behind_the_end_are_left_alone() {
    let bytes = rich();
    for tail in 1..70 {
        let mut walker = Walker::new();
        let longer = [bytes.clone(), vec![0xFF; tail]].concat();
        assert_eq!(walker.push(&longer).unwrap(), bytes.len());
        assert!(walker.is_complete());
        assert_eq!(walker.push(b"more").unwrap(), 0);
        assert_eq!(walker.summary().bytes, bytes.len() as u64);
    }
}

#[test]
fn a_database_may_be_selected_twice_and_an_empty_one_is_not_listed() {
    let key = dumped("a", REDIS_DUMPS[0].1);
    let body = [
        &[0xFE, 3][..],
        &key,
        &[0xFE, 4],
        &[0xFE, 3],
        &dumped("b", REDIS_DUMPS[1].1),
    ];
    let summary = walk(&rdb("REDIS0011", &body.concat()));
    assert_eq!(summary.databases, [(3, counts(2, 0))].into());
}

// --- Chunks
// -----------------------------------------------------------------------------------------------------------

#[test]
fn every_split_gives_the_same_result() {
    let unknown = [
        aux("redis-ver", "9"),
        dumped("a", REDIS_DUMPS[4].1),
        vec![0xF2, 1, 2],
    ]
    .concat();
    for bytes in [rich(), rdb("REDIS0011", &unknown)] {
        let whole = walk(&bytes);
        for at in 0..=bytes.len() {
            let mut walker = Walker::new();
            let (first, second) = bytes.split_at(at);
            assert_eq!(walker.push(first).unwrap(), first.len());
            assert_eq!(walker.push(second).unwrap(), second.len());
            walker.finish_opaque().unwrap();
            assert_eq!(walker.summary(), &whole, "split at {at}");
        }
        for size in 1..20 {
            let mut walker = Walker::new();
            for chunk in bytes.chunks(size) {
                assert_eq!(walker.push(chunk).unwrap(), chunk.len());
                assert!(walker.carry.capacity() <= 512 && walker.stack.capacity() <= 8);
            }
            walker.finish_opaque().unwrap();
            assert_eq!(walker.summary(), &whole, "chunks of {size}");
        }
    }
}

#[test]
fn a_large_value_is_not_held() {
    let mut walker = Walker::new();
    let head = [
        b"REDIS0011",
        &[0][..],
        &string(b"key"),
        &[0x81],
        &(1_u64 << 30).to_be_bytes(),
    ];
    walker.push(&head.concat()).unwrap();
    let chunk = vec![b'x'; 1 << 20];
    for _ in 0..8 {
        assert_eq!(walker.push(&chunk).unwrap(), chunk.len());
    }
    assert!(walker.carry.capacity() <= 512);
    assert!(matches!(
        walker.finish_opaque(),
        Err(WalkError::CutOff { .. })
    ));
}

// --- AUX fields
// -------------------------------------------------------------------------------------------------------

#[test]
fn large_and_binary_and_countless_aux_fields_are_not_kept() {
    let script = vec![b's'; 100_000];
    let lua = [
        &[0xFA],
        &string(b"lua")[..],
        &[0x80],
        &100_000_u32.to_be_bytes(),
        &script,
    ]
    .concat();
    let long_key = [&[0xFA, 0x41, 0x00][..], &[b'k'; 256], &string(b"v")].concat();
    let binary = [&[0xFA], &string(b"binary")[..], &string(&[0, 1, 2])].concat();
    let integer_key = [&[0xFA, 0xC0, 7][..], &string(b"v")].concat();
    let empty = aux("empty", "");
    let mut body = [
        lua,
        long_key,
        binary,
        integer_key,
        empty,
        aux("twice", "1"),
        aux("twice", "2"),
    ]
    .concat();
    let summary = walk(&rdb("REDIS0009", &body));
    let kept = [("empty", ""), ("twice", "1")].map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(summary.aux, kept.into());
    for number in 0..500 {
        body.extend(aux(&format!("field {number}"), "x"));
    }
    assert_eq!(walk(&rdb("REDIS0009", &body)).aux.len(), 64);
}

#[test]
fn module_ids_are_names() {
    assert_eq!(module_name(VECTOR_SET_NAME << 10 | 1), "vectorset");
    assert_eq!(module_name(0), "AAAAAAAAA");
    assert_eq!(module_name(u64::MAX), "_________");
}
