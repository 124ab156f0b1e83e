//! Consumer groups: which entries each consumer was given and has not acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use super::id::Id;
use crate::model::Blob;

/// Entries read are not known.
pub(super) const UNKNOWN: i64 = -1;
/// The consumer was never active.
pub(super) const NEVER: i64 = -1;
/// What is counted for a pending entry: in the group, and with its consumer.
const PENDING_WEIGHT: usize = 100;
/// What the accounts take for a group or a consumer.
const MEMBER_WEIGHT: usize = 200;

/// The groups, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(pub(super) BTreeMap<Blob, Group>);

/// A group.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The last entry that was given out.
    pub(super) last: Id,
    /// How many entries were read, counted from the first ever added.
    pub(super) read: i64,
    /// Entries that were given out and are not acknowledged.
    pub(super) pending: BTreeMap<Id, Pending>,
    /// The numbers of the consumers.
    names: BTreeMap<Blob, Owner>,
    consumers: BTreeMap<Owner, Consumer>,
    /// The number of the next consumer.
    next: Owner,
}

/// A consumer's number within its group.
pub(super) type Owner = u64;

/// An entry that is not acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// When it was given out last, Unix milliseconds.
    pub(super) delivered: i64,
    /// How often.
    pub(super) count: u64,
    /// The consumer that has it. Only [`Group::give`] changes it.
    owner: Owner,
}

/// Who reads.
#[derive(Clone, Debug)]
pub(super) struct Consumer {
    /// When it asked last, Unix milliseconds.
    pub(super) seen: i64,
    /// When it was given something last.
    pub(super) active: i64,
    pending: BTreeSet<Id>,
}

impl Groups {
    /// Does any group still need the entry: not read yet, or not acknowledged?
    pub(super) fn need(&self, id: Id) -> bool {
        self.0
            .values()
            .any(|group| group.last < id || group.pending.contains_key(&id))
    }

    /// Takes the entry from all groups, as if it were acknowledged.
    pub(super) fn forget(&mut self, id: Id) {
        for group in self.0.values_mut() {
            group.acknowledge(id);
        }
    }

    pub(super) fn weight(&self) -> usize {
        let groups = self.0.values().map(|group| {
            let members = group.names.len().saturating_add(1);
            let pending = group.pending.len().saturating_mul(PENDING_WEIGHT);
            members
                .saturating_mul(MEMBER_WEIGHT)
                .saturating_add(pending)
        });
        groups.fold(0, usize::saturating_add)
    }
}

impl Group {
    pub(super) fn new(last: Id, read: i64) -> Self {
        Self {
            last,
            read,
            pending: BTreeMap::new(),
            names: BTreeMap::new(),
            consumers: BTreeMap::new(),
            next: 0,
        }
    }

    /// The consumers, by name.
    pub(super) fn consumers(&self) -> Vec<(&Blob, &Consumer)> {
        let named = |(name, owner)| Some((name, self.consumers.get(owner)?));
        self.names.iter().filter_map(named).collect()
    }

    /// The consumer of this name. If it is new, it was `seen` at that time.
    pub(super) fn consumer(&mut self, name: &[u8], seen: i64) -> Owner {
        if let Some(owner) = self.names.get(name) {
            return *owner;
        }
        let owner = self.next;
        self.next = self.next.saturating_add(1);
        self.names.insert(name.into(), owner);
        let consumer = Consumer {
            seen,
            active: NEVER,
            pending: BTreeSet::new(),
        };
        self.consumers.insert(owner, consumer);
        owner
    }

    pub(super) fn consumer_mut(&mut self, owner: Owner) -> Option<&mut Consumer> {
        self.consumers.get_mut(&owner)
    }

    pub(super) fn has_consumer(&self, name: &[u8]) -> bool {
        self.names.contains_key(name)
    }

    /// Deletes a consumer with its pending entries.
    pub(super) fn remove_consumer(&mut self, name: &[u8]) {
        let consumer = self
            .names
            .remove(name)
            .and_then(|owner| self.consumers.remove(&owner));
        for id in consumer.into_iter().flat_map(|consumer| consumer.pending) {
            self.pending.remove(&id);
        }
    }

    /// The entry is the owner's from now on. `count` is made from the one that it had, if it was pending.
    pub(super) fn give(
        &mut self,
        id: Id,
        owner: Owner,
        delivered: i64,
        count: impl FnOnce(Option<u64>) -> u64,
    ) {
        let old = self.pending.get(&id).copied();
        let other = old.filter(|old| old.owner != owner);
        if let Some(consumer) = other.and_then(|old| self.consumers.get_mut(&old.owner)) {
            consumer.pending.remove(&id);
        }
        let pending = Pending {
            delivered,
            count: count(old.map(|old| old.count)),
            owner,
        };
        self.pending.insert(id, pending);
        if let Some(consumer) = self.consumers.get_mut(&owner) {
            consumer.pending.insert(id);
        }
    }

    /// The entry is pending no longer.
    pub(super) fn acknowledge(&mut self, id: Id) -> bool {
        let Some(pending) = self.pending.remove(&id) else {
            return false;
        };
        if let Some(consumer) = self.consumers.get_mut(&pending.owner) {
            consumer.pending.remove(&id);
        }
        true
    }
}

impl Consumer {
    pub(super) fn pending(&self) -> &BTreeSet<Id> {
        &self.pending
    }
}
