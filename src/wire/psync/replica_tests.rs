#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;

const ID: &str = "0123456789abcdef0123456789abcdef01234567";
const NEW: &str = "fedcba9876543210fedcba9876543210fedcba98";

fn handshake() -> Handshake {
    Handshake {
        auth: Some(Auth {
            username: Some("backup".into()),
            password: "pw".into(),
        }),
        version: Some("9.0.0"),
        resume: Some(Position {
            history: ID.parse().unwrap(),
            offset: Offset(41),
        }),
        rdb_only: false,
    }
}

/// Runs a conversation in which everything the master says comes in chunks cut at `cuts`.
fn run(
    handshake: Handshake,
    stream: &[u8],
    cuts: &[usize],
) -> (Result<(), Refusal>, Vec<Event>, String) {
    let mut sent = Vec::new();
    let mut replica = Replica::new(handshake, &mut sent);
    let mut events = Vec::new();
    let mut at = 0;
    let mut result = Ok(());
    for cut in cuts.iter().copied().chain([stream.len()]) {
        let chunk = Bytes::copy_from_slice(&stream[at..cut]);
        at = cut;
        result = replica.receive(chunk, &mut events, &mut sent);
        if result.is_err() {
            break;
        }
    }
    (result, join(events), String::from_utf8(sent).unwrap())
}

/// Joins neighbouring chunks, so that runs with different cuts compare equal.
fn join(events: Vec<Event>) -> Vec<Event> {
    let mut joined: Vec<Event> = Vec::new();
    for event in events {
        match (joined.last_mut(), event) {
            (Some(Event::Feed(a)), Event::Feed(b)) => *a = [&a[..], &b[..]].concat().into(),
            (Some(Event::Payload(a)), Event::Payload(b)) => *a = [&a[..], &b[..]].concat().into(),
            (_, event) => joined.push(event),
        }
    }
    joined
}

#[test]
fn a_full_sync_comes_out_the_same_wherever_the_stream_is_cut() {
    let mark = "m".repeat(40);
    for (header, end) in [
        ("$7".to_owned(), String::new()),
        (format!("$EOF:{mark}"), mark.clone()),
    ] {
        let stream = format!(
            "+OK\r\n+OK\r\n-ERR Unrecognized REPLCONF option: version\r\n\n\n+FULLRESYNC {ID} 100\r\n\n\n{header}\r\nPAYLOAD{end}*1\r\n$4\r\nPING\r\n"
        );
        let expected = vec![
            Event::FullResync(Position {
                history: ID.parse().unwrap(),
                offset: Offset(100),
            }),
            Event::Payload(Bytes::from_static(b"PAYLOAD")),
            Event::PayloadEnd,
            Event::Feed(Bytes::from_static(b"*1\r\n$4\r\nPING\r\n")),
        ];
        for cut in 0..=stream.len() {
            let (result, events, sent) = run(handshake(), stream.as_bytes(), &[cut]);
            assert_eq!((result, &events), (Ok(()), &expected), "cut at {cut}");
            assert!(
                sent.ends_with(&format!("*3\r\n$5\r\nPSYNC\r\n$40\r\n{ID}\r\n$2\r\n42\r\n")),
                "{sent}"
            );
        }
        let every: Vec<usize> = (0..stream.len()).collect();
        assert_eq!(run(handshake(), stream.as_bytes(), &every).1, expected);
    }
}

#[test]
fn nothing_is_sent_before_the_answer_to_what_went_before() {
    let mut sent = Vec::new();
    let mut replica = Replica::new(handshake(), &mut sent);
    let mut events = Vec::new();
    for expected in ["AUTH", "capa", "version", "PSYNC"] {
        let said = String::from_utf8(std::mem::take(&mut sent)).unwrap();
        assert!(said.contains(expected), "{said}");
        assert_eq!(
            said.matches('*').count(),
            1,
            "one command at a time: {said}"
        );
        replica
            .receive(Bytes::from_static(b"+OK\r\n"), &mut events, &mut sent)
            .unwrap_or_default();
    }
}

#[test]
fn a_partial_sync_continues_with_or_without_a_new_id() {
    for (answer, id) in [
        ("+CONTINUE".to_owned(), None),
        (format!("+CONTINUE {NEW}"), Some(NEW.parse().unwrap())),
    ] {
        let stream = format!("+OK\r\n+OK\r\n+OK\r\n{answer}\r\n*1\r\n");
        let (result, events, _) = run(handshake(), stream.as_bytes(), &[]);
        assert_eq!(result, Ok(()));
        assert_eq!(
            events,
            [
                Event::Continue(id),
                Event::Feed(Bytes::from_static(b"*1\r\n"))
            ]
        );
    }
}

#[test]
fn every_error_has_its_meaning() {
    type Check = fn(&Refusal) -> bool;
    let not_ready: Check = |r| matches!(r, Refusal::NotReady(_)) && !r.is_permanent();
    let auth: Check = |r| matches!(r, Refusal::Auth(_)) && r.is_permanent();
    let permission: Check = |r| matches!(r, Refusal::Permission(_));
    let none: Check = |r| matches!(r, Refusal::NoReplication(_));
    let not_redis: Check = |r| matches!(r, Refusal::NotRedis(_));
    let ok = "+OK\r\n+OK\r\n+OK\r\n";
    for (before, answer, check) in [
        ("", "-WRONGPASS invalid username-password pair", auth),
        ("", "-ERR invalid password", auth),
        (
            "",
            "-ERR AUTH <password> called without any password configured",
            auth,
        ),
        (
            "",
            "-LOADING Redis is loading the dataset in memory",
            not_ready,
        ),
        ("+OK\r\n", "-NOAUTH Authentication required.", auth),
        (
            "+OK\r\n",
            "-NOPERM this user has no permissions to run 'replconf'",
            permission,
        ),
        ("+OK\r\n", "-ERR unknown command 'REPLCONF'", none),
        (
            ok,
            "-NOMASTERLINK Can't SYNC while not connected with my master",
            not_ready,
        ),
        (ok, "-MASTERDOWN Link with MASTER is down", not_ready),
        (ok, "-BUSY Redis is busy running a script", not_ready),
        (
            ok,
            "-NOPERM no permissions to run the 'psync' command",
            permission,
        ),
        (ok, "-ERR unknown command `PSYNC`, with args", none),
        (
            ok,
            "-ERR BGSAVE failed, replication can't continue",
            not_ready,
        ),
        ("", "HTTP/1.1 400 Bad Request", not_redis),
        ("", "220 mail.example.org ESMTP", not_redis),
        (ok, "+FULLRESYNC nonsense", not_redis),
        (ok, "+PONG", not_redis),
    ] {
        let stream = format!("{before}{answer}\r\n");
        let (result, _, _) = run(handshake(), stream.as_bytes(), &[]);
        let refusal = result.unwrap_err();
        assert!(check(&refusal), "{answer}: {refusal:?}");
    }
    let (result, _, _) = run(
        handshake(),
        format!("{ok}+FULLRESYNC {ID} 5\r\n-ERR BGSAVE failed\r\n").as_bytes(),
        &[],
    );
    assert!(not_ready(&result.unwrap_err()));
}

#[test]
fn a_line_without_end_is_bounded() {
    let (result, _, _) = run(handshake(), &vec![b'+'; 10_000], &[]);
    assert!(matches!(result, Err(Refusal::NotRedis(_))));
}

#[test]
fn the_password_is_never_shown() {
    assert!(!format!("{:?}", handshake()).contains("pw"));
}
