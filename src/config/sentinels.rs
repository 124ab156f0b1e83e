//! Sentinels, which know which server is the master, and how to log in to them and to the master.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::cluster::{Shard, is_cluster};
use super::source::{Secret, Source, decode};
use super::{ConfigError, Tls};

/// The port of a Sentinel whose URL names none.
pub const SENTINEL_PORT: u16 = 26379;
/// Sentinels and servers in the clear.
pub(super) const SENTINEL: &str = "redis+sentinel";
/// Sentinels and servers with TLS.
pub(super) const SENTINEL_TLS: &str = "rediss+sentinel";
const FORM: &str = "redis+sentinel://[user[:password]@]host[:port][,host[:port]…]/master-name, or rediss+sentinel:// for TLS";

/// Sentinels, and the name of the master that they are asked for. `Display` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sentinels {
    /// The master's name, as in the Sentinels' `sentinel monitor`.
    pub name: String,
    /// One or more Sentinels, each with its login.
    pub seeds: Vec<Source>,
    /// How to log in to the servers that they name.
    server: Source,
}

impl Sentinels {
    /// A server that a Sentinel has named.
    #[must_use]
    pub fn server(&self, host: String, port: u16) -> Source {
        Source {
            host,
            port,
            ..self.server.clone()
        }
    }

    /// A Sentinel that another one has named. It has the same login, because Sentinels share a password.
    #[must_use]
    pub fn sentinel(&self, host: String, port: u16) -> Option<Source> {
        let like = self.seeds.first()?.clone();
        Some(Source { host, port, ..like })
    }

    /// Who writes, in `history.json`: the same whichever server is the master.
    #[must_use]
    pub fn service(&self) -> String {
        format!("sentinel:{}", self.name)
    }

    /// How to log in to the Sentinels themselves. The file must be readable now.
    pub fn with_login(
        mut self,
        username: Option<&str>,
        password_file: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        if username.is_some() && password_file.is_none() {
            return Err(ConfigError::new(
                "`sentinel_user`: the password is missing: give `sentinel_password_file` as well",
            ));
        }
        let seeds = self.seeds.into_iter().map(|seed| Source {
            username: username.map(str::to_owned),
            ..seed
        });
        self.seeds = seeds
            .map(|seed| seed.with_password_file(password_file.clone()))
            .collect::<Result<_, _>>()
            .map_err(|error| error.of("`sentinel_password_file`"))?;
        Ok(self)
    }

    /// The same with a password that is known.
    #[must_use]
    pub fn with_login_password(mut self, username: Option<&str>, password: &Secret) -> Self {
        for seed in &mut self.seeds {
            seed.username = username.map(str::to_owned);
            seed.password = Some(password.clone());
        }
        self
    }

    /// Takes the servers' password from `file`, which must be readable now.
    pub fn with_password_file(mut self, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        self.server = self.server.with_password_file(file)?;
        Ok(self)
    }

    /// Takes over how to speak TLS, to Sentinels and servers alike. The files must be usable now.
    pub fn with_tls(mut self, tls: &Tls) -> Result<Self, ConfigError> {
        let seeds = self.seeds.into_iter();
        self.seeds = seeds
            .map(|seed| seed.with_tls(tls.clone()))
            .collect::<Result<_, _>>()?;
        if self.server.tls.is_some() {
            self.server.tls = Some(tls.clone());
        }
        Ok(self)
    }
}

impl FromStr for Sentinels {
    type Err = ConfigError;

    /// `redis[s]+sentinel://[user[:password]@]host[:port][,host[:port]…]/name`. User and password are those of the
    /// servers. The error contains no part of the text.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| ConfigError(format!("{why}: write {FORM}"));
        let (tls, rest) = match text.split_once("://") {
            Some((SENTINEL, rest)) => (None, rest),
            Some((SENTINEL_TLS, rest)) => (Some(Tls::default()), rest),
            _ => return Err(wrong("not a URL of Sentinels")),
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (hosts, name) = rest.split_once('/').ok_or_else(|| {
            wrong("the master's name is missing (as in the Sentinels' `sentinel monitor`)")
        })?;
        let name = decode(name, "master's name")?;
        if name.is_empty() || name.contains(['/', '?', '#']) || name.contains(char::is_whitespace) {
            return Err(wrong("only the master's name may follow the hosts"));
        }
        let parse = |host: &str| {
            if host.contains('@') {
                return Err(wrong("write user and password once, before the first host"));
            }
            let url = format!("redis://{host}");
            Source::parse(&url, tls.clone(), SENTINEL_PORT, FORM)
        };
        let seeds: Vec<Source> = hosts.split(',').map(parse).collect::<Result<_, _>>()?;
        let server = match login {
            // Any host: the Sentinels name the right one.
            Some(login) => {
                Source::parse(&format!("redis://{login}@localhost"), tls.clone(), 1, FORM)?
            }
            None => parse("localhost")?,
        };
        Ok(Self {
            name,
            seeds,
            server,
        })
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = self.server.tls.is_some();
        write!(f, "{}://", if tls { SENTINEL_TLS } else { SENTINEL })?;
        if let Some(name) = &self.server.username {
            write!(f, "{name}@")?;
        }
        let hosts: Vec<String> = self.seeds.iter().map(Source::addr).collect();
        write!(f, "{}/{}", hosts.join(","), self.name)
    }
}

/// Where the server is that is captured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Upstream {
    /// There.
    Server(Source),
    /// Where the Sentinels say.
    Sentinels(Sentinels),
    /// A shard of a cluster.
    Shard(Shard),
}

impl Upstream {
    /// Who writes, in `history.json`.
    #[must_use]
    pub fn service(&self) -> String {
        match self {
            Self::Server(source) => source.addr(),
            Self::Sentinels(sentinels) => sentinels.service(),
            Self::Shard(shard) => shard.service(),
        }
    }

    /// Is there a password in the URL?
    #[must_use]
    pub fn has_password(&self) -> bool {
        match self {
            Self::Server(server) => server.password.is_some(),
            Self::Sentinels(sentinels) => sentinels.server.password.is_some(),
            Self::Shard(_) => false,
        }
    }

    /// With the server's password, which no file has.
    #[must_use]
    pub fn with_password(mut self, password: Secret) -> Self {
        match &mut self {
            Self::Server(server) => server.password = Some(password),
            Self::Sentinels(sentinels) => sentinels.server.password = Some(password),
            // Its servers have the login of the cluster.
            Self::Shard(_) => {}
        }
        self
    }

    /// Takes the server's password from `file`, which must be readable now.
    ///
    /// # Errors
    /// [`ConfigError`]: it is not readable, or there is a password already.
    pub fn with_password_file(self, file: Option<PathBuf>) -> Result<Self, ConfigError> {
        Ok(match self {
            Self::Server(server) => Self::Server(server.with_password_file(file)?),
            Self::Sentinels(sentinels) => Self::Sentinels(sentinels.with_password_file(file)?),
            shard @ Self::Shard(_) => shard,
        })
    }

    /// Takes over how to speak TLS. The files must be usable now.
    ///
    /// # Errors
    /// [`ConfigError`]: they are not, or the URL is one without TLS.
    pub fn with_tls(self, tls: &Tls) -> Result<Self, ConfigError> {
        Ok(match self {
            Self::Server(server) => Self::Server(server.with_tls(tls.clone())?),
            Self::Sentinels(sentinels) => Self::Sentinels(sentinels.with_tls(tls)?),
            shard @ Self::Shard(_) => shard,
        })
    }
}

impl fmt::Display for Upstream {
    /// Without passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Server(server) => server.fmt(f),
            Self::Sentinels(sentinels) => sentinels.fmt(f),
            Self::Shard(shard) => shard.fmt(f),
        }
    }
}

impl FromStr for Upstream {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text.split_once("://") {
            Some((SENTINEL | SENTINEL_TLS, _)) => text.parse().map(Self::Sentinels),
            _ if is_cluster(text) => Err(ConfigError::new(
                "a cluster is backed up by `backfeed serve`, which begins a source for each shard. Write the URL into its file",
            )),
            _ => text.parse().map(Self::Server),
        }
    }
}

#[cfg(test)]
#[path = "sentinels_tests.rs"]
mod tests;
