//! Which exit code an error of the layers below means, and which flag may help.
//!
//! The layers below do not know the names of flags. Their messages name settings ([`settings`]), and [`Failure::hint`]
//! adds the flag that may help.

use super::{Exit, Failure, settings};
use crate::archive::{ArchiveError, MergeError};
use crate::capture::SessionEnd;
use crate::capture::full_sync::FullSyncError;
use crate::config::ConfigError;
use crate::consolidate::ConsolidateError;
use crate::copy::CopyError;
use crate::drill::{DrillError, StartError};
use crate::expiry::{ExpireError, HoldError};
use crate::fixture::FixtureError;
use crate::link::LinkError;
use crate::query::key_history::LookupError;
use crate::rebuild::RebuildError;
use crate::recovery::RecoveryError;
use crate::restore::{Remedy, RestoreError, ServeError};
#[cfg(feature = "http")]
use crate::service::http::BindError;
use crate::sidecar::SidecarError;
use crate::standby::{PromoteError, StandbyError};
use crate::store::StoreError;

/// Names the history.
const HISTORY: &str = "--history ID";
/// Allows more memory for keys.
const MEMORY: &str = "--memory-limit SIZE, with a larger size";

impl Failure {
    /// What to change on the command line, if this may help.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    fn with_hint(self, hint: Option<impl Into<String>>) -> Self {
        Self {
            hint: hint.map(Into::into),
            ..self
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, settings::in_flags(&error.to_string()))
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
            SessionEnd::SpoolLost(_) | SessionEnd::Less { .. } | SessionEnd::StartOver(_) => {
                Exit::Error
            }
            SessionEnd::Stopped | SessionEnd::Once(_) => Exit::Ok,
        };
        Self::new(exit, end)
    }
}

impl From<RecoveryError> for Failure {
    fn from(error: RecoveryError) -> Self {
        let hint = hint_of_recovery(&error);
        Self::new(of_recovery(&error), error).with_hint(hint)
    }
}

fn hint_of_recovery(error: &RecoveryError) -> Option<&'static str> {
    match error {
        RecoveryError::Ambiguous(_) | RecoveryError::UnreadableHistory { .. } => Some(HISTORY),
        _ => None,
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
        | RecoveryError::Expired { .. }
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
        let exit = of_restore(&error);
        let hint = hint_of_restore(&error);
        Self::new(exit, error).with_hint(hint)
    }
}

fn of_restore(error: &RestoreError) -> Exit {
    match error {
        RestoreError::OfShard { source, .. } => of_restore(source),
        RestoreError::Recovery(error) => of_recovery(error),
        RestoreError::Rebuild(error) => of_rebuild(error),
        error if error.is_damage() => Exit::Damaged,
        RestoreError::NoKeys { .. }
        | RestoreError::CannotContinue { .. }
        | RestoreError::GoesOn { .. }
        | RestoreError::NoSlotMap { .. }
        | RestoreError::NotASnapshot { .. } => Exit::NothingToRestore,
        RestoreError::LeaseLost { .. } => Exit::Superseded,
        RestoreError::Control(_)
        | RestoreError::Refused { .. }
        | RestoreError::InTheWay { .. }
        | RestoreError::Feeding { .. }
        | RestoreError::LeftFollowing { .. }
        | RestoreError::KeysLeft { .. }
        | RestoreError::KeysMissing { .. }
        | RestoreError::ClusterLeft { .. }
        | RestoreError::ClusterDiffers { .. }
        | RestoreError::Unproved { .. }
        | RestoreError::Changed { .. }
        | RestoreError::Differs { .. } => Exit::Redis,
        _ => Exit::Error,
    }
}

fn hint_of_restore(error: &RestoreError) -> Option<&'static str> {
    match error {
        RestoreError::Recovery(error) => hint_of_recovery(error),
        RestoreError::Rebuild(error) => hint_of_rebuild(error),
        RestoreError::OfShard { source, .. } => match source.as_ref() {
            // It would name a history of all shards.
            RestoreError::Recovery(_) => None,
            source => hint_of_restore(source),
        },
        RestoreError::CannotContinue { .. } | RestoreError::GoesOn { .. } => {
            Some("leave out --continue-history")
        }
        RestoreError::Feeding { source, .. }
            if matches!(**source, ServeError::NeverCame { .. }) =>
        {
            Some(
                "--force, and --listen ADDR (where to listen) or --announce ADDR (where the server connects to)",
            )
        }
        RestoreError::InTheWay { .. }
        | RestoreError::ClusterLeft { .. }
        | RestoreError::Feeding { .. }
        | RestoreError::LeftFollowing { .. }
        | RestoreError::Unproved { .. }
        | RestoreError::Changed { .. } => Some("--force"),
        RestoreError::KeysLeft { .. } | RestoreError::KeysMissing { .. } => Some("--replace"),
        RestoreError::Refused { remedy, .. } => remedy.map(|remedy| match remedy {
            Remedy::Force => "--force",
            Remedy::Replace => "--replace",
        }),
        RestoreError::Listen { .. } => Some("--listen ADDR, with another address"),
        _ => None,
    }
}

impl From<ConsolidateError> for Failure {
    fn from(error: ConsolidateError) -> Self {
        match error {
            ConsolidateError::Restore(error) => error.into(),
            ConsolidateError::Archive(error) => error.into(),
            ConsolidateError::Rebuild(error) => error.into(),
            ConsolidateError::Blocked { .. } => Self::new(Exit::NothingToRestore, error),
            ConsolidateError::TooManyStages { .. } => {
                Self::new(Exit::Error, error).with_hint(Some(MEMORY))
            }
            ConsolidateError::TooLong { .. }
            | ConsolidateError::Stuck { .. }
            | ConsolidateError::Differs { .. } => Self::new(Exit::Error, error),
        }
    }
}

impl From<CopyError> for Failure {
    fn from(error: CopyError) -> Self {
        let exit = match &error {
            CopyError::Places(_) => Exit::Usage,
            CopyError::Archive { error, .. } => of_archive(error),
            CopyError::OtherArchive { .. } => Exit::Store,
            CopyError::Differs { .. } => Exit::Superseded,
        };
        Self::new(exit, error)
    }
}

impl From<MergeError> for Failure {
    fn from(error: MergeError) -> Self {
        match error {
            MergeError::Archive(error) => error.into(),
            MergeError::Differs { .. } => Self::new(Exit::Damaged, error),
        }
    }
}

impl From<LookupError> for Failure {
    fn from(error: LookupError) -> Self {
        match error {
            LookupError::Restore(error) => error.into(),
            LookupError::Rebuild(error) => error.into(),
            LookupError::Reversed { .. } => Self::new(Exit::Usage, error).with_hint(Some(
                "--from with the earlier point, --at with the later one",
            )),
            LookupError::Stopped { .. } | LookupError::Unknown { .. } => {
                Self::new(Exit::NothingToRestore, error)
            }
            LookupError::Apart { .. } => Self::new(Exit::NothingToRestore, error).with_hint(Some(
                "backfeed restore --to FILE.rdb, for each of both points",
            )),
            LookupError::Memory { .. } => Self::new(Exit::Error, error).with_hint(Some(MEMORY)),
        }
    }
}

impl From<DrillError> for Failure {
    fn from(error: DrillError) -> Self {
        match error {
            DrillError::Restore(error) => error.into(),
            DrillError::Start(error) => error.into(),
            DrillError::Control(_) => Self::new(Exit::Redis, error),
            DrillError::Rdb(_) => Self::new(Exit::Damaged, error),
        }
    }
}

impl From<StandbyError> for Failure {
    fn from(error: StandbyError) -> Self {
        Self::new(Exit::Error, error)
    }
}

impl From<PromoteError> for Failure {
    fn from(error: PromoteError) -> Self {
        match error {
            PromoteError::Restore(error) => error.into(),
            PromoteError::Archive(error) => error.into(),
            PromoteError::Recovery(error) => error.into(),
            PromoteError::Seal { .. } => Self::new(Exit::Store, error),
            PromoteError::Control(_)
            | PromoteError::NoReplica { .. }
            | PromoteError::NoHistory { .. }
            | PromoteError::Unknown { .. }
            | PromoteError::NotLatest { .. }
            | PromoteError::Behind { .. }
            | PromoteError::Sealed { .. }
            | PromoteError::Ahead { .. }
            | PromoteError::Differs { .. } => Self::new(Exit::Redis, error),
        }
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::new(Exit::Error, error)
    }
}

impl From<SidecarError> for Failure {
    fn from(error: SidecarError) -> Self {
        match error {
            SidecarError::Session(end) => end.into(),
            SidecarError::Restore(error) => {
                // A sidecar does not have the other flags of a restore.
                let hint = match &error {
                    RestoreError::Recovery(error) => hint_of_recovery(error),
                    _ => None,
                };
                Self::from(error).with_hint(hint)
            }
            SidecarError::Control(_)
            | SidecarError::Serve(_)
            | SidecarError::Unproved(_)
            | SidecarError::NotPromoted
            | SidecarError::KeyDb => Self::new(Exit::Redis, error),
            SidecarError::Name {
                ref url,
                ref recorded,
                ref name,
            } => {
                let hint = format!("--store {url}/{name}, or --name {recorded}");
                Self::new(Exit::Usage, error).with_hint(Some(hint))
            }
            SidecarError::TakenOver { .. } => Self::new(Exit::Superseded, error),
            SidecarError::Listen { .. } => {
                Self::new(Exit::Error, error).with_hint(Some("--listen ADDR, with another address"))
            }
        }
    }
}

impl From<ExpireError> for Failure {
    fn from(error: ExpireError) -> Self {
        let (exit, hint) = match &error {
            ExpireError::Archive(error) => (of_archive(error), None),
            ExpireError::Ambiguous(_) => (
                Exit::NothingToRestore,
                Some("--source HOST:PORT, with the source that wrote the latest one"),
            ),
            ExpireError::Unreadable { .. } | ExpireError::Unsound { .. } => (Exit::Damaged, None),
            ExpireError::Clock { .. } => (Exit::Error, None),
        };
        Self::new(exit, error).with_hint(hint)
    }
}

impl From<HoldError> for Failure {
    fn from(error: HoldError) -> Self {
        match error {
            HoldError::Recovery(error) => error.into(),
            HoldError::Archive(error) => error.into(),
            HoldError::Exists(_) => Self::new(Exit::Usage, error),
            HoldError::TooLate(_) => Self::new(Exit::NothingToRestore, error),
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

#[cfg(feature = "http")]
impl From<BindError> for Failure {
    fn from(error: BindError) -> Self {
        Self::new(Exit::Error, error).with_hint(Some("--http ADDR, with another port"))
    }
}

impl From<RebuildError> for Failure {
    fn from(error: RebuildError) -> Self {
        let hint = hint_of_rebuild(&error);
        Self::new(of_rebuild(&error), error).with_hint(hint)
    }
}

fn hint_of_rebuild(error: &RebuildError) -> Option<&'static str> {
    error.needs_memory().then_some(MEMORY)
}

/// One cause has one code, whether a file, a base, one key or a comparison needed the state of a point.
fn of_rebuild(error: &RebuildError) -> Exit {
    match error {
        RebuildError::Archive(error) => of_archive(error),
        error if error.is_damage() => Exit::Damaged,
        // Another setting helps.
        error if error.needs_memory() => Exit::Error,
        RebuildError::Base { .. } | RebuildError::Log { .. } | RebuildError::Command { .. } => {
            Exit::NothingToRestore
        }
        RebuildError::Incomplete(_)
        | RebuildError::Wrong(_)
        | RebuildError::Memory { .. }
        | RebuildError::Interrupted(_) => Exit::Error,
    }
}

fn of_archive(error: &ArchiveError) -> Exit {
    match error {
        ArchiveError::Store(_)
        | ArchiveError::NotAnArchive { .. }
        | ArchiveError::Unfit { .. }
        | ArchiveError::Timeless { .. } => Exit::Store,
        ArchiveError::EmptyStore { .. }
        | ArchiveError::UnknownHistory { .. }
        | ArchiveError::NothingStored { .. } => Exit::NothingToRestore,
        ArchiveError::NewerFormat { .. }
        | ArchiveError::Missing { .. }
        | ArchiveError::Truncated { .. }
        | ArchiveError::Damaged { .. }
        | ArchiveError::Renamed { .. }
        | ArchiveError::Cycle { .. } => Exit::Damaged,
        ArchiveError::BaseExists { .. } | ArchiveError::Swept { .. } => Exit::Error,
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

    #[test]
    fn an_error_without_flags_gets_the_flag_that_helps() {
        let memory = || RebuildError::Memory { limit: 1 };
        let of = |failure: &Failure| failure.hint().map(str::to_owned);
        for failure in [
            Failure::from(RestoreError::Rebuild(memory())),
            Failure::from(ConsolidateError::Rebuild(memory())),
            Failure::from(LookupError::Rebuild(memory())),
        ] {
            assert!(!failure.to_string().contains("--"), "{failure}");
            assert_eq!(of(&failure).as_deref(), Some(MEMORY));
        }
        let in_the_way = || RestoreError::InTheWay {
            path: "/dump.rdb".into(),
            reason: "exists",
        };
        let of_restore = Failure::from(in_the_way());
        assert_eq!(of(&of_restore).as_deref(), Some("--force"));
        // A sidecar has no such flag.
        assert_eq!(of(&SidecarError::Restore(in_the_way()).into()), None);
        for (remedy, hint) in [
            (Some(Remedy::Force), Some("--force")),
            (Some(Remedy::Replace), Some("--replace")),
            (None, None),
        ] {
            let refused = Failure::from(RestoreError::Refused {
                addr: "h:6379".to_owned(),
                reason: "is not as it should be".to_owned(),
                remedy,
            });
            assert_eq!(of(&refused).as_deref(), hint);
        }
        let name = Failure::from(SidecarError::Name {
            url: "file:///b".to_owned(),
            recorded: "a".to_owned(),
            name: "b".to_owned(),
        });
        assert!(!name.to_string().contains("--"), "{name}");
        assert_eq!(
            of(&name).as_deref(),
            Some("--store file:///b/b, or --name a")
        );
    }
}
