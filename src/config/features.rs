//! What to say when something is asked for that was left out of the build (the features of `Cargo.toml`).

/// `what` needs the Cargo feature `feature`, which is not built in.
#[allow(dead_code)] // where everything is built in
pub(crate) fn not_built_in(what: &str, feature: &str) -> String {
    format!("this build of backfeed is without {what}: build it with the Cargo feature `{feature}`")
}
