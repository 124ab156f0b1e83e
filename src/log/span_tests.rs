#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::*;
use crate::log::segment::{Entry, PayloadReader, decode_entry};
use crate::wire::position::{Boundary, ReplId};

const START: u64 = 1000;

fn meta(length: u64, marks: Vec<TimeMark>) -> SegmentMeta {
    SegmentMeta {
        clock_back: None,
        history: ReplId::from_random([7; 20]),
        start: Offset(START),
        end: Offset(START + length),
        db_at_start: 3,
        starts_at_boundary: true,
        boundary: Some(Boundary {
            offset: Offset(START + length),
            db: 4,
        }),
        marks,
        writer: "test".to_owned(),
    }
}

fn mark(unix_ms: i64, offset: u64) -> TimeMark {
    TimeMark {
        unix_ms,
        offset: Offset(offset),
    }
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 31 % 251) as u8).collect()
}

/// The object of a span of these bytes, pushed in pieces of this size.
fn span(raw: &[u8], size: usize, marks: Vec<TimeMark>) -> (SegmentHeader, Vec<u8>) {
    let mut payload = Vec::new();
    let mut encoder = SpanEncoder::new(1).unwrap();
    for piece in raw.chunks(size) {
        encoder
            .push(piece, &mut |frame| payload.extend_from_slice(&frame))
            .unwrap();
    }
    let meta = meta(raw.len() as u64, marks);
    let (header, frame) = encoder
        .finish(meta, &mut |frame| payload.extend_from_slice(&frame))
        .unwrap();
    (header, [&frame[..], &payload].concat())
}

fn whole(object: &[u8]) -> Result<Vec<u8>, SegmentError> {
    let (entry, length) = decode_entry(object)?.unwrap();
    let Entry::Segment(header) = entry else {
        unreachable!("it is no seal");
    };
    let mut reader = PayloadReader::new(&header, Buffers::default())?;
    let mut raw = Vec::new();
    reader.push(&object[length..], &mut |frame| {
        raw.extend_from_slice(&frame)
    })?;
    reader.finish()?;
    Ok(raw)
}

fn part(
    header: &SegmentHeader,
    object: &[u8],
    after: u64,
    upto: u64,
) -> Result<Vec<u8>, SegmentError> {
    let wanted = (Offset(after), Offset(upto));
    let (mut reader, range) = PartReader::new(header, wanted, Buffers::default())?.unwrap();
    let mut raw = Vec::new();
    for piece in object[range.start as usize..range.end as usize].chunks(70_000) {
        reader.push(piece, &mut |frame| raw.extend_from_slice(&frame))?;
    }
    reader.finish()?;
    Ok(raw)
}

#[test]
fn a_span_is_a_segment_and_each_part_of_it_can_be_read_alone() {
    const MIB: usize = FRAME_RAW_LIMIT;
    for length in [1, 5, MIB - 1, MIB, MIB + 1, 3 * MIB + 17] {
        let raw = bytes(length);
        let marks = vec![
            mark(1_700_000_000_000, START + 1),
            mark(1_700_000_000_107, START + 1),
        ];
        let (header, object) = span(&raw, 99_991, marks);
        assert_eq!(
            span(&raw, MIB * 7, header.meta.marks.clone()),
            (header.clone(), object.clone())
        );
        let (entry, _) = decode_entry(&object).unwrap().unwrap();
        assert_eq!(entry, Entry::Segment(header.clone()), "{length}");
        assert!(header.is_span() && !header.is_gap());
        assert_eq!(whole(&object).unwrap(), raw);
        // What a stock tool gives.
        assert_eq!(zstd::stream::decode_all(&object[..]).unwrap(), raw);
        let end = START + length as u64;
        let inner = [
            START,
            START + 1,
            START + MIB as u64,
            START + MIB as u64 + 5,
            end - 1,
            end,
        ];
        for after in inner {
            for upto in inner
                .into_iter()
                .filter(|upto| *upto > after && *upto <= end)
            {
                let wanted = &raw[(after - START) as usize..(upto - START) as usize];
                assert_eq!(part(&header, &object, after, upto).unwrap(), wanted);
            }
        }
        let none = PartReader::new(&header, (Offset(end), Offset(end + 9)), Buffers::default());
        assert!(none.unwrap().is_none(), "it has none of these bytes");
    }
}

#[test]
fn a_part_asks_for_its_own_frames_alone() {
    let raw = bytes(4 * FRAME_RAW_LIMIT);
    let (header, object) = span(&raw, 1 << 20, Vec::new());
    let third = START + 2 * FRAME_RAW_LIMIT as u64;
    let wanted = (Offset(third + 10), Offset(third + 20));
    let (_, range) = PartReader::new(&header, wanted, Buffers::default())
        .unwrap()
        .unwrap();
    assert_eq!(
        range.end - range.start,
        header.index.unwrap().frames[2].stored
    );
    assert!(range.end < object.len() as u64);
}

#[test]
fn a_frame_that_is_another_one_is_refused() {
    let (header, object) = span(&bytes(3 * FRAME_RAW_LIMIT), 1 << 20, Vec::new());
    let mut other = bytes(3 * FRAME_RAW_LIMIT);
    other.rotate_left(1);
    let (_, foreign) = span(&other, 1 << 20, Vec::new());
    let upto = START + 3 * FRAME_RAW_LIMIT as u64;
    assert!(part(&header, &object, START, upto).is_ok());
    let payload = header.index.as_ref().unwrap().payload_at as usize;
    // Right frames of zstd, and yet not these.
    let mixed = [&object[..payload], &foreign[payload..], &[0; 1000]].concat();
    assert!(part(&header, &mixed, START, upto).is_err());
    for at in [payload, payload + 9, object.len() - 1] {
        let mut damaged = object.clone();
        damaged[at] ^= 0x10;
        assert!(part(&header, &damaged, START, upto).is_err(), "{at}");
        assert!(whole(&damaged).is_err(), "{at}");
    }
    let cut = &object[..object.len() - 1];
    assert!(whole(cut).is_err());
}

#[test]
fn an_index_that_is_not_that_of_the_payload_is_refused() {
    let frame = |stored| Frame { stored, crc64: 0 };
    let mib = FRAME_RAW_LIMIT as u64;
    assert!(FrameIndex::new(0, vec![frame(3), frame(4)], mib + 1, 7).is_ok());
    for (frames, raw, stored) in [
        (vec![], 1, 0),
        (vec![frame(7)], mib + 1, 7),
        (vec![frame(3), frame(4)], mib, 7),
        (vec![frame(3), frame(4)], mib + 1, 8),
        (vec![frame(7), frame(0)], mib + 1, 7),
        (vec![frame(u64::MAX), frame(2)], mib + 1, 1),
    ] {
        assert!(FrameIndex::new(0, frames, raw, stored).is_err());
    }
    assert!(marks_of_numbers(&[1, 2], &[3]).is_err());
    assert!(marks_of_numbers(&[1, 2], &[u64::MAX, 1]).is_err());
}

proptest! {
    #[test]
    fn marks_come_back(times in prop::collection::vec(any::<i64>(), 0..20), steps in prop::collection::vec(0..1000_u64, 20)) {
        let mut offset = 0;
        let marks: Vec<TimeMark> = times.into_iter().zip(steps).map(|(time, step)| {
            offset += step;
            mark(time, offset)
        }).collect();
        let (times, offsets) = marks_to_numbers(&marks);
        prop_assert_eq!(marks_of_numbers(&times, &offsets).unwrap(), marks);
    }
}
