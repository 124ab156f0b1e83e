//! A restore is done when the target holds everything, not when everything was sent: targets that take less than they are given, without
//! a word to their master.

use std::time::Duration;

use tempfile::TempDir;

use crate::support::backfeed::{Output, PATIENCE};
use crate::support::data::for_each_version;
use crate::support::{Backfeed, Server, Version, free_port, run, wait_until};

const VALUES: usize = 3000;
/// Of each value; random, so that an RDB cannot pack them.
const LENGTH: usize = 1000;

/// A store: one key in its base, and many in its log.
struct Stored {
    home: TempDir,
}

impl Stored {
    fn new(version: Version) -> Self {
        Self::with(version, |_| {})
    }

    /// The same, with what `more` writes.
    fn with(version: Version, more: impl FnOnce(&Server)) -> Self {
        let home = TempDir::new().unwrap();
        let stored = Self { home };
        let server = Server::start(version, &[]);
        server.cmd(&["SET", "a", "1"]);
        let backfeed = Backfeed::backup(&server.url(), &stored.store(), &[]);
        backfeed.wait_following();
        fill(&server);
        more(&server);
        backfeed.wait_captured(&server);
        stored
    }

    /// All of it in the base.
    fn as_base(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let stored = Self { home };
        let server = Server::start(version, &[]);
        fill(&server);
        let (url, store) = (server.url(), stored.store());
        let output = run(&["backup", "--redis", &url, "--store", &store, "--once"]);
        assert_eq!(output.code, 0, "{output:?}");
        stored
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn restore(&self, target: &Server, more: &[&str]) -> Output {
        let (store, url) = (self.store(), target.url());
        run(&[&["restore", "--store", &store, "--to", &url], more].concat())
    }
}

fn fill(server: &Server) {
    let mut connection = server.connect();
    let mut pipe = redis::pipe();
    let mut state = 1u64;
    for number in 0..VALUES {
        let value: Vec<u8> = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(LENGTH)
        .collect();
        pipe.cmd("SET")
            .arg(format!("k{number}"))
            .arg(value)
            .ignore();
    }
    pipe.query::<()>(&mut connection).unwrap();
}

fn keys(server: &Server) -> usize {
    server.text(&["DBSIZE"]).parse().unwrap()
}

fn role(server: &Server) -> String {
    server.info("replication")["role"].clone()
}

#[track_caller]
fn assert_fails(output: &Output, words: &[&str]) {
    assert_eq!(output.code, 4, "{output:?}");
    assert!(!output.stdout.contains("restored"), "{output:?}");
    for word in words {
        assert!(output.stderr.contains(word), "{word}: {output:?}");
    }
}

for_each_version!(
    what_has_expired_counts_until_the_target_is_opened,
    a_restored_server_that_is_killed_at_once_comes_back_with_everything,
    chosen_keys_that_are_not_there_in_the_end_are_told,
    a_target_with_too_little_memory_is_never_called_restored,
    a_sidecar_does_not_open_a_redis_that_holds_less_than_is_stored,
    an_exec_without_a_multi_is_no_difference,
);

/// `PFCOUNT` may change the key, although it is called a read. Redis 6.0 then sends it without `MULTI`, and an `EXEC`
/// after it.
fn an_exec_without_a_multi_is_no_difference(version: Version) {
    let stored = Stored::with(version, |server| {
        let mut connection = server.connect();
        for round in 0..3 {
            server.cmd(&["PFADD", "visitors", &round.to_string()]);
            let mut pipe = redis::pipe();
            pipe.atomic().cmd("PFCOUNT").arg("visitors");
            let counted: (u64,) = pipe.query(&mut connection).unwrap();
            assert_eq!(counted.0, round + 1);
        }
    });
    for way in ["replay", "rebuild"] {
        let target = Server::start(version, &[]);
        let output = stored.restore(&target, &["--serve-log", way]);
        assert_eq!(output.code, 0, "{way}: {output:?}");
        let refused = &target.info("stats")["unexpected_error_replies"];
        let sends_them = version == Version::Redis60 && way == "replay";
        let wanted = if sends_them { "3" } else { "0" };
        assert_eq!(refused, wanted, "{version} {way}");
        assert_eq!(target.text(&["PFCOUNT", "visitors"]), "3");
    }
}

fn a_target_with_too_little_memory_is_never_called_restored(version: Version) {
    let stored = Stored::new(version);
    // What is known to be too much is refused before.
    for policy in ["noeviction", "allkeys-lru"] {
        let target = Server::builder(version)
            .arg("maxmemory", "3mb")
            .arg("maxmemory-policy", policy)
            .arg("replica-ignore-maxmemory", "no")
            .start();
        let output = stored.restore(&target, &[]);
        assert_fails(&output, &["is too small", "Nothing was changed there"]);
        assert_eq!(role(&target), "master");
    }
    // The least that it can take would fit; what it does take does not.
    for (ignore, policy, words) in [
        ("no", "noeviction", "(unexpected_error_replies)"),
        ("no", "allkeys-lru", "(evicted_keys)"),
        (
            "yes",
            "allkeys-lru",
            "would evict keys as soon as it is opened",
        ),
    ] {
        let target = Server::builder(version)
            .arg("maxmemory", tight(version))
            .arg("maxmemory-policy", policy)
            .arg("replica-ignore-maxmemory", ignore)
            .start();
        // A log that is replayed is refused command by command.
        let output = stored.restore(&target, &["--serve-log", "replay"]);
        let context = format!("{version} {ignore} {policy}");
        assert_fails(&output, &["is not promoted", "CONFIG SET maxmemory 0"]);
        assert!(output.stderr.contains(words), "{context}: {output:?}");
        assert_eq!(role(&target), "slave", "{context}");
        // The way that the error names.
        target.cmd(&["CONFIG", "SET", "maxmemory", "0"]);
        let output = stored.restore(&target, &["--force"]);
        assert_eq!(output.code, 0, "{context}: {output:?}");
        assert_eq!(keys(&target), VALUES + 1, "{context}");
    }
    // One RDB is loaded whatever the limit. Then keys would go.
    for ignore in ["no", "yes"] {
        let target = Server::builder(version)
            .arg("maxmemory", tight(version))
            .arg("maxmemory-policy", "allkeys-lru")
            .arg("replica-ignore-maxmemory", ignore)
            .start();
        let output = stored.restore(&target, &["--serve-log", "rebuild"]);
        assert_fails(&output, &["is not promoted", "CONFIG SET maxmemory 0"]);
        assert_eq!(role(&target), "slave", "{version} {ignore}");
    }
    // With a limit that lets nothing go, all of it is there. The report says that no writes are taken.
    let target = Server::builder(version).arg("maxmemory", "3mb").start();
    let output = stored.restore(&target, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("takes no writes"), "{output:?}");
    assert_eq!(keys(&target), VALUES + 1);
}

/// A limit above the bytes of the RDB and of an empty server, and below what the data take.
fn tight(version: Version) -> u64 {
    let empty = Server::start(version, &[]);
    let own: u64 = empty.info("memory")["used_memory"].parse().unwrap();
    own + (VALUES * (LENGTH + 50)) as u64
}

fn a_sidecar_does_not_open_a_redis_that_holds_less_than_is_stored(version: Version) {
    let stored = Stored::new(version);
    let listen = free_port();
    let start = |limit: u64| {
        Server::builder(version)
            .arg("maxmemory", limit)
            .arg("replica-ignore-maxmemory", "no")
            .replicaof("127.0.0.1", listen)
            .start()
    };
    let redis = start(2 << 20);
    let replay = ["--serve-log", "replay"];
    let sidecar = Backfeed::sidecar(&redis.url(), &stored.store(), listen, &replay);
    sidecar.wait("it says that Redis was not opened", |view| {
        let error = view["last_error"].as_str().unwrap_or_default();
        error.contains("Redis is not promoted, because it does not hold what is stored")
            && error.contains("`promote_incomplete`")
            && view["ready"] == false
    });
    let had = keys(&redis);
    assert!(had < VALUES, "{version}: {had}");
    eprintln!(
        "{version}: {had} keys; {}",
        sidecar.readyz().unwrap()["last_error"]
    );
    // Two more rounds change nothing.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(role(&redis), "slave", "{version}");
    // The way that it says.
    redis.cmd(&["CONFIG", "SET", "maxmemory", "0"]);
    wait_until("it is opened", PATIENCE, || role(&redis) == "master");
    assert_eq!(keys(&redis), VALUES + 1, "{version}");
    sidecar.wait_captured(&redis);
    drop((sidecar, redis));

    // The other way.
    let redis = start(2 << 20);
    let more = ["--promote-incomplete", "--serve-log", "replay"];
    let sidecar = Backfeed::sidecar(&redis.url(), &stored.store(), listen, &more);
    wait_until("it is opened", PATIENCE, || role(&redis) == "master");
    assert!(sidecar.log().contains("It is promoted all the same"));
    assert!(keys(&redis) < VALUES);
}

#[test]
fn a_command_that_the_target_refuses_is_not_passed_over() {
    let version = Version::Redis62;
    let far = |server: &Server| {
        server.cmd(&["SETBIT", "bits", "16000000", "1"]);
    };
    let stored = Stored::with(version, far);
    let target = Server::builder(version)
        .arg("proto-max-bulk-len", "1mb")
        .start();
    let output = stored.restore(&target, &[]);
    let words = [
        "CONFIG SET proto-max-bulk-len 2000001",
        "Nothing was changed there",
    ];
    assert_fails(&output, &words);
    target.cmd(&["CONFIG", "SET", "proto-max-bulk-len", "2000001"]);
    let output = stored.restore(&target, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(target.text(&["STRLEN", "bits"]), "2000001");

    // The second operation of a command is not looked at beforehand.
    let far = |server: &Server| {
        let first = ["BITFIELD", "bits", "SET", "u8", "0", "1"];
        server.cmd(&[&first[..], &["SET", "u8", "16000000", "1"]].concat());
    };
    let stored = Stored::with(version, far);
    let target = Server::builder(version)
        .arg("proto-max-bulk-len", "1mb")
        .start();
    let output = stored.restore(&target, &["--serve-log", "replay"]);
    assert_fails(
        &output,
        &["it refused 1 commands of the log (unexpected_error_replies)"],
    );
    assert_eq!(role(&target), "slave");
}

/// Expiries that will be over when they are restored: of keys, and of fields where the version has them.
fn write_expiring(server: &Server, prefix: &str) {
    let at = (crate::support::state::unix_ms() + 2500).to_string();
    let name = |of: &str| format!("{prefix}{of}");
    for of in ["1", "2", "3", "4", "5", "6"] {
        server.cmd(&["SET", &name(of), "x"]);
    }
    let payload = server.cmd(&["DUMP", &name("1")]);
    let payload: Vec<u8> = redis::from_redis_value(payload).unwrap();
    let mut connection = server.connect();
    let _: () = redis::cmd("RESTORE")
        .arg(name("restored"))
        .arg(&at)
        .arg(payload)
        .arg("ABSTTL")
        .query(&mut connection)
        .unwrap();
    server.cmd(&["HSET", &name("hash"), "f", "1"]);
    server.cmd(&["HSET", &name("half"), "f", "1", "g", "1"]);
    for command in [
        &["PEXPIREAT", &name("1"), &at][..],
        &["PEXPIRE", &name("2"), "2500"],
        &["SET", &name("3"), "x", "PX", "2500"],
        &["PSETEX", &name("4"), "2500", "x"],
    ] {
        server.cmd(command);
    }
    // Not every version knows these.
    for command in [
        &["GETEX", &name("5"), "PXAT", &at][..],
        &["SET", &name("6"), "x", "PXAT", &at],
        &["HPEXPIREAT", &name("hash"), &at, "FIELDS", "1", "f"],
        &["HPEXPIREAT", &name("half"), &at, "FIELDS", "1", "f"],
        &[
            "HSETEX",
            &name("setex"),
            "PXAT",
            &at,
            "FIELDS",
            "1",
            "f",
            "v",
        ],
        &["HGETEX", &name("half"), "PXAT", &at, "FIELDS", "1", "g"],
    ] {
        drop(server.try_cmd(command));
    }
}

/// A master expires keys, and a replica does not.
fn what_has_expired_counts_until_the_target_is_opened(version: Version) {
    let home = TempDir::new().unwrap();
    let stored = Stored { home };
    let server = Server::start(version, &[]);
    // So that it expires nothing itself before all is stored.
    server.cmd(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    server.cmd(&["SET", "stays", "1"]);
    write_expiring(&server, "base:");
    let backfeed = Backfeed::backup(&server.url(), &stored.store(), &[]);
    backfeed.wait_following();
    write_expiring(&server, "log:");
    backfeed.wait_captured(&server);
    drop(backfeed);
    let all: usize = server.text(&["DBSIZE"]).parse().unwrap();
    assert!(all >= 17, "{all}");
    let base =
        crate::support::list(&stored.store())["histories"][0]["bases"][0]["offset"].to_string();
    std::thread::sleep(Duration::from_millis(3000));
    let rebuild = ["--serve-log", "rebuild"];
    for more in [&[][..], &rebuild, &["--offset", &base]] {
        let target = Server::start(version, &[]);
        let output = stored.restore(&target, &[&["--json"], more].concat());
        assert_eq!(output.code, 0, "{version} {more:?}: {output:?}");
        let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let counted = report["keys"]["0"].as_u64().unwrap() as usize;
        if more[..].first() != Some(&"--offset") {
            assert_eq!(counted, all, "{version}: {report}");
        }
        wait_until("they are gone", PATIENCE, || keys(&target) + 5 <= counted);
        assert_eq!(target.text(&["GET", "stays"]), "1");
    }
    // And by a sidecar.
    let listen = free_port();
    let redis = Server::builder(version)
        .replicaof("127.0.0.1", listen)
        .start();
    let sidecar = Backfeed::sidecar(&redis.url(), &stored.store(), listen, &[]);
    wait_until("it is opened", PATIENCE, || role(&redis) == "master");
    assert!(
        !sidecar.log().contains("does not hold"),
        "{}",
        sidecar.log()
    );
}

fn a_restored_server_that_is_killed_at_once_comes_back_with_everything(version: Version) {
    // After its load the server writes all of it anew.
    let stored = Stored::as_base(version);
    let mut target = Server::builder(version)
        .arg("appendonly", "yes")
        // So that the rewrite goes on when everything has been acknowledged: 1 ms a key.
        .arg("rdb-key-save-delay", 1000)
        .start();
    let output = stored.restore(&target, &[]);
    target.kill9();
    assert_eq!(output.code, 0, "{version}: {output:?}");
    target.restart();
    assert_eq!(keys(&target), VALUES, "{version}");
}

#[test]
fn an_append_only_file_that_cannot_be_written_is_told() {
    let version = Version::Redis62;
    let stored = Stored::new(version);
    let target = Server::builder(version).arg("appendonly", "yes").start();
    // The rewrite's process is killed whenever it runs.
    target.cmd(&["CONFIG", "SET", "rdb-key-save-delay", "1000000"]);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let killer = {
        let (stop, pid) = (stop.clone(), target.pid());
        std::thread::spawn(move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let kill = format!("pkill -9 -P {pid}");
                let _ = std::process::Command::new("sh")
                    .args(["-c", &kill])
                    .status();
                std::thread::sleep(Duration::from_millis(50));
            }
        })
    };
    let output = stored.restore(&target, &[]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    killer.join().unwrap();
    assert_fails(
        &output,
        &["its append-only file could not be written", "BGREWRITEAOF"],
    );
}

fn chosen_keys_that_are_not_there_in_the_end_are_told(version: Version) {
    let stored = Stored::new(version);
    let keys_of =
        |target: &Server, more: &[&str]| stored.restore(target, &[&["--keys", "*"], more].concat());
    let target = Server::builder(version)
        .arg("maxmemory", "3mb")
        .arg("maxmemory-policy", "allkeys-lru")
        .start();
    let output = keys_of(&target, &[]);
    assert_fails(&output, &["is too small", "Nothing was changed there"]);
    assert_eq!(keys(&target), 0);

    let target = Server::builder(version)
        .arg("maxmemory", tight(version))
        .arg("maxmemory-policy", "allkeys-lru")
        .start();
    let output = keys_of(&target, &[]);
    assert_fails(
        &output,
        &[
            "and are missing there, such as ",
            "evicted",
            "CONFIG SET maxmemory",
        ],
    );
    target.cmd(&["CONFIG", "SET", "maxmemory", "0"]);
    let output = keys_of(&target, &["--replace"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(keys(&target), VALUES + 1);
}

#[test]
fn chosen_keys_that_have_expired_are_counted_apart() {
    let version = Version::Redis80;
    let expiring = |server: &Server| {
        server.cmd(&["SET", "e:1", "1", "PX", "3000"]);
        server.cmd(&["SET", "e:2", "1", "PX", "3600000"]);
    };
    let stored = Stored::with(version, expiring);
    std::thread::sleep(Duration::from_millis(3500));
    let target = Server::start(version, &[]);
    let output = stored.restore(&target, &["--keys", "e:*", "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&report["keys"]["0"], &report["expired"]),
        (&1.into(), &1.into()),
        "{report}"
    );
}

#[test]
fn a_file_and_a_dry_run_tell_the_keys_at_that_point() {
    for version in [Version::Redis62, Version::Redis86, Version::Valkey91] {
        let more = |server: &Server| {
            server.cmd(&["DEL", "a", "k0"]);
            server.cmd(&["MOVE", "k1", "3"]);
        };
        let stored = Stored::with(version, more);
        let (store, url) = (stored.store(), Server::start(version, &[]));
        let path = |name: &str| stored.home.path().join(name).display().to_string();
        let dry = [&["--dry-run"][..], &[]];
        for (to, more) in [
            (path("x.rdb"), dry[1]),
            (path("y.rdb"), dry[0]),
            (format!("aof:{}", path("aof")), dry[1]),
            (url.url(), dry[0]),
            (url.url(), dry[1]),
        ] {
            let args = ["restore", "--store", &store, "--to", &to, "--json"];
            let output = run(&[&args[..], more].concat());
            assert_eq!(output.code, 0, "{version} {to}: {output:?}");
            let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
            let wanted = serde_json::json!({"0": VALUES - 2, "3": 1});
            assert_eq!(report["keys"], wanted, "{version} {to} {more:?}");
            assert_eq!(report["keys_before_log"], false);
        }
    }
}

#[test]
fn functions_are_data_and_a_failed_save_is_no_place_for_them() {
    let version = Version::Redis70;
    let stored = Stored::new(version);
    let library = "#!lua name=l\nredis.register_function('f', function() return 1 end)";
    let target = Server::start(version, &[]);
    target.cmd(&["FUNCTION", "LOAD", library]);
    let output = stored.restore(&target, &[]);
    let words = ["holds 1 function libraries", "Nothing was changed there"];
    assert_fails(&output, &words);
    assert_eq!(stored.restore(&target, &["--force"]).code, 0);
    assert_eq!(target.info("memory")["number_of_libraries"], "0");

    let target = Server::builder(version).arg("save", "3600 1").start();
    target.cmd(&["CONFIG", "SET", "rdb-key-save-delay", "10000000"]);
    target.cmd(&["SET", "x", "1"]);
    target.cmd(&["BGSAVE"]);
    let kill = format!("pkill -9 -P {}", target.pid());
    wait_until("the save has failed", PATIENCE, || {
        let _ = std::process::Command::new("sh")
            .args(["-c", &kill])
            .status();
        target.info("persistence")["rdb_last_bgsave_status"] == "err"
    });
    let output = stored.restore(&target, &["--force"]);
    let words = ["its last BGSAVE failed", "Nothing was changed there"];
    assert_fails(&output, &words);
    target.cmd(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]);
    assert_eq!(stored.restore(&target, &["--force"]).code, 0);
    assert_eq!(keys(&target), VALUES + 1);
}

/// Somebody makes something else of the target before it has come.
#[test]
fn a_target_that_is_taken_away_is_told_at_once() {
    let version = Version::Redis70;
    let stored = Stored::new(version);
    let other = Server::start(version, &[]);
    for (act, words) in [
        ("promote", "another client promoted it meanwhile"),
        (
            "replicate",
            "another client made it a replica of 127.0.0.1:",
        ),
        ("restart", "it was restarted meanwhile"),
    ] {
        let mut target = Server::start(version, &[]);
        let (store, url) = (stored.store(), target.url());
        let restoring = std::thread::spawn(move || {
            // Nobody listens at port 1, so that it cannot come.
            let args = ["restore", "--store", &store, "--to", &url];
            run(&[&args[..], &["--announce", "127.0.0.1:1"]].concat())
        });
        wait_until("it is our replica", PATIENCE, || role(&target) == "slave");
        let begun = std::time::Instant::now();
        match act {
            "promote" => drop(target.cmd(&["REPLICAOF", "NO", "ONE"])),
            "restart" => {
                target.kill9();
                target.restart();
            }
            _ => drop(target.cmd(&["REPLICAOF", "127.0.0.1", &other.port().to_string()])),
        }
        let output = restoring.join().unwrap();
        assert_fails(&output, &[words, "was not restored"]);
        assert!(!output.stderr.contains("REPLICAOF NO ONE"), "{output:?}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(20), "{act}: {took:?}");
    }
}

/// The log of an old server with relative expiries, and a command that cannot be applied: it is served under a fresh id, and how many keys
/// there must be is not known. What the first try left in Redis is not its own.
#[test]
fn a_redis_that_was_served_a_fork_in_vain_is_served_again() {
    let version = Version::Redis62;
    let unmodelled = |server: &Server| {
        server.cmd(&["GEOADD", "places", "13.4", "38.1", "p", "15.1", "37.5", "c"]);
        let near = ["GEORADIUS", "places", "15", "37", "200", "km"];
        server.cmd(&[&near[..], &["STOREDIST", "near"]].concat());
        server.cmd(&["SETEX", "expires", "3600", "x"]);
        fill(server);
    };
    let stored = Stored::with(version, unmodelled);
    let listen = free_port();
    let redis = Server::builder(version)
        .arg("maxmemory", 2 << 20)
        .arg("replica-ignore-maxmemory", "no")
        .replicaof("127.0.0.1", listen)
        .start();
    let sidecar = Backfeed::sidecar(&redis.url(), &stored.store(), listen, &[]);
    sidecar.wait("it says that Redis was not opened", |view| {
        let error = view["last_error"].as_str().unwrap_or_default();
        error.contains("it refused") && !error.contains("instead of")
    });
    assert!(sidecar.log().contains("gets an id of its own"));
    assert_eq!(role(&redis), "slave");
    redis.cmd(&["CONFIG", "SET", "maxmemory", "0"]);
    wait_until("it is opened", PATIENCE, || role(&redis) == "master");
    assert!(keys(&redis) > VALUES, "{}", keys(&redis));
    assert!(
        sidecar
            .log()
            .contains("how many keys there are at that point is not known")
    );
}
