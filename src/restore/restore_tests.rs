#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic
)]

use std::path::Path;

use futures::TryStreamExt;

use super::*;
use crate::recovery::check;
use crate::recovery::testing::{Sample, at, feed, id, rdb};
use crate::wire::position::Offset;
use crate::wire::rdb::{Checksum, Walker};

pub(in crate::restore) fn request(target: Dest, recovery_target: RecoveryTarget) -> Request {
    Request {
        target,
        recovery_target,
        history: None,
        service: None,
        force: false,
        dry_run: false,
        continue_history: false,
        aof_layout: AofLayout::Auto,
        memory_limit: 1 << 30,
        serve_log: ServeLog::Auto,
        listen: ListenOptions::default(),
        fork_id: id(0xEE),
        writer: "test".into(),
        now_unix_ms: 99,
    }
}

/// A history with a snapshot at 1000 in database 5 and a log after it.
async fn sample(version: &'static str, log: &[&str]) -> Sample {
    let sample = Sample::new(version).await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 5, 5_000).await;
    if !log.is_empty() {
        sample
            .log(id(1), at(1000, 5), &feed(log), &[1010, 1040])
            .await;
    }
    sample
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}

/// The sample's RDB as a fork gets it: sound, and without a replication position.
fn assert_stripped(bytes: &[u8]) {
    let mut walker = Walker::new();
    assert_eq!(walker.push(bytes).unwrap(), bytes.len());
    assert!(walker.is_complete() && walker.summary().checksum == Checksum::Verified);
    let aux: Vec<&str> = walker.summary().aux.keys().map(String::as_str).collect();
    assert_eq!(aux, ["redis-ver"]);
    assert_eq!(walker.summary().keys(), 2);
}

const LOG: [&str; 4] = ["SET a 1", "PING", "SELECT 7", "SET bb 12345678901234567890"];

#[tokio::test]
async fn an_aof_directory_holds_snapshot_log_and_manifest() {
    let sample = sample("7.0.15", &LOG).await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("data");
    let request = request(Dest::Aof(target.clone()), RecoveryTarget::Latest);
    let report = restore(&sample.archive, &request, &()).await.unwrap();

    let aof = target.join("appendonlydir");
    assert_stripped(&read(aof.join("appendonly.aof.1.base.rdb")));
    let wanted = [feed(&["SELECT 5"]), feed(&LOG)].concat();
    assert_eq!(
        read(aof.join("appendonly.aof.1.incr.aof")),
        wanted,
        "database 5 is selected at its start"
    );
    let manifest = String::from_utf8(read(aof.join("appendonly.aof.manifest"))).unwrap();
    assert_eq!(
        manifest,
        "file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n"
    );
    let names: Vec<_> = std::fs::read_dir(&target)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(names, ["appendonlydir"], "nothing unfinished is left");
    assert_eq!(
        (report.dry_run, report.commands, report.is_latest),
        (false, Some(4), true)
    );

    // A second one does not replace it unless told to.
    let error = restore(&sample.archive, &request, &()).await.unwrap_err();
    assert!(
        error.is_refusal() && matches!(error, RestoreError::InTheWay { .. }),
        "{error}"
    );
    let request = Request {
        force: true,
        recovery_target: RecoveryTarget::Offset(1000),
        ..request
    };
    restore(&sample.archive, &request, &()).await.unwrap();
    assert_eq!(read(aof.join("appendonly.aof.1.incr.aof")), b"");
}

#[tokio::test]
async fn the_log_of_an_old_server_becomes_one_file_with_absolute_expiries() {
    let sample = sample("6.2.16", &["SETEX a 10 v", "MULTI", "EXPIRE b 1", "EXEC"]).await;
    let dir = tempfile::tempdir().unwrap();
    let request = request(Dest::Aof(dir.path().into()), RecoveryTarget::Latest);
    restore(&sample.archive, &request, &()).await.unwrap();
    let file = read(dir.path().join("appendonly.aof"));
    // Byte n is received at n * 10 ms, told at both ends of the segments 1001-1010, 1011-1040 and 1041-1105. SETEX ends
    // at 1036, so the mark at 1040 counts; EXPIRE and EXEC end before 1105.
    let end = 1000 + feed(&["SETEX a 10 v", "MULTI", "EXPIRE b 1", "EXEC"]).len();
    let wanted = feed(&[
        "SELECT 5",
        "SET a v",
        &format!("PEXPIREAT a {}", 10_400 + 10_000),
        "MULTI",
        &format!("PEXPIREAT b {}", end * 10 + 1_000),
        "EXEC",
    ]);
    let log = &file[file.len() - wanted.len()..];
    assert_eq!(
        String::from_utf8_lossy(log),
        String::from_utf8_lossy(&wanted)
    );
    assert_stripped(&file[..file.len() - wanted.len()]);
}

#[tokio::test]
async fn an_rdb_file_is_the_snapshot_and_nothing_else() {
    let sample = sample("7.0.15", &LOG).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dump.rdb");
    let to = |recovery_target| request(Dest::RdbFile(path.clone()), recovery_target);
    restore(&sample.archive, &to(RecoveryTarget::Offset(1001)), &())
        .await
        .unwrap();
    assert_stripped(&read(&path));
    let error = restore(&sample.archive, &to(RecoveryTarget::Offset(1000)), &())
        .await
        .unwrap_err();
    assert!(matches!(error, RestoreError::InTheWay { .. }), "{error}");
}

#[tokio::test]
async fn a_dry_run_tells_and_writes_nothing() {
    let sample = sample("7.0.15", &LOG).await;
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("data");
    let request = Request {
        dry_run: true,
        ..request(Dest::Aof(target.clone()), RecoveryTarget::Latest)
    };
    let report = restore(&sample.archive, &request, &()).await.unwrap();
    assert!(report.dry_run && !target.exists());
    let end = 1000 + feed(&LOG).len() as u64;
    assert_eq!(
        (report.base_offset, report.end_offset, report.segments),
        (1000, end, 3)
    );
    let text = report.to_string();
    assert!(
        text.starts_with("would restore ") && text.contains("3 segments"),
        "{text}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["history"], "01".repeat(20));
    assert_eq!(json["end_offset"], end);
}

#[tokio::test]
async fn a_damaged_snapshot_is_passed_over_for_an_older_one_and_that_is_told() {
    let sample = sample("7.0.15", &LOG).await;
    let end = 1000 + feed(&LOG).len() as u64;
    sample.base(id(1), end, 7, 6_000).await;
    let name = sample
        .store
        .names()
        .into_iter()
        .find(|name| name.contains(&format!("{end:020}.rdb")))
        .unwrap();
    sample.store.corrupt(&name, 40, 0xFF);
    let dir = tempfile::tempdir().unwrap();
    let request = request(Dest::Aof(dir.path().into()), RecoveryTarget::Latest);
    let report = restore(&sample.archive, &request, &()).await.unwrap();
    assert_eq!((report.base_offset, report.end_offset), (1000, end));
    assert!(
        report.notes.iter().any(|note| note.contains(&name)),
        "{:?}",
        report.notes
    );

    // With the only other one damaged, too, nothing is written.
    let older = name.replace(&format!("{end:020}"), &format!("{:020}", 1000));
    sample.store.corrupt(&older, 40, 0xFF);
    let dir = tempfile::tempdir().unwrap();
    let request = Request {
        target: Dest::Aof(dir.path().into()),
        ..request
    };
    let error = restore(&sample.archive, &request, &()).await.unwrap_err();
    assert!(
        error.is_damage() && error.to_string().contains(&older),
        "{error}"
    );
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_damaged_segment_is_an_error_that_names_it_before_anything_is_written() {
    let sample = sample("7.0.15", &LOG).await;
    let name = sample
        .store
        .names()
        .into_iter()
        .rfind(|name| name.contains("/log/"))
        .unwrap();
    let length = sample.store.object(&name).unwrap().len();
    for damage in 0..3 {
        let object = sample.store.object(&name).unwrap();
        match damage {
            0 => sample.store.corrupt(&name, length - 6, 1),
            1 => sample.store.truncate(&name, length - 3),
            _ => sample.store.corrupt(&name, 20, 1),
        }
        let dir = tempfile::tempdir().unwrap();
        let request = request(Dest::Aof(dir.path().into()), RecoveryTarget::Latest);
        let error = restore(&sample.archive, &request, &()).await.unwrap_err();
        assert!(
            error.is_damage() && error.to_string().contains(&name),
            "{damage}: {error}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        sample.store.put(&name, object);
    }
}

#[tokio::test]
async fn the_first_pass_knows_what_a_target_needs() {
    let log = [
        "COPY a b DB 11",
        "MOVE c 9",
        "SWAPDB 1 12",
        "select 3",
        "set x 1",
        "JSON.SET d $ 1",
    ];
    let sample = sample("7.0.15", &log).await;
    let plan = sample.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    let checked = check(&sample.archive, &plan, &()).await.unwrap();
    assert_eq!(checked.databases, 13);
    assert_eq!(checked.command_count, 6);
    let names: Vec<&str> = checked.commands.iter().map(String::as_str).collect();
    assert_eq!(
        names,
        ["COPY", "JSON.SET", "MOVE", "SELECT", "SET", "SWAPDB"]
    );
    assert_eq!(checked.summary.keys(), 2);

    let wrapped = self::sample("6.2.1", &["RREPLAY uuid payload 0 1"]).await;
    let plan = wrapped.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    let error = check(&wrapped.archive, &plan, &()).await.unwrap_err();
    assert!(error.to_string().contains("active-replica"), "{error}");
}

/// It sleeps between its look at the log and its seal. Meanwhile the log goes on, and what it had seen of it is
/// deleted.
#[tokio::test]
async fn a_seal_that_comes_hours_late_is_made_again_at_the_end() {
    for by_capture in [false, true] {
        let sample = sample("7.0.15", &LOG).await;
        let (sealing, store) = (sample.archive.clone(), sample.store.clone());
        let seen = at(1000, 5).offset.plus(feed(&LOG).len() as u64);
        let name = |offset: Offset| {
            let (history, first_byte) = (id(1), offset.next_byte());
            crate::archive::Name::Log {
                history,
                first_byte,
            }
            .to_string()
        };
        store.pause();
        let sealed = tokio::spawn(async move {
            if by_capture {
                let known = Position {
                    history: id(1),
                    offset: seen,
                };
                let sealed = sealing.seal_end(known, "why", "w", 0);
                return sealed.await.unwrap().offset;
            }
            let (mut catalog, _) = look(&sealing, Some(id(1)), None, RecoveryTarget::Latest)
                .await
                .unwrap();
            let plan = seal(&sealing, &mut catalog, id(1), "why", "w", 0).await;
            let plan = plan.unwrap();
            assert_eq!(plan.base.offset, seen.plus(27));
            plan.end.offset
        });
        let create = crate::store::memory::Call::Create(name(seen));
        while !store.calls().contains(&create) {
            tokio::task::yield_now().await;
        }
        // As it is hours later.
        let later = Sample::new("7.0.15").await;
        later.history(id(1), None).await;
        let more = feed(&["SET c 1", "SELECT 3", "SET d 2"]);
        let base = at(seen.plus(27).0, 7);
        let end = later
            .log(id(1), at(seen.0, 7), &more, &[base.offset.0])
            .await;
        later.base(id(1), base.offset.0, 7, 9_000).await;
        for object in later.store.names() {
            store.put(&object, later.store.object(&object).unwrap());
        }
        for object in store.names() {
            let is_deleted = object.contains("/log/") && object <= name(seen);
            let is_old = object.contains("/base/00000000000000001000");
            if is_deleted || is_old {
                store.remove(&object);
            }
        }
        store.release();
        assert_eq!(sealed.await.unwrap(), end.offset);
        let log = store
            .names()
            .into_iter()
            .filter(|object| object.contains("/log/"));
        let wanted = [seen, base.offset, end.offset].map(name);
        assert_eq!(log.collect::<Vec<_>>(), wanted, "the first is stale");
        let catalog = sample.archive.catalog().await.unwrap();
        let found = sample.archive.log_end(&catalog, id(1)).await.unwrap();
        assert_eq!(found.sealed.unwrap().start, end.offset);
    }
}

#[tokio::test]
async fn a_base_that_appears_before_a_log_is_sealed_does_not_move_the_seal() {
    let sample = sample("7.0.15", &LOG).await;
    let end = 1000 + feed(&LOG).len() as u64;
    let before = sample.store.names();
    sample.base(id(1), end + 500, 0, 9_000).await;
    let of_base = sample.store.names();
    for name in of_base.iter().filter(|name| !before.contains(name)) {
        sample.store.hide(name, 1);
    }
    let archive = &sample.archive;
    let plan = seal(
        archive,
        &mut archive.catalog().await.unwrap(),
        id(1),
        "test",
        "test",
        7,
    )
    .await
    .unwrap();
    // Whoever goes on storing after what is there meets it.
    let met = archive.entry(id(1), end + 1).await.unwrap();
    let is_met = match met {
        Some(crate::log::segment::Entry::Seal(_)) => plan.end.offset == Offset(end),
        Some(crate::log::segment::Entry::Segment(header)) => header.is_gap(),
        None => false,
    };
    assert!(is_met, "{:?} {}", plan.end, plan.notes.join("; "));
}

#[tokio::test]
async fn only_the_sealed_tip_is_offered_under_its_own_id_byte_for_byte() {
    let sample = sample("7.0.15", &LOG).await;
    let end = Offset(1000 + feed(&LOG).len() as u64);
    let plan = seal(
        &sample.archive,
        &mut sample.archive.catalog().await.unwrap(),
        id(1),
        "test",
        "test",
        7,
    )
    .await
    .unwrap();
    assert_eq!(plan.end.offset, end);
    // The seal stands: a second one is no error, and a writer that is still alive finds it.
    seal(
        &sample.archive,
        &mut sample.archive.catalog().await.unwrap(),
        id(1),
        "test",
        "another",
        8,
    )
    .await
    .unwrap();
    let entry = sample
        .archive
        .entry(id(1), end.next_byte())
        .await
        .unwrap()
        .unwrap();
    assert!(matches!(entry, crate::log::segment::Entry::Seal(_)));

    let offered = offer(&sample.archive, &plan, Identity::Continue { id: id(1) })
        .await
        .unwrap();
    assert_eq!((offered.id, offered.offset), (id(1), Offset(1000)));
    assert!(!offered.may_add);
    let (snapshot, log, ends) = replayed(offered).await;
    assert_eq!(snapshot, rdb(3, 2), "the server's own bytes");
    assert_eq!(log, feed(&LOG), "and not one more");
    assert_eq!(ends, Some(end));

    let earlier = sample
        .plan(id(1), RecoveryTarget::Offset(end.0 - 1))
        .await
        .unwrap();
    let error = offer(&sample.archive, &earlier, Identity::Continue { id: id(1) })
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, RestoreError::CannotContinue { .. }),
        "{error}"
    );

    let fork = offer(&sample.archive, &plan, Identity::Fork { id: id(9) })
        .await
        .unwrap();
    assert_eq!(fork.id, id(9));
    let (snapshot, _, ends) = replayed(fork).await;
    assert_eq!(ends, None);
    assert_stripped(&snapshot);

    let old = self::sample("6.2.1", &["EXPIRE a 1", "SET key value"]).await;
    let plan = old.plan(id(1), RecoveryTarget::Latest).await.unwrap();
    let error = offer(&old.archive, &plan, Identity::Continue { id: id(1) })
        .await
        .err()
        .unwrap();
    assert!(error.to_string().contains("relative expiries"), "{error}");
}

/// The snapshot, which has the length that was said, the log, and where that must end.
async fn replayed(offer: Offer) -> (Vec<u8>, Vec<u8>, Option<Offset>) {
    let Payload::Replayed {
        length,
        snapshot,
        log,
        end,
        ..
    } = offer.payload
    else {
        panic!("it is replayed");
    };
    let snapshot: Vec<_> = snapshot.try_collect().await.unwrap();
    let log: Vec<_> = log.try_collect().await.unwrap();
    assert_eq!(snapshot.concat().len() as u64, length);
    (snapshot.concat(), log.concat(), end)
}

#[test]
fn targets_are_read_from_their_text() {
    assert_eq!(
        "aof:/data".parse::<Dest>().unwrap(),
        Dest::Aof("/data".into())
    );
    assert_eq!(
        "a/b.rdb".parse::<Dest>().unwrap(),
        Dest::RdbFile("a/b.rdb".into())
    );
    assert!(matches!(
        "redis://:pw@db:7000".parse::<Dest>().unwrap(),
        Dest::Server(_)
    ));
    assert!(
        !"redis://:pw@db:7000"
            .parse::<Dest>()
            .unwrap()
            .to_string()
            .contains("pw")
    );
    for bad in ["aof:", "dump", "http://x", ""] {
        assert!(bad.parse::<Dest>().is_err(), "{bad}");
    }
}
