//! Telling how far a restore has come: a bar at a terminal, a line now and then elsewhere, `/readyz` of a service, nothing in tests.

use crate::monitoring::status::Work;

/// What a restore is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Reading everything once to know that it is whole.
    Checking,
    /// The target has come and waits for the snapshot.
    Preparing,
    /// Sending or writing the snapshot.
    Snapshot,
    /// Sending or writing the log.
    Log,
    /// Everything is sent. The target loads and applies it.
    Applying,
    /// The target has been opened, and writes its append-only file.
    Rewriting,
    /// Segments become spans.
    Merging,
    /// Objects go to another store.
    Copying,
}

impl Stage {
    /// For people.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Checking => "checking the archive",
            Self::Preparing => "preparing",
            Self::Snapshot => "snapshot",
            Self::Log => "log",
            Self::Applying => "the target loads and applies it",
            Self::Rewriting => "the target writes its AOF",
            Self::Merging => "merging the log",
            Self::Copying => "copying",
        }
    }
}

/// Is told how far a restore has come.
pub trait Progress: Send + Sync {
    /// A stage begins, with this many bytes if that is known.
    fn stage(&self, stage: Stage, bytes: Option<u64>);
    /// This many more bytes of it are done.
    fn advance(&self, bytes: u64);
}

/// Part of what a service does.
impl Progress for Work {
    fn stage(&self, stage: Stage, bytes: Option<u64>) {
        Self::stage(self, stage.title(), bytes);
    }
    fn advance(&self, bytes: u64) {
        Self::advance(self, bytes);
    }
}

/// Nobody listens.
impl Progress for () {
    fn stage(&self, _: Stage, _: Option<u64>) {}
    fn advance(&self, _: u64) {}
}
