//! Connections that others open to us. Their number is limited, because each one takes a file descriptor, and without a
//! free one nothing can be stored. One that is too many replaces the oldest one: an honest client is done soon, and
//! clients that hang must not keep it out.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use crate::runtime;

/// Before the next try when a connection cannot be taken: there are no file descriptors, most likely, and at once there would be
/// none either.
const PAUSE: Duration = Duration::from_millis(100);

/// The tasks of such connections. Dropping it ends them all.
#[derive(Debug)]
pub struct ConnectionLimit {
    most: usize,
    connections: JoinSet<()>,
    oldest: VecDeque<AbortHandle>,
}

impl ConnectionLimit {
    /// A limit of `most` connections.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self {
            most,
            connections: JoinSet::new(),
            oldest: VecDeque::new(),
        }
    }

    /// Runs `connection` at the same time as the others.
    pub fn admit(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.connections.try_join_next().is_some() {}
        self.oldest.retain(|connection| !connection.is_finished());
        if self.oldest.len() >= self.most
            && let Some(connection) = self.oldest.pop_front()
        {
            connection.abort();
        }
        let task = runtime::spawn_into(&mut self.connections, connection);
        self.oldest.push_back(task);
    }

    /// Waits until all are over.
    pub async fn ended(mut self) {
        while self.connections.join_next().await.is_some() {}
    }
}

/// The next connection, however long it takes.
pub async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts itself for as long as it is there.
    struct Counted(Arc<AtomicUsize>);

    impl Counted {
        fn new(count: &Arc<AtomicUsize>) -> Self {
            count.fetch_add(1, Ordering::SeqCst);
            Self(Arc::clone(count))
        }
    }

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    #[tokio::test]
    async fn the_newest_are_there_and_no_more_than_so_many() {
        let (count, mut connections) = (Arc::default(), ConnectionLimit::new(3));
        let (told, mut said) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..10 {
            let (here, told) = (Counted::new(&count), told.clone());
            connections.admit(async move {
                let _here = here;
                let _ = told.send(number);
                std::future::pending().await
            });
            assert_eq!(said.recv().await, Some(number));
            tokio::task::yield_now().await;
            assert!(count.load(Ordering::SeqCst) <= 3);
        }
        assert_eq!(count.load(Ordering::SeqCst), 3);
        // Those that end by themselves make room without anybody having to go.
        let mut connections = ConnectionLimit::new(2);
        connections.admit(std::future::pending());
        for _ in 0..10 {
            connections.admit(async {});
            tokio::task::yield_now().await;
        }
        assert!(
            connections
                .oldest
                .front()
                .is_some_and(|oldest| !oldest.is_finished())
        );
    }
}
