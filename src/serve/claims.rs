//! A store is written by one source of the process at a time. The next one waits until the one before has left it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The stores that are in use.
#[derive(Debug, Default)]
pub(super) struct Claims {
    taken: Mutex<BTreeSet<String>>,
    left: Notify,
}

/// A store in use, until this is dropped.
#[derive(Debug)]
pub(super) struct Claim {
    claims: Arc<Claims>,
    store: String,
}

impl Claims {
    /// Waits for the store.
    pub(super) async fn take(self: &Arc<Self>, store: &str) -> Claim {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // Before the look, so that nobody leaves unseen between the two.
            left.as_mut().enable();
            if self.taken().insert(store.to_owned()) {
                return Claim {
                    claims: Arc::clone(self),
                    store: store.to_owned(),
                };
            }
            left.await;
        }
    }

    fn taken(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.taken().remove(&self.store);
        self.claims.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_next_one_waits_until_the_store_is_left() {
        let claims = Arc::<Claims>::default();
        let first = claims.take("a").await;
        let _other = claims.take("b").await;
        let wait = Duration::from_secs(1);
        assert!(timeout(wait, claims.take("a")).await.is_err());
        let leave = async {
            tokio::time::sleep(wait).await;
            drop(first);
        };
        let (_second, ()) = tokio::join!(claims.take("a"), leave);
        assert!(timeout(wait, claims.take("a")).await.is_err());
    }
}
