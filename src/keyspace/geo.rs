//! Geospatial commands, on sorted sets.

use super::table::Spec;

pub(super) const COMMANDS: &[Spec] = &[];
