//! Strings.

pub(crate) mod bits;
pub(crate) mod hyperloglog;

use std::io::Write as _;

use super::Keyspace;
use super::args::{Args, is_word};
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::{Keys, Touch};
use super::value::{DataType, Dialect, Raw, Value};
use crate::wire::rdb::cursor::{BadValue, Cursor, canonical_i64, put_string};
use crate::wire::rdb::numbers::value_type;

/// Longest string that a command makes by padding it with zeros: what servers allow unless `proto-max-bulk-len` is
/// raised. `SETBIT k 4000000000000 1` must not take all memory.
const LONGEST_PADDED: usize = 512 * 1024 * 1024;

/// A time from now means nothing when a log is applied later. Logs of servers that send such are rewritten before.
pub(super) const RELATIVE: &str = "its expiry is relative to a time that is not known here";

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("SET", Keys::By(set_keys), set),
    Spec::new("SETNX", Keys::At(&[1]), setnx),
    Spec::losing("SETEX", Keys::At(&[1]), RELATIVE),
    Spec::losing("PSETEX", Keys::At(&[1]), RELATIVE),
    Spec::new("GETSET", Keys::At(&[1]), getset),
    Spec::new("GETEX", Keys::By(getex_keys), getex),
    Spec::new("GETDEL", Keys::At(&[1]), getdel),
    Spec::new("DELIFEQ", Keys::At(&[1]), getdel),
    Spec::new("DELEX", Keys::At(&[1]), delex),
    Spec::new("MSET", Keys::Overwritten { first: 1, step: 2 }, mset),
    Spec::new("MSETNX", Keys::From { first: 1, step: 2 }, msetnx),
    Spec::new("MSETEX", Keys::By(msetex_keys), msetex),
    Spec::new("APPEND", Keys::At(&[1]), append),
    Spec::new("SETRANGE", Keys::At(&[1]), setrange),
    Spec::new("INCR", Keys::At(&[1]), incr),
    Spec::new("DECR", Keys::At(&[1]), decr),
    Spec::new("INCRBY", Keys::At(&[1]), incrby),
    Spec::new("DECRBY", Keys::At(&[1]), decrby),
    // The sum is one of 80-bit floats.
    Spec::losing(
        "INCRBYFLOAT",
        Keys::At(&[1]),
        "servers send its result as SET",
    ),
];

/// A string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl DataType for Text {
    fn decode(raw: &Raw, _: Dialect) -> Option<Result<Self, BadValue>> {
        if raw.kind != value_type::STRING {
            return None;
        }
        let mut input = Cursor::new(&raw.payload);
        let decoded = input.string().and_then(|text| {
            input.finish()?;
            Ok(Self(text.into_owned()))
        });
        Some(decoded)
    }

    fn encode(&self, _: Dialect, out: &mut Vec<u8>) -> u8 {
        put_string(out, &self.0);
        value_type::STRING
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Text(self)
    }

    /// A string without bytes is a value like any other.
    fn is_empty(&self) -> bool {
        false
    }

    fn weight(&self) -> usize {
        self.0.len()
    }
}

/// What the options of a command say about the expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ttl {
    /// Nothing.
    Unsaid,
    Keep,
    Persist,
    /// Unix milliseconds.
    At(i64),
}

impl Ttl {
    /// Reads the options of `SET`, `GETEX` and `MSETEX`, which begin at argument `index`. Their conditions were true on
    /// the master, because otherwise the command would not be in the feed.
    fn of(args: &Args, index: usize) -> Result<Self, ApplyError> {
        let mut ttl = Self::Unsaid;
        let mut options = args.from(index).iter();
        while let Some(option) = options.next() {
            let is = |words: &[&str]| words.iter().any(|word| is_word(option, word));
            let mut next = || {
                let next = options.next();
                next.ok_or_else(|| args.diverged("an option has no value"))
            };
            if is(&["PXAT"]) {
                ttl = Self::at(args, next()?, 1)?;
            } else if is(&["EXAT"]) {
                ttl = Self::at(args, next()?, 1000)?;
            } else if is(&["KEEPTTL"]) {
                ttl = Self::Keep;
            } else if is(&["PERSIST"]) {
                ttl = Self::Persist;
            } else if is(&["EX", "PX"]) {
                return Err(args.unmodelled(RELATIVE));
            } else if is(&["IFEQ", "IFNE", "IFDEQ", "IFDNE"]) {
                next()?;
            } else if !is(&["NX", "XX", "GET"]) {
                return Err(args.unmodelled("it has an option that is not known"));
            }
        }
        Ok(ttl)
    }

    /// What a command that puts a string in the place of whatever is there touches.
    fn touch(self, key: &[u8]) -> Touch<'_> {
        match self {
            Self::Keep => Touch::Key(key),
            Self::Unsaid | Self::Persist | Self::At(_) => Touch::Overwritten(key),
        }
    }

    fn at(args: &Args, time: &[u8], unit_ms: i64) -> Result<Self, ApplyError> {
        let time = args.parse_int(time)?.checked_mul(unit_ms);
        time.filter(|time| *time > 0)
            .map(Self::At)
            .ok_or_else(|| args.diverged("there is no such time"))
    }
}

/// Puts a string in the place of whatever is there.
fn put(
    space: &mut Keyspace,
    args: &Args,
    key: &[u8],
    text: &[u8],
    ttl: Ttl,
) -> Result<(), ApplyError> {
    let expiry = match ttl {
        Ttl::Unsaid | Ttl::Persist => None,
        Ttl::At(time) => Some(time),
        Ttl::Keep => space.entry(key)?.and_then(|entry| entry.expiry),
    };
    space.put(args, key, Text(text.to_vec()).into_value())?;
    if expiry.is_some()
        && let Some(entry) = space.entry(key)?
    {
        entry.expiry = expiry;
    }
    Ok(())
}

/// The string of a key, made if there is none, and padded with zeros to `length` at least.
pub(super) fn padded<'a>(
    space: &'a mut Keyspace,
    args: &Args,
    key: &[u8],
    length: usize,
) -> Result<&'a mut Text, ApplyError> {
    let there = space.value::<Text>(args, key)?;
    let more = length.saturating_sub(there.map_or(0, |text| text.0.len()));
    if more > 0 && length > LONGEST_PADDED {
        return Err(args.unmodelled("it makes a string longer than 512 MiB"));
    }
    space.charge(more);
    let text: &mut Text = space.value_or_new(args, key)?;
    if more > 0 {
        text.0.resize(length, 0);
    }
    Ok(text)
}

fn set_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    touch(Ttl::of(args, 3)?.touch(args.get(1)?));
    Ok(())
}

/// `SET key value [condition] [GET] [PXAT ms | EXAT s | KEEPTTL]`.
fn set(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let ttl = Ttl::of(args, 3)?;
    put(space, args, args.get(1)?, args.get(2)?, ttl)
}

/// `SETNX key value`: it was not there on the master.
fn setnx(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    if space.entry(args.get(1)?)?.is_some() {
        return Err(args.diverged("the key is there already"));
    }
    put(space, args, args.get(1)?, args.get(2)?, Ttl::Unsaid)
}

/// `GETSET key value` is a `SET` of what was no other type before.
fn getset(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    space.value::<Text>(args, args.get(1)?)?;
    put(space, args, args.get(1)?, args.get(2)?, Ttl::Unsaid)
}

fn getex_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    touch(Touch::Key(args.get(1)?));
    Ttl::of(args, 2).map(drop)
}

/// `GETEX key [PXAT ms | EXAT s | PERSIST]`.
fn getex(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let ttl = Ttl::of(args, 2)?;
    let key = args.get(1)?;
    space.value::<Text>(args, key)?;
    if let Some(entry) = space.entry(key)? {
        match ttl {
            Ttl::At(time) => entry.expiry = Some(time),
            Ttl::Persist => entry.expiry = None,
            Ttl::Unsaid | Ttl::Keep => {}
        }
    }
    Ok(())
}

/// `GETDEL key`, `DELIFEQ key value`: a string goes.
fn getdel(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    space.value::<Text>(args, args.get(1)?)?;
    space.remove(args, args.get(1)?)?;
    Ok(())
}

/// `DELEX key [condition]`: without a condition, it deletes a value of any type.
fn delex(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    space.remove(args, args.get(1)?)?;
    Ok(())
}

/// `MSET key value …`: expiries are removed.
fn mset(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    for (key, value) in args.pairs(1)? {
        put(space, args, key, value, Ttl::Unsaid)?;
    }
    Ok(())
}

/// `MSETNX key value …`: none of them was there on the master.
fn msetnx(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    for (key, _) in args.pairs(1)? {
        if space.entry(key)?.is_some() {
            return Err(args.diverged("a key is there already"));
        }
    }
    mset(space, args)
}

/// Keys and values of `MSETEX count key value … [condition] [PXAT ms | EXAT s | KEEPTTL]`.
fn msetex_parts<'a>(args: &Args<'a>) -> Result<(&'a [&'a [u8]], Ttl), ApplyError> {
    let count = args.count(1)?.saturating_mul(2);
    let pairs = args.from(2).get(..count);
    let pairs = pairs.ok_or_else(|| args.diverged("it has fewer keys than it says"))?;
    Ok((pairs, Ttl::of(args, count.saturating_add(2))?))
}

fn msetex_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    let (pairs, ttl) = msetex_parts(args)?;
    for key in pairs.iter().step_by(2) {
        touch(ttl.touch(key));
    }
    Ok(())
}

fn msetex(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (pairs, ttl) = msetex_parts(args)?;
    for pair in pairs.chunks_exact(2) {
        if let [key, value] = pair {
            put(space, args, key, value, ttl)?;
        }
    }
    Ok(())
}

/// `APPEND key value`: the expiry stays.
fn append(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let text: &mut Text = space.value_or_new(args, args.get(1)?)?;
    text.0.extend_from_slice(args.get(2)?);
    Ok(())
}

/// `SETRANGE key offset value`: of nothing, it does nothing.
fn setrange(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (key, offset, value) = (args.get(1)?, args.count(2)?, args.get(3)?);
    if value.is_empty() {
        return Ok(());
    }
    let text = padded(space, args, key, offset.saturating_add(value.len()))?;
    let range = text.0.get_mut(offset..).unwrap_or_default();
    for (to, from) in range.iter_mut().zip(value) {
        *to = *from;
    }
    Ok(())
}

fn incr(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    add(space, args, 1)
}

fn decr(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    add(space, args, -1)
}

fn incrby(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    add(space, args, args.int(2)?)
}

fn decrby(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    // The least number stays what it is, as on servers before 7.0; later ones refuse it.
    add(space, args, args.int(2)?.wrapping_neg())
}

/// Adds to the number in a string. A string that is not there counts as 0.
fn add(space: &mut Keyspace, args: &Args, more: i64) -> Result<(), ApplyError> {
    let key = args.get(1)?;
    let old = match space.value::<Text>(args, key)? {
        Some(text) => {
            canonical_i64(&text.0).ok_or_else(|| args.diverged("the key's value is no integer"))?
        }
        None => 0,
    };
    let new = old.checked_add(more).ok_or_else(|| overflow(args))?;
    let text: &mut Text = space.value_or_new(args, key)?;
    text.0.clear();
    // A vector takes all that is written.
    let _ = write!(text.0, "{new}");
    Ok(())
}

fn overflow(args: &Args) -> ApplyError {
    args.diverged("the sum does not fit into 64 bits")
}

#[cfg(test)]
#[path = "strings_tests.rs"]
mod tests;
