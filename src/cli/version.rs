//! What `--version` says.

/// The package's version.
pub(super) const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// In one line, with the commit that it was built from, or that this is not known: see `build.rs`.
pub(super) const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ")");

/// The same, and what is built in, in alphabetic order.
pub(super) const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("BUILD_COMMIT"),
    ")\nfeatures: azure gcs http s3 tls"
);
