//! What is stored can be restored without backfeed: by the very commands of the documents, with `zstd`, `redis-server` and
//! `redis-cli` alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use redis::Connection;
use tempfile::TempDir;

use crate::support::data::{Expiries, Load, for_each_version};
use crate::support::spans::delete_merged;
use crate::support::state::{Moment, State, quiet, replica_of, unix_ms};
use crate::support::{Backfeed, Server, Version, free_port, list, run, wait_until};

const RECIPES: &str = include_str!("../docs/restore-without-backfeed.md");

/// The commands of that page: where things are, the ways by an append-only directory and by an append-only file, the
/// way by `redis-cli --pipe`.
fn recipes() -> [String; 4] {
    let blocks: Vec<&str> = RECIPES
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    let [first, by_file, by_pipe] = blocks[..] else {
        panic!("three blocks of commands: {blocks:?}");
    };
    let (places, by_directory) = first.split_once("\n\n").expect("the places come first");
    [
        places.to_owned(),
        by_directory.to_owned(),
        by_file.to_owned(),
        by_pipe.to_owned(),
    ]
}

/// A store with two histories, the older one with a gap before its newest base.
struct Stored {
    home: TempDir,
    version: Version,
    older: String,
    newer: String,
    last: Moment,
}

impl Stored {
    fn new(version: Version, expiries: Expiries) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let backup = |of: &Server| {
            let backfeed = Backfeed::backup(&of.url(), &store, &[]);
            backfeed.wait_following();
            backfeed
        };
        let mut master = Server::builder(version)
            .arg("repl-backlog-size", "64kb")
            .start();
        let mut first = backup(&master);
        let load = Load::start(&master, 20, expiries);
        wait_until("some of it is stored", Duration::from_secs(30), || {
            first.metric("backfeed_segments_stored_total") >= 1.0
        });
        first.kill9();
        load.wait(4000); // more than the backlog holds
        let mut second = backup(&master);
        // Where the server writes more than its backlog holds during the first one, there is another.
        let full_syncs = second.metric("backfeed_full_syncs_total");
        assert!(full_syncs >= 1.0, "{version}: no gap");
        let replica = replica_of(&master);
        load.wait(500);
        let mix = load.stop();
        quiet(&master, 2);
        let older = master.position().0;
        second.kill9();
        master.kill9();
        replica.cmd(&["REPLICAOF", "NO", "ONE"]);
        let third = backup(&replica);
        let load = Load::go_on(&replica, mix);
        load.wait(500);
        load.stop();
        let last = quiet(&replica, 1);
        assert_eq!(
            third.metric("backfeed_full_syncs_total") as u64,
            0,
            "{version}: goes on"
        );
        let newer = replica.position().0;
        assert_eq!(list(&store)["latest"], *newer);
        drop((third, replica));
        // The log of the older history ends with a seal, so all of it can be merged.
        let merged = run(&["merge", "--store", &store, "--json"]);
        assert_eq!(merged.code, 0, "{merged:?}");
        let history = home.path().join("bucket/histories").join(&older);
        assert!(
            delete_merged(&history) > 0,
            "{version}: nothing was deleted"
        );
        Self {
            home,
            version,
            older,
            newer,
            last,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The numbers of the first and the last base, by the names of the files alone. A slow machine makes one between them.
    fn bases(&self) -> [String; 2] {
        let dir = self.path("bucket/histories").join(&self.older).join("base");
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .collect();
        names.sort();
        let last = names.pop().unwrap();
        assert!(!names.is_empty(), "one base: {last}");
        [names.swap_remove(0), last]
    }

    /// Runs commands of the documents, with these files instead of those of its example: from the newest base on.
    fn run(&self, commands: &str) -> Restored {
        let [_, newest] = self.bases();
        self.run_from(&newest, commands)
    }

    fn run_from(&self, base: &str, commands: &str) -> Restored {
        let data = self.path("data");
        fs::create_dir(&data).unwrap();
        let port = free_port();
        let script = commands
            .replace("00000000000000000014", base)
            .replace("0123…", &self.older)
            .replace("4567…", &self.newer)
            .replace("/backups/shop", self.path("bucket").to_str().unwrap())
            .replace("/data", data.to_str().unwrap());
        for example in ["…", "/backups/shop"] {
            assert!(!script.contains(example), "{script}");
        }
        let tools = self.tools(port);
        let log = fs::File::create(self.path("log")).unwrap();
        let child = Command::new("sh")
            .args(["-e", "-c", &script])
            .env("PATH", format!("{}:/usr/bin:/bin", tools.display()))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("sh");
        Restored {
            child,
            port,
            log: self.path("log"),
        }
    }

    /// `redis-server` and `redis-cli` of the version, which differ from installed ones only in where they listen.
    fn tools(&self, port: u16) -> PathBuf {
        let tools = self.path("tools");
        fs::create_dir(&tools).unwrap();
        let debug = if self.version.at_least_7() {
            "--enable-debug-command yes"
        } else {
            ""
        };
        let server = self.version.program("server");
        let server = format!(
            "exec {} --bind 127.0.0.1 --port {port} {debug} \"$@\"",
            server.display()
        );
        let cli = format!(
            "exec {} -p {port} \"$@\"",
            self.version.program("cli").display()
        );
        for (name, command) in [("redis-server", server), ("redis-cli", cli)] {
            let path = tools.join(name);
            fs::write(&path, format!("#!/bin/sh\n{command}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        tools
    }
}

/// The server that the commands of the documents started.
struct Restored {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Restored {
    fn connect(&self) -> Option<Connection> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}/", self.port)).unwrap();
        client.get_connection().ok()
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned()
    }

    /// Waits until it has loaded what lies there.
    fn up(&self) -> Connection {
        wait_until("the server is up", Duration::from_secs(30), || {
            self.log().contains("Ready to accept connections")
        });
        self.connect().expect("a connection")
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the commands of the documents said:\n{}", self.log());
        }
        // Its own process may be a child of the shell.
        if let Some(mut connection) = self.connect() {
            let _: redis::RedisResult<()> =
                redis::cmd("SHUTDOWN").arg("NOSAVE").query(&mut connection);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

for_each_version!(
    as_append_only_files,
    as_rdb_and_then_commands,
    stops_at_a_gap
);

/// Up to 6.2, "in N seconds" is counted from the replay, as the documents say.
fn tolerance_ms(stored: &Stored) -> i64 {
    const LOAD: i64 = 15_000;
    match stored.version.relative_ttls() {
        true => unix_ms() - stored.last.unix_ms + LOAD,
        false => 0,
    }
}

fn as_append_only_files(version: Version) {
    let stored = Stored::new(version, Expiries::Mixed);
    let [places, by_directory, by_file, _] = recipes();
    let commands = match version.at_least_7() {
        true => by_directory,
        false => by_file,
    };
    let restored = stored.run(&format!("{places}\n{commands}"));
    let found = State::read(&mut restored.up(), version);
    let context = format!("{version}: as append-only files");
    found.assert_is(&stored.last.state, tolerance_ms(&stored), &context);
    every_object_is_zstd(&stored.path("bucket"));
}

fn as_rdb_and_then_commands(version: Version) {
    // Nothing that has expired by now: the documents tell what becomes of that.
    let stored = Stored::new(version, Expiries::Late);
    let [places, _, _, by_pipe] = recipes();
    let mut restored = stored.run(&format!("{places}\n{by_pipe}"));
    let mut status = None;
    wait_until("the commands have ended", Duration::from_secs(60), || {
        status = restored.child.try_wait().unwrap();
        status.is_some()
    });
    let log = restored.log();
    assert!(
        status.unwrap().success() && log.contains("errors: 0,"),
        "{version}: {log}"
    );
    let found = State::read(&mut restored.connect().unwrap(), version);
    let context = format!("{version}: RDB, then commands");
    found.assert_is(&stored.last.state, tolerance_ms(&stored), &context);
    every_object_is_zstd(&stored.path("bucket"));
}

/// From the base before the gap no way goes past it: a part of the keys, without a word, is worse than nothing.
fn stops_at_a_gap(version: Version) {
    let stored = Stored::new(version, Expiries::Late);
    let [places, by_directory, by_file, by_pipe] = recipes();
    let way = match version.at_least_7() {
        true => by_directory,
        false => by_file,
    };
    let [oldest, newest] = stored.bases();
    let gap = format!("{}/log/", stored.older);
    for commands in [way, by_pipe] {
        let mut stopped = stored.run_from(&oldest, &format!("{places}\n{commands}"));
        let status = stopped.child.wait().unwrap();
        let log = stopped.log();
        assert!(!status.success(), "{version}: {log}");
        assert!(
            log.contains("is not used")
                && log.contains(&gap)
                && log.contains("Take a base after it"),
            "{version}: {log}"
        );
        assert_eq!(
            fs::read_dir(stored.path("data")).unwrap().count(),
            0,
            "{version}: {log}"
        );
        drop(stopped);
        fs::remove_dir_all(stored.path("data")).unwrap();
        fs::remove_dir_all(stored.path("tools")).unwrap();
    }
    // A base that stands behind it does go on: that is what the other tests use.
    let history = stored.path("bucket/histories").join(&stored.older);
    let gap = fs::read_dir(history.join("log"))
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .find(|object| String::from_utf8_lossy(object).contains("\"stored\":0,"));
    let gap = gap.unwrap();
    let gap = String::from_utf8_lossy(&gap);
    let to = gap.split("\"to\":").nth(1).unwrap();
    let to: u64 = to.split(',').next().unwrap().parse().unwrap();
    assert!(to <= newest.parse().unwrap(), "{version}: {to}, {newest}");
}

/// Histories of the documents' example.
const PARENT: &str = "0123…";
const CHILD: &str = "4567…";

/// Folders with objects that are nothing but headers: what the commands look at before anything is decompressed.
struct Headers {
    home: TempDir,
}

impl Headers {
    /// `left`: where the child leaves its parent.
    fn new(left: Option<u64>) -> Self {
        let home = TempDir::new().unwrap();
        for (id, parent) in [(PARENT, None), (CHILD, left)] {
            let history = home.path().join(id);
            fs::create_dir_all(history.join("log")).unwrap();
            let parent = parent
                .map(|offset| serde_json::json!({"history": PARENT, "offset": offset, "db": 0}));
            let doc = serde_json::json!({"format": 1, "id": id, "parent": parent});
            fs::write(
                history.join("history.json"),
                serde_json::to_vec_pretty(&doc).unwrap(),
            )
            .unwrap();
        }
        Self { home }
    }

    fn put(&self, object: &str, header: &str) {
        let path = self.home.path().join(object);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // What is before and behind a header is no text.
        let body = [
            b"\x5b\x2a\x4d\x18\x0a\0BACKFEED\0\xff",
            header.as_bytes(),
            b"\xfe\n\"to\":9,\"stored\":0,",
        ];
        fs::write(path, body.concat()).unwrap();
    }

    fn log(&self, history: &str, from: u64, to: u64, stored: u64) -> String {
        let object = format!("{history}/log/{from:020}.resp.zst");
        self.put(&object, &format!(r#"{{"kind":"segment","history":"x","from":{from},"to":{to},"db":0,"stored":{stored},"stored_crc64":"0"}}"#));
        object
    }

    fn segment(&self, history: &str, from: u64, to: u64) -> String {
        self.log(history, from, to, 10)
    }

    fn span(&self, history: &str, from: u64, to: u64) -> String {
        let object = format!("{history}/span/{from:020}-{to:020}.resp.zst");
        self.put(&object, &format!(r#"{{"kind":"span","history":"x","from":{from},"to":{to},"db":0,"stored":7,"stored_crc64":"0","frames":[[7,"0"]]}}"#));
        object
    }

    fn seal(&self, history: &str, from: u64) {
        let object = format!("{history}/log/{from:020}.resp.zst");
        self.put(
            &object,
            &format!(r#"{{"kind":"seal","history":"x","from":{from}}}"#),
        );
    }

    /// The log that the commands choose after a base of the parent, or what they say.
    fn chosen(&self, base: u64) -> Result<Vec<String>, String> {
        let [places, ..] = recipes();
        let script = places
            .replace("00000000000000000014", &format!("{base:020}"))
            .replace(
                "/backups/shop/histories",
                self.home.path().to_str().unwrap(),
            );
        let output = Command::new("sh")
            .args(["-c", &format!("{script}\nprintf '%s\\n' $logs")])
            .output()
            .expect("sh");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout).lines().map(str::to_owned).collect()),
            false => Err(text(&output.stderr)),
        }
    }

    fn says(&self, base: u64, wanted: &str) {
        let said = self.chosen(base).unwrap_err();
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
}

/// Two processes merged one log in two ways.
#[test]
fn overlapping_spans_lose_no_byte_and_what_no_way_leads_through_is_said() {
    let archive = Headers::new(None);
    let long = archive.span(PARENT, 101, 400);
    let second = archive.span(PARENT, 201, 500);
    let tail = archive.segment(PARENT, 501, 600);
    archive.says(100, "no object begins with byte 401");
    // Either merger went on, or the segments are still there.
    let first = archive.span(PARENT, 101, 200);
    assert_eq!(
        archive.chosen(100).unwrap(),
        [first.as_str(), &second, &tail]
    );
    fs::remove_file(archive.home.path().join(&first)).unwrap();
    let between = archive.segment(PARENT, 401, 500);
    assert_eq!(
        archive.chosen(100).unwrap(),
        [long.as_str(), &between, &tail]
    );
    assert_eq!(archive.chosen(200).unwrap(), [second.as_str(), &tail]);
    // A base stands inside of what there is.
    archive.says(250, "no object begins with byte 251");
    archive.says(600, "there is no log after the base");
    archive.span(PARENT, 551, 650);
    archive.says(100, "no object begins with byte 601");
}

#[test]
fn a_gap_what_is_empty_and_what_is_damaged_are_said() {
    let archive = Headers::new(None);
    let first = archive.segment(PARENT, 101, 200);
    // Somebody slept: it reaches into the next one. So does a seal with something behind it.
    archive.segment(PARENT, 151, 230);
    archive.seal(PARENT, 181);
    let second = archive.segment(PARENT, 201, 300);
    archive.seal(PARENT, 301);
    let both = [first.as_str(), second.as_str()];
    assert_eq!(archive.chosen(100).unwrap(), both);
    archive.segment(PARENT, 311, 400);
    archive.says(100, "no object begins with byte 301");
    let empty = archive.log(PARENT, 301, 310, 0);
    archive.says(100, &format!("{empty} is not used: it is empty"));
    assert_eq!(archive.chosen(310).unwrap().len(), 1);
    archive.put(&format!("{PARENT}/log/{:020}.resp.zst", 401), "{}");
    archive.says(310, "cannot be read");
}

#[test]
fn a_parent_is_followed_to_where_it_was_left() {
    let archive = Headers::new(Some(300));
    let first = archive.span(PARENT, 101, 300);
    archive.segment(PARENT, 301, 350);
    archive.seal(PARENT, 351);
    let own = archive.segment(CHILD, 301, 320);
    assert_eq!(archive.chosen(100).unwrap(), [first.as_str(), &own]);
    archive.says(350, "the base stands behind the point");
    // It was left within an object.
    let archive = Headers::new(Some(280));
    archive.span(PARENT, 101, 300);
    archive.says(100, "no object begins with byte 101");
    archive.segment(CHILD, 281, 320);
    archive.says(100, "no object begins with byte 101");
}

/// Segments, seals and bases, by the word of `zstd` itself.
fn every_object_is_zstd(bucket: &Path) {
    let mut objects = Vec::new();
    let mut dirs = vec![bucket.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                objects.push(path);
            }
        }
    }
    let (compressed, others): (Vec<_>, Vec<_>) = objects
        .into_iter()
        .partition(|path| path.extension().is_some_and(|ext| ext == "zst"));
    assert!(compressed.len() > 5, "{compressed:?}");
    for path in &compressed {
        let output = Command::new("zstd").arg("-t").arg(path).output().unwrap();
        assert!(output.status.success(), "{}: {output:?}", path.display());
    }
    for path in others {
        assert!(
            path.extension().is_some_and(|ext| ext == "json"),
            "{}",
            path.display()
        );
    }
}
