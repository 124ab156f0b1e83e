//! The log of an old server cannot be replayed under its own offsets, because its relative expiries would count from
//! the replay. Where base and log cannot be served as one RDB either ([`crate::restore::Serving`]), a base at the end of the
//! log can be. It is made in stages, so it needs less memory.

use std::time::Duration;

use crate::archive::Archive;
use crate::consolidate::{self, Worth};
use crate::monitoring::status::{Phase, Status};
use crate::recovery::{BadBases, Plan, RecoveryTarget, look, plan, sound};
use crate::wire::position::ReplId;

/// How long a Redis waits for a base at the end of its log. After that it is served the log, as a fork.
pub(super) const BASE_LIMIT: Duration = Duration::from_secs(300);

/// The plan that needs no log. None: it cannot be had, and `status` knows why.
pub(super) async fn without_log(
    archive: &Archive,
    history: ReplId,
    now_unix_ms: i64,
    memory_limit: usize,
    status: &Status,
) -> Option<Plan> {
    let limit = BASE_LIMIT.as_secs();
    let what = format!(
        "restoring history {history}: making a base at the end of its log, in {limit} s at most"
    );
    status.phase(Phase::Serving, what);
    let request = consolidate::Request {
        history: Some(history),
        service: None,
        recovery_target: RecoveryTarget::Latest,
        memory_limit,
        worth: Worth::AnyLog,
        time_limit: Some(BASE_LIMIT),
        now_unix_ms,
    };
    let stopped = match consolidate::consolidate(archive, &request, &()).await {
        Ok(report) => report.stopped,
        Err(error) => Some(error.to_string()),
    };
    if let Some(why) = stopped {
        tracing::warn!("no base can be made at the end of the log: {why}");
        status.consolidate_failed(why);
        return None;
    }
    let latest = look(archive, Some(history), None, RecoveryTarget::Latest).await;
    let (catalog, history) = latest.ok()?;
    let none_bad = BadBases::new();
    let based = plan(
        archive,
        &catalog,
        history,
        RecoveryTarget::Latest,
        &none_bad,
    )
    .await;
    let (plan, _) = sound(archive, based.ok()?, &()).await.ok()?;
    (!plan.relative_ttls).then_some(plan)
}
