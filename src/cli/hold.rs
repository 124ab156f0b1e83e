//! `backfeed hold`: points that no policy deletes.

use std::fmt::Write as _;

use serde::Serialize;

use super::progress_bar::Bars;
use super::{Exit, Failure, flags};
use crate::archive::{HoldDoc, HoldName, new_writer};
use crate::display::Time;
use crate::expiry::{HoldRequest, add_hold};
use crate::monitoring::status::unix_ms_now;

const EXAMPLES: &str = "\
Examples:
  backfeed hold add before-upgrade --store gs://my-bucket/shop
  backfeed hold list --store gs://my-bucket/shop
  backfeed hold remove before-upgrade --store gs://my-bucket/shop";

/// Hold points, so that no policy deletes them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Add(Add),
    List(List),
    Remove(Remove),
}

/// Hold a point: with the base and the log that a restore of it needs
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options")]
struct Add {
    /// What the hold is called
    #[arg(value_name = "NAME")]
    name: HoldName,

    #[command(flatten)]
    store: flags::Store,

    #[command(flatten)]
    point: flags::Point,

    #[command(flatten)]
    common: flags::Common,
}

/// Show all holds
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options")]
struct List {
    #[command(flatten)]
    store: flags::Store,

    #[command(flatten)]
    common: flags::Common,
}

/// Remove a hold. What it held stays until a policy deletes it
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options")]
struct Remove {
    /// What the hold is called
    #[arg(value_name = "NAME")]
    name: HoldName,

    #[command(flatten)]
    store: flags::Store,

    #[command(flatten)]
    common: flags::Common,
}

/// The JSON of all three: see `docs/json.md`.
#[derive(Debug, Serialize)]
struct Answer {
    /// The store.
    store: String,
    /// All holds; of `add` and `remove`, the one that was added or removed.
    holds: Vec<HoldDoc>,
}

impl Args {
    pub(super) fn log(&self) -> &flags::Log {
        match &self.action {
            Action::Add(add) => &add.common.log,
            Action::List(list) => &list.common.log,
            Action::Remove(remove) => &remove.common.log,
        }
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::Add(args) => add(args).await,
        Action::List(args) => list(args).await,
        Action::Remove(args) => remove(args).await,
    }
}

async fn add(args: Add) -> Result<(), Failure> {
    let now_unix_ms = unix_ms_now();
    let recovery_target = args.point.recovery_target(now_unix_ms)?;
    let archive = args.store.open(&args.common.gcs).await?;
    let request = HoldRequest {
        name: args.name,
        history: args.point.history,
        recovery_target,
        writer: new_writer("hold"),
        now_unix_ms,
    };
    let bars = Bars::new();
    let hold = add_hold(&archive, &request, &bars).await;
    bars.finish();
    let answer = Answer {
        store: archive.store().url(),
        holds: vec![hold?],
    };
    args.common
        .output
        .print(&answer, |answer| lines("held", answer))
}

async fn list(args: List) -> Result<(), Failure> {
    let archive = args.store.open(&args.common.gcs).await?;
    let answer = Answer {
        store: archive.store().url(),
        holds: archive.all_holds().await?,
    };
    args.common
        .output
        .print(&answer, |answer| match answer.holds.is_empty() {
            true => "no holds\n".to_owned(),
            false => lines("hold", answer),
        })
}

async fn remove(args: Remove) -> Result<(), Failure> {
    let archive = args.store.open(&args.common.gcs).await?;
    let mut holds = archive.all_holds().await?;
    holds.retain(|hold| hold.name == args.name);
    if holds.is_empty() {
        return Err(Failure::new(
            Exit::NothingToRestore,
            format_args!(
                "there is no hold `{}`. `backfeed hold list` shows all holds",
                args.name
            ),
        ));
    }
    let deleted = archive.remove_hold(args.name).await?;
    if let Some(reason) = &deleted.denied_reason {
        return Err(Failure::new(
            Exit::Store,
            format_args!("the hold stays, because the store does not delete it: {reason}"),
        ));
    }
    let answer = Answer {
        store: archive.store().url(),
        holds,
    };
    args.common
        .output
        .print(&answer, |answer| lines("removed", answer))
}

fn lines(what: &str, answer: &Answer) -> String {
    let mut text = String::new();
    for hold in &answer.holds {
        let _ = write!(text, "{what} {}: {}", hold.name, hold.point);
        if let Some(at) = hold.as_of_unix_ms {
            let _ = write!(text, " ({})", Time(at));
        }
        let _ = writeln!(text, ", from the base at {}", hold.base);
    }
    text
}
