//! Why a command cannot be applied.

use super::Blob;
use crate::wire::position::Offset;
use crate::wire::rdb::cursor::BadValue;

/// Why a command was not applied as the server applied it. We never guess.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Its effect is not modelled: a module's command, an unknown one, a script.
    #[error("{command}: {why}")]
    Unmodelled {
        /// The command, without its data.
        command: String,
        /// Why it cannot be applied.
        why: &'static str,
    },
    /// It cannot have succeeded on the master, so this data is not what the master's was.
    #[error("{command} cannot have succeeded on this data: {why}")]
    Diverged {
        /// The command, without its data.
        command: String,
        /// Why not.
        why: &'static str,
    },
    /// A value of the snapshot cannot be read.
    #[error("{command}: the value of the key {}: {source}", show(.key))]
    Damaged {
        /// The command, without its data.
        command: String,
        /// The key.
        key: Blob,
        /// What is wrong with it.
        source: BadValue,
    },
    /// The value of a key has not been known since an earlier command.
    #[error("the value of the key {} has not been known since offset {since}: {why}", show(.key))]
    Unknown {
        /// The key.
        key: Blob,
        /// The offset before the command that could not be applied.
        since: Offset,
        /// Why not.
        why: Box<ApplyError>,
    },
    /// There are more keys than can be counted.
    #[error("there are more keys than can be numbered in memory")]
    TooMany,
    /// A command touches a key that was not collected before: a bug.
    #[error("the key {} was not collected before it was needed; this is a bug in backfeed", show(.key))]
    NotCollected {
        /// The key.
        key: Blob,
    },
}

impl ApplyError {
    /// Does it say that the command is not modelled, rather than that something is wrong?
    #[must_use]
    pub fn is_unmodelled(&self) -> bool {
        matches!(self, Self::Unmodelled { .. })
    }
}

/// A key in a form for messages: no control characters, and a limited length.
fn show(key: &[u8]) -> String {
    const LONGEST: usize = 60;
    let shown = key.get(..LONGEST).unwrap_or(key).escape_ascii();
    let more = if key.len() > LONGEST { "…" } else { "" };
    format!("`{shown}{more}`")
}
