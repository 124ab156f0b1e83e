//! `HyperLogLog`: a string that counts.

use super::table::Spec;

pub(super) const COMMANDS: &[Spec] = &[];
