//! Growing pauses between tries.

use std::time::Duration;

use super::random_unit;

/// How much longer each pause is than the one before.
const FACTOR: u32 = 2;
/// The most that chance takes from a pause: a quarter.
const JITTER: f64 = 0.25;

/// Pauses that double with each try, from the first one up to a limit.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    limit: Duration,
    next: Duration,
    is_jittered: bool,
}

impl Backoff {
    /// Pauses of exactly `first`, twice that, and so on. None is longer than `limit`.
    pub(crate) fn exact(first: Duration, limit: Duration) -> Self {
        let first = first.min(limit);
        Self {
            first,
            limit,
            next: first,
            is_jittered: false,
        }
    }

    /// The same, and each pause is [`jittered`].
    pub(crate) fn with_jitter(first: Duration, limit: Duration) -> Self {
        Self {
            is_jittered: true,
            ..Self::exact(first, limit)
        }
    }

    /// The pause before the next try. The one after it is longer.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(FACTOR).min(self.limit);
        match self.is_jittered {
            true => jittered(pause),
            false => pause,
        }
    }

    /// A try went well: the next pause is the first one again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Makes a pause up to a quarter shorter, so that many processes do not try in step.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(1.0 - random_unit() * JITTER)
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(200);
    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn exact_pauses_double_up_to_the_limit_until_a_try_goes_well() {
        let mut backoff = Backoff::exact(FIRST, LIMIT);
        for millis in [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            assert_eq!(backoff.pause(), Duration::from_millis(millis));
        }
        backoff.reset();
        assert_eq!(backoff.pause(), FIRST);
        assert_eq!(backoff.pause(), FIRST * 2);
    }

    #[test]
    fn no_pause_is_longer_than_the_limit_not_even_the_first() {
        let mut backoff = Backoff::exact(LIMIT, FIRST);
        assert_eq!(backoff.pause(), FIRST);
        assert_eq!(backoff.pause(), FIRST);
        let mut backoff = Backoff::exact(Duration::from_secs(1), Duration::MAX);
        let last = (0..200).map(|_| backoff.pause()).last();
        assert_eq!(last, Some(Duration::MAX), "it does not overflow");
    }

    #[test]
    fn jitter_takes_up_to_a_quarter_and_does_not_add_up() {
        let mut exact = Backoff::exact(FIRST, LIMIT);
        let mut backoff = Backoff::with_jitter(FIRST, LIMIT);
        for number in 0..80 {
            let (longest, pause) = (exact.pause(), backoff.pause());
            assert!(
                pause <= longest && pause >= longest.mul_f64(0.74),
                "{number}: {pause:?}"
            );
        }
        assert!((0..20).any(|_| jittered(LIMIT) != jittered(LIMIT)));
    }
}
