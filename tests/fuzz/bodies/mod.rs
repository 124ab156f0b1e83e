//! What is done with arbitrary bytes, and what must hold. The fuzz targets and the ordinary tests have it in common.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

pub mod apply;
pub mod lzf;
pub mod rdb;
pub mod resp;
pub mod segments;
pub mod values;

/// A target: its name, what it checks, the inputs that it begins with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// All of them.
pub const TARGETS: [Target; 5] = [
    ("lzf", lzf::check, lzf::seeds),
    ("rdb", rdb::check, rdb::seeds),
    ("resp", resp::check, resp::seeds),
    ("segments", segments::check, segments::seeds),
    ("apply", apply::check, apply::seeds),
];

/// The input's first byte, which chooses how the rest is taken, and the rest.
fn choice(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(first, rest)| (*first, rest))
}

/// With `BACKFEED_FUZZ_SEEDS=DIR`, writes the inputs that a target begins with to `DIR/<target>/`, the dictionary of
/// commands beside them, and ends the process.
#[allow(clippy::disallowed_methods)] // of the tests alone
pub fn write_seeds(target: &str) {
    let Some(home) = std::env::var_os("BACKFEED_FUZZ_SEEDS").map(std::path::PathBuf::from) else {
        return;
    };
    let (_, _, seeds) = TARGETS.iter().find(|(name, _, _)| *name == target).unwrap();
    std::fs::create_dir_all(home.join(target)).unwrap();
    for (number, seed) in seeds().iter().enumerate() {
        std::fs::write(home.join(target).join(format!("seed-{number}")), seed).unwrap();
    }
    let words = apply::words();
    let lines = words.iter().map(|word| format!("\"{word}\"\n"));
    std::fs::write(home.join("apply.dict"), lines.collect::<String>()).unwrap();
    std::process::exit(0);
}
