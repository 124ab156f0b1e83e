//! The command line: one file a verb. Flags are lowered into [`crate::config`] once, here.
//!
//! Every flag `--some-name` has the environment variable `BACKFEED_SOME_NAME`, unless the flag is meant for one run.

mod backup;
mod check;
mod check_config;
mod completions;
mod consolidate;
mod copy;
mod cost;
mod diff;
mod drill;
mod environment;
mod exit;
mod expire;
mod fixture;
mod flags;
mod get;
mod hold;
mod inspect;
mod list;
mod list_cluster;
mod listing;
mod merge;
mod process_setup;
mod progress_bar;
mod promote;
mod record;
mod replay;
mod restore;
mod serve;
mod settings;
mod sidecar;
mod signals;
mod standby;
#[cfg(feature = "http")]
mod status;
mod supervised;
mod verify;
mod version;

use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;

use clap::builder::{Resettable, StyledStr};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};

pub use process_setup::prepare;

use crate::config;
use crate::monitoring::logging::{self, Level, LogFormat};

const EXIT_CODES: &str = "\
Exit codes:
  0  done; also after SIGTERM, when everything was stored
  1  any other error; the grace time after SIGTERM was too short
  2  wrong usage
  3  the store: not reachable, not writable, full, or no archive
  4  Redis: not reachable, wrong password, no permission, not supported, or a target
     that must not be written over, or does not hold what it was given
  5  superseded: another writer has taken the log over
  6  nothing to restore, or that point cannot be restored
  7  the archive is damaged, or of a newer format

Every flag --some-name can be given as the environment variable BACKFEED_SOME_NAME, unless its
help says otherwise. An empty variable counts as unset.";

const EXAMPLES: &str = "\
Examples:
  backfeed backup --store file:///tmp/backups --redis redis://127.0.0.1:6379
  backfeed list --store file:///tmp/backups
  backfeed restore --store file:///tmp/backups --to redis://127.0.0.1:6380 --at 5m
  backfeed restore --help";

/// Backs Redis and Valkey up from the replication feed, and restores by feeding it back
#[derive(Debug, Parser)]
#[command(
    name = "backfeed",
    version = version::SHORT,
    long_version = version::long(),
    max_term_width = 110,
    after_help = EXAMPLES
)]
pub struct Cli {
    #[command(subcommand)]
    verb: Verb,

    /// The verb's name.
    #[arg(skip)]
    name: String,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Sidecar(sidecar::Args),
    Backup(backup::Args),
    Check(check::Args),
    #[cfg(feature = "http")]
    Status(status::Args),
    Serve(serve::Args),
    CheckConfig(check_config::Args),
    Standby(standby::Args),
    Promote(promote::Args),
    Restore(restore::Args),
    List(list::Args),
    Cost(cost::Args),
    Copy(copy::Args),
    Consolidate(consolidate::Args),
    Merge(merge::Args),
    Verify(verify::Args),
    Drill(drill::Args),
    Expire(expire::Args),
    Hold(hold::Args),
    Inspect(inspect::Args),
    Get(get::Args),
    Diff(diff::Args),
    Record(record::Args),
    Replay(replay::Args),
    Fixture(fixture::Args),
    Completions(completions::Completions),
    Man(completions::Man),
}

impl Cli {
    fn log(&self) -> Option<(&flags::Log, Level)> {
        Some(match &self.verb {
            Verb::Sidecar(args) => (&args.log, Level::Info),
            Verb::Backup(args) => (&args.log, Level::Info),
            Verb::Check(args) => (args.log(), Level::Quiet),
            #[cfg(feature = "http")]
            Verb::Status(args) => (&args.log, Level::Quiet),
            Verb::Serve(args) => (&args.log, Level::Info),
            Verb::CheckConfig(args) => (&args.log, Level::Quiet),
            Verb::Standby(args) => (&args.log, Level::Info),
            Verb::Promote(args) => (&args.common.log, Level::Info),
            Verb::Restore(args) => (&args.common.log, Level::Info),
            Verb::List(args) => (&args.common.log, Level::Quiet),
            Verb::Cost(args) => (&args.common.log, Level::Quiet),
            Verb::Copy(args) => (&args.common.log, Level::Info),
            Verb::Consolidate(args) => (&args.common.log, Level::Info),
            Verb::Merge(args) => (&args.common.log, Level::Info),
            Verb::Verify(args) => (&args.common.log, Level::Quiet),
            Verb::Drill(args) => (&args.common.log, Level::Quiet),
            Verb::Expire(args) => (&args.common.log, Level::Info),
            Verb::Hold(args) => (args.log(), Level::Quiet),
            Verb::Inspect(args) => (&args.common.log, Level::Quiet),
            Verb::Get(args) => (&args.common.log, Level::Quiet),
            Verb::Diff(args) => (&args.common.log, Level::Quiet),
            Verb::Record(args) => (&args.log, Level::Info),
            Verb::Replay(args) => (&args.log, Level::Info),
            Verb::Fixture(args) => (args.log(), Level::Quiet),
            Verb::Completions(_) | Verb::Man(_) => return None,
        })
    }

    /// Does the verb run many captures at the same time?
    #[must_use]
    pub fn has_many_sources(&self) -> bool {
        matches!(self.verb, Verb::Serve(_))
    }

    /// The form of the log, and of the last error.
    #[must_use]
    pub fn log_format(&self) -> LogFormat {
        self.log()
            .map_or_else(LogFormat::default, |(log, _)| log.log_format)
    }
}

/// The exit code of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Ok = 0,
    /// Any other error.
    Error = 1,
    /// Wrong usage.
    Usage = 2,
    /// The store, or what lies in it is no archive.
    Store = 3,
    /// The source or target.
    Redis = 4,
    /// Another writer has taken over.
    Superseded = 5,
    /// Nothing to restore, or that point cannot be restored.
    NothingToRestore = 6,
    /// A damaged archive.
    Damaged = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Follows a key that is cut.
fn cut(is_cut: bool) -> &'static str {
    if is_cut { " (cut)" } else { "" }
}

/// Why a command failed, in one line for the operator, and the exit code for scripts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    exit: Exit,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// `message`: what failed, where, what to try. Line breaks become spaces, and settings become flags.
    #[must_use]
    pub fn new(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: settings::in_long_flags(&in_one_line(&message)),
            hint: None,
        }
    }

    /// The same with the message as it is, but for line breaks: it names no settings.
    fn as_it_is(exit: Exit, message: impl fmt::Display) -> Self {
        Self {
            exit,
            message: in_one_line(&message),
            hint: None,
        }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

fn in_one_line(message: &impl fmt::Display) -> String {
    message.to_string().lines().collect::<Vec<_>>().join(" ")
}

/// A command line that is not run: an error in it, or `--help`.
#[derive(Debug)]
pub struct Refused {
    error: clap::Error,
    args: Vec<OsString>,
}

impl Refused {
    /// False for `--help` and `--version`.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.error.use_stderr()
    }

    /// What to print, without the passwords that were typed.
    #[must_use]
    pub fn text(&self, colour: bool) -> String {
        let rendered = self.error.render();
        let mut text = if colour {
            rendered.ansi().to_string()
        } else {
            rendered.to_string()
        };
        if !self.is_error() {
            return text;
        }
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            // A password may hold blanks, so the whole argument is known better here than in the text.
            let mistyped = || {
                let after = arg.split_once(':')?.1.trim_start_matches('/');
                after.contains('@').then_some(after)
            };
            if let Some(after) = arg
                .split_once("redis://")
                .map(|(_, after)| after)
                .or_else(mistyped)
            {
                let clean = after.rsplit_once('@').map_or("***", |(_, host)| host);
                let clean = if clean == "***" && !after.contains(':') {
                    after
                } else {
                    clean
                };
                text = text.replace(after, clean);
            }
        }
        config::redact(&text)
    }
}

/// The command line, strictly: environment values are never shown.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Refused> {
    let args: Vec<OsString> = args.into_iter().collect();
    let parsed = |command: clap::Command| {
        let matches = command.try_get_matches_from(&args)?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        cli.name = matches.subcommand_name().unwrap_or_default().to_owned();
        Ok(cli)
    };
    parsed(environment::without_empty(
        command(),
        &environment::is_empty,
    ))
    // The help names all variables, and also those that are empty.
    .or_else(|error: clap::Error| {
        if error.use_stderr() {
            return Err(error);
        }
        parsed(command())
    })
    .map_err(|error| Refused { error, args })
}

fn command() -> clap::Command {
    Cli::command()
        .mut_subcommands(|verb| strictly(verb).mut_subcommands(strictly))
        .after_help(ending(Some(EXAMPLES.into())))
        // Former names of these flags.
        .mut_subcommand("diff", |verb| verb.mut_arg("at", |arg| arg.alias("to")))
        // No other verb works without a store.
        .mut_subcommand("inspect", |verb| {
            verb.override_usage(
                "backfeed inspect [OPTIONS] FILE.rdb\n       backfeed inspect [OPTIONS] --store URL",
            )
            .mut_arg("store", |arg| {
                arg.required(false)
                    .required_unless_present("file")
                    .help_heading("Options")
            })
        })
}

/// What all verbs share.
fn strictly(verb: clap::Command) -> clap::Command {
    let ending = ending(verb.get_after_help().cloned());
    verb.mut_args(|arg| {
        let arg = arg.hide_env_values(true);
        if arg.is_positional() {
            return arg.help_heading(Resettable::Reset);
        }
        arg
    })
    .after_help(ending)
    // The help flag of clap would have a section of its own, before all others.
    .disable_help_flag(true)
    .arg(
        Arg::new("help")
            .short('h')
            .long("help")
            .action(ArgAction::Help)
            .help("Print help")
            .help_heading(flags::OUTPUT),
    )
}

/// The end of a help page. The examples come last.
fn ending(examples: Option<StyledStr>) -> StyledStr {
    let mut text = EXIT_CODES.to_owned();
    if let Some(examples) = examples {
        text.push_str("\n\n");
        text.push_str(&examples.to_string());
    }
    text.into()
}

/// Runs the verb to its end.
pub async fn run(cli: Cli) -> Result<(), Failure> {
    if let Some((log, level)) = cli.log() {
        logging::init(log.log_format, level.raised(log.verbose));
        // A name that is not UTF-8 is none of ours.
        #[expect(clippy::disallowed_methods)] // here configuration comes from
        let all = std::env::vars_os();
        let variables = all.filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        for warning in environment::warnings(&command(), &cli.name, variables) {
            tracing::warn!("{warning}");
        }
    }
    match cli.verb {
        Verb::Sidecar(args) => sidecar::run(args).await,
        Verb::Backup(args) => backup::run(args).await,
        Verb::Check(args) => check::run(args).await,
        #[cfg(feature = "http")]
        Verb::Status(args) => status::run(args).await,
        Verb::Serve(args) => serve::run(args).await,
        Verb::CheckConfig(args) => check_config::run(&args),
        Verb::Standby(args) => standby::run(args).await,
        Verb::Promote(args) => promote::run(args).await,
        Verb::Restore(args) => restore::run(args).await,
        Verb::List(args) => list::run(args).await,
        Verb::Cost(args) => cost::run(args).await,
        Verb::Copy(args) => copy::run(args).await,
        Verb::Consolidate(args) => consolidate::run(args).await,
        Verb::Merge(args) => merge::run(args).await,
        Verb::Verify(args) => verify::run(args).await,
        Verb::Drill(args) => drill::run(args).await,
        Verb::Expire(args) => expire::run(args).await,
        Verb::Hold(args) => hold::run(args).await,
        Verb::Inspect(args) => inspect::run(args).await,
        Verb::Get(args) => get::run(args).await,
        Verb::Diff(args) => diff::run(args).await,
        Verb::Record(args) => record::run(args).await,
        Verb::Replay(args) => replay::run(args).await,
        Verb::Fixture(args) => fixture::run(args),
        Verb::Completions(args) => completions::completions(&args),
        Verb::Man(args) => completions::man(&args),
    }
}

/// Writes a result to stdout as JSON.
fn print_json(result: &impl serde::Serialize) -> Result<(), Failure> {
    let text =
        serde_json::to_string_pretty(result).map_err(|error| Failure::new(Exit::Error, error))?;
    print(&format!("{text}\n"))
}

/// Writes a result to stdout. A reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::{ErrorKind, Write};
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Error,
            format_args!("cannot write the result: {error}"),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "mod_tests.rs"]
mod tests;
