//! A seeded generator of all write commands: options, wrong types, edge values and collections of every size.

use std::collections::{BTreeMap, BTreeSet};

use redis::{Connection, Value};

use crate::support::data::{Expiries, Random};
use crate::support::state::unix_ms;

/// A command with its arguments.
pub type Command = Vec<Vec<u8>>;

/// How long commands wait that may find nothing (6.0 takes 0.001 for never-ending).
pub const SHORTLY: &str = "0.01";
/// The databases in use.
pub const DATABASES: u64 = 4;
/// Keys of each kind in each database: few, so that commands meet.
const KEYS: u64 = 7;
/// How many replies of `DUMP` are remembered, and how many ids of a stream.
const REMEMBERED: usize = 40;

/// Runs the commands that its arguments tell, each with its number of arguments before it; gives how many succeeded.
const SCRIPT: &str = "local i, good = 1, 0 \
    while i <= #ARGV do \
      local n, command = tonumber(ARGV[i]), {} \
      for j = 1, n do command[j] = ARGV[i + j] end \
      local reply = redis.pcall(unpack(command)) \
      if type(reply) ~= 'table' or not reply['err'] then good = good + 1 end \
      i = i + n + 1 \
    end \
    return good";

/// An argument.
pub trait Arg {
    fn bytes(self) -> Vec<u8>;
}

macro_rules! arg {
    ($($type:ty => $bytes:expr),+ $(,)?) => {
        $(impl Arg for $type {
            fn bytes(self) -> Vec<u8> {
                let bytes: fn($type) -> Vec<u8> = $bytes;
                bytes(self)
            }
        })+
    };
}
arg!(
    Vec<u8> => |arg| arg,
    &Vec<u8> => |arg| arg.clone(),
    &str => |arg| arg.as_bytes().to_vec(),
    String => |arg| arg.into_bytes(),
    &String => |arg| arg.clone().into_bytes(),
    u64 => |arg| arg.to_string().into_bytes(),
    i64 => |arg| arg.to_string().into_bytes(),
    i32 => |arg| arg.to_string().into_bytes(),
);

/// `command!["SET", key, 1]`: every argument is an [`Arg`].
macro_rules! command {
    ($($arg:expr),+ $(,)?) => {
        vec![$($crate::differential::generator::Arg::bytes($arg)),+]
    };
}
pub(crate) use command;

/// What a server can do.
#[derive(Clone)]
pub struct Capabilities {
    /// Names of commands and subcommands (`XGROUP|CREATE`) in upper case.
    known: BTreeSet<String>,
    /// Those of them that write.
    writes: BTreeSet<String>,
}

impl Capabilities {
    /// As the server lists them.
    pub fn of(connection: &mut Connection) -> Self {
        let commands: Vec<Value> = redis::cmd("COMMAND").query(connection).unwrap();
        let mut told = Self {
            known: BTreeSet::new(),
            writes: BTreeSet::new(),
        };
        commands.iter().for_each(|command| told.note(command));
        told.note_subcommands();
        told
    }

    fn note(&mut self, command: &Value) {
        let Value::Array(fields) = command else {
            return;
        };
        let name = text(&fields[0]).to_uppercase();
        let Value::Array(flags) = &fields[2] else {
            return;
        };
        let has = |flag: &str| flags.iter().any(|found| text(found) == flag);
        if has("module") {
            return; // Vector sets: nothing but their module can apply them.
        }
        if has("write") {
            self.writes.insert(name.clone());
        }
        self.known.insert(name);
        if let Some(Value::Array(subcommands)) = fields.get(9) {
            subcommands.iter().for_each(|command| self.note(command));
        }
    }

    /// Before 7.0, servers do not list subcommands.
    fn note_subcommands(&mut self) {
        const XGROUP: [&str; 5] = [
            "CREATE",
            "SETID",
            "DESTROY",
            "DELCONSUMER",
            "CREATECONSUMER",
        ];
        if !self.writes.remove("XGROUP") {
            return;
        }
        // The last one came with 6.2, as did XAUTOCLAIM.
        let count = if self.knows("XAUTOCLAIM") { 5 } else { 4 };
        for name in &XGROUP[..count] {
            self.known.insert(format!("XGROUP|{name}"));
            self.writes.insert(format!("XGROUP|{name}"));
        }
    }

    pub fn knows(&self, name: &str) -> bool {
        self.known.contains(name)
    }

    /// The write commands.
    pub fn writes(&self) -> &BTreeSet<String> {
        &self.writes
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    }
}

/// The name by which a command is counted: with its subcommand if it has such.
pub fn name(command: &Command) -> String {
    let upper = |arg: &[u8]| String::from_utf8_lossy(arg).to_uppercase();
    let first = upper(&command[0]);
    match first.as_str() {
        "XGROUP" | "FUNCTION" | "SCRIPT" => format!("{first}|{}", upper(&command[1])),
        _ => first,
    }
}

/// `SORT` by numbers takes an `errno` that an earlier command has left behind for its own, up to Redis 7.0: after a score
/// that is too small for all its digits (`1e-310`) it fails on whoever gets both at once, as replicas do, and not on its master.
/// What is put before it here leaves none behind.
fn sorted_everywhere(command: Command) -> Vec<Command> {
    if name(&command) != "SORT" || command.iter().any(|arg| arg == b"ALPHA") {
        return vec![command];
    }
    vec![command!["ZINCRBY", "before SORT", 1, "m"], command]
}

/// What is sent at once.
#[derive(Clone, Debug)]
pub struct Unit {
    /// The database that it starts in.
    pub database: u64,
    /// What goes before a client waits.
    pub before: Vec<Command>,
    /// The command of a client that waits until another serves it.
    pub waiting: Option<Command>,
    /// The commands.
    pub commands: Vec<Command>,
}

/// Makes them, always the same for a seed (and a server that replies the same).
pub struct Generator {
    pub(super) random: Random,
    capabilities: Capabilities,
    expiries: Expiries,
    /// Grows: ids of streams.
    pub(super) clock: u64,
    /// Ids that were added to the stream of a key, in any database.
    pub(super) ids: BTreeMap<Vec<u8>, Vec<Vec<u8>>>,
    dumps: Vec<Vec<u8>>,
    pub(super) function_dumps: Vec<Vec<u8>>,
    sha: Option<Vec<u8>>,
    /// Long values repeat a few bytes.
    pub(super) compressible: bool,
}

/// What a command is about, and how often that is.
type Family = (u64, fn(&mut Generator) -> Command);
const FAMILIES: [Family; 12] = [
    (12, Generator::string),
    (5, Generator::bits),
    (6, Generator::hyperloglog),
    (14, Generator::list),
    (10, Generator::set),
    (14, Generator::sorted_set),
    (5, Generator::geo),
    (16, Generator::hash),
    (24, Generator::stream),
    (8, Generator::expiry),
    (12, Generator::whole_key),
    (2, Generator::function),
];

impl Generator {
    pub fn new(seed: u64, capabilities: Capabilities, expiries: Expiries) -> Self {
        Self {
            random: Random::new(seed),
            capabilities,
            expiries,
            clock: 100,
            ids: BTreeMap::new(),
            dumps: Vec::new(),
            function_dumps: Vec::new(),
            sha: None,
            compressible: false,
        }
    }

    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The next unit: a command, a transaction, a script, a client that waits.
    pub fn next(&mut self) -> Unit {
        let mut unit = Unit {
            database: self.below(DATABASES),
            before: Vec::new(),
            waiting: None,
            commands: Vec::new(),
        };
        match self.below(20) {
            0 | 1 => {
                unit.commands.push(command!["MULTI"]);
                for _ in 0..1 + self.below(8) {
                    let command = self.command_or_select();
                    unit.commands.push(command);
                }
                let end = if self.one_in(12) { "DISCARD" } else { "EXEC" };
                unit.commands.push(command![end]);
            }
            2 | 3 => unit.commands.push(self.script()),
            4 => self.wait(&mut unit),
            5 if self.one_in(3) => unit.commands.push(self.control()),
            6 if self.one_in(2) => unit.commands = self.conversation(),
            _ => {
                for _ in 0..1 + self.below(5) {
                    let command = self.command();
                    unit.commands.push(command);
                }
            }
        }
        let commands = unit.commands.into_iter();
        unit.commands = commands.flat_map(sorted_everywhere).collect();
        unit
    }

    /// Takes in what the server said, as far as later commands need it.
    pub fn hear(&mut self, command: &Command, reply: &Value) {
        let Value::BulkString(bytes) = reply else {
            return;
        };
        let known = match name(command).as_str() {
            "DUMP" => &mut self.dumps,
            "FUNCTION|DUMP" => &mut self.function_dumps,
            "XADD" => self.ids.entry(command[1].clone()).or_default(),
            "SCRIPT|LOAD" => {
                self.sha = Some(bytes.clone());
                return;
            }
            _ => return,
        };
        known.push(bytes.clone());
        if known.len() > REMEMBERED {
            known.remove(0);
        }
    }

    /// A command that this server knows.
    fn command(&mut self) -> Command {
        loop {
            let all = FAMILIES.iter().map(|(weight, _)| weight).sum();
            let mut at = self.below(all);
            let family = FAMILIES.iter().find(|(weight, _)| {
                let found = at < *weight;
                at = at.saturating_sub(*weight);
                found
            });
            let mut command = family.unwrap().1(self);
            if self.knows(&name(&command)) {
                if self.one_in(10) {
                    command[0].make_ascii_lowercase();
                }
                return command;
            }
        }
    }

    fn command_or_select(&mut self) -> Command {
        match self.below(12) {
            0 => command!["SELECT", self.below(DATABASES)],
            1 if self.one_in(10) => self.control(),
            _ => self.command(),
        }
    }

    /// What concerns whole databases, or none.
    fn control(&mut self) -> Command {
        match self.below(60) {
            0 | 3 => command!["FLUSHALL"],
            1 => command!["FLUSHDB"],
            2 => command!["FLUSHDB", "ASYNC"],
            4..=7 if self.knows("SPUBLISH") => command!["SPUBLISH", "channel", self.value()],
            4..=15 => command!["PUBLISH", "channel", self.value()],
            16..=20 => command!["SCRIPT", "LOAD", SCRIPT],
            _ => command!["SWAPDB", self.below(DATABASES), self.below(DATABASES)],
        }
    }

    fn script(&mut self) -> Command {
        let mut script = match (self.below(4), self.sha.clone()) {
            (0, _) if self.knows("FCALL") => command!["FCALL", self.function_name(), 0],
            (1, Some(sha)) => command!["EVALSHA", sha, 0],
            (2, None) => return command!["SCRIPT", "LOAD", SCRIPT],
            _ => command!["EVAL", SCRIPT, 0],
        };
        for _ in 0..1 + self.below(6) {
            let command = self.command_or_select();
            // It is sent on with one more argument, for which 6.2 shrinks the memory that scripts go on using: a bug.
            if !self.knows("FCALL") && name(&command) == "INCRBYFLOAT" {
                continue;
            }
            for command in sorted_everywhere(command) {
                script.extend(command![command.len() as u64]);
                script.extend(command);
            }
        }
        script
    }

    /// The text of a library of one function, which runs commands as [`SCRIPT`] does.
    pub(super) fn library(&mut self) -> String {
        let body = SCRIPT.replace("ARGV", "args");
        let (number, version) = (self.below(5), self.below(9));
        format!(
            "#!lua name=lib{number}\n-- version {version}\n\
             redis.register_function('run{number}', function(keys, args) {body} end)"
        )
    }

    pub(super) fn function_name(&mut self) -> String {
        format!("run{}", self.below(5))
    }

    /// A client that waits for an element, and what brings it.
    fn wait(&mut self, unit: &mut Unit) {
        let (list, zset, stream) = (self.key("l"), self.key("z"), self.key("x"));
        let to = self.key("l");
        let (waiting, key): (Command, _) = match self.below(10) {
            0 => (command!["BLPOP", &self.key("l"), &list, 0], list),
            1 => (command!["BRPOP", &list, 0], list),
            2 => (command!["BRPOPLPUSH", &list, to, 0], list),
            3 => (
                command!["BLMOVE", &list, to, self.side(), self.side(), 0],
                list,
            ),
            4 => {
                let count = 1 + self.below(3);
                (
                    command!["BLMPOP", 0, 1, &list, self.side(), "COUNT", count],
                    list,
                )
            }
            5 => (command!["BZPOPMIN", &zset, 0], zset),
            6 => (command!["BZPOPMAX", &zset, 0], zset),
            7 => (
                command!["BZMPOP", 0, 1, &zset, self.end(), "COUNT", 2],
                zset,
            ),
            _ => {
                let create = command!["XGROUP", "CREATE", &stream, "g0", "$", "MKSTREAM"];
                unit.before = vec![command!["DEL", &stream], create];
                let consumer = self.consumer();
                let mut read = command!["XREADGROUP", "GROUP", "g0", consumer, "BLOCK", 0];
                if self.one_in(4) {
                    read.extend(command!["NOACK"]);
                }
                read.extend(command!["STREAMS", &stream, ">"]);
                (read, stream)
            }
        };
        if !self.knows(&name(&waiting)) {
            unit.commands.push(self.command());
            return;
        }
        if unit.before.is_empty() {
            unit.before.push(command!["DEL", &key]);
        }
        let (a, b) = (self.element(), self.element());
        let push = match waiting[0][1] {
            b'Z' => command!["ZADD", key, 1, a, 2, b],
            b'R' if waiting[0][0] == b'X' => command!["XADD", key, "*", a, b],
            _ => command!["RPUSH", key, a, b],
        };
        unit.commands = if self.one_in(3) {
            vec![command!["MULTI"], push.clone(), push, command!["EXEC"]]
        } else {
            vec![push]
        };
        unit.waiting = Some(waiting);
    }

    // --- What commands are made of ----------------------------------------------------------------------------------

    pub(super) fn knows(&self, name: &str) -> bool {
        self.capabilities.knows(name)
    }

    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.random.below(limit)
    }

    pub(super) fn one_in(&mut self, n: u64) -> bool {
        self.random.one_in(n)
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        self.random.pick(from)
    }

    pub(super) fn side(&mut self) -> &'static str {
        self.pick(&["LEFT", "RIGHT", "left", "right"])
    }

    pub(super) fn end(&mut self) -> &'static str {
        self.pick(&["MIN", "MAX"])
    }

    /// A key that holds this kind of value, mostly.
    pub(super) fn key(&mut self, kind: &str) -> Vec<u8> {
        if self.one_in(25) {
            return self.any_key();
        }
        let number = self.below(KEYS);
        match number {
            0 if self.one_in(8) => Vec::new(),
            5 => [kind.as_bytes(), b":\x00\xff\r\n $"].concat(),
            6 => format!("{kind}:{}", "long ".repeat(60)).into_bytes(),
            _ => format!("{kind}:{number}").into_bytes(),
        }
    }

    pub(super) fn any_key(&mut self) -> Vec<u8> {
        const KINDS: [&str; 10] = ["s", "n", "b", "p", "l", "t", "z", "g", "h", "x"];
        let number = self.below(KEYS - 2);
        format!("{}:{number}", self.pick(&KINDS)).into_bytes()
    }

    /// What can be stored: empty, numbers at the limits, around the lengths where encodings change, large.
    pub(super) fn value(&mut self) -> Vec<u8> {
        const LENGTHS: [u64; 12] = [1, 20, 44, 45, 63, 64, 65, 127, 128, 4095, 4096, 16_384];
        match self.below(40) {
            0 => Vec::new(),
            1..=9 => self.number().into_bytes(),
            10..=12 => b"abc".repeat(usize::try_from(1 + self.below(300)).unwrap()),
            13..=15 => {
                let length = self.pick(&LENGTHS);
                self.bytes(length)
            }
            16 if self.one_in(4) => self.bytes(65_536),
            _ => {
                let length = 1 + self.below(30);
                self.bytes(length)
            }
        }
    }

    fn bytes(&mut self, length: u64) -> Vec<u8> {
        if !self.compressible {
            return self.random.bytes(length);
        }
        let few = self.random.bytes(3);
        let few = few.into_iter().cycle();
        few.take(usize::try_from(length).unwrap()).collect()
    }

    /// An integer as text, or what only looks like one.
    pub(super) fn number(&mut self) -> String {
        const EDGES: [&str; 20] = [
            "0",
            "-1",
            "12",
            "13",
            "127",
            "128",
            "-128",
            "-129",
            "4095",
            "-4096",
            "32768",
            "-32769",
            "8388608",
            "2147483648",
            "-2147483649",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "-0",
            "007",
        ];
        match self.below(3) {
            0 => self.pick(&EDGES).to_owned(),
            1 => self.small().to_string(),
            _ => (self.random.next() as i64).to_string(),
        }
    }

    /// An integer of a few digits.
    pub(super) fn small(&mut self) -> i64 {
        self.below(60) as i64 - 20
    }

    /// A member, a field, an element of a list: from a small pool mostly.
    pub(super) fn element(&mut self) -> Vec<u8> {
        match self.below(16) {
            0 => self.value(),
            1..=5 => self.below(80).to_string().into_bytes(),
            _ => self.member().into_bytes(),
        }
    }

    /// Some are more frequent than others, so that commands find them.
    pub(super) fn member(&mut self) -> String {
        let limit = 1 + self.below(40);
        format!("m{}", self.below(limit))
    }

    /// How many elements a command gets: one mostly, sometimes more than any compact encoding holds.
    pub(super) fn many(&mut self) -> u64 {
        match self.below(80) {
            0 => self.pick(&[120, 128, 129, 512, 513, 700]),
            1..=12 => 2 + self.below(6),
            _ => 1,
        }
    }

    /// So many elements; all new ones if there are many.
    pub(super) fn elements(&mut self) -> Vec<Vec<u8>> {
        let count = self.many();
        let integers = self.one_in(2);
        let element = |number: u64| match (count, integers) {
            (0..=20, _) => self.element(),
            (_, true) => (number * 3).to_string().into_bytes(),
            (_, false) => format!("bulk element {number}").into_bytes(),
        };
        (0..count).map(element).collect()
    }

    pub(super) fn score(&mut self) -> String {
        const EDGES: [&str; 16] = [
            "inf",
            "-inf",
            "+inf",
            "0.1",
            "-0",
            "1e300",
            "-1e300",
            "3.0e-5",
            "9007199254740993",
            "0.3333333333333333",
            "1e-310",
            "0x1p3",
            "5.",
            ".5",
            "1E2",
            "nan",
        ];
        match self.below(8) {
            0 => self.pick(&EDGES).to_owned(),
            1 => (self.small() as f64 / 3.0).to_string(),
            2 | 3 => (self.small() as f64 / 8.0).to_string(),
            _ => self.small().to_string(),
        }
    }

    /// An index into a list or a range.
    pub(super) fn index(&mut self) -> i64 {
        match self.below(8) {
            0 => self.pick(&[0, -1, 1, 1000, -1000, 127, 128]),
            _ => self.below(24) as i64 - 8,
        }
    }

    pub(super) fn fields_and_values(&mut self) -> Command {
        let fields = self.elements();
        let pairs = fields.into_iter().flat_map(|field| [field, self.value()]);
        // Many large values would be too much of them.
        let mut pairs: Command = pairs.collect();
        if pairs.len() > 40 {
            pairs.iter_mut().for_each(|value| value.truncate(64));
        }
        pairs
    }

    pub(super) fn dump(&mut self) -> Option<Vec<u8>> {
        let dumps = self.dumps.len() as u64;
        (dumps > 0).then(|| {
            let at = usize::try_from(self.below(dumps)).unwrap();
            self.dumps[at].clone()
        })
    }

    // --- Expiries ---------------------------------------------------------------------------------------------------

    /// Milliseconds from now: long after the test mostly.
    pub(super) fn ttl_ms(&mut self) -> i64 {
        let ms = match (self.expiries, self.below(12)) {
            (Expiries::Mixed, 0..=1) => 20 + self.below(300),
            (Expiries::Mixed, 2) => return self.pick(&[0, -1, -1000]),
            _ => 900_000 + self.below(6_000_000),
        };
        i64::try_from(ms).unwrap()
    }

    /// `EX 10`, `PXAT 1700000000000` …
    pub(super) fn expiry_option(&mut self) -> Command {
        let ms = self.ttl_ms();
        self.expiry_option_of(ms)
    }

    pub(super) fn expiry_option_of(&mut self, ms: i64) -> Command {
        let (option, number) = match self.below(4) {
            0 => ("EX", (ms + 999) / 1000),
            1 => ("px", ms),
            2 => ("EXAT", (unix_ms() + ms) / 1000),
            _ => ("PXAT", unix_ms() + ms),
        };
        command![option, number]
    }

    /// Are there any?
    pub(super) fn has_expiries(&self) -> bool {
        self.expiries != Expiries::None
    }
}
