//! Asks Sentinels which server is the master.
//!
//! All are asked at the same time. The answer with the highest configuration epoch counts: that of the last failover.
//! So a Sentinel that was cut off or is late does not lead back to a server that is no longer the master.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::time::{Instant, timeout, timeout_at};

use super::LinkError;
use super::control::{Control, ControlError};
use super::replication_info::Role;
use crate::config::{Sentinels, Source};
use crate::wire::psync::replica::Refusal;

/// A Sentinel answers from memory: one that takes longer is away.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the others may take once one has answered: one host that is down must not delay a failover.
const LATE_ANSWER: Duration = Duration::from_millis(500);
/// A server that does not say its role within this time counts as away. The Sentinels are then asked again.
const ROLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Sentinels that are remembered at most. There are rarely more than seven.
const OTHERS_LIMIT: usize = 64;

/// Why no master was found.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SentinelError {
    /// No Sentinel answers.
    #[error("no Sentinel of `{name}` answers: {}{}", join(.causes), hint(.causes))]
    Away {
        /// The master's name.
        name: String,
        /// What is wrong with each of them.
        causes: Vec<ControlError>,
    },
    /// No Sentinel knows the name.
    #[error(
        "the Sentinels {} know no master named `{name}`. Compare the end of the URL with `sentinel monitor` in their \
         configuration{}",
        .asked.join(", "), list_known(.known)
    )]
    Unknown {
        /// The master's name.
        name: String,
        /// The Sentinels that said so.
        asked: Vec<String>,
        /// Names that they know.
        known: Vec<String>,
    },
    /// The server is a replica.
    #[error(
        "the Sentinels say that the master `{name}` is {addr}, but it is {role}. A failover is running, or they do not \
         know of it yet"
    )]
    NotMaster {
        /// The master's name.
        name: String,
        /// host:port
        addr: String,
        /// What it says that it is.
        role: String,
    },
    /// The server does not answer.
    #[error("the Sentinels say that the master `{name}` is {addr}: {cause}")]
    Server {
        /// The master's name.
        name: String,
        /// host:port
        addr: String,
        /// What is wrong with it.
        cause: ControlError,
    },
}

impl SentinelError {
    /// Is there no use in trying again without a change (a wrong password)?
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Away { causes, .. } => causes.iter().all(ControlError::is_permanent),
            Self::Server { cause, .. } => cause.is_permanent(),
            Self::Unknown { .. } | Self::NotMaster { .. } => false,
        }
    }

    /// Is there little use in a try soon? A wrong name stays wrong, but one may be added at any time.
    #[must_use]
    pub fn is_unknown_name(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

fn join(causes: &[ControlError]) -> String {
    let causes: Vec<String> = causes.iter().map(ControlError::to_string).collect();
    causes.join("; ")
}

/// The password in the URL, or of `redis_password_file`, is for the servers.
fn hint(causes: &[ControlError]) -> &'static str {
    let auth = |cause: &ControlError| {
        let ControlError::Link(LinkError::Refused { refusal, .. }) = cause else {
            return false;
        };
        matches!(refusal, Refusal::Auth(_))
    };
    if causes.iter().any(auth) {
        ". Use `sentinel_password_file` and `sentinel_user` for the Sentinels' own password"
    } else {
        ""
    }
}

fn list_known(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!(" (they know {})", names.join(", ")),
    }
}

/// Finds the master, again and again.
#[derive(Debug, Clone)]
pub struct Finder {
    sentinels: Sentinels,
    /// Those that the Sentinels of the URL have named, for when none of these answers.
    others: Vec<Source>,
    /// Those that did not answer, as logged last.
    told: String,
}

/// What one Sentinel says.
struct Answer {
    by: String,
    master: Option<(String, u16)>,
    epoch: u64,
    others: Vec<(String, u16)>,
    names: Vec<String>,
}

impl Finder {
    /// Nobody is asked before [`Self::master`].
    #[must_use]
    pub fn new(sentinels: Sentinels) -> Self {
        Self {
            sentinels,
            others: Vec::new(),
            told: String::new(),
        }
    }

    /// The server that is the master now, and says so itself.
    ///
    /// # Errors
    /// [`SentinelError`].
    pub async fn master(&mut self) -> Result<Source, SentinelError> {
        let answers = self.ask().await?;
        self.learn(&answers);
        let name = &self.sentinels.name;
        let latest = answers
            .iter()
            .filter(|answer| answer.master.is_some())
            .map(|answer| answer.epoch)
            .max();
        // Only one of them unless epochs are kept secret (by an ACL), or a failover is so new that they differ.
        let mut named: Vec<&(String, u16)> = answers
            .iter()
            .filter(|answer| Some(answer.epoch) == latest)
            .filter_map(|answer| answer.master.as_ref())
            .collect();
        named.dedup();
        let mut wrong = SentinelError::Unknown {
            name: name.clone(),
            asked: answers.iter().map(|answer| answer.by.clone()).collect(),
            known: answers.iter().flat_map(|a| a.names.clone()).collect(),
        };
        if let SentinelError::Unknown { known, .. } = &mut wrong {
            known.sort();
            known.dedup();
        }
        for (host, port) in named {
            let server = self.sentinels.server(host.clone(), *port);
            match check(name, &server).await {
                Ok(()) => return Ok(server),
                Err(error) => wrong = error,
            }
        }
        Err(wrong)
    }

    async fn ask(&mut self) -> Result<Vec<Answer>, SentinelError> {
        let name = self.sentinels.name.clone();
        let (mut answers, mut causes) = ask_all(&self.sentinels.seeds, &name).await;
        if answers.is_empty() {
            let (more, other_causes) = ask_all(&self.others, &name).await;
            answers = more;
            causes.extend(other_causes);
        }
        if answers.is_empty() {
            return Err(SentinelError::Away { name, causes });
        }
        let told = join(&causes);
        if told != self.told {
            match causes.len() {
                0 => tracing::info!("all Sentinels of `{name}` answer again"),
                _ => tracing::warn!("some Sentinels of `{name}` do not answer, others do: {told}"),
            }
            self.told = told;
        }
        Ok(answers)
    }

    fn learn(&mut self, answers: &[Answer]) {
        let mut named: Vec<&(String, u16)> =
            answers.iter().flat_map(|answer| &answer.others).collect();
        named.sort();
        named.dedup();
        if named.is_empty() {
            return;
        }
        let others = named.into_iter().take(OTHERS_LIMIT);
        self.others = others
            .filter_map(|(host, port)| self.sentinels.sentinel(host.clone(), *port))
            .filter(|other| !self.sentinels.seeds.contains(other))
            .collect();
    }
}

/// Asks them at the same time. One that is slower than the first by [`LATE_ANSWER`] counts neither as an answer nor as
/// a failure.
async fn ask_all(sentinels: &[Source], name: &str) -> (Vec<Answer>, Vec<ControlError>) {
    let mut asked: FuturesUnordered<_> = sentinels
        .iter()
        .map(|sentinel| within(SENTINEL_TIMEOUT, sentinel, ask_one(sentinel, name)))
        .collect();
    let (mut answers, mut causes) = (Vec::new(), Vec::new());
    let mut deadline = None;
    loop {
        let next = match deadline {
            None => Ok(asked.next().await),
            Some(deadline) => timeout_at(deadline, asked.next()).await,
        };
        match next {
            Ok(Some(Ok(answer))) => {
                answers.push(answer);
                deadline = deadline.or_else(|| Instant::now().checked_add(LATE_ANSWER));
            }
            Ok(Some(Err(cause))) => causes.push(cause),
            Ok(None) | Err(_) => return (answers, causes),
        }
    }
}

async fn ask_one(sentinel: &Source, name: &str) -> Result<Answer, ControlError> {
    let mut control = Control::connect(sentinel).await?;
    let master = control
        .call(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name])
        .await?;
    let mut answer = Answer {
        by: sentinel.addr(),
        master: address(&master),
        epoch: 0,
        others: Vec::new(),
        names: Vec::new(),
    };
    // An ACL may refuse the next question. Its answer is useful, but not needed.
    if answer.master.is_none() {
        if let Ok(masters) = control.call(&["SENTINEL", "MASTERS"]).await {
            let names = items(&masters).iter().map(fields);
            answer.names = names.filter_map(|mut of| of.remove("name")).collect();
        }
        return Ok(answer);
    }
    if let Ok(master) = control.call(&["SENTINEL", "MASTER", name]).await {
        let epoch = fields(&master).remove("config-epoch");
        answer.epoch = epoch.and_then(|text| text.parse().ok()).unwrap_or(0);
    }
    if let Ok(others) = control.call(&["SENTINEL", "SENTINELS", name]).await {
        answer.others = items(&others)
            .iter()
            .map(fields)
            .filter_map(|mut of| Some((of.remove("ip")?, of.remove("port")?.parse().ok()?)))
            .collect();
    }
    Ok(answer)
}

/// Does the server itself say that it is a master?
async fn check(name: &str, server: &Source) -> Result<(), SentinelError> {
    let role = within(ROLE_TIMEOUT, server, role(server)).await;
    let (name, addr) = (name.to_owned(), server.addr());
    match role {
        Ok(role) if role == "master" => Ok(()),
        Ok(role) => Err(SentinelError::NotMaster { name, addr, role }),
        Err(cause) => Err(SentinelError::Server { name, addr, cause }),
    }
}

/// `master` too when the user may not ask.
async fn role(server: &Source) -> Result<String, ControlError> {
    let refused = |error: &ControlError| error.is_permission() || error.is_unknown_command();
    let mut control = Control::connect(server).await?;
    match control.call(&["ROLE"]).await {
        Ok(role) => return Ok(items(&role).first().and_then(text).unwrap_or_default()),
        Err(error) if !refused(&error) => return Err(error),
        Err(_) => {}
    }
    match control.facts().await {
        Ok(facts) => Ok(match facts.role {
            Role::Replica { host, port, .. } => format!("a replica of {host}:{port}"),
            Role::Master | Role::Unknown => "master".to_owned(),
        }),
        Err(error) if !refused(&error) => Err(error),
        Err(_) => Ok("master".to_owned()),
    }
}

async fn within<T>(
    limit: Duration,
    server: &Source,
    call: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ControlError> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        Err(LinkError::Connect {
            addr: server.addr(),
            cause: format!("no answer within {} s", limit.as_secs()),
        }
        .into())
    })
}

fn items(frame: &OwnedFrame) -> &[OwnedFrame] {
    match frame {
        OwnedFrame::Array(items) => items,
        _ => &[],
    }
}

fn text(frame: &OwnedFrame) -> Option<String> {
    match frame {
        OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => {
            Some(String::from_utf8_lossy(bytes).into_owned())
        }
        _ => None,
    }
}

/// `[host, port]`
fn address(frame: &OwnedFrame) -> Option<(String, u16)> {
    match items(frame) {
        [host, port] => Some((text(host)?, text(port)?.parse().ok()?)),
        _ => None,
    }
}

/// `[name, value, name, value …]`
fn fields(frame: &OwnedFrame) -> BTreeMap<String, String> {
    let pairs = items(frame).chunks_exact(2);
    pairs
        .filter_map(|pair| match pair {
            [name, value] => Some((text(name)?, text(value)?)),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
#[path = "sentinel_tests.rs"]
mod tests;
