//! Typed configuration: the flags of the command line are turned into it once.
//!
//! Everything is checked when it is made, so the layers above need not check again. Secrets are held in [`Secret`],
//! which no formatting shows.

mod cgroup;
mod cluster;
mod expiry;
mod features;
mod listen;
mod memory_budget;
mod parse;
mod sentinels;
#[cfg(feature = "cli")]
mod serve;
mod server_name;
mod source;
mod store;
mod tls;
#[cfg(feature = "tls")]
mod tls_files;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use cgroup::{CgroupLimit, memory_limit as cgroup_memory_limit};
pub use cluster::{Cluster, Prefer, Shard, is_cluster};
pub use expiry::{KEEP_SUPERSEDED, KeepPolicy, RetentionConfig, parse_keep};
#[allow(unused_imports)] // a build with all features has no use for it
pub(crate) use features::not_built_in;
pub use listen::{Admission, Listen, ListenTls, is_loopback};
pub use memory_budget::{Budget, DEFAULT_BUDGET, OBJECTS, PLANS, Shares, Wanted, least_feed};
pub use parse::{
    HttpAddr, Size, parse_addr, parse_duration, parse_every, parse_merge, parse_size, redact,
};
pub use sentinels::{SENTINEL_PORT, Sentinels, Upstream};
#[cfg(feature = "cli")]
pub use serve::{ClusterConfig, FileError, FileProblem, ServeConfig, ServiceConfig, SourceConfig};
#[cfg(all(test, feature = "cli"))]
pub(crate) use serve::{SERVICE_KEYS, SOURCE_KEYS};
pub use server_name::{DEFAULT_NAME, name_of_pod, parse_name};
pub use source::{DEFAULT_PORT, Secret, Source};
pub use store::{
    Encryption, EncryptionKey, GcsOptions, KmsKey, StorageClass, StoreConfig, parse_project,
};
pub use tls::{Identity, Tls};
#[cfg(feature = "tls")]
pub use tls_files::{ListenTlsFiles, TlsFiles};

use crate::wire::position::{Offset, ReplId};

/// Stretches that hold only `PING`s are stored at most this often, so that an idle server costs almost nothing.
pub const IDLE_INTERVAL: Duration = Duration::from_secs(600);

/// A segment below this would be mostly header, and a busy server would make thousands of objects a minute.
pub const SEGMENT_SIZE_MIN: usize = 64 * 1024;

/// A setting that cannot be used. The message never holds a secret. It names settings in backticks, as
/// `` `segment_size` ``.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// With a message for the operator: what is wrong, and what to write instead.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }

    /// The same, with what it is about in front.
    #[must_use]
    pub fn of(self, what: &str) -> Self {
        Self(format!("{what}: {}", self.0))
    }
}

/// What is acknowledged to the master (`REPLCONF ACK`), and so counts for `WAIT`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AckPolicy {
    /// What is in the store.
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

/// What a sidecar does with a Redis that lacks something of the store, and has been written to since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenBehind {
    /// Nothing: the stored state stays the latest, and an operator decides.
    #[default]
    Wait,
    /// The stored state replaces what Redis has.
    Restore,
    /// What Redis has becomes the latest.
    Capture,
}

impl FromStr for WhenBehind {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "wait" => Ok(Self::Wait),
            "restore" => Ok(Self::Restore),
            "capture" => Ok(Self::Capture),
            _ => Err(ConfigError(format!(
                "`{text}` is not `wait`, `restore` or `capture`"
            ))),
        }
    }
}

/// In which form a server gets the log after a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServeLog {
    /// The faster one.
    #[default]
    Auto,
    /// As its commands, after the snapshot.
    Replay,
    /// Snapshot and log are made one RDB, where every command can be applied. Otherwise it is replayed.
    Rebuild,
}

impl FromStr for ServeLog {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "auto" => Ok(Self::Auto),
            "replay" => Ok(Self::Replay),
            "rebuild" => Ok(Self::Rebuild),
            _ => Err(ConfigError(format!(
                "`{text}` is not `auto`, `replay` or `rebuild`"
            ))),
        }
    }
}

/// A smaller spool holds almost nothing, and would always be reported as full.
pub const SPOOL_LIMIT_MIN: u64 = 1 << 20;

/// Where feed waits for the store when memory has no room for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolConfig {
    /// A directory. The files in it have no names.
    pub dir: PathBuf,
    /// Bytes on its disk, at most.
    pub limit: u64,
}

/// How a feed becomes objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureConfig {
    /// What was received is stored after this time at the latest.
    pub flush_interval: Duration,
    /// The same for stretches that hold only `PING`s.
    pub idle_interval: Duration,
    /// Raw bytes of feed after which a segment is cut even before its time.
    pub segment_size: usize,
    /// Bytes of feed held in memory, received but not yet stored, at most.
    pub memory_limit: usize,
    /// Where more of it waits. None: nowhere.
    pub spool: Option<SpoolConfig>,
    /// What is acknowledged to the master.
    pub ack: AckPolicy,
}

/// `--segment-size`.
const SEGMENT_SIZE: usize = 8 * 1024 * 1024;

/// The shares when no flag sets them, with the default segments.
fn default_shares() -> Shares {
    Budget::new(None, None).shares(Wanted {
        segment_size: SEGMENT_SIZE,
        feed: None,
        consolidation: None,
    })
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_secs(1),
            idle_interval: IDLE_INTERVAL,
            segment_size: SEGMENT_SIZE,
            memory_limit: default_shares().feed,
            spool: None,
            ack: AckPolicy::Stored,
        }
    }
}

impl CaptureConfig {
    /// Checks the limits against each other.
    ///
    /// # Errors
    /// [`ConfigError`], with the names of settings in backticks.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.flush_interval < Duration::from_millis(1) {
            return Err(ConfigError::new("`flush_interval`: must be 1ms or more"));
        }
        if self.segment_size < SEGMENT_SIZE_MIN {
            return Err(ConfigError::new("`segment_size`: must be 64KiB or more"));
        }
        if self.memory_limit < least_feed(self.segment_size) {
            return Err(ConfigError::new(
                "`feed_memory`: must be twice `segment_size` or more (one segment is stored while the next one fills)",
            ));
        }
        if self
            .spool
            .as_ref()
            .is_some_and(|spool| spool.limit < SPOOL_LIMIT_MIN)
        {
            return Err(ConfigError::new("`spool_limit`: must be 1MiB or more"));
        }
        Ok(self)
    }
}

/// When and how new bases are made in the background.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsolidateConfig {
    /// How often, if the log has grown. None: never.
    pub every: Option<Duration>,
    /// And when the size of the log since the base reaches this share of the base, in percent.
    pub share: u32,
    /// Bytes of memory for the keys that the log touches, at most.
    pub memory_limit: usize,
    /// Merge the segments of the log into spans.
    pub merge: bool,
}

impl Default for ConsolidateConfig {
    fn default() -> Self {
        Self {
            every: Some(Duration::from_secs(3600)),
            share: 50,
            memory_limit: default_shares().consolidation,
            merge: true,
        }
    }
}

/// When and how a service tries a restore of its archive.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DrillConfig {
    /// How often. None: never.
    pub every: Option<Duration>,
    /// The server to start. None: as `path` finds one.
    pub server: Option<PathBuf>,
    /// Directories in which a server is looked for.
    pub path: Vec<PathBuf>,
    /// Where an RDB of the data is put. None: the directory for temporary files.
    pub scratch_dir: Option<PathBuf>,
}

/// `backfeed sidecar`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SidecarConfig {
    /// Which server it is: an archive belongs to one.
    pub name: String,
    /// Our Redis.
    pub redis: Source,
    /// Where our Redis finds its first master.
    pub listen: Listen,
    /// The history to continue when `latest` is ambiguous.
    pub history: Option<ReplId>,
    /// If the store stays away this long at boot, promote Redis as it is. None: never.
    pub open_after: Option<Duration>,
    /// Promote a Redis that does not hold what it was given.
    pub promote_incomplete: bool,
    /// What happens to a Redis that lacks something of the store, and has been written to since.
    pub when_behind: WhenBehind,
    /// In which form Redis gets the log.
    pub serve_log: ServeLog,
    /// How to store what comes.
    pub capture: CaptureConfig,
    /// When to make new bases of it.
    pub consolidate: ConsolidateConfig,
    /// How long to flush after SIGTERM.
    pub grace: Duration,
}

/// `backfeed backup`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupConfig {
    /// The server to back up.
    pub redis: Upstream,
    /// One full sync, then the end.
    pub once: bool,
    /// How to store what comes.
    pub capture: CaptureConfig,
    /// When to make new bases of it.
    pub consolidate: ConsolidateConfig,
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

    /// `redis://…`, `aof:DIR`, `rdb:FILE` or `FILE.rdb`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if let Some(file) = text.strip_prefix("rdb:") {
            if file.is_empty() {
                return Err(ConfigError::new("the file is missing: write rdb:FILE"));
            }
            return Ok(Self::RdbFile(file.into()));
        }
        if text.contains("://") {
            return text.parse().map(Self::Server);
        }
        if text.starts_with("resp:") {
            return Err(ConfigError::new(
                "resp:FILE holds chosen keys: say which with `keys` (`*` for all)",
            ));
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
            "this is no place to restore to. Write redis://HOST:PORT or rediss://HOST:PORT (a running server), aof:DIR \
             (append-only files) or rdb:FILE (one RDB file)",
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

/// Where the backup of a cluster goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterDest {
    /// A directory, with an RDB file for each shard.
    Files(PathBuf),
    /// A running cluster of any shape.
    Cluster(Cluster),
    /// One running server.
    Server(Source),
}

impl FromStr for ClusterDest {
    type Err = ConfigError;

    /// `redis+cluster://…`, `redis://…` or `rdb:DIR`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if is_cluster(text) {
            return text.parse().map(Self::Cluster);
        }
        let refused = || {
            ConfigError::new(
                "the backup of a cluster goes to redis+cluster://HOST:PORT (a running cluster), redis://HOST:PORT (one server) or \
                 rdb:DIR (a directory, with an RDB file for each shard)",
            )
        };
        match text.parse() {
            Ok(Dest::Server(source)) => Ok(Self::Server(source)),
            Ok(Dest::RdbFile(path)) if text.starts_with("rdb:") => Ok(Self::Files(path)),
            Ok(_) => Err(refused()),
            Err(error) if text.contains("://") => Err(error),
            Err(_) => Err(refused()),
        }
    }
}

impl fmt::Display for ClusterDest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(path) => write!(f, "rdb:{}", path.display()),
            Self::Cluster(cluster) => cluster.fmt(f),
            Self::Server(source) => source.fmt(f),
        }
    }
}

/// Where chosen keys go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeysDest {
    /// A running server, by `RESTORE` on an ordinary connection.
    Server(Source),
    /// One RDB file.
    RdbFile(PathBuf),
    /// A file of `RESTORE` commands, for `redis-cli --pipe`.
    Resp(PathBuf),
}

impl FromStr for KeysDest {
    type Err = ConfigError;

    /// `redis://…`, `rdb:FILE`, `FILE.rdb` or `resp:FILE`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        if let Some(file) = text.strip_prefix("resp:") {
            if file.is_empty() {
                return Err(ConfigError::new("the file is missing: write resp:FILE"));
            }
            return Ok(Self::Resp(file.into()));
        }
        match text.parse()? {
            Dest::Server(source) => Ok(Self::Server(source)),
            Dest::RdbFile(path) => Ok(Self::RdbFile(path)),
            Dest::Aof(_) => Err(ConfigError::new(
                "chosen keys (`keys`) go to redis://HOST:PORT, rdb:FILE or resp:FILE",
            )),
        }
    }
}

impl fmt::Display for KeysDest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(source) => source.fmt(f),
            Self::RdbFile(path) => path.display().fmt(f),
            Self::Resp(path) => write!(f, "resp:{}", path.display()),
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
    /// An RDB file: bytes of memory for the keys that the log touches, at most.
    pub memory_limit: usize,
    /// In which form a server gets the log.
    pub serve_log: ServeLog,
    /// Where the target finds us as its master. None: where it can reach us, on a free port.
    pub listen: Option<SocketAddr>,
    /// Host and port by which the target reaches that, where it is another address.
    pub announce: Option<(String, u16)>,
    /// How the target must speak there, and prove that it may.
    pub admission: Admission,
}

impl RestoreConfig {
    /// The latest point to there, and nothing special.
    #[must_use]
    pub fn latest(to: Dest) -> Self {
        Self {
            to,
            at: None,
            offset: None,
            history: None,
            continue_history: false,
            dry_run: false,
            force: false,
            memory_limit: 1 << 30,
            serve_log: ServeLog::Auto,
            listen: None,
            announce: None,
            admission: Admission::default(),
        }
    }

    /// Checks the settings against each other.
    ///
    /// # Errors
    /// [`ConfigError`], with the names of settings in backticks.
    pub fn checked(self) -> Result<Self, ConfigError> {
        if self.continue_history {
            if !matches!(self.to, Dest::Server(_)) {
                return Err(ConfigError::new(
                    "`continue_history`: only a running server can continue a history: restore to redis://HOST:PORT",
                ));
            }
            if self.offset.is_some() || self.at.as_deref().is_some_and(|at| at != "latest") {
                return Err(ConfigError::new(
                    "`continue_history`: a history can be continued only from its last stored offset. Leave out `at` and \
                     `offset`",
                ));
            }
        }
        Ok(self)
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
