#![allow(clippy::unwrap_used)]

use super::*;
use crate::restore::testing::{Sample, at, feed, id};

async fn consolidated(lines: &[&str]) -> Result<Report, ConsolidateError> {
    let sample = Sample::new("7.0.15").await;
    sample.history(id(1), None).await;
    sample.base(id(1), 1000, 3, 0).await;
    sample.log(id(1), at(1000, 3), &feed(lines), &[]).await;
    let request = Request {
        history: None,
        service: None,
        when: When::Latest,
        memory_limit: 1 << 20,
        worth: Worth::AnyLog,
        now_unix_ms: 0,
    };
    consolidate(&sample.archive, &request, &()).await
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
