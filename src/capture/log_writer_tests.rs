//! The log while its store is away: the clock is the test's, so that minutes take no time.

#![allow(clippy::unwrap_used, clippy::arithmetic_side_effects)]

use tokio::time::timeout;

use super::*;
use crate::resp::encode_command;
use crate::store::MemoryStore;
use crate::store::memory::{Call, Fault};

/// Tries of an outage: with pauses of up to ten seconds, the last tries come many minutes after the first.
const TRIES: usize = 90;

async fn writer(store: &MemoryStore, status: &Status) -> LogWriter {
    let archive = Archive::open_or_create(store.shared(), 0).await.unwrap();
    let boundary = Boundary {
        offset: Offset(100),
        db: 0,
    };
    let history = ReplId::from_random([7; 20]);
    LogWriter::start(
        Tail::new(history, boundary, Offset(100), 0, "w".into()),
        archive,
        CaptureConfig::default(),
        None,
        status.clone(),
        Arc::new(|| 0),
    )
}

fn push(writer: &LogWriter) -> u64 {
    let mut bytes = Vec::new();
    encode_command(&[b"SET", b"key", b"value"], &mut bytes);
    let length = bytes.len() as u64;
    let now = Moment {
        unix_ms: 0,
        instant: Instant::now(),
    };
    writer.push(bytes.into(), now).unwrap();
    length
}

fn log_creates(store: &MemoryStore) -> usize {
    let of_log = |call: &Call| matches!(call, Call::Create(name) if name.contains("/log/"));
    store.calls().iter().filter(|call| of_log(call)).count()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_minutes_loses_nothing_and_acknowledges_nothing() {
    for (fault, ready) in [(Fault::Transient, true), (Fault::Permanent, false)] {
        let store = MemoryStore::new();
        let status = Status::new();
        let writer = writer(&store, &status).await;
        status.phase(crate::status::Phase::Following, "");
        store.fail_creates(TRIES, fault);
        let begun = Instant::now();
        let end = 100 + push(&writer);
        writer.flush();
        // More comes meanwhile.
        assert!(
            timeout(Duration::from_secs(300), writer.drain())
                .await
                .is_err()
        );
        let end = end + push(&writer);
        let view = status.view();
        assert_eq!(view.stored_offset, Some(100), "nothing counts as stored");
        assert!(view.store_error.unwrap().contains("cannot create"));
        assert_eq!(view.ready, ready, "{fault:?}");
        assert!(writer.failing().is_some());

        assert!(writer.drain().await);
        let lasted = begun.elapsed();
        // 90 tries without pauses that grow would take 9 seconds, without a cap for ever.
        assert!(lasted > Duration::from_secs(600), "{lasted:?}");
        assert!(
            lasted < Duration::from_secs(TRIES as u64 * 10),
            "{lasted:?}"
        );
        let view = status.view();
        assert_eq!(view.stored_offset, Some(end));
        assert_eq!((view.store_error, view.ready), (None, true));
        assert_eq!(status.metrics().store_errors.get(), TRIES as u64);
        // What failed, and the two segments at last.
        assert_eq!(log_creates(&store), TRIES + 2);
    }
}
