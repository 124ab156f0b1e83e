//! Data of every kind that a version knows, made by a seeded load.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used
)]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use redis::{Connection, Pipeline, RedisResult, Value};

pub use super::random::Random;
use super::server::{Server, wait_until};
use super::state::unix_ms;

/// Databases in use; the last of the sixteen included.
pub const DATABASES: [u32; 6] = [0, 1, 3, 5, 9, 15];
/// Names of each type in each database.
const NAMES: u64 = 60;

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

/// Newer commands, looked up by name and not by version: servers of one version differ.
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
