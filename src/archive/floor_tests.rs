#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::super::testing::*;
use super::*;
use crate::store::MemoryStore;

async fn archive(store: &MemoryStore) -> Archive {
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    archive.create_history(&history(1)).await.unwrap();
    archive
}

#[tokio::test]
async fn the_highest_floor_counts_and_the_first_of_two_that_are_the_same() {
    let store = MemoryStore::new();
    let archive = archive(&store).await;
    assert_eq!(archive.floors(id(1)).await.unwrap(), Floors::default());
    for (now, offset, alone) in [(1, 300, &[100][..]), (2, 200, &[150]), (3, 300, &[])] {
        store.set_clock(Some(now));
        archive
            .create_floor(&floor(1, offset, alone))
            .await
            .unwrap();
    }
    let floors = archive.floors(id(1)).await.unwrap();
    let highest = floors.highest().unwrap();
    assert_eq!((highest.offset, highest.created), (Offset(300), Some(1)));
    assert_eq!(highest.doc, Some(floor(1, 300, &[100])));
    for (at, below) in [(0, true), (299, true), (300, false), (301, false)] {
        assert_eq!(floors.is_below(Offset(at)), below, "{at}");
    }
    // A lower floor may have been acted on.
    for (base, alone) in [
        (50, false),
        (100, true),
        (150, true),
        (250, false),
        (300, false),
    ] {
        assert_eq!(floors.is_alone(Offset(base)), alone, "{base}");
    }
    let catalog = archive.catalog().await.unwrap();
    assert_eq!(catalog.histories[&id(1)].floors, floors);
    assert!(catalog.problems.is_empty());
}

#[tokio::test]
async fn the_name_of_a_floor_that_cannot_be_read_counts() {
    let store = MemoryStore::new();
    let archive = archive(&store).await;
    store.put(&Name::Floor(at(1, 200)).to_string(), "damaged");
    let floors = archive.floors(id(1)).await.unwrap();
    assert!(floors.is_below(Offset(199)) && !floors.is_below(Offset(200)));
    assert!(floors.is_alone(Offset(199)) && !floors.is_alone(Offset(200)));
    assert_eq!(floors.highest().unwrap().doc, None);
}
