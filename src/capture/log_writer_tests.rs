//! The log while its store is away. The test sets the clock, so minutes take no time.

#![allow(
    clippy::unwrap_used,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing
)]

use tokio::time::timeout;

use super::*;
use crate::store::MemoryStore;
use crate::store::memory::{Call, Fault};
use crate::wire::position::ReplId;
use crate::wire::resp::encode_command;

/// Tries of an outage: with pauses of up to ten seconds, the last tries come many minutes after the first.
const TRIES: usize = 90;

async fn writer(store: &MemoryStore, status: &Status) -> LogWriter {
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    let boundary = Boundary {
        offset: Offset(100),
        db: 0,
    };
    let history = ReplId::from_random([7; 20]);
    LogWriter::start(
        LogBuffer::new(history, boundary, Offset(100), 0, "w".into()),
        archive,
        CaptureConfig::default(),
        (None, None),
        status.clone(),
        Arc::new(|| 0),
    )
}

fn set() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_command(&[b"SET", b"key", b"value"], &mut bytes);
    bytes
}

fn push(writer: &LogWriter) -> u64 {
    let bytes = set();
    let length = bytes.len() as u64;
    let now = Moment {
        unix_ms: 0,
        instant: Instant::now(),
    };
    writer.push(bytes.into(), now).unwrap();
    length
}

fn log_creates(store: &MemoryStore) -> usize {
    let of_log = |call: &Call| matches!(call, Call::Create(name) if name.contains("/log/"));
    store.calls().iter().filter(|call| of_log(call)).count()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_minutes_loses_nothing_and_acknowledges_nothing() {
    for (fault, ready) in [(Fault::Transient, true), (Fault::Permanent, false)] {
        let store = MemoryStore::new();
        let status = Status::new();
        let writer = writer(&store, &status).await;
        status.phase(crate::monitoring::status::Phase::Following, "");
        store.fail_creates(TRIES, fault);
        let begun = Instant::now();
        let end = 100 + push(&writer);
        writer.flush();
        // More comes meanwhile.
        assert!(
            timeout(Duration::from_secs(300), writer.drain())
                .await
                .is_err()
        );
        let end = end + push(&writer);
        let view = status.view();
        assert_eq!(view.stored_offset, Some(100), "nothing counts as stored");
        assert!(view.store_error.unwrap().contains("cannot create"));
        assert_eq!(view.ready, ready, "{fault:?}");
        assert!(writer.failing().is_some());

        assert!(writer.drain().await);
        let lasted = begun.elapsed();
        // 90 tries without pauses that grow would take 9 seconds, without a cap for ever.
        assert!(lasted > Duration::from_secs(600), "{lasted:?}");
        assert!(
            lasted < Duration::from_secs(TRIES as u64 * 10),
            "{lasted:?}"
        );
        let view = status.view();
        assert_eq!(view.stored_offset, Some(end));
        assert_eq!((view.store_error, view.ready), (None, true));
        assert_eq!(status.metrics().store_errors.get(), TRIES as u64);
        // What failed, and the two segments at last.
        assert_eq!(log_creates(&store), TRIES + 2);
    }
}

/// So many `SET`s as one segment of another writer of the same feed, in the store before ours.
async fn by_another(store: &MemoryStore, sets: usize) -> u64 {
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    others_segment(&archive, Offset(100), sets).await.0
}

/// The same after `start`. Returns its end.
async fn others_segment(archive: &Archive, start: Offset, sets: usize) -> Offset {
    let body = set().repeat(sets);
    let end = start.plus(body.len() as u64);
    let meta = SegmentMeta {
        clock_back: None,
        history: ReplId::from_random([7; 20]),
        start,
        end,
        db_at_start: 0,
        starts_at_boundary: true,
        boundary: Some(Boundary { offset: end, db: 0 }),
        marks: Vec::new(),
        writer: "other".into(),
    };
    let (header, body) = segment::encode(meta, &[body.into()], 1).unwrap();
    archive.put(&header, body).await.unwrap();
    end
}

#[tokio::test]
async fn what_a_faster_writer_has_stored_counts_up_to_where_that_ends_and_no_further() {
    for (theirs, ours) in [(1, 3), (3, 1), (2, 2)] {
        let store = MemoryStore::new();
        let writer = writer(&store, &Status::new()).await;
        let taken = by_another(&store, theirs).await;
        let mut end = 100;
        for _ in 0..ours {
            end += push(&writer);
        }
        assert!(writer.drain().await);
        let stored = writer.buffer(|buffer| buffer.stored().offset.0);
        assert_eq!(stored, end.max(taken), "{theirs} {ours}");
        // Ours goes on behind theirs: what they lack is in the store.
        let names = store.names();
        let segments = names.iter().filter(|name| name.contains("/log/"));
        let wanted = if ours > theirs { 2 } else { 1 };
        assert_eq!(segments.count(), wanted, "{theirs} {ours}: {names:?}");
        if ours > theirs {
            let behind = format!("/log/{:020}.", taken + 1);
            assert!(names.iter().any(|name| name.contains(&behind)), "{names:?}");
        }
    }
}

/// It slept for hours: another one has stored more, and has deleted what it began with.
#[tokio::test]
async fn a_writer_that_was_passed_counts_nothing_as_stored() {
    for sealed in [false, true] {
        let store = MemoryStore::new();
        let status = Status::new();
        let writer = writer(&store, &status).await;
        let end = 100 + push(&writer);
        assert!(writer.drain().await);
        // The same feed, and another segment after it.
        let archive = Archive::open(store.shared()).await.unwrap();
        let mut at = Offset(end);
        for _ in 0..2 {
            at = others_segment(&archive, at, 1).await;
        }
        if sealed {
            let id = ReplId::from_random([7; 20]);
            archive.seal(id, at, "moved", "other", 0).await.unwrap();
        }
        let names = store.names();
        let log: Vec<&String> = names.iter().filter(|name| name.contains("/log/")).collect();
        log[..log.len() - 1]
            .iter()
            .for_each(|name| store.remove(name));
        store.set_clock(Some(4 * 3_600_000));
        for _ in 0..3 {
            push(&writer);
        }
        assert!(!writer.drain().await);
        assert!(!writer.is_of_use());
        assert_eq!(
            (writer.superseded().is_some(), writer.passed().is_some()),
            (sealed, !sealed)
        );
        assert_eq!(status.view().stored_offset, Some(end));
        let acknowledged = writer.buffer(|buffer| buffer.acknowledge(false, true));
        assert_eq!(acknowledged, Offset(end));
    }
}

#[tokio::test]
async fn nothing_is_stored_before_the_snapshot_counts() {
    let store = MemoryStore::new();
    let status = Status::new();
    let writer = writer(&store, &status).await;
    writer.hold();
    let end = 100 + push(&writer);
    writer.flush();
    let waited = timeout(Duration::from_millis(100), writer.drain()).await;
    assert!(waited.is_err(), "{:?}", store.names());
    assert_eq!(log_creates(&store), 0);
    writer.release();
    assert!(writer.drain().await);
    assert_eq!(status.view().stored_offset, Some(end));
}
