//! What is kept, and for how long.

use std::fmt;
use std::time::Duration;

use super::{ConfigError, parse_duration};

/// How long a lineage that lost stays by default.
pub const KEEP_SUPERSEDED: Duration = Duration::from_secs(30 * 24 * 3600);

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepPolicy {
    /// Every point of so long before the newest one.
    pub points: Duration,
    /// Bases alone: the newest of each of the last days that have one,
    pub daily: u32,
    /// weeks,
    pub weekly: u32,
    /// and months (UTC).
    pub monthly: u32,
    /// A lineage that lost, after another one took its place.
    pub superseded: Duration,
}

/// What a service deletes by itself, and how often it looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionConfig {
    /// What is kept. None: everything.
    pub keep: Option<KeepPolicy>,
    /// Delete segments that have been in a span for long.
    pub delete_segments: bool,
    /// Between two runs.
    pub every: Duration,
}

impl RetentionConfig {
    /// Is anything ever deleted?
    #[must_use]
    pub fn deletes(&self) -> bool {
        self.keep.is_some() || self.delete_segments
    }
}

/// Reads a length of time for which something is kept.
///
/// # Errors
/// No time at all, and anything that is no length of time. The message says what to write instead.
pub fn parse_keep(text: &str) -> Result<Duration, ConfigError> {
    let wanted = "write a length of time, such as 7d. To keep everything, do not set it";
    if text.trim().ends_with('m') {
        return Err(ConfigError::new(format!(
            "`{text}` may mean minutes or months: write 6min or 180d"
        )));
    }
    let parsed = match text.trim() {
        "0" => Ok(Duration::ZERO),
        text => parse_duration(text),
    };
    match parsed {
        Ok(Duration::ZERO) => Err(ConfigError::new(format!(
            "`{text}` would keep nothing but the newest base: {wanted}"
        ))),
        Ok(keep) => Ok(keep),
        Err(_) => Err(ConfigError::new(format!(
            "`{text}` is no length of time: {wanted}"
        ))),
    }
}

impl fmt::Display for KeepPolicy {
    /// As it was asked for.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "every point of {}", Span(self.points))?;
        for (count, what) in [
            (self.daily, "daily"),
            (self.weekly, "weekly"),
            (self.monthly, "monthly"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        write!(f, ", superseded for {}", Span(self.superseded))
    }
}

struct Span(Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let units = [(86_400, "d"), (3600, "h"), (60, "min")];
        let mut whole = units
            .iter()
            .filter(|(unit, _)| seconds.is_multiple_of(*unit));
        let (unit, name) = whole.next().copied().unwrap_or((1, "s"));
        write!(f, "{} {name}", seconds.checked_div(unit).unwrap_or(0))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_is_read_and_anything_else_says_what_to_write() {
        assert_eq!(parse_keep("7d").unwrap(), Duration::from_secs(7 * 86_400));
        assert_eq!(parse_keep("6min").unwrap(), Duration::from_secs(6 * 60));
        for (text, says) in [
            ("0", "would keep nothing"),
            ("0s", "would keep nothing"),
            ("forever", "To keep everything"),
            ("all", "To keep everything"),
            ("-1d", "no length of time"),
            ("", "no length of time"),
            ("7", "such as 7d"),
            ("6m", "6min or 180d"),
        ] {
            let error = parse_keep(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn a_policy_is_shown_as_it_was_asked_for() {
        let policy = KeepPolicy {
            points: Duration::from_secs(7 * 86_400),
            daily: 30,
            weekly: 0,
            monthly: 12,
            superseded: Duration::from_secs(90),
        };
        assert_eq!(
            policy.to_string(),
            "every point of 7 d, 30 daily, 12 monthly, superseded for 90 s"
        );
    }
}
