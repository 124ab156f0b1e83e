//! Which database of the snapshot has which number, after `SWAPDB`, `FLUSHDB` and `FLUSHALL`.

use std::collections::BTreeMap;

/// Maps the databases of a snapshot to those after the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// Present number → number in the snapshot. None: flushed. Numbers that are missing did not change.
    moved: BTreeMap<u32, Option<u32>>,
    /// All were flushed before the changes in `moved`.
    flushed: bool,
}

impl Layout {
    /// The database of the snapshot whose keys this one holds (apart from those that the log touches).
    #[must_use]
    pub fn base_of(&self, db: u32) -> Option<u32> {
        match self.moved.get(&db) {
            Some(base) => *base,
            None if self.flushed => None,
            None => Some(db),
        }
    }

    /// The present number of a database of the snapshot. None: its keys are gone.
    #[must_use]
    pub fn now(&self, base: u32) -> Option<u32> {
        let moved = self.moved.iter().find(|(_, from)| **from == Some(base));
        match moved {
            Some((now, _)) => Some(*now),
            None if self.flushed || self.moved.contains_key(&base) => None,
            None => Some(base),
        }
    }

    /// `SWAPDB`.
    pub fn swap(&mut self, a: u32, b: u32) {
        let (first, second) = (self.base_of(a), self.base_of(b));
        self.moved.insert(a, second);
        self.moved.insert(b, first);
    }

    /// `FLUSHDB`.
    pub fn flush(&mut self, db: u32) {
        self.moved.insert(db, None);
    }

    /// `FLUSHALL`.
    pub fn flush_all(&mut self) {
        self.moved.clear();
        self.flushed = true;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn swaps_and_flushes_are_followed() {
        let mut layout = Layout::default();
        assert_eq!((layout.base_of(3), layout.now(3)), (Some(3), Some(3)));
        layout.swap(0, 1);
        layout.swap(1, 2);
        assert_eq!(
            [0, 1, 2].map(|db| layout.base_of(db)),
            [Some(1), Some(2), Some(0)]
        );
        assert_eq!(
            [0, 1, 2].map(|db| layout.now(db)),
            [Some(2), Some(0), Some(1)]
        );
        layout.flush(2);
        assert_eq!((layout.base_of(2), layout.now(0)), (None, None));
        layout.swap(2, 5);
        assert_eq!((layout.base_of(2), layout.base_of(5)), (Some(5), None));
        assert_eq!((layout.now(5), layout.now(2)), (Some(2), Some(1)));
        layout.flush_all();
        assert_eq!([0, 1, 2, 9].map(|db| layout.now(db)), [None; 4]);
        assert_eq!([0, 1, 2, 9].map(|db| layout.base_of(db)), [None; 4]);
    }
}
