//! Why a copy ends early.

use crate::archive::ArchiveError;

/// Which of the two stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that is copied.
    Source,
    /// The copy.
    Target,
}

/// Why a copy ends before everything is copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Both are the same place, or one lies within the other.
    #[error("{0}")]
    Places(String),
    /// One of the stores fails, or holds no archive.
    #[error("{}, {url}: {error}", name_of(.side))]
    Archive {
        /// Which one.
        side: Side,
        /// What an operator calls it.
        url: String,
        /// What is wrong.
        #[source]
        error: Box<ArchiveError>,
    },
    /// The target is the copy of another archive, or an archive of its own.
    #[error(
        "{to} holds another archive than {from}: their archive.json differ. Nothing was written. Choose an empty directory or prefix"
    )]
    OtherArchive {
        /// The source.
        from: String,
        /// The target.
        to: String,
    },
    /// An object is there already, and is another one.
    #[error(
        "{object} in {to} is not the object of that name in {from}. Something else has written to the copy: a service that was \
         started on it, perhaps. Nothing was overwritten, and nothing more is copied. If the service moved there, do not copy to \
         it any more. Otherwise copy to an empty directory or prefix"
    )]
    Differs {
        /// The name.
        object: String,
        /// The source.
        from: String,
        /// The target.
        to: String,
    },
}

fn name_of(side: &Side) -> &'static str {
    match side {
        Side::Source => "the source",
        Side::Target => "the target",
    }
}

impl CopyError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Archive { error, .. } if error.is_transient())
    }
}

/// What a single object of the source turned out to be.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It was listed, and is not there any more.
    Vanished,
    /// It is not what it should be.
    Damaged(ArchiveError),
    /// The copy cannot go on.
    End(CopyError),
}

impl From<CopyError> for Trouble {
    fn from(error: CopyError) -> Self {
        Self::End(error)
    }
}
