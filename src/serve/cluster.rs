//! Looks at one cluster, once a second: which shards it has, which server of each is to be captured, and which slots each
//! has. Every change of the slot map goes into the store.
//!
//! ```text
//!  cluster ◀─asks─ look ─┬─ the server of each shard ──▶ its source (a failover moves that source alone)
//!                        ├─ shards that come and go ──▶ sources that begin and end
//!                        └─ a change of the map ──▶ store: map/<number>.json
//! ```
//!
//! A cluster that cannot be asked changes nothing. A new shard begins when the map that names it is stored, so that all
//! writers call it the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::Instrument;

use super::shards::{self, Ids};
use crate::archive::{ClusterPlace, FORMAT, MappedShard, SlotMap, new_writer, shard_url};
use crate::capture::Clock;
use crate::config::{ClusterConfig, Prefer, Shard, Source, SourceConfig};
use crate::link::cluster::{Asker, ShardView, View, shard_id};
use crate::monitoring::sources::Sources;
use crate::store;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A shard that a look lacks is gone when so many looks in a row lack it: a node may have been reset.
const LOOKS_WITHOUT: u32 = 3;
/// A master without slots begins as a shard when it was seen for so long: one that comes back after a failover becomes a
/// replica soon.
const EMPTY_FOR: Duration = Duration::from_secs(5);
/// What is wrong is logged so often, however it changes. (Each look may begin with another node.)
const TOLD_AGAIN: Duration = Duration::from_secs(60);
/// Maps that wait for the store. When there are more, the newest two become one.
const WAITING: usize = 64;

/// A cluster that is looked at.
pub(super) struct WatchedCluster {
    config: ClusterConfig,
    shards: watch::Receiver<Vec<SourceConfig>>,
    task: JoinHandle<()>,
}

impl WatchedCluster {
    /// Looks until this is dropped. `changed` is notified when shards come or go.
    pub(super) fn start(
        config: ClusterConfig,
        changed: Arc<Notify>,
        sources: &Sources,
        clock: &Clock,
    ) -> Self {
        let (tell, shards) = watch::channel(Vec::new());
        let span = tracing::error_span!("cluster", cluster = %config.name);
        sources.cluster_begins(&config.name, &config.store.url);
        let look = Look {
            asker: Asker::new(config.cluster.clone()),
            config: config.clone(),
            place: None,
            stored: None,
            waiting: Vec::new(),
            last_seen: None,
            without: 0,
            empty: BTreeMap::new(),
            servers: BTreeMap::new(),
            writer: new_writer("serve"),
            tell,
            changed,
            sources: sources.clone(),
            clock: clock.clone(),
        };
        Self {
            config,
            shards,
            task: tokio::spawn(look.run().instrument(span)),
        }
    }

    /// As it was begun.
    pub(super) fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The sources of its shards, as far as they are known.
    pub(super) fn shards(&self) -> Vec<SourceConfig> {
        self.shards.borrow().clone()
    }
}

impl Drop for WatchedCluster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of the cluster.
struct Look {
    config: ClusterConfig,
    asker: Asker,
    place: Option<ClusterPlace>,
    /// The latest map in the store.
    stored: Option<SlotMap>,
    /// Later ones, which the store has not taken yet. Their numbers are not known yet.
    waiting: Vec<SlotMap>,
    /// When the latest of them was last seen.
    last_seen: Option<i64>,
    /// So many looks in a row lack a shard.
    without: u32,
    /// Since when masters without slots were seen.
    empty: BTreeMap<String, Instant>,
    /// The server of each shard.
    servers: BTreeMap<String, watch::Sender<Option<Source>>>,
    writer: String,
    tell: watch::Sender<Vec<SourceConfig>>,
    changed: Arc<Notify>,
    sources: Sources,
    clock: Clock,
}

impl Look {
    async fn run(mut self) {
        // When it was last said that something is wrong.
        let mut told: Option<Instant> = None;
        loop {
            let error = self.once().await.err();
            match (&error, told) {
                (Some(error), told) if told.is_none_or(|told| told.elapsed() >= TOLD_AGAIN) => {
                    tracing::warn!("{error}. What was known of the cluster holds");
                }
                (None, Some(_)) => tracing::info!("the cluster and its place can be used again"),
                _ => {}
            }
            told = match (&error, told) {
                (None, _) => None,
                (Some(_), Some(told)) if told.elapsed() < TOLD_AGAIN => Some(told),
                (Some(_), _) => Some(Instant::now()),
            };
            let shards = self.stored.as_ref().map_or(0, |map| map.shards.len());
            let number = self.stored.as_ref().map_or(0, |map| map.number);
            let now = (self.clock)();
            let name = &self.config.name;
            self.sources
                .cluster_looked_at(name, shards, number, error, now);
            sleep(LOOK).await;
        }
    }

    async fn once(&mut self) -> Result<(), String> {
        self.open().await?;
        let view = self.asker.look().await.map_err(|error| error.to_string())?;
        let seen = (self.clock)();
        let current = self.current().cloned();
        if let Some(current) = &current {
            self.check_is_same(&view, current)?;
        }
        let ids = self.ids(&view, current.as_ref()).await;
        self.note_empty(&view);
        let may_begin = |shard: &ShardView| {
            let since = self.empty.get(&shard.master.id);
            since.is_some_and(|since| since.elapsed() >= EMPTY_FOR)
        };
        let shards = shards::named(&view, current.as_ref(), &ids, may_begin);
        self.move_servers(&view, &shards);
        let lacks = |map: &SlotMap| {
            let mut known = map.shards.iter();
            known.any(|known| !shards.iter().any(|shard| shard.name == known.name))
        };
        if current.as_ref().is_some_and(lacks) {
            self.without = self.without.saturating_add(1);
            if self.without < LOOKS_WITHOUT {
                return self.store().await;
            }
        }
        self.without = 0;
        self.take(view.epoch, shards, seen);
        self.store().await
    }

    /// The latest map, stored or not.
    fn current(&self) -> Option<&SlotMap> {
        self.waiting.last().or(self.stored.as_ref())
    }

    /// The place, and what it has.
    async fn open(&mut self) -> Result<(), String> {
        if self.place.is_some() {
            return Ok(());
        }
        let opened = async {
            let store = store::open_with(&self.config.store).await?;
            let place = ClusterPlace::open_or_create(store, (self.clock)()).await?;
            let latest = place.latest().await?;
            Ok::<_, crate::archive::ArchiveError>((place, latest))
        };
        let opened = opened.await;
        let (place, latest) =
            opened.map_err(|error| format!("the place of the cluster cannot be used: {error}"))?;
        (self.place, self.stored) = (Some(place), latest);
        Ok(())
    }

    /// A place holds one cluster. One of other nodes is another one.
    fn check_is_same(&self, view: &View, map: &SlotMap) -> Result<(), String> {
        let is_known = |id: &str| {
            let mut nodes = map.shards.iter().flat_map(|shard| &shard.nodes);
            nodes.any(|node| node.id == id)
        };
        let mut nodes = view.shards.iter().flat_map(ShardView::nodes);
        match nodes.any(|node| is_known(&node.id)) {
            true => Ok(()),
            false => Err(format!(
                "{} is in another cluster than {} holds: none of its nodes was in that one. Give this cluster a store of its \
                 own, or correct `redis`",
                view.by, self.config.store.url
            )),
        }
    }

    async fn ids(&self, view: &View, current: Option<&SlotMap>) -> Ids {
        let mut ids = Ids::new();
        for shard in shards::to_ask(view, current).filter(|shard| !shard.master.fails) {
            let Some(master) = self.asker.source(&shard.master) else {
                continue;
            };
            if let Some(id) = shard_id(&master).await {
                ids.insert(shard.master.id.clone(), id);
            }
        }
        ids
    }

    fn note_empty(&mut self, view: &View) {
        let empty = view.shards.iter().filter(|shard| shard.slots.is_empty());
        let now: Vec<&String> = empty.map(|shard| &shard.master.id).collect();
        self.empty.retain(|id, _| now.contains(&id));
        for id in now {
            self.empty.entry(id.clone()).or_insert_with(Instant::now);
        }
    }

    /// Tells each source which server it is to follow.
    fn move_servers(&mut self, view: &View, shards: &[MappedShard]) {
        for shard in shards {
            let found = view.shards.iter().find(|it| it.master.id == shard.master);
            let Some(found) = found else { continue };
            let server = self
                .servers
                .entry(shard.name.clone())
                .or_insert_with(|| watch::channel(None).0);
            let current = server.borrow().clone();
            let wanted = choose(&self.asker, found, self.config.prefer, current.as_ref());
            // One that nobody can reach by its address stays as it was.
            if wanted.is_some() && wanted != current {
                if let (Some(from), Some(to)) = (&current, &wanted) {
                    tracing::info!(shard = %shard.name, from = %from.addr(), to = %to.addr(), "another node is followed");
                }
                server.send_replace(wanted);
            }
        }
    }

    /// The map is so now.
    fn take(&mut self, epoch: u64, shards: Vec<MappedShard>, seen: i64) {
        let current = self.current();
        if current.is_some_and(|current| current.shards == shards) {
            self.last_seen = Some(seen);
            return;
        }
        // Another writer has seen more of the cluster than this look.
        if current.is_some_and(|it| it.writer != self.writer && it.epoch > epoch) {
            return;
        }
        let mut map = SlotMap {
            format: FORMAT,
            number: 0,
            // The clock may have gone back.
            seen_unix_ms: current.map_or(seen, |current| current.seen_unix_ms.max(seen)),
            before_unix_ms: self.last_seen,
            epoch,
            writer: self.writer.clone(),
            shards,
        };
        if self.waiting.len() >= WAITING
            && let Some(last) = self.waiting.pop()
        {
            map.before_unix_ms = last.before_unix_ms;
        }
        self.waiting.push(map);
        self.last_seen = Some(seen);
    }

    /// Stores what waits, and begins and ends the sources of shards accordingly.
    async fn store(&mut self) -> Result<(), String> {
        while let (Some(place), Some(first)) = (&self.place, self.waiting.first()) {
            let number = self.stored.as_ref().map_or(0, |map| map.number);
            let map = SlotMap {
                number: number.saturating_add(1),
                ..first.clone()
            };
            let failed = |error| format!("the slot map cannot be stored: {error}");
            match place.append(&map).await.map_err(failed)? {
                true => {
                    tracing::info!(
                        number = map.number,
                        epoch = map.epoch,
                        "the slot map is stored"
                    );
                    self.stored = Some(map);
                    self.waiting.remove(0);
                }
                false => {
                    // Another writer: its map counts, and ours is seen anew.
                    self.stored = place.latest().await.map_err(failed)?;
                    self.waiting.clear();
                }
            }
        }
        self.tell_sources();
        Ok(())
    }

    fn tell_sources(&mut self) {
        let Some(map) = &self.stored else {
            return;
        };
        let mut sources = Vec::new();
        for shard in &map.shards {
            let server = self
                .servers
                .entry(shard.name.clone())
                .or_insert_with(|| watch::channel(None).0);
            let url = shard_url(&self.config.store.url, &shard.name);
            let shard = Shard {
                name: shard.name.clone(),
                server: server.subscribe(),
            };
            sources.push(self.config.source(shard, url));
        }
        let modified = self.tell.send_if_modified(|told| {
            let is_other = *told != sources;
            *told = sources;
            is_other
        });
        if modified {
            self.changed.notify_one();
        }
    }
}

/// The node of a shard that is captured. `current` stays as long as it is one that is wanted.
fn choose(
    asker: &Asker,
    shard: &ShardView,
    prefer: Prefer,
    current: Option<&Source>,
) -> Option<Source> {
    let master = asker.source(&shard.master);
    if prefer == Prefer::Master {
        return master;
    }
    let well = shard.replicas.iter().filter(|replica| !replica.fails);
    let replicas: Vec<Source> = well.filter_map(|replica| asker.source(replica)).collect();
    let same = current.filter(|current| replicas.contains(current));
    same.or(replicas.first()).cloned().or(master)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::link::cluster::Node;

    #[test]
    fn a_replica_is_kept_while_it_is_one_and_a_master_is_taken_when_there_is_none() {
        let asker = Asker::new("redis+cluster://seed".parse().unwrap());
        let node = |host: &str, fails| Node {
            id: host.to_owned(),
            host: host.to_owned(),
            port: 1,
            fails,
        };
        let shard = |replicas: &[(&str, bool)]| ShardView {
            master: node("m", false),
            replicas: replicas
                .iter()
                .map(|(host, fails)| node(host, *fails))
                .collect(),
            slots: vec![(0, 1)],
        };
        let at = |host: &str| asker.source(&node(host, false));
        let two = shard(&[("a", false), ("b", false)]);
        let chosen = |shard, prefer, current: Option<&str>| {
            let current = current.and_then(at);
            choose(&asker, shard, prefer, current.as_ref())
                .unwrap()
                .host
        };
        assert_eq!(chosen(&two, Prefer::Master, Some("b")), "m");
        assert_eq!(chosen(&two, Prefer::Replica, None), "a");
        assert_eq!(chosen(&two, Prefer::Replica, Some("b")), "b");
        assert_eq!(chosen(&two, Prefer::Replica, Some("m")), "a");
        let one = shard(&[("a", false), ("b", true)]);
        assert_eq!(chosen(&one, Prefer::Replica, Some("b")), "a");
        assert_eq!(
            chosen(&shard(&[("a", true)]), Prefer::Replica, Some("a")),
            "m"
        );
    }
}
