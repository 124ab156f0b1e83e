//! The last bytes of the log, in memory, for all replicas: each segment is read once, however many follow.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::line::Line;
use crate::wire::position::{Offset, ReplId};

/// What replicas may have, and the end of it.
#[derive(Debug)]
pub(super) struct Tail {
    line: watch::Sender<Option<Arc<Line>>>,
    bytes: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// The newest history of the line that has the last of them.
    tip: ReplId,
    /// By the offset before their first byte, without holes.
    chunks: BTreeMap<u64, Bytes>,
    /// The last byte.
    end: u64,
    held: usize,
    most: usize,
}

impl Tail {
    /// Holds `most` bytes, or one chunk if that has more.
    pub(super) fn new(most: usize) -> Self {
        Self {
            line: watch::Sender::new(None),
            bytes: Mutex::new(Kept {
                tip: ReplId::from_random([0; 20]),
                chunks: BTreeMap::new(),
                end: 0,
                held: 0,
                most,
            }),
        }
    }

    /// What replicas may have now.
    pub(super) fn line(&self) -> Option<Arc<Line>> {
        self.line.borrow().clone()
    }

    /// The same, each time that it changes.
    pub(super) fn lines(&self) -> watch::Receiver<Option<Arc<Line>>> {
        self.line.subscribe()
    }

    /// From now on replicas follow this.
    pub(super) fn follow(&self, line: Arc<Line>) {
        self.line.send_replace(Some(line));
    }

    /// The next bytes. Replicas get them with the next [`Self::follow`].
    pub(super) fn push(&self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let mut kept = self.kept();
        let length = bytes.len();
        let at = kept.end;
        kept.chunks.insert(at, bytes);
        kept.end = at.saturating_add(length as u64);
        kept.held = kept.held.saturating_add(length);
        while kept.held > kept.most && kept.chunks.len() > 1 {
            let Some((_, oldest)) = kept.chunks.pop_first() else {
                break;
            };
            kept.held = kept.held.saturating_sub(oldest.len());
        }
    }

    /// The next bytes are those of the line to `tip` after `at`. What was kept is forgotten if it does not lead there.
    pub(super) fn begin_at(&self, tip: ReplId, at: Offset) {
        let mut kept = self.kept();
        kept.tip = tip;
        if kept.end != at.0 {
            kept.chunks.clear();
            kept.held = 0;
            kept.end = at.0;
        }
    }

    /// Bytes of the line to `tip` after `at` and up to `upto`, as many as there are in one piece. None: they are not kept here, or
    /// another line is followed since.
    pub(super) fn read(&self, tip: ReplId, at: Offset, upto: Offset) -> Option<Bytes> {
        let kept = self.kept();
        if kept.tip != tip {
            return None;
        }
        let (start, chunk) = kept.chunks.range(..=at.0).next_back()?;
        let skip = usize::try_from(at.0.checked_sub(*start)?).ok()?;
        let wanted = usize::try_from(upto.0.checked_sub(at.0)?).unwrap_or(usize::MAX);
        let rest = chunk.len().checked_sub(skip)?.min(wanted);
        let end = skip.checked_add(rest)?;
        (rest > 0).then(|| chunk.slice(skip..end))
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(n: u8) -> ReplId {
        ReplId::from_random([n; 20])
    }

    fn read(tail: &Tail, at: u64, upto: u64) -> Option<Bytes> {
        tail.read(id(1), Offset(at), Offset(upto))
    }

    #[test]
    fn the_last_bytes_are_kept_and_older_ones_are_not() {
        let tail = Tail::new(10);
        tail.begin_at(id(1), Offset(100));
        tail.push(Bytes::from_static(b"abcdef"));
        tail.push(Bytes::from_static(b"ghi"));
        assert_eq!(read(&tail, 100, 200).unwrap(), "abcdef");
        assert_eq!(read(&tail, 104, 200).unwrap(), "ef");
        assert_eq!(read(&tail, 102, 104).unwrap(), "cd");
        assert_eq!(read(&tail, 106, 200).unwrap(), "ghi");
        assert_eq!(read(&tail, 109, 200), None);
        assert_eq!(read(&tail, 99, 200), None);
        tail.push(Bytes::from_static(b"jk"));
        assert_eq!(read(&tail, 100, 200), None);
        assert_eq!(read(&tail, 106, 200).unwrap(), "ghi");
        // A chunk that is too large for it stays until the next one comes.
        tail.push(Bytes::from(vec![b'x'; 20]));
        assert_eq!(read(&tail, 106, 200), None);
        assert_eq!(read(&tail, 111, 200).unwrap().len(), 20);
    }

    #[test]
    fn bytes_of_another_place_are_forgotten() {
        let tail = Tail::new(10);
        tail.begin_at(id(1), Offset(5));
        tail.push(Bytes::from_static(b"abc"));
        tail.begin_at(id(1), Offset(8));
        assert_eq!(read(&tail, 5, 8).unwrap(), "abc");
        tail.begin_at(id(1), Offset(7));
        assert_eq!(read(&tail, 5, 8), None);
        tail.push(Bytes::from_static(b"z"));
        assert_eq!(read(&tail, 7, 8).unwrap(), "z");
        // Who follows another line does not get these.
        assert_eq!(tail.read(id(2), Offset(7), Offset(8)), None);
    }
}
