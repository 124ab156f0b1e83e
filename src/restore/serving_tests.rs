#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use std::collections::BTreeMap;

use futures::TryStreamExt;

use super::*;
use crate::archive::ServerInfo;
use crate::rebuild::Counts;
use crate::recovery::testing::{Sample, at, feed, id};
use crate::recovery::{Expected, RecoveryTarget};
use crate::wire::position::Offset;
use crate::wire::rdb::{Checksum, Summary, Walker};

const MIB: u64 = 1 << 20;
const LOG: [&str; 5] = ["SELECT 3", "SET k0 w", "MULTI", "SET new 1", "EXEC"];

/// A snapshot at 1000 with two keys in database 3, and this log after it.
async fn sample(version: &'static str, log: &[&str]) -> (Sample, Plan) {
    let sample = Sample::new(version).await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 0, 5_000).await;
    sample.log(id(1), at(1000, 0), &feed(log), &[1010]).await;
    let plan = sample.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    (sample, plan)
}

fn serving(sample: &Sample, asked: ServeLog) -> Serving {
    Serving::new(&sample.archive, asked, 1 << 30)
}

const CONTINUE: fn() -> Identity = || Identity::Continue { id: id(1) };
const FORK: fn() -> Identity = || Identity::Fork { id: id(9) };

async fn offered(serving: &mut Serving, plan: &Plan, identity: Identity) -> (Offer, Count) {
    let mut count = serving.count(plan);
    let offer = serving.offer(plan, identity, true, &mut count).await;
    (offer.unwrap(), count)
}

/// What a rebuilt RDB says that it holds.
async fn rebuilt(offer: Offer) -> Result<(Summary, Counts), RebuildError> {
    let Payload::Rebuilt {
        snapshot, counts, ..
    } = offer.payload
    else {
        panic!("it is rebuilt");
    };
    let bytes = snapshot.try_collect::<Vec<_>>().await?.concat();
    let mut walker = Walker::new();
    assert_eq!(walker.push(&bytes).unwrap(), bytes.len());
    assert!(walker.is_complete() && walker.summary().checksum == Checksum::Verified);
    Ok((walker.summary().clone(), counts.await.unwrap()))
}

fn is_replayed(offer: &Offer) -> bool {
    matches!(offer.payload, Payload::Replayed { .. })
}

#[test]
fn the_way_is_chosen_by_the_sizes_of_base_and_log() {
    use ServeLog::{Auto, Rebuild, Replay};
    use WayForm::{Rebuilt, Replayed};
    for (asked, base, log, needed, wanted) in [
        (Auto, 100 * MIB, 0, false, Replayed),
        (Auto, 0, MIB - 1, false, Replayed),
        (Auto, 0, MIB, false, Rebuilt),
        (Auto, 20 * MIB, MIB, false, Rebuilt),
        (Auto, 20 * MIB + 1, MIB, false, Replayed),
        (Auto, 100 * MIB, 1, true, Rebuilt),
        (Replay, 0, 100 * MIB, true, Replayed),
        (Rebuild, 100 * MIB, 1, false, Rebuilt),
        (Rebuild, 100 * MIB, 0, false, Replayed),
        (Auto, u64::MAX, u64::MAX, false, Rebuilt),
    ] {
        let way = Way::by_size(asked, base, log, needed);
        assert_eq!(way.form, wanted, "{asked:?} {base} {log} {needed}: {way:?}");
    }
}

#[tokio::test]
async fn base_and_log_become_one_rdb_at_the_end_of_the_log() {
    let (sample, plan) = sample("7.0.15", &LOG).await;
    let end = Offset(1000 + feed(&LOG).len() as u64);
    let mut serving = serving(&sample, ServeLog::Rebuild);
    // As often as somebody comes.
    for (identity, named) in [(CONTINUE(), id(1)), (FORK(), id(9)), (CONTINUE(), id(1))] {
        let (offer, _) = offered(&mut serving, &plan, identity).await;
        assert_eq!((offer.id, offer.offset), (named, end));
        let is_fork = identity == FORK();
        assert_eq!(offer.may_add, is_fork);
        let (summary, counts) = rebuilt(offer).await.unwrap();
        assert_eq!(counts.keys, BTreeMap::from([(3, 3)]));
        assert_eq!((summary.keys(), summary.databases[&3].keys), (3, 3));
        let aux = |name: &str| summary.aux.get(name).map(ToString::to_string);
        let position = ["repl-id", "repl-offset", "repl-stream-db"].map(aux);
        let wanted = [id(1).to_string(), end.to_string(), "3".to_owned()];
        assert_eq!(position, wanted.map(|it| (!is_fork).then_some(it)));
        assert!(serving.way().unwrap().is_rebuilt());
    }
}

#[tokio::test]
async fn what_cannot_be_rebuilt_is_replayed_and_says_why() {
    let (unknown, plan) = sample("7.0.15", &["SET a 1", "FT.ADD x y", "SET b 2"]).await;
    let mut first = serving(&unknown, ServeLog::Rebuild);
    let (offer, mut count) = offered(&mut first, &plan, CONTINUE()).await;
    assert!(is_replayed(&offer));
    assert!(
        first.way().unwrap().why.contains("FT.ADD"),
        "{:?}",
        first.way()
    );
    // It is not tried a second time only to hear the same.
    let Expected::Unknown(why) = count.wait().await else {
        panic!("it cannot be counted");
    };
    assert!(why.contains("FT.ADD"), "{why}");

    let (known, plan) = sample("7.0.15", &LOG).await;
    let mut small = Serving::new(&known.archive, ServeLog::Rebuild, 10);
    let (offer, _) = offered(&mut small, &plan, CONTINUE()).await;
    assert!(is_replayed(&offer));
    assert!(
        small.way().unwrap().why.contains("(10 bytes)"),
        "{:?}",
        small.way()
    );

    let mut short = serving(&known, ServeLog::Auto);
    let (offer, mut count) = offered(&mut short, &plan, CONTINUE()).await;
    assert!(is_replayed(&offer));
    assert!(matches!(count.wait().await, Expected::Known(counts) if counts.keys[&3] == 3));

    let mut keydb = plan.clone();
    keydb.base.server.flavour = "keydb".to_owned();
    let mut carried = serving(&known, ServeLog::Rebuild);
    assert!(is_replayed(
        &offered(&mut carried, &keydb, CONTINUE()).await.0
    ));

    let mut count = Count::of_nothing();
    let mut unmarked = serving(&known, ServeLog::Rebuild);
    let offer = unmarked
        .offer(&plan, FORK(), false, &mut count)
        .await
        .unwrap();
    assert!(is_replayed(&offer));
}

#[tokio::test]
async fn what_shows_only_when_it_is_applied_is_replayed_the_next_time() {
    // The survey cannot know that k0 is no number.
    let (sample, plan) = sample("7.0.15", &["SELECT 3", "INCR k0", "SET k1 w"]).await;
    let mut serving = serving(&sample, ServeLog::Rebuild);
    let (offer, _) = offered(&mut serving, &plan, CONTINUE()).await;
    let failed = rebuilt(offer).await.unwrap_err();
    assert!(matches!(failed, RebuildError::Command { .. }), "{failed}");
    let failed = ServeError::Content(Box::new(failed.into()));
    assert!(serving.falls_back(&plan, &failed));
    assert!(is_replayed(
        &offered(&mut serving, &plan, CONTINUE()).await.0
    ));
    // A sidecar has nothing else of it in its next round.
    let failed = serving.failed();
    let mut next = self::serving(&sample, ServeLog::Rebuild).after(failed);
    assert!(is_replayed(&offered(&mut next, &plan, CONTINUE()).await.0));
    assert!(next.way().unwrap().why.contains("INCR"), "{:?}", next.way());

    let of_the_store = crate::archive::ArchiveError::Missing {
        object: "log/x".to_owned(),
    };
    let error = ServeError::Content(Box::new(RebuildError::from(of_the_store).into()));
    let mut serving = self::serving(&sample, ServeLog::Rebuild);
    assert!(!serving.falls_back(&plan, &error), "{error}");
    assert_eq!(serving.failed(), None);
}

#[tokio::test]
async fn a_plan_with_another_base_is_decided_anew() {
    let (sample, plan) = sample("7.0.15", &LOG).await;
    let mut small = Serving::new(&sample.archive, ServeLog::Auto, 10);
    assert!(!small.decide(&plan, true).await.unwrap().is_rebuilt());
    // A base at the very end is made then.
    let end = plan.end.offset.0;
    sample.base(id(1), end, 3, 6_000).await;
    let based = sample.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    assert_eq!(
        (based.bytes_log(), based.end_position),
        (0, plan.end_position)
    );
    let (offer, mut count) = offered(&mut small, &based, CONTINUE()).await;
    assert!(is_replayed(&offer));
    assert!(matches!(count.wait().await, Expected::Known(_)));
    assert!(
        small.way().unwrap().why.contains("no log"),
        "{:?}",
        small.way()
    );
}

#[tokio::test]
async fn a_server_that_leaves_twice_while_it_loads_gets_the_commands() {
    let (sample, plan) = sample("7.0.15", &LOG).await;
    let mut serving = serving(&sample, ServeLog::Rebuild);
    for (phase, falls_back) in [
        (Phase::Handshake, false),
        (Phase::Applying, false),
        (Phase::Snapshot, true),
    ] {
        let (offer, _) = offered(&mut serving, &plan, CONTINUE()).await;
        assert!(!is_replayed(&offer));
        assert_eq!(
            serving.falls_back(&plan, &ServeError::Closed(phase)),
            falls_back
        );
    }
    let failed = serving.failed();
    let mut next = self::serving(&sample, ServeLog::Rebuild).after(failed);
    assert!(is_replayed(&offered(&mut next, &plan, CONTINUE()).await.0));
    assert!(next.way().unwrap().why.contains("left twice"));
}

#[tokio::test]
async fn relative_expiries_can_be_continued_when_they_are_rebuilt() {
    let (sample, mut plan) = sample("6.2.1", &["SETEX a 10 v", "SET b 1"]).await;
    plan.set_relative_ttls(true);
    let mut auto = serving(&sample, ServeLog::Auto);
    assert!(auto.decide(&plan, true).await.unwrap().is_rebuilt());
    let (offer, _) = offered(&mut auto, &plan, CONTINUE()).await;
    let (summary, _) = rebuilt(offer).await.unwrap();
    assert_eq!(summary.databases[&0].expires, 1);

    let mut replay = serving(&sample, ServeLog::Replay);
    let mut count = Count::of_nothing();
    let refused = replay.offer(&plan, CONTINUE(), true, &mut count).await;
    assert!(matches!(refused, Err(RestoreError::CannotContinue { .. })));
}

/// The first bytes of a rebuilt RDB. None: the log is replayed.
async fn magic_for(sample: &Sample, plan: &Plan, target: &str) -> Option<String> {
    let writer = ServerInfo {
        flavour: "redis".to_owned(),
        version: sample.version.to_owned(),
    };
    let target = Server::named("redis", target);
    let mut serving = serving(sample, ServeLog::Rebuild).to(target, &[writer]);
    let (offer, _) = offered(&mut serving, plan, CONTINUE()).await;
    let Payload::Rebuilt { snapshot, .. } = offer.payload else {
        let why = &serving.way().unwrap().why;
        assert!(why.contains("not known to load"), "{why}");
        return None;
    };
    let bytes = snapshot.try_collect::<Vec<_>>().await.unwrap().concat();
    let mut walker = Walker::new();
    walker.push(&bytes).unwrap();
    assert_eq!(walker.summary().checksum, Checksum::Verified);
    Some(String::from_utf8_lossy(&bytes[..9]).into_owned())
}

#[tokio::test]
async fn a_rebuilt_rdb_has_room_for_what_the_writer_of_the_log_knows() {
    // The base is REDIS0010.
    let (older, plan) = sample("7.2.4", &LOG).await;
    let magic = magic_for(&older, &plan, "7.2.4").await;
    assert_eq!(magic.as_deref(), Some("REDIS0011"));
    assert_eq!(magic_for(&older, &plan, "7.4.0").await, magic);
    assert_eq!(magic_for(&older, &plan, "7.0.15").await, None);
    assert_eq!(magic_for(&older, &plan, "unknown").await, None);
    let (same, plan) = sample("7.0.15", &LOG).await;
    for target in ["7.0.15", "8.6.0"] {
        let magic = magic_for(&same, &plan, target).await;
        assert_eq!(magic.as_deref(), Some("REDIS0010"), "{target}");
    }
}
