//! Lines of a handshake: CRLF or a bare LF; empty ones are keepalives and are dropped (PROTOCOL.md A.1).

/// Longest line of a handshake that is taken: real ones are below 200 bytes, error texts below 1,000.
pub const MAX_LINE: usize = 4096;

/// A line that grew beyond [`MAX_LINE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLong;

/// Collects one line from any chunks.
#[derive(Debug, Default)]
pub struct LineReader {
    line: Vec<u8>,
}

impl LineReader {
    /// Takes bytes up to the end of the next non-empty line. Gives the line without its ending, if it is whole, and
    /// the number of bytes taken.
    ///
    /// # Errors
    /// [`TooLong`] when no line ends within [`MAX_LINE`] bytes.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(Option<Vec<u8>>, usize), TooLong> {
        let mut taken: usize = 0;
        for &byte in chunk {
            taken = taken.saturating_add(1);
            if byte != b'\n' {
                if self.line.len() >= MAX_LINE {
                    return Err(TooLong);
                }
                self.line.push(byte);
                continue;
            }
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            if !self.line.is_empty() {
                return Ok((Some(std::mem::take(&mut self.line)), taken));
            }
        }
        Ok((None, taken))
    }
}
