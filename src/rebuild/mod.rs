//! A new snapshot from an old one and the log after it, outside of any server.
//!
//! ```text
//! log ──▶ survey: which keys it touches, how far it can be applied
//! snapshot ──▶ untouched keys, as raw bytes ─────────────────────────────────┐
//!     └──────▶ touched keys ──▶ key space ◀── log, command by command        ├──▶ RDB
//!                                   └───▶ what became of them ───────────────┘
//! ```
//!
//! Memory grows with the keys that the log touches, not with the data set. A value is held from the first command that
//! reads it to the last one that touches it. If there are too many, the survey ends early, at a boundary between
//! commands. The rest is another stage.

mod commands;
mod first_pass;
mod rdb_out;
mod second_pass;
mod selection;
mod state;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::archive::{Archive, ArchiveError, BaseManifest};
use crate::model::ApplyError;
use crate::runtime::pipe::Interrupted;
use crate::wire::position::{Boundary, Offset, ReplId, TimeMark};
use crate::wire::rdb::cursor::BadValue;
use crate::wire::rdb::reader::ReadError;
use crate::wire::resp::commands::CommandsError;

pub use commands::{Argv, At, Taker, each_command};
pub use first_pass::{Given, Survey, survey, survey_all};
pub use rdb_out::Counts;
pub use second_pass::{count, write, write_counted, write_selected, write_served};
pub use selection::{Selection, SlotSet, TYPES};
pub use state::{State, load, state};

/// A piece of a log.
#[derive(Debug)]
pub enum LogItem {
    /// When the bytes that follow had been received.
    Marks(Vec<TimeMark>),
    /// Bytes of the feed.
    Bytes(Bytes),
}

/// A log that may be read several times.
pub type Log = Box<dyn Fn() -> BoxStream<'static, Result<LogItem, ArchiveError>> + Send + Sync>;

/// What a snapshot is made of.
pub struct Source {
    /// The archive with the old snapshot.
    pub archive: Archive,
    /// The old snapshot.
    pub base: BaseManifest,
    /// The log after it, without holes, up to a boundary.
    pub log: Log,
    /// The least `REDISnnnn` of the new snapshot. A snapshot of an older version has no place for some of what newer commands
    /// leave behind. None: that of the old snapshot.
    pub least_version: Option<u32>,
}

impl Source {
    /// Did a Valkey write it?
    fn is_valkey(&self) -> bool {
        self.base.server.flavour == "valkey"
    }

    /// The boundary of the old snapshot.
    #[must_use]
    pub fn start(&self) -> Boundary {
        Boundary {
            offset: self.base.offset,
            db: self.base.db,
        }
    }
}

/// Limits of a rebuild.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of memory for the keys that the log touches, at most.
    pub memory: usize,
    /// Bytes of log that are taken at most. The rest is left for another stage.
    pub log: u64,
}

/// The point and the history that the new snapshot names as its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stand {
    /// The point of the history, so that a replica can continue it.
    At(ReplId),
    /// None: it is a fork.
    Nowhere,
}

/// Why a log is not applied to its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Stop {
    /// A command cannot be applied.
    #[error("the command after offset {after} cannot be applied: {why}")]
    Command {
        /// Offset before the command.
        after: Offset,
        /// Why.
        why: ApplyError,
    },
    /// What it touches takes too much memory: the rest is for another stage.
    #[error("its keys take more memory than is allowed")]
    Memory,
    /// The allowed amount of log was taken. The rest is for another stage.
    #[error("enough log was taken for one stage")]
    Enough,
}

/// Why there is no new snapshot.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The archive failed, or is damaged.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The log is no feed.
    #[error("the log after the snapshot at offset {base}: {source}")]
    Log {
        /// The offset of the snapshot.
        base: Offset,
        /// What is wrong.
        source: Box<CommandsError<ApplyError>>,
    },
    /// The log ends within a command or a transaction. This is a bug, because the plan avoids it.
    #[error("the log ends within a command or a transaction, after offset {0}")]
    Incomplete(Offset),
    /// The old snapshot cannot be read.
    #[error("the snapshot at offset {base}: {source}")]
    Base {
        /// Its offset.
        base: Offset,
        /// What is wrong.
        source: Box<ReadError<BaseStop>>,
    },
    /// A command cannot be applied to what it finds, which the survey could not know.
    #[error("the command after offset {after} cannot be applied: {why}")]
    Command {
        /// The last boundary before it.
        after: Offset,
        /// Why.
        why: ApplyError,
    },
    /// The touched keys take more memory than is allowed.
    #[error("the keys that the log touches take more than the limit of {limit} bytes of memory")]
    Memory {
        /// The limit.
        limit: usize,
    },
    /// The new snapshot, read while it was sent, is not what was counted.
    #[error(
        "the snapshot that was made of base and log is wrong: {0}. This is a bug in backfeed: please report it. A replay \
         of the log (`serve_log`) does not need that snapshot"
    )]
    Wrong(String),
    /// The new snapshot was not made to its end.
    #[error("cannot make a snapshot: {0}")]
    Interrupted(#[from] Interrupted),
}

impl RebuildError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Archive(error) => error.is_transient(),
            Self::Interrupted(_) => true,
            _ => false,
        }
    }

    /// Is something in the archive damaged or missing, or no sound snapshot, or no sound feed?
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Base { source, .. } => {
                matches!(
                    **source,
                    ReadError::Walk(_) | ReadError::Key { .. } | ReadError::Trailing { .. }
                )
            }
            Self::Log { source, .. } => matches!(**source, CommandsError::Feed(_)),
            Self::Archive(error) => error.is_damage(),
            Self::Incomplete(_)
            | Self::Wrong(_)
            | Self::Command { .. }
            | Self::Memory { .. }
            | Self::Interrupted(_) => false,
        }
    }

    /// Would more memory help?
    #[must_use]
    pub fn needs_memory(&self) -> bool {
        let is_name = |source: &ReadError<BaseStop>| matches!(source, ReadError::LongName { .. });
        self.is_memory() || matches!(self, Self::Base { source, .. } if is_name(source))
    }

    /// Would less of the log help?
    #[must_use]
    pub fn is_memory(&self) -> bool {
        match self {
            Self::Memory { .. } => true,
            Self::Base { source, .. } => {
                matches!(**source, ReadError::Sink(BaseStop::Memory { .. }))
                    || matches!(**source, ReadError::TooLong { .. })
            }
            Self::Log { source, .. } => matches!(**source, CommandsError::TooLong { .. }),
            Self::Archive(_)
            | Self::Incomplete(_)
            | Self::Wrong(_)
            | Self::Command { .. }
            | Self::Interrupted(_) => false,
        }
    }
}

/// Why a snapshot cannot be rebuilt, though it is sound.
#[derive(Debug, thiserror::Error)]
pub enum BaseStop {
    /// It has something in it whose rules are not modelled.
    #[error("it holds {0}, which cannot be carried into a new snapshot")]
    Unmodelled(&'static str),
    /// A function library or the like cannot be read.
    #[error("{0}")]
    Bad(#[from] BadValue),
    /// A `FUNCTION` command of the log cannot be applied to what it holds.
    #[error("the command after offset {after} cannot be applied: {why}")]
    Function {
        /// The last boundary before it.
        after: Offset,
        /// Why.
        why: ApplyError,
    },
    /// The touched keys take too much memory.
    #[error("the touched keys take more than the limit of {limit} bytes of memory")]
    Memory {
        /// The limit.
        limit: usize,
    },
}
