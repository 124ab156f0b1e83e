//! Amazon S3 and what speaks as it does, `s3://BUCKET/PREFIX`, and Azure Blob Storage, `az://CONTAINER/PREFIX`, through the
//! crate `object_store`: it knows signatures, credentials and XML.
//!
//! An object is created by one request with `If-None-Match: *`: a small one by the request that carries it, a large one by the request
//! that makes it out of the parts sent before ([`upload`]; the crate completes uploads without a condition, so [`wire`] adds
//! it). No temporary name and no copy is needed: S3 has taken the condition there since 2024, Azure ever since. Every create
//! carries a token of its own in the object's metadata, which says whether an object that is there already is this very one.

mod azure;
mod error;
mod reading;
mod s3;
mod settings;
mod upload;
mod wire;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::CrcAlgorithm;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use object_store::aws::AwsCredentialProvider;
use object_store::azure::AzureCredentialProvider;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, GetResult, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions,
};
use tokio::time::timeout;

use super::retry::{Advice, Attempt, Call, too_slow};
use super::{ByteStream, ObjectMeta, Store, StoreError, Upload, check_name};
use reading::Reading;

/// Metadata of an object: the token of the create that made it, and CRC32C of what was sent. Names that S3 takes as headers through every
/// proxy, and Azure as identifiers.
const TOKEN_KEY: &str = "backfeedtoken";
const CRC_KEY: &str = "backfeedcrc32c";
const CONTENT_TYPE: &str = "application/octet-stream";
/// One try of one request. The longest carries 32 MiB, which a line of 4 Mbit/s takes in this time.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(70);
/// No byte of a read for so long: the connection is dead.
const READ_STALL: Duration = Duration::from_secs(30);
/// After so long without success a call returns, and tells; who can wait longer calls again.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// Up to so many bytes that are in memory anyway go up in one request. The longest log segments are below it.
const SINGLE: usize = 32 << 20;

/// In what one kind of service differs from the other.
struct Side {
    scheme: &'static str,
    /// What it calls a bucket.
    noun: &'static str,
    /// Size of the part with that number, and how many there may be.
    part: fn(usize) -> usize,
    parts: usize,
    /// Is an object's metadata given when its upload begins, or when it is completed?
    metadata_first: bool,
    /// Does the crate leave the object out of a listing that has the very name of the prefix?
    skips_prefix: bool,
    /// What is wrong with a name that the service would make another one of.
    refuses: fn(&str) -> Option<&'static str>,
    /// What to do when that verb is refused with that status.
    advice: Advice,
    /// Where to get credentials from.
    credentials: &'static str,
}

impl Side {
    fn upload_options(&self, token: &str) -> PutMultipartOptions {
        let attributes = match self.metadata_first {
            true => attributes(token, None),
            false => Attributes::new(),
        };
        PutMultipartOptions {
            attributes,
            ..PutMultipartOptions::default()
        }
    }

    /// The prefix to ask for, of which more may be listed.
    fn asked<'a>(&self, prefix: &'a str) -> &'a str {
        if !self.skips_prefix || prefix.ends_with('/') {
            return prefix;
        }
        let mut characters = prefix.chars();
        characters.next_back();
        characters.as_str()
    }

    /// Headers of the request that completes an upload.
    fn completion(&self, token: &str, crc: u32) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.metadata_first {
            return headers;
        }
        for (name, value) in [
            (format!("x-ms-meta-{TOKEN_KEY}"), token.to_owned()),
            (format!("x-ms-meta-{CRC_KEY}"), format!("{crc:08x}")),
            ("x-ms-blob-content-type".to_owned(), CONTENT_TYPE.to_owned()),
        ] {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(name.as_bytes()),
                HeaderValue::from_str(&value),
            ) {
                headers.insert(name, value);
            }
        }
        headers
    }
}

/// Who we are to the service.
enum Credentials {
    /// Nobody: requests are not signed.
    None,
    Aws(AwsCredentialProvider),
    Azure(AzureCredentialProvider),
}

/// What the crate can do with either service.
trait Cloud: ObjectStore + MultipartStore + PaginatedListStore {}
impl<T: ObjectStore + MultipartStore + PaginatedListStore> Cloud for T {}

/// A prefix in a bucket of S3 or a container of Azure.
#[derive(Clone)]
pub struct CloudStore {
    side: &'static Side,
    cloud: Arc<dyn Cloud>,
    credentials: Arc<Credentials>,
    bucket: String,
    /// Empty, or with a `/` at its end.
    prefix: String,
}

impl fmt::Debug for CloudStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloudStore").field(&self.url()).finish()
    }
}

impl CloudStore {
    /// Opens `s3://BUCKET[/PREFIX]` or `az://CONTAINER[/PREFIX]` with what the environment says of endpoint, region, account and
    /// credentials. Nothing is asked of the network yet.
    ///
    /// # Errors
    /// [`StoreError::Permanent`]: a wrong URL, or an environment that cannot be used.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let text = |name: std::ffi::OsString| name.into_string().ok();
        let environment = std::env::vars_os();
        Self::open_with(
            url,
            environment.filter_map(|(name, value)| Some((text(name)?, text(value)?))),
        )
    }

    /// The same, with an environment that is handed in.
    ///
    /// # Errors
    /// [`StoreError::Permanent`], as [`Self::open`].
    pub fn open_with(
        url: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StoreError> {
        let opened = match url.starts_with("az:") {
            true => azure::open(url, environment),
            false => s3::open(url, environment),
        };
        opened.map_err(|cause| StoreError::Permanent {
            what: format!("cannot open the store {url}"),
            cause,
        })
    }

    fn new(
        side: &'static Side,
        cloud: impl Cloud,
        credentials: Credentials,
        bucket: String,
        prefix: String,
    ) -> Self {
        Self {
            side,
            cloud: Arc::new(cloud),
            credentials: Arc::new(credentials),
            bucket,
            prefix,
        }
    }

    fn object(&self, name: &str) -> Result<String, StoreError> {
        let object = format!("{}{name}", self.prefix);
        check_name(&object)?;
        if let Some(cause) = (self.side.refuses)(&object) {
            return Err(StoreError::Permanent {
                what: format!("cannot use the name {}", self.shown(&object)),
                cause: cause.to_owned(),
            });
        }
        Ok(object)
    }

    fn path(&self, object: &str) -> Result<Path, StoreError> {
        Path::parse(object).map_err(|error| StoreError::Permanent {
            what: format!("cannot use the name {}", self.shown(object)),
            cause: error.to_string(),
        })
    }

    fn shown(&self, object: &str) -> String {
        format!("{}://{}/{object}", self.side.scheme, self.bucket)
    }

    fn call(&self, verb: &'static str, object: &str, limit: Duration) -> Call {
        Call::new(verb, self.shown(object), limit, self.side.advice)
    }

    /// Are there credentials? They are kept and renewed by the crate; asked for here, so that their want is told as what it is.
    async fn authorize(&self) -> Result<(), Attempt> {
        let had = async {
            match &*self.credentials {
                Credentials::None => Ok(()),
                Credentials::Aws(provider) => provider.get_credential().await.map(|_| ()),
                Credentials::Azure(provider) => provider.get_credential().await.map(|_| ()),
            }
        };
        match timeout(ATTEMPT_LIMIT, had).await {
            Ok(had) => had.map_err(|error| error::of_credentials(&error, self.side.credentials)),
            Err(_) => Err(too_slow(ATTEMPT_LIMIT)),
        }
    }

    /// Creates an object, as often as it takes within `limit`. The object is ours, and whole, when it returns.
    async fn put(&self, object: &str, body: Bytes, limit: Duration) -> Result<(), StoreError> {
        let path = self.path(object)?;
        let token = token();
        let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &body);
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: attributes(&token, u32::try_from(crc).ok()),
            ..PutOptions::default()
        };
        let call = self.call("create", object, limit);
        call.run(|| async {
            self.authorize().await?;
            let put = self
                .cloud
                .put_opts(&path, body.clone().into(), options.clone());
            match timeout(ATTEMPT_LIMIT, put).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => match error::of(&error) {
                    failed @ Attempt::Exists => self.check_ours(object, &token, failed).await,
                    failed => Err(failed),
                },
                Err(_) => Err(too_slow(ATTEMPT_LIMIT)),
            }
        })
        .await
        .map_err(|error| self.own_name(error, object))
    }

    /// A create ended with `failed`. Is there such an object, and did this very create make it?
    async fn check_ours(&self, object: &str, token: &str, failed: Attempt) -> Result<(), Attempt> {
        match self.metadata(object).await {
            Ok(found) => match found.get(&Attribute::Metadata(Cow::Borrowed(TOKEN_KEY))) {
                Some(theirs) if theirs.as_ref() == token => Ok(()),
                _ => Err(Attempt::Exists),
            },
            // It is on its way somewhere else, or was deleted meanwhile.
            Err(Attempt::NotFound(_)) if matches!(failed, Attempt::Exists) => Err(Attempt::Again(
                "another create is under way".to_owned(),
                None,
            )),
            Err(Attempt::NotFound(_)) => Err(failed),
            // Not what the create itself needs.
            Err(Attempt::Refused(status @ (401 | 403), cause)) => Err(Attempt::Refused(
                0,
                format!(
                    "it cannot be seen whether it is there: {cause} (HTTP {status}). {}",
                    (self.side.advice)("read", status, &cause)
                ),
            )),
            Err(unknown) => Err(unknown),
        }
    }

    async fn metadata(&self, object: &str) -> Result<Attributes, Attempt> {
        let path = self
            .path(object)
            .map_err(|error| Attempt::Refused(0, error.to_string()))?;
        self.authorize().await?;
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        match timeout(READ_STALL, self.cloud.get_opts(&path, options)).await {
            Ok(Ok(found)) => Ok(found.attributes),
            Ok(Err(error)) => Err(error::of(&error)),
            Err(_) => Err(too_slow(READ_STALL)),
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

    /// Asks for `[from, end)` of an object, which has that tag still if one is given. None: the object ends before.
    /// [`StoreError::AlreadyExists`]: it has another tag.
    async fn request(
        &self,
        object: &str,
        (from, end): (u64, u64),
        etag: Option<String>,
    ) -> Result<Option<GetResult>, StoreError> {
        let path = self.path(object)?;
        let options = GetOptions {
            range: match (from, end) {
                (0, u64::MAX) => None,
                (_, u64::MAX) => Some(GetRange::Offset(from)),
                _ => Some(GetRange::Bounded(from..end)),
            },
            if_match: etag,
            ..GetOptions::default()
        };
        let call = self.call("read", object, CALL_LIMIT);
        call.run(|| async {
            self.authorize().await?;
            match timeout(READ_STALL, self.cloud.get_opts(&path, options.clone())).await {
                Ok(Ok(response)) => Ok(Some(response)),
                Ok(Err(error)) => match error::of(&error) {
                    Attempt::Refused(416, _) => Ok(None),
                    failed => Err(failed),
                },
                Err(_) => Err(too_slow(READ_STALL)),
            }
        })
        .await
        .map_err(|error| self.own_name(error, object))
    }

    async fn page(
        &self,
        prefix: &str,
        offset: Option<String>,
        token: Option<String>,
    ) -> Result<PaginatedListResult, StoreError> {
        let call = self.call("list", &format!("{prefix}*"), CALL_LIMIT);
        call.run(|| async {
            self.authorize().await?;
            let options = PaginatedListOptions {
                offset: offset.clone(),
                page_token: token.clone(),
                ..PaginatedListOptions::default()
            };
            let prefix = Some(self.side.asked(prefix)).filter(|prefix| !prefix.is_empty());
            match timeout(ATTEMPT_LIMIT, self.cloud.list_paginated(prefix, options)).await {
                Ok(page) => page.map_err(|error| error::of(&error)),
                Err(_) => Err(too_slow(ATTEMPT_LIMIT)),
            }
        })
        .await
    }

    /// What of a page is asked for. `last` is the name before.
    fn names(
        &self,
        page: PaginatedListResult,
        prefix: &str,
        from: Option<&str>,
        last: &mut String,
    ) -> Vec<Result<ObjectMeta, StoreError>> {
        let mut found = Vec::new();
        for object in page.result.objects {
            let full = object.location.as_ref();
            let Some(name) = full.strip_prefix(&self.prefix) else {
                continue;
            };
            if !full.starts_with(prefix) || from.is_some_and(|from| full < from) {
                continue;
            }
            // Readers follow the log by its order.
            if full <= last.as_str() {
                found.push(Err(StoreError::Permanent {
                    what: format!("cannot list {}*", self.shown(prefix)),
                    cause: format!(
                        "the service does not list objects in the order of their names ({full} came after {last}). Such a service cannot \
                         be used"
                    ),
                }));
                break;
            }
            last.clear();
            last.push_str(full);
            found.push(Ok(ObjectMeta {
                name: name.to_owned(),
                size: object.size,
            }));
        }
        found
    }
}

#[async_trait]
impl Store for CloudStore {
    fn url(&self) -> String {
        self.shown(&self.prefix).trim_end_matches('/').to_owned()
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<(), StoreError> {
        let object = self.object(name)?;
        if body.len() > SINGLE {
            let mut upload = self.upload(name).await?;
            upload.write(body).await?;
            return upload.commit().await;
        }
        self.put(&object, body, CALL_LIMIT).await
    }

    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        let upload = upload::CloudUpload::new(self.clone(), self.object(name)?)?;
        Ok(Box::new(upload))
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        let object = self.object(name)?;
        let range = range.unwrap_or(0..u64::MAX);
        if range.start >= range.end {
            let call = self.call("read", &object, CALL_LIMIT);
            call.run(|| self.metadata(&object))
                .await
                .map_err(|error| self.own_name(error, &object))?;
            return Ok(stream::empty().boxed());
        }
        let reading = Reading::open(self.clone(), object, range).await?;
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
        // The services begin after a name, or at it: one character less is before it for either.
        let offset = from.as_ref().and_then(|from| {
            let mut before = from.clone();
            before.pop();
            Some(before).filter(|before| !before.is_empty())
        });
        let begin = Some((None, String::new()));
        let pages = stream::try_unfold(begin, move |state| {
            let (store, full, from) = (store.clone(), full.clone(), from.clone());
            let offset = offset.clone();
            async move {
                let Some((token, mut last)) = state else {
                    return Ok(None);
                };
                let mut page = store.page(&full, offset, token).await?;
                let next = page.page_token.take().filter(|token| !token.is_empty());
                let found = store.names(page, &full, from.as_deref(), &mut last);
                let next = next.map(|token| (Some(token), last));
                Ok::<_, StoreError>(Some((stream::iter(found), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let object = self.object(name)?;
        let path = self.path(&object)?;
        let call = self.call("delete", &object, CALL_LIMIT);
        let done = call
            .run(|| async {
                self.authorize().await?;
                let one = stream::iter([Ok(path.clone())]).boxed();
                let mut deleted = self.cloud.delete_stream(one);
                match timeout(ATTEMPT_LIMIT, deleted.try_next()).await {
                    Ok(done) => done.map_err(|error| error::of(&error)),
                    Err(_) => Err(too_slow(ATTEMPT_LIMIT)),
                }
            })
            .await;
        match done {
            Ok(_) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn attributes(token: &str, crc: Option<u32>) -> Attributes {
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::ContentType, CONTENT_TYPE.into());
    attributes.insert(
        Attribute::Metadata(Cow::Borrowed(TOKEN_KEY)),
        token.to_owned().into(),
    );
    if let Some(crc) = crc {
        attributes.insert(
            Attribute::Metadata(Cow::Borrowed(CRC_KEY)),
            format!("{crc:08x}").into(),
        );
    }
    attributes
}

/// The CRC32C that an object says it has.
fn crc32c_in(attributes: &Attributes) -> Option<u32> {
    let text = attributes.get(&Attribute::Metadata(Cow::Borrowed(CRC_KEY)))?;
    u32::from_str_radix(text, 16).ok()
}

fn token() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[cfg(test)]
#[path = "cloud_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "settings_tests.rs"]
mod settings_tests;
