//! The arguments of a command, and how servers read them.

use super::error::ApplyError;
use crate::wire::rdb::cursor::{BadValue, canonical_i64};

/// Two arguments that belong together.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// A command with its arguments. The first is its name.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    argv: &'a [&'a [u8]],
}

impl<'a> Args<'a> {
    /// The arguments of a command of the feed.
    #[must_use]
    pub fn new(argv: &'a [&'a [u8]]) -> Self {
        Self { argv }
    }

    /// How many, the name included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.argv.len()
    }

    /// Is there not even a name?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.argv.is_empty()
    }

    /// The command's name as it was sent.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.argv.first().copied().unwrap_or_default()
    }

    /// Argument `index` (the name is 0).
    ///
    /// # Errors
    /// When there are fewer.
    pub fn get(&self, index: usize) -> Result<&'a [u8], ApplyError> {
        self.argv
            .get(index)
            .copied()
            .ok_or_else(|| self.diverged("it has too few arguments"))
    }

    /// The arguments from `index` on. None if there are fewer.
    #[must_use]
    pub fn from(&self, index: usize) -> &'a [&'a [u8]] {
        self.argv.get(index..).unwrap_or_default()
    }

    /// Is argument `index` this word, in any case?
    #[must_use]
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.argv.get(index).is_some_and(|arg| is_word(arg, word))
    }

    /// Argument `index` as an integer, as servers read one.
    ///
    /// # Errors
    /// When it is none.
    pub fn int(&self, index: usize) -> Result<i64, ApplyError> {
        self.parse_int(self.get(index)?)
    }

    /// The same of an argument that was taken out already.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse_int(&self, arg: &[u8]) -> Result<i64, ApplyError> {
        canonical_i64(arg).ok_or_else(|| self.diverged("an argument is no integer"))
    }

    /// Argument `index` as a count: an integer that is not negative.
    ///
    /// # Errors
    /// When it is none.
    pub fn count(&self, index: usize) -> Result<usize, ApplyError> {
        usize::try_from(self.int(index)?).map_err(|_| self.diverged("a count is negative"))
    }

    /// Argument `index` as the number of a database.
    ///
    /// # Errors
    /// When it is none.
    pub fn db(&self, index: usize) -> Result<u32, ApplyError> {
        u32::try_from(self.int(index)?).map_err(|_| self.diverged("there is no such database"))
    }

    /// Fields and values, members and scores, keys and values: two by two from `index` on.
    ///
    /// # Errors
    /// When one is left over.
    pub fn pairs(
        &self,
        index: usize,
    ) -> Result<impl Iterator<Item = Pair<'a>> + use<'a>, ApplyError> {
        let pairs = self.from(index).chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(self.diverged("an argument is left over"));
        }
        Ok(pairs.filter_map(|pair| match pair {
            [a, b] => Some((*a, *b)),
            _ => None,
        }))
    }

    // --- Errors -----------------------------------------------------------------------------------------------------

    /// It cannot have succeeded on the master.
    #[must_use]
    pub fn diverged(&self, why: &'static str) -> ApplyError {
        ApplyError::Diverged {
            command: self.shown(),
            why,
        }
    }

    /// It is not modelled.
    #[must_use]
    pub fn unmodelled(&self, why: &'static str) -> ApplyError {
        ApplyError::Unmodelled {
            command: self.shown(),
            why,
        }
    }

    /// A value in the snapshot is damaged.
    #[must_use]
    pub fn damaged(&self, key: &[u8], source: BadValue) -> ApplyError {
        ApplyError::Damaged {
            command: self.shown(),
            key: key.into(),
            source,
        }
    }

    /// Its name in a form for messages: a client can send anything as a name.
    fn shown(&self) -> String {
        const LONGEST: usize = 40;
        let name = self.name();
        let name = name.get(..LONGEST).unwrap_or(name);
        name.to_ascii_uppercase().escape_ascii().to_string()
    }
}

/// Is it this word, in any case?
pub(super) fn is_word(arg: &[u8], word: &str) -> bool {
    arg.eq_ignore_ascii_case(word.as_bytes())
}
