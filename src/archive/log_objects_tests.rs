#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use proptest::prelude::*;

use super::*;

fn span(first: u64, last: u64) -> LogObject {
    LogObject::span(first, last).unwrap()
}

#[test]
fn of_the_spans_that_hold_a_byte_the_one_that_reaches_furthest_is_read() {
    let log = vec![1, 101, 201, 301, 401, 501, 551];
    let spans = vec![span(1, 400), span(1, 200), span(201, 500), span(201, 300)];
    let read = to_read(spans, log.clone());
    let wanted = [
        span(1, 400),
        span(201, 500),
        LogObject::segment(501),
        LogObject::segment(551),
    ];
    assert_eq!(read, wanted);
    let inside = to_read(vec![span(101, 300), span(201, 300)], log);
    let wanted = [1, 0, 301, 401, 501, 551].map(|first| match first {
        0 => span(101, 300),
        first => LogObject::segment(first),
    });
    assert_eq!(inside, wanted);
    assert_eq!(LogObject::span(5, 4), None);
    assert_eq!(LogObject::span(0, 0), None);
}

#[test]
fn what_no_span_has_is_listed() {
    let spans = [span(201, 300), span(11, 100), span(50, 120)];
    let holes = [(1, Some(11)), (121, Some(201)), (301, None)];
    assert_eq!(uncovered(1, &spans), holes);
    assert_eq!(uncovered(15, &spans), holes[1..]);
    assert_eq!(uncovered(7, &[]), [(7, None)]);
}

proptest! {
    #[test]
    fn every_byte_is_read_and_no_object_twice(
        pairs in prop::collection::vec((1..200_u64, 0..60_u64), 0..12),
        log in prop::collection::vec(1..260_u64, 0..30),
    ) {
        let spans: Vec<LogObject> = pairs.iter().map(|(first, more)| span(*first, first + more)).collect();
        let read = to_read(spans.clone(), log.clone());
        prop_assert!(read.is_sorted());
        let chosen: Vec<LogObject> = read.iter().copied().filter(|it| it.last().is_some()).collect();
        for byte in 1..300 {
            let of = |all: &[LogObject]| all.iter().any(|it| it.covers(byte));
            prop_assert_eq!(of(&spans), of(&chosen));
            let begins = read.iter().any(|it| it.last().is_none() && it.first() == byte);
            prop_assert_eq!(begins, log.contains(&byte) && !of(&spans));
        }
        // None could be left out.
        prop_assert!(chosen.windows(2).all(|two| two[0].last() < two[1].last() && two[0].first() < two[1].first()));
        prop_assert!(chosen.windows(3).all(|three| three[2].first() > three[0].last().unwrap() + 1));
        for hole in uncovered(1, &spans) {
            prop_assert!(hole.1.is_none_or(|end| hole.0 < end));
        }
    }
}
