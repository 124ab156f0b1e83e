//! A connection to a server that can be listened in to, cut off, and led to another server.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used
)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

#[derive(Default)]
struct State {
    to: u16,
    /// The last `REPLCONF ACK` that a client sent.
    acked: Option<u64>,
    connections: Vec<TcpStream>,
}

/// As a service's address before its servers. Its threads end with their connections and with the process.
pub struct Proxy {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Proxy {
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let proxy = Self {
            port: listener.local_addr().expect("an address").port(),
            state: Arc::new(Mutex::new(State {
                to: port,
                ..State::default()
            })),
        };
        let state = Arc::clone(&proxy.state);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let _ = connect(client, &state);
            }
        });
        proxy
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// The last offset that was acknowledged.
    pub fn acked(&self) -> Option<u64> {
        lock(&self.state).acked
    }

    /// New connections go to `port`; those that are there end.
    pub fn lead_to(&self, port: u16) {
        let mut state = lock(&self.state);
        state.to = port;
        for connection in state.connections.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(client: TcpStream, state: &Arc<Mutex<State>>) -> std::io::Result<()> {
    let to = lock(state).to;
    let server = TcpStream::connect(("127.0.0.1", to))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let kept = [client.try_clone()?, server.try_clone()?];
    lock(state).connections.extend(kept);
    let (from_server, to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || copy(from_server, to_client, |_| {}));
    let state = Arc::clone(state);
    thread::spawn(move || {
        copy(client, server, |bytes| {
            if let Some(offset) = ack(bytes) {
                lock(&state).acked = Some(offset);
            }
        });
    });
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let (bytes, _) = buffer.split_at(count);
        look(bytes);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

/// The offset in the last of `*3 REPLCONF ACK <offset>`, which backfeed writes at once.
fn ack(bytes: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(bytes);
    let (_, after) = text.rsplit_once("\r\nACK\r\n")?;
    after.split("\r\n").nth(1)?.parse().ok()
}
