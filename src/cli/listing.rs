//! What `backfeed list` shows: gathered from the archive, then printed for people or as JSON.
//!
//! The JSON's names are part of the interface: see `Answer`.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use futures::StreamExt;
use serde::Serialize;

use crate::archive::{
    Amount, Archive, ArchiveError, BaseKind, BaseManifest, Catalog, ChainEnd, ChainItem, DbCounts,
    DrillDoc, FLOOR_GRACE_MS, Floor, History, HoldDoc, HoldName, LogEnd, Parent, ServerInfo,
};
use crate::config::Size;
use crate::display::{self, Time, counted};
use crate::wire::position::{Offset, Position, ReplId};

/// Two clocks that differ by less than this count as right.
const CLOCK_TOLERANCE_MS: i64 = 10_000;

/// Everything in a store.
#[derive(Debug, Serialize)]
pub(super) struct Listing {
    /// URL.
    store: String,
    /// What `--at latest` means. Null: there is nothing to restore, or several could be meant (see `ambiguous`).
    latest: Option<ReplId>,
    /// The histories that could be the latest, if that is not clear.
    ambiguous: Vec<ReplId>,
    /// By the time of their creation.
    histories: Vec<HistoryListing>,
    /// RDBs.
    bases: Amount,
    /// Segments, seals and spans.
    log: Amount,
    /// All objects of the store, documents and what is not of the archive too.
    total: Amount,
    /// Points that stay, whatever a policy says.
    holds: Vec<HoldListing>,
    /// Histories that cannot be listed, and why.
    unreadable: BTreeMap<ReplId, String>,
    /// What else cannot be used.
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct HoldListing {
    name: HoldName,
    point: Position,
    /// The time whose data it is. Null: it is not known.
    as_of_unix_ms: Option<i64>,
}

/// Points that are not promised any more.
#[derive(Debug, PartialEq, Serialize)]
struct Expired {
    /// Those before this one.
    before_offset: Offset,
    /// A run that comes then or later deletes them, as far as nothing holds them. Null: the store says no times.
    deleted_from_unix_ms: Option<i64>,
}

#[derive(Debug, Serialize)]
struct HistoryListing {
    id: ReplId,
    /// No other history goes on from it.
    tip: bool,
    service: String,
    server: ServerInfo,
    created_unix_ms: i64,
    replid: Option<ReplId>,
    parent: Option<Parent>,
    previous: Option<Position>,
    also_previous: Vec<Position>,
    /// What can be restored of this history (its ancestors' part stands with them), oldest first.
    restorable: Vec<Stretch>,
    bases: Vec<BaseListing>,
    /// Objects that the log is read from.
    segments: usize,
    /// All objects of the log, those too that are merged into others.
    log: Amount,
    /// The last byte of the log. Null: nothing is stored.
    stored_offset: Option<Offset>,
    sealed: Option<Sealed>,
    /// By each floor, ascending.
    expired: Vec<Expired>,
    problems: Vec<String>,
    /// What an operator should know, and is no damage.
    notes: Vec<String>,
}

/// An unbroken stretch: every point between commands in it can be restored.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Stretch {
    from_offset: Offset,
    from_unix_ms: i64,
    to_offset: Offset,
    to_unix_ms: i64,
}

#[derive(Debug, Serialize)]
struct Sealed {
    after_offset: Offset,
    reason: String,
    writer: String,
    sealed_unix_ms: i64,
}

#[derive(Debug, Serialize)]
struct BaseListing {
    offset: Offset,
    created_unix_ms: i64,
    /// The base that it was consolidated from. Null: a full sync.
    consolidated_from: Option<Offset>,
    keys: u64,
    expires: u64,
    databases: BTreeMap<u32, DbCounts>,
    raw_bytes: u64,
    stored_bytes: u64,
    rdb_magic: String,
    server: ServerInfo,
    /// `verify --deep` has read it and found it sound.
    verified: bool,
    /// The last `drill` that began with it. Null: none.
    drilled: Option<Drilled>,
    /// Counts end at this byte of the RDB. Null: they are complete.
    unwalked_from: Option<u64>,
}

/// A restore that was tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Drilled {
    unix_ms: i64,
    /// Nothing was found wrong.
    passed: bool,
    /// `all`, `nothing` or `read`: how far values were compared.
    compared: String,
    /// The point that was restored.
    point: Position,
    keys: u64,
    different_keys: u64,
    restore_ms: u64,
}

impl Drilled {
    fn of(doc: &DrillDoc) -> Self {
        Self {
            unix_ms: doc.drilled_unix_ms,
            passed: doc.passed,
            compared: doc.compared.clone(),
            point: doc.point,
            keys: doc.keys,
            different_keys: doc.different_keys,
            restore_ms: doc.restore_ms,
        }
    }

    fn how(&self) -> String {
        match (self.passed, self.compared.as_str()) {
            (false, _) => format!("{} DIFFERENT", counted(self.different_keys, "key")),
            (true, "all") => "all values are the same".to_owned(),
            (true, "read") => "all values were read".to_owned(),
            (true, _) => "it was taken, and nothing was compared".to_owned(),
        }
    }
}

impl Listing {
    /// Of a store in which there is nothing yet.
    pub(super) fn empty(store: String) -> Self {
        Self {
            store,
            latest: None,
            ambiguous: Vec::new(),
            histories: Vec::new(),
            bases: Amount::default(),
            log: Amount::default(),
            total: Amount::default(),
            holds: Vec::new(),
            unreadable: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    /// Reads what the archive holds. The listing names what is damaged. An error means that the store failed.
    pub(super) async fn gather(archive: &Archive, store: String) -> Result<Self, ArchiveError> {
        let catalog = archive.catalog().await?;
        let (latest, ambiguous) = match catalog.latest(None) {
            Ok(latest) => (latest, Vec::new()),
            Err(several) => (None, several.0),
        };
        let mut histories = Vec::new();
        for (id, history) in &catalog.histories {
            let drills = archive.drills(*id, &history.drilled).await?;
            let mut shown = HistoryListing::of_document(history, &drills);
            shown.tip = latest == Some(*id) || ambiguous.contains(id);
            shown.add_log(archive, &catalog, history).await?;
            histories.push(shown);
        }
        histories.sort_by_key(|shown| (shown.created_unix_ms, shown.id));
        let (holds, unreadable) = archive.readable_holds().await?;
        let problems = catalog.problems.iter().map(ToString::to_string);
        let problems = problems.chain(unreadable.iter().map(ToString::to_string));
        Ok(Self {
            latest,
            ambiguous,
            histories,
            bases: catalog.stored.bases,
            log: catalog.stored.log,
            total: catalog.stored.total(),
            holds: holds.into_iter().map(HoldListing::of).collect(),
            problems: problems.collect(),
            unreadable: catalog.unreadable.clone(),
            ..Self::empty(store)
        })
    }
}

impl Listing {
    /// Notes which logs end in the future, as of `now_unix_ms`.
    pub(super) fn compare_clock(&mut self, now_unix_ms: i64) {
        for history in &mut self.histories {
            history.compare_clock(now_unix_ms);
        }
    }
}

impl HistoryListing {
    fn compare_clock(&mut self, now_unix_ms: i64) {
        let end = self
            .restorable
            .iter()
            .map(|stretch| stretch.to_unix_ms)
            .max();
        if let Some(end) = end.filter(|end| end.saturating_sub(now_unix_ms) > CLOCK_TOLERANCE_MS) {
            self.notes.push(format!(
                "its last time, {}, has not come yet: the clock of the machine that stored it was ahead, or that of this one is \
                 behind. Until then, name points of it by their offset",
                display::time(end)
            ));
        }
    }

    fn of_document(history: &History, drills: &BTreeMap<Offset, DrillDoc>) -> Self {
        Self {
            id: history.doc.id,
            tip: false,
            service: history.doc.service.clone(),
            server: history.doc.server.clone(),
            created_unix_ms: history.doc.created_unix_ms,
            replid: history.doc.replid,
            parent: history.doc.parent,
            previous: history.doc.previous,
            also_previous: history.doc.also_previous.clone(),
            restorable: Vec::new(),
            bases: history
                .bases
                .iter()
                .map(|base| {
                    let verified = history.verified.contains(&base.offset);
                    let drill = drills.get(&base.offset).map(Drilled::of);
                    BaseListing::new(base, verified, drill)
                })
                .collect(),
            segments: history.log.len(),
            log: history.stored_log,
            stored_offset: None,
            sealed: None,
            expired: history.floors.iter().map(Expired::by).collect(),
            problems: history.problems.iter().map(ToString::to_string).collect(),
            notes: Vec::new(),
        }
    }

    /// Adds what only the headers of the log say.
    async fn add_log(
        &mut self,
        archive: &Archive,
        catalog: &Catalog,
        history: &History,
    ) -> Result<(), ArchiveError> {
        let gathered = async {
            let end = archive.log_end(catalog, self.id).await?;
            let stretches = stretches(archive, catalog, history, &end).await?;
            Ok((end, stretches))
        };
        match gathered.await {
            Ok((end, stretches)) => {
                self.stored_offset = Some(end.end);
                self.restorable = stretches;
                self.sealed = end.sealed.map(|seal| Sealed {
                    after_offset: seal.start,
                    reason: seal.reason,
                    writer: seal.writer,
                    sealed_unix_ms: seal.sealed_unix_ms,
                });
            }
            Err(ArchiveError::NothingStored { .. }) => {}
            Err(error @ ArchiveError::Store(_)) => return Err(error),
            Err(damage) => self.problems.push(damage.to_string()),
        }
        Ok(())
    }
}

impl BaseListing {
    fn new(manifest: &BaseManifest, verified: bool, drilled: Option<Drilled>) -> Self {
        let sum = |count: fn(&DbCounts) -> u64| {
            manifest
                .databases
                .values()
                .fold(0_u64, |sum, counts| sum.saturating_add(count(counts)))
        };
        Self {
            offset: manifest.offset,
            created_unix_ms: manifest.created_unix_ms,
            consolidated_from: match manifest.kind {
                BaseKind::Sync => None,
                BaseKind::Consolidated { from } => Some(from),
            },
            keys: sum(|counts| counts.keys),
            expires: sum(|counts| counts.expires),
            databases: manifest.databases.clone(),
            raw_bytes: manifest.raw_bytes,
            stored_bytes: manifest.stored_bytes,
            rdb_magic: manifest.rdb_magic.clone(),
            server: manifest.server.clone(),
            verified,
            drilled,
            unwalked_from: manifest.unwalked_from,
        }
    }
}

impl HoldListing {
    fn of(hold: HoldDoc) -> Self {
        Self {
            name: hold.name,
            point: hold.point,
            as_of_unix_ms: hold.as_of_unix_ms,
        }
    }
}

impl fmt::Display for HoldListing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hold {}: {}", self.name, self.point)?;
        match self.as_of_unix_ms {
            Some(at) => write!(f, ", {}", Time(at)),
            None => Ok(()),
        }
    }
}

impl Expired {
    fn by(floor: &Floor) -> Self {
        let grace = i64::try_from(FLOOR_GRACE_MS).unwrap_or(i64::MAX);
        Self {
            before_offset: floor.offset,
            deleted_from_unix_ms: floor.created.map(|at| at.saturating_add(grace)),
        }
    }
}

impl fmt::Display for Expired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "points before offset {}", self.before_offset)?;
        if let Some(at) = self.deleted_from_unix_ms {
            write!(f, ": deleted from {} on, unless held", Time(at))?;
        }
        Ok(())
    }
}

/// Where a restore may begin.
struct Start {
    offset: Offset,
    unix_ms: i64,
    /// It was made from the base at this offset and all of the log in between.
    made_from: Option<Offset>,
}

/// The unbroken stretches of a history. Only a history that has more than one start needs its log walked: a second full
/// sync means that the backlog was too short, so there may be a gap before it.
async fn stretches(
    archive: &Archive,
    catalog: &Catalog,
    history: &History,
    end: &LogEnd,
) -> Result<Vec<Stretch>, ArchiveError> {
    let mut stretches = Vec::new();
    let mut open: Option<Stretch> = None;
    for start in starts(catalog, history)? {
        if let Some(stretch) = open.as_mut() {
            if start
                .made_from
                .is_some_and(|from| from >= stretch.from_offset)
            {
                continue;
            }
            if reaches(archive, catalog, history.doc.id, stretch, start.offset).await? {
                continue;
            }
            stretches.extend(open.take());
        }
        open = Some(Stretch {
            from_offset: start.offset,
            from_unix_ms: start.unix_ms,
            to_offset: start.offset,
            to_unix_ms: start.unix_ms,
        });
    }
    if let Some(mut last) = open {
        last.to_offset = last.to_offset.max(end.boundary.offset);
        let marked = end.last_mark.map_or(i64::MIN, |mark| mark.unix_ms);
        last.to_unix_ms = last.to_unix_ms.max(marked);
        stretches.push(last);
    }
    Ok(stretches)
}

/// Its own bases, and the point where it left its parent if an ancestor has a base.
fn starts(catalog: &Catalog, history: &History) -> Result<Vec<Start>, ArchiveError> {
    let mut starts: Vec<Start> = history
        .bases
        .iter()
        .map(|base| Start {
            offset: base.offset,
            unix_ms: base.as_of_unix_ms(),
            made_from: match base.kind {
                BaseKind::Sync => None,
                BaseKind::Consolidated { from } => Some(from),
            },
        })
        .collect();
    if let Some(parent) = history.doc.parent {
        let lineage = catalog.lineage(history.doc.id)?;
        let has_base = |at: &Position| {
            let bases = catalog
                .histories
                .get(&at.history)
                .map(|ancestor| &ancestor.bases);
            bases.is_some_and(|bases| bases.iter().any(|base| base.offset <= at.offset))
        };
        if lineage.iter().skip(1).any(has_base) {
            let unix_ms = history.doc.created_unix_ms;
            starts.push(Start {
                offset: parent.offset,
                unix_ms,
                made_from: None,
            });
        }
    }
    // What stays below a floor is not promised, and may have no log.
    starts.retain(|start| !history.floors.is_below(start.offset));
    starts.sort_by_key(|start| start.offset);
    Ok(starts)
}

/// Follows the log from the end of the stretch. False: it does not reach `goal`, and the stretch ends where the log does.
async fn reaches(
    archive: &Archive,
    catalog: &Catalog,
    id: ReplId,
    stretch: &mut Stretch,
    goal: Offset,
) -> Result<bool, ArchiveError> {
    let mut chain = archive.chain(catalog, id, stretch.to_offset);
    while let Some(item) = chain.next().await {
        match item? {
            ChainItem::Segment(header) => {
                if header.meta.end >= goal {
                    return Ok(true);
                }
                if let Some(boundary) = header.meta.boundary {
                    stretch.to_offset = stretch.to_offset.max(boundary.offset);
                }
                let marked = header
                    .meta
                    .marks
                    .last()
                    .map_or(i64::MIN, |mark| mark.unix_ms);
                stretch.to_unix_ms = stretch.to_unix_ms.max(marked);
            }
            ChainItem::End(ChainEnd::Log(end)) => return Ok(end >= goal),
            ChainItem::End(_) => return Ok(false),
        }
    }
    Ok(false)
}

impl fmt::Display for Listing {
    /// For people: one block a history.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.histories.is_empty() && self.unreadable.is_empty() {
            writeln!(f, "{}: no backups yet", self.store)?;
        } else {
            let many = self.histories.len();
            writeln!(
                f,
                "{}: {many} {}",
                self.store,
                if many == 1 { "history" } else { "histories" }
            )?;
        }
        for history in &self.histories {
            writeln!(f)?;
            let is_latest = self.latest == Some(history.id);
            history.write(
                f,
                if is_latest {
                    "  (latest)"
                } else if history.tip {
                    "  (tip)"
                } else {
                    ""
                },
            )?;
        }
        if self.total.objects > 0 {
            writeln!(
                f,
                "\nin all {}: {} of bases, {} of log; {} objects",
                Size(self.total.bytes),
                Size(self.bases.bytes),
                Size(self.log.bytes),
                self.total.objects
            )?;
        }
        if !self.holds.is_empty() {
            writeln!(f)?;
        }
        for hold in &self.holds {
            writeln!(f, "{hold}")?;
        }
        for (id, problem) in &self.unreadable {
            write!(f, "\nhistory {id}\n  PROBLEM   {problem}\n")?;
        }
        if !self.problems.is_empty() {
            writeln!(f)?;
        }
        for problem in &self.problems {
            writeln!(f, "PROBLEM: {problem}")?;
        }
        if !self.ambiguous.is_empty() {
            let tips = self.ambiguous.len();
            writeln!(
                f,
                "\n{tips} histories could be the latest: name one with --history to restore it"
            )?;
        }
        Ok(())
    }
}

impl HistoryListing {
    fn write(&self, f: &mut fmt::Formatter<'_>, mark: &str) -> fmt::Result {
        writeln!(f, "history {}{mark}", self.id)?;
        let server = ShownServer(&self.server);
        writeln!(
            f,
            "  source    {} ({server}), since {}",
            self.service,
            Time(self.created_unix_ms)
        )?;
        if let Some(said) = &self.replid {
            writeln!(
                f,
                "  called    {said} by the server, which is another history here"
            )?;
        }
        if let Some(parent) = &self.parent {
            writeln!(
                f,
                "  parent    {}, left at offset {}",
                parent.history, parent.offset
            )?;
        }
        for previous in self.previous.iter().chain(&self.also_previous) {
            writeln!(
                f,
                "  previous  {}, until offset {}",
                previous.history, previous.offset
            )?;
        }
        for base in &self.bases {
            base.write(f)?;
        }
        for stretch in &self.restorable {
            writeln!(
                f,
                "  restore   {} to {}, offsets {} to {}",
                Time(stretch.from_unix_ms),
                Time(stretch.to_unix_ms),
                stretch.from_offset,
                stretch.to_offset
            )?;
        }
        if self.restorable.is_empty() {
            writeln!(f, "  restore   nothing: there is no complete base")?;
        }
        let plural = if self.log.objects == 1 {
            "object"
        } else {
            "objects"
        };
        let stored = self.stored_offset.unwrap_or_default();
        writeln!(
            f,
            "  log       {} {plural}, {}, stored to offset {stored}",
            self.log.objects,
            Size(self.log.bytes)
        )?;
        if self.log.objects > self.segments as u64 {
            writeln!(f, "            merged: {} objects to read", self.segments)?;
        }
        if let Some(seal) = &self.sealed {
            let when = Time(seal.sealed_unix_ms);
            writeln!(f, "  sealed    {when} by {}: {}", seal.writer, seal.reason)?;
        }
        for expired in &self.expired {
            writeln!(f, "  expired   {expired}")?;
        }
        for problem in &self.problems {
            writeln!(f, "  PROBLEM   {problem}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note      {note}")?;
        }
        Ok(())
    }
}

impl BaseListing {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut kind = String::new();
        if let Some(from) = self.consolidated_from {
            write!(kind, ", consolidated from {from}")?;
        }
        if self.verified {
            kind.push_str(", verified");
        }
        if let Some(drilled) = &self.drilled {
            let (at, how) = (Time(drilled.unix_ms), drilled.how());
            write!(kind, ", drilled {at}: {how}")?;
        }
        if let Some(from) = self.unwalked_from {
            write!(kind, ", counted up to byte {from} only")?;
        }
        writeln!(
            f,
            "  base      offset {}, {}: {} keys ({} with expiry), {}, stored in {}{kind}",
            self.offset,
            Time(self.created_unix_ms),
            self.keys,
            self.expires,
            Size(self.raw_bytes),
            Size(self.stored_bytes),
        )
    }
}

struct ShownServer<'a>(&'a ServerInfo);

impl fmt::Display for ShownServer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServerInfo { flavour, version } = self.0;
        if version.is_empty() {
            f.write_str(flavour)
        } else {
            write!(f, "{flavour} {version}")
        }
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
