//! How bytes of a key or value, and counts, are shown to people and scripts.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::{Serialize, SerializeMap, Serializer};

/// `1 key`, `2 keys`.
#[must_use]
pub fn counted(many: u64, one: &str) -> String {
    let plural = if many == 1 { "" } else { "s" };
    format!("{many} {one}{plural}")
}

/// RFC 3339 in UTC with milliseconds, or the bare number when it is out of range.
#[must_use]
pub fn time(unix_ms: i64) -> String {
    jiff::Timestamp::from_millisecond(unix_ms)
        .map_or_else(|_| format!("{unix_ms} ms"), |time| format!("{time:.3}"))
}

/// The same as text.
#[derive(Debug, Clone, Copy)]
pub struct Time(pub i64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&time(self.0))
    }
}

/// Bytes. For people: as they are where they are printable UTF-8, else escaped (`\x00`, and `\\` for a backslash), so that
/// [`unescape`] gives them back. As JSON: a string when they are UTF-8, else `{"base64": "…"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown(pub Vec<u8>);

impl Shown {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// At most `limit` of these bytes, with `…` in place of the others.
    #[must_use]
    pub fn cut(bytes: &[u8], limit: usize) -> Self {
        match bytes.get(..limit) {
            Some(front) if front.len() < bytes.len() => {
                // Not within a character.
                let valid = match std::str::from_utf8(front) {
                    Err(error) if error.error_len().is_none() => error.valid_up_to(),
                    _ => limit,
                };
                let front = front.get(..valid).unwrap_or_default();
                Self([front, "…".as_bytes()].concat())
            }
            _ => Self::new(bytes),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for shown in chunk.valid().chars() {
                match shown {
                    '\\' => f.write_str("\\\\")?,
                    control if control.is_control() => {
                        let mut utf8 = [0; 4];
                        let bytes = control.encode_utf8(&mut utf8).as_bytes();
                        write!(f, "{}", bytes.escape_ascii())?;
                    }
                    other => write!(f, "{other}")?,
                }
            }
            write!(f, "{}", chunk.invalid().escape_ascii())?;
        }
        Ok(())
    }
}

/// The bytes of what [`Shown`] shows for people; none if that shows nothing so.
#[must_use]
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    loop {
        rest = match rest {
            [] => return Some(bytes),
            [b'\\', b'x', high, low, after @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let byte = digit(*high)? << 4 | digit(*low)?;
                bytes.push(u8::try_from(byte).ok()?);
                after
            }
            [b'\\', escaped, after @ ..] => {
                bytes.push(match escaped {
                    b'n' => b'\n',
                    b't' => b'\t',
                    b'r' => b'\r',
                    b'\\' | b'\'' | b'"' => *escaped,
                    _ => return None,
                });
                after
            }
            [b'\\'] => return None,
            [byte, after @ ..] => {
                bytes.push(*byte);
                after
            }
        };
    }
}

impl Serialize for Shown {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => {
                let mut map = serializer.serialize_map(Some(1))?;
                map.serialize_entry("base64", &STANDARD.encode(&self.0))?;
                map.end()
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_so_that_nothing_is_lost() {
        for (bytes, text, json) in [
            (&b"user:1"[..], "user:1", "\"user:1\""),
            ("Zoë".as_bytes(), "Zoë", "\"Zoë\""),
            (b"a\nb\x1b[", "a\\nb\\x1b[", "\"a\\nb\\u001b[\""),
            (b"\xff\x00", "\\xff\\x00", "{\"base64\":\"/wA=\"}"),
            (b"a\\x00\"'", "a\\\\x00\"'", "\"a\\\\x00\\\"'\""),
            (
                b"a\xc3\xa9\xff",
                "a\u{e9}\\xff",
                "{\"base64\":\"YcOp/w==\"}",
            ),
            ("\u{85}".as_bytes(), "\\xc2\\x85", "\"\u{85}\""),
        ] {
            let shown = Shown::new(bytes);
            assert_eq!(shown.to_string(), text);
            assert_eq!(unescape(text.as_bytes()).as_deref(), Some(bytes));
            assert_eq!(serde_json::to_string(&shown).unwrap(), json);
        }
        for bad in ["\\", "\\x4", "\\xzz", "\\q", "\\x+1"] {
            assert_eq!(unescape(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Shown::cut(b"abcdef", 3).to_string(), "abc…");
        assert_eq!(Shown::cut("aé".as_bytes(), 2).to_string(), "a…");
        assert_eq!(Shown::cut(b"abc", 3).to_string(), "abc");
    }
}
