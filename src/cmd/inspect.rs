//! `backfeed inspect`: what is in an RDB file, or in a base of a store.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt;
use serde::Serialize;
use tokio::fs::File;
use tokio::io::AsyncReadExt;

use super::bars::Bars;
use super::listing::{Size, Time};
use super::{Exit, Failure, flags};
use crate::inspect::{Inspection, Inspector, Tally};
use crate::lookup::plan_of;
use crate::position::{Offset, Position};
use crate::restore::{Progress, RestoreError, Stage};
use crate::status::unix_ms_now;

/// Bytes that are read of a file at once.
const CHUNK: usize = 1 << 20;

/// Show what is in an RDB file, or in the base of a store at or before a point: keys by database, type and encoding, expiries,
/// the biggest keys, bytes by prefix
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// An RDB file (uncompressed)
    #[arg(value_name = "FILE.rdb")]
    file: Option<PathBuf>,

    #[command(flatten)]
    store: Option<flags::Store>,

    #[command(flatten)]
    point: flags::Point,

    /// So many of the biggest keys, and of the prefixes
    #[arg(long, env = "BACKFEED_TOP", value_name = "N", default_value = "10",
          value_parser = clap::value_parser!(u64).range(..=crate::inspect::TOP_LIMIT as u64))]
    top: u64,

    #[command(flatten)]
    output: flags::Output,

    #[command(flatten)]
    pub(super) log: flags::Log,
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
    /// The point that was asked for.
    wanted: Position,
    /// Bytes of log between the two, which are not included.
    log_bytes_after: u64,
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let top = usize::try_from(args.top).unwrap_or(usize::MAX);
    let report = match (&args.file, &args.store) {
        (Some(_), _) if args.point.is_named() => {
            return Err(Failure::new(
                Exit::Usage,
                "--at, --offset and --history name a point of a store: leave out the file, and name the store with --store",
            ));
        }
        (Some(file), _) => of_file(file, top).await?,
        (None, Some(store)) => of_store(store, &args.point, top).await?,
        (None, None) => {
            return Err(Failure::new(
                Exit::Usage,
                "name an RDB file, or a store with --store URL",
            ));
        }
    };
    args.output.print(&report, ToString::to_string)?;
    match (report.found.unread_from, &report.found.unread_reason) {
        (Some(from), Some(reason)) => Err(Failure::new(
            Exit::Damaged,
            format_args!(
                "{}: it can be read up to byte {from} only: {reason}",
                report.source
            ),
        )),
        _ => Ok(()),
    }
}

async fn of_file(path: &Path, top: usize) -> Result<Report, Failure> {
    let failed = |error: io::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::new(Exit::Error, message)
    };
    let mut file = File::open(path).await.map_err(failed)?;
    let length = file.metadata().await.map_err(failed)?.len();
    let bars = Bars::new();
    bars.stage(Stage::Snapshot, Some(length));
    let damaged = |error: &dyn fmt::Display| {
        Failure::new(Exit::Damaged, format!("{}: {error}", path.display()))
    };
    let mut inspector = Inspector::new(top);
    let mut chunk = Vec::with_capacity(CHUNK);
    loop {
        chunk.clear();
        let read = (&mut file).take(CHUNK as u64).read_to_end(&mut chunk).await;
        if read.map_err(failed)? == 0 {
            break;
        }
        inspector.push(&chunk).map_err(|error| damaged(&error))?;
        bars.advance(chunk.len() as u64);
    }
    bars.finish();
    Ok(Report {
        source: path.display().to_string(),
        base: None,
        found: inspector.finish().map_err(|error| damaged(&error))?,
    })
}

async fn of_store(
    store: &flags::Store,
    point: &flags::Point,
    top: usize,
) -> Result<Report, Failure> {
    let when = point.when(unix_ms_now())?;
    let archive = store.open().await?;
    let plan = plan_of(&archive, point.history, when).await?;
    let base = &plan.base;
    let bars = Bars::new();
    bars.stage(Stage::Snapshot, Some(base.raw_bytes));
    let damaged = |error: &dyn fmt::Display| {
        let message = format!("the base at {}: {error}", base.position());
        Failure::new(Exit::Damaged, message)
    };
    let mut inspector = Inspector::new(top);
    let mut bytes = archive.read_base(base).await?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(RestoreError::from)?;
        inspector.push(&chunk).map_err(|error| damaged(&error))?;
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
        found: inspector.finish().map_err(|error| damaged(&error))?,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.source)?;
        if let Some(base) = &self.base {
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
                    "  note      {} of log up to offset {} come after it, and are not included; `backfeed restore --to FILE.rdb` \
                     includes them",
                    Size(base.log_bytes_after),
                    base.wanted.offset
                )?;
            }
        }
        let found = &self.found;
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
        write!(f, "  keys      {}", found.keys)?;
        for (db, counts) in &found.databases {
            write!(f, "; db{db} {} ({} expire)", counts.keys, counts.expires)?;
        }
        writeln!(f)?;
        if let (Some(nearest), Some(farthest)) = (
            found.expiries.nearest_unix_ms,
            found.expiries.farthest_unix_ms,
        ) {
            writeln!(
                f,
                "  expire    {} keys, from {} to {}",
                found.expiries.keys,
                Time(nearest),
                Time(farthest)
            )?;
        }
        writeln!(f, "  functions {}", found.functions)?;
        if !found.modules.is_empty() {
            let modules: Vec<&str> = found.modules.iter().map(String::as_str).collect();
            writeln!(f, "  modules   {}", modules.join(", "))?;
        }
        f.write_str(&self.tables())
    }
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
                "  {size:>14}  db{} {}  ({}: {}{})",
                big.db,
                big.key,
                big.type_name,
                big.encoding,
                expiry.unwrap_or_default()
            );
        }
        text
    }
}
