//! Can a target hold the data with its settings? What is known beforehand is refused beforehand.

use crate::recovery::check::Checked;
use crate::recovery::expected_keys::{Count, Expected};
use crate::restore::error::RestoreError;
use crate::restore::server::Target;

impl Target<'_> {
    /// Its disk. A replica of Redis 7.0 and later aborts in the middle of the log when its last BGSAVE failed.
    pub(crate) async fn check_disk(&mut self) -> Result<(), RestoreError> {
        if !self.facts().health.bgsave_failed {
            return Ok(());
        }
        let stops = self.setting("stop-writes-on-bgsave-error").await?.value();
        let saves = self.setting("save").await?.value();
        if stops.is_none_or(|value| value == "yes") && saves.is_none_or(|points| !points.is_empty())
        {
            return Err(self.refused(
                "takes no writes, because its last BGSAVE failed, and may stop in the middle of a restore. Repair its \
                 disk and run BGSAVE there, or: redis-cli CONFIG SET stop-writes-on-bgsave-error no",
            ));
        }
        Ok(())
    }

    /// The longest value that a command may make. Beyond it, a replica of Redis 6.2 and older skips the command without
    /// an error. Later ones do what their master did.
    pub(crate) async fn check_value_length(
        &mut self,
        checked: &Checked,
    ) -> Result<(), RestoreError> {
        if self.server().is_some_and(|server| server.has_redis(7, 0)) {
            return Ok(());
        }
        let limit = self.setting("proto-max-bulk-len").await?.value();
        let limit = limit.and_then(|text| text.parse::<u64>().ok());
        match limit.filter(|limit| *limit < checked.longest_value) {
            None => Ok(()),
            Some(limit) => Err(self.refused(format!(
                "has proto-max-bulk-len {limit}, and the log makes a value of {} bytes, which the server would skip \
                 without an error. Run there: redis-cli CONFIG SET proto-max-bulk-len {}",
                checked.longest_value, checked.longest_value
            ))),
        }
    }

    /// Its memory. An RDB is smaller than the data in memory, so this is the least that they need. What they really use
    /// is checked when the target has them.
    pub(crate) async fn check_memory(&mut self, count: &mut Count) -> Result<(), RestoreError> {
        let memory = self.facts().health.memory.clone();
        if memory.limit == 0 {
            return Ok(());
        }
        let ignores = self.setting("replica-ignore-maxmemory").await?.value();
        if ignores.is_none_or(|value| value == "yes") && !memory.evicts() {
            return Ok(());
        }
        let Expected::Known(counts) = count.wait().await else {
            return Ok(());
        };
        let own = if self.facts().total_keys() == 0 {
            memory.used
        } else {
            0
        };
        let least = own.saturating_add(counts.bytes);
        if least <= memory.limit {
            return Ok(());
        }
        Err(self.refused(format!(
            "is too small: it needs at least {least} bytes, and its maxmemory is {} with maxmemory-policy {}. Raise it \
             there: redis-cli CONFIG SET maxmemory 0 (no limit)",
            memory.limit, memory.policy
        )))
    }
}
