//! Do two servers hold the same? Everything that can be asked of them, and what differs by name.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use redis::{Connection, Value};

use crate::support::state::State;
use crate::support::{Server, wait_until};

const QUIET: Duration = Duration::from_secs(60);
/// So much is shown before and after the place where two texts begin to differ.
const BEFORE: usize = 200;
const AFTER: usize = 600;

/// What the feed says of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Both applied the same feed.
    All,
    /// One wrote the feed and the other applied it. A master does not tell everything: consumers that never got
    /// anything, and what counts as read in some versions.
    ByFeed,
}

/// Of `XINFO STREAM … FULL`: how it lies in memory, and what the clock of the server brings.
const OF_THE_SERVER: [&str; 7] = [
    "radix-tree-keys",
    "radix-tree-nodes",
    "seen-time",
    "active-time",
    "pids-tracked",
    "iids-tracked",
    "iids-duplicates",
];
/// What the feed leaves out in each case.
const UNTOLD: [&str; 2] = ["entries-read", "lag"];

/// A server's data, with what [`State`] leaves out.
pub struct Whole {
    pub state: State,
    streams: BTreeMap<(u32, Vec<u8>), String>,
    functions: Vec<Vec<u8>>,
}

impl Whole {
    /// Once nothing is about to expire.
    #[track_caller]
    pub fn of(server: &Server, told: Told) -> Self {
        let mut state = State::of(server);
        wait_until(&format!("{server}: nothing expires"), QUIET, || {
            state = State::of(server);
            state.is_quiet()
        });
        let mut connection = server.connect();
        let mut streams = BTreeMap::new();
        for (db, key) in state.groups.keys() {
            select(&mut connection, *db);
            let full: Value = redis::cmd("XINFO")
                .arg("STREAM")
                .arg(key)
                .arg("FULL")
                .arg("COUNT")
                .arg(0)
                .query(&mut connection)
                .unwrap();
            let mut shown = String::new();
            show(&full, told, &mut shown);
            streams.insert((*db, key.clone()), shown);
        }
        let functions = match server.version().at_least_7() {
            true => functions(&mut connection),
            false => Vec::new(),
        };
        Self {
            state,
            streams,
            functions,
        }
    }
}

/// What differs between two servers, in words; empty if they hold the same. Both must be left alone meanwhile.
pub fn differences(found: &Server, wanted: &Server, told: Told, tolerance_ms: i64) -> Vec<String> {
    let (have, want) = (Whole::of(found, told), Whole::of(wanted, told));
    let mut all = Vec::new();
    if have.state.keys != want.state.keys {
        let counts = format!("{:?}, not {:?}", have.state.keys, want.state.keys);
        all.push(format!("keys by database: {counts}"));
    }
    let values = differing(&have.state.values, &want.state.values, |a, b| a == b);
    let mut excused = false;
    for (db, key) in &values {
        let contents = (content(found, *db, key), content(wanted, *db, key));
        if is_same_zset(&contents.0, &contents.1) {
            excused = true;
            continue;
        }
        let name = key.escape_ascii();
        all.push(format!(
            "database {db}, key `{name}`: {}",
            from_there(contents)
        ));
    }
    for key in differing(&have.streams, &want.streams, |a, b| a == b) {
        let shown = |whole: &Whole| whole.streams.get(&key).cloned().unwrap_or_default();
        let shown = from_there((shown(&have), shown(&want)));
        let (db, key) = key;
        all.push(format!(
            "database {db}, stream `{}`: {shown}",
            key.escape_ascii()
        ));
    }
    let close = |a: &i64, b: &i64| (a - b).abs() <= tolerance_ms;
    for key in differing(&have.state.expiries, &want.state.expiries, close) {
        let (a, b) = (have.state.expiries.get(&key), want.state.expiries.get(&key));
        let (db, key) = key;
        let key = key.escape_ascii();
        all.push(format!(
            "database {db}, key `{key}` expires at {a:?}, not {b:?}"
        ));
    }
    let (a, b) = (&have.state.field_expiries, &want.state.field_expiries);
    for of in differing(a, b, close) {
        let (a, b) = (a.get(&of), b.get(&of));
        let (db, key, field) = of;
        let (key, field) = (key.escape_ascii(), field.escape_ascii());
        all.push(format!(
            "database {db}, hash `{key}`, field `{field}` expires at {a:?}, not {b:?}"
        ));
    }
    if have.functions != want.functions {
        let shown = |all: &Vec<Vec<u8>>| all.concat().escape_ascii().to_string();
        let shown = from_there((shown(&have.functions), shown(&want.functions)));
        all.push(format!("functions: {shown}"));
    }
    if all.is_empty() && !excused && have.state.digest != want.state.digest {
        let (a, b) = (&have.state.digest, &want.state.digest);
        all.push(format!("DEBUG DIGEST alone: {a}, not {b}"));
    }
    all
}

/// Panics with what differs.
#[track_caller]
pub fn assert_same(found: &Server, wanted: &Server, told: Told, tolerance_ms: i64, context: &str) {
    let all = differences(found, wanted, told, tolerance_ms);
    assert!(
        all.is_empty(),
        "{context}: {} differences between {found} and {wanted}:\n{}",
        all.len(),
        all.join("\n")
    );
}

/// A server that loads a sorted set which has become small keeps it as one blob: thirds are printed in another way for the
/// digest then, and a zero loses its sign. So does any replica after a full sync.
fn is_same_zset(a: &str, b: &str) -> bool {
    let parts = |text: &str| {
        let text = text.replace(" -0 ", " 0 ");
        text.splitn(3, ' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let (a, b) = (parts(a), parts(b));
    matches!((&a[..], &b[..]), ([kind, first, x], [_, second, y])
        if kind == "zset" && first != second && x == y)
}

/// Two texts of ASCII, from a bit before their first difference on.
fn from_there((a, b): (String, String)) -> String {
    let both = a.bytes().zip(b.bytes());
    let same = both.take_while(|(a, b)| a == b).count();
    let part = |text: &str| {
        let end = text.len().min(same + AFTER);
        let more = if end < text.len() { "…" } else { "" };
        format!("{}{more}", &text[same.saturating_sub(BEFORE)..end])
    };
    format!(
        "from byte {same} on,\n  {}\n  not\n  {}",
        part(&a),
        part(&b)
    )
}

/// The keys under which two maps differ.
fn differing<K: Ord + Clone, V>(
    a: &BTreeMap<K, V>,
    b: &BTreeMap<K, V>,
    same: impl Fn(&V, &V) -> bool,
) -> Vec<K> {
    let keys: std::collections::BTreeSet<&K> = a.keys().chain(b.keys()).collect();
    let differ = |key: &&K| match (a.get(*key), b.get(*key)) {
        (Some(a), Some(b)) => !same(a, b),
        _ => true,
    };
    keys.into_iter().filter(differ).cloned().collect()
}

fn select(connection: &mut Connection, db: u32) {
    let () = redis::cmd("SELECT").arg(db).query(connection).unwrap();
}

/// A reply without what is not to be compared.
fn show(value: &Value, told: Told, out: &mut String) {
    match value {
        Value::Array(elements) => {
            out.push('[');
            let mut elements = elements.iter();
            while let Some(element) = elements.next() {
                if let Value::BulkString(name) = element {
                    let is = |untold: &&str| untold.as_bytes() == name;
                    if OF_THE_SERVER.iter().any(&is)
                        || told == Told::ByFeed && UNTOLD.iter().any(is)
                    {
                        elements.next();
                        continue;
                    }
                }
                if told == Told::ByFeed && is_idle_consumer(element) {
                    continue;
                }
                show(element, told, out);
                out.push(' ');
            }
            out.push(']');
        }
        Value::BulkString(bytes) => {
            let _ = write!(out, "{}", bytes.escape_ascii());
        }
        other => {
            let _ = write!(out, "{other:?}");
        }
    }
}

/// One to which nothing is pending: `name … pel-count 0 …`.
fn is_idle_consumer(value: &Value) -> bool {
    let Value::Array(elements) = value else {
        return false;
    };
    let is = |at: usize, name: &str| elements.get(at) == Some(&Value::BulkString(name.into()));
    let pending = (0..elements.len()).find(|at| is(*at, "pel-count"));
    is(0, "name")
        && is(2, "seen-time")
        && pending.is_some_and(|at| elements.get(at + 1) == Some(&Value::Int(0)))
}

/// The libraries, in no order: each a record of the payload of `FUNCTION DUMP`.
fn functions(connection: &mut Connection) -> Vec<Vec<u8>> {
    const FUNCTION: u8 = 245;
    const FOOTER: usize = 10;
    let dump: Vec<u8> = redis::cmd("FUNCTION")
        .arg("DUMP")
        .query(connection)
        .unwrap();
    let mut input = backfeed::wire::rdb::cursor::Cursor::new(&dump[..dump.len() - FOOTER]);
    let mut all = Vec::new();
    while !input.rest().is_empty() {
        assert_eq!(input.byte(), Ok(FUNCTION));
        all.push(input.string().unwrap().into_owned());
    }
    all.sort();
    all
}

/// A key's value in words.
pub fn content(server: &Server, db: u32, key: &[u8]) -> String {
    let mut connection = server.connect();
    select(&mut connection, db);
    let mut ask = |command: &[&str], more: &[&str]| -> Value {
        let mut cmd = redis::cmd(command[0]);
        cmd.arg(&command[1..]).arg(key).arg(more);
        cmd.query(&mut connection).unwrap_or(Value::Nil)
    };
    let Value::SimpleString(kind) = ask(&["TYPE"], &[]) else {
        return String::new();
    };
    let mut shown = String::new();
    show(&ask(&["OBJECT", "ENCODING"], &[]), Told::All, &mut shown);
    shown.push(' ');
    let value = match kind.as_str() {
        "string" => ask(&["GET"], &[]),
        "list" => ask(&["LRANGE"], &["0", "-1"]),
        "set" => sorted(ask(&["SMEMBERS"], &[]), 1),
        "zset" => ask(&["ZRANGE"], &["0", "-1", "WITHSCORES"]),
        "hash" => sorted(ask(&["HGETALL"], &[]), 2),
        "stream" => ask(&["XRANGE"], &["-", "+"]),
        _ => return kind,
    };
    show(&value, Told::All, &mut shown);
    format!("{kind} {shown}")
}

fn sorted(value: Value, each: usize) -> Value {
    let Value::Array(elements) = value else {
        return value;
    };
    let mut groups: Vec<Vec<Value>> = elements.chunks(each).map(<[Value]>::to_vec).collect();
    groups.sort_by_key(|group| format!("{group:?}"));
    Value::Array(groups.concat())
}
