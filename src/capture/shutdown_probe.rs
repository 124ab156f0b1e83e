//! Notices that the master is shutting down and waits for us.
//!
//! `SHUTDOWN` (7.0 and later) asks with `REPLCONF GETACK`. Then it sends nothing more, and waits until every replica
//! has acknowledged the very end of the stream. Otherwise we stay one byte short of that end. So when silence follows a
//! `GETACK`, we look at `INFO server` on a separate connection.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::config::Source;
use crate::link::control::Control;
use crate::runtime;

/// The length of the silence before the first look.
const FIRST_LOOK: Duration = Duration::from_millis(50);
/// Masters wait `shutdown-timeout` for their replicas, 10 s unless set otherwise: long after that there is no point.
const LAST_LOOK: Duration = Duration::from_secs(60);

/// Watches for the shutdown of one master.
#[derive(Debug)]
pub(super) struct ShutdownProbe {
    source: Source,
    asked: Option<Instant>,
    next: Option<Instant>,
    look: Option<JoinHandle<bool>>,
}

impl ShutdownProbe {
    /// A probe for the master at `source`.
    #[must_use]
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            asked: None,
            next: None,
            look: None,
        }
    }

    /// A `GETACK` came.
    pub(super) fn getack(&mut self) {
        let now = Instant::now();
        self.asked = Some(now);
        self.next = now.checked_add(FIRST_LOOK);
    }

    /// Something else came: the master lives.
    pub(super) fn other(&mut self) {
        self.asked = None;
        self.next = None;
    }

    /// Waits for the result of the next look: true when the master is shutting down. Waits for ever when there is
    /// nothing to look for. The future may be dropped.
    pub(super) async fn wait(&mut self) -> bool {
        if let Some(look) = &mut self.look {
            let found = look.await.unwrap_or(false);
            self.look = None;
            return found && self.asked.is_some();
        }
        let Some(next) = self.next else {
            return std::future::pending().await;
        };
        sleep_until(next).await;
        let silent = self.asked.map_or(Duration::ZERO, |asked| asked.elapsed());
        self.next = next
            .checked_add(silent.min(Duration::from_secs(1)))
            .filter(|_| silent < LAST_LOOK);
        self.look = Some(runtime::spawn(is_shutting_down(self.source.clone())));
        false
    }
}

impl Drop for ShutdownProbe {
    fn drop(&mut self) {
        if let Some(look) = &self.look {
            look.abort();
        }
    }
}

/// False too when the master does not say: its shutdown then takes its own timeout.
async fn is_shutting_down(source: Source) -> bool {
    let Ok(mut control) = Control::connect(&source).await else {
        return false;
    };
    control.facts().await.is_ok_and(|facts| facts.shutting_down)
}
