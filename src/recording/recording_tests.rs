#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use proptest::prelude::*;

use super::*;
use crate::position::Offset;
use crate::proto::transfer::Framing;
use crate::resp::encode_command;

const ID: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT: &str = "fedcba9876543210fedcba9876543210fedcba98";

fn record(at_us: u64, kind: Kind, bytes: &[u8]) -> Record {
    Record {
        at_us,
        kind,
        bytes: Bytes::copy_from_slice(bytes),
    }
}

fn command(args: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
    encode_command(&args, &mut out);
    out
}

/// An RDB without keys, of version 3, which has no checksum.
const EMPTY_RDB: &[u8] = b"REDIS0003\xff";

/// Two connections: a full sync by a mark, and what goes on under another id.
fn sample(feed: &[u8], cut: usize) -> Recording {
    let mark = [b'm'; 40];
    let head = format!("+FULLRESYNC {ID} 100\r\n\n\n$EOF:");
    let first = [
        head.as_bytes(),
        &mark,
        b"\r\n",
        EMPTY_RDB,
        &mark,
        &feed[..cut],
    ]
    .concat();
    let mut records = vec![
        record(1, Kind::Open, b""),
        record(2, Kind::Replica, &command(&["REPLCONF", "capa", "psync2"])),
        record(3, Kind::Master, b"+OK\r\n"),
        record(4, Kind::Replica, &command(&["PSYNC", "?", "-1"])),
    ];
    for (n, piece) in first.chunks(17).enumerate() {
        records.push(record(5 + n as u64, Kind::Master, piece));
    }
    let at = (100 + cut + 1).to_string();
    records.extend([
        record(1000, Kind::Close, b"master"),
        record(2000, Kind::Open, b""),
        record(2001, Kind::Replica, &command(&["PSYNC", ID, &at])),
        record(
            2002,
            Kind::Master,
            format!("+CONTINUE {NEXT}\r\n").as_bytes(),
        ),
        record(2003, Kind::Master, &feed[cut..]),
    ]);
    records.retain(|record| {
        !matches!(record.kind, Kind::Master | Kind::Replica) || !record.bytes.is_empty()
    });
    Recording {
        began_unix_us: 1_767_225_600_000_000,
        records,
    }
}

fn feed() -> Vec<u8> {
    [
        command(&["SELECT", "3"]),
        command(&["SET", "key", "secret", "PX", "1000"]),
        command(&["RPUSH", "list", "a longer secret", "-12345"]),
        command(&["PING"]),
        command(&["ZADD", "scores", "NX", "1.5", "secret"]),
    ]
    .concat()
}

#[test]
fn the_decompressed_form_is_the_documented_one() {
    let recording = Recording {
        began_unix_us: 7,
        records: vec![
            record(1, Kind::Open, b""),
            record(2, Kind::Replica, b"a\nb"),
            record(2, Kind::Master, b"+OK\r\n"),
            record(9, Kind::Close, b"replica"),
        ],
    };
    let text = recording.encode();
    let (body, end) = text.split_at(text.len() - "0123456789abcdef\n".len());
    assert_eq!(
        body,
        b"backfeed-recording 1 7\nopen 1 0\n\nreplica 2 3\na\nb\nmaster 2 5\n+OK\r\n\nclose 9 7\nreplica\nend 9 16\n"
    );
    assert_eq!(end, format!("{:016x}\n", Crc64::of(body)).as_bytes());
    assert_eq!(Recording::decode(&text.into()), Ok(recording));
}

#[test]
fn one_that_is_cut_off_anywhere_is_told_as_such() {
    let recording = sample(&feed(), 30);
    let file = recording.compress().unwrap();
    assert_eq!(Recording::parse(&file), Ok(recording.clone()));
    for length in 0..file.len() {
        let error = Recording::parse(&file[..length]).unwrap_err();
        assert!(
            matches!(error, RecordingError::Truncated(_)),
            "{length}: {error}"
        );
    }
    let text = Bytes::from(recording.encode());
    for length in 0..text.len() {
        let error = Recording::decode(&text.slice(..length)).unwrap_err();
        assert!(
            matches!(error, RecordingError::Truncated(_)),
            "{length}: {error}"
        );
    }
}

#[test]
fn every_flipped_bit_is_an_error() {
    let recording = sample(&feed(), 30);
    let file = recording.compress().unwrap();
    let text = recording.encode();
    for bit in 0..text.len() * 8 {
        let mut damaged = text.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Recording::decode(&damaged.into()).is_err(), "bit {bit}");
    }
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        // A bit of a frame's header may mean nothing.
        if let Ok(found) = Recording::parse(&damaged) {
            assert_eq!(found, recording, "bit {bit}");
        }
    }
}

#[test]
fn what_is_no_recording_is_told_apart() {
    let parse = |text: &[u8]| {
        let file = FrameEncoder::new(1).unwrap().frame(text).unwrap();
        Recording::parse(&file).unwrap_err()
    };
    assert_eq!(parse(b"REDIS0011"), RecordingError::Foreign);
    assert_eq!(parse(b"backfeed-recording 2 7\n"), RecordingError::Newer(2));
    assert!(matches!(
        Recording::parse(b"REDIS0011"),
        Err(RecordingError::Compression(_))
    ));
    assert!(matches!(
        parse(b"backfeed-recording 1\n"),
        RecordingError::Malformed { at: 0, .. }
    ));
    let head = "backfeed-recording 1 7\n";
    for (wrong, at) in [
        ("open 1 0\n\nopen 1 0\n\n", 10),
        ("master 1 1\nx\n", 0),
        ("open 2 0\n\nclose 1 6\nmaster\n", 10),
        ("open 1 0\n\nclose 2 3\nyou\n", 10),
        ("open 01 0\n\n", 0),
        ("open 1 0\nX", 9),
        ("end 1 4\nabcd\n", 0),
    ] {
        let error = parse(format!("{head}{wrong}").as_bytes());
        assert!(
            matches!(error, RecordingError::Malformed { at: found, .. } if found == head.len() + at),
            "{wrong:?}: {error}"
        );
    }
    assert!(matches!(
        parse(format!("{head}end 1 16\n0000000000000000\n").as_bytes()),
        RecordingError::Checksum { wanted: 0, .. }
    ));
}

#[test]
fn a_story_is_read_over_all_connections() {
    let feed = feed();
    for cut in 0..feed.len() {
        let recording = sample(&feed, cut);
        let story = Story::of(&recording).unwrap();
        assert_eq!(
            (story.base.history.as_str(), story.base.offset),
            (ID, Offset(100))
        );
        assert_eq!(story.framing, Framing::Mark([b'm'; 40]));
        assert_eq!(&story.rdb[..], EMPTY_RDB);
        assert_eq!(&story.feed[..], &feed);
        assert_eq!(story.end(), Offset(100 + feed.len() as u64));
        let at = Offset(100 + cut as u64);
        let stretches: Vec<_> = story
            .stretches
            .iter()
            .map(|s| (s.id.as_str(), s.from, s.to, s.closed))
            .collect();
        assert_eq!(
            stretches,
            [(ID, Offset(100), at, true), (NEXT, at, story.end(), false)]
        );
    }
}

#[test]
fn a_story_that_does_not_fit_together_is_an_error() {
    let whole = sample(&feed(), 30);
    let without = |keep: fn(&Record) -> bool| Recording {
        began_unix_us: 0,
        records: whole
            .records
            .iter()
            .filter(|record| keep(record))
            .cloned()
            .collect(),
    };
    assert_eq!(
        Story::of(&without(|r| r.at_us > 1000)),
        Err(StoryError::NoFullSync)
    );
    assert_eq!(
        Story::of(&Recording::default()),
        Err(StoryError::NoFullSync)
    );
    let mut gap = whole.clone();
    let psync = gap.records.iter_mut().find(|r| r.at_us == 2001).unwrap();
    psync.bytes = command(&["PSYNC", ID, "999"]).into();
    assert!(matches!(
        Story::of(&gap),
        Err(StoryError::Gap {
            connection: 2,
            at: Offset(998),
            ..
        })
    ));
    let mut twice = whole.clone();
    twice.records.retain(|record| record.at_us < 2000);
    twice
        .records
        .extend(whole.records.iter().filter(|r| r.at_us <= 1000).cloned());
    assert_eq!(
        Story::of(&twice),
        Err(StoryError::SecondFullSync { connection: 2 })
    );
}

#[test]
fn redaction_keeps_lengths_and_is_always_the_same() {
    let feed = feed();
    let whole = sample(&feed, 30).redacted(Redaction::Values).unwrap();
    let story = Story::of(&whole).unwrap();
    assert_eq!(story.feed.len(), feed.len());
    let text = String::from_utf8(story.feed.to_vec()).unwrap();
    assert!(
        !text.contains("secret") && !text.contains("12345"),
        "{text}"
    );
    assert!(
        text.contains("$3\r\nkey\r\n") && text.contains("\r\nPX\r\n$4\r\n1000\r\n"),
        "{text}"
    );
    // The member of ZADD is the value of SET.
    let hidden = text.split("\r\n").nth(8 + 4).unwrap();
    assert_eq!(text.matches(hidden).count(), 2, "{text}");
    for cut in 0..feed.len() {
        let redacted = sample(&feed, cut).redacted(Redaction::Values).unwrap();
        assert_eq!(
            Story::of(&redacted).unwrap().feed,
            story.feed,
            "cut at {cut}"
        );
    }
    let keys = sample(&feed, 30).redacted(Redaction::Keys).unwrap();
    let text = String::from_utf8(Story::of(&keys).unwrap().feed.to_vec()).unwrap();
    assert!(!text.contains("key") && text.contains("$3\r\n"), "{text}");
}

#[test]
fn what_cannot_be_redacted_is_refused() {
    let eval = command(&["EVAL", "return 1", "0"]);
    let error = sample(&eval, 3).redacted(Redaction::Values).unwrap_err();
    assert!(error.to_string().contains("EVAL at offset 100"), "{error}");
    // A feed that ends within a command is cut before it.
    let feed = [feed(), eval[..9].to_vec()].concat();
    let redacted = sample(&feed, 30).redacted(Redaction::Values).unwrap();
    assert_eq!(Story::of(&redacted).unwrap().feed.len(), feed.len() - 9);
}

proptest! {
    #[test]
    fn any_records_come_back(
        began_unix_us in any::<u64>(),
        parts in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 1..50)), 0..20),
    ) {
        let mut records = vec![record(0, Kind::Open, b"")];
        for (n, (master, bytes)) in parts.iter().enumerate() {
            let kind = if *master { Kind::Master } else { Kind::Replica };
            records.push(record(n as u64, kind, bytes));
        }
        let recording = Recording { began_unix_us, records };
        prop_assert_eq!(Recording::parse(&recording.compress().unwrap()), Ok(recording.clone()));
        // Whatever it is, it is read or refused.
        let _ = Story::of(&recording);
    }

    #[test]
    fn no_bytes_are_a_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = [b"backfeed-recording 1 7\n".as_slice(), &text].concat();
        let _ = Recording::decode(&text.into());
    }
}
