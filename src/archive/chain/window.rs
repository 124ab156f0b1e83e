//! A part of a log's list with its headers, and which of these segments belong to the log. ([`super`] says why not all
//! do.)

use crate::archive::ArchiveError;
use crate::archive::log::PARALLEL_UPLOADS;
use crate::log::segment::{Entry, SealHeader};
use crate::wire::position::Offset;

/// A run of this many segments that follow one another is certainly part of the log. Strays make shorter ones.
const SURE: usize = PARALLEL_UPLOADS;

/// Some neighbours of a log's list, up to the first seal.
pub(crate) struct Window {
    /// Index of the first of them in the list.
    offset: usize,
    /// Nothing of the log lies before the list.
    is_all_listed: bool,
    items: Vec<Item>,
    /// For each item, the length of the longest run that ends with it; at least [`SURE`] if it certainly belongs to the
    /// log.
    lengths: Vec<usize>,
}

/// A listed object of the log.
pub(crate) struct Item {
    /// The first byte, as its name says.
    pub(crate) first: u64,
    /// What is wrong with an object matters only if it turns out to be a link.
    pub(crate) entry: Result<Entry, ArchiveError>,
}

impl Item {
    /// The byte after its last one; None for a seal, and when it cannot be read.
    pub(crate) fn next(&self) -> Option<u64> {
        match &self.entry {
            Ok(Entry::Segment(header)) => Some(header.meta.end.next_byte()),
            _ => None,
        }
    }

    /// Is this the segment with that byte, or the object in its place?
    fn holds(&self, byte: u64) -> bool {
        match self.next() {
            Some(next) => self.first <= byte && byte < next,
            None => self.first == byte,
        }
    }

    fn is_seal(&self) -> bool {
        matches!(self.entry, Ok(Entry::Seal(_)))
    }
}

impl Window {
    /// `items`, ascending, are those of the list from index `offset` on. `starts` are the bytes at which a writer begins a
    /// segment after a gap: those after a full sync, and after the point where the history left its parent.
    pub(crate) fn new(
        offset: usize,
        is_all_listed: bool,
        mut items: Vec<Item>,
        starts: &[u64],
    ) -> Self {
        // A seal is created at the end of the log, so it is never a stray, and nothing after it counts.
        if let Some(seal) = items.iter().position(Item::is_seal) {
            items.truncate(seal.saturating_add(1));
        }
        let mut window = Self {
            offset,
            is_all_listed,
            lengths: vec![1; items.len()],
            items,
        };
        for index in 0..window.items.len() {
            window.measure(index, starts);
        }
        window
    }

    /// Settles the run length of an item, whose predecessors are settled, and passes it on to its successor.
    fn measure(&mut self, index: usize, starts: &[u64]) {
        let Some(item) = self.items.get(index) else {
            return;
        };
        let mut length = self.length(index);
        // A full sync in the middle of an unbroken log begins nothing.
        if starts.contains(&item.first) && !self.surely_covered(index) {
            length = length.max(SURE);
        }
        let successor = item.next().and_then(|next| self.index_of(next));
        if let Some(own) = self.lengths.get_mut(index) {
            *own = length;
        }
        if let Some(after) = successor.and_then(|index| self.lengths.get_mut(index)) {
            *after = length.saturating_add(1).max(*after);
        }
    }

    fn surely_covered(&self, index: usize) -> bool {
        let first = self.first_byte(index);
        let before = self.items.iter().zip(&self.lengths).take(index);
        before
            .into_iter()
            .any(|(item, length)| *length >= SURE && item.holds(first))
    }

    fn length(&self, index: usize) -> usize {
        self.lengths.get(index).copied().unwrap_or(0)
    }

    fn first_byte(&self, index: usize) -> u64 {
        self.items.get(index).map_or(0, |item| item.first)
    }

    /// Does it begin with the log, or with the base from which on it was listed?
    pub(crate) fn is_whole(&self) -> bool {
        self.begins_list() && self.is_all_listed
    }

    /// Does it begin with the list?
    pub(crate) fn begins_list(&self) -> bool {
        self.offset == 0
    }

    /// The item's index in the list.
    pub(crate) fn in_list(&self, index: usize) -> usize {
        self.offset.saturating_add(index)
    }

    /// The item at this index of the window.
    pub(crate) fn get(&self, index: usize) -> Option<&Item> {
        self.items.get(index)
    }

    /// The item that begins with this byte.
    pub(crate) fn index_of(&self, first: u64) -> Option<usize> {
        self.items
            .binary_search_by_key(&first, |item| item.first)
            .ok()
    }

    /// The segment of the log that holds byte `wanted`, or a seal there. At a start (`strict`), only a sure one: before
    /// the writer after a gap has stored its first segment, only strays could hold it.
    pub(crate) fn holding(&self, wanted: u64, strict: bool) -> Result<Option<usize>, ArchiveError> {
        let found = self.longest(|item| item.holds(wanted));
        if let Some(index) = found {
            let counts = !strict || self.length(index) >= SURE;
            return Ok(counts.then_some(index));
        }
        // A link that cannot be read may be the one that held it.
        let before = self.longest(|item| item.first < wanted);
        match before.and_then(|index| self.items.get(index)) {
            Some(Item {
                entry: Err(error), ..
            }) => Err(error.clone()),
            _ => Ok(None),
        }
    }

    /// The byte after the last link before byte `wanted`.
    pub(crate) fn next_before(&self, wanted: u64) -> Option<u64> {
        let before = self.longest(|item| item.first < wanted)?;
        self.items.get(before)?.next()
    }

    /// The seal of the log, if it is here.
    pub(crate) fn seal(&self) -> Option<&SealHeader> {
        match &self.items.last()?.entry {
            Ok(Entry::Seal(seal)) => Some(seal),
            _ => None,
        }
    }

    /// Is there something beyond `at` that no stray could be: a seal, or a run that is part of the log for sure?
    pub(crate) fn goes_on_beyond(&self, at: Offset) -> bool {
        let beyond = at.next_byte();
        let mut rest = self.items.iter().zip(&self.lengths);
        rest.any(|(item, length)| item.first > beyond && (item.is_seal() || *length >= SURE))
    }

    /// Does anything begin after this byte?
    pub(crate) fn lists_beyond(&self, byte: u64) -> bool {
        self.items.last().is_some_and(|item| item.first > byte)
    }

    /// The offset before the first item.
    pub(crate) fn start(&self) -> Option<Offset> {
        let first = self.items.first()?;
        Some(Offset::before_byte(first.first))
    }

    /// The offset before the longest run.
    pub(crate) fn main_run_start(&self) -> Option<Offset> {
        let mut index = self.longest(|_| true)?;
        while let Some(before) = self.longest(|item| item.next() == Some(self.first_byte(index))) {
            index = before;
        }
        Some(Offset::before_byte(self.first_byte(index)))
    }

    /// The item at the end of the longest run among those that `matches`. Of equal ones, the earliest.
    fn longest(&self, matches: impl Fn(&Item) -> bool) -> Option<usize> {
        let mut best = None;
        for (index, (item, length)) in self.items.iter().zip(&self.lengths).enumerate() {
            if matches(item) && best.is_none_or(|(most, _)| length > most) {
                best = Some((length, index));
            }
        }
        best.map(|(_, index)| index)
    }
}
