//! A Redis that we have restored and promoted ourselves: where it stands is known, so it is asked to go on before anything is asked of
//! the store. What it takes meanwhile is in nobody's hands but its own, and its backlog is short.

use std::any::Any;
use std::fmt;

use super::Capture;
use super::resume::Known;
use crate::archive::{Catalog, LogEnd};
use crate::link::replication_info::Facts;
use crate::wire::position::ReplId;

/// Where a promoted server goes on from.
pub struct Promoted {
    /// The history that it was given. It is sealed.
    pub history: ReplId,
    /// The point that it was given.
    pub end: LogEnd,
    /// What the store was known to hold before that.
    pub catalog: Catalog,
    /// Is held until it is recorded that the history goes on.
    pub held: Box<dyn Any + Send + Sync>,
}

impl fmt::Debug for Promoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Promoted({} {})", self.history, self.end.boundary.offset)
    }
}

impl Promoted {
    /// Is this the server, and has it an id of its own now? One that has restarted since from an older RDB has left the same history
    /// at another point.
    fn is(&self, facts: &Facts) -> bool {
        let left = facts.replid2 == Some((self.history, self.end.boundary.offset));
        left && facts.replid.is_some_and(|id| id != self.history)
    }
}

impl Capture {
    /// The next session goes on from there.
    pub fn promoted(&mut self, promoted: Promoted) {
        self.refused = false;
        self.promoted = Some(promoted);
    }

    /// Is this the server that was promoted?
    #[must_use]
    pub fn has_promoted(&self, facts: &Facts) -> bool {
        let promoted = self.promoted.as_ref();
        promoted.is_some_and(|promoted| promoted.is(facts))
    }

    /// Did it turn out that another server goes on from that point?
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.refused
    }

    /// What is known without asking the store.
    pub(super) fn known_of_promoted(&mut self, facts: Option<&Facts>) -> Option<Known> {
        let is_it = facts.is_some_and(|facts| self.has_promoted(facts));
        let promoted = self.promoted.take().filter(|_| is_it)?;
        let known = Known {
            catalog: promoted.catalog.clone(),
            aliases: self.aliases.clone(),
            resume: Some((promoted.history, promoted.end.clone())),
            sample: None,
            latest: None,
            lacks: None,
            before: self.before.clone(),
            strangers: Vec::new(),
        };
        self.promoted = Some(promoted);
        Some(known)
    }
}
