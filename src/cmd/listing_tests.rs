#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

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

fn history(byte: u8) -> HistoryListing {
    HistoryListing {
        id: id(byte),
        tip: false,
        service: "sidecar".to_owned(),
        server: redis(),
        created_unix_ms: NOON,
        parent: None,
        previous: None,
        restorable: Vec::new(),
        bases: Vec::new(),
        segments: 0,
        stored_offset: None,
        sealed: None,
        problems: Vec::new(),
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
        stored_offset: Some(Offset(500)),
        sealed: Some(Sealed {
            after_offset: Offset(500),
            reason: "served to a fresh Redis".to_owned(),
            writer: "pod-b".to_owned(),
            sealed_unix_ms: NOON + 100_000,
        }),
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
        stored_offset: Some(Offset(620)),
        problems: vec!["histories/x: is damaged".to_owned()],
        ..history(0xbb)
    };
    Listing {
        latest: Some(id(0xbb)),
        histories: vec![root, child],
        ..Listing::empty("file:///bucket".to_owned())
    }
}

#[test]
fn each_history_is_a_block_that_people_can_read() {
    let expected = "\
file:///bucket: 2 histories

history aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
  source    sidecar (redis 7.0.15), since 2026-01-01T12:00:00Z
  base      offset 14, 2026-01-01T12:00:00Z: 1000 keys (7 with expiry), 1.4 MiB, stored in 900 bytes
  restore   2026-01-01T12:00:00Z to 2026-01-01T12:01:30Z, offsets 14 to 500
  log       4 objects, stored to offset 500
  sealed    2026-01-01T12:01:40Z by pod-b: served to a fresh Redis

history bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb  (latest)
  source    sidecar (redis 7.0.15), since 2026-01-01T12:00:00Z
  parent    aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, left at offset 500
  restore   2026-01-01T12:00:00Z to 2026-01-01T12:01:30Z, offsets 500 to 620
  log       1 object, stored to offset 620
  PROBLEM   histories/x: is damaged
";
    assert_eq!(two_histories().to_string(), expected);
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
    assert_eq!(json["format"], 1);
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
    assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00Z");
    assert_eq!(Time(i64::MAX).to_string(), "9223372036854775807 ms");
}
