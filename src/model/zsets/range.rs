//! Ranges of a sorted set: by rank, by score, by the bytes of the members.

use std::ops::Bound;

use super::super::args::Args;
use super::super::error::ApplyError;
use super::super::lists::span;
use super::{Member, Ranked, Zset};
use crate::wire::rdb::number::lenient;

/// Which members are meant.
#[derive(Clone, Copy, Debug)]
pub(super) enum Range<'a> {
    /// From one rank to another, both inclusive. Negative ones count from the end.
    Rank(i64, i64),
    /// From one score to another.
    Score(Edge<f64>, Edge<f64>),
    /// From one member to another, among those of the same score.
    Lex(Option<Edge<&'a [u8]>>, Option<Edge<&'a [u8]>>),
    /// None.
    Nothing,
}

/// Where a range begins or ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge<T> {
    at: T,
    /// What is exactly there does not belong to it.
    open: bool,
}

/// Which part of a range is taken: `LIMIT`, and the side from which it counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pick {
    pub(super) reverse: bool,
    pub(super) skip: usize,
    pub(super) count: usize,
}

impl Pick {
    /// All of it.
    pub(super) const ALL: Self = Self {
        reverse: false,
        skip: 0,
        count: usize::MAX,
    };
}

impl<'a> Range<'a> {
    /// Arguments `min` and `max` as ranks.
    pub(super) fn by_rank(args: &Args<'a>, min: usize, max: usize) -> Result<Self, ApplyError> {
        Ok(Self::Rank(args.int(min)?, args.int(max)?))
    }

    /// Two scores: `5`, `(5`, `-inf`.
    pub(super) fn by_score(args: &Args<'a>, min: usize, max: usize) -> Result<Self, ApplyError> {
        let edge = |index| {
            let arg = args.get(index)?;
            let (text, open) = match arg.strip_prefix(b"(") {
                Some(text) => (text, true),
                None => (arg, false),
            };
            let at =
                lenient(text).ok_or_else(|| args.diverged("an end of the range is no number"))?;
            Ok(Edge { at, open })
        };
        Ok(Self::Score(edge(min)?, edge(max)?))
    }

    /// Two members: `[a`, `(a`, `-`, `+`.
    pub(super) fn by_lex(args: &Args<'a>, min: usize, max: usize) -> Result<Self, ApplyError> {
        let (low, high) = (Item::of(args, min)?, Item::of(args, max)?);
        Ok(match (low, high) {
            (Item::Last, _) | (_, Item::First) => Self::Nothing,
            (low, high) => Self::Lex(low.edge(), high.edge()),
        })
    }

    /// The members that are meant, in their order, or against it.
    pub(super) fn pick(
        &self,
        args: &Args,
        zset: &Zset,
        pick: Pick,
    ) -> Result<Vec<(Member, f64)>, ApplyError> {
        Ok(match self {
            Self::Nothing => Vec::new(),
            Self::Rank(start, stop) => by_rank(zset, *start, *stop, pick.reverse),
            Self::Score(min, max) => {
                let from = if min.open { min.at.next_up() } else { min.at };
                // Beyond the largest finite number there is infinity, and nothing beyond that.
                let to = match max {
                    Edge { at, open: true } => Bound::Excluded(Ranked::first(*at)),
                    Edge {
                        at: f64::INFINITY, ..
                    } => Bound::Unbounded,
                    Edge { at, .. } => Bound::Excluded(Ranked::first(at.next_up())),
                };
                if min.open && min.at == f64::INFINITY {
                    return Ok(Vec::new());
                }
                limited(zset.between(Bound::Included(Ranked::first(from)), to), pick)
            }
            Self::Lex(min, max) => by_lex(args, zset, *min, *max, pick)?,
        })
    }
}

/// An end of a range by bytes.
enum Item<'a> {
    First,
    Last,
    At(Edge<&'a [u8]>),
}

impl<'a> Item<'a> {
    fn of(args: &Args<'a>, index: usize) -> Result<Self, ApplyError> {
        match args.get(index)? {
            b"-" | [b'-', 0, ..] => Ok(Self::First),
            b"+" | [b'+', 0, ..] => Ok(Self::Last),
            [b'[', at @ ..] => Ok(Self::At(Edge { at, open: false })),
            [b'(', at @ ..] => Ok(Self::At(Edge { at, open: true })),
            _ => Err(args.diverged("an end of the range begins with none of [ ( - +")),
        }
    }

    fn edge(self) -> Option<Edge<&'a [u8]>> {
        match self {
            Self::At(edge) => Some(edge),
            Self::First | Self::Last => None,
        }
    }
}

fn limited<'z>(
    range: impl DoubleEndedIterator<Item = (&'z Member, f64)>,
    pick: Pick,
) -> Vec<(Member, f64)> {
    let owned = |(member, score): (&Member, f64)| (member.clone(), score);
    if pick.reverse {
        range
            .rev()
            .skip(pick.skip)
            .take(pick.count)
            .map(owned)
            .collect()
    } else {
        range.skip(pick.skip).take(pick.count).map(owned).collect()
    }
}

/// Walks from the nearer end, because the middle cannot be reached directly by rank.
fn by_rank(zset: &Zset, start: i64, stop: i64, reverse: bool) -> Vec<(Member, f64)> {
    let (skip, count) = span(start, stop, zset.len());
    let behind = zset.len().saturating_sub(skip.saturating_add(count));
    let (before, behind) = if reverse {
        (behind, skip)
    } else {
        (skip, behind)
    };
    let from_end = behind < before;
    let nearer = Pick {
        reverse: from_end,
        skip: if from_end { behind } else { before },
        count,
    };
    let mut picked = limited(zset.iter(), nearer);
    if from_end != reverse {
        picked.reverse();
    }
    picked
}

fn by_lex(
    args: &Args,
    zset: &Zset,
    min: Option<Edge<&[u8]>>,
    max: Option<Edge<&[u8]>>,
    pick: Pick,
) -> Result<Vec<(Member, f64)>, ApplyError> {
    let not_below = |member: &[u8]| {
        min.is_none_or(|edge| {
            if edge.open {
                member > edge.at
            } else {
                member >= edge.at
            }
        })
    };
    let not_above = |member: &[u8]| {
        max.is_none_or(|edge| {
            if edge.open {
                member < edge.at
            } else {
                member <= edge.at
            }
        })
    };
    let (first, last) = (zset.order.first(), zset.order.last());
    let (Some(first), Some(last)) = (first, last) else {
        return Ok(Vec::new());
    };
    if first.score == last.score {
        let bound = |edge: Option<Edge<&[u8]>>| match edge {
            None => Bound::Unbounded,
            Some(edge) => {
                let ranked = Ranked {
                    score: first.score,
                    member: edge.at.into(),
                };
                if edge.open {
                    Bound::Excluded(ranked)
                } else {
                    Bound::Included(ranked)
                }
            }
        };
        return Ok(limited(zset.between(bound(min), bound(max)), pick));
    }
    // Servers search as though the members were in order. If they are not, it depends on chance what is found.
    let mut stage = 0;
    for (member, _) in zset.iter() {
        let now = match (not_below(member), not_above(member)) {
            (false, true) => 0,
            (true, true) => 1,
            (true, false) => 2,
            (false, false) => 3,
        };
        if now < stage || now == 3 {
            return Err(args.unmodelled(
                "the members have different scores, and are not in the order of their bytes",
            ));
        }
        stage = now;
    }
    let within = zset
        .iter()
        .filter(|(member, _)| not_below(member) && not_above(member));
    Ok(limited(within, pick))
}
