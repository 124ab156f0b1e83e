//! The archive: the only owner of object names and manifests.
//!
//! ```text
//! archive.json                                   format version, created once
//! histories/<id>/history.json                    parent, source server, created
//! histories/<id>/base/<offset:020>.rdb.zst       snapshot
//! histories/<id>/base/<offset:020>.json          its manifest, written last: without it there is no base
//! histories/<id>/log/<from:020>.resp.zst         segment from byte `from` on, or the seal of the log
//! ```

mod base;
mod catalog;
mod documents;
mod log;
mod names;

use bytes::Bytes;
use futures::stream::BoxStream;

pub use base::{BaseWriter, StoredBase};
pub use catalog::{Ambiguous, Catalog, History};
pub use documents::{
    ARCHIVE_KIND, ArchiveDoc, BaseKind, BaseManifest, DOCUMENT_LIMIT, DbCounts, FORMAT, HistoryDoc,
    Parent, ServerInfo,
};
pub use log::{AppendError, ChainEnd, ChainItem, LogEnd, PARALLEL_UPLOADS};
pub use names::Name;

use crate::position::{Offset, Position, ReplId};
use crate::segment::{Entry, SegmentHeader};
use crate::store::{SharedStore, StoreError};

/// Raw bytes in order, verified as far as they have come; the last item is an error unless everything was right.
pub type RawStream = BoxStream<'static, Result<Bytes, ArchiveError>>;

/// An archive in a store.
#[derive(Debug, Clone)]
pub struct Archive {
    store: SharedStore,
}

/// What can go wrong with an archive.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are objects, but no `archive.json`, or not one of ours.
    #[error("{url} is not a backfeed archive: {reason}")]
    NotAnArchive {
        /// The store.
        url: String,
        /// What was found.
        reason: String,
    },
    /// There is nothing at all.
    #[error("{url} is empty: is it the right place? Nothing has been backed up there")]
    EmptyStore {
        /// The store.
        url: String,
    },
    /// Written by a newer backfeed.
    #[error(
        "{object} has format {version}, and this build reads up to {supported}: use a newer backfeed"
    )]
    NewerFormat {
        /// The object.
        object: String,
        /// The format that it has.
        version: u32,
        /// The newest that this build reads.
        supported: u32,
    },
    /// An object that should be there is not.
    #[error("{object} is missing")]
    Missing {
        /// The object.
        object: String,
    },
    /// An object ends early.
    #[error("{object} is truncated: {reason}")]
    Truncated {
        /// The object.
        object: String,
        /// What is missing.
        reason: String,
    },
    /// An object is not what it should be.
    #[error("{object} {reason}")]
    Damaged {
        /// The object.
        object: String,
        /// How it shows.
        reason: String,
    },
    /// An object says that it is another one than its name says: it was renamed or copied.
    #[error("{object} was renamed: it says that it is {says}")]
    Renamed {
        /// The object.
        object: String,
        /// What it says that it is.
        says: String,
    },
    /// The data of a base is already there, without a manifest.
    #[error("{object} is already there")]
    BaseExists {
        /// The object.
        object: String,
    },
    /// There is no such history.
    #[error("there is no history {id} in the archive")]
    UnknownHistory {
        /// The id asked for.
        id: ReplId,
    },
    /// The parents of a history lead back to itself.
    #[error("the parents of history {id} lead back to itself")]
    Cycle {
        /// The history.
        id: ReplId,
    },
    /// A history has neither base nor parent yet.
    #[error("nothing of history {id} has been stored yet")]
    NothingStored {
        /// The history.
        id: ReplId,
    },
}

impl ArchiveError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }

    fn damaged(object: &str, reason: impl Into<String>) -> Self {
        Self::Damaged {
            object: object.to_owned(),
            reason: reason.into(),
        }
    }
}

impl Archive {
    /// Opens the archive in `store`: [`ArchiveError::EmptyStore`] or [`ArchiveError::NotAnArchive`] when there is none.
    pub async fn open(store: SharedStore) -> Result<Self, ArchiveError> {
        let _ = store;
        todo!()
    }

    /// Opens the archive in `store`, or makes one if the store is empty. `now_unix_ms` goes into `archive.json` then.
    pub async fn open_or_create(
        store: SharedStore,
        now_unix_ms: i64,
    ) -> Result<Self, ArchiveError> {
        let _ = (store, now_unix_ms);
        todo!()
    }

    /// The store, for what an operator should be told.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Lists what is there. What cannot be used is told in it, and is no error.
    pub async fn catalog(&self) -> Result<Catalog, ArchiveError> {
        todo!()
    }

    /// Writes `history.json`. One that exists already stays, and is no error.
    pub async fn create_history(&self, doc: &HistoryDoc) -> Result<(), ArchiveError> {
        let _ = doc;
        todo!()
    }

    /// Begins the data of a base.
    pub async fn begin_base(&self, at: Position) -> Result<BaseWriter, ArchiveError> {
        let _ = at;
        todo!()
    }

    /// Writes the manifest, after which the base counts. One that exists already stays, and is no error.
    pub async fn commit_base(&self, manifest: &BaseManifest) -> Result<(), ArchiveError> {
        let _ = manifest;
        todo!()
    }

    /// The RDB of a base, verified: stored size, raw size, CRC-64.
    pub async fn read_base(&self, manifest: &BaseManifest) -> Result<RawStream, ArchiveError> {
        let _ = manifest;
        todo!()
    }

    /// The data of a base that has no manifest yet, and how many bytes are stored. Each zstd frame's checksum is verified; the
    /// caller checks the RDB, and counts.
    pub async fn read_stray_base(&self, at: Position) -> Result<(u64, RawStream), ArchiveError> {
        let _ = at;
        todo!()
    }

    /// Creates a segment from what [`crate::segment::encode`] gave. If the very same bytes are there already (an earlier try
    /// whose answer was lost), that is success. Transient errors are the caller's to retry.
    pub async fn append(&self, header: &SegmentHeader, body: Bytes) -> Result<(), AppendError> {
        let _ = (header, body);
        todo!()
    }

    /// Seals a log after its last byte. A seal that is there already is success; a segment is [`AppendError::Taken`].
    pub async fn seal(
        &self,
        history: ReplId,
        after: Offset,
        reason: &str,
        writer: &str,
        unix_ms: i64,
    ) -> Result<(), AppendError> {
        let _ = (history, after, reason, writer, unix_ms);
        todo!()
    }

    /// The header of the segment or seal whose first byte is number `first_byte`, read without its payload.
    pub async fn entry(
        &self,
        history: ReplId,
        first_byte: u64,
    ) -> Result<Option<Entry>, ArchiveError> {
        let _ = (history, first_byte);
        todo!()
    }

    /// Where the log of `history` ends. It reads the last few headers, and goes over to a base that stands beyond a gap.
    /// [`ArchiveError::NothingStored`] when the history has no base, no segment and no parent.
    pub async fn log_end(
        &self,
        catalog: &Catalog,
        history: ReplId,
    ) -> Result<LogEnd, ArchiveError> {
        let _ = (catalog, history);
        todo!()
    }

    /// The headers in order, from the segment that holds byte `after + 1` on, and why they end. An error is the last item.
    #[must_use]
    pub fn chain(
        &self,
        catalog: &Catalog,
        history: ReplId,
        after: Offset,
    ) -> BoxStream<'static, Result<ChainItem, ArchiveError>> {
        let _ = (catalog, history, after);
        todo!()
    }

    /// The raw bytes of a segment, verified against its header.
    pub async fn read_segment(&self, header: &SegmentHeader) -> Result<RawStream, ArchiveError> {
        let _ = header;
        todo!()
    }
}
