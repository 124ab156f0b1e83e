//! Which offset a time means: by the time marks in the headers of the log.

use super::{Planner, Span};
use crate::archive::BaseKind;
use crate::position::{Offset, ReplId, TimeMark};
use crate::restore::error::{RestoreError, is_damage};
use crate::segment::Entry;

impl Planner<'_> {
    /// What had been received at that time: the last time mark of the lineage, or a snapshot that existed by then.
    pub(super) async fn offset_at(&self, unix_ms: i64) -> Result<Option<Offset>, RestoreError> {
        let snapshots = self.bases().filter(|(_, base)| {
            matches!(base.kind, BaseKind::Sync) && base.created_unix_ms <= unix_ms
        });
        let by_snapshot = snapshots.map(|(_, base)| base.offset).max();
        for span in &self.spans {
            if let Some(mark) = self.mark_at(*span, unix_ms).await? {
                return Ok(by_snapshot.max(Some(mark.offset.min(span.upto))));
            }
        }
        Ok(by_snapshot)
    }

    /// The last mark of a span's log at or before that time, by binary search over the headers.
    async fn mark_at(&self, span: Span, unix_ms: i64) -> Result<Option<TimeMark>, RestoreError> {
        let Some(history) = self.catalog.histories.get(&span.history) else {
            return Ok(None);
        };
        let log = history.log.as_slice();
        let shared = log.partition_point(|first| Offset::before_byte(*first) < span.upto);
        let (mut low, mut high) = (0, shared);
        let mut found = None;
        while low < high {
            let middle = low.midpoint(high);
            let probed = log.get(middle..high).unwrap_or_default();
            let Some((index, marks)) = self.first_marks(span.history, probed).await? else {
                high = middle;
                continue;
            };
            let last = marks.iter().rev().find(|mark| mark.unix_ms <= unix_ms);
            if let Some(mark) = last {
                found = Some(*mark);
                low = middle.saturating_add(index).saturating_add(1);
            } else {
                high = middle;
            }
        }
        Ok(found)
    }

    /// The marks of the first of these segments that has any. Whether damaged ones matter shows when the chain is walked.
    async fn first_marks(
        &self,
        history: ReplId,
        log: &[u64],
    ) -> Result<Option<(usize, Vec<TimeMark>)>, RestoreError> {
        for (index, first) in log.iter().enumerate() {
            match self.archive.entry(history, *first).await {
                Ok(Some(Entry::Segment(header))) if !header.meta.marks.is_empty() => {
                    return Ok(Some((index, header.meta.marks)));
                }
                Ok(_) => {}
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }
}
