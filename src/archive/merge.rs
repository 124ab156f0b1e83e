//! Merges consecutive segments of a log into spans, which cost fewer requests to read and to list.
//!
//! What is merged is a function of the log alone, so that two mergers make the same names. A run begins where the last span ends,
//! and is cut before a segment
//! - whose first time mark is in another window of [`WINDOW_MS`], if a command ends there, outside of `MULTI`;
//! - with which it would be too long, or have too many segments or marks;
//! - at which, or in which, a base stands;
//! - before which, or after which, the clock had gone back: such segments stay alone, because their times name no points;
//! - that is no segment: a seal, or the bridge of a gap.
//!
//! What nothing cuts yet is not merged, so the last object of a log never is. Nothing is merged up to a gap or to damage. What is
//! stale is no part of the log ([`super::chain`]).
//!
//! A span is created once, and then read back: each segment's checksum must be that of the same bytes of the span. One that
//! cannot be read, or that differs, is withdrawn ([`super::delete`]), and so is one of which another merger's span has some bytes
//! in another way: whoever merged slept, and read what a log does not have. A process may die before it compares. So the next
//! one compares the last span before it goes on behind it.

use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use bytes::{Bytes, BytesMut};

use super::log::archive_error;
use super::log_objects::to_read;
use super::names::{self, Name};
use super::run::{MergeError, Run};
use super::{Archive, ArchiveError, ChainEnd, ChainItem, LogObject};
use crate::log::segment::{Entry, SegmentError, SegmentHeader, SegmentMeta};
use crate::log::span::{SPAN_MARKS_LIMIT, SPAN_RAW_LIMIT, SpanEncoder};
use crate::store::{Listing, StoreError};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Offset, Position, ReplId};

/// Segments of one span have their first time marks in one such window (in tests a short one).
const WINDOW_MS: i64 = if cfg!(test) { 2_000 } else { 5 * 60_000 };
/// Segments of one span, at most (in tests few), if a command ends there.
pub(crate) const SEGMENTS: usize = if cfg!(test) { 5 } else { 256 };
/// zstd's.
const LEVEL: i32 = 3;
/// Segments that are read at once. One that is longer than [`SHORT`] is not read ahead.
const AHEAD: usize = 8;
const SHORT: u64 = 1 << 20;
/// A payload up to so many bytes is held until the header before it is known. For a longer one, the segments are read twice (in
/// tests mostly).
const HELD: usize = if cfg!(test) { 200 } else { 8 << 20 };

/// A span that was made, or that was found where it was to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Span {
    /// The history.
    pub history: ReplId,
    /// Number of its first byte.
    pub from: u64,
    /// Number of its last byte.
    pub to: u64,
    /// Segments that it is made of.
    pub segments: u64,
    /// Bytes of the feed.
    pub raw_bytes: u64,
    /// Bytes that it takes in the store, without its header.
    pub stored_bytes: u64,
    /// This call created it.
    pub created: bool,
}

impl Run {
    /// Bytes of the feed.
    pub(crate) fn raw(&self) -> u64 {
        self.end().since(self.start())
    }

    /// The first and the last byte, and the history.
    pub(crate) fn range(&self) -> Option<(ReplId, u64, u64)> {
        let history = self.segments.first()?.meta.history;
        Some((history, self.start().next_byte(), self.end().0))
    }

    /// Does the run end before this segment, which follows it? `bases`: where bases stand.
    fn is_cut_before(&self, next: &SegmentHeader, bases: &[Offset]) -> bool {
        let Some(last) = self.last() else {
            return false;
        };
        let meta = &next.meta;
        let raw = meta.end.since(self.start());
        let marks = self.marks.len().saturating_add(meta.marks.len());
        let mut bases = bases.iter();
        let must = raw > SPAN_RAW_LIMIT
            || marks > SPAN_MARKS_LIMIT
            || meta.clock_back.is_some()
            || last.meta.clock_back.is_some()
            || bases.any(|base| meta.start <= *base && *base < meta.end);
        let window = |unix_ms: i64| unix_ms.div_euclid(WINDOW_MS);
        let first = self.marks.first().map(|mark| window(mark.unix_ms));
        let next_first = meta.marks.first().map(|mark| window(mark.unix_ms));
        let may = self.segments.len() >= SEGMENTS
            || first.zip(next_first).is_some_and(|(run, next)| run != next);
        must || (may && meta.starts_at_boundary)
    }
}

/// The runs of a log, from the end of its last span on.
pub(crate) struct Runs {
    archive: Archive,
    history: ReplId,
    log: Vec<LogObject>,
    bases: Vec<Offset>,
    chain: BoxStream<'static, Result<ChainItem, ArchiveError>>,
    run: Run,
    /// Up to here, the log was looked at.
    at: Offset,
    /// Where nothing more is merged, and why: a gap, or damage.
    pub(crate) stopped: Option<String>,
    ended: bool,
}

impl Runs {
    /// The next run. None: there is none yet.
    ///
    /// # Errors
    /// [`ArchiveError::Store`].
    pub(crate) async fn next(&mut self) -> Result<Option<Run>, ArchiveError> {
        while !self.ended {
            let item = match self.chain.next().await {
                Some(Err(error @ ArchiveError::Store(_))) => return Err(error),
                Some(item) => item,
                None => return Ok(self.end()),
            };
            let closed = match item {
                // Another merger made it meanwhile. What it has is not merged again, whatever was read before it.
                Ok(ChainItem::Segment(header)) if header.is_span() => {
                    self.at = header.meta.end;
                    self.run = Run::default();
                    continue;
                }
                Ok(ChainItem::Segment(header)) => {
                    let is_cut = self.run.is_cut_before(&header, &self.bases);
                    let closed = is_cut.then(|| std::mem::take(&mut self.run));
                    self.at = header.meta.end;
                    self.run.push(header);
                    closed
                }
                Ok(ChainItem::End(ChainEnd::Log(_))) => return Ok(self.end()),
                Ok(ChainItem::End(ChainEnd::Sealed(_))) => {
                    let closed = std::mem::take(&mut self.run);
                    self.end();
                    Some(closed)
                }
                Ok(ChainItem::End(ChainEnd::SteppedOver { resumes, .. })) => {
                    let log = self.log.clone();
                    self.at = resumes;
                    self.chain = self.archive.chain_of(self.history, log, resumes);
                    Some(std::mem::take(&mut self.run))
                }
                Ok(ChainItem::End(ChainEnd::Gap { at, next })) => {
                    let missing = at.next_byte();
                    self.go_on(format!(
                        "byte {missing} is missing, and byte {next} is there"
                    ));
                    None
                }
                Err(error) => {
                    self.go_on(error.to_string());
                    None
                }
            };
            if let Some(run) = closed.filter(|run| run.len() > 0) {
                return Ok(Some(run));
            }
        }
        Ok(None)
    }

    fn end(&mut self) -> Option<Run> {
        self.ended = true;
        self.run = Run::default();
        None
    }

    /// What is behind damage is merged from the next base on.
    pub(crate) fn go_on(&mut self, why: String) {
        self.stopped = Some(why);
        self.run = Run::default();
        let beyond = self.bases.iter().filter(|base| **base > self.at);
        let Some(base) = beyond.min().copied() else {
            self.ended = true;
            return;
        };
        self.at = base;
        let log = self.log.clone();
        self.chain = self.archive.chain_of(self.history, log, base);
    }
}

impl Archive {
    /// What can be merged of the log of `history`. `known`: up to here it is known to be merged.
    ///
    /// # Errors
    /// [`ArchiveError`].
    pub(crate) async fn runs(
        &self,
        history: ReplId,
        known: Option<Offset>,
    ) -> Result<Runs, ArchiveError> {
        let from = known.map_or(0, Offset::next_byte);
        let spans = self.span_names(history, from, None).await?;
        let merged = spans.iter().filter_map(|span| span.last()).max();
        let merged = merged.map(Offset).into_iter().chain(known).max();
        let bases = self
            .base_offsets(history, merged.unwrap_or_default())
            .await?;
        let start = match merged {
            Some(merged) => Some(merged),
            None => match self.history_doc(history).await?? {
                doc if doc.parent.is_some() => doc.parent.map(|parent| parent.offset),
                _ => bases.first().copied(),
            },
        };
        // What is below a floor may be gone.
        let floor = self.highest_floor(history).await?;
        let start = start.into_iter().chain(floor).max();
        let after = merged.map_or(0, Offset::next_byte);
        let log = to_read(Vec::new(), self.log_names(history, after, None).await?);
        let chain = match start {
            Some(start) => self.chain_of(history, log.clone(), start),
            None => stream::empty().boxed(),
        };
        Ok(Runs {
            archive: self.clone(),
            history,
            log,
            bases,
            chain,
            run: Run::default(),
            at: start.unwrap_or_default(),
            stopped: None,
            ended: start.is_none(),
        })
    }

    /// Where bases stand, at `from` or behind it.
    async fn base_offsets(
        &self,
        history: ReplId,
        from: Offset,
    ) -> Result<Vec<Offset>, ArchiveError> {
        let prefix = names::bases(history);
        let first = Name::BaseManifest(Position {
            history,
            offset: from,
        });
        let first = first.to_string();
        let mut listed = self
            .store
            .list_with(Listing::of(&prefix).from(&first))
            .await;
        let mut bases = Vec::new();
        while let Some(object) = listed.try_next().await? {
            if let Some(Name::BaseManifest(at)) = Name::parse(&object.name) {
                bases.push(at.offset);
            }
        }
        bases.sort_unstable();
        Ok(bases)
    }

    async fn highest_floor(&self, history: ReplId) -> Result<Option<Offset>, ArchiveError> {
        let mut listed = self.store.list(&names::floors(history), None).await;
        let mut highest = None;
        while let Some(object) = listed.try_next().await? {
            if let Some(Name::Floor(at)) = Name::parse(&object.name) {
                highest = highest.max(Some(at.offset));
            }
        }
        Ok(highest)
    }

    /// Compares the span that reaches furthest with its segments, if they still stand: whoever made it may have died before.
    ///
    /// # Errors
    /// [`MergeError`]. If it is wrong, it is withdrawn, if it may be.
    pub(crate) async fn check_last_span(&self, history: ReplId) -> Result<(), MergeError> {
        let spans = self.span_names(history, 0, None).await?;
        let Some(span) = spans.into_iter().max_by_key(|span| span.last()) else {
            return Ok(());
        };
        let Some(run) = self.segments_of(history, span).await? else {
            return Ok(());
        };
        let compared = self.compare_span(history, &run, span).await;
        self.or_withdrawn(history, span, compared).await
    }

    /// The same result. A span that is wrong is withdrawn.
    async fn or_withdrawn(
        &self,
        history: ReplId,
        span: LogObject,
        compared: Result<(), MergeError>,
    ) -> Result<(), MergeError> {
        if !matches!(&compared, Err(error) if error.is_wrong()) {
            return compared;
        }
        let object = span.name(history);
        match self.withdraw(history, span).await {
            Ok(true) => tracing::warn!(%object, "a span is wrong. It was deleted again"),
            Ok(false) => tracing::warn!(%object, "a span is wrong, and stays in the store"),
            // The error that was found first is returned.
            Err(error) => {
                tracing::warn!(%object, %error, "a span is wrong, and stays in the store")
            }
        }
        compared
    }

    /// Makes a span of a run, reads it back, and compares it with the segments.
    ///
    /// # Errors
    /// [`MergeError`]. If it is wrong, it is withdrawn, if it may be.
    pub(crate) async fn merge(&self, run: &Run, writer: &str) -> Result<Span, MergeError> {
        let nothing = || ArchiveError::damaged("a span", "it has no segment");
        let (history, from, to) = run.range().ok_or_else(nothing)?;
        let span = LogObject::span(from, to).ok_or_else(nothing)?;
        let object = span.name(history).to_string();
        let meta = run.meta(writer).ok_or_else(nothing)?;
        let (header, frame, held) = self.measure(run, &object, meta.clone()).await?;
        let created = match held {
            Some(payload) => {
                let body = [&frame[..], &payload].concat();
                self.store.create(&object, body.into()).await.map(|_| ())
            }
            None => {
                self.upload_span(run, &object, meta, (&header, frame))
                    .await?
            }
        };
        let created = match created {
            Ok(()) => true,
            Err(StoreError::AlreadyExists { .. }) => false,
            Err(error) => return Err(ArchiveError::from(error).into()),
        };
        let checked = match self.compare_span(history, run, span).await {
            Ok(()) if created => self.look_for_other_spans(history, span).await,
            checked => checked,
        };
        self.or_withdrawn(history, span, checked).await?;
        Ok(Span {
            history,
            from,
            to,
            segments: run.len() as u64,
            raw_bytes: run.raw(),
            stored_bytes: header.payload_stored,
            created,
        })
    }

    /// The header of a span, and its payload, if that is short.
    async fn measure(
        &self,
        run: &Run,
        object: &str,
        meta: SegmentMeta,
    ) -> Result<(SegmentHeader, Bytes, Option<Bytes>), ArchiveError> {
        let failed = |error: SegmentError| archive_error(object, &error);
        let mut encoder = SpanEncoder::new(LEVEL).map_err(failed)?;
        let mut held = Some(BytesMut::new());
        let mut hold = |stored: Bytes| {
            let room = held
                .as_ref()
                .is_some_and(|held| held.len().saturating_add(stored.len()) <= HELD);
            match &mut held {
                Some(held) if room => held.extend_from_slice(&stored),
                _ => held = None,
            }
        };
        let mut raw = self.raw_of(run);
        while let Some(chunk) = raw.try_next().await? {
            encoder.push(&chunk, &mut hold).map_err(failed)?;
        }
        let (header, frame) = encoder.finish(meta, &mut hold).map_err(failed)?;
        Ok((header, frame, held.map(BytesMut::freeze)))
    }

    /// Outside: something cannot be read, or has changed. Inside: what the store says.
    async fn upload_span(
        &self,
        run: &Run,
        object: &str,
        meta: SegmentMeta,
        (header, frame): (&SegmentHeader, Bytes),
    ) -> Result<Result<(), StoreError>, ArchiveError> {
        let failed = |error: SegmentError| archive_error(object, &error);
        let mut upload = self.store.upload(object).await?;
        upload.write(frame).await?;
        let mut encoder = SpanEncoder::new(LEVEL).map_err(failed)?;
        let mut raw = self.raw_of(run);
        let mut ready = Vec::new();
        while let Some(chunk) = raw.try_next().await? {
            let pushed = encoder.push(&chunk, &mut |stored| ready.push(stored));
            pushed.map_err(failed)?;
            for stored in ready.drain(..) {
                upload.write(stored).await?;
            }
        }
        let again = encoder.finish(meta, &mut |stored| ready.push(stored));
        if again.map_err(failed)?.0 != *header {
            let reason = "its segments gave other bytes when they were read again";
            return Err(ArchiveError::damaged(object, reason));
        }
        for stored in ready {
            upload.write(stored).await?;
        }
        Ok(upload.commit().await)
    }

    /// The bytes of all segments of a run, each verified against its header.
    fn raw_of(&self, run: &Run) -> BoxStream<'static, Result<Bytes, ArchiveError>> {
        let archive = self.clone();
        let opened = stream::iter(run.segments.clone()).map(move |header| {
            let archive = archive.clone();
            async move {
                let bytes = archive.read_segment(&header).await?;
                if header.meta.end.since(header.meta.start) > SHORT {
                    return Ok::<_, ArchiveError>(bytes);
                }
                let chunks: Vec<Bytes> = bytes.try_collect().await?;
                Ok(stream::iter(chunks.into_iter().map(Ok)).boxed())
            }
        });
        opened.buffered(AHEAD).try_flatten().boxed()
    }

    /// Deletes what lies in spans, as it may be deleted: ascending, and never the last object of the log.
    #[cfg(test)]
    pub(crate) async fn delete_merged(&self, history: ReplId) -> usize {
        let spans = self.span_names(history, 0, None).await.unwrap_or_default();
        let log = self.log_names(history, 0, None).await.unwrap_or_default();
        let (_, all_but_last) = log.split_last().unwrap_or((&0, &[]));
        let mut deleted = 0_usize;
        for first in all_but_last {
            let entry = self.entry(history, *first).await;
            let Ok(Some(Entry::Segment(header))) = entry else {
                break;
            };
            let mut covered = spans.iter();
            if !covered.any(|span| span.covers(*first) && span.covers(header.meta.end.0)) {
                break;
            }
            let object = LogObject::segment(*first).name(history).to_string();
            if self.store.delete(&object).await.is_err() {
                break;
            }
            deleted = deleted.saturating_add(1);
        }
        deleted
    }

    /// If another merger has made a span of some of these bytes: are they the same there?
    async fn look_for_other_spans(
        &self,
        history: ReplId,
        span: LogObject,
    ) -> Result<(), MergeError> {
        for other in self.spans_beside(history, span).await? {
            if self.differ(history, span, other).await? {
                return Err(MergeError::Differs {
                    object: span.name(history).to_string(),
                    reason: format!("{} has other bytes", other.name(history)),
                });
            }
        }
        Ok(())
    }

    /// The other spans that have some of the bytes of `span`.
    pub(super) async fn spans_beside(
        &self,
        history: ReplId,
        span: LogObject,
    ) -> Result<Vec<LogObject>, ArchiveError> {
        // One that is longer is one segment, and is cut as it is.
        let before = span.first().saturating_sub(SPAN_RAW_LIMIT);
        let until = span.last().map(|last| last.saturating_add(1));
        let mut spans = self.span_names(history, before, until).await?;
        spans.retain(|other| *other != span && other.last() >= Some(span.first()));
        Ok(spans)
    }

    /// Do two spans have other bytes where both have some? If `other` cannot be read, it says nothing about `span`.
    pub(super) async fn differ(
        &self,
        history: ReplId,
        span: LogObject,
        other: LogObject,
    ) -> Result<bool, ArchiveError> {
        let after = Offset::before_byte(span.first().max(other.first()));
        let upto = Offset(span.last().min(other.last()).unwrap_or_default());
        let theirs = match self.crc_of_part(history, other, after, upto).await {
            Err(error) if error.is_unreadable() => return Ok(false),
            theirs => theirs?,
        };
        Ok(theirs != self.crc_of_part(history, span, after, upto).await?)
    }

    async fn crc_of_part(
        &self,
        history: ReplId,
        span: LogObject,
        after: Offset,
        upto: Offset,
    ) -> Result<u64, ArchiveError> {
        let object = || span.name(history).to_string();
        let Some(Entry::Segment(header)) = self.stored_entry(history, span).await? else {
            return Err(ArchiveError::Missing { object: object() });
        };
        let mut crc = Crc64::new();
        let mut raw = self.strictly().read_part(&header, after, upto).await?;
        while let Some(chunk) = raw.try_next().await? {
            crc.update(&chunk);
        }
        Ok(crc.value())
    }
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
