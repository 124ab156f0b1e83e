//! What expiry, holds and readers say is so, and stays so.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::run::tests::{
    HOUR, UNIT, hold, plan, position, request, run_at, sample, sample_with_seal, there,
};
use super::{HoldError, HoldRequest, add_hold, expire};
use crate::archive::{ArchiveError, FloorDoc, HoldDoc, Name};
use crate::log::segment::{SegmentMeta, encode};
use crate::recovery::testing::{Sample, at, feed, id};
use crate::recovery::{BadBases, RecoveryError, RecoveryTarget, look};
use crate::verify;
use crate::wire::position::{Offset, Position, TimeMark};

/// A floor, made at that hour.
async fn floor(sample: &Sample, hours: i64, history: u8, unit: u64, alone: &[u64]) -> FloorDoc {
    let base = Position {
        history: id(history),
        offset: Offset(unit * UNIT),
    };
    let doc = FloorDoc {
        alone: alone.iter().map(|unit| Offset(unit * UNIT)).collect(),
        ..FloorDoc::at_base(base)
    };
    sample.store.set_clock(Some(hours * HOUR));
    sample.archive.create_floor(&doc).await.unwrap();
    doc
}

async fn deep(sample: &Sample) -> verify::Report {
    let request = verify::Request {
        history: None,
        deep: true,
        now_unix_ms: 0,
    };
    verify::verify(&sample.archive, request, &()).await.unwrap()
}

fn segment(history: u8, unit: u64) -> String {
    let name = Name::Log {
        history: id(history),
        first_byte: unit * UNIT + 1,
    };
    name.to_string()
}

/// A child that left the first history at its end, with a log up to command 16, a base before command 15, and a floor there
/// from hour 0 on. The parent has no floor.
async fn with_floor_in_a_child() -> Sample {
    let sample = sample_with_seal().await;
    sample.history(id(2), Some((id(1), 12 * UNIT))).await;
    let bytes = feed(&["SET a 1", "SET a 2", "SET a 3", "SET a 4"]);
    let cuts: Vec<u64> = (13..16).map(|unit| unit * UNIT).collect();
    sample.log(id(2), at(12 * UNIT, 0), &bytes, &cuts).await;
    sample.base(id(2), 15 * UNIT, 0, 0).await;
    floor(&sample, 0, 2, 15, &[]).await;
    sample
}

fn in_child(name: &str, unit: u64) -> HoldRequest {
    HoldRequest {
        history: Some(id(2)),
        ..hold(name, unit)
    }
}

#[tokio::test]
async fn a_hold_is_too_late_in_whatever_history_what_it_needs_is_below_a_floor() {
    let sample = with_floor_in_a_child().await;
    sample.store.set_clock(Some(24 * HOUR));
    // Of the same base, and nothing of the child.
    add_hold(&sample.archive, &hold("parent", 11), &())
        .await
        .unwrap();
    let late = add_hold(&sample.archive, &in_child("late", 14), &()).await;
    assert!(matches!(late, Err(HoldError::TooLate(_))), "{late:?}");
    sample.store.set_clock(Some(HOUR));
    let held = add_hold(&sample.archive, &in_child("early", 14), &()).await;
    let held = held.unwrap();
    assert_eq!((held.base, held.log.len()), (position(9), 2));
    // What it keeps may be held once more.
    sample.store.set_clock(Some(24 * HOUR));
    add_hold(&sample.archive, &in_child("again", 13), &())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_point_below_the_floor_of_any_history_on_the_way_is_said_to_expire() {
    let sample = with_floor_in_a_child().await;
    for (unit, says) in [(14, true), (15, false)] {
        let recovery_target = RecoveryTarget::Offset(unit * UNIT);
        let looked = look(&sample.archive, Some(id(2)), None, recovery_target).await;
        let (catalog, history) = looked.unwrap();
        let bad = BadBases::new();
        let plan =
            crate::recovery::plan(&sample.archive, &catalog, history, recovery_target, &bad).await;
        let notes = plan.unwrap().notes.concat();
        assert_eq!(notes.contains("not promised"), says, "{unit}: {notes}");
    }
}

#[tokio::test]
async fn a_hold_begins_with_a_base_that_is_sound() {
    let sample = sample().await;
    let base = Name::BaseData(position(3)).to_string();
    sample.store.corrupt(&base, 40, 1);
    let held = add_hold(&sample.archive, &hold("one", 4), &()).await;
    let held = held.unwrap();
    assert_eq!((held.base, held.point), (position(0), position(4)));
    sample.store.truncate(&segment(1, 7), 200);
    let damaged = add_hold(&sample.archive, &hold("two", 8), &()).await;
    assert!(
        matches!(damaged, Err(HoldError::Recovery(_))),
        "{damaged:?}"
    );
    assert_eq!(sample.archive.all_holds().await.unwrap(), [held]);
}

#[tokio::test]
async fn what_a_child_needs_below_a_floor_is_verified() {
    for (damage, sound) in [(None, true), (Some(3), false), (Some(2), true)] {
        let sample = sample().await;
        sample.history(id(2), Some((id(1), 4 * UNIT))).await;
        floor(&sample, 0, 1, 6, &[]).await;
        if let Some(unit) = damage {
            sample.store.remove(&segment(1, unit));
        }
        let report = deep(&sample).await;
        assert_eq!(report.sound, sound, "{damage:?} {report}");
    }
}

#[tokio::test]
async fn what_a_hold_needs_is_verified() {
    for (damage, says) in [
        (None, None),
        (Some(segment(1, 3)), Some("byte 82 of the log is missing")),
        (Some(segment(1, 2)), None),
        (
            Some(Name::BaseManifest(position(3)).to_string()),
            Some("needs this base, and it is not there"),
        ),
    ] {
        let sample = sample().await;
        add_hold(&sample.archive, &hold("one", 5), &())
            .await
            .unwrap();
        floor(&sample, 0, 1, 6, &[]).await;
        if let Some(object) = &damage {
            sample.store.remove(object);
        }
        let report = deep(&sample).await;
        assert_eq!(report.sound, says.is_none(), "{damage:?} {report}");
        let text = report.to_string();
        assert!(text.contains(says.unwrap_or("sound: ")), "{text}");
    }
}

#[tokio::test]
async fn another_base_in_the_place_of_what_is_held_or_promised_is_a_problem() {
    let sample = sample().await;
    let held = add_hold(&sample.archive, &hold("one", 5), &())
        .await
        .unwrap();
    run_at(&sample, 1).await.unwrap();
    assert!(deep(&sample).await.sound);
    // The same data, and a manifest that has other bytes.
    for unit in [3, 6] {
        let manifest = Name::BaseManifest(position(unit)).to_string();
        let stored = sample.store.object(&manifest).unwrap();
        let text = String::from_utf8(stored.to_vec()).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json["digest"]["raw"] = "another".into();
        sample.store.put(&manifest, json.to_string());
    }
    let text = deep(&sample).await.to_string();
    assert_eq!(text.matches("another one is in its place").count(), 2);
    // Nothing is deleted below such a base.
    let report = run_at(&sample, 26).await.unwrap();
    assert_eq!(report.deleted.objects, 0, "{report:?}");
    assert!(report.notes.concat().contains("not as it should be"));
    assert_eq!(sample.archive.all_holds().await.unwrap(), [held]);
}

#[tokio::test]
async fn what_is_not_deleted_is_not_said_to_be() {
    let sample = sample().await;
    run_at(&sample, 1).await.unwrap();
    let locked: Vec<String> = sample.store.names();
    for name in &locked {
        sample.store.lock(name, true);
    }
    let report = run_at(&sample, 25).await.unwrap();
    assert_eq!((report.goes.len(), report.deleted.objects), (0, 0));
    assert!(report.deleted.denied > 0);
    let notes = report.notes.concat();
    assert!(
        notes.contains("stays for now, because the store"),
        "{notes}"
    );
    for name in &locked {
        sample.store.unlock(name);
    }
    let report = run_at(&sample, 26).await.unwrap();
    assert_eq!((report.goes.len(), report.notes.len()), (1, 0));
}

#[tokio::test]
async fn what_is_held_is_not_said_to_go() {
    let sample = sample().await;
    add_hold(&sample.archive, &hold("one", 1), &())
        .await
        .unwrap();
    add_hold(&sample.archive, &hold("two", 4), &())
        .await
        .unwrap();
    run_at(&sample, 1).await.unwrap();
    for confirm in [false, true] {
        sample.store.set_clock(Some(25 * HOUR));
        let request = crate::expiry::Request {
            confirm,
            ..request(25)
        };
        let report = expire(&sample.archive, &request, &()).await.unwrap();
        assert_eq!((report.goes.len(), report.notes.len()), (0, 0));
    }
}

#[tokio::test]
async fn a_hold_on_a_base_alone_keeps_what_says_that_its_log_is_gone() {
    let sample = sample().await;
    floor(&sample, 0, 1, 6, &[3]).await;
    run_at(&sample, 25).await.unwrap();
    assert_eq!(there(&sample), (vec![3, 6, 9], (6..12).collect()));
    let held = add_hold(&sample.archive, &hold("own", 3), &()).await;
    assert_eq!(held.unwrap().log, []);
    floor(&sample, 25, 1, 9, &[]).await;
    run_at(&sample, 50).await.unwrap();
    let floors = sample.archive.floors(id(1)).await.unwrap();
    assert!(floors.is_alone(Offset(3 * UNIT)), "{floors:?}");
    assert!(plan(&sample, 3).await.unwrap().notes.is_empty());
    // A sleeper's object right after it is followed by nobody.
    let bytes = feed(&["SET x 1"]);
    sample.log(id(1), at(3 * UNIT, 0), &bytes, &[]).await;
    let error = plan(&sample, 4).await.unwrap_err();
    assert!(matches!(error, RecoveryError::Expired { .. }), "{error}");
    // Without the hold both go.
    sample
        .archive
        .remove_hold("own".parse().unwrap())
        .await
        .unwrap();
    run_at(&sample, 51).await.unwrap();
    assert_eq!(there(&sample).0, [9]);
    let floors = sample.archive.floors(id(1)).await.unwrap();
    assert_eq!(floors.iter().count(), 1);
}

#[tokio::test]
async fn bases_alone_that_a_higher_floor_does_not_name_go() {
    let sample = sample_with_seal().await;
    sample.history(id(2), Some((id(1), 12 * UNIT))).await;
    sample.base(id(2), 12 * UNIT, 0, 0).await;
    let of_child = floor(&sample, 0, 2, 12, &[]).await;
    for (hours, unit, alone) in [(0, 13, &[3, 6][..]), (25, 14, &[6])] {
        let doc = FloorDoc {
            history: id(1),
            offset: Offset(unit * UNIT),
            alone: alone.iter().map(|unit| Offset(unit * UNIT)).collect(),
            ..of_child.clone()
        };
        sample.store.set_clock(Some(hours * HOUR));
        sample.archive.create_floor(&doc).await.unwrap();
        let report = run_at(&sample, hours + 25).await.unwrap();
        let stay = [alone, &[12]].concat();
        assert_eq!(there(&sample), (stay, vec![12]), "{report:?}");
    }
}

/// Command 12, by a clock that says `unix_ms`. The store got it at `created`.
async fn late_segment(sample: &Sample, unix_ms: i64, created: i64) {
    let (start, bytes) = (Offset(12 * UNIT), feed(&["SET a 1"]));
    let end = start.plus(bytes.len() as u64);
    let meta = SegmentMeta {
        clock_back: None,
        history: id(1),
        start,
        end,
        db_at_start: 0,
        starts_at_boundary: true,
        boundary: Some(at(end.0, 0)),
        marks: vec![TimeMark {
            unix_ms,
            offset: end,
        }],
        writer: "test".into(),
    };
    let (header, body) = encode(meta, &[bytes.into()], 1).unwrap();
    sample.store.set_clock(Some(created));
    sample.archive.put(&header, body).await.unwrap();
}

#[tokio::test]
async fn a_time_in_the_future_counts_from_when_the_store_got_it() {
    let sample = sample().await;
    // It was stored by a clock that is a year ahead.
    let year = 365 * 24 * HOUR;
    late_segment(&sample, year, HOUR).await;
    sample.base(id(1), 13 * UNIT, 0, year).await;
    sample.store.set_clock(Some(2 * HOUR));
    let report = expire(&sample.archive, &request(2), &()).await.unwrap();
    assert_eq!(report.oldest, Some(position(9)), "{report:?}");
    assert!(report.notes.concat().contains("is in the future"));
    assert!(report.tip_unix_ms.unwrap() <= 2 * HOUR);
}

#[tokio::test]
async fn a_server_that_stopped_while_its_clock_was_ahead_never_ages_out() {
    let sample = sample().await;
    let year = 365 * 24 * HOUR;
    late_segment(&sample, year, 9 * HOUR).await;
    let mut request = request(100 * 24);
    request.policy.points = std::time::Duration::from_secs(10 * 3600);
    sample.store.set_clock(Some(100 * 24 * HOUR));
    let report = expire(&sample.archive, &request, &()).await.unwrap();
    assert_eq!((report.oldest, report.expires.len()), (None, 0));
}

#[tokio::test]
async fn the_floor_that_is_there_counts() {
    let sample = sample().await;
    floor(&sample, 0, 1, 6, &[3]).await;
    let doc = FloorDoc {
        alone: [].into(),
        ..floor(&sample, 0, 1, 6, &[0]).await
    };
    let counts = sample.archive.create_floor(&doc).await.unwrap();
    assert_eq!(counts.created, Some(0));
    assert_eq!(counts.doc.unwrap().alone, [Offset(3 * UNIT)].into());
}

#[tokio::test]
async fn a_hold_is_removed_from_a_store_that_says_no_times() {
    let sample = sample().await;
    add_hold(&sample.archive, &hold("one", 5), &())
        .await
        .unwrap();
    sample.store.set_clock(None);
    let deleter = sample.archive.deleter().await;
    assert!(matches!(deleter, Err(ArchiveError::Timeless { .. })));
    let removed = sample.archive.remove_hold("one".parse().unwrap()).await;
    assert_eq!(removed.unwrap().objects, 1);
    let left: Vec<HoldDoc> = sample.archive.all_holds().await.unwrap();
    assert_eq!(left, []);
}
