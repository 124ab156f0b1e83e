//! The smallest parts of the format: lengths, the magic, module ids (PROTOCOL.md D.1, D.2, D.5).

use super::summary::Family;

/// The magic, with its version.
pub(super) const MAGIC_LEN: usize = 9;
/// The checksum.
pub(super) const FOOTER_LEN: usize = 8;
/// The first RDB version with a checksum.
pub(super) const FIRST_WITH_FOOTER: u32 = 5;

/// A decoded length (D.2).
pub(super) enum Length {
    Plain(u64),
    /// A special string encoding.
    Special(u8),
}

pub(super) enum Decoded {
    Done(Length, usize),
    /// The number of bytes that are needed in total.
    Short(usize),
    Invalid(u8),
}

#[inline]
pub(super) fn decode_length(bytes: &[u8]) -> Decoded {
    match *bytes {
        [first @ 0..=0x3F, ..] => Decoded::Done(Length::Plain(u64::from(first)), 1),
        [first @ 0x40..=0x7F, second, ..] => {
            let length = u16::from_be_bytes([first & 0x3F, second]);
            Decoded::Done(Length::Plain(u64::from(length)), 2)
        }
        [0x80, a, b, c, d, ..] => Decoded::Done(
            Length::Plain(u64::from(u32::from_be_bytes([a, b, c, d]))),
            5,
        ),
        [0x81, a, b, c, d, e, f, g, h, ..] => Decoded::Done(
            Length::Plain(u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            9,
        ),
        [first @ 0xC0..=0xFF, ..] => Decoded::Done(Length::Special(first & 0x3F), 1),
        [first @ 0x82..=0xBF, ..] => Decoded::Invalid(first),
        [0x81, ..] => Decoded::Short(9),
        [0x80, ..] => Decoded::Short(5),
        [_, ..] => Decoded::Short(2),
        [] => Decoded::Short(1),
    }
}

pub(super) fn parse_magic(magic: &str) -> Option<(Family, u32)> {
    let (family, digits) = match magic.strip_prefix("REDIS") {
        Some(digits) => (Family::Redis, digits),
        None => (Family::Valkey, magic.strip_prefix("VALKEY")?),
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits
        .parse()
        .ok()
        .filter(|&version| version > 0)
        .map(|version| (family, version))
}

/// `vectorset` as a module id, without its encoding version.
pub(super) const VECTOR_SET_NAME: u64 = module_number(*b"vectorset");
/// The characters of module names, by their 6-bit numbers.
const MODULE_CHARSET: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

#[allow(clippy::indexing_slicing, clippy::arithmetic_side_effects)] // at compile time alone
pub(super) const fn module_number(name: [u8; 9]) -> u64 {
    let mut number = 0;
    let mut at = 0;
    while at < name.len() {
        let mut code = 0;
        while MODULE_CHARSET[code] != name[at] {
            code += 1;
        }
        number = number << 6 | code as u64;
        at += 1;
    }
    number
}

/// The 9 characters of a module id: 6 bits each, above 10 bits of encoding version.
pub(super) fn module_name(id: u64) -> String {
    (0..9u32)
        .rev()
        .map(|place| {
            let shift = place.saturating_mul(6).saturating_add(10);
            let code = usize::try_from(id >> shift & 63).unwrap_or_default();
            char::from(MODULE_CHARSET.get(code).copied().unwrap_or_default())
        })
        .collect()
}
