#![allow(clippy::unwrap_used)]

use super::*;
use crate::position::Boundary;
use crate::restore::testing::{Sample, at, feed, id};
use crate::store::memory::MemoryStore;

fn request() -> Request {
    Request {
        history: None,
        service: None,
        when: When::Latest,
        memory_limit: 1 << 20,
        worth: Worth::AnyLog,
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

async fn consolidated(lines: &[&str]) -> Result<Report, ConsolidateError> {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 3, 0).await;
    sample.log(id(1), at(1000, 3), &feed(lines), &[]).await;
    consolidate(&sample.archive, &request(), &()).await
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
