//! The log: to stderr, as text for people or as one JSON object a line.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people. Coloured at a terminal, unless `NO_COLOR` is set.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What is logged when `RUST_LOG` does not say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Warnings and errors: for commands whose output is their result.
    Quiet,
    /// What an operator wants to know of a service.
    Info,
    /// Every decision.
    Debug,
    /// Every message.
    Trace,
}

impl Level {
    /// `-v`s on top of `self`.
    #[must_use]
    pub fn raised(self, verbose: u8) -> Self {
        match (self, verbose) {
            (level, 0) => level,
            (Self::Quiet | Self::Info, 1) => Self::Debug,
            _ => Self::Trace,
        }
    }

    fn directives(self) -> &'static str {
        match self {
            Self::Quiet => "warn,backfeed::progress=info",
            Self::Info => "warn,backfeed=info",
            Self::Debug => "info,backfeed=debug",
            Self::Trace => "debug,backfeed=trace",
        }
    }
}

/// Where lines about the progress of long work are logged: shown even where other news is not.
pub const PROGRESS: &str = "backfeed::progress";

/// A variable that every program knows, so that it has no flag of ours.
fn environment(name: &str) -> Option<std::ffi::OsString> {
    #[expect(clippy::disallowed_methods)]
    std::env::var_os(name)
}

/// May what is written to this terminal be coloured? Not if `NO_COLOR` is set to anything, nor if `TERM` is `dumb`.
#[must_use]
pub fn has_colour(is_terminal: bool) -> bool {
    let wanted = environment("NO_COLOR").is_none_or(|value| value.is_empty());
    wanted && can_redraw(is_terminal)
}

/// Can lines of this terminal be written over, as a progress bar does?
#[must_use]
pub fn can_redraw(is_terminal: bool) -> bool {
    is_terminal && environment("TERM").is_none_or(|term| term != "dumb")
}

/// Sets the process's log up. Called once; a second call changes nothing.
pub fn init(format: LogFormat, level: Level) {
    let wanted = environment("RUST_LOG").and_then(|value| value.into_string().ok());
    let (filter, complaint) = filter(wanted.as_deref(), level);
    let colour = has_colour(io::stderr().is_terminal());
    let subscriber = subscriber(format, filter, colour, io::stderr);
    if tracing::subscriber::set_global_default(subscriber).is_ok()
        && let Some(complaint) = complaint
    {
        tracing::warn!("{complaint}");
    }
}

/// The filter, and what is wrong with `RUST_LOG` if it cannot be used.
fn filter(rust_log: Option<&str>, level: Level) -> (EnvFilter, Option<String>) {
    let default = || EnvFilter::new(level.directives());
    match rust_log {
        None | Some("") => (default(), None),
        Some(text) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (default(), Some(format!("RUST_LOG is ignored: {error}"))),
        },
    }
}

type Subscriber = Box<dyn tracing::Subscriber + Send + Sync>;

fn subscriber<W>(format: LogFormat, filter: EnvFilter, colour: bool, writer: W) -> Subscriber
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    match format {
        LogFormat::Text => Box::new(
            builder
                .compact()
                .with_target(false)
                .with_ansi(colour)
                .finish(),
        ),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).finish()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is written when an info and a debug event happen.
    fn log(format: LogFormat, rust_log: Option<&str>, level: Level) -> String {
        let page = Page::default();
        let writer = page.clone();
        let (filter, _) = filter(rust_log, level);
        let subscriber = subscriber(format, filter, false, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!(offset = 7, "stored");
            tracing::debug!("a detail");
        });
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn text_is_a_line_and_json_an_object_with_the_fields() {
        let text = log(LogFormat::Text, None, Level::Info);
        assert!(text.contains("INFO stored offset=7"), "{text}");
        assert_eq!(text.lines().count(), 1);
        let json = log(LogFormat::Json, None, Level::Info);
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(
            (&object["message"], &object["offset"]),
            (&"stored".into(), &7.into())
        );
    }

    #[test]
    fn verbosity_raises_the_level_and_rust_log_overrides_it() {
        assert_eq!(log(LogFormat::Text, None, Level::Quiet), "");
        assert_eq!(
            log(LogFormat::Text, None, Level::Quiet.raised(1))
                .lines()
                .count(),
            2
        );
        assert_eq!(Level::Info.raised(5), Level::Trace);
        assert_eq!(
            log(LogFormat::Text, Some("backfeed=debug"), Level::Info)
                .lines()
                .count(),
            2
        );
        assert_eq!(log(LogFormat::Text, Some("error"), Level::Trace), "");
    }

    #[test]
    fn a_wrong_rust_log_is_told_and_ignored() {
        let (_, complaint) = filter(Some("backfeed=loud"), Level::Info);
        assert!(complaint.unwrap().contains("RUST_LOG is ignored"));
    }
}
