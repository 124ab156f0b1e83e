//! The listener that our Redis takes for its master. Always open, as Redis comes again every second; while there is
//! nothing to give, it answers as a master that still loads.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::config::Listen;
use crate::proto::master::Credentials;
use crate::restore::{Guest, greet, refuse_replica};

/// Connections that are greeted at once; one is Redis, the others are mistakes.
const GUESTS: usize = 4;

/// The door.
#[derive(Debug)]
pub struct Door {
    addr: SocketAddr,
    closed: watch::Sender<Option<String>>,
    guests: mpsc::Receiver<Guest<TcpStream>>,
    task: JoinHandle<()>,
}

impl Door {
    /// Opens the port. Guests are told `reason` until [`Self::open`].
    ///
    /// # Errors
    /// Of the system: the port is taken.
    pub async fn bind(listen: &Listen, reason: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen.addr).await?;
        let addr = listener.local_addr()?;
        let (closed, state) = watch::channel(Some(reason.to_owned()));
        let (sender, guests) = mpsc::channel(GUESTS);
        let credentials = listen.password.as_ref().map(|password| Credentials {
            username: None,
            password: password.expose().to_owned(),
        });
        let task = tokio::spawn(accept(listener, credentials, state, sender));
        Ok(Self {
            addr,
            closed,
            guests,
            task,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Tells guests to come again later, and why.
    pub fn close(&mut self, reason: impl Into<String>) {
        self.closed.send_replace(Some(reason.into()));
        while self.guests.try_recv().is_ok() {}
    }

    /// Lets guests in.
    pub fn open(&self) {
        self.closed.send_replace(None);
    }

    /// The next guest, who has asked for a sync. May be dropped while waiting.
    pub async fn guest(&mut self) -> Guest<TcpStream> {
        match self.guests.recv().await {
            Some(guest) => guest,
            // The task ends with us alone.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    credentials: Option<Credentials>,
    state: watch::Receiver<Option<String>>,
    guests: mpsc::Sender<Guest<TcpStream>>,
) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of file descriptors, most likely: accepting at once again would spin.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let closed = state.borrow().clone();
        let credentials = credentials.clone();
        let guests = guests.clone();
        tokio::spawn(async move {
            let outcome = match closed {
                Some(reason) => refuse_replica(stream, credentials, &reason).await,
                None => match greet(stream, credentials).await {
                    Ok(guest) => {
                        // Nobody waits for it any more: it comes again.
                        let _ = guests.try_send(guest);
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
            };
            if let Err(error) = outcome {
                tracing::debug!(%peer, %error, "a connection to the listener came to nothing");
            }
        });
    }
}
