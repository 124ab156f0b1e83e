//! The settings that the URL and the environment give, for both services.

use std::time::Duration;

use object_store::{BackoffConfig, ClientOptions, RetryConfig};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The crate retries nothing: we retry every kind of call, in the same way.
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
            "the endpoint {endpoint} is not encrypted. Use https://. Or set {variable}=true, if everybody on the way \
             may read and change the backups"
        )),
        _ => Err(format!(
            "the endpoint {endpoint} does not begin with https://"
        )),
    }
}

/// Is a setting of the environment on?
pub(super) fn is_on(value: &str) -> bool {
    matches!(
        value.to_ascii_lowercase().as_str(),
        "1" | "true" | "on" | "yes" | "y"
    )
}
