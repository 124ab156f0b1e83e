//! For the tests of the archive.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;

use super::*;
use crate::log::segment::{self, SegmentHeader, SegmentMeta};
use crate::wire::crc64::Crc64;
use crate::wire::position::{Boundary, Offset, Position, ReplId, TimeMark};

/// Makes of each `async fn(SharedStore)` one test on the memory store and one on the file store.
macro_rules! on_both_stores {
    ($($name:ident),* $(,)?) => {
        mod on_memory {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::store::MemoryStore::new().shared()).await;
            })*
        }
        mod on_files {
            $(#[tokio::test]
            async fn $name() {
                let directory = tempfile::tempdir().unwrap();
                let store = $crate::store::FileStore::open(directory.path()).unwrap();
                super::$name(std::sync::Arc::new(store)).await;
            })*
        }
    };
}
pub(super) use on_both_stores;

/// The feed of every history: byte number `n` is the same whoever writes it.
pub(super) fn feed(start: u64, end: u64) -> Bytes {
    (start + 1..=end).map(|n| (n % 251) as u8).collect()
}

pub(super) fn id(n: u8) -> ReplId {
    ReplId::from_random([n; 20])
}

pub(super) fn at(n: u8, offset: u64) -> Position {
    Position {
        history: id(n),
        offset: Offset(offset),
    }
}

pub(super) fn history(n: u8) -> HistoryDoc {
    HistoryDoc {
        format: FORMAT,
        id: id(n),
        parent: None,
        previous: None,
        also_previous: Vec::new(),
        replid: None,
        service: "redis:6379".to_owned(),
        server: ServerInfo {
            flavour: "redis".to_owned(),
            version: "7.0.15".to_owned(),
        },
        run_id: None,
        created_unix_ms: 1_700_000_000_000,
    }
}

pub(super) fn child(n: u8, parent: u8, offset: u64) -> HistoryDoc {
    HistoryDoc {
        parent: Some(Parent {
            history: id(parent),
            offset: Offset(offset),
            db: 3,
        }),
        ..history(n)
    }
}

pub(super) fn manifest(n: u8, offset: u64, kind: BaseKind, stored: &StoredBase) -> BaseManifest {
    BaseManifest {
        format: FORMAT,
        history: id(n),
        offset: Offset(offset),
        db: 1,
        kind,
        raw_bytes: stored.raw_bytes,
        stored_bytes: stored.stored_bytes,
        crc64: BaseManifest::crc64_text(stored.crc64),
        digest: Some(stored.digest.clone()),
        rdb_magic: "REDIS0010".to_owned(),
        rdb_checksum: true,
        server: history(n).server,
        created_unix_ms: 1_700_000_000_000,
        databases: [(
            0,
            DbCounts {
                keys: 2,
                expires: 1,
            },
        )]
        .into(),
        types: [("string".to_owned(), 2)].into(),
        functions: 0,
        modules: Vec::new(),
        unwalked_from: None,
        unwalked_reason: None,
        received_unix_ms: None,
    }
}

impl FloorDoc {
    /// A floor at this base, of its history, which is also the newest point.
    pub(crate) fn at_base(base: Position) -> Self {
        Self {
            format: FORMAT,
            history: base.history,
            offset: base.offset,
            as_of_unix_ms: 0,
            base,
            digest: None,
            alone: BTreeSet::new(),
            tip: base,
            policy: "keep 7d".to_owned(),
            writer: "test".to_owned(),
            created_unix_ms: 0,
        }
    }
}

/// A floor, and the bases below it that stay alone.
pub(super) fn floor(n: u8, offset: u64, alone: &[u64]) -> FloorDoc {
    FloorDoc {
        alone: alone.iter().copied().map(Offset).collect(),
        tip: at(n, 1000),
        ..FloorDoc::at_base(at(n, offset))
    }
}

/// A base of these bytes, with its manifest.
pub(super) async fn base_of(archive: &Archive, n: u8, offset: u64, raw: &Bytes) -> BaseManifest {
    let mut writer = archive.begin_base(at(n, offset)).await.unwrap();
    writer.write(raw.clone()).await.unwrap();
    let stored = writer.finish().await.unwrap();
    assert_eq!(stored.raw_bytes, raw.len() as u64);
    assert_eq!(stored.crc64, Crc64::of(raw));
    let manifest = manifest(n, offset, BaseKind::Sync, &stored);
    archive.commit_base(&manifest).await.unwrap();
    manifest
}

/// A small base.
pub(super) async fn base(archive: &Archive, n: u8, offset: u64) -> BaseManifest {
    base_of(archive, n, offset, &Bytes::from_static(b"REDIS0010...")).await
}

pub(super) fn meta(n: u8, start: u64, end: u64) -> SegmentMeta {
    SegmentMeta {
        clock_back: None,
        history: id(n),
        start: Offset(start),
        end: Offset(end),
        db_at_start: 1,
        starts_at_boundary: true,
        boundary: Some(Boundary {
            offset: Offset(end),
            db: 2,
        }),
        marks: vec![TimeMark {
            unix_ms: 1_700_000_000_000 + end as i64,
            offset: Offset(end),
        }],
        writer: "test".to_owned(),
    }
}

pub(super) fn segment(meta: SegmentMeta) -> (SegmentHeader, Bytes) {
    let raw = feed(meta.start.0, meta.end.0);
    segment::encode(meta, &[raw], 1).unwrap()
}

/// Segments `(cuts[0], cuts[1]]`, `(cuts[1], cuts[2]]`, …
pub(super) async fn log(archive: &Archive, n: u8, cuts: &[u64]) {
    for pair in cuts.windows(2) {
        let (header, body) = segment(meta(n, pair[0], pair[1]));
        archive.put(&header, body).await.unwrap();
    }
}

pub(super) async fn bytes_of(stream: RawStream) -> Result<Bytes, ArchiveError> {
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    let mut all = BytesMut::new();
    for piece in pieces {
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

pub(super) async fn object(archive: &Archive, name: &str) -> Bytes {
    let wanted = 1 << 40;
    archive.read_range(name, wanted).await.unwrap().unwrap()
}

/// What nobody but a vandal does.
pub(super) async fn replace(archive: &Archive, name: &str, body: impl Into<Bytes>) {
    archive.store.delete(name).await.unwrap();
    archive.store.create(name, body.into()).await.unwrap();
}
