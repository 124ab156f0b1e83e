//! Notices that the Sentinels have promoted another server, or that another node of a shard is to be followed.
//!
//! The old master, if it is alive, becomes a replica of the new one and may keep our link. What it sends is still the
//! same history. But `WAIT` on the new master does not count us there, and after the next failover we could be another
//! step away from the master.

use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::Source;
use crate::link::sentinel::Finder;
use crate::runtime;

/// How often the Sentinels are asked while the link is up. A master that dies is noticed at once, by its link.
const WATCH_INTERVAL: Duration = Duration::from_secs(5);

/// Watches over which server is the master, for as long as one link lasts.
#[derive(Debug)]
pub struct MasterWatch {
    finder: Option<Finder>,
    told: Option<watch::Receiver<Option<Source>>>,
    next: Instant,
    look: Option<JoinHandle<(Finder, Option<Source>)>>,
}

impl MasterWatch {
    /// A server that stays where it is.
    #[must_use]
    pub fn none() -> Self {
        Self::of(None)
    }

    /// One that its Sentinels may replace.
    #[must_use]
    pub fn new(finder: Finder) -> Self {
        Self::of(Some(finder))
    }

    /// One that somebody else replaces, and says so.
    #[must_use]
    pub fn told(server: watch::Receiver<Option<Source>>) -> Self {
        let mut watch = Self::none();
        watch.told = Some(server);
        watch
    }

    fn of(finder: Option<Finder>) -> Self {
        Self {
            finder,
            told: None,
            next: Instant::now(),
            look: None,
        }
    }

    /// Waits until another server than `current` is the master, which it says itself. May be dropped while waiting.
    pub(super) async fn moved(&mut self, current: &Source) -> Source {
        if let Some(told) = &mut self.told {
            let is_other = |server: &Option<Source>| {
                server
                    .as_ref()
                    .is_some_and(|server| server.addr() != current.addr())
            };
            let other = told.wait_for(is_other).await;
            return match other.ok().and_then(|other| other.clone()) {
                Some(other) => other,
                // Nobody tells any more.
                None => std::future::pending().await,
            };
        }
        loop {
            if let Some(look) = &mut self.look {
                let found = look.await;
                self.look = None;
                if let Ok((finder, found)) = found {
                    self.finder = Some(finder);
                    if let Some(master) = found.filter(|master| master.addr() != current.addr()) {
                        return master;
                    }
                }
            }
            let Some(finder) = &self.finder else {
                return std::future::pending().await;
            };
            sleep_until(self.next).await;
            let now = Instant::now();
            self.next = now.checked_add(WATCH_INTERVAL).unwrap_or(now);
            let mut finder = finder.clone();
            self.look = Some(runtime::spawn(async move {
                // When they cannot be asked, or disagree, the link that we have is the best that there is.
                let master = finder.master().await.ok();
                (finder, master)
            }));
        }
    }
}

impl Drop for MasterWatch {
    fn drop(&mut self) {
        if let Some(look) = &self.look {
            look.abort();
        }
    }
}
