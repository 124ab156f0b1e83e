//! The keys that a log touches, in memory. For code that looks at some of them, and does not write all of them.

use futures::StreamExt;

use super::commands::{Argv, At, Commands, Taker, taker_error};
use super::rdb_out::Out;
use super::{BaseStop, Limits, RebuildError, Source, Survey};
use crate::model::{ApplyError, Dialect, Entry, Footprint, Keyspace, More, Raw, Value, Wanted};
use crate::wire::position::Offset;
use crate::wire::rdb::magic;
use crate::wire::rdb::reader::{self, Fate, Item, ReadError, Reader, Sink};

/// What there is at a point.
#[derive(Debug)]
pub struct State {
    /// The keys that were wanted.
    pub space: Keyspace,
}

impl Survey {
    /// Also wants a key that the log does not touch, by its database at the end of the log.
    pub fn want(&mut self, db: u32, key: &[u8]) {
        self.footprint.want(db, key);
    }

    /// Wants a key by its database in the snapshot, where the log flushes that later.
    pub fn want_of_base(&mut self, base: u32, key: &[u8]) {
        self.footprint.want_of_base(base, key);
    }
}

/// Loads the wanted keys of the snapshot, before the log. Calls `unwanted` for each other key, with its database in the
/// snapshot and its RDB type.
///
/// # Errors
/// [`RebuildError`].
pub async fn load(
    source: &Source,
    survey: &mut Survey,
    limits: Limits,
    unwanted: &mut (dyn FnMut(u32, u8) + Send),
) -> Result<State, RebuildError> {
    let base = source.base.offset;
    let bad = |error| RebuildError::Base {
        base,
        source: Box::new(error),
    };
    let mut loader = Loader {
        footprint: &mut survey.footprint,
        selected: source.base.db,
        limit: limits.memory,
        is_valkey: source.is_valkey(),
        space: None,
        unwanted,
    };
    let mut reader = Reader::new(limits.memory);
    let mut chunks = source.archive.read_base(&source.base).await?;
    while let Some(chunk) = chunks.next().await {
        reader.push(&chunk?, &mut loader).map_err(bad)?;
        tokio::task::yield_now().await;
    }
    reader.finish().map_err(bad)?;
    let space = loader.space;
    let space = space.ok_or_else(|| bad(ReadError::Sink(BaseStop::Unmodelled("nothing"))))?;
    Ok(State { space })
}

/// The keys that the log touches, and those that are wanted in addition, with their values at the end of `survey`.
///
/// # Errors
/// [`RebuildError`].
pub async fn state(
    source: &Source,
    survey: &mut Survey,
    limits: Limits,
) -> Result<State, RebuildError> {
    let State { space } = load(source, survey, limits, &mut |_, _| {}).await?;
    let space = apply(source, space, survey.end.offset, limits, None).await?;
    Ok(State { space })
}

/// Applies the log up to `end` to the keys that were loaded. If there is an output, keys that no later command touches
/// go there. Then all keys that are wanted there must be known in the end. Without an output, the key space says which
/// keys are not known.
///
/// # Errors
/// [`RebuildError::Command`] when one cannot be applied to what it finds, [`RebuildError::Memory`], and what is wrong
/// with the log.
pub(super) async fn apply(
    source: &Source,
    space: Keyspace,
    end: Offset,
    limits: Limits,
    out: Option<&mut Out>,
) -> Result<Keyspace, RebuildError> {
    let limit = limits.memory;
    let mut applier = Applier {
        space,
        limit,
        boundary: source.base.offset,
        known: source.base.offset,
        lost: None,
        full: false,
        out,
    };
    let mut commands = Commands::new(source, end, limit);
    loop {
        let stepped = commands.step(&mut applier).await;
        if applier.full {
            return Err(RebuildError::Memory { limit });
        }
        match stepped {
            Ok(true) => {}
            Ok(false) => return applier.finish(),
            Err(error) => {
                return Err(match taker_error(&error) {
                    Some(why) => RebuildError::Command {
                        after: applier.boundary,
                        why: why.clone(),
                    },
                    None => error,
                });
            }
        }
        if let Some(out) = &mut applier.out {
            out.flush_full().await?;
            out.keep_alive(true).await?;
        }
    }
}

struct Loader<'a> {
    footprint: &'a mut Footprint,
    selected: u32,
    limit: usize,
    is_valkey: bool,
    space: Option<Keyspace>,
    unwanted: &'a mut (dyn FnMut(u32, u8) + Send),
}

impl Sink for Loader<'_> {
    type Error = BaseStop;

    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), BaseStop> {
        if opcode == reader::HEADER {
            let (family, version) = magic(raw).ok_or(BaseStop::Unmodelled("an unknown format"))?;
            let dialect = Dialect { family, version };
            let mut space = Keyspace::new(self.footprint, dialect, self.selected);
            space.set_valkey(self.is_valkey);
            self.space = Some(space);
        }
        Ok(())
    }

    fn fate(&mut self, db: u32, key: &[u8], kind: u8, _: bool) -> Fate {
        let space = self.space.as_ref();
        if space.is_some_and(|space| space.wants(db, key) != Wanted::No) {
            return Fate::Take;
        }
        (self.unwanted)(db, kind);
        Fate::Drop
    }

    fn pass(&mut self, _: &[u8]) -> Result<(), BaseStop> {
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) -> Result<(), BaseStop> {
        let Some(space) = &mut self.space else {
            return Ok(());
        };
        space.load(item.db, item.key, entry_of(&item));
        if space.weight() > self.limit {
            return Err(BaseStop::Memory { limit: self.limit });
        }
        Ok(())
    }
}

/// A key of a snapshot, undecoded.
pub(super) fn entry_of(item: &Item<'_>) -> Entry {
    let more = || {
        Box::new(More {
            prefix: item.prefix.into(),
            has_meta: item.has_meta,
        })
    };
    Entry {
        expiry: item.expiry,
        value: Value::Raw(Raw {
            kind: item.kind,
            payload: item.payload.into(),
        }),
        more: (!item.prefix.is_empty()).then(more),
    }
}

/// Applies the log to what was kept.
struct Applier<'a> {
    space: Keyspace,
    limit: usize,
    /// The last boundary up to which all was applied.
    boundary: Offset,
    /// The last one at which the values of all keys were known.
    known: Offset,
    /// Why they are not known after it.
    lost: Option<ApplyError>,
    /// They have become too much.
    full: bool,
    /// Where keys go that no later command touches.
    out: Option<&'a mut Out>,
}

impl Applier<'_> {
    fn note_known(&mut self, at: At) {
        if !self.space.is_known() {
            let first = || self.space.unknowns().min_by_key(|(.., of)| of.since);
            let why = || first().map(|(.., of)| of.why.clone());
            self.lost = self.lost.take().or_else(why);
        } else if at.outside {
            (self.known, self.lost) = (at.end, None);
        }
    }

    fn finish(self) -> Result<Keyspace, RebuildError> {
        let (Some(out), Some(why)) = (self.out, self.lost) else {
            return Ok(self.space);
        };
        if (self.space.unknowns()).any(|(db, key, _)| !out.can_miss(db, key)) {
            let after = self.known;
            return Err(RebuildError::Command { after, why });
        }
        Ok(self.space)
    }
}

impl Taker for Applier<'_> {
    fn unit(&mut self, at: At, commands: &[Argv<'_>]) -> Result<(), ApplyError> {
        if self.full {
            return Ok(());
        }
        self.space.received_at(at.received_unix_ms);
        self.space.stands_at(at.start);
        for argv in commands {
            match &mut self.out {
                None => self.space.apply(argv)?,
                Some(out) => {
                    let dialect = self.space.dialect();
                    let mut passes =
                        |db: u32, key: &[u8], entry: &Entry| out.entry(dialect, db, key, entry);
                    self.space.apply_passing(argv, &mut passes)?;
                }
            }
        }
        self.note_known(at);
        self.full = self.space.outgrows(self.limit);
        if at.outside {
            self.boundary = at.end;
        }
        Ok(())
    }

    fn goes_on(&mut self) -> bool {
        !self.full
    }
}
