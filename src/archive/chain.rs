//! Follows a log: which of the listed segments are part of it, and where it ends.
//!
//! The header of each segment says where the next one begins, so the log is a chain:
//!
//! ```text
//!   1─────100 101────────250 251─────400
//! ```
//!
//! A writer stores one segment after the other. If it dies, it leaves none beyond a gap. So a segment beyond a gap that
//! no base and no bridge explains means that something was lost.
//!
//! Not every listed object is part of it. A writer that slept while the log went on, and while expiry deleted its
//! beginning, may have created an object under a deleted name before it found that out ([`super::fence`]). Such an
//! object is **stale**. The last object of a log is never deleted, and nothing is deleted before what is before it. So
//! what was not deleted is one chain that leads to the highest name, and every stale object is before it:
//!
//! ```text
//!                     (101─────200 201─────300 were deleted)  301─────400 401─────450 seal      the log
//!                      101──────────────────────────350                                         stale
//! ```
//!
//! A segment that reaches into the next object is stale, and so is a seal with an object behind it.

pub(crate) mod window;

use std::collections::BTreeSet;

use futures::future::ready;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::chain::window::{Item, Window};
use super::kept::IN_FLIGHT;
use super::log::log_name;
use super::{Archive, ArchiveError, Catalog, History, LogObject};
use crate::log::segment::{Entry, SealHeader, SegmentHeader};
use crate::wire::position::{Boundary, Offset, ReplId, TimeMark};

/// How many segments before the wanted one are looked at, at first. Mostly the last boundary and the last time mark are
/// in them.
pub(super) const LOOK_BACK: usize = 4;

/// Where a log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The last byte of the unbroken chain of bases and segments.
    pub end: Offset,
    /// The last point at or before `end` that is between commands and outside `MULTI`.
    pub boundary: Boundary,
    /// The last time mark of the log; None when it has no segment with one.
    pub last_mark: Option<TimeMark>,
    /// The seal of the log, if there is one. It is after `end`, or the log has a gap before it.
    pub sealed: Option<SealHeader>,
    /// `end` is a base beyond a gap that nothing bridges yet: its writer died before that. Whoever continues from
    /// there, or seals the log there, bridges the gap first ([`Archive::bridge`]), because another writer may be on the
    /// other side.
    pub unbridged: Option<Gap>,
}

/// A gap of a log, up to a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// The last byte before it.
    pub from: Offset,
    /// The database selected there.
    pub db: u32,
    /// `from` is a boundary.
    pub at_boundary: bool,
    /// The position of the base.
    pub to: Boundary,
}

/// What [`Archive::chain`] returns: segments, and finally the reason why it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainItem {
    /// The next segment.
    Segment(SegmentHeader),
    /// Nothing more; no item follows.
    End(ChainEnd),
}

/// Why a chain of segments ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEnd {
    /// The log ends after this offset.
    Log(Offset),
    /// The byte after `at` is missing, though the log has a segment that begins at byte `next`.
    Gap {
        /// The last byte before the gap.
        at: Offset,
        /// The first byte of the next segment.
        next: u64,
    },
    /// Nobody has the bytes after `at` up to `resumes`: a full sync stepped over them.
    SteppedOver {
        /// The last byte before them.
        at: Offset,
        /// The last of them. The base of that full sync is there.
        resumes: Offset,
    },
    /// The log is sealed.
    Sealed(SealHeader),
}

impl Archive {
    /// Where the log of `history` ends, as far as `catalog` knows. It reads the last few headers, and follows a base
    /// beyond a gap. [`ArchiveError::NothingStored`] when the history has no base, no segment and no parent.
    pub async fn log_end(
        &self,
        catalog: &Catalog,
        history: ReplId,
    ) -> Result<LogEnd, ArchiveError> {
        let found = self.listed_history(catalog, history).await?;
        match self.end_of(catalog, &found).await {
            Err(error @ ArchiveError::Store(_)) => Err(error),
            // Decided by all that there is.
            Err(_) if !found.extent.is_whole() => {
                let found = self.whole_history(&found.doc).await?;
                self.end_of(catalog, &found).await
            }
            ended => ended,
        }
    }

    async fn end_of(&self, catalog: &Catalog, found: &History) -> Result<LogEnd, ArchiveError> {
        let history = found.doc.id;
        let implied = implied(catalog, found);
        let is_all = found.begins_safely();
        let mut log = found.log.clone();
        let mut looked_up = BTreeSet::new();
        let mut look_back = LOOK_BACK;
        loop {
            let window = self
                .window(history, &log, is_all, log.len(), look_back)
                .await?;
            let walked = walk_to_end(found, &window, implied)?;
            let mut unlisted = Vec::new();
            for hole in &walked.holes {
                if looked_up.insert(*hole) && self.unlisted(history, *hole).await?.is_some() {
                    unlisted.push(LogObject::segment(*hole));
                }
            }
            if !unlisted.is_empty() {
                log.extend(unlisted);
                log.sort_unstable();
                continue;
            }
            // The log continues, but not from there, and no base is between: an object was lost.
            if window.lists_beyond(walked.end.next_byte()) {
                let object = log_name(history, walked.end.next_byte());
                return Err(ArchiveError::Missing { object });
            }
            // The list begins where neither the log does nor a base stands: what is before it may count.
            let is_blind =
                (window.begins_list() && !is_all) || (walked.crossed && !found.extent.is_whole());
            if is_blind {
                return Err(ArchiveError::NothingStored { id: history });
            }
            // A command can be cut into more segments than the window has.
            if let Some(end) = walked.log_end(found, window.is_whole()) {
                // The last mark may stand before the base with which the list begins.
                if end.last_mark.is_none() && found.begins_at_base() {
                    return Err(ArchiveError::NothingStored { id: history });
                }
                return Ok(end);
            }
            if window.begins_list() {
                return Err(ArchiveError::NothingStored { id: history });
            }
            look_back = look_back.saturating_mul(4);
        }
    }

    /// The headers in order, from the segment that holds byte `after + 1`, and why they end. An error is the last item.
    /// What `catalog` does not list yet is not followed.
    #[must_use]
    pub fn chain(
        &self,
        catalog: &Catalog,
        history: ReplId,
        after: Offset,
    ) -> BoxStream<'static, Result<ChainItem, ArchiveError>> {
        let archive = self.clone();
        let found = find(catalog, history).map(|found| {
            let listed = found.extent.log_from;
            let is_listed = listed.is_some_and(|from| from <= after.next_byte());
            match is_listed {
                true => Ok(Start::of(catalog, found)),
                false => Err((Box::new(found.doc.clone()), left(catalog, history))),
            }
        });
        let begin = async move {
            Ok::<_, ArchiveError>(match found? {
                Ok(start) => archive.chain_from(history, start, after),
                Err((doc, left)) => {
                    let whole = archive.whole_history(&doc).await?;
                    let mut start = Start::of(&Catalog::default(), &whole);
                    start.implied = start.implied.max(left);
                    archive.chain_from(history, start, after)
                }
            })
        };
        stream::once(begin).try_flatten().fuse().boxed()
    }

    /// The same through these objects, whatever else the history has.
    #[cfg(feature = "cli")]
    pub(super) fn chain_of(
        &self,
        history: ReplId,
        log: Vec<LogObject>,
        after: Offset,
    ) -> BoxStream<'static, Result<ChainItem, ArchiveError>> {
        let start = Start {
            log,
            begins: Some(after.next_byte()),
            implied: Offset::default(),
        };
        self.chain_from(history, start, after)
    }

    fn chain_from(
        &self,
        history: ReplId,
        start: Start,
        after: Offset,
    ) -> BoxStream<'static, Result<ChainItem, ArchiveError>> {
        let archive = self.clone();
        let begin = async move {
            let first = archive.first_of_chain(history, &start, after).await?;
            Ok::<_, ArchiveError>(match first {
                First::Index { index, next } => {
                    let log = start.log.get(index..).unwrap_or_default().to_vec();
                    archive.follow(history, log, next, start.implied)
                }
                First::End(end) => stream::iter([Ok(ChainItem::End(end))]).boxed(),
            })
        };
        stream::once(begin).try_flatten().fuse().boxed()
    }

    /// The chain through `log` from the segment whose first byte is `next`. Headers are read ahead.
    fn follow(
        &self,
        history: ReplId,
        log: Vec<LogObject>,
        next: u64,
        implied: Offset,
    ) -> BoxStream<'static, Result<ChainItem, ArchiveError>> {
        let archive = self.clone();
        let aboves = log.iter().skip(1).map(|above| Some(above.first()));
        let aboves: Vec<Option<u64>> = aboves.collect();
        let aboves = aboves.into_iter().chain([None]);
        let headers = stream::iter(log.into_iter().zip(aboves))
            .map(move |(object, above)| {
                let archive = archive.clone();
                async move {
                    let item = archive.listed(history, object).await?;
                    Ok::<_, ArchiveError>((item, above))
                }
            })
            .buffered(IN_FLIGHT)
            .try_filter(|(item, above)| ready(!item.is_stale(*above)))
            .map_ok(|(item, _)| item)
            .boxed();
        let follower = Follower {
            archive: self.clone(),
            history,
            headers,
            beyond: None,
            next,
            implied,
        };
        let items = stream::unfold(Some(follower), |follower| async move {
            let mut follower = follower?;
            let item = follower.step().await;
            let goes_on = matches!(item, Ok(ChainItem::Segment(_)));
            Some((item, goes_on.then_some(follower)))
        });
        items.fuse().boxed()
    }

    /// An object that a listing does not show, although it shows later ones. It may have been created during the
    /// listing, because the names of a directory are not read in one moment. Or it was deleted, and a span covers it.
    async fn unlisted(&self, history: ReplId, first: u64) -> Result<Option<Item>, ArchiveError> {
        let item = self.listed(history, LogObject::segment(first)).await?;
        let is_there = !matches!(item.entry, Err(ArchiveError::Missing { .. }));
        Ok(is_there.then_some(item))
    }

    /// Where to enter the chain so as to get byte `after + 1`.
    async fn first_of_chain(
        &self,
        history: ReplId,
        start: &Start,
        after: Offset,
    ) -> Result<First, ArchiveError> {
        let wanted = after.next_byte();
        let upto = start.log.partition_point(|object| object.first() <= wanted);
        let window = self
            .window(history, &start.log, true, upto, LOOK_BACK)
            .await?;
        let found = window.holding(wanted)?;
        if let Some(item) = found.and_then(|index| window.get(index)) {
            return Ok(First::Index {
                index: start.log.partition_point(|object| *object < item.object),
                next: item.first(),
            });
        }
        if let Some(seal) = window.seal() {
            return Ok(First::End(ChainEnd::Sealed(seal.clone())));
        }
        let before = window.next_before(wanted);
        let before = before.or(start.begins);
        let next = match before {
            Some(next) => self.unlisted_holding(history, next, wanted).await?,
            None => wanted,
        };
        if upto < start.log.len() || next <= start.implied.0 {
            return Ok(First::Index { index: upto, next });
        }
        Ok(First::End(ChainEnd::Log(after)))
    }

    /// Where the segment begins that holds byte `wanted`, if a listing shows neither that one nor the ones between it
    /// and the one that begins at `next`. Otherwise it should begin at `wanted` itself.
    async fn unlisted_holding(
        &self,
        history: ReplId,
        mut next: u64,
        wanted: u64,
    ) -> Result<u64, ArchiveError> {
        while next < wanted {
            let item = self.unlisted(history, next).await?;
            match item.and_then(|item| item.next()) {
                Some(after) if after > wanted => return Ok(next),
                Some(after) => next = after,
                None => break,
            }
        }
        Ok(wanted)
    }

    /// The headers of up to `look_back` objects before index `upto` of `log`.
    async fn window(
        &self,
        history: ReplId,
        log: &[LogObject],
        is_all: bool,
        upto: usize,
        look_back: usize,
    ) -> Result<Window, ArchiveError> {
        let offset = upto.saturating_sub(look_back);
        let objects = log.get(offset..upto).unwrap_or_default().to_vec();
        let items = stream::iter(objects)
            .map(|object| self.listed(history, object))
            .buffered(IN_FLIGHT)
            .try_collect()
            .await?;
        let above = log.get(upto).map(|above| above.first());
        Ok(Window::new(offset, is_all, items, above))
    }

    /// A listed object. If only this object is wrong, that matters only if it turns out to be part of the chain.
    async fn listed(&self, history: ReplId, object: LogObject) -> Result<Item, ArchiveError> {
        let entry = match self.entry_of(history, object).await {
            Err(error @ ArchiveError::Store(_)) => return Err(error),
            Ok(Some(entry)) => Ok(entry),
            Ok(None) => Err(ArchiveError::Missing {
                object: object.name(history).to_string(),
            }),
            Err(error) => Err(error),
        };
        Ok(Item { object, entry })
    }
}

/// A way along a log.
struct Follower {
    archive: Archive,
    history: ReplId,
    headers: BoxStream<'static, Result<Item, ArchiveError>>,
    /// Listed, but not next.
    beyond: Option<Item>,
    next: u64,
    /// See [`implied`].
    implied: Offset,
}

impl Follower {
    async fn step(&mut self) -> Result<ChainItem, ArchiveError> {
        let at = Offset::before_byte(self.next);
        let Some(item) = self.item().await? else {
            return Ok(ChainItem::End(ChainEnd::Log(at)));
        };
        if item.first() > self.next {
            let next = item.first();
            return Ok(ChainItem::End(ChainEnd::Gap { at, next }));
        }
        Ok(match item.entry? {
            Entry::Seal(seal) => ChainItem::End(ChainEnd::Sealed(seal)),
            Entry::Segment(header) if header.is_gap() => ChainItem::End(ChainEnd::SteppedOver {
                at: header.meta.start,
                resumes: header.meta.end,
            }),
            Entry::Segment(header) => {
                self.next = header.meta.end.next_byte();
                ChainItem::Segment(header)
            }
        })
    }

    /// The object that begins with the next byte, or else the first one beyond it.
    async fn item(&mut self) -> Result<Option<Item>, ArchiveError> {
        loop {
            let item = match self.beyond.take() {
                Some(item) => item,
                None => match self.headers.try_next().await? {
                    Some(item) => item,
                    None if self.next <= self.implied.0 => {
                        return self.archive.unlisted(self.history, self.next).await;
                    }
                    None => return Ok(None),
                },
            };
            if item.first() < self.next && !item.reaches(self.next) {
                // The list begins before the point where the chain is entered.
                continue;
            }
            if item.first() > self.next
                && let Some(unlisted) = self.archive.unlisted(self.history, self.next).await?
            {
                self.beyond = Some(item);
                return Ok(Some(unlisted));
            }
            return Ok(Some(item));
        }
    }
}

/// What [`Archive::chain`] keeps of the catalog.
struct Start {
    log: Vec<LogObject>,
    /// The first byte that can be in it.
    begins: Option<u64>,
    implied: Offset,
}

impl Start {
    fn of(catalog: &Catalog, found: &History) -> Self {
        Self {
            log: found.log.clone(),
            begins: begins(found),
            implied: implied(catalog, found),
        }
    }
}

enum First {
    /// From this index of the list on, beginning with the segment of first byte `next`.
    Index {
        index: usize,
        next: u64,
    },
    End(ChainEnd),
}

/// A point of a history that is known without its log.
struct Anchor {
    offset: Offset,
    db: u32,
}

/// Those from which on the log is listed, and not below a floor: the log after them may be gone.
fn anchors(history: &History) -> impl Iterator<Item = Anchor> + '_ {
    let from = history.extent.log_from.unwrap_or(0);
    let floor = history.floors.highest();
    let floor = floor.map_or(Offset(0), |floor| floor.offset);
    let parent = history.doc.parent.iter().map(|parent| Anchor {
        offset: parent.offset,
        db: parent.db,
    });
    let bases = history.bases.iter().map(|base| Anchor {
        offset: base.offset,
        db: base.db,
    });
    let all = parent.chain(bases);
    all.filter(move |anchor| anchor.offset.next_byte() >= from && anchor.offset >= floor)
}

fn find(catalog: &Catalog, id: ReplId) -> Result<&History, ArchiveError> {
    let found = catalog.histories.get(&id);
    found.ok_or(ArchiveError::UnknownHistory { id })
}

/// What else is listed says that the log was stored up to here, unless it has a gap: a base stands there, or another history has
/// left it there. That may have been listed much later than the log.
fn implied(catalog: &Catalog, found: &History) -> Offset {
    let bases = found.bases.iter().map(|base| base.offset);
    bases
        .max()
        .unwrap_or_default()
        .max(left(catalog, found.doc.id))
}

/// The last point where another history has left it.
fn left(catalog: &Catalog, history: ReplId) -> Offset {
    let parents = catalog.histories.values().filter_map(|it| it.doc.parent);
    let left = parents.filter(|parent| parent.history == history);
    left.map(|parent| parent.offset).max().unwrap_or_default()
}

/// The byte right after the first of those anchors.
fn begins(history: &History) -> Option<u64> {
    let first = anchors(history).map(|anchor| anchor.offset).min();
    first.map(Offset::next_byte)
}

/// A walk along a log up to its end.
#[derive(Default)]
struct Walked {
    end: Offset,
    /// The segments passed, in order.
    passed: Vec<SegmentHeader>,
    /// Where it began, before the first of them.
    began: Option<Offset>,
    sealed: Option<SealHeader>,
    /// The last byte before a gap, if nothing of the log follows the base beyond it.
    gap: Option<Offset>,
    /// It went over a gap to a base, between which and the log's end others may stand.
    crossed: bool,
    /// Bytes with which nothing listed begins, though the log may go on with them: something beyond is listed, or [`implied`].
    holes: Vec<u64>,
}

fn walk_to_end(
    history: &History,
    window: &Window,
    implied: Offset,
) -> Result<Walked, ArchiveError> {
    let mut anchors: Vec<Anchor> = anchors(history).collect();
    if let Some(seal) = window.seal() {
        anchors.retain(|anchor| anchor.offset <= seal.start);
    }
    let first = anchors.iter().min_by_key(|anchor| anchor.offset);
    let (began, mut entry) = match first {
        Some(anchor) if window.is_whole() => (Some(anchor.offset), Enter::Within),
        _ => (window.start(), Enter::Exactly),
    };
    let mut walked = Walked {
        began,
        sealed: window.seal().cloned(),
        ..Walked::default()
    };
    let Some(mut at) = began else {
        return Ok(walked);
    };
    loop {
        let wanted = at.next_byte();
        let index = match entry {
            Enter::Exactly => window.index_of(wanted),
            Enter::Within => window.holding(wanted)?,
        };
        entry = Enter::Exactly;
        match index
            .and_then(|index| window.get(index))
            .map(|item| &item.entry)
        {
            Some(Ok(Entry::Segment(header))) => {
                at = header.meta.end;
                walked.gap = None;
                walked.passed.push(header.clone());
            }
            Some(Ok(Entry::Seal(_))) => break,
            Some(Err(error)) => return Err(error.clone()),
            None => {
                if window.lists_beyond(wanted) || wanted <= implied.0 {
                    walked.holes.push(wanted);
                }
                // A gap, or the end: go over to the next base, if there is one.
                let beyond = anchors.iter().filter(|anchor| anchor.offset > at);
                let Some(anchor) = beyond.min_by_key(|anchor| anchor.offset) else {
                    break;
                };
                walked.crossed = true;
                // If the log leads to it, what is missing was deleted before it, and nobody stands on the other side.
                let is_reached = window.holding(anchor.offset.0).is_ok_and(|it| it.is_some());
                walked.gap = Some(walked.gap.unwrap_or(at)).filter(|_| !is_reached);
                at = anchor.offset;
                entry = Enter::Within;
            }
        }
    }
    walked.end = at;
    Ok(walked)
}

/// How the next step of a walk finds its segment.
enum Enter {
    /// It begins with the next byte.
    Exactly,
    /// It holds the next byte ([`Window::holding`]).
    Within,
}

impl Walked {
    /// None: no boundary is known, or a later one may be before what was read.
    fn log_end(&self, history: &History, is_whole: bool) -> Option<LogEnd> {
        let began = self.began?;
        let boundary = self.boundary(history, self.end)?;
        if boundary.offset < began && !is_whole {
            return None;
        }
        let unbridged = self.gap.and_then(|from| {
            let before = self.boundary(history, from)?;
            Some(Gap {
                from,
                db: before.db,
                at_boundary: before.offset == from,
                to: boundary,
            })
        });
        Some(LogEnd {
            end: self.end,
            boundary,
            last_mark: self
                .passed
                .iter()
                .rev()
                .find_map(|header| header.meta.marks.last().copied()),
            sealed: self.sealed.clone(),
            unbridged,
        })
    }

    /// The last one known at or before `upto`, which is not before the last segment passed.
    fn boundary(&self, history: &History, upto: Offset) -> Option<Boundary> {
        let in_segments = self
            .passed
            .iter()
            .rev()
            .find_map(|header| header.meta.boundary);
        let at_anchors = anchors(history)
            .filter(|anchor| anchor.offset <= upto)
            .map(|anchor| Boundary {
                offset: anchor.offset,
                db: anchor.db,
            });
        let at_start = self
            .passed
            .first()
            .filter(|first| first.meta.starts_at_boundary);
        let at_start = at_start.map(|first| Boundary {
            offset: first.meta.start,
            db: first.meta.db_at_start,
        });
        at_anchors
            .chain(in_segments)
            .chain(at_start)
            .max_by_key(|boundary| boundary.offset)
    }
}

#[cfg(test)]
#[path = "chain_tests.rs"]
mod tests;
