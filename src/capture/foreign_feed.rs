//! A server whose feed differs from the history that the store has under its id. Its machine was set back to an earlier
//! state, or it is a copy of another server. It gets a full sync, and a history under a key that we derive.

use super::{Capture, SessionEnd, predecessor};
use crate::archive::{ArchiveError, Catalog};
use crate::link::replication_info::{Facts, Role};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Offset, Position, ReplId};

/// After so many invalid feeds at one point in a row, the feed of the server counts as foreign.
const CORRUPT_MAX: u32 = 3;

/// What was seen of the server's feed.
#[derive(Debug, Default)]
pub(super) struct ForeignFeed {
    /// The feed is not that of this history.
    found: Option<Found>,
    /// How often in a row what came after this point was no feed.
    corrupt: Option<(Position, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Found {
    history: ReplId,
    /// Another writer stores that history now: its server is alive.
    is_written: bool,
}

impl ForeignFeed {
    /// Is it the feed of another history than this?
    pub(super) fn is_other_than(&self, history: ReplId) -> bool {
        self.found.is_some_and(|found| found.history == history)
    }

    /// Is that one's own server alive?
    pub(super) fn is_twin_of(&self, history: ReplId) -> bool {
        self.found
            .is_some_and(|found| found.history == history && found.is_written)
    }
}

/// The key for the new history of a server that was set back. It is used instead of `history`. Two listeners of the
/// server compute the same key, so they share one log.
fn key_instead_of(history: ReplId) -> ReplId {
    let mut bytes = [0; 20];
    for (number, part) in bytes.chunks_mut(8).enumerate() {
        let crc = Crc64::of(format!("{number} {history}").as_bytes()).to_le_bytes();
        part.copy_from_slice(crc.get(..part.len()).unwrap_or_default());
    }
    ReplId::from_random(bytes)
}

/// A history that a server continues under its id, and how far it is known.
pub(super) type Had = Option<(ReplId, Offset)>;

impl Capture {
    /// A session ended: what does that say of the feed?
    pub(super) fn note_strange(&mut self, end: &SessionEnd) {
        match end {
            SessionEnd::ForeignFeed { at } => {
                let is_written = self.log.as_ref().is_some_and(|log| log.foreign().is_some());
                self.foreign.found = Some(Found {
                    history: at.history,
                    is_written,
                });
            }
            SessionEnd::Feed(_) => {
                let Some(log) = &self.log else {
                    return;
                };
                let at = log.buffer(|buffer| Position {
                    history: buffer.history(),
                    offset: buffer.boundary().offset,
                });
                let times = match self.foreign.corrupt {
                    Some((before, times)) if before == at => times.saturating_add(1),
                    _ => 1,
                };
                self.foreign.corrupt = Some((at, times));
                if times >= CORRUPT_MAX {
                    tracing::warn!(%at, "what follows was no valid feed {times} times: taking a full sync, as a \
                                         history of its own");
                    self.foreign.found = Some(Found {
                        history: at.history,
                        is_written: false,
                    });
                }
            }
            _ => {}
        }
    }

    /// The server is followed under a history of its own now.
    pub(super) fn is_no_stranger(&mut self) {
        self.foreign = ForeignFeed::default();
    }

    /// The key under which a full sync of a server is stored. `had`: how much of the history with its id was stored
    /// before the server was asked. A master that is below that was set back. A replica may be behind.
    pub(super) fn key_of_full_sync(
        &mut self,
        at: Position,
        had: Had,
        facts: Option<&Facts>,
    ) -> ReplId {
        let known = self.aliases.key(at.history);
        let is_master = facts.is_some_and(|facts| facts.role == Role::Master);
        let before = had.filter(|(id, end)| is_master && *id == known && at.offset < *end);
        if let Some((_, end)) = before {
            tracing::warn!(
                stored = %end, now = %at,
                "the server is before what is stored of its history, and it is no replica: its machine was set back to \
                 a snapshot. What it does now becomes a history of its own. To restore what was stored before, \
                 name history {known}"
            );
        }
        if before.is_none() && !self.foreign.is_other_than(known) {
            return known;
        }
        let key = key_instead_of(known);
        self.aliases.add(at.history, key);
        key
    }

    /// The process that began a history under a derived key may have died before it sealed the one that this history
    /// comes after.
    pub(super) async fn seal_before(
        &self,
        catalog: &Catalog,
        history: Option<ReplId>,
    ) -> Result<(), ArchiveError> {
        let history = history.and_then(|id| catalog.histories.get(&id));
        let Some(doc) = history.map(|history| &history.doc) else {
            return Ok(());
        };
        if doc.replid.is_none() {
            return Ok(());
        }
        let ends: Vec<Position> = doc.replaced().collect();
        predecessor::seal(&self.archive, &ends, doc, &self.writer, (self.clock)()).await
    }

    /// What the server calls a history.
    pub(super) fn said(&self, history: ReplId, said: Option<&Facts>) -> ReplId {
        let ids = said.map_or([None, None], |facts| {
            [facts.replid, facts.replid2.map(|(id, _)| id)]
        });
        let mut known = ids.into_iter().flatten();
        let known = known.find(|id| self.aliases.key(*id) == history);
        known.unwrap_or_else(|| self.aliases.said(history))
    }

    /// The ids of a server, as the keys under which the store has its histories.
    #[must_use]
    pub fn named(&self, facts: &Facts) -> Facts {
        facts.named(|id| self.aliases.key(id))
    }
}
