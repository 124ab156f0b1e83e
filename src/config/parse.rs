//! Addresses, sizes and lengths of time as they are written in flags, and text that may hold passwords.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use super::ConfigError;

/// A length of time such as `500ms`, `1s`, `10m`, `1h30m`, `2d`; a day has 24 hours.
pub fn parse_duration(text: &str) -> Result<Duration, ConfigError> {
    let complain = || {
        ConfigError(format!(
            "`{text}` is not a length of time: write for example 500ms, 1s, 10m, 1h or 2d"
        ))
    };
    let parsed: jiff::Span = text.trim().parse().map_err(|_| complain())?;
    let parsed = parsed
        .to_duration(jiff::SpanRelativeTo::days_are_24_hours())
        .map_err(|_| complain())?;
    Duration::try_from(parsed).map_err(|_| complain())
}

/// How often: a length of time, or `never`, which is none.
pub fn parse_every(text: &str) -> Result<Option<Duration>, ConfigError> {
    if text == "never" {
        return Ok(None);
    }
    parse_duration(text).map(Some)
}

/// Is it done by itself? `always` or `never`.
pub fn parse_merge(text: &str) -> Result<bool, ConfigError> {
    match text {
        "always" => Ok(true),
        "never" => Ok(false),
        other => Err(ConfigError(format!(
            "`{other}` is neither `always` nor `never`"
        ))),
    }
}

/// An address to listen on: `IP:PORT`, or `localhost:PORT`.
pub fn parse_addr(text: &str) -> Result<SocketAddr, ConfigError> {
    if let Some(port) = text.strip_prefix("localhost:").and_then(port) {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| {
        ConfigError(format!(
            "`{text}` is not an address to listen on: write IP:PORT, such as 127.0.0.1:6390 or [::]:6390"
        ))
    })
}

fn port(text: &str) -> Option<u16> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_plain)
}

/// Where `/healthz`, `/readyz` and `/metrics` are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpAddr {
    written: String,
    /// The first of them that this machine has.
    addrs: Vec<SocketAddr>,
}

impl HttpAddr {
    /// One of these is listened on: the first that can be.
    #[must_use]
    pub fn addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }
}

impl From<SocketAddr> for HttpAddr {
    fn from(addr: SocketAddr) -> Self {
        Self {
            written: addr.to_string(),
            addrs: vec![addr],
        }
    }
}

impl FromStr for HttpAddr {
    type Err = ConfigError;

    /// `IP:PORT`, `localhost:PORT`, or `:PORT` for all addresses of the machine.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (host, port) = text
            .rsplit_once(':')
            .map_or(("", None), |(host, digits)| (host, port(digits)));
        let addrs = match (host, port) {
            // With IPv6 this is for both. Machines without it have IPv4 alone.
            ("", Some(port)) => vec![
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
            ],
            ("localhost", Some(port)) => vec![
                SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
            ],
            _ => vec![text.parse().map_err(|_| {
                ConfigError(format!(
                    "`{text}` is not an address to listen on: write for example 127.0.0.1:9390, localhost:9390, or :9390 for all \
                     addresses of this machine"
                ))
            })?],
        };
        Ok(Self {
            written: text.to_owned(),
            addrs,
        })
    }
}

impl fmt::Display for HttpAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
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

/// Bytes, for people: `70.3 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        if self.0 < 1024 {
            return write!(f, "{} bytes", self.0);
        }
        let (mut tenths, mut name) = (u128::from(self.0).saturating_mul(10), "bytes");
        for unit in UNITS {
            if tenths < 10_240 {
                break;
            }
            (tenths, name) = (tenths / 1024, unit);
        }
        write!(f, "{}.{} {name}", tenths / 10, tenths % 10)
    }
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
