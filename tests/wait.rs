//! What `WAIT` counts before anything was ever stored of a server, and long after everything was.

use std::fs;
use std::path::PathBuf;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::data::for_each_version;
use crate::support::write::{set, wait};
use crate::support::{
    Backfeed, Env, Fault, Gcs, Server, Version, free_port, list_with, run_with, wait_until,
};

const CLOUD: &str = "gs://bucket/some/prefix";
const FRAMINGS: [&str; 2] = ["no", "yes"];
/// No less is a coincidence.
const ROUNDS: usize = 5;

for_each_version!(
    what_wait_counts_before_the_first_snapshot_is_restorable,
    a_snapshot_that_is_not_stored_counts_for_no_wait,
    the_first_write_to_a_fresh_redis_is_restorable_once_it_is_counted,
    what_is_stored_is_counted_however_long_the_server_was_idle
);

/// Does a `WAIT` that waits in the moment in which the snapshot has been sent get its answer there, whatever we do?
fn counts_what_is_sent(version: Version, diskless: &str) -> bool {
    !version.at_least_7() && diskless == "no"
}

fn file(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

fn with_sync(version: Version, diskless: &str) -> Server {
    Server::builder(version)
        .arg("repl-diskless-sync", diskless)
        .arg("repl-diskless-sync-delay", 0)
        .start()
}

/// `WAIT 1` for as long as it takes, on the connection that has written.
fn waiting(mut connection: redis::Connection) -> JoinHandle<u32> {
    connection.set_read_timeout(None).unwrap();
    thread::spawn(move || wait(&mut connection, 0))
}

fn get(env: &Env, store: &str, key: &str) -> Value {
    let output = run_with(env, &["get", key, "--store", store, "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    let found: Value = serde_json::from_str(&output.stdout).unwrap();
    found["value"].clone()
}

fn what_wait_counts_before_the_first_snapshot_is_restorable(version: Version) {
    let sure = |diskless: &&str| !counts_what_is_sent(version, diskless);
    for diskless in FRAMINGS.into_iter().filter(sure) {
        for round in 0..ROUNDS {
            let home = TempDir::new().unwrap();
            let mut redis = with_sync(version, diskless);
            let mut connection = redis.connect();
            set(&mut connection, "data", &"x".repeat(10_000));
            set(&mut connection, "mark", "1");
            let counted = waiting(connection);
            let mut backfeed = Backfeed::backup(&redis.url(), &file(&home), &[]);
            assert_eq!(counted.join().unwrap(), 1);
            redis.kill9();
            backfeed.kill9();
            let mark = get(&Env::new(), &file(&home), "mark");
            assert_eq!(mark, "1", "{version}, diskless {diskless}, round {round}");
        }
    }
}

/// The snapshot is sent, and the store does not take it for a while.
fn a_snapshot_that_is_not_stored_counts_for_no_wait(version: Version) {
    for diskless in FRAMINGS {
        let gcs = Gcs::start("bucket");
        let env = vec![("STORAGE_EMULATOR_HOST", gcs.host())];
        let mut redis = with_sync(version, diskless);
        let mut connection = redis.connect();
        set(&mut connection, "mark", "1");
        let counted = waiting(connection);
        gcs.fault("POST", "histories", usize::MAX, Fault::Status(503, None));
        let args = ["backup", "--redis", &redis.url(), "--store", CLOUD];
        let mut backfeed = Backfeed::start_with(env.clone(), &args);
        wait_until("the snapshot is sent to the store", PATIENCE, || {
            let requests = gcs.requests();
            requests
                .iter()
                .any(|it| it.starts_with("POST") && it.contains("base"))
        });
        let begun = Instant::now();
        if counts_what_is_sent(version, diskless) {
            assert_eq!(counted.join().unwrap(), 1);
            assert_eq!(list_with(&env, CLOUD)["histories"], serde_json::json!([]));
            // That moment alone: the next one waits.
            assert_eq!(wait(&mut redis.connect(), 500), 0, "{version}");
            continue;
        }
        wait_until("a while has passed", PATIENCE, || {
            let why = "it counted what is not stored";
            assert!(
                !counted.is_finished(),
                "{version}, diskless {diskless}: {why}"
            );
            begun.elapsed() > Duration::from_secs(2)
        });
        gcs.heal();
        assert_eq!(counted.join().unwrap(), 1);
        redis.kill9();
        backfeed.kill9();
        assert_eq!(get(&env, CLOUD, "mark"), "1", "{version}, {diskless}");
    }
}

/// It comes up as a sidecar's replica, and the store is empty.
fn the_first_write_to_a_fresh_redis_is_restorable_once_it_is_counted(version: Version) {
    for _ in 0..ROUNDS {
        let home = TempDir::new().unwrap();
        let listen = free_port();
        let waits = || {
            Server::builder(version)
                .replicaof("127.0.0.1", listen)
                .start()
        };
        let mut redis = waits();
        let mut sidecar = Backfeed::sidecar(&redis.url(), &file(&home), listen, &[]);
        let mut connection = redis.connect();
        wait_until("it takes writes", PATIENCE, || {
            let set = redis::cmd("SET").arg("mark").arg(1).to_owned();
            set.exec(&mut connection).is_ok()
        });
        assert_eq!(waiting(connection).join().unwrap(), 1, "{version}");
        redis.kill9();
        sidecar.kill9();
        drop(redis);

        let redis = waits();
        let sidecar = Backfeed::sidecar(&redis.url(), &file(&home), listen, &[]);
        wait_until("the next one has it", PATIENCE, || {
            redis.info("replication")["role"] == "master"
        });
        assert_eq!(redis.text(&["GET", "mark"]), "1", "{version}");
        assert!(!sidecar.log().contains("the store is empty"));
        sidecar.wait_captured(&redis);
        assert_eq!(sidecar.metric("backfeed_full_syncs_total"), 0.0);
    }
}

/// Servers up to 7.0 want everything up to a client's last command acknowledged, `PING`s included.
fn what_is_stored_is_counted_however_long_the_server_was_idle(version: Version) {
    let home = TempDir::new().unwrap();
    let redis = Server::builder(version)
        .arg("repl-ping-replica-period", 1)
        .start();
    let backfeed = Backfeed::backup(&redis.url(), &file(&home), &[]);
    backfeed.wait_following();
    let three_pings = || {
        const PING: u64 = 14;
        let received = || backfeed.readyz().unwrap()["received_offset"].as_u64();
        let begun = received().unwrap();
        wait_until("three PINGs come", PATIENCE, || {
            received().unwrap() >= begun + 3 * PING
        });
    };
    let read = |connection: &mut redis::Connection| {
        let _: Option<String> = redis::cmd("GET").arg("a").query(connection).unwrap();
    };
    let (mut one, mut two) = (redis.connect(), redis.connect());
    set(&mut one, "a", "2");
    assert_eq!(wait(&mut one, 20_000), 1, "{version}");
    for _ in 0..2 {
        three_pings();
        for connection in [&mut one, &mut two] {
            read(connection);
            assert_eq!(wait(connection, 3_000), 1, "{version}: idle");
        }
    }

    // The store is away. What is stored is counted all the same, and what is not is not.
    let histories = fs::read_dir(home.path().join("bucket/histories")).unwrap();
    let log: PathBuf = histories
        .map(|history| history.unwrap().path().join("log"))
        .find(|log| log.exists())
        .unwrap();
    let aside = log.with_extension("aside");
    three_pings();
    read(&mut two);
    fs::rename(&log, &aside).unwrap();
    fs::write(&log, "in the way").unwrap();
    let mut three = redis.connect();
    set(&mut three, "b", "3");
    assert_eq!(wait(&mut three, 1_000), 0, "{version}: it is not stored");
    assert_eq!(wait(&mut two, 3_000), 1, "{version}: all of it is stored");
    three_pings();
    fs::remove_file(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    assert_eq!(wait(&mut three, 25_000), 1, "{version}: after the outage");
    for connection in [&mut one, &mut two, &mut three] {
        three_pings();
        read(connection);
        assert_eq!(wait(connection, 3_000), 1, "{version}: after the outage");
    }
}

/// A Redis whose snapshot the store does not take, and backfeed with the full sync behind it.
fn blocked() -> (Gcs, Server, Backfeed) {
    let gcs = Gcs::start("bucket");
    let redis = Server::builder(Version::Redis70)
        .arg("repl-backlog-size", "1mb")
        .arg("repl-diskless-sync-delay", 0)
        .start();
    redis.cmd(&["SET", "before", "1"]);
    gcs.fault("POST", "histories", usize::MAX, Fault::Status(503, None));
    let env = vec![("STORAGE_EMULATOR_HOST", gcs.host())];
    let args = ["backup", "--redis", &redis.url(), "--store", CLOUD];
    let backfeed = Backfeed::start_with(env, &args);
    wait_until("the snapshot is sent to the store", PATIENCE, || {
        let requests = gcs.requests();
        requests
            .iter()
            .any(|it| it.starts_with("POST") && it.contains("base"))
    });
    (gcs, redis, backfeed)
}

#[test]
fn the_feed_is_taken_before_the_backlog_is_full() {
    let (gcs, redis, backfeed) = blocked();
    let links = || redis.info("replication")["connected_slaves"].clone();
    wait_until("no link is held", PATIENCE, || links() == "0");
    redis.cmd(&["SET", "some", &"x".repeat(400_000)]);
    let begun = Instant::now();
    wait_until("a while has passed", PATIENCE, || {
        assert_eq!(links(), "0", "the backlog holds it");
        begun.elapsed() > Duration::from_millis(500)
    });
    redis.cmd(&["SET", "more", &"x".repeat(200_000)]);
    wait_until("it takes the feed", PATIENCE, || links() == "1");
    let told = "half of the server's backlog was written";
    assert_eq!(backfeed.log().matches(told).count(), 1);
    gcs.heal();
    backfeed.wait_captured(&redis);
    assert_eq!(redis.info("stats")["sync_full"], "1");
    let env = vec![("STORAGE_EMULATOR_HOST", gcs.host())];
    assert_eq!(get(&env, CLOUD, "before"), "1");
}

#[test]
fn a_backlog_that_was_overrun_costs_a_full_sync_by_one_link() {
    let (gcs, redis, backfeed) = blocked();
    redis.cmd(&["SET", "much", &"x".repeat(3_000_000)]);
    gcs.heal();
    wait_until("it is reported", PATIENCE, || {
        backfeed
            .log()
            .contains("the server wrote more than its backlog holds")
    });
    backfeed.wait_captured(&redis);
    assert_eq!(redis.info("stats")["sync_full"], "2");
}
