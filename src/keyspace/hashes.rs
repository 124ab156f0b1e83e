//! Hashes.

use super::table::Spec;
use super::value::{DataType, Dialect, Raw, Value};
use crate::rdb::cursor::BadValue;

pub(super) const COMMANDS: &[Spec] = &[];

/// Hashes.
#[derive(Clone, Debug, Default)]
pub struct Hash {}

impl Hash {
    /// The value of a field.
    #[must_use]
    pub fn get(&self, _field: &[u8]) -> Option<&[u8]> {
        None
    }
}

impl DataType for Hash {
    fn decode(_raw: &Raw, _dialect: Dialect) -> Option<Result<Self, BadValue>> {
        None
    }

    fn encode(&self, _dialect: Dialect, _out: &mut Vec<u8>) -> u8 {
        0
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Hash(value) => Some(value),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Hash(self)
    }

    fn is_empty(&self) -> bool {
        true
    }

    fn weight(&self) -> usize {
        0
    }
}
