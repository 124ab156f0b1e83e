//! HyperLogLogs: strings of a layout of their own (PROTOCOL.md C.11), changed byte for byte as servers change them.
//!
//! ```text
//! HYLL  encoding  3 unused  cached count  registers
//!  4       1         3           8        dense: 16384 of 6 bits; sparse: runs
//! ```
//!
//! A run is `00nnnnnn` (n + 1 registers of 0), `01nnnnnn nnnnnnnn` (the same, up to 16384) or `1vvvvvnn` (n + 1
//! registers of v + 1). A register holds the longest run of zeros, + 1, of the hashes that belong to it.

use crate::model::Keyspace;
use crate::model::args::Args;
use crate::model::command::Spec;
use crate::model::error::ApplyError;
use crate::model::key_specs::Keys;
use crate::model::strings::Text;

pub(crate) const COMMANDS: &[Spec] = &[
    Spec::new("PFADD", Keys::At(&[1]), pfadd),
    Spec::new("PFCOUNT", Keys::From { first: 1, step: 1 }, pfcount),
    Spec::new("PFMERGE", Keys::From { first: 1, step: 1 }, pfmerge),
    Spec::new("PFDEBUG", Keys::At(&[2]), pfdebug),
];

const HEADER: usize = 16;
/// In the header: the encoding, the count, and its last byte, whose highest bit says that it is stale.
const ENCODING: usize = 4;
const COUNT: usize = 8;
const COUNT_LAST: usize = 15;
const STALE: u8 = 0x80;

const DENSE: u8 = 0;
const SPARSE: u8 = 1;

/// Bits of a hash that select a register, and registers.
const P: u32 = 14;
const REGISTERS: usize = 1 << P;
/// Bits of a hash that are left.
const Q: usize = 50;
const DENSE_LEN: usize = HEADER + REGISTERS / 4 * 3;

/// The most that a run of a sparse one can hold: values, registers of a value, registers of 0.
const MOST_VALUE: u8 = 32;
const MOST_VALUES: usize = 4;
const MOST_ZEROS: usize = 64;
/// The default of `hll-sparse-max-bytes`: longer ones become dense. Another setting gives other bytes, with the same
/// meaning.
const SPARSE_MAX: usize = 3000;

const INVALID: &str = "the key's value is no HyperLogLog";

/// The runs of a sparse one are not as they should be.
#[derive(Clone, Copy, Debug)]
struct Corrupt;

/// One that is there and has the right form. None if there is no such key.
fn look<'a>(
    space: &'a mut Keyspace,
    args: &Args,
    key: &[u8],
) -> Result<Option<&'a mut Vec<u8>>, ApplyError> {
    let Some(text) = space.value::<Text>(args, key)? else {
        return Ok(None);
    };
    let bytes = &mut text.0;
    let valid = match bytes.get(..HEADER) {
        Some([b'H', b'Y', b'L', b'L', DENSE, ..]) => bytes.len() == DENSE_LEN,
        Some([b'H', b'Y', b'L', b'L', SPARSE, ..]) => true,
        _ => false,
    };
    if valid {
        Ok(Some(bytes))
    } else {
        Err(args.diverged(INVALID))
    }
}

/// The same, made if it is not there. Also returns whether it was made.
fn look_or_new<'a>(
    space: &'a mut Keyspace,
    args: &Args,
    key: &[u8],
) -> Result<(&'a mut Vec<u8>, bool), ApplyError> {
    let is_new = space.entry(key)?.is_none();
    if is_new {
        let text: &mut Text = space.value_or_new(args, key)?;
        text.0.extend_from_slice(b"HYLL\x01\0\0\0\0\0\0\0\0\0\0\0");
        put_zeros(&mut text.0, REGISTERS);
    }
    let bytes = look(space, args, key)?.ok_or_else(|| args.diverged(INVALID))?;
    Ok((bytes, is_new))
}

/// `PFADD key [element …]`.
fn pfadd(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let (bytes, is_new) = look_or_new(space, args, args.get(1)?)?;
    let length = bytes.len();
    let mut changed = is_new;
    for element in args.from(2) {
        let (register, value) = place(element);
        let set = set(bytes, register, value);
        changed |= set.map_err(|Corrupt| args.diverged(INVALID))?;
    }
    if changed {
        invalidate(bytes);
    }
    let more = bytes.len().saturating_sub(length);
    space.charge(more);
    Ok(())
}

/// `PFCOUNT key` stores the count if what is stored is stale. That of many keys changes nothing.
fn pfcount(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    if args.len() != 2 {
        return Ok(());
    }
    let Some(bytes) = look(space, args, args.get(1)?)? else {
        return Ok(());
    };
    if bytes.get(COUNT_LAST).is_some_and(|last| last & STALE != 0) {
        let count = count(bytes).map_err(|Corrupt| args.diverged(INVALID))?;
        let to = bytes.get_mut(COUNT..HEADER).unwrap_or_default();
        for (to, from) in to.iter_mut().zip(count.to_le_bytes()) {
            *to = from;
        }
    }
    Ok(())
}

/// `PFMERGE destination [key …]`: the destination is merged, too. It becomes dense if one of them is.
fn pfmerge(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let corrupt = |Corrupt| args.diverged(INVALID);
    let mut greatest = vec![0u8; REGISTERS];
    let mut any_dense = false;
    for key in args.from(1) {
        if let Some(bytes) = look(space, args, key)? {
            any_dense |= is_dense(bytes);
            merge(&mut greatest, bytes).map_err(corrupt)?;
        }
    }
    let (bytes, _) = look_or_new(space, args, args.get(1)?)?;
    let length = bytes.len();
    if any_dense {
        make_dense(bytes).map_err(corrupt)?;
    }
    for (register, value) in greatest.iter().enumerate() {
        if *value > 0 {
            set(bytes, register, *value).map_err(corrupt)?;
        }
    }
    invalidate(bytes);
    let more = bytes.len().saturating_sub(length);
    space.charge(more);
    Ok(())
}

/// `PFDEBUG TODENSE|GETREG key` makes it dense. Other words only read.
fn pfdebug(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    if !args.is_word(1, "TODENSE") && !args.is_word(1, "GETREG") {
        return Ok(());
    }
    space.charge(DENSE_LEN);
    let bytes =
        look(space, args, args.get(2)?)?.ok_or_else(|| args.diverged("there is no such key"))?;
    make_dense(bytes).map_err(|Corrupt| args.diverged(INVALID))
}

// --- Hashes ---------------------------------------------------------------------------------------------------------

/// The register of an element, and the value that it has at least.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = murmur64a(element);
    let register = hash as usize & (REGISTERS - 1);
    // The bit at the end lets the run of zeros end.
    let rest = hash >> P | 1 << Q;
    (register, (rest.trailing_zeros() as u8).saturating_add(1))
}

/// MurmurHash64A with the seed of HyperLogLogs.
fn murmur64a(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xadc8_3b19;
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(M);
    let words = bytes.chunks_exact(8);
    let tail = words.remainder();
    for word in words {
        let mut word = word.try_into().map_or(0, u64::from_le_bytes);
        word = word.wrapping_mul(M);
        word ^= word >> R;
        word = word.wrapping_mul(M);
        hash = (hash ^ word).wrapping_mul(M);
    }
    if !tail.is_empty() {
        let tail = tail
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash ^= hash >> R;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> R
}

// --- Both encodings -------------------------------------------------------------------------------------------------

fn is_dense(bytes: &[u8]) -> bool {
    bytes.get(ENCODING) == Some(&DENSE)
}

fn invalidate(bytes: &mut [u8]) {
    if let Some(last) = bytes.get_mut(COUNT_LAST) {
        *last |= STALE;
    }
}

/// Raises a register to a value of at least 1. Returns whether it was lower.
fn set(bytes: &mut Vec<u8>, register: usize, value: u8) -> Result<bool, Corrupt> {
    if is_dense(bytes) {
        Ok(dense_set(bytes, register, value))
    } else {
        sparse_set(bytes, register, value)
    }
}

/// Takes the greater of both values for each register.
fn merge(greatest: &mut [u8], bytes: &[u8]) -> Result<(), Corrupt> {
    if is_dense(bytes) {
        for (register, greatest) in greatest.iter_mut().enumerate() {
            *greatest = (*greatest).max(dense_get(bytes, register));
        }
        return Ok(());
    }
    sparse_values(bytes, |first, run| {
        for greatest in greatest.iter_mut().skip(first).take(run.len) {
            *greatest = (*greatest).max(run.value);
        }
    })
}

/// The estimate of Otmar Ertl's "New cardinality estimation algorithms for HyperLogLog sketches" (arXiv:1702.01284).
/// The steps have the same order as in the servers, so that each one is rounded in the same way.
fn count(bytes: &[u8]) -> Result<u64, Corrupt> {
    let mut histogram = [0u32; 64];
    let mut note = |value: u8, registers: usize| {
        if let Some(number) = histogram.get_mut(usize::from(value)) {
            *number = number.saturating_add(registers as u32);
        }
    };
    if is_dense(bytes) {
        for register in 0..REGISTERS {
            note(dense_get(bytes, register), 1);
        }
    } else {
        sparse_values(bytes, |_, run| note(run.value, run.len))?;
    }
    Ok(estimate(&histogram))
}

fn estimate(histogram: &[u32; 64]) -> u64 {
    /// 1 / (2 ln 2)
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let of = |value: usize| f64::from(histogram.get(value).copied().unwrap_or_default());
    let m = REGISTERS as f64;
    let mut z = m * tau((m - of(Q + 1)) / m);
    for value in (1..=Q).rev() {
        z += of(value);
        z *= 0.5;
    }
    z += m * sigma(of(0) / m);
    let estimate = (ALPHA * m * m / z).round();
    // Elements made for it can bring more than a C long long holds, which x86-64 then makes this of.
    const TOO_MUCH: u64 = 1 << 63;
    if estimate < TOO_MUCH as f64 {
        estimate as u64
    } else {
        TOO_MUCH
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let mut y = 1.0;
    let mut z = x;
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let mut y = 1.0;
    let mut z = 1.0 - x;
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

// --- Dense ----------------------------------------------------------------------------------------------------------

/// The position of the register: its first byte, and the bits of it that belong to others.
fn dense_place(register: usize) -> (usize, u32) {
    let bit = register.saturating_mul(6);
    (HEADER.saturating_add(bit / 8), (bit % 8) as u32)
}

fn dense_get(bytes: &[u8], register: usize) -> u8 {
    let (at, shift) = dense_place(register);
    let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or_default());
    let both = byte(at) | byte(at.saturating_add(1)) << 8;
    (both >> shift & 0x3F) as u8
}

fn dense_set(bytes: &mut [u8], register: usize, value: u8) -> bool {
    if value <= dense_get(bytes, register) {
        return false;
    }
    let (at, shift) = dense_place(register);
    let places = bytes.iter_mut().skip(at).take(2);
    let cleared = (0x3Fu16 << shift).to_le_bytes();
    let filled = (u16::from(value & 0x3F) << shift).to_le_bytes();
    for (byte, (cleared, filled)) in places.zip(cleared.into_iter().zip(filled)) {
        *byte = *byte & !cleared | filled;
    }
    true
}

// --- Sparse ---------------------------------------------------------------------------------------------------------

/// This many registers with the same value.
#[derive(Clone, Copy, Debug)]
struct Run {
    value: u8,
    len: usize,
    /// Bytes.
    size: usize,
}

impl Run {
    /// The one that begins at byte `at`.
    fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let first = *bytes.get(at)?;
        let low = usize::from(first & 0x3F);
        let (value, registers, size) = match first {
            0x00..=0x3F => (0, low, 1),
            0x40..=0x7F => {
                let second = *bytes.get(at.saturating_add(1))?;
                (0, low << 8 | usize::from(second), 2)
            }
            0x80..=0xFF => ((first >> 2 & 0x1F).saturating_add(1), low & 3, 1),
        };
        Some(Self {
            value,
            len: registers.saturating_add(1),
            size,
        })
    }
}

/// Hands out each run with its first register. All registers must be there.
fn sparse_values(bytes: &[u8], mut each: impl FnMut(usize, Run)) -> Result<(), Corrupt> {
    let (mut at, mut first) = (HEADER, 0usize);
    while at < bytes.len() {
        let run = Run::at(bytes, at).ok_or(Corrupt)?;
        each(first, run);
        at = at.saturating_add(run.size);
        first = first.saturating_add(run.len);
    }
    if first == REGISTERS {
        Ok(())
    } else {
        Err(Corrupt)
    }
}

fn make_dense(bytes: &mut Vec<u8>) -> Result<(), Corrupt> {
    if is_dense(bytes) {
        return Ok(());
    }
    let mut dense = bytes.get(..HEADER).unwrap_or_default().to_vec();
    if let Some(encoding) = dense.get_mut(ENCODING) {
        *encoding = DENSE;
    }
    dense.resize(DENSE_LEN, 0);
    sparse_values(bytes, |first, run| {
        for register in (first..REGISTERS).take(run.len) {
            dense_set(&mut dense, register, run.value);
        }
    })?;
    *bytes = dense;
    Ok(())
}

fn put_zeros(out: &mut Vec<u8>, registers: usize) {
    let less = registers.saturating_sub(1);
    if registers <= MOST_ZEROS {
        out.push(less as u8);
    } else {
        out.extend_from_slice(&(0x4000 | less as u16).to_be_bytes());
    }
}

fn value_run(value: u8, registers: usize) -> u8 {
    0x80 | value.saturating_sub(1) << 2 | registers.saturating_sub(1) as u8
}

fn sparse_set(bytes: &mut Vec<u8>, register: usize, value: u8) -> Result<bool, Corrupt> {
    if value > MOST_VALUE {
        make_dense(bytes)?;
        return Ok(dense_set(bytes, register, value));
    }
    let (mut at, mut first) = (HEADER, 0usize);
    let mut previous = None;
    let run = loop {
        let run = Run::at(bytes, at).ok_or(Corrupt)?;
        let end = first.saturating_add(run.len);
        if register < end {
            break run;
        }
        previous = Some(at);
        at = at.saturating_add(run.size);
        first = end;
    };
    if run.value >= value {
        return Ok(false);
    }
    // The run is cut in up to three.
    let mut pieces = Vec::with_capacity(5);
    let after = first
        .saturating_add(run.len)
        .saturating_sub(register)
        .saturating_sub(1);
    let put_rest = |pieces: &mut Vec<u8>, registers: usize| match (registers, run.value) {
        (0, _) => {}
        (_, 0) => put_zeros(pieces, registers),
        (_, old) => pieces.push(value_run(old, registers)),
    };
    put_rest(&mut pieces, register.saturating_sub(first));
    pieces.push(value_run(value, 1));
    put_rest(&mut pieces, after);

    let length = bytes
        .len()
        .saturating_add(pieces.len())
        .saturating_sub(run.size);
    if pieces.len() > run.size && length > SPARSE_MAX {
        make_dense(bytes)?;
        return Ok(dense_set(bytes, register, value));
    }
    bytes.splice(at..at.saturating_add(run.size), pieces);
    join(bytes, previous.unwrap_or(HEADER));
    invalidate(bytes);
    Ok(true)
}

/// Joins neighbouring runs of the same value, as far as servers look: five runs from byte `at` on.
fn join(bytes: &mut Vec<u8>, mut at: usize) {
    const RUNS: usize = 5;
    for _ in 0..RUNS {
        let Some(run) = Run::at(bytes, at) else {
            return;
        };
        let next_at = at.saturating_add(run.size);
        let next = Run::at(bytes, next_at).filter(|next| run.value > 0 && next.value == run.value);
        let len = next.map_or(usize::MAX, |next| next.len.saturating_add(run.len));
        if len <= MOST_VALUES {
            bytes.remove(at);
            if let Some(run_byte) = bytes.get_mut(at) {
                *run_byte = value_run(run.value, len);
            }
        } else {
            at = next_at;
        }
    }
}

#[cfg(test)]
#[path = "hyperloglog_tests.rs"]
mod tests;
