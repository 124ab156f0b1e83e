//! Several writers on one store, and a store that fails for a while.
//!
//! Wall clocks that jump are covered where clocks are handed in: `src/capture/log_buffer_tests.rs` (time marks never go back) and
//! `src/monitoring/status.rs` (an age is never negative).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Backfeed, Ledger, Proxy, Random, Server, Version, free_port, last_unit, list, run, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const QUICK: &[&str] = &["--flush-interval", "50ms"];

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

/// Waits until both say that all of `server` is stored.
fn wait_all_stored(server: &Server, listeners: &[&Backfeed]) {
    let (id, offset) = server.position();
    for listener in listeners {
        listener.wait(&format!("{id}:{offset} is received and stored"), |view| {
            view["history"] == id.as_str()
                && view["received_offset"].as_u64() >= Some(offset)
                && view["lag_bytes"] == 0
        });
    }
}

fn check_restore(store: &str, redis: &Server, more: &[&str]) -> Server {
    let copy = Server::start(redis.version(), &[]);
    let url = copy.url();
    let output = run(&[&["restore", "--store", store, "--to", &url], more].concat());
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(copy.debug_digest(), redis.debug_digest());
    copy
}

fn histories(listing: &Value) -> &Vec<Value> {
    listing["histories"].as_array().unwrap()
}

fn bases(listing: &Value) -> usize {
    let bases = |history: &Value| history["bases"].as_array().unwrap().len();
    histories(listing).iter().map(bases).sum()
}

fn ids(listing: &Value) -> BTreeSet<String> {
    let id = |history: &Value| history["id"].as_str().unwrap().to_owned();
    histories(listing).iter().map(id).collect()
}

#[test]
fn two_listeners_make_one_gapless_log_and_either_may_die() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let seed = 0x7E57;
    let mut rng = Random::new(seed);
    let redis = Server::start(Version::Redis70, &["--repl-backlog-size", "64mb"]);
    let mut first = Backfeed::backup(&redis.url(), &store, QUICK);
    first.wait_following();
    let mut second = Backfeed::backup(&redis.url(), &store, QUICK);
    second.wait_following();
    let ledger = Ledger::start(redis.port(), seed, 2);
    for round in 0..8 {
        ledger.wait_acked("both listeners");
        thread::sleep(rng.millis(100));
        let (victim, survivor) = if rng.one_in(2) {
            (&mut first, &second)
        } else {
            (&mut second, &first)
        };
        victim.kill9();
        let before = survivor.metric("backfeed_segments_stored_total");
        // Another database than those of the ledger.
        let acked = redis.set_and_wait(9, "alone", 1, 10_000);
        assert_eq!(acked, 1, "round {round}: the other one goes on");
        assert!(survivor.metric("backfeed_segments_stored_total") > before);
        victim.restart();
    }
    ledger.wait_acked("both listeners, after all kills");
    ledger.stop();
    assert_eq!(redis.set_and_wait(9, "both", 2, 10_000), 2);

    wait_all_stored(&redis, &[&first, &second]);
    let listing = list(&store);
    assert_eq!(histories(&listing).len(), 1, "{listing:#}");
    assert_eq!(bases(&listing), 1, "{listing:#}");
    let history = &histories(&listing)[0];
    assert_eq!(history["restorable"].as_array().unwrap().len(), 1);
    assert_eq!(history["sealed"], Value::Null);
    assert_eq!(redis.info("stats")["sync_full"], "1");
    check_restore(&store, &redis, &[]);
}

#[test]
fn two_listeners_that_begin_at_once_on_an_empty_store_agree_on_one_history() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let redis = Server::start(Version::Redis70, &[]);
    redis.cmd(&["DEBUG", "POPULATE", "1000"]);
    let first = Backfeed::backup(&redis.url(), &store, QUICK);
    let second = Backfeed::backup(&redis.url(), &store, QUICK);
    first.wait_following();
    second.wait_following();
    assert_eq!(redis.set_and_wait(0, "key", 2, 20_000), 2);
    wait_all_stored(&redis, &[&first, &second]);
    assert_eq!(histories(&list(&store)).len(), 1);
    check_restore(&store, &redis, &[]);
}

/// A pod that is cut off, not dead: its Redis takes writes, while its successor has been restored from the store.
#[test]
fn a_superseded_sidecar_acknowledges_nothing_more_and_says_so() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let start = || {
        let listen = free_port();
        let redis = Server::builder(Version::Redis70)
            .port(free_port())
            .replicaof("127.0.0.1", listen)
            .start();
        let backfeed = Backfeed::sidecar(&redis.url(), &store, listen, QUICK);
        (redis, backfeed)
    };
    let following = |backfeed: &Backfeed| {
        backfeed.wait("it follows its Redis", |view| {
            view["phase"] == "following" && view["promoted"] == true
        });
    };
    let (old, mut cut_off) = start();
    following(&cut_off);
    let seed = 0x51DE;
    let ledger = Ledger::start(old.port(), seed, 1);
    ledger.wait_acked("before the other pod");

    // Under load, so that the seal has to find its place between the old one's segments.
    let (new, successor, told) = thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut told = Vec::new();
            while let Some(page) = cut_off.get("/readyz") {
                told.push(page);
                thread::sleep(Duration::from_millis(5));
            }
            told
        });
        let (new, successor) = start();
        following(&successor);
        (new, successor, watch.join().unwrap())
    });
    assert_eq!(cut_off.wait_exit(), 5, "{}", cut_off.log());
    assert!(
        cut_off
            .log()
            .contains("superseded: another backfeed has taken over: history")
            && cut_off.log().contains("was sealed"),
        "{}",
        cut_off.log()
    );
    let (code, body) = told.last().unwrap();
    assert_eq!(*code, 503, "{body}");
    assert!(
        body.contains("superseded: another backfeed has taken over: history"),
        "{body}"
    );

    assert_eq!(
        old.set_and_wait(0, "after the seal", 1, 1000),
        0,
        "nobody acknowledges it"
    );
    let progress = ledger.progress();
    drop(ledger);
    let unit = last_unit(&new, seed, progress.acked, progress.sent);
    assert!(
        unit < progress.sent,
        "the old one took more writes: {progress:?}, {unit}"
    );
    assert_eq!(new.text(&["EXISTS", "after the seal"]), "0");

    // Started again, it gets the same answer, and does no harm.
    cut_off.restart();
    assert_eq!(cut_off.wait_exit(), 5);
    assert_eq!(new.set_and_wait(0, "on the new one", 1, 10_000), 1);
    wait_all_stored(&new, &[&successor]);
    let listing = list(&store);
    // The empty one that the store began with, and those of the two.
    assert_eq!(histories(&listing).len(), 3, "{listing:#}");
    assert_eq!(bases(&listing), 1, "{listing:#}");
    check_restore(&store, &new, &[]);
}

#[test]
fn two_different_servers_on_one_store_are_kept_apart() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let servers = [
        Server::start(Version::Redis70, &[]),
        Server::start(Version::Valkey91, &[]),
    ];
    servers[0].cmd(&["SET", "whose", "first"]);
    servers[1].cmd(&["SET", "whose", "second"]);
    let first = Backfeed::backup(&servers[0].url(), &store, QUICK);
    first.wait_following();
    let second = Backfeed::backup(&servers[1].url(), &store, QUICK);
    second.wait_following();
    for (server, backfeed) in servers.iter().zip([&first, &second]) {
        assert_eq!(server.set_and_wait(0, "key", 1, 10_000), 1);
        wait_all_stored(server, &[backfeed]);
    }
    let id = |server: &Server| server.position().0;
    let warning = "the store also holds a history of another server; both are kept apart";
    assert!(
        !first.log().contains(warning),
        "it was alone: {}",
        first.log()
    );
    let log = second.log();
    let line = log.lines().find(|line| line.contains(warning));
    let line = line.unwrap_or_else(|| panic!("no warning: {log}"));
    assert!(
        line.contains("WARN")
            && line.contains(&id(&servers[0]))
            && line.contains(&servers[0].addr()),
        "{line}"
    );

    let copy = Server::start(Version::Valkey91, &[]);
    let output = run(&["restore", "--store", &store, "--to", &copy.url()]);
    assert_eq!(output.code, 6, "{output:?}");
    for server in &servers {
        assert!(output.stderr.contains(&id(server)), "{output:?}");
    }
    assert!(output.stderr.contains("--history"), "{output:?}");
    assert_eq!(copy.text(&["DBSIZE"]), "0", "untouched");
    let listing = list(&store);
    assert_eq!(listing["latest"], Value::Null);
    assert_eq!(listing["ambiguous"].as_array().unwrap().len(), 2);
    for server in &servers {
        check_restore(&store, server, &["--history", &id(server)]);
    }
}

/// `FAILOVER` under load. One listener goes to the promoted server, the other one stays with the old one, now a replica.
#[test]
fn a_failover_while_two_listeners_follow() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let old = Server::start(Version::Redis70, &[]);
    let new = Server::builder(Version::Redis70)
        .replicaof("127.0.0.1", old.port())
        .start();
    let service = Proxy::to(old.port());
    let stays = Backfeed::backup(&old.url(), &store, QUICK);
    stays.wait_following();
    let moves = Backfeed::backup(&service.url(), &store, QUICK);
    moves.wait_following();
    let seed = 0xFA11;
    let ledger = Ledger::start(service.port(), seed, 2);
    ledger.wait_acked("before the failover");
    old.cmd(&["FAILOVER", "TO", "127.0.0.1", &new.port().to_string()]);
    wait_until("the replica is promoted", PATIENCE, || {
        new.info("replication")["role"] == "master"
            && old.info("replication")["master_link_status"] == "up"
    });
    service.lead_to(new.port());
    ledger.wait_acked("after the failover");
    let progress = ledger.stop();
    assert_eq!(progress.servers, 2);
    wait_all_stored(&new, &[&stays, &moves]);
    check_one_lineage_of_two(&list(&store), &new);
    let copy = check_restore(&store, &new, &[]);
    assert_eq!(
        last_unit(&copy, seed, progress.acked, progress.sent),
        progress.sent
    );
}

#[test]
fn a_master_dies_and_two_listeners_follow_the_replica_that_takes_its_place() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let mut old = Server::start(Version::Redis70, &[]);
    let new = Server::builder(Version::Redis70)
        .replicaof("127.0.0.1", old.port())
        .start();
    let service = Proxy::to(old.port());
    // They have not stored all that they received when the master dies.
    let patient = &["--flush-interval", "60s"];
    let listeners = [(); 2].map(|()| {
        let listener = Backfeed::backup(&service.url(), &store, patient);
        listener.wait_following();
        listener
    });
    let replica_is_up = || new.info("replication")["master_link_status"] == "up";
    wait_until("the replica is up", PATIENCE, replica_is_up);
    assert_eq!(old.set_and_wait(2, "before", 3, 10_000), 3);
    old.cmd(&["SET", "unacknowledged", "1"]);
    let (_, offset) = old.position();
    for listener in &listeners {
        listener.wait("it has received it", |view| {
            view["received_offset"] == offset
        });
    }
    wait_until("the replica has it", PATIENCE, || {
        new.position().1 == offset
    });
    old.kill9();
    new.cmd(&["REPLICAOF", "NO", "ONE"]);
    service.lead_to(new.port());
    for listener in &listeners {
        listener.wait("it follows the new master", |view| {
            view["history"] == new.position().0.as_str() && view["phase"] == "following"
        });
    }
    assert_eq!(new.set_and_wait(3, "after", 2, 10_000), 2);
    wait_all_stored(&new, &[&listeners[0], &listeners[1]]);
    check_one_lineage_of_two(&list(&store), &new);
    let copy = check_restore(&store, &new, &[]);
    assert_eq!(copy.text(&["EXISTS", "unacknowledged"]), "1");
}

fn check_one_lineage_of_two(listing: &Value, new: &Server) {
    assert_eq!(listing["latest"], new.position().0.as_str());
    assert_eq!(histories(listing).len(), 2, "{listing:#}");
    assert_eq!(bases(listing), 1, "{listing:#}");
    for history in histories(listing) {
        let child = history["tip"] == true;
        assert_eq!(history["parent"] != Value::Null, child, "{listing:#}");
        assert_eq!(history["sealed"] == Value::Null, child, "{listing:#}");
    }
    assert_eq!(new.info("stats")["sync_full"], "0");
}

/// The promoted replica lacks what a listener has acknowledged. Both branches stay; the new one is the latest.
#[test]
fn a_replica_that_lacks_acknowledged_writes_takes_over_and_both_branches_stay() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let mut old = Server::start(Version::Redis70, &[]);
    let network = Proxy::to(old.port());
    let new = Server::builder(Version::Redis70)
        .replicaof("127.0.0.1", network.port())
        .start();
    let service = Proxy::to(old.port());
    let listener = Backfeed::backup(&service.url(), &store, QUICK);
    listener.wait_following();
    let replica_is_up = || new.info("replication")["master_link_status"] == "up";
    wait_until("the replica is up", PATIENCE, replica_is_up);
    assert_eq!(old.set_and_wait(0, "in both", 2, 10_000), 2);
    network.lead_to(free_port());
    wait_until("the replica is cut off", PATIENCE, || !replica_is_up());
    assert_eq!(old.set_and_wait(0, "in the store alone", 1, 10_000), 1);
    let (lost, digest) = (old.position().0, old.debug_digest());
    old.kill9();
    new.cmd(&["REPLICAOF", "NO", "ONE"]);
    service.lead_to(new.port());
    let promoted = new.position().0;
    listener.wait("it follows the new master", |view| {
        view["history"] == promoted.as_str() && view["phase"] == "following"
    });
    assert_eq!(new.set_and_wait(0, "on the new one", 1, 10_000), 1);
    wait_all_stored(&new, &[&listener]);

    let listing = list(&store);
    assert_eq!(listing["latest"], promoted.as_str(), "{listing:#}");
    assert_eq!(ids(&listing), [lost.clone(), promoted].into());
    // The new branch leaves the old one before its end, and that cost no full sync.
    let (parent, child) = (&histories(&listing)[0], &histories(&listing)[1]);
    assert_eq!(child["parent"]["history"], lost.as_str(), "{listing:#}");
    let left = child["parent"]["offset"].as_u64();
    assert!(left < parent["stored_offset"].as_u64(), "{listing:#}");
    assert_eq!(listener.metric("backfeed_full_syncs_total") as u64, 1);
    assert_ne!(histories(&listing)[0]["sealed"], Value::Null, "{listing:#}");
    check_restore(&store, &new, &[]);
    let copy = Server::start(Version::Redis70, &[]);
    let url = copy.url();
    let output = run(&[
        "restore",
        "--store",
        &store,
        "--to",
        &url,
        "--history",
        &lost,
    ]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(copy.debug_digest(), digest);
}

fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.unwrap().split_ascii_whitespace().nth(1);
    number.unwrap().parse().unwrap()
}

/// Makes a store fail, and mends it.
trait Outage {
    fn begin(&self);
    fn end(&self);
}

/// A file stands where the directory of the log was. (Permissions stop nobody who is root.)
struct Obstacle(PathBuf);

impl Outage for Obstacle {
    fn begin(&self) {
        fs::rename(&self.0, self.0.with_extension("away")).unwrap();
        fs::write(&self.0, "").unwrap();
    }

    fn end(&self) {
        fs::remove_file(&self.0).unwrap();
        fs::rename(self.0.with_extension("away"), &self.0).unwrap();
    }
}

/// A filesystem of 8 MiB, which gets larger.
pub struct Disk(PathBuf);

impl Disk {
    /// None where mounting is not permitted.
    pub fn mount(path: &Path) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=8m", "tmpfs"], path).then(|| Self(path.to_owned()))
    }
}

fn mount(args: &[&str], path: &Path) -> bool {
    let output = Command::new("mount").args(args).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

impl Outage for Disk {
    /// It fills up by itself.
    fn begin(&self) {}

    fn end(&self) {
        assert!(mount(&["-o", "remount,size=256m"], &self.0));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process that dies with the test may still hold it.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_store_that_fails_for_a_while_loses_nothing_and_memory_stays_bounded() {
    let home = TempDir::new().unwrap();
    outage(&home, "Not a directory", |id| {
        let log = home.path().join("bucket/histories").join(id).join("log");
        Box::new(Obstacle(log))
    });
}

#[test]
fn a_store_that_is_full_for_a_while_loses_nothing_and_memory_stays_bounded() {
    let home = TempDir::new().unwrap();
    let Some(disk) = Disk::mount(&home.path().join("bucket")) else {
        eprintln!("NOT tested: a full disk, as mounting is not permitted here");
        return;
    };
    outage(&home, "No space left on device", |_| Box::new(disk));
}

fn outage(home: &TempDir, cause: &str, outage: impl FnOnce(&str) -> Box<dyn Outage>) {
    const VALUE: usize = 100_000;
    let store = store(home);
    let redis = Server::start(Version::Redis70, &["--repl-backlog-size", "256mb"]);
    let limit = ["--segment-size", "512KiB", "--memory-limit", "2MiB"];
    let backfeed = Backfeed::backup(&redis.url(), &store, &[QUICK, &limit].concat());
    backfeed.wait_following();
    assert_eq!(redis.set_and_wait(0, "before", 1, 10_000), 1);
    let outage = outage(&redis.position().0);
    outage.begin();

    let before = resident_kib(backfeed.pid());
    let mut rng = Random::new(1);
    let mut connection = redis.connect();
    let mut most = before;
    for n in 0..400 {
        // Nothing that zstd makes small.
        let value: Vec<u8> = (0..VALUE / 8)
            .flat_map(|_| rng.next().to_le_bytes())
            .collect();
        redis::cmd("SET")
            .arg(n)
            .arg(value)
            .exec(&mut connection)
            .unwrap();
        most = most.max(resident_kib(backfeed.pid()));
    }
    let begun = std::time::Instant::now();
    let wait = redis::cmd("WAIT").arg(1).arg(300).to_owned();
    let stored: u32 = wait.query(&mut connection).unwrap();
    assert_eq!(stored, 0, "it is not stored");
    let hung_up =
        "bytes of feed wait for the store, and the limit is the memory limit: disconnecting";
    wait_until("it hangs up", PATIENCE, || {
        most = most.max(resident_kib(backfeed.pid()));
        backfeed.log().contains(hung_up)
    });
    let log = backfeed.log();
    let line = log.lines().find(|line| line.contains(hung_up)).unwrap();
    assert!(
        line.contains(cause) && line.contains("repl-backlog-size"),
        "{line}"
    );
    eprintln!(
        "hung up after {:?}; memory from {before} to {most} KiB",
        begun.elapsed()
    );
    // 40 MB were written. Beside the limit: what sockets, zstd and the allocator hold.
    assert!(
        most < before + 16 * 1024,
        "memory grew from {before} to {most} KiB"
    );
    wait_until("the master does not wait for it", PATIENCE, || {
        redis.info("replication")["connected_slaves"] == "0"
    });
    let view = backfeed.readyz().unwrap();
    assert_eq!(view["phase"], "waiting_for_store", "{view}");
    assert_eq!(view["ready"], false, "{view}");
    assert!(
        view["last_error"].as_str().unwrap().contains(cause),
        "{view}"
    );
    assert!(backfeed.metric("backfeed_store_errors_total") > 0.0);

    outage.end();
    wait_all_stored(&redis, &[&backfeed]);
    assert_eq!(redis.set_and_wait(0, "after", 1, 10_000), 1);
    assert_eq!(redis.info("stats")["sync_full"], "1");
    let listing = list(&store);
    assert_eq!(
        (histories(&listing).len(), bases(&listing)),
        (1, 1),
        "{listing:#}"
    );
    check_restore(&store, &redis, &[]);
    drop(backfeed);
}
