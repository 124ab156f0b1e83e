//! What a command is: its name, the keys that it touches, and the function that applies it. Each data type lists its
//! own commands in its `COMMANDS`. [`super::command_table`] joins the lists.

use super::Keyspace;
use super::args::Args;
use super::error::ApplyError;
use super::key_specs::Keys;

/// How a command is handled.
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
    /// How it is handled.
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

    /// A command that cannot be applied. It changes these keys and no other ones.
    pub(super) const fn losing(name: &'static str, keys: Keys, why: &'static str) -> Self {
        Self {
            name,
            keys,
            support: Support::Refused(why),
        }
    }

    /// A command that cannot be applied, and whose keys are not known.
    pub(super) const fn refused(name: &'static str, why: &'static str) -> Self {
        Self {
            name,
            keys: Keys::None,
            support: Support::Refused(why),
        }
    }
}
