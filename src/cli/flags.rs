//! Flags that several verbs share.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

use super::{Failure, print, print_json, settings, version};
use crate::archive::{Archive, ArchiveError, ClusterPlace};
use crate::config::{
    self, AckPolicy, Admission, Budget, CaptureConfig, Cluster, ConfigError, ConsolidateConfig,
    DrillConfig, Encryption, EncryptionKey, GcsOptions, HttpAddr, IDLE_INTERVAL, Identity,
    KeepPolicy, KmsKey, ListenTls, RetentionConfig, Sentinels, Shares, Source, SpoolConfig,
    StorageClass, StoreConfig, Tls, Upstream, Wanted, cgroup_memory_limit, parse_duration,
    parse_keep, parse_project, parse_size,
};
use crate::link::accept;
use crate::monitoring::logging::LogFormat;
use crate::recovery::{RecoveryError, RecoveryTarget};
use crate::store;
use crate::wire::position::ReplId;

/// Sections of the help. The first one has the flags that are required.
pub(super) const REQUIRED: &str = "Required";
pub(super) const SERVING: &str = "Connections from Redis";
pub(super) const OUTPUT: &str = "Output and log";
const POINT: &str = "Point in time";
const LOGIN: &str = "Connection to Redis";
const CAPTURE: &str = "Capture";
const MEMORY: &str = "Memory and spool";
const NEW_BASES: &str = "New bases";
const RETENTION: &str = "What is kept";
const DRILL: &str = "Drills";
const GCS: &str = "Google Cloud Storage";

#[derive(Debug, Args)]
pub(super) struct Log {
    /// Form of the log on stderr
    #[arg(long, env = "BACKFEED_LOG_FORMAT", value_enum, value_name = "FORMAT", default_value = "text", help_heading = OUTPUT)]
    pub(super) log_format: LogFormat,

    /// Log more: -v every decision, -vv every message (RUST_LOG overrides it)
    #[arg(short, long, env = "BACKFEED_VERBOSE", action = clap::ArgAction::Count, help_heading = OUTPUT)]
    pub(super) verbose: u8,
}

/// What every verb has that reads a store and prints a report: the last sections of its help.
#[derive(Debug, Args)]
pub(super) struct Common {
    #[command(flatten)]
    pub(super) gcs: Gcs,

    #[command(flatten)]
    pub(super) output: Output,

    #[command(flatten)]
    pub(super) log: Log,
}

#[derive(Debug, Args)]
pub(super) struct Store {
    /// Where the archive is: gs://bucket/prefix, s3://bucket/prefix, az://container/prefix or file:///path
    #[arg(long, env = "BACKFEED_STORE", value_name = "URL", help_heading = REQUIRED)]
    store: String,
}

/// Settings of a store in Google Cloud Storage.
#[derive(Debug, Default, Args)]
pub(super) struct Gcs {
    /// gs://: encrypt with this key of Cloud KMS [default: as the bucket does]
    #[arg(
        long,
        env = "BACKFEED_KMS_KEY",
        value_name = "projects/…/cryptoKeys/…",
        conflicts_with = "encryption_key_file",
        help_heading = GCS
    )]
    kms_key: Option<KmsKey>,

    /// gs://: encrypt and decrypt with the AES-256 key in this file (base64 of 32 bytes, or the 32 bytes). Without this key,
    /// the archive cannot be read
    #[arg(
        long,
        env = "BACKFEED_ENCRYPTION_KEY_FILE",
        value_name = "FILE",
        help_heading = GCS
    )]
    encryption_key_file: Option<PathBuf>,

    /// gs://: the storage class of new objects: STANDARD, NEARLINE, COLDLINE, ARCHIVE [default: the bucket's]
    #[arg(
        long,
        env = "BACKFEED_STORAGE_CLASS",
        value_name = "CLASS",
        help_heading = GCS
    )]
    storage_class: Option<StorageClass>,

    /// gs://: the project that pays for the requests (requester pays)
    #[arg(long, env = "BACKFEED_USER_PROJECT", value_name = "PROJECT", value_parser = parse_project, help_heading = GCS)]
    user_project: Option<String>,
}

impl Gcs {
    /// The store at a URL. `is_written`: objects are created in it, so the flags for new objects are for it.
    fn of_store(
        &self,
        url: &str,
        key_file: Option<&PathBuf>,
        is_written: bool,
    ) -> Result<StoreConfig, ConfigError> {
        let kms_key = self.kms_key.as_ref().filter(|_| is_written);
        let encryption = match (kms_key, key_file) {
            (Some(key), _) => Encryption::Managed(key.clone()),
            (None, Some(path)) => Encryption::Supplied(
                EncryptionKey::from_file(path)
                    .map_err(|error| error.of("--encryption-key-file"))?,
            ),
            (None, None) => Encryption::OfBucket,
        };
        StoreConfig {
            url: url.to_owned(),
            gcs: GcsOptions {
                encryption,
                storage_class: self.storage_class.filter(|_| is_written),
                user_project: self.user_project.clone(),
            },
        }
        .checked()
    }

    /// Source and target of a copy. Each flag is for those of both that lie in Google Cloud Storage; `from_key` is for the source
    /// alone.
    pub(super) fn of_both(
        &self,
        from: &str,
        to: &str,
        from_key: Option<&PathBuf>,
    ) -> Result<(StoreConfig, StoreConfig), ConfigError> {
        let is_gcs = |url: &str| url.starts_with("gs:");
        let (key, without) = (self.encryption_key_file.as_ref(), Self::default());
        let source = match is_gcs(from) {
            true => self.of_store(from, from_key.or(key), false)?,
            false => without.of_store(from, from_key, false)?,
        };
        let target = match (is_gcs(from), is_gcs(to)) {
            // Those that the source uses are no error at the target.
            (true, false) => {
                let left = Self {
                    kms_key: self.kms_key.clone(),
                    storage_class: self.storage_class,
                    ..without
                };
                left.of_store(to, None, true)?
            }
            _ => self.of_store(to, key, true)?,
        };
        Ok((source, target))
    }
}

impl Store {
    /// Reads the key file. It is read once, because another key could not read what this one has written.
    pub(super) fn lower(&self, gcs: &Gcs) -> Result<StoreConfig, ConfigError> {
        gcs.of_store(&self.store, gcs.encryption_key_file.as_ref(), true)
    }

    /// The archive that lies there.
    pub(super) async fn open(&self, gcs: &Gcs) -> Result<Archive, Failure> {
        let store = store::open_with(&self.lower(gcs)?).await?;
        Ok(Archive::open(store).await?)
    }

    /// The archive that lies there, or the place of a cluster, with how it was opened.
    pub(super) async fn open_any(&self, gcs: &Gcs) -> Result<Stored, Failure> {
        let config = self.lower(gcs)?;
        let store = store::open_with(&config).await?;
        match Archive::open(store.clone()).await {
            Ok(archive) => Ok(Stored::Archive(archive)),
            Err(error @ ArchiveError::NotAnArchive { .. }) => {
                match ClusterPlace::open(store).await? {
                    Some(place) => Ok(Stored::Cluster(place, config)),
                    None => Err(error.into()),
                }
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// What lies in a store.
pub(super) enum Stored {
    /// The archive of one server.
    Archive(Archive),
    /// A cluster.
    Cluster(ClusterPlace, StoreConfig),
}

/// How a report is printed.
#[derive(Debug, Args)]
pub(super) struct Output {
    /// Print JSON, for scripts
    #[arg(long, env = "BACKFEED_JSON", value_parser = clap::builder::BoolishValueParser::new(), help_heading = OUTPUT)]
    pub(super) json: bool,

    /// When the verb began.
    #[arg(skip = Instant::now())]
    begun: Instant,
}

impl Output {
    /// `text`: the report for people.
    pub(super) fn print<R: Serialize>(
        &self,
        report: &R,
        text: impl FnOnce(&R) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            return print_json(&self.answer(report));
        }
        print(&text(report))
    }

    /// What every JSON answer has around it.
    pub(super) fn answer<R: Serialize>(&self, report: R) -> Answer<R> {
        Answer {
            format: FORMAT,
            backfeed_version: version::NUMBER,
            duration_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            report,
        }
    }
}

/// The version of all JSON. Its names are part of the interface: fields are added, never renamed or removed while this stays.
/// Instants are Unix milliseconds (`…_unix_ms`), lengths of time have their unit in the name, sizes are bytes; what is not known
/// is null.
const FORMAT: u32 = 1;

/// A JSON answer.
#[derive(Debug, Serialize)]
pub(super) struct Answer<R> {
    format: u32,
    backfeed_version: &'static str,
    /// How long the verb took.
    duration_ms: u64,
    #[serde(flatten)]
    report: R,
}

/// Memory of a command that looks at keys and does not work in stages. More than this needs the flag.
pub(super) const KEYS_MEMORY: usize = 1 << 30;

/// What a look into a store may show, and take.
#[derive(Debug, Args)]
pub(super) struct Bounds {
    /// Show at most this many elements of a collection, or keys; 0: all
    #[arg(
        long,
        env = "BACKFEED_LIMIT",
        value_name = "N",
        default_value = "1000",
        help_heading = "Options"
    )]
    limit: usize,

    /// Memory for the keys that the log touches, at most [default: 1GiB, or what the limit of the cgroup leaves]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size, help_heading = "Options")]
    memory_limit: Option<usize>,
}

/// Bytes of memory for the keys that the log touches, in a command that ends: `wanted`, or `most`, or the part of `most` that the
/// limit of the cgroup leaves.
pub(super) fn keys_memory(wanted: Option<usize>, most: usize) -> usize {
    wanted.unwrap_or_else(|| Budget::new(None, cgroup_memory_limit()).keys(most))
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
    /// The point: `latest`, `2026-11-29 02:57:25` or `02:57:26` (UTC), RFC 3339, `yesterday`, an age such as `5m`, Unix seconds
    /// or milliseconds, or `offset:N` [default: latest]
    #[arg(
        long,
        env = "BACKFEED_AT",
        value_name = "WHEN",
        conflicts_with = "offset",
        help_heading = POINT
    )]
    pub(super) at: Option<String>,

    /// The point as an offset of the history; the same as --at offset:N
    #[arg(
        long,
        env = "BACKFEED_OFFSET",
        value_name = "N",
        alias = "to-offset",
        help_heading = POINT
    )]
    pub(super) offset: Option<u64>,

    /// The history, if it is not the latest one (see `backfeed list`)
    #[arg(
        long,
        env = "BACKFEED_HISTORY",
        value_name = "ID",
        help_heading = POINT
    )]
    pub(super) history: Option<ReplId>,
}

impl Point {
    pub(super) fn recovery_target(
        &self,
        now_unix_ms: i64,
    ) -> Result<RecoveryTarget, RecoveryError> {
        match (self.at.as_deref(), self.offset) {
            (_, Some(offset)) => Ok(RecoveryTarget::Offset(offset)),
            (Some(at), None) => Ok(RecoveryTarget::parse(at, now_unix_ms)?),
            (None, None) => Ok(RecoveryTarget::Latest),
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
    /// File with the server's password. It is read for every connection
    #[arg(
        long,
        env = "BACKFEED_REDIS_PASSWORD_FILE",
        value_name = "FILE",
        help_heading = LOGIN
    )]
    redis_password_file: Option<PathBuf>,

    /// rediss://: trust the authorities in this PEM file, instead of the system's. This file and the next two are read for
    /// every connection
    #[arg(
        long,
        env = "BACKFEED_TLS_CA",
        value_name = "FILE",
        help_heading = LOGIN
    )]
    tls_ca: Option<PathBuf>,

    /// rediss://: our certificate (PEM), for a server that wants one
    #[arg(
        long,
        env = "BACKFEED_TLS_CERT",
        value_name = "FILE",
        requires = "tls_key",
        help_heading = LOGIN
    )]
    tls_cert: Option<PathBuf>,

    /// rediss://: the private key of --tls-cert (PEM)
    #[arg(
        long,
        env = "BACKFEED_TLS_KEY",
        value_name = "FILE",
        requires = "tls_cert",
        help_heading = LOGIN
    )]
    tls_key: Option<PathBuf>,

    /// rediss://: the name in the server's certificate [default: the host of the URL]
    #[arg(
        long,
        env = "BACKFEED_TLS_SERVER_NAME",
        value_name = "NAME",
        help_heading = LOGIN
    )]
    tls_server_name: Option<String>,
}

impl Login {
    /// The nodes of a cluster, with how to log in to them.
    pub(super) fn to_all(&self, cluster: Cluster, flag: &str) -> Result<Cluster, ConfigError> {
        let seeds = cluster.seeds.into_iter().map(|seed| self.to(seed, flag));
        Ok(Cluster {
            seeds: seeds.collect::<Result<_, _>>()?,
        })
    }

    /// The server, with how to log in to it; `flag` is where its URL came from.
    pub(super) fn to(&self, source: Source, flag: &str) -> Result<Source, ConfigError> {
        source
            .with_password_file(self.redis_password_file.clone())
            .map_err(|error| error.of("--redis-password-file"))?
            .with_tls(self.tls())
            .map_err(|error| error.of(flag))
    }

    /// The same for servers that Sentinels name.
    fn by(&self, sentinels: Sentinels, flag: &str) -> Result<Sentinels, ConfigError> {
        sentinels
            .with_password_file(self.redis_password_file.clone())
            .map_err(|error| error.of("--redis-password-file"))?
            .with_tls(&self.tls())
            .map_err(|error| error.of(flag))
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

/// Which servers backfeed serves as their master.
#[derive(Debug, Args)]
pub(super) struct Serving {
    /// File with the password that the server must give to backfeed as its master (its `masterauth`). It is read for every
    /// connection. --listen beyond loopback needs this password, or --listen-tls-client-ca
    #[arg(long, env = "BACKFEED_LISTEN_PASSWORD_FILE", value_name = "FILE", help_heading = SERVING)]
    listen_password_file: Option<PathBuf>,

    /// The user that it must give with that password (its `masteruser`) [default: any, or none]
    #[arg(
        long,
        env = "BACKFEED_LISTEN_USER",
        value_name = "NAME",
        requires = "listen_password_file", help_heading = SERVING)]
    listen_user: Option<String>,

    /// Serve by TLS, as a server with `tls-replication yes` wants it: our certificate (PEM). This file and the next two are
    /// read for every connection
    #[arg(
        long,
        env = "BACKFEED_LISTEN_TLS_CERT",
        value_name = "FILE",
        requires = "listen_tls_key", help_heading = SERVING)]
    listen_tls_cert: Option<PathBuf>,

    /// The private key of --listen-tls-cert (PEM)
    #[arg(
        long,
        env = "BACKFEED_LISTEN_TLS_KEY",
        value_name = "FILE",
        requires = "listen_tls_cert", help_heading = SERVING)]
    listen_tls_key: Option<PathBuf>,

    /// Serve only a server that presents a certificate signed by the authorities in this PEM file
    #[arg(
        long,
        env = "BACKFEED_LISTEN_TLS_CLIENT_CA",
        value_name = "FILE",
        requires = "listen_tls_cert", help_heading = SERVING)]
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
    #[arg(long, env = "BACKFEED_REDIS", value_name = "URL", help_heading = REQUIRED)]
    redis: String,

    /// Serve /healthz, /readyz and /metrics at this address, such as 127.0.0.1:9390, localhost:9390, or :9390 for all
    /// addresses. They show no data
    #[arg(long, env = "BACKFEED_HTTP", value_name = "ADDR:PORT", value_parser = str::parse::<HttpAddr>, help_heading = CAPTURE)]
    pub(super) http: Option<HttpAddr>,

    /// Store what was received after this time at the latest
    #[arg(long, env = "BACKFEED_FLUSH_INTERVAL", value_name = "TIME", default_value = "1s",
          value_parser = parse_duration, help_heading = CAPTURE)]
    flush_interval: Duration,

    /// Store a segment when it has this many bytes, before its time
    #[arg(long, env = "BACKFEED_SEGMENT_SIZE", value_name = "SIZE", default_value = "8MiB",
          value_parser = parse_size, help_heading = CAPTURE)]
    segment_size: usize,

    /// Acknowledge to the master (and so to WAIT) what is `stored` or what is `received`
    #[arg(long, env = "BACKFEED_ACK", value_name = "stored|received", default_value = "stored",
          value_parser = str::parse::<AckPolicy>, help_heading = CAPTURE)]
    ack: AckPolicy,

    /// After SIGTERM, take at most this long to store and acknowledge the rest
    #[arg(long, env = "BACKFEED_GRACE", value_name = "TIME", default_value = "10s",
          value_parser = parse_duration, help_heading = CAPTURE)]
    pub(super) grace: Duration,

    #[command(flatten)]
    memory: Memory,

    /// How often to create a base (snapshot) from the last one and the log, if something was written; `never`: only by hand
    #[arg(long, env = "BACKFEED_CONSOLIDATE_EVERY", value_name = "TIME", default_value = "1h",
          value_parser = |text: &str| config::parse_every(text).map(Every), help_heading = NEW_BASES)]
    consolidate_every: Every,

    /// Create a base also when the log since the last one has this many percent of its size
    #[arg(
        long,
        env = "BACKFEED_CONSOLIDATE_SHARE",
        value_name = "PERCENT",
        default_value_t = 50,
        value_parser = clap::value_parser!(u32).range(1..),
        help_heading = NEW_BASES
    )]
    consolidate_share: u32,

    /// Merge the segments of the log into fewer, longer objects, minutes after they were stored; `never`: only by hand
    #[arg(long, env = "BACKFEED_MERGE", value_name = "always|never", default_value = "always",
          value_parser = |text: &str| config::parse_merge(text).map(Merging), help_heading = NEW_BASES)]
    merge: Merging,

    #[command(flatten)]
    retention: Retention,

    #[command(flatten)]
    drill: Drill,

    #[command(flatten)]
    login: Login,
}

/// What a service deletes by itself.
#[derive(Debug, Args)]
struct Retention {
    /// Delete what is older than this before the newest point, a day after it was marked [default: delete nothing]
    #[arg(long, env = "BACKFEED_KEEP", value_name = "TIME", value_parser = parse_keep, help_heading = RETENTION)]
    keep: Option<Duration>,

    #[command(flatten)]
    more: KeepMore,

    /// Delete segments of the log hours after they were merged
    #[arg(long, env = "BACKFEED_DELETE_SEGMENTS", value_parser = clap::builder::BoolishValueParser::new(), help_heading = RETENTION)]
    delete_segments: bool,

    /// How often to look for what has expired
    #[arg(long, env = "BACKFEED_EXPIRE_EVERY", value_name = "TIME", default_value = "12h",
          value_parser = parse_duration, help_heading = RETENTION)]
    expire_every: Duration,
}

/// Restores that a service tries by itself.
#[derive(Debug, Args)]
struct Drill {
    /// How often to try a restore of the latest point on a server that is started for it, as `backfeed drill` does. This takes
    /// memory for twice the data [default: never]
    #[arg(long, env = "BACKFEED_DRILL_EVERY", value_name = "TIME", value_parser = parse_duration, help_heading = DRILL)]
    drill_every: Option<Duration>,

    /// The server to start for --drill-every [default: redis-server or valkey-server, as PATH finds them; without any, values are
    /// read and not compared]
    #[arg(long, env = "BACKFEED_DRILL_SERVER", value_name = "FILE", requires = "drill_every", help_heading = DRILL)]
    drill_server: Option<PathBuf>,

    /// Where --drill-every puts an RDB of the data, uncompressed [default: the directory for temporary files]
    #[arg(long, env = "BACKFEED_DRILL_DIR", value_name = "DIR", requires = "drill_every", help_heading = DRILL)]
    drill_dir: Option<PathBuf>,
}

/// What is kept beside the points of the last time.
#[derive(Debug, Args)]
pub(super) struct KeepMore {
    /// Keep the newest base of each of the last N days that have one
    #[arg(
        long,
        env = "BACKFEED_KEEP_DAILY",
        value_name = "N",
        default_value = "0",
        requires = "keep",
        help_heading = RETENTION
    )]
    keep_daily: u32,

    /// Keep the newest base of each of the last N weeks that have one
    #[arg(
        long,
        env = "BACKFEED_KEEP_WEEKLY",
        value_name = "N",
        default_value = "0",
        requires = "keep",
        help_heading = RETENTION
    )]
    keep_weekly: u32,

    /// Keep the newest base of each of the last N months that have one
    #[arg(
        long,
        env = "BACKFEED_KEEP_MONTHLY",
        value_name = "N",
        default_value = "0",
        requires = "keep",
        help_heading = RETENTION
    )]
    keep_monthly: u32,

    /// Keep a history that lost for so long after another one took its place
    #[arg(long, env = "BACKFEED_KEEP_SUPERSEDED", value_name = "TIME", value_parser = parse_keep, default_value = "30d",
          requires = "keep", help_heading = RETENTION)]
    keep_superseded: Duration,
}

impl KeepMore {
    /// With every point of `points` before the newest one.
    pub(super) fn policy(&self, points: Duration) -> KeepPolicy {
        KeepPolicy {
            points,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
            monthly: self.keep_monthly,
            superseded: self.keep_superseded,
        }
    }
}

/// Memory and disk of a service.
#[derive(Debug, Args)]
struct Memory {
    /// Memory for the whole process [default: the limit of its cgroup, but at most 1GiB; without a limit 256MiB]
    #[arg(long, env = "BACKFEED_MEMORY_BUDGET", value_name = "SIZE", value_parser = parse_size, help_heading = MEMORY)]
    memory_budget: Option<usize>,

    /// Part of --memory-budget for the feed that was received and is not yet stored [default: 64MiB of 256MiB]
    // The verbs that end have a --memory-limit, which means something else.
    #[arg(long, env = "BACKFEED_FEED_MEMORY", value_name = "SIZE", value_parser = parse_size, alias = "memory-limit", help_heading = MEMORY)]
    feed_memory: Option<usize>,

    /// Part of --memory-budget for the keys that the log touches while a base is created; more keys are done in stages
    /// [default: 96MiB of 256MiB]
    #[arg(long, env = "BACKFEED_CONSOLIDATE_MEMORY", value_name = "SIZE", value_parser = parse_size, help_heading = MEMORY)]
    consolidate_memory: Option<usize>,

    /// Directory for feed that does not fit into memory while the store is slow or unreachable [default: none]
    #[arg(
        long,
        env = "BACKFEED_SPOOL_DIR",
        value_name = "DIR",
        help_heading = MEMORY
    )]
    spool_dir: Option<PathBuf>,

    /// Disk space for feed in --spool-dir, at most
    #[arg(long, env = "BACKFEED_SPOOL_LIMIT", value_name = "SIZE", default_value = "1GiB",
          value_parser = parse_size, help_heading = MEMORY)]
    spool_limit: usize,
}

/// How often; none: never.
#[derive(Debug, Clone, Copy)]
struct Every(Option<Duration>);

/// Is the log merged?
#[derive(Debug, Clone, Copy)]
struct Merging(bool);

impl Capture {
    fn budget(&self) -> Budget {
        Budget::new(self.memory.memory_budget, cgroup_memory_limit())
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            segment_size: self.segment_size,
            feed: self.memory.feed_memory,
            consolidation: self.memory.consolidate_memory,
        }
    }

    fn shares(&self) -> Shares {
        self.budget().shares(self.wanted())
    }

    /// How the memory is divided, or what is wrong with that.
    pub(super) fn memory(&self) -> Result<String, String> {
        let budget = self.budget();
        match budget.warning(self.wanted()) {
            Some(warning) => Err(warning),
            None => Ok(format!("of {budget}: {}", self.shares())),
        }
    }

    /// Logs it.
    pub(super) fn log_memory(&self) {
        match self.memory() {
            Err(warning) => tracing::warn!("{}", settings::in_flags(&warning)),
            Ok(division) => tracing::info!("{}", settings::in_flags(&division)),
        }
    }

    pub(super) fn consolidate(&self) -> ConsolidateConfig {
        ConsolidateConfig {
            every: self.consolidate_every.0,
            share: self.consolidate_share,
            memory_limit: self.shares().consolidation,
            merge: self.merge.0,
        }
    }

    pub(super) fn retention(&self) -> RetentionConfig {
        let Retention {
            keep,
            more,
            delete_segments,
            expire_every,
        } = &self.retention;
        RetentionConfig {
            keep: keep.map(|points| more.policy(points)),
            delete_segments: *delete_segments,
            every: *expire_every,
        }
    }

    pub(super) fn drill(&self) -> DrillConfig {
        let every = self.drill.drill_every;
        #[expect(clippy::disallowed_methods)] // where the system looks for programs
        let path = std::env::var_os("PATH").unwrap_or_default();
        DrillConfig {
            every,
            server: self.drill.drill_server.clone(),
            path: match every {
                Some(_) => std::env::split_paths(&path).collect(),
                None => Vec::new(),
            },
            scratch_dir: self.drill.drill_dir.clone(),
        }
    }

    /// One server.
    pub(super) fn source(&self) -> Result<Source, ConfigError> {
        let source = self.redis.parse();
        self.login.to(
            source.map_err(|error: ConfigError| error.of("--redis"))?,
            "--redis",
        )
    }

    /// One server, or the master that the Sentinels name.
    pub(super) fn upstream(&self) -> Result<Upstream, ConfigError> {
        let upstream: Result<Upstream, ConfigError> = self.redis.parse();
        match upstream.map_err(|error| error.of("--redis"))? {
            Upstream::Server(source) => self.login.to(source, "--redis").map(Upstream::Server),
            Upstream::Sentinels(sentinels) => {
                self.login.by(sentinels, "--redis").map(Upstream::Sentinels)
            }
            // Only `serve` has these.
            shard @ Upstream::Shard(_) => Ok(shard),
        }
    }

    pub(super) fn lower(&self) -> Result<CaptureConfig, ConfigError> {
        CaptureConfig {
            flush_interval: self.flush_interval,
            idle_interval: IDLE_INTERVAL,
            segment_size: self.segment_size,
            memory_limit: self.shares().feed,
            spool: self.memory.spool_dir.clone().map(|dir| SpoolConfig {
                dir,
                limit: self.memory.spool_limit as u64,
            }),
            ack: self.ack,
        }
        .checked()
    }
}
