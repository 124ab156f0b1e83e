#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::testing::*;
use super::super::{BaseKind, ChainItem, Name};
use super::*;
use crate::log::segment;
use crate::store::MemoryStore;
use crate::store::memory::Call;

const NOW: i64 = 1_700_000_000_000;

async fn archive() -> (MemoryStore, Archive) {
    let store = MemoryStore::new();
    let archive = Archive::open_or_create(store.shared(), NOW).await.unwrap();
    (store, archive)
}

/// Histories of all sorts: branches, bases within the log and beyond its end, gaps with and without bridges, seals before the last
/// base, documents and manifests that are lost or spoilt.
async fn anything(archive: &Archive, store: &MemoryStore, seed: u64) -> u8 {
    let mut random = StdRng::seed_from_u64(seed);
    let histories = random.random_range(1..7_u8);
    for n in 1..=histories {
        let before = random.random_range(0..n);
        let mut doc = match before {
            0 => history(n),
            _ => child(n, before, random.random_range(1..40) * 10),
        };
        if before > 0 && random.random_range(0..3) == 0 {
            doc.previous = doc.parent.take().map(|parent| Position {
                history: parent.history,
                offset: parent.offset,
            });
        }
        archive.create_history(&doc).await.unwrap();
        let mut end = doc.parent.map_or(100, |parent| parent.offset.0);
        if doc.parent.is_none() && random.random_range(0..5) > 0 {
            base(archive, n, end).await;
        }
        for _ in 0..random.random_range(0..12) {
            let start = end;
            end += random.random_range(1..9) * 10;
            match random.random_range(0..12) {
                0 => drop(base(archive, n, end).await),
                1 => {
                    let mut gap = meta(n, start, end);
                    gap.marks = Vec::new();
                    let (header, body) = segment::encode_gap(gap).unwrap();
                    archive.put(&header, body).await.unwrap();
                    base(archive, n, end).await;
                }
                2 => drop(archive.seal(id(n), Offset(start), "why", "who", NOW).await),
                _ => log(archive, n, &[start, end]).await,
            }
            if random.random_range(0..4) == 0 {
                let at = random.random_range(start..=end);
                let known = Name::BaseManifest(super::super::testing::at(n, at)).to_string();
                if store.object(&known).is_none() {
                    base(archive, n, at).await;
                }
            }
        }
    }
    if random.random_range(0..6) == 0 {
        let names = store.names();
        let spoilt = &names[random.random_range(1..names.len())];
        if random.random_range(0..2) == 0 && !spoilt.ends_with("/history.json") {
            store.remove(spoilt);
        } else if spoilt.ends_with("/history.json") {
            store.put(spoilt, "spoilt");
        }
    }
    histories
}

async fn items(archive: &Archive, catalog: &Catalog, n: u8, after: Offset) -> String {
    let found: Vec<Result<ChainItem, ArchiveError>> =
        archive.chain(catalog, id(n), after).collect().await;
    format!("{found:?}")
}

#[tokio::test]
async fn what_is_read_in_part_is_the_same_as_what_is_read_whole() {
    let mut compared = 0;
    for seed in 0..400 {
        let (store, archive) = archive().await;
        let histories = anything(&archive, &store, seed).await;
        let whole = archive.catalog().await.unwrap();
        let outline = archive.outline().await.unwrap();
        // Old histories of which too little can be read are none of its business.
        if whole.unreadable == outline.unreadable {
            assert_eq!(whole.latest(None), outline.latest(None), "seed {seed}");
        }
        let docs =
            |catalog: &Catalog| -> Vec<ReplId> { catalog.histories.keys().copied().collect() };
        assert_eq!(docs(&whole), docs(&outline), "seed {seed}");
        for n in 1..=histories {
            if !whole.histories.contains_key(&id(n)) {
                continue;
            }
            let text = |ended: Result<_, ArchiveError>| match ended {
                Ok(end) => format!("{end:?}"),
                Err(error) => error.to_string(),
            };
            let wanted = text(archive.log_end(&whole, id(n)).await);
            let found = text(archive.log_end(&outline, id(n)).await);
            assert_eq!(wanted, found, "seed {seed}, history {n}");
            for upto in [u64::MAX, 200, 150] {
                let mut part = outline.clone();
                archive.load(&mut part, id(n), Offset(upto)).await.unwrap();
                let found = text(archive.log_end(&part, id(n)).await);
                assert_eq!(wanted, found, "seed {seed}, history {n}, up to {upto}");
                archive.refresh(&mut part, id(n)).await.unwrap();
                let bases = &part.histories[&id(n)].bases;
                let mut starts: Vec<Offset> = bases.iter().map(|base| base.offset).collect();
                starts.push(Offset(120));
                for after in starts {
                    let wanted = items(&archive, &whole, n, after).await;
                    let found = items(&archive, &part, n, after).await;
                    assert_eq!(wanted, found, "seed {seed}, history {n}, after {after}");
                    compared += 1;
                }
                let newest = |catalog: &Catalog| {
                    let bases = catalog.histories[&id(n)].bases.iter();
                    let before = bases.map(|base| base.offset.0).filter(|at| *at <= upto);
                    before.max()
                };
                assert_eq!(newest(&part), newest(&whole), "seed {seed}, history {n}");
            }
        }
    }
    assert!(compared > 2000, "{compared}");
}

/// The bytes that a chain leads to after `after`, and how it ends.
async fn read_after(archive: &Archive, catalog: &Catalog, n: u8, after: Offset) -> String {
    let (mut at, mut bytes) = (after, Vec::new());
    let mut chain = archive.chain(catalog, id(n), after);
    let end = loop {
        match chain.next().await.unwrap() {
            Ok(ChainItem::Segment(header)) => {
                let part = archive.read_part(&header, at, header.meta.end).await;
                match bytes_of(part.unwrap()).await {
                    Ok(part) => bytes.extend_from_slice(&part),
                    Err(error) => break format!("{}", error.is_transient()),
                }
                at = header.meta.end;
                assert_eq!(bytes.len() as u64, at.since(after));
            }
            Ok(ChainItem::End(end)) => break format!("{end:?}"),
            Err(error) => break error.to_string(),
        }
    };
    format!("{bytes:?} {end}")
}

/// All that readers find, by all names and by as few as are needed.
async fn read_all(archive: &Archive, histories: u8) -> Vec<String> {
    let whole = archive.catalog().await.unwrap();
    let outline = archive.outline().await.unwrap();
    let mut read = Vec::new();
    for n in 1..=histories {
        if !whole.histories.contains_key(&id(n)) {
            continue;
        }
        let mut part = outline.clone();
        archive
            .load(&mut part, id(n), Offset(u64::MAX))
            .await
            .unwrap();
        let bases = &whole.histories[&id(n)].bases;
        let mut starts: Vec<Offset> = bases.iter().map(|base| base.offset).collect();
        starts.extend([Offset(120), Offset(155)]);
        for catalog in [&whole, &part] {
            match archive.log_end(catalog, id(n)).await {
                Ok(end) => read.push(format!("{n} {end:?}")),
                Err(error) => read.push(format!("{n} {error}")),
            }
            for after in &starts {
                let found = read_after(archive, catalog, n, *after).await;
                read.push(format!("{n} after {after}: {found}"));
            }
        }
    }
    read
}

#[tokio::test(start_paused = true)]
async fn what_is_merged_and_deleted_is_read_as_before() {
    let (mut spans, mut deleted) = (0, 0);
    for seed in 0..60 {
        let (store, archive) = archive().await;
        let histories = anything(&archive, &store, seed).await;
        let whole = archive.catalog().await.unwrap();
        let wanted = read_all(&archive, histories).await;
        let known: Vec<ReplId> = whole.histories.keys().copied().collect();
        for id in &known {
            let mut runs = archive.runs(*id, None).await.unwrap();
            while let Some(run) = runs.next().await.unwrap() {
                assert!(archive.merge(&run, "test").await.unwrap().created);
                spans += 1;
            }
            // The same names for another merger.
            let mut again = archive.runs(*id, None).await.unwrap();
            assert!(again.next().await.unwrap().is_none(), "seed {seed}");
        }
        let found = read_all(&archive, histories).await;
        assert_eq!(found, wanted, "seed {seed}, merged");
        for id in &known {
            deleted += archive.delete_merged(*id).await;
        }
        let found = read_all(&archive, histories).await;
        assert_eq!(found, wanted, "seed {seed}, merged and deleted");
    }
    assert!(spans > 80 && deleted > 200, "{spans} {deleted}");
}

/// A reader that knows the names as they were before something was deleted.
#[tokio::test(start_paused = true)]
async fn what_vanishes_on_the_way_is_read_from_its_span() {
    let (store, archive) = archive().await;
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (1..=40).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    let before = archive.catalog().await.unwrap();
    let mut headers = archive.chain(&before, id(1), Offset(100));
    let mut segments = Vec::new();
    while let ChainItem::Segment(header) = headers.next().await.unwrap().unwrap() {
        segments.push(header);
    }
    let wanted = read_after(&archive, &before, 1, Offset(100)).await;
    let end = archive.log_end(&before, id(1)).await.unwrap();
    let mut runs = archive.runs(id(1), None).await.unwrap();
    while let Some(run) = runs.next().await.unwrap() {
        archive.merge(&run, "test").await.unwrap();
    }
    assert!(archive.delete_merged(id(1)).await > 20);
    assert_eq!(read_after(&archive, &before, 1, Offset(100)).await, wanted);
    assert_eq!(archive.log_end(&before, id(1)).await.unwrap(), end);
    // Their headers were read, and nothing else.
    let mut all = Vec::new();
    for header in &segments {
        let bytes = archive.read_segment(header).await.unwrap();
        all.extend_from_slice(&bytes_of(bytes).await.unwrap());
    }
    assert_eq!(all, feed(100, 4000));
    // What nothing covers is damage.
    let span = store
        .names()
        .into_iter()
        .find(|name| name.contains("/span/"));
    store.remove(&span.unwrap());
    let found = read_after(&archive, &before, 1, Offset(100)).await;
    assert!(found.ends_with("is missing"), "{found}");
}

/// A base stands in two spans. The one that begins later ends first.
#[tokio::test]
async fn a_log_is_listed_from_the_span_that_reaches_furthest() {
    let (store, archive) = archive().await;
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (1..=9).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    for firsts in [&[101, 201, 301][..], &[201], &[401, 501]] {
        let mut run = super::super::run::Run::of(Vec::new());
        for first in firsts {
            let entry = archive.entry(id(1), *first).await.unwrap();
            if let Some(segment::Entry::Segment(header)) = entry {
                run.push(header);
            }
        }
        archive.merge(&run, "test").await.unwrap();
    }
    base(&archive, 1, 250).await;
    for first in [101, 201, 301, 401, 501] {
        store.remove(&LogObject::segment(first).name(id(1)).to_string());
    }
    let whole = archive.catalog().await.unwrap();
    let mut catalog = archive.outline().await.unwrap();
    let newest = Offset(u64::MAX);
    archive.load(&mut catalog, id(1), newest).await.unwrap();
    let log = &catalog.histories[&id(1)].log;
    assert_eq!(log[..2], whole.histories[&id(1)].log[..2], "{log:?}");
    let read = read_after(&archive, &catalog, 1, Offset(250)).await;
    assert_eq!(read, read_after(&archive, &whole, 1, Offset(250)).await);
    assert!(!read.ends_with("is missing"), "{read}");
}

#[tokio::test]
async fn a_boot_lists_spans_and_the_log_behind_them_alone() {
    let (store, archive) = archive().await;
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 1_000_000).await;
    let cuts: Vec<u64> = (0..=3000).map(|n| 1_000_000 + n * 54).collect();
    log(&archive, 1, &cuts).await;
    let mut runs = archive.runs(id(1), None).await.unwrap();
    let mut spans = 0;
    while let Some(run) = runs.next().await.unwrap() {
        archive.merge(&run, "test").await.unwrap();
        spans += 1;
    }
    let begun = store.calls().len();
    let mut catalog = archive.outline().await.unwrap();
    archive
        .load(&mut catalog, id(1), Offset(u64::MAX))
        .await
        .unwrap();
    let listed = &catalog.histories[&id(1)].log;
    assert!(listed.len() < spans + 20, "{spans} {}", listed.len());
    assert!(listed[0].last().is_some());
    let calls = store.calls().split_off(begun);
    assert_eq!(calls.len(), 6, "{calls:?}");
}

#[tokio::test]
async fn what_is_asked_of_the_store_does_not_grow_with_the_age_of_the_archive() {
    let mut asked = Vec::new();
    for old in [10, 3000] {
        let (store, archive) = archive().await;
        archive.create_history(&history(1)).await.unwrap();
        base(&archive, 1, 1_000_000).await;
        let cuts: Vec<u64> = (0..=old).map(|n| 1_000_000 + n * 54).collect();
        log(&archive, 1, &cuts).await;
        let end = *cuts.last().unwrap();
        base(&archive, 1, end).await;
        let tail: Vec<u64> = (0..=50).map(|n| end + n * 54).collect();
        log(&archive, 1, &tail).await;
        let begun = store.calls().len();
        let mut catalog = archive.outline().await.unwrap();
        let latest = catalog.latest(None).unwrap().unwrap();
        archive
            .load(&mut catalog, latest, Offset(u64::MAX))
            .await
            .unwrap();
        assert!((50..1400).contains(&catalog.histories[&latest].log.len()));
        let calls = store.calls().split_off(begun);
        let lists = calls.iter().filter(|call| matches!(call, Call::List(_)));
        asked.push((lists.count(), calls.len()));
    }
    // Histories, bases, spans, log; the document and a manifest.
    assert_eq!(asked, [(4, 6), (4, 6)]);
}

#[tokio::test]
async fn of_a_long_line_of_histories_the_last_alone_is_listed() {
    let (store, archive) = archive().await;
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    for n in 2..=200 {
        let parent = child(n, n - 1, u64::from(n) * 100);
        archive.create_history(&parent).await.unwrap();
        log(&archive, n, &[u64::from(n) * 100, u64::from(n) * 100 + 100]).await;
        base(&archive, n, u64::from(n) * 100 + 50).await;
    }
    let begun = store.calls().len();
    let catalog = archive.outline().await.unwrap();
    assert_eq!(catalog.latest(None), Ok(Some(id(200))));
    let calls = store.calls().split_off(begun);
    // Each document; the list of histories, and the bases of the last one.
    assert_eq!(calls.len(), 200 + 2 + 1);
    assert!(catalog.is_partial(id(200)));
    assert!(
        !archive
            .whole_line(&catalog, id(200))
            .await
            .unwrap()
            .is_partial(id(200))
    );
}

#[tokio::test]
async fn a_sample_of_the_end_may_begin_before_the_newest_base() {
    let (_, archive) = archive().await;
    archive.create_history(&history(1)).await.unwrap();
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (1..=40).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    let kind = BaseKind::Consolidated { from: Offset(100) };
    let mut writer = archive.begin_base(at(1, 3800)).await.unwrap();
    writer.write("REDIS".into()).await.unwrap();
    let stored = writer.finish().await.unwrap();
    let manifest = manifest(1, 3800, kind, &stored);
    archive.commit_base(&manifest).await.unwrap();
    let outline = archive.outline().await.unwrap();
    let last = archive.last_of_log(&outline, id(1), 5).await.unwrap();
    let wanted = [3501, 3601, 3701, 3801, 3901].map(LogObject::segment);
    assert_eq!(last, wanted);
}
