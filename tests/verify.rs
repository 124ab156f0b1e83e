//! `backfeed verify`: it calls sound what is sound, and finds and names each kind of damage.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::Output;
use crate::support::data::{Expiries, Load, Random, for_each_version};
use crate::support::state::{quiet, replica_of};
use crate::support::{Backfeed, Server, Version, list, run, wait_until};

/// A store with a base, some segments of every command, and a second base.
struct Stored {
    home: TempDir,
    server: Server,
}

impl Stored {
    fn new(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let stored = Self {
            home,
            server: Server::start(version, &[]),
        };
        let load = Load::start(&stored.server, 11, Expiries::Mixed);
        load.wait(300);
        let backfeed = stored.backup();
        load.wait(900);
        wait_until("there are segments", Duration::from_secs(30), || {
            backfeed.metric("backfeed_segments_stored_total") >= 6.0
        });
        load.stop();
        quiet(&stored.server, 1);
        drop(backfeed);
        stored
    }

    fn backup(&self) -> Backfeed {
        let flush = ["--flush-interval", "50ms"];
        let backfeed = Backfeed::backup(&self.server.url(), &self.store(), &flush);
        backfeed.wait_following();
        backfeed
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    /// The objects with this in their name, by name.
    fn objects(&self, part: &str) -> Vec<PathBuf> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.home.path().join("bucket"), &mut found);
        found.retain(|path| path.to_string_lossy().contains(part));
        found.sort();
        found
    }

    fn verify(&self, more: &[&str]) -> Output {
        run(&[&["verify", "--store", &self.store()], more].concat())
    }

    #[track_caller]
    fn is_sound(&self, more: &[&str]) -> String {
        let output = self.verify(more);
        assert_eq!(output.code, 0, "{output:?}");
        let last = output.stdout.lines().last().unwrap();
        assert!(last.starts_with("sound: 1 history"), "{output:?}");
        output.stdout
    }

    /// Exactly one thing is wrong, and these words tell it.
    #[track_caller]
    fn is_damaged(&self, more: &[&str], words: &[&str]) {
        let output = self.verify(more);
        assert_eq!(output.code, 7, "{output:?}");
        let last = output.stdout.lines().last().unwrap();
        assert!(last.starts_with("damaged: 1 problem "), "{output:?}");
        for word in words {
            assert!(output.stdout.contains(word), "`{word}`: {output:?}");
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_string_lossy().into_owned()
}

/// Changes a byte from the end of a file.
fn spoil(path: &Path, from_end: usize) -> Vec<u8> {
    let good = fs::read(path).unwrap();
    let mut bad = good.clone();
    let at = bad.len() - from_end;
    bad[at] ^= 0x20;
    replace(path, &bad);
    good
}

/// What nobody but a vandal does.
fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

for_each_version!(
    what_is_stored_is_sound_and_both_readers_say_so,
    the_data_of_another_base_is_damage_to_every_reader,
);

fn what_is_stored_is_sound_and_both_readers_say_so(version: Version) {
    let stored = Stored::new(version);
    stored.is_sound(&[]);
    let base = |store: &str| list(store)["histories"][0]["bases"][0].clone();
    assert_eq!(base(&stored.store())["verified"], false);
    stored.is_sound(&["--deep"]);
    assert_eq!(base(&stored.store())["verified"], true);
    let text = run(&["list", "--store", &stored.store()]).stdout;
    assert!(text.contains(", verified\n"), "{text}");

    let verdicts = stored.objects(".verified.json");
    assert_eq!(verdicts.len(), 1, "{verdicts:?}");
    let verdict: Value = serde_json::from_slice(&fs::read(&verdicts[0]).unwrap()).unwrap();
    let [own, second] = &verdict["readings"].as_array().unwrap()[..] else {
        panic!("{verdict}");
    };
    assert!(own["databases"].as_object().unwrap().len() > 3, "{verdict}");
    if version == Version::Valkey91 {
        assert!(second["no_opinion"].as_str().unwrap().contains("VALKEY080"));
    } else {
        assert_eq!(own["databases"], second["databases"], "{verdict}");
    }
    // A verdict is no stranger, and nobody minds it.
    let report: Value = serde_json::from_str(&stored.verify(&["--deep", "--json"]).stdout).unwrap();
    assert_eq!(
        (&report["sound"], &report["problems"]),
        (&true.into(), &0.into())
    );
    assert_eq!(report["notes"], serde_json::json!([]));
    assert_eq!(stored.objects(".verified.json"), verdicts);
    let restored = crate::support::restored(version, &stored.store());
    assert_eq!(
        restored.info("server")["tcp_port"],
        restored.port().to_string()
    );
}

#[test]
fn damage_to_the_log_is_found_and_named() {
    let stored = Stored::new(Version::Redis70);
    let log = stored.objects("/log/");
    // One in the middle, with more in it than a PING.
    let inner = log[1..log.len() - 1].iter();
    let victim = inner
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap();

    let good = spoil(victim, 30);
    stored.is_sound(&[]);
    stored.is_damaged(&["--deep"], &[&name(victim), "copy of the store"]);
    replace(victim, &good);

    let good = fs::read(victim).unwrap();
    replace(victim, &good[..good.len() - 5]);
    stored.is_damaged(&["--deep"], &[&name(victim)]);

    replace(victim, b"not a segment");
    stored.is_damaged(&[], &[&name(victim)]);

    fs::remove_file(victim).unwrap();
    stored.is_damaged(
        &[],
        &[&name(victim), "is missing; the next segment begins at byte"],
    );
    let report: Value = serde_json::from_str(&stored.verify(&["--json"]).stdout).unwrap();
    let finding = &report["histories"][0]["findings"][0];
    let object = finding["object"].as_str().unwrap();
    assert!(object.ends_with(&name(victim)), "{report}");
    fs::write(victim, &good).unwrap();
    stored.is_sound(&["--deep"]);
}

#[test]
fn damage_to_a_base_is_found_and_named_and_no_verdict_is_given() {
    let stored = Stored::new(Version::Redis80);
    let base = &stored.objects(".rdb.zst")[0];
    let manifest = stored
        .objects("/base/")
        .into_iter()
        .find(|path| path != base)
        .unwrap();

    // Within the frames, before the seek table.
    let good = spoil(base, 200);
    stored.is_sound(&[]);
    stored.is_damaged(&["--deep"], &[&name(base)]);
    replace(base, &good);

    let text = fs::read_to_string(&manifest).unwrap();
    let mut wrong: Value = serde_json::from_str(&text).unwrap();
    wrong["types"]["string"] = 1_000_000.into();
    replace(&manifest, wrong.to_string().as_bytes());
    stored.is_sound(&[]);
    stored.is_damaged(&["--deep"], &[&name(&manifest), "keys by type"]);
    assert_eq!(stored.objects(".verified.json"), Vec::<PathBuf>::new());

    replace(&manifest, text.as_bytes());
    fs::remove_file(base).unwrap();
    stored.is_damaged(&[], &[&name(base), "is missing"]);
}

/// Two bases of one server with a value of the same length, in objects of the same size.
fn two_alike(server: &Server, store: &str) -> [Value; 2] {
    for round in 0..20_u64 {
        // Nothing that zstd could make smaller.
        let mut random = Random::new(round);
        let value = format!("{:016x}{:016x}", random.next(), random.next());
        server.cmd(&["SET", "k", &value]);
        let once = [
            "backup",
            "--once",
            "--redis",
            &server.url(),
            "--store",
            store,
        ];
        let output = run(&once);
        assert_eq!(output.code, 0, "{output:?}");
        let listed = list(store);
        let bases = listed["histories"][0]["bases"].as_array().unwrap();
        let last = bases.last().unwrap();
        let sizes = |base: &Value| (base["raw_bytes"].clone(), base["stored_bytes"].clone());
        let mut before = bases.iter().take(bases.len() - 1);
        if let Some(twin) = before.find(|base| sizes(base) == sizes(last)) {
            return [twin.clone(), last.clone()];
        }
    }
    panic!("no two bases of the same size");
}

/// The checksum of a whole RDB is 0, so only the digest differs.
fn the_data_of_another_base_is_damage_to_every_reader(version: Version) {
    let home = TempDir::new().unwrap();
    let server = Server::start(version, &[]);
    let stored = Stored { home, server };
    let store = stored.store();
    let [one, two] = two_alike(&stored.server, &store);
    let offsets = [&one, &two].map(|base| base["offset"].as_u64().unwrap());
    let objects = offsets.map(|offset| {
        let name = format!("{offset:020}.rdb.zst");
        stored.objects(&name).into_iter().next().unwrap()
    });
    let at = offsets.map(|offset| format!("offset:{offset}"));
    let get = |at: &str| run(&["get", "k", "--store", &store, "--at", at]);
    let values = [&at[0], &at[1]].map(|at| get(at).stdout);
    assert_ne!(values[0], values[1]);

    let data = [&objects[0], &objects[1]].map(|object| fs::read(object).unwrap());
    replace(&objects[0], &data[1]);
    replace(&objects[1], &data[0]);
    let deep = stored.verify(&["--deep"]);
    assert_eq!(deep.code, 7, "{deep:?}");
    assert!(deep.stdout.contains("damaged: 2 problems"), "{deep:?}");
    for object in &objects {
        assert!(deep.stdout.contains(&name(object)), "{deep:?}");
    }
    let fresh = Server::start(version, &[]);
    let url = fresh.url();
    let rdb = stored.home.path().join("out.rdb");
    for (index, other) in [(0, 1), (1, 0)] {
        let found = get(&at[index]);
        assert_eq!(found.code, 7, "{found:?}");
        assert!(!found.stdout.contains(values[other].trim()), "{found:?}");
        for to in [url.as_str(), rdb.to_str().unwrap()] {
            let restore = ["restore", "--store", &store, "--at", &at[index], "--to", to];
            let output = run(&restore);
            assert_eq!(output.code, 7, "{output:?}");
        }
    }
    assert_eq!(fresh.text(&["DBSIZE"]), "0");

    // Manifests of an earlier version have no digest. The RDB says where it stands, as far as its server wrote that into it.
    for object in &objects {
        let manifest = object.with_file_name(name(object).replace(".rdb.zst", ".json"));
        let mut document: Value = serde_json::from_slice(&fs::read(&manifest).unwrap()).unwrap();
        document.as_object_mut().unwrap().remove("digest").unwrap();
        replace(&manifest, document.to_string().as_bytes());
    }
    let deep = stored.verify(&["--deep"]);
    assert_eq!(deep.code, 7, "{deep:?}");
    assert!(deep.stdout.contains("the data of another base"), "{deep:?}");
    replace(&objects[0], &data[0]);
    replace(&objects[1], &data[1]);
    let text = stored.is_sound(&["--deep"]);
    assert!(
        text.contains("are those that were once stored: an earlier version"),
        "{text}"
    );
    assert_eq!(get(&at[0]).stdout, values[0]);
}

#[test]
fn what_is_no_damage_is_a_note() {
    let stored = Stored::new(Version::Redis70);
    let base = &stored.objects(".rdb.zst")[0];
    let stray = base.with_file_name(format!("{:020}.rdb.zst", 9_999_999));
    fs::copy(base, &stray).unwrap();
    fs::write(stored.home.path().join("bucket/holiday.jpg"), "x").unwrap();
    let text = stored.is_sound(&["--deep"]);
    assert!(text.contains("does not count"), "{text}");
    assert!(text.contains("holiday.jpg"), "{text}");
    let unknown = "0".repeat(40);
    assert_eq!(stored.verify(&["--history", &unknown]).code, 6);
}

/// Full syncs that stepped over bytes, a failover, a restore that continues the history: all of it is as it should be.
#[test]
fn gaps_that_are_known_and_histories_that_go_on_are_sound() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let flush = ["--flush-interval", "50ms"];
    let backup = |of: &Server| {
        let backfeed = Backfeed::backup(&of.url(), &store, &flush);
        backfeed.wait_following();
        backfeed
    };
    let mut master = Server::builder(Version::Redis80)
        .arg("repl-backlog-size", "16kb")
        .start();
    let mut first = backup(&master);
    let load = Load::start(&master, 20, Expiries::Late);
    wait_until("some of it is stored", Duration::from_secs(30), || {
        first.metric("backfeed_segments_stored_total") >= 1.0
    });
    first.kill9();
    load.wait(1500); // more than the backlog holds
    let mut second = backup(&master);
    let replica = replica_of(&master);
    load.wait(500);
    let mix = load.stop();
    quiet(&master, 2);
    second.kill9();
    master.kill9();
    replica.cmd(&["REPLICAOF", "NO", "ONE"]);
    let third = backup(&replica);
    let load = Load::go_on(&replica, mix);
    load.wait(500);
    load.stop();
    quiet(&replica, 1);
    drop((third, replica));
    let fresh = Server::start(Version::Redis80, &[]);
    let args = [
        "restore",
        "--store",
        &store,
        "--to",
        &fresh.url(),
        "--continue-history",
    ];
    assert_eq!(run(&args).code, 0);
    let fourth = backup(&fresh);
    fresh.cmd(&["SET", "more", "x"]);
    quiet(&fresh, 1);
    drop(fourth);

    for more in [&[][..], &["--deep"]] {
        let output = run(&[&["verify", "--store", &store], more].concat());
        assert_eq!(output.code, 0, "{output:?}");
        assert!(output.stdout.contains("\nsound: 3 histories"), "{output:?}");
        assert!(
            output.stdout.contains("a full sync stepped over them"),
            "{output:?}"
        );
    }
    // Where a history left its parent, the parent's last segment is what is needed.
    let listed = list(&store);
    let child = listed["histories"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| !it["parent"].is_null());
    let parent = &child.unwrap()["parent"];
    let log = home
        .path()
        .join("bucket/histories")
        .join(parent["history"].as_str().unwrap())
        .join("log");
    let mut segments: Vec<PathBuf> = fs::read_dir(log)
        .unwrap()
        .map(|it| it.unwrap().path())
        .collect();
    segments.sort();
    let at = parent["offset"].as_u64().unwrap();
    let before = |path: &&PathBuf| {
        name(path)
            .trim_end_matches(".resp.zst")
            .parse::<u64>()
            .unwrap()
            <= at
    };
    let last = segments.iter().rfind(before).unwrap();
    fs::remove_file(last).unwrap();
    let output = run(&["verify", "--store", &store]);
    assert_eq!(output.code, 7, "{output:?}");
    assert!(
        output.stdout.contains("and that offset cannot be restored"),
        "{output:?}"
    );
}
