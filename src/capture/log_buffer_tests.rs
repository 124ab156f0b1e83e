#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::wire::resp::encode_command;

const SIZE: usize = 64 * 1024;

fn command(args: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    encode_command(
        &args.iter().map(|arg| arg.as_bytes()).collect::<Vec<_>>(),
        &mut out,
    );
    out
}

fn buffer() -> LogBuffer {
    at(100, 100)
}

fn at(boundary: u64, stored: u64) -> LogBuffer {
    let boundary = Boundary {
        offset: Offset(boundary),
        db: 0,
    };
    LogBuffer::new(
        ReplId::from_random([7; 20]),
        boundary,
        Offset(stored),
        0,
        "w".into(),
    )
}

fn moment(unix_ms: i64) -> Moment {
    Moment {
        unix_ms,
        instant: Instant::now(),
    }
}

fn raw(pending: &Pending) -> Vec<u8> {
    crate::capture::spool::load(&pending.chunks)
        .unwrap()
        .concat()
}

fn push(buffer: &mut LogBuffer, bytes: &[u8], ms: i64) -> Arrival {
    buffer
        .push(Bytes::copy_from_slice(bytes), moment(ms))
        .unwrap()
}

#[test]
fn a_clock_that_went_back_is_news_once_and_stands_in_what_is_cut_meanwhile() {
    let mut buffer = buffer();
    let set = command(&["SET", "k", "v"]);
    let mut receive = |ms: i64| {
        let is_news = buffer.clock_says(ms);
        push(&mut buffer, &set, ms);
        let meta = buffer.next_segment(SIZE).unwrap().meta;
        buffer.mark_stored(meta.end, meta.boundary);
        let last = meta.marks.last().unwrap().unix_ms;
        let back = meta.clock_back;
        (
            is_news,
            last,
            back.map(|back| (back.to_unix_ms, back.now_unix_ms)),
        )
    };
    assert_eq!(receive(50_000), (false, 50_000, None));
    // A little is no news.
    assert_eq!(receive(49_001), (false, 50_000, None));
    assert_eq!(receive(49_000), (true, 50_000, Some((49_000, 49_000))));
    assert_eq!(receive(30_000), (false, 50_000, Some((30_000, 30_000))));
    assert_eq!(receive(49_500), (false, 50_000, Some((30_000, 49_500))));
    assert_eq!(receive(50_000), (false, 50_000, None));
    assert_eq!(receive(10_000), (true, 50_000, Some((10_000, 10_000))));
    // It is set right before that is cut.
    buffer.clock_says(20_000);
    push(&mut buffer, &set, 20_000);
    buffer.clock_says(60_000);
    push(&mut buffer, &set, 60_000);
    let mut back = || {
        let meta = buffer.next_segment(SIZE).unwrap().meta;
        buffer.mark_stored(meta.end, meta.boundary);
        push(&mut buffer, &set, 60_000);
        meta.clock_back.map(|back| back.to_unix_ms)
    };
    assert_eq!((back(), back()), (Some(10_000), None));
}

/// Of two writers of one log, one may have a clock that is ahead.
#[test]
fn marks_do_not_go_back_behind_those_of_another_writer() {
    let set = command(&["SET", "k", "v"]);
    let mut buffer = buffer();
    for ms in [50_000, 52_000] {
        buffer.clock_says(ms);
        push(&mut buffer, &set, ms);
    }
    assert!(buffer.continues_after_mark(90_000));
    assert!(!buffer.continues_after_mark(80_000));
    let meta = buffer.next_segment(SIZE).unwrap().meta;
    assert!(meta.marks.iter().all(|mark| mark.unix_ms == 90_000));
    let back = meta.clock_back.unwrap();
    assert_eq!((back.to_unix_ms, back.now_unix_ms), (50_000, 52_000));
}

#[test]
fn two_clocks_that_differ_a_little_refuse_no_time() {
    let set = command(&["SET", "k", "v"]);
    let mut buffer = buffer();
    buffer.clock_says(50_000);
    push(&mut buffer, &set, 50_000);
    assert!(!buffer.continues_after_mark(65_000));
    assert!(!buffer.clock_says(51_000));
    push(&mut buffer, &set, 51_000);
    let meta = buffer.next_segment(SIZE).unwrap().meta;
    assert_eq!(meta.marks.last().unwrap().unix_ms, 65_000);
    assert_eq!(meta.clock_back, None);
    // By its own clock, it is exact again.
    assert!(!buffer.clock_says(70_000));
    push(&mut buffer, &set, 70_000);
    assert!(buffer.clock_says(60_000));
}

/// In one piece, or byte by byte; with another link between, which proves it anew; and with another byte anywhere.
#[test]
fn what_is_sent_again_is_compared_before_anything_is_acknowledged() {
    let unit = command(&["SET", "k", "v"]);
    let end = 100 + 2 * unit.len() as u64;
    let stored = || {
        let mut buffer = buffer();
        push(&mut buffer, &[&unit[..], &unit].concat(), 1);
        let pending = buffer.next_segment(SIZE).unwrap();
        buffer.mark_stored(pending.meta.end, pending.meta.boundary);
        buffer.note_recent(Offset(100), &[raw(&pending).into()]);
        let recent = buffer.recent().unwrap();
        assert_eq!((recent.start, recent.end()), (Offset(100), Offset(end)));
        buffer
    };
    for size in [1, 7, 1000] {
        // From within a command.
        for from in [100, 101, end - 1] {
            let mut buffer = stored();
            let again = buffer.recent().unwrap().after(Offset(from)).unwrap();
            buffer.begin_again(again.clone(), buffer.boundary());
            assert_eq!(buffer.acknowledge(false, false), Offset(0));
            push(&mut buffer, &again.bytes[..again.bytes.len() / 2], 2);
            // The link ends before it has proved anything.
            buffer.truncate_to_boundary();
            buffer.begin_again(again.clone(), buffer.boundary());
            for piece in again.bytes.chunks(size) {
                assert_eq!(buffer.acknowledge(false, false), Offset(0));
                push(&mut buffer, piece, 2);
            }
            assert_eq!(buffer.received().offset, Offset(end));
            push(&mut buffer, &unit, 3);
            assert_eq!(buffer.acknowledge(false, false), Offset(end));
            for wrong in 0..again.bytes.len() {
                let mut buffer = stored();
                buffer.begin_again(again.clone(), buffer.boundary());
                let mut bytes = again.bytes.to_vec();
                bytes[wrong] ^= 1;
                let mut pieces = bytes.chunks(size);
                let seen = pieces.any(|piece| {
                    buffer
                        .push(Bytes::copy_from_slice(piece), moment(2))
                        .is_err()
                });
                assert!(seen, "byte {wrong} of what comes after {from}");
                assert_eq!(buffer.acknowledge(false, false), Offset(0));
            }
        }
    }
}

/// The last boundary lies before the end of what is stored: a unit that was cut.
#[test]
fn what_is_stored_of_a_unit_is_compared_when_all_of_it_is_sent_again() {
    let unit = command(&["SET", "k", "v"]);
    for is_other in [false, true] {
        let mut buffer = at(100, 110);
        let before = [b'x'; 10];
        let sample = Sample {
            start: Offset(90),
            bytes: [&before[..], &unit[..10]].concat().into(),
        };
        buffer.begin_again(sample, buffer.boundary());
        push(&mut buffer, &before, 1);
        let mut bytes = unit.clone();
        // The name of the command.
        bytes[8] ^= u8::from(is_other);
        let pushed = buffer.push(bytes.into(), moment(2));
        assert_eq!(pushed.is_err(), is_other, "{pushed:?}");
    }
}

#[test]
fn a_segment_ends_at_the_last_boundary_and_knows_its_databases() {
    let mut buffer = buffer();
    let whole = [command(&["SELECT", "2"]), command(&["SET", "a", "1"])].concat();
    let open = [command(&["MULTI"]), command(&["SET", "b", "2"])].concat();
    push(&mut buffer, &[whole.clone(), open.clone()].concat(), 1000);
    let pending = buffer.next_segment(SIZE).unwrap();
    assert_eq!(
        (pending.meta.start, pending.meta.end),
        (Offset(100), Offset(100 + whole.len() as u64))
    );
    assert_eq!(
        pending.meta.boundary,
        Some(Boundary {
            offset: pending.meta.end,
            db: 2
        })
    );
    assert_eq!(raw(&pending), whole);
    assert!(pending.meta.starts_at_boundary);

    buffer.mark_stored(pending.meta.end, pending.meta.boundary);
    assert!(buffer.next_segment(SIZE).is_none(), "a transaction is open");
    push(&mut buffer, &command(&["EXEC"]), 1050);
    let rest = buffer.next_segment(SIZE).unwrap();
    assert_eq!(raw(&rest), [open, command(&["EXEC"])].concat());
    assert_eq!(rest.meta.db_at_start, 2);
    buffer.mark_stored(rest.meta.end, rest.meta.boundary);
    assert!(!buffer.has_whole_unit());
    assert_eq!(buffer.memory(), 0);
}

#[test]
fn a_command_longer_than_memory_is_cut_and_acknowledged_only_at_its_end() {
    let mut buffer = buffer();
    let value = "v".repeat(10 * SIZE);
    let bytes = command(&["SET", "k", &value]);
    let mut stored = Vec::new();
    let mut most = 0;
    for part in bytes.chunks(10_000) {
        push(&mut buffer, part, 5);
        most = most.max(buffer.memory());
        while let Some(pending) = buffer.next_segment(SIZE) {
            stored.extend(raw(&pending));
            buffer.mark_stored(pending.meta.end, pending.meta.boundary);
            let whole = stored.len() == bytes.len();
            assert_eq!(pending.meta.boundary.is_some(), whole);
            let acknowledged = if whole {
                100 + bytes.len() as u64 - 1
            } else {
                100
            };
            assert_eq!(buffer.acknowledge(false, false), Offset(acknowledged));
        }
    }
    assert_eq!(stored, bytes);
    assert!(most < 2 * SIZE + 20_000, "{most}");
}

#[test]
fn a_transaction_that_dribbles_in_is_cut_when_memory_is_full() {
    let mut buffer = buffer();
    let mut memory = 0;
    let dribble = [
        command(&["MULTI"]),
        command(&["SET", "a", "1"]).repeat(SIZE),
    ]
    .concat();
    for byte in dribble.chunks(1) {
        assert!(buffer.next_segment(SIZE).is_none());
        push(&mut buffer, byte, 1000);
        memory = buffer.memory();
        if memory >= 2 * SIZE {
            break;
        }
    }
    assert!(memory >= 2 * SIZE, "each piece costs more than its byte");
    let pending = buffer.next_segment(SIZE).unwrap();
    assert_eq!(pending.meta.end, buffer.received().offset);
    assert_eq!(pending.meta.boundary, None);
    buffer.mark_stored(pending.meta.end, None);
    assert_eq!(buffer.memory(), 0);
}

#[test]
fn segments_of_many_small_commands_stay_near_the_wanted_size() {
    let mut buffer = buffer();
    let one = command(&["SET", "key", "value"]);
    let all = one.repeat(20_000);
    for part in all.chunks(7_001) {
        push(&mut buffer, part, 5);
    }
    let mut stored = Vec::new();
    while let Some(pending) = buffer.next_segment(SIZE) {
        let len = pending.meta.end.since(pending.meta.start);
        assert!(len <= SIZE as u64 && len % one.len() as u64 == 0, "{len}");
        stored.extend(raw(&pending));
        buffer.mark_stored(pending.meta.end, pending.meta.boundary);
    }
    assert_eq!(stored, all);
}

#[test]
fn what_is_acknowledged_is_stored_and_one_byte_short_of_the_end() {
    let mut buffer = buffer();
    assert_eq!(buffer.acknowledge(false, false), Offset(99));
    assert_eq!(buffer.acknowledge(false, true), Offset(100));
    let set = command(&["SET", "a", "1"]);
    push(&mut buffer, &set, 1);
    let written = Offset(100 + set.len() as u64);
    assert_eq!(
        buffer.acknowledge(false, false),
        Offset(100),
        "received is not stored"
    );
    assert_eq!(buffer.acknowledge(true, false), written.minus(1));
    buffer.mark_stored(
        written,
        Some(Boundary {
            offset: written,
            db: 0,
        }),
    );
    assert_eq!(buffer.acknowledge(false, false), written.minus(1));
    // WAIT: the GETACK that follows the write lets all of the write be acknowledged, and itself.
    let getack = command(&["REPLCONF", "GETACK", "*"]);
    let arrival = push(&mut buffer, &getack, 2);
    assert_eq!(
        arrival,
        Arrival {
            getack: true,
            other: false
        }
    );
    assert_eq!(
        buffer.acknowledge(false, false),
        written.plus(getack.len() as u64 - 1)
    );
    // Who shuts down comes back with what it had, and is asked for what follows on what is stored.
    assert_eq!(buffer.acknowledge(false, true), written);
    assert!(
        !buffer.has_data(),
        "a GETACK alone is no reason for an object"
    );
}

#[test]
fn a_faster_writer_of_the_same_feed_is_taken_in() {
    let mut buffer = buffer();
    let one = command(&["SET", "a", "1"]);
    let n = one.len() as u64;
    push(&mut buffer, &one.repeat(3), 1);
    // It stored two and a half commands (its own limit cut the third).
    buffer.mark_stored(
        Offset(100 + 2 * n + 5),
        Some(Boundary {
            offset: Offset(100 + 2 * n),
            db: 0,
        }),
    );
    let rest = buffer.next_segment(SIZE).unwrap();
    assert_eq!(rest.meta.start, Offset(100 + 2 * n + 5));
    assert!(!rest.meta.starts_at_boundary);
    assert_eq!(raw(&rest), &one[5..]);
    // It is ahead of what we have received.
    buffer.mark_stored(
        Offset(100 + 5 * n),
        Some(Boundary {
            offset: Offset(100 + 5 * n),
            db: 0,
        }),
    );
    assert_eq!(
        buffer.acknowledge(false, false),
        Offset(100 + 3 * n - 1),
        "never beyond what we received"
    );
    push(&mut buffer, &one.repeat(3), 2);
    let rest = buffer.next_segment(SIZE).unwrap();
    assert_eq!((rest.meta.start, raw(&rest)), (Offset(100 + 5 * n), one));
}

#[test]
fn resuming_inside_a_stored_command_skips_what_is_stored() {
    let set = command(&["SET", "a", "1"]);
    let mut buffer = at(100, 110);
    push(&mut buffer, &set, 1);
    let pending = buffer.next_segment(SIZE).unwrap();
    assert_eq!(
        (pending.meta.start, pending.meta.starts_at_boundary),
        (Offset(110), false)
    );
    assert_eq!(raw(&pending), &set[10..]);
}

#[test]
fn a_lost_link_forgets_the_half_command_and_nothing_else() {
    let mut buffer = buffer();
    let set = command(&["SET", "a", "1"]);
    push(&mut buffer, &[set.clone(), set[..7].to_vec()].concat(), 1);
    push(&mut buffer, &set[7..9], 1);
    buffer.truncate_to_boundary();
    assert_eq!(buffer.received().offset, Offset(100 + set.len() as u64));
    push(&mut buffer, &set, 2);
    let pending = buffer.next_segment(SIZE).unwrap();
    assert_eq!(raw(&pending), set.repeat(2));
}

#[test]
fn time_marks_never_go_back_and_stand_apart() {
    let mut buffer = buffer();
    let set = command(&["SET", "a", "1"]);
    for ms in [1000, 1010, 1099, 1100, 900, 1250] {
        push(&mut buffer, &set, ms);
    }
    let marks: Vec<_> = buffer.next_segment(SIZE).unwrap().meta.marks;
    assert_eq!(
        marks.iter().map(|m| m.unix_ms).collect::<Vec<_>>(),
        [1099, 1100, 1250]
    );
    let ends: Vec<_> = marks.iter().map(|mark| mark.offset.0).collect();
    assert_eq!(ends, [3, 5, 6].map(|n| 100 + n * set.len() as u64));
}

#[test]
fn noise_in_the_feed_is_an_error() {
    assert!(
        buffer()
            .push(Bytes::from_static(b"hello"), moment(1))
            .is_err()
    );
}

#[test]
fn whole_commands_before_noise_are_kept_and_a_new_link_goes_on_after_them() {
    let set = command(&["SET", "a", "1"]);
    let n = set.len() as u64;
    let mut buffer = buffer();
    push(&mut buffer, &set[..5], 1);
    let noisy = [&set[5..], &set, &set[..3], b"hello"].concat();
    assert!(buffer.push(Bytes::from(noisy), moment(1)).is_err());
    buffer.truncate_to_boundary();
    assert_eq!(buffer.received().offset, Offset(100 + 2 * n));
    push(&mut buffer, &set, 2);
    let pending = buffer.next_segment(SIZE).unwrap();
    assert_eq!(
        (pending.meta.start, pending.meta.end),
        (Offset(100), Offset(100 + 3 * n))
    );
    assert_eq!(raw(&pending), set.repeat(3));
}

#[test]
fn hours_without_a_store_fit_into_one_header() {
    let mut buffer = buffer();
    let set = command(&["SET", "a", "1"]);
    for n in 0..100_000 {
        push(&mut buffer, &set, n * 100);
    }
    let pending = buffer.next_segment(1 << 30).unwrap();
    assert!(
        pending.meta.marks.len() < 10_000,
        "{}",
        pending.meta.marks.len()
    );
    assert_eq!(pending.meta.marks.last().unwrap().offset, pending.meta.end);
    let encoded = crate::log::segment::encode(pending.meta.clone(), &[raw(&pending).into()], 1);
    assert!(encoded.is_ok());
}

/// A feed, its boundaries, and where each database is selected.
fn feed(random: &mut StdRng) -> (Vec<u8>, Vec<Boundary>) {
    let mut bytes = Vec::new();
    let mut boundaries = Vec::new();
    let mut db = 0;
    while bytes.len() < 12 * SIZE {
        let value = "v".repeat(match random.random_range(0..20) {
            0 => random.random_range(0..3 * SIZE),
            1..4 => random.random_range(0..9000),
            _ => random.random_range(0..40),
        });
        match random.random_range(0..10) {
            0 => {
                db = random.random_range(0..16);
                bytes.extend(command(&["SELECT", &db.to_string()]));
            }
            1 => {
                bytes.extend(command(&["MULTI"]));
                bytes.extend(command(&["SET", "k", &value]).repeat(random.random_range(0..4)));
                bytes.extend(command(&["EXEC"]));
            }
            2 => bytes.extend(command(&["PING"])),
            _ => bytes.extend(command(&["SET", "k", &value])),
        }
        boundaries.push(Boundary {
            offset: Offset(100 + bytes.len() as u64),
            db,
        });
    }
    (bytes, boundaries)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Spooled at any moment, in any pieces, lost and asked for again: what is stored is the feed, cut where it may be,
    /// with time marks as near as without a spool.
    #[test]
    fn a_feed_through_the_spool_is_stored_as_it_came(seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let (bytes, boundaries) = feed(&mut random);
        let dir = tempfile::tempdir().unwrap();
        let config = crate::config::SpoolConfig { dir: dir.path().to_owned(), limit: 1 << 30 };
        let spool = crate::capture::spool::Spool::new(&config, &crate::monitoring::status::Status::new());
        let mut buffer = buffer();
        // When the byte of each index was received (last), and what is stored.
        let mut times = vec![0; bytes.len()];
        let (mut stored, mut now) = (Vec::new(), 1_000);
        let thrifty = random.random_range(1..4);
        let at_once = [900, 40_000][random.random_range(0..2)];
        // A long command must come through between two losses, now and then.
        let rare = 8 * 40_000 / at_once;
        let mut rounds = 0;
        while stored.len() < bytes.len() {
            rounds += 1;
            prop_assert!(rounds < 20_000, "it stands still");
            let at = (buffer.received().offset.0 - 100) as usize;
            now += random.random_range(0..60);
            if at < bytes.len() {
                let more = random.random_range(1..at_once).min(bytes.len() - at);
                push(&mut buffer, &bytes[at..at + more], now);
                times[at..at + more].fill(now);
            }
            let in_flight = buffer.stored().offset.plus(random.random_range(0..SIZE as u64));
            while random.random_range(0..4) >= thrifty
                && let Some(batch) = buffer.spoolable(in_flight, random.random_range(1..9000), 200_000)
            {
                let record = spool.put(&batch.parts).unwrap();
                // Meanwhile, things go on.
                match random.random_range(0..rare) {
                    0 => buffer.truncate_to_boundary(),
                    1 => buffer.lose_from(in_flight),
                    2 => buffer.mark_stored(in_flight.min(buffer.received().offset), None),
                    _ => {}
                }
                let kept = (buffer.stored().offset.0 - 100) as usize;
                if kept > stored.len() {
                    stored.extend_from_slice(&bytes[stored.len()..kept]);
                }
                let data = buffer.has_data();
                buffer.spooled(&batch, &record, random.random_range(1..30_000));
                prop_assert_eq!(buffer.has_data(), data);
            }
            let through = at + 40_000 >= bytes.len();
            if !(through || random.random_range(0..3) == 0) {
                continue;
            }
            let Some(pending) = buffer.next_segment(SIZE) else { continue };
            if random.random_range(0..9) == 0 {
                buffer.lose_from(pending.meta.start.plus(random.random_range(0..SIZE as u64)));
                continue;
            }
            let meta = &pending.meta;
            prop_assert_eq!(meta.start.0, 100 + stored.len() as u64);
            let raw = raw(&pending);
            prop_assert_eq!(raw.len() as u64, meta.end.since(meta.start));
            stored.extend(raw);
            prop_assert!(stored[..] == bytes[..stored.len()]);
            if let Some(boundary) = meta.boundary {
                prop_assert!(boundaries.contains(&boundary), "{:?}", boundary);
            }
            prop_assert!(meta.marks.is_sorted_by_key(|mark| (mark.unix_ms, mark.offset)));
            prop_assert_eq!(meta.marks.last().unwrap().offset, meta.end);
            for mark in &meta.marks {
                let late = mark.unix_ms - times[(mark.offset.0 - 101) as usize];
                prop_assert!((0..MARK_INTERVAL_MS).contains(&late), "{} ms", late);
            }
            buffer.mark_stored(meta.end, meta.boundary);
        }
        prop_assert!(stored == bytes);
        prop_assert!(!buffer.has_data() && buffer.memory() == 0);
        drop(buffer);
        prop_assert!(spool.used() < 2 << 24, "what was stored is off the disk");
    }
}

/// A unit of the feed, and whether it is idle traffic.
fn unit(which: u8) -> (Vec<u8>, bool) {
    match which {
        0 => (command(&["PING"]), true),
        1 => (command(&["REPLCONF", "GETACK", "*"]), true),
        2 => (command(&["SET", "a", "1"]), false),
        3 => (command(&["SET", "large", &"v".repeat(40_000)]), false),
        _ => {
            let unit = [&["MULTI"][..], &["SET", "b", "2"], &["EXEC"]].map(command);
            (unit.concat(), false)
        }
    }
}

proptest! {
    /// Whatever comes in whichever pieces and is stored up to wherever: of what is not stored, the idle traffic before
    /// the next data is acknowledged, and nothing else.
    #[test]
    fn what_is_not_stored_is_acknowledged_only_if_it_is_idle(
        units in prop::collection::vec(0_u8..5, 1..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        stores in prop::collection::vec(any::<bool>(), 7),
        spools in any::<bool>(),
    ) {
        let units: Vec<(Vec<u8>, bool)> = units.into_iter().map(unit).collect();
        let feed: Vec<u8> = units.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let mut ends = vec![100];
        for (bytes, _) in &units {
            ends.push(ends[ends.len() - 1] + bytes.len() as u64);
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(feed.len() + 1)).collect();
        cuts.sort_unstable();
        let mut stores = stores.into_iter();
        let dir = tempfile::TempDir::new().unwrap();
        let config = crate::config::SpoolConfig { dir: dir.path().to_owned(), limit: 1 << 30 };
        let spool = crate::capture::spool::Spool::new(&config, &crate::monitoring::status::Status::new());
        let (mut buffer, mut from, mut stored) = (buffer(), 0, 100);
        for cut in cuts.into_iter().chain([feed.len()]) {
            push(&mut buffer, &feed[from..cut], 1);
            from = cut;
            let received = 100 + cut as u64;
            if stores.next().unwrap() && let Some(pending) = buffer.next_segment(1 << 20) {
                stored = pending.meta.end.0;
                buffer.mark_stored(pending.meta.end, pending.meta.boundary);
            }
            if spools && let Some(batch) = buffer.spoolable(Offset(0), 1, 1 << 20) {
                let record = spool.put(&batch.parts).unwrap();
                buffer.spooled(&batch, &record, 1 << 20);
            }
            let mut safe = stored;
            for ((_, idle), end) in units.iter().zip(&ends[1..]).filter(|(_, end)| **end > stored) {
                if !idle || *end > received {
                    break;
                }
                safe = *end;
            }
            prop_assert_eq!(buffer.acknowledge(false, false), Offset(safe.min(received - 1)));
        }
    }
}
