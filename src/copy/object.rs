//! One object: it is read and checked at the source, and created at the target.

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use tokio::sync::OwnedSemaphorePermit;

use super::error::{Side, Trouble};
use super::{Copier, CopyError};
use crate::archive::digest::Digest;
use crate::archive::{ArchiveError, BaseManifest, Name, ObjectCheck, check_document};
use crate::log::segment::Entry;
use crate::recovery::Progress;
use crate::store::{ByteStream, StoreError};

/// An object up to this size is read before its turn, and created by one request. The longest segments are shorter.
pub(super) const SHORT: u64 = 8 << 20;

/// An object of the log that was read before its turn.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) entry: Entry,
    /// Its share of the memory.
    pub(super) _memory: Option<OwnedSemaphorePermit>,
}

impl Copier {
    /// Reads a document of the source, and checks it.
    pub(super) async fn document(&self, name: Name) -> Result<Bytes, Trouble> {
        let read = self.from.document_bytes(name).await;
        match read {
            Ok(Some(bytes)) => match check_document(name, &bytes) {
                Ok(()) => Ok(bytes),
                Err(error) => Err(Trouble::Damaged(error)),
            },
            Ok(None) => Err(Trouble::Vanished),
            Err(error) => Err(self.trouble(error)),
        }
    }

    /// Copies a document, unless the target has it. None: it was there. If `must_agree`, what is there has to be the same.
    pub(super) async fn copy_document(
        &self,
        name: Name,
        must_agree: bool,
    ) -> Result<Option<u64>, Trouble> {
        let bytes = self.document(name).await?;
        self.create_document(name, bytes, must_agree).await
    }

    /// The same of one that was read.
    pub(super) async fn create_document(
        &self,
        name: Name,
        bytes: Bytes,
        must_agree: bool,
    ) -> Result<Option<u64>, Trouble> {
        let there = self.to.document_bytes(name).await;
        match there.map_err(|error| self.failed(Side::Target, error))? {
            Some(there) if there == bytes || !must_agree => Ok(None),
            Some(_) => Err(self.differs(name).into()),
            None => self.create(name, bytes, must_agree).await,
        }
    }

    /// Creates an object. None: it was there.
    pub(super) async fn create(
        &self,
        name: Name,
        bytes: Bytes,
        must_agree: bool,
    ) -> Result<Option<u64>, Trouble> {
        let length = bytes.len() as u64;
        if self.dry_run {
            return Ok(Some(length));
        }
        let object = name.to_string();
        match self.to.store().create(&object, bytes).await {
            Ok(_) => Ok(Some(length)),
            Err(StoreError::AlreadyExists { .. }) => {
                if must_agree && !self.is_same(name).await? {
                    return Err(self.differs(name).into());
                }
                Ok(None)
            }
            Err(error) => Err(self.failed(Side::Target, error.into()).into()),
        }
    }

    /// Reads a short object of the log, and checks it.
    pub(super) async fn body(&self, name: Name) -> Result<Body, Trouble> {
        let mut stream = self.open(name).await?;
        let mut check = ObjectCheck::of_log(name);
        let mut all = BytesMut::new();
        while let Some(chunk) = self.next(&mut stream).await? {
            check.push(&chunk).map_err(Trouble::Damaged)?;
            all.extend_from_slice(&chunk);
        }
        let entry = check.finish().map_err(Trouble::Damaged)?;
        let entry = entry.ok_or(Trouble::Vanished)?;
        Ok(Body {
            bytes: all.freeze(),
            entry,
            _memory: None,
        })
    }

    /// Copies a long object of the log, or the data of a base, in bounded memory. Nothing is created unless all of it was right,
    /// and `is_wanted` says so of what it is. None: it was there, or is not wanted.
    pub(super) async fn stream(
        &self,
        name: Name,
        mut check: ObjectCheck,
        is_wanted: impl FnOnce(Option<&Entry>) -> bool,
        progress: &dyn Progress,
    ) -> Result<Option<u64>, Trouble> {
        let mut stream = self.open(name).await?;
        let object = name.to_string();
        let target = |error: StoreError| Trouble::End(self.failed(Side::Target, error.into()));
        let upload = self.to.store().upload(&object).await;
        let mut upload = upload.map_err(target)?;
        let mut length = 0_u64;
        while let Some(chunk) = self.next(&mut stream).await? {
            check.push(&chunk).map_err(Trouble::Damaged)?;
            length = length.saturating_add(chunk.len() as u64);
            progress.advance(chunk.len() as u64);
            upload.write(chunk).await.map_err(target)?;
        }
        let entry = check.finish().map_err(Trouble::Damaged)?;
        if !is_wanted(entry.as_ref()) {
            return Ok(None);
        }
        match upload.commit().await {
            Ok(()) => Ok(Some(length)),
            Err(StoreError::AlreadyExists { .. }) => match self.is_same(name).await? {
                true => Ok(None),
                false => Err(self.differs(name).into()),
            },
            Err(error) => Err(target(error)),
        }
    }

    /// Reads an object at both places. Does the target have the same bytes?
    pub(super) async fn is_same(&self, name: Name) -> Result<bool, Trouble> {
        let ours = self.digest_of(Side::Source, name).await?;
        let theirs = self.digest_of(Side::Target, name).await?;
        Ok(ours == theirs)
    }

    async fn digest_of(&self, side: Side, name: Name) -> Result<String, Trouble> {
        let store = match side {
            Side::Source => self.from.store(),
            Side::Target => self.to.store(),
        };
        let failed = |error: StoreError| Trouble::End(self.failed(side, error.into()));
        let mut stream = match store.read(&name.to_string(), None).await {
            Err(StoreError::NotFound { .. }) => return Err(Trouble::Vanished),
            other => other.map_err(failed)?,
        };
        let mut digest = Digest::new();
        while let Some(chunk) = stream.try_next().await.map_err(failed)? {
            digest.update(&chunk);
        }
        Ok(digest.text())
    }

    /// Reads an object at the target to its end. Is it what its name says?
    pub(super) async fn check_target(
        &self,
        name: Name,
        manifest: Option<&BaseManifest>,
    ) -> Result<(), Trouble> {
        let failed = |error: StoreError| Trouble::End(self.failed(Side::Target, error.into()));
        let mut check = match manifest {
            Some(manifest) => ObjectCheck::of_base(manifest.clone()),
            None => ObjectCheck::of_log(name),
        };
        let stream = self.to.store().read(&name.to_string(), None).await;
        let mut stream = stream.map_err(failed)?;
        while let Some(chunk) = stream.try_next().await.map_err(failed)? {
            check.push(&chunk).map_err(Trouble::Damaged)?;
        }
        check.finish().map_err(Trouble::Damaged).map(|_| ())
    }

    /// Do two spans of one name, of other bytes, hold the same? Whoever merged the log of the copy has made one of his own.
    pub(super) async fn is_same_span(&self, name: Name) -> Result<bool, Trouble> {
        let ours = self.from.span_of(name).await;
        let theirs = self.to.span_of(name).await;
        let theirs = theirs.map_err(|error| self.failed(Side::Target, error))?;
        let (Some(ours), Some(theirs)) = (ours.map_err(|error| self.trouble(error))?, theirs)
        else {
            return Err(Trouble::Vanished);
        };
        Ok(ours.payload_crc64 == theirs.payload_crc64)
    }

    async fn open(&self, name: Name) -> Result<ByteStream, Trouble> {
        match self.from.store().read(&name.to_string(), None).await {
            Ok(stream) => Ok(stream),
            Err(error) => Err(self.trouble(error.into())),
        }
    }

    async fn next(&self, stream: &mut ByteStream) -> Result<Option<Bytes>, Trouble> {
        let next = stream.try_next().await;
        next.map_err(|error| self.trouble(error.into()))
    }

    /// What an error of the source means.
    pub(super) fn trouble(&self, error: ArchiveError) -> Trouble {
        match error {
            ArchiveError::Store(StoreError::NotFound { .. }) | ArchiveError::Missing { .. } => {
                Trouble::Vanished
            }
            ArchiveError::Store(error) => Trouble::End(self.failed(Side::Source, error.into())),
            error => Trouble::Damaged(error),
        }
    }

    pub(super) fn failed(&self, side: Side, error: ArchiveError) -> CopyError {
        let store = match side {
            Side::Source => self.from.store(),
            Side::Target => self.to.store(),
        };
        CopyError::Archive {
            side,
            url: store.url(),
            error: Box::new(error),
        }
    }

    pub(super) fn differs(&self, name: Name) -> CopyError {
        CopyError::Differs {
            object: name.to_string(),
            from: self.from.store().url(),
            to: self.to.store().url(),
        }
    }
}
