//! Everything may be killed at any moment: what was acknowledged is there again, and nothing is torn.
//!
//! `BACKFEED_CRASH_ROUNDS` (default 60) is the number of rounds of all versions together; `BACKFEED_CRASH_SEED` repeats the
//! choices of a run that failed (its output names the seed; the machine's own timing is not repeated). Of many rounds:
//! `BACKFEED_CRASH_ROUNDS=1000 cargo test --test all crash::kill -- --nocapture`.

use std::collections::HashMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Backfeed, Env, Fault, Gcs, Ledger, Proxy, Random, Server, Version, free_port, last_unit, list,
    list_with, run, run_with, wait_until,
};

/// A Redis without persistence, and backfeed beside it.
struct Pod {
    redis: Server,
    backfeed: Backfeed,
    store: String,
    env: Env,
    _home: TempDir,
}

impl Pod {
    fn start(version: Version, more: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        Self::start_on(version, home, store, Env::new(), more)
    }

    /// With its store in an emulator of Google Cloud Storage.
    fn start_on_gcs(version: Version, gcs: &Gcs, more: &[&str]) -> Self {
        let env = vec![("STORAGE_EMULATOR_HOST", gcs.host())];
        let store = "gs://bucket/pod".to_owned();
        Self::start_on(version, TempDir::new().unwrap(), store, env, more)
    }

    fn start_on(version: Version, home: TempDir, store: String, env: Env, more: &[&str]) -> Self {
        let listen = free_port();
        let redis = Server::builder(version)
            .port(free_port())
            .replicaof("127.0.0.1", listen)
            .start();
        let backfeed = Backfeed::sidecar_with(env.clone(), &redis.url(), &store, listen, more);
        Self {
            redis,
            backfeed,
            store,
            env,
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
        check_lineage(&list_with(&self.env, &self.store), Moment::Settled)
    }

    /// The same at any moment.
    fn check_lineage_now(&self) -> usize {
        check_lineage(&list_with(&self.env, &self.store), Moment::Any)
    }

    /// A fresh server that is given everything holds what ours holds.
    fn check_restore(&self) {
        let copy = Server::start(self.redis.version(), &[]);
        let url = copy.url();
        let args = ["restore", "--store", &self.store, "--to", &url];
        let output = run_with(&self.env, &args);
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(copy.debug_digest(), self.redis.debug_digest());
    }

    /// What backfeed said, over all its lives.
    fn full_syncs(&self) -> usize {
        self.backfeed.log().matches("first full sync of").count()
            + self.backfeed.log().matches("a new full sync").count()
    }
}

/// When a store is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Redis is captured.
    Settled,
    /// A restore may be going on: its history is sealed, and no other one continues it yet.
    Any,
}

/// One chain of parents without a branch, and one base in all of it.
fn check_lineage(listing: &Value, moment: Moment) -> usize {
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
        let (is_open, is_tip) = (history["sealed"] == Value::Null, history["tip"] == true);
        assert!(
            is_open == is_tip || (is_tip && moment == Moment::Any),
            "{listing:#}"
        );
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

/// The store is killed and cut as well.
#[test]
fn kill_9_at_any_moment_on_google_cloud_storage() {
    // Each round may wait for retries.
    kill_9(Version::Redis70, Some(Gcs::start("bucket")), rounds() / 2);
}

fn kill_9_at_any_moment(version: Version) {
    kill_9(version, None, rounds());
}

fn kill_9(version: Version, mut gcs: Option<Gcs>, rounds: u64) {
    let seed = seed();
    eprintln!("{version}: {rounds} rounds; BACKFEED_CRASH_SEED={seed} repeats its choices");
    let begun = Instant::now();
    let mut rng = Random::new(seed ^ u64::from(version.name().as_bytes()[0]) << 32);
    let interval = ["20ms", "200ms", "1s"][rng.below(3) as usize];
    let flush = ["--flush-interval", interval];
    let mut pod = match &gcs {
        Some(gcs) => Pod::start_on_gcs(version, gcs, &flush),
        None => Pod::start(version, &flush),
    };
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
        if let Some(gcs) = &mut gcs {
            harm(gcs, &mut rng);
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
        if let Some(gcs) = &mut gcs {
            gcs.heal();
            gcs.restart();
        }
        ledger.progress();
        if loaded {
            pod.check_lineage_now();
        }
    }
    ledger.wait_acked("after the last round");
    let progress = ledger.stop();
    // What Redis has executed may not have come to backfeed yet.
    pod.backfeed.wait_captured(&pod.redis);
    pod.backfeed.sigterm();
    let histories = pod.check_lineage();
    pod.check_restore();
    // It began with an empty base.
    assert_eq!(pod.full_syncs(), 0, "full syncs in all lives of backfeed");
    assert_eq!(pod.redis.info("stats")["sync_full"], "0");
    assert!(progress.servers > 1 && progress.checks >= progress.servers);
    eprintln!(
        "{version}: Redis killed {} times, backfeed {} times, in {:.0?}; {histories} histories; {progress:?}",
        killed.0,
        killed.1,
        begun.elapsed()
    );
}

/// Something happens to the store, for a while.
fn harm(gcs: &mut Gcs, rng: &mut Random) {
    match rng.below(6) {
        0 | 1 => gcs.kill(),
        2 => gcs.fault("POST", "/upload/", 3, Fault::Lost(503)),
        3 => gcs.fault("POST", "/upload/", 3, Fault::CutRequest),
        4 => gcs.fault("GET", "/o", 3, Fault::CutAnswer(100)),
        _ => gcs.fault("POST", "/upload/", 3, Fault::Status(429, Some(1))),
    }
}

/// Stored first, then served: what backfeed has received is there again, acknowledged or not.
#[test]
fn redis_alone_dies_under_load_and_all_that_was_received_is_served_to_the_next() {
    let mut pod = Pod::start(Version::Redis70, &["--flush-interval", "60s"]);
    let pid = pod.backfeed.pid();
    let mut written = 0;
    for round in 0..5 {
        pod.backfeed.wait("it follows the promoted Redis", |view| {
            view["phase"] == "following" && view["promoted"] == true
        });
        let mut connection = pod.redis.connect();
        for _ in 0..300 {
            let _: () = redis::cmd("RPUSH")
                .arg("list")
                .arg(written)
                .query(&mut connection)
                .unwrap();
            written += 1;
        }
        let (id, offset) = pod.redis.position();
        pod.backfeed.wait("it has received everything", |view| {
            view["history"] == id.as_str() && view["received_offset"] == offset
        });
        assert_ne!(
            pod.backfeed.readyz().unwrap()["lag_bytes"],
            0,
            "nothing of it is stored yet"
        );
        pod.redis.kill9();
        pod.start_redis(false);
        wait_until(
            "the fresh Redis is a master",
            Duration::from_secs(60),
            || pod.redis.info("replication")["role"] == "master",
        );
        let list: Vec<u64> = redis::cmd("LRANGE")
            .arg("list")
            .arg(0)
            .arg(-1)
            .query(&mut pod.redis.connect())
            .unwrap();
        assert_eq!(list, (0..written).collect::<Vec<_>>(), "round {round}");
    }
    assert_eq!(pod.backfeed.pid(), pid, "backfeed lived throughout");
    assert_eq!(pod.backfeed.metric("backfeed_full_syncs_total"), 0.0);
    pod.backfeed.wait_following();
    // The first is that of the empty base.
    assert_eq!(pod.check_lineage(), 7);
    assert_eq!(pod.redis.info("stats")["sync_full"], "0");
}

#[test]
fn backfeed_alone_dies_under_load_and_continues_the_feed() {
    let mut rng = Random::new(seed());
    let mut pod = Pod::start(Version::Redis70, &["--flush-interval", "100ms"]);
    let ledger = Ledger::start(pod.redis.port(), rng.next(), 1);
    let kills = 8;
    for round in 0..kills {
        ledger.wait_acked(&format!("before kill {round}"));
        thread::sleep(rng.millis(150));
        pod.backfeed.kill9();
        thread::sleep(rng.millis(300));
        pod.backfeed.restart();
    }
    ledger.wait_acked("after the last kill");
    let progress = ledger.stop();
    assert_eq!(
        progress.servers, 1,
        "Redis lived throughout, and served everybody"
    );
    let stats = pod.redis.info("stats");
    assert_eq!(stats["sync_full"], "0");
    assert!(stats["sync_partial_ok"].parse::<u64>().unwrap() >= kills);
    assert_eq!(
        pod.check_lineage(),
        2,
        "the history goes on after the empty base"
    );
    let (_, offset) = pod.redis.position();
    pod.backfeed.wait("all is received", |view| {
        view["received_offset"] == offset && view["lag_bytes"] == 0
    });
    check_restore(&pod.store, &pod.redis, &[]);
}

/// The default grace time is 10 s; what is said to end at once must not use it up.
const AT_ONCE: Duration = Duration::from_secs(6);

#[track_caller]
fn sigterm_at_once(backfeed: &mut Backfeed) {
    let begun = Instant::now();
    let code = backfeed.sigterm();
    assert_eq!(code, 0, "{}", backfeed.log());
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

#[test]
fn sigterm_while_there_is_no_redis_or_no_store() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let waiting = |backfeed: &Backfeed, phase: &str| {
        backfeed.wait(phase, |view| view["phase"] == phase);
    };
    let mut sidecar = Backfeed::sidecar(&nobody, &store, free_port(), &[]);
    waiting(&sidecar, "waiting_for_redis");
    sigterm_at_once(&mut sidecar);
    let mut backup = Backfeed::backup(&nobody, &store, &[]);
    waiting(&backup, "waiting_for_redis");
    sigterm_at_once(&mut backup);

    let listen = free_port();
    let redis = Server::builder(Version::Redis70)
        .replicaof("127.0.0.1", listen)
        .start();
    let blocked = home.path().join("a file");
    fs::write(&blocked, "").unwrap();
    let away = format!("file://{}/bucket", blocked.display());
    let mut sidecar = Backfeed::sidecar(&redis.url(), &away, listen, &[]);
    waiting(&sidecar, "waiting_for_store");
    sigterm_at_once(&mut sidecar);
    assert_eq!(
        redis.info("replication")["role"],
        "slave",
        "never opened without its data"
    );
}

#[test]
fn sigterm_during_a_full_sync_leaves_no_half_snapshot() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let redis = Server::start(Version::Redis70, &[]);
    redis.cmd(&["DEBUG", "POPULATE", "40000", "key", "500"]);
    // Microseconds for each key: this takes 20 s.
    redis.cmd(&["CONFIG", "SET", "rdb-key-save-delay", "500"]);
    let mut backfeed = Backfeed::backup(&redis.url(), &store, &[]);
    backfeed.wait("the snapshot comes", |view| view["phase"] == "full_sync");
    wait_until(
        "some of the snapshot is here",
        Duration::from_secs(30),
        || backfeed.metric("backfeed_received_bytes_total") > 100_000.0,
    );
    sigterm_at_once(&mut backfeed);
    let bases = |listing: &Value| -> usize {
        let histories = listing["histories"].as_array().unwrap();
        histories
            .iter()
            .map(|history| history["bases"].as_array().unwrap().len())
            .sum()
    };
    assert_eq!(bases(&list(&store)), 0);
    assert_eq!(
        run(&["restore", "--store", &store, "--to", "aof:/nowhere"]).code,
        6,
        "nothing to restore"
    );

    redis.cmd(&["CONFIG", "SET", "rdb-key-save-delay", "0"]);
    backfeed.restart();
    backfeed.wait("the snapshot is stored", |_| {
        backfeed.metric("backfeed_full_syncs_total") >= 1.0
    });
    check_restore(&store, &redis, &[]);
}

/// The end of everything: what was received before SIGTERM is stored, and acknowledged before the link is closed.
#[test]
fn sigterm_while_following_stores_and_acknowledges_what_was_received() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let redis = Server::start(Version::Redis70, &["--repl-backlog-size", "64mb"]);
    let proxy = Proxy::to(redis.port());
    let mut backfeed = Backfeed::backup(&proxy.url(), &store, &["--flush-interval", "60s"]);
    backfeed.wait_following();
    let stored = |listing: &Value| {
        listing["histories"][0]["restorable"][0]["to_offset"]
            .as_u64()
            .unwrap()
    };
    let seed = seed();
    let ledger = Ledger::start(redis.port(), seed, 0);
    for _ in 0..3 {
        let start = stored(&list(&store));
        backfeed.wait("there is something in memory", |view| {
            view["received_offset"].as_u64() > Some(start + 200_000)
        });
        let received = backfeed.readyz().unwrap()["received_offset"]
            .as_u64()
            .unwrap();
        sigterm_at_once(&mut backfeed);
        let stored = stored(&list(&store));
        // The last thing received may be a part of a long transaction.
        assert!(
            stored + 100_000 > received,
            "{stored} of {received} is stored"
        );
        let acked = proxy.acked().unwrap();
        assert!(
            acked <= stored && acked + 1 >= stored,
            "{acked} is acknowledged, {stored} is stored"
        );
        backfeed.restart();
        backfeed.wait_following();
    }
    let sent = ledger.stop().sent;

    let (_, offset) = redis.position();
    backfeed.wait("it has all", |view| view["received_offset"] == offset);
    assert_ne!(backfeed.readyz().unwrap()["lag_bytes"], 0);
    sigterm_at_once(&mut backfeed);
    assert_eq!(stored(&list(&store)), offset);
    assert!(proxy.acked().unwrap() + 1 >= offset);
    check_restore(&store, &redis, &[]);
    assert_eq!(last_unit(&redis, seed, 1, sent), sent);
}

#[test]
fn sigterm_while_serving_and_the_next_one_serves_it_all() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let old = Server::start(Version::Redis70, &[]);
    old.cmd(&["DEBUG", "POPULATE", "40000", "key", "100"]);
    let backup = Backfeed::backup(&old.url(), &store, &["--once"]);
    wait_until("it is stored", Duration::from_secs(60), || {
        backup.log().contains("one full sync is stored")
    });

    let listen = free_port();
    // Microseconds for each key: this takes 20 s.
    let redis = Server::builder(Version::Redis70)
        .arg("key-load-delay", 500)
        .arg("loading-process-events-interval-bytes", 1024)
        .replicaof("127.0.0.1", listen)
        .start();
    let mut sidecar = Backfeed::sidecar(&redis.url(), &store, listen, &[]);
    wait_until("Redis loads the snapshot", Duration::from_secs(60), || {
        redis.info("persistence")["loading"] == "1"
    });
    assert_eq!(sidecar.readyz().unwrap()["phase"], "serving");
    sigterm_at_once(&mut sidecar);
    redis.cmd(&["CONFIG", "SET", "key-load-delay", "0"]);
    sidecar.restart();
    sidecar.wait_following();
    assert_eq!(redis.debug_digest(), old.debug_digest());
    assert_eq!(redis.info("replication")["role"], "master");
}
