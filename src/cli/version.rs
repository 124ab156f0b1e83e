//! What `--version` says.

use std::sync::LazyLock;

/// The package's version.
pub(super) const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// One line, with the commit of the build if it is known: see `build.rs`.
pub(super) const SHORT: &str = concat!(env!("CARGO_PKG_VERSION"), " (", env!("BUILD_COMMIT"), ")");

/// The same, and what is built in, in alphabetic order.
pub(super) fn long() -> &'static str {
    static LONG: LazyLock<String> = LazyLock::new(|| {
        let all = [
            ("azure", cfg!(feature = "azure")),
            ("gcs", cfg!(feature = "gcs")),
            ("http", cfg!(feature = "http")),
            ("s3", cfg!(feature = "s3")),
            ("tls", cfg!(feature = "tls")),
        ];
        let built_in = all
            .into_iter()
            .filter_map(|(name, is_in)| is_in.then_some(name));
        let names: Vec<&str> = built_in.collect();
        format!("{SHORT}\nfeatures: {}", names.join(" "))
    });
    &LONG
}
