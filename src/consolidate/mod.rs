//! New bases from old ones and the log. So restores stay short, and the master is never asked for a snapshot again.
//!
//! A base counts only when its manifest is written. Before that, the stored bytes are read back and walked to their
//! end. If something fails earlier, everything stays as it was. If two processes consolidate at once, they make the
//! same base, and one of them stores it.

pub mod merging;

mod server_values;

use std::time::Duration;

use futures::StreamExt;
use serde::Serialize;
use tokio::time::timeout;

use crate::archive::{Archive, ArchiveError, BaseKind, BaseManifest};
use crate::config::PLANS;
use crate::rebuild::{self, BaseStop, Limits, RebuildError, Source, Stand, Stop, Survey};
use crate::recovery;
use crate::recovery::{BadBases, Plan, Progress, RecoveryError, RecoveryTarget, Stage};
use crate::store::StoreError;
use crate::wire::position::{Offset, Position, ReplId};
use crate::wire::rdb::reader::ReadError;

pub use server_values::{consolidate_given, lost_keys};

/// Tries of a stage, each with less of the log. A log can be cut in half about this often, and a few more tries are for
/// commands that are refused.
const TRIES: u32 = 50;
/// Segments that a stage takes at most, of which each takes some 400 bytes of a plan.
const PART: usize = if cfg!(test) { 50 } else { PLANS / 400 };
/// Stages of a consolidation. Each leaves a base: so many would fill a store with copies of the data set.
const STAGES: u64 = if cfg!(test) { 120 } else { 1000 };

/// What to consolidate.
#[derive(Debug, Clone)]
pub struct Request {
    /// Which history. None: the latest one.
    pub history: Option<ReplId>,
    /// Whose, where there are several.
    pub service: Option<String>,
    /// Up to which point.
    pub recovery_target: RecoveryTarget,
    /// Bytes of memory for the keys that the log touches, at most.
    pub memory_limit: usize,
    /// How much there must be, for it to be worth a base.
    pub worth: Worth,
    /// How long it may take, when no operator watches it.
    pub time_limit: Option<Duration>,
    /// The current time, Unix milliseconds.
    pub now_unix_ms: i64,
}

/// When a new base is worth its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// Whenever there is any log.
    AnyLog,
    /// When the log holds writes, and has at least one byte for this many bytes of the base.
    Writes {
        /// Bytes of base.
        base_bytes_for_each: u64,
    },
}

/// What was made.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The base that it began with.
    pub from: Position,
    /// The newest base now.
    pub to: Position,
    /// The time whose data that is, Unix milliseconds.
    pub as_of_unix_ms: i64,
    /// Bases that were made: more than one when the log had to be taken in stages.
    pub bases: u64,
    /// Commands of the log that were applied.
    pub commands: u64,
    /// Bytes of log that need not be replayed any more.
    pub log_bytes: u64,
    /// Keys in the newest base.
    pub keys: u64,
    /// Bytes of RDB in it.
    pub raw_bytes: u64,
    /// Bytes that it takes in the store.
    pub stored_bytes: u64,
    /// Why not further, if a command cannot be applied: from here on a new full sync is needed.
    pub stopped: Option<String>,
}

/// Why nothing, or not all, was consolidated.
#[derive(Debug, thiserror::Error)]
pub enum ConsolidateError {
    /// The archive cannot be read as a restore would read it.
    #[error(transparent)]
    Restore(#[from] RecoveryError),
    /// No new snapshot can be made.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// It cannot be stored.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The very first command cannot be applied.
    #[error(
        "nothing can be consolidated after the base at {base}: {stop}. The log is kept, and restores replay it. A new \
         full sync makes a base after that command"
    )]
    Blocked {
        /// The newest base.
        base: Position,
        /// Why.
        stop: Box<Stop>,
    },
    /// It took too long.
    #[error(
        "no base was made of all of the log within {} s; the newest one is at {base}. The log is kept, and restores replay it. \
         `backfeed consolidate` makes a base without a limit of time",
        limit.as_secs()
    )]
    TooLong {
        /// The newest base.
        base: Position,
        /// The limit.
        limit: Duration,
    },
    /// The memory is enough for a small part of the log at once.
    #[error(
        "{STAGES} bases were made in stages, the last one at {base}, and there is more log. Raise the limit of memory for the keys \
         that the log touches"
    )]
    TooManyStages {
        /// The newest base.
        base: Position,
    },
    /// A stage has not advanced, or a try was not smaller than the one before: there would be no end.
    #[error(
        "the log after the base at {base} cannot be consolidated: {what}. This is a bug in backfeed. The log is kept, \
         and restores replay it. A new full sync makes a base after it"
    )]
    Stuck {
        /// The newest base.
        base: Position,
        /// What did not advance.
        what: &'static str,
    },
    /// The base that was stored is not what was written.
    #[error("{base}: what was stored differs from what was written, so it does not count")]
    Differs {
        /// The base.
        base: Position,
    },
}

impl ConsolidateError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Restore(error) => error.is_transient(),
            Self::Rebuild(error) => error.is_transient(),
            Self::Archive(error) => error.is_transient(),
            _ => false,
        }
    }

    /// Would a new snapshot from the server help?
    #[must_use]
    pub fn asks_for_a_full_sync(&self) -> bool {
        match self {
            Self::Blocked { .. }
            | Self::TooLong { .. }
            | Self::TooManyStages { .. }
            | Self::Stuck { .. } => true,
            // The next snapshot would hold that as well.
            Self::Rebuild(RebuildError::Base { source, .. }) => !matches!(
                **source,
                ReadError::Unknown { .. } | ReadError::Sink(BaseStop::Unmodelled(_))
            ),
            Self::Rebuild(error) => !matches!(
                error,
                RebuildError::Archive(_) | RebuildError::Interrupted(_)
            ),
            _ => false,
        }
    }
}

/// The base that a consolidation of what `request` names would begin with, and how many segments stand behind it. Their names
/// say it: none of them is read.
///
/// # Errors
/// [`ConsolidateError::Restore`].
pub async fn newest_base(
    archive: &Archive,
    request: &Request,
) -> Result<(BaseManifest, usize), ConsolidateError> {
    let service = request.service.as_deref();
    let looked = recovery::look(archive, request.history, service, request.recovery_target).await;
    let (catalog, history) = looked?;
    match catalog.newest_base(history) {
        Some((base, segments)) => Ok((base.clone(), segments)),
        None => Err(ArchiveError::NothingStored { id: history }.into()),
    }
}

/// Makes the base at the end of what `request` names, in as many stages as its memory limit needs.
///
/// # Errors
/// [`ConsolidateError`]. Bases of earlier stages stay.
pub async fn consolidate(
    archive: &Archive,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report, ConsolidateError> {
    let mut reached: Option<Position> = None;
    let stages = stages(archive, request, progress, &mut reached);
    let Some(limit) = request.time_limit else {
        return stages.await;
    };
    let ended = timeout(limit, stages).await;
    match (ended, reached) {
        (Ok(ended), _) => ended,
        (Err(_), Some(base)) => Err(ConsolidateError::TooLong { base, limit }),
        (Err(_), None) => Err(ArchiveError::from(StoreError::Transient {
            what: "cannot read what the store holds".to_owned(),
            cause: format!("it took more than {} s", limit.as_secs()),
        })
        .into()),
    }
}

/// Runs one stage after the other. `reached` is the newest base.
async fn stages(
    archive: &Archive,
    request: &Request,
    progress: &dyn Progress,
    reached: &mut Option<Position>,
) -> Result<Report, ConsolidateError> {
    let mut report: Option<Report> = None;
    loop {
        let (plan, has_more) = part(archive, request).await?;
        let base = plan.base.position();
        let report = report.get_or_insert_with(|| Report::begin(&plan.base));
        if let Some(reached) = reached.replace(base)
            && base.offset < reached.offset
        {
            let what = "the base that was just made is not found";
            return Err(ConsolidateError::Stuck { base, what });
        }
        if report.bases >= STAGES {
            return Err(ConsolidateError::TooManyStages { base });
        }
        if plan.bytes_log() == 0 {
            report.now(&plan.base);
            return Ok(report.clone());
        }
        if let Worth::Writes {
            base_bytes_for_each,
        } = request.worth
            && !has_more
            && plan.bytes_log().saturating_mul(base_bytes_for_each) < plan.bytes_base()
        {
            report.now(&plan.base);
            return Ok(report.clone());
        }
        let mut wanted = request.clone();
        if has_more {
            // What is not worth a base by itself may be with what follows.
            wanted.worth = Worth::AnyLog;
        }
        let Some(stage) = stage(archive, &plan, &wanted, progress).await? else {
            report.now(&plan.base);
            return Ok(report.clone());
        };
        report.add(&stage);
        *reached = Some(stage.base.position());
        if stage.base.offset <= base.offset {
            let what = "a stage ended where it had begun";
            return Err(ConsolidateError::Stuck { base, what });
        }
        match stage.stop {
            None if has_more => {}
            None => return Ok(report.clone()),
            Some(stop @ Stop::Command { .. }) => {
                report.stopped = Some(stop.to_string());
                return Ok(report.clone());
            }
            Some(Stop::Memory | Stop::Enough) => {}
        }
    }
}

/// The plan of the next stage, and whether there is more log behind it: of a long log, it takes no more than fits into the memory for
/// plans.
async fn part(archive: &Archive, request: &Request) -> Result<(Plan, bool), ConsolidateError> {
    let service = request.service.as_deref();
    let looked = recovery::look(archive, request.history, service, request.recovery_target).await;
    let (catalog, history) = looked?;
    let upto = catalog.log_after(history, PART);
    if let Some(upto) = upto.filter(|_| request.recovery_target == RecoveryTarget::Latest) {
        let recovery_target = RecoveryTarget::Offset(upto.0);
        let mut plan = recovery::plan(
            archive,
            &catalog,
            history,
            recovery_target,
            &BadBases::new(),
        )
        .await?;
        // A command may be longer than that.
        if plan.bytes_log() > 0 {
            plan.set_relative_ttls(true);
            return Ok((plan, true));
        }
    }
    Ok((plan(archive, request).await?, false))
}

async fn plan(archive: &Archive, request: &Request) -> Result<Plan, ConsolidateError> {
    let service = request.service.as_deref();
    let looked = recovery::look(archive, request.history, service, request.recovery_target).await;
    let (catalog, history) = looked?;
    let none_bad = BadBases::new();
    let mut plan = recovery::plan(
        archive,
        &catalog,
        history,
        request.recovery_target,
        &none_bad,
    )
    .await?;
    // Only the commands tell, and they are made absolute where they are.
    plan.set_relative_ttls(true);
    Ok(plan)
}

/// One base.
struct Made {
    base: BaseManifest,
    commands: u64,
    stop: Option<Stop>,
}

async fn stage(
    archive: &Archive,
    plan: &Plan,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Option<Made>, ConsolidateError> {
    let mut limits = Limits {
        memory: request.memory_limit,
        log: u64::MAX,
    };
    // What the survey could not know.
    let mut found: Option<Stop> = None;
    for _ in 0..TRIES {
        progress.stage(Stage::Log, None);
        let source = recovery::source(archive, plan);
        let survey = rebuild::survey(&source, limits).await?;
        let end = survey.end.offset;
        if end == plan.base.offset {
            let stop = survey.stop.unwrap_or(Stop::Memory);
            return match stop {
                Stop::Command { .. } => Err(blocked(plan, stop)),
                _ => Err(RebuildError::Memory {
                    limit: limits.memory,
                }
                .into()),
            };
        }
        if survey.stop.is_none() && end != plan.end.offset {
            return Err(RebuildError::Incomplete(end).into());
        }
        if survey.writes == 0 && request.worth != Worth::AnyLog {
            match survey.stop {
                Some(stop @ Stop::Command { .. }) => return Err(blocked(plan, stop)),
                None => return Ok(None),
                Some(Stop::Memory | Stop::Enough) => {}
            }
        }
        let length = end.since(plan.base.offset);
        let commands = survey.commands;
        let at_limit = matches!(survey.stop, Some(Stop::Enough));
        let stop = if at_limit && found.is_some() {
            found.clone()
        } else {
            survey.stop.clone()
        };
        match make(archive, plan, source, survey, limits, request, progress).await {
            Ok(base) => {
                return Ok(Some(Made {
                    base,
                    commands,
                    stop,
                }));
            }
            Err(ConsolidateError::Rebuild(RebuildError::Command { after, why })) => {
                let stop = Stop::Command { after, why };
                if after == plan.base.offset {
                    return Err(blocked(plan, stop));
                }
                limits.log = less(plan, limits.log, after.since(plan.base.offset))?;
                found = Some(stop);
            }
            // More than the limit is taken where it is one unit, which cannot be divided.
            Err(ConsolidateError::Rebuild(error))
                if error.is_memory() && (2..=limits.log).contains(&length) =>
            {
                tracing::debug!(%error, length, "taking half of the log");
                limits.log = less(plan, limits.log, length / 2)?;
                found = None;
            }
            Err(error) => return Err(error),
        }
    }
    Err(stuck(plan, "a stage was tried too often"))
}

/// The next try's limit: below that of the last one.
fn less(plan: &Plan, before: u64, now: u64) -> Result<u64, ConsolidateError> {
    if now < before {
        Ok(now)
    } else {
        Err(stuck(plan, "a stage would be tried again with as much log"))
    }
}

fn stuck(plan: &Plan, what: &'static str) -> ConsolidateError {
    ConsolidateError::Stuck {
        base: plan.base.position(),
        what,
    }
}

fn blocked(plan: &Plan, stop: Stop) -> ConsolidateError {
    ConsolidateError::Blocked {
        base: plan.base.position(),
        stop: Box::new(stop),
    }
}

/// Makes, stores, reads back and commits a base.
async fn make(
    archive: &Archive,
    plan: &Plan,
    source: Source,
    survey: Survey,
    limits: Limits,
    request: &Request,
    progress: &dyn Progress,
) -> Result<BaseManifest, ConsolidateError> {
    let at = Position {
        history: history_at(plan, survey.end.offset)?,
        offset: survey.end.offset,
    };
    let received_unix_ms = survey.received_unix_ms;
    progress.stage(Stage::Snapshot, Some(plan.base.raw_bytes));
    let mut bytes = rebuild::write(source, survey, Stand::At(at.history), limits);
    let mut writer = archive.begin_base(at).await?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        progress.advance(chunk.len() as u64);
        writer.write(chunk).await?;
    }
    let written = match writer.finish().await {
        Ok(stored) => Some(stored),
        // Another process made it, and perhaps died before the manifest.
        Err(ArchiveError::BaseExists { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    progress.stage(Stage::Checking, None);
    let (stored, summary) = archive.walk_stray_base(at).await?;
    if written.is_some_and(|written| written != stored) || summary.unwalked.is_some() {
        return Err(ConsolidateError::Differs { base: at });
    }
    let kind = BaseKind::Consolidated {
        from: plan.base.offset,
    };
    let server = plan.base.server.clone();
    let mut manifest = BaseManifest::new(&stored, &summary, kind, server, request.now_unix_ms);
    manifest.received_unix_ms = received_unix_ms;
    archive.commit_base(&manifest).await?;
    Ok(manifest)
}

/// The history that an offset of the plan belongs to.
fn history_at(plan: &Plan, offset: Offset) -> Result<ReplId, ArchiveError> {
    if offset == plan.end.offset {
        return Ok(plan.end_position.history);
    }
    for piece in plan.pieces.iter() {
        let piece = piece?;
        if piece.after < offset && offset <= piece.upto {
            return Ok(piece.header.meta.history);
        }
    }
    Ok(plan.base.history)
}

impl Report {
    fn begin(base: &BaseManifest) -> Self {
        let mut report = Self {
            from: base.position(),
            to: base.position(),
            as_of_unix_ms: 0,
            bases: 0,
            commands: 0,
            log_bytes: 0,
            keys: 0,
            raw_bytes: 0,
            stored_bytes: 0,
            stopped: None,
        };
        report.now(base);
        report
    }

    fn now(&mut self, base: &BaseManifest) {
        self.to = base.position();
        self.as_of_unix_ms = base.as_of_unix_ms();
        self.log_bytes = base.offset.since(self.from.offset);
        let keys = base.databases.values().map(|db| db.keys);
        self.keys = keys.fold(0, u64::saturating_add);
        self.raw_bytes = base.raw_bytes;
        self.stored_bytes = base.stored_bytes;
    }

    fn add(&mut self, stage: &Made) {
        self.bases = self.bases.saturating_add(1);
        self.commands = self.commands.saturating_add(stage.commands);
        self.now(&stage.base);
    }
}

#[cfg(test)]
#[path = "consolidate_tests.rs"]
mod tests;
