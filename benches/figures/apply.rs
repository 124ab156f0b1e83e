//! Commands of a log applied outside of any server, both passes over it, against a server that loads the same ones as its
//! append-only file.

use backfeed::archive::Archive;
use backfeed::rebuild::Limits;
use backfeed::recovery::{BadBases, RecoveryTarget};
use backfeed::{rebuild, recovery, restore, store};

use super::*;
use support::{Backfeed, run_with, wait_until};

/// Commands for each key, in turn: of every common kind.
const PER_KEY: usize = 8;

pub fn run(place: &Place, keys: usize) {
    let redis = redis();
    let url = place.url("apply");
    let spool = place.home.path().display().to_string();
    let options = ["--consolidate-every", "never", "--spool-dir", &spool];
    let backfeed = Backfeed::backup(&redis.url(), &url, &options);
    backfeed.wait_following();
    let commands = keys.div_ceil(PER_KEY) * PER_KEY;
    write(&redis, keys.div_ceil(PER_KEY));
    backfeed.wait_captured(&redis);
    drop(backfeed);
    let there = redis.text(&["DBSIZE"]);
    drop(redis);
    println!(
        "applying {commands} commands of strings, hashes, lists, sets and sorted sets, against a server's load of its AOF"
    );
    let dir = place.home.path().join("apply-aof");
    let to = format!("aof:{}", dir.display());
    let made = run_with(&Env::new(), &["restore", "--store", &url, "--to", &to]);
    assert_eq!(made.code, 0, "{made:?}");
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let ours = apply(&url, &there);
        let theirs = replay(&dir, &there);
        ratios.push(ratio(theirs, ours));
        println!(
            "  round {round}   {:.2} s, the server {:.2} s: {:.2} times as fast",
            ours.as_secs_f64(),
            theirs.as_secs_f64(),
            ratios[round]
        );
    }
    println!("  median {:.2} times as fast\n", middle(&mut ratios));
}

/// Eight commands a key, the keys in turn.
pub(super) fn write(redis: &Server, keys: usize) {
    let stream = TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    let mut replies = stream.try_clone().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut replies, &mut std::io::sink()));
    let mut out = BufWriter::with_capacity(1 << 20, &stream);
    for turn in 0..PER_KEY {
        for n in 0..keys {
            let command = match turn % 4 {
                0 => format!("SET string:{n} {:0100}", n * PER_KEY + turn),
                1 => format!("HSET hash:{} field:{} value:{turn}", n / 10, n % 10),
                2 if turn < 4 => format!("RPUSH list:{} element:{n}", n / 10),
                2 => format!("ZADD zset:{} {n} member:{}", n / 10, n % 100),
                _ if turn < 4 => format!("SADD set:{} member:{n}", n / 10),
                _ => format!("INCR number:{n}"),
            };
            write!(out, "{command}\r\n").unwrap();
        }
    }
    out.flush().unwrap();
    drop(out);
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    drain.join().unwrap().unwrap();
}

fn apply(url: &str, keys: &str) -> Duration {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let archive = Archive::open(store::open(url).await.unwrap())
            .await
            .unwrap();
        let catalog = archive.catalog().await.unwrap();
        let history = recovery::choose(&archive, &catalog, None, None).unwrap();
        let bad = BadBases::new();
        let plan = recovery::plan(&archive, &catalog, history, RecoveryTarget::Latest, &bad);
        let plan = plan.await.unwrap();
        let limits = Limits {
            memory: 8 << 30,
            log: u64::MAX,
        };
        let begun = Instant::now();
        let source = recovery::source(&archive, &plan);
        let mut survey = rebuild::survey(&source, limits).await.unwrap();
        let state = rebuild::state(&source, &mut survey, limits).await.unwrap();
        let time = begun.elapsed();
        let entries = state.space.entries().map(|(_, keys)| keys.count());
        assert_eq!(entries.sum::<usize>().to_string(), keys);
        time
    })
}

/// What the server itself says that it took.
fn replay(dir: &Path, keys: &str) -> Duration {
    let redis = Server::builder(Version::Redis70)
        .dir(dir)
        .arg("appendonly", "yes")
        .start();
    wait_until("it has loaded", Duration::from_secs(600), || {
        redis.info("persistence")["loading"] == "0" && redis.text(&["DBSIZE"]) == keys
    });
    let log = redis.log();
    let took = log
        .lines()
        .filter(|line| line.contains("DB loaded from"))
        .filter_map(|line| {
            line.rsplit_once(": ")?
                .1
                .strip_suffix(" seconds")?
                .parse()
                .ok()
        });
    Duration::from_secs_f64(took.fold(0.0, f64::max))
}
