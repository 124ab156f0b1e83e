//! Reads an RDB entry by entry, push style. Wanted entries are handed out whole, everything else passes as raw bytes.

use super::cursor::{BadValue, Cursor, TOO_LONG};
pub use super::error::ReadError;
use super::numbers::{opcode, value_type};
use super::walker::Event;
use super::{Summary, Walker};

/// Chunks are read in pieces of this size.
const PIECE: usize = 64 << 10;
/// A key's name with the records before it, and records that are no keys (scripts, module data, functions), are held
/// whole. They may always have this size, or the size of a value if that is larger. Servers allow names of 512 MB.
pub const RECORD_MIN: usize = 64 << 20;

/// What a [`Sink`] gets in place of an opcode for the first bytes of the file: magic and version.
pub const HEADER: u8 = 0;

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It passes as raw bytes.
    Pass,
    /// It is handed out.
    Take,
    /// Nobody wants it.
    Drop,
}

/// A key that is handed out.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its database.
    pub db: u32,
    /// Its name.
    pub key: &'a [u8],
    /// When it expires, Unix milliseconds.
    pub expiry: Option<i64>,
    /// Its `IDLE`, `FREQ` and `KEY_META` records, unchanged.
    pub prefix: &'a [u8],
    /// `KEY_META` is among them.
    pub has_meta: bool,
    /// The RDB's type byte.
    pub kind: u8,
    /// The value, undecoded.
    pub payload: &'a [u8],
}

/// Who gets what is read.
pub trait Sink {
    /// Why it may want to stop.
    type Error;
    /// The magic, then each whole record that is not a key: opcode and bytes. The end opcode is the last. The checksum
    /// is not handed out.
    fn record(&mut self, opcode: u8, raw: &[u8]) -> Result<(), Self::Error>;
    /// May [`Self::fate`] be asked about several keys of one database, in any order, before it gets their values? Then
    /// a sink that looks up keys in memory need not wait for one before the next. If there is an error, some of them
    /// never come, and [`Self::over`] cannot tell which key it means.
    const AHEAD: bool = false;
    /// What to do with this key of this RDB type. Modules may have attached data to it.
    fn fate(&mut self, db: u32, key: &[u8], kind: u8, has_meta: bool) -> Fate;
    /// Raw bytes of keys that pass by, with all that belongs to them.
    fn pass(&mut self, raw: &[u8]) -> Result<(), Self::Error>;
    /// A key that was wanted.
    fn item(&mut self, item: Item<'_>) -> Result<(), Self::Error>;
    /// The key that [`Self::fate`] was asked about last (but see [`Self::AHEAD`]) has ended. Gives its expiry (Unix
    /// milliseconds), and its size in bytes with everything that belongs to it. Called for every fate.
    fn over(&mut self, _expiry: Option<i64>, _bytes: u64) {}
}

/// The reader.
///
/// ```text
///            first record of a key, or another record        its name is known
///  Between ───────────────────────────────────────▶ Head ──────────────────────▶ Passing │ Taking │ Dropping
///     ▲                                               │ next record                     │ next record
///     └───────────────────────────────────────────────┴──────────────────────────────────┘
/// ```
#[derive(Debug)]
pub struct Reader {
    walker: Walker,
    events: Vec<Event>,
    state: State,
    db: u32,
    /// The head of a key, or a record: what earlier chunks had of it.
    held: Vec<u8>,
    /// Where the head begins, in the RDB.
    head_at: u64,
    /// The first bytes of the records in it: the opcode, and its position in the head.
    marks: Vec<(u8, usize)>,
    /// The value of a key that is wanted.
    value: Vec<u8>,
    /// The expiry of a key whose value is being read.
    expiry: Option<Option<i64>>,
    limit: usize,
    record_limit: usize,
    /// The first byte that came after the end.
    trailing: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Magic,
    Head,
    Passing,
    Taking,
    Dropping,
    End,
}

/// What reading on comes to.
type Done<S> = Result<(), ReadError<<S as Sink>::Error>>;

/// One piece, how much of it has been handled, and its sink.
struct Piece<'a, S> {
    sink: &'a mut S,
    bytes: &'a [u8],
    /// Position of its first byte in the RDB.
    start: u64,
    /// Bytes before this index are dealt with.
    done: usize,
}

impl<'a, S: Sink> Piece<'a, S> {
    fn index(&self, at: u64) -> usize {
        let index = usize::try_from(at.saturating_sub(self.start)).unwrap_or(usize::MAX);
        index.min(self.bytes.len())
    }

    /// The bytes that are not dealt with, up to a position.
    fn upto(&mut self, at: u64) -> &'a [u8] {
        let end = self.index(at).max(self.done);
        let bytes = self.bytes.get(self.done..end).unwrap_or_default();
        self.done = end;
        bytes
    }
}

impl Reader {
    /// A reader at the first byte. A wanted value may take `limit` bytes; a name, too, or [`RECORD_MIN`].
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            walker: Walker::traced(),
            events: Vec::new(),
            state: State::Magic,
            db: 0,
            held: Vec::new(),
            head_at: 0,
            marks: Vec::new(),
            value: Vec::new(),
            expiry: None,
            limit,
            record_limit: limit.max(RECORD_MIN),
            trailing: None,
        }
    }

    /// The same, with names and other records of up to `limit` bytes.
    #[must_use]
    pub fn for_names(mut self, limit: usize) -> Self {
        self.record_limit = limit;
        self
    }

    /// Takes in the next bytes. Bytes after the end of the RDB are not read, and are an error of [`Self::finish`].
    ///
    /// # Errors
    /// [`ReadError`]; the reader is then of no more use.
    pub fn push<S: Sink>(&mut self, chunk: &[u8], sink: &mut S) -> Done<S> {
        for bytes in chunk.chunks(PIECE) {
            let start = self.walker.summary().bytes;
            let taken = self.walker.push(bytes)?;
            self.trailing = self.trailing.or(bytes.get(taken).copied());
            if let Some(unwalked) = &self.walker.summary().unwalked {
                return Err(ReadError::Unknown {
                    from: unwalked.from,
                    reason: unwalked.reason.clone(),
                });
            }
            let mut events = std::mem::take(&mut self.events);
            self.walker.take_events(&mut events);
            let mut piece = Piece {
                sink: &mut *sink,
                bytes: bytes.get(..taken).unwrap_or_default(),
                start,
                done: 0,
            };
            let asked = if S::AHEAD {
                self.ask_ahead(&events, &mut piece)
            } else {
                Vec::new()
            };
            let mut asked = asked.into_iter();
            for event in events.drain(..) {
                match event {
                    Event::Record { byte, at } => self.record(byte, at, &mut piece)?,
                    Event::Value { at } => self.value(at, asked.next().flatten(), &mut piece)?,
                }
            }
            self.events = events;
            let end = start.saturating_add(piece.bytes.len() as u64);
            self.absorb(end, &mut piece)?;
        }
        Ok(())
    }

    /// Is no key open of which a sink has got a part ([`Sink::pass`])?
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.state != State::Passing
    }

    /// A summary of what was read so far.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        self.walker.summary()
    }

    /// The first byte that came after the end of the RDB.
    #[must_use]
    pub fn trailing(&self) -> Option<u8> {
        self.trailing
    }

    /// Says that this was all.
    ///
    /// # Errors
    /// When the RDB is not at its end, or was before.
    pub fn finish<E>(&mut self) -> Result<&Summary, ReadError<E>> {
        self.walker.finish_opaque()?;
        let summary = self.walker.summary();
        if self.trailing.is_some() {
            return Err(ReadError::Trailing { at: summary.bytes });
        }
        Ok(summary)
    }

    /// A record begins, so the one before has ended.
    fn record<S: Sink>(&mut self, byte: u8, at: u64, piece: &mut Piece<'_, S>) -> Done<S> {
        if let Some(expiry) = self.expiry.take() {
            piece.sink.over(expiry, at.saturating_sub(self.head_at));
        }
        match self.state {
            // Nothing is done with passing bytes before the next wanted key, so that they stay in one run.
            State::Passing => {}
            State::Head if self.is_within_prefix() => {
                let offset = usize::try_from(at.saturating_sub(self.head_at)).unwrap_or(usize::MAX);
                if byte == opcode::EOF {
                    return Err(ReadError::Key {
                        at: self.head_at,
                        source: BadValue("the key that it should be before is not there"),
                    });
                }
                self.marks.push((byte, offset));
                return Ok(());
            }
            _ => self.over(at, piece)?,
        }
        self.begin_head(byte, at);
        self.state = State::Head;
        self.end_if_last(byte, at, piece)
    }

    fn begin_head(&mut self, byte: u8, at: u64) {
        self.head_at = at;
        self.marks.clear();
        self.marks.push((byte, 0));
    }

    /// Is the last record of the head one that belongs to a key to come?
    fn is_within_prefix(&self) -> bool {
        let last = self.marks.last();
        last.is_some_and(|(byte, _)| self.is_prefix(*byte))
    }

    /// Does such a record belong to the key after it?
    fn is_prefix(&self, opcode: u8) -> bool {
        match opcode {
            opcode::IDLE | opcode::FREQ | opcode::EXPIRETIME | opcode::EXPIRETIME_MS => true,
            opcode::KEY_META => self.walker.summary().family == super::Family::Redis,
            _ => false,
        }
    }

    fn has_meta(&self) -> bool {
        let mut marks = self.marks.iter();
        marks.any(|(opcode, _)| *opcode == opcode::KEY_META)
    }

    /// The fates of the keys whose values begin in this piece, in their order, up to the next database. None where it
    /// is too early to ask.
    fn ask_ahead<S: Sink>(&self, events: &[Event], piece: &mut Piece<'_, S>) -> Vec<Option<Fate>> {
        let at_hand = match self.state {
            State::Head => self.marks.last().map(|(opcode, _)| *opcode),
            _ => None,
        };
        if self.state == State::Magic || at_hand == Some(opcode::SELECTDB) {
            return Vec::new();
        }
        let mut fates = Vec::with_capacity(events.len() / 2);
        let mut last = None;
        let mut within = at_hand.is_some_and(|opcode| self.is_prefix(opcode));
        let mut has_meta = within && self.has_meta();
        for event in events {
            match event {
                Event::Record { byte, .. } if *byte == opcode::SELECTDB => break,
                Event::Record { byte, at } => {
                    has_meta = *byte == opcode::KEY_META || within && has_meta;
                    within = self.is_prefix(*byte);
                    last = Some((*byte, at.saturating_add(1)));
                }
                Event::Value { at } => fates.push(last.take().and_then(|(kind, name_at)| {
                    let name = piece.index(name_at)..piece.index(*at);
                    let name = piece.bytes.get(name).unwrap_or_default();
                    let key = Cursor::limited(name, self.record_limit).string().ok()?;
                    Some(piece.sink.fate(self.db, &key, kind, has_meta))
                })),
            }
        }
        fates
    }

    /// The end opcode is a record of one byte.
    fn end_if_last<S: Sink>(&mut self, byte: u8, at: u64, piece: &mut Piece<'_, S>) -> Done<S> {
        if byte != opcode::EOF {
            return Ok(());
        }
        self.deliver_passed(at, piece)?;
        piece.upto(at.saturating_add(1));
        self.state = State::End;
        piece.sink.record(byte, &[byte]).map_err(ReadError::Sink)
    }

    /// Bytes of keys that pass by, up to a position in this piece.
    fn deliver_passed<S: Sink>(&mut self, upto: u64, piece: &mut Piece<'_, S>) -> Done<S> {
        let bytes = piece.upto(upto);
        if bytes.is_empty() {
            return Ok(());
        }
        piece.sink.pass(bytes).map_err(ReadError::Sink)
    }

    /// The record before position `at` has ended, and it is not one that passes as raw bytes.
    fn over<S: Sink>(&mut self, at: u64, piece: &mut Piece<'_, S>) -> Done<S> {
        match self.state {
            State::Magic => {
                self.held.extend_from_slice(piece.upto(at));
                piece.sink.record(0, &self.held).map_err(ReadError::Sink)?;
            }
            State::Head => {
                // What passed by before it in this piece goes first.
                self.deliver_passed(self.head_at, piece)?;
                self.hold(piece.upto(at))?;
                self.other(piece.sink)?;
            }
            State::Taking => {
                self.take(piece.upto(at))?;
                self.hand_out(piece.sink)?;
            }
            State::Dropping => {
                piece.upto(at);
            }
            State::Passing | State::End => {}
        }
        self.held.clear();
        self.value.clear();
        Ok(())
    }

    /// A record that is no key.
    fn other<S: Sink>(&mut self, sink: &mut S) -> Done<S> {
        let opcode = self.held.first().copied().unwrap_or_default();
        if opcode == opcode::SELECTDB {
            let mut input = Cursor::new(self.held.get(1..).unwrap_or_default());
            let db = input.number().ok().and_then(|db| u32::try_from(db).ok());
            self.db = db.ok_or(ReadError::Key {
                at: self.head_at,
                source: BadValue("the number of a database is none"),
            })?;
        }
        sink.record(opcode, &self.held).map_err(ReadError::Sink)
    }

    /// A key's name is known: decide, unless that was done ahead.
    fn value<S: Sink>(
        &mut self,
        at: u64,
        asked: Option<Fate>,
        piece: &mut Piece<'_, S>,
    ) -> Done<S> {
        let (kind, type_at) = self.marks.last().copied().unwrap_or_default();
        let name_at = type_at.saturating_add(1);
        // In most cases the whole head is in this piece.
        let whole;
        let head: &[u8] = if self.held.is_empty() {
            whole = piece.index(self.head_at)..piece.index(at);
            piece.bytes.get(whole).unwrap_or_default()
        } else {
            let rest = piece.bytes.get(piece.done..piece.index(at));
            self.held.extend_from_slice(rest.unwrap_or_default());
            &self.held
        };
        let (at_head, limit) = (self.head_at, self.record_limit);
        let bad = |source| match source {
            TOO_LONG => ReadError::LongName { at: at_head, limit },
            source => ReadError::Key {
                at: at_head,
                source,
            },
        };
        let mut expiry = None;
        let ends = self.marks.iter().skip(1).map(|(_, end)| *end);
        for ((opcode, start), end) in self.marks.iter().zip(ends) {
            let raw = head.get(*start..end).unwrap_or_default();
            expiry = expiry_of(*opcode, raw).map_err(bad)?.or(expiry);
        }
        self.expiry = Some(expiry);
        let fate = match asked {
            Some(fate) => fate,
            None => {
                let name = head.get(name_at..).unwrap_or_default();
                let key = Cursor::limited(name, limit).string().map_err(bad)?;
                piece.sink.fate(self.db, &key, kind, self.has_meta())
            }
        };
        match fate {
            Fate::Pass => {
                if !self.held.is_empty() {
                    piece.sink.pass(&self.held).map_err(ReadError::Sink)?;
                    self.held.clear();
                    piece.upto(at);
                }
                self.state = State::Passing;
            }
            Fate::Take | Fate::Drop => {
                if self.held.is_empty() {
                    let head = head.to_vec();
                    self.deliver_passed(self.head_at, piece)?;
                    self.held = head;
                }
                piece.upto(at);
                self.state = if fate == Fate::Take {
                    State::Taking
                } else {
                    State::Dropping
                };
            }
        }
        Ok(())
    }

    /// The piece has ended.
    fn absorb<S: Sink>(&mut self, end: u64, piece: &mut Piece<'_, S>) -> Done<S> {
        match self.state {
            State::Magic => self.held.extend_from_slice(piece.upto(end)),
            State::Head => {
                self.deliver_passed(self.head_at, piece)?;
                self.hold(piece.upto(end))?;
            }
            State::Passing => self.deliver_passed(end, piece)?,
            State::Taking => self.take(piece.upto(end))?,
            State::Dropping | State::End => {
                piece.upto(end);
            }
        }
        Ok(())
    }

    fn hold<E>(&mut self, bytes: &[u8]) -> Result<(), ReadError<E>> {
        self.held.extend_from_slice(bytes);
        let (at, limit) = (self.head_at, self.record_limit);
        if self.held.len() <= limit {
            return Ok(());
        }
        Err(ReadError::LongName { at, limit })
    }

    fn take<E>(&mut self, bytes: &[u8]) -> Result<(), ReadError<E>> {
        self.value.extend_from_slice(bytes);
        let (at, limit) = (self.head_at, self.limit);
        if self.value.len() <= limit {
            return Ok(());
        }
        Err(ReadError::TooLong { at, limit })
    }

    /// A wanted key is complete.
    fn hand_out<S: Sink>(&mut self, sink: &mut S) -> Done<S> {
        let bad = |source| ReadError::Key {
            at: self.head_at,
            source,
        };
        let mut expiry = None;
        let mut prefix = Vec::new();
        let mut has_meta = false;
        let ends = self.marks.iter().skip(1).map(|(_, end)| *end);
        for ((opcode, start), end) in self.marks.iter().zip(ends) {
            let raw = self.held.get(*start..end).unwrap_or_default();
            if let Some(at) = expiry_of(*opcode, raw).map_err(bad)? {
                expiry = Some(at);
            } else {
                has_meta |= *opcode == opcode::KEY_META;
                prefix.extend_from_slice(raw);
            }
        }
        let Some((kind, type_at)) = self.marks.last().copied() else {
            return Err(bad(BadValue("it has no type")));
        };
        debug_assert!(kind <= value_type::LAST);
        let name = self.held.get(type_at.saturating_add(1)..);
        let mut input = Cursor::new(name.unwrap_or_default());
        let key = input.string().map_err(bad)?;
        let item = Item {
            db: self.db,
            key: &key,
            expiry,
            prefix: &prefix,
            has_meta,
            kind,
            payload: &self.value,
        };
        sink.item(item).map_err(ReadError::Sink)
    }
}

/// The expiry in a record before a key, Unix milliseconds. None: the record is about something else.
fn expiry_of(opcode: u8, raw: &[u8]) -> Result<Option<i64>, BadValue> {
    let mut input = Cursor::new(raw.get(1..).unwrap_or_default());
    Ok(match opcode {
        opcode::EXPIRETIME_MS => Some(input.i64_le()?),
        opcode::EXPIRETIME => {
            let seconds = i32::from_le_bytes(input.array()?);
            Some(i64::from(seconds).saturating_mul(1000))
        }
        _ => None,
    })
}

/// The name and value of an `AUX` record, as handed out by [`Sink::record`].
///
/// # Errors
/// When it is none.
pub fn aux(raw: &[u8]) -> Result<(Vec<u8>, Vec<u8>), BadValue> {
    let mut input = Cursor::new(raw);
    if input.byte()? != opcode::AUX {
        return Err(BadValue("it is no opcode::AUX field"));
    }
    let name = input.string()?.into_owned();
    let value = input.string()?.into_owned();
    input.finish()?;
    Ok((name, value))
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
