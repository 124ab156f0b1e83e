//! What a listing of the archive finds that cannot be used.

use std::fmt;

use super::{ArchiveError, Name};
use crate::wire::position::{Position, ReplId};

/// An object in an archive that cannot be used. An operator reads its text; code asks for its kind.
#[derive(Debug, Clone)]
pub enum Problem {
    /// An object that is not one of an archive.
    Foreign {
        /// Its name.
        name: String,
    },
    /// How many more there are.
    MoreForeign {
        /// How many.
        count: usize,
    },
    /// A history without its document and without anything that counts: its first full sync is under way, or was cut
    /// off.
    Unborn {
        /// The history.
        history: ReplId,
    },
    /// The data of a base without a manifest: it is being written, or its writer died.
    Stray {
        /// The position that the base would have.
        base: Position,
    },
    /// A manifest that cannot be read or says that it is another.
    Manifest {
        /// The position of the base, according to the object's name.
        base: Position,
        /// What is wrong.
        error: ArchiveError,
    },
    /// A base has a manifest, but its data is missing.
    NoData {
        /// The position of the base.
        base: Position,
    },
    /// The data of a base has another size than its manifest says.
    Size {
        /// The position of the base.
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
            Self::MoreForeign { count } => {
                write!(f, "{count} more objects do not belong to an archive")
            }
            Self::Unborn { history } => write!(
                f,
                "history {history} is ignored: {} is missing, because its first full sync is still running or was cut \
                 off",
                Name::History(*history)
            ),
            Self::Stray { base } => write!(
                f,
                "{}: it has no manifest, so it does not count. It is being written, or its writer died",
                Name::BaseData(*base)
            ),
            Self::Manifest { error, .. } => error.fmt(f),
            Self::NoData { base } => write!(
                f,
                "{} is missing, but its manifest is there",
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
