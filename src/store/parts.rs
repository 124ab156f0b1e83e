//! An object of unknown length: parts in parallel, joined into one object at the end. For every store on a network.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use futures::future::BoxFuture;
use tokio::task::JoinSet;

use super::remote::{Service, crc32c, put};
use super::{StoreError, Upload};

/// Parts that are being uploaded at once, beside the one that is being filled.
const PARALLEL: usize = 2;

/// How a service takes an object in parts. Dropping it gives the object up, unless it is complete.
#[async_trait]
pub(super) trait Assembly: Send + Sync + 'static {
    /// What the service gives for a part.
    type Part: Send + 'static;

    /// Size of the next part, in bytes.
    fn part_size(&self) -> usize;
    /// Prepares the next part. The future sends it.
    async fn send(&mut self, body: Bytes) -> Result<Sending<Self::Part>, StoreError>;
    /// A part is there.
    fn arrived(&mut self, part: Self::Part);
    /// Can it take no more parts before all are there and [`Self::fold`]ed?
    fn is_full(&self) -> bool {
        false
    }
    /// Makes room for more parts. All that were sent have arrived.
    async fn fold(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Makes the object. All parts have arrived, and have that CRC-32C together.
    async fn complete(&mut self, crc: u32) -> Result<(), StoreError>;
}

/// A part on its way.
pub(super) type Sending<P> = BoxFuture<'static, Result<P, StoreError>>;

/// An object in the making.
pub(super) struct PartWise<S: Service> {
    service: S,
    object: String,
    filling: BytesMut,
    crc: Digest,
    /// Ended, when this is dropped, before `assembly` gives the parts up.
    sending: JoinSet<Result<<S::Assembly as Assembly>::Part, StoreError>>,
    /// Has a part been sent?
    begun: bool,
    /// Something went wrong, or a write was dropped before its end: parts may be missing.
    broken: bool,
    assembly: S::Assembly,
}

impl<S: Service> PartWise<S> {
    pub(super) fn new(service: S, object: String, assembly: S::Assembly) -> Self {
        Self {
            service,
            object,
            filling: BytesMut::new(),
            crc: Digest::new(CrcAlgorithm::Crc32Iscsi),
            sending: JoinSet::new(),
            begun: false,
            broken: false,
            assembly,
        }
    }

    fn what(&self) -> String {
        format!("cannot create {}", self.service.place().shown(&self.object))
    }

    fn check_sound(&self) -> Result<(), StoreError> {
        if !self.broken {
            return Ok(());
        }
        Err(StoreError::Permanent {
            what: self.what(),
            cause: "an earlier write of this upload failed; begin it again".to_owned(),
        })
    }

    async fn fill(&mut self, chunk: &[u8]) -> Result<(), StoreError> {
        let mut rest = chunk;
        while !rest.is_empty() {
            let size = self.assembly.part_size();
            // More will follow only when there is more: an object of just one part is created at once.
            if self.filling.len() >= size {
                self.send_part().await?;
                continue;
            }
            if self.filling.is_empty() {
                self.filling.reserve(size);
            }
            let room = size.saturating_sub(self.filling.len()).min(rest.len());
            let (head, tail) = rest.split_at(room);
            self.filling.extend_from_slice(head);
            rest = tail;
        }
        Ok(())
    }

    /// Sends what has filled.
    async fn send_part(&mut self) -> Result<(), StoreError> {
        while self.sending.len() >= PARALLEL {
            self.await_part().await?;
        }
        if self.assembly.is_full() {
            self.await_parts().await?;
            self.assembly.fold().await?;
        }
        self.begun = true;
        let body = self.filling.split().freeze();
        let sending = self.assembly.send(body).await?;
        self.sending.spawn(sending);
        Ok(())
    }

    async fn await_parts(&mut self) -> Result<(), StoreError> {
        while !self.sending.is_empty() {
            self.await_part().await?;
        }
        Ok(())
    }

    async fn await_part(&mut self) -> Result<(), StoreError> {
        match self.sending.join_next().await {
            Some(Ok(sent)) => self.assembly.arrived(sent?),
            Some(Err(error)) => {
                return Err(StoreError::Transient {
                    what: self.what(),
                    cause: error.to_string(),
                });
            }
            None => {}
        }
        Ok(())
    }
}

#[async_trait]
impl<S: Service> Upload for PartWise<S> {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.check_sound()?;
        self.broken = true;
        self.crc.update(&chunk);
        self.fill(&chunk).await?;
        self.broken = false;
        Ok(())
    }

    async fn commit(mut self: Box<Self>) -> Result<(), StoreError> {
        self.check_sound()?;
        if !self.begun {
            let body = self.filling.split().freeze();
            let limit = self.service.limits().part;
            let put = put(&self.service, &self.object, body, limit);
            return put.await.map(|_| ());
        }
        if !self.filling.is_empty() {
            self.send_part().await?;
        }
        self.await_parts().await?;
        let completed = self.assembly.complete(crc32c(&self.crc)).await;
        completed.map_err(|error| self.service.place().own_name(error, &self.object))
    }
}
