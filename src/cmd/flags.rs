//! Flags that several verbs share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::config::{
    AckPolicy, CaptureConfig, ConfigError, IDLE_INTERVAL, Source, parse_duration, parse_size,
};
use crate::telemetry::LogFormat;

#[derive(Debug, Args)]
pub(super) struct Log {
    /// How log lines on stderr look
    #[arg(long, env = "BACKFEED_LOG_FORMAT", value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,

    /// Log more: -v every decision, -vv every message (RUST_LOG overrides it)
    #[arg(short, long, env = "BACKFEED_VERBOSE", action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
}

#[derive(Debug, Args)]
pub(super) struct Store {
    /// Where the archive lies: gs://bucket/prefix or file:///path
    #[arg(long, env = "BACKFEED_STORE", value_name = "URL")]
    pub(super) store: String,
}

/// The server that is captured, and how.
#[derive(Debug, Args)]
pub(super) struct Capture {
    /// The server: redis://[user[:password]@]host[:port]
    // Text, not a `Source`: clap would show a wrong value, password and all, in its error.
    #[arg(long, env = "BACKFEED_REDIS", value_name = "URL")]
    redis: String,

    /// File with the server's password, read for every connection
    #[arg(long, env = "BACKFEED_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,

    /// Store what was received after this time at the latest
    #[arg(long, env = "BACKFEED_FLUSH_INTERVAL", value_name = "TIME", default_value = "1s",
          value_parser = parse_duration)]
    flush_interval: Duration,

    /// Store a segment when it has this many bytes, before its time
    #[arg(long, env = "BACKFEED_SEGMENT_SIZE", value_name = "SIZE", default_value = "8MiB",
          value_parser = parse_size)]
    segment_size: usize,

    /// Hold at most this much of the feed in memory, received but not yet stored
    #[arg(long, env = "BACKFEED_MEMORY_LIMIT", value_name = "SIZE", default_value = "64MiB",
          value_parser = parse_size)]
    memory_limit: usize,

    /// Acknowledge to the master (and so to WAIT) what is `stored` or what is `received`
    #[arg(long, env = "BACKFEED_ACK", value_name = "stored|received", default_value = "stored",
          value_parser = str::parse::<AckPolicy>)]
    ack: AckPolicy,

    /// Serve /healthz, /readyz and /metrics here, such as 127.0.0.1:9390 (they show no data)
    #[arg(long, env = "BACKFEED_HTTP", value_name = "ADDR:PORT")]
    pub(super) http: Option<SocketAddr>,

    /// After SIGTERM, take at most this long to store and acknowledge the rest
    #[arg(long, env = "BACKFEED_GRACE", value_name = "TIME", default_value = "10s",
          value_parser = parse_duration)]
    pub(super) grace: Duration,
}

impl Capture {
    pub(super) fn source(&self) -> Result<Source, ConfigError> {
        source(&self.redis, "--redis", self.redis_password_file.clone())
    }

    pub(super) fn lower(&self) -> Result<CaptureConfig, ConfigError> {
        CaptureConfig {
            flush_interval: self.flush_interval,
            idle_interval: IDLE_INTERVAL,
            segment_size: self.segment_size,
            memory_limit: self.memory_limit,
            ack: self.ack,
        }
        .checked()
    }
}

fn source(url: &str, flag: &str, password_file: Option<PathBuf>) -> Result<Source, ConfigError> {
    let source: Source = url
        .parse()
        .map_err(|error: ConfigError| error.of_flag(flag))?;
    source
        .with_password_file(password_file)
        .map_err(|error| error.of_flag("--redis-password-file"))
}
