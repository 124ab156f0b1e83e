//! Runs of zstd frames, as bases and segments use them. Each frame is small, independent and has zstd's own checksum.
//!
//! A reader holds one frame at a time, and hands on its bytes when the checksum of the frame is right. So damaged data
//! are never passed on, and memory is bounded. `zstd -dc` decompresses such a run as if it were one frame.

use std::io;

use bytes::Bytes;
use zstd::stream::raw::{CParameter, DParameter, Decoder, InBuffer, Operation, OutBuffer};

use crate::runtime::buffers::Buffers;

/// Largest window that a frame may ask for: 8 MiB, twice our largest frame. A damaged header cannot make us allocate
/// more.
const WINDOW_LOG_MAX: u32 = 23;

/// First allocation for the bytes of a frame.
const FIRST_RESERVE: usize = 64 << 10;

/// The level for bytes that hardly shrink: nothing is gained by looking closer.
const DENSE_LEVEL: i32 = -5;
/// How many bytes are tried to find out whether they shrink.
const SAMPLE: usize = 32 << 10;

/// Compresses frames.
pub(crate) struct FrameEncoder {
    compressor: zstd::bulk::Compressor<'static>,
    level: i32,
}

impl FrameEncoder {
    /// `level` as zstd means it.
    pub(crate) fn new(level: i32) -> io::Result<Self> {
        let mut compressor = zstd::bulk::Compressor::new(level)?;
        compressor.set_parameter(CParameter::ChecksumFlag(true))?;
        Ok(Self { compressor, level })
    }

    /// One whole frame that holds `raw`.
    pub(crate) fn frame(&mut self, raw: &[u8]) -> io::Result<Vec<u8>> {
        self.compressor.compress(raw)
    }

    /// The same in less time if `raw` hardly shrinks (random or compressed values); writes into a buffer.
    pub(crate) fn frame_of_any(&mut self, raw: &[u8], to: &Buffers) -> io::Result<Bytes> {
        let middle = raw.len() / 2;
        let sample = raw.get(middle..middle.saturating_add(SAMPLE));
        self.set_level(DENSE_LEVEL)?;
        let is_dense = match sample {
            Some(sample) => self.frame(sample)?.len() > SAMPLE / 10 * 9,
            None => false,
        };
        if !is_dense {
            self.set_level(self.level)?;
        }
        let mut frame = to.take(zstd::zstd_safe::compress_bound(raw.len()));
        self.compressor.compress_to_buffer(raw, &mut frame)?;
        Ok(to.lend(frame))
    }

    fn set_level(&mut self, level: i32) -> io::Result<()> {
        let level = CParameter::CompressionLevel(level);
        self.compressor.set_parameter(level)
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
    /// What to allocate for the next frame: as much as the last one took, so that few frames have to grow.
    reserve: usize,
    within: bool,
    buffers: Buffers,
}

impl FrameDecoder {
    /// A decoder for frames of at most `frame_limit` decompressed bytes each.
    pub(crate) fn new(frame_limit: usize) -> Result<Self, FrameError> {
        Self::with(frame_limit, Buffers::default())
    }

    /// The same, with these buffers for the frames.
    pub(crate) fn with(frame_limit: usize, buffers: Buffers) -> Result<Self, FrameError> {
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
            buffers,
        })
    }

    /// Takes in `input`. `out` gets each frame that ended in it. After an error nothing more may be pushed.
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
                out(self.buffers.lend(std::mem::take(&mut self.frame)));
            }
            // If there is room left in the output, zstd has returned everything that it could make of the input.
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
        if self.frame.capacity() == 0 {
            self.frame = self.buffers.take(more);
        } else {
            self.frame.reserve_exact(more);
        }
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
    fn bytes_that_hardly_shrink_are_compressed_all_the_same() {
        let mut state = 1_u64;
        let mut noise = Vec::new();
        while noise.len() < 1_000_000 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            noise.extend_from_slice(&state.to_le_bytes()[3..]);
        }
        let text = b"a line of text, and another one. ".repeat(30_000);
        let (mut encoder, buffers) = (FrameEncoder::new(3).unwrap(), Buffers::default());
        for raw in [&noise[..], &text, &noise, b"", b"x"] {
            let frame = encoder.frame_of_any(raw, &buffers).unwrap();
            let mut back = Vec::new();
            let mut decoder = FrameDecoder::new(4 << 20).unwrap();
            decoder
                .push(&frame, &mut |bytes| back.extend(bytes))
                .unwrap();
            assert_eq!(back, raw);
            if raw == text {
                assert_eq!(frame, FrameEncoder::new(3).unwrap().frame(raw).unwrap());
            }
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
