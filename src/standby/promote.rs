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
use crate::archive::{Archive, new_writer};
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
    check_replica(&addr, &facts)?;
    let said = facts.replid.filter(|_| facts.offset.is_some());
    let said = said.ok_or_else(|| PromoteError::NoHistory { addr: addr.clone() })?;
    let mut catalog = archive.outline().await?;
    let history = catalog.aliases().key(said);
    let Some(doc) = catalog
        .histories
        .get(&history)
        .map(|found| found.doc.clone())
    else {
        return Err(PromoteError::Unknown {
            addr,
            history: said,
            url: archive.store().url(),
        });
    };
    let latest = recovery::choose(archive, &catalog, None, None)?;
    if latest != history {
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
    replica
        .reaches(end.boundary.offset, "the stored log ends", false)
        .await?;
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
    let catalog = archive.only(history).await?;
    let end = archive.log_end(&catalog, history).await?;
    let boundary = end.boundary;
    let facts = replica
        .reaches(boundary.offset, "the history was sealed", true)
        .await?;
    if let Some(at) = facts.offset.filter(|at| *at > boundary.offset) {
        return Err(PromoteError::Ahead {
            addr,
            at,
            history,
            end: boundary.offset,
        });
    }
    let waited_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    lease.confirm().await?;
    replicaof(&mut replica.control, "NO", "ONE").await?;
    let facts = replica.control.facts().await?;
    let child = promoted(&addr, &facts, said, boundary)?;
    // The history may be stored under a key of its own.
    let mut named = facts.clone();
    named.replid2 = Some((history, boundary.offset));
    lease.record(&named, (history, boundary), doc).await?;
    Ok(PromoteReport {
        server: addr,
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
            if at >= wanted && facts.replid == Some(self.history) {
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
