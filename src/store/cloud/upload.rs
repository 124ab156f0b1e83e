//! An object of unknown length: parts in parallel, made into one object by one request at the end, which the service
//! carries out only where there is no such object yet.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use object_store::MultipartId;
use object_store::multipart::PartId;
use object_store::path::Path;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::wire::COMPLETION;
use super::{ATTEMPT_LIMIT, CALL_LIMIT, CloudStore, error, token};
use crate::store::retry::{Attempt, too_slow};
use crate::store::{StoreError, Upload};

/// Parts on their way at once, beside the one that fills.
const PARALLEL: usize = 2;
/// A part is tried for so long: an outage of minutes must not cost a full sync.
const PART_LIMIT: Duration = Duration::from_secs(600);

/// An object in the making.
pub(super) struct CloudUpload {
    store: CloudStore,
    object: String,
    path: Path,
    token: String,
    /// Given by the service with the first part.
    id: Option<Arc<MultipartId>>,
    filling: BytesMut,
    crc: Digest,
    sending: JoinSet<Result<(usize, PartId), StoreError>>,
    parts: Vec<Option<PartId>>,
}

impl CloudUpload {
    pub(super) fn new(store: CloudStore, object: String) -> Result<Self, StoreError> {
        Ok(Self {
            path: store.path(&object)?,
            store,
            object,
            token: token(),
            id: None,
            filling: BytesMut::new(),
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
            sending: JoinSet::new(),
            parts: Vec::new(),
        })
    }

    /// Size of the part that fills.
    fn part(&self) -> usize {
        (self.store.side.part)(self.parts.len())
    }

    async fn begin(&mut self) -> Result<Arc<MultipartId>, StoreError> {
        if let Some(id) = &self.id {
            return Ok(Arc::clone(id));
        }
        let options = self.store.side.upload_options(&self.token);
        let call = self.store.call("create", &self.object, PART_LIMIT);
        let begun = call
            .run(|| async {
                self.store.authorize().await?;
                let begin = self
                    .store
                    .cloud
                    .create_multipart_opts(&self.path, options.clone());
                match timeout(ATTEMPT_LIMIT, begin).await {
                    Ok(begun) => begun.map_err(|error| error::of(&error)),
                    Err(_) => Err(too_slow(ATTEMPT_LIMIT)),
                }
            })
            .await?;
        Ok(Arc::clone(self.id.insert(Arc::new(begun))))
    }

    /// Sends what has filled.
    async fn send_part(&mut self) -> Result<(), StoreError> {
        while self.sending.len() >= PARALLEL {
            self.await_part().await?;
        }
        let number = self.parts.len();
        if number >= self.store.side.parts {
            return Err(StoreError::Permanent {
                what: format!("cannot create {}", self.store.shown(&self.object)),
                cause: format!(
                    "it is longer than the {} parts that the service takes for one object",
                    self.store.side.parts
                ),
            });
        }
        let id = self.begin().await?;
        let body = self.filling.split().freeze();
        self.parts.push(None);
        let (store, object, path) = (self.store.clone(), self.object.clone(), self.path.clone());
        self.sending.spawn(async move {
            let call = store.call("create", &object, PART_LIMIT);
            let part = call
                .run(|| async {
                    store.authorize().await?;
                    let put = store
                        .cloud
                        .put_part(&path, &id, number, body.clone().into());
                    match timeout(ATTEMPT_LIMIT, put).await {
                        Ok(part) => part.map_err(|error| error::of(&error)),
                        Err(_) => Err(too_slow(ATTEMPT_LIMIT)),
                    }
                })
                .await?;
            Ok((number, part))
        });
        Ok(())
    }

    async fn await_part(&mut self) -> Result<(), StoreError> {
        match self.sending.join_next().await {
            Some(Ok(sent)) => {
                let (number, part) = sent?;
                if let Some(place) = self.parts.get_mut(number) {
                    *place = Some(part);
                }
                Ok(())
            }
            Some(Err(error)) => Err(StoreError::Transient {
                what: format!("cannot create {}", self.store.shown(&self.object)),
                cause: error.to_string(),
            }),
            None => Ok(()),
        }
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        if !self.filling.is_empty() {
            self.send_part().await?;
        }
        while !self.sending.is_empty() {
            self.await_part().await?;
        }
        let id = self.begin().await?;
        let parts: Vec<PartId> = self.parts.iter().flatten().cloned().collect();
        let crc = u32::try_from(self.crc.finalize()).unwrap_or_default();
        let headers = self.store.side.completion(&self.token, crc);
        let call = self.store.call("create", &self.object, PART_LIMIT);
        call.run(|| async {
            // Some services that speak as S3 does take the condition where an object is put, and ignore it here: what is there
            // already is seen at least.
            let free = Attempt::Over(String::new());
            match self.store.check_ours(&self.object, &self.token, free).await {
                Err(Attempt::Over(_)) => {}
                found => return found,
            }
            let complete = COMPLETION.scope(
                headers.clone(),
                self.store
                    .cloud
                    .complete_multipart(&self.path, &id, parts.clone()),
            );
            let failed = match timeout(ATTEMPT_LIMIT, complete).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(error)) => error::of(&error),
                Err(_) => too_slow(ATTEMPT_LIMIT),
            };
            // Whatever it was: an earlier try may have succeeded, and an answer of success may have broken off.
            match failed {
                Attempt::Refused(..) => Err(failed),
                failed => {
                    self.store
                        .check_ours(&self.object, &self.token, failed)
                        .await
                }
            }
        })
        .await
        .map_err(|error| self.store.own_name(error, &self.object))?;
        self.id = None;
        Ok(())
    }
}

#[async_trait]
impl Upload for CloudUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.crc.update(&chunk);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            // More will follow only when there is more: an object of just one part is created at once.
            if self.filling.len() >= self.part() {
                self.send_part().await?;
            }
            let part = self.part();
            if self.filling.is_empty() {
                self.filling.reserve(part);
            }
            let room = part.saturating_sub(self.filling.len()).min(rest.len());
            let (head, tail) = rest.split_at(room);
            self.filling.extend_from_slice(head);
            rest = tail;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.parts.is_empty() {
            let body = self.filling.split().freeze();
            return self.store.put(&self.object, body, PART_LIMIT).await;
        }
        self.finish().await
    }
}

impl Drop for CloudUpload {
    /// Given up: the service is told, as far as that works. What stays is left to the bucket's lifecycle rule.
    fn drop(&mut self) {
        self.sending.abort_all();
        let Some(id) = self.id.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let (store, object, path) = (self.store.clone(), self.object.clone(), self.path.clone());
        runtime.spawn(async move {
            let call = store.call("delete", &object, CALL_LIMIT);
            let done = call
                .run(|| async {
                    match timeout(ATTEMPT_LIMIT, store.cloud.abort_multipart(&path, &id)).await {
                        Ok(done) => done.map_err(|error| error::of(&error)),
                        Err(_) => Err(too_slow(ATTEMPT_LIMIT)),
                    }
                })
                .await;
            if let Err(error) = done {
                tracing::debug!(%error, "an upload is left over");
            }
        });
    }
}
