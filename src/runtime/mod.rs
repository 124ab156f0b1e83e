//! What the program takes from outside, beside sockets, files and clocks: tasks, threads, chance.
//!
//! The simulation (`tests/simulation`) replaces them, so that one seed decides everything that happens. The program
//! itself contains nothing of the simulation.

pub(crate) mod backoff;
pub mod buffers;
pub mod pipe;

use tokio::task::{AbortHandle, JoinHandle, JoinSet};
use tracing::{Instrument, Span};

/// The stack of each thread, in bytes. A restore is one future within another, down to the store's client, and builds
/// without optimization took more than the usual 2 MiB. Only what is touched takes memory.
pub const STACK: usize = 8 << 20;

/// Runs `task` at the same time as its caller.
pub(crate) fn spawn<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(test)]
    let task = simulated::in_process(task);
    // Its log lines are of the same source.
    tokio::spawn(task.in_current_span())
}

/// Runs `task` as one of `set`.
pub(crate) fn spawn_into<F>(set: &mut JoinSet<F::Output>, task: F) -> AbortHandle
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    #[cfg(test)]
    let task = simulated::in_process(task);
    set.spawn(task.in_current_span())
}

/// Runs work that keeps a processor or a disk busy where nobody waits for its thread.
pub(crate) fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    #[cfg(test)]
    if simulated::is_on() {
        return spawn(async move { work() });
    }
    let span = Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work))
}

/// Are there no disk and no threads?
pub(crate) fn is_simulated() -> bool {
    #[cfg(test)]
    if simulated::is_on() {
        return true;
    }
    false
}

/// Any number.
pub(crate) fn random() -> u64 {
    #[cfg(test)]
    if simulated::is_on() {
        return simulated::number();
    }
    #[expect(clippy::disallowed_methods)] // the one place
    let number = rand::random();
    number
}

/// This many random bytes.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    for chunk in bytes.chunks_mut(size_of::<u64>()) {
        let number = random().to_le_bytes();
        for (byte, of) in chunk.iter_mut().zip(number) {
            *byte = of;
        }
    }
    bytes
}

/// A number from 0 up to 1.
pub(crate) fn random_unit() -> f64 {
    const BITS: u32 = 53;
    // Both are exact.
    #[allow(clippy::cast_precision_loss)]
    let unit = (random() >> (u64::BITS - BITS)) as f64 / (1_u64 << BITS) as f64;
    unit
}

#[cfg(test)]
#[path = "../../tests/simulation/runtime.rs"]
pub(crate) mod simulated;
