//! Recordings of replication: everything that a master and its replica said to each other, byte for byte, with times.
//!
//! A recording is a run of ordinary zstd frames. Decompressed, it is a head line and records, each a line and so many
//! bytes as that says. All numbers are decimal, without signs or leading zeros; lines end in one LF:
//!
//! ```text
//! backfeed-recording 1 1767225600000000      format version; when it began, Unix microseconds
//! open 12 0                                  a connection, 12 µs later; 0 bytes follow, and a LF
//!
//! replica 15 14                              14 bytes that the replica said, and a LF that is not one of them
//! *1
//! $4
//! PING
//!
//! master 40 7                                bytes that the master said
//! +PONG
//!
//! close 900 6                                the connection ended; the bytes say which side ended it: master, replica
//! master
//! end 950 16                                 the last record: CRC-64/REDIS of all bytes before, this line included
//! 1f0c2d9a8b7e6f50
//! ```
//!
//! Times never go back. `master` and `replica` stand between an `open` and its `close` (the last connection need not be
//! closed), are never empty, and each is what one read or one write took: how a stream was cut is part of the recording.
//! What lies after `end`, a frame that is not whole, a line that is not exactly like this: all are errors.

mod options;
pub mod play;
#[cfg(test)]
mod recording_tests;
mod redact;
pub mod story;

use bytes::Bytes;

use crate::crc64::Crc64;
use crate::frames::{FrameDecoder, FrameEncoder, FrameError};

pub use redact::{RedactError, Redaction};
pub use story::{Story, StoryError};

/// Longest recording, decompressed: it is held in memory, and what shows a behaviour fits into far less.
pub const RECORDING_LIMIT: usize = 1 << 30;
/// So much of a recording goes into each frame.
const FRAME: usize = 4 << 20;
/// Fixtures are made once and read often.
const LEVEL: i32 = 19;
const VERSION: u64 = 1;
const HEAD: &str = "backfeed-recording";
/// The longest line is that of a record: a word and two numbers of 20 digits at most.
const MAX_LINE: usize = 80;

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A connection was made.
    Open,
    /// Bytes from the master.
    Master,
    /// Bytes from the replica.
    Replica,
    /// The connection ended.
    Close,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Open, Self::Master, Self::Replica, Self::Close];

    fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Master => "master",
            Self::Replica => "replica",
            Self::Close => "close",
        }
    }
}

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Microseconds since the recording began.
    pub at_us: u64,
    /// What it is of.
    pub kind: Kind,
    /// What was said.
    pub bytes: Bytes,
}

/// Why bytes are no recording.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordingError {
    /// The compressed bytes are damaged.
    #[error("the recording is damaged: {0}")]
    Compression(String),
    /// It is something else.
    #[error("this is no recording: it does not begin with `{HEAD}`")]
    Foreign,
    /// It was made by a later version.
    #[error(
        "the recording has format {0}, and this version reads format {VERSION}: use a newer backfeed"
    )]
    Newer(u64),
    /// It stops before its `end`.
    #[error("the recording is cut off after {0} bytes (decompressed): its `end` record is missing")]
    Truncated(usize),
    /// A record is not as it should be.
    #[error("the recording is damaged at byte {at} (decompressed): {what}")]
    Malformed {
        /// The first byte of the record.
        at: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// It holds other bytes than were recorded.
    #[error(
        "the recording is damaged: its checksum is {found:016x}, and {wanted:016x} was recorded"
    )]
    Checksum {
        /// Of what is there.
        found: u64,
        /// Of what was recorded.
        wanted: u64,
    },
    /// More than [`RECORDING_LIMIT`].
    #[error("the recording has more than {RECORDING_LIMIT} bytes (decompressed)")]
    TooLong,
}

impl From<FrameError> for RecordingError {
    fn from(error: FrameError) -> Self {
        Self::Compression(error.to_string())
    }
}

/// A whole recording.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recording {
    /// When it began, Unix microseconds.
    pub began_unix_us: u64,
    /// What happened, in order.
    pub records: Vec<Record>,
}

impl Recording {
    /// Reads a recording as it lies in a file.
    ///
    /// # Errors
    /// [`RecordingError`]: it is damaged, cut off, of a newer format, or something else.
    ///
    /// ```
    /// use backfeed::recording::{Kind, Record, Recording};
    /// let recording = Recording {
    ///     began_unix_us: 1_767_225_600_000_000,
    ///     records: vec![Record { at_us: 5, kind: Kind::Open, bytes: "".into() }],
    /// };
    /// let file = recording.compress().unwrap();
    /// assert_eq!(Recording::parse(&file).unwrap(), recording);
    /// assert!(Recording::parse(&file[..file.len() - 1]).is_err());
    /// ```
    pub fn parse(file: &[u8]) -> Result<Self, RecordingError> {
        Self::decode(&decompress(file)?)
    }

    /// The recording as it lies in a file.
    ///
    /// # Errors
    /// [`RecordingError::Compression`], when there is no memory for it.
    pub fn compress(&self) -> Result<Vec<u8>, RecordingError> {
        let failed = |error: std::io::Error| RecordingError::Compression(error.to_string());
        let mut encoder = FrameEncoder::new(LEVEL).map_err(failed)?;
        let mut file = Vec::new();
        for part in self.encode().chunks(FRAME) {
            file.extend(encoder.frame(part).map_err(failed)?);
        }
        Ok(file)
    }

    /// The decompressed form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = format!("{HEAD} {VERSION} {}\n", self.began_unix_us).into_bytes();
        let mut last = 0;
        for record in &self.records {
            put(&mut out, record.kind.word(), record.at_us, &record.bytes);
            last = record.at_us;
        }
        out.extend_from_slice(format!("end {last} 16\n").as_bytes());
        let sum = format!("{:016x}\n", Crc64::of(&out));
        out.extend_from_slice(sum.as_bytes());
        out
    }

    /// Reads the decompressed form.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn decode(text: &Bytes) -> Result<Self, RecordingError> {
        let mut input = Input { text, at: 0 };
        let began_unix_us = input.head()?;
        let mut recording = Self {
            began_unix_us,
            records: Vec::new(),
        };
        let (mut last, mut open) = (0, false);
        loop {
            let at = input.at;
            let malformed = |what| RecordingError::Malformed { at, what };
            let (word, at_us, length) = input.record_line()?;
            let bytes = input.payload(length)?;
            if at_us < last {
                return Err(malformed("the time goes back"));
            }
            last = at_us;
            if word == "end" {
                input.check_end(at, &bytes)?;
                return Ok(recording);
            }
            let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word);
            let kind = kind.ok_or(malformed("a record of an unknown kind"))?;
            match (kind, open, bytes.is_empty()) {
                (Kind::Open, false, true) => open = true,
                (Kind::Open, _, _) => {
                    return Err(malformed("`open` within a connection, or with bytes"));
                }
                (Kind::Close, true, _) if *bytes == *b"master" || *bytes == *b"replica" => {
                    open = false
                }
                (Kind::Master | Kind::Replica, true, false) => {}
                _ => {
                    return Err(malformed(
                        "a record outside of a connection, or without bytes",
                    ));
                }
            }
            recording.records.push(Record { at_us, kind, bytes });
        }
    }

    /// What one side said in all connections, one after the other.
    #[must_use]
    pub fn said(&self, by: Kind) -> Vec<u8> {
        let of = self.records.iter().filter(|record| record.kind == by);
        of.flat_map(|record| record.bytes.iter().copied()).collect()
    }
}

fn put(out: &mut Vec<u8>, word: &str, at_us: u64, bytes: &[u8]) {
    out.extend_from_slice(format!("{word} {at_us} {}\n", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
    out.push(b'\n');
}

fn decompress(file: &[u8]) -> Result<Bytes, RecordingError> {
    let mut decoder = FrameDecoder::new(FRAME)?;
    let mut text = Vec::new();
    // In pieces, so that what is too long is found before all of it is in memory.
    for piece in file.chunks(FRAME) {
        decoder.push(piece, &mut |frame: Bytes| {
            if text.len() <= RECORDING_LIMIT {
                text.extend_from_slice(&frame);
            }
        })?;
        if text.len() > RECORDING_LIMIT {
            return Err(RecordingError::TooLong);
        }
    }
    if decoder.within_frame() {
        return Err(RecordingError::Truncated(text.len()));
    }
    Ok(text.into())
}

struct Input<'a> {
    text: &'a Bytes,
    at: usize,
}

impl Input<'_> {
    /// The words of the next line.
    fn line(&mut self) -> Result<Vec<String>, RecordingError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let malformed = |what| RecordingError::Malformed { at: self.at, what };
        let window = rest.get(..MAX_LINE).unwrap_or(rest);
        let Some(length) = memchr::memchr(b'\n', window) else {
            return Err(if window.len() < MAX_LINE {
                RecordingError::Truncated(self.text.len())
            } else {
                malformed("a line without an end")
            });
        };
        let line = window.get(..length).unwrap_or_default();
        let line = std::str::from_utf8(line).map_err(|_| malformed("a line that is no text"))?;
        let words = line.split(' ').map(str::to_owned).collect();
        self.at = self.at.saturating_add(length).saturating_add(1);
        Ok(words)
    }

    fn head(&mut self) -> Result<u64, RecordingError> {
        let head = HEAD.as_bytes();
        if !self.text.starts_with(head) {
            // One that is cut off within the very first bytes, or nothing at all.
            return Err(if head.starts_with(self.text) {
                RecordingError::Truncated(self.text.len())
            } else {
                RecordingError::Foreign
            });
        }
        let malformed = RecordingError::Malformed {
            at: 0,
            what: "its head line",
        };
        let words = self.line()?;
        let [_, version, began] = &words[..] else {
            return Err(malformed);
        };
        match number(version) {
            Some(VERSION) => number(began).ok_or(malformed),
            Some(version) if version > VERSION => Err(RecordingError::Newer(version)),
            _ => Err(malformed),
        }
    }

    fn record_line(&mut self) -> Result<(String, u64, usize), RecordingError> {
        let at = self.at;
        let words = self.line()?;
        if let [word, time, length] = &words[..]
            && let (Some(time), Some(length)) = (number(time), number(length))
            && let Ok(length) = usize::try_from(length)
        {
            return Ok((word.clone(), time, length));
        }
        Err(RecordingError::Malformed {
            at,
            what: "a line that is not `kind time length`",
        })
    }

    fn payload(&mut self, length: usize) -> Result<Bytes, RecordingError> {
        let end = self.at.saturating_add(length);
        let Some(after) = self.text.get(end) else {
            return Err(RecordingError::Truncated(self.text.len()));
        };
        if *after != b'\n' {
            return Err(RecordingError::Malformed {
                at: end,
                what: "no LF after the bytes of a record",
            });
        }
        let bytes = self.text.slice(self.at..end);
        self.at = end.saturating_add(1);
        Ok(bytes)
    }

    /// The `end` record began at `at`.
    fn check_end(&self, at: usize, sum: &[u8]) -> Result<(), RecordingError> {
        let text = std::str::from_utf8(sum).unwrap_or_default();
        let wanted = u64::from_str_radix(text, 16).ok();
        let wanted = wanted.filter(|wanted| format!("{wanted:016x}") == text);
        let wanted = wanted.ok_or(RecordingError::Malformed {
            at,
            what: "a checksum that is not 16 hexadecimal digits",
        })?;
        let digits = self.at.saturating_sub(sum.len()).saturating_sub(1);
        let found = Crc64::of(self.text.get(..digits).unwrap_or_default());
        if found != wanted {
            return Err(RecordingError::Checksum { found, wanted });
        }
        if self.at != self.text.len() {
            return Err(RecordingError::Malformed {
                at: self.at,
                what: "bytes after the end",
            });
        }
        Ok(())
    }
}

/// Decimal, as we write it.
fn number(text: &str) -> Option<u64> {
    text.parse()
        .ok()
        .filter(|number: &u64| number.to_string() == text)
}
