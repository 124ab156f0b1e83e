//! The backup of a cluster: all shards at the same instant, into RDB files, into a cluster of any shape, or into one server.
//!
//! ```text
//!  slot map of the instant ─▶ which keys of which shard  ┐
//!  archive of each shard ─▶ plan, check ─▶ rebuild ──────┴─▶ DIR/SHARD.rdb
//!                                                        └─▶ RESTORE, to the master of each slot ─▶ keys per slot, compared
//! ```

mod moment;
mod target;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use self::moment::{Moment, Taken};
use self::target::{Keyspace, OverKey};
use super::error::RestoreError;
use super::files;
use super::keys::{Chosen, Key, KeysRequest};
use super::report::time_of_end;
use crate::archive::{Archive, ArchiveError, ClusterPlace, shard_url};
use crate::config::{ClusterDest, KeysDest, StoreConfig};
use crate::display::time as show_time;
use crate::model::slot_of;
use crate::rebuild::{Selection, SlotSet};
use crate::recovery::error::RecoveryError;
use crate::recovery::progress::{Progress, Stage};
use crate::recovery::target::RecoveryTarget;
use crate::recovery::{BadBases, Plan, look, plan, sound};
use crate::store;

/// A shard that sends nothing for so long is idle, or is not backed up: masters send `PING` every 10 s.
const QUIET_MS: i64 = 15_000;
/// Keys that expire within this time may be gone when they are counted.
const EXPIRES_SOON_MS: i64 = 24 * 3_600_000;
/// Slots that a message names.
const NAMED: usize = 5;

/// What to restore, and where to.
#[derive(Debug, Clone)]
pub struct ClusterRequest {
    /// Where to.
    pub target: ClusterDest,
    /// At which point: a time, or the latest of each shard.
    pub recovery_target: RecoveryTarget,
    /// Write over files, or over keys of the same names. Other keys of the target stay.
    pub force: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Bytes of memory for the keys that the log of a shard touches, at most. No value may be longer.
    pub memory_limit: usize,
    /// The current time, Unix milliseconds.
    pub now_unix_ms: i64,
}

/// What was done. The names of its fields are part of the interface (`--json`).
#[derive(Debug, Clone, Serialize)]
pub struct ClusterReport {
    /// Nothing was done.
    pub dry_run: bool,
    /// The place of the cluster.
    pub place: String,
    /// Where to.
    pub target: String,
    /// What was asked for.
    pub goal: String,
    /// The number of the slot map of that instant.
    pub map: u64,
    /// When that map was seen first, Unix milliseconds.
    pub map_unix_ms: i64,
    /// The shards whose keys were taken, by their names.
    pub shards: Vec<ShardReport>,
    /// Keys that were written. Of files: one that two shards had while it moved counts twice.
    pub keys: u64,
    /// The target is a cluster: slots in which keys were counted and compared.
    pub slots_compared: Option<usize>,
    /// What an operator should know.
    pub notes: Vec<String>,
}

/// One shard.
#[derive(Debug, Clone, Serialize)]
pub struct ShardReport {
    /// Its name.
    pub name: String,
    /// The slots that it had, as `0-5460,5462`.
    pub slots: String,
    /// The history that the end belongs to.
    pub end_history: String,
    /// The last byte.
    pub end_offset: u64,
    /// When it had been received, Unix milliseconds.
    pub end_unix_ms: Option<i64>,
    /// Keys of its slots.
    pub keys: u64,
    /// Keys of other slots, which were on their way to it, or just away from it.
    pub moving_keys: u64,
    /// Its file.
    pub file: Option<PathBuf>,
    /// The file with `moving_keys`.
    pub moving_file: Option<PathBuf>,
}

/// What is reported of shards, by their names.
type Reports = BTreeMap<String, ShardReport>;

/// A shard whose archive is open.
struct Part {
    name: String,
    slots: String,
    archive: Archive,
    plan: Plan,
    taken: Taken,
}

/// Keys by slot: those that must be there, and those that may be.
#[derive(Default)]
struct Counted {
    owned: BTreeMap<u16, (u64, u64)>,
    moving: BTreeMap<u16, (u64, u64)>,
    databases: BTreeSet<u32>,
}

/// Restores a cluster. `store` is how to open its place, and with the same settings the archives of its shards.
///
/// # Errors
/// [`RestoreError`]; unless it is [`RestoreError::ClusterLeft`] or [`RestoreError::ClusterDiffers`], nothing was changed.
pub async fn restore_cluster(
    place: &ClusterPlace,
    store: &StoreConfig,
    request: &ClusterRequest,
    progress: &dyn Progress,
) -> Result<ClusterReport, RestoreError> {
    let moment = moment_of(place, request.recovery_target).await?;
    let mut notes = Vec::new();
    let mut parts = Vec::new();
    for name in moment.shards() {
        parts.extend(part(&moment, &name, store, request, &mut notes).await?);
    }
    let mut keyspace = match &request.target {
        ClusterDest::Files(directory) => {
            preflight(directory, &parts, request.force).await?;
            None
        }
        ClusterDest::Cluster(cluster) => Some(Keyspace::of_cluster(cluster).await?),
        ClusterDest::Server(source) => Some(Keyspace::of_server(source).await?),
    };
    let mut before = 0;
    if let Some(keyspace) = &keyspace {
        let plans: Vec<&Plan> = parts.iter().map(|part| &part.plan).collect();
        before = keyspace.check(&plans, request.force).await?;
    }
    let mut checked = Vec::new();
    for part in parts {
        let (plan, _) = sound(&part.archive, part.plan, progress).await?;
        notes.extend(
            plan.notes
                .iter()
                .map(|note| format!("shard {}: {note}", part.name)),
        );
        checked.push(Part { plan, ..part });
    }
    note_quiet(&checked, request.recovery_target, &mut notes);
    let mut reports: Reports = checked.iter().map(ShardReport::of).collect();
    let restore = Restore {
        request,
        parts: &checked,
        progress,
    };
    let mut slots_compared = None;
    match (&request.target, &mut keyspace) {
        _ if request.dry_run => restore.count(&mut reports).await?,
        (ClusterDest::Files(directory), _) => restore.to_files(directory, &mut reports).await?,
        (_, Some(keyspace)) => {
            let counted = restore.to_keyspace(keyspace, &mut reports).await?;
            progress.stage(Stage::Applying, None);
            slots_compared = compare(keyspace, &counted, before, request).await?;
        }
        (_, None) => {}
    }
    let shards: Vec<ShardReport> = reports.into_values().collect();
    let moving = shards
        .iter()
        .fold(0, |sum: u64, shard| sum.saturating_add(shard.moving_keys));
    if moving > 0 {
        notes.push(format!(
            "{moving} keys belong to slots that moved at that time. Each is there once. Its value may be as of a second before or after"
        ));
    }
    let keys = shards
        .iter()
        .map(|shard| shard.keys.saturating_add(shard.moving_keys));
    Ok(ClusterReport {
        dry_run: request.dry_run,
        place: place.store().url(),
        target: request.target.to_string(),
        goal: request.recovery_target.to_string(),
        map: moment.map.number,
        map_unix_ms: moment.map.seen_unix_ms,
        keys: keys.fold(0, u64::saturating_add),
        shards,
        slots_compared,
        notes,
    })
}

async fn moment_of(
    place: &ClusterPlace,
    recovery_target: RecoveryTarget,
) -> Result<Moment, RestoreError> {
    let none = |why: &str| RestoreError::NoSlotMap {
        goal: recovery_target.to_string(),
        why: why.to_owned(),
    };
    match recovery_target {
        RecoveryTarget::Latest => {
            let latest = place.latest().await?;
            latest
                .map(Moment::latest)
                .ok_or_else(|| none("there is no slot map yet"))
        }
        RecoveryTarget::AtUnixMs(at) => {
            let Some(first) = place.map(1).await? else {
                return Err(none("there is no slot map yet"));
            };
            let why = format!("the first slot map is of {}", show_time(first.seen_unix_ms));
            Moment::at(place, at).await?.ok_or_else(|| none(&why))
        }
        RecoveryTarget::Offset(_) => Err(none(
            "an offset is a point of one shard. Name a time, or restore that shard from its own archive",
        )),
    }
}

/// Opens the archive of a shard, and plans. None: it has no keys of that instant.
async fn part(
    moment: &Moment,
    name: &str,
    store: &StoreConfig,
    request: &ClusterRequest,
    notes: &mut Vec<String>,
) -> Result<Option<Part>, RestoreError> {
    let taken = moment.taken(name);
    if taken.owned.is_empty() && taken.moving.is_empty() {
        return Ok(None);
    }
    let planned = open_and_plan(name, store, request).await;
    let (archive, plan) = match planned {
        Ok(planned) => planned,
        // It had nothing then. What was on its way to it is not known.
        Err(error) if taken.owned.is_empty() && is_nothing_yet(&error) => {
            if moment.map.shard(name).is_some() {
                notes.push(format!(
                    "shard {name} had no slots, and nothing of it was stored by then: {error}"
                ));
            }
            return Ok(None);
        }
        Err(error) => {
            return Err(RestoreError::OfShard {
                shard: name.to_owned(),
                source: Box::new(error),
            });
        }
    };
    let slots = moment
        .map
        .shard(name)
        .map_or_else(|| "no slots".to_owned(), ToString::to_string);
    Ok(Some(Part {
        name: name.to_owned(),
        slots,
        archive,
        plan,
        taken,
    }))
}

async fn open_and_plan(
    name: &str,
    store: &StoreConfig,
    request: &ClusterRequest,
) -> Result<(Archive, Plan), RestoreError> {
    let config = StoreConfig {
        url: shard_url(&store.url, name),
        ..store.clone()
    };
    let store = store::open_with(&config)
        .await
        .map_err(ArchiveError::from)?;
    let archive = Archive::open(store).await?.keeping();
    let (catalog, history) = look(&archive, None, None, request.recovery_target).await?;
    let plan = plan(
        &archive,
        &catalog,
        history,
        request.recovery_target,
        &BadBases::new(),
    )
    .await?;
    Ok((archive, plan))
}

/// Was nothing stored by then?
fn is_nothing_yet(error: &RestoreError) -> bool {
    let RestoreError::Recovery(error) = error else {
        return false;
    };
    matches!(
        error,
        RecoveryError::NothingToRestore { .. }
            | RecoveryError::BeforeOldest { .. }
            | RecoveryError::Archive(
                ArchiveError::EmptyStore { .. } | ArchiveError::NothingStored { .. }
            )
    )
}

fn file_of(directory: &Path, part: &Part, is_moving: bool) -> PathBuf {
    let end = if is_moving { "moving.rdb" } else { "rdb" };
    directory.join(format!("{}.{end}", part.name))
}

async fn preflight(directory: &Path, parts: &[Part], force: bool) -> Result<(), RestoreError> {
    for part in parts {
        for is_moving in [false, true] {
            files::rdb::preflight(&file_of(directory, part, is_moving), force).await?;
        }
    }
    Ok(())
}

/// A shard of which nothing was received before the instant.
fn note_quiet(parts: &[Part], recovery_target: RecoveryTarget, notes: &mut Vec<String>) {
    let RecoveryTarget::AtUnixMs(at) = recovery_target else {
        notes.push(
            "this is the latest point of each shard, not one instant. A time names one instant for all".to_owned(),
        );
        return;
    };
    for part in parts.iter().filter(|part| !part.taken.owned.is_empty()) {
        let end = part.plan.end_unix_ms;
        if end.is_none_or(|end| end < at.saturating_sub(QUIET_MS)) {
            notes.push(format!(
                "shard {}: the last that was received by then is of {}. It was idle, or not connected",
                part.name,
                time_of_end(end)
            ));
        }
    }
}

/// All that a restore does with the parts.
struct Restore<'a> {
    request: &'a ClusterRequest,
    parts: &'a [Part],
    progress: &'a dyn Progress,
}

impl Restore<'_> {
    /// Some of the keys of a shard.
    fn keys_of(&self, slots: &SlotSet, functions: bool) -> KeysRequest {
        KeysRequest {
            // Each of its users says itself where to.
            target: KeysDest::RdbFile(PathBuf::new()),
            selection: Selection {
                pattern: b"*".to_vec(),
                db: None,
                type_name: None,
                slots: Some(slots.clone()),
                functions,
            },
            recovery_target: self.request.recovery_target,
            history: None,
            replace: true,
            force: self.request.force,
            dry_run: self.request.dry_run,
            memory_limit: self.request.memory_limit,
        }
    }

    async fn count(&self, reports: &mut Reports) -> Result<(), RestoreError> {
        for part in self.parts {
            let request = self.keys_of(&part.taken.all(), false);
            let chosen = Chosen::new(&part.archive, &part.plan, &request);
            let mut each = chosen.each().await?;
            let (mut owned, mut moving) = (0u64, 0u64);
            while let Some(batch) = each.next().await? {
                for key in &batch.keys {
                    let keys = match part.taken.owned.has(slot_of(&key.name)) {
                        true => &mut owned,
                        false => &mut moving,
                    };
                    *keys = keys.saturating_add(1);
                }
            }
            part.report(reports, false, owned);
            part.report(reports, true, moving);
        }
        Ok(())
    }

    async fn to_files(&self, directory: &Path, reports: &mut Reports) -> Result<(), RestoreError> {
        let made = tokio::fs::create_dir_all(directory).await;
        made.map_err(|source| files::file_error(directory, source))?;
        self.progress.stage(Stage::Snapshot, None);
        for part in self.parts {
            for is_moving in [false, true] {
                let slots = part.slots(is_moving);
                if slots.is_empty() {
                    continue;
                }
                let path = file_of(directory, part, is_moving);
                // One of an earlier restore would be taken for one of this.
                files::remove_leftover(&path).await?;
                let request = self.keys_of(slots, !is_moving);
                let chosen = Chosen::new(&part.archive, &part.plan, &request);
                let written = chosen.to_rdb_unless_empty(&path, self.progress).await?;
                let Some((_, counts)) = written else { continue };
                let keys = counts.keys.values().copied().fold(0, u64::saturating_add);
                part.report(reports, is_moving, keys);
                if let Some(report) = reports.get_mut(&part.name) {
                    match is_moving {
                        true => report.moving_file = Some(path),
                        false => report.file = Some(path),
                    }
                }
            }
        }
        Ok(())
    }

    /// First the keys of the owners. Then those that were on their way, as far as the owners do not have them.
    async fn to_keyspace(
        &self,
        keyspace: &mut Keyspace,
        reports: &mut Reports,
    ) -> Result<Counted, RestoreError> {
        self.progress.stage(Stage::Snapshot, None);
        let mut counted = Counted::default();
        let mut with_moving = Vec::new();
        for part in self.parts {
            let request = self.keys_of(&part.taken.all(), true);
            let chosen = Chosen::new(&part.archive, &part.plan, &request);
            let mut each = chosen.each().await?;
            let (mut owned, mut moving) = (0u64, 0u64);
            while let Some(batch) = each.next().await? {
                for key in &batch.keys {
                    if !part.taken.owned.has(slot_of(&key.name)) {
                        moving = moving.saturating_add(1);
                        continue;
                    }
                    keyspace.write(key, batch.version, OverKey::Replace).await?;
                    self.progress.advance(key.bytes());
                    counted.add(key, self.request.now_unix_ms, false);
                    owned = owned.saturating_add(1);
                }
            }
            if let Some(dump) = each.function_dump() {
                keyspace.load_functions(&dump).await?;
            }
            part.report(reports, false, owned);
            if moving > 0 {
                with_moving.push(part);
            }
        }
        // Before those that must not replace them.
        keyspace.flush().await?;
        for part in with_moving {
            let request = self.keys_of(&part.taken.moving, false);
            let chosen = Chosen::new(&part.archive, &part.plan, &request);
            let mut each = chosen.each().await?;
            let before = keyspace.written();
            while let Some(batch) = each.next().await? {
                for key in &batch.keys {
                    keyspace.write(key, batch.version, OverKey::Leave).await?;
                    counted.add(key, self.request.now_unix_ms, true);
                }
            }
            keyspace.flush().await?;
            part.report(reports, true, keyspace.written().saturating_sub(before));
        }
        Ok(counted)
    }
}

impl Part {
    fn slots(&self, is_moving: bool) -> &SlotSet {
        match is_moving {
            true => &self.taken.moving,
            false => &self.taken.owned,
        }
    }

    fn report(&self, reports: &mut Reports, is_moving: bool, keys: u64) {
        if let Some(report) = reports.get_mut(&self.name) {
            match is_moving {
                true => report.moving_keys = keys,
                false => report.keys = keys,
            }
        }
    }
}

impl ShardReport {
    fn of(part: &Part) -> (String, Self) {
        let report = Self {
            name: part.name.clone(),
            slots: part.slots.clone(),
            end_history: part.plan.end_position.history.to_string(),
            end_offset: part.plan.end.offset.0,
            end_unix_ms: part.plan.end_unix_ms,
            keys: 0,
            moving_keys: 0,
            file: None,
            moving_file: None,
        };
        (part.name.clone(), report)
    }
}

impl Counted {
    fn add(&mut self, key: &Key, now_unix_ms: i64, is_moving: bool) {
        self.databases.insert(key.db);
        let soon = now_unix_ms.saturating_add(EXPIRES_SOON_MS);
        let stays = key.expiry.is_none_or(|at| at > soon);
        let slots = match is_moving {
            true => &mut self.moving,
            false => &mut self.owned,
        };
        let (must, may) = slots.entry(slot_of(&key.name)).or_default();
        *must = must.saturating_add(u64::from(stays));
        *may = may.saturating_add(1);
    }

    /// How many keys of a slot must be there, and how many may be.
    fn bounds(&self, slot: u16) -> (u64, u64) {
        let of = |slots: &BTreeMap<u16, (u64, u64)>| slots.get(&slot).copied().unwrap_or_default();
        let (owned, moving) = (of(&self.owned), of(&self.moving));
        (owned.0.max(moving.0), owned.1.saturating_add(moving.1))
    }

    fn slots(&self) -> BTreeSet<u16> {
        self.owned
            .keys()
            .chain(self.moving.keys())
            .copied()
            .collect()
    }
}

/// Compares what is there with what was written, slot by slot. Gives how many slots were compared, in a cluster.
async fn compare(
    keyspace: &mut Keyspace,
    counted: &Counted,
    before: u64,
    request: &ClusterRequest,
) -> Result<Option<usize>, RestoreError> {
    let addr = request.target.to_string();
    let mut databases = counted.databases.clone();
    databases.insert(0);
    let Some(mut found) = keyspace.keys_by_slot(&databases, None).await? else {
        let bounds = counted.slots().into_iter().map(|slot| counted.bounds(slot));
        let (must, may) = bounds.fold((0u64, 0u64), |sum, of| {
            (sum.0.saturating_add(of.0), sum.1.saturating_add(of.1))
        });
        let total = keyspace.total_keys().await?;
        let is_right = total >= must && (before > 0 || total <= may);
        return match is_right {
            true => Ok(None),
            false => Err(RestoreError::ClusterDiffers {
                addr,
                how: format!("it has {total} keys, and {}", wanted((must, may))),
                written: keyspace.written(),
            }),
        };
    };
    let is_wrong = |slot: u16, count: u64| {
        let (must, may) = counted.bounds(slot);
        count < must || (before == 0 && count > may)
    };
    // Of a slot that is on its way, some keys are with another master.
    let doubtful: Vec<u16> = found
        .iter()
        .filter(|(slot, count)| is_wrong(**slot, **count))
        .map(|(slot, _)| *slot)
        .collect();
    if !doubtful.is_empty()
        && let Some(again) = keyspace.keys_by_slot(&databases, Some(&doubtful)).await?
    {
        found.extend(again);
    }
    let mut wrong = Vec::new();
    for (slot, count) in found
        .iter()
        .filter(|(slot, count)| is_wrong(**slot, **count))
    {
        let bounds = wanted(counted.bounds(*slot));
        wrong.push(format!("slot {slot} has {count} keys, and {bounds}"));
    }
    let missing = counted
        .slots()
        .into_iter()
        .filter(|slot| !found.contains_key(slot));
    wrong.extend(missing.map(|slot| format!("slot {slot} has no master")));
    if wrong.is_empty() {
        return Ok(Some(found.len()));
    }
    let many = wrong.len();
    wrong.truncate(NAMED);
    let more = match many > NAMED {
        true => format!(", and {} other slots", many.saturating_sub(NAMED)),
        false => String::new(),
    };
    Err(RestoreError::ClusterDiffers {
        addr,
        how: format!("{}{more}", wrong.join("; ")),
        written: keyspace.written(),
    })
}

fn wanted((must, may): (u64, u64)) -> String {
    match must == may {
        true => format!("{must} were written"),
        false => format!("{must} to {may} were to be there"),
    }
}

impl fmt::Display for ClusterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.dry_run {
            "would restore"
        } else {
            "restored"
        };
        writeln!(f, "{verb} the cluster of {} to {}", self.place, self.target)?;
        writeln!(f, "  as of     {}", self.goal)?;
        let seen = show_time(self.map_unix_ms);
        writeln!(f, "  slots     map {} of {seen}", self.map)?;
        for shard in &self.shards {
            let time = time_of_end(shard.end_unix_ms);
            let keys = shard.keys.saturating_add(shard.moving_keys);
            writeln!(f, "  shard     {}: {keys} keys, up to {time}", shard.name)?;
        }
        writeln!(f, "  keys      {}", self.keys)?;
        if let Some(slots) = self.slots_compared {
            writeln!(
                f,
                "  compared  keys of each of {slots} slots, by CLUSTER COUNTKEYSINSLOT"
            )?;
        }
        for shard in &self.shards {
            if let Some(file) = &shard.file {
                writeln!(f, "  file      {} (slots {})", file.display(), shard.slots)?;
            }
            if let Some(file) = &shard.moving_file {
                writeln!(f, "  file      {} (keys that moved)", file.display())?;
            }
        }
        for note in &self.notes {
            writeln!(f, "  note      {note}")?;
        }
        Ok(())
    }
}
