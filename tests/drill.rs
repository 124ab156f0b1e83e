//! `backfeed drill`: a restore is tried on servers that are started for it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::{Output, PATIENCE, program};
use crate::support::data::{self, Expiries, Mix};
use crate::support::{Backfeed, Server, Version, list, on, run, wait_until};

/// An archive of a base and a log of all kinds of commands, and the place for what a drill needs.
struct Archive {
    home: TempDir,
    redis: Server,
}

impl Archive {
    fn new(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let redis = Server::start(version, &[]);
        let archive = Self { home, redis };
        archive.write("base");
        let backfeed = Backfeed::backup(
            &archive.redis.url(),
            &archive.store(),
            &["--consolidate-every", "never"],
        );
        backfeed.wait_following();
        archive.write("log");
        archive.redis.cmd(&["SET", "plain", "value"]);
        archive.redis.cmd(&["SET", "timed", "value", "EX", "5000"]);
        archive.redis.cmd(&["XADD", "stream", "7-1", "a", "1"]);
        archive
            .redis
            .cmd(&["XGROUP", "CREATE", "stream", "group", "$"]);
        backfeed.wait_captured(&archive.redis);
        archive
    }

    /// Of all kinds. (No base can be made of a log with the vector sets of Redis 8, so it has records alone.)
    fn write(&self, what: &str) {
        if matches!(self.redis.version(), Version::Redis80 | Version::Redis86) {
            self.redis.fill_with_records(what);
            return;
        }
        let mut connection = self.redis.connect();
        let mut mix = Mix::new(&mut connection, 11, Expiries::Late);
        data::run(&mut connection, &mut mix, 20);
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn drill(&self, more: &[&str]) -> Output {
        let scratch = self.home.path().join("scratch");
        fs::create_dir_all(&scratch).unwrap();
        let (store, dir) = (self.store(), scratch.display().to_string());
        let args = ["drill", "--json", "--store", &store, "--scratch-dir", &dir];
        let output = run(&[&args, more].concat());
        // Nothing is left.
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "{output:?}");
        output
    }

    fn keys(&self) -> u64 {
        let databases = self.redis.info("keyspace");
        let keys = databases.values().map(|about| {
            let keys = about.strip_prefix("keys=").unwrap();
            keys.split(',').next().unwrap().parse::<u64>().unwrap()
        });
        keys.sum()
    }
}

fn server(version: Version) -> String {
    version.program("server").display().to_string()
}

fn report(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn sum(keys: &Value) -> u64 {
    let keys = keys.as_object().unwrap().values();
    keys.map(|count| count.as_u64().unwrap()).sum()
}

/// No process of a drill is left. (Of one that failed, it is gone soon.)
#[track_caller]
fn assert_none_runs(home: &Path) {
    wait_until("no server of a drill runs", PATIENCE, || !runs(home));
}

fn runs(home: &Path) -> bool {
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let dir = fs::read_link(entry.path().join("cwd"));
        if dir.is_ok_and(|dir| dir.starts_with(home.join("scratch"))) {
            return true;
        }
    }
    false
}

fn every_value_is_the_same_on_both_ways(version: Version) {
    let archive = Archive::new(version);
    let output = archive.drill(&["--server", &server(version)]);
    assert_eq!(output.code, 0, "{version}: {output:?}");
    let report = report(&output);
    assert_eq!(report["compared"], "all", "{version}: {report:#}");
    assert_eq!(report["different_keys"], 0, "{report:#}");
    assert_eq!(report["restore"]["is_latest"], true, "{report:#}");
    assert_eq!(sum(&report["restore"]["keys"]), archive.keys(), "{version}");
    let (_, offset) = archive.redis.position();
    assert_eq!(report["restore"]["end_offset"], offset, "{version}");
    assert!(report["restore"]["commands"].as_u64().unwrap() > 0);
    assert_none_runs(archive.home.path());
    let listing = list(&archive.store());
    let base = &listing["histories"][0]["bases"][0];
    assert_eq!(base["drilled"]["passed"], true, "{listing:#}");
    assert_eq!(base["drilled"]["compared"], "all", "{listing:#}");
    assert_eq!(base["drilled"]["keys"], archive.keys(), "{listing:#}");
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
}

on!(every_value_is_the_same_on_both_ways: redis_60 = Redis60, redis_62 = Redis62, redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

/// A server that changes what it is given, if it is given an RDB.
fn liar(home: &Path, version: Version, dump: &Path) -> String {
    let path: PathBuf = home.join("liar");
    let script = format!(
        "#!/bin/sh\nif [ -e dump.rdb ]; then cp {} dump.rdb; fi\nexec {} \"$@\"\n",
        dump.display(),
        server(version)
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

#[test]
fn a_key_that_differs_is_an_error_and_is_named() {
    let version = Version::Redis86;
    let archive = Archive::new(version);
    let rdb = archive.home.path().join("other.rdb");
    let other = Server::start(version, &[]);
    let output = run(&["restore", "--store", &archive.store(), "--to", &other.url()]);
    assert_eq!(output.code, 0, "{output:?}");
    for (change, what) in [
        (&["SET", "plain", "other"][..], "has another value"),
        (&["DEL", "plain"], "is not in the RDB"),
        (
            &["SET", "plain", "value", "EX", "1000"],
            "expires on one of both",
        ),
    ] {
        other.cmd(change);
        other.save();
        fs::copy(other.dir().join("dump.rdb"), &rdb).unwrap();
        let output = archive.drill(&["--server", &liar(archive.home.path(), version, &rdb)]);
        assert_eq!(output.code, 4, "{what}: {output:?}");
        let report = report(&output);
        assert_eq!(report["different_keys"], 1, "{report:#}");
        let difference = &report["differences"][0];
        assert_eq!(difference["key"], "plain", "{report:#}");
        assert!(
            difference["what"].as_str().unwrap().starts_with(what),
            "{report:#}"
        );
    }
    other.cmd(&["SET", "plain", "value"]);
    other.cmd(&["SET", "more", "value"]);
    other.save();
    fs::copy(other.dir().join("dump.rdb"), &rdb).unwrap();
    let output = archive.drill(&["--server", &liar(archive.home.path(), version, &rdb)]);
    assert_eq!(output.code, 4, "{output:?}");
    assert_eq!(report(&output)["differences"][0]["key"], "more");
    other.cmd(&["DEL", "more"]);
    for (count, change, what) in [
        (
            1,
            &["XGROUP", "SETID", "stream", "group", "0"][..],
            "has other groups",
        ),
        (2, &["EXPIRE", "timed", "9000"], "expires at another time"),
    ] {
        other.cmd(change);
        other.save();
        fs::copy(other.dir().join("dump.rdb"), &rdb).unwrap();
        let output = archive.drill(&["--server", &liar(archive.home.path(), version, &rdb)]);
        assert_eq!(output.code, 4, "{what}: {output:?}");
        let report = report(&output);
        assert_eq!(report["different_keys"], count, "{report:#}");
        let differences = report["differences"].as_array().unwrap();
        let told = differences.iter().filter_map(|it| it["what"].as_str());
        assert_eq!(
            told.filter(|it| it.starts_with(what)).count(),
            1,
            "{report:#}"
        );
    }
    // The last verdict counts.
    let listing = list(&archive.store());
    let drilled = &listing["histories"][0]["bases"][0]["drilled"];
    assert_eq!(drilled["passed"], false, "{listing:#}");
    assert_eq!(drilled["different_keys"], 2, "{listing:#}");
    assert_none_runs(archive.home.path());
}

#[test]
fn without_a_server_each_value_is_read() {
    let archive = Archive::new(Version::Redis70);
    let output = archive.drill(&["--without-server"]);
    assert_eq!(output.code, 0, "{output:?}");
    let read = report(&output);
    assert_eq!(read["compared"], "read", "{read:#}");
    assert_eq!(read["server"], Value::Null);
    assert_eq!(sum(&read["restore"]["keys"]), archive.keys());
    // A damaged archive is found in both ways.
    let histories = archive.home.path().join("bucket/histories");
    let history = fs::read_dir(histories).unwrap().next().unwrap().unwrap();
    let base = fs::read_dir(history.path().join("base")).unwrap();
    let mut base = base.map(|entry| entry.unwrap().path());
    let base = base
        .find(|path| path.extension().is_some_and(|it| it == "zst"))
        .unwrap();
    let mut bytes = fs::read(&base).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::set_permissions(&base, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&base, bytes).unwrap();
    let server = server(Version::Redis70);
    for way in [&["--without-server"][..], &["--server", &server]] {
        let output = archive.drill(way);
        assert_eq!(output.code, 7, "{output:?}");
    }
}

#[test]
fn what_cannot_be_compared_is_said() {
    let archive = Archive::new(Version::Redis70);
    let server_70 = server(Version::Redis70);
    let output = archive.drill(&["--server", &server_70, "--memory-limit", "1KiB"]);
    assert_eq!(output.code, 0, "{output:?}");
    let counted = report(&output);
    assert_eq!(counted["compared"], "nothing", "{counted:#}");
    assert!(
        counted["compared_why"].as_str().unwrap().contains("memory"),
        "{counted:#}"
    );

    let limited = [
        "--server",
        &server_70,
        "--memory-limit",
        "1KiB",
        "--require-all",
    ];
    let output = archive.drill(&limited);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("not every key"), "{output:?}");

    let output = archive.drill(&["--server", "/bin/true"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("does not say its version"),
        "{output:?}"
    );
    let output = archive.drill(&["--server", "/nowhere"]);
    assert_eq!(output.code, 1, "{output:?}");
    let old = server(Version::Redis60);
    let output = archive.drill(&["--server", &old]);
    assert_eq!(output.code, 4, "an older server: {output:?}");
    let output = archive.drill(&["--server", &server_70, "--at", "offset:999999999"]);
    assert_eq!(output.code, 6, "{output:?}");
    assert_none_runs(archive.home.path());
}

#[test]
fn a_signal_ends_the_servers_and_leaves_nothing() {
    let archive = Archive::new(Version::Redis70);
    let home = archive.home.path();
    let (slow, scratch) = (home.join("slow"), home.join("scratch"));
    fs::create_dir_all(&scratch).unwrap();
    // The second one never answers.
    let script = format!(
        "#!/bin/sh\nif [ -e dump.rdb ]; then exec sleep 600; fi\nexec {} \"$@\"\n",
        server(Version::Redis70)
    );
    fs::write(&slow, script).unwrap();
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).unwrap();
    for signal in ["TERM", "INT", "HUP"] {
        let mut drill = program()
            .args(["drill", "--store", &archive.store()])
            .arg("--server")
            .arg(&slow)
            .arg("--scratch-dir")
            .arg(&scratch)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let made = |dir: &str| {
            let mut drills = fs::read_dir(&scratch).unwrap().flatten();
            drills.any(|drill| drill.path().join(dir).join("log").exists())
        };
        wait_until("the second server is started", PATIENCE, || made("second"));
        let pid = drill.id().to_string();
        let sent = Command::new("kill").args(["-s", signal, &pid]).status();
        assert!(sent.unwrap().success());
        assert_eq!(drill.wait().unwrap().code(), Some(1), "{signal}");
        assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0, "{signal}");
        assert_none_runs(home);
    }
}

/// A service tries restores of its own archive, and says what came of the last one.
#[test]
fn a_service_drills_by_itself() {
    let version = Version::Redis70;
    let archive = Archive::new(version);
    let scratch = archive.home.path().join("scratch");
    fs::create_dir_all(&scratch).unwrap();
    let scratch_dir = scratch.display().to_string();
    let start = |server: &str| {
        let more = ["--drill-every", "1s", "--drill-server", server];
        let dir = ["--drill-dir", scratch_dir.as_str()];
        let backfeed = Backfeed::backup(
            &archive.redis.url(),
            &archive.store(),
            &[&more[..], &dir].concat(),
        );
        backfeed.wait_following();
        backfeed
    };
    let backfeed = start(&server(version));
    let keys = archive.keys();
    backfeed.wait("a drill has passed", |view| {
        let drill = &view["drill"];
        drill["passed"] == true && drill["compared"] == "all" && drill["keys"] == keys
    });
    assert_eq!(backfeed.metric("backfeed_drill_failures_total"), 0.0);
    assert!(backfeed.metric("backfeed_drills_total") >= 1.0);
    assert_eq!(backfeed.metric("backfeed_drill_keys"), keys as f64);
    assert!(backfeed.metric("backfeed_drill_timestamp_seconds") > 1.0);
    assert!(backfeed.metric("backfeed_drill_duration_seconds") > 0.0);
    drop(backfeed);
    let listing = list(&archive.store());
    let base = &listing["histories"][0]["bases"][0];
    assert_eq!(base["drilled"]["passed"], true, "{listing:#}");

    // One that fails is told until one passes. The capture goes on.
    let backfeed = start("/bin/true");
    backfeed.wait("a drill has failed", |view| {
        let told = view["drill"]["error"].as_str().unwrap_or_default();
        told.contains("does not say its version") && view["ready"] == true
    });
    assert!(backfeed.metric("backfeed_drill_failures_total") >= 1.0);
    drop(backfeed);
    assert_none_runs(archive.home.path());
}
