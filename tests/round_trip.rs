//! Snapshots of every server, with every type and encoding: what is not touched is copied byte for byte, and what is decoded
//! and written again is the same to the server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::path::Path;

use backfeed::model::{Dialect, Raw};
use backfeed::wire::crc64::Crc64;
use backfeed::wire::rdb::cursor::{put_number, put_string};
use backfeed::wire::rdb::magic;
use backfeed::wire::rdb::reader::{Fate, Item, Reader, Sink};
use redis::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::differential::{Runner, Told, assert_same};
use crate::fuzzing::bodies::values;
use crate::support::data::{self, Expiries, Mix, for_each_version};
use crate::support::{Backfeed, Server, Version, run};

for_each_version!(
    what_no_command_touches_is_copied_byte_for_byte,
    what_is_decoded_and_written_again_is_the_same
);

const EXPIRED: &str = "expired and kept";
const MARKER: &str = "not in the base";
/// The RDB type of a module's value.
const MODULE: u8 = 7;

/// A server with everything in it, none of which expires meanwhile.
fn full(version: Version) -> Server {
    let server = Server::start(version, &[]);
    Runner::new(&server, 3, Expiries::Late).run(2500);
    let mut connection = server.connect();
    let mut mix = Mix::new(&mut connection, 3, Expiries::Late);
    data::run(&mut connection, &mut mix, 150);
    large(&mut connection);
    // The one that is to come later.
    assert_eq!(server.text(&["EXISTS", MARKER]), "0");
    server
}

/// Collections and strings beyond every limit of an encoding.
fn large(connection: &mut Connection) {
    let mut send = |command: &[&[u8]]| {
        let mut cmd = redis::cmd(std::str::from_utf8(command[0]).unwrap());
        cmd.arg(&command[1..]);
        let _: redis::Value = cmd
            .query(connection)
            .unwrap_or_else(|error| panic!("{error}"));
    };
    send(&[b"SELECT", b"3"]);
    send(&[b"SET", b"large:same", &vec![b'a'; 4 << 20]]);
    let mut random = data::Random::new(9);
    send(&[b"SET", b"large:random", &random.bytes(1 << 20)]);
    let numbers: Vec<Vec<u8>> = (0..5000u32).map(|n| n.to_string().into_bytes()).collect();
    let command = |name: &'static [u8], key: &'static [u8]| {
        let head = [name, key].into_iter();
        head.chain(numbers.iter().map(Vec::as_slice))
            .collect::<Vec<_>>()
    };
    send(&command(b"RPUSH", b"large:list"));
    send(&command(b"HMSET", b"large:hash"));
    send(&command(b"ZADD", b"large:zset"));
    send(&command(b"SADD", b"large:set"));
}

/// Database, name, expiry, records before it, value.
type Key = (u32, Vec<u8>, Option<i64>, Vec<u8>, Raw);

/// What is in an RDB.
#[derive(Default)]
struct Contents {
    /// The bytes of untouched keys, by database.
    passed: BTreeMap<u32, Vec<u8>>,
    /// Records that are no keys.
    records: Vec<Vec<u8>>,
    items: Vec<Key>,
    takes: bool,
    db: u32,
}

impl Sink for Contents {
    type Error = Infallible;

    fn record(&mut self, _: u8, raw: &[u8]) -> Result<(), Infallible> {
        self.records.push(raw.to_vec());
        Ok(())
    }

    fn fate(&mut self, db: u32, key: &[u8], _: u8, _: bool) -> Fate {
        self.db = db;
        match key == MARKER.as_bytes() {
            true => Fate::Drop,
            false if self.takes => Fate::Take,
            false => Fate::Pass,
        }
    }

    fn pass(&mut self, raw: &[u8]) -> Result<(), Infallible> {
        self.passed
            .entry(self.db)
            .or_default()
            .extend_from_slice(raw);
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), Infallible> {
        let raw = Raw {
            kind: item.kind,
            payload: item.payload.into(),
        };
        let (key, prefix) = (item.key.to_vec(), item.prefix.to_vec());
        self.items.push((item.db, key, item.expiry, prefix, raw));
        Ok(())
    }
}

fn contents(rdb: &[u8], takes: bool) -> Contents {
    let mut reader = Reader::new(1 << 30);
    let mut contents = Contents {
        takes,
        ..Contents::default()
    };
    for chunk in rdb.chunks(100_003) {
        reader.push(chunk, &mut contents).unwrap();
    }
    reader.finish::<Infallible>().unwrap();
    contents
}

fn what_no_command_touches_is_copied_byte_for_byte(version: Version) {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let master = full(version);
    // Expired, and not deleted by the master: it is for the master to say so.
    master.cmd(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
    master.cmd(&["SET", EXPIRED, "1", "PX", "1"]);
    let more = ["--consolidate-every", "never"];
    let backfeed = Backfeed::backup(&master.url(), &store, &more);
    backfeed.wait_following();
    let mut connection = master.connect();
    let () = redis::cmd("SELECT").arg(7).query(&mut connection).unwrap();
    let () = redis::cmd("SET")
        .arg(MARKER)
        .arg(1)
        .query(&mut connection)
        .unwrap();
    backfeed.wait_captured(&master);
    let output = run(&["consolidate", "--store", &store, "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    let report: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["bases"], 1, "{report}");
    let [base, made] = bases(&home.path().join("bucket"));
    let (base, made) = (contents(&base, false), contents(&made, false));
    assert!(base.passed.len() >= 5, "{:?}", base.passed.keys());
    for (db, bytes) in &base.passed {
        assert!(
            made.passed.get(db) == Some(bytes),
            "{version}: database {db}"
        );
    }
    let kept = made.passed[&0]
        .windows(EXPIRED.len())
        .any(|part| part == EXPIRED.as_bytes());
    assert!(kept, "{version}: an expired key is gone");
    // Beside the keys: what says where it stands, and what was written last.
    let of = |contents: &Contents, opcodes: &[u8]| {
        let records = contents
            .records
            .iter()
            .filter(|raw| opcodes.contains(&raw[0]));
        let is_ours = |raw: &&Vec<u8>| !raw.windows(5).any(|part| part == b"repl-");
        records.filter(is_ours).cloned().collect::<Vec<_>>()
    };
    let carried = [b'R', b'V', 0xFA, 0xF7, 0xF5];
    assert_eq!(of(&base, &carried), of(&made, &carried), "{version}");
    let hints = [0xFB, 0xF4];
    assert_eq!(of(&base, &hints), of(&made, &hints), "{version}");
}

/// The two bases of the only history, decompressed.
fn bases(bucket: &Path) -> [Vec<u8>; 2] {
    let history = fs::read_dir(bucket.join("histories")).unwrap().next();
    let bases = fs::read_dir(history.unwrap().unwrap().path().join("base")).unwrap();
    let mut paths: Vec<_> = bases.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "zst"));
    paths.sort();
    let read = |path| zstd::decode_all(fs::File::open(path).unwrap()).unwrap();
    let all: Vec<Vec<u8>> = paths.iter().map(read).collect();
    all.try_into().expect("two bases")
}

fn what_is_decoded_and_written_again_is_the_same(version: Version) {
    let master = full(version);
    master.save();
    let rdb = fs::read(master.dir().join("dump.rdb")).unwrap();
    let contents = contents(&rdb, true);
    let (family, number) = magic(&rdb[..9]).unwrap();
    let dialect = Dialect {
        family,
        version: number,
    };
    let mut kinds: BTreeMap<(u8, u8), usize> = BTreeMap::new();
    // The magic, and the AUX fields and functions.
    let front = contents
        .records
        .iter()
        .filter(|raw| !matches!(raw[0], 0xFE | 0xFB | 0xF4 | 0xFF));
    let mut again: Vec<u8> = front.flatten().copied().collect();
    let mut selected = None;
    for (db, key, expiry, prefix, raw) in &contents.items {
        if selected != Some(*db) {
            again.push(0xFE);
            put_number(&mut again, (*db).into());
            selected = Some(*db);
        }
        if let Some(expiry) = expiry {
            again.push(0xFC);
            again.extend(expiry.to_le_bytes());
        }
        again.extend_from_slice(prefix);
        let mut payload = Vec::new();
        let kind = match raw.decode(dialect) {
            Ok(value) => {
                values::check_value(&value, dialect);
                value.encode(dialect, &mut payload)
            }
            Err(bad) => {
                assert_eq!(
                    raw.kind,
                    MODULE,
                    "{version}: {bad}: `{}`",
                    key.escape_ascii()
                );
                payload.extend_from_slice(&raw.payload);
                MODULE
            }
        };
        *kinds.entry((raw.kind, kind)).or_default() += 1;
        again.push(kind);
        put_string(&mut again, key);
        again.extend(payload);
    }
    again.push(0xFF);
    again.extend(Crc64::of(&again).to_le_bytes());
    eprintln!("{version}: types read and written: {kinds:?}");
    assert!(kinds.len() >= 9, "{version}: {kinds:?}");
    let mut loaded = Server::start(version, &[]);
    loaded.kill9();
    fs::write(loaded.dir().join("dump.rdb"), again).unwrap();
    loaded.restart();
    let context = format!("{version}: decoded and written again");
    // Older servers tell how long a key has to live, not until when.
    let tolerance = if version.relative_ttls() { 5 } else { 0 };
    assert_same(&loaded, &master, Told::All, tolerance, &context);
}
