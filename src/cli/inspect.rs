//! `backfeed inspect`: what is in an RDB file, or in a base of a store.

use std::convert::Infallible;
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use futures::StreamExt;
use serde::Serialize;

use super::progress_bar::Bars;
use super::{Exit, Failure, cut, flags};
use crate::config::Size;
use crate::display::{Time, counted};
use crate::monitoring::status::unix_ms_now;
use crate::query::inspect::{Inspection, Inspector, Tally, Values};
use crate::query::key_history::plan_of;
use crate::recovery::{Progress, RecoveryError, Stage};
use crate::wire::position::{Offset, Position};
use crate::wire::rdb::reader::ReadError;

/// The largest window that a compressed file may ask for: 128 MiB, as of the zstd command.
const WINDOW_LOG_MAX: u32 = 27;
/// Bytes of one read of a file.
const CHUNK: usize = 1 << 20;

const EXAMPLES: &str = "\
Examples:
  backfeed inspect dump.rdb --top 20
  backfeed inspect --store gs://my-bucket/shop --at yesterday";

/// Show what is in an RDB file, or in the base of a store at or before a point: keys by database, type and encoding, expiries,
/// the biggest keys, bytes by prefix. Values are read only with --values
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    /// An RDB file, compressed by zstd or not; `-`: standard input
    #[arg(value_name = "FILE.rdb")]
    file: Option<PathBuf>,

    #[command(flatten)]
    store: Option<flags::Store>,

    /// How many of the biggest keys, and of the prefixes
    #[arg(long, env = "BACKFEED_TOP", value_name = "N", default_value = "10",
          value_parser = clap::value_parser!(u64).range(..=crate::query::inspect::TOP_LIMIT as u64))]
    top: u64,

    /// Read each value, and report the keys whose value does not fit its type
    #[arg(long, env = "BACKFEED_VALUES", value_parser = clap::builder::BoolishValueParser::new())]
    values: bool,

    #[command(flatten)]
    point: flags::Point,

    #[command(flatten)]
    pub(super) common: flags::Common,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    /// The file or the store.
    source: String,
    /// Where the base stands.
    base: Option<Base>,
    #[serde(flatten)]
    found: Inspection,
}

#[derive(Debug, Serialize)]
struct Base {
    at: Position,
    created_unix_ms: i64,
    /// The point that the user named.
    wanted: Position,
    /// Bytes of log between the two, which are not included.
    log_bytes_after: u64,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let top = usize::try_from(args.top).unwrap_or(usize::MAX);
    let inspector = if args.values {
        Inspector::of_values(top)
    } else {
        Inspector::new(top)
    };
    let report = match (&args.file, &args.store) {
        (Some(_), _) if args.point.is_named() => {
            return Err(Failure::new(
                Exit::Usage,
                "--at, --offset and --history name a point of a store: leave out the file, and name the store with --store",
            ));
        }
        (Some(file), _) => of_file(file.clone(), inspector).await?,
        (None, Some(store)) => of_store(store, &args.common.gcs, &args.point, inspector).await?,
        (None, None) => {
            return Err(Failure::new(
                Exit::Usage,
                "name an RDB file, or a store with --store URL",
            ));
        }
    };
    args.common.output.print(&report, ToString::to_string)?;
    match (report.found.unread_from, &report.found.unread_reason) {
        (Some(from), Some(reason)) => Err(Failure::new(
            Exit::Damaged,
            format_args!(
                "{}: it can be read up to byte {from} only: {reason}",
                report.source
            ),
        )),
        _ => match &report.found.values {
            Some(values) if values.bad > 0 => Err(Failure::new(
                Exit::Damaged,
                format_args!(
                    "{}: the value of {} cannot be read",
                    report.source,
                    counted(values.bad, "key")
                ),
            )),
            _ => Ok(()),
        },
    }
}

async fn of_file(path: PathBuf, inspector: Inspector) -> Result<Report, Failure> {
    let read = tokio::task::spawn_blocking(move || read_file(&path, inspector));
    read.await
        .unwrap_or_else(|error| Err(Failure::new(Exit::Error, error)))
}

fn read_file(path: &Path, mut inspector: Inspector) -> Result<Report, Failure> {
    let source = if is_stdin(path) {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    let failed =
        |error: io::Error| Failure::new(Exit::Error, format!("cannot read {source}: {error}"));
    let (mut input, is_compressed) = open(path).map_err(failed)?;
    let length = (!is_compressed)
        .then(|| std::fs::metadata(path).ok())
        .flatten();
    let bars = Bars::new();
    bars.stage(Stage::Snapshot, length.map(|file| file.len()));
    let wrong = |error| refused(&source, error);
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        chunk.clear();
        match (&mut input).take(CHUNK as u64).read_to_end(&mut chunk) {
            Ok(0) => break,
            Ok(_) => {}
            // Bytes that cannot be decompressed are damaged, or cut off.
            Err(error) if is_compressed => {
                return Err(Failure::new(Exit::Damaged, format!("{source}: {error}")));
            }
            Err(error) => return Err(failed(error)),
        }
        inspector.push(&chunk).map_err(wrong)?;
        bars.advance(chunk.len() as u64);
    }
    bars.finish();
    let found = inspector.finish().map_err(wrong)?;
    Ok(Report {
        source,
        base: None,
        found,
    })
}

/// A file of this name is `./-`.
fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// The bytes of the RDB, and whether they are compressed where they come from.
fn open(path: &Path) -> io::Result<(Box<dyn Read>, bool)> {
    let mut file: Box<dyn Read> = if is_stdin(path) {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path)?)
    };
    let mut first = Vec::new();
    file.as_mut().take(4).read_to_end(&mut first)?;
    // A frame, or one that is skipped (RFC 8878).
    let is_compressed = matches!(
        *first,
        [0x28, 0xB5, 0x2F, 0xFD] | [0x50..=0x5F, 0x2A, 0x4D, 0x18]
    );
    let whole = io::Cursor::new(first).chain(file);
    if !is_compressed {
        return Ok((Box::new(whole), false));
    }
    let mut decoder = zstd::stream::read::Decoder::new(whole)?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok((Box::new(decoder), true))
}

/// The file or base could not be read to its end. That it takes too much memory is no damage.
fn refused(source: &str, error: ReadError<Infallible>) -> Failure {
    let exit = match error {
        ReadError::TooLong { .. } | ReadError::LongName { .. } => Exit::Error,
        _ => Exit::Damaged,
    };
    Failure::new(exit, format_args!("{source}: {error}"))
}

async fn of_store(
    store: &flags::Store,
    gcs: &flags::Gcs,
    point: &flags::Point,
    mut inspector: Inspector,
) -> Result<Report, Failure> {
    let recovery_target = point.recovery_target(unix_ms_now())?;
    let archive = store.open(gcs).await?;
    let plan = plan_of(&archive, point.history, recovery_target).await?;
    let base = &plan.base;
    let bars = Bars::new();
    bars.stage(Stage::Snapshot, Some(base.raw_bytes));
    let wrong = |error| refused(&format!("the base at {}", base.position()), error);
    let mut bytes = archive.read_base(base).await?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(RecoveryError::from)?;
        inspector.push(&chunk).map_err(wrong)?;
        bars.advance(chunk.len() as u64);
    }
    bars.finish();
    Ok(Report {
        source: archive.store().url(),
        base: Some(Base {
            at: base.position(),
            created_unix_ms: base.created_unix_ms,
            wanted: plan.end_position,
            log_bytes_after: plan.bytes_log(),
        }),
        found: inspector.finish().map_err(wrong)?,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.source)?;
        if let Some(base) = &self.base {
            fmt_base(base, f)?;
        }
        let found = &self.found;
        fmt_rdb(found, f)?;
        match &found.values {
            None => writeln!(f, "  values    not looked into (--values does that)")?,
            Some(values) => fmt_values(values, f)?,
        }
        fmt_keys(found, f)?;
        f.write_str(&self.tables())
    }
}

fn fmt_base(base: &Base, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Offset(offset) = base.at.offset;
    writeln!(
        f,
        "  base      offset {offset} of history {}, {}",
        base.at.history,
        Time(base.created_unix_ms)
    )?;
    if base.log_bytes_after > 0 {
        writeln!(
            f,
            "  note      {} of log up to offset {} come after it, and are not included; \
             `backfeed restore --to FILE.rdb` includes them",
            Size(base.log_bytes_after),
            base.wanted.offset
        )?;
    }
    Ok(())
}

/// Its format, and how far it could be read.
fn fmt_rdb(found: &Inspection, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let server = ["valkey-ver", "redis-ver"]
        .iter()
        .find_map(|name| Some((name, found.aux.get(*name)?)));
    let server = server.map(|(name, version)| {
        let flavour = name.trim_end_matches("-ver");
        format!(", written by {flavour} {version}")
    });
    writeln!(
        f,
        "  rdb       {}, {}{}",
        found.rdb_magic,
        Size(found.bytes),
        server.unwrap_or_default()
    )?;
    if let (Some(from), Some(reason)) = (found.unread_from, &found.unread_reason) {
        writeln!(f, "  PROBLEM   read up to byte {from} only: {reason}")?;
    }
    if !found.version_known {
        writeln!(
            f,
            "  note      {} is a newer RDB version than this program knows: what is new in it may be missing below",
            found.rdb_magic
        )?;
    }
    Ok(())
}

fn fmt_values(values: &Values, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "  values    {} read to their end", values.read)?;
    if values.unread > 0 {
        write!(f, ", {} that only a module can read", values.unread)?;
    }
    writeln!(f)?;
    for bad in &values.problems {
        writeln!(
            f,
            "  PROBLEM   the value of db{} {}{} ({}): {}",
            bad.db,
            bad.key,
            cut(bad.key_cut),
            bad.type_name,
            bad.why
        )?;
    }
    let more = values.bad.saturating_sub(values.problems.len() as u64);
    if more > 0 {
        writeln!(f, "  PROBLEM   and {more} more values (--top)")?;
    }
    Ok(())
}

/// How many keys, functions and modules there are.
fn fmt_keys(found: &Inspection, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "  keys      {}", found.keys)?;
    for (db, counts) in &found.databases {
        write!(f, "; db{db} {} ({} expire)", counts.keys, counts.expires)?;
    }
    writeln!(f)?;
    let expiries = &found.expiries;
    if let (Some(nearest), Some(farthest)) = (expiries.nearest_unix_ms, expiries.farthest_unix_ms) {
        writeln!(
            f,
            "  expire    {} keys, from {} to {}",
            expiries.keys,
            Time(nearest),
            Time(farthest)
        )?;
    }
    writeln!(f, "  functions {}", found.functions)?;
    if !found.modules.is_empty() {
        let modules: Vec<&str> = found.modules.iter().map(String::as_str).collect();
        writeln!(f, "  modules   {}", modules.join(", "))?;
    }
    Ok(())
}

impl Report {
    fn tables(&self) -> String {
        let mut text = String::new();
        let found = &self.found;
        let row = |text: &mut String, tally: Tally, what: &dyn fmt::Display| {
            let size = Size(tally.bytes).to_string();
            let _ = writeln!(text, "  {:>12} keys  {size:>14}  {what}", tally.keys);
        };
        if !found.encodings.is_empty() {
            text.push_str("\nencodings\n");
        }
        for encoding in &found.encodings {
            let what = format!("{}: {}", encoding.type_name, encoding.encoding);
            row(&mut text, encoding.tally, &what);
        }
        if !found.prefixes.is_empty() {
            text.push_str("\nprefixes\n");
        }
        for prefix in &found.prefixes {
            match &prefix.prefix {
                Some(name) => row(&mut text, prefix.tally, &format_args!("{name}*")),
                None => row(&mut text, prefix.tally, &"(no `:`)"),
            }
        }
        if found.other_prefixes.keys > 0 {
            row(&mut text, found.other_prefixes, &"other");
        }
        if !found.biggest.is_empty() {
            text.push_str("\nbiggest keys (bytes in the RDB)\n");
        }
        for big in &found.biggest {
            let size = Size(big.bytes).to_string();
            let expiry = big
                .expiry_unix_ms
                .map(|at| format!(", expires {}", Time(at)));
            let _ = writeln!(
                text,
                "  {size:>14}  db{} {}{}  ({}: {}{})",
                big.db,
                big.key,
                cut(big.key_cut),
                big.type_name,
                big.encoding,
                expiry.unwrap_or_default()
            );
        }
        text
    }
}
