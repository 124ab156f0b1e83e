//! Asks the server for values that the log does not have: what it holds at an offset, in one transaction.
//!
//! This costs the server a `DUMP` of those keys. A full sync would cost a fork and the whole data set.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::full_syncs::Refetches;
use super::pace::Known;
use super::{TIME_LIMIT, Upkeep};
use crate::config::Source;
use crate::consolidate::{Worth, consolidate_given, lost_keys};
use crate::link::control::{Control, ControlError, Reply};
use crate::link::replication_info::Facts;
use crate::model::Raw;
use crate::rebuild::Given;
use crate::recovery::RecoveryTarget;
use crate::wire::position::Position;
use crate::wire::rdb::DUMP_FOOTER_LEN;
use crate::wire::rdb::numbers::value_type;

/// More keys are not asked for: a full sync is simpler then.
const MOST_KEYS: usize = 64;
/// How much memory they may take in the server, all together. It does nothing else while it writes them.
const MOST_BYTES: i64 = 4 << 20;

/// How long we wait until the server's answer is stored. This takes one flush interval, unless the store is away.
const ASK_PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks meanwhile.
const ASK_LOOK: Duration = Duration::from_millis(200);

impl Upkeep {
    /// Makes a base although the log does not have all values: asks the server for the values of those keys, or takes a
    /// full sync.
    pub(super) async fn ask_server(
        &self,
        stored: Position,
        refetches: &mut Refetches,
    ) -> Option<Known> {
        match timeout(TIME_LIMIT, self.asked(stored)).await {
            Ok(Ok(Some(base))) => {
                refetches.owed = None;
                return Some(base);
            }
            Ok(Ok(None)) => {}
            Err(_) => tracing::debug!("asked the server for values, but a base takes too long"),
            Ok(Err(why)) => {
                tracing::debug!("asking the server for values did not lead to a base: {why}")
            }
        }
        self.refetch(refetches).await
    }

    /// A base at an offset at which the server gave the values that the log does not have.
    async fn asked(&self, stored: Position) -> Result<Option<Known>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let archive = self.archive().await.map_err(|error| text(&error))?;
        let mut request = self.request(stored, Worth::AnyLog);
        let turn = self.turns.work().await;
        let keys = lost_keys(&archive, &request, MOST_KEYS).await;
        drop(turn);
        let keys = keys.map_err(|error| text(&error))?;
        if keys.is_empty() || keys.len() > MOST_KEYS {
            return Ok(None);
        }
        let source = self.source().await.map_err(|error| text(&error))?;
        let values = values(&source, &keys).await;
        let Some((at, given)) = values.map_err(|error| text(&error))? else {
            return Ok(None);
        };
        let asked = Instant::now();
        loop {
            let Some(stored) = self.status.stored_position() else {
                return Ok(None);
            };
            if stored.history != at.history || asked.elapsed() > ASK_PATIENCE {
                return Ok(None);
            }
            if stored.offset >= at.offset {
                break;
            }
            sleep(ASK_LOOK).await;
        }
        request.recovery_target = RecoveryTarget::Offset(at.offset.0);
        let _turn = self.turns.work().await;
        let made = consolidate_given(&archive, &request, given).await;
        let report = made.map_err(|error| text(&error))?;
        tracing::info!(
            keys = keys.len(),
            "asked the server for the values of keys that the log does not have"
        );
        self.made(&report);
        Ok(Some(Known {
            of: stored.history,
            at: report.to,
            raw_bytes: report.raw_bytes,
            segments: self.segments(),
        }))
    }
}

/// The values of these keys (database, name), and where the server stood. None: they cannot be had so.
///
/// # Errors
/// The server does not answer, or does not permit it.
async fn values(
    source: &Source,
    keys: &[(u32, Vec<u8>)],
) -> Result<Option<(Position, Vec<Given>)>, ControlError> {
    let mut control = Control::connect(source).await?;
    let mut bytes = 0i64;
    for (db, key) in keys {
        control.call(&["SELECT", &db.to_string()]).await?;
        let usage = control.call_bytes(&[b"MEMORY", b"USAGE", key]).await?;
        let Reply::Integer(usage) = usage else {
            return Ok(None);
        };
        bytes = bytes.saturating_add(usage);
    }
    if bytes > MOST_BYTES {
        tracing::info!(
            bytes,
            "the values that the log does not have are too large to ask for"
        );
        return Ok(None);
    }
    control.call(&["MULTI"]).await?;
    for (db, key) in keys {
        control.call(&["SELECT", &db.to_string()]).await?;
        control.call_bytes(&[b"DUMP", key]).await?;
        control.call_bytes(&[b"PEXPIRETIME", key]).await?;
    }
    control.call(&["INFO", "replication"]).await?;
    let Reply::Array(replies) = control.call(&["EXEC"]).await? else {
        return Ok(None);
    };
    Ok(read(keys, &replies))
}

/// The replies of the transaction: `SELECT`, `DUMP` and `PEXPIRETIME` for each key, then `INFO`.
fn read(keys: &[(u32, Vec<u8>)], replies: &[Reply]) -> Option<(Position, Vec<Given>)> {
    let (info, replies) = replies.split_last()?;
    let Reply::BulkString(info) = info else {
        return None;
    };
    let facts = Facts::parse(&String::from_utf8_lossy(info));
    let at = Position {
        history: facts.replid?,
        offset: facts.offset?,
    };
    let mut given = Vec::with_capacity(keys.len());
    let mut replies = replies.chunks_exact(3);
    for (db, key) in keys {
        let [_, Reply::BulkString(dump), Reply::Integer(expiry)] = replies.next()? else {
            return None;
        };
        let body = dump.get(..dump.len().checked_sub(DUMP_FOOTER_LEN)?)?;
        let (&kind, payload) = body.split_first()?;
        // Others may be of a newer form than the base has.
        if kind != value_type::MODULE_2 {
            return None;
        }
        given.push(Given {
            db: *db,
            key: key.clone(),
            expiry: (*expiry >= 0).then_some(*expiry),
            raw: Raw {
                kind,
                payload: payload.into(),
            },
        });
    }
    Some((at, given))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_counts() {
        let keys = [(3, b"v".to_vec())];
        let info = format!(
            "master_replid:{}\r\nmaster_repl_offset:77\r\n",
            "a".repeat(40)
        );
        let ok = || Reply::SimpleString(b"OK".to_vec());
        let dump = |bytes: &[u8]| Reply::BulkString(bytes.to_vec());
        let info = || dump(info.as_bytes());
        let good = [
            ok(),
            dump(b"\x07value-footer-10"),
            Reply::Integer(-1),
            info(),
        ];
        let (at, given) = read(&keys, &good).unwrap();
        assert_eq!((at.offset.0, given.len()), (77, 1));
        let value = given.first().unwrap();
        assert_eq!((&*value.raw.payload, value.expiry), (&b"value"[..], None));
        for bad in [
            vec![ok(), Reply::Null, Reply::Integer(-2), info()],
            vec![
                ok(),
                dump(b"\x00value-footer-10"),
                Reply::Integer(-1),
                info(),
            ],
            vec![ok(), dump(b"\x07short"), Reply::Integer(-1), info()],
            vec![
                ok(),
                dump(b"\x07value-footer-10"),
                Reply::Error("ERR".into()),
                info(),
            ],
            vec![
                ok(),
                dump(b"\x07value-footer-10"),
                Reply::Integer(5),
                dump(b""),
            ],
            vec![info()],
            Vec::new(),
        ] {
            assert_eq!(read(&keys, &bad), None, "{bad:?}");
        }
    }
}
