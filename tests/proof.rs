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
    version: Version,
}

impl Stored {
    fn new(version: Version) -> Self {
        Self::with(version, |_| {})
    }

    /// The same, with what `more` writes.
    fn with(version: Version, more: impl FnOnce(&Server)) -> Self {
        let home = TempDir::new().unwrap();
        let stored = Self { home, version };
        let server = Server::start(version, &[]);
        server.cmd(&["SET", "a", "1"]);
        let backfeed = Backfeed::backup(&server.url(), &stored.store(), &[]);
        backfeed.wait_following();
        fill(&server);
        more(&server);
        backfeed.wait_captured(&server);
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
    a_target_with_too_little_memory_is_never_called_restored,
    a_sidecar_does_not_open_a_redis_that_holds_less_than_is_stored,
);

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
        assert_fails(&output, &["cannot hold it", "Nothing was changed there"]);
        assert_eq!(role(&target), "master");
    }
    // The least that it can take would fit; what it does take does not.
    for (ignore, policy, words) in [
        ("no", "noeviction", "refused"),
        ("no", "allkeys-lru", "let "),
        (
            "yes",
            "allkeys-lru",
            "would let keys go as soon as it is opened",
        ),
    ] {
        let target = Server::builder(version)
            .arg("maxmemory", tight(version))
            .arg("maxmemory-policy", policy)
            .arg("replica-ignore-maxmemory", ignore)
            .start();
        let output = stored.restore(&target, &[]);
        let context = format!("{version} {ignore} {policy}");
        eprintln!("{context}: {}", output.stderr);
        assert_fails(&output, &["has not been opened", "CONFIG SET maxmemory 0"]);
        if !(words == "refused" && version == Version::Redis60) {
            assert!(output.stderr.contains(words), "{context}: {output:?}");
        }
        assert_eq!(role(&target), "slave", "{context}");
        // The way that the error names.
        target.cmd(&["CONFIG", "SET", "maxmemory", "0"]);
        let output = stored.restore(&target, &["--force"]);
        assert_eq!(output.code, 0, "{context}: {output:?}");
        assert_eq!(keys(&target), VALUES + 1, "{context}");
    }
    // With a limit that lets nothing go, all of it is there; that no writes are taken is told.
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
    let sidecar = Backfeed::sidecar(&redis.url(), &stored.store(), listen, &[]);
    sidecar.wait("it says that Redis was not opened", |view| {
        let error = view["last_error"].as_str().unwrap_or_default();
        error.contains("Redis has not been opened, as it does not hold what is stored")
            && error.contains("--promote-incomplete")
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
    let more = ["--promote-incomplete"];
    let sidecar = Backfeed::sidecar(&redis.url(), &stored.store(), listen, &more);
    wait_until("it is opened", PATIENCE, || role(&redis) == "master");
    assert!(sidecar.log().contains("It is opened all the same"));
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
    let output = stored.restore(&target, &[]);
    assert_fails(
        &output,
        &["it refused 1 commands of the log (unexpected_error_replies)"],
    );
    assert_eq!(role(&target), "slave");
}

#[test]
fn keys_that_have_expired_count_until_the_target_is_opened() {
    for version in [Version::Redis62, Version::Redis86, Version::Valkey91] {
        let expiring = |server: &Server| {
            server.cmd(&["PEXPIRE", "k0", "3600000"]);
            server.cmd(&["SET", "soon", "1", "PX", "3000"]);
            server.cmd(&["SET", "sooner", "1", "PX", "2500"]);
        };
        let stored = Stored::with(version, expiring);
        std::thread::sleep(Duration::from_millis(3500));
        let target = Server::start(version, &[]);
        let output = stored.restore(&target, &["--json"]);
        assert_eq!(output.code, 0, "{version}: {output:?}");
        let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(report["keys"]["0"], VALUES + 3, "{version}: {report}");
        wait_until("they are gone", PATIENCE, || keys(&target) == VALUES + 1);
    }
}
