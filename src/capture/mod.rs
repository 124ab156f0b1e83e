//! Capture.
pub mod tail;
