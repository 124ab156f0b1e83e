//! `backfeed expire`: deletes what a policy does not keep.

use std::fmt::Write as _;
use std::time::Duration;

use super::progress_bar::Bars;
use super::{Failure, flags};
use crate::archive::new_writer;
use crate::config::{Size, parse_keep};
use crate::display::{Time, counted};
use crate::expiry::{Expiry, Report, Request, expire};
use crate::monitoring::status::unix_ms_now;

const EXAMPLES: &str = "\
Examples:
  backfeed expire --store gs://my-bucket/shop --keep 7d
  backfeed expire --store gs://my-bucket/shop --keep 7d --keep-daily 30 --keep-monthly 12 --confirm";

/// Show what a policy does not keep; with --confirm, delete it a day later
///
/// A run marks what has expired, and deletes what earlier runs have marked a day ago or longer. Run it once a day.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    #[command(flatten)]
    keep: Keep,

    /// The source that wrote the latest history, where several sources write to one store (see `backfeed list`)
    #[arg(long, env = "BACKFEED_SOURCE", value_name = "HOST:PORT")]
    source: Option<String>,

    /// Do it. Otherwise nothing is changed
    // No variable: it is meant for one command.
    #[arg(long)]
    confirm: bool,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

/// What is kept.
#[derive(Debug, clap::Args)]
struct Keep {
    /// Keep every point of so long before the newest one
    #[arg(long, env = "BACKFEED_KEEP", value_name = "TIME", value_parser = parse_keep, help_heading = flags::REQUIRED)]
    keep: Duration,

    #[command(flatten)]
    more: flags::KeepMore,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let archive = args.store.open(&args.common.gcs).await?;
    let request = Request {
        policy: args.keep.more.policy(args.keep.keep),
        service: args.source,
        confirm: args.confirm,
        writer: new_writer("expire"),
        now_unix_ms: unix_ms_now(),
    };
    let bars = Bars::new();
    let report = expire(&archive, &request, &bars).await;
    bars.finish();
    args.common.output.print(&report?, text)
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", report.store);
    let _ = writeln!(text, "  keeps     {}", report.policy);
    if let (Some(tip), Some(at)) = (report.tip, report.tip_unix_ms) {
        let _ = writeln!(text, "  newest    {} ({tip})", Time(at));
    }
    if let (Some(oldest), Some(at)) = (report.oldest, report.oldest_unix_ms) {
        let _ = writeln!(text, "  oldest    {} ({oldest})", Time(at));
    }
    for expiry in &report.expires {
        let what = match report.confirmed {
            true => "expired",
            false => "expires",
        };
        line(&mut text, what, expiry);
    }
    for expiry in &report.goes {
        let what = match report.confirmed {
            true => "deleted",
            false => "goes",
        };
        line(&mut text, what, expiry);
    }
    let deleted = &report.deleted;
    if report.confirmed {
        let objects = counted(deleted.objects, "object");
        let bytes = Size(deleted.bytes);
        let _ = writeln!(text, "  deleted   {objects}, {bytes}");
    }
    if let Some(reason) = &deleted.denied_reason {
        let denied = counted(deleted.denied, "object");
        let _ = writeln!(
            text,
            "  denied    {denied}. The next run tries again: {reason}"
        );
    }
    if report.holds > 0 {
        let _ = writeln!(text, "  holds     {}", report.holds);
    }
    for note in &report.notes {
        let _ = writeln!(text, "  note      {note}");
    }
    let last = match (report.confirmed, report.expires.is_empty()) {
        (_, true) if report.goes.is_empty() => "nothing expires",
        (true, true) => "done",
        (true, false) => "done. What has expired now is deleted by a run that comes a day later",
        (false, _) => "nothing was changed. To do it, add --confirm",
    };
    let _ = writeln!(text, "{last}");
    text
}

fn line(text: &mut String, what: &str, expiry: &Expiry) {
    let Expiry {
        history,
        before,
        lost,
        snapshots,
    } = expiry;
    let _ = write!(
        text,
        "  {what:<9} history {history}, before offset {before}"
    );
    if *lost {
        text.push_str(" (all of it: it lost)");
    }
    if !snapshots.is_empty() {
        let _ = write!(
            text,
            ", without {}",
            counted(snapshots.len() as u64, "base")
        );
    }
    text.push('\n');
}
