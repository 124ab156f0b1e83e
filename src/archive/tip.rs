//! The end of the line that goes on, and the way to it.

use super::Catalog;
use crate::wire::position::{Offset, Position, ReplId};

/// The latest that a store can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// The last point that can be restored.
    pub end: Position,
    /// The histories before it, each with the offset where the next one left it.
    pub ancestors: Vec<Position>,
}

impl Tip {
    /// The way to `end`, which is that of its history.
    #[must_use]
    pub fn new(catalog: &Catalog, end: Position) -> Self {
        let lineage = catalog.lineage(end.history).unwrap_or_default();
        Self {
            end,
            ancestors: lineage.into_iter().skip(1).collect(),
        }
    }

    /// The line to the tip: each history of it, with how far it runs in that.
    pub fn line(&self) -> impl Iterator<Item = Position> + '_ {
        std::iter::once(self.end).chain(self.ancestors.iter().copied())
    }

    /// How far the line to the tip runs in `id`; `None` when it does not touch it.
    #[must_use]
    pub fn reaches(&self, id: ReplId) -> Option<Offset> {
        let mut line = self.line().filter(|position| position.history == id);
        line.next().map(|position| position.offset)
    }

    /// How many bytes a server lacks that has left the line at this point, as one does that has come up from an older snapshot. None:
    /// it has everything, or was never on the line.
    #[must_use]
    pub fn lacks(&self, left: Option<(ReplId, Offset)>) -> Option<u64> {
        let (id, at) = left?;
        let is_on_line = self.reaches(id).is_some_and(|stored| at <= stored);
        (is_on_line && at < self.end.offset).then(|| self.end.offset.since(at))
    }
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
        };
        for (left, lacks) in [
            (None, None),
            (Some((3, 300)), None),
            (Some((3, 301)), None),
            (Some((3, 299)), Some(1)),
            (Some((2, 200)), Some(100)),
            (Some((2, 201)), None),
            (Some((1, 50)), Some(250)),
            (Some((9, 50)), None),
        ] {
            let point = left.map(|(n, offset)| (id(n), Offset(offset)));
            assert_eq!(tip.lacks(point), lacks, "{left:?}");
        }
        // A child that holds nothing yet.
        let bare = Tip {
            end: at(3, 200),
            ..tip
        };
        assert_eq!(bare.lacks(Some((id(2), Offset(200)))), None);
    }
}
