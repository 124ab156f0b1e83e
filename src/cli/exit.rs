//! Which exit code an error of the layers below means.

use std::fmt;

use super::{Exit, Failure};
use crate::archive::ArchiveError;
use crate::capture::SessionEnd;
use crate::capture::full_sync::FullSyncError;
use crate::config::ConfigError;
use crate::consolidate::ConsolidateError;
use crate::fixture::FixtureError;
use crate::link::LinkError;
use crate::query::key_history::LookupError;
use crate::rebuild::RebuildError;
use crate::recovery::RecoveryError;
use crate::restore::RestoreError;
use crate::sidecar::SidecarError;
use crate::store::StoreError;

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(Exit::Store, error)
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::new(of_archive(&error), error)
    }
}

impl From<SessionEnd> for Failure {
    fn from(end: SessionEnd) -> Self {
        let exit = match &end {
            SessionEnd::Link(_)
            | SessionEnd::Control(_)
            | SessionEnd::Sentinel(_)
            | SessionEnd::Moved { .. }
            | SessionEnd::FullSyncLimit { .. }
            | SessionEnd::BacklogOverrun { .. }
            | SessionEnd::ForeignFeed { .. }
            | SessionEnd::Feed(_) => Exit::Redis,
            SessionEnd::FullSync(FullSyncError::Archive(error)) | SessionEnd::Archive(error) => {
                of_archive(error)
            }
            SessionEnd::FullSync(_) => Exit::Redis,
            SessionEnd::StoreStalled { .. } => Exit::Store,
            SessionEnd::Superseded { .. } => Exit::Superseded,
            SessionEnd::SpoolLost(_) | SessionEnd::Tiny { .. } | SessionEnd::StartOver(_) => {
                Exit::Error
            }
            SessionEnd::Stopped | SessionEnd::Once(_) => Exit::Ok,
        };
        Self::new(exit, end)
    }
}

impl From<RecoveryError> for Failure {
    fn from(error: RecoveryError) -> Self {
        Self::new(of_recovery(&error), error)
    }
}

fn of_recovery(error: &RecoveryError) -> Exit {
    match error {
        RecoveryError::Archive(error) => of_archive(error),
        RecoveryError::When(_) => Exit::Usage,
        error if error.is_damage() => Exit::Damaged,
        RecoveryError::Ambiguous(_)
        | RecoveryError::NothingToRestore { .. }
        | RecoveryError::BeforeOldest { .. }
        | RecoveryError::AfterLatest { .. }
        | RecoveryError::SteppedOver { .. }
        | RecoveryError::ClockWentBack(_)
        | RecoveryError::Rewrite(_)
        | RecoveryError::Strip(_)
        | RecoveryError::Unreplayable(_) => Exit::NothingToRestore,
        _ => Exit::Error,
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        let exit = match &error {
            RestoreError::Recovery(error) => of_recovery(error),
            RestoreError::Rebuild(error) => of_rebuild(error),
            error if error.is_damage() => Exit::Damaged,
            RestoreError::NoKeys { .. }
            | RestoreError::CannotContinue { .. }
            | RestoreError::GoesOn { .. }
            | RestoreError::NotASnapshot { .. } => Exit::NothingToRestore,
            RestoreError::LeaseLost { .. } => Exit::Superseded,
            RestoreError::Control(_)
            | RestoreError::Refused { .. }
            | RestoreError::InTheWay { .. }
            | RestoreError::Feeding { .. }
            | RestoreError::LeftFollowing { .. }
            | RestoreError::KeysLeft { .. }
            | RestoreError::KeysMissing { .. }
            | RestoreError::Unproved { .. }
            | RestoreError::Changed { .. }
            | RestoreError::Differs { .. } => Exit::Redis,
            _ => Exit::Error,
        };
        match &error {
            RestoreError::Rebuild(of) => Self::of_rebuild(of, exit, &error),
            _ => Self::new(exit, error),
        }
    }
}

impl From<ConsolidateError> for Failure {
    fn from(error: ConsolidateError) -> Self {
        match error {
            ConsolidateError::Restore(error) => error.into(),
            ConsolidateError::Archive(error) => error.into(),
            ConsolidateError::Rebuild(error) => {
                Self::of_rebuild(&error, of_rebuild(&error), &error)
            }
            ConsolidateError::Blocked { .. } => Self::new(Exit::NothingToRestore, error),
            ConsolidateError::TooManyStages { .. } => {
                Self::new(Exit::Error, format_args!("{error} ({MEMORY_FLAG})"))
            }
            ConsolidateError::TooLong { .. }
            | ConsolidateError::Stuck { .. }
            | ConsolidateError::Differs { .. } => Self::new(Exit::Error, error),
        }
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Restore(error) => error.into(),
            LookupError::Rebuild(error) => Self::of_rebuild(&error, of_rebuild(&error), &error),
            LookupError::Reversed { .. } => Self::new(
                Exit::Usage,
                format_args!("{error} (--from is the earlier one, --at the later one)"),
            ),
            LookupError::Stopped { .. }
            | LookupError::Unknown { .. }
            | LookupError::Apart { .. } => Self::new(Exit::NothingToRestore, error),
            LookupError::Memory { .. } => {
                Self::new(Exit::Error, format_args!("{error} ({MEMORY_FLAG})"))
            }
        }
    }
}

impl From<SidecarError> for Failure {
    fn from(error: SidecarError) -> Self {
        match error {
            SidecarError::Session(end) => end.into(),
            SidecarError::Restore(error) => error.into(),
            SidecarError::Control(_)
            | SidecarError::Serve(_)
            | SidecarError::Unproved(_)
            | SidecarError::NotPromoted
            | SidecarError::KeyDb => Self::new(Exit::Redis, error),
            SidecarError::Name { .. } => Self::new(Exit::Usage, error),
            SidecarError::TakenOver { .. } => Self::new(Exit::Superseded, error),
            SidecarError::Listen { .. } => Self::new(Exit::Error, error),
        }
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        Self::new(Exit::Redis, error)
    }
}

impl From<FixtureError> for Failure {
    fn from(error: FixtureError) -> Self {
        let exit = match &error {
            FixtureError::Recording { .. } => Exit::Damaged,
            FixtureError::File { .. } | FixtureError::Exists { .. } => Exit::Error,
        };
        Self::new(exit, error)
    }
}

/// What the verbs that end call their limit of memory.
const MEMORY_FLAG: &str = "--memory-limit";

impl Failure {
    /// With the flag that helps, where one does.
    fn of_rebuild(of: &RebuildError, exit: Exit, error: &dyn fmt::Display) -> Self {
        if of.needs_memory() {
            return Self::new(exit, format_args!("{error}: raise it with {MEMORY_FLAG}"));
        }
        Self::new(exit, error)
    }
}

/// The same cause is the same code, whoever wanted the state of a point: a file, a base, one key, a comparison.
fn of_rebuild(error: &RebuildError) -> Exit {
    match error {
        RebuildError::Archive(error) => of_archive(error),
        error if error.is_damage() => Exit::Damaged,
        // It can be had with another setting.
        error if error.needs_memory() => Exit::Error,
        RebuildError::Base { .. } | RebuildError::Log { .. } | RebuildError::Command { .. } => {
            Exit::NothingToRestore
        }
        RebuildError::Incomplete(_) | RebuildError::Memory { .. } => Exit::Error,
    }
}

fn of_archive(error: &ArchiveError) -> Exit {
    match error {
        ArchiveError::Store(_) | ArchiveError::NotAnArchive { .. } | ArchiveError::Unfit { .. } => {
            Exit::Store
        }
        ArchiveError::EmptyStore { .. }
        | ArchiveError::UnknownHistory { .. }
        | ArchiveError::NothingStored { .. } => Exit::NothingToRestore,
        ArchiveError::NewerFormat { .. }
        | ArchiveError::Missing { .. }
        | ArchiveError::Truncated { .. }
        | ArchiveError::Damaged { .. }
        | ArchiveError::Renamed { .. }
        | ArchiveError::Cycle { .. } => Exit::Damaged,
        ArchiveError::BaseExists { .. } => Exit::Error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Args;
    use crate::rebuild::BaseStop;
    use crate::wire::position::Offset;
    use crate::wire::rdb::cursor::BadValue;
    use crate::wire::rdb::reader::ReadError;

    type Cause = fn() -> ReadError<BaseStop>;

    #[test]
    fn one_cause_has_one_exit_code() {
        let base = |source| RebuildError::Base {
            base: Offset(1),
            source: Box::new(source),
        };
        let causes: [(Cause, Exit); 5] = [
            (
                || ReadError::Key {
                    at: 1,
                    source: BadValue("it is bad"),
                },
                Exit::Damaged,
            ),
            (|| ReadError::Trailing { at: 1 }, Exit::Damaged),
            (|| ReadError::TooLong { at: 1, limit: 2 }, Exit::Error),
            (|| ReadError::LongName { at: 1, limit: 2 }, Exit::Error),
            (
                || ReadError::Sink(BaseStop::Unmodelled("something")),
                Exit::NothingToRestore,
            ),
        ];
        let agree = |error: &dyn Fn() -> RebuildError, exit: Exit| {
            let of = [
                Failure::from(RestoreError::Rebuild(error())),
                Failure::from(ConsolidateError::Rebuild(error())),
                Failure::from(LookupError::Rebuild(error())),
            ];
            assert!(of.iter().all(|failure| failure.exit == exit), "{of:?}");
        };
        for (cause, exit) in causes {
            agree(&|| base(cause()), exit);
        }
        let why = Args::new(&[b"VADD"]).unmodelled("it is not known");
        let after = Offset(1);
        let command = || RebuildError::Command {
            after,
            why: why.clone(),
        };
        agree(&command, Exit::NothingToRestore);
        agree(&|| RebuildError::Memory { limit: 1 }, Exit::Error);
    }
}
