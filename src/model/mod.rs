//! The key space: what the data of a server become when the commands of its feed are applied to them.
//!
//! It is lazy. [`Footprint`] first goes over the log, and collects which keys it reads or writes. Only those are loaded
//! from the snapshot ([`Keyspace::load`]), as undecoded bytes. A value is decoded when a command needs to look into it.
//! The rest of the snapshot is never seen here.
//!
//! ```text
//! log ──▶ Footprint: keys touched, databases swapped or flushed
//!             │
//! snapshot ──▶ Keyspace::load (only touched keys) ──▶ log ──▶ Keyspace::apply ──▶ Keyspace::write
//! ```
//!
//! Commands are applied as a replica applies them (PROTOCOL.md C). Conditions are evaluated against the data. A key
//! whose time has passed stays until the feed deletes it. A command that cannot have succeeded on the master stops
//! everything ([`ApplyError::Diverged`]): we never guess. A command that cannot be applied to the value that it finds,
//! or at all, affects only the keys that it writes: their value is [`Unknown`] until it is overwritten.
#![doc = include_str!("commands.md")]

pub mod expiry;

mod any_type;
mod args;
mod command;
mod command_table;
mod database_numbers;
mod error;
mod footprint;
mod functions;
mod geo;
mod hashes;
mod key_names;
mod key_patterns;
mod key_specs;
mod last_use;
mod lists;
mod payload;
mod pop;
mod server_commands;
mod sets;
mod sort;
mod streams;
mod strings;
mod unknown;
mod value;
mod zsets;

use std::collections::{BTreeMap, HashMap};

use footprint::{Lasts, Touches};
use key_names::{Flags, Names, Place};
use key_patterns::Patterns;
use last_use::Alone;
pub use server_commands::slot_of;

pub use args::Args;
pub use command::{Spec, Support};
pub use command_table::{commands, find};
pub use database_numbers::{DatabaseCommand, Layout};
pub use error::ApplyError;
pub use footprint::Footprint;
pub use functions::Libraries;
pub use hashes::Hash;
pub use key_specs::{Keys, Touch};
pub use lists::List;
pub use sets::Set;
pub use streams::Stream;
pub use strings::Text;
pub use unknown::Unknown;
pub use value::{DataType, Dialect, Raw, Value};
pub use zsets::Zset;

use crate::wire::position::Offset;
use crate::wire::rdb::Family;

/// Bytes of a key, a member, a field.
pub type Blob = Box<[u8]>;

/// What is counted for a key or an element beside its bytes: hash table, pointers, allocator.
const OVERHEAD: usize = 100;

/// The part of a memory limit that must be free after everything was weighed again. Otherwise the limit counts as
/// reached.
const LEFT: usize = 16;

/// A key's value and what belongs to it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// When it expires, Unix milliseconds.
    pub expiry: Option<i64>,
    /// The value.
    pub value: Value,
    /// What few keys have.
    pub more: Option<Box<More>>,
}

/// Data that only few keys have.
#[derive(Clone, Debug)]
pub struct More {
    /// Further records before the key, as the snapshot has them: `IDLE`, `FREQ`, and with [`Self::has_meta`]
    /// `KEY_META`.
    pub prefix: Blob,
    /// Modules have attached data to the key, whose rules only they know.
    pub has_meta: bool,
}

impl Entry {
    /// A fresh key without expiry.
    #[must_use]
    pub fn new(value: Value) -> Self {
        Self {
            expiry: None,
            value,
            more: None,
        }
    }

    /// Further records before the key, as the snapshot has them.
    #[must_use]
    pub fn prefix(&self) -> &[u8] {
        self.more.as_ref().map_or(&[], |more| &more.prefix)
    }

    /// Have modules attached data to the key?
    #[must_use]
    pub fn has_meta(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.has_meta)
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.value.weight().saturating_add(self.prefix().len())
    }
}

/// What is known of a key: there, or not there.
type Slot = Option<Box<Entry>>;

/// Does the key space want a key of the snapshot?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// No command touches it.
    No,
    /// It will be loaded.
    Yes,
    /// Its value does not matter: it is overwritten or deleted first.
    Overwritten,
}

/// One database.
#[derive(Debug, Default)]
struct Db {
    /// The database of the snapshot that has these keys. None after a flush.
    base: Option<u32>,
    /// The keys of which something is known. Of other keys of `base`, nothing is.
    names: Names,
    /// By number of the name. Those after the end are not there.
    slots: Vec<Slot>,
    /// Keys that are not known until they are overwritten.
    unread: Flags,
    /// Keys that have left: no later command touches them.
    left: Flags,
    /// Those whose value is not known. They have no slot that is filled.
    unknown: HashMap<u32, Unknown>,
}

impl Db {
    /// All keys that are there.
    fn iter(&self) -> impl Iterator<Item = (&[u8], &Entry)> {
        let slots = self.names.iter().zip(&self.slots);
        slots.filter_map(|(name, slot)| slot.as_deref().map(|entry| (name, entry)))
    }

    fn slot(&mut self, number: u32) -> Option<&mut Slot> {
        let index = number as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index.saturating_add(1), || None);
        }
        self.slots.get_mut(index)
    }

    /// Takes out what is there under a number.
    fn take(&mut self, number: u32) -> Slot {
        self.slots.get_mut(number as usize).and_then(Option::take)
    }
}

/// The keys that a log touches.
#[derive(Debug)]
pub struct Keyspace {
    dialect: Dialect,
    dbs: BTreeMap<u32, Db>,
    selected: u32,
    /// `FLUSHALL` has come: nothing of the snapshot is left.
    flushed: bool,
    /// All keys of the snapshot that match these were loaded: one that was not is not there.
    patterns: Patterns,
    /// Bytes of memory, roughly.
    weight: usize,
    /// When the commands that are applied were received, Unix milliseconds.
    received: Option<i64>,
    touches: Touches,
    lasts: Lasts,
    /// A value was loaded although it is overwritten, because a module has attached data to it.
    is_attached: bool,
    /// The server is known to be a Valkey.
    is_valkey: bool,
    /// Where the databases of the snapshot are in the end.
    layout: Layout,
    /// Keys that leave after the present command: the database of the snapshot, the database, the name.
    leaving: Vec<(u32, u32, Place)>,
    /// Keys that the command at hand is the only one to touch.
    alone: Vec<Alone>,
    /// The offset before the command at hand.
    at: Offset,
    /// A command that cannot have succeeded on the master also affects only its keys.
    is_lenient: bool,
}

impl Keyspace {
    /// Knows nothing yet. What `footprint` has collected can be loaded, and stays until the end: for code that looks at
    /// keys. A command that cannot be applied, for whatever reason, affects only the keys that it writes.
    #[must_use]
    pub fn new(footprint: &mut Footprint, dialect: Dialect, selected: u32) -> Self {
        let mut space = Self::passing(footprint, dialect, selected);
        space.lasts = Lasts::default();
        for db in space.dbs.values_mut() {
            db.unread = Flags::default();
        }
        space.is_lenient = true;
        space
    }

    /// The same, with as little in memory as possible: values that are overwritten before any command looks at them
    /// need not be loaded, and [`Self::apply_passing`] hands out each key after the last command that touches it.
    #[must_use]
    pub fn passing(footprint: &mut Footprint, dialect: Dialect, selected: u32) -> Self {
        let (touched, lasts) = footprint.take();
        let of = |(number, touched): (u32, footprint::Touched)| {
            let db = Db {
                base: Some(number),
                names: touched.names,
                unread: touched.overwritten,
                ..Db::default()
            };
            (number, db)
        };
        Self {
            dialect,
            dbs: touched.into_iter().map(of).collect(),
            selected,
            flushed: false,
            patterns: footprint.patterns().clone(),
            weight: footprint.weight(),
            received: None,
            touches: Touches::default(),
            lasts,
            is_attached: false,
            is_valkey: dialect.family == Family::Valkey,
            layout: footprint.layout().clone(),
            leaving: Vec::new(),
            alone: Vec::new(),
            at: Offset(0),
            is_lenient: false,
        }
    }

    /// Is the server a Valkey? The RDB does not always show it: versions up to 8.1 write the RDB version of Redis 7.2.
    pub fn set_valkey(&mut self, is_valkey: bool) {
        self.is_valkey |= is_valkey;
    }

    /// Is the server known to be a Valkey?
    pub(crate) fn is_valkey(&self) -> bool {
        self.is_valkey
    }

    /// How values are written in this snapshot.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Bytes of memory that it takes, roughly.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.weight
    }

    /// Weighs everything again. Until then, what commands add is counted as if nothing had been replaced.
    pub fn weigh(&mut self) -> usize {
        let of = |db: &Db| {
            let entries = db
                .iter()
                .map(|(_, entry)| entry.weight().saturating_add(OVERHEAD));
            entries.fold(db.names.weight(), usize::saturating_add)
        };
        let dbs = self.dbs.values().map(of);
        self.weight = dbs.fold(self.lasts.weight(), usize::saturating_add);
        self.weight
    }

    /// Does it take more memory than this? It weighs everything before it says yes. It also says yes when too little is
    /// left for many commands: otherwise it would have to weigh everything again with each of the next few.
    pub fn outgrows(&mut self, limit: usize) -> bool {
        let enough = limit.saturating_sub(limit / LEFT);
        self.weight > limit && self.weigh() > enough
    }

    /// Does it want this key of the snapshot?
    #[must_use]
    pub fn wants(&self, db: u32, key: &[u8]) -> Wanted {
        if let Some(db) = self.dbs.get(&db)
            && let Some(number) = db.names.find_rare(key)
        {
            return if db.unread.get(number) {
                Wanted::Overwritten
            } else {
                Wanted::Yes
            };
        }
        if self.patterns.has(db, key) {
            return Wanted::Yes;
        }
        Wanted::No
    }

    /// Takes in a key of the snapshot that is wanted, before any command is applied.
    pub fn load(&mut self, db: u32, key: &[u8], entry: Entry) {
        self.charge(entry.weight().saturating_add(OVERHEAD));
        let (is_attached, db) = (entry.has_meta(), self.db(db));
        if let Some((number, _)) = db.names.insert(key) {
            db.unread.clear(number);
            if let Some(slot) = db.slot(number) {
                *slot = Some(Box::new(entry));
            }
        }
        self.is_attached |= is_attached;
    }

    /// When the next commands were received, Unix milliseconds, by the time marks of their segment. Servers note such
    /// times of their own for the consumers of streams. Nothing else depends on it.
    pub fn received_at(&mut self, unix_ms: i64) {
        self.received = Some(unix_ms);
    }

    /// Applies a command. If that cannot be done as the server did it, the values of the keys that it writes are not
    /// known any more ([`Self::unknown`]). After an error the key space is of no more use.
    ///
    /// # Errors
    /// [`ApplyError`]: it is not known which keys the command has changed.
    pub fn apply(&mut self, argv: &[&[u8]]) -> Result<(), ApplyError> {
        let args = Args::new(argv);
        self.apply_spec(Self::spec(&args)?, &args)
    }

    fn spec(args: &Args) -> Result<&'static Spec, ApplyError> {
        find(args.name()).ok_or_else(|| args.unmodelled("it is not known"))
    }

    fn apply_spec(&mut self, spec: &Spec, args: &Args) -> Result<(), ApplyError> {
        let applied = self.try_spec(spec, args);
        applied.or_else(|why| self.lose(spec, args, why))
    }

    /// After an error, what the command writes is not known.
    fn try_spec(&mut self, spec: &Spec, args: &Args) -> Result<(), ApplyError> {
        match spec.support {
            Support::Applied(apply) => {
                // What a command brings is the most that most commands add.
                let brought = args.from(0).iter().map(|arg| arg.len());
                self.charge(brought.fold(0, usize::saturating_add));
                apply(self, args)
            }
            Support::Ignored => Ok(()),
            Support::Refused(why) => Err(args.unmodelled(why)),
        }
    }

    /// What is there now under a key that was collected.
    #[must_use]
    pub fn get(&self, db: u32, key: &[u8]) -> Option<&Entry> {
        let db = self.dbs.get(&db)?;
        let number = db.names.find(key)?;
        db.slots.get(number as usize)?.as_deref()
    }

    /// The keys at the end, by database, in no order.
    pub fn entries(&self) -> impl Iterator<Item = (u32, impl Iterator<Item = (&[u8], &Entry)>)> {
        self.dbs.iter().map(|(number, db)| (*number, db.iter()))
    }

    // --- For the commands -------------------------------------------------------------------------------------------

    /// The number of the selected database.
    fn selected(&self) -> u32 {
        self.selected
    }

    /// When the command was received, if that is known.
    fn received(&self) -> Option<i64> {
        self.received
    }

    /// Accounts for memory that a command takes beyond what it brings itself: copies, unions, decoded values.
    fn charge(&mut self, bytes: usize) {
        self.weight = self.weight.saturating_add(bytes);
    }

    fn db(&mut self, number: u32) -> &mut Db {
        let base = (!self.flushed).then_some(number);
        self.dbs.entry(number).or_insert_with(|| Db {
            base,
            ..Db::default()
        })
    }

    /// The slot of a key in a database.
    fn slot_in(&mut self, db: u32, key: &[u8]) -> Result<&mut Slot, ApplyError> {
        self.slot_or_unread(db, key, false)
    }

    /// The same. To be overwritten, it need not be known.
    fn slot_or_unread(
        &mut self,
        number: u32,
        key: &[u8],
        overwritten: bool,
    ) -> Result<&mut Slot, ApplyError> {
        let is_it = |alone: &Alone| alone.db == number && *alone.key == *key;
        if let Some(at) = self.alone.iter().position(is_it)
            && let Some(alone) = self.alone.get_mut(at)
        {
            return Ok(&mut alone.slot);
        }
        let base = (!self.flushed).then_some(number);
        let new = || Db {
            base,
            ..Db::default()
        };
        let db = self.dbs.entry(number).or_insert_with(new);
        let not_collected = || ApplyError::NotCollected { key: key.into() };
        let index = match db.names.find(key) {
            Some(index) => index,
            None if db.base.is_some_and(|base| !self.patterns.has(base, key)) => {
                return Err(not_collected());
            }
            None => db.names.insert(key).ok_or(ApplyError::TooMany)?.0,
        };
        if db.left.get(index) || (!overwritten && db.unread.get(index)) {
            return Err(not_collected());
        }
        if overwritten {
            db.unread.clear(index);
            db.unknown.remove(&index);
        } else if let Some(unknown) = db.unknown.get(&index) {
            return Err(ApplyError::Unknown {
                key: key.into(),
                since: unknown.since,
                why: Box::new(unknown.why.clone()),
            });
        }
        db.slot(index).ok_or_else(not_collected)
    }

    /// The entry of a key of the selected database.
    fn entry(&mut self, key: &[u8]) -> Result<Option<&mut Entry>, ApplyError> {
        Ok(self.slot_in(self.selected, key)?.as_deref_mut())
    }

    /// The value of a key of the selected database, to be read or changed in place. None if there is no such key.
    ///
    /// After elements were taken from an aggregate, call [`Self::drop_if_empty`].
    fn value<T: DataType>(
        &mut self,
        args: &Args,
        key: &[u8],
    ) -> Result<Option<&mut T>, ApplyError> {
        let Some(value) = self.decoded(args, key)? else {
            return Ok(None);
        };
        match T::of(value) {
            Some(value) => Ok(Some(value)),
            None => Err(args.diverged("the key holds a value of another type")),
        }
    }

    /// The value of a key of the selected database, of whatever type, never [`Value::Raw`].
    fn decoded(&mut self, args: &Args, key: &[u8]) -> Result<Option<&mut Value>, ApplyError> {
        let dialect = self.dialect;
        let selected = self.selected;
        let slot = self.slot_in(selected, key)?;
        if let Some(entry) = slot
            && let Value::Raw(raw) = &entry.value
        {
            let decoded = raw.decode(dialect).map_err(|bad| args.damaged(key, bad))?;
            // Packed or compressed, it took a fraction of this.
            let more = decoded.weight().saturating_sub(raw.payload.len());
            entry.value = decoded;
            self.charge(more);
        }
        let slot = self.slot_in(selected, key)?;
        Ok(slot.as_mut().map(|entry| &mut entry.value))
    }

    /// The same, made if it is not there.
    fn value_or_new<T: DataType>(&mut self, args: &Args, key: &[u8]) -> Result<&mut T, ApplyError> {
        let selected = self.selected;
        let slot = self.slot_in(selected, key)?;
        if slot.is_none() {
            *slot = Some(Box::new(Entry::new(T::default().into_value())));
            self.charge(key.len().saturating_add(OVERHEAD));
        }
        self.value(args, key)?
            .ok_or_else(|| ApplyError::NotCollected { key: key.into() })
    }

    /// Deletes the key if its aggregate is empty, as servers do (streams stay).
    fn drop_if_empty(&mut self, key: &[u8]) -> Result<(), ApplyError> {
        let selected = self.selected;
        let slot = self.slot_in(selected, key)?;
        if slot.as_ref().is_some_and(|entry| entry.value.is_empty()) {
            *slot = None;
        }
        Ok(())
    }

    /// Replaces whatever is there with a value: a new key, without expiry (`SET`, `…STORE`). An empty aggregate deletes
    /// the key.
    fn put(&mut self, args: &Args, key: &[u8], value: Value) -> Result<(), ApplyError> {
        self.charge(value.weight().saturating_add(OVERHEAD));
        let entry = (!value.is_empty()).then(|| Box::new(Entry::new(value)));
        self.put_entry(args, self.selected, key, entry)?;
        Ok(())
    }

    /// Replaces whatever is there with an entry, or with nothing. Returns what was there.
    fn put_entry(
        &mut self,
        args: &Args,
        db: u32,
        key: &[u8],
        entry: Slot,
    ) -> Result<Slot, ApplyError> {
        let slot = self.slot_or_unread(db, key, true)?;
        if entry.is_some() && slot.as_ref().is_some_and(|old| old.has_meta()) {
            return Err(args.unmodelled("a module has attached data to the key"));
        }
        Ok(std::mem::replace(slot, entry))
    }

    /// Removes a key of the selected database. Returns what was there.
    fn remove(&mut self, args: &Args, key: &[u8]) -> Result<Slot, ApplyError> {
        self.put_entry(args, self.selected, key, None)
    }

    /// Unlike a [`Layout`], it moves the keys as well.
    fn follow(&mut self, command: DatabaseCommand) {
        match command {
            DatabaseCommand::Select(db) => self.selected = db,
            DatabaseCommand::Swap(a, b) if a == b => {}
            DatabaseCommand::Swap(a, b) => {
                let first = std::mem::take(self.db(a));
                let second = std::mem::replace(self.db(b), first);
                *self.db(a) = second;
            }
            DatabaseCommand::Flush => *self.db(self.selected) = Db::default(),
            DatabaseCommand::FlushAll => {
                self.dbs.clear();
                self.flushed = true;
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod testing;
