//! What a standby says of itself: `/readyz` and `/metrics`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::line::Line;
use crate::wire::position::{Offset, ReplId};

/// The state of a standby. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StandbyStatus(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    listen: Option<SocketAddr>,
    line: Option<Arc<Line>>,
    delay_ms: u64,
    error: Option<(String, i64)>,
    store_fails: bool,
    replicas: BTreeMap<u64, ReplicaView>,
    next: u64,
    served: Served,
    is_stopped: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Served {
    full_syncs: u64,
    partial_syncs: u64,
    sent_bytes: u64,
}

/// What `/readyz` of a standby shows. The names are part of the interface.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StandbyView {
    /// The version of these names, as of all JSON.
    pub format: u32,
    /// The version of this program.
    pub backfeed_version: &'static str,
    /// A history is followed, and the store answers.
    pub ready: bool,
    /// Where replicas find it.
    pub listen: Option<SocketAddr>,
    /// The history that is followed, by its key in the store.
    pub history: Option<ReplId>,
    /// The last byte that replicas get.
    pub end_offset: Option<Offset>,
    /// When it was received from the server, Unix milliseconds.
    pub end_unix_ms: Option<i64>,
    /// The last byte that was seen in the store. With a delay it is beyond `end_offset`.
    pub stored_offset: Option<Offset>,
    /// When it was received from the server, Unix milliseconds.
    pub stored_unix_ms: Option<i64>,
    /// How far replicas stay behind, milliseconds.
    pub delay_ms: u64,
    /// What failed last.
    pub last_error: Option<String>,
    /// When that was, Unix milliseconds.
    pub last_error_unix_ms: Option<i64>,
    /// Those that are connected.
    pub replicas: Vec<ReplicaView>,
}

/// One replica.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReplicaView {
    /// Its address, with the port on which it listens itself, as far as it says that.
    pub addr: String,
    /// `snapshot` or `following`.
    pub phase: &'static str,
    /// The last byte that it was sent.
    pub sent_offset: Option<Offset>,
    /// The last byte that it says it has.
    pub acked_offset: Option<Offset>,
    /// Bytes that it may have, and does not say it has.
    pub lag_bytes: Option<u64>,
}

/// One replica, as long as it is connected.
#[derive(Debug)]
pub(super) struct Connected {
    status: StandbyStatus,
    key: u64,
}

impl StandbyStatus {
    /// What it is now.
    #[must_use]
    pub fn view(&self) -> StandbyView {
        let state = self.state();
        let line = state.line.as_deref();
        let end = line.map(|line| line.end);
        let mut replicas: Vec<ReplicaView> = state.replicas.values().cloned().collect();
        for replica in &mut replicas {
            let has = replica.acked_offset.or(replica.sent_offset);
            replica.lag_bytes = end.zip(has).map(|(end, has)| end.beyond(has));
        }
        StandbyView {
            format: 1,
            backfeed_version: env!("CARGO_PKG_VERSION"),
            ready: line.is_some() && !state.store_fails && !state.is_stopped,
            listen: state.listen,
            history: line.map(Line::tip),
            end_offset: end,
            end_unix_ms: line.and_then(|line| line.end_unix_ms),
            stored_offset: line.map(|line| line.stored),
            stored_unix_ms: line.and_then(|line| line.stored_unix_ms),
            delay_ms: state.delay_ms,
            last_error: state.error.as_ref().map(|(text, _)| text.clone()),
            last_error_unix_ms: state.error.as_ref().map(|(_, at)| *at),
            replicas,
        }
    }

    /// It ends.
    pub fn stopped(&self) {
        self.state().is_stopped = true;
    }

    /// Has it ended?
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state().is_stopped
    }

    pub(super) fn listens(&self, addr: SocketAddr) {
        self.state().listen = Some(addr);
    }

    pub(super) fn delays(&self, delay_ms: u64) {
        self.state().delay_ms = delay_ms;
    }

    pub(super) fn follows(&self, line: &Arc<Line>) {
        let mut state = self.state();
        state.line = Some(Arc::clone(line));
        state.store_fails = false;
    }

    /// The store, or what lies in it, cannot be used. True: this was not known.
    pub(super) fn fails(&self, error: String, now_unix_ms: i64) -> bool {
        let mut state = self.state();
        let known = state.error.as_ref().map(|(text, _)| text.as_str());
        let is_new = known != Some(error.as_str()) || !state.store_fails;
        state.error = Some((error, now_unix_ms));
        state.store_fails = true;
        is_new
    }

    /// The store answers.
    pub(super) fn works(&self) {
        self.state().store_fails = false;
    }

    pub(super) fn connected(&self, addr: String) -> Connected {
        let mut state = self.state();
        let key = state.next;
        state.next = key.saturating_add(1);
        state.replicas.insert(
            key,
            ReplicaView {
                addr,
                phase: "snapshot",
                sent_offset: None,
                acked_offset: None,
                lag_bytes: None,
            },
        );
        Connected {
            status: self.clone(),
            key,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    /// It follows from here.
    pub(super) fn follows(&self, sent: Offset, is_full: bool) {
        let mut state = self.status.state();
        let count = match is_full {
            true => &mut state.served.full_syncs,
            false => &mut state.served.partial_syncs,
        };
        *count = count.saturating_add(1);
        if let Some(replica) = state.replicas.get_mut(&self.key) {
            replica.phase = "following";
            replica.sent_offset = Some(sent);
        }
    }

    pub(super) fn has(&self, sent: Offset, acked: Option<Offset>) {
        let mut state = self.status.state();
        let Some(replica) = state.replicas.get_mut(&self.key) else {
            return;
        };
        let before = replica.sent_offset.replace(sent);
        replica.acked_offset = acked;
        let more = before.map_or(0, |before| sent.beyond(before));
        state.served.sent_bytes = state.served.sent_bytes.saturating_add(more);
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.status.state().replicas.remove(&self.key);
    }
}

#[cfg(feature = "http")]
impl crate::service::http::Shown for StandbyStatus {
    type View = StandbyView;

    fn is_stopped(&self) -> bool {
        Self::is_stopped(self)
    }

    fn shown(&self) -> (bool, StandbyView) {
        let view = self.view();
        (view.ready, view)
    }

    fn metrics(&self) -> String {
        self.prometheus()
    }
}

#[cfg(feature = "http")]
mod metrics {
    use prometheus_client::encoding::{EncodeLabelSet, text};
    use prometheus_client::metrics::counter::ConstCounter;
    use prometheus_client::metrics::family::Family;
    use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
    use prometheus_client::registry::{Registry, Unit};

    use super::{Offset, StandbyStatus};

    #[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
    struct ReplicaLabel {
        replica: String,
    }

    fn number(offset: Option<Offset>) -> i64 {
        offset.map_or(-1, |offset| i64::try_from(offset.0).unwrap_or(i64::MAX))
    }

    impl StandbyStatus {
        /// The page of `/metrics`.
        #[must_use]
        pub fn prometheus(&self) -> String {
            let view = self.view();
            let served = self.state().served;
            let mut registry = Registry::with_prefix("backfeed_standby");
            let gauges: [(&str, &str, i64); 4] = [
                (
                    "ready",
                    "1 if a history is followed and the store answers",
                    i64::from(view.ready),
                ),
                (
                    "replicas",
                    "Replicas that are connected",
                    i64::try_from(view.replicas.len()).unwrap_or(i64::MAX),
                ),
                (
                    "end_offset",
                    "The last byte that replicas get, -1 if nothing is followed",
                    number(view.end_offset),
                ),
                (
                    "stored_offset",
                    "The last byte that was seen in the store, -1 if nothing is followed",
                    number(view.stored_offset),
                ),
            ];
            for (name, help, value) in gauges {
                registry.register(name, help, ConstGauge::new(value));
            }
            for (name, help, at) in [
                (
                    "end_timestamp",
                    "When the last byte that replicas get was received from the server",
                    view.end_unix_ms,
                ),
                (
                    "stored_timestamp",
                    "When the last byte in the store was received from the server",
                    view.stored_unix_ms,
                ),
            ] {
                let seconds = at.map_or(f64::NAN, |at| at as f64 / 1000.0);
                registry.register_with_unit(name, help, Unit::Seconds, ConstGauge::new(seconds));
            }
            for (name, help, count) in [
                (
                    "full_syncs",
                    "Replicas that were given a snapshot",
                    served.full_syncs,
                ),
                (
                    "partial_syncs",
                    "Replicas that went on from what they had",
                    served.partial_syncs,
                ),
            ] {
                registry.register(name, help, ConstCounter::new(count));
            }
            let sent = ConstCounter::new(served.sent_bytes);
            registry.register_with_unit(
                "sent",
                "Bytes of log that were sent to replicas",
                Unit::Bytes,
                sent,
            );
            let (lag, acked) = (
                Family::<ReplicaLabel, Gauge>::default(),
                Family::<ReplicaLabel, Gauge>::default(),
            );
            for replica in &view.replicas {
                let label = ReplicaLabel {
                    replica: replica.addr.clone(),
                };
                let bytes = replica
                    .lag_bytes
                    .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
                lag.get_or_create(&label).set(bytes);
                acked
                    .get_or_create(&label)
                    .set(number(replica.acked_offset));
            }
            registry.register_with_unit(
                "replica_lag",
                "Bytes that a replica may have and does not say it has",
                Unit::Bytes,
                lag,
            );
            registry.register(
                "replica_acked_offset",
                "The last byte that a replica says it has",
                acked,
            );
            let mut page = String::new();
            match text::encode(&mut page, &registry) {
                Ok(()) => page,
                Err(error) => format!("# {error}\n"),
            }
        }
    }
}
