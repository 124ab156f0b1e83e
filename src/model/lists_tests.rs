#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::super::testing::{REDIS_13, barred, empty};
use super::*;

/// The elements of a list, with a bar between; none if there is no such key.
fn list(space: &mut Keyspace, key: &str) -> Option<String> {
    let args = Args::new(&[]);
    let list = space.value::<List>(&args, key.as_bytes()).unwrap()?;
    let bytes: usize = list.elements.iter().map(|element| element.len()).sum();
    assert_eq!(list.bytes, bytes);
    Some(barred(list.iter()))
}

/// Runs commands one after the other, and gives what is in `l` then.
fn after(commands: &[&str]) -> Option<String> {
    let mut space = empty(REDIS_13);
    for command in commands {
        space.run(command).unwrap();
    }
    list(&mut space, "l")
}

#[test]
fn elements_are_pushed_and_popped_at_both_ends() {
    for (commands, expected) in [
        (&["RPUSH l a b c"][..], Some("a|b|c")),
        (&["LPUSH l a b c"], Some("c|b|a")),
        (&["lpush l a", "rpush l b "], Some("a|b|")),
        (&["LPUSHX l a", "RPUSHX l a"], None),
        (
            &["RPUSH l a", "LPUSHX l b c", "RPUSHX l d"],
            Some("c|b|a|d"),
        ),
        (&["RPUSH l a b c", "LPOP l"], Some("b|c")),
        (&["RPUSH l a b c", "RPOP l 2"], Some("a")),
        (&["RPUSH l a b c", "LPOP l 0"], Some("a|b|c")),
        (&["RPUSH l a b c", "LPOP l 9"], None),
        (&["LPOP l", "RPOP l 3"], None),
        (&["RPUSH l a b c", "BLPOP x l 0"], Some("b|c")),
        (&["RPUSH l a b c", "BRPOP l 1.5"], Some("a|b")),
        (&["RPUSH l a b c", "LMPOP 2 x l RIGHT COUNT 2"], Some("a")),
        (&["RPUSH l a b c", "BLMPOP 0 1 l left"], Some("b|c")),
    ] {
        assert_eq!(after(commands).as_deref(), expected, "{commands:?}");
    }
}

#[test]
fn elements_are_changed_in_place() {
    const FILL: &str = "RPUSH l a b c a b a";
    for (command, expected) in [
        ("LINSERT l BEFORE b x", Some("a|x|b|c|a|b|a")),
        ("LINSERT l after b x", Some("a|b|x|c|a|b|a")),
        ("LINSERT l AFTER none x", Some("a|b|c|a|b|a")),
        ("LINSERT none AFTER a x", Some("a|b|c|a|b|a")),
        ("LSET l 0 longer", Some("longer|b|c|a|b|a")),
        ("LSET l -1 x", Some("a|b|c|a|b|x")),
        ("LSET l -6 x", Some("x|b|c|a|b|a")),
        ("LREM l 0 a", Some("b|c|b")),
        ("LREM l 2 a", Some("b|c|b|a")),
        ("LREM l -2 a", Some("a|b|c|b")),
        ("LREM l -9 b", Some("a|c|a|a")),
        ("LREM l 1 none", Some("a|b|c|a|b|a")),
        ("LREM none 1 a", Some("a|b|c|a|b|a")),
        ("LTRIM l 1 3", Some("b|c|a")),
        ("LTRIM l -2 -1", Some("b|a")),
        ("LTRIM l -99 99", Some("a|b|c|a|b|a")),
        ("LTRIM l 2 1", None),
        ("LTRIM l 6 9", None),
        ("LTRIM l 0 -7", None),
    ] {
        assert_eq!(after(&[FILL, command]).as_deref(), expected, "{command}");
    }
    assert_eq!(after(&["RPUSH l a a", "LREM l 0 a"]), None);
}

#[test]
fn an_element_is_moved_from_list_to_list_or_around() {
    let mut space = empty(REDIS_13);
    space.run("RPUSH l a b c").unwrap();
    space.run("LMOVE l m LEFT RIGHT").unwrap();
    space.run("LMOVE l m right left").unwrap();
    space.run("RPOPLPUSH none m").unwrap();
    assert_eq!(list(&mut space, "l").as_deref(), Some("b"));
    assert_eq!(list(&mut space, "m").as_deref(), Some("c|a"));
    space.run("RPOPLPUSH l m").unwrap();
    assert_eq!(list(&mut space, "l"), None);
    assert_eq!(list(&mut space, "m").as_deref(), Some("b|c|a"));
    space.run("BRPOPLPUSH m m 0").unwrap();
    space.run("BLMOVE m m LEFT RIGHT 0").unwrap();
    space.run("LMOVE m m LEFT RIGHT").unwrap();
    assert_eq!(list(&mut space, "m").as_deref(), Some("c|a|b"));
}

#[test]
fn one_that_turns_around_alone_keeps_its_expiry() {
    let mut space = empty(REDIS_13);
    space.run("RPUSH l a").unwrap();
    space.entry(b"l").unwrap().unwrap().expiry = Some(7);
    space.run("RPOPLPUSH l l").unwrap();
    assert_eq!(space.entry(b"l").unwrap().unwrap().expiry, Some(7));
    assert_eq!(list(&mut space, "l").as_deref(), Some("a"));
    space.run("LPOP l").unwrap();
    space.run("RPUSH l a").unwrap();
    assert_eq!(space.entry(b"l").unwrap().unwrap().expiry, None);
}

#[test]
fn what_no_master_can_have_done_is_told() {
    let mut space = empty(REDIS_13);
    space.run("RPUSH l a b").unwrap();
    space.run("MSET s 1").unwrap();
    for command in [
        "LPUSH s a",
        "LPOP s",
        "LSET none 0 a",
        "LSET l 2 a",
        "LSET l -3 a",
        "LSET l x a",
        "LPOP l -1",
        "LINSERT l BESIDE a b",
        "LMOVE l l UP DOWN",
        "RPOPLPUSH l s",
        "LPUSH l",
        "LMPOP 1 l LEFT AND MORE",
    ] {
        let error = space.run(command).unwrap_err();
        assert!(
            matches!(error, ApplyError::Diverged { .. }),
            "{command}: {error}"
        );
    }
    assert_eq!(list(&mut space, "l").as_deref(), Some("a|b"));
}

fn decode(kind: u8, payload: &[u8]) -> Result<Vec<Blob>, BadValue> {
    let raw = Raw {
        kind,
        payload: payload.into(),
    };
    let list = List::decode(&raw, REDIS_13).unwrap()?;
    Ok(list.elements.into())
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

#[test]
fn every_encoding_is_read() {
    let elements: Vec<Blob> = [&b"a"[..], b"7", b"300"].map(Blob::from).into();
    // Redis 8.6 and 6.2, PROTOCOL.md D.8.
    let packed = hex("01020f0f00000003008161020701c12c02ff");
    assert_eq!(decode(18, &packed).unwrap(), elements);
    let ziplists = hex("0114140000000f000000030000016103f802c02c01ff");
    assert_eq!(decode(14, &ziplists).unwrap(), elements);
    assert_eq!(decode(10, &ziplists[1..]).unwrap(), elements);
    assert_eq!(
        decode(1, b"\x03\x01a\xc0\x07\xc1\x2c\x01").unwrap(),
        elements
    );
    // An element of its own between two nodes.
    let mut mixed = vec![3];
    mixed.extend_from_slice(&packed[1..]);
    mixed.extend_from_slice(b"\x01\x02xy");
    mixed.extend_from_slice(&packed[1..]);
    let read = decode(18, &mixed).unwrap();
    assert_eq!((read.len(), &*read[3]), (7, &b"xy"[..]));
    for (kind, damaged) in [
        (1, &b"\x04\x01a"[..]),
        (1, b"\x01\x01a!"),
        (1, b"\x81\xff\xff\xff\xff\xff\xff\xff\xff"),
        (18, b"\x01\x03\x01a"),
        (18, b"\x01\x02\x01a"),
        (14, b"\x01\x01a"),
    ] {
        assert!(decode(kind, damaged).is_err(), "{kind} {damaged:?}");
    }
}

#[test]
fn a_long_queue_takes_no_longer_for_each_element() {
    let mut space = empty(REDIS_13);
    let thousand: Vec<String> = (0..1000).map(|number| number.to_string()).collect();
    let push = format!("RPUSH l {}", thousand.join(" "));
    for _ in 0..50 {
        space.run(&push).unwrap();
    }
    for _ in 0..50_000 {
        space.run("LPOP l").unwrap();
    }
    assert_eq!(list(&mut space, "l"), None);
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(
        elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..40),
    ) {
        let mut list = List::default();
        elements.iter().for_each(|element| list.append(element.as_slice().into()));
        let mut out = Vec::new();
        let kind = list.encode(REDIS_13, &mut out);
        let read = decode(kind, &out).unwrap();
        prop_assert_eq!(read, elements.into_iter().map(Vec::into_boxed_slice).collect::<Vec<_>>());
    }

    #[test]
    fn damage_is_an_error_never_a_panic(kind in 0u8..32, payload in prop::collection::vec(any::<u8>(), 0..60)) {
        let raw = Raw { kind, payload: payload.into() };
        let _ = List::decode(&raw, REDIS_13);
    }
}

/// Servers pass over nodes without elements, too.
#[test]
fn nodes_without_elements_are_passed_over() {
    let read = |kind, payload: &[u8]| {
        let list = List::read(kind, Cursor::new(payload)).unwrap();
        list.iter()
            .map(|element| element.to_vec())
            .collect::<Vec<_>>()
    };
    let ziplist = b"\x0b\x0b\0\0\0\x0a\0\0\0\0\0\xff";
    let full = b"\x0e\x0e\0\0\0\x0a\0\0\0\x01\0\0\x01a\xff";
    assert_eq!(
        read(
            value_type::LIST_QUICKLIST,
            &[&[2], &ziplist[..], full].concat()
        ),
        [b"a"]
    );
    assert!(read(value_type::LIST_QUICKLIST, &[&[1], &ziplist[..]].concat()).is_empty());
    let listpack = b"\x02\x07\x07\0\0\0\0\0\xff";
    let one = b"\x01\x01b";
    assert_eq!(
        read(
            value_type::LIST_QUICKLIST_2,
            &[&[2], &listpack[..], one].concat()
        ),
        [b"b"]
    );
    assert!(
        read(
            value_type::LIST_QUICKLIST_2,
            &[&[1], &listpack[..]].concat()
        )
        .is_empty()
    );
    assert!(read(value_type::LIST_QUICKLIST_2, &[0]).is_empty());
}
