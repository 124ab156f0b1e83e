#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]

use super::*;
use crate::log::segment::{Entry, SegmentMeta, encode};
use crate::recovery::testing::{Sample, at, feed, id};
use crate::store::memory::Call;
use crate::wire::position::ReplId;
use crate::wire::rdb::samples;

fn position(history: ReplId, offset: u64) -> Position {
    Position {
        history,
        offset: Offset(offset),
    }
}

/// The database of a base, and of the point where it stands.
const DB: u32 = 0;

/// A segment by another writer.
async fn append(
    archive: &Archive,
    history: ReplId,
    from: Boundary,
    bytes: &[u8],
) -> Result<(), AppendError> {
    let end = from.offset.plus(bytes.len() as u64);
    let meta = SegmentMeta {
        clock_back: None,
        history,
        start: from.offset,
        end,
        db_at_start: from.db,
        starts_at_boundary: true,
        boundary: Some(Boundary {
            offset: end,
            ..from
        }),
        marks: Vec::new(),
        writer: "other".into(),
    };
    let (header, body) = encode(meta, &[bytes.to_vec().into()], 1).unwrap();
    archive.put(&header, body).await
}

#[tokio::test]
async fn a_writer_that_a_full_sync_has_passed_by_meets_the_bridge_to_it() {
    let sample = Sample::new("7.0.15").await;
    let (id, archive) = (id(1), &sample.archive);
    sample.history(id, None).await;
    let first = sample.base(id, 0, DB, 0).await;
    let joined = |stored, last_mark_ms| Joined {
        stored,
        last_mark_ms,
    };
    let of_first = join_log(archive, &first, "w").await.unwrap();
    assert_eq!(of_first, joined(Offset(0), None));
    let log = feed(&["SET a 1"]);
    let end = sample.log(id, at(0, DB), &log, &[]).await;
    // In the sample, byte n is received at n * 10 ms.
    let last_mark_ms = i64::try_from(end.offset.0 * 10).ok();
    // Within what is stored, the log goes on where it ends.
    let within = sample.base(id, 10, DB, 0).await;
    let of_within = join_log(archive, &within, "w").await.unwrap();
    assert_eq!(of_within, joined(end.offset, last_mark_ms));
    let beyond = sample.base(id, 50, DB, 0).await;
    let of_beyond = join_log(archive, &beyond, "w").await.unwrap();
    assert_eq!(of_beyond, joined(Offset(50), last_mark_ms));
    let Err(AppendError::Taken(entry)) = append(archive, id, end, &log).await else {
        panic!("two logs: {:?}", sample.store.names());
    };
    let Entry::Segment(bridge) = *entry else {
        panic!("{entry:?}");
    };
    assert!(
        bridge.is_gap() && bridge.meta.end == Offset(50),
        "{bridge:?}"
    );
    sample.log(id, at(50, DB), &log, &[]).await;
}

#[tokio::test]
async fn the_manifest_comes_after_all_that_it_stands_on() {
    let sample = Sample::new("7.0.15").await;
    let (old, new) = (id(1), id(2));
    sample.history(old, None).await;
    sample.base(old, 0, DB, 0).await;
    let end = sample.log(old, at(0, DB), &feed(&["SET a 1"]), &[]).await;
    let rdb = samples::rdb("REDIS0010", &[]);
    let archive = &sample.archive;
    let received = Received::of(archive, position(new, 7), &rdb).await;
    let commit = Commit {
        archive: archive.clone(),
        writer: "w".into(),
        now_unix_ms: 0,
        received: received.unwrap(),
        old: None,
        before: vec![Previous {
            at: position(old, end.offset.0),
            end: end.offset,
            own: true,
            lineage: vec![old],
        }],
        doc: sample.doc(new, None),
        is_sole: false,
        is_first: false,
    };
    let (_, goes_on) = commit.run().await.unwrap();
    assert_eq!(goes_on.stored, Offset(7));
    let calls = sample.store.calls();
    let order: Vec<Option<usize>> = [
        format!("{new}/base/{:020}.rdb.zst", 7),
        format!("{old}/log/{:020}.resp.zst", end.offset.next_byte()),
        format!("{new}/history.json"),
        format!("{new}/base/{:020}.json", 7),
    ]
    .iter()
    .map(|end| {
        calls.iter().position(|call| {
            let (Call::Create(name) | Call::Commit(name)) = call else {
                return false;
            };
            name.ends_with(end)
        })
    })
    .collect();
    assert!(
        order.iter().all(Option::is_some) && order.is_sorted(),
        "{order:?} {calls:?}"
    );
}

#[tokio::test]
async fn of_two_snapshots_without_a_log_the_earlier_one_is_bridged_to_the_later_one() {
    let sample = Sample::new("7.0.15").await;
    let (id, archive) = (id(1), &sample.archive);
    sample.history(id, None).await;
    let earlier = sample.base(id, 100, DB, 0).await;
    let later = sample.base(id, 500, DB, 0).await;
    // Both writers go on behind the later one, and meet before it.
    for (base, writer) in [(&earlier, "one"), (&later, "other"), (&earlier, "one")] {
        let goes_on = join_log(archive, base, writer).await.unwrap();
        assert_eq!(goes_on.stored, Offset(500), "{writer}");
        match archive.entry(id, 101).await.unwrap() {
            Some(Entry::Segment(header)) => {
                assert!(header.is_gap());
                assert_eq!(
                    (header.meta.end, header.meta.writer),
                    (Offset(500), "one".into())
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
