//! Commands on lists, sets, sorted sets (geographic ones too) and hashes.

use super::generator::{Command, Generator, SHORTLY, command};
use crate::support::state::unix_ms;

/// What expires in so many milliseconds does so after the test.
const LONG: i64 = 600_000;

impl Generator {
    pub(super) fn list(&mut self) -> Command {
        let key = self.key("l");
        match self.below(22) {
            0..=4 => {
                let name = self.pick(&["RPUSH", "LPUSH", "RPUSHX", "LPUSHX"]);
                [command![name, key], self.elements()].concat()
            }
            5 => command!["RPUSH", key, self.value(), self.value(), self.value()],
            6 => {
                let place = self.pick(&["BEFORE", "after"]);
                command!["LINSERT", key, place, self.element(), self.element()]
            }
            7 => command!["LSET", key, self.index(), self.element()],
            8 => command!["LREM", key, self.below(5) as i64 - 2, self.member()],
            9 => {
                let last = self.pick(&[-1, 20, 150, -3]);
                command!["LTRIM", key, self.below(3), last]
            }
            10 => command!["LTRIM", key, self.index(), self.index()],
            11 => command!["LPOP", key],
            12 => command!["RPOP", key],
            13 => {
                let name = self.pick(&["LPOP", "RPOP"]);
                let count = self.pick(&[0, 1, 3, 50, 1000]);
                command![name, key, count]
            }
            14 => command!["RPOPLPUSH", key, self.key("l")],
            15 => command!["RPOPLPUSH", &key, &key],
            16 => command!["LMOVE", key, self.key("l"), self.side(), self.side()],
            17 => command!["LMOVE", &key, &key, self.side(), self.side()],
            18 => {
                let count = 1 + self.below(4);
                command!["LMPOP", 2, key, self.key("l"), self.side(), "COUNT", count]
            }
            // Those that may wait: an old server looks at the clock but ten times a second.
            19..=21 if !self.one_in(4) => command!["LREM", key, 1, self.member()],
            19 => match self.below(3) {
                0 => command!["BLPOP", key, self.key("l"), SHORTLY],
                1 => command!["BRPOP", key, SHORTLY],
                _ => command!["BRPOPLPUSH", key, self.key("l"), SHORTLY],
            },
            20 => command![
                "BLMOVE",
                key,
                self.key("l"),
                self.side(),
                self.side(),
                SHORTLY
            ],
            _ => command!["BLMPOP", SHORTLY, 1, key, self.side()],
        }
    }

    pub(super) fn set(&mut self) -> Command {
        let key = self.key("t");
        match self.below(14) {
            0..=4 => [command!["SADD", key], self.elements()].concat(),
            5 => [command!["SREM", key], self.elements()].concat(),
            6 => command!["SREM", key, self.element(), self.element(), self.element()],
            7 => command!["SPOP", key],
            8 => {
                let count = self.pick(&[0, 1, 3, 10, 200, 2000]);
                command!["SPOP", key, count]
            }
            9 | 10 => command!["SMOVE", key, self.key("t"), self.element()],
            _ => {
                let name = self.pick(&["SUNIONSTORE", "SINTERSTORE", "SDIFFSTORE"]);
                let mut command = command![name, key];
                for _ in 0..1 + self.below(3) {
                    command.extend(command![self.key("t")]);
                }
                command
            }
        }
    }

    pub(super) fn sorted_set(&mut self) -> Command {
        let key = self.key("z");
        match self.below(24) {
            0..=5 => self.zadd(key),
            6 | 7 => command!["ZINCRBY", key, self.score(), self.element()],
            8 => [command!["ZREM", key], self.elements()].concat(),
            9 => command!["ZREM", key, self.element(), self.element()],
            10 => match self.below(3) {
                0 => command!["ZREMRANGEBYRANK", key, self.index(), self.index()],
                2 => command!["ZREMRANGEBYSCORE", key, self.bound(), self.bound()],
                _ => command!["ZREMRANGEBYLEX", self.level(), self.lex(), self.lex()],
            },
            11 => command!["ZREMRANGEBYRANK", key, 3, 5],
            12 => {
                let name = self.pick(&["ZPOPMIN", "ZPOPMAX"]);
                command![name, key]
            }
            13 => {
                let name = self.pick(&["ZPOPMIN", "ZPOPMAX"]);
                command![name, key, self.below(5)]
            }
            14 => command!["ZMPOP", 2, key, self.key("z"), self.end(), "COUNT", 2],
            15 if !self.one_in(4) => command!["ZINCRBY", key, 1, self.member()],
            15 => match self.below(3) {
                0 => command!["BZPOPMIN", key, SHORTLY],
                1 => command!["BZPOPMAX", key, SHORTLY],
                _ => command!["BZMPOP", SHORTLY, 1, key, self.end()],
            },
            16..=19 => self.zstore(key),
            20 => command!["ZDIFFSTORE", key, 2, self.key("z"), self.key("z")],
            21 => {
                let mut command = command!["ZADD", self.level()];
                for element in self.elements() {
                    command.extend(command![0, element]);
                }
                command
            }
            _ => self.zrangestore(key),
        }
    }

    fn zadd(&mut self, key: Vec<u8>) -> Command {
        let mut command = command!["ZADD", key];
        for _ in 0..self.below(3) {
            let option = self.pick(&["NX", "XX", "GT", "lt", "CH"]);
            command.extend(command![option]);
        }
        if self.one_in(8) {
            command.extend(command!["INCR", self.score(), self.element()]);
            return command;
        }
        for element in self.elements() {
            command.extend(command![self.score(), element]);
        }
        if command.len() > 40 {
            // One score that is none would refuse them all.
            let scores = command.iter_mut().filter(|arg| **arg == b"nan");
            scores.for_each(|score| *score = b"7".to_vec());
        }
        command
    }

    fn zstore(&mut self, key: Vec<u8>) -> Command {
        let name = self.pick(&["ZUNIONSTORE", "ZINTERSTORE"]);
        let count = 1 + self.below(3);
        let mut command = command![name, key, count];
        for _ in 0..count {
            let kind = self.pick(&["z", "z", "z", "t", "g"]);
            command.extend(command![self.key(kind)]);
        }
        if self.one_in(2) {
            command.extend(command!["WEIGHTS"]);
            for _ in 0..count {
                let weight = self.pick(&["1", "2", "0.1", "-1", "inf", "0"]);
                command.extend(command![weight]);
            }
        }
        if self.one_in(2) {
            let aggregate = self.pick(&["SUM", "min", "MAX"]);
            command.extend(command!["AGGREGATE", aggregate]);
        }
        command
    }

    fn zrangestore(&mut self, to: Vec<u8>) -> Command {
        let mut from = self.key("z");
        let (mut by, mut range) = match self.below(3) {
            0 => (None, [self.index().to_string(), self.index().to_string()]),
            1 => (Some("BYSCORE"), [self.bound(), self.bound()]),
            _ => {
                from = self.level();
                (Some("BYLEX"), [self.lex(), self.lex()])
            }
        };
        if self.one_in(3) {
            by = Some("BYSCORE");
            range = ["-inf".to_owned(), "+inf".to_owned()];
        }
        let mut command = command!["ZRANGESTORE", to, from];
        command.extend(range.map(String::into_bytes));
        command.extend(by.map(|by| by.as_bytes().to_vec()));
        if self.one_in(3) {
            command.extend(command!["REV"]);
        }
        if by.is_some() && self.one_in(2) {
            command.extend(command!["LIMIT", self.below(4), self.small()]);
        }
        command
    }

    /// A sorted set in which all scores are the same: in others, a range of members depends on how the server's skip
    /// list happens to be, and no replica has the same.
    fn level(&mut self) -> Vec<u8> {
        format!("level:{}", self.below(3)).into_bytes()
    }

    /// A score as the end of a range.
    fn bound(&mut self) -> String {
        let open = if self.one_in(3) { "(" } else { "" };
        match self.below(4) {
            0 => self.pick(&["-inf", "+inf"]).to_owned(),
            _ => format!("{open}{}", self.small()),
        }
    }

    /// A member as the end of a range.
    fn lex(&mut self) -> String {
        let open = self.pick(&["(", "["]);
        match self.below(3) {
            0 => self.pick(&["-", "+"]).to_owned(),
            _ => format!("{open}m{}", self.below(40)),
        }
    }

    pub(super) fn geo(&mut self) -> Command {
        let (key, to) = (self.key("g"), self.key("g"));
        let (longitude, latitude) = self.place();
        match self.below(12) {
            0..=5 => {
                let mut command = command!["GEOADD", key];
                if self.one_in(5) {
                    let option = self.pick(&["NX", "XX", "CH"]);
                    command.extend(command![option]);
                }
                for _ in 0..1 + self.below(5) {
                    let (longitude, latitude) = self.place();
                    let member = self.member();
                    command.extend(command![longitude, latitude, member]);
                }
                command
            }
            6 => {
                let start = command!["GEORADIUS", key, longitude, latitude];
                self.geo_rest(start, to)
            }
            7 => {
                let member = self.member();
                let start = command!["GEORADIUSBYMEMBER", key, member];
                self.geo_rest(start, to)
            }
            _ => {
                let mut command = command!["GEOSEARCHSTORE", to, key];
                if self.one_in(2) {
                    let member = self.member();
                    command.extend(command!["FROMMEMBER", member]);
                } else {
                    command.extend(command!["FROMLONLAT", longitude, latitude]);
                }
                if self.one_in(2) {
                    command.extend(command!["BYRADIUS", self.below(9000), "km"]);
                } else {
                    command.extend(command!["BYBOX", self.below(9000), self.below(9000), "mi"]);
                }
                self.geo_order(&mut command);
                if self.one_in(3) {
                    command.extend(command!["STOREDIST"]);
                }
                command
            }
        }
    }

    fn place(&mut self) -> (String, String) {
        let longitude = self.below(36_000) as f64 / 100.0 - 180.0;
        let latitude = self.below(17_000) as f64 / 100.0 - 85.0;
        (longitude.to_string(), latitude.to_string())
    }

    fn geo_rest(&mut self, mut command: Command, to: Vec<u8>) -> Command {
        let unit = self.pick(&["km", "m", "ft", "mi"]);
        command.extend(command![self.below(9_000_000), unit]);
        self.geo_order(&mut command);
        let store = self.pick(&["STORE", "STOREDIST"]);
        command.extend(command![store, to]);
        command
    }

    fn geo_order(&mut self, command: &mut Command) {
        if self.one_in(3) {
            command.extend(command!["COUNT", 1 + self.below(6)]);
            if self.one_in(3) {
                command.extend(command!["ANY"]);
            }
        }
        if self.one_in(3) {
            let order = self.pick(&["ASC", "DESC"]);
            command.extend(command![order]);
        }
    }

    pub(super) fn hash(&mut self) -> Command {
        let (key, field) = (self.key("h"), self.element());
        let expiries = self.has_expiries();
        match self.below(24) {
            0..=3 => {
                let name = self.pick(&["HSET", "HMSET"]);
                [command![name, key], self.fields_and_values()].concat()
            }
            4 | 5 => command!["HSETNX", key, field, self.value()],
            6 => [command!["HDEL", key], self.elements()].concat(),
            7 => command!["HDEL", key, field, self.element(), self.element()],
            8 | 9 => command!["HINCRBY", key, self.counter(), self.number()],
            10 | 11 => {
                let by = self.pick(&["0.1", "-2.5e2", "3", "1e17", "0.30000000000000004"]);
                command!["HINCRBYFLOAT", key, self.counter(), by]
            }
            12..=15 if expiries => self.hash_expire(key),
            16 | 17 => [command!["HPERSIST", key], self.fields(LONG)].concat(),
            18 => [command!["HGETDEL", key], self.fields(LONG)].concat(),
            19 | 20 => self.hsetex(key),
            21 | 22 if expiries => {
                let mut ms = self.ttl_ms();
                let mut option = self.expiry_option_of(ms);
                if self.one_in(4) {
                    // An HPERSIST.
                    (ms, option) = (LONG, command!["PERSIST"]);
                }
                [command!["HGETEX", key], option, self.fields(ms)].concat()
            }
            // Redis deletes a field that has expired when it is read.
            _ => command!["HGET", key, field],
        }
    }

    /// Fields that hold numbers, mostly.
    fn counter(&mut self) -> Vec<u8> {
        match self.below(6) {
            0 => self.element(),
            _ => format!("n{}", self.below(6)).into_bytes(),
        }
    }

    /// `FIELDS n field …`, for an expiry in so many milliseconds.
    ///
    /// A replica of Redis does not persist a field whose time has passed on its own clock, so what is replayed later
    /// would differ from what the master did: fields that expire soon are others than those that HPERSIST gets.
    fn fields(&mut self, ms: i64) -> Command {
        let mut fields = vec![self.element()];
        for _ in 0..self.below(5) {
            fields.push(self.element());
        }
        if self.one_in(4) {
            fields.push(self.counter());
        }
        if ms < LONG {
            fields.iter_mut().for_each(shorten);
        }
        [command!["FIELDS", fields.len() as u64], fields].concat()
    }

    fn hash_expire(&mut self, key: Vec<u8>) -> Command {
        let ms = self.ttl_ms().max(1);
        let mut command = match self.below(4) {
            0 => command!["HEXPIRE", key, ms / 1000],
            1 => command!["HPEXPIRE", key, ms],
            2 => command!["HEXPIREAT", key, (unix_ms() + ms) / 1000],
            _ => command!["HPEXPIREAT", key, unix_ms() + ms],
        };
        if self.one_in(3) {
            let condition = self.pick(&["NX", "XX", "GT", "lt"]);
            command.extend(command![condition]);
        }
        command.extend(self.fields(ms));
        command
    }

    fn hsetex(&mut self, key: Vec<u8>) -> Command {
        let mut command = command!["HSETEX", key];
        match self.below(4) {
            0 => command.extend(command!["FNX"]),
            1 => command.extend(command!["FXX"]),
            _ => {}
        }
        let mut ms = LONG;
        match self.below(4) {
            0 => command.extend(command!["KEEPTTL"]),
            1 | 2 if self.has_expiries() => {
                ms = self.ttl_ms();
                command.extend(self.expiry_option_of(ms));
            }
            _ => {}
        }
        let mut pairs = Command::new();
        for pair in self.fields_and_values().chunks_exact_mut(2) {
            if ms < LONG {
                shorten(&mut pair[0]);
            }
            // A field that is named twice crashes Redis 8.6.
            if !pairs.iter().step_by(2).any(|field| *field == pair[0]) {
                pairs.extend_from_slice(pair);
            }
        }
        command.extend(command!["FIELDS", (pairs.len() / 2) as u64]);
        command.extend(pairs);
        command
    }
}

/// Makes it the name of a field that expires soon.
fn shorten(field: &mut Vec<u8>) {
    *field = format!("e{}", field.len() % 10).into_bytes();
}
