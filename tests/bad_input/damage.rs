//! Objects that were damaged, cut, lost, renamed or written by somebody else: a restore names them, and writes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::{fails, files, store};
use crate::support::{Backfeed, Server, Version, run};

/// A small real archive: a base and a log of several segments.
struct Sample {
    home: TempDir,
    server: Server,
}

impl Sample {
    fn new(version: Version) -> Self {
        Self::with_segments(version, 4)
    }

    fn with_segments(version: Version, segments: usize) -> Self {
        let home = TempDir::new().unwrap();
        let server = Server::start(version, &[]);
        let mut connection = server.connect();
        for n in 0..50 {
            let _: () = redis::cmd("SET")
                .arg(format!("{version}:{n}"))
                .arg(format!("{n}").repeat(40))
                .query(&mut connection)
                .unwrap();
        }
        let mut backfeed =
            Backfeed::backup(&server.url(), &store(&home), &["--flush-interval", "1h"]);
        backfeed.wait_following();
        for n in 0..segments {
            let _: () = redis::cmd("RPUSH")
                .arg("log")
                .arg(format!("{version} {n} ").repeat(30))
                .query(&mut connection)
                .unwrap();
            // Stores it, as a segment of its own.
            let stored: u32 = redis::cmd("WAIT")
                .arg(1)
                .arg(20_000)
                .query(&mut connection)
                .unwrap();
            assert_eq!(stored, 1);
        }
        assert_eq!(backfeed.sigterm(), 0);
        Self { home, server }
    }

    /// A copy to be damaged.
    fn copy(&self) -> Copy {
        let home = TempDir::new().unwrap();
        let from = self.home.path().join("bucket");
        for file in files(&from) {
            let to = home
                .path()
                .join("bucket")
                .join(file.strip_prefix(&from).unwrap());
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(&file, to).unwrap();
        }
        Copy { home }
    }
}

struct Copy {
    home: TempDir,
}

impl Copy {
    /// The object at `index` among those with this end.
    fn object(&self, end: &str, index: usize) -> PathBuf {
        let mut all = files(&self.home.path().join("bucket"));
        all.retain(|path| path.to_string_lossy().ends_with(end));
        assert!(all.len() > index, "{end}: {all:?}");
        all.swap_remove(index)
    }

    fn segment(&self, index: usize) -> PathBuf {
        self.object(".resp.zst", index)
    }

    fn base(&self) -> PathBuf {
        self.object(".rdb.zst", 0)
    }

    fn manifest(&self) -> PathBuf {
        let manifest = self.base().to_string_lossy().replace(".rdb.zst", ".json");
        manifest.into()
    }

    fn history(&self) -> PathBuf {
        self.object("history.json", 0)
    }

    /// An object's name, as messages give it.
    fn name(&self, path: &Path) -> String {
        let name = path.strip_prefix(self.home.path().join("bucket")).unwrap();
        name.to_string_lossy().into_owned()
    }

    #[track_caller]
    fn restore_fails(&self, code: i32, words: &[&str]) {
        let target = self.home.path().join("target");
        let to = format!("aof:{}", target.display());
        let args = ["restore", "--store", &store(&self.home), "--to", &to];
        fails(&args, code, words);
        assert_eq!(files(&target), Vec::<PathBuf>::new(), "nothing is written");
        // Others must be able to see it too, whatever it is.
        let listed = run(&["list", "--store", &store(&self.home)]);
        assert!([0, 7].contains(&listed.code), "{listed:?}");
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn change_json(path: &Path, change: impl FnOnce(&mut Value)) {
    let mut document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut document);
    fs::write(path, document.to_string()).unwrap();
}

#[test]
fn a_sound_copy_is_restored() {
    let copy = Sample::new(Version::Redis86).copy();
    assert!(copy.segment(3).exists());
    let to = format!("aof:{}", copy.home.path().join("target").display());
    let output = run(&["restore", "--store", &store(&copy.home), "--to", &to]);
    assert_eq!(output.code, 0, "{output:?}");
}

#[test]
fn segments() {
    let sample = Sample::new(Version::Redis86);
    let stranger = Sample::new(Version::Valkey91).copy();
    for index in 0..4 {
        let damaged = |harm: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
            let copy = sample.copy();
            let segment = copy.segment(index);
            change(&segment, harm);
            let name = copy.name(&segment);
            copy.restore_fails(7, &[&[name.as_str()], words].concat());
        };
        damaged(&|bytes| *bytes.last_mut().unwrap() ^= 1, &["damaged"]);
        damaged(
            &|bytes| {
                let at = bytes.len() - 20;
                bytes[at] ^= 0x40
            },
            &["damaged"],
        );
        damaged(&|bytes| bytes[3] ^= 1, &["not a log segment"]);
        damaged(&|bytes| bytes[40] ^= 1, &["its header is damaged"]);
        damaged(&|bytes| bytes.truncate(bytes.len() - 5), &["truncated"]);
        damaged(&|bytes| bytes.truncate(30), &[]);
        damaged(&|bytes| bytes.clear(), &[]);
        damaged(
            &|bytes| bytes.extend_from_slice(b"more"),
            &["bytes after its end"],
        );
        // The format version stands behind the frame's magic and length, and our own magic.
        damaged(
            &|bytes| bytes[16] = 2,
            &["has format 2, and this version of backfeed reads up to 1. Use a newer backfeed"],
        );

        let copy = sample.copy();
        let other = copy.segment((index + 1) % 4);
        fs::copy(other, copy.segment(index)).unwrap();
        let name = copy.name(&copy.segment(index));
        copy.restore_fails(7, &[&name, "was renamed: its content says that it is "]);

        let copy = sample.copy();
        fs::copy(stranger.segment(index), copy.segment(index)).unwrap();
        copy.restore_fails(7, &[&name, "was renamed: its content says that it is "]);
    }
}

/// The first byte of a segment, by its name.
fn number(path: &Path) -> u64 {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    name.split('.').next().unwrap().parse().unwrap()
}

#[test]
fn a_segment_that_is_not_there() {
    let sample = Sample::with_segments(Version::Redis86, 14);
    // The last one but one too: what lies beyond a hole is never passed over.
    for index in [0, 1, 5, 12] {
        for renamed in [false, true] {
            let copy = sample.copy();
            let gone = copy.segment(index);
            let (first, next) = (number(&gone), number(&copy.segment(index + 1)));
            if renamed {
                let elsewhere = format!("{:020}.resp.zst", 999_999_999);
                fs::rename(&gone, gone.with_file_name(elsewhere)).unwrap();
            } else {
                fs::remove_file(&gone).unwrap();
            }
            let history = gone.ancestors().nth(2).unwrap().file_name().unwrap();
            copy.restore_fails(
                7,
                &[
                    &format!("the log of history {} has a gap", history.display()),
                    &format!("byte {first} is missing"),
                    &format!("(the next segment begins at byte {next})"),
                    &format!("Ask for offset {}, the last one before the gap", first - 1),
                ],
            );
            // What the message advises works.
            let to = format!("aof:{}", copy.home.path().join("target").display());
            let before = (first - 1).to_string();
            let store = store(&copy.home);
            let args = [
                "restore", "--store", &store, "--to", &to, "--offset", &before,
            ];
            let output = run(&args);
            assert_eq!(output.code, 0, "{output:?}");
        }
    }
}

#[test]
fn bases() {
    let sample = Sample::new(Version::Redis80);
    let stranger = Sample::new(Version::Valkey81).copy();
    let none = "there is no sound snapshot for ";
    let damaged = |harm: &dyn Fn(&mut Vec<u8>), words: &[&str]| {
        let copy = sample.copy();
        change(&copy.base(), harm);
        let name = copy.name(&copy.base());
        copy.restore_fails(7, &[&[name.as_str(), none], words].concat());
    };
    damaged(
        &|bytes| {
            let at = bytes.len() / 2;
            bytes[at] ^= 1
        },
        &[],
    );
    damaged(&|bytes| bytes[0] ^= 1, &[]);
    damaged(&|bytes| bytes.truncate(bytes.len() - 1), &["is truncated"]);
    damaged(&|bytes| bytes.truncate(100), &["is truncated"]);
    damaged(&|bytes| bytes.clear(), &["is truncated"]);
    damaged(
        &|bytes| bytes.extend_from_slice(b"more"),
        &["bytes after its end"],
    );

    let copy = sample.copy();
    let name = copy.name(&copy.base());
    fs::remove_file(copy.base()).unwrap();
    copy.restore_fails(7, &[&name, "is missing"]);
    let copy = sample.copy();
    fs::copy(stranger.base(), copy.base()).unwrap();
    copy.restore_fails(7, &[&name, none]);

    let manifest = |harm: &dyn Fn(&Copy), words: &[&str]| {
        let copy = sample.copy();
        let name = copy.name(&copy.manifest());
        harm(&copy);
        copy.restore_fails(7, &[&[name.as_str()], words].concat());
    };
    manifest(
        &|copy| change_json(&copy.manifest(), |doc| doc["format"] = 2.into()),
        &["has format 2, and this version of backfeed reads up to 1. Use a newer backfeed"],
    );
    manifest(
        &|copy| change(&copy.manifest(), |bytes| bytes.truncate(50)),
        &[],
    );
    manifest(&|copy| change(&copy.manifest(), Vec::clear), &[]);
    manifest(
        &|copy| assert!(fs::copy(stranger.manifest(), copy.manifest()).unwrap() > 0),
        &["was renamed: its content says that it is "],
    );
    // A manifest that describes other bytes than are there.
    for (field, value) in [
        ("raw_bytes", Value::from(7)),
        ("stored_bytes", Value::from(7)),
        ("crc64", Value::from("0123456789abcdef")),
    ] {
        let copy = sample.copy();
        change_json(&copy.manifest(), |doc| doc[field] = value.clone());
        copy.restore_fails(7, &[&name]);
    }
    // Without a manifest there is no base.
    let copy = sample.copy();
    fs::remove_file(copy.manifest()).unwrap();
    copy.restore_fails(6, &["holds no complete snapshot yet"]);
}

#[test]
fn documents() {
    let sample = Sample::new(Version::Redis70);
    let newer = "has format 2, and this version of backfeed reads up to 1. Use a newer backfeed";
    let copy = sample.copy();
    let archive = copy.object("archive.json", 0);
    change_json(&archive, |doc| doc["format"] = 2.into());
    copy.restore_fails(7, &["archive.json", newer]);

    let copy = sample.copy();
    let name = copy.name(&copy.history());
    change_json(&copy.history(), |doc| doc["format"] = 2.into());
    copy.restore_fails(7, &[&name, newer]);
    let copy = sample.copy();
    change(&copy.history(), |bytes| bytes.truncate(40));
    copy.restore_fails(7, &[&name]);
    let copy = sample.copy();
    fs::remove_file(copy.history()).unwrap();
    copy.restore_fails(7, &[&name, "missing"]);
    let copy = sample.copy();
    let id = "0123456789abcdef0123456789abcdef01234567";
    change_json(&copy.history(), |doc| doc["id"] = id.into());
    copy.restore_fails(7, &[&name, "was renamed: its content says that it is "]);
}

/// With an older base there is still a way: it is taken, it is said, and it leads to the same data.
#[test]
fn a_damaged_base_is_passed_over_for_an_older_one() {
    let sample = Sample::new(Version::Redis86);
    let again = [
        "backup",
        "--redis",
        &sample.server.url(),
        "--store",
        &store(&sample.home),
        "--once",
    ];
    assert_eq!(run(&again).code, 0);
    let copy = sample.copy();
    let newest = copy.object(".rdb.zst", 1);
    change(&newest, |bytes| bytes.truncate(20));
    let target = Server::start(Version::Redis86, &[]);
    let args = [
        "restore",
        "--store",
        &store(&copy.home),
        "--to",
        &target.url(),
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(
        output
            .stderr
            .contains("this snapshot cannot be used. Looking for an older one"),
        "{output:?}"
    );
    assert!(output.stdout.contains("was skipped"), "{output:?}");
    assert_eq!(target.debug_digest(), sample.server.debug_digest());
}
