//! The commands of a log as they are to be applied: whole, in order, with absolute expiries, transactions told.

use std::collections::VecDeque;

use bytes::Bytes;
use futures::StreamExt;

use super::{LogItem, RebuildError, Source};
use crate::expiry::{may_need_rewrite, rewrite};
use crate::keyspace::ApplyError;
use crate::position::{Offset, TimeMark};
use crate::resp::commands::{CommandReader, CommandsError, Whole};

/// What is done with the commands of a log.
pub trait Taker: Send {
    /// A command.
    ///
    /// # Errors
    /// Whatever the taker does not want to go on with.
    fn command(&mut self, at: At, argv: &[&[u8]]) -> Result<(), ApplyError>;
    /// All of a chunk was taken: should more come?
    fn goes_on(&mut self) -> bool;
}

/// Where a command stands.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// Offset before it.
    pub start: Offset,
    /// Offset of its last byte.
    pub end: Offset,
    /// No transaction is open after it.
    pub outside: bool,
    /// When it had been received, Unix milliseconds.
    pub received_unix_ms: i64,
}

/// Hands every command of the log, up to offset `upto`, to `taker`, until it has enough.
///
/// # Errors
/// [`RebuildError::Archive`], [`RebuildError::Log`] with whatever the taker says.
pub async fn each_command(
    source: &Source,
    upto: Offset,
    limit: usize,
    taker: &mut dyn Taker,
) -> Result<(), RebuildError> {
    let start = source.base.offset;
    let mut reader = CommandReader::new(start, limit);
    let mut times = Times {
        marks: VecDeque::new(),
        last_ms: source.base.as_of_unix_ms(),
    };
    let mut within = false;
    let mut left = upto.since(start);
    let mut items = (source.log)();
    while left > 0
        && let Some(item) = items.next().await
    {
        let mut bytes = match item? {
            LogItem::Marks(marks) => {
                times.marks.extend(marks);
                continue;
            }
            LogItem::Bytes(bytes) => bytes,
        };
        bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        left = left.saturating_sub(bytes.len() as u64);
        let pushed = reader.push(&bytes, |whole| {
            match whole.argv.first() {
                Some(name) if name.eq_ignore_ascii_case(b"MULTI") => within = true,
                Some(name) if name.eq_ignore_ascii_case(b"EXEC") => within = false,
                _ => {}
            }
            hand_on(whole, !within, &mut times, taker)
        });
        pushed.map_err(|source| RebuildError::Log {
            base: start,
            source: Box::new(source),
        })?;
        if !taker.goes_on() {
            return Ok(());
        }
        // A log in memory is read without ever waiting; others should have their turn.
        tokio::task::yield_now().await;
    }
    // A log that is shorter than it was planned to be has lost something on its way here.
    let is_short = left > 0 && upto != Offset(u64::MAX);
    if reader.within_command() || is_short {
        return Err(RebuildError::Incomplete(reader.end()));
    }
    Ok(())
}

fn hand_on(
    whole: Whole<'_>,
    outside: bool,
    times: &mut Times,
    taker: &mut dyn Taker,
) -> Result<(), ApplyError> {
    let at = At {
        start: whole.start,
        end: whole.end,
        outside,
        received_unix_ms: times.received(whole.end),
    };
    let name = whole.argv.first().copied().unwrap_or_default();
    if may_need_rewrite(name, whole.argv.len()) {
        let args: Vec<Bytes> = whole
            .argv
            .iter()
            .map(|arg| Bytes::copy_from_slice(arg))
            .collect();
        if let Some(commands) = rewrite(&args, at.received_unix_ms) {
            for command in &commands {
                let argv: Vec<&[u8]> = command.iter().map(Bytes::as_ref).collect();
                taker.command(at, &argv)?;
            }
            return Ok(());
        }
    }
    taker.command(at, whole.argv)
}

/// When bytes were received.
struct Times {
    marks: VecDeque<TimeMark>,
    last_ms: i64,
}

impl Times {
    /// That of the first mark at or behind the command's end; behind the last mark, that one's.
    fn received(&mut self, end: Offset) -> i64 {
        while let Some(mark) = self.marks.front() {
            if mark.offset >= end {
                return mark.unix_ms;
            }
            self.last_ms = mark.unix_ms;
            self.marks.pop_front();
        }
        self.last_ms
    }
}

/// The error of a taker, out of that of a log.
pub(super) fn taker_error(error: &RebuildError) -> Option<&ApplyError> {
    match error {
        RebuildError::Log { source, .. } => match &**source {
            CommandsError::Taker(error) => Some(error),
            _ => None,
        },
        _ => None,
    }
}
