//! `backfeed status`: what running services say of themselves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::run_within;
use crate::support::{Backfeed, Server, Version, free_port, run};

fn store(home: &TempDir, name: &str) -> String {
    format!("file://{}/{name}", home.path().display())
}

/// Where it serves its health.
fn http(backfeed: &Backfeed) -> String {
    format!("127.0.0.1:{}", backfeed.http_port())
}

/// The lines of the table that begin with a service.
fn row<'a>(table: &'a str, service: &str) -> Vec<&'a str> {
    let line = table.lines().find(|line| line.starts_with(service));
    let line = line.unwrap_or_else(|| panic!("{service}: {table}"));
    line.split_whitespace().collect()
}

#[test]
fn services_are_asked_how_they_are() {
    let home = TempDir::new().unwrap();
    let mut one = Server::start(Version::Redis86, &[]);
    let other = Server::start(Version::Valkey91, &[]);
    one.cmd(&["SET", "a", "1"]);
    let first = Backfeed::backup(&one.url(), &store(&home, "one"), &[]);
    let second = Backfeed::backup(&other.url(), &store(&home, "other"), &[]);
    first.wait_captured(&one);
    second.wait_captured(&other);
    let (at, other_at) = (http(&first), http(&second));
    let output = run(&["status", &at, &other_at]);
    assert_eq!(output.code, 0, "{output:?}");
    for service in [&at, &other_at] {
        let row = row(&output.stdout, service);
        assert_eq!(row[1..3], ["yes", "following"], "{}", output.stdout);
        // Stored and made seconds ago.
        assert!(row[5].parse::<u64>().unwrap() < 60, "{}", output.stdout);
        assert!(row[7].parse::<u64>().unwrap() < 60, "{}", output.stdout);
    }
    let output = run(&["status", "--json", &format!("http://{at}/")]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(answer["ready"], true, "{answer:#}");
    let status = &answer["services"][0]["status"];
    assert_eq!(
        status["stored_offset"],
        first.readyz().unwrap()["stored_offset"]
    );
    let base = status["base_unix_ms"].as_i64().unwrap();
    let listed = crate::support::list(&store(&home, "one"));
    let bases = listed["histories"][0]["bases"].as_array().unwrap();
    let made = bases[0]["created_unix_ms"].as_i64().unwrap();
    assert!((base - made).abs() < 10_000, "{base} {made}");

    // One server is gone, and one service.
    one.kill9();
    first.wait("it notices", |view| view["ready"] == false);
    let nobody = format!("127.0.0.1:{}", free_port());
    let output = run(&["status", &at, &other_at, &nobody]);
    assert_eq!(output.code, 1, "{output:?}");
    assert_eq!(row(&output.stdout, &at)[1], "NO", "{}", output.stdout);
    assert_eq!(row(&output.stdout, &other_at)[1], "yes");
    assert_eq!(row(&output.stdout, &nobody)[1], "NO");
    assert!(output.stderr.contains(&nobody), "{}", output.stderr);
    assert!(output.stdout.lines().all(|line| line.chars().count() <= 80));
}

#[test]
fn what_is_no_service_is_said_within_seconds() {
    let server = Server::start(Version::Redis86, &[]);
    let output = run_within(
        std::time::Duration::from_secs(30),
        &["status", &server.addr()],
    );
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("does not say how it is"),
        "{output:?}"
    );
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap().to_string();
    let output = run_within(std::time::Duration::from_secs(30), &["status", &addr]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(output.stderr.contains("no answer within 5 s"), "{output:?}");
}

#[test]
fn it_is_shown_again_and_again() {
    let home = TempDir::new().unwrap();
    let server = Server::start(Version::Redis86, &[]);
    let backfeed = Backfeed::backup(&server.url(), &store(&home, "one"), &[]);
    backfeed.wait_captured(&server);
    let mut watch = Command::new(env!("CARGO_BIN_EXE_backfeed"))
        .args(["status", &http(&backfeed), "--watch", "200ms"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let heads = lines
        .map(Result::unwrap)
        .filter(|line| line.contains("SERVICE"));
    assert_eq!(heads.take(3).count(), 3);
    watch.kill().unwrap();
    watch.wait().unwrap();
}
