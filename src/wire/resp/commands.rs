//! Complete commands from the feed, with all their arguments: for code that applies them.
//!
//! (Code that only passes a feed on uses [`super::FeedScanner`], which holds nothing.)

use std::ops::Range;

use super::{FeedError, MAX_ARGC, MAX_BULK_LEN, NUMBER_DIGITS};
use crate::wire::position::Offset;

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum CommandsError<E> {
    /// The bytes are no feed.
    #[error(transparent)]
    Feed(#[from] FeedError),
    /// A command takes more memory than it may.
    #[error(
        "the command that begins after offset {start} takes more than the limit of {limit} bytes of memory"
    )]
    TooLong {
        /// Offset before its first byte.
        start: Offset,
        /// The limit.
        limit: usize,
    },
    /// The receiver of the commands stops.
    #[error(transparent)]
    Taker(E),
}

/// What comes after a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// The next one.
    GoOn,
    /// Nothing: the rest of the chunk is for another call.
    Pause,
}

/// A command of the feed.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a> {
    /// Offset before its first byte.
    pub start: Offset,
    /// Offset of its last byte.
    pub end: Offset,
    /// Its arguments, the name first.
    pub argv: &'a [&'a [u8]],
}

/// Reads commands from chunks of any size.
///
/// A command in several chunks is gathered. The reader remembers where it stopped in it, so that a command of a million
/// arguments is not read from its start with each chunk.
#[derive(Debug)]
pub struct CommandReader {
    /// The first part of a command, from its first byte on.
    held: Vec<u8>,
    partial: Partial,
    /// The end of all commands that were handed out.
    end: Offset,
    limit: usize,
}

/// How far a command has been read. Positions count from its first byte.
#[derive(Debug, Default)]
struct Partial {
    /// Arguments that are still missing. None before the first line is complete.
    missing: Option<u64>,
    args: Vec<Range<usize>>,
    at: usize,
}

impl Partial {
    fn clear(&mut self) {
        self.missing = None;
        self.args.clear();
        self.at = 0;
    }
}

impl CommandReader {
    /// A reader from an offset between two commands. A command takes `limit` bytes of memory at most.
    #[must_use]
    pub fn new(from: Offset, limit: usize) -> Self {
        Self {
            held: Vec::new(),
            partial: Partial::default(),
            end: from,
            limit,
        }
    }

    /// Takes in the next bytes, and hands each command that they complete to `take`. Returns how many bytes were taken
    /// in: all, unless `take` asked for a pause.
    ///
    /// # Errors
    /// [`CommandsError`]; the reader is then of no more use.
    pub fn push<E>(
        &mut self,
        chunk: &[u8],
        mut take: impl FnMut(Whole<'_>) -> Result<Then, E>,
    ) -> Result<usize, CommandsError<E>> {
        let mut held = std::mem::take(&mut self.held);
        let gathered = !held.is_empty();
        if gathered {
            held.extend_from_slice(chunk);
        }
        let all = if gathered { &held } else { chunk };
        let mut rest = all;
        while !rest.is_empty() {
            // An old master's newline between two commands.
            if rest.first() == Some(&b'\n') && self.partial.at == 0 {
                self.end = self.end.plus(1);
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            if !self.parse(rest)? {
                break;
            }
            let argv: Vec<&[u8]> = self
                .partial
                .args
                .iter()
                .map(|range| rest.get(range.clone()).unwrap_or_default())
                .collect();
            let start = self.end;
            self.end = start.plus(self.partial.at as u64);
            let then = take(Whole {
                start,
                end: self.end,
                argv: &argv,
            })
            .map_err(CommandsError::Taker)?;
            rest = rest.get(self.partial.at..).unwrap_or_default();
            self.partial.clear();
            if then == Then::Pause {
                // What was held before is part of that command.
                return Ok(chunk.len().saturating_sub(rest.len()));
            }
        }
        let args = self.partial.args.len();
        let taken = rest
            .len()
            .saturating_add(args.saturating_mul(size_of::<Range<usize>>()));
        if taken > self.limit {
            return Err(CommandsError::TooLong {
                start: self.end,
                limit: self.limit,
            });
        }
        self.held = if gathered {
            // Not copied once more with each chunk of a long command.
            let consumed = held.len().saturating_sub(rest.len());
            held.drain(..consumed);
            held
        } else {
            rest.to_vec()
        };
        Ok(chunk.len())
    }

    /// The offset of the last byte of the last command that was given out.
    #[must_use]
    pub fn end(&self) -> Offset {
        self.end
    }

    /// Is the last command incomplete?
    #[must_use]
    pub fn within_command(&self) -> bool {
        !self.held.is_empty()
    }

    /// Continues to read the command at the beginning of `bytes`. Returns whether it is complete.
    fn parse(&mut self, bytes: &[u8]) -> Result<bool, FeedError> {
        let missing = match self.partial.missing {
            Some(missing) => missing,
            None => {
                let Some(argc) = self.number(bytes, b'*', 1, MAX_ARGC)? else {
                    return Ok(false);
                };
                argc
            }
        };
        let mut missing = missing;
        while missing > 0 {
            self.partial.missing = Some(missing);
            let before = self.partial.at;
            let Some(length) = self.number(bytes, b'$', 0, MAX_BULK_LEN)? else {
                return Ok(false);
            };
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let start = self.partial.at;
            let end = start.saturating_add(length);
            match bytes.get(end..end.saturating_add(2)) {
                Some(b"\r\n") => {}
                Some(_) => return Err(self.error(end, "an argument does not end where it should")),
                None => {
                    self.partial.at = before;
                    return Ok(false);
                }
            }
            self.partial.args.push(start..end);
            self.partial.at = end.saturating_add(2);
            missing = missing.saturating_sub(1);
        }
        self.partial.missing = Some(0);
        Ok(true)
    }

    /// A line with a mark and a number. None if it is incomplete.
    fn number(
        &mut self,
        bytes: &[u8],
        mark: u8,
        least: u64,
        most: u64,
    ) -> Result<Option<u64>, FeedError> {
        let at = self.partial.at;
        let line = bytes.get(at..).unwrap_or_default();
        let Some((first, rest)) = line.split_first() else {
            return Ok(None);
        };
        if *first != mark {
            return Err(self.error(at, "a command should be an array of bulk strings"));
        }
        let mut number = 0u64;
        let mut digits = 0usize;
        for byte in rest {
            match byte {
                b'0'..=b'9' if digits < NUMBER_DIGITS.into() => {
                    let digit = u64::from(byte & 0x0F);
                    number = number.saturating_mul(10).saturating_add(digit);
                    digits = digits.saturating_add(1);
                }
                b'\r' if digits > 0 => {
                    let end = at.saturating_add(digits).saturating_add(2);
                    return match bytes.get(end) {
                        None => Ok(None),
                        Some(b'\n') if (least..=most).contains(&number) => {
                            self.partial.at = end.saturating_add(1);
                            Ok(Some(number))
                        }
                        Some(_) => Err(self.error(at, "a length is out of range")),
                    };
                }
                _ => return Err(self.error(at, "a length is no number")),
            }
        }
        Ok(None)
    }

    fn error(&self, at: usize, what: &str) -> FeedError {
        FeedError {
            at: self.end.plus(at as u64).plus(1),
            what: what.to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::super::{FeedScanner, encode_command};
    use super::*;
    use crate::wire::position::Boundary;

    type Seen = Vec<(u64, u64, Vec<Vec<u8>>)>;

    fn read(chunks: &[&[u8]], limit: usize) -> Result<Seen, CommandsError<FeedError>> {
        let whole = read_with(chunks, limit, Then::GoOn)?;
        assert_eq!(read_with(chunks, limit, Then::Pause)?, whole);
        Ok(whole)
    }

    fn read_with(
        chunks: &[&[u8]],
        limit: usize,
        then: Then,
    ) -> Result<Seen, CommandsError<FeedError>> {
        let mut reader = CommandReader::new(Offset(100), limit);
        let mut seen = Vec::new();
        for mut chunk in chunks.iter().copied() {
            while !chunk.is_empty() {
                let taken = reader.push(chunk, |whole| {
                    let argv = whole.argv.iter().map(|arg| arg.to_vec()).collect();
                    seen.push((whole.start.0, whole.end.0, argv));
                    Ok(then)
                })?;
                assert!(taken > 0, "a pause comes after a command");
                chunk = &chunk[taken..];
            }
        }
        assert!(!reader.within_command());
        Ok(seen)
    }

    #[test]
    fn commands_come_out_the_same_however_the_feed_is_cut() {
        let mut feed = Vec::new();
        encode_command(&[b"SELECT", b"0"], &mut feed);
        feed.push(b'\n');
        let binary: Vec<u8> = (0..=255).collect();
        encode_command(&[b"SET", b"", &binary], &mut feed);
        encode_command(&[b"PING"], &mut feed);
        let whole = read(&[&feed], 10_000).unwrap();
        assert_eq!(whole.len(), 3);
        assert_eq!(whole[0].0, 100);
        assert_eq!(whole[1].0, whole[0].1 + 1, "the newline counts");
        assert_eq!(whole[2].1, 100 + feed.len() as u64);
        assert_eq!(whole[1].2, [b"SET".to_vec(), vec![], binary]);
        for cut in 0..feed.len() {
            let (a, b) = feed.split_at(cut);
            assert_eq!(read(&[a, b], 10_000).unwrap(), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = feed.chunks(1).collect();
        assert_eq!(read(&bytes, 10_000).unwrap(), whole);
    }

    #[test]
    fn what_is_no_feed_is_refused_and_a_limit_holds() {
        for bad in [
            "PING\r\n",
            "*0\r\n",
            "*-1\r\n",
            "*1\r\n:1\r\n",
            "*1\r\n$1\r\nabc\r\n",
            "*1x",
            "*1\rx",
            "*99999999999999999999999\r\n",
            "*000000000000000000001\r\n$4\r\nPING\r\n",
        ] {
            let error = read(&[bad.as_bytes()], 1000).unwrap_err();
            assert!(matches!(error, CommandsError::Feed(_)), "{bad}: {error}");
            let from = Boundary {
                offset: Offset(100),
                db: 0,
            };
            let scanned = FeedScanner::new(from).scan(bad.as_bytes(), |_| {});
            assert!(
                scanned.is_err(),
                "{bad}: the scanner must not take what the reader refuses"
            );
        }
        let mut long = Vec::new();
        encode_command(&[b"SET", b"k", &[b'x'; 2000]], &mut long);
        let (a, b) = long.split_at(1500);
        assert!(matches!(
            read(&[a, b], 1000),
            Err(CommandsError::TooLong { .. })
        ));
        assert_eq!(read(&[a, b], 1600).unwrap().len(), 1);
    }
}
