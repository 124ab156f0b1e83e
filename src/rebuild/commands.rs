//! The commands of a log in the form in which they are applied: complete, in order, with absolute expiries, and with
//! the borders of transactions.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::time::Instant;

use super::{LogItem, RebuildError, Source};
use crate::archive::ArchiveError;
use crate::model::ApplyError;
use crate::model::expiry::{may_need_rewrite, rewrite};
use crate::wire::position::{Offset, TimeMark};
use crate::wire::resp::commands::{CommandReader, CommandsError, Then, Whole};

/// How long commands are handed on before other tasks have their turn. A time limit, or an end of the program, waits no
/// longer than this and a few commands more.
const TURN: Duration = Duration::from_millis(10);
/// Commands between two looks at the clock.
const LOOK: u32 = 16;

/// A command with its arguments; the first is its name.
pub type Argv<'a> = &'a [&'a [u8]];

/// What is done with the commands of a log.
pub trait Taker: Send {
    /// A unit: one command of the log, as the commands that are applied in its place (mostly itself). One cannot stop
    /// between these: `at` is before the first and after the last of them.
    ///
    /// # Errors
    /// Whatever makes the receiver stop.
    fn unit(&mut self, at: At, commands: &[Argv<'_>]) -> Result<(), ApplyError>;
    /// A part of the log was taken: should more come?
    fn goes_on(&mut self) -> bool;
}

/// The position of a unit.
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
    let mut commands = Commands::new(source, upto, limit);
    while commands.step(taker).await? {}
    Ok(())
}

/// The commands of a log, a piece after the other.
pub(super) struct Commands {
    base: Offset,
    items: BoxStream<'static, Result<LogItem, ArchiveError>>,
    reader: CommandReader,
    times: Times,
    /// A transaction is open.
    within: bool,
    upto: Offset,
    /// Bytes that are still to come.
    left: u64,
    /// Bytes that have come, for the next step.
    piece: Bytes,
}

impl Commands {
    /// A reader for the commands up to offset `upto`. One command may take `limit` bytes of memory.
    pub(super) fn new(source: &Source, upto: Offset, limit: usize) -> Self {
        let base = source.base.offset;
        Self {
            base,
            items: (source.log)(),
            reader: CommandReader::new(base, limit),
            times: Times {
                marks: VecDeque::new(),
                last_ms: source.base.as_of_unix_ms(),
            },
            within: false,
            upto,
            left: upto.since(base),
            piece: Bytes::new(),
        }
    }

    /// Hands the next commands to `taker`, for a turn. Should there be another step?
    ///
    /// # Errors
    /// As of [`each_command`].
    pub(super) async fn step(&mut self, taker: &mut dyn Taker) -> Result<bool, RebuildError> {
        if self.piece.is_empty() && !self.next_piece().await? {
            return self.finish().map(|()| false);
        }
        if self.piece.is_empty() {
            return Ok(true);
        }
        let (within, times) = (&mut self.within, &mut self.times);
        let (begun, mut handed) = (Instant::now(), 0_u32);
        let pushed = self.reader.push(&self.piece, |whole| {
            let name = whole.argv.first().copied().unwrap_or_default();
            if name.eq_ignore_ascii_case(b"MULTI") {
                *within = true;
            } else if name.eq_ignore_ascii_case(b"EXEC") {
                *within = false;
            }
            hand_on(whole, !*within, times, taker)?;
            handed = handed.wrapping_add(1);
            let is_over = handed.is_multiple_of(LOOK) && begun.elapsed() >= TURN;
            Ok(if is_over { Then::Pause } else { Then::GoOn })
        });
        let taken = pushed.map_err(|source| RebuildError::Log {
            base: self.base,
            source: Box::new(source),
        })?;
        if taken == 0 {
            return Err(RebuildError::Incomplete(self.reader.end()));
        }
        self.piece.advance(taken.min(self.piece.len()));
        // A log in memory is read without ever waiting.
        tokio::task::yield_now().await;
        Ok(taker.goes_on())
    }

    /// Is there more? It may be that only times have come.
    async fn next_piece(&mut self) -> Result<bool, RebuildError> {
        let item = if self.left > 0 {
            self.items.next().await.transpose()?
        } else {
            None
        };
        match item {
            None => return Ok(false),
            Some(LogItem::Marks(marks)) => self.times.marks.extend(marks),
            Some(LogItem::Bytes(mut bytes)) => {
                bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left = self.left.saturating_sub(bytes.len() as u64);
                self.piece = bytes;
            }
        }
        Ok(true)
    }

    fn finish(&self) -> Result<(), RebuildError> {
        // A log that is shorter than it was planned to be has lost something on its way here.
        let is_short = self.left > 0 && self.upto != Offset(u64::MAX);
        if self.reader.within_command() || is_short {
            return Err(RebuildError::Incomplete(self.reader.end()));
        }
        Ok(())
    }
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
            let argvs = commands
                .iter()
                .map(|command| command.iter().map(Bytes::as_ref).collect());
            let argvs: Vec<Vec<&[u8]>> = argvs.collect();
            let unit: Vec<Argv<'_>> = argvs.iter().map(Vec::as_slice).collect();
            return taker.unit(at, &unit);
        }
    }
    taker.unit(at, &[whole.argv])
}

/// When bytes were received.
struct Times {
    marks: VecDeque<TimeMark>,
    last_ms: i64,
}

impl Times {
    /// The time of the first mark at or after the command's end. After the last mark: the time of that one.
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
