#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::*;
use crate::recovery::testing::id;

fn piece(number: u64) -> Piece {
    let meta = SegmentMeta {
        history: id(u8::try_from(number / 7).unwrap()),
        start: Offset(number * 10),
        end: Offset(number * 10 + 10),
        db_at_start: u32::try_from(number).unwrap(),
        starts_at_boundary: number.is_multiple_of(2),
        boundary: (!number.is_multiple_of(3)).then_some(Boundary {
            offset: Offset(number * 10 + 5),
            db: u32::MAX,
        }),
        marks: Vec::new(),
        clock_back: None,
        writer: String::new(),
    };
    Piece {
        header: SegmentHeader {
            meta,
            payload_crc64: u64::MAX - number,
            payload_stored: number << 40,
            stored_crc64: number,
            index: None,
        },
        has_marks: false,
        after: Offset(number * 10),
        upto: Offset(number * 10 + 10),
        relative_ttls: number.is_multiple_of(5),
    }
}

fn built(count: u64, no_file: bool) -> Pieces {
    let mut builder = Builder {
        no_file,
        ..Builder::default()
    };
    (0..count).for_each(|number| builder.push(&piece(number)));
    builder.build()
}

/// All but the marks of the first ones.
fn all(pieces: &Pieces) -> Vec<Piece> {
    let found: Result<Vec<Piece>, _> = pieces.iter().collect();
    let plain = |mut piece: Piece| {
        piece.has_marks = false;
        piece
    };
    found.unwrap().into_iter().map(plain).collect()
}

#[test]
fn what_is_kept_in_memory_and_in_the_file_comes_back() {
    // Around the border of the memory, and of blocks of the file.
    for count in 0..=(IN_MEMORY + 3 * BLOCK) as u64 {
        for no_file in [false, true] {
            let pieces = built(count, no_file);
            let wanted: Vec<Piece> = (0..count).map(piece).collect();
            assert_eq!(all(&pieces), wanted, "{count} {no_file}");
            assert_eq!(
                (pieces.len(), pieces.is_empty()),
                (wanted.len(), count == 0)
            );
            let in_memory = pieces.list.memory.len();
            assert!(no_file || in_memory <= IN_MEMORY, "{count}: {in_memory}");
            for from in 0..wanted.len() {
                let rest: Result<Vec<Piece>, _> = pieces.iter_from(from).collect();
                assert_eq!(rest.unwrap().len(), wanted.len() - from);
                assert_eq!(pieces.get(from).unwrap().after, wanted[from].after);
            }
            assert!(pieces.get(wanted.len()).is_err());
            assert_eq!(pieces.histories().count() as u64, count.div_ceil(7));
        }
    }
}

#[test]
fn a_list_without_room_for_its_file_stays_in_memory() {
    let mut builder = Builder::default();
    (0..IN_MEMORY as u64 + BLOCK as u64).for_each(|number| builder.push(&piece(number)));
    assert_eq!(builder.list.in_file, BLOCK);
    // The disk is full: a file that cannot be written.
    builder.list.file = Some(File::open("/dev/null").unwrap());
    let rest = IN_MEMORY as u64 + BLOCK as u64..IN_MEMORY as u64 + 4 * BLOCK as u64 + 1;
    rest.for_each(|number| builder.push(&piece(number)));
    let pieces = builder.build();
    assert!(pieces.list.memory.len() > IN_MEMORY);
    // What was in the file is lost with it, and this is an error, and no end.
    assert!(pieces.iter().any(|piece| piece.is_err()));
    let last = pieces.last().unwrap().unwrap();
    assert_eq!(last.after, piece(pieces.len() as u64 - 1).after);
}

#[test]
fn a_list_is_cut_at_its_end() {
    let whole = built(12, false);
    for end in 0..=125 {
        let mut cut = whole.clone();
        cut.trim(Offset(end)).unwrap();
        let mut wanted: Vec<Piece> = (0..12).map(piece).collect();
        wanted.retain(|piece| piece.after < Offset(end));
        if let Some(last) = wanted.last_mut() {
            last.upto = last.upto.min(Offset(end));
        }
        assert_eq!(all(&cut), wanted, "{end}");
    }
    assert_eq!(whole.len(), 12, "copies are cut apart");
}

#[test]
fn what_was_found_of_relative_ttls_counts_for_all() {
    let mut pieces = built(8, false);
    assert!(pieces.have_relative_ttls().unwrap());
    for found in [true, false] {
        pieces.set_relative_ttls(found);
        assert!(
            all(&pieces)
                .iter()
                .all(|piece| piece.relative_ttls == found)
        );
    }
}
