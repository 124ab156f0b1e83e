//! The network: connections that deliver in order, in pieces, late, or never, and that break.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{note, redis, with};
use crate::config::Source;
use crate::link::LinkError;
use crate::runtime::simulated::{below, between, current, once_in};

/// Bytes under way in one direction, at most.
const WINDOW: usize = 64 << 10;

/// How connections are at the moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Weather {
    /// Milliseconds that bytes take, at most.
    pub(crate) latency: u64,
    /// Bytes that arrive at once, at most.
    pub(crate) piece: usize,
}

/// One direction of a connection.
#[derive(Default)]
struct Half {
    under_way: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    last_arrival: Option<Instant>,
    closed: bool,
    broken: bool,
    /// Nothing arrives any more, and nobody is told.
    silent: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Half {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()]
            .into_iter()
            .flatten()
        {
            waker.wake();
        }
    }
}

type Shared = Arc<Mutex<Half>>;

fn lock(half: &Shared) -> MutexGuard<'_, Half> {
    half.lock().unwrap()
}

/// One end of a connection.
pub struct Wire {
    incoming: Shared,
    outgoing: Shared,
    weather: Weather,
    timer: Option<Pin<Box<Sleep>>>,
}

/// A connection, for those who break it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) node: usize,
    halves: [Shared; 2],
}

impl Connection {
    /// Both ends find it reset; what is under way is lost, or arrives before that.
    pub(crate) fn cut(&self, lose: bool) {
        for half in &self.halves {
            let mut half = lock(half);
            if lose {
                half.under_way.clear();
                half.broken = true;
            } else {
                half.closed = true;
            }
            half.wake();
        }
    }

    /// Nothing arrives any more.
    pub(crate) fn silence(&self) {
        for half in &self.halves {
            lock(half).silent = true;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.halves.iter().any(|half| {
            let half = lock(half);
            half.broken || half.closed
        })
    }
}

/// Two ends.
pub(crate) fn pair(node: usize, weather: Weather) -> (Wire, Wire, Connection) {
    let (one, two) = (Shared::default(), Shared::default());
    let end = |incoming: &Shared, outgoing: &Shared| Wire {
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        weather,
        timer: None,
    };
    let connection = Connection {
        node,
        halves: [one.clone(), two.clone()],
    };
    (end(&one, &two), end(&two, &one), connection)
}

/// Connects the current process to the server that stands behind the name for it.
pub(crate) async fn connect(source: &Source) -> Result<Wire, LinkError> {
    let fail = |cause: &str| LinkError::Connect {
        addr: source.addr(),
        cause: cause.to_owned(),
    };
    let process = current().map_or(String::new(), |process| process.name.clone());
    let weather = with(|sim| sim.weather);
    sleep(Duration::from_millis(below(weather.latency + 1))).await;
    if once_in(60) {
        return Err(fail("the simulation says so"));
    }
    let Some(node) = with(|sim| sim.node_for(&process)) else {
        return Err(fail("Connection refused"));
    };
    let (ours, theirs, connection) = pair(node, weather);
    with(|sim| {
        sim.connections.retain(|connection| !connection.is_over());
        sim.connections.push(connection);
    });
    note(|| format!("{process} connects to node {node}"));
    tokio::spawn(redis::serve(node, process, theirs));
    Ok(ours)
}

/// Where everybody is, seen from the same pod.
pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 50_000);

/// Ports that are open, by the group of processes that share a pod: how to connect to them.
pub(crate) type Ports = BTreeMap<String, (u64, mpsc::UnboundedSender<Wire>)>;

/// The port at which a sidecar listens in its pod.
#[derive(Debug)]
pub struct Port {
    group: String,
    number: u64,
    addr: SocketAddr,
    incoming: mpsc::UnboundedReceiver<Wire>,
}

impl Port {
    /// Of the current process. What an earlier one has opened is closed.
    pub(crate) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let process = current().map_or(String::new(), |process| process.name.clone());
        let group = process.split('.').next().unwrap_or_default().to_owned();
        let (sender, incoming) = mpsc::unbounded_channel();
        let number = with(|sim| {
            sim.ports_opened += 1;
            let number = sim.ports_opened;
            sim.ports.insert(group.clone(), (number, sender));
            number
        });
        Ok(Self {
            group,
            number,
            addr,
            incoming,
        })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) async fn next(&mut self) -> Wire {
        match self.incoming.recv().await {
            Some(wire) => wire,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        with(|sim| {
            let is_ours = |open: &(u64, _)| open.0 == self.number;
            if sim.ports.get(&self.group).is_some_and(is_ours) {
                sim.ports.remove(&self.group);
            }
        });
    }
}

/// Connects a server to the sidecar of its pod. None: nobody listens.
pub(crate) async fn knock(node: usize, group: &str) -> Option<(Wire, Connection)> {
    let weather = with(|sim| sim.weather);
    sleep(Duration::from_millis(below(weather.latency + 1))).await;
    if once_in(60) {
        return None;
    }
    let (ours, theirs, connection) = pair(node, weather);
    with(|sim| {
        let (_, port) = sim.ports.get(group)?;
        port.send(theirs).ok()?;
        sim.connections.retain(|connection| !connection.is_over());
        sim.connections.push(connection.clone());
        Some((ours, connection))
    })
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let wire = self.get_mut();
        loop {
            let arrives = {
                let mut half = lock(&wire.incoming);
                let half = &mut *half;
                let silent = half.silent;
                if half.broken {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                let now = Instant::now();
                match half.under_way.front_mut() {
                    Some((at, bytes)) if *at <= now && !silent => {
                        let most = bytes.len().min(buffer.remaining()).min(wire.weather.piece);
                        // All of it, as a rule; sometimes a byte or two.
                        let count = match below(8) {
                            0 if most > 1 => between(1, most as u64) as usize,
                            1 => most.min(between(1, 4) as usize),
                            _ => most,
                        };
                        buffer.put_slice(&bytes.split_to(count));
                        if bytes.is_empty() {
                            half.under_way.pop_front();
                        }
                        half.bytes -= count;
                        if let Some(writer) = half.writer.take() {
                            writer.wake();
                        }
                        return Poll::Ready(Ok(()));
                    }
                    None if half.closed => return Poll::Ready(Ok(())),
                    front => {
                        let arrives = front.map(|(at, _)| *at);
                        half.reader = Some(context.waker().clone());
                        arrives.filter(|_| !silent)
                    }
                }
            };
            let Some(arrives) = arrives else {
                return Poll::Pending;
            };
            let timer = wire
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(arrives)));
            if timer.deadline() != arrives {
                timer.as_mut().reset(arrives);
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            wire.timer = None;
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut half = lock(&self.outgoing);
        if half.broken || half.closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(half.bytes);
        if room == 0 {
            half.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let count = bytes.len().min(room);
        let now = Instant::now();
        let takes = Duration::from_millis(below(self.weather.latency + 1));
        let arrives = (now + takes).max(half.last_arrival.unwrap_or(now));
        half.last_arrival = Some(arrives);
        half.bytes += count;
        half.under_way
            .push_back((arrives, Bytes::copy_from_slice(&bytes[..count])));
        if let Some(reader) = half.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut half = lock(&self.outgoing);
        half.closed = true;
        half.wake();
        Poll::Ready(Ok(()))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for half in [&self.outgoing, &self.incoming] {
            let mut half = lock(half);
            half.closed = true;
            half.wake();
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a wire")
    }
}
