//! `WAIT 1` after a write against one object write on that store, by the same code, and against `WAIT 1` with a replica that stores
//! nothing, in turn.

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
    let other = super::redis();
    let _replica = Server::builder(Version::Redis70)
        .replicaof("127.0.0.1", other.port())
        .start();
    let (mut waits, mut writes, mut replica_waits) = (Vec::new(), Vec::new(), Vec::new());
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
    let (mut connection, mut other_connection) = (redis.connect(), other.connect());
    for n in 0..WAITS {
        waits.push(wait_after_write(&mut connection));
        replica_waits.push(wait_after_write(&mut other_connection));
        let begun = Instant::now();
        let body = Bytes::from_static(&[b'x'; 400]);
        runtime
            .block_on(reference.create(&format!("object-{n}"), body))
            .unwrap();
        writes.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let (wait, write) = (middle(&mut waits), middle(&mut writes));
    let replica = middle(&mut replica_waits);
    println!("WAIT 1 on {} (medians of {WAITS})", place.name);
    println!(
        "  WAIT {wait:.2} ms, one object written {write:.2} ms, ratio {:.2}",
        wait / write
    );
    println!(
        "  WAIT of a replica that stores nothing {replica:.2} ms: ratio to both together {:.2}\n",
        wait / (write + replica)
    );
}

/// Milliseconds that `WAIT 1` takes after a write.
fn wait_after_write(connection: &mut redis::Connection) -> f64 {
    let set = redis::cmd("SET").arg("waited").arg(1).to_owned();
    set.exec(connection).unwrap();
    let begun = Instant::now();
    let wait = redis::cmd("WAIT").arg(1).arg(10_000).to_owned();
    let replicas: u32 = wait.query(connection).unwrap();
    assert_eq!(replicas, 1);
    begun.elapsed().as_secs_f64() * 1e3
}
