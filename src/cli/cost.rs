//! `backfeed cost`: what the store holds, how fast it grows, and what that costs.

use std::fmt;

use serde::Serialize;

use super::progress_bar::Bars;
use super::{Failure, flags};
use crate::archive::{Amount, Archive};
use crate::config::Size;
use crate::display::Time;
use crate::query::cost::{Cost, Rate};
use crate::recovery::{Progress, Stage};
use crate::store;

const EXAMPLES: &str = "\
Examples:
  backfeed cost --store gs://my-bucket/shop
  backfeed cost --store file:///backups/shop --json";

/// Show how many objects and bytes a store holds, how fast it grows, and what providers bill for it by list prices
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

#[derive(Debug, Serialize)]
struct Report {
    store: String,
    #[serde(flatten)]
    cost: Cost,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let store = store::open_with(&args.store.lower(&args.common.gcs)?).await?;
    let url = store.url();
    let bars = Bars::new();
    bars.stage(Stage::Checking, None);
    let archive = Archive::open(store).await?;
    let cost = Cost::of(&archive).await?;
    bars.finish();
    let report = Report { store: url, cost };
    args.common.output.print(&report, ToString::to_string)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, cost } = self;
        writeln!(f, "{store}")?;
        line(f, "bases", cost.kinds.bases)?;
        line(f, "log", cost.kinds.log)?;
        line(f, "documents", cost.kinds.documents)?;
        if cost.kinds.other.objects > 0 {
            line(f, "other", cost.kinds.other)?;
        }
        line(f, "total", cost.total)?;
        writeln!(f)?;
        match &cost.rate {
            Some(rate) => written(f, rate)?,
            None => writeln!(
                f,
                "The log is too short to tell how fast it grows: it needs a minute"
            )?,
        }
        writeln!(
            f,
            "\nlist prices, a month{:25}storage now  next month adds  creating",
            ""
        )?;
        for bill in &cost.bills {
            let known = |usd: Option<_>| usd.map_or_else(|| "?".to_owned(), |it| format!("{it}"));
            writeln!(
                f,
                "  {:44}{:>10}{:>17}{:>10}",
                bill.name,
                bill.storage_usd.to_string(),
                known(bill.growth_usd),
                known(bill.creates_usd),
            )?;
        }
        Ok(())
    }
}

fn written(f: &mut fmt::Formatter<'_>, rate: &Rate) -> fmt::Result {
    let (from, to) = (Time(rate.from_unix_ms), Time(rate.to_unix_ms));
    writeln!(f, "written from {from} to {to}")?;
    line(f, "bases", rate.bases)?;
    line(f, "log", rate.log)?;
    writeln!(f, "\nin 30 days at this rate")?;
    line(f, "bases", rate.bases_a_month)?;
    line(f, "log", rate.log_a_month)
}

fn line(f: &mut fmt::Formatter<'_>, what: &str, amount: Amount) -> fmt::Result {
    let bytes = Size(amount.bytes).to_string();
    writeln!(f, "  {what:10}{:>14} objects{bytes:>14}", amount.objects)
}
