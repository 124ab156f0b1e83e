//! A writer that knows what it wrote, and what of it was acknowledged.
//!
//! It writes numbered units, one after another: INCR, SET, RPUSH, transactions, another database. What unit `n` does follows
//! from the seed and `n` alone, so that the [`Model`] can be brought to any `n`. Whenever it gets a new connection, it first
//! compares everything that is in the server with the model: that must be the state after some unit, at or after the last
//! acknowledged one and not after the last one sent. So nothing acknowledged is lost, nothing is torn, and no write is
//! there without all that were before it.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::{Connection, Pipeline, RedisResult, Value, cmd, pipe};

use super::random::Random;
use super::server::{Server, wait_until};

const SLOTS: u64 = 24;
/// Keeps what is compared small, in a run of any length.
const CLEAR_EVERY: u64 = 1500;
/// The databases that units write to. The other one is selected for a unit and left again.
const OTHER: u32 = 3;

/// What the server holds after the first `applied` units.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Model {
    pub applied: u64,
    seed: u64,
    count: Option<u64>,
    slots: BTreeMap<u64, String>,
    list: Vec<u64>,
    hash: BTreeMap<String, u64>,
    other: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Incr,
    Set,
    Push,
    Transaction,
    OtherDatabase,
    Clear,
}

impl Model {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    fn dice(&self, n: u64) -> Random {
        Random::new(self.seed ^ n.wrapping_mul(0xA24B_AED4_963E_E407))
    }

    fn unit(&self, n: u64) -> Unit {
        if n.is_multiple_of(CLEAR_EVERY) {
            return Unit::Clear;
        }
        match self.dice(n).below(10) {
            0..=2 => Unit::Incr,
            3 | 4 => Unit::Set,
            5 | 6 => Unit::Push,
            7 | 8 => Unit::Transaction,
            _ => Unit::OtherDatabase,
        }
    }

    /// Mostly short; now and then longer than one read of a socket, so that kills cut it.
    fn value(&self, n: u64) -> String {
        let mut dice = self.dice(n);
        let _ = dice.next();
        let length = if dice.one_in(25) { 90_000 } else { 40 };
        let length = usize::try_from(dice.below(length)).expect("below 90,000");
        format!("{n}:{}", "v".repeat(length))
    }

    /// The commands of unit `n`.
    fn commands(&self, n: u64, pipe: &mut Pipeline) {
        let slot = format!("slot:{}", n % SLOTS);
        match self.unit(n) {
            Unit::Incr => {
                pipe.cmd("INCR").arg("count");
            }
            Unit::Set => {
                pipe.cmd("SET").arg(slot).arg(self.value(n));
            }
            Unit::Push => {
                pipe.cmd("RPUSH").arg("list").arg(n);
            }
            Unit::Transaction => {
                pipe.cmd("MULTI");
                pipe.cmd("INCR").arg("count");
                pipe.cmd("SET").arg(slot).arg(self.value(n));
                pipe.cmd("HSET").arg("hash").arg(field(n)).arg(n);
                pipe.cmd("SELECT").arg(OTHER);
                pipe.cmd("SET").arg("in transaction").arg(n);
                pipe.cmd("SELECT").arg(0);
                pipe.cmd("RPUSH").arg("list").arg(n);
                pipe.cmd("EXEC");
            }
            Unit::OtherDatabase => {
                pipe.cmd("SELECT").arg(OTHER);
                pipe.cmd("SET").arg("alone").arg(n);
                pipe.cmd("SELECT").arg(0);
            }
            Unit::Clear => {
                pipe.cmd("MULTI");
                pipe.cmd("DEL").arg("list").arg("hash");
                pipe.cmd("SET").arg("count").arg(0);
                pipe.cmd("SET").arg(slot).arg(self.value(n));
                pipe.cmd("EXEC");
            }
        }
    }

    /// What the next unit changes.
    pub fn apply(&mut self) {
        let n = self.applied + 1;
        let slot = n % SLOTS;
        match self.unit(n) {
            Unit::Incr => self.increment(),
            Unit::Set => {
                self.slots.insert(slot, self.value(n));
            }
            Unit::Push => self.list.push(n),
            Unit::Transaction => {
                self.increment();
                self.slots.insert(slot, self.value(n));
                self.hash.insert(field(n), n);
                self.other.insert("in transaction".to_owned(), n);
                self.list.push(n);
            }
            Unit::OtherDatabase => {
                self.other.insert("alone".to_owned(), n);
            }
            Unit::Clear => {
                self.list.clear();
                self.hash.clear();
                self.count = Some(0);
                self.slots.insert(slot, self.value(n));
            }
        }
        self.applied = n;
    }

    fn increment(&mut self) {
        self.count = Some(self.count.unwrap_or(0) + 1);
    }

    fn keys(&self) -> (u64, u64) {
        let single = [
            self.count.is_some(),
            !self.list.is_empty(),
            !self.hash.is_empty(),
        ];
        let single = single.map(u64::from).iter().sum::<u64>();
        (single + self.slots.len() as u64, self.other.len() as u64)
    }

    /// How the server's state differs, in short.
    fn difference(&self, found: &Found) -> Option<String> {
        let lengths = |model: &Self| {
            (
                model.count,
                model.slots.len(),
                model.list.len(),
                model.hash.len(),
                model.other.clone(),
            )
        };
        let as_model = Self {
            applied: self.applied,
            seed: self.seed,
            ..found.model.clone()
        };
        if as_model != *self {
            return Some(format!(
                "{:?} instead of {:?}",
                lengths(&as_model),
                lengths(self)
            ));
        }
        let keys = self.keys();
        (found.keys != keys).then(|| format!("{:?} keys instead of {keys:?}", found.keys))
    }
}

fn field(n: u64) -> String {
    format!("field {}", n % 7)
}

/// What a server holds.
struct Found {
    model: Model,
    /// In database 0, in the other one.
    keys: (u64, u64),
}

fn look(connection: &mut Connection) -> RedisResult<Found> {
    let slots: Vec<String> = (0..SLOTS).map(|slot| format!("slot:{slot}")).collect();
    let count = cmd("GET").arg("count").query(connection)?;
    let values: Vec<Option<String>> = cmd("MGET").arg(&slots).query(connection)?;
    let list = cmd("LRANGE").arg("list").arg(0).arg(-1).query(connection)?;
    let hash = cmd("HGETALL").arg("hash").query(connection)?;
    let keys = cmd("DBSIZE").query(connection)?;
    cmd("SELECT").arg(OTHER).exec(connection)?;
    let names = ["in transaction", "alone"].map(str::to_owned);
    let other: Vec<Option<u64>> = cmd("MGET").arg(&names).query(connection)?;
    let other_keys = cmd("DBSIZE").query(connection)?;
    cmd("SELECT").arg(0).exec(connection)?;
    let slots = (0..).zip(values);
    Ok(Found {
        model: Model {
            count,
            slots: slots.filter_map(|(n, value)| Some((n, value?))).collect(),
            list,
            hash,
            other: names
                .into_iter()
                .zip(other)
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
            ..Model::default()
        },
        keys: (keys, other_keys),
    })
}

/// The last unit of what a server holds, which must be the state after one of the units `from..=to`.
#[track_caller]
pub fn last_unit(server: &Server, seed: u64, from: u64, to: u64) -> u64 {
    let found = look(&mut server.connect()).expect("the server answers");
    let mut model = Model::new(seed);
    let mut last = None;
    while model.applied <= to {
        if model.applied >= from {
            last = model.difference(&found);
            if last.is_none() {
                return model.applied;
            }
        }
        model.apply();
    }
    panic!("{server}: not the state after any unit of {from}..={to}; at the last: {last:?}");
}

/// What a writer knows.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// The last unit that was sent, whatever became of it.
    pub sent: u64,
    /// The last unit that must never be missing.
    pub acked: u64,
    /// How often `WAIT` confirmed something.
    pub acks: u64,
    /// How often everything was compared, and was right.
    pub checks: u64,
    /// Connections to a server that was started since the last one.
    pub servers: u64,
    /// What is wrong; the writer has stopped then.
    pub wrong: Option<String>,
    stop: bool,
}

/// A writer in a thread of its own.
pub struct Ledger {
    shared: Arc<Mutex<Progress>>,
    thread: Option<JoinHandle<()>>,
}

impl Ledger {
    /// Writes to whatever server is a master on `port`, until it is dropped. `replicas`: for `WAIT`; with 0 it never asks.
    pub fn start(port: u16, seed: u64, replicas: u32) -> Self {
        let shared = Arc::new(Mutex::new(Progress::default()));
        let mut writer = Writer {
            port,
            replicas,
            model: Model::new(seed),
            acked: Model::new(seed),
            rng: Random::new(seed),
            run_id: String::new(),
            shared: Arc::clone(&shared),
        };
        Self {
            shared,
            thread: Some(thread::spawn(move || writer.run())),
        }
    }

    /// What it knows now. Panics when it found something wrong.
    #[track_caller]
    pub fn progress(&self) -> Progress {
        let progress = lock(&self.shared).clone();
        if let Some(wrong) = &progress.wrong {
            panic!("{wrong}");
        }
        progress
    }

    /// Waits for `WAIT` to confirm writes that are made from now on.
    #[track_caller]
    pub fn wait_acked(&self, what: &str) {
        let before = self.progress();
        wait_until(
            &format!("writes are acknowledged: {what}; the writer was at {before:?}"),
            Duration::from_secs(60),
            || {
                let now = self.progress();
                now.acks >= before.acks + 2 && now.acked > before.sent
            },
        );
    }

    /// Ends it; what it knew at last.
    #[track_caller]
    pub fn stop(mut self) -> Progress {
        lock(&self.shared).stop = true;
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the writer does not panic");
        }
        self.progress()
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        lock(&self.shared).stop = true;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(shared: &Mutex<Progress>) -> MutexGuard<'_, Progress> {
    shared
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

struct Writer {
    port: u16,
    replicas: u32,
    /// After the last unit that is known to have been executed.
    model: Model,
    /// After the last acknowledged one.
    acked: Model,
    rng: Random,
    run_id: String,
    shared: Arc<Mutex<Progress>>,
}

impl Writer {
    fn run(&mut self) {
        while !lock(&self.shared).stop {
            // Whatever went wrong with a connection, the next one shows what came of it.
            let Ok(mut connection) = self.connect() else {
                thread::sleep(Duration::from_millis(5));
                continue;
            };
            match self.check(&mut connection) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                Ok(Err(wrong)) => {
                    lock(&self.shared).wrong = Some(wrong);
                    return;
                }
            }
            while !lock(&self.shared).stop && self.write(&mut connection).is_ok() {}
        }
    }

    fn connect(&self) -> RedisResult<Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port))?;
        let connection = client.get_connection_with_timeout(Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(connection)
    }

    /// False: it takes no writes now.
    fn check(&mut self, connection: &mut Connection) -> RedisResult<Result<bool, String>> {
        let info: String = cmd("INFO").query(connection)?;
        let fact = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().to_owned()
        };
        if fact("role:") != "master" || fact("loading:") != "0" {
            return Ok(Ok(false));
        }
        let found = look(connection)?;
        let run_id = fact("run_id:");
        let fresh = run_id != self.run_id;
        let before = lock(&self.shared).clone();
        // Unacknowledged units may have gone with their server; while it lives, answered ones are there.
        let mut model = if fresh {
            self.acked.clone()
        } else {
            self.model.clone()
        };
        let mut first = None;
        while let Some(difference) = model.difference(&found) {
            if model.applied >= before.sent {
                return Ok(Err(format!(
                    "the server holds no state between what was acknowledged and what was sent: {before:?}, fresh: {fresh}; \
                     compared with unit {}: {difference}; with the first: {first:?}",
                    model.applied
                )));
            }
            first.get_or_insert(difference);
            model.apply();
        }
        let mut progress = lock(&self.shared);
        progress.checks += 1;
        // What was sent beyond it never came to be.
        progress.sent = model.applied;
        if fresh {
            progress.servers += 1;
            // It came out of the store, and so will it again.
            progress.acked = model.applied;
            self.acked = model.clone();
        }
        drop(progress);
        self.run_id = run_id;
        self.model = model;
        Ok(Ok(true))
    }

    fn write(&mut self, connection: &mut Connection) -> RedisResult<()> {
        let batch = if self.rng.one_in(3) {
            1 + self.rng.below(6)
        } else {
            1
        };
        let mut pipe = pipe();
        let first = self.model.applied + 1;
        let last = first + batch - 1;
        for n in first..=last {
            self.model.commands(n, &mut pipe);
        }
        lock(&self.shared).sent = last;
        let _: Value = pipe.query(connection)?;
        for _ in first..=last {
            self.model.apply();
        }
        if self.replicas > 0 && self.rng.one_in(8) {
            let timeout = Duration::from_millis(500);
            let replicas: u32 = cmd("WAIT")
                .arg(self.replicas)
                .arg(timeout.as_millis() as u64)
                .query(connection)?;
            if replicas >= self.replicas {
                let mut progress = lock(&self.shared);
                progress.acked = last;
                progress.acks += 1;
                drop(progress);
                self.acked = self.model.clone();
            }
        }
        // Not so fast that the comparison of a state is what takes the time.
        thread::sleep(Duration::from_micros(self.rng.below(1500)));
        Ok(())
    }
}
