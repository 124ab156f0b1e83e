//! A bounded channel from one task to another, which says where its items end.
//!
//! A plain channel closes when its sender is dropped. This also happens when the task that sends is ended early. A
//! reader that took it for the end would have a part, and think that it had everything.

use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;

/// The task that sends has ended before its work was done. This happens when the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the task for this has ended early, as when the process ends")]
pub struct Interrupted;

/// Nobody receives any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Closed;

enum Sent<T> {
    Item(T),
    End,
}

/// Where items go in.
#[derive(Debug)]
pub(crate) struct Sender<T>(mpsc::Sender<Sent<T>>);

/// Where they come out, in the same order.
#[derive(Debug)]
pub(crate) struct Receiver<T>(mpsc::Receiver<Sent<T>>);

/// A pipe in which up to `ahead` items wait.
pub(crate) fn pipe<T>(ahead: usize) -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = mpsc::channel(ahead);
    (Sender(sender), Receiver(receiver))
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Waits for room, and sends.
    pub(crate) async fn send(&self, item: T) -> Result<(), Closed> {
        let sent = self.0.send(Sent::Item(item)).await;
        sent.map_err(|_| Closed)
    }

    /// The same, on a thread of its own.
    pub(crate) fn blocking_send(&self, item: T) -> Result<(), Closed> {
        let sent = self.0.blocking_send(Sent::Item(item));
        sent.map_err(|_| Closed)
    }

    /// That was all.
    pub(crate) async fn end(self) {
        // Nobody may be left to hear it.
        let _ = self.0.send(Sent::End).await;
    }

    /// The same, on a thread of its own.
    pub(crate) fn blocking_end(self) {
        let _ = self.0.blocking_send(Sent::End);
    }

    /// Does nobody receive any more?
    pub(crate) fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T> Receiver<T> {
    /// The next item. None: that was all.
    pub(crate) async fn next(&mut self) -> Result<Option<T>, Interrupted> {
        of(self.0.recv().await)
    }

    /// The same, on a thread of its own.
    pub(crate) fn blocking_next(&mut self) -> Result<Option<T>, Interrupted> {
        of(self.0.blocking_recv())
    }
}

fn of<T>(received: Option<Sent<T>>) -> Result<Option<T>, Interrupted> {
    match received {
        Some(Sent::Item(item)) => Ok(Some(item)),
        Some(Sent::End) => Ok(None),
        None => Err(Interrupted),
    }
}

impl<T, E> Receiver<Result<T, E>>
where
    T: Send + 'static,
    E: From<Interrupted> + Send + 'static,
{
    /// The items up to the end, or up to the first error.
    pub(crate) fn into_stream(self) -> BoxStream<'static, Result<T, E>> {
        let items = stream::unfold(Some(self), |receiver| async move {
            let mut receiver = receiver?;
            match receiver.next().await {
                Ok(Some(Ok(item))) => Some((Ok(item), Some(receiver))),
                Ok(Some(Err(error))) => Some((Err(error), None)),
                Ok(None) => None,
                Err(interrupted) => Some((Err(interrupted.into()), None)),
            }
        });
        items.fuse().boxed()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Failure {
        Early,
        Other,
    }

    impl From<Interrupted> for Failure {
        fn from(_: Interrupted) -> Self {
            Self::Early
        }
    }

    #[tokio::test]
    async fn only_a_sender_that_says_so_has_sent_everything() {
        let (sender, mut receiver) = pipe(3);
        sender.send(1).await.unwrap();
        sender.clone().end().await;
        assert_eq!(receiver.next().await, Ok(Some(1)));
        assert_eq!(receiver.next().await, Ok(None));
        drop(sender);

        let (sender, mut receiver) = pipe(3);
        sender.send(1).await.unwrap();
        drop(sender);
        assert_eq!(receiver.next().await, Ok(Some(1)));
        assert_eq!(receiver.next().await, Err(Interrupted));
    }

    #[tokio::test]
    async fn a_stream_ends_with_the_end_or_with_one_error() {
        let of = |sent: Vec<Result<u8, Failure>>, ends: bool| async move {
            let (sender, receiver) = pipe(8);
            for item in sent {
                sender.send(item).await.unwrap();
            }
            if ends {
                sender.end().await;
            } else {
                drop(sender);
            }
            receiver.into_stream().collect::<Vec<_>>().await
        };
        assert_eq!(of(vec![Ok(1), Ok(2)], true).await, [Ok(1), Ok(2)]);
        assert_eq!(
            of(vec![Ok(1)], false).await,
            [Ok(1), Err(Failure::Early)],
            "an end that nobody sent"
        );
        let failed = vec![Ok(1), Err(Failure::Other), Ok(2)];
        assert_eq!(of(failed, true).await, [Ok(1), Err(Failure::Other)]);
    }

    #[tokio::test]
    async fn a_thread_sends_to_a_task_until_that_is_gone() {
        let (sender, mut receiver) = pipe(1);
        let thread = tokio::task::spawn_blocking(move || {
            let mut sent = 0;
            while sender.blocking_send(sent).is_ok() {
                sent += 1;
            }
            assert!(sender.is_closed());
            sender.blocking_end();
        });
        for number in 0..10 {
            assert_eq!(receiver.next().await, Ok(Some(number)));
        }
        drop(receiver);
        thread.await.unwrap();
    }

    #[tokio::test]
    async fn a_task_sends_to_a_thread() {
        let (sender, mut receiver) = pipe(1);
        let thread = tokio::task::spawn_blocking(move || {
            let mut sum = 0;
            while let Some(number) = receiver.blocking_next().unwrap() {
                sum += number;
            }
            sum
        });
        for number in 0..10 {
            sender.send(number).await.unwrap();
        }
        sender.end().await;
        assert_eq!(thread.await.unwrap(), 45);
    }
}
