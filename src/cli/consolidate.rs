//! `backfeed consolidate`: a new base from the newest one and the log after it.

use std::fmt::Write as _;

use super::progress_bar::Bars;
use super::{Failure, flags};
use crate::config::{Size, parse_size};
use crate::consolidate::{Report, Request, Worth, consolidate};
use crate::display::counted;
use crate::monitoring::status::unix_ms_now;

const EXAMPLES: &str = "\
Examples:
  backfeed consolidate --store gs://my-bucket/shop
  backfeed consolidate --store file:///backups/shop --at 1h";

/// Create a new base (snapshot) from the newest one and the log after it, without the server
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// Memory for the keys that the log touches, at most; more keys are done in stages, each of which creates a base
    /// [default: 256MiB, or what the limit of the cgroup leaves]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,

    #[command(flatten)]
    point: flags::Point,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

/// More keys than fit into it are done in stages.
const KEYS_MEMORY: usize = 256 << 20;

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let now_unix_ms = unix_ms_now();
    let recovery_target = args.point.recovery_target(now_unix_ms)?;
    let archive = args.store.open(&args.common.gcs).await?;
    let request = Request {
        history: args.point.history,
        service: None,
        recovery_target,
        memory_limit: flags::keys_memory(args.memory_limit, KEYS_MEMORY),
        worth: Worth::AnyLog,
        time_limit: None,
        now_unix_ms,
    };
    let bars = Bars::new();
    let report = consolidate(&archive, &request, &bars).await;
    bars.finish();
    args.common.output.print(&report?, text)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if report.bases == 0 {
        let _ = writeln!(
            text,
            "nothing to consolidate: the base at {} is the newest point",
            report.to
        );
        return text;
    }
    let _ = writeln!(
        text,
        "made the base at {} from the one at offset {}",
        report.to, report.from.offset
    );
    let _ = writeln!(
        text,
        "  log        {}, {}, not to be replayed any more",
        counted(report.commands, "command"),
        Size(report.log_bytes)
    );
    let _ = writeln!(
        text,
        "  base       {}, {}, stored in {}",
        counted(report.keys, "key"),
        Size(report.raw_bytes),
        Size(report.stored_bytes)
    );
    if report.bases > 1 {
        let _ = writeln!(
            text,
            "  stages     {}, as the memory limit asks for; each left a base",
            report.bases
        );
    }
    if let Some(stopped) = &report.stopped {
        let _ = writeln!(
            text,
            "  stopped    {stopped}. The log after it is kept and replayed by a restore; a new full sync makes a base behind it"
        );
    }
    text
}
