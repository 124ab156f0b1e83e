//! The walker: an interpreter of [`super::layouts`] over chunks of any size.
//!
//! It never holds more than [`atoms::AUX_VALUE_LIMIT`] bytes of input. Its stack is as deep as the layouts are nested
//! (four), whatever the input says.

use std::ops::Range;

use super::error::{Stop, WalkError};
use super::footer::Trailer;
use super::layouts::{self, Atom, Effect, Kind, Record};
use super::numbers::opcode;
use super::primitives::{FIRST_WITH_FOOTER, FOOTER_LEN, MAGIC_LEN, parse_magic};
use super::summary::{Checksum, Summary, Unwalked};

mod atoms;

use atoms::Input;

/// More databases with keys count as damage (`databases` is 16 by default). This bounds the summary.
const DATABASES_LIMIT: usize = 1 << 16;
/// The same for replication fields among the first AUX fields. Servers write three.
const REPL_FIELDS_LIMIT: usize = 64;
/// Chunks are walked and then checksummed in pieces of this size, so that the second pass finds them in the cache.
const PIECE: usize = 64 << 10;
/// AUX fields that hold the replication position of a snapshot.
const REPL_FIELDS: [&[u8]; 3] = [b"repl-id", b"repl-offset", b"repl-stream-db"];

/// Walks over an RDB: finds its end, verifies its checksum, counts what is in it.
///
/// ```text
/// Magic ──▶ Walking ──▶ Ended ──▶ Complete
///              │          │
///              ├──────────┴──▶ Opaque ──finish_opaque──▶ Complete     something unknown
///              └─────────────▶ Failed                                 damage
/// ```
#[derive(Debug)]
pub struct Walker {
    state: State,
    summary: Summary,
    tail: Trailer,
    /// Bytes to pass over before anything else.
    skip: u64,
    /// The first part of a piece that the last chunk cut in two.
    carry: Vec<u8>,
    stack: Vec<Frame>,
    /// The record that is being walked, and where it begins.
    record: u8,
    effect: Effect,
    record_at: u64,
    /// An expiry comes before the next key.
    expiring: bool,
    db: u32,
    tally: Tally,
    last_module: Option<u64>,
    lzf_stored: u64,
    keep: usize,
    aux_key: Vec<u8>,
    front: Front,
    /// The positions at which records begin, for the reader. None when they are not wanted.
    events: Option<Vec<Event>>,
}

/// Something that the reader wants to know. Positions are in the RDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A record begins (the end opcode is one).
    Record {
        /// Its first byte.
        byte: u8,
        /// Its position.
        at: u64,
    },
    /// The record is a key. Its name is between its first byte and here.
    Value {
        /// The first byte of the value.
        at: u64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Magic,
    Walking,
    /// The end opcode has come, and the checksum once `skip` is 0.
    Ended,
    Complete,
    /// Walking has stopped: the rest is only checksummed.
    Opaque,
    Failed(Box<WalkError>),
}

/// Repeats `atoms` as long as `left` is above 0.
#[derive(Debug)]
struct Frame {
    atoms: &'static [Atom],
    at: usize,
    left: u64,
}

/// The AUX fields at the very front, for the stripper.
#[derive(Debug, Default)]
pub(super) struct Front {
    /// The positions of the replication fields among them.
    pub(super) repl: Vec<Range<u64>>,
    /// The position of the first record that is not an AUX field.
    pub(super) ended_at: Option<u64>,
}

/// Counts that have not been put into the summary yet.
#[derive(Debug, Default)]
struct Tally {
    keys: u64,
    expires: u64,
    kinds: [u64; Kind::NAMES.len()],
}

impl Walker {
    /// A walker at the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: State::Magic,
            summary: Summary::default(),
            tail: Trailer::new(),
            skip: 0,
            carry: Vec::new(),
            stack: Vec::with_capacity(8),
            record: 0,
            effect: Effect::None,
            record_at: 0,
            expiring: false,
            db: 0,
            tally: Tally::default(),
            last_module: None,
            lzf_stored: 0,
            keep: 0,
            aux_key: Vec::new(),
            front: Front::default(),
            events: None,
        }
    }

    /// A walker that also says where records begin ([`Self::take_events`]).
    pub(super) fn traced() -> Self {
        Self {
            events: Some(Vec::new()),
            ..Self::new()
        }
    }

    /// The events since the last call, into an empty `events`.
    pub(super) fn take_events(&mut self, events: &mut Vec<Event>) {
        if let Some(own) = &mut self.events {
            std::mem::swap(own, events);
        }
    }

    #[inline]
    fn trace(&mut self, event: Event) {
        if let Some(events) = &mut self.events {
            events.push(event);
        }
    }

    /// Takes in the next bytes and returns how many of them belong to the RDB: fewer than `chunk.len()` only when the
    /// RDB ends in this chunk.
    ///
    /// # Errors
    /// When the bytes are not those of an RDB, or its checksum is wrong; the error is repeated by every later call.
    pub fn push(&mut self, chunk: &[u8]) -> Result<usize, WalkError> {
        let mut used = 0usize;
        for piece in chunk.chunks(PIECE) {
            let taken = self.push_piece(piece)?;
            used = used.saturating_add(taken);
            if taken < piece.len() {
                break;
            }
        }
        Ok(used)
    }

    /// Whether the end has come, checksum included.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// The payload ends here, according to its framing. An RDB that was walked to its end is fine. One that could not
    /// be walked ([`Summary::unwalked`]) must end with the end opcode and the right checksum, and is then complete.
    ///
    /// # Errors
    /// When the RDB is not at its end, or its checksum is wrong.
    pub fn finish_opaque(&mut self) -> Result<(), WalkError> {
        let checked = match &self.state {
            State::Complete => return Ok(()),
            State::Failed(error) => return Err(WalkError::clone(error)),
            State::Opaque => self.check_opaque_end(),
            State::Magic | State::Walking | State::Ended => Err(self.cut_off()),
        };
        match checked {
            Ok(checksum) => {
                self.summary.checksum = checksum;
                self.state = State::Complete;
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    /// What has been found so far.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    pub(super) fn front(&self) -> &Front {
        &self.front
    }

    // --- Chunks -----------------------------------------------------------------------------------------------------

    fn push_piece(&mut self, piece: &[u8]) -> Result<usize, WalkError> {
        match &self.state {
            State::Complete => return Ok(0),
            State::Failed(error) => return Err(WalkError::clone(error)),
            _ => {}
        }
        let end = self.summary.bytes.saturating_add(piece.len() as u64);
        let mut input = Input { rest: piece, end };
        let walked = self.run(&mut input);
        let stop = self.flush_tally(input.position()).and(walked).err();
        if let Some(stop) = stop {
            self.stop(stop)?;
        }
        if self.state == State::Opaque {
            input.rest = &[];
        }
        let (walked, rest) = piece.split_at(piece.len().saturating_sub(input.rest.len()));
        self.absorb(walked);
        if self.state == State::Ended && self.skip == 0 {
            self.end()?;
        }
        if self.state == State::Opaque && !rest.is_empty() {
            self.absorb(rest);
            return Ok(piece.len());
        }
        Ok(walked.len())
    }

    fn absorb(&mut self, bytes: &[u8]) {
        self.tail.absorb(bytes);
        self.summary.bytes = self.summary.bytes.saturating_add(bytes.len() as u64);
    }

    /// Walks as far as the chunk goes.
    fn run(&mut self, input: &mut Input) -> Result<(), Stop> {
        loop {
            if self.skip > 0 {
                let wanted = usize::try_from(self.skip).unwrap_or(usize::MAX);
                self.skip = self.skip.saturating_sub(input.take(wanted).len() as u64);
                if self.skip > 0 {
                    return Ok(());
                }
            }
            let goes_on = match self.state {
                State::Walking if self.stack.is_empty() => self.begin_record(input)?,
                State::Walking => self.walk_atom(input)?,
                State::Magic => self.walk_magic(input)?,
                State::Ended | State::Complete | State::Opaque | State::Failed(_) => false,
            };
            if !goes_on {
                return Ok(());
            }
        }
    }

    /// Decides what a stop means: damage, unless the version is so new that it may be a change of the format.
    fn stop(&mut self, stop: Stop) -> Result<(), WalkError> {
        let error = match stop {
            Stop::Unknown(reason) => {
                self.go_opaque(self.record_at, reason);
                return Ok(());
            }
            Stop::Error(error) => error,
            Stop::Malformed {
                offset,
                expected,
                found,
            } => WalkError::Malformed {
                offset,
                expected,
                found,
                record: layouts::describe(self.summary.family, self.record),
                record_at: self.record_at,
            },
        };
        if self.is_newer_than_tested() {
            self.go_opaque(self.record_at, error.to_string());
            return Ok(());
        }
        Err(self.fail(error))
    }

    fn go_opaque(&mut self, from: u64, mut reason: String) {
        if self.is_newer_than_tested() {
            reason.push_str(&format!(
                "; {} is newer than the RDB versions that this program knows",
                self.summary.magic
            ));
        }
        self.summary.unwalked = Some(Unwalked { from, reason });
        self.state = State::Opaque;
    }

    fn fail(&mut self, error: WalkError) -> WalkError {
        self.state = State::Failed(Box::new(error.clone()));
        error
    }

    fn is_newer_than_tested(&self) -> bool {
        layouts::is_newer_than_tested(self.summary.family, self.summary.version)
    }

    // --- The end ----------------------------------------------------------------------------------------------------

    /// The end opcode and the checksum have been taken in.
    fn end(&mut self) -> Result<(), WalkError> {
        match self.checksum() {
            Ok(checksum) => {
                self.summary.checksum = checksum;
                self.state = State::Complete;
                Ok(())
            }
            // Perhaps that was no end opcode, but part of something new.
            Err(error) if self.is_newer_than_tested() => {
                self.go_opaque(self.record_at, error.to_string());
                Ok(())
            }
            Err(error) => Err(self.fail(error)),
        }
    }

    fn has_footer(&self) -> bool {
        self.summary.version >= FIRST_WITH_FOOTER
    }

    fn checksum(&self) -> Result<Checksum, WalkError> {
        let expected = self.tail.last_u64();
        if !self.has_footer() || expected == 0 {
            return Ok(Checksum::Absent);
        }
        let found = self.tail.crc.value();
        if expected == found {
            Ok(Checksum::Verified)
        } else {
            Err(WalkError::Checksum { expected, found })
        }
    }

    fn check_opaque_end(&self) -> Result<Checksum, WalkError> {
        let footer = if self.has_footer() {
            FOOTER_LEN as u64
        } else {
            0
        };
        let from = self
            .summary
            .unwalked
            .as_ref()
            .map_or(0, |unwalked| unwalked.from);
        let end_at = self.summary.bytes.saturating_sub(footer).saturating_sub(1);
        let end = if footer > 0 {
            Some(self.tail.before)
        } else {
            self.tail.held.last().copied()
        };
        if end_at <= from && !self.is_newer_than_tested() {
            return Err(self.cut_off());
        }
        match end {
            Some(0xFF) => self.checksum(),
            other => Err(WalkError::Malformed {
                offset: end_at,
                expected: "the end opcode 0xFF before the checksum",
                found: format!("0x{:02X}", other.unwrap_or_default()),
                record: "the part that could not be walked".to_owned(),
                record_at: from,
            }),
        }
    }

    fn cut_off(&self) -> WalkError {
        let record = || layouts::describe(self.summary.family, self.record);
        let within = match self.state {
            State::Magic => "within its first 9 bytes".to_owned(),
            State::Ended => "within its checksum".to_owned(),
            State::Walking if self.stack.is_empty() && self.skip == 0 => {
                "without the end opcode 0xFF".to_owned()
            }
            _ => format!(
                "within {}, which begins at byte {}",
                record(),
                self.record_at
            ),
        };
        WalkError::CutOff {
            bytes: self.summary.bytes,
            within,
        }
    }

    // --- Records ----------------------------------------------------------------------------------------------------

    fn walk_magic(&mut self, input: &mut Input) -> Result<bool, Stop> {
        if !self.fill(input, MAGIC_LEN) {
            return Ok(false);
        }
        let parsed = std::str::from_utf8(&self.carry).ok().and_then(parse_magic);
        let Some((family, version)) = parsed else {
            let found = self.carry.escape_ascii().to_string();
            return Err(Stop::Error(WalkError::Magic { found }));
        };
        self.summary.magic = String::from_utf8_lossy(&self.carry).into_owned();
        self.summary.family = family;
        self.summary.version = version;
        self.carry.clear();
        self.state = State::Walking;
        Ok(true)
    }

    fn begin_record(&mut self, input: &mut Input) -> Result<bool, Stop> {
        let at = input.position();
        let &[byte] = input.take(1) else {
            return Ok(false);
        };
        self.record = byte;
        self.record_at = at;
        self.trace(Event::Record { byte, at });
        if byte != opcode::AUX && self.front.ended_at.is_none() {
            self.front.ended_at = Some(at);
        }
        let Some(Record { effect, atoms }) = layouts::record(self.summary.family, byte) else {
            return Err(Stop::Unknown(format!(
                "{} in {}",
                layouts::describe(self.summary.family, byte),
                self.summary.magic
            )));
        };
        self.effect = effect;
        if let Effect::End = effect {
            self.state = State::Ended;
            self.skip = if self.has_footer() {
                FOOTER_LEN as u64
            } else {
                0
            };
        } else {
            self.stack.push(Frame {
                atoms,
                at: 0,
                left: 1,
            });
        }
        Ok(true)
    }

    fn end_record(&mut self, position: u64) -> Result<(), Stop> {
        match self.effect {
            Effect::None | Effect::End => {}
            Effect::Expiry => self.expiring = true,
            Effect::Key(kind) => self.tally.add(kind, std::mem::take(&mut self.expiring)),
            Effect::Function => {
                self.summary.functions = self.summary.functions.saturating_add(1);
            }
            Effect::Aux => {
                let is_repl = REPL_FIELDS
                    .iter()
                    .any(|name| self.aux_key.eq_ignore_ascii_case(name));
                if is_repl && self.front.ended_at.is_none() {
                    if self.front.repl.len() >= REPL_FIELDS_LIMIT {
                        return Err(self.limit(position, "replication fields", REPL_FIELDS_LIMIT));
                    }
                    self.front.repl.push(self.record_at..position);
                }
            }
        }
        Ok(())
    }

    fn limit(&self, offset: u64, what: &'static str, limit: usize) -> Stop {
        Stop::Error(WalkError::Limit {
            offset,
            what,
            limit,
        })
    }

    /// Puts the counts of the selected database into the summary.
    fn flush_tally(&mut self, position: u64) -> Result<(), Stop> {
        let Tally {
            keys,
            expires,
            kinds,
        } = std::mem::take(&mut self.tally);
        if keys == 0 {
            return Ok(());
        }
        let databases = &mut self.summary.databases;
        if databases.len() >= DATABASES_LIMIT && !databases.contains_key(&self.db) {
            return Err(self.limit(position, "databases", DATABASES_LIMIT));
        }
        let counts = databases.entry(self.db).or_default();
        counts.keys = counts.keys.saturating_add(keys);
        counts.expires = counts.expires.saturating_add(expires);
        for (name, count) in Kind::NAMES.into_iter().zip(kinds) {
            if count > 0 {
                let sum = self.summary.types.entry(name).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        Ok(())
    }
}

impl Default for Walker {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    #[inline]
    fn add(&mut self, kind: Kind, expiring: bool) {
        self.keys = self.keys.saturating_add(1);
        self.expires = self.expires.saturating_add(u64::from(expiring));
        if let Some(count) = self.kinds.get_mut(kind as usize) {
            *count = count.saturating_add(1);
        }
    }
}

#[cfg(test)]
#[path = "walker_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "damage_tests.rs"]
mod damage_tests;
