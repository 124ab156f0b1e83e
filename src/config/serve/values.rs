//! Values of the file: each is written as on the command line.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use crate::config::{
    AckPolicy, ConfigError, HttpAddr, KmsKey, Prefer, StorageClass, parse_duration, parse_every,
    parse_keep, parse_merge, parse_project, parse_size,
};

/// A type that is written as a text, and what reads that text.
macro_rules! written {
    ($($(#[$about:meta])* $name:ident($of:ty) = $parse:expr;)+) => {$(
        $(#[$about])*
        #[derive(Debug, Clone)]
        pub(super) struct $name(pub(super) $of);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                let parsed: Result<$of, ConfigError> = $parse(&text);
                parsed.map(Self).map_err(D::Error::custom)
            }
        }
    )+};
}

written! {
    /// `500ms`.
    Time(Duration) = parse_duration;
    /// `7d`.
    Keep(Duration) = parse_keep;
    /// `1h`, or `never`.
    Every(Option<Duration>) = parse_every;
    /// `always` or `never`.
    Merge(bool) = parse_merge;
    /// `8MiB`.
    Bytes(usize) = parse_size;
    /// `stored` or `received`.
    Ack(AckPolicy) = str::parse;
    /// `master` or `replica`.
    Preferred(Prefer) = str::parse;
    /// `:9390`.
    Http(HttpAddr) = str::parse;
    /// `projects/…`.
    Kms(KmsKey) = str::parse;
    /// `NEARLINE`.
    Class(StorageClass) = str::parse;
    /// `my-project`.
    Project(String) = parse_project;
}
