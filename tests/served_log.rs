//! A log reaches a server as its commands, or applied to the base as one RDB: both lead to the same data at the same offset.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::consolidation::{BY_DATA, is_refused};
use crate::differential::{Runner, Told, assert_same};
use crate::support::backfeed::PATIENCE;
use crate::support::data::{Expiries, for_each_version};
use crate::support::state::{State, tolerance_ms};
use crate::support::{Backfeed, Server, Version, free_port, list, on, run, wait_until};

for_each_version!(
    both_ways_lead_to_the_same_data,
    a_sidecar_goes_on_from_a_rebuilt_rdb,
    a_load_that_is_cut_off_begins_again,
);

on!(what_is_not_modelled_is_replayed: in_redis_80 = Redis80, in_redis_86 = Redis86);

/// What is written before and after the base.
const UNITS: u64 = 1200;
const SEED: u64 = 5;

struct Stored {
    home: TempDir,
    version: Version,
    /// The base, the middle of the log, and its end.
    points: [u64; 3],
    /// Where the history has come to.
    position: (String, u64),
}

impl Stored {
    /// Commands of every kind in several databases, in transactions and without, with functions and keys that expire.
    fn new(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let master = Server::start(version, &[]);
        let mut runner =
            Runner::new(&master, SEED, Expiries::Mixed).skipping(|command| is_refused(command));
        runner.run(UNITS);
        let store = format!("file://{}/bucket", home.path().display());
        let backfeed = Backfeed::backup(&master.url(), &store, &["--consolidate-every", "never"]);
        backfeed.wait_following();
        let base = list(&store)["histories"][0]["bases"][0]["offset"]
            .as_u64()
            .unwrap();
        runner.run(UNITS);
        wait_until("nothing expires", Duration::from_secs(60), || {
            State::of(&master).is_quiet()
        });
        backfeed.wait_captured(&master);
        let position = master.position();
        Self {
            home,
            version,
            points: [base, (base + position.1) / 2, position.1],
            position,
        }
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    #[track_caller]
    fn restore(&self, target: &Server, more: &[&str]) -> Value {
        let (store, to) = (self.store(), target.url());
        let args = [&["restore", "--json", "--store", &store, "--to", &to], more].concat();
        let output = run(&args);
        assert_eq!(output.code, 0, "{} {more:?}: {output:?}", self.version);
        serde_json::from_str(&output.stdout).unwrap()
    }

    /// A server that got the log in this form.
    #[track_caller]
    fn restored(&self, form: &str, offset: u64) -> (Server, Value) {
        let target = Server::start(self.version, &[]);
        let report = self.restore(
            &target,
            &["--serve-log", form, "--offset", &offset.to_string()],
        );
        (target, report)
    }
}

fn both_ways_lead_to_the_same_data(version: Version) {
    let stored = Stored::new(version);
    let [base, ..] = stored.points;
    let mut rebuilt = 0;
    for offset in stored.points {
        let (wanted, by_replay) = stored.restored("replay", offset);
        let (found, report) = stored.restored("rebuild", offset);
        let context = format!("{version}, offset {offset}");
        assert_eq!(by_replay["log_served"], "replayed", "{context}");
        for field in [
            "end_offset",
            "end_history",
            "end_unix_ms",
            "keys",
            "is_latest",
        ] {
            assert_eq!(report[field], by_replay[field], "{context}: {field}");
        }
        let why = report["log_served_why"].as_str().unwrap();
        match report["log_served"].as_str().unwrap() {
            "rebuilt" => rebuilt += 1,
            _ if offset == base => {}
            _ => assert!(
                BY_DATA.iter().any(|known| why.contains(known)),
                "{context}: {why}"
            ),
        }
        let tolerance = tolerance_ms(version);
        assert_same(&found, &wanted, Told::All, tolerance, &context);
        assert_eq!(found.info("replication")["role"], "master");
        // It takes writes, and they are a history of its own.
        found.cmd(&["SET", "after", "1"]);
    }
    assert!(rebuilt > 0, "{version}");
    continues_the_history(&stored);
}

/// Under the id and offset of the history, whichever way.
fn continues_the_history(stored: &Stored) {
    let target = Server::start(stored.version, &[]);
    let report = stored.restore(
        &target,
        &["--serve-log", "rebuild", "--continue-history", "--force"],
    );
    assert_eq!(report["continued"], true, "{report:#}");
    let end = report["end_offset"].as_u64().unwrap();
    assert!(end >= stored.position.1);
    let replication = target.info("replication");
    let told = |name: &str| replication[name].as_str();
    assert_eq!(told("master_replid2"), stored.position.0, "{report:#}");
    assert_eq!(told("second_repl_offset"), (end + 1).to_string());
    let (id, offset) = target.position();
    target.cmd(&["SET", "after", "1"]);
    let backfeed = Backfeed::backup(&target.url(), &stored.store(), &[]);
    backfeed.wait_captured(&target);
    assert_eq!(target.info("stats")["sync_full"], "0", "{offset}");
    let listing = list(&stored.store());
    let histories = listing["histories"].as_array().unwrap();
    let child = histories.iter().find(|history| history["id"] == *id);
    let parent = &child.unwrap()["parent"];
    assert_eq!(parent["history"], *stored.position.0, "{listing:#}");
    assert_eq!(parent["offset"], end, "{listing:#}");
}

/// Redis and its sidecar, which gives it the log as one RDB.
struct Pod {
    home: TempDir,
    redis: Server,
    sidecar: Backfeed,
}

impl Pod {
    fn start(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let listen = free_port();
        let redis = Server::builder(version)
            .arg("save", "")
            .replicaof("127.0.0.1", listen)
            .start();
        let store = format!("file://{}/bucket", home.path().display());
        let more = ["--consolidate-every", "never", "--serve-log", "rebuild"];
        let sidecar = Backfeed::sidecar(&redis.url(), &store, listen, &more);
        let pod = Self {
            home,
            redis,
            sidecar,
        };
        pod.wait_open();
        pod
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn role(&self) -> String {
        self.redis.info("replication")["role"].clone()
    }

    fn wait_open(&self) {
        wait_until("Redis is a master", PATIENCE, || self.role() == "master");
        self.sidecar.wait_captured(&self.redis);
    }

    /// Redis and sidecar go, with all that Redis had.
    fn delete(&mut self) {
        self.sidecar.kill9();
        self.redis.kill9();
        fs::remove_dir_all(self.redis.dir()).unwrap();
        fs::create_dir(self.redis.dir()).unwrap();
    }

    /// What the sidecar logged since its log had so many bytes.
    fn logged_since(&self, said: usize) -> String {
        self.sidecar.log().split_off(said)
    }
}

/// The sidecar logs it when it begins to serve.
const REBUILT: &str = "base and log as one RDB";

fn a_sidecar_goes_on_from_a_rebuilt_rdb(version: Version) {
    let mut pod = Pod::start(version);
    let mut runner =
        Runner::new(&pod.redis, SEED, Expiries::None).skipping(|command| is_refused(command));
    let mut rebuilt = 0;
    for life in 1..=3 {
        runner.run(UNITS / 4);
        pod.sidecar.wait_captured(&pod.redis);
        let (id, offset) = pod.redis.position();
        pod.delete();
        let said = pod.sidecar.log().len();
        let replayed = Server::start(version, &[]);
        let (store, to) = (pod.store(), replayed.url());
        let args = [
            "restore",
            "--serve-log",
            "replay",
            "--store",
            &store,
            "--to",
            &to,
        ];
        assert_eq!(run(&args).code, 0, "{version}");
        pod.redis.restart();
        pod.sidecar.restart();
        pod.wait_open();
        let context = format!("{version}, life {life}");
        assert_same(
            &pod.redis,
            &replayed,
            Told::All,
            tolerance_ms(version),
            &context,
        );
        let log = pod.logged_since(said);
        if log.contains(REBUILT) {
            rebuilt += 1;
        } else {
            let why = BY_DATA.iter().chain(&["VADD"]);
            assert!(
                why.into_iter().any(|known| log.contains(known)),
                "{context}: {log}"
            );
        }
        let replication = pod.redis.info("replication");
        assert_eq!(replication["master_replid2"], id, "{context}");
        let second: u64 = replication["second_repl_offset"].parse().unwrap();
        assert!(second > offset, "{context}: {second} {offset}");
        assert_eq!(pod.redis.info("stats")["sync_full"], "0", "{context}");
        runner = Runner::new(&pod.redis, SEED + life, Expiries::None)
            .skipping(|command| is_refused(command));
    }
    assert!(rebuilt > 0, "{version}");
}

/// Either end dies while Redis loads what is made of base and log.
fn a_load_that_is_cut_off_begins_again(version: Version) {
    let mut pod = Pod::start(version);
    let mut connection = pod.redis.connect();
    for part in 0..20 {
        let mut pipe = redis::pipe();
        for n in 0..500 {
            let key = format!("key:{}", part * 500 + n);
            pipe.cmd("SET").arg(&key).arg("a value").ignore();
            pipe.cmd("INCR").arg("all").ignore();
        }
        pipe.exec(&mut connection).unwrap();
    }
    drop(connection);
    pod.sidecar.wait_captured(&pod.redis);
    let wanted = State::of(&pod.redis);
    for sidecar_dies in [true, false] {
        pod.delete();
        let (said, sidecar_said) = (pod.redis.log().len(), pod.sidecar.log().len());
        let loads = |pod: &Pod| {
            let log = pod.redis.log().split_off(said);
            log.contains("Loading DB in memory")
        };
        // Microseconds for each key: the load takes seconds.
        pod.redis.set_arg("key-load-delay", "300");
        pod.redis.restart();
        pod.sidecar.restart();
        wait_until("it loads", PATIENCE, || loads(&pod));
        let log = pod.logged_since(sidecar_said);
        assert!(log.contains(REBUILT), "{version}: {log}");
        let sidecar_said = pod.sidecar.log().len();
        if sidecar_dies {
            pod.sidecar.kill9();
            pod.sidecar.restart();
        } else {
            pod.redis.kill9();
            pod.redis.set_arg("key-load-delay", "0");
            pod.redis.restart();
        }
        pod.wait_open();
        let context = format!("{version}, {sidecar_dies}");
        let log = pod.logged_since(sidecar_said);
        assert!(log.contains(REBUILT), "{context}: {log}");
        State::of(&pod.redis).assert_is(&wanted, tolerance_ms(version), &context);
        assert_eq!(pod.redis.text(&["GET", "all"]), "10000");
    }
}

fn what_is_not_modelled_is_replayed(version: Version) {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let master = Server::start(version, &[]);
    let backfeed = Backfeed::backup(&master.url(), &store, &["--consolidate-every", "never"]);
    backfeed.wait_following();
    master.cmd(&["SET", "a", "1"]);
    master.cmd(&["VADD", "vectors", "VALUES", "2", "0.5", "0.25", "one"]);
    master.cmd(&["SET", "b", "2"]);
    backfeed.wait_captured(&master);
    let target = Server::start(version, &[]);
    let to = target.url();
    let args = [
        "restore",
        "--json",
        "--serve-log",
        "rebuild",
        "--store",
        &store,
        "--to",
        &to,
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["log_served"], "replayed", "{report:#}");
    let why = report["log_served_why"].as_str().unwrap();
    assert!(why.contains("VADD"), "{why}");
    State::of(&target).assert_is(&State::of(&master), 0, version.name());
}
