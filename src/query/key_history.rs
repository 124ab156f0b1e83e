//! One key as it was at a point, and what happened to it.

use crate::archive::{Archive, ArchiveError, Catalog};
use crate::display::Shown;
use crate::model::{ApplyError, Args, DatabaseCommand, Dialect, Touch, Unknown, find, slot_of};
use crate::rebuild::{self, Argv, At, Limits, RebuildError, Stop, Taker};
use crate::recovery;
use crate::recovery::{BadBases, Plan, RecoveryError, RecoveryTarget};
use crate::wire::position::{Offset, Position, ReplId};

/// Arguments of a command that are shown.
const ARGS_SHOWN: usize = 16;
/// Bytes of each that are shown.
const ARG_BYTES: usize = 80;

/// Why a point cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// It cannot be reached.
    #[error(transparent)]
    Restore(#[from] RecoveryError),
    /// Its keys are not known.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// A command of the log cannot be applied.
    #[error(
        "the state at {goal} is not known: {why}. It is known up to offset {reachable}: ask for that offset. Or \
         restore to a server of your own, and ask that server"
    )]
    Stopped {
        /// What was asked for.
        goal: String,
        /// How far the log can be applied.
        reachable: Offset,
        /// Why not further.
        why: Box<Stop>,
    },
    /// A command could not be applied, and this is a key that it changes.
    #[error(
        "the value of key {key} in database {db} at {goal} is not known, because a command after offset {since} cannot \
         be applied: {why}. Ask for an offset up to {since}, or restore to a server of your own. Other keys are not \
         affected"
    )]
    Unknown {
        /// Its name.
        key: Shown,
        /// Its database.
        db: u32,
        /// What was asked for.
        goal: String,
        /// The offset before the command.
        since: Offset,
        /// Why not.
        why: Box<ApplyError>,
    },
    /// The keys of the log take more memory than is allowed.
    #[error(
        "the keys that the log touches up to {goal} take more than the limit of {limit} bytes of memory: raise it, or run \
         `backfeed consolidate`, which leaves less log"
    )]
    Memory {
        /// What was asked for.
        goal: String,
        /// The limit.
        limit: usize,
    },
    /// Both points can be restored, and a full sync stepped over log between them.
    #[error(
        "what changed between offset {from} and offset {to} is not known: nobody has the log from byte {missing} on, \
         because a full sync stepped over it{}. Ask for two points on the same side. Or restore both points to RDB \
         files, and compare the files", .next.map(|next| format!(" (it continues at byte \
                                                                                             {next})")).unwrap_or_default()
    )]
    Apart {
        /// The earlier one.
        from: Offset,
        /// The later one.
        to: Offset,
        /// The first byte that is missing.
        missing: u64,
        /// Where the log continues.
        next: Option<u64>,
    },
    /// The later point lies before the earlier one.
    #[error("the later point (offset {to}) lies before the earlier one (offset {from}): swap them")]
    Reversed {
        /// The earlier one.
        from: Offset,
        /// The later one.
        to: Offset,
    },
}

impl From<ArchiveError> for LookupError {
    fn from(error: ArchiveError) -> Self {
        Self::Restore(error.into())
    }
}

/// The plan for a point of a history, with the newest base before it.
///
/// # Errors
/// As [`recovery::plan()`].
pub async fn plan_of(
    archive: &Archive,
    history: Option<ReplId>,
    recovery_target: RecoveryTarget,
) -> Result<Plan, RecoveryError> {
    let (catalog, history) = recovery::look(archive, history, None, recovery_target).await?;
    let mut plan = recovery::plan(
        archive,
        &catalog,
        history,
        recovery_target,
        &BadBases::new(),
    )
    .await?;
    // Only the commands tell, and they are made absolute where they are.
    plan.set_relative_ttls(true);
    Ok(plan)
}

/// The catalog, and the history that is meant.
async fn chosen(
    archive: &Archive,
    history: Option<ReplId>,
) -> Result<(Catalog, ReplId), RecoveryError> {
    let catalog = archive.catalog().await?;
    let history = recovery::choose(archive, &catalog, history, None)?;
    Ok((catalog, history))
}

/// The plan for a point that begins with the newest base at or before `from`.
///
/// # Errors
/// As [`recovery::plan()`].
pub(crate) async fn plan_from(
    archive: &Archive,
    catalog: &Catalog,
    history: ReplId,
    recovery_target: RecoveryTarget,
    from: Offset,
) -> Result<Plan, RecoveryError> {
    let mut plan = recovery::plan_from(archive, catalog, history, recovery_target, from).await?;
    plan.set_relative_ttls(true);
    Ok(plan)
}

/// The bases of a lineage.
fn bases(catalog: &Catalog, history: ReplId) -> Result<Vec<(ReplId, Offset)>, ArchiveError> {
    let mut all = Vec::new();
    for span in catalog.lineage(history)? {
        let found = catalog.histories.get(&span.history);
        let found = found.into_iter().flat_map(|history| &history.bases);
        let shared = found.filter(|base| base.offset <= span.offset);
        all.extend(shared.map(|base| (span.history, base.offset)));
    }
    all.sort_by_key(|(_, offset)| *offset);
    Ok(all)
}

/// A key at a point.
#[derive(Debug, Clone)]
pub struct Found {
    /// The point.
    pub at: Position,
    /// When its last byte had been received, Unix milliseconds.
    pub unix_ms: Option<i64>,
    /// The key. None: there was none.
    pub value: Option<FoundValue>,
}

/// Its value.
#[derive(Debug, Clone)]
pub struct FoundValue {
    /// When it expires, Unix milliseconds.
    pub expiry: Option<i64>,
    /// How it is written.
    pub dialect: Dialect,
    /// The RDB's type byte.
    pub kind: u8,
    /// The value as an RDB would hold it.
    pub payload: Vec<u8>,
}

/// The key `key` of database `db` at the end of `plan`.
///
/// # Errors
/// [`LookupError`].
pub async fn get(
    archive: &Archive,
    plan: &Plan,
    db: u32,
    key: &[u8],
    memory: usize,
) -> Result<Found, LookupError> {
    let limits = Limits {
        memory,
        log: u64::MAX,
    };
    let source = recovery::source(archive, plan);
    let mut survey = rebuild::survey_all(&source, limits).await?;
    reached(plan, &survey, memory)?;
    survey.want(db, key);
    let state = rebuild::state(&source, &mut survey, limits).await;
    let space = state.map_err(|error| memory_of(error, plan, memory))?.space;
    if let Some(Unknown { since, why }) = space.unknown(db, key) {
        return Err(LookupError::Unknown {
            key: Shown::new(key),
            db,
            goal: plan.recovery_target.to_string(),
            since: *since,
            why: Box::new(why.clone()),
        });
    }
    let value = space.get(db, key).map(|entry| {
        let mut payload = Vec::new();
        let kind = entry.value.encode(space.dialect(), &mut payload);
        FoundValue {
            expiry: entry.expiry,
            dialect: space.dialect(),
            kind,
            payload,
        }
    });
    Ok(Found {
        at: plan.end_position,
        unix_ms: plan.end_unix_ms,
        value,
    })
}

/// Says that a survey came to the end of its plan.
pub(crate) fn reached(
    plan: &Plan,
    survey: &rebuild::Survey,
    limit: usize,
) -> Result<(), LookupError> {
    let goal = plan.recovery_target.to_string();
    match &survey.stop {
        None => Ok(()),
        Some(Stop::Memory | Stop::Enough) => Err(LookupError::Memory { goal, limit }),
        Some(why @ Stop::Command { .. }) => Err(LookupError::Stopped {
            goal,
            reachable: survey.end.offset,
            why: Box::new(why.clone()),
        }),
    }
}

pub(crate) fn memory_of(error: RebuildError, plan: &Plan, limit: usize) -> LookupError {
    if error.is_memory() {
        let goal = plan.recovery_target.to_string();
        return LookupError::Memory { goal, limit };
    }
    error.into()
}

/// A command that touches the key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// The offset of its last byte.
    pub offset: Offset,
    /// When it had been received.
    pub unix_ms: i64,
    /// Its name and arguments, shortened; a number of further ones may follow as `… 7 more`.
    pub command: Vec<Shown>,
}

/// Which part of the log was looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Looked {
    /// After this point (the oldest base from which the log is unbroken),
    pub from: Position,
    /// up to this one.
    pub to: Position,
}

/// Hands out every command that touches the key `key` of the database that has number `db` then, up to `when`, in
/// order.
///
/// # Errors
/// [`LookupError`].
pub async fn changes(
    archive: &Archive,
    history: Option<ReplId>,
    recovery_target: RecoveryTarget,
    db: u32,
    key: &[u8],
    memory: usize,
    give: &mut (dyn FnMut(Change) + Send),
) -> Result<Looked, LookupError> {
    let plan = longest(archive, history, recovery_target).await?;
    let source = recovery::source(archive, &plan);
    let mut watch = Watch {
        db,
        key,
        selected: source.base.db,
        give,
    };
    rebuild::each_command(&source, plan.end.offset, memory, &mut watch)
        .await
        .map_err(|error| memory_of(error, &plan, memory))?;
    Ok(Looked {
        from: plan.base.position(),
        to: plan.end_position,
    })
}

/// The plan that begins with the oldest base from which the log is unbroken.
async fn longest(
    archive: &Archive,
    history: Option<ReplId>,
    recovery_target: RecoveryTarget,
) -> Result<Plan, RecoveryError> {
    let (catalog, history) = chosen(archive, history).await?;
    for (_, offset) in bases(&catalog, history)? {
        match plan_from(archive, &catalog, history, recovery_target, offset).await {
            Err(
                RecoveryError::Gap { .. }
                | RecoveryError::SteppedOver { .. }
                | RecoveryError::NoSoundBase { .. },
            ) => {}
            other => return other,
        }
    }
    plan_of(archive, Some(history), recovery_target).await
}

struct Watch<'a> {
    db: u32,
    key: &'a [u8],
    selected: u32,
    give: &'a mut (dyn FnMut(Change) + Send),
}

impl Watch<'_> {
    fn touches(&self, argv: &[&[u8]]) -> bool {
        let args = Args::new(argv);
        let here = self.selected == self.db;
        let Some(spec) = find(args.name()) else {
            // Unknown: any of its arguments may be the key.
            return here && argv.iter().skip(1).any(|arg| *arg == self.key);
        };
        let mut touches = false;
        let told = spec.keys.of(&args, &mut |touch| {
            touches |= match touch {
                Touch::Key(key) | Touch::Overwritten(key) => here && key == self.key,
                Touch::In(db, key) => db == self.db && key == self.key,
                // Read, to sort by.
                Touch::Like { .. } => false,
                Touch::Slots(from, to) => (from..=to).contains(&slot_of(self.key)),
            };
        });
        touches || told.is_err() && here && argv.iter().skip(1).any(|arg| *arg == self.key)
    }

    fn command(&mut self, at: At, argv: Argv<'_>) -> Result<(), ApplyError> {
        let args = Args::new(argv);
        let touches = match DatabaseCommand::of(&args)? {
            Some(DatabaseCommand::Select(db)) => {
                self.selected = db;
                false
            }
            Some(DatabaseCommand::Swap(a, b)) => a == self.db || b == self.db,
            Some(DatabaseCommand::Flush) => self.selected == self.db,
            Some(DatabaseCommand::FlushAll) => true,
            None => self.touches(argv),
        };
        if touches {
            let shown = argv.iter().take(ARGS_SHOWN);
            let mut command: Vec<Shown> = shown.map(|arg| Shown::cut(arg, ARG_BYTES)).collect();
            let more = argv.len().saturating_sub(ARGS_SHOWN);
            if more > 0 {
                command.push(Shown(format!("… {more} more").into_bytes()));
            }
            (self.give)(Change {
                offset: at.end,
                unix_ms: at.received_unix_ms,
                command,
            });
        }
        Ok(())
    }
}

impl Taker for Watch<'_> {
    fn unit(&mut self, at: At, commands: &[Argv<'_>]) -> Result<(), ApplyError> {
        commands.iter().try_for_each(|argv| self.command(at, argv))
    }

    fn goes_on(&mut self) -> bool {
        true
    }
}
