//! The page of `/metrics`: counters and gauges in Prometheus' text format. It is made anew for each request, so nothing
//! is kept for it.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter as CounterOfMany};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use crate::monitoring::counters::{Counter, Counters};
use crate::monitoring::sources::SourcesView;
use crate::monitoring::status::{Phase, StatusView};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: &'static str,
}

/// Which of several sources it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct SourceLabels {
    /// Its name.
    pub(crate) source: String,
    /// The URL of its store.
    pub(crate) store: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourcePhaseLabels {
    source: String,
    store: String,
    phase: &'static str,
}

/// One number of the page.
struct Sample {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    value: Value,
}

#[derive(Clone, Copy)]
enum Value {
    Count(u64),
    Whole(i64),
    Float(f64),
}

const PHASE: (&str, &str) = ("phase", "1 for the phase that backfeed is in, else 0");

/// All metrics, each with the prefix `backfeed_` (and the counters with the suffix `_total`).
pub(crate) fn page(counters: &Counters, view: &StatusView) -> String {
    let mut registry = Registry::with_prefix("backfeed");
    for sample in samples(counters, view) {
        let Sample {
            name,
            help,
            unit,
            value,
        } = sample;
        match value {
            Value::Count(count) => add(&mut registry, name, help, unit, ConstCounter::new(count)),
            Value::Whole(number) => add(&mut registry, name, help, unit, ConstGauge::new(number)),
            Value::Float(number) => add(&mut registry, name, help, unit, ConstGauge::new(number)),
        }
    }
    registry.register(PHASE.0, PHASE.1, phases(view.phase));
    encoded(&registry)
}

/// The same of several sources, each with its labels, and of the file that names them.
pub(crate) fn page_of_many(
    sources: &[(SourceLabels, &Counters, &StatusView)],
    all: &SourcesView,
) -> String {
    let mut registry = Registry::with_prefix("backfeed");
    let columns: Vec<(&SourceLabels, Vec<Sample>)> = sources
        .iter()
        .map(|(labels, counters, view)| (labels, samples(counters, view)))
        .collect();
    // All have the same samples, in the same order.
    for row in 0..columns.first().map_or(0, |(_, samples)| samples.len()) {
        let samples = columns
            .iter()
            .filter_map(|(labels, samples)| Some((*labels, samples.get(row)?)));
        add_row(&mut registry, samples.collect());
    }
    registry.register(PHASE.0, PHASE.1, phases_of_many(sources));
    add_file(&mut registry, all);
    encoded(&registry)
}

/// One metric of all sources.
fn add_row(registry: &mut Registry, samples: Vec<(&SourceLabels, &Sample)>) {
    let Some((_, first)) = samples.first() else {
        return;
    };
    let (name, help, unit) = (first.name, first.help, first.unit.clone());
    match first.value {
        Value::Count(_) => {
            let family = Family::<SourceLabels, CounterOfMany>::default();
            for (labels, sample) in &samples {
                if let Value::Count(count) = sample.value {
                    family.get_or_create(labels).inc_by(count);
                }
            }
            add(registry, name, help, unit, family);
        }
        Value::Whole(_) => {
            let family = Family::<SourceLabels, Gauge>::default();
            for (labels, sample) in &samples {
                if let Value::Whole(number) = sample.value {
                    family.get_or_create(labels).set(number);
                }
            }
            add(registry, name, help, unit, family);
        }
        Value::Float(_) => {
            let family = Family::<SourceLabels, Gauge<f64, AtomicU64>>::default();
            for (labels, sample) in &samples {
                if let Value::Float(number) = sample.value {
                    family.get_or_create(labels).set(number);
                }
            }
            add(registry, name, help, unit, family);
        }
    }
}

fn add_file(registry: &mut Registry, all: &SourcesView) {
    let total = u64::try_from(all.sources.len()).unwrap_or(u64::MAX);
    registry.register(
        "sources",
        "Sources that the configuration file names",
        ConstGauge::new(whole(total)),
    );
    registry.register(
        "config_last_reload_successful",
        "1 when the configuration file could be used when it was last read, else 0",
        ConstGauge::new(i64::from(all.config.error.is_none())),
    );
    registry.register_with_unit(
        "config_last_reload_success_timestamp",
        "Unix time at which the configuration file was last read and used",
        Unit::Seconds,
        ConstGauge::new(seconds(Some(all.config.loaded_unix_ms))),
    );
}

fn add(
    registry: &mut Registry,
    name: &str,
    help: &str,
    unit: Option<Unit>,
    metric: impl prometheus_client::registry::Metric,
) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, metric),
        None => registry.register(name, help, metric),
    }
}

fn encoded(registry: &Registry) -> String {
    let mut page = String::new();
    // Writing into a String cannot fail.
    let _ = text::encode(&mut page, registry);
    page
}

fn samples(counters: &Counters, view: &StatusView) -> Vec<Sample> {
    let mut samples = counted(counters);
    samples.extend(offsets(view));
    samples.extend(lag(view));
    samples.extend(state(view));
    samples
}

fn counted(counters: &Counters) -> Vec<Sample> {
    let counter = |name, help, counter: &Counter| Sample {
        name,
        help,
        unit: None,
        value: Value::Count(counter.get()),
    };
    vec![
        counter(
            "full_syncs_begun",
            "Full syncs that the master began for backfeed, including those beside the feed",
            &counters.full_syncs_begun,
        ),
        counter(
            "full_syncs",
            "Full syncs whose snapshot is stored",
            &counters.full_syncs,
        ),
        counter(
            "full_syncs_failed",
            "Full syncs that failed",
            &counters.full_syncs_failed,
        ),
        counter(
            "partial_syncs",
            "Feeds resumed by +CONTINUE",
            &counters.partial_syncs,
        ),
        counter(
            "segments_stored",
            "Log segments created",
            &counters.segments_stored,
        ),
        counter(
            "received_bytes",
            "Bytes of RDB and feed received",
            &counters.bytes_received,
        ),
        counter(
            "stored_bytes",
            "Bytes of objects created, compressed",
            &counters.bytes_stored,
        ),
        counter(
            "store_errors",
            "Calls of the store that failed",
            &counters.store_errors,
        ),
        counter(
            "spool_errors",
            "Reads and writes of the spool that failed",
            &counters.spool_errors,
        ),
        counter(
            "reconnects",
            "Links to the master that broke",
            &counters.reconnects,
        ),
        counter(
            "consolidations",
            "Bases made from an older one and the log",
            &counters.consolidations,
        ),
        counter(
            "consolidation_errors",
            "Consolidations that failed or stopped early",
            &counters.consolidation_errors,
        ),
        counter(
            "spans_stored",
            "Spans made of many segments of the log",
            &counters.spans_stored,
        ),
        counter(
            "merge_errors",
            "Merges of segments that failed",
            &counters.merge_errors,
        ),
        counter(
            "deleted_objects",
            "Objects deleted: a policy does not keep them, or a span has them",
            &counters.objects_deleted,
        ),
        counter(
            "deleted_bytes",
            "Stored bytes of the objects deleted",
            &counters.bytes_deleted,
        ),
        counter(
            "denied_deletes",
            "Deletes that the store refused",
            &counters.deletes_denied,
        ),
        counter(
            "expiry_errors",
            "Runs of expiry that failed",
            &counters.expiry_errors,
        ),
        counter(
            "drills",
            "Restores that were tried by the service itself",
            &counters.drills,
        ),
        counter(
            "drill_failures",
            "Restores that were tried, and did not work or could not be tried",
            &counters.drill_failures,
        ),
    ]
}

fn offsets(view: &StatusView) -> Vec<Sample> {
    let offset = |name, help, offset: Option<u64>| Sample {
        name,
        help,
        unit: None,
        value: Value::Whole(whole(offset.unwrap_or(0))),
    };
    vec![
        offset(
            "received_offset",
            "The last byte of the feed received",
            view.received_offset,
        ),
        offset(
            "stored_offset",
            "The last byte of the feed stored",
            view.stored_offset,
        ),
        offset(
            "master_offset",
            "The last byte of the master's stream, as last reported by the master",
            view.master_offset,
        ),
        offset(
            "base_offset",
            "Offset of the newest snapshot",
            view.base_offset,
        ),
        offset(
            "drill_keys",
            "Keys that the last drill has restored",
            view.drill.as_ref().map(|drill| drill.keys),
        ),
    ]
}

fn lag(view: &StatusView) -> Vec<Sample> {
    let stored = seconds(view.stored_unix_ms);
    let drill = view.drill.as_ref();
    let drilled = seconds(drill.map(|drill| drill.run_unix_ms));
    let lasted = drill.map_or(f64::NAN, |drill| drill.duration_ms as f64 / 1000.0);
    let expired = seconds(view.expiry.as_ref().and_then(|expiry| expiry.run_unix_ms));
    [
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
            "drill_timestamp",
            "Unix time at which a restore was last tried, NaN before that",
            Unit::Seconds,
            drilled,
        ),
        (
            "drill_duration",
            "How long the last drill took, NaN before that",
            Unit::Seconds,
            lasted,
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
    ]
    .map(|(name, help, unit, value)| Sample {
        name,
        help,
        unit: Some(unit),
        value: Value::Float(value),
    })
    .into()
}

fn state(view: &StatusView) -> Vec<Sample> {
    [
        (
            "store_failing",
            "1 while the store refuses writes, or cannot be opened",
            None,
            view.store_error.is_some().into(),
        ),
        (
            "spool",
            "Disk in use for feed that waits for the store",
            Some(Unit::Bytes),
            view.spool_bytes,
        ),
        (
            "ready",
            "1 when /readyz answers 200",
            None,
            view.ready.into(),
        ),
    ]
    .map(|(name, help, unit, value)| Sample {
        name,
        help,
        unit,
        value: Value::Whole(whole(value)),
    })
    .into()
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

fn phases_of_many(
    sources: &[(SourceLabels, &Counters, &StatusView)],
) -> Family<SourcePhaseLabels, Gauge> {
    let phases = Family::<SourcePhaseLabels, Gauge>::default();
    for (SourceLabels { source, store }, _, view) in sources {
        for phase in Phase::ALL {
            let labels = SourcePhaseLabels {
                source: source.clone(),
                store: store.clone(),
                phase: phase.as_str(),
            };
            let is_now = (phase == view.phase).into();
            phases.get_or_create(&labels).set(is_now);
        }
    }
    phases
}

fn seconds(unix_ms: Option<i64>) -> f64 {
    unix_ms.map_or(f64::NAN, |unix_ms| {
        approximate(u64::try_from(unix_ms).unwrap_or(0)) / 1000.0
    })
}

fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Prometheus knows only floats.
#[allow(clippy::cast_precision_loss)]
fn approximate(number: u64) -> f64 {
    number as f64
}
