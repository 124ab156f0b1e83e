//! Keys of any type.

use super::args::{Args, is_word};
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::{Keys, Touch};
use super::payload::{self, Payload};
use super::strings::RELATIVE;
use super::value::{Raw, Value};
use super::{Entry, Keyspace, OVERHEAD, Slot};
use crate::wire::rdb::numbers::value_type;

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("DEL", Keys::Overwritten { first: 1, step: 1 }, del),
    Spec::new("UNLINK", Keys::Overwritten { first: 1, step: 1 }, del),
    Spec::new("PERSIST", Keys::By(persist_keys), persist),
    Spec::new("EXPIREAT", Keys::By(expire_keys), expireat),
    Spec::new("PEXPIREAT", Keys::By(expire_keys), pexpireat),
    Spec::losing("EXPIRE", Keys::At(&[1]), RELATIVE),
    Spec::losing("PEXPIRE", Keys::At(&[1]), RELATIVE),
    Spec::new("RENAME", Keys::At(&[1, 2]), rename),
    Spec::new("RENAMENX", Keys::At(&[1, 2]), renamenx),
    Spec::new("COPY", Keys::By(copy_keys), copy),
    Spec::new("MOVE", Keys::By(move_keys), move_),
    Spec::new("RESTORE", Keys::By(restore_keys), restore),
    Spec::new("RESTORE-ASKING", Keys::By(restore_keys), restore),
];

const OPTION: &str = "it has an option that is not known";
const NO_KEY: &str = "there is no such key";
const IS_THERE: &str = "the key is there already";
const HAS_META: &str = "a module has attached data to the key";

/// `DEL key …`, `UNLINK key …`: those that are there.
fn del(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    for key in args.from(1) {
        space.remove(args, key)?;
    }
    Ok(())
}

/// KeyDB has it with a member of the key, too.
fn persist_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    if args.len() > 2 {
        return Err(args.unmodelled("members that expire are not known"));
    }
    touch(Touch::Key(args.get(1)?));
    Ok(())
}

/// `PERSIST key`.
fn persist(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    if let Some(entry) = space.entry(args.get(1)?)? {
        entry.expiry = None;
    }
    Ok(())
}

fn expire_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    let known = |option: &&[u8]| {
        ["NX", "XX", "GT", "LT"]
            .iter()
            .any(|word| is_word(option, word))
    };
    if !args.from(3).iter().all(known) {
        return Err(args.unmodelled(OPTION));
    }
    touch(Touch::Key(args.get(1)?));
    Ok(())
}

/// `EXPIREAT key s [NX | XX | GT | LT]`.
fn expireat(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    expire(space, args, 1000)
}

/// `PEXPIREAT key ms [NX | XX | GT | LT]`.
fn pexpireat(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    expire(space, args, 1)
}

/// A time that has passed is one like any other: what is expired, the feed deletes.
fn expire(space: &mut Keyspace, args: &Args, unit_ms: i64) -> Result<(), ApplyError> {
    let time = args.int(2)?.checked_mul(unit_ms);
    let time = time.ok_or_else(|| args.diverged("there is no such time"))?;
    let Some(entry) = space.entry(args.get(1)?)? else {
        return Ok(());
    };
    for option in args.from(3) {
        let holds = match entry.expiry {
            _ if is_word(option, "NX") => entry.expiry.is_none(),
            _ if is_word(option, "XX") => entry.expiry.is_some(),
            // A key without expiry lives the longest.
            old if is_word(option, "GT") => old.is_some_and(|old| time > old),
            old => old.is_none_or(|old| time < old),
        };
        if !holds {
            return Ok(());
        }
    }
    entry.expiry = Some(time);
    Ok(())
}

/// `RENAME key newkey`: with its expiry, in the place of whatever is there.
fn rename(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (from, to) = (args.get(1)?, args.get(2)?);
    let entry = space.entry(from)?;
    if entry.is_none() {
        return Err(args.diverged(NO_KEY));
    }
    if from == to {
        return Ok(());
    }
    let entry = take(space, args, from)?;
    space.charge(to.len().saturating_add(OVERHEAD));
    space.put_entry(args, space.selected(), to, entry)?;
    Ok(())
}

/// `RENAMENX key newkey`: there was no `newkey` on the master.
fn renamenx(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    if space.entry(args.get(2)?)?.is_some() {
        return Err(args.diverged(IS_THERE));
    }
    rename(space, args)
}

/// Removes an entry that will be put elsewhere.
fn take(space: &mut Keyspace, args: &Args, key: &[u8]) -> Result<Slot, ApplyError> {
    if space.entry(key)?.is_some_and(|entry| entry.has_meta()) {
        return Err(args.unmodelled(HAS_META));
    }
    space.remove(args, key)
}

/// `COPY key newkey [DB n] [REPLACE]`: the database, if it is another one, and whether to replace.
fn copy_options(args: &Args) -> Result<(Option<u32>, bool), ApplyError> {
    let (mut db, mut replace) = (None, false);
    let mut index = 3usize;
    while index < args.len() {
        if args.is_word(index, "DB") {
            index = index.saturating_add(1);
            db = Some(args.db(index)?);
        } else if args.is_word(index, "REPLACE") {
            replace = true;
        } else {
            return Err(args.unmodelled(OPTION));
        }
        index = index.saturating_add(1);
    }
    Ok((db, replace))
}

fn copy_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    touch(Touch::Key(args.get(1)?));
    touch(match copy_options(args)? {
        (Some(db), _) => Touch::In(db, args.get(2)?),
        (None, _) => Touch::Key(args.get(2)?),
    });
    Ok(())
}

fn copy(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (db, replace) = copy_options(args)?;
    let db = db.unwrap_or(space.selected());
    let (from, to) = (args.get(1)?, args.get(2)?);
    if db == space.selected() && from == to {
        return Err(args.diverged("a key is not copied to itself"));
    }
    let entry = space.entry(from)?.ok_or_else(|| args.diverged(NO_KEY))?;
    if entry.has_meta() {
        return Err(args.unmodelled(HAS_META));
    }
    if matches!(&entry.value, Value::Raw(raw) if raw.kind == value_type::MODULE_2) {
        return Err(args.unmodelled("what a module's value copies to, only the module knows"));
    }
    let copied = Entry {
        expiry: entry.expiry,
        ..Entry::new(entry.value.clone())
    };
    if !replace && space.slot_in(db, to)?.is_some() {
        return Err(args.diverged(IS_THERE));
    }
    let added = copied.weight().saturating_add(to.len());
    space.charge(added.saturating_add(OVERHEAD));
    space.put_entry(args, db, to, Some(Box::new(copied)))?;
    Ok(())
}

fn move_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    touch(Touch::Key(args.get(1)?));
    touch(Touch::In(args.db(2)?, args.get(1)?));
    Ok(())
}

/// `MOVE key db`: moves it with its expiry. The master had no such key there.
fn move_(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (key, db) = (args.get(1)?, args.db(2)?);
    if db == space.selected() {
        return Err(args.diverged("a key is not moved to where it is"));
    }
    if space.slot_in(db, key)?.is_some() {
        return Err(args.diverged(IS_THERE));
    }
    let entry = take(space, args, key)?;
    if entry.is_none() {
        return Err(args.diverged(NO_KEY));
    }
    space.charge(key.len().saturating_add(OVERHEAD));
    space.put_entry(args, db, key, entry)?;
    Ok(())
}

/// `RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME s] [FREQ f]`: the expiry, and whether to replace. How long the
/// key has been idle, or how often it is used, is not kept, because the feed does not show how this changes later.
fn restore_options(args: &Args) -> Result<(Option<i64>, bool), ApplyError> {
    let (mut replace, mut absolute) = (false, false);
    let mut index = 4usize;
    while index < args.len() {
        if args.is_word(index, "REPLACE") {
            replace = true;
        } else if args.is_word(index, "ABSTTL") {
            absolute = true;
        } else if args.is_word(index, "IDLETIME") || args.is_word(index, "FREQ") {
            index = index.saturating_add(1);
            args.count(index)?;
        } else {
            return Err(args.unmodelled(OPTION));
        }
        index = index.saturating_add(1);
    }
    match args.int(2)? {
        ..0 => Err(args.diverged("there is no such time")),
        0 => Ok((None, replace)),
        time if absolute => Ok((Some(time), replace)),
        _ => Err(args.unmodelled(RELATIVE)),
    }
}

fn restore_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    restore_options(args)?;
    touch(Touch::Key(args.get(1)?));
    Ok(())
}

fn restore(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (expiry, replace) = restore_options(args)?;
    let key = args.get(1)?;
    if !replace && space.entry(key)?.is_some() {
        return Err(args.diverged(IS_THERE));
    }
    let unreadable = |_| args.unmodelled("its payload cannot be read");
    let Payload { body, dialect } = Payload::open(args.get(3)?).map_err(unreadable)?;
    let bad = |why| {
        if payload::ends_with_keydbs_field(body) {
            args.unmodelled("its payload ends with a field that only KeyDB has (mvcc-tstamp)")
        } else {
            unreadable(why)
        }
    };
    let (kind, payload) = body
        .split_first()
        .ok_or_else(|| args.unmodelled("its payload is empty"))?;
    let raw = Raw {
        kind: *kind,
        payload: payload.into(),
    };
    let value = if raw.kind == value_type::MODULE_2 {
        // None but the module can look into it, but where it ends can be seen.
        payload::check_module(&raw.payload).map_err(bad)?;
        Value::Raw(raw)
    } else {
        // The server that loads the snapshot must find what this one found: no byte more.
        let value = raw.decode(dialect).map_err(bad)?;
        if value.is_empty() {
            return Err(args.unmodelled("its payload is a collection without elements"));
        }
        match payload::fit(raw.kind, dialect, space.dialect()) {
            payload::Fit::AsItIs => Value::Raw(raw),
            payload::Fit::Repacked => value,
            payload::Fit::Not => {
                return Err(args.unmodelled(
                    "its value is of a kind that the snapshot's RDB version does not have",
                ));
            }
        }
    };
    space.charge(value.weight().saturating_add(OVERHEAD));
    let entry = Entry {
        expiry,
        ..Entry::new(value)
    };
    space.put_entry(args, space.selected(), key, Some(Box::new(entry)))?;
    Ok(())
}

#[cfg(test)]
#[path = "any_type_tests.rs"]
mod tests;
