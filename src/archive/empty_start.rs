//! How a store without any history begins: with an empty base, which is stored before its Redis takes a write.
//!
//! If two sidecars find the store empty, `first.json` names one of them ([`super::takeover`]). The base comes after
//! that, and it has the same bytes whoever stores it. So the sidecar that lost leaves nothing in the store. If one dies
//! between the two steps, the other one completes them.

use bytes::Bytes;

use super::{Archive, ArchiveError, BaseKind, BaseManifest, HistoryDoc};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Offset, Position};

/// An RDB without keys, up to its checksum, in the oldest version of the servers that are supported: all newer ones
/// load it.
const EMPTY_RDB: &[u8] = b"REDIS0009\xff";
/// Where the history begins. Not at 0, which a replica without any data has as well.
const BEGINS_AT: Offset = Offset(1);

/// The point at which an empty history begins.
#[must_use]
pub fn begins_at(doc: &HistoryDoc) -> Position {
    Position {
        history: doc.id,
        offset: BEGINS_AT,
    }
}

impl Archive {
    /// Stores the empty base of a history, if it is not there yet.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(super) async fn store_empty_base(&self, doc: &HistoryDoc) -> Result<(), ArchiveError> {
        let at = begins_at(doc);
        let mut base = self.begin_base(at).await?;
        base.write(empty_rdb()).await?;
        match base.finish().await {
            // The process that did it may have died before the manifest.
            Ok(_) | Err(ArchiveError::BaseExists { .. }) => {}
            Err(error) => return Err(error),
        }
        let (stored, summary) = self.walk_stray_base(at).await?;
        let server = doc.server.clone();
        let created = doc.created_unix_ms;
        let manifest = BaseManifest::new(&stored, &summary, BaseKind::Sync, server, created);
        self.commit_base(&manifest).await
    }
}

fn empty_rdb() -> Bytes {
    let checksum = Crc64::of(EMPTY_RDB).to_le_bytes();
    [EMPTY_RDB, &checksum].concat().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::rdb::{Checksum, Walker};

    #[test]
    fn the_empty_rdb_is_whole_and_empty() {
        let mut walker = Walker::new();
        let rdb = empty_rdb();
        assert_eq!(walker.push(&rdb).unwrap(), rdb.len());
        assert!(walker.is_complete());
        let summary = walker.summary();
        assert_eq!((summary.keys(), summary.functions), (0, 0));
        assert_eq!(summary.checksum, Checksum::Verified);
    }
}
