//! A service tries a restore of its own archive now and then.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{LOOK, Upkeep, later};
use crate::drill::{self, Report, Request};
use crate::monitoring::status::{DrillView, Phase};
use crate::recovery::RecoveryTarget;

/// The first one comes so long after the start, at the latest: a start has other things to do.
const FIRST: Duration = Duration::from_secs(600);
/// A drill that takes longer is ended: its servers need memory.
const TIME_LIMIT: Duration = Duration::from_secs(12 * 3600);

impl Upkeep {
    /// Tries a restore, each time that it is due. It does not end.
    pub(super) async fn try_restores(&self) {
        let Some(every) = self.drill.every else {
            return std::future::pending().await;
        };
        let mut not_before = later(FIRST.min(every));
        loop {
            sleep(LOOK).await;
            let is_followed = self.status.view().phase == Phase::Following;
            // Before a base is stored there is nothing to try.
            let has_base = self.status.stored_position().is_some();
            if is_followed && has_base && Instant::now() >= not_before {
                self.try_restore().await;
                not_before = later(every);
            }
        }
    }

    async fn try_restore(&self) {
        let _turn = self.turns.work().await;
        let begun = Instant::now();
        let tried = match timeout(TIME_LIMIT, self.drill_once()).await {
            Ok(tried) => tried,
            Err(_) => Err(format!(
                "it took more than {} h",
                TIME_LIMIT.as_secs() / 3600
            )),
        };
        let metrics = self.status.metrics();
        metrics.drills.inc();
        let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = (self.clock)();
        let mut view = DrillView {
            run_unix_ms: now,
            passed: false,
            duration_ms,
            ..DrillView::default()
        };
        match tried {
            Ok(report) => {
                view.passed = report.different_keys == 0;
                view.compared = Some(report.compared.as_str().to_owned());
                view.compared_why.clone_from(&report.compared_why);
                view.offset = Some(report.restore.end_offset);
                view.keys = report
                    .restore
                    .keys
                    .values()
                    .copied()
                    .fold(0, u64::saturating_add);
                view.different_keys = report.different_keys;
                view.restore_ms = Some(report.restore_ms);
                if report.different_keys > 0 {
                    view.error = Some(format!(
                        "{} keys differ between the two ways to restore offset {}",
                        report.different_keys, report.restore.end_offset
                    ));
                }
            }
            Err(error) => view.error = Some(error),
        }
        match &view.error {
            Some(error) => {
                metrics.drill_failures.inc();
                tracing::error!("the drill has not shown that a restore works: {error}");
            }
            None => tracing::info!(
                keys = view.keys,
                restore_ms = view.restore_ms,
                compared = view.compared,
                "a drill has passed: the archive was restored"
            ),
        }
        self.status.drilled(view);
    }

    async fn drill_once(&self) -> Result<Report, String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let mut prefix = tempfile::Builder::new();
        prefix.prefix("backfeed-drill-");
        let scratch = match &self.drill.scratch_dir {
            Some(dir) => prefix.tempdir_in(dir),
            None => prefix.tempdir(),
        };
        let scratch = scratch.map_err(|error| format!("cannot make a directory: {error}"))?;
        let server = match &self.drill.server {
            Some(path) => Some(
                drill::ServerProgram::at(path)
                    .await
                    .map_err(|error| told(&error))?,
            ),
            None => drill::ServerProgram::find(self.drill.path.iter().cloned())
                .await
                .map_err(|error| told(&error))?,
        };
        let archive = self.archive().await.map_err(|error| told(&error))?;
        let stored = self.status.stored_position();
        let request = Request {
            recovery_target: RecoveryTarget::Latest,
            // The one that is captured, whatever else the store holds.
            history: stored.map(|stored| stored.history),
            server,
            dir: scratch.path().to_owned(),
            memory_limit: self.config.memory_limit,
            now_unix_ms: (self.clock)(),
        };
        let work = self.status.work("drill");
        let report = drill::drill(&archive, &request, &work).await;
        let report = report.map_err(|error| told(&error))?;
        let recorded = drill::record(&archive, &report, &self.service, (self.clock)()).await;
        if let Err(error) = recorded {
            tracing::warn!("the verdict of a drill could not be stored: {error}");
        }
        Ok(report)
    }
}
