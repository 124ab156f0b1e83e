//! What several groups refer to, and what is remembered of producers.

use super::super::idempotence::automatic_id;
use super::of_groups::READ;
use super::*;

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
