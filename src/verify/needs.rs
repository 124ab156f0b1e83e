//! What holds need, and below a floor the histories that hang on it: it stays, so it is looked at.

use std::collections::BTreeMap;

use super::{HistoryReport, Stretch, until};
use crate::archive::{BaseDigest, Catalog, History, HoldDoc, Name, Problem};
use crate::wire::position::{Offset, Position, ReplId};

/// Where a walk along a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Start {
    /// After this byte,
    pub(super) from: Offset,
    /// with this database selected. None: it is not known.
    pub(super) db: Option<u32>,
    /// What is after this byte is not wanted.
    pub(super) upto: Offset,
}

/// By history.
pub(super) type Needs = BTreeMap<ReplId, Vec<Start>>;

/// What is needed below floors.
pub(super) fn needs(catalog: &Catalog, holds: &[HoldDoc]) -> Needs {
    let mut needs = Needs::new();
    for history in catalog.histories.values() {
        // One that has a floor begins with a base of its own, or of one that comes after it.
        if history.floors.highest().is_none()
            && let Some(parent) = history.doc.parent
        {
            let at = Position {
                history: parent.history,
                offset: parent.offset,
            };
            lead_to(catalog, at, &mut needs);
        }
    }
    for hold in holds {
        of_hold(catalog, hold, &mut needs);
    }
    for (id, starts) in &mut needs {
        let floors = catalog.histories.get(id).map(|history| &history.floors);
        starts.retain(|start| floors.is_some_and(|floors| floors.is_below(start.from)));
    }
    needs
}

/// The newest base before a point, and the log from there on, also through parents.
fn lead_to(catalog: &Catalog, mut at: Position, needs: &mut Needs) {
    for _ in 0..=catalog.histories.len() {
        let Some(history) = catalog.histories.get(&at.history) else {
            return;
        };
        let before = history.bases.iter().filter(|base| base.offset <= at.offset);
        let newest = before
            .filter(|base| !has_problem(history, base.offset))
            .max_by_key(|base| base.offset);
        let parent = history.doc.parent;
        let begin = newest.map(|base| (base.offset, base.db));
        let begin = begin.or(parent.map(|parent| (parent.offset, parent.db)));
        let Some((from, db)) = begin else {
            return;
        };
        needs.entry(at.history).or_default().push(Start {
            from,
            db: Some(db),
            upto: at.offset,
        });
        let (None, Some(parent)) = (newest, parent) else {
            return;
        };
        at = Position {
            history: parent.history,
            offset: parent.offset.min(at.offset),
        };
    }
}

fn of_hold(catalog: &Catalog, hold: &HoldDoc, needs: &mut Needs) {
    let base = hold.base;
    if let Some(manifest) = base_of(catalog, base) {
        needs.entry(base.history).or_default().push(Start {
            from: base.offset,
            db: Some(manifest.1),
            upto: base.offset,
        });
    }
    for log in &hold.log {
        let history = catalog.histories.get(&log.history);
        let parent = history.and_then(|history| history.doc.parent);
        let parent = parent.filter(|parent| parent.offset == log.after);
        let at = Position {
            history: log.history,
            offset: log.after,
        };
        let db = base_of(catalog, at).map(|(_, db)| db);
        needs.entry(log.history).or_default().push(Start {
            from: log.after,
            db: db.or(parent.map(|parent| parent.db)),
            upto: log.upto,
        });
    }
}

/// What identifies the bytes of a base, and the database that is selected there.
fn base_of(catalog: &Catalog, at: Position) -> Option<(Option<&BaseDigest>, u32)> {
    let history = catalog.histories.get(&at.history)?;
    let base = history.bases.iter().find(|base| base.offset == at.offset)?;
    Some((base.digest.as_ref(), base.db))
}

fn has_problem(history: &History, base: Offset) -> bool {
    history.problems.iter().any(|problem| match problem {
        Problem::NoData { base: at } | Problem::Size { base: at, .. } => at.offset == base,
        _ => false,
    })
}

/// Is the base there, and the one that is meant?
fn wrong_base(
    catalog: &Catalog,
    at: Position,
    digest: Option<&BaseDigest>,
) -> Option<&'static str> {
    match (base_of(catalog, at), digest) {
        (None, _) => Some("it is not there"),
        (Some((Some(is), _)), Some(wanted)) if is != wanted => Some("another one is in its place"),
        _ => None,
    }
}

/// Is all there that holds and floors name?
pub(super) fn check(catalog: &Catalog, holds: &[HoldDoc], histories: &mut [HistoryReport]) {
    for found in histories {
        for hold in holds {
            found.check_hold(catalog, hold);
        }
        let highest = catalog.histories.get(&found.id);
        let highest = highest.and_then(|history| history.floors.highest());
        let Some(doc) = highest.and_then(|floor| floor.doc.as_ref()) else {
            continue;
        };
        // Of a history that was given up, the base that stays is in a later one, and may have expired there since.
        if doc.base.history == found.id
            && let Some(wrong) = wrong_base(catalog, doc.base, doc.digest.as_ref())
        {
            let object = Name::BaseManifest(doc.base).to_string();
            let what = format!("all that is promised begins with this base, and {wrong}");
            let bases = catalog.histories.get(&found.id).into_iter();
            let bases = bases.flat_map(|history| history.bases.iter());
            let later = bases.map(|base| base.offset).find(|at| *at > doc.offset);
            found.problem(Some(object), what, until(later));
        }
    }
}

impl HistoryReport {
    fn check_hold(&mut self, catalog: &Catalog, hold: &HoldDoc) {
        let advice = format!(
            "bring it back from a copy of the store. Without it, what the hold keeps is lost. `backfeed hold remove {}` \
             removes the hold",
            hold.name
        );
        if hold.base.history == self.id
            && let Some(wrong) = wrong_base(catalog, hold.base, hold.digest.as_ref())
        {
            let object = Name::BaseManifest(hold.base).to_string();
            let what = format!("the hold `{}` needs this base, and {wrong}", hold.name);
            self.problem(Some(object), what, advice.clone());
        }
        let id = self.id;
        for log in hold.log.iter().filter(|log| log.history == id) {
            let has = |it: &Stretch| it.from <= log.after && log.upto <= it.to;
            if !self.stretches.iter().any(has) {
                let what = format!(
                    "the hold `{}` needs the log from offset {} to {}, and not all of it is there",
                    hold.name, log.after, log.upto
                );
                self.problem(None, what, advice.clone());
            }
        }
    }
}
