//! Clocks that are wrong: backfeed's own, and the server's.

use std::sync::atomic::Ordering;
use std::time::Duration;

use backfeed::monitoring::status::unix_ms_now;

use crate::support::backfeed::Output;
use crate::support::captured::Captured;
use crate::support::data::for_each_version;
use crate::support::{Version, restored, run};

const TWO_DAYS_MS: i64 = 2 * 86_400_000;

/// Sets the key, waits until that is stored, and gives a true time after it, before anything else.
fn set(captured: &Captured, value: &str) -> i64 {
    captured.server.cmd(&["SET", "k", value]);
    captured.wait_stored();
    std::thread::sleep(Duration::from_millis(300));
    let time = unix_ms_now();
    std::thread::sleep(Duration::from_millis(300));
    time
}

fn get(captured: &Captured, at: &str) -> Output {
    run(&["get", "k", "--store", &captured.store, "--at", at])
}

fn get_at(captured: &Captured, unix_ms: i64) -> Output {
    let ms = unix_ms % 1000;
    get(captured, &format!("{}.{ms:03}", unix_ms / 1000))
}

#[track_caller]
fn assert_value(output: &Output, value: &str) {
    assert_eq!(output.code, 0, "{output:?}");
    assert!(output.stdout.contains(value), "{output:?}");
}

for_each_version!(times_that_the_clock_went_back_over_name_no_points);

/// The clock is two days ahead for a while, then right again. For two days, times would lead to the state before.
fn times_that_the_clock_went_back_over_name_no_points(version: Version) {
    let mut captured = Captured::start(version, 0);
    let before = set(&captured, "before");
    // From the last right time on, nobody knows when the clock was wrong.
    let uncertain = set(&captured, "still right");
    captured.ahead_ms.store(TWO_DAYS_MS, Ordering::SeqCst);
    let ahead = set(&captured, "ahead");
    assert_eq!(captured.status.view().last_error, None);
    captured.ahead_ms.store(0, Ordering::SeqCst);
    let back = set(&captured, "right again");
    let (_, offset) = captured.server.position();
    if matches!(version, Version::Redis60 | Version::Redis62) {
        // Their relative expiries count from their own clock, and so do the times of the log: ours may be wrong.
        assert_eq!(captured.status.view().last_error, None);
        captured.stop();
        for (time, value) in [
            (before, "before"),
            (uncertain, "still right"),
            (ahead, "ahead"),
            (back, "right again"),
        ] {
            assert_value(&get_at(&captured, time), value);
        }
        return;
    }
    let told = captured.status.view().last_error.unwrap();
    assert!(told.contains("the clock went back"), "{told}");
    captured.stop();
    // Another process finds that the last time has not come yet, and says so before anything happens.
    captured.follow();
    let told = captured.status.view().last_error.unwrap();
    assert!(told.contains("or was ahead before"), "{told}");
    let later = set(&captured, "later");
    captured.stop();

    assert_value(&get_at(&captured, before), "before");
    assert_value(&get(&captured, "latest"), "later");
    assert_value(&get(&captured, &format!("offset:{offset}")), "right again");
    for time in [uncertain, ahead, back, later] {
        let refused = get_at(&captured, time);
        assert_eq!(refused.code, 6, "{refused:?}");
        assert!(refused.stderr.contains("names no point"), "{refused:?}");
        assert_eq!(refused.stdout, "", "{refused:?}");
    }
    let at = format!("{}", back / 1000 + 1);
    let file = format!("{}/x.rdb", captured.home.path().display());
    let restore = [
        "restore",
        "--store",
        &captured.store,
        "--to",
        &file,
        "--at",
        &at,
    ];
    let refused = run(&restore);
    assert_eq!(refused.code, 6, "{refused:?}");
    assert!(refused.stderr.contains("`latest`"), "{refused:?}");
    let listed = run(&["list", "--store", &captured.store]);
    assert!(listed.stdout.contains("has not come yet"), "{listed:?}");
    let verified = run(&["verify", "--store", &captured.store]);
    assert_eq!(verified.code, 0, "{verified:?}");
    assert!(verified.stdout.contains("went back"), "{verified:?}");
}

/// Redis 6 sends `EX 1000`: that counts from when the server sent it, whatever our clock says.
#[test]
fn relative_expiries_follow_the_clock_of_the_server() {
    for version in [Version::Redis60, Version::Redis62] {
        for ahead_ms in [TWO_DAYS_MS, -TWO_DAYS_MS, 0] {
            let mut captured = Captured::start(version, ahead_ms);
            captured.server.cmd(&["SET", "k", "v", "EX", "1000"]);
            captured.server.cmd(&["EXPIRE", "k", "2000"]);
            captured.wait_stored();
            captured.stop();
            let fresh = restored(version, &captured.store);
            let ttl: i64 = fresh.text(&["TTL", "k"]).parse().unwrap();
            assert!((1900..=2000).contains(&ttl), "{version} {ahead_ms}: {ttl}");
        }
    }
}
