//! What the metrics say is so: they are what an operator is woken by.

use std::fs;
use std::path::Path;

use backfeed::monitoring::status::unix_ms_now;
use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::captured::Captured;
use crate::support::data::for_each_version;
use crate::support::{Backfeed, Server, Version, list, wait_until};

fn stored_bytes(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).unwrap();
    let sizes = entries.map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            stored_bytes(&path)
        } else {
            fs::metadata(&path).unwrap().len()
        }
    });
    sizes.sum()
}

fn full_syncs(backfeed: &Backfeed) -> [f64; 3] {
    [
        "backfeed_full_syncs_begun_total",
        "backfeed_full_syncs_total",
        "backfeed_full_syncs_failed_total",
    ]
    .map(|name| backfeed.metric(name))
}

for_each_version!(they_tell_what_is_stored_and_what_is_not);

fn they_tell_what_is_stored_and_what_is_not(version: Version) {
    let home = TempDir::new().unwrap();
    let bucket = home.path().join("bucket");
    let store = format!("file://{}", bucket.display());
    let mut server = Server::start(version, &[]);
    server.cmd(&["SET", "before", &"x".repeat(10_000)]);
    let backfeed = Backfeed::backup(&server.url(), &store, &[]);
    backfeed.wait_captured(&server);
    assert_eq!(full_syncs(&backfeed), [1.0, 1.0, 0.0]);
    let base = list(&store)["histories"][0]["bases"][0].clone();
    assert!(base["raw_bytes"].as_u64().unwrap() > 100, "{base}");
    let offset = base["offset"].as_u64().unwrap() as f64;
    assert_eq!(backfeed.metric("backfeed_base_offset"), offset);

    let wrote = unix_ms_now() as f64 / 1000.0;
    server.cmd(&["SET", "after", "y"]);
    let (_, end) = server.position();
    backfeed.wait_stored(end);
    // Snapshot, manifest, documents and log: whatever lies there was counted.
    wait_until("every byte is counted", PATIENCE, || {
        backfeed.metric("backfeed_stored_bytes_total") == stored_bytes(&bucket) as f64
    });
    assert!(backfeed.metric("backfeed_master_offset") >= end as f64);
    let stored = backfeed.metric("backfeed_stored_timestamp_seconds");
    let now = unix_ms_now() as f64 / 1000.0;
    assert!(stored >= wrote && stored <= now, "{wrote} {stored} {now}");
    assert!(backfeed.metric("backfeed_lag_seconds") < 5.0);

    // Nobody knows what a server writes that we cannot hear.
    server.kill9();
    wait_until("the lag grows", PATIENCE, || {
        backfeed.metric("backfeed_lag_seconds") > 3.0
    });
    assert_eq!(backfeed.metric("backfeed_ready"), 0.0);
    server.restart();
    backfeed.wait_captured(&server);
    assert!(backfeed.metric("backfeed_lag_seconds") < 3.0);
    assert_eq!(full_syncs(&backfeed), [2.0, 2.0, 0.0]);
    let before = backfeed.metric("backfeed_base_offset");
    let (_, end) = server.position();
    assert!(before <= end as f64);
}

/// A capture that goes on from what is stored knows where its base stands, too.
#[test]
fn a_capture_that_is_continued_knows_its_base() {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let server = Server::start(Version::Redis70, &[]);
    let mut backfeed = Backfeed::backup(&server.url(), &store, &[]);
    server.cmd(&["SET", "k", "v"]);
    backfeed.wait_captured(&server);
    let base = backfeed.metric("backfeed_base_offset");
    assert_eq!(backfeed.sigterm(), 0);
    backfeed.restart();
    backfeed.wait_captured(&server);
    assert_eq!(full_syncs(&backfeed), [0.0, 0.0, 0.0]);
    assert_eq!(backfeed.metric("backfeed_base_offset"), base);
    let view = backfeed.readyz().unwrap();
    assert_eq!(view["base_offset"].as_f64(), Some(base), "{view}");
}

/// One that is taken beside the feed, for a log that cannot be consolidated, costs the server as much as any other.
#[test]
fn a_full_sync_beside_the_feed_is_counted() {
    let mut captured = Captured::start(Version::Redis86, 0);
    let metrics = |captured: &Captured| {
        let metrics = captured.status.metrics();
        [
            metrics.full_syncs_begun.get(),
            metrics.full_syncs.get(),
            metrics.full_syncs_failed.get(),
        ]
    };
    assert_eq!(metrics(&captured), [1, 1, 0]);
    let base = captured.new_base();
    assert_eq!(metrics(&captured), [2, 2, 0]);
    let view = captured.status.view();
    assert_eq!(view.base_offset, Some(base.offset.0));
    assert_eq!(captured.server.info("stats")["sync_full"], "2");
    captured.stop();
}
