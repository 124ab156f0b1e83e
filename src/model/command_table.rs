//! The commands that can stand in a feed (PROTOCOL.md C.9): which keys each touches, and what it does.
//!
//! Each data type's file has the commands of that type in its `COMMANDS`.

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::args::Args;
use super::error::ApplyError;
use super::key_specs::Keys;
use super::strings::{bits, hyperloglog};
use super::{
    Keyspace, any_type, functions, geo, hashes, lists, server_commands, sets, sort, streams,
    strings, zsets,
};

/// What becomes of a command.
#[derive(Clone, Copy, Debug)]
pub enum Support {
    /// It is applied.
    Applied(fn(&mut Keyspace, &Args) -> Result<(), ApplyError>),
    /// It changes no data.
    Ignored,
    /// It cannot be applied, for this reason.
    Refused(&'static str),
}

/// A command.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name in upper case.
    pub name: &'static str,
    /// What it touches.
    pub keys: Keys,
    /// What becomes of it.
    pub support: Support,
}

impl Spec {
    /// One that is applied.
    pub(super) const fn new(
        name: &'static str,
        keys: Keys,
        apply: fn(&mut Keyspace, &Args) -> Result<(), ApplyError>,
    ) -> Self {
        Self {
            name,
            keys,
            support: Support::Applied(apply),
        }
    }

    /// One that changes no data.
    pub(super) const fn ignored(name: &'static str) -> Self {
        Self {
            name,
            keys: Keys::None,
            support: Support::Ignored,
        }
    }

    /// One that cannot be applied, which changes these keys and no other ones.
    pub(super) const fn losing(name: &'static str, keys: Keys, why: &'static str) -> Self {
        Self {
            name,
            keys,
            support: Support::Refused(why),
        }
    }

    /// One that cannot be applied, and whose keys are not known.
    pub(super) const fn refused(name: &'static str, why: &'static str) -> Self {
        Self {
            name,
            keys: Keys::None,
            support: Support::Refused(why),
        }
    }
}

/// All of them.
pub fn commands() -> impl Iterator<Item = &'static Spec> {
    let lists: [&'static [Spec]; 14] = [
        server_commands::COMMANDS,
        any_type::COMMANDS,
        functions::COMMANDS,
        strings::COMMANDS,
        bits::COMMANDS,
        hyperloglog::COMMANDS,
        lists::COMMANDS,
        sets::COMMANDS,
        sort::COMMANDS,
        zsets::COMMANDS[0],
        zsets::COMMANDS[1],
        geo::COMMANDS,
        hashes::COMMANDS,
        streams::COMMANDS,
    ];
    lists.into_iter().flatten()
}

/// The command of this name, in any case.
#[must_use]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    static BY_NAME: LazyLock<HashMap<&'static [u8], &'static Spec, RandomState>> =
        LazyLock::new(|| {
            commands()
                .map(|spec| (spec.name.as_bytes(), spec))
                .collect()
        });
    const LONGEST: usize = 32;
    let mut upper = [0u8; LONGEST];
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    BY_NAME.get(&*upper).copied()
}
