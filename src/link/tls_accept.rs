//! TLS with a replica that connects to us, with rustls, and what its errors mean to an operator. (For TLS to a server:
//! `tls.rs`.)

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
pub(super) use tokio_rustls::rustls::server::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, AlertDescription, CertificateError};

use super::accept::AcceptError;
use super::socket::Stream;
use super::tls::{refuses_certificate, roots};
use crate::config::{ConfigError, ListenTls};

/// A replica takes part in the TLS handshake as soon as it is connected. One that has not finished it by then hangs.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the files. The provider is named, because a program may have several compiled in.
pub(super) fn server_config(settings: &ListenTls) -> Result<ServerConfig, ConfigError> {
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

/// Makes TLS of a connected socket.
pub(super) async fn handshake(config: ServerConfig, tcp: TcpStream) -> Result<Stream, AcceptError> {
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
        alert if refuses_certificate(alert) => format!(
            "it refuses our certificate ({alert:?}): `listen_tls_cert` must be valid now and signed by an authority in \
             tls-ca-cert-file on Redis"
        ),
        AlertDescription::ProtocolVersion | AlertDescription::HandshakeFailure => format!(
            "it refuses the handshake ({alert:?}): backfeed speaks TLS 1.2 and 1.3 (tls-protocols and tls-ciphers of Redis)"
        ),
        other => format!("it ended TLS with the alert {other:?}"),
    }
}
