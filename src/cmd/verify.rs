//! `backfeed verify`: can everything that is stored be restored?

use super::bars::Bars;
use super::{Exit, Failure, flags, print, print_json};
use crate::archive::Archive;
use crate::position::ReplId;
use crate::restore::{Progress, Stage};
use crate::status::unix_ms_now;
use crate::store;
use crate::verify::{Request, verify};

/// Check that everything stored can be restored; ends with one line, `sound: …` or `damaged: …` (exit code 7)
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// This history and its ancestors alone [default: all]
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    /// Read every byte, not headers and manifests alone: checksums, each RDB to its end (by a second, independent reader too),
    /// each command. A base that is sound is marked as verified in the store
    #[arg(long, env = "BACKFEED_DEEP", value_parser = clap::builder::BoolishValueParser::new())]
    deep: bool,

    /// Report as JSON
    #[arg(long, env = "BACKFEED_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let archive = Archive::open(store::open_with(&args.store.lower()?).await?).await?;
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
    if args.json {
        print_json(&report)?;
    } else {
        print(&report.to_string())?;
    }
    if report.sound {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Damaged,
        format_args!("{}: {}", report.store, report.verdict()),
    ))
}
