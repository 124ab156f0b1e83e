//! The file as it is written: its tables and keys, and where in the file they stand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use serde::Deserialize;
use toml::Spanned;

use super::FileProblem;
use super::values::{Ack, Bytes, Class, Every, Http, Keep, Kms, Merge, Preferred, Project, Time};

/// If two names are more alike than this, one of them is taken for a typing error of the other.
const ALIKE: f64 = 0.8;

/// All of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    #[serde(default)]
    pub(super) service: Service,
    #[serde(default)]
    pub(super) defaults: Settings,
    #[serde(default)]
    pub(super) sources: BTreeMap<Spanned<String>, Settings>,
}

/// What the sources of a process share.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Service {
    pub(super) http: Option<Http>,
    pub(super) memory_budget: Option<Bytes>,
    pub(super) feed_memory: Option<Bytes>,
    pub(super) consolidate_memory: Option<Bytes>,
    pub(super) grace: Option<Time>,
    pub(super) full_syncs: Option<Spanned<u32>>,
}

/// All keys of it.
#[cfg(test)]
pub(crate) const SERVICE_KEYS: [&str; 6] = [
    "http",
    "memory_budget",
    "feed_memory",
    "consolidate_memory",
    "grace",
    "full_syncs",
];

/// The settings of a source. What a source does not set, the defaults may.
macro_rules! settings {
    ($($key:ident: $of:ty,)+) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct Settings {
            $(pub(super) $key: Option<Spanned<$of>>,)+
        }

        /// All keys.
        #[cfg(test)]
        pub(crate) const SOURCE_KEYS: &[&str] = &[$(stringify!($key)),+];

        impl Settings {
            /// What `self` does not set is taken from `other`.
            pub(super) fn or(self, other: &Self) -> Self {
                Self {
                    $($key: self.$key.or_else(|| other.$key.clone()),)+
                }
            }
        }
    };
}

settings! {
    redis: String,
    prefer: Preferred,
    redis_password_file: String,
    redis_password_env: String,
    sentinel_user: String,
    sentinel_password_file: String,
    sentinel_password_env: String,
    tls_ca: String,
    tls_cert: String,
    tls_key: String,
    tls_server_name: String,
    store: String,
    kms_key: Kms,
    encryption_key_file: String,
    storage_class: Class,
    user_project: Project,
    flush_interval: Time,
    segment_size: Bytes,
    ack: Ack,
    spool_dir: PathBuf,
    spool_limit: Bytes,
    consolidate_every: Every,
    consolidate_share: u32,
    merge: Merge,
    keep: Keep,
    keep_daily: u32,
    keep_weekly: u32,
    keep_monthly: u32,
    keep_superseded: Keep,
    delete_segments: bool,
    expire_every: Time,
    drill_every: Time,
    drill_server: PathBuf,
    drill_dir: PathBuf,
}

/// Reads the tables.
pub(super) fn read(text: &str) -> Result<File, FileProblem> {
    toml::from_str(text).map_err(|error| {
        let span = error.span();
        FileProblem {
            line: span.as_ref().and_then(|span| line_of(text, span)),
            key: span.and_then(|span| key_of(text, &span)),
            what: explained(error.message()),
        }
    })
}

/// The line in which a span begins, from 1 on.
pub(super) fn line_of(text: &str, span: &Range<usize>) -> Option<u64> {
    let before = text.get(..span.start)?;
    let breaks = before.bytes().filter(|byte| *byte == b'\n').count();
    u64::try_from(breaks).ok()?.checked_add(1)
}

/// The table and the key that a span belongs to: `sources.shop.flush_interval`. Values are not shown: the line may hold a password.
fn key_of(text: &str, span: &Range<usize>) -> Option<String> {
    let before = text.get(..span.start)?;
    let line_start = before.rfind('\n').map_or(0, |at| at.saturating_add(1));
    let line = text.get(line_start..)?.lines().next()?.trim();
    let header = |line: &str| -> Option<String> {
        let name = line.trim().strip_prefix('[')?.split(']').next()?;
        Some(name.trim_matches('[').trim().to_owned())
    };
    if let Some(table) = header(line) {
        return Some(table);
    }
    let is_key = |key: &&str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        !key.is_empty() && key.bytes().all(plain)
    };
    let (key, _) = line.split_once('=')?;
    let key = Some(key.trim()).filter(is_key)?;
    let above = text.get(..line_start)?;
    let table = above.lines().rev().find_map(header);
    Some(match table {
        Some(table) => format!("{table}.{key}"),
        None => key.to_owned(),
    })
}

/// What the reader says, with the key that was probably meant, in place of a list of all keys.
fn explained(message: &str) -> String {
    let Some((unknown, known)) = message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once("`, expected "))
    else {
        return message.lines().collect::<Vec<_>>().join("; ");
    };
    let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
    let written = unknown.replace('-', "_");
    let nearest = known
        .iter()
        .map(|key| (strsim::jaro_winkler(key, &written), key))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|one, other| one.0.total_cmp(&other.0));
    if matches!(unknown, "redis_password" | "password") {
        return format!(
            "there is no key `{unknown}`, because the file holds no secret: write {} = \"FILE\" or {} = \"VARIABLE\"",
            "redis_password_file", "redis_password_env"
        );
    }
    match nearest {
        Some((_, key)) => format!("there is no key `{unknown}`. Did you mean `{key}`?"),
        None => format!(
            "there is no key `{unknown}`. These are known: {}",
            known.join(", ")
        ),
    }
}
