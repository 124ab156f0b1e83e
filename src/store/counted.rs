//! A store that counts what is created in it.
//!
//! Code that creates an object need not count it: log segments, snapshots, documents and seals all pass here.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::{ByteStream, Created, Listing, ObjectMeta, SharedStore, Store, StoreError, Upload};
use crate::monitoring::status::Status;

/// The same store. The bytes of the objects that are created in it are counted in the metrics of `status`.
#[must_use]
pub fn counted(store: SharedStore, status: &Status) -> SharedStore {
    Arc::new(Counted {
        store,
        status: status.clone(),
    })
}

#[derive(Debug)]
struct Counted {
    store: SharedStore,
    status: Status,
}

impl Counted {
    fn created(status: &Status, bytes: u64) {
        status.metrics().bytes_stored.inc_by(bytes);
    }
}

#[async_trait]
impl Store for Counted {
    fn url(&self) -> String {
        self.store.url()
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        let bytes = body.len() as u64;
        let created = self.store.create(name, body).await?;
        Self::created(&self.status, bytes);
        Ok(created)
    }

    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        Ok(Box::new(CountedUpload {
            upload: self.store.upload(name).await?,
            status: self.status.clone(),
            bytes: 0,
        }))
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        self.store.read(name, range).await
    }

    async fn list_with(
        &self,
        wanted: Listing<'_>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.store.list_with(wanted).await
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        self.store.delete(name).await
    }
}

struct CountedUpload {
    upload: Box<dyn Upload>,
    status: Status,
    bytes: u64,
}

#[async_trait]
impl Upload for CountedUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.bytes = self.bytes.saturating_add(chunk.len() as u64);
        self.upload.write(chunk).await
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        let Self {
            upload,
            status,
            bytes,
        } = *self;
        upload.commit().await?;
        Counted::created(&status, bytes);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::MemoryStore;
    use super::super::memory::Fault;
    use super::*;

    #[tokio::test]
    async fn what_was_created_counts_and_nothing_else() {
        let (memory, status) = (MemoryStore::new(), Status::new());
        let store = counted(memory.shared(), &status);
        let body = Bytes::from_static(b"12345");
        store.create("a", body.clone()).await.unwrap();
        let mut upload = store.upload("b").await.unwrap();
        upload.write(body.clone()).await.unwrap();
        upload.write(body.clone()).await.unwrap();
        assert_eq!(status.metrics().bytes_stored.get(), 5);
        upload.commit().await.unwrap();
        assert_eq!(status.metrics().bytes_stored.get(), 15);
        // There already, abandoned, refused.
        store.create("a", body.clone()).await.unwrap_err();
        drop(store.upload("c").await.unwrap());
        memory.fail_creates(1, Fault::Permanent);
        store.create("d", body).await.unwrap_err();
        assert_eq!(status.metrics().bytes_stored.get(), 15);
    }
}
