#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::groups::{NEVER, UNKNOWN};
use super::idempotence::automatic_id;
use super::*;
use crate::keyspace::testing::{REDIS_13, empty};
use crate::keyspace::{Entry, Keyspace};

const REDIS_9: Dialect = redis(9);

const fn redis(version: u32) -> Dialect {
    Dialect {
        family: Family::Redis,
        version,
    }
}

/// After these commands, which all succeed.
fn after(dialect: Dialect, commands: &[&str]) -> Keyspace {
    let mut space = empty(dialect);
    run(&mut space, commands);
    space
}

fn run(space: &mut Keyspace, commands: &[&str]) {
    for command in commands {
        let done = space.run(command);
        assert!(done.is_ok(), "{command}: {done:?}");
    }
}

/// The stream `s`, on its way through a snapshot.
fn stream(space: &mut Keyspace) -> &Stream {
    space.rewrite("s");
    stream_of(space)
}

fn stream_of(space: &mut Keyspace) -> &Stream {
    let args = Args::new(&[b"TEST"]);
    space.value::<Stream>(&args, b"s").unwrap().unwrap()
}

fn id(ms: u64, seq: u64) -> Id {
    Id { ms, seq }
}

/// The entries' milliseconds.
fn entries(space: &mut Keyspace) -> Vec<u64> {
    stream(space).entries.ids().iter().map(|id| id.ms).collect()
}

/// `consumer:ms@delivered*count` of each pending entry of the group `g`, and the names of other consumers.
fn pending(space: &mut Keyspace) -> String {
    let group = &stream(space).groups.0[b"g".as_slice()];
    let mut shown = Vec::new();
    for (name, consumer) in group.consumers() {
        let name = String::from_utf8_lossy(name);
        for id in consumer.pending() {
            let pending = group.pending[id];
            shown.push(format!(
                "{name}:{}@{}*{}",
                id.ms, pending.delivered, pending.count
            ));
        }
        if consumer.pending().is_empty() {
            shown.push(name.into_owned());
        }
    }
    assert_eq!(
        group.pending.len(),
        group
            .consumers()
            .iter()
            .map(|(_, c)| c.pending().len())
            .sum::<usize>()
    );
    shown.join(" ")
}

fn diverged(space: &mut Keyspace, command: &str) {
    let error = space.run(command).unwrap_err();
    assert!(
        matches!(error, ApplyError::Diverged { .. }),
        "{command}: {error}"
    );
}

fn unmodelled(space: &mut Keyspace, command: &str) {
    let error = space.run(command).unwrap_err();
    assert!(error.is_unmodelled(), "{command}: {error}");
}

#[test]
fn xadd_appends_with_the_masters_id() {
    let mut space = after(
        REDIS_13,
        &[
            "XADD s 1-1 a 1",
            "xadd s 5 a 1 b 2",
            "XADD s 5-* a 1",
            "XADD s 6-* a 1",
            "XADD t NOMKSTREAM 1-1 a 1",
        ],
    );
    let found = stream(&mut space);
    assert_eq!(
        found.entries.ids(),
        [id(1, 1), id(5, 0), id(5, 1), id(6, 0)]
    );
    assert_eq!(
        (found.last, found.first, found.added),
        (id(6, 0), id(1, 1), 4)
    );
    assert!(space.dump("t").is_none());
    for bad in [
        "XADD s 6-0 a 1",
        "XADD s 7 a",
        "XADD s 7",
        "XADD s x a 1",
        "XADD s MAXLEN",
        "XADD s 7 a 1 b",
    ] {
        diverged(&mut space, bad);
    }
    diverged(&mut space, "XADD n 0-0 a 1");
    unmodelled(&mut space, "XADD s * a 1");
    let full = &["XADD s 18446744073709551615-18446744073709551615 a 1"];
    diverged(
        &mut after(REDIS_13, full),
        "XADD s 18446744073709551615-* a 1",
    );
}

#[test]
fn xadd_and_xtrim_trim_to_what_the_master_says() {
    let mut space = empty(REDIS_13);
    for ms in 1..=10 {
        space.run(&format!("XADD s {ms} a 1")).unwrap();
    }
    run(&mut space, &["XADD s MAXLEN = 8 11 a 1"]);
    assert_eq!(entries(&mut space), [4, 5, 6, 7, 8, 9, 10, 11]);
    run(
        &mut space,
        &[
            "XTRIM s MINID = 5 LIMIT 100",
            "XTRIM s MINID 5-0",
            "XTRIM none MAXLEN 0",
        ],
    );
    assert_eq!(entries(&mut space), [5, 6, 7, 8, 9, 10, 11]);
    run(
        &mut space,
        &[
            "XTRIM s maxlen 7",
            "XADD s nomkstream MINID = 7 LIMIT 3 12-0 a 1",
        ],
    );
    assert_eq!(entries(&mut space), [7, 8, 9, 10, 11, 12]);
    let found = stream(&mut space);
    // Trimming is not deleting.
    assert_eq!(
        (found.first, found.max_deleted, found.added),
        (id(7, 0), Id::MIN, 12)
    );
    // What an approximate trimming comes to shows in a master's nodes alone.
    run(&mut space, &["XTRIM s MAXLEN ~ 6", "XTRIM s MINID ~ 7"]);
    unmodelled(&mut space, "XTRIM s MAXLEN ~ 5");
    unmodelled(&mut space, "XTRIM s MINID ~ 8");
    diverged(&mut space, "XTRIM s");
    diverged(&mut space, "XTRIM s MAXLEN -1");
    diverged(&mut space, "XTRIM s MAXLEN 3 more");
    // A bound beyond all, which a master gives that has trimmed all.
    run(
        &mut space,
        &["XTRIM s MINID = 18446744073709551615-18446744073709551615"],
    );
    let found = stream(&mut space);
    assert_eq!(
        (found.entries.len(), found.first, found.last),
        (0, Id::MIN, id(12, 0))
    );
    run(&mut space, &["XADD s 13-1 a 1"]);
    assert_eq!(stream(&mut space).first, id(13, 1));
}

#[test]
fn xdel_keeps_the_greatest_deleted_id_and_an_empty_stream() {
    let mut space = after(
        REDIS_13,
        &[
            "XADD s 1 a 1",
            "XADD s 2 a 1",
            "XADD s 3 a 1",
            "XDEL s 2 7 1",
        ],
    );
    let found = stream(&mut space);
    assert_eq!(
        (found.first, found.max_deleted, found.added),
        (id(3, 0), id(2, 0), 3)
    );
    run(&mut space, &["XDEL s 3", "XDEL s 3", "XDEL none 1"]);
    let found = stream(&mut space);
    assert_eq!(
        (found.first, found.max_deleted, found.last),
        (Id::MIN, id(3, 0), id(3, 0))
    );
    diverged(&mut space, "XDEL s x");
}

#[test]
fn xsetid_sets_what_it_is_told() {
    let mut space = after(
        REDIS_13,
        &[
            "XADD s 5 a 1",
            "XSETID s 9-2 ENTRIESADDED 77 MAXDELETEDID 4-1",
        ],
    );
    let found = stream(&mut space);
    assert_eq!(
        (found.last, found.added, found.max_deleted),
        (id(9, 2), 77, id(4, 1))
    );
    run(&mut space, &["XSETID s 9-3 maxdeletedid 0-0"]);
    assert_eq!(stream(&mut space).max_deleted, id(4, 1));
    for bad in [
        "XSETID s 4-9",
        "XSETID none 1-1",
        "XSETID s 10 ENTRIESADDED -1",
        "XSETID s 10 MORE 1",
    ] {
        diverged(&mut space, bad);
    }
}

/// Entries 1 to 4, of which the group `g` has given 1 and 2 to `a` and 3 to `b`.
const READ: [&str; 8] = [
    "XADD s 1 a 1",
    "XADD s 2 a 1",
    "XADD s 3 a 1",
    "XADD s 4 a 1",
    "XGROUP CREATE s g 0",
    "XCLAIM s g a 0 1-0 TIME 100 RETRYCOUNT 1 FORCE JUSTID LASTID 0-0",
    "XCLAIM s g a 0 2-0 TIME 100 RETRYCOUNT 1 FORCE JUSTID LASTID 1-0",
    "XCLAIM s g b 0 3-0 TIME 101 RETRYCOUNT 4 FORCE JUSTID LASTID 3-0",
];

#[test]
fn xclaim_gives_entries_away() {
    let mut space = after(REDIS_13, &READ);
    run(&mut space, &["XGROUP SETID s g 3-0 ENTRIESREAD 3"]);
    assert_eq!(pending(&mut space), "a:1@100*1 a:2@100*1 b:3@101*4");
    let group = &stream(&mut space).groups.0[b"g".as_slice()];
    assert_eq!((group.last, group.read), (id(3, 0), 3));
    run(
        &mut space,
        &[
            "xclaim s g b 0 1-0 2-0 time 102 justid",
            "XCLAIM s g b 0 3-0 TIME 103",
            "XCLAIM s g c 0 4-0 9-0 TIME 104 LASTID 2-0",
        ],
    );
    assert_eq!(pending(&mut space), "a b:1@102*1 b:2@102*1 b:3@103*5 c");
    let group = &stream(&mut space).groups.0[b"g".as_slice()];
    assert_eq!(group.last, id(3, 0));
    run(
        &mut space,
        &[
            "XCLAIM s g c 0 4-0 9-0 TIME 104 FORCE RETRYCOUNT -1",
            "XACK s g 1-0 2-0 8-0",
            "XACK s none 1-0",
        ],
    );
    assert_eq!(pending(&mut space), "a b:3@103*5 c:4@104*2");

    unmodelled(&mut space, "XCLAIM s g c 0 4-0 IDLE 5");
    unmodelled(&mut space, "XCLAIM s g c 0 4-0");
    unmodelled(&mut space, "XCLAIM s g c 7 4-0 TIME 5");
    diverged(&mut space, "XCLAIM s none c 0 4-0 TIME 5");
    diverged(&mut space, "XCLAIM none g c 0 4-0 TIME 5");
    diverged(&mut space, "XCLAIM s g c 0 4-0 TIME 5 MORE");
    for original in [
        "XREADGROUP GROUP g c STREAMS s >",
        "XAUTOCLAIM s g c 0 0",
        "XNACK s g FAIL IDS 1 1-0",
    ] {
        unmodelled(&mut space, original);
    }
}

#[test]
fn claimed_entries_that_were_deleted_are_dropped_since_7_0() {
    let claim = [
        "XDEL s 2 4",
        "XCLAIM s g b 0 2-0 4-0 TIME 102 RETRYCOUNT 1 FORCE JUSTID",
    ];
    for (dialect, left) in [
        (REDIS_9, "a:1@100*1 b:2@102*1 b:3@101*4"),
        (redis(10), "a:1@100*1 b:3@101*4"),
        (REDIS_13, "a:1@100*1 b:3@101*4"),
    ] {
        let mut space = after(dialect, &READ);
        run(&mut space, &claim);
        assert_eq!(pending(&mut space), left);
    }
}

#[test]
fn a_consumer_that_is_given_nothing_is_made_since_7_2() {
    let valkey = Dialect {
        family: Family::Valkey,
        version: 80,
    };
    for (dialect, made) in [
        (REDIS_9, false),
        (redis(10), false),
        (redis(11), true),
        (valkey, true),
    ] {
        let mut space = after(dialect, &["XADD s 1 a 1", "XGROUP CREATE s g $"]);
        run(&mut space, &["XCLAIM s g c 0 9-0 TIME 5 FORCE"]);
        assert_eq!(pending(&mut space) == "c", made);
    }
}

#[test]
fn times_of_consumers_are_those_of_the_command() {
    let mut space = after(REDIS_13, &READ);
    let times = |space: &mut Keyspace| -> Vec<(i64, i64)> {
        let group = &stream(space).groups.0[b"g".as_slice()];
        group
            .consumers()
            .iter()
            .map(|(_, consumer)| (consumer.seen, consumer.active))
            .collect()
    };
    run(&mut space, &["XGROUP CREATECONSUMER s g c"]);
    // Nobody says when: as near as the last entry.
    assert_eq!(times(&mut space), [(100, 100), (101, 101), (4, NEVER)]);
    run(
        &mut space,
        &[
            "XCLAIM s g a 0 3-0 TIME 50 FORCE",
            "XCLAIM s g b 0 9-0 TIME 200 FORCE",
        ],
    );
    assert_eq!(times(&mut space), [(100, 100), (200, 101), (4, NEVER)]);
    space.received_at(1000);
    run(
        &mut space,
        &[
            "XCLAIM s g a 0 3-0 TIME 50 FORCE",
            "XGROUP CREATECONSUMER s g d",
            "XGROUP CREATECONSUMER s g a",
        ],
    );
    assert_eq!(
        times(&mut space),
        [(1000, 1000), (200, 101), (4, NEVER), (1000, NEVER)]
    );
}

#[test]
fn xgroup_makes_moves_and_deletes() {
    let mut space = after(
        REDIS_13,
        &[
            "XGROUP CREATE s g $ MKSTREAM",
            "XADD s 5-1 a 1",
            "XADD s 6 a 1",
        ],
    );
    run(
        &mut space,
        &[
            "XGROUP create s h $ entriesread 1",
            "XGROUP CREATE s i 5 ENTRIESREAD 99",
            "XGROUP CREATE s 7 5-1",
        ],
    );
    let groups = |space: &mut Keyspace| -> Vec<(String, Id, i64)> {
        let groups = stream(space).groups.0.iter();
        groups
            .map(|(name, group)| (String::from_utf8_lossy(name).into(), group.last, group.read))
            .collect()
    };
    let expected = |name: &str, last: Id, read: i64| (name.to_owned(), last, read);
    let made = [
        expected("7", id(5, 1), UNKNOWN),
        expected("g", Id::MIN, UNKNOWN),
        expected("h", id(6, 0), 1),
        expected("i", id(5, 0), 2),
    ];
    assert_eq!(groups(&mut space), made);
    run(
        &mut space,
        &[
            "XGROUP SETID s g $ ENTRIESREAD 2",
            "XGROUP SETID s h -",
            "XGROUP SETID s i 5-9 ENTRIESREAD -1",
            "XGROUP DESTROY s 7",
        ],
    );
    let moved = [
        expected("g", id(6, 0), 2),
        expected("h", Id::MIN, UNKNOWN),
        expected("i", id(5, 9), UNKNOWN),
    ];
    assert_eq!(groups(&mut space), moved);
    run(
        &mut space,
        &["XGROUP DESTROY s none", "XGROUP DELCONSUMER s g none"],
    );
    for bad in [
        "XGROUP CREATE s g 0",
        "XGROUP CREATE none g 0",
        "XGROUP SETID s none 0",
        "XGROUP CREATECONSUMER s none c",
        "XGROUP DELCONSUMER s none c",
        "XGROUP DESTROY none g",
        "XGROUP CREATE s j x",
        "XGROUP CREATE s j 0 MORE",
    ] {
        diverged(&mut space, bad);
    }
    unmodelled(&mut space, "XGROUP RENAME s g h");
    // Before 8.6, servers believe any number.
    let mut space = after(
        redis(12),
        &["XADD s 1 a 1", "XGROUP CREATE s g 0 ENTRIESREAD 99"],
    );
    assert_eq!(groups(&mut space), [expected("g", Id::MIN, 99)]);
}

#[test]
fn a_deleted_consumers_entries_are_pending_no_longer() {
    let mut space = after(REDIS_13, &READ);
    run(&mut space, &["XGROUP DELCONSUMER s g a"]);
    assert_eq!(pending(&mut space), "b:3@101*4");
    run(
        &mut space,
        &[
            "XGROUP CREATECONSUMER s g a",
            "XCLAIM s g a 0 3-0 TIME 7 RETRYCOUNT 1",
            "XGROUP DELCONSUMER s g b",
        ],
    );
    assert_eq!(pending(&mut space), "a:3@7*1");
}

/// `READ`, and a second group that has read 1 and 2, and waits for 2.
fn two_groups() -> Keyspace {
    let mut space = after(REDIS_13, &READ);
    run(
        &mut space,
        &[
            "XGROUP CREATE s h 2-0",
            "XCLAIM s h x 0 2-0 TIME 100 RETRYCOUNT 1 FORCE JUSTID",
            "XACK s g 1-0",
        ],
    );
    space
}

fn waiting(space: &mut Keyspace, group: &str) -> Vec<u64> {
    let group = &stream(space).groups.0[group.as_bytes()];
    group.pending.keys().map(|id| id.ms).collect()
}

#[test]
fn references_of_groups_are_kept_deleted_or_respected() {
    for (how, left, g, h) in [
        ("", vec![4], vec![2, 3], vec![2]),
        ("KEEPREF ", vec![4], vec![2, 3], vec![2]),
        ("delref ", vec![4], vec![], vec![]),
        // 2 and 3 are pending, and `h` has not read 3.
        ("ACKED ", vec![2, 3, 4], vec![2, 3], vec![2]),
    ] {
        for command in [
            format!("XDELEX s {how}IDS 4 1 2 3 9"),
            format!("XTRIM s MAXLEN = 1 {how}").trim_end().to_owned(),
            format!("XTRIM s {how}MINID 4-0"),
        ] {
            let mut space = two_groups();
            run(&mut space, &[&command]);
            let found = (
                entries(&mut space),
                waiting(&mut space, "g"),
                waiting(&mut space, "h"),
            );
            assert_eq!(found, (left.clone(), g.clone(), h.clone()), "{command}");
            let deleted = if command.starts_with("XDELEX") {
                4 - left.len() as u64
            } else {
                0
            };
            assert_eq!(stream(&mut space).max_deleted.ms, deleted, "{command}");
        }
    }
    let mut space = two_groups();
    run(
        &mut space,
        &["XDELEX none IDS 1 1", "XDELEX s IDS 1 1 KEEPREF"],
    );
    for bad in [
        "XDELEX s ACKED",
        "XDELEX s IDS 2 1",
        "XDELEX s MORE IDS 1 1",
        "XDELEX s IDS 1 x",
    ] {
        diverged(&mut space, bad);
    }
}

#[test]
fn xackdel_acknowledges_and_deletes() {
    for (how, left, g, h) in [
        ("", vec![1, 4], vec![], vec![2]),
        ("DELREF ", vec![1, 4], vec![], vec![]),
        ("ACKED ", vec![1, 2, 3, 4], vec![], vec![2]),
    ] {
        let mut space = two_groups();
        // 1 is not pending, so it is left alone.
        run(&mut space, &[&format!("XACKDEL s g {how}IDS 3 1 2 3")]);
        let found = (
            entries(&mut space),
            waiting(&mut space, "g"),
            waiting(&mut space, "h"),
        );
        assert_eq!(found, (left, g, h), "{how}");
    }
    let mut space = two_groups();
    run(
        &mut space,
        &[
            "XACKDEL none g IDS 1 1",
            "XACKDEL s none IDS 1 2",
            "XACKDEL s h ACKED IDS 1 2",
        ],
    );
    // `g` still waits for it; once it does not, nobody does.
    assert_eq!(entries(&mut space), [1, 2, 3, 4]);
    run(&mut space, &["XACKDEL s g ACKED IDS 1 2"]);
    assert_eq!(entries(&mut space), [1, 3, 4]);
}

#[test]
fn idempotence_is_remembered() {
    let mut space = after(
        REDIS_13,
        &[
            "XADD s IDMP p one 1-0 a 1",
            "XADD s IDMP p two 2-0 a 1",
            "XADD s IDMP q one 3-0 a 1",
            "XADD s IDMP p one * a 1",
        ],
    );
    assert_eq!(entries(&mut space), [1, 2, 3]);
    let ends = |space: &mut Keyspace, end: &[u8]| {
        let (_, dump) = space.dump("s").unwrap();
        assert!(dump.ends_with(end), "{}", dump.escape_ascii());
    };
    ends(
        &mut space,
        b"@d@d\x02\x01p\x02\x03one\x01\x00\x03two\x02\x00\x01q\x01\x03one\x03\x00\x03\x01",
    );
    // The master had forgotten the second, and so what came before it.
    run(
        &mut space,
        &["XADD s IDMP p two 4-0 a 1", "XIDMPRECORD s q nine 1-0"],
    );
    let known = b"\x02\x01p\x01\x03two\x04\x00\x01q\x02\x03one\x03\x00\x04nine\x01\x00\x05\x01";
    ends(&mut space, known);
    run(
        &mut space,
        &["XCFGSET s IDMP-DURATION 100 IDMP-MAXSIZE 100"],
    );
    ends(&mut space, known);
    run(&mut space, &["XCFGSET s idmp-maxsize 1"]);
    ends(&mut space, b"@d\x01\x00\x05\x01");
    run(
        &mut space,
        &["XADD s IDMP p a 5-0 a 1", "XADD s IDMP p b 6-0 a 1"],
    );
    ends(&mut space, b"@d\x01\x01\x01p\x01\x01b\x06\x00\x07\x01");
    for bad in [
        "XADD none IDMP p one * a 1",
        "XIDMPRECORD s p c 99-0",
        "XIDMPRECORD none p c 1-0",
        "XCFGSET s IDMP-MAXSIZE 0",
        "XCFGSET s IDMP-DURATION 86401",
        "XCFGSET s MORE 1",
        "XCFGSET none IDMP-MAXSIZE 5",
    ] {
        diverged(&mut space, bad);
    }
}

/// As Redis 8.6.3 makes them.
#[test]
fn automatic_ids_are_those_of_a_real_server() {
    let of =
        |fields: &[(&[u8], &[u8])]| format!("{:032x}", u128::from_be_bytes(automatic_id(fields)));
    assert_eq!(of(&[(b"a", b"1")]), "034b44ffc743320ce2cb07999104fc02");
    assert_eq!(
        of(&[(b"a", b"1"), (b"b", b"2")]),
        "c5b282935f77a53123e1ff7a302a11f2"
    );
    assert_eq!(
        of(&[(b"b", b"2"), (b"a", b"1")]),
        "c5b282935f77a53123e1ff7a302a11f2"
    );
    assert_eq!(of(&[(b"", b"")]), "1a9f7ebbaea1d61d30b6b8daa3e38da7");
    for (length, expected) in [
        (3, "20f498d3eba2e47a724400d2613190e4"),
        (8, "c088126dec49a2d162fcdf6f855adae8"),
        (16, "7586f0c1c47c00536f4a7d55d1a63fe7"),
        (100, "baa131ec531012ba99b0aaf2d6a7258a"),
        (200, "5a6504d951816025e19590cf13d4e408"),
        (1000, "fba9cf4c49b81380b3adad78f7fb8ae3"),
        (5000, "1002f4b31cff5ed216dadbeb9c03d9ec"),
    ] {
        assert_eq!(of(&[(b"f", &vec![b'v'; length])]), expected, "{length}");
    }
    let mut space = after(REDIS_13, &["XADD s IDMPAUTO p 1-0 a 1"]);
    let (_, dump) = space.dump("s").unwrap();
    let known = automatic_id(&[(b"a", b"1")]);
    assert!(dump.windows(16).any(|window| window == known));
}

#[test]
fn a_stream_is_no_other_type_and_keeps_its_expiry() {
    let mut space = after(REDIS_13, &["XADD s 1 a 1", "APPEND t text"]);
    diverged(&mut space, "XADD t 1 a 1");
    diverged(&mut space, "APPEND s text");
    let mut entry = Entry::new(Stream::default().into_value());
    entry.expiry = Some(5);
    space.load(0, b"s", entry);
    run(&mut space, &["XADD s 1 a 1", "XTRIM s MAXLEN 0"]);
    assert_eq!(space.entry(b"s").unwrap().unwrap().expiry, Some(5));
}

#[test]
fn the_weight_follows_what_is_in_it() {
    let mut space = after(REDIS_13, &READ);
    let full = stream_of(&mut space).weight();
    run(&mut space, &["XGROUP DESTROY s g", "XTRIM s MAXLEN 0"]);
    assert!(full > 500 && stream_of(&mut space).weight() == 0, "{full}");
}
