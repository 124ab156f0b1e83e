#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use super::super::testing::*;
use super::super::{AppendError, BaseKind, HistoryDoc};
use super::*;
use crate::store::{MemoryStore, SharedStore};

const NOW: i64 = 1_700_000_000_000;

on_both_stores!(
    a_log_without_segments_ends_at_its_base_or_parent,
    a_log_ends_with_its_last_segment,
    a_history_of_which_nothing_is_stored_has_no_end,
    a_hole_is_damage_and_never_the_end,
    what_was_created_during_the_listing_is_no_hole,
    a_log_goes_on_to_what_was_listed_after_it,
    a_gap_is_bridged_or_stepped_over_by_a_base,
    a_gap_before_the_end_is_told_until_somebody_bridges_it,
    a_full_sync_in_an_unbroken_log_changes_nothing,
    a_consolidated_base_within_a_segment_is_followed_by_it,
    nothing_counts_beyond_a_seal,
    what_was_created_under_a_deleted_name_is_no_part_of_the_log,
    a_base_at_the_end_of_a_log_that_was_deleted_before_it_stands_beyond_no_gap,
    two_writers_make_one_log,
    a_command_longer_than_many_segments_leaves_the_boundary_behind,
    a_damaged_link_is_an_error,
);

async fn archive(store: SharedStore, doc: &HistoryDoc) -> Archive {
    let archive = Archive::open_or_create(store, NOW).await.unwrap();
    archive.create_history(doc).await.unwrap();
    archive
}

async fn log_end(archive: &Archive) -> Result<LogEnd, ArchiveError> {
    let catalog = archive.catalog().await.unwrap();
    archive.log_end(&catalog, id(1)).await
}

/// End and boundary.
async fn ends(archive: &Archive) -> (u64, u64) {
    let end = log_end(archive).await.unwrap();
    (end.end.0, end.boundary.offset.0)
}

/// The segments' ranges, and why they end.
async fn chain(archive: &Archive, after: u64) -> Result<(Vec<(u64, u64)>, ChainEnd), ArchiveError> {
    let catalog = archive.catalog().await.unwrap();
    follow(archive, &catalog, after).await
}

async fn follow(
    archive: &Archive,
    catalog: &Catalog,
    after: u64,
) -> Result<(Vec<(u64, u64)>, ChainEnd), ArchiveError> {
    let mut items = archive.chain(catalog, id(1), Offset(after));
    let mut ranges = Vec::new();
    loop {
        match items.try_next().await? {
            Some(ChainItem::Segment(header)) => {
                ranges.push((header.meta.start.0, header.meta.end.0))
            }
            Some(ChainItem::End(end)) => {
                assert_eq!(items.try_next().await.unwrap(), None);
                return Ok((ranges, end));
            }
            None => panic!("it must say why it ends"),
        }
    }
}

fn log_to(end: u64) -> ChainEnd {
    ChainEnd::Log(Offset(end))
}

fn gap(at: u64, next: u64) -> ChainEnd {
    ChainEnd::Gap {
        at: Offset(at),
        next,
    }
}

async fn a_log_without_segments_ends_at_its_base_or_parent(store: SharedStore) {
    let archive = archive(store, &child(1, 2, 50)).await;
    let end = log_end(&archive).await.unwrap();
    assert_eq!(
        end,
        LogEnd {
            end: Offset(50),
            boundary: Boundary {
                offset: Offset(50),
                db: 3
            },
            last_mark: None,
            sealed: None,
            unbridged: None,
        }
    );
    assert_eq!(chain(&archive, 50).await.unwrap(), (vec![], log_to(50)));
    base(&archive, 1, 100).await;
    base(&archive, 1, 200).await;
    let end = log_end(&archive).await.unwrap();
    assert_eq!(
        (end.end, end.boundary.offset, end.boundary.db),
        (Offset(200), Offset(200), 1)
    );
}

async fn what_was_created_during_the_listing_is_no_hole(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (1..=40).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    let whole: Vec<(u64, u64)> = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
    for missed in [
        &[3901][..],
        &[3801],
        &[101],
        &[3701, 3801],
        &[3501, 3801, 3901],
        &[101, 201, 2001],
        &[3601],
        &[301, 3501, 3601],
        &[101, 201, 301],
    ] {
        let mut catalog = archive.catalog().await.unwrap();
        let listed = &mut catalog.histories.get_mut(&id(1)).unwrap().log;
        listed.retain(|object| !missed.contains(&object.first()));
        let last = listed.last().unwrap().first();
        let (end, _) = whole
            .iter()
            .map(|(start, end)| (*end, *start))
            .rfind(|(_, start)| start + 1 == last)
            .unwrap();
        for after in [100, 350, 3600, 3650, 3800] {
            let (ranges, why) = follow(&archive, &catalog, after).await.unwrap();
            let wanted: Vec<(u64, u64)> = whole
                .iter()
                .copied()
                .filter(|range| range.1 > after && range.1 <= end)
                .collect();
            assert_eq!(
                (ranges, why),
                (wanted, log_to(end)),
                "{missed:?} after {after}"
            );
        }
        assert_eq!(
            archive.log_end(&catalog, id(1)).await.unwrap().end,
            Offset(end),
            "{missed:?}"
        );
    }
    // A base of that moment stands beyond no gap.
    base(&archive, 1, 3900).await;
    let mut catalog = archive.catalog().await.unwrap();
    catalog
        .histories
        .get_mut(&id(1))
        .unwrap()
        .log
        .retain(|object| object.first() != 3801);
    let end = archive.log_end(&catalog, id(1)).await.unwrap();
    assert_eq!((end.end, end.unbridged), (Offset(4000), None));
}

async fn a_log_goes_on_to_what_was_listed_after_it(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200, 300, 400, 500]).await;
    archive.create_history(&child(2, 1, 350)).await.unwrap();
    let listed_to = |catalog: &Catalog, last: u64| {
        let mut catalog = catalog.clone();
        let listed = &mut catalog.histories.get_mut(&id(1)).unwrap().log;
        listed.retain(|object| object.first() <= last);
        catalog
    };
    // A history has left it, and was listed later.
    let catalog = listed_to(&archive.catalog().await.unwrap(), 101);
    let ranges = vec![(100, 200), (200, 300), (300, 400)];
    assert_eq!(
        follow(&archive, &catalog, 100).await.unwrap(),
        (ranges, log_to(400))
    );
    let end = archive.log_end(&catalog, id(1)).await.unwrap();
    assert_eq!((end.end, end.unbridged), (Offset(400), None));
    // A base stands in it, and was listed later.
    base(&archive, 1, 450).await;
    let catalog = listed_to(&archive.catalog().await.unwrap(), 201);
    for (after, ranges) in [
        (250, vec![(200, 300), (300, 400), (400, 500)]),
        (300, vec![(300, 400), (400, 500)]),
        (350, vec![(300, 400), (400, 500)]),
        (450, vec![(400, 500)]),
        (500, vec![]),
    ] {
        let followed = follow(&archive, &catalog, after).await.unwrap();
        assert_eq!(followed, (ranges, log_to(500)), "{after}");
    }
    let end = archive.log_end(&catalog, id(1)).await.unwrap();
    assert_eq!((end.end, end.unbridged), (Offset(500), None));
}

async fn a_gap_before_the_end_is_told_until_somebody_bridges_it(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200]).await;
    assert_eq!(log_end(&archive).await.unwrap().unbridged, None);
    // Its writer dies before it joins the log to it.
    base(&archive, 1, 500).await;
    let to = Boundary {
        offset: Offset(500),
        db: 1,
    };
    let gap = Gap {
        from: Offset(200),
        db: 2,
        at_boundary: true,
        to,
    };
    let end = log_end(&archive).await.unwrap();
    assert_eq!((end.end, end.unbridged), (Offset(500), Some(gap)));
    // A writer on the other side meets the bridge, wherever the log is sealed then.
    let end = archive.bridged_end(id(1), "next").await.unwrap();
    assert_eq!(end, Some(Offset(500)));
    let (header, body) = segment(meta(1, 200, 300));
    let met = archive.put(&header, body).await.unwrap_err();
    assert!(matches!(met, AppendError::Taken(_)), "{met}");
    let end = log_end(&archive).await.unwrap();
    assert_eq!((end.end, end.unbridged), (Offset(500), None));
    log(&archive, 1, &[500, 600]).await;
    assert_eq!(log_end(&archive).await.unwrap().unbridged, None);
}

async fn a_log_ends_with_its_last_segment(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200, 300]).await;
    let mut open = meta(1, 300, 400);
    open.boundary = Some(Boundary {
        offset: Offset(333),
        db: 9,
    });
    let (header, body) = segment(open);
    archive.put(&header, body).await.unwrap();
    let end = log_end(&archive).await.unwrap();
    assert_eq!(
        end,
        LogEnd {
            end: Offset(400),
            boundary: Boundary {
                offset: Offset(333),
                db: 9
            },
            last_mark: header.meta.marks.last().copied(),
            sealed: None,
            unbridged: None,
        }
    );
    let all = [(100, 200), (200, 300), (300, 400)];
    for (after, from) in [
        (100, 0),
        (101, 0),
        (199, 0),
        (200, 1),
        (250, 1),
        (399, 2),
        (400, 3),
        (999, 3),
    ] {
        let (ranges, end) = chain(&archive, after).await.unwrap();
        assert_eq!(ranges, all[from..], "after {after}");
        assert_eq!(end, log_to(after.max(400)));
    }
    assert_eq!(chain(&archive, 50).await.unwrap(), (vec![], gap(50, 101)));
}

async fn a_history_of_which_nothing_is_stored_has_no_end(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    assert!(matches!(
        log_end(&archive).await,
        Err(ArchiveError::NothingStored { .. })
    ));
    let catalog = archive.catalog().await.unwrap();
    assert!(matches!(
        archive.log_end(&catalog, id(9)).await,
        Err(ArchiveError::UnknownHistory { .. })
    ));
    let mut items = archive.chain(&catalog, id(9), Offset(0));
    assert!(matches!(
        items.try_next().await,
        Err(ArchiveError::UnknownHistory { .. })
    ));
    // A log whose base is lost still has an end.
    log(&archive, 1, &[100, 200, 300]).await;
    assert_eq!(ends(&archive).await, (300, 300));
}

async fn a_hole_is_damage_and_never_the_end(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    // The segment with 101‥150 was lost.
    log(&archive, 1, &[150, 200, 250, 300]).await;
    assert!(matches!(
        log_end(&archive).await,
        Err(ArchiveError::Missing { .. })
    ));
    assert_eq!(chain(&archive, 100).await.unwrap(), (vec![], gap(100, 151)));
    log(&archive, 1, &[100, 150]).await;
    assert_eq!(ends(&archive).await, (300, 300));
    // And far along the log, with a seal alone behind it.
    let cuts: Vec<u64> = (30..=140).map(|n| n * 10).collect();
    log(&archive, 1, &cuts).await;
    assert_eq!(ends(&archive).await, (1400, 1400));
    let sealed = archive.seal(id(1), Offset(1450), "why", "w", 0).await;
    assert!(sealed.is_ok());
    let error = log_end(&archive).await.unwrap_err();
    assert!(error.to_string().contains("1401"), "{error}");
}

async fn a_gap_is_bridged_or_stepped_over_by_a_base(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200, 300]).await;
    base(&archive, 1, 420).await;
    assert_eq!(ends(&archive).await, (420, 420));
    assert_eq!(chain(&archive, 420).await.unwrap(), (vec![], log_to(420)));
    // Another writer that is still at 300 meets the bridge.
    let mut bridge = meta(1, 300, 420);
    bridge.marks = Vec::new();
    let (header, body) = crate::log::segment::encode_gap(bridge).unwrap();
    archive.put(&header, body).await.unwrap();
    let (late, body) = segment(meta(1, 300, 350));
    match archive.put(&late, body).await {
        Err(AppendError::Taken(entry)) => {
            assert!(matches!(*entry, Entry::Segment(found) if found.is_gap()));
        }
        other => panic!("{other:?}"),
    }
    log(&archive, 1, &[420, 500, 600]).await;
    assert_eq!(ends(&archive).await, (600, 600));
    let bridge = ChainEnd::SteppedOver {
        at: Offset(300),
        resumes: Offset(420),
    };
    let until = chain(&archive, 200).await.unwrap();
    assert_eq!(until, (vec![(200, 300)], bridge.clone()));
    assert_eq!(chain(&archive, 350).await.unwrap().1, bridge);
    let end = chain(&archive, 420).await.unwrap();
    assert_eq!(end, (vec![(420, 500), (500, 600)], log_to(600)));
    // And with a base after a long log and its gap.
    let cuts: Vec<u64> = (6..=60).map(|n| n * 100).collect();
    log(&archive, 1, &cuts).await;
    base(&archive, 1, 7000).await;
    assert_eq!(ends(&archive).await, (7000, 7000));
    log(&archive, 1, &[7000, 7100]).await;
    assert_eq!(ends(&archive).await, (7100, 7100));
    let (ranges, end) = chain(&archive, 420).await.unwrap();
    assert_eq!((ranges.len(), end), (56, gap(6000, 7001)));
}

async fn a_full_sync_in_an_unbroken_log_changes_nothing(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200, 300]).await;
    base(&archive, 1, 250).await;
    assert_eq!(ends(&archive).await, (300, 300));
    for after in [250, 265, 285] {
        let found = chain(&archive, after).await.unwrap();
        assert_eq!(found, (vec![(200, 300)], log_to(300)), "after {after}");
    }
}

async fn a_consolidated_base_within_a_segment_is_followed_by_it(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    let first = base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200, 300, 400]).await;
    let mut writer = archive.begin_base(at(1, 250)).await.unwrap();
    writer.write("REDIS".into()).await.unwrap();
    let stored = writer.finish().await.unwrap();
    let kind = BaseKind::Consolidated { from: Offset(100) };
    archive
        .commit_base(&manifest(1, 250, kind, &stored))
        .await
        .unwrap();
    // What stands before it has been deleted.
    for name in [
        super::super::Name::BaseManifest(first.position()).to_string(),
        super::super::Name::BaseData(first.position()).to_string(),
        log_name(id(1), 101),
    ] {
        archive.store.delete(&name).await.unwrap();
    }
    assert_eq!(ends(&archive).await, (400, 400));
    let after = chain(&archive, 250).await.unwrap();
    assert_eq!(after, (vec![(200, 300), (300, 400)], log_to(400)));
}

async fn nothing_counts_beyond_a_seal(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200, 300]).await;
    archive
        .seal(id(1), Offset(300), "moved", "me", NOW)
        .await
        .unwrap();
    base(&archive, 1, 500).await;
    let end = log_end(&archive).await.unwrap();
    assert_eq!(end.end, Offset(300));
    let seal = end.sealed.unwrap();
    assert_eq!((seal.start, seal.reason.as_str()), (Offset(300), "moved"));
    let sealed = ChainEnd::Sealed(seal);
    assert_eq!(
        chain(&archive, 200).await.unwrap(),
        (vec![(200, 300)], sealed.clone())
    );
    for after in [300, 320, 450] {
        assert_eq!(
            chain(&archive, after).await.unwrap(),
            (vec![], sealed.clone()),
            "{after}"
        );
    }
    assert!(matches!(
        archive.put(&segment(meta(1, 300, 310)).0, "".into()).await,
        Err(super::super::AppendError::Taken(entry)) if matches!(*entry, Entry::Seal(_))
    ));
}

/// By writers, sealers and bridges that slept while the log went on, and while its beginning was deleted.
async fn what_was_created_under_a_deleted_name_is_no_part_of_the_log(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 350).await;
    log(&archive, 1, &[300, 400, 500, 600]).await;
    let whole = [(300, 400), (400, 500), (500, 600)];
    let stale = async |name: u64| {
        assert_eq!(ends(&archive).await, (600, 600), "{name}");
        for (after, from) in [(350, 0), (399, 0), (400, 1), (550, 2), (600, 3)] {
            let wanted = (whole[from..].to_vec(), log_to(600));
            assert_eq!(chain(&archive, after).await.unwrap(), wanted, "{after}");
        }
        archive.store.delete(&log_name(id(1), name)).await.unwrap();
    };
    for (start, end) in [
        (100, 120),
        (100, 300),
        (100, 301),
        (100, 400),
        (200, 450),
        (200, 700),
    ] {
        log(&archive, 1, &[start, end]).await;
        stale(start + 1).await;
    }
    // Several, among the last that are looked at.
    for sealed in [false, true] {
        log(&archive, 1, &[100, 150]).await;
        match sealed {
            false => log(&archive, 1, &[200, 450]).await,
            true => drop(archive.seal(id(1), Offset(200), "slept", "me", NOW).await),
        }
        assert_eq!(ends(&archive).await, (600, 600), "{sealed}");
        archive.store.delete(&log_name(id(1), 101)).await.unwrap();
        stale(201).await;
    }
    let mut bridge = meta(1, 100, 350);
    bridge.marks = Vec::new();
    let (header, body) = crate::log::segment::encode_gap(bridge).unwrap();
    archive.put(&header, body).await.unwrap();
    stale(101).await;
    // One that seals looks, and is told.
    match archive.seal(id(1), Offset(200), "slept", "me", NOW).await {
        Err(AppendError::Passed { next: 301 }) => stale(201).await,
        other => panic!("{other:?}"),
    }
    // And of a log that is sealed, the seal.
    archive
        .seal(id(1), Offset(600), "moved", "me", NOW)
        .await
        .unwrap();
    match archive.seal(id(1), Offset(200), "slept", "me", NOW).await {
        Err(AppendError::Passed { next: 301 }) => {}
        other => panic!("{other:?}"),
    }
    let end = log_end(&archive).await.unwrap();
    assert_eq!(
        (end.end, end.sealed.unwrap().start),
        (Offset(600), Offset(600))
    );
    for first in [301, 401, 501] {
        archive.store.delete(&log_name(id(1), first)).await.unwrap();
    }
    match archive.seal(id(1), Offset(200), "slept", "me", NOW).await {
        Err(AppendError::Taken(entry)) => assert_eq!(entry.start(), Offset(600)),
        other => panic!("{other:?}"),
    }
}

/// The parent is where the log began once.
async fn a_base_at_the_end_of_a_log_that_was_deleted_before_it_stands_beyond_no_gap(
    store: SharedStore,
) {
    let archive = archive(store, &child(1, 2, 50)).await;
    log(&archive, 1, &[200, 300]).await;
    base(&archive, 1, 300).await;
    let end = log_end(&archive).await.unwrap();
    assert_eq!((end.end, end.unbridged), (Offset(300), None));
}

/// A writer as a capture is: on after what the winner has stored.
async fn write_on(archive: Archive, upto: u64, step: u64) -> u64 {
    let mut at = 100;
    let mut won = 0;
    while at < upto {
        let (header, body) = segment(meta(1, at, at + step));
        match archive.put(&header, body).await {
            Ok(()) => {
                at += step;
                won += 1;
            }
            Err(super::super::AppendError::Taken(entry)) => match *entry {
                Entry::Segment(theirs) => at = theirs.meta.end.0,
                Entry::Seal(_) => break,
            },
            Err(error) => panic!("{error}"),
        }
        tokio::task::yield_now().await;
    }
    won
}

async fn two_writers_make_one_log(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    let one = tokio::spawn(write_on(archive.clone(), 4000, 70));
    let other = tokio::spawn(write_on(archive.clone(), 4000, 110));
    let written = one.await.unwrap() + other.await.unwrap();
    let (ranges, end) = chain(&archive, 100).await.unwrap();
    assert_eq!(ranges.len() as u64, written);
    assert!(ranges.windows(2).all(|pair| pair[0].1 == pair[1].0));
    let last = ranges.last().unwrap().1;
    assert!(last >= 4000);
    assert_eq!(end, log_to(last));
    assert_eq!(ends(&archive).await, (last, last));
}

async fn a_command_longer_than_many_segments_leaves_the_boundary_behind(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (10..=90).map(|n| n * 10).collect();
    log(&archive, 1, &cuts).await;
    for start in (900..2200).step_by(10) {
        let mut inside = meta(1, start, start + 10);
        inside.boundary = None;
        inside.starts_at_boundary = start == 900;
        let (header, body) = segment(inside);
        archive.put(&header, body).await.unwrap();
    }
    assert_eq!(ends(&archive).await, (2200, 900));
}

async fn a_damaged_link_is_an_error(store: SharedStore) {
    let archive = archive(store, &history(1)).await;
    base(&archive, 1, 100).await;
    log(&archive, 1, &[100, 200, 300, 400]).await;
    let name = log_name(id(1), 301);
    let whole = object(&archive, &name).await;
    for spoilt in [&b"rubbish"[..], &whole[..40]] {
        replace(&archive, &name, spoilt.to_vec()).await;
        for error in [
            log_end(&archive).await.map(|_| ()),
            chain(&archive, 100).await.map(|_| ()),
            chain(&archive, 300).await.map(|_| ()),
            chain(&archive, 350).await.map(|_| ()),
        ] {
            let error = error.unwrap_err();
            assert!(error.to_string().starts_with(&name), "{error}");
        }
    }
}

#[tokio::test]
async fn the_end_of_a_long_log_is_found_by_a_few_small_reads() {
    let store = MemoryStore::new();
    let archive = archive(store.shared(), &history(1)).await;
    base(&archive, 1, 100).await;
    let cuts: Vec<u64> = (10..=1000).map(|n| n * 10).collect();
    log(&archive, 1, &cuts).await;
    let catalog = archive.catalog().await.unwrap();
    let before = store.calls().len();
    let end = archive.log_end(&catalog, id(1)).await.unwrap();
    assert_eq!(end.end, Offset(10_000));
    assert_eq!(store.calls().len() - before, LOOK_BACK);
}
