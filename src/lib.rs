//! backfeed backs Redis up from the replication feed and restores by feeding it back.
//!
//! ```text
//!  master ──socket──▶ link ──▶ transfer (RDB bytes) ──▶ base snapshot ─┐
//!                       └────▶ feed (commands)  ──▶ log segments ──────┤
//!                                                                     archive ──▶ store (gs://  s3://  az://  file://)
//!  file / appendonlydir / live server (as its master) ◀── restore ◀───┘
//! ```
//!
//! | layer | folders |
//! |---|---|
//! | L9 | `main`, `cli`: one file a verb; flags become typed configuration once, and only here are flags known by name |
//! | L8 | `serve`: many sources in one process, as a file names them |
//! | L7 | `sidecar`: restores the Redis beside it, promotes it, captures it; `upkeep`: bases, merged log and deletions in the background, while a capture runs; `check`: tries what a service needs, and begins nothing; `drill`: tries a restore on a server of its own; `standby`: plays a master for replicas that follow a store |
//! | L6 | `restore`: archive → server or files; `consolidate`: base and log → new base, segments → spans; `query`: one key at a point, two points compared, what is in an RDB; `verify`: can everything be restored?; `expiry`: what a policy does not keep is deleted; `copy`: an archive in another store; `service`: the supervisor of sessions, health and metrics over HTTP |
//! | L5 | `recovery`: what to read for a point in time, and that it is sound |
//! | L4 | `capture`: feed → archive; `rebuild`: base and log → RDB, outside of any server |
//! | L3 | `archive`: the only owner of object names and documents; `fixture`: recordings of replication, made and played |
//! | L2 | `link`: sockets to and from servers, Sentinels, TLS; `store`: create-once objects and their backends |
//! | L1 | `config`: typed configuration; `monitoring`: status, metrics, log lines; `log`: the format of segments; `model`: the key space and all commands |
//! | L0 | `wire`: positions, RESP, the replication protocol, RDB; `display`: keys and counts as people read them; `runtime`: tasks, threads, chance, pauses, pipes, buffers |
//!
//! `wire`, `display`, `log` and `model` are pure: bytes and values in, bytes and values out. `docs/dev/ARCHITECTURE.md`
//! is the guide to the rooms.
//!
//! Imports go downward only (`tests/tidy.rs` holds that).
//!
//! # As a library
//! [`fixture`] plays recordings of replication to a replica under test, and makes them. It needs no feature of Cargo.
//! [`capture`] writes an [`archive`] in a [`store`], [`restore`] reads it. [`config`], [`link`], [`monitoring`], [`recovery`] and
//! [`wire`] have the types that they take and give. Everything else is the program's own, and not documented. `docs/features.md`
//! lists the features.

#![cfg_attr(test, allow(clippy::disallowed_methods))]

// The API: what docs/features.md names.
pub mod archive;
pub mod capture;
pub mod config;
pub mod fixture;
pub mod link;
pub mod monitoring;
pub mod recovery;
pub mod restore;
pub mod store;
pub mod wire;

// For the program, the tests and the benchmarks. They change without notice.
#[cfg(feature = "cli")]
#[doc(hidden)]
pub mod cli;
#[doc(hidden)]
pub mod display;
#[doc(hidden)]
pub mod log;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod rebuild;
#[doc(hidden)]
pub mod runtime;
#[doc(hidden)]
pub mod service;

// What the verbs do. Nothing outside of the crate needs it.
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod check;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)] // they were written as a folder with an API of its own
mod consolidate;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod copy;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod drill;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod expiry;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod query;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod serve;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod sidecar;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod standby;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod upkeep;
#[cfg(feature = "cli")]
#[allow(unreachable_pub)]
mod verify;

#[cfg(all(
    test,
    not(all(
        feature = "cli",
        feature = "gcs",
        feature = "s3",
        feature = "azure",
        feature = "http",
        feature = "tls"
    ))
))]
compile_error!("the unit tests need all features of Cargo, as they are on by default");

#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation_tests;
