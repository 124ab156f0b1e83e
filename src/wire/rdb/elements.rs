//! The elements of a value, one by one, in any encoding that a server writes (PROTOCOL.md D.5 to D.7). For code that
//! shows values.

use std::borrow::Cow;

use super::cursor::{BadValue, Cursor};
use super::numbers::value_type;
use super::packed::{Element, intset, listpack, ziplist, zipmap};
use super::{Family, number};

/// A part of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Part<'a> {
    /// All of a string.
    Text(Cow<'a, [u8]>),
    /// An element of a list, a member of a set.
    Member(Cow<'a, [u8]>),
    /// A member of a sorted set.
    Scored(Cow<'a, [u8]>, f64),
    /// A field of a hash.
    Field {
        /// Its name.
        field: Cow<'a, [u8]>,
        /// Its value.
        value: Cow<'a, [u8]>,
        /// When it expires, Unix milliseconds.
        expiry: Option<i64>,
    },
    /// An entry of a stream.
    Entry {
        /// Its id.
        id: StreamId,
        /// Fields and values.
        fields: Vec<FieldValue>,
    },
    /// A consumer group of a stream.
    Group {
        /// Its name.
        name: Cow<'a, [u8]>,
        /// The last entry that was delivered.
        last: StreamId,
        /// Entries that were not acknowledged.
        pending: u64,
        /// Its consumers.
        consumers: u64,
    },
}

/// A field of an entry, and its value.
pub type FieldValue = (Box<[u8]>, Box<[u8]>);

/// Milliseconds and sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamId(pub u64, pub u64);

/// The type of a value as `TYPE` names it, and its encoding.
#[must_use]
pub fn names(family: Family, kind: u8) -> (&'static str, &'static str) {
    match (kind, family) {
        (value_type::STRING, _) => ("string", "string"),
        (value_type::LIST, _) => ("list", "linked list"),
        (value_type::SET, _) => ("set", "hash table"),
        (value_type::ZSET, _) => ("zset", "skip list, scores as text"),
        (value_type::HASH, _) => ("hash", "hash table"),
        (value_type::ZSET_2, _) => ("zset", "skip list"),
        (value_type::MODULE_2, _) => ("module", "module"),
        (value_type::HASH_ZIPMAP, _) => ("hash", "zipmap"),
        (value_type::LIST_ZIPLIST, _) => ("list", "ziplist"),
        (value_type::SET_INTSET, _) => ("set", "intset"),
        (value_type::ZSET_ZIPLIST, _) => ("zset", "ziplist"),
        (value_type::HASH_ZIPLIST, _) => ("hash", "ziplist"),
        (value_type::LIST_QUICKLIST, _) => ("list", "quicklist of ziplists"),
        (value_type::STREAM_LISTPACKS, _) => ("stream", "stream"),
        (value_type::HASH_LISTPACK, _) => ("hash", "listpack"),
        (value_type::ZSET_LISTPACK, _) => ("zset", "listpack"),
        (value_type::LIST_QUICKLIST_2, _) => ("list", "quicklist"),
        (value_type::STREAM_LISTPACKS_2, _) => ("stream", "stream, version 2"),
        (value_type::SET_LISTPACK, _) => ("set", "listpack"),
        (value_type::STREAM_LISTPACKS_3, _) => ("stream", "stream, version 3"),
        (value_type::HASH_METADATA_PRE_GA, _) => ("hash", "hash table, fields expire"),
        (value_type::HASH_LISTPACK_EX_PRE_GA | value_type::HASH_LISTPACK_EX, Family::Redis) => {
            ("hash", "listpack, fields expire")
        }
        (value_type::HASH_METADATA, Family::Redis) => ("hash", "hash table, fields expire"),
        (value_type::STREAM_LISTPACKS_4, Family::Redis) => ("stream", "stream, version 4"),
        (value_type::CRON, Family::Redis) => ("cron", "job of KeyDB"),
        _ => ("unknown", "unknown"),
    }
}

/// Hands out the parts of a value in their order, until `take` has enough (`false`). Returns whether values of this
/// type can be read.
///
/// # Errors
/// When the payload is not as its type says.
pub fn parts(
    family: Family,
    kind: u8,
    payload: &[u8],
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<bool, BadValue> {
    let mut input = Cursor::new(payload);
    match kind {
        value_type::STRING => {
            take(Part::Text(input.string()?));
        }
        value_type::LIST
        | value_type::SET
        | value_type::ZSET
        | value_type::ZSET_2
        | value_type::HASH => counted(&mut input, kind, take)?,
        value_type::HASH_ZIPMAP => {
            for (field, value) in zipmap(&input.string()?)? {
                if !take(field_of(Cow::Borrowed(field), Cow::Borrowed(value), None)) {
                    break;
                }
            }
        }
        value_type::LIST_ZIPLIST => {
            members(&ziplist(&input.string()?)?, take);
        }
        value_type::SET_INTSET => {
            let members = intset(&input.string()?)?;
            let mut members = members.iter().map(ToString::to_string);
            while members
                .next()
                .is_some_and(|member| take(Part::Member(Cow::Owned(member.into_bytes()))))
            {
            }
        }
        value_type::ZSET_ZIPLIST => scored(&ziplist(&input.string()?)?, take)?,
        value_type::ZSET_LISTPACK => scored(&listpack(&input.string()?)?, take)?,
        value_type::HASH_ZIPLIST => fields(&ziplist(&input.string()?)?, 2, take)?,
        value_type::HASH_LISTPACK => fields(&listpack(&input.string()?)?, 2, take)?,
        value_type::LIST_QUICKLIST | value_type::LIST_QUICKLIST_2 => {
            quicklist(&mut input, kind, take)?
        }
        value_type::SET_LISTPACK => {
            members(&listpack(&input.string()?)?, take);
        }
        value_type::HASH_METADATA_PRE_GA..=value_type::HASH_LISTPACK_EX => {
            return hash_with_expiries(family, kind, &mut input, take);
        }
        value_type::STREAM_LISTPACKS
        | value_type::STREAM_LISTPACKS_2
        | value_type::STREAM_LISTPACKS_3 => stream(&mut input, kind, take)?,
        value_type::STREAM_LISTPACKS_4 if family == Family::Redis => {
            stream(&mut input, kind, take)?
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// The oldest encodings: a count, and as many elements one by one.
fn counted(
    input: &mut Cursor<'_>,
    kind: u8,
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<(), BadValue> {
    for _ in 0..input.count()? {
        let first = input.string()?;
        let part = match kind {
            value_type::ZSET => Part::Scored(first, input.double_text()?),
            value_type::ZSET_2 => Part::Scored(first, input.f64_le()?),
            value_type::HASH => field_of(first, input.string()?, None),
            _ => Part::Member(first),
        };
        if !take(part) {
            break;
        }
    }
    Ok(())
}

fn field_of<'a>(field: Cow<'a, [u8]>, value: Cow<'a, [u8]>, expiry: Option<i64>) -> Part<'a> {
    Part::Field {
        field,
        value,
        expiry,
    }
}

fn text<'a>(element: &Element<'a>) -> Cow<'a, [u8]> {
    match element {
        Element::Str(bytes) => Cow::Borrowed(bytes),
        number @ Element::Int(_) => Cow::Owned(number.to_bytes().into_vec()),
    }
}

fn members(elements: &[Element<'_>], take: &mut dyn FnMut(Part<'_>) -> bool) -> bool {
    elements
        .iter()
        .all(|element| take(Part::Member(text(element))))
}

fn quicklist(
    input: &mut Cursor<'_>,
    kind: u8,
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<(), BadValue> {
    const PLAIN: u64 = 1;
    for _ in 0..input.count()? {
        let container = if kind == value_type::LIST_QUICKLIST_2 {
            Some(input.number()?)
        } else {
            None
        };
        let blob = input.string()?;
        let more = match container {
            Some(PLAIN) => take(Part::Member(blob)),
            Some(_) => members(&listpack(&blob)?, take),
            None => members(&ziplist(&blob)?, take),
        };
        if !more {
            break;
        }
    }
    Ok(())
}

fn scored(
    elements: &[Element<'_>],
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<(), BadValue> {
    for pair in elements.chunks(2) {
        let [member, score] = pair else {
            return Err(BadValue("a member has no score"));
        };
        let score = number::score(&text(score));
        let score = score.ok_or(BadValue("a score is no number to all servers"))?;
        if !take(Part::Scored(text(member), score)) {
            break;
        }
    }
    Ok(())
}

/// Field, value and, where `width` is 3, the expiry: Unix milliseconds, 0 for none.
fn fields(
    elements: &[Element<'_>],
    width: usize,
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<(), BadValue> {
    for group in elements.chunks(width) {
        let (field, value, expiry) = match group {
            [field, value] => (field, value, None),
            [field, value, expiry] => (
                field,
                value,
                Some(expiry.to_i64()?).filter(|expiry| *expiry != 0),
            ),
            _ => return Err(BadValue("a field has no value")),
        };
        if !take(field_of(text(field), text(value), expiry)) {
            break;
        }
    }
    Ok(())
}

fn hash_with_expiries(
    family: Family,
    kind: u8,
    input: &mut Cursor<'_>,
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<bool, BadValue> {
    match (family, kind) {
        (Family::Valkey, value_type::VALKEY_HASH_2) => {
            for _ in 0..input.count()? {
                let (field, value) = (input.string()?, input.string()?);
                let expiry = Some(input.i64_le()?).filter(|expiry| *expiry >= 0);
                if !take(field_of(field, value, expiry)) {
                    break;
                }
            }
        }
        (Family::Redis, value_type::HASH_METADATA_PRE_GA | value_type::HASH_METADATA) => {
            let least = if kind == value_type::HASH_METADATA {
                Some(input.i64_le()?)
            } else {
                None
            };
            for _ in 0..input.count()? {
                let ttl = i64::try_from(input.number()?)
                    .map_err(|_| BadValue("a field's expiry is out of range"))?;
                let (field, value) = (input.string()?, input.string()?);
                let expiry = match least {
                    Some(least) => least.saturating_add(ttl).saturating_sub(1),
                    None => ttl,
                };
                if !take(field_of(field, value, (ttl != 0).then_some(expiry))) {
                    break;
                }
            }
        }
        (Family::Redis, value_type::HASH_LISTPACK_EX_PRE_GA | value_type::HASH_LISTPACK_EX) => {
            if kind == value_type::HASH_LISTPACK_EX {
                input.i64_le()?;
            }
            fields(&listpack(&input.string()?)?, 3, take)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn stream(
    input: &mut Cursor<'_>,
    kind: u8,
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<(), BadValue> {
    for _ in 0..input.count()? {
        let master = input.string()?;
        let mut id = Cursor::new(&master);
        let master = StreamId(
            u64::from_be_bytes(id.array()?),
            u64::from_be_bytes(id.array()?),
        );
        id.finish()?;
        let blob = input.string()?;
        if !node(master, &listpack(&blob)?, take)? {
            return Ok(());
        }
    }
    // Length and last id; from version 2 on first id, greatest deleted id, entries added.
    for _ in 0..if kind == value_type::STREAM_LISTPACKS {
        3
    } else {
        8
    } {
        input.number()?;
    }
    for _ in 0..input.count()? {
        let name = input.string()?;
        let last = StreamId(input.number()?, input.number()?);
        if kind != value_type::STREAM_LISTPACKS {
            input.number()?; // entries read
        }
        let pending = input.number()?;
        for _ in 0..pending {
            input.take(24)?;
            input.number()?;
        }
        let consumers = input.number()?;
        for _ in 0..consumers {
            input.string()?;
            input.take(
                if matches!(
                    kind,
                    value_type::STREAM_LISTPACKS_3 | value_type::STREAM_LISTPACKS_4
                ) {
                    16
                } else {
                    8
                },
            )?;
            for _ in 0..input.count()? {
                input.take(16)?;
            }
        }
        let group = Part::Group {
            name,
            last,
            pending,
            consumers,
        };
        if !take(group) {
            return Ok(());
        }
    }
    Ok(())
}

/// The entries of one node: a master entry with field names first, then entries that may share them.
fn node(
    master: StreamId,
    elements: &[Element<'_>],
    take: &mut dyn FnMut(Part<'_>) -> bool,
) -> Result<bool, BadValue> {
    const DELETED: i64 = 1;
    const SAME_FIELDS: i64 = 2;
    const SHORT: BadValue = BadValue("a node of a stream ends too early");
    let mut rest = elements.iter();
    let mut next = || rest.next().ok_or(SHORT);
    let count = |element: &Element<'_>| {
        usize::try_from(element.to_i64()?)
            .ok()
            .filter(|count| *count <= elements.len())
            .ok_or(BadValue("a node of a stream has a wrong count"))
    };
    next()?; // entries
    next()?; // deleted ones
    let mut names = Vec::new();
    for _ in 0..count(next()?)? {
        names.push(next()?.to_bytes());
    }
    next()?; // ends the master entry
    while let Ok(flags) = next() {
        let flags = flags.to_i64()?;
        let id = StreamId(
            master.0.wrapping_add_signed(next()?.to_i64()?),
            master.1.wrapping_add_signed(next()?.to_i64()?),
        );
        let mut fields = Vec::new();
        if flags & SAME_FIELDS != 0 {
            for name in &names {
                fields.push((name.clone(), next()?.to_bytes()));
            }
        } else {
            for _ in 0..count(next()?)? {
                fields.push((next()?.to_bytes(), next()?.to_bytes()));
            }
        }
        next()?; // for walking backwards
        if flags & DELETED == 0 && !take(Part::Entry { id, fields }) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use super::super::samples::{REDIS_DUMPS, hex};
    use super::*;

    /// Parts of a `DUMP` reply, one a line.
    fn shown(dump: &str) -> Vec<String> {
        let bytes = hex(dump);
        let version = bytes[bytes.len() - 10];
        let family = if version >= 80 {
            Family::Valkey
        } else {
            Family::Redis
        };
        let mut shown = Vec::new();
        let known = parts(family, bytes[0], &bytes[1..bytes.len() - 10], &mut |part| {
            let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            shown.push(match part {
                Part::Text(text) | Part::Member(text) => utf8(&text),
                Part::Scored(member, score) => format!("{score} {}", utf8(&member)),
                Part::Field {
                    field,
                    value,
                    expiry,
                } => format!("{} {} {expiry:?}", utf8(&field), utf8(&value)),
                Part::Entry { id, fields } => {
                    let fields = fields
                        .iter()
                        .map(|(field, value)| [utf8(field), utf8(value)]);
                    let fields: Vec<String> = fields.flatten().collect();
                    format!("{}-{} {}", id.0, id.1, fields.join(" "))
                }
                Part::Group {
                    name,
                    last,
                    pending,
                    consumers,
                } => format!(
                    "{} {}-{} {pending} {consumers}",
                    utf8(&name),
                    last.0,
                    last.1
                ),
            });
            true
        });
        assert!(known.unwrap(), "{dump}");
        shown
    }

    #[test]
    fn what_servers_dump_is_read_in_every_encoding() {
        let day = "Some(4000000000000)";
        for (dump, wanted) in [
            ("000568656c6c6f0d00c1db56c5628157ca", vec!["hello"]),
            ("00c12efb0d003f02ac43f0e69e76", vec!["-1234"]),
            (
                "1201020f0f00000003008161020701c12c02ff0d00f329c991dc0f3f5f",
                vec!["a", "7", "300"],
            ),
            (
                "0b0e02000000030000000100020003000d0007abd5516adb3adb",
                vec!["1", "2", "3"],
            ),
            (
                "140d0d0000000200816102816202ff0d00c19a3e74b389481d",
                vec!["a", "b"],
            ),
            (
                "111414000000040081610283312e35048162020201ff0d0058ab3d96a8adf0a3",
                vec!["1.5 a", "2 b"],
            ),
            (
                "1012120000000400816602817602816e020101ff0d005e4d81427e9797d6",
                vec!["f v None", "n 1 None"],
            ),
            ("0401016601760d000f5bcae5b633793c", vec!["f v None"]),
            (
                "05010161000000000000f83f0d00e70a213c435c2e1a",
                vec!["1.5 a"],
            ),
            (
                "0e0114140000000f000000030000016103f802c02c01ff0900a5123fd108c81df5",
                vec!["a", "7", "300"],
            ),
            (
                "0c18180000001500000004000001610303312e3505016203f3ff0900fe4e6c2927858ec3",
                vec!["1.5 a", "2 b"],
            ),
            ("02020161016209002e9670e9bf855ebc", vec!["b", "a"]),
        ] {
            let mut found = shown(dump);
            let mut wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
            if dump.starts_with("02") {
                found.sort();
                wanted.sort();
            }
            assert_eq!(found, wanted, "{dump}");
        }
        for dump in [
            "1900409452a30300001f1f0000000600816602817602f400409452a3030000098167028177020001ff0d00fbd257fd596aa9eb",
            "16020166017600409452a303000001670177ffffffffffffffff50006e9deb180d34c944",
        ] {
            assert_eq!(shown(dump), [format!("f v {day}"), "g w None".to_owned()]);
        }
        let later = "f v Some(4000000000005)".to_owned();
        let found = shown("1800409452a303000002060167017701016601760d00fd307e3278c0294f");
        assert_eq!(found, [later.replace("f v", "g w"), format!("f v {day}")]);
        for stream in [
            "1a01100000000000000001000000000000000126260000000f0002010001010181610200010201000100010101040102010001010102010401ff0201020101000002010167000081ffffffffffffffff0000406440640000000d00ddb0568500c5b7a4",
            "0f01100000000000000001000000000000000126260000000f0002010001010181610200010201000100010101040102010001010102010401ff020102010167000000000900e79335a9d9885b4a",
        ] {
            assert_eq!(shown(stream), ["1-1 a 1", "1-2 a 2", "g 0-0 0 0"]);
        }
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic() {
        for (_, dump) in REDIS_DUMPS {
            let bytes = hex(dump);
            let payload = &bytes[1..bytes.len() - 10];
            for cut in 0..payload.len() {
                let _ = parts(Family::Redis, bytes[0], &payload[..cut], &mut |_| true);
                let mut spoilt = payload.to_vec();
                spoilt[cut] = 0xFF;
                let _ = parts(Family::Redis, bytes[0], &spoilt, &mut |_| true);
            }
        }
    }
}
