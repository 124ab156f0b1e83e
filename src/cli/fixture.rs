//! `backfeed fixture`: looks at fixtures, and cuts them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Exit, Failure, flags, print};
use crate::config::{Size, parse_duration, parse_size};
use crate::fixture::recording::Kind;
use crate::fixture::{self, ABOUT, About, Recording, Transcript, TranscriptError};
use crate::wire::position::Boundary;
use crate::wire::psync::transfer::Framing;
use crate::wire::rdb::{Summary, Walker};
use crate::wire::resp::FeedScanner;

const EXAMPLES: &str = "\
Examples:
  backfeed fixture info fixtures/my-case
  backfeed fixture check fixtures/*
  backfeed fixture slice fixtures/my-case --to fixtures/smaller --feed 64KiB";

/// Look at a fixture, check it, or cut a part out of it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Info(Info),
    Check(Check),
    Slice(Slice),
}

/// Show what a fixture holds
#[derive(Debug, clap::Args)]
struct Info {
    /// The fixture: its directory, or its recording
    #[arg(value_name = "FIXTURE")]
    fixture: PathBuf,

    #[command(flatten)]
    log: flags::Log,
}

/// Read a fixture whole: its checksum, the snapshot and the feed in it
#[derive(Debug, clap::Args)]
struct Check {
    /// Fixtures: directories, or recordings
    #[arg(value_name = "FIXTURE", required = true)]
    fixtures: Vec<PathBuf>,

    #[command(flatten)]
    log: flags::Log,
}

/// Make a smaller fixture of the beginning of another
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options")]
struct Slice {
    /// The fixture: its directory, or its recording
    #[arg(value_name = "FIXTURE")]
    fixture: PathBuf,

    /// A directory to create, or a file that ends in .zst
    // No variable: BACKFEED_TO is where a restore goes.
    #[arg(long, value_name = "FIXTURE", help_heading = flags::REQUIRED)]
    to: PathBuf,

    /// Keep what was sent within this time
    #[arg(long, env = "BACKFEED_UNTIL", value_name = "TIME", value_parser = parse_duration)]
    until: Option<Duration>,

    /// Keep this many connections
    #[arg(long, env = "BACKFEED_CONNECTIONS", value_name = "N")]
    connections: Option<usize>,

    /// Keep this many bytes of the feed
    #[arg(long, env = "BACKFEED_FEED", value_name = "SIZE", value_parser = parse_size)]
    feed: Option<usize>,

    #[command(flatten)]
    log: flags::Log,
}

impl Args {
    pub(super) fn log(&self) -> &flags::Log {
        match &self.action {
            Action::Info(info) => &info.log,
            Action::Check(check) => &check.log,
            Action::Slice(slice) => &slice.log,
        }
    }
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Info(args) => info(&args.fixture),
        Action::Check(args) => {
            for path in &args.fixtures {
                check(path)?;
                print(&format!("{}: sound\n", path.display()))?;
            }
            Ok(())
        }
        Action::Slice(args) => slice(&args),
    }
}

fn damaged(path: &Path, error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Damaged, format_args!("{}: {error}", path.display()))
}

fn info(path: &Path) -> Result<(), Failure> {
    let recording = fixture::load(path)?;
    let mut text = std::fs::read_to_string(path.join(ABOUT)).unwrap_or_default();
    let said = |kind| recording.said(kind).len() as u64;
    let took = recording.records.last().map_or(0, |record| record.at_us);
    let _ = writeln!(
        text,
        "recording   {} records in {:?}: {} by the master, {} by the replica",
        recording.records.len(),
        Duration::from_micros(took),
        Size(said(Kind::Master)),
        Size(said(Kind::Replica))
    );
    match Transcript::of(&recording) {
        Ok(transcript) => describe(&transcript, &mut text),
        Err(error) => {
            let _ = writeln!(text, "replay      not possible: {error}");
        }
    }
    print(&text)
}

fn describe(transcript: &Transcript, text: &mut String) {
    let how = match transcript.framing {
        Framing::Length(_) => "by its length",
        Framing::Mark(_) => "by a mark",
    };
    let _ = writeln!(
        text,
        "snapshot    {}, {how}, at {}",
        Size(transcript.rdb.len() as u64),
        transcript.base
    );
    match walked(transcript) {
        Ok(summary) => {
            let _ = writeln!(
                text,
                "            {}, keys by database:{}",
                summary.magic,
                keys(&summary)
            );
        }
        Err(error) => {
            let _ = writeln!(text, "            {error}");
        }
    }
    let _ = writeln!(
        text,
        "feed        {}, to offset {}",
        Size(transcript.feed.len() as u64),
        transcript.end()
    );
    for stretch in &transcript.stretches {
        let end = if stretch.closed {
            ", then the link ended"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "connection  {}: offsets {} to {}{end}",
            stretch.id, stretch.from, stretch.to
        );
    }
}

fn keys(summary: &Summary) -> String {
    let all = summary.databases.iter();
    let all: Vec<String> = all
        .map(|(db, counts)| format!(" {db}: {}", counts.keys))
        .collect();
    if all.is_empty() {
        " none".to_owned()
    } else {
        all.join(",")
    }
}

fn walked(transcript: &Transcript) -> Result<Summary, String> {
    let mut walker = Walker::new();
    let taken = walker
        .push(&transcript.rdb)
        .map_err(|error| error.to_string())?;
    walker.finish_opaque().map_err(|error| error.to_string())?;
    if taken < transcript.rdb.len() {
        return Err(format!(
            "{} bytes after the end of the snapshot",
            transcript.rdb.len().saturating_sub(taken)
        ));
    }
    Ok(walker.summary().clone())
}

fn check(path: &Path) -> Result<(), Failure> {
    let recording = fixture::load(path)?;
    let transcript = Transcript::of(&recording).map_err(|error| damaged(path, error))?;
    walked(&transcript).map_err(|error| damaged(path, format_args!("the snapshot: {error}")))?;
    let mut scanner = FeedScanner::new(Boundary {
        offset: transcript.base.offset,
        db: 0,
    });
    scanner
        .scan(&transcript.feed, |_| {})
        .map_err(|error| damaged(path, format_args!("the feed: {error}")))
}

fn slice(args: &Slice) -> Result<(), Failure> {
    let path = &args.fixture;
    let recording = fixture::load(path)?;
    let sliced = sliced(recording, args).map_err(|error| damaged(path, error))?;
    let about = std::fs::read_to_string(path.join(ABOUT)).unwrap_or_default();
    let field = |name: &str| {
        let line = about
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name} = \"")));
        line.and_then(|line| line.strip_suffix('"'))
            .unwrap_or_default()
            .to_owned()
    };
    let about = About {
        shows: field("shows"),
        server: field("server"),
        version: field("version"),
        configuration: Vec::new(),
        recorded_by: "backfeed fixture slice".to_owned(),
        redacted: field("redacted"),
    };
    fixture::save(&args.to, &sliced, &about)?;
    print(&format!("made {}\n", args.to.display()))
}

fn sliced(mut recording: Recording, args: &Slice) -> Result<Recording, TranscriptError> {
    if let Some(until) = args.until {
        let until = u64::try_from(until.as_micros()).unwrap_or(u64::MAX);
        recording.records.retain(|record| record.at_us <= until);
    }
    if let Some(most) = args.connections {
        let mut seen: usize = 0;
        recording.records.retain(|record| {
            seen = seen.saturating_add(usize::from(record.kind == Kind::Open));
            seen <= most
        });
    }
    match args.feed {
        Some(bytes) => recording.with_feed_of(bytes),
        None => Ok(recording),
    }
}
