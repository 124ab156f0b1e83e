//! What goes wrong, and what is said about it: each with its message and its exit code, as an operator sees them.

mod command_line;
mod damage;
mod target;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use backfeed::wire::crc64::Crc64;
use tempfile::TempDir;

use crate::support::backfeed::Output;
use crate::support::master::{Framing, MARK, Manner, Master, PASSWORD, Recording};
use crate::support::{Server, Version, free_port, run};

/// Runs it, and expects this exit code and all of these words in what it says.
#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) -> Output {
    let output = run(args);
    assert_eq!(output.code, code, "{args:?}: {output:?}");
    for word in words {
        assert!(
            output.stderr.contains(word),
            "{args:?}: `{word}` is not in {}",
            output.stderr
        );
    }
    // Of texts that others wrote, which end as they like.
    for twice in ["..\n", ".. ", ".:", ".;", ".,", "?."] {
        assert!(
            !output.stderr.contains(twice),
            "{args:?}: `{twice}` is in {}",
            output.stderr
        );
    }
    output
}

/// The same for a backup of `redis` into a store that must stay without a base.
#[track_caller]
fn backup_fails(redis: &str, code: i32, words: &[&str]) {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    fails(
        &["backup", "--redis", redis, "--store", &store, "--once"],
        code,
        words,
    );
    assert_eq!(objects(&home, "/base/"), Vec::<PathBuf>::new());
}

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

/// Objects whose name has this in it.
fn objects(home: &TempDir, part: &str) -> Vec<PathBuf> {
    let mut all = files(&home.path().join("bucket"));
    all.retain(|path| path.to_string_lossy().contains(part));
    all
}

/// All files below a directory, sorted.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Something that listens and is no Redis: sends `answer` to everybody, and waits.
fn stranger(answer: &'static [u8], hang_up: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut sink = [0; 1000];
                if !hang_up {
                    let _ = stream.read(&mut sink);
                }
                let _ = stream.write_all(answer);
                while !hang_up && stream.read(&mut sink).is_ok_and(|read| read > 0) {}
            });
        }
    });
    url
}

#[test]
fn a_host_that_cannot_be_reached() {
    let nobody = format!("redis://127.0.0.1:{}", free_port());
    let addr = nobody.trim_start_matches("redis://");
    backup_fails(
        &nobody,
        4,
        &[
            &format!("error: cannot connect to {addr}: Connection refused"),
            "Check that Redis runs there, and that this host can reach it",
        ],
    );
    backup_fails(
        "redis://no-such-host.invalid:7000",
        4,
        &["error: cannot connect to no-such-host.invalid:7000: "],
    );
}

#[test]
fn credentials_that_are_refused() {
    for version in Version::ALL {
        let server = Server::builder(version)
            .arg("requirepass", "correct-horse")
            .start();
        let addr = server.addr();
        let refused = format!("error: {addr}: the server refused the credentials: ");
        let advice = "Check user and password (or the password file)";
        backup_fails(
            &format!("redis://:battery-staple@{addr}"),
            4,
            &[&refused, "WRONGPASS", advice],
        );
        backup_fails(&format!("redis://{addr}"), 4, &[&refused, "NOAUTH", advice]);
        server.cmd(&[
            "ACL", "SETUSER", "bob", "on", ">pw", "+info", "+ping", "+config",
        ]);
        backup_fails(
            &format!("redis://bob:pw@{addr}"),
            4,
            &[
                &format!("error: {addr}: the user may not replicate: NOPERM"),
                "ACL SETUSER <user> +psync +replconf +ping +info",
            ],
        );
        // What the message advises works; without +info there is a warning.
        server.cmd(&["ACL", "SETUSER", "bob", "+psync", "+replconf", "-info"]);
        let home = TempDir::new().unwrap();
        let url = format!("redis://bob:pw@{addr}");
        let args = [
            "backup",
            "--redis",
            &url,
            "--store",
            &store(&home),
            "--once",
        ];
        let output = run(&args);
        assert_eq!(output.code, 0, "{output:?}");
        assert!(
            output.stderr.contains("INFO is not permitted"),
            "{output:?}"
        );
    }
}

/// Without `--once` too: nobody waits for a password to become right.
#[test]
fn a_refusal_at_the_first_try_ends_a_continuous_backup() {
    let server = Server::builder(Version::Redis86)
        .arg("requirepass", "correct-horse")
        .start();
    let home = TempDir::new().unwrap();
    let url = format!("redis://{}", server.addr());
    let begun = Instant::now();
    fails(
        &["backup", "--redis", &url, "--store", &store(&home)],
        4,
        &["NOAUTH"],
    );
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_password_file_that_cannot_be_used() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("password");
    let path = file.to_str().unwrap().to_owned();
    let store = store(&home);
    let args = [
        "backup",
        "--redis",
        "redis://127.0.0.1:1",
        "--store",
        &store,
        "--redis-password-file",
        &path,
    ];
    fails(&args, 2, &["--redis-password-file", &path, "No such file"]);
    fs::write(&file, "\n").unwrap();
    fails(&args, 2, &["--redis-password-file", &path, "it is empty"]);
    fs::write(&file, "a").unwrap();
    let both = [&args[..2], &["redis://:b@127.0.0.1:1"], &args[3..]].concat();
    fails(
        &both,
        2,
        &["there is a password in the URL and a password file"],
    );
}

#[test]
fn something_that_is_not_redis() {
    let http = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    backup_fails(
        &stranger(http, false),
        4,
        &[
            "error: 127.0.0.1:",
            ": this does not look like a Redis server: ",
        ],
    );
    backup_fails(
        &stranger(b"SSH-2.0-OpenSSH_9.2p1\r\n", true),
        4,
        &["this does not look like a Redis server"],
    );
    backup_fails(
        &stranger(b"", true),
        4,
        &["the connection was lost in an ordinary command: "],
    );
}

#[test]
fn something_that_says_nothing() {
    let begun = Instant::now();
    backup_fails(
        &stranger(b"", false),
        4,
        &["the connection was lost in an ordinary command: no answer to INFO within 15 s"],
    );
    assert!(begun.elapsed() < Duration::from_secs(25));
}

#[test]
fn a_server_without_psync() {
    let recording = Recording::of(Version::Redis70);
    for answer in [
        "-ERR unknown command `PSYNC`, with args beginning with: `?`, `-1`, \r\n",
        "-ERR unknown command 'psync'\r\n",
        "-ERR Command is disabled\r\n",
    ] {
        let master = Master::start(
            &recording,
            Manner {
                psync_reply: Some(answer.to_owned()),
                ..Manner::default()
            },
        );
        backup_fails(
            &master.url(),
            4,
            &[
                "the server does not offer replication to backfeed: ERR ",
                "ElastiCache, MemoryDB, Memorystore, Azure Cache and most proxies",
                "a server that you run yourself",
            ],
        );
    }
    // The real thing: a server whose administrator has taken the command away.
    let server = Server::builder(Version::Redis70)
        .arg("rename-command", "PSYNC \"\"")
        .start();
    backup_fails(
        &server.url(),
        4,
        &["the server does not offer replication to backfeed"],
    );
}

#[test]
fn a_master_that_hangs_up_early() {
    let recording = Recording::of(Version::Redis86);
    let line = format!(
        "+OK\r\n+FULLRESYNC {} {}\r\n",
        recording.id, recording.offset
    )
    .len();
    let length = line + format!("${}\r\n", recording.rdb.len()).len();
    let mark = line + "$EOF:\r\n".len() + MARK.len();
    for (framing, cut) in [
        (Framing::Length, length + recording.rdb.len() / 2),
        (Framing::Length, length + recording.rdb.len() - 1),
        (Framing::Mark, mark + recording.rdb.len() / 2),
        (Framing::Mark, mark + recording.rdb.len()),
        (Framing::Mark, mark + recording.rdb.len() + 39),
    ] {
        let manner = Manner {
            framing,
            cut_link: Some(cut),
            ..Manner::default()
        };
        let master = Master::start(&recording, manner);
        let addr = format!("127.0.0.1:{}", master.port());
        backup_fails(
            &master.url(),
            4,
            &[&format!(
                "error: the full sync was cut short: {addr}: the connection was lost during the full sync: "
            )],
        );
    }
    // In the middle of a command. The snapshot was whole, and only that was wanted.
    for (framing, start) in [(Framing::Length, length), (Framing::Mark, mark + 40)] {
        let manner = Manner {
            framing,
            cut_link: Some(start + recording.rdb.len() + 9),
            ..Manner::default()
        };
        let master = Master::start(&recording, manner);
        let home = TempDir::new().unwrap();
        let url = master.url();
        let args = [
            "backup",
            "--redis",
            &url,
            "--store",
            &store(&home),
            "--once",
        ];
        let output = run(&args);
        assert_eq!(output.code, 0, "{output:?}");
        assert_eq!(objects(&home, "/base/").len(), 2);
    }
}

#[test]
fn a_corrupt_rdb_is_never_kept() {
    let recording = Recording::of(Version::Redis86);
    let length = recording.rdb.len();
    for (place, bit) in [
        (0, 0x20),
        (12, 0x01),
        (length / 3, 0x10),
        (length / 2, 0x01),
        (length - 30, 0x04),
        (length - 1, 0x80),
    ] {
        let mut corrupt = recording.clone();
        corrupt.rdb[place] ^= bit;
        for framing in [Framing::Length, Framing::Mark] {
            let manner = Manner {
                framing,
                ..Manner::default()
            };
            let master = Master::start(&corrupt, manner);
            backup_fails(
                &master.url(),
                4,
                &["error: the RDB that the server sent is damaged, and was not kept: "],
            );
        }
    }
    let mut long = recording.clone();
    long.rdb.extend_from_slice(b"more");
    let master = Master::start(&long, Manner::default());
    backup_fails(&master.url(), 4, &["bytes follow the end of the RDB"]);
    let mut short = recording.clone();
    short.rdb.truncate(length - 12);
    let master = Master::start(&short, Manner::default());
    backup_fails(&master.url(), 4, &["the RDB was cut off: it stops after"]);
}

/// `recording` with one more key before the end of its snapshot, checksum and all.
fn with_record(recording: &Recording, record: &[u8]) -> Recording {
    let end = recording.rdb.len() - 9;
    assert_eq!(recording.rdb[end], 0xFF);
    let mut rdb = [&recording.rdb[..end], record, &[0xFF]].concat();
    rdb.extend(Crc64::of(&rdb).to_le_bytes());
    Recording {
        rdb,
        ..recording.clone()
    }
}

#[test]
fn a_value_of_a_future_type_does_not_lose_the_backup() {
    let value = b"what a later server may write\x00\xff\x01";
    let record = [&[63, 3][..], b"key", value].concat();
    let future = with_record(&Recording::of(Version::Redis86), &record);
    for framing in [Framing::Length, Framing::Mark] {
        let manner = Manner {
            framing,
            ..Manner::default()
        };
        let master = Master::start(&future, manner);
        let home = TempDir::new().unwrap();
        let (url, store) = (master.url(), store(&home));
        let output = run(&["backup", "--redis", &url, "--store", &store, "--once"]);
        assert_eq!(output.code, 0, "{output:?}");
        assert!(
            output.stderr.contains("WARN") && output.stderr.contains("keys after that point"),
            "{output:?}"
        );
        let manifest = objects(&home, "/base/").remove(0);
        let manifest: serde_json::Value =
            serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
        let from = future.rdb.len() - 9 - record.len();
        assert_eq!(manifest["unwalked_from"], from);
        let reason = manifest["unwalked_reason"].as_str().unwrap();
        assert!(reason.contains("63"), "{reason}");
        assert_eq!(manifest["rdb_checksum"], true);

        let file = home.path().join("copy.rdb");
        let to = file.to_str().unwrap();
        let offset = future.offset.to_string();
        let args = [
            "restore", "--store", &store, "--to", to, "--offset", &offset,
        ];
        let output = run(&args);
        assert_eq!(output.code, 0, "{output:?}");
        let copy = fs::read(&file).unwrap();
        let (body, checksum) = copy.split_at(copy.len() - 8);
        assert_eq!(Crc64::of(body).to_le_bytes(), checksum);
        assert!(body.ends_with(&[&record[..], &[0xFF]].concat()));
    }
}

#[test]
fn stores_that_cannot_be_used() {
    let server = Server::start(Version::Redis86, &[]);
    let url = server.url();
    let home = TempDir::new().unwrap();
    let place = |name: &str| format!("file://{}/{name}", home.path().display());
    let verbs = |store: &str, code: i32, words: &[&str]| {
        fails(
            &["backup", "--redis", &url, "--store", store, "--once"],
            code,
            words,
        );
        fails(&["restore", "--to", "x.rdb", "--store", store], code, words);
        fails(&["list", "--store", store], code, words);
    };
    fs::create_dir(home.path().join("photos")).unwrap();
    fs::write(home.path().join("photos/cat.jpg"), "miau").unwrap();
    verbs(
        &place("photos"),
        3,
        &[
            "is not a backfeed archive: it holds cat.jpg but no archive.json",
            "Choose another directory or prefix",
            &place("photos"),
        ],
    );
    fs::create_dir(home.path().join("other")).unwrap();
    let document = home.path().join("other/archive.json");
    for text in [
        "{}",
        "no json",
        "{\"format\": 1, \"kind\": \"photos\", \"created_unix_ms\": 1}",
    ] {
        fs::write(&document, text).unwrap();
        verbs(
            &place("other"),
            3,
            &["is not a backfeed archive: archive.json"],
        );
    }
    fs::write(home.path().join("file"), "").unwrap();
    verbs(&place("file"), 3, &["it is not a directory", "/file"]);
    verbs(&place("file/below"), 3, &["/file/below", "Not a directory"]);

    for (store, words) in [
        (
            "ftp://bucket/x",
            "there is no kind of store called `ftp`; use gs://",
        ),
        ("s3://bucket/a//b", "write s3://BUCKET"),
        ("az://UP/x", "write az://CONTAINER"),
        ("bucket", "it is not a URL. For a directory write file:///"),
        (
            "/bucket",
            "it is not a URL. For a directory write file:///bucket",
        ),
        ("file://bucket/x", "with three slashes"),
    ] {
        verbs(store, 3, &["cannot open the store", store, words]);
    }
    // Nobody, root included, makes a directory here.
    for store in ["file:///proc/backfeed", "file:///sys/backfeed"] {
        let args = ["backup", "--redis", &url, "--store", store, "--once"];
        fails(&args, 3, &["error: cannot create archive.json: "]);
    }
    assert!(!Path::new("x.rdb").exists());
}

#[test]
fn a_store_with_nothing_in_it() {
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let restore = ["restore", "--store", &store, "--to", "x.rdb"];
    let nothing = "is empty: nothing has been backed up there";
    fails(&restore, 6, &["error: file:///", nothing]);
    fails(
        &["list", "--store", &store],
        6,
        &["error: file:///", nothing],
    );
    // A script gets its document all the same.
    let listed = run(&["list", "--store", &store, "--json"]);
    assert_eq!(listed.code, 6, "{listed:?}");
    let document: serde_json::Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(document["histories"], serde_json::json!([]));
    assert!(
        !home.path().join("bucket").exists(),
        "looking makes nothing"
    );
    fs::create_dir(home.path().join("bucket")).unwrap();
    fails(&restore, 6, &[nothing]);
    // An archive, but the first full sync never came to its end.
    let document = "{\"format\": 1, \"kind\": \"backfeed archive\", \"created_unix_ms\": 1}";
    fs::write(home.path().join("bucket/archive.json"), document).unwrap();
    fails(
        &restore,
        6,
        &["holds no complete snapshot yet: the first full sync is not finished"],
    );
    let id = "0123456789abcdef0123456789abcdef01234567";
    fails(
        &[&restore[..], &["--history", id]].concat(),
        6,
        &[&format!("there is no history {id}")],
    );
}

/// A scripted master that really checks the password.
#[test]
fn the_scripted_master_asks_for_its_password() {
    let recording = Recording::of(Version::Valkey91);
    let manner = Manner {
        password: true,
        ..Manner::default()
    };
    let master = Master::start(&recording, manner);
    let bare = format!("redis://127.0.0.1:{}", master.port());
    backup_fails(&bare, 4, &["NOAUTH"]);
    let home = TempDir::new().unwrap();
    let (url, store) = (master.url(), store(&home));
    let output = run(&["backup", "--redis", &url, "--store", &store, "--once"]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(!output.stderr.contains(PASSWORD));
}
