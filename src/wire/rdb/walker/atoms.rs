//! The steps of the walker: each one reads one atom of a layout from the rest of a chunk.

use super::{Event, Frame, Walker};
use crate::wire::rdb::cursor::LZF_RATIO;
use crate::wire::rdb::error::Stop;
use crate::wire::rdb::layouts::{self, Atom, Effect, Kind};
use crate::wire::rdb::primitives::{Decoded, Length, VECTOR_SET_NAME, decode_length, module_name};

/// No string is longer than this (1 TiB). Servers allow 512 MB unless `proto-max-bulk-len` is raised.
const LENGTH_LIMIT: u64 = 1 << 40;
/// No collection has more elements: each takes at least a byte, and no server has that much memory.
const COUNT_LIMIT: u64 = 1 << 40;
/// Longer names of AUX fields are skipped. The known ones have at most 20 bytes.
const AUX_KEY_LIMIT: u64 = 64;
/// Longer values of AUX fields are not kept: script bodies, slot lists.
const AUX_VALUE_LIMIT: u64 = 256;
/// More AUX fields are not kept. Servers write about a dozen.
const AUX_FIELDS_LIMIT: usize = 64;
/// The same for modules.
const MODULES_LIMIT: usize = 1 << 10;

/// What is left of the chunk.
pub(super) struct Input<'a> {
    pub(super) rest: &'a [u8],
    /// The position in the RDB of the chunk's end.
    pub(super) end: u64,
}

impl<'a> Input<'a> {
    pub(super) fn position(&self) -> u64 {
        self.end.saturating_sub(self.rest.len() as u64)
    }

    /// Takes `count` bytes off the front, or as many as there are.
    #[inline]
    pub(super) fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(count.min(self.rest.len()));
        self.rest = rest;
        taken
    }
}

/// The result of an atom.
enum Outcome {
    /// The chunk ends within it.
    More,
    Next,
    /// These come before the next, this many times.
    Enter(&'static [Atom], u64),
    /// It continues, after `skip`.
    Again,
    /// It continues, after these.
    AgainAfter(&'static [Atom]),
}

impl Walker {
    // --- Atoms ------------------------------------------------------------------------------------------------------

    pub(super) fn walk_atom(&mut self, input: &mut Input) -> Result<bool, Stop> {
        let Some(frame) = self.stack.last_mut() else {
            return Ok(true);
        };
        let Some(&atom) = frame.atoms.get(frame.at) else {
            frame.left = frame.left.saturating_sub(1);
            frame.at = 0;
            if frame.left == 0 {
                self.stack.pop();
                if self.stack.is_empty() {
                    self.end_record(input.position())?;
                }
            }
            return Ok(true);
        };
        let (advance, enter) = match self.atom(atom, input)? {
            Outcome::More => return Ok(false),
            Outcome::Next => (1, None),
            Outcome::Enter(atoms, count) => (1, Some((atoms, count))),
            Outcome::Again => (0, None),
            Outcome::AgainAfter(atoms) => (0, Some((atoms, 1))),
        };
        if let Some(frame) = self.stack.last_mut() {
            frame.at = frame.at.saturating_add(advance);
        }
        if let Some((atoms, left)) = enter
            && left > 0
        {
            self.stack.push(Frame { atoms, at: 0, left });
        }
        Ok(true)
    }

    #[inline]
    fn atom(&mut self, atom: Atom, input: &mut Input) -> Result<Outcome, Stop> {
        match atom {
            Atom::Str => {
                let at = self.primitive_at(input);
                match self.length(input)? {
                    None => Ok(Outcome::More),
                    Some(length) => self.pass_string(length, at),
                }
            }
            Atom::Value => {
                self.trace(Event::Value {
                    at: input.position(),
                });
                Ok(Outcome::Next)
            }
            Atom::Fixed(count) => {
                self.skip = count;
                Ok(Outcome::Next)
            }
            Atom::DoubleText => match input.take(1) {
                &[length] => {
                    self.skip = if length >= 253 { 0 } else { u64::from(length) };
                    Ok(Outcome::Next)
                }
                _ => Ok(Outcome::More),
            },
            Atom::AuxKey | Atom::AuxValue => self.aux_atom(atom, input),
            Atom::KeepKey | Atom::KeepText | Atom::KeepInt => self.keep_atom(atom, input),
            _ => self.number_atom(atom, input),
        }
    }

    /// Passes over a string whose length stood at `at`.
    #[inline]
    fn pass_string(&mut self, length: Length, at: u64) -> Result<Outcome, Stop> {
        self.skip = match length {
            Length::Plain(length) if length <= LENGTH_LIMIT => length,
            Length::Plain(length) => return Err(too_long(at, length)),
            Length::Special(0) => 1,
            Length::Special(1) => 2,
            Length::Special(2) => 4,
            Length::Special(3) => return Ok(Outcome::Enter(layouts::LZF, 1)),
            Length::Special(other) => {
                return Err(Stop::Malformed {
                    offset: at,
                    expected: "a string",
                    found: format!("the unknown string encoding {other}"),
                });
            }
        };
        Ok(Outcome::Next)
    }

    /// The atoms that begin with a length that is a number.
    fn number_atom(&mut self, atom: Atom, input: &mut Input) -> Result<Outcome, Stop> {
        let at = self.primitive_at(input);
        let number = match self.length(input)? {
            None => return Ok(Outcome::More),
            Some(Length::Plain(number)) => number,
            Some(Length::Special(encoding)) => {
                return Err(Stop::Malformed {
                    offset: at,
                    expected: "a length",
                    found: format!("a string encoding ({encoding})"),
                });
            }
        };
        match atom {
            Atom::Many(atoms) => {
                return Ok(Outcome::Enter(atoms, check_count(at, number)?));
            }
            Atom::ManyFixed(size) => self.skip = check_count(at, number)?.saturating_mul(size),
            Atom::LzfStored if number <= LENGTH_LIMIT => self.lzf_stored = number,
            Atom::LzfOriginal if number <= LENGTH_LIMIT => {
                self.skip = self.lzf_stored;
                if number == 0 || number / LZF_RATIO > self.lzf_stored {
                    return Err(Stop::Malformed {
                        offset: at,
                        expected: "the length of a string that LZF has compressed",
                        found: format!("{number} bytes, of {} that are stored", self.lzf_stored),
                    });
                }
            }
            Atom::LzfStored | Atom::LzfOriginal => return Err(too_long(at, number)),
            Atom::ModuleId => self.module_id(number, at)?,
            Atom::ModuleData => return self.module_data(number),
            Atom::Db => {
                self.flush_tally(at)?;
                self.db = u32::try_from(number).map_err(|_| Stop::Malformed {
                    offset: at,
                    expected: "the number of a database",
                    found: number.to_string(),
                })?;
            }
            _ => {}
        }
        Ok(Outcome::Next)
    }

    fn module_id(&mut self, id: u64, at: u64) -> Result<(), Stop> {
        if self.last_module != Some(id) {
            let modules = &mut self.summary.modules;
            modules.insert(module_name(id));
            if modules.len() > MODULES_LIMIT {
                return Err(self.limit(at, "modules", MODULES_LIMIT));
            }
            self.last_module = Some(id);
        }
        if let Effect::Key(kind) = &mut self.effect
            && id >> 10 == VECTOR_SET_NAME
        {
            *kind = Kind::VectorSet;
        }
        Ok(())
    }

    /// One step of module data, by its opcode.
    fn module_data(&mut self, opcode: u64) -> Result<Outcome, Stop> {
        self.skip = match opcode {
            0 => return Ok(Outcome::Next),
            1 | 2 => return Ok(Outcome::AgainAfter(layouts::ONE_LEN)),
            3 => 4,
            4 => 8,
            5 => return Ok(Outcome::AgainAfter(layouts::ONE_STR)),
            _ => {
                let record = layouts::describe(self.summary.family, self.record);
                return Err(Stop::Unknown(format!(
                    "the unknown module opcode {opcode} in {record}"
                )));
            }
        };
        Ok(Outcome::Again)
    }

    // --- AUX fields -------------------------------------------------------------------------------------------------

    fn aux_atom(&mut self, atom: Atom, input: &mut Input) -> Result<Outcome, Stop> {
        let at = self.primitive_at(input);
        let Some(length) = self.length(input)? else {
            return Ok(Outcome::More);
        };
        let is_key = matches!(atom, Atom::AuxKey);
        if is_key {
            self.aux_key.clear();
        }
        let (keep, then) = match length {
            Length::Plain(length) if is_key && length <= AUX_KEY_LIMIT => {
                (length, layouts::KEEP_KEY)
            }
            Length::Plain(length) if !is_key && length <= AUX_VALUE_LIMIT => {
                (length, layouts::KEEP_TEXT)
            }
            Length::Special(0) if !is_key => (1, layouts::KEEP_INT),
            Length::Special(1) if !is_key => (2, layouts::KEEP_INT),
            Length::Special(2) if !is_key => (4, layouts::KEEP_INT),
            other => return self.pass_string(other, at),
        };
        self.keep = usize::try_from(keep).unwrap_or_default();
        Ok(Outcome::Enter(then, 1))
    }

    fn keep_atom(&mut self, atom: Atom, input: &mut Input) -> Result<Outcome, Stop> {
        if !self.fill(input, self.keep) {
            return Ok(Outcome::More);
        }
        let is_text = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b' '..=b'~'));
        let value = match (atom, self.carry.as_slice()) {
            (Atom::KeepKey, key) => {
                self.aux_key.extend_from_slice(key);
                None
            }
            (Atom::KeepInt, &[a]) => Some(i8::from_le_bytes([a]).to_string()),
            (Atom::KeepInt, &[a, b]) => Some(i16::from_le_bytes([a, b]).to_string()),
            (Atom::KeepInt, &[a, b, c, d]) => Some(i32::from_le_bytes([a, b, c, d]).to_string()),
            (_, text) if is_text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        self.carry.clear();
        let aux = &mut self.summary.aux;
        if let (Some(value), Ok(key)) = (value, std::str::from_utf8(&self.aux_key))
            && is_text(key.as_bytes())
            && !key.is_empty()
            && aux.len() < AUX_FIELDS_LIMIT
            && !aux.contains_key(key)
        {
            aux.insert(key.to_owned(), value);
        }
        Ok(Outcome::Next)
    }

    // --- Primitives -------------------------------------------------------------------------------------------------

    /// The position of the first byte of what is being decoded.
    fn primitive_at(&self, input: &Input) -> u64 {
        input.position().saturating_sub(self.carry.len() as u64)
    }

    /// Fills `carry` up to `count` bytes. Returns whether there were enough.
    pub(super) fn fill(&mut self, input: &mut Input, count: usize) -> bool {
        let missing = count.saturating_sub(self.carry.len());
        self.carry.extend_from_slice(input.take(missing));
        self.carry.len() >= count
    }

    /// Decodes a length (D.2). Nothing when the chunk ends within it.
    #[inline]
    fn length(&mut self, input: &mut Input) -> Result<Option<Length>, Stop> {
        if self.carry.is_empty()
            && let Decoded::Done(length, size) = decode_length(input.rest)
        {
            input.take(size);
            return Ok(Some(length));
        }
        loop {
            match decode_length(&self.carry) {
                Decoded::Done(length, _) => {
                    self.carry.clear();
                    return Ok(Some(length));
                }
                Decoded::Short(size) => {
                    if !self.fill(input, size) {
                        return Ok(None);
                    }
                }
                Decoded::Invalid(byte) => {
                    return Err(Stop::Malformed {
                        offset: self.primitive_at(input),
                        expected: "a length",
                        found: format!("0x{byte:02X}"),
                    });
                }
            }
        }
    }
}

fn check_count(offset: u64, count: u64) -> Result<u64, Stop> {
    if count <= COUNT_LIMIT {
        return Ok(count);
    }
    Err(Stop::Malformed {
        offset,
        expected: "a count of elements",
        found: count.to_string(),
    })
}

fn too_long(offset: u64, length: u64) -> Stop {
    Stop::Malformed {
        offset,
        expected: "the length of a string",
        found: format!("{length}, more than any server allows"),
    }
}
