//! A second look at an RDB that was made of base and log, while it is sent: it is read as any RDB is, and must hold what
//! was counted when it was made. Otherwise it does not come to its end, and no server takes it.

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::oneshot;

use crate::rebuild::{Counts, RebuildError};
use crate::runtime::pipe::Interrupted;
use crate::wire::rdb::{Checksum, Walker};

type Chunks = BoxStream<'static, Result<Bytes, RebuildError>>;

/// The same RDB, and what it holds. An error is the last item where the two differ, or where it cannot be read.
pub(super) fn second_look(
    snapshot: Chunks,
    counted: oneshot::Receiver<Counts>,
) -> (Chunks, oneshot::Receiver<Counts>) {
    let (seen, counts) = oneshot::channel();
    let look = Look {
        snapshot,
        counted,
        seen,
        walker: Walker::new(),
    };
    let chunks = stream::unfold(Some(look), |look| async move {
        let mut look = look?;
        match look.snapshot.next().await {
            Some(Ok(chunk)) => match look.read(&chunk) {
                Ok(()) => Some((Ok(chunk), Some(look))),
                Err(error) => Some((Err(error), None)),
            },
            Some(Err(error)) => Some((Err(error), None)),
            None => look.end().await.err().map(|error| (Err(error), None)),
        }
    });
    (chunks.boxed(), counts)
}

struct Look {
    snapshot: Chunks,
    counted: oneshot::Receiver<Counts>,
    seen: oneshot::Sender<Counts>,
    walker: Walker,
}

impl Look {
    fn read(&mut self, chunk: &[u8]) -> Result<(), RebuildError> {
        let taken = self.walker.push(chunk);
        match taken.map_err(|error| RebuildError::Wrong(error.to_string()))? {
            taken if taken == chunk.len() => Ok(()),
            _ => Err(RebuildError::Wrong("it goes on after its end".to_owned())),
        }
    }

    async fn end(self) -> Result<(), RebuildError> {
        let counts = self.counted.await.map_err(|_| Interrupted)?;
        let summary = self.walker.summary();
        let wrong = |what: &str| Err(RebuildError::Wrong(what.to_owned()));
        if !self.walker.is_complete() || summary.checksum != Checksum::Verified {
            return wrong("it does not come to its end");
        }
        let databases = summary.databases.iter();
        let keys = databases.map(|(db, counts)| (*db, counts.keys));
        if !keys.filter(|(_, keys)| *keys > 0).eq(counts.keys.clone())
            || summary.functions != counts.libraries
        {
            return wrong("it does not hold what was counted");
        }
        // Nobody may be left to hear it.
        let _ = self.seen.send(counts);
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use futures::TryStreamExt;

    use super::*;
    use crate::wire::rdb::samples;

    async fn look(rdb: Vec<u8>, change: fn(&mut Counts)) -> Result<Counts, String> {
        let mut walker = Walker::new();
        let mut counts = Counts::default();
        if walker.push(&rdb).is_ok() {
            let summary = walker.summary();
            counts.libraries = summary.functions;
            let databases = summary.databases.iter();
            counts.keys = databases.map(|(db, counts)| (*db, counts.keys)).collect();
        }
        change(&mut counts);
        let (sender, counted) = oneshot::channel();
        sender.send(counts).unwrap();
        let pieces: Vec<_> = rdb.chunks(7).map(Bytes::copy_from_slice).map(Ok).collect();
        let (chunks, seen) = second_look(stream::iter(pieces).boxed(), counted);
        let read: Vec<Bytes> = chunks
            .try_collect()
            .await
            .map_err(|error| error.to_string())?;
        assert_eq!(read.concat(), rdb);
        seen.await.map_err(|_| "nothing was said".to_owned())
    }

    #[tokio::test]
    async fn what_differs_from_what_was_counted_does_not_come_to_its_end() {
        let rdb = samples::rich();
        let counts = look(rdb.clone(), |_| {}).await.unwrap();
        assert!(counts.keys.values().sum::<u64>() > 3);
        let more: [fn(&mut Counts); 2] = [
            |counts| {
                counts.keys.insert(9, 1);
            },
            |counts| counts.libraries += 1,
        ];
        for change in more {
            let error = look(rdb.clone(), change).await.unwrap_err();
            assert!(error.contains("what was counted"), "{error}");
        }
        let mut cut = rdb.clone();
        cut.truncate(rdb.len() - 9);
        let error = look(cut, |_| {}).await.unwrap_err();
        assert!(error.contains("wrong"), "{error}");
        let mut damaged = rdb.clone();
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let error = look(damaged, |_| {}).await.unwrap_err();
        assert!(error.contains("wrong"), "{error}");
    }
}
