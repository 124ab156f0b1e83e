//! A key leaves the key space after the last command that touches it. So memory holds only keys that are still to be
//! touched. The footprint knows the number of the last touch, so nothing is stored for each key.

use super::args::Args;
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::Touch;
use super::{Blob, Entry, Keyspace, Slot};

/// A key that only one command touches, and which that command overwrites: it need not be looked up.
#[derive(Debug)]
pub(super) struct Alone {
    /// The database of the snapshot.
    base: u32,
    pub(super) db: u32,
    pub(super) key: Blob,
    pub(super) slot: Slot,
}

/// If a command touches more keys, they are looked up. Up to this many are compared one by one.
const MOST_ALONE: usize = 8;

impl Keyspace {
    /// Applies a command, and hands out the keys that no later command touches, with their final database. They are
    /// then no longer here.
    ///
    /// # Errors
    /// As of [`Self::apply`].
    pub fn apply_passing(
        &mut self,
        argv: &[&[u8]],
        passes: &mut dyn FnMut(u32, &[u8], &Entry),
    ) -> Result<(), ApplyError> {
        let args = Args::new(argv);
        let spec = Self::spec(&args)?;
        self.find_leaving(spec, &args)?;
        self.apply_spec(spec, &args)?;
        while let Some((base, db, place)) = self.leaving.pop() {
            let Some(db) = self.dbs.get_mut(&db) else {
                continue;
            };
            db.left.set(place.number);
            // If a database will be flushed, nothing is left of it.
            if let Some(entry) = db.take(place.number)
                && let Some(last) = self.layout.now(base)
            {
                passes(last, db.names.name(place), &entry);
            }
        }
        while let Some(alone) = self.alone.pop() {
            if let Some(entry) = alone.slot
                && let Some(last) = self.layout.now(alone.base)
            {
                passes(last, &alone.key, &entry);
            }
        }
        Ok(())
    }

    /// Finds which keys leave after a command. It counts like [`Footprint::note`].
    fn find_leaving(&mut self, spec: &Spec, args: &Args) -> Result<(), ApplyError> {
        let Self {
            dbs,
            selected,
            flushed,
            touches,
            lasts,
            is_attached,
            leaving,
            alone,
            ..
        } = self;
        spec.keys.of(args, &mut |touch| {
            let (db, key) = match touch {
                Touch::Key(key) | Touch::Overwritten(key) => (*selected, key),
                Touch::In(db, key) => (db, key),
                Touch::Like { .. } | Touch::Slots(..) => return,
            };
            let there = dbs.get(&db);
            let base = there.map_or((!*flushed).then_some(db), |there| there.base);
            let Some(base) = base else {
                return;
            };
            let touch = touches.count();
            let only = lasts.only.get(touch);
            if only && !*is_attached && alone.len() < MOST_ALONE {
                alone.push(Alone {
                    base,
                    db,
                    key: key.into(),
                    slot: None,
                });
            } else if (only || lasts.last.get(touch))
                && let Some(place) = there.and_then(|there| there.names.place(key))
            {
                leaving.push((base, db, place));
            }
        })
    }
}
