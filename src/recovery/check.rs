//! The first pass: everything is read once, and is known to be complete, before any target is changed.

use std::collections::BTreeSet;

use futures::StreamExt;

use crate::archive::{Archive, ArchiveError};
use crate::model::expiry::is_relative;
use crate::recovery::content::piece_bytes;
use crate::recovery::error::RecoveryError;
use crate::recovery::plan::Plan;
use crate::recovery::progress::{Progress, Stage};
use crate::wire::position::Boundary;
use crate::wire::rdb::{Summary, WalkError, Walker};
use crate::wire::resp::{Command, FeedScanner, Head};

/// Command names that are remembered. Redis and Valkey together have fewer than 500 commands, modules some hundred. A
/// log has only writes.
const MAX_NAMES: usize = 1000;

/// What the first pass found.
#[derive(Debug, Clone)]
pub struct Checked {
    /// What the snapshot holds.
    pub summary: Summary,
    /// `databases` that a target must have: the highest database in use, plus one.
    pub databases: u32,
    /// Commands in the log, in upper case.
    pub commands: BTreeSet<String>,
    /// How many commands the log has, `PING` and the like included.
    pub command_count: u64,
    /// The log holds relative expiries. The commands themselves show it: a new server that follows an old one passes
    /// them on, and the version of a server may be unknown.
    pub relative_ttls: bool,
    /// The log makes values of at least this length, with commands that say where in a value they write.
    pub longest_value: u64,
    /// Commands that every server refuses: an `EXEC` without a `MULTI`, or a `MULTI` in a `MULTI`. Redis 6.0 sends such
    /// ones. They change nothing.
    pub refused: u64,
}

/// Reads everything that `plan` names: lengths, checksums, the snapshot record by record, the log command by command.
///
/// # Errors
/// What is damaged or missing, by name; what cannot be replayed.
pub async fn check(
    archive: &Archive,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Checked, RecoveryError> {
    progress.stage(
        Stage::Checking,
        Some(plan.bytes_base().saturating_add(plan.bytes_log())),
    );
    let summary = check_base(archive, plan, progress).await?;
    let log = check_log(archive, plan, progress).await?;
    let in_base = summary.databases.keys().next_back().copied().unwrap_or(0);
    Ok(Checked {
        databases: in_base.max(log.highest_db).saturating_add(1),
        summary,
        commands: log.commands,
        command_count: log.count,
        relative_ttls: log.relative_ttls,
        longest_value: log.longest_value,
        refused: log.refused,
    })
}

/// Checks only the snapshot. [`is_bad_base`] tells from its error whether another one should be taken.
pub(crate) async fn check_base(
    archive: &Archive,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Summary, RecoveryError> {
    let base = plan.base.position();
    let bad = |source| RecoveryError::BadBase {
        base,
        source: Box::new(source),
    };
    let mut walker = Walker::new();
    let mut bytes = archive.read_base(&plan.base).await?;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk?;
        let taken = walker.push(&chunk).map_err(bad)?;
        if taken < chunk.len() {
            return Err(bad(WalkError::Malformed {
                offset: walker.summary().bytes,
                expected: "the end of the file",
                found: "more bytes".to_owned(),
                record: "the end of the RDB".to_owned(),
                record_at: walker.summary().bytes,
            }));
        }
        progress.advance(chunk.len() as u64);
    }
    walker.finish_opaque().map_err(bad)?;
    Ok(walker.summary().clone())
}

/// Is it this base that an error speaks of, so that an older one may serve?
pub(crate) fn is_bad_base(error: &RecoveryError) -> bool {
    match error {
        RecoveryError::BadBase { .. } => true,
        RecoveryError::Archive(ArchiveError::NewerFormat { .. }) => true,
        error => error.is_damage(),
    }
}

#[derive(Default)]
struct Log {
    highest_db: u32,
    commands: BTreeSet<String>,
    count: u64,
    relative_ttls: bool,
    longest_value: u64,
    /// A transaction is open.
    within: bool,
    refused: u64,
    unreplayable: Option<String>,
}

impl Log {
    fn command(&mut self, command: &Command<'_>) {
        self.count = self.count.saturating_add(1);
        self.highest_db = self.highest_db.max(command.db);
        let head = command.head;
        self.relative_ttls |= is_relative(head);
        self.longest_value = self.longest_value.max(reach(head));
        let (begins, ends) = (head.is("MULTI"), head.is("EXEC"));
        let is_refused = (begins && self.within) || (ends && !self.within);
        self.refused = self.refused.saturating_add(u64::from(is_refused));
        self.within = begins || (self.within && !ends);
        let other = if head.is("SWAPDB") {
            head.number(1).max(head.number(2))
        } else if head.is("MOVE") {
            head.number(2)
        } else if head.is("COPY") {
            let option = (3..6).find(|index| head.arg_is(*index, "DB"));
            option.and_then(|index| head.number(index.saturating_add(1)))
        } else {
            None
        };
        let other = other.and_then(|db| u32::try_from(db).ok()).unwrap_or(0);
        self.highest_db = self.highest_db.max(other);
        if head.is("RREPLAY") {
            let what =
                "it comes from a KeyDB with active-replica, whose commands are wrapped (RREPLAY)";
            self.unreplayable.get_or_insert_with(|| what.to_owned());
        }
        self.remember(head.arg(0).unwrap_or_default());
    }

    fn remember(&mut self, name: &[u8]) {
        const LONGEST: usize = 32; // as much as a head keeps
        let mut upper = [0u8; LONGEST];
        let Some(upper) = upper.get_mut(..name.len()) else {
            return;
        };
        upper.copy_from_slice(name);
        upper.make_ascii_uppercase();
        let Ok(name) = std::str::from_utf8(upper) else {
            return;
        };
        if !self.commands.contains(name) && self.commands.len() < MAX_NAMES {
            self.commands.insert(name.to_owned());
        }
    }
}

/// How long the value is at least that a command writes into.
fn reach(head: &Head) -> u64 {
    const BITS: u64 = 8;
    let of_bit = |index| {
        head.number(index)
            .map_or(0, |bit| (bit / BITS).saturating_add(1))
    };
    if head.is("SETBIT") {
        of_bit(2)
    } else if head.is("BITFIELD") {
        // The first of its operations.
        of_bit(4)
    } else if head.is("SETRANGE") {
        let from = head.number(2).unwrap_or(0);
        from.saturating_add(head.arg_len(3))
    } else {
        0
    }
}

async fn check_log(
    archive: &Archive,
    plan: &Plan,
    progress: &dyn Progress,
) -> Result<Log, RecoveryError> {
    let mut log = Log {
        highest_db: plan.base.db,
        ..Log::default()
    };
    let mut scanner = FeedScanner::new(plan.start());
    for piece in plan.pieces.iter() {
        let piece = &piece?;
        let history = piece.header.meta.history;
        let mut bytes = piece_bytes(archive, piece).await?;
        while let Some(chunk) = bytes.next().await {
            let chunk = chunk?;
            let scanned = scanner.scan(&chunk, |command| log.command(command));
            scanned.map_err(|source| RecoveryError::BadLog { history, source })?;
            progress.advance(chunk.len() as u64);
        }
    }
    if let Some(what) = log.unreplayable {
        return Err(RecoveryError::Unreplayable(what));
    }
    ends_where_planned(plan, scanner.boundary())?;
    Ok(log)
}

/// The bytes must end where the headers said. (The database may differ: a snapshot that is taken beside a running
/// capture may be at a point where its master was about to select one.)
fn ends_where_planned(plan: &Plan, found: Boundary) -> Result<(), RecoveryError> {
    if found.offset == plan.end.offset {
        return Ok(());
    }
    Err(RecoveryError::Unreplayable(format!(
        "its headers say that a command ends at offset {}, but its bytes say {}",
        plan.end.offset, found.offset
    )))
}
