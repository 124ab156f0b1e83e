//! The error of a build that lacks a feature of `Cargo.toml`.

/// `what` needs the Cargo feature `feature`, which is not built in.
#[allow(dead_code)] // a build with all features has no use for it
pub(crate) fn not_built_in(what: &str, feature: &str) -> String {
    format!("this build of backfeed is without {what}: build it with the Cargo feature `{feature}`")
}
