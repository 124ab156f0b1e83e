//! Commands about the feed itself, and about whole databases.

use super::table::Spec;

pub(super) const COMMANDS: &[Spec] = &[];
