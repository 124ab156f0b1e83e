//! Bytes of a key or a value, and counts, as people and scripts are shown them.

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

/// Bytes. For people: as they are when they are printable UTF-8, else escaped (`\x00`). As JSON: a string when they are UTF-8,
/// else `{"base64": "…"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shown(pub Vec<u8>);

impl Shown {
    /// These bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }

    /// At most `limit` of these bytes, with `…` in the place of the others.
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
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.chars().any(char::is_control) => f.write_str(text),
            _ => write!(f, "{}", self.0.escape_ascii()),
        }
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
        ] {
            let shown = Shown::new(bytes);
            assert_eq!(shown.to_string(), text);
            assert_eq!(serde_json::to_string(&shown).unwrap(), json);
        }
        assert_eq!(Shown::cut(b"abcdef", 3).to_string(), "abc…");
        assert_eq!(Shown::cut("aé".as_bytes(), 2).to_string(), "a…");
        assert_eq!(Shown::cut(b"abc", 3).to_string(), "abc");
    }
}
