//! Commands on strings, bits, HyperLogLogs, and on keys of any kind.

use super::generator::{Command, DATABASES, Generator, command};
use crate::support::state::unix_ms;

impl Generator {
    pub(super) fn string(&mut self) -> Command {
        let (key, value) = (self.key("s"), self.value());
        let number = self.key("n");
        match self.below(26) {
            0..=5 => self.set_command(),
            6 => command!["SETNX", key, value],
            7 => command!["GETSET", key, value],
            8 => command!["APPEND", key, value],
            9 => {
                let at = self.pick(&[0, 1, 5, 60, 1000]);
                command!["SETRANGE", key, at, value]
            }
            10 => command!["INCR", number],
            11 => command!["DECR", number],
            12 => command!["INCRBY", number, self.number()],
            13 => command!["DECRBY", number, self.number()],
            14 => {
                let by = self.pick(&[
                    "0.1",
                    "-1.5e3",
                    "3",
                    "1e-7",
                    "5.0e10",
                    "0.30000000000000004",
                ]);
                command!["INCRBYFLOAT", number, by]
            }
            15 => command!["SET", number, self.below(5)],
            16..=17 => {
                let name = self.pick(&["MSET", "MSETNX"]);
                let mut command = command![name];
                for _ in 0..1 + self.below(4) {
                    command.extend(command![self.key("s"), self.value()]);
                }
                command
            }
            18 => command!["GETDEL", key],
            19 if self.has_expiries() => {
                let mut command = command!["GETEX", key];
                match self.below(4) {
                    0 => command.extend(command!["PERSIST"]),
                    _ => command.extend(self.expiry_option()),
                }
                command
            }
            20 if self.has_expiries() => {
                let seconds = (self.ttl_ms() + 999) / 1000;
                command!["SETEX", key, seconds, value]
            }
            21 if self.has_expiries() => command!["PSETEX", key, self.ttl_ms(), value],
            22 => self.msetex(),
            23 => command!["DELIFEQ", number, self.below(5)],
            24 => {
                let condition = self.pick(&["IFEQ", "IFNE"]);
                command!["DELEX", number, condition, self.below(5)]
            }
            _ => command!["DELEX", key],
        }
    }

    fn set_command(&mut self) -> Command {
        let mut command = command!["SET", self.key("s"), self.value()];
        match self.below(8) {
            0 => command.extend(command!["NX"]),
            1 => command.extend(command!["xx"]),
            2 => command.extend(command!["XX", "GET"]),
            3 => {
                let condition = self.pick(&["IFEQ", "IFNE"]);
                command.extend(command![condition, self.small()]);
            }
            _ => {}
        }
        match self.below(6) {
            0 if self.has_expiries() => command.extend(self.expiry_option()),
            1 => command.extend(command!["KEEPTTL"]),
            _ => {}
        }
        command
    }

    fn msetex(&mut self) -> Command {
        let count = 1 + self.below(3);
        let mut command = command!["MSETEX", count];
        for _ in 0..count {
            command.extend(command![self.key("s"), self.value()]);
        }
        match self.below(5) {
            0 => command.extend(command!["NX"]),
            1 => command.extend(command!["XX"]),
            _ => {}
        }
        match self.below(4) {
            0 => command.extend(command!["KEEPTTL"]),
            _ if self.has_expiries() => command.extend(self.expiry_option()),
            _ => {}
        }
        command
    }

    pub(super) fn bits(&mut self) -> Command {
        let key = self.key("b");
        match self.below(8) {
            0 | 1 => {
                let at = match self.below(10) {
                    0 => self.below(200_000),
                    _ => self.below(300),
                };
                command!["SETBIT", key, at, self.below(2)]
            }
            2 => {
                let operation = self.pick(&["NOT", "AND", "OR", "xor"]);
                let mut command = command!["BITOP", operation, key, self.bit_source()];
                if operation != "NOT" {
                    command.extend(command![self.bit_source(), self.bit_source()]);
                }
                command
            }
            3 => {
                let operation = self.pick(&["DIFF", "DIFF1", "ANDOR", "ONE"]);
                let sources = [self.bit_source(), self.bit_source(), self.bit_source()];
                [command!["BITOP", operation, key], sources.to_vec()].concat()
            }
            4 => command!["SETRANGE", key, self.below(40), self.value()],
            _ => self.bit_field(key),
        }
    }

    fn bit_source(&mut self) -> Vec<u8> {
        match self.below(4) {
            0 => self.key("s"),
            _ => self.key("b"),
        }
    }

    fn bit_field(&mut self, key: Vec<u8>) -> Command {
        const TYPES: [&str; 12] = [
            "u1", "u5", "u8", "i8", "u16", "i32", "i63", "u63", "i64", "i1", "u32", "i7",
        ];
        let mut command = command!["BITFIELD", key];
        if !self.one_in(4) {
            // Redis 8.6 makes or lengthens a string without telling its replicas if no bit changes: one does.
            command.extend(command!["INCRBY", "u8", self.below(70), 1]);
        }
        let only_reads = command.len() == 2;
        for _ in 0..1 + self.below(4) {
            if self.one_in(2) {
                let overflow = self.pick(&["WRAP", "SAT", "FAIL", "sat"]);
                command.extend(command!["OVERFLOW", overflow]);
            }
            let hash = if self.one_in(3) { "#" } else { "" };
            let at = format!("{hash}{}", self.below(70));
            let kind = self.pick(&TYPES);
            match self.below(5) {
                _ if only_reads => command.extend(command!["GET", kind, at]),
                0 => command.extend(command!["GET", kind, at]),
                1 | 2 => command.extend(command!["SET", kind, at, self.number()]),
                _ => command.extend(command!["INCRBY", kind, at, self.number()]),
            }
        }
        command
    }

    pub(super) fn hyperloglog(&mut self) -> Command {
        let key = self.key("p");
        match self.below(12) {
            0..=4 => {
                let count = self.pick(&[0, 1, 1, 2, 3, 10, 100, 1500]);
                let start = self.below(100_000);
                let items = (start..start + count).map(|n| n.to_string().into_bytes());
                command!["PFADD", key].into_iter().chain(items).collect()
            }
            5 => command!["PFADD", key, self.value()],
            6 | 7 => {
                let mut command = command!["PFMERGE", key];
                for _ in 0..self.below(4) {
                    command.extend(command![self.key("p")]);
                }
                command
            }
            8 => command!["PFCOUNT", key],
            9 => command!["PFCOUNT", key, self.key("p")],
            10 if self.one_in(6) => command!["PFDEBUG", "TODENSE", key],
            10 if self.one_in(6) => command!["PFDEBUG", "GETREG", key],
            _ => command!["DEL", key],
        }
    }

    pub(super) fn expiry(&mut self) -> Command {
        let key = if self.one_in(4) {
            self.key("s")
        } else {
            self.any_key()
        };
        if !self.has_expiries() || self.one_in(6) {
            return command!["PERSIST", key];
        }
        let ms = self.ttl_ms();
        let mut command = match self.below(4) {
            0 => command!["EXPIRE", key, ms.div_euclid(1000)],
            1 => command!["PEXPIRE", key, ms],
            2 => command!["EXPIREAT", key, (unix_ms() + ms) / 1000],
            _ => command!["PEXPIREAT", key, unix_ms() + ms],
        };
        if self.one_in(2) {
            let condition = self.pick(&["NX", "XX", "GT", "lt"]);
            command.extend(command![condition]);
        }
        command
    }

    pub(super) fn whole_key(&mut self) -> Command {
        let (from, to) = (self.any_key(), self.any_key());
        let database = self.below(DATABASES);
        match self.below(20) {
            0 => command!["DEL", from],
            1 => command!["UNLINK", from, to, self.any_key()],
            2 | 3 => command!["RENAME", from, to],
            4 => command!["RENAMENX", from, to],
            5 | 6 => command!["MOVE", from, database],
            7..=10 => {
                let mut command = command!["COPY", from, to];
                if self.one_in(2) {
                    command.extend(command!["DB", database]);
                }
                if self.one_in(2) {
                    command.extend(command!["replace"]);
                }
                command
            }
            11..=13 => command!["DUMP", from],
            14..=16 => self.restore(to),
            _ => self.sort(),
        }
    }

    fn restore(&mut self, key: Vec<u8>) -> Command {
        let Some(payload) = self.dump() else {
            return command!["DUMP", key];
        };
        let name = if self.one_in(6) {
            "RESTORE-ASKING"
        } else {
            "RESTORE"
        };
        let (ttl, absolute) = match self.below(4) {
            0 if self.has_expiries() => (self.ttl_ms().max(1), false),
            1 if self.has_expiries() => (unix_ms() + self.ttl_ms(), true),
            _ => (0, false),
        };
        let mut command = command![name, key, ttl, payload];
        if !self.one_in(4) {
            command.extend(command!["REPLACE"]);
        }
        if absolute {
            command.extend(command!["ABSTTL"]);
        }
        match self.below(8) {
            0 => command.extend(command!["IDLETIME", self.below(1000)]),
            1 => command.extend(command!["FREQ", self.below(200)]),
            _ => {}
        }
        command
    }

    fn sort(&mut self) -> Command {
        let kind = self.pick(&["l", "t", "z"]);
        let mut command = command!["SORT", self.key(kind)];
        // By alphabet, elements of the same weight come in the order of the server's hash table: no replica has it.
        let alphabet = match self.below(6) {
            0 => {
                command.extend(command!["BY", "nosort"]);
                true
            }
            1 | 2 => {
                let by = self.pick(&["n:*", "h:*->n1"]);
                command.extend(command!["BY", by]);
                false
            }
            _ => !self.one_in(3),
        };
        if self.one_in(3) {
            command.extend(command!["LIMIT", self.index(), self.index()]);
        }
        for _ in 0..self.below(3) {
            let get = self.pick(&["#", "s:*", "h:*->m2", "*", "x:*"]);
            command.extend(command!["GET", get]);
        }
        if self.one_in(2) {
            command.extend(command!["DESC"]);
        }
        if alphabet {
            command.extend(command!["ALPHA"]);
        }
        command.extend(command!["STORE", self.key("l")]);
        command
    }

    pub(super) fn function(&mut self) -> Command {
        match self.below(9) {
            0..=3 => {
                let library = self.library();
                match self.below(3) {
                    0 => command!["FUNCTION", "LOAD", library],
                    _ => command!["FUNCTION", "LOAD", "REPLACE", library],
                }
            }
            4 | 5 => command!["FUNCTION", "DELETE", format!("lib{}", self.below(5))],
            6 => command!["FUNCTION", "DUMP"],
            7 => {
                let Some(payload) = self.function_dumps.last().cloned() else {
                    return command!["FUNCTION", "DUMP"];
                };
                let mut command = command!["FUNCTION", "RESTORE", payload];
                match self.below(4) {
                    0 => {}
                    1 => command.extend(command!["APPEND"]),
                    2 => command.extend(command!["FLUSH"]),
                    _ => command.extend(command!["REPLACE"]),
                }
                command
            }
            _ => command!["FUNCTION", "FLUSH"],
        }
    }
}
