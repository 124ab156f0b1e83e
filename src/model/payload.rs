//! What `DUMP` gives and `RESTORE` takes: a value by itself (PROTOCOL.md D.8), or function libraries (D.9).

use super::value::Dialect;
use crate::wire::crc64::Crc64;
use crate::wire::rdb::Family;
use crate::wire::rdb::cursor::{BadValue, Cursor};

/// Valkey counts on from here. Redis has not reached this number.
const FIRST_OF_VALKEY: u16 = 80;

/// One whose footer was found to be right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload<'a> {
    /// The bytes before the footer.
    pub(super) body: &'a [u8],
    /// The dialect of the server that wrote it.
    pub(super) dialect: Dialect,
}

impl<'a> Payload<'a> {
    /// Removes the footer: the RDB version (2 bytes) and the CRC-64 of everything before. A checksum of 0 means none.
    /// The servers that send none accept such payloads.
    pub(super) fn open(payload: &'a [u8]) -> Result<Self, BadValue> {
        const CRC_LEN: usize = 8;
        let short = BadValue("a dump is too short");
        let (covered, crc) = payload.split_last_chunk::<CRC_LEN>().ok_or(short.clone())?;
        let (body, version) = covered.split_last_chunk().ok_or(short)?;
        let crc = u64::from_le_bytes(*crc);
        if crc != 0 && crc != Crc64::of(covered) {
            return Err(BadValue("a dump has a wrong checksum"));
        }
        let version = u16::from_le_bytes(*version);
        let family = if version < FIRST_OF_VALKEY {
            Family::Redis
        } else {
            Family::Valkey
        };
        let version = version.into();
        let dialect = Dialect { family, version };
        Ok(Self { body, dialect })
    }
}

/// Does it end with the field that KeyDB writes after a value? It is the time of the change, with which KeyDB compares
/// several masters.
pub(super) fn ends_with_keydbs_field(body: &[u8]) -> bool {
    // An AUX record (D.7) with this name.
    const FIELD: &[u8] = b"\xFA\x0Bmvcc-tstamp";
    let at = body.windows(FIELD.len()).rposition(|bytes| bytes == FIELD);
    let time = at.and_then(|at| body.get(at.saturating_add(FIELD.len())..));
    time.is_some_and(|time| {
        let mut input = Cursor::new(time);
        input.string().is_ok() && input.finish().is_ok()
    })
}

/// How a value of one dialect is put into a snapshot of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// All that load the snapshot know its type.
    AsItIs,
    /// They know the same data in another encoding.
    Repacked,
    /// It holds what they cannot know.
    Not,
}

/// Can a value of RDB type `kind` in the dialect `from` be put into a snapshot of the dialect `to`?
pub(super) fn fit(kind: u8, from: Dialect, to: Dialect) -> Fit {
    use Family::{Redis, Valkey};
    // The RDB version that brought the type.
    let since = match (from.family, kind) {
        (_, 0..=5 | 7 | 9..=15) => 9,
        (_, 16..=19) => 10,
        (_, 20 | 21) => 11,
        (Redis, 22..=25) => 12,
        (Redis, 26) => 13,
        (Valkey, 22) => 80,
        _ => return Fit::Not,
    };
    let known = match to.family {
        Redis => from.family == Redis || since < 80,
        Valkey => from.family == Valkey || since <= 11,
    };
    match kind {
        _ if known && since <= to.version.max(9) => Fit::AsItIs,
        16..=18 | 20 => Fit::Repacked,
        _ => Fit::Not,
    }
}

/// Says that this is a module's value from its first to its last byte (PROTOCOL.md D.5).
pub(super) fn check_module(value: &[u8]) -> Result<(), BadValue> {
    let mut input = Cursor::new(value);
    input.number()?;
    loop {
        match input.number()? {
            0 => return input.finish(),
            1 | 2 => drop(input.number()?),
            3 => drop(input.take(4)?),
            4 => drop(input.take(8)?),
            5 => drop(input.string()?),
            _ => return Err(BadValue("a module's value has an unknown part")),
        }
    }
}

#[cfg(test)]
#[path = "payload_tests.rs"]
pub(super) mod tests;
