//! Google Cloud Storage: `gs://BUCKET/PREFIX`.
//!
//! Objects are written and read with Google's SDK. Lists, deletions, compositions and metadata use the JSON API with
//! the same credentials ([`api`]), because the SDK offers them only over gRPC. An object is created with
//! `ifGenerationMatch=0`.

mod api;
mod error;
mod identity;
mod upload;

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use google_cloud_auth::credentials::anonymous;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use google_cloud_storage::model_ext::{KeyAes256, ReadRange};
use google_cloud_storage::read_object::ReadObjectResponse;
use google_cloud_storage::read_resume_policy::NeverResume;

use api::Api;
use upload::Composition;

use crate::config::{Encryption, GcsOptions};

use super::names::Place;
use super::remote::{CONTENT_TYPE, Head, LIMITS, Limits, Page, Service};
use super::resume::{Body, Opened};
use super::retry::{Advice, Attempt};
use super::{Created, Listing, ObjectMeta, StoreError, cannot_open};

/// An emulator instead of Google, as in Google's own SDKs: `http://host:port` or `host:port`.
const EMULATOR_VARIABLE: &str = "STORAGE_EMULATOR_HOST";
/// Metadata of an object: the token of the create that made it.
const TOKEN_KEY: &str = "backfeed-create";

/// A prefix in a bucket of Google Cloud Storage.
#[derive(Debug, Clone)]
pub struct GcsStore {
    place: Place,
    client: Storage,
    api: Api,
    options: GcsOptions,
    limits: Limits,
}

impl GcsStore {
    /// Opens `gs://BUCKET[/PREFIX]` with Application Default Credentials. Nothing is asked of the store yet.
    ///
    /// # Errors
    /// [`StoreError::Permanent`]: a wrong URL, or credentials that cannot be used. [`StoreError::Transient`]: there are none, but a
    /// metadata server may come up.
    pub async fn open(url: &str, options: &GcsOptions) -> Result<Self, StoreError> {
        #[expect(clippy::disallowed_methods)] // of the SDK, not of ours
        let emulator = std::env::var(EMULATOR_VARIABLE).ok();
        Self::open_at(url, options, emulator.filter(|host| !host.is_empty())).await
    }

    /// The same, with the given emulator, or none, whatever the environment says.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_at(
        url: &str,
        options: &GcsOptions,
        emulator: Option<String>,
    ) -> Result<Self, StoreError> {
        let refuse = |cause: String| cannot_open(url, cause);
        let place = Place::parse("gs", "bucket", url).map_err(refuse)?;
        let emulated = emulator.is_some();
        let endpoint = emulator.map(|host| match host.contains("://") {
            true => host.trim_end_matches('/').to_owned(),
            false => format!("http://{host}"),
        });
        let credentials = if emulated {
            anonymous::Builder::new().build()
        } else {
            identity::credentials(&format!("cannot open the store {url}")).await?
        };
        let mut builder = Storage::builder()
            .with_credentials(credentials.clone())
            // Retries are ours, the same for every kind of call.
            .with_retry_policy(NeverRetry)
            // One request creates an object, whatever its size. A long object is uploaded in parts of ours.
            .with_resumable_upload_threshold(usize::MAX);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let client = builder.build().await.map_err(|error| {
            refuse(format!(
                "no client of Google Cloud Storage can be made: {error}"
            ))
        })?;
        let api = Api::new(
            endpoint,
            credentials,
            &place.bucket,
            options,
            LIMITS.attempt,
        )
        .map_err(refuse)?;
        Ok(Self {
            place,
            client,
            api,
            options: options.clone(),
            limits: LIMITS,
        })
    }

    #[cfg(test)]
    pub(super) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// The key of the customer, in the form of the SDK.
    fn supplied_key(&self) -> Option<KeyAes256> {
        match &self.options.encryption {
            Encryption::Supplied(key) => KeyAes256::new(key.expose()).ok(),
            Encryption::OfBucket | Encryption::Managed(_) => None,
        }
    }

    fn bucket_resource(&self) -> String {
        format!("projects/_/buckets/{}", self.place.bucket)
    }
}

#[async_trait]
impl Service for GcsStore {
    type Assembly = Composition;

    fn place(&self) -> &Place {
        &self.place
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn advice(&self) -> Advice {
        error::advice
    }

    fn refuses(&self, object: &str) -> Option<String> {
        let hidden = self.place.name(object).is_some_and(|name| self.hides(name));
        hidden.then(|| "the store keeps the parts of long objects there".to_owned())
    }

    fn hides(&self, name: &str) -> bool {
        name.starts_with(upload::PARTS)
    }

    async fn put(
        &self,
        object: &str,
        body: Bytes,
        crc: u32,
        token: &str,
    ) -> Result<Created, Attempt> {
        let mut write = self
            .client
            .write_object(self.bucket_resource(), object, body)
            .set_if_generation_match(0_i64)
            .set_metadata([(TOKEN_KEY, token)])
            .set_content_type(CONTENT_TYPE);
        if let Encryption::Managed(key) = &self.options.encryption {
            write = write.set_kms_key(key.as_str());
        }
        if let Some(key) = self.supplied_key() {
            write = write.set_key(key);
        }
        if let Some(class) = self.options.storage_class {
            write = write.set_storage_class(class.as_str());
        }
        if let Some(project) = &self.options.user_project {
            write = write.with_quota_project(project);
        }
        let written = write.with_known_crc32c(crc).send_unbuffered().await;
        let written = written.map_err(|error| error::of_sdk(&error))?;
        Ok(written.create_time.and_then(|at| {
            let ms = at.seconds().checked_mul(1000)?;
            ms.checked_add(i64::from(at.nanos() / 1_000_000))
        }))
    }

    async fn head(&self, object: &str) -> Result<Head, Attempt> {
        let found = self.api.metadata(object).await?;
        Ok(Head {
            token: found.metadata.get(TOKEN_KEY).cloned(),
            crc32c: found.crc32c(),
            created: found.created(),
        })
    }

    async fn get(
        &self,
        object: &str,
        range: Range<u64>,
        tag: Option<&str>,
    ) -> Result<Option<Opened>, Attempt> {
        let range = match (range.start, range.end) {
            (0, u64::MAX) => ReadRange::all(),
            (from, u64::MAX) => ReadRange::offset(from),
            (from, end) => ReadRange::segment(from, end.saturating_sub(from)),
        };
        let mut read = self
            .client
            .read_object(self.bucket_resource(), object)
            .set_read_range(range)
            // What is resumed has to be checked here anyway.
            .compute_crc32c(false)
            // The same limits for the first request and for those that resume it: ours.
            .with_read_resume_policy(NeverResume);
        if let Some(generation) = tag.and_then(|tag| tag.parse::<i64>().ok()) {
            read = read.set_generation(generation);
        }
        if let Some(key) = self.supplied_key() {
            read = read.set_key(key);
        }
        if let Some(project) = &self.options.user_project {
            read = read.with_quota_project(project);
        }
        let response = match read.send().await {
            Ok(response) => response,
            Err(error) if error.http_status_code() == Some(416) => return Ok(None),
            Err(error) => return Err(error::of_sdk(&error)),
        };
        let facts = response.object();
        let size = match u64::try_from(facts.size) {
            Ok(size) if size > 0 => size,
            // The service says it with every answer; emulators may not.
            _ => self.api.metadata(object).await?.size()?,
        };
        Ok(Some(Opened {
            tag: Some(facts.generation.to_string()),
            size,
            crc32c: facts.checksums.and_then(|checksums| checksums.crc32c),
            body: body_of(response),
        }))
    }

    async fn page(&self, wanted: Listing<'_>, token: Option<String>) -> Result<Page, Attempt> {
        let token = token.unwrap_or_default();
        let list = self.api.list(wanted, &token).await?;
        let objects = list.items.into_iter().map(|item| ObjectMeta {
            created: item.created(),
            name: item.name,
            size: item.size.parse().unwrap_or(0),
        });
        let folders = list.prefixes.iter().map(|name| ObjectMeta::folder(name));
        Ok(Page {
            objects: objects.chain(folders).collect(),
            next: list.next_page_token,
        })
    }

    async fn remove(&self, object: &str) -> Result<(), Attempt> {
        self.api.delete(object).await
    }

    fn assembly(&self, object: String, token: String) -> Composition {
        Composition::new(self.clone(), object, token)
    }
}

fn body_of(response: ReadObjectResponse) -> Body {
    let chunks = stream::unfold(response, |mut response| async move {
        let next = response.next().await?;
        Some((next.map_err(|error| error::of_sdk(&error)), response))
    });
    chunks.boxed()
}

#[cfg(test)]
#[path = "gcs_tests.rs"]
mod tests;
