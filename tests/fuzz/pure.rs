//! The modules of backfeed that take bytes and give values (layer L1, and what they need of L0), built by themselves.

#![allow(missing_docs, dead_code)]

/// A module around them, so that each finds its own modules where it has them.
#[path = "../../src"]
mod pure {
    pub mod buffers;
    pub mod crc64;
    pub mod expiry;
    pub(crate) mod frames;
    pub mod keyspace;
    pub mod position;
    pub mod rdb;
    pub mod resp;
    pub mod segment;
}

pub(crate) use pure::frames;
pub use pure::{buffers, crc64, expiry, keyspace, position, rdb, resp, segment};
