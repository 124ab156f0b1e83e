//! A stage of a consolidation advances or ends: whatever is refused, wherever memory ends, around commands that are rewritten to several.

use std::time::Duration;

use redis::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::{Output, run_within};
use crate::support::data::for_each_version;
use crate::support::{Backfeed, Server, Version, restored, run};

for_each_version!(
    a_refused_command_right_after_one_with_an_expiry_ends_a_stage,
    memory_that_ends_at_a_command_with_an_expiry_ends_a_stage,
);

/// Much more than it takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

struct Captured {
    home: TempDir,
    redis: Server,
    backfeed: Backfeed,
}

impl Captured {
    fn new(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let redis = Server::start(version, &[]);
        let store = format!("file://{}/bucket", home.path().display());
        let backfeed = Backfeed::backup(&redis.url(), &store, &["--consolidate-every", "never"]);
        backfeed.wait_following();
        Self {
            home,
            redis,
            backfeed,
        }
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn consolidate(&self, more: &[&str]) -> Output {
        let store = self.store();
        let args = ["consolidate", "--store", &store, "--json"];
        run_within(PATIENCE, &[&args[..], more].concat())
    }

    /// A base behind what cannot be applied.
    fn full_sync(&self) {
        let (url, store) = (self.redis.url(), self.store());
        let output = run(&["backup", "--once", "--redis", &url, "--store", &store]);
        assert_eq!(output.code, 0, "{output:?}");
    }
}

fn send(connection: &mut Connection, line: &str) -> redis::RedisResult<redis::Value> {
    let mut words = line.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        command.arg(word);
    });
    command.query(connection)
}

/// Every form of a client's command that sets an expiry. `PAYLOAD` is what `DUMP` gives. A server that does not know one is not
/// asked for it.
const FORMS: [&str; 13] = [
    "SETEX x 100000 v",
    "PSETEX x 100000000 v",
    "SET x v EX 100000",
    "SET x v PX 100000000",
    "SET x v EXAT 4102444800",
    "SET x v PXAT 4102444800000",
    "SET x v XX KEEPTTL",
    "GETEX x EX 100000",
    "GETEX x PX 100000000",
    "EXPIRE x 100000",
    "PEXPIRE x 100000000",
    "RESTORE x 100000000 PAYLOAD REPLACE",
    "RESTORE x 4102444800000 PAYLOAD REPLACE ABSTTL",
];
/// What servers take, and what is refused only when it is applied.
const REFUSED: &str = "SORT l BY w_* ALPHA STORE d";

fn a_refused_command_right_after_one_with_an_expiry_ends_a_stage(version: Version) {
    let it = Captured::new(version);
    let mut connection = it.redis.connect();
    let mut known = 0;
    for (form, within) in FORMS.iter().flat_map(|form| [(form, false), (form, true)]) {
        let context = format!("{version}: {form} (in a transaction: {within})");
        for line in ["SET x before", "DEL l d", "RPUSH l b a c"] {
            send(&mut connection, line).unwrap();
        }
        let dump: Vec<u8> = redis::cmd("DUMP").arg("x").query(&mut connection).unwrap();
        let command = || {
            let mut words = form.split(' ');
            let mut command = redis::cmd(words.next().unwrap());
            for word in words {
                match word {
                    "PAYLOAD" => command.arg(&dump),
                    word => command.arg(word),
                };
            }
            command
        };
        let taken: redis::RedisResult<redis::Value> = if within {
            let pipe = &mut redis::pipe();
            pipe.atomic().add_command(command()).cmd("SET");
            pipe.arg("y").arg("1").query(&mut connection)
        } else {
            command().query(&mut connection)
        };
        if taken.is_err() {
            continue;
        }
        known += 1;
        let end = it.redis.position().1;
        send(&mut connection, REFUSED).unwrap();
        send(&mut connection, "SET a 1").unwrap();
        it.backfeed.wait_captured(&it.redis);
        let output = it.consolidate(&[]);
        assert_eq!(output.code, 0, "{context}: {output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        let stopped = report["stopped"].as_str().unwrap_or_default();
        assert!(
            stopped.contains("elements have the same weight"),
            "{context}: {report}"
        );
        assert_eq!(report["to"]["offset"], end, "{context}: {report}");
        assert_eq!(report["bases"], 1, "{context}: {report}");
        let output = it.consolidate(&[]);
        assert_eq!(output.code, 6, "{context}: {output:?}");
        it.full_sync();
    }
    assert!(known >= 16, "{version} knows {known} forms");
    let wanted = it.redis.debug_digest();
    assert_eq!(restored(version, &it.store()).debug_digest(), wanted);
}

/// A hundredth of: 700,000 `SETEX` of 200 bytes over 270,000 keys, in 64, 48, 32 MiB of memory.
fn memory_that_ends_at_a_command_with_an_expiry_ends_a_stage(version: Version) {
    const KIB: [u64; 6] = [640, 480, 320, 160, 80, 40];
    let it = Captured::new(version);
    let mut connection = it.redis.connect();
    for limit in KIB {
        let mut pipe = redis::pipe();
        for n in 0..7000 {
            let key = format!("key:{}", n * 7919 % 2700);
            pipe.cmd("SETEX").arg(key).arg(100_000);
            pipe.arg("x".repeat(200)).ignore();
        }
        pipe.exec(&mut connection).unwrap();
        let end = it.redis.position().1;
        it.backfeed.wait_captured(&it.redis);
        let output = it.consolidate(&["--memory-limit", &format!("{limit}KiB")]);
        let context = format!("{version}, {limit} KiB");
        assert_eq!(output.code, 0, "{context}: {output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        eprintln!("{context}: {} bases", report["bases"]);
        assert!(
            report["to"]["offset"].as_u64() >= Some(end),
            "{context}: {report}"
        );
        assert_eq!(report["keys"], 2700, "{context}: {report}");
    }
    let wanted = it.redis.debug_digest();
    assert_eq!(restored(version, &it.store()).debug_digest(), wanted);
}
