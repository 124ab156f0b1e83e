//! `backfeed copy`: an archive in another store.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::progress_bar::Bars;
use super::signals::{Signals, unless_interrupted};
use super::{Exit, Failure, flags, print};
use crate::config::{Size, parse_duration};
use crate::copy::{Copier, CopyError, Report, Request, check_places};
use crate::display::{Time, counted};
use crate::monitoring::status::unix_ms_now;
use crate::store;

const EXAMPLES: &str = "\
Examples:
  backfeed copy file:///backups/shop gs://my-bucket/shop
  backfeed copy gs://my-bucket/shop s3://other-bucket/shop --follow
  backfeed copy gs://my-bucket/shop az://other/shop --dry-run";

/// Copy an archive to another store: what is there already is not copied again, and nothing there is written over or deleted
///
/// It may be ended at any moment, and be run again. What is copied until then can be restored. Each object is compared with the
/// checksum that the archive has for it before it is created.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    /// The archive: gs://bucket/prefix, s3://bucket/prefix, az://container/prefix or file:///path. Variables such as
    /// FROM_AWS_ENDPOINT_URL or FROM_AZURE_STORAGE_ACCOUNT_NAME are for this one alone
    #[arg(value_name = "FROM")]
    from: String,

    /// Where to copy it to: an empty place, or an earlier copy
    #[arg(value_name = "TO")]
    to: String,

    /// Go on copying what is added, until SIGTERM
    #[arg(long, env = "BACKFEED_FOLLOW", value_parser = clap::builder::BoolishValueParser::new(), conflicts_with = "dry_run")]
    follow: bool,

    /// With --follow: how long to wait before looking again
    #[arg(long, env = "BACKFEED_EVERY", value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    every: Duration,

    /// Read also what is there already, at both places, and compare every byte
    #[arg(long, env = "BACKFEED_DEEP", value_parser = clap::builder::BoolishValueParser::new())]
    deep: bool,

    /// Say what would be copied, and create nothing
    #[arg(long, env = "BACKFEED_DRY_RUN", value_parser = clap::builder::BoolishValueParser::new())]
    dry_run: bool,

    /// FROM is gs://: the key that it is encrypted with, as --encryption-key-file is for TO [default: that one]
    #[arg(long, env = "BACKFEED_FROM_ENCRYPTION_KEY_FILE", value_name = "FILE")]
    from_encryption_key_file: Option<PathBuf>,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    check_places(&store::name_of(&args.from)?, &store::name_of(&args.to)?)?;
    let from_key = args.from_encryption_key_file.as_ref();
    let (from, to) = args.common.gcs.of_both(&args.from, &args.to, from_key)?;
    let request = Request {
        from: store::open_source(&from).await?,
        to: store::open_with(&to).await?,
        dry_run: args.dry_run,
        deep: args.deep,
    };
    if args.follow {
        return follow(&args, request).await;
    }
    let mut report = Report::default();
    let bars = Bars::new();
    let copied = unless_interrupted(
        async {
            let mut copier = Copier::begin(request).await?;
            let round = copier.round(unix_ms_now(), &mut report, &bars).await;
            round.map_err(Failure::from)
        },
        || "what was copied stays, and can be restored. Run it again to go on".to_owned(),
    )
    .await;
    bars.finish();
    copied?;
    args.common.output.print(&report, for_people)?;
    verdict(&report)
}

/// Objects that cannot be copied are told, and end with the exit code of damage.
fn verdict(report: &Report) -> Result<(), Failure> {
    if report.damaged_objects > 0 {
        let objects = counted(report.damaged_objects, "object");
        let Report { from, .. } = report;
        return Err(Failure::new(
            Exit::Damaged,
            format_args!(
                "{objects} in {from} cannot be copied. Everything else is copied. `backfeed verify` says what can still be restored"
            ),
        ));
    }
    match report.notes.first() {
        Some(note) => Err(Failure::new(Exit::Error, note)),
        None => Ok(()),
    }
}

/// Copies again and again. A store that does not answer is asked again.
async fn follow(args: &Args, request: Request) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let bars = Bars::new();
    let mut rounds = Rounds::default();
    let work = async {
        let mut copier = Copier::begin(request).await?;
        loop {
            let begun = Instant::now();
            let mut report = Report::default();
            let copied = copier.round(unix_ms_now(), &mut report, &bars).await;
            bars.finish();
            rounds.after(copied, report, begun, args)?;
            sleep(args.every).await;
        }
    };
    let ended: Result<(), Failure> = tokio::select! {
        biased;
        ended = work => ended,
        name = signals.next() => {
            tracing::info!("{name}: what was copied stays, and can be restored");
            Ok(())
        }
    };
    bars.finish();
    ended?;
    rounds.last.as_ref().map_or(Ok(()), verdict)
}

/// What following has come to.
#[derive(Default)]
struct Rounds {
    last: Option<Report>,
    /// All that the source held then is copied.
    copied_to_unix_ms: Option<i64>,
    told: Option<Instant>,
}

/// A line where nothing is copied, so often at most.
const QUIET: Duration = Duration::from_secs(60);

impl Rounds {
    fn after(
        &mut self,
        copied: Result<(), CopyError>,
        report: Report,
        begun: Instant,
        args: &Args,
    ) -> Result<(), Failure> {
        if let Some(copied_to) = report.copied_to_unix_ms {
            self.copied_to_unix_ms = Some(copied_to);
        }
        let behind_ms = self
            .copied_to_unix_ms
            .map(|copied_to| unix_ms_now().saturating_sub(copied_to).max(0));
        match copied {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                tracing::warn!(behind_ms, "{error}. It is tried again");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
        let total = report.total();
        for damaged in &report.damaged {
            tracing::warn!(
                object = damaged.object,
                "cannot be copied: {}",
                damaged.reason
            );
        }
        for note in &report.notes {
            tracing::warn!("{note}");
        }
        if total.objects > 0 || self.told.is_none_or(|told| told.elapsed() >= QUIET) {
            self.told = Some(Instant::now());
            let behind = behind_ms.map_or_else(
                || "the copy is not complete".to_owned(),
                |ms| format!("the copy is {:.1} s behind", ms as f64 / 1000.0),
            );
            tracing::info!(
                objects = total.objects,
                bytes = total.bytes,
                took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
                "copied {} ({}); {behind}",
                counted(total.objects, "object"),
                Size(total.bytes),
            );
        }
        if args.common.output.json {
            let line = Line {
                behind_ms,
                report: &report,
            };
            let text = serde_json::to_string(&args.common.output.answer(line));
            let text = text.map_err(|error| Failure::new(Exit::Error, error))?;
            print(&format!("{text}\n"))?;
        }
        self.last = Some(report);
        Ok(())
    }
}

/// A line of JSON for each round.
#[derive(serde::Serialize)]
struct Line<'a> {
    behind_ms: Option<i64>,
    #[serde(flatten)]
    report: &'a Report,
}

fn for_people(report: &Report) -> String {
    let mut text = String::new();
    let (verb, total) = match report.dry_run {
        true => ("would copy", report.total()),
        false => ("copied", report.total()),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{} → {}", report.from, report.to);
    let _ = writeln!(
        text,
        "{verb} {} ({}) of {}",
        counted(total.objects, "object"),
        Size(total.bytes),
        counted_histories(report.histories),
    );
    for (what, amount) in [
        ("bases", report.copied.bases),
        ("log", report.copied.log),
        ("documents", report.copied.documents),
    ] {
        if amount.objects > 0 {
            let objects = counted(amount.objects, "object");
            let _ = writeln!(text, "  {what}: {objects} ({})", Size(amount.bytes));
        }
    }
    let _ = writeln!(text, "there already: {}", counted(report.there, "object"));
    for (many, one, why) in [
        (report.in_spans, "segment", "spans have them"),
        (
            report.expired,
            "object",
            "the target has given them up by its own policy",
        ),
        (report.stale, "object", "they are no part of the log"),
    ] {
        if many > 0 {
            let _ = writeln!(text, "not copied: {}, because {why}", counted(many, one));
        }
    }
    if report.only_at_target > 0 {
        let _ = writeln!(
            text,
            "{} at the target alone: something else writes there",
            counted_histories(report.only_at_target)
        );
    }
    for damaged in &report.damaged {
        let _ = writeln!(text, "  DAMAGED {}: {}", damaged.object, damaged.reason);
    }
    for note in &report.notes {
        let _ = writeln!(text, "  note: {note}");
    }
    if let Some(at) = report.copied_to_unix_ms {
        let _ = writeln!(text, "all that the source held at {} is copied", Time(at));
    }
    text
}

fn counted_histories(many: u64) -> String {
    match many {
        1 => "1 history".to_owned(),
        many => format!("{many} histories"),
    }
}
