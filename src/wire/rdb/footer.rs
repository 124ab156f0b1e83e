//! The checksum at the end of every RDB (PROTOCOL.md D.6), while the end is not known.

use super::primitives::FOOTER_LEN;
use crate::wire::crc64::Crc64;

/// The checksum of all bytes but the last 8, which may turn out to be the RDB's own.
#[derive(Debug)]
pub(super) struct Trailer {
    pub(super) crc: Crc64,
    /// The last byte that `crc` covers.
    pub(super) before: u8,
    pub(super) held: Vec<u8>,
}

impl Trailer {
    pub(super) fn new() -> Self {
        Self {
            crc: Crc64::new(),
            before: 0,
            held: Vec::with_capacity(FOOTER_LEN.saturating_mul(2)),
        }
    }

    pub(super) fn absorb(&mut self, bytes: &[u8]) {
        let excess = self
            .held
            .len()
            .saturating_add(bytes.len())
            .saturating_sub(FOOTER_LEN);
        let from_held = excess.min(self.held.len());
        let (now, later) = bytes.split_at(excess.saturating_sub(from_held));
        for covered in [self.held.get(..from_held).unwrap_or_default(), now] {
            if let Some(&last) = covered.last() {
                self.crc.update(covered);
                self.before = last;
            }
        }
        self.held.drain(..from_held);
        self.held.extend_from_slice(later);
    }

    /// The last 8 bytes as a little-endian number. 0 when there are fewer.
    pub(super) fn last_u64(&self) -> u64 {
        self.held
            .as_slice()
            .try_into()
            .map_or(0, u64::from_le_bytes)
    }
}
