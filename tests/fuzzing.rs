//! What the fuzz targets check (`tests/fuzz/run.sh` runs them with libFuzzer), on seeds and what becomes of them by chance.
//!
//! `BACKFEED_FUZZ_RUNS=N` makes other than the usual number of inputs of each target.

#[path = "fuzz/bodies/mod.rs"]
pub mod bodies;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bodies::{TARGETS, values};

use crate::support::data::Random;

const RUNS: usize = 3000;

fn check_all(target: &str) {
    let (_, check, seeds) = TARGETS.iter().find(|(name, _, _)| *name == target).unwrap();
    let runs = std::env::var("BACKFEED_FUZZ_RUNS").map_or(RUNS, |runs| runs.parse().unwrap());
    let mut random = Random::new(1);
    let mut inputs = seeds();
    let seeds = inputs.len();
    for run in 0..seeds + runs {
        let input = match inputs.get(run) {
            Some(seed) => seed.clone(),
            None => changed(&inputs, &mut random),
        };
        let checked = catch_unwind(AssertUnwindSafe(|| check(&input)));
        assert!(
            checked.is_ok(),
            "{target}: run {run}, input {}",
            input.escape_ascii()
        );
        // What was changed is changed further.
        if run >= seeds && run % 8 == 0 && inputs.len() < seeds * 4 && input.len() < 4096 {
            inputs.push(input);
        }
    }
}

/// One of the inputs with a few bits, bytes or parts of it changed.
fn changed(inputs: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const EDGES: [u8; 10] = [0, 1, 0x3F, 0x40, 0x7F, 0x80, 0x81, 0xC3, 0xFE, 0xFF];
    let any = |random: &mut Random| inputs[random.below(inputs.len() as u64) as usize].clone();
    let mut input = any(random);
    for _ in 0..1 + random.below(4) {
        let length = input.len() as u64;
        if length < 2 {
            break;
        }
        let at = random.below(length) as usize;
        match random.below(8) {
            0 | 1 => input[at] ^= 1 << random.below(8),
            2 => input[at] = random.pick(&EDGES),
            3 => input[at] = random.next() as u8,
            4 => input.truncate(at),
            5 => {
                let end = at + random.below(length - at as u64) as usize;
                input.drain(at..end);
            }
            6 => {
                let end = at + random.below(length - at as u64) as usize;
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            _ => {
                let other = any(random);
                let from = random.below(other.len() as u64 + 1) as usize;
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input
}

#[test]
fn lzf_of_any_bytes_is_as_long_as_it_claims_or_refused() {
    check_all("lzf");
}

#[test]
fn rdbs_of_any_bytes_are_read_or_refused() {
    check_all("rdb");
}

#[test]
fn the_scanner_and_the_reader_of_feeds_agree() {
    check_all("resp");
}

#[test]
fn segments_of_any_bytes_are_read_or_refused() {
    check_all("segments");
}

#[test]
fn any_commands_leave_values_that_can_be_written_and_read() {
    check_all("apply");
}

/// Every truncation and every bit of whole RDBs.
#[test]
fn damaged_rdbs_are_errors() {
    for rdb in bodies::rdb::rdbs() {
        for mode in [0x00, 0x20, 0x40] {
            bodies::rdb::check(&[&[mode], &rdb[..]].concat());
        }
        for length in 0..rdb.len() {
            let cut = [&[0x27], &rdb[..length]].concat();
            bodies::rdb::check(&cut);
            assert!(!bodies::rdb::is_sound(&rdb[..length]), "cut at {length}");
        }
        for bit in 0..rdb.len() * 8 {
            let mut flipped = [&[0x28], &rdb[..]].concat();
            flipped[1 + bit / 8] ^= 1 << (bit % 8);
            bodies::rdb::check(&flipped);
            // From RDB 5 on there is a checksum; without its bytes being all zero it counts.
            if &rdb[..9] > b"REDIS0004".as_slice() {
                assert!(!bodies::rdb::is_sound(&flipped[1..]), "bit {bit}");
            }
        }
    }
    assert_memory_was_bounded();
}

/// What damaged bytes claim to hold must not be allocated. (Where each test is a process of its own.)
fn assert_memory_was_bounded() {
    const MOST_KIB: u64 = 256 << 10;
    if std::env::var_os("NEXTEST").is_none() {
        return;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.unwrap().trim().trim_end_matches(" kB");
    assert!(peak.parse::<u64>().unwrap() < MOST_KIB, "{peak} KiB");
}

/// Every truncation and every bit of every sample: decoded, or refused; and lengths that are claimed.
#[test]
fn damaged_values_are_errors() {
    let samples = values::samples();
    let kinds: std::collections::BTreeSet<u8> =
        samples.iter().map(|sample| sample.raw.kind).collect();
    // All that servers write, but a module's values (6, 7) and vector sets.
    let wanted: Vec<u8> = (0..=5).chain(9..=26).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), wanted);
    for sample in samples {
        let dialect = sample.dialect;
        assert!(values::check(&sample.raw, dialect), "{sample:?}");
        let payload = sample.raw.payload.clone();
        for length in 0..payload.len() {
            let mut raw = sample.raw.clone();
            raw.payload = payload[..length].into();
            assert!(!values::check(&raw, dialect), "{sample:?} cut at {length}");
        }
        for bit in 0..payload.len() * 8 {
            let mut raw = sample.raw.clone();
            raw.payload[bit / 8] ^= 1 << (bit % 8);
            values::check(&raw, dialect);
        }
        // A length of 4 GiB, or of 2^63, in the place of each byte.
        for at in 0..payload.len() {
            for claim in [
                &[0x80, 0xFF, 0xFF, 0xFF, 0xFF][..],
                &[0x81, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF],
            ] {
                let mut raw = sample.raw.clone();
                raw.payload = [&payload[..at], claim, &payload[at + 1..]].concat().into();
                values::check(&raw, dialect);
            }
        }
    }
    assert_memory_was_bounded();
}
