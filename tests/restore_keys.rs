//! `backfeed restore --keys`: chosen keys into a server that goes on serving, an RDB file, a file of commands.

use std::fs::File;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use redis::Value;
use tempfile::TempDir;

use crate::support::backfeed::Output;
use crate::support::data::for_each_version;
use crate::support::state::{State, quiet, tolerance_ms};
use crate::support::{Backfeed, Server, Version, run};

/// A store; the keys `user:*` of databases 0 and 3 in it are of every type.
struct Stored {
    home: TempDir,
    store: String,
    server: Server,
}

impl Stored {
    fn new(version: Version) -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let server = Server::start(version, &[]);
        let mut connection = server.connect();
        let mut pipe = redis::pipe();
        let long = "x".repeat(3000);
        for db in [0, 3] {
            for line in [
                "SET user:text héllo".to_owned(),
                "SET user:expires x".to_owned(),
                "PEXPIREAT user:expires 4000000000000".to_owned(),
                format!("RPUSH user:list a 7 {long}"),
                "SADD user:ints 3 1 2".to_owned(),
                format!("SADD user:set a {long}"),
                "ZADD user:zset 1.5 a -inf b".to_owned(),
                "HSET user:hash f v n 1".to_owned(),
                "HSET user:gone f v".to_owned(),
                "XADD user:stream 1-1 a 1".to_owned(),
                "XGROUP CREATE user:stream group 0".to_owned(),
                "SET other:1 x".to_owned(),
                "SET old:2 x".to_owned(),
            ] {
                pipe.cmd("SELECT").arg(db).ignore();
                let mut command = redis::Cmd::new();
                for word in line.split(' ') {
                    command.arg(word);
                }
                pipe.add_command(command).ignore();
            }
        }
        pipe.query::<()>(&mut connection).unwrap();
        let backfeed = Backfeed::backup(&server.url(), &store, &[]);
        backfeed.wait_following();
        // In the log: a key that comes to match, one that does not any more, one that changes, one that is gone.
        let mut log = redis::pipe();
        log.cmd("SELECT").arg(3).ignore();
        log.cmd("RENAME").arg("old:2").arg("user:new").ignore();
        log.cmd("RENAME").arg("user:text").arg("text").ignore();
        log.cmd("HSET")
            .arg("user:hash")
            .arg("m")
            .arg(&b"\xff\x00"[..])
            .ignore();
        log.cmd("DEL").arg("user:gone").ignore();
        log.cmd("SET").arg("other:3").arg("x").ignore();
        log.query::<()>(&mut connection).unwrap();
        quiet(&server, 1);
        backfeed.wait_captured(&server);
        drop(backfeed);
        Self {
            home,
            store,
            server,
        }
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    fn restore(&self, to: &str, more: &[&str]) -> Output {
        run(&[
            &["restore", "--store", &self.store, "--to", to, "--keys"],
            more,
        ]
        .concat())
    }

    #[track_caller]
    fn restores(&self, to: &str, more: &[&str]) {
        let output = self.restore(to, more);
        assert_eq!(output.code, 0, "{output:?}");
    }

    /// What the server has when everything but what `user:*` matches is taken from it.
    fn wanted(&self) -> State {
        let mut connection = self.server.connect();
        for db in [0, 3] {
            let _: () = redis::cmd("SELECT").arg(db).query(&mut connection).unwrap();
            let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
            for key in keys.iter().filter(|key| !key.starts_with("user:")) {
                let _: () = redis::cmd("DEL").arg(key).query(&mut connection).unwrap();
            }
        }
        State::of(&self.server)
    }
}

fn keys(server: &Server, db: &str) -> Vec<String> {
    let mut connection = server.connect();
    let _: () = redis::cmd("SELECT").arg(db).query(&mut connection).unwrap();
    let mut keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection).unwrap();
    keys.sort();
    keys
}

for_each_version!(chosen_keys_arrive_by_every_way_and_others_stay);

fn chosen_keys_arrive_by_every_way_and_others_stay(version: Version) {
    let stored = Stored::new(version);
    let live = Server::start(version, &[]);
    live.cmd(&["SET", "mine", "stays"]);
    let id = live.position().0;
    stored.restores(&live.url(), &["user:*"]);
    assert_eq!(live.text(&["GET", "mine"]), "stays");
    assert_eq!(live.position().0, id, "it became nobody's replica");
    live.cmd(&["DEL", "mine"]);

    let file = stored.path("chosen.rdb");
    stored.restores(&file, &["user:*"]);
    let of_file = Server::builder(version)
        .dir(stored.home.path())
        .arg("dbfilename", "chosen.rdb")
        .start();

    let commands = stored.path("chosen.resp");
    stored.restores(&format!("resp:{commands}"), &["user:*"]);
    let by_pipe = Server::start(version, &[]);
    let cli = Command::new(version.program("cli"))
        .args(["-p", &by_pipe.port().to_string(), "--pipe"])
        .stdin(Stdio::from(File::open(&commands).unwrap()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&cli.stdout).into_owned();
    assert!(said.contains("errors: 0"), "{said}");

    let wanted = stored.wanted();
    for (server, way) in [(&live, "live"), (&of_file, "file"), (&by_pipe, "pipe")] {
        let context = format!("{version} {way}");
        State::of(server).assert_is(&wanted, tolerance_ms(version), &context);
    }
    assert_eq!(keys(&live, "3").len(), 8, "{:?}", keys(&live, "3"));
}

#[test]
fn a_pattern_a_database_and_a_type_choose() {
    let stored = Stored::new(Version::Redis80);
    let live = Server::start(Version::Redis80, &[]);
    stored.restores(&live.url(), &["user:[hs]*", "--db", "3", "--type", "set"]);
    assert_eq!(keys(&live, "0"), Vec::<String>::new());
    assert_eq!(keys(&live, "3"), ["user:set"]);
    let dry = stored.restore(&live.url(), &["other:?", "--dry-run"]);
    assert!(
        dry.stdout.contains("would restore") && dry.stdout.contains("db0 1, db3 2"),
        "{dry:?}"
    );
    assert_eq!(keys(&live, "3"), ["user:set"]);
    let none = stored.restore(&live.url(), &["nothing*"]);
    assert!(
        none.code == 6 && none.stderr.contains("no key matches `nothing*`"),
        "{none:?}"
    );
    let file = stored.path("none.rdb");
    for to in [file.clone(), format!("resp:{file}")] {
        for more in [&["nothing*"][..], &["nothing*", "--dry-run"]] {
            assert_eq!(stored.restore(&to, more).code, 6);
            assert!(!std::path::Path::new(&file).exists());
        }
    }
}

#[test]
fn what_is_there_is_not_written_over_unless_it_is_said() {
    let stored = Stored::new(Version::Redis70);
    let live = Server::start(Version::Redis70, &[]);
    live.cmd(&["SET", "user:zset", "mine"]);
    let refused = stored.restore(&live.url(), &["user:*"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    for word in [
        "already has 1 of the chosen keys",
        "user:zset (database 0)",
        "--replace",
        "Nothing was changed",
    ] {
        assert!(refused.stderr.contains(word), "{refused:?}");
    }
    assert_eq!(keys(&live, "0"), ["user:zset"]);
    stored.restores(&live.url(), &["user:*", "--replace"]);
    assert_eq!(
        live.cmd(&["TYPE", "user:zset"]),
        Value::SimpleString("zset".into())
    );

    let file = stored.path("x.rdb");
    stored.restores(&file, &["*"]);
    let again = stored.restore(&file, &["*"]);
    assert!(again.stderr.contains("exists already"), "{again:?}");
    stored.restores(&file, &["*", "--force"]);
}

#[test]
fn a_target_that_cannot_take_them_is_refused_before_anything_is_written() {
    let stored = Stored::new(Version::Redis80);
    let older = Server::start(Version::Redis62, &[]);
    let refused = stored.restore(&older.url(), &["user:*"]);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("RESTORE does not take values of the format REDIS0012"),
        "{refused:?}"
    );
    assert_eq!(keys(&older, "0"), Vec::<String>::new());

    let replica = crate::support::state::replica_of(&older);
    let refused = stored.restore(&replica.url(), &["user:*"]);
    assert!(
        refused.code == 4 && refused.stderr.contains("is a replica of 127.0.0.1"),
        "{refused:?}"
    );

    let few = Server::start(Version::Redis80, &["--databases", "2"]);
    let refused = stored.restore(&few.url(), &["user:*"]);
    assert!(
        refused.code == 4 && refused.stderr.contains("does not take database 3"),
        "{refused:?}"
    );
    assert_eq!(keys(&few, "0"), Vec::<String>::new());

    for (args, word) in [
        (
            &["restore", "--store", "file:///b", "--to", "resp:x"][..],
            "say which with --keys",
        ),
        (
            &[
                "restore",
                "--store",
                "file:///b",
                "--to",
                "aof:x",
                "--keys",
                "a",
            ],
            "resp:FILE",
        ),
        (
            &[
                "restore",
                "--store",
                "file:///b",
                "--to",
                "x.rdb",
                "--db",
                "3",
            ],
            "--keys",
        ),
    ] {
        let output = run(args);
        assert!(
            output.code == 2 && output.stderr.contains(word),
            "{output:?}"
        );
    }
}

#[test]
fn one_that_is_interrupted_says_what_it_may_have_left() {
    let stored = Stored::new(Version::Redis80);
    // It takes the connection, and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap();
    let restore = Command::new(env!("CARGO_BIN_EXE_backfeed"))
        .args(["restore", "--store", &stored.store, "--keys", "*", "--to"])
        .arg(format!("redis://{addr}"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _connection = silent.accept().unwrap();
    let kill = Command::new("sh")
        .args(["-c", &format!("kill -INT {}", restore.id())])
        .status();
    assert!(kill.unwrap().success());
    let output = restore.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    let wanted = format!("interrupted by SIGINT: some of the chosen keys may be at {addr} already");
    assert!(said.contains(&wanted), "{said}");
}
