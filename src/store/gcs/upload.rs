//! An object of unknown length: its parts are objects, which are composed into one at the end.

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

use super::GcsStore;
use crate::store::StoreError;
use crate::store::parts::{Assembly, Sending};
use crate::store::remote::{Head, Service, put, settle, within};
use crate::store::retry::Attempt;

/// Size of a part. An object that is not longer is created at once.
pub(super) const PART: usize = 4 << 20;
/// What the service composes at once.
const COMPOSE: usize = 32;
/// Where parts are kept before they are composed: `.parts/<upload>/<number>`, in no listing.
pub(super) const PARTS: &str = ".parts/";
/// Parts deleted at once.
const SWEEPS: usize = 8;

/// The parts of an object in the making.
pub(in crate::store) struct Composition {
    store: GcsStore,
    object: String,
    token: String,
    /// Parts and compositions of parts so far, the largest first. Level n holds compositions of 32^n parts.
    levels: Vec<Vec<String>>,
    made: u64,
}

impl Composition {
    pub(super) fn new(store: GcsStore, object: String, token: String) -> Self {
        Self {
            store,
            object,
            token,
            levels: vec![Vec::new()],
            made: 0,
        }
    }

    fn new_name(&mut self) -> String {
        let name = format!("{PARTS}{}/{:08}", self.token, self.made);
        self.made = self.made.saturating_add(1);
        self.store.place.object(&name)
    }

    /// Composes a whole level into one object of the next.
    async fn raise(&mut self, level: usize) -> Result<(), StoreError> {
        let parts = self.levels.get(level).cloned().unwrap_or_default();
        if parts.is_empty() {
            return Ok(());
        }
        let name = self.new_name();
        self.compose(&parts, &name).await?;
        if let Some(composed) = self.levels.get_mut(level) {
            composed.clear();
        }
        match self.levels.get_mut(level.saturating_add(1)) {
            Some(above) => above.push(name),
            None => self.levels.push(vec![name]),
        }
        sweep(self.store.clone(), parts).await;
        Ok(())
    }

    /// Composes `parts` into a new object. Returns its CRC32C.
    async fn compose(&self, parts: &[String], object: &str) -> Result<u32, StoreError> {
        let (store, limits) = (&self.store, &self.store.limits);
        let call = store.call("create", object, limits.part);
        let composed = call.run(|| async {
            let compose = store.api.compose(parts, object, &self.token);
            let composed = match within(limits.attempt, compose).await {
                Ok(made) => made.crc32c(),
                // The parts are deleted as they are composed: they are gone after a compose whose answer was lost.
                Err(failed @ (Attempt::Exists(_) | Attempt::NotFound(_))) => {
                    let Head { crc32c, .. } = settle(store, object, &self.token, failed).await?;
                    crc32c
                }
                Err(failed) => return Err(failed),
            };
            composed.ok_or_else(|| {
                Attempt::Refused(
                    200,
                    "the server gives no CRC32C of what it composed".to_owned(),
                )
            })
        });
        composed.await
    }

    fn count(&self) -> usize {
        self.levels.iter().map(Vec::len).sum()
    }
}

#[async_trait]
impl Assembly for Composition {
    type Part = ();

    fn part_size(&self) -> usize {
        PART
    }

    async fn send(&mut self, body: Bytes) -> Result<Sending<()>, StoreError> {
        let name = self.new_name();
        if let Some(parts) = self.levels.first_mut() {
            parts.push(name.clone());
        }
        let store = self.store.clone();
        Ok(Box::pin(async move {
            let put = put(&store, &name, body, store.limits.part);
            put.await.map(|_| ())
        }))
    }

    fn arrived(&mut self, (): ()) {}

    fn is_full(&self) -> bool {
        self.levels
            .first()
            .is_some_and(|parts| parts.len() >= COMPOSE)
    }

    /// Composes a full level into one object of the next, and so on.
    async fn fold(&mut self) -> Result<(), StoreError> {
        let mut level = 0;
        while self
            .levels
            .get(level)
            .is_some_and(|parts| parts.len() >= COMPOSE)
        {
            self.raise(level).await?;
            level = level.saturating_add(1);
        }
        Ok(())
    }

    async fn complete(&mut self, crc: u32) -> Result<(), StoreError> {
        // At most as many as the service takes, the largest first.
        let mut level = 0;
        while self.count() > COMPOSE && level < self.levels.len() {
            self.raise(level).await?;
            level = level.saturating_add(1);
        }
        let parts: Vec<String> = self.levels.iter().rev().flatten().cloned().collect();
        let stored = self.compose(&parts, &self.object).await?;
        self.levels.clear();
        sweep(self.store.clone(), parts).await;
        if stored == crc {
            return Ok(());
        }
        let call = self
            .store
            .call("delete", &self.object, self.store.limits.call);
        call.run(|| self.store.api.delete(&self.object)).await?;
        Err(StoreError::Transient {
            what: format!("cannot create {}", self.store.place.shown(&self.object)),
            cause: format!(
                "what was stored has the CRC32C {stored:08x}, what was sent {crc:08x}; it was deleted"
            ),
        })
    }
}

impl Drop for Composition {
    /// The upload was abandoned: deletes its parts in the background, as far as that works.
    fn drop(&mut self) {
        let parts: Vec<String> = self.levels.drain(..).flatten().collect();
        if let Ok(runtime) = tokio::runtime::Handle::try_current()
            && !parts.is_empty()
        {
            runtime.spawn(sweep(self.store.clone(), parts));
        }
    }
}

/// Deletes parts that are of no more use. The service has deleted those that it composed; an emulator may not have. The
/// bucket's lifecycle rule deletes those that cannot be deleted here.
async fn sweep(store: GcsStore, parts: Vec<String>) {
    let delete = |part: String| {
        let store = &store;
        async move {
            let call = store.call("delete", &part, store.limits.call);
            if let Err(error) = call.run(|| store.api.delete(&part)).await
                && !matches!(error, StoreError::NotFound { .. })
            {
                tracing::debug!(%error, "a part could not be deleted");
            }
        }
    };
    stream::iter(parts)
        .for_each_concurrent(SWEEPS, delete)
        .await;
}
