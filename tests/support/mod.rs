//! What the tests share: real servers, the real program, clients that write.

pub mod backfeed;
pub mod load;
pub mod server;

pub use backfeed::{Backfeed, list, restored, run};
pub use load::Load;
pub use server::{Server, Version, free_port, wait_until};
