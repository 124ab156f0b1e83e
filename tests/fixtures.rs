//! The corpus `proto-fixtures/`: recorded here, replayed here, in every way that a network and a master can come up with.

mod hand_made;
mod recorder;
mod scenarios;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use backfeed::fixture;
use backfeed::fixture::recording::Kind;
use backfeed::fixture::{Recording, Transcript};
use backfeed::wire::position::Boundary;
use backfeed::wire::psync::replica::{Event, Handshake, Replica};
use backfeed::wire::rdb::Walker;
use backfeed::wire::resp::FeedScanner;
use bytes::Bytes;
use tempfile::TempDir;

use crate::support::data::{Random, for_each_version};
use crate::support::{Backfeed, Server, Version, run, wait_until};

for_each_version!(
    machines_read_every_fixture_however_it_is_cut,
    a_real_replica_follows_every_fixture,
    newer_replicas_follow_every_fixture,
    every_fixture_is_captured_consolidated_and_restored,
);

/// One byte at a time, up to so much; what is longer is read so from its ends.
const BYTE_BY_BYTE: usize = 400_000;
const CHUNKINGS: u64 = 6;

pub(crate) fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-fixtures")
}

/// The fixtures of a version, which must be there.
fn fixtures(version: Version) -> Vec<PathBuf> {
    let folder = corpus().join(version.name());
    let entries =
        fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    all.sort();
    for scenario in scenarios::ALL {
        let there = all.iter().any(|path| path.ends_with(scenario.name));
        assert!(
            there || !scenario.is_for(version),
            "{version}: {} is missing",
            scenario.name
        );
    }
    all
}

/// What `expected.txt` says: the digest, by the server itself.
fn expected(fixture: &Path) -> String {
    let text = fs::read_to_string(fixture.join("expected.txt")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("digest "));
    line.expect("a digest").to_owned()
}

/// What a replica's machine makes of the bytes.
#[derive(Default, PartialEq, Debug)]
struct Heard {
    rdb: Vec<u8>,
    feed: Vec<u8>,
    commands: u64,
}

/// Feeds each connection to our machines in pieces, and gives what came out.
fn heard(recording: &Recording, mut piece: impl FnMut() -> usize) -> Heard {
    let mut all = Heard::default();
    let transcript = Transcript::of(recording).unwrap();
    let mut scanner = FeedScanner::new(Boundary {
        offset: transcript.base.offset,
        db: 0,
    });
    let mut stretches = transcript.stretches.iter();
    let mut connections: Vec<Vec<u8>> = Vec::new();
    for record in &recording.records {
        match record.kind {
            Kind::Open => connections.push(Vec::new()),
            Kind::Master => connections
                .last_mut()
                .unwrap()
                .extend_from_slice(&record.bytes),
            Kind::Replica | Kind::Close => {}
        }
    }
    for mut bytes in connections.into_iter().map(Bytes::from) {
        let at = stretches
            .next()
            .expect("every connection of the corpus comes to a feed");
        let resume =
            (at.from != transcript.base.offset).then_some(backfeed::wire::position::Position {
                history: at.id,
                offset: at.from,
            });
        let version = recording
            .said(Kind::Replica)
            .windows(7)
            .any(|word| word == b"version")
            .then_some("9.0.0");
        let mut replica = Replica::new(
            Handshake {
                auth: None,
                version,
                resume,
                rdb_only: false,
            },
            &mut Vec::new(),
        );
        let mut walker = Walker::new();
        let mut events = Vec::new();
        while !bytes.is_empty() {
            let chunk = bytes.split_to(piece().min(bytes.len()));
            replica
                .receive(chunk, &mut events, &mut Vec::new())
                .unwrap();
            for event in events.drain(..) {
                match event {
                    Event::Payload(part) => {
                        walker.push(&part).unwrap();
                        all.rdb.extend_from_slice(&part);
                    }
                    Event::PayloadEnd => walker.finish_opaque().unwrap(),
                    Event::Feed(part) => {
                        scanner.scan(&part, |_| all.commands += 1).unwrap();
                        all.feed.extend_from_slice(&part);
                    }
                    Event::FullResync(at) => assert_eq!(at, transcript.base),
                    Event::Continue(_) => {}
                }
            }
        }
    }
    all
}

fn machines_read_every_fixture_however_it_is_cut(version: Version) {
    for path in fixtures(version) {
        let name = path.display();
        let recording = fixture::load(&path).unwrap();
        assert_eq!(
            Recording::parse(&recording.compress().unwrap()),
            Ok(recording.clone()),
            "{name}"
        );
        let transcript = Transcript::of(&recording).unwrap();
        let whole = heard(&recording, || usize::MAX);
        assert!(
            whole.rdb == transcript.rdb && whole.feed == transcript.feed,
            "{name}"
        );
        let length = whole.rdb.len() + whole.feed.len();
        if length <= BYTE_BY_BYTE {
            assert!(
                heard(&recording, || 1) == whole,
                "{name}: one byte at a time"
            );
        }
        for seed in 0..CHUNKINGS {
            let mut random = Random::new(seed);
            let most =
                [3, 30, 300, 3000, 30_000, 300_000][seed as usize % 6].max(length as u64 / 100_000);
            let piece = || 1 + usize::try_from(random.below(most)).unwrap();
            assert!(
                heard(&recording, piece) == whole,
                "{name}: pieces of up to {most}, seed {seed}"
            );
        }
    }
}

/// A running `backfeed replay`.
struct Replaying {
    child: Child,
    port: u16,
}

impl Replaying {
    fn start(fixture: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_backfeed"))
            .arg("replay")
            .arg(fixture)
            .args(["--listen", "127.0.0.1:0"])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line
            .split(" on ")
            .last()
            .unwrap()
            .split(": ")
            .next()
            .unwrap();
        let port = address
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap_or_else(|_| panic!("{line}"));
        Self { child, port }
    }

    fn is_over(&mut self) -> bool {
        self.child
            .try_wait()
            .unwrap()
            .is_some_and(|status| status.success())
    }
}

impl Drop for Replaying {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The faults that a fixture of this number is replayed with, and where the link is cut.
fn faults(number: usize, transcript: &Transcript) -> (String, String) {
    const FAULTS: [&str; 8] = [
        "eof-split,keepalives",
        "split,new-id-after-cut",
        "coalesce,disk",
        "loading:1,eof",
        "stall:200,other-id",
        "full-sync-after-cut",
        "repeat:2",
        "reorder:2",
    ];
    let mut random = Random::new(number as u64);
    let length = transcript.feed.len() as u64 + 1;
    let cuts = format!("+{},+{}", random.below(length), random.below(length));
    (FAULTS[number % FAULTS.len()].to_owned(), cuts)
}

fn a_real_replica_follows_every_fixture(version: Version) {
    for (number, path) in fixtures(version).iter().enumerate() {
        let name = path.display();
        let transcript = Transcript::of(&fixture::load(path).unwrap()).unwrap();
        let (fault, cuts) = faults(number + version as usize, &transcript);
        let seed = number.to_string();
        let replaying = Replaying::start(
            path,
            &["--fault", &fault, "--cut-at", &cuts, "--seed", &seed],
        );
        let replica = Server::builder(version)
            .replicaof("127.0.0.1", replaying.port)
            .start();
        let what = format!("{name}, with {fault}, cut at {cuts}");
        has_all(&replica, &transcript, &what);
        assert_eq!(replica.debug_digest(), expected(path), "{what}");
    }
}

/// Waits until the replica has all of it.
fn has_all(replica: &Server, transcript: &Transcript, what: &str) {
    let end = transcript.end().0;
    wait_until(&format!("a replica has all of {what}"), PATIENCE, || {
        let info = replica.info("replication");
        info["slave_repl_offset"]
            .parse::<u64>()
            .is_ok_and(|offset| offset >= end)
    });
}

/// What servers from Redis 7.2 and Valkey 8 on take into the digest for a score of 0.1; older ones, 0.10000000000000001.
const SHORTER_SCORES: &str = "redis-6.2/every-command";

/// Where only that can differ, sorted sets are compared by what is shown of them, with scores as numbers.
fn assert_same_but_for_scores(replica: &Server, fixture: &Path, what: &str) {
    let values = |text: &str| -> Vec<String> {
        let keys = text
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
        let value = |line: &str| {
            let (key, shown) = line.split_once(": ").unwrap_or((line, ""));
            let Some((name, _)) = key.split_once(" zset ") else {
                return key.to_owned();
            };
            let word = |word: &str| match word.parse::<f64>() {
                Ok(number) => format!(" {number:?}"),
                Err(_) => format!(" {word}"),
            };
            // The first word is the encoding, which is the server's own affair.
            let shown: String = shown.split(' ').skip(1).map(word).collect();
            format!("{name}{shown}")
        };
        keys.map(value).collect()
    };
    let wanted = fs::read_to_string(fixture.join("expected.txt")).unwrap();
    assert!(wanted.contains(" 0.10000000000000001 "));
    let (wanted, found) = (values(&wanted), values(&recorder::describe(replica)));
    for (wanted, found) in wanted.iter().zip(&found) {
        assert_eq!(found, wanted, "{what}");
    }
    assert_eq!(found.len(), wanted.len(), "{what}");
}

/// Servers that load what this one writes, and know its commands.
fn newer_than(version: Version) -> &'static [Version] {
    use Version::*;
    match version {
        Redis60 => &[Redis62, Redis70, Redis80, Redis86, Valkey81, Valkey91],
        Redis62 => &[Redis70, Redis80, Redis86, Valkey81, Valkey91],
        Redis70 => &[Redis80, Redis86, Valkey81, Valkey91],
        Redis80 => &[Redis86],
        Valkey81 => &[Valkey91],
        Redis86 | Valkey91 => &[],
    }
}

fn newer_replicas_follow_every_fixture(version: Version) {
    for path in fixtures(version) {
        let transcript = Transcript::of(&fixture::load(&path).unwrap()).unwrap();
        for newer in newer_than(version) {
            let replaying = Replaying::start(&path, &[]);
            let replica = Server::builder(*newer)
                .replicaof("127.0.0.1", replaying.port)
                .start();
            let what = format!("{}, by {newer}", path.display());
            let shorter = !matches!(newer, Version::Redis62 | Version::Redis70);
            has_all(&replica, &transcript, &what);
            if shorter && path.ends_with(SHORTER_SCORES) {
                assert_same_but_for_scores(&replica, &path, &what);
            } else {
                assert_eq!(replica.debug_digest(), expected(&path), "{what}");
            }
        }
    }
}

/// Where a consolidation stops although the server went on; what comes after is restored from the log.
const KNOWN_STOPS: [(&str, &str); 1] = [(
    "redis-8.0/every-command",
    "GEORADIUSBYMEMBER: a score is no position",
)];

const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// Answers that come twice or in another order are errors, and store nothing. (A service that has once been connected
/// tries again; one that has not yet ends.)
fn refuses_odd_replies(redis: &str, store: &str, fault: &str) {
    // The first of both connections asks for INFO.
    if !["repeat:2", "reorder:2"].contains(&fault) {
        return;
    }
    let output = run(&["backup", "--once", "--redis", redis, "--store", store]);
    assert_eq!(output.code, 4, "{fault}: {output:?}");
    let told = ["does not look like a Redis server", "is not ready"];
    assert!(
        told.iter().any(|told| output.stderr.contains(told)),
        "{fault}: {output:?}"
    );
    let listed = run(&["list", "--store", store]);
    assert!(listed.stdout.contains("no backups yet"), "{listed:?}");
}

fn every_fixture_is_captured_consolidated_and_restored(version: Version) {
    for (number, path) in fixtures(version).iter().enumerate() {
        let name = path.display();
        let transcript = Transcript::of(&fixture::load(path).unwrap()).unwrap();
        let (fault, cuts) = faults(number + version as usize + 3, &transcript);
        // Another id from the start is nothing to a backup, and costs it a reconnect.
        let cuts = cuts.split(',').next().unwrap();
        let fault = fault
            .replace(",other-id", "")
            .replace("full-sync-after-cut", "split");
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let replaying = Replaying::start(path, &["--fault", &fault, "--cut-at", cuts]);
        let redis = format!("redis://127.0.0.1:{}", replaying.port);
        refuses_odd_replies(&redis, &store, &fault);
        let mut backfeed = Backfeed::backup(
            &redis,
            &store,
            &["--consolidate-every", "never", "--flush-interval", "50ms"],
        );
        let what = format!("{name} is received, with {fault}, cut at {cuts}");
        let end = transcript.end().0;
        backfeed.wait(&what, |view| {
            view["received_offset"]
                .as_u64()
                .is_some_and(|offset| offset >= end)
        });
        assert_eq!(backfeed.sigterm(), 0, "{name}");
        let output = run(&["consolidate", "--store", &store, "--json"]);
        assert_eq!(output.code, 0, "{name}: {output:?}");
        let report: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
        let stopped = report["stopped"].as_str().unwrap_or_default();
        let known = KNOWN_STOPS
            .iter()
            .any(|(fixture, why)| path.ends_with(fixture) && stopped.contains(why));
        assert!(stopped.is_empty() || known, "{name}: {report}");
        let target = Server::start(version, &[]);
        let output = run(&["restore", "--store", &store, "--to", &target.url()]);
        assert_eq!(output.code, 0, "{name}: {output:?}");
        assert_eq!(
            target.debug_digest(),
            expected(path),
            "{name}: restored, with {fault}, cut at {cuts}"
        );
    }
}

/// `--once` ends when a replica has everything; the recorded pace is kept, or sped up.
#[test]
fn a_replay_ends_once_and_keeps_its_pace() {
    let path = corpus().join("redis-7.0/idle-and-wait");
    let recording = fixture::load(&path).unwrap();
    let took = recording.records.last().unwrap().at_us / 1000;
    for (pace, least, most) in [("fast", 0, took / 2), ("4x", took / 8, took)] {
        let mut replaying = Replaying::start(&path, &["--once", "--pace", pace]);
        let begun = std::time::Instant::now();
        let _replica = Server::builder(Version::Redis70)
            .replicaof("127.0.0.1", replaying.port)
            .start();
        wait_until("the replay ends", PATIENCE, || replaying.is_over());
        let took = u64::try_from(begun.elapsed().as_millis()).unwrap();
        assert!(least <= took && took < most, "{pace}: {took} ms");
    }
}

/// Neither the password nor what was to be hidden is anywhere in a recording, and a replica can follow it all the same.
#[test]
fn secrets_are_not_recorded() {
    let source = Server::builder(Version::Valkey91)
        .arg("requirepass", "opensesame")
        .start();
    let home = TempDir::new().unwrap();
    let path = home.path().join("fixture");
    let mut recorder = Command::new(env!("CARGO_BIN_EXE_backfeed"))
        .args([
            "record",
            "--redis",
            &source.url(),
            "--redact",
            "keys",
            "--to",
        ])
        .arg(&path)
        .spawn()
        .unwrap();
    wait_until("the recorder follows", PATIENCE, || {
        let info = source.info("replication");
        info.get("slave0")
            .is_some_and(|line| line.contains("state=online"))
    });
    source.cmd(&["SET", "customer", "privatedata"]);
    source.cmd(&["RPUSH", "privatelist", "privatedata", "other"]);
    source.cmd(&["WAIT", "1", "10000"]);
    let end = source.position().1;
    wait_until("all is recorded", PATIENCE, || {
        let info = source.info("replication");
        let offset = info["slave0"].split_once("offset=").unwrap().1;
        offset.split(',').next().unwrap().parse::<u64>().unwrap() + 1 >= end
    });
    let kill = format!("kill {}", recorder.id());
    assert!(
        Command::new("sh")
            .args(["-c", &kill])
            .status()
            .unwrap()
            .success()
    );
    assert!(recorder.wait().unwrap().success());
    let recording = fixture::load(&path).unwrap();
    let text = String::from_utf8_lossy(&recording.encode()).into_owned();
    for secret in ["opensesame", "customer", "private"] {
        assert!(!text.contains(secret), "{secret}");
    }
    assert!(text.contains("redacted"));
    let replaying = Replaying::start(&path, &[]);
    let replica = Server::builder(Version::Valkey91)
        .replicaof("127.0.0.1", replaying.port)
        .start();
    wait_until("the replica has both keys", PATIENCE, || {
        replica.text(&["DBSIZE"]) == "2"
    });
    // There is no redaction of a snapshot with keys.
    let other = home.path().join("other").display().to_string();
    let output = run(&[
        "record",
        "--redis",
        &source.url(),
        "--redact",
        "values",
        "--for",
        "1s",
        "--to",
        &other,
    ]);
    assert_eq!(output.code, 1, "{output:?}");
    assert!(
        output.stderr.contains("holds keys or functions"),
        "{output:?}"
    );
    assert!(!std::path::Path::new(&other).exists());
}
