//! Expiry, by the program's own code, and what it may delete.
//!
//! Whatever deletes an object is judged here by rules of its own: what is promised can be restored after every single
//! delete.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::store::span_of;
use super::{Sim, fail, note, store, with};
use crate::archive::{Archive, FLOOR_GRACE_MS, GRACE_MS, HoldDoc, HoldName, Name};
use crate::config::KeepPolicy;
use crate::expiry::{ExpireError, HoldError, HoldRequest, Request, add_hold, expire};
use crate::log::segment::{self, Entry};
use crate::recovery::{RecoveryError, RecoveryTarget};
use crate::runtime;
use crate::runtime::simulated::{Process, between, once_in, pick, within};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Position, ReplId};

/// A run of expiry.
pub(crate) type Expirer = (Arc<Process>, JoinHandle<Result<(), ExpireError>>);

/// An upload takes hours at most.
const UNFINISHED_MS: u64 = 7 * 24 * 3_600_000;
/// So many objects of a log may be deleted out of order: a batch.
const OUT_OF_ORDER: usize = 4;

/// Starts a run with any policy. It may die.
pub(crate) fn begin_random_expiry(number: u64, service: &str) -> Expirer {
    let policy = KeepPolicy {
        points: Duration::from_millis(pick(&[10, 500, 500, 2000, 60_000])),
        daily: pick(&[0, 0, 1, 3]),
        weekly: 0,
        monthly: 0,
        superseded: Duration::from_secs(3600),
    };
    begin_expiry(number, service, policy, once_in(4))
}

/// Starts a run.
pub(crate) fn begin_expiry(number: u64, service: &str, policy: KeepPolicy, dies: bool) -> Expirer {
    let service = service.to_owned();
    let process = Process::new(&format!("x.{number}"));
    if dies {
        process.die_in(between(1, 400));
    }
    note(|| format!("{} expires: {policy}", process.name));
    with(|sim| sim.expiry_begins(&process.name, policy));
    let name = process.name.clone();
    let task = within(&process, || {
        runtime::spawn(async move {
            let archive = Archive::open(store::store()).await?;
            let request = Request {
                policy,
                service: Some(service),
                confirm: true,
                writer: name.clone(),
                now_unix_ms: with(|sim| sim.now_ms()),
            };
            let report = expire(&archive, &request, &()).await?;
            note(|| {
                let (goes, deleted, notes) = (&report.goes, &report.deleted, &report.notes);
                format!("{name}: {goes:?} {deleted:?} {notes:?}")
            });
            Ok(())
        })
    });
    (process, task)
}

/// Waits for some runs. What may go wrong with one is that the store fails, or that nothing may expire.
pub(crate) async fn end_expiry(runs: Vec<Expirer>) -> Result<(), String> {
    for (process, task) in runs {
        for _ in 0..600 {
            if task.is_finished() || process.is_dead() {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
        if process.is_dead() || !task.is_finished() {
            process.kill();
            continue;
        }
        match task.await.map_err(|error| error.to_string())? {
            Ok(()) => with(|sim| sim.oracle.counts.expiries += 1),
            Err(error) => note(|| format!("{}: {error}", process.name)),
        }
    }
    Ok(())
}

/// An operator holds a point, or removes a hold.
pub(crate) async fn hold_something(number: u64) -> Result<(), String> {
    let Ok(archive) = Archive::open(store::store()).await else {
        return Ok(());
    };
    let held = with(|sim| sim.oracle.holds.keys().copied().collect::<Vec<HoldName>>());
    if !held.is_empty() && once_in(3) {
        let name = pick(&held);
        note(|| format!("the hold {name} is removed"));
        let _ = archive.remove_hold(name).await;
        return Ok(());
    }
    let points = with(|sim| sim.oracle.restorable());
    if points.is_empty() {
        return Ok(());
    }
    let (history, first, end) = pick(&points);
    let upto = between(first, end);
    let line = with(|sim| sim.oracle.line(history));
    let Some(upto) = with(|sim| sim.truth.boundary(line, upto)) else {
        return Ok(());
    };
    let name = format!("hold-{number}");
    let request = HoldRequest {
        name: name.parse().map_err(|error| format!("{error}"))?,
        history: Some(history),
        recovery_target: RecoveryTarget::Offset(upto),
        writer: "an operator".to_owned(),
        now_unix_ms: with(|sim| sim.now_ms()),
    };
    match add_hold(&archive, &request, &()).await {
        Ok(hold) => note(|| format!("{name} holds {}", hold.point)),
        Err(HoldError::Recovery(RecoveryError::Archive(error))) if error.is_transient() => {}
        Err(error) => note(|| format!("no hold of {history}:{upto}: {error}")),
    }
    Ok(())
}

/// Segments in a span of this age are not deleted yet.
const HOUR_MS: u64 = GRACE_MS / 2;

impl Sim {
    /// A hold was created.
    pub(crate) fn check_hold(&mut self, body: &[u8]) -> Result<(), String> {
        let doc: HoldDoc = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let (history, offset) = (doc.point.history, doc.point.offset.0);
        if !self.oracle.holds(history, offset) {
            return Err(format!("{} is not there", doc.point));
        }
        self.oracle.holds.insert(doc.name, (history, offset));
        self.oracle.counts.holds += 1;
        Ok(())
    }

    /// An object is deleted.
    pub(crate) fn delete(&mut self, name: &str, process: &str) {
        let Some(size) = self.objects.get(name).map(|body| body.len()) else {
            return;
        };
        note(|| format!("{process} deletes {name}"));
        let Some(parsed) = Name::parse(name) else {
            fail(format!("{process} deletes {name}, of {size} bytes"));
            return;
        };
        if let Err(wrong) = self.check_delete(name, parsed) {
            fail(format!("{process} deletes {name}: {wrong}"));
        }
    }

    fn check_delete(&mut self, name: &str, parsed: Name) -> Result<(), String> {
        match parsed {
            Name::Clock(_) => {
                self.objects.remove(name);
                Ok(())
            }
            Name::Hold(hold) => {
                self.objects.remove(name);
                self.oracle.holds.remove(&hold);
                Ok(())
            }
            Name::BaseVerdict(at) => {
                self.check_below(name, at.history, at.offset.0)?;
                self.objects.remove(name);
                Ok(())
            }
            Name::BaseManifest(at) => {
                self.check_below(name, at.history, at.offset.0)?;
                self.take(name, at.history, |stored| {
                    stored.bases.remove(&at.offset.0);
                })
            }
            Name::BaseData(at) => {
                // What has no manifest after a week never gets one.
                if self.age(name) + 1000 < UNFINISHED_MS {
                    self.check_below(name, at.history, at.offset.0)?;
                }
                if self
                    .objects
                    .contains_key(&Name::BaseManifest(at).to_string())
                {
                    return Err("its manifest is there".to_owned());
                }
                self.objects.remove(name);
                let stored = self.oracle.histories.entry(at.history).or_default();
                stored.data.remove(&at.offset.0);
                Ok(())
            }
            Name::Floor(at) => {
                let stored = self.oracle.histories.entry(at.history).or_default();
                if stored.floors.range(at.offset.0 + 1..).next().is_none() {
                    return Err("it is the highest floor".to_owned());
                }
                stored.floors.remove(&at.offset.0);
                self.objects.remove(name);
                Ok(())
            }
            Name::Log {
                history,
                first_byte,
            } => self.delete_of_log(name, history, first_byte),
            Name::Span {
                history,
                first_byte,
                last_byte,
            } => self.delete_span(name, history, first_byte - 1, last_byte),
            _ => Err("it is never deleted".to_owned()),
        }
    }

    /// How old an object is, by the clock of the store.
    fn age(&self, name: &str) -> u64 {
        let created = self.times.get(name).copied().unwrap_or(i64::MAX);
        u64::try_from(self.now_ms().saturating_sub(created)).unwrap_or(0)
    }

    /// Is there a floor above it that was there for a day?
    fn check_below(&self, name: &str, history: ReplId, offset: u64) -> Result<(), String> {
        if self.age(name) + 1000 < GRACE_MS {
            return Err(format!("it is {} ms old", self.age(name)));
        }
        let stored = self.oracle.histories.get(&history).ok_or("no history")?;
        let is_old = |at: &u64| {
            let at = Position {
                history,
                offset: crate::wire::position::Offset(*at),
            };
            self.age(&Name::Floor(at).to_string()) + 1000 >= FLOOR_GRACE_MS
        };
        let mut above = stored.floors.range(offset + 1..).map(|(at, _)| at);
        match above.any(is_old) {
            true => Ok(()),
            false => Err("no floor above it is a day old".to_owned()),
        }
    }

    fn delete_of_log(&mut self, name: &str, id: ReplId, first: u64) -> Result<(), String> {
        let entry = segment::decode_entry(&self.objects[name]);
        let Ok(Some((entry, _))) = entry else {
            return Err("it cannot be read".to_owned());
        };
        let of_log = |other: &&String| match Name::parse(other) {
            Some(Name::Log { history, .. }) => history == id,
            _ => false,
        };
        let log: Vec<&String> = self.objects.keys().filter(of_log).collect();
        if log.last().is_some_and(|last| *last == name) {
            return Err("it is the last object of its log".to_owned());
        }
        let before = log.iter().take_while(|other| **other != name).count();
        if before >= OUT_OF_ORDER {
            return Err(format!("{before} objects of its log are before it"));
        }
        let stored = self.oracle.histories.get(&id).ok_or("no history")?;
        let gone = stored.freed.max(stored.merged_freed);
        let is_stale = gone.is_some_and(|gone| first - 1 < gone);
        let end = match &entry {
            Entry::Segment(header) => header.meta.end.0,
            Entry::Seal(seal) => seal.start.0,
        };
        // What is stale may reach beyond.
        let last = if is_stale { first } else { end };
        if self.is_merged(id, first, last) && self.age(name) + 1000 >= GRACE_MS {
            let stored = self.oracle.histories.entry(id).or_default();
            if !is_stale {
                stored.merged_freed = stored.merged_freed.max(Some(end));
            }
            self.oracle.counts.merged_freed += 1;
            self.objects.remove(name);
            return Ok(());
        }
        self.check_below(name, id, last.saturating_sub(1))?;
        self.oracle.counts.freed += 1;
        if is_stale {
            self.objects.remove(name);
            return Ok(());
        }
        self.take(name, id, |stored| {
            stored.freed = stored.freed.max(Some(end));
            stored.segments.retain(|start, _| *start != first - 1);
        })
    }

    /// Some spans are damaged when they are created for the first time, and some when they are an hour old and their segments
    /// stand. No chance is drawn for that.
    pub(super) fn damage_some_spans(&mut self, name: &str) {
        let is_old = |name: &String| self.age(name) >= HOUR_MS && self.stands(name);
        let rotten = self.rotting.iter().find(|name| is_old(name)).cloned();
        if let Some(rotten) = rotten {
            self.rotting.remove(&rotten);
            self.damage(&rotten);
        }
        if span_of(name).is_none() || self.damaged.contains_key(name) {
            return;
        }
        match Crc64::of(name.as_bytes()) % 8 {
            0 => self.damage(name),
            1 if self.rots => drop(self.rotting.insert(name.to_owned())),
            _ => {}
        }
    }

    fn damage(&mut self, name: &str) {
        note(|| format!("the store damages {name}"));
        let mut damaged = self.objects[name].to_vec();
        let at = usize::try_from(Crc64::of(name.as_bytes()) / 8).unwrap() % damaged.len();
        damaged[at] ^= 1;
        let damaged = Bytes::from(damaged);
        self.objects.insert(name.to_owned(), damaged.clone());
        self.damaged.insert(name.to_owned(), damaged);
        self.oracle.counts.spans_damaged += 1;
    }

    /// Is a span there, and so are all segments that it is made of?
    fn stands(&self, name: &str) -> bool {
        let Some((history, first_byte, last_byte)) = span_of(name) else {
            return false;
        };
        let Some(stored) = self.oracle.histories.get(&history) else {
            return false;
        };
        let mut inside = stored.segments.range(first_byte - 1..last_byte).peekable();
        let is_any = inside.peek().is_some();
        let mut names = inside.map(|(from, _)| Name::Log {
            history,
            first_byte: from + 1,
        });
        self.objects.contains_key(name)
            && is_any
            && names.all(|name| self.objects.contains_key(&name.to_string()))
    }

    /// The spans of a history that are not damaged: the byte before the first one, the last one, and how old it is.
    fn spans(&self, id: ReplId) -> Vec<(u64, u64, u64)> {
        let of_it = |(name, body): (&String, &Bytes)| {
            let (history, first_byte, last_byte) = span_of(name)?;
            let is_sound = self.damaged.get(name) != Some(body);
            (history == id && is_sound).then(|| (first_byte - 1, last_byte, self.age(name)))
        };
        self.objects.iter().filter_map(of_it).collect()
    }

    /// Has a span these bytes that is as old as the grace?
    fn is_merged(&self, id: ReplId, first: u64, last: u64) -> bool {
        let spans = self.spans(id);
        let has = |(start, end, age): &(u64, u64, u64)| {
            *start < first && last <= *end && age + 1000 >= GRACE_MS
        };
        spans.iter().any(has)
    }

    fn delete_span(&mut self, name: &str, id: ReplId, start: u64, end: u64) -> Result<(), String> {
        let stored = self.oracle.histories.get(&id).ok_or("no history")?;
        if stored.freed.is_some_and(|freed| start < freed) {
            // Nothing is promised there.
            self.objects.remove(name);
            return Ok(());
        }
        // What is in no other object is gone with it.
        let mut others = self.spans(id);
        others.retain(|(other, upto, _)| (*other, *upto) != (start, end));
        let is_alone = |from: &u64, upto: u64| {
            let segment = Name::Log {
                history: id,
                first_byte: from + 1,
            };
            let has = |(other, end, _): &(u64, u64, u64)| *other <= *from && upto <= *end;
            !self.objects.contains_key(&segment.to_string()) && !others.iter().any(has)
        };
        let inside = stored.segments.range(start..end);
        let gone: Vec<u64> = inside
            .filter(|(from, (upto, ..))| is_alone(from, *upto))
            .map(|(from, _)| *from)
            .collect();
        // It is wrong, and so young that nothing was deleted because of it.
        if gone.is_empty() && self.age(name) < GRACE_MS / 8 + 1000 {
            self.oracle.counts.spans_withdrawn += 1;
            self.objects.remove(name);
            return Ok(());
        }
        self.check_below(name, id, end - 1)?;
        self.oracle.counts.spans_freed += 1;
        self.take(name, id, |stored| {
            stored.segments.retain(|from, _| !gone.contains(from));
        })
    }

    /// Was it part of the log, before a policy gave it up? Whoever slept may say so still.
    pub(super) fn was_stored(&self, key: ReplId, offset: u64) -> bool {
        let stored = self.oracle.histories.get(&key);
        let log_end = stored.and_then(|stored| stored.log_end);
        self.oracle.is_expired(key, offset) && log_end.is_some_and(|end| offset <= end)
    }

    /// Where the log of a history ended that a policy gave up as a whole.
    pub(super) fn ended_before_expiry(&self, key: ReplId) -> Option<u64> {
        let stored = self.oracle.histories.get(&key)?;
        let end = stored.log_end?;
        self.oracle.is_expired(key, end).then_some(end)
    }

    /// It holds what segments of the log hold, and nothing that the log does not have.
    pub(super) fn check_span(
        &mut self,
        id: ReplId,
        start: u64,
        end: u64,
        body: &Bytes,
    ) -> Result<(), String> {
        let decoded = segment::decode_entry(body).map_err(|error| error.to_string())?;
        let (entry, header_bytes) = decoded.ok_or("it has half a header")?;
        let Entry::Segment(header) = entry else {
            return Err("it is a seal".to_owned());
        };
        let says = (header.meta.history, header.meta.start.0, header.meta.end.0);
        if says != (id, start, end) || !header.is_span() {
            return Err("it is of another place".to_owned());
        }
        let stored = self.oracle.histories.entry(id).or_default();
        if stored.freed.is_some_and(|freed| start < freed) {
            // Nothing is promised there.
            return Ok(());
        }
        // The seal is the last object of a log that is sealed.
        let is_before_last = stored
            .log_end
            .is_some_and(|last| end < last || (end == last && stored.sealed == Some(end)));
        if !is_before_last {
            return Err(format!("the log ends at {:?}", stored.log_end));
        }
        let inside = stored.segments.range(start..end);
        if inside
            .clone()
            .any(|(_, (upto, is_gap, _))| *is_gap || *upto > end)
        {
            return Err("a gap, or half a segment, is in it".to_owned());
        }
        let mut raw = Vec::new();
        zstd::stream::read::Decoder::new(&body[header_bytes..])
            .and_then(|mut decoder| decoder.read_to_end(&mut raw))
            .map_err(|error| error.to_string())?;
        let line = self.oracle.line(id);
        if self.truth.bytes(line, start, end).as_ref() != Some(&raw) {
            return Err("its bytes are not those of the feed".to_owned());
        }
        self.oracle.counts.spans += 1;
        Ok(())
    }

    /// Removes an object that counts. What was promised, and could be restored, still can be.
    fn take(
        &mut self,
        name: &str,
        id: ReplId,
        change: impl FnOnce(&mut super::oracle::Stored),
    ) -> Result<(), String> {
        let promised = self.oracle.promised();
        self.objects.remove(name);
        change(self.oracle.histories.entry(id).or_default());
        for (what, id, offset) in promised {
            if !self.oracle.holds(id, offset) {
                return Err(format!("{what} {id}:{offset} cannot be restored any more"));
            }
        }
        Ok(())
    }
}

impl super::oracle::Oracle {
    /// Points that no policy gave up, and that can be restored: of each history the end and the first point that is
    /// promised; what is held; bases that stay alone.
    fn promised(&self) -> Vec<(&'static str, ReplId, u64)> {
        let mut promised = Vec::new();
        for (id, stored) in &self.histories {
            let floor = stored.floors.last_key_value();
            let end = self.end(*id);
            promised.extend(
                end.filter(|end| floor.is_none_or(|(floor, _)| end >= floor))
                    .map(|end| ("the end", *id, end)),
            );
            match floor {
                Some((offset, doc)) => {
                    let first = end.is_some_and(|end| end >= *offset);
                    promised.extend(first.then_some(("the floor", *id, *offset)));
                    let alone = doc.alone.iter().map(|base| ("a base alone", *id, base.0));
                    promised.extend(alone);
                }
                None => {
                    let parent = stored.doc.as_ref().and_then(|doc| doc.parent);
                    let begins = parent.map(|parent| parent.offset.0);
                    let begins = begins.or(stored.bases.keys().next().copied());
                    promised.extend(begins.map(|begins| ("the beginning", *id, begins)));
                }
            }
        }
        let held = self.holds.values().map(|(id, at)| ("a hold", *id, *at));
        promised.extend(held);
        promised.retain(|(_, id, offset)| self.holds(*id, *offset));
        promised
    }

    /// Was all of a history given up?
    pub(crate) fn is_given_up(&self, id: ReplId, end: u64) -> bool {
        let floors = self.histories.get(&id).map(|stored| &stored.floors);
        floors.is_some_and(|floors| floors.range(end + 1..).next().is_some())
    }

    /// Has a point expired?
    pub(crate) fn is_expired(&self, id: ReplId, offset: u64) -> bool {
        let (mut id, mut seen) = (id, 0);
        while let Some(stored) = self.histories.get(&id).filter(|_| seen < 100) {
            if stored
                .floors
                .keys()
                .next_back()
                .is_some_and(|floor| offset < *floor)
            {
                return true;
            }
            let Some(parent) = stored.doc.as_ref().and_then(|doc| doc.parent) else {
                return false;
            };
            if offset > parent.offset.0 {
                return false;
            }
            (id, seen) = (parent.history, seen + 1);
        }
        false
    }
}
