#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::indexing_slicing
)]

use super::*;

const NOON: i64 = 1_767_268_800_000; // 2026-01-01T12:00:00Z

fn id(byte: u8) -> ReplId {
    ReplId::from_random([byte; 20])
}

fn redis() -> ServerInfo {
    ServerInfo {
        flavour: "redis".to_owned(),
        version: "7.0.15".to_owned(),
    }
}

fn amount(objects: u64, bytes: u64) -> Amount {
    Amount { objects, bytes }
}

fn history(byte: u8) -> HistoryListing {
    HistoryListing {
        id: id(byte),
        tip: false,
        service: "sidecar".to_owned(),
        server: redis(),
        created_unix_ms: NOON,
        parent: None,
        previous: None,
        also_previous: Vec::new(),
        replid: None,
        restorable: Vec::new(),
        bases: Vec::new(),
        segments: 0,
        log: Amount::default(),
        stored_offset: None,
        sealed: None,
        expired: Vec::new(),
        problems: Vec::new(),
        notes: Vec::new(),
    }
}

fn two_histories() -> Listing {
    let base = BaseListing {
        offset: Offset(14),
        created_unix_ms: NOON,
        consolidated_from: None,
        keys: 1000,
        expires: 7,
        databases: BTreeMap::from([(
            0,
            DbCounts {
                keys: 1000,
                expires: 7,
            },
        )]),
        raw_bytes: 1_500_000,
        stored_bytes: 900,
        rdb_magic: "REDIS0010".to_owned(),
        server: redis(),
        verified: false,
        drilled: None,
        unwalked_from: None,
    };
    let stretch = |from: u64, to: u64| Stretch {
        from_offset: Offset(from),
        from_unix_ms: NOON,
        to_offset: Offset(to),
        to_unix_ms: NOON + 90_500,
    };
    let root = HistoryListing {
        restorable: vec![stretch(14, 500)],
        bases: vec![base],
        segments: 4,
        log: amount(6, 1500),
        stored_offset: Some(Offset(500)),
        sealed: Some(Sealed {
            after_offset: Offset(500),
            reason: "served to a fresh Redis".to_owned(),
            writer: "pod-b".to_owned(),
            sealed_unix_ms: NOON + 100_000,
        }),
        expired: vec![Expired {
            before_offset: Offset(14),
            deleted_from_unix_ms: Some(NOON + 24 * 3_600_000),
        }],
        ..history(0xaa)
    };
    let child = HistoryListing {
        tip: true,
        parent: Some(Parent {
            history: id(0xaa),
            offset: Offset(500),
            db: 0,
        }),
        restorable: vec![stretch(500, 620)],
        segments: 1,
        log: amount(1, 90),
        stored_offset: Some(Offset(620)),
        problems: vec!["histories/x: is damaged".to_owned()],
        ..history(0xbb)
    };
    Listing {
        latest: Some(id(0xbb)),
        histories: vec![root, child],
        bases: amount(1, 900),
        log: amount(7, 1590),
        total: amount(11, 2600),
        holds: vec![HoldListing {
            name: "before-upgrade".parse().unwrap(),
            point: Position {
                history: id(0xbb),
                offset: Offset(600),
            },
            as_of_unix_ms: Some(NOON),
        }],
        ..Listing::empty("file:///bucket".to_owned())
    }
}

#[test]
fn each_history_is_a_block_that_people_can_read() {
    let expected = "\
file:///bucket: 2 histories

history aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  source    sidecar (redis 7.0.15), since 2026-01-01T12:00:00.000Z
  base      offset 14, 2026-01-01T12:00:00.000Z: 1000 keys (7 with expiry), 1.4 MiB, stored in 900 bytes
  restore   2026-01-01T12:00:00.000Z to 2026-01-01T12:01:30.500Z, offsets 14 to 500
  log       6 objects, 1.4 KiB, stored to offset 500
            merged: 4 objects to read
  sealed    2026-01-01T12:01:40.000Z by pod-b: served to a fresh Redis
  expired   points before offset 14: deleted from 2026-01-02T12:00:00.000Z on, unless held

history bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  (latest)
  source    sidecar (redis 7.0.15), since 2026-01-01T12:00:00.000Z
  parent    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, left at offset 500
  restore   2026-01-01T12:00:00.000Z to 2026-01-01T12:01:30.500Z, offsets 500 to 620
  log       1 object, 90 bytes, stored to offset 620
  PROBLEM   histories/x: is damaged

in all 2.5 KiB: 900 bytes of bases, 1.5 KiB of log; 11 objects

hold before-upgrade: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb:600, 2026-01-01T12:00:00.000Z
";
    assert_eq!(two_histories().to_string(), expected);
}

#[test]
fn a_log_that_ends_at_a_time_to_come_is_told() {
    let mut listing = two_histories();
    listing.compare_clock(NOON + 90_000);
    assert!(!listing.to_string().contains("note"), "{listing}");
    listing.compare_clock(NOON - 86_400_000);
    let text = listing.to_string();
    let note = "\n  note      its last time, 2026-01-01T12:01:30.500Z, has not come yet";
    assert_eq!(text.matches(note).count(), 2, "{text}");
}

#[test]
fn several_tips_are_marked_and_asked_about() {
    let mut listing = two_histories();
    listing.latest = None;
    listing.ambiguous = vec![id(0xaa), id(0xbb)];
    listing.unreadable = BTreeMap::from([(id(0xcc), "history.json is truncated".to_owned())]);
    let text = listing.to_string();
    assert!(text.contains("bbbb  (tip)\n"), "{text}");
    assert!(
        text.contains("2 histories could be the latest: name one with --history"),
        "{text}"
    );
    assert!(
        text.contains("\n  PROBLEM   history.json is truncated\n"),
        "{text}"
    );
}

#[test]
fn the_json_has_the_documented_names() {
    let json = serde_json::to_value(two_histories()).unwrap();
    assert_eq!(json["latest"], id(0xbb).as_str());
    let root = &json["histories"][0];
    assert_eq!(root["restorable"][0]["from_offset"], 14);
    assert_eq!(root["restorable"][0]["to_unix_ms"], NOON + 90_500);
    assert_eq!(root["bases"][0]["keys"], 1000);
    assert_eq!(root["sealed"]["after_offset"], 500);
    assert_eq!(json["histories"][1]["parent"]["offset"], 500);
    assert_eq!(json["histories"][1]["sealed"], serde_json::Value::Null);
}

#[test]
fn an_empty_store_says_so() {
    assert_eq!(
        Listing::empty("file:///b".to_owned()).to_string(),
        "file:///b: no backups yet\n"
    );
}

#[test]
fn sizes_and_times_are_short() {
    for (bytes, text) in [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (5 << 30, "5.0 GiB"),
        (u64::MAX, "15.9 EiB"),
    ] {
        assert_eq!(Size(bytes).to_string(), text);
    }
    assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
    assert_eq!(Time(i64::MAX).to_string(), "9223372036854775807 ms");
}

mod gathered {
    use bytes::Bytes;

    use super::*;
    use crate::archive::{FORMAT, HistoryDoc};
    use crate::log::segment::{self, SegmentMeta};
    use crate::store::MemoryStore;
    use crate::wire::position::{Boundary, TimeMark};

    async fn archive() -> (MemoryStore, Archive) {
        let store = MemoryStore::new();
        let archive = Archive::open_or_create(store.shared(), NOON).await.unwrap();
        (store, archive)
    }

    async fn history(archive: &Archive, id: ReplId, parent: Option<Parent>) {
        let doc = HistoryDoc {
            format: FORMAT,
            id,
            parent,
            previous: None,
            also_previous: Vec::new(),
            replid: None,
            service: "h:1".to_owned(),
            server: redis(),
            run_id: None,
            created_unix_ms: NOON + if parent.is_some() { 60_000 } else { 0 },
        };
        archive.create_history(&doc).await.unwrap();
    }

    async fn base(archive: &Archive, history: ReplId, offset: u64, unix_ms: i64) {
        let at = Position {
            history,
            offset: Offset(offset),
        };
        let mut writer = archive.begin_base(at).await.unwrap();
        writer
            .write(Bytes::from_static(b"REDIS0010"))
            .await
            .unwrap();
        let stored = writer.finish().await.unwrap();
        let manifest = BaseManifest {
            format: FORMAT,
            history,
            offset: Offset(offset),
            db: 0,
            kind: BaseKind::Sync,
            raw_bytes: stored.raw_bytes,
            stored_bytes: stored.stored_bytes,
            crc64: BaseManifest::crc64_text(stored.crc64),
            digest: Some(stored.digest.clone()),
            rdb_magic: "REDIS0010".to_owned(),
            rdb_checksum: true,
            server: redis(),
            created_unix_ms: unix_ms,
            databases: BTreeMap::from([
                (
                    0,
                    DbCounts {
                        keys: 5,
                        expires: 1,
                    },
                ),
                (
                    3,
                    DbCounts {
                        keys: 2,
                        expires: 2,
                    },
                ),
            ]),
            types: BTreeMap::new(),
            functions: 0,
            modules: Vec::new(),
            unwalked_from: None,
            unwalked_reason: None,
            received_unix_ms: None,
        };
        archive.commit_base(&manifest).await.unwrap();
    }

    async fn segment(archive: &Archive, history: ReplId, start: u64, end: u64, unix_ms: i64) {
        let meta = SegmentMeta {
            clock_back: None,
            history,
            start: Offset(start),
            end: Offset(end),
            db_at_start: 0,
            starts_at_boundary: true,
            boundary: Some(Boundary {
                offset: Offset(end),
                db: 0,
            }),
            marks: vec![TimeMark {
                unix_ms,
                offset: Offset(end),
            }],
            writer: "w".to_owned(),
        };
        let bytes = vec![b'x'; usize::try_from(end - start).unwrap()];
        let (header, body) = segment::encode(meta, &[Bytes::from(bytes)], 1).unwrap();
        archive.put(&header, body).await.unwrap();
    }

    fn offsets(listing: &Listing, nth: usize) -> Vec<(u64, u64)> {
        let stretches = listing.histories[nth].restorable.iter();
        stretches
            .map(|stretch| (stretch.from_offset.0, stretch.to_offset.0))
            .collect()
    }

    async fn gather(archive: &Archive) -> Listing {
        Listing::gather(archive, "memory:".to_owned())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_child_goes_on_where_it_left_its_sealed_parent() {
        let (_store, archive) = archive().await;
        history(&archive, id(1), None).await;
        base(&archive, id(1), 10, NOON).await;
        segment(&archive, id(1), 10, 50, NOON + 1_000).await;
        segment(&archive, id(1), 50, 70, NOON + 2_000).await;
        archive
            .seal(id(1), Offset(70), "moved", "w", NOON + 3_000)
            .await
            .unwrap();
        let parent = Parent {
            history: id(1),
            offset: Offset(70),
            db: 0,
        };
        history(&archive, id(2), Some(parent)).await;
        segment(&archive, id(2), 70, 90, NOON + 90_000).await;

        let listing = gather(&archive).await;
        assert_eq!(listing.latest, Some(id(2)));
        assert_eq!(offsets(&listing, 0), [(10, 70)]);
        assert_eq!(listing.histories[0].restorable[0].to_unix_ms, NOON + 2_000);
        assert_eq!(
            listing.histories[0].sealed.as_ref().unwrap().reason,
            "moved"
        );
        assert_eq!(
            (
                listing.histories[0].bases[0].keys,
                listing.histories[0].bases[0].expires
            ),
            (7, 3)
        );
        assert_eq!(offsets(&listing, 1), [(70, 90)]);
        assert!(listing.histories[1].tip && !listing.histories[0].tip);
    }

    #[tokio::test]
    async fn a_gap_before_a_second_base_ends_a_stretch_and_no_gap_does_not() {
        for (resumed_at, expected) in [(60, vec![(10, 50), (60, 80)]), (50, vec![(10, 80)])] {
            let (_store, archive) = archive().await;
            history(&archive, id(1), None).await;
            base(&archive, id(1), 10, NOON).await;
            segment(&archive, id(1), 10, 50, NOON + 1_000).await;
            base(&archive, id(1), resumed_at, NOON + 2_000).await;
            segment(&archive, id(1), resumed_at, 80, NOON + 3_000).await;
            assert_eq!(offsets(&gather(&archive).await, 0), expected);
        }
    }

    #[tokio::test]
    async fn what_is_damaged_is_told_and_the_rest_is_shown() {
        let (store, archive) = archive().await;
        history(&archive, id(1), None).await;
        history(&archive, id(2), None).await;
        base(&archive, id(2), 10, NOON).await;
        segment(&archive, id(2), 10, 50, NOON).await;
        let segment = store
            .names()
            .into_iter()
            .find(|name| name.ends_with(".resp.zst"))
            .unwrap();
        store.truncate(&segment, 20);
        let listing = gather(&archive).await;
        assert_eq!(offsets(&listing, 0), []);
        let text = listing.to_string();
        assert!(
            text.contains("restore   nothing: there is no complete base"),
            "{text}"
        );
        assert!(
            text.contains("PROBLEM") && text.contains(&segment),
            "{text}"
        );
    }
}
