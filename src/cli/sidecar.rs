//! `backfeed sidecar`: restores the Redis beside it at boot, then captures it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::supervised::supervise;
use super::{Failure, flags, process_setup};
use crate::capture::Clock;
use crate::check::{SidecarWants, Wanted};
use crate::config::{
    ConfigError, Listen, ServeLog, SidecarConfig, Upstream, WhenBehind, name_of_pod, parse_addr,
    parse_duration, parse_name,
};
use crate::monitoring::status::unix_ms_now;
use crate::sidecar;
use crate::upkeep::{Turns, Upkeep};
use crate::wire::position::ReplId;

const EXAMPLES: &str = "\
Examples:
  backfeed sidecar --store gs://my-bucket/shop --redis redis://127.0.0.1:6379
  backfeed sidecar --store file:///backups/shop --redis redis://127.0.0.1:6379 --http :9390";

/// Run beside one Redis: restore it when it starts, promote it, then back it up continuously
///
/// Start Redis with `--replicaof 127.0.0.1 6390`: it refuses writes until backfeed has given it the latest state from
/// the store (or found the store empty) and promoted it.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// Which server this is. The name is recorded in the store, and a sidecar with another name is refused there [default: in
    /// Kubernetes the name of the pod in a StatefulSet, or of the Deployment; else `sidecar`]
    #[arg(long, env = "BACKFEED_NAME", value_name = "NAME", value_parser = parse_name)]
    name: Option<String>,

    /// Address where Redis finds backfeed as its first master. An address beyond loopback needs --listen-password-file or
    /// --listen-tls-client-ca
    #[arg(
        long,
        env = "BACKFEED_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:6390",
        help_heading = flags::SERVING,
        value_parser = parse_addr
    )]
    listen: SocketAddr,

    /// If the store cannot be reached for this long at boot, promote Redis as it is, without the stored data
    /// [default: never]
    #[arg(long, env = "BACKFEED_OPEN_AFTER", value_name = "TIME", value_parser = parse_duration)]
    open_after: Option<Duration>,

    /// Promote Redis even if it does not hold everything that it was given: it refused commands of the log, evicted keys because
    /// its memory was full, or has another number of keys than are stored [default: it stays a replica, and takes no writes]
    #[arg(long, env = "BACKFEED_PROMOTE_INCOMPLETE",
          value_parser = clap::builder::BoolishValueParser::new())]
    promote_incomplete: bool,

    /// What to do with a Redis that came up with less than the store has (from an older snapshot, or next to empty) and has
    /// taken writes since. `wait`: leave it, capture nothing of it, be not ready, and say so; `restore`: replace what it has by
    /// what is stored; `capture`: what it has becomes the latest state
    #[arg(long, env = "BACKFEED_WHEN_BEHIND", value_name = "wait|restore|capture", default_value = "wait",
          value_parser = str::parse::<WhenBehind>)]
    when_behind: WhenBehind,

    /// The history to continue when the store holds several that could be the latest (see `backfeed list`)
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    #[command(flatten)]
    capture: flags::Capture,

    /// In which form Redis gets the log after the snapshot. `replay`: its commands follow the snapshot; `rebuild`: snapshot
    /// and log are made one RDB here, where every command can be applied within --consolidate-memory; `auto`: the faster one
    #[arg(long, env = "BACKFEED_SERVE_LOG", value_name = "auto|replay|rebuild", default_value = "auto",
          value_parser = str::parse::<ServeLog>, help_heading = flags::SERVING)]
    serve_log: ServeLog,

    #[command(flatten)]
    serving: flags::Serving,

    #[command(flatten)]
    gcs: flags::Gcs,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

impl Args {
    fn lower(&self) -> Result<SidecarConfig, ConfigError> {
        Ok(SidecarConfig {
            name: self.name.clone().unwrap_or_else(derived_name),
            redis: self.capture.source()?,
            listen: Listen::new(self.listen, self.serving.lower()?)
                .map_err(|error| error.of("--listen"))?,
            history: self.history,
            open_after: self.open_after,
            promote_incomplete: self.promote_incomplete,
            when_behind: self.when_behind,
            serve_log: self.serve_log,
            capture: self.capture.lower()?,
            consolidate: self.capture.consolidate(),
            grace: self.capture.grace,
        })
    }
}

impl Args {
    /// What `check` is to try.
    pub(super) fn wanted(&self) -> Result<Wanted, ConfigError> {
        let config = self.lower()?;
        Ok(Wanted {
            redis: Upstream::Server(config.redis),
            store: self.store.lower(&self.gcs)?,
            sidecar: Some(SidecarWants {
                name: config.name,
                listen: config.listen,
            }),
            deletes: self.capture.retention().deletes(),
            http: self.capture.http.clone(),
            memory: self.capture.memory(),
            files: process_setup::warning(1),
            now_unix_ms: unix_ms_now,
        })
    }
}

/// Kubernetes sets both in every pod. Elsewhere, the name of the host may be that of a container, which changes with each start.
fn derived_name() -> String {
    #[expect(clippy::disallowed_methods)] // what Kubernetes sets
    let (service, host) = (
        std::env::var_os("KUBERNETES_SERVICE_HOST"),
        std::env::var("HOSTNAME"),
    );
    let in_pod = service.is_some();
    let pod = host.ok().filter(|_| in_pod);
    name_of_pod(&pod.unwrap_or_default())
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.lower()?;
    args.capture.log_memory();
    let store = args.store.lower(&args.gcs)?;
    let clock: Clock = Arc::new(unix_ms_now);
    let retention = args.capture.retention();
    let drill = args.capture.drill();
    supervise(
        args.capture.http.clone(),
        config.grace,
        move |status, shutdown| async move {
            let upkeep = Upkeep {
                config: config.consolidate.clone(),
                retention,
                drill,
                store: store.clone(),
                service: "sidecar".to_owned(),
                redis: Upstream::Server(config.redis.clone()),
                status: status.clone(),
                clock: clock.clone(),
                turns: Turns::default(),
            };
            let _upkeep = upkeep.start();
            Ok(sidecar::run(config, &store, status, clock, shutdown).await?)
        },
    )
    .await
}
