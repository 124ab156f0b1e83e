//! The sidecar: what it does in each situation that it can find its Redis in.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{Backfeed, Load, Server, Version, free_port, on, restored, run, wait_until};

/// A Redis, the sidecar beside it, and their store.
struct Pod {
    home: TempDir,
    listen: u16,
    redis: Server,
    sidecar: Backfeed,
}

impl Pod {
    /// A fresh Redis that waits for a sidecar, and that.
    fn start(version: Version, more: &[&str]) -> Self {
        Self::with(version, &[], more)
    }

    /// The same, with lines of Redis' configuration.
    fn with(version: Version, config: &[(&str, &str)], more: &[&str]) -> Self {
        let home = TempDir::new().unwrap();
        let listen = free_port();
        let redis = waiting(version, listen, config);
        let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, more);
        let pod = Self {
            home,
            listen,
            redis,
            sidecar,
        };
        pod.wait_open();
        pod
    }

    fn store(&self) -> String {
        store(&self.home)
    }

    /// Redis is a master and is captured.
    fn wait_open(&self) {
        wait_promoted(&self.redis);
        self.sidecar.wait_captured(&self.redis);
    }

    fn set(&self, key: &str, value: &str) {
        self.redis.cmd(&["SET", key, value]);
        self.sidecar.wait_captured(&self.redis);
    }

    /// Kills Redis; all its files are gone, and it starts again.
    fn replace_redis(&mut self) {
        self.redis.kill9();
        fs::remove_dir_all(self.redis.dir()).unwrap();
        fs::create_dir(self.redis.dir()).unwrap();
        self.redis.restart();
    }

    /// Full syncs in the store's whole life.
    fn full_syncs(&self) -> usize {
        full_syncs(&self.home)
    }

    /// What is stored is what Redis has.
    #[track_caller]
    fn assert_stored(&self) {
        self.sidecar.wait_captured(&self.redis);
        let copy = restored(self.redis.version(), &self.store());
        assert_eq!(copy.debug_digest(), self.redis.debug_digest());
    }
}

/// A Redis that takes the port of a sidecar for its master.
fn waiting(version: Version, listen: u16, config: &[(&str, &str)]) -> Server {
    let builder = Server::builder(version).replicaof("127.0.0.1", listen);
    let builder = config
        .iter()
        .fold(builder, |builder, (key, value)| builder.arg(key, value));
    builder.start()
}

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

/// Each leaves a manifest.
fn full_syncs(home: &TempDir) -> usize {
    let histories = fs::read_dir(home.path().join("bucket/histories")).unwrap();
    let manifests = |history: PathBuf| {
        let base = fs::read_dir(history.join("base"));
        let paths = base
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .count()
    };
    histories
        .map(|history| manifests(history.unwrap().path()))
        .sum()
}

fn field(server: &Server, section: &str, name: &str) -> String {
    let info = server.info(section);
    let field = info.get(name);
    field
        .unwrap_or_else(|| panic!("{server}: no {name} in {info:?}"))
        .clone()
}

fn role(server: &Server) -> String {
    field(server, "replication", "role")
}

fn wait_promoted(server: &Server) {
    wait_until(&format!("{server} is a master"), PATIENCE, || {
        role(server) == "master"
    });
}

fn refuses_writes(server: &Server) -> bool {
    let Err(error) = server.try_cmd(&["SET", "refused", "1"]) else {
        return false;
    };
    assert_eq!(error.code(), Some("READONLY"), "{server}: {error}");
    true
}

fn an_empty_store_opens_an_empty_redis_and_a_stored_history_fills_the_next_pods(version: Version) {
    let mut pod = Pod::start(version, &[]);
    assert_eq!(pod.redis.text(&["DBSIZE"]), "0");
    for life in 1..=2 {
        pod.redis.cmd(&["RPUSH", "lives", &life.to_string()]);
        pod.sidecar.wait_captured(&pod.redis);
        // The pod is deleted, and its successor has other ports and another disk.
        pod.sidecar.kill9();
        pod.redis.kill9();
        pod.listen = free_port();
        pod.redis = waiting(version, pod.listen, &[]);
        pod.sidecar = Backfeed::sidecar(&pod.redis.url(), &store(&pod.home), pod.listen, &[]);
        pod.wait_open();
        assert_eq!(
            pod.redis.text(&["LLEN", "lives"]),
            life.to_string(),
            "{version}"
        );
    }
    pod.assert_stored();
    // One in the whole life of the data; of an old server too, as there is no expiry in its log.
    assert_eq!(pod.full_syncs(), 1, "{version}");
}

on!(an_empty_store_opens_an_empty_redis_and_a_stored_history_fills_the_next_pods: redis_60 = Redis60, redis_70 = Redis70, valkey_91 = Valkey91);

/// As the manifests have it.
fn a_redis_that_needs_no_disk_is_restored(version: Version) {
    let mut pod = Pod::with(version, &[("repl-diskless-load", "on-empty-db")], &[]);
    let load = Load::start(&pod.redis, 3);
    load.wait_replies(500);
    load.stop();
    pod.sidecar.wait_captured(&pod.redis);
    let digest = pod.redis.debug_digest();
    pod.replace_redis();
    pod.wait_open();
    assert_eq!(pod.redis.debug_digest(), digest);
    let log = pod.redis.log();
    assert!(log.contains(" to parser"), "{version}: {log}");
}
on!(a_redis_that_needs_no_disk_is_restored: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

fn a_living_master_is_left_alone_by_a_restarted_sidecar(version: Version) {
    let mut pod = Pod::start(version, &[]);
    pod.set("before", "1");
    let run_id = field(&pod.redis, "server", "run_id");
    let (replid, _) = pod.redis.position();
    let full_syncs = field(&pod.redis, "stats", "sync_full");
    for kill in [true, false] {
        if kill {
            pod.sidecar.kill9();
        } else {
            assert_eq!(pod.sidecar.sigterm(), 0);
        }
        pod.redis.cmd(&["INCR", "meanwhile"]);
        pod.sidecar.restart();
        pod.wait_open();
    }
    assert_eq!(field(&pod.redis, "server", "run_id"), run_id);
    assert_eq!(pod.redis.position().0, replid);
    assert_eq!(field(&pod.redis, "stats", "sync_full"), full_syncs);
    assert_eq!(pod.full_syncs(), 1);
    assert_eq!(pod.redis.text(&["GET", "meanwhile"]), "2");
    pod.assert_stored();
}

on!(a_living_master_is_left_alone_by_a_restarted_sidecar: redis_70 = Redis70, redis_86 = Redis86);

/// What it had received and not stored yet is stored before it is served.
fn what_was_received_from_a_killed_redis_is_given_to_the_next_one(version: Version) {
    let mut pod = Pod::start(version, &["--flush-interval", "30s"]);
    for _ in 0..2 {
        let load = Load::start(&pod.redis, 3);
        load.wait_replies(300);
        let answered = load.stop();
        let (_, offset) = pod.redis.position();
        let received = |view: &Value| view["received_offset"].as_u64();
        pod.sidecar.wait("all is received", |view| {
            received(view).is_some_and(|received| received >= offset)
        });
        let view = pod.sidecar.readyz().unwrap();
        assert!(view["stored_offset"].as_u64().unwrap() < offset, "{view}");
        pod.replace_redis();
        wait_promoted(&pod.redis);
        answered.assert_all_in(&pod.redis);
        pod.wait_open();
    }
    assert_eq!(pod.full_syncs(), 1, "{version}");
    pod.assert_stored();
}

on!(what_was_received_from_a_killed_redis_is_given_to_the_next_one: redis_70 = Redis70, redis_80 = Redis80, valkey_81 = Valkey81);

/// The same in the middle of writes, where the end is known to the sidecar alone.
#[test]
fn a_redis_killed_under_load_comes_back_with_all_that_the_sidecar_had_received() {
    let mut pod = Pod::start(Version::Redis70, &["--flush-interval", "30s"]);
    for _ in 0..3 {
        let load = Load::start(&pod.redis, 4);
        let begun = pod.redis.position().1;
        let mut received = 0;
        pod.sidecar.wait("much is received", |view| {
            received = view["received_offset"].as_u64().unwrap_or(0);
            received > begun + 100_000
        });
        pod.redis.kill9();
        load.stop();
        pod.replace_redis();
        wait_promoted(&pod.redis);
        let second: u64 = field(&pod.redis, "replication", "second_repl_offset")
            .parse()
            .unwrap();
        // A command may have been cut in two.
        const LONGEST_COMMAND: u64 = 100;
        assert!(
            second > received - LONGEST_COMMAND,
            "{second} was served, {received} was received"
        );
        pod.wait_open();
    }
    assert_eq!(pod.full_syncs(), 1);
    pod.assert_stored();
}

/// A container that restarts in its pod finds the snapshot that it was restored from, or saved last.
fn an_rdb_of_a_point_that_the_store_has_is_brought_up_to_date(version: Version) {
    let mut pod = Pod::with(version, &[("save", "3600 1")], &[]);
    pod.set("early", "1");
    pod.redis.save();
    pod.set("late", "2");
    pod.redis.kill9();
    pod.redis.restart();
    pod.wait_open();
    assert_eq!(pod.redis.text(&["GET", "early"]), "1", "{version}");
    assert_eq!(pod.redis.text(&["GET", "late"]), "2", "{version}");

    // Saved at the very end that is stored.
    pod.set("last", "3");
    pod.redis.restart();
    pod.wait_open();
    assert_eq!(pod.redis.text(&["GET", "last"]), "3", "{version}");
    if !version.relative_ttls() {
        assert_eq!(pod.full_syncs(), 1, "{version}");
    }
    assert!(
        !pod.sidecar.log().contains("Redis has data of its own"),
        "{version}"
    );
    pod.assert_stored();
}

on!(an_rdb_of_a_point_that_the_store_has_is_brought_up_to_date: redis_62 = Redis62, redis_70 = Redis70, valkey_91 = Valkey91);

/// Data that may be newer than the store is never overwritten with something older.
fn own_data_is_kept(version: Version, config: (&str, &str), why: &str) {
    let mut pod = Pod::with(version, &[config], &[]);
    pod.set("shared", "1");
    pod.sidecar.kill9();
    for n in 0..100 {
        pod.redis.cmd(&["SET", &format!("alone:{n}"), "2"]);
    }
    pod.redis.cmd(&["SET", "shared", "3"]);
    let digest = pod.redis.debug_digest();
    // Clean: with `save` it leaves an RDB, with `appendonly` it has its AOF.
    pod.redis.restart();
    assert_eq!(role(&pod.redis), "slave");
    pod.sidecar.restart();
    pod.wait_open();
    assert_eq!(pod.redis.debug_digest(), digest, "{version}");
    let log = pod.sidecar.log();
    assert!(log.contains(why), "{version}: {log}");

    // Captured, and so it is what the next one gets.
    pod.set("more", "4");
    let digest = pod.redis.debug_digest();
    pod.replace_redis();
    pod.wait_open();
    assert_eq!(pod.redis.debug_digest(), digest, "{version}");
    pod.assert_stored();
}

fn an_rdb_that_goes_beyond_the_store_is_kept_and_captured(version: Version) {
    own_data_is_kept(
        version,
        ("save", "3600 1"),
        "Redis has data of its own that goes beyond what is stored",
    );
}

on!(an_rdb_that_goes_beyond_the_store_is_kept_and_captured: redis_60 = Redis60, redis_70 = Redis70, valkey_91 = Valkey91);

fn an_append_only_file_of_an_unknown_point_is_kept_and_captured(version: Version) {
    own_data_is_kept(
        version,
        ("appendonly", "yes"),
        "Redis has data of its own, and nothing proves it to be older than the store",
    );
}

on!(an_append_only_file_of_an_unknown_point_is_kept_and_captured: redis_60 = Redis60, redis_70 = Redis70, redis_86 = Redis86);

#[test]
fn with_an_empty_store_data_of_its_own_is_kept_and_captured() {
    let home = TempDir::new().unwrap();
    let listen = free_port();
    let mut redis = waiting(Version::Redis70, listen, &[("save", "3600 1")]);
    redis.cmd(&["REPLICAOF", "NO", "ONE"]);
    redis.cmd(&["SET", "mine", "1"]);
    redis.restart();
    let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &[]);
    wait_promoted(&redis);
    sidecar.wait_captured(&redis);
    assert_eq!(redis.text(&["GET", "mine"]), "1");
    assert_eq!(
        restored(Version::Redis70, &store(&home)).text(&["GET", "mine"]),
        "1"
    );
}

/// Somebody forgot `--replicaof`: an empty master is not the application's doing when its history is unknown.
fn an_empty_master_is_restored_not_captured(version: Version) {
    let home = TempDir::new().unwrap();
    let redis = Server::start(version, &[]);
    let listen = free_port();
    let mut sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &[]);
    sidecar.wait_following();
    redis.cmd(&["SET", "key", "value"]);
    sidecar.wait_captured(&redis);
    // While it lives, and as it comes up: with the snapshot (empty) that it was restored from, and without.
    for keeps_its_rdb in [true, false] {
        let port = redis.port();
        drop(sidecar);
        let mut fresh = Server::start(version, &[]);
        sidecar = Backfeed::sidecar(&fresh.url(), &store(&home), listen, &[]);
        wait_until("the keys are there", PATIENCE, || {
            fresh.text(&["DBSIZE"]) == "1" && role(&fresh) == "master"
        });
        assert!(
            sidecar
                .log()
                .contains("Redis is an empty master, but the store has data")
        );
        sidecar.wait_captured(&fresh);
        fresh.kill9();
        if !keeps_its_rdb {
            fs::remove_dir_all(fresh.dir()).unwrap();
            fs::create_dir(fresh.dir()).unwrap();
        }
        fresh.restart();
        wait_until("the keys are there again", PATIENCE, || {
            fresh.text(&["DBSIZE"]) == "1" && role(&fresh) == "master"
        });
        sidecar.wait_captured(&fresh);
        assert_eq!(fresh.text(&["GET", "key"]), "value", "{version}");
        assert_ne!(fresh.port(), port);
        let copy = restored(version, &store(&home));
        assert_eq!(copy.text(&["GET", "key"]), "value", "{version}");
    }
    if !version.relative_ttls() {
        assert_eq!(full_syncs(&home), 1, "{version}");
    }
}

on!(an_empty_master_is_restored_not_captured: redis_60 = Redis60, redis_70 = Redis70, valkey_91 = Valkey91);

#[test]
fn what_the_application_flushed_stays_flushed() {
    let mut pod = Pod::start(Version::Redis70, &[]);
    pod.set("key", "value");
    pod.redis.cmd(&["FLUSHALL"]);
    pod.sidecar.wait_captured(&pod.redis);
    // An empty master, of a history that the store knows.
    let run_id = field(&pod.redis, "server", "run_id");
    pod.sidecar.restart();
    pod.wait_open();
    assert_eq!(pod.redis.text(&["DBSIZE"]), "0");
    assert_eq!(field(&pod.redis, "server", "run_id"), run_id);
    assert!(!pod.sidecar.log().contains("empty master"));
    // An empty replica.
    pod.replace_redis();
    pod.wait_open();
    assert_eq!(pod.redis.text(&["DBSIZE"]), "0");
    // Once more a master, under the id of its promotion, which no log knows yet.
    pod.redis.cmd(&["FLUSHALL"]);
    pod.sidecar.restart();
    pod.wait_open();
    assert_eq!(pod.redis.text(&["DBSIZE"]), "0");
    assert_eq!(pod.full_syncs(), 1);
}

fn a_replica_of_somebody_else_is_left_alone_and_captured_as_it_is(version: Version) {
    let home = TempDir::new().unwrap();
    let master = Server::start(version, &[]);
    master.cmd(&["SET", "theirs", "1"]);
    let redis = Server::builder(version)
        .replicaof("127.0.0.1", master.port())
        .start();
    wait_until("the replica follows", PATIENCE, || {
        field(&redis, "replication", "master_link_status") == "up"
    });
    let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), free_port(), &[]);
    sidecar.wait_following();
    master.cmd(&["SET", "later", "2"]);
    wait_until("the replica has it", PATIENCE, || {
        redis.text(&["DBSIZE"]) == "2"
    });
    sidecar.wait_captured(&redis);
    assert_eq!(role(&redis), "slave", "{version}");
    assert_eq!(
        field(&redis, "replication", "master_port"),
        master.port().to_string()
    );
    assert_eq!(field(&redis, "replication", "master_link_status"), "up");
    assert!(refuses_writes(&redis));
    let view = sidecar.readyz().unwrap();
    assert_eq!(view["promoted"], false, "{view}");
    assert!(
        sidecar
            .log()
            .contains("not of backfeed: it is captured as it is")
    );
    let copy = restored(version, &store(&home));
    assert_eq!(copy.debug_digest(), master.debug_digest(), "{version}");
}

on!(a_replica_of_somebody_else_is_left_alone_and_captured_as_it_is: redis_60 = Redis60, redis_70 = Redis70, valkey_91 = Valkey91);

/// A store below a path that is a file, for now.
struct Blocked {
    home: TempDir,
}

impl Blocked {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        fs::write(home.path().join("mount"), "not mounted").unwrap();
        Self { home }
    }

    fn mount(&self) -> PathBuf {
        self.home.path().join("mount")
    }

    fn url(&self) -> String {
        format!("file://{}/bucket", self.mount().display())
    }

    /// It appears, with the content of another store.
    fn unblock(&self, content: Option<&Path>) {
        fs::remove_file(self.mount()).unwrap();
        fs::create_dir(self.mount()).unwrap();
        if let Some(content) = content {
            fs::rename(content.join("bucket"), self.mount().join("bucket")).unwrap();
        }
    }
}

/// A store with `key` = `value` in it.
fn a_store() -> TempDir {
    let pod = Pod::start(Version::Redis70, &[]);
    pod.set("key", "value");
    let Pod { home, sidecar, .. } = pod;
    drop(sidecar);
    home
}

#[test]
fn without_its_store_redis_waits_and_opens_when_the_store_is_back() {
    let stored = a_store();
    let blocked = Blocked::new();
    let listen = free_port();
    let redis = waiting(Version::Redis70, listen, &[]);
    let mut sidecar = Backfeed::sidecar(&redis.url(), &blocked.url(), listen, &[]);
    sidecar.wait("it waits for the store", |view| {
        view["phase"] == "waiting_for_store"
    });
    let (code, body) = sidecar.get("/readyz").unwrap();
    assert_eq!(code, 503, "{body}");
    assert!(
        body.contains("the store cannot be used") && body.contains(&blocked.url()[7..]),
        "{body}"
    );
    assert_eq!(sidecar.get("/healthz").unwrap().0, 200);
    // Redis asks every second, gets the answer to wait, and stays what it is.
    wait_until("Redis has asked twice", PATIENCE, || {
        redis
            .log()
            .matches("MASTER <-> REPLICA sync started")
            .count()
            >= 2
    });
    assert_eq!(role(&redis), "slave");
    assert!(refuses_writes(&redis));
    assert!(sidecar.is_running());

    blocked.unblock(Some(stored.path()));
    wait_promoted(&redis);
    assert_eq!(redis.text(&["GET", "key"]), "value");
    sidecar.wait_captured(&redis);
    assert_eq!(sidecar.get("/readyz").unwrap().0, 200);
}

#[test]
fn open_after_opens_redis_without_its_store_and_captures_it_later() {
    let blocked = Blocked::new();
    let listen = free_port();
    let redis = waiting(Version::Redis70, listen, &[]);
    let more = ["--open-after", "2s"];
    let sidecar = Backfeed::sidecar(&redis.url(), &blocked.url(), listen, &more);
    sidecar.wait("it waits for the store", |view| {
        view["phase"] == "waiting_for_store"
    });
    assert!(refuses_writes(&redis));
    wait_promoted(&redis);
    assert!(sidecar.log().contains("`open_after`"));
    redis.cmd(&["SET", "without the stored data", "1"]);
    sidecar.wait("it is ready, though the store is away", |view| {
        view["ready"] == true && view["phase"] == "waiting_for_store"
    });
    blocked.unblock(None);
    sidecar.wait_captured(&redis);
    assert_eq!(redis.text(&["GET", "without the stored data"]), "1");
    assert_eq!(
        restored(Version::Redis70, &blocked.url()).text(&["GET", "without the stored data"]),
        "1"
    );
}

/// A Redis that comes up late is opened as well.
#[test]
fn open_after_opens_a_redis_that_comes_up_later() {
    let blocked = Blocked::new();
    let listen = free_port();
    let port = free_port();
    let url = format!("redis://127.0.0.1:{port}");
    let more = ["--open-after", "500ms"];
    let sidecar = Backfeed::sidecar(&url, &blocked.url(), listen, &more);
    wait_until("the time is over", PATIENCE, || {
        sidecar.log().contains("`open_after`")
    });
    let redis = Server::builder(Version::Redis70)
        .port(port)
        .replicaof("127.0.0.1", listen)
        .start();
    wait_promoted(&redis);
}

/// The application's own replicas go on with the restored Redis.
fn a_replica_of_the_application_follows_through_a_restart(version: Version) {
    let mut pod = Pod::start(version, &[]);
    let replica = Server::builder(version)
        .replicaof("127.0.0.1", pod.redis.port())
        .start();
    pod.set("before", "1");
    let has = |key: &str| {
        wait_until(&format!("the replica has {key}"), PATIENCE, || {
            let value = replica.try_cmd(&["EXISTS", key]);
            value.is_ok_and(|value| value == redis::Value::Int(1))
        });
    };
    has("before");
    pod.replace_redis();
    pod.wait_open();
    pod.set("after", "2");
    has("after");
    assert_eq!(
        replica.debug_digest(),
        pod.redis.debug_digest(),
        "{version}"
    );
    assert_eq!(role(&replica), "slave");
    assert_eq!(
        field(&replica, "replication", "master_port"),
        pod.redis.port().to_string()
    );
}

on!(a_replica_of_the_application_follows_through_a_restart: redis_62 = Redis62, redis_70 = Redis70, valkey_91 = Valkey91);

#[test]
fn redis_must_give_the_listeners_password() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("password");
    fs::write(&file, "open sesame\n").unwrap();
    let listen = free_port();
    let redis = waiting(
        Version::Redis70,
        listen,
        &[("masterauth", "\"open barley\"")],
    );
    let more = ["--listen-password-file", file.to_str().unwrap()];
    let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &more);
    wait_until("Redis is refused", PATIENCE, || {
        redis.log().matches("WRONGPASS").count() > 2
    });
    assert_eq!(role(&redis), "slave");
    assert_eq!(sidecar.readyz().unwrap()["ready"], false);
    let told = |words: &str| sidecar.log().matches(words).count();
    assert_eq!(
        told("it gave a wrong password. Set masterauth on Redis to the password"),
        1
    );
    redis.cmd(&["CONFIG", "SET", "masterauth", ""]);
    wait_until("the missing password is reported", PATIENCE, || {
        told("it gave no password. Set masterauth on Redis") == 1
    });
    redis.cmd(&["CONFIG", "SET", "masterauth", "open sesame"]);
    wait_promoted(&redis);
    sidecar.wait_captured(&redis);
    assert!(!sidecar.log().contains("open sesame"));
}

#[test]
fn beyond_loopback_it_listens_with_a_password_alone() {
    let output = run(&[
        "sidecar",
        "--redis",
        "redis://127.0.0.1:6379",
        "--store",
        "file:///tmp/never-made",
        "--listen",
        "0.0.0.0:6390",
    ]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(
        output.stderr.contains(
            "--listen: 0.0.0.0:6390 can be reached from other machines, and whoever connects gets all data. Set a \
             password (--listen-password-file), require certificates (--listen-tls-client-ca), or listen on 127.0.0.1"
        ),
        "{output:?}"
    );
}

/// 200 MB to serve: there is time to be killed in the middle.
#[test]
fn a_sidecar_killed_while_it_serves_serves_again() {
    let home = TempDir::new().unwrap();
    let listen = free_port();
    let config = [("rdbcompression", "no")];
    let redis = waiting(Version::Redis70, listen, &config);
    redis.cmd(&["REPLICAOF", "NO", "ONE"]);
    redis.cmd(&["DEBUG", "POPULATE", "200000", "key", "1000"]);
    let sidecar = Backfeed::sidecar(&redis.url(), &store(&home), listen, &[]);
    sidecar.wait_captured(&redis);
    let mut pod = Pod {
        home,
        listen,
        redis,
        sidecar,
    };
    pod.set("last", "1");
    let digest = pod.redis.debug_digest();
    for _ in 0..3 {
        pod.replace_redis();
        wait_until("Redis receives its data", PATIENCE, || {
            let info = pod.redis.info("replication");
            let read = info.get("master_sync_read_bytes");
            read.is_some_and(|read| read.parse::<u64>().unwrap() > 20_000_000)
        });
        pod.sidecar.restart();
        assert_eq!(role(&pod.redis), "slave");
        assert!(refuses_writes(&pod.redis));
    }
    pod.wait_open();
    assert_eq!(pod.redis.debug_digest(), digest);
    assert_eq!(pod.full_syncs(), 1);
    assert_eq!(field(&pod.redis, "stats", "sync_full"), "0");
}
