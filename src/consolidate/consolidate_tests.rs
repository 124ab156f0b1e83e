#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::recovery::testing::{Sample, at, feed, id};
use crate::store::memory::MemoryStore;
use crate::wire::position::Boundary;

fn request() -> Request {
    Request {
        history: None,
        service: None,
        recovery_target: RecoveryTarget::Latest,
        memory_limit: 1 << 20,
        worth: Worth::AnyLog,
        time_limit: None,
        now_unix_ms: 0,
    }
}

/// Puts another base's bytes in the place of the new base's, between its upload and the look at it.
struct Swap(MemoryStore);

impl Progress for Swap {
    fn stage(&self, stage: Stage, _: Option<u64>) {
        let data = |from: &str| format!("histories/{}/base/{from:0>20}.rdb.zst", id(1));
        let names = self.0.names();
        let made = names
            .iter()
            .find(|name| name.ends_with(".rdb.zst") && **name != data("100"));
        if let (Stage::Checking, Some(made)) = (stage, made) {
            self.0.put(made, self.0.object(&data("100")).unwrap());
        }
    }

    fn advance(&self, _: u64) {}
}

#[tokio::test]
async fn a_base_counts_only_if_what_is_read_back_is_what_was_written() {
    let request = request();
    for swapped in [true, false] {
        let sample = Sample::new("7.0.15").await;
        sample.history(id(1), None).await;
        sample.base(id(1), 100, 3, 0).await;
        let from = Boundary {
            offset: Offset(100),
            db: 3,
        };
        let log = feed(&["SET k0 other", "SET new 1"]);
        sample.log(id(1), from, &log, &[]).await;
        let swap = Swap(sample.store.clone());
        let progress: &dyn Progress = if swapped { &swap } else { &() };
        let made = consolidate(&sample.archive, &request, progress).await;
        let manifests = || {
            let names = sample.store.names();
            let manifests = names
                .iter()
                .filter(|name| name.contains("/base/") && name.ends_with(".json"));
            manifests.count()
        };
        if swapped {
            assert!(
                matches!(made, Err(ConsolidateError::Differs { .. })),
                "{made:?}"
            );
            assert_eq!(manifests(), 1, "{:?}", sample.store.names());
        } else {
            assert_eq!(made.unwrap().keys, 3);
            assert_eq!(manifests(), 2);
        }
    }
}

async fn sample(lines: &[&str]) -> Sample {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 3, 0).await;
    sample.log(id(1), at(1000, 3), &feed(lines), &[]).await;
    sample
}

async fn consolidated(lines: &[&str]) -> Result<Report, ConsolidateError> {
    consolidate(&sample(lines).await.archive, &request(), &()).await
}

#[tokio::test]
async fn what_is_refused_when_it_is_applied_ends_a_stage_behind_a_whole_unit() {
    let refused = "SORT l BY w_* ALPHA STORE d";
    for rewritten in [
        &["SETEX x 100 v"][..],
        &["PSETEX x 100 v"],
        &["SET x v PXAT 4102444800000"],
        &["SET x v EX 100"],
        &["SET x v"],
        &["GETEX k0 EX 100"],
        &["EXPIRE k0 100"],
        &["PEXPIRE k0 100"],
        &["MULTI", "SETEX x 100 v", "SETEX y 100 v", "EXEC"],
        &["SETEX x 100 v", "SETEX x 100 w", "SETEX y 100 v"],
    ] {
        let before = [&["RPUSH l b a c"], rewritten].concat();
        let lines = [&before[..], &[refused, "SET a 1"]].concat();
        let report = consolidated(&lines).await.unwrap();
        let length = feed(&before).len() as u64;
        assert_eq!(report.to.offset, Offset(1000 + length), "{rewritten:?}");
        let stopped = report.stopped.unwrap();
        assert!(stopped.contains("the same weight"), "{stopped}");
        // Nothing before it is cut off from the rest of its transaction.
        let within = ["RPUSH l b a c", "MULTI", "SETEX x 100 v", refused, "EXEC"];
        let report = consolidated(&within).await.unwrap();
        let length = feed(&within[..1]).len() as u64;
        assert_eq!(report.to.offset, Offset(1000 + length));
    }
}

#[tokio::test]
async fn every_memory_limit_is_enough_for_the_whole_log_or_ends_with_an_error() {
    let set = |n: usize| format!("SETEX key:{} 100 {}", n * 7 % 40, "x".repeat(200));
    let lines: Vec<String> = (0..100).map(set).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut most = 0;
    let mut refused = 0;
    for limit in (0..20_000).step_by(200) {
        let request = Request {
            memory_limit: limit,
            ..request()
        };
        let sample = sample(&lines).await;
        match consolidate(&sample.archive, &request, &()).await {
            Ok(report) => {
                let length = feed(&lines).len() as u64;
                assert_eq!(report.to.offset, Offset(1000 + length), "{limit}");
                assert_eq!((report.keys, report.commands), (42, 100), "{limit}");
                most = most.max(report.bases);
            }
            Err(ConsolidateError::Rebuild(error)) if error.is_memory() => refused += 1,
            Err(error) => panic!("{limit}: {error}"),
        }
    }
    assert!(most > 20 && refused > 0, "{most} stages, {refused} refused");
}

/// The log of one piece takes long: the time limit is looked at all the same, and not only when there is something to
/// wait for.
#[tokio::test]
async fn a_time_limit_ends_what_never_waits() {
    let members: Vec<String> = (0..3000).map(|n| n.to_string()).collect();
    let add = format!("SADD s {}", members.join(" "));
    let mut lines = vec![add.as_str()];
    lines.extend(["SUNIONSTORE d s"; 200]);
    let mut whole = Duration::MAX;
    // Others are busy on the machine as well.
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        let report = consolidated(&lines).await.unwrap();
        assert_eq!(report.keys, 4);
        whole = whole.min(begun.elapsed());
    }
    let limited = Request {
        time_limit: Some(whole / 8),
        ..request()
    };
    let sample = sample(&lines).await;
    let begun = std::time::Instant::now();
    let error = consolidate(&sample.archive, &limited, &()).await;
    let took = begun.elapsed();
    assert!(
        matches!(&error, Err(error @ ConsolidateError::TooLong { .. }) if error.asks_for_a_full_sync()),
        "{error:?} after {took:?}, {whole:?} without a limit"
    );
    assert!(took < whole / 2, "{took:?} of {whole:?}");
}

#[tokio::test]
async fn stages_without_number_are_refused() {
    let lines: Vec<String> = (0..STAGES + 10).map(|n| format!("SET key:{n} v")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    // Enough for one key.
    let request = Request {
        memory_limit: 200,
        ..request()
    };
    let sample = sample(&lines).await;
    let error = consolidate(&sample.archive, &request, &())
        .await
        .unwrap_err();
    assert!(
        matches!(error, ConsolidateError::TooManyStages { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("Raise the limit of memory"));
}

#[tokio::test]
async fn a_function_command_that_cannot_be_applied_stops_it_there() {
    let library = "FUNCTION LOAD #!lua_name=l";
    let before = ["SET a 1", "MULTI", "SET b 1", "SET a 2", "EXEC"];
    for wrong in [
        "FUNCTION DELETE none",
        "FUNCTION RESTORE x",
        library,
        "FCALL f 0",
    ] {
        let lines = [&before[..], &[wrong, "SET c 1"]].concat();
        let report = consolidated(&lines).await.unwrap();
        let length = feed(&before).len() as u64;
        assert_eq!(report.to.offset, Offset(1000 + length), "{wrong}");
        assert_eq!((report.bases, report.keys), (1, 4), "{wrong}");
        let stopped = report.stopped.unwrap();
        assert!(
            stopped.contains("FUNCTION") || wrong.starts_with("FCALL"),
            "{stopped}"
        );
        assert!(
            stopped.contains(&format!("offset {}", report.to.offset)),
            "{stopped}"
        );
        let error = consolidated(&[wrong, "SET c 1"]).await.unwrap_err();
        assert!(matches!(error, ConsolidateError::Blocked { .. }), "{error}");
        assert!(error.asks_for_a_full_sync());
    }
    let report = consolidated(&["FUNCTION FLUSH", "SET a 1"]).await.unwrap();
    assert_eq!((report.keys, report.stopped), (3, None));
}

#[tokio::test]
async fn a_log_of_many_segments_is_taken_in_parts() {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 100, 3, 0).await;
    let mut at = Boundary {
        offset: Offset(100),
        db: 3,
    };
    // The middle one stands for the log of a child.
    for (history, segments) in [(id(1), PART + 3), (id(2), PART / 2), (id(3), PART * 2)] {
        if history != id(1) {
            let parent = (id(if history == id(2) { 1 } else { 2 }), at.offset.0);
            sample.history(history, Some(parent)).await;
        }
        for n in 0..segments {
            let log = feed(&[&format!("SET n:{n} {}", at.offset)]);
            sample.log(history, at, &log, &[]).await;
            at.offset = at.offset.plus(log.len() as u64);
        }
    }
    let request = request();
    let report = consolidate(&sample.archive, &request, &()).await.unwrap();
    // 3.56 parts.
    assert_eq!((report.bases, report.to.offset), (4, at.offset));
    assert_eq!(report.to.history, id(3));
    assert_eq!(report.keys, 2 + 2 * PART as u64);
    let (base, behind) = newest_base(&sample.archive, &request).await.unwrap();
    assert_eq!((base.position(), behind), (report.to, 0));
}
