//! Up to when to restore.

use std::fmt;

use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;

use crate::config::parse_duration;

/// The point of a history that a restore aims at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecoveryTarget {
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
    "`{text}` {why}: write `latest`, `2026-07-31 12:00:00` or `12:00:00` (UTC), `yesterday`, `10m` or `10m ago`, Unix seconds or \
     milliseconds, or `offset:12345`"
)]
pub struct BadRecoveryTarget {
    text: String,
    why: &'static str,
}

/// Numbers from here on are milliseconds: as seconds they lie beyond the year 5000, and as milliseconds before 1973.
const MILLISECONDS_FROM: i64 = 100_000_000_000;
const DAY_MS: i64 = 86_400_000;

impl RecoveryTarget {
    /// Reads a point in time, given what time it is: `latest`; `offset:n`; RFC 3339, or a date and a time of UTC; a time of day
    /// alone, the last one that has passed; `yesterday`, which is 24 hours ago, or `yesterday 12:00`; an age such as `10m` or
    /// `10m ago`; Unix seconds or milliseconds.
    ///
    /// # Errors
    /// Anything else, and times that have not come yet.
    pub fn parse(text: &str, now_unix_ms: i64) -> Result<Self, BadRecoveryTarget> {
        let text = text.trim();
        let bad = |why| BadRecoveryTarget {
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
        let now = Timestamp::from_millisecond(now_unix_ms).map_err(|_| bad("has no clock"))?;
        let at = if let Some(age) = text.strip_suffix("ago") {
            let age = parse_age(age).ok_or_else(|| bad("is no age"))?;
            now_unix_ms.saturating_sub(age)
        } else if is_number(text) {
            parse_number(text).ok_or_else(|| bad("is no time in Unix seconds or milliseconds"))?
        } else {
            parse_time(text, now)
                .or_else(|| Some(now_unix_ms.saturating_sub(parse_age(text)?)))
                .ok_or_else(|| bad("is no point in time"))?
        };
        if at > now_unix_ms {
            return Err(bad("is in the future"));
        }
        Ok(Self::AtUnixMs(at))
    }
}

fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    !text.is_empty() && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'.'))
}

/// Unix seconds, with a fraction or without, or Unix milliseconds; as milliseconds.
fn parse_number(text: &str) -> Option<i64> {
    if let Ok(whole) = text.parse::<i64>() {
        return match whole {
            ..0 => None,
            MILLISECONDS_FROM.. => Some(whole),
            seconds => seconds.checked_mul(1000),
        };
    }
    let (seconds, fraction) = text.split_once('.')?;
    let seconds: i64 = seconds.parse().ok().filter(|seconds| *seconds >= 0)?;
    let is_plain = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    // Three digits are milliseconds; what follows them is cut off.
    let millis: i64 = format!("{fraction}00").get(..3)?.parse().ok()?;
    (is_plain && seconds < MILLISECONDS_FROM)
        .then(|| seconds.checked_mul(1000)?.checked_add(millis))?
}

/// A date, a time of day, or both. Without a zone it is UTC, as all times that are shown.
fn parse_time(text: &str, now: Timestamp) -> Option<i64> {
    let now_unix_ms = now.as_millisecond();
    let utc = |time: DateTime| Some(TimeZone::UTC.to_timestamp(time).ok()?.as_millisecond());
    let today = TimeZone::UTC.to_datetime(now).date();
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time.as_millisecond());
    }
    if let Ok(time) = text.parse() {
        return utc(time);
    }
    if let Some(time) = strip_word(text, "yesterday") {
        if time.is_empty() {
            return Some(now_unix_ms.saturating_sub(DAY_MS));
        }
        return utc(today.yesterday().ok()?.to_datetime(parse_clock(time)?));
    }
    if let Some(time) = strip_word(text, "today") {
        return utc(today.to_datetime(parse_clock(time)?));
    }
    let at = utc(today.to_datetime(parse_clock(text)?))?;
    // It stands for the last one that has passed.
    Some(if at > now_unix_ms {
        at.saturating_sub(DAY_MS)
    } else {
        at
    })
}

/// `12:00:00`. The library would take the time out of a whole date as well.
fn parse_clock(text: &str) -> Option<Time> {
    let is_time = text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains('-');
    text.parse().ok().filter(|_| is_time)
}

/// What follows the word, if the text begins with it.
fn strip_word<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (front, rest) = text.split_at_checked(word.len())?;
    let is_word = front.eq_ignore_ascii_case(word) && (rest.is_empty() || rest.starts_with(' '));
    is_word.then(|| rest.trim_start())
}

/// `1h30m` in milliseconds.
fn parse_age(text: &str) -> Option<i64> {
    let age = parse_duration(text).ok()?;
    i64::try_from(age.as_millis()).ok()
}

pub(crate) use crate::display::time as show_time;

impl fmt::Display for RecoveryTarget {
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

    /// 2026-07-25T17:20:00Z.
    const NOW: i64 = 1_785_000_000_000;
    /// The same day at 10:00.
    const TEN: i64 = 1_784_973_600_000;

    #[test]
    fn every_form_is_read() {
        for (text, wanted) in [
            ("latest", RecoveryTarget::Latest),
            (" Latest ", RecoveryTarget::Latest),
            ("offset:77", RecoveryTarget::Offset(77)),
            ("10m ago", RecoveryTarget::AtUnixMs(NOW - 600_000)),
            ("10m", RecoveryTarget::AtUnixMs(NOW - 600_000)),
            ("5 minutes ago", RecoveryTarget::AtUnixMs(NOW - 300_000)),
            ("90s ago", RecoveryTarget::AtUnixMs(NOW - 90_000)),
            ("250ms", RecoveryTarget::AtUnixMs(NOW - 250)),
            ("1h30m ago", RecoveryTarget::AtUnixMs(NOW - 5_400_000)),
            ("2d 1h ago", RecoveryTarget::AtUnixMs(NOW - 176_400_000)),
            ("1w", RecoveryTarget::AtUnixMs(NOW - 604_800_000)),
            ("0s ago", RecoveryTarget::AtUnixMs(NOW)),
            ("1784999999", RecoveryTarget::AtUnixMs(NOW - 1000)),
            ("1784999999.25", RecoveryTarget::AtUnixMs(NOW - 750)),
            ("1784999999.2", RecoveryTarget::AtUnixMs(NOW - 800)),
            ("1784999999250", RecoveryTarget::AtUnixMs(NOW - 750)),
            ("2026-07-25T10:00:00Z", RecoveryTarget::AtUnixMs(TEN)),
            (
                "2026-07-25T12:00:00.5+02:00",
                RecoveryTarget::AtUnixMs(TEN + 500),
            ),
            ("2026-07-25 10:00:00Z", RecoveryTarget::AtUnixMs(TEN)),
            ("2026-07-25 10:00:00", RecoveryTarget::AtUnixMs(TEN)),
            ("2026-07-25 10:00", RecoveryTarget::AtUnixMs(TEN)),
            (
                "2026-07-25T10:00:00.250",
                RecoveryTarget::AtUnixMs(TEN + 250),
            ),
            ("2026-07-25", RecoveryTarget::AtUnixMs(TEN - 10 * 3_600_000)),
            ("10:00:00", RecoveryTarget::AtUnixMs(TEN)),
            ("10:00:00.125", RecoveryTarget::AtUnixMs(TEN + 125)),
            ("10:00", RecoveryTarget::AtUnixMs(TEN)),
            ("17:20:00", RecoveryTarget::AtUnixMs(NOW)),
            // Today it has not come yet.
            ("17:20:01", RecoveryTarget::AtUnixMs(NOW + 1000 - DAY_MS)),
            ("yesterday", RecoveryTarget::AtUnixMs(NOW - DAY_MS)),
            ("Yesterday 10:00", RecoveryTarget::AtUnixMs(TEN - DAY_MS)),
            ("today 10:00:00", RecoveryTarget::AtUnixMs(TEN)),
        ] {
            assert_eq!(RecoveryTarget::parse(text, NOW).unwrap(), wanted, "{text}");
        }
    }

    #[test]
    fn anything_else_is_an_error_that_shows_the_forms() {
        for text in [
            "",
            "ago",
            "10 ago",
            "m ago",
            "-5m ago",
            "-5m",
            "tomorrow",
            "today",
            "today 17:21",
            "yesterdays",
            "yesterday at ten",
            "25:00",
            "1785000000001",
            "-1",
            "-1.5",
            "1.",
            "NaN",
            "inf",
            "offset:",
            "offset:-1",
            "2026-07-25T17:20:01",
            "2026-02-30",
            "99999999999999999999d ago",
            "2030-01-01T00:00:00Z",
            "1785000001",
            "999999999999999999999",
        ] {
            let error = RecoveryTarget::parse(text, NOW).unwrap_err().to_string();
            assert!(error.contains("10m ago"), "{text}: {error}");
        }
    }

    #[test]
    fn times_are_shown_in_utc() {
        assert_eq!(
            RecoveryTarget::AtUnixMs(1_784_973_600_500).to_string(),
            "2026-07-25T10:00:00.500Z"
        );
        assert_eq!(
            RecoveryTarget::AtUnixMs(i64::MAX).to_string(),
            "9223372036854775807 ms"
        );
        assert_eq!(RecoveryTarget::Offset(7).to_string(), "offset 7");
    }
}
