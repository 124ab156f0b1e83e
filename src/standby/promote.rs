//! Promotes a replica of a standby in the place of the server whose history it follows.
//!
//! The order matters. First the lease, so that one of two promotions goes on. Then the seal: from there on, nobody acknowledges
//! more of the history. What was acknowledged is before the seal, so a replica that has all up to it has all of that. Only then
//! `REPLICAOF NO ONE`, and the record of which history goes on.

use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::error::PromoteError;
use crate::archive::takeover::{ClaimDoc, Claimant};
use crate::archive::{Archive, HistoryDoc, new_writer};
use crate::config::Source;
use crate::link::control::Control;
use crate::link::replication_info::{Facts, Role};
use crate::recovery;
use crate::restore::{Lease, replicaof};
use crate::wire::position::{Boundary, Offset, Position, ReplId};

/// Pause between two looks at the replica.
const LOOK: Duration = Duration::from_millis(100);

/// What to promote.
#[derive(Debug, Clone)]
pub struct PromoteRequest {
    /// The replica.
    pub redis: Source,
    /// How long it may take to get what it lacks.
    pub patience: Duration,
    /// Unix milliseconds, for those who read the seal.
    pub now_unix_ms: i64,
}

/// What was promoted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PromoteReport {
    /// host:port
    pub server: String,
    /// The history that it followed. It is sealed.
    pub history: ReplId,
    /// The last byte of that, which the server has.
    pub offset: Offset,
    /// The history that goes on from there: that of the promoted server.
    pub child: ReplId,
    /// Keys in it.
    pub keys: u64,
    /// How long the replica took to get what it lacked, milliseconds.
    pub waited_ms: u64,
}

/// Promotes it.
///
/// # Errors
/// [`PromoteError`]. It says whether the history was sealed.
pub async fn promote(
    archive: &Archive,
    request: &PromoteRequest,
) -> Result<PromoteReport, PromoteError> {
    let addr = request.redis.addr();
    let mut control = Control::connect(&request.redis).await?;
    let facts = control.facts().await?;
    // It may have been promoted before, and nothing was recorded.
    let left = facts.branched_off().filter(|_| facts.role == Role::Master);
    let said = match (&facts.role, left) {
        (Role::Master, Some((old, _))) => Some(old),
        _ => {
            check_replica(&addr, &facts)?;
            facts.replid.filter(|_| facts.offset.is_some())
        }
    };
    let said = said.ok_or_else(|| PromoteError::NoHistory { addr: addr.clone() })?;
    if let Role::Replica { host, port, .. } = &facts.role {
        // It has that master already: nothing changes. This user may run the command, or else nothing is sealed.
        replicaof(&mut control, host, &port.to_string()).await?;
    }
    let mut catalog = archive.outline().await?;
    let history = catalog.aliases().key(said);
    let Some(doc) = catalog
        .histories
        .get(&history)
        .map(|found| found.doc.clone())
    else {
        if left.is_some() {
            check_replica(&addr, &facts)?;
        }
        return Err(PromoteError::Unknown {
            addr,
            history: said,
            url: archive.store().url(),
        });
    };
    let latest = recovery::choose(archive, &catalog, None, None)?;
    if latest != history {
        if left.is_some() {
            check_replica(&addr, &facts)?;
        }
        return Err(PromoteError::NotLatest {
            addr,
            history,
            latest,
        });
    }
    let writer = new_writer("promote");
    let claimant = Claimant {
        writer: writer.clone(),
        redis: facts.health.run_id.clone(),
        now_unix_ms: request.now_unix_ms,
    };
    let wait = |claim: &ClaimDoc| {
        tracing::warn!(
            "waiting: {} is restoring a Redis from history {history}. It is promoted here only if that one stops",
            claim.writer
        );
    };
    let lease = Lease::take(archive, history, claimant, wait).await?;
    let begun = Instant::now();
    let deadline = begun.checked_add(request.patience).unwrap_or(begun);
    archive
        .load(&mut catalog, history, Offset(u64::MAX))
        .await?;
    // Nothing is sealed before the replica has what is stored by now: it may be that it cannot get it.
    let end = archive.log_end(&catalog, history).await?;
    let mut replica = Replica {
        addr: &addr,
        control,
        history: said,
        deadline,
    };
    if let Some((_, at)) = left {
        if end.sealed.is_none() || at != end.boundary.offset {
            check_replica(&addr, &facts)?;
        }
        tracing::info!("{addr} was promoted before, and that was not recorded");
        let boundary = end.boundary;
        return record(&lease, &addr, &facts, (history, said, boundary), doc, begun).await;
    }
    let facts = replica
        .reaches(end.boundary.offset, "the stored log ends", false)
        .await?;
    // A replica of the old server itself has what is not stored yet. It could not be promoted after the seal.
    let catalog = archive.only(history).await?;
    let end = archive.log_end(&catalog, history).await?;
    if let Some(at) = facts.offset.filter(|at| *at > end.end) {
        let end = end.end;
        return Err(PromoteError::Ahead {
            addr,
            at,
            history,
            end,
        });
    }
    let at = Position {
        history,
        offset: end.end,
    };
    let reason = format!("{addr} was promoted in its place");
    let sealed = archive.seal_end(at, &reason, &writer, request.now_unix_ms);
    let sealed = sealed
        .await
        .map_err(|source| PromoteError::Seal { history, source })?;
    tracing::info!(history = %history, at = %sealed.offset, "the history is sealed: its old server is not acknowledged any more");
    let opened = async {
        let catalog = archive.only(history).await?;
        let boundary = archive.log_end(&catalog, history).await?.boundary;
        let facts = replica
            .reaches(boundary.offset, "the history was sealed", true)
            .await?;
        if let Some(at) = facts.offset.filter(|at| *at > boundary.offset) {
            return Err(PromoteError::Ahead {
                addr: addr.clone(),
                at,
                history,
                end: boundary.offset,
            });
        }
        lease.confirm().await?;
        replicaof(&mut replica.control, "NO", "ONE").await?;
        let facts = replica.control.facts().await?;
        record(&lease, &addr, &facts, (history, said, boundary), doc, begun).await
    };
    opened.await.map_err(|error| match error {
        // They say it themselves.
        error @ (PromoteError::Behind { .. } | PromoteError::Restore(_)) => error,
        source => PromoteError::Sealed {
            addr: addr.clone(),
            history,
            source: Box::new(source),
        },
    })
}

/// The last step: which history goes on is recorded.
async fn record(
    lease: &Lease,
    addr: &str,
    facts: &Facts,
    (history, said, boundary): (ReplId, ReplId, Boundary),
    doc: HistoryDoc,
    begun: Instant,
) -> Result<PromoteReport, PromoteError> {
    let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let child = promoted(addr, facts, said, boundary)?;
    // The history may be stored under a key of its own.
    let mut named = facts.clone();
    named.replid2 = Some((history, boundary.offset));
    let doc = HistoryDoc {
        service: addr.to_owned(),
        ..doc
    };
    lease.record(&named, (history, boundary), doc).await?;
    Ok(PromoteReport {
        server: addr.to_owned(),
        history,
        offset: boundary.offset,
        child,
        keys: facts.total_keys(),
        waited_ms,
    })
}

fn check_replica(addr: &str, facts: &Facts) -> Result<(), PromoteError> {
    let what = match &facts.role {
        Role::Replica { .. } => return Ok(()),
        Role::Master => ", but a master",
        Role::Unknown => ", as far as it says (`INFO replication` is not permitted)",
    };
    Err(PromoteError::NoReplica {
        addr: addr.to_owned(),
        what: what.to_owned(),
    })
}

/// Is it what it should be after `REPLICAOF NO ONE`? Gives its new id.
fn promoted(
    addr: &str,
    facts: &Facts,
    said: ReplId,
    boundary: Boundary,
) -> Result<ReplId, PromoteError> {
    let differs = |what: String| PromoteError::Differs {
        addr: addr.to_owned(),
        what,
    };
    if facts.role != Role::Master {
        return Err(differs(
            "it is a replica again. Look whether Sentinel or an operator manages it".to_owned(),
        ));
    }
    match (facts.replid, facts.branched_off()) {
        (Some(child), Some((old, at))) if old == said && at == boundary.offset => Ok(child),
        (_, Some((old, at))) => Err(differs(format!(
            "it goes on from {at} of history {old}, and not from {} of {said}",
            boundary.offset
        ))),
        _ => Err(differs(
            "it does not say from which history it goes on".to_owned(),
        )),
    }
}

struct Replica<'a> {
    addr: &'a str,
    control: Control,
    history: ReplId,
    deadline: Instant,
}

impl Replica<'_> {
    /// Waits until it has everything up to `wanted`.
    async fn reaches(
        &mut self,
        wanted: Offset,
        what: &'static str,
        is_sealed: bool,
    ) -> Result<Facts, PromoteError> {
        loop {
            let facts = self.control.facts().await?;
            check_replica(self.addr, &facts)?;
            let at = facts.offset.unwrap_or_default();
            if at >= wanted && facts.replid == Some(self.history) && !facts.loading {
                return Ok(facts);
            }
            if Instant::now() >= self.deadline {
                return Err(PromoteError::Behind {
                    addr: self.addr.to_owned(),
                    at,
                    what,
                    wanted,
                    is_sealed,
                });
            }
            sleep(LOOK).await;
        }
    }
}
