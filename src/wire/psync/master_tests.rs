#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use proptest::prelude::*;

use super::*;

fn resp(args: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    out
}

fn answer(master: &mut Master, args: &[&str]) -> String {
    master.push(&resp(args)).unwrap();
    String::from_utf8(master.take_output().to_vec()).unwrap()
}

/// Everything a conversation gives: replies, events, capabilities, the error.
type Outcome = (Vec<u8>, Vec<MasterEvent>, Vec<String>, Option<RequestError>);

fn converse(credentials: Option<Credentials>, pieces: &[&[u8]]) -> Outcome {
    let mut master = Master::new(credentials);
    let (mut out, mut events, mut error) = (Vec::new(), Vec::new(), None);
    for piece in pieces {
        error = error.or(master.push(piece).err());
        out.extend_from_slice(&master.take_output());
        while let Some(event) = master.next_event() {
            events.push(event);
        }
    }
    (out, events, master.capabilities().to_vec(), error)
}

fn handshake() -> Vec<u8> {
    let mut bytes = b"\n".to_vec();
    for args in [
        &["PING"][..],
        &["AUTH", "app", "secret"],
        &["REPLCONF", "listening-port", "6380"],
        &["REPLCONF", "ip-address", "10.0.0.7"],
        &[
            "REPLCONF",
            "capa",
            "eof",
            "capa",
            "psync2",
            "capa",
            "dual-channel",
        ],
        &["REPLCONF", "version", "9.1.2"],
        &["REPLCONF", "rdb-no-compress", "1"],
        &["PSYNC", "?", "-1"],
    ] {
        bytes.extend_from_slice(&resp(args));
    }
    bytes.extend_from_slice(b"\n\n");
    bytes.extend_from_slice(&resp(&["replconf", "ack", "1053", "fack", "7"]));
    bytes.extend_from_slice(&resp(&["PING"]));
    bytes
}

const HANDSHAKE_REPLIES: &str = "+PONG\r\n+OK\r\n+OK\r\n+OK\r\n+OK\r\n\
    -ERR Unrecognized REPLCONF option: version\r\n\
    -ERR Unrecognized REPLCONF option: rdb-no-compress\r\n";

#[test]
fn a_replica_is_answered_in_order_and_no_more_once_it_has_asked_for_a_sync() {
    let (out, events, capabilities, error) = converse(None, &[&handshake()]);
    assert_eq!(String::from_utf8(out).unwrap(), HANDSHAKE_REPLIES);
    assert_eq!(
        events,
        [
            MasterEvent::SyncRequested {
                id: None,
                offset: None,
                psync: true
            },
            MasterEvent::Ack(Offset(1053)),
        ]
    );
    assert_eq!(capabilities, ["eof", "psync2", "dual-channel"]);
    assert_eq!(error, None);
}

#[test]
fn every_split_of_a_conversation_gives_the_same() {
    let input = handshake();
    let whole = converse(None, &[&input]);
    for at in 0..=input.len() {
        let (front, back) = input.split_at(at);
        assert_eq!(converse(None, &[front, back]), whole, "split at {at}");
    }
    let bytes: Vec<&[u8]> = input.chunks(1).collect();
    assert_eq!(converse(None, &bytes), whole);
}

proptest! {
    #[test]
    fn foreign_bytes_never_panic_and_do_not_depend_on_the_split(
        mut input in proptest::collection::vec(prop_oneof![
            Just(b'*'), Just(b'$'), Just(b'1'), Just(b'2'), Just(b'\r'), Just(b'\n'), Just(b' '), any::<u8>()
        ], 0..200),
        cuts in proptest::collection::vec(0usize..200, 0..6),
        with_handshake: bool,
    ) {
        if with_handshake {
            input.extend_from_slice(&handshake());
        }
        let whole = converse(None, &[&input]);
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
        cuts.extend([0, input.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &input[w[0]..w[1]]).collect();
        prop_assert_eq!(converse(None, &pieces), whole);
    }
}

#[test]
fn psync_tells_the_offset_before_the_wanted_byte() {
    let id = "ab".repeat(20);
    for (byte, offset) in [
        ("43", Some(Offset(42))),
        ("1", Some(Offset(0))),
        ("0", None),
        ("-1", None),
    ] {
        let mut master = Master::new(None);
        assert_eq!(answer(&mut master, &["PSYNC", &id, byte]), "");
        let wanted = MasterEvent::SyncRequested {
            id: Some(id.parse().unwrap()),
            offset,
            psync: true,
        };
        assert_eq!(master.next_event(), Some(wanted));
    }
    let mut master = Master::new(None);
    assert!(answer(&mut master, &["PSYNC", &id, "many"]).starts_with("-ERR value is not"));
    assert_eq!(master.next_event(), None);
    assert_eq!(master.state(), MasterState::Handshake);
}

#[test]
fn the_old_sync_works_inline_and_gets_the_payload_alone() {
    let mut master = Master::new(None);
    master.push(b"SYNC\r\n").unwrap();
    assert_eq!(
        master.next_event(),
        Some(MasterEvent::SyncRequested {
            id: None,
            offset: None,
            psync: false
        })
    );
    assert!(
        master
            .full_resync(ReplId::from_random([1; 20]), Offset(5))
            .is_empty()
    );
    assert_eq!(&master.payload_header(&Framing::Length(70))[..], b"$70\r\n");
}

#[test]
fn the_answers_to_a_sync_are_spelled_as_a_master_spells_them() {
    let id = ReplId::from_random([0xAB; 20]);
    let hex = "ab".repeat(20);
    let mut master = Master::new(None);
    assert!(
        master.keepalive().is_empty(),
        "in the handshake nothing is sent unasked"
    );
    let _ = answer(&mut master, &["REPLCONF", "capa", "eof", "capa", "psync2"]);
    let _ = answer(&mut master, &["PSYNC", "?", "-1"]);
    assert_eq!(&master.keepalive()[..], b"\n");
    assert_eq!(
        &master.full_resync(id, Offset(0))[..],
        format!("+FULLRESYNC {hex} 0\r\n").as_bytes()
    );
    assert_eq!(&master.keepalive()[..], b"\n");
    assert_eq!(
        &master.payload_header(&Framing::Length(1 << 40))[..],
        b"$1099511627776\r\n"
    );
    assert!(
        master.keepalive().is_empty(),
        "within the payload a newline would be data"
    );
    master.payload_done();
    assert!(
        master.keepalive().is_empty(),
        "after the payload the target would count it"
    );

    assert_eq!(
        &master.resume(id)[..],
        format!("+CONTINUE {hex}\r\n").as_bytes()
    );
    assert_eq!(&Master::new(None).resume(id)[..], b"+CONTINUE\r\n");
}

#[test]
fn not_ready_looks_like_a_master_that_loads() {
    let mut master = Master::new(None);
    master.set_not_ready(Some("is waiting\r\nfor the store".to_owned()));
    let loading = "-LOADING backfeed is waiting  for the store\r\n";
    assert_eq!(answer(&mut master, &["PING"]), loading);
    assert_eq!(answer(&mut master, &["REPLCONF", "capa", "eof"]), "+OK\r\n");
    assert_eq!(answer(&mut master, &["PSYNC", "?", "-1"]), loading);
    assert_eq!(master.next_event(), None);
    master.set_not_ready(None);
    assert_eq!(answer(&mut master, &["PING"]), "+PONG\r\n");
}

#[test]
fn a_password_is_asked_for_before_anything_else_and_not_shown() {
    let wanted = Credentials {
        username: Some("app".into()),
        password: "secret".into(),
    };
    assert!(!format!("{wanted:?}").contains("secret"));
    let fresh = || Master::new(Some(wanted.clone()));
    let mut master = fresh();
    for args in [
        &["PING"][..],
        &["REPLCONF", "capa", "eof"],
        &["PSYNC", "?", "-1"],
        &["INFO"],
    ] {
        assert!(answer(&mut master, args).starts_with("-NOAUTH"), "{args:?}");
    }
    assert_eq!(answer(&mut master, &["REPLCONF", "ACK", "5"]), "");
    assert_eq!(master.next_event(), None);
    for wrong in [
        &["AUTH", "secret"][..],
        &["AUTH", "app", "wrong1"],
        &["AUTH", "other", "secret"],
    ] {
        let mut wronged = fresh();
        assert!(
            answer(&mut wronged, wrong).starts_with("-WRONGPASS"),
            "{wrong:?}"
        );
        // There is one try a connection: it does not learn that this one would be right.
        let right = answer(&mut wronged, &["AUTH", "app", "secret"]);
        assert!(right.starts_with("-WRONGPASS"), "{wrong:?}");
        assert!(answer(&mut wronged, &["PSYNC", "?", "-1"]).starts_with("-NOAUTH"));
        assert_eq!(wronged.next_event(), None);
    }
    assert_eq!(answer(&mut master, &["AUTH", "app", "secret"]), "+OK\r\n");
    assert_eq!(answer(&mut master, &["PING"]), "+PONG\r\n");

    let mut any_user = Master::new(Some(Credentials {
        username: None,
        password: "p".into(),
    }));
    assert_eq!(answer(&mut any_user, &["AUTH", "p"]), "+OK\r\n");
    // a later wrong password takes the right away again
    assert!(answer(&mut any_user, &["AUTH", "q"]).starts_with("-WRONGPASS"));
    assert!(answer(&mut any_user, &["PING"]).starts_with("-NOAUTH"));
}

#[test]
fn a_target_that_lacks_the_right_password_is_known_to_lack_it() {
    let wanted = |username: Option<&str>| {
        Some(Credentials {
            username: username.map(str::to_owned),
            password: "secret".into(),
        })
    };
    for (username, attempts, denial) in [
        (None, &[&["PING"][..]][..], None),
        (
            None,
            &[&["PING"], &["PSYNC", "?", "-1"]],
            Some(Denial::NoPassword),
        ),
        (None, &[&["SYNC"]], Some(Denial::NoPassword)),
        (None, &[&["AUTH", "wrong!"]], Some(Denial::WrongPassword)),
        (None, &[&["AUTH", "secre"]], Some(Denial::WrongPassword)),
        (None, &[&["AUTH", "secret"]], None),
        (None, &[&["AUTH", "default", "secret"]], None),
        (
            Some("app"),
            &[&["AUTH", "secret"]],
            Some(Denial::WrongPassword),
        ),
        (
            Some("app"),
            &[&["AUTH", "default", "secret"]],
            Some(Denial::WrongPassword),
        ),
        (
            Some("app"),
            &[&["AUTH", "app", "wrong!"]],
            Some(Denial::WrongPassword),
        ),
        (
            Some("app"),
            &[&["AUTH", "app", "wrong!"], &["PSYNC", "?", "-1"]],
            Some(Denial::WrongPassword),
        ),
        (
            Some("app"),
            &[&["PSYNC", "?", "-1"], &["AUTH", "app", "secret"]],
            None,
        ),
        (Some("default"), &[&["AUTH", "secret"]], None),
    ] {
        let mut master = Master::new(wanted(username));
        for attempt in attempts {
            let _ = answer(&mut master, attempt);
        }
        assert_eq!(master.denial(), denial, "{username:?} {attempts:?}");
    }
    let mut open = Master::new(None);
    assert_eq!(answer(&mut open, &["AUTH", "any", "thing"]), "+OK\r\n");
    assert_eq!(open.denial(), None);
}

#[test]
fn the_beginning_of_tls_is_told_from_noise() {
    assert_eq!(
        Master::new(None).push(b"\x16\x03\x01"),
        Err(RequestError::Tls)
    );
    assert_eq!(
        Master::new(None).push(b"*1\r\n:1\r\n"),
        Err(RequestError::Malformed)
    );
}

#[test]
fn other_commands_and_unknown_options_are_errors_and_never_a_blanket_ok() {
    let mut master = Master::new(None);
    assert!(answer(&mut master, &["INFO", "server"]).starts_with("-ERR unknown command 'INFO'"));
    assert_eq!(
        answer(
            &mut master,
            &["REPLCONF", "capa", "eof", "compression", "3"]
        ),
        "-ERR Unrecognized REPLCONF option: compression\r\n"
    );
    assert_eq!(
        master.capabilities(),
        ["eof"],
        "what stands before it has taken effect"
    );
    assert_eq!(
        answer(&mut master, &["REPLCONF", "capa"]),
        "-ERR syntax error\r\n"
    );
    assert_eq!(
        answer(&mut master, &["REPLCONF", "listening-port", "6380"]),
        "+OK\r\n"
    );
    assert_eq!(master.listening_port(), Some(6380));
    assert_eq!(answer(&mut master, &["REPLPING"]), "+PONG\r\n");
    assert_eq!(answer(&mut master, &["REPLCONF", "GETACK", "5"]), "");
    assert_eq!(master.next_event(), None);
}

#[test]
fn memory_is_bounded_whatever_connects() {
    let mut master = Master::new(None);
    let endless = vec![b'x'; 1000];
    let error = std::iter::repeat_with(|| master.push(&endless))
        .take(100)
        .find_map(Result::err);
    assert_eq!(error, Some(RequestError::TooLong));
    assert_eq!(
        master.push(b"PING\r\n"),
        Err(RequestError::TooLong),
        "it stays failed"
    );

    for bad in [&b"*1\r\n$99999999999\r\n"[..], b"*9999999\r\n"] {
        assert_eq!(Master::new(None).push(bad), Err(RequestError::TooLong));
    }
    for bad in [
        &b"*1\r\n:1\r\n"[..],
        b"*x\r\n",
        b"*1\r\n$1\r\nabc",
        b"*\r\n",
        b"*-1\r\n",
    ] {
        assert_eq!(
            Master::new(None).push(bad),
            Err(RequestError::Malformed),
            "{bad:?}"
        );
    }
}
