//! How two points of a history differ: keys added, changed, removed.
//!
//! Only keys that the log between the two touches can differ, so only those are compared. Keys that a flush removes are
//! counted from the base.

mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::archive::Archive;
use crate::display::Shown;
use crate::model::{
    ApplyError, Args, DatabaseCommand, Entry, Keyspace, Layout, Touch, Unknown, find,
};
use crate::query::key_history::{LookupError, memory_of, plan_from, plan_of, reached};
use crate::rebuild::{self, Argv, At, Limits, Taker};
use crate::recovery;
use crate::recovery::{Plan, RecoveryError, RecoveryTarget};
use crate::wire::position::{Offset, ReplId};
use crate::wire::rdb::Family;
use crate::wire::rdb::elements::{Part, names, parts};

pub use report::{Count, Diff, KeyChange, Moved, OfPrefix, What};

/// How many prefixes are counted separately. Changes of further ones are added up.
const PREFIXES: usize = 1000;
/// The longest prefix that is counted by itself.
const PREFIX_BYTES: usize = 128;
/// How much of a key's name is shown.
const NAME_BYTES: usize = 512;

/// What to compare.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    /// Of which history. None: the latest one.
    pub history: Option<ReplId>,
    /// The earlier point.
    pub from: RecoveryTarget,
    /// The later point.
    pub to: RecoveryTarget,
    /// Keys that are listed one by one, at most.
    pub limit: usize,
    /// Bytes of memory for the keys that the log touches, at most.
    pub memory: usize,
}

/// Why the log does not lead from the earlier point to the later one. The later point may still be there, from a
/// snapshot after what is missing.
async fn apart(
    archive: &Archive,
    earlier: &Plan,
    to: RecoveryTarget,
    error: RecoveryError,
) -> Result<LookupError, RecoveryError> {
    let RecoveryError::Gap {
        missing,
        next,
        stepped_over: true,
        ..
    } = error
    else {
        return Err(error);
    };
    let later = plan_of(archive, Some(earlier.history), to).await?;
    Ok(LookupError::Apart {
        from: earlier.end.offset,
        to: later.end.offset,
        missing,
        next,
    })
}

/// Compares.
///
/// # Errors
/// [`LookupError`].
pub async fn diff(archive: &Archive, request: Request) -> Result<Diff, LookupError> {
    let earlier = plan_of(archive, request.history, request.from).await?;
    let split = earlier.end.offset;
    let catalog = archive.catalog().await?;
    let plan = plan_from(archive, &catalog, earlier.history, request.to, split).await;
    let plan = match plan {
        Err(error) => return Err(apart(archive, &earlier, request.to, error).await?),
        Ok(plan) => plan,
    };
    if plan.end.offset < split {
        return Err(LookupError::Reversed {
            from: split,
            to: plan.end.offset,
        });
    }
    let limits = Limits {
        memory: request.memory,
        log: u64::MAX,
    };
    let failed = |error| memory_of(error, &plan, request.memory);
    let source = recovery::source(archive, &plan);
    let mut survey = rebuild::survey_all(&source, limits).await?;
    reached(&plan, &survey, request.memory)?;
    let mut between = Between::new(split, source.base.db);
    rebuild::each_command(&source, plan.end.offset, request.memory, &mut between)
        .await
        .map_err(failed)?;
    // Only the part of the log after the flush touches a key that was flushed and made again.
    for (db, key) in &between.touched {
        if let Some(base) = between.layout.base_of(*db) {
            survey.want_of_base(base, key);
        }
    }
    // Keys that a flush took, which nothing had touched.
    let mut flushed: BTreeMap<u8, u64> = BTreeMap::new();
    let mut unwanted = |base: u32, kind: u8| {
        let now = between.layout.now(base);
        if now.is_some_and(|db| between.flushed.contains(&db)) {
            let count = flushed.entry(kind).or_default();
            *count = count.saturating_add(1);
        }
    };
    let state = rebuild::load(&source, &mut survey, limits, &mut unwanted).await;
    let mut step = Step {
        space: state.map_err(failed)?.space,
        split,
        between: &between,
        before: None,
        limit: request.memory,
    };
    let applied = rebuild::each_command(&source, plan.end.offset, request.memory, &mut step).await;
    if !step.goes_on() {
        let limit = request.memory;
        let goal = plan.recovery_target.to_string();
        return Err(LookupError::Memory { goal, limit });
    }
    applied.map_err(failed)?;
    step.look();
    let mut diff = of_nothing(&earlier, &plan, between.swapped.all());
    let family = step.space.dialect().family;
    for (kind, keys) in flushed {
        diff.removed.add(names(family, kind).0, keys);
        diff.removed_unlisted = diff.removed_unlisted.saturating_add(keys);
    }
    let before = step.before.unwrap_or_default();
    compare(
        &mut diff,
        before,
        &between.swapped,
        &step.space,
        request.limit,
    );
    Ok(diff)
}

/// Nothing is compared yet.
fn of_nothing(earlier: &Plan, later: &Plan, swapped: Vec<Moved>) -> Diff {
    Diff {
        from: earlier.end_position,
        from_unix_ms: earlier.end_unix_ms,
        to: later.end_position,
        to_unix_ms: later.end_unix_ms,
        swapped,
        added: Count::default(),
        changed: Count::default(),
        removed: Count::default(),
        removed_unlisted: 0,
        unknown: Vec::new(),
        unknown_more: 0,
        prefixes: Vec::new(),
        keys: Vec::new(),
        more: 0,
    }
}

/// By database (with its number at the earlier point) and name.
type Keys<V> = BTreeMap<(u32, Box<[u8]>), V>;

/// What the log between the two points touches.
struct Between {
    split: Offset,
    selected: u32,
    /// Where the databases of the snapshot are at the earlier point.
    layout: Layout,
    touched: BTreeSet<(u32, Box<[u8]>)>,
    flushed: Flushed,
    swapped: Swapped,
}

/// Which database of the earlier point has which number now. Those that are missing have their own.
///
/// Unlike in a [`Layout`], a database that is flushed keeps its identity: its keys at the earlier point are compared
/// with those that were written into it since.
#[derive(Default)]
struct Swapped(BTreeMap<u32, u32>);

impl Swapped {
    fn swap(&mut self, a: u32, b: u32) {
        let (first, second) = (self.before(a), self.before(b));
        self.0.insert(a, second);
        self.0.insert(b, first);
    }

    /// The number at the earlier point.
    fn before(&self, now: u32) -> u32 {
        self.0.get(&now).copied().unwrap_or(now)
    }

    /// The number now.
    fn now(&self, before: u32) -> u32 {
        let mut moved = self.0.iter();
        moved
            .find(|(_, it)| **it == before)
            .map_or(before, |(now, _)| *now)
    }

    fn all(&self) -> Vec<Moved> {
        let moved = self.0.iter().map(|(now, before)| Moved {
            before: *before,
            after: *now,
        });
        moved.filter(|it| it.before != it.after).collect()
    }
}

/// Databases that were flushed.
#[derive(Default)]
struct Flushed {
    all: bool,
    some: BTreeSet<u32>,
}

impl Flushed {
    fn contains(&self, db: &u32) -> bool {
        self.all || self.some.contains(db)
    }
}

impl Between {
    fn new(split: Offset, selected: u32) -> Self {
        Self {
            split,
            selected,
            layout: Layout::default(),
            touched: BTreeSet::new(),
            flushed: Flushed::default(),
            swapped: Swapped::default(),
        }
    }

    fn after_split(&mut self, command: DatabaseCommand) {
        match command {
            DatabaseCommand::Select(_) => {}
            DatabaseCommand::Swap(a, b) => self.swapped.swap(a, b),
            DatabaseCommand::Flush => {
                self.flushed.some.insert(self.swapped.before(self.selected));
            }
            DatabaseCommand::FlushAll => self.flushed.all = true,
        }
    }

    fn note_touched(&mut self, args: &Args<'_>) -> Result<(), ApplyError> {
        let Some(spec) = find(args.name()) else {
            return Ok(());
        };
        let (swapped, touched) = (&self.swapped, &mut self.touched);
        let selected = swapped.before(self.selected);
        spec.keys.of(args, &mut |touch| match touch {
            Touch::Key(key) | Touch::Overwritten(key) => {
                touched.insert((selected, key.into()));
            }
            Touch::In(db, key) => {
                touched.insert((swapped.before(db), key.into()));
            }
            // Read, to sort by; or slots of a cluster, which moved to another server.
            Touch::Like { .. } | Touch::Slots(..) => {}
        })
    }
}

impl Taker for Between {
    fn unit(&mut self, at: At, commands: &[Argv<'_>]) -> Result<(), ApplyError> {
        for argv in commands {
            let args = Args::new(argv);
            let is_before = at.start < self.split;
            match DatabaseCommand::of(&args)? {
                Some(DatabaseCommand::Select(db)) => self.selected = db,
                Some(command) if is_before => self.layout.follow(command, self.selected),
                Some(command) => self.after_split(command),
                None if is_before => {}
                None => self.note_touched(&args)?,
            }
        }
        Ok(())
    }

    fn goes_on(&mut self) -> bool {
        true
    }
}

/// What is compared of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Looks {
    type_name: &'static str,
    expiry: Option<i64>,
    value: [u8; 32],
}

/// What a key is at a point.
#[derive(Debug, Clone)]
enum Was {
    /// Not there.
    Gone,
    There(Looks),
    /// Its value is not known.
    Unknown(Unknown),
}

impl Was {
    fn of(space: &Keyspace, db: u32, key: &[u8]) -> Self {
        if let Some(unknown) = space.unknown(db, key) {
            return Self::Unknown(unknown.clone());
        }
        let entry = space.get(db, key);
        entry.map_or(Self::Gone, |entry| Self::There(Looks::of(entry, space)))
    }

    fn looks(&self) -> Option<&Looks> {
        match self {
            Self::There(looks) => Some(looks),
            Self::Gone | Self::Unknown(_) => None,
        }
    }
}

impl Looks {
    fn of(entry: &Entry, space: &Keyspace) -> Self {
        let mut payload = Vec::new();
        let kind = entry.value.encode(space.dialect(), &mut payload);
        let family = space.dialect().family;
        Self {
            type_name: names(family, kind).0,
            expiry: entry.expiry,
            value: digest(family, kind, &payload),
        }
    }
}

/// The same result for the same value in another encoding, and in another order if the order means nothing.
fn digest(family: Family, kind: u8, payload: &[u8]) -> [u8; 32] {
    let is_stream = names(family, kind).0 == "stream";
    let mut ordered = blake3::Hasher::new();
    let mut sum = [0u8; 32];
    let mut known = false;
    if !is_stream {
        let looked = parts(family, kind, payload, &mut |part| {
            match &part {
                Part::Text(bytes) => {
                    ordered.update(bytes);
                }
                Part::Member(bytes) if names(family, kind).0 == "list" => {
                    ordered.update(&(bytes.len() as u64).to_le_bytes());
                    ordered.update(bytes);
                }
                unordered => {
                    let one = blake3::hash(format!("{unordered:?}").as_bytes());
                    for (total, byte) in sum.iter_mut().zip(one.as_bytes()) {
                        *total ^= *byte;
                    }
                }
            }
            true
        });
        known = looked == Ok(true);
    }
    if !known {
        ordered = blake3::Hasher::new();
        ordered.update(&[kind]);
        ordered.update(payload);
    }
    ordered.update(&sum);
    ordered.finalize().into()
}

/// Applies the log, and looks at the keys in the middle of it.
struct Step<'a> {
    space: Keyspace,
    split: Offset,
    between: &'a Between,
    before: Option<Keys<Was>>,
    limit: usize,
}

impl Step<'_> {
    /// At the earlier point.
    fn look(&mut self) {
        if self.before.is_some() {
            return;
        }
        let mut before = Keys::new();
        for (db, key) in &self.between.touched {
            before.insert((*db, key.clone()), Was::of(&self.space, *db, key));
        }
        for (db, entries) in self.space.entries() {
            if !self.between.flushed.contains(&db) {
                continue;
            }
            for (key, entry) in entries {
                let looks = Looks::of(entry, &self.space);
                before.insert((db, key.into()), Was::There(looks));
            }
        }
        for (db, key, unknown) in self.space.unknowns() {
            if self.between.flushed.contains(&db) {
                before.insert((db, key.into()), Was::Unknown(unknown.clone()));
            }
        }
        self.before = Some(before);
    }
}

impl Taker for Step<'_> {
    fn unit(&mut self, at: At, commands: &[Argv<'_>]) -> Result<(), ApplyError> {
        if at.start >= self.split {
            self.look();
        }
        self.space.received_at(at.received_unix_ms);
        self.space.stands_at(at.start);
        commands.iter().try_for_each(|argv| self.space.apply(argv))
    }

    fn goes_on(&mut self) -> bool {
        !self.space.outgrows(self.limit)
    }
}

fn compare(diff: &mut Diff, before: Keys<Was>, swapped: &Swapped, space: &Keyspace, limit: usize) {
    let mut prefixes: HashMap<Option<Box<[u8]>>, OfPrefix> = HashMap::new();
    for ((db, key), before) in before {
        let db = swapped.now(db);
        let after = Was::of(space, db, &key);
        if let (Was::Unknown(of), _) | (_, Was::Unknown(of)) = (&before, &after) {
            diff.add_unknown(db, &key, of, limit);
            continue;
        }
        let (before, after) = (before.looks(), after.looks());
        let (what, type_name) = match (before, after) {
            (None, Some(after)) => (What::Added, after.type_name),
            (Some(before), None) => (What::Removed, before.type_name),
            (Some(before), Some(after)) if before != after => (What::Changed, after.type_name),
            _ => continue,
        };
        let colon = key.iter().take(PREFIX_BYTES).position(|byte| *byte == b':');
        let mut prefix = colon.and_then(|at| key.get(..=at)).map(Box::from);
        if prefixes.len() >= PREFIXES && !prefixes.contains_key(&prefix) {
            prefix = None;
        }
        let of_prefix = prefixes.entry(prefix).or_default();
        let (count, one) = match what {
            What::Added => (&mut diff.added, &mut of_prefix.added),
            What::Changed => (&mut diff.changed, &mut of_prefix.changed),
            What::Removed => (&mut diff.removed, &mut of_prefix.removed),
        };
        count.add(type_name, 1);
        *one = one.saturating_add(1);
        if diff.keys.len() >= limit {
            diff.more = diff.more.saturating_add(1);
            continue;
        }
        let value = |looks: Option<&Looks>| looks.map(|looks| (looks.type_name, looks.value));
        diff.keys.push(KeyChange {
            db,
            key: Shown::cut(&key, NAME_BYTES),
            key_cut: key.len() > NAME_BYTES,
            what,
            type_before: before.map(|looks| looks.type_name),
            type_after: after.map(|looks| looks.type_name),
            expiry_before_unix_ms: before.and_then(|looks| looks.expiry),
            expiry_after_unix_ms: after.and_then(|looks| looks.expiry),
            value_changed: value(before) != value(after),
        });
    }
    diff.unknown
        .sort_by(|a, b| (a.db, &a.key).cmp(&(b.db, &b.key)));
    // Keys of swapped databases came in another order. The number of keys that were not listed is the same.
    diff.keys
        .sort_by(|a, b| (a.db, &a.key).cmp(&(b.db, &b.key)));
    diff.more = diff.more.saturating_add(diff.removed_unlisted);
    let told = prefixes.into_iter().map(|(prefix, counts)| OfPrefix {
        prefix: prefix.map(|bytes| Shown(bytes.into_vec())),
        ..counts
    });
    diff.prefixes = told.collect();
    diff.prefixes.sort_by(|a, b| a.prefix.cmp(&b.prefix));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_the_same_in_every_encoding() {
        let listpack = b"\x0d\x0d\x00\x00\x00\x02\x00\x81a\x02\x81b\x02\xff";
        let table = b"\x02\x01b\x01a";
        let other = b"\x02\x01b\x01c";
        let set = |kind, payload| digest(Family::Redis, kind, payload);
        assert_eq!(set(20, listpack), set(2, table));
        assert_ne!(set(2, table), set(2, other));
        // A list in another order is another list.
        assert_ne!(set(1, b"\x02\x01b\x01a"), set(1, b"\x02\x01a\x01b"));
        assert_ne!(set(1, b"\x02\x02ab\x01c"), set(1, b"\x02\x01a\x02bc"));
    }
}
