//! A Redis Cluster: nodes to ask, how to log in to all of them, and one shard of it as a server to capture.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tokio::sync::watch;

use super::source::{DEFAULT_PORT, Secret, Source};
use super::{ConfigError, Tls};

/// A cluster in the clear.
pub(super) const CLUSTER: &str = "redis+cluster";
/// A cluster with TLS.
pub(super) const CLUSTER_TLS: &str = "rediss+cluster";
const FORM: &str =
    "redis+cluster://[user[:password]@]host[:port][,host[:port]…], or rediss+cluster:// for TLS";

/// Is this the URL of a cluster?
#[must_use]
pub fn is_cluster(url: &str) -> bool {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    matches!(scheme, Some(CLUSTER | CLUSTER_TLS))
}

/// Nodes of a cluster, and how to log in to each node of it. `Display` shows no password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Nodes that are asked first, one or more. They need not be all.
    pub seeds: Vec<Source>,
}

impl Cluster {
    /// A node that another one has named. It has the same login.
    #[must_use]
    pub fn node(&self, host: String, port: u16) -> Option<Source> {
        let like = self.seeds.first()?.clone();
        Some(Source { host, port, ..like })
    }

    /// Is there a password in the URL?
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.seeds.iter().any(|seed| seed.password.is_some())
    }

    /// With the password, which no file has.
    #[must_use]
    pub fn with_password(mut self, password: &Secret) -> Self {
        for seed in &mut self.seeds {
            seed.password = Some(password.clone());
        }
        self
    }

    /// Takes the password from `file`, which must be readable now.
    ///
    /// # Errors
    /// [`ConfigError`]: it is not readable, or there is a password already.
    pub fn with_password_file(self, file: Option<&PathBuf>) -> Result<Self, ConfigError> {
        let seeds = self.seeds.into_iter();
        let seeds = seeds.map(|seed| seed.with_password_file(file.cloned()));
        Ok(Self {
            seeds: seeds.collect::<Result<_, _>>()?,
        })
    }

    /// Takes over how to speak TLS, to all nodes alike. The files must be usable now.
    ///
    /// # Errors
    /// [`ConfigError`]: they are not, or the URL is one without TLS.
    pub fn with_tls(self, tls: &Tls) -> Result<Self, ConfigError> {
        let seeds = self
            .seeds
            .into_iter()
            .map(|seed| seed.with_tls(tls.clone()));
        Ok(Self {
            seeds: seeds.collect::<Result<_, _>>()?,
        })
    }
}

impl FromStr for Cluster {
    type Err = ConfigError;

    /// `redis[s]+cluster://[user[:password]@]host[:port][,host[:port]…]`. The error contains no part of the text.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let wrong = |why: &str| ConfigError(format!("{why}: write {FORM}"));
        let (tls, rest) = match text.split_once("://") {
            Some((CLUSTER, rest)) => (None, rest),
            Some((CLUSTER_TLS, rest)) => (Some(Tls::default()), rest),
            _ => return Err(wrong("not a URL of a cluster")),
        };
        let (login, hosts) = match rest.rsplit_once('@') {
            Some((login, hosts)) => (format!("{login}@"), hosts),
            None => (String::new(), rest),
        };
        if login.trim_end_matches('@').contains('@') {
            return Err(wrong(
                "write user and password once, before the first host, and @ in them as %40",
            ));
        }
        let parse = |host: &str| {
            if host.is_empty() {
                return Err(wrong("a host is missing"));
            }
            let url = format!("redis://{login}{host}");
            Source::parse(&url, tls.clone(), DEFAULT_PORT, FORM)
        };
        let hosts = hosts.strip_suffix('/').unwrap_or(hosts);
        let seeds = hosts.split(',').map(parse).collect::<Result<_, _>>()?;
        Ok(Self { seeds })
    }
}

impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.seeds.first();
        let tls = first.is_some_and(|seed| seed.tls.is_some());
        write!(f, "{}://", if tls { CLUSTER_TLS } else { CLUSTER })?;
        if let Some(name) = first.and_then(|seed| seed.username.as_ref()) {
            write!(f, "{name}@")?;
        }
        let hosts: Vec<String> = self.seeds.iter().map(Source::addr).collect();
        f.write_str(&hosts.join(","))
    }
}

/// Which node of a shard is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Prefer {
    /// The master. `WAIT` there counts what is stored.
    #[default]
    Master,
    /// A replica, as long as there is one: the master then neither forks nor feeds one more replica.
    Replica,
}

impl FromStr for Prefer {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "master" => Ok(Self::Master),
            "replica" => Ok(Self::Replica),
            _ => Err(ConfigError(format!(
                "`{text}` is neither `master` nor `replica`"
            ))),
        }
    }
}

/// One shard of a cluster. Whoever looks at the cluster says which server it is now.
#[derive(Debug, Clone)]
pub struct Shard {
    /// Its name, which no failover changes.
    pub name: String,
    /// The server to capture. None: it is not known now.
    pub server: watch::Receiver<Option<Source>>,
}

impl Shard {
    /// Who writes, in `history.json`: the same whichever server is the master.
    #[must_use]
    pub fn service(&self) -> String {
        format!("shard:{}", self.name)
    }
}

impl PartialEq for Shard {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.server.same_channel(&other.server)
    }
}

impl Eq for Shard {}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.server.borrow().as_ref() {
            Some(server) => server.fmt(f),
            None => write!(f, "shard {}", self.name),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_nodes_and_one_login_for_all() {
        let cluster: Cluster = "redis+cluster://u:p%40@a,b:7000,[::1]:7001"
            .parse()
            .unwrap();
        let addrs: Vec<String> = cluster.seeds.iter().map(Source::addr).collect();
        assert_eq!(addrs, ["a:6379", "b:7000", "[::1]:7001"]);
        assert!(cluster.has_password());
        let shown = "redis+cluster://u@a:6379,b:7000,[::1]:7001";
        assert_eq!(cluster.to_string(), shown);
        assert!(!format!("{cluster:?}").contains("p@"));
        let node = cluster.node("c".to_owned(), 1).unwrap();
        assert_eq!(node.password.unwrap().expose(), "p@");
        assert!(is_cluster(shown) && !is_cluster("redis://a") && !is_cluster(""));
        let other: Cluster = "redis+cluster://a/".parse().unwrap();
        assert_eq!(other.seeds.len(), 1);
    }

    #[test]
    fn what_is_no_url_of_a_cluster_is_told_without_its_text() {
        for text in [
            "redis://a",
            "redis+cluster://",
            "redis+cluster://a,",
            "redis+cluster://u:hunter2@a,v:hunter2@b",
            "redis+cluster://a:0",
            "redis+cluster://a/3",
        ] {
            let error = text.parse::<Cluster>().unwrap_err().to_string();
            assert!(
                !error.contains("hunter2") && error.len() > 10,
                "{text}: {error}"
            );
        }
    }
}
