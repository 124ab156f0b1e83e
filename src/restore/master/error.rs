//! Why a target was not fed to the end, and how far it had come.

use crate::restore::error::RestoreError;
use crate::restore::proof::Differs;
use crate::wire::position::Offset;
use crate::wire::psync::master::RequestError;

/// Why a target was not brought to the end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It hung up.
    #[error("the server closed the connection {0}. The log of the server says why")]
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
    #[error("it did not read or send a byte for {seconds} s {phase}")]
    Stalled {
        /// When.
        phase: Phase,
        /// How long it waited.
        seconds: u64,
    },
    /// It is no replica.
    #[error("it sent {0}. Check that it is a Redis replica")]
    Request(RequestError),
    /// It speaks TLS to a listener that does not.
    #[error(
        "it speaks TLS, and this listener does not. Give backfeed a certificate (`listen_tls_cert`, `listen_tls_key`), \
         or set `tls-replication no` on Redis"
    )]
    SpeaksTls,
    /// It gave the wrong credentials.
    #[error(
        "it gave a wrong {}. Set masterauth on Redis to the password in `listen_password_file`{}",
        if .user.is_some() { "user or password" } else { "password" },
        with_user(.user.as_deref())
    )]
    WrongPassword {
        /// The user that it should have given.
        user: Option<String>,
    },
    /// It gave no credentials.
    #[error(
        "it gave no password. Set masterauth on Redis to the password in `listen_password_file`{}",
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
    /// It got our address by `REPLICAOF`, and did not connect.
    #[error(
        "it did not connect to {listen} within {seconds} s. Check that it can reach that address, or \
         listen on another one, or announce another one to the server"
    )]
    NeverCame {
        /// The address that it got.
        listen: String,
        /// How long was waited.
        seconds: u64,
    },
    /// It came, and could not be let in.
    #[error("it was not admitted within {seconds} s: {reason}")]
    TurnedAway {
        /// The last reason.
        reason: String,
        /// How long was waited.
        seconds: u64,
    },
    /// Another client has changed its role or its master.
    #[error("{0}")]
    Changed(Differs),
    /// The content could not be read.
    #[error("{0}")]
    Content(#[from] Box<RestoreError>),
    /// The content is not as long as was announced.
    #[error(
        "the {what} has {found} bytes more or less than the {expected} announced. This is a bug in backfeed"
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

    /// Did it fail for a reason that an operator can remove, and not like a probe of the port?
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
            Self::Snapshot => "while the snapshot was sent",
            Self::Log => "while the log was sent",
            Self::Applying => "while it loaded the snapshot or applied the log",
            Self::CaughtUp => "after it had everything",
        })
    }
}
