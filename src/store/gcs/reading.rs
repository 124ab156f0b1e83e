//! A read under way: resumed where it broke off, and checked when it was of the whole object.

use std::ops::Range;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use google_cloud_storage::read_object::ReadObjectResponse;
use tokio::time::{sleep, timeout};

use super::GcsStore;
use super::error::{self, Attempt};
use crate::store::StoreError;

/// A read is resumed so many times without a byte in between.
const RESUMES: u32 = 6;
/// Chunks that a read gives are not larger.
const CHUNK: usize = 1 << 20;

pub(super) struct Reading {
    store: GcsStore,
    object: String,
    response: Option<ReadObjectResponse>,
    generation: i64,
    /// Received, and not yet given.
    pending: Bytes,
    /// The next byte to give.
    at: u64,
    end: u64,
    /// Of the whole object, when that is what is read.
    check: Option<Check>,
    /// How often it was resumed since the last byte.
    resumed: u32,
}

/// The SDK checks what comes in one piece; a resumed read is checked here.
struct Check {
    wanted: u32,
    seen: Digest,
}

impl Reading {
    /// `range` of an object; its end may lie beyond the object's.
    pub(super) async fn open(
        store: GcsStore,
        object: String,
        range: Range<u64>,
    ) -> Result<Self, StoreError> {
        let response = store
            .request(&object, (range.start, range.end), None)
            .await?;
        let facts = response.as_ref().map(ReadObjectResponse::object);
        let check = facts.as_ref().and_then(|facts| {
            (range == (0..u64::MAX)).then_some(Check {
                wanted: facts.checksums.as_ref()?.crc32c?,
                seen: Digest::new(CrcAlgorithm::Crc32Iscsi),
            })
        });
        Ok(Self {
            store,
            object,
            response,
            generation: facts.map_or(0, |facts| facts.generation),
            pending: Bytes::new(),
            at: range.start,
            end: range.end,
            check,
            resumed: 0,
        })
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
            let failed = match timeout(self.store.limits.stall, response.next()).await {
                Ok(None) => {
                    self.response = None;
                    return self.checked().map(|()| None);
                }
                Ok(Some(Ok(bytes))) => {
                    self.pending = bytes;
                    self.resumed = 0;
                    continue;
                }
                Ok(Some(Err(error))) => error::of_sdk(&error),
                Err(_) => error::too_slow(self.store.limits.stall),
            };
            self.resume(failed).await?;
        }
    }

    /// Goes on where the read broke off, in the same generation.
    async fn resume(&mut self, failed: Attempt) -> Result<(), StoreError> {
        self.response = None;
        if self.resumed >= RESUMES || !failed.may_resume() {
            return Err(failed.told(self.what()));
        }
        sleep(error::pause(self.resumed)).await;
        self.resumed = self.resumed.saturating_add(1);
        self.response = self
            .store
            .request(&self.object, (self.at, self.end), Some(self.generation))
            .await?;
        if self.response.is_none() {
            return self.checked();
        }
        Ok(())
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
