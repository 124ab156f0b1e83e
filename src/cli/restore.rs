//! `backfeed restore`: a point of a history into a running server, an append-only directory or an RDB file.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::flags::Stored;
use super::progress_bar::Bars;
use super::signals::unless_interrupted;
use super::{Failure, flags};
use crate::archive::{ClusterPlace, new_writer};
use crate::config::{
    ClusterDest, ConfigError, Dest, KeysDest, RestoreConfig, ServeLog, StoreConfig, is_cluster,
    parse_addr, parse_size,
};
use crate::monitoring::status::unix_ms_now;
use crate::rebuild::{Selection, TYPES};
use crate::recovery::RecoveryTarget;
use crate::restore::{self, AofLayout, ClusterRequest, KeysRequest, ListenOptions, Request};
use crate::runtime;
use crate::wire::position::{Offset, ReplId};

const EXAMPLES: &str = "\
Examples:
  backfeed restore --store gs://my-bucket/shop --to redis://127.0.0.1:6379
  backfeed restore --store gs://my-bucket/shop --to rdb:shop.rdb --at '2026-11-29 02:57:25'
  backfeed restore --store gs://my-bucket/shop --to aof:/var/lib/redis --at 5m --dry-run
  backfeed restore --store gs://my-bucket/shop --to redis://127.0.0.1:6379 --at 5m --keys 'cart:*'
  backfeed restore --store gs://my-bucket/cluster --to redis+cluster://10.0.0.1:6379 --at 5m";

/// Restore any stored point in time to a running server, an append-only directory or an RDB file
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// redis://[user[:password]@]host[:port] (a running server; rediss:// for TLS), aof:DIR (append-only files for a server whose
    /// `dir` is DIR), rdb:FILE or FILE.rdb (one RDB file); with --keys also resp:FILE (RESTORE commands for redis-cli --pipe).
    /// A cluster's backup: redis+cluster://host[:port][,…], redis://host[:port], or rdb:DIR (a file for each shard)
    // Text for the same reason as --redis.
    #[arg(long, env = "BACKFEED_TO", value_name = "DEST", help_heading = flags::REQUIRED)]
    to: String,

    /// Say what would be restored, from which objects, and change nothing
    #[arg(long, env = "BACKFEED_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,

    /// Restore over the data that the target has. No variable sets this
    #[arg(long)]
    force: bool,

    /// Serve the target under the original replication id and offset, as the sidecar does, so that it continues the
    /// history. Without this flag the target gets a new id and is a fork
    #[arg(long, env = "BACKFEED_CONTINUE_HISTORY",
          value_parser = clap::builder::BoolishValueParser::new())]
    continue_history: bool,

    /// Memory for the keys that the log touches, at most: for an RDB file, --keys and --serve-log rebuild, and to know how many
    /// keys a server must have in the end [default: 1GiB, or what the limit of the cgroup leaves]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,

    #[command(flatten)]
    point: flags::Point,

    /// Restore only the keys that match, as KEYS would find them (*, ?, [a-z], \ before a character that is meant as it is): to
    /// an RDB file, resp:FILE, or a server, which goes on serving and keeps its other keys
    #[arg(
        long,
        env = "BACKFEED_KEYS",
        value_name = "PATTERN",
        conflicts_with = "continue_history",
        help_heading = CHOSEN_KEYS
    )]
    keys: Option<OsString>,

    /// --keys: only of this database [default: all]
    #[arg(long, env = "BACKFEED_DB", value_name = "N", requires = "keys", help_heading = CHOSEN_KEYS)]
    db: Option<u32>,

    /// --keys: only of this type
    #[arg(long = "type", env = "BACKFEED_TYPE", value_name = "TYPE", requires = "keys", help_heading = CHOSEN_KEYS,
          value_parser = clap::builder::PossibleValuesParser::new(TYPES))]
    type_name: Option<String>,

    /// --keys: write over keys that the server has. No variable sets this
    #[arg(long, requires = "keys", help_heading = CHOSEN_KEYS)]
    replace: bool,

    #[command(flatten)]
    login: flags::Login,

    /// Address where the target server finds backfeed as its master [default: the address that it can reach, a free port]
    #[arg(long, env = "BACKFEED_LISTEN", value_name = "ADDR:PORT", value_parser = parse_addr, help_heading = flags::SERVING)]
    listen: Option<SocketAddr>,

    /// Host and port by which the target reaches that address, if they are different (NAT, containers)
    #[arg(long, env = "BACKFEED_ANNOUNCE", value_name = "HOST:PORT", value_parser = parse_announce, help_heading = flags::SERVING)]
    announce: Option<(String, u16)>,

    /// In which form the server gets the log after the snapshot. `replay`: its commands follow the snapshot; `rebuild`: snapshot
    /// and log are made one RDB here, where every command can be applied within the memory limit; `auto`: the faster one
    #[arg(long, env = "BACKFEED_SERVE_LOG", value_name = "auto|replay|rebuild", default_value = "auto",
          value_parser = str::parse::<ServeLog>, help_heading = flags::SERVING)]
    serve_log: ServeLog,

    #[command(flatten)]
    serving: flags::Serving,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

const CHOSEN_KEYS: &str = "Chosen keys";

impl Args {
    fn memory_limit(&self) -> usize {
        flags::keys_memory(self.memory_limit, flags::KEYS_MEMORY)
    }

    fn lower(&self) -> Result<RestoreConfig, ConfigError> {
        let to = match self
            .to
            .parse()
            .map_err(|error: ConfigError| error.of("--to"))?
        {
            Dest::Server(source) => Dest::Server(self.login.to(source, "--to")?),
            files => files,
        };
        RestoreConfig {
            to,
            at: self.point.at.clone(),
            offset: self.point.offset.map(Offset),
            history: self.point.history,
            continue_history: self.continue_history,
            dry_run: self.dry_run,
            force: self.force,
            memory_limit: self.memory_limit(),
            serve_log: self.serve_log,
            listen: self.listen,
            announce: self.announce.clone(),
            admission: self.serving.lower()?,
        }
        .checked()
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    if let Some(pattern) = &args.keys {
        return run_keys(&args, pattern.as_bytes()).await;
    }
    let now = unix_ms_now();
    // A wrong --at is an error before the store is opened.
    let request = match is_cluster(&args.to) {
        true => None,
        false => Some(request(
            args.lower()?,
            args.point.recovery_target(now)?,
            now,
        )),
    };
    let archive = match args.store.open_any(&args.common.gcs).await? {
        Stored::Cluster(place, store) => return run_cluster(&args, &place, &store).await,
        Stored::Archive(archive) => archive,
    };
    let Some(request) = request else {
        return Err(ConfigError::new(
            "--to: this is the archive of one server, and goes to one server: redis://HOST:PORT. Only the backup of a cluster goes \
             to a cluster",
        )
        .into());
    };
    let bars = Bars::new();
    let restoring = restore::restore(&archive, &request, &bars);
    let report = unless_interrupted(restoring, || left(&request)).await;
    bars.finish();
    args.common.output.print(&report?, ToString::to_string)
}

/// All shards of a cluster at one instant.
async fn run_cluster(
    args: &Args,
    place: &ClusterPlace,
    store: &StoreConfig,
) -> Result<(), Failure> {
    let target: Result<ClusterDest, ConfigError> = args.to.parse();
    let target = match target.map_err(|error| error.of("--to"))? {
        ClusterDest::Server(source) => ClusterDest::Server(args.login.to(source, "--to")?),
        ClusterDest::Cluster(cluster) => ClusterDest::Cluster(args.login.to_all(cluster, "--to")?),
        files @ ClusterDest::Files(_) => files,
    };
    if args.continue_history || args.point.history.is_some() {
        return Err(ConfigError::new(
            "--continue-history and --history are for one server. A cluster has a history for each shard: name the archive of a \
             shard, STORE/shards/NAME",
        )
        .into());
    }
    let now_unix_ms = unix_ms_now();
    let request = ClusterRequest {
        target,
        recovery_target: args.point.recovery_target(now_unix_ms)?,
        force: args.force,
        dry_run: args.dry_run,
        memory_limit: args.memory_limit(),
        now_unix_ms,
    };
    let bars = Bars::new();
    let restoring = restore::restore_cluster(place, store, &request, &bars);
    let report = unless_interrupted(restoring, || left_of_cluster(&request)).await;
    bars.finish();
    args.common.output.print(&report?, ToString::to_string)
}

/// Chosen keys.
async fn run_keys(args: &Args, pattern: &[u8]) -> Result<(), Failure> {
    let dest: KeysDest = args
        .to
        .parse()
        .map_err(|error: ConfigError| error.of("--to"))?;
    let target = match dest {
        KeysDest::Server(source) => KeysDest::Server(args.login.to(source, "--to")?),
        files => files,
    };
    let request = KeysRequest {
        recovery_target: args.point.recovery_target(unix_ms_now())?,
        target,
        selection: Selection {
            pattern: pattern.to_vec(),
            db: args.db,
            type_name: args.type_name.clone(),
            slots: None,
            functions: false,
        },
        history: args.point.history,
        replace: args.replace,
        force: args.force,
        dry_run: args.dry_run,
        memory_limit: args.memory_limit(),
    };
    let archive = args.store.open(&args.common.gcs).await?;
    let bars = Bars::new();
    let restoring = restore::restore_keys(&archive, &request, &bars);
    let report = unless_interrupted(restoring, || left_of_keys(&request)).await;
    bars.finish();
    args.common.output.print(&report?, ToString::to_string)
}

/// What a restore that was stopped may have left.
fn left(request: &Request) -> String {
    match &request.target {
        _ if request.dry_run => "nothing was touched".to_owned(),
        Dest::Server(source) => format!(
            "{} may still be a replica of this restore, and takes no writes then: run the restore again with --force, or \
             `REPLICAOF NO ONE` there to open it as it is",
            source.addr()
        ),
        Dest::Aof(directory) => unfinished(directory),
        Dest::RdbFile(path) => unfinished(directory_of(path)),
    }
}

/// The same for the restore of a cluster.
fn left_of_cluster(request: &ClusterRequest) -> String {
    match &request.target {
        _ if request.dry_run => "nothing was touched".to_owned(),
        ClusterDest::Files(directory) => unfinished(directory),
        target => format!(
            "some of the keys may be at {target} already, each of them whole: empty it and run the restore again, or run it \
             with --force"
        ),
    }
}

/// The same for a restore of chosen keys.
fn left_of_keys(request: &KeysRequest) -> String {
    match &request.target {
        _ if request.dry_run => "nothing was touched".to_owned(),
        KeysDest::Server(source) => format!(
            "some of the chosen keys may be at {} already, each of them whole: run the restore again with --replace",
            source.addr()
        ),
        KeysDest::RdbFile(path) | KeysDest::Resp(path) => unfinished(directory_of(path)),
    }
}

fn unfinished(directory: &Path) -> String {
    format!(
        "unfinished files may lie in {} under names with `.backfeed-`, which no server loads; run the restore again, which \
         replaces them",
        directory.display()
    )
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn request(config: RestoreConfig, recovery_target: RecoveryTarget, now_unix_ms: i64) -> Request {
    Request {
        target: config.to,
        recovery_target,
        history: config.history,
        service: None,
        force: config.force,
        dry_run: config.dry_run,
        continue_history: config.continue_history,
        aof_layout: AofLayout::default(),
        memory_limit: config.memory_limit,
        serve_log: config.serve_log,
        listen: ListenOptions {
            listen: config.listen,
            announce: config.announce,
            admission: config.admission,
        },
        fork_id: ReplId::from_random(runtime::random_bytes()),
        writer: new_writer("restore"),
        now_unix_ms,
    }
}

fn parse_announce(text: &str) -> Result<(String, u16), ConfigError> {
    let wrong = || ConfigError::new("write HOST:PORT, as the target reaches backfeed");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() {
        return Err(wrong());
    }
    Ok((host.to_owned(), port.parse().map_err(|_| wrong())?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::cli::Exit;
    use crate::restore::{Report, RestoreError};

    fn to(target: &str) -> Request {
        let config = RestoreConfig::latest(target.parse().unwrap());
        request(config, RecoveryTarget::Latest, 0)
    }

    fn keys_to(target: &str) -> KeysRequest {
        KeysRequest {
            target: target.parse().unwrap(),
            recovery_target: RecoveryTarget::Latest,
            selection: Selection {
                pattern: b"*".to_vec(),
                db: None,
                type_name: None,
                slots: None,
                functions: false,
            },
            history: None,
            replace: false,
            force: false,
            dry_run: false,
            memory_limit: 1 << 20,
        }
    }

    #[test]
    fn an_interrupted_restore_says_what_it_may_have_left() {
        for (target, wanted) in [
            ("redis://h:7", "h:7 may still be a replica"),
            ("aof:/data", "in /data under"),
            ("/data/x.rdb", "in /data under"),
            ("x.rdb", "in . under"),
        ] {
            let text = left(&to(target));
            assert!(text.contains(wanted), "{text}");
        }
        for (target, wanted) in [
            ("redis://h:7", "may be at h:7 already"),
            ("/data/x.rdb", "in /data under"),
            ("resp:x.resp", "in . under"),
        ] {
            let text = left_of_keys(&keys_to(target));
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[tokio::test]
    async fn sigterm_ends_a_restore_as_an_error() {
        let request = to("redis://h:7");
        let pid = std::process::id().to_string();
        let endless = async {
            // The handler of the signal is in place by now.
            let kill = std::process::Command::new("sh")
                .args(["-c", &format!("kill {pid}")])
                .status();
            assert!(kill.unwrap().success());
            std::future::pending().await
        };
        let interrupted =
            unless_interrupted::<Report, RestoreError>(endless, || left(&request)).await;
        let failure = interrupted.unwrap_err();
        assert_eq!(failure.exit(), Exit::Error);
        assert!(failure.to_string().contains("SIGTERM"), "{failure}");
    }
}
