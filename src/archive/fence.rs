//! Is what a writer created in a log part of that log?
//!
//! The log is its own fence, because each name in it can be created once ([`super::log`]). A name that expiry deleted
//! can be created again. A writer that slept meanwhile would create it, and acknowledge what nobody restores. So a
//! create that could have met such a name is *in doubt*. Before anything of it is acknowledged, the writer looks
//! whether the log has an object beyond. If so, the log went on without this writer.
//!
//! # Why that is enough
//! - **Whoever was passed finds something beyond.** A name is deleted only while the log has an object with a higher
//!   one: the last object of a log is never deleted. So from the first create of a deleted name on, something always
//!   stands beyond it.
//! - **Whoever does not look was not passed.** The next name of a writer is created after the link before it, by
//!   whomever. It is deleted [`GRACE_MS`] after that at the earliest, by the clock of the store. So if the link before
//!   and the new one were created with less time between, by the same clock, nobody can have deleted the name. No clock
//!   of ours is asked. It may be wrong, and it stands still with a machine that is set back to a snapshot of its
//!   memory.
//! - **The look comes after the create.** Before it, it would tell nothing of what happens until the create arrives.
//!
//! `docs/dev/LIFECYCLE.md` has the rules that expiry has to keep.

use futures::TryStreamExt;

use super::names::{self, Name};
use super::{AppendError, Archive, ArchiveError, Catalog};
use crate::log::segment::{Entry, SealHeader};
use crate::store::{Created, Listing};
use crate::wire::position::{Offset, ReplId};

/// An object of a log stays for so long at least, from its creation on, by the clock of the store.
pub const GRACE_MS: u64 = 2 * 3_600_000;

/// Links that were created with less time between are in no doubt. The rest of the grace is for a service whose
/// machines differ in their clocks, and for requests that take long.
const DOUBT_MS: u64 = GRACE_MS / 8;

/// How often an object that was listed may be deleted before it is read.
const LOOKS: usize = 10;

/// What a writer of one log knows of its last link.
#[derive(Debug, Default)]
pub struct Fence {
    /// When it was created, if the store says so.
    last: Created,
}

impl Fence {
    /// Could the name of a link that was created then have been deleted before?
    pub(super) fn is_in_doubt(&self, created: Created) -> bool {
        let between = self.last.zip(created);
        between.is_none_or(|(last, created)| created.abs_diff(last) >= DOUBT_MS)
    }

    /// This is the last link now.
    pub(super) fn passed(&mut self, created: Created) {
        self.last = created;
    }
}

impl Archive {
    /// Looks for what the log has beyond the object that begins after `start`.
    ///
    /// # Errors
    /// [`AppendError::Taken`] with the seal, if the log was sealed there; else [`AppendError::Passed`].
    pub(super) async fn look_beyond(
        &self,
        history: ReplId,
        start: Offset,
    ) -> Result<(), AppendError> {
        let mut from = start.next_byte();
        for _ in 0..LOOKS {
            let beyond = self.two_beyond(history, from).await?;
            let Some(next) = beyond.first().copied() else {
                return Ok(());
            };
            match self.entry(history, next).await {
                // What stands before something else is no end of the log.
                Ok(Some(seal @ Entry::Seal(_))) if beyond.len() == 1 => {
                    return Err(AppendError::Taken(Box::new(seal)));
                }
                Err(error @ ArchiveError::Store(_)) => return Err(error.into()),
                // It was deleted since. Then another one is beyond.
                Ok(None) => from = next,
                Ok(Some(_)) | Err(_) => return Err(AppendError::Passed { next }),
            }
        }
        Err(AppendError::Passed { next: from })
    }

    /// The first two objects of a log that begin after byte `first`.
    async fn two_beyond(&self, history: ReplId, first: u64) -> Result<Vec<u64>, ArchiveError> {
        let prefix = names::log(history);
        let from = Name::Log {
            history,
            first_byte: first.saturating_add(1),
        };
        let from = from.to_string();
        let wanted = Listing::of(&prefix).from(&from).pages_of(2);
        let mut listed = self.store.list_with(wanted).await;
        let mut found = Vec::new();
        while found.len() < 2
            && let Some(object) = listed.try_next().await?
        {
            if let Some(Name::Log { first_byte, .. }) = Name::parse(&object.name) {
                found.push(first_byte);
            }
        }
        Ok(found)
    }

    /// The same where somebody has deleted a seal in spite of all.
    pub(super) async fn look_for_successor(
        &self,
        history: ReplId,
        start: Offset,
    ) -> Result<(), AppendError> {
        match self.sealed_by_successor(history, start).await? {
            Some(seal) => Err(AppendError::Taken(Box::new(Entry::Seal(seal)))),
            None => Ok(()),
        }
    }

    /// Was a log sealed, although no seal shows it? A history is sealed before it is recorded which one continues it.
    /// (One under a key of its own is recorded before that.) `start`: where its log ends, if that is not recorded.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn sealed_by_successor(
        &self,
        history: ReplId,
        start: Offset,
    ) -> Result<Option<SealHeader>, ArchiveError> {
        let recorded = self.successor(history).await?;
        let Some(recorded) = recorded.filter(|recorded| recorded.child.replid.is_none()) else {
            return Ok(None);
        };
        let child = &recorded.child;
        let parent = child.parent.iter().map(|at| (at.history, at.offset));
        let replaced = child.replaced().map(|at| (at.history, at.offset));
        let mut left = parent.chain(replaced).filter(|(id, _)| *id == history);
        Ok(Some(SealHeader {
            history,
            start: left.next().map_or(start, |(_, offset)| offset),
            reason: format!("it continues as {}", child.id),
            writer: recorded.writer.clone(),
            sealed_unix_ms: child.created_unix_ms,
        }))
    }

    /// The seal of a log of which it is not known where it ends: its last object.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn last_seal(
        &self,
        catalog: &Catalog,
        history: ReplId,
    ) -> Result<Option<SealHeader>, ArchiveError> {
        let Some(last) = self.last_of_log(catalog, history, 1).await?.pop() else {
            return Ok(None);
        };
        match self.entry_of(history, last).await {
            Ok(Some(Entry::Seal(seal))) => Ok(Some(seal)),
            Err(error @ ArchiveError::Store(_)) => Err(error),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
