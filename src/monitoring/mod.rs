//! What the process reports: status for `/readyz`, metrics for Prometheus, the log. They report, and never decide.

pub mod logging;
pub mod metrics;
pub mod status;
