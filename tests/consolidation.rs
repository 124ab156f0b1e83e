//! Bases that are made from a base and the log, against real servers that replay the same log: all write commands, on
//! each version, base on base on base.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::differential::{Runner, Told, assert_same};
use crate::support::data::{Expiries, for_each_version};
use crate::support::state::{State, tolerance_ms};
use crate::support::{Backfeed, Server, Version, run};

for_each_version!(what_is_consolidated_is_what_a_server_makes_of_the_log);

/// In each round, so many units are written, and a base is made of them.
const ROUNDS: usize = 4;
const UNITS: u64 = 800;

/// `BACKFEED_DIFFERENTIAL_SEED=N` replays one seed, `BACKFEED_DIFFERENTIAL_ROUNDS=N` runs longer (a round takes a few
/// seconds).
fn what_is_consolidated_is_what_a_server_makes_of_the_log(version: Version) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect(name))
    };
    let seed = number("BACKFEED_DIFFERENTIAL_SEED").unwrap_or(rand::random::<u64>() >> 16);
    let rounds = number("BACKFEED_DIFFERENTIAL_ROUNDS").map_or(ROUNDS, |rounds| rounds as usize);
    println!("BACKFEED_DIFFERENTIAL_SEED={seed}");
    let home = TempDir::new().unwrap();
    let (store, reference) = (home.path().join("bucket"), home.path().join("reference"));
    let url = |path: &Path| format!("file://{}", path.display());
    let master = Server::start(version, &[]);
    let mut runner = Runner::new(&master, seed, Expiries::Mixed).skipping(is_refused);
    // The first base holds something of everything.
    runner.run(UNITS);
    let backfeed = Backfeed::backup(
        &master.url(),
        &url(&store),
        &["--consolidate-every", "never"],
    );
    backfeed.wait_following();
    for round in 0..rounds {
        runner.run(UNITS);
        quiet(&master);
        backfeed.wait_captured(&master);
        copy_new(&store, &reference);
        let context = format!("{version}, seed {seed}, round {round}");
        let report = consolidate(&url(&store), &context);
        assert_eq!(report["stopped"], Value::Null, "{context}: {report}");
        assert_eq!(report["bases"], 1, "{context}: {report}");
        // The same point, once from the new base alone, once by a server from the very first base and all of the log.
        let offset = report["to"]["offset"].to_string();
        let wanted = restored_at(version, &url(&reference), &offset);
        let found = loaded(version, &url(&store), &offset, home.path());
        let tolerance = tolerance_ms(version);
        assert_same(&found, &wanted, Told::All, tolerance, &context);
    }
}

/// Documented: a distance depends on the master's C library, and so does the order of equal weights; ranges by bytes of
/// members with different scores depend on how the server keeps them.
pub(crate) fn is_refused(command: &Vec<Vec<u8>>) -> bool {
    let has = |word: &str| {
        command
            .iter()
            .any(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    };
    has("STOREDIST")
        || (has("SORT") && has("BY") && has("STORE"))
        || has("ZREMRANGEBYLEX")
        || (has("ZRANGESTORE") && has("BYLEX"))
}

fn quiet(master: &Server) {
    crate::support::wait_until(
        "nothing expires",
        std::time::Duration::from_secs(60),
        || State::of(master).is_quiet(),
    );
}

fn consolidate(store: &str, context: &str) -> Value {
    let output = run(&["consolidate", "--store", store, "--json"]);
    assert_eq!(output.code, 0, "{context}: {output:?}");
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// Copies what was not there yet, bases that were made from others left out.
fn copy_new(from: &Path, to: &Path) {
    let first = !to.exists();
    let copied = Command::new("cp")
        .arg("-rn")
        .arg(from.join("."))
        .arg(to)
        .status();
    let _ = (first, copied.expect("cp"));
    for history in fs::read_dir(to.join("histories")).unwrap() {
        let bases = history.unwrap().path().join("base");
        let Ok(bases) = fs::read_dir(bases) else {
            continue;
        };
        for manifest in bases.map(|entry| entry.unwrap().path()) {
            if manifest.extension().is_some_and(|name| name == "json")
                && fs::read_to_string(&manifest)
                    .unwrap()
                    .contains("consolidated")
            {
                fs::remove_file(&manifest).unwrap();
            }
        }
    }
}

/// A server that got the log from us as its master.
fn restored_at(version: Version, store: &str, offset: &str) -> Server {
    let server = Server::start(version, &[]);
    let to = server.url();
    let args = ["restore", "--store", store, "--offset", offset, "--to", &to];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    server
}

/// A server that loaded an RDB file at its start.
fn loaded(version: Version, store: &str, offset: &str, home: &Path) -> Server {
    let file = home.join("out.rdb");
    let to = file.display().to_string();
    let args = [
        "restore", "--store", store, "--offset", offset, "--force", "--to", &to,
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    let mut server = Server::start(version, &[]);
    server.kill9();
    fs::copy(&file, server.dir().join("dump.rdb")).unwrap();
    server.restart();
    server
}
