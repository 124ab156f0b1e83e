//! Takes the replication position out of a snapshot, so that nobody mistakes a fork for the history that it came from.
//!
//! Servers write `repl-id`, `repl-offset` and `repl-stream-db` among the AUX fields at the very beginning. So the
//! beginning (a few hundred bytes) is held back until its end is seen. After that everything passes through.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::primitives::{FIRST_WITH_FOOTER, FOOTER_LEN};
use super::{WalkError, Walker};
use crate::wire::crc64::Crc64;

/// How much of the front is held back at most, to look for replication fields before anything goes out. Servers write
/// them among the first 300 bytes. A longer front has something large in it, such as a script or a list of slots.
const FRONT_LIMIT: usize = 1 << 20;

/// Why a snapshot could not be stripped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StripError {
    /// It is not a sound RDB.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// It is shorter or longer than announced.
    #[error("the RDB should have {expected} bytes, but has {found}{}", if .found > .expected { " or more" } else { "" })]
    Length {
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// A replication field is so far from the start that the new length had already been sent.
    #[error(
        "the RDB has a replication field at byte {offset}, behind more than {FRONT_LIMIT} bytes of other AUX fields; \
         no server writes that"
    )]
    TooLate {
        /// Where the field begins.
        offset: u64,
    },
}

/// Copies an RDB without its AUX fields `repl-id`, `repl-offset` and `repl-stream-db`, and makes a new checksum. A
/// checksum of 0 (none) stays 0.
///
/// ```text
/// scanning ──▶ passing ──finish──▶ done
/// (front held)  (all but the checksum goes through)
/// ```
#[derive(Debug)]
pub struct Stripper {
    total: u64,
    /// Bytes taken in.
    seen: u64,
    /// Walks over the front until its end.
    scan: Option<Walker>,
    /// The front, until it is known what is cut out of it.
    held: Option<BytesMut>,
    /// What is cut out of it.
    cuts: Vec<Range<u64>>,
    output_len: Option<u64>,
    /// The position of the checksum; `total` when there is none.
    body_end: u64,
    /// Bytes of the input that have been dealt with, checksum excluded.
    passed: u64,
    footer: BytesMut,
    before: Crc64,
    after: Crc64,
}

impl Stripper {
    /// A stripper for an RDB of `total` bytes.
    #[must_use]
    pub fn new(total: u64) -> Self {
        Self {
            total,
            seen: 0,
            scan: Some(Walker::new()),
            held: Some(BytesMut::new()),
            cuts: Vec::new(),
            output_len: None,
            body_end: total,
            passed: 0,
            footer: BytesMut::with_capacity(FOOTER_LEN),
            before: Crc64::new(),
            after: Crc64::new(),
        }
    }

    /// Takes in the next bytes and returns those that can go out. At first there are none, until the AUX fields at the
    /// front are known. Then [`Self::output_len`] is known, too.
    ///
    /// # Errors
    /// When this is not a sound RDB of the announced length.
    pub fn push(&mut self, chunk: Bytes) -> Result<Bytes, StripError> {
        self.seen = self.seen.saturating_add(chunk.len() as u64);
        if self.seen > self.total {
            return Err(StripError::Length {
                expected: self.total,
                found: self.seen,
            });
        }
        self.scan_front(&chunk)?;
        let Some(mut held) = self.held.take() else {
            return Ok(self.pass(chunk));
        };
        held.extend_from_slice(&chunk);
        let front_goes_on = self.scan.is_some() && self.seen < self.total;
        if front_goes_on && held.len() < FRONT_LIMIT {
            self.held = Some(held);
            return Ok(Bytes::new());
        }
        let cut = self
            .cuts
            .iter()
            .map(|cut| cut.end.saturating_sub(cut.start));
        self.output_len = Some(self.total.saturating_sub(cut.fold(0, u64::saturating_add)));
        Ok(self.pass(held.freeze()))
    }

    /// How many bytes come out in total, including the checksum. Known before the first of them is returned.
    #[must_use]
    pub fn output_len(&self) -> Option<u64> {
        self.output_len
    }

    /// The last bytes: the new checksum, or nothing when the RDB version has none.
    ///
    /// # Errors
    /// When bytes are missing, or the RDB's own checksum is wrong: it must not get a right one here.
    pub fn finish(&mut self) -> Result<Bytes, StripError> {
        if self.seen != self.total {
            return Err(StripError::Length {
                expected: self.total,
                found: self.seen,
            });
        }
        if let Some(scan) = &mut self.scan {
            scan.finish_opaque()?; // never right: the front has no end
        }
        let footer = self.footer.split().freeze();
        let expected = footer.as_ref().try_into().map_or(0, u64::from_le_bytes);
        if expected == 0 {
            return Ok(footer);
        }
        let found = self.before.value();
        if expected != found {
            return Err(WalkError::Checksum { expected, found }.into());
        }
        Ok(Bytes::copy_from_slice(&self.after.value().to_le_bytes()))
    }

    /// Looks for replication fields, and for the end of the front. What comes after that is not checked here.
    fn scan_front(&mut self, chunk: &[u8]) -> Result<(), StripError> {
        let Some(scan) = &mut self.scan else {
            return Ok(());
        };
        let walked = scan.push(chunk);
        if scan.summary().version >= FIRST_WITH_FOOTER {
            self.body_end = self.total.saturating_sub(FOOTER_LEN as u64);
        }
        if self.held.is_some() {
            self.cuts.clone_from(&scan.front().repl);
        } else if let Some(late) = scan.front().repl.get(self.cuts.len()) {
            return Err(StripError::TooLate { offset: late.start });
        }
        match scan.front().ended_at {
            Some(end) if end >= self.body_end => {
                return Err(StripError::Length {
                    expected: self.total,
                    found: end,
                });
            }
            None if scan.summary().unwalked.is_none() => {
                walked?;
                if self.seen == self.total {
                    scan.finish_opaque()?; // never right: there are only AUX fields
                }
            }
            _ => self.scan = None,
        }
        Ok(())
    }

    /// Cuts the fields out of the front, the first bytes that go out.
    fn cut(&self, front: &[u8]) -> Bytes {
        let mut out = BytesMut::with_capacity(front.len());
        let mut from = 0u64;
        for cut in &self.cuts {
            out.extend_from_slice(slice(front, from..cut.start));
            from = cut.end;
        }
        out.extend_from_slice(slice(front, from..u64::MAX));
        out.freeze()
    }

    /// Passes bytes on, without the old checksum.
    fn pass(&mut self, mut bytes: Bytes) -> Bytes {
        let body = usize::try_from(self.body_end.saturating_sub(self.passed)).unwrap_or(usize::MAX);
        if bytes.len() > body {
            self.footer.extend_from_slice(&bytes.split_off(body));
        }
        self.before.update(&bytes);
        let is_front = self.passed == 0;
        self.passed = self.passed.saturating_add(bytes.len() as u64);
        if is_front && !self.cuts.is_empty() {
            bytes = self.cut(&bytes);
        }
        self.after.update(&bytes);
        bytes
    }
}

/// The bytes in `range`, as far as there are any.
fn slice(bytes: &[u8], range: Range<u64>) -> &[u8] {
    let [start, end] = [range.start, range.end]
        .map(|at| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len()));
    bytes.get(start..end).unwrap_or_default()
}

#[cfg(test)]
#[path = "strip_tests.rs"]
mod tests;
