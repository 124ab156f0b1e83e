//! The JSON API of Google Cloud Storage, for what its SDK offers only over gRPC.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use google_cloud_auth::credentials::{CacheableResource, Credentials};
use http::{Extensions, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use sha2::{Digest, Sha256};
use url::Url;

use super::{TOKEN_KEY, error};
use crate::config::{Encryption, EncryptionKey, GcsOptions};
use crate::store::remote::CONTENT_TYPE;
use crate::store::retry::{Attempt, chain};
use crate::store::{Created, Listing};

const ENDPOINT: &str = "https://storage.googleapis.com";
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Requests about one bucket.
#[derive(Debug, Clone)]
pub(super) struct Api {
    client: Client,
    credentials: Credentials,
    /// `…/storage/v1/b/BUCKET/o`
    objects: Url,
    /// What every request says: who pays.
    common: HeaderMap,
    /// What a request says that needs an object's key.
    key: HeaderMap,
    options: GcsOptions,
}

/// What is known of an object.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
    /// Base64 of the big-endian CRC32C.
    #[serde(default)]
    crc32c: String,
    /// A number as text.
    #[serde(default)]
    size: String,
    /// RFC 3339.
    #[serde(default, rename = "timeCreated")]
    time_created: String,
}

impl Metadata {
    /// When the object was created.
    pub(super) fn created(&self) -> Created {
        time(&self.time_created)
    }

    /// In bytes.
    pub(super) fn size(&self) -> Result<u64, Attempt> {
        let unsaid = || "the server does not say how long the object is".to_owned();
        let size = self.size.parse();
        size.map_err(|_| Attempt::Refused(200, unsaid()))
    }

    /// As a number.
    pub(super) fn crc32c(&self) -> Option<u32> {
        let bytes = BASE64_STANDARD.decode(&self.crc32c).ok()?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    #[serde(default)]
    pub(super) items: Vec<Item>,
    #[serde(default)]
    pub(super) prefixes: Vec<String>,
    pub(super) next_page_token: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Item {
    pub(super) name: String,
    /// A number as text.
    #[serde(default)]
    pub(super) size: String,
    /// RFC 3339.
    #[serde(default, rename = "timeCreated")]
    time_created: String,
}

impl Item {
    /// When the object was created.
    pub(super) fn created(&self) -> Created {
        time(&self.time_created)
    }
}

/// A time as the service writes it.
fn time(text: &str) -> Created {
    let at: jiff::Timestamp = text.parse().ok()?;
    Some(at.as_millisecond())
}

impl Api {
    pub(super) fn new(
        endpoint: Option<String>,
        credentials: Credentials,
        bucket: &str,
        options: &GcsOptions,
        attempt_limit: Duration,
    ) -> Result<Self, String> {
        let endpoint = endpoint.as_deref().unwrap_or(ENDPOINT);
        let objects = Url::parse(&format!("{endpoint}/storage/v1/b/{bucket}/o"))
            .map_err(|error| format!("{endpoint} is no address of a server: {error}"))?;
        let client = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(attempt_limit)
            // The service has none, and a key must not follow one.
            .redirect(Policy::none())
            .build()
            .map_err(|error| format!("no HTTP client can be made: {}", chain(&error)))?;
        let mut common = HeaderMap::new();
        if let Some(project) = &options.user_project {
            let value = HeaderValue::from_str(project)
                .map_err(|_| "the project that pays cannot be put into a header".to_owned())?;
            common.insert(HeaderName::from_static("x-goog-user-project"), value);
        }
        let key = match &options.encryption {
            Encryption::Supplied(key) => key_headers(key)?,
            Encryption::OfBucket | Encryption::Managed(_) => HeaderMap::new(),
        };
        Ok(Self {
            client,
            credentials,
            objects,
            common,
            key,
            options: options.clone(),
        })
    }

    /// Metadata of an object. Without its key, its checksum would be missing.
    pub(super) async fn metadata(&self, object: &str) -> Result<Metadata, Attempt> {
        let request = self
            .request(Method::GET, self.url(&[object]))
            .await?
            .headers(self.key.clone())
            .query(&[("fields", "metadata,crc32c,size,timeCreated")]);
        json_of(send(request).await?).await
    }

    /// One page of names from `from` on; `page` is empty for the first.
    pub(super) async fn list(&self, wanted: Listing<'_>, page: &str) -> Result<List, Attempt> {
        let most = wanted.page.to_string();
        let mut request = self.request(Method::GET, self.url(&[])).await?.query(&[
            ("prefix", wanted.prefix),
            ("maxResults", &most),
            (
                "fields",
                "items(name,size,timeCreated),prefixes,nextPageToken",
            ),
        ]);
        if let Some(from) = wanted.from {
            request = request.query(&[("startOffset", from)]);
        }
        if wanted.folders {
            request = request.query(&[("delimiter", "/")]);
        }
        if !page.is_empty() {
            request = request.query(&[("pageToken", page)]);
        }
        json_of(send(request).await?).await
    }

    /// Deletes an object.
    pub(super) async fn delete(&self, object: &str) -> Result<(), Attempt> {
        let request = self.request(Method::DELETE, self.url(&[object])).await?;
        send(request).await.map(|_| ())
    }

    /// Makes one new object from `parts`, in their order, and deletes them. Parts that are deleted in this way are not
    /// billed for a minimum time (NEARLINE and colder classes) and not kept by soft delete. Parts and object have the
    /// same storage class and key, as the service needs.
    pub(super) async fn compose(
        &self,
        parts: &[String],
        object: &str,
        token: &str,
    ) -> Result<Metadata, Attempt> {
        let sources: Vec<_> = parts.iter().map(|name| json!({ "name": name })).collect();
        let mut destination = json!({
            "contentType": CONTENT_TYPE,
            "metadata": { TOKEN_KEY: token },
        });
        if let (Some(class), Some(fields)) =
            (self.options.storage_class, destination.as_object_mut())
        {
            fields.insert("storageClass".to_owned(), json!(class.as_str()));
        }
        let body = json!({
            "sourceObjects": sources,
            "destination": destination,
            "deleteSourceObjects": true,
        });
        let mut request = self
            .request(Method::POST, self.url(&[object, "compose"]))
            .await?
            .headers(self.key.clone())
            .query(&[("ifGenerationMatch", "0")])
            .json(&body);
        if let Encryption::Managed(key) = &self.options.encryption {
            request = request.query(&[("kmsKeyName", key.as_str())]);
        }
        json_of(send(request).await?).await
    }

    /// Each part becomes one segment of the path, its slashes encoded.
    fn url(&self, parts: &[&str]) -> Url {
        let mut url = self.objects.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.extend(parts);
        }
        url
    }

    async fn request(&self, method: Method, url: Url) -> Result<RequestBuilder, Attempt> {
        let mut headers: HeaderMap = match self.credentials.headers(Extensions::new()).await {
            Ok(CacheableResource::New { data, .. }) => data,
            Ok(CacheableResource::NotModified) => HeaderMap::new(),
            Err(error) => return Err(error::of_credentials(&error)),
        };
        // Instead of the project that the credentials name.
        headers.extend(self.common.clone());
        Ok(self.client.request(method, url).headers(headers))
    }
}

/// A customer's key, in the form of the service.
fn key_headers(key: &EncryptionKey) -> Result<HeaderMap, String> {
    let base64 = |bytes: &[u8]| {
        let mut value = HeaderValue::from_str(&BASE64_STANDARD.encode(bytes))
            .map_err(|_| "the key cannot be put into a header".to_owned())?;
        // No log of the HTTP client shows it.
        value.set_sensitive(true);
        Ok::<_, String>(value)
    };
    Ok(HeaderMap::from_iter([
        (
            HeaderName::from_static("x-goog-encryption-algorithm"),
            HeaderValue::from_static("AES256"),
        ),
        (
            HeaderName::from_static("x-goog-encryption-key"),
            base64(key.expose())?,
        ),
        (
            HeaderName::from_static("x-goog-encryption-key-sha256"),
            base64(&Sha256::digest(key.expose()))?,
        ),
    ]))
}

async fn send(request: RequestBuilder) -> Result<Response, Attempt> {
    let response = request
        .send()
        .await
        .map_err(|error| Attempt::Again(chain(&error), None))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let after = response
        .headers()
        .get("retry-after")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let said = response.text().await.unwrap_or_default();
    let message = serde_json::from_str::<serde_json::Value>(&said)
        .ok()
        .and_then(|json| Some(json.pointer("/error/message")?.as_str()?.to_owned()))
        .unwrap_or(said);
    Err(error::of_status(
        status.as_u16(),
        &message,
        after.as_deref(),
    ))
}

async fn json_of<T: DeserializeOwned>(response: Response) -> Result<T, Attempt> {
    response
        .json()
        .await
        .map_err(|error| Attempt::Again(chain(&error), None))
}
