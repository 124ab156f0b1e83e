//! When the captured log is merged into spans, and whose log has its turn. [`crate::consolidate::merging`] does it.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{FAILED_PAUSE, TIME_LIMIT, Upkeep, later};
use crate::archive::{Catalog, MergeError, SPAN_SEGMENTS};
use crate::consolidate::merging::{MergeRequest, merge};
use crate::runtime::backoff::Backoff;
use crate::wire::position::{Offset, Position, ReplId};

/// Between two looks for what can be merged, unless there are enough segments for a span before. Each look fetches what is not
/// merged yet.
const MERGE_EVERY: Duration = Duration::from_secs(5 * 60);
/// One more than a span takes.
const MERGE_SEGMENTS: u64 = SPAN_SEGMENTS as u64 + 1;
/// The longest pause after merges that failed.
const MERGE_FAILED_PAUSE: Duration = Duration::from_secs(3600);
/// Spans that are made before other work has its turn.
const MERGED_AT_ONCE: u64 = 32;

/// What is known of the merged log.
pub(super) struct Merges {
    /// The history that is captured.
    of: Option<ReplId>,
    /// Those before it, whose logs were not looked at yet. The newest one is the last.
    left: Vec<ReplId>,
    /// All of its log is merged that can be. Now they have their turn.
    is_before: bool,
    /// Up to here, its log is merged.
    merged_to: Option<Offset>,
    not_before: Instant,
    has_failed: bool,
    /// How many segments this process had stored at the last look.
    segments: u64,
    backoff: Backoff,
}

impl Merges {
    pub(super) fn new() -> Self {
        Self {
            of: None,
            left: Vec::new(),
            is_before: false,
            merged_to: None,
            not_before: Instant::now(),
            has_failed: false,
            segments: 0,
            backoff: Backoff::exact(FAILED_PAUSE, MERGE_FAILED_PAUSE),
        }
    }

    /// `before`: the histories that it comes from, the newest one first.
    fn begin(&mut self, stored: ReplId, mut before: Vec<ReplId>) {
        before.reverse();
        (self.of, self.merged_to) = (Some(stored), None);
        (self.left, self.is_before) = (before, false);
    }

    /// Whose log has its turn.
    fn turn(&self, stored: ReplId) -> ReplId {
        let before = self.left.last().filter(|_| self.is_before);
        before.copied().unwrap_or(stored)
    }

    /// That log was merged, as far as it could be, unless it has more.
    fn looked(&mut self, has_more: bool, spans: u64) {
        if has_more {
            return;
        }
        if self.is_before {
            self.left.pop();
            if spans == 0 {
                // Whoever merged it has looked at those before it.
                self.left.clear();
            }
        }
        self.is_before = !self.left.is_empty();
    }

    /// Of `pending` segments so many were merged. The others are not new at the next look. (If none was, they may be such as
    /// cannot be.)
    fn merged(&mut self, pending: u64, merged: u64) {
        if merged > 0 {
            let left = pending.saturating_sub(merged);
            self.segments = self.segments.wrapping_sub(left);
        }
    }

    /// `segments`: how many have been stored by now.
    fn is_due(&self, now: Instant, segments: u64) -> bool {
        let stored = segments.wrapping_sub(self.segments);
        now >= self.not_before || (!self.has_failed && stored >= MERGE_SEGMENTS)
    }
}

impl Upkeep {
    /// Merges what was stored, a few spans at once: what else there is to do does not wait for a long log.
    pub(super) async fn merge_log(&self, merges: &mut Merges) {
        let now = Instant::now();
        let Some(stored) = self.status.stored_position() else {
            return;
        };
        let segments = self.segments();
        if !self.config.merge || !merges.is_due(now, segments) {
            return;
        }
        let pending = segments.wrapping_sub(merges.segments);
        merges.segments = segments;
        let _turn = self.turns.work().await;
        match timeout(TIME_LIMIT, self.merge_some(stored.history, merges, pending)).await {
            Ok(Ok(has_more)) => {
                merges.backoff.reset();
                merges.has_failed = false;
                merges.not_before = if has_more { now } else { later(MERGE_EVERY) };
            }
            Ok(Err(error)) => {
                merges.has_failed = true;
                merges.not_before = later(merges.backoff.pause());
                if self.status.merge_failed(error.to_string()) {
                    tracing::warn!("the log cannot be merged: {error}. Nothing is lost by that");
                }
            }
            Err(_) => {
                merges.has_failed = true;
                merges.not_before = later(merges.backoff.pause());
                self.status.merge_failed("it took too long");
            }
        }
    }

    /// Is there more to merge? `pending`: segments that were stored since the last look.
    async fn merge_some(
        &self,
        stored: ReplId,
        merges: &mut Merges,
        pending: u64,
    ) -> Result<bool, MergeError> {
        let archive = self.archive().await?;
        if merges.of != Some(stored) {
            // What others have not merged of the logs before it is merged as well, when this one is.
            let mut outline = Catalog::default();
            archive.add_line(&mut outline, stored).await?;
            let before = outline.lineage(stored)?.into_iter().skip(1);
            merges.begin(stored, before.map(|at| at.history).collect());
        }
        let history = merges.turn(stored);
        let request = MergeRequest {
            history: Some(history),
            merged_to: merges.merged_to.filter(|_| history == stored),
            limit: MERGED_AT_ONCE,
            dry_run: false,
            // The identity of a service need not be able to delete.
            delete: false,
            writer: self.service.clone(),
        };
        let work = self.status.work("merging");
        let report = merge(&archive, &request, &work).await?;
        let metrics = self.status.metrics();
        metrics.spans_stored.inc_by(report.spans);
        let merged = report.histories.into_iter().next();
        let has_more = merged.as_ref().is_some_and(|merged| merged.has_more);
        if history == stored {
            let to = merged.as_ref().and_then(|merged| merged.merged_to);
            merges.merged_to = to.or(merges.merged_to);
            merges.merged(pending, merged.as_ref().map_or(0, |merged| merged.segments));
            self.status
                .merged(to.map(|offset| Position { history, offset }));
        }
        merges.looked(has_more, merged.as_ref().map_or(0, |merged| merged.spans));
        if let Some(why) = merged.and_then(|merged| merged.stopped) {
            tracing::debug!(%history, "a part of the log cannot be merged: {why}");
        }
        match report.failure {
            Some(error) => Err(error),
            None => Ok(has_more || merges.is_before),
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::*;

    #[test]
    fn what_is_captured_is_merged_first_and_then_what_it_comes_from() {
        let ids: Vec<ReplId> = (0..6).map(|n| ReplId::from_random([n; 20])).collect();
        let mut merges = Merges::new();
        merges.begin(ids[0], ids[1..].to_vec());
        let mut turns = Vec::new();
        for (has_more, spans) in [
            (true, 32),
            (false, 0),
            (true, 32),
            (false, 1),
            (false, 3),
            (false, 0),
            (false, 1),
        ] {
            turns.push(merges.turn(ids[0]));
            merges.looked(has_more, spans);
        }
        let order = [0, 0, 1, 1, 2, 3, 0];
        assert_eq!(turns, order.map(|n: usize| ids[n]), "4 and 5 were merged");
        assert_eq!(merges.turn(ids[0]), ids[0]);
    }

    #[test]
    fn the_log_is_looked_at_again_when_something_can_be_merged() {
        let start = Instant::now();
        let mut merges = Merges::new();
        (merges.not_before, merges.segments) = (start + MERGE_EVERY, u64::MAX);
        let least = MERGE_SEGMENTS - 1;
        assert!(!merges.is_due(start, least - 1));
        assert!(merges.is_due(start, least), "a span is full");
        assert!(merges.is_due(start + MERGE_EVERY, 0));
        // All but two of 500 were merged: these count.
        merges.segments = 500;
        merges.merged(500, 498);
        assert!(!merges.is_due(start, 500 + MERGE_SEGMENTS - 3));
        assert!(merges.is_due(start, 500 + MERGE_SEGMENTS - 2));
        // None of them can be merged.
        merges.segments = 500;
        merges.merged(500, 0);
        assert!(!merges.is_due(start, 500 + MERGE_SEGMENTS - 1));
        merges.segments = u64::MAX;
        merges.has_failed = true;
        assert!(!merges.is_due(start, least));
        assert!(merges.is_due(start + MERGE_EVERY, least));
    }
}
