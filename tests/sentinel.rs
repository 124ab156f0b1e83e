//! A master that its Sentinels replace: real Sentinels, a master, two replicas, and the backup that follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::certs::Authority;
use crate::support::state::{State, wait_acknowledged};
use crate::support::{Backfeed, Server, Version, free_port, list, on, restored, run, wait_until};

/// Passwords of the servers and of the Sentinels.
#[derive(Clone, Copy, Default)]
struct Passwords {
    servers: Option<&'static str>,
    sentinels: Option<&'static str>,
}

struct Deployment {
    servers: Vec<Server>,
    sentinels: Vec<Server>,
    passwords: Passwords,
    home: TempDir,
}

impl Deployment {
    fn start(version: Version, passwords: Passwords) -> Self {
        let server = |master: Option<u16>| {
            let mut builder = Server::builder(version).arg("repl-backlog-size", "64mb");
            if let Some(password) = passwords.servers {
                builder = builder
                    .arg("requirepass", password)
                    .arg("masterauth", password);
            }
            match master {
                Some(port) => builder.replicaof("127.0.0.1", port).start(),
                None => builder.start(),
            }
        };
        let master = server(None);
        let replicas = [server(Some(master.port())), server(Some(master.port()))];
        for replica in &replicas {
            wait_until("the replica follows", PATIENCE, || {
                replica.info("replication")["master_link_status"] == "up"
            });
        }
        let sentinel = || {
            let mut builder = Server::builder(version).sentinel().arg(
                "sentinel",
                format!("monitor shop 127.0.0.1 {} 2", master.port()),
            );
            for setting in [
                "down-after-milliseconds shop 2000",
                "failover-timeout shop 6000",
            ] {
                builder = builder.arg("sentinel", setting);
            }
            if let Some(password) = passwords.servers {
                builder = builder.arg("sentinel", format!("auth-pass shop {password}"));
            }
            if let Some(password) = passwords.sentinels {
                builder = builder.arg("requirepass", password);
            }
            builder.start()
        };
        let sentinels: Vec<Server> = (0..3).map(|_| sentinel()).collect();
        for sentinel in &sentinels {
            wait_until("the Sentinels know everybody", PATIENCE, || {
                let master = master_as_seen(sentinel);
                let says = |field: &str, value: &str| {
                    master
                        .iter()
                        .any(|(name, found)| name == field && found == value)
                };
                says("num-slaves", "2")
                    && says("num-other-sentinels", "2")
                    && says("flags", "master")
            });
        }
        let [one, two] = replicas;
        Self {
            servers: vec![master, one, two],
            sentinels,
            passwords,
            home: TempDir::new().unwrap(),
        }
    }

    fn url(&self) -> String {
        let login = self
            .passwords
            .servers
            .map_or(String::new(), |password| format!(":{password}@"));
        let hosts: Vec<String> = self.sentinels.iter().map(Server::addr).collect();
        format!("redis+sentinel://{login}{}/shop", hosts.join(","))
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn backup(&self) -> Backfeed {
        let backfeed = Backfeed::backup(&self.url(), &self.store(), &[]);
        backfeed.wait_following();
        backfeed
    }

    /// The index of the server that all running Sentinels say is the master.
    fn master(&mut self) -> Option<usize> {
        let named: Vec<u16> = self
            .sentinels
            .iter_mut()
            .filter_map(|sentinel| sentinel.is_running().then(|| port_of_master(sentinel)))
            .collect();
        let first = *named.first()?;
        if named.iter().any(|port| *port != first) {
            return None;
        }
        self.servers
            .iter()
            .position(|server| server.port() == first)
    }

    /// Waits until another server than `old` is the master, which takes writes. Its index.
    fn wait_failover(&mut self, old: usize) -> usize {
        let mut new = None;
        wait_until("the Sentinels promote a replica", PATIENCE, || {
            new = self.master().filter(|&new| new != old);
            new.is_some_and(|new| is(&self.servers[new], "master"))
        });
        new.unwrap()
    }

    /// No Sentinel takes us for a server that it could promote.
    fn assert_never_promoted(&mut self, context: &str) {
        for sentinel in &mut self.sentinels {
            if !sentinel.is_running() {
                continue;
            }
            let replicas: Vec<Vec<(String, String)>> =
                redis::from_redis_value(sentinel.cmd(&["SENTINEL", "REPLICAS", "shop"])).unwrap();
            for replica in replicas {
                let get = |field: &str| {
                    let found = replica.iter().find(|(name, _)| name == field);
                    found.map(|(_, value)| value.as_str()).unwrap_or_default()
                };
                if get("port") == "0" {
                    let flags = get("flags");
                    assert!(
                        flags.contains("s_down") || flags.contains("disconnected"),
                        "{context}: {replica:?}"
                    );
                }
            }
            assert_ne!(port_of_master(sentinel), 0, "{context}");
        }
    }

    /// What is in the store is what the master has.
    fn assert_restored(&self, backfeed: &Backfeed, master: usize) -> Server {
        let master = &self.servers[master];
        backfeed.wait_captured(master);
        let fresh = restored(master.version(), &self.store());
        State::of(&fresh).assert_is(&State::of(master), 0, "restored after a failover");
        fresh
    }
}

/// False too when the server closes the connection, as one does that becomes a replica.
fn is(server: &Server, role: &str) -> bool {
    let reply = server.try_cmd(&["INFO", "replication"]);
    let info = reply.and_then(|reply| Ok(redis::from_redis_value::<String>(reply)?));
    info.is_ok_and(|info| info.contains(&format!("role:{role}\r\n")))
}

fn master_as_seen(sentinel: &Server) -> Vec<(String, String)> {
    redis::from_redis_value(sentinel.cmd(&["SENTINEL", "MASTER", "shop"])).unwrap()
}

fn port_of_master(sentinel: &Server) -> u16 {
    let reply = sentinel.cmd(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop"]);
    let (_, port): (String, u16) = redis::from_redis_value(reply).unwrap();
    port
}

/// A write every now and then, to the server that it was started with. It does not know of Sentinels.
struct Trickle {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Trickle {
    fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut connection = server.connect();
        let thread = thread::spawn(move || {
            for n in 0_u64.. {
                let set = redis::cmd("SET")
                    .arg(format!("trickle:{n}"))
                    .arg(n)
                    .to_owned();
                if stopped.load(Ordering::Relaxed) || set.exec(&mut connection).is_err() {
                    return;
                }
                thread::sleep(Duration::from_micros(500));
            }
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// One write after another, each confirmed by both replicas and the store.
struct Confirmed {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<u64>>,
}

impl Confirmed {
    fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut connection = server.connect();
        let thread = thread::spawn(move || {
            let mut confirmed = Vec::new();
            for n in 0_u64.. {
                let mut pipe = redis::pipe();
                pipe.cmd("SET")
                    .arg(format!("confirmed:{n}"))
                    .arg(n)
                    .ignore();
                pipe.cmd("WAIT").arg(3).arg(5000);
                match pipe.query::<(u32,)>(&mut connection) {
                    Ok((3..,)) => confirmed.push(n),
                    Ok(_) => {}
                    Err(_) => break,
                }
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
            }
            confirmed
        });
        Self { stop, thread }
    }

    fn stop(self) -> Vec<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn assert_all_in(server: &Server, confirmed: &[u64]) {
    assert!(!confirmed.is_empty(), "no write was confirmed");
    let mut connection = server.connect();
    for n in confirmed {
        let found: Option<u64> = redis::cmd("GET")
            .arg(format!("confirmed:{n}"))
            .query(&mut connection)
            .unwrap();
        assert_eq!(found, Some(*n), "{server}: confirmed:{n} was confirmed");
    }
}

fn full_syncs(backfeed: &Backfeed) -> u64 {
    backfeed.metric("backfeed_full_syncs_total") as u64
}

fn partial_syncs(backfeed: &Backfeed) -> u64 {
    backfeed.metric("backfeed_partial_syncs_total") as u64
}

fn a_master_that_is_killed_under_load_is_replaced(version: Version) {
    let mut all = Deployment::start(version, Passwords::default());
    all.servers[0].cmd(&["SET", "before", "all"]);
    let backfeed = all.backup();
    let load = Trickle::start(&all.servers[0]);
    let writer = Confirmed::start(&all.servers[0]);
    wait_until("writes are confirmed", PATIENCE, || {
        let stored = backfeed.metric("backfeed_segments_stored_total");
        stored >= 20.0
    });
    all.assert_never_promoted("before");
    // One Sentinel less: the others are a majority, and the first in the URL is gone.
    all.sentinels[0].kill9();
    all.servers[0].kill9();
    let confirmed = writer.stop();
    load.stop();
    let new = all.wait_failover(0);
    all.servers[new].cmd(&["SET", "after", "the failover"]);
    let fresh = all.assert_restored(&backfeed, new);
    assert_all_in(&fresh, &confirmed);
    assert_eq!(full_syncs(&backfeed), 1, "{}", backfeed.log());
    assert!(partial_syncs(&backfeed) >= 1);
    assert_eq!(list(&all.store())["histories"].as_array().unwrap().len(), 2);
    // It is a replica of the new master: its WAIT counts it, with the replica that is left.
    wait_acknowledged(&all.servers[new], 2);
    all.assert_never_promoted("after");

    // The old master comes back, is made a replica, and changes nothing.
    all.servers[0].restart();
    wait_until("the old master is a replica", PATIENCE, || {
        is(&all.servers[0], "slave")
    });
    all.servers[new].cmd(&["SET", "and", "on"]);
    all.assert_restored(&backfeed, new);
    assert_eq!(full_syncs(&backfeed), 1);
}
on!(a_master_that_is_killed_under_load_is_replaced: redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// The old master takes writes after the new one was promoted; these are in no server any more, and we had stored them.
fn a_failover_by_command_is_followed_with_a_partial_sync(version: Version) {
    let mut all = Deployment::start(version, Passwords::default());
    let backfeed = all.backup();
    let load = Trickle::start(&all.servers[0]);
    wait_until("the feed flows", PATIENCE, || {
        backfeed.metric("backfeed_segments_stored_total") >= 2.0
    });
    // The Sentinel takes its time to tell the old master, which goes on with what no replica will get.
    all.sentinels[1].cmd(&["SENTINEL", "FAILOVER", "shop"]);
    let new = all.wait_failover(0);
    wait_until("the old master is a replica", PATIENCE, || {
        is(&all.servers[0], "slave")
    });
    load.stop();
    all.servers[new].cmd(&["SET", "after", "the failover"]);
    all.assert_restored(&backfeed, new);
    wait_acknowledged(&all.servers[new], 3);
    assert_eq!(full_syncs(&backfeed), 1, "{}", backfeed.log());
    assert!(partial_syncs(&backfeed) >= 1);

    // And back again, with a restart of ours while nobody is master: the store knows where to go on.
    let mut backfeed = backfeed;
    backfeed.kill9();
    wait_until("the next failover is accepted", PATIENCE, || {
        all.sentinels[2]
            .try_cmd(&["SENTINEL", "FAILOVER", "shop"])
            .is_ok()
    });
    let last = all.wait_failover(new);
    all.servers[last].cmd(&["SET", "after", "the second failover"]);
    backfeed.restart();
    backfeed.wait_following();
    all.assert_restored(&backfeed, last);
    assert_eq!(full_syncs(&backfeed), 0, "{}", backfeed.log());
    all.assert_never_promoted("after two failovers");
}
on!(a_failover_by_command_is_followed_with_a_partial_sync: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// The link to it stays up, and says nothing for a minute before it would be taken for dead.
#[test]
fn a_master_that_hangs_is_left_when_the_sentinels_have_replaced_it() {
    let mut all = Deployment::start(Version::Redis70, Passwords::default());
    let backfeed = all.backup();
    all.servers[0].cmd(&["SET", "before", "it hangs"]);
    wait_acknowledged(&all.servers[0], 3);
    all.servers[0].signal("STOP");
    let new = all.wait_failover(0);
    all.servers[new].cmd(&["SET", "after", "that"]);
    backfeed.wait_captured(&all.servers[new]);
    // It was the watch that noticed, not the link.
    assert!(
        backfeed.log().contains("has taken the place of"),
        "{}",
        backfeed.log()
    );
    // It still takes itself for the master, until a Sentinel has told it.
    all.servers[0].signal("CONT");
    all.assert_restored(&backfeed, new);
    assert_eq!((full_syncs(&backfeed), partial_syncs(&backfeed)), (1, 1));
}

#[test]
fn sentinels_and_servers_have_passwords_of_their_own() {
    let passwords = Passwords {
        servers: Some("of-the-data"),
        sentinels: Some("of-the-watch"),
    };
    let mut all = Deployment::start(Version::Redis70, passwords);
    let (url, store) = (all.url(), all.store());
    let file = all.home.path().join("password");
    let path = file.to_str().unwrap();

    // Without: told which flag is missing.
    let none = run(&["backup", "--redis", &url, "--store", &store]);
    assert_eq!(none.code, 4, "{none:?}");
    assert!(none.stderr.contains("--sentinel-password-file"), "{none:?}");
    std::fs::write(&file, "wrong\n").unwrap();
    let args = ["--sentinel-password-file", path];
    let wrong = run(&[&["backup", "--redis", &url, "--store", &store], &args[..]].concat());
    assert_eq!(wrong.code, 4, "{wrong:?}");

    std::fs::write(&file, "of-the-watch\n").unwrap();
    let backfeed = Backfeed::backup(&url, &store, &args);
    backfeed.wait_following();
    all.servers[0].kill9();
    let new = all.wait_failover(0);
    all.servers[new].cmd(&["SET", "after", "that"]);
    backfeed.wait_captured(&all.servers[new]);
    assert_eq!((full_syncs(&backfeed), partial_syncs(&backfeed)), (1, 1));
    let all_said = [backfeed.log(), none.stderr, wrong.stderr].concat();
    for secret in ["of-the-data", "of-the-watch", "wrong\n"] {
        assert!(!all_said.contains(secret), "{secret}: {all_said}");
    }
}

/// One Sentinel that knows one master, for what needs no failover.
fn lone_sentinel(master: &Server, port: Option<u16>) -> Server {
    let monitor = format!("monitor shop 127.0.0.1 {} 1", master.port());
    let builder = Server::builder(master.version())
        .sentinel()
        .arg("sentinel", monitor);
    match port {
        Some(port) => builder.port(port).start(),
        None => builder.start(),
    }
}

#[test]
fn sentinels_that_are_away_are_named_and_waited_for() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}", home.path().display());
    let master = Server::start(Version::Redis70, &[]);
    let (there, gone) = (free_port(), free_port());
    let url = format!("redis+sentinel://127.0.0.1:{there},127.0.0.1:{gone}/shop");
    let once = run(&["backup", "--redis", &url, "--store", &store, "--once"]);
    assert_eq!(once.code, 4, "{once:?}");
    let backfeed = Backfeed::backup(&url, &store, &[]);
    backfeed.wait("it names the Sentinels", |view| {
        let error = view["last_error"].as_str().unwrap_or_default();
        [there, gone]
            .iter()
            .all(|port| error.contains(&format!("127.0.0.1:{port}")))
    });
    let _sentinel = lone_sentinel(&master, Some(there));
    backfeed.wait_following();
    assert!(
        backfeed
            .log()
            .contains("some Sentinels of `shop` do not answer"),
        "{}",
        backfeed.log()
    );
}

#[test]
fn a_name_that_nobody_knows_is_told_and_tried_again() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}", home.path().display());
    let master = Server::start(Version::Redis70, &[]);
    let sentinel = lone_sentinel(&master, None);
    let url = format!("redis+sentinel://{}/market", sentinel.addr());
    let once = run(&["backup", "--redis", &url, "--store", &store, "--once"]);
    assert_eq!(once.code, 4, "{once:?}");
    assert!(
        once.stderr.contains("know no master named `market`")
            && once.stderr.contains("(they know shop)"),
        "{once:?}"
    );
    let backfeed = Backfeed::backup(&url, &store, &[]);
    backfeed.wait("the name is reported", |view| {
        view["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("`market`"))
    });
    let port = master.port().to_string();
    sentinel.cmd(&["SENTINEL", "MONITOR", "market", "127.0.0.1", &port, "1"]);
    backfeed.wait_following();
}

#[test]
fn only_a_backup_asks_sentinels() {
    let url = "redis+sentinel://:s3cret@127.0.0.1:1/shop";
    for args in [
        &["sidecar", "--redis", url, "--store", "file:///nowhere"][..],
        &["restore", "--to", url, "--store", "file:///nowhere"],
        &[
            "backup",
            "--redis",
            "redis://127.0.0.1:1",
            "--store",
            "file:///nowhere",
            "--sentinel-password-file",
            "/x",
        ],
        &[
            "backup",
            "--redis",
            url,
            "--store",
            "file:///nowhere",
            "--sentinel-user",
            "watcher",
        ],
        &[
            "backup",
            "--redis",
            "redis+sentinel://:s3cret@127.0.0.1:1",
            "--store",
            "file:///nowhere",
        ],
    ] {
        let output = run(args);
        assert_eq!(output.code, 2, "{args:?}: {output:?}");
        assert!(!output.stderr.contains("s3cret"), "{output:?}");
        assert!(
            output.stderr.to_lowercase().contains("sentinel"),
            "{output:?}"
        );
    }
}

/// Sentinel and server speak TLS alone.
#[test]
fn sentinels_and_servers_are_asked_by_tls() {
    let home = TempDir::new().unwrap();
    let authority = Authority::new(home.path(), "ca");
    let own = authority.sign(&["127.0.0.1", "localhost"]);
    let with_tls = |port: u16| {
        Server::builder(Version::Redis70)
            .arg("tls-port", port)
            .arg("tls-replication", "yes")
            .arg("tls-cert-file", &own.cert)
            .arg("tls-key-file", &own.key)
            .arg("tls-ca-cert-file", authority.file())
            .arg("tls-auth-clients", "no")
    };
    let (data, watch) = (free_port(), free_port());
    let master = with_tls(data).start();
    let _sentinel = with_tls(watch)
        .sentinel()
        .arg("sentinel", format!("monitor shop 127.0.0.1 {data} 1"))
        .start();
    let url = format!("rediss+sentinel://127.0.0.1:{watch}/shop");
    let store = format!("file://{}/bucket", home.path().display());
    let backfeed = Backfeed::backup(&url, &store, &["--tls-ca", &authority.file()]);
    backfeed.wait_following();
    master.cmd(&["SET", "by", "TLS"]);
    backfeed.wait_captured(&master);
    let replicas = master.text(&["CLIENT", "LIST", "TYPE", "replica"]);
    assert!(
        replicas.contains(&format!("laddr=127.0.0.1:{data} ")),
        "{replicas}"
    );
    // Another authority: no.
    let other = Authority::new(home.path(), "other");
    let refused = run(&[
        "backup",
        "--redis",
        &url,
        "--store",
        &store,
        "--tls-ca",
        &other.file(),
    ]);
    assert_eq!(refused.code, 4, "{refused:?}");
}
