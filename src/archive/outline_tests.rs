#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::testing::*;
use super::super::{BaseKind, ChainItem};
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
    // Histories, bases, log; the document and a manifest.
    assert_eq!(asked, [(3, 5), (3, 5)]);
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
    assert_eq!(last, [3501, 3601, 3701, 3801, 3901]);
}
