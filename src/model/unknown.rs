//! Keys whose value is no longer known: a command that could not be applied has changed them. Other keys are not
//! affected, unless a command reads such a key to write them.
//!
//! ```text
//!            a command fails, which is to change the key                overwritten, deleted, flushed
//!   known ────────────────────────────────────────────▶ unknown since ────────────────────────────────▶ known
//! ```

use super::args::Args;
use super::command::Spec;
use super::error::ApplyError;
use super::key_specs::{Keys, Touch};
use super::{Blob, Keyspace};
use crate::wire::position::Offset;

/// Why a key's value is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unknown {
    /// The offset before the command that could not be applied.
    pub since: Offset,
    /// Why not.
    pub why: ApplyError,
}

/// Commands that write the key at one argument, and only read the others that they name.
const WRITES_ONE: [(&str, usize); 14] = [
    ("SUNIONSTORE", 1),
    ("SINTERSTORE", 1),
    ("SDIFFSTORE", 1),
    ("ZUNIONSTORE", 1),
    ("ZINTERSTORE", 1),
    ("ZDIFFSTORE", 1),
    ("ZRANGESTORE", 1),
    ("GEOSEARCHSTORE", 1),
    ("PFMERGE", 1),
    ("BITOP", 2),
    ("COPY", 2),
    ("PFCOUNT", 1),
    ("RENAME", 2),
    ("RENAMENX", 2),
];

impl Spec {
    /// Is it one that cannot be applied, but whose keys are known?
    pub(crate) fn loses_keys(&self) -> bool {
        matches!(self.support, super::Support::Refused(_)) && !matches!(self.keys, Keys::None)
    }

    /// Hands out what it may write: the database, unless it is the selected one, and the key.
    pub(super) fn writes(
        &self,
        args: &Args,
        write: &mut dyn FnMut(Option<u32>, &[u8]),
    ) -> Result<(), ApplyError> {
        let one = WRITES_ONE.iter().find(|(name, _)| *name == self.name);
        let only = one.and_then(|(_, at)| args.get(*at).ok());
        let may = |key: &[u8]| only.is_none_or(|only| only == key);
        self.keys.of(args, &mut |touch| match touch {
            // The key is no longer in its old database.
            Touch::Key(_) if self.name == "MOVE" => {}
            Touch::Key(key) | Touch::Overwritten(key) if may(key) => write(None, key),
            Touch::In(db, key) if may(key) => write(Some(db), key),
            // Patterns are read.
            _ => {}
        })
    }

    /// The key that is certainly gone, because the command succeeded on the master, whatever it has moved.
    pub(super) fn moves_away<'a>(&self, args: &Args<'a>) -> Option<&'a [u8]> {
        let from = args.get(1).ok()?;
        match self.name {
            "MOVE" => Some(from),
            "RENAME" | "RENAMENX" => Some(from).filter(|from| args.get(2) != Ok(*from)),
            _ => None,
        }
    }
}

impl Keyspace {
    /// The position of the command that is applied next: the offset before it.
    pub fn stands_at(&mut self, offset: Offset) {
        self.at = offset;
    }

    /// A command failed: the values that it should write are not known from here on. If this cannot be said of single
    /// keys, it is still an error.
    pub(super) fn lose(
        &mut self,
        spec: &Spec,
        args: &Args,
        why: ApplyError,
    ) -> Result<(), ApplyError> {
        let is_of_keys = match &why {
            ApplyError::Unmodelled { .. }
            | ApplyError::Damaged { .. }
            | ApplyError::Unknown { .. } => true,
            ApplyError::Diverged { .. } => self.is_lenient,
            ApplyError::TooMany | ApplyError::NotCollected { .. } => false,
        };
        if !is_of_keys {
            return Err(why);
        }
        // One that was lost by another is lost for the same reason.
        let unknown = match &why {
            ApplyError::Unknown { since, why, .. } => Unknown {
                since: *since,
                why: (**why).clone(),
            },
            _ => Unknown {
                since: self.at,
                why: why.clone(),
            },
        };
        let mut written: Vec<(u32, Blob)> = Vec::new();
        let selected = self.selected;
        spec.writes(args, &mut |db, key| {
            written.push((db.unwrap_or(selected), key.into()));
        })?;
        if written.is_empty() {
            return Err(why);
        }
        if let Some(from) = spec.moves_away(args) {
            self.alone
                .retain(|alone| alone.db != selected || *alone.key != *from);
            *self.slot_or_unread(selected, from, true)? = None;
        }
        for (db, key) in written {
            self.alone
                .retain(|alone| alone.db != db || alone.key != key);
            // What it was lost for first stays the reason.
            let before = self.unknown(db, &key).cloned();
            // It is collected, as nothing else can be touched.
            *self.slot_or_unread(db, &key, true)? = None;
            self.charge(key.len().saturating_add(super::OVERHEAD));
            if let Some(of) = self.dbs.get_mut(&db)
                && let Some(number) = of.names.find(&key)
            {
                let unknown = before.unwrap_or_else(|| unknown.clone());
                of.unknown.insert(number, unknown);
            }
        }
        Ok(())
    }

    /// Is the value of every key known?
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.dbs.values().all(|db| db.unknown.is_empty())
    }

    /// The keys whose value is not known, by database. This includes those that [`Self::apply_passing`] has handed out.
    pub fn unknowns(&self) -> impl Iterator<Item = (u32, &[u8], &Unknown)> {
        self.dbs.iter().flat_map(|(number, db)| {
            let named = db.names.iter().enumerate().filter_map(|(at, name)| {
                let of = db.unknown.get(&u32::try_from(at).ok()?)?;
                Some((*number, name, of))
            });
            // Mostly there are none, and the names are many.
            (!db.unknown.is_empty())
                .then_some(named)
                .into_iter()
                .flatten()
        })
    }

    /// Why the value of a key that was collected is not known. None: it is known, or there is no such key.
    #[must_use]
    pub fn unknown(&self, db: u32, key: &[u8]) -> Option<&Unknown> {
        let db = self.dbs.get(&db)?;
        db.unknown.get(&db.names.find(key)?)
    }
}

#[cfg(test)]
#[path = "unknown_tests.rs"]
mod tests;
