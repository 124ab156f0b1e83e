//! Small archives in memory for the tests of restores.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use bytes::Bytes;

use crate::archive::{
    Archive, BaseKind, BaseManifest, DbCounts, FORMAT, HistoryDoc, Parent, ServerInfo,
};
use crate::log::segment::{SegmentMeta, encode};
use crate::recovery::{BadBases, Plan, RecoveryError, RecoveryTarget, plan};
use crate::store::memory::MemoryStore;
use crate::wire::crc64::Crc64;
use crate::wire::position::{Boundary, Offset, Position, ReplId, TimeMark};
use crate::wire::resp::{FeedScanner, encode_command};

pub(crate) fn id(byte: u8) -> ReplId {
    ReplId::from_random([byte; 20])
}

pub(crate) fn feed(lines: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        encode_command(
            &line.split(' ').map(str::as_bytes).collect::<Vec<_>>(),
            &mut out,
        );
    }
    out
}

/// An RDB with string keys `k0…` in a database, and a replication position.
pub(crate) fn rdb(db: u8, keys: u8) -> Vec<u8> {
    let mut out = b"REDIS0010".to_vec();
    for (name, value) in [
        ("redis-ver", "7.0.15"),
        ("repl-stream-db", "0"),
        ("repl-id", "x"),
        ("repl-offset", "1"),
    ] {
        out.push(0xFA);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out.extend_from_slice(&[0xFE, db, 0xFB, keys, 0]);
    for key in 0..keys {
        out.extend_from_slice(&[0, 2, b'k', b'0' + key, 1, b'v']);
    }
    out.push(0xFF);
    let mut crc = Crc64::new();
    crc.update(&out);
    out.extend_from_slice(&crc.value().to_le_bytes());
    out
}

/// An archive, and the calls that fill it.
pub(crate) struct Sample {
    pub(crate) store: MemoryStore,
    pub(crate) archive: Archive,
    pub(crate) version: &'static str,
}

impl Sample {
    /// Empty; its servers are Redis of this version.
    pub(crate) async fn new(version: &'static str) -> Self {
        let store = MemoryStore::new();
        let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
        Self {
            store,
            archive,
            version,
        }
    }

    fn server(&self) -> ServerInfo {
        ServerInfo {
            flavour: "redis".into(),
            version: self.version.into(),
        }
    }

    pub(crate) async fn history(&self, id: ReplId, parent: Option<(ReplId, u64)>) {
        let doc = self.doc(id, parent);
        self.archive.create_history(&doc).await.unwrap();
    }

    pub(crate) fn doc(&self, id: ReplId, parent: Option<(ReplId, u64)>) -> HistoryDoc {
        let parent = parent.map(|(history, offset)| Parent {
            history,
            offset: Offset(offset),
            db: 0,
        });
        HistoryDoc {
            format: FORMAT,
            id,
            parent,
            previous: None,
            also_previous: Vec::new(),
            replid: None,
            service: "test".into(),
            server: self.server(),
            run_id: None,
            created_unix_ms: 0,
        }
    }

    pub(crate) async fn base(
        &self,
        history: ReplId,
        offset: u64,
        db: u32,
        created_unix_ms: i64,
    ) -> BaseManifest {
        let at = Position {
            history,
            offset: Offset(offset),
        };
        let mut writer = self.archive.begin_base(at).await.unwrap();
        writer.write(Bytes::from(rdb(3, 2))).await.unwrap();
        let stored = writer.finish().await.unwrap();
        let manifest = BaseManifest {
            format: FORMAT,
            history,
            offset: Offset(offset),
            db,
            kind: BaseKind::Sync,
            raw_bytes: stored.raw_bytes,
            stored_bytes: stored.stored_bytes,
            crc64: BaseManifest::crc64_text(stored.crc64),
            digest: Some(stored.digest.clone()),
            rdb_magic: "REDIS0010".into(),
            rdb_checksum: true,
            server: self.server(),
            created_unix_ms,
            databases: [(
                3,
                DbCounts {
                    keys: 2,
                    expires: 0,
                },
            )]
            .into(),
            types: [("string".to_owned(), 2)].into(),
            functions: 0,
            modules: Vec::new(),
            unwalked_from: None,
            unwalked_reason: None,
            received_unix_ms: None,
        };
        self.archive.commit_base(&manifest).await.unwrap();
        manifest
    }

    /// Stores `bytes`, which begin at the boundary `from`, cut after each of the `cuts` (offsets) and at the end.
    /// `keep` says which segments are stored. The byte at offset n was received at n * 10 ms; each segment says so for
    /// its first and last byte.
    pub(crate) async fn log_with_holes(
        &self,
        history: ReplId,
        from: Boundary,
        bytes: &[u8],
        cuts: &[u64],
        keep: impl Fn(u64) -> bool,
    ) -> Boundary {
        let mut scanner = FeedScanner::new(from);
        let end = from.offset.plus(bytes.len() as u64);
        let mut start = from.offset;
        let mut db = from.db;
        for cut in cuts.iter().map(|cut| Offset(*cut)).chain([end]) {
            let part = &bytes[index(start, from)..index(cut, from)];
            let starts_at_boundary = scanner.boundary().offset == start;
            scanner.scan(part, |command| db = command.db).unwrap();
            let marks = [start.next_byte(), cut.0].map(|n| TimeMark {
                unix_ms: i64::try_from(n).unwrap() * 10,
                offset: Offset(n),
            });
            let meta = SegmentMeta {
                clock_back: None,
                history,
                start,
                end: cut,
                db_at_start: if starts_at_boundary {
                    scanner_db(from, bytes, start)
                } else {
                    db
                },
                starts_at_boundary,
                boundary: Some(scanner.boundary()).filter(|boundary| boundary.offset > start),
                marks: marks.to_vec(),
                writer: "test".into(),
            };
            if keep(start.next_byte()) {
                let (header, body) = encode(meta, &[Bytes::copy_from_slice(part)], 1).unwrap();
                self.archive.put(&header, body).await.unwrap();
            }
            start = cut;
        }
        scanner.boundary()
    }

    pub(crate) async fn log(
        &self,
        history: ReplId,
        from: Boundary,
        bytes: &[u8],
        cuts: &[u64],
    ) -> Boundary {
        self.log_with_holes(history, from, bytes, cuts, |_| true)
            .await
    }

    pub(crate) async fn plan(
        &self,
        history: ReplId,
        recovery_target: RecoveryTarget,
    ) -> Result<Plan, RecoveryError> {
        let catalog = self.archive.catalog().await.unwrap();
        plan(
            &self.archive,
            &catalog,
            history,
            recovery_target,
            &BadBases::new(),
        )
        .await
    }
}

/// The database selected at `at`.
fn scanner_db(from: Boundary, bytes: &[u8], at: Offset) -> u32 {
    let mut scanner = FeedScanner::new(from);
    scanner.scan(&bytes[..index(at, from)], |_| {}).unwrap();
    scanner.boundary().db
}

fn index(offset: Offset, from: Boundary) -> usize {
    usize::try_from(offset.since(from.offset)).unwrap()
}

pub(crate) fn at(offset: u64, db: u32) -> Boundary {
    Boundary {
        offset: Offset(offset),
        db,
    }
}
