//! RDB snapshots: walked while they stream, never held.
//!
//! [`Walker`] finds the end of an RDB, verifies its checksum and counts what is in it. [`strip::Stripper`] takes the
//! replication position out of an RDB that is served as a fork. Both are push style: chunks of any size go in, and
//! memory does not depend on the size of a value. The facts of the format are in section D of PROTOCOL.md.

pub mod cursor;
pub mod elements;
mod error;
mod footer;
mod layouts;
mod lzf;
pub mod number;
pub mod numbers;
pub mod packed;
mod primitives;
pub mod reader;
#[cfg(test)]
pub(crate) mod samples;
pub mod strip;
mod summary;
mod walker;

pub use error::WalkError;
pub use summary::{Checksum, DbCounts, Family, Summary, Unwalked};
pub use walker::Walker;

/// The end of what `DUMP` gives: the RDB version (2 bytes) and a CRC-64 (PROTOCOL.md D.8).
pub(crate) const DUMP_FOOTER_LEN: usize = 10;

/// Family and version of an RDB, from its first 9 bytes.
#[must_use]
pub fn magic(bytes: &[u8]) -> Option<(Family, u32)> {
    std::str::from_utf8(bytes)
        .ok()
        .and_then(primitives::parse_magic)
}
