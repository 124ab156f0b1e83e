//! All write commands, in any order and with any options, on each version: what is made from the log must be what the
//! server holds.
//!
//! `BACKFEED_DIFFERENTIAL_SEED` makes other choices than the usual ones (and repeats those of a run that failed: its
//! output names the seed), `BACKFEED_DIFFERENTIAL_UNITS` more or fewer than the usual number.

mod collections;
mod compare;
mod generator;
mod plain;
mod runner;
mod streams;

pub use compare::{Told, assert_same, content};
use compare::{Whole, differences};
pub use runner::Runner;
use tempfile::TempDir;

use crate::support::data::{Expiries, for_each_version};
use crate::support::state::{replica_of, tolerance_ms, wait_acknowledged};
use crate::support::{Backfeed, Server, Version, restored, run};

for_each_version!(a_replica_and_a_restored_server_hold_what_was_generated);

/// So many that nearly every command finds what it needs at least once; and how often a quarter of them is added for
/// the others.
const UNITS: u64 = 8000;
const MORE: u64 = 12;

/// Servers have bugs by which they do not tell their replicas everything; more than so many are ours.
const SERVERS_OWN: usize = 20;

/// The generator reaches every write command; and the comparison finds no difference where there is none.
fn a_replica_and_a_restored_server_hold_what_was_generated(version: Version) {
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let master = Server::start(version, &[]);
    let replica = replica_of(&master);
    let backfeed = Backfeed::backup(&master.url(), &store, &[]);
    backfeed.wait_following();
    generate(&master);
    wait_acknowledged(&master, 1);
    backfeed.wait_captured(&master);
    let tolerance_ms = tolerance_ms(version);
    let untold = differences(&replica, &master, Told::ByFeed, tolerance_ms);
    eprintln!("{version}: not told to the replica: {untold:#?}");
    assert!(untold.len() < SERVERS_OWN, "{version}: {untold:#?}");
    let restored = restored(version, &store);
    let context = format!("{version}: restored");
    assert_same(&restored, &replica, Told::All, tolerance_ms, &context);
    // In the middle of the log, where keys are about to expire, it is always the same, too.
    let offset = master.position().1 / 2;
    let context = format!("{version}: restored at {offset}");
    let [a, b] = [(); 2].map(|()| restored_at(version, &store, offset));
    assert_same(&a, &b, Told::All, tolerance_ms, &context);
}

/// A fresh server that was given what the store holds up to an offset.
fn restored_at(version: Version, store: &str, offset: u64) -> Server {
    let fresh = Server::start(version, &[]);
    let (to, offset) = (fresh.url(), offset.to_string());
    let args = [
        "restore", "--store", store, "--to", &to, "--offset", &offset,
    ];
    let output = run(&args);
    assert_eq!(output.code, 0, "{output:?}");
    fresh
}

/// Runs every write command, and waits until nothing expires any more.
#[track_caller]
fn generate(master: &Server) {
    let version = master.version();
    let units = variable("UNITS", UNITS);
    let seed = variable("SEED", 1);
    eprintln!("{version}: BACKFEED_DIFFERENTIAL_SEED={seed} BACKFEED_DIFFERENTIAL_UNITS={units}");
    let mut runner = Runner::new(master, seed, Expiries::Mixed);
    runner.run(units);
    for _ in 0..MORE {
        if runner.missed().is_empty() || units < UNITS {
            break;
        }
        runner.run(units / 4);
    }
    assert!(
        runner.missed().is_empty() || units < UNITS,
        "{version}: {:?} of {:#?}",
        runner.missed(),
        runner.tallies()
    );
    Whole::of(master, Told::ByFeed);
}

fn variable(name: &str, usual: u64) -> u64 {
    let name = format!("BACKFEED_DIFFERENTIAL_{name}");
    match std::env::var(&name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} is a number")),
        Err(_) => usual,
    }
}

#[test]
fn each_difference_is_found() {
    let one = Server::start(Version::Redis86, &[]);
    let other = Server::start(Version::Redis86, &[]);
    let script = [
        "SET s 1",
        "RPUSH l a b",
        "SADD t a",
        "ZADD z 1 a",
        "HSET h f v g w",
        "PFADD p a",
        "HPEXPIREAT h 4000000000000 FIELDS 1 f",
        "PEXPIREAT l 4000000000000",
        "XADD x 1-1 a b",
        "XADD x 1-2 a b",
        "XGROUP CREATE x g 0",
        "XADD y 1-1 a b",
        "XREADGROUP GROUP g c COUNT 1 STREAMS x >",
    ];
    let same = [&script[..], &["XCLAIM x g c 0 1-1 TIME 1000 RETRYCOUNT 1"]].concat();
    let split = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let run = |server: &Server, line: &str| {
        let words = split(line);
        server.cmd(&words.iter().map(String::as_str).collect::<Vec<_>>());
    };
    let library = |version: u64| {
        format!("#!lua name=lib\nredis.register_function('f', function() return {version} end)")
    };
    for server in [&one, &other] {
        same.iter().for_each(|line| run(server, line));
        server.cmd(&["FUNCTION", "LOAD", &library(1)]);
    }
    let found = || differences(&other, &one, Told::All, 0);
    assert_eq!(found(), Vec::<String>::new());
    // What to do, how it is named, how to take it back.
    for (change, name, back) in [
        ("SET s 2", "key `s`", "SET s 1"),
        ("RPUSH l c", "key `l`", "RPOP l"),
        ("SADD t b", "key `t`", "SREM t b"),
        ("ZADD z 2 a", "key `z`", "ZADD z 1 a"),
        ("HSET h g v", "key `h`", "HSET h g w"),
        ("SET new 1", "key `new`", "DEL new"),
        (
            "PEXPIREAT l 4000000000001",
            "key `l` expires",
            "PEXPIREAT l 4000000000000",
        ),
        ("PEXPIREAT s 4000000000001", "key `s` expires", "PERSIST s"),
        (
            "HPEXPIREAT h 4000000000001 FIELDS 1 f",
            "field `f` expires",
            "HPEXPIREAT h 4000000000000 FIELDS 1 f",
        ),
        (
            "XCLAIM x g c 0 1-1 TIME 1001 RETRYCOUNT 1",
            "stream `x`",
            "XCLAIM x g c 0 1-1 TIME 1000 RETRYCOUNT 1",
        ),
        (
            "XGROUP SETID x g 1-2",
            "stream `x`",
            "XGROUP SETID x g 1-1 ENTRIESREAD 1",
        ),
        (
            "XGROUP CREATECONSUMER x g d",
            "stream `x`",
            "XGROUP DELCONSUMER x g d",
        ),
        ("XSETID y 1-2", "stream `y`", "XSETID y 1-1"),
        (
            "XCFGSET y IDMP-MAXSIZE 9",
            "stream `y`",
            "XCFGSET y IDMP-MAXSIZE 100",
        ),
    ] {
        run(&other, change);
        let all = found();
        assert!(
            all.iter().any(|one| one.contains(name)),
            "{change}: {all:?}"
        );
        run(&other, back);
        assert_eq!(found(), Vec::<String>::new(), "{back}");
    }
    other.cmd(&["FUNCTION", "LOAD", "REPLACE", &library(2)]);
    assert!(found()[0].starts_with("functions"), "{:?}", found());
}
