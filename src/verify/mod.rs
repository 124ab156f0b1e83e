//! Can everything that is stored be restored?
//!
//! ```text
//! catalog ──▶ per history: documents · manifests · the chain of headers from its first base to its end
//!     deep ──▶ each base: bytes, checksums, RDB to its end, counts = manifest · a second opinion ──▶ its verdict, stored
//!              each segment: bytes, checksums, commands, boundaries = header
//! ```
//!
//! Headers, bases and segments are read as streams, so memory does not depend on what is stored.

mod bases;
mod duplicates;
mod log;
mod needs;
mod second_reader;

use std::fmt;

use serde::Serialize;

use self::needs::{Needs, Start};
pub(crate) use self::second_reader::{Counts, Opinion, opinion_of};
use crate::archive::{Archive, ArchiveError, BaseManifest, Catalog, History, HoldDoc, Name};
use crate::config::Size;
use crate::display::counted;
use crate::recovery::Progress;
use crate::wire::position::{Offset, ReplId};

/// Findings of one history that are listed one by one. More are counted: a log of a million segments may be missing as
/// a whole.
const FINDINGS_KEPT: usize = 1000;

/// What to verify.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// This history and its ancestors. None: all histories.
    pub history: Option<ReplId>,
    /// Every byte, not only headers and documents.
    pub deep: bool,
    /// The current time, Unix milliseconds.
    pub now_unix_ms: i64,
}

/// What was found. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The store.
    pub store: String,
    /// Every byte was read.
    pub deep: bool,
    /// Nothing is wrong.
    pub sound: bool,
    /// How many things are wrong.
    pub problems: u64,
    /// Each history that was looked at.
    pub histories: Vec<HistoryReport>,
    /// Histories that could not be read.
    pub unreadable: Vec<Finding>,
    /// What an operator should know, and is no damage.
    pub notes: Vec<String>,
}

/// What was found of one history.
#[derive(Debug, Clone, Serialize)]
pub struct HistoryReport {
    /// Which.
    pub id: ReplId,
    /// Stretches that join without a gap.
    pub stretches: Vec<Stretch>,
    /// Bases with a manifest.
    pub bases: u64,
    /// Segments in the chain.
    pub segments: u64,
    /// Bytes of RDB and of log that were read (`--deep`).
    pub bytes_read: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// The number of further findings that are not listed.
    pub more_findings: u64,
    /// What is no damage.
    pub notes: Vec<String>,
    /// Why verdicts could not be stored.
    #[serde(skip)]
    verdicts_refused: Option<String>,
}

/// A stretch of a history without a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Stretch {
    /// Where a restore may begin.
    pub from: Offset,
    /// The last stored byte.
    pub to: Offset,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object, if it is one.
    pub object: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// Reads one base to its end, by both readers. If it is sound, that is recorded beside it.
///
/// Inside: why it is not sound.
///
/// # Errors
/// When the store fails.
pub async fn read_base(
    archive: &Archive,
    history: &History,
    base: &BaseManifest,
    now_unix_ms: i64,
    progress: &dyn Progress,
) -> Result<Result<(), String>, ArchiveError> {
    let request = Request {
        history: Some(history.doc.id),
        deep: true,
        now_unix_ms,
    };
    bases::read_one(archive, history, base, request, progress).await
}

/// Checks what `request` names. Damage is in the report. An error means that the store failed, or that there is no such
/// history.
///
/// # Errors
/// [`ArchiveError`].
pub async fn verify(
    archive: &Archive,
    request: Request,
    progress: &dyn Progress,
) -> Result<Report, ArchiveError> {
    // What its segments still have makes no span sound.
    let archive = &archive.strictly();
    let catalog = archive.catalog().await?;
    let wanted: Vec<ReplId> = match request.history {
        Some(id) if catalog.unreadable.contains_key(&id) => Vec::new(),
        Some(id) => {
            let lineage = catalog.lineage(id)?;
            lineage.iter().map(|at| at.history).collect()
        }
        None => catalog.histories.keys().copied().collect(),
    };
    let mut report = Report {
        store: archive.store().url(),
        deep: request.deep,
        sound: true,
        problems: 0,
        histories: Vec::new(),
        unreadable: unreadable(&catalog, request.history),
        notes: catalog.problems.iter().map(ToString::to_string).collect(),
    };
    let holds = holds(archive, &mut report).await?;
    let needs = needs::needs(&catalog, &holds);
    for history in wanted.iter().filter_map(|id| catalog.histories.get(id)) {
        let mut found = HistoryReport::new(history);
        found.documents(&catalog, history);
        if request.deep {
            bases::read(archive, history, request, &mut found, progress).await?;
        }
        log::walk(
            archive,
            &catalog,
            history,
            &starts(&catalog, history, &needs),
            request.deep,
            &mut found,
            progress,
        )
        .await?;
        report.histories.push(found);
    }
    join(&catalog, &mut report.histories);
    needs::check(&catalog, &holds, &mut report.histories);
    if let Some(why) = report
        .histories
        .iter()
        .find_map(|found| found.verdicts_refused.clone())
    {
        report.notes.push(format!(
            "the verdicts could not be stored, and `list` will not show them: {why}"
        ));
    }
    let told = report.histories.iter().map(|found| {
        let told = found.findings.len() as u64;
        told.saturating_add(found.more_findings)
    });
    report.problems = told.fold(report.unreadable.len() as u64, u64::saturating_add);
    report.sound = report.problems == 0;
    Ok(report)
}

/// All holds. What one keeps that cannot be read is not known.
async fn holds(archive: &Archive, report: &mut Report) -> Result<Vec<HoldDoc>, ArchiveError> {
    match archive.all_holds().await {
        Ok(holds) => Ok(holds),
        Err(error @ ArchiveError::Store(_)) => Err(error),
        Err(error) => {
            report.unreadable.push(Finding {
                object: None,
                what: error.to_string(),
                advice: "remove this hold, or bring it back from a copy of the store. Until then, nothing expires, and \
                         what holds need was not checked"
                    .to_owned(),
            });
            Ok(Vec::new())
        }
    }
}

fn unreadable(catalog: &Catalog, wanted: Option<ReplId>) -> Vec<Finding> {
    let unreadable = catalog.unreadable.iter();
    let unreadable = unreadable
        // Those are reported with the history itself.
        .filter(|(id, _)| !catalog.histories.contains_key(id))
        .filter(|(id, _)| wanted.is_none_or(|wanted| wanted == **id));
    let finding = |(id, reason): (&ReplId, &String)| Finding {
        object: Some(Name::History(*id).to_string()),
        what: reason.clone(),
        advice: format!(
            "bring it back from a copy of the store. Until then, history {id} cannot be restored, and others only by \
             their id"
        ),
    };
    unreadable.map(finding).collect()
}

/// Each history begins where its parent has come to.
fn join(catalog: &Catalog, histories: &mut [HistoryReport]) {
    let stretches: Vec<(ReplId, Vec<Stretch>)> = histories
        .iter()
        .map(|found| (found.id, found.stretches.clone()))
        .collect();
    for found in histories {
        let Some(history) = catalog.histories.get(&found.id) else {
            continue;
        };
        let Some(parent) = history.doc.parent else {
            continue;
        };
        let Some((_, of_parent)) = stretches.iter().find(|(id, _)| *id == parent.history) else {
            continue;
        };
        if history.floors.highest().is_some() {
            // What came before is not promised.
            continue;
        }
        let own = history.bases.first().map(|base| base.offset);
        if !of_parent
            .iter()
            .any(|stretch| stretch.from <= parent.offset && parent.offset <= stretch.to)
        {
            found.problem(
                None,
                format!(
                    "it continues from offset {} of history {}, and that offset cannot be restored",
                    parent.offset, parent.history
                ),
                until(own),
            );
        }
    }
}

/// What the loss of a part means, when the next base after it is at `next`.
fn until(next: Option<Offset>) -> String {
    match next {
        Some(next) => format!(
            "bring it back from a copy of the store. Without it, points before the base at offset {next} are lost; \
             later ones are not"
        ),
        None => "bring it back from a copy of the store. Without it, what comes after it is lost until there is a new \
                 full sync. To take one, run `backfeed backup` to a store or path of its own"
            .to_owned(),
    }
}

impl HistoryReport {
    fn new(history: &History) -> Self {
        Self {
            id: history.doc.id,
            stretches: Vec::new(),
            bases: history.bases.len() as u64,
            segments: 0,
            bytes_read: 0,
            findings: Vec::new(),
            more_findings: 0,
            notes: Vec::new(),
            verdicts_refused: None,
        }
    }

    fn problem(
        &mut self,
        object: Option<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        if self.findings.len() >= FINDINGS_KEPT {
            self.more_findings = self.more_findings.saturating_add(1);
            return;
        }
        self.findings.push(Finding {
            object,
            what: what.into(),
            advice: advice.into(),
        });
    }

    /// What the listing and the documents show.
    fn documents(&mut self, catalog: &Catalog, history: &History) {
        for problem in &history.problems {
            if !problem.is_damage() {
                self.notes.push(problem.to_string());
                continue;
            }
            let object = problem.object().map(|object| object.to_string());
            let advice = "bring it back from a copy of the store. Until then, a restore uses an older base, if there \
                          is one, and more of the log";
            self.problem(object, problem.to_string(), advice);
        }
        if let Some(parent) = history.doc.parent
            && !catalog.histories.contains_key(&parent.history)
        {
            let what = format!(
                "its parent, history {}, is not there: points before its own first base cannot be restored",
                parent.history
            );
            match history.bases.first() {
                Some(_) => self.notes.push(what),
                None => self.problem(
                    Some(Name::History(parent.history).to_string()),
                    what,
                    until(None),
                ),
            }
        }
    }
}

/// Where a reader may begin with a history: its bases, and the point where it left a parent that is there. Below its floor,
/// only where something begins that is needed.
fn starts(catalog: &Catalog, history: &History, needs: &Needs) -> Vec<Start> {
    let bases = history.bases.iter().map(|base| (base.offset, base.db));
    let parent = history.doc.parent;
    let parent = parent.filter(|parent| catalog.histories.contains_key(&parent.history));
    let all = bases.chain(parent.map(|parent| (parent.offset, parent.db)));
    // What stays below a floor may have no log.
    let promised = all.filter(|(from, _)| !history.floors.is_below(*from));
    let promised = promised.map(|(from, db)| Start {
        from,
        db: Some(db),
        upto: Offset(u64::MAX),
    });
    let needed = needs.get(&history.doc.id).into_iter().flatten().copied();
    let mut starts: Vec<Start> = promised.chain(needed).collect();
    starts.sort_unstable();
    starts
}

impl Report {
    /// The verdict in one line.
    #[must_use]
    pub fn verdict(&self) -> String {
        let depth = if self.deep {
            "every byte was read"
        } else {
            "headers and manifests were read, and not every byte"
        };
        let histories = self.histories.len();
        if self.sound {
            let plural = if histories == 1 { "y" } else { "ies" };
            return format!("sound: {histories} histor{plural}, {depth}");
        }
        let plural = if self.problems == 1 { "" } else { "s" };
        format!("damaged: {} problem{plural} ({depth})", self.problems)
    }
}

impl fmt::Display for Report {
    /// For people. The verdict is the last line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.store)?;
        for found in &self.histories {
            writeln!(f, "\nhistory {}", found.id)?;
            for stretch in &found.stretches {
                writeln!(f, "  joins     offsets {} to {}", stretch.from, stretch.to)?;
            }
            writeln!(
                f,
                "  has       {}, {}",
                counted(found.bases, "base"),
                counted(found.segments, "segment")
            )?;
            if self.deep {
                writeln!(f, "  read      {}, uncompressed", Size(found.bytes_read))?;
            }
            for finding in &found.findings {
                finding.write(f)?;
            }
            if found.more_findings > 0 {
                writeln!(f, "  PROBLEM   {} more", found.more_findings)?;
            }
            for note in &found.notes {
                writeln!(f, "  note      {note}")?;
            }
        }
        if !self.unreadable.is_empty() {
            writeln!(f)?;
        }
        for finding in &self.unreadable {
            finding.write(f)?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        writeln!(f, "\n{}", self.verdict())
    }
}

impl Finding {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            object,
            what,
            advice,
        } = self;
        match object {
            Some(object) if !what.contains(object.as_str()) => {
                writeln!(f, "  PROBLEM   {object}: {what}")?;
            }
            _ => writeln!(f, "  PROBLEM   {what}")?,
        }
        writeln!(f, "            {advice}")
    }
}

#[cfg(test)]
#[path = "verify_tests.rs"]
mod tests;
