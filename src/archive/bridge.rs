//! Bridges over the gaps of a log, and its seal. With them the log stays one chain, and all of its writers meet in it.

use super::{AppendError, Archive, ArchiveError, Catalog, Fence, Gap, Name};
use crate::log::segment::{self, Entry, SegmentMeta};
use crate::store::StoreError;
use crate::wire::position::{Offset, Position, ReplId};

/// The most gaps that are bridged one after another. Each one is left by a full sync whose writer died before its
/// bridge, or another writer bridged it first.
const BRIDGES: u32 = 100;
/// How often another writer may be faster with a segment than we with the seal. Each time it has stored some more.
const SEAL_TRIES: usize = 1000;

/// Why a log was not sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// Another writer stores one segment after the other.
    #[error("another writer is still storing, now after offset {at}. Stop it first")]
    StillWritten {
        /// The history.
        history: ReplId,
        /// Where its log ended at the last look.
        at: Offset,
    },
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

impl From<SealError> for ArchiveError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Archive(error) => error,
            SealError::StillWritten { history, .. } => Self::Store(StoreError::Transient {
                what: format!("cannot seal the log of history {history}"),
                cause: error.to_string(),
            }),
        }
    }
}

impl Archive {
    /// The byte after which a log is sealed. None: it is not sealed, or damage hides it.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn sealed_at(
        &self,
        catalog: &Catalog,
        history: ReplId,
    ) -> Result<Option<Offset>, ArchiveError> {
        match self.log_end(catalog, history).await {
            Ok(end) => Ok(end.sealed.map(|seal| seal.start)),
            Err(error @ ArchiveError::Store(_)) => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Bridges a gap up to the base after it. Any other writer of this history will meet the bridge, as it would meet a
    /// seal.
    ///
    /// # Errors
    /// [`AppendError::Taken`] or [`AppendError::Passed`] when another writer was first.
    pub async fn bridge(
        &self,
        history: ReplId,
        gap: &Gap,
        writer: &str,
    ) -> Result<(), AppendError> {
        let meta = SegmentMeta {
            clock_back: None,
            history,
            start: gap.from,
            end: gap.to.offset,
            db_at_start: gap.db,
            starts_at_boundary: gap.at_boundary,
            boundary: Some(gap.to),
            marks: Vec::new(),
            writer: writer.to_owned(),
        };
        let (header, body) = segment::encode_gap(meta)
            .map_err(|error| ArchiveError::damaged("a gap's header", error.to_string()))?;
        self.append(&mut Fence::default(), &header, body).await
    }

    /// Bridges the gap before the end of a log, if nobody has bridged it. This is done before the log is sealed,
    /// because a writer on the other side would not find the seal. Returns where the log then ends. None: that is not
    /// known.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn bridged_end(
        &self,
        history: ReplId,
        writer: &str,
    ) -> Result<Option<Offset>, ArchiveError> {
        let mut catalog = self.only(history).await?;
        self.bridged(&mut catalog, history, writer).await
    }

    /// The same, with the catalog that shows it: in a later one, another base may be beyond another gap.
    ///
    /// # Errors
    /// [`ArchiveError`], of the store.
    pub async fn bridged(
        &self,
        catalog: &mut Catalog,
        history: ReplId,
        writer: &str,
    ) -> Result<Option<Offset>, ArchiveError> {
        for _ in 0..BRIDGES {
            let end = match self.log_end(catalog, history).await {
                Ok(end) => end,
                Err(error @ ArchiveError::Store(_)) => return Err(error),
                Err(_) => return Ok(None),
            };
            let Some(gap) = end.unbridged else {
                return Ok(Some(end.end));
            };
            match self.bridge(history, &gap, writer).await {
                Ok(()) | Err(AppendError::Taken(_) | AppendError::Passed { .. }) => {}
                Err(AppendError::Archive(error)) => return Err(error),
            }
            self.refresh(catalog, history).await?;
        }
        Err(ArchiveError::Store(StoreError::Transient {
            what: format!("cannot bridge the gaps in the log of history {history}"),
            cause: format!("{BRIDGES} bridges were created, and the log still has a gap"),
        }))
    }

    /// Seals a log after what is stored of it, and not before `known`: what another writer stores meanwhile is in it.
    /// Returns the end that was sealed.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn seal_end(
        &self,
        known: Position,
        reason: &str,
        writer: &str,
        unix_ms: i64,
    ) -> Result<Position, SealError> {
        let stored = self.bridged_end(known.history, writer).await?;
        let at = Position {
            offset: stored.map_or(known.offset, |stored| stored.max(known.offset)),
            ..known
        };
        self.seal_from(at, reason, writer, unix_ms).await
    }

    /// The same for a log that was bridged, and was found to end at `at`.
    ///
    /// # Errors
    /// [`SealError`].
    pub async fn seal_from(
        &self,
        at: Position,
        reason: &str,
        writer: &str,
        unix_ms: i64,
    ) -> Result<Position, SealError> {
        let Position {
            history,
            offset: mut end,
        } = at;
        for _ in 0..SEAL_TRIES {
            let sealed = self.seal(history, end, reason, writer, unix_ms).await;
            let passed = match sealed {
                Ok(()) => return Ok(Position { offset: end, ..at }),
                Err(AppendError::Taken(entry)) => match *entry {
                    Entry::Seal(seal) => {
                        let offset = seal.start;
                        return Ok(Position { offset, ..at });
                    }
                    Entry::Segment(theirs) => {
                        end = theirs.meta.end.max(end.plus(1));
                        None
                    }
                },
                // Whoever seals slept for long: it seals again, behind all that is there.
                Err(AppendError::Passed { next }) => Some(next),
                Err(AppendError::Archive(error)) => return Err(error.into()),
            };
            let stored = self.bridged_end(history, writer).await?;
            match (passed, stored) {
                (_, Some(stored)) if stored > end => end = stored,
                (None, _) => {}
                (Some(first_byte), _) => {
                    let object = Name::Log {
                        history,
                        first_byte,
                    };
                    let reason = "it is not known what it goes on from";
                    return Err(ArchiveError::damaged(&object.to_string(), reason).into());
                }
            }
        }
        Err(SealError::StillWritten { history, at: end })
    }
}

#[cfg(test)]
#[path = "bridge_tests.rs"]
mod tests;
