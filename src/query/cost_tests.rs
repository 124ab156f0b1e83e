#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects
)]

use super::prices::Usd;
use super::*;
use crate::recovery::testing::{Sample, at, feed, id};

const DAY_MS: i64 = 24 * 3600 * 1000;

fn amount(objects: u64, bytes: u64) -> Amount {
    Amount { objects, bytes }
}

/// One write a second for a day, and a base of 100 MiB each hour: what the documents say of it.
#[test]
fn a_write_a_second_costs_what_the_documents_say() {
    let log = amount(86_400, 86_400 * 300);
    let bases = amount(24, 24 * (100 << 20));
    let rate = Rate {
        from_unix_ms: 0,
        to_unix_ms: DAY_MS,
        log,
        bases,
        log_a_month: a_month(log, DAY_MS),
        bases_a_month: a_month(bases, DAY_MS),
    };
    assert_eq!(rate.log_a_month, amount(2_592_000, 2_592_000 * 300));
    assert_eq!(rate.bases_a_month, amount(720, 720 * (100 << 20)));
    let bill = PRICES[0].bill(50 << 30, Some(&rate));
    assert_eq!(bill.storage_usd.to_string(), "$1.00");
    // 2,592,000 segments, and 720 times 25 parts, their join and a manifest.
    let requests: u128 = 2_592_000 + 720 * 27;
    assert_eq!(bill.creates_usd, Some(Usd(requests * 5)));
    assert_eq!(bill.creates_usd.unwrap().to_string(), "$13.06");
    assert_eq!(bill.growth_usd.unwrap().to_string(), "$1.42");
    let unknown = PRICES[0].bill(0, None);
    assert_eq!(unknown.storage_usd, Usd(0));
    assert_eq!((unknown.growth_usd, unknown.creates_usd), (None, None));
}

#[test]
fn money_is_rounded_to_cents_and_never_to_nothing() {
    let shown = |millionths| Usd(millionths).to_string();
    assert_eq!(shown(0), "$0.00");
    assert_eq!(shown(1), "< $0.01");
    assert_eq!(shown(5_000), "$0.01");
    assert_eq!(shown(12_960_000), "$12.96");
    assert_eq!(shown(1_000_004_999), "$1000.00");
    assert_eq!(serde_json::to_string(&Usd(12_500)).unwrap(), "0.0125");
}

#[test]
fn a_base_of_one_part_is_two_requests() {
    let one = |bytes| {
        let bases = amount(1, bytes);
        let rate = Rate {
            from_unix_ms: 0,
            to_unix_ms: 1,
            log: Amount::default(),
            bases,
            log_a_month: Amount::default(),
            bases_a_month: bases,
        };
        PRICES[1].bill(0, Some(&rate)).creates_usd.unwrap()
    };
    assert_eq!(one(0), Usd(10));
    assert_eq!(one(8 << 20), Usd(10));
    assert_eq!(one((8 << 20) + 1), Usd(20));
}

/// 12 commands of 1 MB that came within 33 hours, one a segment; a seal behind them; and another history that ended long before.
#[tokio::test]
async fn the_rate_is_that_of_the_last_day() {
    let sample = Sample::new("7.0.15").await;
    let value = "v".repeat(1_000_000);
    let command = feed(&[&format!("SET k {value}")]);
    let length = command.len() as u64;
    let cuts: Vec<u64> = (1..12).map(|n| n * length).collect();
    sample.history(id(1), None).await;
    let first = sample.base(id(1), 0, 0, 0).await;
    let end = sample
        .log(id(1), at(0, 0), &command.repeat(12), &cuts)
        .await;
    let later = sample.base(id(1), 8 * length, 0, 0).await;
    let sealed = sample.archive.seal(id(1), end.offset, "test", "test", 0);
    sealed.await.unwrap();
    sample.history(id(2), None).await;
    sample.log(id(2), at(0, 0), &feed(&["SET a 1"]), &[]).await;

    let cost = Cost::of(&sample.archive).await.unwrap();
    assert_eq!(
        cost.kinds.bases,
        amount(2, first.stored_bytes + later.stored_bytes)
    );
    assert_eq!(cost.kinds.log.objects, 14);
    // archive.json, two history.json, two manifests.
    assert_eq!(cost.kinds.documents.objects, 5);
    assert_eq!(cost.kinds.other, amount(0, 0));
    assert_eq!(cost.total.objects, 21);
    let rate = cost.rate.unwrap();
    // Byte n came at n times 10 ms.
    let last_ms = i64::try_from(12 * length * 10).unwrap();
    assert_eq!(
        (rate.from_unix_ms, rate.to_unix_ms),
        (last_ms - DAY_MS, last_ms)
    );
    // 8.64 MB came in a day: eight segments and the end of a ninth, and the seal.
    assert_eq!(rate.log.objects, 10);
    assert_eq!(rate.bases, amount(1, later.stored_bytes));
    assert_eq!(rate.log_a_month.objects, 300);
    assert_eq!(rate.bases_a_month, amount(30, 30 * later.stored_bytes));

    // Merged log is stored as well. Here each segment is a span of its own.
    let mut runs = sample.archive.runs(id(1), None).await.unwrap();
    while let Some(run) = runs.next().await.unwrap() {
        sample.archive.merge(&run, "test").await.unwrap();
    }
    let merged = Cost::of(&sample.archive).await.unwrap().rate.unwrap();
    assert_eq!(merged.log.objects, 10 + 9);
    assert!(merged.log.bytes > rate.log.bytes * 19 / 10, "{merged:?}");
    assert_eq!(merged.bases, rate.bases);
}

#[tokio::test]
async fn a_log_of_less_than_a_minute_tells_no_rate() {
    let sample = Sample::new("7.0.15").await;
    let bytes = feed(&[&format!("SET k {}", "v".repeat(5900))]);
    sample.history(id(1), None).await;
    sample.base(id(1), 0, 0, 0).await;
    assert_eq!(Cost::of(&sample.archive).await.unwrap().rate, None);
    let end = sample.log(id(1), at(0, 0), &bytes, &[]).await;
    let cost = Cost::of(&sample.archive).await.unwrap();
    assert_eq!((cost.kinds.log.objects, cost.rate), (1, None));
    let next = feed(&["SET key value-of-a-hundred-bytes"; 2]);
    let more = sample.log(id(1), end, &next, &[]).await;
    let rate = Cost::of(&sample.archive).await.unwrap().rate.unwrap();
    let to_unix_ms = i64::try_from(more.offset.0).unwrap() * 10;
    assert_eq!((rate.from_unix_ms, rate.to_unix_ms), (10, to_unix_ms));
    assert_eq!(rate.log.objects, 2);
    sample
        .store
        .fail_reads(100, crate::store::memory::Fault::Transient);
    assert!(Cost::of(&sample.archive).await.is_err());
}
