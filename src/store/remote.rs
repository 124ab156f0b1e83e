//! What every store on a network does in the same way, whatever its service: names, creates whose answer may be lost,
//! reads, listings. A service says how a single request is made ([`Service`]). This file says how often it is made, for
//! how long, and what its outcome means.
//!
//! Every create writes a token of its own into the object's metadata. The answer to a create may be lost. If the next
//! try then hears that there is such an object, the token says whether it is this one.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use crate::runtime;
use async_trait::async_trait;
use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::names::Place;
use super::parts::{Assembly, PartWise};
use super::resume::{Opened, Reading};
use super::retry::{Advice, Attempt, Call, too_slow};
use super::{ByteStream, Created, Listing, ObjectMeta, Store, StoreError, Upload, check_name};

/// Up to this many bytes that are in memory anyway are uploaded in one request. The longest log segments are shorter.
const SINGLE: usize = 32 << 20;

/// The content type of every object.
pub(super) const CONTENT_TYPE: &str = "application/octet-stream";

/// How long things may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// One try of one request. The longest carries [`SINGLE`] bytes, which a line of 4 Mbit/s takes in this time.
    pub(super) attempt: Duration,
    /// No byte of a read for this long: the connection is dead.
    pub(super) stall: Duration,
    /// After this long without success a call returns an error. A caller that can wait longer calls again.
    pub(super) call: Duration,
    /// How long a part of a long object is tried: an outage of minutes must not cost a full sync.
    pub(super) part: Duration,
    /// How many times a read is resumed without a byte in between.
    pub(super) resumes: u32,
}

pub(super) const LIMITS: Limits = Limits {
    attempt: Duration::from_secs(70),
    stall: Duration::from_secs(30),
    call: Duration::from_secs(30),
    part: Duration::from_secs(600),
    resumes: 6,
};

/// A bucket of a service. Each method but the first few is one try of one request. The caller ends it when it takes too
/// long.
#[async_trait]
pub(super) trait Service: Clone + fmt::Debug + Send + Sync + 'static {
    /// What makes one object out of parts.
    type Assembly: Assembly;

    fn place(&self) -> &Place;
    fn limits(&self) -> &Limits;
    fn advice(&self) -> Advice;
    /// What is wrong with a name in this bucket, beyond the rules for all.
    fn refuses(&self, object: &str) -> Option<String>;
    /// Is an object of that name in the store no business of its users?
    fn hides(&self, _name: &str) -> bool {
        false
    }

    /// Creates an object, and says when that was: [`Attempt::Exists`] if there is one.
    async fn put(
        &self,
        object: &str,
        body: Bytes,
        crc: u32,
        token: &str,
    ) -> Result<Created, Attempt>;
    /// What is known of an object.
    async fn head(&self, object: &str) -> Result<Head, Attempt>;
    /// Bytes of an object, which must still have that tag if one is given (else [`Attempt::Exists`] or
    /// [`Attempt::NotFound`]). None: it ends before the range.
    async fn get(
        &self,
        object: &str,
        range: Range<u64>,
        tag: Option<&str>,
    ) -> Result<Option<Opened>, Attempt>;
    /// A page of what is wanted, with names in the bucket; maybe more than those `>= from`.
    async fn page(&self, wanted: Listing<'_>, token: Option<String>) -> Result<Page, Attempt>;
    /// Deletes an object.
    async fn remove(&self, object: &str) -> Result<(), Attempt>;
    /// Begins an object of parts. Nothing is asked of the service yet.
    fn assembly(&self, object: String, token: String) -> Self::Assembly;

    fn call(&self, verb: &'static str, object: &str, limit: Duration) -> Call {
        Call::new(verb, self.place().shown(object), limit, self.advice())
    }
}

/// What an object says of itself.
pub(super) struct Head {
    /// The token of the create that made it.
    pub(super) token: Option<String>,
    #[cfg_attr(not(feature = "gcs"), allow(dead_code))]
    pub(super) crc32c: Option<u32>,
    pub(super) created: Created,
}

/// A page of a listing, and how to ask for the next one.
pub(super) struct Page {
    /// With names in the bucket, in any order; folders among them.
    pub(super) objects: Vec<ObjectMeta>,
    pub(super) next: Option<String>,
}

/// Ends a try that takes too long.
pub(super) async fn within<T>(
    limit: Duration,
    attempt: impl Future<Output = Result<T, Attempt>>,
) -> Result<T, Attempt> {
    match timeout(limit, attempt).await {
        Ok(done) => done,
        Err(_) => Err(too_slow(limit)),
    }
}

/// The token of a create.
fn token() -> String {
    format!("{:032x}", u128::from_le_bytes(runtime::random_bytes()))
}

/// CRC-32C as services have it.
pub(super) fn crc32c(digest: &Digest) -> u32 {
    u32::try_from(digest.finalize()).unwrap_or_default()
}

/// Creates an object, with as many tries as are needed within `limit`. The object is ours, and complete, when this
/// returns.
pub(super) async fn put<S: Service>(
    service: &S,
    object: &str,
    body: Bytes,
    limit: Duration,
) -> Result<Created, StoreError> {
    let token = token();
    let mut crc = Digest::new(CrcAlgorithm::Crc32Iscsi);
    crc.update(&body);
    let crc = crc32c(&crc);
    let call = service.call("create", object, limit);
    call.run(|| async {
        let put = service.put(object, body.clone(), crc, &token);
        match within(service.limits().attempt, put).await {
            Err(failed @ Attempt::Exists(_)) => {
                let settled = settle(service, object, &token, failed).await;
                settled.map(|found| found.created)
            }
            done => done,
        }
    })
    .await
    .map_err(|error| service.place().own_name(error, object))
}

/// A create ended with `failed`. Is there such an object, and did this very create make it? Then it succeeded after
/// all.
pub(super) async fn settle<S: Service>(
    service: &S,
    object: &str,
    token: &str,
    failed: Attempt,
) -> Result<Head, Attempt> {
    match within(service.limits().stall, service.head(object)).await {
        Ok(found) if found.token.as_deref() == Some(token) => Ok(found),
        Ok(found) => Err(Attempt::Exists(found.created)),
        // What this create made takes our key.
        Err(Attempt::WrongKey(_)) => Err(Attempt::Exists(None)),
        Err(Attempt::NotFound(_)) if matches!(failed, Attempt::Exists(_)) => Err(Attempt::Again(
            "another create is running, or what it made was deleted".to_owned(),
            None,
        )),
        Err(Attempt::NotFound(_)) => Err(failed),
        // Not what the create itself needs.
        Err(Attempt::Refused(status @ (401 | 403), cause)) => Err(Attempt::Refused(
            0,
            format!(
                "it cannot be checked whether the object is there: {cause} (HTTP {status}). {}",
                (service.advice())("read", status, &cause)
            ),
        )),
        Err(unknown) => Err(unknown),
    }
}

/// The name in the bucket, if it can be one.
fn object_of(service: &impl Service, name: &str) -> Result<String, StoreError> {
    let object = service.place().object(name);
    check_name(&object)?;
    match service.refuses(&object) {
        None => Ok(object),
        Some(cause) => Err(StoreError::Permanent {
            what: format!("cannot use the name {}", service.place().shown(&object)),
            cause,
        }),
    }
}

#[async_trait]
impl<S: Service> Store for S {
    fn url(&self) -> String {
        self.place().url()
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        let object = object_of(self, name)?;
        if body.len() > SINGLE {
            let mut upload = self.upload(name).await?;
            upload.write(body).await?;
            return upload.commit().await.map(|()| None);
        }
        put(self, &object, body, self.limits().call).await
    }

    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        let object = object_of(self, name)?;
        let assembly = self.assembly(object.clone(), token());
        Ok(Box::new(PartWise::new(self.clone(), object, assembly)))
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        let object = object_of(self, name)?;
        let range = range.unwrap_or(0..u64::MAX);
        if range.is_empty() {
            let call = self.call("read", &object, self.limits().call);
            call.run(|| within(self.limits().stall, self.head(&object)))
                .await
                .map_err(|error| self.place().own_name(error, &object))?;
            return Ok(stream::empty().boxed());
        }
        let reading = Reading::open(self.clone(), object, range).await?;
        let chunks = stream::try_unfold(reading, |mut reading| async move {
            let chunk = reading.next().await?;
            Ok(chunk.map(|chunk| (chunk, reading)))
        });
        Ok(chunks.boxed())
    }

    async fn list_with(
        &self,
        wanted: Listing<'_>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let listing = UnderWay {
            service: self.clone(),
            prefix: self.place().object(wanted.prefix),
            from: wanted.from.map(|from| self.place().object(from)),
            folders: wanted.folders,
            page: wanted.page,
            last: String::new(),
            next: Some(None),
        };
        if wanted.folders {
            return stream::once(listing.folders()).try_flatten().boxed();
        }
        let pages = stream::try_unfold(listing, |mut listing| async move {
            let Some(token) = listing.next.take() else {
                return Ok(None);
            };
            let found = listing.page(token).await?;
            Ok::<_, StoreError>(Some((stream::iter(found), listing)))
        });
        pages.try_flatten().boxed()
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let object = object_of(self, name)?;
        let call = self.call("delete", &object, self.limits().call);
        let delete = || within(self.limits().attempt, self.remove(&object));
        match call.run(delete).await {
            Err(StoreError::NotFound { .. }) => Ok(()),
            done => done,
        }
    }
}

/// A listing under way. Names are those in the bucket.
struct UnderWay<S> {
    service: S,
    prefix: String,
    from: Option<String>,
    folders: bool,
    page: usize,
    /// The name that came last.
    last: String,
    /// How to ask for the next page. None after the last one.
    next: Option<Option<String>>,
}

impl<S: Service> UnderWay<S> {
    /// What of the next page is asked for.
    async fn page(
        &mut self,
        token: Option<String>,
    ) -> Result<Vec<Result<ObjectMeta, StoreError>>, StoreError> {
        let (service, from) = (&self.service, self.from.as_deref());
        let limits = service.limits();
        let call = service.call("list", &format!("{}*", self.prefix), limits.call);
        let wanted = Listing {
            prefix: &self.prefix,
            from,
            folders: self.folders,
            page: self.page,
        };
        let page = call.run(|| within(limits.attempt, service.page(wanted, token.clone())));
        let page = page.await?;
        self.next = page.next.filter(|token| !token.is_empty()).map(Some);
        let mut found = Vec::new();
        for ObjectMeta {
            name: object,
            size,
            created,
        } in page.objects
        {
            let Some(name) = service.place().name(&object) else {
                continue;
            };
            if !object.starts_with(&self.prefix) || from.is_some_and(|from| *object < *from) {
                continue;
            }
            // Readers follow the log by its order.
            if !self.folders && object <= self.last {
                found.push(Err(disorder(service, &self.prefix, &object, &self.last)));
                self.next = None;
                break;
            }
            if !service.hides(name) {
                let name = name.to_owned();
                found.push(Ok(ObjectMeta {
                    name,
                    size,
                    created,
                }));
            }
            self.last = object;
        }
        Ok(found)
    }
}

impl<S: Service> UnderWay<S> {
    /// All of one level: objects and folders come apart, and not every service has those of one page before those of the next.
    async fn folders(
        mut self,
    ) -> Result<BoxStream<'static, Result<ObjectMeta, StoreError>>, StoreError> {
        let mut all = Vec::new();
        while let Some(token) = self.next.take() {
            for found in self.page(token).await? {
                all.push(found?);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all.dedup();
        Ok(stream::iter(all.into_iter().map(Ok)).boxed())
    }
}

fn disorder(service: &impl Service, prefix: &str, object: &str, last: &str) -> StoreError {
    StoreError::Permanent {
        what: format!("cannot list {}*", service.place().shown(prefix)),
        cause: format!(
            "the service does not list objects in the order of their names ({object} came after {last}). Such a service cannot be used"
        ),
    }
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
