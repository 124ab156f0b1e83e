//! What is acknowledged to the master, and what that means to `WAIT`, `SHUTDOWN` and `FAILOVER`.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::write::{set, wait};
use crate::support::{Backfeed, Load, Server, Version, list, on, restored, wait_until};

fn store(dir: &TempDir) -> String {
    format!("file://{}/bucket", dir.path().display())
}

/// The directories of all logs in the store.
fn logs(home: &TempDir) -> Vec<PathBuf> {
    let histories = fs::read_dir(home.path().join("bucket/histories")).unwrap();
    histories
        .map(|history| history.unwrap().path().join("log"))
        .collect()
}

fn segments(home: &TempDir) -> usize {
    let count = |log: &PathBuf| fs::read_dir(log).map_or(0, Iterator::count);
    logs(home).iter().map(count).sum()
}

/// Every version has its own way to ask for acknowledgements.
#[test]
fn wait_returns_one_only_for_what_is_stored_and_sooner_than_a_flush_interval() {
    for version in Version::ALL {
        let home = TempDir::new().unwrap();
        let redis = Server::start(version, &[]);
        let backfeed = Backfeed::backup(&redis.url(), &store(&home), &["--flush-interval", "30s"]);
        backfeed.wait_following();
        let mut connection = redis.connect();
        for n in 0..20 {
            let _: () = redis::cmd("SET")
                .arg("key")
                .arg(n)
                .query(&mut connection)
                .unwrap();
            let begun = Instant::now();
            let replicas: u32 = redis::cmd("WAIT")
                .arg(1)
                .arg(20_000)
                .query(&mut connection)
                .unwrap();
            assert_eq!(replicas, 1, "{version}: write {n}");
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "{version}: {:?}",
                begun.elapsed()
            );
            let stored = list(&store(&home)).to_string();
            let view = backfeed.readyz().unwrap();
            assert!(stored.contains("histories"), "{stored}");
            assert!(
                view["lag_bytes"] == 0,
                "{version}: what WAIT counted is stored: {view}"
            );
        }
    }
}

/// With the store away, nothing may be counted that is not in it, however long one waits.
#[test]
fn wait_counts_nothing_while_the_store_is_away_unless_received_is_enough() {
    for (ack, counted) in [("stored", 0), ("received", 1)] {
        let home = TempDir::new().unwrap();
        let redis = Server::start(Version::Redis70, &[]);
        let more = ["--ack", ack, "--flush-interval", "100ms"];
        let backfeed = Backfeed::backup(&redis.url(), &store(&home), &more);
        backfeed.wait_following();
        let [log] = &logs(&home)[..] else {
            panic!("one history");
        };
        fs::write(log, "in the way").unwrap();

        let mut connection = redis.connect();
        set(&mut connection, "key", "value");
        assert_eq!(wait(&mut connection, 1500), counted, "--ack {ack}");
        backfeed.wait("it says what is wrong with the store", |view| {
            let why = "there is a file where a directory should be";
            let error = view["last_error"].as_str();
            error.is_some_and(|error| error.contains(why)) && view["lag_bytes"] != 0
        });

        fs::remove_file(log).unwrap();
        assert_eq!(wait(&mut connection, 20_000), 1, "--ack {ack}");
        backfeed.wait("all is stored", |view| view["lag_bytes"] == 0);
        assert_eq!(
            restored(Version::Redis70, &store(&home)).text(&["GET", "key"]),
            "value"
        );
    }
}

#[test]
fn an_idle_server_costs_no_object() {
    let home = TempDir::new().unwrap();
    let redis = Server::builder(Version::Redis70)
        .arg("repl-ping-replica-period", 1)
        .start();
    let backfeed = Backfeed::backup(&redis.url(), &store(&home), &["--flush-interval", "100ms"]);
    backfeed.wait_following();
    let received = || backfeed.readyz().unwrap()["received_offset"].as_u64();
    let three_pings = || {
        const PING: u64 = 14;
        let begun = received().unwrap();
        wait_until("three PINGs come", PATIENCE, || {
            received().unwrap() >= begun + 3 * PING
        });
    };
    three_pings();
    assert_eq!(segments(&home), 0);
    let view = backfeed.readyz().unwrap();
    assert_eq!(view["lag_bytes"], 0, "PINGs are no lag: {view}");

    set(&mut redis.connect(), "key", "value");
    backfeed.wait_captured(&redis);
    let with_data = segments(&home);
    assert_eq!(with_data, 1);
    three_pings();
    assert_eq!(segments(&home), with_data);
}

fn min_replicas_to_write_counts_a_backup_that_keeps_up(version: Version) {
    let home = TempDir::new().unwrap();
    let redis = Server::builder(version)
        .arg("min-replicas-to-write", 1)
        .arg("min-replicas-max-lag", 2)
        .start();
    let writes = || redis.try_cmd(&["SET", "key", "value"]);
    let refused = writes().unwrap_err().to_string();
    assert!(refused.contains("NOREPLICAS"), "{refused}");
    let mut backfeed = Backfeed::backup(&redis.url(), &store(&home), &[]);
    wait_until("writes are taken", PATIENCE, || writes().is_ok());
    // Beyond the allowed lag, an idle backup still counts: it says each second that it is there.
    let begun = Instant::now();
    wait_until("some seconds have passed", PATIENCE, || {
        assert!(writes().is_ok(), "{version}");
        begun.elapsed() > Duration::from_secs(4)
    });
    assert_eq!(backfeed.sigterm(), 0);
    wait_until("writes are refused", PATIENCE, || writes().is_err());
}

on!(min_replicas_to_write_counts_a_backup_that_keeps_up: redis_60 = Redis60, redis_70 = Redis70, valkey_91 = Valkey91);

/// SHUTDOWN waits until its replicas have everything (7.0 and later): it must not wait long, and nothing may be lost.
fn shutdown_under_load_is_quick_and_loses_nothing(version: Version) {
    let home = TempDir::new().unwrap();
    let mut redis = Server::builder(version).arg("shutdown-timeout", 10).start();
    // So that only the shutdown itself makes it store.
    let backfeed = Backfeed::backup(&redis.url(), &store(&home), &["--flush-interval", "60s"]);
    backfeed.wait_following();
    let load = Load::start(&redis, 4);
    load.wait_replies(500);

    let begun = Instant::now();
    redis.sigterm();
    redis.wait_exit(PATIENCE);
    let took = begun.elapsed();
    let answered = load.stop();
    let log = redis.log();
    assert!(
        took < Duration::from_secs(5),
        "{version} took {took:?}:\n{log}"
    );
    assert!(
        log.contains("1 of 1 replicas are in sync"),
        "{version}:\n{log}"
    );
    assert!(answered.total() >= 2000, "{answered:?}");
    answered.assert_all_in(&restored(version, &store(&home)));
}

on!(shutdown_under_load_is_quick_and_loses_nothing: redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

/// Who may not ask cannot know of the shutdown: it takes its timeout, and still nothing is lost.
#[test]
fn without_the_right_to_ask_info_a_shutdown_takes_its_timeout_and_loses_nothing() {
    let home = TempDir::new().unwrap();
    let mut redis = Server::builder(Version::Redis70)
        .arg("shutdown-timeout", 3)
        .arg("user", "capture on >secret +ping +psync +replconf")
        .start();
    let url = format!("redis://capture:secret@{}", redis.addr());
    let mut backfeed = Backfeed::backup(&url, &store(&home), &["--flush-interval", "60s"]);
    backfeed.wait_following();
    let log = backfeed.log();
    assert!(
        log.contains("INFO is not permitted") && log.contains("waits for its shutdown-timeout"),
        "{log}"
    );
    let load = Load::start(&redis, 4);
    load.wait_replies(500);

    let begun = Instant::now();
    redis.sigterm();
    redis.wait_exit(PATIENCE);
    let took = begun.elapsed();
    let answered = load.stop();
    assert!(
        took >= Duration::from_secs(3),
        "{took:?}: who told backfeed?\n{}",
        redis.log()
    );
    // The link is gone, so what came last is stored in its own time.
    assert_eq!(backfeed.sigterm(), 0, "{}", backfeed.log());
    answered.assert_all_in(&restored(Version::Redis70, &store(&home)));
}

fn role(server: &Server) -> String {
    server.info("replication")["role"].clone()
}

/// Alone with us, `FAILOVER` finds nobody; with a real replica it takes that one, and we follow it from its own address.
fn failover_never_picks_us(version: Version) {
    let home = TempDir::new().unwrap();
    let redis = Server::start(version, &[]);
    let mut backfeed = Backfeed::backup(&redis.url(), &store(&home), &[]);
    backfeed.wait_following();
    let mut connection = redis.connect();
    set(&mut connection, "before", "1");
    assert_eq!(wait(&mut connection, 20_000), 1);

    let replication = redis.info("replication");
    let listed = &replication["slave0"];
    assert!(
        listed.contains("port=0,state=online"),
        "{version}: {listed}"
    );
    // The master stops writes, waits for a replica that has everything, and gives up.
    let _ = redis.cmd(&["FAILOVER", "TIMEOUT", "1500"]);
    wait_until("FAILOVER gives up", PATIENCE, || {
        redis.info("replication")["master_failover_state"] == "no-failover"
    });
    assert_eq!(role(&redis), "master", "{version}:\n{}", redis.log());
    set(&mut connection, "between", "2");

    let replica = Server::builder(version)
        .replicaof("127.0.0.1", redis.port())
        .start();
    wait_until("the replica follows", PATIENCE, || {
        replica.info("replication")["master_link_status"] == "up"
    });
    // No race between the two: each time the real one is taken.
    let _ = redis.cmd(&["FAILOVER", "TIMEOUT", "20000"]);
    wait_until("the replica is promoted", PATIENCE, || {
        role(&replica) == "master" && role(&redis) == "slave"
    });
    assert_eq!(
        redis.info("replication")["master_port"],
        replica.port().to_string(),
        "{version}:\n{}",
        redis.log()
    );

    // We were told of the old master: now a replica, it passes on what the new one says.
    wait_until("the old master follows", PATIENCE, || {
        redis.info("replication")["master_link_status"] == "up"
    });
    set(&mut replica.connect(), "after", "3");
    backfeed.wait_captured(&replica);
    assert_eq!(backfeed.metric("backfeed_full_syncs_total"), 1.0);

    // And told of the new one, we go on from what is stored.
    assert_eq!(backfeed.sigterm(), 0);
    let backfeed = Backfeed::backup(&replica.url(), &store(&home), &[]);
    backfeed.wait_following();
    let mut connection = replica.connect();
    set(&mut connection, "last", "4");
    backfeed.wait_captured(&replica);
    assert_eq!(backfeed.metric("backfeed_full_syncs_total"), 0.0);
    assert_eq!(
        restored(version, &store(&home)).debug_digest(),
        replica.debug_digest()
    );
}

on!(failover_never_picks_us: redis_62 = Redis62, redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);
