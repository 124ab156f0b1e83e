//! `backfeed verify`: can everything that is stored be restored?

use super::progress_bar::Bars;
use super::{Exit, Failure, flags};
use crate::monitoring::status::unix_ms_now;
use crate::recovery::{Progress, Stage};
use crate::verify::{Request, verify};
use crate::wire::position::ReplId;

const EXAMPLES: &str = "\
Examples:
  backfeed verify --store gs://my-bucket/shop
  backfeed verify --store file:///backups/shop --deep --json";

/// Check that everything stored can be restored; ends with one line, `sound: …` or `damaged: …` (exit code 7)
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// Check only this history and its ancestors [default: all]
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    /// Read every byte, not only headers and manifests: checksums, each RDB to its end (by a second, independent reader too),
    /// each command. A base that is sound is marked as verified in the store
    #[arg(long, env = "BACKFEED_DEEP", value_parser = clap::builder::BoolishValueParser::new())]
    deep: bool,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let archive = args.store.open(&args.common.gcs).await?;
    let request = Request {
        history: args.history,
        deep: args.deep,
        now_unix_ms: unix_ms_now(),
    };
    let bars = Bars::new();
    bars.stage(Stage::Checking, None);
    let report = verify(&archive, request, &bars).await;
    bars.finish();
    let report = report?;
    args.common.output.print(&report, ToString::to_string)?;
    if report.sound {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Damaged,
        format_args!("{}: {}", report.store, report.verdict()),
    ))
}
