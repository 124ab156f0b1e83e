//! What the simulation puts in place of `src/runtime`: chance from one seed, and processes that can be killed at any await.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

pub(crate) use crate::simulation_tests::net::{LOOPBACK, Port, Wire, connect};
pub(crate) use crate::simulation_tests::store::store;

thread_local! {
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
    static CURRENT: RefCell<Option<Arc<Process>>> = const { RefCell::new(None) };
}

/// From here on this thread is simulated.
pub(crate) fn begin(seed: u64) {
    CHANCE.set(Some(seed));
}

/// The thread is as any other again.
pub(crate) fn end() {
    CHANCE.set(None);
    CURRENT.set(None);
}

pub(crate) fn is_on() -> bool {
    CHANCE.get().is_some()
}

/// The next number of the seed's sequence (splitmix64).
pub(crate) fn number() -> u64 {
    let state = CHANCE.get().unwrap().wrapping_add(0x9E37_79B9_7F4A_7C15);
    CHANCE.set(Some(state));
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

/// Bytes of an id.
pub(crate) fn id() -> [u8; 20] {
    let mut bytes = [0; 20];
    for chunk in bytes.chunks_mut(4) {
        chunk.copy_from_slice(&(number() as u32).to_le_bytes());
    }
    bytes
}

/// From 0 to `end - 1`.
pub(crate) fn below(end: u64) -> u64 {
    number() % end
}

/// From the first to the last, both included.
pub(crate) fn between(first: u64, last: u64) -> u64 {
    first + below(last - first + 1)
}

/// True once in so many times.
pub(crate) fn once_in(times: u64) -> bool {
    below(times) == 0
}

/// One of them.
pub(crate) fn pick<T: Copy>(from: &[T]) -> T {
    from[below(from.len() as u64) as usize]
}

/// The tasks of one process, which die together.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    polls: AtomicU64,
    dies_at: AtomicU64,
    dead: AtomicBool,
    stops_at: AtomicU64,
    stopped: AtomicBool,
    tasks: AtomicU64,
    wakers: Mutex<BTreeMap<u64, Waker>>,
}

impl Process {
    pub(crate) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            polls: AtomicU64::new(0),
            dies_at: AtomicU64::new(u64::MAX),
            dead: AtomicBool::new(false),
            stops_at: AtomicU64::new(u64::MAX),
            stopped: AtomicBool::new(false),
            tasks: AtomicU64::new(0),
            wakers: Mutex::default(),
        })
    }

    /// Kills it before so many more steps of its tasks.
    pub(crate) fn die_in(&self, polls: u64) {
        let at = self.polls.load(Ordering::Relaxed) + polls;
        self.dies_at.store(at, Ordering::Relaxed);
    }

    /// It lives on.
    pub(crate) fn spare(&self) {
        self.dies_at.store(u64::MAX, Ordering::Relaxed);
    }

    /// Stops it (`SIGSTOP`) before so many more steps of its tasks. What it has sent goes on without it.
    pub(crate) fn stop_in(&self, polls: u64) {
        let at = self.polls.load(Ordering::Relaxed) + polls;
        self.stops_at.store(at, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// It goes on (`SIGCONT`), as if nothing had been.
    pub(crate) fn resume(&self) {
        self.stops_at.store(u64::MAX, Ordering::Relaxed);
        if self.stopped.swap(false, Ordering::Relaxed) {
            crate::simulation_tests::note(|| format!("{} goes on", self.name));
            self.wake();
        }
    }

    fn wake(&self) {
        for waker in self.wakers.lock().unwrap().values() {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn kill(&self) {
        self.dead.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    /// Does it stand still, before its next step?
    fn stands_still(&self) -> bool {
        let polls = self.polls.load(Ordering::Relaxed);
        if polls >= self.stops_at.load(Ordering::Relaxed) && !self.is_dead() {
            if !self.stopped.swap(true, Ordering::Relaxed) {
                crate::simulation_tests::note(|| format!("{} is stopped", self.name));
            }
            return true;
        }
        false
    }

    /// One step of a task; false: there is none any more.
    fn step(&self) -> bool {
        let polls = self.polls.fetch_add(1, Ordering::Relaxed);
        if !self.is_dead() && polls >= self.dies_at.load(Ordering::Relaxed) {
            crate::simulation_tests::note(|| format!("{} dies after {polls} steps", self.name));
            self.kill();
        }
        !self.is_dead()
    }
}

/// The process whose task runs.
pub(crate) fn current() -> Option<Arc<Process>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whatever `work` starts belongs to `process`.
pub(crate) fn within<T>(process: &Arc<Process>, work: impl FnOnce() -> T) -> T {
    let before = CURRENT.replace(Some(process.clone()));
    let done = work();
    CURRENT.set(before);
    done
}

/// A task of the current process, if there is one.
pub(crate) fn in_process<F: Future>(task: F) -> InProcess<F> {
    let process = current();
    let id = process
        .as_ref()
        .map_or(0, |process| process.tasks.fetch_add(1, Ordering::Relaxed));
    InProcess {
        process,
        id,
        task: Some(Box::pin(task)),
    }
}

/// See [`in_process`]. Once the process is dead, nothing of the task is left, and it never ends.
pub(crate) struct InProcess<F> {
    process: Option<Arc<Process>>,
    id: u64,
    task: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for InProcess<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(process) = self.process.clone() else {
            return self.task.as_mut().unwrap().as_mut().poll(context);
        };
        if process.stands_still() {
            let waker = context.waker().clone();
            process.wakers.lock().unwrap().insert(self.id, waker);
            return Poll::Pending;
        }
        if !process.step() {
            let task = self.task.take();
            within(&process, || drop(task));
            return Poll::Pending;
        }
        let waker = context.waker().clone();
        process.wakers.lock().unwrap().insert(self.id, waker);
        let task = self.task.as_mut().unwrap().as_mut();
        let polled = within(&process, || {
            catch_unwind(AssertUnwindSafe(|| task.poll(context)))
        });
        match polled {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(ready) => {
                process.wakers.lock().unwrap().remove(&self.id);
                ready
            }
            Err(panic) => {
                crate::simulation_tests::fail("a task of the program panicked".to_owned());
                resume_unwind(panic)
            }
        }
    }
}
