//! What the tests share: real servers, the real program.

pub mod backfeed;
pub mod data;
pub mod server;

pub(crate) use backfeed::{Backfeed, list, run};
pub(crate) use server::{Server, Version, free_port, wait_until};
