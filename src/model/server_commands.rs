//! Commands about the feed itself, about whole databases, and about slots of a cluster.

use super::args::{Args, is_word};
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::{Keys, Touch};
use super::{DatabaseCommand, Keyspace};
use crate::wire::SLOTS;

const SCRIPT: &str = "what a script does, only the server knows; with `lua-replicate-commands yes` it sends the effects";
const KEYDB: &str = "it is one of KeyDB's own, whose rules are not modelled";
/// The same in `PERSIST` with a member.
const MEMBERS: &str = "members that expire are not known";
const VECTORS: &str = "the graph of a vector set is built at random";

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("SELECT", Keys::None, follow),
    Spec::ignored("PING"),
    Spec::ignored("REPLCONF"),
    // The reader of the log keeps transactions whole.
    Spec::ignored("MULTI"),
    Spec::ignored("EXEC"),
    Spec::ignored("PUBLISH"),
    Spec::ignored("SPUBLISH"),
    Spec::ignored("SCRIPT"),
    Spec::refused("EVAL", SCRIPT),
    Spec::refused("EVALSHA", SCRIPT),
    Spec::refused("FCALL", "what a function does, only the server knows"),
    Spec::refused("RREPLAY", "the feed of an active replica is not known"),
    Spec::refused("EXPDEL", KEYDB),
    Spec::refused("EXPIREMEMBER", MEMBERS),
    Spec::refused("EXPIREMEMBERAT", MEMBERS),
    Spec::refused("PEXPIREMEMBERAT", MEMBERS),
    Spec::refused("KEYDB.CRON", KEYDB),
    Spec::refused("KEYDB.HRENAME", KEYDB),
    Spec::refused("KEYDB.MVCCRESTORE", KEYDB),
    Spec::refused("KEYDB.NHSET", KEYDB),
    Spec::losing("VADD", Keys::At(&[1]), VECTORS),
    Spec::losing("VREM", Keys::At(&[1]), VECTORS),
    Spec::losing("VSETATTR", Keys::At(&[1]), VECTORS),
    Spec::new("FLUSHDB", Keys::None, follow),
    Spec::new("FLUSHALL", Keys::None, follow),
    Spec::new("SWAPDB", Keys::None, follow),
    Spec::new("CLUSTER", Keys::By(slot_keys), drop_slots),
    Spec::new("TRIMSLOTS", Keys::By(slot_keys), drop_slots),
    Spec::new("SFLUSH", Keys::By(slot_keys), drop_slots),
];

fn follow(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    if let Some(command) = DatabaseCommand::of(args)? {
        space.follow(command);
    }
    Ok(())
}

/// The slot of a cluster that a key belongs to: CRC-16 (XMODEM) of the text between its first `{` and the next `}`, or
/// of the whole key if that text is empty.
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let behind = key.get(open.saturating_add(1)..)?;
        let close = behind.iter().position(|byte| *byte == b'}')?;
        behind.get(..close).filter(|tag| !tag.is_empty())
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

fn crc16(bytes: &[u8]) -> u16 {
    const POLYNOMIAL: u16 = 0x1021;
    let mut crc = 0u16;
    for byte in bytes {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= POLYNOMIAL;
            }
        }
    }
    crc
}

/// The slots whose keys a command deletes: `CLUSTER FLUSHSLOT slot [ASYNC | SYNC]`, `TRIMSLOTS RANGES count first last
/// …`, `SFLUSH first last … [ASYNC | SYNC]`. Other words of `CLUSTER` are about the cluster, not about keys.
fn slots(args: &Args) -> Result<Vec<(u16, u16)>, ApplyError> {
    let slot = |arg: &[u8]| {
        u16::try_from(args.parse_int(arg)?)
            .ok()
            .filter(|slot| *slot < SLOTS)
            .ok_or_else(|| args.diverged("there is no such slot"))
    };
    let ranges = match args.from(0) {
        [name, what, first, ..] if is_word(name, "CLUSTER") && is_word(what, "FLUSHSLOT") => {
            let first = slot(first)?;
            return Ok(vec![(first, first)]);
        }
        [name, what, ..]
            if is_word(name, "CLUSTER")
                && (is_word(what, "SETSLOT") || is_word(what, "SYNCSLOTS")) =>
        {
            return Ok(Vec::new());
        }
        [name, what, count, ranges @ ..]
            if is_word(name, "TRIMSLOTS") && is_word(what, "RANGES") =>
        {
            let count = args.parse_int(count)?;
            if i64::try_from(ranges.len() / 2) != Ok(count) {
                return Err(args.diverged("it has not as many ranges as it says"));
            }
            ranges
        }
        [name, ranges @ .., how] if is_word(name, "SFLUSH") => {
            if is_word(how, "ASYNC") || is_word(how, "SYNC") {
                ranges
            } else {
                args.from(1)
            }
        }
        _ => return Err(args.unmodelled("what it does is not known")),
    };
    let pairs = ranges.chunks(2).map(|range| match range {
        [first, last] => Ok((slot(first)?, slot(last)?)),
        _ => Err(args.diverged("an argument is left over")),
    });
    pairs.collect()
}

fn slot_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    for (first, last) in slots(args)? {
        touch(Touch::Slots(first, last));
    }
    Ok(())
}

/// Deletes the keys that are known here. The writer of the snapshot leaves out the others.
fn drop_slots(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let slots = slots(args)?;
    if slots.is_empty() {
        return Ok(());
    }
    for db in space.dbs.values_mut() {
        for (key, slot) in db.names.iter().zip(&mut db.slots) {
            let of = slot.as_ref().map(|_| slot_of(key));
            if of.is_some_and(|of| slots.iter().any(|(a, b)| (*a..=*b).contains(&of))) {
                *slot = None;
            }
        }
        let unknown = &mut db.unknown;
        for (number, key) in (0..).zip(db.names.iter()) {
            if !unknown.is_empty() && slots.iter().any(|(a, b)| (*a..=*b).contains(&slot_of(key))) {
                unknown.remove(&number);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "server_commands_tests.rs"]
mod tests;
