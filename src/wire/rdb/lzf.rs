//! LZF, as liblzf (and so every Redis and Valkey) writes it: decompression alone, as backfeed compresses nothing with it.
//!
//! Compressed bytes are a run of two kinds of items. The first byte, the control byte, says which (PROTOCOL.md D.3):
//! - `000LLLLL`: the next `LLLLL` + 1 bytes are copied as they are.
//! - `LLLOOOOO`, `LLL` ≥ 1: bytes of the output are repeated. If `LLL` is 7, a byte follows that is added to it. Another byte has
//!   the low 8 bits of the distance, `OOOOO` the high 5 bits. `LLL` + 2 bytes are repeated, from the distance + 1 before the end.
//!   They may reach into what they make: a distance of 1 repeats one byte.

/// A control byte below this says how many bytes follow as they are.
const LITERALS: u8 = 32;
/// With this length, the next byte is added to it.
const LONG: usize = 7;

/// The `original` bytes that `stored` stands for. None: it does not stand for so many bytes, or is damaged. The caller has checked that
/// `original` is not more than it wants in memory.
pub(super) fn decompress(stored: &[u8], original: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(original);
    let mut rest = stored;
    while let Some((&control, after)) = rest.split_first() {
        rest = if control < LITERALS {
            let (literals, after) = after.split_at_checked(usize::from(control).checked_add(1)?)?;
            room(&out, literals.len(), original)?;
            out.extend_from_slice(literals);
            after
        } else {
            repeat(control, after, &mut out, original)?
        };
    }
    (out.len() == original).then_some(out)
}

/// Repeats bytes of the output, and gives what follows the item.
fn repeat<'a>(
    control: u8,
    after: &'a [u8],
    out: &mut Vec<u8>,
    original: usize,
) -> Option<&'a [u8]> {
    let mut length = usize::from(control >> 5);
    let mut rest = after;
    if length == LONG {
        let (&more, after) = rest.split_first()?;
        length = length.checked_add(more.into())?;
        rest = after;
    }
    let length = length.checked_add(2)?;
    let (&low, rest) = rest.split_first()?;
    let distance = (usize::from(control & 0x1F) << 8 | usize::from(low)).checked_add(1)?;
    room(out, length, original)?;
    let from = out.len().checked_sub(distance)?;
    let mut left = length;
    while left > 0 {
        // What is there repeats itself: from the second time on, more of it can be copied at once.
        let end = out.len().min(from.checked_add(left)?);
        left = left.checked_sub(end.checked_sub(from)?)?;
        out.extend_from_within(from..end);
    }
    Some(rest)
}

/// Is there room for `more` bytes? The output never grows beyond what was said.
fn room(out: &[u8], more: usize, original: usize) -> Option<()> {
    (out.len().checked_add(more)? <= original).then_some(())
}

#[cfg(test)]
#[path = "lzf_tests.rs"]
mod tests;
