//! What only Google Cloud Storage has: compositions, keys, storage classes, who pays. (What is the same with every
//! service is in `remote_tests.rs`.)

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used
)]

use std::sync::Arc;

use futures::TryStreamExt;

use super::*;
use crate::config::{EncryptionKey, StorageClass};
use crate::store::Store;
use crate::store::emulator::{Cloud, Fault, Gcs, Seen};
use crate::store::testing::{body, read, with};

async fn store(gcs: &Gcs, prefix: &str) -> GcsStore {
    store_with(gcs, &format!("bucket/{prefix}"), &GcsOptions::default()).await
}

async fn store_with(gcs: &Gcs, place: &str, options: &GcsOptions) -> GcsStore {
    GcsStore::open_at(&format!("gs://{place}"), options, Some(gcs.host()))
        .await
        .unwrap()
}

fn with_gcs<F: Future<Output = ()>>(test: impl FnOnce(Arc<Gcs>) -> F) {
    with(Cloud::Google, |bench| test(bench.emulator));
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
        let left = store.api.list(Listing::of("p/"), "").await.unwrap().items;
        let left: Vec<String> = left.into_iter().map(|item| item.name).collect();
        assert_eq!(left, ["p/long"]);
    });
}

#[test]
fn each_kind_of_request_tells_what_is_refused() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "e").await;
        store.create("o", body(10)).await.unwrap();
        for (status, says) in [(401, "credentials are not accepted"), (403, "permission")] {
            for part in ["/upload/", "/compose"] {
                gcs.fault("POST", part, 1, Fault::Status(status, None));
                let mut upload = store.upload(&format!("x-{status}")).await.unwrap();
                let written = upload.write(body(2 * upload::PART)).await;
                let error = match written {
                    Ok(()) => upload.commit().await.unwrap_err(),
                    Err(error) => error,
                };
                let text = error.to_string();
                assert!(
                    !error.is_transient() && text.contains(says),
                    "{part}: {text}"
                );
                assert!(text.contains("gs://bucket/e/"), "{part}: {text}");
                assert_eq!(gcs.heal(), 0);
            }
            gcs.fault("GET", "/o/", 1, Fault::Status(status, None));
            let empty = store.read("o", Some(3..3)).await.map(|_| ());
            let error = empty.unwrap_err();
            assert!(!error.is_transient() && error.to_string().contains(says));
        }
        // An answer that breaks off is no answer.
        gcs.fault("POST", "/upload/", 1, Fault::CutAnswer(10));
        store.create("half", body(10)).await.unwrap();
        // What was there a moment ago, and is not now, can be created.
        gcs.fault("POST", "/upload/", 1, Fault::Status(412, None));
        store.create("gone", body(10)).await.unwrap();
        assert_eq!(read(&store, "gone").await.unwrap(), body(10));
        assert_eq!(gcs.heal(), 0);
    });
}

#[test]
fn a_compose_whose_answer_was_lost_and_whose_parts_are_gone_is_found() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "g").await;
        let upload = async |name: &str| {
            let mut upload = store.upload(name).await.unwrap();
            upload.write(body(2 * upload::PART)).await.unwrap();
            upload.commit().await
        };
        gcs.fault("POST", "/compose", 1, Fault::Lost(503));
        gcs.fault("POST", "/compose", 1, Fault::Status(404, None));
        upload("mine").await.unwrap();
        assert_eq!(gcs.heal(), 0);
        // Parts that are gone without that are an error, and so is an object of somebody else.
        gcs.fault("POST", "/compose", 1, Fault::Status(404, None));
        assert!(!upload("none").await.unwrap_err().is_transient());
        gcs.fault("POST", "/compose", 1, Fault::Status(404, None));
        let theirs = upload("mine").await.unwrap_err();
        assert!(
            matches!(theirs, StoreError::AlreadyExists { .. }),
            "{theirs}"
        );
    });
}

const KMS: &str = "projects/p/locations/l/keyRings/r/cryptoKeys/k";
const KEY_BASE64: &str = "MDEyMzQ1Njc4OS1zZWNyZXQtOTg3NjU0MzIxMC1rZXk=";
const KEY_SHA256: &str = "aZL707ZVmd/cHpIRH7MGd7Q74ik4gTfwL902EMKDSgA=";

fn supplied() -> Encryption {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, KEY_BASE64).unwrap();
    Encryption::Supplied(EncryptionKey::from_file(&path).unwrap())
}

/// Makes each kind of request once or more; gives them by kind.
async fn one_of_each(gcs: &Gcs, store: &GcsStore) -> Vec<(&'static str, Seen)> {
    let before = gcs.seen().len();
    store.create("single", body(1000)).await.unwrap();
    let again = store.create("single", body(1000)).await.unwrap_err();
    assert!(matches!(again, StoreError::AlreadyExists { .. }));
    let mut upload = store.upload("long").await.unwrap();
    upload.write(body(3 * upload::PART)).await.unwrap();
    upload.commit().await.unwrap();
    assert_eq!(read(store, "long").await.unwrap(), body(3 * upload::PART));
    let ranged: Vec<Bytes> = store
        .read("long", Some(7..70))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(ranged.concat(), body(70)[7..]);
    // Resumed.
    gcs.fault("GET", "long", 1, Fault::CutAnswer(5_000_000));
    assert_eq!(read(store, "long").await.unwrap(), body(3 * upload::PART));
    let found: Vec<ObjectMeta> = store.list("", None).await.try_collect().await.unwrap();
    assert_eq!(found.len(), 2);
    store.delete("single").await.unwrap();
    let seen = gcs.seen().split_off(before);
    let all: Vec<_> = seen.into_iter().map(|seen| (kind(&seen), seen)).collect();
    let kinds: std::collections::BTreeSet<_> = all.iter().map(|(kind, _)| *kind).collect();
    let wanted = [
        "compose", "delete", "list", "metadata", "ranged", "read", "upload",
    ];
    assert!(kinds.into_iter().eq(wanted), "{all:#?}");
    all
}

fn kind(seen: &Seen) -> &'static str {
    match seen.line.split_once(' ').unwrap() {
        ("POST", path) if path.contains("/compose") => "compose",
        ("POST", path) if path.starts_with("/upload/") => "upload",
        ("DELETE", _) => "delete",
        ("GET", path) if path.contains("/o?") => "list",
        ("GET", path) if !path.contains("alt=media") => "metadata",
        ("GET", _) if seen.header("range").is_some() => "ranged",
        ("GET", _) => "read",
        _ => panic!("{}", seen.line),
    }
}

#[test]
fn every_create_says_the_managed_key_and_the_class_and_every_request_who_pays() {
    with_gcs(|gcs| async move {
        let options = GcsOptions {
            encryption: Encryption::Managed(KMS.parse().unwrap()),
            storage_class: Some(StorageClass::Nearline),
            user_project: Some("payer-1".to_owned()),
        };
        let store = store_with(&gcs, "bucket/m", &options).await;
        for (kind, seen) in one_of_each(&gcs, &store).await {
            let creates = matches!(kind, "upload" | "compose");
            let kms = "kmsKeyName=projects%2Fp%2Flocations%2Fl%2FkeyRings%2Fr%2FcryptoKeys%2Fk";
            assert_eq!(seen.line.contains(kms), creates, "{seen:#?}");
            let once = seen.line.contains("ifGenerationMatch=0");
            assert_eq!(once, creates, "{seen:#?}");
            let class = seen.body.contains(r#""storageClass":"NEARLINE""#);
            assert_eq!(class, creates, "{seen:#?}");
            let payer = seen.header("x-goog-user-project");
            assert_eq!(payer, Some("payer-1"), "{seen:#?}");
            assert_eq!(seen.header("x-goog-encryption-key"), None);
            if kind == "compose" {
                assert!(
                    seen.body.contains(r#""deleteSourceObjects":true"#),
                    "{seen:#?}"
                );
            }
        }
    });
}

#[test]
fn what_handles_bytes_or_checksums_has_the_supplied_key_and_no_url_has_it() {
    with_gcs(|gcs| async move {
        let options = GcsOptions {
            encryption: supplied(),
            ..GcsOptions::default()
        };
        let store = store_with(&gcs, "bucket/s", &options).await;
        assert!(!format!("{store:?}").contains(&KEY_BASE64[..20]));
        for (kind, seen) in one_of_each(&gcs, &store).await {
            // The service needs no key to list or to delete.
            let key = !matches!(kind, "list" | "delete");
            let header = |name: &str| seen.header(name).unwrap_or("none");
            let (wanted, hash) = match key {
                true => (KEY_BASE64, KEY_SHA256),
                false => ("none", "none"),
            };
            assert_eq!(header("x-goog-encryption-key"), wanted, "{seen:#?}");
            assert_eq!(header("x-goog-encryption-key-sha256"), hash, "{seen:#?}");
            let algorithm = header("x-goog-encryption-algorithm") == "AES256";
            assert_eq!(algorithm, key, "{seen:#?}");
            for part in ["MDEyMzQ1", "0123456789-secret", "303132333435"] {
                assert!(!seen.line.contains(part), "{seen:#?}");
                assert!(!seen.body.contains(part), "{seen:#?}");
            }
            assert!(!seen.line.contains("kmsKeyName"));
            assert_eq!(seen.header("x-goog-user-project"), None);
        }
    });
}

#[test]
fn without_options_nothing_is_said_about_keys_class_or_payer() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "n").await;
        for (_, seen) in one_of_each(&gcs, &store).await {
            assert!(!seen.line.contains("kmsKeyName"));
            assert!(!seen.body.contains("storageClass"));
            assert_eq!(seen.header("x-goog-encryption-key"), None);
            assert_eq!(seen.header("x-goog-user-project"), None);
        }
    });
}

#[test]
fn a_key_that_is_missing_or_wrong_is_told_with_the_setting() {
    with_gcs(|gcs| async move {
        let store = store(&gcs, "k").await;
        store.create("o", body(10)).await.unwrap();
        for (said, advice) in [
            (
                "The target object is encrypted by a customer-supplied encryption key.",
                "Name the file",
            ),
            (
                "The provided encryption key is incorrect.",
                "made with another key than the one in `encryption_key_file`",
            ),
        ] {
            gcs.fault("GET", "/o/", 1, Fault::Says(400, said));
            let error = read(&store, "o").await.unwrap_err();
            let text = error.to_string();
            assert!(!error.is_transient(), "{text}");
            assert!(text.contains("cannot read gs://bucket/k/o"), "{text}");
            assert!(text.contains(said) && text.contains(advice), "{text}");
        }
        // An object that has another key than ours is not ours, but it is there.
        gcs.fault(
            "GET",
            "/o/",
            1,
            Fault::Says(400, "The provided encryption key is incorrect."),
        );
        let error = store.create("o", body(10)).await.unwrap_err();
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
        assert_eq!(gcs.heal(), 0);
    });
}
