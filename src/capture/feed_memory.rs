//! Memory for feed that the captures of one process share.
//!
//! A capture may always hold [`GUARANTEED`] bytes. The rest is for whoever needs it: a capture may take as much of it as
//! is left after that. So one whose store is away gets half of the rest, the next one a quarter, and there is always
//! room for others. Where there is little left, segments are shorter.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that each capture may hold, whatever the others hold: a few reads of its link, and a segment of half of that on
/// its way to the store.
const GUARANTEED: usize = 256 << 10;

/// Memory for the feed of all captures of a process. Clones share it.
#[derive(Clone)]
pub struct FeedMemory(Arc<Pool>);

struct Pool {
    total: usize,
    captures: AtomicUsize,
    /// What they hold beyond what is guaranteed.
    beyond: AtomicUsize,
}

impl FeedMemory {
    /// So many bytes for all.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self(Arc::new(Pool {
            total,
            captures: AtomicUsize::new(0),
            beyond: AtomicUsize::new(0),
        }))
    }

    /// The part of one more capture. It is given back when all clones of it are dropped.
    #[must_use]
    pub fn join(&self) -> FeedShare {
        self.0.captures.fetch_add(1, Ordering::Relaxed);
        FeedShare(Arc::new(Member {
            pool: Arc::clone(&self.0),
            used: AtomicUsize::new(0),
        }))
    }

    /// How many captures it is enough for.
    #[must_use]
    pub fn most_captures(&self) -> usize {
        // Half of it is guaranteed at most: else a busy one could not have more than an idle one.
        self.0.total / 2 / GUARANTEED
    }
}

impl fmt::Debug for FeedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FeedMemory({})", self.0.total)
    }
}

/// What one capture may hold. Clones share it.
#[derive(Clone)]
pub struct FeedShare(Arc<Member>);

struct Member {
    pool: Arc<Pool>,
    used: AtomicUsize,
}

fn beyond(used: usize) -> usize {
    used.saturating_sub(GUARANTEED)
}

impl Member {
    /// Each change begins with what the one before left. So the sums of the pool hold, in whatever order threads come.
    fn change(&self, before: usize, now: usize) {
        let (used_before, used_now) = if now >= before {
            let more = now.saturating_sub(before);
            let used = self.used.fetch_add(more, Ordering::Relaxed);
            (used, used.saturating_add(more))
        } else {
            let less = before.saturating_sub(now);
            let used = self.used.fetch_sub(less, Ordering::Relaxed);
            (used, used.saturating_sub(less))
        };
        let (was, is) = (beyond(used_before), beyond(used_now));
        if is >= was {
            let more = is.saturating_sub(was);
            self.pool.beyond.fetch_add(more, Ordering::Relaxed);
        } else {
            let less = was.saturating_sub(is);
            self.pool.beyond.fetch_sub(less, Ordering::Relaxed);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.change(self.used.load(Ordering::Relaxed), 0);
        self.pool.captures.fetch_sub(1, Ordering::Relaxed);
    }
}

impl FeedShare {
    /// The account of one log of the capture.
    pub(super) fn account(&self) -> Account {
        Account {
            share: Some(self.clone()),
            counted: 0,
        }
    }

    /// May the capture take no more?
    #[must_use]
    pub fn is_full(&self) -> bool {
        let used = self.0.used.load(Ordering::Relaxed);
        used >= GUARANTEED && beyond(used) >= self.left()
    }

    /// Has it taken a good part of what it may? Then feed goes to the spool, and no new link is made.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        let used = self.0.used.load(Ordering::Relaxed);
        used >= GUARANTEED / 2 && beyond(used) >= self.left() / 2
    }

    /// What nobody has taken of the part that is for all.
    fn left(&self) -> usize {
        let pool = &self.0.pool;
        let captures = pool.captures.load(Ordering::Relaxed);
        let guaranteed = captures.saturating_mul(GUARANTEED);
        let for_all = pool.total.saturating_sub(guaranteed);
        for_all.saturating_sub(pool.beyond.load(Ordering::Relaxed))
    }
}

impl fmt::Debug for FeedShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = self.0.used.load(Ordering::Relaxed);
        write!(f, "FeedShare({used})")
    }
}

/// What one log of a capture holds. It is given back when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Account {
    /// None: the capture is alone in its process, and has a limit of its own.
    share: Option<FeedShare>,
    counted: usize,
}

impl Account {
    /// The log holds so many bytes now.
    pub(super) fn set(&mut self, bytes: usize) {
        if let Some(share) = &self.share
            && bytes != self.counted
        {
            share.0.change(self.counted, bytes);
            self.counted = bytes;
        }
    }

    /// As [`FeedShare::is_full`].
    pub(super) fn is_full(&self) -> bool {
        self.share.as_ref().is_some_and(FeedShare::is_full)
    }

    /// As [`FeedShare::is_crowded`].
    pub(super) fn is_crowded(&self) -> bool {
        self.share.as_ref().is_some_and(FeedShare::is_crowded)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const TOTAL: usize = 64 << 20;
    const READ: usize = 64 << 10;

    /// Takes until it may take no more.
    fn fill(account: &mut Account) -> usize {
        while !account.is_full() {
            account.set(account.counted + READ);
        }
        account.counted
    }

    #[test]
    fn one_that_takes_all_it_can_leaves_room_for_every_other() {
        let memory = FeedMemory::new(TOTAL);
        let shares: Vec<FeedShare> = (0..40).map(|_| memory.join()).collect();
        let mut accounts: Vec<Account> = shares.iter().map(FeedShare::account).collect();
        let for_all = TOTAL - 40 * GUARANTEED;
        let first = fill(&mut accounts[0]);
        assert!(
            first >= for_all / 2 && first < for_all / 2 + 2 * GUARANTEED,
            "{first}"
        );
        // All the others as well, one after the other: none is left with less than what is guaranteed.
        for account in accounts.iter_mut().skip(1) {
            assert!(fill(account) >= GUARANTEED);
        }
        let all: usize = accounts.iter().map(|account| account.counted).sum();
        assert!(all <= TOTAL + 40 * READ, "{all}");
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_whatever_became_of_it() {
        let memory = FeedMemory::new(TOTAL);
        let (one, other) = (memory.join(), memory.join());
        let alone = fill(&mut one.account());
        // Two logs of one capture, one of them dropped full.
        let (mut old, mut new) = (one.account(), one.account());
        old.set(10 << 20);
        new.set(5 << 20);
        drop(old);
        new.set(0);
        assert_eq!(fill(&mut new), alone);
        drop((new, one));
        let account = &mut other.account();
        let mut last = fill(account);
        assert!(last >= alone);
        account.set(0);
        assert_eq!(memory.0.beyond.load(Ordering::Relaxed), 0);
        last = fill(&mut memory.join().account());
        assert_eq!(last, alone);
    }

    #[test]
    fn a_capture_is_crowded_before_it_is_full() {
        let memory = FeedMemory::new(TOTAL);
        let share = memory.join();
        let mut account = share.account();
        let mut crowded_at = None;
        while !account.is_full() {
            if account.is_crowded() {
                crowded_at.get_or_insert(account.counted);
            }
            account.set(account.counted + READ);
        }
        let crowded_at = crowded_at.unwrap_or(usize::MAX);
        assert!(crowded_at < account.counted * 3 / 4, "{crowded_at}");
        assert_eq!(memory.most_captures(), 128);
    }
}
