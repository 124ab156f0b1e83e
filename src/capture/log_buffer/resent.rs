//! What a server sends again, or another writer has stored. It is compared before it is dropped.

use bytes::Bytes;

use super::super::overlap::{SAMPLE_MOST, Sample};
use super::{LogBuffer, PushError};
use crate::capture::spool::{self, Held};
use crate::runtime;
use crate::wire::position::{Boundary, Offset};
use crate::wire::resp::FeedScanner;

impl LogBuffer {
    /// The held bytes after `start`, up to `end`.
    #[must_use]
    pub fn held(&self, start: Offset, end: Offset) -> Vec<Held> {
        let held = self.chunks.iter().filter_map(|chunk| {
            let mut chunk = chunk.clone();
            chunk.advance_to(start.max(chunk.start));
            let left = usize::try_from(end.beyond(chunk.start)).unwrap_or(usize::MAX);
            chunk.held.truncate(left.min(chunk.held.len()));
            (!chunk.held.is_empty()).then_some(chunk.held)
        });
        held.collect()
    }

    /// This is stored. What the server sends of it is compared.
    pub fn expect(&mut self, stored: Option<Sample>) {
        self.overlaps.extend(stored);
    }

    /// These bytes after `start` were stored.
    pub fn note_recent(&mut self, start: Offset, chunks: &[Bytes]) {
        self.recent = Sample::and_then(self.recent.take(), start, chunks);
    }

    /// The end of what is stored.
    #[must_use]
    pub fn recent(&self) -> Option<Sample> {
        self.recent.clone()
    }

    /// This is stored, and what is received goes on within it, or after it.
    pub fn remember(&mut self, recent: Option<Sample>) {
        let recent = recent.filter(|recent| self.is_end(recent));
        self.recent = recent.or(self.recent.take());
    }

    /// Does it reach the end of what is stored, or of what is received?
    fn is_end(&self, recent: &Sample) -> bool {
        recent.end() == self.stored || recent.up_to(self.scanner.boundary().offset).is_some()
    }

    /// What a new link is to be sent again, to be compared: the end of what is stored, and what is held after it, up to the boundary.
    #[must_use]
    pub fn again(&self) -> Again {
        let upto = self.scanner.boundary().offset;
        let recent = self.recent.clone();
        let recent = recent.filter(|recent| self.is_end(recent));
        let from = self.stored.max(upto.minus(SAMPLE_MOST));
        Again {
            recent,
            from,
            held: self.held(from, upto),
        }
    }

    /// The server sends this again, up to `upto`, before it continues.
    pub fn begin_again(&mut self, sample: Sample, upto: Boundary) {
        self.scanner = FeedScanner::new(upto);
        self.overlaps.extend(sample.after(upto.offset));
        self.proving = sample.up_to(upto.offset);
    }

    /// Compares what is sent again, and drops it; what comes after it is left.
    pub(super) fn prove(&mut self, bytes: &mut Bytes) -> Result<(), PushError> {
        let Some(proof) = self.proving.take() else {
            return Ok(());
        };
        let again = bytes.split_to(bytes.len().min(proof.bytes.len()));
        if proof.differs(proof.start, &again) {
            let at = proof.start;
            self.proving = Some(proof);
            return Err(PushError::Differs(at));
        }
        self.proving = proof.after(proof.start.plus(again.len() as u64));
        Ok(())
    }
}

/// See [`LogBuffer::again`].
#[derive(Debug)]
pub struct Again {
    recent: Option<Sample>,
    from: Offset,
    held: Vec<Held>,
}

impl Again {
    /// Is there nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.recent.is_none() && self.held.is_empty()
    }

    /// Reads what of it is in the spool. None: the spool has lost it.
    pub async fn load(self) -> Option<Sample> {
        let Self { recent, from, held } = self;
        if held.is_empty() {
            return recent;
        }
        let loaded = if held.iter().all(|held| matches!(held, Held::Memory(_))) {
            spool::load(&held)
        } else {
            let load = runtime::spawn_blocking(move || spool::load(&held));
            load.await.ok()?
        };
        Sample::and_then(recent, from, &loaded.ok()?)
    }
}
