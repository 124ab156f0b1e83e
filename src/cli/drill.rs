//! `backfeed drill`: proves that a restore works.

use std::fmt::Write;
use std::path::PathBuf;

use super::progress_bar::Bars;
use super::signals::unless_interrupted;
use super::{Exit, Failure, flags, version};
use crate::config::parse_size;
use crate::display::{Time, counted};
use crate::drill::{Compared, Report, Request, ServerProgram, drill, record};
use crate::monitoring::status::unix_ms_now;

const EXAMPLES: &str = "\
Examples:
  backfeed drill --store gs://my-bucket/shop
  backfeed drill --store gs://my-bucket/shop --at yesterday --server /usr/bin/valkey-server --json";

/// Prove that a restore works: restore a point to a server that is started for this, and compare every key and value
///
/// The server gets the snapshot and replays the log. A second one loads snapshot and log as one RDB. Both must hold the same.
/// They listen on loopback alone, with a password that nobody knows, and end with the drill. Without a server, each value of that
/// RDB is read, and two readers count its keys. What came of it is stored beside the base, and `list` shows it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// The server to start, of the version of the one that is backed up, or newer [default: redis-server or valkey-server, as PATH
    /// finds them; without any, values are read and not compared]
    #[arg(long, env = "BACKFEED_SERVER", value_name = "FILE")]
    server: Option<PathBuf>,

    /// Start no server, even if one is there
    #[arg(long, env = "BACKFEED_WITHOUT_SERVER", conflicts_with = "server",
          value_parser = clap::builder::BoolishValueParser::new())]
    without_server: bool,

    /// Fail (exit code 1) unless every key and value was compared
    #[arg(long, env = "BACKFEED_REQUIRE_ALL", value_parser = clap::builder::BoolishValueParser::new())]
    require_all: bool,

    /// Where to put an RDB of the data, uncompressed. It is deleted with the drill [default: the directory for temporary files]
    #[arg(long, env = "BACKFEED_SCRATCH_DIR", value_name = "DIR")]
    scratch_dir: Option<PathBuf>,

    /// Memory for the keys that the log touches, at most [default: 1GiB, or what the limit of the cgroup leaves]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,

    #[command(flatten)]
    point: flags::Point,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

impl Args {
    async fn server(&self) -> Result<Option<ServerProgram>, Failure> {
        if self.without_server {
            return Ok(None);
        }
        #[expect(clippy::disallowed_methods)] // where the system looks for programs
        let path = std::env::var_os("PATH").unwrap_or_default();
        let directories = std::env::split_paths(&path);
        let Some(server) = &self.server else {
            return Ok(ServerProgram::find(directories).await?);
        };
        // As a shell finds it.
        let named = match server.components().count() {
            1 if !server.exists() => directories
                .map(|it| it.join(server))
                .find(|it| it.is_file()),
            _ => None,
        };
        Ok(Some(
            ServerProgram::at(named.as_ref().unwrap_or(server)).await?,
        ))
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let now_unix_ms = unix_ms_now();
    let recovery_target = args.point.recovery_target(now_unix_ms)?;
    let server = args.server().await?;
    let is_without = server.is_none();
    let mut prefix = tempfile::Builder::new();
    prefix.prefix("backfeed-drill-");
    let scratch = match &args.scratch_dir {
        Some(dir) => prefix.tempdir_in(dir),
        None => prefix.tempdir(),
    };
    let scratch = scratch.map_err(|error| {
        let dir = args.scratch_dir.clone().unwrap_or_else(std::env::temp_dir);
        Failure::new(
            Exit::Error,
            format_args!(
                "cannot make a directory in {}: {error}. Choose another one",
                dir.display()
            ),
        )
    })?;
    let archive = args.store.open(&args.common.gcs).await?;
    let request = Request {
        recovery_target,
        history: args.point.history,
        server,
        dir: scratch.path().to_owned(),
        memory_limit: flags::keys_memory(args.memory_limit, flags::KEYS_MEMORY),
        now_unix_ms,
    };
    let bars = Bars::new();
    let tried = unless_interrupted(drill(&archive, &request, &bars), || {
        // The servers end with it, and the directory is deleted.
        "nothing is proved".to_owned()
    })
    .await;
    bars.finish();
    let mut report = tried?;
    if is_without && !args.without_server {
        let why = "no redis-server and no valkey-server was found in PATH";
        report.compared_why.get_or_insert(why.to_owned());
    }
    let writer = format!("backfeed {}", version::NUMBER);
    if let Err(error) = record(&archive, &report, &writer, unix_ms_now()).await {
        report.restore.notes.push(format!(
            "the verdict could not be stored, and `list` will not show it: {error}"
        ));
    }
    args.common.output.print(&report, for_people)?;
    if report.different_keys > 0 {
        let keys = counted(report.different_keys, "key");
        return Err(Failure::new(
            Exit::Redis,
            format_args!(
                "{keys} differ between the two ways to restore this point: keep the archive, and report this"
            ),
        ));
    }
    if args.require_all && report.compared != Compared::All {
        let why = report
            .compared_why
            .as_deref()
            .unwrap_or("no server was started");
        return Err(Failure::new(
            Exit::Error,
            format_args!("not every key and value was compared: {why}"),
        ));
    }
    Ok(())
}

fn for_people(report: &Report) -> String {
    let mut text = String::new();
    let restore = &report.restore;
    let at = restore.end_unix_ms.map(|at| format!(", {}", Time(at)));
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{}: history {}, offset {}{}",
        restore.archive,
        restore.end_history,
        restore.end_offset,
        at.unwrap_or_default()
    );
    let into = report.server.as_deref().unwrap_or("an RDB file");
    let _ = writeln!(
        text,
        "restored to {into} in {:.1} s",
        report.restore_ms as f64 / 1000.0
    );
    let all = restore.keys.values().copied().fold(0, u64::saturating_add);
    let _ = writeln!(text, "  {} in all", counted(all, "key"));
    for (db, keys) in &restore.keys {
        let _ = writeln!(text, "  database {db}: {}", counted(*keys, "key"));
    }
    let compared = match report.compared {
        Compared::All => {
            "every key, its value and its expiry are the same on a second server, which was given one RDB"
        }
        Compared::Nothing => {
            "the server took all of it and refused no command. Nothing could be compared"
        }
        Compared::Read => {
            "no server was started. Every value of the RDB can be read, and the numbers of keys are right"
        }
    };
    if report.different_keys == 0 {
        let _ = writeln!(text, "{compared}");
    }
    if let Some(why) = &report.compared_why {
        let _ = writeln!(text, "  {why}");
    }
    for difference in &report.differences {
        let _ = writeln!(
            text,
            "  DIFFERENT database {}, key {}: it {}",
            difference.db, difference.key, difference.what
        );
    }
    for note in &restore.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    text
}
