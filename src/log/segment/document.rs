//! The JSON of a header.

use serde::{Deserialize, Serialize};

use super::{ClockBack, Entry, SealHeader, SegmentError, SegmentHeader, SegmentMeta, check};
use crate::log::span::{Frame, FrameIndex, marks_of_numbers, marks_to_numbers};
use crate::wire::position::{Boundary, Offset, ReplId, TimeMark};

/// The JSON header.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub(super) enum Document {
    Segment {
        history: ReplId,
        from: u64,
        to: u64,
        db: u32,
        starts_at_boundary: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boundary: Option<Boundary>,
        /// `[unix ms, offset]`, short because there are many.
        #[serde(default)]
        marks: Vec<(i64, u64)>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock_back: Option<(i64, i64)>,
        #[serde(default)]
        writer: String,
        /// Hexadecimal, like the other one.
        crc64: String,
        stored: u64,
        stored_crc64: String,
    },
    Span {
        history: ReplId,
        from: u64,
        to: u64,
        db: u32,
        starts_at_boundary: bool,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boundary: Option<Boundary>,
        /// Time marks: Unix milliseconds, each but the first as the difference from the one before.
        #[serde(default)]
        times: Vec<i64>,
        /// Their offsets, in the same way.
        #[serde(default)]
        offsets: Vec<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        clock_back: Option<(i64, i64)>,
        #[serde(default)]
        writer: String,
        crc64: String,
        stored: u64,
        stored_crc64: String,
        /// Of each frame: its length in the object, and the CRC-64 of its raw bytes.
        frames: Vec<(u64, String)>,
    },
    Seal {
        history: ReplId,
        from: u64,
        #[serde(default)]
        reason: String,
        #[serde(default)]
        writer: String,
        sealed_unix_ms: i64,
    },
}

impl Document {
    pub(super) fn of_segment(header: &SegmentHeader) -> Self {
        let meta = &header.meta;
        if let Some(index) = &header.index {
            return Self::of_span(header, index);
        }
        Self::Segment {
            history: meta.history,
            from: meta.start.next_byte(),
            to: meta.end.0,
            db: meta.db_at_start,
            starts_at_boundary: meta.starts_at_boundary,
            boundary: meta.boundary,
            marks: meta
                .marks
                .iter()
                .map(|mark| (mark.unix_ms, mark.offset.0))
                .collect(),
            clock_back: meta
                .clock_back
                .map(|back| (back.to_unix_ms, back.now_unix_ms)),
            writer: meta.writer.clone(),
            crc64: hexadecimal(header.payload_crc64),
            stored: header.payload_stored,
            stored_crc64: hexadecimal(header.stored_crc64),
        }
    }

    fn of_span(header: &SegmentHeader, index: &FrameIndex) -> Self {
        let meta = &header.meta;
        let (times, offsets) = marks_to_numbers(&meta.marks);
        let frames = index.frames.iter();
        Self::Span {
            history: meta.history,
            from: meta.start.next_byte(),
            to: meta.end.0,
            db: meta.db_at_start,
            starts_at_boundary: meta.starts_at_boundary,
            boundary: meta.boundary,
            times,
            offsets,
            clock_back: meta
                .clock_back
                .map(|back| (back.to_unix_ms, back.now_unix_ms)),
            writer: meta.writer.clone(),
            crc64: hexadecimal(header.payload_crc64),
            stored: header.payload_stored,
            stored_crc64: hexadecimal(header.stored_crc64),
            frames: frames
                .map(|frame| (frame.stored, hexadecimal(frame.crc64)))
                .collect(),
        }
    }

    pub(super) fn of_seal(seal: &SealHeader) -> Self {
        Self::Seal {
            history: seal.history,
            from: seal.start.next_byte(),
            reason: seal.reason.clone(),
            writer: seal.writer.clone(),
            sealed_unix_ms: seal.sealed_unix_ms,
        }
    }

    /// `header_bytes`: the length of the header frame.
    pub(super) fn into_entry(self, header_bytes: u64) -> Result<Entry, SegmentError> {
        match self {
            Self::Span {
                history,
                from,
                to,
                db,
                starts_at_boundary,
                boundary,
                times,
                offsets,
                clock_back,
                writer,
                crc64,
                stored,
                stored_crc64,
                frames,
            } => {
                let meta = SegmentMeta {
                    history,
                    start: offset_before(from)?,
                    end: Offset(to),
                    db_at_start: db,
                    starts_at_boundary,
                    boundary,
                    marks: marks_of_numbers(&times, &offsets)?,
                    clock_back: clock_back.map(of_pair),
                    writer,
                };
                check(&meta)?;
                let frames = frames.into_iter().map(|(stored, crc64)| {
                    let crc64 = checksum(&crc64)?;
                    Ok(Frame { stored, crc64 })
                });
                let frames: Vec<Frame> = frames.collect::<Result<_, SegmentError>>()?;
                let raw = meta.end.since(meta.start);
                let index = FrameIndex::new(header_bytes, frames, raw, stored)?;
                Ok(Entry::Segment(SegmentHeader {
                    meta,
                    payload_crc64: checksum(&crc64)?,
                    payload_stored: stored,
                    stored_crc64: checksum(&stored_crc64)?,
                    index: Some(index),
                }))
            }
            Self::Segment {
                history,
                from,
                to,
                db,
                starts_at_boundary,
                boundary,
                marks,
                clock_back,
                writer,
                crc64,
                stored,
                stored_crc64,
            } => {
                let meta = SegmentMeta {
                    history,
                    start: offset_before(from)?,
                    end: Offset(to),
                    db_at_start: db,
                    starts_at_boundary,
                    boundary,
                    marks: marks.into_iter().map(time_mark).collect(),
                    clock_back: clock_back.map(of_pair),
                    writer,
                };
                check(&meta)?;
                Ok(Entry::Segment(SegmentHeader {
                    meta,
                    payload_crc64: checksum(&crc64)?,
                    payload_stored: stored,
                    stored_crc64: checksum(&stored_crc64)?,
                    index: None,
                }))
            }
            Self::Seal {
                history,
                from,
                reason,
                writer,
                sealed_unix_ms,
            } => Ok(Entry::Seal(SealHeader {
                history,
                start: offset_before(from)?,
                reason,
                writer,
                sealed_unix_ms,
            })),
        }
    }
}

fn hexadecimal(checksum: u64) -> String {
    format!("{checksum:016x}")
}

fn checksum(text: &str) -> Result<u64, SegmentError> {
    u64::from_str_radix(text, 16)
        .map_err(|_| SegmentError::Inconsistent("its checksum is no number"))
}

fn of_pair((to_unix_ms, now_unix_ms): (i64, i64)) -> ClockBack {
    ClockBack {
        to_unix_ms,
        now_unix_ms,
    }
}

fn offset_before(first_byte: u64) -> Result<Offset, SegmentError> {
    if first_byte == 0 {
        return Err(SegmentError::Inconsistent("bytes count from 1"));
    }
    Ok(Offset::before_byte(first_byte))
}

pub(super) fn time_mark((unix_ms, offset): (i64, u64)) -> TimeMark {
    TimeMark {
        unix_ms,
        offset: Offset(offset),
    }
}
