//! A running server that receives chosen keys, and continues to serve clients.

use std::collections::BTreeMap;
use std::fmt;

use redis_protocol::resp2::types::OwnedFrame;

use crate::config::Source;
use crate::display::Shown;
use crate::link::control::{Control, ControlError};
use crate::link::health::Health;
use crate::link::replication_info::Role;
use crate::recovery::Plan;
use crate::recovery::progress::Progress;
use crate::restore::error::{Remedy, RestoreError};
use crate::restore::keys::{Chosen, Key, count};
use crate::restore::server::compatibility::{Loads, Server};
use crate::restore::server::frame_text;

/// Keys that a message names.
const NAMED: usize = 5;
/// Bytes of a name in a message.
const NAME_BYTES: usize = 60;

/// Some keys, for a message.
#[derive(Default)]
struct Named(Vec<String>);

impl Named {
    fn add(&mut self, key: &Key) {
        if self.0.len() < NAMED {
            let name = Shown::cut(&key.name, NAME_BYTES);
            self.0.push(format!("{name} (database {})", key.db));
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

/// A server that takes keys.
pub(crate) struct Target<'a> {
    source: &'a Source,
    control: Control,
    selected: Option<u32>,
    /// What it was before.
    health: Health,
}

/// What is there of what was written.
pub(crate) struct There {
    /// Keys by database.
    pub(crate) keys: BTreeMap<u32, u64>,
    /// Keys that have expired.
    pub(crate) expired: u64,
    /// What to know.
    pub(crate) notes: Vec<String>,
}

impl<'a> Target<'a> {
    /// Connects, and refuses what would go wrong.
    pub(crate) async fn connect(source: &'a Source, plan: &Plan) -> Result<Self, RestoreError> {
        let mut control = Control::connect(source).await?;
        let facts = control.facts().await?;
        let target = Self {
            source,
            control,
            selected: None,
            health: facts.health.clone(),
        };
        if facts.cluster {
            return Err(target.refused(
                "is in cluster mode, where each key has its own node: restore to resp:FILE, and send that file with a \
                 client that knows the cluster",
            ));
        }
        if facts.loading {
            return Err(target.refused("is still loading its own data. Wait until it is ready"));
        }
        if let Role::Replica { host, port, .. } = &facts.role {
            return Err(target.refused(format!(
                "is a replica of {host}:{port}, and takes no writes. Restore to its master"
            )));
        }
        let base = &plan.base;
        let writer = Server::named(&base.server.flavour, &base.server.version);
        let server = Server::named(&facts.flavour, &facts.version);
        let loads = server.map_or(Loads::Unknown, |server| {
            server.loads(&base.rdb_magic, writer)
        });
        match (loads, server) {
            (Loads::No, Some(server)) => Err(target.refused(format!(
                "is {server}, whose RESTORE does not take values of the format {}{}: restore to a server of the version that was backed up, or newer",
                base.rdb_magic,
                writer.map(|writer| format!(" (written by {writer})")).unwrap_or_default()
            ))),
            // RESTORE itself looks at the version, and refuses the first key.
            _ => Ok(target),
        }
    }

    fn refused(&self, reason: impl Into<String>) -> RestoreError {
        RestoreError::Refused {
            addr: self.source.addr(),
            reason: reason.into(),
            remedy: None,
        }
    }

    async fn select(&mut self, db: u32) -> Result<(), ControlError> {
        if self.selected != Some(db) {
            self.control.call(&["SELECT", &db.to_string()]).await?;
            self.selected = Some(db);
        }
        Ok(())
    }

    /// Refuses to write over keys that are there, and what it has no memory for.
    pub(crate) async fn check_room(&mut self, chosen: &Chosen<'_>) -> Result<(), RestoreError> {
        let memory = self.health.memory.clone();
        let looks = !chosen.request.replace;
        if !looks && memory.limit == 0 {
            return Ok(());
        }
        let (mut named, mut many) = (Named::default(), 0u64);
        let mut bytes = 0u64;
        let mut each = chosen.each().await?;
        while let Some(batch) = each.next().await? {
            for key in &batch.keys {
                bytes = bytes.saturating_add(key.bytes());
                if !looks {
                    continue;
                }
                if let Err(error) = self.select(key.db).await {
                    let reason = format!("does not take database {}: {error}", key.db);
                    return Err(self.refused(reason));
                }
                if self.has(&key.name).await? {
                    many = many.saturating_add(1);
                    named.add(key);
                }
            }
        }
        if many > 0 {
            return Err(RestoreError::Refused {
                addr: self.source.addr(),
                reason: format!(
                    "already has {many} of the chosen keys, such as {named}. Replace those, or choose others"
                ),
                remedy: Some(Remedy::Replace),
            });
        }
        let least = memory.used.saturating_add(bytes);
        if looks && memory.limit > 0 && least > memory.limit {
            return Err(self.refused(format!(
                "is too small: it needs at least {bytes} bytes beside the {} in use, and its maxmemory is {} with \
                 maxmemory-policy {}. Raise it there: redis-cli CONFIG SET maxmemory 0 (no limit)",
                memory.used, memory.limit, memory.policy
            )));
        }
        Ok(())
    }

    async fn has(&mut self, key: &[u8]) -> Result<bool, ControlError> {
        let reply = self.control.call_bytes(&[b"EXISTS", key]).await?;
        Ok(!matches!(reply, OwnedFrame::Integer(0)))
    }

    /// The server's clock, Unix milliseconds.
    async fn now_unix_ms(&mut self) -> Result<i64, ControlError> {
        let OwnedFrame::Array(parts) = self.control.call(&["TIME"]).await? else {
            return Ok(0);
        };
        let seconds = parts.first().and_then(frame_text);
        let seconds = seconds.and_then(|text| text.parse::<i64>().ok());
        Ok(seconds.unwrap_or(0).saturating_mul(1000))
    }

    /// Looks for all that was written.
    ///
    /// # Errors
    /// [`RestoreError::KeysMissing`].
    pub(crate) async fn read_back(&mut self, chosen: &Chosen<'_>) -> Result<There, RestoreError> {
        let mut there = There {
            keys: BTreeMap::new(),
            expired: 0,
            notes: Vec::new(),
        };
        let (mut named, mut missing) = (Named::default(), 0u64);
        let mut each = chosen.each().await?;
        while let Some(batch) = each.next().await? {
            for key in &batch.keys {
                self.select(key.db).await?;
                if self.has(&key.name).await? {
                    count(&mut there.keys, key.db);
                    continue;
                }
                // A second is all that the clock tells.
                let has_expired = match key.expiry {
                    Some(at) => at < self.now_unix_ms().await?.saturating_add(1000),
                    None => false,
                };
                if has_expired {
                    there.expired = there.expired.saturating_add(1);
                } else {
                    missing = missing.saturating_add(1);
                    named.add(key);
                }
            }
        }
        let health = self.control.facts().await?.health;
        let before = self.health.evicted_keys.unwrap_or(0);
        let evicted = health.evicted_keys.unwrap_or(0).saturating_sub(before);
        let memory = health.memory;
        let let_go = format!(
            "the server evicted {evicted} keys meanwhile: its maxmemory is {} bytes with maxmemory-policy {}",
            memory.limit, memory.policy
        );
        if missing > 0 {
            return Err(RestoreError::KeysMissing {
                addr: self.source.addr(),
                missing,
                such_as: named.to_string(),
                why: if evicted > 0 {
                    format!("{let_go}: raise that (CONFIG SET maxmemory)")
                } else {
                    "another client may have deleted them meanwhile".to_owned()
                },
            });
        }
        if evicted > 0 {
            there.notes.push(let_go);
        }
        Ok(there)
    }

    pub(crate) async fn write(
        &mut self,
        chosen: &Chosen<'_>,
        progress: &dyn Progress,
    ) -> Result<(), RestoreError> {
        let mut written = 0u64;
        let mut each = chosen.each().await?;
        while let Some(batch) = each.next().await? {
            for key in &batch.keys {
                let payload = key.dump(batch.version);
                let ttl = key.ttl();
                let mut command: Vec<&[u8]> =
                    vec![b"RESTORE", &key.name, &ttl, &payload, b"ABSTTL"];
                if chosen.request.replace {
                    command.push(b"REPLACE");
                }
                let done = match self.select(key.db).await {
                    Ok(()) => self.control.call_bytes(&command).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(source) = done {
                    let name = Shown::cut(&key.name, NAME_BYTES);
                    return Err(RestoreError::KeysLeft {
                        addr: self.source.addr(),
                        written,
                        what: format!("{name} (database {})", key.db),
                        source: Box::new(source),
                    });
                }
                written = written.saturating_add(1);
                progress.advance(payload.len() as u64);
            }
        }
        Ok(())
    }
}
