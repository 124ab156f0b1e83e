//! Starts the real servers that `tests/servers.sh` gets: Redis 6.0 to 8.6 and Valkey.
//!
//! A [`Server`] has a port and a directory of its own and dies with its value, so a test that panics leaves
//! nothing behind. A server that is not there is a failure, never a skipped test.

// No test uses all of it; nothing here is reachable from outside; a helper that panics says what is wrong.
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
use std::fmt;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Two busy cores, a debug build and six other servers beside it: patient, as a wait ends when its condition holds.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// So that a server which hangs fails the test instead of hanging it too.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(15);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    Redis60,
    Redis62,
    Redis70,
    Redis80,
    Redis86,
    Valkey81,
    Valkey91,
}

impl Version {
    pub const ALL: [Version; 7] = [
        Version::Redis60,
        Version::Redis62,
        Version::Redis70,
        Version::Redis80,
        Version::Redis86,
        Version::Valkey81,
        Version::Valkey91,
    ];

    /// The directory that `tests/servers.sh` puts it into.
    pub fn name(self) -> &'static str {
        match self {
            Version::Redis60 => "redis-6.0",
            Version::Redis62 => "redis-6.2",
            Version::Redis70 => "redis-7.0",
            Version::Redis80 => "redis-8.0",
            Version::Redis86 => "redis-8.6",
            Version::Valkey81 => "valkey-8.1",
            Version::Valkey91 => "valkey-9.1",
        }
    }

    /// Whether expiries travel in the feed as relative times (up to 6.2).
    pub fn relative_ttls(self) -> bool {
        !self.at_least_7()
    }

    pub fn is_valkey(self) -> bool {
        matches!(self, Version::Valkey81 | Version::Valkey91)
    }

    pub fn at_least_7(self) -> bool {
        !matches!(self, Version::Redis60 | Version::Redis62)
    }

    /// `program` is `server`, `cli`, `benchmark` or `sentinel`.
    pub fn program(self, program: &str) -> PathBuf {
        let path = servers_dir().join(self.name()).join("bin").join(program);
        assert!(
            path.exists(),
            "{} is missing. Run `tests/servers.sh` (or `tests/run.sh`, which does all), or set \
             BACKFEED_TEST_SERVERS to the directory that has it.",
            path.display()
        );
        path
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

fn servers_dir() -> PathBuf {
    match std::env::var_os("BACKFEED_TEST_SERVERS") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-servers"),
    }
}

pub struct Builder {
    version: Version,
    sentinel: bool,
    port: Option<u16>,
    dir: Option<PathBuf>,
    config: Vec<(String, String)>,
    args: Vec<String>,
}

impl Builder {
    /// One line of the config file, the value as it would stand there: `.arg("save", "60 1")`.
    pub fn arg(mut self, key: &str, value: impl ToString) -> Self {
        self.config.push((key.to_owned(), value.to_string()));
        self
    }

    /// Instead of a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Where the data lies, instead of a directory that is deleted in the end.
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    pub fn replicaof(self, host: &str, port: u16) -> Self {
        self.arg("replicaof", format!("{host} {port}"))
    }

    /// A Sentinel; give it its masters with `.arg("sentinel", "monitor name 127.0.0.1 port quorum")`.
    pub fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    pub fn start(self) -> Server {
        let home = TempDir::new().expect("a temporary directory");
        let dir = self.dir.clone().unwrap_or_else(|| home.path().join("data"));
        fs::create_dir_all(&dir).expect("the data directory");
        let mut server = Server {
            port: self.port.unwrap_or_else(free_port),
            fixed_port: self.port.is_some(),
            home,
            dir,
            child: None,
            setup: self,
        };
        server.launch();
        server
    }
}

/// A running server, or one that was stopped and may be started again on the same port and data.
pub struct Server {
    setup: Builder,
    port: u16,
    /// Somebody may know the port already: when it is taken, wait for it rather than choose another.
    fixed_port: bool,
    dir: PathBuf,
    home: TempDir,
    child: Option<Child>,
}

impl Server {
    /// `args` are added to the command line as they are: `&["--appendonly", "yes"]`.
    pub fn start(version: Version, args: &[&str]) -> Server {
        let mut builder = Server::builder(version);
        builder.args = args.iter().map(|&arg| arg.to_owned()).collect();
        builder.start()
    }

    pub fn builder(version: Version) -> Builder {
        Builder {
            version,
            sentinel: false,
            port: None,
            dir: None,
            config: Vec::new(),
            args: Vec::new(),
        }
    }

    pub fn version(&self) -> Version {
        self.setup.version
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// `host:port`.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// With the password, if one was set by `.arg("requirepass", …)`.
    pub fn url(&self) -> String {
        let auth = match self
            .setup
            .config
            .iter()
            .rfind(|(key, _)| key == "requirepass")
        {
            Some((_, password)) => format!(":{password}@"),
            None => String::new(),
        };
        format!("redis://{auth}{}/", self.addr())
    }

    pub fn try_connect(&self) -> redis::RedisResult<redis::Connection> {
        let client = redis::Client::open(self.url())?;
        let connection = client.get_connection_with_timeout(REPLY_TIMEOUT)?;
        connection.set_read_timeout(Some(REPLY_TIMEOUT))?;
        connection.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(connection)
    }

    pub fn connect(&self) -> redis::Connection {
        self.try_connect()
            .unwrap_or_else(|error| panic!("{self}: cannot connect: {error}"))
    }

    /// Each call has a connection of its own: for SELECT, MULTI and speed, take [`Server::connect`].
    pub fn try_cmd(&self, command: &[&str]) -> redis::RedisResult<redis::Value> {
        let (name, args) = command.split_first().expect("a command");
        redis::cmd(name).arg(args).query(&mut self.try_connect()?)
    }

    pub fn cmd(&self, command: &[&str]) -> redis::Value {
        self.try_cmd(command)
            .unwrap_or_else(|error| panic!("{self}: {command:?}: {error}"))
    }

    /// `SAVE`, once the child of a full sync is gone: a server may not have noticed yet that it is.
    pub fn save(&self) {
        wait_until("SAVE is possible", Duration::from_secs(60), || {
            match self.try_cmd(&["SAVE"]) {
                Ok(_) => true,
                Err(error) if error.to_string().contains("in progress") => false,
                Err(error) => panic!("{self}: SAVE: {error}"),
            }
        });
    }

    /// [`Server::cmd`] for a reply that is a string or a number.
    pub fn text(&self, command: &[&str]) -> String {
        let value = self.cmd(command);
        redis::from_redis_value(value)
            .unwrap_or_else(|error| panic!("{self}: {command:?}: {error}"))
    }

    pub fn info(&self, section: &str) -> HashMap<String, String> {
        self.text(&["INFO", section])
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    /// Equal digests mean equal data in all databases. (Expiry times are not in it, only which keys have one.)
    pub fn debug_digest(&self) -> String {
        self.text(&["DEBUG", "DIGEST"])
    }

    /// Replication id and offset, as the server states them.
    pub fn position(&self) -> (String, u64) {
        let info = self.info("replication");
        let offset = info["master_repl_offset"].parse().expect("a number");
        (info["master_replid"].clone(), offset)
    }

    /// All that it wrote to its log, from the first start on.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child
            .as_ref()
            .unwrap_or_else(|| panic!("{self}: it does not run"))
            .id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child
            .as_mut()
            .is_some_and(|child| child.try_wait().expect("wait").is_none())
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// SIGTERM, a graceful shutdown. Does not wait for it: see [`Server::wait_exit`].
    pub fn sigterm(&self) {
        self.signal("TERM");
    }

    /// Any signal, as `STOP` and `CONT` to have a master that hangs.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.pid())])
            .status()
            .expect("sh");
        assert!(status.success(), "{self}: kill -{name} failed");
    }

    pub fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let what = format!("{self} exits");
        let child = self.child.as_mut().expect("a server that was started");
        let mut status = None;
        wait_until(&what, timeout, || {
            status = child.try_wait().expect("wait");
            status.is_some()
        });
        self.child = None;
        status.expect("set above")
    }

    /// A line of the config file, from the next start on.
    pub fn set_arg(&mut self, key: &str, value: &str) {
        self.setup.config.retain(|(known, _)| known != key);
        self.setup.config.push((key.to_owned(), value.to_owned()));
    }

    /// Starts it again with the same port and data, after a graceful stop if it still runs.
    pub fn restart(&mut self) {
        if self.is_running() {
            self.sigterm();
            self.wait_exit(STOP_TIMEOUT);
        }
        self.fixed_port = true;
        self.launch();
    }

    /// Returns when it has loaded its data and listens, which it says itself; a PING might be answered by some
    /// other test's server on the port that we wanted.
    fn launch(&mut self) {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut log_start = self.spawn();
        loop {
            // In this order: what it said before it ended is in the log.
            let running = self.is_running();
            let log = self.log().split_off(log_start);
            if log.contains("Ready to accept connections") || log.contains("Sentinel ID is") {
                return;
            }
            if !running {
                assert!(
                    log.contains("Address already in use"),
                    "{self} did not start:\n{log}"
                );
                if !self.fixed_port {
                    self.port = free_port();
                }
                log_start = self.spawn();
            }
            assert!(
                Instant::now() < deadline,
                "{self} is not ready after {START_TIMEOUT:?}:\n{log}"
            );
            thread::sleep(POLL);
        }
    }

    /// Returns where in the log this run begins.
    fn spawn(&mut self) -> usize {
        let log_start = self.log().len();
        let config = self.home.path().join("server.conf");
        fs::write(&config, self.config()).expect("the config file");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_path())
            .expect("the log file");
        let program = if self.setup.sentinel {
            "sentinel"
        } else {
            "server"
        };
        let child = Command::new(self.setup.version.program(program))
            .arg(&config)
            .args(&self.setup.args)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{self}: {error}"));
        self.child = Some(child);
        log_start
    }

    /// Later lines win, so the test's own stand last.
    fn config(&self) -> String {
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("port {}", self.port),
            format!("dir \"{}\"", self.dir.display()),
        ];
        if !self.setup.sentinel {
            lines.push("save \"\"".to_owned());
            lines.push("appendonly no".to_owned());
            // By default, a full sync waits 5 s for more replicas to come.
            lines.push("repl-diskless-sync-delay 0".to_owned());
            if self.setup.version.at_least_7() {
                lines.push("enable-debug-command yes".to_owned());
            }
        }
        for (key, value) in &self.setup.config {
            let value = if value.is_empty() { "\"\"" } else { value };
            lines.push(format!("{key} {value}"));
        }
        lines.join("\n") + "\n"
    }

    fn log_path(&self) -> PathBuf {
        self.home.path().join("log")
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on port {}", self.setup.version, self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Neither can fail in a way that matters here, and a panic while panicking would abort.
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(25)..];
            eprintln!("--- the end of the log of {self}:\n{}", tail.join("\n"));
        }
    }
}

/// A port that is free now. Below the range that the kernel takes outgoing connections' ports from (so that a
/// stopped server gets its port back), and away from the ports of test processes beside this one.
pub fn free_port() -> u16 {
    const FIRST: u32 = 11_000;
    const PROCESSES: u32 = 1_300;
    const PORTS_EACH: u32 = 16;
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % PROCESSES) * PORTS_EACH;
    for _ in 0..PROCESSES * PORTS_EACH {
        let taken = u32::from(TAKEN.fetch_add(1, Ordering::Relaxed));
        let port = FIRST + (start + taken) % (PROCESSES * PORTS_EACH);
        let port = u16::try_from(port).expect("FIRST + PROCESSES * PORTS_EACH < 32768");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}

/// Polls until `condition` holds, and panics with `what` if it does not in time.
#[track_caller]
pub fn wait_until(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < timeout,
            "waited {timeout:?} in vain until {what}"
        );
        thread::sleep(POLL);
    }
}
