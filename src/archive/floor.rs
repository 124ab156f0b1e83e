//! Floors: from which point on a history is promised.
//!
//! A floor says that no point of its history before its offset is promised any more. It is created before anything is
//! deleted, and the highest one counts. Until the deletion begins, [`FLOOR_GRACE_MS`] later, what is below can still be
//! restored by whoever names it.
//!
//! Bases below a floor may stay **alone**: the base can be restored, and nothing of the log after it.

use std::collections::BTreeSet;

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use super::listing::PARALLEL_READS;
use super::names::{self, Name};
use super::{Archive, ArchiveError, BaseDigest, documents};
use crate::store::{Created, Listing, StoreError};
use crate::wire::position::{Offset, Position, ReplId};

/// So long after a floor was created, by the clock of the store, nothing below it is deleted. It is longer than the
/// longest restore, and than what writers count on ([`super::GRACE_MS`]).
pub const FLOOR_GRACE_MS: u64 = 24 * 3_600_000;
const _: () = assert!(FLOOR_GRACE_MS >= super::GRACE_MS);

/// `floor/<offset>.json`: created once, and never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloorDoc {
    /// [`super::FORMAT`].
    pub format: u32,
    /// The history.
    pub history: ReplId,
    /// The first point that is promised. It is behind the end of a history of which nothing is.
    pub offset: Offset,
    /// The time whose data the base that stays holds, Unix milliseconds.
    pub as_of_unix_ms: i64,
    /// The base that stays, with which all that is promised begins. It may stand in a later history.
    pub base: Position,
    /// What identifies its bytes, as its manifest says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<BaseDigest>,
    /// Bases of this history below the offset that stay alone.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub alone: BTreeSet<Offset>,
    /// The newest point when the floor was made.
    pub tip: Position,
    /// What was asked for, for people.
    pub policy: String,
    /// Who made it.
    pub writer: String,
    /// Unix milliseconds, by the clock of the machine that made it.
    pub created_unix_ms: i64,
}

/// A floor of a history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floor {
    /// The first point that is promised.
    pub offset: Offset,
    /// When it was created, by the clock of the store.
    pub created: Created,
    /// What it says. None: it cannot be read. Its name says the offset all the same.
    pub doc: Option<FloorDoc>,
}

impl Floor {
    /// Does the base stay without the log after it?
    #[must_use]
    pub fn leaves_alone(&self, base: Offset) -> bool {
        let alone = |doc: &FloorDoc| doc.alone.contains(&base);
        base < self.offset && self.doc.as_ref().is_none_or(alone)
    }

    /// Is it this one alone, and not the `higher` one, that says of one of these bases that the log after it may be gone?
    pub(crate) fn tells_more_than(&self, higher: &Self, bases: &BTreeSet<Offset>) -> bool {
        let tells = |base: &Offset| self.leaves_alone(*base) && !higher.leaves_alone(*base);
        bases.iter().any(tells)
    }
}

/// The floors of a history, ascending. Lower ones stay until the deletion below a higher one is done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Floors(Vec<Floor>);

impl Floors {
    /// Of these, in any order.
    #[must_use]
    pub fn new(mut floors: Vec<Floor>) -> Self {
        floors.sort_by_key(|floor| floor.offset);
        Self(floors)
    }

    /// The one that counts.
    #[must_use]
    pub fn highest(&self) -> Option<&Floor> {
        self.0.last()
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Floor> {
        self.0.iter()
    }

    /// Is a point not promised any more?
    #[must_use]
    pub fn is_below(&self, at: Offset) -> bool {
        self.highest().is_some_and(|floor| at < floor.offset)
    }

    /// May the log after a base be gone, although the base is there? (The manifests of all other bases are deleted
    /// before their log.)
    #[must_use]
    pub fn is_alone(&self, base: Offset) -> bool {
        self.0.iter().any(|floor| floor.leaves_alone(base))
    }
}

impl Archive {
    /// The floors of a history.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn floors(&self, history: ReplId) -> Result<Floors, ArchiveError> {
        let mut found = Vec::new();
        let prefix = names::floors(history);
        let mut listed = self.store.list_with(Listing::of(&prefix)).await;
        while let Some(object) = listed.try_next().await? {
            if let Some(Name::Floor(at)) = Name::parse(&object.name) {
                found.push((at.offset, object.created));
            }
        }
        self.read_floors(history, &found).await
    }

    /// Those that were listed, with the times of their creation.
    pub(super) async fn read_floors(
        &self,
        history: ReplId,
        listed: &[(Offset, Created)],
    ) -> Result<Floors, ArchiveError> {
        let floors: Vec<Floor> = stream::iter(listed.to_vec())
            .map(|(offset, created)| async move {
                self.read_floor(Position { history, offset }, created).await
            })
            .buffered(PARALLEL_READS)
            .try_collect()
            .await?;
        Ok(Floors::new(floors))
    }

    async fn read_floor(&self, at: Position, created: Created) -> Result<Floor, ArchiveError> {
        let object = Name::Floor(at).to_string();
        let read = match self.read_document(&object).await {
            Err(error @ ArchiveError::Store(_)) => return Err(error),
            Err(error) => Err(error),
            Ok(None) => Err(ArchiveError::Missing {
                object: object.clone(),
            }),
            Ok(Some(bytes)) => documents::from_bytes::<FloorDoc>(&object, &bytes),
        };
        let is_its_own = |doc: &FloorDoc| (doc.history, doc.offset) == (at.history, at.offset);
        if let Err(error) = &read {
            tracing::warn!(%error, "a floor cannot be read. Its name counts");
        }
        Ok(Floor {
            offset: at.offset,
            created,
            doc: read.ok().filter(is_its_own),
        })
    }

    /// Creates a floor, and returns the one that counts: if there is one at that offset already, it is that one, whatever
    /// it says.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn create_floor(&self, doc: &FloorDoc) -> Result<Floor, ArchiveError> {
        let at = Position {
            history: doc.history,
            offset: doc.offset,
        };
        let object = Name::Floor(at).to_string();
        let body = documents::to_bytes(&object, doc)?;
        match self.store.create(&object, body).await {
            Ok(created) => Ok(Floor {
                offset: doc.offset,
                created,
                doc: Some(doc.clone()),
            }),
            Err(StoreError::AlreadyExists { created, .. }) => self.read_floor(at, created).await,
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
#[path = "floor_tests.rs"]
mod tests;
