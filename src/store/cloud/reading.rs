//! A read under way: resumed where it broke off, in the same object, and checked when it was of the whole.

use std::ops::Range;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::stream::{BoxStream, StreamExt};
use object_store::GetResult;
use tokio::time::{sleep, timeout};

use super::{CloudStore, READ_STALL, crc32c_in, error};
use crate::store::StoreError;
use crate::store::retry::{Attempt, pause, too_slow};

/// A read is resumed so many times without a byte in between.
const RESUMES: u32 = 6;
/// Chunks that a read gives are not larger.
const CHUNK: usize = 1 << 20;

pub(super) struct Reading {
    store: CloudStore,
    object: String,
    response: Option<BoxStream<'static, object_store::Result<Bytes>>>,
    /// Says that it is the same object still.
    etag: Option<String>,
    /// Received, and not yet given.
    pending: Bytes,
    /// The next byte to give.
    at: u64,
    end: u64,
    /// Of the whole object, when that is what is read, and its checksum known.
    check: Option<Check>,
    /// How often it was resumed since the last byte.
    resumed: u32,
}

struct Check {
    wanted: u32,
    seen: Digest,
}

impl Reading {
    /// `range` of an object; its end may lie beyond the object's.
    pub(super) async fn open(
        store: CloudStore,
        object: String,
        range: Range<u64>,
    ) -> Result<Self, StoreError> {
        let response = store
            .request(&object, (range.start, range.end), None)
            .await?;
        let mut reading = Self {
            store,
            object,
            response: None,
            etag: None,
            pending: Bytes::new(),
            at: range.start,
            end: range.start,
            check: None,
            resumed: 0,
        };
        if let Some(response) = response {
            if response.range == (0..response.meta.size) {
                reading.check = crc32c_in(&response.attributes).map(|wanted| Check {
                    wanted,
                    seen: Digest::new(CrcAlgorithm::Crc32Iscsi),
                });
            }
            reading.etag = response.meta.e_tag.clone();
            reading.end = response.range.end;
            reading.take(response);
        }
        Ok(reading)
    }

    fn take(&mut self, response: GetResult) {
        self.response = Some(response.into_stream());
    }

    /// The next chunk; None at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StoreError> {
        loop {
            if !self.pending.is_empty() {
                let chunk = self.pending.split_to(self.pending.len().min(CHUNK));
                self.at = self.at.saturating_add(chunk.len() as u64);
                if let Some(check) = &mut self.check {
                    check.seen.update(&chunk);
                }
                return Ok(Some(chunk));
            }
            let Some(response) = &mut self.response else {
                return Ok(None);
            };
            let failed = match timeout(READ_STALL, response.next()).await {
                Ok(None) if self.at >= self.end => {
                    self.response = None;
                    return self.checked().map(|()| None);
                }
                Ok(None) => Attempt::Again("it ends too early".to_owned(), None),
                Ok(Some(Ok(bytes))) => {
                    self.pending = bytes;
                    self.resumed = 0;
                    continue;
                }
                Ok(Some(Err(error))) => error::of(&error),
                Err(_) => too_slow(READ_STALL),
            };
            self.resume(failed).await?;
        }
    }

    /// Goes on where the read broke off, if it is the same object still.
    async fn resume(&mut self, failed: Attempt) -> Result<(), StoreError> {
        self.response = None;
        if self.at >= self.end {
            return self.checked();
        }
        if self.resumed >= RESUMES || !failed.may_resume() || self.etag.is_none() {
            return Err(failed.told(self.what()));
        }
        sleep(pause(self.resumed)).await;
        self.resumed = self.resumed.saturating_add(1);
        let rest = self
            .store
            .request(&self.object, (self.at, self.end), self.etag.clone())
            .await;
        match rest {
            Ok(Some(response)) => {
                self.take(response);
                Ok(())
            }
            Ok(None) | Err(StoreError::AlreadyExists { .. }) => {
                Err(Attempt::Over("another object came in its place".to_owned()).told(self.what()))
            }
            Err(error) => Err(error),
        }
    }

    fn checked(&mut self) -> Result<(), StoreError> {
        let Some(check) = self.check.take() else {
            return Ok(());
        };
        let seen = u32::try_from(check.seen.finalize()).unwrap_or_default();
        if seen == check.wanted {
            return Ok(());
        }
        let (at, wanted) = (self.at, check.wanted);
        Err(Attempt::Damaged(format!(
            "{at} bytes came, with the checksum {seen:08x} (CRC32C) where the object has {wanted:08x}"
        ))
        .told(self.what()))
    }

    fn what(&self) -> String {
        format!("cannot read {}", self.store.shown(&self.object))
    }
}
