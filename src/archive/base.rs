//! Bases: RDB bytes in, zstd frames with a seek table out, and back.

use bytes::Bytes;

use super::ArchiveError;
use crate::position::Position;

/// A base in the making. Dropping it abandons it: nothing of it is visible.
pub struct BaseWriter {
    at: Position,
}

/// A base whose data is stored; its manifest is still to be written ([`super::Archive::commit_base`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBase {
    /// Where it stands.
    pub at: Position,
    /// Bytes of the RDB.
    pub raw_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// CRC-64/REDIS of all bytes of the RDB.
    pub crc64: u64,
}

impl BaseWriter {
    /// Appends bytes of the RDB.
    pub async fn write(&mut self, raw: Bytes) -> Result<(), ArchiveError> {
        let _ = (raw, self.at);
        todo!()
    }

    /// Stores the object. [`ArchiveError::BaseExists`] when its data is already there (a crash before the manifest was
    /// written): the caller reads it with [`super::Archive::read_stray_base`], and adopts it.
    pub async fn finish(self) -> Result<StoredBase, ArchiveError> {
        todo!()
    }
}
