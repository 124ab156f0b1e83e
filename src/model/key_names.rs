//! Names of keys: each one once, close together, and numbered. A log can touch very many keys. What a name costs beside
//! its bytes is most of the memory that we use for such a key.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;

/// What is counted for a name beside its bytes: its place in the table, its number, its length, and what is kept for
/// its number.
pub(super) const OVERHEAD: usize = 48;

/// Names begin at multiples of this, so that 32 bits reach 32 GiB of them.
const UNIT: usize = 8;
/// The byte before a name is its length. This value says that the length is in the four bytes after it.
const LONG: u8 = 0xFF;
const FIRST_TABLE: usize = 16;
/// The filter of a table with more places would not stay in the caches: this one takes 256 KiB.
const MOST_FILTERED: usize = 1 << 18;

/// A set of names, numbered in the order in which they came.
///
/// A name is found with two accesses to memory: the table, and the name with its number. On more names than caches
/// hold, nothing else counts.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Open addressing; its length is a power of two. A place has two halves. The low half is the low half of the
    /// name's hash: its index in the table, wrapped. The high half is the position of the name, in units, counted from
    /// 1. 0: free.
    table: Vec<u64>,
    /// Eight bits for each place of a small table, one set for each name. Most names that are not there are found out
    /// in the caches, without a look at what the table has at their places.
    filter: Vec<u64>,
    /// Each: number, length, bytes.
    bytes: Vec<u8>,
    count: u32,
    hasher: RandomState,
}

/// The position of a name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Its number.
    pub(super) number: u32,
    at: usize,
}

/// How many names there are at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    count: u32,
    end: usize,
}

impl Names {
    /// The number of a name.
    pub(super) fn find(&self, name: &[u8]) -> Option<u32> {
        self.place(name).map(|place| place.number)
    }

    /// The same for names of which few are there.
    pub(super) fn find_rare(&self, name: &[u8]) -> Option<u32> {
        let tag = self.tag(name);
        let (word, bit) = Self::bit_of(tag);
        // Its length is a power of two.
        let mask = self.filter.len().wrapping_sub(1);
        if let Some(word) = self.filter.get(word & mask)
            && word & bit == 0
        {
            return None;
        }
        self.probe(tag, name).ok().map(|place| place.number)
    }

    /// The position of the name.
    pub(super) fn place(&self, name: &[u8]) -> Option<Place> {
        self.probe(self.tag(name), name).ok()
    }

    /// The name at that position.
    pub(super) fn name(&self, place: Place) -> &[u8] {
        self.record(place.at).1
    }

    /// The number of a name, and whether it is new. None if there are too many names.
    pub(super) fn insert(&mut self, name: &[u8]) -> Option<(u32, bool)> {
        // At most three quarters full, so that runs stay short.
        let quarter = self.table.len() / 4;
        if self.len() >= self.table.len().saturating_sub(quarter) {
            self.grow();
        }
        let tag = self.tag(name);
        let free = match self.probe(tag, name) {
            Ok(place) => return Some((place.number, false)),
            Err(free) => free,
        };
        let (number, next) = (self.count, self.count.checked_add(1)?);
        let long = u32::try_from(name.len()).ok()?;
        let unit = u32::try_from(self.bytes.len() / UNIT)
            .ok()?
            .checked_add(1)?;
        self.bytes.extend_from_slice(&number.to_le_bytes());
        match u8::try_from(name.len()) {
            Ok(length) if length != LONG => self.bytes.push(length),
            _ => {
                self.bytes.push(LONG);
                self.bytes.extend_from_slice(&long.to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(name);
        let end = self.bytes.len().next_multiple_of(UNIT);
        self.bytes.resize(end, 0);
        self.count = next;
        if let Some(place) = self.table.get_mut(free) {
            *place = u64::from(unit) << 32 | u64::from(tag);
        }
        self.note(tag);
        Some((number, true))
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.count as usize
    }

    /// All of them, by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut at = 0;
        (0..self.count).map(move |_| {
            let (_, name, next) = self.record(at);
            at = next;
            name
        })
    }

    /// About how many bytes of memory they take.
    pub(super) fn weight(&self) -> usize {
        let each = self.len().saturating_mul(OVERHEAD);
        self.bytes.len().saturating_add(each)
    }

    pub(super) fn mark(&self) -> Mark {
        Mark {
            count: self.count,
            end: self.bytes.len(),
        }
    }

    /// Takes away the names that came after the mark.
    pub(super) fn back_to(&mut self, mark: Mark) {
        if mark.count == self.count {
            return;
        }
        self.bytes.truncate(mark.end);
        self.count = mark.count;
        let first = |place: &u64| Self::at(*place) < mark.end;
        let places: Vec<u64> = self
            .table
            .iter()
            .copied()
            .filter(|place| *place != 0 && first(place))
            .collect();
        self.table.fill(0);
        self.filter.fill(0);
        self.fill(&places);
    }

    fn grow(&mut self) {
        let wanted = self.table.len().saturating_mul(2).max(FIRST_TABLE);
        let old = std::mem::replace(&mut self.table, vec![0; wanted]);
        let bits = if wanted <= MOST_FILTERED {
            wanted.saturating_mul(8)
        } else {
            0
        };
        self.filter = vec![0; bits.div_ceil(64)];
        self.fill(&old);
    }

    /// Puts places into a table that has none of them.
    fn fill(&mut self, places: &[u64]) {
        let mask = self.table.len().wrapping_sub(1);
        for place in places.iter().filter(|place| **place != 0) {
            let mut at = Self::tag_of(*place) as usize & mask;
            while self.table.get(at).is_some_and(|taken| *taken != 0) {
                at = at.wrapping_add(1) & mask;
            }
            if let Some(free) = self.table.get_mut(at) {
                *free = *place;
            }
            self.note(Self::tag_of(*place));
        }
    }

    /// Notes a name in the filter.
    fn note(&mut self, tag: u32) {
        let (word, bit) = Self::bit_of(tag);
        let mask = self.filter.len().wrapping_sub(1);
        if let Some(word) = self.filter.get_mut(word & mask) {
            *word |= bit;
        }
    }

    /// Which word of the filter, before it is wrapped, and which bit of it.
    fn bit_of(tag: u32) -> (usize, u64) {
        ((tag >> 6) as usize, 1 << (tag & 63))
    }

    /// The position of the name, or else where in the table it would be noted.
    #[inline]
    fn probe(&self, tag: u32, name: &[u8]) -> Result<Place, usize> {
        let mask = self.table.len().wrapping_sub(1);
        let mut index = tag as usize & mask;
        loop {
            let place = self.table.get(index).copied().unwrap_or_default();
            if place == 0 {
                return Err(index);
            }
            if Self::tag_of(place) == tag {
                let at = Self::at(place);
                let (number, found, _) = self.record(at);
                if found == name {
                    return Ok(Place { number, at });
                }
            }
            index = index.wrapping_add(1) & mask;
        }
    }

    #[allow(clippy::cast_possible_truncation)] // the low half is what is wanted
    fn tag(&self, name: &[u8]) -> u32 {
        self.hasher.hash_one(name) as u32
    }

    #[allow(clippy::cast_possible_truncation)] // as above
    fn tag_of(place: u64) -> u32 {
        place as u32
    }

    /// The index in a place.
    fn at(place: u64) -> usize {
        let unit = usize::try_from(place >> 32).unwrap_or_default();
        unit.saturating_sub(1).saturating_mul(UNIT)
    }

    /// The number and the name at an index, and where the next one begins.
    #[inline]
    fn record(&self, at: usize) -> (u32, &[u8], usize) {
        let (number, length, rest) = match self.bytes.get(at..).unwrap_or_default() {
            [n0, n1, n2, n3, LONG, a, b, c, d, rest @ ..] => {
                let length = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
                ([*n0, *n1, *n2, *n3], length, rest)
            }
            [n0, n1, n2, n3, length, rest @ ..] => {
                ([*n0, *n1, *n2, *n3], usize::from(*length), rest)
            }
            _ => ([0; 4], 0, &[][..]),
        };
        let begin = self.bytes.len().saturating_sub(rest.len());
        let end = begin.saturating_add(length).next_multiple_of(UNIT);
        let name = rest.get(..length).unwrap_or_default();
        (u32::from_le_bytes(number), name, end)
    }
}

/// Flags by number. Those that were never set are false.
#[derive(Debug, Default)]
pub(super) struct Flags(Vec<u64>);

impl Flags {
    #[inline]
    pub(super) fn get(&self, number: u32) -> bool {
        let (word, bit) = Self::word(number);
        self.0.get(word).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn set(&mut self, number: u32) {
        let (word, bit) = Self::word(number);
        if word >= self.0.len() {
            self.0.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= bit;
        }
    }

    pub(super) fn clear(&mut self, number: u32) {
        let (word, bit) = Self::word(number);
        if let Some(word) = self.0.get_mut(word) {
            *word &= !bit;
        }
    }

    /// Clears the flags of all numbers from `count` on.
    pub(super) fn truncate(&mut self, count: usize) {
        let Ok(count) = u32::try_from(count) else {
            return;
        };
        let (word, bit) = Self::word(count);
        self.0.truncate(word.saturating_add(1));
        if let Some(word) = self.0.get_mut(word) {
            *word &= bit.saturating_sub(1);
        }
    }

    /// Bytes of memory.
    pub(super) fn weight(&self) -> usize {
        self.0.len().saturating_mul(size_of::<u64>())
    }

    fn word(number: u32) -> (usize, u64) {
        ((number / u64::BITS) as usize, 1 << (number % u64::BITS))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_numbers_and_the_last_ones_can_be_taken_back() {
        let long = vec![b'x'; 70_000];
        let of = |n: usize| match n {
            7 => long.clone(),
            8 => vec![b'y'; 255],
            9 => vec![b'y'; 254],
            n => vec![n as u8; n % 40],
        };
        let mut names = Names::default();
        let mut mark = names.mark();
        for n in 0..40 {
            if n == 20 {
                mark = names.mark();
            }
            assert_eq!(names.insert(&of(n)), Some((n as u32, true)));
            assert_eq!(names.insert(&of(n)), Some((n as u32, false)));
        }
        let expected: Vec<Vec<u8>> = (0..40).map(of).collect();
        assert!(names.iter().eq(expected.iter().map(Vec::as_slice)));
        names.back_to(mark);
        assert!(names.iter().eq(expected.iter().take(20).map(Vec::as_slice)));
        for n in 0..40 {
            let expected = (n < 20).then_some(n as u32);
            assert_eq!(names.find(&of(n)), expected);
            assert_eq!(names.find_rare(&of(n)), expected);
        }
        assert_eq!(names.insert(b"again"), Some((20, true)));
        assert_eq!(names.find(b"again"), Some(20));
        assert_eq!(names.len(), 21);
    }

    #[test]
    fn rare_names_are_found_in_tables_of_any_size() {
        let mut names = Names::default();
        assert_eq!(names.find_rare(b"0"), None);
        let most = MOST_FILTERED as u32;
        for n in 0..most {
            names.insert(&n.to_le_bytes());
            if n.is_power_of_two() || n + 1 == most {
                assert_eq!(names.filter.is_empty(), names.table.len() > MOST_FILTERED);
                let there = (0..=n).all(|m| names.find_rare(&m.to_le_bytes()) == Some(m));
                assert!(there, "{n}");
                assert_eq!(names.find_rare(&(n + 1).to_le_bytes()), None);
            }
        }
        assert!(names.table.len() > MOST_FILTERED);
    }

    #[test]
    fn flags_are_set_one_by_one() {
        let mut flags = Flags::default();
        flags.clear(3);
        flags.set(64);
        assert!(flags.get(64) && !flags.get(63) && !flags.get(65) && !flags.get(100_000));
        flags.set(70);
        flags.set(130);
        flags.truncate(70);
        assert!(flags.get(64) && !flags.get(70) && !flags.get(130));
        flags.clear(64);
        assert!(!flags.get(64));
    }
}
