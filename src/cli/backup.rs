//! `backfeed backup`: captures a server from anywhere.

use std::path::PathBuf;
use std::sync::Arc;

use super::supervised::supervise;
use super::{Failure, flags, process_setup};
use crate::capture::Clock;
use crate::check::Wanted;
use crate::config::{BackupConfig, ConfigError, Upstream};
use crate::monitoring::status::unix_ms_now;
use crate::service;
use crate::upkeep::{Turns, Upkeep};

const EXAMPLES: &str = "\
Examples:
  backfeed backup --store gs://my-bucket/shop --redis redis://10.0.0.5:6379 --http :9390
  backfeed backup --once --store file:///backups/shop --redis redis://127.0.0.1:6379";

/// Back a server up continuously, from anywhere that can reach it
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// Take one full sync, then exit
    #[arg(long, env = "BACKFEED_ONCE", value_parser = clap::builder::BoolishValueParser::new())]
    once: bool,

    /// redis+sentinel://: file with the password of the Sentinels themselves. It is read for every connection
    #[arg(
        long,
        env = "BACKFEED_SENTINEL_PASSWORD_FILE",
        value_name = "FILE",
        help_heading = "Sentinels"
    )]
    sentinel_password_file: Option<PathBuf>,

    /// redis+sentinel://: the Sentinels' ACL user [default: their default user]
    #[arg(
        long,
        env = "BACKFEED_SENTINEL_USER",
        value_name = "NAME",
        requires = "sentinel_password_file",
        help_heading = "Sentinels"
    )]
    sentinel_user: Option<String>,

    #[command(flatten)]
    capture: flags::Capture,

    #[command(flatten)]
    gcs: flags::Gcs,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

impl Args {
    fn lower(&self) -> Result<BackupConfig, ConfigError> {
        Ok(BackupConfig {
            redis: self.upstream()?,
            once: self.once,
            capture: self.capture.lower()?,
            consolidate: self.capture.consolidate(),
            grace: self.capture.grace,
        })
    }

    fn upstream(&self) -> Result<Upstream, ConfigError> {
        let password_file = self.sentinel_password_file.clone();
        match self.capture.upstream()? {
            Upstream::Sentinels(sentinels) => sentinels
                .with_login(self.sentinel_user.as_deref(), password_file)
                .map(Upstream::Sentinels),
            Upstream::Server(_) | Upstream::Shard(_) if password_file.is_some() => {
                Err(ConfigError::new(
                    "--sentinel-password-file: --redis names a server, no Sentinels: write redis+sentinel://, or leave it out",
                ))
            }
            server @ (Upstream::Server(_) | Upstream::Shard(_)) => Ok(server),
        }
    }
}

impl Args {
    /// What `check` is to try.
    pub(super) fn wanted(&self) -> Result<Wanted, ConfigError> {
        let config = self.lower()?;
        Ok(Wanted {
            redis: config.redis,
            store: self.store.lower(&self.gcs)?,
            sidecar: None,
            deletes: self.capture.retention().deletes(),
            http: self.capture.http.clone(),
            memory: self.capture.memory(),
            files: process_setup::warning(1),
            now_unix_ms: unix_ms_now,
        })
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.lower()?;
    args.capture.log_memory();
    let clock: Clock = Arc::new(unix_ms_now);
    let store = args.store.lower(&args.gcs)?;
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
                service: config.redis.service(),
                redis: config.redis.clone(),
                status: status.clone(),
                clock: clock.clone(),
                turns: Turns::default(),
            };
            let _upkeep = (!config.once).then(|| upkeep.start());
            Ok(service::run_backup(config, &store, status, clock, shutdown).await?)
        },
    )
    .await
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser};

    use super::*;
    use crate::config::{SERVICE_KEYS, SOURCE_KEYS, ServeConfig};

    #[derive(Debug, Parser)]
    struct Alone {
        #[command(flatten)]
        args: Args,
    }

    /// Each flag of `backup` is a key of the file of `serve`, and each key but these is a flag.
    #[test]
    fn the_keys_of_the_file_are_the_flags_of_backup() {
        let command = Alone::command();
        let flags = command.get_arguments().filter_map(clap::Arg::get_long);
        let mut flags: Vec<String> = flags.map(|flag| flag.replace('-', "_")).collect();
        let of_the_process = ["once", "log_format", "verbose", "help", "version"];
        flags.retain(|flag| !of_the_process.contains(&flag.as_str()));
        let only_keys = [
            "redis_password_env",
            "sentinel_password_env",
            "full_syncs",
            "prefer",
        ];
        let all = SOURCE_KEYS.iter().chain(&SERVICE_KEYS);
        let mut keys: Vec<String> = all.map(|key| (*key).to_owned()).collect();
        keys.retain(|key| !only_keys.contains(&key.as_str()));
        flags.sort();
        keys.sort();
        assert_eq!(keys, flags);
    }

    #[test]
    fn what_neither_sets_is_the_same() {
        let (redis, store) = ("redis://h", "gs://bucket/a");
        let command = Alone::command().mut_args(|arg| arg.env(clap::builder::Resettable::Reset));
        let typed = command.get_matches_from(["backup", "--redis", redis, "--store", store]);
        let args = Alone::from_arg_matches(&typed).unwrap().args;
        let text = format!("[sources.a]\nredis = \"{redis}\"\nstore = \"{store}\"\n");
        let config = ServeConfig::parse(&text, &|_| None).unwrap();
        let budget = crate::config::Budget::new(None, None);
        let shares = config.shares(&budget);
        let source = config.sources.into_iter().next().unwrap().within(&shares);
        let backup = args.lower().unwrap();
        assert_eq!(source.redis, backup.redis);
        assert_eq!(source.store, args.store.lower(&args.gcs).unwrap());
        assert_eq!(source.retention, args.capture.retention());
        assert_eq!(source.drill, args.capture.drill());
        assert_eq!(config.service.grace, backup.grace);
        // The memory of a process may be that of a cgroup.
        let (memory, consolidation) =
            (source.capture.memory_limit, source.consolidate.memory_limit);
        let capture = crate::config::CaptureConfig {
            memory_limit: memory,
            ..backup.capture
        };
        let consolidate = crate::config::ConsolidateConfig {
            memory_limit: consolidation,
            ..backup.consolidate
        };
        assert_eq!((source.capture, source.consolidate), (capture, consolidate));
    }
}
