//! What URL and environment say, for either service.

use std::time::Duration;

use object_store::{BackoffConfig, ClientOptions, RetryConfig};

use super::Side;
use crate::store::check_name;

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Every kind of call is tried again by us, in the same way.
pub(super) fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 0,
        retry_timeout: Duration::ZERO,
    }
}

pub(super) fn client_options() -> ClientOptions {
    ClientOptions::new()
        .with_timeout_disabled()
        .with_connect_timeout(CONNECT_LIMIT)
}

/// Does the endpoint go without TLS, and may it?
pub(super) fn clear_text(endpoint: &str, allowed: bool, variable: &str) -> Result<bool, String> {
    let url = url::Url::parse(endpoint)
        .map_err(|error| format!("the endpoint {endpoint} is no URL: {error}"))?;
    let loopback = match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    match url.scheme() {
        "https" => Ok(false),
        "http" if allowed || loopback => Ok(true),
        "http" => Err(format!(
            "the endpoint {endpoint} is not encrypted: use https://, or, knowing that everybody on the way can read and change the \
             backups, set {variable}=true"
        )),
        _ => Err(format!("the endpoint {endpoint} begins with no https://")),
    }
}

/// Bucket, and the prefix: empty, or with a `/` at its end.
pub(super) fn parse(side: &Side, url: &str) -> Result<(String, String), String> {
    let scheme = side.scheme;
    let name = side.noun.to_uppercase();
    let form = format!("write {scheme}://{name} or {scheme}://{name}/PREFIX");
    let rest = url
        .strip_prefix(scheme)
        .and_then(|rest| rest.strip_prefix("://"))
        .ok_or_else(|| format!("it begins with no {scheme}://; {form}"))?;
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if bucket.len() < 3 || !bucket.chars().all(allowed) {
        return Err(format!(
            "`{bucket}` cannot be the name of a {}; {form}",
            side.noun
        ));
    }
    let prefix = prefix.trim_end_matches('/');
    if prefix.contains(['?', '#']) {
        return Err(format!("? and # are not taken in a prefix; {form}"));
    }
    if prefix.is_empty() {
        return Ok((bucket.to_owned(), String::new()));
    }
    check_name(prefix).map_err(|error| format!("{error}; {form}"))?;
    Ok((bucket.to_owned(), format!("{prefix}/")))
}

/// Is a setting of the environment on?
pub(super) fn is_on(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "on" | "yes" | "y"
    )
}
