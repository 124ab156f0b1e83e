//! A string that LZF has compressed.

use backfeed::wire::rdb::cursor::{Cursor, put_number};

/// The first two bytes say how long it claims to be, the rest is compressed. It is as long as it claims, or refused.
pub fn check(data: &[u8]) {
    let Some((claim, stored)) = data.split_first_chunk::<2>() else {
        return;
    };
    let claimed = usize::from(u16::from_le_bytes(*claim));
    let mut string = vec![0xC3];
    put_number(&mut string, stored.len() as u64);
    put_number(&mut string, claimed as u64);
    string.extend_from_slice(stored);
    let mut cursor = Cursor::new(&string);
    if let Ok(read) = cursor.string() {
        assert_eq!(read.len(), claimed);
        assert!(cursor.rest().is_empty());
    }
}

/// What servers wrote: repetitions that are short, long, near and far, and reach into what they make.
pub fn seeds() -> Vec<Vec<u8>> {
    let seed = |original: u16, stored: &[u8]| [&original.to_le_bytes(), stored].concat();
    let mut far: Vec<u8> = vec![];
    for chunk in (0..=255).collect::<Vec<u8>>().chunks(32) {
        far.push(31);
        far.extend(chunk);
    }
    far.extend([0xE0, 0xF8, 0xFF]);
    vec![
        seed(100, &[1, b'a', b'a', 0xE0, 87, 0, 1, b'a', b'a']),
        seed(10, &[2, b'a', b'b', b'c', 0xA0, 2]),
        seed(256 + 257, &far),
    ]
}
