//! `backfeed consolidate`: a new base from the newest one and the log after it.

use std::fmt::Write as _;

use super::progress_bar::Bars;
use super::{Failure, flags};
use crate::config::parse_size;
use crate::consolidate::{Report, Request, Worth, consolidate};
use crate::display::counted;
use crate::monitoring::status::unix_ms_now;
use crate::recovery::{RecoveryError, When};
use crate::wire::position::ReplId;

/// Make a new base (snapshot) from the newest one and the log after it, without the server
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// The history, when it is not the latest one (see `backfeed list`)
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    /// Up to this point in time: RFC 3339, `10m ago`, Unix seconds, or `latest` [default: latest]
    #[arg(
        long,
        env = "BACKFEED_AT",
        value_name = "WHEN",
        conflicts_with = "to_offset"
    )]
    at: Option<String>,

    /// Up to this offset of the history
    #[arg(long, env = "BACKFEED_TO_OFFSET", value_name = "N")]
    to_offset: Option<u64>,

    /// Hold at most this much of the keys that the log touches in memory; more of them are done in stages, a base each
    /// [default: 256MiB, or what the limit of the cgroup leaves]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,

    #[command(flatten)]
    output: flags::Output,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

/// More of them are done in stages.
const KEYS_MEMORY: usize = 256 << 20;

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let now_unix_ms = unix_ms_now();
    let when = match (args.at.as_deref(), args.to_offset) {
        (_, Some(offset)) => When::Offset(offset),
        (Some(at), None) => When::parse(at, now_unix_ms).map_err(RecoveryError::from)?,
        (None, None) => When::Latest,
    };
    let archive = args.store.open().await?;
    let request = Request {
        history: args.history,
        service: None,
        when,
        memory_limit: flags::keys_memory(args.memory_limit, KEYS_MEMORY),
        worth: Worth::AnyLog,
        time_limit: None,
        now_unix_ms,
    };
    let bars = Bars::new();
    let report = consolidate(&archive, &request, &bars).await;
    bars.finish();
    args.output.print(&report?, text)
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
        "  log        {}, {} bytes, not to be replayed any more",
        counted(report.commands, "command"),
        report.log_bytes
    );
    let _ = writeln!(
        text,
        "  base       {}, {} bytes, stored in {} bytes",
        counted(report.keys, "key"),
        report.raw_bytes,
        report.stored_bytes
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
