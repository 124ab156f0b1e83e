//! A replica's connection to us: TLS where it is required, and the login.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::{ServerConfig, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use super::connection_limit;
use super::socket::Stream;
use super::tls::roots;
use crate::config::{Admission, ConfigError, ListenTls};
use crate::runtime;
#[cfg(test)]
use crate::runtime::simulated;
use crate::wire::psync::master::Credentials;

/// A replica takes part in the TLS handshake as soon as it is connected. One that has not finished it by then hangs.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

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
    if let Stream::Plain(tcp) = &stream {
        let _ = tcp.set_nodelay(true);
    }
    let owned = admission.clone();
    let (credentials, tls) = runtime::spawn_blocking(move || terms(&owned))
        .await
        .map_err(|error| ConfigError::new(error.to_string()))??;
    let stream = match (tls, stream) {
        (Some(config), Stream::Plain(tcp)) => handshake(config, tcp).await?,
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
    let tls = admission.tls.as_ref().map(server_config).transpose()?;
    Ok((credentials, tls))
}

/// Reads the files. The provider is named, because a program may have several compiled in.
fn server_config(settings: &ListenTls) -> Result<ServerConfig, ConfigError> {
    let files = settings.read()?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |what: &str, error: &dyn std::fmt::Display| {
        ConfigError::new(format!("{what} cannot be used: {error}. Check the files"))
    };
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS", &error))?;
    let builder = match files.client_ca {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let wrong = |error| unusable("the certificates in `listen_tls_client_ca`", &error);
            let roots = Arc::new(roots(authorities).map_err(wrong)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| wrong(error.to_string()))?)
        }
    };
    let mut config = builder
        .with_single_cert(files.chain, files.key)
        .map_err(|error| unusable("the pair of `listen_tls_cert` and `listen_tls_key`", &error))?;
    // Every connection has a configuration of its own, so that nothing could be done with a ticket.
    config.send_tls13_tickets = 0;
    Ok(config)
}

async fn handshake(config: ServerConfig, tcp: TcpStream) -> Result<Stream, AcceptError> {
    let accepting = TlsAcceptor::from(Arc::new(config)).accept(tcp);
    match timeout(TLS_TIMEOUT, accepting).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => Err(match fault_of(&error) {
            Some(fault) => AcceptError::Tls(fault),
            None => AcceptError::Gone(error),
        }),
        Err(_) => Err(AcceptError::Tls(format!(
            "it did not finish the TLS handshake within {} s",
            TLS_TIMEOUT.as_secs()
        ))),
    }
}

/// What a failed handshake says about TLS. None when it says nothing.
fn fault_of(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidMessage(_) => {
            "the client did not use TLS, which `listen_tls_cert` requires. Set `tls-replication yes` on Redis, or \
             leave out `listen_tls_cert` and `listen_tls_key`"
                .to_owned()
        }
        rustls::Error::NoCertificatesPresented => {
            "the client sent no certificate, which `listen_tls_client_ca` requires. Set tls-cert-file and tls-key-file \
             on Redis (or tls-client-cert-file and tls-client-key-file)"
                .to_owned()
        }
        rustls::Error::InvalidCertificate(error) => certificate_fault(error),
        rustls::Error::AlertReceived(alert) => alert_fault(*alert),
        rustls::Error::PeerIncompatible(why) => format!(
            "it and backfeed have no TLS version or cipher in common ({why:?}). backfeed speaks TLS 1.2 and 1.3 \
             (tls-protocols and tls-ciphers of Redis)"
        ),
        other => format!("TLS failed: {other}"),
    })
}

/// What is wrong with the certificate that it presented.
fn certificate_fault(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no authority in `listen_tls_client_ca` signed its certificate. Redis sends tls-client-cert-file, or else \
             tls-cert-file"
                .to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => format!(
            "its certificate is not for clients ({error}). Give Redis one with the extended key usage clientAuth, in \
             tls-client-cert-file"
        ),
        // Without the times in the error, because the same text is logged once.
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: renew it on Redis, and check the clock here".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: check the clock here and there".to_owned()
        }
        other => format!("its certificate cannot be accepted: {other}"),
    }
}

/// What it thinks of ours.
fn alert_fault(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => format!(
            "it refuses our certificate ({alert:?}): `listen_tls_cert` must be valid now and signed by an authority in \
             tls-ca-cert-file on Redis"
        ),
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => format!(
            "it refuses the handshake ({alert:?}): backfeed speaks TLS 1.2 and 1.3 (tls-protocols and tls-ciphers of Redis)"
        ),
        other => format!("it ended TLS with the alert {other:?}"),
    }
}
