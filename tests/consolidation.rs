//! Bases that are made from a base and the log, against real servers that replay the same log: all write commands, on
//! each version, base on base on base.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::differential::{Runner, Told, assert_same};
use crate::support::backfeed::Output;
use crate::support::data::{Expiries, for_each_version};
use crate::support::state::{State, tolerance_ms};
use crate::support::{Backfeed, Server, Version, list, on, restored, run, wait_until};

for_each_version!(what_is_consolidated_is_what_a_server_makes_of_the_log);

/// In each round, so many units are written, and a base is made of them.
const ROUNDS: usize = 4;
const UNITS: u64 = 800;
/// The usual choices: a run that fails by chance says nothing about a change.
const SEED: u64 = 1;

/// Documented too, but whether it comes to that, the data decides.
pub const BY_DATA: [&str; 5] = [
    "a score is no position",
    "a member is exactly on the border of the area",
    "members are equally far, and which of them is taken is left to chance",
    "versions differ in what they find",
    // Something was appended to one; servers up to 6.2 merge what they call corrupted elsewhere.
    "the key's value is no HyperLogLog",
];

/// `BACKFEED_DIFFERENTIAL_SEED=N` makes other choices than the usual ones, `BACKFEED_DIFFERENTIAL_ROUNDS=N` runs longer (a round
/// takes a few seconds).
fn what_is_consolidated_is_what_a_server_makes_of_the_log(version: Version) {
    compare_bases(version, None);
}

on!(what_an_older_server_wrote_is_applied_as_the_newer_one_has_it:
    redis_60_in_redis_62 = Redis62,
    redis_62_in_redis_70 = Redis70,
    redis_62_in_redis_86 = Redis86,
    redis_62_in_valkey_81 = Valkey81,
    redis_62_in_valkey_91 = Valkey91,
);

/// What the first base holds is what an older version has written.
fn what_an_older_server_wrote_is_applied_as_the_newer_one_has_it(version: Version) {
    let old = if version == Version::Redis62 {
        Version::Redis60
    } else {
        Version::Redis62
    };
    compare_bases(version, Some(old));
}

fn compare_bases(version: Version, loaded_from: Option<Version>) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect(name))
    };
    let seed = number("BACKFEED_DIFFERENTIAL_SEED").unwrap_or(SEED);
    let rounds = number("BACKFEED_DIFFERENTIAL_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    eprintln!("BACKFEED_DIFFERENTIAL_SEED={seed}");
    let home = TempDir::new().unwrap();
    let (store, reference) = (home.path().join("bucket"), home.path().join("reference"));
    let url = |path: &Path| format!("file://{}", path.display());
    let mut master = Server::start(version, &[]);
    if let Some(old) = loaded_from {
        let old = Server::start(old, &[]);
        Runner::new(&old, seed, Expiries::Mixed).run(UNITS);
        old.save();
        master.kill9();
        fs::copy(old.dir().join("dump.rdb"), master.dir().join("dump.rdb")).unwrap();
        master.restart();
    }
    let mut runner =
        Runner::new(&master, seed, Expiries::Mixed).skipping(|command| is_refused(command));
    // The first base holds something of everything.
    if loaded_from.is_none() {
        runner.run(UNITS);
    }
    let backfeed = Backfeed::backup(
        &master.url(),
        &url(&store),
        &["--consolidate-every", "never"],
    );
    backfeed.wait_following();
    for round in 0..rounds {
        runner.run(UNITS);
        quiet(&master);
        backfeed.wait_captured(&master);
        copy_new(&store, &reference);
        let context = format!("{version}, seed {seed}, round {round}");
        let report = consolidate(&url(&store), &context);
        if let Some(why) = report["stopped"].as_str() {
            // Fields may just be expiring at that point, which is not a quiet one: no comparison, but a full sync that goes on
            // behind it.
            let expected = BY_DATA.iter().any(|known| why.ends_with(known));
            assert!(expected, "{context}: {report}");
            let args = [
                "backup",
                "--once",
                "--redis",
                &master.url(),
                "--store",
                &url(&store),
            ];
            let output = run(&args);
            assert_eq!(output.code, 0, "{context}: {output:?}");
            continue;
        }
        assert_eq!(report["bases"], 1, "{context}: {report}");
        // The same point, once from the new base alone, once by a server from the very first base and all of the log.
        let offset = report["to"]["offset"].to_string();
        let wanted = restored_at(version, &url(&reference), &offset);
        let found = loaded(version, &url(&store), &offset, home.path());
        let tolerance = tolerance_ms(version);
        assert_same(&found, &wanted, Told::All, tolerance, &context);
    }
}

/// Documented: a distance depends on the master's C library, and so does the order of equal weights; ranges by bytes of
/// members with different scores depend on how the server keeps them.
pub fn is_refused(command: &[Vec<u8>]) -> bool {
    let has = |word: &str| {
        command
            .iter()
            .any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    has("STOREDIST")
        || (has("SORT") && has("BY") && has("STORE"))
        || has("ZREMRANGEBYLEX")
        || (has("ZRANGESTORE") && has("BYLEX"))
}

fn quiet(master: &Server) {
    crate::support::wait_until(
        "nothing expires",
        std::time::Duration::from_secs(60),
        || State::of(master).is_quiet(),
    );
}

fn consolidate(store: &str, context: &str) -> Value {
    let output = run(&["consolidate", "--store", store, "--json"]);
    assert_eq!(output.code, 0, "{context}: {output:?}");
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// Copies what was not there yet, bases that were made from others left out.
pub fn copy_new(from: &Path, to: &Path) {
    let first = !to.exists();
    let copied = Command::new("cp")
        .arg("-rn")
        .arg(from.join("."))
        .arg(to)
        .status();
    let _ = (first, copied.expect("cp"));
    for history in fs::read_dir(to.join("histories")).unwrap() {
        let bases = history.unwrap().path().join("base");
        let Ok(bases) = fs::read_dir(bases) else {
            continue;
        };
        for manifest in bases.map(|entry| entry.unwrap().path()) {
            if manifest.extension().is_some_and(|name| name == "json")
                && fs::read_to_string(&manifest)
                    .unwrap()
                    .contains("consolidated")
            {
                fs::remove_file(&manifest).unwrap();
            }
        }
    }
}

/// A server that got the log from us as its master.
pub fn restored_at(version: Version, store: &str, offset: &str) -> Server {
    let server = Server::start(version, &[]);
    let to = server.url();
    let args = [
        "restore",
        "--store",
        store,
        "--offset",
        offset,
        "--to",
        &to,
        "--serve-log",
        "replay",
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    server
}

/// A server that loaded an RDB file at its start.
pub fn loaded(version: Version, store: &str, offset: &str, home: &Path) -> Server {
    let file = home.join("out.rdb");
    let to = file.display().to_string();
    let args = [
        "restore", "--store", store, "--offset", offset, "--force", "--to", &to,
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    let mut server = Server::start(version, &[]);
    server.kill9();
    fs::copy(&file, server.dir().join("dump.rdb")).unwrap();
    server.restart();
    server
}

const PATIENCE: Duration = Duration::from_secs(60);

/// A server of Redis 7.0 that is captured, with the options.
struct Captured {
    home: TempDir,
    redis: Server,
    backfeed: Backfeed,
}

impl Captured {
    fn new(version: Version, options: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let redis = Server::start(version, &[]);
        let store = format!("file://{}/bucket", home.path().display());
        let backfeed = Backfeed::backup(&redis.url(), &store, options);
        backfeed.wait_following();
        Self {
            home,
            redis,
            backfeed,
        }
    }

    fn by_hand(version: Version) -> Self {
        Self::new(version, &["--consolidate-every", "never"])
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn captured(&self) -> &Self {
        self.backfeed.wait_captured(&self.redis);
        self
    }

    fn consolidate(&self, more: &[&str]) -> Output {
        let store = self.store();
        let args = ["consolidate", "--store", &store, "--json"];
        run(&[&args[..], more].concat())
    }

    fn bases(&self) -> Vec<Value> {
        let listing = list(&self.store());
        listing["histories"][0]["bases"].as_array().unwrap().clone()
    }

    /// What the store's latest point gives to a fresh server.
    fn assert_restores(&self) {
        let wanted = self.redis.debug_digest();
        let copy = restored(self.redis.version(), &self.store());
        assert_eq!(copy.debug_digest(), wanted);
    }
}

/// In the background, by time: once for what was written, not again for `PING`s.
#[test]
fn bases_are_made_by_themselves() {
    let it = Captured::new(Version::Redis70, &["--consolidate-every", "1s"]);
    for n in 0..1000 {
        it.redis.cmd(&["SET", &format!("key:{n}"), "value"]);
    }
    it.captured();
    wait_until("a base is made", PATIENCE, || it.bases().len() == 2);
    it.backfeed.wait("it is reported", |view| {
        view["base_offset"].as_u64() > Some(0) && view["consolidate_error"].is_null()
    });
    assert_eq!(it.backfeed.metric("backfeed_consolidations_total"), 1.0);
    assert_eq!(it.backfeed.metric("backfeed_full_syncs_total"), 1.0);
    let _: u64 = redis::cmd("WAIT")
        .arg(1)
        .arg(1000)
        .query(&mut it.redis.connect())
        .unwrap();
    // Nothing to come, which can only be seen by waiting: more than two rounds of the upkeep.
    std::thread::sleep(Duration::from_secs(12));
    assert_eq!(it.bases().len(), 2);
    it.assert_restores();
}

/// A command that is not modelled ends the base before it, and has a new base fetched from the server.
#[test]
fn what_cannot_be_applied_is_never_guessed() {
    let it = Captured::by_hand(Version::Redis86);
    it.redis.cmd(&["SET", "before", "1"]);
    it.captured();
    let end = it.redis.position().1;
    let mut connection = it.redis.connect();
    let transaction: redis::RedisResult<redis::Value> = redis::pipe()
        .atomic()
        .cmd("SET")
        .arg(&["inside", "1"])
        .cmd("VADD")
        .arg(&["vectors", "VALUES", "2", "1", "2", "element"])
        .query(&mut connection);
    transaction.unwrap();
    it.redis.cmd(&["SET", "after", "1"]);
    it.captured();
    let output = it.consolidate(&[]);
    assert_eq!(output.code, 0, "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        report["to"]["offset"], end,
        "the transaction is not begun: {report}"
    );
    assert!(
        report["stopped"].as_str().unwrap().contains("VADD"),
        "{report}"
    );
    // Now it is the first command after the base.
    let output = it.consolidate(&[]);
    assert_eq!(output.code, 6, "{output:?}");
    assert!(output.stderr.contains("VADD"), "{output:?}");
    it.assert_restores();
    let file = it.home.path().join("out.rdb").display().to_string();
    let output = run(&["restore", "--store", &it.store(), "--to", &file]);
    assert_eq!(output.code, 6, "{output:?}");
    assert!(
        output.stderr.contains("VADD") && output.stderr.contains("aof:"),
        "{output:?}"
    );
}

#[test]
fn a_log_that_cannot_be_applied_has_a_base_fetched_beside_the_capture() {
    let it = Captured::new(Version::Redis86, &["--consolidate-every", "1s"]);
    it.redis.cmd(&["GEOADD", "places", "1", "1", "here"]);
    let search = "GEOSEARCHSTORE near places FROMLONLAT 1 1 BYRADIUS 9 km STOREDIST";
    it.redis.cmd(&search.split(' ').collect::<Vec<_>>());
    for n in 0..1000 {
        it.redis.cmd(&["SET", &format!("key:{n}"), "value"]);
    }
    it.captured();
    wait_until("a base is fetched", PATIENCE, || {
        it.backfeed.log().contains("received a new base")
    });
    let fetched = it.bases().len();
    it.redis.cmd(&["SET", "later", "1"]);
    it.captured();
    assert_eq!(it.backfeed.metric("backfeed_reconnects_total"), 0.0);
    // From there on, bases are made without the server again; and it is not asked another time.
    for n in 0..1000 {
        it.redis.cmd(&["SET", &format!("key:{n}"), "other"]);
    }
    it.captured();
    wait_until("a base is made", PATIENCE, || it.bases().len() > fetched);
    assert_eq!(it.redis.info("stats")["sync_full"], "2");
    it.assert_restores();
}

/// Documented as a limit: the server does not send it to replicas.
#[test]
fn a_new_vector_of_an_element_that_is_there_is_in_no_feed() {
    for version in [Version::Redis80, Version::Redis86] {
        let it = Captured::by_hand(version);
        let add = |x: &str, element: &str| {
            it.redis
                .cmd(&["VADD", "vectors", "VALUES", "2", x, "2", element]);
            it.redis.position().1
        };
        let first = add("1", "a");
        assert_eq!(add("5", "a"), first, "{version}");
        assert!(add("5", "b") > first, "{version}");
    }
}

/// More keys than memory may hold: in stages, each a base.
#[test]
fn a_memory_limit_means_stages() {
    let it = Captured::by_hand(Version::Valkey91);
    for n in 0..3000 {
        it.redis
            .cmd(&["SET", &format!("key:{n}"), &"x".repeat(200)]);
    }
    it.captured();
    let output = it.consolidate(&["--memory-limit", "100KiB"]);
    assert_eq!(output.code, 0, "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(report["bases"].as_u64() > Some(3), "{report}");
    assert_eq!(report["keys"], 3000);
    assert_eq!(report["to"]["offset"], it.redis.position().1);
    it.assert_restores();
    it.redis.cmd(&["SET", "huge", &"x".repeat(1 << 20)]);
    it.captured();
    let output = it.consolidate(&["--memory-limit", "100KiB"]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("--memory-limit"), "{output:?}");
    it.assert_restores();
}

#[test]
fn two_at_once_do_no_harm_and_a_killed_one_leaves_everything_as_it_was() {
    let it = Captured::by_hand(Version::Redis70);
    for round in 0..5 {
        for n in 0..300 {
            it.redis
                .cmd(&["SET", &format!("key:{n}"), &format!("{round}")]);
        }
        it.captured();
        let before = it.bases().len();
        let mut children: Vec<_> = (0..3)
            .map(|_| {
                Command::new(env!("CARGO_BIN_EXE_backfeed"))
                    .args(["consolidate", "--store", &it.store()])
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        children[0].kill().unwrap();
        for child in children {
            let killed = child.id();
            let output = child.wait_with_output().unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert!(
                output.status.success() || output.status.code().is_none(),
                "{killed}: {told}"
            );
        }
        assert_eq!(it.bases().len(), before + 1);
        it.assert_restores();
    }
}

#[test]
fn any_moment_can_be_had_as_an_rdb_file() {
    let it = Captured::by_hand(Version::Redis80);
    let mut moments = Vec::new();
    for n in 0..5 {
        it.redis.cmd(&["RPUSH", "list", &format!("{n}")]);
        it.redis.cmd(&["SELECT", "3"]);
        it.redis.cmd(&["HINCRBY", "hash", "field", "1"]);
        moments.push((it.redis.position().1, it.redis.debug_digest()));
    }
    it.captured();
    for (offset, digest) in moments {
        let found = loaded(
            Version::Redis80,
            &it.store(),
            &offset.to_string(),
            it.home.path(),
        );
        assert_eq!(found.debug_digest(), digest, "offset {offset}");
        // It is a fork: nothing says where it comes from.
        let text = fs::read(it.home.path().join("out.rdb")).unwrap();
        assert!(!text.windows(7).any(|bytes| bytes == b"repl-id"));
    }
}

/// Segments that do not compress, several of them, from files: as many threads are needed at once as there ever are.
#[test]
fn a_long_log_in_files_is_consolidated_in_the_background() {
    let options = ["--consolidate-every", "1s", "--segment-size", "2MiB"];
    let it = Captured::new(Version::Redis70, &options);
    let mut connection = it.redis.connect();
    for n in 0..48 {
        let value: Vec<u8> = (0..1 << 18).map(|_| rand::random()).collect();
        let set = redis::cmd("SET").arg(n).arg(value).to_owned();
        set.exec(&mut connection).unwrap();
    }
    it.captured();
    let end = it.redis.position().1;
    wait_until("a base is made", PATIENCE, || {
        it.bases().iter().any(|base| base["offset"] == end)
    });
    it.assert_restores();
}

/// A few bytes of log may make much data.
#[test]
fn memory_stays_bounded_when_small_commands_make_large_values() {
    let it = Captured::by_hand(Version::Redis70);
    let set = |bit: &str| {
        for n in 0..20 {
            it.redis.cmd(&["SETBIT", &format!("bits:{n}"), bit, "1"]);
        }
        it.captured();
        let output = it.consolidate(&["--memory-limit", "64MiB"]);
        assert_eq!(output.code, 0, "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        report["bases"].as_u64().unwrap()
    };
    assert_eq!(set("79999999"), 1, "each is written as soon as it is made");
    // Now all of them are in the base, and loaded before any is changed.
    assert!(set("5") > 2);
    it.assert_restores();
}
