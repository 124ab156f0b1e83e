//! `backfeed merge`: many segments of the log become one object.

use std::fmt::Write as _;

use super::progress_bar::Bars;
use super::{Failure, flags};
use crate::archive::new_writer;
use crate::config::Size;
use crate::consolidate::merging::{MergeReport, MergeRequest, merge};
use crate::display::counted;
use crate::wire::position::ReplId;

const EXAMPLES: &str = "\
Examples:
  backfeed merge --store gs://my-bucket/shop
  backfeed merge --store file:///backups/shop --dry-run
  backfeed merge --store gs://my-bucket/shop --delete-segments";

/// Merge the segments of the log into fewer, longer objects (spans), so that reading it needs fewer requests
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// Merge the log of this history alone [default: of all]
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    /// Say what would be merged, and create nothing
    #[arg(long, env = "BACKFEED_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,

    /// Then delete the segments that have been in a span for 2 hours, by the clock of the store. The span is read again first
    #[arg(long, env = "BACKFEED_DELETE_SEGMENTS", value_parser = clap::builder::BoolishValueParser::new(), conflicts_with = "dry_run")]
    delete_segments: bool,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let archive = args.store.open(&args.common.gcs).await?;
    let request = MergeRequest {
        history: args.history,
        merged_to: None,
        limit: u64::MAX,
        dry_run: args.dry_run,
        delete: args.delete_segments,
        writer: new_writer("merge"),
    };
    let bars = Bars::new();
    let report = merge(&archive, &request, &bars).await;
    bars.finish();
    let report = report?;
    args.common.output.print(&report, text)?;
    report.failure.map_or(Ok(()), |error| Err(error.into()))
}

fn text(report: &MergeReport) -> String {
    let mut text = String::new();
    let verb = match report.dry_run {
        true => "would merge",
        false => "merged",
    };
    if report.spans == 0 {
        let _ = writeln!(text, "nothing to merge");
    }
    for merged in &report.histories {
        if let Some(to) = merged.merged_to {
            let _ = writeln!(
                text,
                "{verb} {} of history {} into {}, up to offset {to}",
                counted(merged.segments, "segment"),
                merged.history,
                counted(merged.spans, "span"),
            );
        }
        for error in &merged.errors {
            let _ = writeln!(text, "  history {}: {error}", merged.history);
        }
        if let Some(why) = &merged.stopped {
            let _ = writeln!(
                text,
                "  a part of the log of history {} cannot be merged: {why}. `backfeed verify` says more",
                merged.history
            );
        }
    }
    if let Some(deleted) = &report.deleted {
        let _ = writeln!(
            text,
            "deleted {} ({}) that spans have",
            counted(deleted.objects, "segment"),
            Size(deleted.bytes)
        );
        if let Some(why) = &deleted.denied_reason {
            let _ = writeln!(text, "  the store did not delete {}: {why}", deleted.denied);
        }
    }
    if report.spans > 0 && !report.dry_run {
        let _ = writeln!(
            text,
            "  {} of the feed, stored in {}",
            Size(report.raw_bytes),
            Size(report.stored_bytes)
        );
    }
    text
}
