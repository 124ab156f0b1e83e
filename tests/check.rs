//! `backfeed check`: each thing that a service needs is tried, and nothing begins.

use std::fs;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::s3::S3;
use crate::support::{Backfeed, Env, Server, Version, free_port, on, run, run_with};

struct Checked {
    code: i32,
    report: Value,
    stderr: String,
}

impl Checked {
    fn of(env: &Env, args: &[&str]) -> Self {
        let words = [&["check"], args, &["--json"]].concat();
        let output = run_with(env, &words);
        let report = serde_json::from_str(&output.stdout);
        Self {
            code: output.code,
            report: report.unwrap_or_else(|error| panic!("{error}: {output:?}")),
            stderr: output.stderr,
        }
    }

    fn finding(&self, what: &str) -> &Value {
        let findings = self.report["findings"].as_array().unwrap();
        let found = findings.iter().find(|finding| finding["what"] == what);
        found.unwrap_or_else(|| panic!("{what}: {:#}", self.report))
    }

    #[track_caller]
    fn is(&self, what: &str, verdict: &str) {
        assert_eq!(self.finding(what)["verdict"], verdict, "{:#}", self.report);
    }

    fn change(&self, what: &str) -> &str {
        self.finding(what)["change"].as_str().unwrap_or_default()
    }
}

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

fn backup(server: &Server, home: &TempDir, more: &[&str]) -> Checked {
    let (url, store) = (server.url(), store(home));
    let args = [&["backup", "--redis", &url, "--store", &store], more].concat();
    Checked::of(&Env::new(), &args)
}

/// The objects in the store.
fn objects(home: &TempDir) -> Vec<String> {
    fn below(dir: &std::path::Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => below(&path, found),
                false => found.push(path.display().to_string()),
            }
        }
    }
    let mut found = Vec::new();
    below(&home.path().join("bucket"), &mut found);
    found.sort();
    found
}

fn a_server_that_has_all_is_found_right_and_left_as_it_is(version: Version) {
    let home = TempDir::new().unwrap();
    let server = Server::start(version, &[]);
    server.cmd(&["SET", "a", "1"]);
    let before = server.debug_digest();
    for round in 0..2 {
        let checked = backup(&server, &home, &["--http", "127.0.0.1:0"]);
        assert_eq!(checked.code, 0, "{}", checked.stderr);
        for what in [
            "connects",
            "version",
            "role",
            "may run INFO",
            "may run REPLCONF",
            "clock",
            "deletes",
            "reads, lists, creates once",
        ] {
            checked.is(what, "ok");
        }
        // Redis 6 tells no permissions, and is asked for a part of its feed when it has one.
        let asked = if version.relative_ttls() {
            "unknown"
        } else {
            "ok"
        };
        checked.is("may run PSYNC", asked);
        assert_eq!(server.info("stats")["sync_full"], "0", "{version}");
        let objects = objects(&home);
        assert_eq!(objects.len(), 1, "{round}: {objects:?}");
        assert!(objects[0].ends_with("/archive.json"), "{objects:?}");
    }
    assert_eq!(server.debug_digest(), before);
    // With a backlog, PSYNC is tried for real.
    let backfeed = Backfeed::backup(&server.url(), &store(&home), &[]);
    backfeed.wait_captured(&server);
    drop(backfeed);
    let stored = objects(&home);
    let checked = backup(&server, &home, &[]);
    checked.is("may run PSYNC", "ok");
    checked.is("archive", "ok");
    assert_eq!(server.info("stats")["sync_full"], "1", "{version}");
    assert_eq!(objects(&home), stored);
}

on!(a_server_that_has_all_is_found_right_and_left_as_it_is: redis_60 = Redis60, redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// Each change that is given is made, until nothing is wrong.
fn permissions_that_lack_are_found_one_by_one(version: Version) {
    let home = TempDir::new().unwrap();
    let server = Server::start(version, &[]);
    // It has a backlog.
    let other = Backfeed::backup(&server.url(), &store(&home), &["--once"]);
    let mut other = other;
    assert_eq!(other.wait_exit(), 0);
    server.cmd(&["ACL", "SETUSER", "backup", "on", ">secret", "+info"]);
    let home = TempDir::new().unwrap();
    let url = format!("redis://backup:secret@127.0.0.1:{}", server.port());
    let store = store(&home);
    let args = ["backup", "--redis", &url, "--store", &store];
    let mut changed = Vec::new();
    loop {
        let checked = Checked::of(&Env::new(), &args);
        let findings = checked.report["findings"].as_array().unwrap();
        let failed = findings.iter().find(|it| it["verdict"] == "failed");
        let Some(failed) = failed else {
            assert_eq!(checked.code, 0, "{}", checked.stderr);
            break;
        };
        assert_eq!(checked.code, 4, "{}", checked.stderr);
        assert!(!checked.stderr.contains("secret"), "{}", checked.stderr);
        let change = failed["change"].as_str().unwrap();
        let rule = change.rsplit_once(' ').unwrap().1.to_owned();
        server.cmd(&["ACL", "SETUSER", "backup", &rule]);
        assert!(
            !changed.contains(&rule),
            "{changed:?}: {:#}",
            checked.report
        );
        changed.push(rule);
    }
    assert_eq!(changed, ["+ping", "+replconf", "+psync"], "{version}");
    // That is enough.
    let backfeed = Backfeed::backup(&url, &store, &[]);
    backfeed.wait_captured(&server);
}

on!(permissions_that_lack_are_found_one_by_one: redis_60 = Redis60, redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

#[test]
fn a_backlog_that_is_too_short_for_the_writes_is_found() {
    let home = TempDir::new().unwrap();
    let server = Server::start(Version::Redis86, &["--repl-backlog-size", "16kb"]);
    let backfeed = Backfeed::backup(&server.url(), &store(&home), &[]);
    backfeed.wait_captured(&server);
    let mut connection = server.connect();
    let writes = thread::spawn(move || {
        let value = vec![b'x'; 1000];
        for _ in 0..600 {
            let _: () = redis::cmd("SET")
                .arg("key")
                .arg(&value)
                .query(&mut connection)
                .unwrap();
            thread::sleep(Duration::from_millis(10));
        }
    });
    let checked = backup(&server, &home, &[]);
    checked.is("backlog", "warning");
    assert_eq!(checked.code, 0, "it works: {}", checked.stderr);
    let change = checked.change("backlog").to_owned();
    let words: Vec<&str> = change.split(' ').skip(1).collect();
    assert_eq!(
        words[..3],
        ["CONFIG", "SET", "repl-backlog-size"],
        "{change}"
    );
    server.cmd(&words);
    let checked = backup(&server, &home, &[]);
    checked.is("backlog", "ok");
    writes.join().unwrap();
}

#[test]
fn settings_that_matter_are_looked_at() {
    let home = TempDir::new().unwrap();
    let server = Server::start(
        Version::Redis70,
        &[
            "--client-output-buffer-limit",
            "replica 1mb 0 0",
            "--min-replicas-to-write",
            "1",
            "--repl-diskless-sync",
            "no",
        ],
    );
    let checked = backup(&server, &home, &[]);
    for what in ["output buffer", "min-replicas-to-write", "full sync"] {
        checked.is(what, "warning");
        assert!(!checked.change(what).is_empty(), "{:#}", checked.report);
    }
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    server.cmd(&["ACL", "SETUSER", "default", "-config"]);
    let checked = backup(&server, &home, &[]);
    checked.is("settings", "unknown");
    assert_eq!(checked.report["verdict"], "unknown");
}

#[test]
fn what_does_not_answer_is_named() {
    let home = TempDir::new().unwrap();
    let server = Server::start(Version::Redis86, &["--requirepass", "right"]);
    let store = store(&home);
    let wrong = format!("redis://:wrong@127.0.0.1:{}", server.port());
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    for url in [&wrong, &nobody] {
        let args = ["backup", "--redis", url, "--store", &store];
        let checked = Checked::of(&Env::new(), &args);
        assert_eq!(checked.code, 4, "{}", checked.stderr);
        checked.is("connects", "failed");
        // The rest is tried even so.
        checked.is("reads, lists, creates once", "ok");
        assert!(!checked.report.to_string().contains("wrong@"));
    }
    let server = Server::start(Version::Redis86, &[]);
    let file = home.path().join("file");
    fs::write(&file, "").unwrap();
    let url = server.url();
    let no_store = format!("file://{}/bucket", file.display());
    let checked = Checked::of(
        &Env::new(),
        &["backup", "--redis", &url, "--store", &no_store],
    );
    assert_eq!(checked.code, 3, "{}", checked.stderr);
    checked.is("reads, lists, creates once", "failed");
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let args = [
        "sidecar", "--redis", &url, "--store", &store, "--listen", &taken, "--http", &taken,
    ];
    let checked = Checked::of(&Env::new(), &args);
    drop(other);
    assert_eq!(checked.code, 1, "{}", checked.stderr);
    checked.is("listens for Redis", "failed");
    checked.is("serves health and metrics", "failed");
}

#[test]
fn a_sidecar_needs_more_and_its_store_knows_its_name() {
    let home = TempDir::new().unwrap();
    let server = Server::start(Version::Redis86, &[]);
    let (url, store) = (server.url(), store(&home));
    let listen = format!("127.0.0.1:{}", free_port());
    let args = [
        "sidecar", "--redis", &url, "--store", &store, "--listen", &listen, "--name", "shop",
    ];
    let checked = Checked::of(&Env::new(), &args);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    for what in [
        "may run REPLICAOF",
        "may run CONFIG",
        "owner",
        "listens for Redis",
    ] {
        checked.is(what, "ok");
    }
    assert_eq!(server.info("replication")["role"], "master");
    let sidecar = Backfeed::sidecar(&url, &store, free_port(), &["--name", "other"]);
    sidecar.wait_captured(&server);
    drop(sidecar);
    let checked = Checked::of(&Env::new(), &args);
    assert_eq!(checked.code, 3, "{}", checked.stderr);
    checked.is("owner", "failed");
    server.cmd(&["ACL", "SETUSER", "default", "-replicaof", "-slaveof"]);
    let checked = Checked::of(&Env::new(), &args);
    checked.is("may run REPLICAOF", "failed");
    // It says what to do, and that works.
    let rule = checked
        .change("may run REPLICAOF")
        .rsplit_once(' ')
        .unwrap()
        .1;
    server.cmd(&["ACL", "SETUSER", "default", rule]);
    Checked::of(&Env::new(), &args).is("may run REPLICAOF", "ok");
}

#[test]
fn a_store_that_refuses_deletes_is_enough_unless_something_is_to_be_deleted() {
    let server = Server::start(Version::Redis86, &[]);
    let s3 = S3::start();
    let url = server.url();
    let args = ["backup", "--redis", &url, "--store", "s3://bucket/b"];
    let checked = Checked::of(&s3.environment(), &args);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    checked.is("deletes", "ok");
    s3.lock("clock");
    let checked = Checked::of(&s3.environment(), &args);
    assert_eq!(checked.code, 0, "{}", checked.stderr);
    checked.is("deletes", "warning");
    let more = [&args[..], &["--keep", "7d"]].concat();
    let checked = Checked::of(&s3.environment(), &more);
    assert_eq!(checked.code, 3, "{}", checked.stderr);
    checked.is("deletes", "failed");
}

#[test]
fn people_get_a_table_that_fits() {
    let home = TempDir::new().unwrap();
    let server = Server::start(Version::Valkey91, &[]);
    let (url, store) = (server.url(), store(&home));
    let output = run(&["check", "backup", "--redis", &url, "--store", &store]);
    assert_eq!(output.code, 0, "{output:?}");
    for line in output.stdout.lines() {
        let is_word = line.split_whitespace().count() == 1;
        assert!(line.chars().count() <= 80 || is_word, "{line}");
    }
    assert!(
        output
            .stdout
            .contains("redis  ok       version: valkey 9.1"),
        "{}",
        output.stdout
    );
    assert!(
        output.stdout.trim_end().ends_with(", 0 failed"),
        "{}",
        output.stdout
    );
}
