//! Full syncs for a new base, beside the capture: when the log cannot be consolidated.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::pace::Known;
use super::{TIME_LIMIT, Upkeep};
use crate::archive::BaseManifest;
use crate::capture::{SessionEnd, refetch};
use crate::monitoring::status::Phase;
use crate::runtime::backoff::Backoff;

/// A full sync for a log that cannot be consolidated makes the master fork: no more often than this.
pub(super) const REFETCH_EVERY: Duration = Duration::from_secs(6 * 3600);
/// The same where one has failed: the link may have been lost. Each further failure doubles it.
const REFETCH_AGAIN: Duration = Duration::from_secs(600);

/// How often full syncs are taken for a new base.
pub(super) struct Refetches {
    /// Why one is needed.
    pub(super) owed: Option<String>,
    /// The earliest time for the next one.
    next: Option<Instant>,
    /// The pauses after those that failed.
    backoff: Backoff,
}

impl Default for Refetches {
    fn default() -> Self {
        Self {
            owed: None,
            next: None,
            backoff: Backoff::exact(REFETCH_AGAIN, REFETCH_EVERY),
        }
    }
}

impl Refetches {
    /// How long it is until the next one.
    fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.next?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }

    /// Is one to be taken that could not be before?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.owed.is_some() && self.left(now).is_none()
    }

    fn ended(&mut self, begun: Instant, received: bool) {
        let pause = if received {
            self.owed = None;
            self.backoff.reset();
            REFETCH_EVERY
        } else {
            self.backoff.pause()
        };
        self.next = begun.checked_add(pause);
    }
}

impl Upkeep {
    /// A full sync beside the capture, at long intervals.
    pub(super) async fn refetch(&self, refetches: &mut Refetches) -> Option<Known> {
        let why = refetches.owed.clone()?;
        let now = Instant::now();
        if let Some(left) = refetches.left(now) {
            let minutes = left.as_secs().div_ceil(60);
            let what = format!("The next full sync for a new base is in {minutes} min");
            self.status.consolidate_failed_and(&why, &what);
            return None;
        }
        if self.status.view().phase != Phase::Following {
            let what = "A full sync for a new base waits until backfeed follows Redis";
            self.status.consolidate_failed_and(&why, what);
            return None;
        }
        let what = "A full sync for a new base is running";
        self.status.consolidate_failed_and(&why, what);
        tracing::info!("taking a full sync for a new base, because the log cannot be consolidated");
        let made = timeout(TIME_LIMIT, self.new_base()).await;
        let made = match made {
            Ok(Ok(base)) => Ok(base),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("it took more than {} s", TIME_LIMIT.as_secs())),
        };
        refetches.ended(now, made.is_ok());
        match made {
            Ok(base) => {
                tracing::info!(base = %base.position(), "received a new base");
                self.status.based(base.position(), base.as_of_unix_ms());
                Some(Known::of(&base, self.segments()))
            }
            Err(error) => {
                tracing::warn!("could not receive a new base: {error}");
                self.failed(&why);
                let what = format!("The full sync for a new base failed: {error}");
                self.status.consolidate_failed_and(&why, &what);
                None
            }
        }
    }

    async fn new_base(&self) -> Result<BaseManifest, SessionEnd> {
        let archive = self.archive().await?;
        let source = self.source().await?;
        let turns = self.turns.full_syncs.as_ref();
        refetch::new_base(&source, &archive, &self.status, &self.clock, turns).await
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

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_full_sync_is_taken_seldom_and_a_failed_one_is_taken_again_ever_more_seldom() {
        let start = Instant::now();
        let mut refetches = Refetches::default();
        assert_eq!(refetches.left(start), None);
        let mut now = start;
        for minutes in [10, 20, 40, 80, 160, 320, 360, 360] {
            refetches.ended(now, false);
            assert_eq!(refetches.left(now), Some(minutes * 60 * SECOND));
            now += minutes * 60 * SECOND;
            assert_eq!(refetches.left(now), None);
        }
        assert!(!refetches.is_due(now), "none is owed");
        refetches.owed = Some("VADD".to_owned());
        assert!(refetches.is_due(now));
        refetches.ended(now, true);
        assert_eq!(refetches.left(now), Some(REFETCH_EVERY));
        assert!(!refetches.is_due(now + REFETCH_EVERY), "it was taken");
        refetches.owed = Some("VADD".to_owned());
        assert!(!refetches.is_due(now + REFETCH_EVERY - SECOND));
        assert!(refetches.is_due(now + REFETCH_EVERY), "it is not forgotten");
        refetches.ended(now, false);
        assert_eq!(refetches.left(now), Some(REFETCH_AGAIN));
        assert!(refetches.is_due(now + REFETCH_AGAIN));
    }
}
