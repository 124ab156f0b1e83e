//! `backfeed backup`: captures a server from anywhere.

use std::sync::Arc;

use super::supervise::supervise;
use super::{Failure, flags};
use crate::capture::Clock;
use crate::config::{BackupConfig, ConfigError};
use crate::service;
use crate::status::unix_ms_now;

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
    let clock: Clock = Arc::new(unix_ms_now);
    let store = args.store.lower()?;
    supervise(
        args.capture.http,
        config.grace,
        move |status, shutdown| async move {
            Ok(service::run_backup(config, &store, status, clock, shutdown).await?)
        },
    )
    .await
}
