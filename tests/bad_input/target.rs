//! Targets that must not be touched, and points that cannot be reached: refused before anything is changed.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::{fails, files, store, with_record};
use crate::support::master::{Manner, Master, Recording};
use crate::support::{Backfeed, Server, Version, list, run};

/// A store with the history of a server whose last write was `writes`.
struct Backup {
    home: TempDir,
    server: Server,
    /// Where its base stands.
    base: u64,
    /// The end of each write, in order.
    ends: Vec<u64>,
}

fn backup(version: Version, writes: &[&[&str]]) -> Backup {
    let home = TempDir::new().unwrap();
    let server = Server::start(version, &[]);
    server.cmd(&["SET", "before", "the base"]);
    let mut backfeed = Backfeed::backup(&server.url(), &store(&home), &[]);
    backfeed.wait_following();
    let base = list(&store(&home))["histories"][0]["bases"][0]["offset"]
        .as_u64()
        .unwrap();
    let mut ends = Vec::new();
    let mut connection = server.connect();
    for write in writes {
        let (name, args) = write.split_first().unwrap();
        let _: redis::Value = redis::cmd(name).arg(args).query(&mut connection).unwrap();
        let end = server.position().1;
        backfeed.wait_stored(end);
        ends.push(end);
    }
    assert_eq!(backfeed.sigterm(), 0);
    Backup {
        home,
        server,
        base,
        ends,
    }
}

impl Backup {
    fn store(&self) -> String {
        store(&self.home)
    }

    /// A restore to this server is refused with these words, and leaves it as it was.
    #[track_caller]
    fn refused_by(&self, target: &Server, words: &[&str]) {
        let digest = target.debug_digest();
        let (id, offset) = target.position();
        let begins = format!("error: {} ", target.addr());
        let all = [words, &[&begins, "Nothing was changed there"]].concat();
        fails(
            &["restore", "--store", &self.store(), "--to", &target.url()],
            4,
            &all,
        );
        assert_eq!(target.debug_digest(), digest);
        assert_eq!(target.position(), (id, offset));
        assert_eq!(target.info("replication")["role"], "master");
    }
}

#[test]
fn a_server_with_data_is_left_alone_unless_forced() {
    let backup = backup(Version::Redis70, &[&["SET", "k", "v"]]);
    let target = Server::start(Version::Redis70, &[]);
    target.cmd(&["SET", "precious", "1"]);
    backup.refused_by(
        &target,
        &[
            "holds 1 keys, which a restore would replace",
            "try: --force",
        ],
    );
    let args = [
        "restore",
        "--store",
        &backup.store(),
        "--to",
        &target.url(),
        "--force",
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(target.debug_digest(), backup.server.debug_digest());
}

#[test]
fn a_server_that_follows_another_is_left_alone() {
    let backup = backup(Version::Valkey91, &[]);
    let master = Server::start(Version::Valkey91, &[]);
    let replica = Server::builder(Version::Valkey91)
        .replicaof("127.0.0.1", master.port())
        .start();
    let args = [
        "restore",
        "--store",
        &backup.store(),
        "--to",
        &replica.url(),
    ];
    let of = format!(
        "is a replica of 127.0.0.1:{}. Run there first: redis-cli REPLICAOF NO ONE",
        master.port()
    );
    fails(&args, 4, &[&of, "Nothing was changed there"]);
    assert_eq!(
        replica.info("replication")["master_port"],
        master.port().to_string()
    );
}

#[test]
fn a_server_in_cluster_mode() {
    let backup = backup(Version::Redis86, &[]);
    let target = Server::builder(Version::Redis86)
        .arg("cluster-enabled", "yes")
        .start();
    backup.refused_by(&target, &["is in cluster mode", "restore to aof:DIRECTORY"]);
    // Not even by force.
    let args = [
        "restore",
        "--store",
        &backup.store(),
        "--to",
        &target.url(),
        "--force",
    ];
    fails(&args, 4, &["is in cluster mode"]);
}

#[test]
fn a_server_too_old_for_the_snapshot() {
    for (from, to, format) in [
        (Version::Redis86, Version::Redis60, "REDIS0013"),
        (Version::Redis86, Version::Valkey91, "REDIS0013"),
        (Version::Redis70, Version::Redis62, "REDIS0010"),
        (Version::Valkey91, Version::Redis86, "VALKEY080"),
        (Version::Valkey91, Version::Valkey81, "VALKEY080"),
    ] {
        let backup = backup(from, &[]);
        let target = Server::start(to, &[]);
        backup.refused_by(
            &target,
            &[
                &format!("which does not load a snapshot of format {format}"),
                "(written by ",
                "restore to a server of the version that was backed up, or newer",
            ],
        );
        let args = [
            "restore",
            "--store",
            &backup.store(),
            "--to",
            &target.url(),
            "--force",
        ];
        fails(&args, 4, &["which does not load a snapshot"]);
    }
}

#[test]
fn a_server_with_fewer_databases() {
    for writes in [
        &[&["SELECT", "9"][..], &["SET", "k", "v"]][..],
        // It is enough that the log speaks of it.
        &[&["SET", "k", "v"], &["SWAPDB", "0", "9"]],
        &[&["SET", "k", "v"], &["MOVE", "k", "9"]],
    ] {
        let backup = backup(Version::Redis86, writes);
        let small = Server::builder(Version::Redis86)
            .arg("databases", "9")
            .start();
        backup.refused_by(
            &small,
            &["has 9 databases, and the backup uses database 9: raise `databases`"],
        );
        let enough = Server::builder(Version::Redis86)
            .arg("databases", "10")
            .start();
        let args = ["restore", "--store", &backup.store(), "--to", &enough.url()];
        let output = run(&args);
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(enough.debug_digest(), backup.server.debug_digest());
    }
}

#[test]
fn a_server_without_a_module() {
    const CHARSET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for (type_name, module) in [("ReJSON-RL", Some("ReJSON")), ("mystery-1", None)] {
        let id = type_name.bytes().fold(0u64, |id, letter| {
            let code = CHARSET.iter().position(|&c| c == letter).unwrap();
            (id << 6) | code as u64
        });
        // MODULE_2, the key, the id with encoding version 3, an unsigned 7, the end.
        let value = [&[0x81][..], &((id << 10) | 3).to_be_bytes(), &[2, 7, 0]].concat();
        let record = [&[7, 3][..], b"doc", &value].concat();
        let recording = with_record(&Recording::of(Version::Redis70), &record);
        let master = Master::start(&recording, Manner::default());
        let home = TempDir::new().unwrap();
        let (url, store) = (master.url(), store(&home));
        let output = run(&["backup", "--redis", &url, "--store", &store, "--once"]);
        assert_eq!(output.code, 0, "{output:?}");
        let target = Server::start(Version::Redis70, &[]);
        let lacks = match module {
            Some(module) => format!("lacks the module {module} for values of type {type_name}"),
            None => {
                format!("has no module, but the backup holds module values of type {type_name}")
            }
        };
        fails(
            &["restore", "--store", &store, "--to", &target.url()],
            4,
            &[
                &lacks,
                "would exit while it loads them",
                "Nothing was changed there",
            ],
        );
        assert_eq!(target.info("replication")["role"], "master");
    }
}

#[test]
fn a_server_that_does_not_know_a_command_of_the_log() {
    // Both have the same snapshot format; the older one would skip what it does not know.
    let backup = backup(
        Version::Redis62,
        &[
            &["SET", "a", "1"],
            &["COPY", "a", "b"],
            &["RPUSH", "l", "x"],
            &["LMOVE", "l", "m", "LEFT", "LEFT"],
        ],
    );
    let target = Server::start(Version::Redis60, &[]);
    backup.refused_by(
        &target,
        &[
            "the log was written by Redis 6.2",
            "options that are unknown there and would be skipped",
        ],
    );
    // What is known for sure is not overridden.
    let args = [
        "restore",
        "--store",
        &backup.store(),
        "--to",
        &target.url(),
        "--force",
    ];
    fails(
        &args,
        4,
        &[
            "does not know these commands of the log: COPY, LMOVE. Restore to a server of the version that was backed up",
            "Nothing was changed there",
        ],
    );
    assert_eq!(target.info("replication")["role"], "master");
}

#[test]
fn points_that_cannot_be_reached() {
    let backup = backup(Version::Redis86, &[&["SET", "a", "1"], &["SET", "b", "2"]]);
    let store = backup.store();
    let home = TempDir::new().unwrap();
    let target = home.path().join("target");
    let to = format!("aof:{}", target.display());
    let restore = |more: &[&str]| {
        let args = ["restore", "--store", &store, "--to", &to];
        [&args[..], more]
            .concat()
            .iter()
            .map(|arg| (*arg).to_owned())
            .collect::<Vec<_>>()
    };
    let refused = |more: &[&str], words: &[&str]| {
        let args = restore(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        fails(&args, 6, words);
        assert!(files(&target).is_empty());
    };
    let oldest = format!(
        "is before the oldest point that can be restored, the snapshot at offset {}",
        backup.base
    );
    refused(
        &["--at", "2001-01-01T00:00:00Z"],
        &["2001-01-01T00:00:00.000Z", &oldest],
    );
    refused(&["--at", "1h ago"], &[&oldest]);
    if backup.base > 0 {
        refused(&["--offset", "0"], &[&oldest]);
    }
    let last = backup.ends[1];
    let beyond = (last + 1).to_string();
    refused(
        &["--offset", &beyond],
        &[
            &format!("{beyond} is after the last point that is stored, "),
            &format!(":{last}"),
            "Ask for `latest`",
        ],
    );
    let id = "0123456789abcdef0123456789abcdef01234567";
    refused(&["--history", id], &[&format!("there is no history {id}")]);
    // A time to come is a slip of the hand: nobody knows what will have been stored by then.
    let args = restore(&["--at", "2100-01-01T00:00:00Z"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    fails(
        &args,
        2,
        &["`2100-01-01T00:00:00Z` is in the future: write `latest`"],
    );
    // Now is fine, and is what `latest` is.
    let args = restore(&["--at", "0s ago", "--dry-run", "--json"]);
    let output = run(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(output.code, 0, "{output:?}");
    let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(report["end_offset"], last, "{report}");
}

#[test]
fn an_offset_inside_a_command_means_the_last_point_before_it() {
    let backup = backup(Version::Redis86, &[&["SET", "a", "1"], &["SET", "b", "2"]]);
    let store = backup.store();
    for (offset, end) in [
        (backup.ends[0], backup.ends[0]),
        (backup.ends[0] + 1, backup.ends[0]),
        (backup.ends[1] - 1, backup.ends[0]),
        (backup.ends[1], backup.ends[1]),
    ] {
        let offset = offset.to_string();
        let target = Server::start(Version::Redis86, &[]);
        let url = target.url();
        let args = [
            "restore", "--store", &store, "--to", &url, "--offset", &offset, "--json",
        ];
        let output = run(&args);
        assert_eq!(output.code, 0, "{output:?}");
        let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(report["end_offset"], end, "{report}");
        assert_eq!(target.text(&["GET", "a"]), "1");
        let second = target.cmd(&["EXISTS", "b"]);
        assert_eq!(second, redis::Value::Int(i64::from(end == backup.ends[1])));
    }
}

#[test]
fn files_that_are_in_the_way() {
    let backup = backup(Version::Redis86, &[&["SET", "a", "1"]]);
    let store = backup.store();
    let home = TempDir::new().unwrap();
    let file = home.path().join("x.rdb");
    let to = file.to_str().unwrap();
    let base = backup.base;
    let at = base.to_string();
    let exact = ["restore", "--store", &store, "--to", to, "--offset", &at];
    assert_eq!(run(&exact).code, 0);
    let made = fs::read(&file).unwrap();
    assert!(made.starts_with(b"REDIS0013"));
    let in_the_way =
        "Nothing was written. Choose another place, or force the restore to replace it";
    fs::write(&file, "mine").unwrap();
    fails(
        &exact,
        4,
        &[to, "exists already", in_the_way, "try: --force"],
    );
    assert_eq!(fs::read(&file).unwrap(), b"mine");
    assert_eq!(run(&[&exact[..], &["--force"]].concat()).code, 0);
    assert_eq!(fs::read(&file).unwrap(), made);

    let single = home.path().join("single");
    let directory = home.path().join("directory");
    fs::create_dir_all(directory.join("appendonlydir")).unwrap();
    fs::create_dir_all(&single).unwrap();
    // An empty one is what a server leaves that has written nothing.
    let precious = directory.join("appendonlydir/appendonly.aof.1.incr.aof");
    let old = single.join("appendonly.aof");
    for (place, file) in [(&directory, &precious), (&single, &old)] {
        fs::write(file, "precious").unwrap();
        let to = format!("aof:{}", place.display());
        let args = ["restore", "--store", &store, "--to", &to];
        fails(&args, 4, &["append-only file", in_the_way]);
        assert_eq!(files(place), std::slice::from_ref(file));
        assert_eq!(fs::read(file).unwrap(), b"precious");
        let output = run(&[&args[..], &["--force"]].concat());
        assert_eq!(output.code, 0, "{output:?}");
        assert!(place.join("appendonlydir/appendonly.aof.manifest").exists());
    }
    // --force cannot help.
    let as_file = directory.join("x.rdb");
    fs::create_dir(&as_file).unwrap();
    let of_file = format!("aof:{}", old.display());
    for (to, advice) in [
        (as_file.to_str().unwrap(), "Name a file"),
        (&of_file, "Name a directory"),
    ] {
        for more in [&[][..], &["--force"]] {
            let args = [&["restore", "--store", &store, "--to", to], more].concat();
            fails(&args, 1, &["cannot write", advice]);
        }
    }
    let nowhere = "aof:/proc/backfeed";
    fails(
        &["restore", "--store", &store, "--to", nowhere],
        1,
        &[
            "cannot write /proc/backfeed",
            "Check that the directory exists",
        ],
    );
    assert!(!Path::new("/proc/backfeed").exists());
}

#[test]
fn a_target_that_cannot_be_reached_or_refuses_us() {
    let backup = backup(Version::Redis70, &[]);
    let store = backup.store();
    let target = Server::builder(Version::Redis70)
        .arg("requirepass", "pw")
        .start();
    let bare = format!("redis://{}", target.addr());
    fails(
        &["restore", "--store", &store, "--to", &bare],
        4,
        &["refused the credentials: NOAUTH"],
    );
    fails(
        &["restore", "--store", &store, "--to", "redis://127.0.0.1:1"],
        4,
        &["error: cannot connect to 127.0.0.1:1: Connection refused"],
    );
    let url = target.url();
    target.cmd(&["ACL", "SETUSER", "bob", "on", ">pw", "+info", "+client"]);
    let bob = format!("redis://bob:pw@{}", target.addr());
    fails(
        &["restore", "--store", &store, "--to", &bob],
        4,
        &["REPLICAOF", "NOPERM"],
    );
    assert_eq!(target.info("replication")["role"], "master");
    let output = run(&["restore", "--store", &store, "--to", &url]);
    assert_eq!(output.code, 0, "{output:?}");
}
