//! The figures of the README, side by side in one run: `cargo bench --bench figures [-- KEYS]`.
//!
//! Needs the test servers (`tests/servers.sh`). Prints ratios, as machines differ: a full sync by backfeed against
//! `redis-cli --rdb` of the same server, the most memory that either took, and `WAIT` against one object write.

#![allow(
    missing_docs,
    unused_imports,
    unused_macros,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used
)]

#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{BufWriter, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use support::{Backfeed, Server, Version};

/// About 1 GB of RDB.
const KEYS: usize = 9_000_000;
const VALUE: usize = 100;
const ROUNDS: usize = 3;
const WAITS: usize = 500;

fn main() {
    let keys = std::env::args()
        .skip(1)
        .find_map(|arg| arg.parse().ok())
        .unwrap_or(KEYS);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!(
        "machine: {cores} cores; {keys} keys of {VALUE} random bytes, Redis 7.0, diskless sync\n"
    );
    let home = TempDir::new().unwrap();
    let redis = Server::start(
        Version::Redis70,
        &[
            "--repl-diskless-sync",
            "yes",
            "--repl-diskless-sync-delay",
            "0",
        ],
    );
    fill(&redis, keys);
    full_sync(&redis, home.path());
    wait(&redis, home.path());
}

/// A full sync: `backfeed backup --once` against `redis-cli --rdb`, in turn.
fn full_sync(redis: &Server, home: &Path) {
    println!(
        "full sync        backfeed   redis-cli --rdb   ratio   peak RSS   peak RSS of redis-cli"
    );
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let store = home.join(format!("bucket-{round}"));
        let mut ours = Command::new(env!("CARGO_BIN_EXE_backfeed"));
        ours.args(["backup", "--once", "--redis", &redis.url(), "--store"])
            .arg(format!("file://{}", store.display()));
        let file = home.join("dump.rdb");
        let mut theirs = Command::new(redis.version().program("cli"));
        theirs
            .args(["-p", &redis.port().to_string(), "--rdb"])
            .arg(&file);
        let (our_time, our_memory) = measure(&mut ours);
        let (their_time, their_memory) = measure(&mut theirs);
        let ratio = our_time.as_secs_f64() / their_time.as_secs_f64();
        ratios.push(ratio);
        println!(
            "  round {round}        {:6.2} s          {:6.2} s    {ratio:4.2}   {:4} MiB               {:4} MiB",
            our_time.as_secs_f64(),
            their_time.as_secs_f64(),
            our_memory / 1024,
            their_memory / 1024
        );
        let (raw, stored) = (size(&file), size(&store));
        if round == 0 {
            println!(
                "  stored: {stored} bytes of {raw} ({:.2})",
                stored as f64 / raw as f64
            );
        }
        std::fs::remove_dir_all(&store).unwrap();
    }
    ratios.sort_by(f64::total_cmp);
    println!("  median ratio {:.2}\n", ratios[ratios.len() / 2]);
}

/// `WAIT 1` after a write against one durable object of that size on the same disk, in turn.
fn wait(redis: &Server, home: &Path) {
    let store = home.join("bucket-wait");
    let backfeed = Backfeed::backup(
        &redis.url(),
        &format!("file://{}", store.display()),
        &["--flush-interval", "60s"],
    );
    backfeed.wait_following();
    let (mut waits, mut writes) = (Vec::new(), Vec::new());
    let mut connection = redis.connect();
    for n in 0..WAITS {
        let _: () = redis::cmd("SET")
            .arg("waited")
            .arg(n)
            .query(&mut connection)
            .unwrap();
        let begun = Instant::now();
        let replicas: u32 = redis::cmd("WAIT")
            .arg(1)
            .arg(10_000)
            .query(&mut connection)
            .unwrap();
        waits.push(begun.elapsed());
        assert_eq!(replicas, 1);
        let begun = Instant::now();
        write_object(home, n);
        writes.push(begun.elapsed());
    }
    let (wait, write) = (median(&mut waits), median(&mut writes));
    println!("WAIT 1 (median of {WAITS})   {wait:?}");
    println!("one object written     {write:?}  (file, fsync, link, fsync of the directory)");
    println!("  ratio {:.2}", wait.as_secs_f64() / write.as_secs_f64());
}

/// What an object costs at least on this disk: a file that is durable, and a name that is.
fn write_object(home: &Path, n: usize) {
    let (temporary, name) = (home.join("object.tmp"), home.join(format!("object-{n}")));
    let mut file = std::fs::File::create(&temporary).unwrap();
    file.write_all(&[b'x'; 400]).unwrap();
    file.sync_all().unwrap();
    std::fs::hard_link(&temporary, &name).unwrap();
    std::fs::File::open(home).unwrap().sync_all().unwrap();
    std::fs::remove_file(&temporary).unwrap();
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
    let status =
        std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
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
