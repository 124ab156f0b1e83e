//! Sorted sets.

mod commands;
mod range;
mod store;

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::OVERHEAD;
use super::command::Spec;
use super::value::{DataType, Dialect, Raw, Value};
use crate::wire::rdb::cursor::{BadValue, Cursor, put_number, put_string};
use crate::wire::rdb::number::score as text_score;
use crate::wire::rdb::numbers::value_type;
use crate::wire::rdb::packed::{self, Element, ListpackWriter, ZiplistWriter};

pub(super) use commands::{Conditions, add};

pub(super) const COMMANDS: [&[Spec]; 2] = [commands::COMMANDS, store::COMMANDS];

/// The first RDB version with [`value_type::ZSET_2`].
const FIRST_WITH_BINARY: u32 = 8;
/// The first RDB version with [`value_type::ZSET_LISTPACK`], of either family.
const FIRST_WITH_LISTPACK: u32 = 10;

/// The most members that servers pack, and the longest of these (their default `zset-max-…` settings).
const MOST_PACKED: usize = 128;
const LONGEST_PACKED: usize = 64;

/// A member, which the table of scores and the order have in common.
pub(super) type Member = Arc<[u8]>;

/// A sorted set: by score, then by the bytes of the member.
#[derive(Clone, Debug)]
pub struct Zset {
    scores: HashMap<Member, f64>,
    order: BTreeSet<Ranked>,
    /// The bytes of the members.
    bytes: usize,
    /// Does a server with default settings keep it as one packed blob? Only the sign of a zero depends on it: from 7.0
    /// on a score that is put into a blob loses it. A score that is already in a blob has it: servers up to 6.2 wrote
    /// the sign, and a newer server keeps the text of the blobs that it loads.
    packed: bool,
}

/// A member in its place. No score is NaN.
#[derive(Clone, Debug)]
struct Ranked {
    score: f64,
    member: Member,
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        let scores = self.score.partial_cmp(&other.score);
        scores
            .unwrap_or(Ordering::Equal)
            .then_with(|| self.member.cmp(&other.member))
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ranked {}

impl Default for Zset {
    fn default() -> Self {
        Self {
            scores: HashMap::new(),
            order: BTreeSet::new(),
            bytes: 0,
            packed: true,
        }
    }
}

impl Zset {
    /// How many members it has.
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    /// The score of a member.
    pub(super) fn score(&self, member: &[u8]) -> Option<f64> {
        self.scores.get(member).copied()
    }

    /// Members and scores in order.
    pub(super) fn iter(
        &self,
    ) -> impl DoubleEndedIterator<Item = (&Member, f64)> + ExactSizeIterator {
        self.order
            .iter()
            .map(|ranked| (&ranked.member, ranked.score))
    }

    /// Those from one place in the order to another.
    fn between(
        &self,
        from: Bound<Ranked>,
        to: Bound<Ranked>,
    ) -> impl DoubleEndedIterator<Item = (&Member, f64)> {
        let empty = match (&from, &to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (
                Bound::Included(from) | Bound::Excluded(from),
                Bound::Included(to) | Bound::Excluded(to),
            ) => from >= to,
        };
        let range = (!empty).then(|| self.order.range((from, to)));
        range
            .into_iter()
            .flatten()
            .map(|ranked| (&ranked.member, ranked.score))
    }

    /// Those with `min <= score < max`.
    pub(super) fn scored(&self, min: f64, max: f64) -> impl Iterator<Item = (&Member, f64)> {
        self.between(
            Bound::Included(Ranked::first(min)),
            Bound::Excluded(Ranked::first(max)),
        )
    }

    /// `SORT` makes servers keep it unpacked from then on.
    pub(super) fn unpack(&mut self) {
        self.packed = false;
    }

    /// Sets the score of a member, which is not NaN.
    pub(super) fn set(&mut self, member: &[u8], score: f64, dialect: Dialect) {
        match self.scores.get_key_value(member) {
            // A zero keeps its sign.
            Some((_, old)) if *old == score => {}
            Some((shared, old)) => {
                let member = shared.clone();
                let old = Ranked {
                    score: *old,
                    member: member.clone(),
                };
                self.order.remove(&old);
                self.put(member, score, dialect);
            }
            None => self.add_new(member.into(), score, dialect),
        }
    }

    /// Adds a member that is not there yet.
    pub(super) fn add_new(&mut self, member: Member, score: f64, dialect: Dialect) {
        self.packed &= self.len() < MOST_PACKED && member.len() <= LONGEST_PACKED;
        self.bytes = self.bytes.saturating_add(member.len());
        self.put(member, score, dialect);
    }

    fn put(&mut self, member: Member, score: f64, dialect: Dialect) {
        let score = packed_by(self.packed, dialect, score);
        self.scores.insert(member.clone(), score);
        self.order.insert(Ranked { score, member });
    }

    /// Takes a member out, if it is there.
    fn remove(&mut self, member: &[u8]) {
        if let Some((member, score)) = self.scores.remove_entry(member) {
            self.bytes = self.bytes.saturating_sub(member.len());
            self.order.remove(&Ranked { score, member });
        }
    }

    /// The result of a `…STORE` command with these members, each of which is there once. A set to which members were
    /// added one by one may be packed in another way; this one depends only on its final content.
    pub(super) fn stored(members: Vec<(Member, f64)>, dialect: Dialect) -> Self {
        let packed = members.len() <= MOST_PACKED
            && members
                .iter()
                .all(|(member, _)| member.len() <= LONGEST_PACKED);
        let mut zset = Self {
            packed,
            ..Self::default()
        };
        for (member, score) in members {
            zset.bytes = zset.bytes.saturating_add(member.len());
            zset.put(member, score, dialect);
        }
        zset
    }

    fn read(kind: u8, mut input: Cursor<'_>, dialect: Dialect) -> Result<Self, BadValue> {
        let mut pairs = Vec::new();
        let is_blob = matches!(kind, value_type::ZSET_ZIPLIST | value_type::ZSET_LISTPACK);
        if is_blob {
            let blob = input.string()?;
            let elements = match kind {
                value_type::ZSET_ZIPLIST => packed::ziplist(&blob)?,
                _ => packed::listpack(&blob)?,
            };
            let mut elements = elements.iter();
            while let Some(member) = elements.next() {
                let score = elements.next().ok_or(BadValue("a member has no score"))?;
                pairs.push((Member::from(member.to_bytes()), packed_score(score)?));
            }
        } else {
            for _ in 0..input.count()? {
                let member = Member::from(&*input.string()?);
                let score = match kind {
                    value_type::ZSET => input.double_text()?,
                    _ => input.f64_le()?,
                };
                pairs.push((member, score));
            }
        }
        input.finish()?;
        Self::loaded(pairs, is_blob, dialect)
    }

    /// The value as a server has it after loading it. A blob stays as it is unless it has too many members. Other forms
    /// are packed where that is possible.
    fn loaded(
        mut pairs: Vec<(Member, f64)>,
        is_blob: bool,
        dialect: Dialect,
    ) -> Result<Self, BadValue> {
        let is_short = |(member, _): &(Member, f64)| member.len() <= LONGEST_PACKED;
        let packed = pairs.len() <= MOST_PACKED && (is_blob || pairs.iter().all(is_short));
        if !is_blob {
            for (_, score) in &mut pairs {
                *score = packed_by(packed, dialect, *score);
            }
        }
        let mut zset = Self {
            packed,
            ..Self::default()
        };
        zset.scores.reserve(pairs.len());
        for (member, score) in &pairs {
            if score.is_nan() {
                return Err(BadValue("a score is not a number"));
            }
            zset.bytes = zset.bytes.saturating_add(member.len());
            if zset.scores.insert(member.clone(), *score).is_some() {
                return Err(BadValue("a member is there twice"));
            }
        }
        let ranked: Vec<Ranked> = pairs
            .into_iter()
            .map(|(member, score)| Ranked { score, member })
            .collect();
        // A server takes the members of a blob in their order in the blob.
        if is_blob && !ranked.is_sorted() {
            return Err(BadValue("the members of a sorted set are not in order"));
        }
        zset.order = ranked.into_iter().collect();
        Ok(zset)
    }

    /// Is it one that servers pack, where they can?
    fn is_small(&self) -> bool {
        self.len() <= MOST_PACKED && (self.iter()).all(|(member, _)| member.len() <= LONGEST_PACKED)
    }

    /// The value as one blob: any other form loses the sign of a zero in a server that packs what it loads.
    fn to_listpack(&self) -> Vec<u8> {
        let mut listpack = ListpackWriter::new();
        for (member, score) in self.iter() {
            listpack.push(member);
            listpack.push(score_text(score).as_bytes());
        }
        listpack.finish()
    }

    /// The same for servers up to 6.2, if there is a sign to be kept: a newer server may load it.
    fn to_ziplist(&self) -> Option<Vec<u8>> {
        let negative_zero = |(_, score): (&Member, f64)| score == 0.0 && score.is_sign_negative();
        if !self.iter().any(negative_zero) {
            return None;
        }
        let mut ziplist = ZiplistWriter::new();
        for (member, score) in self.iter() {
            ziplist.push(member)?;
            ziplist.push(score_text(score).as_bytes())?;
        }
        Some(ziplist.finish())
    }
}

impl Ranked {
    /// Where the members with this score begin.
    fn first(score: f64) -> Self {
        Self {
            score,
            member: Member::from([]),
        }
    }
}

/// The score after a server has put it into a packed blob, or not.
fn packed_by(packed: bool, dialect: Dialect, score: f64) -> f64 {
    let loses_sign = packed && dialect.version >= FIRST_WITH_LISTPACK;
    if loses_sign && score == 0.0 {
        0.0
    } else {
        score
    }
}

/// A score in a packed blob.
fn packed_score(element: &Element<'_>) -> Result<f64, BadValue> {
    match element {
        Element::Int(integer) => Ok(*integer as f64),
        Element::Str(text) => {
            text_score(text).ok_or(BadValue("a score is no number to all servers"))
        }
    }
}

/// A score in the fewest digits that mean this number and no other. Servers parse it, and nobody compares the text.
fn score_text(score: f64) -> String {
    /// Between these, no exponent is needed.
    const PLAIN: std::ops::Range<f64> = 1e-5..1e17;
    if score == 0.0 || PLAIN.contains(&score.abs()) || score.is_infinite() {
        format!("{score}")
    } else {
        format!("{score:e}")
    }
}

/// Appends a double as text (PROTOCOL.md D.3).
fn put_double_text(out: &mut Vec<u8>, score: f64) {
    if score.is_infinite() {
        return out.push(if score > 0.0 { 254 } else { 255 });
    }
    let text = score_text(score);
    out.push(text.len() as u8); // At most 24.
    out.extend_from_slice(text.as_bytes());
}

impl DataType for Zset {
    fn decode(raw: &Raw, dialect: Dialect) -> Option<Result<Self, BadValue>> {
        matches!(
            raw.kind,
            value_type::ZSET
                | value_type::ZSET_2
                | value_type::ZSET_ZIPLIST
                | value_type::ZSET_LISTPACK
        )
        .then(|| Self::read(raw.kind, Cursor::new(&raw.payload), dialect))
    }

    fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> u8 {
        let is_small = self.is_small();
        if is_small && dialect.version >= FIRST_WITH_LISTPACK {
            put_string(out, &self.to_listpack());
            return value_type::ZSET_LISTPACK;
        }
        let binary = dialect.version >= FIRST_WITH_BINARY;
        if let Some(ziplist) = (is_small && binary).then(|| self.to_ziplist()).flatten() {
            put_string(out, &ziplist);
            return value_type::ZSET_ZIPLIST;
        }
        put_number(out, self.len() as u64);
        // Loaders insert at the front the fastest.
        for (member, score) in self.iter().rev() {
            put_string(out, member);
            if binary {
                out.extend_from_slice(&score.to_le_bytes());
            } else {
                put_double_text(out, score);
            }
        }
        if binary {
            value_type::ZSET_2
        } else {
            value_type::ZSET
        }
    }

    fn of(value: &mut Value) -> Option<&mut Self> {
        match value {
            Value::Zset(value) => Some(value),
            _ => None,
        }
    }

    fn into_value(self) -> Value {
        Value::Zset(Box::new(self))
    }

    fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn weight(&self) -> usize {
        let overhead = self.len().saturating_mul(OVERHEAD);
        self.bytes.saturating_add(overhead)
    }
}

#[cfg(test)]
#[path = "zsets_tests.rs"]
mod tests;
