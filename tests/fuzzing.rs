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

/// Every truncation and every bit of every sample: decoded, or refused.
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
    }
}
