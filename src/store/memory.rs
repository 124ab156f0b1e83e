//! A store in memory, for tests. Tests can ask it for faults. No URL opens it, because its content is lost with the
//! process.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::watch;

use super::{
    ByteStream, Created, Listing, ObjectMeta, SharedStore, Store, StoreError, Upload, byte_range,
    check_name,
};

/// Bytes of one piece of a read. As small as a network's, so that readers are tested with pieces.
const READ_PIECE: usize = 256 << 10;

/// A store in memory. Clones are the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// False while creates are held back.
    running: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Bytes>,
    /// What the clock of the store says.
    now: Created,
    /// When objects were created.
    created: BTreeMap<String, Created>,
    create_faults: Vec<Fault>,
    read_faults: Vec<Fault>,
    delay: Duration,
    calls: Vec<Call>,
    /// Hidden until this many more listings have been made.
    hidden: Vec<(usize, String, Bytes)>,
    /// Deleted when a create has met it.
    vanishing: Option<String>,
    /// Objects that a delete leaves in place, and whether it says so.
    locked: BTreeMap<String, bool>,
}

/// What goes wrong with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and might succeed later.
    Transient,
    /// It fails, and always will.
    Permanent,
    /// It is done, but the answer does not arrive: a transient error. (A read just fails.)
    AnswerLost,
}

/// A call that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// A call of [`Store::create`].
    Create(String),
    /// A call of [`Upload::commit`].
    Commit(String),
    /// A call of [`Store::read`].
    Read(String, Option<Range<u64>>),
    /// A call of [`Store::list`].
    List(String),
    /// A call of [`Store::delete`].
    Delete(String),
}

impl State {
    fn after_listing(&mut self) {
        for (listings, name, body) in std::mem::take(&mut self.hidden) {
            match listings.saturating_sub(1) {
                0 => {
                    self.objects.insert(name, body);
                }
                left => self.hidden.push((left, name, body)),
            }
        }
    }
}

impl MemoryStore {
    /// A store of its own.
    #[must_use]
    pub fn new() -> Self {
        let state = State {
            now: Some(0),
            ..State::default()
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            running: watch::Sender::new(true),
        }))
    }

    /// The same store, as other code takes it.
    #[must_use]
    pub fn shared(&self) -> SharedStore {
        Arc::new(self.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next `count` creates and commits go wrong like this (after those already asked for).
    pub fn fail_creates(&self, count: usize, fault: Fault) {
        let mut state = self.state();
        state
            .create_faults
            .extend(std::iter::repeat_n(fault, count));
    }

    /// The next `count` reads go wrong like this (after those already asked for).
    pub fn fail_reads(&self, count: usize, fault: Fault) {
        let mut state = self.state();
        state.read_faults.extend(std::iter::repeat_n(fault, count));
    }

    /// Sets the clock of the store, which stands still. At first it says 0. None: the store tells no times any more.
    pub fn set_clock(&self, now: Created) {
        self.state().now = now;
    }

    /// No create or commit goes wrong any more.
    pub fn heal(&self) {
        let mut state = self.state();
        state.create_faults.clear();
        state.read_faults.clear();
    }

    /// Every create, commit and read takes this much longer.
    pub fn set_delay(&self, delay: Duration) {
        self.state().delay = delay;
    }

    /// Creates and commits wait from now on, until [`Self::release`].
    pub fn pause(&self) {
        self.0.running.send_replace(false);
    }

    /// Ends a [`Self::pause`].
    pub fn release(&self) {
        self.0.running.send_replace(true);
    }

    /// The calls so far, in order of their beginning.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The names of all objects.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.state().objects.keys().cloned().collect()
    }

    /// The bytes of an object.
    #[must_use]
    pub fn object(&self, name: &str) -> Option<Bytes> {
        self.state().objects.get(name).cloned()
    }

    /// Puts an object there, whether there is one or not.
    pub fn put(&self, name: &str, body: impl Into<Bytes>) {
        self.state().objects.insert(name.to_owned(), body.into());
    }

    /// Takes an object away.
    pub fn remove(&self, name: &str) {
        self.state().objects.remove(name);
    }

    /// From now on an object stays when it is to be deleted: that is refused, or is said to be done.
    pub fn lock(&self, name: &str, refuses: bool) {
        self.state().locked.insert(name.to_owned(), refuses);
    }

    /// Ends a [`Self::lock`].
    pub fn unlock(&self, name: &str) {
        self.state().locked.remove(name);
    }

    /// Takes an object away once a create has met it.
    pub fn vanish(&self, name: &str) {
        self.state().vanishing = Some(name.to_owned());
    }

    /// Hides an object until this many more listings have been made, as if it were created then.
    pub fn hide(&self, name: &str, listings: usize) {
        let mut state = self.state();
        if let Some(body) = state.objects.remove(name) {
            state.hidden.push((listings, name.to_owned(), body));
        }
    }

    /// Flips the bits of `mask` in byte `at` of an object.
    pub fn corrupt(&self, name: &str, at: usize, mask: u8) {
        if let Some(body) = self.state().objects.get_mut(name) {
            let mut bytes = BytesMut::from(&body[..]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte ^= mask;
            }
            *body = bytes.freeze();
        }
    }

    /// Cuts an object off after `length` bytes.
    pub fn truncate(&self, name: &str, length: usize) {
        if let Some(body) = self.state().objects.get_mut(name) {
            body.truncate(length);
        }
    }

    /// Renames an object.
    pub fn rename(&self, from: &str, to: &str) {
        let mut state = self.state();
        if let Some(body) = state.objects.remove(from) {
            state.objects.insert(to.to_owned(), body);
        }
    }

    /// Records the call and waits as long as asked for.
    async fn begin(&self, call: Call) {
        let creates = matches!(call, Call::Create(_) | Call::Commit(_));
        let delay = {
            let mut state = self.state();
            state.calls.push(call);
            state.delay
        };
        if delay > Duration::ZERO {
            tokio::time::sleep(delay).await;
        }
        if creates {
            // The sender lives in `self`, so this cannot fail.
            let _ = self
                .0
                .running
                .subscribe()
                .wait_for(|running| *running)
                .await;
        }
    }

    fn store(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        let mut state = self.state();
        let fault = take_first(&mut state.create_faults);
        if let Some(fault @ (Fault::Transient | Fault::Permanent)) = fault {
            return Err(fault_error("create", name, fault));
        }
        if state.objects.contains_key(name) {
            let created = state.created.get(name).copied().flatten();
            if state.vanishing.take_if(|it| it.as_str() == name).is_some() {
                state.objects.remove(name);
            }
            return Err(StoreError::AlreadyExists {
                name: name.to_owned(),
                created,
            });
        }
        let now = state.now;
        state.objects.insert(name.to_owned(), body);
        state.created.insert(name.to_owned(), now);
        match fault {
            Some(fault) => Err(fault_error("create", name, fault)),
            None => Ok(now),
        }
    }
}

fn take_first(faults: &mut Vec<Fault>) -> Option<Fault> {
    if faults.is_empty() {
        None
    } else {
        Some(faults.remove(0))
    }
}

fn fault_error(verb: &str, name: &str, fault: Fault) -> StoreError {
    let what = format!("cannot {verb} {name}");
    let cause = format!("{fault:?} fault asked for by a test");
    match fault {
        Fault::Permanent => StoreError::Permanent { what, cause },
        Fault::Transient | Fault::AnswerLost => StoreError::Transient { what, cause },
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryStore")
    }
}

#[async_trait]
impl Store for MemoryStore {
    fn url(&self) -> String {
        "memory:".to_owned()
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        check_name(name)?;
        self.begin(Call::Create(name.to_owned())).await;
        self.store(name, body)
    }

    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        check_name(name)?;
        Ok(Box::new(MemoryUpload {
            store: self.clone(),
            name: name.to_owned(),
            body: BytesMut::new(),
        }))
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        check_name(name)?;
        self.begin(Call::Read(name.to_owned(), range.clone())).await;
        let body = {
            let mut state = self.state();
            if let Some(fault) = take_first(&mut state.read_faults) {
                return Err(fault_error("read", name, fault));
            }
            state.objects.get(name).cloned()
        };
        let body = body.ok_or_else(|| StoreError::NotFound {
            name: name.to_owned(),
        })?;
        let (start, end) = byte_range(range, body.len() as u64);
        // Both are within the object, which is in memory.
        let mut rest = body.slice(start as usize..end as usize);
        let pieces = std::iter::from_fn(move || {
            let piece = rest.split_to(READ_PIECE.min(rest.len()));
            (!piece.is_empty()).then_some(Ok(piece))
        });
        Ok(stream::iter(pieces).boxed())
    }

    async fn list_with(
        &self,
        wanted: Listing<'_>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let prefix = wanted.prefix;
        self.begin(Call::List(prefix.to_owned())).await;
        let first = wanted.from.map_or(prefix, |from| from.max(prefix));
        let mut state = self.state();
        let created = |name: &String| state.created.get(name).copied().flatten();
        let mut found: Vec<ObjectMeta> = state
            .objects
            .range(first.to_owned()..)
            .take_while(|(name, _)| name.starts_with(prefix))
            .map(|(name, body)| match wanted.folder_of(name) {
                Some(folder) => ObjectMeta::folder(folder),
                None => ObjectMeta {
                    name: name.clone(),
                    size: body.len() as u64,
                    created: created(name),
                },
            })
            .collect();
        found.dedup();
        // As a service is asked for them.
        for _ in found.chunks(wanted.page).skip(1) {
            state.calls.push(Call::List(prefix.to_owned()));
        }
        state.after_listing();
        stream::iter(found.into_iter().map(Ok)).boxed()
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        check_name(name)?;
        self.begin(Call::Delete(name.to_owned())).await;
        let locked = self.state().locked.get(name).copied();
        match locked {
            None => self.remove(name),
            Some(true) => return Err(fault_error("delete", name, Fault::Permanent)),
            Some(false) => {}
        }
        Ok(())
    }
}

struct MemoryUpload {
    store: MemoryStore,
    name: String,
    body: BytesMut,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.body.extend_from_slice(&chunk);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        self.store.begin(Call::Commit(self.name.clone())).await;
        self.store.store(&self.name, self.body.freeze()).map(|_| ())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::contract;
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract() {
        contract::run(|| MemoryStore::new().shared()).await;
    }

    #[tokio::test]
    async fn faults_come_in_the_order_asked_for_and_then_end() {
        let store = MemoryStore::new();
        store.fail_creates(1, Fault::Transient);
        store.fail_creates(1, Fault::Permanent);
        store.fail_creates(1, Fault::AnswerLost);
        let one = Bytes::from_static(b"1");
        assert!(
            store
                .create("a", one.clone())
                .await
                .unwrap_err()
                .is_transient()
        );
        assert!(
            !store
                .create("a", one.clone())
                .await
                .unwrap_err()
                .is_transient()
        );
        assert_eq!(store.object("a"), None);
        assert!(
            store
                .create("a", one.clone())
                .await
                .unwrap_err()
                .is_transient()
        );
        assert_eq!(store.object("a").unwrap(), "1");
        store.create("b", one).await.unwrap();
        store.fail_reads(1, Fault::Transient);
        assert!(store.read("b", None).await.is_err());
        assert!(store.read("b", None).await.is_ok());
    }

    #[tokio::test]
    async fn a_paused_store_stores_nothing_until_it_is_released() {
        let store = MemoryStore::new();
        store.pause();
        let create = tokio::spawn({
            let store = store.clone();
            async move { store.create("a", Bytes::new()).await }
        });
        while store.calls().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(store.names(), [""; 0]);
        store.release();
        create.await.unwrap().unwrap();
        assert_eq!(store.names(), ["a"]);
    }
}
