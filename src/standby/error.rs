//! What can go wrong.

use std::io;
use std::net::SocketAddr;

use crate::archive::{ArchiveError, SealError};
use crate::link::control::ControlError;
use crate::recovery::RecoveryError;
use crate::restore::RestoreError;
use crate::wire::position::{Offset, ReplId};

/// Why a standby does not run.
#[derive(Debug, thiserror::Error)]
pub enum StandbyError {
    /// Of the system.
    #[error(
        "cannot listen on {addr} for replicas: {cause}. Choose another address with `listen`, or stop what listens there"
    )]
    Listen {
        /// The address.
        addr: SocketAddr,
        /// Why not.
        cause: io::Error,
    },
}

/// Why a replica was not promoted.
#[derive(Debug, thiserror::Error)]
pub enum PromoteError {
    /// The server does not answer, or refuses.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It is a master, or does not say what it is.
    #[error("{addr} is no replica{what}. Name a server that follows a standby of this store")]
    NoReplica {
        /// host:port
        addr: String,
        /// What it is, as a clause.
        what: String,
    },
    /// It does not say which history it has.
    #[error(
        "{addr} does not say which history it has (`INFO replication` is not permitted, or it never had a link to its master)"
    )]
    NoHistory {
        /// host:port
        addr: String,
    },
    /// The store has no such history.
    #[error(
        "{addr} follows history {history}, which {url} does not have. It follows another master than a standby of this store"
    )]
    Unknown {
        /// host:port
        addr: String,
        /// What it follows.
        history: ReplId,
        /// The store.
        url: String,
    },
    /// Another history is the latest.
    #[error(
        "{addr} is in history {history}, and the latest in the store is {latest}. Wait until it follows that one: the standby \
         tells it within seconds"
    )]
    NotLatest {
        /// host:port
        addr: String,
        /// What it follows.
        history: ReplId,
        /// What it should follow.
        latest: ReplId,
    },
    /// It lacks bytes that are stored, and does not get them.
    #[error(
        "{addr} is at offset {at}, and {what} at {wanted}. It did not come closer within the time: is its standby running \
         (master_link_status), and has it no delay?{}", sealed(*.is_sealed)
    )]
    Behind {
        /// host:port
        addr: String,
        /// Where it is.
        at: Offset,
        /// What ends there, as a clause.
        what: &'static str,
        /// Where that ends.
        wanted: Offset,
        /// The history was sealed already.
        is_sealed: bool,
    },
    /// It has bytes that are not stored.
    #[error(
        "{addr} is at offset {at}, beyond the end of history {history} at {end}: it has data that the store does not have, \
         from another master. It is not promoted. Its data can be kept with a backup of its own"
    )]
    Ahead {
        /// host:port
        addr: String,
        /// Where it is.
        at: Offset,
        /// The history.
        history: ReplId,
        /// Where that ends.
        end: Offset,
    },
    /// Something failed after the history was sealed.
    #[error(
        "{source}. History {history} is sealed, so its old server is not acknowledged any more: promote {addr} again. If it is a \
         master by then, that is recorded"
    )]
    Sealed {
        /// host:port
        addr: String,
        /// The history.
        history: ReplId,
        /// What failed.
        source: Box<PromoteError>,
    },
    /// It was promoted, but is not what it should be.
    #[error(
        "{addr} was promoted, but {what}. Nothing was recorded: look at it, and back it up as it is"
    )]
    Differs {
        /// host:port
        addr: String,
        /// What is not as it should be.
        what: String,
    },
    /// The seal could not be written.
    #[error("cannot seal history {history}: {source}")]
    Seal {
        /// The history.
        history: ReplId,
        /// Why.
        source: SealError,
    },
    /// Which history is the latest is not known, or the claim was lost.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The store.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Which history is meant is not known.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
}

fn sealed(is_sealed: bool) -> &'static str {
    match is_sealed {
        true => {
            " The history is sealed, so its old server is not acknowledged any more: promote again, this server or another one"
        }
        false => " Nothing was changed",
    }
}
