//! Strings as arrays of bits: the first bit is the most significant one of the first byte.

use crate::model::Keyspace;
use crate::model::args::{Args, is_word};
use crate::model::command::Spec;
use crate::model::error::ApplyError;
use crate::model::key_specs::{Keys, Touch};
use crate::model::strings::{Text, padded};
use crate::model::value::DataType;

pub(crate) const COMMANDS: &[Spec] = &[
    Spec::new("SETBIT", Keys::At(&[1]), setbit),
    Spec::new("BITFIELD", Keys::At(&[1]), bitfield),
    Spec::new("BITOP", Keys::By(bitop_keys), bitop),
];

const NO_OFFSET: &str = "an offset is no number of bits";

/// `SETBIT key offset 0|1`.
fn setbit(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let offset = u64::try_from(args.int(2)?).map_err(|_| args.diverged(NO_OFFSET))?;
    let bit = match args.get(3)? {
        b"0" => 0,
        b"1" => 1,
        _ => return Err(args.diverged("a bit is neither 0 nor 1")),
    };
    let field = Field {
        offset,
        width: 1,
        signed: false,
    };
    let text = padded(space, args, args.get(1)?, field.length_needed())?;
    field.write(&mut text.0, bit);
    Ok(())
}

// --- BITFIELD -------------------------------------------------------------------------------------------------------

/// Some neighbouring bits that are a number.
#[derive(Clone, Copy, Debug)]
struct Field {
    /// Its first bit.
    offset: u64,
    /// 1 to 64 bits, to 63 if it has no sign.
    width: u32,
    signed: bool,
}

/// What happens to a number that does not fit.
#[derive(Clone, Copy, Debug)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

/// A writing part of a `BITFIELD`.
#[derive(Clone, Copy, Debug)]
struct Step {
    field: Field,
    overflow: Overflow,
    /// The number is added to what is there, rather than put in its place.
    adds: bool,
    number: i64,
}

impl Field {
    /// Reads `u8`, `i64` and the like, and `12` (bits) or `#12` (fields of this width).
    fn parse(args: &Args, kind: &[u8], offset: &[u8]) -> Result<Self, ApplyError> {
        let (signed, width) = match kind {
            [b'i', width @ ..] => (true, width),
            [b'u', width @ ..] => (false, width),
            _ => return Err(args.diverged("a type is neither signed nor unsigned")),
        };
        let most = if signed { 64 } else { 63 };
        let width = u32::try_from(args.parse_int(width)?)
            .ok()
            .filter(|width| (1..=most).contains(width))
            .ok_or_else(|| args.diverged("a type has a width that there is not"))?;
        let (offset, unit) = match offset {
            [b'#', offset @ ..] => (offset, i64::from(width)),
            _ => (offset, 1),
        };
        let offset = args.parse_int(offset)?.checked_mul(unit);
        let offset = offset.and_then(|offset| u64::try_from(offset).ok());
        Ok(Self {
            offset: offset.ok_or_else(|| args.diverged(NO_OFFSET))?,
            width,
            signed,
        })
    }

    /// How many bytes a string has at least that holds it.
    fn length_needed(&self) -> usize {
        let bits = self.offset.saturating_add(self.width.into());
        usize::try_from(bits.div_ceil(8)).unwrap_or(usize::MAX)
    }

    fn places(&self) -> impl Iterator<Item = (usize, u32)> + use<> {
        let (offset, width) = (self.offset, self.width);
        (0..u64::from(width)).map(move |bit| {
            let at = offset.saturating_add(bit);
            let byte = usize::try_from(at / 8).unwrap_or(usize::MAX);
            (byte, (at % 8) as u32)
        })
    }

    fn read(&self, bytes: &[u8]) -> i128 {
        let mut bits = 0u64;
        for (byte, bit) in self.places() {
            let byte = bytes.get(byte).copied().unwrap_or_default();
            bits = bits << 1 | u64::from(byte << bit >> 7);
        }
        self.number(bits)
    }

    fn write(&self, bytes: &mut [u8], number: i128) {
        let bits = number as u64;
        for ((byte, bit), left) in self.places().zip((0..self.width).rev()) {
            if let Some(byte) = bytes.get_mut(byte) {
                let mask = 0x80u8 >> bit;
                if bits >> left & 1 == 1 {
                    *byte |= mask;
                } else {
                    *byte &= !mask;
                }
            }
        }
    }

    /// The number that its lowest bits are, the higher ones cut off.
    fn number(&self, bits: u64) -> i128 {
        let unused = 64u32.saturating_sub(self.width);
        let high = bits << unused;
        if self.signed {
            i128::from(high as i64 >> unused)
        } else {
            i128::from(high >> unused)
        }
    }

    fn limits(&self) -> (i128, i128) {
        let half = 1i128 << self.width.saturating_sub(1);
        if self.signed {
            (half.saturating_neg(), half.saturating_sub(1))
        } else {
            (0, half.saturating_mul(2).saturating_sub(1))
        }
    }
}

impl Step {
    fn apply(&self, bytes: &mut [u8]) {
        let field = self.field;
        let wanted = if self.adds {
            field.read(bytes).saturating_add(self.number.into())
        } else if field.signed {
            self.number.into()
        } else {
            // As servers have it: a negative number is one that is too great.
            i128::from(self.number as u64)
        };
        let (least, most) = field.limits();
        let number = match self.overflow {
            _ if (least..=most).contains(&wanted) => wanted,
            Overflow::Wrap => field.number(wanted as u64),
            // Servers ask how much could be added up to the greatest number; for very negative ones that overflows.
            Overflow::Saturate if !self.adds && room(most, self.number) < 0 => most,
            Overflow::Saturate => wanted.clamp(least, most),
            Overflow::Fail => return,
        };
        field.write(bytes, number);
    }
}

fn room(most: i128, number: i64) -> i64 {
    (most as i64).wrapping_sub(number)
}

/// `BITFIELD key [GET type offset | OVERFLOW what | SET type offset number | INCRBY type offset number] …`.
fn bitfield(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let steps = steps(args)?;
    let length = steps.iter().map(|step| step.field.length_needed()).max();
    let Some(length) = length else {
        return Ok(()); // it only reads
    };
    let text = padded(space, args, args.get(1)?, length)?;
    for step in &steps {
        step.apply(&mut text.0);
    }
    Ok(())
}

fn steps(args: &Args) -> Result<Vec<Step>, ApplyError> {
    let mut steps = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut left = args.from(2);
    while let Some((word, rest)) = left.split_first() {
        left = match rest {
            [kind, offset, rest @ ..] if is_word(word, "GET") => {
                Field::parse(args, kind, offset)?;
                rest
            }
            [kind, offset, number, rest @ ..]
                if is_word(word, "SET") || is_word(word, "INCRBY") =>
            {
                steps.push(Step {
                    field: Field::parse(args, kind, offset)?,
                    overflow,
                    adds: is_word(word, "INCRBY"),
                    number: args.parse_int(number)?,
                });
                rest
            }
            [what, rest @ ..] if is_word(word, "OVERFLOW") => {
                overflow = match what {
                    _ if is_word(what, "WRAP") => Overflow::Wrap,
                    _ if is_word(what, "SAT") => Overflow::Saturate,
                    _ if is_word(what, "FAIL") => Overflow::Fail,
                    _ => return Err(args.diverged("there is no such overflow")),
                };
                rest
            }
            _ => return Err(args.diverged("it does not say what to do")),
        };
    }
    Ok(steps)
}

// --- BITOP ----------------------------------------------------------------------------------------------------------

/// An operation on strings. Shorter ones are filled up with zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    And,
    Or,
    Xor,
    Not,
    /// In the first, in none of the others.
    Diff,
    /// In one of the others, not in the first.
    Diff1,
    /// In the first and in one of the others.
    AndOr,
    /// In exactly one.
    One,
}

impl Operation {
    fn parse(args: &Args) -> Result<Self, ApplyError> {
        const NAMES: [(&str, Operation); 8] = [
            ("AND", Operation::And),
            ("OR", Operation::Or),
            ("XOR", Operation::Xor),
            ("NOT", Operation::Not),
            ("DIFF", Operation::Diff),
            ("DIFF1", Operation::Diff1),
            ("ANDOR", Operation::AndOr),
            ("ONE", Operation::One),
        ];
        NAMES
            .iter()
            .find(|(name, _)| args.is_word(1, name))
            .map(|(_, operation)| *operation)
            .ok_or_else(|| args.unmodelled("its operation is not known"))
    }
}

fn bitop_keys(args: &Args, touch: &mut dyn FnMut(Touch<'_>)) -> Result<(), ApplyError> {
    Operation::parse(args)?;
    Keys::From { first: 2, step: 1 }.of(args, touch)
}

/// `BITOP operation destination key …`: without any bits in the sources, the destination is deleted.
fn bitop(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let operation = Operation::parse(args)?;
    let (first, others) = args
        .from(3)
        .split_first()
        .ok_or_else(|| args.diverged("it has no sources"))?;
    if operation == Operation::Not && !others.is_empty() {
        return Err(args.diverged("it has more than one source"));
    }
    let mut result = match space.value::<Text>(args, first)? {
        Some(text) => text.0.clone(),
        None => Vec::new(),
    };
    match operation {
        Operation::And => fold(space, args, &mut result, others, |bits, other| {
            *bits &= other
        })?,
        Operation::Or => fold(space, args, &mut result, others, |bits, other| {
            *bits |= other
        })?,
        Operation::Xor => fold(space, args, &mut result, others, |bits, other| {
            *bits ^= other
        })?,
        Operation::Not => {
            for bits in &mut result {
                *bits = !*bits;
            }
        }
        Operation::Diff | Operation::Diff1 | Operation::AndOr => {
            let mut union = Vec::new();
            fold(space, args, &mut union, others, |bits, other| {
                *bits |= other
            })?;
            combine(&mut result, &union, |bits, union| {
                *bits = match operation {
                    Operation::Diff => *bits & !union,
                    Operation::Diff1 => !*bits & union,
                    _ => *bits & union,
                }
            });
        }
        Operation::One => {
            let mut twice = Vec::new();
            for key in others {
                let Some(other) = space.value::<Text>(args, key)? else {
                    continue;
                };
                let both = result.iter().zip(&other.0).map(|(a, b)| a & b);
                combine(&mut twice, &both.collect::<Vec<u8>>(), |twice, both| {
                    *twice |= both
                });
                combine(&mut result, &other.0, |bits, other| *bits |= other);
            }
            combine(&mut result, &twice, |bits, twice| *bits &= !twice);
        }
    }
    let destination = args.get(2)?;
    if result.is_empty() {
        space.remove(args, destination)?;
        return Ok(());
    }
    space.put(args, destination, Text(result).into_value())
}

/// Combines the strings of keys, one after the other, into `result`.
fn fold(
    space: &mut Keyspace,
    args: &Args,
    result: &mut Vec<u8>,
    keys: &[&[u8]],
    step: impl Fn(&mut u8, u8),
) -> Result<(), ApplyError> {
    for key in keys {
        match space.value::<Text>(args, key)? {
            Some(text) => combine(result, &text.0, &step),
            None => combine(result, &[], &step),
        }
    }
    Ok(())
}

/// Goes over both strings to the end of the longer one.
fn combine(result: &mut Vec<u8>, other: &[u8], step: impl Fn(&mut u8, u8)) {
    if result.len() < other.len() {
        result.resize(other.len(), 0);
    }
    let other = other.iter().copied().chain(std::iter::repeat(0));
    for (bits, other) in result.iter_mut().zip(other) {
        step(bits, other);
    }
}

#[cfg(test)]
#[path = "bits_tests.rs"]
mod tests;
