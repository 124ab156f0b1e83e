//! How often a master may be asked for a full sync.
//!
//! For each one, the master forks, copies the pages that are written meanwhile, and sends all of its data. No fault on
//! our side or in the network may make it repeat that without an end. Examples: a store that loses every base, a proxy
//! that cuts long connections, a server that forgets its history with every restart.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::backoff::Backoff;

/// At most this many full syncs are begun within [`FULL_SYNC_WINDOW`]. This is enough for a restart of the server, and
/// for a few mishaps, one after the other.
pub const FULL_SYNCS_MAX: usize = 4;
/// See [`FULL_SYNCS_MAX`]: a master that forked four times in ten minutes has done enough for us.
pub const FULL_SYNC_WINDOW: Duration = Duration::from_secs(600);
/// After the second failed full sync in a row: the pause before the third. It doubles with each further one. (The
/// second comes soon, because most mishaps happen once.) This pause is the only limit for full syncs that take longer
/// than the window.
pub const FULL_SYNC_PAUSE_FIRST: Duration = Duration::from_secs(10);
/// The longest such pause.
pub const FULL_SYNC_PAUSE_MAX: Duration = Duration::from_secs(1800);

/// The full syncs of one master, as far as they matter for the next.
#[derive(Debug, Default)]
pub(super) struct FullSyncLimit {
    /// When they were begun; the last [`FULL_SYNCS_MAX`].
    begun: VecDeque<Instant>,
    /// The pauses after those that failed. None: the last one did not.
    in_vain: Option<Backoff>,
    not_before: Option<Instant>,
    /// A partial sync was expected of the server, and it began a full one.
    surprised: bool,
}

impl FullSyncLimit {
    /// How long none may be begun. None: now.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let window = self
            .begun
            .front()
            .filter(|_| self.begun.len() >= FULL_SYNCS_MAX)
            .and_then(|first| first.checked_add(FULL_SYNC_WINDOW));
        let until = window.max(self.not_before)?;
        Some(until.saturating_duration_since(now)).filter(|wait| !wait.is_zero())
    }

    /// Is the server to be believed when it looks as if it would give a partial sync?
    pub(super) fn believes(&self) -> bool {
        !self.surprised
    }

    /// The server has begun one.
    pub(super) fn begun(&mut self, now: Instant) {
        self.surprised = self.wait(now).is_some();
        self.begun.push_back(now);
        if self.begun.len() > FULL_SYNCS_MAX {
            self.begun.pop_front();
        }
    }

    /// It failed.
    pub(super) fn in_vain(&mut self, now: Instant) {
        match &mut self.in_vain {
            Some(backoff) => self.not_before = now.checked_add(backoff.pause()),
            None => {
                let backoff = Backoff::with_jitter(FULL_SYNC_PAUSE_FIRST, FULL_SYNC_PAUSE_MAX);
                self.in_vain = Some(backoff);
            }
        }
    }

    /// It is stored.
    pub(super) fn stored(&mut self) {
        self.in_vain = None;
        self.not_before = None;
        self.surprised = false;
    }

    /// The server has continued the feed.
    pub(super) fn continued(&mut self) {
        self.surprised = false;
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]
mod tests {
    use super::*;

    /// When full syncs are begun by a caller that asks every second, if each one takes this long and ends like this.
    fn begun(hours: u64, takes: Duration, stored: bool) -> Vec<Duration> {
        let start = Instant::now();
        let end = start + Duration::from_secs(hours * 3600);
        let (mut now, mut limit, mut begun) = (start, FullSyncLimit::default(), Vec::new());
        while now < end {
            if limit.wait(now).is_none() {
                begun.push(now - start);
                limit.begun(now);
                now += takes;
                if stored {
                    limit.stored();
                } else {
                    limit.in_vain(now);
                }
            }
            now += Duration::from_secs(1);
        }
        begun
    }

    fn assert_within_limit(begun: &[Duration]) {
        for some in begun.windows(FULL_SYNCS_MAX + 1) {
            let span = some[FULL_SYNCS_MAX] - some[0];
            assert!(span >= FULL_SYNC_WINDOW, "{span:?} in {begun:?}");
        }
    }

    #[test]
    fn never_more_than_the_limit_whatever_becomes_of_them() {
        for stored in [true, false] {
            for takes in [0, 1, 70, 700] {
                assert_within_limit(&begun(6, Duration::from_secs(takes), stored));
            }
        }
        // Those that are of use: as many as the limit allows.
        assert_eq!(begun(1, Duration::ZERO, true).len(), 24);
    }

    #[test]
    fn those_in_vain_become_rare() {
        let quick = begun(6, Duration::ZERO, false);
        assert!(quick.len() <= 22, "{}: {quick:?}", quick.len());
        assert!(quick[1] <= Duration::from_secs(2), "{quick:?}");
        // One that takes 20 minutes would otherwise be followed by the next at once.
        let slow = begun(24, Duration::from_secs(1200), false);
        let pauses: Vec<u64> = slow
            .windows(2)
            .map(|two| (two[1] - two[0]).as_secs() - 1200)
            .collect();
        assert!(
            pauses.iter().rev().take(20).all(|pause| *pause >= 1350),
            "{pauses:?}"
        );
        assert!(slow.len() <= 38, "{}", slow.len());
    }

    #[test]
    fn one_that_is_stored_forgets_those_in_vain() {
        let now = Instant::now();
        let mut limit = FullSyncLimit::default();
        for _ in 0..3 {
            limit.begun(now);
            limit.in_vain(now);
        }
        let wait = limit.wait(now).unwrap();
        assert!(
            wait > Duration::from_secs(14) && wait <= Duration::from_secs(20),
            "{wait:?}"
        );
        limit.begun(now + wait);
        assert!(limit.believes());
        limit.stored();
        assert!(
            limit.wait(now + wait).unwrap() > Duration::from_secs(500),
            "four are enough"
        );
        limit.begun(now + wait);
        assert!(
            !limit.believes(),
            "the server gave one although none was to be asked for"
        );
        limit.continued();
        assert!(limit.believes());
    }
}
