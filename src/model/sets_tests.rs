#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::super::testing::{REDIS_9, REDIS_13, empty};
use super::*;

/// The members in their order, with a bar between; none if there is no such key.
fn set(space: &mut Keyspace, key: &str) -> Option<String> {
    let args = Args::new(&[]);
    let set = space.value::<Set>(&args, key.as_bytes()).unwrap()?;
    let bytes: usize = set.members.iter().map(|member| member.len()).sum();
    assert_eq!(set.bytes, bytes);
    let members = set
        .iter()
        .map(|member| String::from_utf8_lossy(member).into_owned());
    let mut members: Vec<_> = members.collect();
    members.sort();
    Some(members.join("|"))
}

#[test]
fn members_come_go_and_move() {
    let mut space = empty(REDIS_13);
    space.run("SADD s a b c a").unwrap();
    assert_eq!(set(&mut space, "s").as_deref(), Some("a|b|c"));
    space.run("srem s a none").unwrap();
    space.run("SREM none a").unwrap();
    space.run("SMOVE s t b").unwrap();
    space.run("SMOVE s t none").unwrap();
    space.run("SMOVE none t b").unwrap();
    space.run("SMOVE s s c").unwrap();
    assert_eq!(set(&mut space, "s").as_deref(), Some("c"));
    assert_eq!(set(&mut space, "t").as_deref(), Some("b"));
    space.run("SADD t c").unwrap();
    space.run("SMOVE s t c").unwrap();
    assert_eq!(set(&mut space, "s"), None);
    assert_eq!(set(&mut space, "t").as_deref(), Some("b|c"));
    space.run("SREM t b c").unwrap();
    assert_eq!(set(&mut space, "t"), None);
    assert!(space.run("SPOP t").unwrap_err().is_unmodelled());
}

#[test]
fn operations_store_what_they_come_to() {
    for (command, expected) in [
        ("SUNIONSTORE d a b none", Some("1|2|3|4|5")),
        ("SINTERSTORE d a b", Some("3|4")),
        ("SINTERSTORE d a a", Some("1|2|3|4")),
        ("SINTERSTORE d a b c", None),
        ("SINTERSTORE d a none", None),
        // Redis 5.0 looks no further than the first that is not there.
        ("SINTERSTORE d none text", None),
        ("SDIFFSTORE d a b", Some("1|2")),
        ("SDIFFSTORE d a c none", Some("1|2|3|4")),
        ("SDIFFSTORE d c a", Some("x")),
        ("SDIFFSTORE d a a", None),
        ("SDIFFSTORE d none a", None),
        ("SUNIONSTORE d none", None),
        ("SUNIONSTORE text a", None),
    ] {
        let mut space = empty(REDIS_13);
        for fill in [
            "SADD a 1 2 3 4",
            "SADD b 3 4 5",
            "SADD c x",
            "MSET text 1 d 1",
        ] {
            space.run(fill).unwrap();
        }
        space.entry(b"d").unwrap().unwrap().expiry = Some(7);
        space.run(command).unwrap();
        if command.starts_with("SUNIONSTORE text") {
            assert_eq!(set(&mut space, "text").as_deref(), Some("1|2|3|4"));
            continue;
        }
        assert_eq!(set(&mut space, "d").as_deref(), expected, "{command}");
        if let Some(entry) = space.entry(b"d").unwrap() {
            assert_eq!(entry.expiry, None);
        }
    }
}

#[test]
fn a_source_may_be_the_destination() {
    let mut space = empty(REDIS_13);
    space.run("SADD a 1 2").unwrap();
    space.run("SADD b 2 3").unwrap();
    space.run("SDIFFSTORE a a b").unwrap();
    assert_eq!(set(&mut space, "a").as_deref(), Some("1"));
    space.run("SUNIONSTORE a b a").unwrap();
    assert_eq!(set(&mut space, "a").as_deref(), Some("1|2|3"));
}

#[test]
fn what_no_master_can_have_done_is_told() {
    let mut space = empty(REDIS_13);
    space.run("SADD s a").unwrap();
    space.run("MSET t 1").unwrap();
    for command in [
        "SADD t a",
        "SADD s",
        "SREM t a",
        "SMOVE s t none",
        "SUNIONSTORE d s t",
        "SINTERSTORE d s t",
        "SDIFFSTORE d none t",
        "SUNIONSTORE d",
    ] {
        let error = space.run(command).unwrap_err();
        assert!(
            matches!(error, ApplyError::Diverged { .. }),
            "{command}: {error}"
        );
    }
}

fn dump(dialect: Dialect, members: &[&str]) -> (u8, Vec<u8>) {
    let mut space = empty(dialect);
    space.run(&format!("SADD s {}", members.join(" "))).unwrap();
    space.dump("s").unwrap()
}

fn decode(kind: u8, payload: &[u8]) -> Result<Vec<Blob>, BadValue> {
    let raw = Raw {
        kind,
        payload: payload.into(),
    };
    let set = Set::decode(&raw, REDIS_13).unwrap()?;
    let mut members: Vec<Blob> = set.members.into_iter().collect();
    members.sort();
    Ok(members)
}

/// What servers write, PROTOCOL.md D.8.
#[test]
fn small_sets_are_written_as_servers_write_them() {
    let intset = b"\x0e\x02\x00\x00\x00\x03\x00\x00\x00\x01\x00\x02\x00\x03\x00";
    assert_eq!(dump(REDIS_13, &["3", "1", "2"]), (11, intset.to_vec()));
    assert_eq!(dump(REDIS_9, &["3", "1", "2"]), (11, intset.to_vec()));
    let listpack = b"\x0d\x0d\x00\x00\x00\x02\x00\x81a\x02\x81b\x02\xff";
    assert_eq!(dump(REDIS_13, &["b", "a"]), (20, listpack.to_vec()));
    assert_eq!(dump(REDIS_9, &["a"]), (2, b"\x01\x01a".to_vec()));
    // Members wider than 16 bits; and such as are no numbers as servers write them.
    assert_eq!(
        dump(REDIS_13, &["-1", "70000"]).1[..10],
        *b"\x10\x04\x00\x00\x00\x02\x00\x00\x00\xff"
    );
    assert_eq!(dump(REDIS_13, &["-1", "5000000000"]).1[1], 8);
    assert_eq!(dump(REDIS_13, &["1", "007"]).0, 20);
    // Too many, too long.
    let many: Vec<String> = (0..513).map(|number| number.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(dump(REDIS_13, &many).0, 2);
    assert_eq!(dump(REDIS_13, &["x".repeat(65).as_str()]).0, 2);
}

#[test]
fn every_encoding_is_read() {
    let members: Vec<Blob> = [&b"-5"[..], b"7"].map(Blob::from).into();
    for (kind, payload) in [
        (2, &b"\x02\xc0\x07\x02-5"[..]),
        (11, b"\x0c\x02\x00\x00\x00\x02\x00\x00\x00\xfb\xff\x07\x00"),
        (20, b"\x0c\x0c\x00\x00\x00\x02\x00\xdf\xfb\x02\x07\x01\xff"),
    ] {
        assert_eq!(decode(kind, payload).unwrap(), members, "{kind}");
    }
    for (kind, damaged) in [
        (2, &b"\x02\x01a\x01a"[..]),
        (2, b"\x02\x01a"),
        (2, b"\x01\x01a!"),
        (11, b"\x0c\x02\x00\x00\x00\x02\x00\x00\x00\x07\x00\x07\x00"),
        (20, b"\x0b\x0b\x00\x00\x00\x02\x00\x07\x01\x07\x01\xff"),
    ] {
        assert!(decode(kind, damaged).is_err(), "{kind} {damaged:?}");
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        members in prop::collection::btree_set(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..70),
            any::<i64>().prop_map(|number| number.to_string().into_bytes()),
        ], 1..140),
        numbers in any::<bool>(),
        version in 9u32..14,
    ) {
        let wanted = |member: &&Vec<u8>| !numbers || canonical_i64(member).is_some();
        let members: Vec<Blob> = members.iter().filter(wanted).map(|member| member.as_slice().into()).collect();
        let mut set = Set::default();
        members.iter().for_each(|member| { set.add(member.clone()); });
        let mut out = Vec::new();
        let kind = set.encode(Dialect { version, ..REDIS_13 }, &mut out);
        prop_assert_eq!(decode(kind, &out).unwrap(), members);
    }

    #[test]
    fn damage_is_an_error_never_a_panic(kind in 0u8..32, payload in prop::collection::vec(any::<u8>(), 0..60)) {
        let raw = Raw { kind, payload: payload.into() };
        let _ = Set::decode(&raw, REDIS_13);
    }
}
