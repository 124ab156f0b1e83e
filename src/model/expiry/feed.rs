//! Makes the relative expiries of a whole feed absolute while it streams.

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use super::{may_need_rewrite, rewrite};
use crate::wire::position::{Boundary, Offset, TimeMark};
use crate::wire::resp::{Command, FeedError, FeedScanner, encode_command};

/// Longest command that is rewritten. It has to be held whole, because `EX 10` follows the value. The servers' limit
/// for a value is 512 MiB unless `proto-max-bulk-len` is raised. This leaves room for the rest of the command.
pub const REWRITE_LIMIT: usize = 520 * 1024 * 1024;
/// Bytes of an unfinished command that are held before it is looked at whether it must be.
const LOOK: usize = 4 * 1024;
/// Longest name of a command that is rewritten (`restore-asking`).
const LONGEST_NAME: usize = 16;

/// Why a feed cannot be rewritten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedRewriteError {
    /// It is no feed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// A command with a relative expiry that is too long to be held.
    #[error(
        "the command after offset {after} may hold a relative expiry and is longer than {REWRITE_LIMIT} bytes"
    )]
    TooLong {
        /// Offset before the command.
        after: Offset,
    },
    /// The feed ends within a command.
    #[error("the feed ends within the command after offset {after}")]
    Incomplete {
        /// Offset before the command.
        after: Offset,
    },
}

/// Copies a feed: newlines between commands are left out (an AOF loader takes them for corruption, PROTOCOL.md E.6),
/// and relative expiries become absolute if that is asked for. Memory: one command that may hold an expiry, and the
/// marks.
#[derive(Debug)]
pub struct FeedRewriter {
    scanner: FeedScanner,
    absolute: bool,
    marks: VecDeque<TimeMark>,
    last_mark_ms: i64,
    /// Bytes not given out yet, and the offset before the first of them.
    pending: BytesMut,
    pending_start: Offset,
    /// The front of the command under way has been given out.
    released: bool,
}

impl FeedRewriter {
    /// For the feed after `from`. With `absolute_from_ms`, relative expiries are made absolute. The value is the
    /// receive time (Unix milliseconds) of what comes before the first time mark.
    #[must_use]
    pub fn new(from: Boundary, absolute_from_ms: Option<i64>) -> Self {
        Self {
            scanner: FeedScanner::new(from),
            absolute: absolute_from_ms.is_some(),
            marks: VecDeque::new(),
            last_mark_ms: absolute_from_ms.unwrap_or_default(),
            pending: BytesMut::new(),
            pending_start: from.offset,
            released: false,
        }
    }

    /// Tells when the bytes that follow were received: give the marks of a segment before its bytes.
    pub fn mark(&mut self, marks: &[TimeMark]) {
        self.marks.extend(marks);
    }

    /// Takes the next bytes of the feed and appends what can go out.
    ///
    /// # Errors
    /// As [`FeedRewriteError`] tells; it is of no further use then.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> Result<(), FeedRewriteError> {
        self.pending.extend_from_slice(chunk);
        let mut taken = 0usize;
        let Self {
            scanner,
            pending,
            pending_start,
            marks,
            last_mark_ms,
            ..
        } = self;
        let absolute = self.absolute;
        scanner.scan(chunk, |command| {
            let from = index(command.start, *pending_start);
            let to = index(command.end, *pending_start);
            let raw = pending.get(from..to).unwrap_or_default();
            taken = to;
            if !(absolute
                && is_candidate(command)
                && append_rewritten(raw, out, || receive_time(marks, last_mark_ms, command.end)))
            {
                out.extend_from_slice(raw);
            }
        })?;
        if taken > 0 {
            self.advance(taken);
            self.released = false;
        }
        self.release(out)
    }

    /// Ends the feed: it must end between commands.
    ///
    /// # Errors
    /// [`FeedRewriteError::Incomplete`].
    pub fn finish(&self) -> Result<(), FeedRewriteError> {
        if self.released || !self.pending.iter().all(|byte| *byte == b'\n') {
            return Err(FeedRewriteError::Incomplete {
                after: self.pending_start,
            });
        }
        Ok(())
    }

    fn advance(&mut self, count: usize) {
        self.pending.advance(count.min(self.pending.len()));
        self.pending_start = self.pending_start.plus(count as u64);
    }

    /// Gives out the front of an unfinished command that need not be held.
    fn release(&mut self, out: &mut Vec<u8>) -> Result<(), FeedRewriteError> {
        if !self.released {
            let newlines = self
                .pending
                .iter()
                .take_while(|byte| **byte == b'\n')
                .count();
            self.advance(newlines);
            if self.pending.len() < LOOK {
                return Ok(());
            }
            if self.absolute && head_is_candidate(&self.pending) {
                if self.pending.len() > REWRITE_LIMIT {
                    return Err(FeedRewriteError::TooLong {
                        after: self.pending_start,
                    });
                }
                return Ok(());
            }
            self.released = true;
        }
        out.extend_from_slice(&self.pending);
        self.advance(self.pending.len());
        Ok(())
    }
}

/// The index of an offset in the pending bytes; 0 when that offset was handed out already.
fn index(offset: Offset, pending_start: Offset) -> usize {
    usize::try_from(offset.beyond(pending_start)).unwrap_or(usize::MAX)
}

fn is_candidate(command: &Command<'_>) -> bool {
    let count = usize::try_from(command.head.argc()).unwrap_or(usize::MAX);
    command
        .head
        .arg(0)
        .is_some_and(|name| may_need_rewrite(name, count))
}

/// Receive time: that of the first mark at or after the command's end. After the last mark: the time of that one.
fn receive_time(marks: &mut VecDeque<TimeMark>, last_ms: &mut i64, end: Offset) -> i64 {
    while let Some(mark) = marks.front() {
        if mark.offset >= end {
            return mark.unix_ms;
        }
        *last_ms = mark.unix_ms;
        marks.pop_front();
    }
    *last_ms
}

/// `true` when something was appended in the command's place.
fn append_rewritten(raw: &[u8], out: &mut Vec<u8>, time: impl FnOnce() -> i64) -> bool {
    let Some(args) = arguments(raw) else {
        return false;
    };
    let Some(commands) = rewrite(&args, time()) else {
        return false;
    };
    for command in &commands {
        let command: Vec<&[u8]> = command.iter().map(Bytes::as_ref).collect();
        encode_command(&command, out);
    }
    true
}

/// The arguments of one whole command that the scanner has accepted.
fn arguments(raw: &[u8]) -> Option<Vec<Bytes>> {
    let raw = Bytes::copy_from_slice(raw);
    let (count, mut at) = number(&raw, 0, b'*')?;
    // `count` needs no trust: each argument takes at least 5 bytes of `raw`.
    let mut args = Vec::with_capacity(count.min(raw.len()));
    for _ in 0..count {
        let (length, start) = number(&raw, at, b'$')?;
        let end = start.checked_add(length)?;
        if end > raw.len() {
            return None;
        }
        args.push(raw.slice(start..end));
        at = end.checked_add(2)?;
    }
    Some(args)
}

/// Is the command whose front this is one that may need a rewrite?
fn head_is_candidate(front: &[u8]) -> bool {
    let Some((count, at)) = number(front, 0, b'*') else {
        return false;
    };
    let Some((length, start)) = number(front, at, b'$') else {
        return false;
    };
    let name = length
        .le(&LONGEST_NAME)
        .then(|| front.get(start..start.saturating_add(length)));
    name.flatten()
        .is_some_and(|name| may_need_rewrite(name, count))
}

/// A line `<prefix><decimal>\r\n` at `at`: the number, and the position of the next byte.
fn number(raw: &[u8], at: usize, prefix: u8) -> Option<(usize, usize)> {
    let (first, rest) = raw.get(at..)?.split_first()?;
    let length = memchr::memchr(b'\r', rest).filter(|_| *first == prefix)?;
    let number = std::str::from_utf8(rest.get(..length)?)
        .ok()?
        .parse()
        .ok()?;
    Some((number, at.checked_add(length)?.checked_add(3)?))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resp(line: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encode_command(
            &line.split(' ').map(str::as_bytes).collect::<Vec<_>>(),
            &mut out,
        );
        out
    }

    fn feed(lines: &[&str]) -> Vec<u8> {
        lines.iter().flat_map(|line| resp(line)).collect()
    }

    fn run(pieces: &[&[u8]], marks: &[TimeMark], absolute: Option<i64>) -> Vec<u8> {
        let mut rewriter = FeedRewriter::new(
            Boundary {
                offset: Offset(100),
                db: 0,
            },
            absolute,
        );
        rewriter.mark(marks);
        let mut out = Vec::new();
        for piece in pieces {
            rewriter.push(piece, &mut out).unwrap();
        }
        rewriter.finish().unwrap();
        out
    }

    fn mark(unix_ms: i64, offset: u64) -> TimeMark {
        TimeMark {
            unix_ms,
            offset: Offset(offset),
        }
    }

    #[test]
    fn each_command_gets_the_time_at_which_it_was_received() {
        let input = feed(&["SETEX a 1 v", "PING", "EXPIRE b 1", "EXPIRE c 1"]);
        let first = 100 + resp("SETEX a 1 v").len() as u64;
        let third = first + (resp("PING").len() + resp("EXPIRE b 1").len()) as u64;
        let marks = [
            mark(5_000, first),
            mark(9_000, third - 1),
            mark(9_100, third),
        ];
        let wanted = feed(&[
            "SET a v",
            "PEXPIREAT a 6000",
            "PING",
            "PEXPIREAT b 10100",
            "PEXPIREAT c 10100", // behind the last mark: its time
        ]);
        assert_eq!(run(&[&input], &marks, Some(1)), wanted);
        let without_marks = run(&[&feed(&["EXPIRE b 1"])], &[], Some(77));
        assert_eq!(without_marks, feed(&["PEXPIREAT b 1077"]));
    }

    #[test]
    fn without_a_time_only_newlines_between_commands_go() {
        let mut input = b"\n".to_vec();
        input.extend(resp("EXPIRE b 1"));
        input.extend(b"\n\n");
        input.extend(resp("PING"));
        input.extend(b"\n");
        assert_eq!(run(&[&input], &[], None), feed(&["EXPIRE b 1", "PING"]));
    }

    #[test]
    fn long_commands_stream_by_and_only_those_with_a_ttl_are_held() {
        let long = "x\n".repeat(LOOK);
        let input = feed(&[
            &format!("SET k {long}"),
            "EXPIRE k 1",
            &format!("SETEX k 1 {long}"),
        ]);
        let mut rewriter = FeedRewriter::new(
            Boundary {
                offset: Offset(0),
                db: 0,
            },
            Some(0),
        );
        let mut out = Vec::new();
        let mut most_held = (0, 0);
        for (at, piece) in input.chunks(1000).enumerate() {
            rewriter.push(piece, &mut out).unwrap();
            let held = if at * 1000 < LOOK * 2 {
                &mut most_held.0
            } else {
                &mut most_held.1
            };
            *held = (*held).max(rewriter.pending.len());
        }
        rewriter.finish().unwrap();
        let set = format!("SET k {long}");
        assert_eq!(
            out,
            feed(&[&set, "PEXPIREAT k 1000", &set, "PEXPIREAT k 1000"])
        );
        assert!(
            most_held.0 <= LOOK + 1000,
            "a plain SET is not held: {most_held:?}"
        );
        assert!(
            most_held.1 >= LOOK,
            "SETEX has its value at the end: {most_held:?}"
        );
    }

    #[test]
    fn an_end_within_a_command_is_an_error() {
        let input = resp("EXPIRE b 1");
        for length in 1..input.len() {
            let mut rewriter = FeedRewriter::new(
                Boundary {
                    offset: Offset(7),
                    db: 0,
                },
                Some(0),
            );
            rewriter.push(&input[..length], &mut Vec::new()).unwrap();
            assert_eq!(
                rewriter.finish(),
                Err(FeedRewriteError::Incomplete { after: Offset(7) })
            );
        }
        let mut rewriter = FeedRewriter::new(
            Boundary {
                offset: Offset(7),
                db: 0,
            },
            None,
        );
        let error = rewriter.push(b"PING\r\n", &mut Vec::new()).unwrap_err();
        assert!(matches!(
            error,
            FeedRewriteError::Feed(FeedError { at: Offset(8), .. })
        ));
    }

    proptest! {
        #[test]
        fn the_split_does_not_matter(cuts in proptest::collection::vec(0usize..400, 0..8), absolute: bool) {
            let mut input = feed(&["MULTI", "SET a v EX 5", "EXEC"]);
            input.extend(b"\n\n");
            input.extend(feed(&["select 3", "pexpire k 5", "RESTORE k 5 payload", "SET k v", "DEL k"]));
            let marks = [mark(5_000, 140), mark(6_000, 10_000)];
            let whole = run(&[&input], &marks, absolute.then_some(3));
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(input.len())).collect();
            cuts.extend([0, input.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|w| &input[w[0]..w[1]]).collect();
            prop_assert_eq!(run(&pieces, &marks, absolute.then_some(3)), whole);
        }
    }
}
