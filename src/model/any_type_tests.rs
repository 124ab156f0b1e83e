#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::super::testing::{REDIS_13, empty, is_diverged, keys};
use super::*;

use crate::model::{ApplyError, Blob, DataType, Footprint, More, Text};
use crate::wire::crc64::Crc64;

fn expiry(space: &mut Keyspace, key: &str) -> Option<i64> {
    space.entry(key.as_bytes()).unwrap().unwrap().expiry
}

fn is_unmodelled(result: Result<(), ApplyError>) -> bool {
    result.is_err_and(|error| error.is_unmodelled())
}

fn dump(body: &[u8], version: u16) -> Vec<u8> {
    let covered = [body, &version.to_le_bytes()].concat();
    let crc = Crc64::of(&covered).to_le_bytes();
    [&covered[..], &crc].concat()
}

#[test]
fn keys_are_deleted() {
    let mut space = empty(REDIS_13);
    space.run("MSET a 1 b 2 c 3").unwrap();
    space.run("DEL a nokey a").unwrap();
    space.run("unlink c").unwrap();
    assert_eq!(keys(&space), ["0:b"]);
}

#[test]
fn expiries_are_set_under_conditions() {
    let mut space = empty(REDIS_13);
    space.run("SET k v").unwrap();
    for (command, time) in [
        ("PEXPIREAT k 100 XX", None),
        ("PEXPIREAT k 100 GT", None),
        ("PEXPIREAT k 100 XX LT", None),
        ("pexpireat k 100 lt", Some(100)),
        ("PEXPIREAT k 200 NX", Some(100)),
        ("PEXPIREAT k 100 GT", Some(100)),
        ("PEXPIREAT k 150 XX GT", Some(150)),
        ("PEXPIREAT k 150 LT", Some(150)),
        ("PEXPIREAT k 140 LT", Some(140)),
        ("EXPIREAT k 2", Some(2000)),
        ("PEXPIREAT k -5", Some(-5)),
        ("PERSIST k", None),
        ("PEXPIREAT k 7 NX", Some(7)),
    ] {
        space.run(command).unwrap();
        assert_eq!(expiry(&mut space, "k"), time, "{command}");
    }
    space.run("PEXPIREAT nokey 7").unwrap();
    space.run("PERSIST nokey").unwrap();
    assert_eq!(keys(&space), ["0:k"]);
    for command in [
        "EXPIRE k 5",
        "PEXPIRE k 5",
        "PEXPIREAT k 5 NEW",
        "PERSIST k member",
    ] {
        assert!(is_unmodelled(space.run(command)), "{command}");
    }
    assert!(is_diverged(space.run("EXPIREAT k 9223372036854775807")));
}

#[test]
fn keys_are_renamed_with_what_belongs_to_them() {
    let mut space = empty(REDIS_13);
    space.run("SET a 1 PXAT 5").unwrap();
    space.run("SET b 2 PXAT 6").unwrap();
    space.run("RENAME a a").unwrap();
    space.run("RENAME a b").unwrap();
    assert_eq!(
        (keys(&space), expiry(&mut space, "b")),
        (vec!["0:b".into()], Some(5))
    );
    space.run("RENAMENX b c").unwrap();
    assert_eq!(space.dump("c").unwrap(), (0, vec![0xC0, 1]));
    for command in ["RENAME nokey x", "RENAME nokey nokey", "RENAMENX nokey x"] {
        assert!(is_diverged(space.run(command)), "{command}");
    }
    space.run("SET d 1").unwrap();
    assert!(is_diverged(space.run("RENAMENX c d")));
}

#[test]
fn keys_are_copied_and_moved_between_databases() {
    let mut space = empty(REDIS_13);
    space.run("SET a 1 PXAT 5").unwrap();
    space.run("COPY a b").unwrap();
    space.run("COPY a a db 1").unwrap();
    space.run("COPY a a REPLACE DB 1").unwrap();
    space.run("APPEND a 2").unwrap();
    assert_eq!(
        space.dump("b").unwrap(),
        (0, vec![0xC0, 1]),
        "a copy by itself"
    );
    space.run("MOVE b 1").unwrap();
    assert_eq!(keys(&space), ["0:a", "1:a", "1:b"]);
    space.run("SELECT 1").unwrap();
    assert_eq!(
        [expiry(&mut space, "a"), expiry(&mut space, "b")],
        [Some(5); 2]
    );
    space.run("SELECT 0").unwrap();
    for command in [
        "COPY nokey x",
        "COPY a a",
        "COPY a a DB 0",
        "COPY a b DB 1",
        "MOVE a 1",
        "MOVE a 0",
        "MOVE nokey 1",
        "COPY a b DB -1",
        "COPY a b DB",
    ] {
        assert!(is_diverged(space.run(command)), "{command}");
    }
    assert!(is_unmodelled(space.run("COPY a b NEW")));
}

#[test]
fn keys_of_other_databases_are_collected() {
    for (command, zero, one) in [
        ("COPY a b DB 1", &["a"][..], &["b"][..]),
        ("COPY a b", &["a", "b"], &[]),
        ("MOVE a 1", &["a"], &["a"]),
        ("MSETEX 2 a 1 b 2 NX", &["a", "b"], &[]),
        ("BITOP OR a b", &["a", "b"], &[]),
        ("PFDEBUG TODENSE a", &["a"], &[]),
        ("RESTORE a 0 payload", &["a"], &[]),
    ] {
        let argv: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let mut footprint = Footprint::new(0);
        footprint.note(&argv).unwrap();
        for (db, wanted) in [(0, zero), (1, one)] {
            for key in ["a", "b"] {
                let wants = footprint.wants(db, key.as_bytes());
                assert_eq!(wants, wanted.contains(&key), "{command} {db}:{key}");
            }
        }
    }
}

#[test]
fn what_modules_have_attached_is_not_guessed() {
    let mut space = empty(REDIS_13);
    let mut entry = Entry::new(Text(b"v".to_vec()).into_value());
    let more = More {
        prefix: Blob::default(),
        has_meta: true,
    };
    entry.more = Some(Box::new(more));
    space.load(0, b"a", entry);
    for command in ["RENAME a b", "COPY a b", "MOVE a 1", "SET a 1"] {
        assert!(is_unmodelled(space.run(command)), "{command}");
    }
    space.run("PEXPIREAT a 5").unwrap();
    space.run("DEL a").unwrap();
}

#[test]
fn values_are_restored() {
    let mut space = empty(REDIS_13);
    let mut restore = |args: &[&[u8]]| {
        let argv = [&[&b"RESTORE"[..], b"k"], args].concat();
        Footprint::new(0).note(&argv)?;
        space.try_apply(&argv)?;
        let expiry = space.entry(b"k").unwrap().unwrap().expiry;
        Ok((expiry, space.dump("k").unwrap()))
    };
    let hello = dump(b"\0\x05hello", 9);
    let value = (0, b"\x05hello".to_vec());
    assert_eq!(restore(&[b"0", &hello]), Ok((None, value.clone())));
    assert!(
        is_diverged(restore(&[b"0", &hello]).map(drop)),
        "it is there"
    );
    assert_eq!(
        restore(&[b"77", &hello, b"replace", b"ABSTTL", b"IDLETIME", b"3"]),
        Ok((Some(77), value.clone()))
    );
    assert_eq!(
        restore(&[b"0", &hello, b"REPLACE", b"FREQ", b"3"]),
        Ok((None, value))
    );
    assert!(is_diverged(
        restore(&[b"-1", &hello, b"REPLACE", b"ABSTTL"]).map(drop)
    ));
    for bad in [
        &[&b"77"[..], &hello, b"REPLACE"][..],
        &[b"0", &hello, b"REPLACE", b"NEW"],
        &[b"0", &dump(b"\0\x05hello!", 9), b"REPLACE"],
        &[b"0", &dump(b"\0\x05hell", 9), b"REPLACE"],
        &[b"0", &dump(b"\xF3\x01", 13), b"REPLACE"],
        &[b"0", &dump(b"\x1C\x00\x00", 14), b"REPLACE"],
        &[b"0", &dump(b"", 9), b"REPLACE"],
        &[b"0", b"short", b"REPLACE"],
    ] {
        assert!(is_unmodelled(restore(bad).map(drop)), "{bad:?}");
    }
    // KeyDB's, which is neither damaged nor newer.
    let of_keydb = dump(b"\0\x05hello\xFA\x0Bmvcc-tstamp\x131847190312345600000", 9);
    let error = restore(&[b"0", &of_keydb, b"REPLACE"]).unwrap_err();
    assert!(error.to_string().ends_with("(mvcc-tstamp)"), "{error}");
    let string_with_it = dump(b"\0\x0F\xFA\x0Bmvcc-tstamp\x017", 9);
    assert!(restore(&[b"0", &string_with_it, b"REPLACE"]).is_ok());
    let module = dump(b"\x07\x01\x02\x07\x00", 13);
    assert_eq!(
        restore(&[b"0", &module, b"REPLACE"]),
        Ok((None, (7, b"\x01\x02\x07\x00".to_vec())))
    );
    assert!(
        is_unmodelled(space.run("COPY k l")),
        "only the module could"
    );
    space.run("RENAME k l").unwrap();
    space.run("RENAME l k").unwrap();
    assert!(matches!(
        space.run("APPEND k x"),
        Err(ApplyError::Damaged { .. })
    ));
}
