//! The walker.

use super::summary::Summary;

/// Why an RDB was refused. Byte positions count from 0.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// The first bytes are not those of an RDB.
    #[error(
        "this is not an RDB: it begins with `{found}`, not with `REDIS` or `VALKEY` and a version"
    )]
    Magic {
        /// The first bytes, escaped.
        found: String,
    },
    /// Bytes that no server writes.
    #[error(
        "the RDB is damaged: at byte {offset} there should be {expected}, but there is {found} \
         (in {record}, which begins at byte {record_at})"
    )]
    Malformed {
        /// Where.
        offset: u64,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
        /// What it is part of.
        record: String,
        /// The first byte of that record.
        record_at: u64,
    },
    /// More of something than we keep account of.
    #[error(
        "the RDB has more than {limit} {what} (at byte {offset}): it is damaged, or not meant well"
    )]
    Limit {
        /// Where.
        offset: u64,
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The checksum at the end does not fit the bytes before it.
    #[error(
        "the RDB's checksum is wrong: it says {expected:#018x}, but its bytes give {found:#018x}; \
         they changed on their way, or the RDB was damaged before it was read"
    )]
    Checksum {
        /// The checksum in the RDB.
        expected: u64,
        /// The checksum of its bytes.
        found: u64,
    },
    /// The bytes ended before the RDB did.
    #[error("the RDB was cut off: it ends after {bytes} bytes, {within}")]
    CutOff {
        /// How many bytes came.
        bytes: u64,
        /// Where in the RDB that is.
        within: String,
    },
}

/// Walks over an RDB.
#[derive(Debug)]
pub struct Walker {
    summary: Summary,
}

impl Walker {
    /// A walker at the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            summary: Summary::default(),
        }
    }

    /// Takes in the next bytes and returns how many of them belong to the RDB: fewer than `chunk.len()` only when the RDB
    /// ends in this chunk.
    ///
    /// # Errors
    /// When the bytes are not those of an RDB, or its checksum is wrong; the error is repeated by every later call.
    pub fn push(&mut self, chunk: &[u8]) -> Result<usize, WalkError> {
        Ok(chunk.len())
    }

    /// Whether the end has come, checksum included.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        false
    }

    /// Says that the payload ends here, as its framing tells. An RDB that was walked to its end is fine; one that could not
    /// be walked ([`Summary::unwalked`]) must end with the end opcode and the right checksum.
    ///
    /// # Errors
    /// When the RDB is not at its end, or its checksum is wrong.
    pub fn finish_opaque(&mut self) -> Result<(), WalkError> {
        Ok(())
    }

    /// What has been found so far.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }
}

impl Default for Walker {
    fn default() -> Self {
        Self::new()
    }
}
