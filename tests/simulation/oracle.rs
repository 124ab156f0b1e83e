//! What must hold after every step: looked at with each object that is created and with each acknowledgement.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use bytes::Bytes;

use super::counts::Counts;
use super::model::Model;
use super::redis::Node;
use super::{Sim, fail, note};
use crate::archive::takeover::{ClaimDoc, SuccessorDoc};
use crate::archive::{
    BaseKind, BaseManifest, FloorDoc, HistoryDoc, HoldName, Name, ServerInfo, begins_at,
};
use crate::capture::{FULL_SYNC_WINDOW, FULL_SYNCS_MAX, TINY};
use crate::log::segment::{self, Entry};
use crate::store::{Created, StoreError};
use crate::wire::position::ReplId;

/// Relative expiries begin when they are received: an outage may lie between.
const LATE_MS: i64 = 3_600_000;

/// A history as it lies in the store.
#[derive(Default)]
pub(crate) struct Stored {
    pub(super) doc: Option<HistoryDoc>,
    pub(super) data: BTreeMap<u64, Bytes>,
    pub(crate) bases: BTreeMap<u64, BaseKind>,
    /// By start: end, whether it bridges a gap, last boundary.
    pub(super) segments: BTreeMap<u64, (u64, bool, Option<u64>)>,
    /// Of segments, by start.
    clocks: BTreeMap<u64, SegmentClock>,
    /// Of snapshots that servers sent: were they made at the time that they say?
    right_bases: BTreeMap<u64, bool>,
    pub(crate) sealed: Option<u64>,
    /// The last byte of its log.
    pub(super) log_end: Option<u64>,
    /// Up to here, what its log began with was deleted.
    pub(super) freed: Option<u64>,
    /// Up to here, it was deleted because spans have it.
    pub(super) merged_freed: Option<u64>,
    /// By the first offset that is promised.
    pub(super) floors: BTreeMap<u64, FloorDoc>,
}

/// What a segment tells of time.
#[derive(Clone, Copy)]
struct SegmentClock {
    /// When it was stored really.
    stored_ms: i64,
    end: u64,
    /// Was the clock right when its first bytes were received, and when its last were?
    begins_right: bool,
    ends_right: bool,
}

/// Clocks of the program differ by so much, and are not wrong.
pub(crate) const CLOCK_MS: i64 = 25_000;

/// All that was created and acknowledged.
#[derive(Default)]
pub(crate) struct Oracle {
    pub(crate) histories: BTreeMap<ReplId, Stored>,
    /// The furthest that a server was told to be stored, by history.
    pub(crate) acknowledged: BTreeMap<ReplId, u64>,
    /// What a process could have gone on from when it last asked its server for its facts.
    asked: BTreeMap<String, Asked>,
    full_syncs: BTreeMap<String, Vec<i64>>,
    pub(crate) counts: Counts,
    /// Which history goes on from which.
    pub(crate) successors: BTreeMap<ReplId, ReplId>,
    /// The last claim on a history.
    claims: BTreeMap<ReplId, Claimed>,
    /// What stands under a key of the program's own: what happened to a server that was set back.
    lines: BTreeMap<ReplId, ReplId>,
    /// The same, recorded before the history is there.
    recorded_lines: BTreeMap<ReplId, ReplId>,
    /// The furthest that clients were told to be stored, by what really happened.
    pub(crate) confirmed: BTreeMap<ReplId, u64>,
    /// The same, with what has been given up since.
    pub(crate) told: BTreeMap<ReplId, u64>,
    /// What an operator, or something that counts as one, has given up.
    pub(crate) given_up: BTreeSet<ReplId>,
    /// The same up to an offset, of histories whose beginning is kept.
    pub(crate) given_up_to: BTreeMap<ReplId, u64>,
    /// The last that was confirmed.
    pub(crate) last_confirmed: Option<(ReplId, u64)>,
    /// Which process has ever claimed a history, and as the how many-th object its last claim was created.
    pub(crate) claimants: BTreeMap<(ReplId, String), u64>,
    /// What is held.
    pub(crate) holds: BTreeMap<HoldName, (ReplId, u64)>,
    /// Runs of expiry, by process.
    pub(super) expiries: BTreeMap<String, super::floors::Run>,
    /// The line that a process was given its last full sync of.
    pub(crate) synced: BTreeMap<String, ReplId>,
}

/// A claim on a history, as it was created.
#[derive(Debug)]
struct Claimed {
    doc: ClaimDoc,
    /// Who created it.
    process: String,
    at_ms: i64,
}

/// A server, when it was asked for its facts, and what could have been gone on from then.
struct Asked {
    replid: ReplId,
    replid2: Option<(ReplId, u64)>,
    offset: u64,
    backlog_first: u64,
    stored: Option<(ReplId, u64)>,
}

impl Asked {
    fn would_continue(&self, id: ReplId, at: u64) -> bool {
        let known = (id == self.replid && at <= self.offset)
            || matches!(self.replid2, Some((old, shared)) if id == old && at <= shared);
        known && at + 1 >= self.backlog_first
    }
}

impl Oracle {
    /// What happened in this history of the store.
    pub(crate) fn line(&self, key: ReplId) -> ReplId {
        self.lines.get(&key).copied().unwrap_or(key)
    }

    pub(crate) fn sealed(&self, id: ReplId) -> Option<u64> {
        self.histories.get(&id)?.sealed
    }

    /// What wrote a history.
    pub(crate) fn server(&self, id: ReplId) -> Option<ServerInfo> {
        let doc = self.histories.get(&id)?.doc.as_ref();
        doc.map(|doc| doc.server.clone())
    }

    /// Is the data set after this byte in the store?
    pub(crate) fn holds(&self, id: ReplId, offset: u64) -> bool {
        let (mut id, mut at) = (id, offset);
        loop {
            let Some(stored) = self.histories.get(&id) else {
                return false;
            };
            let parent = stored.doc.as_ref().and_then(|doc| doc.parent);
            if stored.bases.contains_key(&at) {
                return true;
            }
            if let Some(parent) = parent
                && parent.offset.0 >= at
            {
                id = parent.history;
                continue;
            }
            match stored.segments.range(..at).next_back() {
                Some((start, (end, false, _))) if *end >= at => {
                    if stored.bases.range(start..=&at).next().is_some() {
                        return true;
                    }
                    at = *start;
                }
                _ => return false,
            }
        }
    }

    /// Does a base stand there?
    pub(crate) fn has_base(&self, id: ReplId, at: u64) -> bool {
        let stored = self.histories.get(&id);
        stored.is_some_and(|stored| stored.bases.contains_key(&at))
    }

    /// Is this byte itself in the log?
    pub(crate) fn logs(&self, id: ReplId, byte: u64) -> bool {
        let Some(stored) = self.histories.get(&id) else {
            return false;
        };
        match stored.doc.as_ref().and_then(|doc| doc.parent) {
            Some(parent) if byte <= parent.offset.0 => self.logs(parent.history, byte),
            _ => {
                let before = stored.segments.range(..byte).next_back();
                before.is_some_and(|(_, (end, gap, _))| byte <= *end && !gap)
            }
        }
    }

    /// The last boundary of a history that can be restored.
    pub(crate) fn end(&self, id: ReplId) -> Option<u64> {
        let stored = self.histories.get(&id)?;
        let in_log = stored.segments.values().filter_map(|(_, _, at)| *at);
        let parent = stored.doc.as_ref().and_then(|doc| doc.parent);
        let anchors = stored
            .bases
            .keys()
            .copied()
            .chain(parent.map(|at| at.offset.0));
        let end = in_log.chain(anchors).max()?;
        self.holds(id, end).then_some(end)
    }

    /// Some boundaries, with what they can be reached through.
    pub(crate) fn restorable(&self) -> Vec<(ReplId, u64, u64)> {
        let of = |id: &ReplId| {
            let end = self.end(*id)?;
            let mut first = end;
            let mut seen = BTreeSet::new();
            let mut at = Some(*id);
            while let Some(id) = at {
                let stored = self.histories.get(&id).filter(|_| seen.insert(id))?;
                if let Some(base) = stored.bases.keys().next() {
                    first = first.min(*base);
                }
                at = stored.doc.as_ref()?.parent.map(|parent| parent.history);
            }
            Some((*id, first, end))
        };
        self.histories.keys().filter_map(of).collect()
    }
}

impl Sim {
    /// Under which key the store has what this server does; none: not at all.
    pub(crate) fn key_of(&self, node: &Node) -> Option<ReplId> {
        self.key_of_line(node.line)
    }

    fn key_of_line(&self, line: ReplId) -> Option<ReplId> {
        // Of two listeners, one may have stored what a server did after it was set back under its name, and one under a key.
        let own = self.oracle.lines.iter().filter(|(_, of)| **of == line);
        let own = own.max_by_key(|(key, _)| self.oracle.end(**key));
        let named = self.oracle.histories.contains_key(&line);
        let named = named && !self.oracle.lines.contains_key(&line);
        own.map(|(key, _)| *key).or_else(|| named.then_some(line))
    }

    /// The same for what it had done up to an offset, before it was set back.
    fn key_up_to(&self, replid: ReplId, mut line: ReplId, offset: u64) -> Option<ReplId> {
        loop {
            if let Some(key) = self.key_of_line(line) {
                return Some(key);
            }
            if line == replid {
                return None;
            }
            let (began, parent) = self.truth.origin(line)?;
            let parent = parent?;
            // Idle traffic may come after what is stored.
            let end = self
                .key_of_line(parent)
                .and_then(|key| self.oracle.end(key));
            let upto = end.map_or(offset, |end| end.min(offset));
            if upto > began && !self.truth.is_same(parent, line, upto) {
                return None;
            }
            line = parent;
        }
    }

    /// The same, and how far it was told: idle traffic after the point that it was set back to is no data.
    fn told_up_to(&self, id: ReplId, line: ReplId, offset: u64) -> (Option<ReplId>, u64) {
        if let Some(key) = self.key_up_to(id, line, offset) {
            return (Some(key), offset);
        }
        match self.truth.origin(line) {
            Some((began, Some(parent)))
                if line != id && self.truth.is_idle(line, began, offset) =>
            {
                (self.key_up_to(id, parent, began), began)
            }
            _ => (None, offset),
        }
    }

    /// A server was set back to a point where nothing beyond was stored yet: its history goes on with what it does then.
    fn goes_on_elsewhere(&mut self, id: ReplId, start: u64, end: u64, raw: &Vec<u8>) {
        let line = self.oracle.line(id);
        if self.truth.bytes(line, start, end).as_ref() == Some(raw) {
            return;
        }
        let of_the_name = self.nodes.iter().filter(|node| node.was_set_back);
        let other = of_the_name.map(|node| node.line).find(|other| {
            let is_right = self.truth.bytes(*other, start, end).as_ref() == Some(raw);
            is_right && self.truth.is_same(line, *other, start)
        });
        if let Some(other) = other {
            self.oracle.lines.insert(id, other);
        }
    }

    /// The same where a snapshot comes after a gap: what is stored before it is common to both.
    fn goes_on_elsewhere_by(&mut self, id: ReplId, at: u64, found: &Model) {
        let line = self.oracle.line(id);
        let is_of = |line| {
            let wanted = self.truth.state(line, at);
            wanted.is_some_and(|wanted| wanted.difference(found, 0).is_none())
        };
        if is_of(line) {
            return;
        }
        let end = self.oracle.end(id).unwrap_or(0);
        // Nothing of its feed is stored: there was nothing that could be compared.
        let is_blind = !self.oracle.logs(id, end);
        let shares = |other| {
            let began = self.truth.origin(other).map_or(0, |(began, _)| began);
            let before = end <= began && self.truth.state(line, began).is_some();
            is_blind || before || self.truth.is_same(line, other, end)
        };
        let of_the_name = self.nodes.iter().filter(|node| node.was_set_back);
        let mut lines = of_the_name.map(|node| node.line);
        if let Some(other) = lines.find(|other| is_of(*other) && shares(*other)) {
            self.oracle.lines.insert(id, other);
        }
    }

    /// A server came up with something of its own, and has not far less than is stored. It is taken as it is, as nothing tells it from
    /// one whose data an operator has put there: what was confirmed before does not come back by itself. But one that says that it
    /// came up empty has none of it.
    fn takes_the_place(&mut self, id: ReplId, found: &Model) {
        let is_of_pod = |node: &Node| node.replid == id && node.line == id && node.pod.is_some();
        let Some((line, at)) = self.oracle.last_confirmed else {
            return;
        };
        let (root, other) = (self.truth.root(id), self.truth.root(line));
        let last = self.truth.state_upto(line, at);
        let node = self.nodes.iter().find(|node| is_of_pod(node));
        let came_up_empty =
            node.is_some_and(|node| node.version > 6 && node.loaded == 0 && !node.given);
        let is_other = root != other && node.is_some();
        let Some(last) = last.filter(|_| is_other) else {
            return;
        };
        // Somewhat more than that may be stored.
        let less = |found: usize, stored: usize| found * (TINY as usize + 2) < stored;
        // With what stands before the keys.
        let size = |model: &Model| model.rdb(11, &[]).len() + 100;
        let is_tiny = less(found.keys(), last.keys()) && less(size(found), size(last));
        let end = self.oracle.end(line).unwrap_or(at).max(at);
        let is_lost = came_up_empty
            && self
                .truth
                .state_upto(line, end)
                .is_some_and(|end| end.keys() > 0);
        if found.keys() > 0 && !is_tiny && !is_lost {
            let truth = &self.truth;
            let stays = |line: &ReplId, _: &mut u64| truth.root(*line) != other;
            self.oracle.confirmed.retain(stays);
            let lost = truth.all().filter(|line| truth.root(*line) == other);
            self.oracle.given_up.extend(lost);
            self.oracle.counts.replaced += 1;
        }
    }

    /// How much later a key may expire in a restore.
    pub(crate) fn late_ms(&self) -> i64 {
        if self.nodes[0].version == 6 {
            LATE_MS
        } else {
            0
        }
    }

    /// An object reaches the store.
    pub(crate) fn create(
        &mut self,
        name: &str,
        body: Bytes,
        writer: &str,
    ) -> Result<Created, StoreError> {
        if self.objects.contains_key(name) {
            self.oracle.counts.taken += 1;
            note(|| format!("{writer} finds {name}"));
            let created = self.times[name];
            return Err(StoreError::AlreadyExists {
                name: name.to_owned(),
                created: (!self.is_timeless).then_some(created),
            });
        }
        note(|| format!("{writer} creates {name}"));
        self.objects.insert(name.to_owned(), body.clone());
        self.created += 1;
        self.births.insert(name.to_owned(), self.created);
        // As some services have it.
        let now = self.now_ms() / 1000 * 1000;
        self.times.insert(name.to_owned(), now);
        if let Err(wrong) = self.check(name, &body, writer) {
            fail(format!("{writer} created {name}: {wrong}"));
        }
        self.damage_some_spans(name);
        Ok((!self.is_timeless).then_some(now))
    }

    fn check(&mut self, name: &str, body: &Bytes, writer: &str) -> Result<(), String> {
        let parsed = Name::parse(name).ok_or("no name of an archive")?;
        match parsed {
            Name::Archive => Ok(()),
            Name::History(id) => self.check_history(id, body, writer),
            Name::BaseData(at) => {
                let stored = self.oracle.histories.entry(at.history).or_default();
                stored.data.insert(at.offset.0, body.clone());
                Ok(())
            }
            Name::BaseManifest(at) => self.check_base(at.history, at.offset.0, body),
            Name::BaseVerdict(_) | Name::Drill { .. } => Ok(()),
            Name::Claim { history, number } => {
                self.check_claim(history, number, body, writer)?;
                let claimant = (history, writer.to_owned());
                self.oracle.claimants.insert(claimant, self.created);
                Ok(())
            }
            Name::Successor(history) => self.check_successor(history, body, writer),
            Name::First => self.check_first(body),
            Name::Sidecar | Name::Clock(_) => Ok(()),
            Name::Floor(at) => self.check_floor(at, body),
            Name::Hold(_) => self.check_hold(body),
            Name::Log {
                history,
                first_byte,
            } => self.check_log(history, first_byte - 1, body),
            Name::Span {
                history,
                first_byte,
                last_byte,
            } => self.check_span(history, first_byte - 1, last_byte, body),
        }
    }

    /// One after another, and in the place of another one's only when that has stood without a renewal for as long as it says.
    fn check_claim(
        &mut self,
        history: ReplId,
        number: u64,
        body: &Bytes,
        process: &str,
    ) -> Result<(), String> {
        let doc: ClaimDoc = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let before = self.oracle.claims.get(&history);
        let last = before.map_or(0, |before| before.doc.number);
        if (doc.history, doc.number) != (history, number) || number != last + 1 {
            return Err(format!("the last claim was {before:?}"));
        }
        let at_ms = self.now_ms();
        if let Some(before) = before.filter(|before| before.doc.writer != doc.writer) {
            self.oracle.counts.overridden += 1;
            let (stands, stood) = (before.doc.stands_ms, at_ms - before.at_ms);
            let is_own = doc.redis.is_some() && doc.redis == before.doc.redis;
            if !is_own && stood < stands as i64 {
                return Err(format!(
                    "the claim before is that of {}, and stands for {stands} ms: {stood} ms are over",
                    before.process
                ));
            }
        }
        let claimed = Claimed {
            doc,
            process: process.to_owned(),
            at_ms,
        };
        self.oracle.claims.insert(history, claimed);
        Ok(())
    }

    /// A store begins with the history of one sidecar.
    fn check_first(&mut self, body: &Bytes) -> Result<(), String> {
        let doc: SuccessorDoc = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if doc.history.is_some() {
            return Err("it comes after another history".to_owned());
        }
        let at = begins_at(&doc.child).offset.0;
        match &doc.base {
            Some(base) => {
                let stored = self.oracle.histories.get(&base.history);
                if stored.is_none_or(|stored| !stored.data.contains_key(&base.offset.0)) {
                    return Err("its snapshot is not stored".to_owned());
                }
            }
            // It begins here, and not in a server.
            None => self.truth.begin(doc.child.id, None, at, Model::default()),
        }
        self.oracle.counts.begun += 1;
        Ok(())
    }

    /// What goes on has a sealed history before it, and is whole.
    fn check_successor(
        &mut self,
        history: ReplId,
        body: &Bytes,
        writer: &str,
    ) -> Result<(), String> {
        let doc: SuccessorDoc = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if doc.history != Some(history) {
            return Err("it is of another history".to_owned());
        }
        let is_own_key = doc.child.replid.is_some();
        if is_own_key {
            let line = self.oracle.synced.get(writer).ok_or("no full sync of it")?;
            self.oracle.recorded_lines.insert(doc.child.id, *line);
        } else if self.oracle.sealed(history).is_none() {
            return Err("what it goes on from is not sealed".to_owned());
        }
        if let Some(base) = &doc.base {
            let stored = self.oracle.histories.get(&base.history);
            if stored.is_none_or(|stored| !stored.data.contains_key(&base.offset.0)) {
                return Err("its snapshot is not stored".to_owned());
            }
        }
        self.oracle.successors.insert(history, doc.child.id);
        Ok(())
    }

    fn check_history(&mut self, id: ReplId, body: &Bytes, writer: &str) -> Result<(), String> {
        let doc: HistoryDoc = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if doc.id != id {
            return Err("it is of another history".to_owned());
        }
        if doc.replid.is_some() {
            if !self.nodes.iter().any(|node| node.was_set_back) {
                return Err("no server was set back".to_owned());
            }
            // Another process may do for who recorded it what is left to do.
            let recorded = self.oracle.recorded_lines.get(&id);
            let line = recorded.or(self.oracle.synced.get(writer));
            let line = line.ok_or("no full sync of it")?;
            self.oracle.lines.insert(id, *line);
            self.oracle.counts.own_keys += 1;
        }
        if let Some(parent) = doc.parent {
            let at = parent.offset.0;
            let (before, after) = (
                self.truth.state(self.oracle.line(parent.history), at),
                self.truth.state(id, at),
            );
            let late = self.late_ms();
            let differ = match (before, after) {
                (Some(before), Some(after)) => before.difference(after, late),
                _ => Some("no boundary".to_owned()),
            };
            if let Some(wrong) = differ {
                return Err(format!(
                    "{id} does not go on from {} at {at}: {wrong}",
                    parent.history
                ));
            }
            if !self.oracle.holds(parent.history, at) {
                return Err(format!("its parent is not stored up to {at}"));
            }
            if self.oracle.sealed(parent.history).is_none() {
                return Err("its parent is not sealed".to_owned());
            }
        }
        self.oracle.counts.histories += 1;
        self.oracle.histories.entry(id).or_default().doc = Some(doc);
        Ok(())
    }

    fn check_base(&mut self, id: ReplId, at: u64, body: &Bytes) -> Result<(), String> {
        let manifest: BaseManifest =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if (manifest.history, manifest.offset.0) != (id, at) {
            return Err("it is of another base".to_owned());
        }
        let stored = self.oracle.histories.entry(id).or_default();
        if stored.doc.is_none() {
            return Err("there is no history.json".to_owned());
        }
        let data = stored.data.get(&at).ok_or("its data is not there")?;
        let mut raw = Vec::new();
        zstd::stream::read::Decoder::new(&data[..])
            .and_then(|mut decoder| decoder.read_to_end(&mut raw))
            .map_err(|error| error.to_string())?;
        let found = Model::read(&raw)?;
        if manifest.kind == BaseKind::Sync {
            self.goes_on_elsewhere_by(id, at, &found);
            self.takes_the_place(id, &found);
        }
        let line = self.oracle.line(id);
        let wanted = self
            .truth
            .state(line, at)
            .ok_or("it stands at no boundary")?;
        let consolidated = manifest.kind != BaseKind::Sync;
        let late = if consolidated { self.late_ms() } else { 0 };
        if let Some(wrong) = wanted.difference(&found, late) {
            return Err(wrong);
        }
        if consolidated && !self.oracle.holds(id, at) {
            return Err("it stands beyond the log".to_owned());
        }
        let is_right = self.is_right(line, at, manifest.created_unix_ms);
        let stored = self.oracle.histories.entry(id).or_default();
        if stored.sealed.is_none_or(|sealed| at <= sealed) {
            stored.bases.insert(at, manifest.kind);
            if !consolidated {
                stored.right_bases.insert(at, is_right);
            }
        }
        self.oracle.counts.bases += 1;
        self.oracle.counts.consolidated += u64::from(consolidated);
        Ok(())
    }

    fn check_log(&mut self, id: ReplId, start: u64, body: &Bytes) -> Result<(), String> {
        let decoded = segment::decode_entry(body).map_err(|error| error.to_string())?;
        let (entry, header_bytes) = decoded.ok_or("it has half a header")?;
        if (entry.history(), entry.start().0) != (id, start) {
            return Err("it is of another place".to_owned());
        }
        let stored = self.oracle.histories.entry(id).or_default();
        let doc = stored.doc.as_ref().ok_or("there is no history.json")?;
        let freed = stored.freed.max(stored.merged_freed);
        if let Some(freed) = freed.filter(|freed| start < *freed) {
            // It counts for nobody. Whoever acknowledged it would be found out.
            self.oracle.counts.stale += 1;
            match &entry {
                Entry::Seal(_) => self.oracle.counts.stale_seals += 1,
                Entry::Segment(header) if header.meta.end.0 > freed => {
                    self.oracle.counts.straddling += 1;
                }
                Entry::Segment(_) => {}
            }
            return Ok(());
        }
        // A base that came late may stand before a gap. The bridge over that leads to what was sealed.
        let is_bridge = |sealed: u64| matches!(&entry, Entry::Segment(header) if header.is_gap() && header.meta.end.0 <= sealed);
        if let Some(sealed) = stored.sealed.filter(|sealed| !is_bridge(*sealed)) {
            return Err(format!("the log was sealed after {sealed}"));
        }
        // One chain: only what follows on the last segment, or begins the log.
        let begins = |at: &u64| {
            stored.bases.contains_key(at) || doc.parent.is_some_and(|parent| parent.offset.0 == *at)
        };
        match stored.log_end {
            Some(end) if end == start => {}
            Some(end) => return Err(format!("the log ends at {end}: a second chain")),
            None if begins(&start) => {}
            None => return Err("no base and no parent stands there".to_owned()),
        }
        let header = match entry {
            Entry::Seal(_) => {
                stored.sealed = Some(start);
                // A snapshot beyond it does not count.
                stored.bases.retain(|at, _| *at <= start);
                self.oracle.counts.seals += 1;
                return Ok(());
            }
            Entry::Segment(header) => header,
        };
        let end = header.meta.end.0;
        let boundary = header.meta.boundary.map(|boundary| boundary.offset.0);
        if header.is_gap() {
            if !stored.bases.contains_key(&end) {
                return Err(format!("a gap up to {end}, where no base stands"));
            }
        } else {
            let mut raw = Vec::new();
            zstd::stream::read::Decoder::new(&body[header_bytes..])
                .and_then(|mut decoder| decoder.read_to_end(&mut raw))
                .map_err(|error| error.to_string())?;
            self.goes_on_elsewhere(id, start, end, &raw);
            let line = self.oracle.line(id);
            if self.truth.bytes(line, start, end).as_ref() != Some(&raw) {
                return Err(format!("its bytes up to {end} are not those of the feed"));
            }
            let last = self.truth.boundary(line, end).filter(|at| *at > start);
            if boundary > last || boundary.is_some_and(|at| self.truth.state(line, at).is_none()) {
                return Err(format!(
                    "its boundary is {boundary:?}, and should be {last:?}"
                ));
            }
        }
        let line = self.oracle.line(id);
        let said = header.meta.marks.first().zip(header.meta.marks.last());
        let clock = said.map(|(first, last)| {
            let back = header.meta.clock_back;
            let last_ms = back.map_or(last.unix_ms, |back| back.now_unix_ms);
            SegmentClock {
                stored_ms: self.now_ms(),
                end,
                begins_right: self.is_right(line, start, first.unix_ms),
                ends_right: self.is_right(line, end, last_ms),
            }
        });
        self.oracle.counts.clock_back += u64::from(header.meta.clock_back.is_some());
        let stored = self.oracle.histories.entry(id).or_default();
        stored.log_end = Some(end);
        stored.clocks.extend(clock.map(|clock| (start, clock)));
        stored
            .segments
            .insert(start, (end, header.is_gap(), boundary));
        self.oracle.counts.segments += 1;
        Ok(())
    }

    /// May a clock that is right have said this when what stands there was received?
    fn is_right(&self, line: ReplId, offset: u64, said_ms: i64) -> bool {
        let written = self.truth.written(line, offset).unwrap_or(super::BEGAN_MS);
        (written - CLOCK_MS..=self.now_ms() + CLOCK_MS).contains(&said_ms)
    }

    /// What must be restored for a time: everything that was stored before, at least. None: with a clock that was wrong from the
    /// beginning, or at the end, nothing tells.
    pub(crate) fn stored_by(&self, id: ReplId, unix_ms: i64) -> Option<u64> {
        if self.stood_still_ms > 0 {
            return None;
        }
        let mut least = 0;
        let (mut at, mut upto, mut last) = (id, u64::MAX, None);
        loop {
            let stored = self.oracle.histories.get(&at)?;
            let bases = stored.right_bases.range(..=upto);
            if !bases.into_iter().all(|(_, right)| *right) {
                return None;
            }
            let clocks = || stored.clocks.range(..upto).map(|(_, clock)| *clock);
            last = last.or(clocks().next_back().map(|clock| clock.ends_right));
            let by_then = clocks().filter(|clock| clock.stored_ms <= unix_ms);
            least = by_then
                .map(|clock| clock.end.min(upto))
                .fold(least, u64::max);
            let Some(parent) = stored.doc.as_ref()?.parent else {
                let first = clocks().next().is_none_or(|clock| clock.begins_right);
                return (first && last != Some(false)).then_some(least);
            };
            (at, upto) = (parent.history, upto.min(parent.offset.0));
        }
    }

    /// A server was told that all up to `offset` is stored.
    pub(crate) fn acknowledged(&mut self, node: usize, process: &str, id: ReplId, offset: u64) {
        self.oracle.counts.acknowledgements += 1;
        if offset == 0 {
            return;
        }
        let node = &self.nodes[node];
        let (key, offset) = match node.replid == id {
            true => self.told_up_to(id, node.line, offset),
            false => (Some(id), offset),
        };
        if node.replid == id && offset >= node.offset && !node.shutting_down {
            fail(format!(
                "{process} acknowledged the very end of {id}, {offset}"
            ));
        }
        // Of two servers that were restored from one point, one at most is told anything of what comes after it.
        if let Some((from, shared)) = node.replid2.filter(|_| node.is_restored)
            && offset > shared
        {
            let is_told = |other: &&Node| {
                let keys = [Some(other.replid), self.key_of(other)];
                let told = |key| self.oracle.acknowledged.get(&key) > Some(&shared);
                other.is_restored
                    && other.replid != id
                    && other.replid2 == Some((from, shared))
                    && keys.into_iter().flatten().any(told)
            };
            if let Some(twin) = self.nodes.iter().find(is_told) {
                fail(format!(
                    "{process} acknowledged {offset} of {id}, and {} goes on from {shared} of {from} too",
                    twin.replid
                ));
            }
        }
        let Some(key) = key else {
            fail(format!(
                "{process} acknowledged {offset} of {id}, of which nothing is stored"
            ));
            return;
        };
        // What is not stored may be acknowledged if no data is in it. Then it need not be restored either.
        let end = self
            .oracle
            .end(key)
            .or_else(|| self.ended_before_expiry(key));
        let stored = end.is_some_and(|end| offset <= end) || self.was_stored(key, offset);
        if !stored && !end.is_some_and(|end| self.truth.is_idle(node.line, end, offset)) {
            fail(format!(
                "{process} acknowledged {offset} of {id} ({key}), and {end:?} is stored"
            ));
        }
        let doc = self.oracle.histories.get(&key);
        let doc = doc.and_then(|stored| stored.doc.as_ref());
        if let Some(doc) = doc.filter(|doc| doc.replid.is_some()) {
            let open = |before: &ReplId| self.oracle.sealed(*before).is_none();
            if let Some(open) = doc.before().find(open) {
                fail(format!(
                    "{process} acknowledged {offset} of {key}, and {open} before it is not sealed"
                ));
            }
        }
        self.oracle.counts.idle_acknowledgements += u64::from(!stored);
        if let Some((from, shared)) = node.replid2.filter(|_| node.is_restored)
            && offset > shared
            && key == id
            && self.oracle.successors.get(&from) != Some(&id)
            && node.pod.is_some()
        {
            fail(format!(
                "{process} acknowledged {offset} of {id}, and nothing says that {from} goes on in it"
            ));
        }
        if node.up && node.pod.is_some() {
            let line = node.line;
            let upto = offset.min(end.unwrap_or(0));
            // To say the same once more is no new promise. A decision may have given it up meanwhile.
            let said = self.oracle.acknowledged.get(&key).copied();
            if said.is_none_or(|said| upto > said) && self.confirm(line, upto) {
                self.oracle.last_confirmed = Some((line, upto));
            }
        }
        let furthest = self.oracle.acknowledged.entry(key).or_default();
        *furthest = offset.min(end.unwrap_or(0)).max(*furthest);
    }

    /// A server has sent all of a snapshot by a link that goes on: it counts the replica from now on.
    pub(crate) fn snapshot_counts(&mut self, node: usize, at: Option<u64>) {
        let key = self.key_of(&self.nodes[node]);
        let stored = key
            .zip(at)
            .is_some_and(|(key, at)| self.oracle.holds(key, at));
        self.oracle.counts.counted_early += u64::from(!stored);
    }

    /// A process asks its server for its facts, before it looks into the store.
    pub(crate) fn facts_asked(&mut self, node: usize, process: &str) {
        let node = &self.nodes[node];
        let ids = [Some(node.replid), node.replid2.map(|(id, _)| id)];
        let known = ids.into_iter().flatten().find_map(|id| {
            let end = self.oracle.end(id)?;
            let sealed = self
                .oracle
                .histories
                .get(&id)
                .is_some_and(|at| at.sealed.is_some());
            // A sealed history is only gone on with under a new id.
            Some((id, end)).filter(|_| !sealed || id != node.replid)
        });
        // So it is if a policy has given it up since, as a whole.
        let known =
            known.filter(|(id, _)| *id == node.replid || self.oracle.sealed(node.replid).is_none());
        let asked = Asked {
            replid: node.replid,
            replid2: node.replid2,
            offset: node.offset,
            backlog_first: node.backlog_first,
            // With nothing in the backlog that is in the store, the server cannot show that it is the one of before.
            stored: known.filter(|(id, end)| {
                let logs = self.oracle.logs(*id, *end);
                let is_snapshot = self.oracle.has_base(*id, *end);
                let shows = match *id == node.replid {
                    true if logs => node.continues(*id, end - 1),
                    // Nothing before a snapshot is stored that could be compared.
                    true if is_snapshot => node.offset == *end || *end == 0,
                    _ => true,
                };
                node.is_master() && !node.was_set_back && node.continues(*id, *end) && shows
            }),
        };
        self.oracle.asked.insert(process.to_owned(), asked);
    }

    /// From anywhere: what the program has is sent again, and compared. Where it goes on shows in what it stores.
    pub(crate) fn continued(&mut self) {
        self.oracle.counts.partial_syncs += 1;
    }

    /// A server has to make a snapshot.
    pub(crate) fn full_sync(&mut self, node: usize, process: &str, wanted: Option<(ReplId, u64)>) {
        self.oracle.counts.full_syncs += 1;
        let server = &self.nodes[node];
        // What it wanted may have been left behind since it asked: nobody could know that.
        if let Some(asked) = self.oracle.asked.get(process)
            && let Some((id, end)) = asked.stored
            && server.continues(id, end)
            && !wanted.is_some_and(|(id, at)| asked.would_continue(id, at))
        {
            fail(format!(
                "{process} made its server send everything, though it could go on from {end} of {id}"
            ));
        }
        let now = self.now_ms();
        let window = FULL_SYNC_WINDOW.as_millis() as i64;
        let of_process = self
            .oracle
            .full_syncs
            .entry(process.to_owned())
            .or_default();
        of_process.retain(|at| now - at < window);
        of_process.push(now);
        // One more where the server was expected to continue, and one whose answer was lost with the link: nobody counts that.
        if of_process.len() > FULL_SYNCS_MAX + 2 {
            fail(format!(
                "{process} made its server send everything {} times in {window} ms",
                of_process.len()
            ));
        }
    }
}
