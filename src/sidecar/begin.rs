//! How a Redis begins that the store has nothing for: with an empty base, which is stored before Redis takes a write.
//!
//! Redis is given that base under the id of a new history, as any other that is stored. So it goes on with the history from the first
//! write on, without a full sync; a write that `WAIT` confirms is in the log at once, and the next Redis finds a history.

use bytes::Bytes;

use super::decide::Tip;
use crate::archive::takeover::SuccessionError;
use crate::archive::{Archive, BaseKind, BaseManifest, FORMAT, HistoryDoc, ServerInfo};
use crate::capture::full_sync::FullSyncError;
use crate::crc64::Crc64;
use crate::link::facts::Facts;
use crate::position::{Offset, Position, ReplId};
use crate::rdb::Walker;

/// An RDB without keys, up to its checksum, in the oldest version of the servers that are supported: all newer ones load it.
const EMPTY_RDB: &[u8] = b"REDIS0009\xff";
/// Where the history begins. Not at 0, which a replica without any data has as well.
const BEGINS_AT: Offset = Offset(1);

/// Is there nothing in it that an empty base would take away?
pub(super) fn is_blank(facts: &Facts) -> bool {
    facts.total_keys() == 0 && facts.libraries == 0
}

/// Stores the empty base of a new history, the first of the store. None: another sidecar was first.
///
/// # Errors
/// [`FullSyncError::Archive`]: the store.
pub(super) async fn begin(
    archive: &Archive,
    service: &str,
    writer: &str,
    facts: &Facts,
    now_unix_ms: i64,
) -> Result<Option<Tip>, FullSyncError> {
    let at = Position {
        history: ReplId::from_random(rand::random()),
        offset: BEGINS_AT,
    };
    let server = ServerInfo {
        flavour: facts.flavour.clone(),
        version: facts.version.clone(),
    };
    let rdb = empty_rdb();
    let mut walker = Walker::new();
    walker.push(&rdb)?;
    let mut base = archive.begin_base(at).await?;
    base.write(rdb).await?;
    let stored = base.finish().await?;
    let doc = HistoryDoc {
        format: FORMAT,
        id: at.history,
        replid: None,
        parent: None,
        previous: None,
        also_previous: Vec::new(),
        service: service.to_owned(),
        server: server.clone(),
        created_unix_ms: now_unix_ms,
    };
    let summary = walker.summary();
    let manifest = BaseManifest::new(&stored, summary, BaseKind::Sync, server, now_unix_ms);
    match archive.begin_first(&doc, &manifest, writer).await {
        Ok(()) => {}
        Err(SuccessionError::GoesOn(other)) => {
            tracing::info!("{}", other.says());
            return Ok(None);
        }
        Err(SuccessionError::Archive(error)) => return Err(error.into()),
    }
    tracing::info!(%at, "the store is empty, and so is Redis: its history begins with an empty base, which is stored");
    Ok(Some(Tip {
        end: at,
        ancestors: Vec::new(),
    }))
}

fn empty_rdb() -> Bytes {
    let checksum = Crc64::of(EMPTY_RDB).to_le_bytes();
    [EMPTY_RDB, &checksum].concat().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_rdb_is_whole_and_empty() {
        let mut walker = Walker::new();
        let rdb = empty_rdb();
        assert_eq!(walker.push(&rdb).unwrap(), rdb.len());
        assert!(walker.is_complete());
        let summary = walker.summary();
        assert_eq!((summary.keys(), summary.functions), (0, 0));
        assert_eq!(summary.checksum, crate::rdb::Checksum::Verified);
    }
}
