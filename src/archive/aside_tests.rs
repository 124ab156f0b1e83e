#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::super::testing::*;
use super::*;
use crate::store::MemoryStore;

/// Ten segments of 100 bytes from offset 100 on, and the span of the first five.
async fn merged() -> (MemoryStore, Archive, LogObject) {
    let store = MemoryStore::new();
    store.set_clock(Some(0));
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (1..=11).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    store.set_clock(Some(1000));
    let mut runs = archive.runs(id(1), None).await.unwrap();
    let run = runs.next().await.unwrap().unwrap();
    archive.merge(&run, "test").await.unwrap();
    (store, archive, LogObject::span(101, 600).unwrap())
}

/// The bytes of the log after an offset, by the chain.
async fn read(archive: &Archive, after: u64) -> Result<bytes::Bytes, ArchiveError> {
    use crate::archive::ChainItem;
    let catalog = archive.catalog().await?;
    let mut chain = archive.chain(&catalog, id(1), Offset(after));
    let mut all = bytes::BytesMut::new();
    while let Some(item) = chain.try_next().await? {
        let ChainItem::Segment(header) = item else {
            break;
        };
        let end = header.meta.end;
        let part = archive.read_part(&header, Offset(after), end).await?;
        all.extend_from_slice(&bytes_of(part).await?);
    }
    Ok(all.freeze())
}

#[tokio::test]
async fn a_damaged_span_hides_no_segment_that_stands() {
    let (store, archive, span) = merged().await;
    let object = span.name(id(1)).to_string();
    let whole = store.object(&object).unwrap();
    let Some(Entry::Segment(sound)) = archive.entry_of(id(1), span).await.unwrap() else {
        panic!("it is no span");
    };
    for at in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        store.corrupt(&object, at, 0x40);
        for after in [100, 350, 550] {
            let bytes = read(&archive, after).await;
            assert_eq!(bytes.unwrap(), feed(after, 1100), "{at}, {after}");
        }
        // All that a plan goes by is what it was.
        let Some(Entry::Segment(aside)) = archive.entry_of(id(1), span).await.unwrap() else {
            panic!("it is no span");
        };
        let (mut aside, mut sound) = (aside.meta, sound.meta.clone());
        (aside.writer, sound.writer) = (String::new(), String::new());
        assert_eq!(aside, sound, "{at}");
        store.corrupt(&object, at, 0x40);
    }
    for length in [0, 20, whole.len() - 5] {
        store.truncate(&object, length);
        assert_eq!(read(&archive, 100).await.unwrap(), feed(100, 1100));
        assert!(read(&archive.strictly(), 100).await.is_err());
    }
}

#[tokio::test]
async fn a_damaged_span_is_damage_if_not_all_of_its_segments_stand_or_one_is_younger() {
    let (store, archive, span) = merged().await;
    let object = span.name(id(1)).to_string();
    let length = store.object(&object).unwrap().len();
    let segment = LogObject::segment(301).name(id(1)).to_string();
    let body = store.object(&segment).unwrap();
    store.remove(&segment);
    assert_eq!(read(&archive, 100).await.unwrap(), feed(100, 1100));
    for (at, mask) in [(length - 10, 4), (30, 4)] {
        store.corrupt(&object, at, mask);
        assert!(read(&archive, 100).await.is_err(), "{at}");
        // Somebody slept, and creates it anew.
        store.set_clock(Some(5000));
        replace_missing(&archive, &segment, &body).await;
        assert!(read(&archive, 100).await.is_err(), "{at}");
        store.remove(&segment);
        store.corrupt(&object, at, mask);
    }
}

async fn replace_missing(archive: &Archive, name: &str, body: &bytes::Bytes) {
    archive.store.create(name, body.clone()).await.unwrap();
}
