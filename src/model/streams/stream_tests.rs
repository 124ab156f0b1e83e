#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

//! What they share, and what is about entries and the stream itself.

use super::groups::UNKNOWN;
use super::*;
use crate::model::testing::{REDIS_9, REDIS_13, empty, redis};
use crate::model::{Entry, Keyspace};

#[path = "group_tests.rs"]
mod of_groups;
#[path = "reference_tests.rs"]
mod of_references;

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

/// The deleted one, which had the greater id, stands before it in its node.
#[test]
fn an_entry_behind_a_deleted_one_is_found() {
    let before = [
        "XADD s 1 a 1",
        "XADD s 9 a 1",
        "XGROUP CREATE s g 0",
        "XDEL s 9",
        "XSETID s 3",
        "XADD s 5 a 1",
    ];
    for through_a_snapshot in [false, true] {
        let mut space = after(REDIS_13, &before);
        if through_a_snapshot {
            space.rewrite("s");
        }
        run(
            &mut space,
            &["XCLAIM s g a 0 5-0 TIME 100 RETRYCOUNT 1 FORCE JUSTID LASTID 5-0"],
        );
        assert_eq!(pending(&mut space), "a:5@100*1");
        assert_eq!(entries(&mut space), [1, 5]);
        run(&mut space, &["XADD s MAXLEN = 2 6 a 1"]);
        assert_eq!(entries(&mut space), [5, 6]);
        run(&mut space, &["XDEL s 5"]);
        assert_eq!(entries(&mut space), [6]);
    }
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
    let mut space = after(REDIS_13, &of_groups::READ);
    let full = stream_of(&mut space).weight();
    run(&mut space, &["XGROUP DESTROY s g", "XTRIM s MAXLEN 0"]);
    assert!(full > 500 && stream_of(&mut space).weight() == 0, "{full}");
}
