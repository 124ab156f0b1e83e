//! Addresses, sizes and lengths of time as they are written in flags, and text that may hold passwords.

use std::net::SocketAddr;
use std::time::Duration;

use super::ConfigError;

/// A time such as `500ms`, `1s`, `10m`, `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, ConfigError> {
    let complain = || {
        ConfigError(format!(
            "`{text}` is not a length of time: write for example 500ms, 1s, 10m or 1h"
        ))
    };
    let parsed: jiff::SignedDuration = text.trim().parse().map_err(|_| complain())?;
    Duration::try_from(parsed).map_err(|_| complain())
}

/// An address to listen on.
pub fn parse_addr(text: &str) -> Result<SocketAddr, ConfigError> {
    text.parse().map_err(|_| {
        ConfigError(format!(
            "`{text}` is not an address to listen on: write IP:PORT, such as 127.0.0.1:6390 or [::]:6390"
        ))
    })
}

/// A size in bytes such as `8MiB`, `64Mi`, `1MB` or `4096`.
pub fn parse_size(text: &str) -> Result<usize, ConfigError> {
    let complain = || {
        ConfigError(format!(
            "`{text}` is not a size: write for example 512KiB, 8MiB or 1GiB"
        ))
    };
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at_checked(digits).ok_or_else(complain)?;
    let number: usize = number.parse().map_err(|_| complain())?;
    let factor: usize = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        _ => return Err(complain()),
    };
    number.checked_mul(factor).ok_or_else(complain)
}

/// Takes user and password out of every URL in `text`: for messages that repeat what somebody typed, such as the
/// command line's own.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        // The last @ of the word: a password may hold one that nobody encoded.
        let word_end = after.find(char::is_whitespace).unwrap_or(after.len());
        let (word, beyond) = after.split_at_checked(word_end).unwrap_or((after, ""));
        rest = match word.rsplit_once('@') {
            Some((_, host)) => {
                clean.push_str("***@");
                clean.push_str(host);
                beyond
            }
            None => after,
        };
    }
    clean.push_str(rest);
    clean
}
