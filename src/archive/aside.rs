//! Reading a span from the segments that it was made of, where they still stand and the span cannot be read.
//!
//! Segments that stand are the first copy of what a span holds. So a span that is damaged hides nothing. Whoever is to prove a
//! span reads it [`strictly`](Archive::strictly).
//!
//! Only segments that were created before the span count, by the clock of the store. What a sleeper creates under a name that was
//! freed ([`super::fence`]) is younger: a name is freed when a span with its bytes is as old as the grace.

use futures::stream;
use futures::{StreamExt, TryStreamExt};

use super::kept::IN_FLIGHT;
use super::log::cut;
use super::names::{self, Name};
use super::other_copy::{OtherCopy, or_other_copy};
use super::run::Run;
use super::{Archive, ArchiveError, LogObject, RawStream};
use crate::log::segment::{Entry, SegmentHeader};
use crate::log::span::FrameIndex;
use crate::store::{Created, Listing};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Offset, ReplId};

impl Archive {
    /// The same archive for whoever proves spans: what is wrong with one is an error, even if its segments still stand.
    #[must_use]
    pub fn strictly(&self) -> Self {
        Self {
            strict: true,
            ..self.clone()
        }
    }

    /// The segments that a span is made of, if all of them stand.
    ///
    /// # Errors
    /// [`ArchiveError::Store`].
    pub(super) async fn segments_of(
        &self,
        history: ReplId,
        span: LogObject,
    ) -> Result<Option<Run>, ArchiveError> {
        let Some(last) = span.last() else {
            return Ok(None);
        };
        let created = self.created_of(&span.name(history).to_string()).await?;
        let is_older = |at: Created| match (at, created) {
            (Some(at), Some(Some(created))) => at <= created,
            // A store that says no times keeps everything. A span that is gone was withdrawn when it was young.
            (None, Some(None)) | (_, None) => true,
            _ => false,
        };
        let prefix = names::log(history);
        let first = LogObject::segment(span.first()).name(history).to_string();
        let mut listed = self
            .store
            .list_with(Listing::of(&prefix).from(&first))
            .await;
        let mut firsts = Vec::new();
        while let Some(object) = listed.try_next().await? {
            let Some(Name::Log { first_byte, .. }) = Name::parse(&object.name) else {
                continue;
            };
            if first_byte > last {
                break;
            }
            if is_older(object.created) {
                firsts.push(first_byte);
            }
        }
        let mut entries = stream::iter(firsts.clone())
            .map(|first| async move { self.entry(history, first).await })
            .buffered(IN_FLIGHT);
        let mut nexts = firsts.into_iter().skip(1).chain([last.saturating_add(1)]);
        let (mut run, mut at) = (Run::of(Vec::new()), Offset::before_byte(span.first()));
        while let Some(entry) = entries.next().await {
            let next = nexts.next().unwrap_or_default();
            let header = match entry {
                Err(error) if error.is_unreadable() => return Ok(None),
                Err(error) => return Err(error),
                Ok(Some(Entry::Segment(header))) => header,
                Ok(_) => continue,
            };
            if header.meta.end.0 >= next {
                // It is stale.
                continue;
            }
            if header.meta.start != at || header.is_gap() {
                return Ok(None);
            }
            at = header.meta.end;
            run.push(header);
        }
        Ok((at.0 == last).then_some(run))
    }

    /// When an object was created. None: it is not there.
    pub(super) async fn created_of(&self, object: &str) -> Result<Option<Created>, ArchiveError> {
        let one = Listing::of(object).pages_of(1);
        let found = self.store.list_with(one).await.try_next().await?;
        let found = found.filter(|found| found.name == object);
        Ok(found.map(|found| found.created))
    }

    /// The header that a span has or should have, by its segments. What it says of the payload is not known: it is read from
    /// them.
    pub(super) async fn header_aside(
        &self,
        history: ReplId,
        span: LogObject,
    ) -> Result<Option<SegmentHeader>, ArchiveError> {
        if self.strict {
            return Ok(None);
        }
        let Some(run) = self.segments_of(history, span).await? else {
            return Ok(None);
        };
        tracing::warn!(
            object = %span.name(history),
            "a span cannot be read. It is read from its segments, which are still there. `backfeed verify` says more"
        );
        let stored = run.stored();
        Ok(run.meta("").map(|meta| SegmentHeader {
            meta,
            payload_crc64: 0,
            payload_stored: stored,
            stored_crc64: 0,
            index: Some(FrameIndex::unknown()),
        }))
    }

    /// The bytes of a span after `after` up to `upto`, which `opened` has, and what is lost of it from its segments.
    pub(super) fn or_aside(
        &self,
        header: &SegmentHeader,
        (after, upto): (Offset, Offset),
        opened: Result<RawStream, ArchiveError>,
    ) -> Result<RawStream, ArchiveError> {
        if self.strict {
            return opened;
        }
        let stream = match opened {
            Err(error) if error.is_unreadable() => stream::iter([Err(error)]).boxed(),
            opened => opened?,
        };
        let after = after.max(header.meta.start);
        let segments = Segments {
            archive: self.clone(),
            history: header.meta.history,
            span: LogObject::of_header(header),
            after,
            crc: Crc64::new(),
            upto: upto.min(header.meta.end),
        };
        Ok(or_other_copy(stream, after, segments))
    }

    async fn bytes_aside(
        &self,
        (history, span): (ReplId, LogObject),
        at: Offset,
        upto: Offset,
    ) -> Result<Option<RawStream>, ArchiveError> {
        let Some(run) = self.segments_of(history, span).await? else {
            return Ok(None);
        };
        let wanted = run.into_segments().into_iter();
        let wanted: Vec<SegmentHeader> = wanted
            .filter(|header| header.meta.end > at && header.meta.start < upto)
            .collect();
        let archive = self.clone();
        let bytes = stream::iter(wanted)
            .then(move |header| {
                let archive = archive.clone();
                async move {
                    let start = header.meta.start;
                    let raw = archive.open_segment(&header).await?;
                    Ok::<_, ArchiveError>(cut(raw, start, at, upto))
                }
            })
            .try_flatten();
        Ok(Some(bytes.boxed()))
    }
}

/// The segments of a span that may turn out to be damaged while it is read.
struct Segments {
    archive: Archive,
    history: ReplId,
    span: LogObject,
    /// From here on its bytes were handed out, and their checksum.
    after: Offset,
    crc: Crc64,
    upto: Offset,
}

impl OtherCopy for Segments {
    fn pass(&mut self, chunk: &[u8]) {
        self.crc.update(chunk);
    }

    fn may_have(&self, error: &ArchiveError, _: Offset) -> bool {
        error.is_unreadable()
    }

    /// What was not handed out yet, if the segments have what was.
    async fn rest(
        &self,
        at: Offset,
        error: &ArchiveError,
    ) -> Result<Option<RawStream>, ArchiveError> {
        let object = (self.history, self.span);
        let before = self.archive.bytes_aside(object, self.after, at).await?;
        let Some(mut before) = before else {
            return Ok(None);
        };
        let mut crc = Crc64::new();
        while let Some(chunk) = before.try_next().await? {
            crc.update(&chunk);
        }
        if crc.value() != self.crc.value() {
            return Ok(None);
        }
        let rest = self.archive.bytes_aside(object, at, self.upto).await?;
        if rest.is_some() {
            tracing::warn!(
                %error,
                "a span cannot be read. It is read from its segments, which are still there"
            );
        }
        Ok(rest)
    }
}

#[cfg(test)]
#[path = "aside_tests.rs"]
mod tests;
