//! Where backfeed listens as a master, and which servers it admits.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{ConfigError, Secret};

/// Which servers we admit as their master, and how they must speak. A server that is admitted gets all data. The files
/// are read for every connection, because they may be rotated.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admission {
    /// A replica must log in as this user (`masteruser`). None: only the password counts.
    pub user: Option<String>,
    /// A replica must give the password in it (`masterauth`).
    pub password_file: Option<PathBuf>,
    /// A replica must speak TLS (`tls-replication`). None: it must not.
    pub tls: Option<ListenTls>,
}

/// Our TLS settings as a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// Our certificate and what leads to its authority, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    /// A replica must present a certificate that these authorities have signed, in PEM. None: it is not asked for one.
    pub client_ca: Option<PathBuf>,
}

impl Admission {
    /// Must a replica prove that it may have the data?
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        let by_certificate = self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        self.password_file.is_some() || by_certificate
    }

    /// The password to ask for on the next connection. Blocking, but of bounded length.
    pub fn current_password(&self) -> Result<Option<Secret>, ConfigError> {
        let read = self.password_file.as_deref().map(Secret::from_file);
        read.transpose()
            .map_err(|error| error.of("`listen_password_file`"))
    }

    /// A warning for the operator, if there is one for `addr`.
    #[must_use]
    pub fn warning(&self, addr: SocketAddr) -> Option<String> {
        let clear = self.tls.is_none() && !is_loopback(addr);
        clear.then(|| {
            format!(
                "{addr} can be reached from other machines. Without `listen_tls_cert`, the password and all data cross \
                 the network unencrypted"
            )
        })
    }
}

/// Where to listen for replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Port 0 lets the system choose.
    pub addr: SocketAddr,
    /// Whom to serve there.
    pub admission: Admission,
}

impl Listen {
    /// Whoever can connect gets the whole data set, so beyond loopback there must be a password or certificates.
    pub fn new(addr: SocketAddr, admission: Admission) -> Result<Self, ConfigError> {
        if !admission.is_guarded() && !is_loopback(addr) {
            return Err(ConfigError(format!(
                "{addr} can be reached from other machines, and whoever connects gets all data. Set a password \
                 (`listen_password_file`), require certificates (`listen_tls_client_ca`), or listen on 127.0.0.1"
            )));
        }
        Ok(Self { addr, admission })
    }
}

/// Can `addr` be reached only from this host?
#[must_use]
pub fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}
