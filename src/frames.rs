//! Runs of zstd frames, as bases and segments use them: each frame small, independent and with zstd's own checksum.
//!
//! A reader holds one frame at a time and hands its bytes on once the frame's checksum is right, so damaged data is never
//! passed on, in bounded memory. `zstd -dc` decompresses such a run as if it were one frame.

use std::io;

use bytes::Bytes;
use zstd::stream::raw::{CParameter, DParameter, Decoder, InBuffer, Operation, OutBuffer};

/// Largest window that a frame may ask for: 8 MiB, twice our largest frame. A damaged header cannot make us allocate more.
const WINDOW_LOG_MAX: u32 = 23;

/// First allocation for the bytes of a frame.
const FIRST_RESERVE: usize = 64 << 10;

/// Compresses frames.
pub(crate) struct FrameEncoder(zstd::bulk::Compressor<'static>);

impl FrameEncoder {
    /// `level` as zstd means it.
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self(compressor))
    }

    /// One whole frame that holds `raw`.
    pub(crate) fn frame(&mut self, raw: &[u8]) -> io::Result<Vec<u8>> {
        self.0.compress(raw)
    }
}

/// Why a run of frames cannot be read.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    /// zstd says so.
    #[error("zstd: {0}")]
    Zstd(String),
    /// A frame of more bytes than any writer of ours makes.
    #[error("a zstd frame holds more than {0} bytes")]
    TooLong(usize),
}

/// Decompresses a run of frames, pushed in pieces of any size.
pub(crate) struct FrameDecoder {
    decoder: Decoder<'static>,
    /// The bytes of the frame that is being read.
    frame: Vec<u8>,
    frame_limit: usize,
    /// What to allocate for the next frame: as much as the last one took, so that few frames grow.
    reserve: usize,
    within: bool,
}

impl FrameDecoder {
    /// For frames of at most `frame_limit` bytes each when decompressed.
    pub(crate) fn new(frame_limit: usize) -> Result<Self, FrameError> {
        let mut decoder = Decoder::new().map_err(zstd_error)?;
        decoder
            .set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))
            .map_err(zstd_error)?;
        Ok(Self {
            decoder,
            frame: Vec::new(),
            frame_limit,
            reserve: FIRST_RESERVE,
            within: false,
        })
    }

    /// Takes in `input`; `out` gets each frame that ended in it. After an error nothing more may be pushed.
    pub(crate) fn push(
        &mut self,
        input: &[u8],
        out: &mut impl FnMut(Bytes),
    ) -> Result<(), FrameError> {
        let mut input = InBuffer::around(input);
        let length = input.src.len();
        loop {
            self.make_room()?;
            let filled = self.frame.len();
            let mut output = OutBuffer::around_pos(&mut self.frame, filled);
            let hint = self
                .decoder
                .run(&mut input, &mut output)
                .map_err(zstd_error)?;
            self.within = hint != 0;
            if !self.within && !self.frame.is_empty() {
                if self.frame.len() > self.frame_limit {
                    return Err(FrameError::TooLong(self.frame_limit));
                }
                self.reserve = self.frame.len().saturating_add(1).max(FIRST_RESERVE);
                out(Bytes::from(std::mem::take(&mut self.frame)));
            }
            // With room left in the output, zstd has given all that it could make of the input.
            let output_full = self.frame.len() == self.frame.capacity() && self.within;
            if input.pos() == length && !output_full {
                return Ok(());
            }
        }
    }

    /// Has a frame begun that has not ended?
    pub(crate) fn within_frame(&self) -> bool {
        self.within
    }

    fn make_room(&mut self) -> Result<(), FrameError> {
        if self.frame.len() < self.frame.capacity() {
            return Ok(());
        }
        // One byte more than allowed, so that a frame of exactly the limit ends with room left.
        let most = self.frame_limit.saturating_add(1);
        let wanted = self
            .frame
            .len()
            .saturating_mul(2)
            .max(self.reserve)
            .min(most);
        let more = wanted.saturating_sub(self.frame.len());
        if more == 0 {
            return Err(FrameError::TooLong(self.frame_limit));
        }
        self.frame.reserve_exact(more);
        Ok(())
    }
}

fn zstd_error(error: io::Error) -> FrameError {
    FrameError::Zstd(error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    const LIMIT: usize = 100_000;

    fn decode(bytes: &[u8], step: usize) -> Result<Vec<Bytes>, FrameError> {
        let mut decoder = FrameDecoder::new(LIMIT)?;
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            decoder.push(piece, &mut |frame| out.push(frame))?;
        }
        assert!(!decoder.within_frame());
        Ok(out)
    }

    fn run(frames: &[&[u8]]) -> Vec<u8> {
        let mut encoder = FrameEncoder::new(3).unwrap();
        frames
            .iter()
            .flat_map(|raw| encoder.frame(raw).unwrap())
            .collect()
    }

    #[test]
    fn frames_come_back_one_by_one_however_they_are_cut() {
        let zeros = vec![0; LIMIT];
        let noise: Vec<u8> = (0..70_000_u32)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let bytes = run(&[&zeros, b"x", &noise]);
        for step in [1, 2, 3, 1000, usize::MAX] {
            let frames = decode(&bytes, step).unwrap();
            assert_eq!(frames, [&zeros[..], b"x", &noise[..]], "step {step}");
        }
    }

    #[test]
    fn a_frame_above_the_limit_is_an_error_before_it_is_all_in_memory() {
        let bytes = run(&[&vec![7; 50_000_000]]);
        assert_eq!(decode(&bytes, 4096), Err(FrameError::TooLong(LIMIT)));
        assert_eq!(
            decode(&run(&[&vec![7; LIMIT + 1]]), 4096),
            Err(FrameError::TooLong(LIMIT))
        );
    }

    #[test]
    fn a_frame_whose_checksum_is_wrong_is_never_handed_out() {
        let mut bytes = run(&[b"good", b"spoilt"]);
        *bytes.last_mut().unwrap() ^= 1;
        let mut out = Vec::new();
        let mut decoder = FrameDecoder::new(LIMIT).unwrap();
        let result = decoder.push(&bytes, &mut |frame| out.push(frame));
        assert!(matches!(result, Err(FrameError::Zstd(_))));
        assert_eq!(out, [&b"good"[..]]);
    }

    #[test]
    fn skippable_frames_are_skipped() {
        let mut bytes = vec![0x5E, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3];
        bytes.extend(run(&[b"data"]));
        assert_eq!(decode(&bytes, 1).unwrap(), [&b"data"[..]]);
    }
}
