//! The tests of backfeed: one binary, real servers, the real program.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod support;

mod acks;
mod bad_input;
mod consolidation;
mod crash;
mod differential;
mod fixtures;
mod gcs;
mod matrix;
mod scripted;
mod serving_tls;
mod sidecar;
mod sizes;
mod spool;
mod stock_tools;
mod tidy;
mod tls;
mod writers;
