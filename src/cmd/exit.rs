//! Which exit code an error of the layers below means.

use super::{Exit, Failure};
use crate::archive::ArchiveError;
use crate::capture::SessionEnd;
use crate::capture::full_sync::FullSyncError;
use crate::config::ConfigError;
use crate::consolidate::ConsolidateError;
use crate::fixture::FixtureError;
use crate::link::LinkError;
use crate::lookup::LookupError;
use crate::rebuild::RebuildError;
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
            | SessionEnd::Strange { .. }
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

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        let exit = match &error {
            RestoreError::Archive(error) | RestoreError::Rebuild(RebuildError::Archive(error)) => {
                of_archive(error)
            }
            error if error.is_damage() => Exit::Damaged,
            RestoreError::Ambiguous(_)
            | RestoreError::NothingToRestore { .. }
            | RestoreError::BeforeOldest { .. }
            | RestoreError::AfterLatest { .. }
            | RestoreError::SteppedOver { .. }
            | RestoreError::CannotContinue { .. }
            | RestoreError::NotASnapshot { .. }
            | RestoreError::Rebuild(_)
            | RestoreError::Rewrite(_)
            | RestoreError::Strip(_)
            | RestoreError::Unreplayable(_) => Exit::NothingToRestore,
            RestoreError::When(_) => Exit::Usage,
            RestoreError::Control(_)
            | RestoreError::Refused { .. }
            | RestoreError::InTheWay { .. }
            | RestoreError::Feeding { .. }
            | RestoreError::LeftFollowing { .. }
            | RestoreError::KeysLeft { .. }
            | RestoreError::Differs { .. } => Exit::Redis,
            _ => Exit::Error,
        };
        Self::new(exit, error)
    }
}

impl From<ConsolidateError> for Failure {
    fn from(error: ConsolidateError) -> Self {
        match error {
            ConsolidateError::Restore(error) => error.into(),
            ConsolidateError::Archive(error) => error.into(),
            ConsolidateError::Rebuild(RebuildError::Archive(error)) => error.into(),
            ConsolidateError::Blocked { .. } => Self::new(Exit::NothingToRestore, error),
            ConsolidateError::Rebuild(_) | ConsolidateError::Differs { .. } => {
                Self::new(Exit::Error, error)
            }
        }
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Restore(error) => error.into(),
            LookupError::Rebuild(RebuildError::Archive(error)) => error.into(),
            LookupError::Rebuild(ref base) if base.is_damage() => Self::new(Exit::Damaged, error),
            LookupError::Reversed { .. } => Self::new(Exit::Usage, error),
            LookupError::Stopped { .. } | LookupError::Apart { .. } => {
                Self::new(Exit::NothingToRestore, error)
            }
            LookupError::Rebuild(_) | LookupError::Memory { .. } => Self::new(Exit::Error, error),
        }
    }
}

impl From<SidecarError> for Failure {
    fn from(error: SidecarError) -> Self {
        match error {
            SidecarError::Session(end) => end.into(),
            SidecarError::Restore(error) => error.into(),
            SidecarError::Control(_) | SidecarError::Serve(_) | SidecarError::NotPromoted => {
                Self::new(Exit::Redis, error)
            }
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
