//! What the tests share: real servers, the real program, clients that write.

pub mod backfeed;
pub mod ledger;
pub mod load;
pub mod master;
pub mod server;

pub use backfeed::{Backfeed, list, run};
pub use ledger::{Ledger, Rng};
pub use load::Load;
pub use server::{Server, Version, free_port, wait_until};
