//! What to read for a point in time, and that it is sound.
//!
//! ```text
//! choice    which history, and a plan whose base is sound
//! target    up to when: `latest`, a time, an offset
//! plan      which base, which pieces of the log, where exactly it ends       (reads only headers)
//! check     everything is read once: complete and sound
//! content   the bytes of a plan: snapshot and log, verified and read ahead
//! ```
//!
//! `restore`, `consolidate`, `query`, `verify` and `sidecar` all read the archive through this.

pub(crate) mod check;
pub(crate) mod choice;
pub(crate) mod content;
pub(crate) mod error;
pub(crate) mod expected_keys;
pub(crate) mod pieces;
pub(crate) mod plan;
pub(crate) mod progress;
pub(crate) mod target;
#[cfg(test)]
pub(crate) mod testing;

pub use check::{Checked, check};
pub use choice::{choose, look, plan, plan_from, sound};
pub use content::{BLOCKING_READERS, Content, LogForm, log, snapshot, source};
pub use error::{ClockWentBack, RecoveryError};
pub use expected_keys::{Count, Expected};
pub use pieces::Pieces;
pub use plan::{BadBases, Piece, Plan};
pub use progress::{Progress, Stage};
pub use target::{BadRecoveryTarget, RecoveryTarget};
