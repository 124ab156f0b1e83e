//! Where objects are kept: a small create-once object store, and its backends.
//!
//! Every object is created once and never changed. The create is the commit point. A store does not know what the
//! objects mean (that is [`crate::archive`]).
//!
//! What the stores on a network share is in one place: `remote` (creates, reads, listings, deletions), `parts` (objects
//! of unknown length), `resume` (reads that fail in the middle), `retry`, `names`. `gcs` and `cloud` make the single
//! requests.

#[cfg(any(feature = "s3", feature = "azure"))]
mod cloud;
mod counted;
mod file;
mod file_walk;
#[cfg(feature = "gcs")]
mod gcs;
pub mod memory;
#[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
mod names;
#[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
mod parts;
#[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
mod remote;
#[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
mod resume;
#[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
mod retry;

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::task::JoinError;

use crate::config::StoreConfig;
#[cfg(not(all(feature = "gcs", feature = "s3", feature = "azure")))]
use crate::config::not_built_in;
use crate::runtime::pipe::Interrupted;

#[cfg(any(feature = "s3", feature = "azure"))]
pub use cloud::CloudStore;
pub use counted::counted;
pub use file::FileStore;
#[cfg(feature = "gcs")]
pub use gcs::GcsStore;
pub use memory::MemoryStore;

/// The longest name of an object, in bytes: what Google Cloud Storage and S3 take.
pub const NAME_LIMIT: usize = 1024;

/// An object's name and size, and when it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Name relative to the store's root, `/` between its parts.
    pub name: String,
    /// Bytes stored.
    pub size: u64,
    /// When it was created. A service may count the time of a long upload from its beginning (S3), and a filesystem
    /// from the last change of the file's owner or permissions.
    pub created: Created,
}

impl ObjectMeta {
    /// Does it stand for all objects below it ([`Listing::folders`])? No object's name ends so.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.name.ends_with('/')
    }

    fn folder(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            size: 0,
            created: None,
        }
    }
}

/// The most that a service gives on one page of a listing, and what is asked for if nothing else is said.
pub const PAGE: usize = 1000;

/// What is to be listed.
#[derive(Debug, Clone, Copy)]
pub struct Listing<'a> {
    /// What all names begin with.
    pub prefix: &'a str,
    /// The first name that is wanted. (Not together with `folders`: services differ there.)
    pub from: Option<&'a str>,
    /// What lies below a further `/` is not listed. In place of all of it the name up to that `/` is given once, with size 0.
    pub folders: bool,
    /// How many names a request asks for, at most [`PAGE`]. Whoever wants the first alone need not pay for more.
    pub page: usize,
}

impl<'a> Listing<'a> {
    /// All objects whose names begin so.
    #[must_use]
    pub fn of(prefix: &'a str) -> Self {
        Self {
            prefix,
            from: None,
            folders: false,
            page: PAGE,
        }
    }

    /// Of those, the names from this one on.
    #[must_use]
    pub fn from(self, from: &'a str) -> Self {
        Self {
            from: Some(from),
            ..self
        }
    }

    /// The names of the next level alone.
    #[must_use]
    pub fn folders(self) -> Self {
        Self {
            folders: true,
            ..self
        }
    }

    /// So many names at once.
    #[must_use]
    pub fn pages_of(self, page: usize) -> Self {
        Self {
            page: page.clamp(1, PAGE),
            ..self
        }
    }

    /// The folder that an object is listed as, if it is.
    fn folder_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        let rest = name.strip_prefix(self.prefix).filter(|_| self.folders)?;
        let end = self.prefix.len().saturating_add(rest.find('/')?);
        name.get(..=end)
    }
}

/// When an object came into being, by the clock of the store: Unix milliseconds. None: the store does not say.
///
/// Two of these times may be compared, and nothing else: no clock of ours need agree with the store's.
pub type Created = Option<i64>;

/// Bytes of an object, in order, in chunks of bounded size.
pub type ByteStream = BoxStream<'static, Result<Bytes, StoreError>>;

/// A create-once object store.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// What an operator calls it: the URL without secrets.
    fn url(&self) -> String;

    /// Creates `name` with `body`. Durable when it returns. [`StoreError::AlreadyExists`] when there is such an object.
    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError>;

    /// Begins an object of unknown length. Nothing is visible under `name` before [`Upload::commit`].
    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError>;

    /// Reads `range` of an object, or all of it. A range beyond the end is cut at the end.
    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError>;

    /// What `wanted` says, in ascending order of name (bytewise).
    async fn list_with(
        &self,
        wanted: Listing<'_>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>>;

    /// Objects whose names start with `prefix`, in ascending order of name (bytewise), those `>= from` if given.
    async fn list(
        &self,
        prefix: &str,
        from: Option<&str>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let mut wanted = Listing::of(prefix);
        wanted.from = from;
        self.list_with(wanted).await
    }

    /// Deletes an object. It is no error when it is not there.
    async fn delete(&self, name: &str) -> Result<(), StoreError>;
}

/// An upload that is not complete. If it is dropped without a commit, nothing stays that counts.
#[async_trait]
pub trait Upload: Send {
    /// Appends bytes. Memory stays bounded whatever the length of the object.
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError>;
    /// Creates the object from what was written. It is durable when this returns. [`StoreError::AlreadyExists`] as in
    /// create.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;
}

/// Opens the store that `url` names, with default settings: see [`open_with`].
pub async fn open(url: &str) -> Result<SharedStore, StoreError> {
    open_with(&StoreConfig::at(url)).await
}

/// The error of a store that cannot be opened without a change.
fn cannot_open(url: &str, cause: String) -> StoreError {
    StoreError::Permanent {
        what: format!("cannot open the store {url}"),
        cause,
    }
}

/// Opens a store: `gs://bucket/prefix`, `s3://bucket/prefix`, `az://container/prefix`, or `file:///directory`.
/// Nothing is made by that.
pub async fn open_with(config: &StoreConfig) -> Result<SharedStore, StoreError> {
    let url = config.url.as_str();
    let refuse = |cause: String| Err(cannot_open(url, cause));
    let Some((scheme, _)) = url.split_once(':') else {
        let path = if url.starts_with('/') {
            url
        } else {
            "/path/to/directory"
        };
        return refuse(format!(
            "it is not a URL. For a directory write file://{path}"
        ));
    };
    match scheme {
        #[cfg(test)]
        "simulated" => Ok(crate::runtime::simulated::store()),
        "file" => match file_path(url) {
            Ok(path) => Ok(Arc::new(FileStore::open(path)?)),
            Err(cause) => refuse(cause),
        },
        #[cfg(feature = "gcs")]
        "gs" => Ok(Arc::new(GcsStore::open(url, &config.gcs).await?)),
        #[cfg(not(feature = "gcs"))]
        "gs" => refuse(not_built_in("Google Cloud Storage", "gcs")),
        #[cfg(feature = "s3")]
        "s3" => Ok(Arc::new(CloudStore::open(url)?)),
        #[cfg(not(feature = "s3"))]
        "s3" => refuse(not_built_in("S3", "s3")),
        #[cfg(feature = "azure")]
        "az" => Ok(Arc::new(CloudStore::open(url)?)),
        #[cfg(not(feature = "azure"))]
        "az" => refuse(not_built_in("Azure Blob Storage", "azure")),
        _ => refuse(format!(
            "there is no kind of store called `{scheme}`; use gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
             file:///path/to/directory"
        )),
    }
}

/// What the names of variables begin with that are for the source of a copy alone.
#[cfg(all(feature = "cli", any(feature = "s3", feature = "azure")))]
const SOURCE: &str = "FROM_";

/// The same for the source of a copy. Where the environment names endpoint, account or credentials, a variable such as
/// `FROM_AWS_ENDPOINT_URL` takes the place of `AWS_ENDPOINT_URL`.
#[cfg(feature = "cli")]
pub(crate) async fn open_source(config: &StoreConfig) -> Result<SharedStore, StoreError> {
    match config.url.split_once(':') {
        #[cfg(feature = "s3")]
        Some(("s3", _)) => Ok(Arc::new(CloudStore::open_preferring(SOURCE, &config.url)?)),
        #[cfg(feature = "azure")]
        Some(("az", _)) => Ok(Arc::new(CloudStore::open_preferring(SOURCE, &config.url)?)),
        _ => open_with(config).await,
    }
}

/// What an operator calls the store that `url` names, so that two URLs of one place are alike. Nothing is opened.
///
/// # Errors
/// [`StoreError::Permanent`]: it cannot be the URL of a store.
#[cfg(feature = "cli")]
pub(crate) fn name_of(url: &str) -> Result<String, StoreError> {
    let named = match url.split_once(':') {
        Some(("file", _)) => file_path(url).map(|path| {
            let path: PathBuf = path.components().collect();
            format!("file://{}", path.display())
        }),
        #[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
        Some(("gs", _)) => names::Place::parse("gs", "bucket", url).map(|place| place.url()),
        #[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
        Some(("s3", _)) => names::Place::parse("s3", "bucket", url).map(|place| place.url()),
        #[cfg(any(feature = "gcs", feature = "s3", feature = "azure"))]
        Some(("az", _)) => names::Place::parse("az", "container", url).map(|place| place.url()),
        _ => Err(
            "it is no URL of a store: write gs://BUCKET/PREFIX, s3://BUCKET/PREFIX, az://CONTAINER/PREFIX or \
             file:///path/to/directory"
                .to_owned(),
        ),
    };
    named.map_err(|cause| StoreError::Permanent {
        what: format!("cannot use the store {url}"),
        cause,
    })
}

/// The path in a `file:` URL, or what is wrong with it.
fn file_path(url: &str) -> Result<PathBuf, String> {
    let wanted = "write file:///path/to/directory, with three slashes";
    if !url.starts_with("file:///") {
        return Err(wanted.to_owned());
    }
    let parsed = url::Url::parse(url).map_err(|error| format!("{error}; {wanted}"))?;
    if parsed.query().is_some() || parsed.fragment().is_some() {
        return Err("write `?` as %3F and `#` as %23".to_owned());
    }
    parsed.to_file_path().map_err(|()| wanted.to_owned())
}

/// What a backend can rely on in a name: it is relative and has plain parts, so it cannot lead out of the store.
fn check_name(name: &str) -> Result<(), StoreError> {
    let cause = if name.len() > NAME_LIMIT {
        "it is too long"
    } else if name.chars().any(char::is_control) {
        "it has control characters"
    } else if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        "it has empty parts, or `.` or `..` among them"
    } else {
        return Ok(());
    };
    Err(StoreError::Permanent {
        what: format!("cannot use the name {:?}", name.get(..200).unwrap_or(name)),
        cause: cause.to_owned(),
    })
}

/// The first byte and the end of the range in an object of `size` bytes. The first byte is never after the end.
fn byte_range(range: Option<Range<u64>>, size: u64) -> (u64, u64) {
    let range = range.unwrap_or(0..size);
    let end = range.end.min(size);
    (range.start.min(end), end)
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
        /// When it was created.
        created: Created,
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
    /// A task of ours has ended before it was done.
    #[error("{what}: {cause}")]
    Interrupted {
        /// What was being done.
        what: String,
        /// How it shows.
        cause: String,
    },
}

impl From<Interrupted> for StoreError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Interrupted {
            what: "cannot read from the store".to_owned(),
            cause: interrupted.to_string(),
        }
    }
}

impl StoreError {
    /// May the same call succeed later?
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. } | Self::Interrupted { .. })
    }

    /// `what` was being done by a task that has ended early.
    pub(crate) fn interrupted(what: impl Into<String>, cause: &JoinError) -> Self {
        Self::Interrupted {
            what: what.into(),
            cause: format!("{Interrupted} ({cause})"),
        }
    }
}

#[cfg(test)]
mod contract;
#[cfg(test)]
mod testing;

#[cfg(test)]
#[path = "../../tests/support/emulator.rs"]
mod emulator;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_open_the_store_that_they_name() {
        for (url, name) in [
            ("file:///some/where", "file:///some/where"),
            ("file:///some/wh%20ere%3F/", "file:///some/wh ere?/"),
        ] {
            assert_eq!(open(url).await.unwrap().url(), name);
        }
    }

    #[test]
    fn two_urls_of_one_place_have_one_name() {
        for (url, name) in [
            ("file:///some//wh%20ere/./x/", "file:///some/wh ere/x"),
            ("gs://bucket/x/", "gs://bucket/x"),
            ("s3://bucket", "s3://bucket"),
            ("az://container/x/y", "az://container/x/y"),
        ] {
            assert_eq!(name_of(url).unwrap(), name);
        }
        for wrong in ["gs://", "/backups", "ftp://x", "file:x", ""] {
            let error = name_of(wrong).unwrap_err().to_string();
            assert!(error.contains("write "), "{error}");
        }
    }

    #[tokio::test]
    async fn other_urls_are_permanent_errors_that_say_what_to_write() {
        for (url, advice) in [
            ("/backups", "write file:///backups"),
            ("backups", "write file:///path"),
            ("", "write file:///path"),
            ("file:backups", "three slashes"),
            ("file://backups/x", "three slashes"),
            ("file:///a?b", "%3F"),
            ("file:///a#b", "%23"),
            ("gs:bucket", "write gs://BUCKET"),
            ("gs://", "write gs://BUCKET"),
            ("gs://Bucket/x", "write gs://BUCKET"),
            ("gs://bucket/a//b", "write gs://BUCKET"),
            ("s3:bucket", "write s3://BUCKET"),
            ("s3://b/x", "write s3://BUCKET"),
            ("az://", "write az://CONTAINER"),
            ("ftp://x", "called `ftp`; use gs://"),
            // It would keep nothing.
            ("memory:", "called `memory`; use gs://"),
        ] {
            let error = open(url).await.unwrap_err();
            assert!(!error.is_transient());
            assert!(error.to_string().contains(advice), "{url}: {error}");
        }
    }
}
