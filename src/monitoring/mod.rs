//! What the process says of itself: status for `/readyz`, metrics for Prometheus, the log. They report; they decide nothing.

pub mod logging;
pub mod metrics;
pub mod status;
