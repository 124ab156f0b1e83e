//! Why a target was not brought to the end, and how far it had come.

use crate::restore::error::RestoreError;
use crate::restore::proof::Differs;
use crate::wire::position::Offset;
use crate::wire::psync::master::RequestError;

/// Why a target was not brought to the end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It hung up.
    #[error("it closed the connection {0}; its own log says why")]
    Closed(Phase),
    /// The connection broke.
    #[error("the connection broke {phase}: {cause}")]
    Broken {
        /// When.
        phase: Phase,
        /// What the system said.
        cause: String,
    },
    /// It hangs.
    #[error("it neither took nor sent a byte for {seconds} s {phase}")]
    Stalled {
        /// When.
        phase: Phase,
        /// For how long.
        seconds: u64,
    },
    /// It is no replica.
    #[error("it sent {0}: is it a Redis replica?")]
    Request(RequestError),
    /// It speaks TLS to a listener that does not.
    #[error(
        "it speaks TLS, and this listen does not: give backfeed a certificate with --listen-tls-cert and --listen-tls-key, or \
         set `tls-replication no` on Redis"
    )]
    SpeaksTls,
    /// It gave the wrong credentials.
    #[error(
        "it gave a wrong {}: set masterauth on Redis to the password in --listen-password-file{}",
        if .user.is_some() { "user or password" } else { "password" },
        with_user(.user.as_deref())
    )]
    WrongPassword {
        /// The user that it should have given.
        user: Option<String>,
    },
    /// It gave no credentials.
    #[error(
        "it gave no password: set masterauth on Redis to the password in --listen-password-file{}",
        with_user(.user.as_deref())
    )]
    NoPassword {
        /// The user that it should have given.
        user: Option<String>,
    },
    /// It has another number of bytes than were sent.
    #[error(
        "it acknowledges offset {acked}, but exactly {expected} was sent: it must not be promoted"
    )]
    Diverged {
        /// What it says.
        acked: Offset,
        /// What it should say.
        expected: Offset,
    },
    /// It was told where to connect to, and did not.
    #[error(
        "it did not connect to {listen} within {seconds} s: can it reach that address? (--listen sets where to listen, \
         --announce what it is told)"
    )]
    NeverCame {
        /// What it was told.
        listen: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It came, and could not be let in.
    #[error("it could not be let in within {seconds} s: {reason}")]
    TurnedAway {
        /// The last reason.
        reason: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Somebody has made something else of it.
    #[error("{0}")]
    Changed(Differs),
    /// The content could not be read.
    #[error("{0}")]
    Content(#[from] Box<RestoreError>),
    /// The content is not as long as was announced.
    #[error(
        "the {what} has {found} bytes more or less than the {expected} announced: a fault of backfeed"
    )]
    Length {
        /// What.
        what: &'static str,
        /// Announced.
        expected: u64,
        /// The difference.
        found: u64,
    },
}

impl ServeError {
    /// May another try help? The target comes again by itself each second.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Closed(_)
            | Self::Broken { .. }
            | Self::Stalled { .. }
            | Self::NeverCame { .. }
            | Self::TurnedAway { .. } => true,
            Self::Content(error) => error.is_transient(),
            Self::Request(_)
            | Self::Changed(_)
            | Self::SpeaksTls
            | Self::WrongPassword { .. }
            | Self::NoPassword { .. }
            | Self::Diverged { .. }
            | Self::Length { .. } => false,
        }
    }

    /// Did it come to nothing for a reason that an operator can mend, rather than as a probe of the port does?
    #[must_use]
    pub fn is_misconfigured(&self) -> bool {
        matches!(
            self,
            Self::SpeaksTls | Self::WrongPassword { .. } | Self::NoPassword { .. }
        )
    }
}

impl From<RequestError> for ServeError {
    fn from(error: RequestError) -> Self {
        match error {
            RequestError::Tls => Self::SpeaksTls,
            error => Self::Request(error),
        }
    }
}

fn with_user(user: Option<&str>) -> String {
    user.map_or_else(String::new, |user| format!(", and masteruser to {user}"))
}

/// How far a target had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has not asked for a sync yet.
    Handshake,
    /// The snapshot is being prepared.
    Preparing,
    /// In the snapshot.
    Snapshot,
    /// In the log.
    Log,
    /// Everything has been sent.
    Applying,
    /// It has everything and waits to be promoted.
    CaughtUp,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Handshake => "before it asked for a sync",
            Self::Preparing => "while the snapshot was prepared",
            Self::Snapshot => "while it was sent the snapshot",
            Self::Log => "while it was sent the log",
            Self::Applying => "while it loaded the snapshot or applied the log",
            Self::CaughtUp => "after it had everything",
        })
    }
}
