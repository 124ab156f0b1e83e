//! `backfeed copy`: an archive in another store can be restored from there, whenever the copy was ended.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::{Output, PATIENCE, program};
use crate::support::data::{self, Expiries, Mix};
use crate::support::spans::delete_merged;
use crate::support::{
    Backfeed, Cloud, Emulator, Env, Random, Server, Version, free_port, list, list_with, on,
    restored, run, run_with, wait_until,
};

/// A server that is captured, in the home of two stores.
struct Pair {
    home: TempDir,
    redis: Server,
}

impl Pair {
    fn new(version: Version) -> Self {
        Self {
            home: TempDir::new().unwrap(),
            redis: Server::start(version, &[]),
        }
    }

    fn from(&self) -> String {
        format!("file://{}/from", self.home.path().display())
    }

    fn to(&self) -> String {
        format!("file://{}/to", self.home.path().display())
    }

    fn backup(&self, more: &[&str]) -> Backfeed {
        let args = ["--flush-interval", "20ms", "--consolidate-every", "never"];
        let backup = Backfeed::backup(&self.redis.url(), &self.from(), &[&args, more].concat());
        backup.wait_following();
        backup
    }

    /// Commands of all kinds.
    fn write(&self, seed: u64, rounds: usize) {
        let mut connection = self.redis.connect();
        let mut mix = Mix::new(&mut connection, seed, Expiries::Late);
        data::run(&mut connection, &mut mix, rounds);
    }

    /// Many segments.
    fn write_one_by_one(&self, writes: usize) {
        for n in 0..writes {
            let key = format!("key:{}", n % 13);
            assert_eq!(self.redis.set_and_wait(0, &key, 1, 10_000), 1);
        }
    }

    fn copy(&self, more: &[&str]) -> Output {
        run(&[&["copy", &self.from(), &self.to()], more].concat())
    }
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Objects and bytes that were copied.
fn copied(report: &Value) -> u64 {
    let kinds = report["copied"].as_object().unwrap().values();
    kinds.map(|kind| kind["objects"].as_u64().unwrap()).sum()
}

/// Names of all files below a directory, and their bytes.
fn files(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, fs::read(&path).unwrap()));
            }
        }
    }
    found.retain(|(name, _)| name.starts_with("histories") || !name.contains('/'));
    found.sort();
    found
}

#[track_caller]
fn assert_same(home: &Path) {
    let (from, to) = (files(&home.join("from")), files(&home.join("to")));
    let names = |files: &[(String, Vec<u8>)]| -> Vec<String> {
        files.iter().map(|(name, _)| name.clone()).collect()
    };
    assert_eq!(names(&from), names(&to));
    assert!(from == to, "the bytes of an object differ");
}

fn a_copy_is_restored_as_its_source_is(version: Version) {
    let pair = Pair::new(version);
    pair.write(3, 10);
    let mut backup = pair.backup(&["--merge", "never"]);
    pair.write(4, 10);
    backup.wait_captured(&pair.redis);
    let (_, before) = pair.redis.position();
    let before = before.to_string();
    let at_before = pair.redis.debug_digest();
    pair.write(5, 10);
    backup.wait_captured(&pair.redis);
    assert_eq!(backup.sigterm(), 0);
    let dry = pair.copy(&["--dry-run", "--json"]);
    assert_eq!(dry.code, 0, "{dry:?}");
    assert!(!pair.home.path().join("to/archive.json").exists());
    let first = pair.copy(&["--json"]);
    assert_eq!(first.code, 0, "{first:?}");
    assert_eq!(copied(&json(&first)), copied(&json(&dry)));
    assert!(copied(&json(&first)) > 4, "{first:?}");
    assert_same(pair.home.path());
    let again = pair.copy(&["--json"]);
    assert_eq!((again.code, copied(&json(&again))), (0, 0), "{again:?}");
    let deep = pair.copy(&["--deep"]);
    assert_eq!(deep.code, 0, "{deep:?}");
    assert!(deep.stdout.contains("copied 0 objects"), "{deep:?}");

    // A new base, merged log, and some more.
    for verb in ["consolidate", "merge"] {
        let output = run(&[verb, "--store", &pair.from()]);
        assert_eq!(output.code, 0, "{output:?}");
    }
    let more = pair.copy(&["--json"]);
    assert_eq!(more.code, 0, "{more:?}");
    assert!(copied(&json(&more)) >= 2, "{more:?}");
    assert_same(pair.home.path());
    let target = restored(version, &pair.to());
    assert_eq!(target.debug_digest(), pair.redis.debug_digest());
    let earlier = Server::start(version, &[]);
    let (store, to) = (pair.to(), earlier.url());
    let args = [
        "restore", "--store", &store, "--to", &to, "--offset", &before,
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(earlier.debug_digest(), at_before);
    let verified = run(&["verify", "--store", &pair.to(), "--deep"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    // Its own verdicts are no difference.
    let last = pair.copy(&["--json", "--deep"]);
    assert_eq!((last.code, copied(&json(&last))), (0, 0), "{last:?}");
}

on!(
    a_copy_is_restored_as_its_source_is:
    redis_62 = Redis62,
    redis_70 = Redis70,
    valkey_91 = Valkey91,
);

/// From a directory to a bucket, and from there back to another directory.
fn there_and_back(cloud: Cloud, store: &str) {
    let emulator = Emulator::start_of(cloud, "bucket");
    let env: Env = emulator.environment();
    let pair = Pair::new(Version::Redis70);
    // A base of several parts.
    pair.redis.fill_with_noise(12);
    let mut backup = pair.backup(&[]);
    pair.write_one_by_one(40);
    assert_eq!(backup.sigterm(), 0);
    let output = run_with(&env, &["copy", &pair.from(), store]);
    assert_eq!(output.code, 0, "{output:?}");
    let again = run_with(&env, &["copy", &pair.from(), store, "--json"]);
    assert_eq!((again.code, copied(&json(&again))), (0, 0), "{again:?}");
    let target = Server::start(Version::Redis70, &[]);
    let args = ["restore", "--store", store, "--to", &target.url()];
    let output = run_with(&env, &args);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(target.debug_digest(), pair.redis.debug_digest());
    let listing = list_with(&env, store);
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
    let output = run_with(&env, &["copy", store, &pair.to(), "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_same(pair.home.path());
    let deep = run_with(&env, &["copy", store, &pair.to(), "--deep"]);
    assert_eq!(deep.code, 0, "{deep:?}");
}

#[test]
fn there_and_back_with_google() {
    there_and_back(Cloud::Google, "gs://bucket/some/prefix");
}

#[test]
fn there_and_back_with_s3() {
    there_and_back(Cloud::S3, "s3://bucket/some/prefix");
}

#[test]
fn there_and_back_with_azure() {
    there_and_back(Cloud::Azure, "az://bucket/some/prefix");
}

/// Two services of one kind: each has its endpoint.
#[test]
fn the_source_has_variables_of_its_own() {
    let (one, two) = (
        Emulator::start_of(Cloud::S3, "bucket"),
        Emulator::start_of(Cloud::S3, "bucket"),
    );
    let pair = Pair::new(Version::Redis70);
    let mut backup = pair.backup(&[]);
    pair.write_one_by_one(5);
    assert_eq!(backup.sigterm(), 0);
    let store = "s3://bucket/x";
    let output = run_with(&one.environment(), &["copy", &pair.from(), store]);
    assert_eq!(output.code, 0, "{output:?}");
    let mut env: Env = two.environment();
    env.push(("FROM_AWS_ENDPOINT_URL", one.host()));
    let output = run_with(&env, &["copy", store, "s3://bucket/y"]);
    assert_eq!(output.code, 0, "{output:?}");
    let listing = list_with(&two.environment(), "s3://bucket/y");
    assert_eq!(listing["histories"].as_array().unwrap().len(), 1);
}

fn spawn(args: &[&str]) -> Child {
    let mut command: Command = program();
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Killed again and again; after each time, what is there is an archive.
#[test]
fn a_copy_that_is_killed_is_an_archive_and_goes_on() {
    let version = Version::Redis70;
    let pair = Pair::new(version);
    pair.redis.fill_with_records("first");
    let mut backup = pair.backup(&["--merge", "never"]);
    pair.write_one_by_one(150);
    for verb in ["consolidate", "merge"] {
        let output = run(&[verb, "--store", &pair.from()]);
        assert_eq!(output.code, 0, "{output:?}");
        pair.write_one_by_one(150);
    }
    assert_eq!(backup.sigterm(), 0);
    let mut random = Random::new(20261130);
    let (from, to) = (pair.from(), pair.to());
    let (mut partial, mut restores) = (0, 0);
    for round in 0_u64.. {
        let mut copy = spawn(&["copy", &from, &to]);
        // A busy machine starts it late.
        thread::sleep(Duration::from_millis(20 + random.below(100 + 60 * round)));
        let ended = copy.try_wait().unwrap();
        let _ = copy.kill();
        copy.wait().unwrap();
        if ended.is_some_and(|status| status.success()) {
            break;
        }
        assert!(round < 200, "it does not come to an end");
        if !pair.home.path().join("to/archive.json").exists() {
            continue;
        }
        partial += 1;
        let listing = list(&to);
        assert_eq!(listing["unreadable"], serde_json::json!({}), "{listing:#}");
        if listing["latest"].is_null() {
            continue;
        }
        let verified = run(&["verify", "--store", &to]);
        assert_eq!(verified.code, 0, "{verified:?}");
        if restores < 4 {
            restores += 1;
            restored(version, &to);
        }
    }
    assert!(partial >= 2, "{partial}");
    assert_same(pair.home.path());
    let target = restored(version, &to);
    assert_eq!(target.debug_digest(), pair.redis.debug_digest());
}

/// While it follows, the source is written to, merged, and its merged segments are deleted.
#[test]
fn a_copy_follows_what_is_written_and_merged() {
    let version = Version::Redis70;
    let pair = Pair::new(version);
    let backup = pair.backup(&["--merge", "never"]);
    pair.write_one_by_one(50);
    let (from, to) = (pair.from(), pair.to());
    let args = ["copy", &from, &to, "--follow", "--every", "200ms"];
    let mut copy = spawn(&args);
    let (history, _) = pair.redis.position();
    let folder = pair.home.path().join("from/histories").join(&history);
    for seed in 0..4 {
        pair.write(seed, 3);
        pair.write_one_by_one(130);
        for verb in ["merge", "consolidate"] {
            let output = run(&[verb, "--store", &from]);
            assert_eq!(output.code, 0, "{output:?}");
        }
        delete_merged(&folder);
        assert!(copy.try_wait().unwrap().is_none(), "it goes on");
    }
    backup.wait_captured(&pair.redis);
    let (_, offset) = pair.redis.position();
    wait_until("it has followed", PATIENCE, || {
        let listing = list(&to);
        let histories = listing["histories"].as_array().unwrap().clone();
        let end = histories.iter().find(|it| it["id"] == history.as_str());
        end.is_some_and(|it| it["stored_offset"].as_u64() >= Some(offset))
    });
    // SIGTERM is its usual end.
    let pid = copy.id().to_string();
    assert!(Command::new("kill").arg(&pid).status().unwrap().success());
    assert_eq!(copy.wait().unwrap().code(), Some(0));
    drop(backup);
    let output = pair.copy(&[]);
    assert_eq!(output.code, 0, "{output:?}");
    let verified = run(&["verify", "--store", &to, "--deep"]);
    assert_eq!(verified.code, 0, "{verified:?}");
    let target = restored(version, &to);
    assert_eq!(target.debug_digest(), pair.redis.debug_digest());
}

/// Stop, copy once more, start: nothing is lost, and no full sync is needed.
#[test]
fn a_service_that_moves_to_the_copy_goes_on_without_a_full_sync() {
    let version = Version::Redis70;
    let pair = Pair::new(version);
    let mut backup = pair.backup(&[]);
    pair.write_one_by_one(30);
    assert_eq!(pair.copy(&[]).code, 0);
    pair.write_one_by_one(30);
    assert_eq!(backup.sigterm(), 0);
    assert_eq!(pair.redis.set_and_wait(0, "meanwhile", 1, 10), 0);
    assert_eq!(pair.copy(&[]).code, 0);
    let moved = Backfeed::backup(&pair.redis.url(), &pair.to(), &[]);
    moved.wait_following();
    assert_eq!(pair.redis.set_and_wait(0, "after", 1, 10_000), 1);
    assert_eq!(moved.metric("backfeed_full_syncs_total"), 0.0);
    drop(moved);
    let target = restored(version, &pair.to());
    assert_eq!(target.debug_digest(), pair.redis.debug_digest());
    // Whoever still writes to the old store is found by the next copy, and nothing is written over.
    let before = files(&pair.home.path().join("to"));
    let backup = pair.backup(&[]);
    pair.write_one_by_one(5);
    drop(backup);
    let output = pair.copy(&[]);
    assert_eq!(output.code, 5, "{output:?}");
    assert!(output.stderr.contains("/log/"), "{output:?}");
    assert!(
        output.stderr.contains("Nothing was overwritten"),
        "{output:?}"
    );
    assert_eq!(files(&pair.home.path().join("to")), before);
}

/// The same with a sidecar, whose new Redis begins a history of its own.
#[test]
fn a_sidecar_that_moves_to_the_copy_restores_its_redis_from_there() {
    let home = TempDir::new().unwrap();
    let store = |name: &str| format!("file://{}/{name}", home.path().display());
    let (from, to) = (store("from"), store("to"));
    let start = |store: &str| {
        let listen = free_port();
        let redis = Server::builder(Version::Redis70)
            .port(free_port())
            .replicaof("127.0.0.1", listen)
            .start();
        let sidecar = Backfeed::sidecar_with(Env::new(), &redis.url(), store, listen, &[]);
        sidecar.wait_following();
        (redis, sidecar)
    };
    let (redis, mut sidecar) = start(&from);
    assert_eq!(redis.set_and_wait(0, "first", 1, 10_000), 1);
    assert_eq!(run(&["copy", &from, &to]).code, 0);
    assert_eq!(redis.set_and_wait(0, "second", 1, 10_000), 1);
    let digest = redis.debug_digest();
    assert_eq!(sidecar.sigterm(), 0);
    drop(redis);
    assert_eq!(run(&["copy", &from, &to]).code, 0);
    let (redis, sidecar) = start(&to);
    assert_eq!(redis.debug_digest(), digest);
    assert_eq!(redis.set_and_wait(0, "third", 1, 10_000), 1);
    drop(sidecar);
    let target = restored(Version::Redis70, &to);
    assert_eq!(target.debug_digest(), redis.debug_digest());
    // Its history is not the source's.
    let output = run(&["copy", &from, &to]);
    assert!(
        output.code == 5 || output.stdout.contains("at the target alone"),
        "{output:?}"
    );
}

#[test]
fn a_damaged_object_is_told_and_the_rest_is_copied() {
    let pair = Pair::new(Version::Redis70);
    let mut backup = pair.backup(&["--merge", "never"]);
    pair.write_one_by_one(20);
    let output = run(&["consolidate", "--store", &pair.from()]);
    assert_eq!(output.code, 0, "{output:?}");
    pair.write_one_by_one(20);
    assert_eq!(backup.sigterm(), 0);
    let (history, _) = pair.redis.position();
    let log = pair
        .home
        .path()
        .join("from/histories")
        .join(&history)
        .join("log");
    let mut names: Vec<_> = fs::read_dir(&log).unwrap().flatten().collect();
    names.sort_by_key(|entry| entry.file_name());
    let victim = names[5].path();
    let whole = fs::read(&victim).unwrap();
    let mut bytes = whole.clone();
    let last = bytes.len() - 1;
    bytes[last] ^= 0x10;
    fs::write(&victim, &bytes).unwrap();
    let name = victim.file_name().unwrap().to_str().unwrap().to_owned();
    let output = pair.copy(&["--json"]);
    assert_eq!(output.code, 7, "{output:?}");
    let report = json(&output);
    assert_eq!(report["damaged_objects"], 1, "{report:#}");
    let told = report["damaged"][0]["object"].as_str().unwrap();
    assert!(told.ends_with(&name), "{report:#}");
    assert_eq!(report["copied_to_unix_ms"], Value::Null);
    // Behind it stands a base.
    let target = restored(Version::Redis70, &pair.to());
    assert_eq!(target.debug_digest(), pair.redis.debug_digest());
    fs::write(&victim, &whole).unwrap();
    let output = pair.copy(&[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_same(pair.home.path());
}

#[test]
fn what_cannot_be_copied_is_refused_before_anything_is_created() {
    let pair = Pair::new(Version::Redis70);
    let (from, to) = (pair.from(), pair.to());
    let mut backup = pair.backup(&[]);
    assert_eq!(backup.sigterm(), 0);
    let inside = format!("{from}/copy");
    let empty = format!("file://{}/empty", pair.home.path().display());
    let other = format!("file://{}/other", pair.home.path().display());
    let foreign = pair.home.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("photo.jpg"), "x").unwrap();
    let foreign = format!("file://{}", foreign.display());
    let backup = Backfeed::backup(&pair.redis.url(), &other, &[]);
    backup.wait_following();
    drop(backup);
    for (args, code, told) in [
        (&[&from, &from], 2, "the same place"),
        (&[&from, &inside], 2, "lies within"),
        (&[&inside, &from], 2, "lies within"),
        (&[&empty, &to], 6, "is empty"),
        (&[&from, &foreign], 3, "photo.jpg"),
        (&[&from, &other], 3, "another archive"),
        (&[&"x".to_owned(), &to], 3, "write gs://"),
    ] {
        let output = run(&["copy", args[0], args[1]]);
        assert_eq!(output.code, code, "{output:?}");
        assert!(output.stderr.contains(told), "{output:?}");
    }
    assert!(!pair.home.path().join("to/archive.json").exists());
    let newer = pair.home.path().join("from/archive.json");
    let text = fs::read_to_string(&newer).unwrap();
    fs::write(&newer, text.replace("\"format\": 1", "\"format\": 9")).unwrap();
    let output = run(&["copy", &from, &to]);
    assert_eq!(output.code, 7, "{output:?}");
    assert!(output.stderr.contains("newer backfeed"), "{output:?}");
    assert!(!pair.home.path().join("to/archive.json").exists());
}
