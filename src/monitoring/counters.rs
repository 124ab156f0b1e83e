//! What is counted since the process started. `metrics.rs` shows it to Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

/// It only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.inc_by(1);
    }

    /// Adds `more`.
    pub fn inc_by(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// The count until now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// All counters, at zero by default.
#[derive(Debug, Default)]
pub struct Counters {
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
    /// Spans made of segments of the log.
    pub spans_stored: Counter,
    /// Merges of segments that failed.
    pub merge_errors: Counter,
    /// Objects that were deleted: a policy does not keep them, or a span has them.
    pub objects_deleted: Counter,
    /// Their stored bytes.
    pub bytes_deleted: Counter,
    /// Deletes that the store refused.
    pub deletes_denied: Counter,
    /// Runs of expiry that failed.
    pub expiry_errors: Counter,
    /// Restores that were tried.
    pub drills: Counter,
    /// Those that did not work, or could not be tried.
    pub drill_failures: Counter,
}
