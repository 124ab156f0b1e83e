//! One run of expiry.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::plan::{Plan, PlannedFloor, Survey};
use super::survey::has_below;
use crate::archive::{
    Ambiguous, Archive, ArchiveError, BaseManifest, Catalog, Deleted, Deleter, FORMAT, Floor,
    FloorDoc, Stay,
};
use crate::config::KeepPolicy;
use crate::display;
use crate::recovery::{Progress, Stage};
use crate::verify;
use crate::wire::position::{Offset, Position, ReplId};

/// Clocks may differ by so much. Otherwise nobody knows what is old.
const CLOCK_TOLERANCE_MS: u64 = 3_600_000;

/// What is to be done.
#[derive(Debug, Clone)]
pub struct Request {
    /// What is kept.
    pub policy: KeepPolicy,
    /// Whose latest history is meant, where several services write.
    pub service: Option<String>,
    /// Otherwise nothing is created and nothing deleted.
    pub confirm: bool,
    /// Who does it, for the documents.
    pub writer: String,
    /// By the clock of this machine, Unix milliseconds.
    pub now_unix_ms: i64,
}

/// Why nothing expires.
#[derive(Debug, thiserror::Error)]
pub enum ExpireError {
    /// The archive could not be read, or not be written.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Which lineage is to stay is not clear.
    #[error("nothing expires, because {0}")]
    Ambiguous(#[from] Ambiguous),
    /// Too little of a history can be read.
    #[error(
        "nothing expires, because history {history} cannot be read: {reason}. `backfeed verify` shows all that is damaged"
    )]
    Unreadable {
        /// Which.
        history: ReplId,
        /// The object, and what is wrong with it.
        reason: String,
    },
    /// A clock is wrong.
    #[error(
        "nothing expires, because the clocks differ: this machine says {own}, and {other}. Set the clock that is wrong"
    )]
    Clock {
        /// What this machine says.
        own: String,
        /// Who says what.
        other: String,
    },
    /// The base that would become the oldest one is not sound.
    #[error(
        "nothing expires, because the base that would become the oldest one is not sound: {reason}. A deep \
         `backfeed verify` says more. RecoveryTarget a later base is old enough, it takes its place"
    )]
    Unsound {
        /// What is wrong.
        reason: String,
    },
}

impl ExpireError {
    /// May the same succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Archive(error) if error.is_transient())
    }
}

/// What a run found and did. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The store.
    pub store: String,
    /// Floors were created, and objects deleted. Otherwise it is only a plan.
    pub confirmed: bool,
    /// What is kept.
    pub policy: String,
    /// The newest point. Null: nothing is stored.
    pub tip: Option<Position>,
    /// Its time, Unix milliseconds.
    pub tip_unix_ms: Option<i64>,
    /// The base with which all that stays of the latest line begins. Null: nothing of it expires.
    pub oldest: Option<Position>,
    /// The time whose data it holds, Unix milliseconds.
    pub oldest_unix_ms: Option<i64>,
    /// What expires with this run. It is deleted by a run that comes a day later.
    pub expires: Vec<Expiry>,
    /// What has expired a day ago or earlier, and goes with this run: of each, at least one object was deleted.
    pub goes: Vec<Expiry>,
    /// The number of holds.
    pub holds: usize,
    /// What was deleted, and what the store did not delete.
    pub deleted: Deleted,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// The points of a history before an offset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Expiry {
    /// The history.
    pub history: ReplId,
    /// The first point that stays.
    pub before: Offset,
    /// It is all of the history, which is not part of the latest line.
    pub lost: bool,
    /// Bases before it that stay alone: the snapshot, and nothing of the log after it.
    pub snapshots: BTreeSet<Offset>,
}

/// Makes floors, and deletes below those of earlier runs, or says what that would be.
///
/// # Errors
/// [`ExpireError`]. Nothing is deleted then, unless the store failed in the middle.
pub async fn expire(
    archive: &Archive,
    request: &Request,
    progress: &dyn Progress,
) -> Result<Report, ExpireError> {
    progress.stage(Stage::Checking, None);
    let mut deleter = None;
    let mut now_ms = request.now_unix_ms;
    if request.confirm {
        let begun = archive.deleter().await?;
        now_ms = begun.now_ms();
        check_clock(request.now_unix_ms, now_ms, "the store says")?;
        deleter = Some(begun);
    }
    let catalog = archive.catalog().await?;
    let mut report = Report::new(archive, request);
    let service = request.service.as_deref();
    let Some(survey) = Survey::of(archive, &catalog, service, now_ms).await? else {
        report
            .notes
            .push("there is nothing to expire yet".to_owned());
        return Ok(report);
    };
    let plan = survey.plan(&request.policy);
    report.tell(&catalog, &survey, &plan);
    let run = Run {
        archive,
        request,
        progress,
    };
    if let Some(mut deleter) = deleter {
        run.create_floors(&catalog, &survey, &plan, &mut report)
            .await?;
        run.delete(&mut deleter, &catalog, &survey, &mut report)
            .await?;
        report.deleted = deleter.deleted().clone();
    } else {
        let due = due(&catalog, &survey, &survey.stay());
        report.goes = due.into_iter().map(|due| due.expiry).collect();
    }
    Ok(report)
}

fn check_clock(own_ms: i64, other_ms: i64, who: &str) -> Result<(), ExpireError> {
    if own_ms.abs_diff(other_ms) <= CLOCK_TOLERANCE_MS {
        return Ok(());
    }
    Err(ExpireError::Clock {
        own: display::time(own_ms),
        other: format!("{who} {}", display::time(other_ms)),
    })
}

impl Report {
    fn new(archive: &Archive, request: &Request) -> Self {
        Self {
            store: archive.store().url(),
            confirmed: request.confirm,
            policy: request.policy.to_string(),
            tip: None,
            tip_unix_ms: None,
            oldest: None,
            oldest_unix_ms: None,
            expires: Vec::new(),
            goes: Vec::new(),
            holds: 0,
            deleted: Deleted::default(),
            notes: Vec::new(),
        }
    }

    fn tell(&mut self, catalog: &Catalog, survey: &Survey, plan: &Plan) {
        self.tip = survey.tip();
        self.tip_unix_ms = Some(survey.tip_unix_ms).filter(|time| *time > i64::MIN);
        self.oldest = plan.cut;
        self.oldest_unix_ms = plan
            .cut
            .and_then(|at| manifest(catalog, at))
            .map(BaseManifest::as_of_unix_ms);
        self.expires = plan.floors.iter().map(Expiry::of).collect();
        self.holds = survey.holds.len();
        self.notes.clone_from(&plan.notes);
    }
}

impl Report {
    /// Another run has made a floor at the same place, and it says something else. It is never changed.
    fn not_as_planned(&mut self, planned: &FloorDoc, counts: &Floor) {
        let alone = counts.doc.as_ref().map(|doc| doc.alone.clone());
        self.notes.push(format!(
            "history {}: there is a floor at offset {} already, and other bases stay below it. That one counts",
            planned.history, planned.offset
        ));
        for expiry in &mut self.expires {
            if (expiry.history, expiry.before) == (planned.history, planned.offset) {
                expiry.snapshots = alone.clone().unwrap_or_default();
            }
        }
    }

    /// What came of a deletion. What is not gone is not said to be.
    fn went(&mut self, expiry: Expiry, before: &Deleted, after: &Deleted) {
        if after.objects > before.objects {
            self.goes.push(expiry);
            return;
        }
        let why = match (after.denied > before.denied, after.young > before.young) {
            (true, _) => "the store does not delete it",
            (false, true) => "it is too young",
            (false, false) => "something needs it",
        };
        self.notes.push(format!(
            "history {}: what is before offset {} stays for now, because {why}",
            expiry.history, expiry.before
        ));
    }
}

impl Expiry {
    fn of(floor: &PlannedFloor) -> Self {
        Self {
            history: floor.history,
            before: floor.offset,
            lost: floor.lost,
            snapshots: floor.alone.clone(),
        }
    }
}

fn manifest(catalog: &Catalog, at: Position) -> Option<&BaseManifest> {
    let history = catalog.histories.get(&at.history)?;
    history.bases.iter().find(|base| base.offset == at.offset)
}

/// What may be deleted.
struct Due {
    /// Below this floor.
    floor: Floor,
    /// What the floor says.
    doc: FloorDoc,
    expiry: Expiry,
    stay: Stay,
}

/// Of each history the highest floor that is old enough, if something is below it that nobody needs.
fn due(catalog: &Catalog, survey: &Survey, stay: &BTreeMap<ReplId, Stay>) -> Vec<Due> {
    let mut due = Vec::new();
    for (id, history) in &catalog.histories {
        let mut floors = history.floors.iter().rev();
        let Some(floor) = floors.find(|floor| survey.acts(floor)) else {
            continue;
        };
        let Some(doc) = &floor.doc else {
            continue;
        };
        let stay = stay.get(id).cloned().unwrap_or_default();
        if has_below(catalog, *id, floor, &stay) {
            let expiry = Expiry {
                history: *id,
                before: floor.offset,
                lost: doc.base.history != *id && survey.has_lost(*id),
                snapshots: doc.alone.clone(),
            };
            due.push(Due {
                floor: floor.clone(),
                doc: doc.clone(),
                expiry,
                stay,
            });
        }
    }
    due
}

/// Is the base there with which all that is promised begins, as a floor says? It may have expired since: then the base of
/// the floor above it.
fn has_base(catalog: &Catalog, survey: &Survey, doc: &FloorDoc) -> bool {
    let mut doc = doc;
    for _ in 0..=catalog.histories.len() {
        let stored = manifest(catalog, doc.base).and_then(|base| base.digest.as_ref());
        let differs = matches!((stored, &doc.digest), (Some(is), Some(wanted)) if is != wanted);
        if survey.has_base(doc.base) {
            return !differs;
        }
        let history = catalog.histories.get(&doc.base.history);
        let above = history.and_then(|history| history.floors.highest());
        let above = above.filter(|floor| doc.base.offset < floor.offset);
        let Some(above) = above.and_then(|floor| floor.doc.as_ref()) else {
            return false;
        };
        doc = above;
    }
    false
}

struct Run<'a> {
    archive: &'a Archive,
    request: &'a Request,
    progress: &'a dyn Progress,
}

impl Run<'_> {
    /// Reads the base that becomes the oldest one to its end, and then creates the floors.
    async fn create_floors(
        &self,
        catalog: &Catalog,
        survey: &Survey,
        plan: &Plan,
        report: &mut Report,
    ) -> Result<(), ExpireError> {
        let (Some(cut), Some(tip)) = (plan.cut, survey.tip()) else {
            return Ok(());
        };
        if plan.floors.is_empty() {
            return Ok(());
        }
        let base = self.sound_base(catalog, cut).await?;
        for floor in &plan.floors {
            let doc = FloorDoc {
                format: FORMAT,
                history: floor.history,
                offset: floor.offset,
                as_of_unix_ms: base.as_of_unix_ms(),
                base: cut,
                digest: base.digest.clone(),
                alone: floor.alone.clone(),
                tip,
                policy: self.request.policy.to_string(),
                writer: self.request.writer.clone(),
                created_unix_ms: self.request.now_unix_ms,
            };
            let counts = self.archive.create_floor(&doc).await?;
            if counts.doc.as_ref().is_none_or(|it| it.alone != doc.alone) {
                report.not_as_planned(&doc, &counts);
            }
            tracing::info!(
                history = %floor.history, before = %floor.offset, policy = doc.policy,
                "points have expired. They are deleted in a day at the earliest"
            );
        }
        Ok(())
    }

    async fn sound_base(
        &self,
        catalog: &Catalog,
        at: Position,
    ) -> Result<BaseManifest, ExpireError> {
        let unsound = |reason: String| ExpireError::Unsound { reason };
        let history = catalog.histories.get(&at.history);
        let (Some(history), Some(base)) = (history, manifest(catalog, at)) else {
            return Err(unsound(format!("the base at {at} is not there")));
        };
        let now = self.request.now_unix_ms;
        let read = verify::read_base(self.archive, history, base, now, self.progress).await?;
        match read {
            Ok(()) => Ok(base.clone()),
            Err(reason) => Err(unsound(reason)),
        }
    }

    /// Looks again at all that there is, and deletes what is below floors of earlier runs.
    async fn delete(
        &self,
        deleter: &mut Deleter,
        catalog: &Catalog,
        survey: &Survey,
        report: &mut Report,
    ) -> Result<(), ExpireError> {
        deleter.sweep_clock().await?;
        for id in catalog.histories.keys() {
            deleter.sweep_unfinished(*id).await?;
        }
        if due(catalog, survey, &survey.stay()).is_empty() {
            return Ok(());
        }
        // What was created since counts: a hold, or a history that hangs on another one below its floor.
        let catalog = self.archive.catalog().await?;
        let service = self.request.service.as_deref();
        let now_ms = deleter.now_ms();
        let Some(survey) = Survey::of(self.archive, &catalog, service, now_ms).await? else {
            return Ok(());
        };
        for due in due(&catalog, &survey, &survey.stay()) {
            let id = due.expiry.history;
            // The base of a floor may have gone when a higher one took its place.
            let facts = survey.histories.get(&id);
            let highest = facts.and_then(|facts| facts.floors.highest());
            let highest = highest.and_then(|floor| floor.doc.as_ref());
            if !has_base(&catalog, &survey, highest.unwrap_or(&due.doc)) {
                report.notes.push(format!(
                    "nothing of history {id} is deleted: the base that is to stay is not there, or not as it should be"
                ));
                continue;
            }
            let before = deleter.deleted().clone();
            deleter.below(id, &due.floor, &due.stay).await?;
            report.went(due.expiry, &before, deleter.deleted());
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
pub(super) mod tests;
