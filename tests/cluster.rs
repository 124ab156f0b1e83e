//! A Redis Cluster: `serve` finds its shards, follows failovers, slots that move, and shards that come and go.

use std::collections::BTreeMap;
use std::fs;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::cluster::{Cluster, digests_of};
use crate::support::{Backfeed, Env, Server, Version, list, on, run, wait_until};

/// A store, a file of `serve` with one cluster, and the service.
struct Stage {
    home: TempDir,
    backfeed: Backfeed,
}

impl Stage {
    fn start(cluster: &Cluster, more: &str) -> Self {
        let home = TempDir::new().unwrap();
        let file = home.path().join("backfeed.toml");
        let text = format!(
            "[defaults]\nflush_interval = \"200ms\"\nstore = \"file://{}/{{name}}\"\n[sources.shop]\nredis = \"{}\"\n{more}\n",
            home.path().display(),
            cluster.url(),
        );
        fs::write(&file, text).unwrap();
        let file = file.display().to_string();
        let backfeed = Backfeed::start_with(Env::new(), &["serve", "--config", &file]);
        Self { home, backfeed }
    }

    /// The place of the cluster.
    fn place(&self) -> String {
        format!("file://{}/shop", self.home.path().display())
    }

    fn shard_store(&self, shard: &str) -> String {
        format!("{}/shards/{shard}", self.place())
    }

    /// The slot maps in the store.
    fn maps(&self) -> Vec<Value> {
        let maps = self.home.path().join("shop/map");
        let files = fs::read_dir(maps).into_iter().flatten();
        let files = files.map(|file| file.unwrap().path());
        let mut files: Vec<_> = files
            .filter(|path| path.extension().is_some_and(|end| end == "json"))
            .collect();
        files.sort();
        let read = |path: &std::path::PathBuf| serde_json::from_slice(&fs::read(path).unwrap());
        files.iter().map(|path| read(path).unwrap()).collect()
    }

    /// Waits until `count` shards are followed.
    fn wait_following(&self, count: usize) {
        self.backfeed
            .wait(&format!("{count} shards are followed"), |view| {
                let sources = view["sources"].as_object().unwrap();
                view["clusters"]["shop"]["shards"] == count
                    && view["ready"] == true
                    && sources.len() == count
                    && sources.values().all(|it| it["phase"] == "following")
            });
    }

    /// Waits for a slot map that fulfils the condition.
    fn wait_map(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
        let mut found = None;
        wait_until(what, PATIENCE, || {
            found = self.maps().pop().filter(|map| wanted(map));
            found.is_some()
        });
        found.unwrap()
    }

    /// Waits until the source of this shard has received and stored all that the server has.
    fn wait_stored(&self, shard: &str, server: &Server) {
        let (_, end) = server.position();
        self.backfeed.wait("everything is stored", |view| {
            let source = &view["sources"][format!("shop/{shard}")];
            // What an idle server sends is stored much later.
            let is_received = source["received_offset"].as_u64() >= Some(end);
            is_received && source["lag_bytes"] == 0
        });
    }
}

/// The shard whose master is this node.
fn shard_of(map: &Value, master: &str) -> Option<String> {
    let shards = map["shards"].as_array().unwrap();
    let shard = shards.iter().find(|shard| shard["master"] == master)?;
    Some(shard["name"].as_str().unwrap().to_owned())
}

/// Ids of the connections that the server feeds, but for its replicas in the cluster.
fn links(server: &Server) -> Vec<String> {
    let replicas = server.text(&["CLIENT", "LIST", "TYPE", "replica"]);
    let ids = replicas.lines().filter_map(|line| line.split(' ').next());
    ids.map(str::to_owned).collect()
}

fn load(cluster: &Cluster, from: u32, to: u32) {
    for n in from..to {
        cluster.set(&format!("key:{n}"), &n.to_string());
        let (one, other) = (format!("{{tag:{n}}}:a"), format!("{{tag:{n}}}:b"));
        cluster.set_all(&[(&one, "1"), (&other, &n.to_string())]);
    }
}

on!(shards_are_followed: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

fn shards_are_followed(version: Version) {
    let mut cluster = Cluster::start(version);
    let mut stage = Stage::start(&cluster, "");
    stage.wait_following(3);
    load(&cluster, 0, 100);
    let first = stage.maps();
    assert_eq!(first.len(), 1, "{first:?}");
    let shards: Vec<String> = (0..3)
        .map(|node| shard_of(&first[0], &cluster.id(node)).unwrap())
        .collect();
    let others: Vec<_> = [1, 2].map(|node| links(&cluster.nodes[node])).into();
    let code = stage
        .backfeed
        .get(&format!("/sources/shop/{}/readyz", shards[0]))
        .unwrap()
        .0;
    assert_eq!(code, 200);

    // A failover: the same archive goes on, without a full sync, and the others do not notice.
    cluster.fail_over(0, 3);
    let new = cluster.id(3);
    let map = stage.wait_map("the failover is in the map", |map| {
        shard_of(map, &new).is_some()
    });
    assert_eq!(
        shard_of(&map, &new),
        Some(shards[0].clone()),
        "its name stays: {map}"
    );
    stage.wait_following(3);
    load(&cluster, 100, 200);
    for (shard, node) in shards.iter().zip([3, 1, 2]) {
        stage.wait_stored(shard, &cluster.nodes[node]);
    }
    assert_eq!(cluster.nodes[3].info("stats")["sync_full"], "0");
    let now: Vec<_> = [1, 2].map(|node| links(&cluster.nodes[node])).into();
    assert_eq!(now, others, "the other shards keep their links");
    let histories = list(&stage.shard_store(&shards[0]))["histories"].clone();
    assert_eq!(histories.as_array().map(Vec::len), Some(2), "{histories}");

    // A new master begins before it has slots, slots move to it, and away from it again.
    let fourth = cluster.join();
    stage.wait_following(4);
    let id = cluster.id(fourth);
    let name = shard_of(stage.maps().last().unwrap(), &id).unwrap();
    cluster.move_slots(1, fourth, 5461, 5480);
    let map = stage.wait_map("the slots are in the map", |map| {
        map.to_string().contains("\"5461-5480\"")
    });
    assert_eq!(shard_of(&map, &id), Some(name.clone()));
    assert!(
        map["before_unix_ms"].as_i64() <= map["seen_unix_ms"].as_i64(),
        "{map}"
    );
    stage.wait_stored(&name, &cluster.nodes[fourth]);
    cluster.move_slots(fourth, 1, 5461, 5480);
    cluster.forget(fourth);
    stage.wait_following(3);
    assert!(shard_of(stage.maps().last().unwrap(), &id).is_none());
    let kept = list(&stage.shard_store(&name))["histories"].clone();
    assert_eq!(
        kept.as_array().map(Vec::len),
        Some(1),
        "its archive stays: {kept}"
    );
    let now: Vec<_> = [1, 2].map(|node| links(&cluster.nodes[node])).into();
    assert_eq!(now, others);

    let full = full_syncs(&cluster);
    // What comes after it goes on with the maps and names that are there.
    assert_eq!(stage.backfeed.sigterm(), 0, "{}", stage.backfeed.log());
    let maps = stage.maps();
    for (index, map) in maps.iter().enumerate() {
        assert_eq!(map["number"], index + 1);
    }
    stage.backfeed.restart();
    stage.wait_following(3);
    assert_eq!(stage.maps(), maps);
    assert_eq!(full_syncs(&cluster), full, "it continues all of them");
}

/// Of the masters.
fn full_syncs(cluster: &Cluster) -> Vec<String> {
    let masters = [3, 1, 2].map(|node| &cluster.nodes[node]);
    let of = |node: &Server| node.info("stats")["sync_full"].clone();
    masters.into_iter().map(of).collect()
}

fn now_ms() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()
}

/// Long enough that time marks tell what is before it from what is after it.
fn quiet() {
    std::thread::sleep(std::time::Duration::from_millis(400));
}

const LIBRARY: &str = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";

fn libraries(server: &Server) -> usize {
    let list = server.cmd(&["FUNCTION", "LIST"]);
    redis::from_redis_value::<Vec<redis::Value>>(list)
        .unwrap()
        .len()
}

on!(all_shards_are_restored_at_one_instant: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

fn all_shards_are_restored_at_one_instant(version: Version) {
    let thirds = [(0, 5460), (5461, 10_922), (10_923, 16_383)];
    let mut cluster = Cluster::masters(version, &thirds, 0);
    let mut stage = Stage::start(&cluster, "");
    stage.wait_following(3);
    let before_all = 1_000_000_000_000_u64;
    for node in &cluster.nodes {
        node.cmd(&["FUNCTION", "LOAD", LIBRARY]);
    }
    load(&cluster, 0, 100);
    for n in 0..20 {
        let key = format!("list:{n}");
        cluster.with(&key, |connection| {
            redis::cmd("RPUSH")
                .arg(&key)
                .arg(n)
                .arg("x")
                .query::<()>(connection)
        });
        let key = format!("expires:{n}");
        cluster.with(&key, |connection| {
            redis::cmd("SET")
                .arg(&key)
                .arg(n)
                .arg("EX")
                .arg(100_000)
                .query::<()>(connection)
        });
        cluster.set(&format!("{{moving}}:{n}"), "before");
    }
    let slot: u16 = cluster.nodes[0]
        .text(&["CLUSTER", "KEYSLOT", "{moving}"])
        .parse()
        .unwrap();
    let from = thirds
        .iter()
        .position(|(first, last)| (*first..=*last).contains(&slot))
        .unwrap();
    let to = (from + 1) % 3;

    // At this instant, the slot is on its way: half of its keys are there.
    cluster.begin_move(from, to, slot);
    cluster.move_keys(from, to, slot, 10);
    quiet();
    let (at, model) = (now_ms().to_string(), cluster.digests());
    quiet();
    assert_eq!(model.len(), 360);
    load(&cluster, 100, 130);
    cluster.move_keys(from, to, slot, usize::MAX);
    cluster.end_move(to, slot);
    for n in 0..20 {
        cluster.set(&format!("{{moving}}:{n}"), "after");
        cluster.with(&format!("key:{n}"), |connection| {
            redis::cmd("DEL")
                .arg(format!("key:{n}"))
                .query::<()>(connection)
        });
    }
    let map = stage.wait_map("the slot has moved", |map| map["number"] == 2);
    let last = cluster.digests();
    for (index, _) in thirds.iter().enumerate() {
        let shard = shard_of(&map, &cluster.id(index)).unwrap();
        stage.wait_stored(&shard, &cluster.nodes[index]);
    }
    assert_eq!(stage.backfeed.sigterm(), 0, "{}", stage.backfeed.log());

    let place = stage.place();
    let restore = |to: &str, at: &str, more: &[&str]| {
        let args = [
            "restore", "--store", &place, "--to", to, "--at", at, "--json",
        ];
        let output = run(&[&args[..], more].concat());
        let answer: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        (output, answer)
    };
    // Into a cluster of another shape, in which a slot is on its way too: `ASK`.
    let mut two = Cluster::masters(version, &[(0, 8191), (8192, 16_383)], 0);
    let key = model.keys().next().unwrap();
    let slot: u16 = two.nodes[0]
        .text(&["CLUSTER", "KEYSLOT", key])
        .parse()
        .unwrap();
    let owner = usize::from(slot > 8191);
    two.begin_move(owner, 1 - owner, slot);
    let (output, answer) = restore(&two.url(), &at, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(
        (&answer["map"], &answer["slots_compared"]),
        (&1.into(), &16_384.into())
    );
    assert_eq!(two.digests(), model);
    assert!(two.nodes.iter().all(|node| libraries(node) == 1));
    let ttl = two.with("expires:1", |connection| {
        redis::cmd("TTL").arg("expires:1").query::<i64>(connection)
    });
    assert!((90_000..=100_000).contains(&ttl), "{ttl}");

    // Not over what is there, unless it is forced; then to the latest point, with what was deleted since still there.
    let (output, _) = restore(&two.url(), "latest", &[]);
    assert_eq!(output.code, 4, "{output:?}");
    assert!(
        output.stderr.contains("keys. Restore to an empty target")
            && output.stderr.contains("--force"),
        "{output:?}"
    );
    assert_eq!(two.digests(), model);
    let (output, _) = restore(&two.url(), "latest", &["--force"]);
    assert_eq!(output.code, 0, "{output:?}");
    let found = two.digests();
    assert!(
        last.iter()
            .all(|(key, digest)| found.get(key) == Some(digest))
    );

    // Into one server, and into a file for each shard.
    let alone = Server::start(version, &[]);
    let (output, _) = restore(&alone.url(), &at, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(digests_of(&alone), model);
    let files = stage.home.path().join("files");
    let (output, answer) = restore(&format!("rdb:{}", files.display()), &at, &[]);
    assert_eq!(output.code, 0, "{output:?}");
    let mut found = BTreeMap::new();
    for file in fs::read_dir(&files).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let loaded = Server::builder(version)
            .dir(&files)
            .arg("dbfilename", &name)
            .start();
        found.extend(digests_of(&loaded));
        let functions = usize::from(!name.contains("moving"));
        assert_eq!(libraries(&loaded), functions, "{name}");
    }
    assert_eq!(found, model);
    assert_eq!(answer["keys"], 360);

    // What cannot be restored.
    let (output, _) = restore(
        &format!("rdb:{}", files.display()),
        &before_all.to_string(),
        &["--force"],
    );
    assert_eq!(output.code, 6, "{output:?}");
    assert!(
        output.stderr.contains("the first slot map is of"),
        "{output:?}"
    );
    let (output, _) = restore(&alone.url(), "offset:100", &["--force"]);
    assert!(
        output.code != 0 && output.stderr.contains("one shard"),
        "{output:?}"
    );
    let output = run(&["get", "x", "--store", &place]);
    assert!(output.stderr.contains("/shards/NAME"), "{output:?}");
    let output = run(&["list", "--store", &place]);
    assert!(
        output.code == 0 && output.stdout.contains("a cluster of 3 shards"),
        "{output:?}"
    );
    assert!(output.stdout.contains("begins with 0-5460"), "{output:?}");
    let listed = list(&place);
    assert_eq!(listed["maps"][1], map);
}
