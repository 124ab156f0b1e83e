//! TLS to a Redis server (`rediss://`): which authorities we trust, and our own certificate. (As its master:
//! `listen.rs`.)

use std::path::PathBuf;

/// How to speak TLS to a server. Its certificate is always verified.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// The authorities that we trust, in PEM. None: the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate, for a server that wants one (`tls-auth-clients`).
    pub identity: Option<Identity>,
    /// The name in the server's certificate. None: the host that we connect to.
    pub server_name: Option<String>,
}

/// A client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate and what leads to its authority, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
}
