//! A stream as a snapshot holds it (PROTOCOL.md D.7).

use super::Stream;
use super::groups::{Group, Groups, UNKNOWN};
use super::id::Id;
use super::idempotence::Idempotence;
use super::nodes::Entries;
use crate::model::Blob;
use crate::model::value::{Dialect, Raw};
use crate::wire::rdb::Family;
use crate::wire::rdb::cursor::{BadValue, Cursor, put_number, put_string};
use crate::wire::rdb::numbers::value_type;

/// The RDB types, each of which has all that those before it have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Form {
    /// Redis 5.0.
    First = value_type::STREAM_LISTPACKS,
    /// Redis 7.0: counters.
    Counters = value_type::STREAM_LISTPACKS_2,
    /// Redis 7.2: when consumers were active.
    Active = value_type::STREAM_LISTPACKS_3,
    /// Redis 8.6: idempotence.
    Idempotence = value_type::STREAM_LISTPACKS_4,
}

impl Form {
    const ALL: [Self; 4] = [Self::First, Self::Counters, Self::Active, Self::Idempotence];

    fn of(kind: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|form| *form as u8 == kind)
    }

    /// The newest one that all who load the dialect can load (E.2).
    fn in_dialect(dialect: Dialect) -> Self {
        match (dialect.family, dialect.version) {
            (Family::Redis, ..=9) => Self::First,
            (Family::Redis, 10) => Self::Counters,
            (Family::Redis, 11..=12) | (Family::Valkey, _) => Self::Active,
            (Family::Redis, 13..) => Self::Idempotence,
        }
    }
}

pub(super) fn decode(raw: &Raw) -> Option<Result<Stream, BadValue>> {
    let form = Form::of(raw.kind)?;
    let mut input = Cursor::new(&raw.payload);
    let stream = stream(&mut input, form);
    Some(stream.and_then(|stream| input.finish().map(|()| stream)))
}

fn stream(input: &mut Cursor<'_>, form: Form) -> Result<Stream, BadValue> {
    let mut stream = Stream {
        entries: Entries::decode(input)?,
        last: id(input)?,
        ..Stream::default()
    };
    if form >= Form::Counters {
        stream.first = id(input)?;
        stream.max_deleted = id(input)?;
        stream.added = input.number()?;
    } else {
        // So do newer servers. Without entries, the first one is beyond all.
        stream.first = stream.entries.first().unwrap_or(Id::MAX);
        stream.added = stream.entries.len();
    }
    for _ in 0..input.count()? {
        let name: Blob = input.string()?.into();
        let last = id(input)?;
        let read = if form >= Form::Counters {
            input.number()?.cast_signed()
        } else {
            entries_read(&stream, last)
        };
        let group = group(input, form, Group::new(last, read))?;
        if stream.groups.0.insert(name, group).is_some() {
            return Err(BadValue("a stream has a group twice"));
        }
    }
    if form >= Form::Idempotence {
        stream.idempotence = Idempotence::decode(input)?;
    }
    Ok(stream)
}

/// How many entries a group has read, as newer servers compute it for a stream from which nothing was ever deleted.
fn entries_read(stream: &Stream, last: Id) -> i64 {
    let all = stream.added.cast_signed();
    if all == 0 || last < stream.first {
        0
    } else if last == stream.last {
        all
    } else if last == stream.first {
        1
    } else {
        UNKNOWN
    }
}

fn group(input: &mut Cursor<'_>, form: Form, mut group: Group) -> Result<Group, BadValue> {
    // Not given to anybody yet.
    let mut pending = std::collections::BTreeMap::new();
    for _ in 0..input.count()? {
        let id = Id::from_bytes(input.array()?);
        let delivery = (input.i64_le()?, input.number()?);
        if pending.insert(id, delivery).is_some() {
            return Err(BadValue("a group has a pending entry twice"));
        }
    }
    for _ in 0..input.count()? {
        let name = input.string()?;
        if group.has_consumer(&name) {
            return Err(BadValue("a group has a consumer twice"));
        }
        let seen = input.i64_le()?;
        let active = if form >= Form::Active {
            input.i64_le()?
        } else {
            seen
        };
        let owner = group.consumer(&name, seen);
        if let Some(consumer) = group.consumer_mut(owner) {
            consumer.active = active;
        }
        for _ in 0..input.count()? {
            let id = Id::from_bytes(input.array()?);
            let (delivered, count) = pending
                .remove(&id)
                .ok_or(BadValue("a consumer's pending entry is not its group's"))?;
            group.give(id, owner, delivered, |_| count);
        }
    }
    if pending.is_empty() {
        Ok(group)
    } else {
        Err(BadValue("a pending entry belongs to no consumer"))
    }
}

fn id(input: &mut Cursor<'_>) -> Result<Id, BadValue> {
    Ok(Id {
        ms: input.number()?,
        seq: input.number()?,
    })
}

pub(super) fn encode(stream: &Stream, dialect: Dialect, out: &mut Vec<u8>) -> u8 {
    let form = Form::in_dialect(dialect);
    stream.entries.encode(out);
    put_id(out, stream.last);
    if form >= Form::Counters {
        put_id(out, stream.first);
        put_id(out, stream.max_deleted);
        put_number(out, stream.added);
    }
    put_groups(out, form, &stream.groups);
    if form >= Form::Idempotence {
        stream.idempotence.encode(out);
    }
    form as u8
}

fn put_groups(out: &mut Vec<u8>, form: Form, groups: &Groups) {
    put_number(out, groups.0.len() as u64);
    for (name, group) in &groups.0 {
        put_string(out, name);
        put_id(out, group.last);
        if form >= Form::Counters {
            put_number(out, group.read.cast_unsigned());
        }
        put_number(out, group.pending.len() as u64);
        for (id, pending) in &group.pending {
            out.extend_from_slice(&id.to_bytes());
            out.extend_from_slice(&pending.delivered.to_le_bytes());
            put_number(out, pending.count);
        }
        let consumers = group.consumers();
        put_number(out, consumers.len() as u64);
        for (name, consumer) in consumers {
            put_string(out, name);
            out.extend_from_slice(&consumer.seen.to_le_bytes());
            if form >= Form::Active {
                out.extend_from_slice(&consumer.active.to_le_bytes());
            }
            put_number(out, consumer.pending().len() as u64);
            for id in consumer.pending() {
                out.extend_from_slice(&id.to_bytes());
            }
        }
    }
}

fn put_id(out: &mut Vec<u8>, id: Id) {
    put_number(out, id.ms);
    put_number(out, id.seq);
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;
