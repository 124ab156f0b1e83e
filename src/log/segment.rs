//! The log segment format: a piece of the feed, or the seal of a log, as one object.
//!
//! ```text
//! skippable zstd frame   u32le 0x184D2A5B, u32le length of what follows up to the end of the frame
//!                        8 bytes BACKFEED, u16le format version, JSON header,
//!                        u64le CRC-64/REDIS of the frame's content before it
//! zstd frames            the feed's bytes, raw RESP, at most 1 MiB in each frame (none in a seal)
//! ```
//!
//! `zstd -dc` skips the first frame (RFC 8878, section 3.1.2) and gives only the RESP. In the JSON, `from` is the
//! number of the first byte and `to` that of the last (the first byte of a feed is number 1). In memory, `start` is
//! exclusive and `end` inclusive, as offsets are.

mod document;

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use crate::log::frames::{FrameDecoder, FrameEncoder, FrameError};
use crate::log::span::FrameIndex;
use crate::runtime::buffers::Buffers;
use crate::wire::crc64::Crc64;
use crate::wire::position::{Boundary, Offset, ReplId, TimeMark};

use self::document::Document;

/// The newest format version that this build reads, and the one it writes.
pub const FORMAT_VERSION: u16 = 1;

/// The longest header frame, in bytes. Time marks take about 35 bytes each and are at least 100 ms apart, so this is 50
/// minutes of marks in one segment. Segments are cut after seconds. A header that claims more is damaged.
pub const HEADER_LIMIT: usize = 1 << 20;

/// Raw bytes in one zstd frame. It bounds a reader's memory: a frame is handed on when its checksum is right.
pub const FRAME_RAW_LIMIT: usize = 1 << 20;

/// A skippable frame's magic may end in any of 0x50 to 0x5F. Ours ends in `B`, the seek table's in `E`.
const MAGIC: u32 = 0x184D_2A5B;
const SIGNATURE: &[u8; 8] = b"BACKFEED";
/// Magic and length.
const FRAME_HEAD: usize = 8;
/// Signature and version.
const CONTENT_HEAD: usize = 10;
const CRC_BYTES: usize = 8;

/// What a segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// The history whose feed it is.
    pub history: ReplId,
    /// Exclusive: the first byte is number `start + 1`.
    pub start: Offset,
    /// Inclusive: the last byte is number `end`. Greater than `start`.
    pub end: Offset,
    /// The database selected before the first byte.
    pub db_at_start: u32,
    /// False: it begins inside a command or a `MULTI`, because a limit cut there.
    pub starts_at_boundary: bool,
    /// The last boundary (between commands, outside `MULTI`) in `(start, end]`.
    pub boundary: Option<Boundary>,
    /// When its bytes were received, ascending, with offsets in `[start, end]`.
    pub marks: Vec<TimeMark>,
    /// The clock had gone back before this segment was cut, and had not reached the last mark again. None: the clock is
    /// right.
    pub clock_back: Option<ClockBack>,
    /// Who wrote it, for operators.
    pub writer: String,
}

/// A clock that went back. Until it reaches the last mark again, marks are held, and name no times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockBack {
    /// The time that it went back to, Unix milliseconds.
    pub to_unix_ms: i64,
    /// The last time that it showed.
    pub now_unix_ms: i64,
}

/// A segment's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What it holds.
    pub meta: SegmentMeta,
    /// CRC-64/REDIS of the raw bytes.
    pub payload_crc64: u64,
    /// Compressed bytes after the header frame.
    pub payload_stored: u64,
    /// CRC-64/REDIS of those compressed bytes. A zstd frame's header has bits that can change without harm to the raw
    /// bytes, and even then a damaged object should be reported.
    pub stored_crc64: u64,
    /// It is a span ([`super::span`]): many segments, merged into one object.
    pub index: Option<FrameIndex>,
}

impl SegmentHeader {
    /// Is it made of many segments?
    #[must_use]
    pub fn is_span(&self) -> bool {
        self.index.is_some()
    }

    /// Does it bridge a gap? A gap has bytes that no log will ever hold, because a snapshot at its end covers them. The
    /// bridge keeps the log one chain, in which two writers meet.
    #[must_use]
    pub fn is_gap(&self) -> bool {
        self.payload_stored == 0
    }
}

/// The seal of a log: nothing after `start` counts, whoever writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealHeader {
    /// The history that is sealed.
    pub history: ReplId,
    /// The last byte of its log. The seal has the name of a segment that would begin with byte `start + 1`.
    pub start: Offset,
    /// Why, for operators.
    pub reason: String,
    /// Who, for operators.
    pub writer: String,
    /// Unix milliseconds.
    pub sealed_unix_ms: i64,
}

/// What an object of the log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A piece of the feed.
    Segment(SegmentHeader),
    /// The end of the log.
    Seal(SealHeader),
}

impl Entry {
    /// Is it the same segment, or seal? Time marks do not count: who keeps many headers may have left them out.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Segment(a), Self::Segment(b)) => {
                (a.payload_crc64, a.payload_stored) == (b.payload_crc64, b.payload_stored)
                    && (a.meta.history, a.meta.start, a.meta.end)
                        == (b.meta.history, b.meta.start, b.meta.end)
            }
            (a, b) => a == b,
        }
    }

    /// The history that it says it belongs to.
    #[must_use]
    pub fn history(&self) -> ReplId {
        match self {
            Self::Segment(header) => header.meta.history,
            Self::Seal(seal) => seal.history,
        }
    }

    /// The offset before its first byte.
    #[must_use]
    pub fn start(&self) -> Offset {
        match self {
            Self::Segment(header) => header.meta.start,
            Self::Seal(seal) => seal.start,
        }
    }
}

/// Why a segment cannot be written or read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum SegmentError {
    /// The first bytes are not those of a segment.
    #[error("not a log segment: it does not begin with its header frame")]
    NotASegment,
    /// Written by a newer backfeed.
    #[error(
        "has format version {version}, and this build reads up to {FORMAT_VERSION}: use a newer backfeed"
    )]
    NewerFormat {
        /// The version that it has.
        version: u16,
    },
    /// The header frame is longer than [`HEADER_LIMIT`].
    #[error("its header claims {bytes} bytes, more than the limit of {HEADER_LIMIT}")]
    HeaderTooLong {
        /// Bytes claimed, or needed.
        bytes: u64,
    },
    /// The header frame is damaged.
    #[error("its header is damaged: {0}")]
    HeaderDamaged(String),
    /// The header contradicts itself.
    #[error("its header contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// The payload ends early.
    #[error("truncated: {found} of {expected} payload bytes are there")]
    Truncated {
        /// Compressed bytes that the header promises.
        expected: u64,
        /// Compressed bytes that are there.
        found: u64,
    },
    /// There is something after the payload.
    #[error("there are bytes after its end")]
    TrailingBytes,
    /// The payload does not decompress.
    #[error("its payload is damaged: {0}")]
    PayloadDamaged(String),
    /// The payload decompresses, but not to what the header promises.
    #[error("its payload is not what its header promises: {0}")]
    PayloadMismatch(String),
    /// Compression failed.
    #[error("it cannot be compressed: {0}")]
    Compress(String),
}

/// Makes the object of a segment from the feed's bytes. `level` is zstd's. The bytes must be as many as `meta` says.
pub fn encode(
    meta: SegmentMeta,
    chunks: &[Bytes],
    level: i32,
) -> Result<(SegmentHeader, Bytes), SegmentError> {
    check(&meta)?;
    let (payload, raw_bytes, crc) = compress(chunks, level)?;
    if raw_bytes != meta.end.since(meta.start) {
        return Err(SegmentError::Inconsistent(
            "it has another number of bytes than its range",
        ));
    }
    let header = SegmentHeader {
        meta,
        payload_crc64: crc,
        payload_stored: payload.len() as u64,
        stored_crc64: Crc64::of(&payload),
        index: None,
    };
    let frame = header_frame(&Document::of_segment(&header))?;
    let mut object = BytesMut::with_capacity(frame.len().saturating_add(payload.len()));
    object.put(frame);
    object.put_slice(&payload);
    Ok((header, object.freeze()))
}

/// Makes the object that bridges a gap from `meta.start` to `meta.end`: a header without a payload.
pub fn encode_gap(meta: SegmentMeta) -> Result<(SegmentHeader, Bytes), SegmentError> {
    check(&meta)?;
    let header = SegmentHeader {
        meta,
        payload_crc64: Crc64::of(&[]),
        payload_stored: 0,
        stored_crc64: Crc64::of(&[]),
        index: None,
    };
    let frame = header_frame(&Document::of_segment(&header))?;
    Ok((header, frame.freeze()))
}

/// The header frame of a span, and the header as it is read back.
pub(super) fn span_header(
    mut header: SegmentHeader,
) -> Result<(SegmentHeader, Bytes), SegmentError> {
    check(&header.meta)?;
    let frame = header_frame(&Document::of_segment(&header))?;
    if let Some(index) = &mut header.index {
        index.payload_at = frame.len() as u64;
    }
    Ok((header, frame.freeze()))
}

/// Makes the object of a seal.
pub fn encode_seal(seal: &SealHeader) -> Result<Bytes, SegmentError> {
    Ok(header_frame(&Document::of_seal(seal))?.freeze())
}

/// Reads the header from the first bytes of an object: what it is, and how many bytes the header frame takes. None:
/// more bytes are needed (never more than [`HEADER_LIMIT`]).
pub fn decode_entry(prefix: &[u8]) -> Result<Option<(Entry, usize)>, SegmentError> {
    let Some((magic, rest)) = prefix.split_first_chunk::<4>() else {
        return Ok(None);
    };
    if u32::from_le_bytes(*magic) != MAGIC {
        return Err(SegmentError::NotASegment);
    }
    let Some((length, rest)) = rest.split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_le_bytes(*length) as usize;
    let frame_bytes = length.saturating_add(FRAME_HEAD);
    if frame_bytes > HEADER_LIMIT {
        return Err(SegmentError::HeaderTooLong {
            bytes: frame_bytes as u64,
        });
    }
    let Some((content, after)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let entry = decode_content(content)?;
    if matches!(entry, Entry::Seal(_)) && !after.is_empty() {
        return Err(SegmentError::TrailingBytes);
    }
    Ok(Some((entry, frame_bytes)))
}

/// Decompresses a segment's payload, pushed in pieces of any size, in bounded memory.
///
/// What it hands out has passed the checksum of its zstd frame. Only [`PayloadReader::finish`] shows that nothing is
/// missing.
pub struct PayloadReader {
    frames: FrameDecoder,
    expected: SegmentHeader,
    stored: u64,
    stored_crc: Crc64,
    raw: u64,
    crc: Crc64,
}

impl PayloadReader {
    /// A reader for the bytes after the header frame of the segment with this header.
    pub fn new(header: &SegmentHeader, buffers: Buffers) -> Result<Self, SegmentError> {
        let frames = FrameDecoder::with(FRAME_RAW_LIMIT, buffers);
        Ok(Self {
            frames: frames.map_err(payload_damaged)?,
            expected: header.clone(),
            stored: 0,
            stored_crc: Crc64::new(),
            raw: 0,
            crc: Crc64::new(),
        })
    }

    /// Takes in the next bytes of the object. `out` gets raw bytes in order. After an error nothing more may be pushed.
    pub fn push(&mut self, bytes: &[u8], out: &mut impl FnMut(Bytes)) -> Result<(), SegmentError> {
        self.stored = self.stored.saturating_add(bytes.len() as u64);
        if self.stored > self.expected.payload_stored {
            return Err(SegmentError::TrailingBytes);
        }
        self.stored_crc.update(bytes);
        let wanted = self.expected.meta.end.since(self.expected.meta.start);
        let (raw, crc) = (&mut self.raw, &mut self.crc);
        self.frames
            .push(bytes, &mut |frame| {
                *raw = raw.saturating_add(frame.len() as u64);
                crc.update(&frame);
                if *raw <= wanted {
                    out(frame);
                }
            })
            .map_err(payload_damaged)?;
        if self.raw > wanted {
            return Err(self.length_mismatch());
        }
        Ok(())
    }

    /// The object has ended: was it whole, and right?
    pub fn finish(self) -> Result<(), SegmentError> {
        if self.stored < self.expected.payload_stored {
            return Err(SegmentError::Truncated {
                expected: self.expected.payload_stored,
                found: self.stored,
            });
        }
        if self.frames.within_frame() {
            return Err(SegmentError::PayloadDamaged(
                "its last zstd frame does not end".to_owned(),
            ));
        }
        if self.raw != self.expected.meta.end.since(self.expected.meta.start) {
            return Err(self.length_mismatch());
        }
        check_crc("raw", self.crc.value(), self.expected.payload_crc64)?;
        check_crc(
            "stored",
            self.stored_crc.value(),
            self.expected.stored_crc64,
        )
    }

    fn length_mismatch(&self) -> SegmentError {
        SegmentError::PayloadMismatch(format!(
            "{} bytes instead of {}",
            self.raw,
            self.expected.meta.end.since(self.expected.meta.start)
        ))
    }
}

fn check_crc(of: &str, found: u64, expected: u64) -> Result<(), SegmentError> {
    if found == expected {
        return Ok(());
    }
    Err(SegmentError::PayloadMismatch(format!(
        "CRC-64 {found:016x} instead of {expected:016x} of its {of} bytes"
    )))
}

/// The inequalities of [`SegmentMeta`].
fn check(meta: &SegmentMeta) -> Result<(), SegmentError> {
    if meta.end <= meta.start {
        return Err(SegmentError::Inconsistent("it ends before it begins"));
    }
    if let Some(boundary) = meta.boundary
        && (boundary.offset <= meta.start || boundary.offset > meta.end)
    {
        return Err(SegmentError::Inconsistent("its boundary is outside of it"));
    }
    let inside = |mark: &TimeMark| mark.offset >= meta.start && mark.offset <= meta.end;
    if !meta.marks.iter().all(inside) || !meta.marks.is_sorted_by_key(|mark| mark.offset) {
        return Err(SegmentError::Inconsistent(
            "its time marks are outside of it or out of order",
        ));
    }
    Ok(())
}

/// The compressed payload, its raw length and the CRC-64 of the raw bytes.
fn compress(chunks: &[Bytes], level: i32) -> Result<(Vec<u8>, u64, u64), SegmentError> {
    let failed = |error: io::Error| SegmentError::Compress(error.to_string());
    let mut encoder = FrameEncoder::new(level).map_err(failed)?;
    let mut payload = Vec::new();
    let mut crc = Crc64::new();
    let mut raw_bytes = 0_u64;
    let mut frame = Vec::with_capacity(FRAME_RAW_LIMIT.min(chunks.iter().map(Bytes::len).sum()));
    for chunk in chunks {
        crc.update(chunk);
        raw_bytes = raw_bytes.saturating_add(chunk.len() as u64);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            let room = FRAME_RAW_LIMIT.saturating_sub(frame.len());
            let (head, tail) = rest.split_at(room.min(rest.len()));
            frame.extend_from_slice(head);
            rest = tail;
            if frame.len() == FRAME_RAW_LIMIT {
                payload.extend(encoder.frame(&frame).map_err(failed)?);
                frame.clear();
            }
        }
    }
    if !frame.is_empty() {
        payload.extend(encoder.frame(&frame).map_err(failed)?);
    }
    Ok((payload, raw_bytes, crc.value()))
}

fn header_frame(document: &Document) -> Result<BytesMut, SegmentError> {
    let json = serde_json::to_vec(document)
        .map_err(|error| SegmentError::HeaderDamaged(error.to_string()))?;
    let length = json
        .len()
        .saturating_add(CONTENT_HEAD)
        .saturating_add(CRC_BYTES);
    let bytes = length.saturating_add(FRAME_HEAD);
    let too_long = SegmentError::HeaderTooLong {
        bytes: bytes as u64,
    };
    if bytes > HEADER_LIMIT {
        return Err(too_long);
    }
    let mut frame = BytesMut::with_capacity(bytes);
    frame.put_u32_le(MAGIC);
    frame.put_u32_le(u32::try_from(length).map_err(|_| too_long)?);
    let content = frame.len();
    frame.put_slice(SIGNATURE);
    frame.put_u16_le(FORMAT_VERSION);
    frame.put_slice(&json);
    let crc = Crc64::of(frame.get(content..).unwrap_or_default());
    frame.put_u64_le(crc);
    Ok(frame)
}

fn decode_content(content: &[u8]) -> Result<Entry, SegmentError> {
    let Some((signature, rest)) = content.split_first_chunk::<8>() else {
        return Err(SegmentError::NotASegment);
    };
    if signature != SIGNATURE {
        return Err(SegmentError::NotASegment);
    }
    let Some((version, _)) = rest.split_first_chunk::<2>() else {
        return Err(SegmentError::NotASegment);
    };
    let version = u16::from_le_bytes(*version);
    if version > FORMAT_VERSION {
        return Err(SegmentError::NewerFormat { version });
    }
    let damaged = |what: &str| SegmentError::HeaderDamaged(what.to_owned());
    let (covered, crc) = content
        .split_last_chunk::<CRC_BYTES>()
        .ok_or_else(|| damaged("it is too short"))?;
    if Crc64::of(covered) != u64::from_le_bytes(*crc) {
        return Err(damaged("its checksum is wrong"));
    }
    let json = covered
        .get(CONTENT_HEAD..)
        .filter(|_| version == FORMAT_VERSION)
        .ok_or_else(|| damaged("its version is unknown"))?;
    let document: Document = serde_json::from_slice(json)
        .map_err(|error| SegmentError::HeaderDamaged(error.to_string()))?;
    document.into_entry(content.len().saturating_add(FRAME_HEAD) as u64)
}

fn payload_damaged(error: FrameError) -> SegmentError {
    SegmentError::PayloadDamaged(error.to_string())
}

#[cfg(test)]
#[path = "segment_tests.rs"]
mod tests;
