#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use bytes::Bytes;
use futures::TryStreamExt;

use super::*;
use crate::log::segment::{ClockBack, SegmentMeta, encode};
use crate::recovery::content::{LogForm, log};
use crate::recovery::plan;
use crate::recovery::testing::{Sample, at, feed, id};
use crate::wire::position::TimeMark;

/// A feed of several units, and the boundaries in it.
fn units() -> (Vec<u8>, Vec<u64>) {
    let units: [&[&str]; 6] = [
        &["SELECT 3"],
        &["SET a 1"],
        &["MULTI", "SET b 1", "SELECT 5", "SET c 1", "EXEC"],
        &["PING"],
        &["SET d 12345678901234567890"],
        &["DEL a"],
    ];
    let mut bytes = Vec::new();
    let mut ends = vec![1000];
    for unit in units {
        bytes.extend(feed(unit));
        ends.push(1000 + bytes.len() as u64);
    }
    (bytes, ends)
}

async fn bytes_of(sample: &Sample, plan: &Plan) -> Vec<u8> {
    let chunks: Vec<_> = log(&sample.archive, plan, LogForm::Raw)
        .try_collect()
        .await
        .unwrap();
    chunks.concat()
}

#[tokio::test]
async fn every_offset_ends_at_the_last_boundary_before_it_wherever_segments_are_cut() {
    let (bytes, ends) = units();
    let last = *ends.last().unwrap();
    for cuts in [vec![], vec![1030, 1100], (1001..last).step_by(7).collect()] {
        let sample = Sample::new("7.0.15").await;
        sample.history(id(1), None).await;
        sample.base(id(1), 1000, 0, 5).await;
        let end = sample.log(id(1), at(1000, 0), &bytes, &cuts).await;
        for goal in 1000..=last {
            let plan = sample
                .plan(id(1), RecoveryTarget::Offset(goal))
                .await
                .unwrap();
            let wanted = *ends.iter().rev().find(|end| **end <= goal).unwrap();
            assert_eq!(
                plan.end.offset,
                Offset(wanted),
                "goal {goal}, cuts {cuts:?}"
            );
            let length = usize::try_from(wanted - 1000).unwrap();
            assert_eq!(
                bytes_of(&sample, &plan).await,
                bytes[..length],
                "goal {goal}"
            );
            assert_eq!(plan.is_tip_end, wanted == last);
            assert_eq!(plan.bytes_log(), length as u64);
            let db = if wanted == 1000 {
                0
            } else if wanted < ends[3] {
                3
            } else {
                5
            };
            assert_eq!(plan.end.db, db, "goal {goal}");
        }
        let latest = sample.plan(id(1), RecoveryTarget::Latest).await.unwrap();
        assert_eq!(
            (latest.end, latest.is_tip_end, latest.stored_end),
            (end, true, Some(Offset(last)))
        );
    }
}

#[tokio::test]
async fn a_log_that_ends_within_a_transaction_is_restored_up_to_the_point_before_it() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    let within = ends[3] - 1;
    let length = usize::try_from(within - 1000).unwrap();
    sample
        .log(
            id(1),
            at(1000, 0),
            &bytes[..length],
            &[ends[2] + 3, ends[2] + 20],
        )
        .await;
    let plan = sample.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(plan.end, at(ends[2], 3));
    assert!(plan.is_tip_end, "it is the last safe point");
    assert_eq!(
        plan.stored_end,
        Some(Offset(within)),
        "a seal stands behind what is stored"
    );
}

#[tokio::test]
async fn a_time_means_what_had_been_received_by_then() {
    let (bytes, ends) = units();
    let last = *ends.last().unwrap();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 9_000).await;
    sample
        .log(id(1), at(1000, 0), &bytes, &ends[1..ends.len() - 1])
        .await;
    // in the sample, byte n is received at n * 10 ms
    for goal in 1000..=last {
        let time = i64::try_from(goal).unwrap() * 10 + 9;
        let plan = sample
            .plan(id(1), RecoveryTarget::AtUnixMs(time))
            .await
            .unwrap();
        let wanted = *ends.iter().rev().find(|end| **end <= goal).unwrap();
        assert_eq!(plan.end.offset, Offset(wanted), "byte {goal}");
        if wanted > 1000 {
            assert_eq!(plan.end_unix_ms, Some(i64::try_from(wanted).unwrap() * 10));
        }
    }
    let plan = sample
        .plan(id(1), RecoveryTarget::AtUnixMs(9_500))
        .await
        .unwrap();
    assert_eq!(
        plan.end.offset,
        Offset(1000),
        "the snapshot existed by then"
    );
    let later = sample
        .plan(id(1), RecoveryTarget::AtUnixMs(i64::MAX))
        .await
        .unwrap();
    assert!(later.is_tip_end);
    let error = sample
        .plan(id(1), RecoveryTarget::AtUnixMs(8_999))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RecoveryError::BeforeOldest { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("offset 1000"), "{error}");
}

/// The clock was set ahead at the moment when the server got a new id, and is set right in the middle of the new history.
#[tokio::test]
async fn a_time_between_the_marks_of_a_parent_and_those_of_a_clock_that_was_ahead_is_refused() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 9_000).await;
    let parent = &bytes[..usize::try_from(ends[1] - 1000).unwrap()];
    let mut at = sample.log(id(1), at(1000, 0), parent, &[]).await;
    sample.history(id(2), Some((id(1), ends[1]))).await;
    let right_ms = i64::try_from(ends[1]).unwrap() * 10;
    let (ahead_ms, back_ms) = (right_ms + 18_000_000, right_ms + 60_000);
    for (end, back) in [(ends[2], None), (ends[3], Some(back_ms))] {
        let part =
            usize::try_from(at.offset.0 - 1000).unwrap()..usize::try_from(end - 1000).unwrap();
        let end = Boundary {
            offset: Offset(end),
            ..at
        };
        let meta = SegmentMeta {
            clock_back: back.map(|ms| ClockBack {
                to_unix_ms: ms,
                now_unix_ms: ms,
            }),
            history: id(2),
            start: at.offset,
            end: end.offset,
            db_at_start: at.db,
            starts_at_boundary: true,
            boundary: Some(end),
            marks: vec![TimeMark {
                unix_ms: ahead_ms,
                offset: end.offset,
            }],
            writer: "test".into(),
        };
        let (header, body) = encode(meta, &[Bytes::copy_from_slice(&bytes[part])], 1).unwrap();
        sample.archive.put(&header, body).await.unwrap();
        at = end;
    }
    let before = RecoveryTarget::AtUnixMs(right_ms - 1);
    let plan = sample.plan(id(2), before).await.unwrap();
    assert_eq!(plan.end.offset, Offset(1000));
    for time in [right_ms, back_ms - 1, back_ms, ahead_ms - 1] {
        let error = sample
            .plan(id(2), RecoveryTarget::AtUnixMs(time))
            .await
            .unwrap_err();
        let is_it = matches!(error, RecoveryError::ClockWentBack(_));
        assert!(is_it, "{time}: {error}");
        let named = format!("between {} and {}", ends[1], ends[3]);
        assert!(
            time >= back_ms || error.to_string().contains(&named),
            "{error}"
        );
    }
}

/// The clock is two days ahead. Meanwhile it goes back by two seconds, and comes to its last time again; then it is set right.
#[tokio::test]
async fn a_short_way_back_of_a_clock_does_not_hide_a_long_one() {
    const RIGHT_MS: i64 = 10_000;
    const AHEAD_MS: i64 = RIGHT_MS + 172_800_000;
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 9_000).await;
    let back_ms = RIGHT_MS + 60_000;
    let segments = [
        (RIGHT_MS, None),
        (AHEAD_MS, None),
        (AHEAD_MS, Some(AHEAD_MS - 2_000)),
        (AHEAD_MS + 1_000, None),
        (AHEAD_MS + 1_000, Some(back_ms)),
    ];
    for (range, (unix_ms, back)) in ends.windows(2).zip(segments) {
        let (start, end) = (Offset(range[0]), at(range[1], 0));
        let meta = SegmentMeta {
            clock_back: back.map(|ms| ClockBack {
                to_unix_ms: ms,
                now_unix_ms: ms,
            }),
            history: id(1),
            start,
            end: end.offset,
            db_at_start: 0,
            starts_at_boundary: true,
            boundary: Some(end),
            marks: vec![TimeMark {
                unix_ms,
                offset: end.offset,
            }],
            writer: "test".into(),
        };
        let part = [range[0], range[1]].map(|at| usize::try_from(at - 1000).unwrap());
        let part = Bytes::copy_from_slice(&bytes[part[0]..part[1]]);
        let (header, body) = encode(meta, &[part], 1).unwrap();
        sample.archive.put(&header, body).await.unwrap();
    }
    for time in [RIGHT_MS, RIGHT_MS + 30_000, back_ms, AHEAD_MS - 1] {
        let error = sample
            .plan(id(1), RecoveryTarget::AtUnixMs(time))
            .await
            .unwrap_err();
        let is_it = matches!(error, RecoveryError::ClockWentBack(_));
        assert!(is_it, "{time}: {error}");
    }
    let before = RecoveryTarget::AtUnixMs(RIGHT_MS - 1);
    let plan = sample.plan(id(1), before).await.unwrap();
    assert_eq!(plan.end.offset, Offset(1000));
}

#[tokio::test]
async fn goals_outside_of_what_is_stored_are_errors() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    let error = sample
        .plan(id(1), RecoveryTarget::Latest)
        .await
        .unwrap_err();
    assert!(
        matches!(error, RecoveryError::NothingToRestore { .. }),
        "{error}"
    );
    sample.base(id(1), 1000, 0, 5).await;
    sample.log(id(1), at(1000, 0), &bytes, &[]).await;
    let error = sample
        .plan(id(1), RecoveryTarget::Offset(999))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RecoveryError::BeforeOldest { .. }),
        "{error}"
    );
    let error = sample
        .plan(id(1), RecoveryTarget::Offset(ends[6] + 1))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RecoveryError::AfterLatest { .. }),
        "{error}"
    );
    assert!(
        sample.plan(id(2), RecoveryTarget::Latest).await.is_err(),
        "no such history"
    );
}

#[tokio::test]
async fn a_gap_before_the_goal_is_named_and_a_newer_base_steps_over_it() {
    let (bytes, ends) = units();
    let cuts = &ends[1..ends.len() - 1];
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    let missing = ends[2] + 1;
    sample
        .log_with_holes(id(1), at(1000, 0), &bytes, cuts, |first| first != missing)
        .await;
    // What lies beyond was stored after it, so something was lost: that is not where the log ends.
    let error = sample
        .plan(id(1), RecoveryTarget::Latest)
        .await
        .unwrap_err();
    assert!(matches!(error, RecoveryError::Gap { .. }), "{error}");

    sample.base(id(1), ends[4], 5, 50_000).await;
    let plan = sample.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(
        (plan.base.offset, plan.end.offset),
        (Offset(ends[4]), Offset(ends[6]))
    );
    assert!(plan.is_tip_end);
    // Between them, the gap is in the way.
    let goal = RecoveryTarget::Offset(ends[3]);
    let error = sample.plan(id(1), goal).await.unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, RecoveryError::Gap { .. }) && error.is_damage(),
        "{text}"
    );
    assert!(
        text.contains(&format!("byte {missing} is missing")),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "Ask for offset {}, the last one before the gap",
            ends[2]
        )),
        "{text}"
    );
}

#[tokio::test]
async fn what_a_full_sync_stepped_over_is_not_there_and_no_damage() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    let before = usize::try_from(ends[2] - 1000).unwrap();
    sample.log(id(1), at(1000, 0), &bytes[..before], &[]).await;
    sample.base(id(1), ends[4], 5, 50_000).await;
    let bridged = sample.archive.bridged_end(id(1), "next").await.unwrap();
    assert_eq!(bridged, Some(Offset(ends[4])));
    // The base was listed before it was there, the log after that was bridged.
    let after = sample.archive.catalog().await.unwrap();
    let mut listed = after.clone();
    let bases = &mut listed.histories.get_mut(&id(1)).unwrap().bases;
    assert_eq!(bases.len(), 2);
    bases.pop();
    for goal in [RecoveryTarget::Latest, RecoveryTarget::Offset(ends[4])] {
        let none_bad = BadBases::new();
        let planned = plan(&sample.archive, &listed, id(1), goal, &none_bad).await;
        assert_eq!(planned.unwrap().end.offset, Offset(ends[4]));
    }
    for goal in [ends[2] + 1, ends[3], ends[4] - 1] {
        let error = sample
            .plan(id(1), RecoveryTarget::Offset(goal))
            .await
            .unwrap_err();
        let text = error.to_string();
        assert!(error.is_refusal() && !error.is_damage(), "{text}");
        for part in [
            format!("offset {goal} cannot be restored"),
            format!("after {}:{} up to offset {}", id(1), ends[2], ends[4]),
            format!("Ask for offset {}", ends[2]),
        ] {
            assert!(text.contains(&part), "{part}: {text}");
        }
    }
    for (recovery_target, end) in [
        (RecoveryTarget::Offset(ends[2]), ends[2]),
        (RecoveryTarget::Offset(ends[4]), ends[4]),
        (RecoveryTarget::Latest, ends[4]),
    ] {
        let plan = sample.plan(id(1), recovery_target).await.unwrap();
        assert_eq!(plan.end.offset, Offset(end), "{recovery_target:?}");
    }
}

#[tokio::test]
async fn without_a_damaged_base_the_same_end_is_reached_or_it_is_an_error() {
    let (bytes, ends) = units();
    let cuts = &ends[1..ends.len() - 1];
    for hole in [false, true] {
        let sample = Sample::new("7.0.15").await;
        sample.history(id(1), None).await;
        sample.base(id(1), 1000, 0, 5).await;
        sample.base(id(1), ends[4], 5, 6).await;
        let missing = ends[2] + 1;
        sample
            .log_with_holes(id(1), at(1000, 0), &bytes, cuts, |first| {
                !hole || first != missing
            })
            .await;
        let catalog = sample.archive.catalog().await.unwrap();
        let bad = BadBases::from([((id(1), Offset(ends[4])), "it is truncated".to_owned())]);
        let planned = plan(
            &sample.archive,
            &catalog,
            id(1),
            RecoveryTarget::Latest,
            &bad,
        )
        .await;
        if hole {
            let error = planned.unwrap_err();
            assert!(
                matches!(error, RecoveryError::Gap { .. }),
                "never a silent early end: {error}"
            );
        } else {
            let plan = planned.unwrap();
            assert_eq!(
                (plan.base.offset, plan.end.offset),
                (Offset(1000), Offset(ends[6]))
            );
            assert!(
                plan.notes[0].contains("it is truncated"),
                "{:?}",
                plan.notes
            );
        }
        let bad = [1000, ends[4]].map(|offset| ((id(1), Offset(offset)), "is gone".to_owned()));
        let planned = plan(
            &sample.archive,
            &catalog,
            id(1),
            RecoveryTarget::Latest,
            &bad.into(),
        )
        .await;
        assert!(matches!(
            planned.unwrap_err(),
            RecoveryError::NoSoundBase { .. }
        ));
    }
}

#[tokio::test]
async fn a_history_is_restored_from_its_ancestors_snapshot_and_log() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    // The child left at the third boundary; the parent's own log went on for a while.
    let left = ends[3];
    let upto_left = usize::try_from(left - 1000).unwrap();
    sample
        .log(id(1), at(1000, 0), &bytes, &[ends[2], left + 4])
        .await;
    sample.history(id(2), Some((id(1), left))).await;

    let nothing_yet = sample.plan(id(2), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(
        nothing_yet.end_position,
        Position {
            history: id(2),
            offset: Offset(left)
        }
    );
    assert!(nothing_yet.is_tip_end);

    let branch = feed(&["SELECT 1", "SET other 1"]);
    let end = sample.log(id(2), at(left, 5), &branch, &[]).await;
    let plan = sample.plan(id(2), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(
        plan.end_position,
        Position {
            history: id(2),
            offset: end.offset
        }
    );
    assert_eq!(
        bytes_of(&sample, &plan).await,
        [&bytes[..upto_left], &branch].concat()
    );
    assert!(plan.is_tip_end);

    // A point before the fork belongs to the ancestor, and cannot be continued.
    let plan = sample
        .plan(id(2), RecoveryTarget::Offset(ends[2]))
        .await
        .unwrap();
    assert_eq!(
        plan.end_position,
        Position {
            history: id(1),
            offset: Offset(ends[2])
        }
    );
    assert_eq!((plan.is_tip_end, plan.stored_end), (false, None));

    // A base of the ancestor beyond the fork is not on the way.
    sample.base(id(1), ends[4], 5, 6).await;
    let plan = sample.plan(id(2), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(plan.base.offset, Offset(1000));
    // One of the child is the newest.
    sample.base(id(2), end.offset.0, 1, 7).await;
    let plan = sample.plan(id(2), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(
        (plan.base.history, plan.base.offset, plan.pieces.len()),
        (id(2), end.offset, 0)
    );
}

#[tokio::test]
async fn a_hole_in_an_ancestors_log_is_never_an_early_end() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    sample.history(id(2), Some((id(1), ends[3]))).await;
    let upto = usize::try_from(ends[2] - 1000).unwrap();
    sample.log(id(1), at(1000, 0), &bytes[..upto], &[]).await;
    sample
        .log(id(2), at(ends[3], 5), &feed(&["SET x 1"]), &[])
        .await;
    for recovery_target in [
        RecoveryTarget::Latest,
        RecoveryTarget::Offset(ends[3]),
        RecoveryTarget::AtUnixMs(i64::MAX),
    ] {
        let error = sample.plan(id(2), recovery_target).await.unwrap_err();
        assert!(
            matches!(error, RecoveryError::Gap { history, .. } if history == id(1)),
            "{error}"
        );
    }
    assert!(
        sample
            .plan(id(2), RecoveryTarget::Offset(ends[2]))
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn an_ancestor_that_was_listed_before_it_was_left_is_followed_to_that_point() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    let cuts = &ends[1..ends.len() - 1];
    sample.log(id(1), at(1000, 0), &bytes, cuts).await;
    sample.history(id(2), Some((id(1), ends[3]))).await;
    let branch = at(ends[3], 5);
    let end = sample.log(id(2), branch, &feed(&["SET x 1"]), &[]).await;
    let mut catalog = sample.archive.catalog().await.unwrap();
    let listed = &mut catalog.histories.get_mut(&id(1)).unwrap().log;
    listed.truncate(1);
    let none_bad = BadBases::new();
    let planned = plan(
        &sample.archive,
        &catalog,
        id(2),
        RecoveryTarget::Latest,
        &none_bad,
    )
    .await;
    let planned = planned.unwrap();
    assert_eq!(planned.end, end);
    assert_eq!(planned.pieces.len(), 4);
}

#[tokio::test]
async fn the_log_of_an_old_server_is_known_as_such() {
    let (bytes, _) = units();
    for (version, relative) in [("6.2.16", true), ("7.0.15", false)] {
        let sample = Sample::new(version).await;
        sample.history(id(1), None).await;
        sample.base(id(1), 1000, 0, 5).await;
        sample.log(id(1), at(1000, 0), &bytes, &[]).await;
        assert_eq!(
            sample
                .plan(id(1), RecoveryTarget::Latest)
                .await
                .unwrap()
                .relative_ttls,
            relative
        );
        let snapshot_alone = sample
            .plan(id(1), RecoveryTarget::Offset(1000))
            .await
            .unwrap();
        assert!(
            !snapshot_alone.relative_ttls,
            "a snapshot has absolute times"
        );
    }
}

#[tokio::test]
async fn a_seal_ends_the_log_whatever_snapshot_lies_beyond() {
    let (bytes, ends) = units();
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    let cuts = &ends[1..ends.len() - 1];
    let sealed_at = Offset(ends[3]);
    sample
        .log_with_holes(id(1), at(1000, 0), &bytes, cuts, |first| first <= ends[3])
        .await;
    sample
        .archive
        .seal(id(1), sealed_at, "test", "test", 1)
        .await
        .unwrap();
    // The snapshot of a writer that finds the seal when it joins the log to it.
    sample.base(id(1), ends[5], 0, 6).await;
    for recovery_target in [RecoveryTarget::Latest, RecoveryTarget::AtUnixMs(i64::MAX)] {
        let plan = sample.plan(id(1), recovery_target).await.unwrap();
        assert_eq!(
            (plan.end.offset, plan.is_tip_end),
            (sealed_at, true),
            "{recovery_target}"
        );
    }
    let error = sample
        .plan(id(1), RecoveryTarget::Offset(ends[4]))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RecoveryError::AfterLatest { .. }),
        "{error}"
    );
}
