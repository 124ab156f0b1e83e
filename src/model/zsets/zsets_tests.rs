#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::super::Keyspace;
use super::super::args::Args;
use super::super::testing::{REDIS_9, REDIS_13, all_diverge, empty, redis};
use super::*;

/// Members and scores in order; none if there is no such key.
fn zset(space: &mut Keyspace, key: &str) -> Option<String> {
    let args = Args::new(&[]);
    let zset = space.value::<Zset>(&args, key.as_bytes()).unwrap()?;
    let bytes: usize = zset.scores.keys().map(|member| member.len()).sum();
    assert_eq!((zset.bytes, zset.scores.len()), (bytes, zset.order.len()));
    let shown = zset.iter().map(|(member, score)| {
        assert_eq!(zset.score(member).map(f64::to_bits), Some(score.to_bits()));
        format!("{}={score}", String::from_utf8_lossy(member))
    });
    Some(shown.collect::<Vec<_>>().join(" "))
}

/// Runs a command where `z` has the members a to e with the scores 1 to 5; gives what is under a key then.
fn after(command: &str, key: &str) -> Option<String> {
    let mut space = empty(REDIS_13);
    space.run("ZADD z 1 a 2 b 3 c 4 d 5 e").unwrap();
    space.run(command).unwrap();
    zset(&mut space, key)
}

#[test]
fn scores_are_set_under_conditions() {
    for (command, expected) in [
        ("ZADD z 10 a 0 f", "f=0 b=2 c=3 d=4 e=5 a=10"),
        ("zadd z nx 10 a 0 f", "f=0 a=1 b=2 c=3 d=4 e=5"),
        ("ZADD z XX CH 10 a 0 f", "b=2 c=3 d=4 e=5 a=10"),
        ("ZADD z GT 0 a 9 b 0 f", "f=0 a=1 c=3 d=4 e=5 b=9"),
        ("ZADD z LT 0 a 9 b 0 f", "a=0 f=0 b=2 c=3 d=4 e=5"),
        ("ZADD z XX GT CH 7 a 7 f", "b=2 c=3 d=4 e=5 a=7"),
        ("ZADD z INCR 0.5 a", "a=1.5 b=2 c=3 d=4 e=5"),
        ("ZADD z GT INCR -1 a", "a=1 b=2 c=3 d=4 e=5"),
        ("ZADD z NX INCR 1 a", "a=1 b=2 c=3 d=4 e=5"),
        ("ZINCRBY z -inf a", "a=-inf b=2 c=3 d=4 e=5"),
        ("ZINCRBY z 0x10 f", "a=1 b=2 c=3 d=4 e=5 f=16"),
        // The last one counts; ties stand by their bytes.
        ("ZADD z 9 a 2 a 2 aa", "a=2 aa=2 b=2 c=3 d=4 e=5"),
    ] {
        assert_eq!(after(command, "z").as_deref(), Some(expected), "{command}");
    }
    assert_eq!(after("ZADD y XX 1 a", "y"), None);
    assert_eq!(after("ZADD y XX INCR 1 a", "y"), None);
}

#[test]
fn members_are_removed() {
    for (command, expected) in [
        ("ZREM z a none e", Some("b=2 c=3 d=4")),
        ("ZREM none a", Some("a=1 b=2 c=3 d=4 e=5")),
        ("ZREM z a b c d e", None),
        ("ZREMRANGEBYRANK z 0 1", Some("c=3 d=4 e=5")),
        ("ZREMRANGEBYRANK z -2 -1", Some("a=1 b=2 c=3")),
        ("ZREMRANGEBYRANK z 1 -2", Some("a=1 e=5")),
        ("ZREMRANGEBYRANK z 3 99", Some("a=1 b=2 c=3")),
        ("ZREMRANGEBYRANK z 5 9", Some("a=1 b=2 c=3 d=4 e=5")),
        ("ZREMRANGEBYRANK z 0 -1", None),
        ("ZREMRANGEBYSCORE z 2 4", Some("a=1 e=5")),
        ("ZREMRANGEBYSCORE z (2 (4", Some("a=1 b=2 d=4 e=5")),
        ("ZREMRANGEBYSCORE z -inf (3", Some("c=3 d=4 e=5")),
        ("ZREMRANGEBYSCORE z 4 +inf", Some("a=1 b=2 c=3")),
        ("ZREMRANGEBYSCORE z (inf inf", Some("a=1 b=2 c=3 d=4 e=5")),
        ("ZREMRANGEBYSCORE z 4 2", Some("a=1 b=2 c=3 d=4 e=5")),
        ("ZREMRANGEBYSCORE z (3 (3", Some("a=1 b=2 c=3 d=4 e=5")),
        // The scores differ, but the members are in order all the same.
        ("ZREMRANGEBYLEX z [b (d", Some("a=1 d=4 e=5")),
        ("ZREMRANGEBYLEX z - [c", Some("d=4 e=5")),
        ("ZPOPMIN z", Some("b=2 c=3 d=4 e=5")),
        ("ZPOPMAX z 2", Some("a=1 b=2 c=3")),
        ("ZPOPMIN z 0", Some("a=1 b=2 c=3 d=4 e=5")),
        ("ZPOPMAX z 99", None),
        ("BZPOPMIN y z 0", Some("b=2 c=3 d=4 e=5")),
        ("BZPOPMAX z 0", Some("a=1 b=2 c=3 d=4")),
        ("ZMPOP 2 y z MAX COUNT 2", Some("a=1 b=2 c=3")),
        ("BZMPOP 0 1 z min", Some("b=2 c=3 d=4 e=5")),
    ] {
        assert_eq!(after(command, "z").as_deref(), expected, "{command}");
    }
}

#[test]
fn infinite_scores_are_at_the_ends_of_ranges() {
    for (command, expected) in [
        ("ZREMRANGEBYSCORE z -inf -inf", "b=0 c=inf"),
        ("ZREMRANGEBYSCORE z (-inf inf", "a=-inf"),
        ("ZREMRANGEBYSCORE z (0 +inf", "a=-inf b=0"),
        ("ZREMRANGEBYSCORE z -inf (inf", "c=inf"),
        ("ZREMRANGEBYSCORE z -0 0", "a=-inf c=inf"),
        ("ZREMRANGEBYSCORE z 1e400 1e400", "a=-inf b=0"),
    ] {
        let mut space = empty(REDIS_13);
        space.run("ZADD z -inf a 0 b inf c").unwrap();
        space.run(command).unwrap();
        assert_eq!(
            zset(&mut space, "z").as_deref(),
            Some(expected),
            "{command}"
        );
    }
}

#[test]
fn members_of_one_score_are_picked_by_their_bytes() {
    for (command, expected) in [
        ("ZREMRANGEBYLEX z [b [c", "a=0 d=0"),
        ("ZREMRANGEBYLEX z (a (c", "a=0 c=0 d=0"),
        ("ZREMRANGEBYLEX z - (c", "c=0 d=0"),
        ("ZREMRANGEBYLEX z [c +", "a=0 b=0"),
        ("ZREMRANGEBYLEX z + -", "a=0 b=0 c=0 d=0"),
        ("ZREMRANGEBYLEX z [c [b", "a=0 b=0 c=0 d=0"),
        ("ZREMRANGEBYLEX z (b (b", "a=0 b=0 c=0 d=0"),
        ("ZREMRANGEBYLEX z [b (b", "a=0 b=0 c=0 d=0"),
        ("ZREMRANGEBYLEX z [b [b", "a=0 c=0 d=0"),
    ] {
        let mut space = empty(REDIS_13);
        space.run("ZADD z 0 a 0 b 0 c 0 d").unwrap();
        space.run(command).unwrap();
        assert_eq!(
            zset(&mut space, "z").as_deref(),
            Some(expected),
            "{command}"
        );
    }
    // Out of order, servers find one thing or another.
    let mut space = empty(REDIS_13);
    space.run("ZADD z 0 b 1 a 2 c").unwrap();
    assert!(
        space
            .run("ZREMRANGEBYLEX z [b [c")
            .unwrap_err()
            .is_unmodelled()
    );
    space.run("ZREMRANGEBYLEX z (c +").unwrap();
    assert_eq!(zset(&mut space, "z").as_deref(), Some("b=0 a=1 c=2"));
}

#[test]
fn a_range_is_stored() {
    for (command, expected) in [
        ("ZRANGESTORE d z 1 2", Some("b=2 c=3")),
        ("ZRANGESTORE d z 0 1 REV", Some("d=4 e=5")),
        ("ZRANGESTORE d z -1 -1 rev", Some("a=1")),
        ("ZRANGESTORE d z 2 4 BYSCORE", Some("b=2 c=3 d=4")),
        ("ZRANGESTORE d z 4 (2 BYSCORE REV", Some("c=3 d=4")),
        (
            "ZRANGESTORE d z -inf +inf BYSCORE LIMIT 1 2",
            Some("b=2 c=3"),
        ),
        (
            "ZRANGESTORE d z +inf -inf REV BYSCORE LIMIT 1 2",
            Some("c=3 d=4"),
        ),
        (
            "ZRANGESTORE d z -inf +inf BYSCORE LIMIT 3 -1",
            Some("d=4 e=5"),
        ),
        ("ZRANGESTORE d z -inf +inf BYSCORE LIMIT 0 0", None),
        ("ZRANGESTORE d z [b + BYLEX LIMIT 1 1", Some("c=3")),
        ("ZRANGESTORE d z + [b BYLEX REV LIMIT 0 2", Some("d=4 e=5")),
        ("ZRANGESTORE d z 9 10", None),
        ("ZRANGESTORE d none 0 -1", None),
    ] {
        assert_eq!(after(command, "d").as_deref(), expected, "{command}");
    }
    assert_eq!(after("ZRANGESTORE z z 0 0", "z").as_deref(), Some("a=1"));
    assert_eq!(after("ZRANGESTORE z none 0 0", "z"), None);
    let mut space = empty(REDIS_13);
    let error = space
        .run("ZRANGESTORE d z 0 1 BYSCORE LIMIT -1 1")
        .unwrap_err();
    assert!(error.is_unmodelled(), "{error}");
}

#[test]
fn sets_are_united_intersected_and_subtracted() {
    for (command, expected) in [
        ("ZUNIONSTORE d 2 a b", Some("x=1 z=4 y=22")),
        ("ZUNIONSTORE d 2 a s", Some("p=1 x=2 y=2")),
        ("ZUNIONSTORE d 2 a b WEIGHTS 10 0.5", Some("z=2 x=10 y=30")),
        ("ZUNIONSTORE d 2 a b AGGREGATE MIN", Some("x=1 y=2 z=4")),
        (
            "zunionstore d 2 a b weights -1 1 aggregate max",
            Some("x=-1 z=4 y=20"),
        ),
        ("ZUNIONSTORE d 2 a a", Some("x=2 y=4")),
        ("ZUNIONSTORE d 1 none", None),
        ("ZINTERSTORE d 2 a b", Some("y=22")),
        ("ZINTERSTORE d 2 b a WEIGHTS 1 100", Some("y=220")),
        ("ZINTERSTORE d 2 a s AGGREGATE MIN", Some("x=1")),
        ("ZINTERSTORE d 2 a none", None),
        ("ZINTERSTORE d 3 a a a", Some("x=3 y=6")),
        ("ZDIFFSTORE d 2 a b", Some("x=1")),
        ("ZDIFFSTORE d 2 s a", Some("p=1")),
        ("ZDIFFSTORE d 2 a a", None),
        ("ZDIFFSTORE d 3 a none s", Some("y=2")),
        // Infinite and not: their sum is 0, and so is 0 times infinite.
        ("ZUNIONSTORE d 2 a a WEIGHTS inf -inf", Some("x=0 y=0")),
        ("ZINTERSTORE d 1 n WEIGHTS inf", Some("a=0")),
    ] {
        let mut space = empty(REDIS_13);
        for fill in [
            "ZADD a 1 x 2 y",
            "ZADD b 20 y 4 z",
            "SADD s x p",
            "MSET d 1",
            "ZADD n 0 a",
        ] {
            space.run(fill).unwrap();
        }
        space.entry(b"d").unwrap().unwrap().expiry = Some(7);
        space.run(command).unwrap();
        assert_eq!(zset(&mut space, "d").as_deref(), expected, "{command}");
        if let Some(entry) = space.entry(b"d").unwrap() {
            assert_eq!(entry.expiry, None);
        }
    }
}

/// The smallest source comes first: 1e16 + 1 + 1 is not 1 + 1 + 1e16.
#[test]
fn scores_are_added_in_the_order_in_which_servers_add_them() {
    let mut space = empty(REDIS_13);
    space.run("ZADD large 1e16 m 0 a 0 b").unwrap();
    space.run("ZADD middle 1 m 0 a").unwrap();
    space.run("ZADD small 1 m").unwrap();
    space.run("ZUNIONSTORE d 3 large middle small").unwrap();
    assert_eq!(
        zset(&mut space, "d").as_deref(),
        Some("a=0 b=0 m=10000000000000002")
    );
    space.run("ZADD small 0 a 0 b 0 c").unwrap();
    space.run("ZADD middle 0 b 0 c 0 d 0 e").unwrap();
    space.run("ZINTERSTORE d 3 small large middle").unwrap();
    assert_eq!(
        zset(&mut space, "d").as_deref(),
        Some("a=0 b=0 m=10000000000000000")
    );
}

/// From 7.0 on a packed sorted set forgets the sign of a zero; 6.2 and large ones do not.
#[test]
fn the_sign_of_a_zero_is_kept_where_servers_keep_it() {
    let long = format!("ZADD z 1 {}", "x".repeat(65));
    for (dialect, before, expected) in [
        (REDIS_13, "ZADD z 1 b", "a=0 b=1"),
        (REDIS_13, &*long, &*format!("a=-0 {}=1", "x".repeat(65))),
        (REDIS_9, "ZADD z 1 b", "a=-0 b=1"),
    ] {
        let mut space = empty(dialect);
        space.run(before).unwrap();
        space.run("ZADD z -0 a").unwrap();
        assert_eq!(zset(&mut space, "z").as_deref(), Some(expected));
        space.rewrite("z");
        assert_eq!(zset(&mut space, "z").as_deref(), Some(expected));
        // A zero that is there stays.
        space.run("ZADD z 0 a").unwrap();
        assert_eq!(zset(&mut space, "z").as_deref(), Some(expected));
    }
}

/// The text of a score that 6.2 wrote stays in the blob; a set that was loaded otherwise is packed anew.
#[test]
fn a_zero_that_was_loaded_keeps_its_sign_where_servers_keep_it() {
    let mut ziplist = ZiplistWriter::new();
    let mut listpack = ListpackWriter::new();
    for element in ["a", "-0", "b", "1", "c", "2.5x"] {
        ziplist.push(element.as_bytes()).unwrap();
        listpack.push(element.as_bytes());
    }
    let mut plain = vec![3];
    for (member, score) in [("a", -0.0f64), ("b", 1.0), ("c", 2.5)] {
        put_string(&mut plain, member.as_bytes());
        plain.extend_from_slice(&score.to_le_bytes());
    }
    let blob = |bytes: Vec<u8>| {
        let mut payload = Vec::new();
        put_string(&mut payload, &bytes);
        payload
    };
    let (ziplist, listpack) = (blob(ziplist.finish()), blob(listpack.finish()));
    for (dialect, kind, payload, zero, kept_in) in [
        (
            REDIS_9,
            value_type::ZSET_ZIPLIST,
            &ziplist,
            "-0",
            value_type::ZSET_ZIPLIST,
        ),
        (
            REDIS_13,
            value_type::ZSET_ZIPLIST,
            &ziplist,
            "-0",
            value_type::ZSET_LISTPACK,
        ),
        (
            REDIS_13,
            value_type::ZSET_LISTPACK,
            &listpack,
            "-0",
            value_type::ZSET_LISTPACK,
        ),
        (
            REDIS_9,
            value_type::ZSET_2,
            &plain,
            "-0",
            value_type::ZSET_ZIPLIST,
        ),
        (
            REDIS_13,
            value_type::ZSET_2,
            &plain,
            "0",
            value_type::ZSET_LISTPACK,
        ),
    ] {
        let mut space = empty(dialect);
        space.run("ZADD z 1 x").unwrap();
        let payload = payload.clone().into();
        space.entry(b"z").unwrap().unwrap().value = Value::Raw(Raw { kind, payload });
        space.run("ZREM z b").unwrap();
        let expected = format!("a={zero} c=2.5");
        assert_eq!(zset(&mut space, "z").as_ref(), Some(&expected), "{kind}");
        assert_eq!(space.dump("z").unwrap().0, kept_in, "{kind}");
        space.rewrite("z");
        assert_eq!(zset(&mut space, "z"), Some(expected), "{kind}");
        space.run("ZADD z 1 a").unwrap();
        assert_eq!(zset(&mut space, "z").as_deref(), Some("a=1 c=2.5"));
    }
}

/// What a server would look at in its own order, or cannot compare, is not taken for something else.
#[test]
fn a_blob_whose_members_are_not_in_order_is_told() {
    for elements in [
        ["b", "2", "a", "1"],
        ["a", "1", "a", "2"],
        ["a", "1", "b", "nan"],
    ] {
        let mut blob = ListpackWriter::new();
        elements.iter().for_each(|one| blob.push(one.as_bytes()));
        let mut payload = Vec::new();
        put_string(&mut payload, &blob.finish());
        let (kind, payload) = (value_type::ZSET_LISTPACK, payload.into());
        let decoded = Zset::decode(&Raw { kind, payload }, REDIS_13);
        assert!(decoded.unwrap().is_err(), "{elements:?}");
    }
}

/// Valkey looks at all members of a `ZADD` before it packs the first, also where it writes the RDB of Redis 7.2.
#[test]
fn the_sign_of_a_zero_depends_on_whose_server_it_is() {
    let long = "x".repeat(65);
    for (is_valkey, zero) in [(false, "0"), (true, "-0")] {
        let mut space = empty(redis(11));
        space.set_valkey(is_valkey);
        space.run("ZADD z 1 b").unwrap();
        space.run(&format!("ZADD z -0 a 2 {long}")).unwrap();
        let expected = format!("a={zero} b=1 {long}=2");
        assert_eq!(zset(&mut space, "z"), Some(expected));
    }
}

/// A stored range is packed up to its first long member, whichever comes first.
#[test]
fn the_sign_of_a_zero_depends_on_the_direction_of_a_stored_range() {
    let long = "x".repeat(65);
    for (command, first) in [
        ("ZRANGESTORE d z 0 -1", "-0"),
        ("ZRANGESTORE d z 0 -1 REV", "0"),
        ("ZRANGESTORE d z -3 -1", "-0"),
        ("ZRANGESTORE d z -3 -1 REV", "0"),
        ("ZRANGESTORE d z 0 2 REV", "0"),
        ("ZRANGESTORE d z -inf +inf BYSCORE", "-0"),
        ("ZRANGESTORE d z +inf -inf BYSCORE REV", "0"),
    ] {
        let mut space = empty(REDIS_13);
        space.run(&format!("ZADD z -1 {long}")).unwrap();
        space.run("ZADD z -0 a 1 b").unwrap();
        space.run(command).unwrap();
        let expected = format!("{long}=-1 a={first} b=1");
        assert_eq!(zset(&mut space, "d"), Some(expected), "{command}");
    }
}

#[test]
fn what_no_master_can_have_done_is_told() {
    all_diverge(
        &["ZADD z 1 a", "ZADD i inf a", "MSET t 1"],
        &[
            "ZADD z nan a",
            "ZADD z 1e999 a",
            "ZADD z 1",
            "ZADD z 1 a 2",
            "ZADD z NX XX 1 a",
            "ZADD z GT LT 1 a",
            "ZADD z NX GT 1 a",
            "ZADD z INCR 1 a 2 b",
            "ZADD t 1 a",
            "ZINCRBY z x a",
            "ZINCRBY i -inf a",
            "ZREMRANGEBYSCORE z a b",
            "ZREMRANGEBYLEX z a b",
            "ZREMRANGEBYRANK z 0 x",
            "ZPOPMIN z -1",
            "ZUNIONSTORE d 1 t",
            "ZUNIONSTORE d 0 z",
            "ZUNIONSTORE d 1 z WEIGHTS x",
            "ZUNIONSTORE d 1 z WEIGHTS",
            "ZUNIONSTORE d 1 z EXTRA",
            "ZRANGESTORE d z 0 1 BYSCORE BYLEX",
            "ZRANGESTORE d t 0 1",
        ],
    );
    let mut space = empty(REDIS_13);
    let error = space.run("ZUNIONSTORE d 1 z AGGREGATE COUNT").unwrap_err();
    assert!(error.is_unmodelled(), "{error}");
}

fn decode(kind: u8, payload: &[u8]) -> Result<Vec<(Vec<u8>, f64)>, BadValue> {
    decode_as(REDIS_13, kind, payload)
}

fn decode_as(dialect: Dialect, kind: u8, payload: &[u8]) -> Result<Vec<(Vec<u8>, f64)>, BadValue> {
    let raw = Raw {
        kind,
        payload: payload.into(),
    };
    let zset = Zset::decode(&raw, dialect).unwrap()?;
    Ok(zset
        .iter()
        .map(|(member, score)| (member.to_vec(), score))
        .collect())
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// PROTOCOL.md D.8.
#[test]
fn every_encoding_is_read_and_a_small_one_written_as_servers_write_it() {
    let expected = vec![(b"a".to_vec(), 1.5), (b"b".to_vec(), 2.0)];
    let listpack = hex("1414000000040081610283312e35048162020201ff");
    assert_eq!(decode(17, &listpack).unwrap(), expected);
    let ziplist = hex("18180000001500000004000001610303312e3505016203f3ff");
    assert_eq!(decode(12, &ziplist).unwrap(), expected);
    let binary = hex("010161000000000000f83f");
    assert_eq!(decode(5, &binary).unwrap(), expected[..1]);
    assert_eq!(decode(3, b"\x02\x01b\x012\x01a\x031.5").unwrap(), expected);
    let infinite = decode(3, b"\x02\x01a\xfe\x01b\xff").unwrap();
    assert_eq!(infinite[0], (b"b".to_vec(), f64::NEG_INFINITY));

    let mut space = empty(REDIS_13);
    space.run("ZADD z 1.5 a 2 b").unwrap();
    assert_eq!(space.dump("z").unwrap(), (17, listpack));
    let mut space = empty(REDIS_9);
    space.run("ZADD z 1.5 a").unwrap();
    assert_eq!(space.dump("z").unwrap(), (5, binary));
    let mut space = empty(Dialect {
        version: 7,
        ..REDIS_9
    });
    space.run("ZADD z 1.5 a inf b").unwrap();
    assert_eq!(
        space.dump("z").unwrap(),
        (3, b"\x02\x01b\xfe\x01a\x031.5".to_vec())
    );

    for (kind, damaged) in [
        (3, &b"\x01\x01a\xfd"[..]),
        (5, b"\x01\x01a\x00\x00\x00\x00\x00\x00\xf8\x7f"),
        (
            5,
            b"\x02\x01a\x00\x00\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x00\x00\x00\x00\x00\x00",
        ),
        (5, b"\x01\x01a\x00"),
        (17, b"\x0a\x0a\x00\x00\x00\x01\x00\x81a\x02\xff"),
    ] {
        assert!(decode(kind, damaged).is_err(), "{kind} {damaged:?}");
    }
}

#[test]
fn a_large_one_takes_little_longer_for_each_member() {
    let mut space = empty(REDIS_13);
    for round in 0..40 {
        let members =
            (0..1000).map(|number| format!("{} m{}", number * 7 % 1000, round * 1000 + number));
        let members: Vec<String> = members.collect();
        space.run(&format!("ZADD z {}", members.join(" "))).unwrap();
    }
    for number in 0..10_000 {
        space.run(&format!("ZINCRBY z 1 m{number}")).unwrap();
        space.run("ZREMRANGEBYRANK z 0 0").unwrap();
        space.run("ZREMRANGEBYRANK z 20000 -20001").unwrap();
        space.run("ZREMRANGEBYSCORE z -inf (1").unwrap();
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        members in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 0..70),
            prop_oneof![
                any::<f64>().prop_filter("NaN", |score| !score.is_nan()),
                (-5i32..5).prop_map(f64::from),
                any::<i64>().prop_map(|score| score as f64),
            ],
            1..140,
        ),
        version in 1u32..14,
    ) {
        let dialect = Dialect { version, ..REDIS_13 };
        let mut zset = Zset::default();
        for (member, score) in &members {
            zset.set(member, *score, dialect);
        }
        let mut out = Vec::new();
        let kind = zset.encode(dialect, &mut out);
        let read = decode_as(dialect, kind, &out).unwrap();
        let wrote: Vec<_> = zset.iter().map(|(member, score)| (member.to_vec(), score)).collect();
        prop_assert_eq!(&read, &wrote);
        for (read, wrote) in read.iter().zip(&wrote) {
            prop_assert_eq!(read.1.to_bits(), wrote.1.to_bits());
        }
    }

    #[test]
    fn damage_is_an_error_never_a_panic(kind in 0u8..32, payload in prop::collection::vec(any::<u8>(), 0..60)) {
        let raw = Raw { kind, payload: payload.into() };
        let _ = Zset::decode(&raw, REDIS_13);
    }
}
