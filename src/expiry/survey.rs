//! Looks at an archive as a whole.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};

use super::plan::{BaseFacts, Facts, Survey};
use super::run::ExpireError;
use crate::archive::{Archive, ArchiveError, BaseManifest, Catalog, Floor, History, Problem, Stay};
use crate::store::Created;
use crate::wire::position::{Offset, Position, ReplId};

/// Histories that are looked at at the same time.
const PARALLEL: usize = 16;

/// A time may be ahead by so much before it is worth a word: clocks differ a little.
const TOLERANCE_MS: i64 = 60_000;

impl Survey {
    /// What is in `catalog`, with how old it is. `now_ms`: by the clock of the store.
    pub(super) async fn of(
        archive: &Archive,
        catalog: &Catalog,
        service: Option<&str>,
        now_ms: i64,
    ) -> Result<Option<Self>, ExpireError> {
        if let Some((id, reason)) = catalog.unreadable.first_key_value() {
            return Err(ExpireError::Unreadable {
                history: *id,
                reason: reason.clone(),
            });
        }
        let Some(latest) = catalog.latest(service)? else {
            return Ok(None);
        };
        let related = related(catalog, latest);
        let all = catalog.histories.values();
        let looks: Vec<_> = all
            .map(|history| facts(archive, catalog, history))
            .collect();
        let found: Vec<Facts> = stream::iter(looks).buffered(PARALLEL).try_collect().await?;
        let mut histories = BTreeMap::new();
        for (id, mut facts) in catalog.histories.keys().zip(found) {
            facts.related = related.contains(id);
            histories.insert(*id, facts);
        }
        let of_latest = histories.get(&latest);
        let newest = of_latest.and_then(|facts| facts.newest_unix_ms);
        let said = of_latest.and_then(|facts| facts.said_unix_ms);
        Ok(Some(Self {
            line: catalog.lineage(latest)?,
            tip_unix_ms: newest.map_or(i64::MIN, |newest| newest.min(now_ms)),
            ahead_unix_ms: said.filter(|said| *said > now_ms.saturating_add(TOLERANCE_MS)),
            now_ms,
            histories,
            holds: archive.all_holds().await?,
        }))
    }

    /// The newest point of the line, as far as its log is known.
    pub(super) fn tip(&self) -> Option<Position> {
        let history = self.line.first()?.history;
        let end = self.histories.get(&history)?.end;
        let offset = end.unwrap_or_default();
        Some(Position { history, offset })
    }
}

/// The histories of the same service that are connected with the latest one: one of both comes after the other, also
/// through others. What another service wrote never lost against it.
fn related(catalog: &Catalog, latest: ReplId) -> BTreeSet<ReplId> {
    let mut found = BTreeSet::from([latest]);
    loop {
        let known = found.len();
        for (id, history) in &catalog.histories {
            let before: Vec<ReplId> = history.doc.before().collect();
            if found.contains(id) {
                found.extend(before);
            } else if before.iter().any(|id| found.contains(id)) {
                found.insert(*id);
            }
        }
        if found.len() == known {
            break;
        }
    }
    let service = |id: &ReplId| {
        let history = catalog.histories.get(id);
        history.map(|history| history.doc.service.as_str())
    };
    let own = service(&latest);
    found.retain(|id| service(id) == own);
    found
}

async fn facts(
    archive: &Archive,
    catalog: &Catalog,
    history: &History,
) -> Result<Facts, ExpireError> {
    let id = history.doc.id;
    for problem in &history.problems {
        // It may be the base that is looked for.
        if let Problem::Manifest { base, error } = problem
            && !history.floors.is_below(base.offset)
        {
            return Err(ExpireError::Unreadable {
                history: id,
                reason: error.to_string(),
            });
        }
    }
    let ages = archive.ages_of_bases(id).await?;
    let created = |offset: Offset| ages.manifests.get(&offset).copied().flatten();
    let bases = history.bases.iter().map(|base| BaseFacts {
        offset: base.offset,
        as_of_unix_ms: not_after(base.as_of_unix_ms(), created(base.offset)),
        created: created(base.offset),
        verified: ages.verdicts.get(&base.offset).copied().flatten(),
        sound: !has_problem(history, base.offset),
        keys: keys(base),
        raw_bytes: base.raw_bytes,
    });
    let mut bases: Vec<BaseFacts> = bases.collect();
    bases.sort_by_key(|base| base.offset);
    let by_base = bases.iter().map(|base| base.as_of_unix_ms).max();
    let said_by_base = history.bases.iter().map(BaseManifest::as_of_unix_ms).max();
    let (end, by_log) = match archive.log_end(catalog, id).await {
        Ok(end) => (Some(end.end), end.last_mark.map(|mark| mark.unix_ms)),
        Err(ArchiveError::NothingStored { .. }) => (None, None),
        Err(error @ ArchiveError::Store(_)) => return Err(error.into()),
        Err(_) if is_given_up(history) => (None, None),
        Err(error) => {
            return Err(ExpireError::Unreadable {
                history: id,
                reason: error.to_string(),
            });
        }
    };
    let by_log_end = match by_log {
        Some(by_log) => Some(not_after(by_log, archive.age_of_log_end(history).await?)),
        None => None,
    };
    for base in &mut bases {
        // A writer that did not know of the seal may have stored one behind it. It leads nowhere.
        base.sound &= end.is_none_or(|end| base.offset <= end);
    }
    Ok(Facts {
        parent: history.doc.parent.map(|parent| Position {
            history: parent.history,
            offset: parent.offset,
        }),
        end,
        born: ages.document,
        newest_unix_ms: by_log_end.max(by_base),
        said_unix_ms: by_log.max(said_by_base),
        related: false,
        bases,
        floors: history.floors.clone(),
    })
}

/// What an object holds had been received when the object was created. If its time is later, a clock was ahead: by the
/// clock of the store, it is no younger than that.
fn not_after(unix_ms: i64, created: Created) -> i64 {
    created.map_or(unix_ms, |created| unix_ms.min(created))
}

/// What is left of it tells nothing: all that stays is in another history.
fn is_given_up(history: &History) -> bool {
    let highest = history.floors.highest();
    let doc = highest.and_then(|floor| floor.doc.as_ref());
    doc.is_some_and(|doc| doc.base.history != history.doc.id)
}

fn has_problem(history: &History, base: Offset) -> bool {
    let of_it = |problem: &Problem| match problem {
        Problem::NoData { base: at } | Problem::Size { base: at, .. } => at.offset == base,
        _ => false,
    };
    history.problems.iter().any(of_it)
}

fn keys(base: &BaseManifest) -> u64 {
    let keys = base.databases.values().map(|counts| counts.keys);
    keys.fold(0, u64::saturating_add)
}

/// Has a history something that would be deleted below that floor? As [`crate::archive::Deleter::below`] does it.
pub(super) fn has_below(catalog: &Catalog, id: ReplId, floor: &Floor, stay: &Stay) -> bool {
    let Some(history) = catalog.histories.get(&id) else {
        return false;
    };
    let bases = history.bases.iter().map(|base| base.offset);
    let (stays, goes): (BTreeSet<Offset>, BTreeSet<Offset>) = bases
        .filter(|base| *base < floor.offset)
        .partition(|base| floor.leaves_alone(*base) || stay.bases.contains(base));
    let has_stray = history.problems.iter().any(|problem| match problem {
        Problem::Stray { base } => base.offset < floor.offset,
        _ => false,
    });
    let needed = stays.intersection(&stay.bases).copied();
    let upto = needed.chain(stay.log_after).min();
    let upto = upto.map_or(floor.offset, |upto| upto.min(floor.offset));
    // The object before the one that begins with this byte ends at or before it.
    let second = history.log.get(1).map(|second| second.first());
    let has_log = second.is_some_and(|second| second <= upto.next_byte());
    let mut lower = history.floors.iter().filter(|it| it.offset < floor.offset);
    let has_floor = lower.any(|it| !it.tells_more_than(floor, &stays));
    !goes.is_empty() || has_stray || has_log || has_floor
}
