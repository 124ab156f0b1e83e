#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use futures::TryStreamExt;

use super::*;
use crate::recovery::testing::{Sample, at, feed, id};
use crate::recovery::{LogForm, Plan, RecoveryTarget, log, source};

fn request(history: Option<ReplId>) -> MergeRequest {
    MergeRequest {
        history,
        merged_to: None,
        limit: u64::MAX,
        dry_run: false,
        delete: false,
        writer: "test".to_owned(),
    }
}

/// What a restore of each time and each offset has.
async fn read_all(sample: &Sample, history: ReplId, upto: u64) -> Vec<String> {
    let mut read = Vec::new();
    let times = (9_900..upto as i64 * 10 + 50)
        .step_by(130)
        .map(RecoveryTarget::AtUnixMs);
    for recovery_target in times.chain((1000..upto).step_by(23).map(RecoveryTarget::Offset)) {
        let plan = match sample.plan(history, recovery_target).await {
            Ok(plan) => plan,
            Err(error) => {
                read.push(format!("{recovery_target} {error}"));
                continue;
            }
        };
        let (end, time) = (plan.end_position, plan.end_unix_ms);
        let bytes = bytes_of(sample, &plan, LogForm::Raw).await;
        let replayed = bytes_of(sample, &plan, LogForm::Replay).await;
        drop(source(&sample.archive, &plan));
        read.push(format!(
            "{recovery_target} {end} {time:?} {bytes:?} {replayed:?}"
        ));
    }
    read
}

async fn bytes_of(sample: &Sample, plan: &Plan, form: LogForm) -> Vec<u8> {
    let chunks: Vec<_> = log(&sample.archive, plan, form)
        .try_collect()
        .await
        .unwrap();
    chunks.concat()
}

#[tokio::test(start_paused = true)]
async fn each_time_and_each_offset_leads_to_the_same_point() {
    // The times of an old server's log are in what is replayed.
    for version in ["7.0.15", "6.0.16"] {
        let sample = Sample::new(version).await;
        let archive = &sample.archive;
        sample.history(id(1), None).await;
        sample.base(id(1), 1000, 0, 5).await;
        let mut units: Vec<Vec<u8>> = Vec::new();
        for n in 0..24 {
            units.push(feed(&[&format!("SETEX key{n} {n} value")]));
            if n % 5 == 4 {
                units.push(feed(&["MULTI", "SET a 1", "INCR b", "EXEC"]));
            }
        }
        let mut cuts = vec![1000];
        for unit in &units {
            cuts.push(cuts[cuts.len() - 1] + unit.len() as u64);
        }
        let bytes = units.concat();
        let inner: Vec<u64> = cuts[1..cuts.len() - 1].to_vec();
        let end = sample.log(id(1), at(1000, 0), &bytes, &inner).await;
        // A child that leaves it in the middle.
        let left = at(cuts[15], 0);
        sample.history(id(2), Some((id(1), left.offset.0))).await;
        let own = feed(&["SETEX x 9 1", "SETEX y 9 2"]);
        sample.log(id(2), left, &own, &[]).await;
        let upto = end.offset.0;
        let wanted = [
            read_all(&sample, id(1), upto).await,
            read_all(&sample, id(2), upto).await,
        ];

        let mut dry = request(None);
        dry.dry_run = true;
        let would = merge(archive, &dry, &()).await.unwrap();
        let made = merge(archive, &request(None), &()).await.unwrap();
        assert!(made.spans >= 4, "{made:?}");
        assert_eq!((would.spans, would.segments), (made.spans, made.segments));
        assert!(would.dry_run && would.stored_bytes == 0 && made.stored_bytes > 0);
        assert_eq!(read_all(&sample, id(1), upto).await, wanted[0]);
        assert_eq!(read_all(&sample, id(2), upto).await, wanted[1]);
        assert!(archive.delete_merged(id(1)).await > 10);
        assert_eq!(read_all(&sample, id(1), upto).await, wanted[0]);
        assert_eq!(read_all(&sample, id(2), upto).await, wanted[1]);
        let again = merge(archive, &request(Some(id(1))), &()).await.unwrap();
        assert_eq!((again.spans, again.histories.len()), (0, 1));
    }
}

#[tokio::test]
async fn a_limit_leaves_the_rest_for_the_next_time() {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5).await;
    let unit = feed(&["SET key value"]);
    let cuts: Vec<u64> = (1..30).map(|n| 1000 + n * unit.len() as u64).collect();
    sample
        .log(id(1), at(1000, 0), &unit.repeat(30), &cuts)
        .await;
    let mut request = request(Some(id(1)));
    request.dry_run = true;
    let all = merge(&sample.archive, &request, &()).await.unwrap().spans;
    request.dry_run = false;
    request.limit = 2;
    let mut spans = 0;
    loop {
        let report = merge(&sample.archive, &request, &()).await.unwrap();
        spans += report.spans;
        let merged = &report.histories[0];
        request.merged_to = merged.merged_to.or(request.merged_to);
        if !merged.has_more {
            break;
        }
    }
    assert!(spans == all && all > 4, "{spans} of {all}");
    let unknown = merge(&sample.archive, &self::request(Some(id(9))), &()).await;
    assert!(
        unknown
            .unwrap_err()
            .to_string()
            .contains("there is no history")
    );
}

/// A payload that is damaged: behind the next base, and of other histories, all is merged.
#[tokio::test]
async fn what_is_damaged_does_not_keep_anything_else_from_being_merged() {
    let sample = Sample::new("7.0.15").await;
    let unit = feed(&["SET key value"]);
    let length = unit.len() as u64;
    let cuts: Vec<u64> = (1..30).map(|n| 1000 + n * length).collect();
    for n in [1, 2] {
        sample.history(id(n), None).await;
        sample.base(id(n), 1000, 0, 5).await;
        let bytes = unit.repeat(30);
        sample.log(id(n), at(1000, 0), &bytes, &cuts).await;
        sample.base(id(n), 1000 + 20 * length, 0, 5).await;
    }
    let segment = crate::archive::LogObject::segment(1000 + 3 * length + 1);
    let object = segment.name(id(1)).to_string();
    let body = sample.store.object(&object).unwrap();
    sample.store.corrupt(&object, body.len() - 5, 1);
    let report = merge(&sample.archive, &request(None), &()).await.unwrap();
    assert!(report.failure.is_some());
    let [first, second] = &report.histories[..] else {
        panic!("{report:?}");
    };
    let (damaged, sound) = match first.errors.is_empty() {
        true => (second, first),
        false => (first, second),
    };
    assert_eq!(damaged.history, id(1));
    assert!(damaged.errors[0].contains(&object), "{damaged:?}");
    assert!(damaged.spans > 0 && damaged.spans < sound.spans);
    assert_eq!(damaged.merged_to, sound.merged_to);
    assert!(sound.errors.is_empty() && sound.stopped.is_none());
}
