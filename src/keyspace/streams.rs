//! Streams.

use super::table::Spec;
use super::value::{DataType, Dialect, Raw, Value};
use crate::rdb::cursor::BadValue;

pub(super) const COMMANDS: &[Spec] = &[];

/// Streams.
#[derive(Clone, Debug, Default)]
pub struct Stream {}

impl DataType for Stream {
    fn decode(_raw: &Raw, _dialect: Dialect) -> Option<Result<Self, BadValue>> {
        None
    }

    fn encode(&self, _dialect: Dialect, _out: &mut Vec<u8>) -> u8 {
        0
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Stream(value) => Some(value),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Stream(Box::new(self))
    }

    fn is_empty(&self) -> bool {
        true
    }

    fn weight(&self) -> usize {
        0
    }
}
