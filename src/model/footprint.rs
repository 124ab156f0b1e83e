//! The first pass over the log: what it touches, how far it can be applied.

use std::collections::{BTreeMap, BTreeSet};

use super::args::Args;
use super::command::{Spec, Support};
use super::command_table::find;
use super::database_numbers::{DatabaseCommand, Layout};
use super::error::ApplyError;
use super::key_names::{self, Flags, Mark, Names};
use super::key_patterns::Patterns;
use super::key_specs::Touch;
use super::{Blob, OVERHEAD};

/// What a log touches of a snapshot.
#[derive(Debug, Default)]
pub struct Footprint {
    layout: Layout,
    selected: u32,
    /// By database of the snapshot.
    touched: BTreeMap<u32, Touched>,
    touches: Touches,
    /// By database of the snapshot.
    patterns: Patterns,
    /// Slots whose keys go.
    slots: Vec<(u16, u16)>,
    /// `FUNCTION …` commands, in order.
    functions: Vec<Vec<Blob>>,
    weight: usize,
    kept: Kept,
    /// Keys that are changed by a command that cannot be applied, by database at this point of the log, as far as the
    /// commands show it. What depends on values is seen when they are applied.
    lost: BTreeSet<(u32, Blob)>,
}

/// The keys of a database of the snapshot that are touched.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) names: Names,
    /// By number of the name: which touch was the last one, with [`AGAIN`] if it was not the only one.
    last: Vec<u32>,
    /// What the snapshot holds of them does not matter: the first that touches them overwrites them.
    pub(super) overwritten: Flags,
    kept: Mark,
}

/// The key was touched before.
const AGAIN: u32 = 1 << 31;
/// Touches that are too many to be counted have this number, and none of them is the last one.
const UNCOUNTED: u32 = AGAIN - 1;

/// Counts how often keys of the snapshot are touched. The second pass counts the same.
#[derive(Debug, Default)]
pub(super) struct Touches(u32);

impl Touches {
    /// The number of the next one.
    pub(super) fn count(&mut self) -> u32 {
        let number = self.0;
        self.0 = number.saturating_add(1).min(UNCOUNTED);
        number
    }
}

/// Which touches are the last ones of their keys: no later command depends on these.
#[derive(Debug, Default)]
pub(super) struct Lasts {
    /// Those that are not the first ones as well, or do not overwrite.
    pub(super) last: Flags,
    /// The only touch of a key, which it overwrites.
    pub(super) only: Flags,
}

impl Lasts {
    /// Bytes of memory.
    pub(super) fn weight(&self) -> usize {
        self.last.weight().saturating_add(self.only.weight())
    }
}

/// How much of a footprint counts, so that the commands after it can be taken back. A transaction counts as a whole or
/// not.
#[derive(Debug, Default)]
struct Kept {
    layout: Layout,
    selected: u32,
    slots: usize,
    functions: usize,
}

impl Footprint {
    /// An empty footprint for a log that begins with this database selected.
    #[must_use]
    pub fn new(selected: u32) -> Self {
        let mut footprint = Self {
            selected,
            ..Self::default()
        };
        footprint.keep();
        footprint
    }

    /// Notes what a command touches.
    ///
    /// # Errors
    /// When it cannot be applied. The caller goes back to what was kept ([`Self::go_back`]), and stops there.
    pub fn note(&mut self, argv: &[&[u8]]) -> Result<&'static Spec, ApplyError> {
        let args = Args::new(argv);
        let spec = find(args.name()).ok_or_else(|| args.unmodelled("it is not known"))?;
        match spec.support {
            Support::Refused(why) if !spec.loses_keys() => return Err(args.unmodelled(why)),
            _ => {}
        }
        let selected = self.selected;
        spec.keys.of(&args, &mut |touch| match touch {
            Touch::Key(key) => self.touch(selected, key, false),
            Touch::Overwritten(key) => self.touch(selected, key, true),
            Touch::In(db, key) => self.touch(db, key, false),
            Touch::Like { prefix, suffix } => {
                let bytes = prefix.len().saturating_add(suffix.len());
                if let Some(base) = self.layout.base_of(selected)
                    && self.patterns.add(base, prefix.into(), suffix.into())
                {
                    self.weigh(bytes.saturating_add(OVERHEAD));
                }
            }
            Touch::Slots(from, to) => self.slots.push((from, to)),
        })?;
        if spec.loses_keys() || !self.lost.is_empty() {
            self.follow_lost(spec, &args)?;
        }
        self.control(&args)?;
        Ok(spec)
    }

    /// Would there be keys whose value is not known, if the log ended here?
    #[must_use]
    pub fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Those keys, by their database then.
    pub fn lost(&self) -> impl Iterator<Item = (u32, &[u8])> {
        self.lost.iter().map(|(db, key)| (*db, &**key))
    }

    fn follow_lost(&mut self, spec: &Spec, args: &Args) -> Result<(), ApplyError> {
        let (selected, lost) = (self.selected, &mut self.lost);
        let mut loses = spec.loses_keys();
        spec.keys.of(args, &mut |touch| match touch {
            Touch::Key(key) => loses |= lost.contains(&(selected, key.into())),
            Touch::In(db, key) => loses |= lost.contains(&(db, key.into())),
            Touch::Overwritten(key) => {
                lost.remove(&(selected, key.into()));
            }
            Touch::Like { .. } | Touch::Slots(..) => {}
        })?;
        if !loses {
            return Ok(());
        }
        if let Some(from) = spec.moves_away(args) {
            lost.remove(&(selected, from.into()));
        }
        let mut brought = 0;
        spec.writes(args, &mut |db, key| {
            brought = key.len().saturating_add(OVERHEAD);
            lost.insert((db.unwrap_or(selected), key.into()));
        })?;
        self.weigh(brought);
        Ok(())
    }

    fn touch(&mut self, db: u32, key: &[u8], overwrites: bool) {
        if let Some(base) = self.layout.base_of(db) {
            let number = self.touches.count();
            // Two flags for each, in the end.
            self.weigh(usize::from(number.is_multiple_of(4)));
            self.touch_of_base(base, key, number, overwrites);
        }
    }

    fn touch_of_base(&mut self, base: u32, key: &[u8], touch: u32, overwrites: bool) {
        let of = self.touched.entry(base).or_default();
        let Some((number, new)) = of.names.insert(key) else {
            // Counts as more memory than there is, so that the rest is left for another stage.
            self.weight = usize::MAX;
            return;
        };
        if !new {
            if let Some(last) = of.last.get_mut(number as usize) {
                *last = touch | AGAIN;
            }
            return;
        }
        of.last.push(touch);
        if overwrites {
            of.overwritten.set(number);
        }
        self.weigh(key.len().saturating_add(key_names::OVERHEAD));
    }

    fn weigh(&mut self, bytes: usize) {
        self.weight = self.weight.saturating_add(bytes);
    }

    /// Also wants a key that the log does not touch, by its database after the log.
    pub fn want(&mut self, db: u32, key: &[u8]) {
        if let Some(base) = self.layout.base_of(db) {
            self.want_of_base(base, key);
        }
    }

    /// The same, by its database in the snapshot: for code that wants to know what a flush removed.
    pub fn want_of_base(&mut self, base: u32, key: &[u8]) {
        self.touch_of_base(base, key, UNCOUNTED, false);
    }

    /// Commands that change what the following ones mean.
    fn control(&mut self, args: &Args) -> Result<(), ApplyError> {
        if let Some(command) = DatabaseCommand::of(args)? {
            self.layout.follow(command, self.selected);
            self.follow_in_lost(command);
            if let DatabaseCommand::Select(db) = command {
                self.selected = db;
            }
        } else if args.is_word(0, "FUNCTION") {
            let command: Vec<Blob> = args.from(0).iter().map(|arg| Blob::from(*arg)).collect();
            let bytes = command.iter().map(|arg| arg.len().saturating_add(OVERHEAD));
            self.weight = bytes.fold(self.weight, usize::saturating_add);
            self.functions.push(command);
        }
        Ok(())
    }

    /// Keys that are lost move, and go, with their database.
    fn follow_in_lost(&mut self, command: DatabaseCommand) {
        let selected = self.selected;
        match command {
            DatabaseCommand::Select(_) => {}
            DatabaseCommand::Swap(a, b) => {
                let moved = |db: u32| match db {
                    db if db == a => b,
                    db if db == b => a,
                    db => db,
                };
                let lost = std::mem::take(&mut self.lost).into_iter();
                self.lost = lost.map(|(db, key)| (moved(db), key)).collect();
            }
            DatabaseCommand::Flush => self.lost.retain(|(db, _)| *db != selected),
            DatabaseCommand::FlushAll => self.lost.clear(),
        }
    }

    /// Everything up to here counts.
    pub fn keep(&mut self) {
        if self.kept.layout != self.layout {
            self.kept.layout.clone_from(&self.layout);
        }
        self.kept.selected = self.selected;
        self.kept.slots = self.slots.len();
        self.kept.functions = self.functions.len();
        for of in self.touched.values_mut() {
            of.kept = of.names.mark();
        }
    }

    /// Takes back what came after what counts. Patterns that were noted too much do no harm.
    pub fn go_back(&mut self) {
        self.layout.clone_from(&self.kept.layout);
        self.selected = self.kept.selected;
        self.slots.truncate(self.kept.slots);
        self.functions.truncate(self.kept.functions);
        for of in self.touched.values_mut() {
            of.names.back_to(of.kept);
            of.last.truncate(of.names.len());
            of.overwritten.truncate(of.names.len());
        }
    }

    /// Takes out the keys, by database of the snapshot.
    pub(super) fn take(&mut self) -> (BTreeMap<u32, Touched>, Lasts) {
        let mut touched = std::mem::take(&mut self.touched);
        let mut lasts = Lasts::default();
        // Slots go, or patterns are read, whatever touches a key by its name.
        let by_name = self.patterns.is_empty() && self.slots.is_empty();
        for of in touched.values_mut() {
            if !self.patterns.is_empty() {
                of.overwritten = Flags::default();
            }
            for (number, last) in (0..).zip(std::mem::take(&mut of.last)) {
                let touch = last & !AGAIN;
                if !by_name || touch == UNCOUNTED {
                    continue;
                }
                if touch == last && of.overwritten.get(number) {
                    lasts.only.set(touch);
                } else {
                    lasts.last.set(touch);
                }
            }
        }
        (touched, lasts)
    }

    /// The database that is selected at the end.
    #[must_use]
    pub fn selected(&self) -> u32 {
        self.selected
    }

    /// Where the databases of the snapshot are at the end.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Is this key of the snapshot one that is touched?
    #[must_use]
    pub fn wants(&self, db: u32, key: &[u8]) -> bool {
        let named = self.touched.get(&db).map(|of| of.names.find(key));
        named.flatten().is_some() || self.patterns.has(db, key)
    }

    /// Patterns of keys all of which are touched.
    pub(super) fn patterns(&self) -> &Patterns {
        &self.patterns
    }

    /// The slots whose keys go, apart from those that are touched otherwise.
    #[must_use]
    pub fn slots(&self) -> &[(u16, u16)] {
        &self.slots
    }

    /// The `FUNCTION` commands, in order.
    #[must_use]
    pub fn functions(&self) -> &[Vec<Blob>] {
        &self.functions
    }

    /// Bytes of memory that it takes, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }
}
