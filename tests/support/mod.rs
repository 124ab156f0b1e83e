//! What the tests share: real servers, the real program.

pub mod backfeed;
pub mod data;
pub mod server;

pub use backfeed::{Backfeed, list, run};
pub use server::{Server, Version, free_port, wait_until};
