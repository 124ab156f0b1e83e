//! Entries of a stream, in nodes as servers keep them: packed, and written to a snapshot as they are (PROTOCOL.md D.7).
//!
//! ```text
//! node     live · deleted · count of fields · field … · 0 · entry …      (one listpack; all up to `0` is its master entry)
//! entry    flags · ms − node's ms · seq − node's seq · [count of fields] · [field] value … · elements of this entry
//! ```
//!
//! A deleted entry stays, with a flag, as long as its node has others. The two numbers in front are kept apart, so that
//! nothing moves when they change. The data do not show where a node ends, but `ACKED` trimming to a length depends on
//! it. So nodes are filled as servers fill them with their default settings.
//!
//! Only the entries that are not deleted are in order. If `XDEL` took the last one and `XSETID` went back to before it,
//! the deleted entry may have a greater id than entries that were added later.

use std::collections::BTreeMap;

use super::id::Id;
use crate::wire::rdb::cursor::{BadValue, Cursor, put_number};
use crate::wire::rdb::packed::{Element, ListpackWriter, next_element};

/// The default of `stream-node-max-bytes`.
const NODE_BYTES: usize = 4096;
/// The default of `stream-node-max-entries`.
const NODE_ENTRIES: usize = 100;
/// Fields and values of an entry together are not longer.
pub(super) const ENTRY_BYTES: usize = 1 << 30;
/// The header of a listpack and its end.
const LISTPACK_FRAME: usize = 7;
/// What is counted for a node beside its bytes.
const NODE_OVERHEAD: usize = 120;
/// The entry was deleted.
const DELETED: u8 = 1;
/// The entry has the fields of the master entry, and only the values are stored.
const SAME_FIELDS: u8 = 2;

/// A field and its value.
pub(super) type Field<'a> = (&'a [u8], &'a [u8]);

/// The entries.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    nodes: BTreeMap<Id, Node>,
    /// How many there are, as servers count them: the number in the snapshot, and what was added and deleted since.
    /// Streams of Redis 5.0 have another number than their nodes, and servers use it.
    length: u64,
    weight: usize,
}

/// The limit to which a stream is trimmed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    /// This many may stay.
    Length(u64),
    /// Those before this one go.
    Before(Id),
}

#[derive(Clone, Debug)]
struct Node {
    live: usize,
    deleted: usize,
    /// The id of the last entry in it, which may be deleted.
    last: Id,
    /// Elements of `body`.
    elements: usize,
    /// Where in `body` the first entry begins that is not deleted, or the end of `body` if there is none. Trimming
    /// always removes entries from there, so it reads no entry twice.
    start: usize,
    /// The listpack's elements after the first two.
    body: Vec<u8>,
}

/// An entry in a node.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: Id,
    /// The position of its flags: one byte.
    flags: usize,
    deleted: bool,
}

impl Entries {
    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.length
    }

    /// Are there no nodes, and so no entries?
    pub(super) fn has_no_nodes(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// Appends an entry, whose id is greater than all before.
    pub(super) fn append(&mut self, id: Id, fields: &[Field<'_>]) {
        let brought = fields
            .iter()
            .map(|(field, value)| field.len().saturating_add(value.len()));
        let brought = brought.fold(0, usize::saturating_add);
        let open = self
            .nodes
            .last_entry()
            .filter(|node| node.get().takes(brought));
        let written = match open {
            Some(mut node) => {
                let master = *node.key();
                node.get_mut().append(master, id, fields)
            }
            None => {
                if let Some(mut full) = self.nodes.last_entry() {
                    full.get_mut().body.shrink_to_fit();
                }
                let mut node = Node::new(id, fields);
                node.append(id, id, fields);
                let written = node.body.len().saturating_add(NODE_OVERHEAD);
                self.nodes.insert(id, node);
                written
            }
        };
        self.length = self.length.saturating_add(1);
        self.weight = self.weight.saturating_add(written);
    }

    /// Is there such an entry?
    pub(super) fn contains(&self, id: Id) -> bool {
        let node = self.nodes.range(..=id).next_back();
        node.is_some_and(|(master, node)| node.find(*master, id).is_some())
    }

    /// Deletes an entry. False: there is none.
    pub(super) fn delete(&mut self, id: Id) -> bool {
        let Some((&master, node)) = self.nodes.range_mut(..=id).next_back() else {
            return false;
        };
        let Some(place) = node.find(master, id) else {
            return false;
        };
        if node.live == 1 {
            self.remove(master);
        } else {
            node.mark(master, place);
            self.length = self.length.wrapping_sub(1);
        }
        true
    }

    /// The first entry's id.
    pub(super) fn first(&self) -> Option<Id> {
        let live = |(master, node): (&Id, &Node)| node.places(*master).find(|place| !place.deleted);
        self.nodes.iter().find_map(live).map(|place| place.id)
    }

    /// The last entry's id.
    pub(super) fn last(&self) -> Option<Id> {
        let live = |(master, node): (&Id, &Node)| {
            node.places(*master).filter(|place| !place.deleted).last()
        };
        self.nodes.iter().rev().find_map(live).map(|place| place.id)
    }

    /// Would trimming to this bound delete anything?
    pub(super) fn reach_beyond(&self, bound: Bound) -> bool {
        match bound {
            Bound::Length(length) => self.length > length,
            Bound::Before(id) => self.first().is_some_and(|first| first < id),
        }
    }

    /// Deletes entries from the first one on, as far as `may` allows. True: there were some. With `all`, `may` is not
    /// asked.
    pub(super) fn trim(
        &mut self,
        bound: Bound,
        all: bool,
        may: &mut dyn FnMut(Id) -> bool,
    ) -> bool {
        let before = self.length;
        let mut from = Some(Id::MIN);
        while let Some((&master, node)) = from.and_then(|from| self.nodes.range_mut(from..).next())
        {
            from = master.next();
            let live = node.live as u64;
            let whole = match bound {
                Bound::Length(length) if self.length <= length => break,
                Bound::Length(length) => self.length.wrapping_sub(live) >= length,
                Bound::Before(id) => node.last < id,
            };
            if whole && all {
                self.remove(master);
                continue;
            }
            let mut left = self.length;
            let mut chosen = Vec::new();
            for place in node.places(master) {
                let enough = match bound {
                    Bound::Length(length) => left <= length,
                    Bound::Before(id) => place.id >= id,
                };
                if enough {
                    break;
                }
                if !place.deleted && (all || may(place.id)) {
                    chosen.push(place);
                    left = left.wrapping_sub(1);
                }
            }
            if whole && chosen.len() == node.live {
                self.remove(master);
                continue;
            }
            for place in chosen {
                node.mark(master, place);
            }
            self.length = left;
            // Servers look no further than the first node that is not deleted as a whole.
            if !whole {
                break;
            }
        }
        self.length != before
    }

    fn remove(&mut self, master: Id) {
        if let Some(node) = self.nodes.remove(&master) {
            let weight = node.body.len().saturating_add(NODE_OVERHEAD);
            self.length = self.length.wrapping_sub(node.live as u64);
            self.weight = self.weight.saturating_sub(weight);
        }
    }

    /// Reads nodes and the number of entries.
    pub(super) fn decode(input: &mut Cursor<'_>) -> Result<Self, BadValue> {
        let mut entries = Self::default();
        for _ in 0..input.count()? {
            let key = input.string()?;
            let key: [u8; 16] = (*key)
                .try_into()
                .map_err(|_| BadValue("the key of a stream's node is no id"))?;
            let master = Id::from_bytes(key);
            let node = Node::decode(master, &input.string()?)?;
            let weight = node.body.len().saturating_add(NODE_OVERHEAD);
            entries.weight = entries.weight.saturating_add(weight);
            if entries.nodes.insert(master, node).is_some() {
                return Err(BadValue("a stream has a node twice"));
            }
        }
        entries.length = input.number()?;
        if entries.length > 0 && entries.nodes.is_empty() {
            return Err(BadValue("a stream has another length than it says"));
        }
        let mut last = None;
        for (master, node) in &entries.nodes {
            if last.is_some_and(|last| *master <= last) {
                return Err(BadValue("the nodes of a stream overlap"));
            }
            last = Some(node.last);
        }
        Ok(entries)
    }

    /// Writes nodes and the number of entries.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.nodes.len() as u64);
        for (master, node) in &self.nodes {
            put_number(out, 16);
            out.extend_from_slice(&master.to_bytes());
            node.encode(out);
        }
        put_number(out, self.length);
    }
}

impl Node {
    fn new(id: Id, fields: &[Field<'_>]) -> Self {
        let mut master = ListpackWriter::new();
        master.push_int(fields.len() as i64);
        for (field, _) in fields {
            master.push(field);
        }
        master.push_int(0);
        Self {
            live: 0,
            deleted: 0,
            last: id,
            elements: master.count(),
            start: master.elements().len(),
            body: master.elements().to_vec(),
        }
    }

    /// Is there room for an entry with this many bytes?
    fn takes(&self, brought: usize) -> bool {
        let bytes = self
            .body
            .len()
            .saturating_add(self.counts().elements().len());
        let bytes = bytes.saturating_add(LISTPACK_FRAME);
        bytes.saturating_add(brought) < NODE_BYTES
            && self.live.saturating_add(self.deleted) < NODE_ENTRIES
    }

    /// Gives how many bytes were written.
    fn append(&mut self, master: Id, id: Id, fields: &[Field<'_>]) -> usize {
        let same = self.has_fields(fields);
        let mut entry = ListpackWriter::new();
        let (ms, seq) = id.minus(master);
        entry.push_int(if same { SAME_FIELDS.into() } else { 0 });
        entry.push_int(ms);
        entry.push_int(seq);
        if !same {
            entry.push_int(fields.len() as i64);
        }
        for (field, value) in fields {
            if !same {
                entry.push(field);
            }
            entry.push(value);
        }
        entry.push_int(entry.count() as i64);
        self.body.extend_from_slice(entry.elements());
        self.elements = self.elements.saturating_add(entry.count());
        self.live = self.live.saturating_add(1);
        self.last = id;
        entry.elements().len()
    }

    /// Are these the fields of the master entry?
    fn has_fields(&self, fields: &[Field<'_>]) -> bool {
        let mut input = Cursor::new(&self.body);
        let mut next = || next_element(&mut input).ok().flatten();
        next().is_some_and(|count| count == Element::Int(fields.len() as i64))
            && fields.iter().all(|(field, _)| match next() {
                Some(Element::Str(bytes)) => bytes == *field,
                Some(number) => *number.to_bytes() == **field,
                None => false,
            })
    }

    /// The entries from the first one that is not deleted on.
    fn places(&self, master: Id) -> impl Iterator<Item = Place> {
        let mut walk = Walk::new(master, &self.body, self.start);
        std::iter::from_fn(move || walk.next().ok().flatten())
    }

    /// An entry that is not deleted.
    fn find(&self, master: Id, id: Id) -> Option<Place> {
        self.places(master)
            .filter(|place| !place.deleted)
            .find(|place| place.id >= id)
            .filter(|place| place.id == id)
    }

    fn mark(&mut self, master: Id, place: Place) {
        if let Some(flags) = self.body.get_mut(place.flags) {
            *flags |= DELETED;
        }
        if place.flags == self.start {
            let live = self.places(master).find(|place| !place.deleted);
            self.start = live.map_or(self.body.len(), |place| place.flags);
        }
        self.live = self.live.saturating_sub(1);
        self.deleted = self.deleted.saturating_add(1);
    }

    /// The two elements in front of the body.
    fn counts(&self) -> ListpackWriter {
        let mut counts = ListpackWriter::new();
        counts.push_int(self.live as i64);
        counts.push_int(self.deleted as i64);
        counts
    }

    fn decode(master: Id, listpack: &[u8]) -> Result<Self, BadValue> {
        const END: u8 = 0xFF;
        let mut input = Cursor::new(listpack);
        let length = u32::from_le_bytes(input.array()?);
        let said = u16::from_le_bytes(input.array()?);
        let live = count(&mut input)?;
        let deleted = count(&mut input)?;
        let body = match input.rest().split_last() {
            Some((&END, body)) if length as usize == listpack.len() => body,
            _ => {
                return Err(BadValue(
                    "a node of a stream has another length than it says",
                ));
            }
        };

        let mut input = Cursor::new(body);
        for _ in 0..count(&mut input)? {
            element(&mut input)?;
        }
        if count(&mut input)? != 0 {
            return Err(BadValue("the master entry of a stream's node has no end"));
        }
        let mut node = Self {
            live: 0,
            deleted: 0,
            last: master,
            elements: 0,
            start: body.len().saturating_sub(input.rest().len()),
            body: body.to_vec(),
        };
        let (mut before, mut first) = (None, None);
        let mut walk = Walk::new(master, body, node.start);
        while let Some(place) = walk.next()? {
            node.last = place.id;
            if place.deleted {
                node.deleted = node.deleted.saturating_add(1);
            } else {
                if before.is_some_and(|before| place.id <= before) {
                    return Err(BadValue("the entries of a stream are not in order"));
                }
                before = Some(place.id);
                node.live = node.live.saturating_add(1);
                first = first.or(Some(place.flags));
            }
        }
        node.start = first.unwrap_or(body.len());
        node.elements = elements_of(body);
        let found = node.elements.saturating_add(2);
        if (live, deleted) != (node.live, node.deleted)
            || (said != u16::MAX && usize::from(said) != found)
        {
            return Err(BadValue(
                "a node of a stream has another number of entries than it says",
            ));
        }
        Ok(node)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        const END: u8 = 0xFF;
        let counts = self.counts();
        let length = self
            .body
            .len()
            .saturating_add(counts.elements().len())
            .saturating_add(LISTPACK_FRAME);
        put_number(out, length as u64);
        // Servers hold a node below 4 GiB: an entry has 1 GiB at most.
        out.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        let elements = u16::try_from(self.elements.saturating_add(2)).unwrap_or(u16::MAX);
        out.extend_from_slice(&elements.to_le_bytes());
        out.extend_from_slice(counts.elements());
        out.extend_from_slice(&self.body);
        out.push(END);
    }
}

/// Goes over the entries of a node.
struct Walk<'a> {
    master: Id,
    input: Cursor<'a>,
    length: usize,
    /// How many the master entry has.
    fields: usize,
}

impl<'a> Walk<'a> {
    fn new(master: Id, body: &'a [u8], start: usize) -> Self {
        Self {
            master,
            input: Cursor::new(body.get(start..).unwrap_or_default()),
            length: body.len(),
            fields: count(&mut Cursor::new(body)).unwrap_or_default(),
        }
    }

    fn next(&mut self) -> Result<Option<Place>, BadValue> {
        let Some(&flags) = self.input.rest().first() else {
            return Ok(None);
        };
        let at = self.length.saturating_sub(self.input.rest().len());
        // One byte, as numbers up to 127 are: it can be changed in place.
        if flags & !(DELETED | SAME_FIELDS) != 0 {
            return Err(BadValue("an entry of a stream has unknown flags"));
        }
        element(&mut self.input)?;
        let ms = element(&mut self.input)?.to_i64()?;
        let seq = element(&mut self.input)?.to_i64()?;
        let (values, elements) = if flags & SAME_FIELDS == 0 {
            let values = count(&mut self.input)?.saturating_mul(2);
            (values, values.saturating_add(4))
        } else {
            (self.fields, self.fields.saturating_add(3))
        };
        for _ in 0..values {
            element(&mut self.input)?;
        }
        if count(&mut self.input)? != elements {
            return Err(BadValue(
                "an entry of a stream has another length than it says",
            ));
        }
        Ok(Some(Place {
            id: self.master.plus((ms, seq)),
            flags: at,
            deleted: flags & DELETED != 0,
        }))
    }
}

fn element<'a>(input: &mut Cursor<'a>) -> Result<Element<'a>, BadValue> {
    next_element(input)?.ok_or(BadValue("a node of a stream ends too early"))
}

fn count(input: &mut Cursor<'_>) -> Result<usize, BadValue> {
    let number = element(input)?.to_i64()?;
    usize::try_from(number).map_err(|_| BadValue("a node of a stream has a negative count"))
}

fn elements_of(body: &[u8]) -> usize {
    let mut input = Cursor::new(body);
    std::iter::from_fn(|| next_element(&mut input).ok().flatten()).count()
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
