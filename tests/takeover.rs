//! Two sidecars with one store, as when a node comes back while the new pod boots: one of them goes on, and the `WAIT` of one side
//! alone is confirmed.
//!
//! `BACKFEED_TWIN_ROUNDS` (default 12) is the number of rounds of each version in which anything of two pods is killed;
//! `BACKFEED_CRASH_SEED` repeats the choices of a run. Of many rounds:
//! `BACKFEED_TWIN_ROUNDS=1000 cargo test --test all takeover::two_pods -- --nocapture`.

use std::collections::BTreeSet;
use std::fs;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Backfeed, Random, Server, Version, free_port, list, on, run, wait_until};

const PATIENCE: Duration = Duration::from_secs(120);
const QUICK: &[&str] = &["--flush-interval", "50ms"];
/// With [`slowly`], a restore takes some seconds.
const KEYS: &str = "4000";

/// A Redis without files, and the sidecar beside it.
struct Pod {
    redis: Server,
    sidecar: Backfeed,
}

impl Pod {
    fn start(version: Version, store: &str, config: &[(&str, &str)]) -> Self {
        let listen = free_port();
        let redis = redis(version, listen, config);
        let sidecar = Backfeed::sidecar(&redis.url(), store, listen, QUICK);
        Self { redis, sidecar }
    }

    fn is_master(&self) -> bool {
        let info = self.redis.try_cmd(&["ROLE"]);
        info.is_ok_and(|role| format!("{role:?}").contains("master"))
    }

    fn wait_open(&self) {
        self.sidecar.wait("its Redis is captured", |view| {
            view["phase"] == "following" && view["promoted"] == true
        });
    }

    /// Writes a key. Is it confirmed? False as well for a Redis that is down, or takes no writes.
    fn write(&self, key: &str) -> bool {
        let Ok(mut connection) = self.redis.try_connect() else {
            return false;
        };
        let set = redis::cmd("SET").arg(key).arg("value").to_owned();
        if set.exec(&mut connection).is_err() {
            return false;
        }
        let wait = redis::cmd("WAIT").arg(1).arg(1000).to_owned();
        wait.query(&mut connection).unwrap_or(0) == 1
    }

    fn kill(&mut self) {
        self.sidecar.kill9();
        self.redis.kill9();
    }

    fn start_fresh_redis(&mut self) {
        self.redis.kill9();
        fs::remove_dir_all(self.redis.dir()).unwrap();
        fs::create_dir_all(self.redis.dir()).unwrap();
        self.redis.restart();
    }
}

fn redis(version: Version, listen: u16, config: &[(&str, &str)]) -> Server {
    let builder = Server::builder(version)
        .port(free_port())
        .replicaof("127.0.0.1", listen);
    let builder = config
        .iter()
        .fold(builder, |builder, (key, value)| builder.arg(key, value));
    builder.start()
}

/// Microseconds for each key. Redis 6.0 answers no questions meanwhile.
fn slowly(version: Version) -> &'static [(&'static str, &'static str)] {
    let settings = &[
        ("key-load-delay", "1000"),
        ("loading-process-events-interval-bytes", "1024"),
    ];
    if version.at_least_7() {
        settings
    } else {
        &settings[..1]
    }
}

/// A store that a server has left, with a confirmed key `first` in it.
fn a_store(version: Version) -> (TempDir, String) {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let old = Server::start(version, &[]);
    old.cmd(&["DEBUG", "POPULATE", KEYS]);
    let mut backup = Backfeed::backup(&old.url(), &store, QUICK);
    backup.wait_following();
    assert_eq!(old.set_and_wait(0, "first", 1, 10_000), 1);
    backup.kill9();
    (home, store)
}

fn holds(server: &Server, keys: &BTreeSet<String>) -> bool {
    let missing: Vec<&String> = keys
        .iter()
        .filter(|key| server.text(&["EXISTS", key]) != "1")
        .collect();
    assert!(missing.is_empty(), "{server} lacks {missing:?}");
    true
}

#[track_caller]
fn assert_one_line(store: &str) {
    let listing = list(store);
    assert_eq!(listing["ambiguous"], serde_json::json!([]), "{listing:#}");
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
    assert!(listing["latest"].is_string(), "{listing:#}");
    let tips = listing["histories"].as_array().unwrap();
    let tips = tips.iter().filter(|history| history["tip"] == true);
    assert_eq!(tips.count(), 1, "{listing:#}");
}

/// A pod that is started on it now is given every confirmed key.
fn check_third(version: Version, store: &str, confirmed: &BTreeSet<String>) {
    assert_one_line(store);
    let third = Pod::start(version, store, &[]);
    third.wait_open();
    assert!(holds(&third.redis, confirmed));
    assert!(third.write("on the third"));
}

/// Where the history's objects lie.
fn successors(home: &TempDir) -> usize {
    let histories = fs::read_dir(home.path().join("bucket/histories")).unwrap();
    let paths = histories.map(|history| history.unwrap().path().join("successor.json"));
    paths.filter(|path| path.exists()).count()
}

fn of_two_that_restore_at_once_one_goes_on(version: Version) {
    let (home, store) = a_store(version);
    let mut pods = [0, 1].map(|_| Pod::start(version, &store, slowly(version)));
    let mut ended = None;
    wait_until("one goes on and the other has ended", PATIENCE, || {
        for (at, pod) in pods.iter_mut().enumerate() {
            if ended.is_none() && !pod.sidecar.is_running() {
                ended = Some(at);
            }
        }
        ended.is_some()
    });
    let ended = ended.unwrap();
    assert_eq!(pods[ended].sidecar.wait_exit(), 5);
    let log = pods[ended].sidecar.log();
    assert!(log.contains("superseded"), "{log}");
    let other = 1 - ended;
    pods[other].wait_open();

    let mut confirmed = BTreeSet::from(["first".to_owned()]);
    for round in 0..8 {
        for (at, pod) in pods.iter().enumerate() {
            let key = format!("round {round} on {at}");
            let is_confirmed = pod.write(&key);
            assert_eq!(is_confirmed, at == other, "{key}");
            if is_confirmed {
                confirmed.insert(key);
            }
        }
    }
    assert!(successors(&home) >= 1);
    pods.iter_mut().for_each(Pod::kill);
    check_third(version, &store, &confirmed);
}
on!(of_two_that_restore_at_once_one_goes_on: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// One serves, and the other waits for it.
fn one_serves_one_waits(version: Version, store: &str) -> (Pod, Pod) {
    let serving = Pod::start(version, store, slowly(version));
    serving.sidecar.wait("it serves", |view| {
        view["phase"] == "serving" && view["detail"].to_string().contains("keys")
    });
    let waiting = Pod::start(version, store, &[]);
    waiting.sidecar.wait("it waits", |view| {
        view["detail"]
            .to_string()
            .contains("is restoring another Redis")
    });
    (serving, waiting)
}

fn one_that_dies_while_it_serves_is_followed_by_the_one_that_waits(version: Version) {
    let (_home, store) = a_store(version);
    let (mut serving, waiting) = one_serves_one_waits(version, &store);
    serving.kill();
    waiting.wait_open();
    assert!(waiting.write("second"));
    drop(waiting);
    let confirmed = ["first", "second"].map(str::to_owned);
    check_third(version, &store, &confirmed.into());
}
on!(one_that_dies_while_it_serves_is_followed_by_the_one_that_waits: redis_70 = Redis70, valkey_91 = Valkey91);

fn one_that_slept_while_it_served_promotes_nothing_and_ends(version: Version) {
    let (_home, store) = a_store(version);
    let (mut asleep, waiting) = one_serves_one_waits(version, &store);
    asleep.sidecar.signal("STOP");
    waiting.wait_open();
    assert!(waiting.write("second"));
    asleep.sidecar.signal("CONT");
    assert_eq!(asleep.sidecar.wait_exit(), 5, "{}", asleep.sidecar.log());
    assert!(!asleep.is_master());
    assert!(!asleep.write("on the one that slept"));
    assert!(waiting.write("third"));
    drop(waiting);
    let confirmed = ["first", "second", "third"].map(str::to_owned);
    check_third(version, &store, &confirmed.into());
}
on!(one_that_slept_while_it_served_promotes_nothing_and_ends: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// Between the promotion and the first write: the other one waits no longer, and its successor goes on.
fn one_that_dies_right_after_the_promotion_is_followed_by_the_next(version: Version) {
    let (_home, store) = a_store(version);
    let (mut serving, mut waiting) = one_serves_one_waits(version, &store);
    serving.redis.cmd(&["CONFIG", "SET", "key-load-delay", "0"]);
    wait_until("it is a master", PATIENCE, || serving.is_master());
    serving.kill();
    let mut ended = false;
    wait_until("it has gone on, or has ended", PATIENCE, || {
        ended = !waiting.sidecar.is_running();
        ended || waiting.is_master()
    });
    if ended {
        assert_eq!(waiting.sidecar.wait_exit(), 5);
        waiting.sidecar.restart();
    }
    waiting.wait_open();
    assert!(waiting.write("second"));
    drop(waiting);
    let confirmed = ["first", "second"].map(str::to_owned);
    check_third(version, &store, &confirmed.into());
}
on!(one_that_dies_right_after_the_promotion_is_followed_by_the_next: redis_70 = Redis70, valkey_91 = Valkey91);

#[test]
fn a_restore_that_continues_the_history_takes_it_as_a_sidecar_does() {
    let version = Version::Redis70;
    let (_home, store) = a_store(version);
    let target = Server::start(version, &[]);
    let url = target.url();
    let args = [
        "restore",
        "--continue-history",
        "--store",
        &store,
        "--to",
        &url,
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    // A second one comes too late.
    let history = list(&store)["histories"]
        .as_array()
        .unwrap()
        .iter()
        .find(|history| history["tip"] != true)
        .map(|history| history["id"].as_str().unwrap().to_owned());
    let other = Server::start(version, &[]);
    let url = other.url();
    let output = run(&[
        "restore",
        "--continue-history",
        "--history",
        &history.unwrap(),
        "--store",
        &store,
        "--to",
        &url,
    ]);
    assert_eq!(output.code, 6, "{output:?}");
    assert!(
        output.stderr.contains("already continues history"),
        "{output:?}"
    );
    assert_eq!(other.text(&["DBSIZE"]), "0");
    // What the target writes is the latest.
    let mut backup = Backfeed::backup(&target.url(), &store, QUICK);
    backup.wait_following();
    assert_eq!(target.set_and_wait(0, "second", 1, 10_000), 1);
    assert_eq!(target.info("stats")["sync_full"], "0");
    assert_eq!(backup.sigterm(), 0);
    let confirmed = ["first", "second"].map(str::to_owned);
    check_third(version, &store, &confirmed.into());
}

#[test]
fn a_store_belongs_to_the_sidecar_of_one_name() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let listen = free_port();
    let first = redis(Version::Redis70, listen, &[]);
    let mut sidecar = Backfeed::sidecar(&first.url(), &store, listen, &["--name", "redis-0"]);
    sidecar.wait_captured(&first);
    assert_eq!(first.set_and_wait(0, "first", 1, 10_000), 1);

    // A StatefulSet of three, with one store for all.
    let pod = |name: &str| {
        vec![
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1".to_owned()),
            ("HOSTNAME", name.to_owned()),
        ]
    };
    let other_listen = free_port();
    let second = redis(Version::Redis70, other_listen, &[]);
    let mut other =
        Backfeed::sidecar_with(pod("redis-1"), &second.url(), &store, other_listen, &[]);
    assert_eq!(other.wait_exit(), 2, "{}", other.log());
    for says in ["`redis-0`", "`redis-1`", "/redis-1", "--name redis-0"] {
        assert!(other.log().contains(says), "{says}: {}", other.log());
    }
    assert!(
        second.info("replication")["role"] == "slave",
        "it was opened"
    );
    assert_eq!(first.set_and_wait(0, "second", 1, 10_000), 1);

    // Its own pod, and whoever says that it is the same server.
    sidecar.kill9();
    for more in [&[][..], &["--name", "redis-0"]] {
        let mut again = Backfeed::sidecar_with(pod("redis-0"), &first.url(), &store, listen, more);
        again.wait_captured(&first);
        again.kill9();
    }
    // An archive of an older build has no name.
    fs::remove_file(home.path().join("bucket/sidecar.json")).unwrap();
    let renamed = Backfeed::sidecar_with(pod("db-7c8d9-x2x9k"), &first.url(), &store, listen, &[]);
    renamed.wait_captured(&first);
    let recorded = fs::read_to_string(home.path().join("bucket/sidecar.json")).unwrap();
    assert!(recorded.contains("\"db\""), "{recorded}");
}

fn rounds() -> u64 {
    match std::env::var("BACKFEED_TWIN_ROUNDS") {
        Ok(text) => text.parse().expect("BACKFEED_TWIN_ROUNDS is a number"),
        Err(_) => 12,
    }
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

/// Anything of both may die, and starts again. At first the store is empty, for both.
fn two_pods_with_one_store_restart_at_random(version: Version) {
    let (seed, rounds) = (seed(), rounds());
    eprintln!("{version}: {rounds} rounds; BACKFEED_CRASH_SEED={seed} repeats its choices");
    let begun = Instant::now();
    let mut rng = Random::new(seed);
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let mut pods = [0, 1].map(|_| Pod::start(version, &store, &[]));
    let mut confirmed = BTreeSet::new();
    let (mut both, mut ends) = (0, 0);
    for round in 0..rounds {
        let deadline = Instant::now() + PATIENCE;
        let mut fresh = Instant::now();
        // Until something is confirmed: nobody blocks the others for ever.
        for turn in 0.. {
            let mut told = 0;
            for (at, pod) in pods.iter_mut().enumerate() {
                let key = format!("{round} {turn} {at}");
                if pod.write(&key) {
                    confirmed.insert(key);
                    told += 1;
                }
                if !pod.sidecar.is_running() {
                    ends += u64::from(pod.sidecar.wait_exit() == 5);
                    pod.sidecar.restart();
                }
            }
            both += u64::from(told == 2);
            if told > 0 && rng.one_in(2) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "nothing is confirmed in round {round}"
            );
            // A superseded sidecar beside a Redis with data stays so, until that Redis starts afresh.
            if fresh.elapsed() > Duration::from_secs(20) {
                fresh = Instant::now();
                pods[rng.below(2) as usize].start_fresh_redis();
            }
            thread::sleep(rng.millis(100));
        }
        for pod in &mut pods {
            if rng.one_in(2) {
                pod.sidecar.kill9();
            }
            if rng.one_in(2) {
                thread::sleep(rng.millis(30));
                pod.start_fresh_redis();
            }
            thread::sleep(rng.millis(200));
            if !pod.sidecar.is_running() {
                pod.sidecar.restart();
            }
        }
        if rng.one_in(4) {
            assert_one_line(&store);
        }
    }
    pods.iter_mut().for_each(Pod::kill);
    eprintln!(
        "{version}: {} confirmed, {ends} ends with code 5, {both} times both sides, in {:.0?}",
        confirmed.len(),
        begun.elapsed()
    );
    check_third(version, &store, &confirmed);
    let listing: Value = list(&store);
    assert!(
        listing["histories"].as_array().unwrap().len() > 2,
        "{listing:#}"
    );
}
on!(two_pods_with_one_store_restart_at_random: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);
