//! Up to when to restore.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

/// The point of a history that a restore aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The last one that is stored.
    Latest,
    /// What had been received by this time (Unix milliseconds).
    AtUnixMs(i64),
    /// Everything up to this offset of the feed, or the last command that ends before it.
    Offset(u64),
}

/// Text that names no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` {why}: write `latest`, `2026-07-31T12:00:00Z`, `10m ago` (s, m, h, d), Unix seconds, or `offset:12345`"
)]
pub struct BadWhen {
    text: String,
    why: &'static str,
}

/// Numbers from here on are surely milliseconds: as seconds they lie beyond the year 5000.
const SURELY_MILLISECONDS: f64 = 1e11;

impl When {
    /// Reads `latest`, RFC 3339, `10m ago`, Unix seconds or `offset:n`, given what time it is.
    ///
    /// # Errors
    /// Anything else, and times that have not come yet.
    pub fn parse(text: &str, now_unix_ms: i64) -> Result<Self, BadWhen> {
        let text = text.trim();
        let bad = |why| BadWhen {
            text: text.to_owned(),
            why,
        };
        if text.eq_ignore_ascii_case("latest") {
            return Ok(Self::Latest);
        }
        if let Some(offset) = text.strip_prefix("offset:") {
            return offset
                .parse()
                .map(Self::Offset)
                .map_err(|_| bad("is no offset"));
        }
        let at = if let Some(age) = text.strip_suffix("ago") {
            let age = parse_age(age.trim()).ok_or_else(|| bad("is no age"))?;
            now_unix_ms.saturating_sub(age)
        } else if let Ok(seconds) = f64::from_str(text) {
            if !(0.0..SURELY_MILLISECONDS).contains(&seconds) {
                return Err(bad("is no time in Unix seconds"));
            }
            // in range by the check above
            #[allow(clippy::cast_possible_truncation)]
            let at = (seconds * 1000.0).round() as i64;
            at
        } else {
            let time: Timestamp = text.parse().map_err(|_| bad("is no point in time"))?;
            time.as_millisecond()
        };
        if at > now_unix_ms {
            return Err(bad("has not come yet"));
        }
        Ok(Self::AtUnixMs(at))
    }
}

/// `1h30m` in milliseconds.
fn parse_age(text: &str) -> Option<i64> {
    let mut total = 0i64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let unit = tail.chars().next()?;
        let unit_ms = match unit {
            's' => 1000,
            'm' => 60_000,
            'h' => 3_600_000,
            'd' => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(unit_ms)?)?;
        rest = tail.get(unit.len_utf8()..)?.trim_start();
    }
    (!text.is_empty()).then_some(total)
}

pub(crate) use crate::display::time as show_time;

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::AtUnixMs(at) => f.write_str(&show_time(*at)),
            Self::Offset(offset) => write!(f, "offset {offset}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: i64 = 1_785_000_000_000;

    #[test]
    fn every_form_is_read() {
        for (text, wanted) in [
            ("latest", When::Latest),
            (" Latest ", When::Latest),
            ("offset:77", When::Offset(77)),
            ("10m ago", When::AtUnixMs(NOW - 600_000)),
            ("90s ago", When::AtUnixMs(NOW - 90_000)),
            ("1h30m ago", When::AtUnixMs(NOW - 5_400_000)),
            ("2d 1h ago", When::AtUnixMs(NOW - 176_400_000)),
            ("0s ago", When::AtUnixMs(NOW)),
            ("1784999999", When::AtUnixMs(NOW - 1000)),
            ("1784999999.25", When::AtUnixMs(NOW - 750)),
            ("2026-07-25T10:00:00Z", When::AtUnixMs(1_784_973_600_000)),
            (
                "2026-07-25T12:00:00.5+02:00",
                When::AtUnixMs(1_784_973_600_500),
            ),
            ("2026-07-25 10:00:00Z", When::AtUnixMs(1_784_973_600_000)),
        ] {
            assert_eq!(When::parse(text, NOW).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn anything_else_is_an_error_that_shows_the_forms() {
        for text in [
            "",
            "ago",
            "10 ago",
            "10w ago",
            "m ago",
            "-5m ago",
            "yesterday",
            "1785000000001",
            "-1",
            "NaN",
            "inf",
            "offset:",
            "offset:-1",
            "2026-07-25",
            "2026-07-25T10:00:00",
            "99999999999999999999d ago",
            "2030-01-01T00:00:00Z",
            "1785000001",
        ] {
            let error = When::parse(text, NOW).unwrap_err().to_string();
            assert!(error.contains("10m ago"), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(
            When::AtUnixMs(1_784_973_600_500).to_string(),
            "2026-07-25T10:00:00.500Z"
        );
        assert_eq!(
            When::AtUnixMs(i64::MAX).to_string(),
            "9223372036854775807 ms"
        );
        assert_eq!(When::Offset(7).to_string(), "offset 7");
    }
}
