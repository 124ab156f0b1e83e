//! The tests of backfeed: one binary, real servers, the real program.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used
)]

mod support;

mod acks;
mod bad_input;
mod boot;
mod check;
mod cli;
mod clocks;
mod clouds;
mod cluster;
mod commands;
mod consolidation;
mod copy;
mod cost;
mod crash;
mod diff;
mod differential;
mod do_no_harm;
mod drill;
mod expire;
mod fencing;
mod fixtures;
mod fuzzing;
mod gcs;
mod get;
mod guestbook;
mod inspect;
mod keydb;
mod latest;
mod loaded;
mod matrix;
mod memory;
mod merge;
mod metrics;
mod outsiders;
mod proof;
mod restore_keys;
mod retention;
mod round_trip;
mod scripted;
mod sentinel;
mod serve;
mod served_log;
mod serving_tls;
mod set_back;
mod sidecar;
mod sizes;
mod spans_alone;
mod spool;
mod stages;
mod standby;
mod status;
mod stock_tools;
mod takeover;
mod tidy;
mod tls;
mod unknown;
mod verify;
mod wait;
mod writers;
