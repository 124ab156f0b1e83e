//! The bytes of a plan: the snapshot and the log after it, verified and read ahead.

use std::borrow::Cow;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::archive::{Archive, ArchiveError, BaseManifest, LogObject, RawStream};
use crate::log::segment::{Entry, SegmentHeader};
use crate::model::expiry::feed::FeedRewriter;
use crate::rebuild::{LogItem, Source};
use crate::recovery::error::RecoveryError;
use crate::recovery::pieces::Pieces;
use crate::recovery::plan::{Piece, Plan};
use crate::runtime::{self, pipe::pipe};
use crate::wire::position::{Offset, TimeMark};
use crate::wire::rdb::strip::{StripError, Stripper};
use crate::wire::resp::encode_command;

/// Bytes for a target, in order.
pub type Content = BoxStream<'static, Result<Bytes, RecoveryError>>;

/// Segments read at once: each costs a round trip to the store, and many are small.
const SEGMENTS_AHEAD: usize = 4;
/// Threads of the blocking pool that a restore holds. Each stream that is decompressed holds one until its end: those
/// that are read ahead, the one that is handed out, and the snapshot. Further threads read the files that they come
/// from. If none were left, all would wait for each other for ever.
pub const BLOCKING_READERS: usize = SEGMENTS_AHEAD + 2;
/// Larger segments are not read ahead whole, but as far as a reader of an object goes: two zstd frames of 1 MiB each,
/// and as much compressed. With the number above: at most 16 MiB.
const WHOLE_SEGMENT: u64 = 1 << 20;
/// Chunks that are read ahead of a slow target. A chunk is a zstd frame, mostly of 1 MiB.
const CHUNKS_AHEAD: usize = 2;

/// A snapshot, unchanged (`stripped` false) or without the position in the history that it came from.
///
/// Returns the length first, because `$<length>` is sent before the bytes.
pub async fn snapshot(
    archive: &Archive,
    base: &BaseManifest,
    stripped: bool,
) -> Result<(u64, Content), RecoveryError> {
    let mut raw = read_ahead(archive.read_base(base).await?);
    if !stripped {
        return Ok((base.raw_bytes, raw.map_err(RecoveryError::from).boxed()));
    }
    let mut stripper = Stripper::new(base.raw_bytes);
    let mut front = Vec::new();
    let length = loop {
        if let Some(length) = stripper.output_len() {
            break length;
        }
        let Some(chunk) = raw.next().await else {
            return Err(StripError::Length {
                expected: base.raw_bytes,
                found: 0,
            }
            .into());
        };
        front.push(stripper.push(chunk?)?);
    };
    let rest = stream::try_unfold(Some((raw, stripper)), |state| async move {
        let Some((mut raw, mut stripper)) = state else {
            return Ok(None);
        };
        Ok::<_, RecoveryError>(Some(match raw.next().await {
            Some(chunk) => (stripper.push(chunk?)?, Some((raw, stripper))),
            None => (stripper.finish()?, None),
        }))
    });
    let front = stream::iter(front.into_iter().map(Ok));
    let content = front
        .chain(rest)
        .try_filter(|chunk| std::future::ready(!chunk.is_empty()));
    Ok((length, content.boxed()))
}

/// What the log is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogForm {
    /// The bytes as they were received. Offsets stay true.
    Raw,
    /// To be replayed later, by a server or from append-only files. Relative expiries become absolute, newlines between
    /// commands are removed, and a `SELECT` comes first, unless the log begins in database 0.
    Replay,
}

/// The log of a plan, from the base to the end.
#[must_use]
pub fn log(archive: &Archive, plan: &Plan, form: LogForm) -> Content {
    match form {
        LogForm::Raw => {
            let items = items(archive, plan.pieces.clone(), false);
            let bytes = items.try_filter_map(|item| {
                std::future::ready(Ok(match item {
                    LogItem::Bytes(bytes) => Some(bytes),
                    LogItem::Marks(_) => None,
                }))
            });
            bytes.map_err(RecoveryError::from).boxed()
        }
        LogForm::Replay => replay(archive, plan),
    }
}

fn replay(archive: &Archive, plan: &Plan) -> Content {
    if plan.pieces.is_empty() {
        return stream::empty().boxed();
    }
    let select = select(plan.base.db);
    let times = plan.relative_ttls.then_some(plan.base.as_of_unix_ms());
    let rewriter = FeedRewriter::new(plan.start(), times);
    let items = items(archive, plan.pieces.clone(), plan.relative_ttls);
    let rewritten = stream::try_unfold((items, rewriter), |(mut items, mut rewriter)| async move {
        let Some(item) = items.next().await else {
            rewriter.finish()?;
            return Ok::<_, RecoveryError>(None);
        };
        let mut out = Vec::new();
        match item? {
            LogItem::Marks(marks) => rewriter.mark(&marks),
            LogItem::Bytes(bytes) => rewriter.push(&bytes, &mut out)?,
        }
        Ok(Some((Bytes::from(out), (items, rewriter))))
    });
    let select = stream::iter(select.map(Ok));
    select
        .chain(rewritten)
        .try_filter(|chunk| std::future::ready(!chunk.is_empty()))
        .boxed()
}

/// `SELECT db`, where the feed does not say itself which database it begins in.
fn select(db: u32) -> Option<Bytes> {
    (db != 0).then(|| {
        let mut out = Vec::new();
        encode_command(&[b"SELECT", db.to_string().as_bytes()], &mut out);
        Bytes::from(out)
    })
}

/// The snapshot and the log of a plan, to make a new snapshot from.
#[must_use]
pub fn source(archive: &Archive, plan: &Plan) -> Source {
    let (from, pieces) = (archive.clone(), plan.pieces.clone());
    let marks = plan.relative_ttls;
    Source {
        archive: archive.clone(),
        base: plan.base.clone(),
        log: Box::new(move || items(&from, pieces.clone(), marks)),
        least_version: None,
    }
}

fn items(
    archive: &Archive,
    pieces: Pieces,
    with_marks: bool,
) -> BoxStream<'static, Result<LogItem, ArchiveError>> {
    let archive = archive.clone();
    let opened = stream::iter(pieces.iter()).map(move |piece| {
        let archive = archive.clone();
        async move {
            let piece = piece?;
            let marks = if with_marks && piece.relative_ttls {
                let header = piece.stored_header(&archive).await?;
                let marks = marks_of(&header.meta.marks, piece.after, piece.upto);
                vec![Ok(LogItem::Marks(marks))]
            } else {
                Vec::new()
            };
            let bytes = piece_bytes(&archive, &piece).await?;
            let raw_length = piece.header.meta.end.since(piece.header.meta.start);
            let bytes = if raw_length <= WHOLE_SEGMENT {
                let chunks: Vec<Bytes> = bytes.try_collect().await?;
                stream::iter(chunks.into_iter().map(Ok)).boxed()
            } else {
                bytes
            };
            Ok::<_, ArchiveError>(stream::iter(marks).chain(bytes.map_ok(LogItem::Bytes)))
        }
    });
    read_ahead(opened.buffered(SEGMENTS_AHEAD).try_flatten().boxed())
}

impl Piece {
    /// The header as it is stored: from memory if it is there, else it is read again.
    pub(crate) async fn stored_header(
        &self,
        archive: &Archive,
    ) -> Result<Cow<'_, SegmentHeader>, ArchiveError> {
        if self.has_marks {
            return Ok(Cow::Borrowed(&self.header));
        }
        let meta = &self.header.meta;
        let object = LogObject::of_header(&self.header);
        match archive.entry_of(meta.history, object).await? {
            Some(Entry::Segment(header)) => Ok(Cow::Owned(header)),
            Some(Entry::Seal(_)) | None => Err(ArchiveError::Missing {
                object: format!(
                    "the segment of history {} from byte {}",
                    meta.history,
                    meta.start.next_byte()
                ),
            }),
        }
    }
}

/// The marks after an offset, up to one at which another history may continue. There, the offsets beyond it have other bytes,
/// and other times.
fn marks_of(marks: &[TimeMark], after: Offset, upto: Offset) -> Vec<TimeMark> {
    // The last one before may stand for what comes after it, if no other does.
    let before = marks.partition_point(|mark| mark.offset <= after);
    let marks = marks.get(before.saturating_sub(1)..).unwrap_or_default();
    let within = marks.partition_point(|mark| mark.offset < upto);
    let mut marks: Vec<TimeMark> = marks
        .iter()
        .take(within.saturating_add(1))
        .copied()
        .collect();
    if let Some(last) = marks.last_mut() {
        last.offset = last.offset.min(upto);
    }
    marks
}

/// The wanted bytes of a segment, which is read to its end, so that its checksum is verified; or of a span, which has one for
/// each frame.
pub(crate) async fn piece_bytes(
    archive: &Archive,
    piece: &Piece,
) -> Result<RawStream, ArchiveError> {
    archive
        .read_part(&piece.header, piece.after, piece.upto)
        .await
}

/// Goes on reading while the consumer is busy with its own socket.
fn read_ahead<T: Send + 'static>(
    mut from: BoxStream<'static, Result<T, ArchiveError>>,
) -> BoxStream<'static, Result<T, ArchiveError>> {
    let (sender, receiver) = pipe(CHUNKS_AHEAD);
    runtime::spawn(async move {
        while let Some(item) = from.next().await {
            if sender.send(item).await.is_err() {
                return; // nobody wants it any more
            }
        }
        sender.end().await;
    });
    receiver.into_stream()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_the_point_where_a_log_is_left_its_times_do_not_count() {
        let mark = |unix_ms, offset| TimeMark {
            unix_ms,
            offset: Offset(offset),
        };
        let marks = [mark(1, 100), mark(2, 200), mark(3, 300)];
        for (upto, left) in [
            (300, &[mark(1, 100), mark(2, 200), mark(3, 300)][..]),
            (201, &[mark(1, 100), mark(2, 200), mark(3, 201)]),
            (200, &[mark(1, 100), mark(2, 200)]),
            (50, &[mark(1, 50)]),
        ] {
            assert_eq!(marks_of(&marks, Offset(0), Offset(upto)), left, "{upto}");
        }
        assert_eq!(marks_of(&[], Offset(0), Offset(5)), []);
    }
}
