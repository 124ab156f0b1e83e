//! `backfeed promote`: a replica of a standby takes the place of the server whose history it follows.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Failure, flags};
use crate::config::{ConfigError, parse_duration};
use crate::display::counted;
use crate::monitoring::status::unix_ms_now;
use crate::standby::{PromoteReport, PromoteRequest, promote};

const EXAMPLES: &str = "\
Examples:
  backfeed promote --store gs://my-bucket/shop --redis redis://replica:6379";

/// Promote a replica of a standby: seal the history, so that its old server is never acknowledged again, then REPLICAOF NO ONE
///
/// The replica must follow a standby of this store. It is promoted when it has all that is stored, so everything that `WAIT` has
/// confirmed. Back it up from then on to the same store: `backfeed backup` or `backfeed sidecar` goes on without a full sync.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// The replica, as redis://[user:password@]host:port, or rediss:// for TLS
    #[arg(long, env = "BACKFEED_REDIS", value_name = "URL", help_heading = flags::REQUIRED)]
    redis: String,

    /// How long the replica may take to get what it lacks
    #[arg(long, env = "BACKFEED_TIMEOUT", value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    timeout: Duration,

    #[command(flatten)]
    login: flags::Login,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let source = args.redis.parse();
    let source = source.map_err(|error: ConfigError| error.of("--redis"))?;
    let redis = args.login.to(source, "--redis")?;
    let archive = args.store.open(&args.common.gcs).await?;
    let request = PromoteRequest {
        redis,
        patience: args.timeout,
        now_unix_ms: unix_ms_now(),
    };
    let report = promote(&archive, &request).await?;
    args.common.output.print(&report, text)
}

fn text(report: &PromoteReport) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{} is a master now: history {} goes on from {}:{}",
        report.server, report.child, report.history, report.offset
    );
    let _ = writeln!(text, "  keys       {}", counted(report.keys, "key"));
    let _ = writeln!(
        text,
        "  sealed     the old server is not acknowledged any more (`WAIT` answers 0 there)"
    );
    let _ = writeln!(
        text,
        "  next       back {} up to the same store: backfeed backup, or backfeed sidecar",
        report.server
    );
    text
}
