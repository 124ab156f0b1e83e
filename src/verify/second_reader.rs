//! A second opinion on a base: a reader of RDB files that is not ours also walks it, and counts.
//!
//! The crate `rdb` knows Redis' versions 1 to 13, but not Valkey's own magic. It is asked only after our own walker has
//! accepted all of the bytes. It skips values and does not hold them. If it panics, there is just no second opinion.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::rdb::{Filter, RdbDecoder, Type};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::archive::{Archive, ArchiveError, BaseManifest};
use crate::runtime::is_simulated;

/// Its name, with the version that `Cargo.toml` asks for.
pub(super) const READER: &str = "rdb 0.4";
/// What it looks at.
pub(super) const CHECKS: [&str; 3] = ["structure", "keys by database", "keys by type"];

/// The newest version with the magic `REDIS` that it reads.
const NEWEST: u32 = ::rdb::constants::version::SUPPORTED_MAXIMUM;
/// Pieces of RDB that wait for it, at most a zstd frame (4 MiB) each.
const AHEAD: usize = 1;

/// Whose keys are counted under these names by our walker, and here.
const TYPES: [&str; 6] = ["string", "list", "set", "zset", "hash", "stream"];
/// All that modules wrote.
const MODULE: &str = "module";

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Opinion {
    /// Keys by database and by type.
    Counted(Counts),
    /// It refuses what our reader accepted.
    Refuses(String),
    /// It cannot say.
    None(String),
}

/// Keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) databases: BTreeMap<u32, u64>,
    pub(crate) types: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Those of a manifest, in the words of the second reader.
    pub(super) fn of(manifest: &BaseManifest) -> Self {
        let databases = manifest.databases.iter();
        Self::told(
            databases.map(|(db, counts)| (*db, counts.keys)),
            &manifest.types,
        )
    }

    /// Those that our own walker has counted.
    pub(crate) fn told(
        databases: impl Iterator<Item = (u32, u64)>,
        types: &BTreeMap<String, u64>,
    ) -> Self {
        let mut counts = Self::default();
        counts.databases.extend(databases);
        for (name, keys) in types {
            let known = TYPES.into_iter().find(|known| known == name);
            add(&mut counts.types, known.unwrap_or(MODULE), *keys);
        }
        counts
    }
}

fn add<K: Ord>(to: &mut BTreeMap<K, u64>, key: K, more: u64) {
    let count = to.entry(key).or_default();
    *count = count.saturating_add(more);
}

/// Has it read the base, unless that is of a kind that it does not know.
///
/// # Errors
/// When the base cannot be read.
pub(super) async fn opinion(
    archive: &Archive,
    base: &BaseManifest,
) -> Result<Opinion, ArchiveError> {
    if let Some(why) = unknown(&base.rdb_magic) {
        return Ok(Opinion::None(why));
    }
    if is_simulated() {
        return Ok(Opinion::None("it needs a thread".to_owned()));
    }
    let (sender, receiver) = mpsc::channel::<Bytes>(AHEAD);
    let reading = spawn_blocking(move || read(Pipe::new(receiver)));
    let mut bytes = archive.read_base(base).await?;
    while let Some(chunk) = bytes.next().await {
        // It may have given up before the end.
        if sender.send(chunk?).await.is_err() {
            break;
        }
    }
    drop(sender);
    Ok(reading
        .await
        .unwrap_or_else(|error| Opinion::None(format!("it was ended: {error}"))))
}

/// The same of an RDB that is read here and now, on the thread of the caller.
pub(crate) fn opinion_of(rdb: impl Read, magic: &str) -> Opinion {
    unknown(magic).map_or_else(|| read(rdb), Opinion::None)
}

fn unknown(magic: &str) -> Option<String> {
    let version = magic.strip_prefix("REDIS");
    let version = version.and_then(|version| version.parse::<u32>().ok());
    match version {
        Some(version) if version <= NEWEST => None,
        _ => Some(format!(
            "{READER} reads REDIS0001 to REDIS{NEWEST:04}, and this is {magic}"
        )),
    }
}

fn read(pipe: impl Read) -> Opinion {
    let counter = Counter::default();
    let walked = catch_unwind(AssertUnwindSafe(|| {
        for item in RdbDecoder::new(pipe, &counter)? {
            item?;
        }
        Ok::<_, ::rdb::RdbError>(())
    }));
    match walked {
        Ok(Ok(())) => Opinion::Counted(counter.0.take().counts),
        Ok(Err(
            error @ (::rdb::RdbError::Unsupported(_)
            | ::rdb::RdbError::UnsupportedVersion(_)
            | ::rdb::RdbError::UnknownEncoding(_)),
        )) => Opinion::None(format!("{READER} does not know something in it: {error}")),
        Ok(Err(error)) => Opinion::Refuses(error.to_string()),
        Err(_) => Opinion::None(format!("{READER} could not give one: it panicked")),
    }
}

/// Counts every key, and wants no value.
#[derive(Default)]
struct Counter(RefCell<Counting>);

#[derive(Default)]
struct Counting {
    counts: Counts,
    db: u32,
    kind: u8,
}

impl Filter for &Counter {
    fn matches_db(&self, db: u32) -> bool {
        self.0.borrow_mut().db = db;
        true
    }

    fn matches_type(&self, kind: u8) -> bool {
        self.0.borrow_mut().kind = kind;
        true
    }

    fn matches_key(&self, _: &[u8]) -> bool {
        let counting = &mut *self.0.borrow_mut();
        let name = match Type::from_encoding(counting.kind) {
            Ok(Type::String) => "string",
            Ok(Type::List) => "list",
            Ok(Type::Set) => "set",
            Ok(Type::SortedSet) => "zset",
            Ok(Type::Hash) => "hash",
            Ok(Type::Stream) => "stream",
            Ok(Type::Module) | Err(_) => MODULE,
        };
        add(&mut counting.counts.databases, counting.db, 1);
        add(&mut counting.counts.types, name, 1);
        false
    }
}

/// The bytes that the other side sends.
struct Pipe {
    from: mpsc::Receiver<Bytes>,
    rest: Bytes,
}

impl Pipe {
    fn new(from: mpsc::Receiver<Bytes>) -> Self {
        Self {
            from,
            rest: Bytes::new(),
        }
    }
}

impl Read for Pipe {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.from.blocking_recv() {
                Some(next) => self.rest = next,
                None => return Ok(0),
            }
        }
        let taken = self.rest.split_to(into.len().min(self.rest.len()));
        if let Some(into) = into.get_mut(..taken.len()) {
            into.copy_from_slice(&taken);
        }
        Ok(taken.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::wire::rdb::samples;

    struct Panics;

    impl Read for Panics {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("a bug of somebody else");
        }
    }

    #[test]
    fn a_panic_is_no_opinion_and_nonsense_is_refused() {
        assert!(matches!(read(Panics), Opinion::None(why) if why.contains("panicked")));
        let cut = read(&b"REDIS0010\x00\x03abc\x05xy"[..]);
        assert!(matches!(cut, Opinion::Refuses(_)), "{cut:?}");
    }

    #[test]
    fn it_counts_every_key_of_every_type() {
        let mut body = vec![0xFE, 3];
        let mut types = BTreeMap::new();
        for (index, (name, dump)) in samples::REDIS_DUMPS.iter().enumerate() {
            body.extend(samples::dumped(&format!("k{index}"), dump));
            add(&mut types, *name, 1);
        }
        let Opinion::Counted(counts) = read(&samples::rdb("REDIS0013", &body)[..]) else {
            panic!("no opinion");
        };
        assert_eq!(counts.databases, BTreeMap::from([(3, 19)]));
        assert_eq!(counts.types, types);
    }
}
