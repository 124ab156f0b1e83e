//! Which offset a time means, by the time marks in the headers of the log.
//!
//! Marks never go back. If the clock went back, the headers of the segments say so, until the clock reaches the last
//! mark again ([`ClockBack`]). In such a stretch all marks are the same, and a time there names no point.

use super::{Planner, Span};
use crate::archive::{BaseKind, LogObject};
use crate::log::segment::{ClockBack, Entry, SegmentMeta};
use crate::recovery::error::{ClockWentBack, RecoveryError};
use crate::recovery::target::show_time;
use crate::wire::position::{Offset, TimeMark};

/// A mark, and the index of its segment in the list of the log.
#[derive(Clone, Copy)]
struct Found {
    mark: TimeMark,
    index: usize,
}

/// A clock that had been ahead went back.
#[derive(Clone, Copy)]
struct WentBack {
    /// Where it went back.
    span: Span,
    to_unix_ms: i64,
    /// The last time before that.
    held_unix_ms: i64,
    /// The last byte that has a wrong time.
    upto: Offset,
}

impl Planner<'_> {
    /// What had been received at that time, by the last time mark of the lineage, or by a snapshot that existed then.
    pub(super) async fn offset_at(&self, unix_ms: i64) -> Result<Option<Offset>, RecoveryError> {
        let snapshots = self.bases().filter(|(_, base)| {
            matches!(base.kind, BaseKind::Sync) && base.created_unix_ms <= unix_ms
        });
        let by_snapshot = snapshots.map(|(_, base)| base.offset).max();
        let by_snapshot = by_snapshot.max(self.base_at(unix_ms));
        // A clock that had been ahead went back, in a later history.
        let mut went_back: Option<WentBack> = None;
        for (index, span) in self.spans.iter().enumerate() {
            let found = self.mark_at(*span, unix_ms).await?;
            let more = self.check_clock(*span, found, unix_ms).await?;
            let all = went_back.into_iter().chain(more);
            went_back = all.min_by_key(|back| back.to_unix_ms);
            if let Some(at @ Found { mark, .. }) = found {
                if let Some(back) = went_back {
                    self.check_ahead(index, at, unix_ms, back).await?;
                }
                return Ok(by_snapshot.max(Some(mark.offset.min(span.upto))));
            }
        }
        if let (Some(offset), Some(back)) = (by_snapshot, went_back) {
            // What came after the snapshot may have been received while the clock was ahead.
            let mark = TimeMark { unix_ms, offset };
            let snapshot = Found { mark, index: 0 };
            self.check_later(&self.spans, snapshot, unix_ms, back)
                .await?;
        }
        Ok(by_snapshot)
    }

    /// The objects that hold what a span of the lineage shares.
    fn log_of(&self, span: Span) -> &[LogObject] {
        let Some(history) = self.catalog.histories.get(&span.history) else {
            return &[];
        };
        let log = history.log.as_slice();
        let shared = log.partition_point(|object| Offset::before_byte(object.first()) < span.upto);
        log.get(..shared).unwrap_or_default()
    }

    /// The last mark of a span's log at or before that time, by binary search over the headers.
    async fn mark_at(&self, span: Span, unix_ms: i64) -> Result<Option<Found>, RecoveryError> {
        let log = self.log_of(span);
        let (mut low, mut high) = (0, log.len());
        let mut found = None;
        while low < high {
            let middle = low.midpoint(high);
            let probed = log.get(middle..high).unwrap_or_default();
            let Some((index, meta)) = self.first_marks(span, probed).await? else {
                high = middle;
                continue;
            };
            let index = middle.saturating_add(index);
            let last = meta.marks.iter().rev().find(|mark| mark.unix_ms <= unix_ms);
            if let Some(mark) = last {
                found = Some(Found { mark: *mark, index });
                low = index.saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(found)
    }

    /// The first of these segments that has marks. Whether damaged ones matter shows when the chain is walked.
    async fn first_marks(
        &self,
        span: Span,
        log: &[LogObject],
    ) -> Result<Option<(usize, SegmentMeta)>, RecoveryError> {
        for (index, object) in log.iter().enumerate() {
            match self.archive.entry_of(span.history, *object).await {
                Ok(Some(Entry::Segment(header))) if !header.meta.marks.is_empty() => {
                    let mut meta = header.meta;
                    // Behind the point where the lineage leaves this log, others received others.
                    let within = meta.marks.partition_point(|mark| mark.offset < span.upto);
                    meta.marks.truncate(within.saturating_add(1));
                    return Ok(Some((index, meta)));
                }
                Ok(_) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Refuses a time that the clock went back over. `found` is the last mark at or before it.
    ///
    /// A stretch in which marks are held lasts as long as the clock had been ahead, and what was received while it was
    /// ahead comes before. So if there is such a stretch for that time, one of these segments is in it: those at
    /// distances 1, 2, 4, … after `found`, and the last one.
    async fn check_clock(
        &self,
        span: Span,
        found: Option<Found>,
        unix_ms: i64,
    ) -> Result<Option<WentBack>, RecoveryError> {
        let first = found.map_or(0, |found| found.index);
        let mut last = self.log_of(span).len().saturating_sub(1);
        // A seal, or the bridge of a gap, has no marks.
        while last > first && self.meta_at(span, last).await?.is_none() {
            last = last.saturating_sub(1);
        }
        if let Some(found) = found
            && let Some(meta) = self.meta_at(span, first).await?
            && let Some(back) = meta.clock_back
        {
            let held = meta.marks.last().map_or(unix_ms, |mark| mark.unix_ms);
            return Err(self.names_no_point(span, Some(found), back, held, meta.end));
        }
        let (mut index, mut distance) = (first, 1_usize);
        // The first mark behind that time.
        let mut next = None;
        loop {
            if let Some(meta) = self.meta_at(span, index).await? {
                let mut later = meta.marks.iter().filter(|mark| mark.unix_ms > unix_ms);
                next = next.or_else(|| later.next().map(|mark| mark.unix_ms));
                let held = meta.marks.last().map(|mark| mark.unix_ms);
                if let (Some(held), Some(next), Some(back)) = (held, next, meta.clock_back)
                    && held > unix_ms
                {
                    let times = (unix_ms, next, held);
                    let back = self.check_held(span, found, times, back).await?;
                    // Otherwise it went back over other times. A later one may concern this one.
                    if back.is_some() {
                        return Ok(back);
                    }
                }
            }
            if index >= last {
                return Ok(None);
            }
            index = first.saturating_add(distance).min(last);
            distance = distance.saturating_mul(2);
        }
    }

    async fn meta_at(
        &self,
        span: Span,
        index: usize,
    ) -> Result<Option<SegmentMeta>, RecoveryError> {
        let log = self.log_of(span);
        let one = log.get(index..).unwrap_or_default();
        let one = one.get(..one.len().min(1)).unwrap_or_default();
        Ok(self.first_marks(span, one).await?.map(|(_, meta)| meta))
    }

    /// Marks were held at `held`, which is after that time. Is it a time that the clock went back over? `next` is the
    /// first mark after it.
    async fn check_held(
        &self,
        span: Span,
        found: Option<Found>,
        (unix_ms, next, held): (i64, i64, i64),
        back: ClockBack,
    ) -> Result<Option<WentBack>, RecoveryError> {
        // The segment with the first mark of `held` may have been cut before the clock went back, and so may the one before.
        let before = self.mark_at(span, held.saturating_sub(1)).await?;
        let from = before.map_or(0, |before| before.index);
        // It may have gone back several times, as writers differ: the furthest counts.
        let mut went_back = back;
        let further = |went_back: ClockBack, meta: Option<SegmentMeta>| {
            let other = meta.and_then(|meta| meta.clock_back);
            let all = other.into_iter().chain([went_back]);
            all.min_by_key(|back| back.to_unix_ms).unwrap_or(went_back)
        };
        for index in from..from.saturating_add(HELD_BEGINS_WITHIN) {
            went_back = further(went_back, self.meta_at(span, index).await?);
        }
        let Some(end) = self.mark_at(span, held).await? else {
            return Ok(None);
        };
        went_back = further(went_back, self.meta_at(span, end.index).await?);
        // Received after the clock went back, and before it came to the last mark again: when, nothing tells.
        let repeated = went_back.to_unix_ms <= unix_ms;
        // Between the last right time and a wrong one ahead of it.
        let skipped = unix_ms < went_back.to_unix_ms && went_back.to_unix_ms < next;
        let is_last = self.spans.last().map(|last| last.history) == Some(span.history);
        if !repeated && skipped && found.is_none() && !is_last {
            // It may have been right at that time: the marks of the parent tell.
            return Ok(Some(WentBack {
                span,
                to_unix_ms: went_back.to_unix_ms,
                held_unix_ms: held,
                upto: end.mark.offset,
            }));
        }
        if !repeated && !skipped {
            return Ok(None);
        }
        Err(self.names_no_point(span, found, went_back, held, end.mark.offset))
    }

    /// In a later history, the clock went back to a time behind the one that is asked for. Was it ahead already when what comes
    /// after `found` was received? That is the last mark at or before the time, in the span at `index`.
    async fn check_ahead(
        &self,
        index: usize,
        found: Found,
        unix_ms: i64,
        back: WentBack,
    ) -> Result<(), RecoveryError> {
        let to = back.to_unix_ms;
        let clock = ClockBack {
            to_unix_ms: to,
            now_unix_ms: to,
        };
        let (later, span) = self.spans.split_at(index.min(self.spans.len()));
        for span in span.iter().take(1) {
            let after = self.log_of(*span).get(found.index..).unwrap_or_default();
            let (here, behind) = after.split_at(after.len().min(1));
            for log in [here, behind] {
                if let Some(next) = self.first_later(*span, log, unix_ms).await? {
                    return match next <= to {
                        true => Ok(()),
                        false => {
                            Err(self.names_no_point(*span, Some(found), clock, next, span.upto))
                        }
                    };
                }
            }
        }
        // The next mark is in a later history.
        self.check_later(later, found, unix_ms, back).await
    }

    /// The same by the first mark in these later histories.
    async fn check_later(
        &self,
        later: &[Span],
        found: Found,
        unix_ms: i64,
        back: WentBack,
    ) -> Result<(), RecoveryError> {
        let to = back.to_unix_ms;
        for span in later.iter().rev() {
            if let Some(next) = self.first_later(*span, self.log_of(*span), unix_ms).await? {
                if next <= to {
                    break;
                }
                let held = back.held_unix_ms;
                let clock = ClockBack {
                    to_unix_ms: to,
                    now_unix_ms: to,
                };
                return Err(self.names_no_point(back.span, Some(found), clock, held, back.upto));
            }
        }
        Ok(())
    }

    /// The first mark after that time, if it is in the first of these segments that has marks.
    async fn first_later(
        &self,
        span: Span,
        log: &[LogObject],
        unix_ms: i64,
    ) -> Result<Option<i64>, RecoveryError> {
        let Some((_, meta)) = self.first_marks(span, log).await? else {
            return Ok(None);
        };
        let later = meta.marks.iter().find(|mark| mark.unix_ms > unix_ms);
        Ok(later.map(|mark| mark.unix_ms))
    }

    /// `found`: the last mark at or before the time. `upto`: the last byte that has a wrong time.
    fn names_no_point(
        &self,
        span: Span,
        found: Option<Found>,
        went_back: ClockBack,
        held: i64,
        upto: Offset,
    ) -> RecoveryError {
        let right = found.map(|found| found.mark);
        let from_time = right.map_or(went_back.to_unix_ms, |mark| {
            mark.unix_ms.min(went_back.to_unix_ms)
        });
        RecoveryError::ClockWentBack(Box::new(ClockWentBack {
            goal: self.recovery_target.to_string(),
            history: span.history,
            held: show_time(held),
            back: show_time(went_back.to_unix_ms),
            from_time: show_time(from_time),
            from: right.map_or(Offset(0), |mark| mark.offset),
            upto: upto.min(span.upto),
        }))
    }
}

/// The first segment after the clock went back is among this many segments, from the one with the last mark before a
/// held one.
const HELD_BEGINS_WITHIN: usize = 4;
