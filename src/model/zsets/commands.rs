//! Commands that change a sorted set in place.

use super::super::Keyspace;
use super::super::args::{Args, is_word};
use super::super::command::Spec;
use super::super::error::ApplyError;
use super::super::key_specs::Keys;
use super::super::pop::{self, Ends};
use super::range::{Pick, Range};
use super::{LONGEST_PACKED, MOST_PACKED, Zset};
use crate::wire::rdb::number::number;

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("ZADD", Keys::At(&[1]), zadd),
    Spec::new("ZINCRBY", Keys::At(&[1]), zincrby),
    Spec::new("ZREM", Keys::At(&[1]), zrem),
    Spec::new("ZREMRANGEBYRANK", Keys::At(&[1]), zremrangebyrank),
    Spec::new("ZREMRANGEBYSCORE", Keys::At(&[1]), zremrangebyscore),
    Spec::new("ZREMRANGEBYLEX", Keys::At(&[1]), zremrangebylex),
    Spec::new("ZPOPMIN", Keys::At(&[1]), |space, args| {
        pop::of_one::<Zset>(space, args, End::Min)
    }),
    Spec::new("ZPOPMAX", Keys::At(&[1]), |space, args| {
        pop::of_one::<Zset>(space, args, End::Max)
    }),
    // All servers in scope rewrite the following commands. A program between them and us may still send them as they
    // were.
    Spec::new("BZPOPMIN", Keys::By(pop::all_but_last), |space, args| {
        pop::blocking::<Zset>(space, args, End::Min)
    }),
    Spec::new("BZPOPMAX", Keys::By(pop::all_but_last), |space, args| {
        pop::blocking::<Zset>(space, args, End::Max)
    }),
    Spec::new(
        "ZMPOP",
        Keys::Counted {
            count: 1,
            also: &[],
        },
        |space, args| pop::of_many::<Zset>(space, args, 1),
    ),
    Spec::new(
        "BZMPOP",
        Keys::Counted {
            count: 2,
            also: &[],
        },
        |space, args| pop::of_many::<Zset>(space, args, 2),
    ),
];

/// From this RDB version on, servers look at how many members come before they decide whether to pack the first.
/// (Valkey also looks at the longest.)
const FIRST_WITH_HINT: u32 = 11;

/// When a score is set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions {
    pub(crate) only_new: bool,
    pub(crate) only_there: bool,
    greater: bool,
    less: bool,
    increment: bool,
}

/// `ZADD key [NX|XX] [GT|LT] [CH] [INCR] score member …`
fn zadd(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let mut when = Conditions::default();
    let mut first = 2;
    loop {
        match args.get(first)? {
            word if is_word(word, "NX") => when.only_new = true,
            word if is_word(word, "XX") => when.only_there = true,
            word if is_word(word, "GT") => when.greater = true,
            word if is_word(word, "LT") => when.less = true,
            word if is_word(word, "INCR") => when.increment = true,
            word if is_word(word, "CH") => {} // It only changes the reply.
            _ => break,
        }
        first = first.saturating_add(1);
    }
    let mut members = Vec::with_capacity(args.from(first).len() / 2);
    for (score, member) in args.pairs(first)? {
        members.push((score_of(args, score)?, member));
    }
    add(space, args, when, &members)
}

/// `ZINCRBY key increment member`
fn zincrby(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let when = Conditions {
        increment: true,
        ..Conditions::default()
    };
    add(
        space,
        args,
        when,
        &[(score_of(args, args.get(2)?)?, args.get(3)?)],
    )
}

fn score_of(args: &Args, text: &[u8]) -> Result<f64, ApplyError> {
    number(text).ok_or_else(|| args.diverged("a score is no number"))
}

/// Adds members with their scores to the sorted set at argument 1.
pub(crate) fn add(
    space: &mut Keyspace,
    args: &Args,
    when: Conditions,
    members: &[(f64, &[u8])],
) -> Result<(), ApplyError> {
    let Conditions {
        only_new,
        only_there,
        greater,
        less,
        increment,
    } = when;
    let excluded = only_new && (only_there || greater || less) || greater && less;
    if members.is_empty() || excluded || increment && members.len() != 1 {
        return Err(args.diverged("its options contradict each other"));
    }
    let key = args.get(1)?;
    let (dialect, is_valkey) = (space.dialect(), space.is_valkey());
    if only_there && space.entry(key)?.is_none() {
        return Ok(());
    }
    let zset: &mut Zset = space.value_or_new(args, key)?;
    let longest = members.iter().map(|(_, member)| member.len()).max();
    zset.packed &= (dialect.version < FIRST_WITH_HINT || members.len() <= MOST_PACKED)
        && (!is_valkey || longest.unwrap_or(0) <= LONGEST_PACKED);
    for (score, member) in members {
        let old = zset.score(member);
        if if old.is_some() { only_new } else { only_there } {
            continue;
        }
        let new = if increment {
            old.map_or(*score, |old| score + old)
        } else {
            *score
        };
        if new.is_nan() {
            return Err(args.diverged("the score is not a number"));
        }
        let refused = old.is_some_and(|old| greater && new <= old || less && new >= old);
        if !refused {
            zset.set(member, new, dialect);
        }
    }
    space.drop_if_empty(key)
}

/// `ZREM key member …`
fn zrem(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let key = args.get(1)?;
    let Some(zset) = space.value::<Zset>(args, key)? else {
        return Ok(());
    };
    for member in args.from(2) {
        zset.remove(member);
    }
    space.drop_if_empty(key)
}

fn zremrangebyrank(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    remove_range(space, args, Range::by_rank(args, 2, 3)?)
}

fn zremrangebyscore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    remove_range(space, args, Range::by_score(args, 2, 3)?)
}

fn zremrangebylex(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    remove_range(space, args, Range::by_lex(args, 2, 3)?)
}

fn remove_range(space: &mut Keyspace, args: &Args, range: Range<'_>) -> Result<(), ApplyError> {
    let key = args.get(1)?;
    let Some(zset) = space.value::<Zset>(args, key)? else {
        return Ok(());
    };
    for (member, _) in range.pick(args, zset, Pick::ALL)? {
        zset.remove(&member);
    }
    space.drop_if_empty(key)
}

/// An end of a sorted set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Min,
    Max,
}

impl Ends for Zset {
    type End = End;

    fn end_of(args: &Args, index: usize) -> Result<End, ApplyError> {
        match args.get(index)? {
            word if is_word(word, "MIN") => Ok(End::Min),
            word if is_word(word, "MAX") => Ok(End::Max),
            _ => Err(args.diverged("it says neither MIN nor MAX")),
        }
    }

    fn pop(&mut self, end: End) {
        let ranked = match end {
            End::Min => self.order.first(),
            End::Max => self.order.last(),
        };
        if let Some(member) = ranked.map(|ranked| ranked.member.clone()) {
            self.remove(&member);
        }
    }

    fn len(&self) -> usize {
        Zset::len(self)
    }
}
