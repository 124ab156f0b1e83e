#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::super::testing::*;
use super::*;
use crate::store::MemoryStore;
use crate::store::memory::{Call, Fault};

const HOUR: i64 = 3_600_000;

/// A history with a base at 100.
async fn archive(store: &MemoryStore) -> Archive {
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    archive
}

async fn append(
    archive: &Archive,
    fence: &mut Fence,
    start: u64,
    end: u64,
) -> Result<(), AppendError> {
    let (header, body) = segment(meta(1, start, end));
    archive.append(fence, &header, body).await
}

fn lists(store: &MemoryStore) -> usize {
    let is_list = |call: &&Call| matches!(call, Call::List(_));
    store.calls().iter().filter(is_list).count()
}

fn reads(store: &MemoryStore) -> usize {
    let is_read = |call: &&Call| matches!(call, Call::Read(..));
    store.calls().iter().filter(is_read).count()
}

fn name(first_byte: u64) -> String {
    let history = id(1);
    Name::Log {
        history,
        first_byte,
    }
    .to_string()
}

#[tokio::test]
async fn a_steady_writer_looks_once_and_no_more() {
    let store = MemoryStore::new();
    let archive = archive(&store).await;
    let mut fence = Fence::default();
    append(&archive, &mut fence, 100, 110).await.unwrap();
    let before = (lists(&store), reads(&store));
    assert!(before.0 > 0, "the first one is in doubt");
    for n in 1..=100 {
        store.set_clock(Some(n * 60_000));
        let start = 100 + n as u64 * 10;
        append(&archive, &mut fence, start, start + 10)
            .await
            .unwrap();
    }
    assert_eq!((lists(&store), reads(&store)), before);
    let mut start = 1110;
    let mut next = async |now: Created| {
        store.set_clock(now);
        let before = lists(&store);
        append(&archive, &mut fence, start, start + 10)
            .await
            .unwrap();
        start += 10;
        lists(&store) - before
    };
    // After a pause it looks once, and when the clock of the store goes back.
    for (minutes, looks) in [(114, 0), (129, 1), (143, 0), (0, 1), (1, 0)] {
        assert_eq!(next(Some(minutes * 60_000)).await, looks, "{minutes}");
    }
    // A store that tells no time.
    for (now, looks) in [(None, 1), (None, 1), (Some(0), 1), (Some(0), 0)] {
        assert_eq!(next(now).await, looks, "{now:?}");
    }
}

#[tokio::test]
async fn of_two_writers_the_one_that_comes_second_looks_no_more_often() {
    let store = MemoryStore::new();
    let archive = archive(&store).await;
    let (mut first, mut second) = (Fence::default(), Fence::default());
    let mut before = 0;
    for n in 0..50 {
        store.set_clock(Some(n * 60_000));
        let start = 100 + n as u64 * 10;
        append(&archive, &mut first, start, start + 10)
            .await
            .unwrap();
        let met = append(&archive, &mut second, start, start + 15).await;
        match met.unwrap_err() {
            AppendError::Taken(entry) => assert_eq!(entry.start(), Offset(start)),
            other => panic!("{other:?}"),
        }
        if n == 0 {
            before = lists(&store);
        }
    }
    assert_eq!(lists(&store), before);
}

/// A writer slept after its segment 100..200. Others have stored 200..300, 300..400, and 400..500.
async fn slept(store: &MemoryStore) -> (Archive, Fence) {
    let archive = archive(store).await;
    let mut fence = Fence::default();
    append(&archive, &mut fence, 100, 200).await.unwrap();
    store.set_clock(Some(HOUR));
    log(&archive, 1, &[200, 300, 400, 500]).await;
    store.set_clock(Some(4 * HOUR));
    for first in [101, 201, 301] {
        store.remove(&name(first));
    }
    (archive, fence)
}

#[tokio::test]
async fn a_writer_that_was_passed_finds_out_before_anything_is_acknowledged() {
    for (end, sealed) in [(250, false), (300, true), (450, false), (600, true)] {
        let store = MemoryStore::new();
        let (archive, mut fence) = slept(&store).await;
        if sealed {
            archive
                .seal(id(1), Offset(500), "moved", "other", 0)
                .await
                .unwrap();
            store.remove(&name(401));
        }
        // As often as it tries.
        for _ in 0..2 {
            match append(&archive, &mut fence, 200, end).await.unwrap_err() {
                AppendError::Taken(entry) => {
                    assert!(sealed);
                    assert!(matches!(&*entry, Entry::Seal(seal) if seal.start == Offset(500)));
                }
                AppendError::Passed { next } => assert_eq!((next, sealed), (401, false)),
                AppendError::Archive(error) => panic!("{error}"),
            }
        }
    }
}

#[tokio::test]
async fn what_another_sleeper_created_counts_as_little() {
    let store = MemoryStore::new();
    let (archive, mut fence) = slept(&store).await;
    log(&archive, 1, &[200, 320]).await;
    let met = append(&archive, &mut fence, 200, 250).await.unwrap_err();
    assert!(matches!(met, AppendError::Passed { .. }), "{met:?}");
    // Whoever seals does not go on from it.
    let sealed = archive.seal(id(1), Offset(200), "", "sealer", 0).await;
    assert!(
        matches!(sealed, Err(AppendError::Passed { next: 401 })),
        "{sealed:?}"
    );
    // Nor does a seal of that kind count.
    store.remove(&name(201));
    let sealed = archive.seal(id(1), Offset(200), "", "sleeper", 0).await;
    assert!(
        matches!(sealed, Err(AppendError::Passed { next: 401 })),
        "{sealed:?}"
    );
    let met = append(&archive, &mut fence, 200, 250).await.unwrap_err();
    assert!(matches!(met, AppendError::Passed { .. }), "{met:?}");
}

#[tokio::test]
async fn a_look_that_fails_is_made_again() {
    let store = MemoryStore::new();
    let (archive, mut fence) = slept(&store).await;
    store.remove(&name(401));
    // The log ends here, as far as the store shows.
    store.fail_reads(1, Fault::Transient);
    let failed = append(&archive, &mut fence, 200, 300).await.unwrap_err();
    assert!(failed.is_transient(), "{failed:?}");
    let before = lists(&store);
    append(&archive, &mut fence, 200, 300).await.unwrap();
    assert_eq!(lists(&store) - before, 1);
}

#[tokio::test]
async fn a_seal_that_somebody_deleted_is_made_up_for_by_the_successor() {
    let store = MemoryStore::new();
    let archive = archive(&store).await;
    let mut fence = Fence::default();
    append(&archive, &mut fence, 100, 200).await.unwrap();
    store.set_clock(Some(HOUR));
    archive
        .seal(id(1), Offset(200), "moved", "other", 0)
        .await
        .unwrap();
    let doc = child(2, 1, 200);
    archive.begin_history(&doc, None, "other").await.unwrap();
    store.remove(&name(201));
    match append(&archive, &mut fence, 200, 300).await.unwrap_err() {
        AppendError::Taken(entry) => {
            let Entry::Seal(seal) = *entry else {
                panic!("{entry:?}");
            };
            assert_eq!((seal.start, &*seal.writer), (Offset(200), "other"));
            assert!(seal.reason.contains(id(2).as_str()), "{seal:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_winner_that_is_gone_before_it_is_read_is_no_damage() {
    let store = MemoryStore::new();
    let (archive, mut fence) = slept(&store).await;
    // It is there for the create alone.
    log(&archive, 1, &[200, 300]).await;
    store.vanish(&name(201));
    let met = append(&archive, &mut fence, 200, 250).await.unwrap_err();
    assert!(matches!(met, AppendError::Passed { next: 401 }), "{met:?}");
}
