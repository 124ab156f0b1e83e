#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::super::super::testing::*;
use super::super::super::{Archive, Deleted};
use super::*;
use crate::store::MemoryStore;
use crate::store::memory::Call;
use crate::wire::position::Offset;

const GRACE: i64 = GRACE_MS as i64;

/// A log of so many segments of 100 bytes from offset 100 on, created at time 0, and its spans, created at a second time.
async fn merged(segments: u64, at: i64) -> (MemoryStore, Archive) {
    let store = MemoryStore::new();
    store.set_clock(Some(0));
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (1..=segments + 1).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    store.set_clock(Some(at));
    let mut runs = archive.runs(id(1), None).await.unwrap();
    while let Some(run) = runs.next().await.unwrap() {
        archive.merge(&run, "test").await.unwrap();
    }
    (store, archive)
}

fn log_of(store: &MemoryStore) -> Vec<u64> {
    let first = |name: &String| match Name::parse(name) {
        Some(Name::Log { first_byte, .. }) => Some(first_byte),
        _ => None,
    };
    store.names().iter().filter_map(first).collect()
}

fn spans_of(store: &MemoryStore) -> Vec<String> {
    let mut names = store.names();
    names.retain(|name| name.contains("/span/"));
    names
}

async fn delete(archive: &Archive) -> Deleted {
    let mut deleter = archive.deleter().await.unwrap();
    deleter.merged(id(1)).await.unwrap();
    deleter.deleted().clone()
}

#[tokio::test]
async fn what_spans_have_goes_in_ascending_batches_when_both_are_old_enough() {
    let (store, archive) = merged(14, 5000).await;
    let all = log_of(&store);
    assert_eq!(spans_of(&store).len(), 2);
    for (now, goes) in [(GRACE, false), (GRACE + 4999, false), (GRACE + 5000, true)] {
        store.set_clock(Some(now));
        let begun = store.calls().len();
        let deleted = delete(&archive).await;
        assert_eq!(deleted.young > 0, !goes, "{now}");
        let calls = store.calls().split_off(begun);
        let mut order: Vec<&String> = Vec::new();
        for call in &calls {
            if let Call::Delete(name) = call
                && name.contains("/log/")
            {
                order.push(name);
            }
        }
        assert!(order.is_sorted());
        assert_eq!(deleted.objects, if goes { 10 } else { 0 }, "{now}");
    }
    assert_eq!(log_of(&store), all[10..]);
    let catalog = archive.catalog().await.unwrap();
    let end = archive.log_end(&catalog, id(1)).await.unwrap();
    assert_eq!(end.end, Offset(1500));
}

#[tokio::test]
async fn a_span_that_does_not_have_what_its_segments_have_frees_nothing() {
    for at in [0, 1] {
        let (store, archive) = merged(14, 0).await;
        store.set_clock(Some(GRACE));
        let spans = spans_of(&store);
        let length = store.object(&spans[at]).unwrap().len();
        store.corrupt(&spans[at], length - 10, 0x10);
        let mut deleter = archive.deleter().await.unwrap();
        assert!(deleter.merged(id(1)).await.is_err());
        assert_eq!(deleter.deleted().objects, at as u64 * 5);
        assert_eq!(log_of(&store)[0], 101 + at as u64 * 500);
    }
    // Another one in its place, whose own checksums are right.
    let (store, archive) = merged(14, 0).await;
    store.set_clock(Some(GRACE));
    let mut wrong = meta(1, 100, 200);
    wrong.marks.clear();
    let raw = bytes::Bytes::from(vec![7; 100]);
    let (_, other) = crate::log::segment::encode(wrong, &[raw], 1).unwrap();
    replace(
        &archive,
        &LogObject::segment(101).name(id(1)).to_string(),
        other,
    )
    .await;
    store.set_clock(Some(2 * GRACE));
    let mut deleter = archive.deleter().await.unwrap();
    let error = deleter.merged(id(1)).await.unwrap_err();
    assert!(matches!(error, MergeError::Differs { .. }), "{error}");
    assert_eq!(log_of(&store).len(), 14);
}

#[tokio::test]
async fn the_last_object_of_a_log_stays_even_if_a_span_has_it() {
    let (store, archive) = merged(5, 0).await;
    archive
        .seal(id(1), Offset(600), "why", "who", 0)
        .await
        .unwrap();
    let mut runs = archive.runs(id(1), None).await.unwrap();
    while let Some(run) = runs.next().await.unwrap() {
        archive.merge(&run, "test").await.unwrap();
    }
    store.set_clock(Some(GRACE));
    let seal = LogObject::segment(601).name(id(1)).to_string();
    // Against all rules.
    store.remove(&seal);
    assert_eq!(delete(&archive).await.objects, 4);
    assert_eq!(log_of(&store), [501]);
    archive
        .seal(id(1), Offset(600), "why", "who", 0)
        .await
        .unwrap();
    assert_eq!(delete(&archive).await.objects, 1);
    assert_eq!(log_of(&store), [601]);
}

#[tokio::test]
async fn nothing_goes_behind_what_is_in_no_span_and_what_is_stale_is_no_obstacle() {
    let (store, archive) = merged(14, 0).await;
    store.set_clock(Some(GRACE));
    assert_eq!(delete(&archive).await.objects, 10);
    // Somebody who slept creates an object that reaches beyond the next one.
    let (header, body) = segment(meta(1, 900, 1150));
    archive.put(&header, body).await.unwrap();
    store.set_clock(Some(2 * GRACE));
    assert_eq!(delete(&archive).await.objects, 1);
    assert_eq!(log_of(&store)[0], 1101);

    // What a sleeper leaves may end before the next object. A seal may have an object behind it.
    let (store, archive) = merged(14, 0).await;
    store.set_clock(Some(GRACE));
    let name = |first| LogObject::segment(first).name(id(1)).to_string();
    for first in [101, 201] {
        store.remove(&name(first));
    }
    let (header, body) = segment(meta(1, 100, 150));
    archive.put(&header, body).await.unwrap();
    assert!(
        archive
            .seal(id(1), Offset(200), "why", "who", 0)
            .await
            .is_err()
    );
    assert!(store.object(&name(201)).is_some());
    store.set_clock(Some(2 * GRACE));
    assert_eq!(delete(&archive).await.objects, 10);
    assert_eq!(log_of(&store)[0], 1101);
    // It goes only when the span was read.
    let (store, archive) = merged(14, 0).await;
    store.remove(&name(201));
    let span = spans_of(&store).remove(0);
    let length = store.object(&span).unwrap().len();
    store.corrupt(&span, length - 10, 1);
    store.set_clock(Some(GRACE));
    let mut deleter = archive.deleter().await.unwrap();
    assert!(deleter.merged(id(1)).await.is_err());
    assert_eq!(log_of(&store)[0], 101);

    let (store, archive) = merged(14, 0).await;
    store.remove(&spans_of(&store)[0]);
    store.set_clock(Some(GRACE));
    assert_eq!(delete(&archive).await.objects, 0);
    assert_eq!(log_of(&store).len(), 14);
}
