//! Deletes segments that a span has.
//!
//! A span was compared with its segments when it was made. Before anything goes, it is read again to its end, and compared
//! with those that are there. Then they go in batches, ascending, as far as all of them are old enough, and so is the span. The
//! last object of a log lies in no span; if it did, it would stay.

use futures::{StreamExt, TryStreamExt, stream};

use super::super::kept::IN_FLIGHT;
use super::super::names::{self, Name};
use super::super::run::Run;
use super::super::{ArchiveError, GRACE_MS, LogObject, MergeError};
use super::{BATCH, Deleter};
use crate::log::segment::{Entry, SegmentHeader};
use crate::store::{Listing, ObjectMeta};
use crate::wire::position::ReplId;

/// Objects of a log that begin within one span, at most. (A span is made of far fewer.)
const WITHIN: usize = 4096;

impl Deleter {
    /// Deletes the segments that the log of a history begins with and that lie in spans. It stops before the first one that
    /// is in no span, or that is too young, or whose span is, or that the store does not delete.
    ///
    /// # Errors
    /// [`MergeError::Differs`]: a span does not have what its segments have. They stay.
    pub async fn merged(&mut self, history: ReplId) -> Result<(), MergeError> {
        // A span that begins before the one that reached furthest ends before it as well.
        let mut from = None;
        loop {
            let first = self.first_of_log(history).await?;
            let Some((first, _)) = first.first() else {
                return Ok(());
            };
            let Some(span) = self.aged_span(history, *first, from).await? else {
                return Ok(());
            };
            from = Some(span);
            let segments = self.segments_in(history, *first, span).await?;
            if segments.is_empty() {
                return Ok(());
            }
            let (headers, objects): (Vec<_>, Vec<_>) = segments.into_iter().unzip();
            let run = Run::of(headers.into_iter().flatten().collect());
            self.archive.compare_span(history, &run, span).await?;
            for batch in objects.chunks(BATCH) {
                if !self.delete_all(&names::log(history), batch).await? {
                    return Ok(());
                }
            }
        }
    }

    /// The span with this byte that reaches furthest, of those that are old enough. None before `from` is looked at.
    async fn aged_span(
        &mut self,
        history: ReplId,
        byte: u64,
        from: Option<LogObject>,
    ) -> Result<Option<LogObject>, ArchiveError> {
        let prefix = names::spans(history);
        let from = from.map(|from| from.name(history).to_string());
        let wanted = match &from {
            Some(from) => Listing::of(&prefix).from(from),
            None => Listing::of(&prefix),
        };
        let mut listed = self.archive.store.list_with(wanted).await;
        let (mut aged, mut is_young) = (Vec::new(), false);
        while let Some(object) = listed.try_next().await? {
            let Some(span) = LogObject::span_of(&object.name) else {
                continue;
            };
            if span.first() > byte {
                break;
            }
            let span = Some(span).filter(|span| span.covers(byte));
            match self.is_aged(object.created, GRACE_MS) {
                true => aged.extend(span),
                false => is_young |= span.is_some(),
            }
        }
        let furthest = aged.into_iter().max_by_key(|span| span.last());
        if furthest.is_none() && is_young {
            self.deleted.young = self.deleted.young.saturating_add(1);
        }
        Ok(furthest)
    }

    /// The objects of the log from byte `first` on that lie wholly in a span and may go, each with its header. One without
    /// is stale: it is no part of the log.
    async fn segments_in(
        &mut self,
        history: ReplId,
        first: u64,
        span: LogObject,
    ) -> Result<Vec<(Option<SegmentHeader>, ObjectMeta)>, ArchiveError> {
        let objects = self.log_within(history, first, span).await?;
        let archive = self.archive.clone();
        let firsts: Vec<u64> = objects.iter().map(|(first, _)| *first).collect();
        let entries: Vec<_> = stream::iter(firsts)
            .map(|first| {
                let archive = archive.clone();
                async move { archive.entry(history, first).await }
            })
            .buffered(IN_FLIGHT)
            .collect()
            .await;
        let nexts = objects.iter().skip(1).map(|(first, _)| *first);
        let mut expendable = Vec::new();
        // Behind the last of them is one that stays.
        for (((_, object), entry), next) in objects.iter().zip(entries).zip(nexts) {
            let header = match entry {
                Err(error @ ArchiveError::Store(_)) => return Err(error),
                Ok(Some(Entry::Segment(header))) => Some(header),
                // A seal with an object behind it.
                Ok(Some(Entry::Seal(_))) => None,
                _ => break,
            };
            // In a span each segment ends where the next one begins. Who slept may have cut in another way.
            let joins = header.as_ref().is_some_and(|header| {
                let end = header.meta.end.0;
                end.checked_add(1) == Some(next) || (end < next && !span.covers(next))
            });
            let is_inside = header
                .as_ref()
                .is_some_and(|header| span.covers(header.meta.end.0) && !header.is_gap());
            let is_stale = !joins;
            if !is_stale && !is_inside {
                break;
            }
            if !self.is_aged(object.created, GRACE_MS) {
                // It is met once more when those before it are gone.
                let met = u64::from(expendable.is_empty());
                self.deleted.young = self.deleted.young.saturating_add(met);
                break;
            }
            expendable.push((header.filter(|_| joins), object.clone()));
        }
        Ok(expendable)
    }

    /// The objects of the log from byte `first` on that begin in a span, and the one behind them.
    async fn log_within(
        &self,
        history: ReplId,
        first: u64,
        span: LogObject,
    ) -> Result<Vec<(u64, ObjectMeta)>, ArchiveError> {
        let prefix = names::log(history);
        let from = LogObject::segment(first).name(history).to_string();
        let wanted = Listing::of(&prefix).from(&from);
        let mut listed = self.archive.store.list_with(wanted).await;
        let mut log = Vec::new();
        while let Some(object) = listed.try_next().await? {
            let Some(Name::Log { first_byte, .. }) = Name::parse(&object.name) else {
                continue;
            };
            let is_inside = span.covers(first_byte);
            log.push((first_byte, object));
            if !is_inside || log.len() > WITHIN {
                break;
            }
        }
        Ok(log)
    }
}

#[cfg(test)]
#[path = "merged_tests.rs"]
mod tests;
