//! Nobody outside stops the storing: connections that do nothing, passwords that are guessed, files that are none.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{Backfeed, Env, Server, Version, free_port, on, run, wait_until};

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

/// Both limits of it, as `ulimit` sets them: nothing can be raised.
const FEW_FILES: &str = "ulimit -n 256";

fn idle_connections_keep_nothing_from_being_stored(version: Version) {
    let home = TempDir::new().unwrap();
    let listen = free_port();
    let redis = Server::builder(version)
        .replicaof("127.0.0.1", listen)
        .start();
    let (url, store, address) = (redis.url(), store(&home), format!("127.0.0.1:{listen}"));
    let args = [
        "sidecar", "--redis", &url, "--store", &store, "--listen", &address,
    ];
    let mut backfeed = Backfeed::start_after(Some(FEW_FILES), Env::new(), &args);
    wait_until("Redis is a master", PATIENCE, || {
        redis.info("replication")["role"] == "master"
    });
    backfeed.wait_captured(&redis);
    let mut idle = Vec::new();
    for port in [backfeed.http_port(), listen] {
        for _ in 0..370 {
            idle.push(TcpStream::connect(("127.0.0.1", port)).unwrap());
        }
    }
    let mut connection = redis.connect();
    for round in 0..20 {
        redis::cmd("SET")
            .arg("a")
            .arg(round)
            .exec(&mut connection)
            .unwrap();
        let wait = redis::cmd("WAIT").arg(1).arg(10_000).to_owned();
        assert_eq!(
            wait.query::<u32>(&mut connection).unwrap(),
            1,
            "{version}, round {round}"
        );
    }
    let open = fs::read_dir(format!("/proc/{}/fd", backfeed.pid()))
        .unwrap()
        .count();
    assert!(open < 160, "{version}: {open} files are open");
    // Probes and scrapes go on.
    assert_eq!(backfeed.get("/healthz").unwrap().0, 200);
    assert!(!backfeed.log().contains("Too many open files"));
    drop(idle);
    assert_eq!(backfeed.sigterm(), 0);
}

on!(idle_connections_keep_nothing_from_being_stored: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// Guesses for `time`: how many were answered.
fn guess(listen: u16, time: Duration) -> usize {
    let begun = Instant::now();
    let mut answered = 0;
    while begun.elapsed() < time {
        let mut stream = TcpStream::connect(("127.0.0.1", listen)).unwrap();
        stream.set_read_timeout(Some(time)).unwrap();
        let guesses: String = (0..50)
            .map(|n| format!("AUTH {answered}-{n}\r\n"))
            .collect();
        if stream.write_all(guesses.as_bytes()).is_err() {
            continue;
        }
        let mut answer = [0; 8];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"-WRONGPA");
            answered += 1;
        }
    }
    answered
}

#[test]
fn passwords_are_guessed_once_a_second_and_the_right_one_still_opens() {
    let home = TempDir::new().unwrap();
    let secret = home.path().join("password");
    fs::write(&secret, "the-right-one").unwrap();
    let listen = free_port();
    let redis = Server::builder(Version::Redis86)
        .replicaof("127.0.0.1", listen)
        .arg("masterauth", "wrong")
        .start();
    let (url, store, address) = (redis.url(), store(&home), format!("127.0.0.1:{listen}"));
    let secret = secret.display().to_string();
    let args = [
        "sidecar",
        "--redis",
        &url,
        "--store",
        &store,
        "--listen",
        &address,
        "--listen-password-file",
        &secret,
    ];
    let backfeed = Backfeed::start(&args);
    backfeed.wait("the wrong password is reported", |view| {
        view["last_error"]
            .as_str()
            .is_some_and(|error| error.contains("masterauth"))
    });
    let answered = guess(listen, Duration::from_secs(8));
    assert!((1..=12).contains(&answered), "{answered} guesses");
    // The right one among the further ones of a connection is not looked at.
    let mut stream = TcpStream::connect(("127.0.0.1", listen)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"AUTH nothing\r\nAUTH the-right-one\r\nQUIT\r\n")
        .unwrap();
    let mut answer = String::new();
    while answer.matches("\r\n").count() < 3 {
        let mut some = [0; 512];
        let length = stream.read(&mut some).unwrap();
        assert!(length > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&some[..length]));
    }
    assert_eq!(answer.matches("-WRONGPASS").count(), 2, "{answer}");
    assert!(!answer.contains("+OK"), "{answer}");
    redis.cmd(&["CONFIG", "SET", "masterauth", "the-right-one"]);
    wait_until("Redis is a master", PATIENCE, || {
        redis.info("replication")["role"] == "master"
    });
}

/// Every file and directory below, with its mode.
fn assert_private(path: &Path, made: &mut usize) {
    let found = fs::symlink_metadata(path).unwrap();
    let mode = found.permissions().mode() & 0o777;
    *made += 1;
    if !found.is_dir() {
        assert_eq!(mode, 0o600, "{}", path.display());
        return;
    }
    assert_eq!(mode, 0o700, "{}", path.display());
    for entry in fs::read_dir(path).unwrap() {
        assert_private(&entry.unwrap().path(), made);
    }
}

#[test]
fn what_is_made_of_redis_is_read_by_nobody_else() {
    let home = TempDir::new().unwrap();
    let redis = Server::start(Version::Redis70, &[]);
    redis.cmd(&["SET", "a", "1"]);
    let spool = home.path().join("spool");
    fs::create_dir(&spool).unwrap();
    let store = store(&home);
    let (url, spool) = (redis.url(), spool.display().to_string());
    let args = [
        "backup",
        "--redis",
        &url,
        "--store",
        &store,
        "--spool-dir",
        &spool,
    ];
    // Whatever the shell allows.
    let mut backfeed = Backfeed::start_after(Some("umask 000"), Env::new(), &args);
    backfeed.wait_captured(&redis);
    redis.cmd(&["SET", "b", "2"]);
    backfeed.wait_captured(&redis);
    assert_eq!(backfeed.sigterm(), 0);
    let to = |name: &str| home.path().join(name).display().to_string();
    for (name, dest, more) in [
        ("copy.rdb", to("copy.rdb"), &[][..]),
        ("aof", format!("aof:{}", to("aof")), &[]),
        (
            "keys.resp",
            format!("resp:{}", to("keys.resp")),
            &["--keys", "*"],
        ),
    ] {
        let args = ["restore", "--store", &store, "--to", &dest];
        let output = run(&[&args, more].concat());
        assert_eq!(output.code, 0, "{output:?}");
        let mut made = 0;
        assert_private(&home.path().join(name), &mut made);
        assert!(made > 0);
    }
    let mut made = 0;
    assert_private(&home.path().join("bucket"), &mut made);
    assert!(made > 8, "{made}");
}

/// The first file below a directory whose name ends so.
fn file_below(directory: &Path, end: &str) -> std::path::PathBuf {
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                return path;
            }
        }
    }
    panic!("nothing ends with {end} below {}", directory.display());
}

#[test]
fn a_pipe_in_the_place_of_an_object_is_told_and_holds_nobody() {
    let home = TempDir::new().unwrap();
    let redis = Server::start(Version::Redis70, &[]);
    redis.cmd(&["SET", "a", "1"]);
    let store = store(&home);
    let mut backfeed = Backfeed::backup(&redis.url(), &store, &[]);
    backfeed.wait_captured(&redis);
    redis.cmd(&["SET", "b", "2"]);
    backfeed.wait_captured(&redis);
    assert_eq!(backfeed.sigterm(), 0);
    for end in [".resp.zst", ".rdb.zst", "history.json"] {
        let path = file_below(&home.path().join("bucket"), end);
        let aside = home.path().join("aside");
        fs::rename(&path, &aside).unwrap();
        let made = Command::new("mkfifo").arg(&path).status().unwrap();
        assert!(made.success());
        let begun = Instant::now();
        let output = run(&["verify", "--deep", "--store", &store]);
        assert!(begun.elapsed() < PATIENCE, "{end}");
        assert_ne!(output.code, 0, "{end}: {output:?}");
        let told = format!("{}{}", output.stdout, output.stderr);
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            told.contains("backfeed makes only regular files"),
            "{end}: {told}"
        );
        assert!(told.contains(&name), "{end}: {told}");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    let output = run(&["verify", "--deep", "--store", &store]);
    assert_eq!(output.code, 0, "{output:?}");
}
