#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::super::testing::*;
use super::*;
use crate::log::segment::{self, ClockBack};
use crate::store::MemoryStore;

/// A log of segments of 100 bytes each, from a base at 100 on.
async fn archive_of(segments: u64) -> (MemoryStore, Archive) {
    let store = MemoryStore::new();
    // Long before what a test makes.
    store.set_clock(Some(-(super::super::GRACE_MS as i64)));
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (1..=segments + 1).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    (store, archive)
}

async fn runs(archive: &Archive) -> Vec<Run> {
    let mut runs = archive.runs(id(1), None).await.unwrap();
    let mut all = Vec::new();
    while let Some(run) = runs.next().await.unwrap() {
        all.push(run);
    }
    all
}

async fn ranges(archive: &Archive) -> Vec<(u64, u64)> {
    let runs = runs(archive).await;
    runs.iter()
        .map(|run| run.range().map(|(_, from, to)| (from, to)).unwrap())
        .collect()
}

#[tokio::test]
async fn a_run_ends_at_a_base_at_a_seal_at_the_limit_and_never_holds_the_last_object() {
    let (_, archive) = archive_of(7).await;
    assert_eq!(
        ranges(&archive).await,
        [(101, 600)],
        "the rest is not cut yet"
    );
    // In the middle of a segment.
    base(&archive, 1, 350).await;
    assert_eq!(ranges(&archive).await, [(101, 300)]);
    archive
        .seal(id(1), Offset(800), "why", "who", 0)
        .await
        .unwrap();
    assert_eq!(ranges(&archive).await, [(101, 300), (301, 800)]);
}

#[tokio::test]
async fn a_run_ends_with_its_window_of_time_if_a_command_ends_there() {
    let (_, archive) = archive_of(0).await;
    for (start, minute, boundary) in [
        (100, 0, true),
        (200, 0, true),
        (300, 1, false),
        (400, 1, true),
        (500, 1, true),
        (600, 2, true),
    ] {
        let mut meta = meta(1, start, start + 100);
        meta.marks[0].unix_ms = 1_700_000_000_000 + minute * WINDOW_MS;
        meta.starts_at_boundary = boundary;
        let (header, body) = segment(meta);
        archive.put(&header, body).await.unwrap();
    }
    // Byte 301 is inside of a command: the next one will do.
    assert_eq!(ranges(&archive).await, [(101, 400), (401, 600)]);
}

#[tokio::test]
async fn segments_whose_times_name_no_points_stay_alone() {
    let (_, archive) = archive_of(0).await;
    for (start, went_back) in [
        (100, false),
        (200, false),
        (300, true),
        (400, true),
        (500, false),
    ] {
        let mut meta = meta(1, start, start + 100);
        meta.clock_back = went_back.then_some(ClockBack {
            to_unix_ms: 5,
            now_unix_ms: 6,
        });
        let (header, body) = segment(meta);
        archive.put(&header, body).await.unwrap();
    }
    let wanted = [(101, 300), (301, 400), (401, 500)];
    assert_eq!(ranges(&archive).await, wanted);
    for run in runs(&archive).await {
        archive.merge(&run, "test").await.unwrap();
    }
    let alone = LogObject::span(301, 400).unwrap();
    match archive.entry_of(id(1), alone).await.unwrap() {
        Some(Entry::Segment(header)) => assert!(header.meta.clock_back.is_some()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_merged_over_a_gap_a_bridge_or_damage() {
    let (store, archive) = archive_of(20).await;
    let name = |first| LogObject::segment(first).name(id(1)).to_string();
    store.remove(&name(901));
    let mut found = archive.runs(id(1), None).await.unwrap();
    let mut all = Vec::new();
    while let Some(run) = found.next().await.unwrap() {
        all.push(run.range().map(|(_, from, to)| (from, to)).unwrap());
    }
    assert_eq!(all, [(101, 600)]);
    assert!(found.stopped.is_some());
    // Behind it, from the next base on.
    base(&archive, 1, 1200).await;
    let wanted = [(101, 600), (1201, 1700), (1701, 1900)];
    assert_eq!(ranges(&archive).await, wanted);
    store.corrupt(&name(301), 30, 1);
    assert_eq!(ranges(&archive).await, wanted[1..]);

    let (_, archive) = archive_of(2).await;
    let mut gap = meta(1, 300, 500);
    gap.marks.clear();
    let (header, body) = segment::encode_gap(gap).unwrap();
    archive.put(&header, body).await.unwrap();
    base(&archive, 1, 500).await;
    log(&archive, 1, &[500, 600, 700]).await;
    archive
        .seal(id(1), Offset(700), "why", "who", 0)
        .await
        .unwrap();
    assert_eq!(ranges(&archive).await, [(101, 300), (501, 700)]);
}

#[tokio::test]
async fn a_span_has_all_that_its_segments_have() {
    let (store, archive) = archive_of(12).await;
    let run = runs(&archive).await.remove(0);
    let made = archive.merge(&run, "me").await.unwrap();
    assert_eq!((made.from, made.to, made.segments), (101, 600, 5));
    assert!(made.created && made.raw_bytes == 500);
    let span = LogObject::span(101, 600).unwrap();
    let Some(Entry::Segment(header)) = archive.entry_of(id(1), span).await.unwrap() else {
        panic!("it is no span");
    };
    let meta = &header.meta;
    assert_eq!(meta.marks.len(), 5);
    assert_eq!(meta.marks[4].offset, Offset(600));
    assert_eq!(meta.boundary.unwrap().offset, Offset(600));
    assert_eq!((meta.db_at_start, meta.starts_at_boundary), (1, true));
    let bytes = bytes_of(archive.read_segment(&header).await.unwrap()).await;
    assert_eq!(bytes.unwrap(), feed(100, 600));
    // Another merger finds it.
    let object = store.object(&span.name(id(1)).to_string()).unwrap();
    assert!(!archive.merge(&run, "other").await.unwrap().created);
    assert_eq!(store.object(&span.name(id(1)).to_string()), Some(object));
    // It goes on behind it.
    assert_eq!(ranges(&archive).await, [(601, 1100)]);
}

#[tokio::test]
async fn what_does_not_hold_what_its_segments_hold_does_not_count() {
    let (store, archive) = archive_of(12).await;
    let run = runs(&archive).await.remove(0);
    let span = LogObject::span(101, 600).unwrap();
    let object = span.name(id(1)).to_string();
    // Somebody has made one of other bytes. All its own checksums are right.
    let mut encoder = SpanEncoder::new(1).unwrap();
    let mut payload = Vec::new();
    let out = &mut |frame: Bytes| payload.extend_from_slice(&frame);
    encoder.push(&[7; 500], out).unwrap();
    let (_, header) = encoder.finish(run.meta("other").unwrap(), out).unwrap();
    store.put(&object, [&header[..], &payload].concat());
    let error = archive.merge(&run, "test").await.unwrap_err();
    assert!(matches!(error, MergeError::Differs { .. }), "{error}");
    assert!(store.object(&object).is_some(), "it is not ours");
    // One that reaches into the run, and is cut in another way.
    store.remove(&object);
    let (other, _) = {
        let mut meta = run.meta("other").unwrap();
        meta.end = Offset(650);
        meta.boundary = None;
        meta.marks.clear();
        let mut encoder = SpanEncoder::new(1).unwrap();
        let mut payload = Vec::new();
        let out = &mut |frame: Bytes| payload.extend_from_slice(&frame);
        encoder.push(&feed(100, 650), out).unwrap();
        let (header, frame) = encoder.finish(meta, out).unwrap();
        ([&frame[..], &payload].concat(), header)
    };
    let reaches = LogObject::span(101, 650).unwrap().name(id(1)).to_string();
    store.put(&reaches, other);
    archive.merge(&run, "test").await.unwrap();
    assert!(store.object(&object).is_some(), "their bytes are the same");
}

/// A span of these bytes, whose own checksums are right.
fn span_of(run: &Run, from: u64, to: u64, raw: &[u8]) -> (String, Vec<u8>) {
    let mut meta = run.meta("other").unwrap();
    (meta.start, meta.end) = (Offset(from), Offset(to));
    meta.boundary = None;
    meta.marks.clear();
    let mut encoder = SpanEncoder::new(1).unwrap();
    let mut payload = Vec::new();
    let out = &mut |frame: Bytes| payload.extend_from_slice(&frame);
    encoder.push(raw, out).unwrap();
    let (_, frame) = encoder.finish(meta, out).unwrap();
    let span = LogObject::span(from + 1, to).unwrap();
    (
        span.name(id(1)).to_string(),
        [&frame[..], &payload].concat(),
    )
}

#[tokio::test]
async fn a_span_that_another_one_contradicts_is_withdrawn() {
    let aged = -(super::super::GRACE_MS as i64);
    for (from, to, wrong, created, refused) in [
        (300, 500, false, aged, false),
        // It begins before the run, and ends in it. It has other bytes.
        (0, 300, true, aged, true),
        (0, 300, false, aged, false),
        (500, 650, true, aged, true),
        // It is cut in another way, and has the same bytes.
        (250, 400, false, aged, false),
        (0, 100, true, aged, false),
        // It is so young that it may be the wrong one: nothing went because of it.
        (0, 300, true, aged + 1, true),
    ] {
        let (store, archive) = archive_of(12).await;
        let run = runs(&archive).await.remove(0);
        let mut raw = feed(from, to).to_vec();
        if wrong {
            raw.fill(7);
        }
        let (other, body) = span_of(&run, from, to, &raw);
        store.set_clock(Some(created));
        archive.store.create(&other, body.into()).await.unwrap();
        store.set_clock(Some(0));
        let made = archive.merge(&run, "test").await;
        let span = LogObject::span(101, 600).unwrap();
        let is_there = store.object(&span.name(id(1)).to_string()).is_some();
        assert_eq!(made.is_err(), refused, "{from} {to} {made:?}");
        let goes = refused && created == aged;
        assert_eq!(is_there, !goes, "{from} {to}");
        assert!(store.object(&other).is_some(), "it is not ours");
        if let Err(error) = made {
            assert!(matches!(error, MergeError::Differs { .. }), "{error}");
        }
    }
}

/// Hours may pass before the delete. Its segments may have gone by then, because this span has them.
#[tokio::test]
async fn a_span_that_is_right_is_not_withdrawn_whatever_was_found() {
    let (store, archive) = archive_of(12).await;
    store.set_clock(Some(0));
    let run = runs(&archive).await.remove(0);
    archive.merge(&run, "test").await.unwrap();
    let span = LogObject::span(101, 600).unwrap();
    assert!(!archive.withdraw(id(1), span).await.unwrap());
    // Another one that cannot be read says nothing about it.
    let (other, mut body) = span_of(&run, 0, 300, &feed(0, 300));
    let at = body.len() - 10;
    body[at] ^= 1;
    store.set_clock(Some(-(super::super::GRACE_MS as i64)));
    archive.store.create(&other, body.into()).await.unwrap();
    store.set_clock(Some(0));
    assert!(!archive.withdraw(id(1), span).await.unwrap());
    // Whoever finds it, and has read something else.
    let found = MergeError::Differs {
        object: String::new(),
        reason: String::new(),
    };
    let told = archive.or_withdrawn(id(1), span, Err(found)).await;
    assert!(matches!(told, Err(MergeError::Differs { .. })), "{told:?}");
    assert!(store.object(&span.name(id(1)).to_string()).is_some());
}

#[tokio::test]
async fn the_last_span_is_compared_before_the_log_is_merged_behind_it() {
    let (store, archive) = archive_of(12).await;
    let run = runs(&archive).await.remove(0);
    let (other, body) = span_of(&run, 100, 600, &[7; 500]);
    for (created, goes, damaged) in [
        (0, true, false),
        (0, true, true),
        // It is older than what may be withdrawn.
        (-(super::super::GRACE_MS as i64) / 8, false, false),
        // A clock that went back.
        (1, false, false),
    ] {
        store.set_clock(Some(created));
        archive
            .store
            .create(&other, body.clone().into())
            .await
            .unwrap();
        if damaged {
            store.corrupt(&other, body.len() - 10, 1);
        }
        store.set_clock(Some(0));
        let checked = archive.check_last_span(id(1)).await;
        assert!(checked.unwrap_err().is_of_one_log());
        assert_eq!(store.object(&other).is_none(), goes, "{created}");
        store.remove(&other);
    }
    // Nobody has its bytes any more.
    store.set_clock(Some(0));
    archive.store.create(&other, body.into()).await.unwrap();
    let span = LogObject::span(101, 600).unwrap();
    store.remove(&LogObject::segment(301).name(id(1)).to_string());
    assert!(!archive.withdraw(id(1), span).await.unwrap());
    archive.check_last_span(id(1)).await.unwrap();
    assert!(store.object(&other).is_some());
    // A store that says no times keeps everything. One that refuses is no error.
    let (store, archive) = archive_of(12).await;
    let (other, body) = span_of(&run, 100, 600, &[7; 500]);
    store.set_clock(None);
    archive
        .store
        .create(&other, body.clone().into())
        .await
        .unwrap();
    assert!(!archive.withdraw(id(1), span).await.unwrap());
    store.remove(&other);
    store.set_clock(Some(0));
    archive.store.create(&other, body.into()).await.unwrap();
    store.lock(&other, true);
    let error = archive.check_last_span(id(1)).await.unwrap_err();
    assert!(matches!(error, MergeError::Differs { .. }), "{error}");
    assert!(store.object(&other).is_some());
}

#[tokio::test]
async fn merging_begins_at_the_highest_floor() {
    let (store, archive) = archive_of(12).await;
    for first in [101, 201, 301] {
        store.remove(&LogObject::segment(first).name(id(1)).to_string());
    }
    let mut found = archive.runs(id(1), None).await.unwrap();
    assert!(found.next().await.unwrap().is_none() && found.stopped.is_some());
    for offset in [200, 400] {
        archive.create_floor(&floor(1, offset, &[])).await.unwrap();
    }
    let mut found = archive.runs(id(1), None).await.unwrap();
    let run = found.next().await.unwrap().unwrap();
    assert_eq!(
        run.range().map(|(_, from, to)| (from, to)),
        Some((401, 900))
    );
    assert_eq!(found.stopped, None);
}
