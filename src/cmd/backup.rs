//! `backfeed backup`: captures a server from anywhere.

use super::supervise::supervise;
use super::{Exit, Failure, flags};
use crate::config::{BackupConfig, ConfigError};
use crate::store;

/// Back a server up continuously, from anywhere that can reach it
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// One full sync, then exit
    #[arg(long, env = "BACKFEED_ONCE", value_parser = clap::builder::BoolishValueParser::new())]
    once: bool,

    #[command(flatten)]
    capture: flags::Capture,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

impl Args {
    fn lower(&self) -> Result<BackupConfig, ConfigError> {
        Ok(BackupConfig {
            redis: self.capture.source()?,
            once: self.once,
            capture: self.capture.lower()?,
            grace: self.capture.grace,
        })
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.lower()?;
    let store = store::open(&args.store.store).await?;
    supervise(
        args.capture.http,
        config.grace,
        |_status, _shutdown| async move {
            // service::run_backup(config, store, status, shutdown)
            let _ = config;
            Err(Failure::new(
                Exit::Error,
                format_args!("backup: not wired ({})", store.url()),
            ))
        },
    )
    .await
}
