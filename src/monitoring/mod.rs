//! What the process reports: status for `/readyz`, metrics for Prometheus, the log. They report, and never decide.

#[cfg(feature = "cli")]
pub mod logging;
#[cfg(feature = "http")]
pub mod metrics;
#[cfg(not(feature = "http"))]
#[path = "counters.rs"]
pub mod metrics;
pub mod status;
