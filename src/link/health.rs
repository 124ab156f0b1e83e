//! What `INFO` says about a server's limits and its disk, and about the commands it refused and the keys it evicted.

use std::collections::BTreeMap;

/// The server's limits, and what it did to the data that it was given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Another one after each start.
    pub run_id: Option<String>,
    /// Commands of its master that it answered with an error (`unexpected_error_replies`).
    pub refused_commands: Option<u64>,
    /// Keys that it evicted because it had no memory (`evicted_keys`).
    pub evicted_keys: Option<u64>,
    /// Its memory.
    pub memory: Memory,
    /// Function libraries (Redis 7.0 and later).
    pub libraries: Option<u64>,
    /// Its last BGSAVE failed.
    pub bgsave_failed: bool,
    /// Its append-only file.
    pub aof: Aof,
}

/// A server's memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// The memory that it uses, as far as it counts for the limit.
    pub used: u64,
    /// The limit (`maxmemory`); 0: none.
    pub limit: u64,
    /// What it does at the limit (`maxmemory-policy`).
    pub policy: String,
}

/// An append-only file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Aof {
    /// There is none.
    #[default]
    Off,
    /// The data set is being written to it, or will be at once.
    Rewriting,
    /// The data set could not be written to it. The server may be trying again.
    Failed,
    /// It holds the data set.
    Whole,
}

impl Health {
    pub(super) fn of(fields: &BTreeMap<&str, &str>) -> Self {
        let field = |name: &str| fields.get(name).copied();
        let number = |name: &str| field(name).and_then(|text| text.parse::<u64>().ok());
        let used = number("used_memory").unwrap_or(0);
        let uncounted = number("mem_not_counted_for_evict").unwrap_or(0);
        Self {
            run_id: field("run_id").map(str::to_owned),
            refused_commands: number("unexpected_error_replies"),
            evicted_keys: number("evicted_keys"),
            memory: Memory {
                used: used.saturating_sub(uncounted),
                limit: number("maxmemory").unwrap_or(0),
                policy: field("maxmemory_policy").unwrap_or_default().to_owned(),
            },
            libraries: number("number_of_libraries"),
            bgsave_failed: field("rdb_last_bgsave_status").is_some_and(|text| text != "ok"),
            aof: aof(fields),
        }
    }
}

impl Memory {
    /// Does it let keys go at the limit?
    #[must_use]
    pub fn evicts(&self) -> bool {
        self.limit > 0 && !self.policy.is_empty() && self.policy != "noeviction"
    }
}

fn aof(fields: &BTreeMap<&str, &str>) -> Aof {
    let is = |name: &str, text: &str| fields.get(name).copied() == Some(text);
    if !is("aof_enabled", "1") {
        Aof::Off
    } else if !is("aof_last_bgrewrite_status", "ok") {
        Aof::Failed
    } else if is("aof_rewrite_in_progress", "1") || is("aof_rewrite_scheduled", "1") {
        Aof::Rewriting
    } else {
        Aof::Whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::replication_info::Facts;

    #[test]
    fn memory_counts_as_for_the_limit() {
        let info = "run_id:abc\r\nused_memory:1000\r\nmem_not_counted_for_evict:200\r\nmaxmemory:700\r\n\
                    maxmemory_policy:allkeys-lru\r\nevicted_keys:3\r\nunexpected_error_replies:2\r\n\
                    rdb_last_bgsave_status:err\r\nnumber_of_libraries:1\r\n";
        let health = Facts::parse(info).health;
        assert_eq!((health.memory.used, health.memory.limit), (800, 700));
        assert!(health.memory.evicts() && health.bgsave_failed);
        assert_eq!(
            (
                health.evicted_keys,
                health.refused_commands,
                health.libraries
            ),
            (Some(3), Some(2), Some(1))
        );
        let none = Facts::parse("maxmemory:0\nmaxmemory_policy:allkeys-lru\n").health;
        assert!(!none.memory.evicts() && !none.bgsave_failed);
        assert_eq!(none.refused_commands, None);
    }

    #[test]
    fn an_append_only_file_is_whole_when_its_rewrite_has_ended_well() {
        for (info, wanted) in [
            ("aof_enabled:0\naof_last_bgrewrite_status:ok", Aof::Off),
            (
                "aof_enabled:1\naof_rewrite_in_progress:1\naof_last_bgrewrite_status:ok",
                Aof::Rewriting,
            ),
            (
                "aof_enabled:1\naof_rewrite_scheduled:1\naof_last_bgrewrite_status:ok",
                Aof::Rewriting,
            ),
            (
                "aof_enabled:1\naof_rewrite_in_progress:1\naof_last_bgrewrite_status:err",
                Aof::Failed,
            ),
            ("aof_enabled:1\naof_last_bgrewrite_status:ok", Aof::Whole),
        ] {
            assert_eq!(Facts::parse(info).health.aof, wanted, "{info}");
        }
    }
}
