//! A year of one service: some busy minutes each day, accidents, and the upkeep of every night. Bases are made, the log
//! is merged, segments that spans have are deleted, and a policy expires what is old.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;

use super::director::{Director, Troubles, merge_all};
use super::expiry::{begin_expiry, end_expiry, hold_something};
use super::store::Weather;
use super::{failure, failures, note, restoring, store, with};
use crate::archive::{Archive, Name};
use crate::config::KeepPolicy;
use crate::runtime::simulated::{between, once_in, pick};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Until then the archive grows to its full size: what is kept, and what waits for its floor to be a day old.
const FULL: u64 = 60;

/// Any point of a week, and bases of two more weeks.
const POLICY: KeepPolicy = KeepPolicy {
    points: Duration::from_secs(7 * 24 * 3600),
    daily: 14,
    weekly: 4,
    monthly: 0,
    // Less than bases stay alone: some are in what has lost.
    superseded: Duration::from_secs(10 * 24 * 3600),
};

/// In so many times as many objects as at first, there is room for lines that lost within the days of `superseded`: each new full
/// sync begins a line, and what was before it stays whole for so long.
const BOUND: u64 = 3;

/// On these days the store is away from morning to morning, and nothing of what runs at night can.
const OUTAGES: [u64; 4] = [30, 31, 175, 300];

/// A split brain: a replica is promoted, and so many bytes of writes still go to the old master, and are lost.
const SPLIT: u64 = 20_000;

/// Runs so many days.
pub(crate) async fn direct(days: u64) -> Result<(), String> {
    let mut director = Director::new(Troubles {
        links: true,
        kills: true,
        store: true,
        failovers: true,
        losses: false,
        second: false,
        consolidates: false,
        spool: false,
        takeovers: false,
        crashes: false,
        snapshots: false,
        clocks: false,
    });
    director.capture.flush_interval = Duration::from_millis(500);
    with(|sim| {
        sim.nodes[0].version = 7;
        sim.rots = false;
    });
    tokio::spawn(failures::ping());
    let mut largest = 0;
    for day in 0..days {
        accident(&mut director, day).await?;
        if OUTAGES.contains(&day) {
            without_a_store(&mut director).await?;
        } else {
            busy_minutes(&mut director).await?;
            night(&mut director).await?;
        }
        failure()?;
        let objects = with(|sim| sim.objects.clone());
        let data = data_objects(day);
        if day <= FULL {
            largest = largest.max(data);
        } else if data > largest * BOUND {
            return Err(format!(
                "{data} objects of data after {day} days, and {largest} at most in the first {FULL}"
            ));
        }
        restoring::check(objects, day % 30 == 29).await?;
        with(|sim| sim.stood_still_ms += DAY.as_millis() as i64);
    }
    let objects = director.end().await?;
    restoring::check(objects, true).await
}

async fn busy_minutes(director: &mut Director) -> Result<(), String> {
    director.work(between(2, 6), 4).await
}

async fn without_a_store(director: &mut Director) -> Result<(), String> {
    for _ in 0..240 {
        let master = director.master;
        with(|sim| {
            sim.store_weather = Weather {
                fails: 1,
                ..Weather::FAIR
            };
            sim.clients(master, u64::from(once_in(4)));
        });
        sleep(Duration::from_secs(1)).await;
        director.look_after().await?;
    }
    Ok(())
}

/// What does not happen each day.
async fn accident(director: &mut Director, day: u64) -> Result<(), String> {
    match day {
        40 | 200 => director.master = failures::lose_everything(director.master),
        110 | 230 => director.master = failures::fail_over(director.master, SPLIT),
        20 | 120 => hold_something(day).await?,
        // The RDB of the day before is loaded: what came after it has lost.
        69 | 149 | 259 => director.saved = director.as_it_is(),
        70 | 150 | 260 => {
            if let Some(saved) = director.saved.take() {
                director.master = failures::crash(director.master, &saved);
            }
        }
        90 => {
            // A clock is two days ahead. It is right again in the evening.
            with(|sim| {
                sim.wrong_clocks
                    .insert("a".to_owned(), 2 * DAY.as_millis() as i64)
            });
        }
        _ => {}
    }
    Ok(())
}

/// The upkeep. A store that fails is right again before it.
async fn night(director: &mut Director) -> Result<(), String> {
    director.calm().await?;
    for _ in 0..pick(&[20, 60]) {
        let master = director.master;
        with(|sim| sim.clients(master, u64::from(once_in(4))));
        sleep(Duration::from_secs(1)).await;
        director.look_after().await?;
    }
    director.consolidate();
    for _ in 0..120 {
        if director.consolidation.is_none() {
            break;
        }
        sleep(Duration::from_secs(1)).await;
        director.look_after().await?;
    }
    if let Ok(archive) = Archive::open(store::store()).await {
        merge_all(&archive, true)
            .await
            .map_err(|error| format!("merging: {error}"))?;
    }
    director.started += 1;
    end_expiry(vec![begin_expiry(
        director.started,
        "redis:6379",
        POLICY,
        false,
    )])
    .await
}

/// Bases, log and spans. Documents of histories stay, and are few.
fn data_objects(day: u64) -> u64 {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    with(|sim| {
        for name in sim.objects.keys() {
            let kind = match Name::parse(name) {
                Some(Name::Log { .. }) => "log",
                Some(Name::Span { .. }) => "spans",
                Some(
                    Name::BaseData(_)
                    | Name::BaseManifest(_)
                    | Name::BaseVerdict(_)
                    | Name::Drill { .. },
                ) => "bases",
                Some(Name::Floor(_)) => "floors",
                _ => "documents",
            };
            *kinds.entry(kind).or_default() += 1;
        }
    });
    note(|| format!("day {day}: {kinds:?}"));
    if day.is_multiple_of(30) {
        eprintln!("day {day}: {kinds:?}");
    }
    kinds
        .iter()
        .filter(|(kind, _)| **kind != "documents")
        .map(|(_, count)| *count)
        .sum()
}
