//! The format of the stored log: segments of raw RESP in zstd frames. Pure.

pub(crate) mod frames;
pub mod segment;
