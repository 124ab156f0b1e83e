#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use std::collections::BTreeMap;

use bytes::Bytes;

use super::testing::*;
use super::*;
use crate::log::segment::Entry;
use crate::store::MemoryStore;
use crate::store::memory::{Call, Fault};
use crate::wire::position::{Offset, ReplId};

const NOW: i64 = 1_700_000_000_000;

on_both_stores!(
    an_archive_is_made_in_an_empty_store_alone,
    a_store_without_an_archive_says_what_it_is,
    a_segment_comes_back,
    what_was_appended_before_is_success_and_other_bytes_are_not,
    of_an_append_and_a_seal_exactly_one_wins,
    a_renamed_or_damaged_segment_is_a_typed_error,
    newer_formats_are_told_from_damage,
    the_catalog_tolerates_what_is_not_ours,
);

async fn archive(store: SharedStore) -> Archive {
    Archive::open_or_create(store, NOW).await.unwrap()
}

async fn an_archive_is_made_in_an_empty_store_alone(store: SharedStore) {
    assert!(matches!(
        Archive::open(store.clone()).await,
        Err(ArchiveError::EmptyStore { .. })
    ));
    let archive = archive(store.clone()).await;
    let text = object(&archive, "archive.json").await;
    assert_eq!(
        std::str::from_utf8(&text).unwrap(),
        "{\n  \"format\": 1,\n  \"kind\": \"backfeed archive\",\n  \"created_unix_ms\": 1700000000000\n}\n"
    );
    Archive::open_or_create(store.clone(), NOW + 1)
        .await
        .unwrap();
    Archive::open(store).await.unwrap();
    assert_eq!(object(&archive, "archive.json").await, text);
}

async fn a_store_without_an_archive_says_what_it_is(store: SharedStore) {
    store.create("photos/1.jpg", Bytes::new()).await.unwrap();
    let error = Archive::open_or_create(store.clone(), NOW)
        .await
        .unwrap_err();
    assert!(matches!(error, ArchiveError::NotAnArchive { .. }));
    assert!(error.to_string().contains("photos/1.jpg"), "{error}");
    for (body, says) in [
        ("{", "archive.json"),
        ("[]", "archive.json"),
        (r#"{"format":1,"kind":"x","created_unix_ms":0}"#, "`x`"),
    ] {
        store.delete("archive.json").await.unwrap();
        store.create("archive.json", body.into()).await.unwrap();
        let error = Archive::open_or_create(store.clone(), NOW)
            .await
            .unwrap_err();
        assert!(matches!(error, ArchiveError::NotAnArchive { .. }));
        assert!(error.to_string().contains(says), "{error}");
    }
}

async fn a_segment_comes_back(store: SharedStore) {
    let archive = archive(store).await;
    let (header, body) = segment(meta(1, 100, 3_000_000));
    archive.put(&header, body).await.unwrap();
    let entry = archive.entry(id(1), 101).await.unwrap();
    assert_eq!(entry, Some(Entry::Segment(header.clone())));
    assert_eq!(archive.entry(id(1), 102).await.unwrap(), None);
    let back = bytes_of(archive.read_segment(&header).await.unwrap())
        .await
        .unwrap();
    assert!(back == feed(100, 3_000_000));

    // A header that is longer than what is read of it at first.
    let mut long = meta(1, 3_000_000, 4_000_000);
    long.marks = (0..20_000)
        .map(|n| crate::wire::position::TimeMark {
            unix_ms: NOW + n as i64,
            offset: Offset(3_000_001 + n),
        })
        .collect();
    let (header, body) = segment(long);
    archive.put(&header, body).await.unwrap();
    let entry = archive.entry(id(1), 3_000_001).await.unwrap();
    assert_eq!(entry, Some(Entry::Segment(header.clone())));
    let back = bytes_of(archive.read_segment(&header).await.unwrap())
        .await
        .unwrap();
    assert!(back == feed(3_000_000, 4_000_000));
}

async fn what_was_appended_before_is_success_and_other_bytes_are_not(store: SharedStore) {
    let archive = archive(store).await;
    let (header, body) = segment(meta(1, 0, 100));
    archive.put(&header, body.clone()).await.unwrap();
    archive.put(&header, body.clone()).await.unwrap();

    let (longer, longer_body) = segment(meta(1, 0, 200));
    let Err(AppendError::Taken(winner)) = archive.put(&longer, longer_body).await else {
        panic!("must be taken");
    };
    assert_eq!(*winner, Entry::Segment(header.clone()));

    // The same header before another payload is not what we wrote.
    let mut other = body.to_vec();
    *other.last_mut().unwrap() ^= 1;
    replace(&archive, &log_name(1, 1), other).await;
    assert!(matches!(
        archive.put(&header, body).await,
        Err(AppendError::Taken(_))
    ));
}

fn log_name(n: u8, first_byte: u64) -> String {
    let name = Name::Log {
        history: id(n),
        first_byte,
    };
    name.to_string()
}

async fn of_an_append_and_a_seal_exactly_one_wins(store: SharedStore) {
    let archive = archive(store).await;
    let (mut appended, mut sealed) = (0, 0);
    for n in 0..40 {
        let (header, body) = segment(meta(n, 10, 20));
        let append = {
            let (archive, header) = (archive.clone(), header.clone());
            tokio::spawn(async move { archive.put(&header, body).await })
        };
        let seal = {
            let archive = archive.clone();
            tokio::spawn(async move { archive.seal(id(n), Offset(10), "test", "me", NOW).await })
        };
        let (append, seal) = if n % 2 == 0 {
            (append.await.unwrap(), seal.await.unwrap())
        } else {
            let seal = seal.await.unwrap();
            (append.await.unwrap(), seal)
        };
        match (append, seal) {
            (Ok(()), Err(AppendError::Taken(entry))) => {
                assert_eq!(*entry, Entry::Segment(header));
                appended += 1;
            }
            (Err(AppendError::Taken(entry)), Ok(())) => {
                let Entry::Seal(seal) = *entry else {
                    panic!("{entry:?}");
                };
                assert_eq!((seal.start, seal.reason.as_str()), (Offset(10), "test"));
                sealed += 1;
                // Sealing twice is fine, and the first seal stays.
                archive
                    .seal(id(n), Offset(10), "again", "me", NOW)
                    .await
                    .unwrap();
                assert_eq!(
                    archive.entry(id(n), 11).await.unwrap(),
                    Some(Entry::Seal(seal))
                );
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(appended + sealed, 40);
}

async fn a_renamed_or_damaged_segment_is_a_typed_error(store: SharedStore) {
    let archive = archive(store).await;
    let (header, body) = segment(meta(1, 0, 100));
    archive.put(&header, body.clone()).await.unwrap();
    let read = async || bytes_of(archive.read_segment(&header).await?).await;

    replace(&archive, &log_name(1, 200), body.clone()).await;
    replace(&archive, &log_name(2, 1), body.clone()).await;
    for (n, first_byte) in [(1, 200), (2, 1)] {
        let error = archive.entry(id(n), first_byte).await.unwrap_err();
        assert!(matches!(
            error,
            ArchiveError::Renamed { object, says }
                if object == log_name(n, first_byte) && says == log_name(1, 1)
        ));
    }

    let name = log_name(1, 1);
    let header_end = body.len() - header.payload_stored as usize;
    for length in 0..body.len() {
        replace(&archive, &name, body.slice(..length)).await;
        let error = read().await.unwrap_err();
        let names_it = matches!(&error, ArchiveError::Truncated { object, .. } if *object == name);
        assert!(names_it, "cut to {length}: {error}");
        let entry = archive.entry(id(1), 1).await;
        assert_eq!(entry.is_ok(), length >= header_end, "cut to {length}");
    }
    for flipped in 0..body.len() {
        let mut bytes = body.to_vec();
        bytes[flipped] ^= 0x04;
        replace(&archive, &name, bytes).await;
        let error = read().await.unwrap_err();
        assert!(
            error.to_string().starts_with(&name),
            "byte {flipped}: {error}"
        );
        assert!(!error.is_transient());
    }
    let (other, other_body) = segment(meta(1, 0, 90));
    replace(&archive, &name, other_body).await;
    assert!(read().await.is_err());
    assert_eq!(
        archive.entry(id(1), 1).await.unwrap(),
        Some(Entry::Segment(other))
    );
    archive.store.delete(&name).await.unwrap();
    assert!(matches!(read().await, Err(ArchiveError::Missing { .. })));
}

async fn newer_formats_are_told_from_damage(store: SharedStore) {
    let archive = archive(store.clone()).await;
    let (header, body) = segment(meta(1, 0, 100));
    let mut newer = body.to_vec();
    assert_eq!(&newer[8..16], b"BACKFEED");
    newer[16] = 2;
    replace(&archive, &log_name(1, 1), newer).await;
    let is_newer = |error: &ArchiveError, name: &str| matches!(error, ArchiveError::NewerFormat { object, version: 2, supported: 1 } if object == name);
    let error = archive.entry(id(1), 1).await.unwrap_err();
    assert!(is_newer(&error, &log_name(1, 1)), "{error}");
    let stream = archive.read_segment(&header).await.unwrap();
    assert!(is_newer(
        &bytes_of(stream).await.unwrap_err(),
        &log_name(1, 1)
    ));

    // A document of which this build knows nothing but that it is newer.
    let newer = r#"{"format": 2, "everything": "is different"}"#;
    replace(&archive, &Name::History(id(2)).to_string(), newer).await;
    archive.create_history(&history(3)).await.unwrap();
    let base = base(&archive, 3, 10).await;
    replace(
        &archive,
        &Name::BaseManifest(base.position()).to_string(),
        newer,
    )
    .await;
    let catalog = archive.catalog().await.unwrap();
    for n in [2, 3] {
        assert!(catalog.unreadable[&id(n)].contains("Use a newer backfeed"));
    }
    assert!(catalog.latest(None).is_err());

    replace(&archive, "archive.json", newer).await;
    let error = Archive::open_or_create(store, NOW).await.unwrap_err();
    assert!(is_newer(&error, "archive.json"), "{error}");
}

async fn the_catalog_tolerates_what_is_not_ours(store: SharedStore) {
    let archive = archive(store).await;
    archive.create_history(&history(1)).await.unwrap();
    archive
        .create_history(&HistoryDoc {
            service: "another".to_owned(),
            ..history(1)
        })
        .await
        .unwrap();
    let good = base(&archive, 1, 10).await;
    log(&archive, 1, &[10, 20, 30]).await;
    let spoilt = base(&archive, 1, 5).await;
    replace(
        &archive,
        &Name::BaseManifest(spoilt.position()).to_string(),
        "{\"format\": 1",
    )
    .await;
    let lost = base(&archive, 1, 40).await;
    archive
        .store
        .delete(&Name::BaseData(lost.position()).to_string())
        .await
        .unwrap();
    let renamed = object(&archive, &Name::BaseManifest(good.position()).to_string()).await;
    replace(&archive, &Name::BaseManifest(at(1, 7)).to_string(), renamed).await;
    // A history that lost its document, one of another name, one that is no JSON, and one that never got so far.
    log(&archive, 2, &[0, 10]).await;
    archive
        .begin_base(at(5, 1))
        .await
        .unwrap()
        .finish()
        .await
        .unwrap();
    let renamed = object(&archive, &Name::History(id(1)).to_string()).await;
    replace(&archive, &Name::History(id(3)).to_string(), renamed).await;
    replace(&archive, &Name::History(id(4)).to_string(), "rubbish").await;
    for n in 0..12 {
        replace(&archive, &format!("histories/notes{n}.txt"), "").await;
    }

    let catalog = archive.catalog().await.unwrap();
    let ids: Vec<ReplId> = catalog.histories.keys().copied().collect();
    assert_eq!(ids, [id(1)]);
    let found = &catalog.histories[&id(1)];
    assert_eq!(found.doc, history(1));
    assert_eq!(found.bases, [good, lost]);
    assert_eq!(found.log, [11, 21].map(LogObject::segment));
    let problems = told(&found.problems);
    assert_eq!(found.problems.len(), 3, "{problems}");
    for part in [
        "0005.json: not the document",
        "0007.json was renamed",
        "0040.rdb.zst is missing",
    ] {
        assert!(problems.contains(part), "{part} in:\n{problems}");
    }
    let unreadable: Vec<ReplId> = catalog.unreadable.keys().copied().collect();
    assert_eq!(unreadable, [id(2), id(3), id(4)]);
    let problems = told(&catalog.problems);
    assert_eq!(catalog.problems.len(), 12, "{problems}");
    assert!(problems.contains("histories/notes0.txt"));
    assert!(problems.contains("2 more objects"));
    assert!(problems.contains(&format!("history {} is ignored", id(5))));
}

fn told(problems: &[Problem]) -> String {
    let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
    told.join("\n")
}

#[tokio::test]
async fn a_history_that_lost_its_document_keeps_the_latest_from_being_chosen() {
    let archive = archive(MemoryStore::new().shared()).await;
    for n in [1, 2] {
        archive.create_history(&history(n)).await.unwrap();
        base(&archive, n, 5).await;
    }
    let lost = Name::History(id(2)).to_string();
    archive.store.delete(&lost).await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    assert!(catalog.unreadable[&id(2)].contains(&lost));
    assert_eq!(catalog.latest(None), Err(Ambiguous(vec![id(1), id(2)])));
}

#[tokio::test]
async fn a_lost_answer_is_success_at_the_next_try() {
    let store = MemoryStore::new();
    let archive = archive(store.shared()).await;
    let (header, body) = segment(meta(1, 0, 100));
    store.fail_creates(1, Fault::AnswerLost);
    let error = archive.put(&header, body.clone()).await.unwrap_err();
    assert!(error.is_transient());
    archive.put(&header, body).await.unwrap();
    store.fail_creates(1, Fault::AnswerLost);
    archive
        .seal(id(1), Offset(100), "", "", NOW)
        .await
        .unwrap_err();
    archive.seal(id(1), Offset(100), "", "", NOW).await.unwrap();
}

#[tokio::test]
async fn errors_of_the_store_come_through_as_they_are() {
    let store = MemoryStore::new();
    let archive = archive(store.shared()).await;
    archive.create_history(&history(1)).await.unwrap();
    let base = base(&archive, 1, 10).await;
    log(&archive, 1, &[10, 20]).await;
    let catalog = archive.catalog().await.unwrap();
    for fault in [Fault::Transient, Fault::Permanent] {
        let transient = fault == Fault::Transient;
        let fail = || store.fail_reads(1, fault);
        fail();
        assert_eq!(
            archive.catalog().await.unwrap_err().is_transient(),
            transient
        );
        fail();
        assert_eq!(
            archive.entry(id(1), 11).await.unwrap_err().is_transient(),
            transient
        );
        fail();
        let error = archive.log_end(&catalog, id(1)).await.unwrap_err();
        assert_eq!(error.is_transient(), transient);
        fail();
        assert!(archive.read_base(&base).await.is_err());
        fail();
        let error = Archive::open_or_create(store.shared(), NOW)
            .await
            .unwrap_err();
        assert_eq!(error.is_transient(), transient);
        store.fail_creates(1, fault);
        let mut writer = archive.begin_base(at(1, 50)).await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap_err().is_transient(), transient);
    }
}

#[tokio::test]
async fn a_parent_that_came_during_the_listing_is_looked_up() {
    let store = MemoryStore::new();
    let archive = archive(store.shared()).await;
    for doc in [history(1), child(2, 1, 200), child(3, 2, 200)] {
        archive.create_history(&doc).await.unwrap();
    }
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200]).await;
    store.hide(&Name::History(id(2)).to_string(), 1);
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(catalog.histories.len(), 3);
    assert_eq!(catalog.latest(None), Ok(Some(id(3))));
    // One that is gone is looked for once.
    store.remove(&Name::History(id(2)).to_string());
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(catalog.histories.len(), 2);
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
}

#[tokio::test]
async fn reading_a_header_does_not_fetch_the_payload() {
    let store = MemoryStore::new();
    let archive = archive(store.shared()).await;
    log(&archive, 1, &[0, 1_000_000]).await;
    archive.entry(id(1), 1).await.unwrap();
    let reads: Vec<Call> = store
        .calls()
        .into_iter()
        .filter(|call| matches!(call, Call::Read(name, _) if *name == log_name(1, 1)))
        .collect();
    assert!(matches!(&reads[..], [Call::Read(_, Some(range))] if range.end <= 8192));
}

#[test]
fn old_servers_have_relative_ttls() {
    let cases: BTreeMap<(&str, &str), bool> = [
        (("redis", "6.2.14"), true),
        (("redis", "7.0.15"), false),
        (("redis", "10.0.0"), false),
        (("redis", ""), false),
        (("redis", "unstable"), false),
        (("keydb", "6.3.4"), true),
        (("valkey", "7.2.5"), false),
        (("unknown", "6.0.0"), false),
    ]
    .into();
    for ((flavour, version), relative) in cases {
        let server = ServerInfo {
            flavour: flavour.to_owned(),
            version: version.to_owned(),
        };
        assert_eq!(server.relative_ttls(), relative, "{flavour} {version}");
    }
}

#[test]
fn documents_tolerate_fields_that_they_do_not_know() {
    let text = format!(
        r#"{{"format":1,"id":"{}","service":"x","server":{{"flavour":"redis","version":"7","os":"?"}},
            "created_unix_ms":1,"mood":"good"}}"#,
        id(1)
    );
    let doc: HistoryDoc = documents::from_bytes("x", text.as_bytes()).unwrap();
    assert_eq!((doc.id, doc.parent), (id(1), None));
    let kinds = [BaseKind::Sync, BaseKind::Consolidated { from: Offset(7) }];
    let text = serde_json::to_string(&kinds).unwrap();
    assert_eq!(text, r#"["sync",{"consolidated":{"from":7}}]"#);
    assert_eq!(serde_json::from_str::<[BaseKind; 2]>(&text).unwrap(), kinds);
}
