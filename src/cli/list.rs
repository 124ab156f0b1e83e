//! `backfeed list`: what the store holds.

use super::list_cluster::ClusterListing;
use super::listing::Listing;
use super::progress_bar::Bars;
use super::{Failure, flags};
use crate::archive::{Archive, ArchiveError, ClusterPlace};
use crate::monitoring::status::unix_ms_now;
use crate::recovery::{Progress, Stage};
use crate::store;

const EXAMPLES: &str = "\
Examples:
  backfeed list --store gs://my-bucket/shop
  backfeed list --store file:///backups/shop --json";

/// Show the histories in a store, their bases, and the stretch of time and offsets that each can restore
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.store.lower(&args.common.gcs)?;
    let store = store::open_with(&config).await?;
    let url = store.url();
    let bars = Bars::new();
    bars.stage(Stage::Checking, None);
    let listing = match Archive::open(store.clone()).await {
        Ok(archive) => {
            let mut listing = Listing::gather(&archive, url).await?;
            listing.compare_clock(unix_ms_now());
            bars.finish();
            listing
        }
        Err(error @ ArchiveError::EmptyStore { .. }) => {
            // A script gets its document even so. The exit code says that there is no archive: the URL may be wrong.
            if args.common.output.json {
                args.common
                    .output
                    .print(&Listing::empty(url), ToString::to_string)?;
            }
            return Err(error.into());
        }
        Err(error @ ArchiveError::NotAnArchive { .. }) => {
            let Some(place) = ClusterPlace::open(store).await? else {
                return Err(error.into());
            };
            let listing = ClusterListing::gather(&place, &config.url).await?;
            bars.finish();
            return args.common.output.print(&listing, ToString::to_string);
        }
        Err(error) => return Err(error.into()),
    };
    args.common.output.print(&listing, ToString::to_string)
}
