//! A service that is told what to keep deletes the rest by itself. The store is S3 in memory, so that a test can make objects old.

use std::time::Duration;

use serde_json::Value;

use crate::support::backfeed::PATIENCE;
use crate::support::s3::S3;
use crate::support::{Backfeed, Server, Version, free_port, on, run, run_with, wait_until};

on!(
    a_service_deletes_what_it_was_not_told_to_keep:
    redis_62 = Redis62,
    redis_86 = Redis86,
    valkey_91 = Valkey91,
);

const STORE: &str = "s3://bucket/b";
const HOUR: Duration = Duration::from_secs(3600);
/// More segments than a span takes.
const WRITES: usize = 300;

/// A server, and a listener with these flags that backs it up.
fn start(version: Version, more: &[&str]) -> (S3, Server, Backfeed) {
    let (s3, server) = (S3::start(), Server::start(version, &[]));
    let url = server.url();
    let args = ["backup", "--redis", &url, "--store", STORE];
    let quick = ["--flush-interval", "20ms", "--consolidate-every", "never"];
    let args = [&args[..], &quick, more].concat();
    let backup = Backfeed::start_with(s3.environment(), &args);
    backup.wait_following();
    (s3, server, backup)
}

fn write(server: &Server, writes: usize) {
    for n in 0..writes {
        let key = format!("key:{}", n % 17);
        assert_eq!(server.set_and_wait(0, &key, 1, 10_000), 1, "{n}");
    }
}

fn count(s3: &S3, part: &str) -> usize {
    let names = s3.names();
    names.iter().filter(|name| name.contains(part)).count()
}

fn consolidate(s3: &S3) {
    let output = run_with(&s3.environment(), &["consolidate", "--store", STORE]);
    assert_eq!(output.code, 0, "{output:?}");
}

fn a_service_deletes_what_it_was_not_told_to_keep(version: Version) {
    let policy = [
        "--keep",
        "1s",
        "--expire-every",
        "300ms",
        "--delete-segments",
    ];
    let (s3, server, backup) = start(version, &policy);
    write(&server, WRITES);
    consolidate(&s3);
    let oldest = |view: &Value| view["expiry"]["oldest_unix_ms"].as_i64();
    // The base becomes the oldest that is kept when a second of points stands behind it.
    backup.wait("a floor was made", |view| {
        write(&server, 1);
        oldest(view).is_some() && count(&s3, "/floor/") > 0
    });
    let view = backup.readyz().unwrap();
    assert_eq!(
        view["expiry"]["keeps"],
        "every point of 1 s, superseded for 30 d"
    );
    assert_eq!(view["expiry"]["deleted_objects"], 0, "{view:#}");
    let said = backup.log();
    assert!(
        said.contains("points have expired. They are deleted in a day"),
        "{said}"
    );
    let bases = count(&s3, ".rdb.zst");
    let before = s3.names();
    let log = before.iter().filter(|name| name.contains("/log/"));
    assert_eq!(bases, 2);
    s3.age(25 * HOUR);
    backup.wait("what was old is gone", |view| {
        write(&server, 1);
        view["expiry"]["deleted_objects"].as_u64() > Some(WRITES as u64 / 2)
            && count(&s3, ".rdb.zst") == bases - 1
    });
    let view = backup.readyz().unwrap();
    assert!(view["expiry"]["error"].is_null(), "{view:#}");
    assert!(
        view["expiry"]["run_unix_ms"].as_i64() > oldest(&view),
        "{view:#}"
    );
    let left = s3.names();
    let gone = log.filter(|name| !left.contains(name)).count();
    assert!(gone > WRITES / 2, "{gone}");
    let deleted = backup.metric("backfeed_deleted_objects_total");
    assert!(deleted > WRITES as f64 / 2.0, "{deleted}");
    assert!(backup.metric("backfeed_deleted_bytes_total") > deleted);
    assert_eq!(backup.metric("backfeed_expiry_errors_total"), 0.0);
    assert!(backup.metric("backfeed_expiry_timestamp_seconds") > 1e9);
    // It goes on, and what is promised comes back.
    write(&server, 3);
    backup.wait_captured(&server);
    let target = Server::start(version, &[]);
    let to = target.url();
    let args = ["restore", "--to", &to, "--store", STORE];
    let output = run_with(&s3.environment(), &args);
    assert_eq!(output.code, 0, "{version}: {output:?}");
    assert_eq!(target.debug_digest(), server.debug_digest(), "{version}");
    let output = run_with(&s3.environment(), &["verify", "--deep", "--store", STORE]);
    assert_eq!(output.code, 0, "{version}: {output:?}");
}

/// The store keeps what was to go: nothing is lost, and the operator is told.
#[test]
fn a_store_that_refuses_deletes_is_told_of() {
    let policy = ["--keep", "1s", "--expire-every", "300ms"];
    let (s3, server, backup) = start(Version::Redis70, &policy);
    write(&server, 5);
    consolidate(&s3);
    backup.wait("a floor was made", |_| {
        write(&server, 1);
        count(&s3, "/floor/") > 0
    });
    s3.lock("/base/");
    s3.age(25 * HOUR);
    backup.wait("it was refused", |view| {
        view["expiry"]["denied_objects"].as_u64() > Some(0)
            && view["expiry"]["denied_reason"].is_string()
    });
    assert!(backup.metric("backfeed_denied_deletes_total") > 0.0);
    assert!(backup.log().contains("the store did not delete"));
    write(&server, 1);
    assert_eq!(count(&s3, ".rdb.zst"), 2);
}

/// A clock that is wrong by hours: nothing goes until it is right.
#[test]
fn with_a_clock_that_is_wrong_nothing_is_deleted() {
    let policy = ["--keep", "1s", "--expire-every", "300ms"];
    let (s3, server, backup) = start(Version::Redis70, &policy);
    write(&server, 5);
    consolidate(&s3);
    s3.set_ahead(2 * HOUR);
    backup.wait("it is told", |view| {
        let error = view["expiry"]["error"].as_str();
        error.is_some_and(|error| error.contains("the clocks differ"))
    });
    wait_until("it was tried again", PATIENCE, || {
        backup.metric("backfeed_expiry_errors_total") > 1.0
    });
    assert!(backup.log().contains("expiry has stopped: nothing expires"));
    write(&server, 1);
    assert_eq!(count(&s3, "/floor/"), 0);
    s3.set_ahead(Duration::ZERO);
    backup.wait("a floor was made", |_| {
        write(&server, 1);
        count(&s3, "/floor/") > 0
    });
}

/// A sidecar, which makes bases by itself beside that.
#[test]
fn a_sidecar_deletes_too() {
    let (s3, listen) = (S3::start(), free_port());
    let redis = Server::builder(Version::Redis70)
        .arg("save", "")
        .replicaof("127.0.0.1", listen)
        .start();
    let more = [
        "--flush-interval",
        "20ms",
        "--consolidate-every",
        "1s",
        "--keep",
        "1s",
        "--expire-every",
        "300ms",
    ];
    let sidecar = Backfeed::sidecar_with(s3.environment(), &redis.url(), STORE, listen, &more);
    wait_until("Redis is a master", PATIENCE, || {
        redis.info("replication")["role"] == "master"
    });
    sidecar.wait_captured(&redis);
    sidecar.wait("a floor was made", |_| {
        write(&redis, 1);
        count(&s3, "/floor/") > 0
    });
    s3.age(25 * HOUR);
    sidecar.wait("something was deleted", |view| {
        write(&redis, 1);
        view["expiry"]["deleted_objects"].as_u64() > Some(0)
    });
}

/// Nobody told it what to keep.
#[test]
fn by_default_nothing_is_ever_deleted() {
    let (s3, server, backup) = start(Version::Redis70, &["--expire-every", "100ms"]);
    write(&server, 5);
    consolidate(&s3);
    write(&server, 5);
    backup.wait_captured(&server);
    s3.age(100 * HOUR);
    let before = s3.names();
    // Two looks.
    std::thread::sleep(Duration::from_secs(11));
    let after = s3.names();
    assert!(before.iter().all(|name| after.contains(name)), "{after:#?}");
    assert_eq!(count(&s3, "/floor/"), 0);
    assert!(backup.readyz().unwrap()["expiry"].is_null());
}

#[test]
fn a_policy_without_its_first_part_is_refused() {
    let listen = format!("127.0.0.1:{}", free_port());
    for (args, says) in [
        (["--keep-daily", "7"], "--keep <TIME>"),
        (["--keep", "0"], "would keep nothing"),
        (["--keep", "forever"], "To keep everything"),
    ] {
        for verb in [
            &["backup", "--redis", "redis://127.0.0.1:1"][..],
            &[
                "sidecar",
                "--redis",
                "redis://127.0.0.1:1",
                "--listen",
                &listen,
            ],
        ] {
            let all = [verb, &["--store", "file:///nowhere"], &args].concat();
            let output = run(&all);
            assert_eq!(output.code, 2, "{output:?}");
            assert!(output.stderr.contains(says), "{output:?}");
        }
    }
}
