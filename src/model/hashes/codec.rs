//! Hashes in an RDB (PROTOCOL.md D.5).

use std::borrow::Cow;

use super::super::value::{DataType, Dialect, Raw, Value};
use super::{Expiry, Hash};
use crate::wire::rdb::Family;
use crate::wire::rdb::cursor::{BadValue, Cursor, put_number, put_string};
use crate::wire::rdb::numbers::value_type;
use crate::wire::rdb::packed::{Element, ListpackWriter, listpack, ziplist, zipmap};

/// The first RDB version with listpacks.
const FIRST_WITH_LISTPACKS: u32 = 10;
/// The servers' limits for a listpack: this many fields, and no longer field or value.
const LISTPACK_FIELDS: usize = 128;
const LISTPACK_BYTES: usize = 64;
/// The last expiry that Redis can hold.
const REDIS_LAST: i64 = 0xFFFF_FFFF_FFFF;
/// How Valkey says that there is none.
const VALKEY_NONE: i64 = -1;

const TWICE: BadValue = BadValue("a field is there twice");
const TIME: BadValue = BadValue("a field's expiry is no time");

impl DataType for Hash {
    fn decode(raw: &Raw, dialect: Dialect) -> Option<Result<Self, BadValue>> {
        let input = Cursor::new(&raw.payload);
        if matches!(
            raw.kind,
            value_type::VALKEY_HASH_2..=value_type::HASH_LISTPACK_EX
        ) && !Self::may_expire(dialect)
        {
            return Some(Err(BadValue(
                "a field of a hash expires, which this RDB version does not know",
            )));
        }
        Some(match (raw.kind, dialect.family) {
            (value_type::HASH, _) => read_plain(input),
            (value_type::HASH_ZIPMAP, _) => read_zipmap(input),
            (value_type::HASH_ZIPLIST, _) => {
                read_blob(input, |blob| from_elements(&ziplist(blob)?))
            }
            (value_type::HASH_LISTPACK, _) => {
                read_blob(input, |blob| from_elements(&listpack(blob)?))
            }
            (value_type::VALKEY_HASH_2, Family::Valkey) => read_each(input, |input| {
                let (field, value) = (input.string()?, input.string()?);
                Ok((field, value, valkey_expiry(input.i64_le()?)?))
            }),
            (value_type::HASH_METADATA_PRE_GA, Family::Redis) => read_each(input, |input| {
                let expiry = redis_expiry(i64::try_from(input.number()?).map_err(|_| TIME)?)?;
                Ok((input.string()?, input.string()?, expiry))
            }),
            (value_type::HASH_LISTPACK_EX_PRE_GA, Family::Redis) => {
                read_blob(input, |blob| from_triplets(&listpack(blob)?))
            }
            (value_type::HASH_METADATA, Family::Redis) => read_expiries(input),
            (value_type::HASH_LISTPACK_EX, Family::Redis) => read_listpack_expiries(input),
            (value_type::VALKEY_HASH_2..=value_type::HASH_LISTPACK_EX, _) => {
                Err(BadValue("a hash is of a type that its server never wrote"))
            }
            _ => return None,
        })
    }

    fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> u8 {
        match (self.first_expiry(), dialect.family) {
            // The commands and `decode` see to it that only a dialect which knows expiries comes to have them.
            (Some(first), Family::Redis) => self.write_expiries(first, out),
            (Some(_), Family::Valkey) => self.write_valkey_expiries(out),
            (None, _) if self.fits_listpack(dialect) => self.write_listpack(out),
            (None, _) => self.write_plain(out),
        }
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Hash(value) => Some(value),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Hash(Box::new(self))
    }

    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn weight(&self) -> usize {
        self.weight
    }
}

// --- Reading --------------------------------------------------------------------------------------------------------

type Read = Result<Hash, BadValue>;
/// A field, its value, its expiry.
type Triplet<'a> = (Cow<'a, [u8]>, Cow<'a, [u8]>, Option<i64>);

/// A number of fields, and each of them.
fn read_each<'a>(
    mut input: Cursor<'a>,
    one: impl Fn(&mut Cursor<'a>) -> Result<Triplet<'a>, BadValue>,
) -> Read {
    let mut hash = Hash::default();
    for _ in 0..input.count()? {
        let (field, value, expiry) = one(&mut input)?;
        hash.add(&field, &value, expiry)?;
    }
    input.finish()?;
    Ok(hash)
}

fn read_plain(mut input: Cursor<'_>) -> Read {
    let mut hash = Hash::default();
    for _ in 0..input.count()? {
        hash.add_again(&input.string()?, &input.string()?);
    }
    input.finish()?;
    hash.check_hidden()
}

fn read_blob(mut input: Cursor<'_>, from: impl Fn(&[u8]) -> Read) -> Read {
    let blob = input.string()?;
    input.finish()?;
    from(&blob)
}

fn read_zipmap(input: Cursor<'_>) -> Read {
    read_blob(input, |blob| {
        let mut hash = Hash::default();
        for (field, value) in zipmap(blob)? {
            hash.add(field, value, None)?;
        }
        Ok(hash)
    })
}

fn read_expiries(mut input: Cursor<'_>) -> Read {
    let first = input.i64_le()?;
    read_each(input, |input| {
        let from_first = i64::try_from(input.number()?).map_err(|_| TIME)?;
        let expiry = match from_first {
            0 => None,
            more => {
                let expiry = first.checked_add(more).and_then(|sum| sum.checked_sub(1));
                Some(redis_expiry(expiry.ok_or(TIME)?)?.ok_or(TIME)?)
            }
        };
        Ok((input.string()?, input.string()?, expiry))
    })
}

/// The first expiry comes before the listpack, and is repeated in it.
fn read_listpack_expiries(mut input: Cursor<'_>) -> Read {
    input.i64_le()?;
    read_blob(input, |blob| from_triplets(&listpack(blob)?))
}

fn from_elements(elements: &[Element<'_>]) -> Read {
    let mut hash = Hash::default();
    let pairs = elements.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(BadValue("a field has no value"));
    }
    for pair in pairs {
        if let [field, value] = pair {
            hash.add_again(&field.to_bytes(), &value.to_bytes());
        }
    }
    Ok(hash)
}

fn from_triplets(elements: &[Element<'_>]) -> Read {
    let mut hash = Hash::default();
    let triplets = elements.chunks_exact(3);
    if !triplets.remainder().is_empty() {
        return Err(BadValue("a field has no value or expiry"));
    }
    for triplet in triplets {
        if let [field, value, expiry] = triplet {
            let expiry = redis_expiry(expiry.to_i64()?)?;
            hash.add(&field.to_bytes(), &value.to_bytes(), expiry)?;
        }
    }
    Ok(hash)
}

/// 0: none.
fn redis_expiry(time: i64) -> Result<Option<i64>, BadValue> {
    match time {
        0 => Ok(None),
        1..=REDIS_LAST => Ok(Some(time)),
        _ => Err(TIME),
    }
}

fn valkey_expiry(time: i64) -> Result<Option<i64>, BadValue> {
    match time {
        VALKEY_NONE => Ok(None),
        0.. => Ok(Some(time)),
        _ => Err(TIME),
    }
}

impl Hash {
    fn add(&mut self, field: &[u8], value: &[u8], expiry: Option<i64>) -> Result<(), BadValue> {
        if self.has(field) {
            return Err(TWICE);
        }
        self.set(field, value, Expiry::Set(expiry));
        Ok(())
    }

    /// The same where servers do not look whether it is there.
    fn add_again(&mut self, field: &[u8], value: &[u8]) {
        if self.has(field) {
            self.hide(field, value);
        } else {
            self.set(field, value, Expiry::Set(None));
        }
    }
}

// --- Writing --------------------------------------------------------------------------------------------------------

impl Hash {
    fn first_expiry(&self) -> Option<i64> {
        self.values().filter_map(|field| field.expiry).min()
    }

    fn fits_listpack(&self, dialect: Dialect) -> bool {
        (dialect.family == Family::Valkey || dialect.version >= FIRST_WITH_LISTPACKS)
            && (1..=LISTPACK_FIELDS).contains(&self.len())
            && self.all_short()
    }

    fn all_short(&self) -> bool {
        let short = |bytes: &[u8]| bytes.len() <= LISTPACK_BYTES;
        let hidden = self.hidden.iter().map(|(name, field)| (name, field));
        let mut fields = self.fields.iter().chain(hidden);
        fields.all(|(field, told)| short(field) && short(&told.value))
    }

    /// Servers load a field that is there twice only into a packed blob.
    fn check_hidden(self) -> Read {
        if self.hidden.is_empty() || self.len() <= LISTPACK_FIELDS && self.all_short() {
            return Ok(self);
        }
        Err(TWICE)
    }

    fn write_listpack(&self, out: &mut Vec<u8>) -> u8 {
        let mut blob = ListpackWriter::new();
        for (field, told) in self.in_order() {
            blob.push(field);
            blob.push(&told.value);
        }
        put_string(out, &blob.finish());
        value_type::HASH_LISTPACK
    }

    fn write_plain(&self, out: &mut Vec<u8>) -> u8 {
        put_number(out, self.len() as u64);
        for (field, told) in self.in_order() {
            put_string(out, field);
            put_string(out, &told.value);
        }
        value_type::HASH
    }

    fn write_expiries(&self, first: i64, out: &mut Vec<u8>) -> u8 {
        out.extend_from_slice(&first.to_le_bytes());
        put_number(out, self.len() as u64);
        for (field, told) in self.in_order() {
            let from_first = told.expiry.map_or(0, |expiry| {
                expiry
                    .saturating_sub(first)
                    .saturating_add(1)
                    .unsigned_abs()
            });
            put_number(out, from_first);
            put_string(out, field);
            put_string(out, &told.value);
        }
        value_type::HASH_METADATA
    }

    fn write_valkey_expiries(&self, out: &mut Vec<u8>) -> u8 {
        put_number(out, self.len() as u64);
        for (field, told) in self.in_order() {
            put_string(out, field);
            put_string(out, &told.value);
            out.extend_from_slice(&told.expiry.unwrap_or(VALKEY_NONE).to_le_bytes());
        }
        value_type::VALKEY_HASH_2
    }
}
