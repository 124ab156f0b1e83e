//! What a boot asks of the store: little that does not grow with the age of the archive, each segment once, and nothing between the
//! promotion of Redis and its capture.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::backfeed::PATIENCE;
use crate::support::s3::{Asked, S3};
use crate::support::{Backfeed, Server, Version, free_port, run_with, wait_until};

const STORE: &str = "s3://bucket/b";

/// Redis and its sidecar, with a store in S3.
struct Pod {
    s3: S3,
    redis: Server,
    sidecar: Backfeed,
}

impl Pod {
    fn start() -> Self {
        let s3 = S3::start();
        let listen = free_port();
        let redis = Server::builder(Version::Redis70)
            .replicaof("127.0.0.1", listen)
            .start();
        let more = ["--consolidate-every", "never", "--merge", "never"];
        let sidecar = Backfeed::sidecar_with(s3.environment(), &redis.url(), STORE, listen, &more);
        let pod = Self { s3, redis, sidecar };
        pod.wait_open();
        pod
    }

    fn role(&self) -> String {
        self.redis.info("replication")["role"].clone()
    }

    fn wait_open(&self) {
        wait_until("Redis is a master", PATIENCE, || self.role() == "master");
        self.sidecar.wait_captured(&self.redis);
    }

    /// So many segments.
    fn write(&self, segments: usize) {
        let mut connection = self.redis.connect();
        for n in 0..segments {
            let set = redis::cmd("INCR").arg(format!("key:{}", n % 7)).to_owned();
            set.exec(&mut connection).unwrap();
            let wait = redis::cmd("WAIT").arg(1).arg(10_000).to_owned();
            assert_eq!(wait.query::<u32>(&mut connection).unwrap(), 1);
        }
    }

    fn log(&self) -> usize {
        let names = self.s3.names();
        names.iter().filter(|name| name.contains("/log/")).count()
    }

    /// Redis and sidecar go, with all that Redis had; and come again.
    fn replace(&mut self) {
        self.sidecar.kill9();
        self.redis.kill9();
        fs::remove_dir_all(self.redis.dir()).unwrap();
        fs::create_dir(self.redis.dir()).unwrap();
        self.s3.asked();
        self.redis.restart();
        self.sidecar.restart();
    }
}

/// How often each object of the log was read, at most.
fn most_reads(asked: &[Asked]) -> usize {
    let reads = || asked.iter().filter(|asked| asked.is("GET", "/log/"));
    let times = |of: &Asked| reads().filter(|asked| asked.name == of.name).count();
    reads().map(times).max().unwrap_or(0)
}

#[test]
fn a_boot_reads_each_segment_once_and_asks_for_little_else() {
    let mut pod = Pod::start();
    let digest = |pod: &Pod| pod.redis.debug_digest();
    let mut others = Vec::new();
    for (life, segments) in [(1, 20), (2, 60)] {
        pod.write(segments);
        let (stored, had) = (pod.log(), digest(&pod));
        pod.replace();
        pod.wait_open();
        assert_eq!(digest(&pod), had);
        let asked = pod.s3.asked();
        let first = asked.iter().position(|asked| asked.is("GET", "/log/"));
        let of_log = |asked: &&Asked| asked.is("GET", "/log/");
        assert!(asked.iter().filter(of_log).count() <= stored, "{asked:#?}");
        assert_eq!(most_reads(&asked), 1, "{asked:#?}");
        let other: Vec<&Asked> = asked.iter().filter(|asked| !of_log(asked)).collect();
        // Opening the store, its probe, the histories, bases, spans and log.
        let before = first.unwrap();
        // With each history between base and end come its document, and lists of its bases, spans, log and floors.
        assert!(before <= 12 + 5 * life, "{before}: {asked:#?}");
        let lists = other.iter().filter(|asked| asked.verb == "LIST");
        // One of them looks behind the seal.
        assert!(lists.count() <= 12 + 4 * life, "{other:#?}");
        let full = other.iter().filter(|asked| asked.is("LIST", ""));
        assert!(full.clone().all(|asked| asked.name.len() > "b/".len()));
        others.push(other.len());
    }
    assert!(others[1] <= others[0] + 5, "{others:?}");
}

/// One history, as a `backup` stores it.
#[test]
fn a_restore_of_one_history_asks_for_twelve_things_before_the_log() {
    let s3 = S3::start();
    let redis = Server::start(Version::Redis70, &[]);
    let url = redis.url();
    let args = ["backup", "--redis", &url, "--store", STORE];
    let backfeed = Backfeed::start_with(s3.environment(), &args);
    backfeed.wait_following();
    for n in 0..5 {
        redis.cmd(&["SET", &format!("key:{n}"), "1"]);
        backfeed.wait_captured(&redis);
    }
    drop(backfeed);
    s3.asked();
    let target = Server::start(Version::Redis70, &[]);
    let args = ["restore", "--store", STORE, "--to", &target.url()];
    let output = run_with(&s3.environment(), &args);
    assert_eq!(output.code, 0, "{output:?}");
    let asked = s3.asked();
    let before = asked.iter().position(|asked| asked.is("GET", "/log/"));
    assert!(before.unwrap() <= 12, "{asked:#?}");
}

#[test]
fn nothing_is_asked_of_the_store_between_promotion_and_capture() {
    let mut pod = Pod::start();
    pod.write(5);
    // So much for a single request.
    let delay = Duration::from_millis(1500);
    pod.s3.set_delay(delay);
    pod.replace();
    wait_until("Redis is a master", PATIENCE, || pod.role() == "master");
    let promoted = Instant::now();
    wait_until("Redis has a replica", PATIENCE, || {
        pod.redis.info("replication")["connected_slaves"] == "1"
    });
    let passed = promoted.elapsed();
    assert!(passed < delay, "{passed:?}");
    pod.s3.set_delay(Duration::ZERO);
    pod.sidecar.wait_captured(&pod.redis);
    assert_eq!(pod.redis.info("stats")["sync_full"], "0");
    assert_eq!(pod.redis.info("stats")["sync_partial_ok"], "1");
}

#[test]
fn a_restore_reads_each_segment_once() {
    let mut pod = Pod::start();
    pod.write(40);
    let had = pod.redis.debug_digest();
    pod.sidecar.kill9();
    let stored = pod.log();
    for to_server in [true, false] {
        pod.s3.asked();
        let target = Server::start(Version::Redis70, &[]);
        let file = target.dir().join("restored.rdb").display().to_string();
        let to = if to_server { target.url() } else { file };
        let args = ["restore", "--store", STORE, "--to", &to];
        let output = run_with(&pod.s3.environment(), &args);
        assert_eq!(output.code, 0, "{output:?}");
        if to_server {
            assert_eq!(target.debug_digest(), had);
        }
        let asked = pod.s3.asked();
        assert_eq!(most_reads(&asked), 1, "{asked:#?}");
        let reads = asked.iter().filter(|asked| asked.is("GET", "/log/"));
        assert!(reads.count() <= stored);
        let others = asked.iter().filter(|asked| !asked.is("GET", "/log/"));
        // Of two histories the document and lists of bases, spans, log and floors.
        assert!(others.count() <= 18, "{asked:#?}");
    }
}
