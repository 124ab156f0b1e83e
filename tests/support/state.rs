//! The whole state of a server, to compare; the moments at which nothing is written.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::{Connection, Pipeline, RedisResult, Value};

use super::server::{Server, Version, wait_until};

/// An expiry before this from now on is one that the load meant to pass soon.
const SOON_MS: i64 = 60_000;
const QUIET: Duration = Duration::from_secs(30);

/// Everything that a server holds, so far as it can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// `DEBUG DIGEST`: all keys and values of all databases, and which of them expire.
    pub digest: String,
    /// Keys in each database.
    pub keys: BTreeMap<u32, u64>,
    /// `DEBUG DIGEST-VALUE` of each key, so that a difference has a name.
    pub values: BTreeMap<(u32, Vec<u8>), String>,
    /// When each key that expires does, Unix milliseconds.
    pub expiries: BTreeMap<(u32, Vec<u8>), i64>,
    /// The same of fields of hashes.
    pub field_expiries: BTreeMap<(u32, Vec<u8>, Vec<u8>), i64>,
    /// Consumer groups, which the digest leaves out.
    pub groups: BTreeMap<(u32, Vec<u8>), String>,
    /// `FUNCTION LIST WITHCODE`.
    pub functions: String,
    /// Keys and fields that have expired and are not deleted yet: no command shows them, but they are in the digest.
    pub expired: u64,
}

/// How much an expiry may differ after a restore. Up to 6.2 it travels as "in N ms", and the receive time stands in for
/// the time of the command: a machine that is short of CPU time takes a second or two between both.
pub fn tolerance_ms(version: Version) -> i64 {
    if version.relative_ttls() { 3000 } else { 0 }
}

impl State {
    pub fn of(server: &Server) -> Self {
        Self::read(&mut server.connect(), server.version())
    }

    pub fn read(connection: &mut Connection, version: Version) -> Self {
        let keyspace: String = redis::cmd("INFO")
            .arg("keyspace")
            .query(connection)
            .unwrap();
        let mut state = Self {
            digest: String::new(),
            keys: BTreeMap::new(),
            values: BTreeMap::new(),
            expiries: BTreeMap::new(),
            field_expiries: BTreeMap::new(),
            groups: BTreeMap::new(),
            functions: String::new(),
            expired: 0,
        };
        for line in keyspace.lines().filter_map(|line| line.strip_prefix("db")) {
            let (db, _) = line.split_once(':').unwrap();
            state.read_database(connection, version, db.parse().unwrap());
        }
        if version.at_least_7() {
            let mut list = redis::cmd("FUNCTION");
            let functions: Value = list.arg("LIST").arg("WITHCODE").query(connection).unwrap();
            state.functions = format!("{functions:?}");
        }
        // Last: reading the expiries makes the server delete what has passed.
        state.digest = redis::cmd("DEBUG").arg("DIGEST").query(connection).unwrap();
        state
    }

    fn read_database(&mut self, connection: &mut Connection, version: Version, db: u32) {
        let () = redis::cmd("SELECT").arg(db).query(connection).unwrap();
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(connection).unwrap();
        let size: u64 = redis::cmd("DBSIZE").query(connection).unwrap();
        self.expired += size.saturating_sub(keys.len() as u64);
        let command = if version.at_least_7() {
            "PEXPIRETIME"
        } else {
            "PTTL"
        };
        let times: Vec<i64> = ask(connection, &keys, |pipe, key| {
            pipe.cmd(command).arg(key);
        });
        let base = if version.at_least_7() { 0 } else { unix_ms() };
        for (key, time) in keys.iter().zip(times).filter(|(_, time)| *time >= 0) {
            self.expiries.insert((db, key.clone()), base + time);
        }
        let types: Vec<String> = ask(connection, &keys, |pipe, key| {
            pipe.cmd("TYPE").arg(key);
        });
        let there = types.iter().filter(|name| *name != "none").count();
        self.keys.insert(db, there as u64);
        let digests: Vec<Vec<String>> = ask(connection, &keys, |pipe, key| {
            pipe.cmd("DEBUG").arg("DIGEST-VALUE").arg(key);
        });
        for ((key, kind), digest) in keys.iter().zip(&types).zip(digests) {
            let digest = format!("{kind} {}", digest.concat());
            self.values.insert((db, key.clone()), digest);
        }
        let of_type = |name: &str| -> Vec<Vec<u8>> {
            let found = keys.iter().zip(&types).filter(|(_, found)| *found == name);
            found.map(|(key, _)| key.clone()).collect()
        };
        let streams = of_type("stream");
        // A stream may expire in between.
        let groups: Vec<RedisResult<Vec<BTreeMap<String, Value>>>> =
            ask(connection, &streams, |pipe, key| {
                pipe.cmd("XINFO").arg("GROUPS").arg(key);
                pipe.ignore_errors();
            });
        for (key, groups) in streams.into_iter().zip(groups) {
            let mut groups = groups.unwrap_or_default();
            // A server does not tell these to its replicas in every case; a consumer that never got anything is one.
            for untold in ["consumers", "entries-read", "lag"] {
                groups
                    .iter_mut()
                    .for_each(|group| drop(group.remove(untold)));
            }
            self.groups.insert((db, key), format!("{groups:?}"));
        }
        if matches!(
            version,
            Version::Redis80 | Version::Redis86 | Version::Valkey91
        ) {
            self.read_fields(connection, db, &of_type("hash"));
        }
    }

    fn read_fields(&mut self, connection: &mut Connection, db: u32, hashes: &[Vec<u8>]) {
        let fields: Vec<Vec<Vec<u8>>> = ask(connection, hashes, |pipe, key| {
            pipe.cmd("HKEYS").arg(key);
        });
        let counts: Vec<u64> = ask(connection, hashes, |pipe, key| {
            pipe.cmd("HLEN").arg(key);
        });
        for ((hash, fields), count) in hashes.iter().zip(fields).zip(counts) {
            self.expired += count - (fields.len() as u64).min(count);
            if fields.is_empty() {
                continue;
            }
            let times: Vec<i64> = redis::cmd("HPEXPIRETIME")
                .arg(hash)
                .arg("FIELDS")
                .arg(fields.len())
                .arg(&fields)
                .query(connection)
                .unwrap();
            for (field, time) in fields.into_iter().zip(times).filter(|(_, time)| *time >= 0) {
                self.field_expiries.insert((db, hash.clone(), field), time);
            }
        }
    }

    /// Is nothing about to expire, so that it stays as it is for the length of a test?
    pub fn is_quiet(&self) -> bool {
        let soon = unix_ms() + SOON_MS;
        let mut times = self.expiries.values().chain(self.field_expiries.values());
        self.expired == 0 && times.all(|time| *time > soon)
    }

    /// Panics with what differs.
    #[track_caller]
    pub fn assert_is(&self, wanted: &State, tolerance_ms: i64, context: &str) {
        assert_eq!(self.keys, wanted.keys, "{context}: keys by database");
        same_times(&self.expiries, &wanted.expiries, tolerance_ms, context);
        same_times(
            &self.field_expiries,
            &wanted.field_expiries,
            tolerance_ms,
            context,
        );
        same(&self.values, &wanted.values, "the value", context);
        same(&self.groups, &wanted.groups, "the groups", context);
        assert_eq!(self.functions, wanted.functions, "{context}: functions");
        assert_eq!(self.digest, wanted.digest, "{context}: DEBUG DIGEST");
    }
}

#[track_caller]
fn same_times<K: Ord + std::fmt::Debug>(
    found: &BTreeMap<K, i64>,
    wanted: &BTreeMap<K, i64>,
    tolerance_ms: i64,
    context: &str,
) {
    for (key, time) in wanted {
        let Some(have) = found.get(key) else {
            panic!(
                "{context}: {key:?} should expire at {time}, and does not expire or is not there"
            );
        };
        let difference = have - time;
        assert!(
            difference.abs() <= tolerance_ms,
            "{context}: {key:?} should expire at {time}, not {difference} ms later"
        );
    }
    for key in found.keys() {
        assert!(
            wanted.contains_key(key),
            "{context}: {key:?} should not expire"
        );
    }
}

#[track_caller]
fn same<V: PartialEq + std::fmt::Debug>(
    found: &BTreeMap<(u32, Vec<u8>), V>,
    wanted: &BTreeMap<(u32, Vec<u8>), V>,
    what: &str,
    context: &str,
) {
    let keys: BTreeSet<_> = found.keys().chain(wanted.keys()).collect();
    for key in keys {
        let (have, want) = (found.get(key), wanted.get(key));
        let name = String::from_utf8_lossy(&key.1);
        assert_eq!(
            have, want,
            "{context}: {what} of {name:?} in database {}",
            key.0
        );
    }
}

/// One command for each key.
fn ask<T: redis::FromRedisValue>(
    connection: &mut Connection,
    keys: &[Vec<u8>],
    command: impl Fn(&mut Pipeline, &Vec<u8>),
) -> Vec<T> {
    let mut all = Vec::new();
    for keys in keys.chunks(500) {
        let mut pipe = redis::pipe();
        for key in keys {
            command(&mut pipe, key);
        }
        let replies: Vec<T> = pipe.query(connection).expect("replies");
        all.extend(replies);
    }
    all
}

/// A moment at which nothing is written.
pub struct Moment {
    pub offset: u64,
    pub unix_ms: i64,
    pub state: State,
}

/// With the load stopped: waits until what was to expire soon has, and until so many replicas have acknowledged
/// everything. Gives the state with its offset; what the feed says after that is `PING` and `GETACK` alone.
#[track_caller]
pub fn quiet(server: &Server, replicas: u32) -> Moment {
    let begun = Instant::now();
    while !State::of(server).is_quiet() {
        assert!(begun.elapsed() < QUIET, "{server}: keys go on expiring");
        std::thread::sleep(Duration::from_millis(50));
    }
    if replicas > 0 {
        wait_acknowledged(server, replicas);
    }
    let state = State::of(server);
    assert!(state.is_quiet(), "{server}: it was quiet before");
    Moment {
        offset: server.position().1,
        unix_ms: unix_ms(),
        state,
    }
}

/// `WAIT`: so many replicas have acknowledged everything.
#[track_caller]
pub fn wait_acknowledged(server: &Server, replicas: u32) {
    // It counts from the last write of its own connection.
    let mut connection = server.connect();
    let mut pipe = redis::pipe();
    pipe.cmd("SET").arg("acknowledged").arg(unix_ms()).ignore();
    pipe.cmd("WAIT").arg(replicas).arg(30_000);
    let (have,): (u32,) = pipe.query(&mut connection).expect("a reply");
    assert!(
        have >= replicas,
        "{server}: {have} acknowledged of {replicas}"
    );
}

/// A replica that has caught up once, with a backlog that outlasts a test.
pub fn replica_of(master: &Server) -> Server {
    let replica = Server::builder(master.version())
        .replicaof("127.0.0.1", master.port())
        .arg("repl-backlog-size", "64mb")
        .start();
    wait_until("the replica follows", Duration::from_secs(30), || {
        replica.info("replication")["master_link_status"] == "up"
    });
    replica
}

pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_millis()).unwrap()
}
