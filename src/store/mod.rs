//! Where objects lie: a small create-once object store, and its backends.
//!
//! Every object is created once and never changed; the create is the commit point. A store knows nothing of what the
//! objects mean (that is [`crate::archive`]).

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// An object's name and size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Name relative to the store's root, `/` between its parts.
    pub name: String,
    /// Bytes stored.
    pub size: u64,
}

/// Bytes of an object, in order, in chunks of bounded size.
pub type ByteStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// A create-once object store.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// What an operator calls it: the URL without secrets.
    fn url(&self) -> String;

    /// Creates `name` with `body`. Durable when it returns. [`StoreError::AlreadyExists`] when there is such an object.
    async fn create(&self, name: &str, body: Bytes) -> Result<(), StoreError>;

    /// Begins an object of unknown length. Nothing is visible under `name` before [`Upload::commit`].
    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError>;

    /// Reads `range` of an object, or all of it. A range beyond the end is cut at the end.
    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError>;

    /// Objects whose names start with `prefix`, in ascending order of name (bytewise), those `>= from` if given.
    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>>;

    /// Deletes an object; no error when it is not there.
    async fn delete(&self, name: &str) -> Result<(), StoreError>;
}

/// An object in the making. Dropping it without a commit leaves nothing behind that counts.
#[async_trait]
pub trait Upload: Send {
    /// Appends bytes. Memory stays bounded whatever the length of the object.
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError>;
    /// Creates the object from what was written; durable when it returns. [`StoreError::AlreadyExists`] as in create.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Opens the store that `url` names. Nothing is created by that, and nothing is read.
pub async fn open(url: &str) -> Result<SharedStore, StoreError> {
    let _ = url;
    todo!()
}

/// A store, shared.
pub type SharedStore = Arc<dyn Store>;

/// What can go wrong with a store.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// Create-once: there is such an object already.
    #[error("{name}: already exists")]
    AlreadyExists {
        /// The object.
        name: String,
    },
    /// No such object.
    #[error("{name}: no such object")]
    NotFound {
        /// The object.
        name: String,
    },
    /// Worth another try: the network, a busy service, a full disk that may be emptied.
    #[error("{what}: {cause}")]
    Transient {
        /// What was being done, to which object.
        what: String,
        /// What the backend said, and what to try.
        cause: String,
    },
    /// No use trying again without a change: permissions, a wrong bucket, a path that is no directory.
    #[error("{what}: {cause}")]
    Permanent {
        /// What was being done, to which object.
        what: String,
        /// What the backend said, and what to try.
        cause: String,
    },
}

impl StoreError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }
}
