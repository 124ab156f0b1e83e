//! Questions about what is stored: one key at a point and its changes, the difference of two points, what is in an RDB, what it costs.

pub mod cost;
pub mod diff;
pub mod inspect;
pub mod key_history;
