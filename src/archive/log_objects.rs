//! The objects that a log is read from: spans, where there are any, and the segments that no span covers.
//!
//! A byte of a log may be in several objects. In all of them it is the same byte. Of the spans that hold a byte, the
//! one that reaches furthest is read. What begins within a span is not looked at: it is a copy, or it is stale.
//!
//! ```text
//! log/     1──100 101──200 201──300 301──400 401──500 501──550 seal
//! span/    1──────────────────────────────400
//!                          201──────────────────500
//! read     1──────────────────────────────400
//!                          201──────────────────500  501──550 seal
//! ```
//!
//! A segment may vanish while a reader is on its way: a span covers it, and it was deleted ([`super::merge`]). Then the
//! reader goes on in that span. If none covers it, that is damage, and an error.

use futures::{StreamExt, TryStreamExt};
use tokio::time::sleep;

use std::time::Duration;

use super::names::{self, Name};
use super::{Archive, ArchiveError};
use crate::log::segment::{Entry, SegmentHeader};
use crate::store::Listing;
use crate::wire::position::ReplId;

/// So many bytes before a byte the span that holds it may begin. If none does, one that begins earlier is looked for. After the
/// last, all are listed.
const STEPS: [u64; 3] = [32 << 10, 4 << 20, 256 << 20];

/// Between two looks for what covers a byte that is missing.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// An object with a part of a log, as its name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogObject {
    first: u64,
    /// The last byte of a span; 0 for a segment or a seal. No span ends with byte 0.
    last: u64,
}

impl LogObject {
    /// A segment, or the seal of a log.
    #[must_use]
    pub fn segment(first: u64) -> Self {
        Self { first, last: 0 }
    }

    /// A span. None: it has no byte.
    #[must_use]
    pub fn span(first: u64, last: u64) -> Option<Self> {
        (0 < last && first <= last).then_some(Self { first, last })
    }

    /// The span that an object is by its name. None: it is none.
    pub(super) fn span_of(object: &str) -> Option<Self> {
        match Name::parse(object)? {
            Name::Span {
                first_byte,
                last_byte,
                ..
            } => Self::span(first_byte, last_byte),
            _ => None,
        }
    }

    /// The number of its first byte.
    #[must_use]
    pub fn first(self) -> u64 {
        self.first
    }

    /// The number of its last byte, if its name says that: it is a span.
    #[must_use]
    pub fn last(self) -> Option<u64> {
        (self.last > 0).then_some(self.last)
    }

    /// Is it a span with this byte?
    pub(super) fn covers(self, byte: u64) -> bool {
        self.first <= byte && byte <= self.last
    }

    /// Its name.
    #[must_use]
    pub fn name(self, history: ReplId) -> Name {
        match self.last() {
            Some(last_byte) => Name::Span {
                history,
                first_byte: self.first,
                last_byte,
            },
            None => Name::Log {
                history,
                first_byte: self.first,
            },
        }
    }

    /// The object that an entry says it is.
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Segment(header) => Self::of_header(header),
            Entry::Seal(seal) => Self::segment(seal.start.next_byte()),
        }
    }

    /// The object that a header says it is of.
    #[must_use]
    pub fn of_header(header: &SegmentHeader) -> Self {
        Self {
            first: header.meta.start.next_byte(),
            last: if header.is_span() {
                header.meta.end.0
            } else {
                0
            },
        }
    }
}

/// What is read of a log: of `spans` those that reach furthest, and of `log`, the first bytes of segments, those that
/// begin in no span. Ascending.
pub(super) fn to_read(mut spans: Vec<LogObject>, mut log: Vec<u64>) -> Vec<LogObject> {
    spans.sort_unstable();
    log.sort_unstable();
    log.dedup();
    let mut read: Vec<LogObject> = Vec::with_capacity(log.len());
    let mut log = log.into_iter().peekable();
    let mut spans = spans.into_iter().peekable();
    while let Some(mut span) = spans.next() {
        while let Some(first) = log.next_if(|first| *first < span.first) {
            read.push(LogObject::segment(first));
        }
        // Those that begin with the same byte, or join what was read: the one that reaches furthest.
        let reached = read.last().map_or(0, |object| object.last);
        let joins = span.first <= reached.saturating_add(1);
        let limit = if joins {
            reached.saturating_add(1)
        } else {
            span.first
        };
        while let Some(other) = spans.next_if(|other| other.first <= limit) {
            if other.last > span.last {
                span = other;
            }
        }
        if span.last <= reached {
            continue;
        }
        read.push(span);
        while log.next_if(|first| *first <= span.last).is_some() {}
    }
    read.extend(log.map(LogObject::segment));
    read
}

/// The bytes from `from` on that none of `spans` has, as first bytes and ends. The last range has no end.
pub(super) fn uncovered(from: u64, spans: &[LogObject]) -> Vec<(u64, Option<u64>)> {
    let mut spans: Vec<LogObject> = spans.to_vec();
    spans.sort_unstable();
    let (mut next, mut holes) = (from, Vec::new());
    for span in spans {
        if span.first > next {
            holes.push((next, Some(span.first)));
        }
        next = next.max(span.last.saturating_add(1));
    }
    holes.push((next, None));
    holes
}

impl Archive {
    /// The header of an object of a log. If it is a segment that is not there any more, that of a span that covers its
    /// first byte. If it is a span that is not there, or cannot be read, what its segments say that it is. None: there is
    /// neither.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub async fn entry_of(
        &self,
        history: ReplId,
        object: LogObject,
    ) -> Result<Option<Entry>, ArchiveError> {
        let found = self.stored_entry(history, object).await;
        if object.last().is_some() {
            let is_there = match &found {
                Ok(found) => found.is_some(),
                Err(error) => !error.is_unreadable(),
            };
            if is_there {
                return found;
            }
            let aside = self.header_aside(history, object).await?;
            return aside.map_or(found, |header| Ok(Some(Entry::Segment(header))));
        }
        let found = found?;
        if found.is_some() {
            return Ok(found);
        }
        let Some(span) = self.covering(history, object.first).await? else {
            return Ok(None);
        };
        self.stored_entry(history, span).await
    }

    /// The span that holds a byte which is missing in `log/`. If there are spans, and none holds it, they are listed
    /// twice, a second apart.
    pub(super) async fn covering(
        &self,
        history: ReplId,
        byte: u64,
    ) -> Result<Option<LogObject>, ArchiveError> {
        let mut looked = false;
        loop {
            let (found, are_any) = self.find_covering(history, byte).await?;
            if found.is_some() || !are_any || looked {
                return Ok(found);
            }
            looked = true;
            sleep(LOOK_AGAIN).await;
        }
    }

    /// That span, and: are there any?
    async fn find_covering(
        &self,
        history: ReplId,
        byte: u64,
    ) -> Result<(Option<LogObject>, bool), ArchiveError> {
        let mut are_any = false;
        let mut until = None;
        for step in STEPS.into_iter().map(Some).chain([None]) {
            let from = step.map_or(0, |step| byte.saturating_sub(step));
            let listed = self.span_names(history, from, until).await?;
            are_any |= !listed.is_empty();
            let holding = listed.into_iter().filter(|span| span.covers(byte));
            let furthest = holding.max_by_key(|span| span.last);
            if furthest.is_some() || from == 0 {
                return Ok((furthest, are_any));
            }
            until = Some(from);
        }
        Ok((None, are_any))
    }

    /// The spans that begin with byte `from` or later, and before `until`. Ascending.
    pub(super) async fn span_names(
        &self,
        history: ReplId,
        from: u64,
        until: Option<u64>,
    ) -> Result<Vec<LogObject>, ArchiveError> {
        let prefix = names::spans(history);
        let first = Name::Span {
            history,
            first_byte: from,
            last_byte: from,
        };
        let first = first.to_string();
        let mut wanted = Listing::of(&prefix);
        if from > 0 {
            wanted = wanted.from(&first);
        }
        let mut found = self.store.list_with(wanted).await;
        let mut spans = Vec::new();
        while let Some(object) = found.try_next().await? {
            let Some(span) = LogObject::span_of(&object.name) else {
                continue;
            };
            if until.is_some_and(|until| span.first >= until) {
                break;
            }
            spans.push(span);
        }
        Ok(spans)
    }

    /// The first bytes of the objects in `log/` that begin with byte `from` or later, and before `until`. Ascending.
    pub(super) async fn log_names(
        &self,
        id: ReplId,
        from: u64,
        until: Option<u64>,
    ) -> Result<Vec<u64>, ArchiveError> {
        let prefix = names::log(id);
        let first = Name::Log {
            history: id,
            first_byte: from,
        };
        let first = first.to_string();
        let mut wanted = Listing::of(&prefix);
        if from > 0 {
            wanted = wanted.from(&first);
        }
        let mut found = self.store.list_with(wanted).await;
        let mut log = Vec::new();
        while let Some(object) = found.next().await.transpose()? {
            let Some(Name::Log { first_byte, .. }) = Name::parse(&object.name) else {
                continue;
            };
            if until.is_some_and(|until| first_byte >= until) {
                break;
            }
            log.push(first_byte);
        }
        Ok(log)
    }

    /// What is read of a log from byte `from` on, before `until`: `spans`, and what none of them has.
    pub(super) async fn objects_beside(
        &self,
        id: ReplId,
        (from, until): (u64, Option<u64>),
        spans: Vec<LogObject>,
    ) -> Result<Vec<LogObject>, ArchiveError> {
        let mut holes = uncovered(from, &spans);
        // A bridge over a gap is in no span. Many of them are listed at once.
        if holes.len() > HOLES
            && let Some((first, _)) = holes.first().copied()
        {
            holes = vec![(first, None)];
        }
        let mut log = Vec::new();
        for (first, end) in holes {
            let end = end.into_iter().chain(until).min();
            if end.is_none_or(|end| first < end) {
                log.extend(self.log_names(id, first, end).await?);
            }
        }
        Ok(to_read(spans, log))
    }
}

/// Holes between spans that are listed one by one.
const HOLES: usize = 8;

#[cfg(test)]
#[path = "log_objects_tests.rs"]
mod tests;
