//! What a server sends once more, or another writer has stored: it is compared before it is dropped.

use bytes::Bytes;

use super::super::overlap::{SAMPLE_LEAST, SAMPLE_MOST, Sample};
use super::LogBuffer;
use crate::capture::spool::Held;
use crate::log::segment::SegmentMeta;
use crate::wire::position::{Boundary, Offset};
use crate::wire::resp::FeedScanner;

impl LogBuffer {
    /// What is held of the bytes after `start`, up to `end`.
    #[must_use]
    pub fn held(&self, start: Offset, end: Offset) -> Vec<Held> {
        let held = self.chunks.iter().filter_map(|chunk| {
            let mut chunk = chunk.clone();
            chunk.advance_to(start.max(chunk.start));
            let left = usize::try_from(end.since(chunk.start.min(end))).unwrap_or(usize::MAX);
            chunk.held.truncate(left.min(chunk.held.len()));
            (!chunk.held.is_empty()).then_some(chunk.held)
        });
        held.collect()
    }

    /// This is stored; what comes of it is compared.
    pub fn expect(&mut self, stored: Option<Sample>) {
        self.overlaps.extend(stored);
    }

    /// The first boundary held from which on as much is held up to `end` as a sample may have; none: that would be too little.
    pub(super) fn sample_from(&self, end: Offset) -> Option<Boundary> {
        let boundaries = self.chunks.iter().filter_map(|chunk| chunk.boundary);
        let mut within = boundaries
            .filter(|boundary| boundary.offset < end && end.since(boundary.offset) <= SAMPLE_MOST);
        let first = within.next();
        first.filter(|first| end.since(first.offset) >= SAMPLE_LEAST)
    }

    /// This segment was stored; `sample`: from there on it makes one alone.
    pub fn note_recent(&mut self, meta: &SegmentMeta, chunks: &[Bytes], sample: Option<Boundary>) {
        let start = meta.starts_at_boundary.then_some(Boundary {
            offset: meta.start,
            db: meta.db_at_start,
        });
        let recent = Sample::and_then(self.recent.take(), meta.start, start, chunks);
        self.recent = recent.or_else(|| Sample::end_of(meta.start, chunks, sample?));
    }

    /// What is to be sent again by a new link, to be compared: the end of what is stored, and what is held after it, up to the
    /// boundary. None: too little is in memory, or too much.
    #[must_use]
    pub fn again(&self) -> Option<Sample> {
        let upto = self.scanner.boundary().offset;
        let alone = self.sample_from(upto);
        let from = alone.map_or(self.stored, |boundary| boundary.offset);
        let held: Option<Vec<Bytes>> = self
            .held(from, upto)
            .into_iter()
            .map(|held| match held {
                Held::Memory(bytes) => Some(bytes),
                Held::Spooled { .. } => None,
            })
            .collect();
        let held = held.filter(|_| upto >= self.stored)?;
        match alone {
            Some(boundary) => Sample::and_then(None, from, Some(boundary), &held),
            None => {
                let recent = self.recent.as_ref();
                let recent = recent.filter(|recent| recent.end() == self.stored)?;
                Sample::and_then(Some(recent.clone()), self.stored, None, &held)
            }
        }
    }

    /// The server sends that again, up to `upto`, before it goes on.
    pub fn begin_again(&mut self, sample: Sample, upto: Boundary) {
        self.scanner = FeedScanner::new(sample.boundary);
        if sample.end() == self.stored {
            self.recent = Some(sample.clone());
        }
        self.overlaps = vec![sample];
        self.proving = Some(upto);
    }
}
