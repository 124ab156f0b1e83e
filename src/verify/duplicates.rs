//! Keys that are twice in a snapshot. A server that loads it stops at the second one, and the structure does not show
//! it.
//!
//! Fingerprints of the names are compared, a limited number at once, so memory stays bounded and a large snapshot is
//! read several times. Names with equal fingerprints are then compared themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use futures::StreamExt;

use crate::archive::{Archive, ArchiveError, BaseManifest};
use crate::display::Shown;
use crate::wire::rdb::reader::{Fate, Item, ReadError, Reader, Sink};

/// Fingerprints that are compared at once, eight bytes each.
const AT_ONCE: u64 = if cfg!(test) { 8 } else { 4 << 20 };
/// Names that are compared themselves, at most. One key that is there twice is enough, and equal fingerprints of
/// different names are rarer than that.
const LOOKED_AT: usize = 64;
/// Names and records are held as far as this, and it is more than any server's own.
const RECORD_LIMIT: usize = 64 << 20;
/// How much of the name is shown.
const SHOWN: usize = 200;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Every key is there once.
    None,
    /// This key is there twice, or more often, in this database.
    Twice(u32, Shown),
    /// This is not known.
    Unknown(String),
}

/// Looks for keys that are twice in a base that is otherwise sound.
///
/// # Errors
/// When the base cannot be read.
pub(super) async fn find(archive: &Archive, base: &BaseManifest) -> Result<Found, ArchiveError> {
    let keys = base.databases.values().map(|db| db.keys);
    let keys = keys.fold(0, u64::saturating_add);
    let parts = keys.div_ceil(AT_ONCE).max(1);
    let hasher = RandomState::default();
    let mut suspects = BTreeSet::new();
    for part in 0..parts {
        let mut sink = Fingerprints {
            hasher: hasher.clone(),
            parts,
            part,
            found: Vec::new(),
        };
        if let Err(why) = read(archive, base, &mut sink).await? {
            return Ok(Found::Unknown(why));
        }
        sink.found.sort_unstable();
        let pairs = sink.found.iter().zip(sink.found.iter().skip(1));
        let equal = pairs.filter(|(one, next)| one == next).map(|(one, _)| *one);
        suspects.extend(equal.take(LOOKED_AT));
        if suspects.len() >= LOOKED_AT {
            break;
        }
    }
    if suspects.is_empty() {
        return Ok(Found::None);
    }
    let mut names = Names {
        hasher,
        suspects,
        seen: BTreeMap::new(),
        twice: None,
    };
    if let Err(why) = read(archive, base, &mut names).await? {
        return Ok(Found::Unknown(why));
    }
    Ok(match names.twice {
        Some((db, name)) => Found::Twice(db, Shown::cut(&name, SHOWN)),
        None => Found::None,
    })
}

/// Inside: why it cannot be read as keys.
async fn read(
    archive: &Archive,
    base: &BaseManifest,
    sink: &mut (impl Sink<Error = Infallible> + Send),
) -> Result<Result<(), String>, ArchiveError> {
    let mut reader = Reader::new(RECORD_LIMIT);
    let mut bytes = archive.read_base(base).await?;
    while let Some(chunk) = bytes.next().await {
        if let Err(error) = reader.push(&chunk?, sink) {
            return Ok(Err(error.to_string()));
        }
    }
    let finished: Result<_, ReadError<Infallible>> = reader.finish();
    Ok(finished.map(|_| ()).map_err(|error| error.to_string()))
}

fn fingerprint(hasher: &RandomState, db: u32, key: &[u8]) -> u64 {
    hasher.hash_one((db, key))
}

struct Fingerprints {
    hasher: RandomState,
    parts: u64,
    part: u64,
    found: Vec<u64>,
}

impl Sink for Fingerprints {
    type Error = Infallible;

    fn record(&mut self, _: u8, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn fate(&mut self, db: u32, key: &[u8], _: u8, _: bool) -> Fate {
        let fingerprint = fingerprint(&self.hasher, db, key);
        if fingerprint.checked_rem(self.parts) == Some(self.part) {
            self.found.push(fingerprint);
        }
        Fate::Drop
    }

    fn pass(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn item(&mut self, _: Item<'_>) -> Result<(), Infallible> {
        Ok(())
    }
}

/// The names that have equal fingerprints.
struct Names {
    hasher: RandomState,
    suspects: BTreeSet<u64>,
    seen: BTreeMap<u64, (u32, Vec<u8>)>,
    twice: Option<(u32, Vec<u8>)>,
}

impl Sink for Names {
    type Error = Infallible;

    fn record(&mut self, _: u8, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn fate(&mut self, db: u32, key: &[u8], _: u8, _: bool) -> Fate {
        let fingerprint = fingerprint(&self.hasher, db, key);
        if self.twice.is_some() || !self.suspects.contains(&fingerprint) {
            return Fate::Drop;
        }
        match self.seen.get(&fingerprint) {
            Some((other, name)) if *other == db && name.as_slice() == key => {
                self.twice = Some((db, key.to_vec()));
            }
            Some(_) => {}
            None => {
                self.seen.insert(fingerprint, (db, key.to_vec()));
            }
        }
        Fate::Drop
    }

    fn pass(&mut self, _: &[u8]) -> Result<(), Infallible> {
        Ok(())
    }

    fn item(&mut self, _: Item<'_>) -> Result<(), Infallible> {
        Ok(())
    }
}
