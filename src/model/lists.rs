//! Lists.

use std::collections::VecDeque;

use super::args::{Args, is_word};
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::Keys;
use super::pop::{self, Ends};
use super::value::{DataType, Dialect, Raw, Value};
use super::{Blob, Keyspace, OVERHEAD};
use crate::wire::rdb::cursor::{BadValue, Cursor, put_number, put_string};
use crate::wire::rdb::numbers::value_type;
use crate::wire::rdb::packed::{self, Element};

/// How a node of [`value_type::LIST_QUICKLIST_2`] holds elements: one as it is, or several in a listpack.
const NODE_PLAIN: u64 = 1;
const NODE_PACKED: u64 = 2;

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("LPUSH", Keys::At(&[1]), lpush),
    Spec::new("RPUSH", Keys::At(&[1]), rpush),
    Spec::new("LPUSHX", Keys::At(&[1]), lpushx),
    Spec::new("RPUSHX", Keys::At(&[1]), rpushx),
    Spec::new("LPOP", Keys::At(&[1]), |space, args| {
        pop::of_one::<List>(space, args, End::Left)
    }),
    Spec::new("RPOP", Keys::At(&[1]), |space, args| {
        pop::of_one::<List>(space, args, End::Right)
    }),
    Spec::new("LINSERT", Keys::At(&[1]), linsert),
    Spec::new("LSET", Keys::At(&[1]), lset),
    Spec::new("LREM", Keys::At(&[1]), lrem),
    Spec::new("LTRIM", Keys::At(&[1]), ltrim),
    Spec::new("LMOVE", Keys::At(&[1, 2]), lmove),
    Spec::new("RPOPLPUSH", Keys::At(&[1, 2]), rpoplpush),
    // All servers in scope rewrite the following commands. A program between them and us may still send them as they
    // were.
    Spec::new("BLPOP", Keys::By(pop::all_but_last), |space, args| {
        pop::blocking::<List>(space, args, End::Left)
    }),
    Spec::new("BRPOP", Keys::By(pop::all_but_last), |space, args| {
        pop::blocking::<List>(space, args, End::Right)
    }),
    Spec::new("BLMOVE", Keys::At(&[1, 2]), lmove),
    Spec::new("BRPOPLPUSH", Keys::At(&[1, 2]), rpoplpush),
    Spec::new(
        "LMPOP",
        Keys::Counted {
            count: 1,
            also: &[],
        },
        |space, args| pop::of_many::<List>(space, args, 1),
    ),
    Spec::new(
        "BLMPOP",
        Keys::Counted {
            count: 2,
            also: &[],
        },
        |space, args| pop::of_many::<List>(space, args, 2),
    ),
];

/// A list.
#[derive(Clone, Debug, Default)]
pub struct List {
    elements: VecDeque<Blob>,
    /// The bytes of the elements.
    bytes: usize,
}

/// An end of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Left,
    Right,
}

impl List {
    /// The elements from left to right.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Blob> + ExactSizeIterator {
        self.elements.iter()
    }

    /// Appends at the right.
    pub(super) fn append(&mut self, element: Blob) {
        self.push(End::Right, element);
    }

    fn push(&mut self, end: End, element: Blob) {
        self.bytes = self.bytes.saturating_add(element.len());
        match end {
            End::Left => self.elements.push_front(element),
            End::Right => self.elements.push_back(element),
        }
    }

    fn take(&mut self, end: End) -> Option<Blob> {
        let popped = match end {
            End::Left => self.elements.pop_front(),
            End::Right => self.elements.pop_back(),
        };
        self.bytes = self
            .bytes
            .saturating_sub(popped.as_ref().map_or(0, |element| element.len()));
        popped
    }

    fn append_all(&mut self, elements: &[Element<'_>]) {
        for element in elements {
            self.append(element.to_bytes());
        }
    }

    /// The position that an index means. Negative ones count from the right.
    fn place(&self, index: i64) -> Option<usize> {
        if index >= 0 {
            usize::try_from(index)
                .ok()
                .filter(|index| *index < self.elements.len())
        } else {
            let back = usize::try_from(index.unsigned_abs()).ok()?;
            self.elements.len().checked_sub(back)
        }
    }

    fn read(kind: u8, mut input: Cursor<'_>) -> Result<Self, BadValue> {
        let mut list = Self::default();
        match kind {
            value_type::LIST_ZIPLIST => list.append_all(&packed::ziplist(&input.string()?)?),
            _ => {
                for _ in 0..input.count()? {
                    let container = if kind == value_type::LIST_QUICKLIST_2 {
                        input.number()?
                    } else {
                        NODE_PACKED
                    };
                    let string = input.string()?;
                    match (kind, container) {
                        (value_type::LIST, _) | (value_type::LIST_QUICKLIST_2, NODE_PLAIN) => {
                            list.append((&*string).into())
                        }
                        (value_type::LIST_QUICKLIST_2, NODE_PACKED) => {
                            list.append_all(&packed::listpack(&string)?)
                        }
                        (value_type::LIST_QUICKLIST, _) => {
                            list.append_all(&packed::ziplist(&string)?)
                        }
                        _ => return Err(BadValue("a list has an unknown kind of node")),
                    }
                }
            }
        }
        input.finish()?;
        Ok(list)
    }
}

impl DataType for List {
    fn decode(raw: &Raw, _: Dialect) -> Option<Result<Self, BadValue>> {
        matches!(
            raw.kind,
            value_type::LIST
                | value_type::LIST_ZIPLIST
                | value_type::LIST_QUICKLIST
                | value_type::LIST_QUICKLIST_2
        )
        .then(|| Self::read(raw.kind, Cursor::new(&raw.payload)))
    }

    /// The plain encoding: every server loads it, as fast as any other.
    fn encode(&self, _: Dialect, out: &mut Vec<u8>) -> u8 {
        put_number(out, self.elements.len() as u64);
        for element in &self.elements {
            put_string(out, element);
        }
        value_type::LIST
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::List(value) => Some(value),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::List(Box::new(self))
    }

    fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    fn weight(&self) -> usize {
        let overhead = self.elements.len().saturating_mul(OVERHEAD);
        self.bytes.saturating_add(overhead)
    }
}

impl Ends for List {
    type End = End;

    fn end_of(args: &Args, index: usize) -> Result<End, ApplyError> {
        match args.get(index)? {
            word if is_word(word, "LEFT") => Ok(End::Left),
            word if is_word(word, "RIGHT") => Ok(End::Right),
            _ => Err(args.diverged("it says neither LEFT nor RIGHT")),
        }
    }

    fn pop(&mut self, end: End) {
        self.take(end);
    }

    fn len(&self) -> usize {
        self.elements.len()
    }
}

fn lpush(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    push(space, args, End::Left)
}

fn rpush(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    push(space, args, End::Right)
}

fn lpushx(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    push_if_there(space, args, End::Left)
}

fn rpushx(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    push_if_there(space, args, End::Right)
}

fn push_if_there(space: &mut Keyspace, args: &Args, end: End) -> Result<(), ApplyError> {
    if space.entry(args.get(1)?)?.is_none() {
        return Ok(());
    }
    push(space, args, end)
}

/// `LPUSH key element …`
fn push(space: &mut Keyspace, args: &Args, end: End) -> Result<(), ApplyError> {
    args.get(2)?;
    let list: &mut List = space.value_or_new(args, args.get(1)?)?;
    for element in args.from(2) {
        list.push(end, (*element).into());
    }
    Ok(())
}

/// `LINSERT key BEFORE|AFTER pivot element`
fn linsert(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let after = match args.get(2)? {
        word if is_word(word, "BEFORE") => 0,
        word if is_word(word, "AFTER") => 1,
        _ => return Err(args.diverged("it says neither BEFORE nor AFTER")),
    };
    let (pivot, element) = (args.get(3)?, args.get(4)?);
    let Some(list) = space.value::<List>(args, args.get(1)?)? else {
        return Ok(());
    };
    if let Some(place) = list.elements.iter().position(|there| **there == *pivot) {
        list.elements
            .insert(place.saturating_add(after), element.into());
        list.bytes = list.bytes.saturating_add(element.len());
    }
    Ok(())
}

/// `LSET key index element`
fn lset(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (index, element) = (args.int(2)?, args.get(3)?);
    let list: Option<&mut List> = space.value(args, args.get(1)?)?;
    let list = list.ok_or_else(|| args.diverged("there is no such key"))?;
    let slot = list
        .place(index)
        .and_then(|place| list.elements.get_mut(place));
    let slot = slot.ok_or_else(|| args.diverged("there is no such index"))?;
    let old = std::mem::replace(slot, element.into());
    list.bytes = list
        .bytes
        .saturating_sub(old.len())
        .saturating_add(element.len());
    Ok(())
}

/// `LREM key count element`: this many from the left, or from the right, or all.
fn lrem(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (count, element) = (args.int(2)?, args.get(3)?);
    let key = args.get(1)?;
    let Some(list) = space.value::<List>(args, key)? else {
        return Ok(());
    };
    let before = list.elements.len();
    let mut left = match count {
        0 => before,
        _ => usize::try_from(count.unsigned_abs()).unwrap_or(before),
    };
    let mut keep = |there: &Blob| {
        let goes = left > 0 && **there == *element;
        if goes {
            left = left.saturating_sub(1);
        }
        !goes
    };
    if count >= 0 {
        list.elements.retain(keep);
    } else {
        let elements = std::mem::take(&mut list.elements);
        for there in elements.into_iter().rev().filter(|there| keep(there)) {
            list.elements.push_front(there);
        }
    }
    let removed = before.saturating_sub(list.elements.len());
    list.bytes = list
        .bytes
        .saturating_sub(removed.saturating_mul(element.len()));
    space.drop_if_empty(key)
}

/// `LTRIM key start stop`
fn ltrim(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (start, stop) = (args.int(2)?, args.int(3)?);
    let key = args.get(1)?;
    let Some(list) = space.value::<List>(args, key)? else {
        return Ok(());
    };
    let (first, count) = span(start, stop, list.elements.len());
    let behind = list
        .elements
        .len()
        .saturating_sub(first.saturating_add(count));
    for _ in 0..first {
        list.take(End::Left);
    }
    for _ in 0..behind {
        list.take(End::Right);
    }
    space.drop_if_empty(key)
}

/// The first index and the number of elements from `start` to `stop`, both inclusive, of `length` elements. Negative
/// ones count from the end.
pub(super) fn span(start: i64, stop: i64, length: usize) -> (usize, usize) {
    let end = i64::try_from(length).unwrap_or(i64::MAX);
    let from_end = |index: i64| {
        if index < 0 {
            index.saturating_add(end)
        } else {
            index
        }
    };
    let start = from_end(start).max(0);
    let stop = from_end(stop).min(end.saturating_sub(1));
    if start > stop {
        return (length, 0);
    }
    let count = stop.saturating_sub(start).saturating_add(1);
    (
        usize::try_from(start).unwrap_or(length),
        usize::try_from(count).unwrap_or(0),
    )
}

/// `LMOVE source destination LEFT|RIGHT LEFT|RIGHT`
fn lmove(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (from, to) = (List::end_of(args, 3)?, List::end_of(args, 4)?);
    move_one(space, args, from, to)
}

fn rpoplpush(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    move_one(space, args, End::Right, End::Left)
}

fn move_one(space: &mut Keyspace, args: &Args, from: End, to: End) -> Result<(), ApplyError> {
    let (source, destination) = (args.get(1)?, args.get(2)?);
    if space
        .value::<List>(args, source)?
        .is_none_or(|list| list.is_empty())
    {
        return Ok(());
    }
    // It may be of another type, which is found before anything is popped.
    space.value::<List>(args, destination)?;
    let list: &mut List = space.value_or_new(args, source)?;
    let Some(element) = list.take(from) else {
        return Ok(());
    };
    let list: &mut List = space.value_or_new(args, destination)?;
    list.push(to, element);
    space.drop_if_empty(source)
}

#[cfg(test)]
#[path = "lists_tests.rs"]
mod tests;
