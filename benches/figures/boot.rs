//! A boot of a sidecar and a restore, with so many segments behind the base, against a store that answers so late. What is asked of it
//! is counted by kind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use backfeed::log::segment;
use backfeed::log::segment::SegmentMeta;
use backfeed::wire::position::{Boundary, Offset, TimeMark};
use bytes::Bytes;

use super::*;
use support::s3::{Asked, S3};
use support::{Backfeed, free_port, run_with, wait_until};

const STORE: &str = "s3://bucket/b";
const SEGMENTS: [usize; 3] = [0, 3_600, 100_000];
const DELAYS: [u64; 4] = [0, 30, 50, 100];
const LONG: Duration = Duration::from_secs(1800);
/// Writes a second while a Redis is opened and captured.
const WRITES: u32 = 3_000;

pub fn run(most_segments: usize) {
    println!(
        "boot and restore against S3 in memory, by segments behind the base and delay of each answer"
    );
    println!(
        "  segments  delay    to promotion  to capture  full syncs   before the log  of the log  lists  others   restore"
    );
    for segments in SEGMENTS.into_iter().filter(|it| *it <= most_segments) {
        let s3 = S3::start();
        fill(&s3, segments);
        let objects = s3.objects();
        for delay in DELAYS {
            s3.reset(objects.clone());
            boot(&s3, &segments.to_string(), Duration::from_millis(delay));
        }
        if segments > 0 {
            s3.reset(objects);
            let output = run_with(&s3.environment(), &["merge", "--store", STORE]);
            assert_eq!(output.code, 0, "{output:?}");
            let merged = s3.objects();
            for delay in DELAYS {
                s3.reset(merged.clone());
                boot(&s3, "the same", Duration::from_millis(delay));
            }
        }
    }
    println!("  the same: merged into spans, as the services do by themselves");
    println!();
}

/// A base, and so many segments of one write each.
fn fill(s3: &S3, segments: usize) {
    let redis = super::redis();
    for n in 0..100 {
        redis.cmd(&["SET", &format!("base:{n}"), "value"]);
    }
    let args = [
        "backup",
        "--once",
        "--redis",
        &redis.url(),
        "--store",
        STORE,
    ];
    let output = run_with(&s3.environment(), &args);
    assert_eq!(output.code, 0, "{output:?}");
    let names = s3.names();
    let base = names
        .iter()
        .find(|name| name.ends_with(".rdb.zst"))
        .unwrap();
    let parts: Vec<&str> = base.split('/').collect();
    let (id, offset) = (parts[2], parts[4].split('.').next().unwrap());
    let at = offset.parse().unwrap();
    segments_after(id, at, segments, |name, body| {
        s3.put(&format!("b/{name}"), body)
    });
}

/// So many segments of one write each, of one second each, with their names. The log of history `id` ends at offset `at`.
pub fn segments_after(id: &str, mut at: u64, segments: usize, mut put: impl FnMut(&str, Bytes)) {
    for n in 0..segments {
        let key = format!("key:{}", n % 1000);
        let raw = format!("*2\r\n$4\r\nINCR\r\n${}\r\n{key}\r\n", key.len());
        let end = Offset(at + raw.len() as u64);
        let meta = SegmentMeta {
            history: id.parse().unwrap(),
            start: Offset(at),
            end,
            db_at_start: 0,
            starts_at_boundary: true,
            boundary: Some(Boundary { offset: end, db: 0 }),
            marks: vec![TimeMark {
                unix_ms: 1_700_000_000_000 + n as i64 * 1000,
                offset: end,
            }],
            clock_back: None,
            writer: "figures".to_owned(),
        };
        let (_, body) = segment::encode(meta, &[Bytes::from(raw)], 1).unwrap();
        let name = format!("histories/{id}/log/{:020}.resp.zst", at + 1);
        put(&name, body);
        at = end.0;
    }
}

fn boot(s3: &S3, segments: &str, delay: Duration) {
    let target = super::redis();
    s3.set_delay(delay);
    let begun = Instant::now();
    let args = ["restore", "--store", STORE, "--to", &target.url()];
    let output = run_with(&s3.environment(), &args);
    assert_eq!(output.code, 0, "{output:?}");
    let restore = begun.elapsed();
    let keys = target.text(&["DBSIZE"]);
    drop(target);

    let listen = free_port();
    let redis = Server::builder(Version::Redis70)
        .arg("repl-backlog-size", "1mb")
        .replicaof("127.0.0.1", listen)
        .start();
    s3.asked();
    let more = ["--consolidate-every", "never"];
    let begun = Instant::now();
    let sidecar = Backfeed::sidecar_with(s3.environment(), &redis.url(), STORE, listen, &more);
    let field = |name: &str| redis.info("replication")[name].clone();
    wait_until("Redis is a master", LONG, || field("role") == "master");
    let promoted = begun.elapsed();
    let is_over = Arc::new(AtomicBool::new(false));
    let load = load(&redis, Arc::clone(&is_over));
    wait_until("it is captured", LONG, || field("connected_slaves") == "1");
    let captured = begun.elapsed();
    sidecar.wait_following();
    is_over.store(true, Ordering::Relaxed);
    load.join().unwrap();
    assert!(redis.text(&["DBSIZE"]) >= keys);
    let asked = s3.asked();
    let of_log = |asked: &&Asked| asked.is("GET", "/log/");
    let before = asked.iter().position(|asked| asked.is("GET", "/log/"));
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for asked in asked.iter().filter(|asked| !of_log(asked)) {
        *kinds.entry(&asked.verb).or_default() += 1;
    }
    let lists = kinds.remove("LIST").unwrap_or(0);
    println!(
        "  {segments:>8}  {:3} ms  {:9.2} s   {:8.2} s  {:>10}   {:>14}  {:>10}  {lists:5}  {:6}  {:7.2} s",
        delay.as_millis(),
        promoted.as_secs_f64(),
        captured.as_secs_f64(),
        redis.info("stats")["sync_full"],
        before.map_or_else(|| "-".to_owned(), |before| before.to_string()),
        asked.iter().filter(of_log).count(),
        kinds.values().sum::<usize>(),
        restore.as_secs_f64(),
    );
}

/// Writes as fast as it should until it is over.
fn load(redis: &Server, is_over: Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let mut connection = redis.connect();
    std::thread::spawn(move || {
        let pause = Duration::from_secs(1) / (WRITES / 30);
        while !is_over.load(Ordering::Relaxed) {
            let mut writes = redis::pipe();
            for n in 0..30 {
                writes
                    .set(format!("load:{n}"), "a value of some bytes")
                    .ignore();
            }
            writes.exec(&mut connection).unwrap();
            std::thread::sleep(pause);
        }
    })
}
