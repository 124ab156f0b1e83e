//! Commands about databases, and which database of the snapshot has which number after them.
//!
//! Everything that follows a log command by command reads them here. (The scanner of the feed, `wire::resp`, follows
//! `SELECT` alone, because it holds no whole command: it must know where a capture may continue.)

use std::collections::BTreeMap;

use super::args::Args;
use super::error::ApplyError;

/// A command that changes what the following ones mean: for which database they are, or which number a database has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatabaseCommand {
    /// `SELECT db`.
    Select(u32),
    /// `SWAPDB db db`. The number that is selected stays selected.
    Swap(u32, u32),
    /// `FLUSHDB [ASYNC | SYNC]`, of the database that is selected.
    Flush,
    /// `FLUSHALL [ASYNC | SYNC]`.
    FlushAll,
}

impl DatabaseCommand {
    /// Reads a command. None: it is another one.
    ///
    /// # Errors
    /// It names no database where it must. No server sends that.
    pub fn of(args: &Args<'_>) -> Result<Option<Self>, ApplyError> {
        Ok(match args.name().len() {
            6 if args.is_word(0, "SELECT") => Some(Self::Select(args.db(1)?)),
            6 if args.is_word(0, "SWAPDB") => Some(Self::Swap(args.db(1)?, args.db(2)?)),
            7 if args.is_word(0, "FLUSHDB") => Some(Self::Flush),
            8 if args.is_word(0, "FLUSHALL") => Some(Self::FlushAll),
            _ => None,
        })
    }
}

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

    /// Follows a command that came when `selected` was the selected database.
    pub fn follow(&mut self, command: DatabaseCommand, selected: u32) {
        match command {
            DatabaseCommand::Select(_) => {}
            DatabaseCommand::Swap(a, b) => {
                let (first, second) = (self.base_of(a), self.base_of(b));
                self.moved.insert(a, second);
                self.moved.insert(b, first);
            }
            DatabaseCommand::Flush => {
                self.moved.insert(selected, None);
            }
            DatabaseCommand::FlushAll => {
                self.moved.clear();
                self.flushed = true;
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::DatabaseCommand::{Flush, FlushAll, Select, Swap};
    use super::*;

    #[test]
    fn commands_about_databases_are_read_in_any_case() {
        let read = |text: &str| {
            let argv: Vec<&[u8]> = text.split(' ').map(str::as_bytes).collect();
            DatabaseCommand::of(&Args::new(&argv))
        };
        for (text, wanted) in [
            ("select 3", Some(Select(3))),
            ("SWAPDB 0 1", Some(Swap(0, 1))),
            ("FlushDB async", Some(Flush)),
            ("FLUSHALL", Some(FlushAll)),
            ("SET select 1", None),
            ("FLUSHX", None),
        ] {
            assert_eq!(read(text).unwrap(), wanted, "{text}");
        }
        for text in ["SELECT", "SELECT x", "SELECT -1", "SWAPDB 1", "SWAPDB 1 x"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn swaps_and_flushes_are_followed() {
        let mut layout = Layout::default();
        assert_eq!((layout.base_of(3), layout.now(3)), (Some(3), Some(3)));
        layout.follow(Swap(0, 1), 0);
        layout.follow(Swap(1, 2), 0);
        assert_eq!(
            [0, 1, 2].map(|db| layout.base_of(db)),
            [Some(1), Some(2), Some(0)]
        );
        assert_eq!(
            [0, 1, 2].map(|db| layout.now(db)),
            [Some(2), Some(0), Some(1)]
        );
        layout.follow(Flush, 2);
        assert_eq!((layout.base_of(2), layout.now(0)), (None, None));
        layout.follow(Swap(2, 5), 0);
        assert_eq!((layout.base_of(2), layout.base_of(5)), (Some(5), None));
        assert_eq!((layout.now(5), layout.now(2)), (Some(2), Some(1)));
        layout.follow(FlushAll, 0);
        assert_eq!([0, 1, 2, 9].map(|db| layout.now(db)), [None; 4]);
        assert_eq!([0, 1, 2, 9].map(|db| layout.base_of(db)), [None; 4]);
    }
}
