//! Streams.
//!
//! | file | |
//! |---|---|
//! | [`id`], [`nodes`], [`groups`], [`idempotence`] | the parts of a stream |
//! | [`codec`] | a stream as a snapshot holds it |
//! | [`entry_commands`] | `XADD`, `XDEL`, `XTRIM`, … |
//! | [`group_commands`] | `XGROUP`, `XCLAIM`, `XACK` |

mod codec;
mod entry_commands;
mod group_commands;
mod groups;
mod id;
mod idempotence;
mod nodes;

use id::Id;

use super::args::Args;
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::Keys;
use super::value::{DataType, Dialect, Raw, Value};
use crate::wire::rdb::Family;
use crate::wire::rdb::cursor::BadValue;
use groups::Groups;
use idempotence::Idempotence;
use nodes::Entries;

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("XADD", Keys::At(&[1]), entry_commands::xadd),
    Spec::new("XTRIM", Keys::At(&[1]), entry_commands::xtrim),
    Spec::new("XDEL", Keys::At(&[1]), entry_commands::xdel),
    Spec::new("XDELEX", Keys::At(&[1]), entry_commands::xdelex),
    Spec::new("XACKDEL", Keys::At(&[1]), entry_commands::xackdel),
    Spec::new("XSETID", Keys::At(&[1]), entry_commands::xsetid),
    Spec::new("XCFGSET", Keys::At(&[1]), entry_commands::xcfgset),
    Spec::new("XIDMPRECORD", Keys::At(&[1]), entry_commands::xidmprecord),
    Spec::new("XGROUP", Keys::At(&[2]), group_commands::xgroup),
    Spec::new("XCLAIM", Keys::At(&[1]), group_commands::xclaim),
    Spec::new("XACK", Keys::At(&[1]), group_commands::xack),
    Spec::refused(
        "XREADGROUP",
        "a master sends XCLAIM and XGROUP SETID in its place",
    ),
    Spec::losing(
        "XAUTOCLAIM",
        Keys::At(&[1]),
        "a master sends XCLAIM in its place",
    ),
    Spec::losing(
        "XNACK",
        Keys::At(&[1]),
        "entries that no consumer owns (Redis 8.8) are not modelled",
    ),
];

/// A stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    entries: Entries,
    /// The greatest id that an entry was given, or that `XSETID` has set.
    last: Id,
    /// The first entry's id. 0-0 if there is none.
    first: Id,
    /// The greatest id that was deleted other than by trimming.
    max_deleted: Id,
    /// How many entries were ever added.
    added: u64,
    groups: Groups,
    idempotence: Idempotence,
}

impl DataType for Stream {
    fn decode(raw: &Raw, _: Dialect) -> Option<Result<Self, BadValue>> {
        codec::decode(raw)
    }

    fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> u8 {
        codec::encode(self, dialect, out)
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Stream(value) => Some(value),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Stream(Box::new(self))
    }

    /// Streams stay when their last entry goes.
    fn is_empty(&self) -> bool {
        false
    }

    fn weight(&self) -> usize {
        let entries = self.entries.weight();
        entries
            .saturating_add(self.groups.weight())
            .saturating_add(self.idempotence.weight())
    }
}

impl Stream {
    /// The first entry may be another one now.
    fn find_first(&mut self) {
        self.first = if self.entries.len() == 0 {
            Id::MIN
        } else {
            // The list may still be empty.
            self.entries.first().unwrap_or(Id::MAX)
        };
    }
}

/// Does the server behave as Redis of this RDB version or newer? Valkey branched off Redis 7.2, whose version is 11.
fn since(dialect: Dialect, version: u32) -> bool {
    match dialect.family {
        Family::Redis => dialect.version >= version,
        Family::Valkey => version <= 11,
    }
}

/// Reads an argument as the id of an entry.
fn parse_id(args: &Args, arg: &[u8]) -> Result<Id, ApplyError> {
    Id::parse(arg).ok_or_else(|| args.diverged("an argument is no id"))
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
