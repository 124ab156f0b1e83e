//! `backfeed restore`: a point of a history into a running server, an append-only directory or an RDB file.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};

use super::bars::Bars;
use super::{Exit, Failure, flags, print, print_json};
use crate::archive::Archive;
use crate::config::{ConfigError, Dest, KeysDest, RestoreConfig, parse_size};
use crate::position::{Offset, ReplId};
use crate::rebuild::{Selection, TYPES};
use crate::restore::{self, AofLayout, KeysRequest, Listener, Report, Request, RestoreError, When};
use crate::status::unix_ms_now;
use crate::store;

/// Restore any stored point in time to a running server, an append-only directory or an RDB file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// redis://[user[:password]@]host[:port] (a running server; rediss:// for TLS), aof:DIR (append-only files for a server whose
    /// `dir` is DIR) or FILE.rdb; with --keys also resp:FILE (RESTORE commands for redis-cli --pipe)
    // Text for the same reason as --redis.
    #[arg(long, env = "BACKFEED_TO", value_name = "DEST")]
    to: String,

    /// The point in time: RFC 3339, `10m ago`, Unix seconds, or `latest` [default: latest]
    #[arg(
        long,
        env = "BACKFEED_AT",
        value_name = "WHEN",
        conflicts_with = "offset"
    )]
    at: Option<String>,

    /// The point as an offset of the history
    #[arg(long, env = "BACKFEED_OFFSET", value_name = "N")]
    offset: Option<u64>,

    /// The history to restore, when it is not the latest one or the store holds several that could be (see `backfeed
    /// list`)
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    /// Serve the target under the original replication id and offset, as the sidecar does, so that it continues the
    /// history. Without it the target gets a fresh id and is a fork
    #[arg(long, env = "BACKFEED_CONTINUE_HISTORY",
          value_parser = clap::builder::BoolishValueParser::new())]
    continue_history: bool,

    /// Say what would be restored, from which objects, and touch nothing
    #[arg(long, env = "BACKFEED_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,

    /// Restore over the data that the target has
    #[arg(long, env = "BACKFEED_FORCE", value_parser = clap::builder::BoolishValueParser::new())]
    force: bool,

    /// Restore only the keys that match, as KEYS would find them (*, ?, [a-z], \ before a character that is meant as it is): to
    /// FILE.rdb, resp:FILE, or a server, which goes on serving and keeps its other keys
    #[arg(
        long,
        env = "BACKFEED_KEYS",
        value_name = "PATTERN",
        conflicts_with = "continue_history"
    )]
    keys: Option<OsString>,

    /// --keys: of this database alone [default: all]
    #[arg(long, env = "BACKFEED_DB", value_name = "N", requires = "keys")]
    db: Option<u32>,

    /// --keys: of this type alone
    #[arg(long = "type", env = "BACKFEED_TYPE", value_name = "TYPE", requires = "keys",
          value_parser = clap::builder::PossibleValuesParser::new(TYPES))]
    type_name: Option<String>,

    /// --keys: write over keys that the server has
    #[arg(long, env = "BACKFEED_REPLACE", requires = "keys",
          value_parser = clap::builder::BoolishValueParser::new())]
    replace: bool,

    /// Report as JSON
    #[arg(long, env = "BACKFEED_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,

    /// FILE.rdb, --keys: hold at most this much of the keys that the log touches in memory
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", default_value = "1GiB",
          value_parser = parse_size)]
    memory_limit: usize,

    #[command(flatten)]
    login: flags::Login,

    /// Where the target server finds backfeed as its master [default: the address that it can reach, a free port]
    #[arg(long, env = "BACKFEED_LISTEN", value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// Host and port by which the target reaches that address, where it is another one (NAT, containers)
    #[arg(long, env = "BACKFEED_ANNOUNCE", value_name = "HOST:PORT", value_parser = parse_announce)]
    announce: Option<(String, u16)>,

    #[command(flatten)]
    serving: flags::Serving,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

impl Args {
    fn lower(&self) -> Result<RestoreConfig, ConfigError> {
        let to = match self
            .to
            .parse()
            .map_err(|error: ConfigError| error.of_flag("--to"))?
        {
            Dest::Server(source) => Dest::Server(self.login.to(source, "--to")?),
            files => files,
        };
        RestoreConfig {
            to,
            at: self.at.clone(),
            offset: self.offset.map(Offset),
            history: self.history,
            continue_history: self.continue_history,
            dry_run: self.dry_run,
            force: self.force,
            json: self.json,
            memory_limit: self.memory_limit,
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
    let config = args.lower()?;
    let store = args.store.lower()?;
    let json = config.json;
    // A wrong --at is said before a store is looked at.
    let request = request(config, unix_ms_now())?;
    let archive = Archive::open(store::open_with(&store).await?).await?;
    let bars = Bars::new();
    let report = unless_interrupted(restore::restore(&archive, &request, &bars), &request).await;
    bars.finish();
    let report = report?;
    if json {
        return print_json(&report);
    }
    print(&report.to_string())
}

/// Chosen keys.
async fn run_keys(args: &Args, pattern: &[u8]) -> Result<(), Failure> {
    let dest: KeysDest = args
        .to
        .parse()
        .map_err(|error: ConfigError| error.of_flag("--to"))?;
    let target = match dest {
        KeysDest::Server(source) => KeysDest::Server(args.login.to(source, "--to")?),
        files => files,
    };
    let request = KeysRequest {
        when: when(args.at.as_deref(), args.offset.map(Offset), unix_ms_now())?,
        target,
        selection: Selection {
            pattern: pattern.to_vec(),
            db: args.db,
            type_name: args.type_name.clone(),
        },
        history: args.history,
        replace: args.replace,
        force: args.force,
        dry_run: args.dry_run,
        memory_limit: args.memory_limit,
    };
    let archive = Archive::open(store::open_with(&args.store.lower()?).await?).await?;
    let bars = Bars::new();
    let report = restore::restore_keys(&archive, &request, &bars).await;
    bars.finish();
    let report = report?;
    if args.json {
        return print_json(&report);
    }
    print(&report.to_string())
}

fn when(at: Option<&str>, offset: Option<Offset>, now_unix_ms: i64) -> Result<When, Failure> {
    Ok(match (at, offset) {
        (_, Some(offset)) => When::Offset(offset.0),
        (Some(at), None) => When::parse(at, now_unix_ms).map_err(RestoreError::from)?,
        (None, None) => When::Latest,
    })
}

/// A signal ends a restore as an error: nobody must take the target for restored.
async fn unless_interrupted(
    restore: impl Future<Output = Result<Report, RestoreError>>,
    request: &Request,
) -> Result<Report, Failure> {
    let listen = |kind| {
        signal(kind).map_err(|error| {
            let message = format!("cannot listen for signals: {error}");
            Failure::new(Exit::Error, message)
        })
    };
    let mut term = listen(SignalKind::terminate())?;
    let mut interrupt = listen(SignalKind::interrupt())?;
    let name = tokio::select! {
        biased;
        report = restore => return Ok(report?),
        _ = term.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    Err(Failure::new(Exit::Error, interrupted(name, request)))
}

/// What a restore that was cut off may have left.
fn interrupted(signal: &str, request: &Request) -> String {
    let left = match &request.target {
        _ if request.dry_run => "nothing was touched".to_owned(),
        Dest::Server(source) => format!(
            "{} may still be a replica of this restore, and takes no writes then: run the restore again with --force, or \
             `REPLICAOF NO ONE` there to open it as it is",
            source.addr()
        ),
        Dest::Aof(path) | Dest::RdbFile(path) => format!(
            "unfinished files may lie in {} under names with `.backfeed-`, which no server loads; run the restore again, which \
             replaces them",
            directory(&request.target, path).display()
        ),
    };
    format!("interrupted by {signal}: {left}")
}

/// Where unfinished files are.
fn directory<'a>(target: &Dest, path: &'a Path) -> &'a Path {
    match (target, path.parent()) {
        (Dest::Aof(_), _) => path,
        (_, Some(parent)) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn request(config: RestoreConfig, now_unix_ms: i64) -> Result<Request, Failure> {
    let when = when(config.at.as_deref(), config.offset, now_unix_ms)?;
    Ok(Request {
        target: config.to,
        when,
        history: config.history,
        service: None,
        force: config.force,
        dry_run: config.dry_run,
        continue_history: config.continue_history,
        aof_layout: AofLayout::default(),
        memory_limit: config.memory_limit,
        listener: Listener {
            listen: config.listen,
            announce: config.announce,
            admission: config.admission,
        },
        fork_id: ReplId::from_random(rand::random()),
        writer: format!("restore/{:016x}", rand::random::<u64>()),
        now_unix_ms,
    })
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

    fn to(target: &str) -> Request {
        let config = RestoreConfig::latest(target.parse().unwrap());
        request(config, 0).unwrap()
    }

    #[test]
    fn an_interrupted_restore_says_what_it_may_have_left() {
        for (target, wanted) in [
            ("redis://h:7", "h:7 may still be a replica"),
            ("aof:/data", "in /data under"),
            ("/data/x.rdb", "in /data under"),
            ("x.rdb", "in . under"),
        ] {
            let text = interrupted("SIGINT", &to(target));
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[tokio::test]
    async fn sigterm_ends_a_restore_as_an_error() {
        let request = to("redis://h:7");
        let pid = std::process::id().to_string();
        let endless = async {
            // By now the signal is listened for.
            let kill = std::process::Command::new("sh")
                .args(["-c", &format!("kill {pid}")])
                .status();
            assert!(kill.unwrap().success());
            std::future::pending().await
        };
        let failure = unless_interrupted(endless, &request).await.unwrap_err();
        assert_eq!(failure.exit(), Exit::Error);
        assert!(failure.to_string().contains("SIGTERM"), "{failure}");
    }
}
