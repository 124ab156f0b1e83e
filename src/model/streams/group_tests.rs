//! Groups, consumers, and what they wait for.

use super::super::groups::NEVER;
use super::*;

/// Entries 1 to 4, of which the group `g` has given 1 and 2 to `a` and 3 to `b`.
pub(super) const READ: [&str; 8] = [
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
