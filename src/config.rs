//! Typed configuration: what the command's flags are lowered into, once.
//!
//! Everything here is checked when it is made, so that the layers above need not ask again. Secrets are held in
//! [`Secret`], which no formatting shows.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use url::Url;

use crate::position::{Offset, ReplId};

/// The port of a `redis://` URL that names none.
pub const DEFAULT_PORT: u16 = 6379;

/// Stretches of `PING` alone are stored this often at most, so that an idle server costs next to nothing.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(600);

/// A segment below this would be mostly header, and a busy server would make thousands of objects a minute.
pub const SEGMENT_SIZE_MIN: usize = 64 * 1024;

/// A password file is read whole; a longer one is surely the wrong file.
const PASSWORD_FILE_MAX: u64 = 64 * 1024;

/// A setting that cannot be used. The message never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// With a message for the operator: what is wrong, and what to write instead.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// The same, with the flag's name in front.
    #[must_use]
    pub fn of_flag(self, flag: &str) -> Self {
        Self(format!("{flag}: {}", self.0))
    }
}

/// A password. `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself: for the wire alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a password file: its content without the line end. Blocking, but of bounded length. Read it anew for
    /// every connection, as mounted secrets are rotated.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let complain = |why: &dyn fmt::Display| {
            ConfigError(format!("password file {}: {why}", path.display()))
        };
        let length = std::fs::metadata(path)
            .map_err(|error| complain(&error))?
            .len();
        if length > PASSWORD_FILE_MAX {
            return Err(complain(&format_args!(
                "{length} bytes is too long for a password"
            )));
        }
        let bytes = std::fs::read(path).map_err(|error| complain(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| complain(&"not UTF-8"))?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(complain(&"it is empty"));
        }
        Ok(Self::new(password))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A Redis server, and how to log in to it. `Display` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// ACL user; the default user when there is none.
    pub username: Option<String>,
    /// From the URL.
    pub password: Option<Secret>,
    /// From a file, read for every connection. Never together with `password`.
    pub password_file: Option<PathBuf>,
}

impl Source {
    /// `host:port`, an IPv6 address in brackets. It names the source in logs and in `history.json`.
    #[must_use]
    pub fn addr(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The password to use for the next connection.
    pub fn current_password(&self) -> Result<Option<Secret>, ConfigError> {
        match &self.password_file {
            Some(path) => Secret::from_file(path).map(Some),
            None => Ok(self.password.clone()),
        }
    }

    /// Takes the password from `file`, which must be readable now.
    pub fn with_password_file(mut self, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        if let Some(path) = file {
            if self.password.is_some() {
                return Err(ConfigError::new(
                    "a password in the URL and a password file exclude each other: leave one out",
                ));
            }
            Secret::from_file(&path)?;
            self.password_file = Some(path);
        }
        Ok(self)
    }
}

impl FromStr for Source {
    type Err = ConfigError;

    /// `redis://[user[:password]@]host[:port]`, user and password percent-encoded. No part of the text stands in the
    /// error, as a mistyped URL may have its password anywhere.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        const FORM: &str = "redis://[user[:password]@]host[:port]";
        match text.split_once("://") {
            Some(("redis", _)) => {}
            Some(("rediss", _)) => {
                return Err(ConfigError::new(
                    "rediss:// (TLS) is not supported yet: use redis:// over a network that you trust",
                ));
            }
            _ => return Err(ConfigError(format!("not a Redis URL: write {FORM}"))),
        }
        let url = Url::parse(text).map_err(|error| {
            ConfigError(format!(
                "not a Redis URL ({error}): write {FORM}, and in user and password %2F for /, %23 for #, %3F for ?, \
                 %40 for @, %3A for :"
            ))
        })?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ConfigError(format!(
                "nothing may follow the port (all databases are backed up together): write {FORM}"
            )));
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) if !name.is_empty() => decode(name, "host")?,
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            _ => return Err(ConfigError(format!("the host is missing: write {FORM}"))),
        };
        let port = url.port().unwrap_or(DEFAULT_PORT);
        if port == 0 {
            return Err(ConfigError::new("port 0 is no port to connect to"));
        }
        let username = Some(decode(url.username(), "user")?).filter(|name| !name.is_empty());
        let password = url
            .password()
            .map(|text| decode(text, "password"))
            .transpose()?;
        Ok(Self {
            host,
            port,
            username,
            password: password.filter(|text| !text.is_empty()).map(Secret::new),
            password_file: None,
        })
    }
}

fn decode(text: &str, part: &str) -> Result<String, ConfigError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(ConfigError(format!("the {part} in the URL is not UTF-8"))),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("redis://")?;
        if let Some(name) = &self.username {
            write!(f, "{name}@")?;
        }
        f.write_str(&self.addr())
    }
}

/// Where to listen for replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Port 0 lets the system choose.
    pub addr: SocketAddr,
    /// A replica must give this password (`masterauth`).
    pub password: Option<Secret>,
}

impl Listen {
    /// Whoever can connect is served the whole data set, so beyond loopback there must be a password.
    pub fn new(addr: SocketAddr, password_file: Option<&Path>) -> Result<Self, ConfigError> {
        let password = password_file.map(Secret::from_file).transpose()?;
        if password.is_none() && !addr.ip().to_canonical().is_loopback() {
            return Err(ConfigError(format!(
                "{addr} can be reached from other machines, and whoever connects is served all data: set a password \
                 with --listen-password-file, or listen on 127.0.0.1"
            )));
        }
        Ok(Self { addr, password })
    }
}

/// What the master is told to have been saved (`REPLCONF ACK`), which is what `WAIT` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckPolicy {
    /// What lies in the store.
    #[default]
    Stored,
    /// What was received. `WAIT` then says nothing about the store.
    Received,
}

impl FromStr for AckPolicy {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "stored" => Ok(Self::Stored),
            "received" => Ok(Self::Received),
            _ => Err(ConfigError(format!(
                "`{text}` is neither `stored` nor `received`"
            ))),
        }
    }
}

/// How a feed becomes objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureConfig {
    /// What was received is stored after this time at the latest.
    pub flush_interval: Duration,
    /// The same for stretches of `PING` alone.
    pub idle_interval: Duration,
    /// Raw bytes of feed after which a segment is cut even before its time.
    pub segment_size: usize,
    /// Bytes of feed held in memory, received but not yet stored, at most.
    pub memory_limit: usize,
    /// What is acknowledged to the master.
    pub ack: AckPolicy,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(1),
            idle_interval: IDLE_INTERVAL,
            segment_size: 8 * 1024 * 1024,
            memory_limit: 64 * 1024 * 1024,
            ack: AckPolicy::Stored,
        }
    }
}

impl CaptureConfig {
    /// Checks the limits against each other.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.flush_interval < Duration::from_millis(1) {
            return Err(ConfigError::new("--flush-interval: must be 1ms or more"));
        }
        if self.segment_size < SEGMENT_SIZE_MIN {
            return Err(ConfigError::new("--segment-size: must be 64KiB or more"));
        }
        // One segment is on its way to the store while the next one fills.
        if self.memory_limit / 2 < self.segment_size {
            return Err(ConfigError::new(
                "--memory-limit: must be twice --segment-size or more (one segment is stored while the next one fills)",
            ));
        }
        Ok(self)
    }
}

/// `backfeed sidecar`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarConfig {
    /// Our Redis.
    pub redis: Source,
    /// Where our Redis finds its first master.
    pub listen: Listen,
    /// The history to continue when `latest` is ambiguous.
    pub history: Option<ReplId>,
    /// If the store stays away this long at boot, promote Redis as it is. None: never.
    pub open_after: Option<Duration>,
    /// How to store what comes.
    pub capture: CaptureConfig,
    /// How long to flush after SIGTERM.
    pub grace: Duration,
}

/// `backfeed backup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// The server to back up.
    pub redis: Source,
    /// One full sync, then the end.
    pub once: bool,
    /// How to store what comes.
    pub capture: CaptureConfig,
    /// How long to flush after SIGTERM.
    pub grace: Duration,
}

/// Where a restore goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dest {
    /// A running server, restored by acting as its master.
    Server(Source),
    /// An append-only directory for a server to load.
    Aof(PathBuf),
    /// One RDB file.
    RdbFile(PathBuf),
}

impl FromStr for Dest {
    type Err = ConfigError;

    /// `redis://…`, `aof:DIR` or `FILE.rdb`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if text.contains("://") {
            return text.parse().map(Self::Server);
        }
        if let Some(directory) = text.strip_prefix("aof:") {
            if directory.is_empty() {
                return Err(ConfigError::new("the directory is missing: write aof:DIR"));
            }
            return Ok(Self::Aof(directory.into()));
        }
        let path = PathBuf::from(text);
        if path
            .extension()
            .is_some_and(|end| end.eq_ignore_ascii_case("rdb"))
        {
            return Ok(Self::RdbFile(path));
        }
        Err(ConfigError::new(
            "not a place to restore to: write redis://HOST:PORT (a running server), aof:DIR (an append-only directory) \
             or FILE.rdb (one RDB file)",
        ))
    }
}

impl fmt::Display for Dest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(source) => source.fmt(f),
            Self::Aof(path) => write!(f, "aof:{}", path.display()),
            Self::RdbFile(path) => path.display().fmt(f),
        }
    }
}

/// `backfeed restore`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreConfig {
    /// Where to.
    pub to: Dest,
    /// The point in time as it was written (RFC 3339, `10m ago`, Unix seconds, `latest`). None: the latest point.
    /// Never together with `offset`.
    pub at: Option<String>,
    /// The offset to restore to.
    pub offset: Option<Offset>,
    /// The history to restore when `latest` is ambiguous, or another one than that.
    pub history: Option<ReplId>,
    /// Serve under the original id and offset instead of a fresh one. Only to the last stored offset, only to a server.
    pub continue_history: bool,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Restore over data.
    pub force: bool,
    /// Report as JSON.
    pub json: bool,
    /// Where the target finds us as its master; none: where it can reach us, on a free port.
    pub listen: Option<SocketAddr>,
    /// Host and port by which the target reaches that, where it is another address.
    pub announce: Option<(String, u16)>,
    /// What the target must give as `masterauth`.
    pub listen_password: Option<Secret>,
}

impl RestoreConfig {
    /// Checks the settings against each other.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.continue_history {
            if !matches!(self.to, Dest::Server(_)) {
                return Err(ConfigError::new(
                    "--continue-history: only a running server can continue a history: write --to redis://HOST:PORT",
                ));
            }
            if self.offset.is_some() || self.at.as_deref().is_some_and(|at| at != "latest") {
                return Err(ConfigError::new(
                    "--continue-history: a history is continued from its last stored offset alone: leave out --at and \
                     --offset",
                ));
            }
        }
        Ok(self)
    }
}

/// A time such as `500ms`, `1s`, `10m`, `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, ConfigError> {
    let complain = || {
        ConfigError(format!(
            "`{text}` is not a length of time: write for example 500ms, 1s, 10m or 1h"
        ))
    };
    let parsed: jiff::SignedDuration = text.trim().parse().map_err(|_| complain())?;
    Duration::try_from(parsed).map_err(|_| complain())
}

/// A size in bytes such as `8MiB`, `64Mi`, `1MB` or `4096`.
pub fn parse_size(text: &str) -> Result<usize, ConfigError> {
    let complain = || {
        ConfigError(format!(
            "`{text}` is not a size: write for example 512KiB, 8MiB or 1GiB"
        ))
    };
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at_checked(digits).ok_or_else(complain)?;
    let number: usize = number.parse().map_err(|_| complain())?;
    let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        _ => return Err(complain()),
    };
    number.checked_mul(factor).ok_or_else(complain)
}

/// Takes user and password out of every URL in `text`: for messages that repeat what somebody typed, such as the
/// command line's own.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        // The last @ of the word: a password may hold one that nobody encoded.
        let word_end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (word, beyond) = after.split_at_checked(word_end).unwrap_or((after, ""));
        rest = match word.rsplit_once('@') {
            Some((_, host)) => {
                clean.push_str("***@");
                clean.push_str(host);
                beyond
            }
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
