//! The commands of hashes (PROTOCOL.md C.5, C.9).

use super::super::Keyspace;
use super::super::args::Args;
use super::super::command::Spec;
use super::super::error::ApplyError;
use super::super::key_specs::Keys;
use super::{Expiry, Hash};
use crate::wire::rdb::Family;
use crate::wire::rdb::cursor::canonical_i64;

const KEY: Keys = Keys::At(&[1]);
const RELATIVE: &str = "its time is relative, and this server should have sent an absolute one";
/// The last expiry that Redis takes in a command (a quarter of what it can hold).
const REDIS_LAST: i64 = 0x3FFF_FFFF_FFFF;

pub(crate) const COMMANDS: &[Spec] = &[
    Spec::new("HSET", KEY, hset),
    Spec::new("HMSET", KEY, hset),
    Spec::new("HSETNX", KEY, hsetnx),
    Spec::new("HDEL", KEY, hdel),
    Spec::new("HINCRBY", KEY, hincrby),
    Spec::new("HINCRBYFLOAT", KEY, hincrbyfloat),
    Spec::new("HPEXPIREAT", KEY, hpexpireat),
    Spec::new("HEXPIREAT", KEY, hexpireat),
    Spec::losing("HPEXPIRE", Keys::At(&[1]), RELATIVE),
    Spec::losing("HEXPIRE", Keys::At(&[1]), RELATIVE),
    Spec::new("HPERSIST", KEY, hpersist),
    Spec::new("HSETEX", KEY, hsetex),
    Spec::new("HGETEX", KEY, hgetex),
    Spec::new("HGETDEL", KEY, hgetdel),
];

/// `HSET key field value …`: fields that are set lose their expiry.
fn hset(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    args.get(3)?;
    let pairs = args.pairs(2)?;
    let hash: &mut Hash = space.value_or_new(args, args.get(1)?)?;
    for (field, value) in pairs {
        hash.set(field, value, Expiry::Set(None));
    }
    Ok(())
}

/// `HSETNX key field value`.
fn hsetnx(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (field, value) = (args.get(2)?, args.get(3)?);
    let hash: &mut Hash = space.value_or_new(args, args.get(1)?)?;
    if !hash.has(field) {
        hash.set(field, value, Expiry::Set(None));
    }
    Ok(())
}

/// `HDEL key field …`.
fn hdel(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    args.get(2)?;
    remove(space, args, args.from(2))
}

/// `HGETDEL key FIELDS n field …`, which Valkey sends unchanged.
fn hgetdel(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let options = Options::read(args, 2, 1)?;
    remove(space, args, options.fields)
}

fn remove(space: &mut Keyspace, args: &Args, fields: &[&[u8]]) -> Result<(), ApplyError> {
    let key = args.get(1)?;
    let Some(hash) = space.value::<Hash>(args, key)? else {
        return Ok(());
    };
    for field in fields {
        hash.remove(field);
    }
    space.drop_if_empty(key)
}

/// `HINCRBY key field n`: the field's expiry stays.
fn hincrby(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let by = args.int(3)?;
    let sum = |old: i64| old.checked_add(by);
    let why = "the sum is no 64-bit integer";
    increment(space, args, |args, old| {
        let old = canonical_i64(old).ok_or_else(|| args.diverged("the value is no integer"))?;
        sum(old).ok_or_else(|| args.diverged(why))
    })
}

/// `HINCRBYFLOAT key field n`: servers send the result instead, so another program sent this. The sum of integers is
/// certain. Other sums depend on the master's floating point.
fn hincrbyfloat(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    const WHY: &str = "its result depends on the floating point of the server that ran it";
    let by = args.get(3)?;
    increment(space, args, |args, old| {
        let sum = canonical_i64(old)
            .zip(canonical_i64(by))
            .and_then(|(old, by)| old.checked_add(by));
        sum.ok_or_else(|| args.unmodelled(WHY))
    })
}

/// A field that is not there counts as 0.
fn increment(
    space: &mut Keyspace,
    args: &Args,
    sum: impl Fn(&Args, &[u8]) -> Result<i64, ApplyError>,
) -> Result<(), ApplyError> {
    let field = args.get(2)?;
    let hash: &mut Hash = space.value_or_new(args, args.get(1)?)?;
    let sum = sum(args, hash.get(field).unwrap_or(b"0"))?;
    hash.set(field, sum.to_string().as_bytes(), Expiry::Keep);
    Ok(())
}

/// `HPEXPIREAT key ms [NX|XX|GT|LT] FIELDS n field …`.
fn hpexpireat(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    expire_at(space, args, 1)
}

/// `HEXPIREAT`: the same in seconds.
fn hexpireat(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    expire_at(space, args, 1000)
}

fn expire_at(space: &mut Keyspace, args: &Args, unit_ms: i64) -> Result<(), ApplyError> {
    let time = absolute(space, args, args.get(2)?, unit_ms)?;
    let options = Options::read(args, 3, 1)?;
    let Some(hash) = space.value::<Hash>(args, args.get(1)?)? else {
        return Ok(());
    };
    for field in options.fields {
        if let Some(expiry) = hash.expiry_mut(field)
            && options.allow(*expiry, time)
        {
            *expiry = Some(time);
        }
    }
    Ok(())
}

/// `HPERSIST key FIELDS n field …`.
fn hpersist(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let options = Options::read(args, 2, 1)?;
    change(space, args, options.fields, None)
}

/// `HGETEX key [PXAT ms|EXAT s|PERSIST] FIELDS n field …`: without an option it only reads.
fn hgetex(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let options = Options::read(args, 2, 1)?;
    match options.expiry {
        Some(Time::Never) => change(space, args, options.fields, None),
        Some(Time::At(time, unit_ms)) => {
            let time = absolute(space, args, time, unit_ms)?;
            change(space, args, options.fields, Some(time))
        }
        None => Ok(()),
    }
}

fn change(
    space: &mut Keyspace,
    args: &Args,
    fields: &[&[u8]],
    to: Option<i64>,
) -> Result<(), ApplyError> {
    let Some(hash) = space.value::<Hash>(args, args.get(1)?)? else {
        return Ok(());
    };
    for field in fields {
        if let Some(expiry) = hash.expiry_mut(field) {
            *expiry = to;
        }
    }
    Ok(())
}

/// `HSETEX key [NX|XX] [FNX|FXX] [PXAT ms|EXAT s|KEEPTTL] FIELDS n field value …`.
fn hsetex(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let key = args.get(1)?;
    let options = Options::read(args, 2, 2)?;
    let expiry = match options.expiry {
        _ if options.keep => Expiry::Keep,
        Some(Time::At(time, unit_ms)) => Expiry::Set(Some(absolute(space, args, time, unit_ms)?)),
        _ => Expiry::Set(None),
    };
    let there = space.value::<Hash>(args, key)?;
    let refused = match &there {
        Some(_) => options.nx,
        None => options.xx,
    };
    let has = |field: &[u8]| there.as_ref().is_some_and(|hash| hash.has(field));
    let mut names = options.pairs().map(|(field, _)| field);
    if refused || options.fnx && names.clone().any(has) || options.fxx && !names.all(has) {
        return Ok(());
    }
    let hash: &mut Hash = space.value_or_new(args, key)?;
    for (field, value) in options.pairs() {
        hash.set(field, value, expiry);
    }
    Ok(())
}

/// Unix milliseconds of an expiry, which the snapshot must be able to hold.
fn absolute(
    space: &mut Keyspace,
    args: &Args,
    time: &[u8],
    unit_ms: i64,
) -> Result<i64, ApplyError> {
    let dialect = space.dialect();
    if (space.value::<Hash>(args, args.get(1)?)?).is_some_and(|hash| hash.has_hidden()) {
        return Err(args.unmodelled("a field is there twice, and one is to expire"));
    }
    if !Hash::may_expire(dialect) {
        return Err(args.unmodelled(
            "the snapshot is of an RDB version that has no expiries of fields; a new full sync would bring a newer one",
        ));
    }
    let last = match dialect.family {
        Family::Redis => REDIS_LAST,
        Family::Valkey => i64::MAX,
    };
    // 0 is what says "none" in the RDBs of Redis; the masters send HDEL for every time that has passed.
    args.parse_int(time)?
        .checked_mul(unit_ms)
        .filter(|time| (1..=last).contains(time))
        .ok_or_else(|| args.diverged("the expiry is not within the bounds of one"))
}

/// When a field expires, according to a command.
#[derive(Clone, Copy, Debug)]
enum Time<'a> {
    Never,
    /// A number, and how many milliseconds one is.
    At(&'a [u8], i64),
}

/// Options and fields. Redis also accepts options after the fields.
#[derive(Debug, Default)]
struct Options<'a> {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    fnx: bool,
    fxx: bool,
    keep: bool,
    expiry: Option<Time<'a>>,
    /// With their values if the command has such.
    fields: &'a [&'a [u8]],
}

impl<'a> Options<'a> {
    /// Reads from argument `index` on. `each` is 2 if the fields have values.
    fn read(args: &Args<'a>, mut index: usize, each: usize) -> Result<Self, ApplyError> {
        let mut read = Self::default();
        while index < args.len() {
            let option = args.get(index)?.to_ascii_uppercase();
            index = index.saturating_add(1);
            match option.as_slice() {
                b"NX" => read.nx = true,
                b"XX" => read.xx = true,
                b"GT" => read.gt = true,
                b"LT" => read.lt = true,
                b"FNX" => read.fnx = true,
                b"FXX" => read.fxx = true,
                b"KEEPTTL" => read.keep = true,
                b"PERSIST" => read.expiry = Some(Time::Never),
                b"PXAT" | b"EXAT" => {
                    let unit_ms = if option == b"PXAT" { 1 } else { 1000 };
                    read.expiry = Some(Time::At(args.get(index)?, unit_ms));
                    index = index.saturating_add(1);
                }
                b"PX" | b"EX" => return Err(args.unmodelled(RELATIVE)),
                b"FIELDS" => {
                    let first = index.saturating_add(1);
                    let length = args.count(index)?.saturating_mul(each);
                    read.fields = (args.from(first).get(..length))
                        .ok_or_else(|| args.diverged("it has fewer fields than it says"))?;
                    index = first.saturating_add(length);
                }
                _ => return Err(args.unmodelled("it has an option that is not known")),
            }
        }
        if read.fields.is_empty() {
            return Err(args.diverged("it names no fields"));
        }
        Ok(read)
    }

    /// Fields and values.
    fn pairs(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a> {
        self.fields.chunks_exact(2).filter_map(|pair| match pair {
            [field, value] => Some((*field, *value)),
            _ => None,
        })
    }

    /// May a field with this expiry get that one? A field that never expires counts as the last to expire.
    fn allow(&self, now: Option<i64>, new: i64) -> bool {
        match now {
            Some(now) => !(self.nx || self.gt && new <= now || self.lt && new >= now),
            None => !self.xx && !self.gt,
        }
    }
}
