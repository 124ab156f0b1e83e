//! Runs the real program: long-running verbs as a process that dies with its value, the others to their end.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr
)]

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::server::{Server, Version, free_port, wait_until};

const PROGRAM: &str = env!("CARGO_BIN_EXE_backfeed");
/// Two busy cores and a debug build: patient, as a wait ends when its condition holds.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program, without the variables of the tests themselves or of whoever runs them.
pub fn program() -> Command {
    without_own_variables(Command::new(PROGRAM))
}

/// The same of a command that starts it.
pub fn without_own_variables(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BACKFEED_") {
            command.env_remove(name);
        }
    }
    command
}

/// How a program that ran to its end ended.
#[derive(Debug)]
pub struct Output {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Variables of the environment, for a store that needs some.
pub type Env = Vec<(&'static str, String)>;

/// Runs a verb to its end.
pub fn run(args: &[&str]) -> Output {
    run_with(&Env::new(), args)
}

/// The same, with variables.
pub fn run_with(env: &Env, args: &[&str]) -> Output {
    let output = program()
        .envs(env.iter().cloned())
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The same as [`run`]; a program that takes longer is ended, with code 124.
pub fn run_within(limit: Duration, args: &[&str]) -> Output {
    let output = without_own_variables(Command::new("timeout"))
        .arg(limit.as_secs().to_string())
        .arg(PROGRAM)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("timeout (coreutils) starts");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A verb that reads `input` from its standard input.
pub fn run_reading(args: &[&str], input: &[u8]) -> Output {
    let mut child = program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    // Whoever has seen enough may hang up.
    let _ = stdin.write_all(input);
    drop(stdin);
    let output = child.wait_with_output().expect("its output");
    Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `backfeed list --json`.
pub fn list(store: &str) -> Value {
    list_with(&Env::new(), store)
}

/// The same, with variables.
pub fn list_with(env: &Env, store: &str) -> Value {
    let output = run_with(env, &["list", "--store", store, "--json"]);
    assert_eq!(output.code, 0, "{output:?}");
    serde_json::from_str(&output.stdout).expect("JSON")
}

/// A fresh server that was given everything in the store.
pub fn restored(version: Version, store: &str) -> Server {
    let fresh = Server::start(version, &[]);
    let output = run(&["restore", "--store", store, "--to", &fresh.url()]);
    assert_eq!(output.code, 0, "{output:?}");
    fresh
}

/// A running `backfeed sidecar` or `backfeed backup`.
pub struct Backfeed {
    env: Env,
    /// What a shell does in its process before it starts: limits.
    preamble: Option<String>,
    args: Vec<String>,
    http_port: u16,
    home: TempDir,
    child: Option<Child>,
}

impl Backfeed {
    /// `backfeed backup` of a server.
    pub fn backup(redis: &str, store: &str, more: &[&str]) -> Self {
        Self::start(&[&["backup", "--redis", redis, "--store", store], more].concat())
    }

    /// `backfeed sidecar`, listening for Redis on `listen`.
    pub fn sidecar(redis: &str, store: &str, listen: u16, more: &[&str]) -> Self {
        Self::sidecar_with(Env::new(), redis, store, listen, more)
    }

    /// The same, with variables.
    pub fn sidecar_with(env: Env, redis: &str, store: &str, listen: u16, more: &[&str]) -> Self {
        let listen = format!("127.0.0.1:{listen}");
        let args = [
            "sidecar", "--redis", redis, "--store", store, "--listen", &listen,
        ];
        Self::start_with(env, &[&args, more].concat())
    }

    /// Any verb that goes on running, with `--http` added.
    pub fn start(args: &[&str]) -> Self {
        Self::start_with(Env::new(), args)
    }

    /// The same, with variables.
    pub fn start_with(env: Env, args: &[&str]) -> Self {
        Self::start_after(None, env, args)
    }

    /// The same, after a shell has set limits of its process: `ulimit -n 256`.
    pub fn start_after(preamble: Option<&str>, env: Env, args: &[&str]) -> Self {
        let mut backfeed = Self {
            env,
            preamble: preamble.map(str::to_owned),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            http_port: free_port(),
            home: TempDir::new().expect("a temporary directory"),
            child: None,
        };
        backfeed.launch();
        backfeed
    }

    fn launch(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log file");
        let mut command = match &self.preamble {
            None => program(),
            Some(preamble) => {
                let mut shell = without_own_variables(Command::new("sh"));
                shell.args(["-c", &format!("{preamble} && exec \"$@\""), "sh", PROGRAM]);
                shell
            }
        };
        let child = command
            .envs(self.env.iter().cloned())
            .args(&self.args)
            .args(["--http", &format!("127.0.0.1:{}", self.http_port), "-v"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
    }

    /// Starts it again, as it was started the first time.
    pub fn restart(&mut self) {
        self.kill9();
        self.launch();
    }

    /// All that it wrote, from the first start on.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }

    /// Of `--http`.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().expect("wait").is_none())
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            child.wait().expect("wait");
        }
    }

    /// `TERM`, `STOP`, `CONT` …
    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &kill]).status().expect("sh");
        assert!(status.success(), "{kill} failed");
    }

    /// SIGTERM, and the exit code.
    pub fn sigterm(&mut self) -> i32 {
        self.signal("TERM");
        self.wait_exit()
    }

    /// The exit code of a process that ends by itself.
    pub fn wait_exit(&mut self) -> i32 {
        let log = self.log_path();
        let child = self.child.as_mut().expect("it runs");
        let mut code = None;
        wait_until(
            &format!("backfeed ends (its log: {})", log.display()),
            PATIENCE,
            || {
                code = child.try_wait().expect("wait");
                code.is_some()
            },
        );
        self.child = None;
        code.and_then(|status| status.code()).unwrap_or(-1)
    }

    /// A page of `--http`: status and body. None while nobody listens.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
    }

    /// `/readyz`: what it is doing.
    pub fn readyz(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/readyz")?.1).ok()
    }

    /// One number of `/metrics` (label-less); 0 when it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let body = self
            .get("/metrics")
            .map(|(_, body)| body)
            .unwrap_or_default();
        let metrics: HashMap<&str, &str> = body
            .lines()
            .filter_map(|line| line.rsplit_once(' '))
            .collect();
        metrics
            .get(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(0.0)
    }

    /// Waits until `/readyz` shows what is wanted.
    pub fn wait(&self, what: &str, mut wanted: impl FnMut(&Value) -> bool) {
        let mut last = None;
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            last = self.readyz();
            if last.as_ref().is_some_and(&mut wanted) {
                return;
            }
            std::thread::sleep(Duration::from_millis(15));
        }
        panic!(
            "backfeed: {what}: not within {PATIENCE:?}; it is at {last:?}; its log:\n{}",
            self.log()
        );
    }

    /// Waits until it follows a feed.
    pub fn wait_following(&self) {
        self.wait("it follows the feed", |view| view["phase"] == "following");
    }

    /// Waits until its log says so.
    pub fn wait_log(&self, what: &str, text: &str) {
        wait_until(what, PATIENCE, || self.log().contains(text));
    }

    /// Waits until everything that the server has said by now is stored, `PING`s aside.
    pub fn wait_captured(&self, server: &Server) {
        let mut upto = server.position();
        self.wait(&format!("{server} is captured up to now"), |view| {
            // The first replica makes a fresh server take another id.
            let now = server.position();
            if now.0 != upto.0 {
                upto = now;
            }
            let received = view["received_offset"].as_u64();
            view["phase"] == "following"
                && view["history"] == *upto.0
                && received.is_some_and(|received| received >= upto.1)
                && view["lag_bytes"] == 0
        });
    }

    /// Waits until everything up to `offset` is stored.
    pub fn wait_stored(&self, offset: u64) {
        self.wait(&format!("offset {offset} is stored"), |view| {
            view["stored_offset"]
                .as_u64()
                .is_some_and(|stored| stored >= offset)
        });
    }
}

impl Drop for Backfeed {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- backfeed {:?}, the end of its log:", self.args.first());
            for line in tail.into_iter().rev() {
                eprintln!("{line}");
            }
        }
    }
}
