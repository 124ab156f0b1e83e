//! Restores from what is stored at the moment, by the program's own code, held against what really was.

use bytes::Bytes;
use futures::TryStreamExt;

use super::model::{Model, text};
use super::oracle::CLOCK_MS;
use super::redis::parse;
use super::store::{Objects, span_of};
use super::{BEGAN_MS, with};
use crate::archive::{Archive, Catalog, Name};
use crate::log::segment::{self, Entry};
use crate::rebuild::{self, Limits, Stand};
use crate::recovery::{self, BadBases, LogForm, Plan, RecoveryError, RecoveryTarget};
use crate::runtime::simulated::{between, once_in, pick};
use crate::store::MemoryStore;
use crate::wire::crc64::Crc64;
use crate::wire::position::ReplId;

const LIMITS: Limits = Limits {
    memory: 1 << 30,
    log: u64::MAX,
};

/// Opens what lies in the store, and restores from it: one point, or (`all`) several of each history.
pub(crate) async fn check(objects: Objects, all: bool) -> Result<(), String> {
    if !objects.contains_key("archive.json") {
        return Ok(());
    }
    let store = spoilt(objects).await?;
    let archive = Archive::open(store.shared())
        .await
        .map_err(|error| format!("the archive does not open: {error}"))?;
    let catalog = archive.catalog().await.map_err(|error| error.to_string())?;
    check_catalog(&catalog)?;
    let restorable = with(|sim| sim.oracle.restorable());
    if restorable.is_empty() {
        return Ok(());
    }
    let chosen = if all {
        restorable
    } else {
        vec![pick(&restorable)]
    };
    for (id, first, end) in chosen {
        if with(|sim| sim.oracle.is_given_up(id, end)) {
            continue;
        }
        let log_end = archive.log_end(&catalog, id).await;
        let log_end = log_end.map_err(|error| format!("{id}: no end of its log: {error}"))?;
        if log_end.boundary.offset.0 != end {
            let found = log_end.boundary.offset;
            return Err(format!(
                "{id}: its log is found to end at {found}, and ends at {end}"
            ));
        }
        let acknowledged = with(|sim| sim.oracle.acknowledged.get(&id).copied());
        if acknowledged.is_some_and(|at| at > end) {
            return Err(format!(
                "{id}: {acknowledged:?} was acknowledged, and {end} is stored"
            ));
        }
        let mut wanted = vec![if once_in(2) { end } else { between(first, end) }];
        if all {
            wanted.push(end);
            wanted.dedup();
        }
        for _ in 0..if all { 6 } else { 1 } {
            check_time(&archive, &catalog, id)
                .await
                .map_err(|error| format!("{id}: {error}"))?;
        }
        for upto in wanted {
            restore_at(&archive, &catalog, id, upto)
                .await
                .map_err(|error| format!("{id} at {upto}: {error}"))?;
        }
    }
    Ok(())
}

/// A copy of what lies in the store, in which most of the spans whose segments stand are damaged. What is restored is the same.
async fn spoilt(objects: Objects) -> Result<MemoryStore, String> {
    let store = MemoryStore::new();
    let into = store.shared();
    for (name, body) in &objects {
        let body = match how_spoilt(name).filter(|_| its_segments_stand(&objects, name)) {
            Some(how) => {
                with(|sim| sim.oracle.counts.spoilt += 1);
                spoil(how, body)
            }
            None => body.clone(),
        };
        store.set_clock(with(|sim| {
            let created = sim.times.get(name).copied();
            created.filter(|_| !sim.is_timeless)
        }));
        let created = into.create(name, body).await;
        created.map_err(|error| error.to_string())?;
    }
    Ok(store)
}

/// No number of the seed's is taken for it: a seed stays what it was.
fn how_spoilt(name: &str) -> Option<u64> {
    let how = Crc64::of(name.as_bytes()) % 4;
    (how < 3).then_some(how)
}

fn spoil(how: u64, body: &Bytes) -> Bytes {
    let mut spoilt = body.to_vec();
    match how {
        0 => spoilt[body.len() - 1] ^= 1,
        // In its header.
        1 => spoilt[40] ^= 1,
        _ => spoilt.truncate(body.len() - 7),
    }
    spoilt.into()
}

/// Is it a span, and is there each of the segments that it was made of?
fn its_segments_stand(objects: &Objects, name: &str) -> bool {
    let Some((history, first_byte, last_byte)) = span_of(name) else {
        return false;
    };
    // What is created under a deleted name is younger.
    let is_older = |other: &str| with(|sim| sim.births.get(other) < sim.births.get(name));
    let mut next = first_byte;
    while next <= last_byte {
        let segment = Name::Log {
            history,
            first_byte: next,
        };
        let segment = segment.to_string();
        let body = objects.get(&segment).filter(|_| is_older(&segment));
        let entry = body.map(|body| segment::decode_entry(body));
        match entry {
            Some(Ok(Some((Entry::Segment(header), _)))) => next = header.meta.end.0 + 1,
            _ => return false,
        }
    }
    next == last_byte + 1
}

/// What the service wrote last is its latest.
pub(crate) async fn check_latest(
    objects: Objects,
    key: Option<ReplId>,
    service: &str,
) -> Result<(), String> {
    let store = MemoryStore::new();
    for (name, body) in objects {
        store.put(&name, body);
    }
    let archive = Archive::open(store.shared())
        .await
        .map_err(|error| error.to_string())?;
    let catalog = archive.catalog().await.map_err(|error| error.to_string())?;
    let latest = catalog.latest(Some(service));
    if latest != Ok(key) {
        return Err(format!("the latest is {latest:?}, and should be {key:?}"));
    }
    with(|sim| sim.oracle.counts.latest += 1);
    Ok(())
}

fn check_catalog(catalog: &Catalog) -> Result<(), String> {
    if let Some((id, why)) = catalog.unreadable.first_key_value() {
        return Err(format!("history {id} cannot be read: {why}"));
    }
    let of_histories = catalog.histories.values().flat_map(|at| &at.problems);
    let mut damage = of_histories.filter(|problem| problem.is_damage());
    damage
        .next()
        .map_or(Ok(()), |problem| Err(problem.to_string()))
}

/// A time leads to what had been received by then, or to nothing.
async fn check_time(archive: &Archive, catalog: &Catalog, id: ReplId) -> Result<(), String> {
    let (began, now) = (BEGAN_MS, with(|sim| sim.now_ms()));
    let time = between(began as u64, now as u64) as i64;
    let Some(least) = with(|sim| sim.stored_by(id, time - CLOCK_MS)) else {
        return Ok(());
    };
    let recovery_target = RecoveryTarget::AtUnixMs(time);
    match recovery::plan(archive, catalog, id, recovery_target, &BadBases::new()).await {
        Ok(plan) => {
            let end = plan.end.offset.0;
            let line = with(|sim| sim.oracle.line(id));
            let written = with(|sim| sim.truth.written(line, end));
            let ago = now - time;
            if written.is_some_and(|written| written > time + CLOCK_MS) {
                return Err(format!(
                    "{ago} ms ago is taken for offset {end}, which was written {written:?}, after {time}"
                ));
            }
            let boundary = with(|sim| sim.truth.boundary(line, least));
            if Some(end) < boundary {
                return Err(format!(
                    "{ago} ms ago ({time}) is taken for offset {end}, and {least} was stored before"
                ));
            }
            with(|sim| sim.oracle.counts.times += 1);
            Ok(())
        }
        Err(RecoveryError::ClockWentBack(_)) => {
            with(|sim| sim.oracle.counts.times_refused += 1);
            Ok(())
        }
        Err(RecoveryError::BeforeOldest { .. }) if least == 0 => Ok(()),
        Err(RecoveryError::SteppedOver { .. } | RecoveryError::Gap { .. }) => Ok(()),
        Err(error) => Err(format!("{time}: {error}")),
    }
}

async fn restore_at(
    archive: &Archive,
    catalog: &Catalog,
    id: ReplId,
    upto: u64,
) -> Result<(), String> {
    let none_bad = BadBases::new();
    let line = with(|sim| sim.oracle.line(id));
    let boundary = with(|sim| sim.truth.boundary(line, upto)).ok_or("no boundary before it")?;
    if !with(|sim| sim.oracle.holds(id, boundary)) {
        // In a gap: nothing that ends before it may be given instead.
        let plan = recovery::plan(
            archive,
            catalog,
            id,
            RecoveryTarget::Offset(boundary),
            &none_bad,
        )
        .await;
        return match plan {
            Ok(plan) => Err(format!(
                "it is not stored, and the plan ends at {}",
                plan.end.offset
            )),
            Err(_) => Ok(()),
        };
    }
    let within = with(|sim| sim.oracle.logs(id, upto));
    let recovery_target = RecoveryTarget::Offset(if within { upto } else { boundary });
    let plan = recovery::plan(archive, catalog, id, recovery_target, &none_bad).await;
    let mut plan = match plan {
        Err(RecoveryError::Expired { .. }) if with(|sim| sim.oracle.is_expired(id, upto)) => {
            with(|sim| sim.oracle.counts.expired += 1);
            return Ok(());
        }
        plan => plan.map_err(|error| error.to_string())?,
    };
    if plan.end.offset.0 != boundary {
        return Err(format!(
            "the plan ends at {}, and not at {boundary}",
            plan.end.offset
        ));
    }
    plan.set_relative_ttls(true);
    let wanted = with(|sim| sim.truth.state(line, boundary).cloned()).ok_or("no state")?;
    let found = rebuilt(archive, &plan).await?;
    if let Some(wrong) = wanted.difference(&found, with(|sim| sim.late_ms())) {
        return Err(format!("rebuilt: {wrong}"));
    }
    if once_in(3) {
        let found = replayed(archive, &plan).await?;
        if let Some(wrong) = wanted.difference(&found, with(|sim| sim.late_ms())) {
            return Err(format!("replayed: {wrong}"));
        }
    }
    with(|sim| sim.oracle.counts.restores += 1);
    Ok(())
}

/// As an RDB file is made.
async fn rebuilt(archive: &Archive, plan: &Plan) -> Result<Model, String> {
    let source = recovery::source(archive, plan);
    let survey = rebuild::survey(&source, LIMITS)
        .await
        .map_err(|error| error.to_string())?;
    if let Some(stop) = &survey.stop {
        return Err(stop.to_string());
    }
    let chunks: Vec<_> = rebuild::write(source, survey, Stand::Nowhere, LIMITS)
        .try_collect()
        .await
        .map_err(|error| error.to_string())?;
    Model::read(&chunks.concat())
}

/// As a server is restored: snapshot, then commands.
async fn replayed(archive: &Archive, plan: &Plan) -> Result<Model, String> {
    let collected = recovery::snapshot(archive, &plan.base, true).await;
    let (_, content) = collected.map_err(|error| error.to_string())?;
    let chunks: Vec<_> = content
        .try_collect()
        .await
        .map_err(|error| error.to_string())?;
    let mut model = Model::read(&chunks.concat())?;
    let log = recovery::log(archive, plan, LogForm::Replay);
    let chunks: Vec<_> = log.try_collect().await.map_err(|error| error.to_string())?;
    let bytes = chunks.concat();
    let (mut rest, mut db) = (&bytes[..], 0);
    while let Some((argv, length)) = parse(rest) {
        let name = argv[0].to_ascii_uppercase();
        if [&b"EXPIRE"[..], b"PEXPIRE", b"SETEX"].contains(&&name[..]) {
            return Err(format!("a relative expiry is replayed: {:?}", text(name)));
        }
        model.execute(&mut db, &argv, 0);
        rest = &rest[length..];
    }
    if !rest.is_empty() {
        return Err("half a command is replayed".to_owned());
    }
    Ok(model)
}
