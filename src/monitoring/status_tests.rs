#![allow(clippy::unwrap_used)]

use super::*;

fn at(history: u8, offset: u64) -> Position {
    Position {
        history: ReplId::from_random([history; 20]),
        offset: Offset(offset),
    }
}

#[test]
fn lag_is_what_was_received_and_not_stored_and_how_old_that_is() {
    let status = Status::new();
    status.phase(Phase::Following, "");
    assert_eq!(status.view_at(0).lag_bytes, None);
    status.stored(at(1, 100), 1_000);
    status.received(at(1, 100), 1_000);
    assert_eq!(
        (
            status.view_at(9_000).lag_bytes,
            status.view_at(9_000).lag_seconds
        ),
        (Some(0), 0.0)
    );

    status.received(at(1, 150), 10_000);
    status.received(at(1, 180), 12_000);
    let view = status.view_at(12_500);
    assert_eq!((view.lag_bytes, view.lag_seconds), (Some(80), 2.5));
    assert_eq!(
        (view.received_offset, view.stored_offset),
        (Some(180), Some(100))
    );

    status.stored(at(1, 150), 12_600);
    let view = status.view_at(13_000);
    assert_eq!((view.lag_bytes, view.lag_seconds), (Some(30), 1.0));
    status.stored(at(1, 180), 13_100);
    assert_eq!(
        (
            status.view_at(14_000).lag_bytes,
            status.view_at(14_000).lag_seconds
        ),
        (Some(0), 0.0)
    );
}

#[test]
fn pings_of_an_idle_server_are_no_lag() {
    let status = Status::new();
    status.phase(Phase::Following, "");
    status.stored(at(1, 100), 0);
    status.received(at(1, 114), 10_000);
    status.idle(Offset(114));
    let view = status.view_at(60_000);
    assert_eq!((view.lag_bytes, view.lag_seconds), (Some(0), 0.0));
    assert_eq!(
        (view.received_offset, view.stored_offset),
        (Some(114), Some(100))
    );
    status.received(at(1, 200), 60_000);
    let view = status.view_at(61_000);
    assert_eq!((view.lag_bytes, view.lag_seconds), (Some(86), 1.0));
}

#[test]
fn the_age_of_the_oldest_byte_is_kept_however_long_the_store_is_away() {
    let status = Status::new();
    status.phase(Phase::Following, "");
    status.stored(at(1, 0), 0);
    for second in 1..=5_000 {
        status.received(at(1, second), i64::try_from(second).unwrap() * 1_000);
    }
    assert!(status.view_at(5_001_000).lag_seconds > 4_999.0);
    status.stored(at(1, 5_000), 5_001_000);
    assert_eq!(status.view_at(5_001_000).lag_seconds, 0.0);
    // A clock that was put back makes no negative age.
    status.received(at(1, 5_001), 5_002_000);
    assert_eq!(status.view_at(0).lag_seconds, 0.0);
}

#[test]
fn bytes_that_will_be_sent_again_are_not_pending() {
    let status = Status::new();
    status.phase(Phase::Following, "");
    status.stored(at(1, 100), 0);
    status.received(at(1, 500), 1_000);
    status.received(at(1, 100), 60_000);
    assert_eq!(status.view_at(60_000).lag_seconds, 0.0);
    // Another history: nothing of it is stored, so there is no distance to tell.
    status.received(at(2, 100), 61_000);
    assert_eq!(status.view_at(61_000).lag_bytes, None);
}

#[test]
fn lag_grows_while_nobody_knows_what_the_server_writes() {
    let status = Status::new();
    status.phase(Phase::Following, "");
    status.received(at(1, 100), 10_000);
    status.stored(at(1, 100), 10_000);
    assert_eq!(status.view_at(70_000).lag_seconds, 0.0);
    status.phase(Phase::WaitingForRedis, "it is gone");
    assert_eq!(status.view_at(70_000).lag_seconds, 60.0);
    assert_eq!(status.view_at(370_000).lag_seconds, 360.0);
    status.phase(Phase::Following, "it is back");
    assert_eq!(status.view_at(370_000).lag_seconds, 0.0);
    // A server that was never there: from the start on.
    let status = Status::new();
    let later = unix_ms_now().saturating_add(100_000);
    assert!(status.view_at(later).lag_seconds > 90.0);
}

#[test]
fn work_is_shown_as_long_as_it_lasts() {
    let status = Status::new();
    let sync = status.work("full sync");
    let base = status.work("new base");
    sync.total(200 << 20);
    sync.advance(70 << 20);
    base.stage("log", None);
    base.advance(1536);
    let lines = |status: &Status| -> Vec<String> {
        status
            .view_at(0)
            .work
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(
        lines(&status),
        [
            "full sync: 35.0 % (70.0 MiB of 200.0 MiB)",
            "new base: log: 1.5 KiB"
        ]
    );
    let works = status.view_at(0).work;
    let view = works.first().unwrap();
    assert_eq!((view.done_bytes, view.percent), (70 << 20, Some(35.0)));
    base.stage("snapshot", Some(0));
    let works = status.view_at(0).work;
    assert_eq!(works.get(1).unwrap().percent, Some(100.0));
    base.stage("checking", None);
    assert_eq!(
        lines(&status).get(1).unwrap(),
        "new base: checking: at work"
    );
    drop(sync);
    assert_eq!(lines(&status).len(), 1);
    drop(base);
    assert_eq!(status.view_at(0).work, []);
}

#[test]
fn a_full_sync_is_counted_as_begun_and_as_what_becomes_of_it() {
    let status = Status::new();
    let counts = |status: &Status| {
        let metrics = status.metrics();
        [
            metrics.full_syncs_begun.get(),
            metrics.full_syncs.get(),
            metrics.full_syncs_failed.get(),
        ]
    };
    let first = status.full_sync_begun();
    assert_eq!(counts(&status), [1, 0, 0]);
    drop(first);
    assert_eq!(counts(&status), [1, 0, 1]);
    assert_eq!(status.view_at(0).base_offset, None);
    status.full_sync_begun().stored(at(1, 70), 5);
    assert_eq!(counts(&status), [2, 1, 1]);
    let view = status.view_at(0);
    assert_eq!((view.base_offset, view.base_unix_ms), (Some(70), Some(5)));
}

#[test]
fn the_masters_offset_is_what_it_said_or_what_was_heard_since() {
    let status = Status::new();
    assert_eq!(status.view_at(0).master_offset, None);
    status.master(at(1, 500));
    assert_eq!(status.view_at(0).master_offset, Some(500));
    status.received(at(1, 100), 0);
    assert_eq!(status.view_at(0).master_offset, Some(500));
    status.received(at(1, 600), 0);
    assert_eq!(status.view_at(0).master_offset, Some(600));
    status.master(at(2, 50));
    assert_eq!(status.view_at(0).master_offset, Some(50));
    // Another id since it was asked.
    status.received(at(3, 20), 0);
    assert_eq!(status.view_at(0).master_offset, Some(20));
}

#[test]
fn ready_means_following_or_promoted_and_not_at_the_end() {
    let status = Status::new();
    assert!(!status.view().ready);
    status.phase(Phase::Following, "");
    assert!(status.view().ready);
    status.phase(Phase::Connecting, "");
    assert!(!status.view().ready);
    status.promoted(true);
    assert!(status.view().ready);
    status.sealed("a seal by somebody");
    status.promoted(true);
    let view = status.view();
    assert!(!view.ready);
    assert_eq!(view.superseded.as_deref(), Some("a seal by somebody"));
    status.phase(Phase::Following, "another history, as the server does");
    assert!(status.view().ready && status.view().superseded.is_none());
    status.superseded("a seal by pod-b");
    assert!(!status.view().ready);
    status.phase(Phase::Following, "no way back");
    let view = status.view();
    assert_eq!(view.phase, Phase::Superseded);
    assert_eq!(view.superseded.as_deref(), Some("a seal by pod-b"));
}

#[test]
fn every_phase_has_one_name_in_json_and_in_metrics() {
    for phase in Phase::ALL {
        assert_eq!(serde_json::to_value(phase).unwrap(), phase.as_str());
    }
    let status = Status::new();
    status.phase(Phase::FullSync, "");
    status.metrics().full_syncs.inc();
    status.stored(at(1, 100), 0);
    status.received(at(1, 150), 0);
    let page = status.prometheus();
    for line in [
        "backfeed_full_syncs_total 1",
        "backfeed_partial_syncs_total 0",
        "backfeed_received_offset 150",
        "backfeed_stored_offset 100",
        "backfeed_lag_bytes 50.0",
        "backfeed_master_offset 150",
        "backfeed_stored_timestamp_seconds 0.0",
        "backfeed_full_syncs_begun_total 0",
        "backfeed_full_syncs_failed_total 0",
        "backfeed_phase{phase=\"full_sync\"} 1",
        "backfeed_phase{phase=\"following\"} 0",
        "backfeed_ready 0",
    ] {
        assert!(
            page.lines().any(|have| have == line),
            "no `{line}` in:\n{page}"
        );
    }
}

#[test]
fn a_store_that_refuses_is_not_ready_and_one_that_is_away_is_told() {
    let status = Status::new();
    status.phase(Phase::Following, "");
    assert!(status.view_at(0).ready);

    assert!(status.store_failed("away", false, 1));
    assert!(!status.store_failed("away", false, 2), "told once");
    let view = status.view_at(2);
    assert!(view.ready, "it follows, and keeps what comes");
    assert_eq!(view.store_error.as_deref(), Some("away"));
    let page = status.prometheus_of(&view);
    assert!(page.contains("backfeed_store_failing 1"), "{page}");

    assert!(status.store_failed("no permission", true, 3));
    assert!(!status.view_at(3).ready);
    // An open Redis stays open.
    status.promoted(true);
    assert!(status.view_at(3).ready);
    status.promoted(false);

    status.store_works();
    let view = status.view_at(4);
    assert_eq!((view.ready, view.store_error.as_deref()), (true, None));
    assert!(status.store_failed("no permission", true, 5), "news again");
}
