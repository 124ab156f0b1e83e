//! Commands that make a sorted set of others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::super::args::{Args, is_word};
use super::super::command::Spec;
use super::super::error::ApplyError;
use super::super::key_specs::{Keys, Touch};
use super::super::{DataType as _, Keyspace, Set, Value};
use super::range::{Pick, Range};
use super::{MOST_PACKED, Member, Zset};
use crate::wire::rdb::number::number;

/// `Z…STORE destination numkeys key …`
const KEYS: Keys = Keys::Counted {
    count: 2,
    also: &[1],
};

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("ZRANGESTORE", Keys::By(touched), zrangestore),
    Spec::new("ZUNIONSTORE", KEYS, zunionstore),
    Spec::new("ZINTERSTORE", KEYS, zinterstore),
    Spec::new("ZDIFFSTORE", KEYS, zdiffstore),
];

/// `min max [BYSCORE|BYLEX] [REV] [LIMIT offset count]`, from argument 3 on.
fn read_range<'a>(args: &Args<'a>) -> Result<(Range<'a>, Pick), ApplyError> {
    let (mut by_score, mut by_lex, mut reverse) = (false, false, false);
    let (mut offset, mut count) = (0, -1);
    let mut index = 5;
    while index < args.len() {
        match args.get(index)? {
            word if is_word(word, "BYSCORE") && !by_lex => by_score = true,
            word if is_word(word, "BYLEX") && !by_score => by_lex = true,
            word if is_word(word, "REV") => reverse = true,
            word if is_word(word, "LIMIT") => {
                offset = args.int(index.saturating_add(1))?;
                index = index.saturating_add(2);
                count = args.int(index)?;
            }
            _ => return Err(args.diverged("it has arguments that do not belong there")),
        }
        index = index.saturating_add(1);
    }
    // In reverse, the range is given from its upper end.
    let (min, max) = if reverse { (4, 3) } else { (3, 4) };
    let range = if by_score {
        Range::by_score(args, min, max)?
    } else if by_lex {
        Range::by_lex(args, min, max)?
    } else {
        Range::by_rank(args, 3, 4)?
    };
    let skip = usize::try_from(offset)
        .map_err(|_| args.unmodelled("its offset is negative, which versions take differently"))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Ok((
        range,
        Pick {
            reverse,
            skip,
            count,
        },
    ))
}

/// The first pass finds already what cannot be applied.
fn touched(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    read_range(args)?;
    touch(Touch::Key(args.get(1)?));
    touch(Touch::Key(args.get(2)?));
    Ok(())
}

/// `ZRANGESTORE destination source min max …`
fn zrangestore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (range, pick) = read_range(args)?;
    let dialect = space.dialect();
    let picked = match space.value::<Zset>(args, args.get(2)?)? {
        Some(zset) => range.pick(args, zset, pick)?,
        None => Vec::new(),
    };
    let mut result = Zset::default();
    if let Range::Rank(..) = range {
        // Here they know beforehand how many come.
        result.packed = picked.len() <= MOST_PACKED;
    }
    for (member, score) in picked {
        result.add_new(member, score, dialect);
    }
    space.put(args, args.get(1)?, result.into_value())
}

/// How scores of one member become one.
#[derive(Clone, Copy, Debug)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, so_far: f64, score: f64) -> f64 {
        match self {
            Self::Sum => zero_if_nan(so_far + score),
            Self::Min if score < so_far => score,
            Self::Max if score > so_far => score,
            Self::Min | Self::Max => so_far,
        }
    }
}

/// `inf` and `-inf` together are nothing.
fn zero_if_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// One of the sets that go in.
#[derive(Clone, Copy, Debug)]
struct SourceKey<'a> {
    key: &'a [u8],
    members: usize,
    weight: f64,
}

struct Operation<'a> {
    sources: Vec<SourceKey<'a>>,
    aggregate: Aggregate,
}

impl<'a> Operation<'a> {
    /// `destination numkeys key … [WEIGHTS weight …] [AGGREGATE SUM|MIN|MAX]`
    fn read(space: &mut Keyspace, args: &Args<'a>) -> Result<Self, ApplyError> {
        let count = args.count(2)?;
        let keys = args.from(3).get(..count).unwrap_or_default();
        if keys.is_empty() {
            return Err(args.diverged("it has no keys"));
        }
        let mut sources = Vec::with_capacity(count);
        for key in keys {
            let members = Input::of(space, args, key)?.map_or(0, |input| input.len());
            sources.push(SourceKey {
                key,
                members,
                weight: 1.0,
            });
        }
        let mut aggregate = Aggregate::Sum;
        let mut index = count.saturating_add(3);
        while index < args.len() {
            match args.get(index)? {
                word if is_word(word, "WEIGHTS") => {
                    for source in &mut sources {
                        index = index.saturating_add(1);
                        source.weight = number(args.get(index)?)
                            .ok_or_else(|| args.diverged("a weight is no number"))?;
                    }
                }
                word if is_word(word, "AGGREGATE") => {
                    index = index.saturating_add(1);
                    aggregate = match args.get(index)? {
                        word if is_word(word, "SUM") => Aggregate::Sum,
                        word if is_word(word, "MIN") => Aggregate::Min,
                        word if is_word(word, "MAX") => Aggregate::Max,
                        _ => {
                            return Err(args.unmodelled("it aggregates in a way that is not known"));
                        }
                    };
                }
                _ => return Err(args.diverged("it has arguments that do not belong there")),
            }
            index = index.saturating_add(1);
        }
        Ok(Self { sources, aggregate })
    }

    /// Servers begin with the smallest. Sums of three doubles depend on the order. If sizes are equal, glibc, which
    /// nearly all servers use, leaves the sources in the given order.
    fn smallest_first(mut self) -> Self {
        self.sources.sort_by_key(|source| source.members);
        self
    }
}

/// A set that goes in: a sorted one, or a plain one, whose members count 1 each.
enum Input<'s> {
    Sorted(&'s Zset),
    Plain(&'s Set),
}

impl<'s> Input<'s> {
    fn of(space: &'s mut Keyspace, args: &Args, key: &[u8]) -> Result<Option<Self>, ApplyError> {
        match space.decoded(args, key)? {
            None => Ok(None),
            Some(Value::Zset(zset)) => Ok(Some(Self::Sorted(zset))),
            Some(Value::Set(set)) => Ok(Some(Self::Plain(set))),
            Some(_) => Err(args.diverged("a key holds a value of another type")),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Sorted(zset) => zset.len(),
            Self::Plain(set) => set.len(),
        }
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Sorted(zset) => zset.score(member),
            Self::Plain(set) => set.has(member).then_some(1.0),
        }
    }

    fn members(&self) -> Vec<(Member, f64)> {
        match self {
            Self::Sorted(zset) => zset
                .iter()
                .map(|(member, score)| (member.clone(), score))
                .collect(),
            Self::Plain(set) => set
                .iter()
                .map(|member| (Member::from(&**member), 1.0))
                .collect(),
        }
    }
}

fn members_of(
    space: &mut Keyspace,
    args: &Args,
    key: &[u8],
) -> Result<Vec<(Member, f64)>, ApplyError> {
    let input = Input::of(space, args, key)?;
    Ok(input.map_or_else(Vec::new, |input| input.members()))
}

fn store(space: &mut Keyspace, args: &Args, members: Vec<(Member, f64)>) -> Result<(), ApplyError> {
    let zset = Zset::stored(members, space.dialect());
    space.put(args, args.get(1)?, zset.into_value())
}

fn zunionstore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let operation = Operation::read(space, args)?.smallest_first();
    let mut result: HashMap<Member, f64> = HashMap::new();
    for source in &operation.sources {
        for (member, score) in members_of(space, args, source.key)? {
            let score = zero_if_nan(source.weight * score);
            match result.entry(member) {
                Entry::Vacant(vacant) => {
                    vacant.insert(score);
                }
                Entry::Occupied(mut there) => {
                    let score = operation.aggregate.of(*there.get(), score);
                    there.insert(score);
                }
            }
        }
    }
    store(space, args, result.into_iter().collect())
}

fn zinterstore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let operation = Operation::read(space, args)?.smallest_first();
    let mut result = Vec::new();
    let mut sources = operation.sources.iter();
    if let Some(source) = sources.next() {
        result = members_of(space, args, source.key)?;
        for (_, score) in &mut result {
            *score = zero_if_nan(source.weight * *score);
        }
    }
    for source in sources {
        let Some(input) = Input::of(space, args, source.key)? else {
            result.clear();
            break;
        };
        result.retain_mut(|(member, so_far)| {
            let score = input.score(member);
            if let Some(score) = score {
                *so_far = operation.aggregate.of(*so_far, score * source.weight);
            }
            score.is_some()
        });
    }
    store(space, args, result)
}

fn zdiffstore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let operation = Operation::read(space, args)?;
    let mut sources = operation.sources.iter();
    let Some(first) = sources.next() else {
        return Ok(());
    };
    let mut result: HashMap<Member, f64> =
        members_of(space, args, first.key)?.into_iter().collect();
    for source in sources {
        let Some(input) = Input::of(space, args, source.key)? else {
            continue;
        };
        if input.len() < result.len() {
            match input {
                Input::Sorted(zset) => zset.iter().for_each(|(member, _)| {
                    result.remove(member);
                }),
                Input::Plain(set) => set.iter().for_each(|member| {
                    result.remove(&**member);
                }),
            }
        } else {
            result.retain(|member, _| input.score(member).is_none());
        }
    }
    store(space, args, result.into_iter().collect())
}
