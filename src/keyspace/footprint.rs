//! The first pass over the log: what it touches, how far it can be applied.

use std::collections::{BTreeMap, HashSet};

use super::args::Args;
use super::error::ApplyError;
use super::keys::Touch;
use super::layout::Layout;
use super::patterns::Patterns;
use super::table::{Support, find};
use super::{Blob, OVERHEAD};

/// What a log touches of a snapshot.
#[derive(Debug, Default)]
pub struct Footprint {
    layout: Layout,
    selected: u32,
    /// By database of the snapshot.
    touched: BTreeMap<u32, HashSet<Blob>>,
    /// By database of the snapshot.
    patterns: Patterns,
    /// Slots whose keys go.
    slots: Vec<(u16, u16)>,
    /// `FUNCTION …` commands, in order.
    functions: Vec<Vec<Blob>>,
    weight: usize,
}

/// How much of a footprint counts, so that the commands after it can be taken back: a transaction counts whole or not
/// at all. Keys that were noted too much do no harm.
#[derive(Clone, Debug)]
pub struct Unit {
    layout: Layout,
    selected: u32,
    slots: usize,
    functions: usize,
}

impl Footprint {
    /// Of a log that begins with this database selected.
    #[must_use]
    pub fn new(selected: u32) -> Self {
        Self {
            selected,
            ..Self::default()
        }
    }

    /// Notes what a command touches.
    ///
    /// # Errors
    /// When it cannot be applied. The caller goes back to the last [`Self::mark`], and stops there.
    pub fn note(&mut self, argv: &[&[u8]]) -> Result<(), ApplyError> {
        let args = Args::new(argv);
        let spec = find(args.name()).ok_or_else(|| args.unmodelled("it is not known"))?;
        if let Support::Refused(why) = spec.support {
            return Err(args.unmodelled(why));
        }
        let mut touches = Vec::new();
        spec.keys.of(&args, &mut |touch| {
            // A bound for the borrow: what is touched is noted right here.
            touches.push(match touch {
                Touch::Key(key) => Noted::Key(self.selected, key.into()),
                Touch::In(db, key) => Noted::Key(db, key.into()),
                Touch::Like { prefix, suffix } => Noted::Like(prefix.into(), suffix.into()),
                Touch::Slots(from, to) => Noted::Slots(from, to),
            });
        })?;
        for touch in touches {
            match touch {
                Noted::Key(db, key) => self.touch(db, key),
                Noted::Like(prefix, suffix) => {
                    let bytes = prefix.len().saturating_add(suffix.len());
                    if let Some(base) = self.layout.base_of(self.selected)
                        && self.patterns.add(base, prefix, suffix)
                    {
                        self.weight = self.weight.saturating_add(bytes.saturating_add(OVERHEAD));
                    }
                }
                Noted::Slots(from, to) => self.slots.push((from, to)),
            }
        }
        self.control(&args)
    }

    fn touch(&mut self, db: u32, key: Blob) {
        if let Some(base) = self.layout.base_of(db) {
            self.touch_of_base(base, key);
        }
    }

    fn touch_of_base(&mut self, base: u32, key: Blob) {
        let bytes = key.len().saturating_add(OVERHEAD);
        if self.touched.entry(base).or_default().insert(key) {
            self.weight = self.weight.saturating_add(bytes);
        }
    }

    /// Wants a key beside those that the log touches, by its database after the log.
    pub fn want(&mut self, db: u32, key: &[u8]) {
        self.touch(db, key.into());
    }

    /// The same, by its database in the snapshot: for who wants to know what a flush took.
    pub fn want_of_base(&mut self, base: u32, key: &[u8]) {
        self.touch_of_base(base, key.into());
    }

    /// Commands that change what the following ones mean.
    fn control(&mut self, args: &Args) -> Result<(), ApplyError> {
        match args.name().to_ascii_uppercase().as_slice() {
            b"SELECT" => self.selected = args.db(1)?,
            b"SWAPDB" => self.layout.swap(args.db(1)?, args.db(2)?),
            b"FLUSHDB" => self.layout.flush(self.selected),
            b"FLUSHALL" => self.layout.flush_all(),
            b"FUNCTION" => {
                let command: Vec<Blob> = args.from(0).iter().map(|arg| Blob::from(*arg)).collect();
                let bytes = command.iter().map(|arg| arg.len().saturating_add(OVERHEAD));
                self.weight = bytes.fold(self.weight, usize::saturating_add);
                self.functions.push(command);
            }
            _ => {}
        }
        Ok(())
    }

    /// Everything up to here counts.
    #[must_use]
    pub fn mark(&self) -> Unit {
        Unit {
            layout: self.layout.clone(),
            selected: self.selected,
            slots: self.slots.len(),
            functions: self.functions.len(),
        }
    }

    /// Takes back what came after the mark.
    pub fn back_to(&mut self, unit: Unit) {
        self.layout = unit.layout;
        self.selected = unit.selected;
        self.slots.truncate(unit.slots);
        self.functions.truncate(unit.functions);
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

    /// The keys that are touched, by database of the snapshot.
    pub fn touched(&self) -> impl Iterator<Item = (u32, &HashSet<Blob>)> {
        self.touched.iter().map(|(db, keys)| (*db, keys))
    }

    /// Is this key of the snapshot one that is touched?
    #[must_use]
    pub fn wants(&self, db: u32, key: &[u8]) -> bool {
        let named = self.touched.get(&db).is_some_and(|keys| keys.contains(key));
        named || self.patterns.has(db, key)
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

enum Noted {
    Key(u32, Blob),
    Like(Blob, Blob),
    Slots(u16, u16),
}
