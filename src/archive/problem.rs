//! What a listing of the archive finds that cannot be used.

use std::fmt;

use super::{ArchiveError, Name};
use crate::wire::position::{Position, ReplId};

/// What is in an archive and cannot be used. An operator is told its text; code asks what it is.
#[derive(Debug, Clone)]
pub enum Problem {
    /// An object that is not one of an archive.
    Foreign {
        /// Its name.
        name: String,
    },
    /// So many more of those.
    MoreForeign {
        /// How many.
        count: usize,
    },
    /// A history without its document and without anything that counts: its first full sync is under way, or was cut off.
    Unborn {
        /// The history.
        history: ReplId,
    },
    /// The data of a base without a manifest: it is being written, or its writer died.
    Stray {
        /// Where the base would stand.
        base: Position,
    },
    /// A manifest that cannot be read or says that it is another.
    Manifest {
        /// Where the base stands, as the object's name says.
        base: Position,
        /// What is wrong.
        error: ArchiveError,
    },
    /// The data of a base that has a manifest is gone.
    NoData {
        /// Where the base stands.
        base: Position,
    },
    /// The data of a base has another size than its manifest says.
    Size {
        /// Where the base stands.
        base: Position,
        /// Bytes of the object.
        found: u64,
        /// What the manifest says.
        says: u64,
    },
}

impl Problem {
    /// Is something lost or spoilt that was there once?
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Foreign { .. }
            | Self::MoreForeign { .. }
            | Self::Unborn { .. }
            | Self::Stray { .. } => false,
            Self::Manifest { .. } | Self::NoData { .. } | Self::Size { .. } => true,
        }
    }

    /// The object of the archive that it is about.
    #[must_use]
    pub fn object(&self) -> Option<Name> {
        match self {
            Self::Foreign { .. } | Self::MoreForeign { .. } => None,
            Self::Unborn { history } => Some(Name::History(*history)),
            Self::Manifest { base, .. } => Some(Name::BaseManifest(*base)),
            Self::Stray { base } | Self::NoData { base } | Self::Size { base, .. } => {
                Some(Name::BaseData(*base))
            }
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { name } => write!(f, "{name}: not an object of an archive"),
            Self::MoreForeign { count } => write!(f, "{count} more objects are not of an archive"),
            Self::Unborn { history } => write!(
                f,
                "history {history} is ignored: {} is not there, as its first full sync is under way or was cut off",
                Name::History(*history)
            ),
            Self::Stray { base } => write!(
                f,
                "{}: no manifest, so it does not count: it is being written, or its writer died",
                Name::BaseData(*base)
            ),
            Self::Manifest { error, .. } => error.fmt(f),
            Self::NoData { base } => write!(
                f,
                "{} is missing, though its manifest is there",
                Name::BaseData(*base)
            ),
            Self::Size { base, found, says } => write!(
                f,
                "{}: it has {found} bytes, and its manifest says {says}",
                Name::BaseData(*base)
            ),
        }
    }
}
