//! `backfeed standby`: replicas that follow a store.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::supervised::{Report, supervise_as};
use super::{Failure, flags};
use crate::capture::Clock;
#[cfg(feature = "http")]
use crate::config::HttpAddr;
use crate::config::{Listen, parse_addr, parse_duration, parse_size};
use crate::monitoring::status::unix_ms_now;
use crate::standby::{self, StandbyConfig, StandbyStatus};
use crate::wire::position::ReplId;

const EXAMPLES: &str = "\
Examples:
  backfeed standby --store gs://my-bucket/shop
  backfeed standby --store gs://my-bucket/shop --delay 1h --http :9391";

/// Play a master for replicas that follow the store: a second region, a read replica, a copy that lags on purpose
///
/// Any Redis or Valkey that is told `REPLICAOF` this address gets the latest snapshot, the log, and then each new segment as it
/// appears in the store. There is no link to the server that writes it. Nothing is written to the store.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// Address where replicas find the standby. An address beyond loopback needs --listen-password-file or --listen-tls-client-ca
    #[arg(
        long,
        env = "BACKFEED_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:6391",
        help_heading = flags::SERVING,
        value_parser = parse_addr
    )]
    listen: SocketAddr,

    /// The history to follow [default: the latest, and what goes on from it]
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    /// How far replicas stay behind on purpose: a mistake can be undone as long as it has not come to them
    #[arg(long, env = "BACKFEED_DELAY", value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    delay: Duration,

    /// How often the store is asked for more. Each time costs one read
    #[arg(long, env = "BACKFEED_POLL_INTERVAL", value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    poll_interval: Duration,

    /// Memory for the last bytes of the log, which all replicas share
    #[arg(long, env = "BACKFEED_TAIL_MEMORY", value_name = "SIZE", default_value = "64MiB", value_parser = parse_size)]
    tail_memory: usize,

    /// Memory for the keys that the log touches, where snapshot and log are made one RDB for a replica
    /// [default: 256MiB, or what the limit of the cgroup leaves]
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", value_parser = parse_size)]
    memory_limit: Option<usize>,

    /// Address for /healthz, /readyz and /metrics
    #[cfg(feature = "http")]
    #[arg(long, env = "BACKFEED_HTTP", value_name = "ADDR:PORT", value_parser = str::parse::<HttpAddr>)]
    http: Option<HttpAddr>,

    #[command(flatten)]
    serving: flags::Serving,

    #[command(flatten)]
    gcs: flags::Gcs,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

/// For the keys that the log touches.
const KEYS_MEMORY: usize = 256 << 20;
/// Replicas come again by themselves: there is nothing to finish.
const GRACE: Duration = Duration::from_secs(2);

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let listen = Listen::new(args.listen, args.serving.lower()?);
    let config = StandbyConfig {
        listen: listen.map_err(|error| error.of("--listen"))?,
        history: args.history,
        delay: args.delay,
        poll: args.poll_interval.max(Duration::from_millis(10)),
        tail: args.tail_memory,
        memory: flags::keys_memory(args.memory_limit, KEYS_MEMORY),
    };
    let archive = args.store.open(&args.gcs).await?;
    let clock: Clock = Arc::new(unix_ms_now);
    #[cfg(feature = "http")]
    let http = args.http;
    #[cfg(not(feature = "http"))]
    let http = None;
    supervise_as(
        StandbyStatus::default(),
        http,
        GRACE,
        move |status, shutdown| async move {
            let ran = standby::run(archive, config, clock, status, shutdown).await;
            ran.map_err(Failure::from)
        },
    )
    .await
}

impl Report for StandbyStatus {
    fn work(&self) -> Vec<String> {
        Vec::new()
    }

    fn sources(&self) -> usize {
        1
    }

    fn unstored(&self) -> String {
        "nothing was to be stored".to_owned()
    }

    fn stopped(&self) {
        Self::stopped(self);
    }

    #[cfg(feature = "http")]
    async fn serve(self, listener: tokio::net::TcpListener) {
        crate::service::http::serve_shown(listener, self, std::future::pending()).await;
    }
}
