//! Histories that are stored under a derived key, because the store holds another history under the id that the server
//! has.

use std::collections::BTreeMap;

use super::Catalog;
use crate::wire::position::ReplId;

/// What servers call such histories, and their keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Aliases(BTreeMap<ReplId, ReplId>);

impl Aliases {
    /// The history that a server with this id writes.
    #[must_use]
    pub fn key(&self, said: ReplId) -> ReplId {
        self.0.get(&said).copied().unwrap_or(said)
    }

    /// What a server calls the history.
    #[must_use]
    pub fn said(&self, key: ReplId) -> ReplId {
        let mut said = self.0.iter().filter(|(_, stored)| **stored == key);
        said.next().map_or(key, |(said, _)| *said)
    }

    /// From now on, a server with this id writes the history `key`.
    pub fn add(&mut self, said: ReplId, key: ReplId) {
        self.0.insert(said, key);
    }
}

impl Catalog {
    /// Of the histories with one id, the one that no other one of that id comes after.
    #[must_use]
    pub fn aliases(&self) -> Aliases {
        let docs = || {
            let all = self.histories.values().map(|history| &history.doc);
            all.filter(|doc| doc.replid.is_some() && self.is_restorable(doc.id))
        };
        let mut aliases = Aliases::default();
        for doc in docs() {
            let followed = docs().any(|other| {
                other.replid == doc.replid && other.before().any(|before| before == doc.id)
            });
            if let Some(said) = doc.replid.filter(|_| !followed) {
                aliases.add(said, doc.id);
            }
        }
        aliases
    }
}
