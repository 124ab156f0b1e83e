//! A part of a log's list with its headers, and which of these objects belong to the log. ([`super`] says why not all
//! do.)

use crate::archive::{ArchiveError, LogObject};
use crate::log::segment::{Entry, SealHeader};
use crate::wire::position::Offset;

/// Some neighbours of a log's list, without those that are stale.
pub(crate) struct Window {
    /// Index of the first of them in the list.
    offset: usize,
    /// Nothing of the log lies before the list.
    is_all_listed: bool,
    items: Vec<Item>,
}

/// A listed object of the log.
pub(crate) struct Item {
    /// The object that is listed.
    pub(crate) object: LogObject,
    /// What is wrong with an object matters only if it turns out to be a link.
    pub(crate) entry: Result<Entry, ArchiveError>,
}

impl Item {
    /// The first byte, as its name says.
    pub(crate) fn first(&self) -> u64 {
        self.object.first()
    }

    /// Is it a span with that byte? A log may enter a span behind its first byte, because the one before it reaches into it.
    pub(crate) fn reaches(&self, byte: u64) -> bool {
        let is_span = matches!(&self.entry, Ok(Entry::Segment(header)) if header.is_span());
        is_span && self.holds(byte)
    }

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
            Some(next) => self.first() <= byte && byte < next,
            None => self.first() == byte,
        }
    }

    /// It is no part of the log, which has an object that begins with byte `above`, and none between. (Two spans may share bytes.)
    pub(crate) fn is_stale(&self, above: Option<u64>) -> bool {
        above.is_some_and(|above| match &self.entry {
            Ok(Entry::Segment(header)) => !header.is_span() && header.meta.end.0 >= above,
            Ok(Entry::Seal(_)) => true,
            Err(_) => false,
        })
    }
}

impl Window {
    /// `items`, ascending, are those of the list from index `offset` on. After them it has one that begins with byte
    /// `above`.
    pub(crate) fn new(
        offset: usize,
        is_all_listed: bool,
        mut items: Vec<Item>,
        above: Option<u64>,
    ) -> Self {
        let firsts: Vec<u64> = items.iter().map(Item::first).chain(above).collect();
        let mut aboves = firsts.into_iter().skip(1);
        items.retain(|item| !item.is_stale(aboves.next()));
        Self {
            offset,
            is_all_listed,
            items,
        }
    }

    /// Does it begin with the log, or with the base from which on it was listed?
    pub(crate) fn is_whole(&self) -> bool {
        self.begins_list() && self.is_all_listed
    }

    /// Does it begin with the list?
    pub(crate) fn begins_list(&self) -> bool {
        self.offset == 0
    }

    /// The item at this index of the window.
    pub(crate) fn get(&self, index: usize) -> Option<&Item> {
        self.items.get(index)
    }

    /// The item that begins with this byte; else the last span that reaches it.
    pub(crate) fn index_of(&self, first: u64) -> Option<usize> {
        let upto = self.items.partition_point(|item| item.first() <= first);
        let index = upto.checked_sub(1)?;
        let item = self.items.get(index)?;
        (item.first() == first || item.reaches(first)).then_some(index)
    }

    /// The segment of the log that holds byte `wanted`, or a seal there.
    pub(crate) fn holding(&self, wanted: u64) -> Result<Option<usize>, ArchiveError> {
        let upto = self.items.partition_point(|item| item.first() <= wanted);
        let Some(index) = upto.checked_sub(1) else {
            return Ok(None);
        };
        match self.items.get(index) {
            Some(item) if item.holds(wanted) => Ok(Some(index)),
            // A link that cannot be read may be the one that held it.
            Some(Item {
                entry: Err(error), ..
            }) => Err(error.clone()),
            _ => Ok(None),
        }
    }

    /// The byte after the last link before byte `wanted`.
    pub(crate) fn next_before(&self, wanted: u64) -> Option<u64> {
        let upto = self.items.partition_point(|item| item.first() < wanted);
        self.items.get(upto.checked_sub(1)?)?.next()
    }

    /// The seal of the log, if it is here.
    pub(crate) fn seal(&self) -> Option<&SealHeader> {
        match &self.items.last()?.entry {
            Ok(Entry::Seal(seal)) => Some(seal),
            _ => None,
        }
    }

    /// Does anything begin after this byte?
    pub(crate) fn lists_beyond(&self, byte: u64) -> bool {
        self.items.last().is_some_and(|item| item.first() > byte)
    }

    /// The offset before the first item.
    pub(crate) fn start(&self) -> Option<Offset> {
        let first = self.items.first()?;
        Some(Offset::before_byte(first.first()))
    }
}
