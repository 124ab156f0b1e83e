//! `backfeed merge --delete-segments` on an archive that a real server's writes made: what is restored from spans alone is what the
//! server had. The store is S3 in memory, so that a test can make objects old.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::support::backfeed::Output;
use crate::support::s3::S3;
use crate::support::{Backfeed, Server, Version, on, run_with};

const STORE: &str = "s3://bucket/b";
const HOUR: Duration = Duration::from_secs(3600);
/// Each is a segment of its own: more than two spans take.
const WRITES: usize = 600;
/// What the server has is asked after so many writes.
const POINT_EVERY: usize = 97;

/// What a server had, and the offset behind it.
struct Point {
    offset: u64,
    digest: String,
}

struct Case {
    version: Version,
    s3: S3,
    server: Server,
    points: Vec<Point>,
}

impl Case {
    fn start(version: Version) -> Self {
        Self {
            version,
            s3: S3::start(),
            server: Server::start(version, &[]),
            points: Vec::new(),
        }
    }

    fn backup(&self) -> Backfeed {
        let url = self.server.url();
        let args = ["backup", "--redis", &url, "--store", STORE];
        let quick = [
            "--flush-interval",
            "20ms",
            "--consolidate-every",
            "never",
            "--merge",
            "never",
        ];
        let backup = Backfeed::start_with(self.s3.environment(), &[&args[..], &quick].concat());
        backup.wait_following();
        backup
    }

    /// Writes of several kinds in several databases, each stored before the next.
    fn write(&mut self) {
        let mut connection = self.server.connect();
        for n in 0..WRITES {
            let key = format!("key:{}", n % 23);
            let mut pipe = redis::pipe();
            match n % 5 {
                0 => pipe.cmd("APPEND").arg(&key).arg(n),
                1 => pipe.cmd("RPUSH").arg(format!("{key}:l")).arg(n).arg("x"),
                2 => pipe
                    .cmd("SET")
                    .arg(format!("{key}:s"))
                    .arg(n)
                    .arg("EX")
                    .arg(99_999),
                3 => pipe.atomic().cmd("INCR").arg("count").cmd("DEL").arg(&key),
                _ => pipe
                    .cmd("SELECT")
                    .arg(n % 3)
                    .cmd("ZADD")
                    .arg("zset")
                    .arg(n)
                    .arg(n % 41),
            };
            pipe.exec(&mut connection).unwrap();
            let wait = redis::cmd("WAIT").arg(1).arg(10_000).to_owned();
            assert_eq!(wait.query::<u32>(&mut connection).unwrap(), 1);
            if n % POINT_EVERY == POINT_EVERY - 1 {
                self.points.push(Point {
                    offset: self.server.position().1,
                    digest: self.server.debug_digest(),
                });
            }
        }
    }

    fn run(&self, args: &[&str]) -> Output {
        let args = [args, &["--store", STORE]].concat();
        run_with(&self.s3.environment(), &args)
    }

    /// Merges, and deletes what may go. Objects that went.
    fn delete_segments(&self) -> u64 {
        let output = self.run(&["merge", "--delete-segments", "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        let report: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(report["deleted"]["denied"], 0, "{report:#}");
        report["deleted"]["objects"].as_u64().unwrap()
    }

    /// Names with this in them.
    fn names(&self, part: &str) -> Vec<String> {
        let mut names = self.s3.names();
        names.retain(|name| name.contains(part));
        names
    }

    /// The last byte that a span has, by the names of the spans.
    fn merged_to(&self) -> u64 {
        let last = |name: &String| {
            let name = name.rsplit('/').next().unwrap();
            name[21..41].parse::<u64>().unwrap()
        };
        self.names("/span/").iter().map(last).max().unwrap()
    }

    /// A new server gets each point. What is asked of the store meanwhile does not touch a segment before the end of the spans.
    fn check_points(&self) -> usize {
        let (merged_to, mut alone) = (self.merged_to(), 0);
        for point in &self.points {
            self.s3.asked();
            let target = Server::start(self.version, &[]);
            let (to, offset) = (target.url(), point.offset.to_string());
            let output = self.run(&["restore", "--offset", &offset, "--to", &to]);
            assert_eq!(output.code, 0, "{output:?}");
            assert_eq!(target.debug_digest(), point.digest, "at {offset}");
            if point.offset > merged_to {
                continue;
            }
            alone += 1;
            let asked = self.s3.asked();
            let reads = |part: &str| asked.iter().any(|asked| asked.is("GET", part));
            assert!(reads("/span/"), "at {offset}: {asked:?}");
            let missing: Vec<_> = asked
                .iter()
                .filter(|asked| asked.is("GET", "/log/") && !self.s3.names().contains(&asked.name))
                .collect();
            assert!(missing.is_empty(), "at {offset}: {missing:?}");
        }
        alone
    }
}

on!(
    what_is_restored_from_spans_alone_is_what_the_server_had:
    redis_62 = Redis62,
    redis_70 = Redis70,
    redis_86 = Redis86,
    valkey_91 = Valkey91,
);

fn what_is_restored_from_spans_alone_is_what_the_server_had(version: Version) {
    let mut case = Case::start(version);
    let backup = case.backup();
    case.write();
    // Both have to be old: no segment goes for a span that was made just now.
    assert_eq!(case.delete_segments(), 0);
    assert!(case.names("/span/").len() >= 2);
    let all: BTreeSet<String> = case.names("/log/").into_iter().collect();
    assert!(all.len() >= WRITES, "{}", all.len());
    case.s3.age(HOUR);
    assert_eq!(case.delete_segments(), 0, "an hour is not enough");

    // Nothing goes for a span that is not what it was.
    case.s3.age(2 * HOUR);
    let spans = case.names("/span/");
    let sound = case.s3.objects();
    let mut spoilt = sound.clone();
    let (body, _) = spoilt.get_mut(&spans[0]).unwrap();
    let mut bytes = body.to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    *body = bytes.into();
    case.s3.reset(spoilt);
    let refused = case.run(&["merge", "--delete-segments"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    let left: BTreeSet<String> = case.names("/log/").into_iter().collect();
    assert_eq!(left, all, "a segment went for a span that is damaged");
    case.s3.reset(sound);

    let gone = case.delete_segments();
    assert!(gone >= 500, "{gone}");
    let left: BTreeSet<String> = case.names("/log/").into_iter().collect();
    assert_eq!(left.len() as u64, all.len() as u64 - gone);
    // Of the log, what it begins with went.
    let went: Vec<&String> = all.difference(&left).collect();
    assert!(went.last() < left.iter().next().as_ref(), "{went:?}");
    assert!(case.check_points() >= 5);

    // The service did not notice. The next one goes on where it ended.
    case.points.clear();
    assert_eq!(backup.metric("backfeed_full_syncs_total"), 1.0);
    drop(backup);
    let mut next = case.backup();
    case.write();
    assert_eq!(next.metric("backfeed_full_syncs_total"), 0.0);
    assert_eq!(next.sigterm(), 0);
    case.delete_segments();
    case.s3.age(3 * HOUR);
    assert!(case.delete_segments() >= 500);
    assert!(case.check_points() >= 5);
    let verified = case.run(&["verify", "--deep"]);
    assert_eq!(verified.code, 0, "{verified:?}");
}
