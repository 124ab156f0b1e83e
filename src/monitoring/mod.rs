//! What the process reports: status for `/readyz`, metrics for Prometheus, the log. They report, and never decide.

pub mod counters;
#[cfg(feature = "cli")]
pub mod logging;
#[cfg(feature = "http")]
mod metrics;
pub mod sources;
pub mod status;
