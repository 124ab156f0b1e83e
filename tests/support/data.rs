//! Data of every kind that a version knows: a seeded load that makes it, and the whole state of a server to compare.

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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use redis::{Connection, Pipeline, RedisResult, Value};

use super::server::{Server, Version, wait_until};

/// Databases in use; the last of the sixteen included.
pub const DATABASES: [u32; 6] = [0, 1, 3, 5, 9, 15];
/// Names of each type in each database.
const NAMES: u64 = 60;
/// An expiry before this from now on is one that the load meant to pass soon.
const SOON_MS: i64 = 60_000;
const QUIET: Duration = Duration::from_secs(30);

/// A test of its own for each version.
macro_rules! for_each_version {
    ($($test:ident),* $(,)?) => {
        $crate::support::data::for_each_version!(@ redis_6_0, Redis60, $($test),*);
        $crate::support::data::for_each_version!(@ redis_6_2, Redis62, $($test),*);
        $crate::support::data::for_each_version!(@ redis_7_0, Redis70, $($test),*);
        $crate::support::data::for_each_version!(@ redis_8_0, Redis80, $($test),*);
        $crate::support::data::for_each_version!(@ redis_8_6, Redis86, $($test),*);
        $crate::support::data::for_each_version!(@ valkey_8_1, Valkey81, $($test),*);
        $crate::support::data::for_each_version!(@ valkey_9_1, Valkey91, $($test),*);
    };
    (@ $name:ident, $version:ident, $($test:ident),*) => {
        mod $name {
            $(#[test]
            fn $test() {
                super::$test(crate::support::Version::$version);
            })*
        }
    };
}
pub(crate) use for_each_version;

/// splitmix64: the same load for the same seed, everywhere.
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

/// What expiries the load may use, of keys and fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Expiries {
    None,
    /// All come long after the test.
    Late,
    /// Some come while the load runs.
    Mixed,
}

/// Makes commands.
pub struct Mix {
    random: Random,
    expiries: Expiries,
    known: BTreeSet<&'static str>,
    databases: Vec<u32>,
}

/// Newer commands, asked for by name rather than by version: flavours differ.
const NEWER: [&str; 12] = [
    "COPY", "DELEX", "FUNCTION", "GETDEL", "GETEX", "HGETEX", "HPEXPIRE", "HSETEX", "LMOVE",
    "MSETEX", "VADD", "XACKDEL",
];
const LIBRARY: &str = "#!lua name=tests\nredis.register_function('put', function(keys, args) \
                       redis.call('SET', keys[1], args[1]); redis.call('RPUSH', keys[2], args[1]); return 1 end)";

impl Mix {
    pub fn new(connection: &mut Connection, seed: u64, expiries: Expiries) -> Self {
        let known = NEWER.into_iter().filter(|name| {
            let reply: Vec<Value> = redis::cmd("COMMAND")
                .arg("INFO")
                .arg(name)
                .query(connection)
                .unwrap();
            matches!(reply.as_slice(), [Value::Array(fields)] if !fields.is_empty())
        });
        Self {
            random: Random::new(seed),
            expiries,
            known: known.collect(),
            databases: DATABASES.to_vec(),
        }
    }

    fn key(&mut self, kind: &str) -> Vec<u8> {
        let n = self.random.below(NAMES);
        // Not every name is text.
        if n.is_multiple_of(7) {
            [kind.as_bytes(), b":\x00\xff\r\n ", &n.to_be_bytes()].concat()
        } else {
            format!("{kind}:{n}").into_bytes()
        }
    }

    fn value(&mut self) -> Vec<u8> {
        let length = match self.random.below(200) {
            0 => 40_000,
            1..=9 => 3_000,
            _ => 1 + self.random.below(40),
        };
        self.random.bytes(length)
    }

    /// Some pass while the load runs, the others long after the test.
    fn ttl_ms(&mut self) -> u64 {
        if self.expiries == Expiries::Mixed && self.random.one_in(4) {
            20 + self.random.below(300)
        } else {
            600_000 + self.random.below(6_000_000)
        }
    }

    fn has_expiries(&self) -> bool {
        self.expiries != Expiries::None
    }

    fn knows(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// Some commands in one database, maybe as a transaction.
    pub fn batch(&mut self) -> Pipeline {
        let mut pipe = redis::pipe();
        pipe.ignore_errors();
        let db = self.random.pick(&self.databases);
        pipe.cmd("SELECT").arg(db);
        let transaction = self.random.one_in(5);
        if transaction {
            pipe.cmd("MULTI");
        }
        for _ in 0..1 + self.random.below(25) {
            self.command(&mut pipe);
        }
        if transaction {
            pipe.cmd(if self.random.one_in(10) {
                "DISCARD"
            } else {
                "EXEC"
            });
        }
        if self.random.one_in(40) {
            let (a, b) = (self.random.pick(&DATABASES), self.random.pick(&DATABASES));
            pipe.cmd("SWAPDB").arg(a).arg(b);
        }
        if self.random.one_in(300) {
            pipe.cmd("FLUSHDB");
        }
        pipe
    }

    fn command(&mut self, pipe: &mut Pipeline) {
        match self.random.below(14) {
            0 | 1 => self.string(pipe),
            2 => self.list(pipe),
            3 => self.set(pipe),
            4 => self.sorted_set(pipe),
            5 | 6 => self.hash(pipe),
            7 => self.stream(pipe),
            8 => self.special(pipe),
            9 | 10 => self.expiry(pipe),
            11 => self.whole_keys(pipe),
            12 => self.script(pipe),
            _ => self.newer(pipe),
        }
    }

    fn string(&mut self, pipe: &mut Pipeline) {
        let (key, value) = (self.key("s"), self.value());
        match self.random.below(9) {
            0..=3 => pipe.cmd("SET").arg(key).arg(value),
            4 => pipe.cmd("APPEND").arg(key).arg(value),
            5 => pipe
                .cmd("INCRBY")
                .arg(self.key("n"))
                .arg(self.random.below(1000)),
            6 => pipe.cmd("INCRBYFLOAT").arg(self.key("n")).arg("0.1"),
            7 => pipe
                .cmd("SETRANGE")
                .arg(key)
                .arg(self.random.below(500))
                .arg(value),
            _ => pipe
                .cmd("MSET")
                .arg(key)
                .arg(value)
                .arg(self.key("s"))
                .arg("x"),
        };
    }

    fn list(&mut self, pipe: &mut Pipeline) {
        let (key, value) = (self.key("l"), self.value());
        match self.random.below(8) {
            0..=2 => pipe.cmd("RPUSH").arg(key).arg(value).arg("tail"),
            3 => pipe.cmd("LPUSH").arg(key).arg(value),
            4 => pipe.cmd("RPOPLPUSH").arg(key).arg(self.key("l")),
            5 => pipe.cmd("LPOP").arg(key),
            6 => pipe
                .cmd("LINSERT")
                .arg(key)
                .arg("BEFORE")
                .arg("tail")
                .arg(value),
            _ => pipe.cmd("LTRIM").arg(key).arg(0).arg(30),
        };
    }

    fn set(&mut self, pipe: &mut Pipeline) {
        let key = self.key("t");
        let n = self.random.below(50);
        match self.random.below(7) {
            0 | 1 => pipe.cmd("SADD").arg(key).arg(n).arg(n + 1),
            2 => pipe.cmd("SADD").arg(key).arg(self.value()),
            3 => pipe.cmd("SREM").arg(key).arg(n),
            4 => pipe.cmd("SPOP").arg(key).arg(2),
            5 => pipe.cmd("SMOVE").arg(key).arg(self.key("t")).arg(n),
            _ => pipe
                .cmd("SUNIONSTORE")
                .arg(key)
                .arg(self.key("t"))
                .arg(self.key("t")),
        };
    }

    fn sorted_set(&mut self, pipe: &mut Pipeline) {
        let key = self.key("z");
        let n = self.random.below(40);
        match self.random.below(7) {
            0 | 1 => pipe
                .cmd("ZADD")
                .arg(key)
                .arg(
                    n as f64 / 8.0, /* thirds are printed, and so digested, in two ways */
                )
                .arg(self.value()),
            2 => pipe.cmd("ZADD").arg(key).arg(n).arg(n),
            3 => pipe.cmd("ZINCRBY").arg(key).arg("1.5").arg(n),
            4 => pipe.cmd("ZPOPMIN").arg(key).arg(3),
            5 => pipe
                .cmd("ZUNIONSTORE")
                .arg(key)
                .arg(2)
                .arg(self.key("z"))
                .arg(self.key("z")),
            _ => pipe
                .cmd("GEOADD")
                .arg(self.key("g"))
                .arg(n)
                .arg("48.1")
                .arg(format!("place {n}")),
        };
    }

    fn hash(&mut self, pipe: &mut Pipeline) {
        let key = self.key("h");
        let field = format!("f{}", self.random.below(30));
        match self.random.below(7) {
            0..=2 => pipe.cmd("HSET").arg(key).arg(field).arg(self.value()),
            3 => pipe
                .cmd("HSET")
                .arg(key)
                .arg(self.value())
                .arg("binary field"),
            4 => pipe.cmd("HINCRBY").arg(key).arg("count").arg(1),
            5 => pipe.cmd("HDEL").arg(key).arg(field),
            _ if self.has_expiries() && self.knows("HPEXPIRE") => {
                let ttl = self.ttl_ms();
                pipe.cmd("HPEXPIRE")
                    .arg(key)
                    .arg(ttl)
                    .arg("FIELDS")
                    .arg(1)
                    .arg(field)
            }
            _ => pipe.cmd("HINCRBYFLOAT").arg(key).arg("sum").arg("0.25"),
        };
    }

    fn stream(&mut self, pipe: &mut Pipeline) {
        let key = self.key("x");
        match self.random.below(9) {
            0..=2 => pipe
                .cmd("XADD")
                .arg(key)
                .arg("*")
                .arg("field")
                .arg(self.value()),
            3 => pipe
                .cmd("XADD")
                .arg(key)
                .arg("MAXLEN")
                .arg("~")
                .arg(20)
                .arg("*")
                .arg("a")
                .arg("b"),
            4 => pipe
                .cmd("XGROUP")
                .arg("CREATE")
                .arg(key)
                .arg("group")
                .arg(0)
                .arg("MKSTREAM"),
            5 | 6 => {
                let consumer = format!("consumer {}", self.random.below(3));
                pipe.cmd("XREADGROUP")
                    .arg("GROUP")
                    .arg("group")
                    .arg(consumer);
                pipe.arg("COUNT").arg(2).arg("STREAMS").arg(key).arg(">")
            }
            7 => pipe.cmd("XTRIM").arg(key).arg("MAXLEN").arg(15),
            _ if self.knows("XACKDEL") => pipe
                .cmd("XACKDEL")
                .arg(key)
                .arg("group")
                .arg("DELREF")
                .arg("IDS")
                .arg(1)
                .arg("1-1"),
            _ => pipe
                .cmd("XGROUP")
                .arg("SETID")
                .arg(key)
                .arg("group")
                .arg("$"),
        };
    }

    fn special(&mut self, pipe: &mut Pipeline) {
        let n = self.random.below(3000);
        match self.random.below(4) {
            0 => pipe.cmd("PFADD").arg(self.key("p")).arg(n).arg(n * 7),
            1 => pipe.cmd("PFMERGE").arg(self.key("p")).arg(self.key("p")),
            2 => pipe.cmd("SETBIT").arg(self.key("b")).arg(n).arg(1),
            _ => pipe
                .cmd("BITFIELD")
                .arg(self.key("b"))
                .arg("INCRBY")
                .arg("u5")
                .arg(n)
                .arg(3),
        };
    }

    fn any_key(&mut self) -> Vec<u8> {
        let kind = self
            .random
            .pick(&["s", "n", "l", "t", "z", "h", "x", "p", "b", "g"]);
        self.key(kind)
    }

    fn expiry(&mut self, pipe: &mut Pipeline) {
        let (key, ttl) = (self.any_key(), self.ttl_ms());
        if !self.has_expiries() {
            pipe.cmd("PERSIST").arg(key);
            return;
        }
        let (string, value) = (self.key("s"), self.value());
        match self.random.below(9) {
            0 => pipe.cmd("PEXPIRE").arg(key).arg(ttl),
            1 => pipe.cmd("EXPIRE").arg(key).arg(1 + ttl / 1000),
            2 => pipe
                .cmd("PEXPIREAT")
                .arg(key)
                .arg(unix_ms() + i64::try_from(ttl).unwrap()),
            3 => pipe.cmd("SET").arg(string).arg(value).arg("PX").arg(ttl),
            4 => pipe
                .cmd("SET")
                .arg(string)
                .arg(value)
                .arg("XX")
                .arg("EX")
                .arg(1 + ttl / 1000),
            5 => pipe.cmd("PSETEX").arg(string).arg(ttl).arg(value),
            6 => pipe.cmd("SETEX").arg(string).arg(1 + ttl / 1000).arg(value),
            7 => pipe.cmd("PERSIST").arg(key),
            _ => pipe.cmd("SET").arg(string).arg(value).arg("KEEPTTL"),
        };
    }

    fn whole_keys(&mut self, pipe: &mut Pipeline) {
        let kind = self.random.pick(&["s", "l", "t", "z", "h", "x"]);
        let (from, to) = (self.key(kind), self.key(kind));
        match self.random.below(7) {
            0 | 1 => pipe.cmd("RENAME").arg(from).arg(to),
            2 => pipe.cmd("RENAMENX").arg(from).arg(to),
            3 => pipe.cmd("DEL").arg(from),
            4 => pipe.cmd("UNLINK").arg(from).arg(to),
            5 => pipe.cmd("MOVE").arg(from).arg(self.random.pick(&DATABASES)),
            _ if self.knows("COPY") => {
                let db = self.random.pick(&DATABASES);
                pipe.cmd("COPY")
                    .arg(from)
                    .arg(to)
                    .arg("DB")
                    .arg(db)
                    .arg("REPLACE")
            }
            _ => pipe
                .cmd("SORT")
                .arg(self.key("t"))
                .arg("ALPHA")
                .arg("STORE")
                .arg(self.key("l")),
        };
    }

    fn script(&mut self, pipe: &mut Pipeline) {
        let (key, value) = (self.key("s"), self.value());
        if self.knows("FUNCTION") && self.random.one_in(2) {
            if self.random.one_in(10) {
                pipe.cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(LIBRARY);
            }
            pipe.cmd("FCALL")
                .arg("put")
                .arg(2)
                .arg(key)
                .arg(self.key("l"))
                .arg(value);
            return;
        }
        pipe.cmd("EVAL")
            .arg("redis.call('SET', KEYS[1], ARGV[1]); return redis.call('INCR', KEYS[2])")
            .arg(2)
            .arg(key)
            .arg(self.key("n"))
            .arg(value);
    }

    fn newer(&mut self, pipe: &mut Pipeline) {
        let (key, value, ttl) = (self.key("s"), self.value(), self.ttl_ms());
        let field = format!("f{}", self.random.below(30));
        let expiries = self.has_expiries();
        match self.random.below(7) {
            0 if self.knows("GETDEL") => pipe.cmd("GETDEL").arg(key),
            1 if self.knows("GETEX") && expiries => pipe.cmd("GETEX").arg(key).arg("PX").arg(ttl),
            2 if self.knows("LMOVE") => pipe
                .cmd("LMOVE")
                .arg(self.key("l"))
                .arg(self.key("l"))
                .arg("LEFT")
                .arg("RIGHT"),
            3 if self.knows("HSETEX") && expiries => {
                pipe.cmd("HSETEX").arg(self.key("h")).arg("PX").arg(ttl);
                pipe.arg("FIELDS").arg(1).arg(field).arg(value)
            }
            4 if self.knows("MSETEX") && expiries => {
                pipe.cmd("MSETEX")
                    .arg(2)
                    .arg(key)
                    .arg(value)
                    .arg(self.key("s"))
                    .arg("y");
                pipe.arg("PX").arg(ttl)
            }
            5 if self.knows("VADD") => {
                let vector: Vec<String> =
                    (0..4).map(|_| self.random.below(9).to_string()).collect();
                let element = format!("e{}", self.random.below(40));
                pipe.cmd("VADD")
                    .arg(self.key("v"))
                    .arg("VALUES")
                    .arg(4)
                    .arg(vector)
                    .arg(element)
            }
            6 if self.knows("HGETEX") && expiries => {
                pipe.cmd("HGETEX").arg(self.key("h")).arg("PX").arg(ttl);
                pipe.arg("FIELDS").arg(1).arg(field)
            }
            _ => pipe.cmd("GETSET").arg(key).arg(value),
        };
    }
}

/// Runs some batches. Gives the number of commands that were taken.
pub fn run(connection: &mut Connection, mix: &mut Mix, batches: usize) -> u64 {
    let mut taken = 0;
    for _ in 0..batches {
        let replies: Vec<RedisResult<Value>> = mix.batch().query(connection).expect("a reply");
        // A wrong type or a missing key is part of the mix.
        taken += replies.iter().filter(|reply| reply.is_ok()).count() as u64;
    }
    taken
}

/// A mixed load from a thread of its own, until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    taken: Arc<AtomicU64>,
    thread: Option<JoinHandle<Mix>>,
}

impl Load {
    /// Returns when there is some data. Ends by itself when the server dies.
    pub fn start(server: &Server, seed: u64, expiries: Expiries) -> Self {
        let mut connection = server.connect();
        let mix = Mix::new(&mut connection, seed, expiries);
        Self::go_on(server, mix)
    }

    /// With a mix that has been used before.
    pub fn go_on(server: &Server, mut mix: Mix) -> Self {
        let mut connection = server.connect();
        run(&mut connection, &mut mix, 60);
        let stop = Arc::new(AtomicBool::new(false));
        let taken = Arc::new(AtomicU64::new(0));
        let (stopped, count) = (stop.clone(), taken.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let replies: RedisResult<Vec<RedisResult<Value>>> =
                    mix.batch().query(&mut connection);
                let Ok(replies) = replies else { break };
                count.fetch_add(replies.len() as u64, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(4));
            }
            mix
        });
        Self {
            stop,
            taken,
            thread: Some(thread),
        }
    }

    /// Waits for so many commands from now on.
    pub fn wait(&self, commands: u64) {
        let from = self.taken.load(Ordering::Relaxed);
        wait_until("the load goes on", Duration::from_secs(60), || {
            self.taken.load(Ordering::Relaxed) >= from + commands
        });
    }

    pub fn stop(mut self) -> Mix {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("the load")
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

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
/// the time of the command.
pub fn tolerance_ms(version: Version) -> i64 {
    if version.relative_ttls() { 1500 } else { 0 }
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
