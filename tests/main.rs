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
mod clouds;
mod commands;
mod consolidation;
mod crash;
mod diff;
mod differential;
mod do_no_harm;
mod fixtures;
mod fuzzing;
mod gcs;
mod get;
mod inspect;
mod latest;
mod matrix;
mod restore_keys;
mod round_trip;
mod scripted;
mod sentinel;
mod serving_tls;
mod set_back;
mod sidecar;
mod sizes;
mod spool;
mod stock_tools;
mod tidy;
mod tls;
mod verify;
mod writers;
