//! What a span has beyond a segment: an index of its frames, and time marks that take little room.
//!
//! A span is many segments merged into one object. It is a segment in every respect ([`super::segment`]): one header
//! frame, then frames of raw RESP. Each frame but the last holds exactly [`FRAME_RAW_LIMIT`] bytes of the feed. The
//! index says how long each frame is as stored, and the CRC-64 of its raw bytes. So a reader can begin in the middle,
//! and what it reads is proved as well as the whole.

use std::ops::Range;

use bytes::Bytes;

use super::frames::{FrameDecoder, FrameEncoder, FrameError};
use super::segment::{FRAME_RAW_LIMIT, SegmentError, SegmentHeader, SegmentMeta};
use crate::runtime::buffers::Buffers;
use crate::wire::crc64::Crc64;
use crate::wire::position::{Offset, TimeMark};

/// Raw bytes of a span, at most, if it is made of more than one segment.
pub const SPAN_RAW_LIMIT: u64 = 64 << 20;
/// Time marks of a span, at most, if it is made of more than one segment.
pub const SPAN_MARKS_LIMIT: usize = 20_000;
/// The longest text of a mark and of a frame in a header: two numbers of 20 digits; a number and a checksum.
const MARK_TEXT: usize = 42;
const FRAME_TEXT: usize = 42;
const _: () = assert!(
    SPAN_MARKS_LIMIT * MARK_TEXT + (SPAN_RAW_LIMIT as usize / FRAME_RAW_LIMIT) * FRAME_TEXT
        < super::segment::HEADER_LIMIT / 10 * 9
);

/// A frame of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its length in the object, in bytes.
    pub stored: u64,
    /// CRC-64/REDIS of its raw bytes.
    pub crc64: u64,
}

/// The frames of a span, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameIndex {
    /// Where the first of them begins in the object: the length of the header frame.
    pub(super) payload_at: u64,
    pub(super) frames: Vec<Frame>,
}

impl FrameIndex {
    /// `raw` and `stored`: the bytes of all frames together, as the header says.
    pub(super) fn new(
        payload_at: u64,
        frames: Vec<Frame>,
        raw: u64,
        stored: u64,
    ) -> Result<Self, SegmentError> {
        let wrong = SegmentError::Inconsistent("its index of frames is not that of its payload");
        let sum = frames
            .iter()
            .try_fold(0_u64, |sum, frame| sum.checked_add(frame.stored));
        let is_right = raw.div_ceil(FRAME_RAW_LIMIT as u64) == frames.len() as u64
            && sum == Some(stored)
            && frames.iter().all(|frame| frame.stored > 0);
        match is_right {
            true => Ok(Self { payload_at, frames }),
            false => Err(wrong),
        }
    }

    /// That of a span whose frames are not known.
    pub(crate) fn unknown() -> Self {
        Self {
            payload_at: 0,
            frames: Vec::new(),
        }
    }

    /// The frames that hold the raw bytes of `wanted`, counted from the first byte of the span.
    fn part(&self, wanted: &Range<u64>) -> (Range<usize>, Range<u64>) {
        let frame = |byte: u64| usize::try_from(byte).unwrap_or(usize::MAX);
        const FRAME_RAW: u64 = FRAME_RAW_LIMIT as u64;
        let first = frame(wanted.start / FRAME_RAW).min(self.frames.len());
        let end = frame(wanted.end.div_ceil(FRAME_RAW));
        let end = end.clamp(first, self.frames.len());
        let length = |frames: &[Frame]| {
            let lengths = frames.iter().map(|frame| frame.stored);
            lengths.fold(0, u64::saturating_add)
        };
        let before = length(self.frames.get(..first).unwrap_or_default());
        let within = length(self.frames.get(first..end).unwrap_or_default());
        let from = self.payload_at.saturating_add(before);
        (first..end, from..from.saturating_add(within))
    }
}

/// Makes the payload of a span from the feed's bytes, pushed in pieces of any size. The same bytes make the same
/// payload, whatever the pieces.
pub struct SpanEncoder {
    encoder: FrameEncoder,
    frame: Vec<u8>,
    raw: u64,
    crc: Crc64,
    stored: u64,
    stored_crc: Crc64,
    frames: Vec<Frame>,
}

impl SpanEncoder {
    /// `level` is zstd's.
    pub fn new(level: i32) -> Result<Self, SegmentError> {
        let encoder =
            FrameEncoder::new(level).map_err(|error| SegmentError::Compress(error.to_string()))?;
        Ok(Self {
            encoder,
            frame: Vec::new(),
            raw: 0,
            crc: Crc64::new(),
            stored: 0,
            stored_crc: Crc64::new(),
            frames: Vec::new(),
        })
    }

    /// Takes in the next bytes of the feed. `out` gets stored bytes in order, a frame at a time.
    pub fn push(&mut self, raw: &[u8], out: &mut impl FnMut(Bytes)) -> Result<(), SegmentError> {
        self.crc.update(raw);
        self.raw = self.raw.saturating_add(raw.len() as u64);
        let mut rest = raw;
        while !rest.is_empty() {
            let room = FRAME_RAW_LIMIT.saturating_sub(self.frame.len());
            let (head, tail) = rest.split_at(room.min(rest.len()));
            self.frame.extend_from_slice(head);
            rest = tail;
            if self.frame.len() == FRAME_RAW_LIMIT {
                out(self.end_frame()?);
            }
        }
        Ok(())
    }

    /// The payload has ended: its header, and the frame of that. `meta` must be that of the bytes that were pushed.
    pub fn finish(
        mut self,
        meta: SegmentMeta,
        out: &mut impl FnMut(Bytes),
    ) -> Result<(SegmentHeader, Bytes), SegmentError> {
        if !self.frame.is_empty() {
            out(self.end_frame()?);
        }
        if self.raw != meta.end.since(meta.start) {
            return Err(SegmentError::Inconsistent(
                "it has another number of bytes than its range",
            ));
        }
        let index = FrameIndex::new(0, self.frames, self.raw, self.stored)?;
        super::segment::span_header(SegmentHeader {
            meta,
            payload_crc64: self.crc.value(),
            payload_stored: self.stored,
            stored_crc64: self.stored_crc.value(),
            index: Some(index),
        })
    }

    fn end_frame(&mut self) -> Result<Bytes, SegmentError> {
        let stored = self.encoder.frame(&self.frame);
        let stored = stored.map_err(|error| SegmentError::Compress(error.to_string()))?;
        self.stored = self.stored.saturating_add(stored.len() as u64);
        self.stored_crc.update(&stored);
        self.frames.push(Frame {
            stored: stored.len() as u64,
            crc64: Crc64::of(&self.frame),
        });
        self.frame.clear();
        Ok(stored.into())
    }
}

/// Reads a part of a span in bounded memory. What it hands out has passed the checksums of its frame.
pub struct PartReader {
    decoder: FrameDecoder,
    /// Those that were not read yet, the next one last.
    left: Vec<(Frame, u64)>,
    /// Raw bytes that are not wanted before the part.
    skip: u64,
    /// Raw bytes that are wanted.
    take: u64,
}

impl PartReader {
    /// A reader for the bytes after `after` up to `upto` of the span with this header, and the range of the object that
    /// has to be pushed. None: it is no span, or has none of these bytes.
    pub fn new(
        header: &SegmentHeader,
        (after, upto): (Offset, Offset),
        buffers: Buffers,
    ) -> Result<Option<(Self, Range<u64>)>, SegmentError> {
        let (start, end) = (header.meta.start, header.meta.end);
        let (after, upto) = (after.max(start), upto.min(end));
        let Some(index) = header.index.as_ref().filter(|_| after < upto) else {
            return Ok(None);
        };
        let wanted = after.since(start)..upto.since(start);
        let (frames, range) = index.part(&wanted);
        let raw = end.since(start);
        let begins = |frame: usize| (frame as u64).saturating_mul(FRAME_RAW_LIMIT as u64);
        let skip = wanted.start.saturating_sub(begins(frames.start));
        let left = frames.rev().filter_map(|at| {
            let length = raw.saturating_sub(begins(at)).min(FRAME_RAW_LIMIT as u64);
            Some((*index.frames.get(at)?, length))
        });
        let decoder = FrameDecoder::with(FRAME_RAW_LIMIT, buffers);
        let reader = Self {
            decoder: decoder.map_err(damaged)?,
            left: left.collect(),
            skip,
            take: upto.since(after),
        };
        Ok(Some((reader, range)))
    }

    /// Takes in the next bytes of the object. `out` gets raw bytes in order. After an error nothing more may be pushed.
    pub fn push(&mut self, bytes: &[u8], out: &mut impl FnMut(Bytes)) -> Result<(), SegmentError> {
        let Self {
            decoder,
            left,
            skip,
            take,
        } = self;
        let mut wrong = None;
        let pushed = decoder.push(bytes, &mut |mut frame: Bytes| {
            let is_right = left.pop().is_some_and(|(expected, length)| {
                frame.len() as u64 == length && Crc64::of(&frame) == expected.crc64
            });
            if !is_right || wrong.is_some() {
                wrong = Some(SegmentError::PayloadMismatch(
                    "a zstd frame is not the one of its index".to_owned(),
                ));
                return;
            }
            let skipped = usize::try_from(*skip).unwrap_or(usize::MAX);
            let skipped = frame.split_to(skipped.min(frame.len()));
            *skip = skip.saturating_sub(skipped.len() as u64);
            frame.truncate(usize::try_from(*take).unwrap_or(usize::MAX));
            *take = take.saturating_sub(frame.len() as u64);
            if !frame.is_empty() {
                out(frame);
            }
        });
        pushed.map_err(damaged)?;
        wrong.map_or(Ok(()), Err)
    }

    /// The range has ended: was it whole?
    pub fn finish(self) -> Result<(), SegmentError> {
        let is_whole = self.left.is_empty() && self.take == 0 && !self.decoder.within_frame();
        match is_whole {
            true => Ok(()),
            false => Err(SegmentError::PayloadDamaged(
                "its zstd frames end early".to_owned(),
            )),
        }
    }
}

fn damaged(error: FrameError) -> SegmentError {
    SegmentError::PayloadDamaged(error.to_string())
}

/// Time marks as two lists of numbers: the first one as it is, each later one as the difference from the one before.
pub(super) fn marks_to_numbers(marks: &[TimeMark]) -> (Vec<i64>, Vec<u64>) {
    let (mut time, mut offset) = (0_i64, 0_u64);
    let numbers = marks.iter().map(|mark| {
        let both = (
            mark.unix_ms.wrapping_sub(time),
            mark.offset.0.wrapping_sub(offset),
        );
        (time, offset) = (mark.unix_ms, mark.offset.0);
        both
    });
    numbers.unzip()
}

/// The way back.
pub(super) fn marks_of_numbers(
    times: &[i64],
    offsets: &[u64],
) -> Result<Vec<TimeMark>, SegmentError> {
    let wrong = SegmentError::Inconsistent("its time marks are no marks");
    if times.len() != offsets.len() {
        return Err(wrong);
    }
    let (mut time, mut offset) = (0_i64, 0_u64);
    let mut marks = Vec::with_capacity(times.len());
    for (later, more) in times.iter().zip(offsets) {
        // Only a difference between the ends of time wraps around.
        time = time.wrapping_add(*later);
        offset = offset.checked_add(*more).ok_or(wrong.clone())?;
        marks.push(TimeMark {
            unix_ms: time,
            offset: Offset(offset),
        });
    }
    Ok(marks)
}

#[cfg(test)]
#[path = "span_tests.rs"]
mod tests;
