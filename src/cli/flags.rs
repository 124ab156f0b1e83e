//! Flags that several verbs share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::{Failure, print, print_json};
use crate::archive::Archive;
use crate::config::{
    AckPolicy, Admission, Budget, CaptureConfig, ConfigError, ConsolidateConfig, Encryption,
    EncryptionKey, GcsOptions, IDLE_INTERVAL, Identity, KmsKey, ListenTls, Sentinels, Shares,
    Source, SpoolConfig, StorageClass, StoreConfig, Tls, Upstream, Wanted, cgroup_memory_limit,
    parse_addr, parse_duration, parse_project, parse_size,
};
use crate::link::accept;
use crate::monitoring::logging::LogFormat;
use crate::recovery::{RecoveryError, When};
use crate::store;
use crate::wire::position::ReplId;

#[derive(Debug, Args)]
pub(super) struct Log {
    /// How log lines on stderr look
    #[arg(long, env = "BACKFEED_LOG_FORMAT", value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,

    /// Log more: -v every decision, -vv every message (RUST_LOG overrides it)
    #[arg(short, long, env = "BACKFEED_VERBOSE", action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Debug, Args)]
pub(super) struct Store {
    /// Where the archive lies: gs://bucket/prefix, s3://bucket/prefix, az://container/prefix or file:///path
    #[arg(long, env = "BACKFEED_STORE", value_name = "URL")]
    store: String,

    /// gs://: encrypt with this key of Cloud KMS [default: as the bucket does]
    #[arg(
        long,
        env = "BACKFEED_KMS_KEY",
        value_name = "projects/…/cryptoKeys/…",
        conflicts_with = "encryption_key_file"
    )]
    kms_key: Option<KmsKey>,

    /// gs://: encrypt and decrypt with the AES-256 key in this file (base64 of 32 bytes, or the 32 bytes). Without it nobody
    /// can read the archive
    #[arg(long, env = "BACKFEED_ENCRYPTION_KEY_FILE", value_name = "FILE")]
    encryption_key_file: Option<PathBuf>,

    /// gs://: the storage class of new objects: STANDARD, NEARLINE, COLDLINE, ARCHIVE [default: the bucket's]
    #[arg(long, env = "BACKFEED_STORAGE_CLASS", value_name = "CLASS")]
    storage_class: Option<StorageClass>,

    /// gs://: the project that pays for the requests (requester pays)
    #[arg(long, env = "BACKFEED_USER_PROJECT", value_name = "PROJECT", value_parser = parse_project)]
    user_project: Option<String>,
}

impl Store {
    /// Reads the key file: once, as another key could not read what this one has written.
    pub(super) fn lower(&self) -> Result<StoreConfig, ConfigError> {
        let encryption = match (&self.kms_key, &self.encryption_key_file) {
            (Some(key), _) => Encryption::Managed(key.clone()),
            (None, Some(path)) => Encryption::Supplied(
                EncryptionKey::from_file(path)
                    .map_err(|error| error.of_flag("--encryption-key-file"))?,
            ),
            (None, None) => Encryption::OfBucket,
        };
        StoreConfig {
            url: self.store.clone(),
            gcs: GcsOptions {
                encryption,
                storage_class: self.storage_class,
                user_project: self.user_project.clone(),
            },
        }
        .checked()
    }

    /// The archive that lies there.
    pub(super) async fn open(&self) -> Result<Archive, Failure> {
        let store = store::open_with(&self.lower()?).await?;
        Ok(Archive::open(store).await?)
    }
}

/// How a report is printed.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Print JSON, for scripts
    #[arg(long, env = "BACKFEED_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    pub(super) json: bool,
}

impl Output {
    /// `text`: the report for people.
    pub(super) fn print<R: Serialize>(
        &self,
        report: &R,
        text: impl FnOnce(&R) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            return print_json(report);
        }
        print(&text(report))
    }
}

/// Of a command that looks at keys and does not work in stages: more has to be asked for.
pub(super) const KEYS_MEMORY: usize = 1 << 30;

/// What a look into a store may show, and take.
#[derive(Debug, Args)]
pub(super) struct Bounds {
    /// Show at most so many elements of a collection, or keys; 0: all
    #[arg(long, env = "BACKFEED_LIMIT", value_name = "N", default_value = "1000")]
    limit: usize,

    /// Hold at most this much of the keys that the log touches in memory [default: 1GiB, or what the limit of the cgroup leaves]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,
}

/// Bytes of memory for the keys that the log touches, of a command that ends: what was asked for, or `most`, or what the limit of
/// the cgroup leaves of that.
pub(super) fn keys_memory(asked: Option<usize>, most: usize) -> usize {
    asked.unwrap_or_else(|| Budget::new(None, cgroup_memory_limit()).keys(most))
}

impl Bounds {
    pub(super) fn memory_limit(&self) -> usize {
        keys_memory(self.memory_limit, KEYS_MEMORY)
    }

    pub(super) fn limit(&self) -> usize {
        if self.limit == 0 {
            return usize::MAX;
        }
        self.limit
    }
}

/// A point of a history in a store.
#[derive(Debug, Args)]
pub(super) struct Point {
    /// The point in time: RFC 3339, `10m ago`, Unix seconds, or `latest` [default: latest]
    #[arg(
        long,
        env = "BACKFEED_AT",
        value_name = "WHEN",
        conflicts_with = "offset"
    )]
    pub(super) at: Option<String>,

    /// The point as an offset of the history
    #[arg(long, env = "BACKFEED_OFFSET", value_name = "N")]
    pub(super) offset: Option<u64>,

    /// The history, when it is not the latest one (see `backfeed list`)
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    pub(super) history: Option<ReplId>,
}

impl Point {
    pub(super) fn when(&self, now_unix_ms: i64) -> Result<When, RecoveryError> {
        match (self.at.as_deref(), self.offset) {
            (_, Some(offset)) => Ok(When::Offset(offset)),
            (Some(at), None) => Ok(When::parse(at, now_unix_ms)?),
            (None, None) => Ok(When::Latest),
        }
    }

    /// Is one named?
    pub(super) fn is_named(&self) -> bool {
        self.at.is_some() || self.offset.is_some() || self.history.is_some()
    }
}

/// How to log in to the server.
#[derive(Debug, Args)]
pub(super) struct Login {
    /// File with the server's password, read for every connection
    #[arg(long, env = "BACKFEED_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,

    /// rediss://: trust the authorities in this PEM file, instead of the system's. It and the next two are read for every
    /// connection
    #[arg(long, env = "BACKFEED_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,

    /// rediss://: our certificate (PEM), for a server that wants one
    #[arg(
        long,
        env = "BACKFEED_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key"
    )]
    tls_cert: Option<PathBuf>,

    /// rediss://: the private key of --tls-cert (PEM)
    #[arg(
        long,
        env = "BACKFEED_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert"
    )]
    tls_key: Option<PathBuf>,

    /// rediss://: the name in the server's certificate [default: the host of the URL]
    #[arg(long, env = "BACKFEED_TLS_SERVER_NAME", value_name = "NAME")]
    tls_server_name: Option<String>,
}

impl Login {
    /// The server, with how to log in to it; `flag` is where its URL came from.
    pub(super) fn to(&self, source: Source, flag: &str) -> Result<Source, ConfigError> {
        source
            .with_password_file(self.redis_password_file.clone())
            .map_err(|error| error.of_flag("--redis-password-file"))?
            .with_tls(self.tls())
            .map_err(|error| error.of_flag(flag))
    }

    /// The same for servers that Sentinels name.
    fn by(&self, sentinels: Sentinels, flag: &str) -> Result<Sentinels, ConfigError> {
        sentinels
            .with_password_file(self.redis_password_file.clone())
            .map_err(|error| error.of_flag("--redis-password-file"))?
            .with_tls(&self.tls())
            .map_err(|error| error.of_flag(flag))
    }

    fn tls(&self) -> Tls {
        let identity = self.tls_cert.clone().zip(self.tls_key.clone());
        Tls {
            ca: self.tls_ca.clone(),
            identity: identity.map(|(cert, key)| Identity { cert, key }),
            server_name: self.tls_server_name.clone(),
        }
    }
}

/// Whom backfeed serves as a master.
#[derive(Debug, Args)]
pub(super) struct Serving {
    /// File with the password that the server must give to backfeed as its master (its `masterauth`), read for every
    /// connection. --listen beyond loopback needs it, or --listen-tls-client-ca
    #[arg(long, env = "BACKFEED_LISTEN_PASSWORD_FILE", value_name = "FILE")]
    listen_password_file: Option<PathBuf>,

    /// The user that it must give with that password (its `masteruser`) [default: any, or none]
    #[arg(
        long,
        env = "BACKFEED_LISTEN_USER",
        value_name = "NAME",
        requires = "listen_password_file"
    )]
    listen_user: Option<String>,

    /// Serve by TLS, as a server with `tls-replication yes` wants it: our certificate (PEM). It and the next two are read for
    /// every connection
    #[arg(
        long,
        env = "BACKFEED_LISTEN_TLS_CERT",
        value_name = "FILE",
        requires = "listen_tls_key"
    )]
    listen_tls_cert: Option<PathBuf>,

    /// The private key of --listen-tls-cert (PEM)
    #[arg(
        long,
        env = "BACKFEED_LISTEN_TLS_KEY",
        value_name = "FILE",
        requires = "listen_tls_cert"
    )]
    listen_tls_key: Option<PathBuf>,

    /// Serve only a server that presents a certificate signed by the authorities in this PEM file
    #[arg(
        long,
        env = "BACKFEED_LISTEN_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "listen_tls_cert"
    )]
    listen_tls_client_ca: Option<PathBuf>,
}

impl Serving {
    /// The files must be usable now.
    pub(super) fn lower(&self) -> Result<Admission, ConfigError> {
        if self.listen_user.as_deref() == Some("") {
            return Err(ConfigError::new(
                "--listen-user: the name is empty: leave it out",
            ));
        }
        let identity = self
            .listen_tls_cert
            .clone()
            .zip(self.listen_tls_key.clone());
        let admission = Admission {
            user: self.listen_user.clone(),
            password_file: self.listen_password_file.clone(),
            tls: identity.map(|(cert, key)| ListenTls {
                cert,
                key,
                client_ca: self.listen_tls_client_ca.clone(),
            }),
        };
        accept::check(&admission)?;
        Ok(admission)
    }
}

/// The server that is captured, and how.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// The server: redis://[user[:password]@]host[:port], or rediss:// for TLS. `backup` takes Sentinels too:
    /// redis+sentinel://[user[:password]@]host[:port][,host[:port]…]/master-name, or rediss+sentinel://
    // Text, not a `Source`: clap would show a wrong value, password and all, in its error.
    #[arg(long, env = "BACKFEED_REDIS", value_name = "URL")]
    redis: String,

    #[command(flatten)]
    login: Login,

    /// Store what was received after this time at the latest
    #[arg(long, env = "BACKFEED_FLUSH_INTERVAL", value_name = "TIME", default_value = "1s",
          value_parser = parse_duration)]
    flush_interval: Duration,

    /// Store a segment when it has this many bytes, before its time
    #[arg(long, env = "BACKFEED_SEGMENT_SIZE", value_name = "SIZE", default_value = "8MiB",
          value_parser = parse_size)]
    segment_size: usize,

    /// Memory for the whole process [default: the limit of its cgroup, of a high one 1GiB; without a limit 256MiB]
    #[arg(long, env = "BACKFEED_MEMORY_BUDGET", value_name = "SIZE", value_parser = parse_size)]
    memory_budget: Option<usize>,

    /// Of that, hold at most this much of the feed, received but not yet stored [default: 64MiB of 256MiB]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,

    /// Directory for feed that finds no room in memory while the store is slow or away [default: none]
    #[arg(long, env = "BACKFEED_SPOOL_DIR", value_name = "DIR")]
    spool_dir: Option<PathBuf>,

    /// Hold at most this much there
    #[arg(long, env = "BACKFEED_SPOOL_LIMIT", value_name = "SIZE", default_value = "1GiB",
          value_parser = parse_size)]
    spool_limit: usize,

    /// Acknowledge to the master (and so to WAIT) what is `stored` or what is `received`
    #[arg(long, env = "BACKFEED_ACK", value_name = "stored|received", default_value = "stored",
          value_parser = str::parse::<AckPolicy>)]
    ack: AckPolicy,

    /// Serve /healthz, /readyz and /metrics here, such as 127.0.0.1:9390 (they show no data)
    #[arg(long, env = "BACKFEED_HTTP", value_name = "ADDR:PORT", value_parser = parse_addr)]
    pub(super) http: Option<SocketAddr>,

    /// Make a new base (snapshot) from the last one and the log so often, if something was written; `never`: only by hand
    #[arg(long, env = "BACKFEED_CONSOLIDATE_EVERY", value_name = "TIME", default_value = "1h",
          value_parser = parse_every)]
    consolidate_every: Every,

    /// And when the log since the base has this many percent of its size
    #[arg(
        long,
        env = "BACKFEED_CONSOLIDATE_SHARE",
        value_name = "PERCENT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    consolidate_share: u32,

    /// Of --memory-budget, hold at most this much of the keys that the log touches meanwhile; more of them are done in stages
    /// [default: 96MiB of 256MiB]
    #[arg(long, env = "BACKFEED_CONSOLIDATE_MEMORY", value_name = "SIZE", value_parser = parse_size)]
    consolidate_memory: Option<usize>,

    /// After SIGTERM, take at most this long to store and acknowledge the rest
    #[arg(long, env = "BACKFEED_GRACE", value_name = "TIME", default_value = "10s",
          value_parser = parse_duration)]
    pub(super) grace: Duration,
}

/// How often; none: never.
#[derive(Debug, Clone, Copy)]
struct Every(Option<Duration>);

fn parse_every(text: &str) -> Result<Every, ConfigError> {
    if text == "never" {
        return Ok(Every(None));
    }
    parse_duration(text).map(|every| Every(Some(every)))
}

impl Capture {
    fn budget(&self) -> Budget {
        Budget::new(self.memory_budget, cgroup_memory_limit())
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            segment_size: self.segment_size,
            feed: self.memory_limit,
            consolidation: self.consolidate_memory,
        }
    }

    fn shares(&self) -> Shares {
        self.budget().shares(self.wanted())
    }

    /// Says how the memory is shared out, and what is wrong with it.
    pub(super) fn tell_memory(&self) {
        let budget = self.budget();
        match budget.warning(self.wanted()) {
            Some(warning) => tracing::warn!("{warning}"),
            None => tracing::info!("of {budget}: {}", self.shares()),
        }
    }

    pub(super) fn consolidate(&self) -> ConsolidateConfig {
        ConsolidateConfig {
            every: self.consolidate_every.0,
            share: self.consolidate_share,
            memory_limit: self.shares().consolidation,
        }
    }

    /// One server.
    pub(super) fn source(&self) -> Result<Source, ConfigError> {
        let source = self.redis.parse();
        self.login.to(
            source.map_err(|error: ConfigError| error.of_flag("--redis"))?,
            "--redis",
        )
    }

    /// One server, or whichever the Sentinels name.
    pub(super) fn upstream(&self) -> Result<Upstream, ConfigError> {
        let upstream: Result<Upstream, ConfigError> = self.redis.parse();
        match upstream.map_err(|error| error.of_flag("--redis"))? {
            Upstream::Server(source) => self.login.to(source, "--redis").map(Upstream::Server),
            Upstream::Sentinels(sentinels) => {
                self.login.by(sentinels, "--redis").map(Upstream::Sentinels)
            }
        }
    }

    pub(super) fn lower(&self) -> Result<CaptureConfig, ConfigError> {
        CaptureConfig {
            flush_interval: self.flush_interval,
            idle_interval: IDLE_INTERVAL,
            segment_size: self.segment_size,
            memory_limit: self.shares().feed,
            spool: self.spool_dir.clone().map(|dir| SpoolConfig {
                dir,
                limit: self.spool_limit as u64,
            }),
            ack: self.ack,
        }
        .checked()
    }
}
