//! Positions in a replication stream, as Redis means them.
//!
//! A **history** is what one replication id stands for. An **offset** counts every byte of its feed, `PING` and
//! `REPLCONF GETACK` included (PROTOCOL.md A.5). When a history is continued under a new id, offsets continue to count.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A replication id: 40 lowercase hexadecimal characters. It names a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplId([u8; 40]);

/// Text that is not a replication id.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a replication id (40 hexadecimal characters)")]
pub struct BadReplId(String);

impl ReplId {
    /// A fresh id from 20 random bytes (handed in, so that tests can choose them).
    #[must_use]
    pub fn from_random(bytes: [u8; 20]) -> Self {
        let mut id = [b'0'; 40];
        for (pair, byte) in id.chunks_exact_mut(2).zip(bytes) {
            if let [high, low] = pair {
                *high = hex_digit(byte >> 4);
                *low = hex_digit(byte & 15);
            }
        }
        Self(id)
    }

    /// The 40 characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

fn hex_digit(nibble: u8) -> u8 {
    char::from_digit(u32::from(nibble), 16).map_or(b'0', |digit| digit as u8)
}

impl FromStr for ReplId {
    type Err = BadReplId;

    /// Upper and lower case are the same, as for the servers.
    fn from_str(text: &str) -> Result<Self, BadReplId> {
        let lower = text.to_ascii_lowercase();
        let id = <[u8; 40]>::try_from(lower.as_bytes()).map_err(|_| BadReplId(text.to_owned()))?;
        if id.iter().all(u8::is_ascii_hexdigit) {
            Ok(Self(id))
        } else {
            Err(BadReplId(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ReplId {
    type Error = BadReplId;
    fn try_from(text: String) -> Result<Self, BadReplId> {
        text.parse()
    }
}

impl From<ReplId> for String {
    fn from(id: ReplId) -> String {
        id.as_str().to_owned()
    }
}

impl fmt::Display for ReplId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A number of bytes of a feed: everything up to and including byte number `offset` (the first byte is number 1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Offset(pub u64);

impl Offset {
    /// The number of the next wanted byte, as `PSYNC` and segment names use it: `offset + 1`.
    #[must_use]
    pub fn next_byte(self) -> u64 {
        self.0.saturating_add(1)
    }

    /// The offset just before byte number `first` (the inverse of [`Self::next_byte`]).
    #[must_use]
    pub fn before_byte(first: u64) -> Self {
        Self(first.saturating_sub(1))
    }

    /// `bytes` later.
    #[must_use]
    pub fn plus(self, bytes: u64) -> Self {
        Self(self.0.saturating_add(bytes))
    }

    /// `bytes` earlier, not below zero.
    #[must_use]
    pub fn minus(self, bytes: u64) -> Self {
        Self(self.0.saturating_sub(bytes))
    }

    /// Bytes from `earlier` to here. A reversed pair is a bug of the caller. Builds with assertions stop there; others
    /// take it for 0. Where either order may be meant, [`Self::beyond`] says so.
    #[must_use]
    pub fn since(self, earlier: Offset) -> u64 {
        debug_assert!(earlier <= self, "{earlier} is after {self}");
        self.beyond(earlier)
    }

    /// By how many bytes this is beyond `other`: 0 when it is not.
    #[must_use]
    pub fn beyond(self, other: Offset) -> u64 {
        self.0.saturating_sub(other.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A point of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The history.
    pub history: ReplId,
    /// The offset in it.
    pub offset: Offset,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.history, self.offset)
    }
}

/// A point at which a capture may continue: a boundary between commands, outside `MULTI`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boundary {
    /// The offset after the last whole unit.
    pub offset: Offset,
    /// The database selected there (`SELECT` is not repeated after `+CONTINUE`).
    pub db: u32,
}

/// When the bytes up to `offset` had been received. Unix milliseconds, never decreasing along a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeMark {
    /// Unix milliseconds of our own clock.
    pub unix_ms: i64,
    /// Received up to here.
    pub offset: Offset,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_replication_id_is_forty_hex_characters_in_either_case() {
        let id = ReplId::from_random([0xAB; 20]);
        assert_eq!(id.as_str(), "ab".repeat(20));
        assert_eq!("AB".repeat(20).parse::<ReplId>().unwrap(), id);
        assert!("ab".parse::<ReplId>().is_err());
        assert!("zz".repeat(20).parse::<ReplId>().is_err());
    }

    #[test]
    fn the_next_byte_of_an_offset_is_one_further() {
        assert_eq!(Offset(41).next_byte(), 42);
        assert_eq!(Offset::before_byte(42), Offset(41));
        assert_eq!(Offset(9).since(Offset(5)), 4);
        assert_eq!(Offset(5).beyond(Offset(9)), 0);
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic = "9 is after 5"]
    fn a_reversed_pair_is_a_bug() {
        let _ = Offset(5).since(Offset(9));
    }
}
