//! The JSON of a header.

use serde::{Deserialize, Serialize};

use super::{ClockBack, Entry, SealHeader, SegmentError, SegmentHeader, SegmentMeta, check};
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
            crc64: format!("{:016x}", header.payload_crc64),
            stored: header.payload_stored,
            stored_crc64: format!("{:016x}", header.stored_crc64),
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

    pub(super) fn into_entry(self) -> Result<Entry, SegmentError> {
        match self {
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
                    clock_back: clock_back.map(|(to_unix_ms, now_unix_ms)| ClockBack {
                        to_unix_ms,
                        now_unix_ms,
                    }),
                    writer,
                };
                check(&meta)?;
                Ok(Entry::Segment(SegmentHeader {
                    meta,
                    payload_crc64: u64::from_str_radix(&crc64, 16)
                        .map_err(|_| SegmentError::Inconsistent("its checksum is no number"))?,
                    payload_stored: stored,
                    stored_crc64: u64::from_str_radix(&stored_crc64, 16)
                        .map_err(|_| SegmentError::Inconsistent("its checksum is no number"))?,
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
