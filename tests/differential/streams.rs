//! Commands on streams and their consumer groups.

use super::generator::{Command, Generator, command};
use crate::support::state::unix_ms;

impl Generator {
    pub(super) fn stream(&mut self) -> Command {
        let key = self.key("x");
        let group = self.group();
        match self.below(30) {
            0..=7 => self.xadd(key),
            8 => [command!["XTRIM", key], self.trimming()].concat(),
            9 => command!["XDEL", &key, self.id_of(&key), self.id_of(&key)],
            10 => self.xsetid(key),
            11..=13 => self.xgroup(key),
            14..=17 => self.xreadgroup(key),
            18 => command![
                "XACK",
                &key,
                group,
                self.id_of(&key),
                self.id_of(&key),
                self.id_of(&key)
            ],
            19..=21 => self.xclaim(key, group),
            22 | 23 => {
                let idle = self.pick(&[0, 0, 0, 10_000]);
                let start = if self.one_in(2) {
                    "0".to_owned()
                } else {
                    self.id()
                };
                let consumer = self.consumer();
                let mut command = command!["XAUTOCLAIM", key, group, consumer, idle, start];
                if self.one_in(2) {
                    command.extend(command!["COUNT", 1 + self.below(5)]);
                }
                if self.one_in(4) {
                    command.extend(command!["JUSTID"]);
                }
                command
            }
            24 => {
                let ids = command!["IDS", 2, self.id_of(&key), self.id_of(&key)];
                [command!["XDELEX", key], self.references(), ids].concat()
            }
            25 => {
                let ids = command!["IDS", 2, self.id_of(&key), self.id_of(&key)];
                [command!["XACKDEL", key, group], self.references(), ids].concat()
            }
            26 => {
                let (duration, size) = (1 + self.below(1000), 1 + self.below(100));
                command![
                    "XCFGSET",
                    key,
                    "IDMP-DURATION",
                    duration,
                    "IDMP-MAXSIZE",
                    size
                ]
            }
            27 => {
                let name = format!("i{}", self.below(9));
                command!["XIDMPRECORD", &key, self.producer(), name, self.id_of(&key)]
            }
            28 => command!["DEL", key],
            _ => self.xadd(key),
        }
    }

    fn group(&mut self) -> String {
        format!("g{}", self.below(3))
    }

    pub(super) fn consumer(&mut self) -> String {
        format!("consumer {}", self.below(3))
    }

    fn producer(&mut self) -> String {
        format!("p{}", self.below(3))
    }

    /// One that may be in this stream.
    fn id_of(&mut self, key: &[u8]) -> String {
        match self.ids.get(key).map_or(0, Vec::len) as u64 {
            known if known > 0 && !self.one_in(5) => {
                let at = usize::try_from(self.below(known)).unwrap();
                String::from_utf8(self.ids[key][at].clone()).unwrap()
            }
            _ => self.id(),
        }
    }

    /// One that may be in some stream.
    fn id(&mut self) -> String {
        let back = self.below(30);
        format!("{}-{}", self.clock.saturating_sub(back), self.below(3))
    }

    /// A group with its consumers, on a stream of more than one node maybe.
    pub(super) fn conversation(&mut self) -> Vec<Command> {
        let (key, group) = (self.key("x"), self.group());
        let mut all = vec![command!["XGROUP", "CREATE", &key, &group, "$", "MKSTREAM"]];
        for _ in 0..self.pick(&[2, 5, 20, 120]) {
            let mut add = self.xadd(key.clone());
            if self.one_in(3) {
                add = command!["XADD", &key, "*", "same", self.small(), "fields", "x"];
            }
            all.push(add);
        }
        for _ in 0..self.pick(&[3, 10, 20]) {
            let consumer = self.consumer();
            all.push(match self.below(8) {
                0..=2 => {
                    let count = 1 + self.below(20);
                    let start = command!["XREADGROUP", "GROUP", &group, consumer];
                    [start, command!["COUNT", count, "STREAMS", &key, ">"]].concat()
                }
                3 => command!["XACK", &key, &group, self.id_of(&key), self.id_of(&key)],
                4 => self.xclaim(key.clone(), group.clone()),
                5 => command!["XDEL", &key, self.id_of(&key)],
                6 => command!["XGROUP", "CREATECONSUMER", &key, &group, "consumer 9"],
                _ => self.stream(),
            });
        }
        if self.one_in(2) {
            let consumer = self.consumer();
            all.push(command!["XGROUP", "DELCONSUMER", &key, &group, consumer]);
        }
        all.retain(|command| self.knows(&super::generator::name(command)));
        all
    }

    fn xadd(&mut self, key: Vec<u8>) -> Command {
        let mut command = command!["XADD", &key];
        if self.one_in(8) {
            command.extend(command!["NOMKSTREAM"]);
        }
        if self.one_in(6) {
            command.extend(self.references());
        }
        if self.one_in(5) {
            command.extend(self.trimming());
        }
        // Ids of the server are from now, and no other fits behind them: in few streams.
        let by_server = key.ends_with(b"0") || key.ends_with(b"1");
        match self.below(10) {
            0 if by_server => {
                let name = format!("i{}", self.below(9));
                command.extend(command!["IDMP", self.producer(), name]);
            }
            1 if by_server => command.extend(command!["IDMPAUTO", self.producer()]),
            _ => {}
        }
        self.clock += self.random.below(2);
        let id = match self.below(8) {
            _ if by_server => "*".to_owned(),
            0 => format!("{}-*", self.clock),
            1 => self.clock.to_string(),
            _ => {
                let serial = self.below(3);
                format!("{}-{serial}", self.clock)
            }
        };
        command.extend(command![id]);
        if self.one_in(3) {
            // The same fields as other entries have: those are stored once.
            command.extend(command!["same", self.value(), "fields", self.number()]);
            return command;
        }
        for _ in 0..1 + self.below(3) {
            command.extend(command![self.element(), self.value()]);
        }
        command
    }

    /// What becomes of references to deleted entries.
    fn references(&mut self) -> Command {
        match self.below(4) {
            0 => command!["KEEPREF"],
            1 => command!["DELREF"],
            2 => command!["ACKED"],
            _ => Command::new(),
        }
    }

    fn trimming(&mut self) -> Command {
        let how = self.pick(&["", "=", "~"]);
        let mut command = if self.one_in(2) {
            let length = self.pick(&[0, 3, 10, 50, 120]);
            command!["MAXLEN", how, length]
        } else {
            command!["MINID", how, self.id()]
        };
        command.retain(|arg| !arg.is_empty());
        if how == "~" && self.one_in(3) {
            command.extend(command!["LIMIT", self.below(200)]);
        }
        command
    }

    fn xsetid(&mut self, key: Vec<u8>) -> Command {
        self.clock += 1;
        let mut command = command!["XSETID", key, format!("{}-5", self.clock)];
        if self.one_in(2) {
            let deleted = self.id();
            command.extend(command!["ENTRIESADDED", 5000 + self.below(100)]);
            command.extend(command!["MAXDELETEDID", deleted]);
        }
        command
    }

    fn xgroup(&mut self, key: Vec<u8>) -> Command {
        let (group, consumer) = (self.group(), self.consumer());
        let id = match self.below(3) {
            0 => "0".to_owned(),
            1 => "$".to_owned(),
            _ => self.id(),
        };
        let read = match self.below(4) {
            0 => command!["ENTRIESREAD", self.below(50) as i64 - 1],
            _ => Command::new(),
        };
        match self.below(9) {
            0..=3 => {
                let mut command = command!["XGROUP", "CREATE", key, group, id];
                if self.one_in(2) {
                    command.extend(command!["MKSTREAM"]);
                }
                [command, read].concat()
            }
            4 | 5 => [command!["XGROUP", "SETID", key, group, id], read].concat(),
            6 => command!["XGROUP", "CREATECONSUMER", key, group, consumer],
            7 => command!["XGROUP", "DELCONSUMER", key, group, consumer],
            _ => command!["XGROUP", "DESTROY", key, group],
        }
    }

    fn xreadgroup(&mut self, key: Vec<u8>) -> Command {
        let mut command = command!["XREADGROUP", "GROUP", self.group(), self.consumer()];
        if !self.one_in(4) {
            command.extend(command!["COUNT", 1 + self.below(6)]);
        }
        if self.one_in(6) {
            command.extend(command!["CLAIM", 0]);
        }
        if self.one_in(6) {
            command.extend(command!["NOACK"]);
        }
        let from = if self.one_in(8) { "0" } else { ">" };
        match self.below(5) {
            0 => command.extend(command!["STREAMS", key, self.key("x"), from, ">"]),
            _ => command.extend(command!["STREAMS", key, from]),
        }
        command
    }

    fn xclaim(&mut self, key: Vec<u8>, group: String) -> Command {
        let consumer = self.consumer();
        let mut command = command!["XCLAIM", &key, group, consumer, 0];
        for _ in 0..1 + self.below(6) {
            command.extend(command![self.id_of(&key)]);
        }
        match self.below(6) {
            0 => command.extend(command!["IDLE", self.below(1000)]),
            1 => command.extend(command!["TIME", unix_ms() - 1000]),
            _ => {}
        }
        if self.one_in(5) {
            command.extend(command!["RETRYCOUNT", self.below(9)]);
        }
        if self.one_in(2) {
            command.extend(command!["FORCE"]);
        }
        if self.one_in(4) {
            command.extend(command!["JUSTID"]);
        }
        if self.one_in(8) {
            command.extend(command!["LASTID", self.id()]);
        }
        command
    }
}
