#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::super::testing::{REDIS_13, all_diverge, empty, list};
use super::super::{ApplyError, Entry, Footprint, Raw, Wanted};
use super::*;

/// Notes commands, and makes the key space that they ask for, on a snapshot that has these strings.
fn on_snapshot(strings: &[(&str, &str)], commands: &[&str]) -> Result<Keyspace, ApplyError> {
    let mut footprint = Footprint::new(0);
    let argvs: Vec<Vec<&[u8]>> = commands
        .iter()
        .map(|command| command.split(' ').map(str::as_bytes).collect())
        .collect();
    for argv in &argvs {
        footprint.note(argv)?;
    }
    let mut space = Keyspace::new(&mut footprint, REDIS_13, 0);
    for (key, text) in strings {
        if space.wants(0, key.as_bytes()) == Wanted::Yes {
            let mut payload = Vec::new();
            crate::wire::rdb::cursor::put_string(&mut payload, text.as_bytes());
            let raw = Raw {
                kind: 0,
                payload: payload.into(),
            };
            space.load(0, key.as_bytes(), Entry::new(Value::Raw(raw)));
        }
    }
    for argv in &argvs {
        space.try_apply(argv)?;
    }
    Ok(space)
}

#[test]
fn elements_are_sorted_as_numbers_or_as_bytes() {
    for (command, expected) in [
        ("SORT l STORE d", Some("1|2|10|10|33")),
        ("sort l desc store d", Some("33|10|10|2|1")),
        ("SORT l ALPHA STORE d", Some("1|10|10|2|33")),
        ("SORT l ALPHA DESC STORE d", Some("33|2|10|10|1")),
        ("SORT l LIMIT 1 2 STORE d", Some("2|10")),
        ("SORT l LIMIT 3 -1 STORE d", Some("10|33")),
        ("SORT l LIMIT -5 1 STORE d", Some("1")),
        ("SORT l LIMIT 2 0 STORE d", None),
        ("SORT l LIMIT 9 9 STORE d", None),
        ("SORT l BY nosort STORE d", Some("10|33|2|1|10")),
        ("SORT l BY nosort DESC LIMIT 1 2 STORE d", Some("1|2")),
        (
            "SORT l STORE d GET # GET fixed GET #",
            Some("1||1|2||2|10||10|10||10|33||33"),
        ),
        ("SORT s BY nosort STORE d", Some("10|2|3")),
        ("SORT s BY nosort DESC STORE d", Some("3|2|10")),
        ("SORT s STORE d", Some("2|3|10")),
        ("SORT z STORE d", Some("1|5|7")),
        ("SORT z BY nosort STORE d", Some("7|1|5")),
        ("SORT z BY nosort DESC LIMIT 0 2 STORE d", Some("5|1")),
        ("SORT none STORE d", None),
    ] {
        let fill = [
            "RPUSH l 10 33 2 1 10",
            "SADD s 3 10 2",
            "ZADD z 1 7 2 1 3 5",
            "MSET d 1",
        ];
        let mut space = empty(REDIS_13);
        for fill in fill {
            space.run(fill).unwrap();
        }
        space.run(command).unwrap();
        assert_eq!(list(&mut space, "d").as_deref(), expected, "{command}");
    }
}

#[test]
fn weights_and_values_come_from_other_keys() {
    for (command, expected) in [
        // What has no weight weighs 0.
        ("SORT l BY w_* STORE d", Some("c|d|b|a")),
        ("SORT l BY w_* DESC STORE d", Some("a|b|d|c")),
        (
            "SORT l BY w_* GET v_*_x GET # STORE d",
            Some("C|c||d|B|b|A|a"),
        ),
        ("SORT l BY w_* LIMIT 2 1 GET v_*_x STORE d", Some("B")),
        ("SORT l BY n_* ALPHA STORE d", Some("d|b|c|a")),
        ("SORT l BY n_* ALPHA DESC LIMIT 0 2 STORE d", Some("a|c")),
        // A string is no hash.
        ("SORT l BY w_*->x STORE d", Some("a|b|c|d")),
        ("SORT l BY nosort GET w_*->x STORE d", Some("|||")),
    ] {
        let snapshot = [
            ("w_a", "2.5"),
            ("w_b", "1e0"),
            ("w_c", "-3"),
            ("v_a_x", "A"),
            ("v_b_x", "B"),
            ("v_c_x", "C"),
            ("v_c_y", "no"),
            ("n_a", "z"),
            ("n_b", "x"),
            ("n_c", "y"),
        ];
        let mut space = on_snapshot(&snapshot, &["RPUSH l a b c d", command]).unwrap();
        assert_eq!(list(&mut space, "d").as_deref(), expected, "{command}");
    }
}

#[test]
fn what_is_left_to_chance_is_refused() {
    let run = |command: &str| {
        let snapshot = [("n_a", "x"), ("n_b", "y"), ("n_c", "y"), ("n_d", "z")];
        on_snapshot(&snapshot, &["RPUSH l d d a b c", command])
            .map(|mut space| list(&mut space, "d"))
    };
    for command in [
        "SORT l BY n_* ALPHA STORE d",
        "SORT l BY n_* ALPHA LIMIT 1 1 STORE d",
        "SORT l BY n_* ALPHA LIMIT 2 1 STORE d",
        "SORT l BY none_* ALPHA STORE d",
        // The first two are the same, but any other might stand in their place.
        "SORT l BY none_* ALPHA DESC LIMIT 0 1 STORE d",
    ] {
        assert!(run(command).unwrap_err().is_unmodelled(), "{command}");
    }
    // Elements that are the same may stand as they like; and so may those that are not stored.
    let first = run("SORT l BY n_* ALPHA LIMIT 0 1 STORE d").unwrap();
    assert_eq!(first.as_deref(), Some("a"));
    let last = run("SORT l BY n_* ALPHA LIMIT 3 2 STORE d").unwrap();
    assert_eq!(last.as_deref(), Some("d|d"));
}

#[test]
fn what_no_master_can_have_done_is_told() {
    all_diverge(
        &["MSET text 1 w_1 x", "RPUSH words a b", "RPUSH numbers 1 2"],
        &[
            "SORT text STORE d",
            "SORT words STORE d",
            "SORT numbers BY w_* STORE d",
            "SORT numbers LIMIT 1 STORE d",
            "SORT numbers NONSENSE STORE d",
        ],
    );
    let mut space = empty(REDIS_13);
    space.run("RPUSH l 2 1").unwrap();
    space.run("SORT l").unwrap();
    assert_eq!(list(&mut space, "l").as_deref(), Some("2|1"));
}

#[test]
fn patterns_are_read_as_servers_read_them() {
    let pattern = |prefix, suffix, field| {
        Some(Pattern {
            prefix,
            suffix,
            field,
        })
    };
    for (text, expected) in [
        (&b"w_*"[..], pattern(b"w_", b"", None)),
        (b"*", pattern(b"", b"", None)),
        (b"a*b*c", pattern(b"a", b"b*c", None)),
        (b"h_*->f", pattern(b"h_", b"", Some(b"f"))),
        (b"h_*_x->f->g", pattern(b"h_", b"_x", Some(b"f->g"))),
        (b"h->*->f", pattern(b"h->", b"", Some(b"f"))),
        (b"h->f_*", pattern(b"h->f_", b"", None)),
        (b"h_*->", pattern(b"h_", b"->", None)),
        (b"h_*\0->f", pattern(b"h_", b"\0->f", None)),
        (b"fixed", None),
        (b"fi\0xed*", None),
        (b"#", None),
    ] {
        assert_eq!(Pattern::of(text), expected, "{}", text.escape_ascii());
    }
}

#[test]
fn what_a_command_touches_is_told_by_its_arguments() {
    let mut footprint = Footprint::new(0);
    let command = "SORT l BY w_*_x->f GET # GET fixed GET v_* STORE d";
    let argv: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    footprint.note(&argv).unwrap();
    for (key, wanted) in [
        ("l", true),
        ("d", true),
        ("w_1_x", true),
        ("v_", true),
        ("w_1", false),
        ("fixed", false),
        ("w_1_x->f", false),
    ] {
        assert_eq!(footprint.wants(0, key.as_bytes()), wanted, "{key}");
        assert!(!footprint.wants(1, key.as_bytes()), "{key}");
    }
}
