//! The payload of a full sync: `$<length>` from a disk-based master, `$EOF:<mark>` from a diskless one (PROTOCOL.md
//! A.6).

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// Length of the mark of a diskless transfer.
pub const MARK_LEN: usize = 40;
/// The most that is held back, because it may be the beginning of the mark.
const HELD: usize = MARK_LEN - 1;

/// Where the payload ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Framing {
    /// This many bytes.
    Length(u64),
    /// At this mark, which does not belong to the payload.
    Mark([u8; MARK_LEN]),
}

impl Framing {
    /// Reads the payload's header line, without the leading `$`: `<length>` or `EOF:<40 bytes>`.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        if let Some(mark) = header.strip_prefix(b"EOF:") {
            return mark.try_into().ok().map(Self::Mark);
        }
        std::str::from_utf8(header)
            .ok()?
            .parse()
            .ok()
            .map(Self::Length)
    }

    /// The payload's header line, as [`Self::parse`] reads it: `$<length>` or `$EOF:<40 bytes>`, and its end.
    #[must_use]
    pub fn header(&self) -> Bytes {
        match self {
            Self::Length(length) => Bytes::from(format!("${length}\r\n")),
            Self::Mark(mark) => Bytes::from([b"$EOF:", &mark[..], b"\r\n"].concat()),
        }
    }
}

/// Splits a stream into payload and the rest.
#[derive(Debug)]
pub struct Splitter {
    framing: Framing,
    /// Bytes left of a payload of known length.
    left: u64,
    /// The last bytes of a marked payload: they may be the beginning of the mark. Shorter than it.
    held: BytesMut,
    ended: bool,
}

impl Splitter {
    /// A splitter at the first byte of the payload.
    #[must_use]
    pub fn new(framing: Framing) -> Self {
        let left = if let Framing::Length(len) = framing {
            len
        } else {
            0
        };
        let ended = framing == Framing::Length(0);
        Self {
            framing,
            left,
            held: BytesMut::new(),
            ended,
        }
    }

    /// Has the payload ended?
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// Bytes of the payload that are still missing, if the master said how many there are.
    #[must_use]
    pub fn remaining(&self) -> Option<u64> {
        matches!(self.framing, Framing::Length(_)).then_some(self.left)
    }

    /// Takes the next bytes. Hands payload to `payload`, and returns what follows it (empty unless it has ended).
    pub fn push(&mut self, mut chunk: Bytes, mut payload: impl FnMut(Bytes)) -> Bytes {
        if self.ended {
            return chunk;
        }
        match self.framing {
            Framing::Length(_) => {
                let take = usize::try_from(self.left)
                    .unwrap_or(usize::MAX)
                    .min(chunk.len());
                let part = chunk.split_to(take);
                self.left = self.left.saturating_sub(take as u64);
                self.ended = self.left == 0;
                if !part.is_empty() {
                    payload(part);
                }
                chunk
            }
            Framing::Mark(mark) => self.push_marked(&mark, chunk, payload),
        }
    }

    fn push_marked(
        &mut self,
        mark: &[u8; MARK_LEN],
        mut chunk: Bytes,
        mut payload: impl FnMut(Bytes),
    ) -> Bytes {
        // The seam: a mark that begins in the held bytes and ends in this chunk.
        let held = self.held.len();
        let mut seam = std::mem::take(&mut self.held);
        let lead = chunk.len().min(HELD);
        seam.extend_from_slice(chunk.get(..lead).unwrap_or_default());
        if let Some(at) = memmem::find(&seam, mark) {
            self.ended = true;
            let after = at.saturating_add(MARK_LEN).saturating_sub(held);
            emit(seam.split_to(at).freeze(), &mut payload);
            return chunk.split_off(after.min(chunk.len()));
        }
        if chunk.len() <= HELD {
            // `seam` is all there is: keep its end, let its beginning go.
            let go = seam.len().saturating_sub(HELD);
            emit(seam.split_to(go).freeze(), &mut payload);
            self.held = seam;
            return Bytes::new();
        }
        seam.truncate(held);
        emit(seam.freeze(), &mut payload);
        if let Some(at) = memmem::find(&chunk, mark) {
            self.ended = true;
            emit(chunk.split_to(at), &mut payload);
            return chunk.split_off(MARK_LEN.min(chunk.len()));
        }
        let go = chunk.len().saturating_sub(HELD);
        emit(chunk.split_to(go), &mut payload);
        self.held = BytesMut::from(&chunk[..]);
        Bytes::new()
    }
}

fn emit(part: Bytes, payload: &mut impl FnMut(Bytes)) {
    if !part.is_empty() {
        payload(part);
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(framing: &Framing, stream: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<u8>, bool) {
        let mut splitter = Splitter::new(framing.clone());
        let (mut payload, mut rest) = (Vec::new(), Vec::new());
        let mut at = 0;
        for cut in cuts.iter().copied().chain([stream.len()]) {
            let chunk = Bytes::copy_from_slice(&stream[at..cut]);
            rest.extend_from_slice(&splitter.push(chunk, |part| payload.extend_from_slice(&part)));
            at = cut;
        }
        (payload, rest, splitter.ended())
    }

    #[test]
    fn the_header_tells_the_framing() {
        assert_eq!(Framing::parse(b"123"), Some(Framing::Length(123)));
        assert_eq!(
            Framing::parse(&[b"EOF:", [b'a'; 40].as_slice()].concat()),
            Some(Framing::Mark([b'a'; 40]))
        );
        for framing in [Framing::Length(123), Framing::Mark([b'a'; 40])] {
            let header = framing.header();
            let line = header.strip_prefix(b"$").unwrap();
            let line = line.strip_suffix(b"\r\n").unwrap();
            assert_eq!(Framing::parse(line), Some(framing));
        }
        assert_eq!(Framing::parse(b"EOF:short"), None);
        assert_eq!(Framing::parse(b"-1"), None);
    }

    #[test]
    fn a_marked_payload_is_split_at_every_pair_of_offsets() {
        // A mark of one letter, in a payload that is full of near misses.
        let mark = [b'm'; MARK_LEN];
        let payload = [vec![b'm'; 39], b"x".to_vec(), vec![b'm'; 20], b"y".to_vec()].concat();
        let stream = [payload.clone(), mark.to_vec(), b"*1\r\n".to_vec()].concat();
        for first in 0..=stream.len() {
            for second in first..=stream.len() {
                let got = split(&Framing::Mark(mark), &stream, &[first, second]);
                assert_eq!(
                    got,
                    (payload.clone(), b"*1\r\n".to_vec(), true),
                    "{first} {second}"
                );
            }
        }
    }

    #[test]
    fn a_payload_cut_in_the_mark_has_not_ended() {
        let mark = [b'0'; MARK_LEN];
        let stream = [b"payload".as_slice(), &mark[..39]].concat();
        let (payload, rest, ended) = split(&Framing::Mark(mark), &stream, &[]);
        assert_eq!(
            (payload.as_slice(), rest.len(), ended),
            (&b"payload"[..], 0, false)
        );
    }

    proptest! {
        #[test]
        fn any_payload_comes_out_whole(
            payload in prop::collection::vec(any::<u8>(), 0..400),
            rest in prop::collection::vec(any::<u8>(), 0..60),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            marked in any::<bool>(),
        ) {
            let mark: [u8; MARK_LEN] = std::array::from_fn(|i| b"0123456789abcdef"[i * 7 % 16]);
            let (framing, middle) = if marked { (Framing::Mark(mark), mark.to_vec()) }
                else { (Framing::Length(payload.len() as u64), Vec::new()) };
            let stream = [payload.clone(), middle, rest.clone()].concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            prop_assert_eq!(split(&framing, &stream, &cuts), (payload, rest, true));
        }
    }
}
