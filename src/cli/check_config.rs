//! `backfeed check-config`: reads the file of `serve`, and shows what it means. It connects to nothing.

use std::fmt::Write;

use serde::Serialize;

use super::serve::File;
use super::{Failure, flags, print_json};
use crate::config::{
    CaptureConfig, ClusterConfig, FileProblem, RetentionConfig, ServeConfig, Source, SourceConfig,
    StoreConfig, Upstream,
};
use crate::display;

/// A table is as wide as this at most.
const WIDTH: usize = 80;
/// Between two columns.
const GAP: usize = 2;

const EXAMPLES: &str = "\
Examples:
  backfeed check-config --config backfeed.toml
  backfeed check-config --config backfeed.toml --json";

/// Check the file of `serve`, and list its sources; connects to nothing
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options", after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    file: File,

    #[command(flatten)]
    output: flags::Output,

    #[command(flatten)]
    pub(super) log: flags::Log,
}

/// What the file means. It holds no secret.
#[derive(Debug, Serialize)]
struct Checked {
    /// As it was named.
    file: String,
    /// It can be used.
    usable: bool,
    /// What is wrong with it.
    problems: Vec<FileProblem>,
    /// How many full syncs may run at the same time.
    full_syncs: Option<usize>,
    /// By their names.
    sources: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    redis: String,
    /// `file`, `variable`, or null: there is none.
    password_from: Option<&'static str>,
    store: String,
    flush_interval_ms: u64,
    /// What is kept. Null: everything.
    keeps: Option<String>,
    spool_dir: Option<String>,
}

impl Shown {
    fn of(source: &SourceConfig) -> Self {
        let server = match &source.redis {
            Upstream::Server(server) => Some(server.clone()),
            Upstream::Sentinels(sentinels) => Some(sentinels.server(String::new(), 0)),
            Upstream::Shard(shard) => shard.server.borrow().clone(),
        };
        let names = (source.name.as_str(), source.redis.to_string());
        let (capture, retention) = (&source.capture, &source.retention);
        Self::with(names, server.as_ref(), &source.store, capture, retention)
    }

    fn of_cluster(cluster: &ClusterConfig) -> Self {
        let names = (cluster.name.as_str(), cluster.cluster.to_string());
        let (capture, retention) = (&cluster.capture, &cluster.retention);
        let node = cluster.cluster.seeds.first();
        Self::with(names, node, &cluster.store, capture, retention)
    }

    fn with(
        (name, redis): (&str, String),
        server: Option<&Source>,
        store: &StoreConfig,
        capture: &CaptureConfig,
        retention: &RetentionConfig,
    ) -> Self {
        let password = server.map(|server| (&server.password_file, &server.password));
        let password_from = match password {
            Some((Some(_), _)) => Some("file"),
            Some((None, Some(_))) => Some("variable"),
            Some((None, None)) | None => None,
        };
        let interval = capture.flush_interval.as_millis();
        let spool = capture.spool.as_ref();
        Self {
            name: name.to_owned(),
            redis,
            password_from,
            store: store.url.clone(),
            flush_interval_ms: u64::try_from(interval).unwrap_or(u64::MAX),
            keeps: retention.keep.map(|policy| policy.to_string()),
            spool_dir: spool.map(|spool| spool.dir.display().to_string()),
        }
    }
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let file = args.file.open();
    match file.load() {
        Ok(loaded) => args
            .output
            .print(&checked(file.name(), &loaded.config), table),
        Err(error) => {
            if args.output.json {
                print_json(&args.output.answer(Checked {
                    file: error.path.clone(),
                    usable: false,
                    problems: error.problems.clone(),
                    full_syncs: None,
                    sources: Vec::new(),
                }))?;
            }
            Err(error.into())
        }
    }
}

fn checked(file: String, config: &ServeConfig) -> Checked {
    Checked {
        file,
        usable: true,
        problems: Vec::new(),
        full_syncs: Some(config.service.full_syncs),
        sources: {
            let clusters = config.clusters.iter().map(Shown::of_cluster);
            let mut sources: Vec<Shown> = config.sources.iter().map(Shown::of).collect();
            sources.extend(clusters);
            sources.sort_by(|one, other| one.name.cmp(&other.name));
            sources
        },
    }
}

fn table(checked: &Checked) -> String {
    let head = ["NAME", "REDIS", "STORE"].map(str::to_owned);
    let rows = checked.sources.iter().map(|source| {
        [
            source.name.clone(),
            source.redis.clone(),
            source.store.clone(),
        ]
    });
    let rows: Vec<[String; 3]> = std::iter::once(head).chain(rows).collect();
    let [name, redis, store] = widths(&rows);
    let mut text = format!(
        "{} can be used: {}\n\n",
        checked.file,
        display::counted(checked.sources.len() as u64, "source")
    );
    for [of_name, of_redis, of_store] in &rows {
        let line = format!(
            "{:name$}  {:redis$}  {}",
            cut(of_name, name),
            cut(of_redis, redis),
            cut(of_store, store)
        );
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// What each column needs. If that is more than there is, the widest ones give.
fn widths(rows: &[[String; 3]]) -> [usize; 3] {
    let mut widths = [0; 3];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let room = WIDTH.saturating_sub(GAP.saturating_mul(2));
    while widths
        .iter()
        .fold(0, |sum: usize, width| sum.saturating_add(*width))
        > room
    {
        let widest = widths.iter_mut().max_by_key(|width| **width);
        let Some(widest) = widest else { break };
        *widest = widest.saturating_sub(1);
    }
    widths
}

/// The end tells most: the beginning is alike in all rows.
fn cut(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        return cell.to_owned();
    }
    let kept = width.saturating_sub(1);
    let end: String = cell.chars().skip(length.saturating_sub(kept)).collect();
    format!("…{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_fits_whatever_is_in_it() {
        let row = |name: &str, redis: &str, store: &str| [name, redis, store].map(str::to_owned);
        let long = "x".repeat(100);
        for rows in [
            vec![row("a", "b", "c")],
            vec![row(&long, &long, &long)],
            vec![
                row("shop", "redis://10.0.0.5:6379", &long),
                row("a", &long, "c"),
            ],
        ] {
            let widths = widths(&rows);
            assert!(widths.iter().sum::<usize>() <= 76, "{widths:?}");
            for row in &rows {
                for (cell, width) in row.iter().zip(widths) {
                    let shown = cut(cell, width);
                    assert!(shown.chars().count() <= width);
                    assert!(cell.ends_with(shown.trim_start_matches('…')));
                }
            }
        }
        assert_eq!(cut("gs://bucket/shop", 6), "…/shop");
    }
}
