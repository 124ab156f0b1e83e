//! The files of certificates and keys that TLS needs, and the name that a certificate must have.

use std::fmt;
use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::{ConfigError, ListenTls, Tls};

/// A PEM file is read whole. A system's bundle of all public authorities has a quarter of a MiB. A longer file than
/// this is certainly the wrong one.
const PEM_FILE_MAX: u64 = 4 * 1024 * 1024;

/// What the files of [`Tls`] held. `Debug` shows no key.
#[derive(Debug)]
pub struct TlsFiles {
    /// The authorities that we trust. None: the system's.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    /// Our certificate, with its chain, and its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// What the files of [`ListenTls`] held. `Debug` shows no key.
#[derive(Debug)]
pub struct ListenTlsFiles {
    /// Our certificate, with its chain.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// The authorities of the replicas' certificates.
    pub client_ca: Option<Vec<CertificateDer<'static>>>,
}

impl Tls {
    /// Reads the files. This is done for every connection, because mounted certificates are rotated. Blocking, but of
    /// bounded length.
    pub fn read(&self) -> Result<TlsFiles, ConfigError> {
        let ca = self
            .ca
            .as_deref()
            .map(|path| certificates(path, "`tls_ca`"));
        let identity = self.identity.as_ref().map(|identity| {
            let chain = certificates(&identity.cert, "`tls_cert`")?;
            Ok((chain, private_key(&identity.key, "`tls_key`")?))
        });
        Ok(TlsFiles {
            ca: ca.transpose()?,
            identity: identity.transpose()?,
        })
    }

    /// The name that the certificate of `host` must have.
    pub fn name(&self, host: &str) -> Result<ServerName<'static>, ConfigError> {
        let (name, what) = match &self.server_name {
            Some(name) => (name.as_str(), "`tls_server_name`"),
            None => (host, "rediss://"),
        };
        ServerName::try_from(name.to_owned()).map_err(|_| {
            ConfigError(format!(
                "{what}: `{name}` is neither a host name nor an address, so no certificate can be for it: give the name in \
                 the certificate with `tls_server_name`"
            ))
        })
    }
}

impl ListenTls {
    /// Reads the files. Blocking, but of bounded length.
    pub fn read(&self) -> Result<ListenTlsFiles, ConfigError> {
        let client_ca = self.client_ca.as_deref();
        let client_ca = client_ca.map(|path| certificates(path, "`listen_tls_client_ca`"));
        Ok(ListenTlsFiles {
            chain: certificates(&self.cert, "`listen_tls_cert`")?,
            key: private_key(&self.key, "`listen_tls_key`")?,
            client_ca: client_ca.transpose()?,
        })
    }
}

fn certificates(path: &Path, setting: &str) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let complain = |why: &str| complain(path, setting, &why);
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_slice_iter(&bounded(path, setting)?).collect();
    let found = found.map_err(|_| complain("it is not PEM"))?;
    if found.is_empty() {
        return Err(complain(
            "there is no certificate in it (-----BEGIN CERTIFICATE-----)",
        ));
    }
    Ok(found)
}

/// The reader's own error is left out, because it may quote the file.
fn private_key(path: &Path, setting: &str) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_slice(&bounded(path, setting)?).map_err(|_| {
        let why = "there is no private key in it (PEM, without a passphrase: -----BEGIN PRIVATE KEY-----)";
        complain(path, setting, &why)
    })
}

fn bounded(path: &Path, setting: &str) -> Result<Vec<u8>, ConfigError> {
    let length = std::fs::metadata(path)
        .map_err(|error| complain(path, setting, &error))?
        .len();
    if length > PEM_FILE_MAX {
        let why = format_args!("{length} bytes is too long for a file of certificates");
        return Err(complain(path, setting, &why));
    }
    std::fs::read(path).map_err(|error| complain(path, setting, &error))
}

fn complain(path: &Path, setting: &str, why: &dyn fmt::Display) -> ConfigError {
    ConfigError(format!("{setting} {}: {why}", path.display()))
}
