//! `SORT … STORE`.

use std::cmp::Ordering;

use super::args::{Args, is_word};
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::{Keys, Touch};
use super::{Blob, DataType as _, Keyspace, List, Value};
use crate::wire::rdb::number::lenient;

pub(super) const COMMANDS: &[Spec] = &[Spec::new("SORT", Keys::By(touched), sort)];

/// The RDB types of modules' values.
const MODULES: std::ops::RangeInclusive<u8> = 6..=7;

/// `SORT key [BY pattern] [LIMIT offset count] [GET pattern …] [ASC|DESC] [ALPHA] STORE destination`
#[derive(Debug)]
struct Sort<'a> {
    key: &'a [u8],
    by: By<'a>,
    gets: Vec<Get<'a>>,
    /// Offset and count. A negative count means all.
    limit: (i64, i64),
    descending: bool,
    alpha: bool,
    destination: &'a [u8],
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
enum By<'a> {
    /// The elements themselves.
    Element,
    /// Nothing: `BY nosort`.
    Nothing,
    /// The value of another key.
    Key(Pattern<'a>),
}

/// What is stored of an element.
#[derive(Clone, Copy, Debug)]
enum Get<'a> {
    /// It itself.
    Element,
    /// The value of another key.
    Key(Pattern<'a>),
    /// The pattern names no key: an empty string.
    Nothing,
}

/// `weight_*`, `user:*:data->age`: another key, or a field of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pattern<'a> {
    prefix: &'a [u8],
    suffix: &'a [u8],
    field: Option<&'a [u8]>,
}

impl<'a> Pattern<'a> {
    /// None, if the element does not occur in it. Servers look for the signs in it up to the first zero byte.
    fn of(text: &'a [u8]) -> Option<Self> {
        let searched = text.split(|byte| *byte == 0).next()?;
        let star = searched.iter().position(|byte| *byte == b'*')?;
        let (prefix, rest) = text.split_at_checked(star)?;
        let suffix = rest.get(1..)?;
        let searched = searched.get(star.saturating_add(1)..)?;
        let arrow = searched.windows(2).position(|two| two == b"->");
        if let Some(arrow) = arrow {
            let field = arrow.saturating_add(2);
            if field < searched.len() {
                return Some(Self {
                    prefix,
                    suffix: suffix.get(..arrow)?,
                    field: suffix.get(field..),
                });
            }
        }
        Some(Self {
            prefix,
            suffix,
            field: None,
        })
    }

    fn touch(&self, touch: &mut dyn FnMut(Touch<'_>)) {
        touch(Touch::Like {
            prefix: self.prefix,
            suffix: self.suffix,
        });
    }

    /// The value for an element, if there is one.
    fn look_up(
        &self,
        space: &mut Keyspace,
        args: &Args,
        element: &[u8],
    ) -> Result<Option<Blob>, ApplyError> {
        let key = [self.prefix, element, self.suffix].concat();
        if let Some(entry) = space.entry(&key)?
            && let Value::Raw(raw) = &entry.value
            && MODULES.contains(&raw.kind)
        {
            return Ok(None);
        }
        Ok(match (space.decoded(args, &key)?, self.field) {
            (Some(Value::Text(text)), None) => Some(text.0.as_slice().into()),
            (Some(Value::Hash(hash)), Some(field)) => hash.get(field).map(Blob::from),
            _ => None,
        })
    }
}

impl<'a> Sort<'a> {
    /// None, if it does not store anything: such a command changes nothing.
    fn read(args: &Args<'a>) -> Result<Option<Self>, ApplyError> {
        let mut sort = Self {
            key: args.get(1)?,
            by: By::Element,
            gets: Vec::new(),
            limit: (0, -1),
            descending: false,
            alpha: false,
            destination: &[],
        };
        let mut destination = None;
        let mut index = 2;
        while index < args.len() {
            let next = index.saturating_add(1);
            let (word, mut takes) = (args.get(index)?, 1);
            if is_word(word, "ASC") {
                sort.descending = false;
            } else if is_word(word, "DESC") {
                sort.descending = true;
            } else if is_word(word, "ALPHA") {
                sort.alpha = true;
            } else if is_word(word, "LIMIT") {
                sort.limit = (args.int(next)?, args.int(next.saturating_add(1))?);
                takes = 3;
            } else if is_word(word, "STORE") {
                destination = Some(args.get(next)?);
                takes = 2;
            } else if is_word(word, "BY") {
                sort.by = Pattern::of(args.get(next)?).map_or(By::Nothing, By::Key);
                takes = 2;
            } else if is_word(word, "GET") {
                let text = args.get(next)?;
                sort.gets.push(match text {
                    b"#" | [b'#', 0, ..] => Get::Element,
                    _ => Pattern::of(text).map_or(Get::Nothing, Get::Key),
                });
                takes = 2;
            } else {
                return Err(args.diverged("it has arguments that do not belong there"));
            }
            index = index.saturating_add(takes);
        }
        Ok(destination.map(|destination| Self {
            destination,
            ..sort
        }))
    }

    /// The part of `length` elements that is stored: the first, and how many.
    fn part(&self, length: usize) -> (usize, usize) {
        let (offset, count) = self.limit;
        let first = usize::try_from(offset.max(0)).map_or(length, |first| first.min(length));
        let left = length.saturating_sub(first);
        let count = usize::try_from(count).map_or(left, |count| count.min(left));
        (first, count)
    }
}

fn touched(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    let Some(sort) = Sort::read(args)? else {
        return Ok(());
    };
    touch(Touch::Key(sort.key));
    touch(Touch::Key(sort.destination));
    if let By::Key(pattern) = sort.by {
        pattern.touch(touch);
    }
    for get in &sort.gets {
        if let Get::Key(pattern) = get {
            pattern.touch(touch);
        }
    }
    Ok(())
}

fn sort(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let Some(mut sort) = Sort::read(args)? else {
        return Ok(());
    };
    let elements = elements(space, args, &mut sort)?;
    let part = sort.part(elements.len());
    let sorted = match sort.by {
        By::Nothing => elements,
        _ => in_order(space, args, &sort, elements, part)?,
    };
    let mut list = List::default();
    for element in sorted.into_iter().skip(part.0).take(part.1) {
        if sort.gets.is_empty() {
            list.append(element);
            continue;
        }
        for get in &sort.gets {
            list.append(match get {
                Get::Element => element.clone(),
                Get::Nothing => Blob::default(),
                Get::Key(pattern) => pattern.look_up(space, args, &element)?.unwrap_or_default(),
            });
        }
    }
    space.put(args, sort.destination, list.into_value())
}

/// What is sorted. If nothing is compared, it is in the order in which it stays.
fn elements(
    space: &mut Keyspace,
    args: &Args,
    sort: &mut Sort<'_>,
) -> Result<Vec<Blob>, ApplyError> {
    let mut elements: Vec<Blob> = match space.decoded(args, sort.key)? {
        None => Vec::new(),
        Some(Value::List(list)) => list.iter().cloned().collect(),
        Some(Value::Zset(zset)) => {
            zset.unpack();
            let members = zset.iter().map(|(member, _)| Blob::from(&**member));
            members.collect()
        }
        Some(Value::Set(set)) => {
            if matches!(sort.by, By::Nothing) {
                // A set has no order in which it could stay, and what is stored must not depend on chance.
                sort.by = By::Element;
                sort.alpha = true;
            }
            set.iter().cloned().collect()
        }
        Some(_) => return Err(args.diverged("the key holds a value that cannot be sorted")),
    };
    if matches!(sort.by, By::Nothing) && sort.descending {
        elements.reverse();
    }
    Ok(elements)
}

/// What an element is compared by.
#[derive(Debug, PartialEq, PartialOrd)]
enum Weight {
    /// Never NaN.
    Number(f64),
    /// What has none comes first.
    Bytes(Option<Blob>),
    /// The element itself.
    Element,
}

fn in_order(
    space: &mut Keyspace,
    args: &Args,
    sort: &Sort<'_>,
    elements: Vec<Blob>,
    (first, count): (usize, usize),
) -> Result<Vec<Blob>, ApplyError> {
    let mut weighted = Vec::with_capacity(elements.len());
    for element in elements {
        weighted.push((weight(space, args, sort, &element)?, element));
    }
    // Servers fall back to the elements, unless the weights are strings of other keys.
    let falls_back = !(sort.alpha && matches!(sort.by, By::Key(_)));
    weighted.sort_by(|(a, first), (b, second)| {
        let by_weight = a.partial_cmp(b).unwrap_or(Ordering::Equal);
        let order = if falls_back {
            by_weight.then_with(|| first.cmp(second))
        } else {
            by_weight
        };
        if sort.descending {
            order.reverse()
        } else {
            order
        }
    });
    if !falls_back {
        let end = first.saturating_add(count);
        let mut index: usize = 0;
        for equal in weighted.chunk_by(|(a, _), (b, _)| a == b) {
            let next = index.saturating_add(equal.len());
            let differ = equal.windows(2).any(|two| match two {
                [(_, one), (_, other)] => one != other,
                _ => false,
            });
            if differ && index < end && next > first && count > 0 {
                return Err(args.unmodelled(
                    "elements have the same weight, and which comes first is left to chance",
                ));
            }
            index = next;
        }
    }
    Ok(weighted.into_iter().map(|(_, element)| element).collect())
}

fn weight(
    space: &mut Keyspace,
    args: &Args,
    sort: &Sort<'_>,
    element: &Blob,
) -> Result<Weight, ApplyError> {
    let found = match sort.by {
        By::Key(pattern) => Some(pattern.look_up(space, args, element)?),
        By::Element | By::Nothing => None,
    };
    if sort.alpha {
        return Ok(found.map_or(Weight::Element, Weight::Bytes));
    }
    let number = match &found {
        None => lenient(element),
        Some(None) => Some(0.0),
        Some(Some(value)) => lenient(value),
    };
    number
        .map(Weight::Number)
        .ok_or_else(|| args.diverged("what it sorts by is no number"))
}

#[cfg(test)]
#[path = "sort_tests.rs"]
mod tests;
