//! The end of the line of histories that continues, and the way to it.

use std::collections::BTreeMap;

use super::Catalog;
use crate::wire::position::{Offset, Position, ReplId};

/// The latest that a store can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// The last point that can be restored.
    pub end: Position,
    /// The histories before it, each with the offset where the next one left it.
    pub ancestors: Vec<Position>,
    /// What the line came after without going on from it (a new snapshot took its place), each with the end of what is stored of it.
    pub replaced: BTreeMap<ReplId, Offset>,
}

impl Tip {
    /// The way to `end`, which is that of its history.
    #[must_use]
    pub fn new(catalog: &Catalog, end: Position) -> Self {
        let lineage = catalog.lineage(end.history).unwrap_or_default();
        Self {
            end,
            ancestors: lineage.into_iter().skip(1).collect(),
            replaced: replaced(catalog, end.history),
        }
    }

    /// The line to the tip: each history of it, with how far it runs in that.
    pub fn line(&self) -> impl Iterator<Item = Position> + '_ {
        std::iter::once(self.end).chain(self.ancestors.iter().copied())
    }

    /// How far the line to the tip runs in `id`. `None` when it does not touch it.
    #[must_use]
    pub fn reaches(&self, id: ReplId) -> Option<Offset> {
        let mut line = self.line().filter(|position| position.history == id);
        line.next().map(|position| position.offset)
    }

    /// How far what is stored of `id` runs, if the tip is later than that: on its line, or in what that has replaced.
    #[must_use]
    pub fn knows(&self, id: ReplId) -> Option<Offset> {
        let replaced = || self.replaced.get(&id).copied();
        self.reaches(id).or_else(replaced)
    }

    /// Has a server that was at this point something beyond what is stored there?
    #[must_use]
    pub fn is_beyond(&self, left: Option<(ReplId, Offset)>) -> bool {
        left.is_some_and(|(id, at)| self.knows(id).is_some_and(|stored| at > stored))
    }

    /// How many bytes a server lacks that has left the line at this point, as one does that has come up from an older snapshot, or that
    /// went its own way when the line did. None: it has everything, or nothing is known of where it was.
    ///
    /// One that comes from what the line has replaced lacks all of the tip's own line, as far as that has gone on with its offsets.
    #[must_use]
    pub fn lacks(&self, left: Option<(ReplId, Offset)>) -> Option<u64> {
        let (id, at) = left?;
        let Some(stored) = self.reaches(id) else {
            let is_replaced = self.replaced.contains_key(&id);
            return is_replaced.then_some(self.end.offset.0);
        };
        let shared = at.min(stored);
        (shared < self.end.offset).then(|| self.end.offset.since(shared))
    }
}

/// All that `tip` came after, and that is not on its line.
fn replaced(catalog: &Catalog, tip: ReplId) -> BTreeMap<ReplId, Offset> {
    let line = |id| catalog.lineage(id).unwrap_or_default();
    let on_line = line(tip);
    let is_on_line = |id| on_line.iter().any(|at| at.history == id);
    let mut found: BTreeMap<ReplId, Offset> = BTreeMap::new();
    let mut to_look_at: Vec<ReplId> = on_line.iter().map(|at| at.history).collect();
    while let Some(id) = to_look_at.pop() {
        let Some(history) = catalog.histories.get(&id) else {
            continue;
        };
        let of_it = history.doc.replaced();
        for at in
            of_it.flat_map(|at| std::iter::once(at).chain(line(at.history).into_iter().skip(1)))
        {
            if is_on_line(at.history) {
                continue;
            }
            match found.get_mut(&at.history) {
                Some(end) => *end = at.offset.max(*end),
                None => {
                    found.insert(at.history, at.offset);
                    to_look_at.push(at.history);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_lacks_what_comes_after_the_point_where_it_left_the_line() {
        let id = |n: u8| ReplId::from_random([n; 20]);
        let at = |n, offset| Position {
            history: id(n),
            offset: Offset(offset),
        };
        let tip = Tip {
            end: at(3, 300),
            ancestors: vec![at(2, 200), at(1, 100)],
            replaced: BTreeMap::from([(id(4), Offset(70))]),
        };
        for (left, lacks) in [
            (None, None),
            (Some((3, 300)), None),
            (Some((3, 301)), None),
            (Some((3, 299)), Some(1)),
            (Some((2, 200)), Some(100)),
            // It went its own way there.
            (Some((2, 201)), Some(100)),
            (Some((4, 70)), Some(300)),
            (Some((4, 71)), Some(300)),
            (Some((1, 50)), Some(250)),
            (Some((9, 50)), None),
        ] {
            let point = left.map(|(n, offset)| (id(n), Offset(offset)));
            assert_eq!(tip.lacks(point), lacks, "{left:?}");
        }
        for (n, offset, beyond) in [
            (3, 300, false),
            (3, 301, true),
            (2, 200, false),
            (2, 201, true),
            (4, 70, false),
            (4, 71, true),
            (9, 50, false),
        ] {
            assert_eq!(tip.is_beyond(Some((id(n), Offset(offset)))), beyond);
        }
        // A child that holds nothing yet.
        let bare = Tip {
            end: at(3, 200),
            ..tip
        };
        assert_eq!(bare.lacks(Some((id(2), Offset(200)))), None);
    }
}
