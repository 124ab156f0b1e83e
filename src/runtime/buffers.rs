//! Buffers that are used again. The allocator keeps some memory for each thread. If several threads allocated large
//! buffers again and again, it would keep several times what is in use.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// No more buffers than this are kept: we never use that many at once.
const MOST_KEPT: usize = 16;
/// Longer ones are seldom, and not kept.
const LONGEST_KEPT: usize = 2 << 20;

/// Buffers that are not in use.
#[derive(Clone, Debug, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// An empty buffer with room for `length` bytes.
    #[must_use]
    pub fn take(&self, length: usize) -> Vec<u8> {
        let kept = self.kept().pop();
        let mut buffer = kept.unwrap_or_default();
        buffer.clear();
        buffer.reserve_exact(length);
        buffer
    }

    /// Bytes that return their buffer when nobody needs them any more.
    #[must_use]
    pub fn lend(&self, buffer: Vec<u8>) -> Bytes {
        if buffer.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(Lent {
            buffer,
            of: self.clone(),
        })
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut kept = self.kept();
        if kept.len() < MOST_KEPT && buffer.capacity() <= LONGEST_KEPT {
            kept.push(buffer);
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lent {
    buffer: Vec<u8>,
    of: Buffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.of.give_back(mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_user_is_done() {
        let buffers = Buffers::default();
        let mut buffer = buffers.take(1000);
        buffer.extend_from_slice(b"some bytes");
        let place = buffer.as_ptr();
        let bytes = buffers.lend(buffer);
        let part = bytes.slice(5..);
        drop(bytes);
        let other = buffers.take(1000);
        assert_ne!(other.as_ptr(), place, "still in use");
        assert_eq!(&part[..], b"bytes");
        drop(part);
        let again = buffers.take(1000);
        assert_eq!((again.as_ptr(), again.len()), (place, 0));
    }
}
