//! A base at a point where the log does not have the values of some keys, and the server gave them.

use super::{ConsolidateError, Report, Request, make, plan};
use crate::archive::Archive;
use crate::rebuild::{self, Given, Limits, RebuildError};
use crate::recovery;
use crate::wire::position::Position;

/// The keys whose values are not known at the end of the log that `request` names, by database: commands that cannot be
/// applied have changed them. At most `most`.
///
/// # Errors
/// [`ConsolidateError`].
pub async fn lost_keys(
    archive: &Archive,
    request: &Request,
    most: usize,
) -> Result<Vec<(u32, Vec<u8>)>, ConsolidateError> {
    let plan = plan(archive, request).await?;
    let source = recovery::source(archive, &plan);
    let survey = rebuild::survey_all(&source, limits(request)).await?;
    // Behind a command whose keys are not known, nothing would help.
    if survey.stop.is_some() {
        return Ok(Vec::new());
    }
    let lost = survey.lost().take(most.saturating_add(1));
    Ok(lost.map(|(db, key)| (db, key.to_vec())).collect())
}

/// Makes the base at the very point that `request` names, where the values of some keys were given by the server.
///
/// # Errors
/// [`ConsolidateError`]; also where the log does not lead up to that point, or other keys are not known there.
pub async fn consolidate_given(
    archive: &Archive,
    request: &Request,
    given: Vec<Given>,
) -> Result<Report, ConsolidateError> {
    let plan = plan(archive, request).await?;
    let mut report = Report::begin(&plan.base);
    let source = recovery::source(archive, &plan);
    let mut survey = rebuild::survey_all(&source, limits(request)).await?;
    let at = Position {
        history: plan.end_position.history,
        offset: survey.end.offset,
    };
    if survey.end.offset != plan.end.offset {
        return Err(RebuildError::Incomplete(at.offset).into());
    }
    survey.given = given;
    let commands = survey.commands;
    let limits = limits(request);
    let base = make(archive, &plan, source, survey, limits, request, &()).await?;
    report.bases = 1;
    report.commands = commands;
    report.now(&base);
    Ok(report)
}

fn limits(request: &Request) -> Limits {
    Limits {
        memory: request.memory_limit,
        log: u64::MAX,
    }
}
