//! Which state is the latest, so what comes back by itself: servers that crash and come up from an older snapshot, or with next to
//! nothing, and what was confirmed before.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{Backfeed, Server, Version, free_port, list, on, restored, run, wait_until};

/// With RDB files, which it writes on command.
fn with_files(version: Version) -> Server {
    Server::builder(version).arg("save", "3600 1").start()
}

struct Setting {
    home: TempDir,
    listen: u16,
    redis: Server,
}

impl Setting {
    fn new(version: Version) -> Self {
        Self {
            home: TempDir::new().unwrap(),
            listen: free_port(),
            redis: with_files(version),
        }
    }

    fn store(&self) -> String {
        format!("file://{}/bucket", self.home.path().display())
    }

    fn backup(&self) -> Backfeed {
        Backfeed::backup(&self.redis.url(), &self.store(), &[])
    }

    /// A sidecar beside a Redis that was started without `--replicaof`.
    fn sidecar(&self, more: &[&str]) -> Backfeed {
        Backfeed::sidecar(&self.redis.url(), &self.store(), self.listen, more)
    }

    /// Confirmed.
    #[track_caller]
    fn set(&self, key: &str) {
        assert_eq!(self.redis.set_and_wait(0, key, 1, 20_000), 1, "{key}");
    }

    fn crash(&mut self) {
        self.redis.kill9();
        self.redis.restart();
    }

    /// It starts again with nothing.
    fn crash_and_lose_all(&mut self) {
        self.crash_and_find(|_| {});
    }

    /// It starts again with what is put into its directory.
    fn crash_and_find(&mut self, put: impl FnOnce(&Path)) {
        self.redis.kill9();
        fs::remove_dir_all(self.redis.dir()).unwrap();
        fs::create_dir(self.redis.dir()).unwrap();
        put(self.redis.dir());
        self.redis.restart();
    }

    fn has(&self, key: &str) -> bool {
        self.redis.text(&["EXISTS", key]) == "1"
    }

    /// What comes back by itself.
    fn comes_back(&self) -> Server {
        restored(self.redis.version(), &self.store())
    }

    /// One history is the latest, that of the server.
    #[track_caller]
    fn check_latest_is_the_server(&self) -> Value {
        let listing = list(&self.store());
        assert_eq!(listing["ambiguous"], json!([]), "{listing:#}");
        assert_eq!(listing["latest"], *self.redis.position().0, "{listing:#}");
        assert_eq!(self.comes_back().debug_digest(), self.redis.debug_digest());
        listing
    }
}

fn ids(listing: &Value) -> Vec<&str> {
    let histories = listing["histories"].as_array().unwrap();
    histories
        .iter()
        .map(|it| it["id"].as_str().unwrap())
        .collect()
}

/// With no new RDB between the crashes, each branch grows out of one point.
fn of_branches_from_one_point_the_last_one_is_the_latest(version: Version) {
    let mut setting = Setting::new(version);
    let backup = setting.backup();
    backup.wait_following();
    setting.set("in the rdb");
    setting.redis.save();
    for life in ["first", "second", "third"] {
        setting.set(life);
        setting.crash();
        backup.wait_captured(&setting.redis);
        assert!(!setting.has(life), "{version}");
    }
    setting.set("fourth");
    let listing = setting.check_latest_is_the_server();
    assert_eq!(ids(&listing).len(), 4, "{listing:#}");
    assert_eq!(
        backup.metric("backfeed_full_syncs_total") as u64,
        1,
        "{version}"
    );
    // The others are there.
    for (id, key) in ids(&listing)
        .iter()
        .zip(["first", "second", "third", "fourth"])
    {
        let copy = Server::start(version, &[]);
        let url = copy.url();
        let store = setting.store();
        let output = run(&["restore", "--store", &store, "--history", id, "--to", &url]);
        assert_eq!(output.code, 0, "{version}: {output:?}");
        assert_eq!(
            copy.text(&["EXISTS", "in the rdb", key]),
            "2",
            "{version}: {key}"
        );
    }
    let output = run(&["consolidate", "--store", &setting.store()]);
    assert_eq!(output.code, 0, "{version}: {output:?}");

    // A sidecar takes the store over, and meets one more crash.
    drop(backup);
    setting.crash();
    setting.redis.cmd(&["SET", "fifth", "1"]);
    let sidecar = setting.sidecar(&["--when-behind", "capture"]);
    sidecar.wait_captured(&setting.redis);
    setting.set("sixth");
    setting.check_latest_is_the_server();
    setting.crash_and_lose_all();
    wait_until("the latest is there again", PATIENCE, || {
        setting.has("sixth")
    });
    assert!(setting.has("fifth") && !setting.has("fourth"), "{version}");
    sidecar.wait_captured(&setting.redis);
    setting.check_latest_is_the_server();
}

on!(of_branches_from_one_point_the_last_one_is_the_latest: redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

/// A store whose latest is a state with `confirmed` in it, and an older RDB beside Redis.
fn with_an_older_rdb(version: Version) -> (Setting, Backfeed) {
    let setting = Setting::new(version);
    let sidecar = setting.sidecar(&[]);
    sidecar.wait_following();
    setting.set("early");
    setting.redis.save();
    setting.set("confirmed");
    (setting, sidecar)
}

fn a_master_from_an_older_rdb_is_given_what_was_confirmed(version: Version) {
    let (mut setting, mut sidecar) = with_an_older_rdb(version);
    // While the sidecar lives, and while it does not.
    for lives in [true, false] {
        if lives {
            setting.crash();
        } else {
            sidecar.kill9();
            setting.crash();
            sidecar.restart();
        }
        wait_until("what was confirmed is there again", PATIENCE, || {
            setting.has("confirmed") && setting.redis.info("replication")["role"] == "master"
        });
        sidecar.wait_captured(&setting.redis);
        let listing = setting.check_latest_is_the_server();
        assert_eq!(
            listing["histories"].as_array().unwrap().last().unwrap()["previous"],
            Value::Null
        );
    }
    setting.set("later");
    setting.crash_and_lose_all();
    wait_until("all is there again", PATIENCE, || setting.has("later"));
    assert!(setting.has("confirmed"), "{version}");
    assert_eq!(
        sidecar.log().matches("full sync of this server").count(),
        1,
        "{version}"
    );
}

on!(a_master_from_an_older_rdb_is_given_what_was_confirmed: redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

/// The sidecar leaves Redis alone, and says why and what to do.
#[track_caller]
fn wait_undecided(setting: &Setting, sidecar: &Backfeed, why: &str) {
    sidecar.wait("it waits for a decision", |view| {
        let told = view["last_error"].as_str().unwrap_or_default();
        let ways = [why, "set `when_behind` to capture"];
        let flush = format!(
            "redis-cli -h 127.0.0.1 -p {} FLUSHALL",
            setting.redis.port()
        );
        view["ready"] == false && ways.iter().all(|way| told.contains(way)) && told.contains(&flush)
    });
    assert_eq!(sidecar.get("/readyz").unwrap().0, 503);
    assert_eq!(setting.redis.set_and_wait(0, "unconfirmed", 1, 1500), 0);
}

fn an_older_rdb_that_was_written_to_waits_for_a_decision(version: Version) {
    for way in ["flush", "restore", "capture"] {
        let (mut setting, mut sidecar) = with_an_older_rdb(version);
        let before = list(&setting.store())["latest"].clone();
        sidecar.kill9();
        setting.crash();
        setting.redis.cmd(&["SET", "meanwhile", "1"]);
        sidecar.restart();
        wait_undecided(
            &setting,
            &sidecar,
            "Redis came up from an older snapshot. It lacks the last",
        );
        assert_eq!(list(&setting.store())["latest"], before, "{version}");
        assert_eq!(
            setting.comes_back().text(&["EXISTS", "confirmed"]),
            "1",
            "{version}"
        );
        if way == "flush" {
            setting.redis.cmd(&["FLUSHALL"]);
        } else {
            sidecar.kill9();
            drop(sidecar);
            sidecar = setting.sidecar(&["--when-behind", way]);
        }
        let kept = way == "capture";
        if !kept {
            wait_until("it is restored", PATIENCE, || setting.has("confirmed"));
        }
        sidecar.wait_captured(&setting.redis);
        assert_eq!(
            (setting.has("meanwhile"), setting.has("confirmed")),
            (kept, !kept),
            "{version}: {way}"
        );
        setting.set("after");
        let listing = setting.check_latest_is_the_server();
        assert!(
            ids(&listing).contains(&before.as_str().unwrap()),
            "{listing:#}"
        );
    }
}

on!(an_older_rdb_that_was_written_to_waits_for_a_decision: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// 1,000 confirmed keys, and a Redis that starts again with nothing and is written to before the sidecar looks.
fn a_redis_that_is_suddenly_tiny_waits_for_a_decision(version: Version) {
    for way in ["flush", "restore", "capture"] {
        let mut setting = Setting::new(version);
        let mut sidecar = setting.sidecar(&[]);
        sidecar.wait_following();
        for n in 0..999 {
            setting.redis.cmd(&["SET", &format!("key:{n}"), "value"]);
        }
        setting.set("last");
        sidecar.kill9();
        setting.crash_and_lose_all();
        setting.redis.cmd(&["SET", "one", "1"]);
        sidecar.restart();
        let (came_up, has) = match version.relative_ttls() {
            true => ("Redis came up with 1 keys", "the store has 1000 keys"),
            false => ("Redis came up empty", "It has 1 keys"),
        };
        wait_undecided(&setting, &sidecar, came_up);
        wait_undecided(&setting, &sidecar, has);
        wait_undecided(&setting, &sidecar, "the store has 1000 keys");
        assert_eq!(setting.comes_back().text(&["DBSIZE"]), "1000", "{version}");
        if way == "flush" {
            setting.redis.cmd(&["FLUSHALL"]);
        } else {
            sidecar.kill9();
            drop(sidecar);
            sidecar = setting.sidecar(&["--when-behind", way]);
        }
        let keys = if way == "capture" { "2" } else { "1000" };
        wait_until("it is as was decided", PATIENCE, || {
            setting.redis.text(&["DBSIZE"]) == keys
        });
        sidecar.wait_captured(&setting.redis);
        setting.set("after");
        setting.check_latest_is_the_server();
    }
}

on!(a_redis_that_is_suddenly_tiny_waits_for_a_decision: redis_60 = Redis60, redis_62 = Redis62, redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// A guestbook: three entries in one list. A guest comes before the sidecar looks.
fn a_redis_that_came_up_empty_beside_a_small_store_waits_too(version: Version) {
    let mut setting = Setting::new(version);
    let mut sidecar = setting.sidecar(&[]);
    sidecar.wait_following();
    let push = |setting: &Setting, entry: &str| {
        setting.redis.cmd(&["RPUSH", "guestbook", entry]);
    };
    for entry in ["one", "two", "three"] {
        push(&setting, entry);
    }
    sidecar.wait_captured(&setting.redis);
    sidecar.kill9();
    setting.crash_and_lose_all();
    push(&setting, "four");
    sidecar.restart();
    wait_undecided(&setting, &sidecar, "Redis came up empty");
    let entries = |server: &Server| server.text(&["LLEN", "guestbook"]);
    assert_eq!(entries(&setting.comes_back()), "3", "{version}");
    setting.redis.cmd(&["FLUSHALL"]);
    wait_until("it is given what was stored", PATIENCE, || {
        entries(&setting.redis) == "3"
    });
}

on!(a_redis_that_came_up_empty_beside_a_small_store_waits_too: redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

/// Which state is the latest is not certain: there are two, or the log of the only one is damaged at its end.
fn a_redis_that_came_up_empty_beside_an_uncertain_store_waits_too(version: Version) {
    for damaged in [true, false] {
        let mut setting = Setting::new(version);
        let mut backup = match damaged {
            true => setting.sidecar(&[]),
            false => setting.backup(),
        };
        backup.wait_following();
        setting.set("confirmed");
        let (id, _) = setting.redis.position();
        if damaged {
            backup.kill9();
            let log = setting.home.path().join("bucket/histories");
            let log = log.join(&id).join("log");
            let last = fs::read_dir(log)
                .unwrap()
                .map(|entry| entry.unwrap().path());
            fs::write(last.max().unwrap(), "damage").unwrap();
        } else {
            let other = with_files(version);
            let second = Backfeed::backup(&other.url(), &setting.store(), &[]);
            second.wait_following();
            assert_eq!(setting.redis.set_and_wait(0, "goes on", 1, 20_000), 1);
            assert_eq!(other.set_and_wait(0, "other", 1, 20_000), 1);
            backup.kill9();
        }
        setting.crash_and_lose_all();
        setting.redis.cmd(&["SET", "one", "1"]);
        let mut sidecar = setting.sidecar(&[]);
        wait_undecided(
            &setting,
            &sidecar,
            "what is the latest of the stored state is not certain",
        );
        let before = list(&setting.store());
        assert_eq!(
            ids(&before).len(),
            if damaged { 1 } else { 2 },
            "{before:#}"
        );
        sidecar.kill9();
        drop(sidecar);
        let sidecar = setting.sidecar(&["--when-behind", "capture"]);
        sidecar.wait_captured(&setting.redis);
        setting.set("after");
        if damaged {
            // Nobody knows where the damaged one ends, so it stays beside the other.
            let listing = list(&setting.store());
            assert_eq!(listing["ambiguous"].as_array().unwrap().len(), 2);
            continue;
        }
        setting.crash_and_lose_all();
        wait_until("what was decided comes back", PATIENCE, || {
            setting.has("after")
        });
        assert!(setting.has("one"), "{version}");
    }
}

on!(a_redis_that_came_up_empty_beside_an_uncertain_store_waits_too: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

/// Redis 6.2 does not say that it came up empty.
fn a_redis_with_enough_keys_is_captured(version: Version) {
    let mut setting = Setting::new(version);
    let mut sidecar = setting.sidecar(&[]);
    sidecar.wait_following();
    // Much log, and few keys in the end.
    for n in 0..1000 {
        setting
            .redis
            .cmd(&["SET", &format!("key:{}", n % 10), "value"]);
    }
    setting.set("last");
    sidecar.kill9();
    setting.crash_and_lose_all();
    for n in 0..4 {
        setting.redis.cmd(&["SET", &format!("other:{n}"), "value"]);
    }
    sidecar.restart();
    sidecar.wait_captured(&setting.redis);
    setting.set("after");
    setting.check_latest_is_the_server();
}

/// It has no replica for `repl-backlog-ttl`, and takes a new id. It has all that is stored, and more.
fn a_redis_with_a_new_id_is_captured(version: Version) {
    let setting = Setting::new(version);
    let mut sidecar = setting.sidecar(&[]);
    sidecar.wait_following();
    // A server says in which second it started. What is stored after that second is its own.
    thread::sleep(Duration::from_millis(1200));
    setting.set("before");
    setting
        .redis
        .cmd(&["CONFIG", "SET", "repl-backlog-ttl", "1"]);
    let (id, _) = setting.redis.position();
    sidecar.kill9();
    wait_until("it has a new id", PATIENCE, || {
        setting.redis.position().0 != id
    });
    setting.redis.cmd(&["SET", "meanwhile", "1"]);
    sidecar.restart();
    sidecar.wait_captured(&setting.redis);
    setting.set("after");
    setting.check_latest_is_the_server();
    let back = setting.comes_back();
    assert_eq!(back.text(&["EXISTS", "before", "meanwhile", "after"]), "3");
}

on!(a_redis_with_a_new_id_is_captured: redis_62 = Redis62, redis_70 = Redis70, redis_80 = Redis80, redis_86 = Redis86, valkey_81 = Valkey81, valkey_91 = Valkey91);

/// An operator puts an RDB of another Redis beside it.
fn a_redis_that_loaded_other_data_is_captured(version: Version) {
    let mut setting = Setting::new(version);
    let mut sidecar = setting.sidecar(&[]);
    sidecar.wait_following();
    for n in 0..10 {
        setting.redis.cmd(&["SET", &format!("key:{n}"), "value"]);
    }
    setting.set("last");
    let other = with_files(version);
    for n in 0..4 {
        other.cmd(&["SET", &format!("other:{n}"), "value"]);
    }
    other.save();
    sidecar.kill9();
    setting.crash_and_find(|dir| {
        fs::copy(other.dir().join("dump.rdb"), dir.join("dump.rdb")).unwrap();
    });
    sidecar.restart();
    sidecar.wait_captured(&setting.redis);
    setting.set("after");
    setting.check_latest_is_the_server();
    let back = setting.comes_back();
    assert_eq!(back.text(&["EXISTS", "other:0", "after", "last"]), "2");
}

on!(a_redis_that_loaded_other_data_is_captured: redis_70 = Redis70, redis_86 = Redis86, valkey_91 = Valkey91);

on!(a_redis_with_enough_keys_is_captured: redis_60 = Redis60, redis_62 = Redis62);
