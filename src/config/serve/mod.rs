//! `backfeed serve`: the sources of one process, as a file in TOML names them.
//!
//! The file holds no secret. Passwords come from files or from variables of the environment that it names.

mod file;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use toml::Spanned;

use self::file::{File, Service, Settings, line_of};
use super::{
    AckPolicy, Budget, CaptureConfig, Cluster, ConfigError, ConsolidateConfig, DrillConfig,
    Encryption, EncryptionKey, GcsOptions, HttpAddr, IDLE_INTERVAL, Identity, KEEP_SUPERSEDED,
    KeepPolicy, Prefer, RetentionConfig, Secret, Shard, Shares, SpoolConfig, StoreConfig, Tls,
    Upstream, Wanted, is_cluster, parse_name,
};

/// How long a service may store the rest after SIGTERM, if nothing else is said.
const GRACE: Duration = Duration::from_secs(10);
/// How much a spool may hold, if nothing else is said.
const SPOOL_LIMIT: u64 = 1 << 30;
/// Between two looks for what has expired, if nothing else is said.
const EXPIRE_EVERY: Duration = Duration::from_secs(12 * 3600);
/// A file with more problems than this is another kind of file.
const MOST_SHOWN: usize = 10;
/// The key of the server.
const SERVER: &str = "redis";
/// The key of its password.
const PASSWORD_FILE: &str = "redis_password_file";
/// Stands for the name of the source in paths and URLs.
const NAME: &str = "{name}";

/// The sources of a process, and what they share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServeConfig {
    /// What they share.
    pub service: ServiceConfig,
    /// By their names.
    pub sources: Vec<SourceConfig>,
    /// Clusters, each of whose shards becomes a source, by their names.
    pub clusters: Vec<ClusterConfig>,
    /// Where in the file the store of a source is said.
    pub lines: BTreeMap<String, Option<u64>>,
}

/// What the sources of a process share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceConfig {
    /// Where health and metrics are served.
    pub http: Option<HttpAddr>,
    /// Memory for the whole process. None: what its cgroup allows.
    pub memory_budget: Option<usize>,
    /// The part of it for feed that waits for the store.
    pub feed_memory: Option<usize>,
    /// The part of it for the making of bases.
    pub consolidate_memory: Option<usize>,
    /// How long to store the rest after SIGTERM.
    pub grace: Duration,
    /// How many full syncs may run at the same time.
    pub full_syncs: usize,
}

/// One source: a server, and where its archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceConfig {
    /// What it is called in the log, in `/readyz` and in metrics.
    pub name: String,
    /// The server.
    pub redis: Upstream,
    /// Its archive.
    pub store: StoreConfig,
    /// How to store what comes. Its memory is that of all sources: [`Self::within`].
    pub capture: CaptureConfig,
    /// When to make new bases of it.
    pub consolidate: ConsolidateConfig,
    /// What is deleted.
    pub retention: RetentionConfig,
    /// How often a restore is tried.
    pub drill: DrillConfig,
}

/// A cluster. What it says of a source holds for each of its shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// What it is called. The source of a shard is called `NAME/SHARD`.
    pub name: String,
    /// Nodes of it, and how to log in.
    pub cluster: Cluster,
    /// Which node of a shard is captured.
    pub prefer: Prefer,
    /// Its place, with the archives of all shards.
    pub store: StoreConfig,
    /// How to store what comes.
    pub capture: CaptureConfig,
    /// When to make new bases of it.
    pub consolidate: ConsolidateConfig,
    /// What is deleted.
    pub retention: RetentionConfig,
    /// How often a restore is tried.
    pub drill: DrillConfig,
}

impl ClusterConfig {
    /// The source of a shard, whose archive is at `url`.
    #[must_use]
    pub fn source(&self, shard: Shard, url: String) -> SourceConfig {
        SourceConfig {
            name: format!("{}/{}", self.name, shard.name),
            redis: Upstream::Shard(shard),
            store: StoreConfig {
                url,
                ..self.store.clone()
            },
            capture: self.capture.clone(),
            consolidate: self.consolidate.clone(),
            retention: self.retention,
            drill: self.drill.clone(),
        }
    }
}

/// What a table under `[sources]` names.
enum Named {
    Source(Box<SourceConfig>),
    Cluster(Box<ClusterConfig>),
}

impl SourceConfig {
    /// The same with the memory of the process, which all sources share.
    #[must_use]
    pub fn within(mut self, shares: &Shares) -> Self {
        self.capture.memory_limit = shares.feed;
        self.consolidate.memory_limit = shares.consolidation;
        self
    }
}

impl ServeConfig {
    /// Reads the text of a file. `variable` gives the value of a variable of the environment. Files with secrets must be readable.
    ///
    /// # Errors
    /// All that is wrong with the sources; if it is no TOML, or has unknown keys, the first such error.
    pub fn parse(
        text: &str,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Vec<FileProblem>> {
        let File {
            service,
            defaults,
            sources,
        } = file::read(text).map_err(|problem| vec![problem])?;
        let mut problems = Vec::new();
        if sources.is_empty() {
            problems.push(FileProblem {
                line: None,
                key: None,
                what: "it names no source: write a table for each, such as [sources.shop]"
                    .to_owned(),
            });
        }
        let service = service
            .lower(text)
            .map_err(|problem| problems.push(problem));
        let mut lowered = Self {
            service: service.unwrap_or_default(),
            sources: Vec::new(),
            clusters: Vec::new(),
            lines: BTreeMap::new(),
        };
        for (name, settings) in sources {
            let span = name.span();
            let reading = Reading {
                text,
                name: name.into_inner(),
                section: line_of(text, &span),
                variable,
            };
            let settings = settings.or(&defaults);
            let store_line = settings.store.as_ref().map(Spanned::span);
            let line = store_line.and_then(|span| line_of(text, &span));
            match reading.source(settings) {
                Ok(named) => {
                    lowered.lines.insert(reading.name, line);
                    match named {
                        Named::Source(source) => lowered.sources.push(*source),
                        Named::Cluster(cluster) => lowered.clusters.push(*cluster),
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        if let Err(problem) = lowered.check_memory() {
            problems.push(problem);
        }
        match problems.is_empty() {
            true => Ok(lowered),
            false => Err(problems),
        }
    }

    /// The memory of the process.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        let sources = self.sources.iter().map(|source| &source.capture);
        let clusters = self.clusters.iter().map(|cluster| &cluster.capture);
        let segments = sources.chain(clusters).map(|capture| capture.segment_size);
        Wanted {
            segment_size: segments
                .max()
                .unwrap_or(CaptureConfig::default().segment_size),
            feed: self.service.feed_memory,
            consolidation: self.service.consolidate_memory,
        }
    }

    /// How that is divided.
    #[must_use]
    pub fn shares(&self, budget: &Budget) -> Shares {
        budget.shares(self.wanted())
    }

    fn check_memory(&self) -> Result<(), FileProblem> {
        let Some(feed) = self.service.feed_memory else {
            return Ok(());
        };
        let config = CaptureConfig {
            segment_size: self.wanted().segment_size,
            memory_limit: feed,
            ..CaptureConfig::default()
        };
        let checked = config.checked().map(|_| ());
        checked.map_err(|error| FileProblem {
            line: None,
            key: Some("service".to_owned()),
            what: error.to_string(),
        })
    }
}

impl Default for ServiceConfig {
    fn default() -> Self {
        Self {
            http: None,
            memory_budget: None,
            feed_memory: None,
            consolidate_memory: None,
            grace: GRACE,
            full_syncs: 1,
        }
    }
}

impl Service {
    fn lower(self, text: &str) -> Result<ServiceConfig, FileProblem> {
        let default = ServiceConfig::default();
        if let Some(none) = self.full_syncs.as_ref().filter(|it| *it.get_ref() == 0) {
            return Err(FileProblem {
                line: line_of(text, &none.span()),
                key: Some("service.full_syncs".to_owned()),
                what: "must be 1 or more: without a full sync, no source could begin".to_owned(),
            });
        }
        let full_syncs = self.full_syncs.map(Spanned::into_inner);
        Ok(ServiceConfig {
            http: self.http.map(|it| it.0),
            memory_budget: self.memory_budget.map(|it| it.0),
            feed_memory: self.feed_memory.map(|it| it.0),
            consolidate_memory: self.consolidate_memory.map(|it| it.0),
            grace: self.grace.map_or(default.grace, |it| it.0),
            full_syncs: full_syncs
                .and_then(|it| usize::try_from(it).ok())
                .unwrap_or(default.full_syncs),
        })
    }
}

/// The table of one source while it is read.
struct Reading<'a> {
    text: &'a str,
    name: String,
    /// The line of its table.
    section: Option<u64>,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

/// A key of the table, and what is wrong with it.
type Wrong = (&'static str, ConfigError);

impl Reading<'_> {
    fn source(&self, settings: Settings) -> Result<Named, FileProblem> {
        let lines = Lines::of(self.text, &settings);
        self.lower(settings).map_err(|(key, error)| FileProblem {
            line: lines.0.get(key).copied().flatten().or(self.section),
            key: Some(match key {
                "" => format!("sources.{}", self.name),
                key => format!("sources.{}.{key}", self.name),
            }),
            what: error.to_string(),
        })
    }

    fn lower(&self, mut settings: Settings) -> Result<Named, Wrong> {
        parse_name(&self.name).map_err(|error| ("", error))?;
        let url = self.url(&mut settings)?;
        let prefer = settings.prefer.take().map(|it| it.into_inner().0);
        let server = match is_cluster(&url) {
            true => Err((
                self.cluster(&url, &mut settings)?,
                prefer.unwrap_or_default(),
            )),
            false => Ok(self.upstream(&url, &mut settings)?),
        };
        let store = self.store(&mut settings)?;
        let retention = retention(&settings)?;
        let drill = self.drill(&settings)?;
        let default = CaptureConfig::default();
        let spool_limit = settings
            .spool_limit
            .map_or(SPOOL_LIMIT, |it| it.into_inner().0 as u64);
        let spool_dir = settings.spool_dir.map(Spanned::into_inner);
        let capture = CaptureConfig {
            flush_interval: (settings.flush_interval)
                .map_or(default.flush_interval, |it| it.into_inner().0),
            idle_interval: IDLE_INTERVAL,
            segment_size: (settings.segment_size)
                .map_or(default.segment_size, |it| it.into_inner().0),
            // It is that of the process, and checked there.
            memory_limit: usize::MAX,
            spool: match spool_dir {
                Some(dir) => Some(SpoolConfig {
                    dir: self.expanded("spool_dir", &dir.to_string_lossy())?.into(),
                    limit: spool_limit,
                }),
                None => None,
            },
            ack: settings
                .ack
                .map_or(AckPolicy::default(), |it| it.into_inner().0),
        }
        .checked()
        .map_err(|error| ("", error))?;
        let default = ConsolidateConfig::default();
        let share = settings.consolidate_share.map(Spanned::into_inner);
        if share == Some(0) {
            let error = ConfigError::new("must be 1 or more");
            return Err(("consolidate_share", error));
        }
        let consolidate = ConsolidateConfig {
            every: (settings.consolidate_every).map_or(default.every, |it| it.into_inner().0),
            share: share.unwrap_or(default.share),
            memory_limit: usize::MAX,
            merge: settings.merge.map_or(default.merge, |it| it.into_inner().0),
        };
        let name = self.name.clone();
        Ok(match server {
            Ok(redis) => Named::Source(Box::new(SourceConfig {
                name,
                redis,
                store,
                capture,
                consolidate,
                retention,
                drill,
            })),
            Err((cluster, prefer)) => Named::Cluster(Box::new(ClusterConfig {
                name,
                cluster,
                prefer,
                store,
                capture,
                consolidate,
                retention,
                drill,
            })),
        })
    }

    fn url(&self, settings: &mut Settings) -> Result<String, Wrong> {
        let url = self.taken(SERVER, settings.redis.take())?;
        url.ok_or_else(|| {
            let error = ConfigError::new("the server is missing: write redis://HOST:PORT");
            (SERVER, error)
        })
    }

    fn cluster(&self, url: &str, settings: &mut Settings) -> Result<Cluster, Wrong> {
        let cluster: Cluster = url.parse().map_err(|error| (SERVER, error))?;
        if cluster.has_password() {
            return Err((SERVER, no_secret()));
        }
        let (file, variable) = self.password(settings)?;
        let cluster = match (file, variable) {
            (file @ Some(_), _) => cluster
                .with_password_file(file.as_ref())
                .map_err(|error| (PASSWORD_FILE, error))?,
            (None, Some(password)) => cluster.with_password(&password),
            (None, None) => cluster,
        };
        let tls = self.tls(settings)?;
        cluster.with_tls(&tls).map_err(|error| (SERVER, error))
    }

    fn upstream(&self, url: &str, settings: &mut Settings) -> Result<Upstream, Wrong> {
        let upstream: Upstream = url.parse().map_err(|error| (SERVER, error))?;
        if upstream.has_password() {
            return Err((SERVER, no_secret()));
        }
        let upstream = self.with_password(upstream, settings)?;
        let upstream = self.with_sentinel_login(upstream, settings)?;
        let tls = self.tls(settings)?;
        upstream.with_tls(&tls).map_err(|error| (SERVER, error))
    }

    fn tls(&self, settings: &mut Settings) -> Result<Tls, Wrong> {
        let path = |key, setting: Option<Spanned<String>>| {
            let path = self.taken(key, setting)?;
            Ok(path.map(PathBuf::from))
        };
        let cert = path("tls_cert", settings.tls_cert.take())?;
        let private = path("tls_key", settings.tls_key.take())?;
        let identity = match (cert, private) {
            (Some(cert), Some(key)) => Some(Identity { cert, key }),
            (None, None) => None,
            (Some(_), None) => return Err(("tls_cert", ConfigError::new("`tls_key` is missing"))),
            (None, Some(_)) => return Err(("tls_key", ConfigError::new("`tls_cert` is missing"))),
        };
        Ok(Tls {
            ca: path("tls_ca", settings.tls_ca.take())?,
            identity,
            server_name: self.taken("tls_server_name", settings.tls_server_name.take())?,
        })
    }

    fn with_password(
        &self,
        upstream: Upstream,
        settings: &mut Settings,
    ) -> Result<Upstream, Wrong> {
        let (file, variable) = self.password(settings)?;
        match (file, variable) {
            (file @ Some(_), _) => {
                let upstream = upstream.with_password_file(file);
                upstream.map_err(|error| (PASSWORD_FILE, error))
            }
            (None, Some(password)) => Ok(upstream.with_password(password)),
            (None, None) => Ok(upstream),
        }
    }

    /// The file with the password of the servers, or the password; never both.
    fn password(
        &self,
        settings: &mut Settings,
    ) -> Result<(Option<PathBuf>, Option<Secret>), Wrong> {
        let file = self.taken(PASSWORD_FILE, settings.redis_password_file.take())?;
        let variable = self.secret("redis_password_env", settings.redis_password_env.take())?;
        match file.is_some() && variable.is_some() {
            true => Err((PASSWORD_FILE, both())),
            false => Ok((file.map(PathBuf::from), variable)),
        }
    }

    fn with_sentinel_login(
        &self,
        upstream: Upstream,
        settings: &mut Settings,
    ) -> Result<Upstream, Wrong> {
        let (of_user, of_file) = ("sentinel_user", "sentinel_password_file");
        let user = self.taken(of_user, settings.sentinel_user.take())?;
        let file = self.taken(of_file, settings.sentinel_password_file.take())?;
        let variable = settings.sentinel_password_env.take();
        let variable = self.secret("sentinel_password_env", variable)?;
        let Upstream::Sentinels(sentinels) = upstream else {
            // They may be among the defaults, for the sources that have Sentinels.
            return Ok(upstream);
        };
        let sentinels = match (file, variable) {
            (Some(_), Some(_)) => return Err((of_file, both())),
            (file, None) => sentinels.with_login(user.as_deref(), file.map(PathBuf::from)),
            (None, Some(password)) => Ok(sentinels.with_login_password(user.as_deref(), &password)),
        };
        let sentinels = sentinels.map_err(|error| (of_file, error))?;
        Ok(Upstream::Sentinels(sentinels))
    }

    fn drill(&self, settings: &Settings) -> Result<DrillConfig, Wrong> {
        let every = settings.drill_every.as_ref().map(|it| it.get_ref().0);
        let path = |key: &'static str, setting: &Option<Spanned<PathBuf>>| match setting {
            None => Ok(None),
            Some(_) if every.is_none() => Err((
                key,
                ConfigError::new("`drill_every` is missing: say how often a restore is tried"),
            )),
            Some(path) => {
                let path = path.get_ref().to_string_lossy();
                Ok(Some(PathBuf::from(self.expanded(key, &path)?)))
            }
        };
        // Where the system looks for programs.
        let found_in = every.and_then(|_| (self.variable)("PATH"));
        Ok(DrillConfig {
            every,
            server: path("drill_server", &settings.drill_server)?,
            path: found_in.map_or_else(Vec::new, |path| std::env::split_paths(&path).collect()),
            scratch_dir: path("drill_dir", &settings.drill_dir)?,
        })
    }

    fn store(&self, settings: &mut Settings) -> Result<StoreConfig, Wrong> {
        let key = "store";
        let Some(url) = self.taken(key, settings.store.take())? else {
            let error = ConfigError::new(
                "the store is missing: write gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
                 file:///path. In [defaults], {name} stands for the name of the source",
            );
            return Err((key, error));
        };
        let of_key = "encryption_key_file";
        let file = self.taken(of_key, settings.encryption_key_file.take())?;
        let encryption = match (settings.kms_key.take(), file) {
            (Some(_), Some(_)) => {
                let error = ConfigError::new("there is `kms_key` as well: leave one out");
                return Err((of_key, error));
            }
            (Some(key), None) => Encryption::Managed(key.into_inner().0),
            (None, Some(path)) => {
                let key = EncryptionKey::from_file(path.as_ref());
                Encryption::Supplied(key.map_err(|error| (of_key, error))?)
            }
            (None, None) => Encryption::OfBucket,
        };
        StoreConfig {
            url,
            gcs: GcsOptions {
                encryption,
                storage_class: settings.storage_class.take().map(|it| it.into_inner().0),
                user_project: settings.user_project.take().map(|it| it.into_inner().0),
            },
        }
        .checked()
        .map_err(|error| (key, error))
    }

    /// The password in the variable that is named.
    fn secret(
        &self,
        key: &'static str,
        setting: Option<Spanned<String>>,
    ) -> Result<Option<Secret>, Wrong> {
        let Some(name) = self.taken(key, setting)? else {
            return Ok(None);
        };
        match (self.variable)(&name).filter(|value| !value.is_empty()) {
            Some(value) => Ok(Some(Secret::new(value))),
            None => Err((
                key,
                ConfigError::new(format!(
                    "the variable {name} is not set, or it is empty. A process gets its variables when it starts"
                )),
            )),
        }
    }

    fn taken(
        &self,
        key: &'static str,
        setting: Option<Spanned<String>>,
    ) -> Result<Option<String>, Wrong> {
        let text = setting.map(Spanned::into_inner);
        text.map(|text| self.expanded(key, &text)).transpose()
    }

    /// With the name of the source in place of `{name}`.
    fn expanded(&self, key: &'static str, text: &str) -> Result<String, Wrong> {
        let text = text.replace(NAME, &self.name);
        if text.contains(['{', '}']) {
            let error = ConfigError::new(format!(
                "only {NAME} may stand in braces: it is the name of the source"
            ));
            return Err((key, error));
        }
        if text.is_empty() {
            return Err((key, ConfigError::new("it is empty: leave it out")));
        }
        Ok(text)
    }
}

fn no_secret() -> ConfigError {
    ConfigError::new(
        "there is a password in the URL, and this file holds no secret: write it to a file or a variable, and name that \
         with redis_password_file or redis_password_env",
    )
}

fn both() -> ConfigError {
    ConfigError::new("a file and a variable are named for the same password: leave one out")
}

fn retention(settings: &Settings) -> Result<RetentionConfig, Wrong> {
    let number = |setting: &Option<Spanned<u32>>| setting.as_ref().map_or(0, |it| *it.get_ref());
    let points = settings.keep.as_ref().map(|it| it.get_ref().0);
    let alone = [
        ("keep_daily", settings.keep_daily.is_some()),
        ("keep_weekly", settings.keep_weekly.is_some()),
        ("keep_monthly", settings.keep_monthly.is_some()),
        ("keep_superseded", settings.keep_superseded.is_some()),
    ];
    if points.is_none()
        && let Some((key, _)) = alone.into_iter().find(|(_, is_set)| *is_set)
    {
        let error = ConfigError::new("`keep` is missing: say how long every point is kept");
        return Err((key, error));
    }
    let superseded = settings.keep_superseded.as_ref();
    let every = settings.expire_every.as_ref();
    Ok(RetentionConfig {
        keep: points.map(|points| KeepPolicy {
            points,
            daily: number(&settings.keep_daily),
            weekly: number(&settings.keep_weekly),
            monthly: number(&settings.keep_monthly),
            superseded: superseded.map_or(KEEP_SUPERSEDED, |it| it.get_ref().0),
        }),
        delete_segments: settings
            .delete_segments
            .as_ref()
            .is_some_and(|it| *it.get_ref()),
        every: every.map_or(EXPIRE_EVERY, |it| it.get_ref().0),
    })
}

/// Where keys stand that are checked after the file was read.
struct Lines(BTreeMap<&'static str, Option<u64>>);

impl Lines {
    fn of(text: &str, settings: &Settings) -> Self {
        let texts = [
            ("redis", &settings.redis),
            ("redis_password_file", &settings.redis_password_file),
            ("redis_password_env", &settings.redis_password_env),
            ("sentinel_user", &settings.sentinel_user),
            ("sentinel_password_file", &settings.sentinel_password_file),
            ("sentinel_password_env", &settings.sentinel_password_env),
            ("tls_ca", &settings.tls_ca),
            ("tls_cert", &settings.tls_cert),
            ("tls_key", &settings.tls_key),
            ("tls_server_name", &settings.tls_server_name),
            ("store", &settings.store),
            ("encryption_key_file", &settings.encryption_key_file),
        ];
        let lines = texts.into_iter().filter_map(|(key, setting)| {
            let span = setting.as_ref()?.span();
            Some((key, line_of(text, &span)))
        });
        Self(lines.collect())
    }
}

/// What is wrong with a file. It holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FileProblem {
    /// The line, from 1 on. None: it is about all of the file, or about what a default leaves out.
    pub line: Option<u64>,
    /// The key, with its table: `sources.shop.store`.
    pub key: Option<String>,
    /// What is wrong, and what to write instead.
    pub what: String,
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.what)
    }
}

/// Why a file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FileError {
    /// As it was named.
    pub path: String,
    /// One or more.
    pub problems: Vec<FileProblem>,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        for (number, problem) in self.problems.iter().take(MOST_SHOWN).enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            problem.fmt(f)?;
        }
        match self.problems.len().saturating_sub(MOST_SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
pub(crate) use self::file::{SERVICE_KEYS, SOURCE_KEYS};

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
