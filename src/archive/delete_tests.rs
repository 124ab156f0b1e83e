#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::super::testing::*;
use super::*;
use crate::store::memory::{Call, Fault};
use crate::store::{MemoryStore, SharedStore};

const GRACE: i64 = GRACE_MS as i64;

/// A log of so many segments of 10 bytes each from offset 100 on, created at time 0. It is `GRACE_MS` later.
async fn archive(store: &MemoryStore, segments: u64) -> Archive {
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (0..=segments).map(|n| 100 + n * 10).collect();
    log(&archive, 1, &cuts).await;
    store.set_clock(Some(GRACE));
    archive
}

fn log_of(store: &MemoryStore) -> Vec<u64> {
    let first = |name: &String| match Name::parse(name) {
        Some(Name::Log { first_byte, .. }) => Some(first_byte),
        _ => None,
    };
    store.names().iter().filter_map(first).collect()
}

fn name(first_byte: u64) -> String {
    let history = id(1);
    Name::Log {
        history,
        first_byte,
    }
    .to_string()
}

/// Deletes up to there.
async fn delete(archive: &Archive, upto: u64) -> Deleted {
    let mut deleter = archive.deleter().await.unwrap();
    deleter.log_upto(id(1), Offset(upto)).await.unwrap();
    deleter.deleted().clone()
}

#[tokio::test]
async fn what_ends_at_or_before_the_offset_goes_and_the_rest_stays() {
    for (upto, stay) in [
        (0, vec![101, 111, 121, 131]),
        (109, vec![101, 111, 121, 131]),
        (110, vec![111, 121, 131]),
        (119, vec![111, 121, 131]),
        (130, vec![131]),
        // The last one of the log.
        (140, vec![131]),
        (u64::MAX, vec![131]),
    ] {
        let store = MemoryStore::new();
        let archive = archive(&store, 4).await;
        let deleted = delete(&archive, upto).await;
        assert_eq!(log_of(&store), stay, "{upto}");
        assert_eq!(deleted.objects, 4 - stay.len() as u64);
        assert_eq!(deleted.bytes > 0, stay.len() < 4);
        assert_eq!((deleted.denied, deleted.young), (0, 0));
    }
}

#[tokio::test]
async fn a_seal_alone_stays_and_so_does_a_log_of_one() {
    let store = MemoryStore::new();
    let archive = archive(&store, 2).await;
    archive
        .seal(id(1), Offset(120), "test", "test", 0)
        .await
        .unwrap();
    for _ in 0..2 {
        delete(&archive, u64::MAX).await;
        assert_eq!(log_of(&store), [121]);
    }
}

#[tokio::test]
async fn deletes_ascend_and_a_batch_waits_for_the_one_before() {
    let store = MemoryStore::new();
    let count = 3 * BATCH as u64 + 5;
    let archive = archive(&store, count).await;
    let before = store.calls().len();
    let deleted = delete(&archive, u64::MAX).await;
    assert_eq!(deleted.objects, count - 1);
    assert_eq!(log_of(&store), [101 + (count - 1) * 10]);
    let calls = store.calls().split_off(before);
    let mut names: Vec<String> = Vec::new();
    let mut batch = 0;
    for call in calls {
        match call {
            Call::Delete(name) if name.contains("/log/") => {
                names.push(name);
                batch += 1;
                assert!(batch <= BATCH, "no list between");
            }
            Call::List(_) => batch = 0,
            _ => {}
        }
    }
    assert_eq!(names.len() as u64, count - 1);
    assert!(names.is_sorted(), "{names:?}");
}

#[tokio::test]
async fn what_is_younger_than_the_grace_stays_and_what_comes_after_it() {
    let store = MemoryStore::new();
    let archive = archive(&store, 5).await;
    for (now, stay) in [
        (GRACE - 1, vec![101, 111, 121, 131, 141]),
        // The clock of the store went back.
        (-GRACE, vec![101, 111, 121, 131, 141]),
    ] {
        store.set_clock(Some(now));
        let deleted = delete(&archive, u64::MAX).await;
        assert_eq!(log_of(&store), stay);
        assert_eq!((deleted.objects, deleted.young), (0, 1));
    }
    // A sleeper created it anew.
    store.set_clock(Some(GRACE));
    store.remove(&name(121));
    let (header, body) = segment(meta(1, 120, 130));
    archive.put(&header, body).await.unwrap();
    let deleted = delete(&archive, u64::MAX).await;
    assert_eq!(log_of(&store), [121, 131, 141]);
    assert_eq!((deleted.objects, deleted.young), (2, 1));
}

#[tokio::test]
async fn without_times_nothing_is_deleted() {
    let store = MemoryStore::new();
    let archive = archive(&store, 5).await;
    store.set_clock(None);
    let error = archive.deleter().await.unwrap_err();
    assert!(matches!(error, ArchiveError::Timeless { .. }), "{error}");
    assert_eq!(log_of(&store).len(), 5);
    // It tells times again, but not of what it has.
    store.remove(&name(101));
    let (header, body) = segment(meta(1, 100, 110));
    archive.put(&header, body).await.unwrap();
    store.set_clock(Some(10 * GRACE));
    let deleted = delete(&archive, u64::MAX).await;
    assert_eq!(log_of(&store).len(), 5);
    assert_eq!((deleted.objects, deleted.young), (0, 1));
}

#[tokio::test]
async fn a_refusal_is_counted_and_what_comes_after_its_batch_stays() {
    for refuses in [true, false] {
        let store = MemoryStore::new();
        let archive = archive(&store, 3 * BATCH as u64).await;
        store.lock(&name(111), refuses);
        let deleted = delete(&archive, u64::MAX).await;
        let stay = log_of(&store);
        assert_eq!(stay[0], 111);
        assert_eq!(stay[1], 101 + 10 * BATCH as u64, "{stay:?}");
        assert_eq!(deleted.denied, 1);
        let reason = deleted.denied_reason.unwrap();
        assert!(reason.contains(&name(111)), "{reason}");
        // The next run tries it again, and goes on behind it.
        store.unlock(&name(111));
        assert_eq!(delete(&archive, u64::MAX).await.denied, 0);
        assert_eq!(log_of(&store).len(), 1);
    }
}

#[tokio::test]
async fn the_object_that_tells_the_time_goes_at_once_or_later() {
    let store = MemoryStore::new();
    let archive = archive(&store, 1).await;
    let of_clock = |store: &MemoryStore| {
        let names = store.names();
        let clock = names.into_iter().filter(|name| name.starts_with("clock/"));
        clock.collect::<Vec<String>>()
    };
    assert_eq!(archive.store_now().await.unwrap(), Some(GRACE));
    assert_eq!(of_clock(&store), [""; 0]);
    // A process died between the two.
    let left = Name::Clock(id(7)).to_string();
    store.shared().create(&left, Bytes::new()).await.unwrap();
    for (now, stay) in [(2 * GRACE - 1, 1), (2 * GRACE, 0)] {
        store.set_clock(Some(now));
        let mut deleter = archive.deleter().await.unwrap();
        deleter.sweep_clock().await.unwrap();
        assert_eq!(of_clock(&store).len(), stay);
    }
    let catalog = archive.catalog().await.unwrap();
    assert!(catalog.problems.is_empty());
}

#[tokio::test]
async fn a_store_that_is_away_is_an_error() {
    let store = MemoryStore::new();
    let archive = archive(&store, 3).await;
    store.fail_creates(1, Fault::Transient);
    assert!(archive.deleter().await.unwrap_err().is_transient());
    assert_eq!(log_of(&store).len(), 3);
}

on_both_stores!(now_is_when_the_store_creates);

async fn now_is_when_the_store_creates(store: SharedStore) {
    let archive = Archive::open_or_create(store.clone(), 0).await.unwrap();
    let now = archive.store_now().await.unwrap().unwrap();
    let created = store.create("later", Bytes::new()).await.unwrap();
    assert!(created.unwrap().abs_diff(now) < 60_000);
    let names: Vec<ObjectMeta> = store.list("", None).await.try_collect().await.unwrap();
    assert_eq!(names.len(), 2, "{names:?}");
}

const DAY: i64 = FLOOR_GRACE_MS as i64;

/// Bases at 100, 150, 200 and 250, a log from 100 to 300 in steps of 10, and a floor at 200.
async fn with_floor(store: &MemoryStore, alone: &[u64]) -> (Archive, Floor) {
    let archive = archive(store, 20).await;
    store.set_clock(Some(0));
    for offset in [150, 200, 250] {
        base(&archive, 1, offset).await;
    }
    let doc = super::super::testing::floor(1, 200, alone);
    archive.create_floor(&doc).await.unwrap();
    let floors = archive.floors(id(1)).await.unwrap();
    store.set_clock(Some(DAY));
    (archive, floors.highest().unwrap().clone())
}

/// Offsets of data and of manifests.
fn bases_of(store: &MemoryStore) -> (Vec<u64>, Vec<u64>) {
    let (mut data, mut manifests) = (Vec::new(), Vec::new());
    for name in store.names() {
        match Name::parse(&name) {
            Some(Name::BaseData(at)) => data.push(at.offset.0),
            Some(Name::BaseManifest(at)) => manifests.push(at.offset.0),
            _ => {}
        }
    }
    (data, manifests)
}

async fn below(archive: &Archive, floor: &Floor, stay: &Stay) -> Deleted {
    let mut deleter = archive.deleter().await.unwrap();
    deleter.below(id(1), floor, stay).await.unwrap();
    deleter.deleted().clone()
}

#[tokio::test]
async fn below_a_floor_everything_goes_that_nothing_needs() {
    let needs = |bases: &[u64], log_after: Option<u64>| Stay {
        bases: bases.iter().copied().map(Offset).collect(),
        log_after: log_after.map(Offset),
    };
    for (alone, stay, bases, first) in [
        (&[][..], needs(&[], None), vec![200, 250], 201),
        // Alone: without its log.
        (&[150], needs(&[], None), vec![150, 200, 250], 201),
        // Needed: with its log.
        (&[], needs(&[150], None), vec![150, 200, 250], 151),
        (&[150], needs(&[150], None), vec![150, 200, 250], 151),
        (&[150], needs(&[100], None), vec![100, 150, 200, 250], 101),
        (&[], needs(&[], Some(125)), vec![200, 250], 121),
        (&[], needs(&[150], Some(140)), vec![150, 200, 250], 141),
    ] {
        let store = MemoryStore::new();
        let (archive, floor) = with_floor(&store, alone).await;
        below(&archive, &floor, &stay).await;
        assert_eq!(bases_of(&store), (bases.clone(), bases));
        assert_eq!(log_of(&store)[0], first, "{alone:?} {stay:?}");
        assert_eq!(archive.floors(id(1)).await.unwrap().iter().count(), 1);
    }
}

#[tokio::test]
async fn a_young_floor_and_one_that_cannot_be_read_do_nothing() {
    for (now, reads) in [(DAY - 1, true), (DAY, false)] {
        let store = MemoryStore::new();
        let (archive, mut floor) = with_floor(&store, &[]).await;
        store.set_clock(Some(now));
        floor.doc = floor.doc.filter(|_| reads);
        let deleted = below(&archive, &floor, &Stay::default()).await;
        assert_eq!(deleted, Deleted::default());
        assert_eq!((log_of(&store).len(), bases_of(&store).0.len()), (20, 4));
    }
}

#[tokio::test]
async fn what_a_manifest_that_is_locked_needs_stays() {
    let store = MemoryStore::new();
    let (archive, floor) = with_floor(&store, &[]).await;
    store.lock(&Name::BaseManifest(at(1, 150)).to_string(), true);
    let deleted = below(&archive, &floor, &Stay::default()).await;
    assert_eq!(deleted.denied, 1);
    assert_eq!(log_of(&store)[0], 151);
    assert_eq!(bases_of(&store).0, [150, 200, 250]);
}

#[tokio::test]
async fn manifests_go_first_and_data_last() {
    let store = MemoryStore::new();
    let (archive, floor) = with_floor(&store, &[]).await;
    let before = store.calls().len();
    below(&archive, &floor, &Stay::default()).await;
    let mut order = Vec::new();
    for call in store.calls().split_off(before) {
        let Call::Delete(name) = call else { continue };
        order.push(match Name::parse(&name) {
            Some(Name::BaseManifest(_)) => 1,
            Some(Name::Log { .. }) => 2,
            Some(Name::BaseData(_)) => 3,
            _ => continue,
        });
    }
    assert!(order.is_sorted(), "{order:?}");
    assert_eq!(order.len(), 2 + 10 + 2);
}

#[tokio::test]
async fn data_without_a_manifest_stays_for_a_week() {
    const WEEK: i64 = UNFINISHED_MS as i64;
    let store = MemoryStore::new();
    let archive = archive(&store, 1).await;
    store.remove(&Name::BaseManifest(at(1, 100)).to_string());
    for (now, stays) in [(WEEK - 1, true), (WEEK, false)] {
        store.set_clock(Some(now));
        let mut deleter = archive.deleter().await.unwrap();
        deleter.sweep_unfinished(id(1)).await.unwrap();
        assert_eq!(!bases_of(&store).0.is_empty(), stays);
    }
}

#[tokio::test]
async fn spans_below_a_floor_go_as_far_as_nothing_needs_them() {
    for (needed, first) in [(&[][..], 201), (&[150], 151)] {
        let store = MemoryStore::new();
        let (archive, floor) = with_floor(&store, &[]).await;
        store.set_clock(Some(0));
        // They were made before there was a floor.
        let name = Name::Floor(at(1, floor.offset.0)).to_string();
        let above = store.object(&name).unwrap();
        store.remove(&name);
        let mut runs = archive.runs(id(1), None).await.unwrap();
        while let Some(run) = runs.next().await.unwrap() {
            archive.merge(&run, "test").await.unwrap();
        }
        store.put(&name, above);
        store.set_clock(Some(DAY));
        let stay = Stay {
            bases: needed.iter().copied().map(Offset).collect(),
            log_after: None,
        };
        below(&archive, &floor, &stay).await;
        let span = |name: &String| match Name::parse(name) {
            Some(Name::Span { first_byte, .. }) => Some(first_byte),
            _ => None,
        };
        let spans: Vec<u64> = store.names().iter().filter_map(span).collect();
        assert_eq!((spans[0], log_of(&store)[0]), (first, first));
        assert_eq!(*spans.last().unwrap(), 201);
    }
}
