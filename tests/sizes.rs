//! Large values, long commands, many of them, and odd bytes: they come back, and memory stays bounded.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{Backfeed, Load, Server, Version, on, restored, wait_until};

const MB: u64 = 1_000_000;
const MIB: usize = 1 << 20;
/// Beyond every limit that a copy in memory would have to keep to.
const HUGE: usize = 600 * MIB;
/// What the process may take at its peak, in a debug build, for a `--memory-limit` of 64 MiB.
const PEAK: u64 = 200 * MB;

fn store(home: &TempDir) -> String {
    format!("file://{}/bucket", home.path().display())
}

/// Peak of the resident memory of a process, in bytes; None once it has ended.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// `backfeed restore`: its peak of memory.
fn restore_measured(store: &str, to: &Server) -> u64 {
    let mut restore = Command::new(env!("CARGO_BIN_EXE_backfeed"))
        .args(["restore", "--store", store, "--to", &to.url()])
        .args(["--memory-limit", "64MiB"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut peak = 0;
    loop {
        peak = peak.max(peak_memory(restore.id()).unwrap_or(0));
        if let Some(status) = restore.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            assert!(peak > MB, "it was measured: {peak}");
            return peak;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// A server that takes huge values, and does not cut a replica off that is a huge value behind.
fn roomy(version: Version) -> Server {
    Server::builder(version)
        .arg("proto-max-bulk-len", "1gb")
        .arg("client-output-buffer-limit", "replica 0 0 0")
        .arg("repl-backlog-size", "800mb")
        .arg("rdbcompression", "no")
        .start()
}

/// Sets a value of [`HUGE`] bytes without holding it: noise, a quarter of it new.
fn set_huge(server: &Server, key: &str, seed: u64) {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.set_nodelay(true).unwrap();
    let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${HUGE}\r\n", key.len());
    stream.write_all(head.as_bytes()).unwrap();
    let mut noise = noise(seed, MIB / 4).repeat(4);
    for n in 0..HUGE / MIB {
        noise[n % MIB] ^= 0x5A;
        noise.rotate_left(8);
        stream.write_all(&noise).unwrap();
    }
    stream.write_all(b"\r\n").unwrap();
    let mut reply = String::new();
    BufReader::new(stream).read_line(&mut reply).unwrap();
    assert_eq!(reply, "+OK\r\n");
}

/// xorshift64*.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(len);
    bytes
}

/// Everything that the program did for one huge value stayed far below its size.
#[track_caller]
fn assert_bounded(what: &str, peak: u64) {
    eprintln!("{what}: at most {} MB", peak / MB);
    assert!(peak < PEAK, "{what} took {} MB", peak / MB);
}

#[test]
fn a_value_of_600_mb_in_the_snapshot() {
    let home = TempDir::new().unwrap();
    let mut redis = roomy(Version::Redis70);
    set_huge(&redis, "huge", 1);
    let backfeed = Backfeed::backup(&redis.url(), &store(&home), &["--memory-limit", "64MiB"]);
    backfeed.wait_captured(&redis);
    assert_bounded("the full sync", peak_memory(backfeed.pid()).unwrap());
    drop(backfeed);
    let digest = redis.debug_digest();
    redis.kill9();

    let copy = Server::start(Version::Redis70, &[]);
    assert_bounded("the restore", restore_measured(&store(&home), &copy));
    assert_eq!(copy.text(&["STRLEN", "huge"]), HUGE.to_string());
    assert_eq!(copy.debug_digest(), digest);
}

#[test]
fn a_command_of_600_mb_in_the_feed_and_a_kill_in_the_middle_of_it() {
    let home = TempDir::new().unwrap();
    let mut redis = roomy(Version::Redis70);
    let more = ["--memory-limit", "64MiB"];
    let mut backfeed = Backfeed::backup(&redis.url(), &store(&home), &more);
    backfeed.wait_captured(&redis);
    set_huge(&redis, "huge", 2);
    let end = redis.position().1;
    assert!(end > HUGE as u64);
    backfeed.wait("some of the command is stored", |view| {
        view["stored_offset"].as_u64().unwrap() > 50 * MB
    });
    let view = backfeed.readyz().unwrap();
    assert_bounded("half the feed", peak_memory(backfeed.pid()).unwrap());
    backfeed.restart();
    assert!(
        view["received_offset"].as_u64().unwrap() < end,
        "it was killed too late: {view}"
    );
    // It goes on from before the command, and keeps the part that is stored.
    backfeed.wait_captured(&redis);
    assert_bounded("the feed", peak_memory(backfeed.pid()).unwrap());
    assert_eq!(redis.info("stats")["sync_full"], "1");
    // One of them brought the feed of the full sync.
    assert_eq!(redis.info("stats")["sync_partial_ok"], "2");
    drop(backfeed);
    let digest = redis.debug_digest();
    redis.kill9();

    let copy = Server::start(Version::Redis70, &[]);
    assert_bounded("the restore", restore_measured(&store(&home), &copy));
    assert_eq!(copy.text(&["STRLEN", "huge"]), HUGE.to_string());
    assert_eq!(copy.debug_digest(), digest);
}

/// Each write comes alone, and stays in memory while the store does not take it.
#[test]
fn many_small_writes_that_wait_for_the_store() {
    let home = TempDir::new().unwrap();
    let redis = Server::start(Version::Redis70, &[]);
    let more = ["--memory-limit", "64MiB", "--flush-interval", "60s"];
    let backfeed = Backfeed::backup(&redis.url(), &store(&home), &more);
    backfeed.wait_captured(&redis);
    let load = Load::start(&redis, 2);
    load.wait_replies(30_000);
    let answered = load.stop();
    let view = backfeed.readyz().unwrap();
    assert!(view["lag_bytes"].as_u64().unwrap() > MB, "{view}");
    assert_bounded(
        "waiting for the store",
        peak_memory(backfeed.pid()).unwrap(),
    );
    let mut connection = redis.connect();
    let wait = redis::cmd("WAIT").arg(1).arg(20_000).to_owned();
    redis::cmd("INCR").arg("n").exec(&mut connection).unwrap();
    assert_eq!(wait.query::<u32>(&mut connection).unwrap(), 1);
    answered.assert_all_in(&restored(Version::Redis70, &store(&home)));
}

/// Captures what `before` writes as a snapshot and what `after` writes as a feed, and compares the restored copies.
fn comes_back(
    version: Version,
    more: &[&str],
    before: impl FnOnce(&mut redis::Connection),
    after: impl FnOnce(&mut redis::Connection),
) -> (Server, Server) {
    let home = TempDir::new().unwrap();
    let redis = Server::start(version, &[]);
    before(&mut redis.connect());
    let mut backfeed = Backfeed::backup(&redis.url(), &store(&home), more);
    backfeed.wait_captured(&redis);
    after(&mut redis.connect());
    backfeed.wait_captured(&redis);
    assert_eq!(backfeed.metric("backfeed_full_syncs_total"), 1.0);
    assert_eq!(backfeed.metric("backfeed_reconnects_total"), 0.0);
    assert_eq!(backfeed.sigterm(), 0);
    let copy = restored(version, &store(&home));
    assert_eq!(copy.debug_digest(), redis.debug_digest(), "{version}");
    (redis, copy)
}

/// The least that can be set: a transaction is longer than a segment, and than all memory.
const TIGHT: [&str; 4] = ["--segment-size", "64KiB", "--memory-limit", "128KiB"];

fn a_transaction_of_100_000_commands(version: Version) {
    let transaction = |connection: &mut redis::Connection| {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for n in 0..100_000 {
            pipe.cmd("SET").arg(format!("key:{n}")).arg(n).ignore();
        }
        pipe.exec(connection).unwrap();
        redis::cmd("INCR").arg("after").exec(connection).unwrap();
    };
    let (_, copy) = comes_back(version, &TIGHT, |_| {}, transaction);
    assert_eq!(copy.text(&["DBSIZE"]), "100001", "{version}");
}

on!(a_transaction_of_100_000_commands: redis_60 = Redis60, valkey_91 = Valkey91);

#[test]
fn a_command_of_1_000_000_arguments() {
    let push = |connection: &mut redis::Connection| {
        let mut push = redis::cmd("RPUSH");
        push.arg("list");
        for n in 0..1_000_000 {
            push.arg(n);
        }
        let length: u64 = push.query(connection).unwrap();
        assert_eq!(length, 1_000_000);
    };
    let (_, copy) = comes_back(Version::Redis70, &TIGHT, |_| {}, push);
    assert_eq!(copy.text(&["LINDEX", "list", "999999"]), "999999");
}

fn every_byte_in_keys_and_values_and_nothing_at_all(version: Version) {
    let all: Vec<u8> = (0..=255).collect();
    let reversed: Vec<u8> = (0..=255).rev().collect();
    let odd: [&[u8]; 7] = [
        b"",
        b"\0",
        b"\r\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"$EOF:0123456789012345678901234567890123456789",
        &all,
        &reversed,
    ];
    let write = |prefix: u8, connection: &mut redis::Connection| {
        for (n, key) in odd.iter().enumerate() {
            for (kind, value) in odd.iter().enumerate() {
                let key = [&[prefix, b'0' + kind as u8][..], key].concat();
                let args: &[&[u8]] = match n % 4 {
                    0 => &[b"SET", &key, value],
                    1 => &[b"HSET", &key, value, value],
                    2 => &[b"SADD", &key, value, b"other"],
                    _ => &[b"XADD", &key, b"1-1", b"field", value],
                };
                let command = redis::cmd(std::str::from_utf8(args[0]).unwrap())
                    .arg(&args[1..])
                    .to_owned();
                command.exec(connection).unwrap();
            }
        }
        let empty_key = [prefix];
        for key in [&empty_key[..], b""] {
            let set = redis::cmd("SET").arg(key).arg(b"").to_owned();
            set.exec(connection).unwrap();
        }
    };
    let (redis, copy) = comes_back(version, &[], |c| write(b'a', c), |c| write(b'b', c));
    assert_eq!(copy.text(&["DBSIZE"]), redis.text(&["DBSIZE"]));
    let mut connection = copy.connect();
    for prefix in *b"ab" {
        let key = [&[prefix, b'5'], &b""[..]].concat();
        let value: Vec<u8> = redis::cmd("GET").arg(key).query(&mut connection).unwrap();
        assert_eq!(value, all, "{version}");
    }
}

on!(every_byte_in_keys_and_values_and_nothing_at_all: redis_60 = Redis60, redis_62 = Redis62, redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

fn select(connection: &mut redis::Connection, db: u32) {
    redis::cmd("SELECT").arg(db).exec(connection).unwrap();
}

/// The selected database must survive a kill, a `SWAPDB` and a segment's cut.
fn sixteen_databases_and_swapdb_through_kills(version: Version) {
    let home = TempDir::new().unwrap();
    let redis = Server::start(version, &[]);
    let mut connection = redis.connect();
    let write = |round: u32, connection: &mut redis::Connection| {
        for db in 0..16 {
            select(connection, db);
            let key = format!("{round}:{db}");
            let set = redis::cmd("SET").arg(key).arg(db).to_owned();
            set.exec(connection).unwrap();
        }
    };
    write(0, &mut connection);
    let mut backfeed = Backfeed::backup(&redis.url(), &store(&home), &[]);
    backfeed.wait_captured(&redis);
    for (round, (a, b)) in (1..).zip([(0, 15), (3, 7), (15, 14)]) {
        write(round, &mut connection);
        select(&mut connection, a);
        let append = |connection: &mut redis::Connection, what| {
            let append = redis::cmd("APPEND").arg("trace").arg(what).to_owned();
            append.exec(connection).unwrap();
        };
        append(&mut connection, "before");
        let swap = redis::cmd("SWAPDB").arg(a).arg(b).to_owned();
        swap.exec(&mut connection).unwrap();
        // No SELECT comes between this and what the last link had said.
        backfeed.wait_captured(&redis);
        backfeed.kill9();
        append(&mut connection, "after");
        backfeed.restart();
        backfeed.wait_captured(&redis);
    }
    assert_eq!(redis.info("stats")["sync_full"], "1", "{version}");
    let copy = restored(version, &store(&home));
    assert_eq!(copy.info("keyspace").len(), redis.info("keyspace").len());
    assert_eq!(copy.debug_digest(), redis.debug_digest(), "{version}");
}

on!(sixteen_databases_and_swapdb_through_kills: redis_60 = Redis60, redis_70 = Redis70, valkey_91 = Valkey91);

#[test]
fn a_hundred_thousand_tiny_keys() {
    let write = |prefix: char, connection: &mut redis::Connection| {
        for some in 0..100 {
            let mut pipe = redis::pipe();
            for n in 0..1000 {
                let key = format!("{prefix}{}", some * 1000 + n);
                pipe.cmd("SET").arg(key).arg("").ignore();
            }
            pipe.exec(connection).unwrap();
        }
    };
    let (_, copy) = comes_back(
        Version::Redis70,
        &TIGHT,
        |connection| write('a', connection),
        |connection| write('b', connection),
    );
    assert_eq!(copy.text(&["DBSIZE"]), "200000");
    wait_until("it is a master", PATIENCE, || {
        copy.info("replication")["role"] == "master"
    });
}
