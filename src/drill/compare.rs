//! Two servers that should hold the same.

use std::collections::BTreeSet;
use std::time::Duration;

use redis_protocol::resp2::types::OwnedFrame;
use serde::Serialize;

use crate::display::Shown;
use crate::link::control::{Control, ControlError};

mod details;

/// A server hashes some hundred MB a second, and answers nothing else meanwhile.
const LONG: Duration = Duration::from_secs(4 * 3600);
/// Keys of one look.
const BATCH: &str = "100";
/// Differences that are shown.
const SHOWN: usize = 10;
/// Of a name, so much is shown.
const NAME_BYTES: usize = 200;

/// A key that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: Shown,
    /// What differs.
    pub what: &'static str,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) count: u64,
    pub(super) first: Vec<Difference>,
}

impl Found {
    pub(super) fn add(&mut self, db: u32, key: &[u8], what: &'static str) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < SHOWN {
            self.first.push(Difference {
                db,
                key: Shown::cut(key, NAME_BYTES),
                what,
            });
        }
    }
}

/// Compares all keys. Keys that expire while this goes on do not count.
pub(super) async fn compare(servers: &mut [Control; 2]) -> Result<Found, ControlError> {
    let [first, second] = servers;
    let mut found = Found::default();
    if functions(first).await? != functions(second).await? {
        found.add(0, b"FUNCTION DUMP", "is not the same on both");
    }
    let is_same = digest(first).await? == digest(second).await?;
    let databases: BTreeSet<u32> = [first.facts().await?, second.facts().await?]
        .iter()
        .flat_map(|facts| facts.keys.keys().copied())
        .collect();
    for db in databases {
        for server in [&mut *first, &mut *second] {
            server.call(&["SELECT", &db.to_string()]).await?;
        }
        details::of_database(db, is_same, first, second, &mut found).await?;
        if is_same {
            continue;
        }
        of_database(db, first, second, &mut found).await?;
        // What only the second one has.
        let mut cursor = b"0".to_vec();
        loop {
            let (next, keys) = scan(second, &cursor).await?;
            for key in keys {
                if !exists(first, &key).await? && exists(second, &key).await? {
                    found.add(db, &key, "is not there after a replay of the log");
                }
            }
            if next == b"0" {
                break;
            }
            cursor = next;
        }
    }
    Ok(found)
}

async fn of_database(
    db: u32,
    first: &mut Control,
    second: &mut Control,
    found: &mut Found,
) -> Result<(), ControlError> {
    let mut cursor = b"0".to_vec();
    loop {
        let (next, keys) = scan(first, &cursor).await?;
        if !keys.is_empty() {
            let digests = [digests(first, &keys).await?, digests(second, &keys).await?];
            let [ours, theirs] = &digests;
            for ((key, ours), theirs) in keys.iter().zip(ours).zip(theirs) {
                let ttls = [ttl(first, key).await?, ttl(second, key).await?];
                // It may have expired between the two questions.
                let is_there = exists(first, key).await?;
                if let Some(what) = differs(ours == theirs, ttls).filter(|_| is_there) {
                    found.add(db, key, what);
                }
            }
        }
        if next == b"0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// `PTTL` of both: -2: the key is not there; -1: it does not expire.
fn differs(is_same: bool, [ours, theirs]: [i64; 2]) -> Option<&'static str> {
    match (ours, theirs) {
        // It has expired meanwhile.
        (-2, _) => None,
        (_, -2) => Some("is not in the RDB that was made of base and log"),
        // The digest of a value tells that too.
        (-1, 0..) | (0.., -1) => Some("expires on one of both"),
        _ if !is_same => Some("has another value in the RDB that was made of base and log"),
        // When both expire is compared for all keys.
        _ => None,
    }
}

pub(super) async fn scan(
    server: &mut Control,
    cursor: &[u8],
) -> Result<(Vec<u8>, Vec<Vec<u8>>), ControlError> {
    let reply = server
        .call_bytes(&[b"SCAN", cursor, b"COUNT", BATCH.as_bytes()])
        .await?;
    let OwnedFrame::Array(parts) = reply else {
        return Ok((b"0".to_vec(), Vec::new()));
    };
    let mut parts = parts.into_iter();
    let next = parts
        .next()
        .and_then(bytes)
        .unwrap_or_else(|| b"0".to_vec());
    let keys = match parts.next() {
        Some(OwnedFrame::Array(keys)) => keys.into_iter().filter_map(bytes).collect(),
        _ => Vec::new(),
    };
    Ok((next, keys))
}

pub(super) async fn digests(
    server: &mut Control,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<Vec<u8>>>, ControlError> {
    let mut command: Vec<&[u8]> = vec![b"DEBUG", b"DIGEST-VALUE"];
    command.extend(keys.iter().map(Vec::as_slice));
    match server.call_within(&command, LONG).await? {
        OwnedFrame::Array(digests) => Ok(digests.into_iter().map(bytes).collect()),
        _ => Ok(vec![None; keys.len()]),
    }
}

/// Of all keys and values, and of which keys expire.
async fn digest(server: &mut Control) -> Result<Option<Vec<u8>>, ControlError> {
    Ok(bytes(
        server.call_within(&[b"DEBUG", b"DIGEST"], LONG).await?,
    ))
}

/// None: the server knows none.
async fn functions(server: &mut Control) -> Result<Option<Vec<u8>>, ControlError> {
    match server.call_within(&[b"FUNCTION", b"DUMP"], LONG).await {
        Ok(dump) => Ok(bytes(dump)),
        Err(error @ ControlError::Link(_)) => Err(error),
        Err(_) => Ok(None),
    }
}

async fn ttl(server: &mut Control, key: &[u8]) -> Result<i64, ControlError> {
    match server.call_bytes(&[b"PTTL", key]).await? {
        OwnedFrame::Integer(ms) => Ok(ms),
        _ => Ok(-2),
    }
}

pub(super) async fn exists(server: &mut Control, key: &[u8]) -> Result<bool, ControlError> {
    let reply = server.call_bytes(&[b"EXISTS", key]).await?;
    Ok(matches!(reply, OwnedFrame::Integer(1)))
}

fn bytes(frame: OwnedFrame) -> Option<Vec<u8>> {
    match frame {
        OwnedFrame::BulkString(bytes) | OwnedFrame::SimpleString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_expires_meanwhile_does_not_differ() {
        for (is_same, ttls, differs_in) in [
            (true, [-1, -1], None),
            (true, [60_000, 60_004], None),
            (false, [-2, -2], None),
            (false, [-2, 5], None),
            (false, [-1, -2], Some("is not in the RDB")),
            (false, [-1, -1], Some("has another value")),
            (false, [-1, 60_000], Some("expires on one")),
            (false, [60_000, 60_000], Some("has another value")),
            (true, [60_000, 90_000], None),
        ] {
            let what = differs(is_same, ttls);
            let as_wanted = match (what, differs_in) {
                (None, None) => true,
                (Some(what), Some(wanted)) => what.starts_with(wanted),
                _ => false,
            };
            assert!(as_wanted, "{is_same} {ttls:?}: {what:?}");
        }
    }
}
