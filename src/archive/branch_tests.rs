#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use bytes::Bytes;

use super::super::testing::*;
use super::*;
use crate::log::segment::{self, SegmentMeta};
use crate::store::{MemoryStore, SharedStore};

on_both_stores!(every_boundary_of_a_log_is_found_and_nothing_else);

const BEFORE: u64 = 100;

/// Commands in databases 0 and 5, a transaction, and where one may leave it: offset and database.
fn commands() -> (Bytes, Vec<(u64, u32)>) {
    let mut raw = Vec::new();
    let mut boundaries = vec![(BEFORE, 1)];
    let (mut open, mut db) = (false, 1);
    for command in [
        "SELECT 0", "SET a 1", "MULTI", "SET b 2", "SELECT 5", "SET c 3", "EXEC", "PING", "SET d 4",
    ] {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        crate::wire::resp::encode_command(&words, &mut raw);
        open = command == "MULTI" || (open && command != "EXEC");
        if let Some(number) = command.strip_prefix("SELECT ") {
            db = number.parse().unwrap();
        }
        if !open {
            boundaries.push((BEFORE + raw.len() as u64, db));
        }
    }
    (raw.into(), boundaries)
}

/// The log in segments of `size` bytes, whatever that cuts through.
async fn cut(archive: &Archive, raw: &Bytes, boundaries: &[(u64, u32)], size: usize) {
    let mut start = BEFORE;
    for piece in raw.chunks(size) {
        let end = start + piece.len() as u64;
        let last = |limit: u64| boundaries.iter().rev().find(|(at, _)| *at <= limit);
        let boundary = last(end).filter(|(at, _)| *at > start);
        let meta = SegmentMeta {
            clock_back: None,
            history: id(1),
            start: Offset(start),
            end: Offset(end),
            db_at_start: last(start).unwrap().1,
            starts_at_boundary: last(start).unwrap().0 == start,
            boundary: boundary.map(|&(at, db)| Boundary {
                offset: Offset(at),
                db,
            }),
            marks: Vec::new(),
            writer: "test".to_owned(),
        };
        let (header, body) = segment::encode(meta, &[Bytes::copy_from_slice(piece)], 1).unwrap();
        archive.put(&header, body).await.unwrap();
        start = end;
    }
}

async fn every_boundary_of_a_log_is_found_and_nothing_else(store: SharedStore) {
    let (raw, boundaries) = commands();
    let archive = Archive::open_or_create(store, 0).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, BEFORE).await;
    cut(&archive, &raw, &boundaries, 40).await;
    let catalog = archive.catalog().await.unwrap();
    for offset in BEFORE - 1..=BEFORE + raw.len() as u64 + 1 {
        let found = archive
            .boundary_at(&catalog, id(1), Offset(offset))
            .await
            .unwrap();
        let wanted = boundaries.iter().find(|(at, _)| *at == offset);
        assert_eq!(
            found.map(|boundary| (boundary.offset.0, boundary.db)),
            wanted.copied()
        );
    }
}

#[tokio::test]
async fn nothing_is_left_where_no_base_stands_before() {
    let (raw, boundaries) = commands();
    let archive = Archive::open_or_create(MemoryStore::new().shared(), 0)
        .await
        .unwrap();
    archive.create_history(&history(1)).await.unwrap();
    cut(&archive, &raw, &boundaries, 1000).await;
    let end = BEFORE + raw.len() as u64;
    base(&archive, 1, end - 1).await;
    let catalog = archive.catalog().await.unwrap();
    for (offset, there) in [(boundaries[1].0, false), (end, true)] {
        let found = archive
            .boundary_at(&catalog, id(1), Offset(offset))
            .await
            .unwrap();
        assert_eq!(found.is_some(), there, "{offset}");
    }
    let unknown = archive
        .boundary_at(&catalog, id(2), Offset(end))
        .await
        .unwrap();
    assert_eq!(unknown, None);
}
