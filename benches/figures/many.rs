//! Many sources in one process: what 200 idle ones take, and what one process takes for several busy ones beside as many
//! processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::master::cpu;
use super::*;
use support::{Backfeed, wait_until};

const IDLE: usize = 200;
/// They share these: a source does not know what else its server has.
const IDLE_SERVERS: usize = 4;
const BUSY: usize = 20;
/// `SET`s a second on each of the busy ones.
const RATE: u64 = 10_000;
const SECONDS: u64 = 20;
/// A writer sends so many pipelines a second.
const PIPELINES: u64 = 50;
const PATIENCE: Duration = Duration::from_secs(300);

pub fn run() {
    for place in Place::all() {
        idle(&place);
    }
    busy(&Place::directory());
}

/// A file of `serve`, and the program.
fn serve(place: &Place, at: &str, servers: &[&Server], service: &str) -> Backfeed {
    let store = place.url(&format!("{at}-{{name}}"));
    let tables = servers.iter().enumerate().map(|(number, server)| {
        let addr = server.addr();
        format!("[sources.s{number}]\nredis = \"redis://{addr}\"\n")
    });
    let tables: String = tables.collect();
    let text = format!("[service]\n{service}\n[defaults]\nstore = \"{store}\"\n{tables}");
    let file = place.home.path().join(format!("{at}.toml"));
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    Backfeed::start_with(place.env(), &["serve", "--config", &file])
}

fn wait_ready(backfeed: &Backfeed, sources: usize) {
    wait_until("all sources follow", PATIENCE, || {
        let view = backfeed.readyz().unwrap_or_default();
        view["ready_sources"].as_u64() == Some(sources as u64)
    });
}

fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

fn idle(place: &Place) {
    let servers: Vec<Server> = (0..IDLE_SERVERS).map(|_| redis()).collect();
    let sources: Vec<&Server> = servers.iter().cycle().take(IDLE).collect();
    let begun = Instant::now();
    let backfeed = serve(place, "idle", &sources, "full_syncs = 4");
    wait_ready(&backfeed, IDLE);
    let took = begun.elapsed();
    let peak = memory_kib(backfeed.pid(), "VmHWM:");
    std::thread::sleep(Duration::from_secs(30));
    let before = cpu(backfeed.pid());
    std::thread::sleep(Duration::from_secs(60));
    let share = (cpu(backfeed.pid()) - before) / 60.0 * 100.0;
    println!(
        "{IDLE} idle sources ({}): {} MiB resident after a minute and a half, {} MiB at most; {share:.1} % of a core; all \
         followed after {:.1} s\n",
        place.name,
        memory_kib(backfeed.pid(), "VmRSS:") / 1024,
        peak / 1024,
        took.as_secs_f64()
    );
}

/// Writes to one server at a steady rate.
struct Writer {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(server: &Server) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (until, count, mut connection) = (stop.clone(), sent.clone(), server.connect());
        let thread = std::thread::spawn(move || {
            let mut pipeline = redis::pipe();
            for key in 0..RATE / PIPELINES {
                pipeline
                    .set(format!("key:{key}"), "x".repeat(VALUE))
                    .ignore();
            }
            let begun = Instant::now();
            for round in 1_u32.. {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                pipeline.exec(&mut connection).unwrap();
                count.fetch_add(RATE / PIPELINES, Ordering::Relaxed);
                let next = Duration::from_secs(1) * round / PIPELINES as u32;
                std::thread::sleep(next.saturating_sub(begun.elapsed()));
            }
        });
        Self { stop, sent, thread }
    }
}

/// Commands a second of all servers, CPU seconds of the processes, and the longest lag that they said.
fn load(servers: &[Server], processes: &[Backfeed]) -> (f64, f64, f64) {
    let used = || processes.iter().map(|it| cpu(it.pid())).sum::<f64>();
    let before = used();
    let begun = Instant::now();
    let writers: Vec<Writer> = servers.iter().map(Writer::start).collect();
    let mut lag: f64 = 0.0;
    while begun.elapsed() < Duration::from_secs(SECONDS) {
        for process in processes {
            let (_, page) = process.get("/metrics").unwrap();
            let lags = page
                .lines()
                .filter(|line| line.starts_with("backfeed_lag_seconds"))
                .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
            lag = lags.fold(lag, f64::max);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
    let took = begun.elapsed().as_secs_f64();
    let mut sent = 0;
    for writer in writers {
        writer.stop.store(true, Ordering::Relaxed);
        writer.thread.join().unwrap();
        sent += writer.sent.load(Ordering::Relaxed);
    }
    (sent as f64 / took, used() - before, lag)
}

fn busy(place: &Place) {
    println!(
        "{BUSY} servers, {RATE} SETs of {VALUE} bytes a second on each, for {SECONDS} s ({})",
        place.name
    );
    println!("           commands a second   CPU seconds   longest lag   resident");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let servers: Vec<Server> = (0..BUSY).map(|_| redis()).collect();
        let sources: Vec<&Server> = servers.iter().collect();
        let one = [serve(
            place,
            &format!("busy-{round}"),
            &sources,
            "full_syncs = 4",
        )];
        wait_ready(&one[0], BUSY);
        let (rate, cpu, lag) = load(&servers, &one);
        let resident = memory_kib(one[0].pid(), "VmRSS:") / 1024;
        println!(
            "  round {round}, one process: {rate:8.0}/s {cpu:10.2} s {lag:10.2} s {resident:7} MiB"
        );
        ours.push(cpu / rate);
        drop(one);
        let alone = |(number, server): (usize, &Server)| {
            let store = place.url(&format!("alone-{round}-{number}"));
            Backfeed::backup(&server.url(), &store, &[])
        };
        let many: Vec<Backfeed> = servers.iter().enumerate().map(alone).collect();
        many.iter().for_each(Backfeed::wait_following);
        let (rate, cpu, lag) = load(&servers, &many);
        let resident: u64 = many
            .iter()
            .map(|it| memory_kib(it.pid(), "VmRSS:") / 1024)
            .sum();
        println!(
            "  round {round}, {BUSY} processes: {rate:7.0}/s {cpu:10.2} s {lag:10.2} s {resident:7} MiB"
        );
        theirs.push(cpu / rate);
    }
    let mut ratios: Vec<f64> = ours
        .iter()
        .zip(&theirs)
        .map(|(one, many)| one / many)
        .collect();
    println!(
        "  median: CPU for a command, one process of that of {BUSY}: {:.2}\n",
        middle(&mut ratios)
    );
}
