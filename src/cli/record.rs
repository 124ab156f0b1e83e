//! `backfeed record`: a conversation with a server, as a fixture.

use std::path::PathBuf;
use std::time::Duration;

use super::signals::Signals;
use super::{Exit, Failure, flags, print};
use crate::capture::{REPLICA_VERSION, wants_version};
use crate::config::{ConfigError, Size, parse_duration, parse_size};
use crate::display::counted;
use crate::fixture::{self, About, FixtureError, RecordLimits, Redaction, Transcript};
use crate::link::control::{Control, ControlError};
use crate::monitoring::status::unix_ms_now;

const EXAMPLES: &str = "\
Examples:
  backfeed record --redis redis://127.0.0.1:6379 --to fixtures/my-case --for 30s
  backfeed record --redis redis://127.0.0.1:6379 --to my-case.zst --redact values";

/// Record what a server says to a replica, for `backfeed replay` and for tests
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    /// The server: redis://[user[:password]@]host[:port], or rediss:// for TLS
    // Text for the same reason as elsewhere.
    #[arg(long, env = "BACKFEED_REDIS", value_name = "URL", help_heading = flags::REQUIRED)]
    redis: String,

    /// A directory to create, or a file that ends in .zst
    // No variable: BACKFEED_TO is where a restore goes.
    #[arg(long, value_name = "FIXTURE", help_heading = flags::REQUIRED)]
    to: PathBuf,

    /// Stop after this time [default: at SIGTERM or SIGINT]
    #[arg(long = "for", env = "BACKFEED_FOR", value_name = "TIME", value_parser = parse_duration)]
    for_time: Option<Duration>,

    /// Stop after this many bytes
    #[arg(long, env = "BACKFEED_BYTES", value_name = "SIZE", value_parser = parse_size)]
    bytes: Option<usize>,

    /// Replace `values`, or `keys` and values, by others of the same length; the same one always by the same one. The server
    /// must be empty at the beginning
    #[arg(long, env = "BACKFEED_REDACT", value_name = "values|keys")]
    redact: Option<Redaction>,

    /// What the recording shows, for its about.toml
    #[arg(long, env = "BACKFEED_SHOWS", value_name = "TEXT", default_value = "")]
    shows: String,

    #[command(flatten)]
    login: flags::Login,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let source = args.redis.parse();
    let source = source.map_err(|error: ConfigError| error.of("--redis"))?;
    let source = args.login.to(source, "--redis")?;
    let file = fixture::file_of(&args.to);
    if file.exists() {
        return Err(FixtureError::Exists { path: file }.into());
    }
    let facts = match Control::connect(&source).await {
        Ok(mut control) => control.facts().await,
        Err(error) => Err(error),
    };
    let facts = match facts {
        Ok(facts) => Some(facts),
        Err(error) if error.is_permission() || error.is_unknown_command() => None,
        Err(ControlError::Link(error)) => return Err(error.into()),
        Err(error) => return Err(Failure::new(Exit::Redis, error)),
    };
    let version = wants_version(facts.as_ref()).then_some(REPLICA_VERSION);
    let limits = RecordLimits {
        time: args.for_time,
        bytes: args.bytes,
    };
    let began_unix_us = u64::try_from(unix_ms_now())
        .unwrap_or(0)
        .saturating_mul(1000);
    let stop = stopped()?;
    tracing::info!("recording what {source} says");
    let recorded = fixture::record(&source, version, limits, began_unix_us, stop).await?;
    if let Some(why) = &recorded.cut_short {
        tracing::warn!("the recording ends before its time: {why}");
    }
    let mut recording = recorded.recording;
    if let Some(what) = args.redact {
        recording = recording.redacted(what).map_err(|error| {
            Failure::new(Exit::Error, format_args!("nothing was written: {error}"))
        })?;
    }
    let about = About {
        shows: args.shows,
        server: facts
            .as_ref()
            .map_or_else(String::new, |facts| facts.flavour.clone()),
        version: facts.map_or_else(String::new, |facts| facts.version),
        configuration: Vec::new(),
        recorded_by: "backfeed record".to_owned(),
        redacted: match args.redact {
            None => "none",
            Some(Redaction::Values) => "values",
            Some(Redaction::Keys) => "keys",
        }
        .to_owned(),
    };
    fixture::save(&args.to, &recording, &about)?;
    let summary = match Transcript::of(&recording) {
        Ok(transcript) => format!(
            "a snapshot of {}, {} of feed, {}",
            Size(transcript.rdb.len() as u64),
            Size(transcript.feed.len() as u64),
            counted(transcript.stretches.len() as u64, "connection")
        ),
        Err(error) => format!("{error}"),
    };
    print(&format!("recorded to {}: {summary}\n", args.to.display()))
}

/// SIGTERM or SIGINT: both are the usual end of a recording.
fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let mut signals = Signals::new()?;
    Ok(async move {
        signals.next().await;
    })
}
