//! Strings.

use super::args::Args;
use super::error::ApplyError;
use super::keys::Keys;
use super::table::Spec;
use super::value::{DataType, Dialect, Raw, Value};
use super::{Blob, Entry, Keyspace};
use crate::rdb::cursor::{BadValue, Cursor, put_string};

/// The RDB type of strings.
const TYPE: u8 = 0;

pub(super) const COMMANDS: &[Spec] = &[
    Spec::new("SETNX", Keys::At(&[1]), setnx),
    Spec::new("MSET", Keys::From { first: 1, step: 2 }, mset),
    Spec::new("APPEND", Keys::At(&[1]), append),
];

/// A string.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Text(pub Vec<u8>);

impl DataType for Text {
    fn decode(raw: &Raw, _: Dialect) -> Option<Result<Self, BadValue>> {
        if raw.kind != TYPE {
            return None;
        }
        let mut input = Cursor::new(&raw.payload);
        let decoded = input.string().and_then(|text| {
            input.finish()?;
            Ok(Self(text.into_owned()))
        });
        Some(decoded)
    }

    fn encode(&self, _: Dialect, out: &mut Vec<u8>) -> u8 {
        put_string(out, &self.0);
        TYPE
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Text(self)
    }

    /// A string without bytes is a value like any other.
    fn is_empty(&self) -> bool {
        false
    }

    fn weight(&self) -> usize {
        self.0.len()
    }
}

/// `SETNX key value`: it was not there on the master.
fn setnx(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    if space.entry(args.get(1)?)?.is_some() {
        return Err(args.diverged("the key is there already"));
    }
    space.put(args, args.get(1)?, Text(args.get(2)?.to_vec()).into_value())
}

/// `MSET key value …`: expiries go.
fn mset(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    for (key, value) in args.pairs(1)? {
        space.put(args, key, Text(value.to_vec()).into_value())?;
    }
    Ok(())
}

/// `APPEND key value`: the expiry stays.
fn append(space: &mut Keyspace, args: &Args) -> Result<(), ApplyError> {
    let text: &mut Text = space.value_or_new(args, args.get(1)?)?;
    text.0.extend_from_slice(args.get(2)?);
    Ok(())
}
