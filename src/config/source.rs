//! A Redis server, and how to log in to it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use url::Url;

use super::cluster::is_cluster;
use super::sentinels::{SENTINEL, SENTINEL_TLS};
use super::{ConfigError, Tls};

/// The port of a URL that names none.
pub const DEFAULT_PORT: u16 = 6379;

/// A password file is read whole. A longer one is certainly the wrong file.
const PASSWORD_FILE_MAX: u64 = 64 * 1024;

/// A password. `Debug` and `Display` print `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The password itself: only for the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a password file: its content without the line end. Blocking, but of bounded length. Read it for every
    /// connection, because mounted secrets are rotated.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let complain = |why: &dyn fmt::Display| {
            ConfigError(format!("password file {}: {why}", path.display()))
        };
        let length = std::fs::metadata(path)
            .map_err(|error| complain(&error))?
            .len();
        if length > PASSWORD_FILE_MAX {
            return Err(complain(&format_args!(
                "{length} bytes is too long for a password"
            )));
        }
        let bytes = std::fs::read(path).map_err(|error| complain(&error))?;
        let text = String::from_utf8(bytes).map_err(|_| complain(&"not UTF-8"))?;
        let password = text.trim_end_matches(['\r', '\n']);
        if password.is_empty() {
            return Err(complain(&"it is empty"));
        }
        Ok(Self::new(password))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A Redis server, and how to log in to it. `Display` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name or address, an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// ACL user. None for the default user.
    pub username: Option<String>,
    /// The password in the URL.
    pub password: Option<Secret>,
    /// The file with the password, read for every connection. Never together with `password`.
    pub password_file: Option<PathBuf>,
    /// TLS (`rediss://`). None: in the clear.
    pub tls: Option<Tls>,
}

impl Source {
    /// `host:port`, an IPv6 address in brackets. It names the source in logs and in `history.json`.
    #[must_use]
    pub fn addr(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The password to use for the next connection.
    pub fn current_password(&self) -> Result<Option<Secret>, ConfigError> {
        match &self.password_file {
            Some(path) => Secret::from_file(path).map(Some),
            None => Ok(self.password.clone()),
        }
    }

    /// Takes the password from `file`, which must be readable now.
    pub fn with_password_file(mut self, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        if let Some(path) = file {
            if self.password.is_some() {
                return Err(ConfigError::new(
                    "there is a password in the URL and a password file. Leave one out",
                ));
            }
            Secret::from_file(&path)?;
            self.password_file = Some(path);
        }
        Ok(self)
    }

    /// Takes over how to speak TLS. The files must be usable now.
    pub fn with_tls(mut self, tls: Tls) -> Result<Self, ConfigError> {
        if self.tls.is_some() {
            #[cfg(feature = "tls")]
            {
                tls.name(&self.host)?;
                tls.read()?;
            }
            self.tls = Some(tls);
        } else if tls != Tls::default() {
            return Err(ConfigError::new(
                "redis:// is without TLS, so `tls_ca`, `tls_cert`, `tls_key` and `tls_server_name` have no effect. \
                 Write rediss://, or leave them out",
            ));
        }
        Ok(self)
    }
}

impl FromStr for Source {
    type Err = ConfigError;

    /// `redis[s]://[user[:password]@]host[:port]`, user and password percent-encoded. The error contains no part of the
    /// text, because a mistyped URL may have its password anywhere.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        const FORM: &str = "redis://[user[:password]@]host[:port], or rediss:// for TLS";
        let tls = match text.split_once("://") {
            Some(("redis", _)) => None,
            Some(("rediss", _)) => Some(Tls::default()),
            Some((SENTINEL | SENTINEL_TLS, _)) => {
                return Err(ConfigError::new(
                    "only `backfeed backup` takes Sentinels. Name one server: redis://HOST:PORT or rediss://HOST:PORT",
                ));
            }
            _ if is_cluster(text) => {
                return Err(ConfigError::new(
                    "a cluster is no single server. `backfeed serve` backs one up, and a cluster's backup is restored to one. Here, \
                     name one server: redis://HOST:PORT or rediss://HOST:PORT",
                ));
            }
            _ => return Err(ConfigError(format!("not a Redis URL: write {FORM}"))),
        };
        Self::parse(text, tls, DEFAULT_PORT, FORM)
    }
}

impl Source {
    /// Parses a URL that nothing may follow. `form` is what should have been written.
    pub(super) fn parse(
        text: &str,
        tls: Option<Tls>,
        default_port: u16,
        form: &str,
    ) -> Result<Self, ConfigError> {
        #[cfg(not(feature = "tls"))]
        if tls.is_some() {
            return Err(ConfigError(super::not_built_in("TLS", "tls")));
        }
        let url = Url::parse(text).map_err(|error| {
            ConfigError(format!(
                "not a Redis URL ({error}): write {form}, and in user and password %2F for /, %23 for #, %3F for ?, \
                 %40 for @, %3A for :"
            ))
        })?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ConfigError(format!(
                "nothing may follow the port (all databases are backed up together): write {form}"
            )));
        }
        let host = match url.host() {
            Some(url::Host::Domain(name)) if !name.is_empty() => decode(name, "host")?,
            Some(url::Host::Ipv4(address)) => address.to_string(),
            Some(url::Host::Ipv6(address)) => address.to_string(),
            _ => return Err(ConfigError(format!("the host is missing: write {form}"))),
        };
        let port = url.port().unwrap_or(default_port);
        if port == 0 {
            return Err(ConfigError::new("port 0 is no port to connect to"));
        }
        let username = Some(decode(url.username(), "user")?).filter(|name| !name.is_empty());
        let password = url
            .password()
            .map(|text| decode(text, "password"))
            .transpose()?;
        Ok(Self {
            host,
            port,
            username,
            password: password.filter(|text| !text.is_empty()).map(Secret::new),
            password_file: None,
            tls,
        })
    }
}

pub(super) fn decode(text: &str, part: &str) -> Result<String, ConfigError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(ConfigError(format!("the {part} in the URL is not UTF-8"))),
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.tls {
            Some(_) => "rediss://",
            None => "redis://",
        })?;
        if let Some(name) = &self.username {
            write!(f, "{name}@")?;
        }
        f.write_str(&self.addr())
    }
}
