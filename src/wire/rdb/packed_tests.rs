#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::*;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The blobs of PROTOCOL.md D.8, from real servers.
#[test]
fn blobs_of_real_servers() {
    use Element::{Int, Str};
    // Redis 8.6: RPUSH a 7 300; Redis 6.2 the same as a ziplist.
    let elements = vec![Str(b"a"), Int(7), Int(300)];
    let blob = hex("0f00000003008161020701c12c02ff");
    assert_eq!(listpack(&blob).unwrap(), elements);
    let blob = hex("140000000f000000030000016103f802c02c01ff");
    assert_eq!(ziplist(&blob).unwrap(), elements);
    let blob = hex("0200000003000000010002000300");
    assert_eq!(intset(&blob).unwrap(), [1, 2, 3]);
    let blob = b"\x02\x01a\x01\x00x\x02bc\x02\x01yz\x00\xff";
    assert_eq!(
        zipmap(blob).unwrap(),
        [(&b"a"[..], &b"x"[..]), (&b"bc"[..], &b"yz"[..])]
    );
}

#[test]
fn a_listpack_is_written_as_a_server_writes_it() {
    let mut writer = ListpackWriter::new();
    for element in [&b"a"[..], b"7", b"300"] {
        writer.push(element);
    }
    assert_eq!(writer.finish(), hex("0f00000003008161020701c12c02ff"));
    assert_eq!(ListpackWriter::new().finish(), hex("070000000000ff"));
}

#[test]
fn a_ziplist_is_written_as_a_server_reads_it() {
    use Element::{Int, Str};
    let long = [b'x'; 64];
    let mut writer = ZiplistWriter::new();
    for element in [&b"a"[..], b"7", b"-0", &long, b"-9223372036854775808", b""] {
        writer.push(element).unwrap();
    }
    assert_eq!(writer.push(&[b'x'; 201]), None);
    let blob = writer.finish();
    let wanted = [
        Str(b"a"),
        Int(7),
        Str(b"-0"),
        Str(&long),
        Int(i64::MIN),
        Str(b""),
    ];
    assert_eq!(ziplist(&blob).unwrap(), wanted);
    // The last element begins where the header says.
    assert_eq!(blob[4..8], (blob.len() as u32 - 3).to_le_bytes());
    assert_eq!(ZiplistWriter::new().finish(), hex("0b0000000a0000000000ff"));
}

proptest! {
    #[test]
    fn whatever_is_written_is_read_again(
        strings in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..100),
            prop::collection::vec(any::<u8>(), 4090..4100),
            any::<i64>().prop_map(|number| number.to_string().into_bytes()),
            (-70_000i64..70_000).prop_map(|number| number.to_string().into_bytes()),
        ], 0..40),
        long in prop::option::of(16_370usize..16_390),
    ) {
        let mut strings = strings;
        strings.extend(long.map(|length| vec![b'x'; length]));
        let mut writer = ListpackWriter::new();
        for string in &strings {
            writer.push(string);
        }
        prop_assert_eq!(writer.is_empty(), strings.is_empty());
        let length = writer.len();
        let blob = writer.finish();
        prop_assert_eq!(length, blob.len());
        let read: Vec<Box<[u8]>> = listpack(&blob).unwrap().iter().map(Element::to_bytes).collect();
        prop_assert_eq!(read, strings.into_iter().map(Vec::into_boxed_slice).collect::<Vec<_>>());
    }

    #[test]
    fn damage_is_an_error_or_other_elements_never_a_panic(
        mut blob in prop::collection::vec(any::<u8>(), 0..200),
        framed in any::<bool>(),
    ) {
        if framed && blob.len() > 4 {
            let length = (blob.len() as u32).to_le_bytes();
            blob[..4].copy_from_slice(&length);
        }
        let _ = listpack(&blob);
        let _ = ziplist(&blob);
        let _ = intset(&blob);
        let _ = zipmap(&blob);
    }
}

/// The count of 2 bytes cannot say them: 65535 means that they have to be counted.
#[test]
fn more_elements_than_the_count_can_say_are_counted() {
    for count in [65_534, 65_535, 65_536, 70_000] {
        let mut writer = ListpackWriter::new();
        // length, tail, count; each element: the length of the one before, and a small number.
        let mut zip = vec![0; 10];
        for number in 0..count {
            writer.push_int(number % 10);
            zip.extend([if number == 0 { 0 } else { 2 }, 0xF1 + (number % 10) as u8]);
        }
        zip.push(END);
        let length = zip.len() as u32;
        zip[..4].copy_from_slice(&length.to_le_bytes());
        let said = u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes();
        zip[8..10].copy_from_slice(&said);
        let blob = writer.finish();
        assert_eq!(blob[4..6], said, "{count}");
        let wanted: Vec<_> = (0..count).map(|number| Element::Int(number % 10)).collect();
        assert!(listpack(&blob).unwrap() == wanted, "{count}");
        assert!(ziplist(&zip).unwrap() == wanted, "{count}");
    }
}
