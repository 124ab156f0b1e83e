//! Sends what the generator makes, and counts which commands succeeded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::{Connection, RedisResult, Value};

use super::generator::{Capabilities, Command, Generator, Unit, name};
use crate::support::Server;
use crate::support::data::Expiries;

/// Write commands that cannot succeed on a server that stands alone.
const CANNOT: [&str; 3] = ["MIGRATE", "TRIMSLOTS", "CLUSTER|FLUSHSLOT"];
/// What is generated beside the commands that are flagged as writing.
const ALSO: [&str; 6] = ["EVAL", "EVALSHA", "FCALL", "PFCOUNT", "PUBLISH", "SPUBLISH"];
const BLOCKED: Duration = Duration::from_secs(10);

/// What became of a command.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub sent: u64,
    /// It gave no error.
    pub succeeded: u64,
    /// And it gave something that is not nil, 0 or empty: it found what it looked for.
    pub told: u64,
}

/// A generator and the connections that it drives.
pub struct Runner {
    generator: Generator,
    main: Connection,
    waiter: Connection,
    waiter_id: u64,
    tally: BTreeMap<String, Tally>,
    skips: fn(&Command) -> bool,
}

impl Runner {
    pub fn new(server: &Server, seed: u64, expiries: Expiries) -> Self {
        let mut main = server.connect();
        let mut waiter = server.connect();
        let capabilities = Capabilities::of(&mut main);
        let waiter_id = redis::cmd("CLIENT").arg("ID").query(&mut waiter).unwrap();
        Self {
            generator: Generator::new(seed, capabilities, expiries),
            main,
            waiter,
            waiter_id,
            tally: BTreeMap::new(),
            skips: |_| false,
        }
    }

    /// Sends no unit with a command of which this says so.
    pub fn skipping(mut self, skips: fn(&Command) -> bool) -> Self {
        self.skips = skips;
        self
    }

    /// Values that compress well, for what is kept.
    pub fn compressible(mut self) -> Self {
        self.generator.compressible = true;
        self
    }

    /// Sends so many units.
    pub fn run(&mut self, units: u64) {
        for _ in 0..units {
            let unit = self.generator.next();
            let mut all = unit
                .before
                .iter()
                .chain(&unit.commands)
                .chain(&unit.waiting);
            if all.any(self.skips) {
                continue;
            }
            let select = vec![b"SELECT".to_vec(), unit.database.to_string().into_bytes()];
            let before = [std::slice::from_ref(&select), &unit.before[..]].concat();
            match &unit.waiting {
                None => self.send(&[before, unit.commands].concat()),
                Some(waiting) => {
                    self.send(&before);
                    self.serve(&[select, waiting.clone()], &unit);
                }
            }
        }
    }

    fn send(&mut self, commands: &[Command]) {
        let replies = ask(&mut self.main, commands);
        let mut queued: Vec<&Command> = Vec::new();
        let mut in_transaction = false;
        for (command, reply) in commands.iter().zip(&replies) {
            match (name(command).as_str(), reply) {
                ("MULTI", _) => in_transaction = true,
                ("DISCARD", _) => in_transaction = false,
                ("EXEC", reply) => {
                    in_transaction = false;
                    if let Ok(Value::Array(inner)) = reply {
                        for (command, reply) in queued.iter().zip(inner) {
                            self.count(command, reply);
                        }
                    }
                }
                (_, Ok(Value::SimpleString(said))) if in_transaction && said == "QUEUED" => {
                    queued.push(command);
                }
                (_, Ok(reply)) => self.count(command, reply),
                (_, Err(_)) => self.tally(command).sent += 1,
            }
        }
    }

    /// One client waits, the other brings what it waits for.
    fn serve(&mut self, waiting: &[Command], unit: &Unit) {
        self.waiter
            .send_packed_command(&packed(waiting))
            .expect("the server takes it");
        let name = String::from_utf8_lossy(&waiting[1][0]).to_lowercase();
        let begun = Instant::now();
        while self.waiter_shows("cmd") != name {
            assert!(begun.elapsed() < BLOCKED, "{waiting:?} is not taken");
        }
        self.send(&unit.commands);
        // If it was not that which it waits for.
        let begun = Instant::now();
        while self.waiter_shows("flags").contains('b') {
            assert!(begun.elapsed() < BLOCKED, "{waiting:?} goes on waiting");
            let mut unblock = redis::cmd("CLIENT");
            let _: RedisResult<Value> =
                (unblock.arg("UNBLOCK").arg(self.waiter_id)).query(&mut self.main);
        }
        for command in waiting {
            match self.waiter.recv_response() {
                Ok(Value::ServerError(_)) | Err(_) => self.tally(command).sent += 1,
                Ok(reply) => self.count(command, &reply),
            }
        }
    }

    /// A field of the waiting client's line in `CLIENT LIST`.
    fn waiter_shows(&mut self, field: &str) -> String {
        let clients: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut self.main)
            .unwrap();
        let id = format!("id={} ", self.waiter_id);
        let line = clients.lines().find(|line| line.starts_with(&id));
        let fields = line.expect("the waiting client is connected").split(' ');
        let mut fields = fields.filter_map(|told| told.split_once('='));
        let told = fields.find(|(name, _)| *name == field);
        told.expect("the field is there").1.to_owned()
    }

    fn tally(&mut self, command: &Command) -> &mut Tally {
        self.tally.entry(name(command)).or_default()
    }

    fn count(&mut self, command: &Command, reply: &Value) {
        self.generator.hear(command, reply);
        let tally = self.tally(command);
        tally.sent += 1;
        if matches!(reply, Value::ServerError(_)) {
            return;
        }
        tally.succeeded += 1;
        let told = match reply {
            Value::Int(0) => name(command).ends_with("PUBLISH"), // Nobody listens.
            Value::Nil => false,
            Value::Array(elements) => !elements.is_empty(),
            Value::BulkString(bytes) => !bytes.is_empty(),
            _ => true,
        };
        tally.told += u64::from(told);
    }

    /// What became of each command.
    pub fn tallies(&self) -> &BTreeMap<String, Tally> {
        &self.tally
    }

    /// Commands that the server has, and that did not once do something.
    pub fn missed(&self) -> Vec<String> {
        let capabilities = self.generator.capabilities();
        let told = |name: &str| self.tally.get(name).is_some_and(|tally| tally.told > 0);
        let also = ALSO.iter().filter(|name| capabilities.knows(name));
        let also = also.map(|name| (*name).to_owned());
        let wanted = capabilities.writes().iter().cloned().chain(also);
        wanted
            .filter(|name| !CANNOT.contains(&name.as_str()))
            .filter(|name| !told(name))
            .collect()
    }
}

/// Sends commands at once, and gives all the replies.
pub fn ask(connection: &mut Connection, commands: &[Command]) -> Vec<RedisResult<Value>> {
    let mut pipe = redis::pipe();
    pipe.ignore_errors();
    for command in commands {
        let mut args = command.iter();
        pipe.cmd(&String::from_utf8_lossy(args.next().unwrap()));
        args.for_each(|arg| {
            pipe.arg(arg);
        });
    }
    pipe.query(connection).expect("replies")
}

fn packed(commands: &[Command]) -> Vec<u8> {
    let mut pipe = redis::pipe();
    for command in commands {
        let mut args = command.iter();
        pipe.cmd(&String::from_utf8_lossy(args.next().unwrap()));
        args.for_each(|arg| {
            pipe.arg(arg);
        });
    }
    pipe.get_packed_pipeline()
}
