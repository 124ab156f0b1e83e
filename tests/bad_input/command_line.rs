//! What is typed wrongly; and what must never be repeated, however it was typed.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::{fails, objects, store};
use crate::support::{Backfeed, Server, Version, free_port};

#[test]
fn command_lines_that_are_wrong() {
    let backup = [
        "backup",
        "--store",
        "file:///nowhere",
        "--redis",
        "redis://h",
    ];
    let sidecar = [
        "sidecar",
        "--store",
        "file:///nowhere",
        "--redis",
        "redis://h",
    ];
    let restore = ["restore", "--store", "file:///nowhere", "--to", "redis://h"];
    let with = |verb: &[&'static str], more: &[&'static str]| [verb, more].concat();
    for (args, words) in [
        (vec!["bakcup"], "unrecognized subcommand"),
        (with(&backup, &["--frobnicate"]), "unexpected argument"),
        (vec!["backup", "--redis", "redis://h"], "--store <URL>"),
        (
            vec!["backup", "--store", "file:///nowhere"],
            "--redis <URL>",
        ),
        (
            with(&backup, &["--flush-interval", "soon"]),
            "is not a length of time",
        ),
        (
            with(&backup, &["--flush-interval", "0s"]),
            "--flush-interval: must be 1ms or more",
        ),
        (
            with(&backup, &["--segment-size", "8 cows"]),
            "is not a size",
        ),
        (
            with(&backup, &["--segment-size", "1KiB"]),
            "--segment-size: must be 64KiB or more",
        ),
        (
            with(&backup, &["--memory-limit", "8MiB"]),
            "--feed-memory: must be twice --segment-size",
        ),
        (
            with(&backup, &["--ack", "hoped"]),
            "neither `stored` nor `received`",
        ),
        (with(&backup, &["--http", "9390"]), "--http"),
        (
            with(&sidecar, &["--listen", "0.0.0.0:6390"]),
            "--listen-password-file",
        ),
        (with(&sidecar, &["--history", "latest"]), "--history"),
        (with(&restore, &["--at", "now-ish"]), "now-ish"),
        (
            with(&restore, &["--at", "latest", "--offset", "1"]),
            "cannot be used with",
        ),
        (
            with(&restore, &["--continue-history", "--offset", "1"]),
            "Leave out --at and",
        ),
        (
            vec!["restore", "--store", "file:///nowhere", "--to", "elsewhere"],
            "no place to restore to",
        ),
        (
            vec!["restore", "--store", "file:///nowhere", "--to", "aof:"],
            "the directory is missing",
        ),
    ] {
        let output = fails(&args, 2, &["error: ", words]);
        assert_eq!(output.stdout, "", "{args:?}");
    }
    for (url, words) in [
        ("rediss://h/3", "nothing may follow the port"),
        ("http://h", "--redis: not a Redis URL"),
        ("redis://h:70000", "--redis: not a Redis URL"),
        ("redis://h/3", "all databases are backed up together"),
        ("redis://", "--redis: "),
        ("redis://h:0", "port 0"),
    ] {
        fails(
            &["backup", "--store", "file:///nowhere", "--redis", url],
            2,
            &[words],
        );
    }
}

/// What keeps nothing is no store: `WAIT` would say that all is stored.
#[test]
fn a_store_in_memory_is_refused() {
    let server = Server::start(Version::Redis70, &[]);
    for url in ["memory:", "memory:x"] {
        let backup = ["backup", "--once", "--store", url, "--redis", &server.url()];
        fails(&backup, 3, &["there is no kind of store called `memory`"]);
    }
    assert_eq!(server.info("stats")["sync_full"], "0");
}

/// Runs it as noisily as it can be, the Redis URL once as a flag and once from the environment.
fn noisily(args: &[&str], env: (&str, &str)) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_backfeed"))
        .args(args)
        .env(env.0, env.1)
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn no_password_is_ever_shown_or_stored() {
    const SECRET: &str = "hunter2-Zq";
    const WRONG: &str = "wrong3-Yw";
    let server = Server::builder(Version::Redis86)
        .arg("requirepass", SECRET)
        .start();
    server.cmd(&["SET", "k", "v"]);
    let home = TempDir::new().unwrap();
    let store = store(&home);
    let right = format!("redis://:{SECRET}@{}", server.addr());
    let wrong = format!("redis://default:{WRONG}@{}", server.addr());
    let off = format!("redis://u:{SECRET}@127.0.0.1:{}", free_port());
    let file = home.path().join("password");
    fs::write(&file, SECRET).unwrap();
    let bare = format!("redis://{}", server.addr());

    let mut said = String::new();
    for format in ["text", "json"] {
        for url in [right.as_str(), &wrong, &off] {
            let args = [
                "backup",
                "--once",
                "-vv",
                "--log-format",
                format,
                "--store",
                &store,
            ];
            said += &noisily(&args, ("BACKFEED_REDIS", url));
            said += &noisily(&[&args[..], &["--redis", url]].concat(), ("X", "y"));
            said += &noisily(
                &["restore", "--to", url, "-vv", "--store", &store],
                ("X", "y"),
            );
        }
    }
    let path = file.to_str().unwrap();
    let with_file = [
        "backup",
        "--once",
        "-vv",
        "--redis",
        &bare,
        "--store",
        &store,
        "--redis-password-file",
        path,
    ];
    said += &noisily(&with_file, ("X", "y"));
    for url in [
        format!("rediss://u:{SECRET}@h/3"),
        format!("redis://u:{SECRET}@h/3"),
        format!("redis://u:{SECRET}@"),
        format!("redis://u:{SECRET}@h:port"),
        format!("redis://u:p@ss {SECRET}@h/3"),
        format!("redis:/{SECRET}@h"),
    ] {
        for verb in ["backup", "sidecar"] {
            said += &noisily(&[verb, "--store", &store, "--redis", &url], ("X", "y"));
            said += &noisily(&[verb, "--store", &store, &url], ("BACKFEED_REDIS", &url));
        }
        said += &noisily(&["restore", "--store", &store, "--to", &url], ("X", "y"));
        said += &noisily(&["backup", "--help"], ("BACKFEED_REDIS", &url));
        said += &noisily(&["backup"], ("BACKFEED_REDIS", &url));
    }
    let mut backfeed = Backfeed::backup(&right, &store, &["-vv"]);
    backfeed.wait_following();
    server.cmd(&["SET", "k", "w"]);
    said += &backfeed.get("/readyz").unwrap().1;
    said += &backfeed.get("/metrics").unwrap().1;
    assert_eq!(backfeed.sigterm(), 0);
    said += &backfeed.log();
    said += &noisily(&["list", "--store", &store, "--json"], ("X", "y"));
    assert!(said.contains("one full sync is stored"), "{said}");
    assert!(
        said.contains("WRONGPASS") && said.contains("Connection refused"),
        "{said}"
    );
    for secret in [SECRET, WRONG] {
        let at = said.find(secret);
        let around = at.map(|at| &said[at.saturating_sub(300)..(at + 40).min(said.len())]);
        assert_eq!(around, None);
    }
    let all = objects(&home, "");
    assert!(all.len() >= 4, "{all:?}");
    for object in all {
        let bytes = fs::read(&object).unwrap();
        let stored = String::from_utf8_lossy(&bytes).into_owned();
        assert!(!stored.contains(SECRET), "{}", object.display());
    }
}
