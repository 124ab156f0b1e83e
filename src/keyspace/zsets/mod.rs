//! Sorted sets.

mod commands;
mod number;
mod range;
mod store;

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::OVERHEAD;
use super::table::Spec;
use super::value::{DataType, Dialect, Raw, Value};
use crate::rdb::cursor::{BadValue, Cursor, put_number, put_string};
use crate::rdb::packed::{self, Element, ListpackWriter};

pub(super) use commands::{Conditions, add};
pub(super) use number::{lenient, number};

pub(super) const COMMANDS: [&[Spec]; 2] = [commands::COMMANDS, store::COMMANDS];

/// The RDB types of sorted sets.
const TEXT: u8 = 3;
const BINARY: u8 = 5;
const ZIPLIST: u8 = 12;
const LISTPACK: u8 = 17;

/// The first RDB version with [`BINARY`].
const FIRST_WITH_BINARY: u32 = 8;
/// The first RDB version with [`LISTPACK`], of either family.
const FIRST_WITH_LISTPACK: u32 = 10;

/// Up to how many members servers pack, and the longest of these (their default `zset-max-…` settings).
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
    /// Does a server with default settings keep it as one packed blob? Nothing but the sign of a zero depends on it:
    /// from 7.0 on that is lost in a blob.
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
        let loses_sign = self.packed && dialect.version >= FIRST_WITH_LISTPACK;
        let score = if loses_sign && score == 0.0 {
            0.0
        } else {
            score
        };
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

    /// What a `…STORE` command makes of these members, each of which stands there once: unlike one to which they were
    /// added one by one, it is packed by what it is in the end.
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

    fn read(kind: u8, mut input: Cursor<'_>) -> Result<Self, BadValue> {
        let mut pairs = Vec::new();
        if matches!(kind, ZIPLIST | LISTPACK) {
            let blob = input.string()?;
            let elements = match kind {
                ZIPLIST => packed::ziplist(&blob)?,
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
                    TEXT => input.double_text()?,
                    _ => input.f64_le()?,
                };
                pairs.push((member, score));
            }
        }
        input.finish()?;
        Self::loaded(pairs, matches!(kind, ZIPLIST | LISTPACK))
    }

    fn loaded(pairs: Vec<(Member, f64)>, packed: bool) -> Result<Self, BadValue> {
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
                return Err(BadValue("a member stands there twice"));
            }
        }
        let ranked = pairs
            .into_iter()
            .map(|(member, score)| Ranked { score, member });
        zset.order = ranked.collect();
        Ok(zset)
    }

    /// As one blob, if servers keep it so, and it says all.
    fn to_listpack(&self, dialect: Dialect) -> Option<Vec<u8>> {
        let fits = dialect.version >= FIRST_WITH_LISTPACK
            && self.len() <= MOST_PACKED
            && self.iter().all(|(member, score)| {
                member.len() <= LONGEST_PACKED && !(score == 0.0 && score.is_sign_negative())
            });
        fits.then(|| {
            let mut listpack = ListpackWriter::new();
            for (member, score) in self.iter() {
                listpack.push(member);
                listpack.push(score_text(score).as_bytes());
            }
            listpack.finish()
        })
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

/// A score in a packed blob.
fn packed_score(element: &Element<'_>) -> Result<f64, BadValue> {
    match element {
        Element::Int(integer) => Ok(*integer as f64),
        Element::Str(text) => lenient(text).ok_or(BadValue("a score is no number")),
    }
}

/// A score in the fewest digits that mean it and no other. Servers parse it; nobody compares the text.
fn score_text(score: f64) -> String {
    /// Between these, no exponent is needed.
    const PLAIN: std::ops::Range<f64> = 1e-5..1e17;
    if score == 0.0 || PLAIN.contains(&score.abs()) || score.is_infinite() {
        format!("{score}")
    } else {
        format!("{score:e}")
    }
}

/// Appends a double as text (fact sheet D.3).
fn put_double_text(out: &mut Vec<u8>, score: f64) {
    if score.is_infinite() {
        return out.push(if score > 0.0 { 254 } else { 255 });
    }
    let text = score_text(score);
    out.push(text.len() as u8); // At most 24.
    out.extend_from_slice(text.as_bytes());
}

impl DataType for Zset {
    fn decode(raw: &Raw, _: Dialect) -> Option<Result<Self, BadValue>> {
        matches!(raw.kind, TEXT | BINARY | ZIPLIST | LISTPACK)
            .then(|| Self::read(raw.kind, Cursor::new(&raw.payload)))
    }

    fn encode(&self, dialect: Dialect, out: &mut Vec<u8>) -> u8 {
        if let Some(listpack) = self.to_listpack(dialect) {
            put_string(out, &listpack);
            return LISTPACK;
        }
        put_number(out, self.len() as u64);
        let binary = dialect.version >= FIRST_WITH_BINARY;
        // Loaders insert at the front the fastest.
        for (member, score) in self.iter().rev() {
            put_string(out, member);
            if binary {
                out.extend_from_slice(&score.to_le_bytes());
            } else {
                put_double_text(out, score);
            }
        }
        if binary { BINARY } else { TEXT }
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
