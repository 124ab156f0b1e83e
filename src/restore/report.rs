//! What a restore did, or would do.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Request;
use super::server::Restored;
use super::serving::WayForm;
use crate::archive::Archive;
use crate::config::{Dest, Size};
use crate::display::counted;
use crate::recovery::check::Checked;
use crate::recovery::expected_keys::Expected;
use crate::recovery::plan::Plan;
use crate::recovery::target::show_time;
use crate::wire::position::ReplId;

/// What a restore did, or would do. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing was done yet.
    pub dry_run: bool,
    /// The store.
    pub archive: String,
    /// Where to.
    pub target: String,
    /// What was asked for.
    pub goal: String,
    /// The history that was asked for.
    pub history: ReplId,
    /// The history that the end belongs to: that one, or an ancestor.
    pub end_history: ReplId,
    /// The last byte.
    pub end_offset: u64,
    /// When it had been received, Unix milliseconds.
    pub end_unix_ms: Option<i64>,
    /// The end is the last point that is stored.
    pub is_latest: bool,
    /// The id under which the target is fed. None for files.
    pub served_id: Option<ReplId>,
    /// The target continues the history.
    pub continued: bool,
    /// The history of the snapshot.
    pub base_history: ReplId,
    /// The offset of the snapshot.
    pub base_offset: u64,
    /// Its format.
    pub base_format: String,
    /// Its bytes, uncompressed.
    pub base_bytes: u64,
    /// Segments after it.
    pub segments: usize,
    /// Their bytes, uncompressed, as far as they are used.
    pub log_bytes: u64,
    /// Commands in them, once they have been read.
    pub commands: Option<u64>,
    /// In which form a server got the log. None for files, and before it was served.
    pub log_served: Option<WayForm>,
    /// Why in that form.
    pub log_served_why: Option<String>,
    /// Keys by database at that point. If the target is a server: the keys in it before it was promoted.
    pub keys: BTreeMap<u32, u64>,
    /// They are those of the snapshot, before the log, as those at the point are not known.
    pub keys_before_log: bool,
    /// What an operator should know.
    pub notes: Vec<String>,
}

impl Report {
    pub(super) fn new(
        archive: &Archive,
        request: &Request,
        plan: &Plan,
        checked: Option<&Checked>,
        mut notes: Vec<String>,
    ) -> Self {
        notes.extend(plan.notes.iter().cloned());
        let is_server = matches!(request.target, Dest::Server(_));
        let id = if request.continue_history {
            plan.history
        } else {
            request.fork_id
        };
        Self {
            dry_run: checked.is_none(),
            archive: archive.store().url(),
            target: request.target.to_string(),
            goal: request.recovery_target.to_string(),
            history: plan.history,
            end_history: plan.end_position.history,
            end_offset: plan.end.offset.0,
            end_unix_ms: plan.end_unix_ms,
            is_latest: plan.is_tip_end,
            served_id: is_server.then_some(id),
            continued: is_server && request.continue_history,
            base_history: plan.base.history,
            base_offset: plan.base.offset.0,
            base_format: plan.base.rdb_magic.clone(),
            base_bytes: plan.bytes_base(),
            segments: plan.pieces.len(),
            log_bytes: plan.bytes_log(),
            commands: checked.map(|checked| checked.command_count),
            log_served: None,
            log_served_why: None,
            keys: plan
                .base
                .databases
                .iter()
                .map(|(db, counts)| (*db, counts.keys))
                .collect(),
            keys_before_log: plan.bytes_log() > 0,
            notes,
        }
    }

    /// Adds the keys at the point, if they are known.
    pub(super) fn of(mut self, expected: &Expected) -> Self {
        match expected {
            Expected::Known(counts) => {
                self.keys.clone_from(&counts.keys);
                self.keys_before_log = false;
            }
            Expected::Unknown(why) => {
                let note = format!("how many keys there are at that point is not known: {why}");
                self.notes.push(note);
            }
        }
        self
    }

    pub(super) fn restored(mut self, restored: Restored) -> Self {
        self.target = format!("{} ({})", self.target, restored.server);
        self.keys = restored.keys;
        self.keys_before_log = false;
        if let Some(way) = restored.way {
            self.log_served = Some(way.form);
            self.log_served_why = Some(way.why);
        }
        self.notes.extend(restored.notes);
        self
    }
}

/// When the end had been received.
pub(super) fn time_of_end(unix_ms: Option<i64>) -> String {
    unix_ms.map_or_else(|| "at an unknown time".to_owned(), show_time)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run {
            "would restore"
        } else {
            "restored"
        };
        writeln!(f, "{verb} {} to {}", self.archive, self.target)?;
        let time = time_of_end(self.end_unix_ms);
        let latest = if self.is_latest {
            ", the last point stored"
        } else {
            ""
        };
        writeln!(
            f,
            "  up to     offset {} of history {}, {time}{latest}",
            self.end_offset, self.end_history
        )?;
        writeln!(
            f,
            "  snapshot  offset {}, {} ({})",
            self.base_offset,
            Size(self.base_bytes),
            self.base_format
        )?;
        write!(
            f,
            "  log       {} in {}",
            Size(self.log_bytes),
            counted(self.segments as u64, "segment")
        )?;
        match self.commands {
            Some(commands) => writeln!(f, ", {}", counted(commands, "command"))?,
            None => writeln!(f)?,
        }
        if let Some(id) = self.served_id {
            let kind = if self.continued {
                "the history's own"
            } else {
                "a fork"
            };
            writeln!(f, "  served    as {id}, {kind}")?;
        }
        if let (Some(form), Some(why)) = (self.log_served, &self.log_served_why) {
            let form = match form {
                WayForm::Replayed => "the log was replayed",
                WayForm::Rebuilt => "snapshot and log were made one RDB",
            };
            writeln!(f, "  way       {form}: {why}")?;
        }
        let keys: Vec<String> = self
            .keys
            .iter()
            .map(|(db, keys)| format!("db{db} {keys}"))
            .collect();
        let keys = if keys.is_empty() {
            "none".to_owned()
        } else {
            keys.join(", ")
        };
        let of = if self.keys_before_log {
            " (in the snapshot, before the log)"
        } else {
            ""
        };
        writeln!(f, "  keys      {keys}{of}")?;
        for note in &self.notes {
            writeln!(f, "  note      {note}")?;
        }
        Ok(())
    }
}
