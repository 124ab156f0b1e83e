//! An ordinary connection to a server: `INFO`, `REPLICAOF` and the like.

use std::io;
use std::time::Duration;

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::config::Source;
use crate::link::replication_info::Facts;
use crate::link::socket::Stream;
use crate::link::{LinkError, auth};
use crate::wire::psync::replica::{Refusal, shorten};
use crate::wire::resp::encode_command;

/// A server that does not answer an ordinary command for this long hangs (a script may be running).
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest reply that is taken: `INFO everything` is far below.
const REPLY_LIMIT: usize = 8 * 1024 * 1024;
/// The part of a conversation that this is, in errors.
const DURING: &str = "in an ordinary command";
/// How a TLS server complains of our plain text: the record type `alert`, and the major version that all of TLS has.
const TLS_ALERT: [u8; 2] = [0x15, 0x03];

/// What went wrong with a call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ControlError {
    /// No connection, or no longer.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The server answered with an error.
    #[error("{addr} answered {command} with: {text}")]
    Reply {
        /// host:port
        addr: String,
        /// The command's name.
        command: String,
        /// The error, without its `-`.
        text: String,
    },
}

impl ControlError {
    /// Did the server refuse because the user may not run the command?
    #[must_use]
    pub fn is_permission(&self) -> bool {
        matches!(self, Self::Reply { text, .. } if text.starts_with("NOPERM"))
    }

    /// Is the command unknown to the server (renamed, disabled, too old)?
    #[must_use]
    pub fn is_unknown_command(&self) -> bool {
        matches!(self, Self::Reply { text, .. } if text.to_ascii_lowercase().contains("unknown command"))
    }

    /// Is there no use in trying again without a change (a wrong password)?
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Link(error) => error.is_permanent(),
            Self::Reply { .. } => self.is_permission(),
        }
    }
}

/// A reply. Errors have become [`ControlError::Reply`].
pub type Reply = OwnedFrame;

/// An ordinary connection, logged in.
#[derive(Debug)]
pub struct Control {
    addr: String,
    stream: Stream,
    inbox: Vec<u8>,
    /// Has the server sent anything yet?
    heard: bool,
}

impl Control {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`ControlError::Link`]: nobody there, or a wrong password.
    pub async fn connect(source: &Source) -> Result<Self, ControlError> {
        let auth = auth(source).map_err(LinkError::from)?;
        let stream = Stream::connect(source).await?;
        let mut control = Self {
            addr: source.addr(),
            stream,
            inbox: Vec::new(),
            heard: false,
        };
        if let Some(auth) = auth {
            let mut args = vec!["AUTH"];
            args.extend(auth.username.as_deref());
            args.push(&auth.password);
            control.call(&args).await.map_err(|error| match error {
                ControlError::Reply { addr, text, .. } => LinkError::Refused {
                    addr,
                    refusal: Refusal::Auth(shorten(&text)),
                }
                .into(),
                link => link,
            })?;
        }
        Ok(control)
    }

    /// The address on our side, which the server can reach us by when it is on this host.
    #[must_use]
    pub fn local_ip(&self) -> Option<std::net::IpAddr> {
        self.stream.local_addr().ok().map(|addr| addr.ip())
    }

    /// The server's address.
    #[must_use]
    pub fn peer_ip(&self) -> Option<std::net::IpAddr> {
        self.stream.peer_addr().ok().map(|addr| addr.ip())
    }

    /// Runs one command.
    ///
    /// # Errors
    /// [`ControlError::Reply`] for an error reply, [`ControlError::Link`] when the connection broke or the server
    /// hangs.
    pub async fn call(&mut self, args: &[&str]) -> Result<Reply, ControlError> {
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        self.call_bytes(&args).await
    }

    /// Runs one command of any bytes.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_bytes(&mut self, args: &[&[u8]]) -> Result<Reply, ControlError> {
        self.call_within(args, CALL_TIMEOUT).await
    }

    /// The same for a command that may take longer.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_within(
        &mut self,
        args: &[&[u8]],
        limit: Duration,
    ) -> Result<Reply, ControlError> {
        let command = args.first().copied().unwrap_or_default();
        let command = String::from_utf8_lossy(command).into_owned();
        let mut bytes = Vec::new();
        encode_command(args, &mut bytes);
        let answered = timeout(limit, self.exchange(&bytes)).await;
        let reply = answered.map_err(|_| {
            self.lost(format!(
                "no answer to {command} within {} s",
                limit.as_secs()
            ))
        })??;
        match reply {
            OwnedFrame::Error(text) if text.starts_with("NOAUTH") => Err(LinkError::Refused {
                addr: self.addr.clone(),
                refusal: Refusal::Auth(shorten(&text)),
            }
            .into()),
            OwnedFrame::Error(text) => Err(ControlError::Reply {
                addr: self.addr.clone(),
                command,
                text,
            }),
            reply => Ok(reply),
        }
    }

    /// Runs one command whose reply is a text.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn text(&mut self, args: &[&str]) -> Result<String, ControlError> {
        Ok(match self.call(args).await? {
            OwnedFrame::SimpleString(bytes) | OwnedFrame::BulkString(bytes) => {
                String::from_utf8_lossy(&bytes).into_owned()
            }
            OwnedFrame::Integer(number) => number.to_string(),
            OwnedFrame::Error(text) => text,
            OwnedFrame::Array(_) | OwnedFrame::Null => String::new(),
        })
    }

    /// The facts in `INFO`.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn facts(&mut self) -> Result<Facts, ControlError> {
        Ok(Facts::parse(&self.text(&["INFO"]).await?))
    }

    /// What `INFO replication` has: ids, offset and backlog. Everything else stays unknown.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn replication_facts(&mut self) -> Result<Facts, ControlError> {
        Ok(Facts::parse(&self.text(&["INFO", "replication"]).await?))
    }

    /// The server's clock, Unix milliseconds. None: the server does not show it.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn time_unix_ms(&mut self) -> Result<Option<i64>, ControlError> {
        let OwnedFrame::Array(parts) = self.call(&["TIME"]).await? else {
            return Ok(None);
        };
        let number = |index: usize| match parts.get(index) {
            Some(OwnedFrame::BulkString(bytes)) => {
                std::str::from_utf8(bytes).ok()?.parse::<i64>().ok()
            }
            _ => None,
        };
        let seconds = number(0).and_then(|seconds| seconds.checked_mul(1000));
        let both = seconds.zip(number(1));
        Ok(both.and_then(|(seconds, micros)| seconds.checked_add(micros / 1000)))
    }

    /// Runs `count` commands, which `bytes` holds, without waiting between them. Each has its reply, or the error that it was
    /// answered with, without its `-`. Replies must be short: they are read when all is sent.
    ///
    /// # Errors
    /// [`ControlError::Link`] when the connection broke or the server hangs: any number of them may have been run.
    pub async fn pipeline(
        &mut self,
        bytes: &[u8],
        count: usize,
        limit: Duration,
    ) -> Result<Vec<Result<Reply, String>>, ControlError> {
        let exchange = async {
            self.send(bytes).await?;
            let mut replies = Vec::with_capacity(count);
            for _ in 0..count {
                replies.push(match self.reply().await? {
                    OwnedFrame::Error(text) => Err(text),
                    reply => Ok(reply),
                });
            }
            Ok(replies)
        };
        match timeout(limit, exchange).await {
            Ok(done) => done,
            Err(_) => Err(self.lost(format!("no answer within {} s", limit.as_secs()))),
        }
    }

    async fn exchange(&mut self, bytes: &[u8]) -> Result<Reply, ControlError> {
        self.send(bytes).await?;
        self.reply().await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), ControlError> {
        let sent = self.stream.send(bytes).await;
        sent.map_err(|error| LinkError::of_io(&self.addr, DURING, &error).into())
    }

    async fn reply(&mut self) -> Result<Reply, ControlError> {
        loop {
            if self.inbox.starts_with(&TLS_ALERT) {
                return Err(self.not_redis(&"it speaks TLS at this port. Write rediss://"));
            }
            if let Some((frame, length)) =
                decode(&self.inbox).map_err(|error| self.not_redis(&error))?
            {
                self.inbox.drain(..length.min(self.inbox.len()));
                return Ok(frame);
            }
            if self.inbox.len() > REPLY_LIMIT {
                return Err(self.lost(format!("a reply of more than {REPLY_LIMIT} bytes")));
            }
            let read = self.stream.read_buf(&mut self.inbox).await;
            match read {
                Ok(0) => return Err(self.lost(self.ended("the server closed the connection"))),
                Ok(_) => self.heard = true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Err(self.lost(self.ended(&error.to_string())));
                }
                Err(error) => return Err(LinkError::of_io(&self.addr, DURING, &error).into()),
            }
        }
    }

    /// A server that speaks only TLS closes the connection when it gets plain text.
    fn ended(&self, how: &str) -> String {
        if self.heard || self.stream.is_tls() {
            return how.to_owned();
        }
        format!("{how}, before it sent anything. If this port speaks TLS, write rediss://")
    }

    fn lost(&self, cause: String) -> ControlError {
        LinkError::Lost {
            addr: self.addr.clone(),
            during: DURING,
            cause,
        }
        .into()
    }

    fn not_redis(&self, error: &impl std::fmt::Display) -> ControlError {
        let refusal = Refusal::NotRedis(error.to_string());
        LinkError::Refused {
            addr: self.addr.clone(),
            refusal,
        }
        .into()
    }
}
