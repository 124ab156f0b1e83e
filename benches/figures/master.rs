//! A server at full load: alone, with a replica, with backfeed, in turn; and a second client meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use support::Backfeed;

const WRITES: &str = "4000000";

/// What one run shows.
pub struct Run {
    /// `SET`s a second.
    pub rate: f64,
    /// Of a `GET` by another client, in ms.
    p99: f64,
    /// CPU seconds of the server.
    cpu: f64,
}

pub fn run(place: &Place) {
    println!("redis-benchmark -P 64, SET of {VALUE} bytes, {WRITES} of them");
    println!(
        "           rate alone   with a replica   with backfeed   p99 of another client (ms)      CPU of backfeed / server's"
    );
    let (mut replica, mut ours, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    let mut fed = (0.0, 0.0);
    for round in 0..ROUNDS {
        let redis = redis();
        load(&redis);
        let alone = load(&redis);
        let follower = Server::builder(Version::Redis70)
            .replicaof("127.0.0.1", redis.port())
            .start();
        support::wait_until("the replica follows", Duration::from_secs(120), || {
            follower.info("replication")["master_link_status"] == "up"
        });
        let with_replica = load(&redis);
        drop(follower);
        let store = place.url(&format!("master-{round}"));
        let backfeed = Backfeed::backup(&redis.url(), &store, &[]);
        backfeed.wait_following();
        let before = cpu(backfeed.pid());
        let with_us = load(&redis);
        let share = (cpu(backfeed.pid()) - before) / with_us.cpu;
        assert_eq!(
            backfeed.metric("backfeed_reconnects_total"),
            0.0,
            "no disconnect"
        );
        backfeed.wait_captured(&redis);
        fed.0 += backfeed.metric("backfeed_stored_bytes_total");
        fed.1 += backfeed.metric("backfeed_received_bytes_total");
        println!(
            "  round {round} {:9.0}/s      {:5.2}            {:5.2}            {:.2} / {:.2} / {:.2}                {share:.2}",
            alone.rate,
            with_replica.rate / alone.rate,
            with_us.rate / alone.rate,
            alone.p99,
            with_replica.p99,
            with_us.p99
        );
        replica.push(with_replica.rate / alone.rate);
        ours.push(with_us.rate / alone.rate);
        shares.push(share);
    }
    println!(
        "  medians: {:.2} with a replica, {:.2} with backfeed; CPU {:.2}; bytes stored / bytes fed {:.2}\n",
        middle(&mut replica),
        middle(&mut ours),
        middle(&mut shares),
        fed.0 / fed.1
    );
}

pub fn load(redis: &Server) -> Run {
    let stop = Arc::new(AtomicBool::new(false));
    let other = {
        let (stop, mut connection) = (Arc::clone(&stop), redis.connect());
        std::thread::spawn(move || {
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                redis::cmd("GET")
                    .arg("nothing")
                    .exec(&mut connection)
                    .unwrap();
                times.push(begun.elapsed().as_secs_f64() * 1e3);
                std::thread::sleep(Duration::from_millis(2));
            }
            times.sort_by(f64::total_cmp);
            times[times.len() * 99 / 100]
        })
    };
    let before = cpu(redis.pid());
    let begun = Instant::now();
    let output = Command::new(redis.version().program("benchmark"))
        .args([
            "-p",
            &redis.port().to_string(),
            "-P",
            "64",
            "-t",
            "set",
            "-r",
            "1000000",
        ])
        .args(["-n", WRITES, "-d", &VALUE.to_string(), "--csv"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let rate = WRITES.parse::<f64>().unwrap() / begun.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    Run {
        rate,
        p99: other.join().unwrap(),
        cpu: cpu(redis.pid()) - before,
    }
}

/// CPU seconds of a process so far, at 100 ticks a second, as Linux counts for everybody.
pub fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}
