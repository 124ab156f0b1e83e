//! Which situation a Redis is in, and what is right to do. Pure, so that every row of the table is a test.
//!
//! | Redis is | it holds | the store holds | then |
//! |---|---|---|---|
//! | our replica | no keys | nothing | promote it |
//! | our replica | no keys | a history | take the lease on it, serve it, look again, promote |
//! | our replica | no keys | a history that another sidecar holds the lease on | wait; go on when that is not renewed |
//! | our replica | no keys | a history that went on in the Redis of the one that was waited for | end: superseded |
//! | our replica | keys, at a point that the store has | that point, or later | serve, then promote |
//! | our replica | keys, at a later point, or unknown | anything | promote it as it is, and capture it |
//! | a master | no keys, of no known history, or of an earlier point | a history | make it our replica, then serve |
//! | a master | anything else | anything | capture it |
//! | a master, restored from a history that goes on in another one ([`crate::archive::takeover`]) | anything | anything | store and acknowledge nothing: superseded |
//! | a replica of somebody else | – | – | leave it, and capture it as it is |

use crate::position::{Offset, Position, ReplId};

/// What a Redis that booted as our replica says with `PSYNC`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The history that it has.
    pub id: ReplId,
    /// Up to this offset.
    pub offset: Offset,
}

/// The latest that the store can give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tip {
    /// The last point that can be restored.
    pub end: Position,
    /// The histories before it, each with the offset where the next one left it.
    pub ancestors: Vec<Position>,
}

impl Tip {
    /// How far the line to the tip runs in `id`; `None` when it does not touch it.
    fn reaches(&self, id: ReplId) -> Option<Offset> {
        let line = std::iter::once(&self.end).chain(&self.ancestors);
        line.filter(|position| position.history == id)
            .map(|position| position.offset)
            .next()
    }
}

/// What to do with a Redis that is our replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replica {
    /// Give it what the store has, then promote it.
    Serve,
    /// Promote it as it is; the reason is for the log.
    Promote(&'static str),
}

/// A Redis that is our replica, with `keys` keys.
#[must_use]
pub fn replica(keys: u64, claim: Option<Claim>, tip: Option<&Tip>) -> Replica {
    let Some(tip) = tip else {
        return Replica::Promote(if keys == 0 {
            "the store is empty: nothing to restore"
        } else {
            "the store is empty, and Redis has data of its own: it is kept"
        });
    };
    let known = claim.map(|claim| (claim.offset, tip.reaches(claim.id)));
    match known {
        Some((has, Some(stored))) if has <= stored => Replica::Serve,
        Some((_, Some(_))) => Replica::Promote(
            "Redis has data of its own that goes beyond what is stored: it is kept, and captured anew",
        ),
        _ if keys == 0 => Replica::Serve,
        _ => Replica::Promote(
            "Redis has data of its own, and nothing proves it to be older than the store: it is kept, and captured anew. \
             (The stored history stays: `backfeed list` shows it)",
        ),
    }
}

/// What to do with a Redis that is a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Master {
    /// Follow it.
    Capture,
    /// It came up empty and unguarded, although there is data to restore.
    Restore,
}

/// Did a master with these ids, which has no keys, have everything that is stored, so that its emptiness is the application's
/// doing? `is_stored`: the store holds that history. One that has loaded an old RDB as it started has left the history that
/// it was in before the end that is stored.
#[must_use]
pub fn was_emptied(
    id: Option<ReplId>,
    left: Option<(ReplId, Offset)>,
    tip: &Tip,
    is_stored: impl Fn(ReplId) -> bool,
) -> bool {
    id.is_some_and(&is_stored)
        || left.is_some_and(|(id, at)| match tip.reaches(id) {
            Some(stored) => at >= stored,
            None => is_stored(id),
        })
}

/// A Redis that is a master, with `keys` keys. `of_known_history`: the store holds the history that it is in, so that its
/// emptiness is the application's doing ([`was_emptied`]).
#[must_use]
pub fn master(keys: u64, of_known_history: bool, tip: Option<&Tip>) -> Master {
    if keys == 0 && !of_known_history && tip.is_some() {
        Master::Restore
    } else {
        Master::Capture
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(n: u8) -> ReplId {
        ReplId::from_random([n; 20])
    }

    fn tip() -> Tip {
        let at = |n, offset| Position {
            history: id(n),
            offset: Offset(offset),
        };
        Tip {
            end: at(3, 300),
            ancestors: vec![at(2, 200), at(1, 100)],
        }
    }

    fn claim(n: u8, offset: u64) -> Option<Claim> {
        Some(Claim {
            id: id(n),
            offset: Offset(offset),
        })
    }

    #[test]
    fn a_replica_with_data_is_never_overwritten_with_something_older() {
        let tip = tip();
        let promoted =
            |keys, claim| matches!(replica(keys, claim, Some(&tip)), Replica::Promote(_));
        for (keys, claim, promote) in [
            (0, None, false),
            (0, claim(9, 1), false),
            (5, None, true),
            (5, claim(9, 1), true),
            (5, claim(3, 299), false),
            (5, claim(3, 300), false),
            (5, claim(3, 301), true),
            (0, claim(3, 301), true),
            (5, claim(2, 200), false),
            (5, claim(2, 201), true),
            (5, claim(1, 0), false),
        ] {
            assert_eq!(promoted(keys, claim), promote, "{keys} {claim:?}");
        }
        for keys in [0, 5] {
            assert!(matches!(
                replica(keys, claim(3, 1), None),
                Replica::Promote(_)
            ));
        }
    }

    #[test]
    fn an_empty_master_is_restored_unless_its_emptiness_is_known_history() {
        let tip = tip();
        assert_eq!(master(0, false, Some(&tip)), Master::Restore);
        assert_eq!(master(0, true, Some(&tip)), Master::Capture);
        assert_eq!(master(0, false, None), Master::Capture);
        assert_eq!(master(7, false, Some(&tip)), Master::Capture);
    }

    #[test]
    fn a_master_that_comes_up_with_an_older_point_was_not_emptied() {
        let tip = tip();
        let stored = |known: ReplId| (1..=4).map(id).any(|id| id == known);
        for (own, left, emptied) in [
            (9, None, false),
            (3, None, true),
            (9, Some((8, 5)), false),
            (9, Some((3, 299)), false),
            (9, Some((3, 300)), true),
            (9, Some((3, 301)), true),
            (9, Some((2, 199)), false),
            (9, Some((4, 1)), true),
        ] {
            let left = left.map(|(n, offset)| (id(n), Offset(offset)));
            let was = was_emptied(Some(id(own)), left, &tip, stored);
            assert_eq!(was, emptied, "{own} {left:?}");
        }
    }
}
