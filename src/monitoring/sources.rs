//! What a process with several sources says: of each of them, and of the file that names them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

#[cfg(feature = "http")]
use crate::monitoring::metrics::{self, SourceLabels};
use crate::monitoring::status::{Status, StatusView};

/// The state of all sources. Clones share it.
#[derive(Clone)]
pub struct Sources(Arc<Mutex<State>>);

struct State {
    sources: BTreeMap<String, Source>,
    clusters: BTreeMap<String, ClusterView>,
    config: ConfigView,
    expected: usize,
    is_stopped: bool,
}

#[derive(Clone)]
struct Source {
    store: String,
    status: Status,
}

/// What `/readyz` of `serve` shows. The names are part of the interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourcesView {
    /// The version of these names, as of all JSON.
    pub format: u32,
    /// The version of this program.
    pub backfeed_version: &'static str,
    /// All sources are ready.
    pub ready: bool,
    /// How many are.
    pub ready_sources: usize,
    /// The file that names them.
    pub config: ConfigView,
    /// By their names. The source of a shard is called `CLUSTER/SHARD`.
    pub sources: BTreeMap<String, SourceView>,
    /// By their names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub clusters: BTreeMap<String, ClusterView>,
}

/// A cluster, whose shards are sources.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterView {
    /// The URL of its place.
    pub store: String,
    /// Its shards are known, and the last look at it has told all.
    pub ready: bool,
    /// How many shards the latest slot map in the store has.
    pub shards: usize,
    /// The number of that map. 0: there is none yet.
    pub map: u64,
    /// When the cluster was last looked at with success, Unix milliseconds.
    pub seen_unix_ms: Option<i64>,
    /// Why the last look told nothing, or could not be stored. What was known before holds then.
    pub error: Option<String>,
}

/// The file that names the sources.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfigView {
    /// As it was named.
    pub file: String,
    /// When it was last read and used, Unix milliseconds.
    pub loaded_unix_ms: i64,
    /// Why it could not be used when it was last read. What was read before holds then.
    pub error: Option<String>,
    /// When that was, Unix milliseconds.
    pub error_unix_ms: Option<i64>,
    /// Keys of `[service]` that have changed since the start, and hold from the next start on.
    pub after_restart: Vec<&'static str>,
}

/// One source.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceView {
    /// The URL of its store.
    pub store: String,
    /// The same as `/readyz` of a process with one source.
    #[serde(flatten)]
    pub status: StatusView,
}

impl Sources {
    /// None yet. `file` was read at `unix_ms`, and names so many.
    #[must_use]
    pub fn new(file: impl Into<String>, expected: usize, unix_ms: i64) -> Self {
        Self(Arc::new(Mutex::new(State {
            sources: BTreeMap::new(),
            clusters: BTreeMap::new(),
            config: ConfigView {
                file: file.into(),
                loaded_unix_ms: unix_ms,
                error: None,
                error_unix_ms: None,
                after_restart: Vec::new(),
            },
            expected,
            is_stopped: false,
        })))
    }

    /// How many the file has named at the start.
    #[must_use]
    pub fn expected(&self) -> usize {
        self.state().expected
    }

    /// A source begins.
    pub fn add(&self, name: &str, store: &str, status: &Status) {
        let source = Source {
            store: store.to_owned(),
            status: status.clone(),
        };
        self.state().sources.insert(name.to_owned(), source);
    }

    /// A source is not wanted any more.
    pub fn remove(&self, name: &str) {
        self.state().sources.remove(name);
    }

    /// A cluster is to be looked at.
    pub fn cluster_begins(&self, name: &str, store: &str) {
        let view = ClusterView {
            store: store.to_owned(),
            ready: false,
            shards: 0,
            map: 0,
            seen_unix_ms: None,
            error: None,
        };
        self.state().clusters.insert(name.to_owned(), view);
    }

    /// It was looked at: its latest slot map has so many shards.
    pub fn cluster_looked_at(
        &self,
        name: &str,
        shards: usize,
        map: u64,
        error: Option<String>,
        unix_ms: i64,
    ) {
        let mut state = self.state();
        let Some(view) = state.clusters.get_mut(name) else {
            return;
        };
        view.ready = error.is_none() && map > 0;
        (view.shards, view.map) = (shards, map);
        if error.is_none() {
            view.seen_unix_ms = Some(unix_ms);
        }
        view.error = error;
    }

    /// It is not looked at any more.
    pub fn cluster_ends(&self, name: &str) {
        self.state().clusters.remove(name);
    }

    /// The file was read, and holds from now on.
    pub fn loaded(&self, unix_ms: i64, after_restart: Vec<&'static str>) {
        let config = &mut self.state().config;
        config.loaded_unix_ms = unix_ms;
        config.error = None;
        config.error_unix_ms = None;
        config.after_restart = after_restart;
    }

    /// The file cannot be used.
    pub fn refused(&self, error: impl Into<String>, unix_ms: i64) {
        let config = &mut self.state().config;
        config.error = Some(error.into());
        config.error_unix_ms = Some(unix_ms);
    }

    /// The process ends.
    pub fn stopped(&self) {
        self.state().is_stopped = true;
    }

    /// Does it?
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    /// The state of one source.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Status> {
        let state = self.state();
        state.sources.get(name).map(|source| source.status.clone())
    }

    /// What is shown of one source.
    #[must_use]
    pub fn view_of(&self, name: &str) -> Option<SourceView> {
        let source = self.state().sources.get(name).cloned();
        source.map(|source| source.view())
    }

    /// What is known now.
    #[must_use]
    pub fn view(&self) -> SourcesView {
        let (sources, clusters, config, is_stopped) = {
            let state = self.state();
            (
                state.sources.clone(),
                state.clusters.clone(),
                state.config.clone(),
                state.is_stopped,
            )
        };
        let sources: BTreeMap<String, SourceView> = sources
            .into_iter()
            .map(|(name, source)| (name, source.view()))
            .collect();
        let ready_sources = sources.values().filter(|it| it.status.ready).count();
        SourcesView {
            format: 1,
            backfeed_version: env!("CARGO_PKG_VERSION"),
            // None is there yet in the first moments.
            ready: !is_stopped
                && !sources.is_empty()
                && ready_sources == sources.len()
                && clusters.values().all(|cluster| cluster.ready)
                // A shard of the map that has no source yet is one that is not backed up.
                && clusters.iter().all(|(name, cluster)| {
                    let prefix = format!("{name}/");
                    let of = sources.keys().filter(|it| it.starts_with(&prefix));
                    of.count() >= cluster.shards
                }),
            ready_sources,
            config,
            sources,
            clusters,
        }
    }

    /// The metrics in Prometheus' text format.
    #[cfg(feature = "http")]
    #[must_use]
    pub fn prometheus(&self) -> String {
        let view = self.view();
        let statuses: Vec<(SourceLabels, Status)> = self
            .state()
            .sources
            .iter()
            .map(|(name, source)| {
                let labels = SourceLabels {
                    source: name.clone(),
                    store: source.store.clone(),
                };
                (labels, source.status.clone())
            })
            .collect();
        let rows: Vec<_> = statuses
            .iter()
            .filter_map(|(labels, status)| {
                let shown = view.sources.get(&labels.source)?;
                Some((labels.clone(), status.metrics(), &shown.status))
            })
            .collect();
        metrics::page_of_many(&rows, &view)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    fn view(&self) -> SourceView {
        SourceView {
            store: self.store.clone(),
            status: self.status.view(),
        }
    }
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.view().fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::monitoring::status::Phase;

    fn two() -> (Sources, Status, Status) {
        let sources = Sources::new("backfeed.toml", 2, 1_000);
        let (one, other) = (Status::new(), Status::new());
        sources.add("cart", "gs://b/cart", &one);
        sources.add("shop", "gs://b/shop", &other);
        (sources, one, other)
    }

    #[test]
    fn all_are_ready_when_each_is_and_a_bad_file_changes_none() {
        let (sources, one, other) = two();
        one.phase(Phase::Following, "");
        let view = sources.view();
        assert_eq!((view.ready, view.ready_sources), (false, 1));
        other.phase(Phase::Following, "");
        sources.refused("line 3: no", 2_000);
        let view = sources.view();
        assert_eq!((view.ready, view.ready_sources), (true, 2));
        assert_eq!(view.config.error.as_deref(), Some("line 3: no"));
        assert_eq!(view.config.loaded_unix_ms, 1_000);
        sources.loaded(3_000, vec!["http"]);
        sources.remove("shop");
        let view = sources.view();
        assert_eq!((view.config.error, view.sources.len()), (None, 1));
        assert!(sources.get("shop").is_none());
        sources.stopped();
        assert!(!sources.view().ready);
    }

    /// Each metric has one block, with a line for each source.
    #[test]
    fn metrics_have_the_labels_of_their_source() {
        let (sources, one, _) = two();
        one.metrics().segments_stored.inc_by(3);
        one.phase(Phase::Following, "");
        let page = sources.prometheus();
        for line in [
            "backfeed_segments_stored_total{source=\"cart\",store=\"gs://b/cart\"} 3",
            "backfeed_segments_stored_total{source=\"shop\",store=\"gs://b/shop\"} 0",
            "backfeed_ready{source=\"cart\",store=\"gs://b/cart\"} 1",
            "backfeed_lag_bytes{source=\"cart\",store=\"gs://b/cart\"} NaN",
            "backfeed_phase{source=\"cart\",store=\"gs://b/cart\",phase=\"following\"} 1",
            "backfeed_sources 2",
            "backfeed_config_last_reload_successful 1",
            "backfeed_config_last_reload_success_timestamp_seconds 1.0",
        ] {
            assert!(page.lines().any(|it| it == line), "{line}: {page}");
        }
        let mut types: Vec<&str> = page
            .lines()
            .filter(|line| line.starts_with("# TYPE"))
            .collect();
        let all = types.len();
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), all);
        // What one source says has the same names.
        let alone = one.prometheus();
        for line in alone.lines().filter(|line| line.starts_with("# TYPE")) {
            assert!(types.contains(&line), "{line}");
        }
        sources.refused("no", 2_000);
        let page = sources.prometheus();
        assert!(page.contains("\nbackfeed_config_last_reload_successful 0\n"));
    }
}
