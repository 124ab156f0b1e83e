use super::super::testing::{REDIS_13, empty};
use super::super::value::{DataType, Raw, Value};
use super::super::{ApplyError, Entry, Keyspace};
use super::*;
use crate::wire::rdb::cursor::put_string;
use crate::wire::rdb::packed::ListpackWriter;
use crate::wire::rdb::samples::hex;

const REDIS_9: Dialect = dialect(Family::Redis, 9);
const REDIS_11: Dialect = dialect(Family::Redis, 11);
const VALKEY_80: Dialect = dialect(Family::Valkey, 80);

const fn dialect(family: Family, version: u32) -> Dialect {
    Dialect { family, version }
}

fn after(dialect: Dialect, commands: &[&str]) -> Keyspace {
    let mut space = empty(dialect);
    for command in commands {
        space.run(command).unwrap();
    }
    space
}

/// `field=value@expiry …` in order; none if there is no such key.
fn told(space: &mut Keyspace, key: &str) -> Option<String> {
    space.entry(key.as_bytes()).unwrap()?;
    space.rewrite(key);
    let argv: [&[u8]; 2] = [b"HGETALL", key.as_bytes()];
    let args = super::super::Args::new(&argv);
    let hash: &mut Hash = space.value(&args, key.as_bytes()).unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let fields = hash.in_order().into_iter().map(|(field, told)| {
        let expiry = told.expiry.map(|expiry| format!("@{expiry}"));
        format!(
            "{}={}{}",
            text(field),
            text(&told.value),
            expiry.unwrap_or_default()
        )
    });
    Some(fields.collect::<Vec<_>>().join(" "))
}

#[track_caller]
fn check(dialect: Dialect, commands: &[&str], wanted: &str) {
    let mut space = after(dialect, commands);
    assert_eq!(
        told(&mut space, "h").as_deref(),
        Some(wanted),
        "{commands:?}"
    );
}

fn decode(dialect: Dialect, kind: u8, payload: &[u8]) -> Result<String, &'static str> {
    let raw = Raw {
        kind,
        payload: payload.into(),
    };
    let value = raw.decode(dialect).map_err(|bad| bad.0)?;
    let mut space = empty(dialect);
    space.load(0, b"h", Entry::new(value));
    Ok(told(&mut space, "h").unwrap())
}

/// A `DUMP` reply.
fn decode_dump(dialect: Dialect, dump: &str) -> String {
    let dump = hex(dump);
    let (value, _) = dump.split_at(dump.len() - 10);
    decode(dialect, value[0], &value[1..]).unwrap()
}

#[test]
fn fields_are_set_and_deleted_and_keep_their_order() {
    check(
        REDIS_13,
        &[
            "HSET h a 1 b 2",
            "hmset h c 3 a 4",
            "HSETNX h b 5",
            "HSETNX h d 6",
            "HDEL h c x",
        ],
        "a=4 b=2 d=6",
    );
    check(
        REDIS_9,
        &["HSET h a 1 a 2", "HDEL h x", "HDEL none x"],
        "a=2",
    );
    let mut space = after(REDIS_13, &["HSET h a 1 b 2", "HGETDEL h FIELDS 3 a b c"]);
    assert_eq!(told(&mut space, "h"), None);
    space.run("HDEL h a").unwrap();
    space.run("HSETNX h a 1").unwrap();
    assert_eq!(told(&mut space, "h").unwrap(), "a=1");
    space.run("HDEL h a").unwrap();
    assert_eq!(told(&mut space, "h"), None);
}

#[test]
fn numbers_are_added() {
    check(
        REDIS_13,
        &[
            "HSET h a 10 f 1",
            "HINCRBY h a -12",
            "HINCRBY h new 9223372036854775807",
            "HINCRBYFLOAT h f 3",
        ],
        "a=-2 f=4 new=9223372036854775807",
    );
    for (command, unmodelled) in [
        ("HINCRBY h text 1", false),
        ("HINCRBY h max 1", false),
        ("HINCRBY h a 1.0", false),
        ("HINCRBYFLOAT h a 0.5", true),
        ("HINCRBYFLOAT h text 1", true),
    ] {
        let mut space = after(REDIS_13, &["HSET h a 1 text 01 max 9223372036854775807"]);
        let error = space.run(command).unwrap_err();
        assert_eq!(error.is_unmodelled(), unmodelled, "{command}: {error}");
    }
}

#[test]
fn fields_expire() {
    for dialect in [REDIS_13, VALKEY_80, self::dialect(Family::Redis, 12)] {
        check(
            dialect,
            &[
                "HSET h a 1 b 2 c 3 d 4",
                "HPEXPIREAT h 5000 FIELDS 3 a b x",
                "HEXPIREAT h 6 FIELDS 1 c",
                "HPEXPIREAT none 6 FIELDS 1 c",
            ],
            "a=1@5000 b=2@5000 c=3@6000 d=4",
        );
    }
    check(
        REDIS_13,
        &[
            "HSET h a 1 b 2 c 3 d 4 e 5 f 6",
            "HPEXPIREAT h 5000 FIELDS 6 a b c d e f",
            "HSET h a 7",                    // goes
            "HINCRBY h b 1",                 // stays
            "HINCRBYFLOAT h c 1",            // stays
            "HPERSIST h FIELDS 2 d x",       // goes
            "HSETEX h KEEPTTL FIELDS 1 e 9", // stays
            "HSETEX h FIELDS 1 f 9",         // goes
        ],
        "a=7 b=3@5000 c=4@5000 d=4 e=9@5000 f=9",
    );
    check(
        REDIS_13,
        &["HSET h a 1", "HPEXPIREAT h 1 FIELDS 1 a", "HSETNX h a 2"],
        "a=1@1",
    );
    check(
        VALKEY_80,
        &["HSET h a 1", "HPEXPIREAT h 9223372036854775807 FIELDS 1 a"],
        "a=1@9223372036854775807",
    );
}

#[test]
fn expiries_have_conditions() {
    for (condition, wanted) in [
        ("NX", "none=9@300 less=1@200 same=2@300 more=3@400"),
        ("xx", "none=9 less=1@300 same=2@300 more=3@300"),
        ("GT", "none=9 less=1@300 same=2@300 more=3@400"),
        ("LT", "none=9@300 less=1@200 same=2@300 more=3@300"),
        ("XX LT", "none=9 less=1@200 same=2@300 more=3@300"),
    ] {
        check(
            REDIS_13,
            &[
                "HSET h none 9",
                "HSETEX h PXAT 200 FIELDS 1 less 1",
                "HSETEX h FIELDS 1 same 2 PXAT 300",
                "HSETEX h PXAT 400 FIELDS 1 more 3",
                &format!("HPEXPIREAT h 300 {condition} FIELDS 4 none less same more"),
            ],
            wanted,
        );
    }
}

#[test]
fn fields_are_set_with_their_expiry() {
    check(
        REDIS_13,
        &[
            "HSETEX h PXAT 7000 FIELDS 2 a 1 b 2",
            "HSETEX h EXAT 8 FIELDS 1 b 3",
            "HSETEX h FNX PXAT 9000 FIELDS 2 b 4 c 4",
            "HSETEX h fxx PXAT 9000 FIELDS 2 b 4 c 4",
            "HSETEX h FNX KEEPTTL FIELDS 1 d 5",
            "HSETEX h FXX KEEPTTL FIELDS 2 a 6 d 6",
            "HSETEX h NX FIELDS 1 e 1",
            "HSETEX h XX FIELDS 1 g 1",
            "HSETEX other XX FIELDS 1 e 1",
            "HSETEX other FXX FIELDS 1 e 1",
        ],
        "a=6@7000 b=3@8000 d=6 g=1",
    );
    let mut space = after(
        REDIS_13,
        &["HSETEX h FXX FIELDS 1 e 1", "HSETEX o NX FIELDS 1 e 1"],
    );
    assert_eq!(told(&mut space, "h"), None);
    assert_eq!(told(&mut space, "o").unwrap(), "e=1");
    check(
        REDIS_13,
        &[
            "HSETEX h PXAT 7000 FIELDS 4 a 1 b 2 c 3 d 4",
            "HGETEX h FIELDS 1 a",
            "HGETEX h PERSIST FIELDS 2 b x",
            "HGETEX h PXAT 1000 FIELDS 1 c",
            "HGETEX h EXAT 1 FIELDS 1 d",
            "HGETEX none EXAT 1 FIELDS 1 d",
        ],
        "a=1@7000 b=2 c=3@1000 d=4@1000",
    );
}

#[test]
fn what_cannot_be_applied_is_told() {
    let unmodelled = [
        "HEXPIRE h 10 FIELDS 1 a",
        "HPEXPIRE h 10 FIELDS 1 a",
        "HSETEX h EX 10 FIELDS 1 a 1",
        "HGETEX h PX 10 FIELDS 1 a",
        "HSETEX h SOME FIELDS 1 a 1",
    ];
    for command in unmodelled {
        let error = after(REDIS_13, &["HSET h a 1"]).run(command).unwrap_err();
        assert!(error.is_unmodelled(), "{command}: {error}");
    }
    let diverged = [
        "HSET h a",
        "HSET h",
        "HSET h a 1 b",
        "HDEL h",
        "HSETNX h a",
        "HPEXPIREAT h 1 FIELDS 2 a",
        "HPEXPIREAT h 1 FIELDS 0",
        "HPEXPIREAT h 1 FIELDS -1 a",
        "HPEXPIREAT h 1 FIELDS 9223372036854775807 a",
        "HPEXPIREAT h 1",
        "HPEXPIREAT h x FIELDS 1 a",
        "HPEXPIREAT h -1 FIELDS 1 a",
        "HPEXPIREAT h 70368744177664 FIELDS 1 a",
        "HEXPIREAT h 9223372036854775807 FIELDS 1 a",
        "HSETEX h FIELDS 1 a",
        "HSETEX h PXAT",
        "HSET s a 1",
        "HDEL s a",
        "HINCRBY s a 1",
        "HSETNX s a 1",
        "HPEXPIREAT s 1 FIELDS 1 a",
    ];
    for command in diverged {
        let mut space = after(REDIS_13, &["HSET h a 1", "MSET s x"]);
        let error = space.run(command).unwrap_err();
        assert!(
            matches!(error, ApplyError::Diverged { .. }),
            "{command}: {error}"
        );
    }
    // No snapshot of this dialect could hold them.
    for command in [
        "HPEXPIREAT h 10 FIELDS 1 a",
        "HSETEX h PXAT 10 FIELDS 1 a 1",
    ] {
        let error = after(REDIS_11, &["HSET h a 1"]).run(command).unwrap_err();
        assert!(error.is_unmodelled(), "{command}: {error}");
    }
}

#[test]
fn golden_payloads_are_read() {
    let hx = "f=v@4000000000000 g=w";
    for (dialect, dump, wanted) in [
        (
            REDIS_13,
            "1012120000000400816602817602816e020101ff0d005e4d81427e9797d6",
            "f=v n=1",
        ),
        (
            REDIS_13,
            "1900409452a30300001f1f0000000600816602817602f400409452a3030000098167028177020001ff0d00fbd257fd596aa9eb",
            hx,
        ),
        (REDIS_13, "0401016601760d000f5bcae5b633793c", "f=v"),
        (
            REDIS_13,
            "1800409452a303000002060167017701016601760d00fd307e3278c0294f",
            "g=w@4000000000005 f=v@4000000000000",
        ),
        (
            dialect(Family::Redis, 12),
            "1800409452a303000002010166017606016701770c00ba772559075319e4",
            "f=v@4000000000000 g=w@4000000000005",
        ),
        (
            VALKEY_80,
            "16020166017600409452a303000001670177ffffffffffffffff50006e9deb180d34c944",
            hx,
        ),
    ] {
        assert_eq!(decode_dump(dialect, dump), wanted, "{dump}");
    }
}

#[test]
fn old_encodings_are_read() {
    // `a` → `b`, then `cd` → `` with two unused bytes.
    let zipmap = hex("0201610100620263640002ffffff");
    assert_eq!(decode(REDIS_9, 9, &blob(&zipmap)).unwrap(), "a=b cd=");
    let ziplist = hex("100000000d000000020000016103f8ff");
    assert_eq!(decode(REDIS_9, 13, &blob(&ziplist)).unwrap(), "a=7");
    // Redis 7.4 before its release: absolute times, a listpack without the first one.
    let pre_ga = hex("02000161c001418801620163");
    assert_eq!(decode(REDIS_13, 22, &pre_ga).unwrap(), "a=1 b=c@392");
    let mut listpack = crate::wire::rdb::packed::ListpackWriter::new();
    ["a", "b", "5", "c", "d", "0"]
        .iter()
        .for_each(|element| listpack.push(element.as_bytes()));
    let listpack = listpack.finish();
    assert_eq!(decode(REDIS_13, 23, &blob(&listpack)).unwrap(), "a=b@5 c=d");
}

fn blob(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 64);
    [&[bytes.len() as u8], bytes].concat()
}

#[test]
fn damaged_payloads_are_refused() {
    for (dialect, kind, payload) in [
        (REDIS_13, 4, "0201610162"),                               // ends early
        (REDIS_13, 4, "01016101620163"),                           // goes on
        (REDIS_13, 24, "0000000000000000020001610162000161 0163"), // twice the same
        (REDIS_13, 4, "81ffffffffffffffff0161"),                   // too many
        (REDIS_13, 16, "0a0a0000000100816102ff"),                  // no value
        (REDIS_13, 16, "07070000000000fe"),                        // no end
        (REDIS_13, 25, "000000000000000007070000000000"),          // ends early
        (REDIS_13, 24, "ffffffffffffff7f01810fffffffffffffff01610162"), // overflows
        (REDIS_13, 24, "ffffffffffffff7f01020161 0162"),           // too late
        (VALKEY_80, 22, "0101610162feffffffffffffff"),             // no time
        (VALKEY_80, 24, "00409452a303000002060167017701016601 76"), // of another family
        (REDIS_11, 24, "00409452a30300000206016701770101660176"),  // not in its version
        (
            REDIS_11,
            25,
            "00409452a30300001f1f0000000600816602817602f400409452a3030000098167028177020001ff",
        ),
    ] {
        let payload = hex(&payload.replace(' ', ""));
        let read = decode(dialect, kind, &payload);
        assert!(read.is_err(), "{kind} {payload:?}: {read:?}");
    }
}

#[test]
fn each_dialect_gets_an_encoding_that_it_knows() {
    let kind = |dialect, commands: &[&str]| after(dialect, commands).dump("h").unwrap().0;
    let small: &[&str] = &["HSET h a 1"];
    let large: &[&str] = &[&format!("HSET h a {}", "x".repeat(65))];
    let many: &[&str] = &[&(0..129).fold("HSET h".to_owned(), |all, n| format!("{all} {n} 0"))];
    let expiring: &[&str] = &["HSETEX h PXAT 5 FIELDS 1 a 1"];
    for (dialect, of_small) in [
        (REDIS_9, 4),
        (dialect(Family::Redis, 10), 16),
        (REDIS_13, 16),
        (VALKEY_80, 16),
    ] {
        assert_eq!(kind(dialect, small), of_small, "{dialect:?}");
        assert_eq!([kind(dialect, large), kind(dialect, many)], [4, 4]);
    }
    assert_eq!(
        [kind(REDIS_13, expiring), kind(VALKEY_80, expiring)],
        [24, 22]
    );
    let (_, payload) = after(REDIS_13, small).dump("h").unwrap();
    assert_eq!(payload, hex("0c0c00000002008161020101ff"));
    let two = [
        "HSETEX h PXAT 4000000000005 FIELDS 1 g w",
        "HSETEX h PXAT 4000000000000 FIELDS 1 f v",
        "HSET h n -",
    ];
    let (_, payload) = after(REDIS_13, &two).dump("h").unwrap();
    assert_eq!(
        payload,
        hex("00409452a3030000030601670177010166017600016e012d")
    );
}

#[test]
fn weight_follows_what_is_there() {
    let mut hash = Hash::default();
    for n in 0..50u8 {
        hash.set(&[n], &[0; 10], Expiry::Keep);
        hash.set(&[n], &[0; 20], Expiry::Keep);
    }
    assert_eq!(hash.weight(), 50 * (1 + FIELD_OVERHEAD + 20));
    for n in 0..50u8 {
        hash.remove(&[n]);
    }
    assert_eq!((hash.weight(), hash.len()), (0, 0));
    assert!(Value::Hash(Box::new(hash)).is_empty());
}

/// Servers look at the first one. In the form of hashes whose fields expire, none loads such a hash.
#[test]
fn a_field_that_is_there_twice_cannot_be_one_that_expires() {
    let mut blob = ListpackWriter::new();
    for element in ["f", "1", "g", "2", "f", "3"] {
        blob.push(element.as_bytes());
    }
    let mut payload = Vec::new();
    put_string(&mut payload, &blob.finish());
    let mut space = after(REDIS_13, &["HSET h x y"]);
    let (kind, payload) = (16, payload.into());
    space.entry(b"h").unwrap().unwrap().value = Value::Raw(Raw { kind, payload });
    for command in [
        "HPEXPIREAT h 4000000000000 FIELDS 1 f",
        "HSETEX h PXAT 4000000000000 FIELDS 1 n 1",
    ] {
        let error = space.run(command).unwrap_err();
        assert!(error.is_unmodelled(), "{error}");
    }
    assert_eq!(told(&mut space, "h").as_deref(), Some("f=1 g=2 f=3"));
    space.run("HSET h f 9").unwrap();
    assert_eq!(told(&mut space, "h").as_deref(), Some("f=9 g=2 f=3"));
    // Then the next one is the first.
    space.run("HDEL h f").unwrap();
    space.run("HSET h f 5").unwrap();
    assert_eq!(told(&mut space, "h").as_deref(), Some("g=2 f=5"));
    space.run("HPEXPIREAT h 4000000000000 FIELDS 1 f").unwrap();
}
