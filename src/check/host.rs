//! This machine: ports, memory, file descriptors.

use super::{Findings, Wanted};
use crate::config::HttpAddr;
use crate::restore::master::listener::Listener;

pub(super) async fn check(wanted: &Wanted, findings: &mut Findings) {
    if let Some(sidecar) = &wanted.sidecar {
        let listen = &sidecar.listen;
        match Listener::bind(listen, "it is only tried").await {
            Ok(listener) => match listener.problem() {
                Some(problem) => findings.failed("listens for Redis", problem),
                None => findings.ok("listens for Redis", format!("on {}", listener.addr())),
            },
            Err(cause) => findings.failed_with(
                "listens for Redis",
                format!("cannot listen on {}: {cause}", listen.addr),
                "choose another address to listen on, or stop what listens there",
            ),
        }
        if let Some(warning) = listen.admission.warning(listen.addr) {
            findings.warning("listens for Redis", warning, "set `listen_tls_cert`");
        }
    }
    if let Some(addr) = &wanted.http {
        serves(addr, findings).await;
    }
    match &wanted.memory {
        Ok(division) => findings.ok("memory", division),
        Err(warning) => findings.warning("memory", warning, "see the reason"),
    }
    match &wanted.files {
        None => findings.ok("file descriptors", "enough"),
        Some(warning) => findings.warning("file descriptors", warning, "see the reason"),
    }
}

const SERVES: &str = "serves health and metrics";

#[cfg(feature = "http")]
async fn serves(addr: &HttpAddr, findings: &mut Findings) {
    match crate::service::http::bind(addr).await {
        Ok(_) => findings.ok(SERVES, format!("on {addr}")),
        Err(error) => findings.failed(SERVES, error),
    }
}

#[cfg(not(feature = "http"))]
async fn serves(addr: &HttpAddr, findings: &mut Findings) {
    let missing = crate::config::not_built_in("/healthz, /readyz and /metrics", "http");
    findings.failed(SERVES, format!("on {addr}: {missing}"));
}
