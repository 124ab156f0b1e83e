//! Points that stay, whatever a policy says.

use crate::archive::{
    Archive, ArchiveError, FLOOR_GRACE_MS, FORMAT, Floor, HeldLog, HoldDoc, HoldName,
};
use crate::recovery::{self, BadBases, Plan, Progress, RecoveryError, RecoveryTarget};
use crate::wire::position::{Offset, ReplId};

/// Less than this before the deletion below a floor may begin, no hold is made there any more: it could come too late.
const MARGIN_MS: u64 = 3_600_000;
const _: () = assert!(MARGIN_MS < FLOOR_GRACE_MS);

/// What is to be held.
#[derive(Debug, Clone)]
pub struct HoldRequest {
    /// What it is called.
    pub name: HoldName,
    /// The history. None: the latest.
    pub history: Option<ReplId>,
    /// The point.
    pub recovery_target: RecoveryTarget,
    /// Who makes it.
    pub writer: String,
    /// Unix milliseconds.
    pub now_unix_ms: i64,
}

/// Why there is no new hold.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// The point cannot be restored.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The archive could not be read, or not be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// There is one of that name.
    #[error("there is a hold `{0}` already. Choose another name")]
    Exists(HoldName),
    /// What it needs is about to be deleted.
    #[error("{0} has expired, and is being deleted. It is too late for a hold")]
    TooLate(String),
}

/// Holds a point. What it needs is read to its end before: if its base is damaged, an older one is held.
///
/// # Errors
/// [`HoldError`].
pub async fn add_hold(
    archive: &Archive,
    request: &HoldRequest,
    progress: &dyn Progress,
) -> Result<HoldDoc, HoldError> {
    let (catalog, history) =
        recovery::look(archive, request.history, None, request.recovery_target).await?;
    let bad = BadBases::new();
    let plan = recovery::plan(archive, &catalog, history, request.recovery_target, &bad).await?;
    let (plan, _) = recovery::sound(archive, plan, progress).await?;
    check_in_time(archive, &plan).await?;
    let doc = HoldDoc {
        format: FORMAT,
        name: request.name,
        point: plan.end_position,
        as_of_unix_ms: plan.end_unix_ms,
        base: plan.base.position(),
        digest: plan.base.digest.clone(),
        log: plan.stretches()?,
        writer: request.writer.clone(),
        created_unix_ms: request.now_unix_ms,
    };
    if !archive.create_hold(&doc).await? {
        return Err(HoldError::Exists(request.name));
    }
    Ok(doc)
}

/// Whoever deletes looks at the holds when a floor is old enough. From then on a hold may come too late.
async fn check_in_time(archive: &Archive, plan: &Plan) -> Result<(), HoldError> {
    let base = plan.base.position();
    let is_own_point = plan.pieces.is_empty();
    let mut below = Vec::new();
    for (history, begin) in plan.begins()? {
        let floors = archive.floors(history).await?;
        let stays = |floor: &Floor| is_own_point && floor.leaves_alone(base.offset);
        let above = floors
            .iter()
            .filter(|floor| begin < floor.offset && !stays(floor));
        let created = above.map(|floor| floor.created.map_or(0, i64::unsigned_abs));
        below.extend(created.min().map(|created| (history, begin, created)));
    }
    let Some(oldest) = below.iter().map(|(.., created)| *created).min() else {
        return Ok(());
    };
    let holds = archive.all_holds().await?;
    let is_held = |(history, begin, _): &(ReplId, Offset, u64)| {
        // In the history of its base, a hold keeps all of the log after that.
        let has_log = |log: &HeldLog| log.history == *history && log.after <= *begin;
        holds.iter().any(|hold| match *history == base.history {
            true => hold.base == base,
            false => hold.log.iter().any(has_log),
        })
    };
    if below.iter().all(is_held) {
        return Ok(());
    }
    let now = archive.store_now().await?;
    let age = now.map_or(u64::MAX, |now| now.unsigned_abs().saturating_sub(oldest));
    match age < FLOOR_GRACE_MS.saturating_sub(MARGIN_MS) {
        true => Ok(()),
        false => Err(HoldError::TooLate(plan.end_position.to_string())),
    }
}
