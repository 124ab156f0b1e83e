//! Every version: capture under load, restore, kill and resume, fail over, restart through the sidecar.

mod versions;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use redis::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::Output;
use crate::support::data::{Expiries, Load, Mix, for_each_version, run as run_batches};
use crate::support::state::{Moment, State, quiet, replica_of, tolerance_ms, unix_ms};
use crate::support::{Backfeed, Server, Version, free_port, list, run, wait_until};

for_each_version!(
    disk_based_sync_under_load,
    diskless_sync_under_load,
    any_point_in_time,
    kill_and_resume,
    fail_over,
    a_replica_as_the_source,
    restart_through_the_sidecar,
    restart_through_the_sidecar_without_expiries,
    a_user_of_few_permissions_is_enough,
);

/// A store, and what is restored from it.
struct Home {
    dir: TempDir,
    version: Version,
    tolerance_ms: i64,
}

impl Home {
    fn new(version: Version) -> Self {
        Self {
            dir: TempDir::new().unwrap(),
            version,
            tolerance_ms: tolerance_ms(version),
        }
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.dir.path().display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn backup(&self, of: &Server) -> Backfeed {
        Backfeed::backup(&of.url(), &self.store(), &[])
    }

    /// `restore --json`, which must succeed.
    #[track_caller]
    fn restore(&self, to: &str, more: &[&str]) -> Value {
        let output = restore(&self.store(), to, more);
        assert_eq!(
            output.code, 0,
            "{} to {to} {more:?}: {output:?}",
            self.version
        );
        serde_json::from_str(&output.stdout).expect("JSON")
    }

    /// To a fresh server, which must then hold what is wanted.
    #[track_caller]
    fn restores(&self, wanted: &State, more: &[&str]) -> Value {
        let target = Server::start(self.version, &[]);
        let report = self.restore(&target.url(), more);
        let context = format!("{}: restored with {more:?}", self.version);
        State::of(&target).assert_is(wanted, self.tolerance_ms, &context);
        assert_eq!(target.info("replication")["role"], "master", "{context}");
        self.loaded_from_the_link(&target, &context);
        report
    }

    /// Without a file on its disk, from Redis 7 on; and the setting for it is the default again.
    #[track_caller]
    fn loaded_from_the_link(&self, target: &Server, context: &str) {
        let from_link = target.log().contains(" to parser");
        assert_eq!(from_link, self.version.at_least_7(), "{context}");
        let setting = target.cmd(&["CONFIG", "GET", "repl-diskless-load"]);
        let (_, setting): (String, String) = redis::from_redis_value(setting).unwrap();
        assert_eq!(setting, "disabled", "{context}");
    }

    /// To an append-only file, which a fresh server loads.
    #[track_caller]
    fn restores_by_aof(&self, wanted: &State, name: &str) {
        let dir = self.path(name);
        self.restore(&format!("aof:{}", dir.display()), &[]);
        let loaded = load_dir(self.version, &dir, "yes");
        let context = format!("{}: loaded from an append-only file", self.version);
        State::of(&loaded).assert_is(wanted, self.tolerance_ms, &context);
    }

    fn history(&self, id: &str) -> Value {
        let listing = list(&self.store());
        let histories = listing["histories"].as_array().unwrap();
        let found = histories.iter().find(|history| history["id"] == id);
        found
            .unwrap_or_else(|| panic!("{}: no history {id} in {listing:#}", self.version))
            .clone()
    }

    /// `(first byte, raw bytes)` of each segment of a history, by the `zstd` command.
    fn segments(&self, id: &str) -> Vec<(u64, Vec<u8>)> {
        let log = self.path("bucket/histories").join(id).join("log");
        let mut names: Vec<PathBuf> = fs::read_dir(&log)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.to_str().unwrap().ends_with(".resp.zst"))
            .collect();
        names.sort();
        let read = |path: PathBuf| {
            let output = Command::new("zstd").arg("-dc").arg(&path).output().unwrap();
            assert!(
                output.status.success(),
                "zstd -dc {}: {output:?}",
                path.display()
            );
            let name = path.file_name().unwrap().to_str().unwrap();
            (
                name.split('.').next().unwrap().parse().unwrap(),
                output.stdout,
            )
        };
        names.into_iter().map(read).collect()
    }
}

fn restore(store: &str, to: &str, more: &[&str]) -> Output {
    run(&[&["restore", "--store", store, "--to", to, "--json"], more].concat())
}

/// A server that loads what lies in a directory.
fn load_dir(version: Version, dir: &Path, appendonly: &str) -> Server {
    Server::builder(version)
        .arg("appendonly", appendonly)
        .dir(dir)
        .start()
}

/// Where the history of a server has its only base.
#[track_caller]
fn only_base(history: &Value) -> u64 {
    let bases = history["bases"].as_array().unwrap();
    assert_eq!(bases.len(), 1, "one full sync: {history:#}");
    bases[0]["offset"].as_u64().unwrap()
}

fn full_syncs(backfeed: &Backfeed) -> u64 {
    backfeed.metric("backfeed_full_syncs_total") as u64
}

fn partial_syncs(backfeed: &Backfeed) -> u64 {
    backfeed.metric("backfeed_partial_syncs_total") as u64
}

/// Waits until everything up to `offset` is stored, or is but `PING`s.
fn wait_stored(backfeed: &Backfeed, offset: u64) {
    backfeed.wait(&format!("offset {offset} is received and stored"), |view| {
        view["received_offset"]
            .as_u64()
            .is_some_and(|at| at >= offset)
            && view["lag_bytes"] == 0
    });
}

fn disk_based_sync_under_load(version: Version) {
    sync_under_load(version, "no");
}

fn diskless_sync_under_load(version: Version) {
    sync_under_load(version, "yes");
}

fn sync_under_load(version: Version, diskless: &str) {
    let mut home = Home::new(version);
    let redis = Server::builder(version)
        .arg("repl-diskless-sync", diskless)
        .arg("rdb-key-save-delay", 400) // µs: so that the load goes on during the snapshot
        .start();
    let load = Load::start(&redis, 1, Expiries::Mixed);
    load.wait(3000);
    let begun = unix_ms();
    let backfeed = home.backup(&redis);
    backfeed.wait_following();
    if version.relative_ttls() {
        // What was written during the sync arrives after it, and nothing says when it was written.
        home.tolerance_ms += unix_ms() - begun;
    }
    let (id, during) = redis.position();
    load.wait(1000);
    load.stop();
    let last = quiet(&redis, 1);

    let base = only_base(&home.history(&id));
    assert!(
        during > base + 1000,
        "{version}: nothing was written during the sync: {base}, {during}"
    );
    assert_eq!(full_syncs(&backfeed), 1);
    let report = home.restores(&last.state, &[]);
    assert!(
        report["end_offset"].as_u64().unwrap() >= last.offset,
        "{report:#}"
    );
    assert_eq!(report["base_offset"], base);
    assert_ne!(report["served_id"], id, "a fork");
    home.restores_by_aof(&last.state, "aof");
}

/// Stops the load and lets some time pass, so that a time lies clearly between what was before and what comes.
fn pause(redis: &Server, load: Load) -> (Moment, i64, Mix) {
    let mix = load.stop();
    let moment = quiet(redis, 1);
    let between = moment.unix_ms + 200;
    wait_until("a time is clearly over", Duration::from_secs(5), || {
        unix_ms() > between + 200
    });
    (moment, between, mix)
}

fn any_point_in_time(version: Version) {
    let home = Home::new(version);
    let redis = Server::start(version, &[]);
    let load = Load::start(&redis, 2, Expiries::Mixed);
    let backfeed = home.backup(&redis);
    backfeed.wait_following();
    let mut moments = Vec::new();
    let (moment, between, mix) = pause(&redis, load);
    moments.push((moment, between));
    let load = Load::go_on(&redis, mix);
    load.wait(1000);
    let (moment, between, mix) = pause(&redis, load);
    moments.push((moment, between));

    // A transaction is there as a whole or not at all.
    let mut transaction = redis::pipe();
    transaction.cmd("MULTI");
    for n in 0..200 {
        transaction
            .cmd("SET")
            .arg(format!("of the transaction {n}"))
            .arg(n);
    }
    transaction.cmd("EXEC");
    let _: Vec<redis::Value> = transaction.query(&mut redis.connect()).unwrap();
    let whole = quiet(&redis, 1);
    let inside = (moments[1].0.offset + whole.offset) / 2;

    let load = Load::go_on(&redis, mix);
    load.wait(500);
    load.stop();
    let last = quiet(&redis, 1);

    for (moment, between) in &moments {
        let offset = moment.offset.to_string();
        let report = home.restores(&moment.state, &["--offset", &offset]);
        assert_eq!(report["end_offset"], moment.offset, "{report:#}");
        let seconds = format!("{}.{:03}", between / 1000, between % 1000);
        home.restores(&moment.state, &["--at", &seconds]);
    }
    let report = home.restores(&moments[1].0.state, &["--offset", &inside.to_string()]);
    let end = report["end_offset"].as_u64().unwrap();
    assert!(
        (moments[1].0.offset..inside).contains(&end),
        "{end} {inside}"
    );
    home.restores(&whole.state, &["--offset", &whole.offset.to_string()]);

    dry_run_touches_nothing(&home, &redis, &last);
    an_rdb_file_holds_any_point(&home, &redis, &last);
}

/// Where the log was not cut, its time marks alone tell what had been received by a time.
#[test]
fn a_time_within_a_segment() {
    let home = Home::new(Version::Redis86);
    let redis = Server::start(home.version, &[]);
    let more = ["--flush-interval", "60s"];
    let backfeed = Backfeed::backup(&redis.url(), &home.store(), &more);
    backfeed.wait_following();
    let mut connection = redis.connect();
    set(&mut connection, "first");
    // Soon after, and then nothing for a while.
    std::thread::sleep(Duration::from_millis(30));
    set(&mut connection, "second");
    wait_until("it is received", Duration::from_secs(10), || {
        backfeed.metric("backfeed_received_offset") as u64 == redis.position().1
    });
    let before = State::of(&redis);
    let at = unix_ms() + 200;
    wait_until("a time is clearly over", Duration::from_secs(5), || {
        unix_ms() > at + 200
    });
    set(&mut connection, "third");
    wait_one(&mut connection);
    let segments = home.segments(&redis.position().0);
    let together = |raw: &[u8]| {
        let text = String::from_utf8_lossy(raw).into_owned();
        text.contains("first") && text.contains("third")
    };
    assert!(
        segments.iter().any(|(_, raw)| together(raw)),
        "{segments:?}"
    );
    home.restores(
        &before,
        &["--at", &format!("{}.{:03}", at / 1000, at % 1000)],
    );
}

fn dry_run_touches_nothing(home: &Home, redis: &Server, last: &Moment) {
    let target = Server::start(home.version, &[]);
    let before = target.position();
    let wanted = last.offset.to_string();
    let report = home.restore(&target.url(), &["--dry-run", "--offset", &wanted]);
    let base = only_base(&home.history(&redis.position().0));
    assert_eq!(report["dry_run"], true);
    assert_eq!(report["base_offset"], base);
    assert_eq!(report["end_offset"], last.offset);
    assert_eq!(report["log_bytes"], last.offset - base);
    assert!(report["segments"].as_u64().unwrap() > 1, "{report:#}");
    assert!(
        report["end_unix_ms"].as_i64().unwrap() <= last.unix_ms,
        "{report:#}"
    );
    assert_eq!(target.position(), before, "it was never a replica");
    assert!(
        target
            .info("keyspace")
            .keys()
            .all(|key| !key.starts_with("db"))
    );
    assert!(
        !target.log().to_lowercase().contains("replicaof"),
        "{}",
        target.log()
    );
    for to in [
        format!("aof:{}", home.path("dry").display()),
        format!("{}", home.path("dry.rdb").display()),
    ] {
        restore(
            &home.store(),
            &to,
            &["--dry-run", "--offset", &base.to_string()],
        );
    }
    assert!(!home.path("dry").exists() && !home.path("dry.rdb").exists());
}

fn an_rdb_file_holds_any_point(home: &Home, redis: &Server, last: &Moment) {
    let dir = home.path("rdb");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("dump.rdb");
    let to = file.to_str().unwrap();
    // Any point: the log is applied to the snapshot, unless a vector set is in it, whose graph is built at random.
    let made = restore(&home.store(), to, &["--offset", &last.offset.to_string()]);
    if matches!(redis.version(), Version::Redis80 | Version::Redis86) {
        assert_eq!(made.code, 6, "{made:?}");
        assert!(
            made.stderr.contains("VADD") && made.stderr.contains("aof:"),
            "{made:?}"
        );
        assert!(!file.exists());
    } else {
        assert_eq!(made.code, 0, "{made:?}");
        let loaded = load_dir(home.version, &dir, "no");
        let context = format!("{}: an RDB file of the last point", redis.version());
        State::of(&loaded).assert_is(&last.state, tolerance_ms(redis.version()), &context);
        drop(loaded);
        fs::remove_file(&file).unwrap();
    }

    let once = run(&[
        "backup",
        "--redis",
        &redis.url(),
        "--store",
        &home.store(),
        "--once",
    ]);
    assert_eq!(once.code, 0, "{once:?}");
    let history = home.history(&redis.position().0);
    let bases = history["bases"].as_array().unwrap();
    let at = bases.last().unwrap()["offset"].to_string();
    assert_eq!(bases.len(), 2, "{history:#}");
    home.restore(to, &["--offset", &at]);
    let loaded = load_dir(home.version, &dir, "no");
    let context = format!("{}: an RDB file", home.version);
    State::of(&loaded).assert_is(&last.state, tolerance_ms(home.version), &context);
}

fn set(connection: &mut Connection, key: &str) {
    let () = redis::cmd("SET")
        .arg(key)
        .arg("value")
        .query(connection)
        .unwrap();
}

fn wait_one(connection: &mut Connection) {
    let replicas: u32 = redis::cmd("WAIT")
        .arg(1)
        .arg(30_000)
        .query(connection)
        .unwrap();
    assert_eq!(replicas, 1);
}

fn kill_and_resume(version: Version) {
    let home = Home::new(version);
    let redis = Server::builder(version)
        .arg("repl-backlog-size", "64mb")
        .start();
    let mut first = home.backup(&redis);
    first.wait_following();
    let (id, _) = redis.position();
    let load = Load::start(&redis, 3, Expiries::Mixed);
    load.wait(2000);
    first.kill9();
    load.wait(500);
    let mut second = home.backup(&redis);
    second.wait_following();
    load.wait(500);
    load.stop();
    quiet(&redis, 1);
    assert_eq!(
        (full_syncs(&second), partial_syncs(&second)),
        (0, 1),
        "{version}"
    );

    // In the database that was selected before, without a word about it.
    let mut connection = redis.connect();
    let () = redis::cmd("SELECT").arg(5).query(&mut connection).unwrap();
    set(&mut connection, "before the kill");
    wait_one(&mut connection);
    second.kill9();
    let from = redis.position().1;
    set(&mut connection, "while nobody listens");
    let third = home.backup(&redis);
    third.wait_following();
    set(&mut connection, "after the kill");
    wait_one(&mut connection);
    let last = quiet(&redis, 0);
    wait_stored(&third, last.offset);
    assert_eq!(
        (full_syncs(&third), partial_syncs(&third)),
        (0, 1),
        "{version}"
    );

    let stats = redis.info("stats");
    assert_eq!(
        (&*stats["sync_full"], &*stats["sync_partial_ok"]),
        // The feed of the full sync comes by a link of its own.
        ("1", "3"),
        "{version}"
    );
    let base = only_base(&home.history(&id));
    assert!(base < from);
    let segments = home.segments(&id);
    let new = segments.iter().filter(|(first, _)| *first > from);
    let new: Vec<u8> = new.flat_map(|(_, raw)| raw.clone()).collect();
    let new = String::from_utf8_lossy(&new);
    assert!(
        new.contains("while nobody listens") && !new.contains("SELECT"),
        "{new}"
    );
    home.restores(&last.state, &[]);
    home.restores_by_aof(&last.state, "aof");
}

fn fail_over(version: Version) {
    let home = Home::new(version);
    let mut master = Server::start(version, &[]);
    let replica = replica_of(&master);
    let mut first = home.backup(&master);
    first.wait_following();
    let load = Load::start(&master, 4, Expiries::Mixed);
    load.wait(1500);
    let mix = load.stop();
    let before = quiet(&master, 2);
    let (old, _) = master.position();
    first.kill9();
    master.kill9();

    replica.cmd(&["REPLICAOF", "NO", "ONE"]);
    let (new, _) = replica.position();
    assert_ne!(old, new);
    let load = Load::go_on(&replica, mix);
    let second = home.backup(&replica);
    second.wait_following();
    load.wait(500);
    load.stop();
    let last = quiet(&replica, 1);
    assert_eq!(
        (full_syncs(&second), partial_syncs(&second)),
        (0, 1),
        "{version}"
    );
    let child = home.history(&new);
    assert_eq!(child["parent"]["history"], *old, "{child:#}");
    let left = child["parent"]["offset"].as_u64().unwrap();
    assert!(left >= before.offset, "{version}: {left} {}", before.offset);
    assert_eq!(child["bases"].as_array().unwrap().len(), 0, "{child:#}");
    assert_eq!(list(&home.store())["latest"], *new);
    assert!(
        !home.history(&old)["sealed"].is_null(),
        "the old history has ended"
    );
    let report = home.restores(&last.state, &[]);
    assert_eq!(report["end_history"], *new, "{report:#}");
    assert_eq!(report["base_history"], *old, "{report:#}");
    home.restores_by_aof(&last.state, "aof");
    // A point before the failover is still there.
    home.restores(&before.state, &["--offset", &before.offset.to_string()]);
}

fn a_replica_as_the_source(version: Version) {
    let home = Home::new(version);
    let master = Server::start(version, &[]);
    let load = Load::start(&master, 5, Expiries::Mixed);
    let replica = replica_of(&master);
    let backfeed = home.backup(&replica);
    backfeed.wait_following();
    load.wait(1500);
    load.stop();
    let last = quiet(&master, 1);
    wait_stored(&backfeed, last.offset);
    let base = only_base(&home.history(&master.position().0));
    assert!(base < last.offset);
    home.restores(&last.state, &[]);
}

fn restart_through_the_sidecar(version: Version) {
    sidecar_restart(version, Expiries::Mixed);
}

fn restart_through_the_sidecar_without_expiries(version: Version) {
    sidecar_restart(version, Expiries::None);
}

fn sidecar_restart(version: Version, expiries: Expiries) {
    let home = Home::new(version);
    let listen = free_port();
    let port = free_port();
    let url = format!("redis://127.0.0.1:{port}");
    let start = || {
        let redis = Server::builder(version)
            .port(port)
            .replicaof("127.0.0.1", listen)
            .start();
        let sidecar = Backfeed::sidecar(&url, &home.store(), listen, &[]);
        sidecar.wait("Redis is promoted and followed", |view| {
            view["phase"] == "following" && view["promoted"] == true
        });
        (redis, sidecar)
    };
    let (mut redis, mut sidecar) = start();
    let mut mix = Mix::new(&mut redis.connect(), 6, expiries);
    run_batches(&mut redis.connect(), &mut mix, 10);
    assert_eq!(full_syncs(&sidecar), 0, "it began with an empty base");
    let load = Load::go_on(&redis, mix);
    load.wait(1500);
    load.stop();
    let last = quiet(&redis, 1);
    let (old, _) = redis.position();
    redis.kill9();
    sidecar.kill9();

    let (redis, sidecar) = start();
    let context = format!("{version}: given back by the sidecar");
    State::of(&redis).assert_is(&last.state, tolerance_ms(version), &context);
    let (new, _) = redis.position();
    let history = home.history(&new);
    // Of an old server with expiries, too: its log is made a base, which has no offsets to keep.
    assert_eq!(
        (full_syncs(&sidecar), partial_syncs(&sidecar)),
        (0, 1),
        "{context}"
    );
    assert_eq!(redis.info("stats")["sync_full"], "0", "{context}");
    assert_eq!(history["parent"]["history"], *old, "{context}");
    // And it goes on: what is written now is restored, too.
    let load = Load::start(&redis, 7, expiries);
    load.wait(300);
    load.stop();
    let last = quiet(&redis, 1);
    home.restores(&last.state, &[]);
}

/// `+psync +replconf +ping` are enough, with or without `+info`; the password comes from the URL or from a file.
fn a_user_of_few_permissions_is_enough(version: Version) {
    for more in ["+info", "-info"] {
        let home = Home::new(version);
        let redis = Server::start(version, &[]);
        let rules = [
            "on",
            ">p@ss:w/rd",
            "-@all",
            "+psync",
            "+replconf",
            "+ping",
            more,
        ];
        redis.cmd(&[&["ACL", "SETUSER", "backup"][..], &rules].concat());
        run_batches(
            &mut redis.connect(),
            &mut Mix::new(&mut redis.connect(), 9, Expiries::Mixed),
            30,
        );
        let (url, file) = if more == "+info" {
            (
                format!("redis://backup:p%40ss%3Aw%2Frd@{}", redis.addr()),
                None,
            )
        } else {
            let file = home.path("password");
            fs::write(&file, "p@ss:w/rd\n").unwrap();
            (format!("redis://backup@{}", redis.addr()), Some(file))
        };
        let file = file.map(|file| file.to_str().unwrap().to_owned());
        let file: Vec<&str> = match &file {
            Some(file) => vec!["--redis-password-file", file],
            None => Vec::new(),
        };
        let mut first = Backfeed::backup(&url, &home.store(), &file);
        first.wait_following();
        quiet(&redis, 1);
        first.kill9();
        let second = Backfeed::backup(&url, &home.store(), &file);
        second.wait_following();
        let last = quiet(&redis, 1);
        let context = format!("{version} {more}: {}", second.log());
        assert_eq!(
            (full_syncs(&second), partial_syncs(&second)),
            (0, 1),
            "{context}"
        );
        let warned = second.log().contains("INFO is not permitted");
        assert_eq!(warned, more == "-info", "{context}");
        assert!(!second.log().contains("p@ss"), "{context}");
        home.restores(&last.state, &[]);
    }
}

#[test]
fn ipv6_is_an_address_like_another() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this machine has no ::1");
        return;
    }
    for version in [Version::Redis60, Version::Redis86, Version::Valkey91] {
        let home = Home::new(version);
        let redis = Server::builder(version)
            .arg("bind", "127.0.0.1 ::1")
            .start();
        run_batches(
            &mut redis.connect(),
            &mut Mix::new(&mut redis.connect(), 10, Expiries::Mixed),
            30,
        );
        let url = format!("redis://[::1]:{}", redis.port());
        let backfeed = Backfeed::backup(&url, &home.store(), &[]);
        backfeed.wait_following();
        let last = quiet(&redis, 1);
        let history = home.history(&redis.position().0);
        assert_eq!(history["service"], format!("[::1]:{}", redis.port()));
        let target = Server::builder(version)
            .arg("bind", "127.0.0.1 ::1")
            .start();
        home.restore(&format!("redis://[::1]:{}", target.port()), &[]);
        assert!(
            target.log().contains("::1"),
            "its master was at ::1: {}",
            target.log()
        );
        State::of(&target).assert_is(&last.state, tolerance_ms(version), &version.to_string());
    }
}
