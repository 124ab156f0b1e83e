//! A read that is running. If it breaks off, it is resumed there, in the same object. A read of the whole object is
//! checked. For every store on a network.

use std::ops::Range;

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use futures::stream::{BoxStream, StreamExt};
use tokio::time::{sleep, timeout};

use super::StoreError;
use super::remote::{Service, crc32c};
use super::retry::{Attempt, backoff, too_slow};
use crate::runtime::backoff::Backoff;

/// Chunks that a read gives are not larger.
const CHUNK: usize = 1 << 20;

/// An answer to a request for bytes of an object.
pub(super) struct Opened {
    /// Says which object it is of those that came under this name. None: the service does not say.
    pub(super) tag: Option<String>,
    /// Size of the whole object: the end of an answer may not be the end of the object.
    pub(super) size: u64,
    /// Checksum of the whole object, if it is known.
    pub(super) crc32c: Option<u32>,
    pub(super) body: Body,
}

/// Bytes as they come.
pub(super) type Body = BoxStream<'static, Result<Bytes, Attempt>>;

pub(super) struct Reading<S> {
    service: S,
    object: String,
    body: Option<Body>,
    tag: Option<String>,
    /// Received, and not yet given.
    pending: Bytes,
    /// The next byte to give.
    at: u64,
    /// The end of the range, or of the object.
    end: u64,
    /// The check of the whole object, when all of it is read and its checksum is known.
    check: Option<Check>,
    /// How often it was resumed since the last byte.
    resumed: u32,
    backoff: Backoff,
}

struct Check {
    wanted: u32,
    seen: Digest,
}

impl<S: Service> Reading<S> {
    /// Opens `range` of an object. Its end may be beyond the object's.
    pub(super) async fn open(
        service: S,
        object: String,
        range: Range<u64>,
    ) -> Result<Self, StoreError> {
        let opened = request(&service, &object, range.clone(), None).await?;
        let mut reading = Self {
            service,
            object,
            body: None,
            tag: None,
            pending: Bytes::new(),
            at: range.start,
            end: range.end,
            check: None,
            resumed: 0,
            backoff: backoff(),
        };
        let Some(opened) = opened else {
            return Ok(reading);
        };
        reading.end = range.end.min(opened.size);
        if range.start == 0 && opened.size <= range.end {
            reading.check = opened.crc32c.map(|wanted| Check {
                wanted,
                seen: Digest::new(CrcAlgorithm::Crc32Iscsi),
            });
        }
        reading.tag = opened.tag;
        reading.body = Some(opened.body);
        Ok(reading)
    }

    /// The next chunk. None at the end.
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
            let Some(body) = &mut self.body else {
                return Ok(None);
            };
            let stall = self.service.limits().stall;
            let failed = match timeout(stall, body.next()).await {
                Ok(None) if self.at >= self.end => {
                    self.body = None;
                    return self.checked().map(|()| None);
                }
                Ok(None) => {
                    Attempt::Again(format!("it ends too early, after byte {}", self.at), None)
                }
                Ok(Some(Ok(bytes))) if self.end.saturating_sub(self.at) < bytes.len() as u64 => {
                    Attempt::Damaged("more came than was asked for".to_owned())
                }
                Ok(Some(Ok(bytes))) => {
                    if !bytes.is_empty() {
                        self.resumed = 0;
                        self.backoff.reset();
                    }
                    self.pending = bytes;
                    continue;
                }
                Ok(Some(Err(failed))) => failed,
                Err(_) => too_slow(stall),
            };
            self.resume(failed).await?;
        }
    }

    /// Continues where the read stopped, if it is still the same object.
    async fn resume(&mut self, failed: Attempt) -> Result<(), StoreError> {
        self.body = None;
        if !failed.may_resume() || self.resumed >= self.service.limits().resumes {
            return Err(failed.into_error(self.what()));
        }
        if self.at >= self.end {
            return self.checked();
        }
        // Without a tag, the rest of this object could not be distinguished from that of another one.
        let Some(tag) = &self.tag else {
            return Err(failed.into_error(self.what()));
        };
        sleep(self.backoff.pause()).await;
        self.resumed = self.resumed.saturating_add(1);
        let rest = request(&self.service, &self.object, self.at..self.end, Some(tag)).await;
        match rest {
            Ok(Some(opened)) if opened.tag.as_ref() == Some(tag) => {
                self.body = Some(opened.body);
                Ok(())
            }
            Ok(_) | Err(StoreError::AlreadyExists { .. } | StoreError::NotFound { .. }) => {
                let cause = "it was deleted meanwhile, or another object came in its place";
                Err(Attempt::Over(cause.to_owned()).into_error(self.what()))
            }
            Err(error) => Err(error),
        }
    }

    fn checked(&mut self) -> Result<(), StoreError> {
        let Some(check) = self.check.take() else {
            return Ok(());
        };
        let seen = crc32c(&check.seen);
        if seen == check.wanted {
            return Ok(());
        }
        let (at, wanted) = (self.at, check.wanted);
        Err(Attempt::Damaged(format!(
            "{at} bytes came, with the checksum {seen:08x} (CRC32C) where the object has {wanted:08x}"
        ))
        .into_error(self.what()))
    }

    fn what(&self) -> String {
        format!("cannot read {}", self.service.place().shown(&self.object))
    }
}

/// Asks for a range of an object, which has that tag still if one is given. None: the object ends before.
async fn request<S: Service>(
    service: &S,
    object: &str,
    range: Range<u64>,
    tag: Option<&str>,
) -> Result<Option<Opened>, StoreError> {
    let stall = service.limits().stall;
    let call = service.call("read", object, service.limits().call);
    call.run(|| async {
        let opened = service.get(object, range.clone(), tag);
        match timeout(stall, opened).await {
            Ok(opened) => opened,
            Err(_) => Err(too_slow(stall)),
        }
    })
    .await
    .map_err(|error| service.place().own_name(error, object))
}
