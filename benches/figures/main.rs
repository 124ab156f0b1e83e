//! The figures of docs/figures.md, side by side in one run: `cargo bench --bench figures [-- PART…] [KEYS]`.
//!
//! Needs the test servers (`tests/servers.sh`). Prints ratios, as machines differ. The parts, all if none is named:
//!
//! - `full-sync`: `backup --once` against `redis-cli --rdb` of the same server, wall time and most memory; to a directory and
//!   to an emulator of Google Cloud Storage
//! - `master`: what a server does at full load alone, with a replica, and with backfeed; and what backfeed takes for it
//! - `many`: `serve` with 200 idle sources; and with 20 busy ones, against 20 processes of `backup`
//! - `wait`: `WAIT 1` after a write against one object write on the same store
//! - `restore`: a restore to a server against the server's own load of the same RDB
//! - `apply`: the commands of a log, applied, against a server's load of the same as its append-only file
//! - `beside`: `WAIT` and a server's full load while bases are made beside the capture, against the capture alone
//! - `boot`: a sidecar's boot and a restore with 0, 3,600 and 100,000 segments behind the base (no more than KEYS), against a store whose
//!   answers come 0, 30, 50 and 100 ms late; and what is asked of the store
//! - `served-log`: a restore of a base and its log, replayed and as one RDB, against a server's own load of the final RDB
//! - `long-log`: what each verb takes on a directory with KEYS segments behind the base, and again when they are merged
//! - `consolidate`: a new base against a server that loads base and log and saves; a walk over an RDB against its checker

#![allow(
    missing_docs,
    clippy::disallowed_methods,
    unused_imports,
    unused_macros,
    unreachable_pub,
    dead_code,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod apply;
mod beside;
mod boot;
mod consolidate;
mod full_sync;
mod long_log;
mod many;
mod master;
mod restore;
mod served_log;
#[path = "../../tests/support/mod.rs"]
mod support;
mod wait;

use std::io::{BufWriter, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use support::{Env, Gcs, Server, Version};

/// About 0.6 GB of RDB.
const KEYS: usize = 5_000_000;
const VALUE: usize = 100;
const ROUNDS: usize = 3;
const PARTS: [&str; 11] = [
    "full-sync",
    "master",
    "many",
    "wait",
    "restore",
    "apply",
    "beside",
    "boot",
    "served-log",
    "long-log",
    "consolidate",
];

fn main() {
    let (mut keys, mut parts) = (KEYS, Vec::new());
    for arg in std::env::args().skip(1).filter(|arg| arg != "--bench") {
        match arg.parse() {
            Ok(number) => keys = number,
            Err(_) => parts.push(arg),
        }
    }
    for part in &parts {
        assert!(
            PARTS.contains(&part.as_str()),
            "{part} is none of {PARTS:?}"
        );
    }
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|it| it == part);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("machine: {cores} cores; Redis 7.0, diskless sync\n");
    if wanted("full-sync") || wanted("restore") {
        let redis = redis();
        fill(&redis, keys);
        println!("{keys} keys of {VALUE} random bytes");
        if wanted("full-sync") {
            for store in Place::all() {
                full_sync::run(&redis, &store);
            }
        }
        if wanted("restore") {
            restore::run(&redis, &Place::directory());
        }
    }
    if wanted("wait") {
        for store in Place::all() {
            wait::run(&redis(), &store);
        }
    }
    if wanted("apply") {
        apply::run(&Place::directory(), keys);
    }
    if wanted("beside") {
        beside::run(&Place::directory(), keys);
    }
    if wanted("boot") {
        boot::run(keys);
    }
    if wanted("served-log") {
        served_log::run(keys);
    }
    if wanted("long-log") {
        // As many as a year of one write in 30 s has.
        long_log::run(keys.min(1_000_000));
    }
    if wanted("consolidate") {
        consolidate::run(&Place::directory(), keys);
    }
    if wanted("master") {
        master::run(&Place::directory());
    }
    if wanted("many") {
        many::run();
    }
}

fn redis() -> Server {
    let diskless = [
        "--repl-diskless-sync",
        "yes",
        "--repl-diskless-sync-delay",
        "0",
    ];
    Server::start(Version::Redis70, &diskless)
}

/// Where a store lies.
struct Place {
    name: &'static str,
    home: TempDir,
    gcs: Option<Gcs>,
}

impl Place {
    fn directory() -> Self {
        Self {
            name: "file://",
            home: TempDir::new().unwrap(),
            gcs: None,
        }
    }

    fn all() -> [Self; 2] {
        let emulator = Self {
            name: "gs:// (emulator)",
            gcs: Some(Gcs::start("bucket")),
            ..Self::directory()
        };
        [Self::directory(), emulator]
    }

    fn url(&self, name: &str) -> String {
        match self.gcs {
            Some(_) => format!("gs://bucket/{name}"),
            None => format!("file://{}/{name}", self.home.path().display()),
        }
    }

    fn env(&self) -> Env {
        let direct = |gcs: &Gcs| ("STORAGE_EMULATOR_HOST", gcs.direct_host());
        self.gcs.iter().map(direct).collect()
    }

    /// Bytes on the disk under a URL.
    fn size(&self, name: &str) -> u64 {
        size(&self.path(name))
    }

    fn path(&self, name: &str) -> PathBuf {
        match &self.gcs {
            Some(gcs) => gcs.directory().join("bucket").join(name),
            None => self.home.path().join(name),
        }
    }
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

fn middle(numbers: &mut [f64]) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// Wall time, and the most resident memory in KiB.
fn measure(command: &mut Command) -> (Duration, u64) {
    let begun = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut peak = 0;
    loop {
        peak = peak.max(peak_memory(&child));
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{command:?}: {status}");
            return (begun.elapsed(), peak);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn peak_memory(child: &Child) -> u64 {
    peak_memory_of(child.id())
}

fn peak_memory_of(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn size(path: &Path) -> u64 {
    if path.is_dir() {
        return std::fs::read_dir(path)
            .unwrap()
            .map(|entry| size(&entry.unwrap().path()))
            .sum();
    }
    path.metadata().unwrap().len()
}

/// Random values, as values that compress well would flatter us.
fn fill(redis: &Server, keys: usize) {
    let stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    let mut replies = stream.try_clone().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut replies, &mut std::io::sink()));
    let mut out = BufWriter::with_capacity(1 << 20, &stream);
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut value = [0u8; VALUE];
    for n in 0..keys {
        for chunk in value.chunks_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
        }
        let key = format!("key:{n}");
        write!(
            out,
            "*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE}\r\n",
            key.len()
        )
        .unwrap();
        out.write_all(&value).unwrap();
        out.write_all(b"\r\n").unwrap();
    }
    out.flush().unwrap();
    drop(out);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drain.join().unwrap().unwrap();
    assert_eq!(redis.text(&["DBSIZE"]), keys.to_string());
}
