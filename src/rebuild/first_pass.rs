//! The first pass: what the log touches, and how far it can be applied.

use super::commands::{Argv, At, Taker, each_command, taker_error};
use super::{Limits, RebuildError, Source, Stop};
use crate::model::{ApplyError, Args, Footprint, Raw, Spec, Support};
use crate::wire::position::{Boundary, Offset};

/// What was found.
#[derive(Debug)]
pub struct Survey {
    pub(super) footprint: Footprint,
    /// The boundary before each of its `FUNCTION` commands.
    pub(super) functions_after: Vec<Offset>,
    /// The last boundary up to which the log will be applied.
    pub end: Boundary,
    /// Why it ends here. None: this is all of it.
    pub stop: Option<Stop>,
    /// When the last of them had been received, Unix milliseconds.
    pub received_unix_ms: Option<i64>,
    /// Commands up to there.
    pub commands: u64,
    /// Those among them that change data.
    pub writes: u64,
    /// Final values of keys that the log does not have, known from elsewhere.
    pub given: Vec<Given>,
}

/// The value of a key that the log does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: Vec<u8>,
    /// When it expires, Unix milliseconds.
    pub expiry: Option<i64>,
    /// The value.
    pub raw: Raw,
}

impl Survey {
    /// The keys whose final value the commands do not show: their database and name.
    pub fn lost(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.footprint.lost()
    }
}

/// Goes over the log of `source`, for all keys. It ends where the value of each key is known, as far as the commands
/// show it.
///
/// # Errors
/// [`RebuildError::Archive`] and [`RebuildError::Log`]. A command that cannot be applied is no error: the survey ends
/// before it, and before its transaction, unless what it changes is overwritten before the end.
pub async fn survey(source: &Source, limits: Limits) -> Result<Survey, RebuildError> {
    go_over(source, limits, true).await
}

/// The same for some of the keys. A command that cannot be applied, and whose keys are known, ends nothing. The state
/// at the end says which keys it has made unknown.
///
/// # Errors
/// As of [`survey()`].
pub async fn survey_all(source: &Source, limits: Limits) -> Result<Survey, RebuildError> {
    go_over(source, limits, false).await
}

async fn go_over(
    source: &Source,
    limits: Limits,
    for_all_keys: bool,
) -> Result<Survey, RebuildError> {
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
        for_all_keys,
        lost: None,
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
    surveyor.stop = surveyor.stop.take().or_else(|| surveyor.stop_at_lost());
    surveyor.footprint.go_back();
    Ok(Survey {
        footprint: surveyor.footprint,
        functions_after: surveyor.functions_after,
        end: surveyor.end,
        stop: surveyor.stop,
        received_unix_ms: surveyor.received_unix_ms,
        commands: surveyor.commands,
        writes: surveyor.writes,
        given: Vec::new(),
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
    for_all_keys: bool,
    /// Why the values of keys are not known: since the last boundary at which all were.
    lost: Option<ApplyError>,
}

impl Surveyor {
    /// The last boundary at which all values are known is the end, if it is for all keys and there was a later one.
    fn stop_at_lost(&self) -> Option<Stop> {
        let why = self.lost.clone()?;
        let after = self.end.offset;
        (self.for_all_keys && self.footprint.has_lost()).then_some(Stop::Command { after, why })
    }
}

impl Surveyor {
    /// Does it change data?
    fn note(&mut self, argv: Argv<'_>) -> Result<bool, ApplyError> {
        let spec = self.footprint.note(argv)?;
        if let Support::Refused(why) = spec.support
            && self.lost.is_none()
        {
            self.lost = Some(Args::new(argv).unmodelled(why));
        }
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
        if self.for_all_keys && self.footprint.has_lost() {
            let too_far = at.end >= self.enough_at;
            if too_far || self.footprint.weight() > self.limits.memory {
                self.stop = self.stop_at_lost();
            }
            return Ok(());
        }
        self.lost = None;
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
        Support::Ignored => spec.name == "FUNCTION",
        // A command that cannot be applied at all was an error before.
        Support::Refused(_) => true,
    }
}
