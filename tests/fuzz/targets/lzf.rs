#![no_main]

#[path = "../bodies/mod.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(
    init: bodies::write_seeds("lzf"),
    |data: &[u8]| bodies::lzf::check(data)
);
