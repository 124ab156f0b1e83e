//! What is received and not stored goes to the spool when memory fills: which bytes go, and what stays in memory.

use bytes::Bytes;

use super::{Chunk, LogBuffer, MARK_INTERVAL_MS};
use crate::capture::spool::{Held, Record};
use crate::wire::position::Offset;

/// Bytes in memory that may go to the spool.
#[derive(Debug)]
pub struct Batch {
    start: Offset,
    end: Offset,
    epoch: u64,
    /// The bytes.
    pub parts: Vec<Bytes>,
}

impl LogBuffer {
    /// The oldest bytes in memory after `in_flight` (what is being stored is in memory anyway): at least `least`, and
    /// about `most`.
    #[must_use]
    pub fn spoolable(&self, in_flight: Offset, least: usize, most: usize) -> Option<Batch> {
        let first = self.chunks.partition_point(|chunk| chunk.start < in_flight);
        let mut batch: Option<Batch> = None;
        let mut length: usize = 0;
        for chunk in self.chunks.iter().skip(first) {
            match &chunk.held {
                Held::Memory(bytes) if length < most => {
                    let batch = batch.get_or_insert_with(|| Batch {
                        start: chunk.start,
                        end: chunk.start,
                        epoch: self.epoch,
                        parts: Vec::new(),
                    });
                    batch.end = chunk.end();
                    batch.parts.push(bytes.clone());
                    length = length.saturating_add(bytes.len());
                }
                _ if length >= least => break,
                _ => {
                    batch = None;
                    length = 0;
                }
            }
        }
        batch.filter(|_| length >= least)
    }

    /// A batch is in the spool. The part of it that still waits becomes chunks of up to `grain` bytes and up to 100 ms,
    /// like time marks.
    pub fn spooled(&mut self, batch: &Batch, record: &Record, grain: usize) {
        let first = self
            .chunks
            .partition_point(|chunk| chunk.start < batch.start);
        let end = self
            .chunks
            .partition_point(|chunk| chunk.end() <= batch.end);
        if self.epoch != batch.epoch || end <= first {
            return;
        }
        let behind = self.chunks.split_off(end);
        let taken = self.chunks.split_off(first);
        let mut open: Option<(Chunk, i64)> = None;
        for mut chunk in taken {
            self.forget(&chunk);
            let began = chunk.received.unix_ms;
            let from = usize::try_from(chunk.start.since(batch.start)).unwrap_or(usize::MAX);
            let more = chunk.held.len();
            if let Some((last, since)) = &mut open
                && began.saturating_sub(*since) < MARK_INTERVAL_MS
                && let Held::Spooled { len, .. } = &mut last.held
                && len.saturating_add(more) <= grain
            {
                *len = len.saturating_add(more);
                last.boundary = chunk.boundary.or(last.boundary);
                last.received = chunk.received;
                if last.data_to.is_none() {
                    last.idle_to = chunk.idle_to.or(last.idle_to);
                }
                last.data_to = chunk.data_to.or(last.data_to);
                continue;
            }
            chunk.held = Held::Spooled {
                record: record.clone(),
                from,
                len: more,
            };
            if let Some((done, _)) = open.replace((chunk, began)) {
                self.put_back(done);
            }
        }
        if let Some((done, _)) = open {
            self.put_back(done);
        }
        self.chunks.extend(behind);
    }
}
