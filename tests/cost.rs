//! `backfeed cost`: what it counts is what lies in the directory.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::support::{Backfeed, Server, Version, list, run};

/// Files below a directory whose path has this in it: how many, and their bytes. What is being written does not count.
fn on_disk(directory: &Path, part: &str) -> (u64, u64) {
    let mut found = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let (files, bytes) = match path.is_dir() {
            true => on_disk(&path, part),
            false if path.to_string_lossy().contains(part) => (1, path.metadata().unwrap().len()),
            false => (0, 0),
        };
        found = (found.0 + files, found.1 + bytes);
    }
    found
}

#[test]
fn what_is_counted_is_what_lies_in_the_directory() {
    let home = TempDir::new().unwrap();
    let bucket = home.path().join("bucket");
    let store = format!("file://{}", bucket.display());
    let redis = Server::start(Version::Redis70, &[]);
    let backfeed = Backfeed::backup(&redis.url(), &store, &["--flush-interval", "50ms"]);
    backfeed.wait_following();
    for number in 0..5 {
        let mut connection = redis.connect();
        let set = redis::cmd("SET")
            .arg(number)
            .arg("x".repeat(1000))
            .exec(&mut connection);
        set.unwrap();
        backfeed.wait_captured(&redis);
    }
    drop(backfeed);
    fs::write(bucket.join("stray"), "12345").unwrap();

    let output = run(&["cost", "--store", &store, "--json"]);
    assert_eq!(output.code, 0, "{}", output.stderr);
    let cost: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let counted = |what: &str| {
        let number = |field: &str| cost[what][field].as_u64().unwrap();
        (number("objects"), number("bytes"))
    };
    let all = on_disk(&bucket, "");
    assert_eq!(counted("total"), all);
    assert_eq!(counted("bases"), on_disk(&bucket, ".rdb.zst"));
    assert_eq!(counted("log"), on_disk(&bucket, ".resp.zst"));
    assert_eq!(counted("other"), (1, 5));
    assert!(counted("bases").0 == 1 && counted("log").0 >= 5, "{cost}");
    // It ran for a few seconds only.
    assert!(cost["rate"].is_null(), "{cost}");
    assert_eq!(cost["bills"].as_array().unwrap().len(), 3);
    assert!(cost["bills"][0]["creates_usd"].is_null(), "{cost}");

    // `list` counts the same.
    let listed = list(&store);
    let amount = |value: &serde_json::Value| {
        let number = |field: &str| value[field].as_u64().unwrap();
        (number("objects"), number("bytes"))
    };
    assert_eq!(amount(&listed["total"]), all);
    assert_eq!(amount(&listed["bases"]), on_disk(&bucket, ".rdb.zst"));
    assert_eq!(amount(&listed["histories"][0]["log"]), counted("log"));
    assert_eq!(amount(&listed["log"]), counted("log"));

    let output = run(&["cost", "--store", &store]);
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    let wanted = format!("total {} objects", all.0);
    assert!(words.join(" ").contains(&wanted), "{}", output.stdout);
    assert!(
        output.stdout.contains("too short to tell"),
        "{}",
        output.stdout
    );
}

#[test]
fn a_store_without_an_archive_costs_nothing_that_can_be_told() {
    let home = TempDir::new().unwrap();
    let output = run(&[
        "cost",
        "--store",
        &format!("file://{}", home.path().display()),
    ]);
    assert_eq!(output.code, 6, "{}", output.stderr);
    fs::write(home.path().join("stray"), "12345").unwrap();
    let output = run(&[
        "cost",
        "--store",
        &format!("file://{}", home.path().display()),
    ]);
    assert_eq!(output.code, 3, "{}", output.stderr);
}
