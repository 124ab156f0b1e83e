//! The value of a key as an RDB holds it: read from a slice, written to a vector (PROTOCOL.md D.2, D.3).

use std::borrow::Cow;

use super::lzf;
use super::primitives::{Decoded, Length, decode_length};

/// An LZF string may grow at most by this factor: three bytes become 264 at best.
pub(super) const LZF_RATIO: u64 = 100;

/// A value that is not as its type says. Servers do not write such values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadValue(pub &'static str);

/// It is sound, but longer than is allowed here.
pub(super) const TOO_LONG: BadValue = BadValue("a compressed string is too long");

/// What is left to be read of a value.
#[derive(Clone, Debug)]
pub struct Cursor<'a> {
    rest: &'a [u8],
    /// Compressed strings may become this long.
    longest: usize,
}

impl<'a> Cursor<'a> {
    /// At the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self::limited(bytes, usize::MAX)
    }

    /// The same. A compressed string that is longer than `longest` bytes is an error, so it does not take that much
    /// memory.
    #[must_use]
    pub fn limited(bytes: &'a [u8], longest: usize) -> Self {
        Self {
            rest: bytes,
            longest,
        }
    }

    /// The bytes that are left.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], BadValue> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(BadValue("it ends too early"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next bytes, as many as the array has.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], BadValue> {
        let bytes = self.take(N)?;
        bytes.try_into().map_err(|_| BadValue("it ends too early"))
    }

    /// One byte.
    ///
    /// # Errors
    /// At the end.
    pub fn byte(&mut self) -> Result<u8, BadValue> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// 8 bytes, little endian.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn i64_le(&mut self) -> Result<i64, BadValue> {
        self.array().map(i64::from_le_bytes)
    }

    /// 8 bytes, little endian.
    ///
    /// # Errors
    /// When there are fewer.
    pub fn f64_le(&mut self) -> Result<f64, BadValue> {
        self.array().map(f64::from_le_bytes)
    }

    /// A number in the form of a length (D.2).
    ///
    /// # Errors
    /// When it is not a number.
    pub fn number(&mut self) -> Result<u64, BadValue> {
        match self.length()? {
            Length::Plain(number) => Ok(number),
            Length::Special(_) => Err(BadValue("there is a string where a number should be")),
        }
    }

    /// How many elements follow, each of which takes a byte or more.
    ///
    /// # Errors
    /// When that is more than the rest can hold.
    pub fn count(&mut self) -> Result<usize, BadValue> {
        usize::try_from(self.number()?)
            .ok()
            .filter(|count| *count <= self.rest.len())
            .ok_or(BadValue("it says to have more elements than bytes"))
    }

    /// A string in any encoding (D.3).
    ///
    /// # Errors
    /// When it is none.
    pub fn string(&mut self) -> Result<Cow<'a, [u8]>, BadValue> {
        let integer = |number: i32| Ok(Cow::Owned(number.to_string().into_bytes()));
        match self.length()? {
            Length::Plain(length) => {
                let length = usize::try_from(length).map_err(|_| BadValue("it ends too early"))?;
                self.take(length).map(Cow::Borrowed)
            }
            Length::Special(0) => integer(i8::from_le_bytes(self.array()?).into()),
            Length::Special(1) => integer(i16::from_le_bytes(self.array()?).into()),
            Length::Special(2) => integer(i32::from_le_bytes(self.array()?)),
            Length::Special(3) => self.lzf().map(Cow::Owned),
            Length::Special(_) => Err(BadValue("a string has an unknown encoding")),
        }
    }

    /// A double as text (D.3).
    ///
    /// # Errors
    /// When it is none.
    pub fn double_text(&mut self) -> Result<f64, BadValue> {
        match self.byte()? {
            253 => Ok(f64::NAN),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            length => std::str::from_utf8(self.take(length.into())?)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .ok_or(BadValue("a score is no number")),
        }
    }

    /// Says that the value ends here.
    ///
    /// # Errors
    /// When it does not.
    pub fn finish(self) -> Result<(), BadValue> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(BadValue("there are bytes after its end"))
        }
    }

    fn length(&mut self) -> Result<Length, BadValue> {
        match decode_length(self.rest) {
            Decoded::Done(length, size) => {
                self.take(size)?;
                Ok(length)
            }
            Decoded::Short(_) => Err(BadValue("it ends too early")),
            Decoded::Invalid(_) => Err(BadValue("a length has an unknown encoding")),
        }
    }

    fn lzf(&mut self) -> Result<Vec<u8>, BadValue> {
        const BAD: BadValue = BadValue("an LZF string cannot be decompressed");
        let stored = usize::try_from(self.number()?).map_err(|_| BAD)?;
        let original = usize::try_from(self.number()?).map_err(|_| BAD)?;
        let stored = self.take(stored)?;
        if original > self.longest {
            return Err(TOO_LONG);
        }
        if original == 0 || original as u64 / LZF_RATIO > stored.len() as u64 {
            return Err(BAD);
        }
        lzf::decompress(stored, original).ok_or(BAD)
    }
}

/// Appends a number in the form of a length (D.2).
pub fn put_number(out: &mut Vec<u8>, number: u64) {
    match number {
        0..=0x3F => out.push(number as u8),
        0x40..=0x3FFF => out.extend_from_slice(&(number as u16 | 0x4000).to_be_bytes()),
        0x4000..=0xFFFF_FFFF => {
            out.push(0x80);
            out.extend_from_slice(&(number as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&number.to_be_bytes());
        }
    }
}

/// Appends a string (D.3): a short decimal number as an integer, as servers do, any other string as bytes.
pub fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    if let Some(number) = canonical_i32(string) {
        if let Ok(number) = i8::try_from(number) {
            out.extend_from_slice(&[0xC0, number.to_le_bytes()[0]]);
        } else if let Ok(number) = i16::try_from(number) {
            out.push(0xC1);
            out.extend_from_slice(&number.to_le_bytes());
        } else {
            out.push(0xC2);
            out.extend_from_slice(&number.to_le_bytes());
        }
        return;
    }
    put_number(out, string.len() as u64);
    out.extend_from_slice(string);
}

/// The number that this text is, if it is how that number is written.
fn canonical_i32(text: &[u8]) -> Option<i32> {
    if text.is_empty() || text.len() > 11 {
        return None;
    }
    canonical_i64(text).and_then(|number| i32::try_from(number).ok())
}

/// The number that this text is, if it is how that number is written: no plus sign, no leading zeros, no `-0`.
#[must_use]
pub fn canonical_i64(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let written = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !written {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
