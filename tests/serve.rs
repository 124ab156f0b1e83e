//! Many sources in one process: `backfeed serve`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::PATIENCE;
use crate::support::{Backfeed, Env, Server, Version, list, restored, run, run_with, wait_until};

/// A file of `serve`, stores in a directory, and the program.
struct Stage {
    home: TempDir,
}

impl Stage {
    fn new() -> Self {
        Self {
            home: TempDir::new().unwrap(),
        }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("backfeed.toml")
    }

    fn store(&self, name: &str) -> String {
        format!("file://{}/{name}", self.home.path().display())
    }

    /// Each source has its table, with more lines.
    fn text(&self, service: &str, sources: &[(&str, &Server, &str)]) -> String {
        let tables = sources.iter().map(|(name, server, more)| {
            format!(
                "\n[sources.{name}]\nredis = \"redis://{}\"\n{more}\n",
                server.addr()
            )
        });
        let tables: String = tables.collect();
        let store = self.store("{name}");
        format!("[service]\n{service}\n[defaults]\nstore = \"{store}\"\n{tables}")
    }

    fn write(&self, text: &str) {
        fs::write(self.file(), text).unwrap();
    }

    fn serve(&self, env: Env) -> Backfeed {
        let file = self.file().display().to_string();
        Backfeed::start_with(env, &["serve", "--config", &file])
    }

    fn get(&self, name: &str, key: &str) -> Value {
        let output = run(&["get", key, "--store", &self.store(name), "--json"]);
        assert_eq!(output.code, 0, "{output:?}");
        let found: Value = serde_json::from_str(&output.stdout).unwrap();
        found["value"].clone()
    }
}

fn of(backfeed: &Backfeed, name: &str) -> Value {
    let view = backfeed.readyz().unwrap_or_default();
    view["sources"][name].clone()
}

fn wait_for(backfeed: &Backfeed, name: &str, what: &str, mut wanted: impl FnMut(&Value) -> bool) {
    backfeed.wait(&format!("{name}: {what}"), |view| {
        wanted(&view["sources"][name])
    });
}

fn wait_following(backfeed: &Backfeed, name: &str) {
    wait_for(backfeed, name, "it follows", |view| {
        view["phase"] == "following"
    });
}

/// `WAIT 1` after a write.
fn stored(server: &Server, key: &str, value: &str) -> bool {
    let mut connection = server.connect();
    redis::cmd("SET")
        .arg(key)
        .arg(value)
        .exec(&mut connection)
        .unwrap();
    let wait = redis::cmd("WAIT").arg(1).arg(20_000).to_owned();
    wait.query::<u32>(&mut connection).unwrap() == 1
}

/// Ids of the connections that the server feeds.
fn links(server: &Server) -> Vec<String> {
    let replicas = server.text(&["CLIENT", "LIST", "TYPE", "replica"]);
    let ids = replicas.lines().filter_map(|line| line.split(' ').next());
    ids.map(str::to_owned).collect()
}

fn full_syncs(server: &Server) -> String {
    server.info("stats")["sync_full"].clone()
}

/// Processes that the server has forked, and that still run.
fn children(server: &Server) -> Vec<u32> {
    let pid = server.pid();
    let listed = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let pids = listed
        .split_ascii_whitespace()
        .filter_map(|pid| pid.parse().ok());
    let runs = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
        state.is_some_and(|state| !state.starts_with('Z') && !state.starts_with('X'))
    };
    pids.filter(runs).collect()
}

const VERSIONS: [(&str, Version); 4] = [
    ("cart", Version::Redis62),
    ("shop", Version::Redis70),
    ("stock", Version::Redis86),
    ("users", Version::Valkey91),
];

/// Servers whose full syncs take a while.
fn slow_servers() -> Vec<(&'static str, Server)> {
    let start = |(name, version)| {
        let server = Server::builder(version)
            .arg("repl-diskless-sync", "yes")
            .arg("rdb-key-save-delay", 20_000)
            .start();
        for key in 0..40 {
            server.cmd(&["SET", &format!("{name}:{key}"), &"x".repeat(1000)]);
        }
        (name, server)
    };
    VERSIONS.into_iter().map(start).collect()
}

#[test]
fn servers_fork_one_after_the_other_and_each_is_restored_as_it_was() {
    let stage = Stage::new();
    let servers = slow_servers();
    let sources: Vec<_> = servers
        .iter()
        .map(|(name, server)| (*name, server, ""))
        .collect();
    stage.write(&stage.text("full_syncs = 1", &sources));
    let mut backfeed = stage.serve(Env::new());
    let begun = Instant::now();
    let (mut last, mut forked, mut waited) = (Vec::new(), Vec::new(), false);
    loop {
        let now: Vec<u32> = servers
            .iter()
            .flat_map(|(_, server)| children(server))
            .collect();
        // One that ends is there for a moment when the next one begins.
        let both: Vec<&u32> = now.iter().filter(|pid| last.contains(*pid)).collect();
        assert!(
            both.len() <= 1,
            "two servers fork at the same time: {both:?}"
        );
        for pid in &now {
            if !forked.contains(pid) {
                forked.push(*pid);
            }
        }
        last = now;
        let view = backfeed.readyz().unwrap_or_default();
        let phase = |name: &str| view["sources"][name]["phase"].clone();
        waited |= view
            .to_string()
            .contains("waiting for the full syncs of other sources (1 at a time)");
        if VERSIONS.iter().all(|(name, _)| phase(name) == "following") {
            break;
        }
        assert!(begun.elapsed() < 2 * PATIENCE, "{view}: {}", backfeed.log());
        thread::sleep(Duration::from_millis(150));
    }
    assert!(waited, "none said that it waits");
    assert!(forked.len() >= 3, "each forks for a while: {forked:?}");
    let (code, _) = backfeed.get("/readyz").unwrap();
    assert_eq!(code, 200);
    for (name, server) in &servers {
        assert!(stored(server, "written", name), "{name}");
        assert_eq!(full_syncs(server), "1");
        let (code, _) = backfeed.get(&format!("/sources/{name}/readyz")).unwrap();
        assert_eq!(code, 200);
    }
    let (_, metrics) = backfeed.get("/metrics").unwrap();
    for (name, _) in &servers {
        let line = format!(
            "backfeed_ready{{source=\"{name}\",store=\"{}\"}} 1",
            stage.store(name)
        );
        assert!(metrics.lines().any(|it| it == line), "{line}: {metrics}");
    }
    assert_eq!(backfeed.sigterm(), 0, "{}", backfeed.log());
    for (name, server) in &servers {
        let copy = restored(server.version(), &stage.store(name));
        assert_eq!(copy.debug_digest(), server.debug_digest(), "{name}");
    }
}

/// A server that is killed, a wrong password, a store that cannot be used: each disturbs itself alone, and is tried again.
#[test]
fn a_source_in_trouble_disturbs_no_other() {
    let stage = Stage::new();
    let mut killed = Server::start(Version::Redis60, &[]);
    let well = Server::start(Version::Redis86, &[]);
    let storeless = Server::start(Version::Valkey81, &[]);
    let locked = Server::builder(Version::Redis80)
        .arg("requirepass", "right")
        .start();
    let password = stage.home.path().join("password");
    fs::write(&password, "wrong").unwrap();
    let file = format!("redis_password_file = \"{}\"", password.display());
    // A file is where the directory should be.
    fs::write(stage.home.path().join("storeless"), "in the way").unwrap();
    let nobody = crate::support::free_port();
    let text = stage.text(
        "",
        &[
            ("killed", &killed, ""),
            ("well", &well, ""),
            ("storeless", &storeless, ""),
            ("locked", &locked, &file),
        ],
    );
    stage.write(&format!(
        "{text}\n[sources.absent]\nredis = \"redis://127.0.0.1:{nobody}\"\n"
    ));
    let mut backfeed = stage.serve(Env::new());
    for name in ["killed", "well"] {
        wait_following(&backfeed, name);
    }
    wait_for(&backfeed, "locked", "it tells of the password", |view| {
        view["ready"] == false && view["detail"].to_string().contains("password")
    });
    wait_for(&backfeed, "storeless", "it tells of the store", |view| {
        view["phase"] == "waiting_for_store"
    });
    wait_for(&backfeed, "absent", "it tells of the server", |view| {
        view["detail"].to_string().contains("cannot connect")
    });
    let (code, body) = backfeed.get("/readyz").unwrap();
    assert_eq!(code, 503);
    let view: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&view["ready"], &view["ready_sources"]),
        (&false.into(), &2.into())
    );
    assert_eq!(backfeed.get("/sources/well/readyz").unwrap().0, 200);
    assert_eq!(backfeed.get("/sources/locked/readyz").unwrap().0, 503);
    assert_eq!(backfeed.get("/healthz").unwrap().0, 200);
    let link = links(&well);

    killed.kill9();
    wait_for(&backfeed, "killed", "its end is noticed", |view| {
        view["ready"] == false
    });
    assert!(stored(&well, "meanwhile", "1"));
    killed.restart();
    wait_following(&backfeed, "killed");
    assert!(stored(&killed, "again", "1"));

    // What was wrong is mended, without a restart.
    fs::write(&password, "right").unwrap();
    fs::remove_file(stage.home.path().join("storeless")).unwrap();
    for (name, server) in [("locked", &locked), ("storeless", &storeless)] {
        wait_following(&backfeed, name);
        assert!(stored(server, "at last", "1"), "{name}");
    }
    assert_eq!(links(&well), link, "it has noticed nothing");
    assert_eq!(full_syncs(&well), "1");
    // One that never came does not hold up the end.
    assert_eq!(backfeed.sigterm(), 0, "{}", backfeed.log());
    assert_eq!(stage.get("killed", "again"), "1");
    assert_eq!(stage.get("locked", "at last"), "1");
    let log = backfeed.log();
    assert!(
        !log.contains("wrong\n") && !log.contains("right\n"),
        "{log}"
    );
    let told = log.lines().find(|line| line.contains("cannot connect"));
    assert!(told.unwrap().contains("absent"), "{told:?}");
}

#[test]
fn the_file_is_read_again_and_what_did_not_change_does_not_notice() {
    let stage = Stage::new();
    let server = || Server::start(Version::Redis70, &[]);
    let (same, gone, changed, new) = (server(), server(), server(), server());
    // Nothing of it is stored by itself before it is gone.
    let slowly = "flush_interval = \"10min\"";
    stage.write(&stage.text(
        "",
        &[
            ("same", &same, ""),
            ("gone", &gone, slowly),
            ("changed", &changed, ""),
        ],
    ));
    let mut backfeed = stage.serve(Env::new());
    for name in ["same", "gone", "changed"] {
        wait_following(&backfeed, name);
    }
    let (link, before) = (links(&same), links(&changed));
    assert_eq!(link.len(), 1);
    gone.cmd(&["SET", "last", "words"]);
    let (_, end) = gone.position();
    wait_for(&backfeed, "gone", "the last words are received", |view| {
        view["received_offset"].as_u64() >= Some(end)
    });
    let text = stage.text(
        "",
        &[
            ("same", &same, ""),
            ("changed", &changed, "flush_interval = \"2s\""),
            ("new", &new, ""),
        ],
    );
    // By its content, a second or two later.
    stage.write(&text);
    wait_following(&backfeed, "new");
    wait_for(&backfeed, "gone", "it is gone", Value::is_null);
    assert_eq!(links(&gone), Vec::<String>::new());
    assert_eq!(stage.get("gone", "last"), "words");
    wait_until("what has changed has a new link", PATIENCE, || {
        let now = links(&changed);
        now.len() == 1 && now != before
    });
    wait_following(&backfeed, "changed");
    assert!(stored(&changed, "a", "1") && stored(&same, "a", "1") && stored(&new, "a", "1"));
    assert_eq!(
        (full_syncs(&changed), full_syncs(&same)),
        ("1".into(), "1".into())
    );
    assert_eq!(links(&same), link);

    // A bad file is refused as a whole: also its good parts.
    let successful = "backfeed_config_last_reload_successful";
    assert_eq!(backfeed.metric(successful), 1.0);
    stage.write(
        &text
            .replace("[sources.new]", "[sources.newer]")
            .replace("2s", "soon"),
    );
    backfeed.signal("HUP");
    backfeed.wait("the error is told", |view| {
        let error = view["config"]["error"].to_string();
        error.contains("sources.changed.flush_interval") && error.contains("line ")
    });
    assert_eq!(backfeed.metric(successful), 0.0);
    assert!(of(&backfeed, "newer").is_null());
    assert!(stored(&new, "b", "1"), "what was read before holds");
    assert_eq!(backfeed.get("/readyz").unwrap().0, 200);
    stage.write(&text);
    backfeed.signal("HUP");
    backfeed.wait("it is mended", |view| view["config"]["error"].is_null());
    assert_eq!(backfeed.metric(successful), 1.0);
    assert_eq!(backfeed.metric("backfeed_sources"), 3.0);
    assert_eq!((links(&same), full_syncs(&same)), (link, "1".into()));

    // One that comes back goes on where it was.
    stage.write(&format!(
        "{text}\n[sources.gone]\nredis = \"redis://{}\"\n",
        gone.addr()
    ));
    backfeed.signal("HUP");
    wait_following(&backfeed, "gone");
    assert_eq!(full_syncs(&gone), "1");
    assert_eq!(backfeed.sigterm(), 0, "{}", backfeed.log());
}

#[test]
fn sigterm_stores_the_rest_of_all() {
    let stage = Stage::new();
    let servers: Vec<Server> = (0..3)
        .map(|_| Server::start(Version::Redis86, &[]))
        .collect();
    let names = ["a", "b", "c"];
    let sources = names.into_iter().zip(&servers);
    let sources: Vec<_> = sources.map(|(name, server)| (name, server, "")).collect();
    let text = stage.text("grace = \"30s\"", &sources);
    stage.write(&text.replace("[defaults]", "[defaults]\nflush_interval = \"10min\""));
    let mut backfeed = stage.serve(Env::new());
    for (name, server, _) in &sources {
        wait_following(&backfeed, name);
        server.cmd(&["SET", "last", name]);
        let (_, end) = server.position();
        wait_for(&backfeed, name, "it is received", |view| {
            view["received_offset"].as_u64() >= Some(end) && view["lag_bytes"] != 0
        });
    }
    assert_eq!(backfeed.sigterm(), 0, "{}", backfeed.log());
    for name in names {
        assert_eq!(stage.get(name, "last"), name);
    }
}

/// The directory of a source's log, which a test may put aside: then the store takes nothing.
fn log_of(stage: &Stage, name: &str) -> PathBuf {
    let histories = fs::read_dir(stage.home.path().join(name).join("histories")).unwrap();
    let logs = histories.map(|history| history.unwrap().path().join("log"));
    logs.into_iter().find(|log| log.exists()).unwrap()
}

fn put_aside(log: &Path) -> PathBuf {
    let aside = log.with_extension("aside");
    fs::rename(log, &aside).unwrap();
    fs::write(log, "in the way").unwrap();
    aside
}

/// One whose store is away takes a part of the memory and no more.
#[test]
fn memory_that_one_source_fills_is_not_missing_to_another() {
    const VALUE: usize = 100_000;
    let stage = Stage::new();
    let full = Server::builder(Version::Redis86)
        .arg("repl-backlog-size", "64mb")
        .start();
    let well = Server::start(Version::Redis70, &[]);
    let text = stage.text(
        "feed_memory = \"4MiB\"",
        &[("full", &full, ""), ("well", &well, "")],
    );
    stage.write(&text.replace("[defaults]", "[defaults]\nsegment_size = \"1MiB\""));
    let mut backfeed = stage.serve(Env::new());
    for (name, server) in [("full", &full), ("well", &well)] {
        wait_following(&backfeed, name);
        assert!(stored(server, "first", "1"));
    }
    let (link, log) = (links(&well), log_of(&stage, "full"));
    let aside = put_aside(&log);
    for key in 0..100 {
        full.cmd(&["SET", &format!("much:{key}"), &"x".repeat(VALUE)]);
    }
    wait_for(&backfeed, "full", "its memory is full", |view| {
        view["last_error"]
            .to_string()
            .contains("its part of the memory for feed")
            || view["detail"]
                .to_string()
                .contains("its part of the memory for feed")
    });
    let lag = of(&backfeed, "full")["lag_bytes"].as_u64().unwrap();
    assert!(lag < 4 << 20, "{lag}");
    for key in 0..100 {
        well.cmd(&["SET", &format!("much:{key}"), &"x".repeat(VALUE)]);
    }
    assert!(stored(&well, "last", "1"));
    assert_eq!((links(&well), full_syncs(&well)), (link, "1".into()));
    fs::remove_file(&log).unwrap();
    fs::rename(&aside, &log).unwrap();
    wait_following(&backfeed, "full");
    assert!(stored(&full, "last", "1"));
    assert_eq!(full_syncs(&full), "1", "its backlog held the rest");
    assert_eq!(backfeed.sigterm(), 0, "{}", backfeed.log());
    for (name, server) in [("full", &full), ("well", &well)] {
        let copy = restored(server.version(), &stage.store(name));
        assert_eq!(copy.debug_digest(), server.debug_digest(), "{name}");
    }
}

#[test]
fn a_file_is_checked_without_a_connection() {
    let stage = Stage::new();
    let file = stage.file().display().to_string();
    let check = |more: &[&str]| {
        let env = vec![("SHOP_PASSWORD", "hunter2".to_owned())];
        run_with(&env, &[&["check-config", "--config", &file], more].concat())
    };
    let output = check(&[]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(output.stderr.contains("cannot read it"), "{output:?}");
    stage.write(
        "[defaults]\nstore = \"gs://a-bucket-with-a-long-name/redis/in/a/long/prefix/{name}\"\n\
         redis = \"rediss://backup@{name}.redis.internal.example:6379\"\nredis_password_env = \"SHOP_PASSWORD\"\n\
         [sources.shop]\nkeep = \"7d\"\n[sources.cart]\n",
    );
    let output = check(&[]);
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains("2 sources"), "{output:?}");
    for line in output.stdout.lines().filter(|line| !line.contains(&file)) {
        assert!(line.chars().count() <= 80, "{line}");
    }
    assert!(!stage.home.path().join("shop").exists());
    let output = check(&["--json"]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&answer["usable"], &answer["full_syncs"]),
        (&true.into(), &1.into())
    );
    let shop = &answer["sources"][1];
    assert_eq!(
        (&shop["name"], &shop["password_from"]),
        (&"shop".into(), &"variable".into())
    );
    assert!(shop["keeps"].to_string().contains("7 d"), "{shop}");
    assert!(!output.stdout.contains("hunter2"));

    // One that is wrong, and the service does not begin with it.
    stage.write("[sources.shop]\nredis = \"redis://:hunter2@h\"\nstore = \"file:///b\"\nflush_interva = \"1s\"\n");
    let output = check(&["--json"]);
    assert_eq!(output.code, 2);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        (&answer["usable"], &answer["problems"][0]["line"]),
        (&false.into(), &4.into())
    );
    assert!(
        output.stderr.contains("Did you mean `flush_interval`?"),
        "{output:?}"
    );
    let output = run(&["serve", "--config", &file]);
    assert_eq!(output.code, 2, "{output:?}");
    assert!(
        output
            .stderr
            .contains("line 4: sources.shop.flush_interva: "),
        "{output:?}"
    );
    stage.write("[sources.shop]\nredis = \"redis://:hunter2@h\"\nstore = \"file:///b\"\n");
    let output = check(&[]);
    assert_eq!(output.code, 2);
    assert!(!format!("{output:?}").contains("hunter2"), "{output:?}");
}

/// What `backup` has stored, `serve` goes on with.
#[test]
fn it_goes_on_with_what_backup_has_stored() {
    let stage = Stage::new();
    let server = Server::start(Version::Redis86, &[]);
    let mut backup = Backfeed::backup(&server.url(), &stage.store("shop"), &[]);
    server.cmd(&["SET", "a", "1"]);
    backup.wait_captured(&server);
    assert_eq!(backup.sigterm(), 0);
    stage.write(&stage.text("", &[("shop", &server, "")]));
    let mut backfeed = stage.serve(Env::new());
    wait_following(&backfeed, "shop");
    assert!(stored(&server, "b", "2"));
    assert_eq!(full_syncs(&server), "1");
    assert_eq!(backfeed.sigterm(), 0);
    let histories = list(&stage.store("shop"))["histories"].clone();
    assert_eq!(histories.as_array().map(Vec::len), Some(1), "{histories}");
}
