//! `backfeed check`: tries what a service needs.

use std::fmt::Write;

use super::progress_bar::Bars;
use super::{Exit, Failure, backup, flags, settings, sidecar};
use crate::check::{Area, Finding, Report, Verdict, Wanted, check};
use crate::recovery::{Progress, Stage};

const EXAMPLES: &str = "\
Examples:
  backfeed check backup --store gs://my-bucket/shop --redis redis://10.0.0.5:6379
  backfeed check sidecar --store file:///backups/shop --redis redis://127.0.0.1:6379 --json";

/// Columns of the report for people.
const WIDTH: usize = 80;
/// Where its texts begin.
const INDENT: usize = 16;

/// Try everything that a service needs, without beginning: the server, the store, this machine
///
/// Put `check` before the words that start your service. Each thing gets a verdict, what was seen, and what to change. The store
/// is written to: an empty one gets its archive.json, and a small object is created and deleted.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(subcommand)]
    service: Service,
}

#[derive(Debug, clap::Subcommand)]
enum Service {
    Backup(Box<Backup>),
    Sidecar(Box<Sidecar>),
}

/// Try what `backup` needs, with the flags that it is going to have
#[derive(Debug, clap::Args)]
struct Backup {
    #[command(flatten)]
    args: backup::Args,

    #[command(flatten)]
    output: flags::Output,
}

/// Try what `sidecar` needs, with the flags that it is going to have
#[derive(Debug, clap::Args)]
struct Sidecar {
    #[command(flatten)]
    args: sidecar::Args,

    #[command(flatten)]
    output: flags::Output,
}

impl Args {
    pub(super) fn log(&self) -> &flags::Log {
        match &self.service {
            Service::Backup(backup) => &backup.args.log,
            Service::Sidecar(sidecar) => &sidecar.args.log,
        }
    }

    fn wanted(&self) -> Result<(Wanted, &flags::Output), Failure> {
        Ok(match &self.service {
            Service::Backup(backup) => (backup.args.wanted()?, &backup.output),
            Service::Sidecar(sidecar) => (sidecar.args.wanted()?, &sidecar.output),
        })
    }
}

pub(super) async fn run(args: Args) -> Result<(), Failure> {
    let (wanted, output) = args.wanted()?;
    let bars = Bars::new();
    bars.stage(Stage::Checking, None);
    let mut report = check(&wanted).await;
    bars.finish();
    for finding in &mut report.findings {
        finding.reason = settings::in_flags(&finding.reason);
        finding.change = finding.change.as_deref().map(settings::in_flags);
    }
    output.print(&report, for_people)?;
    match report.failed() {
        Some(failed) => Err(Failure::new(
            exit_of(failed.area),
            format_args!("{}: {}: {}", failed.area, failed.what, failed.reason),
        )),
        None => Ok(()),
    }
}

fn exit_of(area: Area) -> Exit {
    match area {
        Area::Redis => Exit::Redis,
        Area::Store => Exit::Store,
        Area::Host => Exit::Error,
    }
}

fn for_people(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let Finding {
            area,
            what,
            verdict,
            reason,
            change,
        } = finding;
        // Writing to a string cannot fail.
        let _ = write!(text, "{area:5}  {verdict:7}  ");
        wrap(&mut text, &format!("{what}: {reason}"), INDENT);
        if let Some(change) = change {
            let _ = write!(text, "{:INDENT$}", "");
            wrap(&mut text, &format!("change: {change}"), INDENT);
        }
    }
    let count = |verdict| {
        let of_it = report.findings.iter().filter(|it| it.verdict == verdict);
        of_it.count()
    };
    let _ = writeln!(
        text,
        "\n{} ok, {} not known, {} to change, {} failed",
        count(Verdict::Ok),
        count(Verdict::Unknown),
        count(Verdict::Warning),
        count(Verdict::Failed)
    );
    text
}

/// Adds words in lines up to the last column; all lines but the first begin at `indent`. What is longer than a line is not cut: a command is to be copied.
pub(super) fn wrap(text: &mut String, words: &str, indent: usize) {
    let mut column = indent;
    for (number, word) in words.split_whitespace().enumerate() {
        let length = word.chars().count();
        if number > 0 {
            if column.saturating_add(length) >= WIDTH {
                let _ = write!(text, "\n{:indent$}", "");
                column = indent;
            } else {
                text.push(' ');
                column = column.saturating_add(1);
            }
        }
        text.push_str(word);
        column = column.saturating_add(length);
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_fits_a_terminal() {
        let finding = |verdict, reason: &str, change: Option<&str>| Finding {
            area: Area::Redis,
            what: "backlog".to_owned(),
            verdict,
            reason: reason.to_owned(),
            change: change.map(str::to_owned),
        };
        let long = "its 1.0 MiB hold 3 s of the feed at the present rate (340.0 KiB a second). If backfeed is away for longer, \
                    it needs a full sync";
        let change = "redis-cli CONFIG SET repl-backlog-size 128mb";
        let report = Report {
            verdict: Some(Verdict::Warning),
            findings: vec![
                finding(Verdict::Ok, "fine", None),
                finding(Verdict::Warning, long, Some(change)),
            ],
        };
        let expected = "\
redis  ok       backlog: fine
redis  warning  backlog: its 1.0 MiB hold 3 s of the feed at the present rate
                (340.0 KiB a second). If backfeed is away for longer, it needs a
                full sync
                change: redis-cli CONFIG SET repl-backlog-size 128mb

1 ok, 0 not known, 1 to change, 0 failed
";
        assert_eq!(for_people(&report), expected);
    }
}
