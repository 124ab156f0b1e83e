#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use std::time::Duration;

use super::*;
use crate::archive::{FLOOR_GRACE_MS, GRACE_MS, Name};
use crate::config::KEEP_SUPERSEDED;
use crate::expiry::{HoldError, HoldRequest, add_hold};
use crate::recovery::testing::{Sample, at, feed, id};
use crate::recovery::{Plan as RestorePlan, RecoveryError, RecoveryTarget};

pub(in crate::expiry) const HOUR: i64 = 3_600_000;
/// Bytes of a command of [`sample`].
pub(in crate::expiry) const UNIT: u64 = 27;

/// Twelve commands, in a segment each, and a base before every third one. A byte was received 10 ms after the one before.
pub(in crate::expiry) async fn sample() -> Sample {
    let sample = Sample::new("7.0.15").await;
    // Not before the times that the log and the bases say.
    sample.store.set_clock(Some(4000));
    sample.history(id(1), None).await;
    let commands: Vec<String> = (0..12).map(|n| format!("SET a {}", n % 10)).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let bytes = feed(&commands);
    assert_eq!(bytes.len() as u64, 12 * UNIT);
    for n in [0, 3, 6, 9] {
        let offset = n * UNIT;
        sample.base(id(1), offset, 0, offset as i64 * 10).await;
    }
    let cuts: Vec<u64> = (1..12).map(|n| n * UNIT).collect();
    sample.log(id(1), at(0, 0), &bytes, &cuts).await;
    sample
}

/// The same, with a seal at its end.
pub(in crate::expiry) async fn sample_with_seal() -> Sample {
    let sample = sample().await;
    let end = Offset(12 * UNIT);
    let sealed = sample.archive.seal(id(1), end, "test", "test", 0).await;
    sealed.unwrap();
    sample
}

pub(in crate::expiry) fn request(hours: i64) -> Request {
    Request {
        policy: KeepPolicy {
            // From command 6 on.
            points: Duration::from_secs(1),
            daily: 0,
            weekly: 0,
            monthly: 0,
            superseded: KEEP_SUPERSEDED,
        },
        service: None,
        confirm: true,
        writer: "test".to_owned(),
        now_unix_ms: hours * HOUR,
    }
}

/// A run so many hours after everything was created.
pub(in crate::expiry) async fn run_at(sample: &Sample, hours: i64) -> Result<Report, ExpireError> {
    sample.store.set_clock(Some(hours * HOUR));
    expire(&sample.archive, &request(hours), &()).await
}

pub(in crate::expiry) async fn plan(
    sample: &Sample,
    unit: u64,
) -> Result<RestorePlan, RecoveryError> {
    sample
        .plan(id(1), RecoveryTarget::Offset(unit * UNIT))
        .await
}

/// Of bases and segments, which are there: the commands that they stand before.
pub(in crate::expiry) fn there(sample: &Sample) -> (Vec<u64>, Vec<u64>) {
    let (mut bases, mut log) = (Vec::new(), Vec::new());
    for name in sample.store.names() {
        match Name::parse(&name) {
            Some(Name::BaseData(at)) => bases.push(at.offset.0 / UNIT),
            Some(Name::Log { first_byte, .. }) => log.push(first_byte / UNIT),
            _ => {}
        }
    }
    (bases, log)
}

fn all() -> (Vec<u64>, Vec<u64>) {
    (vec![0, 3, 6, 9], (0..12).collect())
}

#[tokio::test]
async fn what_expires_is_deleted_a_day_later() {
    let sample = sample().await;
    let first = run_at(&sample, 1).await.unwrap();
    let expiry = Expiry {
        history: id(1),
        before: Offset(6 * UNIT),
        lost: false,
        snapshots: BTreeSet::new(),
    };
    assert_eq!((first.expires, first.goes.len()), (vec![expiry.clone()], 0));
    assert_eq!(there(&sample), all());
    // It can still be restored by whoever names it.
    let below = plan(&sample, 4).await.unwrap();
    assert_eq!(below.base.offset, Offset(3 * UNIT));
    assert!(below.notes[0].contains("not promised"), "{:?}", below.notes);
    assert!(plan(&sample, 6).await.unwrap().notes.is_empty());
    let early = run_at(&sample, 24).await.unwrap();
    assert_eq!((early.expires.len(), early.goes.len()), (0, 0));
    assert_eq!(there(&sample), all());
    let done = run_at(&sample, 25).await.unwrap();
    assert_eq!(done.goes, [expiry]);
    assert_eq!(there(&sample), (vec![6, 9], (6..12).collect()));
    // Data and manifests of two bases, and six segments.
    assert_eq!((done.deleted.objects, done.deleted.denied), (4 + 6, 0));
    for unit in 6..=12 {
        let plan = plan(&sample, unit).await.unwrap();
        assert_eq!(plan.end.offset, Offset(unit * UNIT));
    }
    for recovery_target in [
        RecoveryTarget::Offset(4 * UNIT),
        RecoveryTarget::Offset(0),
        RecoveryTarget::AtUnixMs(1000),
    ] {
        let error = sample.plan(id(1), recovery_target).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, RecoveryError::Expired { .. }), "{text}");
        assert!(text.contains("has expired: the oldest point") && text.contains("offset 162"));
    }
    // The last point before the time; its mark went with the log.
    let by_time = sample
        .plan(id(1), RecoveryTarget::AtUnixMs(1621))
        .await
        .unwrap();
    assert_eq!(by_time.end.offset, Offset(6 * UNIT));
    let latest = sample.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(latest.end.offset, Offset(12 * UNIT));
    // There is nothing more to do.
    let again = run_at(&sample, 26).await.unwrap();
    assert_eq!((again.expires.len(), again.goes.len()), (0, 0));
}

#[tokio::test]
async fn without_being_confirmed_nothing_is_changed() {
    let sample = sample().await;
    sample.store.set_clock(Some(HOUR));
    let before = sample.store.names();
    let plan = Request {
        confirm: false,
        ..request(1)
    };
    let report = expire(&sample.archive, &plan, &()).await.unwrap();
    assert_eq!(
        (report.expires.len(), report.oldest),
        (1, Some(position(6)))
    );
    assert_eq!(sample.store.names(), before);
}

pub(in crate::expiry) fn position(unit: u64) -> Position {
    Position {
        history: id(1),
        offset: Offset(unit * UNIT),
    }
}

pub(in crate::expiry) fn hold(name: &str, unit: u64) -> HoldRequest {
    HoldRequest {
        name: name.parse().unwrap(),
        history: None,
        recovery_target: RecoveryTarget::Offset(unit * UNIT),
        writer: "test".to_owned(),
        now_unix_ms: 0,
    }
}

#[tokio::test]
async fn a_hold_keeps_its_point_until_it_is_removed() {
    let sample = sample().await;
    run_at(&sample, 1).await.unwrap();
    // After the floor, and before anything is deleted.
    sample.store.set_clock(Some(20 * HOUR));
    let held = add_hold(&sample.archive, &hold("one", 4), &())
        .await
        .unwrap();
    assert_eq!((held.point, held.base), (position(4), position(3)));
    let again = add_hold(&sample.archive, &hold("one", 5), &()).await;
    assert!(matches!(again, Err(HoldError::Exists(_))));
    let report = run_at(&sample, 25).await.unwrap();
    assert_eq!(report.holds, 1);
    assert_eq!(there(&sample), (vec![3, 6, 9], (3..12).collect()));
    assert!(plan(&sample, 4).await.unwrap().notes.is_empty());
    assert!(plan(&sample, 2).await.is_err());
    // What it keeps may be held once more.
    add_hold(&sample.archive, &hold("two", 5), &())
        .await
        .unwrap();
    for name in ["one", "two"] {
        let name_of_it = name.parse().unwrap();
        sample.archive.remove_hold(name_of_it).await.unwrap();
        run_at(&sample, 26).await.unwrap();
        let stays = if name == "one" { 3 } else { 6 };
        assert_eq!(there(&sample).1, (stays..12).collect::<Vec<u64>>());
    }
}

#[tokio::test]
async fn a_hold_that_could_come_too_late_is_refused() {
    let sample = sample().await;
    run_at(&sample, 1).await.unwrap();
    sample.store.set_clock(Some(24 * HOUR));
    let late = add_hold(&sample.archive, &hold("one", 4), &()).await;
    assert!(matches!(late, Err(HoldError::TooLate(_))), "{late:?}");
    assert!(sample.archive.all_holds().await.unwrap().is_empty());
    add_hold(&sample.archive, &hold("one", 7), &())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_child_that_hangs_below_the_floor_keeps_what_it_needs() {
    let sample = sample().await;
    run_at(&sample, 1).await.unwrap();
    sample.history(id(2), Some((id(1), 4 * UNIT))).await;
    // Which of both is the latest is not clear, until one is named by who wrote it.
    sample.store.set_clock(Some(25 * HOUR));
    run_at(&sample, 25).await.unwrap();
    assert_eq!(there(&sample), (vec![3, 6, 9], (3..12).collect()));
    let plan = sample.plan(id(2), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(plan.end.offset, Offset(4 * UNIT));
}

#[tokio::test]
async fn a_base_alone_is_used_for_its_own_point_only() {
    let sample = sample().await;
    let doc = FloorDoc {
        as_of_unix_ms: 1620,
        alone: [Offset(3 * UNIT)].into(),
        tip: position(12),
        ..FloorDoc::at_base(position(6))
    };
    sample.archive.create_floor(&doc).await.unwrap();
    let report = run_at(&sample, 25).await.unwrap();
    assert_eq!(report.goes.len(), 1);
    assert_eq!(there(&sample), (vec![3, 6, 9], (6..12).collect()));
    assert_eq!(plan(&sample, 3).await.unwrap().end.offset, Offset(3 * UNIT));
    for recovery_target in [
        RecoveryTarget::Offset(3 * UNIT + 1),
        RecoveryTarget::AtUnixMs(1500),
    ] {
        let error = sample.plan(id(1), recovery_target).await.unwrap_err();
        assert!(matches!(error, RecoveryError::Expired { .. }), "{error}");
        assert!(error.to_string().contains("`offset:81`"), "{error}");
    }
    // A sleeper's object right after it is followed by nobody.
    let stale = there(&sample);
    let bytes = feed(&["SET x 1"]);
    sample.log(id(1), at(3 * UNIT, 0), &bytes, &[]).await;
    assert_ne!(there(&sample), stale);
    assert!(plan(&sample, 4).await.is_err());
}

#[tokio::test]
async fn where_something_is_wrong_nothing_expires() {
    let check = async |sample: &Sample, hours: i64, own: i64, says: &str| {
        sample.store.set_clock(Some(hours * HOUR));
        let before = sample.store.names();
        let request = request(own);
        let error = expire(&sample.archive, &request, &()).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("nothing expires") && text.contains(says),
            "{text}"
        );
        assert_eq!(sample.store.names(), before);
    };
    let whole = sample().await;
    check(&whole, 1, 3, "the clocks differ").await;
    check(&whole, 3, 1, "the clocks differ").await;
    // The base that would become the oldest one is damaged.
    let damaged = sample().await;
    let base = Name::BaseData(position(6)).to_string();
    damaged.store.corrupt(&base, 40, 1);
    check(&damaged, 1, 1, "is not sound").await;
    // Another line that could be the latest.
    let two = sample().await;
    two.history(id(2), None).await;
    two.base(id(2), 100, 0, 0).await;
    check(&two, 1, 1, "several histories").await;
    let unreadable = sample().await;
    let manifest = Name::BaseManifest(position(9)).to_string();
    unreadable.store.put(&manifest, "damaged");
    check(&unreadable, 1, 1, "cannot be read").await;
    // A gap.
    let gap = sample().await;
    let segment = Name::Log {
        history: id(1),
        first_byte: 11 * UNIT + 1,
    };
    gap.store.corrupt(&segment.to_string(), 30, 1);
    check(&gap, 1, 1, "cannot be read").await;
}

#[tokio::test]
async fn the_base_that_stays_is_looked_at_again_before_anything_is_deleted() {
    let sample = sample().await;
    run_at(&sample, 1).await.unwrap();
    sample
        .store
        .remove(&Name::BaseData(position(6)).to_string());
    let report = run_at(&sample, 25).await.unwrap();
    assert_eq!(report.deleted.objects, 0, "{report:?}");
    assert!(
        report
            .notes
            .iter()
            .any(|note| note.contains("is not there"))
    );
    assert!(plan(&sample, 4).await.is_ok());
}

#[tokio::test]
async fn floors_follow_one_another_and_each_run_deletes_below_those_that_are_old() {
    let sample = sample().await;
    let mut policy = request(0);
    for (hours, seconds, log) in [(1, 2, 0), (20, 1, 0), (25, 1, 3), (44, 1, 6)] {
        sample.store.set_clock(Some(hours * HOUR));
        policy.policy.points = Duration::from_secs(seconds);
        policy.now_unix_ms = hours * HOUR;
        expire(&sample.archive, &policy, &()).await.unwrap();
        assert_eq!(there(&sample).1[0], log, "{hours}");
    }
    let floors = sample.archive.floors(id(1)).await.unwrap();
    assert_eq!(floors.iter().count(), 1);
    const { assert!(GRACE_MS < FLOOR_GRACE_MS) };
}

#[tokio::test]
async fn a_base_behind_the_seal_does_not_become_the_oldest_one() {
    let sample = sample_with_seal().await;
    // A writer that did not know of the seal.
    let behind = 20 * UNIT;
    sample.base(id(1), behind, 0, 1700).await;
    let report = run_at(&sample, 1).await.unwrap();
    assert_eq!(report.oldest, Some(position(6)));
}

#[tokio::test]
async fn what_another_service_wrote_stays_however_old_it_is() {
    let sample = sample().await;
    let mut doc = sample.doc(id(2), None);
    doc.service = "another".to_owned();
    sample.archive.create_history(&doc).await.unwrap();
    sample.base(id(2), 100, 0, 0).await;
    // The base of the first one was verified long ago.
    let request = |hours: i64| Request {
        service: Some("test".to_owned()),
        policy: KeepPolicy {
            superseded: Duration::from_millis(1),
            ..request(hours).policy
        },
        ..request(hours)
    };
    for hours in [1, 26, 51, 76] {
        sample.store.set_clock(Some(hours * HOUR));
        let report = expire(&sample.archive, &request(hours), &()).await.unwrap();
        let of_other = report.expires.iter().chain(&report.goes);
        assert!(
            of_other.clone().all(|expiry| expiry.history == id(1)),
            "{report:?}"
        );
    }
    let plan = sample.plan(id(2), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(plan.base.offset, Offset(100));
}

#[tokio::test]
async fn what_is_left_of_a_history_that_expired_is_no_damage() {
    let sample = sample_with_seal().await;
    // Its child went on, and then that one's.
    for (n, bases) in [(2, &[][..]), (3, &[13, 15])] {
        let (from, upto) = (u64::from(n) + 10, u64::from(n) + 11);
        sample.history(id(n), Some((id(n - 1), from * UNIT))).await;
        let bytes = feed(&["SET b 1"]);
        sample.log(id(n), at(from * UNIT, 0), &bytes, &[]).await;
        if n == 2 {
            let end = Offset(upto * UNIT);
            let sealed = sample.archive.seal(id(n), end, "test", "test", 0).await;
            sealed.unwrap();
        }
        for base in bases {
            let offset = base * UNIT;
            if offset <= upto * UNIT {
                sample.base(id(n), offset, 0, offset as i64 * 10).await;
            }
        }
    }
    let mut request = request(1);
    request.policy.points = Duration::from_millis(1);
    for hours in [1, 26, 27] {
        request.now_unix_ms = hours * HOUR;
        sample.store.set_clock(Some(hours * HOUR));
        expire(&sample.archive, &request, &()).await.unwrap();
    }
    let catalog = sample.archive.catalog().await.unwrap();
    assert!(catalog.histories[&id(1)].bases.is_empty());
    for n in [1, 2] {
        assert_eq!(catalog.histories[&id(n)].log.len(), 1, "the seal");
        let end = sample.archive.log_end(&catalog, id(n)).await;
        assert!(
            matches!(end, Err(ArchiveError::NothingStored { .. })),
            "{end:?}"
        );
    }
    let request = verify::Request {
        history: None,
        deep: true,
        now_unix_ms: 0,
    };
    let report = verify::verify(&sample.archive, request, &()).await.unwrap();
    assert!(report.sound, "{report}");
}
