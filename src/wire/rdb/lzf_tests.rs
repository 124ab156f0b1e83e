#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::arithmetic_side_effects
)]

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::samples::hex;
use super::*;
use crate::wire::crc64::Crc64;

/// What Redis 8.0 makes of them (`DUMP`).
#[test]
fn what_servers_compress_is_read() {
    let cycle = "abcdefghijklmnopqrstuvwxyz0123456789-".repeat(20);
    for (stored, original) in [
        ("016161e05700016161", "a".repeat(100)),
        (
            "1574686520717569636b2062726f776e20666f782c2074e00914043b20544845e0042902646f67",
            "the quick brown fox, the quick brown fox; THE quick brown dog".to_owned(),
        ),
        (
            "1f6162636465666768696a6b6c6d6e6f707172737475767778797a30313233343505363738392d61e0ff24e1ff27e2a32a01392d",
            cycle,
        ),
    ] {
        let read = decompress(&hex(stored), original.len());
        assert_eq!(read.as_deref(), Some(original.as_bytes()));
    }
}

/// The crate that read these strings before this module did. See the file's header.
#[test]
fn what_another_reader_made_of_bytes_is_made_of_them() {
    let recorded = include_str!("lzf_recorded.txt");
    let (mut read, mut refused) = (0, 0);
    for line in recorded.lines().filter(|line| !line.starts_with('#')) {
        let [stored, claimed, wanted] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("not three words: {line}");
        };
        let result = decompress(&hex(stored), claimed.parse().unwrap());
        let found = result.map_or("-".to_owned(), |bytes| {
            format!("{:016x}", Crc64::of(&bytes))
        });
        assert_eq!(found, wanted, "{line}");
        *(if wanted == "-" {
            &mut refused
        } else {
            &mut read
        }) += 1;
    }
    assert_eq!((read, refused), (71, 230));
}

#[test]
fn what_is_damaged_is_refused() {
    for (damaged, what) in [
        (&[][..], "nothing"),
        (&[1, b'a'], "a literal is missing"),
        (&[0, b'a', 0x20], "the distance is missing"),
        (&[0, b'a', 0xE0], "the length is missing"),
        (
            &[0, b'a', 0xE0, 0],
            "the distance behind the length is missing",
        ),
        (&[0x20, 0], "it repeats what is before the beginning"),
        (&[0, b'a', 0x20, 1], "it repeats from before the beginning"),
        (
            &[3, b'a', b'b', b'c', b'd', 0, b'e'],
            "literals are too many",
        ),
        (&[0, b'a', 0x60, 0], "it repeats too much"),
        (&[2, b'a', b'b', b'c'], "it is too short"),
    ] {
        assert_eq!(decompress(damaged, 4), None, "{what}");
    }
    assert_eq!(decompress(&[0, b'a', 0x20, 0], 4).unwrap(), b"aaaa");
}

/// An item, and the compressed bytes that say it.
#[derive(Clone, Debug)]
enum Item {
    Literals(Vec<u8>),
    /// Length and distance. A distance is cut to what there is.
    Repeat(usize, usize),
}

fn items() -> impl Strategy<Value = Vec<Item>> {
    let literals = vec(any::<u8>(), 1..=32).prop_map(Item::Literals);
    let near =
        (3_usize..=264, 1_usize..=40).prop_map(|(length, distance)| Item::Repeat(length, distance));
    let far = (3_usize..=264, 1_usize..=8192)
        .prop_map(|(length, distance)| Item::Repeat(length, distance));
    vec(prop_oneof![literals, near, far], 0..60)
}

/// Compressed and original bytes, the latter made one by one.
fn written(items: &[Item]) -> (Vec<u8>, Vec<u8>) {
    let (mut stored, mut original) = (vec![], vec![]);
    for item in items {
        match item {
            Item::Literals(bytes) => {
                stored.push(bytes.len() as u8 - 1);
                stored.extend(bytes);
                original.extend(bytes);
            }
            Item::Repeat(..) if original.is_empty() => {}
            Item::Repeat(length, distance) => {
                let distance = *distance.min(&original.len());
                let high = ((distance - 1) >> 8) as u8;
                match length - 2 {
                    short @ 1..7 => stored.push((short as u8) << 5 | high),
                    long => stored.extend([0xE0 | high, (long - 7) as u8]),
                }
                stored.push((distance - 1) as u8);
                for _ in 0..*length {
                    original.push(original[original.len() - distance]);
                }
            }
        }
    }
    (stored, original)
}

proptest! {
    #[test]
    fn every_item_is_read_as_it_was_written(items in items()) {
        let (stored, original) = written(&items);
        prop_assert_eq!(decompress(&stored, original.len()), Some(original.clone()));
        prop_assert_eq!(decompress(&stored, original.len() + 1), None);
        if let Some(shorter) = original.len().checked_sub(1) {
            prop_assert_eq!(decompress(&stored, shorter), None);
        }
    }

    #[test]
    fn any_bytes_give_what_was_claimed_or_nothing(stored in vec(any::<u8>(), 0..300), claimed in 0_usize..1000) {
        if let Some(bytes) = decompress(&stored, claimed) {
            prop_assert_eq!(bytes.len(), claimed);
        }
    }
}
