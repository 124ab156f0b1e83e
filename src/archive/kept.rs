//! Segments that were read once, and are kept for as long as a restore lasts: it plans, checks, counts and serves by the same bytes,
//! and each request to a store costs a round trip.
//!
//! A segment is asked for with one request, header and payload together. Most are far smaller than what is asked for; the payload of
//! a longer one is kept when it is first read to its end. What finds no room in memory goes to a file without a name, and what
//! finds none there either is read again.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use futures::stream::{self, StreamExt};

use super::LogObject;
use crate::config::OBJECTS;
use crate::log::segment::HEADER_LIMIT;
use crate::runtime;
use crate::store::ByteStream;
use crate::wire::position::ReplId;

/// Segments that are asked for at the same time.
pub(super) const IN_FLIGHT: usize = 64;
/// Bytes that are asked for at once.
pub(super) const AT_ONCE: usize = 192 << 10;
/// Bytes that are kept in memory (in tests so few that the file is needed).
const MEMORY: usize = if cfg!(test) { 2 << 10 } else { 12 << 20 };
/// While a restore lasts, no base is on its way to the store.
const _: () = assert!(IN_FLIGHT * AT_ONCE + MEMORY <= OBJECTS);
/// Bytes that are kept in the file.
const FILE: u64 = 2 << 30;
/// Segments that are kept in the file. Each takes about 40 bytes of memory. Those of a longer log are read again.
const PLACES: usize = if cfg!(test) { 1000 } else { 1 << 20 };
/// Chunks in which the file is read.
const CHUNK: usize = 256 << 10;

/// What was read.
#[derive(Default)]
pub(super) struct Kept(Mutex<State>);

#[derive(Default)]
struct State {
    /// What is in memory.
    short: BTreeMap<(ReplId, LogObject), Bytes>,
    /// Bytes of that.
    memory: usize,
    file: TheFile,
    /// What is in the file, by history and object.
    filed: BTreeMap<ReplId, BTreeMap<LogObject, Filed>>,
    /// How many of them there are, or will be.
    places: usize,
    /// Where the next segment goes in the file.
    end: u64,
}

/// A place in the file.
#[derive(Clone, Copy)]
struct Filed {
    at: u64,
    len: u64,
}

enum Place {
    Memory(Bytes),
    File { file: Arc<File>, at: u64, len: u64 },
}

#[derive(Default)]
enum TheFile {
    #[default]
    NotYet,
    Open(Arc<File>),
    /// There is no room, or no directory for it.
    None,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kept")
    }
}

impl Kept {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a whole object.
    pub(super) fn put(&self, history: ReplId, name: LogObject, object: &Bytes) {
        let mut state = self.state();
        let memory = state.memory.saturating_add(object.len());
        if memory <= MEMORY {
            state.memory = memory;
            // What is asked of a store may be a part of something larger.
            let copy = Bytes::copy_from_slice(object);
            state.short.insert((history, name), copy);
            return;
        }
        let len = object.len() as u64;
        let Some((file, at)) = state.reserve(len) else {
            return;
        };
        if file.write_all_at(object, at).is_err() {
            state.file = TheFile::None;
            return;
        }
        state.filed(history, name, Filed { at, len });
    }

    /// An object that is kept and short.
    pub(super) fn short(&self, history: ReplId, name: LogObject) -> Option<Bytes> {
        match self.state().place(history, name)? {
            Place::Memory(bytes) => Some(bytes),
            Place::File { file, at, len } => {
                let len = usize::try_from(len).ok().filter(|len| *len <= AT_ONCE)?;
                read(&file, at, len)
            }
        }
    }

    /// The bytes of an object that is kept.
    pub(super) fn stream(&self, history: ReplId, name: LogObject) -> Option<ByteStream> {
        let place = self.state().place(history, name)?;
        let (file, at, len) = match place {
            Place::Memory(bytes) => return Some(stream::iter([Ok(bytes)]).boxed()),
            Place::File { file, at, len } => (file, at, len),
        };
        let end = at.saturating_add(len);
        // A chunk that cannot be read ends the object early, which its reader tells as damage: look before.
        read(&file, end.saturating_sub(1), 1)?;
        let chunks = stream::unfold(at, move |at| {
            let file = Arc::clone(&file);
            async move {
                let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
                let chunk = read(&file, at, left.min(CHUNK))?;
                let next = at.saturating_add(chunk.len() as u64);
                (!chunk.is_empty()).then_some((Ok(chunk), next))
            }
        });
        Some(chunks.boxed())
    }

    /// Passes an object through, and keeps it if it comes to its end. `payload`: bytes after its header.
    pub(super) fn keeping(
        self: &Arc<Self>,
        history: ReplId,
        name: LogObject,
        payload: u64,
        object: ByteStream,
    ) -> ByteStream {
        let room = payload.saturating_add(HEADER_LIMIT as u64);
        let Some((file, at)) = self.state().reserve(room) else {
            return object;
        };
        let (kept, written) = (Arc::clone(self), 0_u64);
        let passed = stream::unfold(
            (object, kept, Some(file), written),
            move |(mut object, kept, file, written)| async move {
                let next = object.next().await;
                let Some(file) = file else {
                    return next.map(|next| (next, (object, kept, None, written)));
                };
                match next {
                    None => {
                        drop(file);
                        let len = written;
                        kept.state().filed(history, name, Filed { at, len });
                        None
                    }
                    Some(Ok(chunk)) => {
                        let end = written.saturating_add(chunk.len() as u64);
                        let to = at.saturating_add(written);
                        let fits = end <= room && file.write_all_at(&chunk, to).is_ok();
                        let file = fits.then_some(file);
                        Some((Ok(chunk), (object, kept, file, end)))
                    }
                    Some(error) => Some((error, (object, kept, None, written))),
                }
            },
        );
        passed.boxed()
    }
}

impl State {
    fn place(&self, history: ReplId, name: LogObject) -> Option<Place> {
        if let Some(bytes) = self.short.get(&(history, name)) {
            return Some(Place::Memory(bytes.clone()));
        }
        let Filed { at, len } = *self.filed.get(&history)?.get(&name)?;
        match &self.file {
            TheFile::Open(file) => Some(Place::File {
                file: Arc::clone(file),
                at,
                len,
            }),
            TheFile::NotYet | TheFile::None => None,
        }
    }

    fn filed(&mut self, history: ReplId, name: LogObject, place: Filed) {
        self.filed.entry(history).or_default().insert(name, place);
    }

    /// A place of so many bytes in the file.
    fn reserve(&mut self, len: u64) -> Option<(Arc<File>, u64)> {
        if matches!(self.file, TheFile::NotYet) {
            self.file = match open() {
                Some(file) => TheFile::Open(Arc::new(file)),
                None => TheFile::None,
            };
        }
        let TheFile::Open(file) = &self.file else {
            return None;
        };
        if self.places >= PLACES {
            return None;
        }
        let at = self.end;
        let end = at.checked_add(len).filter(|end| *end <= FILE)?;
        self.end = end;
        self.places = self.places.saturating_add(1);
        Some((Arc::clone(file), at))
    }
}

/// Where there is none, segments are read again.
fn open() -> Option<File> {
    if runtime::is_simulated() {
        return None;
    }
    tempfile::tempfile()
        .inspect_err(|error| tracing::debug!(%error, "no temporary file: segments are read again"))
        .ok()
}

fn read(file: &File, at: u64, len: usize) -> Option<Bytes> {
    let mut bytes = BytesMut::zeroed(len);
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes.freeze())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::TryStreamExt;

    use super::*;

    fn id() -> ReplId {
        ReplId::from_random([7; 20])
    }

    async fn back(kept: &Kept, first: u64) -> Option<Vec<u8>> {
        let chunks: Vec<Bytes> = kept
            .stream(id(), LogObject::segment(first))?
            .try_collect()
            .await
            .unwrap();
        Some(chunks.concat())
    }

    #[tokio::test]
    async fn what_is_kept_comes_back_from_memory_and_from_the_file() {
        let kept = Arc::new(Kept::default());
        let object = |first: u64| Bytes::from(vec![first as u8; 700]);
        for first in 0..10 {
            kept.put(id(), LogObject::segment(first), &object(first));
        }
        assert!(kept.state().memory <= MEMORY && kept.state().end > 0);
        for first in 0..10 {
            assert_eq!(back(&kept, first).await.unwrap(), object(first));
            assert_eq!(
                kept.short(id(), LogObject::segment(first)).unwrap(),
                object(first)
            );
        }
        assert!(back(&kept, 20).await.is_none());

        let long: Vec<Bytes> = (0..9).map(|n| Bytes::from(vec![n; 100_000])).collect();
        let passing = || stream::iter(long.clone()).map(Ok).boxed();
        let passed = kept.keeping(id(), LogObject::segment(30), 900_000, passing());
        let chunks: Vec<Bytes> = passed.try_collect().await.unwrap();
        assert_eq!(chunks, long);
        assert_eq!(back(&kept, 30).await.unwrap(), long.concat());
        assert_eq!(kept.short(id(), LogObject::segment(30)), None, "it is long");
        // One that is left early is not kept.
        let mut left = kept.keeping(id(), LogObject::segment(31), 900_000, passing());
        left.try_next().await.unwrap();
        drop(left);
        assert!(back(&kept, 31).await.is_none());
        // What has no place is read again.
        for first in 40..1100 {
            kept.put(id(), LogObject::segment(first), &object(first));
        }
        assert_eq!(kept.state().places, PLACES);
        assert!(back(&kept, 40).await.is_some() && back(&kept, 1099).await.is_none());
    }
}
