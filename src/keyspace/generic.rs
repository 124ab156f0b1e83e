//! Commands on keys of any type: deletion, expiry, renaming, copies.

use super::table::Spec;

pub(super) const COMMANDS: &[Spec] = &[];
