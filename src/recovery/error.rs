//! Why a point cannot be read from the archive.

use crate::archive::{Ambiguous, ArchiveError};
use crate::model::expiry::feed::FeedRewriteError;
use crate::recovery::target::BadRecoveryTarget;
use crate::wire::position::{Offset, Position, ReplId};
use crate::wire::rdb::WalkError;
use crate::wire::rdb::strip::StripError;
use crate::wire::resp::FeedError;

/// Why a point cannot be read from the archive.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The archive could not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Several histories could be meant.
    #[error("{0}")]
    Ambiguous(#[from] Ambiguous),
    /// A document that says what there is cannot be used.
    #[error(
        "history {history}, which may be the latest, cannot be read: {reason}. Another history can be restored by its \
         id"
    )]
    UnreadableHistory {
        /// Which.
        history: ReplId,
        /// The object, and what is wrong with it.
        reason: String,
    },
    /// There is no base at all.
    #[error("{url} holds no complete snapshot yet: the first full sync is not finished")]
    NothingToRestore {
        /// The archive.
        url: String,
    },
    /// The point cannot be read.
    #[error(transparent)]
    When(#[from] BadRecoveryTarget),
    /// The goal is before everything that is stored.
    #[error("{goal} is before the oldest point that can be restored, {oldest}")]
    BeforeOldest {
        /// What was asked for.
        goal: String,
        /// The oldest base.
        oldest: String,
    },
    /// The goal was stored, and a policy does not keep it.
    #[error(
        "{goal} has expired: the oldest point that can be restored is {oldest}{}",
        also(.snapshots)
    )]
    Expired {
        /// What was asked for.
        goal: String,
        /// The oldest point.
        oldest: String,
        /// Snapshots before it that can be restored by their offsets.
        snapshots: Vec<String>,
    },
    /// The goal is after everything that is stored.
    #[error(
        "{goal} is after the last point that is stored, {last}. Ask for `latest`, or an earlier point"
    )]
    AfterLatest {
        /// What was asked for.
        goal: String,
        /// The last boundary.
        last: Position,
    },
    /// The clock that times were taken from went back, so that this one names no point.
    #[error(transparent)]
    ClockWentBack(Box<ClockWentBack>),
    /// The log has a hole before the goal.
    #[error(
        "the log of history {history} has a gap: byte {missing} is missing{}, so {goal} cannot be reached from the \
         snapshot at offset {base}. Ask for offset {reachable}, the last one before the gap",
        .next.map(|next| format!(" (the next segment begins at byte {next})")).unwrap_or_default()
    )]
    Gap {
        /// Whose log.
        history: ReplId,
        /// The first missing byte.
        missing: u64,
        /// Where the log continues.
        next: Option<u64>,
        /// What was asked for.
        goal: String,
        /// The base that was to be used.
        base: Offset,
        /// The last boundary before the gap.
        reachable: Offset,
        /// Nobody has those bytes, because a full sync stepped over them. A snapshot follows them instead.
        stepped_over: bool,
    },
    /// The goal is in a part that a full sync stepped over, and that nobody has.
    #[error(
        "{goal} cannot be restored: nobody has the log after {from} up to offset {upto}, because a full sync stepped \
         over it. Ask for offset {reachable}, the last point before, or for one from offset {upto} on"
    )]
    SteppedOver {
        /// What was asked for.
        goal: String,
        /// The last byte before them.
        from: Position,
        /// The last of them.
        upto: Offset,
        /// The last boundary before them.
        reachable: Offset,
    },
    /// The bases that could have served are damaged.
    #[error("there is no sound snapshot for {goal}: {}", .damaged.join("; "))]
    NoSoundBase {
        /// What was asked for.
        goal: String,
        /// Each with what is wrong with it.
        damaged: Vec<String>,
    },
    /// A snapshot's bytes are those that were stored, but they are no sound RDB.
    #[error("the snapshot at {base} is no sound RDB: {source}")]
    BadBase {
        /// The base.
        base: Position,
        /// What is wrong.
        source: Box<WalkError>,
    },
    /// A log's bytes are those that were stored, but they are no sound feed.
    #[error("the log of history {history} cannot be replayed: {source}")]
    BadLog {
        /// Whose.
        history: ReplId,
        /// What is wrong.
        source: FeedError,
    },
    /// A log cannot be rewritten for replay.
    #[error("the log cannot be prepared for a replay: {0}")]
    Rewrite(#[from] FeedRewriteError),
    /// The replication position could not be taken out of the snapshot.
    #[error("the snapshot cannot be prepared for a fork: {0}")]
    Strip(Box<StripError>),
    /// The log holds something that cannot be replayed.
    #[error("the log cannot be replayed: {0}")]
    Unreplayable(String),
}

fn also(alone: &[String]) -> String {
    match alone {
        [] => String::new(),
        alone => format!(". Snapshots before it: {}", alone.join(", ")),
    }
}

impl From<StripError> for RecoveryError {
    fn from(error: StripError) -> Self {
        Self::Strip(Box::new(error))
    }
}

impl RecoveryError {
    /// May the same succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Archive(error) if error.is_transient())
    }

    /// Is something in the archive damaged or missing?
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Archive(error) => error.is_damage(),
            Self::UnreadableHistory { .. }
            | Self::Gap { .. }
            | Self::NoSoundBase { .. }
            | Self::BadBase { .. }
            | Self::BadLog { .. } => true,
            _ => false,
        }
    }

    /// Does the archive hold no such point, with nothing wrong?
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::BeforeOldest { .. }
                | Self::Expired { .. }
                | Self::AfterLatest { .. }
                | Self::SteppedOver { .. }
                | Self::ClockWentBack(_)
                | Self::Ambiguous(_)
                | Self::When(_)
        )
    }
}

/// The clock that times were taken from went back.
#[derive(Debug, thiserror::Error)]
#[error(
    "{goal} names no point of history {history}: the clock of backfeed's machine went back from {held} to {back}, so \
     times from {from_time} to {held} do not say what had been received. Ask for `latest`, for a time outside of that \
     span, or for an offset between {from} and {upto} (`offset:{upto}`)"
)]
pub struct ClockWentBack {
    /// What was asked for.
    pub goal: String,
    /// Whose log.
    pub history: ReplId,
    /// The last time before it went back.
    pub held: String,
    /// What it went back to.
    pub back: String,
    /// From this time on.
    pub from_time: String,
    /// The last byte with a time that is right.
    pub from: Offset,
    /// The last byte with one that is not.
    pub upto: Offset,
}
