//! Moves feed from memory to the spool while the store is behind. The link and the log writer do not wait for it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::capture::log_writer::Shared;
use crate::capture::spool::Spool;
use crate::config::CaptureConfig;
use crate::runtime::spawn_blocking;

/// A record costs one write and one read of the disk. Fewer bytes are not worth it.
const RECORD_MIN: usize = 64 * 1024;
/// A record is read as a whole, and is in memory meanwhile.
const RECORD_MAX: usize = 1 << 20;
/// Segments are cut between chunks, so chunks are much shorter than a segment, and shorter than this. More chunks cost
/// memory.
const GRAIN_MAX: usize = 256 * 1024;
/// The most grains in a segment.
const GRAINS_IN_A_SEGMENT: usize = 16;
/// After the spool took nothing: it is full, or out of order, and says so itself.
const PAUSE: Duration = Duration::from_millis(250);

/// Half of the memory is for bursts and for a slow disk. What is beyond it goes to the spool.
pub(crate) fn threshold(config: &CaptureConfig) -> usize {
    config.memory_limit / 2
}

pub(crate) struct Spooler {
    pub(in crate::capture) shared: Arc<Shared>,
    pub(crate) spool: Spool,
    pub(crate) config: CaptureConfig,
}

impl Spooler {
    pub(crate) async fn run(self) {
        // The least of memories does not wait for a whole record.
        let least = RECORD_MIN.min(self.config.memory_limit / 8);
        let grain = (self.config.segment_size / GRAINS_IN_A_SEGMENT).min(GRAIN_MAX);
        let threshold = threshold(&self.config);
        loop {
            let woken = self.shared.crowded.notified();
            let batch = {
                let state = self.shared.state();
                let crowded = state.buffer.memory() >= threshold || state.is_crowded();
                crowded
                    .then(|| state.buffer.spoolable(state.in_flight, least, RECORD_MAX))
                    .flatten()
            };
            let Some(batch) = batch else {
                woken.await;
                continue;
            };
            let spool = self.spool.clone();
            let put = spawn_blocking(move || {
                let record = spool.put(&batch.parts);
                record.map(|record| (batch, record))
            });
            if let Ok(Some((batch, record))) = put.await {
                let mut state = self.shared.state();
                state.buffer.spooled(&batch, &record, grain);
                state.settle_account();
                drop(state);
                self.shared.progress.notify_one();
            } else {
                sleep(PAUSE).await;
            }
        }
    }
}
