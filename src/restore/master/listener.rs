//! The listener that a target uses as its master. It is always open, because a target connects again every second.
//! While there is nothing to send, it lets a target wait for a while, and then answers as a master that is still loading.
//!
//! Every connection has its own task, so one that hangs does not block the others.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::{Admission, Listen};
use crate::link::Stream;
use crate::link::accept::{AcceptError, ListeningSocket, accept};
use crate::link::connection_limit::ConnectionLimit;
use crate::restore::master::error::ServeError;
use crate::restore::master::password_guesses::PasswordGuesses;
use crate::restore::master::{WaitingReplica, handshake, refuse_replica};
use crate::runtime;

/// Guests that wait to be served: one is the target, the others are mistakes.
pub const WAITING_REPLICAS: usize = 4;
/// Connections that have not asked for a sync yet. When there are more, the oldest one is closed. The target needs less
/// than a second.
pub const HANDSHAKES_AT_ONCE: usize = 64;
/// So long a target may wait until there is something to send. (It takes this for a slow master, up to its `repl-timeout`, 60 s.)
const HELD: Duration = Duration::from_secs(10);
/// How many reasons for refused connections are remembered, so that each is logged once.
const REASONS: usize = 32;

/// The listener.
#[derive(Debug)]
pub struct Listener {
    addr: SocketAddr,
    entry: Arc<Entry>,
    waiting: mpsc::Receiver<WaitingReplica<Stream>>,
    problems: Problems,
    task: JoinHandle<()>,
}

impl Listener {
    /// Opens the port. Connections get the answer `reason` until [`Self::open`].
    ///
    /// # Errors
    /// Of the system: the port is taken.
    pub async fn bind(listen: &Listen, reason: &str) -> std::io::Result<Self> {
        let socket = ListeningSocket::bind(listen.addr).await?;
        Self::at(socket, listen.admission.clone(), reason)
    }

    /// Takes over an open port. Connections get the answer `reason` until [`Self::open`].
    ///
    /// # Errors
    /// Of the system.
    pub fn new(socket: TcpListener, admission: Admission, reason: &str) -> std::io::Result<Self> {
        Self::at(ListeningSocket::Tcp(socket), admission, reason)
    }

    fn at(socket: ListeningSocket, admission: Admission, reason: &str) -> std::io::Result<Self> {
        let addr = socket.local_addr()?;
        if let Some(warning) = admission.warning(addr) {
            tracing::warn!("{warning}");
        }
        let entry = Arc::new(Entry::closed(reason));
        let (sender, waiting) = mpsc::channel(WAITING_REPLICAS);
        let problems = Problems::default();
        let reception = Reception {
            admission,
            entry: Arc::clone(&entry),
            waiting: sender,
            problems: problems.clone(),
            guesses: PasswordGuesses::default(),
        };
        let task = runtime::spawn(reception.run(socket));
        Ok(Self {
            addr,
            entry,
            waiting,
            problems,
            task,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Tells waiting replicas to come again later, and why.
    pub fn close(&mut self, reason: impl Into<String>) {
        self.entry.set(Some(reason.into()));
        while self.waiting.try_recv().is_ok() {}
    }

    /// Lets waiting replicas in. One that came in while the listener was being closed comes again.
    pub fn open(&mut self) {
        while self.waiting.try_recv().is_ok() {}
        self.problems
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .last = None;
        self.entry.set(None);
    }

    /// Lets waiting replicas in, if it does not yet.
    pub fn open_if_closed(&mut self) {
        if self.entry.why_closed().is_some() {
            self.open();
        }
    }

    /// The next waiting replica, who has asked for a sync. May be dropped while waiting.
    pub async fn waiting(&mut self) -> WaitingReplica<Stream> {
        match self.waiting.recv().await {
            Some(waiting) => waiting,
            // The task ends only with the listener.
            None => std::future::pending().await,
        }
    }

    /// Why the last one that came since [`Self::open`] could not be let in.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let problems = self
            .problems
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        problems.last.clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a connection ended that did not lead to a sync.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Accept(#[from] AcceptError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

impl Ended {
    /// Should an operator know of it?
    fn is_misconfigured(&self) -> bool {
        match self {
            Self::Accept(error) => !matches!(error, AcceptError::Gone(_)),
            Self::Serve(error) => error.is_misconfigured(),
        }
    }
}

#[derive(Clone)]
struct Reception {
    admission: Admission,
    entry: Arc<Entry>,
    waiting: mpsc::Sender<WaitingReplica<Stream>>,
    problems: Problems,
    guesses: PasswordGuesses,
}

impl Reception {
    /// Dropping it ends all greetings.
    async fn run(self, mut listener: ListeningSocket) {
        let mut greetings = ConnectionLimit::new(HANDSHAKES_AT_ONCE);
        loop {
            let (stream, peer) = listener.next().await;
            let reception = self.clone();
            greetings.admit(async move {
                if let Err(ended) = reception.receive(stream, peer).await {
                    reception.problems.note(peer, &ended);
                }
            });
        }
    }

    async fn receive(&self, stream: Stream, peer: SocketAddr) -> Result<(), Ended> {
        if !self.guesses.turn(peer.ip()).await {
            return Ok(());
        }
        let accepted = accept(&self.admission, stream).await?;
        let (stream, credentials) = (accepted.stream, accepted.credentials);
        let closed = self.why_closed().await;
        let its_try = credentials.as_ref().map(|_| self.guesses.begin(peer.ip()));
        let greeted = match closed {
            Some(reason) => refuse_replica(stream, credentials, &reason)
                .await
                .map(|()| None),
            None => handshake(stream, credentials).await.map(Some),
        };
        match (&greeted, its_try) {
            (Ok(Some(_)), Some(its_try)) => its_try.right(),
            (Err(ServeError::WrongPassword { .. }), its_try) => drop(its_try),
            (_, Some(its_try)) => its_try.harmless(),
            (_, None) => {}
        }
        let Some(mut waiting) = greeted? else {
            return Ok(());
        };
        waiting.peer = Some(peer);
        self.problems.solved();
        // Nobody waits for it any more: it comes again.
        let _ = self.waiting.try_send(waiting);
        Ok(())
    }
}

impl Reception {
    /// Why nobody is let in. A replica that comes too early waits for a while: it would come again only a second later.
    async fn why_closed(&self) -> Option<String> {
        match timeout(HELD, self.entry.opened()).await {
            Ok(()) => None,
            Err(_) => self.entry.why_closed(),
        }
    }
}

/// Whether replicas are let in. Those that wait go on in the order in which they came.
#[derive(Debug)]
struct Entry {
    closed: Mutex<Option<String>>,
    opened: Notify,
}

impl Entry {
    fn closed(reason: &str) -> Self {
        Self {
            closed: Mutex::new(Some(reason.to_owned())),
            opened: Notify::new(),
        }
    }

    fn set(&self, closed: Option<String>) {
        let is_open = closed.is_none();
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = closed;
        if is_open {
            self.opened.notify_waiters();
        }
    }

    fn why_closed(&self) -> Option<String> {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        closed.clone()
    }

    async fn opened(&self) {
        loop {
            let mut opened = pin!(self.opened.notified());
            // It may be opened right after it was asked.
            opened.as_mut().enable();
            if self.why_closed().is_none() {
                return;
            }
            opened.await;
        }
    }
}

/// What was logged. A target with the same problem comes every second.
#[derive(Debug, Clone, Default)]
struct Problems(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    reasons: BTreeSet<String>,
    last: Option<String>,
}

impl Problems {
    fn note(&self, peer: SocketAddr, ended: &Ended) {
        if !ended.is_misconfigured() {
            tracing::debug!(%peer, %ended, "a connection to the listener failed");
            return;
        }
        let reason = format!(
            "a connection from {} was refused: {ended}",
            peer.ip().to_canonical()
        );
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.last = Some(reason.clone());
        if told.reasons.len() >= REASONS {
            told.reasons.clear();
        }
        if told.reasons.insert(reason.clone()) {
            tracing::warn!("{reason}");
        }
    }

    /// The next one is news again.
    fn solved(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Told::default();
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
