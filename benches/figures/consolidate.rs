//! A new base from the last one and the log, against a server that loads the same base and log and saves; and a walk over
//! an RDB against the server's own checker.

use std::io::Read;

use backfeed::wire::rdb::Walker;

use super::*;
use support::{Backfeed, run_with, wait_until};

pub fn run(place: &Place, keys: usize) {
    println!("consolidation of {keys} keys, of which the log changes a share");
    println!(
        "  share   backfeed   a server: load + replay + save   ratio   peak RSS   of the server   ratio"
    );
    let mut rdb = None;
    for (share, step) in [("1 %", 100), ("100 %", 1)] {
        let redis = redis();
        fill(&redis, keys);
        let store = place.url(&format!("consolidate-{step}"));
        let options = ["--consolidate-every", "never", "--spool-dir"];
        let spool = place.home.path().display().to_string();
        let backfeed = Backfeed::backup(&redis.url(), &store, &[&options[..], &[&spool]].concat());
        backfeed.wait_following();
        change(&redis, keys, step);
        backfeed.wait_captured(&redis);
        drop(backfeed);
        let wanted = redis.text(&["DBSIZE"]);
        drop(redis);
        let theirs = server(place, &store, &wanted);
        let mut ours = Command::new(env!("CARGO_BIN_EXE_backfeed"));
        ours.args(["consolidate", "--store", &store, "--memory-limit", "8GiB"]);
        let ours = measure(&mut ours);
        println!(
            "  {share:5}   {:6.2} s   {:6.2} s                         {:4.2}    {:5} MiB  {:5} MiB       {:4.2}",
            ours.0.as_secs_f64(),
            theirs.0.as_secs_f64(),
            ratio(ours.0, theirs.0),
            ours.1 / 1024,
            theirs.1 / 1024,
            ours.1 as f64 / theirs.1 as f64
        );
        let file = place.home.path().join("consolidated.rdb");
        let to = file.display().to_string();
        let args = ["restore", "--store", &store, "--force", "--to", &to];
        assert_eq!(run_with(&Env::new(), &args).code, 0);
        rdb = Some(file);
        std::fs::remove_dir_all(place.path(&format!("consolidate-{step}"))).unwrap();
    }
    println!();
    walk(&rdb.unwrap(), keys);
}

/// Writes every `step`-th key anew.
fn change(redis: &Server, keys: usize, step: usize) {
    let mut pipe = redis::pipe();
    let mut connection = redis.connect();
    let value = vec![b'y'; VALUE];
    for (count, n) in (0..keys).step_by(step).enumerate() {
        pipe.cmd("SET").arg(format!("key:{n}")).arg(&value).ignore();
        if count % 1000 == 999 {
            pipe.exec(&mut connection).unwrap();
            pipe.clear();
        }
    }
    if !pipe.is_empty() {
        pipe.exec(&mut connection).unwrap();
    }
}

/// Wall time and most memory (KiB) of a server that does the same.
fn server(place: &Place, store: &str, keys: &str) -> (Duration, u64) {
    let dir = place.home.path().join("aof");
    let to = format!("aof:{}", dir.display());
    let made = run_with(&Env::new(), &["restore", "--store", store, "--to", &to]);
    assert_eq!(made.code, 0, "{made:?}");
    let begun = Instant::now();
    let redis = Server::builder(Version::Redis70)
        .dir(&dir)
        .arg("appendonly", "yes")
        .start();
    wait_until("it has loaded", Duration::from_secs(600), || {
        redis.info("persistence")["loading"] == "0" && redis.text(&["DBSIZE"]) == keys
    });
    let mut connection = redis.connect();
    connection.set_read_timeout(None).unwrap();
    redis::cmd("SAVE").exec(&mut connection).unwrap();
    let time = begun.elapsed();
    let memory = peak_memory_of(redis.pid());
    drop(redis);
    std::fs::remove_dir_all(&dir).unwrap();
    (time, memory)
}

fn walk(file: &Path, keys: usize) {
    println!("walking an RDB of {keys} keys, checksum included, against redis-check-rdb");
    let program = Version::Redis70.program("server");
    let root = program.parent().unwrap().parent().unwrap().join("root");
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let mut walker = Walker::new();
        let mut input = std::fs::File::open(file).unwrap();
        let mut chunk = vec![0; 1 << 20];
        loop {
            let length = input.read(&mut chunk).unwrap();
            if length == 0 {
                break;
            }
            walker.push(&chunk[..length]).unwrap();
        }
        walker.finish_opaque().unwrap();
        assert_eq!(walker.summary().keys(), keys as u64);
        let ours = begun.elapsed();
        let libraries = [
            root.join("usr/lib/x86_64-linux-gnu"),
            root.join("lib/x86_64-linux-gnu"),
        ];
        let path = std::env::join_paths(&libraries).unwrap();
        let mut theirs = Command::new(root.join("lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        theirs
            .arg("--library-path")
            .arg(path)
            .args(["--argv0", "redis-check-rdb"])
            .arg(root.join("usr/bin/redis-check-rdb"))
            .arg(file);
        let (theirs, _) = measure(&mut theirs);
        ratios.push(ratio(theirs, ours));
        println!(
            "  round {round}   {:.2} s, redis-check-rdb {:.2} s: {:.1} times as fast",
            ours.as_secs_f64(),
            theirs.as_secs_f64(),
            ratios[round]
        );
    }
    println!("  median {:.1} times as fast\n", middle(&mut ratios));
}
