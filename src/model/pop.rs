//! Takes elements from an end: what lists and sorted sets have in common.

use super::Keyspace;
use super::args::Args;
use super::error::ApplyError;
use super::key_specs::Touch;
use super::value::DataType;

/// A type whose elements have an order.
pub(super) trait Ends: DataType {
    /// One of its two ends.
    type End: Copy;

    /// The end that a word means.
    fn end_of(args: &Args, index: usize) -> Result<Self::End, ApplyError>;

    /// Takes one element off, if there is any.
    fn pop(&mut self, end: Self::End);

    /// How many elements there are.
    fn len(&self) -> usize;
}

/// `LPOP key [count]`, `ZPOPMIN key [count]`
pub(super) fn of_one<T: Ends>(
    space: &mut Keyspace,
    args: &Args,
    end: T::End,
) -> Result<(), ApplyError> {
    let count = if args.len() > 2 { args.count(2)? } else { 1 };
    of_first::<T>(space, args, &[args.get(1)?], end, count)
}

/// `BLPOP key … timeout`, `BZPOPMIN key … timeout`
pub(super) fn blocking<T: Ends>(
    space: &mut Keyspace,
    args: &Args,
    end: T::End,
) -> Result<(), ApplyError> {
    of_first::<T>(space, args, keys_before_last(args), end, 1)
}

/// `LMPOP numkeys key … LEFT|RIGHT [COUNT count]`, and with a timeout before. The argument `numkeys` has their number.
pub(super) fn of_many<T: Ends>(
    space: &mut Keyspace,
    args: &Args,
    numkeys: usize,
) -> Result<(), ApplyError> {
    let first = numkeys.saturating_add(1);
    let keys = args.count(numkeys)?;
    let word = first.saturating_add(keys);
    let keys = args.from(first).get(..keys).unwrap_or_default();
    let count = match args.len().saturating_sub(word) {
        1 => 1,
        3 if args.is_word(word.saturating_add(1), "COUNT") => args.count(word.saturating_add(2))?,
        _ => return Err(args.diverged("it has arguments that do not belong there")),
    };
    of_first::<T>(space, args, keys, T::end_of(args, word)?, count)
}

/// Takes from the first of them that is there.
fn of_first<T: Ends>(
    space: &mut Keyspace,
    args: &Args,
    keys: &[&[u8]],
    end: T::End,
    count: usize,
) -> Result<(), ApplyError> {
    if count == 0 {
        // Old servers do not even look at the key.
        return Ok(());
    }
    for key in keys {
        let there: Option<&mut T> = space.value(args, key)?;
        let Some(there) = there.filter(|there| !there.is_empty()) else {
            continue;
        };
        for _ in 0..count.min(there.len()) {
            there.pop(end);
        }
        return space.drop_if_empty(key);
    }
    Ok(())
}

fn keys_before_last<'a>(args: &Args<'a>) -> &'a [&'a [u8]] {
    args.from(1).split_last().map_or(&[], |(_, keys)| keys)
}

/// The keys of `BLPOP key … timeout`.
pub(super) fn all_but_last(
    args: &Args,
    touch: &mut dyn FnMut(Touch<'_>),
) -> Result<(), ApplyError> {
    for key in keys_before_last(args) {
        touch(Touch::Key(key));
    }
    Ok(())
}
