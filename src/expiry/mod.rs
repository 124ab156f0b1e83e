//! What a policy does not keep goes, in two steps that are a day apart.
//!
//! ```text
//! survey   what is there, and how old it is by the clock of the store
//! plan     what the policy keeps: floors                                           (pure)
//! run      reads the base that becomes the oldest one, creates the floors;
//!          a day later looks again, and deletes what is below them    (archive::delete)
//! hold     points that stay, whatever the policy says
//! ```
//!
//! Nobody waits. A run creates floors, and acts on floors of earlier runs. `docs/dev/LIFECYCLE.md` has the reasons.

#[cfg(test)]
mod guard_tests;
mod hold;
mod plan;
mod run;
mod survey;

pub use hold::{HoldError, HoldRequest, add_hold};
pub use run::{ExpireError, Expiry, Report, Request, expire};
