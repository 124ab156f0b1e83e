//! Against an emulator, and through a proxy that harms requests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::store::emulator::{Fault, Gcs};
use crate::store::{SharedStore, contract};

async fn store(gcs: &Gcs, prefix: &str) -> GcsStore {
    GcsStore::open_at(&format!("gs://bucket/{prefix}"), Some(gcs.host()))
        .await
        .unwrap()
}

async fn read(store: &GcsStore, name: &str) -> Result<Vec<u8>, StoreError> {
    let mut all = Vec::new();
    let mut chunks = store.read(name, None).await?;
    while let Some(chunk) = chunks.try_next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

fn body(size: usize) -> Bytes {
    (0..size).map(|n| (n / 7 % 251) as u8).collect()
}

/// The emulator's own threads must be gone before the test's runtime is.
fn with_gcs<F: Future<Output = ()>>(test: impl FnOnce(Arc<Gcs>) -> F) {
    let gcs = Arc::new(Gcs::start("bucket"));
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(test(Arc::clone(&gcs)));
}

#[test]
fn it_does_what_every_store_does() {
    with_gcs(|gcs| async move {
        let number = AtomicUsize::new(0);
        let mut stores: Vec<SharedStore> = Vec::new();
        for _ in 0..12 {
            let n = number.fetch_add(1, Ordering::Relaxed);
            stores.push(Arc::new(store(&gcs, &format!("contract-{n}")).await));
        }
        let left = std::sync::Mutex::new(stores);
        contract::run(|| left.lock().unwrap().pop().unwrap()).await;
    });
}

#[test]
fn a_name_in_another_prefix_is_not_seen() {
    with_gcs(|gcs| async move {
        let whole = store(&gcs, "").await;
        let one = store(&gcs, "one").await;
        one.create("a", body(3)).await.unwrap();
        store(&gcs, "one-more")
            .await
            .create("b", body(3))
            .await
            .unwrap();
        let names = |store: &GcsStore| {
            let store = store.clone();
            async move {
                let found: Vec<ObjectMeta> =
                    store.list("", None).await.try_collect().await.unwrap();
                found
                    .into_iter()
                    .map(|object| object.name)
                    .collect::<Vec<_>>()
            }
        };
        assert_eq!(names(&one).await, ["a"]);
        assert_eq!(names(&whole).await, ["one-more/b", "one/a"]);
    });
}

#[test]
fn a_long_upload_goes_up_in_parts_and_is_one_object() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "p").await;
        // More parts than can be composed at once.
        let piece = body(upload::PART / 2 + 1);
        let mut upload = store.upload("long").await.unwrap();
        let pieces = 2 * 35;
        for _ in 0..pieces {
            upload.write(piece.clone()).await.unwrap();
        }
        upload.commit().await.unwrap();
        let composed = gcs
            .requests()
            .iter()
            .filter(|line| line.contains("/compose"))
            .count();
        assert_eq!(composed, 2, "32 parts in one, and that with the rest");
        let mut chunks = store.read("long", None).await.unwrap();
        let mut at = 0;
        while let Some(chunk) = chunks.try_next().await.unwrap() {
            for byte in chunk {
                assert_eq!(byte, piece[at % piece.len()]);
                at += 1;
            }
        }
        assert_eq!(at, piece.len() * pieces);
        // Nothing is left beside it.
        let left = store.api.list("p/", None, "").await.unwrap().items;
        let left: Vec<String> = left.into_iter().map(|item| item.name).collect();
        assert_eq!(left, ["p/long"]);
    });
}

#[test]
fn what_passes_is_tried_again_and_the_object_is_whole() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "f").await;
        for (n, fault) in [
            Fault::Status(408, None),
            Fault::Status(429, Some(1)),
            Fault::Status(500, None),
            Fault::Status(503, None),
            Fault::CutRequest,
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("object-{n}");
            gcs.fault("POST", "/upload/", 2, fault.clone());
            store.create(&name, body(100_000)).await.unwrap();
            assert_eq!(gcs.heal(), 0, "{fault:?} was met twice");
            gcs.fault("GET", "object-", 1, fault.clone());
            assert_eq!(read(&store, &name).await.unwrap(), body(100_000));
            assert_eq!(gcs.heal(), 0, "{fault:?} was met");
            gcs.fault("GET", "/o?", 1, fault.clone());
            let found: Vec<ObjectMeta> = store.list(&name, None).await.try_collect().await.unwrap();
            assert_eq!(found.len(), 1);
            gcs.fault("DELETE", "object-", 1, fault.clone());
            store.delete(&name).await.unwrap();
            assert_eq!(gcs.heal(), 0, "{fault:?} was met");
        }
    });
}

#[test]
fn a_create_whose_answer_was_lost_is_ours_and_only_then() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "l").await;
        gcs.fault("POST", "/upload/", 1, Fault::Lost(503));
        store.create("mine", body(1000)).await.unwrap();
        assert_eq!(gcs.heal(), 0);
        gcs.fault("POST", "/upload/", 1, Fault::CutAnswer(10));
        store.create("mine-too", body(1000)).await.unwrap();
        assert_eq!(gcs.heal(), 0);
        // The same bytes by another create are not ours.
        for name in ["mine", "mine-too"] {
            let error = store.create(name, body(1000)).await.unwrap_err();
            assert!(matches!(&error, StoreError::AlreadyExists { name: it } if it == name));
        }
        // Composed ones too.
        let mut upload = store.upload("long").await.unwrap();
        for _ in 0..3 {
            upload.write(body(upload::PART)).await.unwrap();
        }
        gcs.fault("POST", "/compose", 1, Fault::Lost(500));
        upload.commit().await.unwrap();
        assert_eq!(gcs.heal(), 0);
        assert_eq!(read(&store, "long").await.unwrap().len(), 3 * upload::PART);
    });
}

#[test]
fn a_read_that_breaks_off_goes_on_and_wrong_bytes_are_found() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "r").await;
        store.create("o", body(3_000_000)).await.unwrap();
        gcs.fault("GET", "/o/r%2Fo", 1, Fault::CutAnswer(1_234_567));
        gcs.fault("GET", "/o/r%2Fo", 1, Fault::CutAnswer(500_000));
        assert_eq!(read(&store, "o").await.unwrap(), body(3_000_000));
        assert_eq!(gcs.heal(), 0);
        gcs.fault(
            "GET",
            "/o/r%2Fo",
            1,
            Fault::Trickle(Duration::from_millis(50)),
        );
        assert_eq!(read(&store, "o").await.unwrap(), body(3_000_000));
        assert_eq!(gcs.heal(), 0);
        // In one piece, and in the piece after a cut.
        for cut in [false, true] {
            if cut {
                gcs.fault("GET", "/o/r%2Fo", 1, Fault::CutAnswer(1_000_000));
            }
            gcs.fault("GET", "/o/r%2Fo", 1, Fault::WrongAnswer);
            let error = read(&store, "o").await.unwrap_err();
            assert_eq!(gcs.heal(), 0);
            assert!(error.is_transient(), "{error}");
            assert!(error.to_string().contains("checksum"), "{error}");
            assert!(error.to_string().contains("gs://bucket/r/o"), "{error}");
        }
    });
}

#[test]
fn what_needs_a_change_is_told_at_once_with_what_to_do() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "d").await;
        store.create("o", body(10)).await.unwrap();
        let before = gcs.requests().len();
        gcs.fault("POST", "/upload/", 1, Fault::Status(403, None));
        let error = store.create("x", body(10)).await.unwrap_err();
        let text = error.to_string();
        assert!(!error.is_transient());
        assert!(text.contains("storage.objects.create"), "{text}");
        assert!(text.contains("cannot create gs://bucket/d/x"), "{text}");
        gcs.fault("GET", "/o/", 1, Fault::Status(403, None));
        let text = read(&store, "o").await.unwrap_err().to_string();
        assert!(text.contains("storage.objects.get"), "{text}");
        gcs.fault("GET", "/o?", 1, Fault::Status(403, None));
        let found: Result<Vec<ObjectMeta>, _> = store.list("", None).await.try_collect().await;
        let text = found.unwrap_err().to_string();
        assert!(text.contains("storage.objects.list"), "{text}");
        gcs.fault("DELETE", "/o/", 1, Fault::Status(401, None));
        let text = store.delete("o").await.unwrap_err().to_string();
        assert!(text.contains("credentials are not accepted"), "{text}");
        assert_eq!(gcs.heal(), 0);
        assert_eq!(gcs.requests().len() - before, 4, "none was tried again");
        // No such bucket.
        let none = GcsStore::open_at("gs://no-such-bucket/x", Some(gcs.host()))
            .await
            .unwrap();
        let found: Result<Vec<ObjectMeta>, _> = none.list("", None).await.try_collect().await;
        let error = found.unwrap_err();
        assert!(!error.is_transient());
        assert!(
            error.to_string().contains("Does the bucket exist"),
            "{error}"
        );
        let error = none.create("a", body(1)).await.unwrap_err();
        assert!(
            error.to_string().contains("Does the bucket exist"),
            "{error}"
        );
    });
}

#[test]
fn urls_say_bucket_and_prefix() {
    assert_eq!(
        parse("gs://my-bucket").unwrap(),
        ("my-bucket".into(), String::new())
    );
    assert_eq!(
        parse("gs://b.c_d/x/y/").unwrap(),
        ("b.c_d".into(), "x/y/".into())
    );
    for wrong in [
        "gs://",
        "gs:///x",
        "gs://UP/x",
        "gs://bucket//x",
        "gs://bucket/x?y",
        "gs://bucket/../x",
    ] {
        assert!(
            parse(wrong).unwrap_err().contains("write gs://BUCKET"),
            "{wrong}"
        );
    }
}
