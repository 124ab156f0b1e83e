//! A capture while a base is made beside it, again and again, against the same capture alone: how long a `WAIT` takes, and
//! what the server does at full load.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use support::Backfeed;

const WAITS: usize = 1000;
/// As the thread that makes bases beside a capture yields to others.
const NICENESS: &str = "19";

pub fn run(place: &Place, keys: usize) {
    let redis = redis();
    fill(&redis, keys);
    let store = place.url("beside");
    let options = ["--consolidate-every", "never", "--spool-dir"];
    let spool = place.home.path().display().to_string();
    let backfeed = Backfeed::backup(&redis.url(), &store, &[&options[..], &[&spool]].concat());
    backfeed.wait_following();
    println!(
        "WAIT 1 (medians of {WAITS}) and SETs a second, alone and while bases of {keys} keys are made beside"
    );
    println!("           WAIT alone     beside    ratio   SETs alone     beside    ratio   bases");
    let (mut waits, mut rates) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let alone = (wait(&redis), master::load(&redis).rate);
        backfeed.wait_captured(&redis);
        let making = Making::start(&store);
        let beside = (wait(&redis), master::load(&redis).rate);
        let bases = making.stop();
        backfeed.wait_captured(&redis);
        waits.push(beside.0 / alone.0);
        rates.push(beside.1 / alone.1);
        println!(
            "  round {round} {:8.2} ms {:8.2} ms {:8.2} {:10.0}/s {:8.0}/s {:8.2} {bases:7}",
            alone.0, beside.0, waits[round], alone.1, beside.1, rates[round]
        );
    }
    println!(
        "  medians: WAIT {:.2}, SETs {:.2}\n",
        middle(&mut waits),
        middle(&mut rates)
    );
}

/// The median of `WAIT 1` after a write, in ms.
fn wait(redis: &Server) -> f64 {
    let mut connection = redis.connect();
    let mut times = Vec::new();
    for n in 0..WAITS {
        let set = redis::cmd("SET").arg("waited").arg(n).to_owned();
        set.exec(&mut connection).unwrap();
        let begun = Instant::now();
        let wait = redis::cmd("WAIT").arg(1).arg(10_000).to_owned();
        let replicas: u32 = wait.query(&mut connection).unwrap();
        assert_eq!(replicas, 1);
        times.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    middle(&mut times)
}

/// Bases are made one after the other.
struct Making {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Making {
    fn start(store: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (until, store) = (Arc::clone(&stop), store.to_owned());
        let thread = std::thread::spawn(move || {
            let mut bases = 0;
            while !until.load(Ordering::Relaxed) {
                let mut command = Command::new("nice");
                command
                    .args(["-n", NICENESS, env!("CARGO_BIN_EXE_backfeed")])
                    .args(["consolidate", "--store", &store])
                    .stdout(Stdio::null());
                assert!(command.status().unwrap().success());
                bases += 1;
            }
            bases
        });
        Self { stop, thread }
    }

    fn stop(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}
