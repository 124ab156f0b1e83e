//! Amazon S3 and services like it (`s3://BUCKET/PREFIX`), and Azure Blob Storage (`az://CONTAINER/PREFIX`). Both use
//! the crate `object_store`, which knows signatures, credentials and XML.
//!
//! An object is created by one request with `If-None-Match: *`. For a small object this is the request that carries it.
//! For a large object it is the request that joins the parts that were sent before ([`upload`]). The crate completes
//! uploads without a condition, so [`wire`] adds it. No temporary name and no copy is needed: S3 has accepted the
//! condition there since 2024, Azure from the beginning.

#[cfg(feature = "azure")]
mod azure;
mod error;
#[cfg(feature = "s3")]
mod s3;
mod settings;
mod upload;
mod wire;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
#[cfg(feature = "s3")]
use object_store::aws::AwsCredentialProvider;
#[cfg(feature = "azure")]
use object_store::azure::AzureCredentialProvider;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, GetResult, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions,
};

use super::names::Place;
use super::remote::{CONTENT_TYPE, Head, LIMITS, Limits, Page, Service};
use super::resume::Opened;
use super::retry::{Advice, Attempt};
use super::{Created, Listing, ObjectMeta, StoreError, cannot_open};
#[cfg(not(all(feature = "s3", feature = "azure")))]
use crate::config::not_built_in;
use upload::Multipart;
use wire::ANSWERED;

/// Metadata of an object: the token of the create that made it, and CRC32C of what was sent. The names pass every proxy
/// as headers (S3) and are valid identifiers (Azure).
const TOKEN_KEY: &str = "backfeedtoken";
const CRC_KEY: &str = "backfeedcrc32c";

/// In what one kind of service differs from the other.
struct Side {
    /// Size of the part with that number, and how many there may be.
    part: fn(usize) -> usize,
    parts: usize,
    /// Is an object's metadata given when its upload begins, or when it is completed?
    metadata_first: bool,
    /// Does the crate leave the object out of a listing whose name is exactly the prefix?
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

/// The variables of the clouds' own tools, and all others that are text.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |name: std::ffi::OsString| name.into_string().ok();
    #[expect(clippy::disallowed_methods)] // the variables of the cloud's own tools
    let environment = std::env::vars_os();
    environment.filter_map(move |(name, value)| Some((text(name)?, text(value)?)))
}

/// Who we are to the service.
enum Credentials {
    /// Nobody: requests are not signed.
    None,
    #[cfg(feature = "s3")]
    Aws(AwsCredentialProvider),
    #[cfg(feature = "azure")]
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
    place: Place,
    limits: Limits,
}

impl fmt::Debug for CloudStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CloudStore")
            .field(&self.place.url())
            .finish()
    }
}

impl CloudStore {
    /// Opens `s3://BUCKET[/PREFIX]` or `az://CONTAINER[/PREFIX]` with the endpoint, region, account and credentials of
    /// the environment. It does not use the network yet.
    ///
    /// # Errors
    /// [`StoreError::Permanent`]: a wrong URL, or an environment that cannot be used.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        Self::open_with(url, environment())
    }

    /// The same for the source of a copy: a variable with this prefix takes the place of the one without.
    ///
    /// # Errors
    /// As [`Self::open`].
    #[cfg(feature = "cli")]
    pub(super) fn open_preferring(prefix: &str, url: &str) -> Result<Self, StoreError> {
        let all: std::collections::BTreeMap<String, String> = environment().collect();
        let own = |(name, value): (&String, &String)| {
            Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))
        };
        let own: Vec<(String, String)> = all.iter().filter_map(own).collect();
        let mut environment = all;
        environment.extend(own);
        Self::open_with(url, environment)
    }

    /// The same, with the given environment.
    ///
    /// # Errors
    /// [`StoreError::Permanent`], as [`Self::open`].
    pub fn open_with(
        url: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, StoreError> {
        let opened = match url.starts_with("az:") {
            #[cfg(feature = "azure")]
            true => azure::open(url, environment),
            #[cfg(feature = "s3")]
            false => s3::open(url, environment),
            #[cfg(not(all(feature = "s3", feature = "azure")))]
            is_azure => Err(match is_azure {
                true => not_built_in("Azure Blob Storage", "azure"),
                false => not_built_in("S3", "s3"),
            }),
        };
        opened.map_err(|cause| cannot_open(url, cause))
    }

    fn new(side: &'static Side, cloud: impl Cloud, credentials: Credentials, place: Place) -> Self {
        Self {
            side,
            cloud: Arc::new(cloud),
            credentials: Arc::new(credentials),
            place,
            limits: LIMITS,
        }
    }

    #[cfg(test)]
    pub(super) fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Are there credentials? The crate keeps and renews them. They are requested here, so that missing credentials are
    /// reported as what they are.
    async fn authorize(&self) -> Result<(), Attempt> {
        let had = async {
            match &*self.credentials {
                Credentials::None => Ok(()),
                #[cfg(feature = "s3")]
                Credentials::Aws(provider) => provider.get_credential().await.map(|_| ()),
                #[cfg(feature = "azure")]
                Credentials::Azure(provider) => provider.get_credential().await.map(|_| ()),
            }
        };
        had.await
            .map_err(|error| error::of_credentials(&error, self.side.credentials))
    }
}

/// The name of an object in the form of the crate.
fn path(object: &str) -> Result<Path, Attempt> {
    Path::parse(object).map_err(|error| Attempt::Refused(0, error.to_string()))
}

#[async_trait]
impl Service for CloudStore {
    type Assembly = Multipart;

    fn place(&self) -> &Place {
        &self.place
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn advice(&self) -> Advice {
        self.side.advice
    }

    fn refuses(&self, object: &str) -> Option<String> {
        match Path::parse(object) {
            Ok(_) => (self.side.refuses)(object).map(str::to_owned),
            Err(error) => Some(error.to_string()),
        }
    }

    async fn put(
        &self,
        object: &str,
        body: Bytes,
        crc: u32,
        token: &str,
    ) -> Result<Created, Attempt> {
        let options = PutOptions {
            mode: PutMode::Create,
            attributes: attributes(token, Some(crc)),
            ..PutOptions::default()
        };
        let path = path(object)?;
        self.authorize().await?;
        let put = async {
            let put = self.cloud.put_opts(&path, body.into(), options).await;
            put.map(|_| ANSWERED.with(Cell::get))
        };
        let put = ANSWERED.scope(Cell::new(None), put).await;
        put.map_err(|error| error::of(&error))
    }

    async fn head(&self, object: &str) -> Result<Head, Attempt> {
        let path = path(object)?;
        self.authorize().await?;
        let options = GetOptions {
            head: true,
            ..GetOptions::default()
        };
        let found = self.cloud.get_opts(&path, options).await;
        let found = found.map_err(|error| error::of(&error))?;
        let (meta, attributes) = (found.meta, found.attributes);
        let token = attributes.get(&Attribute::Metadata(Cow::Borrowed(TOKEN_KEY)));
        Ok(Head {
            token: token.map(|token| token.to_string()),
            crc32c: crc32c_in(&attributes),
            created: Some(meta.last_modified.timestamp_millis()),
        })
    }

    async fn get(
        &self,
        object: &str,
        range: Range<u64>,
        tag: Option<&str>,
    ) -> Result<Option<Opened>, Attempt> {
        let options = GetOptions {
            range: match (range.start, range.end) {
                (0, u64::MAX) => None,
                (from, u64::MAX) => Some(GetRange::Offset(from)),
                _ => Some(GetRange::Bounded(range)),
            },
            if_match: tag.map(str::to_owned),
            ..GetOptions::default()
        };
        let path = path(object)?;
        self.authorize().await?;
        match self.cloud.get_opts(&path, options).await {
            Ok(response) => Ok(Some(opened(response))),
            Err(error) => match error::of(&error) {
                Attempt::Refused(416, _) => Ok(None),
                failed => Err(failed),
            },
        }
    }

    async fn page(&self, wanted: Listing<'_>, token: Option<String>) -> Result<Page, Attempt> {
        // The services begin after a name, or at it: one character less is before it for either.
        let before = wanted.from.and_then(|from| {
            let mut characters = from.chars();
            characters.next_back();
            Some(characters.as_str()).filter(|before| !before.is_empty())
        });
        let options = PaginatedListOptions {
            offset: before.map(str::to_owned),
            page_token: token,
            max_keys: Some(wanted.page),
            delimiter: wanted.folders.then_some(Cow::Borrowed("/")),
            ..PaginatedListOptions::default()
        };
        let prefix = Some(self.side.asked(wanted.prefix)).filter(|prefix| !prefix.is_empty());
        self.authorize().await?;
        let page = self.cloud.list_paginated(prefix, options).await;
        let page = page.map_err(|error| error::of(&error))?;
        let objects = page.result.objects.into_iter().map(|object| ObjectMeta {
            name: object.location.to_string(),
            size: object.size,
            created: Some(object.last_modified.timestamp_millis()),
        });
        let folders = page.result.common_prefixes.iter();
        let folders = folders.map(|name| ObjectMeta::folder(&format!("{name}/")));
        Ok(Page {
            objects: objects.chain(folders).collect(),
            next: page.page_token,
        })
    }

    async fn remove(&self, object: &str) -> Result<(), Attempt> {
        let path = path(object)?;
        self.authorize().await?;
        let one = stream::iter([Ok(path)]).boxed();
        let deleted = self.cloud.delete_stream(one).try_next().await;
        deleted.map(|_| ()).map_err(|error| error::of(&error))
    }

    fn assembly(&self, object: String, token: String) -> Multipart {
        Multipart::new(self.clone(), object, token)
    }
}

fn opened(response: GetResult) -> Opened {
    Opened {
        tag: response.meta.e_tag.clone(),
        size: response.meta.size,
        crc32c: crc32c_in(&response.attributes),
        body: response
            .into_stream()
            .map_err(|error| error::of(&error))
            .boxed(),
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

#[cfg(test)]
#[path = "settings_tests.rs"]
mod settings_tests;
