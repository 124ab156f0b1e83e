//! CRC-64/REDIS: the checksum at the end of every RDB (fact sheet D.6).
//!
//! "Jones": polynomial 0xad93d23594c935a9, reflected, start 0, no final xor. It is neither CRC-64/XZ nor CRC-64/ECMA.

use crc_fast::{CrcAlgorithm, Digest};

use super::wire::FOOTER_LEN;

/// A running CRC-64/REDIS.
#[derive(Clone, Copy, Debug)]
pub struct Crc64(Digest);

impl Crc64 {
    /// The checksum of nothing (0).
    #[must_use]
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Redis))
    }

    /// Takes in `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of everything taken in so far.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }
}

impl Default for Crc64 {
    fn default() -> Self {
        Self::new()
    }
}

/// The CRC-64/REDIS of `bytes`.
#[must_use]
pub fn crc64(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Redis, bytes)
}

/// The checksum of all bytes but the last 8, which may turn out to be the RDB's own.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) crc: Crc64,
    /// The last byte that `crc` covers.
    pub(super) before: u8,
    pub(super) held: Vec<u8>,
}

impl Tail {
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

    /// The last 8 bytes as a little-endian number; 0 when there are fewer.
    pub(super) fn last_u64(&self) -> u64 {
        self.held
            .as_slice()
            .try_into()
            .map_or(0, u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_is_the_one_of_the_servers() {
        assert_eq!(crc64(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(crc64(b""), 0);
    }

    #[test]
    fn pieces_give_what_the_whole_gives() {
        let data: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let mut crc = Crc64::new();
        for piece in data.chunks(7) {
            crc.update(piece);
        }
        assert_eq!(crc.value(), crc64(&data));
        assert_eq!(Crc64::default().value(), 0);
    }
}
