//! The upkeep of several captures in one process: on one thread, and one after the other where it takes memory.

use std::sync::Arc;
use std::thread;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::LocalSet;
use tracing::{Instrument, Span};

use super::{NOT_DONE, Running, Upkeep, runtime_of_thread};
use crate::capture::FullSyncTurns;
use crate::runtime;

/// What the upkeep of one capture shares with that of others. Alone, it shares nothing.
#[derive(Debug, Clone, Default)]
pub struct Turns {
    work: Option<Arc<Semaphore>>,
    pub(super) full_syncs: Option<FullSyncTurns>,
}

impl Turns {
    /// Waits until no other one makes a base, merges or deletes. Its own turn ends when this is dropped.
    pub(super) async fn work(&self) -> Option<OwnedSemaphorePermit> {
        let work = Arc::clone(self.work.as_ref()?);
        work.acquire_owned().await.ok()
    }
}

type Task = (Upkeep, oneshot::Receiver<()>, Span);

/// The thread of all of them. It ends with this value.
pub struct UpkeepThread {
    tasks: mpsc::UnboundedSender<Task>,
    turns: Turns,
}

impl UpkeepThread {
    /// Starts the thread. `full_syncs`: those for a new base need a turn too. `None`: the system has no thread for it, which is
    /// logged.
    pub fn start(full_syncs: FullSyncTurns) -> Option<Self> {
        let (tasks, next) = mpsc::unbounded_channel();
        thread::Builder::new()
            .name("upkeep".to_owned())
            .stack_size(runtime::STACK)
            .spawn(move || run(next))
            .map_err(|error| tracing::warn!("{NOT_DONE}: {error}"))
            .ok()?;
        Some(Self {
            tasks,
            turns: Turns {
                work: Some(Arc::new(Semaphore::new(1))),
                full_syncs: Some(full_syncs),
            },
        })
    }

    /// What each of them is given.
    #[must_use]
    pub fn turns(&self) -> Turns {
        self.turns.clone()
    }

    /// Begins with one. Its log lines belong to `span`. `None`: it is not wanted.
    #[must_use]
    pub fn add(&self, upkeep: Upkeep, span: Span) -> Option<Running> {
        if !upkeep.is_wanted() {
            return None;
        }
        let (alive, gone) = oneshot::channel();
        self.tasks.send((upkeep, gone, span)).ok()?;
        Some(Running {
            alive: Some(alive),
            ended: None,
        })
    }
}

fn run(mut tasks: mpsc::UnboundedReceiver<Task>) {
    let Some(runtime) = runtime_of_thread() else {
        return;
    };
    let all = LocalSet::new();
    let work = all.run_until(async {
        while let Some((upkeep, gone, span)) = tasks.recv().await {
            let one = async move { upkeep.until(gone).await };
            tokio::task::spawn_local(one.instrument(span));
        }
    });
    runtime.block_on(work);
    runtime.shutdown_background();
}
