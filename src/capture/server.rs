//! The server that is captured: what it says of itself, and what an operator should know of it.

use super::SessionEnd;
use super::resume::Known;
use crate::archive::ServerInfo;
use crate::config::Source;
use crate::link::control::Control;
use crate::link::facts::Facts;
use crate::position::{Position, ReplId};

/// What the server says of itself. None when the user may not ask; that costs comfort, not the backup.
pub(super) async fn look(source: &Source) -> Result<Option<Facts>, SessionEnd> {
    let facts = match Control::connect(source).await {
        Ok(mut control) => control.facts().await,
        Err(error) => Err(error),
    };
    match facts {
        Ok(facts) => {
            if facts.is_keydb() {
                tracing::warn!(
                    "the server is a KeyDB: what backfeed knows of it was read in its source code, not tried. Values that it \
                     sends by RESTORE, and members that expire, are stored, but no new base can be made of them. Try a restore \
                     before you rely on it"
                );
            }
            Ok(Some(facts))
        }
        Err(error) if error.is_permission() || error.is_unknown_command() => {
            tracing::warn!(
                "INFO is not permitted (+info): resuming by the latest history in the store, and a SHUTDOWN of the server \
                 will wait for its shutdown-timeout"
            );
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn server_info(facts: Option<&Facts>) -> ServerInfo {
    match facts {
        Some(facts) => ServerInfo {
            flavour: facts.flavour.clone(),
            version: facts.version.clone(),
        },
        None => ServerInfo {
            flavour: "unknown".to_owned(),
            version: String::new(),
        },
    }
}

pub(crate) fn wants_version(facts: Option<&Facts>) -> bool {
    facts.is_none_or(|facts| {
        facts.flavour == "valkey" && facts.major().is_some_and(|major| major >= 9)
    })
}

/// Says why there is a full sync although there was something to go on from, and what would have avoided it.
/// Without `from`, there never was one, or `--once` asks for it.
pub(super) fn explain_full_sync(
    from: Option<Position>,
    at: Position,
    facts: Option<&Facts>,
    once: bool,
) {
    let Some(from) = from.filter(|_| !once) else {
        let why = if once {
            "one full sync (--once)"
        } else {
            "first full sync of this server"
        };
        tracing::info!(%at, "{why}");
        return;
    };
    if from.history == at.history {
        let backlog = facts.and_then(|facts| facts.backlog_size).unwrap_or(0);
        tracing::warn!(
            stored = %from, now = %at, backlog_bytes = backlog,
            "the server's backlog no longer holds what follows the stored offset: a new full sync. A larger \
             repl-backlog-size (it should hold the writes of the longest outage), or repl-backlog-ttl 0, avoids it"
        );
    } else {
        tracing::warn!(
            stored = %from, now = %at,
            "the server has another history than the store: a new full sync. It was restarted without a clean shutdown \
             that saves (save, or appendonly), or is another server"
        );
    }
}

pub(super) fn warn_of_strangers(known: &Known, id: ReplId) {
    for stranger in known.strangers.iter().filter(|stranger| **stranger != id) {
        let service = known
            .catalog
            .histories
            .get(stranger)
            .map_or("?", |history| &history.doc.service);
        tracing::warn!(
            history = %stranger, of = service,
            "the store also holds a history of another server; they are kept apart. Give each server a store (or prefix) \
             of its own, and `latest` needs no --history"
        );
    }
}
