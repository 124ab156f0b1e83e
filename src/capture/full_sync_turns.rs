//! How many servers are asked for a full sync at the same time.
//!
//! Each server forks for its full sync, and its memory grows meanwhile. Servers that stand on one machine should not do
//! that all at once, as they would when a process with many sources starts.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::sleep;

use crate::monitoring::status::Status;

/// A transfer that has begun, and of which nothing came for so long, keeps no other waiting: its store is away, or its
/// server.
const STUCK: Duration = Duration::from_secs(60);

/// Turns for full syncs, which the captures of a process share. The first to ask has the first turn. Clones share them.
#[derive(Clone)]
pub struct FullSyncTurns {
    turns: Arc<Semaphore>,
    at_once: usize,
}

impl FullSyncTurns {
    /// So many may run at the same time.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(at_once.min(Semaphore::MAX_PERMITS))),
            at_once,
        }
    }

    /// How many may run at the same time.
    #[must_use]
    pub fn at_once(&self) -> usize {
        self.at_once
    }

    /// A turn, if nobody has to wait for it.
    pub(crate) fn now(&self) -> Option<Turn> {
        match Arc::clone(&self.turns).try_acquire_owned() {
            Ok(permit) => Some(Turn(Some(permit))),
            Err(TryAcquireError::NoPermits) => None,
            // Nobody closes it.
            Err(TryAcquireError::Closed) => Some(Turn(None)),
        }
    }

    /// Waits for a turn.
    pub(crate) async fn next(&self) -> Turn {
        Turn(Arc::clone(&self.turns).acquire_owned().await.ok())
    }
}

impl fmt::Debug for FullSyncTurns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FullSyncTurns({})", self.at_once)
    }
}

/// The turn of one full sync. The next one begins when this is dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[allow(dead_code)] Option<OwnedSemaphorePermit>);

/// Runs a transfer, which counts what it receives in `status`, and gives the turn back when it is over, or stuck.
pub(crate) async fn during<T>(
    turn: Option<Turn>,
    status: &Status,
    transfer: impl Future<Output = T>,
) -> T {
    let Some(turn) = turn else {
        return transfer.await;
    };
    tokio::select! {
        biased;
        done = transfer => done,
        never = give_back_if_stuck(turn, status) => match never {},
    }
}

async fn give_back_if_stuck(turn: Turn, status: &Status) -> std::convert::Infallible {
    let received = || status.metrics().bytes_received.get();
    // Before the first byte, the server may be writing its RDB to its disk.
    let begun = received();
    let mut last = begun;
    loop {
        sleep(STUCK).await;
        let now = received();
        if now == last && now != begun {
            break;
        }
        last = now;
    }
    tracing::warn!(
        "nothing of the full sync was received for {} s: other sources do not wait for it any longer",
        STUCK.as_secs()
    );
    drop(turn);
    std::future::pending().await
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_turn_is_given_back_when_the_transfer_is_over_or_stuck() {
        let (turns, status) = (FullSyncTurns::new(1), Status::new());
        let turn = turns.now().unwrap();
        assert!(turns.now().is_none());
        let seven = async {
            sleep(2 * STUCK).await;
            7
        };
        // Before the first byte it is not stuck.
        let begun = Instant::now();
        let over = during(Some(turn), &status, seven);
        let (seven, _) = tokio::join!(over, async { turns.next().await });
        assert_eq!((seven, begun.elapsed()), (7, 2 * STUCK));

        let turn = turns.now().unwrap();
        let stuck = async {
            sleep(STUCK / 2).await;
            status.metrics().bytes_received.inc();
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        tokio::select! {
            () = during(Some(turn), &status, stuck) => unreachable!("it hangs"),
            _ = turns.next() => {}
        }
        assert_eq!(begun.elapsed(), 2 * STUCK);
        timeout(STUCK, during(None, &status, async {}))
            .await
            .unwrap();
    }
}
