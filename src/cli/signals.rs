//! Signals that end a verb.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Exit, Failure};

/// SIGTERM and SIGINT: the usual end of what runs until it is told to end.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

fn listen(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| {
        Failure::new(
            Exit::Error,
            format_args!("cannot listen for signals: {error}"),
        )
    })
}

/// Work that has a result only at its end: these signals, and SIGHUP, end it with an error. `left` says what it leaves.
pub(super) async fn unless_interrupted<R, E: Into<Failure>>(
    work: impl Future<Output = Result<R, E>>,
    left: impl FnOnce() -> String,
) -> Result<R, Failure> {
    let mut signals = Signals::new()?;
    let mut hangup = listen(SignalKind::hangup())?;
    let name = tokio::select! {
        biased;
        result = work => return result.map_err(Into::into),
        name = signals.next() => name,
        _ = hangup.recv() => "SIGHUP",
    };
    Err(Failure::new(
        Exit::Error,
        format_args!("interrupted by {name}: {}", left()),
    ))
}
