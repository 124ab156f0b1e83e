//! TLS to the server, with rustls, and what its errors mean to an operator. (For TLS as its master:
//! `tls_accept.rs`.)

use std::io;
use std::sync::Arc;

use rustls_platform_verifier::Verifier;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::ServerCertVerifier;
use tokio_rustls::rustls::client::{ClientConfig, WebPkiServerVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::{self, AlertDescription, CertificateError, RootCertStore};

use super::socket::Stream;
use super::tls_fault::TlsFault;
use super::{CONNECT_TIMEOUT, LinkError};
use crate::config::{ConfigError, Source, Tls};

/// Makes TLS of a connected socket.
pub(super) async fn handshake(
    source: &Source,
    settings: &Tls,
    tcp: TcpStream,
) -> Result<Stream, LinkError> {
    let fail = |fault: TlsFault| LinkError::Tls {
        addr: source.addr(),
        fault,
    };
    let name = settings.name(&source.host)?;
    let owned = settings.clone();
    // It reads files, and the system's authorities are some hundred.
    let config = tokio::task::spawn_blocking(move || client_config(&owned))
        .await
        .map_err(|error| fail(TlsFault::passing(error.to_string())))??;
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => Ok(Stream::Tls(Box::new(stream.into()))),
        Ok(Err(error)) => Err(fail(fault_of(&error).unwrap_or_else(|| broken(&error)))),
        // Redis takes our first message for a command without its end, and waits for that.
        Err(_) => Err(fail(TlsFault::passing(format!(
            "the server did not answer the handshake within {} s. If this port does not speak TLS, write redis://, or \
             the tls-port of the server",
            CONNECT_TIMEOUT.as_secs()
        )))),
    }
}

/// Reads the files. The provider is named, because a program may have several compiled in.
fn client_config(settings: &Tls) -> Result<ClientConfig, ConfigError> {
    let files = settings.read()?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let unusable = |what: &str, error: &dyn std::fmt::Display| {
        ConfigError::new(format!("{what} cannot be used: {error}. Check the files"))
    };
    let verifier: Arc<dyn ServerCertVerifier> = match files.ca {
        Some(certificates) => trusting(certificates, &provider)
            .map_err(|error| unusable("the certificates in `tls_ca`", &error))?,
        None => Arc::new(Verifier::new(provider.clone()).map_err(|error| {
            ConfigError::new(format!(
                "the system's trusted authorities cannot be used ({error}): install them (the package ca-certificates), or \
                 give your own with `tls_ca`"
            ))
        })?),
    };
    // Not a switch that turns verification off: this is how rustls takes any verifier, and both of these verify.
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable("TLS", &error))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    match files.identity {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain, key)
            .map_err(|error| unusable("the pair of `tls_cert` and `tls_key`", &error)),
        None => Ok(builder.with_no_client_auth()),
    }
}

fn trusting(
    certificates: Vec<rustls::pki_types::CertificateDer<'static>>,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, String> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots(certificates)?), provider.clone())
        .build()
        .map_err(|error| error.to_string())
}

/// The authorities to trust.
pub(super) fn roots(
    certificates: Vec<rustls::pki_types::CertificateDer<'static>>,
) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    Ok(roots)
}

/// The handshake ended without a word of TLS.
fn broken(error: &io::Error) -> TlsFault {
    TlsFault::passing(format!(
        "the handshake failed: {error}. Check that this is the tls-port of the server"
    ))
}

/// What an error of the socket says about TLS. None when it says nothing.
pub(super) fn fault_of(error: &io::Error) -> Option<TlsFault> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(match error {
        rustls::Error::InvalidCertificate(error) => certificate_fault(error),
        rustls::Error::AlertReceived(alert) => alert_fault(*alert),
        rustls::Error::InvalidMessage(_) => TlsFault::permanent(
            "the server does not speak TLS at this port. Write redis://, or the tls-port of the server",
        ),
        rustls::Error::PeerIncompatible(why) => TlsFault::permanent(format!(
            "the server and backfeed have no TLS version or cipher in common ({why:?}). backfeed speaks TLS 1.2 and \
             1.3 (tls-protocols and tls-ciphers of the server)"
        )),
        other => TlsFault::passing(format!("{other}")),
    })
}

fn certificate_fault(error: &CertificateError) -> TlsFault {
    let text = match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no trusted authority signed the server's certificate. Give the certificate of its authority with `tls_ca` \
             (without it, the system's authorities are trusted)"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!(
                "the server's certificate is for another name ({error}): connect by a name that is in it, or name it \
                 with `tls_server_name`"
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the server's certificate has expired ({error}): renew it there, and check the clock here")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the server's certificate is not valid yet ({error}): check the clock here and there")
        }
        other => format!("the server's certificate cannot be accepted: {other}"),
    };
    TlsFault::permanent(text)
}

/// Does the other end refuse our certificate by this alert?
pub(super) fn refuses_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError
    )
}

fn alert_fault(alert: AlertDescription) -> TlsFault {
    match alert {
        AlertDescription::CertificateRequired => TlsFault::permanent(
            "the server wants a client certificate (tls-auth-clients): give one with `tls_cert` and `tls_key`",
        ),
        // TLS 1.2 has no word of its own for that.
        AlertDescription::HandshakeFailure => TlsFault::permanent(
            "the server refuses the handshake: it wants a client certificate (`tls_cert` and `tls_key`), or its tls-ciphers \
             hold none of ours",
        ),
        alert if refuses_certificate(alert) => TlsFault::permanent(format!(
            "the server refuses our client certificate ({alert:?}): `tls_cert` must be valid now and signed by an authority \
             that the server trusts (its tls-ca-cert-file)"
        )),
        AlertDescription::ProtocolVersion => TlsFault::permanent(
            "the server does not accept TLS 1.2 or 1.3, which backfeed speaks. Check its tls-protocols",
        ),
        other => TlsFault::passing(format!("the server ended TLS with the alert {other:?}")),
    }
}
