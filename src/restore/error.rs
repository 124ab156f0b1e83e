//! Why a restore did not happen.

use std::path::PathBuf;

use super::master::error::ServeError;
use super::proof::Differs;
use crate::archive::ArchiveError;
use crate::link::control::ControlError;
use crate::rebuild::{RebuildError, Stop};
use crate::recovery::error::RecoveryError;
use crate::wire::position::{Offset, ReplId};

/// What an operator may ask for, when a restore was refused without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// A restore to a target that is not empty, or of which something is not known.
    Force,
    /// A restore of keys over those that are there.
    Replace,
}

/// Why a restore did not happen. Whatever is found by a check is found before the target is touched.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The point cannot be read.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The original history may not be continued from here.
    #[error(
        "history {history} cannot be continued: {reason}. A restore that does not continue it gives the server an id \
         of its own"
    )]
    CannotContinue {
        /// The history.
        history: ReplId,
        /// Why.
        reason: String,
    },
    /// Another history already continues the one that was to be continued.
    #[error(
        "{child} already continues history {history}. Restore {child}, or restore without continuing the history"
    )]
    GoesOn {
        /// The history.
        history: ReplId,
        /// The one that continues it.
        child: ReplId,
    },
    /// Another process is restoring a server from the history, because it took this one for dead.
    #[error(
        "this server is not promoted: this restore was silent for too long, and {writer} restores another Redis from \
         history {history} now"
    )]
    LeaseLost {
        /// The history.
        history: ReplId,
        /// Who.
        writer: String,
    },
    /// A file or directory is in the way.
    #[error(
        "{path} {reason}. Nothing was written. Choose another place, or force the restore to replace it"
    )]
    InTheWay {
        /// What.
        path: PathBuf,
        /// What it is.
        reason: &'static str,
    },
    /// The log cannot be applied up to the goal, so no RDB file can hold it.
    #[error(
        "an RDB file cannot be made for {goal} (offset {end}): {why}. Restore to aof:DIRECTORY or to a server, which \
         replay the log. Or ask for offset {reachable}"
    )]
    NotASnapshot {
        /// What was asked for.
        goal: String,
        /// The end of the plan.
        end: Offset,
        /// How far the log can be applied.
        reachable: Offset,
        /// Why not further.
        why: Box<Stop>,
    },
    /// The snapshot and the log cannot be made one.
    #[error(
        "an RDB file cannot be made: {0}. Restore to aof:DIRECTORY or to a server, which replay the log"
    )]
    Rebuild(#[from] RebuildError),
    /// A file could not be written.
    #[error("cannot write {path}: {source}{}", advice(.source))]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The target does not answer, or not as expected.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The target cannot take this restore. Nothing was changed there.
    #[error("{addr} {reason}. Nothing was changed there")]
    Refused {
        /// The target.
        addr: String,
        /// Why, and what to try.
        reason: String,
        /// What would have it done all the same.
        remedy: Option<Remedy>,
    },
    /// Feeding the target failed.
    #[error(
        "feeding {addr} failed: {source}. It may still be a replica of this restore, and then takes no writes. Force \
         the restore again, or open it as it is: redis-cli REPLICAOF NO ONE"
    )]
    Feeding {
        /// The target.
        addr: String,
        /// Why.
        source: Box<ServeError>,
    },
    /// The target began to follow us (`REPLICAOF`), and no longer answered after that.
    #[error(
        "{doing} failed: {source}. {addr} may still be a replica of this restore, and then takes no writes. Force the \
         restore again, or open it as it is: redis-cli REPLICAOF NO ONE"
    )]
    LeftFollowing {
        /// The target.
        addr: String,
        /// What was being done.
        doing: &'static str,
        /// Why that failed.
        source: ControlError,
    },
    /// Some of the chosen keys are there, and some are not.
    #[error(
        "{written} of the chosen keys are restored to {addr}. Then {what} failed: {source}. Run the restore again, and \
         replace the keys that are there"
    )]
    KeysLeft {
        /// The target.
        addr: String,
        /// Keys that were written.
        written: u64,
        /// What was being done.
        what: String,
        /// Why that failed.
        source: Box<ControlError>,
    },
    /// Some of the chosen keys were written, and are not there.
    #[error(
        "{missing} of the chosen keys were written to {addr} and are missing there, such as {such_as}: {why}. Correct \
         that. Then run the restore again, and replace the keys that are there"
    )]
    KeysMissing {
        /// The target.
        addr: String,
        /// How many.
        missing: u64,
        /// Some of them.
        such_as: String,
        /// Why that may be, and what to do.
        why: String,
    },
    /// A point that a cluster does not have.
    #[error("cannot restore the cluster at {goal}: {why}")]
    NoSlotMap {
        /// What was asked for.
        goal: String,
        /// Why not.
        why: String,
    },
    /// A shard that had slots at the instant cannot be read.
    #[error("shard {shard}: {source}")]
    OfShard {
        /// Its name.
        shard: String,
        /// Why not.
        source: Box<RestoreError>,
    },
    /// Some of the keys of a cluster are there, and some are not.
    #[error(
        "{written} keys are restored to {addr}. Then {what} failed: {source}. Empty the target and run the restore again, \
         or force it, to replace the keys that are there"
    )]
    ClusterLeft {
        /// The target.
        addr: String,
        /// Keys that were written.
        written: u64,
        /// What was being done.
        what: String,
        /// Why that failed.
        source: Box<ControlError>,
    },
    /// All keys of a cluster were written, and the target does not have as many.
    #[error(
        "{written} keys were restored to {addr}, and it does not hold what was restored: {how}. Were other clients writing \
         meanwhile, or is its maxmemory too small? Correct that, empty it, and run the restore again"
    )]
    ClusterDiffers {
        /// The target.
        addr: String,
        /// How.
        how: String,
        /// Keys that were written.
        written: u64,
    },
    /// There are no such keys.
    #[error("no key matches `{pattern}` at {goal}: nothing was written")]
    NoKeys {
        /// What was asked for.
        pattern: String,
        /// At which point.
        goal: String,
    },
    /// The port for the target could not be opened.
    #[error("cannot listen on {addr}: {source}. Choose another address to listen on")]
    Listen {
        /// Where.
        addr: String,
        /// Why.
        source: std::io::Error,
    },
    /// The target has everything, and does not hold what it should: it was not opened.
    #[error(
        "{addr} is not promoted, because it does not hold what was restored: {differs}. It may still be a replica of \
         this restore, and then takes no writes. Force the restore again, or open it as it is: redis-cli REPLICAOF NO \
         ONE"
    )]
    Unproved {
        /// The target.
        addr: String,
        /// How it differs.
        differs: Differs,
    },
    /// The target is not what it was any more.
    #[error(
        "{addr} was not restored: {differs}. What it holds now was left as it is. Check `INFO replication` there. If \
         its data may be overwritten, force the restore again"
    )]
    Changed {
        /// The target.
        addr: String,
        /// How it changed.
        differs: Differs,
    },
    /// After the restore, the target does not hold what it should.
    #[error("{addr} was restored and promoted, but {reason}")]
    Differs {
        /// The target.
        addr: String,
        /// How.
        reason: String,
    },
}

impl From<ArchiveError> for RestoreError {
    fn from(error: ArchiveError) -> Self {
        Self::Recovery(error.into())
    }
}

impl RestoreError {
    /// May the same restore succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Recovery(error) => error.is_transient(),
            Self::Rebuild(error) => error.is_transient(),
            Self::OfShard { source, .. } => source.is_transient(),
            Self::Control(source) | Self::LeftFollowing { source, .. } => !source.is_permanent(),
            Self::Feeding { source, .. } => source.is_transient(),
            _ => false,
        }
    }

    /// Is something in the archive damaged or missing?
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Recovery(error) => error.is_damage(),
            Self::Rebuild(error) => error.is_damage(),
            Self::OfShard { source, .. } => source.is_damage(),
            Self::Feeding { source, .. } => {
                matches!(source.as_ref(), ServeError::Content(error) if error.is_damage())
            }
            _ => false,
        }
    }

    /// Was the restore refused by a check, before anything was written or changed?
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Recovery(error) => error.is_refusal(),
            Self::OfShard { source, .. } => source.is_refusal(),
            Self::NoSlotMap { .. }
            | Self::Refused { .. }
            | Self::InTheWay { .. }
            | Self::NotASnapshot { .. }
            | Self::CannotContinue { .. }
            | Self::GoesOn { .. } => true,
            _ => false,
        }
    }
}

/// What to do about a file that cannot be written.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => ". Check that the directory exists",
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
            ". Choose a place where you may write"
        }
        std::io::ErrorKind::IsADirectory => ". Name a file",
        std::io::ErrorKind::NotADirectory => ". Name a directory",
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            ". Make room, or choose another place"
        }
        _ => "",
    }
}
