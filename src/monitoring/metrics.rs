//! The page of `/metrics`: counters and gauges in Prometheus' text format. It is made anew for each request, so nothing
//! is kept for it.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::monitoring::counters::{Counter, Counters};
use crate::monitoring::status::{Phase, StatusView};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

/// All metrics, each with the prefix `backfeed_` (and the counters with the suffix `_total`).
pub(crate) fn page(counters: &Counters, view: &StatusView) -> String {
    let mut registry = Registry::with_prefix("backfeed");
    add_counters(&mut registry, counters);
    add_offsets(&mut registry, view);
    add_lag(&mut registry, view);
    add_state(&mut registry, view);
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = text::encode(&mut page, &registry);
    page
}

fn add_counters(registry: &mut Registry, counters: &Counters) {
    let mut add = |name: &str, help: &str, counter: &Counter| {
        registry.register(name, help, ConstCounter::new(counter.get()));
    };
    add(
        "full_syncs_begun",
        "Full syncs that the master began for backfeed, including those beside the feed",
        &counters.full_syncs_begun,
    );
    add(
        "full_syncs",
        "Full syncs whose snapshot is stored",
        &counters.full_syncs,
    );
    add(
        "full_syncs_failed",
        "Full syncs that failed",
        &counters.full_syncs_failed,
    );
    add(
        "partial_syncs",
        "Feeds resumed by +CONTINUE",
        &counters.partial_syncs,
    );
    add(
        "segments_stored",
        "Log segments created",
        &counters.segments_stored,
    );
    add(
        "received_bytes",
        "Bytes of RDB and feed received",
        &counters.bytes_received,
    );
    add(
        "stored_bytes",
        "Bytes of objects created, compressed",
        &counters.bytes_stored,
    );
    add(
        "store_errors",
        "Calls of the store that failed",
        &counters.store_errors,
    );
    add(
        "spool_errors",
        "Reads and writes of the spool that failed",
        &counters.spool_errors,
    );
    add(
        "reconnects",
        "Links to the master that broke",
        &counters.reconnects,
    );
    add(
        "consolidations",
        "Bases made from an older one and the log",
        &counters.consolidations,
    );
    add(
        "consolidation_errors",
        "Consolidations that failed or stopped early",
        &counters.consolidation_errors,
    );
    add(
        "spans_stored",
        "Spans made of many segments of the log",
        &counters.spans_stored,
    );
    add(
        "merge_errors",
        "Merges of segments that failed",
        &counters.merge_errors,
    );
    add(
        "deleted_objects",
        "Objects deleted: a policy does not keep them, or a span has them",
        &counters.objects_deleted,
    );
    add(
        "deleted_bytes",
        "Stored bytes of the objects deleted",
        &counters.bytes_deleted,
    );
    add(
        "denied_deletes",
        "Deletes that the store refused",
        &counters.deletes_denied,
    );
    add(
        "expiry_errors",
        "Runs of expiry that failed",
        &counters.expiry_errors,
    );
}

fn add_offsets(registry: &mut Registry, view: &StatusView) {
    let mut add = |name: &str, help: &str, offset: Option<u64>| {
        registry.register(name, help, whole(offset.unwrap_or(0)));
    };
    add(
        "received_offset",
        "The last byte of the feed received",
        view.received_offset,
    );
    add(
        "stored_offset",
        "The last byte of the feed stored",
        view.stored_offset,
    );
    add(
        "master_offset",
        "The last byte of the master's stream, as last reported by the master",
        view.master_offset,
    );
    add(
        "base_offset",
        "Offset of the newest snapshot",
        view.base_offset,
    );
}

fn add_lag(registry: &mut Registry, view: &StatusView) {
    let seconds = |unix_ms: Option<i64>| {
        unix_ms.map_or(f64::NAN, |unix_ms| {
            approximate(u64::try_from(unix_ms).unwrap_or(0)) / 1000.0
        })
    };
    let stored = seconds(view.stored_unix_ms);
    let expired = seconds(view.expiry.as_ref().and_then(|expiry| expiry.run_unix_ms));
    for (name, help, unit, value) in [
        (
            "stored_timestamp",
            "Unix time at which a part of the feed was last stored, NaN before that",
            Unit::Seconds,
            stored,
        ),
        (
            "expiry_timestamp",
            "Unix time of the last run of expiry that did not fail, NaN before that",
            Unit::Seconds,
            expired,
        ),
        (
            "lag",
            "Received but not yet stored, NaN before anything is stored",
            Unit::Bytes,
            view.lag_bytes.map_or(f64::NAN, approximate),
        ),
        (
            "lag",
            "Age of the oldest byte that is not stored yet. While the server is not followed: time since it was last \
             heard",
            Unit::Seconds,
            view.lag_seconds,
        ),
    ] {
        registry.register_with_unit(name, help, unit, ConstGauge::new(value));
    }
}

fn add_state(registry: &mut Registry, view: &StatusView) {
    registry.register(
        "store_failing",
        "1 while the store refuses writes, or cannot be opened",
        whole(view.store_error.is_some().into()),
    );
    registry.register_with_unit(
        "spool",
        "Disk in use for feed that waits for the store",
        Unit::Bytes,
        whole(view.spool_bytes),
    );
    registry.register(
        "ready",
        "1 when /readyz answers 200",
        whole(view.ready.into()),
    );
    registry.register(
        "phase",
        "1 for the phase that backfeed is in, else 0",
        phases(view.phase),
    );
}

fn phases(now: Phase) -> Family<PhaseLabel, Gauge> {
    let phases = Family::<PhaseLabel, Gauge>::default();
    for phase in Phase::ALL {
        let label = PhaseLabel {
            phase: phase.as_str(),
        };
        phases.get_or_create(&label).set((phase == now).into());
    }
    phases
}

fn whole(number: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Prometheus knows only floats.
#[allow(clippy::cast_precision_loss)]
fn approximate(number: u64) -> f64 {
    number as f64
}
