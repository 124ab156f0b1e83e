//! The program on Google Cloud Storage (an emulator), whose requests meet faults.

use serde_json::Value;

use crate::support::{Backfeed, Env, Fault, Gcs, Server, Version, list_with, run_with, wait_until};

const STORE: &str = "gs://bucket/some/prefix";

fn env(gcs: &Gcs) -> Env {
    vec![("STORAGE_EMULATOR_HOST", gcs.host())]
}

fn backup(gcs: &Gcs, redis: &Server) -> Backfeed {
    let args = ["backup", "--redis", &redis.url(), "--store", STORE];
    Backfeed::start_with(env(gcs), &args)
}

fn set_and_wait(redis: &Server, key: &str, millis: u32) -> u32 {
    let mut connection = redis.connect();
    let set = redis::cmd("SET").arg(key).arg("value").to_owned();
    set.exec(&mut connection).unwrap();
    let wait = redis::cmd("WAIT").arg(1).arg(millis).to_owned();
    wait.query(&mut connection).unwrap()
}

fn check_restore(gcs: &Gcs, redis: &Server) {
    let copy = Server::start(redis.version(), &[]);
    let args = ["restore", "--store", STORE, "--to", &copy.url()];
    let output = run_with(&env(gcs), &args);
    assert_eq!(output.code, 0, "{output:?}");
    assert_eq!(copy.debug_digest(), redis.debug_digest());
}

/// More than fits into some parts, and does not compress.
fn fill(redis: &Server, megabytes: u64) {
    let mut rng = crate::support::Rng::new(7);
    let mut connection = redis.connect();
    for n in 0..megabytes {
        let noise: Vec<u8> = (0..125_000)
            .flat_map(|_| rng.next().to_le_bytes())
            .collect();
        let set = redis::cmd("SET").arg(n).arg(noise).to_owned();
        set.exec(&mut connection).unwrap();
    }
}

#[test]
fn a_permission_that_is_missing_is_told_once_and_until_it_is_given() {
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    let backfeed = backup(&gcs, &redis);
    backfeed.wait_captured(&redis);
    assert_eq!(set_and_wait(&redis, "before", 20_000), 1);
    gcs.fault("POST", "/upload/", usize::MAX, Fault::Status(403, None));
    assert_eq!(set_and_wait(&redis, "meanwhile", 100), 0);
    backfeed.wait("it is told", |view| {
        let told = view["store_error"].as_str().unwrap_or_default();
        told.contains("storage.objects.create") && told.contains("gs://bucket/some/prefix/")
    });
    assert_eq!(backfeed.get("/readyz").unwrap().0, 503);
    assert_eq!(backfeed.metric("backfeed_store_failing"), 1.0);
    wait_until("it tries again", std::time::Duration::from_secs(30), || {
        backfeed.metric("backfeed_store_errors_total") > 3.0
    });
    assert_eq!(backfeed.log().matches("storage.objects.create").count(), 1);
    gcs.heal();
    assert_eq!(set_and_wait(&redis, "after", 30_000), 1);
    backfeed.wait("it is over", |view| view["store_error"] == Value::Null);
    assert_eq!(backfeed.get("/readyz").unwrap().0, 200);
    check_restore(&gcs, &redis);
}

#[test]
fn a_snapshot_goes_up_in_parts_through_an_outage() {
    let mut gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    fill(&redis, 60);
    // An answer is lost, then the store dies for a while, and cuts what comes meanwhile.
    gcs.fault("POST", "/upload/", 1, Fault::Lost(503));
    let backfeed = backup(&gcs, &redis);
    let parts = |gcs: &Gcs| {
        gcs.requests()
            .iter()
            .filter(|it| it.contains(".parts"))
            .count()
    };
    wait_until(
        "some parts are sent",
        std::time::Duration::from_secs(60),
        || parts(&gcs) >= 3,
    );
    gcs.kill();
    gcs.fault("POST", "/upload/", 2, Fault::CutRequest);
    wait_until("it tries again", std::time::Duration::from_secs(60), || {
        gcs.pending() == 0
    });
    gcs.restart();
    backfeed.wait_captured(&redis);
    assert_eq!(redis.info("stats")["sync_full"], "1", "{}", backfeed.log());
    assert_eq!(set_and_wait(&redis, "after", 30_000), 1);
    check_restore(&gcs, &redis);
    let listing = list_with(&env(&gcs), STORE);
    assert_eq!(listing["problems"], serde_json::json!([]), "{listing:#}");
}

#[test]
fn what_cannot_work_ends_with_what_to_do() {
    let gcs = Gcs::start("bucket");
    let redis = Server::start(Version::Redis70, &[]);
    let once = |store: &str| {
        let args = [
            "backup",
            "--once",
            "--redis",
            &redis.url(),
            "--store",
            store,
        ];
        let output = run_with(&env(&gcs), &args);
        assert_eq!(output.code, 3, "{output:?}");
        output.stderr
    };
    let told = once("gs://no-such-bucket/x");
    assert!(told.contains("Does the bucket exist?"), "{told}");
    let told = once("gs://BUCKET/x");
    assert!(told.contains("write gs://BUCKET or"), "{told}");
    gcs.fault("GET", "/o?", 1, Fault::Status(403, None));
    let told = once(STORE);
    assert!(told.contains("storage.objects.list"), "{told}");
    gcs.fault("GET", "/o", 1, Fault::Status(401, None));
    let told = once(STORE);
    assert!(told.contains("credentials are not accepted"), "{told}");
}
