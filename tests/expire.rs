//! `backfeed expire` and `backfeed hold` on an archive that a real server's writes made. The store is S3 in memory, so that a test
//! can make objects old.

use std::time::Duration;

use serde_json::Value;

use crate::support::backfeed::{Output, PATIENCE};
use crate::support::s3::S3;
use crate::support::{Backfeed, Server, Version, on, run_with, wait_until};

const STORE: &str = "s3://bucket/b";
const HOUR: Duration = Duration::from_secs(3600);

/// A server, and two listeners that back it up.
struct Case {
    version: Version,
    s3: S3,
    server: Server,
    one: Backfeed,
    two: Backfeed,
}

impl Case {
    fn start(version: Version) -> Self {
        let (s3, server) = (S3::start(), Server::start(version, &[]));
        let backup = || {
            let url = server.url();
            let args = ["backup", "--redis", &url, "--store", STORE];
            let quick = ["--flush-interval", "50ms", "--consolidate-every", "never"];
            let args = [&args[..], &quick].concat();
            let backup = Backfeed::start_with(s3.environment(), &args);
            backup.wait_following();
            backup
        };
        let (one, two) = (backup(), backup());
        Self {
            version,
            s3,
            server,
            one,
            two,
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        run_with(
            &self.s3.environment(),
            &[args, &["--store", STORE]].concat(),
        )
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert_eq!(output.code, 0, "{output:?}");
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// The write is stored. The offset behind it.
    fn write(&self, key: &str) -> u64 {
        // Both listeners may have it.
        assert!(self.server.set_and_wait(0, key, 1, 10_000) >= 1);
        let log = self.json(&["list"]);
        log["histories"][0]["stored_offset"].as_u64().unwrap()
    }

    fn base(&self) {
        let output = self.run(&["consolidate"]);
        assert_eq!(output.code, 0, "{output:?}");
    }

    fn expire(&self, confirm: bool) -> Value {
        let confirm: &[&str] = if confirm { &["--confirm"] } else { &[] };
        self.json(&[&["expire", "--keep", "1s"], confirm].concat())
    }

    fn restore(&self, more: &[&str]) -> (Output, Server) {
        let target = Server::start(self.version, &[]);
        let to = target.url();
        let output = self.run(&[&["restore", "--to", &to], more].concat());
        (output, target)
    }

    /// Objects of that kind.
    fn count(&self, part: &str) -> usize {
        let names = self.s3.names();
        names.iter().filter(|name| name.contains(part)).count()
    }
}

fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_millis() as i64
}

fn what_expires_is_deleted_a_day_later_and_the_rest_stays(version: Version) {
    let case = Case::start(version);
    case.write("first");
    case.one.signal("STOP");
    let early = case.write("early").to_string();
    for key in ["a", "b", "c"] {
        case.write(key);
    }
    let held = case.write("held").to_string();
    case.base();
    case.write("late");
    wait_until("a base is old enough", PATIENCE, || {
        case.write("later");
        let plan = case.expire(false);
        plan["oldest"]["offset"].as_u64() >= held.parse().ok()
    });
    let first = case.expire(true);
    assert_eq!(first["expires"].as_array().unwrap().len(), 1, "{first:#}");
    assert_eq!(first["deleted"]["objects"], 0);
    let listing = case.json(&["list"]);
    let expired = &listing["histories"][0]["expired"][0];
    assert_eq!(expired["before_offset"], first["expires"][0]["before"]);
    let from = expired["deleted_from_unix_ms"].as_i64().unwrap();
    let left = from - now_ms();
    assert!((23..=24).contains(&(left / 3_600_000)), "{left}");
    // It can be restored still, with a warning.
    let (output, target) = case.restore(&["--offset", &early]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("not promised"), "{output:?}");
    assert_eq!(target.text(&["EXISTS", "early", "late"]), "1");
    let (segments, bases) = (case.count("/log/"), case.count(".rdb.zst"));
    case.s3.age(25 * HOUR);
    let second = case.expire(true);
    assert_eq!(second["goes"].as_array().unwrap().len(), 1, "{second:#}");
    assert!(
        second["deleted"]["objects"].as_u64() > Some(6),
        "{second:#}"
    );
    assert_eq!(case.count(".rdb.zst"), bases - 1);
    assert!(case.count("/log/") <= segments - 6);
    let (output, _target) = case.restore(&["--offset", &early]);
    assert_eq!(output.code, 6, "{output:?}");
    assert!(output.stderr.contains("has expired"), "{output:?}");
    // The listener that slept meanwhile goes on with the log. It knows when it created its last object, and that was a
    // day ago by the clock of the store.
    case.s3.set_ahead(25 * HOUR);
    let Case { one, two, .. } = &case;
    one.signal("CONT");
    two.signal("STOP");
    wait_until("a write is stored", PATIENCE, || {
        case.server.set_and_wait(0, "after", 1, 1000) >= 1
    });
    let (output, target) = case.restore(&[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(
        target.text(&["EXISTS", "first", "early", "late", "after"]),
        "4"
    );
    let output = case.run(&["verify", "--deep"]);
    assert_eq!(output.code, 0, "{output:?}");
    two.signal("CONT");
}
on!(what_expires_is_deleted_a_day_later_and_the_rest_stays: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

#[test]
fn a_hold_keeps_a_point_and_a_locked_object_is_no_error() {
    let case = Case::start(Version::Redis70);
    let held = case.write("held").to_string();
    case.write("more");
    case.base();
    let mut last = 0;
    wait_until("a base is old enough", PATIENCE, || {
        last = case.write("later");
        let plan = case.expire(false);
        plan["expires"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    });
    case.expire(true);
    let hold = case.json(&["hold", "add", "one", "--offset", &held]);
    assert_eq!(hold["holds"][0]["point"]["offset"].to_string(), held);
    let listing = case.json(&["list"]);
    assert_eq!(listing["holds"][0]["name"], "one", "{listing:#}");
    assert_eq!(listing["holds"][0]["point"], hold["holds"][0]["point"]);
    let again = case.run(&["hold", "add", "one"]);
    assert_eq!(again.code, 2, "{again:?}");
    case.s3.age(25 * HOUR);
    case.expire(true);
    let (output, target) = case.restore(&["--offset", &held]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(target.text(&["EXISTS", "held", "more"]), "1");
    let removed = case.json(&["hold", "remove", "one"]);
    assert_eq!(removed["holds"][0]["name"], "one");
    assert_eq!(case.run(&["hold", "remove", "one"]).code, 6);
    let holds = case.json(&["hold", "list"]);
    assert_eq!(holds["holds"].as_array().unwrap().len(), 0);
    // The store keeps it in spite of that.
    case.s3.lock("/base/");
    let denied = case.expire(true);
    assert!(denied["deleted"]["denied"].as_u64() > Some(0), "{denied:#}");
    let (output, _target) = case.restore(&[]);
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn a_policy_that_keeps_nothing_and_a_clock_that_is_wrong_are_refused() {
    let case = Case::start(Version::Redis70);
    for (keep, says) in [
        ("0", "would keep nothing"),
        ("forever", "To keep everything"),
    ] {
        let output = case.run(&["expire", "--keep", keep]);
        assert_eq!(output.code, 2, "{output:?}");
        assert!(output.stderr.contains(says), "{output:?}");
    }
    assert_eq!(case.run(&["expire"]).code, 2);
    case.write("a");
    case.s3.set_ahead(2 * HOUR);
    let output = case.run(&["expire", "--keep", "1s", "--confirm"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("the clocks differ"), "{output:?}");
    assert_eq!(case.count("/floor/"), 0);
}
