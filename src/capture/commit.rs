//! What makes a received snapshot a restore point.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::full_sync::{FullSyncError, Received};
use super::log_writer::{self, LogWriter};
use crate::archive::{AppendError, Archive, ArchiveError, BaseManifest, Gap, HistoryDoc};
use crate::position::{Boundary, Offset, Position, ReplId};

/// How long the rest of an older history may take to be stored before it is sealed as it is.
const OLD_LOG_LIMIT: Duration = Duration::from_secs(30);

pub(super) type Committing = JoinHandle<Result<(BaseManifest, Offset), FullSyncError>>;

/// What makes a received snapshot count.
pub(super) struct Commit {
    pub(super) archive: Archive,
    pub(super) writer: String,
    pub(super) now_unix_ms: i64,
    pub(super) received: Received,
    /// The log of what was captured before.
    pub(super) old: Option<LogWriter>,
    /// Where the log of `doc.previous` ended before the transfer.
    pub(super) previous_end: Option<Offset>,
    pub(super) doc: HistoryDoc,
}

impl Commit {
    /// History, seal of the one before, and the manifest last. Gives it with the offset from which on the log goes on: that
    /// of the snapshot, or the end of what another writer of this history has stored.
    pub(super) async fn run(mut self) -> Result<(BaseManifest, Offset), FullSyncError> {
        // What the server before had sent comes first: whatever becomes of the snapshot, it was received.
        let old_end = self.drain_old().await;
        let Self {
            archive,
            writer,
            now_unix_ms,
            received,
            previous_end,
            mut doc,
            ..
        } = self;
        let manifest = received
            .finish(&archive, doc.server.clone(), now_unix_ms)
            .await?;
        let to_seal = match (old_end, doc.previous) {
            (Some((stored, boundary)), _) if stored.history != doc.id => {
                doc.previous = Some(boundary);
                Some(stored)
            }
            (None, Some(previous)) => {
                let alive = is_written(&archive, previous.history, previous_end).await?;
                if alive {
                    warn_of_twin(previous.history, &doc);
                    doc.previous = None;
                }
                previous_end
                    .filter(|_| !alive)
                    .map(|offset| Position { offset, ..previous })
            }
            _ => None,
        };
        if let Some(end) = to_seal {
            let reason = format!("the server has another history now: {}", doc.id);
            let (id, offset) = (end.history, end.offset);
            log_writer::seal(&archive, id, offset, &reason, &writer, now_unix_ms).await?;
        }
        archive.create_history(&doc).await?;
        archive.commit_base(&manifest).await?;
        let goes_on = join_log(&archive, &manifest, &writer).await?;
        Ok((manifest, goes_on))
    }

    /// Stores the rest of an older log, as far as that works in time: of what does not, nothing was acknowledged. Gives what
    /// is stored of it, and its last boundary.
    async fn drain_old(&mut self) -> Option<(Position, Position)> {
        let old = self.old.take()?;
        let _ = tokio::time::timeout(OLD_LOG_LIMIT, old.drain()).await;
        Some(old.tail(|tail| {
            let boundary = Position {
                history: tail.history(),
                offset: tail.stored_boundary().offset,
            };
            (tail.stored(), boundary)
        }))
    }
}

/// Has its log grown since it was looked at? Then its writer, and so its server, is alive.
async fn is_written(
    archive: &Archive,
    history: ReplId,
    end_before: Option<Offset>,
) -> Result<bool, ArchiveError> {
    let catalog = archive.catalog().await?;
    match archive.log_end(&catalog, history).await {
        Ok(end) => Ok(end_before.is_some_and(|before| end.end > before)),
        Err(error @ ArchiveError::Store(_)) => Err(error),
        Err(_) => Ok(false),
    }
}

fn warn_of_twin(history: ReplId, doc: &HistoryDoc) {
    tracing::warn!(
        %history, service = doc.service,
        "the store holds a history of the same name that another backfeed writes just now: another server. They are kept \
         apart. Give each server a store (or prefix) of its own, and `latest` needs no --history"
    );
}

/// Other writers may have stored of this history before the snapshot. The log stays one chain: ours goes on where theirs
/// ends, or the gap up to the snapshot is bridged, which any other writer will meet, as it would meet a seal.
async fn join_log(
    archive: &Archive,
    base: &BaseManifest,
    writer: &str,
) -> Result<Offset, FullSyncError> {
    loop {
        let mut catalog = archive.catalog().await?;
        if let Some(history) = catalog.histories.get_mut(&base.history) {
            history.bases.retain(|other| other.offset != base.offset);
            if history.bases.is_empty() && history.log.is_empty() && history.doc.parent.is_none() {
                return Ok(base.offset);
            }
        }
        let end = match archive.log_end(&catalog, base.history).await {
            Ok(end) => end,
            Err(error @ ArchiveError::Store(_)) => return Err(error.into()),
            Err(ArchiveError::NothingStored { .. }) => return Ok(base.offset),
            Err(error) => {
                tracing::warn!(%error, "the log before this snapshot is damaged; it goes on after the snapshot");
                return Ok(base.offset);
            }
        };
        if let Some(seal) = end.sealed {
            return Err(FullSyncError::Sealed(Box::new(seal)));
        }
        // Somebody has died between a snapshot and its bridge.
        let gap = match end.unbridged {
            Some(gap) => gap,
            None if end.end >= base.offset => return Ok(end.end),
            None => Gap {
                from: end.end,
                db: end.boundary.db,
                at_boundary: end.boundary.offset == end.end,
                to: Boundary {
                    offset: base.offset,
                    db: base.db,
                },
            },
        };
        match archive.bridge(base.history, &gap, writer).await {
            Ok(()) if gap.to.offset == base.offset => return Ok(base.offset),
            Ok(()) => {}
            Err(AppendError::Taken(entry)) => {
                tracing::debug!(at = %entry.start(), "another writer of this history was first");
            }
            Err(AppendError::Archive(error)) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::archive::{BaseKind, FORMAT, ServerInfo};
    use crate::rdb::samples;
    use crate::segment::{self, Entry, SegmentMeta};
    use crate::store::MemoryStore;
    use crate::store::memory::Call;

    fn server() -> ServerInfo {
        ServerInfo {
            flavour: "redis".into(),
            version: "7.0.15".into(),
        }
    }

    fn doc(id: ReplId) -> HistoryDoc {
        HistoryDoc {
            format: FORMAT,
            id,
            parent: None,
            previous: None,
            service: "test".into(),
            server: server(),
            created_unix_ms: 0,
        }
    }

    async fn base(archive: &Archive, history: ReplId, offset: u64) -> BaseManifest {
        let at = Position {
            history,
            offset: Offset(offset),
        };
        let mut writer = archive.begin_base(at).await.unwrap();
        let rdb = samples::rdb("REDIS0010", &[]);
        writer.write(rdb.into()).await.unwrap();
        writer.finish().await.unwrap();
        let (stored, summary) = archive.walk_stray_base(at).await.unwrap();
        let manifest = BaseManifest::new(&stored, &summary, BaseKind::Sync, server(), 0);
        archive.commit_base(&manifest).await.unwrap();
        manifest
    }

    /// Newlines are a feed, too.
    async fn store(
        archive: &Archive,
        history: ReplId,
        start: u64,
        end: u64,
    ) -> Result<(), AppendError> {
        let meta = SegmentMeta {
            history,
            start: Offset(start),
            end: Offset(end),
            db_at_start: 0,
            starts_at_boundary: true,
            boundary: Some(Boundary {
                offset: Offset(end),
                db: 0,
            }),
            marks: Vec::new(),
            writer: "other".into(),
        };
        let newlines = vec![b'\n'; usize::try_from(end.saturating_sub(start)).unwrap()];
        let (header, body) = segment::encode(meta, &[newlines.into()], 1).unwrap();
        archive.append(&header, body).await
    }

    #[tokio::test]
    async fn a_writer_that_a_full_sync_has_passed_by_meets_the_bridge_to_it() {
        let memory = MemoryStore::new();
        let archive = Archive::open_or_create(memory.shared(), 0).await.unwrap();
        let id = ReplId::from_random([1; 20]);
        archive.create_history(&doc(id)).await.unwrap();
        let first = base(&archive, id, 0).await;
        assert_eq!(join_log(&archive, &first, "w").await.unwrap(), Offset(0));
        store(&archive, id, 0, 20).await.unwrap();
        // Within what is stored, the log goes on where it ends.
        let within = base(&archive, id, 10).await;
        assert_eq!(join_log(&archive, &within, "w").await.unwrap(), Offset(20));
        let beyond = base(&archive, id, 50).await;
        assert_eq!(join_log(&archive, &beyond, "w").await.unwrap(), Offset(50));
        let Err(AppendError::Taken(entry)) = store(&archive, id, 20, 40).await else {
            panic!("two logs: {:?}", memory.names());
        };
        let Entry::Segment(bridge) = *entry else {
            panic!("{entry:?}");
        };
        assert!(
            bridge.is_gap() && bridge.meta.end == Offset(50),
            "{bridge:?}"
        );
        store(&archive, id, 50, 60).await.unwrap();
    }

    #[tokio::test]
    async fn the_manifest_comes_after_all_that_it_stands_on() {
        let memory = MemoryStore::new();
        let archive = Archive::open_or_create(memory.shared(), 0).await.unwrap();
        let (old, new) = (ReplId::from_random([1; 20]), ReplId::from_random([2; 20]));
        archive.create_history(&doc(old)).await.unwrap();
        base(&archive, old, 0).await;
        store(&archive, old, 0, 20).await.unwrap();
        let at = Position {
            history: new,
            offset: Offset(7),
        };
        let rdb = samples::rdb("REDIS0010", &[]);
        let previous = Position {
            history: old,
            offset: Offset(20),
        };
        let commit = Commit {
            archive: archive.clone(),
            writer: "w".into(),
            now_unix_ms: 0,
            received: Received::of(&archive, at, &rdb).await.unwrap(),
            old: None,
            previous_end: Some(previous.offset),
            doc: HistoryDoc {
                previous: Some(previous),
                ..doc(new)
            },
        };
        let (_, goes_on) = commit.run().await.unwrap();
        assert_eq!(goes_on, at.offset);
        let calls = memory.calls();
        let order: Vec<Option<usize>> = [
            format!("{new}/base/{:020}.rdb.zst", 7),
            format!("{old}/log/{:020}.resp.zst", 21),
            format!("{new}/history.json"),
            format!("{new}/base/{:020}.json", 7),
        ]
        .iter()
        .map(|end| {
            calls.iter().position(|call| {
                let (Call::Create(name) | Call::Commit(name)) = call else {
                    return false;
                };
                name.ends_with(end)
            })
        })
        .collect();
        assert!(
            order.iter().all(Option::is_some) && order.is_sorted(),
            "{order:?} {calls:?}"
        );
    }
}
