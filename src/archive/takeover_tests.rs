#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use super::super::testing::{at, base_of, child, floor, history, id, on_both_stores};
use super::*;
use bytes::Bytes;

use crate::store::{MemoryStore, SharedStore};

on_both_stores!(
    of_two_children_of_one_history_one_goes_on,
    a_branch_that_was_not_served_from_here_is_a_second_child,
    a_run_that_nobody_claimed_was_not_served,
    what_a_dead_writer_recorded_is_completed_by_the_next,
    claims_are_counted_and_nobody_overwrites_one,
    of_two_that_find_an_empty_store_one_is_first,
    the_one_that_was_not_first_leaves_nothing_in_the_store,
);

async fn archive(store: SharedStore) -> Archive {
    Archive::open_or_create(store, 0).await.unwrap()
}

fn claimant(n: u8) -> Claimant {
    Claimant {
        writer: format!("w{n}"),
        redis: Some(format!("run{n}")),
        now_unix_ms: 5,
    }
}

const STANDS: Duration = Duration::from_millis(6_000);

async fn of_two_children_of_one_history_one_goes_on(store: SharedStore) {
    let archive = archive(store).await;
    archive.create_history(&history(1)).await.unwrap();
    archive.claim(id(1), 1, &claimant(1), STANDS).await.unwrap();
    let begin = |n: u8| {
        let archive = archive.clone();
        tokio::spawn(async move {
            let doc = child(n, 1, 100);
            archive.begin_history(&doc, None, &format!("w{n}")).await
        })
    };
    let (two, three) = (begin(2), begin(3));
    let (two, three) = (two.await.unwrap(), three.await.unwrap());
    let (winner, loser) = match (two, three) {
        (Ok(()), Err(SuccessionError::GoesOn(_))) => (2, 3),
        (Err(SuccessionError::GoesOn(_)), Ok(())) => (3, 2),
        other => panic!("{other:?}"),
    };
    let successor = archive.successor(id(1)).await.unwrap().unwrap();
    assert_eq!(successor.child, child(winner, 1, 100));
    let catalog = archive.catalog().await.unwrap();
    assert!(catalog.histories.contains_key(&id(winner)));
    assert!(!catalog.histories.contains_key(&id(loser)));
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    // Again, whoever is asked: the answer stays.
    for _ in 0..2 {
        let doc = child(winner, 1, 100);
        archive.begin_history(&doc, None, "again").await.unwrap();
        let doc = child(loser, 1, 100);
        let lost = archive.begin_history(&doc, None, "again").await;
        let Err(SuccessionError::GoesOn(other)) = lost else {
            panic!("{lost:?}");
        };
        assert_eq!((other.child.id, other.history), (id(winner), Some(id(1))));
    }
}

async fn a_branch_that_was_not_served_from_here_is_a_second_child(store: SharedStore) {
    let archive = archive(store).await;
    archive.create_history(&history(1)).await.unwrap();
    archive
        .begin_history(&child(2, 1, 100), None, "w")
        .await
        .unwrap();
    // From the same point, as after two failovers: nobody served it.
    archive
        .begin_history(&child(3, 1, 100), None, "w")
        .await
        .unwrap();
    archive.claim(id(1), 1, &claimant(1), STANDS).await.unwrap();
    // From an earlier point, as from an older RDB.
    archive
        .begin_history(&child(4, 1, 50), None, "w")
        .await
        .unwrap();
    let begun = archive.begin_history(&child(5, 1, 100), None, "w").await;
    assert!(
        matches!(begun, Err(SuccessionError::GoesOn(_))),
        "{begun:?}"
    );
    // What takes the place of another is no branch, served or not.
    archive.create_history(&history(6)).await.unwrap();
    for (n, goes_on) in [(7, true), (8, false), (7, true)] {
        let mut doc = history(n);
        doc.previous = Some(at(6, 10));
        let begun = archive.begin_history(&doc, None, "w").await;
        assert_eq!(begun.is_ok(), goes_on, "{n}: {begun:?}");
    }
    // Nor is one that was served the very point at which another one, which had to send a snapshot, has taken its
    // place.
    archive.claim(id(6), 1, &claimant(1), STANDS).await.unwrap();
    for (offset, goes_on) in [(10, false), (9, true)] {
        let doc = child(9, 6, offset);
        let begun = archive.begin_history(&doc, None, "w").await;
        assert_eq!(begun.is_ok(), goes_on, "{offset}: {begun:?}");
    }
}

async fn a_run_that_nobody_claimed_was_not_served(store: SharedStore) {
    let archive = archive(store).await;
    archive.create_history(&history(1)).await.unwrap();
    archive.claim(id(1), 1, &claimant(1), STANDS).await.unwrap();
    archive.claim(id(1), 2, &claimant(2), STANDS).await.unwrap();
    archive.claim(id(1), 3, &claimant(2), STANDS).await.unwrap();
    archive
        .begin_history(&child(2, 1, 100), None, "w")
        .await
        .unwrap();
    for (run, goes_on) in [
        (Some("run1"), false),
        (Some("run2"), false),
        (None, false),
        (Some("run3"), true),
    ] {
        let doc = child(3, 1, 100);
        let branch = Branch { run, seen: None };
        let begun = archive.begin_branch(&doc, None, "w", branch).await;
        assert_eq!(begun.is_ok(), goes_on, "{run:?}: {begun:?}");
    }
    // Who decided before the other one began did not consider it.
    for (seen, goes_on) in [(vec![id(1)], false), (vec![id(1), id(2)], true)] {
        let seen = BTreeSet::from_iter(seen);
        let doc = child(9, 1, 100);
        let branch = Branch {
            run: Some("run3"),
            seen: Some(&seen),
        };
        let begun = archive.begin_branch(&doc, None, "w", branch).await;
        match begun {
            Err(SuccessionError::Beside(other)) => assert!(other == id(2) && !goes_on),
            begun => assert!(begun.is_ok() && goes_on, "{begun:?}"),
        }
        let is_there = archive
            .outline()
            .await
            .unwrap()
            .histories
            .contains_key(&id(9));
        assert_eq!(is_there, goes_on);
    }
    // A claim that does not say whose it is may be anybody's.
    let unnamed = Claimant {
        redis: None,
        ..claimant(4)
    };
    archive.claim(id(1), 4, &unnamed, STANDS).await.unwrap();
    let served = archive.served_to_another(id(1), Offset(100), id(4), Some("run3"));
    assert_eq!(served.await.unwrap().unwrap().child.id, id(2));
}

async fn what_a_dead_writer_recorded_is_completed_by_the_next(store: SharedStore) {
    let archive = archive(store.clone()).await;
    archive.create_history(&history(1)).await.unwrap();
    let mut doc = history(2);
    doc.previous = Some(at(1, 10));
    let raw = bytes::Bytes::from_static(b"REDIS0010 and so on");
    archive.create_history(&doc).await.unwrap();
    let base = base_of(&archive, 2, 70, &raw).await;
    archive
        .begin_history(&doc, Some(&base), "w2")
        .await
        .unwrap();
    // It dies before the two documents.
    for object in [
        Name::History(id(2)).to_string(),
        Name::BaseManifest(base.position()).to_string(),
    ] {
        store.delete(&object).await.unwrap();
    }
    let mut other = history(3);
    other.previous = Some(at(1, 10));
    let begun = archive.begin_history(&other, None, "w3").await;
    assert!(
        matches!(begun, Err(SuccessionError::GoesOn(_))),
        "{begun:?}"
    );
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(catalog.histories[&id(2)].doc, doc);
    assert_eq!(catalog.histories[&id(2)].bases, [base]);
}

async fn claims_are_counted_and_nobody_overwrites_one(store: SharedStore) {
    let archive = archive(store).await;
    assert_eq!(archive.last_claim(id(1)).await.unwrap(), None);
    for n in 1..=12 {
        let claimed = archive.claim(id(1), n, &claimant(1), STANDS).await.unwrap();
        let Claimed::Now(claim) = claimed else {
            panic!("{claimed:?}");
        };
        assert!(claim.is_of(&claimant(1)) && !claim.is_of(&claimant(2)));
        assert_eq!(archive.last_claim(id(1)).await.unwrap(), Some(claim));
    }
    let theirs = archive.claim(id(1), 12, &claimant(2), STANDS).await;
    assert!(matches!(theirs.unwrap(), Claimed::Before(doc) if doc.writer == "w1"));
    // A process that is started again beside the same Redis.
    let again = Claimant {
        writer: "other".to_owned(),
        ..claimant(1)
    };
    let last = archive.last_claim(id(1)).await.unwrap().unwrap();
    assert!(last.is_of(&again));
    assert_eq!((last.number, last.stands()), (12, STANDS));
    assert_eq!(archive.last_claim(id(2)).await.unwrap(), None);
}

async fn of_two_that_find_an_empty_store_one_is_first(store: SharedStore) {
    let archive = archive(store.clone()).await;
    let raw = bytes::Bytes::from_static(b"REDIS0010 and so on");
    let mut bases = Vec::new();
    for n in [1, 2] {
        let base = base_of(&archive, n, 0, &raw).await;
        let manifest = Name::BaseManifest(base.position()).to_string();
        store.delete(&manifest).await.unwrap();
        bases.push(base);
    }
    for _ in 0..2 {
        let begun = archive
            .begin_first(&history(1), Some(&bases[0]), "w1")
            .await;
        begun.unwrap();
        let begun = archive
            .begin_first(&history(2), Some(&bases[1]), "w2")
            .await;
        let Err(SuccessionError::GoesOn(other)) = begun else {
            panic!("{begun:?}");
        };
        assert_eq!((other.child.id, other.history), (id(1), None));
        assert!(other.says().contains("which was empty"), "{}", other.says());
    }
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(catalog.latest(None), Ok(Some(id(1))));
    assert!(!catalog.histories.contains_key(&id(2)));
}

async fn the_one_that_was_not_first_leaves_nothing_in_the_store(store: SharedStore) {
    let archive = archive(store.clone()).await;
    let (one, two) = (history(1), history(2));
    let (one, two) = tokio::join!(
        archive.begin_first(&one, None, "w1"),
        archive.begin_first(&two, None, "w2")
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    let first = if one.is_ok() { 1 } else { 2 };
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(catalog.latest(None), Ok(Some(id(first))));
    assert!(catalog.problems.is_empty(), "{:?}", catalog.problems);
    let ids: Vec<_> = catalog.histories.keys().copied().collect();
    assert_eq!(ids, [id(first)]);
    // The first one dies before its base: whoever comes next stores that.
    let at = begins_at(&history(first));
    for object in [Name::BaseManifest(at), Name::BaseData(at)] {
        store.delete(&object.to_string()).await.unwrap();
        let begun = archive.begin_first(&history(3), None, "w3").await;
        assert!(
            matches!(begun, Err(SuccessionError::GoesOn(_))),
            "{begun:?}"
        );
        let catalog = archive.catalog().await.unwrap();
        assert_eq!(catalog.latest(None), Ok(Some(id(first))));
    }
}

#[tokio::test]
async fn what_expired_is_not_completed_again() {
    for (has_base, has_floor, has_data) in [
        (true, false, true),
        (true, true, true),
        (true, false, false),
        (false, false, true),
        (false, true, true),
    ] {
        let store = MemoryStore::new();
        let archive = archive(store.shared()).await;
        let offset = if has_base { 100 } else { 1 };
        let mut base = None;
        if has_base {
            base = Some(base_of(&archive, 2, offset, &Bytes::from_static(b"RDB")).await);
        }
        let doc = history(2);
        let first = archive.begin_first(&doc, base.as_ref(), "w1").await;
        first.unwrap();
        let at = base.map_or(begins_at(&doc), |base| base.position());
        let manifest = Name::BaseManifest(at).to_string();
        store.remove(&manifest);
        if has_floor {
            let floor = floor(2, at.offset.0 + 10, &[]);
            archive.create_floor(&floor).await.unwrap();
        }
        if !has_data {
            store.remove(&Name::BaseData(at).to_string());
        }
        let recorded = archive.recorded(None).await.unwrap().unwrap();
        archive.complete(&recorded).await.unwrap();
        let completed = store.object(&manifest).is_some();
        assert_eq!(completed, !has_floor && has_data, "{has_base} {has_floor}");
    }
}
