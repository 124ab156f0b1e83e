//! An object of unknown length: parts, which one request joins at the end. The service does so only if there is no such
//! object yet.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::MultipartId;
use object_store::multipart::PartId;

use super::wire::COMPLETION;
use super::{CloudStore, error, path};
use crate::store::StoreError;
use crate::store::parts::{Assembly, Sending};
use crate::store::remote::{Service, settle, within};
use crate::store::retry::Attempt;

/// The parts of an object in the making.
pub(in crate::store) struct Multipart {
    store: CloudStore,
    object: String,
    token: String,
    /// Given by the service with the first part.
    id: Option<Arc<MultipartId>>,
    /// None: on its way.
    parts: Vec<Option<PartId>>,
}

impl Multipart {
    pub(super) fn new(store: CloudStore, object: String, token: String) -> Self {
        Self {
            store,
            object,
            token,
            id: None,
            parts: Vec::new(),
        }
    }

    async fn begin(&mut self) -> Result<Arc<MultipartId>, StoreError> {
        if let Some(id) = &self.id {
            return Ok(Arc::clone(id));
        }
        let (store, limits) = (&self.store, &self.store.limits);
        let call = store.call("create", &self.object, limits.part);
        let begin = || async {
            let path = path(&self.object)?;
            store.authorize().await?;
            let options = store.side.upload_options(&self.token);
            let begun = store.cloud.create_multipart_opts(&path, options).await;
            begun.map_err(|error| error::of(&error))
        };
        let begun = call.run(|| within(limits.attempt, begin())).await?;
        Ok(Arc::clone(self.id.insert(Arc::new(begun))))
    }

    /// One try of the request that makes the object.
    async fn try_complete(
        &self,
        id: &MultipartId,
        parts: &[PartId],
        crc: u32,
    ) -> Result<(), Attempt> {
        let path = path(&self.object)?;
        self.store.authorize().await?;
        let completed = COMPLETION.scope(
            self.store.side.completion(&self.token, crc),
            self.store
                .cloud
                .complete_multipart(&path, id, parts.to_vec()),
        );
        completed
            .await
            .map(|_| ())
            .map_err(|error| error::of(&error))
    }

    /// A completion ended with `failed`.
    async fn settle(&self, failed: Attempt) -> Result<(), Attempt> {
        let settled = settle(&self.store, &self.object, &self.token, failed);
        settled.await.map(|_| ())
    }
}

#[async_trait]
impl Assembly for Multipart {
    type Part = (usize, PartId);

    fn part_size(&self) -> usize {
        (self.store.side.part)(self.parts.len())
    }

    async fn send(&mut self, body: Bytes) -> Result<Sending<Self::Part>, StoreError> {
        let number = self.parts.len();
        if number >= self.store.side.parts {
            return Err(StoreError::Permanent {
                what: format!("cannot create {}", self.store.place.shown(&self.object)),
                cause: format!(
                    "it is longer than one object can be (the service takes {} parts). Use another kind of store",
                    self.store.side.parts
                ),
            });
        }
        let id = self.begin().await?;
        self.parts.push(None);
        let (store, object) = (self.store.clone(), self.object.clone());
        Ok(Box::pin(async move {
            let limits = store.limits;
            let call = store.call("create", &object, limits.part);
            let put = || async {
                let path = path(&object)?;
                store.authorize().await?;
                let body = body.clone().into();
                let part = store.cloud.put_part(&path, &id, number, body).await;
                part.map_err(|error| error::of(&error))
            };
            let part = call.run(|| within(limits.attempt, put())).await?;
            Ok((number, part))
        }))
    }

    fn arrived(&mut self, (number, part): Self::Part) {
        if let Some(place) = self.parts.get_mut(number) {
            *place = Some(part);
        }
    }

    async fn complete(&mut self, crc: u32) -> Result<(), StoreError> {
        let id = self.begin().await?;
        let parts: Vec<PartId> = self.parts.iter().flatten().cloned().collect();
        let limits = self.store.limits;
        let call = self.store.call("create", &self.object, limits.part);
        call.run(|| async {
            // Some services that speak as S3 does take the condition where an object is put, and ignore it here: what
            // is there already is seen at least.
            match self.settle(Attempt::Over(String::new())).await {
                Err(Attempt::Over(_)) => {}
                found => return found,
            }
            let complete = self.try_complete(&id, &parts, crc);
            match within(limits.attempt, complete).await {
                Ok(()) => Ok(()),
                Err(failed @ Attempt::Refused(..)) => Err(failed),
                // Whatever it was: an earlier try may have succeeded, and an answer of success may have broken off.
                Err(failed) => self.settle(failed).await,
            }
        })
        .await?;
        self.id = None;
        Ok(())
    }
}

impl Drop for Multipart {
    /// The upload was abandoned: tells the service, if that works. The bucket's lifecycle rule deletes what stays.
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, object) = (self.store.clone(), self.object.clone());
        runtime.spawn(async move {
            let limits = store.limits;
            let call = store.call("delete", &object, limits.call);
            let abort = || async {
                let path = path(&object)?;
                let done = store.cloud.abort_multipart(&path, &id).await;
                done.map_err(|error| error::of(&error))
            };
            if let Err(error) = call.run(|| within(limits.attempt, abort())).await {
                tracing::debug!(%error, "parts of an upload could not be deleted");
            }
        });
    }
}
