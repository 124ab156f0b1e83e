#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::model::streams::groups::NEVER;
use crate::model::testing::{REDIS_13, empty};

/// `XADD q 5-1 a 1 b two`, `XADD q 5-2 a 300 b x`, `XADD q 6-0 c -1`, `XADD q 7-9 a -5000 b ""`, `XDEL q 5-2`, groups
/// `g` at 0 and `12` at `$`, of `g` 5-1 for alice, 6-0 and 7-9 for bob; as real servers of all types dump it. On 8.6,
/// with `XCFGSET q IDMP-DURATION 86400` and a fifth entry `IDMP p1 one * a 1 b 2`.
const REDIS_6_0: &str = "0f0110000000000000000500000000000000014051510000001f0003010101020181610281620200010201\
    0001000101018374776f040501030100010101c12c02817802050100010101dfff020101816302dfff020601020102010801f178ec03800105\
    01ff03070902c00c070900000167070903000000000000000500000000000000010068e5cf8b01000002000000000000000600000000000000\
    000168e5cf8b01000001000000000000000700000000000000090168e5cf8b010000010205616c696365dd91f213a201000001000000000000\
    0005000000000000000103626f62dd91f213a20100000200000000000000060000000000000000000000000000000700000000000000090900\
    4e35f6ccd728a427";
const REDIS_7_0: &str = "130110000000000000000500000000000000014051510000001f0003010101020181610281620200010201\
    0001000101018374776f040501030100010101c12c02817802050100010101dfff020101816302dfff020601020102010801f178ec03800105\
    01ff030709050105020402c00c070981ffffffffffffffff00000167070981ffffffffffffffff030000000000000005000000000000000100\
    68e5cf8b01000002000000000000000600000000000000000168e5cf8b01000001000000000000000700000000000000090168e5cf8b010000\
    010205616c6963651b92f213a2010000010000000000000005000000000000000103626f621b92f213a2010000020000000000000006000000\
    0000000000000000000000000700000000000000090a00ec42c93a72de3f1f";
const VALKEY_9_1: &str = "150110000000000000000500000000000000014051510000001f000301010102018161028162020001020\
    10001000101018374776f040501030100010101c12c02817802050100010101dfff020101816302dfff020601020102010801f178ec0380010\
    501ff030709050105020402c00c070981ffffffffffffffff00000167070981ffffffffffffffff03000000000000000500000000000000010\
    068e5cf8b01000002000000000000000600000000000000000168e5cf8b01000001000000000000000700000000000000090168e5cf8b01000\
    0010205616c696365cf92f213a2010000cf92f213a2010000010000000000000005000000000000000103626f62cf92f213a2010000cf92f21\
    3a2010000020000000000000006000000000000000000000000000000070000000000000009500044e9a589db5c436a";
const REDIS_8_6: &str = "1a0110000000000000000500000000000000014066660000002500040101010201816102816202000102010\
    001000101018374776f040501030100010101c12c02817802050100010101dfff020101816302dfff020601020102010801f178ec038001050\
    10201f40693f213a201000009dfff02010102010501ff0481000001a213f2930b00050105020502c00c070981ffffffffffffffff000001670\
    70981ffffffffffffffff03000000000000000500000000000000010068e5cf8b01000002000000000000000600000000000000000168e5cf8\
    b01000001000000000000000700000000000000090168e5cf8b010000010205616c6963650b93f213a20100000b93f213a2010000010000000\
    000000005000000000000000103626f620b93f213a20100000b93f213a20100000200000000000000060000000000000000000000000000000\
    70000000000000009800001518040640102703101036f6e6581000001a213f2930b0001000d004b8011130e32823a";
const ALL: [(&str, Family, u32); 4] = [
    (REDIS_6_0, Family::Redis, 9),
    (REDIS_7_0, Family::Redis, 10),
    (VALKEY_9_1, Family::Valkey, 80),
    (REDIS_8_6, Family::Redis, 13),
];

/// Without the RDB version and the checksum behind it.
fn raw(dump: &str) -> Raw {
    let digits: Vec<char> = dump
        .chars()
        .filter(|digit| !digit.is_whitespace())
        .collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    let bytes: Vec<u8> = digits.chunks(2).map(byte).collect();
    Raw {
        kind: bytes[0],
        payload: bytes[1..bytes.len() - 10].into(),
    }
}

fn encoded(stream: &Stream, family: Family, version: u32) -> Raw {
    let mut payload = Vec::new();
    let kind = encode(stream, Dialect { family, version }, &mut payload);
    Raw {
        kind,
        payload: payload.into(),
    }
}

#[test]
fn what_real_servers_dump_is_written_as_it_was() {
    for (dump, family, version) in ALL {
        let raw = raw(dump);
        let stream = decode(&raw).unwrap().unwrap();
        assert_eq!(
            encoded(&stream, family, version),
            raw,
            "{family:?} {version}"
        );
    }
}

#[test]
fn every_dialect_gets_the_type_that_all_its_readers_know() {
    let stream = decode(&raw(REDIS_8_6)).unwrap().unwrap();
    let versions = [(9, 15), (10, 19), (11, 21), (12, 21), (13, 26), (14, 26)];
    for (version, kind) in versions {
        assert_eq!(encoded(&stream, Family::Redis, version).kind, kind);
    }
    assert_eq!(encoded(&stream, Family::Valkey, 80).kind, 21);
}

#[test]
fn what_old_servers_did_not_write_is_concluded_as_newer_ones_do() {
    let stream = decode(&raw(REDIS_6_0)).unwrap().unwrap();
    assert_eq!((stream.first, stream.added), (Id { ms: 5, seq: 1 }, 3));
    assert_eq!(stream.max_deleted, Id::MIN);
    // Both groups are at the last entry.
    assert!(stream.groups.0.values().all(|group| group.read == 3));
    let group = &stream.groups.0[b"g".as_slice()];
    assert!(
        group
            .consumers()
            .iter()
            .all(|(_, consumer)| consumer.active == consumer.seen)
    );

    let mut stream = stream;
    let read = [(0, 0), (4, 0), (5, UNKNOWN), (6, UNKNOWN), (8, UNKNOWN)];
    for (ms, read) in read {
        let last = Id { ms, seq: 0 };
        assert_eq!(
            entries_read(&stream, last),
            if ms == 5 { 0 } else { read },
            "{ms}"
        );
    }
    assert_eq!(entries_read(&stream, stream.first), 1);
    stream.added = 0;
    assert_eq!(entries_read(&stream, Id::MAX), 0);

    let bare = Raw {
        kind: 15,
        payload: Box::from([0, 0, 5, 1, 0]),
    };
    assert_eq!(decode(&bare).unwrap().unwrap().first, Id::MAX);
}

/// `XADD plain …` as above, `XTRIM plain MAXLEN 2`, `XGROUP CREATE plain g 6-0`.
#[test]
fn what_is_written_is_what_a_real_server_writes() {
    let real = raw(
        "1a0110000000000000000500000000000000014051510000001f0002010201020181610281620200010301000100010\
        1018374776f040501030100010101c12c02817802050100010101dfff020101816302dfff020601020102010801f178ec0380010501ff0\
        207090600050204010167060081ffffffffffffffff0000406440640000000d002fd5041e10b7e8fc",
    );
    let mut space = empty(REDIS_13);
    for command in [
        "XADD plain 5-1 a 1 b two",
        "XADD plain 5-2 a 300 b x",
        "XADD plain 6-0 c -1",
        "XADD plain 7-9 a -5000 b ",
        "XDEL plain 5-2",
        "XTRIM plain MAXLEN 2",
        "XGROUP CREATE plain g 6-0",
    ] {
        space.run(command).unwrap();
    }
    let (kind, payload) = space.dump("plain").unwrap();
    assert_eq!((kind, &payload[..]), (real.kind, &*real.payload));
}

#[test]
fn the_golden_vectors_come_out() {
    let nodes = "01100000000000000001000000000000000126260000000f0002010001010181610200010201000100010101040102010001\
        010102010401ff020102";
    let behind = "02010167000081ffffffffffffffff0000";
    let vectors = [
        (
            13,
            format!("1a{nodes}01010000{behind}406440640000000d00ddb0568500c5b7a4"),
        ),
        (12, format!("15{nodes}01010000{behind}0c00181f83b0796b096b")),
        (9, format!("0f{nodes}010167000000000900e79335a9d9885b4a")),
    ];
    for (version, dump) in vectors {
        let mut space = empty(Dialect {
            family: Family::Redis,
            version,
        });
        for command in ["XADD x 1-1 a 1", "XADD x 1-2 a 2", "XGROUP CREATE x g 0"] {
            space.run(command).unwrap();
        }
        let (real, (kind, payload)) = (raw(&dump), space.dump("x").unwrap());
        assert_eq!(
            (kind, &payload[..]),
            (real.kind, &*real.payload),
            "{version}"
        );
    }
}

#[test]
fn damage_is_told_and_nothing_panics() {
    for (dump, _, _) in ALL {
        let good = raw(dump);
        for cut in 0..good.payload.len() {
            let cut = Raw {
                kind: good.kind,
                payload: good.payload[..cut].into(),
            };
            assert!(decode(&cut).unwrap().is_err());
        }
        for at in 0..good.payload.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad.payload[at] ^= 1 << bit;
                // Much of it is as good as before: ids, values, times.
                if let Some(Ok(stream)) = decode(&bad) {
                    let _ = encoded(&stream, Family::Redis, 13);
                }
            }
        }
    }
    let huge = |payload: &[u8]| Raw {
        kind: 26,
        payload: payload.into(),
    };
    assert!(
        decode(&huge(&[
            0x81, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF
        ]))
        .unwrap()
        .is_err()
    );
    assert!(
        decode(&huge(&[
            0, 0, 5, 1, 0, 0, 0, 0, 0, 0x80, 0xFF, 0xFF, 0xFF, 0xFF
        ]))
        .unwrap()
        .is_err()
    );
}

/// A stream without nodes, at 9-9, and what follows.
fn after_nothing(groups: &[u8]) -> Result<Stream, BadValue> {
    let mut payload = vec![0, 0, 9, 9, 0, 0, 0, 0, 0];
    payload.extend_from_slice(groups);
    let raw = Raw {
        kind: 21,
        payload: payload.into(),
    };
    decode(&raw).unwrap()
}

#[test]
fn groups_must_be_whole() {
    let id = |seq: u8| {
        let mut id = [0; 16];
        id[15] = seq;
        id.to_vec()
    };
    let pending = |seq: u8| [id(seq), vec![0; 8], vec![1]].concat();
    let group = |entries: &[Vec<u8>], consumers: &[(&[u8], Vec<u8>)]| {
        let mut group = vec![1, 1, b'g', 0, 0, 0, entries.len() as u8];
        group.extend(entries.concat());
        group.push(consumers.len() as u8);
        for (name, theirs) in consumers {
            group.push(name.len() as u8);
            group.extend_from_slice(name);
            group.extend([0xFF; 16]);
            group.push((theirs.len() / 16) as u8);
            group.extend_from_slice(theirs);
        }
        group
    };
    let good = after_nothing(&group(
        &[pending(1), pending(2)],
        &[(b"a", id(2)), (b"b", id(1))],
    ))
    .unwrap();
    let consumers = good.groups.0[b"g".as_slice()].consumers();
    assert!(
        consumers
            .iter()
            .all(|(_, consumer)| consumer.active == NEVER && consumer.pending().len() == 1)
    );
    for bad in [
        group(&[pending(1)], &[]),
        group(&[pending(1), pending(1)], &[(b"a", id(1))]),
        group(&[pending(1)], &[(b"a", id(2))]),
        group(&[pending(1)], &[(b"a", id(1)), (b"b", id(1))]),
        group(&[pending(1)], &[(b"a", id(1)), (b"a", vec![])]),
        [
            vec![2],
            group(&[], &[])[1..].to_vec(),
            group(&[], &[])[1..].to_vec(),
        ]
        .concat(),
        [group(&[], &[]), vec![0]].concat(),
    ] {
        assert!(after_nothing(&bad).is_err(), "{bad:?}");
    }
}
