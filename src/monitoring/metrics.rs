//! Counters and gauges for Prometheus, in a registry that is handed around.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

use crate::monitoring::status::{Phase, StatusView};

/// All metrics, each with the prefix `backfeed_` (and the counters with the suffix `_total`).
pub struct Metrics {
    /// Full syncs that the master has begun for us ([`crate::monitoring::status::FullSyncTally`]).
    pub full_syncs_begun: Counter,
    /// Those whose snapshot is stored and counts.
    pub full_syncs: Counter,
    /// Those that failed.
    pub full_syncs_failed: Counter,
    /// Feeds resumed by `+CONTINUE`.
    pub partial_syncs: Counter,
    /// Segments created by us.
    pub segments_stored: Counter,
    /// Bytes of RDB and feed received.
    pub bytes_received: Counter,
    /// Bytes of objects created (compressed), of every kind ([`crate::store::counted`]).
    pub bytes_stored: Counter,
    /// Calls of the store that failed.
    pub store_errors: Counter,
    /// Reads and writes of the spool that failed.
    pub spool_errors: Counter,
    /// Links to the master that broke.
    pub reconnects: Counter,
    /// Bases made from an older one and the log.
    pub consolidations: Counter,
    /// Consolidations that failed, or stopped early.
    pub consolidation_errors: Counter,
    gauges: Gauges,
    registry: Registry,
}

/// Set from a [`StatusView`] whenever they are asked for.
#[derive(Default)]
struct Gauges {
    received_offset: Gauge,
    stored_offset: Gauge,
    master_offset: Gauge,
    base_offset: Gauge,
    stored_timestamp: Gauge<f64, AtomicU64>,
    lag_bytes: Gauge<f64, AtomicU64>,
    lag_seconds: Gauge<f64, AtomicU64>,
    store_failing: Gauge,
    spool_bytes: Gauge,
    ready: Gauge,
    phase: Family<PhaseLabel, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("backfeed");
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let full_syncs_begun = counter(
            "full_syncs_begun",
            "Full syncs that the master began for backfeed, including those beside the feed",
        );
        let full_syncs = counter("full_syncs", "Full syncs whose snapshot is stored");
        let full_syncs_failed = counter("full_syncs_failed", "Full syncs that failed");
        let partial_syncs = counter("partial_syncs", "Feeds resumed by +CONTINUE");
        let segments_stored = counter("segments_stored", "Log segments created");
        let bytes_received = counter("received_bytes", "Bytes of RDB and feed received");
        let bytes_stored = counter("stored_bytes", "Bytes of objects created, compressed");
        let store_errors = counter("store_errors", "Calls of the store that failed");
        let spool_errors = counter("spool_errors", "Reads and writes of the spool that failed");
        let reconnects = counter("reconnects", "Links to the master that broke");
        let consolidations = counter("consolidations", "Bases made from an older one and the log");
        let consolidation_errors = counter(
            "consolidation_errors",
            "Consolidations that failed or stopped early",
        );
        let gauges = Gauges::registered(&mut registry);
        Self {
            full_syncs_begun,
            full_syncs,
            full_syncs_failed,
            partial_syncs,
            segments_stored,
            bytes_received,
            bytes_stored,
            store_errors,
            spool_errors,
            reconnects,
            consolidations,
            consolidation_errors,
            gauges,
            registry,
        }
    }

    /// The text format, the gauges set from `view`.
    pub(crate) fn encode(&self, view: &StatusView) -> String {
        self.gauges.set(view);
        let mut page = String::new();
        // Writing into a String cannot fail.
        let _ = text::encode(&mut page, &self.registry);
        page
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Gauges {
    fn registered(registry: &mut Registry) -> Self {
        let gauges = Self::default();
        let received = "The last byte of the feed received";
        registry.register("received_offset", received, gauges.received_offset.clone());
        let stored = "The last byte of the feed stored";
        registry.register("stored_offset", stored, gauges.stored_offset.clone());
        let master = "The last byte of the master's stream, as last reported by the master";
        registry.register("master_offset", master, gauges.master_offset.clone());
        let base = "Offset of the newest snapshot";
        registry.register("base_offset", base, gauges.base_offset.clone());
        registry.register_with_unit(
            "stored_timestamp",
            "Unix time at which a part of the feed was last stored, NaN before that",
            Unit::Seconds,
            gauges.stored_timestamp.clone(),
        );
        let lag = "Received but not yet stored, NaN before anything is stored";
        registry.register_with_unit("lag", lag, Unit::Bytes, gauges.lag_bytes.clone());
        let age = "Age of the oldest byte that is not stored yet. While the server is not followed: time since it was \
                   last heard";
        registry.register_with_unit("lag", age, Unit::Seconds, gauges.lag_seconds.clone());
        let failing = "1 while the store refuses writes, or cannot be opened";
        registry.register("store_failing", failing, gauges.store_failing.clone());
        let spool = "Disk in use for feed that waits for the store";
        registry.register_with_unit("spool", spool, Unit::Bytes, gauges.spool_bytes.clone());
        registry.register("ready", "1 when /readyz answers 200", gauges.ready.clone());
        registry.register(
            "phase",
            "1 for the phase that backfeed is in, else 0",
            gauges.phase.clone(),
        );
        gauges
    }

    fn set(&self, view: &StatusView) {
        let gauge = |offset: Option<u64>| i64::try_from(offset.unwrap_or(0)).unwrap_or(i64::MAX);
        self.received_offset.set(gauge(view.received_offset));
        self.stored_offset.set(gauge(view.stored_offset));
        self.master_offset.set(gauge(view.master_offset));
        self.base_offset.set(gauge(view.base_offset));
        let stored = view
            .stored_unix_ms
            .map(|unix_ms| u64::try_from(unix_ms).unwrap_or(0));
        self.stored_timestamp
            .set(stored.map_or(f64::NAN, |unix_ms| approximate(unix_ms) / 1000.0));
        self.lag_bytes
            .set(view.lag_bytes.map_or(f64::NAN, approximate));
        self.lag_seconds.set(view.lag_seconds);
        self.store_failing.set(view.store_error.is_some().into());
        self.spool_bytes.set(gauge(Some(view.spool_bytes)));
        self.ready.set(view.ready.into());
        for phase in Phase::ALL {
            let label = PhaseLabel {
                phase: phase.as_str(),
            };
            self.phase
                .get_or_create(&label)
                .set((phase == view.phase).into());
        }
    }
}

/// Prometheus knows only floats.
#[allow(clippy::cast_precision_loss)]
fn approximate(number: u64) -> f64 {
    number as f64
}
