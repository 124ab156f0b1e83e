//! The socket under a link, an ordinary connection, or a replica's to us: TCP, or TLS over it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
#[cfg(feature = "tls")]
use tokio_rustls::TlsStream;

use super::{CONNECT_TIMEOUT, LinkError, tls};
use crate::config::Source;
#[cfg(test)]
use crate::runtime::simulated;

/// After a write has failed, the server's reason is in its receive buffer already or on its way: a round trip.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// Addresses of a name that are tried in one connect, sharing [`CONNECT_TIMEOUT`]: a service has a few.
const ADDRESSES: usize = 5;

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// In the clear.
    Plain(TcpStream),
    /// TLS, on either side. Boxed, because it is ten times as large.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<TcpStream>>),
    /// In the simulation.
    #[cfg(test)]
    Simulated(simulated::Wire),
}

impl Stream {
    /// Connects. The name is resolved and the files are read each time.
    pub(crate) async fn connect(source: &Source) -> Result<Self, LinkError> {
        #[cfg(test)]
        if simulated::is_on() {
            return simulated::connect(source).await.map(Self::Simulated);
        }
        let tcp = dial(source, resolve).await?;
        match &source.tls {
            None => Ok(Self::Plain(tcp)),
            Some(settings) => tls::handshake(source, settings, tcp).await,
        }
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(tcp) => tcp,
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.get_ref().0,
            #[cfg(test)]
            Self::Simulated(_) => unreachable!("it has no socket"),
        }
    }

    /// Small writes leave at once.
    pub(super) fn set_nodelay(&self) {
        #[cfg(test)]
        if let Self::Simulated(_) = self {
            return;
        }
        let _ = self.tcp().set_nodelay(true);
    }

    pub(super) fn is_tls(&self) -> bool {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(_) => true,
            _ => false,
        }
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        #[cfg(test)]
        if let Self::Simulated(_) = self {
            return Ok(simulated::LOOPBACK);
        }
        self.tcp().local_addr()
    }

    pub(super) fn peer_addr(&self) -> io::Result<SocketAddr> {
        #[cfg(test)]
        if let Self::Simulated(_) = self {
            return Ok(simulated::LOOPBACK);
        }
        self.tcp().peer_addr()
    }

    /// Sends all of it. When the server has ended TLS meanwhile (it refuses our certificate only after the handshake),
    /// the error is its reason.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self.write_all(bytes).await {
            Ok(()) => self.flush().await,
            Err(error) => Err(error),
        };
        match sent {
            Err(error) if self.is_tls() => Err(self.close_reason().await.unwrap_or(error)),
            sent => sent,
        }
    }

    /// The alert that the server sent before it went, if there is one.
    async fn close_reason(&mut self) -> Option<io::Error> {
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
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Pin::new(tls).poll_read(context, buffer),
            #[cfg(test)]
            Self::Simulated(wire) => Pin::new(wire).poll_read(context, buffer),
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
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Pin::new(tls).poll_write(context, bytes),
            #[cfg(test)]
            Self::Simulated(wire) => Pin::new(wire).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_flush(context),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Pin::new(tls).poll_flush(context),
            #[cfg(test)]
            Self::Simulated(wire) => Pin::new(wire).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(tcp) => Pin::new(tcp).poll_shutdown(context),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => Pin::new(tls).poll_shutdown(context),
            #[cfg(test)]
            Self::Simulated(wire) => Pin::new(wire).poll_shutdown(context),
        }
    }
}

async fn resolve(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// Connects a socket. The name is resolved each time, because a server may have moved. Each of its addresses is tried
/// in turn.
async fn dial<F>(
    source: &Source,
    resolve: impl Fn(String, u16) -> F,
) -> Result<TcpStream, LinkError>
where
    F: Future<Output = io::Result<Vec<SocketAddr>>>,
{
    let fail = |cause: String| LinkError::Connect {
        addr: source.addr(),
        cause,
    };
    let addresses = timeout(CONNECT_TIMEOUT, resolve(source.host.clone(), source.port))
        .await
        .map_err(|_| {
            fail(format!(
                "its name was not resolved within {} s",
                CONNECT_TIMEOUT.as_secs()
            ))
        })?
        .map_err(|error| fail(error.to_string()))?;
    let count = addresses.len().min(ADDRESSES);
    let share = CONNECT_TIMEOUT
        .checked_div(u32::try_from(count).unwrap_or(1))
        .unwrap_or(CONNECT_TIMEOUT);
    let mut causes = Vec::new();
    for address in addresses.into_iter().take(ADDRESSES) {
        let cause = match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let nodelay = stream.set_nodelay(true);
                return nodelay
                    .map(|()| stream)
                    .map_err(|error| fail(error.to_string()));
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {share:?}"),
        };
        causes.push(if count > 1 {
            format!("{address}: {cause}")
        } else {
            cause
        });
    }
    if causes.is_empty() {
        causes.push("its name has no address".to_owned());
    }
    Err(fail(causes.join("; ")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::net::TcpListener;

    use super::*;

    async fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        (listener, addr)
    }

    /// Nobody listens there.
    async fn closed() -> SocketAddr {
        listening().await.1
    }

    #[tokio::test]
    async fn the_name_is_resolved_for_every_connection() {
        let (_first, at_first) = listening().await;
        let (_second, at_second) = listening().await;
        let source: Source = "redis://moves.example:7".parse().unwrap();
        let asked = AtomicUsize::new(0);
        let resolve = |host: String, port| {
            assert_eq!((host.as_str(), port), ("moves.example", 7));
            let at = [at_first, at_second, at_first]
                .get(asked.fetch_add(1, Ordering::Relaxed))
                .copied();
            std::future::ready(Ok(Vec::from_iter(at)))
        };
        for wanted in [at_first, at_second, at_first] {
            let stream = dial(&source, resolve).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), wanted);
        }
        let error = dial(&source, resolve).await.unwrap_err().to_string();
        assert!(error.contains("its name has no address"), "{error}");
    }

    #[tokio::test]
    async fn each_address_of_a_name_is_tried() {
        let (_there, at) = listening().await;
        let (away, gone) = (closed().await, closed().await);
        let source: Source = "redis://several.example".parse().unwrap();
        let several = |_, _| std::future::ready(Ok(vec![away, gone, at]));
        assert_eq!(
            dial(&source, several).await.unwrap().peer_addr().unwrap(),
            at
        );
        let none = |_, _| std::future::ready(Ok(vec![away, gone]));
        let error = dial(&source, none).await.unwrap_err().to_string();
        for address in [away, gone] {
            assert!(
                error.contains(&format!("{address}: Connection refused")),
                "{error}"
            );
        }
    }

    /// An address that swallows packets, like that of a pod that is gone: its queue of connections is full, and nobody
    /// takes any.
    #[tokio::test]
    async fn an_address_without_an_answer_does_not_use_up_the_time_of_the_next() {
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let silent = silent.listen(1).unwrap();
        let swallows = silent.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(connected) =
            timeout(Duration::from_millis(300), TcpStream::connect(swallows)).await
        {
            waiting.push(connected.unwrap());
        }
        let (_there, at) = listening().await;
        let source: Source = "redis://several.example".parse().unwrap();
        let several = |_, _| std::future::ready(Ok(vec![swallows, at]));
        assert_eq!(
            dial(&source, several).await.unwrap().peer_addr().unwrap(),
            at
        );
    }
}
