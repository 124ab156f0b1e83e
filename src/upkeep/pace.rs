//! When a base is due: by time, or because the log has outgrown the last one.

use std::time::Duration;

use tokio::time::Instant;

use crate::archive::BaseManifest;
use crate::consolidate::Worth;
use crate::wire::position::{Position, ReplId};

/// A log below this is not worth a base before its time, however small the base is.
const LOG_MIN: u64 = 64 << 20;
/// A base is also made when so many segments stand behind the last one, however short they are: a boot asks for each of them.
const SEGMENTS_MAX: u64 = 10_000;
/// By time alone, a base is made when the log has at least a hundredth of its size: a base of 10 GB is not written again
/// for one write an hour.
pub(super) const BY_TIME: Worth = Worth::Writes {
    base_bytes_for_each: 100,
};
/// How long we wait after the last base when the log has outgrown it, so that we do not disturb a burst of writes.
const GROWN_PAUSE: Duration = Duration::from_secs(60);
/// We also wait for this many times the duration of the last consolidation. So a log that grows fast takes a tenth of a
/// core, not all of it.
const GROWN_PAUSE_FACTOR: u32 = 9;

/// How often bases are made.
pub(super) struct Pace {
    every: Duration,
    begun: Instant,
    ended: Instant,
}

impl Pace {
    pub(super) fn new(every: Duration, now: Instant) -> Self {
        Self {
            every,
            begun: now,
            ended: now,
        }
    }

    /// `grown`: the log has outgrown its base. `None`: not yet.
    pub(super) fn due(&self, now: Instant, grown: bool) -> Option<Worth> {
        let took = self.ended.duration_since(self.begun);
        let pause = GROWN_PAUSE.max(took.saturating_mul(GROWN_PAUSE_FACTOR));
        if grown && now.duration_since(self.ended) >= pause {
            return Some(Worth::AnyLog);
        }
        (now.duration_since(self.begun) >= self.every).then_some(BY_TIME)
    }

    pub(super) fn made(&mut self, begun: Instant, ended: Instant) {
        (self.begun, self.ended) = (begun, ended);
    }
}

/// The newest base, as far as is known here.
pub(super) struct Known {
    /// The history that it is the base of. It may stand in an earlier one of its lineage.
    pub(super) of: ReplId,
    pub(super) at: Position,
    pub(super) raw_bytes: u64,
    /// How many segments had been stored when it had none behind it. (Less than none, if those of another process stand there:
    /// `u64` wraps around for them as well.)
    pub(super) segments: u64,
}

impl Known {
    pub(super) fn of(base: &BaseManifest, segments: u64) -> Self {
        Self {
            of: base.history,
            at: base.position(),
            raw_bytes: base.raw_bytes,
            segments,
        }
    }

    /// Bytes of log behind it.
    fn log(&self, stored: Position) -> u64 {
        match stored.history == self.of && stored.offset >= self.at.offset {
            true => stored.offset.since(self.at.offset),
            false => 0,
        }
    }

    /// `segments`: how many have been stored by now.
    pub(super) fn is_outgrown(&self, stored: Position, share: u32, segments: u64) -> bool {
        let allowed = (self.raw_bytes / 100).saturating_mul(share.into());
        let log = self.log(stored);
        log >= allowed.max(LOG_MIN)
            || (log > 0 && segments.wrapping_sub(self.segments) >= SEGMENTS_MAX)
    }

    /// Is a base worth its bytes by time alone ([`BY_TIME`])?
    pub(super) fn is_worth(&self, stored: Position) -> bool {
        let Worth::Writes {
            base_bytes_for_each,
        } = BY_TIME
        else {
            return true;
        };
        self.log(stored).saturating_mul(base_bytes_for_each) >= self.raw_bytes
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::*;
    use crate::wire::position::Offset;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_log_that_grows_fast_gets_a_tenth_of_the_time_and_none_of_a_short_burst() {
        let start = Instant::now();
        let mut pace = Pace::new(3600 * SECOND, start);
        assert_eq!(pace.due(start + 59 * SECOND, true), None);
        assert_eq!(pace.due(start + 60 * SECOND, true), Some(Worth::AnyLog));
        assert_eq!(pace.due(start + 60 * SECOND, false), None);

        let ended = start + 100 * SECOND;
        pace.made(start + 60 * SECOND, ended);
        assert_eq!(pace.due(ended + 359 * SECOND, true), None);
        assert_eq!(pace.due(ended + 360 * SECOND, true), Some(Worth::AnyLog));
    }

    #[test]
    fn by_time_a_base_is_due_however_long_the_last_one_took() {
        let start = Instant::now();
        let mut pace = Pace::new(3600 * SECOND, start);
        assert_eq!(pace.due(start + 3599 * SECOND, false), None);
        assert_eq!(pace.due(start + 3600 * SECOND, false), Some(BY_TIME));
        assert_eq!(pace.due(start + 3600 * SECOND, true), Some(Worth::AnyLog));
        pace.made(start, start + 7200 * SECOND);
        assert_eq!(pace.due(start + 7201 * SECOND, true), Some(BY_TIME));
    }

    #[test]
    fn two_offsets_and_a_count_tell_whether_a_base_is_worth_it() {
        let (of, other) = (ReplId::from_random([1; 20]), ReplId::from_random([2; 20]));
        let at = |history, offset| Position {
            history,
            offset: Offset(offset),
        };
        // It stands in the history before, and 40 segments of that, and of this one before this process, behind it.
        let base = Known {
            of,
            at: at(other, 1000),
            raw_bytes: 50_000,
            segments: 0_u64.wrapping_sub(40),
        };
        for (stored, worth) in [(1499, false), (1500, true), (1000, false), (900, false)] {
            assert_eq!(base.is_worth(at(of, stored)), worth, "{stored}");
        }
        let grown = |stored, segments| base.is_outgrown(at(of, stored), 50, segments);
        assert!(!grown(2000, SEGMENTS_MAX - 41));
        assert!(grown(2000, SEGMENTS_MAX - 40));
        assert!(grown(1000 + LOG_MIN, 1));
        assert!(
            !base.is_outgrown(at(other, 2000), 50, SEGMENTS_MAX),
            "of another"
        );
    }
}
