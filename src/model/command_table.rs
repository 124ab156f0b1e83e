//! The commands that a feed can contain (PROTOCOL.md C.9), of all data types.

use std::collections::HashMap;
use std::sync::LazyLock;

use foldhash::fast::RandomState;

use super::command::Spec;
use super::strings::{bits, hyperloglog};
use super::{
    any_type, functions, geo, hashes, lists, server_commands, sets, sort, streams, strings, zsets,
};

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
