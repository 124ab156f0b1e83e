//! A virtual master: any number of replicas follow a history in a store, without a link to the server that writes it.
//!
//! ```text
//!                    follower: each new segment is read once        one task a replica
//!  store ──▶ log ──▶ tail (the last bytes, in memory) ──┬─────────▶ replica
//!        └─▶ base, log after it (for who begins) ───────┼─────────▶ replica
//!        └─▶ log (for who is far behind) ───────────────┴─────────▶ replica
//! ```
//!
//! A replica gets the bytes of the history and nothing else, under the history's own id. So its offset is that of the log, it
//! may come back to another standby or to the server itself, and it can be promoted in the place of that server
//! ([`promote()`]).
//!
//! Only a reader: nothing is written to the store before a promotion.

mod error;
mod follower;
mod line;
mod promote;
mod replica;
mod tail;
#[cfg_attr(not(feature = "http"), allow(dead_code))] // only /readyz and /metrics show it
mod view;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::archive::Archive;
use crate::capture::{Clock, Shutdown};
use crate::config::Listen;
use crate::restore::Listener;
use crate::runtime;
use crate::wire::position::ReplId;

pub use error::{PromoteError, StandbyError};
pub use promote::{PromoteReport, PromoteRequest, promote};
pub use view::StandbyStatus;

use follower::Follower;
use replica::Service;
use tail::Tail;

/// Replicas that are served at the same time. Further ones are told to come again.
pub const REPLICAS: usize = 256;
/// Replicas that are given a snapshot at the same time. The others wait. Each holds some threads and up to 32 MiB.
const SNAPSHOTS: usize = 2;
/// Replicas that are given old log from the store at the same time.
const LATE: usize = 4;

/// What a standby needs.
#[derive(Debug, Clone)]
pub struct StandbyConfig {
    /// Where replicas find it, and who may come.
    pub listen: Listen,
    /// The history to follow. None: the latest of the store, and what continues it.
    pub history: Option<ReplId>,
    /// Replicas stay this far behind.
    pub delay: Duration,
    /// How often the store is asked for more.
    pub poll: Duration,
    /// Bytes of the log that are kept in memory for all replicas.
    pub tail: usize,
    /// Bytes of memory for the keys that a log touches, if base and log are made one RDB.
    pub memory: usize,
}

/// Runs until `shutdown`.
///
/// # Errors
/// [`StandbyError`]: the address is taken. What the store or replicas do ends nothing.
pub async fn run(
    archive: Archive,
    config: StandbyConfig,
    clock: Clock,
    status: StandbyStatus,
    mut shutdown: Shutdown,
) -> Result<(), StandbyError> {
    let addr = config.listen.addr;
    let bound = Listener::bind(&config.listen, "the store is looked at").await;
    let mut listener = bound.map_err(|cause| StandbyError::Listen { addr, cause })?;
    tracing::info!(addr = %listener.addr(), "listening for replicas (REPLICAOF this address)");
    status.listens(listener.addr());
    let tail = Arc::new(Tail::new(config.tail));
    let follower = Follower::new(archive.clone(), &config, clock, &tail, &status);
    let follower = runtime::spawn(follower.run());
    let service = Arc::new(Service {
        archive,
        tail: Arc::clone(&tail),
        status: status.clone(),
        memory: config
            .memory
            .checked_div(SNAPSHOTS)
            .unwrap_or(config.memory),
        snapshots: Semaphore::new(SNAPSHOTS),
        late: Arc::new(Semaphore::new(LATE)),
        left: Mutex::default(),
    });
    let mut replicas = JoinSet::new();
    let mut lines = tail.lines();
    loop {
        // A replica that comes before there is anything to give waits at the listener, and then comes again.
        match (tail.line().is_some(), replicas.len() < REPLICAS) {
            (false, _) => listener.close("the store is looked at"),
            (true, false) => listener.close("too many replicas follow this standby"),
            (true, true) => listener.open_if_closed(),
        }
        tokio::select! {
            biased;
            () = crate::capture::stopped(&mut shutdown) => break,
            Some(_) = replicas.join_next() => {}
            changed = lines.wait_for(Option::is_some), if tail.line().is_none() => {
                if changed.is_err() {
                    break;
                }
            }
            waiting = listener.waiting() => {
                let service = Arc::clone(&service);
                runtime::spawn_into(&mut replicas, async move { service.serve(waiting).await });
            }
        }
    }
    follower.abort();
    Ok(())
}
