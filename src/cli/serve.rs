//! `backfeed serve`: many sources in one process.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::supervised::supervise_as;
use super::{Exit, Failure, flags};
use crate::capture::Clock;
use crate::config::{Budget, FileError, HttpAddr, cgroup_memory_limit};
use crate::monitoring::sources::Sources;
use crate::monitoring::status::unix_ms_now;
use crate::serve::{self, ConfigFile};

const EXAMPLES: &str = "\
Examples:
  backfeed check-config --config backfeed.toml
  backfeed serve --config backfeed.toml
  backfeed serve --config backfeed.toml --http :9390";

/// Back many servers up continuously, in one process
///
/// A file in TOML names the servers and their stores. It is read again on SIGHUP, and when it changes. Sources that did not
/// change keep their connections.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    file: File,

    /// Serve /healthz, /readyz and /metrics at this address [default: `http` of the file]
    #[arg(long, env = "BACKFEED_HTTP", value_name = "ADDR:PORT", value_parser = str::parse::<HttpAddr>)]
    http: Option<HttpAddr>,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

/// The file that names the sources.
#[derive(Debug, clap::Args)]
pub(super) struct File {
    /// The file that names the sources, in TOML
    #[arg(long, env = "BACKFEED_CONFIG", value_name = "FILE", help_heading = flags::REQUIRED)]
    config: PathBuf,
}

impl File {
    pub(super) fn open(&self) -> ConfigFile {
        #[expect(clippy::disallowed_methods)] // the file names variables with passwords
        let variables = |name: &str| std::env::var(name).ok();
        ConfigFile::new(self.config.clone(), Arc::new(variables))
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Self {
        // It names keys of the file, and no flags.
        Self::as_it_is(Exit::Usage, error)
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let file = args.file.open();
    let loaded = file.load()?;
    let service = &loaded.config.service;
    let budget = Budget::new(service.memory_budget, cgroup_memory_limit());
    let shares = loaded.config.shares(&budget);
    match budget.warning(loaded.config.wanted()) {
        Some(warning) => tracing::warn!("{warning}"),
        None => tracing::info!("of {budget}: {shares}"),
    }
    let clock: Clock = Arc::new(unix_ms_now);
    let hangup = Arc::new(Notify::new());
    notify_of_hangups(Arc::clone(&hangup))?;
    let expected = loaded
        .config
        .sources
        .len()
        .saturating_add(loaded.config.clusters.len());
    let sources = Sources::new(file.name(), expected, clock());
    let http = args.http.or_else(|| service.http.clone());
    let grace = service.grace;
    supervise_as(sources, http, grace, move |sources, shutdown| async move {
        let run = serve::run(file, loaded, &budget, sources, clock, shutdown, hangup);
        run.await.map_err(|(name, end)| {
            let failure = Failure::from(end);
            Failure::as_it_is(failure.exit(), format_args!("source {name}: {failure}"))
        })
    })
    .await
}

/// SIGHUP, from now on.
fn notify_of_hangups(hangup: Arc<Notify>) -> Result<(), Failure> {
    let mut hangups = signal(SignalKind::hangup()).map_err(|error| {
        let message = format_args!("cannot listen for SIGHUP: {error}");
        Failure::new(Exit::Error, message)
    })?;
    // It ends with the process.
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            tracing::info!("SIGHUP: reading the configuration again");
            hangup.notify_one();
        }
    });
    Ok(())
}
