//! A stage of a consolidation advances or ends: whatever is refused, wherever memory ends, around commands that are rewritten to several.

use std::time::Duration;

use redis::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::consolidation::{BY_DATA, copy_new, is_refused, loaded, restored_at};
use crate::differential::{Runner, Told, assert_same};
use crate::support::backfeed::{Output, run_within};
use crate::support::data::{Expiries, Random, for_each_version};
use crate::support::state::tolerance_ms;
use crate::support::{Backfeed, Server, Version, free_port, list, restored, run, wait_until};

for_each_version!(
    a_refused_command_right_after_one_with_an_expiry_ends_a_stage,
    memory_that_ends_at_a_command_with_an_expiry_ends_a_stage,
    a_full_sync_comes_for_what_cannot_be_applied,
    stages_that_are_cut_anywhere_hold_what_a_server_has,
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
        Self::with(Server::start(version, &[]), "never")
    }

    fn with(redis: Server, every: &str) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let backfeed = Backfeed::backup(&redis.url(), &store, &["--consolidate-every", every]);
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

    /// Where bases stand.
    fn bases(&self) -> Vec<u64> {
        let listing = list(&self.store());
        let bases = listing["histories"][0]["bases"].as_array().unwrap();
        let offsets = bases.iter().map(|base| base["offset"].as_u64().unwrap());
        let mut offsets: Vec<u64> = offsets.collect();
        offsets.sort_unstable();
        offsets
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

/// Where the refused command stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind the command with the expiry.
    Behind,
    /// Behind the transaction that has that.
    BehindTransaction,
    /// Behind it within that.
    Within,
}
const PLACES: [Place; 3] = [Place::Behind, Place::BehindTransaction, Place::Within];

/// Sends a command of [`FORMS`] and what is refused. The offset up to which a base can be made; none: the server does not know the
/// form.
fn refuse(connection: &mut Connection, redis: &Server, form: &str, place: Place) -> Option<u64> {
    for line in ["SET x before", "DEL l d", "RPUSH l b a c"] {
        send(connection, line).unwrap();
    }
    let dump: Vec<u8> = redis::cmd("DUMP").arg("x").query(connection).unwrap();
    let mut words = form.split(' ');
    let mut command = redis::cmd(words.next().unwrap());
    for word in words {
        match word {
            "PAYLOAD" => command.arg(&dump),
            word => command.arg(word),
        };
    }
    command.query::<redis::Value>(connection).ok()?;
    let mut end = redis.position().1;
    if place != Place::Behind {
        let pipe = &mut redis::pipe();
        pipe.atomic().add_command(command);
        pipe.cmd("SET").arg("y").arg("1");
        if place == Place::Within {
            let mut words = REFUSED.split(' ');
            pipe.cmd(words.next().unwrap());
            words.for_each(|word| {
                pipe.arg(word);
            });
        }
        pipe.exec(connection).unwrap();
    }
    if place != Place::Within {
        end = redis.position().1;
        send(connection, REFUSED).unwrap();
    }
    Some(end)
}

/// A base was made up to what is refused; there may be a `PING` between.
#[track_caller]
fn assert_stopped(report: &Value, end: u64, context: &str) {
    let stopped = report["stopped"].as_str().unwrap_or_default();
    assert!(
        stopped.contains("elements have the same weight"),
        "{context}: {report}"
    );
    let to = report["to"]["offset"].as_u64().unwrap();
    assert!((end..end + 100).contains(&to), "{context}, {end}: {report}");
}

fn a_refused_command_right_after_one_with_an_expiry_ends_a_stage(version: Version) {
    let it = Captured::new(version);
    let mut connection = it.redis.connect();
    let mut known = 0;
    let in_transactions = [Place::BehindTransaction, Place::Within];
    let of = |(number, form)| [Place::Behind, in_transactions[number % 2]].map(|at| (form, at));
    for (form, place) in FORMS.iter().enumerate().flat_map(of) {
        let context = format!("{version}: {form} ({place:?})");
        let Some(end) = refuse(&mut connection, &it.redis, form, place) else {
            continue;
        };
        known += 1;
        send(&mut connection, "SET a 1").unwrap();
        it.backfeed.wait_captured(&it.redis);
        let output = it.consolidate(&[]);
        assert_eq!(output.code, 0, "{context}: {output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_stopped(&report, end, &context);
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

/// In the background, without anybody's doing: for what is refused when it is applied, and for a command that nobody knows (a module's;
/// here one that was renamed, which servers send to their replicas by its new name).
fn a_full_sync_comes_for_what_cannot_be_applied(version: Version) {
    let applied = ["RPUSH l b a c", "SETEX x 100000 v", REFUSED, "SET a 1"];
    let unknown = ["SET a 1", "MEM.ALLOC m 1", "SET b 1"];
    for (lines, why) in [
        (&applied[..], "elements have the same weight"),
        (&unknown, "MEM.ALLOC: it is not known"),
    ] {
        let redis = Server::builder(version).arg("rename-command", "SETNX MEM.ALLOC");
        let it = Captured::with(redis.start(), "1s");
        let mut connection = it.redis.connect();
        let again = || {
            let mut connection = it.redis.connect();
            for line in lines {
                send(&mut connection, line).unwrap();
            }
            it.backfeed.wait_captured(&it.redis);
        };
        again();
        it.backfeed
            .wait_log("a full sync is taken", "received a new base");
        assert!(it.backfeed.log().contains(why), "{version}: {why}");
        it.backfeed.wait("all is well again", |view| {
            view["consolidate_error"].is_null() && view["base_offset"].is_u64()
        });
        // From there on, bases are made without the server again.
        let received = it.bases().last().copied();
        send(&mut connection, "SET later 1").unwrap();
        it.backfeed.wait("a base is made", |view| {
            view["base_offset"].as_u64() > received
        });
        // No full sync is taken for the next one for hours, and the report says so.
        send(&mut connection, "DEL m l").unwrap();
        again();
        it.backfeed.wait("it is reported", |view| {
            let told = view["consolidate_error"].as_str().unwrap_or_default();
            told.contains(why) && told.contains("The next full sync for a new base is in 360 min")
        });
        assert_eq!(it.redis.info("stats")["sync_full"], "2", "{version}: {why}");
        assert_eq!(it.backfeed.metric("backfeed_reconnects_total"), 0.0);
    }
}

/// A Redis of an old version is given a base at the end of its log. Where there can be none, it is given the log.
fn a_fresh_redis_is_restored_though_its_log_ends_in_what_is_refused(version: Version) {
    let home = TempDir::new().unwrap();
    let listen = free_port();
    let store = format!("file://{}/bucket", home.path().display());
    let mut redis = Server::builder(version)
        .replicaof("127.0.0.1", listen)
        .start();
    let options = ["--consolidate-every", "never"];
    let sidecar = Backfeed::sidecar(&redis.url(), &store, listen, &options);
    let is_master = |redis: &Server| redis.info("replication")["role"] == "master";
    wait_until("Redis is open", PATIENCE, || is_master(&redis));
    sidecar.wait_following();
    let mut connection = redis.connect();
    for line in ["RPUSH l b a c", "SETEX x 100000 v", REFUSED, "SET a 1"] {
        send(&mut connection, line).unwrap();
    }
    sidecar.wait_captured(&redis);
    let wanted = redis.debug_digest();
    redis.kill9();
    std::fs::remove_dir_all(redis.dir()).unwrap();
    std::fs::create_dir(redis.dir()).unwrap();
    redis.restart();
    wait_until("Redis is restored", PATIENCE, || is_master(&redis));
    assert_eq!(redis.debug_digest(), wanted, "{version}");
    sidecar.wait("it is reported", |view| {
        let told = view["consolidate_error"].as_str().unwrap_or_default();
        told.contains("elements have the same weight")
    });
}

#[test]
fn a_fresh_redis_6_0_is_restored_though_its_log_ends_in_what_is_refused() {
    a_fresh_redis_is_restored_though_its_log_ends_in_what_is_refused(Version::Redis60);
}

#[test]
fn a_fresh_redis_6_2_is_restored_though_its_log_ends_in_what_is_refused() {
    a_fresh_redis_is_restored_though_its_log_ends_in_what_is_refused(Version::Redis62);
}

/// Rounds, and units of the generator in each.
const ROUNDS: usize = 3;
const UNITS: u64 = 250;
/// The usual choices.
const SEED: u64 = 1;
/// Bases of a round that are compared, beside the last one.
const COMPARED: u64 = 2;

/// Random commands, in memory limits that are too small for them, with a command that is refused right after one that is rewritten:
/// each base that a stage leaves is what a server makes of the same log.
///
/// `BACKFEED_DIFFERENTIAL_SEED=N` makes other choices than the usual ones, `BACKFEED_DIFFERENTIAL_ROUNDS=N` runs longer.
fn stages_that_are_cut_anywhere_hold_what_a_server_has(version: Version) {
    let number = |name: &str| {
        let text = std::env::var(name).ok();
        text.map(|text| text.parse::<u64>().expect(name))
    };
    let seed = number("BACKFEED_DIFFERENTIAL_SEED").unwrap_or(SEED);
    let rounds = number("BACKFEED_DIFFERENTIAL_ROUNDS").unwrap_or(ROUNDS as u64);
    eprintln!("BACKFEED_DIFFERENTIAL_SEED={seed}");
    let it = Captured::new(version);
    let reference = it.home.path().join("reference");
    let reference_url = format!("file://{}", reference.display());
    let mut random = Random::new(seed);
    let mut runner =
        Runner::new(&it.redis, seed, Expiries::Late).skipping(|command| is_refused(command));
    let mut connection = it.redis.connect();
    let mut stages = 0;
    for round in 0..rounds {
        runner.run(UNITS);
        let mut end = None;
        // Not every server knows every form.
        while end.is_none() && !random.one_in(6) {
            let (form, place) = (random.pick(&FORMS), random.pick(&PLACES));
            end = refuse(&mut connection, &it.redis, form, place);
        }
        runner.run(UNITS / 5);
        it.backfeed.wait_captured(&it.redis);
        copy_new(&it.home.path().join("bucket"), &reference);
        let known = it.bases();
        let context = format!("{version}, seed {seed}, round {round}");
        let report = consolidated_in(&it, 1 << (12 + random.below(6)), &context);
        let stopped = report["stopped"].as_str();
        let by_data = stopped.is_some_and(|why| BY_DATA.iter().any(|known| why.ends_with(known)));
        match end {
            // Without a stop, what is refused was overwritten or flushed later: the base behind it is compared below.
            Some(end) if stopped.is_some() && !by_data => assert_stopped(&report, end, &context),
            _ => assert!(stopped.is_none() || by_data, "{context}: {report}"),
        }
        let mut made = it.bases();
        made.retain(|offset| !known.contains(offset));
        stages += made.len();
        let last = made.pop().into_iter();
        let some = (0..COMPARED.min(made.len() as u64)).map(|_| random.pick(&made));
        for offset in last.chain(some) {
            let context = format!("{context}, the base at {offset}");
            let wanted = restored_at(version, &reference_url, &offset.to_string());
            let found = loaded(version, &it.store(), &offset.to_string(), it.home.path());
            assert_same(&found, &wanted, Told::All, tolerance_ms(version), &context);
        }
        if stopped.is_some() {
            it.full_sync();
        }
    }
    eprintln!("{version}: {stages} stages in {rounds} rounds");
    assert!(stages as u64 > rounds, "{version}: {stages} stages");
}

/// Consolidates in as little memory as there can be, from `limit` on.
fn consolidated_in(it: &Captured, mut limit: u64, context: &str) -> Value {
    loop {
        let output = it.consolidate(&["--memory-limit", &limit.to_string()]);
        match output.code {
            0 => return serde_json::from_str(&output.stdout).unwrap(),
            // A value, or a transaction, is too large.
            1 if output.stderr.contains("--memory-limit") && limit < 1 << 30 => limit *= 2,
            _ => panic!("{context}, {limit} bytes: {output:?}"),
        }
    }
}
