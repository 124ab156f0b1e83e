//! What a client sends to a server: RESP arrays of bulk strings, or inline commands (`SYNC\r\n`).
//!
//! A target that is restored sends a few dozen small commands. Anything longer than the limits below is an error, so
//! memory stays bounded whatever connects.

use bytes::{Bytes, BytesMut};

/// Longest command with its framing. A replica's longest is `AUTH user password`. 16 KiB leaves room for long
/// passwords.
pub(super) const MAX_REQUEST: usize = 16 * 1024;
/// Most arguments of a command. Real replicas send at most about 9 (`REPLCONF capa … capa …`).
pub(super) const MAX_ARGS: usize = 64;
/// Longest `*n` or `$n` line without its line end.
const MAX_LINE: usize = 32;

/// Bytes that are no request, or too long a one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// A command longer than the limit.
    #[error("a command of more than {MAX_REQUEST} bytes or {MAX_ARGS} arguments")]
    TooLong,
    /// Not RESP.
    #[error("bytes that are no RESP command")]
    Malformed,
    /// The beginning of TLS, where none is spoken.
    #[error("a TLS handshake")]
    Tls,
}

/// The first byte of TLS: the record type `handshake`. No command begins with a control character.
const TLS_HANDSHAKE: u8 = 0x16;

/// Collects bytes and gives whole commands.
#[derive(Debug, Default)]
pub(super) struct Requests {
    buffer: BytesMut,
}

impl Requests {
    /// Adds received bytes. At most `MAX_REQUEST` bytes stay after [`Self::next`] has returned `None`.
    pub(super) fn extend(&mut self, input: &[u8]) {
        self.buffer.extend_from_slice(input);
    }

    /// The next whole command. Empty lines (keepalives) are skipped.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Bytes>>, RequestError> {
        loop {
            let Some(first) = self.buffer.first().copied() else {
                return Ok(None);
            };
            if first == TLS_HANDSHAKE {
                return Err(RequestError::Tls);
            }
            let parsed = if first == b'*' {
                parse_array(&self.buffer)?
            } else {
                parse_inline(&self.buffer)
            };
            let Some((length, ranges)) = parsed else {
                if self.buffer.len() > MAX_REQUEST {
                    return Err(RequestError::TooLong);
                }
                return Ok(None);
            };
            if length > MAX_REQUEST || ranges.len() > MAX_ARGS {
                return Err(RequestError::TooLong);
            }
            let raw = self.buffer.split_to(length).freeze();
            let args: Vec<Bytes> = ranges.into_iter().map(|range| raw.slice(range)).collect();
            if !args.is_empty() {
                return Ok(Some(args));
            }
        }
    }
}

/// Length of the command with its framing, and the ranges of its arguments.
type Parsed = Option<(usize, Vec<std::ops::Range<usize>>)>;

/// `*n\r\n` then n times `$len\r\n<bytes>\r\n`. `None`: more bytes needed.
fn parse_array(buffer: &[u8]) -> Result<Parsed, RequestError> {
    let Some((count, mut at)) = number_line(buffer, 0, b'*')? else {
        return Ok(None);
    };
    if count > MAX_ARGS {
        return Err(RequestError::TooLong);
    }
    let mut ranges = Vec::with_capacity(count);
    for _ in 0..count {
        let Some((length, start)) = number_line(buffer, at, b'$')? else {
            return Ok(None);
        };
        if length > MAX_REQUEST {
            return Err(RequestError::TooLong);
        }
        let end = start.saturating_add(length);
        at = end.saturating_add(2);
        match buffer.get(end..at) {
            Some(b"\r\n") => ranges.push(start..end),
            Some(_) => return Err(RequestError::Malformed),
            None => return Ok(None),
        }
    }
    Ok(Some((at, ranges)))
}

/// A line `<prefix><decimal>\r\n` at `at`: the number, and the position of the next byte.
fn number_line(
    buffer: &[u8],
    at: usize,
    prefix: u8,
) -> Result<Option<(usize, usize)>, RequestError> {
    let rest = buffer.get(at..).unwrap_or_default();
    let Some((first, rest)) = rest.split_first() else {
        return Ok(None);
    };
    if *first != prefix {
        return Err(RequestError::Malformed);
    }
    let Some(length) = memchr::memchr(b'\r', rest) else {
        return if rest.len() > MAX_LINE {
            Err(RequestError::Malformed)
        } else {
            Ok(None)
        };
    };
    if length > MAX_LINE {
        return Err(RequestError::Malformed);
    }
    let Some(end) = rest.get(length.saturating_add(1)) else {
        return Ok(None);
    };
    if *end != b'\n' {
        return Err(RequestError::Malformed);
    }
    let digits = rest.get(..length).unwrap_or_default();
    let number = std::str::from_utf8(digits)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|text| text.parse::<usize>().ok())
        .ok_or(RequestError::Malformed)?;
    // prefix + digits + CR + LF
    Ok(Some((number, at.saturating_add(length).saturating_add(3))))
}

/// A line of words. `None`: its end has not come yet.
fn parse_inline(buffer: &[u8]) -> Parsed {
    let end = memchr::memchr(b'\n', buffer)?;
    let line = buffer.get(..end).unwrap_or_default();
    let mut ranges = Vec::new();
    let mut word: Option<usize> = None;
    for (at, byte) in line.iter().enumerate() {
        match (byte.is_ascii_whitespace(), word) {
            (false, None) => word = Some(at),
            (true, Some(start)) => {
                ranges.push(start..at);
                word = None;
            }
            _ => {}
        }
    }
    if let Some(start) = word {
        ranges.push(start..end);
    }
    Some((end.saturating_add(1), ranges))
}
