//! An object of unknown length: parts in parallel, composed into one object at the end.

use async_trait::async_trait;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use futures::stream::{self, StreamExt};
use tokio::task::JoinSet;

use super::error::{self, Attempt};
use super::{GcsStore, token};
use crate::store::{StoreError, Upload};

/// Size of a part. An object that is not longer is created at once.
pub(super) const PART: usize = 4 << 20;
/// Parts on their way at once, beside the one that fills: 12 MiB in all.
const PARALLEL: usize = 2;
/// What the service composes at once.
const COMPOSE: usize = 32;
/// Where parts lie before they are composed: `.parts/<upload>/<number>`, in no listing.
pub(super) const PARTS: &str = ".parts/";
/// Parts deleted at once.
const SWEEPS: usize = 8;

/// An object in the making.
pub(super) struct GcsUpload {
    store: GcsStore,
    object: String,
    token: String,
    filling: BytesMut,
    crc: Digest,
    sending: JoinSet<Result<(), StoreError>>,
    /// Parts made so far, and compositions of parts; what has more bytes comes first. Level n holds compositions of 32^n parts.
    levels: Vec<Vec<String>>,
    made: u64,
}

impl GcsUpload {
    pub(super) fn new(store: GcsStore, object: String) -> Self {
        Self {
            store,
            object,
            token: token(),
            filling: BytesMut::new(),
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
            sending: JoinSet::new(),
            levels: vec![Vec::new()],
            made: 0,
        }
    }

    fn new_name(&mut self) -> String {
        let name = format!(
            "{}{PARTS}{}/{:08}",
            self.store.prefix, self.token, self.made
        );
        self.made = self.made.saturating_add(1);
        name
    }

    /// Sends what has filled.
    async fn send_part(&mut self) -> Result<(), StoreError> {
        while self.sending.len() >= PARALLEL {
            self.await_part().await?;
        }
        let body = self.filling.split().freeze();
        let name = self.new_name();
        let full = match self.levels.first_mut() {
            Some(parts) => {
                parts.push(name.clone());
                parts.len() >= COMPOSE
            }
            None => false,
        };
        let store = self.store.clone();
        self.sending
            .spawn(async move { store.put(&name, body, store.limits.part).await });
        if full {
            self.compose_up(0).await?;
        }
        Ok(())
    }

    async fn await_part(&mut self) -> Result<(), StoreError> {
        match self.sending.join_next().await {
            Some(Ok(sent)) => sent,
            Some(Err(error)) => Err(StoreError::Transient {
                what: format!("cannot create {}", self.store.shown(&self.object)),
                cause: error.to_string(),
            }),
            None => Ok(()),
        }
    }

    async fn await_parts(&mut self) -> Result<(), StoreError> {
        while !self.sending.is_empty() {
            self.await_part().await?;
        }
        Ok(())
    }

    /// Composes a full level into one object of the next, and so on.
    async fn compose_up(&mut self, mut level: usize) -> Result<(), StoreError> {
        self.await_parts().await?;
        while let Some(parts) = self.levels.get_mut(level) {
            if parts.len() < COMPOSE {
                break;
            }
            let parts = std::mem::take(parts);
            let name = self.new_name();
            self.compose(&parts, &name).await?;
            self.sweep(parts).await;
            level = level.saturating_add(1);
            match self.levels.get_mut(level) {
                Some(above) => above.push(name),
                None => self.levels.push(vec![name]),
            }
        }
        Ok(())
    }

    /// Composes `parts` into a new object; gives its CRC32C.
    async fn compose(&self, parts: &[String], object: &str) -> Result<u32, StoreError> {
        let call = error::call("create", self.store.shown(object), self.store.limits.part);
        call.run(|| async {
            match self.store.api.compose(parts, object, &self.token).await {
                Err(Attempt::Exists) => {
                    crc32c(&self.store.check_ours(object, &self.token).await?.crc32c)
                }
                // The parts are deleted as they are composed: they are gone after a compose whose answer was lost.
                Err(Attempt::NotFound(cause)) => {
                    let found = self.store.ours(object, &self.token).await?;
                    crc32c(&found.ok_or(Attempt::NotFound(cause))?.crc32c)
                }
                done => crc32c(&done?.crc32c),
            }
        })
        .await
        .map_err(|error| self.store.own_name(error, object))
    }

    /// Parts that were composed are of no more use. The service has deleted them; an emulator may not have.
    async fn sweep(&self, parts: Vec<String>) {
        sweep(self.store.clone(), parts).await;
    }

    /// What is to be composed at last: the largest first, and at most as many as the service takes.
    async fn last_parts(&mut self) -> Result<Vec<String>, StoreError> {
        self.await_parts().await?;
        let count = |levels: &[Vec<String>]| levels.iter().map(Vec::len).sum::<usize>();
        let mut level = 0;
        while count(&self.levels) > COMPOSE {
            let Some(parts) = self.levels.get_mut(level).map(std::mem::take) else {
                break;
            };
            level = level.saturating_add(1);
            if parts.is_empty() {
                continue;
            }
            let name = self.new_name();
            self.compose(&parts, &name).await?;
            self.sweep(parts).await;
            match self.levels.get_mut(level) {
                Some(above) => above.push(name),
                None => self.levels.push(vec![name]),
            }
        }
        Ok(self.levels.iter().rev().flatten().cloned().collect())
    }

    async fn finish(&mut self) -> Result<(), StoreError> {
        if !self.filling.is_empty() {
            self.send_part().await?;
        }
        let parts = self.last_parts().await?;
        let stored = self.compose(&parts, &self.object).await?;
        self.levels.clear();
        self.sweep(parts).await;
        let ours = u32::try_from(self.crc.finalize()).unwrap_or_default();
        if stored == ours {
            return Ok(());
        }
        let call = error::call(
            "delete",
            self.store.shown(&self.object),
            self.store.limits.call,
        );
        call.run(|| self.store.api.delete(&self.object)).await?;
        Err(StoreError::Transient {
            what: format!("cannot create {}", self.store.shown(&self.object)),
            cause: format!(
                "what was stored has the CRC32C {stored:08x}, what was sent {ours:08x}; it was deleted"
            ),
        })
    }
}

#[async_trait]
impl Upload for GcsUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.crc.update(&chunk);
        let mut rest = &chunk[..];
        while !rest.is_empty() {
            // More will follow only when there is more: an object of just one part is created at once.
            if self.filling.len() >= PART {
                self.send_part().await?;
            }
            if self.filling.is_empty() {
                self.filling.reserve(PART);
            }
            let room = PART.saturating_sub(self.filling.len()).min(rest.len());
            let (head, tail) = rest.split_at(room);
            self.filling.extend_from_slice(head);
            rest = tail;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.made == 0 {
            let body = self.filling.split().freeze();
            return self
                .store
                .put(&self.object, body, self.store.limits.part)
                .await;
        }
        self.finish().await
    }
}

impl Drop for GcsUpload {
    /// Given up: its parts are swept beside, as far as that works.
    fn drop(&mut self) {
        self.sending.abort_all();
        let parts: Vec<String> = self.levels.drain(..).flatten().collect();
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !parts.is_empty()
        {
            runtime.spawn(sweep(self.store.clone(), parts));
        }
    }
}

/// Deletes parts. One that cannot be deleted is left to the bucket's lifecycle rule.
async fn sweep(store: GcsStore, parts: Vec<String>) {
    let delete = |part: String| {
        let store = &store;
        async move {
            let call = error::call("delete", store.shown(&part), store.limits.call);
            if let Err(error) = call.run(|| store.api.delete(&part)).await
                && !matches!(error, StoreError::NotFound { .. })
            {
                tracing::debug!(%error, "a part is left over");
            }
        }
    };
    stream::iter(parts)
        .for_each_concurrent(SWEEPS, delete)
        .await;
}

/// CRC32C of an object, as the service has it.
pub(super) fn crc32c_of(body: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, body)).unwrap_or_default()
}

/// Of base64 of four bytes, the highest first.
fn crc32c(text: &str) -> Result<u32, Attempt> {
    let bytes: Option<[u8; 4]> = BASE64_STANDARD
        .decode(text)
        .ok()
        .and_then(|bytes| bytes.try_into().ok());
    match bytes {
        Some(bytes) => Ok(u32::from_be_bytes(bytes)),
        None => Err(Attempt::Refused(
            200,
            format!("the server gives no CRC32C of what it composed: {text:?}"),
        )),
    }
}
