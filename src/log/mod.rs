//! The format of the stored log: segments of raw RESP in zstd frames, and spans of many segments. Pure.

pub(crate) mod frames;
pub mod segment;
pub mod span;
