//! What a stream of Redis 8.6 remembers, so that an entry that is sent twice is added once (`IDMP`).
//!
//! Servers drop what is older than `duration` by their clock. We do not have that clock, so we keep more than the
//! master has. A server that loads it drops the rest. When an entry is added again, we see that the master had dropped
//! it. The oldest ones of a producer always go first, by age and by number. So nothing that the master has is missing
//! here.

use std::collections::{BTreeMap, HashSet, VecDeque};

use xxhash_rust::xxh3::Xxh3Default;

use super::id::Id;
use super::nodes::Field;
use crate::model::Blob;
use crate::wire::rdb::cursor::{BadValue, Cursor, put_number, put_string};

/// The default of `stream-idmp-duration`, and the allowed range.
const DURATION: u64 = 100;
const DURATIONS: std::ops::RangeInclusive<u64> = 1..=86_400;
/// The default of `stream-idmp-maxsize`, and the allowed range.
const SIZE: u64 = 100;
const SIZES: std::ops::RangeInclusive<u64> = 1..=10_000;
/// What the accounts take for an id that is remembered.
const WEIGHT: usize = 150;

/// What is remembered.
#[derive(Clone, Debug)]
pub(super) struct Idempotence {
    /// How long, in seconds.
    duration: u64,
    /// How many of each producer.
    size: u64,
    producers: BTreeMap<Blob, Producer>,
    added: u64,
    duplicates: u64,
    remembered: usize,
}

#[derive(Clone, Debug, Default)]
struct Producer {
    /// In the order in which they came.
    ids: VecDeque<(Blob, Id)>,
    known: HashSet<Blob>,
}

impl Default for Idempotence {
    fn default() -> Self {
        Self {
            duration: DURATION,
            size: SIZE,
            producers: BTreeMap::new(),
            added: 0,
            duplicates: 0,
            remembered: 0,
        }
    }
}

impl Idempotence {
    /// An entry came again, and was not added.
    pub(super) fn duplicate(&mut self) {
        self.duplicates = self.duplicates.saturating_add(1);
    }

    /// An entry was added. If its id is known here, the master had dropped it, and with it all before.
    pub(super) fn record(&mut self, producer: &[u8], sent: &[u8], id: Id) {
        let of = self.producers.entry(producer.into()).or_default();
        let before = of.ids.len();
        while of.known.contains(sent) {
            of.drop_oldest();
        }
        of.known.insert(sent.into());
        of.ids.push_back((sent.into(), id));
        if of.ids.len() as u64 > self.size {
            of.drop_oldest();
        }
        self.added = self.added.saturating_add(1);
        self.remembered = self
            .remembered
            .saturating_add(of.ids.len())
            .saturating_sub(before);
    }

    /// `XCFGSET`: what changes makes it forget all. False: this is not allowed.
    pub(super) fn configure(&mut self, duration: Option<u64>, size: Option<u64>) -> bool {
        if duration.is_some_and(|new| !DURATIONS.contains(&new))
            || size.is_some_and(|new| !SIZES.contains(&new))
        {
            return false;
        }
        let (duration, size) = (duration.unwrap_or(self.duration), size.unwrap_or(self.size));
        if (duration, size) != (self.duration, self.size) {
            (self.duration, self.size) = (duration, size);
            self.producers.clear();
            self.remembered = 0;
        }
        true
    }

    pub(super) fn weight(&self) -> usize {
        self.remembered.saturating_mul(WEIGHT)
    }

    pub(super) fn decode(input: &mut Cursor<'_>) -> Result<Self, BadValue> {
        let mut all = Self {
            duration: input.number()?,
            size: input.number()?,
            ..Self::default()
        };
        if !DURATIONS.contains(&all.duration) || !SIZES.contains(&all.size) {
            return Err(BadValue("the IDMP settings of a stream are out of range"));
        }
        for _ in 0..input.count()? {
            let name: Blob = input.string()?.into();
            let mut producer = Producer::default();
            for _ in 0..input.count()? {
                let sent: Blob = input.string()?.into();
                let id = Id {
                    ms: input.number()?,
                    seq: input.number()?,
                };
                if !producer.known.insert(sent.clone()) {
                    return Err(BadValue("a stream has an IDMP id twice"));
                }
                producer.ids.push_back((sent, id));
            }
            all.remembered = all.remembered.saturating_add(producer.ids.len());
            if all.producers.insert(name, producer).is_some() {
                return Err(BadValue("a stream has an IDMP producer twice"));
            }
        }
        all.added = input.number()?;
        all.duplicates = input.number()?;
        Ok(all)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_number(out, self.duration);
        put_number(out, self.size);
        put_number(out, self.producers.len() as u64);
        for (name, producer) in &self.producers {
            put_string(out, name);
            put_number(out, producer.ids.len() as u64);
            for (sent, id) in &producer.ids {
                put_string(out, sent);
                put_number(out, id.ms);
                put_number(out, id.seq);
            }
        }
        put_number(out, self.added);
        put_number(out, self.duplicates);
    }
}

impl Producer {
    fn drop_oldest(&mut self) {
        if let Some((sent, _)) = self.ids.pop_front() {
            self.known.remove(&sent);
        }
    }
}

/// The id that `IDMPAUTO` makes of an entry: the order of its fields does not matter.
pub(super) fn automatic_id(fields: &[Field<'_>]) -> [u8; 16] {
    let mut hash = Xxh3Default::new();
    let (mut sum, mut xor) = ((0u64, 0u64), (0u64, 0u64));
    for (field, value) in fields {
        hash.reset();
        hash.update(field);
        hash.update(&(field.len() as u64).to_le_bytes());
        hash.update(value);
        let digest = hash.digest128();
        let (low, high) = (digest as u64, (digest >> 64) as u64);
        sum = (sum.0.wrapping_add(low), sum.1.wrapping_add(high));
        xor = (xor.0 ^ low, xor.1 ^ high);
    }
    let low = sum.0 ^ xor.1.rotate_left(1);
    let high = sum.1 ^ xor.0.rotate_left(1);
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}
