//! Hashes: fields, their values, and when fields expire.
//!
//! As with keys, a field whose time has passed stays until the feed deletes it (PROTOCOL.md C.5).

mod codec;
mod commands;

use std::collections::HashMap;
use std::collections::hash_map;

use super::Blob;
use super::value::Dialect;
use crate::wire::rdb::Family;

pub(super) use commands::COMMANDS;

/// What is counted for a field beside its bytes and those of its value.
const FIELD_OVERHEAD: usize = 100;
/// The first RDB version of Redis that has fields which expire.
const FIRST_WITH_EXPIRIES: u32 = 12;

/// A hash.
#[derive(Clone, Debug, Default)]
pub struct Hash {
    fields: HashMap<Blob, Field>,
    /// Fields after another one of the same name, in their order. No command makes such fields, but servers up to Redis
    /// 8.6 and Valkey 8.1 load them, and use the first one of a name.
    hidden: Vec<(Blob, Field)>,
    /// How many fields were ever added. This is the place of the next one.
    added: u64,
    /// Bytes of memory, roughly.
    weight: usize,
}

/// What belongs to a field.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Field {
    value: Blob,
    /// When it expires, Unix milliseconds.
    expiry: Option<i64>,
    /// Servers keep the fields of small hashes in the order in which they came, and return them in that order.
    place: u64,
}

/// What happens to the expiry of a field that is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expiry {
    /// It does not change.
    Keep,
    /// It becomes this one, or none.
    Set(Option<i64>),
}

impl Hash {
    /// The value of a field.
    #[must_use]
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        self.fields.get(field).map(|field| &*field.value)
    }

    /// How many fields it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len().saturating_add(self.hidden.len())
    }

    /// Are there none?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Can a snapshot of this dialect hold fields that expire?
    fn may_expire(dialect: Dialect) -> bool {
        match dialect.family {
            Family::Valkey => true, // Its own RDB versions begin with them.
            Family::Redis => dialect.version >= FIRST_WITH_EXPIRIES,
        }
    }

    fn set(&mut self, field: &[u8], value: &[u8], expiry: Expiry) {
        if let Some(there) = self.fields.get_mut(field) {
            self.weight = self.weight.saturating_sub(there.value.len());
            there.value = value.into();
            if let Expiry::Set(expiry) = expiry {
                there.expiry = expiry;
            }
        } else {
            let expiry = match expiry {
                Expiry::Keep => None,
                Expiry::Set(expiry) => expiry,
            };
            let new = self.new_field(value, expiry);
            self.fields.insert(field.into(), new);
            self.weight = self.weight.saturating_add(weight_of_field(field));
        }
        self.weight = self.weight.saturating_add(value.len());
    }

    /// Is a field there twice?
    fn has_hidden(&self) -> bool {
        !self.hidden.is_empty()
    }

    fn new_field(&mut self, value: &[u8], expiry: Option<i64>) -> Field {
        let place = self.added;
        self.added = place.saturating_add(1);
        Field {
            value: value.into(),
            expiry,
            place,
        }
    }

    /// One more field of a name that is there already.
    fn hide(&mut self, field: &[u8], value: &[u8]) {
        let new = self.new_field(value, None);
        self.hidden.push((field.into(), new));
        let bytes = weight_of_field(field).saturating_add(value.len());
        self.weight = self.weight.saturating_add(bytes);
    }

    /// Takes out the first field of this name. Behind it there may be another one.
    fn remove(&mut self, field: &[u8]) {
        if let Some(old) = self.fields.remove(field) {
            let bytes = weight_of_field(field).saturating_add(old.value.len());
            self.weight = self.weight.saturating_sub(bytes);
            let next = self.hidden.iter().position(|(name, _)| **name == *field);
            if let Some(next) = next {
                let (name, next) = self.hidden.remove(next);
                self.fields.insert(name, next);
            }
        }
    }

    /// The expiry of a field that is there, to be changed.
    fn expiry_mut(&mut self, field: &[u8]) -> Option<&mut Option<i64>> {
        self.fields.get_mut(field).map(|field| &mut field.expiry)
    }

    fn has(&self, field: &[u8]) -> bool {
        self.fields.contains_key(field)
    }

    /// The fields in the order in which they came.
    fn in_order(&self) -> Vec<(&Blob, &Field)> {
        let hidden = self.hidden.iter().map(|(name, field)| (name, field));
        let mut fields: Vec<_> = self.fields.iter().chain(hidden).collect();
        fields.sort_unstable_by_key(|(_, field)| field.place);
        fields
    }

    #[cfg(test)]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Blob, &Blob)> {
        let fields = self.fields.iter();
        fields.map(|(name, field)| (name, &field.value))
    }

    fn values(&self) -> hash_map::Values<'_, Blob, Field> {
        self.fields.values()
    }
}

fn weight_of_field(field: &[u8]) -> usize {
    field.len().saturating_add(FIELD_OVERHEAD)
}

#[cfg(test)]
#[path = "hashes_tests.rs"]
#[allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used
)]
mod tests;
