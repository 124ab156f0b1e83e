//! The pieces of the log that a plan is made of, in bounded memory.
//!
//! A log may have millions of segments. So a piece is kept as a record of 80 bytes, and what does not fit into the memory for
//! plans goes to a file without a name: 80 MB for each further million. Where there is no room for that file, or no directory,
//! the rest stays in memory. All copies of a plan share one list.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::archive::ArchiveError;
use crate::config::PLANS;
use crate::log::segment::{SegmentHeader, SegmentMeta};
use crate::log::span::FrameIndex;
use crate::recovery::plan::Piece;
use crate::runtime;
use crate::store::StoreError;
use crate::wire::position::{Boundary, Offset, ReplId, TimeMark};

/// Bytes of a record.
const RECORD: usize = 80;
/// Records that are read and written at once.
const BLOCK: usize = if cfg!(test) { 3 } else { 1024 };
/// Records in memory: half of the memory for plans, as the other half is for the names of the objects. A whole number of
/// blocks, 52,224 of them.
const IN_MEMORY: usize = if cfg!(test) {
    2 * BLOCK
} else {
    PLANS / 2 / RECORD / BLOCK * BLOCK
};
/// Time marks that are kept. Each segment with some counts for two more. Those of later segments are read again when they are
/// needed (in tests from the third segment on).
const MARKS_KEPT: usize = if cfg!(test) { 8 } else { 1 << 16 };

/// Pieces that follow one another without a hole.
#[derive(Debug, Clone, Default)]
pub struct Pieces {
    list: Arc<List>,
    /// Records of the list that count.
    len: usize,
    /// The last piece ends here at the latest.
    end: Option<Offset>,
    /// Overrides what the records say of relative TTLs.
    relative_ttls: Option<bool>,
}

#[derive(Debug, Default)]
struct List {
    /// In the order of their first pieces. A record has an index.
    histories: Vec<ReplId>,
    /// The marks of the first segments.
    marks: Vec<Vec<TimeMark>>,
    /// Where the frames of spans are, by the index of the piece: 16 bytes for each MiB of them.
    spans: BTreeMap<usize, FrameIndex>,
    /// Of the first pieces, and then of those that are in no file.
    memory: Vec<Record>,
    /// What comes between the first pieces in memory and the others.
    file: Option<File>,
    in_file: usize,
}

/// What is kept of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Record {
    history: u32,
    flags: u32,
    db_at_start: u32,
    boundary_db: u32,
    start: u64,
    end: u64,
    after: u64,
    upto: u64,
    /// The offset of the boundary, if the flag says that there is one.
    boundary: u64,
    payload_crc64: u64,
    payload_stored: u64,
    stored_crc64: u64,
}

/// Flags of a record.
mod flag {
    pub(super) const STARTS_AT_BOUNDARY: u32 = 1;
    pub(super) const HAS_BOUNDARY: u32 = 2;
    pub(super) const RELATIVE_TTLS: u32 = 4;
}

/// Makes a list, piece by piece.
#[derive(Debug, Default)]
pub(crate) struct Builder {
    list: List,
    len: usize,
    marks: usize,
    /// Records on their way to the file.
    block: Vec<Record>,
    /// There is no file, or no room in it.
    no_file: bool,
}

impl Builder {
    /// The next piece. It begins where the one before ends.
    pub(crate) fn push(&mut self, piece: &Piece) {
        let record = self.record(piece);
        let header = &piece.header;
        self.marks = self
            .marks
            .saturating_add(header.meta.marks.len())
            .saturating_add(2);
        if self.marks <= MARKS_KEPT && self.list.marks.len() == self.len {
            self.list.marks.push(header.meta.marks.clone());
        }
        if let Some(index) = &header.index {
            self.list.spans.insert(self.len, index.clone());
        }
        self.len = self.len.saturating_add(1);
        if self.list.memory.len() < IN_MEMORY || self.no_file {
            self.list.memory.push(record);
            return;
        }
        self.block.push(record);
        if self.block.len() == BLOCK {
            self.store_block();
        }
    }

    fn record(&mut self, piece: &Piece) -> Record {
        let SegmentHeader {
            meta,
            payload_crc64,
            payload_stored,
            stored_crc64,
            index: _,
        } = &piece.header;
        let histories = &mut self.list.histories;
        // A lineage has few, and the pieces of one follow one another.
        let known = histories.iter().rposition(|id| *id == meta.history);
        let history = known.unwrap_or_else(|| {
            histories.push(meta.history);
            histories.len().saturating_sub(1)
        });
        let set = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let boundary = meta.boundary;
        Record {
            history: u32::try_from(history).unwrap_or(u32::MAX),
            flags: set(meta.starts_at_boundary, flag::STARTS_AT_BOUNDARY)
                | set(boundary.is_some(), flag::HAS_BOUNDARY)
                | set(piece.relative_ttls, flag::RELATIVE_TTLS),
            db_at_start: meta.db_at_start,
            boundary_db: boundary.map_or(0, |boundary| boundary.db),
            start: meta.start.0,
            end: meta.end.0,
            after: piece.after.0,
            upto: piece.upto.0,
            boundary: boundary.map_or(0, |boundary| boundary.offset.0),
            payload_crc64: *payload_crc64,
            payload_stored: *payload_stored,
            stored_crc64: *stored_crc64,
        }
    }

    /// Writes the records that wait for it. If they cannot be written, they and all others stay in memory.
    fn store_block(&mut self) {
        if self.list.file.is_none() {
            self.list.file = temporary_file();
        }
        let bytes: Vec<u8> = self.block.iter().flat_map(|it| it.to_bytes()).collect();
        let at = (self.list.in_file as u64).saturating_mul(RECORD as u64);
        let file = self.list.file.as_ref();
        if file.is_some_and(|file| file.write_all_at(&bytes, at).is_ok()) {
            self.list.in_file = self.list.in_file.saturating_add(self.block.len());
            self.block.clear();
        } else {
            self.no_file = true;
            self.list.memory.append(&mut self.block);
        }
    }

    pub(crate) fn build(mut self) -> Pieces {
        if !self.block.is_empty() {
            self.store_block();
        }
        Pieces {
            list: Arc::new(self.list),
            len: self.len,
            end: None,
            relative_ttls: None,
        }
    }
}

impl Pieces {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The histories that they are of.
    pub fn histories(&self) -> impl Iterator<Item = ReplId> {
        self.list.histories.iter().copied()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Piece, ArchiveError>> + Send + use<> {
        self.iter_from(0)
    }

    /// Those from an index on.
    pub fn iter_from(
        &self,
        from: usize,
    ) -> impl Iterator<Item = Result<Piece, ArchiveError>> + Send + use<> {
        let pieces = self.clone();
        let mut block = Block::of(BLOCK);
        (from..self.len).map(move |index| pieces.read(index, &mut block))
    }

    /// The piece at an index.
    ///
    /// # Errors
    /// The temporary file cannot be read, or there is no such piece.
    pub fn get(&self, index: usize) -> Result<Piece, ArchiveError> {
        self.read(index, &mut Block::of(1))
    }

    /// The last one.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn last(&self) -> Result<Option<Piece>, ArchiveError> {
        let last = self.len.checked_sub(1);
        last.map(|index| self.get(index)).transpose()
    }

    /// Does any of them have relative TTLs?
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub fn have_relative_ttls(&self) -> Result<bool, ArchiveError> {
        for piece in self.iter() {
            if piece?.relative_ttls {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The commands were read: all of them have relative TTLs, or none.
    pub(crate) fn set_relative_ttls(&mut self, found: bool) {
        self.relative_ttls = Some(found);
    }

    /// Removes what is after `end`.
    ///
    /// # Errors
    /// The temporary file cannot be read.
    pub(crate) fn trim(&mut self, end: Offset) -> Result<(), ArchiveError> {
        while let Some(last) = self.last()?
            && last.after >= end
        {
            self.len = self.len.saturating_sub(1);
        }
        self.end = Some(end);
        Ok(())
    }

    fn read(&self, index: usize, block: &mut Block) -> Result<Piece, ArchiveError> {
        let record = self.list.record(index, block)?;
        let history = usize::try_from(record.history).ok();
        let history = history.and_then(|index| self.list.histories.get(index));
        let history = *history.ok_or_else(|| unreadable("it names a history that is not there"))?;
        let is_set = |flag| record.flags & flag != 0;
        let marks = self.list.marks.get(index);
        let meta = SegmentMeta {
            history,
            start: Offset(record.start),
            end: Offset(record.end),
            db_at_start: record.db_at_start,
            starts_at_boundary: is_set(flag::STARTS_AT_BOUNDARY),
            boundary: is_set(flag::HAS_BOUNDARY).then_some(Boundary {
                offset: Offset(record.boundary),
                db: record.boundary_db,
            }),
            marks: marks.cloned().unwrap_or_default(),
            clock_back: None,
            writer: String::new(),
        };
        let upto = Offset(record.upto);
        let relative = is_set(flag::RELATIVE_TTLS);
        Ok(Piece {
            header: SegmentHeader {
                meta,
                payload_crc64: record.payload_crc64,
                payload_stored: record.payload_stored,
                stored_crc64: record.stored_crc64,
                index: self.list.spans.get(&index).cloned(),
            },
            has_marks: marks.is_some(),
            after: Offset(record.after),
            upto: self.end.map_or(upto, |end| upto.min(end)),
            relative_ttls: self.relative_ttls.unwrap_or(relative),
        })
    }
}

/// Records of the file that were read last, and the index of the first of them in it.
#[derive(Debug)]
struct Block {
    first: usize,
    records: Vec<Record>,
    /// How many are read at once.
    size: usize,
}

impl Block {
    fn of(size: usize) -> Self {
        Self {
            first: 0,
            records: Vec::new(),
            size,
        }
    }
}

impl List {
    fn record(&self, index: usize, block: &mut Block) -> Result<Record, ArchiveError> {
        let missing = || unreadable("it has no such record");
        let Some(in_file) = index.checked_sub(IN_MEMORY) else {
            return self.memory.get(index).copied().ok_or_else(missing);
        };
        if let Some(later) = in_file.checked_sub(self.in_file) {
            let index = IN_MEMORY.saturating_add(later);
            return self.memory.get(index).copied().ok_or_else(missing);
        }
        let within = in_file.checked_sub(block.first);
        if let Some(record) = within.and_then(|within| block.records.get(within)) {
            return Ok(*record);
        }
        let count = block.size.min(self.in_file.saturating_sub(in_file));
        let mut bytes = vec![0; count.saturating_mul(RECORD)];
        let at = (in_file as u64).saturating_mul(RECORD as u64);
        let file = self.file.as_ref().ok_or_else(missing)?;
        file.read_exact_at(&mut bytes, at)
            .map_err(|error| unreadable(&error.to_string()))?;
        let (records, _) = bytes.as_chunks::<RECORD>();
        block.first = in_file;
        block.records = records.iter().map(Record::from_bytes).collect();
        block.records.first().copied().ok_or_else(missing)
    }
}

impl Record {
    fn words(&self) -> [u64; RECORD / 8] {
        let both = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
        [
            both(self.history, self.flags),
            both(self.db_at_start, self.boundary_db),
            self.start,
            self.end,
            self.after,
            self.upto,
            self.boundary,
            self.payload_crc64,
            self.payload_stored,
            self.stored_crc64,
        ]
    }

    fn to_bytes(self) -> Vec<u8> {
        self.words()
            .iter()
            .flat_map(|it| it.to_le_bytes())
            .collect()
    }

    fn from_bytes(bytes: &[u8; RECORD]) -> Self {
        let (words, _) = bytes.as_chunks::<8>();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().unwrap_or_default();
        let half = |word: u64| u32::try_from(word).unwrap_or(u32::MAX);
        let high = |word: u64| half(word >> 32);
        let low = |word: u64| half(word & u64::from(u32::MAX));
        let (first, second) = (next(), next());
        Self {
            history: high(first),
            flags: low(first),
            db_at_start: high(second),
            boundary_db: low(second),
            start: next(),
            end: next(),
            after: next(),
            upto: next(),
            boundary: next(),
            payload_crc64: next(),
            payload_stored: next(),
            stored_crc64: next(),
        }
    }
}

fn temporary_file() -> Option<File> {
    if runtime::is_simulated() {
        return None;
    }
    tempfile::tempfile()
        .inspect_err(|error| tracing::debug!(%error, "no temporary file: the plan stays in memory"))
        .ok()
}

fn unreadable(why: &str) -> ArchiveError {
    ArchiveError::Store(StoreError::Transient {
        what: "cannot read the temporary file with the plan".to_owned(),
        cause: why.to_owned(),
    })
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
