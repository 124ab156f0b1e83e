//! A service deletes what its policy does not keep, and segments that a span has.

use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep, timeout};

use super::{LOOK, TIME_LIMIT, Upkeep, later};
use crate::archive::Deleted;
use crate::config::RetentionConfig;
use crate::consolidate::merging::{MergeRequest, merge};
use crate::expiry::{self, expire};
use crate::monitoring::status::Phase;
use crate::runtime::backoff::Backoff;

/// The first run comes so long after the start, at the latest: a start has other things to ask of the store.
const FIRST: Duration = Duration::from_secs(600);

/// When the next run comes.
pub(super) struct Retention {
    not_before: Instant,
    backoff: Backoff,
}

/// What a run did.
#[derive(Default)]
struct Done {
    oldest_unix_ms: Option<i64>,
    deleted: Vec<Deleted>,
    notes: Vec<String>,
}

impl Retention {
    pub(super) fn new(config: &RetentionConfig) -> Self {
        Self {
            not_before: later(FIRST.min(config.every)),
            backoff: Backoff::exact(FIRST.min(config.every), config.every),
        }
    }
}

fn error_of(what: &str, ended: Result<Result<(), String>, Elapsed>) -> Option<String> {
    match ended {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(format!("{what} has stopped: {error}")),
        Err(_) => Some(format!("{what} took too long")),
    }
}

impl Upkeep {
    /// Deletes what is old, each time that it is due. It does not end.
    pub(super) async fn delete_what_is_old(&self) {
        let mut retention = Retention::new(&self.retention);
        loop {
            sleep(LOOK).await;
            let is_followed = self.status.view().phase == Phase::Following;
            if self.retention.deletes() && is_followed && Instant::now() >= retention.not_before {
                self.delete_old(&mut retention).await;
            }
        }
    }

    async fn delete_old(&self, retention: &mut Retention) {
        let keeps = self.retention.keep.map(|policy| policy.to_string());
        self.status.expiry(|view| view.keeps = keeps);
        let mut done = Done::default();
        let mut errors = Vec::new();
        let _turn = self.turns.work().await;
        // What cannot expire does not keep merged segments.
        let ended = timeout(TIME_LIMIT, self.run_expiry(&mut done)).await;
        errors.extend(error_of("expiry", ended));
        let ended = timeout(TIME_LIMIT, self.delete_segments(&mut done)).await;
        errors.extend(error_of("the deletion of merged segments", ended));
        self.report(done, errors.is_empty());
        if errors.is_empty() {
            retention.backoff.reset();
            retention.not_before = later(self.retention.every);
            return;
        }
        retention.not_before = later(retention.backoff.pause());
        self.status.metrics().expiry_errors.inc();
        let error = errors.join(". ");
        tracing::warn!("{error}. It will be retried. What was deleted before that is gone");
        self.status.expiry(|view| view.error = Some(error));
    }

    async fn run_expiry(&self, done: &mut Done) -> Result<(), String> {
        if let Some(policy) = self.retention.keep {
            let archive = self.archive().await.map_err(|error| error.to_string())?;
            let request = expiry::Request {
                policy,
                service: Some(self.service.clone()),
                confirm: true,
                writer: self.service.clone(),
                now_unix_ms: (self.clock)(),
            };
            let work = self.status.work("expiry");
            let report = expire(&archive, &request, &work).await;
            let report = report.map_err(|error| error.to_string())?;
            done.oldest_unix_ms = report.oldest_unix_ms;
            done.notes = report.notes;
            done.deleted.push(report.deleted);
        }
        Ok(())
    }

    async fn delete_segments(&self, done: &mut Done) -> Result<(), String> {
        if self.retention.delete_segments {
            let archive = self.archive().await.map_err(|error| error.to_string())?;
            let request = MergeRequest {
                history: None,
                merged_to: None,
                // Merging is done elsewhere.
                limit: 0,
                dry_run: false,
                delete: true,
                writer: self.service.clone(),
            };
            let work = self.status.work("deleting merged segments");
            let report = merge(&archive, &request, &work).await;
            let report = report.map_err(|error| error.to_string())?;
            done.deleted.extend(report.deleted);
            if let Some(error) = report.failure {
                return Err(error.to_string());
            }
        }
        Ok(())
    }

    fn report(&self, done: Done, is_whole: bool) {
        let sum = |what: fn(&Deleted) -> u64| {
            let each = done.deleted.iter().map(what);
            each.fold(0, u64::saturating_add)
        };
        let objects = sum(|deleted| deleted.objects);
        let bytes = sum(|deleted| deleted.bytes);
        let denied = sum(|deleted| deleted.denied);
        let reason = done
            .deleted
            .iter()
            .find_map(|deleted| deleted.denied_reason.clone());
        let metrics = self.status.metrics();
        metrics.objects_deleted.inc_by(objects);
        metrics.bytes_deleted.inc_by(bytes);
        metrics.deletes_denied.inc_by(denied);
        if objects > 0 {
            tracing::info!(objects, bytes, "deleted what is old");
        }
        let mut is_news = false;
        let now = (self.clock)();
        self.status.expiry(|view| {
            is_news = reason.is_some() && view.denied_reason != reason;
            if is_whole {
                view.run_unix_ms = Some(now);
                view.error = None;
            }
            view.oldest_unix_ms = done.oldest_unix_ms.or(view.oldest_unix_ms);
            view.deleted_objects = view.deleted_objects.saturating_add(objects);
            view.deleted_bytes = view.deleted_bytes.saturating_add(bytes);
            view.denied_objects = denied;
            view.denied_reason.clone_from(&reason);
            view.notes.clone_from(&done.notes);
        });
        if let (true, Some(reason)) = (is_news, reason) {
            tracing::warn!(
                "the store did not delete {denied} objects: {reason}. It will be retried"
            );
        }
    }
}
