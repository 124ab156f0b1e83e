//! Expiry, as it will be allowed to delete: what a log begins with, and its bases.

use super::oracle::Stored;
use super::{Sim, fail, note};
use crate::archive::{GRACE_MS, Name};
use crate::log::segment::{self, Entry};
use crate::runtime::simulated::once_in;
use crate::wire::position::ReplId;

impl Sim {
    /// Deletes what the log of a history begins with, and the bases before the one that stays.
    pub(crate) fn delete_log(&mut self, id: ReplId) {
        let Some(floor) = self.floor(id) else {
            return;
        };
        let now = self.now_ms();
        let of_log = |name: &String| match Name::parse(name) {
            Some(Name::Log { history, .. }) => history == id,
            _ => false,
        };
        let names: Vec<String> = self
            .objects
            .keys()
            .filter(|name| of_log(name))
            .cloned()
            .collect();
        let mut upto = None;
        // Never the last one.
        for name in &names[..names.len().saturating_sub(1)] {
            let entry = segment::decode_entry(&self.objects[name]);
            let Ok(Some((entry, _))) = entry else {
                fail(format!("{name} cannot be read"));
                return;
            };
            let end = match &entry {
                Entry::Segment(header) => header.meta.end.0,
                Entry::Seal(seal) => seal.start.0,
            };
            // What survives is one chain up to the end.
            if end > floor || now.abs_diff(self.times[name]) < GRACE_MS {
                break;
            }
            upto = upto.max(Some(end));
            self.objects.remove(name);
            self.oracle.counts.freed += 1;
        }
        let Some(upto) = upto else {
            return;
        };
        note(|| format!("the log of {id} is deleted up to {upto}"));
        // The data goes last. Whoever deletes may die before that.
        let dies = once_in(2);
        let bases = |name: &String| match Name::parse(name) {
            Some(Name::BaseManifest(at) | Name::BaseVerdict(at)) => {
                at.history == id && at.offset.0 < floor
            }
            Some(Name::BaseData(at)) => at.history == id && at.offset.0 < floor && !dies,
            _ => false,
        };
        // What is merged of it goes as well.
        let merged = |name: &String| match Name::parse(name) {
            Some(Name::Span {
                history, last_byte, ..
            }) => history == id && last_byte <= upto,
            _ => false,
        };
        self.objects.retain(|name, _| !bases(name) && !merged(name));
        if let Some(stored) = self.oracle.histories.get_mut(&id) {
            stored.freed = stored.freed.max(Some(upto));
            stored.segments.retain(|_, (end, ..)| *end > upto);
            stored.bases.retain(|at, _| *at >= floor);
            stored.data.retain(|at, _| *at >= floor || dies);
        }
    }

    /// A process deletes an object. What may be deleted is what the rules of deletion allow.
    pub(crate) fn delete(&mut self, name: &str) {
        match Name::parse(name) {
            Some(Name::Clock(_)) => {}
            Some(Name::Log {
                history,
                first_byte,
            }) => {
                if self.objects.contains_key(name)
                    && let Err(wrong) = self.check_delete(name, history, first_byte)
                {
                    fail(format!("{name} was deleted: {wrong}"));
                }
            }
            _ => fail(format!("{name} was to be deleted")),
        }
        self.objects.remove(name);
    }

    fn check_delete(&mut self, name: &str, id: ReplId, first: u64) -> Result<(), String> {
        let now = self.now_ms();
        let is_aged = |name: &String| now.abs_diff(self.times[name]) >= GRACE_MS;
        if !is_aged(&name.to_owned()) {
            return Err("it is too young".to_owned());
        }
        let (mut before, mut behind, mut spans) = (0, 0, Vec::new());
        for other in self.objects.keys() {
            match Name::parse(other) {
                Some(Name::Log {
                    history,
                    first_byte,
                }) if history == id => {
                    before += usize::from(first_byte < first);
                    behind += usize::from(first_byte > first);
                }
                Some(Name::Span {
                    history,
                    first_byte,
                    last_byte,
                }) if history == id && is_aged(other) => spans.push((first_byte, last_byte)),
                _ => {}
            }
        }
        if behind == 0 {
            return Err("it is the last one of its log".to_owned());
        }
        // Of one batch.
        if before >= 4 {
            return Err(format!("{before} that come before it are still there"));
        }
        let end = match segment::decode_entry(&self.objects[name]) {
            Ok(Some((Entry::Segment(header), _))) => header.meta.end.0,
            _ => first,
        };
        let is_inside = |end| spans.iter().any(|(from, to)| *from <= first && end <= *to);
        let stored = self.oracle.histories.entry(id).or_default();
        let is_stale = stored
            .freed
            .max(stored.merged_freed)
            .is_some_and(|freed| first <= freed);
        // What is stale may reach beyond.
        if !is_inside(end) && !(is_stale && is_inside(first)) {
            return Err("no span has it that is old enough".to_owned());
        }
        if !is_stale {
            stored.merged_freed = stored.merged_freed.max(Some(end));
        }
        self.oracle.counts.merged_freed += 1;
        Ok(())
    }

    /// Deletes what a log begins with, as far as spans have it that are as old as the grace.
    pub(crate) fn delete_merged(&mut self, id: ReplId) {
        let now = self.now_ms();
        let (mut spans, mut log) = (Vec::new(), Vec::new());
        for name in self.objects.keys() {
            match Name::parse(name) {
                Some(Name::Span {
                    history,
                    first_byte,
                    last_byte,
                }) if history == id && now.abs_diff(self.times[name]) >= GRACE_MS => {
                    spans.push((first_byte, last_byte));
                }
                Some(Name::Log {
                    history,
                    first_byte,
                }) if history == id => log.push((first_byte, name.clone())),
                _ => {}
            }
        }
        let mut upto = None;
        // Never the last one.
        for (first, name) in &log[..log.len().saturating_sub(1)] {
            let Ok(Some((Entry::Segment(header), _))) = segment::decode_entry(&self.objects[name])
            else {
                break;
            };
            let end = header.meta.end.0;
            if !spans.iter().any(|(from, to)| from <= first && end <= *to) {
                break;
            }
            upto = upto.max(Some(end));
            self.objects.remove(name);
            self.oracle.counts.merged_freed += 1;
        }
        if upto.is_some()
            && let Some(stored) = self.oracle.histories.get_mut(&id)
        {
            note(|| format!("what is merged of the log of {id} is deleted up to {upto:?}"));
            stored.merged_freed = stored.merged_freed.max(upto);
        }
    }

    /// Where the log of a history may be deleted to: the last base before which nothing is needed. None: nowhere.
    fn floor(&self, id: ReplId) -> Option<u64> {
        let stored = self.oracle.histories.get(&id)?;
        let left = |other: &Stored| {
            let parent = other.doc.as_ref()?.parent?;
            (parent.history == id).then_some(parent.offset.0)
        };
        let needed = self.oracle.histories.values().filter_map(left).min();
        let end = self.oracle.end(id)?;
        let upto = needed.map_or(end, |needed| needed.min(end));
        stored.bases.range(..=upto).next_back().map(|(at, _)| *at)
    }
}
