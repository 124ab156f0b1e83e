//! The spool: while the store is away the master's memory does not fill in our place, and nothing that was acknowledged is lost.

use std::fs::{self, File};
use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{Backfeed, Random, Server, Version, on, restored, wait_until};
use crate::writers::Disk;

const MB: u64 = 1_000_000;
const VALUE: usize = 100_000;
const VALUES: u64 = 300;
/// What [`Stage::write`] writes.
const WRITTEN: u64 = VALUES * VALUE as u64;
/// Memory for a fifteenth of that.
const LIMITS: [&str; 6] = [
    "--segment-size",
    "512KiB",
    "--memory-limit",
    "2MiB",
    "--flush-interval",
    "50ms",
];

/// A server, its backfeed with a spool, and a store that can be taken away.
struct Stage {
    redis: Server,
    backfeed: Backfeed,
    home: TempDir,
}

impl Stage {
    fn start(version: Version, backlog: &str, spool: &str) -> Self {
        let home = TempDir::new().unwrap();
        let redis = Server::builder(version)
            .arg("repl-backlog-size", backlog)
            .start();
        let dir = home.path().join("spool");
        fs::create_dir(&dir).unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let dir = ["--spool-dir", dir.to_str().unwrap(), "--spool-limit", spool];
        let backfeed = Backfeed::backup(&redis.url(), &store, &[&LIMITS[..], &dir].concat());
        backfeed.wait_captured(&redis);
        let stage = Self {
            redis,
            backfeed,
            home,
        };
        assert_eq!(stage.redis.set_and_wait(0, "before", 1, 10_000), 1);
        stage
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn log(&self) -> PathBuf {
        let history = self.redis.position().0;
        let histories = self.home.path().join("bucket/histories");
        histories.join(history).join("log")
    }

    /// A file stands where the directory of the log was.
    fn take_store_away(&self) {
        fs::rename(self.log(), self.log().with_extension("away")).unwrap();
        fs::write(self.log(), "").unwrap();
    }

    fn bring_store_back(&self) {
        fs::remove_file(self.log()).unwrap();
        fs::rename(self.log().with_extension("away"), self.log()).unwrap();
    }

    /// Writes what zstd does not make small; the most that the master held for its replica meanwhile.
    fn write(&self, seed: u64) -> u64 {
        let mut rng = Random::new(seed);
        let mut connection = self.redis.connect();
        let mut most = 0;
        for n in 0..VALUES {
            let noise = (0..VALUE / 8).flat_map(|_| rng.next().to_le_bytes());
            let value: Vec<u8> = noise.collect();
            let set = redis::cmd("SET").arg(n).arg(value).to_owned();
            set.exec(&mut connection).unwrap();
            most = most.max(self.held_by_master());
        }
        most
    }

    /// Bytes in the master's output buffer for its replicas.
    fn held_by_master(&self) -> u64 {
        let clients = self.redis.text(&["CLIENT", "LIST", "TYPE", "replica"]);
        let omem: u64 = clients
            .split_ascii_whitespace()
            .filter_map(|field| field.strip_prefix("omem=")?.parse::<u64>().ok())
            .sum();
        let replicas = &self.redis.info("memory")["mem_clients_slaves"];
        omem.max(replicas.parse().unwrap())
    }

    fn wait_spooled(&self, bytes: u64) {
        self.backfeed.wait("it is in the spool", |view| {
            view["spool_bytes"].as_u64().unwrap() >= bytes
        });
    }

    /// The files of the spool lose their second halves.
    fn cut_spool(&self) {
        let mut cut = 0;
        for fd in fs::read_dir(format!("/proc/{}/fd", self.backfeed.pid())).unwrap() {
            let path = fd.unwrap().path();
            let leads_to = fs::read_link(&path).unwrap_or_default();
            if leads_to.to_string_lossy().contains("backfeed-spool") {
                let file = File::options().write(true).open(path).unwrap();
                file.set_len(file.metadata().unwrap().len() / 2).unwrap();
                cut += 1;
            }
        }
        assert!(cut > 3, "{cut} files were cut");
    }

    /// Everything is stored, after one full sync; what is restored is what the server has.
    fn check_all_is_there(&self) {
        self.backfeed.wait_captured(&self.redis);
        assert_eq!(self.redis.set_and_wait(0, "after", 1, 20_000), 1);
        let stats = self.redis.info("stats");
        assert_eq!(stats["sync_full"], "1", "{}", self.backfeed.log());
        self.backfeed
            .wait("the spool is given back", |view| view["spool_bytes"] == 0);
        let copy = restored(self.redis.version(), &self.store());
        assert_eq!(copy.debug_digest(), self.redis.debug_digest());
    }

    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.backfeed.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let number = line.unwrap().split_ascii_whitespace().nth(1).unwrap();
        number.parse::<u64>().unwrap() * 1024
    }
}

/// With the smallest backlog: to hang up would cost a full sync.
fn an_outage_under_load_is_bridged_by_the_spool(version: Version) {
    let stage = Stage::start(version, "16kb", "256MiB");
    let before = stage.resident();
    stage.take_store_away();
    let most = stage.write(1);
    let end = stage.redis.position().1;
    let received = |view: &Value| view["received_offset"].as_u64() >= Some(end);
    stage.backfeed.wait("all of it was read", received);
    stage.wait_spooled(WRITTEN - 4 * MB);
    let grown = stage.resident().saturating_sub(before);
    eprintln!(
        "{version}: the master held {most} bytes at most, and {} in the end; backfeed grew by {grown}",
        stage.held_by_master()
    );
    // Without room in the spool it holds a sixth and more of it; seen with it: 25 KB.
    assert!(most < WRITTEN / 10, "the master held {most} bytes");
    assert!(
        stage.held_by_master() < MB / 4,
        "the master holds some still"
    );
    assert!(grown < 16 * MB, "backfeed grew by {grown} bytes");
    assert_eq!(
        stage.redis.set_and_wait(0, "meanwhile", 1, 300),
        0,
        "it is not stored"
    );
    let view = stage.backfeed.readyz().unwrap();
    assert_eq!(
        (&view["phase"], &view["spool_error"]),
        (&Value::from("following"), &Value::Null)
    );
    // A file where a directory should be does not go by itself.
    let told = view["store_error"].as_str().unwrap();
    assert!(told.contains("move it away"), "{told}");
    assert_eq!(view["ready"], false);
    assert_eq!(stage.backfeed.metric("backfeed_store_failing"), 1.0);
    assert_eq!(
        stage.backfeed.log().matches("cannot store the log").count(),
        1
    );
    assert!(stage.backfeed.metric("backfeed_spool_bytes") > (WRITTEN - 4 * MB) as f64);
    let names = fs::read_dir(stage.home.path().join("spool")).unwrap();
    assert_eq!(names.count(), 0, "the spool's files have no names");

    stage.bring_store_back();
    stage.check_all_is_there();
    assert_eq!(stage.backfeed.metric("backfeed_store_failing"), 0.0);
    assert_eq!(stage.backfeed.metric("backfeed_reconnects_total"), 0.0);
    assert_eq!(stage.backfeed.metric("backfeed_spool_errors_total"), 0.0);
}

on!(an_outage_under_load_is_bridged_by_the_spool: redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

#[test]
fn a_spool_that_is_lost_is_told_and_the_server_asked_again() {
    let stage = Stage::start(Version::Redis70, "64mb", "256MiB");
    stage.take_store_away();
    stage.write(2);
    stage.wait_spooled(WRITTEN - 4 * MB);
    stage.cut_spool();
    stage.bring_store_back();
    wait_until("it is reported", PATIENCE, || {
        stage
            .backfeed
            .log()
            .contains("cannot read from the spool in /")
    });
    stage.check_all_is_there();
    assert!(stage.backfeed.metric("backfeed_spool_errors_total") >= 1.0);
    assert!(stage.backfeed.metric("backfeed_partial_syncs_total") >= 1.0);
    let log = stage.backfeed.log();
    assert!(log.contains("asks the server for it again"), "{log}");
}

/// To stop is no reason to be silent about what is not stored.
#[test]
fn a_spool_that_is_lost_while_stopping_is_an_error_and_the_next_backfeed_asks_again() {
    let mut stage = Stage::start(Version::Redis70, "64mb", "256MiB");
    stage.take_store_away();
    stage.write(5);
    stage.wait_spooled(WRITTEN - 4 * MB);
    stage.cut_spool();
    stage.backfeed.signal("TERM");
    stage
        .backfeed
        .wait("it stops", |view| view["phase"] == "draining");
    stage.bring_store_back();
    assert_eq!(stage.backfeed.wait_exit(), 1, "{}", stage.backfeed.log());
    stage.backfeed.restart();
    stage.check_all_is_there();
}

#[test]
fn a_full_spool_is_hung_up_on_and_gone_on_from() {
    let stage = Stage::start(Version::Redis70, "64mb", "4MiB");
    stage.take_store_away();
    // What the spool spares the master.
    let most = stage.write(3);
    assert!(most > 5 * MB, "the master held {most} bytes");
    let hung_up = "wait for the store, and the limit is all of memory and spool: disconnecting";
    wait_until("it hangs up", PATIENCE, || {
        stage.backfeed.log().contains(hung_up)
    });
    wait_until("the master holds nothing for it", PATIENCE, || {
        stage.redis.info("replication")["connected_slaves"] == "0"
    });
    let view = stage.backfeed.readyz().unwrap();
    assert_eq!(view["phase"], "waiting_for_store", "{view}");
    assert!(view["spool_bytes"].as_u64().unwrap() <= 4 << 20, "{view}");
    assert_eq!(view["spool_error"], Value::Null, "to be full is no error");
    stage.bring_store_back();
    stage.check_all_is_there();
    assert!(stage.backfeed.metric("backfeed_partial_syncs_total") >= 1.0);
}

#[test]
fn a_spool_on_a_full_disk_is_told_and_gone_on_without() {
    let stage = Stage::start(Version::Redis70, "64mb", "256MiB");
    let Some(disk) = Disk::mount(&stage.home.path().join("spool")) else {
        eprintln!("NOT tested: a full disk, as mounting is not permitted here");
        return;
    };
    stage.take_store_away();
    stage.write(4);
    let full = "cannot write to the spool in /";
    stage.backfeed.wait("it is reported", |view| {
        let error = view["spool_error"].as_str().unwrap_or_default();
        error.contains(full) && error.contains("No space left on device")
    });
    wait_until("it hangs up", PATIENCE, || {
        stage
            .backfeed
            .log()
            .contains("disconnecting, so that the memory of")
    });
    assert!(stage.backfeed.metric("backfeed_spool_errors_total") >= 1.0);
    assert_eq!(
        stage.backfeed.log().matches(full).count(),
        1,
        "reported once"
    );
    stage.bring_store_back();
    stage.check_all_is_there();
    drop(stage);
    drop(disk);
}
