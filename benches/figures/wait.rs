//! `WAIT 1` after a write against one object write on that store, by the same code, in turn.

use backfeed::store;
use bytes::Bytes;

use super::*;
use support::Backfeed;

const WAITS: usize = 500;

pub fn run(redis: &Server, place: &Place) {
    let store = place.url("wait");
    let args = [
        "backup",
        "--redis",
        &redis.url(),
        "--store",
        &store,
        "--flush-interval",
        "60s",
    ];
    let backfeed = Backfeed::start_with(place.env(), &args);
    backfeed.wait_following();
    let (mut waits, mut writes) = (Vec::new(), Vec::new());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reference = match &place.gcs {
        Some(gcs) => runtime
            .block_on(store::GcsStore::open_at(
                &place.url("one"),
                &backfeed::config::GcsOptions::default(),
                Some(gcs.direct_host()),
            ))
            .map(|store| std::sync::Arc::new(store) as store::SharedStore),
        None => runtime.block_on(store::open(&place.url("one"))),
    }
    .unwrap();
    let mut connection = redis.connect();
    for n in 0..WAITS {
        let set = redis::cmd("SET").arg("waited").arg(n).to_owned();
        set.exec(&mut connection).unwrap();
        let begun = Instant::now();
        let wait = redis::cmd("WAIT").arg(1).arg(10_000).to_owned();
        let replicas: u32 = wait.query(&mut connection).unwrap();
        waits.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(replicas, 1);
        let begun = Instant::now();
        let body = Bytes::from_static(&[b'x'; 400]);
        runtime
            .block_on(reference.create(&format!("object-{n}"), body))
            .unwrap();
        writes.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let (wait, write) = (middle(&mut waits), middle(&mut writes));
    println!("WAIT 1 on {} (medians of {WAITS})", place.name);
    println!(
        "  WAIT {wait:.2} ms, one object written {write:.2} ms, ratio {:.2}\n",
        wait / write
    );
}
