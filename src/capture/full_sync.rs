//! A full sync: the RDB is walked, compressed and stored while it is received. It counts when its manifest is written.

use crate::archive::takeover::{SuccessionError, SuccessorDoc};
use crate::archive::{Archive, ArchiveError, BaseKind, BaseManifest, BaseWriter, ServerInfo};
use crate::link::{Link, LinkError};
use crate::log::segment::SealHeader;
use crate::monitoring::status::{Phase, Status};
use crate::wire::position::{Position, ReplId};
use crate::wire::psync::replica::Event;
use crate::wire::rdb::{Summary, WalkError, Walker};

/// Why there is no base.
#[derive(Debug, thiserror::Error)]
pub enum FullSyncError {
    /// The link broke.
    #[error("the full sync was cut short: {0}")]
    Link(#[from] LinkError),
    /// The bytes are no RDB, or a damaged one.
    #[error("the RDB that the server sent is damaged, and was not kept: {0}")]
    Rdb(#[from] WalkError),
    /// The payload ended before the RDB, or the RDB ended before the payload.
    #[error("the RDB that the server sent is damaged, and was not kept: {0}")]
    Length(String),
    /// The history was sealed meanwhile: another backfeed has taken over.
    #[error("the history was sealed at offset {} by {}: {}", .0.start, .0.writer, .0.reason)]
    Sealed(Box<SealHeader>),
    /// Another history has taken the place of what was there before.
    #[error("the snapshot does not count: {}", .0.says())]
    GoesOn(Box<SuccessorDoc>),
    /// A sidecar is one of one: there is another one whose Redis is alive.
    #[error(
        "another backfeed is writing history {0} of a sidecar now, and its Redis is not this one. If this is another \
         server, give it a store or prefix of its own. If it must replace that server, start it empty, as a replica of \
         its sidecar"
    )]
    Twin(ReplId),
    /// The archive does not take it.
    #[error("cannot store the snapshot: {0}")]
    Archive(#[from] ArchiveError),
}

impl From<SuccessionError> for FullSyncError {
    fn from(error: SuccessionError) -> Self {
        match error {
            SuccessionError::GoesOn(other) => Self::GoesOn(other),
            SuccessionError::Beside(other) => Self::Twin(other),
            SuccessionError::Archive(error) => error.into(),
        }
    }
}

/// A payload that has been received and handed to the store, but is not committed.
pub struct Received {
    at: Position,
    writer: BaseWriter,
    walker: Walker,
}

impl Received {
    /// What was found in the RDB.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        self.walker.summary()
    }

    /// The database selected in the feed at the snapshot's offset.
    #[must_use]
    pub fn selected_db(&self) -> u32 {
        BaseManifest::selected_db(self.walker.summary())
    }

    /// Stores the rest and gives the manifest, which is not yet written: until then there is no base.
    ///
    /// # Errors
    /// [`FullSyncError::Archive`]; and, where a stray snapshot of an earlier try is adopted, all the others.
    pub async fn finish(
        self,
        archive: &Archive,
        server: ServerInfo,
        now_unix_ms: i64,
    ) -> Result<BaseManifest, FullSyncError> {
        match self.writer.finish().await {
            Ok(stored) => Ok(BaseManifest::new(
                &stored,
                self.walker.summary(),
                BaseKind::Sync,
                server,
                now_unix_ms,
            )),
            Err(ArchiveError::BaseExists { .. }) => {
                adopt(archive, self.at, server, now_unix_ms).await
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
impl Received {
    /// Makes one as if a server had sent it.
    pub(super) async fn of(
        archive: &Archive,
        at: Position,
        rdb: &[u8],
    ) -> Result<Self, FullSyncError> {
        let mut writer = archive.begin_base(at).await?;
        let mut walker = Walker::new();
        walker.push(rdb)?;
        writer.write(bytes::Bytes::copy_from_slice(rdb)).await?;
        Ok(Self { at, writer, walker })
    }
}

/// Receives the payload of a full sync at `at`, up to its end.
///
/// # Errors
/// [`FullSyncError`]; nothing of the payload counts then.
pub async fn receive(
    link: &mut Link,
    archive: &Archive,
    at: Position,
    status: &Status,
) -> Result<Received, FullSyncError> {
    status.phase(Phase::FullSync, format!("receiving the RDB at {at}"));
    receive_payload(link, archive, at, status).await
}

/// The same, but the status does not report it as what the process is doing.
///
/// # Errors
/// As [`receive`].
pub(super) async fn receive_payload(
    link: &mut Link,
    archive: &Archive,
    at: Position,
    status: &Status,
) -> Result<Received, FullSyncError> {
    let mut writer = archive.begin_base(at).await?;
    let mut walker = Walker::new();
    let mut walked = false;
    let work = status.work("full sync");
    // A diskless master does not say how long the payload is.
    let mut known = false;
    loop {
        match link.next().await? {
            Event::Payload(bytes) => {
                if let Some(remaining) = link.payload_remaining()
                    && !known
                {
                    known = true;
                    work.total(remaining.saturating_add(bytes.len() as u64));
                }
                work.advance(bytes.len() as u64);
                let taken = walker.push(&bytes)?;
                if walked || taken < bytes.len() {
                    let extra = "bytes follow the end of the RDB inside the payload".to_owned();
                    return Err(FullSyncError::Length(extra));
                }
                walked = walker.is_complete();
                status.metrics().bytes_received.inc_by(bytes.len() as u64);
                writer.write(bytes).await?;
            }
            Event::PayloadEnd => break,
            Event::FullResync(_) | Event::Continue(_) | Event::Feed(_) => {
                return Err(FullSyncError::Length(
                    "the feed began inside the payload".to_owned(),
                ));
            }
        }
    }
    end_walk(&mut walker)?;
    Ok(Received { at, writer, walker })
}

fn end_walk(walker: &mut Walker) -> Result<(), FullSyncError> {
    walker.finish_opaque()?;
    warn_unwalked(walker.summary());
    Ok(())
}

fn warn_unwalked(summary: &Summary) {
    if let Some(unwalked) = &summary.unwalked {
        tracing::warn!(
            from = unwalked.from,
            reason = unwalked.reason,
            "part of the RDB is of a kind that this version does not know; it is stored as it came, keys after that point \
             are not counted"
        );
    }
}

/// The store has a snapshot of this position, maybe without a manifest: a process died between the two. It is as good
/// as ours (same history, same offset), if it is complete.
async fn adopt(
    archive: &Archive,
    at: Position,
    server: ServerInfo,
    now_unix_ms: i64,
) -> Result<BaseManifest, FullSyncError> {
    tracing::info!(%at, "a snapshot of this point is in the store already: checking it");
    let (stored, summary) = archive.walk_stray_base(at).await?;
    warn_unwalked(&summary);
    let says = summary.aux.get("repl-offset").cloned();
    if says
        .as_ref()
        .is_some_and(|offset| *offset != at.offset.to_string())
    {
        let says = format!(
            "the stray snapshot at {at} says that it stands at {}",
            says.unwrap_or_default()
        );
        return Err(FullSyncError::Length(says));
    }
    Ok(BaseManifest::new(
        &stored,
        &summary,
        BaseKind::Sync,
        server,
        now_unix_ms,
    ))
}
