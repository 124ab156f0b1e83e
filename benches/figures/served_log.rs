//! A restore of a base and its log to a running server: the log replayed, and base and log as one RDB, against the server's own load of
//! the final RDB at its start.

use serde_json::Value;

use super::*;
use support::{Backfeed, run_with, wait_until};

/// The log has eight commands for so many 64ths of as many keys as the base has.
const TOUCHED: [(usize, &str); 4] = [(1, "1/64"), (8, "1/8"), (32, "1/2"), (64, "1")];

pub fn run(keys: usize) {
    println!(
        "a restore of {keys} keys of {VALUE} random bytes, and a log of 8 commands for a share of as many keys"
    );
    println!("  share    log      replayed   rebuilt   own load   replayed  rebuilt  auto takes");
    for (share, name) in TOUCHED {
        let place = Place::directory();
        let store = stored(&place, keys, keys * share / 64);
        let (mut replayed, mut rebuilt, mut own) = (Vec::new(), Vec::new(), Vec::new());
        let dump = place.home.path().join("dump.rdb");
        let to = dump.display().to_string();
        let made = run_with(&Env::new(), &["restore", "--store", &store, "--to", &to]);
        assert_eq!(made.code, 0, "{made:?}");
        let mut told = Value::Null;
        for _ in 0..ROUNDS {
            replayed.push(restore(&store, "replay").0);
            rebuilt.push(restore(&store, "rebuild").0);
            own.push(load(&dump));
            told = restore(&store, "auto").1;
        }
        let [replayed, rebuilt, own] =
            [&mut replayed, &mut rebuilt, &mut own].map(|times| median(times));
        println!(
            "  {name:5} {:6} MiB  {:7.2} s  {:7.2} s  {:7.2} s     {:6.2}   {:6.2}  {}",
            told["log_bytes"].as_u64().unwrap() >> 20,
            replayed.as_secs_f64(),
            rebuilt.as_secs_f64(),
            own.as_secs_f64(),
            ratio(replayed, own),
            ratio(rebuilt, own),
            told["log_served"],
        );
    }
    println!();
}

/// A base of so many keys, and a log of eight commands for each of so many.
fn stored(place: &Place, keys: usize, touched: usize) -> String {
    let redis = redis();
    fill(&redis, keys);
    let url = place.url("served-log");
    let spool = place.home.path().display().to_string();
    let options = ["--consolidate-every", "never", "--spool-dir", &spool];
    let backfeed = Backfeed::backup(&redis.url(), &url, &options);
    backfeed.wait_following();
    apply::write(&redis, touched);
    backfeed.wait_captured(&redis);
    url
}

fn restore(store: &str, form: &str) -> (Duration, Value) {
    let target = redis();
    let to = target.url();
    let args = [
        "restore",
        "--json",
        "--serve-log",
        form,
        "--store",
        store,
        "--to",
        &to,
    ];
    let begun = Instant::now();
    let output = run_with(&Env::new(), &args);
    let took = begun.elapsed();
    assert_eq!(output.code, 0, "{output:?}");
    (took, serde_json::from_str(&output.stdout).unwrap())
}

fn load(dump: &Path) -> Duration {
    let mut own = redis();
    own.kill9();
    std::fs::copy(dump, own.dir().join("dump.rdb")).unwrap();
    let begun = Instant::now();
    own.restart();
    wait_until("it has loaded", Duration::from_secs(600), || {
        own.info("persistence")["loading"] == "0" && own.text(&["DBSIZE"]) != "0"
    });
    begun.elapsed()
}
