//! Replicas that follow a store, without a link to the server that writes it: the same data at the same offset, and a promotion after
//! which the old region is never acknowledged again.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    Backfeed, Output, Server, Version, free_port, list, on, restored, run, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const QUICK: &[&str] = &["--flush-interval", "50ms"];

/// A server that sends no PING of its own. Those are stored minutes later, and until then offsets differ.
fn quiet(version: Version, master: Option<u16>) -> Server {
    let builder = Server::builder(version)
        .port(free_port())
        .arg("repl-ping-replica-period", 3600);
    match master {
        Some(port) => builder.replicaof("127.0.0.1", port).start(),
        None => builder.start(),
    }
}

/// A server, and the service that backs it up.
struct Region {
    server: Server,
    backup: Backfeed,
    store: String,
    _home: TempDir,
}

impl Region {
    fn start(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let server = quiet(version, None);
        server.cmd(&["DEBUG", "POPULATE", "500"]);
        server.cmd(&["SET", "volatile", "v", "EX", "1000"]);
        let backup = Backfeed::backup(&server.url(), &store, QUICK);
        backup.wait_following();
        Self {
            server,
            backup,
            store,
            _home: home,
        }
    }

    /// Writes keys that are stored.
    fn write(&self, prefix: &str) -> BTreeSet<String> {
        let keys = (0..30).map(|n| format!("{prefix}{n}"));
        let mut written = BTreeSet::new();
        for key in keys {
            assert_eq!(self.server.set_and_wait(0, &key, 1, 10_000), 1, "{key}");
            written.insert(key);
        }
        written
    }
}

/// The virtual master, and its port.
struct Standby {
    process: Backfeed,
    port: u16,
}

impl Standby {
    fn start(store: &str, more: &[&str]) -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let args = [
            "standby",
            "--store",
            store,
            "--listen",
            &listen,
            "--poll-interval",
            "50ms",
        ];
        let process = Backfeed::start(&[&args, more].concat());
        Self { process, port }
    }

    fn replica(&self, version: Version) -> Server {
        quiet(version, Some(self.port))
    }

    /// So many replicas were given a snapshot, and so many went on from what they had.
    #[track_caller]
    fn wait_syncs(&self, full: f64, partial: f64) {
        let of = |kind: &str| {
            let name = format!("backfeed_standby_{kind}_syncs_total");
            self.process.metric(&name)
        };
        // They are counted when the replica may have its data already.
        wait_until(
            &format!("{full} full syncs, {partial} partial ones"),
            PATIENCE,
            || (of("full"), of("partial")) == (full, partial),
        );
    }
}

/// Both are in the same history, and hold the same. (Traffic of an idle server, as the question of a `WAIT`, is stored later: until then
/// the replica is behind by that, and never ahead.)
#[track_caller]
fn wait_same(replica: &Server, server: &Server) {
    wait_until("the replica has what the server has", PATIENCE, || {
        let ((id, at), (wanted, end)) = (replica.position(), server.position());
        replica.info("replication")["master_link_status"] == "up"
            && id == wanted
            && at <= end
            && replica.debug_digest() == server.debug_digest()
    });
    let of = |server: &Server| {
        let ttl = server.text(&["PTTL", "volatile"]);
        ttl.parse::<i64>().unwrap()
    };
    let (there, here) = (of(server), of(replica));
    assert!(there > 0 && there.abs_diff(here) < 5_000, "{there} {here}");
}

fn promote(store: &str, replica: &Server) -> Output {
    let url = replica.url();
    run(&["promote", "--store", store, "--redis", &url, "--json"])
}

on!(replicas_follow_and_come_back:
    redis_60 = Redis60, redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

fn replicas_follow_and_come_back(version: Version) {
    let region = Region::start(version);
    region.write("before");
    let mut standby = Standby::start(&region.store, &[]);
    let mut replicas: Vec<Server> = (0..3).map(|_| standby.replica(version)).collect();
    for replica in &replicas {
        wait_same(replica, &region.server);
    }
    standby.wait_syncs(3.0, 0.0);
    region.write("then");
    region.server.cmd(&["EXPIRE", "volatile", "500"]);
    region.write("more");
    for replica in &replicas {
        wait_same(replica, &region.server);
    }
    let view = standby.process.readyz().unwrap();
    assert_eq!(view["replicas"].as_array().unwrap().len(), 3, "{view:#}");
    assert_eq!(view["history"], region.server.position().0, "{view:#}");

    // A lost link, and a standby that is killed: nobody needs a snapshot.
    replicas[0].cmd(&["CLIENT", "KILL", "TYPE", "master"]);
    region.write("after a lost link");
    wait_same(&replicas[0], &region.server);
    standby.wait_syncs(3.0, 1.0);
    standby.process.kill9();
    region.write("while it is down");
    standby.process.restart();
    for replica in &replicas {
        wait_same(replica, &region.server);
    }
    standby.wait_syncs(0.0, 3.0);

    // A fresh one is given everything, beside the others.
    replicas[1].kill9();
    std::fs::remove_dir_all(replicas[1].dir()).unwrap();
    std::fs::create_dir_all(replicas[1].dir()).unwrap();
    replicas[1].restart();
    wait_same(&replicas[1], &region.server);
    standby.wait_syncs(1.0, 3.0);
    // The server itself knows of none of them.
    assert_eq!(region.server.info("replication")["connected_slaves"], "1");
    assert_eq!(standby.process.sigterm(), 0);
}

on!(a_failover_of_the_source_is_followed:
    redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

fn a_failover_of_the_source_is_followed(version: Version) {
    let mut region = Region::start(version);
    let next = quiet(version, Some(region.server.port()));
    region.write("before");
    let standby = Standby::start(&region.store, &[]);
    let replica = standby.replica(version);
    wait_same(&replica, &region.server);
    wait_until("its own replica has all", PATIENCE, || {
        next.position() == region.server.position()
    });
    assert_eq!(region.backup.sigterm(), 0);
    region.server.kill9();
    next.cmd(&["REPLICAOF", "NO", "ONE"]);
    let backup = Backfeed::backup(&next.url(), &region.store, QUICK);
    backup.wait_following();
    assert_eq!(next.set_and_wait(0, "after the failover", 1, 10_000), 1);
    wait_same(&replica, &next);
    standby.wait_syncs(1.0, 1.0);
}

on!(a_region_is_lost_and_its_standby_goes_on:
    redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

fn a_region_is_lost_and_its_standby_goes_on(version: Version) {
    let mut region = Region::start(version);
    let standby = Standby::start(&region.store, &[]);
    let (one, other) = (standby.replica(version), standby.replica(version));
    wait_same(&one, &region.server);
    wait_same(&other, &region.server);
    let mut confirmed = region.write("confirmed");
    // Its master and its backup are gone, and the data of the last moment may not be there.
    region.backup.kill9();
    region.server.signal("STOP");
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| promote(&region.store, &one));
        let second = scope.spawn(|| promote(&region.store, &other));
        (first.join().unwrap(), second.join().unwrap())
    });
    let codes = BTreeSet::from([first.code, second.code]);
    assert!(
        codes.contains(&0) && codes.len() == 2,
        "one of both is promoted: {first:?} {second:?}"
    );
    let lost = if first.code == 0 { &second } else { &first };
    assert!([4, 5, 6].contains(&lost.code), "{lost:?}");
    let (new, left) = match first.code {
        0 => (&one, &other),
        _ => (&other, &one),
    };
    assert_eq!(new.info("replication")["role"], "master");
    assert_eq!(left.info("replication")["role"], "slave");
    for key in &confirmed {
        assert_eq!(new.text(&["EXISTS", key]), "1", "{key}");
    }
    let report: Value = serde_json::from_str(if first.code == 0 {
        &first.stdout
    } else {
        &second.stdout
    })
    .unwrap();
    assert_eq!(report["child"], new.position().0, "{report:#}");

    // The new region is backed up without a full sync, and the other replica follows it.
    let backup = Backfeed::backup(&new.url(), &region.store, QUICK);
    backup.wait_following();
    assert_eq!(new.set_and_wait(0, "in the new region", 1, 10_000), 1);
    confirmed.insert("in the new region".to_owned());
    assert_eq!(backup.metric("backfeed_full_syncs_total"), 0.0);
    wait_same(left, new);

    // The old region comes back, and acknowledges nothing.
    region.server.signal("CONT");
    region.backup.restart();
    assert_eq!(
        region.server.set_and_wait(0, "in the old region", 1, 2_000),
        0
    );
    assert_eq!(region.backup.wait_exit(), 5);
    let listing = list(&region.store);
    assert_eq!(listing["ambiguous"], serde_json::json!([]), "{listing:#}");
    let back = restored(version, &region.store);
    for key in &confirmed {
        assert_eq!(back.text(&["EXISTS", key]), "1", "{key}");
    }
    assert_eq!(back.text(&["EXISTS", "in the old region"]), "0");
}

on!(a_replica_lags_on_purpose: redis_70 = Redis70, valkey_91 = Valkey91);

fn a_replica_lags_on_purpose(version: Version) {
    let region = Region::start(version);
    let standby = Standby::start(&region.store, &["--delay", "6s"]);
    let replica = standby.replica(version);
    wait_until("it has the data of before", PATIENCE, || {
        replica.info("replication")["master_link_status"] == "up"
    });
    assert_eq!(replica.text(&["DBSIZE"]), "501");
    let written = std::time::Instant::now();
    assert_eq!(region.server.set_and_wait(0, "mistake", 1, 10_000), 1);
    thread::sleep(Duration::from_secs(2));
    assert_eq!(replica.text(&["EXISTS", "mistake"]), "0");
    let view = standby.process.readyz().unwrap();
    let offset = |name: &str| view[name].as_u64().unwrap();
    assert!(offset("stored_offset") > offset("end_offset"), "{view:#}");
    wait_until("it has the rest too", PATIENCE, || {
        replica.text(&["EXISTS", "mistake"]) == "1"
    });
    assert!(
        written.elapsed() >= Duration::from_secs(5),
        "{:?}",
        written.elapsed()
    );
    let view = standby.process.readyz().unwrap();
    assert_eq!(view["delay_ms"], 6000, "{view:#}");
    assert_eq!(view["ready"], true, "{view:#}");
}

#[test]
fn what_may_not_be_promoted_or_followed_is_refused() {
    let region = Region::start(Version::Redis86);
    let refused = promote(&region.store, &region.server);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("but a master"), "{refused:?}");
    // A replica of a server of its own.
    let other = Server::start(Version::Redis86, &[]);
    let replica = Server::builder(Version::Redis86)
        .port(free_port())
        .replicaof("127.0.0.1", other.port())
        .start();
    wait_until("it follows its master", PATIENCE, || {
        replica.info("replication")["master_link_status"] == "up"
    });
    let refused = promote(&region.store, &replica);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("does not have"), "{refused:?}");
    // A replica of the living server has more than the store: it could not be promoted after the seal, so nothing is sealed.
    let direct = Server::builder(Version::Redis86)
        .port(free_port())
        .replicaof("127.0.0.1", region.server.port())
        .start();
    region.backup.signal("STOP");
    region.server.cmd(&["SET", "not stored", "yet"]);
    wait_until("it has what is not stored", PATIENCE, || {
        direct.text(&["EXISTS", "not stored"]) == "1"
    });
    let refused = promote(&region.store, &direct);
    region.backup.signal("CONT");
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("beyond the end"), "{refused:?}");
    assert_eq!(
        region.server.set_and_wait(0, "still backed up", 2, 10_000),
        2
    );
    // A user who may not promote it.
    direct.cmd(&["ACL", "SETUSER", "weak", "on", ">w", "+info", "+ping"]);
    let url = format!("redis://weak:w@127.0.0.1:{}", direct.port());
    let refused = run(&["promote", "--store", &region.store, "--redis", &url]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("REPLICAOF"), "{refused:?}");
    assert_eq!(region.server.set_and_wait(0, "and still", 2, 10_000), 2);
    // A replica of the server itself that is behind the store is not promoted in vain: nothing is sealed.
    let standby = Standby::start(&region.store, &[]);
    let mut cut = standby.replica(Version::Redis86);
    wait_same(&cut, &region.server);
    drop(standby);
    region.write("beyond it");
    let url = cut.url();
    let refused = run(&[
        "promote",
        "--store",
        &region.store,
        "--redis",
        &url,
        "--timeout",
        "1s",
    ]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        refused.stderr.contains("Nothing was changed"),
        "{refused:?}"
    );
    assert_eq!(region.server.set_and_wait(0, "goes on", 1, 10_000), 1);
    cut.kill9();
    let refused = run(&["standby", "--store", &region.store, "--listen", "0.0.0.0:0"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    let empty = TempDir::new().unwrap();
    let store = format!("file://{}", empty.path().display());
    let refused = run(&["standby", "--store", &store]);
    assert_eq!(refused.code, 6, "{refused:?}");
}
