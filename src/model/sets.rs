//! Sets.

use std::collections::HashSet;

use super::args::Args;
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::Keys;
use super::value::{DataType, Dialect, Raw, Value};
use super::{Blob, Keyspace, OVERHEAD};
use crate::wire::rdb::cursor::{BadValue, Cursor, canonical_i64, put_number, put_string};
use crate::wire::rdb::numbers::value_type;
use crate::wire::rdb::packed::{self, ListpackWriter};

/// The first RDB version with [`value_type::SET_LISTPACK`], of either family.
const FIRST_WITH_LISTPACK: u32 = 11;

/// Up to this many members, servers pack a set (their default `set-max-…` settings).
const MOST_IN_INTSET: usize = 512;
const MOST_IN_LISTPACK: usize = 128;
/// The longest member that they pack.
const LONGEST_IN_LISTPACK: usize = 64;

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("SADD", Keys::At(&[1]), sadd),
    Spec::new("SREM", Keys::At(&[1]), srem),
    Spec::new("SMOVE", Keys::At(&[1, 2]), smove),
    Spec::losing(
        "SPOP",
        Keys::At(&[1]),
        "it takes members at random, which the feed does not tell",
    ),
    Spec::new("SINTERSTORE", Keys::From { first: 1, step: 1 }, sinterstore),
    Spec::new("SUNIONSTORE", Keys::From { first: 1, step: 1 }, sunionstore),
    Spec::new("SDIFFSTORE", Keys::From { first: 1, step: 1 }, sdiffstore),
];

/// A set.
#[derive(Clone, Debug, Default)]
pub struct Set {
    members: HashSet<Blob>,
    /// The bytes of the members.
    bytes: usize,
}

impl Set {
    /// How many members it has.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The members, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Blob> {
        self.members.iter()
    }

    /// Is it a member?
    pub(super) fn has(&self, member: &[u8]) -> bool {
        self.members.contains(member)
    }

    /// Was it new?
    fn add(&mut self, member: Blob) -> bool {
        let length = member.len();
        let new = self.members.insert(member);
        if new {
            self.bytes = self.bytes.saturating_add(length);
        }
        new
    }

    /// Was it there?
    fn remove(&mut self, member: &[u8]) -> bool {
        let there = self.members.remove(member);
        if there {
            self.bytes = self.bytes.saturating_sub(member.len());
        }
        there
    }

    fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let bytes = &mut self.bytes;
        self.members.retain(|member| {
            let stays = keep(member);
            if !stays {
                *bytes = bytes.saturating_sub(member.len());
            }
            stays
        });
    }

    fn read(kind: u8, mut input: Cursor<'_>) -> Result<Self, BadValue> {
        let mut set = Self::default();
        let mut add = |member: Blob| {
            if set.add(member) {
                Ok(())
            } else {
                Err(BadValue("a member is there twice"))
            }
        };
        match kind {
            value_type::SET_INTSET => {
                for number in packed::intset(&input.string()?)? {
                    add(number.to_string().into_bytes().into())?;
                }
            }
            value_type::SET_LISTPACK => {
                for element in packed::listpack(&input.string()?)? {
                    add(element.to_bytes())?;
                }
            }
            _ => {
                for _ in 0..input.count()? {
                    add((&*input.string()?).into())?;
                }
            }
        }
        input.finish()?;
        Ok(set)
    }

    /// The members as integers, if servers keep them in an intset.
    fn numbers(&self) -> Option<Vec<i64>> {
        if self.members.len() > MOST_IN_INTSET {
            return None;
        }
        let numbers = self.members.iter().map(|member| canonical_i64(member));
        let mut numbers = numbers.collect::<Option<Vec<i64>>>()?;
        numbers.sort_unstable();
        Some(numbers)
    }
}

/// Appends an intset (PROTOCOL.md D.6) of ascending numbers.
fn put_intset(out: &mut Vec<u8>, numbers: &[i64]) {
    let all = |fits: fn(i64) -> bool| numbers.iter().all(|number| fits(*number));
    let width: u32 = if all(|number| i16::try_from(number).is_ok()) {
        2
    } else if all(|number| i32::try_from(number).is_ok()) {
        4
    } else {
        8
    };
    let mut blob = width.to_le_bytes().to_vec();
    blob.extend_from_slice(&(numbers.len() as u32).to_le_bytes());
    for number in numbers {
        // The low bytes, which in two's complement are the number itself.
        blob.extend(number.to_le_bytes().iter().take(width as usize));
    }
    put_string(out, &blob);
}

impl DataType for Set {
    fn decode(raw: &Raw, _: Dialect) -> Option<Result<Self, BadValue>> {
        matches!(
            raw.kind,
            value_type::SET | value_type::SET_INTSET | value_type::SET_LISTPACK
        )
        .then(|| Self::read(raw.kind, Cursor::new(&raw.payload)))
    }

    fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> u8 {
        if let Some(numbers) = self.numbers() {
            put_intset(out, &numbers);
            return value_type::SET_INTSET;
        }
        if dialect.version >= FIRST_WITH_LISTPACK
            && self.members.len() <= MOST_IN_LISTPACK
            && self
                .members
                .iter()
                .all(|member| member.len() <= LONGEST_IN_LISTPACK)
        {
            let mut members: Vec<&Blob> = self.members.iter().collect();
            members.sort_unstable();
            let mut listpack = ListpackWriter::new();
            for member in members {
                listpack.push(member);
            }
            put_string(out, &listpack.finish());
            return value_type::SET_LISTPACK;
        }
        put_number(out, self.members.len() as u64);
        for member in &self.members {
            put_string(out, member);
        }
        value_type::SET
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Set(value) => Some(value),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Set(Box::new(self))
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    fn weight(&self) -> usize {
        let overhead = self.members.len().saturating_mul(OVERHEAD);
        self.bytes.saturating_add(overhead)
    }
}

/// `SADD key member …`
fn sadd(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    args.get(2)?;
    let set: &mut Set = space.value_or_new(args, args.get(1)?)?;
    for member in args.from(2) {
        if !set.has(member) {
            set.add((*member).into());
        }
    }
    Ok(())
}

/// `SREM key member …`
fn srem(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let key = args.get(1)?;
    let Some(set) = space.value::<Set>(args, key)? else {
        return Ok(());
    };
    for member in args.from(2) {
        set.remove(member);
    }
    space.drop_if_empty(key)
}

/// `SMOVE source destination member`
fn smove(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (source, destination, member) = (args.get(1)?, args.get(2)?, args.get(3)?);
    if space.value::<Set>(args, source)?.is_none() {
        return Ok(());
    }
    // It may be of another type, which is found before anything is moved.
    space.value::<Set>(args, destination)?;
    if source == destination {
        return Ok(());
    }
    let from: Option<&mut Set> = space.value(args, source)?;
    if !from.is_some_and(|set| set.remove(member)) {
        return Ok(());
    }
    space.drop_if_empty(source)?;
    let to: &mut Set = space.value_or_new(args, destination)?;
    to.add(member.into());
    Ok(())
}

/// The keys of the sets that go in, at least one.
fn sources<'a>(args: &Args<'a>) -> Result<&'a [&'a [u8]], ApplyError> {
    args.get(2)?;
    Ok(args.from(2))
}

/// `SINTERSTORE destination key …`
fn sinterstore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let keys = sources(args)?;
    let mut smallest: Option<(usize, &[u8])> = None;
    for key in keys {
        let Some(set) = space.value::<Set>(args, key)? else {
            // Servers differ in whether they look at the types of those behind it.
            space.remove(args, args.get(1)?)?;
            return Ok(());
        };
        if smallest.is_none_or(|(least, _)| set.len() < least) {
            smallest = Some((set.len(), key));
        }
    }
    let mut result = match smallest {
        Some((_, key)) => space.value::<Set>(args, key)?.cloned().unwrap_or_default(),
        None => Set::default(),
    };
    for key in keys {
        if let Some(set) = space.value::<Set>(args, key)? {
            result.retain(|member| set.has(member));
        }
    }
    space.put(args, args.get(1)?, result.into_value())
}

/// `SUNIONSTORE destination key …`
fn sunionstore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let mut result = Set::default();
    for key in sources(args)? {
        if let Some(set) = space.value::<Set>(args, key)? {
            for member in set.iter() {
                if !result.has(member) {
                    result.add(member.clone());
                }
            }
        }
    }
    space.put(args, args.get(1)?, result.into_value())
}

/// `SDIFFSTORE destination key …`: the first without the others.
fn sdiffstore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let first: Option<&mut Set> = space.value(args, args.get(2)?)?;
    let mut result = first.cloned().unwrap_or_default();
    for key in args.from(3) {
        let Some(set) = space.value::<Set>(args, key)? else {
            continue;
        };
        if set.len() < result.len() {
            for member in set.iter() {
                result.remove(member);
            }
        } else {
            result.retain(|member| !set.has(member));
        }
    }
    space.put(args, args.get(1)?, result.into_value())
}

#[cfg(test)]
#[path = "sets_tests.rs"]
mod tests;
