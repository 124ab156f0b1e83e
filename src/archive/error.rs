//! What can go wrong with an archive, and what an error says of the objects.

use crate::runtime::pipe::Interrupted;
use crate::store::StoreError;
use crate::wire::position::ReplId;

/// What can go wrong with an archive.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ArchiveError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are objects, but no `archive.json`, or not one of ours.
    #[error("{url} is not a backfeed archive: {reason}")]
    NotAnArchive {
        /// The store.
        url: String,
        /// What was found.
        reason: String,
    },
    /// The store does not do what an archive needs of it.
    #[error("{url} cannot hold an archive: {reason}. Use another store")]
    Unfit {
        /// The store.
        url: String,
        /// What it did.
        reason: String,
    },
    /// The store does not say when an object was created.
    #[error(
        "{url} does not say when its objects were created. Nothing is deleted there, because nobody knows how old an \
         object is"
    )]
    Timeless {
        /// The store.
        url: String,
    },
    /// The store is empty.
    #[error("{url} is empty: nothing has been backed up there. Check the URL")]
    EmptyStore {
        /// The store.
        url: String,
    },
    /// Written by a newer backfeed.
    #[error(
        "{object} has format {version}, and this version of backfeed reads up to {supported}. Use a newer backfeed"
    )]
    NewerFormat {
        /// The object.
        object: String,
        /// The format that it has.
        version: u32,
        /// The newest that this build reads.
        supported: u32,
    },
    /// An object that should be there is not.
    #[error("{object} is missing")]
    Missing {
        /// The object.
        object: String,
    },
    /// An object ends early.
    #[error("{object} is truncated: {reason}")]
    Truncated {
        /// The object.
        object: String,
        /// What is missing.
        reason: String,
    },
    /// An object is not what it should be.
    #[error("{object}: {reason}")]
    Damaged {
        /// The object.
        object: String,
        /// How it shows.
        reason: String,
    },
    /// An object says that it is another one than its name says: it was renamed or copied.
    #[error("{object} was renamed: its content says that it is {says}")]
    Renamed {
        /// The object.
        object: String,
        /// What it says that it is.
        says: String,
    },
    /// The data of a base is already there, without a manifest.
    #[error("{object} is already there")]
    BaseExists {
        /// The object.
        object: String,
    },
    /// The data of a base is not there any more, and the base does not count: nobody had committed it for a day.
    #[error(
        "{object} was deleted before it counted: this process slept, or its store was away, for so long that a policy took it for \
         what a dead process had left"
    )]
    Swept {
        /// The object.
        object: String,
    },
    /// There is no such history.
    #[error("there is no history {id} in the archive. `backfeed list` shows all histories")]
    UnknownHistory {
        /// The id asked for.
        id: ReplId,
    },
    /// The parents of a history lead back to itself.
    #[error("the parents of history {id} lead back to itself")]
    Cycle {
        /// The history.
        id: ReplId,
    },
    /// A history has neither base nor parent yet.
    #[error("nothing of history {id} has been stored yet")]
    NothingStored {
        /// The history.
        id: ReplId,
    },
}

/// What an error says of the object that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// It is missing, or not what it should be.
    Damage,
    /// It cannot be read here and now. It may be sound.
    Unreadable,
    /// Nothing: the store failed, or the archive does not have what was asked for.
    Nothing,
}

impl From<Interrupted> for ArchiveError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Store(interrupted.into())
    }
}

impl ArchiveError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_transient())
    }

    /// Is something in the archive damaged or missing? (A store that does not answer, and a question that the archive cannot
    /// answer, are no damage.)
    #[must_use]
    pub fn is_damage(&self) -> bool {
        self.finding() == Finding::Damage
    }

    /// Can the object not be read, so that another one may have its bytes? Damage is such a case.
    pub(super) fn is_unreadable(&self) -> bool {
        matches!(self.finding(), Finding::Damage | Finding::Unreadable)
    }

    /// A new variant says here what it means. Nothing else decides that.
    fn finding(&self) -> Finding {
        match self {
            Self::Missing { .. }
            | Self::Truncated { .. }
            | Self::Damaged { .. }
            | Self::Renamed { .. } => Finding::Damage,
            Self::NewerFormat { .. } => Finding::Unreadable,
            Self::Store(error) => match error {
                // It was there when its name was listed or its header was read.
                StoreError::NotFound { .. } => Finding::Unreadable,
                StoreError::AlreadyExists { .. }
                | StoreError::Transient { .. }
                | StoreError::Permanent { .. }
                | StoreError::Interrupted { .. } => Finding::Nothing,
            },
            Self::NotAnArchive { .. }
            | Self::Unfit { .. }
            | Self::Timeless { .. }
            | Self::EmptyStore { .. }
            | Self::BaseExists { .. }
            | Self::Swept { .. }
            | Self::UnknownHistory { .. }
            | Self::Cycle { .. }
            | Self::NothingStored { .. } => Finding::Nothing,
        }
    }

    pub(crate) fn damaged(object: &str, reason: impl Into<String>) -> Self {
        Self::Damaged {
            object: object.to_owned(),
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_says_whether_something_is_damaged_unreadable_or_to_be_tried_again() {
        let text = || "x".to_owned();
        let id = ReplId::from_random([1; 20]);
        let (object, reason, url, name, what, cause) = (text, text, text, text, text, text);
        // (damage, unreadable, transient)
        let damage = (true, true, false);
        let unreadable = (false, true, false);
        let transient = (false, false, true);
        let nothing = (false, false, false);
        for (error, expected) in [
            (ArchiveError::Missing { object: object() }, damage),
            (
                ArchiveError::Truncated {
                    object: object(),
                    reason: reason(),
                },
                damage,
            ),
            (
                ArchiveError::Damaged {
                    object: object(),
                    reason: reason(),
                },
                damage,
            ),
            (
                ArchiveError::Renamed {
                    object: object(),
                    says: text(),
                },
                damage,
            ),
            (
                ArchiveError::NewerFormat {
                    object: object(),
                    version: 9,
                    supported: 1,
                },
                unreadable,
            ),
            (StoreError::NotFound { name: name() }.into(), unreadable),
            (
                StoreError::AlreadyExists {
                    name: name(),
                    created: None,
                }
                .into(),
                nothing,
            ),
            (
                StoreError::Transient {
                    what: what(),
                    cause: cause(),
                }
                .into(),
                transient,
            ),
            (
                StoreError::Permanent {
                    what: what(),
                    cause: cause(),
                }
                .into(),
                nothing,
            ),
            (
                StoreError::Interrupted {
                    what: what(),
                    cause: cause(),
                }
                .into(),
                transient,
            ),
            (Interrupted.into(), transient),
            (
                ArchiveError::NotAnArchive {
                    url: url(),
                    reason: reason(),
                },
                nothing,
            ),
            (
                ArchiveError::Unfit {
                    url: url(),
                    reason: reason(),
                },
                nothing,
            ),
            (ArchiveError::Timeless { url: url() }, nothing),
            (ArchiveError::EmptyStore { url: url() }, nothing),
            (ArchiveError::BaseExists { object: object() }, nothing),
            (ArchiveError::UnknownHistory { id }, nothing),
            (ArchiveError::Cycle { id }, nothing),
            (ArchiveError::NothingStored { id }, nothing),
        ] {
            let says = (
                error.is_damage(),
                error.is_unreadable(),
                error.is_transient(),
            );
            assert_eq!(says, expected, "{error:?}");
        }
    }
}
