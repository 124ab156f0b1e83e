//! `backfeed restore`: a point of a history into a running server, an append-only directory or an RDB file.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Exit, Failure, flags};
use crate::config::{ConfigError, Dest, Listen, RestoreConfig};
use crate::position::{Offset, ReplId};

/// Restore any stored point in time to a running server, an append-only directory or an RDB file
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// redis://[user[:password]@]host[:port] (a running server), aof:DIR (an append-only directory to start a server
    /// on) or FILE.rdb
    // Text for the same reason as --redis.
    #[arg(long, env = "BACKFEED_TO", value_name = "DEST")]
    to: String,

    /// The point in time: RFC 3339, `10m ago`, Unix seconds, or `latest` [default: latest]
    #[arg(
        long,
        env = "BACKFEED_AT",
        value_name = "WHEN",
        conflicts_with = "offset"
    )]
    at: Option<String>,

    /// The point as an offset of the history
    #[arg(long, env = "BACKFEED_OFFSET", value_name = "N")]
    offset: Option<u64>,

    /// The history to restore, when it is not the latest one or the store holds several that could be (see `backfeed
    /// list`)
    #[arg(long, env = "BACKFEED_HISTORY", value_name = "ID")]
    history: Option<ReplId>,

    /// Serve the target under the original replication id and offset, as the sidecar does, so that it continues the
    /// history. Without it the target gets a fresh id and is a fork
    #[arg(long, env = "BACKFEED_CONTINUE_HISTORY",
          value_parser = clap::builder::BoolishValueParser::new())]
    continue_history: bool,

    /// Say what would be restored, from which objects, and touch nothing
    #[arg(long, env = "BACKFEED_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,

    /// Restore over the data that the target has
    #[arg(long, env = "BACKFEED_FORCE", value_parser = clap::builder::BoolishValueParser::new())]
    force: bool,

    /// Report as JSON
    #[arg(long, env = "BACKFEED_JSON", value_parser = clap::builder::BoolishValueParser::new())]
    json: bool,

    /// File with the password of the target server
    #[arg(long, env = "BACKFEED_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,

    /// Where the target server finds backfeed as its master; beyond loopback it needs --listen-password-file
    #[arg(
        long,
        env = "BACKFEED_LISTEN",
        value_name = "ADDR:PORT",
        default_value = "127.0.0.1:0"
    )]
    listen: SocketAddr,

    /// File with the password that the target must give (set as its `masterauth` for the time)
    #[arg(long, env = "BACKFEED_LISTEN_PASSWORD_FILE", value_name = "FILE")]
    listen_password_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

impl Args {
    fn lower(&self) -> Result<RestoreConfig, ConfigError> {
        let to = match self
            .to
            .parse()
            .map_err(|error: ConfigError| error.of_flag("--to"))?
        {
            Dest::Server(source) => Dest::Server(
                source
                    .with_password_file(self.redis_password_file.clone())
                    .map_err(|error| error.of_flag("--redis-password-file"))?,
            ),
            files => files,
        };
        RestoreConfig {
            to,
            at: self.at.clone(),
            offset: self.offset.map(Offset),
            history: self.history,
            continue_history: self.continue_history,
            dry_run: self.dry_run,
            force: self.force,
            json: self.json,
            listen: Listen::new(self.listen, self.listen_password_file.as_deref())
                .map_err(|error| error.of_flag("--listen"))?,
        }
        .checked()
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let config = args.lower()?;
    Err(Failure::new(
        Exit::Error,
        format_args!("restore: not wired ({} to {})", args.store.store, config.to),
    ))
}
