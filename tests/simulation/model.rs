//! A plain data set: what the commands of the simulation do to it, and how it stands in an RDB.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Dialect, Raw, Value as Stored};
use crate::wire::crc64::Crc64;
use crate::wire::rdb::magic;
use crate::wire::rdb::reader::{Fate, Item, Reader, Sink, aux};

pub(crate) type Text = Arc<[u8]>;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Text(Text),
    List(Vec<Text>),
    Set(BTreeSet<Text>),
    Hash(BTreeMap<Text, Text>),
}

/// A key's value, and when it expires (Unix milliseconds).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) value: Arc<Value>,
    pub(crate) expiry: Option<i64>,
}

/// A data set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model {
    pub(crate) dbs: BTreeMap<u32, BTreeMap<Text, Key>>,
}

pub(crate) fn text(bytes: impl AsRef<[u8]>) -> Text {
    Arc::from(bytes.as_ref())
}

fn number(bytes: &[u8]) -> i64 {
    std::str::from_utf8(bytes).unwrap().parse().unwrap()
}

impl Model {
    /// Executes a command that changes data. `db` is the selected database.
    pub(crate) fn execute(&mut self, db: &mut u32, argv: &[Text], now_ms: i64) {
        let name = String::from_utf8_lossy(&argv[0]).to_ascii_uppercase();
        if name == "SELECT" {
            *db = number(&argv[1]) as u32;
            return;
        }
        if name == "FLUSHDB" {
            self.dbs.remove(db);
            return;
        }
        if matches!(name.as_str(), "MULTI" | "EXEC" | "PING" | "REPLCONF") {
            return;
        }
        let keys = self.dbs.entry(*db).or_default();
        execute(keys, &name, &argv[1..], now_ms);
        if keys.is_empty() {
            self.dbs.remove(db);
        }
    }

    pub(crate) fn keys(&self) -> usize {
        self.dbs.values().map(BTreeMap::len).sum()
    }

    /// As a server writes it. `aux` stands at its front.
    pub(crate) fn rdb(&self, version: u32, aux: &[(&str, String)]) -> Vec<u8> {
        let mut out = format!("REDIS{version:04}").into_bytes();
        for (name, value) in aux {
            out.push(0xFA);
            put(&mut out, name.as_bytes());
            put(&mut out, value.as_bytes());
        }
        for (db, keys) in &self.dbs {
            out.push(0xFE);
            put_length(&mut out, *db as usize);
            out.push(0xFB);
            put_length(&mut out, keys.len());
            put_length(
                &mut out,
                keys.values().filter(|key| key.expiry.is_some()).count(),
            );
            for (name, key) in keys {
                if let Some(expiry) = key.expiry {
                    out.push(0xFC);
                    out.extend(expiry.to_le_bytes());
                }
                put_key(&mut out, name, &key.value);
            }
        }
        out.push(0xFF);
        let crc = Crc64::of(&out);
        out.extend(crc.to_le_bytes());
        out
    }

    /// What stands in an RDB, by the program's own reader.
    pub(crate) fn read(rdb: &[u8]) -> Result<Self, String> {
        Ok(Self::read_by_replica(rdb)?.0)
    }

    /// The same, and the database in which a replica goes on.
    pub(crate) fn read_by_replica(rdb: &[u8]) -> Result<(Self, u32), String> {
        let mut reading = Reading::default();
        let mut reader = Reader::new(1 << 30);
        reader
            .push(rdb, &mut reading)
            .map_err(|error| error.to_string())?;
        reader
            .finish::<String>()
            .map_err(|error| error.to_string())?;
        Ok((reading.model, reading.stream_db))
    }

    /// How another one differs from what this one says. Expiries may be up to `late_ms` later.
    pub(crate) fn difference(&self, found: &Self, late_ms: i64) -> Option<String> {
        let flat = |model: &Self| -> BTreeMap<(u32, Text), Key> {
            let of = |(db, keys): (&u32, &BTreeMap<Text, Key>)| {
                let db = *db;
                keys.clone()
                    .into_iter()
                    .map(move |(name, key)| ((db, name), key))
            };
            model.dbs.iter().flat_map(of).collect()
        };
        let (wanted, found) = (flat(self), flat(found));
        for (at @ (db, name), key) in &wanted {
            let shown = String::from_utf8_lossy(name);
            let Some(there) = found.get(at) else {
                return Some(format!("key {shown} of database {db} is missing"));
            };
            if key.value != there.value {
                let (one, two) = (short(&key.value), short(&there.value));
                return Some(format!(
                    "key {shown} of database {db} is {two}, and should be {one}"
                ));
            }
            let in_time = match (key.expiry, there.expiry) {
                (None, None) => true,
                (Some(wanted), Some(found)) => {
                    // The clocks of servers and writers differ.
                    let early_ms = late_ms.min(10_000);
                    (wanted - early_ms..=wanted + late_ms).contains(&found)
                }
                _ => false,
            };
            if !in_time {
                let (one, two) = (key.expiry, there.expiry);
                return Some(format!(
                    "key {shown} of database {db} expires {two:?}, and should {one:?}"
                ));
            }
        }
        let more = found.keys().find(|at| !wanted.contains_key(at))?;
        Some(format!(
            "key {} of database {} should not be there",
            String::from_utf8_lossy(&more.1),
            more.0
        ))
    }
}

fn short(value: &Value) -> String {
    let shown = match value {
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::List(list) => format!("{} elements", list.len()),
        Value::Set(set) => format!("{} members", set.len()),
        Value::Hash(hash) => format!("{} fields", hash.len()),
    };
    shown.chars().take(60).collect()
}

fn execute(keys: &mut BTreeMap<Text, Key>, name: &str, args: &[Text], now_ms: i64) {
    let key = args[0].clone();
    let put = |keys: &mut BTreeMap<Text, Key>, value: Value, expiry| {
        let value = Arc::new(value);
        keys.insert(key.clone(), Key { value, expiry });
    };
    match name {
        "SET" => {
            let expiry = args.get(3).map(|at| number(at));
            put(keys, Value::Text(args[1].clone()), expiry);
        }
        "SETEX" => {
            let expiry = now_ms + number(&args[1]) * 1000;
            put(keys, Value::Text(args[2].clone()), Some(expiry));
        }
        "DEL" => {
            for key in args {
                keys.remove(key);
            }
        }
        "PEXPIREAT" | "EXPIRE" | "PEXPIRE" => {
            let at = match name {
                "PEXPIREAT" => number(&args[1]),
                "EXPIRE" => now_ms + number(&args[1]) * 1000,
                _ => now_ms + number(&args[1]),
            };
            keys.get_mut(&key).unwrap().expiry = Some(at);
        }
        "PERSIST" => keys.get_mut(&key).unwrap().expiry = None,
        _ => {
            let empty = match name {
                "INCR" => Value::Text(text("0")),
                "APPEND" => Value::Text(text("")),
                "RPUSH" | "LPUSH" | "LPOP" => Value::List(Vec::new()),
                "SADD" | "SREM" => Value::Set(BTreeSet::new()),
                "HSET" | "HDEL" => Value::Hash(BTreeMap::new()),
                other => panic!("the model does not know {other}"),
            };
            let entry = keys.entry(key.clone()).or_insert_with(|| Key {
                value: Arc::new(empty),
                expiry: None,
            });
            if change(Arc::make_mut(&mut entry.value), name, &args[1..]) {
                keys.remove(&key);
            }
        }
    }
}

/// True when nothing is left of it.
fn change(value: &mut Value, name: &str, args: &[Text]) -> bool {
    match (value, name) {
        (Value::Text(at), "INCR") => {
            *at = text((number(at) + 1).to_string());
            false
        }
        (Value::Text(at), "APPEND") => {
            *at = text([&at[..], &args[0][..]].concat());
            false
        }
        (Value::List(list), "RPUSH") => {
            list.extend(args.iter().cloned());
            false
        }
        (Value::List(list), "LPUSH") => {
            for arg in args {
                list.insert(0, arg.clone());
            }
            false
        }
        (Value::List(list), "LPOP") => {
            list.remove(0);
            list.is_empty()
        }
        (Value::Set(set), "SADD") => {
            set.extend(args.iter().cloned());
            false
        }
        (Value::Set(set), "SREM") => {
            for arg in args {
                set.remove(arg);
            }
            set.is_empty()
        }
        (Value::Hash(hash), "HSET") => {
            for pair in args.chunks_exact(2) {
                hash.insert(pair[0].clone(), pair[1].clone());
            }
            false
        }
        (Value::Hash(hash), "HDEL") => {
            for arg in args {
                hash.remove(arg);
            }
            hash.is_empty()
        }
        (value, name) => panic!("{name} on {value:?}"),
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    if length < 64 {
        out.push(length as u8);
    } else {
        out.push(0x80);
        out.extend((length as u32).to_be_bytes());
    }
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend(bytes);
}

fn put_key(out: &mut Vec<u8>, name: &[u8], value: &Value) {
    let (kind, elements): (u8, Vec<&Text>) = match value {
        Value::Text(text) => {
            out.push(0);
            put(out, name);
            put(out, text);
            return;
        }
        Value::List(list) => (1, list.iter().collect()),
        Value::Set(set) => (2, set.iter().collect()),
        Value::Hash(hash) => (
            4,
            hash.iter()
                .flat_map(|(field, value)| [field, value])
                .collect(),
        ),
    };
    out.push(kind);
    put(out, name);
    put_length(
        out,
        if kind == 4 {
            elements.len() / 2
        } else {
            elements.len()
        },
    );
    for element in elements {
        put(out, element);
    }
}

#[derive(Default)]
struct Reading {
    model: Model,
    dialect: Option<Dialect>,
    stream_db: u32,
}

impl Sink for Reading {
    type Error = String;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), String> {
        if opcode == 0 {
            let (family, version) = magic(raw).ok_or("no magic")?;
            self.dialect = Some(Dialect { family, version });
        }
        if opcode == 0xFA {
            let (name, value) = aux(raw).map_err(|error| error.to_string())?;
            if name == b"repl-stream-db" {
                self.stream_db = number(&value) as u32;
            }
        }
        Ok(())
    }

    fn fate(&mut self, _: u32, _: &[u8], _: u8, _: bool) -> Fate {
        Fate::Take
    }

    fn pass(&mut self, _: &[u8]) -> Result<(), String> {
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), String> {
        let raw = Raw {
            kind: item.kind,
            payload: item.payload.into(),
        };
        let stored = raw
            .decode(self.dialect.unwrap())
            .map_err(|error| error.to_string())?;
        let value = match stored {
            Stored::Text(value) => Value::Text(text(value.0)),
            Stored::List(list) => Value::List(list.iter().map(text).collect()),
            Stored::Set(set) => Value::Set(set.iter().map(text).collect()),
            Stored::Hash(hash) => Value::Hash(
                hash.iter()
                    .map(|(field, value)| (text(field), text(value)))
                    .collect(),
            ),
            other => return Err(format!("a value of another type: {other:?}")),
        };
        let key = Key {
            value: Arc::new(value),
            expiry: item.expiry,
        };
        let keys = self.model.dbs.entry(item.db).or_default();
        match keys.insert(text(item.key), key) {
            None => Ok(()),
            Some(_) => Err(format!("{:?} stands there twice", item.key)),
        }
    }
}
