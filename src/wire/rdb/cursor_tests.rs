#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;

/// As an RDB has it: so many bytes `a`, compressed as well as LZF can: 3 bytes for 264.
fn compressed(original: usize) -> Vec<u8> {
    let mut stored = vec![0, b'a'];
    let mut left = original - 1;
    while left >= 264 {
        stored.extend([0xE0, 0xFF, 0]);
        left -= 264;
    }
    for _ in 0..left {
        stored.extend([0, b'a']);
    }
    let mut out = vec![0xC3];
    put_number(&mut out, stored.len() as u64);
    put_number(&mut out, original as u64);
    out.extend(stored);
    out
}

#[test]
fn what_lzf_compresses_best_is_read() {
    for original in [1 + 264, 64 << 20] {
        let bytes = compressed(original);
        let mut input = Cursor::new(&bytes);
        let string = input.string().unwrap();
        assert_eq!(string.len(), original);
        assert!(string.iter().all(|byte| *byte == b'a'));
        input.finish().unwrap();
    }
}

#[test]
fn what_claims_to_be_longer_than_it_can_be_or_may_be_is_refused() {
    // 2 bytes that claim to be 4 GiB.
    let mut claims = vec![0xC3, 2];
    put_number(&mut claims, 1 << 32);
    claims.extend([0, b'a']);
    assert!(Cursor::new(&claims).string().is_err());
    let bytes = compressed(10_000);
    assert!(Cursor::limited(&bytes, 10_000).string().is_ok());
    assert!(Cursor::limited(&bytes, 9_999).string().is_err());
    // A count of elements that the bytes cannot hold.
    let mut count = Vec::new();
    put_number(&mut count, u64::from(u32::MAX));
    assert!(Cursor::new(&count).count().is_err());
}

#[test]
fn an_lzf_string_that_is_shorter_than_it_says_is_refused() {
    // One byte as it is: the string `a`.
    for (claims, reads) in [(1, true), (2, false), (3, false)] {
        let bytes = [0xC3, 2, claims, 0, b'a'];
        assert_eq!(Cursor::new(&bytes).string().is_ok(), reads, "{claims}");
    }
}
