//! Checks that a target holds what it was given. The check runs while the target is still a replica. Without a
//! [`Proof`], nothing is promoted, and nothing is called restored.
//!
//! ```text
//! Before ──▶ snapshot, log ──▶ caught up ──▶ prove ──▶ Proof ──▶ REPLICAOF NO ONE
//!                                              └─────▶ Differs: it stays a replica, and takes no writes
//! ```
//!
//! A replica sends no errors to its master. When it refuses a command (no memory, or a limit that the master did not
//! have), it does so without a word, and acknowledges the command all the same. But it counts what it refused. It also
//! expires no keys, so its keys can be compared one by one with what the archive holds.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::master::CaughtUp;
use super::master::error::{Phase, ServeError};
use super::server::compatibility::Server;
use crate::link::Stream;
use crate::link::control::{Control, ControlError};
use crate::link::health::Memory;
use crate::link::replication_info::{Facts, Role};
use crate::recovery::expected_keys::{Count, Expected};

/// How long a target without `PING` waits for the end of the counting. It leaves a silent master after `repl-timeout`,
/// 60 s by default.
const COUNT_PATIENCE: Duration = Duration::from_secs(20);
/// The limit for a target to which `PING`s are sent meanwhile.
const COUNT_LIMIT: Duration = Duration::from_secs(3600);

/// How far above its memory limit a target may be that lets keys go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slack {
    /// Not a byte: it would lose keys as soon as it is promoted.
    None,
    /// A tenth: a cache that ran at its limit comes back a little above or below it, and continues to evict keys, as
    /// before.
    Cache,
}

impl Slack {
    fn limit(self, limit: u64) -> u64 {
        const PART: u64 = 10;
        match self {
            Self::None => limit,
            Self::Cache => limit.saturating_add(limit / PART),
        }
    }
}

/// What a target was before it was fed.
#[derive(Debug, Clone, Default)]
pub struct Before {
    #[cfg_attr(not(feature = "cli"), allow(dead_code))] // a sidecar asks
    server: Option<Server>,
    run_id: Option<String>,
    refused_commands: u64,
    evicted_keys: u64,
}

/// A target holds what it was given. There is no other way to get one than [`prove`].
#[derive(Debug, Clone)]
pub struct Proof {
    keys: BTreeMap<u32, u64>,
    evicted_keys: u64,
    notes: Vec<String>,
}

/// How a target differs from what it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Differs {
    reasons: Vec<String>,
    remedy: Option<String>,
    /// It is not the server, or not the replica, that was fed.
    is_another: bool,
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum Unproved {
    /// It could not be asked.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// It has left.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// It does not hold what it was given.
    #[error("{0}")]
    Differs(#[from] Differs),
}

/// Checks a target that has acknowledged everything. `port`: the port by which it knows us as its master.
///
/// # Errors
/// [`Unproved`]: it must not be promoted.
pub async fn prove(
    control: &mut Control,
    before: &Before,
    waiting: &mut CaughtUp<Stream>,
    count: &mut Count,
    port: u16,
    slack: Slack,
) -> Result<Proof, Unproved> {
    if let Some(held) = waiting.held() {
        let expected = Expected::Known(held.clone());
        let now = control.facts().await?;
        return Ok(before.compare(&now, &expected, 0, port, slack)?);
    }
    let limit = if waiting.gets_pings() {
        COUNT_LIMIT
    } else {
        COUNT_PATIENCE
    };
    let expected = tokio::select! {
        biased;
        expected = count.within(limit) => expected,
        held = waiting.hold() => {
            held?;
            // Why, it may say itself.
            let now = control.facts().await?;
            before.is_same(&now, port)?;
            return Err(ServeError::Closed(Phase::CaughtUp).into());
        }
    };
    let now = control.facts().await?;
    let may_refuse = waiting.refused();
    Ok(before.compare(&now, &expected, may_refuse, port, slack)?)
}

impl Before {
    /// Right before it is fed.
    #[must_use]
    pub fn of(facts: &Facts) -> Self {
        let health = &facts.health;
        Self {
            server: Server::named(&facts.flavour, &facts.version),
            run_id: health.run_id.clone(),
            refused_commands: health.refused_commands.unwrap_or(0),
            evicted_keys: health.evicted_keys.unwrap_or(0),
        }
    }

    /// What it is.
    #[cfg(feature = "cli")]
    pub(crate) fn server(&self) -> Option<Server> {
        self.server
    }

    /// Which run of it that was.
    #[must_use]
    pub fn run_id(&self) -> Option<String> {
        self.run_id.clone()
    }

    /// Is it the same server still, and our replica?
    ///
    /// # Errors
    /// What it is now.
    pub fn is_same(&self, now: &Facts, port: u16) -> Result<(), Differs> {
        let run_id = &now.health.run_id;
        let what = match &now.role {
            _ if run_id.is_some() && *run_id != self.run_id => {
                "it was restarted meanwhile".to_owned()
            }
            Role::Master => "another client promoted it meanwhile".to_owned(),
            Role::Replica { host, port: of, .. } if *of != port => {
                format!("another client made it a replica of {host}:{of} meanwhile")
            }
            Role::Replica { .. } | Role::Unknown => return Ok(()),
        };
        Err(Differs {
            reasons: vec![what],
            remedy: None,
            is_another: true,
        })
    }

    fn compare(
        &self,
        now: &Facts,
        expected: &Expected,
        may_refuse: u64,
        port: u16,
        slack: Slack,
    ) -> Result<Proof, Differs> {
        self.is_same(now, port)?;
        let (health, memory) = (&now.health, &now.health.memory);
        let mut reasons = Vec::new();
        let refused = since(health.refused_commands, self.refused_commands);
        let refused = refused.saturating_sub(may_refuse);
        if refused > 0 {
            reasons.push(format!(
                "it refused {refused} commands of the log (unexpected_error_replies)"
            ));
        }
        let evicted = since(health.evicted_keys, self.evicted_keys);
        if evicted > 0 {
            reasons.push(format!("it evicted {evicted} keys (evicted_keys)"));
        }
        let mut notes = Vec::new();
        match expected {
            Expected::Known(wanted) => {
                compare_keys(&wanted.keys, &now.keys, &mut reasons);
                let have = health.libraries.unwrap_or(wanted.libraries);
                if have != wanted.libraries {
                    let wanted = wanted.libraries;
                    reasons.push(format!(
                        "it holds {have} function libraries instead of {wanted}"
                    ));
                }
            }
            Expected::Unknown(why) => notes.push(format!(
                "how many keys there are at that point is not known, so they could not be compared: {why}"
            )),
        }
        if let Some(overrun) = overrun(memory, slack) {
            reasons.push(overrun);
        }
        if !reasons.is_empty() {
            let remedy = (memory.limit > 0).then(|| {
                format!(
                    "its maxmemory is {} bytes, with maxmemory-policy {}. Raise it there: redis-cli CONFIG SET \
                     maxmemory 0 (no limit)",
                    memory.limit, memory.policy
                )
            });
            return Err(Differs {
                reasons,
                remedy,
                is_another: false,
            });
        }
        if memory.limit > 0 && memory.used > memory.limit {
            notes.push(format!(
                "the server uses {} bytes, and its maxmemory is {}: {} until you raise it (CONFIG SET maxmemory)",
                memory.used,
                memory.limit,
                if memory.evicts() {
                    "it evicts keys"
                } else {
                    "it takes no writes that need memory"
                }
            ));
        }
        Ok(Proof {
            keys: now.keys.clone(),
            evicted_keys: health.evicted_keys.unwrap_or(0),
            notes,
        })
    }
}

impl Proof {
    /// Keys by database, before it was opened: those that have expired count until then.
    #[must_use]
    pub fn keys(&self) -> &BTreeMap<u32, u64> {
        &self.keys
    }

    /// What could not be compared, and what an operator should know.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many keys it has evicted since.
    #[must_use]
    pub fn evicted_since(&self, now: &Facts) -> u64 {
        since(now.health.evicted_keys, self.evicted_keys)
    }
}

impl Differs {
    /// It does not answer any more.
    #[must_use]
    pub(super) fn gone(error: &ControlError) -> Self {
        Self {
            reasons: vec![format!("it no longer answers ({error})")],
            remedy: None,
            is_another: true,
        }
    }

    /// Was it restarted, promoted or given to another master meanwhile?
    #[must_use]
    pub fn is_another(&self) -> bool {
        self.is_another
    }
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reasons.join("; "))?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Differs {}

/// A counter that is smaller than it was has been reset.
fn since(now: Option<u64>, before: u64) -> u64 {
    let now = now.unwrap_or(before);
    now.checked_sub(before).unwrap_or(now)
}

fn compare_keys(wanted: &BTreeMap<u32, u64>, have: &BTreeMap<u32, u64>, reasons: &mut Vec<String>) {
    let databases: std::collections::BTreeSet<&u32> = wanted.keys().chain(have.keys()).collect();
    for db in databases {
        let of = |keys: &BTreeMap<u32, u64>| keys.get(db).copied().unwrap_or(0);
        let (wanted, have) = (of(wanted), of(have));
        if wanted != have {
            reasons.push(format!(
                "database {db} holds {have} keys instead of {wanted}"
            ));
        }
    }
}

fn overrun(memory: &Memory, slack: Slack) -> Option<String> {
    (memory.evicts() && memory.used > slack.limit(memory.limit)).then(|| {
        format!(
            "it uses {} bytes, and would evict keys as soon as it is opened",
            memory.used
        )
    })
}

#[cfg(test)]
#[path = "proof_tests.rs"]
mod tests;
