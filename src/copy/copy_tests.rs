//! A copy that ends at any moment is a sound archive, whatever happened at the source meanwhile.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic
)]

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

use super::*;
use crate::archive::{HeldLog, HoldDoc};
use crate::config::{KEEP_SUPERSEDED, KeepPolicy};
use crate::consolidate::merging::{MergeRequest, merge};
use crate::expiry::{Request as ExpireRequest, expire};
use crate::recovery::testing::{Sample, at, feed, id};
use crate::recovery::{BadBases, Plan, RecoveryTarget, plan};
use crate::store::{
    ByteStream, Created, Listing, MemoryStore, ObjectMeta, Store, StoreError, Upload,
};
use crate::verify::{Request as VerifyRequest, verify};
use crate::wire::position::Offset;

const HOUR: i64 = 3_600_000;
/// Bytes of a command.
const UNIT: u64 = 27;

/// After so many objects nothing more is created: the process is dead.
#[derive(Debug)]
struct Cut {
    store: SharedStore,
    left: AtomicUsize,
}

impl Cut {
    fn after(store: &MemoryStore, objects: usize) -> SharedStore {
        Arc::new(Self {
            store: store.shared(),
            left: AtomicUsize::new(objects),
        })
    }

    fn pass(&self) -> Result<(), StoreError> {
        let passed = self
            .left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        passed.map(|_| ()).map_err(|_| StoreError::Permanent {
            what: "cut".to_owned(),
            cause: "off".to_owned(),
        })
    }
}

struct CutUpload(Box<dyn Upload>, bool);

#[async_trait]
impl Upload for CutUpload {
    async fn write(&mut self, chunk: Bytes) -> Result<(), StoreError> {
        self.0.write(chunk).await
    }
    async fn commit(self: Box<Self>) -> Result<(), StoreError> {
        match self.1 {
            true => self.0.commit().await,
            false => Err(StoreError::Permanent {
                what: "cut".to_owned(),
                cause: "off".to_owned(),
            }),
        }
    }
}

#[async_trait]
impl Store for Cut {
    fn url(&self) -> String {
        self.store.url()
    }
    async fn create(&self, name: &str, body: Bytes) -> Result<Created, StoreError> {
        // The check of the target creates nothing.
        let is_there = self.store.read(name, Some(0..0)).await.is_ok();
        if !is_there {
            self.pass()?;
        }
        self.store.create(name, body).await
    }
    async fn upload(&self, name: &str) -> Result<Box<dyn Upload>, StoreError> {
        let passes = self.pass().is_ok();
        Ok(Box::new(CutUpload(self.store.upload(name).await?, passes)))
    }
    async fn read(&self, name: &str, range: Option<Range<u64>>) -> Result<ByteStream, StoreError> {
        self.store.read(name, range).await
    }
    async fn list_with(
        &self,
        wanted: Listing<'_>,
    ) -> BoxStream<'static, Result<ObjectMeta, StoreError>> {
        self.store.list_with(wanted).await
    }
    async fn delete(&self, name: &str) -> Result<(), StoreError> {
        panic!("a copy deletes nothing: {name}");
    }
}

/// Twelve commands, in a segment each, a base before every third one, a seal; and a child with a command, and a base of its own.
async fn sample() -> Sample {
    let sample = Sample::new("7.0.15").await;
    sample.store.set_clock(Some(4000));
    sample.history(id(1), None).await;
    let commands: Vec<String> = (0..12).map(|n| format!("SET a {}", n % 10)).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    for n in [0, 3, 6, 9] {
        let offset = n * UNIT;
        sample.base(id(1), offset, 0, offset as i64 * 10).await;
    }
    let cuts: Vec<u64> = (1..12).map(|n| n * UNIT).collect();
    sample.log(id(1), at(0, 0), &feed(&commands), &cuts).await;
    let end = Offset(12 * UNIT);
    let sealed = sample.archive.seal(id(1), end, "test", "test", 0).await;
    sealed.unwrap();
    let child = sample.doc(id(2), Some((id(1), end.0)));
    sample.archive.create_history(&child).await.unwrap();
    sample
        .log(
            id(2),
            at(end.0, 0),
            &feed(&["SET b 1", "SET b 2"]),
            &[13 * UNIT],
        )
        .await;
    sample.base(id(2), 13 * UNIT, 0, 3510).await;
    sample
}

async fn merged(sample: &Sample, hours: i64, delete: bool) {
    sample.store.set_clock(Some(hours * HOUR));
    let request = MergeRequest {
        history: None,
        merged_to: None,
        limit: u64::MAX,
        dry_run: false,
        delete,
        writer: "test".to_owned(),
    };
    let report = merge(&sample.archive, &request, &()).await.unwrap();
    assert!(report.failure.is_none(), "{report:?}");
}

/// Keeps what is from command 6 on.
async fn expired(sample: &Sample, hours: i64) {
    sample.store.set_clock(Some(hours * HOUR));
    let request = ExpireRequest {
        policy: KeepPolicy {
            points: Duration::from_millis(2000),
            daily: 0,
            weekly: 0,
            monthly: 0,
            superseded: KEEP_SUPERSEDED,
        },
        service: None,
        confirm: true,
        writer: "test".to_owned(),
        now_unix_ms: hours * HOUR,
    };
    expire(&sample.archive, &request, &()).await.unwrap();
}

async fn copy_to(from: &MemoryStore, to: SharedStore) -> (Result<(), CopyError>, Report) {
    let mut report = Report::default();
    let request = Request {
        from: from.shared(),
        to,
        dry_run: false,
        deep: false,
    };
    let copied = async {
        let mut copier = Copier::begin(request).await?;
        copier.round(0, &mut report, &()).await
    };
    let copied = copied.await;
    (copied, report)
}

/// The same objects in another store, by whatever way.
fn duplicate(store: &MemoryStore) -> MemoryStore {
    let other = MemoryStore::new();
    other.set_clock(Some(100 * HOUR));
    for name in store.names() {
        other.put(&name, store.object(&name).unwrap());
    }
    other
}

async fn latest(store: &MemoryStore) -> Option<Plan> {
    let archive = Archive::open(store.shared()).await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    let latest = catalog.latest(None).unwrap()?;
    let planned = plan(
        &archive,
        &catalog,
        latest,
        RecoveryTarget::Latest,
        &BadBases::new(),
    )
    .await;
    Some(planned.unwrap())
}

/// What a copy that ended holds can be restored, and nothing is missing in it.
#[track_caller]
fn told(what: &str, sound: bool) {
    assert!(sound, "{what}");
}

async fn check(store: &MemoryStore, recovery_target: &str) {
    if store.names().is_empty() {
        return;
    }
    let archive = Archive::open(store.shared()).await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    told(
        &format!("{recovery_target}: {:?}", catalog.unreadable),
        catalog.unreadable.is_empty(),
    );
    for history in catalog.histories.values() {
        let damage = history.problems.iter().any(|problem| problem.is_damage());
        told(
            &format!("{recovery_target}: {:?}", history.problems),
            !damage,
        );
    }
    latest(store).await;
    let request = VerifyRequest {
        history: None,
        deep: false,
        now_unix_ms: 0,
    };
    let verified = verify(&archive, request, &()).await.unwrap();
    let names = store.names().join("\n");
    told(
        &format!("{recovery_target}: {verified}\n{names}"),
        verified.sound,
    );
}

/// What can be restored at each point of the source that is promised is the same at the target.
async fn check_points(sample: &Sample, store: &MemoryStore, from: u64) {
    let archive = Archive::open(store.shared()).await.unwrap();
    let catalog = archive.catalog().await.unwrap();
    for (history, units) in [(id(1), from..13), (id(2), 12..15)] {
        for unit in units {
            let recovery_target = RecoveryTarget::Offset(unit * UNIT);
            let ours = sample.plan(history, recovery_target).await.unwrap();
            let theirs = plan(
                &archive,
                &catalog,
                history,
                recovery_target,
                &BadBases::new(),
            )
            .await;
            let theirs = theirs.unwrap();
            assert_eq!(
                (ours.base.position(), ours.end),
                (theirs.base.position(), theirs.end),
                "{unit}"
            );
        }
    }
}

/// Copies with a cut after each object, each time from the same beginning. Then copies the rest, and copies again.
async fn cut_everywhere(sample: &Sample, begun: &MemoryStore, what: &str) -> MemoryStore {
    for cut in 0.. {
        let target = duplicate(begun);
        let (copied, _) = copy_to(&sample.store, Cut::after(&target, cut)).await;
        check(&target, &format!("{what}, cut after {cut}")).await;
        if copied.is_err() {
            let (copied, report) = copy_to(&sample.store, target.shared()).await;
            copied.unwrap();
            assert_eq!(report.damaged_objects, 0, "{report:?}");
            continue;
        }
        assert!(cut > 0 || !begun.names().is_empty());
        let before = target.names();
        let (copied, report) = copy_to(&sample.store, target.shared()).await;
        copied.unwrap();
        assert_eq!(report.total().objects, 0, "{what}: {report:?}");
        assert!(report.copied_to_unix_ms.is_some(), "{report:?}");
        assert_eq!(target.names(), before);
        return target;
    }
    unreachable!()
}

#[tokio::test]
async fn a_copy_that_ends_anywhere_is_sound() {
    let sample = sample().await;
    let target = cut_everywhere(&sample, &MemoryStore::new(), "segments").await;
    assert_eq!(target.names(), sample.store.names());
    check_points(&sample, &target, 0).await;
    merged(&sample, 1, false).await;
    let target = cut_everywhere(&sample, &target, "spans").await;
    assert_eq!(target.names(), sample.store.names());
    check_points(&sample, &target, 0).await;
}

/// The copy is begun, and ended, before the log is merged, segments are deleted, and points expire.
#[tokio::test]
async fn what_is_merged_and_expires_meanwhile_does_no_harm() {
    for begun in [0, 9, 21, 40] {
        let sample = sample().await;
        let early = MemoryStore::new();
        early.set_clock(Some(4000));
        let _ = copy_to(&sample.store, Cut::after(&early, begun)).await;
        merged(&sample, 1, false).await;
        merged(&sample, 4, true).await;
        let target = cut_everywhere(&sample, &early, &format!("{begun}, merged")).await;
        check_points(&sample, &target, 0).await;
        for (hours, what) in [(5, "a floor"), (30, "deleted"), (60, "swept")] {
            expired(&sample, hours).await;
            let target = cut_everywhere(&sample, &early, &format!("{begun}, {what}")).await;
            check_points(&sample, &target, 6).await;
            // What was copied before stays.
            let names = target.names();
            let lost = early.names().into_iter().find(|it| !names.contains(it));
            assert_eq!(lost, None);
        }
        // Nothing of the first half is left at the source.
        let oldest = Name::BaseManifest(Position {
            history: id(1),
            offset: Offset(0),
        });
        assert_eq!(sample.store.object(&oldest.to_string()), None);
    }
}

#[tokio::test]
async fn another_object_of_that_name_is_an_error_and_stays() {
    let sample = sample().await;
    let early = MemoryStore::new();
    copy_to(&sample.store, early.shared()).await.0.unwrap();
    let length = |name: &str| early.object(name).unwrap().len();
    for name in early.names() {
        let is_size_alone = name.ends_with(".zst");
        let target = duplicate(&early);
        let body = match is_size_alone {
            true => vec![0; length(&name) + 1],
            false => b"{}".to_vec(),
        };
        target.remove(&name);
        target.put(&name, body.clone());
        let (copied, _) = copy_to(&sample.store, target.shared()).await;
        let error = copied.unwrap_err().to_string();
        match name == "archive.json" {
            true => told(&error, error.contains("archive.json")),
            false => told(
                &error,
                error.contains(&name) && error.contains("overwritten"),
            ),
        }
        assert_eq!(target.object(&name).unwrap(), body);
    }
}

#[tokio::test]
async fn what_is_damaged_at_the_source_is_told_and_the_rest_is_copied() {
    let sample = sample().await;
    merged(&sample, 1, false).await;
    for name in sample.store.names() {
        let source = duplicate(&sample.store);
        // The last byte of a document is a line feed.
        let at = source.object(&name).unwrap().len() - 2;
        source.corrupt(&name, at, 0x55);
        let target = MemoryStore::new();
        let (copied, report) = copy_to(&source, target.shared()).await;
        if name == "archive.json" {
            copied.unwrap_err();
            continue;
        }
        copied.unwrap();
        assert_eq!(report.copied_to_unix_ms, None, "{name}: {report:?}");
        let damaged = report.damaged.iter().any(|it| it.object == name);
        assert!(damaged, "{name}: {report:?}");
        assert_eq!(target.object(&name), None);
        // Of a base without a manifest, or a history without its document, there is nothing to copy.
        let missing = sample.store.names().len() - target.names().len();
        let most = if name.ends_with("history.json") {
            40
        } else {
            3
        };
        assert!(missing <= most, "{name}: {missing} are missing");
        // When it is mended, it is copied.
        let mended = duplicate(&sample.store);
        copy_to(&mended, target.shared()).await.0.unwrap();
        assert_eq!(target.names(), sample.store.names());
        check(&target, &name).await;
    }
}

/// The span has had them for hours: whoever would write there anew is in doubt ([`crate::archive::Fence`]).
#[tokio::test]
async fn segments_in_old_spans_are_not_copied_and_needed_if_the_span_is_damaged() {
    let sample = sample().await;
    merged(&sample, 1, false).await;
    sample.store.set_clock(Some(4 * HOUR));
    // A span that is younger tells that time has passed.
    sample
        .log(
            id(2),
            at(14 * UNIT, 0),
            &feed(&["SET b 3", "SET b 4"]),
            &[15 * UNIT],
        )
        .await;
    let source = duplicate(&sample.store);
    drop(source);
    let spans: Vec<String> = sample.store.names();
    let spans = spans.into_iter().filter(|name| name.contains("/span/"));
    let first = spans.min().unwrap();
    let target = MemoryStore::new();
    let (copied, report) = copy_to(&sample.store, target.shared()).await;
    copied.unwrap();
    // All spans have the same age: none is old, as far as is known.
    assert_eq!(report.in_spans, 0, "{report:?}");
    let body = sample.store.object(&first).unwrap();
    sample.store.remove(&first);
    sample.store.set_clock(Some(HOUR));
    let put = sample.store.shared().create(&first, body).await;
    put.unwrap();
    let late = Name::Span {
        history: id(1),
        first_byte: 12 * UNIT + 1,
        last_byte: 13 * UNIT,
    };
    sample.store.set_clock(Some(9 * HOUR));
    let put = sample.store.shared();
    put.create(&late.to_string(), Bytes::from_static(b"no span"))
        .await
        .unwrap();
    let target = MemoryStore::new();
    let (copied, report) = copy_to(&sample.store, target.shared()).await;
    copied.unwrap();
    assert!(report.in_spans > 3, "{report:?}");
    assert_eq!(report.damaged_objects, 1, "{report:?}");
    assert_eq!(report.damaged[0].object, late.to_string());
    // The damage of a span brings its segments.
    sample.store.corrupt(&first, 400, 0xFF);
    let target = MemoryStore::new();
    let (copied, second) = copy_to(&sample.store, target.shared()).await;
    copied.unwrap();
    assert_eq!(second.damaged_objects, 2, "{second:?}");
    assert!(second.in_spans < report.in_spans, "{second:?}");
    check(&target, "with a damaged span").await;
}

#[tokio::test]
async fn what_a_sleeper_left_is_not_copied() {
    let sample = sample().await;
    let target = MemoryStore::new();
    copy_to(&sample.store, target.shared()).await.0.unwrap();
    for hours in [1, 30] {
        expired(&sample, hours).await;
    }
    // It takes a name that was deleted, and reaches into the log.
    let stale = feed(&["SET z 1", "SET z 2", "SET z 3"]);
    let first = 5 * UNIT;
    sample.log(id(1), at(first, 0), &stale, &[]).await;
    let (copied, report) = copy_to(&sample.store, target.shared()).await;
    copied.unwrap();
    assert_eq!(report.stale, 1, "{report:?}");
    let fresh = MemoryStore::new();
    let (copied, report) = copy_to(&sample.store, fresh.shared()).await;
    copied.unwrap();
    assert_eq!(report.stale, 1, "{report:?}");
    check(&fresh, "a sleeper").await;
    check_points(&sample, &fresh, 6).await;
}

#[tokio::test]
async fn a_hold_is_copied_with_what_it_holds() {
    let sample = sample().await;
    let hold = |name: &str, base: u64| HoldDoc {
        format: 1,
        name: name.parse().unwrap(),
        point: Position {
            history: id(1),
            offset: Offset(base),
        },
        as_of_unix_ms: None,
        base: Position {
            history: id(1),
            offset: Offset(base),
        },
        digest: None,
        log: Vec::<HeldLog>::new(),
        writer: "test".to_owned(),
        created_unix_ms: 0,
    };
    sample
        .archive
        .create_hold(&hold("there", 3 * UNIT))
        .await
        .unwrap();
    sample.archive.create_hold(&hold("gone", 77)).await.unwrap();
    let target = MemoryStore::new();
    let (copied, report) = copy_to(&sample.store, target.shared()).await;
    copied.unwrap();
    assert!(target.object("holds/there.json").is_some());
    assert!(target.object("holds/gone.json").is_none());
    assert!(report.notes[0].contains("holds/gone.json"), "{report:?}");
    assert_eq!(report.copied_to_unix_ms, None);
}

/// A copier that goes on lists what is new, and no more.
#[tokio::test]
async fn who_follows_asks_little() {
    let sample = sample().await;
    let target = MemoryStore::new();
    let mut copier = Copier::begin(Request {
        from: sample.store.shared(),
        to: target.shared(),
        dry_run: false,
        deep: false,
    })
    .await
    .unwrap();
    let mut report = Report::default();
    for _ in 0..3 {
        copier.round(0, &mut report, &()).await.unwrap();
    }
    let before = sample.store.calls().len();
    sample
        .log(
            id(2),
            at(14 * UNIT, 0),
            &feed(&["SET b 3", "SET b 4"]),
            &[15 * UNIT],
        )
        .await;
    let written = sample.store.calls().len() - before;
    copier.round(7, &mut report, &()).await.unwrap();
    assert_eq!(report.total().objects, 2, "{report:?}");
    assert_eq!(report.copied_to_unix_ms, Some(7));
    let asked = sample.store.calls().len() - before - written;
    assert!(asked <= 14, "{asked}: {:?}", sample.store.calls());
    // A new history is found, and the end of the one before.
    sample.history(id(3), Some((id(2), 16 * UNIT))).await;
    sample
        .log(id(3), at(16 * UNIT, 0), &feed(&["SET c 1"]), &[])
        .await;
    copier.round(8, &mut report, &()).await.unwrap();
    assert_eq!(report.total().objects, 2, "{report:?}");
    assert_eq!(target.names(), sample.store.names());
}

#[tokio::test]
async fn nothing_is_created_by_a_dry_run() {
    let sample = sample().await;
    let target = MemoryStore::new();
    let mut report = Report::default();
    let mut copier = Copier::begin(Request {
        from: sample.store.shared(),
        to: target.shared(),
        dry_run: true,
        deep: false,
    })
    .await
    .unwrap();
    copier.round(0, &mut report, &()).await.unwrap();
    assert_eq!(target.names(), Vec::<String>::new());
    // All but archive.json.
    assert_eq!(
        report.total().objects as usize,
        sample.store.names().len() - 1,
        "{report:?}"
    );
}
