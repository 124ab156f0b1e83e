//! Which situation a Redis is in, and what to do. Pure, so every row of the table is a test.
//!
//! | Redis is | it holds | the store holds | then |
//! |---|---|---|---|
//! | our replica | no keys, no functions | nothing | store an empty base, serve that, then promote |
//! | our replica | only functions | nothing | promote it |
//! | our replica | no keys | a history | take the lease on it, serve it, look again, promote |
//! | our replica | no keys | a history that another sidecar holds the lease on | wait; continue when the lease is not renewed |
//! | our replica | no keys | a history that the Redis of the other sidecar continues | end: superseded |
//! | our replica | keys, at a point that the store has | that point, or later | serve, then promote |
//! | our replica | no keys, at a later point of a history that goes on without that | a history | take the lease on it, serve it, look again, promote |
//! | our replica | keys, at a later point, or unknown | anything | promote it as it is, and look at it as a master |
//! | a master | no keys, of no known history, or of an earlier point | a history | make it our replica, then serve |
//! | a master | what an earlier point had, and nothing written since | a history | make it our replica, then serve |
//! | a master | the same, and it was written to, or had more at that point than is stored of it | a history | `--when-behind` decides |
//! | a master | next to nothing, of no known history | a history | `--when-behind` decides |
//! | a master | anything else | anything | capture it |
//! | a master, restored from a history that another one continues ([`crate::archive::takeover`]) | anything | anything | store and acknowledge nothing: superseded |
//! | a replica of another server | – | – | leave it, and capture it as it is |

pub use crate::archive::Tip;
use crate::wire::position::{Offset, ReplId};

/// What a Redis that booted as our replica says with `PSYNC`, or else of what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The history that it has.
    pub id: ReplId,
    /// Up to this offset.
    pub offset: Offset,
}

impl Claim {
    /// If a full sync broke off before it was loaded, a Redis asks for everything, and still has what it was given before. Then its
    /// `INFO` tells where that stands.
    #[must_use]
    pub fn or_held(said: Option<Self>, keys: u64, held: Option<Self>) -> Option<Self> {
        said.or(held.filter(|_| keys > 0))
    }
}

/// The history that a server left when it was promoted, or when it loaded an RDB as a master, and the offset.
pub type Left = Option<(ReplId, Offset)>;

/// What to do with a Redis that is our replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Replica {
    /// Give it what the store has, then promote it.
    Serve,
    /// Promote it as it is; the reason is for the log.
    Promote(&'static str),
}

/// A Redis that is our replica, with `keys` keys. `given_up`: its data are replaced, whatever they are.
#[must_use]
pub fn replica(
    keys: u64,
    claim: Option<Claim>,
    left: Left,
    given_up: bool,
    tip: Option<&Tip>,
) -> Replica {
    let Some(tip) = tip else {
        return Replica::Promote(if keys == 0 {
            "the store is empty: nothing to restore"
        } else {
            "the store is empty, and Redis has data of its own: it is captured as it is"
        });
    };
    let known = claim.map(|claim| (claim.offset, tip.knows(claim.id)));
    match known {
        Some((has, Some(stored))) if has <= stored => Replica::Serve,
        // An empty one that lacks what came after it left the line. As a master it would be restored too.
        Some((_, Some(_)))
            if (keys == 0 || given_up)
                && tip
                    .lacks(claim.map(|claim| (claim.id, claim.offset)))
                    .is_some() =>
        {
            Replica::Serve
        }
        Some((_, Some(_))) => Replica::Promote(
            "Redis has data of its own that goes beyond what is stored: it is captured as it is",
        ),
        _ if keys == 0 || given_up => Replica::Serve,
        _ if is_older(tip, left, claim.map(|claim| claim.offset)) => Replica::Serve,
        _ => Replica::Promote(
            "Redis has data of its own, and nothing proves it to be older than the store: it is captured as it is. The \
             stored history stays: `backfeed list` shows it",
        ),
    }
}

/// What to do with a Redis that is a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Master {
    /// Follow it.
    Capture,
    /// It came up empty and unguarded, or from an older snapshot, although there is data to restore.
    Restore,
    /// It lacks this many bytes of the store, and has been written to: an operator has to decide.
    Behind(u64),
}

/// What a Redis that is a master says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Keys in all databases.
    pub keys: u64,
    /// The store holds the history that it is in.
    pub of_known_history: bool,
    /// Where it came from.
    pub left: Left,
    /// How far its feed has come.
    pub offset: Option<Offset>,
}

/// Is all that it has stored, and more? Nothing was written since it left the history before (an offset that went on counts as
/// written), and what it had of that is stored.
fn is_older(tip: &Tip, left: Left, offset: Option<Offset>) -> bool {
    let is_unwritten = left.is_some_and(|(_, at)| offset == Some(at));
    is_unwritten && tip.lacks(left).is_some() && !tip.is_beyond(left)
}

/// Did a master with these ids, which has no keys, have everything that is stored? Then the application has deleted the
/// keys. `is_stored`: the store holds that history. A master that loaded an old RDB at its start has left the earlier
/// history before the end that is stored.
#[must_use]
pub fn was_emptied(
    id: Option<ReplId>,
    left: Left,
    tip: &Tip,
    is_stored: impl Fn(ReplId) -> bool,
) -> bool {
    let came_with_all = |(id, _)| tip.reaches(id).is_some() || is_stored(id);
    id.is_some_and(&is_stored) || (tip.lacks(left).is_none() && left.is_some_and(came_with_all))
}

/// A Redis that is a master. `emptied`: what it lacks is the application's doing ([`was_emptied`]).
#[must_use]
pub fn master(held: Held, emptied: bool, tip: Option<&Tip>) -> Master {
    let Some(tip) = tip.filter(|_| !held.of_known_history) else {
        return Master::Capture;
    };
    if held.keys == 0 && !emptied {
        return Master::Restore;
    }
    match tip.lacks(held.left) {
        Some(_) if is_older(tip, held.left, held.offset) => Master::Restore,
        Some(lacks) => Master::Behind(lacks),
        None => Master::Capture,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::position::Position;

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
            replaced: BTreeMap::from([(id(5), Offset(70))]),
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
        let promoted = |keys, claim| {
            matches!(
                replica(keys, claim, None, false, Some(&tip)),
                Replica::Promote(_)
            )
        };
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
            (0, claim(2, 201), false),
            (0, claim(5, 71), false),
            (5, claim(1, 0), false),
            (5, claim(5, 70), false),
            (5, claim(5, 71), true),
        ] {
            assert_eq!(promoted(keys, claim), promote, "{keys} {claim:?}");
        }
        // From an older snapshot, as a master, and told to become our replica.
        for (history, left, at, serve) in [
            (3, 299, 299, true),
            (3, 299, 300, false),
            (3, 300, 300, false),
            (2, 201, 201, false),
        ] {
            let left = Some((id(history), Offset(left)));
            let promoted = replica(5, claim(9, at), left, false, Some(&tip));
            assert_eq!(promoted == Replica::Serve, serve, "{left:?} {at}");
            let given_up = replica(5, claim(9, at), left, true, Some(&tip));
            assert_eq!(given_up, Replica::Serve);
        }
        for keys in [0, 5] {
            assert!(matches!(
                replica(keys, claim(3, 1), None, true, None),
                Replica::Promote(_)
            ));
        }
    }

    #[test]
    fn a_replica_that_asks_for_everything_is_judged_by_what_it_holds() {
        let tip = tip();
        assert_eq!(Claim::or_held(claim(3, 7), 5, claim(3, 9)), claim(3, 7));
        assert_eq!(Claim::or_held(None, 0, claim(3, 9)), None);
        for (history, offset, serve) in [(3, 300, true), (3, 301, false), (9, 1, false)] {
            let held = Claim::or_held(None, 5, claim(history, offset));
            let replica = replica(5, held, None, false, Some(&tip));
            assert_eq!(replica == Replica::Serve, serve, "{history} {offset}");
        }
    }

    #[test]
    fn an_empty_master_is_restored_unless_its_emptiness_is_known_history() {
        let tip = tip();
        let held = |keys, of_known_history| Held {
            keys,
            of_known_history,
            left: None,
            offset: Some(Offset(7)),
        };
        assert_eq!(master(held(0, false), false, Some(&tip)), Master::Restore);
        assert_eq!(master(held(0, false), true, Some(&tip)), Master::Capture);
        assert_eq!(master(held(0, true), true, Some(&tip)), Master::Capture);
        assert_eq!(master(held(0, false), false, None), Master::Capture);
        assert_eq!(master(held(7, false), false, Some(&tip)), Master::Capture);
    }

    #[test]
    fn a_master_from_an_older_snapshot_is_restored_unless_it_was_written_to() {
        let tip = tip();
        for (left, offset, wanted) in [
            ((3, 299), 299, Master::Restore),
            ((3, 290), 299, Master::Behind(10)),
            ((2, 200), 200, Master::Restore),
            ((3, 300), 350, Master::Capture),
            ((2, 201), 201, Master::Behind(100)),
            ((5, 70), 70, Master::Restore),
            ((5, 71), 71, Master::Behind(300)),
            ((9, 10), 10, Master::Capture),
        ] {
            let held = |of_known_history| Held {
                keys: 5,
                of_known_history,
                left: Some((id(left.0), Offset(left.1))),
                offset: Some(Offset(offset)),
            };
            assert_eq!(master(held(false), false, Some(&tip)), wanted, "{left:?}");
            assert_eq!(master(held(true), false, Some(&tip)), Master::Capture);
        }
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
            (9, Some((2, 200)), false),
            (9, Some((2, 201)), false),
            (9, Some((4, 1)), true),
        ] {
            let left = left.map(|(n, offset)| (id(n), Offset(offset)));
            let was = was_emptied(Some(id(own)), left, &tip, stored);
            assert_eq!(was, emptied, "{own} {left:?}");
        }
    }
}
