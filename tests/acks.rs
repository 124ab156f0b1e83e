//! What is acknowledged to the master, and what that means to `WAIT`, `SHUTDOWN` and `FAILOVER`.

use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::support::{Backfeed, Server, Version, list};

fn store(dir: &TempDir) -> String {
    format!("file://{}/bucket", dir.path().display())
}

/// Every version has its own way to ask for acknowledgements.
#[test]
fn wait_returns_one_only_for_what_is_stored_and_sooner_than_a_flush_interval() {
    for version in Version::ALL {
        let home = TempDir::new().unwrap();
        let redis = Server::start(version, &[]);
        let backfeed = Backfeed::backup(&redis.url(), &store(&home), &["--flush-interval", "30s"]);
        backfeed.wait_following();
        let mut connection = redis.connect();
        for n in 0..20 {
            let _: () = redis::cmd("SET")
                .arg("key")
                .arg(n)
                .query(&mut connection)
                .unwrap();
            let begun = Instant::now();
            let replicas: u32 = redis::cmd("WAIT")
                .arg(1)
                .arg(20_000)
                .query(&mut connection)
                .unwrap();
            assert_eq!(replicas, 1, "{version}: write {n}");
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "{version}: {:?}",
                begun.elapsed()
            );
            let stored = list(&store(&home)).to_string();
            let view = backfeed.readyz().unwrap();
            assert!(stored.contains("histories"), "{stored}");
            assert!(
                view["lag_bytes"] == 0,
                "{version}: what WAIT counted is stored: {view}"
            );
        }
    }
}
