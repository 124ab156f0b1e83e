//! Archive → server or files.
//!
//! ```text
//! plan     which base, which pieces of the log, where exactly it ends       (reads only headers)
//! check    reads everything once: complete, sound, right for the target?    (nothing has been changed yet)
//! serve    we are the target's master: snapshot, log, promotion             aof, rdb_file: the same into files
//!          (or one snapshot that is made of both: `serving`)
//! ```
//!
//! Every restore is a **fork**, except for a sidecar's restore of its own Redis. A fork has a fresh id, and no
//! replication position in the snapshot.

mod cluster;
mod error;
mod files;
mod keys;
mod lease;
pub mod master;
mod proof;
mod report;
mod second_look;
mod server;
mod serving;

use crate::recovery::{BadBases, Checked, Count, Plan, Progress, RecoveryTarget, look, sound};
pub use cluster::{ClusterReport, ClusterRequest, ShardReport, restore_cluster};
pub use error::{Remedy, RestoreError};
pub use files::aof::AofLayout;
pub use keys::{KeysReport, KeysRequest, restore_keys};
pub use lease::Lease;
pub use master::listener::{HANDSHAKES_AT_ONCE, Listener, WAITING_REPLICAS};
pub use proof::{Before, Differs, Proof, Slack, Unproved, prove};

pub use master::error::{Phase, ServeError};
pub use master::{
    CaughtUp, Following, Identity, Offer, Payload, Start, WaitingReplica, handshake, offer,
    refuse_replica,
};
pub use report::Report;
#[cfg(feature = "cli")]
pub(crate) use server::compatibility::Server;
#[cfg(feature = "cli")]
pub(crate) use server::promotion::replicaof;
pub use server::{ListenOptions, Restored};
pub use serving::{Failed, Serving, Way, WayForm};
use std::collections::BTreeSet;

use crate::archive::takeover::{ClaimDoc, Claimant};
use crate::archive::{Archive, Catalog, SealError, ServerInfo};
use crate::config::{Dest, ServeLog, Size};
use crate::wire::position::{Offset, Position, ReplId};

/// What to restore, and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// Where to.
    pub target: Dest,
    /// Up to which point.
    pub recovery_target: RecoveryTarget,
    /// Which history. None: the latest one.
    pub history: Option<ReplId>,
    /// Whose history, where there are several (`host:port`, or `sidecar`).
    pub service: Option<String>,
    /// Replace what is there.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Serve the history's own id, so that what comes later continues it. Seals its log.
    pub continue_history: bool,
    /// The layout for `aof:`.
    pub aof_layout: AofLayout,
    /// Bytes of memory for the keys that the log touches, at most. It is used for an RDB file, and to find how many
    /// keys there must be.
    pub memory_limit: usize,
    /// In which form a server gets the log.
    pub serve_log: ServeLog,
    /// Where to listen for `redis://`.
    pub listen: ListenOptions,
    /// The id of the fork: random.
    pub fork_id: ReplId,
    /// Who restores, for the seal.
    pub writer: String,
    /// The current time, Unix milliseconds.
    pub now_unix_ms: i64,
}

/// Restores.
///
/// # Errors
/// [`RestoreError`]; unless it says otherwise, nothing was changed.
pub async fn restore(
    archive: &Archive,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report, RestoreError> {
    let archive = &archive.keeping();
    let service = request.service.as_deref();
    let (catalog, history) =
        look(archive, request.history, service, request.recovery_target).await?;
    let none_bad = BadBases::new();
    let plan = crate::recovery::plan(
        archive,
        &catalog,
        history,
        request.recovery_target,
        &none_bad,
    )
    .await?;
    let mut server = preflight(&catalog, &plan, request).await?;
    if request.continue_history {
        let may_be_rebuilt =
            matches!(request.target, Dest::Server(_)) && request.serve_log != ServeLog::Replay;
        master::may_continue(&plan, history, may_be_rebuilt)?;
    }
    if request.dry_run {
        let notes = server.as_ref().map(|server| server.notes().to_vec());
        let mut count = Count::start(archive, &plan, request.memory_limit);
        let report = Report::new(archive, request, &plan, None, notes.unwrap_or_default());
        return Ok(report.of(count.wait().await));
    }
    let target = server.as_ref().and_then(server::Target::server);
    let serving = |plan: &Plan| {
        let serving = Serving::new(archive, request.serve_log, request.memory_limit);
        serving.to(target, &writers(&catalog, plan))
    };
    let base = plan.base.position();
    let (mut plan, mut checked) = sound(archive, plan, progress).await?;
    let counting = |plan: &Plan| match &request.target {
        // What is written is counted then.
        Dest::RdbFile(_) => Count::of_nothing(),
        Dest::Server(_) => serving(plan).count(plan),
        Dest::Aof(_) => Count::start(archive, plan, request.memory_limit),
    };
    let mut count = counting(&plan);
    match &mut server {
        Some(server) => {
            check_again(server, &catalog, &plan, &checked, &mut count, request).await?;
            server.listen(&request.listen).await?;
        }
        None if plan.base.position() != base => {
            preflight(&catalog, &plan, request).await?;
        }
        None => {}
    }
    let mut lease = None;
    let mut served = serving(&plan);
    if request.continue_history {
        can_continue(&mut served, &plan, history, request).await?;
        // Last of all, as it ends the work of a writer that is still alive.
        lease = Some(take_lease(archive, history, request, server.as_ref()).await?);
        let why = format!("continued on {}", request.target);
        let mut known = catalog.clone();
        let now = request.now_unix_ms;
        let sealed = seal(archive, &mut known, history, &why, &request.writer, now).await?;
        if sealed.end != plan.end {
            (plan, checked) = sound(archive, sealed, progress).await?;
            count = counting(&plan);
            served = serving(&plan);
        }
        can_continue(&mut served, &plan, history, request).await?;
        if let Some(server) = &mut server {
            check_again(server, &catalog, &plan, &checked, &mut count, request).await?;
        }
    }
    if let Some(server) = &mut server
        && let Some(lease) = lease.take()
    {
        let doc = catalog.histories.get(&history).map(|it| it.doc.clone());
        server.hold(lease, doc);
    }
    let found = Found {
        serving: served,
        plan: &plan,
        checked: &checked,
        count,
    };
    write(archive, request, found, server, progress).await
}

/// The rule of the forks, for a plan whose log was read. What cannot be replayed under its own offsets may be rebuilt.
async fn can_continue(
    serving: &mut Serving,
    plan: &Plan,
    history: ReplId,
    request: &Request,
) -> Result<(), RestoreError> {
    let mut is_rebuilt = false;
    if plan.relative_ttls && matches!(request.target, Dest::Server(_)) {
        let way = serving.decide(plan, true).await?;
        is_rebuilt = way.is_rebuilt();
        if !is_rebuilt {
            return Err(RestoreError::CannotContinue {
                history,
                reason: format!(
                    "its log holds relative expiries, so it would have to be made one RDB with the snapshot, and it is \
                     not: {}",
                    way.why
                ),
            });
        }
    }
    master::may_continue(plan, history, is_rebuilt)
}

/// What will be restored. It is sound, and was read to its end.
struct Found<'a> {
    plan: &'a Plan,
    checked: &'a Checked,
    count: Count,
    serving: Serving,
}

async fn take_lease(
    archive: &Archive,
    history: ReplId,
    request: &Request,
    server: Option<&server::Target<'_>>,
) -> Result<Lease, RestoreError> {
    let claimant = Claimant {
        writer: request.writer.clone(),
        redis: server.and_then(server::Target::run_id),
        now_unix_ms: request.now_unix_ms,
    };
    let wait = |claim: &ClaimDoc| {
        tracing::warn!(
            "waiting: {} is restoring another Redis from history {history}. backfeed takes its place if it stops",
            claim.writer
        );
    };
    Lease::take(archive, history, claimant, wait).await
}

async fn check_again(
    server: &mut server::Target<'_>,
    catalog: &Catalog,
    plan: &Plan,
    checked: &Checked,
    count: &mut Count,
    request: &Request,
) -> Result<(), RestoreError> {
    let writers = writers(catalog, plan);
    server
        .check_again(plan, &writers, &request.listen, request.force)
        .await?;
    server.check_content(checked, count).await
}

/// Refuses what would go wrong before anything is read or written.
async fn preflight<'a>(
    catalog: &Catalog,
    plan: &Plan,
    request: &'a Request,
) -> Result<Option<server::Target<'a>>, RestoreError> {
    match &request.target {
        Dest::Server(source) => {
            let writers = writers(catalog, plan);
            server::Target::check(source, plan, &writers, &request.listen, request.force)
                .await
                .map(Some)
        }
        Dest::Aof(directory) => files::aof::preflight(directory, request.force)
            .await
            .map(|()| None),
        Dest::RdbFile(file) => files::rdb::preflight(file, request.force)
            .await
            .map(|()| None),
    }
}

/// Which servers wrote what a plan replays: the snapshot, and each history that gives a part of the log.
pub(crate) fn writers(catalog: &Catalog, plan: &Plan) -> Vec<ServerInfo> {
    let histories: BTreeSet<ReplId> = plan.pieces.histories().collect();
    let docs = histories.iter().filter_map(|id| catalog.histories.get(id));
    docs.map(|history| &history.doc.server)
        .chain([&plan.base.server])
        .cloned()
        .collect()
}

async fn write(
    archive: &Archive,
    request: &Request,
    found: Found<'_>,
    server: Option<server::Target<'_>>,
    progress: &dyn Progress,
) -> Result<Report, RestoreError> {
    let Found {
        plan,
        checked,
        mut count,
        serving,
    } = found;
    let identity = if request.continue_history {
        Identity::Continue { id: plan.history }
    } else {
        Identity::Fork {
            id: request.fork_id,
        }
    };
    let mut notes = Vec::new();
    let held;
    match (&request.target, server) {
        (Dest::Server(_), Some(server)) => {
            let listen = &request.listen;
            let restored = server
                .restore(plan, serving, count, identity, listen, progress)
                .await?;
            return Ok(
                Report::new(archive, request, plan, Some(checked), Vec::new()).restored(restored),
            );
        }
        (Dest::Aof(directory), _) => {
            let made =
                files::aof::write(archive, plan, directory, request.aof_layout, progress).await?;
            held = count.wait().await.clone();
            notes.push(format!(
                "wrote {}. To load it, start the server with: --dir {} --appendonly yes",
                made.display(),
                directory.display()
            ));
        }
        (Dest::RdbFile(file), _) => {
            let bytes;
            (bytes, held) =
                files::rdb::write(archive, plan, file, request.memory_limit, progress).await?;
            notes.push(format!("wrote {} ({})", file.display(), Size(bytes)));
        }
        (Dest::Server(_), None) => held = count.wait().await.clone(),
    }
    Ok(Report::new(archive, request, plan, Some(checked), notes).of(&held))
}

/// Seals the log of `history` where it ends, so that a restore cannot lack what is stored later, and makes the plan
/// that ends there. A writer that is still alive finds the seal and stops.
///
/// # Errors
/// As [`crate::recovery::plan()`] does.
pub async fn seal(
    archive: &Archive,
    catalog: &mut Catalog,
    history: ReplId,
    reason: &str,
    writer: &str,
    now_unix_ms: i64,
) -> Result<Plan, RestoreError> {
    let unknown = || RestoreError::CannotContinue {
        history,
        reason: "it is not known where its log ends".to_owned(),
    };
    // Before the seal: a log that cannot be restored goes on as it is.
    let plan = plan_to_end(archive, catalog, history, writer).await?;
    let at = Position {
        history,
        offset: plan.stored_end.ok_or_else(unknown)?,
    };
    let sealed = archive.seal_from(at, reason, writer, now_unix_ms).await;
    let sealed = sealed.map_err(|error| match error {
        SealError::StillWritten { .. } => RestoreError::CannotContinue {
            history,
            reason: error.to_string(),
        },
        SealError::Archive(error) => error.into(),
    })?;
    if sealed == at {
        return Ok(plan);
    }
    // Another writer has stored more meanwhile. It may also be that we slept for so long that the log went on, and what it went
    // on from was deleted: where it ends is asked anew.
    *catalog = archive.outline().await?;
    archive.load(catalog, history, Offset(u64::MAX)).await?;
    let plan = plan_to_end(archive, catalog, history, writer).await?;
    if plan.stored_end != Some(sealed.offset) {
        return Err(unknown());
    }
    Ok(plan)
}

/// The plan to the end of a log, which is bridged before.
async fn plan_to_end(
    archive: &Archive,
    catalog: &mut Catalog,
    history: ReplId,
    writer: &str,
) -> Result<Plan, RestoreError> {
    archive.refresh(catalog, history).await?;
    archive.bridged(catalog, history, writer).await?;
    let sound = BadBases::new();
    Ok(crate::recovery::plan(archive, catalog, history, RecoveryTarget::Latest, &sound).await?)
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
