//! A store with weather: slow, away, answers that are lost, writes that arrive after the next one, reads that break off.
//!
//! What was sent to it goes on without the sender: a process that is killed may have a write under way.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::{note, with};
use crate::archive::Name;
use crate::runtime::simulated::{below, between, current, once_in};
use crate::store::{
    ByteStream, Created, Listing, ObjectMeta, SharedStore, Store, StoreError, Upload,
};
use crate::wire::position::ReplId;

/// What goes wrong at the moment: once in so many calls; `u64::MAX` for never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Milliseconds that a call takes one way, at most.
    pub(crate) latency: u64,
    /// Nothing is done, and it is said so.
    pub(crate) fails: u64,
    /// It is done, and said to have failed.
    pub(crate) loses_answer: u64,
    /// It is said to have failed, and done later.
    pub(crate) late: u64,
    /// It is refused for good.
    pub(crate) refuses: u64,
    /// Reads and listings that break off.
    pub(crate) breaks_off: u64,
}

impl Weather {
    pub(crate) const FAIR: Self = Self {
        latency: 2,
        fails: u64::MAX,
        loses_answer: u64::MAX,
        late: u64::MAX,
        refuses: u64::MAX,
        breaks_off: u64::MAX,
    };
}

/// What is stored.
pub(crate) type Objects = BTreeMap<String, Bytes>;

/// The history, the first and the last byte of the span that an object is by its name.
pub(crate) fn span_of(name: &str) -> Option<(ReplId, u64, u64)> {
    match Name::parse(name)? {
        Name::Span {
            history,
            first_byte,
            last_byte,
        } => Some((history, first_byte, last_byte)),
        _ => None,
    }
}

#[derive(Debug)]
struct SimulatedStore;

/// The only store of the simulation.
pub(crate) fn store() -> SharedStore {
    Arc::new(SimulatedStore)
}

fn transient(what: &str, name: &str) -> StoreError {
    StoreError::Transient {
        what: format!("cannot {what} {name}"),
        cause: "the simulation says so".to_owned(),
    }
}

fn refusal(what: &str, name: &str) -> StoreError {
    StoreError::Permanent {
        what: format!("cannot {what} {name}"),
        cause: "the simulation refuses it".to_owned(),
    }
}

async fn travel(latency: u64) {
    if latency > 0 {
        sleep(Duration::from_millis(below(latency + 1))).await;
    }
}

fn weather() -> Weather {
    with(|sim| sim.store_weather)
}

/// Before a call that changes nothing.
async fn ask(what: &str, name: &str) -> Result<(), StoreError> {
    let weather = weather();
    travel(weather.latency * 2).await;
    if once_in(weather.fails) {
        return Err(transient(what, name));
    }
    if once_in(weather.refuses) {
        return Err(refusal(what, name));
    }
    Ok(())
}

/// A create, or the commit of an upload.
async fn create(name: &str, body: Bytes) -> Result<Created, StoreError> {
    let weather = weather();
    let writer = current().map_or(String::new(), |process| process.name.clone());
    let (answer, answered) = oneshot::channel();
    let name_there = name.to_owned();
    tokio::spawn(async move {
        let name = name_there;
        if once_in(weather.late) {
            let _ = answer.send(Err(transient("create", &name)));
            sleep(Duration::from_millis(below(30_000))).await;
            note(|| format!("late write of {name} by {writer}"));
            let _ = with(|sim| sim.create(&name, body, &writer));
            return;
        }
        travel(weather.latency).await;
        let done = if once_in(weather.fails) {
            Err(transient("create", &name))
        } else if once_in(weather.refuses) {
            Err(refusal("create", &name))
        } else {
            let done = with(|sim| sim.create(&name, body, &writer));
            if once_in(weather.loses_answer) {
                note(|| format!("lost answer to {writer} about {name}"));
                Err(transient("create", &name))
            } else {
                done
            }
        };
        travel(weather.latency).await;
        let _ = answer.send(done);
    });
    match answered.await {
        Ok(answer) => answer,
        Err(_) => Err(transient("create", name)),
    }
}

#[async_trait]
impl Store for SimulatedStore {
    fn url(&self) -> String {
        "simulated:".to_owned()
    }

    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        create(name, body).await
    }

    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        ask("begin", name).await?;
        Ok(Box::new(SimulatedUpload {
            name: name.to_owned(),
            body: BytesMut::new(),
        }))
    }

    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        ask("read", name).await?;
        let found = with(|sim| sim.objects.get(name).cloned());
        let body = found.ok_or_else(|| StoreError::NotFound {
            name: name.to_owned(),
        })?;
        let length = body.len() as u64;
        let range = range.unwrap_or(0..length);
        let (start, end) = (range.start.min(length), range.end.min(length));
        let mut rest = body.slice(start as usize..end as usize);
        let mut pieces = Vec::new();
        let breaks_off = once_in(weather().breaks_off);
        while !rest.is_empty() {
            let most = (rest.len() as u64).min(64 << 10);
            // The order of keys in a new base, and so its size, is that of hash tables, which no seed decides.
            let all = !name.contains("/log/");
            let piece = if all {
                std::mem::take(&mut rest)
            } else {
                rest.split_to(between(most.div_ceil(8), most) as usize)
            };
            pieces.push(Ok(piece));
        }
        if breaks_off {
            pieces.truncate(below(pieces.len() as u64 + 1) as usize);
            pieces.push(Err(transient("read on in", name)));
        }
        Ok(stream::iter(pieces).boxed())
    }

    async fn list_with(
        &self,
        wanted: Listing<'_>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        let (prefix, folders) = (wanted.prefix.to_owned(), wanted.folders);
        let from = wanted.from.unwrap_or_default();
        let first = from.max(&prefix).to_owned();
        let begun = with(|sim| sim.created);
        let pages = stream::unfold(Some(first), move |from| {
            let prefix = prefix.clone();
            async move {
                let from = from?;
                if let Err(error) = ask("list", &prefix).await {
                    return Some((vec![Err(error)], None));
                }
                let size = between(3, 40) as usize;
                // What is created meanwhile may be missed, though later ones are found, as in a directory.
                let misses = once_in(2);
                let page: Vec<ObjectMeta> = with(|sim| {
                    let there = sim.objects.range(from..);
                    let is_found =
                        |name: &String| !misses || sim.births[name] <= begun || !once_in(2);
                    let mut found: Vec<ObjectMeta> = Vec::new();
                    for (name, body) in there.take_while(|(name, _)| name.starts_with(&prefix)) {
                        let below = name[prefix.len()..].find('/').filter(|_| folders);
                        let listed = match below {
                            Some(end) => &name[..=prefix.len() + end],
                            None => name,
                        };
                        if found.last().is_some_and(|last| last.name == listed) {
                            continue;
                        }
                        if found.len() == size {
                            break;
                        }
                        if is_found(name) {
                            let size = if below.is_some() {
                                0
                            } else {
                                body.len() as u64
                            };
                            let created = sim.times.get(name).copied();
                            found.push(ObjectMeta {
                                name: listed.to_owned(),
                                size,
                                created: created.filter(|_| below.is_none() && !sim.is_timeless),
                            });
                        }
                    }
                    found
                });
                let next = match page.last() {
                    // Behind all that the last one stands for.
                    Some(last) if page.len() == size && last.is_folder() => {
                        Some(format!("{}\u{10ffff}", last.name))
                    }
                    Some(last) if page.len() == size => Some(format!("{}\0", last.name)),
                    _ => None,
                };
                if once_in(weather().breaks_off) {
                    return Some((vec![Err(transient("list on in", &prefix))], None));
                }
                Some((page.into_iter().map(Ok).collect(), next))
            }
        });
        pages.flat_map(stream::iter).boxed()
    }

    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        let weather = weather();
        let process = current().map_or(String::new(), |process| process.name.clone());
        let name = name.to_owned();
        let (answer, answered) = oneshot::channel();
        let name_there = name.clone();
        // Once it is sent, it goes on without the sender.
        tokio::spawn(async move {
            travel(weather.latency).await;
            let done = if once_in(weather.fails) {
                Err(transient("delete", &name_there))
            } else if once_in(weather.refuses) {
                Err(refusal("delete", &name_there))
            } else {
                with(|sim| sim.delete(&name_there, &process));
                match once_in(weather.loses_answer) {
                    true => Err(transient("delete", &name_there)),
                    false => Ok(()),
                }
            };
            travel(weather.latency).await;
            let _ = answer.send(done);
        });
        match answered.await {
            Ok(answer) => answer,
            Err(_) => Err(transient("delete", &name)),
        }
    }
}

struct SimulatedUpload {
    name: String,
    body: BytesMut,
}

#[async_trait]
impl Upload for SimulatedUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        ask("write", &self.name).await?;
        self.body.extend_from_slice(&chunk);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        create(&self.name, self.body.freeze()).await.map(|_| ())
    }
}
