//! The command line as people expect it: points in time, variables, terminals, progress, JSON, completions and manual pages.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::backfeed::{PATIENCE, program, without_own_variables};
use crate::support::master::{Manner, Master, Recording};
use crate::support::state::{quiet, unix_ms};
use crate::support::{Backfeed, Env, Server, Version, free_port, run, run_with, wait_until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_backfeed");
/// What only a terminal gets: moves of the cursor, colours.
const ESCAPE: char = '\x1b';

/// A key that had two values, one after the other.
struct Stored {
    home: TempDir,
    store: String,
    /// When it had the first one, Unix milliseconds, and the offset then.
    between: i64,
    first_offset: u64,
}

impl Stored {
    fn new() -> Self {
        let home = TempDir::new().unwrap();
        let store = format!("file://{}/bucket", home.path().display());
        let server = Server::start(Version::Redis80, &[]);
        let backfeed = Backfeed::backup(&server.url(), &store, &[]);
        backfeed.wait_following();
        server.cmd(&["SET", "k", "first"]);
        quiet(&server, 1);
        backfeed.wait_captured(&server);
        let first_offset = server.position().1;
        // Bytes within 100 ms share a mark, so the second write has to come later than that.
        sleep(Duration::from_millis(300));
        let between = unix_ms();
        sleep(Duration::from_millis(300));
        server.cmd(&["SET", "k", "second"]);
        quiet(&server, 1);
        backfeed.wait_captured(&server);
        Self {
            home,
            store,
            between,
            first_offset,
        }
    }

    fn value(&self, point: &[&str]) -> Value {
        let output = run(&[&["get", "k", "--store", &self.store, "--json"], point].concat());
        assert_eq!(output.code, 0, "{point:?}: {output:?}");
        let answer: Value = serde_json::from_str(&output.stdout).unwrap();
        answer["value"].clone()
    }

    fn path(&self, name: &str) -> String {
        self.home.path().join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn a_point_is_written_in_every_form_wherever_one_is_wanted() {
    let stored = Stored::new();
    let between = jiff::Timestamp::from_millisecond(stored.between).unwrap();
    let civil = |form: &str| between.strftime(form).to_string();
    let age = format!("{}ms", unix_ms() - stored.between);
    for point in [
        civil("%Y-%m-%d %H:%M:%S%.3f"),
        civil("%H:%M:%S%.3f"),
        between.to_string(),
        stored.between.to_string(),
        format!("offset:{}", stored.first_offset),
    ] {
        assert_eq!(stored.value(&["--at", &point]), "first", "{point}");
    }
    assert_eq!(stored.value(&["--at", "0s"]), "second");
    assert_eq!(stored.value(&[]), "second");
    // An age is counted from when it is read, so that it only ever comes nearer.
    let aged = stored.value(&["--at", &age]);
    assert!(aged == "first" || aged == "second", "{aged}");
    let early = ["get", "k", "--store", &stored.store, "--at", "yesterday"];
    let early = run(&early);
    assert_eq!(early.code, 6, "{early:?}");

    // The same elsewhere; a point that `list` shows can be pasted.
    let point = format!("offset:{}", stored.first_offset);
    let dump = format!("rdb:{}", stored.path("no-ending"));
    let restore = ["restore", "--store", &stored.store, "--to", &dump, "--at"];
    let output = run(&[&restore[..], &[&civil("%Y-%m-%d %H:%M:%S%.3f")]].concat());
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(&fs::read(stored.path("no-ending")).unwrap()[..5], b"REDIS");
    for args in [
        &["consolidate", "--at", point.as_str()][..],
        &["inspect", "--at", &point],
        &["diff", "--from", &point, "--at", "latest"],
        // Names of before.
        &["diff", "--from", &point, "--to", "latest"],
        &["consolidate", "--to-offset", &point[7..]],
    ] {
        let output = run(&[args, &["--store", &stored.store]].concat());
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
    }
    let diff = ["diff", "--store", &stored.store, "--from", &point];
    let diff = run(&[&diff[..], &["--json"]].concat());
    let diff: Value = serde_json::from_str(&diff.stdout).unwrap();
    let changed = diff["keys"].as_array().unwrap();
    assert!(changed.iter().any(|key| key["key"] == "k"), "{diff}");

    let listed = run(&["list", "--store", &stored.store]).stdout;
    let line = listed
        .lines()
        .find(|line| line.contains("restore "))
        .unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    // `restore FROM to TO, offsets …`
    let (from, to) = (words[1], words[3].trim_end_matches(','));
    assert!(from.ends_with('Z') && from.contains('.'), "{listed}");
    assert_eq!(stored.value(&["--at", to]), "second", "{listed}");
    let first = ["get", "k", "--store", &stored.store, "--at", from];
    // There, it was not written yet: that point is in the store.
    let first = run(&first);
    assert!(first.stderr.contains("there is no key k"), "{first:?}");
}

#[test]
fn every_json_answer_has_the_same_around_it_and_one_form_of_instants() {
    let stored = Stored::new();
    let dump = format!("rdb:{}", stored.path("dump"));
    let resp = format!("resp:{}", stored.path("keys"));
    let point = format!("offset:{}", stored.first_offset);
    for args in [
        &["list"][..],
        &["verify"],
        &["verify", "--deep"],
        &["inspect"],
        &["get", "k"],
        &["diff", "--from", &point],
        &["consolidate"],
        &["restore", "--to", &dump],
        &["restore", "--to", &resp, "--keys", "*"],
    ] {
        let output = run(&[args, &["--store", &stored.store, "--json"]].concat());
        assert_eq!(output.code, 0, "{args:?}: {output:?}");
        let answer: Value = serde_json::from_str(&output.stdout).unwrap();
        assert_eq!(answer["format"], 1, "{args:?}");
        assert_eq!(answer["backfeed_version"], env!("CARGO_PKG_VERSION"));
        let took = answer["duration_ms"].as_u64().unwrap();
        assert!(took < 60_000, "{args:?}: {took}");
        only_unix_ms(args, "", &answer);
    }
}

/// No instant is written as text, and each has its unit in its name.
fn only_unix_ms(args: &[&str], name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                only_unix_ms(args, name, value);
            }
        }
        Value::Array(values) => {
            for value in values {
                only_unix_ms(args, name, value);
            }
        }
        Value::String(text) => {
            let is_time = text.parse::<jiff::Timestamp>().is_ok();
            assert!(!is_time || name == "goal", "{args:?} {name}: {text}");
        }
        Value::Number(number) => {
            let now = unix_ms();
            let is_near = number.as_i64().is_some_and(|number| {
                (number - now).abs() < 3_600_000 || (number - now / 1000).abs() < 3600
            });
            assert!(
                !is_near || name.ends_with("unix_ms"),
                "{args:?} {name}: {number}"
            );
        }
        Value::Null | Value::Bool(_) => {}
    }
}

#[test]
fn an_empty_variable_is_unset_and_none_forces() {
    let stored = Stored::new();
    let env = |name, value: &str| -> Env { vec![(name, value.to_owned())] };
    let list = ["list", "--store", &stored.store];
    let text = run_with(&env("BACKFEED_JSON", ""), &list);
    assert!(text.stdout.starts_with("file://"), "{text:?}");
    let json = run_with(&env("BACKFEED_JSON", "true"), &list);
    assert!(json.stdout.starts_with('{'), "{json:?}");
    let none = run_with(&env("BACKFEED_STORE", ""), &["list"]);
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.stderr.contains("--store <URL>"), "{none:?}");
    // Its name is in the help all the same.
    let help = run_with(&env("BACKFEED_STORE", ""), &["list", "--help"]);
    assert!(help.stdout.contains("[env: BACKFEED_STORE]"), "{help:?}");

    let file = stored.path("dump");
    let restore = [
        "restore",
        "--store",
        &stored.store,
        "--to",
        &format!("rdb:{file}"),
    ];
    fs::write(&file, "what was there").unwrap();
    let refused = run_with(&env("BACKFEED_FORCE", "true"), &restore);
    assert_ne!(refused.code, 0, "{refused:?}");
    let told = "BACKFEED_FORCE is ignored: give --force on the command line";
    assert!(refused.stderr.contains(told), "{refused:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "what was there");
    let forced = run(&[&restore[..], &["--force"]].concat());
    assert_eq!(forced.code, 0, "{forced:?}");

    let server = Server::start(Version::Redis80, &[]);
    server.cmd(&["SET", "k", "kept"]);
    let keys = ["restore", "--store", &stored.store, "--keys", "*", "--to"];
    let url = server.url();
    let to_server = [&keys[..], &[&url]].concat();
    let refused = run_with(&env("BACKFEED_REPLACE", "true"), &to_server);
    assert_eq!(refused.code, 4, "{refused:?}");
    assert_eq!(
        server.cmd(&["GET", "k"]),
        redis::Value::BulkString(b"kept".to_vec())
    );

    let unknown = run_with(&env("BACKFEED_STROE", "x"), &list);
    assert_eq!(unknown.code, 0, "{unknown:?}");
    let meant = "BACKFEED_STROE is not known and is ignored: did you mean BACKFEED_STORE?";
    assert!(unknown.stderr.contains(meant), "{unknown:?}");
}

/// What the program shows at a terminal.
fn at_terminal(args: &str, env: &[(&str, &str)]) -> String {
    let mut command = without_own_variables(Command::new("script"));
    command
        .args(["-qec", &format!("{PROGRAM} {args}"), "/dev/null"])
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    let output = command.output().expect("script (bsdutils) starts");
    assert!(!output.stdout.is_empty(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Is there a sequence that sets a colour, or a weight: `ESC [ 1 ; 31 m`?
fn has_colour(text: &str) -> bool {
    text.split("\x1b[").skip(1).any(|sequence| {
        let rest = sequence.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest.starts_with('m')
    })
}

#[test]
fn a_terminal_is_coloured_unless_it_should_not_be() {
    // A page, and a line of the log.
    for (args, of) in [
        ("list --help", None),
        (
            "list --store file:///nowhere-at-all",
            Some(("BACKFEED_STROE", "x")),
        ),
    ] {
        let shown = |env: &[(&'static str, &'static str)]| {
            let env: Vec<_> = env.iter().copied().chain(of).collect();
            at_terminal(args, &env)
        };
        assert!(has_colour(&shown(&[])), "{args}");
        assert!(has_colour(&shown(&[("NO_COLOR", "")])), "{args}");
        // A progress bar may move the cursor.
        let plain = shown(&[("NO_COLOR", "1")]);
        assert!(!has_colour(&plain), "{args}: {plain:?}");
        let plain = shown(&[("TERM", "dumb")]);
        assert!(!plain.contains(ESCAPE), "{args}: {plain:?}");
    }
}

/// Without a terminal, and long: a line now and then. Here it waits for its input.
#[test]
fn long_work_says_how_far_it_is() {
    let mut child = program()
        .args(["inspect", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let begun = Instant::now();
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"REDIS0011").expect("it reads");
    let mut stderr = child.stderr.take().expect("a pipe");
    let mut told = [0; 4096];
    let length = stderr.read(&mut told).expect("a line");
    let told = String::from_utf8_lossy(&told[..length]).into_owned();
    let seconds = ["9 s\n", "10 s\n", "11 s\n"].map(|after| format!("INFO snapshot: {after}"));
    assert!(seconds.iter().any(|line| told.ends_with(line)), "{told:?}");
    assert!(begun.elapsed() >= Duration::from_secs(9));
    drop(stdin);
    let output = child.wait_with_output().expect("its end");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}

/// A master that falls silent in the middle of a full sync.
#[test]
fn readyz_and_the_log_tell_how_far_a_full_sync_is() {
    let recording = Recording::of(Version::Redis70);
    let master = Master::start(
        &recording,
        Manner {
            cut_link: Some(recording.rdb.len() / 2),
            fall_silent: true,
            ..Manner::default()
        },
    );
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    let backfeed = Backfeed::backup(&master.url(), &store, &[]);
    let total = recording.rdb.len() as u64;
    backfeed.wait("it is in the middle", |view| {
        let work = &view["work"][0];
        work["what"] == "full sync" && work["total_bytes"] == total
    });
    let view = backfeed.readyz().unwrap();
    assert_eq!(view["format"], 1);
    assert_eq!(view["backfeed_version"], env!("CARGO_PKG_VERSION"));
    let work = &view["work"][0];
    let (done, percent) = (work["done_bytes"].as_u64(), work["percent"].as_f64());
    let (done, percent) = (done.unwrap(), percent.unwrap());
    assert!(done > 0 && done < total, "{view}");
    #[allow(clippy::cast_precision_loss)]
    let exact = done as f64 * 100.0 / total as f64;
    assert!((percent - exact).abs() <= 0.1, "{view}");
    let age = unix_ms() - work["since_unix_ms"].as_i64().unwrap();
    assert!((0..60_000).contains(&age), "{view}");
    wait_until("the log says it", PATIENCE, || {
        let log = backfeed.log();
        log.contains("full sync: ") && log.contains(" % (")
    });
}

#[test]
fn a_port_alone_serves_health() {
    let server = Server::start(Version::Redis80, &[]);
    let home = TempDir::new().unwrap();
    let store = format!("file://{}/bucket", home.path().display());
    for host in ["", "localhost"] {
        let port = free_port();
        let http = format!("{host}:{port}");
        let args = [
            "backup",
            "--redis",
            &server.url(),
            "--store",
            &store,
            "--http",
            &http,
        ];
        let mut child = program()
            .args(args)
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        wait_until("health is served", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        let _ = child.kill();
        child.wait().expect("its end");
    }
}

/// The reason and the remedy, whole and at once.
#[test]
fn without_google_credentials_the_remedy_is_told_at_once() {
    let home = TempDir::new().unwrap();
    let nowhere = format!("127.0.0.1:{}", free_port());
    let begun = Instant::now();
    let output = program()
        .args(["list", "--store", "gs://a-bucket/x"])
        .env_remove("GOOGLE_APPLICATION_CREDENTIALS")
        .env_remove("STORAGE_EMULATOR_HOST")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HOME", home.path())
        .env("GCE_METADATA_HOST", &nowhere)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{told}");
    for part in [
        "cannot open the store gs://a-bucket/x: no Google credentials are found",
        "GOOGLE_APPLICATION_CREDENTIALS is not set",
        &format!("{}/.config/gcloud/", home.path().display()),
        &format!("answers at {nowhere} ("),
        "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(told.ends_with("(on GKE: Workload Identity)\n"), "{told}");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[test]
fn completions_and_manual_pages_are_made_from_the_command_line() {
    let bash = run(&["completions", "bash"]);
    assert_eq!(bash.code, 0, "{bash:?}");
    let mut check = Command::new("bash")
        .arg("-n")
        .stdin(Stdio::piped())
        .spawn()
        .expect("bash starts");
    let mut stdin = check.stdin.take().expect("a pipe");
    stdin.write_all(bash.stdout.as_bytes()).expect("it reads");
    drop(stdin);
    assert!(check.wait().expect("its end").success());
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&["completions", shell]);
        assert!(script.stdout.contains("consolidate-every"), "{shell}");
    }
    assert_eq!(run(&["completions", "tcsh"]).code, 2);

    let home = TempDir::new().unwrap();
    let dir = home.path().join("man1");
    let made = run(&["man", dir.to_str().unwrap()]);
    assert_eq!(made.code, 0, "{made:?}");
    let mut pages: Vec<String> = fs::read_dir(&dir)
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    assert!(pages.contains(&"backfeed.1".to_owned()), "{pages:?}");
    assert!(
        pages.contains(&"backfeed-fixture-slice.1".to_owned()),
        "{pages:?}"
    );
    let restore = dir.join("backfeed-restore.1");
    let page = fs::read_to_string(&restore).unwrap();
    assert!(page.contains(r"\-\-continue\-history"), "{page}");
    assert!(page.contains("BACKFEED_TO"), "{page}");
    assert!(page.contains("Exit codes"), "{page}");
    let mode = fs::metadata(&restore).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    let one = run(&["man"]);
    assert_eq!(
        one.stdout,
        fs::read_to_string(dir.join("backfeed.1")).unwrap()
    );
}

#[test]
fn the_version_names_the_build() {
    let short = run(&["-V"]).stdout;
    let long = run(&["--version"]).stdout;
    let first = format!("backfeed {} (", env!("CARGO_PKG_VERSION"));
    assert!(
        short.starts_with(&first) && short.lines().count() == 1,
        "{short}"
    );
    assert!(long.starts_with(short.trim_end()), "{long}");
    assert!(
        long.ends_with("\nfeatures: azure gcs http s3 tls\n"),
        "{long}"
    );
}
