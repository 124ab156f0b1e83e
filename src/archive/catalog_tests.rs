#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::super::testing::{child, history, id, manifest};
use super::super::{BaseDigest, BaseKind, StoredBase};
use super::*;
use crate::archive::digest::Digest;

fn catalog(histories: &[(HistoryDoc, &[u64])]) -> Catalog {
    let histories = histories.iter().map(|(doc, bases)| {
        let n = u8::from_str_radix(&doc.id.as_str()[..2], 16).unwrap();
        let base = |offset: &u64| {
            let stored = StoredBase {
                at: Position {
                    history: doc.id,
                    offset: Offset(*offset),
                },
                raw_bytes: 1,
                stored_bytes: 1,
                crc64: 1,
                digest: BaseDigest::new(&Digest::new(), &Digest::new()),
            };
            manifest(n, *offset, BaseKind::Sync, &stored)
        };
        let history = History {
            doc: doc.clone(),
            bases: bases.iter().map(base).collect(),
            drilled: std::collections::BTreeMap::new(),
            verified: BTreeSet::new(),
            log: Vec::new(),
            problems: Vec::new(),
            extent: Extent::whole(),
            floors: Floors::default(),
            stored_log: Amount::default(),
        };
        (doc.id, history)
    });
    Catalog {
        histories: histories.collect(),
        ..Catalog::default()
    }
}

fn lineage(catalog: &Catalog, n: u8) -> Vec<(ReplId, u64)> {
    let lineage = catalog.lineage(id(n)).unwrap();
    lineage.iter().map(|at| (at.history, at.offset.0)).collect()
}

fn of_service(mut doc: HistoryDoc, service: &str) -> HistoryDoc {
    service.clone_into(&mut doc.service);
    doc
}

fn after(mut doc: HistoryDoc, previous: u8) -> HistoryDoc {
    doc.previous = Some(Position {
        history: id(previous),
        offset: Offset(1),
    });
    doc
}

#[test]
fn a_lineage_goes_from_child_to_root() {
    let catalog = catalog(&[
        (history(1), &[10]),
        (child(2, 1, 100), &[]),
        (child(3, 2, 200), &[]),
    ]);
    assert_eq!(lineage(&catalog, 1), [(id(1), u64::MAX)]);
    assert_eq!(
        lineage(&catalog, 3),
        [(id(3), u64::MAX), (id(2), 200), (id(1), 100)]
    );
    assert!(matches!(
        catalog.lineage(id(9)),
        Err(ArchiveError::UnknownHistory { id: it }) if it == id(9)
    ));
}

#[test]
fn less_is_shared_with_an_ancestor_that_was_left_earlier() {
    let catalog = catalog(&[
        (history(1), &[]),
        (child(2, 1, 300), &[]),
        (child(3, 2, 200), &[]),
    ]);
    assert_eq!(
        lineage(&catalog, 3),
        [(id(3), u64::MAX), (id(2), 200), (id(1), 200)]
    );
}

#[test]
fn a_lineage_stops_before_a_missing_parent_and_refuses_a_circle() {
    let open = catalog(&[(child(2, 1, 100), &[])]);
    assert_eq!(lineage(&open, 2), [(id(2), u64::MAX)]);
    let circle = catalog(&[
        (child(1, 3, 5), &[1]),
        (child(2, 1, 5), &[]),
        (child(3, 2, 5), &[]),
    ]);
    for n in 1..=3 {
        assert!(matches!(
            circle.lineage(id(n)),
            Err(ArchiveError::Cycle { .. })
        ));
        assert!(!circle.is_restorable(id(n)));
    }
    let own = catalog(&[(child(1, 1, 5), &[1])]);
    assert!(matches!(
        own.lineage(id(1)),
        Err(ArchiveError::Cycle { .. })
    ));
}

#[test]
fn a_history_can_be_restored_from_a_base_at_or_before_where_it_left() {
    let catalog = catalog(&[
        (history(1), &[100]),
        (child(2, 1, 100), &[]),
        (child(3, 1, 99), &[]),
        (child(4, 3, 200), &[]),
        (child(5, 3, 200), &[150]),
        (history(6), &[]),
    ]);
    let restorable: Vec<bool> = (1..=7).map(|n| catalog.is_restorable(id(n))).collect();
    assert_eq!(restorable, [true, true, false, false, true, false, false]);
}

#[test]
fn the_latest_is_the_only_one_that_nobody_follows() {
    assert_eq!(catalog(&[]).latest(None), Ok(None));
    assert_eq!(catalog(&[(history(1), &[])]).latest(None), Ok(None));
    let by_parent = catalog(&[
        (history(1), &[1]),
        (child(2, 1, 5), &[]),
        (child(3, 2, 5), &[]),
    ]);
    assert_eq!(by_parent.latest(None), Ok(Some(id(3))));
    let by_previous = catalog(&[(history(1), &[1]), (after(history(2), 1), &[1])]);
    assert_eq!(by_previous.latest(None), Ok(Some(id(2))));
    assert_eq!(by_previous.latest(Some("somebody else")), Ok(Some(id(2))));
}

#[test]
fn what_cannot_be_restored_supersedes_nothing() {
    // A full sync that has not finished, and a child of what was lost.
    let catalog = catalog(&[
        (history(1), &[1]),
        (after(history(2), 1), &[]),
        (after(child(3, 9, 5), 1), &[]),
    ]);
    assert_eq!(catalog.latest(None), Ok(Some(id(1))));
}

#[test]
fn of_two_branches_the_service_takes_its_own() {
    let catalog = catalog(&[
        (of_service(history(1), "a"), &[1]),
        (of_service(child(2, 1, 5), "a"), &[]),
        (of_service(child(3, 1, 5), "b"), &[]),
    ]);
    let branches = Ambiguous(vec![id(2), id(3)]);
    let both = Err(branches.clone());
    assert_eq!(catalog.latest(None), both);
    assert_eq!(catalog.latest(Some("c")), both);
    assert_eq!(catalog.latest(Some("a")), Ok(Some(id(2))));
    assert_eq!(catalog.latest(Some("b")), Ok(Some(id(3))));
    let message = branches.to_string();
    assert!(
        message.contains(&format!("{}, {}", id(2), id(3))),
        "{message}"
    );
}

#[test]
fn two_branches_of_one_service_are_ambiguous() {
    let catalog = catalog(&[
        (history(1), &[1]),
        (child(2, 1, 5), &[]),
        (child(3, 1, 6), &[]),
    ]);
    assert!(catalog.latest(Some("redis:6379")).is_err());
}

#[test]
fn a_history_comes_after_all_the_branches_that_it_names() {
    let mut third = child(4, 1, 7);
    for branch in [2, 3] {
        third.comes_after(Position {
            history: id(branch),
            offset: Offset(9),
        });
    }
    let catalog = catalog(&[
        (history(1), &[1]),
        (child(2, 1, 5), &[]),
        (child(3, 1, 6), &[]),
        (third, &[]),
    ]);
    assert_eq!(catalog.latest(None), Ok(Some(id(4))));
    let tips: Vec<ReplId> = catalog.tips().iter().map(|doc| doc.id).collect();
    assert_eq!(tips, [id(4)]);
}

#[test]
fn histories_that_name_each_other_are_ambiguous_and_not_nothing() {
    let catalog = catalog(&[(after(history(1), 2), &[1]), (after(history(2), 1), &[1])]);
    assert_eq!(catalog.latest(None), Err(Ambiguous(vec![id(1), id(2)])));
    let own = self::catalog(&[(after(history(1), 1), &[1])]);
    assert_eq!(own.latest(None), Ok(Some(id(1))));
}

#[test]
fn nothing_is_chosen_while_a_history_cannot_be_read() {
    let mut catalog = catalog(&[(history(1), &[1])]);
    catalog.unreadable.insert(id(2), "spoilt".to_owned());
    assert_eq!(catalog.latest(None), Err(Ambiguous(vec![id(1), id(2)])));
    catalog.histories.clear();
    assert_eq!(catalog.latest(None), Err(Ambiguous(vec![id(2)])));
}
