//! Sockets: a replication link ([`Link`]), ordinary connections beside it ([`control`]), and connections that replicas
//! make to us ([`accept`]).

pub mod accept;
pub mod cluster;
pub mod connection_limit;
pub mod control;
pub mod health;
pub mod replication_info;
pub mod sentinel;
mod socket;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "tls")]
mod tls_accept;
mod tls_fault;
#[cfg(not(feature = "tls"))]
mod without_tls;

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout, timeout_at};

pub use self::socket::Stream;
pub use self::tls_fault::TlsFault;
#[cfg(not(feature = "tls"))]
use self::without_tls::{client as tls, server as tls_accept};
use crate::config::{ConfigError, Source};
use crate::wire::position::{Offset, Position};
use crate::wire::psync::replica::{Auth, Event, Handshake, Refusal, Replica, encode_ack};

/// A server that does not answer a connect for this long is away.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A link without a byte for this long is half open. Masters send `PING` every 10 s, and a newline each second while
/// they prepare a full sync. This is the servers' own `repl-timeout`.
pub const LINK_TIMEOUT: Duration = Duration::from_secs(60);
/// A master that does not take a 60-byte acknowledgement for this long does not read.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes asked of the socket at once.
const READ_SIZE: usize = 64 * 1024;

/// Why there is no link, or no longer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LinkError {
    /// Nobody answers there.
    #[error(
        "cannot connect to {addr}: {cause}. Check that Redis runs there, and that this host can reach it"
    )]
    Connect {
        /// host:port
        addr: String,
        /// What the system said.
        cause: String,
    },
    /// The server answered, and refused.
    #[error("{addr}: {refusal}")]
    Refused {
        /// host:port
        addr: String,
        /// Its answer.
        refusal: Refusal,
    },
    /// The link broke.
    #[error("{addr}: the connection was lost {during}: {cause}")]
    Lost {
        /// host:port
        addr: String,
        /// In which part of the conversation.
        during: &'static str,
        /// What the system said.
        cause: String,
    },
    /// The link is half open.
    #[error("{addr}: nothing was received for {seconds} s {during}: the link counts as dead")]
    Silent {
        /// host:port
        addr: String,
        /// In which part of the conversation.
        during: &'static str,
        /// How long.
        seconds: u64,
    },
    /// No TLS with the server.
    #[error("{addr}: TLS: {fault}")]
    Tls {
        /// host:port
        addr: String,
        /// Why, and what to try.
        fault: TlsFault,
    },
    /// The password, or a file of TLS, could not be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl LinkError {
    /// Is there no use in trying again without a change?
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Refused { refusal, .. } => refusal.is_permanent(),
            Self::Tls { fault, .. } => fault.is_permanent(),
            Self::Config(_) => true,
            Self::Connect { .. } | Self::Lost { .. } | Self::Silent { .. } => false,
        }
    }

    /// What a failed read or write says.
    pub(crate) fn of_io(addr: &str, during: &'static str, error: &io::Error) -> Self {
        let addr = addr.to_owned();
        match tls::fault_of(error) {
            Some(fault) => Self::Tls { addr, fault },
            None => Self::Lost {
                addr,
                during,
                cause: match error.kind() {
                    // With TLS: it closed without a close_notify, as a killed process does.
                    io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
                    _ => error.to_string(),
                },
            },
        }
    }
}

/// A replication link to a master.
#[derive(Debug)]
pub struct Link {
    addr: String,
    stream: Stream,
    machine: Replica,
    inbox: BytesMut,
    outbox: Vec<u8>,
    events: VecDeque<Event>,
    last_heard: Instant,
}

impl Link {
    /// Connects, and begins the handshake. The credentials are read each time, because they may have been rotated.
    ///
    /// # Errors
    /// [`LinkError::Connect`], [`LinkError::Tls`], [`LinkError::Config`].
    pub async fn connect(
        source: &Source,
        version: Option<&'static str>,
        resume: Option<Position>,
    ) -> Result<Self, LinkError> {
        let handshake = Handshake {
            auth: auth(source)?,
            version,
            resume,
            rdb_only: false,
        };
        Self::open(source, handshake).await
    }

    /// The same, for a full sync that ends with its snapshot: no feed follows on this link.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_for_snapshot(
        source: &Source,
        version: Option<&'static str>,
    ) -> Result<Self, LinkError> {
        let handshake = Handshake {
            auth: auth(source)?,
            version,
            resume: None,
            rdb_only: true,
        };
        Self::open(source, handshake).await
    }

    async fn open(source: &Source, handshake: Handshake) -> Result<Self, LinkError> {
        let stream = Stream::connect(source).await?;
        let mut outbox = Vec::new();
        let machine = Replica::new(handshake, &mut outbox);
        Ok(Self {
            addr: source.addr(),
            stream,
            machine,
            inbox: BytesMut::new(),
            outbox,
            events: VecDeque::new(),
            last_heard: Instant::now(),
        })
    }

    /// The next event. After the handshake, the future may be dropped without losing anything.
    ///
    /// # Errors
    /// [`LinkError::Refused`], [`LinkError::Lost`], [`LinkError::Silent`]; the link has then ended.
    pub async fn next(&mut self) -> Result<Event, LinkError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            self.flush().await?;
            self.read().await?;
        }
    }

    /// Says `REPLCONF ACK`.
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the master does not take it.
    pub async fn ack(&mut self, offset: Offset) -> Result<(), LinkError> {
        encode_ack(offset, &mut self.outbox);
        self.flush().await
    }

    /// Says a bare newline: alive, nothing new (PROTOCOL.md A.7).
    ///
    /// # Errors
    /// [`LinkError::Lost`] when the master does not take it.
    pub async fn keepalive(&mut self) -> Result<(), LinkError> {
        self.outbox.push(b'\n');
        self.flush().await
    }

    /// Bytes of the payload that are still missing, if the master said how many there are.
    #[must_use]
    pub fn payload_remaining(&self) -> Option<u64> {
        self.machine.payload_remaining()
    }

    async fn flush(&mut self) -> Result<(), LinkError> {
        if self.outbox.is_empty() {
            return Ok(());
        }
        let written = timeout(WRITE_TIMEOUT, self.stream.send(&self.outbox)).await;
        self.outbox.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(LinkError::of_io(&self.addr, self.during(), &error)),
            Err(_) => Err(self.lost("the server does not read what backfeed sends".to_owned())),
        }
    }

    async fn read(&mut self) -> Result<(), LinkError> {
        self.inbox.reserve(READ_SIZE);
        let deadline = self
            .last_heard
            .checked_add(LINK_TIMEOUT)
            .unwrap_or(self.last_heard);
        match timeout_at(deadline, self.stream.read_buf(&mut self.inbox)).await {
            Ok(Ok(0)) => return Err(self.lost("the server closed the connection".to_owned())),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(LinkError::of_io(&self.addr, self.during(), &error)),
            Err(_) => {
                return Err(LinkError::Silent {
                    addr: self.addr.clone(),
                    during: self.during(),
                    seconds: LINK_TIMEOUT.as_secs(),
                });
            }
        }
        self.last_heard = Instant::now();
        let chunk = take(&mut self.inbox);
        let mut events = Vec::new();
        self.machine
            .receive(chunk, &mut events, &mut self.outbox)
            .map_err(|refusal| LinkError::Refused {
                addr: self.addr.clone(),
                refusal,
            })?;
        self.events.extend(events);
        Ok(())
    }

    fn lost(&self, cause: String) -> LinkError {
        LinkError::Lost {
            addr: self.addr.clone(),
            during: self.during(),
            cause,
        }
    }

    fn during(&self) -> &'static str {
        self.machine.stage()
    }
}

/// What was read. It may wait long for the store, and must not keep a whole buffer alive for a few bytes.
fn take(inbox: &mut BytesMut) -> Bytes {
    if inbox.len() >= READ_SIZE / 2 {
        return inbox.split().freeze();
    }
    let copy = Bytes::copy_from_slice(inbox);
    inbox.clear();
    copy
}

pub(crate) fn auth(source: &Source) -> Result<Option<Auth>, ConfigError> {
    let password = source.current_password()?;
    Ok(password.map(|password| Auth {
        username: source.username.clone(),
        password: password.expose().to_owned(),
    }))
}
