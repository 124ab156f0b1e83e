//! The archive: the only owner of object names and manifests.
//!
//! ```text
//! archive.json                                   format version, created once
//! sidecar.json                                   which server's sidecar it belongs to
//! first.json                                     which history a sidecar began with, in an empty store
//! clock/<id>.json                                created to learn what the clock of the store says, and deleted at once
//! holds/<name>.json                              a point that stays, and what it needs
//! histories/<id>/history.json                    parent, source server, created
//! histories/<id>/base/<offset:020>.rdb.zst       snapshot
//! histories/<id>/base/<offset:020>.json          its manifest, written last: without it there is no base
//! histories/<id>/base/<offset:020>.verified.json who has since read it to the end, and found it sound
//! histories/<id>/base/<offset:020>.<unix ms:020>.drilled.json  a restore from it that was tried, and what came of it
//! histories/<id>/floor/<offset:020>.json         no point before this offset is promised any more
//! histories/<id>/log/<from:020>.resp.zst         segment from byte `from` on, or the seal of the log
//! histories/<id>/span/<from:020>-<to:020>.resp.zst  many segments in one object
//! histories/<id>/takeover/<number:020>.json      who is restoring a Redis from it
//! histories/<id>/successor.json                  which history continues it ([`takeover`])
//! ```

pub mod digest;

mod ages;
mod aliases;
mod aside;
mod base;
mod branch;
mod bridge;
mod catalog;
mod chain;
mod cluster;
mod delete;
mod documents;
mod empty_start;
mod error;
mod fence;
mod floor;
mod hold;
mod kept;
mod listing;
mod log;
mod log_objects;
#[cfg(feature = "cli")]
mod merge;
mod names;
#[cfg(feature = "cli")]
mod object_check;
mod object_reads;
mod other_copy;
mod outline;
mod owner;
mod problem;
mod run;
mod store_check;
pub mod takeover;
mod tip;
mod usage;

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;

pub use ages::Ages;
pub use aliases::Aliases;
pub use base::{BASE_FRAME_RAW, BaseWriter, Compared, FRAMES_AT_ONCE, StoredBase};
pub use bridge::SealError;
pub use catalog::{Ambiguous, Catalog, History};
pub use chain::{ChainEnd, ChainItem, Gap, LogEnd};
pub use cluster::{ClusterPlace, MappedNode, MappedShard, SlotMap, shard_url};
pub use delete::{Deleted, Deleter, Stay};
pub use documents::{
    ARCHIVE_KIND, ArchiveDoc, BaseDigest, BaseKind, BaseManifest, DOCUMENT_LIMIT, DbCounts,
    DrillDoc, FORMAT, HistoryDoc, Parent, Reading, ServerInfo, VerdictDoc,
};
pub use empty_start::begins_at;
pub use error::ArchiveError;
pub use fence::{Fence, GRACE_MS};
pub use floor::{FLOOR_GRACE_MS, Floor, FloorDoc, Floors};
pub use hold::{BadHoldName, HeldLog, HoldDoc, HoldName};
pub use log::AppendError;
pub use log_objects::LogObject;
#[cfg(feature = "cli")]
pub(crate) use merge::SEGMENTS as SPAN_SEGMENTS;
#[cfg(feature = "cli")]
pub use merge::Span;
pub use names::Name;
#[cfg(feature = "cli")]
pub(crate) use object_check::{Folder, HOLDS, ObjectCheck, check_document, held_base};
pub use outline::Extent;
pub use owner::SidecarDoc;
pub use problem::Problem;
pub use run::MergeError;
pub use tip::Tip;
pub use usage::{Amount, Kinds, Sizes, Usage};

use self::kept::Kept;
use crate::runtime::{self, buffers::Buffers};
use crate::store::{Listing, SharedStore};

/// Who writes to an archive, for operators: `program`, and a number of this run of it.
pub(crate) fn new_writer(program: &str) -> String {
    format!("{program}/{:016x}", runtime::random())
}

/// Raw bytes in order, verified as far as they have come. The last item is an error unless everything was right.
pub type RawStream = BoxStream<'static, Result<Bytes, ArchiveError>>;

/// An archive in a store.
#[derive(Debug, Clone)]
pub struct Archive {
    store: SharedStore,
    /// Buffers for what is decompressed.
    buffers: Buffers,
    /// Of a restore: the segments that were read.
    kept: Option<Arc<Kept>>,
    /// A span is proved: it is not read from its segments instead.
    strict: bool,
}

impl Archive {
    /// Opens the archive in `store`: [`ArchiveError::EmptyStore`] or [`ArchiveError::NotAnArchive`] when there is none.
    pub async fn open(store: SharedStore) -> Result<Self, ArchiveError> {
        Ok(Self::open_read(store).await?.0)
    }

    /// The same, with what `archive.json` holds.
    async fn open_read(store: SharedStore) -> Result<(Self, Bytes), ArchiveError> {
        let archive = Self {
            store,
            buffers: Buffers::default(),
            kept: None,
            strict: false,
        };
        let object = Name::Archive.to_string();
        let bytes = match archive.read_document(&object).await? {
            Some(bytes) => bytes,
            None => {
                let why = archive.nothing_there().await;
                // Another process may have made it between the two looks.
                archive.read_document(&object).await?.ok_or(why)?
            }
        };
        let not_ours = |reason: String| ArchiveError::NotAnArchive {
            url: archive.store.url(),
            reason,
        };
        let doc: ArchiveDoc = match documents::from_bytes(&object, &bytes) {
            Err(ArchiveError::Damaged { object, reason }) => {
                return Err(not_ours(format!("{object}: {reason}")));
            }
            other => other?,
        };
        if doc.kind != ARCHIVE_KIND {
            return Err(not_ours(format!("{object} says that it is `{}`", doc.kind)));
        }
        Ok((archive, bytes))
    }

    /// Opens the archive in `store`, or makes one if the store is empty. `now_unix_ms` goes into `archive.json` then.
    pub async fn open_or_create(
        store: SharedStore,
        now_unix_ms: i64,
    ) -> Result<Self, ArchiveError> {
        Ok(Self::open_or_create_read(store, now_unix_ms).await?.0)
    }

    async fn open_or_create_read(
        store: SharedStore,
        now_unix_ms: i64,
    ) -> Result<(Self, Bytes), ArchiveError> {
        match Self::open_read(store.clone()).await {
            Err(ArchiveError::EmptyStore { .. }) => {}
            other => return other,
        }
        let doc = ArchiveDoc {
            format: FORMAT,
            kind: ARCHIVE_KIND.to_owned(),
            created_unix_ms: now_unix_ms,
        };
        let archive = Self {
            store: store.clone(),
            buffers: Buffers::default(),
            kept: None,
            strict: false,
        };
        let object = Name::Archive.to_string();
        let body = documents::to_bytes(&object, &doc)?;
        archive.create_unless_there(&object, body).await?;
        // Somebody may have been faster, and may not be us.
        Self::open_read(store).await
    }

    /// The same archive for a restore, which reads each segment several times: it is asked for once, and kept as long as this lives.
    #[must_use]
    pub fn keeping(&self) -> Self {
        Self {
            kept: Some(Arc::default()),
            ..self.clone()
        }
    }

    /// The store, for messages to an operator.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Writes `history.json`. If there is one already, it stays, and this is no error. A writer of a log begins with
    /// [`Self::begin_history`].
    pub(crate) async fn create_history(&self, doc: &HistoryDoc) -> Result<(), ArchiveError> {
        let object = Name::History(doc.id).to_string();
        let body = documents::to_bytes(&object, doc)?;
        self.create_unless_there(&object, body).await
    }

    /// Why there is no `archive.json`.
    async fn nothing_there(&self) -> ArchiveError {
        let url = self.store.url();
        let one = Listing::of("").pages_of(1);
        match self.store.list_with(one).await.try_next().await {
            Err(error) => error.into(),
            Ok(None) => ArchiveError::EmptyStore { url },
            Ok(Some(object)) if cluster::is_of_cluster(&object.name) => {
                ArchiveError::NotAnArchive {
                    reason: format!(
                        "it is the place of a cluster, which has an archive for each shard. Name one of them, as \
                         {url}/shards/NAME"
                    ),
                    url,
                }
            }
            Ok(Some(object)) => ArchiveError::NotAnArchive {
                url,
                reason: format!(
                    "it holds {} but no archive.json. Choose another directory or prefix",
                    object.name
                ),
            },
        }
    }
}

#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "archive_tests.rs"]
mod tests;
