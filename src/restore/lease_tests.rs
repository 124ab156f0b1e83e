#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::recovery::testing::{Sample, id};

fn claimant(name: &str) -> Claimant {
    Claimant {
        writer: name.to_owned(),
        redis: Some(format!("run of {name}")),
        now_unix_ms: 0,
    }
}

async fn take(archive: &Archive, name: &str) -> Result<Lease, RestoreError> {
    Lease::take(archive, id(1), claimant(name), |_| {}).await
}

/// An archive with a history.
async fn archive() -> Archive {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.archive.clone()
}

#[tokio::test(start_paused = true)]
async fn one_that_is_renewed_is_kept_and_one_that_is_not_is_overridden() {
    let archive = archive().await;
    let first = take(&archive, "first").await.unwrap();
    let other = archive.clone();
    let waits = tokio::spawn(async move { take(&other, "second").await });
    // However long it takes, as long as it is renewed.
    sleep(Duration::from_secs(3600)).await;
    assert!(!waits.is_finished());
    first.confirm().await.unwrap();
    let claims = archive.last_claim(id(1)).await.unwrap().unwrap().number;
    assert!((200..=300).contains(&claims), "{claims}");
    let stands = archive.last_claim(id(1)).await.unwrap().unwrap().stands();

    // It stops, as if its process was asleep; and wakes when it is too late.
    first.keeper.abort();
    let begun = Instant::now();
    let second = waits.await.unwrap().unwrap();
    assert!(
        begun.elapsed() <= stands + LOOK + LOOK,
        "{:?}",
        begun.elapsed()
    );
    let error = first.confirm().await.unwrap_err();
    assert!(matches!(error, RestoreError::LeaseLost { .. }), "{error}");
    second.confirm().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_process_that_is_started_again_beside_its_redis_does_not_wait() {
    let archive = archive().await;
    let dead = take(&archive, "first").await.unwrap();
    dead.keeper.abort();
    let begun = Instant::now();
    let again = Claimant {
        writer: "started again".to_owned(),
        ..claimant("first")
    };
    let lease = Lease::take(&archive, id(1), again, |_| {}).await.unwrap();
    assert!(begun.elapsed() < LOOK);
    lease.confirm().await.unwrap();
    // The short claim of a short restore is overridden after a few seconds.
    drop(lease);
    let begun = Instant::now();
    take(&archive, "second").await.unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn who_waits_or_holds_it_is_told_that_the_history_goes_on() {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    let archive = sample.archive.clone();
    let first = take(&archive, "first").await.unwrap();
    let other = archive.clone();
    let waits = tokio::spawn(async move { take(&other, "second").await });
    sleep(LOOK * 3).await;
    let child = sample.doc(id(2), Some((id(1), 0)));
    archive.begin_history(&child, None, "third").await.unwrap();
    let error = waits.await.unwrap().unwrap_err();
    assert!(
        matches!(error, RestoreError::GoesOn { child, .. } if child == id(2)),
        "{error}"
    );
    let error = first.confirm().await.unwrap_err();
    assert!(matches!(error, RestoreError::GoesOn { .. }), "{error}");
}
