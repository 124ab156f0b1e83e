//! Everything may be killed at any moment: what was acknowledged is there again, and nothing is torn.
//!
//! `BACKFEED_CRASH_ROUNDS` (default 60) is the number of rounds of all versions together; `BACKFEED_CRASH_SEED` repeats the
//! choices of a run that failed (its output names the seed; the machine's own timing is not repeated). Of many rounds:
//! `BACKFEED_CRASH_ROUNDS=1000 cargo test --test all crash::kill -- --nocapture`.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Backfeed, Ledger, Rng, Server, Version, free_port, list, run};

/// A Redis without persistence, and backfeed beside it.
struct Pod {
    redis: Server,
    backfeed: Backfeed,
    store: String,
    _home: TempDir,
}

impl Pod {
    fn start(version: Version, more: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let listen = free_port();
        let redis = Server::builder(version)
            .port(free_port())
            .replicaof("127.0.0.1", listen)
            .start();
        let backfeed = Backfeed::sidecar(&redis.url(), &store, listen, more);
        Self {
            redis,
            backfeed,
            store,
            _home: home,
        }
    }

    /// A fresh one, as after the deletion of a pod.
    fn start_redis(&mut self, keep_files: bool) {
        if !keep_files {
            fs::remove_dir_all(self.redis.dir()).unwrap();
            fs::create_dir_all(self.redis.dir()).unwrap();
        }
        self.redis.restart();
    }

    /// One lineage, one full sync; the number of histories.
    fn check_lineage(&self) -> usize {
        check_lineage(&list(&self.store))
    }

    /// What backfeed said, over all its lives.
    fn full_syncs(&self) -> usize {
        self.backfeed.log().matches("first full sync of").count()
            + self.backfeed.log().matches("a new full sync").count()
    }
}

/// One chain of parents without a branch, and one base in all of it.
fn check_lineage(listing: &Value) -> usize {
    let histories = listing["histories"].as_array().unwrap();
    let by_id: HashMap<&str, &Value> = histories
        .iter()
        .map(|history| (history["id"].as_str().unwrap(), history))
        .collect();
    let bases: usize = histories
        .iter()
        .map(|history| history["bases"].as_array().unwrap().len())
        .sum();
    assert_eq!(bases, 1, "one full sync in all: {listing:#}");
    assert_eq!(listing["ambiguous"], serde_json::json!([]), "{listing:#}");
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
    assert_eq!(listing["unreadable"], serde_json::json!({}), "{listing:#}");
    let mut next = listing["latest"].as_str();
    let mut seen = 0;
    while let Some(id) = next {
        let history = by_id[id];
        seen += 1;
        assert!(seen <= histories.len(), "a cycle: {listing:#}");
        assert_eq!(history["problems"], serde_json::json!([]), "{listing:#}");
        assert_eq!(history["previous"], Value::Null, "{listing:#}");
        assert_eq!(history["sealed"] == Value::Null, history["tip"] == true);
        next = history["parent"]["history"].as_str();
    }
    assert_eq!(seen, histories.len(), "all in one chain: {listing:#}");
    seen
}

/// Restores the store to a fresh server of the same version, which must then hold what `redis` holds.
fn check_restore(store: &str, redis: &Server, more: &[&str]) {
    let copy = Server::start(redis.version(), &[]);
    let url = copy.url();
    let args = [&["restore", "--store", store, "--to", &url], more].concat();
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(copy.debug_digest(), redis.debug_digest());
}

fn seed() -> u64 {
    match std::env::var("BACKFEED_CRASH_SEED") {
        Ok(text) => text.parse().expect("BACKFEED_CRASH_SEED is a number"),
        Err(_) => {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            u64::from(since.subsec_nanos()) ^ since.as_secs()
        }
    }
}

fn rounds() -> u64 {
    let total: u64 = match std::env::var("BACKFEED_CRASH_ROUNDS") {
        Ok(text) => text.parse().expect("BACKFEED_CRASH_ROUNDS is a number"),
        Err(_) => 60,
    };
    total.div_ceil(3)
}

#[test]
fn kill_9_at_any_moment_on_redis_7_0() {
    kill_9_at_any_moment(Version::Redis70);
}

#[test]
fn kill_9_at_any_moment_on_redis_8_6() {
    kill_9_at_any_moment(Version::Redis86);
}

#[test]
fn kill_9_at_any_moment_on_valkey_9_1() {
    kill_9_at_any_moment(Version::Valkey91);
}

fn kill_9_at_any_moment(version: Version) {
    let (seed, rounds) = (seed(), rounds());
    eprintln!("{version}: {rounds} rounds; BACKFEED_CRASH_SEED={seed} repeats its choices");
    let begun = Instant::now();
    let mut rng = Rng::new(seed ^ u64::from(version.name().as_bytes()[0]) << 32);
    let interval = ["20ms", "200ms", "1s"][rng.below(3) as usize];
    let mut pod = Pod::start(version, &["--flush-interval", interval]);
    let ledger = Ledger::start(pod.redis.port(), rng.next(), 1);
    ledger.wait_acked("the first ones");
    let mut killed = (0, 0);
    for round in 0..rounds {
        // Under load, or while the last round's victims still come up.
        let loaded = !rng.one_in(3);
        if loaded {
            ledger.wait_acked(&format!("before round {round}"));
        }
        thread::sleep(rng.millis(if loaded { 120 } else { 1600 }));
        let (kill_redis, kill_backfeed) =
            [(true, true), (true, true), (true, false), (false, true)][rng.below(4) as usize];
        killed.0 += u64::from(kill_redis);
        killed.1 += u64::from(kill_backfeed);
        let redis_first = rng.one_in(2);
        let (between, away) = (rng.millis(30), rng.millis(250));
        if kill_redis && redis_first {
            pod.redis.kill9();
            thread::sleep(between);
        }
        if kill_backfeed {
            pod.backfeed.kill9();
            thread::sleep(between);
        }
        if kill_redis {
            pod.redis.kill9();
        }
        thread::sleep(away);
        let keep_files = rng.one_in(5);
        if kill_redis && rng.one_in(2) {
            pod.start_redis(keep_files);
            thread::sleep(between);
        }
        if kill_backfeed {
            pod.backfeed.restart();
            thread::sleep(between);
        }
        if kill_redis && !pod.redis.is_running() {
            pod.start_redis(keep_files);
        }
        ledger.progress();
        if loaded {
            pod.check_lineage();
        }
    }
    ledger.wait_acked("after the last round");
    let progress = ledger.stop();
    pod.backfeed.sigterm();
    let histories = pod.check_lineage();
    check_restore(&pod.store, &pod.redis, &[]);
    assert_eq!(pod.full_syncs(), 1, "full syncs in all lives of backfeed");
    assert_eq!(pod.redis.info("stats")["sync_full"], "0");
    assert!(progress.servers > 1 && progress.checks >= progress.servers);
    eprintln!(
        "{version}: Redis killed {} times, backfeed {} times, in {:.0?}; {histories} histories; {progress:?}",
        killed.0,
        killed.1,
        begun.elapsed()
    );
}
