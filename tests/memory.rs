//! The memory of the whole process: a sidecar with nothing but its defaults lives in the limit of its pod, round after round.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::cgroup::{Cgroup, memory_of, reset_peak};
use crate::support::{Backfeed, Env, Server, Version, free_port, on, wait_until};

const MIB: u64 = 1 << 20;
/// What the manifests give it.
const POD: u64 = 256 * MIB;
/// What it takes at most when nothing happens.
const REST: u64 = 100 * MIB;
const KEYS: usize = 110_000;
const VALUE: usize = 1000;

/// `BACKFEED_MEMORY_ROUNDS=N` runs longer.
fn rounds() -> usize {
    std::env::var("BACKFEED_MEMORY_ROUNDS").map_or(3, |text| text.parse().expect("a number"))
}

/// Every key anew, with a value that does not compress.
fn write_all(server: &Server, round: usize) {
    let mut connection = server.connect();
    let mut seed = round as u64 + 1;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let noise: Vec<u8> = (0..1 << 17).map(|_| next() as u8).collect();
    for batch in 0..KEYS / 1000 {
        let mut pipe = redis::pipe();
        for key in batch * 1000..(batch + 1) * 1000 {
            let at = next() as usize % (noise.len() - VALUE);
            let name = format!("entry:{key}");
            pipe.cmd("SET")
                .arg(name)
                .arg(&noise[at..at + VALUE])
                .ignore();
        }
        pipe.exec(&mut connection).unwrap();
    }
}

/// The Guestbook's pod, with more log than memory: all keys are written twice before a base is made, again and again; the pod's Redis
/// goes, and a fresh one is given everything.
fn a_pod_lives_within_its_limit(version: Version) {
    let cgroup = Cgroup::with_memory(POD);
    let home = TempDir::new().unwrap();
    let listen = free_port();
    let store = format!("file://{}/bucket", home.path().display());
    let mut redis = Server::builder(version)
        .replicaof("127.0.0.1", listen)
        .arg("repl-backlog-size", "64mb")
        .arg("client-output-buffer-limit", "replica 0 0 0")
        .start();
    let (url, address) = (redis.url(), format!("127.0.0.1:{listen}"));
    let mut args = vec![
        "sidecar",
        "--redis",
        &url,
        "--store",
        &store,
        "--listen",
        &address,
        "--consolidate-every",
        "3s",
    ];
    let preamble = match &cgroup {
        Ok(cgroup) => Some(cgroup.preamble()),
        Err(reason) => {
            eprintln!(
                "no cgroup can be made here ({reason}): --memory-budget stands in for its limit"
            );
            args.extend(["--memory-budget", "256MiB"]);
            None
        }
    };
    let mut backfeed = Backfeed::start_after(preamble.as_deref(), Env::new(), &args);
    wait_until("Redis is a master", PATIENCE, || {
        redis.info("replication")["role"] == "master"
    });
    let (mut peaks, mut rests) = (Vec::new(), Vec::new());
    for round in 0..rounds() {
        reset_peak(backfeed.pid());
        write_all(&redis, 2 * round);
        write_all(&redis, 2 * round + 1);
        let end = redis.position().1;
        wait_until("a base stands behind it", 4 * PATIENCE, || {
            assert!(backfeed.is_running(), "{}", backfeed.log());
            let view = backfeed.readyz();
            view.and_then(|view| view["base_offset"].as_u64())
                .is_some_and(|at| at >= end)
        });
        let (wanted, digest) = (KEYS.to_string(), redis.debug_digest());
        backfeed.wait_captured(&redis);
        redis.kill9();
        fs::remove_dir_all(redis.dir()).unwrap();
        fs::create_dir(redis.dir()).unwrap();
        redis.restart();
        wait_until("the next Redis has everything", PATIENCE, || {
            redis.info("replication")["role"] == "master"
        });
        assert_eq!(redis.text(&["DBSIZE"]), wanted, "{version}");
        assert_eq!(redis.debug_digest(), digest, "{version}");
        assert!(backfeed.is_running(), "{}", backfeed.log());
        let peak = memory_of(backfeed.pid(), "VmHWM").unwrap();
        eprintln!("{version}, round {round}: at most {} MiB", peak / MIB);
        assert!(
            peak < POD - POD / 16,
            "{version}, round {round}: {peak}, {peaks:?}"
        );
        peaks.push(peak);
        // What a round has taken comes back, and nothing of it stays: a peak says less, because it depends on how much log a base
        // finds.
        let rest = || memory_of(backfeed.pid(), "RssAnon").unwrap();
        let allowed = rests
            .first()
            .map_or(REST, |first| first + first / 8 + 8 * MIB);
        wait_until("memory is given back", Duration::from_secs(60), || {
            rest() < allowed
        });
        rests.push(rest());
        eprintln!("{version}, round {round}: {} MiB at rest", rest() / MIB);
    }
    assert_eq!(backfeed.sigterm(), 0);
    drop(backfeed);
    drop(cgroup);
}

on!(a_pod_lives_within_its_limit: redis_86 = Redis86, valkey_91 = Valkey91);
