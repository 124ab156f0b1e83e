//! Merging the segments of logs into spans ([`crate::archive::Span`]): of one history, or of all.
//!
//! Nothing is lost if it stops anywhere: a span is created as a whole, and the segments stay.

use serde::Serialize;

use crate::archive::{Archive, ArchiveError, Deleted, MergeError, Span};
use crate::recovery::{Progress, Stage};
use crate::wire::position::{Offset, ReplId};

/// What to merge.
#[derive(Debug, Clone)]
pub struct MergeRequest {
    /// The log of which history. None: of all.
    pub history: Option<ReplId>,
    /// It is known that this log is merged up to here.
    pub merged_to: Option<Offset>,
    /// Make no more spans than this.
    pub limit: u64,
    /// Say what would be made, and make nothing.
    pub dry_run: bool,
    /// Then delete the segments that have been in a span for as long as the grace ([`crate::archive::GRACE_MS`]).
    pub delete: bool,
    /// Who merges, for operators.
    pub writer: String,
}

/// What was made.
#[derive(Debug, Clone, Default, Serialize)]
pub struct MergeReport {
    /// Nothing was made: it says what would be.
    pub dry_run: bool,
    /// Spans that were made, or were there already.
    pub spans: u64,
    /// Segments that are in them.
    pub segments: u64,
    /// Bytes of the feed that are in them.
    pub raw_bytes: u64,
    /// Bytes that they take in the store. 0 if nothing was made.
    pub stored_bytes: u64,
    /// History by history.
    pub histories: Vec<MergedHistory>,
    /// Segments that were deleted, as a span has them. None: that was not asked for.
    pub deleted: Option<Deleted>,
    /// The first of the errors of single histories.
    #[serde(skip)]
    pub failure: Option<MergeError>,
}

/// What was made of one log.
#[derive(Debug, Clone, Serialize)]
pub struct MergedHistory {
    /// The history.
    pub history: ReplId,
    /// Spans that were made, or were there already.
    pub spans: u64,
    /// Segments that are in them.
    pub segments: u64,
    /// The last byte that is in a span that was made.
    pub merged_to: Option<Offset>,
    /// More could be merged: the limit was reached.
    pub has_more: bool,
    /// Why a part of the log cannot be merged: something is missing, or damaged.
    pub stopped: Option<String>,
    /// What is wrong with its objects. It is merged from the next base on. Nothing of it is deleted behind that.
    pub errors: Vec<String>,
}

impl MergedHistory {
    fn new(history: ReplId) -> Self {
        Self {
            history,
            spans: 0,
            segments: 0,
            merged_to: None,
            has_more: false,
            stopped: None,
            errors: Vec::new(),
        }
    }
}

/// Merges what can be merged. What is wrong with the log of one history ([`MergeReport::failure`]) does not keep others from
/// being merged.
///
/// # Errors
/// [`MergeError`], of the store. Spans that were made stay.
pub async fn merge(
    archive: &Archive,
    request: &MergeRequest,
    progress: &dyn Progress,
) -> Result<MergeReport, MergeError> {
    let histories = match request.history {
        Some(history) => vec![history],
        None => archive.outline().await?.histories.into_keys().collect(),
    };
    let mut report = MergeReport {
        dry_run: request.dry_run,
        ..MergeReport::default()
    };
    progress.stage(Stage::Merging, None);
    for history in histories.iter().copied() {
        let merged = merge_one(archive, history, request, &mut report, progress).await?;
        let is_worth_a_line =
            merged.spans > 0 || merged.stopped.is_some() || !merged.errors.is_empty();
        if request.history.is_some() || is_worth_a_line {
            report.histories.push(merged);
        }
    }
    if request.delete && !request.dry_run {
        let mut deleter = archive.deleter().await?;
        for history in histories {
            if let Err(error) = deleter.merged(history).await {
                let mut merged = report.histories.iter();
                let at = merged.position(|merged| merged.history == history);
                let mut merged = match at {
                    Some(at) => report.histories.remove(at),
                    None => MergedHistory::new(history),
                };
                report.failed(error, &mut merged)?;
                report.histories.push(merged);
            }
        }
        report.deleted = Some(deleter.deleted().clone());
    }
    Ok(report)
}

async fn merge_one(
    archive: &Archive,
    history: ReplId,
    request: &MergeRequest,
    report: &mut MergeReport,
    progress: &dyn Progress,
) -> Result<MergedHistory, MergeError> {
    let mut merged = MergedHistory::new(history);
    let known = request.merged_to.filter(|_| request.history.is_some());
    if known.is_none()
        && !request.dry_run
        && let Err(error) = archive.check_last_span(history).await
    {
        report.failed(error, &mut merged)?;
    }
    // A short segment comes with its header. What is kept has the room that a consolidation would need: there is never both.
    let keeping = archive.keeping();
    let mut runs = match keeping.runs(history, known).await {
        Ok(runs) => runs,
        // A history that is not begun yet has no log.
        Err(ArchiveError::Missing { .. }) if request.history.is_none() => return Ok(merged),
        Err(ArchiveError::Missing { .. }) => {
            return Err(ArchiveError::UnknownHistory { id: history }.into());
        }
        Err(error) => {
            report.failed(error.into(), &mut merged)?;
            return Ok(merged);
        }
    };
    while let Some(run) = runs.next().await? {
        if report.spans >= request.limit {
            merged.has_more = true;
            break;
        }
        let made = if request.dry_run {
            None
        } else {
            match keeping.merge(&run, &request.writer).await {
                Ok(made) => Some(made),
                Err(error) => {
                    runs.go_on(error.to_string());
                    report.failed(error, &mut merged)?;
                    continue;
                }
            }
        };
        progress.advance(run.raw());
        report.add(run.len() as u64, run.raw(), made.as_ref());
        merged.spans = merged.spans.saturating_add(1);
        merged.segments = merged.segments.saturating_add(run.len() as u64);
        merged.merged_to = run.range().map(|(_, _, to)| Offset(to));
    }
    merged.stopped = runs.stopped;
    Ok(merged)
}

impl MergeReport {
    /// Notes what is wrong with one log. Outside: it is not about one log.
    fn failed(&mut self, error: MergeError, merged: &mut MergedHistory) -> Result<(), MergeError> {
        if !error.is_of_one_log() {
            return Err(error);
        }
        merged.errors.push(error.to_string());
        self.failure.get_or_insert(error);
        Ok(())
    }

    fn add(&mut self, segments: u64, raw_bytes: u64, made: Option<&Span>) {
        self.spans = self.spans.saturating_add(1);
        self.segments = self.segments.saturating_add(segments);
        self.raw_bytes = self.raw_bytes.saturating_add(raw_bytes);
        let stored = made.map_or(0, |span| span.stored_bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(stored);
    }
}

#[cfg(test)]
#[path = "merging_tests.rs"]
mod tests;
