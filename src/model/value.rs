//! A value: undecoded bytes until a command looks into it.

use super::{Blob, Hash, List, Set, Stream, Text, Zset};
use crate::wire::rdb::Family;
use crate::wire::rdb::cursor::BadValue;

/// How values are written: by whom, and up to which RDB version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Whose RDB it is.
    pub family: Family,
    /// Its version.
    pub version: u32,
}

/// A value as an RDB holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    /// The RDB's type byte.
    pub kind: u8,
    /// What follows the key's name.
    pub payload: Blob,
}

/// A value of one of the built-in data types. Encode and decode of a type live in its file.
pub trait DataType: Default {
    /// Reads a value of one of this type's RDB types. None if `raw` is of another data type.
    ///
    /// # Errors
    /// When the payload is not as its type says.
    fn decode(raw: &Raw, dialect: Dialect) -> Option<Result<Self, BadValue>>;

    /// Appends the payload, in an encoding that every server which loads `dialect` loads, and gives its RDB type.
    fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> u8;

    /// The value, if it is of this type.
    fn of(value: &mut Value) -> Option<&mut Self>;

    /// The other way.
    fn into_value(self) -> Value;

    /// Would a server delete the key?
    fn is_empty(&self) -> bool;

    /// About how many bytes of memory it takes. Must be cheap.
    fn weight(&self) -> usize;
}

/// The value of a key.
#[derive(Clone, Debug)]
pub enum Value {
    /// Not decoded.
    Raw(Raw),
    /// A string.
    Text(Text),
    /// A list.
    List(Box<List>),
    /// A set.
    Set(Box<Set>),
    /// A sorted set.
    Zset(Box<Zset>),
    /// A hash.
    Hash(Box<Hash>),
    /// A stream.
    Stream(Box<Stream>),
}

impl Raw {
    /// Decodes it.
    ///
    /// # Errors
    /// When it is damaged, or of a type that we cannot look into.
    pub fn decode(&self, dialect: Dialect) -> Result<Value, BadValue> {
        fn value<T: DataType>(raw: &Raw, dialect: Dialect) -> Option<Result<Value, BadValue>> {
            Some(T::decode(raw, dialect)?.map(DataType::into_value))
        }
        value::<Text>(self, dialect)
            .or_else(|| value::<List>(self, dialect))
            .or_else(|| value::<Set>(self, dialect))
            .or_else(|| value::<Zset>(self, dialect))
            .or_else(|| value::<Hash>(self, dialect))
            .or_else(|| value::<Stream>(self, dialect))
            .unwrap_or(Err(BadValue("its type is one that only a module can read")))
    }
}

impl Value {
    /// Is it an aggregate without elements?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Raw(_) => false,
            Self::Text(value) => value.is_empty(),
            Self::List(value) => value.is_empty(),
            Self::Set(value) => value.is_empty(),
            Self::Zset(value) => value.is_empty(),
            Self::Hash(value) => value.is_empty(),
            Self::Stream(value) => value.is_empty(),
        }
    }

    /// About how many bytes of memory it takes.
    #[must_use]
    pub fn weight(&self) -> usize {
        match self {
            Self::Raw(raw) => raw.payload.len(),
            Self::Text(value) => value.weight(),
            Self::List(value) => value.weight(),
            Self::Set(value) => value.weight(),
            Self::Zset(value) => value.weight(),
            Self::Hash(value) => value.weight(),
            Self::Stream(value) => value.weight(),
        }
    }

    /// Appends the payload and gives its RDB type.
    pub fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Raw(raw) => {
                out.extend_from_slice(&raw.payload);
                raw.kind
            }
            Self::Text(value) => value.encode(dialect, out),
            Self::List(value) => value.encode(dialect, out),
            Self::Set(value) => value.encode(dialect, out),
            Self::Zset(value) => value.encode(dialect, out),
            Self::Hash(value) => value.encode(dialect, out),
            Self::Stream(value) => value.encode(dialect, out),
        }
    }
}
