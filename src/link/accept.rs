//! A replica's connection to us: TLS where it is required, and the login.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::connection_limit;
use super::socket::Stream;
use super::tls_accept::{self, ServerConfig};
use crate::config::{Admission, ConfigError};
use crate::runtime;
#[cfg(test)]
use crate::runtime::simulated;
use crate::wire::psync::master::Credentials;

/// Why a connection was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// A file of ours cannot be used.
    #[error("no server can be admitted: {0}")]
    Files(#[from] ConfigError),
    /// The TLS handshake failed for a reason that an operator can remove.
    #[error("{0}")]
    Tls(String),
    /// It disconnected, as a probe of the port does.
    #[error("the client disconnected during the TLS handshake: {0}")]
    Gone(io::Error),
}

/// A port that replicas connect to.
#[derive(Debug)]
pub enum ListeningSocket {
    /// Of the system.
    Tcp(TcpListener),
    /// In the simulation.
    #[cfg(test)]
    Simulated(simulated::Port),
}

impl ListeningSocket {
    /// Opens the port.
    ///
    /// # Errors
    /// Of the system: the port is taken.
    pub async fn bind(addr: SocketAddr) -> io::Result<Self> {
        #[cfg(test)]
        if simulated::is_on() {
            return simulated::Port::bind(addr).map(Self::Simulated);
        }
        TcpListener::bind(addr).await.map(Self::Tcp)
    }

    /// Where it is.
    ///
    /// # Errors
    /// Of the system.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            #[cfg(test)]
            Self::Simulated(port) => Ok(port.addr()),
        }
    }

    /// The next connection, however long it takes. [`accept`] says whether it is let in.
    pub async fn next(&mut self) -> (Stream, SocketAddr) {
        match self {
            Self::Tcp(listener) => {
                let (tcp, peer) = connection_limit::next(listener).await;
                (Stream::Plain(tcp), peer)
            }
            #[cfg(test)]
            Self::Simulated(port) => (Stream::Simulated(port.next().await), port.addr()),
        }
    }
}

/// A connection, and what the replica on it must log in with.
#[derive(Debug)]
pub struct Accepted {
    /// TLS, if that was demanded.
    pub stream: Stream,
    /// None: nothing.
    pub credentials: Option<Credentials>,
}

/// Can replicas be taken on these terms? Reads the files, as each connection does.
///
/// # Errors
/// [`ConfigError`]: which file cannot be used, and why.
pub fn check(admission: &Admission) -> Result<(), ConfigError> {
    terms(admission).map(|_| ())
}

/// Takes a connection. The files are read each time, because they may have been rotated.
///
/// # Errors
/// [`AcceptError`]; the connection is closed then.
pub async fn accept(admission: &Admission, stream: Stream) -> Result<Accepted, AcceptError> {
    // Without it, acknowledgements and the last bytes of a log would only be slower.
    stream.set_nodelay();
    let owned = admission.clone();
    let (credentials, tls) = runtime::spawn_blocking(move || terms(&owned))
        .await
        .map_err(|error| ConfigError::new(error.to_string()))??;
    let stream = match (tls, stream) {
        (Some(config), Stream::Plain(tcp)) => tls_accept::handshake(config, tcp).await?,
        (_, stream) => stream,
    };
    Ok(Accepted {
        stream,
        credentials,
    })
}

type Terms = (Option<Credentials>, Option<ServerConfig>);

fn terms(admission: &Admission) -> Result<Terms, ConfigError> {
    let password = admission.current_password()?;
    let credentials = password.map(|password| Credentials {
        username: admission.user.clone(),
        password: password.expose().to_owned(),
    });
    let tls = admission.tls.as_ref().map(tls_accept::server_config);
    Ok((credentials, tls.transpose()?))
}
