//! Strings as arrays of bits.

use super::table::Spec;

pub(super) const COMMANDS: &[Spec] = &[];
