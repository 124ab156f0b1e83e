#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use futures::TryStreamExt;

use super::*;
use crate::archive::{BaseKind, FORMAT, HistoryDoc, ServerInfo};
use crate::recovery::testing::{Sample, at, feed};
use crate::store::MemoryStore;
use crate::store::memory::Fault;
use crate::wire::position::Position;
use crate::wire::rdb::samples;

const NOW: i64 = 1_785_000_000_000;

fn id() -> ReplId {
    ReplId::from_random([7; 20])
}

/// A base with every type of Redis in it.
async fn sample(store: &MemoryStore, magic: &str) -> Archive {
    let mut body = vec![0xFE, 0];
    for (index, (_, dump)) in samples::REDIS_DUMPS.iter().enumerate() {
        body.extend(samples::dumped(&format!("k{index}"), dump));
    }
    with_base(store, samples::rdb(magic, &body)).await
}

async fn with_base(store: &MemoryStore, rdb: Vec<u8>) -> Archive {
    let archive = Archive::open_or_create(store.shared(), NOW).await.unwrap();
    let server = ServerInfo::default();
    let doc = HistoryDoc {
        format: FORMAT,
        id: id(),
        parent: None,
        previous: None,
        also_previous: Vec::new(),
        replid: None,
        service: "test".into(),
        server: server.clone(),
        run_id: None,
        created_unix_ms: NOW,
    };
    archive.create_history(&doc).await.unwrap();
    let at = Position {
        history: id(),
        offset: Offset(10),
    };
    let mut writer = archive.begin_base(at).await.unwrap();
    writer.write(rdb.into()).await.unwrap();
    writer.finish().await.unwrap();
    let (stored, summary) = archive.walk_stray_base(at).await.unwrap();
    let manifest =
        crate::archive::BaseManifest::new(&stored, &summary, BaseKind::Sync, server, NOW);
    archive.commit_base(&manifest).await.unwrap();
    archive
}

fn deep() -> Request {
    Request {
        history: None,
        deep: true,
        now_unix_ms: NOW,
    }
}

/// Strings with empty values, in database 0 and in database 1.
async fn with_keys(in_0: &[&str], in_1: &[&str]) -> Report {
    let mut body = Vec::new();
    for (db, keys) in [(0, in_0), (1, in_1)] {
        body.extend([0xFE, db]);
        for key in keys {
            body.push(0);
            body.extend(samples::string(key.as_bytes()));
            body.extend(samples::string(b""));
        }
    }
    let archive = with_base(&MemoryStore::new(), samples::rdb("REDIS0011", &body)).await;
    verify(&archive, deep(), &()).await.unwrap()
}

#[tokio::test]
async fn a_key_that_stands_twice_is_no_sound_snapshot() {
    // More than are compared at once.
    let names: Vec<String> = (0..50).map(|n| format!("key:{n}")).collect();
    let mut keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let report = with_keys(&keys, &keys).await;
    assert!(report.sound, "{report}");
    for twice in ["key:0", "key:17", "key:49"] {
        keys.push(twice);
        let report = with_keys(&["other"], &keys).await;
        assert!(!report.sound, "{report}");
        let told = format!("key {twice} is twice in database 1");
        assert!(report.to_string().contains(&told), "{report}");
        keys.pop();
    }
}

#[tokio::test]
async fn an_lzf_string_that_cannot_have_been_so_long_is_no_sound_snapshot() {
    // A string: LZF, its bytes, those that it was, the bytes.
    let lzf = |original: &[u8]| [&[0xC3, 4][..], original, &[0x01, b'a', b'a', 0x00]].concat();
    for (original, sound) in [
        (&[10][..], true),
        (&[0][..], false),
        (&[0x80, 0, 1, 0, 0][..], false),
        (&[0x80, 0x7F, 0xFF, 0xFF, 0xFF][..], false),
    ] {
        let body = [&[0xFE, 0, 0][..], &samples::string(b"key"), &lzf(original)].concat();
        let mut walker = crate::wire::rdb::Walker::new();
        let walked = walker.push(&samples::rdb("REDIS0011", &body));
        assert_eq!(walked.is_ok(), sound, "{original:?}: {walked:?}");
    }
}

#[tokio::test]
async fn a_verdict_is_stored_once_with_what_both_readers_say() {
    let store = MemoryStore::new();
    let archive = sample(&store, "REDIS0013").await;
    for _ in 0..2 {
        let report = verify(&archive, deep(), &()).await.unwrap();
        assert!(report.sound, "{report}");
        assert!(
            report
                .to_string()
                .ends_with("sound: 1 history, every byte was read\n")
        );
    }
    let name = format!("histories/{}/base/{:020}.verified.json", id(), 10);
    let verdict: crate::archive::VerdictDoc =
        serde_json::from_slice(&store.object(&name).unwrap()).unwrap();
    let counted = [(0, 19)].into();
    assert_eq!(verdict.readings.len(), 2);
    for reading in &verdict.readings {
        assert_eq!(
            reading.databases,
            Some(std::collections::BTreeMap::clone(&counted))
        );
    }
    let catalog = archive.catalog().await.unwrap();
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    assert!(catalog.histories[&id()].verified.contains(&Offset(10)));
}

#[tokio::test]
async fn a_store_that_is_read_only_for_us_is_told_and_is_no_damage() {
    let store = MemoryStore::new();
    let archive = sample(&store, "REDIS0013").await;
    store.fail_creates(1, Fault::Permanent);
    let report = verify(&archive, deep(), &()).await.unwrap();
    assert!(report.sound, "{report}");
    assert!(report.notes[0].contains("could not be stored"), "{report}");
}

#[tokio::test]
async fn headers_alone_leave_nothing_behind() {
    let store = MemoryStore::new();
    let archive = sample(&store, "REDIS0013").await;
    let count = || async {
        let all: Vec<_> = store
            .shared()
            .list("", None)
            .await
            .try_collect()
            .await
            .unwrap();
        all.len()
    };
    let before = count().await;
    let request = Request {
        deep: false,
        ..deep()
    };
    assert!(verify(&archive, request, &()).await.unwrap().sound);
    assert_eq!(count().await, before);
}

#[tokio::test]
async fn a_base_that_the_second_reader_does_not_know_has_no_second_opinion() {
    let store = MemoryStore::new();
    let archive = sample(&store, "REDIS0014").await;
    let report = verify(&archive, deep(), &()).await.unwrap();
    assert!(report.sound, "{report}");
    assert!(
        report.histories[0].notes[0].contains("no second opinion"),
        "{report}"
    );
}

#[tokio::test]
async fn what_came_while_the_names_were_listed_is_no_damage() {
    let sample = Sample::new("7.0.15").await;
    let [old, new] = [1, 2].map(|byte| ReplId::from_random([byte; 20]));
    sample.history(old, None).await;
    sample.base(old, 1000, 0, 5).await;
    let feed = feed(&["SET a 1", "SET b 2"]);
    let middle = 1000 + feed.len() as u64 / 2;
    let end = sample.log(old, at(1000, 0), &feed, &[middle]).await;
    sample.history(new, Some((old, end.offset.0))).await;
    // The log was listed before it was left.
    let segment = Name::Log {
        history: old,
        first_byte: middle + 1,
    };
    sample.store.hide(&segment.to_string(), 1);
    let report = verify(&sample.archive, deep(), &()).await.unwrap();
    assert!(report.sound, "{report}");
    // And a base was listed before it was made, the log after that was bridged.
    sample.base(new, end.offset.0 + 100, 0, 6).await;
    sample.archive.bridged_end(new, "test").await.unwrap();
    let manifest = Name::BaseManifest(Position {
        history: new,
        offset: end.offset.plus(100),
    });
    sample.store.hide(&manifest.to_string(), 1);
    let report = verify(&sample.archive, deep(), &()).await.unwrap();
    assert!(report.sound, "{report}");
    sample.store.remove(&manifest.to_string());
    let report = verify(&sample.archive, deep(), &()).await.unwrap();
    assert_eq!(report.problems, 1, "{report}");
}

#[tokio::test]
async fn a_damaged_span_is_told_even_if_its_segments_still_stand() {
    use crate::archive::Name;
    let sample = Sample::new("7.0.15").await;
    sample.history(id(), None).await;
    sample.base(id(), 1000, 0, 5).await;
    let unit = feed(&["SET key value"]);
    let cuts: Vec<u64> = (1..20).map(|n| 1000 + n * unit.len() as u64).collect();
    let bytes = unit.repeat(20);
    sample.log(id(), at(1000, 0), &bytes, &cuts).await;
    let mut runs = sample.archive.runs(id(), None).await.unwrap();
    while let Some(run) = runs.next().await.unwrap() {
        sample.archive.merge(&run, "test").await.unwrap();
    }
    assert!(verify(&sample.archive, deep(), &()).await.unwrap().sound);
    let is_span = |name: &String| matches!(Name::parse(name), Some(Name::Span { .. }));
    let span = sample.store.names().into_iter().find(is_span).unwrap();
    let length = sample.store.object(&span).unwrap().len();
    for place in [30, length - 10] {
        sample.store.corrupt(&span, place, 1);
        let report = verify(&sample.archive, deep(), &()).await.unwrap();
        assert!(!report.sound, "{place}: {report}");
        assert!(report.to_string().contains(&span), "{report}");
        sample.store.corrupt(&span, place, 1);
    }
}
