//! What a sidecar must not make the latest state: a Redis that has less than the store. The exception is a Redis that
//! is known to be right.
//!
//! A history that the store does not know says nothing of what it lacks. A server that came up empty (Redis 7.0 and newer
//! say that they did), and is another start than the one whose data is stored (its `run_id`), has nothing of that. Of
//! others the amounts decide: one with far
//! less than is stored has lost it. (A server takes a new history when it had no replica for `repl-backlog-ttl`. It has all.)

use std::fmt;

use super::resume::Known;
use super::{Capture, SessionEnd};
use crate::archive::{Ambiguous, BaseManifest, Catalog, Tip};
use crate::config::Size;
use crate::link::replication_info::Facts;
use crate::wire::position::{Position, ReplId};
use crate::wire::rdb::Summary;

/// A server is **suddenly tiny** (invariant 1) if it has less than one in `TINY` of the stored keys and of their bytes.
pub const TINY: u64 = 10;

/// A start of a server that loaded nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmptyStart {
    /// When that was at the latest, by our clock, Unix milliseconds.
    pub unix_ms: i64,
    /// Its `run_id`, which tells this start from others.
    pub run_id: Option<String>,
}

/// How much data there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amount {
    /// Keys in all databases. None: not known.
    pub keys: Option<u64>,
    /// Bytes of RDB, at most.
    pub bytes: u64,
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.keys {
            Some(keys) => write!(f, "{keys} keys in {}", Size(self.bytes)),
            None => write!(f, "{}", Size(self.bytes)),
        }
    }
}

impl Amount {
    /// The amount in a base.
    #[must_use]
    pub fn of_base(base: &BaseManifest) -> Self {
        let keys = base.databases.values().map(|db| db.keys);
        Self {
            keys: Some(keys.fold(0, u64::saturating_add)),
            bytes: base.raw_bytes,
        }
    }

    /// Has a server with this amount lost what is stored? One that came up empty has, whatever it was given since. Of another
    /// one, nothing but the amounts is known.
    #[must_use]
    pub fn is_loss(&self, stored: &Self, came_up_empty: bool) -> bool {
        let is_empty = stored.keys == Some(0);
        (came_up_empty && !is_empty) || self.is_tiny(stored)
    }

    fn is_tiny(&self, stored: &Self) -> bool {
        let less = |found: u64, stored: u64| found.saturating_mul(TINY) < stored;
        let fewer_keys = match (self.keys, stored.keys) {
            (Some(found), Some(stored)) => less(found, stored),
            _ => true,
        };
        fewer_keys && less(self.bytes, stored.bytes)
    }
}

/// The newest base on a line of histories.
fn newest_base(catalog: &Catalog, line: impl Iterator<Item = Position>) -> Option<&BaseManifest> {
    let bases = line.flat_map(|line| {
        let history = catalog.histories.get(&line.history);
        let bases = history.into_iter().flat_map(|history| &history.bases);
        bases.filter(move |base| base.offset <= line.offset)
    });
    bases.max_by_key(|base| base.offset)
}

/// What the store holds, of each history that may be the latest. There are several, or the end of its log cannot be read, if
/// `latest` is None: then they hold at least what is in their newest bases.
fn stored_in(catalog: &Catalog, latest: Option<&Tip>, service: &str) -> Vec<Amount> {
    if let Some(tip) = latest {
        return stored(catalog, tip).into_iter().collect();
    }
    let ids = match catalog.latest(Some(service)) {
        Ok(one) => one.into_iter().collect(),
        Err(Ambiguous(several)) => several,
    };
    let of_base = |id| {
        let line = catalog.lineage(id).unwrap_or_default();
        let base = newest_base(catalog, line.into_iter());
        Amount {
            keys: None,
            bytes: base.map_or(0, |base| base.raw_bytes),
        }
    };
    ids.into_iter().map(of_base).collect()
}

/// What the store holds of the latest history, at most: its newest base, and what the log after it adds.
fn stored(catalog: &Catalog, tip: &Tip) -> Option<Amount> {
    let newest = newest_base(catalog, tip.line())?;
    let log = tip.end.offset.since(newest.offset);
    let base = Amount::of_base(newest);
    Some(Amount {
        keys: base.keys.filter(|_| log == 0),
        bytes: base.bytes.saturating_add(log),
    })
}

impl Capture {
    /// Never makes the state of a server the latest if it has lost what the store has, unless the guard
    /// [accepts](Self::accept) it. Such a server comes up empty, or tiny, with an unknown history, or from an older
    /// snapshot.
    #[must_use]
    pub fn guarding_the_store(mut self) -> Self {
        self.guards = true;
        self
    }

    /// Captures a server of this history although it has less: this was checked, and is right.
    pub fn accept(&mut self, id: Option<ReplId>) {
        self.accepted = id;
    }

    /// Did it load nothing when it started? A server that has said so has still loaded nothing when it has been our replica for a
    /// moment, and was promoted as it is: then it has an id that it comes from, and does not say so any more.
    pub fn note_start(&mut self, said: Option<&Facts>) {
        let run_id = said.and_then(|facts| facts.health.run_id.clone());
        let ran_ms = said.and_then(|facts| facts.started_empty_ms);
        let ran_ms = ran_ms.and_then(|ms| i64::try_from(ms).ok());
        let before = self.started_empty.take();
        let same = before.filter(|start| start.run_id.is_some() && start.run_id == run_id);
        self.started_empty = match ran_ms {
            Some(ms) => Some(EmptyStart {
                unix_ms: (self.clock)().saturating_sub(ms),
                run_id,
            }),
            None => same,
        };
    }

    /// The server is given what is stored: what it was before does not count any more.
    pub fn is_given_everything(&mut self) {
        self.started_empty = None;
        self.is_no_stranger();
    }

    /// Which history is followed, link or no link.
    #[must_use]
    pub fn follows(&self) -> Option<ReplId> {
        self.log
            .as_ref()
            .map(|log| log.buffer(|buffer| buffer.history()))
    }

    /// A sidecar checked its Redis before it connected. If Redis has restarted since, and lacks what is stored, it is
    /// checked again.
    pub(super) fn check_left_behind(
        &self,
        known: &Known,
        server: Option<ReplId>,
    ) -> Result<(), SessionEnd> {
        match known.lacks {
            Some(lacks) if self.guards && (server.is_none() || self.accepted != server) => {
                Err(SessionEnd::StartOver(format!(
                    "Redis lacks the last {lacks} bytes that are stored: checking it again"
                )))
            }
            _ => Ok(()),
        }
    }

    /// What was found out is that of the server that was asked. If another run of it answers with a full sync, it is asked
    /// again. (Without a backlog, a server takes a new id for its first replica.)
    pub(super) fn check_is_asked(
        &self,
        answers: ReplId,
        asked: Option<&Facts>,
    ) -> Result<(), SessionEnd> {
        let asked = asked.filter(|asked| self.guards && asked.backlog_first.is_some());
        match asked.and_then(|asked| asked.replid) {
            Some(id) if id != answers => Err(SessionEnd::StartOver(format!(
                "Redis has restarted since it was checked ({id} is now {answers}): checking it again"
            ))),
            _ => Ok(()),
        }
    }

    /// Is it too little? It is a snapshot of a history that the store does not know, and that does not come from a known one.
    pub(super) fn check_amount(
        &self,
        known: &Known,
        at: Position,
        found: &Summary,
    ) -> Result<(), SessionEnd> {
        let is_known = known.catalog.histories.contains_key(&at.history) || known.resume.is_some();
        if !self.guards || is_known || self.accepted == Some(at.history) || found.unwalked.is_some()
        {
            return Ok(());
        }
        let found_keys = found.keys();
        let mut others = known.catalog.histories.keys();
        if found_keys == 0
            && found.functions == 0
            && others.any(|id| known.catalog.is_restorable(*id))
        {
            return Err(SessionEnd::StartOver(
                "Redis is empty, but the store has data: it must be restored".to_owned(),
            ));
        }
        let found = Amount {
            keys: Some(found_keys),
            bytes: found.bytes,
        };
        let stored = stored_in(&known.catalog, known.latest.as_ref(), &self.service);
        let came_up_empty = self.started_empty.is_some();
        if stored
            .iter()
            .any(|stored| found.is_loss(stored, came_up_empty))
        {
            return Err(SessionEnd::Less {
                at,
                found,
                started_empty: self.started_empty.clone(),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiny_is_less_than_a_tenth_of_the_keys_and_of_the_bytes() {
        let amount = |keys: u64, bytes| Amount {
            keys: Some(keys),
            bytes,
        };
        let stored = amount(1000, 50_000);
        for (keys, bytes, tiny) in [
            (1, 100, true),
            (99, 4_999, true),
            (100, 4_999, false),
            (99, 5_000, false),
            (0, 90, true),
        ] {
            assert_eq!(amount(keys, bytes).is_tiny(&stored), tiny, "{keys} {bytes}");
        }
        let unknown = Amount {
            keys: None,
            bytes: 50_000,
        };
        assert!(amount(5000, 4_999).is_tiny(&unknown));
        assert!(!amount(0, 90).is_tiny(&amount(0, 90)));
    }

    #[test]
    fn a_server_that_came_up_empty_has_lost_what_is_stored() {
        let amount = |keys: u64, bytes| Amount {
            keys: Some(keys),
            bytes,
        };
        let stored = amount(3, 400);
        for (keys, bytes) in [(1, 300), (3, 400), (4, 4000)] {
            let found = amount(keys, bytes);
            assert!(found.is_loss(&stored, true), "{keys} {bytes}");
            assert!(!found.is_loss(&stored, false), "{keys} {bytes}");
            assert!(!found.is_loss(&amount(0, 90), true), "{keys} {bytes}");
        }
        let unknown = Amount {
            keys: None,
            bytes: 1,
        };
        assert!(amount(1, 400).is_loss(&unknown, true));
        assert!(amount(1, 10).is_loss(&amount(100, 400), false));
    }
}
