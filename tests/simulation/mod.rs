//! The deterministic simulation: the program's own capture, archive, consolidation and restore on a simulated clock, network
//! and store, against model servers, with everything that happens decided by one seed.
//!
//! ```text
//! BACKFEED_SIMULATION_SEEDS=17 cargo test --lib simulation        one seed, as a failure names it
//! BACKFEED_SIMULATION_SEEDS=0..50000 …                            many
//! BACKFEED_SIMULATION_TRACE=1 …                                   what happens, step by step
//! ```

#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod counts;
mod director;
mod expiry;
mod failures;
mod fencing;
mod floors;
mod model;
pub(crate) mod net;
mod oracle;
mod pods;
mod redis;
mod replica;
mod restoring;
mod scenes;
pub(crate) mod store;
mod takeover;
mod truth;
mod workload;
mod year;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::time::Instant;

use crate::runtime::simulated;
use counts::Counts;
use net::Connection;
use oracle::Oracle;
use redis::Node;
use store::Objects;
use truth::Truth;

/// Seeds of an ordinary run of the tests.
const SEEDS: std::ops::Range<u64> = 0..800;
/// The same, of pods.
const PODS: std::ops::Range<u64> = 0..200;
/// The same, of writers that sleep.
const FENCING: std::ops::Range<u64> = 0..100;
/// Lines of a trace that are shown with a failure.
const SHOWN: usize = 60;
/// The wall clock at the beginning, Unix milliseconds.
const BEGAN_MS: i64 = 1_700_000_000_000;

/// Everything beside the program.
pub(crate) struct Sim {
    began: Instant,
    pub(crate) truth: Truth,
    pub(crate) nodes: Vec<Node>,
    /// Which server stands behind the name, for each group of processes.
    pub(crate) routes: BTreeMap<String, usize>,
    pub(crate) connections: Vec<Connection>,
    /// Where sidecars listen.
    pub(crate) ports: net::Ports,
    pub(crate) ports_opened: u64,
    pub(crate) weather: net::Weather,
    pub(crate) store_weather: store::Weather,
    pub(crate) objects: Objects,
    /// How many objects were created.
    pub(crate) created: u64,
    /// Each object, as the how many-th it was created.
    pub(crate) births: BTreeMap<String, u64>,
    /// When each was created, by the clock of the store, Unix milliseconds.
    pub(crate) times: BTreeMap<String, i64>,
    /// Spans that the store damaged when they were created, as they are since.
    pub(crate) damaged: BTreeMap<String, bytes::Bytes>,
    /// It damages some spans later as well. Then more of a log stays than a policy wants.
    pub(crate) rots: bool,
    /// Those that it will damage.
    pub(crate) rotting: std::collections::BTreeSet<String>,
    /// The store says no times.
    pub(crate) is_timeless: bool,
    pub(crate) oracle: Oracle,
    /// Some values are longer than a segment.
    pub(crate) huge: bool,
    /// So much time passed while everything stood still, milliseconds.
    pub(crate) stood_still_ms: i64,
    /// How far the clocks of the program are wrong, by group of processes.
    pub(crate) wrong_clocks: BTreeMap<String, i64>,
}

impl Sim {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            truth: Truth::default(),
            nodes: Vec::new(),
            routes: BTreeMap::new(),
            connections: Vec::new(),
            ports: net::Ports::new(),
            ports_opened: 0,
            weather: net::Weather {
                latency: 2,
                piece: usize::MAX,
            },
            store_weather: store::Weather::FAIR,
            objects: Objects::new(),
            created: 0,
            births: BTreeMap::new(),
            times: BTreeMap::new(),
            damaged: BTreeMap::new(),
            rots: true,
            rotting: std::collections::BTreeSet::new(),
            is_timeless: false,
            oracle: Oracle::default(),
            huge: false,
            stood_still_ms: 0,
            wrong_clocks: BTreeMap::new(),
        }
    }

    pub(crate) fn now_ms(&self) -> i64 {
        BEGAN_MS + self.began.elapsed().as_millis() as i64 + self.stood_still_ms
    }

    /// The server that a process finds; none: it is down.
    pub(crate) fn node_for(&self, process: &str) -> Option<usize> {
        let group = process.split('.').next().unwrap_or_default();
        let node = *self.routes.get(group)?;
        self.nodes[node].up.then_some(node)
    }
}

thread_local! {
    static SIM: RefCell<Option<Sim>> = const { RefCell::new(None) };
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Looks at what is simulated, or changes it.
pub(crate) fn with<T>(look: impl FnOnce(&mut Sim) -> T) -> T {
    SIM.with_borrow_mut(|sim| look(sim.as_mut().expect("a simulation")))
}

#[derive(Default)]
struct Trace {
    began: Option<Instant>,
    hash: u64,
    last: VecDeque<String>,
    aloud: bool,
}

/// Something happened.
pub(crate) fn note(what: impl FnOnce() -> String) {
    TRACE.with_borrow_mut(|trace| {
        let at = trace.began.map_or(0, |began| began.elapsed().as_millis());
        let line = format!("{:>9.3} {}", at as f64 / 1000.0, what());
        for byte in line.bytes() {
            trace.hash = (trace.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
        if trace.aloud {
            eprintln!("{line}");
        }
        trace.last.push_back(line);
        if trace.last.len() > SHOWN {
            trace.last.pop_front();
        }
    });
}

/// Something that must hold does not. The first counts.
pub(crate) fn fail(what: String) {
    FAILURE.with_borrow_mut(|failure| {
        if failure.is_none() {
            note(|| format!("WRONG: {what}"));
            *failure = Some(what);
        }
    });
}

fn failure() -> Result<(), String> {
    FAILURE.with_borrow(|failure| failure.clone().map_or(Ok(()), Err))
}

/// What came of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Outcome {
    hash: u64,
    counts: Counts,
}

/// Which seeds are played.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// `backfeed backup`, and pieces of the rest.
    Capture,
    /// `backfeed sidecar`, in pods.
    Pods,
    /// `backfeed backup` that sleeps, while what it stored is deleted.
    Fencing,
    /// `backfeed backup` for a year, with merging and expiry.
    Year,
}

fn run(kind: Kind, seed: u64, aloud: bool) -> Result<Outcome, String> {
    let name = match kind {
        Kind::Capture => "seeds_of_the_simulation",
        Kind::Pods => "seeds_of_pods",
        Kind::Fencing => "seeds_of_fencing",
        Kind::Year => "a_year_passes",
    };
    match kind {
        Kind::Capture => play(seed, aloud, director::direct()),
        Kind::Pods => play(seed, aloud, pods::direct()),
        Kind::Fencing => play(seed, aloud, fencing::direct()),
        Kind::Year => play(seed, aloud, year::direct(365)),
    }
    .map_err(|error| {
        format!(
            "{error}\n  once more:\n    BACKFEED_SIMULATION_SEEDS={seed} BACKFEED_SIMULATION_TRACE=1 cargo test --lib \
             simulation_tests::{name} -- --nocapture"
        )
    })
}

/// Runs `scene` in a simulation of its own.
fn play(
    seed: u64,
    aloud: bool,
    scene: impl Future<Output = Result<(), String>>,
) -> Result<Outcome, String> {
    simulated::begin(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    FAILURE.set(None);
    let done = runtime.block_on(async {
        TRACE.set(Trace {
            began: Some(Instant::now()),
            hash: seed,
            last: VecDeque::new(),
            aloud,
        });
        SIM.set(Some(Sim::new()));
        scene.await
    });
    let counts = with(|sim| sim.oracle.counts);
    drop(runtime);
    simulated::end();
    SIM.set(None);
    let trace = TRACE.take();
    match done.and_then(|()| failure()) {
        Ok(()) => Ok(Outcome {
            hash: trace.hash,
            counts,
        }),
        Err(error) => {
            let before: Vec<String> = trace.last.into();
            Err(format!(
                "seed {seed}: {error}\n  before that:\n    {}",
                before.join("\n    ")
            ))
        }
    }
}

/// `17`, `0..1000`, or nothing: the ordinary ones.
fn seeds(ordinary: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("BACKFEED_SIMULATION_SEEDS") else {
        return ordinary;
    };
    let number = |text: &str| text.trim().parse::<u64>().expect("a seed");
    match text.split_once("..") {
        Some((first, end)) => number(first)..number(end),
        None => number(&text)..number(&text) + 1,
    }
}

/// Plays the seeds, and gives what was seen, if all of the ordinary ones were played.
fn hold(kind: Kind, ordinary: std::ops::Range<u64>) -> Option<Counts> {
    let aloud = std::env::var_os("BACKFEED_SIMULATION_TRACE").is_some();
    if aloud {
        let told = tracing_subscriber::fmt().without_time().with_ansi(false);
        let told = told.with_max_level(tracing::Level::DEBUG);
        let _ = told.with_writer(std::io::stderr).try_init();
    }
    let seeds = seeds(ordinary.clone());
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new(Counts::default());
    let failures: Mutex<Vec<(u64, String)>> = Mutex::default();
    let threads = thread::available_parallelism().map_or(2, usize::from);
    let began = std::time::Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !failures.lock().unwrap().is_empty() {
                        return;
                    }
                    match run(kind, seed, aloud) {
                        Ok(outcome) => total.lock().unwrap().add(&outcome.counts),
                        Err(error) => failures.lock().unwrap().push((seed, error)),
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort();
    let total = total.into_inner().unwrap();
    eprintln!(
        "{kind:?}: seeds {seeds:?} in {:?}: {total:?}",
        began.elapsed()
    );
    if let Some((_, first)) = failures.first() {
        panic!("{first}");
    }
    (seeds == ordinary).then_some(total)
}

/// What does not happen proves nothing.
fn were_seen(total: &Counts, seen: &[(&str, u64, u64)]) {
    for (what, count, least) in seen {
        assert!(count >= least, "{count} {what}: {total:?}");
    }
}

#[test]
fn seeds_of_the_simulation_hold() {
    let Some(total) = hold(Kind::Capture, SEEDS) else {
        return;
    };
    were_seen(
        &total,
        &[
            ("restarts from one RDB", total.crashes, 100),
            ("servers that were set back", total.set_back, 40),
            ("histories under keys of our own", total.own_keys, 30),
            ("latest histories", total.latest, 300),
            ("spans that were damaged", total.spoilt, 100),
            ("restores", total.restores, 1000),
            ("kills", total.kills, 300),
            ("takeovers", total.takeovers, 50),
            ("logs that were replayed", total.replayed, 20),
            ("logs that were rebuilt", total.rebuilt, 20),
            ("idle acknowledgements", total.idle_acknowledgements, 1),
            ("waits for another's claim", total.waits, 1),
            ("overridden claims", total.overridden, 1),
            ("servers that were promoted in vain", total.in_vain, 1),
            ("clocks that jumped", total.jumps, 200),
            (
                "segments that say that a clock went back",
                total.clock_back,
                100,
            ),
            ("points by time", total.times, 500),
            ("points by time that are refused", total.times_refused, 20),
        ],
    );
}

#[test]
fn seeds_of_pods_hold() {
    let Some(total) = hold(Kind::Pods, PODS) else {
        return;
    };
    were_seen(
        &total,
        &[
            ("stores that were begun", total.begun, 100),
            ("servers that were restored", total.restored, 500),
            ("logs that were replayed", total.replayed, 100),
            ("logs that were rebuilt", total.rebuilt, 100),
            ("servers that were opened as they were", total.kept, 1),
            ("servers without room", total.unproved, 10),
            ("restarts from one RDB", total.crashes, 10),
            ("restarts from the same RDB", total.twofold, 5),
            ("servers that were set back", total.set_back, 10),
            ("histories under keys of our own", total.own_keys, 5),
            ("overridden claims", total.overridden, 1),
            ("sidecars that yielded", total.yielded, 1),
            ("sidecars that were superseded", total.superseded, 5),
            ("servers that were suddenly tiny", total.tiny, 3),
            ("decisions", total.decided, 5),
            ("latest histories", total.latest, 100),
        ],
    );
}

#[test]
fn seeds_of_fencing_hold() {
    let Some(total) = hold(Kind::Fencing, FENCING) else {
        return;
    };
    were_seen(
        &total,
        &[
            ("runs of expiry", total.expiries, 200),
            ("floors", total.floors, 70),
            ("floors with bases alone", total.floors_judged, 1),
            ("holds", total.holds, 40),
            ("objects of logs that were deleted", total.freed, 250),
            ("creates under deleted names", total.stale, 5),
            ("the same, that reach into the log", total.straddling, 5),
            ("processes that slept", total.slept, 60),
            ("writers that were superseded", total.superseded, 50),
            ("takeovers", total.takeovers, 40),
            ("restores", total.restores, 200),
            ("spans that were damaged", total.spans_damaged, 20),
            ("spans that were withdrawn", total.spans_withdrawn, 15),
        ],
    );
}

/// `BACKFEED_SIMULATION_SEEDS=1..5` plays other years.
#[test]
fn a_year_passes() {
    hold(Kind::Year, 0..1);
}

#[test]
fn a_seed_gives_the_same_run_each_time() {
    for (kind, seeds) in [(Kind::Capture, 10), (Kind::Pods, 10), (Kind::Fencing, 3)] {
        for seed in 0..seeds {
            let first = run(kind, seed, false).unwrap();
            let again = run(kind, seed, false).unwrap();
            assert_eq!(first, again, "{kind:?} {seed}");
        }
    }
}
