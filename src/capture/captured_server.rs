//! The server that is captured: its facts, and the warnings about it that an operator should see.

use super::SessionEnd;
use super::resume::Known;
use crate::archive::ServerInfo;
use crate::config::Source;
use crate::link::control::Control;
use crate::link::replication_info::Facts;
use crate::wire::position::{Position, ReplId};

/// The server's facts, from `INFO`. None when the user may not ask. Then comfort is lost, but not the backup.
pub(super) async fn look(source: &Source) -> Result<Option<Facts>, SessionEnd> {
    let facts = match Control::connect(source).await {
        Ok(mut control) => match control.facts().await {
            Ok(facts) => Ok(with_time(facts, &mut control).await),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    match facts {
        Ok(facts) => {
            if facts.is_keydb() {
                tracing::warn!(
                    "the server is a KeyDB. backfeed supports it by what its source code says, and this was not tried. \
                     Values that it sends by RESTORE, and members that expire, are stored, but no new base can be made \
                     of them. Test a restore before you rely on it"
                );
            }
            Ok(Some(facts))
        }
        Err(error) if error.is_permission() || error.is_unknown_command() => {
            tracing::warn!(
                "INFO is not permitted: backfeed resumes by the latest history in the store, and a SHUTDOWN of the \
                 server waits for its shutdown-timeout. To permit it: ACL SETUSER <user> +info"
            );
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// `INFO` of Redis 6.0 does not have its clock. This matters only for servers that send relative expiries.
async fn with_time(mut facts: Facts, control: &mut Control) -> Facts {
    if facts.time_unix_ms.is_none() && server_info(Some(&facts)).relative_ttls() {
        match control.time_unix_ms().await {
            Ok(time) => facts.time_unix_ms = time,
            Err(error) => tracing::debug!(%error, "the server does not show its clock"),
        }
    }
    facts
}

/// How far the server's clock is ahead of ours. Our clock said `asked` before the question and `answered` after the
/// answer. 0: no difference that can be measured.
pub(super) fn ahead_ms(server_unix_ms: i64, asked: i64, answered: i64) -> i64 {
    let took = answered.saturating_sub(asked).max(0);
    let ahead = server_unix_ms.saturating_sub(asked.saturating_add(took / 2));
    if ahead.saturating_abs() <= took.saturating_add(CLOCK_GRAIN_MS) {
        return 0;
    }
    ahead
}

/// Clocks that differ by less are the same.
const CLOCK_GRAIN_MS: i64 = 100;
/// An operator is warned of clocks that differ by more.
const CLOCK_WORTH_A_WORD_MS: i64 = 2000;

/// Says that the clocks differ, and what that means.
pub(super) fn warn_of_clock(ahead_ms: i64, relative_ttls: bool) {
    if ahead_ms.saturating_abs() < CLOCK_WORTH_A_WORD_MS {
        return;
    }
    let (seconds, way) = (
        ahead_ms.saturating_abs() / 1000,
        if ahead_ms > 0 { "ahead of" } else { "behind" },
    );
    let meaning = if relative_ttls {
        "the log uses the server's time, because its expiries count from it. So does a time to restore"
    } else {
        "a time to restore means the time of this machine"
    };
    tracing::warn!(
        "the server's clock is {seconds} s {way} the clock of this machine: {meaning}. Set both with NTP"
    );
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

/// Says why there is a full sync although there was a point to continue from, and what would have avoided it. Without
/// `from`, there never was such a point, or `--once` asks for a full sync.
pub(super) fn explain_full_sync(
    from: Option<Position>,
    at: Position,
    facts: Option<&Facts>,
    once: bool,
) {
    let Some(from) = from.filter(|_| !once) else {
        let why = if once {
            "one full sync, as was asked for"
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
            "the server's backlog no longer holds what follows the stored offset: taking a full sync. A larger \
             repl-backlog-size avoids this (it should hold the writes of the longest outage). So does repl-backlog-ttl \
             0"
        );
    } else {
        tracing::warn!(
            stored = %from, now = %at,
            "the server has another history than the store: taking a full sync. It was restarted without saving (save, \
             or appendonly), or it is another server"
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
            "the store also holds a history of another server; both are kept apart. Give each server a store or prefix \
             of its own; then the latest history need not be named"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_the_same_as_far_as_can_be_told() {
        for (server, asked, answered, ahead) in [
            (1_000_000, 1_000_000, 1_000_010, 0),
            (1_000_110, 1_000_000, 1_000_010, 0),
            (1_000_200, 1_000_000, 1_000_010, 195),
            (1_000_200, 1_000_000, 1_000_400, 0),
            (900_000, 1_000_000, 1_000_010, -100_005),
            // Our own clock went back between the two.
            (1_000_000, 1_000_000, 900_000, 0),
        ] {
            assert_eq!(ahead_ms(server, asked, answered), ahead, "{server}");
        }
    }
}
