//! The log of a history: appending, sealing, and following the chain of segments.

use crate::position::{Boundary, Offset, TimeMark};
use crate::segment::{Entry, SealHeader, SegmentHeader};

use super::ArchiveError;

/// How many segments a writer may have in flight at once. Readers rely on it: when a writer dies, so many segments less one can
/// lie beyond the hole that it left, and readers look back further than that to tell the log from such strays.
pub const PARALLEL_UPLOADS: usize = 8;

/// Why a segment or a seal was not created.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else's segment, or a seal, is there.
    #[error("another writer was first")]
    Taken(Box<Entry>),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Where a log ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEnd {
    /// The last byte of the unbroken chain of bases and segments.
    pub end: Offset,
    /// The last point at or before `end` that is between commands and outside `MULTI`.
    pub boundary: Boundary,
    /// The last time mark of the log; None when it has no segment with one.
    pub last_mark: Option<TimeMark>,
    /// The seal after `end`, if there is one.
    pub sealed: Option<SealHeader>,
}

/// What [`super::Archive::chain`] gives: segments, and last of all why it ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainItem {
    /// The next segment.
    Segment(SegmentHeader),
    /// Nothing more; no item follows.
    End(ChainEnd),
}

/// Why a chain of segments ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChainEnd {
    /// The log ends after this offset.
    Log(Offset),
    /// The byte after `at` is missing, though the log has a segment that begins at byte `next`: a gap, or strays of a
    /// writer that died.
    Gap {
        /// The last byte before the gap.
        at: Offset,
        /// The first byte of the next segment.
        next: u64,
    },
    /// The log is sealed.
    Sealed(SealHeader),
}
