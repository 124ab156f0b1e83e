//! What a floor may give up: judged by the policy of the run that made it, by rules of its own.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::Sim;
use super::oracle::CLOCK_MS;
use crate::archive::{BaseManifest, FloorDoc, Name};
use crate::config::KeepPolicy;
use crate::wire::position::{Offset, Position, ReplId};

const DAY_MS: i64 = 24 * 3_600_000;

/// A run of expiry.
pub(crate) struct Run {
    policy: KeepPolicy,
    /// The bases that there were when it began.
    bases: BTreeSet<(ReplId, Offset)>,
}

impl Sim {
    /// A run of expiry begins.
    pub(crate) fn expiry_begins(&mut self, process: &str, policy: KeepPolicy) {
        let bases = self.manifests();
        let run = Run { policy, bases };
        self.oracle.expiries.insert(process.to_owned(), run);
    }

    /// A floor was created.
    pub(crate) fn check_floor(&mut self, at: Position, body: &[u8]) -> Result<(), String> {
        let doc: FloorDoc = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if (doc.history, doc.offset) != (at.history, at.offset) {
            return Err("it is of another place".to_owned());
        }
        let stays = self.oracle.histories.get(&doc.base.history);
        if !stays.is_some_and(|stored| stored.bases.contains_key(&doc.base.offset.0)) {
            return Err("the base that is to stay is not there".to_owned());
        }
        let run = self.oracle.expiries.get(&doc.writer);
        let run = run.ok_or("nobody was to make it")?;
        self.check_place(&doc)?;
        self.check_age(&doc, &run.policy)?;
        // What came while it ran, the run need not have seen.
        let is_judged = run.bases == self.manifests();
        if is_judged {
            self.check_alone(&doc, &run.policy)?;
        }
        let has_alone = !doc.alone.is_empty();
        let stored = self.oracle.histories.entry(at.history).or_default();
        stored.floors.insert(at.offset.0, doc);
        self.oracle.counts.floors += 1;
        self.oracle.counts.floors_judged += u64::from(is_judged && has_alone);
        Ok(())
    }

    fn manifests(&self) -> BTreeSet<(ReplId, Offset)> {
        let manifest = |name: &String| match Name::parse(name) {
            Some(Name::BaseManifest(at)) => Some((at.history, at.offset)),
            _ => None,
        };
        self.objects.keys().filter_map(manifest).collect()
    }

    /// The line to the newest point, the newest history first, each with how far the line runs in it.
    fn floor_line(&self, tip: ReplId) -> Vec<(ReplId, u64)> {
        let (mut line, mut upto) = (vec![(tip, u64::MAX)], u64::MAX);
        let mut id = tip;
        while let Some(stored) = self.oracle.histories.get(&id)
            && let Some(parent) = stored.doc.as_ref().and_then(|doc| doc.parent)
            && line.len() < 1000
        {
            upto = upto.min(parent.offset.0);
            id = parent.history;
            line.push((id, upto));
        }
        line
    }

    /// In the history of the base that stays it is at the base. Nothing that is later on the line is given up.
    fn check_place(&self, doc: &FloorDoc) -> Result<(), String> {
        let line = self.floor_line(doc.tip.history);
        let place = |id: ReplId| line.iter().position(|(of, _)| *of == id);
        let Some(base) = place(doc.base.history) else {
            return Err("the base that is to stay is not on the line".to_owned());
        };
        if doc.history == doc.base.history && doc.offset != doc.base.offset {
            return Err("it is not at the base that is to stay".to_owned());
        }
        match place(doc.history) {
            Some(place) if place < base => {
                Err("its history comes after the base that is to stay".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// What the policy keeps is not given up.
    fn check_age(&self, doc: &FloorDoc, policy: &KeepPolicy) -> Result<(), String> {
        let (now, keep) = (self.now_ms(), policy.points.as_millis() as i64);
        let age = |name: Name| now - self.times.get(&name.to_string()).copied().unwrap_or(now);
        let base = age(Name::BaseManifest(doc.base));
        if base < keep {
            return Err(format!("the base that is to stay is {base} ms old"));
        }
        // A server that stopped does not age.
        let written = |at: Position| {
            let line = self.oracle.line(at.history);
            self.truth.written(line, at.offset.0)
        };
        if keep >= DAY_MS
            && let (Some(base), Some(tip)) = (written(doc.base), written(doc.tip))
            && base > tip - keep + CLOCK_MS
        {
            let kept = tip - base;
            return Err(format!("points of the last {kept} ms are promised alone"));
        }
        let line = self.floor_line(doc.tip.history);
        if !line.iter().any(|(id, _)| *id == doc.history) {
            let lost = age(Name::History(doc.history));
            let since = lost.min(age(Name::History(self.took_its_place(doc.history, &line))));
            if since < policy.superseded.as_millis() as i64 {
                return Err(format!(
                    "what lost is {lost} ms old, and lost {since} ms ago"
                ));
            }
        }
        Ok(())
    }

    /// The history of a line that went on where another one left the line, or the one that the line begins with.
    fn took_its_place(&self, lost: ReplId, line: &[(ReplId, u64)]) -> ReplId {
        let mut id = lost;
        for _ in 0..1000 {
            if let Some(place) = line.iter().position(|(of, _)| *of == id) {
                return line[place.saturating_sub(1)].0;
            }
            let stored = self.oracle.histories.get(&id);
            let parent = stored.and_then(|stored| stored.doc.as_ref()?.parent);
            match parent {
                Some(parent) => id = parent.history,
                None => break,
            }
        }
        line.last().map_or(lost, |(id, _)| *id)
    }

    /// The newest base of each of the last days, weeks and months with one, below this floor, is named.
    fn check_alone(&self, doc: &FloorDoc, policy: &KeepPolicy) -> Result<(), String> {
        let bases = self.bases_of_line(doc.tip.history);
        let given_up = |at: Position| {
            let stored = self.oracle.histories.get(&at.history);
            let floors = stored.into_iter().flat_map(|stored| stored.floors.values());
            let mut floors = floors.filter(|floor| at.offset < floor.offset);
            floors.any(|floor| !floor.alone.contains(&at.offset))
        };
        let of_week = |date: Date| date.iso_week_date();
        let wanted = [
            newest_of(&bases, policy.daily, given_up, |date| date),
            newest_of(&bases, policy.weekly, given_up, |date| {
                (of_week(date).year(), of_week(date).week())
            }),
            newest_of(&bases, policy.monthly, given_up, |date| {
                (date.year(), date.month())
            }),
        ];
        let wanted = wanted.into_iter().flatten();
        let below = |at: &Position| at.history == doc.history && at.offset < doc.offset;
        let wanted: BTreeSet<Offset> = wanted.filter(below).map(|at| at.offset).collect();
        match wanted == doc.alone {
            true => Ok(()),
            false => Err(format!(
                "{wanted:?} are to stay alone, and not {:?}",
                doc.alone
            )),
        }
    }

    /// All bases of a line, the oldest first, each with its time. Times never go back, and never beyond the store's.
    fn bases_of_line(&self, tip: ReplId) -> Vec<(Position, i64)> {
        let (mut bases, mut time) = (Vec::new(), i64::MIN);
        for (history, upto) in self.floor_line(tip).into_iter().rev() {
            let stored = self.oracle.histories.get(&history);
            let of_it = stored.into_iter().flat_map(|stored| stored.bases.keys());
            for offset in of_it.copied().filter(|offset| *offset <= upto) {
                let at = Position {
                    history,
                    offset: Offset(offset),
                };
                let name = Name::BaseManifest(at).to_string();
                let Some(body) = self.objects.get(&name) else {
                    continue;
                };
                let Ok(manifest) = serde_json::from_slice::<BaseManifest>(body) else {
                    continue;
                };
                time = time.max(manifest.as_of_unix_ms().min(self.times[&name]));
                bases.push((at, time));
            }
        }
        bases
    }
}

/// The newest base of each of the last periods that have one.
fn newest_of<P: Ord>(
    bases: &[(Position, i64)],
    count: u32,
    given_up: impl Fn(Position) -> bool,
    period: impl Fn(Date) -> P,
) -> Vec<Position> {
    let mut newest: BTreeMap<P, Position> = BTreeMap::new();
    for (at, time) in bases.iter().filter(|(at, _)| !given_up(*at)) {
        if let Ok(time) = Timestamp::from_millisecond(*time) {
            newest.insert(period(TimeZone::UTC.to_datetime(time).date()), *at);
        }
    }
    newest.into_values().rev().take(count as usize).collect()
}
