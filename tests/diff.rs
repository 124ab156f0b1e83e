//! `backfeed diff`: two points differ in what was written between them, and in nothing else.

use std::fs::{read_dir, remove_file};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::backfeed::Output;
use crate::support::data::for_each_version;
use crate::support::{Backfeed, Server, Version, run};

struct Stored {
    home: TempDir,
    store: String,
    server: Server,
    backfeed: Backfeed,
}

impl Stored {
    /// A base with `before` in it, each line a command.
    fn new(version: Version, before: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let server = Server::start(version, &[]);
        let mut connection = server.connect();
        send(&mut connection, before);
        let backfeed = Backfeed::backup(&server.url(), &store, &[]);
        backfeed.wait_following();
        Self {
            home,
            store,
            server,
            backfeed,
        }
    }

    /// Runs commands; the point after them.
    fn run(&self, lines: &[&str]) -> String {
        send(&mut self.server.connect(), lines);
        self.backfeed.wait_captured(&self.server);
        format!("offset:{}", self.server.position().1)
    }

    fn diff(&self, from: &str, to: &str, more: &[&str]) -> Value {
        let output = compare(&self.store, from, to, &[&["--json"], more].concat());
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }
}

fn compare(store: &str, from: &str, to: &str, more: &[&str]) -> Output {
    let args = ["diff", "--store", store, "--from", from, "--to", to];
    run(&[&args, more].concat())
}

fn send(connection: &mut redis::Connection, lines: &[&str]) {
    for line in lines {
        let mut command = redis::Cmd::new();
        for word in line.split(' ') {
            command.arg(word);
        }
        let _: redis::Value = command.query(connection).unwrap();
    }
}

/// `+0 key`: what, database, name.
fn keys(diff: &Value) -> Vec<String> {
    let keys = diff["keys"].as_array().unwrap().iter();
    let sign = |what: &Value| match what.as_str().unwrap() {
        "added" => '+',
        "changed" => '~',
        _ => '-',
    };
    keys.map(|key| {
        format!(
            "{}{} {}",
            sign(&key["what"]),
            key["db"],
            key["key"].as_str().unwrap()
        )
    })
    .collect()
}

for_each_version!(what_was_written_between_is_what_differs);

fn what_was_written_between_is_what_differs(version: Version) {
    let stored = Stored::new(
        version,
        &[
            "MSET a:same 1 a:value 1 a:gone 1 a:ttl 1 a:type 1 a:back 1",
            "HSET h f v g w",
            "SELECT 3",
            "SET b 1",
        ],
    );
    let first = stored.run(&["SET early 1", "SET a:same 1"]);
    let second = stored.run(&[
        "SET a:new 1",
        "SET a:value 2",
        "DEL a:gone",
        "EXPIRE a:ttl 1000",
        "DEL a:type",
        "HSET a:type f v",
        // Another way to the same.
        "SET a:same 1",
        "HDEL h f",
        "HSET h f v",
        "SET a:back 2",
        "SET a:back 1",
        "SET a:came 1",
        "DEL a:came",
        "SELECT 3",
        "RENAME b c",
    ]);
    let third = stored.run(&["SET late 1"]);
    let found = stored.diff(&first, &second, &[]);
    assert_eq!(
        keys(&found),
        [
            "-0 a:gone",
            "+0 a:new",
            "~0 a:ttl",
            "~0 a:type",
            "~0 a:value",
            "-3 b",
            "+3 c"
        ],
        "{version}: {found:#}"
    );
    assert_eq!(
        found["added"],
        json!({ "keys": 2, "types": { "string": 2 } })
    );
    assert_eq!(
        found["changed"],
        json!({ "keys": 3, "types": { "string": 2, "hash": 1 } })
    );
    assert_eq!(found["removed"]["keys"], 2);
    let ttl = &found["keys"][2];
    assert_eq!(
        (&ttl["value_changed"], &ttl["expiry_before_unix_ms"]),
        (&false.into(), &Value::Null)
    );
    assert!(ttl["expiry_after_unix_ms"].is_i64(), "{ttl}");
    let prefix = &found["prefixes"][1];
    assert_eq!(
        prefix,
        &json!({ "prefix": "a:", "added": 1, "changed": 3, "removed": 1 })
    );

    assert_eq!(keys(&stored.diff(&second, &third, &[])), ["+0 late"]);
    assert_eq!(
        keys(&stored.diff(&second, &second, &[])),
        Vec::<String>::new()
    );
    let cut = stored.diff(&first, "latest", &["--limit", "1"]);
    assert_eq!((keys(&cut).len(), &cut["more"]), (1, &7.into()));
    let text = run(&[
        "diff",
        "--store",
        &stored.store,
        "--from",
        &first,
        "--to",
        &second,
    ])
    .stdout;
    for line in [
        "added     2 (string 2)",
        "  ~ db0 a:type (hash): was string",
        "  - db0 a:gone (string)",
    ] {
        assert!(text.contains(line), "{text}");
    }
}

#[test]
fn what_a_flush_takes_is_counted_and_its_database_alone() {
    let stored = Stored::new(
        Version::Redis70,
        &["MSET a 1 b 1 c 1", "RPUSH l x", "SELECT 3", "MSET a 1 b 1"],
    );
    let first = stored.run(&["SET touched 1"]);
    let second = stored.run(&["FLUSHDB", "SET a 2"]);
    let found = stored.diff(&first, &second, &[]);
    assert_eq!(keys(&found), ["~0 a", "-0 touched"], "{found:#}");
    assert_eq!(found["removed_unlisted"], 3);
    assert_eq!(
        found["removed"],
        json!({ "keys": 4, "types": { "string": 3, "list": 1 } })
    );
    let third = stored.run(&["FLUSHALL"]);
    let found = stored.diff(&second, &third, &[]);
    assert_eq!(keys(&found), ["-0 a"], "{found:#}");
    assert_eq!(found["removed"]["keys"], 3);

    for (from, to, code, word) in [
        (&third, &second, 2, "lies before the earlier one"),
        (
            &"offset:99999999".to_owned(),
            &third,
            6,
            "is after the last point",
        ),
    ] {
        let output = compare(&stored.store, from, to, &[]);
        assert_eq!(output.code, code, "{output:?}");
        assert!(output.stderr.contains(word), "{output:?}");
    }
}

#[test]
fn databases_that_were_swapped_are_compared_with_what_they_were() {
    let stored = Stored::new(
        Version::Redis70,
        &[
            "MSET a 1 b 1 c 1",
            "SELECT 3",
            "MSET a 3 d 3",
            "SELECT 5",
            "SET e 5",
        ],
    );
    let first = stored.run(&["SWAPDB 0 1"]);
    // What was 0 is 1 here; then 1 is 3, and 3 is 1, and that 1 is 5.
    let second = stored.run(&[
        "SELECT 1",
        "SET a 2",
        "SWAPDB 1 3",
        "DEL d",
        "SELECT 3",
        "SET new 1",
        "SWAPDB 1 5",
    ]);
    let found = stored.diff(&first, &second, &[]);
    assert_eq!(keys(&found), ["~3 a", "+3 new", "-5 d"], "{found:#}");
    let swapped = json!([{ "before": 5, "after": 1 }, { "before": 1, "after": 3 }, { "before": 3, "after": 5 }]);
    assert_eq!(found["swapped"], swapped);
    let third = stored.run(&["SELECT 5", "FLUSHDB", "SET z 1", "SWAPDB 5 3"]);
    let found = stored.diff(&second, &third, &[]);
    assert_eq!(keys(&found), ["+3 z"], "{found:#}");
    assert_eq!(found["removed_unlisted"], 1);
    let output = compare(&stored.store, &second, &third, &[]);
    assert!(
        output.stdout.contains("swapped   db5 is db3 now"),
        "{output:?}"
    );
    let last = stored.run(&["SWAPDB 5 3"]);
    let found = stored.diff(&second, &last, &[]);
    assert_eq!(found["swapped"], json!([]));
}

/// Both sides of what a full sync stepped over can be looked into, and the way across is not known.
#[test]
fn points_with_missing_log_between_them_are_not_compared() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let server = Server::builder(Version::Redis80)
        .arg("repl-backlog-size", "16kb")
        .start();
    let point = |lines: &[&str]| {
        send(&mut server.connect(), lines);
        format!("offset:{}", server.position().1)
    };
    let follow = || {
        let backfeed = Backfeed::backup(&server.url(), &store, &[]);
        backfeed.wait_following();
        backfeed
    };
    let first = follow();
    let before = point(&["SET a 1"]);
    let also_before = point(&["SET a 2"]);
    first.wait_captured(&server);
    drop(first);
    let within = point(&["SET within 1"]);
    // More than the backlog holds.
    let long = "x".repeat(100_000);
    point(&[&format!("SET long {long}"), "DEL long"]);
    let second = follow();
    point(&["PING"]);
    let behind = point(&["SET b 1"]);
    let also_behind = point(&["SET b 2"]);
    second.wait_captured(&server);
    drop(second);
    let diff = |from: &str, to: &str| compare(&store, from, to, &[]);
    assert_eq!(diff(&before, &also_before).code, 0);
    assert_eq!(diff(&behind, &also_behind).code, 0);
    for to in [&behind, "latest"] {
        let output = diff(&before, to);
        assert_eq!(output.code, 6, "{output:?}");
        assert!(
            output
                .stderr
                .contains("because a full sync stepped over it (it continues"),
            "{output:?}"
        );
    }
    let output = diff(&before, &within);
    assert_eq!(output.code, 6, "{output:?}");
    assert!(
        output
            .stderr
            .contains("cannot be restored: nobody has the log"),
        "{output:?}"
    );
}

/// Nor those with a segment between them that was lost: that is damage, and said to be.
#[test]
fn points_with_lost_log_between_them_are_damage() {
    let stored = Stored::new(Version::Redis80, &["SET a 1"]);
    let before = stored.run(&["SET a 2"]);
    stored.run(&["SET a 3"]);
    let histories = stored.home.path().join("bucket/histories");
    let history = read_dir(histories).unwrap().next().unwrap().unwrap();
    let segments = read_dir(history.path().join("log")).unwrap();
    let lost = segments.map(|it| it.unwrap().path()).max().unwrap();
    stored.run(&["SET a 4"]);
    let made = run(&["consolidate", "--store", &stored.store]);
    assert_eq!(made.code, 0, "{made:?}");
    stored.run(&["SET a 5"]);
    remove_file(lost).unwrap();
    assert_eq!(compare(&stored.store, &before, &before, &[]).code, 0);
    let output = compare(&stored.store, &before, "latest", &[]);
    assert_eq!(output.code, 7, "{output:?}");
    assert!(output.stderr.contains("has a gap"), "{output:?}");
}
