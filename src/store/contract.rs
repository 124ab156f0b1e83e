//! What every store must do: one suite for all backends.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use bytes::BytesMut;
use futures::TryStreamExt;

use super::*;

/// Runs the whole suite. `fresh` makes an empty store.
pub(super) async fn run(fresh: impl Fn() -> SharedStore) {
    run_without(fresh, &[]).await;
}

/// The same, for a store whose service would change these names: it refuses them.
pub(super) async fn run_without(fresh: impl Fn() -> SharedStore, refused: &[&str]) {
    an_object_is_created_once(&*fresh()).await;
    a_create_says_when_it_was(&*fresh()).await;
    of_concurrent_creates_exactly_one_wins(fresh()).await;
    bytes_come_back(&*fresh()).await;
    ranges_are_cut_at_the_end(&*fresh()).await;
    a_large_upload_comes_back_in_bounded_pieces(&*fresh()).await;
    an_upload_counts_only_when_committed(&*fresh()).await;
    an_upload_creates_once_too(&*fresh()).await;
    what_is_not_there_is_not_found(&*fresh()).await;
    listing_goes_by_full_names(&*fresh()).await;
    a_long_listing_is_complete(&*fresh()).await;
    folders_stand_for_what_is_below_them(&*fresh()).await;
    odd_names_work_and_bad_ones_are_refused(&*fresh(), refused).await;
    an_object_can_be_deleted(&*fresh()).await;
}

async fn read(store: &dyn Store, name: &str, range: Option<Range<u64>>) -> Bytes {
    let pieces: Vec<Bytes> = store
        .read(name, range)
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let mut stream = store.list(name, None).await;
    while stream.try_next().await.unwrap().is_some() {}
    assert!(stream.try_next().await.unwrap().is_none());
    let mut stream = store.read(name, Some(0..1)).await.unwrap();
    while stream.try_next().await.unwrap().is_some() {}
    assert!(
        stream.try_next().await.unwrap().is_none(),
        "it ends for good"
    );
    let mut all = BytesMut::new();
    for piece in pieces {
        assert!(!piece.is_empty() && piece.len() <= 1 << 20);
        all.extend_from_slice(&piece);
    }
    all.freeze()
}

async fn names(store: &dyn Store, prefix: &str, from: Option<&str>) -> Vec<String> {
    let found: Vec<ObjectMeta> = store.list(prefix, from).await.try_collect().await.unwrap();
    found.into_iter().map(|object| object.name).collect()
}

fn text(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn an_object_is_created_once(store: &dyn Store) {
    store.create("a/b", text("first")).await.unwrap();
    let again = store.create("a/b", text("second")).await.unwrap_err();
    assert!(matches!(&again, StoreError::AlreadyExists { name, .. } if name == "a/b"));
    assert!(!again.is_transient());
    assert_eq!(read(store, "a/b", None).await, "first");
}

/// All by one clock, of which some tell seconds. A listing says the same.
async fn a_create_says_when_it_was(store: &dyn Store) {
    let mut last = None;
    for name in ["log/1", "log/2"] {
        let created = store.create(name, text("x")).await.unwrap().unwrap();
        assert!(
            last.is_none_or(|last| last <= created + 1000),
            "{last:?} {created}"
        );
        last = Some(created);
        match store.create(name, text("y")).await {
            Err(StoreError::AlreadyExists {
                created: Some(said),
                ..
            }) => {
                assert!(said.abs_diff(created) <= 2000, "{said} {created}");
            }
            other => panic!("{other:?}"),
        }
        let listed: Vec<ObjectMeta> = store.list(name, None).await.try_collect().await.unwrap();
        let said = listed[0].created.unwrap();
        assert!(said.abs_diff(created) <= 2000, "{said} {created}");
    }
    let folders = store.list_with(Listing::of("").folders()).await;
    let folders: Vec<ObjectMeta> = folders.try_collect().await.unwrap();
    assert_eq!(folders[0].created, None);
}

async fn of_concurrent_creates_exactly_one_wins(store: SharedStore) {
    for round in 0..10 {
        let name = format!("new{round}/contested");
        let tries = (0..8_u8).map(|who| {
            let (store, name) = (store.clone(), name.clone());
            tokio::spawn(async move {
                let body = Bytes::from(vec![who; 1000]);
                if who % 2 == 0 {
                    return (who, store.create(&name, body).await.map(|_| ()));
                }
                let mut upload = store.upload(&name).await.unwrap();
                upload.write(body).await.unwrap();
                (who, upload.commit().await)
            })
        });
        let mut winners = Vec::new();
        for outcome in futures::future::join_all(tries).await {
            match outcome.unwrap() {
                (who, Ok(_)) => winners.push(who),
                (_, Err(error)) => assert!(matches!(error, StoreError::AlreadyExists { .. })),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(read(&*store, &name, None).await, vec![winners[0]; 1000]);
    }
}

async fn bytes_come_back(store: &dyn Store) {
    store.create("empty", Bytes::new()).await.unwrap();
    assert_eq!(read(store, "empty", None).await, "");
    assert_eq!(read(store, "empty", Some(0..10)).await, "");
    let all: Bytes = (0..3_000_000_u32).map(|n| (n / 7) as u8).collect();
    store.create("large", all.clone()).await.unwrap();
    assert_eq!(read(store, "large", None).await, all);
    let sizes: Vec<ObjectMeta> = store.list("", None).await.try_collect().await.unwrap();
    let sizes: Vec<u64> = sizes.iter().map(|object| object.size).collect();
    assert_eq!(sizes, [0, 3_000_000]);
}

async fn ranges_are_cut_at_the_end(store: &dyn Store) {
    store.create("digits", text("0123456789")).await.unwrap();
    assert_eq!(read(store, "digits", Some(0..3)).await, "012");
    assert_eq!(read(store, "digits", Some(3..7)).await, "3456");
    assert_eq!(read(store, "digits", Some(7..99)).await, "789");
    assert_eq!(read(store, "digits", Some(0..u64::MAX)).await, "0123456789");
    assert_eq!(read(store, "digits", Some(10..20)).await, "");
    assert_eq!(read(store, "digits", Some(20..30)).await, "");
    assert_eq!(read(store, "digits", Some(4..4)).await, "");
}

async fn a_large_upload_comes_back_in_bounded_pieces(store: &dyn Store) {
    let piece = |n: u8| Bytes::from(vec![n; 700_000]);
    let mut upload = store.upload("up/large").await.unwrap();
    for n in 0..70 {
        upload.write(piece(n)).await.unwrap();
    }
    upload.commit().await.unwrap();
    let mut stream = store.read("up/large", None).await.unwrap();
    let mut rest = BytesMut::new();
    let mut n = 0;
    while let Some(bytes) = stream.try_next().await.unwrap() {
        assert!(bytes.len() <= 1 << 20);
        rest.extend_from_slice(&bytes);
        while rest.len() >= 700_000 {
            assert_eq!(rest.split_to(700_000), piece(n), "piece {n}");
            n += 1;
        }
    }
    assert_eq!((n, rest.len()), (70, 0));
}

async fn an_upload_counts_only_when_committed(store: &dyn Store) {
    let mut upload = store.upload("up/a").await.unwrap();
    upload.write(text("part")).await.unwrap();
    assert_eq!(names(store, "", None).await, [""; 0]);
    assert!(matches!(
        store.read("up/a", None).await,
        Err(StoreError::NotFound { .. })
    ));
    drop(upload);
    assert_eq!(names(store, "", None).await, [""; 0]);
    store.create("up/a", text("another")).await.unwrap();
    let empty = store.upload("up/empty").await.unwrap();
    empty.commit().await.unwrap();
    assert_eq!(names(store, "", None).await, ["up/a", "up/empty"]);
    assert_eq!(read(store, "up/empty", None).await, "");
}

async fn an_upload_creates_once_too(store: &dyn Store) {
    let mut upload = store.upload("one").await.unwrap();
    upload.write(text("slow")).await.unwrap();
    store.create("one", text("quick")).await.unwrap();
    let error = upload.commit().await.unwrap_err();
    assert!(matches!(&error, StoreError::AlreadyExists { name, .. } if name == "one"));
    assert_eq!(read(store, "one", None).await, "quick");
}

async fn what_is_not_there_is_not_found(store: &dyn Store) {
    store.create("d/x", Bytes::new()).await.unwrap();
    for name in ["nothing", "d", "d/y", "d/x/y"] {
        let error = store.read(name, None).await.map(|_| ()).unwrap_err();
        assert!(
            matches!(&error, StoreError::NotFound { name: it } if it == name),
            "{error}"
        );
    }
    assert_eq!(names(store, "nothing/", None).await, [""; 0]);
}

async fn listing_goes_by_full_names(store: &dyn Store) {
    // Bytewise `-` < `.` < `/` < `0`, which trips a walk that sorts each directory by itself.
    let all = ["a-b", "a.b", "a/b", "a/b.c", "a/c/d", "a0", "ab/x", "b"];
    for name in all.iter().rev() {
        store.create(name, Bytes::new()).await.unwrap();
    }
    assert_eq!(names(store, "", None).await, all);
    assert_eq!(names(store, "a/", None).await, ["a/b", "a/b.c", "a/c/d"]);
    assert_eq!(names(store, "a/b", None).await, ["a/b", "a/b.c"]);
    assert_eq!(names(store, "a", None).await, all[..7]);
    assert_eq!(names(store, "a/c/d", None).await, ["a/c/d"]);
    assert_eq!(names(store, "a/c/d/", None).await, [""; 0]);
    for (at, from) in all.iter().enumerate() {
        assert_eq!(names(store, "", Some(from)).await, all[at..], "from {from}");
    }
    assert_eq!(names(store, "", Some("a/b.")).await, all[3..]);
    assert_eq!(names(store, "", Some("a/c")).await, all[4..]);
    assert_eq!(names(store, "a/", Some("a/b.c")).await, ["a/b.c", "a/c/d"]);
    assert_eq!(
        names(store, "a/", Some("")).await,
        ["a/b", "a/b.c", "a/c/d"]
    );
    assert_eq!(names(store, "a/", Some("z")).await, [""; 0]);
}

async fn a_long_listing_is_complete(store: &dyn Store) {
    let all: Vec<String> = (0..2500).map(|n| format!("log/{n:020}.x")).collect();
    let creates = all.chunks(250).map(|names| async move {
        for name in names {
            store.create(name, Bytes::new()).await.unwrap();
        }
    });
    futures::future::join_all(creates).await;
    assert_eq!(names(store, "log/", None).await, all);
    assert_eq!(names(store, "log/", Some(&all[1200])).await, all[1200..]);
    // Nobody need read a listing to its end.
    let mut stream = store.list("", None).await;
    assert_eq!(stream.try_next().await.unwrap().unwrap().name, all[0]);
}

async fn folders_stand_for_what_is_below_them(store: &dyn Store) {
    for name in [
        "archive.json",
        "h/0/log/1",
        "h/1.json",
        "h/1/base/1",
        "h/1/log/1",
        "h/1/log/2",
        "h/2-x",
        "h/2/log/1",
        "hh/3",
    ] {
        store.create(name, text("12")).await.unwrap();
    }
    for page in [1, 2, PAGE] {
        let listed = async |prefix: &str| {
            let wanted = Listing::of(prefix).folders().pages_of(page);
            let found = store.list_with(wanted).await;
            let found: Vec<ObjectMeta> = found.try_collect().await.unwrap();
            for object in &found {
                assert_eq!(object.size, if object.is_folder() { 0 } else { 2 });
            }
            let names = found.into_iter().map(|object| object.name);
            names.collect::<Vec<String>>()
        };
        assert_eq!(listed("").await, ["archive.json", "h/", "hh/"]);
        assert_eq!(
            listed("h/").await,
            ["h/0/", "h/1.json", "h/1/", "h/2-x", "h/2/"]
        );
        assert_eq!(listed("h/1").await, ["h/1.json", "h/1/"]);
        assert_eq!(listed("h/1/").await, ["h/1/base/", "h/1/log/"]);
        assert_eq!(listed("h/1/log/").await, ["h/1/log/1", "h/1/log/2"]);
        assert_eq!(listed("x").await, [""; 0]);
        let all = store.list_with(Listing::of("h/1/").pages_of(page)).await;
        let all: Vec<ObjectMeta> = all.try_collect().await.unwrap();
        assert_eq!(all.len(), 3);
    }
    // What is gone leaves no folder.
    store.delete("hh/3").await.unwrap();
    let found = store.list_with(Listing::of("").folders()).await;
    let found: Vec<ObjectMeta> = found.try_collect().await.unwrap();
    assert_eq!(found.len(), 2);
}

async fn odd_names_work_and_bad_ones_are_refused(store: &dyn Store, refused: &[&str]) {
    let odd = [
        "a b",
        "%2e",
        "..a",
        ".hidden",
        "a..",
        "ünïcödé/日本",
        "q?x#y",
        "a\\b",
        "-",
        "'\"",
    ];
    let odd: Vec<&'static str> = odd
        .into_iter()
        .filter(|name| !refused.contains(name))
        .collect();
    for name in &odd {
        let name = *name;
        store.create(name, Bytes::from(name)).await.unwrap();
        assert_eq!(read(store, name, None).await, name);
    }
    let mut sorted = odd;
    sorted.sort_unstable();
    assert_eq!(names(store, "", None).await, sorted);
    let long = "x".repeat(2000);
    let bad = [
        "", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a", "a\0b", "a\nb", &long,
    ];
    for name in bad.iter().chain(refused) {
        for refused in [
            store.create(name, Bytes::new()).await.map(|_| ()),
            store.read(name, None).await.map(|_| ()),
            store.upload(name).await.map(|_| ()),
            store.delete(name).await,
        ] {
            assert!(
                matches!(refused, Err(StoreError::Permanent { .. })),
                "{name:?}"
            );
        }
    }
    assert_eq!(names(store, "../", None).await, [""; 0]);
}

async fn an_object_can_be_deleted(store: &dyn Store) {
    store.create("a/b", text("1")).await.unwrap();
    store.delete("a/b").await.unwrap();
    store.delete("a/b").await.unwrap();
    store.delete("x/y").await.unwrap();
    assert_eq!(names(store, "", None).await, [""; 0]);
    store.create("a/b", text("2")).await.unwrap();
    assert_eq!(read(store, "a/b", None).await, "2");
}
