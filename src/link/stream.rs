//! The socket under a link or an ordinary connection: TCP, or TLS over it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::{CONNECT_TIMEOUT, LinkError, tls};
use crate::config::Source;

/// After a write has failed, the server's reason is in its receive buffer already or on its way: a round trip.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// A connected socket.
#[derive(Debug)]
pub(super) enum Stream {
    /// `redis://`
    Plain(TcpStream),
    /// `rediss://`. Boxed, as it is ten times as large.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Connects. The name is resolved and the files are read anew.
    pub(super) async fn connect(source: &Source) -> Result<Self, LinkError> {
        let tcp = dial(source).await?;
        match &source.tls {
            None => Ok(Self::Plain(tcp)),
            Some(settings) => Ok(Self::Tls(tls::handshake(source, settings, tcp).await?)),
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// Sends all of it. When the server has ended TLS meanwhile (it refuses our certificate only after the handshake), the
    /// error is its reason.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self.write_all(bytes).await {
            Ok(()) => self.flush().await,
            Err(error) => Err(error),
        };
        match sent {
            Err(error) if self.is_tls() => Err(self.farewell().await.unwrap_or(error)),
            sent => sent,
        }
    }

    /// The alert that the server sent before it went, if there is one.
    async fn farewell(&mut self) -> Option<io::Error> {
        let alert = async {
            let mut rest = [0; 1024];
            loop {
                match self.read(&mut rest).await {
                    Ok(0) => return None,
                    Ok(_) => {}
                    Err(error) => return tls::fault_of(&error).is_some().then_some(error),
                }
            }
        };
        timeout(FAREWELL_TIMEOUT, alert).await.ok().flatten()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(context, buffer),
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_write(context, bytes),
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
        }
    }
}

/// Connects a socket; the name is resolved anew.
async fn dial(source: &Source) -> Result<TcpStream, LinkError> {
    let addr = source.addr();
    let fail = |cause: String| LinkError::Connect {
        addr: addr.clone(),
        cause,
    };
    let stream = timeout(
        CONNECT_TIMEOUT,
        TcpStream::connect((source.host.as_str(), source.port)),
    )
    .await
    .map_err(|_| fail(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs())))?
    .map_err(|error| fail(error.to_string()))?;
    stream
        .set_nodelay(true)
        .map_err(|error| fail(error.to_string()))?;
    Ok(stream)
}
