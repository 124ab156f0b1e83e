//! What a policy keeps of a whole tree of histories: a pure function of what was found.
//!
//! ```text
//! line     root ─────────▶ left ─ child ──────────── cut ───────────────▶ tip
//!          [ bases that stay alone ]                  every point from here on
//!                                                     │◀──── keep ────▶│
//! ```
//!
//! The **line** is the latest history with all that it descends from. Its **cut** is the newest sound base that is at
//! least as old as what is to be kept: by the time of its data, counted from the newest point, and by the clock of the
//! store. So a stopped server never ages out, and neither does anything when a clock was wrong.
//!
//! What is not on the line has **lost**, if the same service wrote it and it is connected with the line: a branch of a
//! split brain, or what a new full sync took the place of. It stays as a whole, and it goes as a whole. What has nothing
//! to do with the line stays.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::archive::{FLOOR_GRACE_MS, Floor, Floors, HoldDoc, Stay};
use crate::config::KeepPolicy;
use crate::display;
use crate::store::Created;
use crate::wire::position::{Offset, Position, ReplId};

/// A lineage that lost stays while the new one has less than its share of keys or bytes.
const SHARE: u64 = 10;

/// What was found in an archive.
#[derive(Debug, Clone)]
pub(crate) struct Survey {
    /// The latest history, and its ancestors, each with the last offset that the line shares with it.
    pub(crate) line: Vec<Position>,
    /// The time of the newest point of the line, Unix milliseconds.
    pub(crate) tip_unix_ms: i64,
    /// What the newest point says of itself, if that is in the future, Unix milliseconds.
    pub(crate) ahead_unix_ms: Option<i64>,
    /// Now, by the clock of the store, Unix milliseconds.
    pub(crate) now_ms: i64,
    /// All histories.
    pub(crate) histories: BTreeMap<ReplId, Facts>,
    /// All holds.
    pub(crate) holds: Vec<HoldDoc>,
}

/// What was found of a history.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// Where it left another one.
    pub(crate) parent: Option<Position>,
    /// The last stored byte. None: nothing is stored.
    pub(crate) end: Option<Offset>,
    /// When its document was created, by the clock of the store.
    pub(crate) born: Created,
    /// The time of its newest point, Unix milliseconds. Not after the store got it.
    pub(crate) newest_unix_ms: Option<i64>,
    /// The same as the clock of the machine had it that stored the point.
    pub(crate) said_unix_ms: Option<i64>,
    /// Of the same service, and connected with the latest history: it may have lost against that.
    pub(crate) related: bool,
    /// Bases with a manifest, ascending.
    pub(crate) bases: Vec<BaseFacts>,
    /// From where on it is promised.
    pub(crate) floors: Floors,
}

/// What was found of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BaseFacts {
    /// Where it stands.
    pub(crate) offset: Offset,
    /// The time of its data, Unix milliseconds. Not after the store got it.
    pub(crate) as_of_unix_ms: i64,
    /// When its manifest was created, by the clock of the store.
    pub(crate) created: Created,
    /// When it was found to be sound, by the clock of the store.
    pub(crate) verified: Created,
    /// Nothing is known against it.
    pub(crate) sound: bool,
    /// Keys.
    pub(crate) keys: u64,
    /// Bytes of RDB.
    pub(crate) raw_bytes: u64,
}

impl Facts {
    /// Was all of it given up?
    pub(crate) fn is_dropped(&self) -> bool {
        self.end.is_none_or(|end| self.floors.is_below(end)) && self.floors.highest().is_some()
    }

    /// Is there something below a floor at that offset?
    fn has_below(&self, offset: Offset) -> bool {
        self.parent.is_some() || self.bases.iter().any(|base| base.offset < offset)
    }

    fn base(&self, offset: Offset) -> Option<&BaseFacts> {
        self.bases.iter().find(|base| base.offset == offset)
    }
}

/// What is to be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The base with which all that stays of the line begins.
    pub(crate) cut: Option<Position>,
    /// Floors that are to be made.
    pub(crate) floors: Vec<PlannedFloor>,
    /// What stays although the policy does not keep it, and why.
    pub(crate) notes: Vec<String>,
}

impl Plan {
    fn push(&mut self, at: Position, alone: &BTreeSet<(ReplId, Offset)>, lost: bool) {
        let of_it = alone.iter().filter(|(id, _)| *id == at.history);
        self.floors.push(PlannedFloor {
            history: at.history,
            offset: at.offset,
            alone: of_it.map(|(_, offset)| *offset).collect(),
            lost,
        });
    }
}

/// A floor that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlannedFloor {
    /// Of this history.
    pub(crate) history: ReplId,
    /// The first point that is promised.
    pub(crate) offset: Offset,
    /// Bases before it that stay alone.
    pub(crate) alone: BTreeSet<Offset>,
    /// All of the history is given up, and it is not on the line.
    pub(crate) lost: bool,
}

/// A base of the line.
#[derive(Debug, Clone, Copy)]
struct OnLine {
    at: Position,
    base: BaseFacts,
    /// Not before that of an earlier base, whatever a clock said. Unix milliseconds.
    time: i64,
}

impl Survey {
    /// What `policy` asks for.
    pub(crate) fn plan(&self, policy: &KeepPolicy) -> Plan {
        let mut plan = Plan::default();
        if let Some(ahead) = self.ahead_unix_ms {
            plan.notes.push(format!(
                "the newest point says that it was stored at {}, and that is in the future: the clock of the machine that \
                 stored it was wrong. Age counts by the clock of the store",
                display::time(ahead)
            ));
        }
        let bases = self.bases_of_line();
        let Some(cut) = self.cut(&bases, policy) else {
            plan.notes.push(
                "no sound base is as old as what is to be kept, so nothing of the latest line expires"
                    .to_owned(),
            );
            return plan;
        };
        plan.cut = Some(cut.at);
        let alone = self.alone(&bases, cut, policy);
        self.plan_line(&mut plan, cut, &alone);
        self.plan_lost(&mut plan, &bases, cut, &alone, policy);
        plan
    }

    /// Oldest first.
    fn bases_of_line(&self) -> Vec<OnLine> {
        let mut found = Vec::new();
        let mut time = i64::MIN;
        for span in self.line.iter().rev() {
            let Some(facts) = self.histories.get(&span.history) else {
                continue;
            };
            for base in facts.bases.iter().filter(|base| base.offset <= span.offset) {
                time = time.max(base.as_of_unix_ms);
                let at = Position {
                    history: span.history,
                    offset: base.offset,
                };
                found.push(OnLine {
                    at,
                    base: *base,
                    time,
                });
            }
        }
        found
    }

    /// The newest sound base that is old enough.
    fn cut(&self, bases: &[OnLine], policy: &KeepPolicy) -> Option<OnLine> {
        let keep = millis(policy.points.as_millis());
        let by_tip = self.tip_unix_ms.saturating_sub(keep);
        let by_store = self.now_ms.saturating_sub(keep);
        let is_old = |it: &&OnLine| {
            let created = it.base.created.is_some_and(|at| at <= by_store);
            let stays = it.base.sound && !self.is_alone(it.at) && !self.is_given_up(it.at);
            it.time <= by_tip && created && stays && !self.is_before_floor(it.at)
        };
        bases.iter().rev().find(is_old).copied()
    }

    /// Is it in a history of the line that a later one with a floor comes after? Then not every point from it on is there.
    fn is_before_floor(&self, base: Position) -> bool {
        let mut later = self
            .line
            .iter()
            .take_while(|span| span.history != base.history);
        let has_floor = |span: &Position| {
            let facts = self.histories.get(&span.history);
            facts.is_some_and(|facts| facts.floors.highest().is_some())
        };
        later.any(has_floor)
    }

    /// Has an earlier run given it up? It may be deleted at any time, so no floor promises it again.
    fn is_given_up(&self, base: Position) -> bool {
        let Some(facts) = self.histories.get(&base.history) else {
            return false;
        };
        let gives_up =
            |floor: &Floor| base.offset < floor.offset && !floor.leaves_alone(base.offset);
        facts.floors.iter().any(gives_up)
    }

    fn is_alone(&self, base: Position) -> bool {
        let facts = self.histories.get(&base.history);
        facts.is_some_and(|facts| facts.floors.is_alone(base.offset))
    }

    /// Bases before the cut that stay: of each of the last days, weeks and months with a base, the newest one.
    fn alone(
        &self,
        bases: &[OnLine],
        cut: OnLine,
        policy: &KeepPolicy,
    ) -> BTreeSet<(ReplId, Offset)> {
        let mut stay = BTreeSet::new();
        for (count, period) in [
            (policy.daily, day as fn(Date) -> (i16, i16)),
            (policy.weekly, week),
            (policy.monthly, month),
        ] {
            let mut seen = BTreeSet::new();
            let may_stay = |it: &&OnLine| it.base.sound && !self.is_given_up(it.at);
            for it in bases.iter().rev().filter(may_stay) {
                let Some(period) = date(it.time).map(period) else {
                    continue;
                };
                if seen.len() >= count as usize {
                    break;
                }
                if seen.insert(period) {
                    stay.insert((it.at.history, it.at.offset));
                }
            }
        }
        let before: BTreeSet<(ReplId, Offset)> = bases
            .iter()
            .map(|it| (it.at.history, it.at.offset))
            .take_while(|at| *at != (cut.at.history, cut.at.offset))
            .collect();
        stay.intersection(&before).copied().collect()
    }

    /// Floors of the line: in the history of the cut, and above all that is before it.
    fn plan_line(&self, plan: &mut Plan, cut: OnLine, alone: &BTreeSet<(ReplId, Offset)>) {
        let before = self.line.iter().rev();
        for span in before.take_while(|span| span.history != cut.at.history) {
            // What is behind the point where the line left it has lost.
            if !self.has_tail(*span) {
                self.plan_whole(plan, span.history, alone, false);
            }
        }
        self.plan_cut(plan, cut.at, alone);
    }

    /// Did a history lose, or the end of it?
    pub(crate) fn has_lost(&self, history: ReplId) -> bool {
        let mut line = self.line.iter();
        let span = line.find(|span| span.history == history);
        span.is_none_or(|span| self.has_tail(*span))
    }

    /// Has a history of the line something behind the point where the line left it?
    fn has_tail(&self, span: Position) -> bool {
        let facts = self.histories.get(&span.history);
        facts.is_some_and(|facts| facts.end.is_some_and(|end| end > span.offset))
    }

    /// A floor at the base with which all that stays of the line begins. Once that is the highest one, it goes up only with
    /// the base.
    fn plan_cut(&self, plan: &mut Plan, cut: Position, alone: &BTreeSet<(ReplId, Offset)>) {
        let Some(facts) = self.histories.get(&cut.history) else {
            return;
        };
        let highest = facts.floors.highest();
        if highest.is_none_or(|highest| highest.offset < cut.offset) && facts.has_below(cut.offset)
        {
            plan.push(cut, alone, false);
        }
    }

    /// A floor above all of a history. Where there is one, and fewer bases are to stay alone, another one right above it.
    fn plan_whole(
        &self,
        plan: &mut Plan,
        history: ReplId,
        alone: &BTreeSet<(ReplId, Offset)>,
        lost: bool,
    ) {
        let Some(facts) = self.histories.get(&history) else {
            return;
        };
        let highest = facts.floors.highest().filter(|_| facts.is_dropped());
        let offset = match (highest, facts.end) {
            (Some(highest), _) => {
                let stays = |base: Offset| alone.contains(&(history, base));
                let mut left = facts.bases.iter().map(|base| base.offset);
                if !left.any(|base| highest.leaves_alone(base) && !stays(base)) {
                    return;
                }
                highest.offset.plus(1)
            }
            (None, Some(end)) if facts.has_below(end.plus(1)) => end.plus(1),
            (None, _) => return,
        };
        plan.push(Position { history, offset }, alone, lost);
    }

    /// Floors above lineages that lost, of which no point is to be kept any more. Bases that stay alone may be in one: it
    /// was part of the line before the line left it.
    fn plan_lost(
        &self,
        plan: &mut Plan,
        bases: &[OnLine],
        cut: OnLine,
        alone: &BTreeSet<(ReplId, Offset)>,
        policy: &KeepPolicy,
    ) {
        let older = self.line.iter().rev();
        let older: Vec<ReplId> = older
            .map(|span| span.history)
            .take_while(|id| *id != cut.at.history)
            .collect();
        for (id, facts) in &self.histories {
            let span = self.line.iter().find(|span| span.history == *id);
            let lost = span.is_none_or(|span| older.contains(id) && self.has_tail(*span));
            if !lost || !facts.related {
                continue;
            }
            let mut whole = Plan::default();
            self.plan_whole(&mut whole, *id, alone, true);
            // Of one that was given up while it was part of the line, there may be nothing more to give up.
            if whole.floors.is_empty() && (facts.end.is_none() || facts.is_dropped()) {
                continue;
            }
            match self.why_lost_stays(*id, facts, bases, cut, policy) {
                Some(why) => plan
                    .notes
                    .push(format!("history {id} lost, and stays: {why}")),
                None => plan.floors.append(&mut whole.floors),
            }
        }
    }

    fn why_lost_stays(
        &self,
        id: ReplId,
        facts: &Facts,
        bases: &[OnLine],
        cut: OnLine,
        policy: &KeepPolicy,
    ) -> Option<String> {
        let after: Vec<&OnLine> = bases.iter().filter(|it| self.is_after(it.at, id)).collect();
        let keep = millis(policy.superseded.as_millis());
        let by_store = self.now_ms.saturating_sub(keep);
        let is_old = |created: Created| created.is_some_and(|at| at <= by_store);
        let successor = self.successor(id).and_then(|id| self.histories.get(&id));
        if !is_old(facts.born) || !successor.is_some_and(|successor| is_old(successor.born)) {
            return Some("it is not so long ago that another one took its place".to_owned());
        }
        // The cut is read to its end before any floor is made.
        let is_verified = |it: &&OnLine| it.base.verified.is_some() || it.at == cut.at;
        if !after.iter().any(is_verified) {
            return Some("the line that took its place has no base that was verified".to_owned());
        }
        let newest = facts.newest_unix_ms.unwrap_or(i64::MAX);
        if self.tip_unix_ms.saturating_sub(keep) < newest {
            return Some("it is not so long ago that it ended".to_owned());
        }
        let Some(old) = self.newest_base_of(id) else {
            return Some(
                "it is not known how much it holds, because no base leads to it".to_owned(),
            );
        };
        let Some(new) = after.iter().rev().find(|it| it.base.sound) else {
            return Some("the line that took its place has no base that is sound".to_owned());
        };
        let is_small = |new: u64, old: u64| new.saturating_mul(SHARE) < old;
        let is_small =
            is_small(new.base.keys, old.keys) || is_small(new.base.raw_bytes, old.raw_bytes);
        is_small.then(|| {
            format!(
                "the base at {} has less than a tenth of its keys or bytes. It never goes by itself",
                new.at
            )
        })
    }

    /// The newest base that leads to the end of a history: its own, or that of the nearest ancestor with one.
    fn newest_base_of(&self, history: ReplId) -> Option<BaseFacts> {
        let mut at = Position {
            history,
            offset: Offset(u64::MAX),
        };
        for _ in 0..=self.histories.len() {
            let facts = self.histories.get(&at.history)?;
            let mut bases = facts.bases.iter().rev();
            if let Some(base) = bases.find(|base| base.offset <= at.offset) {
                return Some(*base);
            }
            let parent = facts.parent?;
            at = Position {
                history: parent.history,
                offset: parent.offset.min(at.offset),
            };
        }
        None
    }

    /// The history of the line that took the place of one that lost: the one that left it, or an ancestor of it. Without
    /// such an ancestor, it is the one that the line begins with.
    fn successor(&self, lost: ReplId) -> Option<ReplId> {
        let mut id = lost;
        for _ in 0..=self.histories.len() {
            if let Some(place) = self.line.iter().position(|span| span.history == id) {
                let next = self.line.get(place.checked_sub(1)?)?;
                return Some(next.history);
            }
            match self.histories.get(&id).and_then(|facts| facts.parent) {
                Some(parent) => id = parent.history,
                None => break,
            }
        }
        self.line.last().map(|span| span.history)
    }

    /// Does a point of the line come after the one where a history left it?
    fn is_after(&self, at: Position, lost: ReplId) -> bool {
        let place = |id: ReplId| self.line.iter().position(|span| span.history == id);
        let mut upto = Offset(u64::MAX);
        let mut id = lost;
        let mut steps = self.histories.len();
        loop {
            if let Some(span) = place(id).and_then(|place| self.line.get(place)) {
                let shared = upto.min(span.offset);
                let own = place(at.history) == place(id);
                // The descendant comes first in the line.
                return match own {
                    true => at.offset > shared,
                    false => place(at.history) < place(id),
                };
            }
            match self.histories.get(&id).and_then(|facts| facts.parent) {
                Some(parent) if steps > 0 => (id, upto) = (parent.history, upto.min(parent.offset)),
                // It has nothing in common with the line.
                _ => return true,
            }
            steps = steps.saturating_sub(1);
        }
    }

    /// What stays of each history below its floor, because a hold or another history needs it.
    pub(crate) fn stay(&self) -> BTreeMap<ReplId, Stay> {
        let mut stay: BTreeMap<ReplId, Stay> = BTreeMap::new();
        for hold in &self.holds {
            let of_base = stay.entry(hold.base.history).or_default();
            of_base.bases.insert(hold.base.offset);
            for log in &hold.log {
                keep_log(&mut stay, log.history, log.after);
            }
        }
        for facts in self.histories.values() {
            // One that has a floor begins with a base of its own, or of one that comes after it. What is below can still be
            // restored for a day.
            if !facts.floors.iter().any(|floor| self.acts(floor))
                && let Some(parent) = facts.parent
            {
                self.need(&mut stay, parent);
            }
        }
        stay
    }

    /// Is a floor so old that what is below it may be deleted?
    pub(crate) fn acts(&self, floor: &Floor) -> bool {
        let age = floor
            .created
            .map(|created| self.now_ms.saturating_sub(created));
        age.is_some_and(|age| age >= 0 && age.unsigned_abs() >= FLOOR_GRACE_MS)
    }

    /// Whatever leads to that point stays: the newest sound base before it, and the log from there on, with the bases in
    /// between. (A floor may name that base as one that stays alone. Its log is there as long as somebody needs it.)
    fn need(&self, stay: &mut BTreeMap<ReplId, Stay>, mut at: Position) {
        for _ in 0..=self.histories.len() {
            let Some(facts) = self.histories.get(&at.history) else {
                return;
            };
            let before = facts.bases.iter().rev();
            for base in before.filter(|base| base.offset <= at.offset) {
                let of_it = stay.entry(at.history).or_default();
                of_it.bases.insert(base.offset);
                if base.sound {
                    return;
                }
            }
            let Some(parent) = facts.parent else {
                return;
            };
            keep_log(stay, at.history, parent.offset);
            at = Position {
                history: parent.history,
                offset: parent.offset.min(at.offset),
            };
        }
    }

    /// Is the base with which all that is promised begins as it should be?
    pub(crate) fn has_base(&self, at: Position) -> bool {
        let facts = self.histories.get(&at.history);
        let base = facts.and_then(|facts| facts.base(at.offset));
        base.is_some_and(|base| base.sound)
    }
}

fn keep_log(stay: &mut BTreeMap<ReplId, Stay>, history: ReplId, after: Offset) {
    let log_after = &mut stay.entry(history).or_default().log_after;
    *log_after = Some(log_after.map_or(after, |before| before.min(after)));
}

fn millis(span: u128) -> i64 {
    i64::try_from(span).unwrap_or(i64::MAX)
}

fn date(unix_ms: i64) -> Option<Date> {
    let at = Timestamp::from_millisecond(unix_ms).ok()?;
    Some(TimeZone::UTC.to_datetime(at).date())
}

fn day(date: Date) -> (i16, i16) {
    (date.year(), date.day_of_year())
}

fn week(date: Date) -> (i16, i16) {
    let week = date.iso_week_date();
    (week.year(), i16::from(week.week()))
}

fn month(date: Date) -> (i16, i16) {
    (date.year(), i16::from(date.month()))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
