#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::*;

fn command(args: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(
        &args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>(),
        &mut out,
    );
    out
}

fn from_zero() -> FeedScanner {
    FeedScanner::new(Boundary {
        offset: Offset(0),
        db: 0,
    })
}

/// Names and end offsets of the commands, however the bytes are cut.
fn ends(bytes: &[u8], cuts: &[usize]) -> (Vec<(String, u64, u32, bool)>, Boundary) {
    let mut scanner = from_zero();
    let mut seen = Vec::new();
    let mut at = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        scanner
            .scan(&bytes[at..cut], |command| {
                let name = String::from_utf8_lossy(command.head.arg(0).unwrap()).into_owned();
                seen.push((name, command.end.0, command.db, command.at_boundary));
            })
            .unwrap();
        at = cut;
    }
    assert_eq!(scanner.offset(), Offset(bytes.len() as u64));
    (seen, scanner.boundary())
}

#[test]
fn a_transaction_has_no_boundary_inside_and_keeps_its_select() {
    let parts = [
        command(&["SELECT", "3"]),
        command(&["multi"]),
        command(&["SET", "a", ""]),
        command(&["SELECT", "4"]),
        command(&["exec"]),
        b"\n".to_vec(),
        command(&["PING"]),
        command(&["MULTI"]),
        command(&["DEL", "b"]),
    ];
    let bytes = parts.concat();
    let (seen, boundary) = ends(&bytes, &[]);
    let flags: Vec<_> = seen
        .iter()
        .map(|(name, _, db, at)| (name.as_str(), *db, *at))
        .collect();
    assert_eq!(
        flags,
        [
            ("SELECT", 3, true),
            ("multi", 3, false),
            ("SET", 3, false),
            ("SELECT", 4, false),
            ("exec", 4, true),
            ("PING", 4, true),
            ("MULTI", 4, false),
            ("DEL", 4, false)
        ]
    );
    let ping_end: usize = parts[..7].iter().map(Vec::len).sum();
    assert_eq!(
        boundary,
        Boundary {
            offset: Offset(ping_end as u64),
            db: 4
        }
    );
    for cut in 0..bytes.len() {
        assert_eq!(
            ends(&bytes, &[cut]),
            (seen.clone(), boundary),
            "cut at {cut}"
        );
    }
    let every: Vec<usize> = (0..bytes.len()).collect();
    assert_eq!(ends(&bytes, &every), (seen, boundary));
}

#[test]
fn only_the_head_of_a_command_is_kept() {
    let long = "x".repeat(1000);
    let mut args = vec!["RPUSH", long.as_str()];
    args.extend(std::iter::repeat_n("v", 5000));
    let bytes = command(&args);
    let mut calls = 0;
    from_zero()
        .scan(&bytes, |command| {
            calls += 1;
            assert_eq!(command.head.argc(), 5002);
            assert_eq!(
                command.head.arg(1).unwrap(),
                &long.as_bytes()[..HEAD_ARG_BYTES]
            );
            assert_eq!(command.head.arg(HEAD_ARGS), None);
        })
        .unwrap();
    assert_eq!(calls, 1);
}

#[test]
fn getack_and_ping_are_idle_and_a_write_is_not() {
    let bytes = [
        command(&["ping"]),
        command(&["REPLCONF", "GETACK", "*"]),
        command(&["SET", "ping", "1"]),
    ]
    .concat();
    let mut flags = Vec::new();
    from_zero()
        .scan(&bytes, |c| flags.push((c.is_idle(), c.is_getack())))
        .unwrap();
    assert_eq!(flags, [(true, false), (true, true), (false, false)]);
}

#[test]
fn what_is_no_command_is_refused_with_its_offset() {
    let good = command(&["PING"]);
    for (bad, at, what) in [
        (&b"+OK\r\n"[..], 1, "expected `*`"),
        (b"*0\r\n", 4, "at least one argument"),
        (b"*-1\r\n", 2, "decimal number"),
        (b"*1\r\n:5\r\n", 5, "expected `$`"),
        (b"*1\r\n$-1\r\n", 6, "decimal number"),
        (b"*1\r\n$1\r\nab", 10, "CR after an argument"),
        (b"*3000000000\r\n", 11, "more than"),
        (b"*1\r\n$99999999999999999999999\r\n", 18, "more than"),
        (b"*2\r\n$6\r\nSELECT\r\n$1\r\nx\r\n", 23, "SELECT without"),
    ] {
        let mut scanner = from_zero();
        scanner.scan(&good, |_| {}).unwrap();
        let error = scanner.scan(bad, |_| {}).unwrap_err();
        assert!(error.what.contains(what), "{bad:?}: {error}");
        assert_eq!(error.at, Offset(good.len() as u64 + at), "{bad:?}: {error}");
    }
}

proptest! {
    #[test]
    fn any_commands_cut_anywhere_are_found(
        commands in prop::collection::vec(prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 1..12), 1..20),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
    ) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for args in &commands {
            let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
            // The three words that steer the scanner are for the test above.
            if ["SELECT", "MULTI", "EXEC"].iter().any(|w| args[0].eq_ignore_ascii_case(w.as_bytes())) { continue; }
            encode_command(&args, &mut bytes);
            expected.push(bytes.len() as u64);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut scanner = from_zero();
        let mut seen = Vec::new();
        let mut at = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            scanner.scan(&bytes[at..cut], |command| seen.push(command.end.0)).unwrap();
            at = cut;
        }
        prop_assert_eq!(seen, expected);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = from_zero().scan(&noise, |_| {});
    }
}
