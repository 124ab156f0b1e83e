//! The modules of backfeed that take bytes and give values (layers L0 and L1), built by themselves.

#![allow(missing_docs, dead_code, unreachable_pub)]

/// A module around them, so that each finds its own modules where it has them.
#[path = "../../src"]
mod pure {
    pub mod log;
    pub mod model;
    pub mod wire;

    /// What they need of it.
    pub mod runtime {
        pub mod buffers;
    }
}

pub use pure::{log, model, runtime, wire};
