//! The line of histories that replicas follow, and where one of them goes on.

use crate::archive::Aliases;
use crate::wire::position::{Offset, Position, ReplId};

/// A history and those that it continues, and how far replicas may have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// The newest history, then its parent, and so on; each with the last offset of it that belongs to the line.
    stretches: Vec<Position>,
    /// What servers call the histories.
    aliases: Aliases,
    /// The last byte that replicas get.
    pub(super) end: Offset,
    /// When it was received, Unix milliseconds, as far as that is known.
    pub(super) end_unix_ms: Option<i64>,
    /// The last byte that was seen in the store.
    pub(super) stored: Offset,
    /// When that was received, Unix milliseconds.
    pub(super) stored_unix_ms: Option<i64>,
}

/// What a replica gets that asks for a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It goes on after this offset.
    Resume(Offset),
    /// It has more than it may get yet. It may come.
    Ahead(Offset),
    /// Everything.
    Full,
}

impl Line {
    /// None: there is no history in it.
    pub(super) fn new(stretches: Vec<Position>, aliases: Aliases, end: Offset) -> Option<Self> {
        (!stretches.is_empty()).then_some(Self {
            stretches,
            aliases,
            end,
            end_unix_ms: None,
            stored: end,
            stored_unix_ms: None,
        })
    }

    /// The newest history, by its key in the store.
    pub(super) fn tip(&self) -> ReplId {
        // There is always one.
        self.stretches
            .first()
            .map_or(ReplId::from_random([0; 20]), |at| at.history)
    }

    /// What its server calls it.
    pub(super) fn said(&self) -> ReplId {
        self.aliases.said(self.tip())
    }

    /// The last offset of a history that belongs to the line.
    pub(super) fn left(&self, history: ReplId) -> Option<Offset> {
        let mut stretches = self.stretches.iter();
        let found = stretches.find(|at| at.history == history);
        found.map(|at| at.offset)
    }

    /// Which history has the byte after `at`, and the last offset of it that belongs to the line.
    pub(super) fn after(&self, at: Offset) -> (ReplId, Offset) {
        let found = self.stretches.iter().rev().find(|left| at < left.offset);
        let found = found.or(self.stretches.first());
        found.map_or((self.tip(), at), |at| (at.history, at.offset))
    }

    /// What a replica gets that says that it has `claim`.
    pub(super) fn answer(&self, claim: Option<(ReplId, Offset)>) -> Answer {
        let Some((said, at)) = claim else {
            return Answer::Full;
        };
        match self.left(self.aliases.key(said)) {
            Some(left) if at > left => Answer::Full,
            Some(_) if at > self.end => Answer::Ahead(at),
            Some(_) => Answer::Resume(at),
            None => Answer::Full,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(n: u8) -> ReplId {
        ReplId::from_random([n; 20])
    }

    fn line(end: u64) -> Line {
        let at = |n, offset| Position {
            history: id(n),
            offset: Offset(offset),
        };
        let stretches = vec![at(3, u64::MAX), at(2, 200), at(1, 100)];
        Line::new(stretches, Aliases::default(), Offset(end)).unwrap()
    }

    #[test]
    fn a_replica_goes_on_from_what_it_has_of_the_line() {
        let line = line(250);
        for (history, offset, answer) in [
            (3, 250, Answer::Resume(Offset(250))),
            (3, 0, Answer::Resume(Offset(0))),
            (3, 251, Answer::Ahead(Offset(251))),
            (2, 200, Answer::Resume(Offset(200))),
            (2, 201, Answer::Full),
            (1, 100, Answer::Resume(Offset(100))),
            (1, 101, Answer::Full),
            (9, 100, Answer::Full),
        ] {
            let claim = Some((id(history), Offset(offset)));
            assert_eq!(line.answer(claim), answer, "{history} {offset}");
        }
        assert_eq!(line.answer(None), Answer::Full);
        assert_eq!(line.tip(), id(3));
    }

    #[test]
    fn each_byte_is_that_of_one_history() {
        let line = line(250);
        for (at, history, left) in [
            (0, 1, 100),
            (99, 1, 100),
            (100, 2, 200),
            (199, 2, 200),
            (200, 3, u64::MAX),
        ] {
            assert_eq!(line.after(Offset(at)), (id(history), Offset(left)), "{at}");
        }
    }

    #[test]
    fn a_history_without_a_server_of_its_id_is_called_by_its_alias() {
        let mut aliases = Aliases::default();
        aliases.add(id(7), id(3));
        let stretches = vec![Position {
            history: id(3),
            offset: Offset(u64::MAX),
        }];
        let line = Line::new(stretches, aliases, Offset(5)).unwrap();
        assert_eq!(line.said(), id(7));
        assert_eq!(
            line.answer(Some((id(7), Offset(5)))),
            Answer::Resume(Offset(5))
        );
    }
}
