//! What the tests of stores on a network share: a service with its emulator, and a store in it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used
)]

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;

use super::emulator::{AZURE_ACCOUNT, AZURE_KEY, Cloud, Emulator, Fault};
use super::remote::{LIMITS, Limits};
use super::{CloudStore, GcsStore, ObjectMeta, SharedStore, Store, StoreError};
use crate::config::GcsOptions;

/// Like the service's limits, but short enough for a test.
pub(super) const SHORT: Limits = Limits {
    attempt: Duration::from_secs(3),
    stall: Duration::from_millis(700),
    resumes: 2,
    ..LIMITS
};

/// A service with an empty bucket, and what its requests look like: method, and a part of path and query.
#[derive(Clone)]
pub(super) struct Bench {
    pub(super) cloud: Cloud,
    pub(super) emulator: Arc<Emulator>,
}

pub(super) type Pattern = (&'static str, &'static str);

impl Bench {
    pub(super) fn by_cloud<T>(&self, google: T, s3: T, azure: T) -> T {
        match self.cloud {
            Cloud::Google => google,
            Cloud::S3 => s3,
            Cloud::Azure => azure,
        }
    }

    pub(super) async fn store(&self, prefix: &str) -> SharedStore {
        self.store_at(self.emulator.host(), "bucket", prefix, LIMITS)
            .await
    }

    pub(super) async fn store_at(
        &self,
        host: String,
        bucket: &str,
        prefix: &str,
        limits: Limits,
    ) -> SharedStore {
        let url = format!("{}://{bucket}/{prefix}", self.by_cloud("gs", "s3", "az"));
        let own = |(name, value): (&str, String)| (name.to_owned(), value);
        let mut environment: Vec<_> = self.emulator.environment().into_iter().map(own).collect();
        match self.cloud {
            Cloud::Google => {
                let store = GcsStore::open_at(&url, &GcsOptions::default(), Some(host)).await;
                return Arc::new(store.unwrap().with_limits(limits));
            }
            Cloud::S3 => environment.push(("AWS_ENDPOINT_URL_S3".to_owned(), host)),
            // Through the variables of an account, as the emulator's is looked up in the environment of the process.
            Cloud::Azure => {
                environment = [
                    ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT.to_owned()),
                    ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY.to_owned()),
                    ("AZURE_STORAGE_ENDPOINT", format!("{host}/{AZURE_ACCOUNT}")),
                ]
                .map(own)
                .to_vec();
            }
        }
        let store = CloudStore::open_with(&url, environment).unwrap();
        Arc::new(store.with_limits(limits))
    }

    /// Size of a part of a long object.
    pub(super) fn part_size(&self) -> usize {
        self.by_cloud(4 << 20, 8 << 20, 8 << 20)
    }

    /// Creates an object at once.
    pub(super) fn create(&self, name: &'static str) -> Pattern {
        self.by_cloud(("POST", "/upload/"), ("PUT", name), ("PUT", name))
    }

    /// Asks whether an object is there.
    pub(super) fn head(&self, name: &'static str) -> Pattern {
        (self.by_cloud("GET", "HEAD", "HEAD"), name)
    }

    /// Carries a part.
    pub(super) fn part(&self) -> Pattern {
        self.by_cloud(
            ("POST", "/upload/"),
            ("PUT", "partNumber="),
            ("PUT", "comp=block&"),
        )
    }

    /// Makes the object out of its parts.
    pub(super) fn completion(&self) -> Pattern {
        self.by_cloud(
            ("POST", "/compose"),
            ("POST", "?uploadId="),
            ("PUT", "comp=blocklist"),
        )
    }

    pub(super) fn listing(&self) -> Pattern {
        ("GET", self.by_cloud("/o?", "list-type=2", "comp=list"))
    }

    pub(super) fn deletion(&self) -> Pattern {
        self.by_cloud(
            ("DELETE", "object"),
            ("DELETE", "object"),
            ("POST", "comp=batch"),
        )
    }

    pub(super) fn fault(&self, (method, part): Pattern, times: usize, fault: Fault) {
        self.emulator.fault(method, part, times, fault);
    }

    /// All faults were met.
    pub(super) fn check_met(&self) {
        assert_eq!(self.emulator.heal(), 0, "faults were not met");
    }

    /// Requests so far.
    pub(super) fn count(&self, (method, part): Pattern) -> usize {
        let requests = self.emulator.requests();
        let matching = |line: &&String| line.starts_with(method) && line.contains(part);
        requests.iter().filter(matching).count()
    }
}

/// The emulator's own threads must be gone before the test's runtime is.
pub(super) fn with<F: Future<Output = ()>>(cloud: Cloud, test: impl FnOnce(Bench) -> F) {
    let emulator = Arc::new(Emulator::start_of(cloud, "bucket"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bench = Bench {
        cloud,
        emulator: Arc::clone(&emulator),
    };
    runtime.block_on(test(bench));
}

pub(super) async fn read(store: &dyn Store, name: &str) -> Result<Vec<u8>, StoreError> {
    read_range(store, name, None).await
}

pub(super) async fn read_range(
    store: &dyn Store,
    name: &str,
    range: Option<Range<u64>>,
) -> Result<Vec<u8>, StoreError> {
    let mut all = Vec::new();
    let mut chunks = store.read(name, range).await?;
    while let Some(chunk) = chunks.try_next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

pub(super) fn body(size: usize) -> Bytes {
    (0..size).map(|n| (n / 7 % 251) as u8).collect()
}

pub(super) async fn names(store: &dyn Store, prefix: &str) -> Result<Vec<String>, StoreError> {
    let found: Vec<ObjectMeta> = store.list(prefix, None).await.try_collect().await?;
    Ok(found.into_iter().map(|object| object.name).collect())
}

/// This many whole parts, and one byte.
pub(super) async fn upload_parts(
    bench: &Bench,
    store: &dyn Store,
    name: &str,
    parts: usize,
) -> Result<(), StoreError> {
    let mut upload = store.upload(name).await?;
    for _ in 0..parts {
        upload.write(body(bench.part_size())).await?;
    }
    upload.write(body(1)).await?;
    upload.commit().await
}

pub(super) fn check_exists<T: std::fmt::Debug>(created: Result<T, StoreError>, name: &str) {
    let error = created.unwrap_err();
    let exists = matches!(&error, StoreError::AlreadyExists { name: it, .. } if it == name);
    assert!(exists, "{error}");
}
