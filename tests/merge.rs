//! Merged log: what is restored is the same from spans as from segments, also when the segments are gone.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::spans::{count, delete_merged};
use crate::support::{Backfeed, Server, Version, on, restored, run, wait_until};

on!(
    what_is_merged_is_restored_as_before:
    redis_62 = Redis62,
    redis_70 = Redis70,
    valkey_91 = Valkey91,
);

/// Segments of a few bytes each: more than a span takes.
const WRITES: usize = 700;

fn what_is_merged_is_restored_as_before(version: Version) {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let redis = Server::start(version, &[]);
    let more = [
        "--flush-interval",
        "20ms",
        "--consolidate-every",
        "never",
        "--merge",
        "never",
    ];
    let mut backup = Backfeed::backup(&redis.url(), &store, &more);
    backup.wait_following();
    let mut points = Vec::new();
    let mut connection = redis.connect();
    for n in 0..WRITES {
        let key = format!("key:{}", n % 17);
        let write = match n % 3 {
            0 => redis::cmd("APPEND").arg(&key).arg(n).to_owned(),
            1 => redis::cmd("SETEX")
                .arg(format!("{key}:x"))
                .arg(9999)
                .arg(n)
                .to_owned(),
            _ => redis::cmd("RPUSH")
                .arg(format!("{key}:l"))
                .arg(n)
                .arg("x")
                .to_owned(),
        };
        write.exec(&mut connection).unwrap();
        let wait = redis::cmd("WAIT").arg(1).arg(10_000).to_owned();
        assert_eq!(wait.query::<u32>(&mut connection).unwrap(), 1);
        if n % 120 == 50 {
            points.push(redis.position().1.to_string());
        }
    }
    let (history, _) = redis.position();
    assert_eq!(backup.sigterm(), 0);
    let folder = home.path().join("bucket/histories").join(&history);
    let before = read(version, home.path(), &store, &points);

    let dry = run(&["merge", "--store", &store, "--dry-run"]);
    assert_eq!((dry.code, count(&folder).0), (0, 0), "{dry:?}");
    assert!(dry.stdout.starts_with("would merge"), "{dry:?}");
    let merged = run(&["merge", "--store", &store, "--json"]);
    assert_eq!(merged.code, 0, "{merged:?}");
    let merged: serde_json::Value = serde_json::from_str(&merged.stdout).unwrap();
    assert!(merged["segments"].as_u64() >= Some(500), "{merged}");
    let (spans, objects) = count(&folder);
    assert_eq!(Some(spans as u64), merged["spans"].as_u64());
    assert_eq!(
        read(version, home.path(), &store, &points),
        before,
        "merged"
    );
    // Whoever goes on finds the end of the log.
    assert!(delete_merged(&folder) >= 500);
    assert!(count(&folder).1 < objects - 500);
    assert_eq!(
        read(version, home.path(), &store, &points),
        before,
        "deleted"
    );
    let verified = run(&["verify", "--store", &store, "--deep"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let again = run(&["merge", "--store", &store]);
    assert!(again.stdout.contains("nothing to merge"), "{again:?}");
    let backup = Backfeed::backup(&redis.url(), &store, &more);
    backup.wait_following();
    assert_eq!(redis.set_and_wait(0, "more", 1, 10_000), 1);
    assert_eq!(backup.metric("backfeed_full_syncs_total"), 0.0);
    drop(backup);
    let consolidated = run(&["consolidate", "--store", &store]);
    assert_eq!(consolidated.code, 0, "{consolidated:?}");
    let after = read(version, home.path(), &store, &points);
    assert_eq!(after[..points.len()], before[..points.len()], "a new base");
}

/// What restores give: files at each point; and a server of everything, and what a key was.
fn read(version: Version, home: &Path, store: &str, points: &[String]) -> Vec<String> {
    let mut read = Vec::new();
    for point in points {
        let file = home.join("restored.rdb");
        let to = format!("rdb:{}", file.display());
        let args = ["restore", "--store", store, "--offset", point, "--to", &to];
        let output = run(&args);
        assert_eq!(output.code, 0, "{output:?}");
        read.push(format!("{:?}", fs::read(&file).unwrap()));
        fs::remove_file(&file).unwrap();
    }
    for more in [&["--offset", points[1].as_str()][..], &[]] {
        let target = Server::start(version, &[]);
        let to = target.url();
        let args = [&["restore", "--store", store, "--to", &to], more].concat();
        let output = run(&args);
        assert_eq!(output.code, 0, "{output:?}");
        read.push(target.debug_digest());
    }
    let get = run(&["get", "--store", store, "--changes", "key:3"]);
    assert_eq!(get.code, 0, "{get:?}");
    read.push(get.stdout);
    read
}

/// When a span is full, beside what is stored.
#[test]
fn a_service_merges_by_itself() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let version = Version::Redis70;
    let redis = Server::start(version, &[]);
    let more = ["--flush-interval", "20ms", "--consolidate-every", "never"];
    let backup = Backfeed::backup(&redis.url(), &store, &more);
    backup.wait_following();
    for n in 0..WRITES {
        let key = format!("key:{}", n % 17);
        assert_eq!(redis.set_and_wait(0, &key, 1, 10_000), 1);
    }
    let (history, _) = redis.position();
    let limit = Duration::from_secs(150);
    wait_until("its log is merged", limit, || {
        backup.metric("backfeed_spans_stored_total") >= 2.0
    });
    backup.wait("it is told", |view| {
        view["merged_offset"].as_u64() > Some(0) && view["merge_error"].is_null()
    });
    let folder = home.path().join("bucket/histories").join(&history);
    assert!(count(&folder).0 >= 2);
    assert_eq!(backup.metric("backfeed_merge_errors_total"), 0.0);
    let had = redis.debug_digest();
    assert!(delete_merged(&folder) >= 500);
    assert_eq!(restored(version, &store).debug_digest(), had);
}
