//! Google Cloud Storage: `gs://BUCKET/PREFIX`.
//!
//! Objects are written and read with Google's SDK; lists, deletions, compositions and metadata go over the JSON API with
//! the same credentials ([`api`]), since the SDK has them over gRPC alone. An object is created with
//! `ifGenerationMatch=0`. Every create carries a token of its own in the object's metadata: when the answer to a create
//! was lost, and the next try is told that there is such an object, the token says whether it is this very one.

mod api;
mod error;
mod reading;
mod upload;

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use google_cloud_auth::credentials::{self, Credentials};
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_storage::client::Storage;
use google_cloud_storage::model_ext::{KeyAes256, ReadRange};
use google_cloud_storage::read_object::ReadObjectResponse;
use google_cloud_storage::read_resume_policy::NeverResume;
use tokio::time::timeout;

use api::{Api, Metadata};
use error::Attempt;
use reading::Reading;

use crate::config::{Encryption, GcsOptions};

use super::{ByteStream, ObjectMeta, Store, StoreError, Upload, check_name};

/// An emulator instead of Google, as in Google's own SDKs: `http://host:port` or `host:port`.
const EMULATOR_VARIABLE: &str = "STORAGE_EMULATOR_HOST";
/// What the credentials are asked for.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";
/// Metadata of an object: the token of the create that made it.
const TOKEN_KEY: &str = "backfeed-create";
/// Up to so many bytes that are in memory anyway go up in one request. The longest log segments are below it.
const SINGLE: usize = 32 << 20;

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// One try of one request. The longest carries [`SINGLE`] bytes, which a line of 4 Mbit/s takes in this time.
    attempt: Duration,
    /// No byte of a read for so long: the connection is dead.
    stall: Duration,
    /// After so long without success a call returns, and tells; who can wait longer calls again.
    call: Duration,
    /// A part of a long object is tried for so long: an outage of minutes must not cost a full sync.
    part: Duration,
}

const LIMITS: Limits = Limits {
    attempt: Duration::from_secs(70),
    stall: Duration::from_secs(30),
    call: Duration::from_secs(30),
    part: Duration::from_secs(600),
};

/// A prefix in a bucket of Google Cloud Storage.
#[derive(Debug, Clone)]
pub struct GcsStore {
    bucket: String,
    /// Empty, or with a `/` at its end.
    prefix: String,
    client: Storage,
    api: Api,
    options: GcsOptions,
    limits: Limits,
}

impl GcsStore {
    /// Opens `gs://BUCKET[/PREFIX]` with Application Default Credentials. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// [`StoreError::Permanent`]: a wrong URL, or credentials that cannot be used.
    pub async fn open(url: &str, options: &GcsOptions) -> Result<Self, StoreError> {
        let emulator = std::env::var(EMULATOR_VARIABLE).ok();
        Self::open_at(url, options, emulator.filter(|host| !host.is_empty())).await
    }

    /// The same, with the emulator named, or none whatever the environment says.
    ///
    /// # Errors
    /// [`StoreError::Permanent`], as [`Self::open`].
    pub async fn open_at(
        url: &str,
        options: &GcsOptions,
        emulator: Option<String>,
    ) -> Result<Self, StoreError> {
        Self::open_within(url, options, emulator, LIMITS).await
    }

    async fn open_within(
        url: &str,
        options: &GcsOptions,
        emulator: Option<String>,
        limits: Limits,
    ) -> Result<Self, StoreError> {
        let refuse = |cause: String| StoreError::Permanent {
            what: format!("cannot open the store {url}"),
            cause,
        };
        let (bucket, prefix) = parse(url).map_err(refuse)?;
        let emulated = emulator.is_some();
        let endpoint = emulator.map(|host| match host.contains("://") {
            true => host.trim_end_matches('/').to_owned(),
            false => format!("http://{host}"),
        });
        let credentials = credentials(emulated).map_err(refuse)?;
        let mut builder = Storage::builder()
            .with_credentials(credentials.clone())
            // Retries are ours, the same for every kind of call.
            .with_retry_policy(NeverRetry)
            // One request creates an object, whatever its size: what is long goes up in parts of ours.
            .with_resumable_upload_threshold(usize::MAX);
        if let Some(endpoint) = &endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        let client = builder.build().await.map_err(|error| {
            refuse(format!(
                "no client of Google Cloud Storage can be made: {error}"
            ))
        })?;
        let api =
            Api::new(endpoint, credentials, &bucket, options, limits.attempt).map_err(refuse)?;
        Ok(Self {
            bucket,
            prefix,
            client,
            api,
            options: options.clone(),
            limits,
        })
    }

    fn object(&self, name: &str) -> Result<String, StoreError> {
        let object = format!("{}{name}", self.prefix);
        check_name(&object)?;
        Ok(object)
    }

    fn shown(&self, object: &str) -> String {
        format!("gs://{}/{object}", self.bucket)
    }

    /// The key of the customer, as the SDK takes it.
    fn supplied_key(&self) -> Option<KeyAes256> {
        match &self.options.encryption {
            Encryption::Supplied(key) => KeyAes256::new(key.expose()).ok(),
            Encryption::OfBucket | Encryption::Managed(_) => None,
        }
    }

    fn bucket_resource(&self) -> String {
        format!("projects/_/buckets/{}", self.bucket)
    }

    /// Creates an object, as often as it takes within `limit`. The object is ours, and whole, when it returns.
    async fn put(&self, object: &str, body: Bytes, limit: Duration) -> Result<(), StoreError> {
        let token = token();
        let crc = upload::crc32c_of(&body);
        let call = error::call("create", self.shown(object), limit);
        call.run(|| async {
            let mut write = self
                .client
                .write_object(self.bucket_resource(), object, body.clone())
                .set_if_generation_match(0_i64)
                .set_metadata([(TOKEN_KEY, token.as_str())])
                .set_content_type("application/octet-stream");
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
            let written = write.with_known_crc32c(crc).send_unbuffered();
            match timeout(self.limits.attempt, written).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) if error.http_status_code() == Some(412) => {
                    self.check_ours(object, &token).await.map(|_| ())
                }
                Ok(Err(error)) => Err(error::of_sdk(&error)),
                Err(_) => Err(error::too_slow(self.limits.attempt)),
            }
        })
        .await
        .map_err(|error| self.own_name(error, object))
    }

    /// There is such an object: did this very create make it, and only its answer was lost?
    async fn check_ours(&self, object: &str, token: &str) -> Result<Metadata, Attempt> {
        match self.ours(object, token).await? {
            Some(found) => Ok(found),
            None => Err(Attempt::Again("it was deleted meanwhile".to_owned(), None)),
        }
    }

    /// What the create with that token made; None when there is no such object.
    async fn ours(&self, object: &str, token: &str) -> Result<Option<Metadata>, Attempt> {
        let found = match self.api.metadata(object).await {
            Err(Attempt::NotFound(_)) => return Ok(None),
            // What this create made takes our key.
            Err(Attempt::WrongKey(_)) => return Err(Attempt::Exists),
            found => found?,
        };
        match found.metadata.get(TOKEN_KEY) {
            Some(theirs) if theirs == token => Ok(Some(found)),
            _ => Err(Attempt::Exists),
        }
    }

    /// Names in the errors that callers match are the callers'.
    fn own_name(&self, error: StoreError, object: &str) -> StoreError {
        let own = || {
            object
                .strip_prefix(&self.prefix)
                .unwrap_or(object)
                .to_owned()
        };
        match error {
            StoreError::AlreadyExists { .. } => StoreError::AlreadyExists { name: own() },
            StoreError::NotFound { .. } => StoreError::NotFound { name: own() },
            other => other,
        }
    }

    /// Asks for `[from, end)` of an object, of that generation if one is given. None: the object ends before.
    async fn request(
        &self,
        object: &str,
        (from, end): (u64, u64),
        generation: Option<i64>,
    ) -> Result<Option<ReadObjectResponse>, StoreError> {
        let call = error::call("read", self.shown(object), self.limits.call);
        call.run(|| async {
            let range = match (from, end) {
                (0, u64::MAX) => ReadRange::all(),
                (_, u64::MAX) => ReadRange::offset(from),
                _ => ReadRange::segment(from, end.saturating_sub(from)),
            };
            let mut read = self
                .client
                .read_object(self.bucket_resource(), object)
                .set_read_range(range)
                // The same limits for the first request and for those that resume it: ours.
                .with_read_resume_policy(NeverResume);
            if let Some(generation) = generation {
                read = read.set_generation(generation);
            }
            if let Some(key) = self.supplied_key() {
                read = read.set_key(key);
            }
            if let Some(project) = &self.options.user_project {
                read = read.with_quota_project(project);
            }
            match timeout(self.limits.stall, read.send()).await {
                Ok(Ok(response)) => Ok(Some(response)),
                Ok(Err(error)) if error.http_status_code() == Some(416) => Ok(None),
                Ok(Err(error)) => Err(error::of_sdk(&error)),
                Err(_) => Err(error::too_slow(self.limits.stall)),
            }
        })
        .await
        .map_err(|error| self.own_name(error, object))
    }
}

#[async_trait]
impl Store for GcsStore {
    fn url(&self) -> String {
        format!("gs://{}/{}", self.bucket, self.prefix)
            .trim_end_matches('/')
            .to_owned()
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let object = self.object(name)?;
        if body.len() > SINGLE {
            let mut upload = self.upload(name).await?;
            upload.write(body).await?;
            return upload.commit().await;
        }
        self.put(&object, body, self.limits.call).await
    }

    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(upload::GcsUpload::new(
            self.clone(),
            self.object(name)?,
        )))
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        let object = self.object(name)?;
        let range = range.unwrap_or(0..u64::MAX);
        let reading = if range.start >= range.end {
            let call = error::call("read", self.shown(&object), self.limits.call);
            call.run(|| self.api.metadata(&object))
                .await
                .map_err(|error| self.own_name(error, &object))?;
            return Ok(stream::empty().boxed());
        } else {
            Reading::open(self.clone(), object, range).await?
        };
        Ok(stream::try_unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        })
        .boxed())
    }

    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let store = self.clone();
        let full = format!("{}{prefix}", self.prefix);
        let from = from.map(|from| format!("{}{from}", self.prefix));
        let pages = stream::try_unfold(Some(String::new()), move |page| {
            let (store, full, from) = (store.clone(), full.clone(), from.clone());
            async move {
                let Some(page) = page else { return Ok(None) };
                let shown = format!("{}*", store.shown(&full));
                let call = error::call("list", shown, store.limits.call);
                let list = call
                    .run(|| store.api.list(&full, from.as_deref(), &page))
                    .await?;
                let next = list.next_page_token.filter(|token| !token.is_empty());
                let found: Vec<Result<ObjectMeta, StoreError>> = list
                    .items
                    .into_iter()
                    .filter_map(|item| {
                        let name = item.name.strip_prefix(&store.prefix)?;
                        // Not every emulator knows `startOffset`.
                        let early = from.as_ref().is_some_and(|from| item.name < *from);
                        if early || name.starts_with(upload::PARTS) {
                            return None;
                        }
                        Some(Ok(ObjectMeta {
                            name: name.to_owned(),
                            size: item.size.parse().unwrap_or(0),
                        }))
                    })
                    .collect();
                Ok::<_, StoreError>(Some((stream::iter(found), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let object = self.object(name)?;
        let call = error::call("delete", self.shown(&object), self.limits.call);
        match call.run(|| self.api.delete(&object)).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            done => done,
        }
    }
}

/// Application Default Credentials: a service account's file, a federation, an impersonation, `gcloud`'s login, or what the
/// metadata server gives (Workload Identity).
fn credentials(emulated: bool) -> Result<Credentials, String> {
    if emulated {
        return Ok(credentials::anonymous::Builder::new().build());
    }
    credentials::Builder::default()
        .with_scopes([SCOPE])
        .build()
        .map_err(|error| {
            format!(
                "no Google credentials can be used: {error}. On GKE use Workload Identity; elsewhere let \
                 GOOGLE_APPLICATION_CREDENTIALS name a credentials file, or run `gcloud auth application-default login`"
            )
        })
}

fn parse(url: &str) -> Result<(String, String), String> {
    let form = "write gs://BUCKET or gs://BUCKET/PREFIX";
    let rest = url
        .strip_prefix("gs://")
        .ok_or_else(|| format!("it begins with no gs://; {form}"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if bucket.len() < 3 || !bucket.chars().all(allowed) {
        return Err(format!("`{bucket}` cannot be the name of a bucket; {form}"));
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.contains(['?', '#']) {
        return Err(format!("? and # are not taken in a prefix; {form}"));
    }
    if prefix.is_empty() {
        return Ok((bucket.to_owned(), String::new()));
    }
    check_name(prefix).map_err(|error| format!("{error}; {form}"))?;
    Ok((bucket.to_owned(), format!("{prefix}/")))
}

fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
#[path = "gcs_tests.rs"]
mod tests;
