//! Function libraries: the source texts that a server of 7.0 or later keeps beside its keys.
//!
//! They are not keys. [`super::Footprint::functions`] collects the `FUNCTION` commands of a log, and [`Libraries`]
//! applies them to the libraries of the snapshot.

use std::collections::BTreeMap;

use super::Blob;
use super::args::Args;
use super::command::Spec;
use super::error::ApplyError;
use super::payload::Payload;
use crate::wire::rdb::cursor::{BadValue, Cursor};
use crate::wire::rdb::numbers::opcode;

pub(super) const COMMANDS: &[Spec] = &[Spec::ignored("FUNCTION")];

/// The libraries of a server, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Libraries {
    sources: BTreeMap<Blob, Blob>,
}

impl Libraries {
    /// None.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a library of the snapshot: the source text of a `FUNCTION2` record.
    ///
    /// # Errors
    /// When it has no name, or that of another one.
    pub fn load(&mut self, source: &[u8]) -> Result<(), BadValue> {
        match self.put(source)? {
            None => Ok(()),
            Some(_) => Err(BadValue("there are two function libraries of one name")),
        }
    }

    /// Applies a `FUNCTION …` command that [`super::Footprint::functions`] returned.
    ///
    /// # Errors
    /// [`ApplyError`], when it cannot be applied as the server did it.
    pub fn apply(&mut self, command: &[Blob]) -> Result<(), ApplyError> {
        let argv: Vec<&[u8]> = command.iter().map(|arg| &**arg).collect();
        let args = Args::new(&argv);
        if args.is_word(1, "LOAD") {
            let replaces = args.is_word(2, "REPLACE");
            self.add(&args, args.get(if replaces { 3 } else { 2 })?, replaces)
        } else if args.is_word(1, "DELETE") {
            match self.sources.remove(args.get(2)?) {
                Some(_) => Ok(()),
                None => Err(args.diverged("there is no such library")),
            }
        } else if args.is_word(1, "FLUSH") {
            self.sources.clear();
            Ok(())
        } else if args.is_word(1, "RESTORE") {
            self.restore(&args)
        } else {
            Err(args.unmodelled("what it does is not known"))
        }
    }

    /// The source texts, in the order in which they are written.
    pub fn sources(&self) -> impl Iterator<Item = &[u8]> {
        self.sources.values().map(|source| &**source)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Is there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    fn put(&mut self, source: &[u8]) -> Result<Option<Blob>, BadValue> {
        Ok(self.sources.insert(name_of(source)?, source.into()))
    }

    fn add(&mut self, args: &Args, source: &[u8], replaces: bool) -> Result<(), ApplyError> {
        let unnamed = |_| args.diverged("the library has no name that a server would take");
        match self.put(source).map_err(unnamed)? {
            Some(_) if !replaces => Err(args.diverged("there is such a library already")),
            _ => Ok(()),
        }
    }

    /// `FUNCTION RESTORE payload [FLUSH | APPEND | REPLACE]`.
    fn restore(&mut self, args: &Args) -> Result<(), ApplyError> {
        let replaces = args.is_word(3, "REPLACE");
        let flushes = args.is_word(3, "FLUSH");
        if args.len() > 3 && !replaces && !flushes && !args.is_word(3, "APPEND") {
            return Err(args.unmodelled("its policy is not known"));
        }
        let bad = |_| args.unmodelled("its payload cannot be read");
        let mut added = Self::new();
        let mut input = Cursor::new(Payload::open(args.get(2)?).map_err(bad)?.body);
        while !input.rest().is_empty() {
            if input.byte().map_err(bad)? != opcode::FUNCTION2 {
                return Err(args.unmodelled("its payload holds something else than libraries"));
            }
            let source = input.string().map_err(bad)?;
            added.load(&source).map_err(bad)?;
        }
        if flushes {
            self.sources.clear();
        }
        for source in added.sources() {
            self.add(args, source, replaces)?;
        }
        Ok(())
    }
}

/// The name in a library's first line, as servers read it: `#!<engine> name=<name>`.
fn name_of(source: &[u8]) -> Result<Blob, BadValue> {
    const BAD: BadValue = BadValue("a function library has no valid first line");
    let end = source.iter().position(|byte| *byte == b'\n').ok_or(BAD)?;
    let line = source.get(..end).unwrap_or_default();
    if !line.starts_with(b"#!") || line.contains(&0) {
        return Err(BAD);
    }
    let words = words(line).ok_or(BAD)?;
    // The first one is the engine.
    let [_, argument] = words.as_slice() else {
        return Err(BAD);
    };
    match argument.split_at_checked(5) {
        Some((key, name))
            if key.eq_ignore_ascii_case(b"name=")
                && !name.is_empty()
                && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_') =>
        {
            Ok(name.into())
        }
        _ => Err(BAD),
    }
}

/// The words of a line. A part in quotes ends a word, and may hold blanks. None if a quote is not closed, or closed
/// within a word.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(|byte| is_blank(*byte)).is_some() {}
        if rest.peek().is_none() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(byte) = rest.next() {
            match byte {
                b' ' | b'\n' | b'\r' | b'\t' => break,
                b'"' | b'\'' => {
                    word.extend(quoted(byte, &mut rest)?);
                    break;
                }
                byte => word.push(byte),
            }
        }
        words.push(word);
    }
}

/// Like C's `isspace`.
fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0B
}

/// The text up to the closing quote, which ends the word.
fn quoted(
    quote: u8,
    rest: &mut std::iter::Peekable<impl Iterator<Item = u8> + Clone>,
) -> Option<Vec<u8>> {
    let mut word = Vec::new();
    loop {
        match rest.next()? {
            b'\\' if quote == b'"' => word.push(escaped(rest)?),
            b'\\' => word.push(rest.next_if_eq(&b'\'').unwrap_or(b'\\')),
            byte if byte == quote => break,
            byte => word.push(byte),
        }
    }
    rest.peek()
        .is_none_or(|byte| is_blank(*byte))
        .then_some(word)
}

/// The byte that an escape (after a backslash) means.
fn escaped(rest: &mut std::iter::Peekable<impl Iterator<Item = u8> + Clone>) -> Option<u8> {
    let byte = rest.next()?;
    if byte == b'x' {
        let mut ahead = rest.clone();
        let mut digit = || char::from(ahead.next()?).to_digit(16);
        if let (Some(high), Some(low)) = (digit(), digit()) {
            rest.nth(1);
            return u8::try_from(high << 4 | low).ok();
        }
    }
    Some(match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        byte => byte,
    })
}

#[cfg(test)]
#[path = "functions_tests.rs"]
mod tests;
