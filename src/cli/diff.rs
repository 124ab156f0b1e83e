//! `backfeed diff`: what two points of a history differ in.

use std::fmt::{self, Write as _};

use super::progress_bar::Bars;
use super::{Exit, Failure, cut, flags};
use crate::display::{Time, counted};
use crate::monitoring::status::unix_ms_now;
use crate::query::diff::{Count, Diff, KeyChange, Request, What, diff};
use crate::recovery::{Progress, RecoveryError, RecoveryTarget, Stage};

const EXAMPLES: &str = "\
Examples:
  backfeed diff --store gs://my-bucket/shop --from yesterday
  backfeed diff --store gs://my-bucket/shop --from '2026-11-29 02:50' --at '2026-11-29 02:57:25'
  backfeed diff --store file:///backups/shop --from offset:1024 --at offset:4096";

/// Show which keys were added, changed and removed between two points
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    store: flags::Store,

    /// The earlier point, written as the later one in --at
    #[arg(long, env = "BACKFEED_FROM", value_name = "WHEN", help_heading = flags::REQUIRED)]
    from: String,

    #[command(flatten)]
    point: flags::Point,

    #[command(flatten)]
    bounds: flags::Bounds,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let now = unix_ms_now();
    let request = Request {
        history: args.point.history,
        from: RecoveryTarget::parse(&args.from, now).map_err(RecoveryError::from)?,
        to: args.point.recovery_target(now)?,
        limit: args.bounds.limit(),
        memory: args.bounds.memory_limit(),
    };
    let archive = args.store.open(&args.common.gcs).await?;
    let bars = Bars::new();
    bars.stage(Stage::Log, None);
    let found = diff(&archive, request).await;
    bars.finish();
    let found = found?;
    args.common.output.print(&found, text)?;
    let unknown = (found.unknown.len() as u64).saturating_add(found.unknown_more);
    if unknown == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::NothingToRestore,
        format_args!(
            "{} cannot be compared, because a command of the log cannot be applied to them. All others are listed. To compare them, \
             restore both points to servers of your own, which replay the log",
            counted(unknown, "key")
        ),
    ))
}

fn text(found: &Diff) -> String {
    let mut out = String::new();
    write_summary(found, &mut out);
    for of in &found.unknown {
        let _ = writeln!(
            out,
            "unknown   db{} {}{} since offset {}: {}",
            of.db,
            of.key,
            cut(of.key_cut),
            of.since,
            of.why
        );
    }
    if found.unknown_more > 0 {
        let _ = writeln!(out, "unknown   … and {} more", found.unknown_more);
    }
    write_lists(found, &mut out);
    out
}

/// The two points, and how many keys differ.
fn write_summary(found: &Diff, out: &mut String) {
    let time = |at: Option<i64>| at.map(|at| format!(", {}", Time(at))).unwrap_or_default();
    for (name, point, at) in [
        ("from", found.from, found.from_unix_ms),
        ("to", found.to, found.to_unix_ms),
    ] {
        let _ = writeln!(
            out,
            "{name:<9} offset {} of history {}{}",
            point.offset,
            point.history,
            time(at)
        );
    }
    for moved in &found.swapped {
        let _ = writeln!(out, "swapped   db{} is db{} now", moved.before, moved.after);
    }
    for (name, count) in [
        ("added", &found.added),
        ("changed", &found.changed),
        ("removed", &found.removed),
    ] {
        let _ = writeln!(out, "{name:<9} {}", Counted(count));
    }
    if found.removed_unlisted > 0 {
        let _ = writeln!(
            out,
            "          {} of those by a flush, which are not listed",
            found.removed_unlisted
        );
    }
}

/// The prefixes and the keys that differ.
fn write_lists(found: &Diff, out: &mut String) {
    if !found.prefixes.is_empty() {
        out.push_str("\nprefixes (added, changed, removed)\n");
    }
    for of in &found.prefixes {
        let name = of
            .prefix
            .as_ref()
            .map_or_else(|| "(others)".to_owned(), |name| format!("{name}*"));
        let _ = writeln!(
            out,
            "  +{} ~{} -{}  {name}",
            of.added, of.changed, of.removed
        );
    }
    if !found.keys.is_empty() {
        out.push_str("\nkeys\n");
    }
    for key in &found.keys {
        let _ = writeln!(out, "  {}", line(key));
    }
    if found.more > 0 {
        let _ = writeln!(out, "  … and {} more", found.more);
    }
}

fn line(key: &KeyChange) -> String {
    let name = format!("db{} {}{}", key.db, key.key, cut(key.key_cut));
    let type_name = |of: Option<&'static str>| of.unwrap_or_default();
    match key.what {
        What::Added => format!("+ {name} ({})", type_name(key.type_after)),
        What::Removed => format!("- {name} ({})", type_name(key.type_before)),
        What::Changed => {
            let mut how = Vec::new();
            if key.type_before != key.type_after {
                how.push(format!("was {}", type_name(key.type_before)));
            } else if key.value_changed {
                how.push("value".to_owned());
            }
            if key.expiry_before_unix_ms != key.expiry_after_unix_ms {
                let shown =
                    |at: Option<i64>| at.map_or("never".to_owned(), |at| Time(at).to_string());
                how.push(format!(
                    "expires {}, before {}",
                    shown(key.expiry_after_unix_ms),
                    shown(key.expiry_before_unix_ms)
                ));
            }
            format!(
                "~ {name} ({}): {}",
                type_name(key.type_after),
                how.join("; ")
            )
        }
    }
}

struct Counted<'a>(&'a Count);

impl fmt::Display for Counted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.keys)?;
        let types = self.0.types.iter().filter(|(_, keys)| **keys > 0);
        let types: Vec<String> = types.map(|(name, keys)| format!("{name} {keys}")).collect();
        if types.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", types.join(", "))
    }
}
