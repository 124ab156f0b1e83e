//! backfeed backs Redis up from the replication feed and restores by feeding it back.
//!
//! ```text
//!  master ──socket──▶ link ──▶ transfer (RDB bytes) ──▶ base snapshot ─┐
//!                       └────▶ feed (commands)  ──▶ log segments ──────┤
//!                                                                     archive ──▶ store (gs://  s3://  az://  file://)
//!  file / appendonlydir / live server (as its master) ◀── restore ◀───┘
//! ```
//!
//! | layer | modules |
//! |---|---|
//! | L5 | `main`, [`cmd`]: one file a verb; flags are lowered once into typed config |
//! | L4 | [`service`]: supervision, backoff; [`sidecar`]: which situation a Redis is in; [`upkeep`]: new bases in the background; [`http`]: health and metrics |
//! | L3 | [`capture`]: feed → archive; [`restore`]: archive → server or files; [`rebuild`]: base and log → RDB; [`consolidate`]: base and log → base; [`verify`]: is it all sound?; [`inspect`]: what is in an RDB; [`lookup`]: one key at a point; [`diff`]: two points; [`fixture`]: recordings made and played |
//! | L2 | [`link`]: sockets, Sentinels; [`archive`]: the only owner of object names; [`store`]: create-once objects; [`spool`]: what finds no room in memory |
//! | L1 | [`resp`], [`proto`], [`rdb`], [`segment`] (and `frames`), [`expiry`], [`keyspace`], [`shown`], [`recording`]: pure, no tokio, no clock, no environment |
//! | L0 | [`position`], [`crc64`], [`digest`], [`buffers`], [`config`], [`status`], [`metrics`], [`telemetry`], `world`: tasks, threads, chance |
//!
//! Imports go downward only (`tests/tidy.rs` holds that).

pub mod archive;
pub mod capture;
pub mod cli;
pub mod config;
pub mod consolidate;
pub mod display;
pub mod fixture;
pub mod link;
pub mod log;
pub mod model;
pub mod monitoring;
pub mod query;
pub mod rebuild;
pub mod recovery;
pub mod restore;
pub mod runtime;
pub mod service;
pub mod sidecar;
pub mod store;
pub mod verify;
pub mod wire;

#[cfg(test)]
#[path = "../tests/simulation/mod.rs"]
mod simulation_tests;
