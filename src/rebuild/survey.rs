//! The first pass: what the log touches, and how far it can be applied.

use super::commands::{Argv, At, Taker, each_command, taker_error};
use super::{Limits, RebuildError, Source, Stop};
use crate::keyspace::{ApplyError, Footprint, Spec, Support};
use crate::position::{Boundary, Offset};

/// What was found.
#[derive(Debug)]
pub struct Survey {
    pub(super) footprint: Footprint,
    /// Of each of its `FUNCTION` commands, the boundary before it.
    pub(super) functions_after: Vec<Offset>,
    /// The last boundary up to which the log is to be applied.
    pub end: Boundary,
    /// Why not further; none: this is all of it.
    pub stop: Option<Stop>,
    /// When the last of them had been received, Unix milliseconds.
    pub received_unix_ms: Option<i64>,
    /// Commands up to there.
    pub commands: u64,
    /// Those among them that change data.
    pub writes: u64,
}

/// Goes over the log of `source`.
///
/// # Errors
/// [`RebuildError::Archive`] and [`RebuildError::Log`]. A command that cannot be applied is none: the survey ends before
/// it, and before the transaction that it is in.
pub async fn survey(source: &Source, limits: Limits) -> Result<Survey, RebuildError> {
    let start = source.start();
    let mut surveyor = Surveyor {
        footprint: Footprint::new(start.db),
        functions_after: Vec::new(),
        end: start,
        stop: None,
        received_unix_ms: None,
        commands: 0,
        writes: 0,
        pending: 0,
        pending_writes: 0,
        limits,
        enough_at: start.offset.plus(limits.log),
        begins: start.offset,
    };
    let walked = each_command(source, Offset(u64::MAX), limits.memory, &mut surveyor).await;
    match walked {
        Ok(()) => {}
        Err(error) => match taker_error(&error) {
            Some(why) => {
                surveyor.stop.get_or_insert_with(|| Stop::Command {
                    after: surveyor.begins,
                    why: why.clone(),
                });
            }
            // One command that is too long: what is before it can be done.
            None if error.is_memory() => {
                surveyor.stop.get_or_insert(Stop::Memory);
            }
            None => return Err(error),
        },
    }
    surveyor.footprint.go_back();
    Ok(Survey {
        footprint: surveyor.footprint,
        functions_after: surveyor.functions_after,
        end: surveyor.end,
        stop: surveyor.stop,
        received_unix_ms: surveyor.received_unix_ms,
        commands: surveyor.commands,
        writes: surveyor.writes,
    })
}

struct Surveyor {
    footprint: Footprint,
    functions_after: Vec<Offset>,
    end: Boundary,
    stop: Option<Stop>,
    received_unix_ms: Option<i64>,
    commands: u64,
    writes: u64,
    /// Commands of the transaction that is open.
    pending: u64,
    pending_writes: u64,
    limits: Limits,
    enough_at: Offset,
    /// Offset before the command at hand.
    begins: Offset,
}

impl Surveyor {
    /// Does it change data?
    fn note(&mut self, argv: Argv<'_>) -> Result<bool, ApplyError> {
        let spec = self.footprint.note(argv)?;
        if self.functions_after.len() < self.footprint.functions().len() {
            self.functions_after.push(self.end.offset);
        }
        Ok(changes_data(spec))
    }
}

impl Taker for Surveyor {
    fn unit(&mut self, at: At, commands: &[Argv<'_>]) -> Result<(), ApplyError> {
        if self.stop.is_some() {
            return Ok(());
        }
        // What cannot be divided is taken whole where there is nothing before it.
        if at.end > self.enough_at && self.commands > 0 {
            self.stop = Some(Stop::Enough);
            return Ok(());
        }
        self.begins = at.start;
        let mut writes = false;
        for argv in commands {
            writes |= self.note(argv)?;
        }
        self.pending = self.pending.saturating_add(1);
        self.pending_writes = self.pending_writes.saturating_add(u64::from(writes));
        if !at.outside {
            // A transaction may be of any length.
            if self.footprint.weight() > self.limits.memory {
                self.stop = Some(Stop::Memory);
            }
            return Ok(());
        }
        // Half for what is known of keys, half for their values.
        let too_heavy = self.footprint.weight() > self.limits.memory / 2;
        if too_heavy && self.commands > 0 {
            self.stop = Some(Stop::Memory);
            return Ok(());
        }
        self.commands = self.commands.saturating_add(self.pending);
        self.writes = self.writes.saturating_add(self.pending_writes);
        (self.pending, self.pending_writes) = (0, 0);
        self.received_unix_ms = Some(at.received_unix_ms);
        self.footprint.keep();
        self.end = Boundary {
            offset: at.end,
            db: self.footprint.selected(),
        };
        Ok(())
    }

    fn goes_on(&mut self) -> bool {
        self.stop.is_none()
    }
}

/// Does this command change data?
fn changes_data(spec: &Spec) -> bool {
    match spec.support {
        Support::Applied(_) => spec.name != "SELECT",
        Support::Ignored | Support::Refused(_) => spec.name == "FUNCTION",
    }
}
