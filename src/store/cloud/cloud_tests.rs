//! Against emulators, and through a proxy that harms requests.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used
)]

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::store::emulator::{self, AZURE_ACCOUNT, AZURE_KEY, Emulator, Fault};
use crate::store::{SharedStore, contract};

fn store(emulator: &Emulator, cloud: emulator::Cloud, prefix: &str) -> CloudStore {
    let url = match cloud {
        emulator::Cloud::S3 => format!("s3://bucket/{prefix}"),
        _ => format!("az://bucket/{prefix}"),
    };
    CloudStore::open_with(&url, environment(emulator, cloud)).unwrap()
}

fn environment(emulator: &Emulator, cloud: emulator::Cloud) -> Vec<(String, String)> {
    environment_at(emulator, cloud, emulator.host())
}

fn environment_at(
    emulator: &Emulator,
    cloud: emulator::Cloud,
    host: String,
) -> Vec<(String, String)> {
    let own = |(name, value): (&str, String)| (name.to_owned(), value);
    match cloud {
        emulator::Cloud::S3 => {
            let mut all: Vec<_> = emulator.environment().into_iter().map(own).collect();
            all.push(("AWS_ENDPOINT_URL_S3".to_owned(), host));
            all
        }
        // The same through the variables of an account, as the emulator's is looked up in the environment of the process.
        _ => [
            ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
            ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
            ("AZURE_STORAGE_ENDPOINT", format!("{host}/{AZURE_ACCOUNT}")),
        ]
        .into_iter()
        .map(own)
        .collect(),
    }
}

/// The emulator's own threads must be gone before the test's runtime is.
fn with<F: Future<Output = ()>>(cloud: emulator::Cloud, test: impl FnOnce(Arc<Emulator>) -> F) {
    let emulator = Arc::new(Emulator::start_of(cloud, "bucket"));
    tokio::runtime::Runtime::new()
        .unwrap()
        .block_on(test(Arc::clone(&emulator)));
}

/// One test for each service.
macro_rules! on_both {
    ($check:ident) => {
        mod $check {
            #[test]
            fn s3() {
                super::with(crate::store::emulator::Cloud::S3, |emulator| {
                    super::$check(emulator, crate::store::emulator::Cloud::S3)
                });
            }
            #[test]
            fn azure() {
                super::with(crate::store::emulator::Cloud::Azure, |emulator| {
                    super::$check(emulator, crate::store::emulator::Cloud::Azure)
                });
            }
        }
    };
}

on_both!(it_does_what_every_store_does);
async fn it_does_what_every_store_does(emulator: Arc<Emulator>, cloud: emulator::Cloud) {
    let number = AtomicUsize::new(0);
    let fresh = || {
        let n = number.fetch_add(1, Ordering::Relaxed);
        // Thousands of requests: without the proxy.
        let environment = environment_at(&emulator, cloud, emulator.direct_host());
        let url = store(&emulator, cloud, &format!("contract-{n}")).url();
        let store: SharedStore = Arc::new(CloudStore::open_with(&url, environment).unwrap());
        store
    };
    match cloud {
        emulator::Cloud::Azure => contract::run_without(fresh, &["a\\b", "a.."]).await,
        _ => contract::run(fresh).await,
    }
}

async fn read(store: &CloudStore, name: &str) -> Result<Vec<u8>, StoreError> {
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

async fn names(store: &CloudStore, prefix: &str) -> Result<Vec<String>, StoreError> {
    let found: Vec<ObjectMeta> = store.list(prefix, None).await.try_collect().await?;
    Ok(found.into_iter().map(|object| object.name).collect())
}

/// Requests that begin like this, and have that in them.
fn count(emulator: &Emulator, method: &str, part: &str) -> usize {
    let requests = emulator.requests();
    let matching = requests
        .iter()
        .filter(|it| it.starts_with(method) && it.contains(part));
    matching.count()
}

on_both!(a_name_in_another_prefix_is_not_seen);
async fn a_name_in_another_prefix_is_not_seen(emulator: Arc<Emulator>, cloud: emulator::Cloud) {
    let whole = store(&emulator, cloud, "");
    let one = store(&emulator, cloud, "one");
    one.create("a", body(3)).await.unwrap();
    let other = store(&emulator, cloud, "one-more");
    other.create("b", body(3)).await.unwrap();
    assert_eq!(names(&one, "").await.unwrap(), ["a"]);
    assert_eq!(names(&whole, "").await.unwrap(), ["one-more/b", "one/a"]);
}

on_both!(a_name_may_be_as_long_as_the_limit);
async fn a_name_may_be_as_long_as_the_limit(emulator: Arc<Emulator>, cloud: emulator::Cloud) {
    let store = store(&emulator, cloud, "p");
    let name = "0123456/".repeat(127) + "012345";
    assert_eq!(name.len() + "p/".len(), crate::store::NAME_LIMIT);
    store.create(&name, body(3)).await.unwrap();
    assert_eq!(read(&store, &name).await.unwrap(), body(3));
    assert_eq!(names(&store, "").await.unwrap(), [name]);
}

/// How the request that makes the object out of its parts looks.
fn completion(cloud: emulator::Cloud) -> (&'static str, &'static str) {
    match cloud {
        emulator::Cloud::S3 => ("POST", "?uploadId="),
        _ => ("PUT", "comp=blocklist"),
    }
}

/// How one that carries a part looks.
fn part(cloud: emulator::Cloud) -> &'static str {
    match cloud {
        emulator::Cloud::S3 => "partNumber=",
        _ => "comp=block&",
    }
}

/// How one that lists looks.
fn listing(cloud: emulator::Cloud) -> &'static str {
    match cloud {
        emulator::Cloud::S3 => "list-type=2",
        _ => "comp=list",
    }
}

/// How one that deletes looks.
fn deletion(cloud: emulator::Cloud) -> (&'static str, &'static str) {
    match cloud {
        emulator::Cloud::S3 => ("DELETE", "/object"),
        _ => ("POST", "comp=batch"),
    }
}

async fn upload_parts(store: &CloudStore, name: &str, parts: usize) -> Result<(), StoreError> {
    let mut upload = store.upload(name).await?;
    for _ in 0..parts {
        upload.write(body((store.side.part)(0))).await?;
    }
    upload.write(body(1)).await?;
    upload.commit().await
}

on_both!(a_long_upload_goes_up_in_parts_and_is_one_object);
async fn a_long_upload_goes_up_in_parts_and_is_one_object(
    emulator: Arc<Emulator>,
    cloud: emulator::Cloud,
) {
    let store = store(&emulator, cloud, "p");
    let (method, complete) = completion(cloud);
    // Parts meet faults, the completion loses its answer.
    emulator.fault("PUT", part(cloud), 1, Fault::Status(503, None));
    emulator.fault("PUT", part(cloud), 1, Fault::CutRequest);
    emulator.fault("PUT", part(cloud), 1, Fault::Lost(500));
    emulator.fault(method, complete, 1, Fault::Lost(500));
    upload_parts(&store, "long", 3).await.unwrap();
    assert_eq!(emulator.heal(), 0);
    assert_eq!(count(&emulator, "PUT", part(cloud)), 4 + 3);
    assert_eq!(
        count(&emulator, method, complete),
        1,
        "it was seen to be there"
    );
    let size = (store.side.part)(0);
    let all = read(&store, "long").await.unwrap();
    assert_eq!(all.len(), 3 * size + 1);
    for part in all.chunks(size) {
        assert!(body(size).starts_with(part));
    }
    // Another one of that name is refused.
    let error = upload_parts(&store, "long", 1).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::AlreadyExists { name } if name == "long"),
        "{error}"
    );
    // What is there is seen before, so let it come just then: the condition itself refuses.
    emulator.fault("HEAD", "/p/long", 1, Fault::Says(404, ""));
    let before = count(&emulator, method, complete);
    let error = upload_parts(&store, "long", 1).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::AlreadyExists { .. }),
        "{error}"
    );
    assert_eq!(emulator.heal(), 0);
    assert_eq!(count(&emulator, method, complete), before + 1);
    assert_eq!(read(&store, "long").await.unwrap(), all);
    // A completion that did not arrive is sent again.
    emulator.fault(method, complete, 2, Fault::Status(503, None));
    upload_parts(&store, "another", 1).await.unwrap();
    assert_eq!(emulator.heal(), 0);
    assert_eq!(names(&store, "").await.unwrap(), ["another", "long"]);
}

on_both!(what_passes_is_tried_again_and_the_object_is_whole);
async fn what_passes_is_tried_again_and_the_object_is_whole(
    emulator: Arc<Emulator>,
    cloud: emulator::Cloud,
) {
    let store = store(&emulator, cloud, "f");
    let slow =
        "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
    let (method, delete) = deletion(cloud);
    for (n, fault) in [
        Fault::Status(408, None),
        Fault::Status(429, Some(1)),
        Fault::Status(500, None),
        Fault::Says(503, slow),
        Fault::CutRequest,
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("object-{n}");
        emulator.fault("PUT", "/object-", 2, fault.clone());
        store.create(&name, body(100_000)).await.unwrap();
        assert_eq!(emulator.heal(), 0, "{fault:?} was met twice");
        emulator.fault("GET", "/object-", 1, fault.clone());
        assert_eq!(read(&store, &name).await.unwrap(), body(100_000));
        assert_eq!(emulator.heal(), 0, "{fault:?} was met");
        emulator.fault("GET", listing(cloud), 1, fault.clone());
        assert_eq!(names(&store, &name).await.unwrap(), [&*name]);
        assert_eq!(emulator.heal(), 0, "{fault:?} was met");
        emulator.fault(method, delete, 1, fault.clone());
        store.delete(&name).await.unwrap();
        assert_eq!(emulator.heal(), 0, "{fault:?} was met");
    }
}

on_both!(a_create_whose_answer_was_lost_is_ours_and_only_then);
async fn a_create_whose_answer_was_lost_is_ours_and_only_then(
    emulator: Arc<Emulator>,
    cloud: emulator::Cloud,
) {
    let store = store(&emulator, cloud, "l");
    emulator.fault("PUT", "/mine", 1, Fault::Lost(503));
    store.create("mine", body(1000)).await.unwrap();
    assert_eq!(emulator.heal(), 0);
    emulator.fault("PUT", "/mine", 1, Fault::Lost(500));
    // What tells whose it is may meet faults itself.
    emulator.fault("HEAD", "/mine", 2, Fault::Status(500, None));
    store.create("mine-too", body(1000)).await.unwrap();
    assert_eq!(emulator.heal(), 0);
    // The same bytes by another create are not ours, whether its answer comes or not.
    for name in ["mine", "mine-too"] {
        for lost in [false, true] {
            if lost {
                emulator.fault("PUT", "/mine", 1, Fault::Lost(500));
            }
            let error = store.create(name, body(1000)).await.unwrap_err();
            assert!(matches!(&error, StoreError::AlreadyExists { name: it } if it == name));
            assert_eq!(emulator.heal(), 0);
        }
    }
}

on_both!(a_read_that_breaks_off_goes_on_and_wrong_bytes_are_found);
async fn a_read_that_breaks_off_goes_on_and_wrong_bytes_are_found(
    emulator: Arc<Emulator>,
    cloud: emulator::Cloud,
) {
    let store = store(&emulator, cloud, "r");
    store.create("o", body(3_000_000)).await.unwrap();
    emulator.fault("GET", "/r/o", 1, Fault::CutAnswer(1_234_567));
    emulator.fault("GET", "/r/o", 1, Fault::CutAnswer(500_000));
    assert_eq!(read(&store, "o").await.unwrap(), body(3_000_000));
    assert_eq!(emulator.heal(), 0);
    emulator.fault("GET", "/r/o", 1, Fault::Trickle(Duration::from_millis(50)));
    assert_eq!(read(&store, "o").await.unwrap(), body(3_000_000));
    assert_eq!(emulator.heal(), 0);
    // In one piece, and in the piece after a cut.
    for cut in [false, true] {
        if cut {
            emulator.fault("GET", "/r/o", 1, Fault::CutAnswer(1_000_000));
        }
        emulator.fault("GET", "/r/o", 1, Fault::WrongAnswer);
        let error = read(&store, "o").await.unwrap_err();
        assert_eq!(emulator.heal(), 0);
        assert!(error.is_transient(), "{error}");
        let text = error.to_string();
        assert!(text.contains("checksum") && text.contains("/r/o"), "{text}");
    }
    // Another object came in its place: its bytes are not taken for the rest.
    emulator.fault("GET", "/r/o", 1, Fault::CutAnswer(1_000_000));
    let mut chunks = store.read("o", None).await.unwrap();
    let mut got = 0;
    let error = loop {
        match chunks.try_next().await {
            Ok(Some(chunk)) if got == 0 => {
                got += chunk.len();
                store.delete("o").await.unwrap();
                store.create("o", body(2_999_999)).await.unwrap();
            }
            Ok(Some(chunk)) => got += chunk.len(),
            Ok(None) => panic!("{got} bytes, and the end"),
            Err(error) => break error,
        }
    };
    assert!(error.to_string().contains("another object"), "{error}");
}

on_both!(what_needs_a_change_is_told_at_once_with_what_to_do);
async fn what_needs_a_change_is_told_at_once_with_what_to_do(
    emulator: Arc<Emulator>,
    cloud: emulator::Cloud,
) {
    let store = store(&emulator, cloud, "d");
    store.create("object", body(10)).await.unwrap();
    let denied = match cloud {
        emulator::Cloud::S3 => Fault::Says(
            403,
            "<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>",
        ),
        _ => Fault::Says(
            403,
            "<Error><Code>AuthorizationPermissionMismatch</Code><Message>not you</Message></Error>",
        ),
    };
    let advice = |permission: &'static str| match cloud {
        emulator::Cloud::S3 => permission,
        _ => "Storage Blob Data Contributor",
    };
    let before = emulator.requests().len();
    emulator.fault("PUT", "/d/x", 1, denied.clone());
    let error = store.create("x", body(10)).await.unwrap_err();
    assert!(!error.is_transient());
    let text = error.to_string();
    assert!(text.contains(advice("s3:PutObject")), "{text}");
    assert!(
        text.contains("cannot create ") && text.contains("://bucket/d/x"),
        "{text}"
    );
    emulator.fault("GET", "/d/object", 1, denied.clone());
    let text = read(&store, "object").await.unwrap_err().to_string();
    assert!(text.contains(advice("s3:GetObject")), "{text}");
    emulator.fault("GET", listing(cloud), 1, denied.clone());
    let text = names(&store, "").await.unwrap_err().to_string();
    assert!(text.contains(advice("s3:ListBucket")), "{text}");
    let (method, delete) = deletion(cloud);
    emulator.fault(method, delete, 1, denied);
    let text = store.delete("object").await.unwrap_err().to_string();
    assert!(text.contains(advice("s3:DeleteObject")), "{text}");
    emulator.fault("GET", listing(cloud), 1, Fault::Status(401, None));
    let text = names(&store, "").await.unwrap_err().to_string();
    assert!(text.contains("credentials are not accepted"), "{text}");
    assert_eq!(emulator.heal(), 0);
    assert_eq!(
        emulator.requests().len() - before,
        5,
        "none was tried again"
    );
    // No such bucket.
    let url = store.url().replace("bucket", "no-such-one");
    let none = CloudStore::open_with(&url, environment(&emulator, cloud)).unwrap();
    let wanted = format!("Does the {} exist?", none.side.noun);
    for error in [
        names(&none, "").await.map(|_| ()).unwrap_err(),
        none.create("a", body(1)).await.unwrap_err(),
        read(&none, "a").await.map(|_| ()).unwrap_err(),
        upload_parts(&none, "a", 1).await.unwrap_err(),
    ] {
        assert!(
            !error.is_transient() && error.to_string().contains(&wanted),
            "{error}"
        );
    }
}

on_both!(what_is_given_up_leaves_nothing_behind);
async fn what_is_given_up_leaves_nothing_behind(emulator: Arc<Emulator>, cloud: emulator::Cloud) {
    let store = store(&emulator, cloud, "g");
    let mut upload = store.upload("object").await.unwrap();
    for _ in 0..3 {
        upload.write(body((store.side.part)(0))).await.unwrap();
    }
    drop(upload);
    if cloud == emulator::Cloud::S3 {
        for _ in 0..200 {
            if count(&emulator, "DELETE", "uploadId=") == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(count(&emulator, "DELETE", "uploadId="), 1);
    }
    assert_eq!(names(&store, "").await.unwrap(), [""; 0]);
    if cloud == emulator::Cloud::Azure {
        // Azurite takes a name under which parts lie for taken when an object is put at once, not when an upload is completed.
        upload_parts(&store, "object", 3).await.unwrap();
        assert_eq!(names(&store, "").await.unwrap(), ["object"]);
        return;
    }
    store.create("object", body(3)).await.unwrap();
    assert_eq!(read(&store, "object").await.unwrap(), body(3));
}
