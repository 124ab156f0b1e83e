#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects, clippy::panic)]

use super::super::testing::*;
use super::*;
use crate::log::segment::SealHeader;
use crate::store::SharedStore;

const NOW: i64 = 1_700_000_000_000;

on_both_stores!(
    a_seal_takes_in_what_another_writer_has_stored,
    a_seal_comes_after_what_is_known_to_be_stored,
    a_log_that_is_sealed_is_not_sealed_elsewhere,
);

/// A history with a log from byte 100 to byte 300.
async fn archive(store: SharedStore) -> Archive {
    let archive = Archive::open_or_create(store, NOW).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    append(&archive, 100, 200).await;
    append(&archive, 200, 300).await;
    archive
}

async fn append(archive: &Archive, start: u64, end: u64) {
    let (header, body) = segment(meta(1, start, end));
    let mut fence = Fence::default();
    archive.append(&mut fence, &header, body).await.unwrap();
}

async fn seal_there(archive: &Archive, after: u64) -> SealHeader {
    let entry = archive.entry(id(1), after + 1).await.unwrap();
    match entry {
        Some(Entry::Seal(seal)) => seal,
        other => panic!("no seal after {after}: {other:?}"),
    }
}

async fn a_seal_takes_in_what_another_writer_has_stored(store: SharedStore) {
    let archive = archive(store).await;
    // It was found to end at 200.
    let sealed = archive.seal_from(at(1, 200), "why", "me", NOW).await;
    assert_eq!(sealed.unwrap(), at(1, 300));
    let seal = seal_there(&archive, 300).await;
    assert_eq!((seal.reason.as_str(), seal.writer.as_str()), ("why", "me"));
}

async fn a_seal_comes_after_what_is_known_to_be_stored(store: SharedStore) {
    let archive = archive(store).await;
    for known in [100, 300] {
        let sealed = archive.seal_end(at(1, known), "why", "me", NOW).await;
        assert_eq!(sealed.unwrap(), at(1, 300), "{known}");
    }
    seal_there(&archive, 300).await;
}

async fn a_log_that_is_sealed_is_not_sealed_elsewhere(store: SharedStore) {
    let archive = archive(store).await;
    archive
        .seal(id(1), Offset(300), "first", "other", NOW)
        .await
        .unwrap();
    for known in [100, 200, 300] {
        let sealed = archive.seal_end(at(1, known), "why", "me", NOW).await;
        assert_eq!(sealed.unwrap(), at(1, 300), "{known}");
    }
    assert_eq!(seal_there(&archive, 300).await.writer, "other");
}
