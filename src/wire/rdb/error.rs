//! Why an RDB is refused, or not walked.

use super::cursor::BadValue;

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
        "the RDB has more than {limit} {what} (at byte {offset}): it is damaged, or made to attack"
    )]
    Limit {
        /// Where.
        offset: u64,
        /// The kind of thing that there are too many of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// The checksum at the end does not fit the bytes before it.
    #[error(
        "the RDB's checksum is wrong: it says {expected:#018x}, but its bytes give {found:#018x}; the bytes changed on \
         their way, or the RDB was damaged before it was read"
    )]
    Checksum {
        /// The checksum in the RDB.
        expected: u64,
        /// The checksum of its bytes.
        found: u64,
    },
    /// The bytes ended before the RDB did.
    #[error("the RDB was cut off: it stops after {bytes} bytes, {within}")]
    CutOff {
        /// How many bytes came.
        bytes: u64,
        /// Where in the RDB that is.
        within: String,
    },
}

/// Why reading stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    /// It is not a sound RDB.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// It has something in it that this version does not know.
    #[error("the RDB cannot be read from byte {from} on: {reason}")]
    Unknown {
        /// The first byte of the record.
        from: u64,
        /// Why.
        reason: String,
    },
    /// A wanted value takes more memory than it may.
    #[error(
        "the value of the key at byte {at} of the RDB takes more than the limit of {limit} bytes of memory"
    )]
    TooLong {
        /// Where the key begins.
        at: u64,
        /// The limit.
        limit: usize,
    },
    /// A key's name, or a record that is no key, takes more memory than it may: that is not less for less of the keys.
    #[error(
        "the name of the key, or the record, at byte {at} of the RDB takes more than the limit of {limit} bytes of memory"
    )]
    LongName {
        /// Where it begins.
        at: u64,
        /// The limit.
        limit: usize,
    },
    /// A key's name, or a record before it, is not as it should be.
    #[error("the key at byte {at} of the RDB is damaged: {source}")]
    Key {
        /// Where it begins.
        at: u64,
        /// What is wrong.
        source: BadValue,
    },
    /// It is not over where it should be.
    #[error("there are bytes after the end of the RDB, which is at byte {at}")]
    Trailing {
        /// Its length.
        at: u64,
    },
    /// The sink stops.
    #[error(transparent)]
    Sink(E),
}

/// Why walking stops.
pub(super) enum Stop {
    /// Not known to us. Not an error: the checksum still covers it.
    Unknown(String),
    Malformed {
        offset: u64,
        expected: &'static str,
        found: String,
    },
    Error(WalkError),
}
