//! `backfeed serve`: many sources in one process, as a file names them.
//!
//! ```text
//!            ┌─ slot "cart" ─ capture ─▶ its store ─┐    one thread for upkeep, with one at work
//!  file ─▶ ──┼─ slot "shop" ─ capture ─▶ its store ─┼──  one memory for feed, of which each has a part
//!            └─ …                                  ─┘    turns for full syncs
//! ```
//!
//! A [`cluster`] that the file names becomes a source for each of its shards. A [`slot`] runs one source. When the file changes ([`watch`]), each slot is told what is wanted of it. A slot whose
//! source did not change does not notice.

mod claims;
mod cluster;
mod shards;
mod slot;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Notify;

use self::cluster::WatchedCluster;
use self::slot::{Process, Slot};
use self::watch::{Change, WatchedFile};
use crate::capture::{Clock, FeedMemory, FullSyncTurns, SessionEnd, Shared, Shutdown, stopped};
use crate::config::{
    Budget, FileError, FileProblem, ServeConfig, ServiceConfig, Shares, SourceConfig,
};
use crate::monitoring::sources::Sources;
use crate::store;
use crate::upkeep::UpkeepThread;

/// Gives the value of a variable of the environment.
pub type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The file that names the sources.
pub struct ConfigFile {
    path: PathBuf,
    variables: Variables,
}

/// Its content when it was read, and what that means.
pub struct Loaded {
    text: String,
    /// What it says.
    pub config: ServeConfig,
}

impl ConfigFile {
    /// Secrets may be in variables that it names.
    #[must_use]
    pub fn new(path: PathBuf, variables: Variables) -> Self {
        Self { path, variables }
    }

    /// As it was named.
    #[must_use]
    pub fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Reads and checks it. It connects to nothing.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn load(&self) -> Result<Loaded, FileError> {
        let text = watch::read(&self.path).map_err(|what| self.unreadable(what))?;
        let config = self.parse(&text)?;
        Ok(Loaded { text, config })
    }

    fn parse(&self, text: &str) -> Result<ServeConfig, FileError> {
        let config = ServeConfig::parse(text, &*self.variables);
        let config = config.map_err(|problems| self.error(problems))?;
        let problems = problems_of_stores(&config);
        match problems.is_empty() {
            true => Ok(config),
            false => Err(self.error(problems)),
        }
    }

    fn unreadable(&self, what: String) -> FileError {
        self.error(vec![FileProblem {
            line: None,
            key: None,
            what,
        }])
    }

    fn error(&self, problems: Vec<FileProblem>) -> FileError {
        FileError {
            path: self.name(),
            problems,
        }
    }
}

/// Each source needs an archive of its own: what two servers write into one cannot be told apart.
fn problems_of_stores(config: &ServeConfig) -> Vec<FileProblem> {
    let mut problems = Vec::new();
    let mut places: BTreeMap<String, &str> = BTreeMap::new();
    let sources = config.sources.iter();
    let sources = sources.map(|source| (&source.name, &source.store.url));
    let clusters = config.clusters.iter();
    let clusters = clusters.map(|cluster| (&cluster.name, &cluster.store.url));
    for (name, url) in sources.chain(clusters) {
        let problem = |what| FileProblem {
            line: config.lines.get(name).copied().flatten(),
            key: Some(format!("sources.{name}.store")),
            what,
        };
        let place = match store::name_of(url) {
            Ok(place) => format!("{place}/"),
            Err(error) => {
                problems.push(problem(error.to_string()));
                continue;
            }
        };
        let shared = places
            .iter()
            .find(|(other, _)| other.starts_with(&place) || place.starts_with(other.as_str()));
        if let Some((_, other)) = shared {
            problems.push(problem(format!(
                "{url} lies in the archive of {other}, or that lies in it: give each source a prefix of its own, such as \
                 store = \"gs://BUCKET/{{name}}\" in [defaults]",
            )));
            continue;
        }
        places.insert(place, name);
    }
    problems
}

/// Runs the sources until it is asked to stop. `hangup` is notified when the file is to be read at once.
///
/// # Errors
/// What a source could not store at the end, with its name.
pub async fn run(
    file: ConfigFile,
    first: Loaded,
    budget: &Budget,
    sources: Sources,
    clock: Clock,
    mut shutdown: Shutdown,
    hangup: Arc<Notify>,
) -> Result<(), (String, SessionEnd)> {
    let Loaded { text, config } = first;
    let shares = config.shares(budget);
    warn_of_memory(&shares, config.sources.len());
    let changed = Arc::<Notify>::default();
    let full_syncs = FullSyncTurns::new(config.service.full_syncs);
    let upkeep = UpkeepThread::start(full_syncs.clone());
    let process = Process {
        shared: Shared {
            memory: FeedMemory::new(shares.feed),
            full_syncs,
        },
        shares,
        upkeep: upkeep.map(Arc::new),
        sources: sources.clone(),
        clock: clock.clone(),
        grace: config.service.grace,
        claims: Arc::default(),
        shutdown: shutdown.clone(),
    };
    let mut slots = Slots {
        process,
        started: config.service.clone(),
        slots: BTreeMap::new(),
        clusters: BTreeMap::new(),
        changed: Arc::clone(&changed),
        named: Vec::new(),
    };
    slots.apply(config);
    let mut watched = WatchedFile::new(file.path.clone(), text);
    let mut refused: Option<String> = None;
    loop {
        let change = tokio::select! {
            biased;
            () = stopped(&mut shutdown) => break,
            () = changed.notified() => {
                slots.update();
                warn_of_memory(&shares, slots.wanted());
                continue;
            }
            change = watched.change(&hangup, refused.is_some()) => change,
        };
        let read = match change {
            Change::Text(text) => file.parse(&text),
            Change::Unreadable(what) => Err(file.unreadable(what)),
        };
        match read {
            Ok(config) => {
                refused = None;
                sources.loaded(clock(), after_restart(&slots.started, &config.service));
                slots.apply(config);
            }
            Err(error) => {
                let error = error.to_string();
                if refused.as_ref() != Some(&error) {
                    tracing::error!("{error}. What was read before holds");
                }
                sources.refused(error.clone(), clock());
                refused = Some(error);
            }
        }
    }
    slots.end().await
}

/// The slots of all sources that were ever named.
struct Slots {
    process: Process,
    /// As it was at the start: the memory and the listener cannot change.
    started: ServiceConfig,
    slots: BTreeMap<String, Slot>,
    clusters: BTreeMap<String, WatchedCluster>,
    /// Is notified when shards come or go.
    changed: Arc<Notify>,
    /// The sources that the file names one by one.
    named: Vec<SourceConfig>,
}

impl Slots {
    /// Takes over what the file says.
    fn apply(&mut self, config: ServeConfig) {
        let wanted = &config.clusters;
        self.clusters.retain(|name, watched| {
            let is_same = wanted.iter().any(|cluster| cluster == watched.config());
            if !is_same {
                self.process.sources.cluster_ends(name);
            }
            is_same
        });
        for cluster in config.clusters {
            let name = cluster.name.clone();
            self.clusters.entry(name).or_insert_with(|| {
                let changed = Arc::clone(&self.changed);
                let (sources, clock) = (&self.process.sources, &self.process.clock);
                WatchedCluster::start(cluster, changed, sources, clock)
            });
        }
        self.named = config.sources;
        self.update();
    }

    /// How many sources are wanted.
    fn wanted(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_wanted()).count()
    }

    /// Tells each slot what is wanted of it.
    fn update(&mut self) {
        let shards = self.clusters.values().flat_map(WatchedCluster::shards);
        let sources: Vec<SourceConfig> = self.named.iter().cloned().chain(shards).collect();
        let (mut added, mut changed, mut removed, mut unchanged) = (0_u64, 0_u64, 0_u64, 0_u64);
        let count = |counter: &mut u64| *counter = counter.saturating_add(1);
        for (name, slot) in &self.slots {
            let is_named = sources.iter().any(|source| source.name == *name);
            if !is_named && slot.want(None) {
                count(&mut removed);
            }
        }
        for source in sources {
            let Some(slot) = self.slots.get(&source.name) else {
                count(&mut added);
                let name = source.name.clone();
                self.slots.insert(name, Slot::start(&self.process, source));
                continue;
            };
            match (slot.is_wanted(), slot.want(Some(source))) {
                (_, false) => count(&mut unchanged),
                (true, true) => count(&mut changed),
                (false, true) => count(&mut added),
            }
        }
        tracing::info!(
            added,
            changed,
            removed,
            unchanged,
            "the sources are as the file and the clusters say"
        );
    }

    /// Waits until all have stored what they received.
    async fn end(self) -> Result<(), (String, SessionEnd)> {
        let mut failed = Ok(());
        for (name, slot) in self.slots {
            if let Err(end) = slot.ended().await {
                tracing::error!("source {name}: {end}");
                failed = failed.and(Err((name, end)));
            }
        }
        failed
    }
}

fn warn_of_memory(shares: &Shares, sources: usize) {
    let most = FeedMemory::new(shares.feed).most_captures();
    if sources > most {
        tracing::warn!(
            "the memory for feed is meant for {most} sources, and there are {sources}: when a store is slow, segments are \
             short. Set a larger `memory_budget`"
        );
    }
}

/// Keys that have changed and are looked at only when the process starts.
fn after_restart(started: &ServiceConfig, now: &ServiceConfig) -> Vec<&'static str> {
    let keys = [
        ("http", started.http != now.http),
        ("memory_budget", started.memory_budget != now.memory_budget),
        ("feed_memory", started.feed_memory != now.feed_memory),
        (
            "consolidate_memory",
            started.consolidate_memory != now.consolidate_memory,
        ),
        ("grace", started.grace != now.grace),
        ("full_syncs", started.full_syncs != now.full_syncs),
    ];
    let changed = keys.into_iter().filter(|(_, changed)| *changed);
    let changed: Vec<&'static str> = changed.map(|(key, _)| key).collect();
    if !changed.is_empty() {
        let keys = changed.join(", ");
        tracing::warn!("[service]: {keys}: the change holds from the next start on");
    }
    changed
}

#[cfg(test)]
#[path = "serve_tests.rs"]
mod tests;
