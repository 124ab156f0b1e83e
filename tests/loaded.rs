//! What a server loads and serves, we apply: values that older servers wrote, and odd ones, in servers that loaded them from a
//! file.

use std::fs;

use backfeed::wire::crc64::Crc64;
use backfeed::wire::rdb::cursor::{Cursor, put_number, put_string};
use backfeed::wire::rdb::packed::{ListpackWriter, ZiplistWriter};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Backfeed, Server, Version, restored, run};

/// A key of an RDB: name, type, payload.
pub type Key<'a> = (&'a str, u8, Vec<u8>);

/// An RDB of Redis with these keys.
pub fn rdb(version: u32, keys: &[Key<'_>]) -> Vec<u8> {
    let mut bytes = format!("REDIS{version:04}").into_bytes();
    bytes.extend([0xFE, 0]);
    for (name, kind, payload) in keys {
        bytes.push(*kind);
        put_string(&mut bytes, name.as_bytes());
        bytes.extend_from_slice(payload);
    }
    bytes.push(0xFF);
    let checksum = Crc64::of(&bytes).to_le_bytes();
    [bytes, checksum.to_vec()].concat()
}

/// A listpack, or for servers up to 6.2 a ziplist, as the value of a key.
pub fn blob(version: Version, elements: &[&str]) -> Vec<u8> {
    let mut payload = Vec::new();
    if version.at_least_7() {
        let mut blob = ListpackWriter::new();
        elements.iter().for_each(|one| blob.push(one.as_bytes()));
        put_string(&mut payload, &blob.finish());
    } else {
        let mut blob = ZiplistWriter::new();
        (elements.iter()).for_each(|one| blob.push(one.as_bytes()).expect("it is short"));
        put_string(&mut payload, &blob.finish());
    }
    payload
}

/// A master that has loaded a file, and is captured.
pub struct Loaded {
    home: TempDir,
    pub server: Server,
    pub backfeed: Backfeed,
}

impl Loaded {
    pub fn new(version: Version, rdb: &[u8]) -> Self {
        let home = TempDir::new().unwrap();
        let mut server = Server::start(version, &[]);
        server.kill9();
        fs::write(server.dir().join("dump.rdb"), rdb).unwrap();
        server.restart();
        let store = format!("file://{}/bucket", home.path().display());
        let options = ["--consolidate-every", "never"];
        let backfeed = Backfeed::backup(&server.url(), &store, &options);
        backfeed.wait_following();
        Self {
            home,
            server,
            backfeed,
        }
    }

    pub fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    /// Commands, split at spaces; gives the offset after them.
    pub fn run(&self, lines: &[&str]) -> u64 {
        for line in lines {
            self.server.cmd(&line.split(' ').collect::<Vec<_>>());
        }
        self.backfeed.wait_captured(&self.server);
        self.server.position().1
    }

    /// Makes a base of all of the log, and gives a server that has it.
    pub fn consolidated(&self) -> Server {
        let output = run(&["consolidate", "--store", &self.store(), "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(
            (&report["bases"], &report["stopped"]),
            (&1.into(), &Value::Null),
            "{report}"
        );
        restored(self.server.version(), &self.store())
    }

    /// The base after these commands is what the server holds, by the digest of all data and by the replies.
    fn assert_applies(&self, lines: &[&str], replies: &[&str]) {
        let version = self.server.version();
        self.run(lines);
        let copy = self.consolidated();
        for reply in replies {
            let words: Vec<&str> = reply.split(' ').collect();
            let (found, wanted) = (copy.cmd(&words), self.server.cmd(&words));
            assert_eq!(found, wanted, "{version}: {reply}");
        }
        assert_eq!(copy.debug_digest(), self.server.debug_digest(), "{version}");
    }
}

/// The RDB of a server after these commands.
fn saved(version: Version, lines: &[&str]) -> Vec<u8> {
    let server = Server::start(version, &[]);
    for line in lines {
        server.cmd(&line.split(' ').collect::<Vec<_>>());
    }
    server.save();
    fs::read(server.dir().join("dump.rdb")).unwrap()
}

/// Up to 6.2, the sign of a zero is written. Newer servers keep the text that they loaded, though they write none themselves.
#[test]
fn a_score_that_an_older_server_wrote_stays_as_it_is() {
    let many: Vec<String> = (0..130).map(|n| format!("ZADD big 1 m{n}")).collect();
    let mut lines = vec![
        "ZADD z -0 a 1 b 2 c",
        "ZADD other -0 a 1 b",
        "ZADD big -0 zero",
    ];
    lines.extend(many.iter().map(String::as_str));
    for old in [Version::Redis60, Version::Redis62] {
        let file = saved(old, &lines);
        for new in Version::ALL {
            let loaded = Loaded::new(new, &file);
            let score = |server: &Server, key: &str, of: &str| server.text(&["ZSCORE", key, of]);
            assert_eq!(score(&loaded.server, "z", "a"), "-0", "{old} to {new}");
            let mut lines = vec!["ZREM z b", "ZADD z -0 d", "ZADD z 0 a"];
            lines.extend(["ZUNIONSTORE union 1 z", "ZREMRANGEBYRANK big 5 -1"]);
            if new != Version::Redis60 {
                lines.push("ZRANGESTORE range z 0 -1");
            }
            let replies = ["ZRANGE z 0 -1 WITHSCORES", "ZRANGE big 0 -1 WITHSCORES"];
            loaded.assert_applies(&lines, &replies);
        }
    }
}

/// The base of an older server is what a newer one gets from that server itself.
#[test]
fn a_base_keeps_the_sign_of_a_zero_for_newer_servers() {
    let loaded = Loaded::new(Version::Redis62, &rdb(9, &[]));
    loaded.run(&["ZADD z -0 a 1 b 2 c", "ZREM z b"]);
    assert_eq!(loaded.consolidated().text(&["ZSCORE", "z", "a"]), "-0");
    for newer in [Version::Redis70, Version::Redis86, Version::Valkey91] {
        let copy = restored(newer, &loaded.store());
        assert_eq!(copy.text(&["ZSCORE", "z", "a"]), "-0", "{newer}");
        assert_eq!(copy.debug_digest(), loaded.server.debug_digest(), "{newer}");
    }
}

/// Servers that load odd values go on with them: not Valkey 9.1, which refuses most.
pub const LENIENT: [Version; 6] = [
    Version::Redis60,
    Version::Redis62,
    Version::Redis70,
    Version::Redis80,
    Version::Redis86,
    Version::Valkey81,
];

/// RDB version, and the types of a packed hash and a packed sorted set.
pub fn packed(version: Version) -> (u32, u8, u8) {
    if version.at_least_7() {
        (10, 16, 17)
    } else {
        (9, 13, 12)
    }
}

#[test]
fn a_field_that_is_there_twice_is_the_first_of_them() {
    for version in LENIENT {
        let (rdb_version, hash, _) = packed(version);
        let twice = ["f", "1", "g", "2", "f", "3", "h", "4"];
        let mut plain = Vec::new();
        put_number(&mut plain, 4);
        twice
            .iter()
            .for_each(|one| put_string(&mut plain, one.as_bytes()));
        let keys = [
            ("packed", hash, blob(version, &twice)),
            ("plain", 4, plain),
            ("gone", hash, blob(version, &["f", "1", "f", "2"])),
        ];
        let loaded = Loaded::new(version, &rdb(rdb_version, &keys));
        let replies = [
            "HGETALL packed",
            "HGETALL plain",
            "HLEN plain",
            "EXISTS gone",
        ];
        loaded.assert_applies(
            &["HSET packed f 9", "HDEL plain f", "HDEL gone f"],
            &replies,
        );
        loaded.assert_applies(
            &["HDEL packed f", "HSET plain f 7", "HDEL gone f"],
            &replies,
        );
    }
}

#[test]
fn a_score_is_the_number_that_its_text_begins_with() {
    for version in Version::ALL {
        let (rdb_version, _, zset) = packed(version);
        let odd = ["a", "-1e1x", "b", "", "c", "1.5abc", "d", "16e"];
        let keys = [("z", zset, blob(version, &odd))];
        let loaded = Loaded::new(version, &rdb(rdb_version, &keys));
        loaded.assert_applies(
            &["ZINCRBY z 1 c", "ZADD z 3 e"],
            &["ZRANGE z 0 -1 WITHSCORES"],
        );
        let output = run(&["get", "z", "--store", &loaded.store(), "--json"]);
        assert!(output.stdout.contains("\"score\": 16.0"), "{output:?}");
    }
}

/// As one of Redis 5.0 that was trimmed: 2 more than there are.
#[test]
fn a_stream_has_the_length_that_it_says() {
    let old = Server::start(Version::Redis60, &[]);
    for n in 1..=150 {
        old.cmd(&["XADD", "s", &format!("{n}-1"), "f", "v"]);
    }
    old.cmd(&["XTRIM", "s", "MAXLEN", "50"]);
    let mut dump: Vec<u8> = redis::cmd("DUMP")
        .arg("s")
        .query(&mut old.connect())
        .unwrap();
    dump.truncate(dump.len() - 10);
    let mut input = Cursor::new(&dump[1..]);
    for _ in 0..2 * input.number().unwrap() {
        input.string().unwrap();
    }
    let at = dump.len() - input.rest().len();
    assert_eq!(dump[at], 50);
    dump[at] = 52;
    let names = ["s", "t", "u", "w"];
    let keys = names.map(|name| (name, dump[0], dump[1..].to_vec()));
    for version in LENIENT {
        let loaded = Loaded::new(version, &rdb(9, &keys));
        let mut replies = Vec::new();
        for name in names {
            replies.extend([format!("XLEN {name}"), format!("XINFO STREAM {name}")]);
            replies.push(format!("XRANGE {name} - +"));
        }
        replies.retain(|reply| !reply.contains("INFO") || version.at_least_7());
        let replies: Vec<&str> = replies.iter().map(String::as_str).collect();
        let commands = [
            "XADD s 200-1 a b",
            "XTRIM t MAXLEN 20",
            "XDEL u 101-1",
            "XGROUP CREATE w g 140-1",
        ];
        loaded.assert_applies(&commands, &replies);
        loaded.assert_applies(
            &["XTRIM s MAXLEN 9", "XDEL t 150-1", "XADD u * f v"],
            &replies,
        );
    }
}
