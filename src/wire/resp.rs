//! The command feed: RESP2 arrays of bulk strings (PROTOCOL.md C.1), scanned without holding any command.
//!
//! [`FeedScanner`] takes the raw bytes in chunks of any size. It says where commands end, which database is selected
//! and whether a transaction is open. It keeps only the head of a command (its first few arguments, each cut at a small
//! size). So a value of a gigabyte or a command of a million arguments costs no memory.

pub mod commands;

use crate::wire::position::{Boundary, Offset};

/// Arguments of a command that are kept in its [`Head`]: enough for every command whose meaning matters to a capture
/// or to a check before a restore (`COPY src dst DB n REPLACE` has six).
pub const HEAD_ARGS: usize = 8;
/// Bytes kept of each of those arguments: command names, option words and numbers are shorter.
pub const HEAD_ARG_BYTES: usize = 32;
/// Most arguments of one command: what the servers themselves accept (2^31 - 1).
pub const MAX_ARGC: u64 = 0x7FFF_FFFF;
/// Longest argument. Servers stop at `proto-max-bulk-len`, which nobody raises beyond this (2^40 bytes).
pub const MAX_BULK_LEN: u64 = 1 << 40;

/// Digits of the longest number that is accepted, including leading zeros: as many as servers' integers have at most.
const NUMBER_DIGITS: u8 = 20;

/// Bytes that cannot be a command feed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the command feed is corrupt at offset {at}: {what}")]
pub struct FeedError {
    /// Offset of the bad byte.
    pub at: Offset,
    /// What was found and what was expected.
    pub what: String,
}

/// The first arguments of a command.
#[derive(Debug, Clone)]
pub struct Head {
    bytes: [[u8; HEAD_ARG_BYTES]; HEAD_ARGS],
    lens: [u64; HEAD_ARGS],
    argc: u64,
    seen: u64,
}

impl Head {
    fn new() -> Self {
        Self {
            bytes: [[0; HEAD_ARG_BYTES]; HEAD_ARGS],
            lens: [0; HEAD_ARGS],
            argc: 0,
            seen: 0,
        }
    }

    /// Number of arguments, the command's name included.
    #[must_use]
    pub fn argc(&self) -> u64 {
        self.argc
    }

    /// Argument `index`, cut at [`HEAD_ARG_BYTES`]. `None` beyond the command or beyond [`HEAD_ARGS`].
    #[must_use]
    pub fn arg(&self, index: usize) -> Option<&[u8]> {
        if index as u64 >= self.argc {
            return None;
        }
        let len = usize::try_from(*self.lens.get(index)?).unwrap_or(usize::MAX);
        self.bytes.get(index)?.get(..len.min(HEAD_ARG_BYTES))
    }

    /// Length of the whole argument `index` in bytes. 0 beyond the command or beyond [`HEAD_ARGS`].
    #[must_use]
    pub fn arg_len(&self, index: usize) -> u64 {
        if index as u64 >= self.argc {
            return 0;
        }
        self.lens.get(index).copied().unwrap_or(0)
    }

    /// Is the command's name `name` (ASCII case-insensitive)?
    #[must_use]
    pub fn is(&self, name: &str) -> bool {
        self.arg_is(0, name)
    }

    /// Is argument `index` the word `word` (ASCII case-insensitive)?
    #[must_use]
    pub fn arg_is(&self, index: usize, word: &str) -> bool {
        self.arg(index)
            .is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// Argument `index` as a decimal number.
    #[must_use]
    pub fn number(&self, index: usize) -> Option<u64> {
        std::str::from_utf8(self.arg(index)?).ok()?.parse().ok()
    }

    fn begin(&mut self, argc: u64) {
        self.argc = argc;
        self.seen = 0;
    }

    fn begin_arg(&mut self, len: u64) {
        if let Some(slot) = self.current().and_then(|index| self.lens.get_mut(index)) {
            *slot = len;
        }
    }

    fn push(&mut self, already: u64, part: &[u8]) {
        let Some(arg) = self.current().and_then(|index| self.bytes.get_mut(index)) else {
            return;
        };
        let already = usize::try_from(already).unwrap_or(usize::MAX);
        if let Some(room) = arg.get_mut(already..) {
            for (to, from) in room.iter_mut().zip(part) {
                *to = *from;
            }
        }
    }

    fn end_arg(&mut self) -> bool {
        self.seen = self.seen.saturating_add(1);
        self.seen >= self.argc
    }

    fn current(&self) -> Option<usize> {
        usize::try_from(self.seen)
            .ok()
            .filter(|index| *index < HEAD_ARGS)
    }
}

/// A whole command that has passed.
#[derive(Debug)]
pub struct Command<'a> {
    /// Offset before its first byte.
    pub start: Offset,
    /// Offset of its last byte.
    pub end: Offset,
    /// Its first arguments.
    pub head: &'a Head,
    /// The database selected after it.
    pub db: u32,
    /// Is the point after it a boundary, that is: outside `MULTI`?
    pub at_boundary: bool,
}

impl Command<'_> {
    /// `PING` and `REPLCONF GETACK`: traffic of an idle server, without data.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.head.is("PING") || self.head.is("REPLCONF")
    }

    /// `REPLCONF GETACK *`: the master wants to know at once what is stored.
    #[must_use]
    pub fn is_getack(&self) -> bool {
        self.head.is("REPLCONF") && self.head.arg_is(1, "GETACK")
    }
}

/// ```text
///            '*'            CR LF, argc > 0           '$'          CR LF          bytes      CR LF
///  Between ───────▶ Number ────────────────▶ Dollar ───────▶ Number ──────▶ Body ──────▶ Crlf ──┬─▶ Dollar
///     ▲ │ '\n' (keepalive)                                                                       │ last one
///     └─┘◀───────────────────────────────────────────────────────────────────────────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Number { of: Number, value: u64, digits: u8 },
    NumberLf { of: Number, value: u64 },
    Dollar,
    Body { len: u64, left: u64 },
    BodyCr,
    BodyLf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    Argc,
    BulkLen,
}

/// Finds the commands in a feed. Start it at a boundary.
#[derive(Debug, Clone)]
pub struct FeedScanner {
    state: State,
    head: Head,
    offset: Offset,
    command_start: Offset,
    db: u32,
    in_multi: bool,
    boundary: Boundary,
}

impl FeedScanner {
    /// A scanner for the bytes after `from`.
    #[must_use]
    pub fn new(from: Boundary) -> Self {
        Self {
            state: State::Between,
            head: Head::new(),
            offset: from.offset,
            command_start: from.offset,
            db: from.db,
            in_multi: false,
            boundary: from,
        }
    }

    /// Everything up to here has been scanned.
    #[must_use]
    pub fn offset(&self) -> Offset {
        self.offset
    }

    /// The last boundary: between commands, outside `MULTI`.
    #[must_use]
    pub fn boundary(&self) -> Boundary {
        self.boundary
    }

    /// Takes the next bytes and calls `visit` for every command that ends in them.
    ///
    /// # Errors
    /// [`FeedError`] when the bytes are not RESP arrays of bulk strings; the scanner is then of no further use.
    pub fn scan(
        &mut self,
        mut chunk: &[u8],
        mut visit: impl FnMut(&Command<'_>),
    ) -> Result<(), FeedError> {
        while let Some((&byte, rest)) = chunk.split_first() {
            chunk = if let State::Body { len, left } = self.state {
                self.body(len, left, chunk)
            } else {
                self.control(byte, &mut visit)?;
                self.offset = self.offset.plus(1);
                rest
            };
        }
        Ok(())
    }

    /// Skips the bytes of an argument, keeping the first few.
    fn body<'c>(&mut self, len: u64, left: u64, chunk: &'c [u8]) -> &'c [u8] {
        let take = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let (part, rest) = chunk.split_at_checked(take).unwrap_or((chunk, &[]));
        let already = len.saturating_sub(left);
        if already < HEAD_ARG_BYTES as u64 {
            self.head.push(already, part);
        }
        self.offset = self.offset.plus(take as u64);
        let left = left.saturating_sub(take as u64);
        self.state = if left == 0 {
            State::BodyCr
        } else {
            State::Body { len, left }
        };
        rest
    }

    fn control(&mut self, byte: u8, visit: &mut impl FnMut(&Command<'_>)) -> Result<(), FeedError> {
        self.state = match (self.state, byte) {
            (State::Between, b'*') => {
                self.command_start = self.offset;
                State::Number {
                    of: Number::Argc,
                    value: 0,
                    digits: 0,
                }
            }
            // A keepalive of an old master. It counts in the offset (PROTOCOL.md C.1).
            (State::Between, b'\n') => {
                self.reach_boundary(self.offset.plus(1));
                State::Between
            }
            (State::Number { of, value, digits }, b'0'..=b'9') => {
                self.digit(of, value, digits, byte)?
            }
            (State::Number { of, value, digits }, b'\r') if digits > 0 => {
                State::NumberLf { of, value }
            }
            (
                State::NumberLf {
                    of: Number::Argc,
                    value,
                },
                b'\n',
            ) if value > 0 => {
                self.head.begin(value);
                State::Dollar
            }
            (
                State::NumberLf {
                    of: Number::BulkLen,
                    value,
                },
                b'\n',
            ) => {
                self.head.begin_arg(value);
                if value == 0 {
                    State::BodyCr
                } else {
                    State::Body {
                        len: value,
                        left: value,
                    }
                }
            }
            (State::Dollar, b'$') => State::Number {
                of: Number::BulkLen,
                value: 0,
                digits: 0,
            },
            (State::BodyCr, b'\r') => State::BodyLf,
            (State::BodyLf, b'\n') if !self.head.end_arg() => State::Dollar,
            (State::BodyLf, b'\n') => {
                self.end_command(visit)?;
                State::Between
            }
            (state, byte) => return Err(self.unexpected(state, byte)),
        };
        Ok(())
    }

    fn digit(&self, of: Number, value: u64, digits: u8, byte: u8) -> Result<State, FeedError> {
        let value = value
            .saturating_mul(10)
            .saturating_add(u64::from(byte.wrapping_sub(b'0')));
        let (what, limit) = match of {
            Number::Argc => ("arguments in a command", MAX_ARGC),
            Number::BulkLen => ("bytes in an argument", MAX_BULK_LEN),
        };
        if value > limit {
            return Err(self.error(format!("more than {limit} {what}")));
        }
        if digits >= NUMBER_DIGITS {
            return Err(self.error(format!("a number of more than {NUMBER_DIGITS} digits")));
        }
        Ok(State::Number {
            of,
            value,
            digits: digits.saturating_add(1),
        })
    }

    fn end_command(&mut self, visit: &mut impl FnMut(&Command<'_>)) -> Result<(), FeedError> {
        let end = self.offset.plus(1);
        match self.head.arg(0).map_or(0, <[u8]>::len) {
            6 if self.head.is("SELECT") => {
                let db = self.head.number(1).and_then(|db| u32::try_from(db).ok());
                self.db =
                    db.ok_or_else(|| self.error("SELECT without a database number".to_owned()))?;
            }
            5 if self.head.is("MULTI") => self.in_multi = true,
            4 if self.head.is("EXEC") => self.in_multi = false,
            _ => {}
        }
        self.reach_boundary(end);
        visit(&Command {
            start: self.command_start,
            end,
            head: &self.head,
            db: self.db,
            at_boundary: !self.in_multi,
        });
        Ok(())
    }

    fn reach_boundary(&mut self, offset: Offset) {
        if !self.in_multi {
            self.boundary = Boundary {
                offset,
                db: self.db,
            };
        }
    }

    fn unexpected(&self, state: State, byte: u8) -> FeedError {
        let expected = match state {
            State::Between => "`*`, the start of a command",
            State::Number { .. } => "a decimal number and CR",
            State::NumberLf {
                of: Number::Argc,
                value: 0,
            } => "a command of at least one argument",
            State::NumberLf { .. } | State::BodyLf => "LF",
            State::Dollar => "`$`, the start of an argument",
            State::Body { .. } | State::BodyCr => "CR after an argument",
        };
        self.error(format!("found byte 0x{byte:02x}, expected {expected}"))
    }

    fn error(&self, what: String) -> FeedError {
        FeedError {
            at: self.offset.plus(1),
            what,
        }
    }
}

/// Appends one command as a RESP array of bulk strings.
pub fn encode_command(args: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
#[path = "resp_tests.rs"]
mod tests;
