//! One history: what is copied of it, and in which order.
//!
//! The order makes every step safe to be the last one, because a copy that ends there is an archive too:
//! 1. `history.json`. Nothing counts without it.
//! 2. If something has expired: the base that stays, and then the floors. A floor says that what is before it may be there or
//!    not, and so it may: at the source, it is being deleted.
//! 3. Everything else in the order of the feed. Of a base, first the data, then the manifest; a base comes after the log before
//!    it. A span comes before the segments in it. Segments are created one after the other, so the log never has a hole.
//! 4. `successor.json`. The history that it names is copied later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::{TryStreamExt, stream};

use super::error::{Side, Trouble};
use super::listed::{Listed, Newest, Pair, Pairs};
use super::object::{Body, SHORT};
use super::{Copier, CopyError, Report};
use crate::archive::{ArchiveError, BaseManifest, Floors, Folder, HistoryDoc, Name, ObjectCheck};
use crate::log::segment::Entry;
use crate::recovery::Progress;
use crate::store::Listing;
use crate::wire::position::{Offset, Position, ReplId};

/// Objects of a log that are read before their turn.
const AHEAD: usize = 32;

/// A listing may be older than what is deleted meanwhile. Then the history is listed once more, so often at most: a run that
/// deletes goes through a history once.
const LISTINGS: usize = 20;

/// First bytes of objects of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Cursor {
    /// Of a segment, or the seal.
    log: u64,
    /// Of a span.
    span: u64,
}

/// How far a history was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All that was listed is there.
    Done {
        /// The last objects of its log.
        last: Cursor,
    },
    /// The base with which all that is promised begins stands in a later history, which is not copied yet.
    Later,
}

/// What is listed of a base.
#[derive(Debug, Clone, Copy, Default)]
struct Base {
    data: Option<Listed>,
    manifest: Option<Listed>,
    verdict: Option<Listed>,
}

/// A base at the source, and at the target.
type Bases = BTreeMap<Offset, (Base, Base)>;

/// An object of the log.
struct Job {
    pair: Pair,
    size: u64,
    /// Where the next object of the log begins.
    above: Option<u64>,
}

/// The same, after what can be done before its turn.
enum Ready {
    /// It was there.
    There,
    /// It is no part of the log.
    Stale,
    Short(Name, Body),
    /// Too long to be read before its turn.
    Long(Name, u64, Option<u64>),
    Not(Name, Trouble),
}

/// Where a look through a history has led.
enum Way {
    End,
    /// This object is not there any more, or not as it should be: what was decided by the listing is decided again.
    Again(Name),
}

/// A look through a history.
pub(super) struct Pass<'a> {
    pub(super) copier: &'a Copier,
    pub(super) doc: &'a HistoryDoc,
    /// Look at what was there before as well.
    pub(super) all: bool,
    /// The log is looked at from these objects on.
    pub(super) begin: Cursor,
    pub(super) report: &'a mut Report,
    pub(super) progress: &'a dyn Progress,
    /// Objects that cannot be copied.
    pub(super) bad: BTreeSet<String>,
}

impl Pass<'_> {
    fn id(&self) -> ReplId {
        self.doc.id
    }

    pub(super) async fn run(&mut self) -> Result<Outcome, CopyError> {
        let id = self.id();
        if self.all {
            self.document(Name::History(id), true).await?;
        }
        // What it continues from was stored before it. So the log is listed after it, and it is created after the log.
        let successor = self.copier.document(Name::Successor(id)).await;
        let mut last_missing = None;
        for _ in 0..LISTINGS {
            let Some(floors) = self.floors().await? else {
                return Ok(Outcome::Later);
            };
            let mut last = self.begin;
            match self.walk(&floors, &mut last).await? {
                Way::End => {
                    self.successor(successor).await?;
                    return Ok(Outcome::Done { last });
                }
                // It is listed, and cannot be read.
                Way::Again(name) if last_missing == Some(name) => {
                    self.damaged(name, "it is listed, and is not there".to_owned());
                }
                Way::Again(name) => last_missing = Some(name),
            }
        }
        self.report.note(format!(
            "history {id}: too much of it was deleted meanwhile. Copy it again"
        ));
        Ok(Outcome::Done { last: self.begin })
    }

    async fn successor(&mut self, read: Result<Bytes, Trouble>) -> Result<(), CopyError> {
        let name = Name::Successor(self.id());
        let created = match read {
            Ok(bytes) => self.copier.create_document(name, bytes, true).await,
            Err(trouble) => Err(trouble),
        };
        self.took(name, created).map(|_| ())
    }

    /// Copies a document that was there when it was asked for.
    async fn document(&mut self, name: Name, must_agree: bool) -> Result<bool, CopyError> {
        let copied = self.copier.copy_document(name, must_agree).await;
        self.took(name, copied)
    }

    /// Counts what came of an object. True: the target has it.
    fn took(
        &mut self,
        name: Name,
        copied: Result<Option<u64>, Trouble>,
    ) -> Result<bool, CopyError> {
        match copied {
            Ok(Some(bytes)) => self.report.copied(name, bytes),
            Ok(None) => self.report.there = self.report.there.saturating_add(1),
            Err(Trouble::Vanished) => return Ok(false),
            Err(Trouble::Damaged(error)) => {
                self.damaged(name, error.to_string());
                return Ok(false);
            }
            Err(Trouble::End(error)) => return Err(error),
        }
        Ok(true)
    }

    fn damaged(&mut self, name: Name, reason: String) {
        let object = name.to_string();
        self.report.damaged(&object, reason);
        self.bad.insert(object);
    }

    /// Copies the floors, after the base that stays. Returns those of the target, if it
    /// has given up more than the source. None: that base is not there yet.
    async fn floors(&mut self) -> Result<Option<Floors>, CopyError> {
        let id = self.id();
        let (from, to) = (&self.copier.from, &self.copier.to);
        let floors = from.floors(id).await;
        let floors = floors.map_err(|error| self.copier.failed(Side::Source, error))?;
        let there = to.floors(id).await;
        let there = there.map_err(|error| self.copier.failed(Side::Target, error))?;
        let missing = |offset: Offset| !there.iter().any(|floor| floor.offset == offset);
        let mut new: Vec<Offset> = floors
            .iter()
            .rev()
            .map(|floor| floor.offset)
            .filter(|offset| missing(*offset))
            .collect();
        if let Some(doc) = floors
            .highest()
            .filter(|floor| missing(floor.offset))
            .and_then(|floor| floor.doc.as_ref())
            && !self.copier.dry_run
        {
            let is_here = doc.base.history == id;
            if is_here {
                let bases = self.bases().await?;
                self.base(doc.base.offset, &bases, &Floors::default())
                    .await?;
            }
            let is_there = to.manifest_of(doc.base).await;
            let is_there = is_there.map_err(|error| self.copier.failed(Side::Target, error))?;
            match is_there {
                Some(_) => {}
                None if !is_here => return Ok(None),
                None => {
                    self.report.note(format!(
                        "history {id}: its floors are not copied, because the base that stays cannot be"
                    ));
                    new.clear();
                }
            }
        }
        for offset in new {
            let at = Position {
                history: id,
                offset,
            };
            self.document(Name::Floor(at), false).await?;
        }
        // What the target has expired by itself is not brought back.
        let offset = |floors: &Floors| floors.highest().map(|floor| floor.offset);
        let is_its_own = offset(&there) > offset(&floors);
        Ok(Some(if is_its_own { there } else { Floors::default() }))
    }

    async fn bases(&self) -> Result<Bases, CopyError> {
        let mut bases = Bases::new();
        let mut pairs = Pairs::list(self.copier, Folder::Bases, self.id(), None).await;
        while let Some(pair) = pairs.next(self.copier).await? {
            let (Name::BaseData(at) | Name::BaseManifest(at) | Name::BaseVerdict(at)) = pair.name
            else {
                continue;
            };
            let (from, to) = bases.entry(at.offset).or_default();
            for (base, listed) in [(from, pair.from), (to, pair.to)] {
                match pair.name {
                    Name::BaseData(_) => base.data = listed,
                    Name::BaseManifest(_) => base.manifest = listed,
                    _ => base.verdict = listed,
                }
            }
        }
        Ok(bases)
    }

    /// Copies everything else in the order of the feed.
    async fn walk(&mut self, floors: &Floors, last: &mut Cursor) -> Result<Way, CopyError> {
        let bases = self.bases().await?;
        let expired = floors.highest().map(|floor| floor.offset);
        let mut producer = Producer::new(self, &bases, expired).await?;
        let mut passed = Passed::default();
        loop {
            if let Some(missing) = self.stretch(&mut producer, &mut passed).await? {
                return Ok(Way::Again(missing));
            }
            let Some(base) = producer.at_base.take() else {
                break;
            };
            if let Some(missing) = self.base(base, &bases, floors).await? {
                return Ok(Way::Again(missing));
            }
        }
        let (counts, report) = (&producer.counts, &mut *self.report);
        last.log = last.log.max(counts.last.log);
        last.span = last.span.max(counts.last.span);
        report.in_spans = report.in_spans.saturating_add(counts.in_spans);
        report.expired = report.expired.saturating_add(counts.expired);
        report.there = report.there.saturating_add(passed.there);
        report.stale = report.stale.saturating_add(passed.stale);
        Ok(Way::End)
    }

    /// Copies the log up to the next base. Returns what of it was listed, and has to be listed again. (While a base is copied,
    /// which may take hours, no read is under way.)
    async fn stretch(
        &mut self,
        producer: &mut Producer<'_>,
        passed: &mut Passed,
    ) -> Result<Option<Name>, CopyError> {
        let copier = self.copier;
        let jobs = stream::try_unfold(producer, |producer| async move {
            let job = producer.next().await?;
            Ok::<_, CopyError>(job.map(|job| (job, producer)))
        });
        let ready = jobs.map_ok(|job| async move { Ok(prepare(copier, job).await) });
        let mut ready = std::pin::pin!(ready.try_buffered(AHEAD));
        while let Some(next) = ready.try_next().await? {
            let (name, copied) = match next {
                Ready::There => {
                    passed.there = passed.there.saturating_add(1);
                    continue;
                }
                Ready::Stale => {
                    passed.stale = passed.stale.saturating_add(1);
                    continue;
                }
                Ready::Short(name, body) => {
                    let length = body.bytes.len() as u64;
                    let created = copier.create(name, body.bytes, true).await;
                    self.progress.advance(length);
                    (name, created)
                }
                Ready::Long(name, size, above) => (name, self.long(name, size, above).await),
                Ready::Not(name, trouble) => (name, Err(trouble)),
            };
            let vanished = matches!(copied, Err(Trouble::Vanished));
            let is_there = self.took(name, copied)?;
            // The segments in a span that is not there are needed.
            let is_span = matches!(name, Name::Span { .. });
            if vanished || (is_span && !is_there) {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    async fn long(
        &self,
        name: Name,
        size: u64,
        above: Option<u64>,
    ) -> Result<Option<u64>, Trouble> {
        if self.copier.dry_run {
            return Ok(Some(size));
        }
        let check = ObjectCheck::of_log(name);
        let is_wanted = |entry: Option<&Entry>| entry.is_none_or(|entry| !is_stale(entry, above));
        self.copier
            .stream(name, check, is_wanted, self.progress)
            .await
    }

    /// Copies a base: data, manifest, verdict. Returns what of it was listed and is not there any more.
    async fn base(
        &mut self,
        offset: Offset,
        bases: &Bases,
        floors: &Floors,
    ) -> Result<Option<Name>, CopyError> {
        let at = Position {
            history: self.id(),
            offset,
        };
        let (manifest_name, data_name) = (Name::BaseManifest(at), Name::BaseData(at));
        let Some((from, to)) = bases.get(&offset) else {
            return Ok(None);
        };
        let is_bad = |name: Name| self.bad.contains(&name.to_string());
        if from.manifest.is_none() || is_bad(manifest_name) || is_bad(data_name) {
            // It is being made, or its writer died.
            return Ok(None);
        }
        if floors.is_below(offset) && to.manifest.is_none() && !floors.is_alone(offset) {
            self.report.expired = self.report.expired.saturating_add(1);
            return Ok(None);
        }
        let is_whole = to.manifest.is_some() && to.data.is_some();
        if is_whole && !self.all && !self.copier.deep {
            self.report.there = self.report.there.saturating_add(2);
            return Ok(None);
        }
        let manifest = self.copier.from.manifest_or_why(at).await;
        let manifest = match manifest {
            Ok(Ok(manifest)) => manifest,
            Ok(Err(error)) | Err(error) => {
                let trouble = self.copier.trouble(error);
                let vanished = matches!(trouble, Trouble::Vanished);
                self.took(manifest_name, Err(trouble))?;
                return Ok(vanished.then_some(manifest_name));
            }
        };
        let copied = self.base_data(manifest, from, to).await;
        let vanished = matches!(copied, Err(Trouble::Vanished));
        if vanished || !self.took(data_name, copied)? {
            return Ok(vanished.then_some(data_name));
        }
        let copied = self.copier.copy_document(manifest_name, true).await;
        let vanished = matches!(copied, Err(Trouble::Vanished));
        if vanished || !self.took(manifest_name, copied)? {
            return Ok(vanished.then_some(manifest_name));
        }
        // The one that the target has may be its own.
        if from.verdict.is_some() && to.verdict.is_none() {
            self.document(Name::BaseVerdict(at), false).await?;
        }
        Ok(None)
    }

    async fn base_data(
        &self,
        manifest: BaseManifest,
        from: &Base,
        to: &Base,
    ) -> Result<Option<u64>, Trouble> {
        let copier = self.copier;
        let name = Name::BaseData(manifest.position());
        let data = match from.data {
            Some(data) => data,
            // It may have come since it was listed.
            None => copier.look(name).await?.ok_or_else(|| {
                Trouble::Damaged(ArchiveError::Missing {
                    object: name.to_string(),
                })
            })?,
        };
        if data.size != manifest.stored_bytes {
            let reason = format!(
                "it has {} bytes, and its manifest says {}",
                data.size, manifest.stored_bytes
            );
            let error = ArchiveError::damaged(&name.to_string(), reason);
            return Err(Trouble::Damaged(error));
        }
        match to.data {
            Some(there) if there.size != manifest.stored_bytes => Err(copier.differs(name).into()),
            Some(_) if copier.deep => {
                deep(copier, name, Some(&manifest)).await?;
                Ok(None)
            }
            Some(_) => Ok(None),
            None if copier.dry_run => Ok(Some(data.size)),
            None => {
                let check = ObjectCheck::of_base(manifest);
                copier.stream(name, check, |_| true, self.progress).await
            }
        }
    }
}

impl Copier {
    async fn look(&self, name: Name) -> Result<Option<Listed>, Trouble> {
        let object = name.to_string();
        let one = Listing::of(&object).pages_of(1);
        let mut listed = self.from.store().list_with(one).await;
        let found = listed.try_next().await;
        let found = found.map_err(|error| self.trouble(error.into()))?;
        Ok(found.filter(|it| it.name == object).map(|it| Listed {
            name,
            size: it.size,
            created: it.created,
        }))
    }
}

/// What can be done with an object of the log before its turn.
async fn prepare(copier: &Copier, Job { pair, size, above }: Job) -> Ready {
    let name = pair.name;
    let is_span = matches!(name, Name::Span { .. });
    if let Some(there) = pair.to {
        if there.size == size {
            if copier.deep
                && let Err(trouble) = deep(copier, name, None).await
            {
                return Ready::Not(name, trouble);
            }
            return Ready::There;
        }
        if is_span {
            return match copier.is_same_span(name).await {
                Ok(true) => Ready::There,
                Ok(false) => Ready::Not(name, copier.differs(name).into()),
                Err(trouble) => Ready::Not(name, trouble),
            };
        }
        // What a writer has left under a name that was deleted before is no part of the log.
        return match copier.body(name).await {
            Ok(body) if is_stale(&body.entry, above) => Ready::Stale,
            Ok(_) => Ready::Not(name, copier.differs(name).into()),
            Err(trouble) => Ready::Not(name, trouble),
        };
    }
    if is_span || size > SHORT || copier.dry_run {
        return Ready::Long(name, size, above);
    }
    // Whole KiB, and none too many: the one whose turn it is has its share.
    let share = u32::try_from(size.div_ceil(1024)).unwrap_or(u32::MAX);
    let share = Arc::clone(&copier.memory)
        .acquire_many_owned(share)
        .await
        .ok();
    match copier.body(name).await {
        Ok(body) if is_stale(&body.entry, above) => Ready::Stale,
        Ok(body) => Ready::Short(
            name,
            Body {
                _memory: share,
                ..body
            },
        ),
        Err(trouble) => Ready::Not(name, trouble),
    }
}

/// Reads an object at both places.
async fn deep(copier: &Copier, name: Name, manifest: Option<&BaseManifest>) -> Result<(), Trouble> {
    if copier.is_same(name).await? {
        return Ok(());
    }
    // Spans of two mergers.
    if matches!(name, Name::Span { .. }) && copier.is_same_span(name).await? {
        return Ok(());
    }
    copier
        .check_target(name, manifest)
        .await
        .map_err(|error| match error {
            Trouble::Damaged(error) => Trouble::End(copier.failed(Side::Target, error)),
            other => other,
        })?;
    // That of the target is sound.
    let check = match manifest {
        Some(_) => Ok(()),
        None => copier.body(name).await.map(|_| ()),
    };
    check?;
    Err(copier.differs(name).into())
}

/// Does a later object begin within it, or behind a seal? A writer that slept has left it (`docs/dev/LIFECYCLE.md`, fencing).
fn is_stale(entry: &Entry, above: Option<u64>) -> bool {
    let Some(above) = above else {
        return false;
    };
    match entry {
        Entry::Seal(_) => true,
        Entry::Segment(header) => !header.is_span() && header.meta.end.next_byte() > above,
    }
}

/// What need not be copied.
#[derive(Debug, Default)]
struct Passed {
    there: u64,
    stale: u64,
}

/// What was passed over by its name.
#[derive(Debug, Default)]
struct Counts {
    in_spans: u64,
    expired: u64,
    last: Cursor,
}

/// Goes through bases, spans and segments at both places, in the order of the feed.
struct Producer<'a> {
    copier: &'a Copier,
    bases: std::iter::Peekable<std::collections::btree_map::Keys<'a, Offset, (Base, Base)>>,
    spans: Pairs,
    log: Pairs,
    newest: Newest,
    /// The last byte of the spans whose segments are not needed.
    covered: u64,
    bad: BTreeSet<String>,
    expired: Option<Offset>,
    counts: Counts,
    /// It has come to this base, which is next.
    at_base: Option<Offset>,
}

impl<'a> Producer<'a> {
    async fn new(
        pass: &Pass<'a>,
        bases: &'a Bases,
        expired: Option<Offset>,
    ) -> Result<Self, CopyError> {
        let (copier, history, begin) = (pass.copier, pass.id(), pass.begin);
        let span = (begin.span > 0).then_some(Name::Span {
            history,
            first_byte: begin.span,
            last_byte: begin.span,
        });
        let log = (begin.log > 0).then_some(Name::Log {
            history,
            first_byte: begin.log,
        });
        Ok(Self {
            copier,
            bases: bases.keys().peekable(),
            newest: Newest::of_spans(copier, history, span).await?,
            spans: Pairs::list(copier, Folder::Spans, history, span).await,
            log: Pairs::list(copier, Folder::Log, history, log).await,
            covered: 0,
            bad: pass.bad.clone(),
            expired,
            counts: Counts::default(),
            at_base: None,
        })
    }

    /// None: a base is next, or nothing.
    async fn next(&mut self) -> Result<Option<Job>, CopyError> {
        loop {
            let base = self.bases.peek().map(|base| (base.next_byte(), 0));
            let span = self.spans.peek(self.copier).await?;
            let span = span.and_then(|name| Some((first_byte(name)?, 1)));
            let log = self.log.peek(self.copier).await?;
            let log = log.and_then(|name| Some((first_byte(name)?, 2)));
            let Some(next) = [base, span, log].into_iter().flatten().min() else {
                return Ok(None);
            };
            if Some(next) == base {
                self.at_base = self.bases.next().copied();
                return Ok(None);
            }
            let job = match Some(next) == span {
                true => self.next_span().await?,
                false => self.next_of_log().await?,
            };
            if job.is_some() {
                return Ok(job);
            }
        }
    }

    async fn next_span(&mut self) -> Result<Option<Job>, CopyError> {
        let Some(pair) = self.spans.next(self.copier).await? else {
            return Ok(None);
        };
        let Name::Span {
            first_byte,
            last_byte,
            ..
        } = pair.name
        else {
            return Ok(None);
        };
        if pair.from.is_some() {
            self.counts.last.span = first_byte;
        }
        let is_bad = self.bad.contains(&pair.name.to_string());
        if self.newest.is_aged(&pair) && (!is_bad || pair.to.is_some()) {
            self.covered = self.covered.max(last_byte);
        }
        if pair.to.is_none() && self.expired.is_some_and(|floor| last_byte <= floor.0) {
            self.counts.expired = self.counts.expired.saturating_add(1);
            return Ok(None);
        }
        let from = pair.from.filter(|_| !is_bad);
        Ok(from.map(|from| Job {
            pair,
            size: from.size,
            above: None,
        }))
    }

    async fn next_of_log(&mut self) -> Result<Option<Job>, CopyError> {
        let Some(pair) = self.log.next(self.copier).await? else {
            return Ok(None);
        };
        let above = self.log.next_of_source(self.copier).await?;
        let above = above.and_then(first_byte);
        let first = first_byte(pair.name).unwrap_or_default();
        let is_bad = self.bad.contains(&pair.name.to_string());
        let Some(from) = pair.from.filter(|_| !is_bad) else {
            return Ok(None);
        };
        self.counts.last.log = first;
        if pair.to.is_none() && first <= self.covered {
            self.counts.in_spans = self.counts.in_spans.saturating_add(1);
            return Ok(None);
        }
        let ends_before = |floor: Offset| above.is_some_and(|above| above <= floor.next_byte());
        if pair.to.is_none() && self.expired.is_some_and(ends_before) {
            self.counts.expired = self.counts.expired.saturating_add(1);
            return Ok(None);
        }
        Ok(Some(Job {
            pair,
            size: from.size,
            above,
        }))
    }
}

fn first_byte(name: Name) -> Option<u64> {
    match name {
        Name::Log { first_byte, .. } | Name::Span { first_byte, .. } => Some(first_byte),
        _ => None,
    }
}
